package upstream

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// This file listens to what an upstream says of its resources. A server with
// sessions is asked with resources/subscribe and answers on the stream of the
// session; one without is asked with subscriptions/listen, whose response is the
// stream.

const (
	// maxWatches bounds the resources of one upstream that are listened for, each of
	// which may be a connection.
	maxWatches = 256
	// firstPause and longestPause are the wait before an upstream that stopped telling
	// is asked again; who told for steady gets the first one.
	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
	steady       = time.Minute
)

// watchKey is what is shared by all who want to hear of the same resource. Sessions
// with the upstream are never shared, and neither is what is asked on behalf of a
// person.
type watchKey struct {
	session string // of the client's, in the upstream's era of sessions
	person  sallyport.PersonID
	uri     string // "" for the lists
}

// watches are the resources of an upstream that somebody wants to hear of.
type watches struct {
	mu   sync.Mutex
	open map[watchKey]*watch
	last uint64 // number of requests
	// lists are the followers of lists, of an upstream without sessions.
	lists map[sallyport.PersonID]*listHearer
}

// listHearer follows an upstream's lists for as long as they are read now and then.
type listHearer struct {
	*hearer
	expires *time.Timer
}

// watch is one resource. It lives until nobody hears it any more or the upstream
// will not tell.
type watch struct {
	u       *upstream
	key     watchKey
	session *gateway.Session // nil in the stateless era
	ctx     context.Context
	quit    context.CancelFunc

	// Written before opened is closed: what the upstream answered, or why it was not
	// asked.
	opened   chan struct{}
	response *gateway.Response
	err      error

	hearers []*hearer // guarded by watches.mu
	told    bool      // the upstream has agreed; owned by run, guarded by watches.mu for others
}

// hearer implements [gateway.Watch].
type hearer struct {
	gateway.Watching
	w     *watch
	after func() // once it has ended
	once  sync.Once
}

// declined is the error of an upstream that will not tell.
type declined struct{ response *gateway.Response }

func (*declined) Error() string { return "the upstream does not tell" }

// errSilent is why a watch has to be asked for again: what it told through is lost.
var errSilent = errors.New("the session or stream is over")

// subscribe asks the upstream for news of a resource, unless it tells already. The
// response is that of the upstream; it comes with a Watch if it is a result.
func (u *upstream) subscribe(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	key, session, after := watchKey{person: r.Person, uri: r.Message.Name}, r.Session, func() {}
	switch {
	case key.uri == "":
		return nil, sallyport.Refuse(sallyport.BadRequest, "a subscription without the address of a resource", "name one in uri")
	case u.era == wire.Stateless:
		session = nil
	case r.Era == wire.Stateless:
		s, err := u.bridge.attach(u, r)
		if err != nil {
			return nil, err
		}
		session, after = &s.Session, func() { u.bridge.detach(s) }
	}
	if session != nil {
		key.session = session.ID
	}
	h := &hearer{Watching: *r.Watching, after: after}
	for {
		w, first, err := u.watches.join(u, key, session, h)
		if err != nil {
			after()
			return nil, err
		}
		release := func() bool { return true }
		if first {
			release = context.AfterFunc(ctx, w.quit)
			if !u.stage.aside(func() { w.run(r) }) {
				w.settle(nil, shuttingDown())
				w.stop()
			}
		}
		select {
		case <-w.opened:
		case <-ctx.Done():
			if first {
				<-w.opened
			}
		}
		cut := !release() || ctx.Err() != nil
		res, err := w.outcome()
		switch {
		case cut:
			h.End()
			if err == nil {
				err = ctx.Err()
			}
			return nil, u.refusal(ctx, err)
		case err != nil && !first:
			continue // whoever was first may not have been let: this one asks for itself
		case err != nil:
			h.End()
			return nil, u.refusal(ctx, err)
		case res != nil && res.Message.Kind == wire.Error:
			h.End()
			m, err := replaceID(&res.Message, r.Message.ID.Of(r.Message.Raw))
			if err != nil {
				return nil, u.refusal(ctx, &sendError{err, true})
			}
			if r.Era == wire.Stateless {
				m, err = wire.ResponseToStateless(&m, r.Message.Method, nil)
			}
			return &gateway.Response{Message: m}, err
		}
		raw := wire.AppendResult(nil, r.Message.ID.Of(r.Message.Raw), []byte("{}"))
		m, err := wire.Scan(raw, wire.Limits{Bytes: len(raw)})
		if first && res != nil && r.Era == wire.Sessions && u.era == wire.Sessions { // it may say more than that it agrees
			m, err = replaceID(&res.Message, r.Message.ID.Of(r.Message.Raw))
		}
		if err != nil {
			h.End()
			return nil, u.refusal(ctx, &sendError{err, true})
		}
		return &gateway.Response{Message: m, Watch: h}, nil
	}
}

