package gateway

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/wire"
)

// This file is what becomes of a subscription to a resource after the call that
// made it. The call goes along the path as reading the resource does, and so is
// judged every piece of news: it reaches a client that may read the resource now,
// and what it says is an address and nothing else.

const (
	// maxPlace bounds the subscriptions of one session or stream, maxRunSubscriptions
	// those of one run, maxSubscriptions all.
	maxPlace            = 64
	maxRunSubscriptions = 256
	maxSubscriptions    = 4096
	// maxDue bounds the addresses below one resource that wait to be told; beyond it
	// the resource itself is told.
	maxDue = 16
	// tellEvery bounds how often one subscription is told: what comes meanwhile is told
	// together. lookAgain is how often it is judged when nothing comes.
	tellEvery = 100 * time.Millisecond
	lookAgain = 20 * time.Second
	judgeTime = 5 * time.Second
)

// Watching is what a request for news of a resource asks for. None of its functions
// waits for anything but May.
type Watching struct {
	// Updated is called with the address that the upstream says has changed, or with
	// the resource's own if news may have been missed.
	Updated func(uri string)
	// May is asked before the upstream is asked again because a session or a stream was
	// lost. If not, there is no more news.
	May func(ctx context.Context) bool
	// Lost is called when there will be no more news, though nobody has called End.
	Lost func()
}

// Watch is what a backend keeps for a subscription.
type Watch interface {
	// End ends it; it may be called again, and does not wait.
	End()
}

// Covers reports whether news of one address are news for who asked for another:
// they are equal, or the one lies below the other.
func Covers(asked, told string) bool {
	rest, ok := strings.CutPrefix(told, asked)
	return ok && (rest == "" || strings.HasSuffix(asked, "/") || strings.ContainsRune("/?#", rune(rest[0])))
}

// Listener is a client of the stateless era that keeps a stream open for news. Its
// functions must not block.
type Listener struct {
	// Updated passes on that a resource has changed.
	Updated func(uri string)
	// Changed passes on that a list which the client may see has changed; method is
	// that of the notification. Nil: it does not want to know.
	Changed func(method string)
	// Ended is called when a subscription has ended and the client should ask again.
	Ended func()
}

// Listen subscribes a client to resources, each by a call of its own along the
// path, and returns those that it will be told of. x is the client's own request,
// and the listener is to be ended with [Gateway.EndListener].
func (g *Gateway) Listen(ctx context.Context, x *Exchange, uris []string, l *Listener) []string {
	if l.Changed != nil {
		g.follows.listen(ctx, g, x, l)
	}
	agreed := make([]bool, len(uris))
	room := make(chan struct{}, 8)
	var wait sync.WaitGroup
	for i, uri := range uris {
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			params := append(wire.AppendString([]byte(`{"notifications":{"resourceSubscriptions":[`), uri), `]}`...)
			if meta := x.Message.Meta.Of(x.Message.Raw); len(meta) > 0 {
				params = append(append(params, `,"_meta":`...), meta...)
			}
			m, err := wire.Scan(wire.AppendRequest(nil, x.Message.ID.Of(x.Message.Raw), x.Message.Method, append(params, '}')), wire.Limits{})
			if err != nil {
				return
			}
			m.Name = uri
			one := &Exchange{Credential: x.Credential, Era: x.Era, Kind: sallyport.KindResource, Message: m, listener: l}
			r := g.Call(ctx, one)
			agreed[i] = r.Result != nil && one.sub.goesOn()
		})
	}
	wait.Wait()
	var all []string
	for i, uri := range uris {
		if agreed[i] {
			all = append(all, uri)
		}
	}
	return all
}

// EndListener ends what a listener has been subscribed to.
func (g *Gateway) EndListener(l *Listener) {
	g.follows.end(l)
	g.subs.end(func(s *subscription) bool { return s.listener == l })
}

// subscriptions are all that go on.
type subscriptions struct {
	mu  sync.Mutex
	all map[*subscription]struct{}
}

// subscription is what one client is told of one resource until it ends.
type subscription struct {
	g          *Gateway
	credential string
	era        wire.Era
	session    *Session  // nil for a listener
	listener   *Listener // nil in a session
	key        sallyport.KeyID
	run        *Run
	target     sallyport.Target
	identity   sallyport.Digest // of the upstream
	uri        string

	wake chan struct{} // holds a token while there is something to do
	over chan struct{} // closed when it has ended

	mu     sync.Mutex
	begun  bool // its call has been answered
	ended  bool
	lost   bool
	watch  Watch
	config sallyport.Digest // of the stage, when it was judged last
	due    []string         // addresses that are to be told
}