// follow listens to what an upstream without sessions says of its lists, beside a
// request for one, until none has been asked for in a while.
func (u *upstream) follow(r *gateway.Request) {
	u.watches.mu.Lock()
	defer u.watches.mu.Unlock()
	if l := u.watches.lists[r.Person]; l != nil {
		l.expires.Reset(u.stage.bridgeIdle)
		return
	}
	l := &listHearer{hearer: &hearer{Watching: *r.Following, after: func() {}}}
	gone := func() {
		u.watches.mu.Lock()
		if u.watches.lists[r.Person] == l {
			delete(u.watches.lists, r.Person)
			l.expires.Stop()
		}
		u.watches.mu.Unlock()
	}
	l.Lost = gone
	w, first, err := u.watches.joinLocked(u, watchKey{person: r.Person}, nil, l.hearer)
	if err != nil {
		return // lists are read again without being told to
	}
	l.expires = time.AfterFunc(u.stage.bridgeIdle, func() {
		gone()
		l.End()
	})
	if u.watches.lists == nil {
		u.watches.lists = map[sallyport.PersonID]*listHearer{}
	}
	u.watches.lists[r.Person] = l
	if first {
		u.stage.tasks.Go(func() { w.run(nil) }) // Close waits for the call that asks before it waits for tasks
	}
}

// isListChange reports whether a notification says that a list has changed.
func isListChange(method string) bool {
	return method == wire.NotificationToolsListChanged || method == wire.NotificationResourcesListChanged || method == wire.NotificationPromptsListChanged
}

// join adds a hearer to the watch of a key, and makes one if there is none.
func (all *watches) join(u *upstream, key watchKey, session *gateway.Session, h *hearer) (w *watch, first bool, err error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.joinLocked(u, key, session, h)
}

func (all *watches) joinLocked(u *upstream, key watchKey, session *gateway.Session, h *hearer) (w *watch, first bool, err error) {
	if w = all.open[key]; w == nil {
		switch {
		case u.retired.Load() || u.ended.Load():
			return nil, false, unavailable("the system behind this is configured anew", "call again", false)
		case len(all.open) >= maxWatches:
			return nil, false, sallyport.Refuse(sallyport.TooBusy, "too many resources of this system are subscribed to", "end a subscription that is no longer needed")
		}
		w = &watch{u: u, key: key, session: session, opened: make(chan struct{})}
		w.ctx, w.quit = context.WithCancel(u.stage.ctx)
		if all.open == nil {
			all.open = map[watchKey]*watch{}
		}
		all.open[key], first = w, true
	}
	h.w = w
	w.hearers = append(w.hearers, h)
	return w, first, nil
}

// End implements [gateway.Watch].
func (h *hearer) End() {
	h.once.Do(func() {
		all := &h.w.u.watches
		all.mu.Lock()
		if i := slices.Index(h.w.hearers, h); i >= 0 {
			h.w.hearers = slices.Delete(h.w.hearers, i, i+1)
		}
		last := len(h.w.hearers) == 0
		if last && all.open[h.w.key] == h.w {
			delete(all.open, h.w.key)
		}
		all.mu.Unlock()
		if last {
			h.w.quit()
		}
		h.after()
	})
}

// stop takes a watch out of use and returns those who still heard it.
func (w *watch) stop() []*hearer {
	all := &w.u.watches
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.open[w.key] == w {
		delete(all.open, w.key)
	}
	w.quit()
	hearers := w.hearers
	w.hearers = nil
	return hearers
}

// lose tells those who hear that there will be no more news.
func (w *watch) lose() {
	for _, h := range w.stop() {
		if h.Lost != nil {
			h.Lost()
		}
	}
}

// settle says how asking for the first time went. Only the first call counts.
func (w *watch) settle(res *gateway.Response, err error) {
	select {
	case <-w.opened:
	default:
		w.response, w.err = res, err
		close(w.opened)
	}
}