// enter makes a subscription that counts and is not told anything yet.
func (all *subscriptions) enter(g *Gateway, x *Exchange) (*subscription, error) {
	s := &subscription{
		g: g, credential: x.Credential, era: x.Era, session: x.Session, listener: x.listener, key: x.Identity.Key, run: x.Run,
		target: x.Target, identity: x.Upstream.Identity, uri: x.Message.Name, config: x.Plan.Config.ID,
		wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
	if s.session == nil && s.listener == nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, "there is nobody who could be told", "")
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	place, run := 0, 0
	for other := range all.all {
		if other.session == s.session && other.listener == s.listener {
			place++
		}
		if other.target.Run == s.target.Run {
			run++
		}
	}
	if place >= maxPlace || run >= maxRunSubscriptions || len(all.all) >= maxSubscriptions {
		return nil, sallyport.Refuse(sallyport.TooBusy, "there are too many subscriptions", "end some that are no longer needed")
	}
	if all.all == nil {
		all.all = map[*subscription]struct{}{}
	}
	all.all[s] = struct{}{}
	return s, nil
}

// end ends those that are meant.
func (all *subscriptions) end(meant func(*subscription) bool) {
	all.mu.Lock()
	var found []*subscription
	for s := range all.all {
		if meant(s) {
			found = append(found, s)
		}
	}
	all.mu.Unlock()
	for _, s := range found {
		s.end()
	}
}

// stop ends what a new state halts or runs no more, at once, and has the rest
// judged again if what it is judged by has changed.
func (all *subscriptions) stop(state *State) {
	all.end(func(s *subscription) bool {
		if state.Halted(&s.target) != nil || state.Pointers[Pointer{s.target.Agent, s.target.Stage}] != s.target.Release {
			return true
		}
		s.mu.Lock()
		if state.Configs[s.target.Stage] != s.config {
			s.wakeUp()
		}
		s.mu.Unlock()
		return false
	})
}

// begin lets a subscription be told, now that the call which made it has been
// recorded, or ends what the call did not make. Who asks for no more news gets none,
// whatever became of the asking.
func (g *Gateway) begin(x *Exchange, reply *Reply) {
	if x.Message.Method == wire.MethodResourcesUnsubscribe && x.Session != nil && x.Identity != nil {
		g.subs.end(func(s *subscription) bool { return s.session == x.Session && s.uri == x.Message.Name })
	}
	s := x.sub
	if s == nil {
		return
	}
	if x.Response != nil && x.Response.Watch != nil {
		s.hold(x.Response.Watch)
	}
	if reply.Result == nil || x.Response.Watch == nil {
		s.end()
		return
	}
	if s.session != nil { // asked for twice is told once
		g.subs.end(func(other *subscription) bool {
			return other != s && other.session == s.session && other.uri == s.uri
		})
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	go s.tell()
	if g.state.Load().Halted(&s.target) != nil || s.session != nil && s.session.closed.Load() { // it came before they could find it
		s.end()
	}
}

func (s *subscription) hold(w Watch) {
	s.mu.Lock()
	s.watch = w
	ended := s.ended
	s.mu.Unlock()
	if ended {
		w.End()
	}
}

// end ends the subscription: when it returns nothing is told any more.
func (s *subscription) end() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	w, begun := s.watch, s.begun
	close(s.over)
	s.mu.Unlock()
	s.g.subs.mu.Lock()
	delete(s.g.subs.all, s)
	s.g.subs.mu.Unlock()
	if w != nil {
		w.End()
	}
	if s.listener != nil && begun {
		s.listener.Ended()
	}
}

func (s *subscription) goesOn() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun && !s.ended
}

// wakeUp has the subscription judged and told; s.mu is held.
func (s *subscription) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) watching() *Watching {
	return &Watching{
		Updated: func(uri string) {
			if !Covers(s.uri, uri) {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.mark(uri)
			s.wakeUp()
		},
		May: func(ctx context.Context) bool { return s.may(ctx, s.uri, false) == nil },
		Lost: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lost = true
			s.wakeUp()
		},
	}
}

// mark keeps an address that is to be told; s.mu is held. News are hints, and equal
// ones are one.
func (s *subscription) mark(uri string) {
	for _, have := range s.due {
		if have == uri || have == s.uri {
			return
		}
	}
	if len(s.due) >= maxDue || uri == s.uri {
		s.due, uri = s.due[:0], s.uri
	}
	s.due = append(s.due, uri)
}

// tell passes on news, and ends the subscription once it is not permitted any more.
func (s *subscription) tell() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-tick.C:
		case <-s.wake:
		}
		if err := s.pass(); err != nil {
			s.g.Log.Error("a subscription could not be judged; nothing was told", "run", s.target.Run, "err", err)
		}
		select {
		case <-s.over:
			return
		case <-time.After(tellEvery):
		}
	}
}

// pass judges what is due and tells it. Its error is a fault: what is due stays so.
func (s *subscription) pass() (err error) {
	defer contain("subscription", &err)
	s.mu.Lock()
	due, lost := s.due, s.lost
	s.due = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), judgeTime)
	defer cancel()
	back := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, uri := range due {
			s.mark(uri)
		}
	}
	if err := s.may(ctx, s.uri, len(due) > 0); err != nil {
		if !forGood(err) {
			back()
			return err
		}
		s.end()
		return nil
	}
	if lost && s.session != nil { // it cannot be told otherwise that it has to look by itself
		due = []string{s.uri}
	}
	for _, uri := range due {
		if uri != s.uri {
			if err := s.may(ctx, uri, false); err != nil {
				continue // it may read the one and not the other
			}
		}
		s.mu.Lock()
		if !s.ended {
			s.say(uri)
		}
		s.mu.Unlock()
	}
	if lost {
		s.end()
	}
	return nil
}

// say tells the client; s.mu is held.
func (s *subscription) say(uri string) {
	if s.listener != nil {
		s.listener.Updated(uri)
		return
	}
	params := append(wire.AppendString([]byte(`{"uri":`), uri), '}')
	s.session.tell(wire.AppendNotification(nil, wire.NotificationResourcesUpdated, params))
}

// forGood reports whether a refusal ends a subscription: while the gateway may not
// serve or cannot find out, nothing is told and nothing ended.
func forGood(err error) bool {
	var r *sallyport.Refusal
	return errors.As(err, &r) && r.Code != sallyport.NotReady
}

// may decides whether the client may read a resource now, as the call that
// subscribed to it was decided. If it is about to be told something, that is a use
// of its run.
func (s *subscription) may(ctx context.Context, uri string, use bool) error {
	g := s.g
	x := &Exchange{Credential: s.credential, Era: s.era, Session: s.session, Kind: sallyport.KindResource, Started: g.Now()}
	if err := g.authenticate(ctx, x); err != nil {
		return err
	}
	ended := sallyport.Refuse(sallyport.NoRun, "the subscription is another one's", "")
	if x.Identity.Key != s.key {
		return ended
	}
	state := g.state.Load()
	if x.Identity.Kind == sallyport.KeyAgent {
		if err := g.resolveAgent(ctx, state, x); err != nil {
			return err
		}
	}
	x.Run = s.run
	if use || !s.run.Implicit { // an implicit run ends when it is not used: being looked at is no use
		run, err := g.Runs.Open(ctx, s.target.Run, x.Started)
		if err != nil {
			return err
		}
		x.Run = run
	}
	x.Principal = sallyport.Principal{Agent: x.Identity.Agent, Key: x.Identity.Key}
	x.Target.Agent = x.Identity.Agent
	if err := g.resolvePlan(ctx, state, x); err != nil {
		return err
	}
	for _, u := range x.Plan.upstreams {
		if u.ID == s.target.Upstream && u.Identity == s.identity && (u.Binding == sallyport.Live || u.Binding == sallyport.Shadow) {
			x.Upstream = u
		}
	}
	if x.Upstream == nil {
		return ended
	}
	x.Target.Upstream = x.Upstream.ID
	if h := state.Halted(&x.Target); h != nil {
		return haltedRefusal(h)
	}
	x.Before, x.Message.Name = x.Run.Labels(), uri
	if d, _ := x.Plan.Policies.Decide(g.query(x)); !d.Allow {
		return denied(d)
	}
	s.mu.Lock()
	s.config = x.Plan.Config.ID
	s.mu.Unlock()
	return nil
}