// outcome is how asking went, once opened is closed.
func (w *watch) outcome() (*gateway.Response, error) {
	select {
	case <-w.opened:
		return w.response, w.err
	default:
		return nil, w.ctx.Err()
	}
}

// tell tells those who hear. It never waits.
func (w *watch) tell(uri string) {
	w.u.watches.mu.Lock()
	hearers := slices.Clone(w.hearers)
	w.u.watches.mu.Unlock()
	for _, h := range hearers {
		h.Updated(uri)
	}
}

// heard passes on what an upstream with sessions says of a resource to those who
// asked for it, or for something above it, in that session.
func (u *upstream) heard(session *gateway.Session, uri string) {
	var of []*watch
	u.watches.mu.Lock()
	for key, w := range u.watches.open {
		if key.session == session.ID && gateway.Covers(key.uri, uri) {
			of = append(of, w)
		}
	}
	u.watches.mu.Unlock()
	for _, w := range of {
		w.tell(uri)
	}
}

// hear takes what an upstream says of itself beside its answers, in a session or in
// the stateless era in none. It reports whether a client may be told.
func (u *upstream) hear(session *gateway.Session, m *wire.Message) bool {
	switch m.Method {
	case wire.NotificationToolsListChanged:
		// Agents see the tools that are pinned, whatever these are. Some servers say so in
		// every session that is opened; one that only asks for the tools reads them next.
		if changed := u.stage.config.ToolsChanged; changed != nil && !u.asks {
			changed(u.id)
		}
		u.mu.Lock()
		news := u.pinsDue.IsZero()
		if news {
			u.pinsDue = time.Now()
		}
		u.mu.Unlock()
		if news {
			u.log.Warn("an upstream says that its tools have changed; agents go on seeing those that are pinned", "hint", "look with: sallyport upstream pin "+string(u.id))
		}
		return false
	case wire.NotificationResourcesUpdated:
		if session != nil {
			u.heard(session, m.Name)
		}
		return session == nil // it is about a stream, whose reader knows what it asked for
	}
	return true
}

// unwatch ends all watches: the upstream is reached otherwise from now on.
func (u *upstream) unwatch() {
	var all []*watch
	u.watches.mu.Lock()
	for _, w := range u.watches.open {
		all = append(all, w)
	}
	u.watches.mu.Unlock()
	for _, w := range all {
		w.lose()
	}
}

// run asks the upstream, and asks again when what it told through is lost, for as
// long as somebody hears and may.
func (w *watch) run(first *gateway.Request) {
	pause := firstPause
	for again := false; ; again = true {
		began := time.Now()
		err := w.listen(first)
		if w.ctx.Err() != nil || !w.agreed() || again && refusesForGood(err) || w.u.retired.Load() {
			w.lose()
			w.settle(nil, err) // if it never was: whoever waits for it may ask, now that it is gone
			break
		}
		w.u.note(err)
		if time.Since(began) > steady {
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-w.ctx.Done():
		}
		pause = min(2*pause, longestPause)
		if !w.may() {
			break
		}
		first = nil
	}
	if w.lose(); w.session != nil && w.agreed() {
		w.unsubscribe()
	}
}

func (w *watch) agreed() bool {
	w.u.watches.mu.Lock()
	defer w.u.watches.mu.Unlock()
	return w.told
}

// may asks those who hear whether they still may, and ends those who may not.
func (w *watch) may() bool {
	w.u.watches.mu.Lock()
	hearers := slices.Clone(w.hearers)
	w.u.watches.mu.Unlock()
	some := false
	for _, h := range hearers {
		if h.May == nil || h.May(w.ctx) {
			some = true
		} else {
			h.End()
		}
	}
	return some && w.ctx.Err() == nil
}

// refusesForGood reports whether asking again is of no use.
func refusesForGood(err error) bool {
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		return r.Code != sallyport.UpstreamUnavailable && r.Code != sallyport.DeadlineExceeded
	}
	return errors.As(err, new(*declined)) || errors.As(err, new(protocolError)) || errors.As(err, new(*wire.SyntaxError))
}

// begun says that the upstream has agreed. If it is not the first time, news may
// have been missed meanwhile.
func (w *watch) begun(res *gateway.Response) {
	w.u.watches.mu.Lock()
	again := w.told
	w.told = true
	w.u.watches.mu.Unlock()
	w.settle(res, nil)
	if again {
		w.tell(w.key.uri)
	}
}

// listen asks the upstream once and returns when it no longer tells.
func (w *watch) listen(first *gateway.Request) error {
	r := &gateway.Request{Era: w.u.era, Session: w.session, Person: w.key.person, MaxResult: defaultMaxResult}
	if first != nil {
		r.BeforeWrite, r.AfterWrite, r.MaxResult = first.BeforeWrite, first.AfterWrite, first.MaxResult
	}
	var err error
	if w.session == nil {
		return w.stream(r)
	}
	if first != nil && first.Era == wire.Sessions {
		r.Message = first.Message // as the client wrote it
	} else if r.Message, err = w.request(wire.MethodResourcesSubscribe); err != nil {
		return err
	}
	r.Method = r.Message.Method
	over, err := w.u.link.over(w.ctx, w.session)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.ctx, max(openTimeout, stuckWrite))
	res, err := w.u.link.do(ctx, r)
	cancel()
	if err != nil {
		return err
	}
	if res.Message.Kind == wire.Error {
		w.settle(res, nil)
		return &declined{res}
	}
	w.begun(res)
	select {
	case <-over:
		return errSilent
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// stream asks an upstream without sessions. Its response ends what it tells.
func (w *watch) stream(r *gateway.Request) (err error) {
	if r.Message, err = w.request(wire.MethodSubscriptionsListen); err != nil {
		return err
	}
	r.Method = r.Message.Method
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	refused := false
	r.Notify = func(raw []byte) {
		m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
		switch {
		case err != nil:
		case m.Method == wire.NotificationSubscriptionsAcknowledged && wire.Acknowledges(&m, w.key.uri):
			w.begun(nil)
		case m.Method == wire.NotificationSubscriptionsAcknowledged:
			refused = true
			cancel()
		case m.Method == wire.NotificationResourcesUpdated && w.agreed():
			w.tell(m.Name)
		case w.key.uri == "" && isListChange(m.Method) && w.agreed():
			w.tell(m.Method)
		}
	}
	res, err := w.u.link.do(ctx, r)
	switch {
	case refused:
		return sallyport.Refuse(sallyport.NotFound, "the system behind this does not tell when this resource changes", "read it again now and then")
	case err != nil:
		return err
	case res.Message.Kind == wire.Error:
		w.settle(res, nil)
		return &declined{res}
	case !w.agreed():
		return protocolError("it ended a subscription that it had not acknowledged")
	}
	return errSilent
}

// request is this gateway's own request, since several clients share what it asks
// for.
func (w *watch) request(method string) (wire.Message, error) {
	w.u.watches.mu.Lock()
	w.u.watches.last++
	id := wire.AppendString(nil, "sallyport-watch-"+strconv.FormatUint(w.u.watches.last, 10))
	w.u.watches.mu.Unlock()
	params := append(wire.AppendString([]byte(`{"uri":`), w.key.uri), '}')
	if method == wire.MethodSubscriptionsListen {
		c := w.u.stage.config.Client
		params = []byte(`{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true`)
		if w.key.uri != "" {
			params = append(wire.AppendString([]byte(`{"notifications":{"resourceSubscriptions":[`), w.key.uri), ']')
		}
		params = wire.AppendString(append(params, `},"_meta":{"`+wire.MetaProtocolVersion+`":`...), w.u.version)
		params = wire.AppendString(append(params, `,"`+wire.MetaClientInfo+`":{"name":`...), c.Name)
		params = wire.AppendString(append(params, `,"version":`...), c.Version)
		params = append(params, `},"`+wire.MetaClientCapabilities+`":{}}}`...)
	}
	raw := wire.AppendRequest(nil, id, method, params)
	return wire.Scan(raw, wire.Limits{Bytes: len(raw)})
}

// unsubscribe tells an upstream with sessions, beside everything, that nobody hears
// any more. A session that is over is not opened for that.
func (w *watch) unsubscribe() {
	m, err := w.request(wire.MethodResourcesUnsubscribe)
	if err != nil {
		return
	}
	w.u.stage.aside(func() {
		ctx, cancel := context.WithTimeout(context.Background(), asideTimeout)
		defer cancel()
		if err := w.u.link.tell(ctx, w.session, m.Raw); err != nil {
			w.u.note(err)
		}
	})
}
