package upstream

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// This file carries requests between a client of one era and an upstream of the
// other. What crosses and how is [wire.Crossings]; here is what has to be
// remembered for it, in memory and for a while.

const (
	// bridgeIdle is how long a session that is kept for clients without sessions may
	// be unused.
	bridgeIdle = 10 * time.Minute
	// holdFor is how long an upstream's question waits for a client that comes back
	// with the answer.
	holdFor = 5 * time.Minute
	// maxBridged bounds those sessions for one owner, maxBridgedAll for all of an
	// upstream, maxBridgedChildren if each is a process; maxHeld bounds the calls that
	// wait for a client, maxHeldEach those of one owner.
	maxBridged         = 4
	maxBridgedAll      = maxSessions / 2
	maxBridgedChildren = maxChildren / 2
	maxHeld            = 256
	maxHeldEach        = 16
	// maxRounds bounds how often an upstream may ask for input during one call.
	maxRounds = 8
	// gatherFor is how long nothing more may have been asked before a client is asked:
	// what is asked at once is one result. It is waited for so many times at most.
	gatherFor  = 50 * time.Millisecond
	gatherMost = 10
	// shedWait is the wait before a request is made again for an upstream that asks
	// for nothing but that.
	shedWait = 250 * time.Millisecond
)

// bridge is what an upstream of the sessions era needs for clients of the other.
type bridge struct {
	seal cipher.AEAD // of requestState: what was sealed here is opened here alone
	most int         // sessions

	mu       sync.Mutex
	last     uint64 // number of requests and sessions
	sessions map[string]*bridged
	held     map[uint64]*heldCall
	sweep    *time.Timer // runs while there are sessions
}

func newBridge(most int) *bridge {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("upstream: 32 bytes are a key: " + err.Error())
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		panic("upstream: AES has blocks of 16 bytes: " + err.Error())
	}
	return &bridge{seal: seal, most: most, sessions: map[string]*bridged{}, held: map[uint64]*heldCall{}}
}

// bridged is a session with the upstream that one owner's requests share. It is
// opened by the link when it is first used, and again when it was lost.
type bridged struct {
	gateway.Session
	owner string
	used  time.Time
	calls map[uint64]*heldCall // in flight, by number
	// watches counts the subscriptions that news comes for in this session.
	watches int
	// following hears of lists that have changed; nil until something was listed.
	following *gateway.Watching
}

// cross carries a request to an upstream of the other era.
func (u *upstream) cross(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	switch {
	case r.Era == wire.Sessions && u.era == wire.Stateless && r.Session != nil:
		return u.toStateless(ctx, r)
	case r.Era == wire.Stateless && u.era == wire.Sessions && r.Owner != "":
		return u.toSessions(ctx, r)
	}
	return nil, sallyport.Refuse(sallyport.Internal500, "a request of one era for an upstream of another, without what it takes", "")
}

// notCrossing is the refusal of what the table does not carry.
func (u *upstream) notCrossing(err error) error {
	var cross *wire.CrossError
	if !errors.As(err, &cross) {
		return err
	}
	return sallyport.Refuse(sallyport.EraMismatch,
		"the system behind this tool speaks MCP "+u.version+", the client does not, and this cannot be carried over: "+cross.Why,
		"connect with a client that speaks MCP "+u.version+", or do without this")
}

// carried passes on the notifications that cross.
func carried(client wire.Era, notify func([]byte)) func([]byte) {
	if notify == nil {
		return nil
	}
	return func(raw []byte) {
		m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
		if err == nil && m.Kind == wire.Notification && wire.CrossingOf(client, true, m.Method).Fate == wire.Carried {
			notify(raw)
		}
	}
}

// toStateless makes a request of a session to an upstream without. Where a result
// asks for input, the client is asked and the request made again, in the one call.
func (u *upstream) toStateless(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	c := wire.Caller{Version: u.version, Info: r.Session.ClientInfo, Capabilities: wire.Offered(r.Session.ClientCapabilities, r.Roots)}
	if r.Session.LogLevel != nil {
		c.LogLevel = r.Session.LogLevel()
	}
	request, err := wire.RequestToStateless(&r.Message, c)
	if err != nil {
		return nil, u.refusal(ctx, u.notCrossing(err))
	}
	other := *r
	other.Era, other.Session, other.Ask, other.Message = wire.Stateless, nil, nil, request
	other.Notify = carried(wire.Sessions, r.Notify)
	for round := 1; ; round++ {
		res, err := u.link.do(ctx, &other)
		if err != nil {
			return nil, u.refusal(ctx, err)
		}
		if res.Message.ResultType != wire.ResultInputRequired {
			m, err := wire.ResponseToSessions(&res.Message, r.Message.Method)
			if err != nil {
				return nil, u.refusal(ctx, &sendError{u.notCrossing(err), true})
			}
			return u.answering(ctx, r, &m)
		}
		next, ok := u.inquire(ctx, r, &res.Message, &request, round)
		if !ok {
			return u.answering(ctx, r, &res.Message) // the question itself, which goes no further
		}
		if r.Again != nil {
			if err := r.Again(ctx); err != nil {
				return nil, err
			}
		}
		other.Message = next
	}
}

// answering is a response as the answer to r: that of a later round has another id.
func (u *upstream) answering(ctx context.Context, r *gateway.Request, m *wire.Message) (*gateway.Response, error) {
	if !m.ID.Present() {
		return &gateway.Response{Message: *m}, nil
	}
	own, err := replaceID(m, r.Message.ID.Of(r.Message.Raw))
	if err != nil {
		return nil, u.refusal(ctx, &sendError{err, true})
	}
	return &gateway.Response{Message: own}, nil
}

// inquire asks the client of r what a result asks for and returns the request of
// the next round; false if there is none to be made.
func (u *upstream) inquire(ctx context.Context, r *gateway.Request, asks, request *wire.Message, round int) (wire.Message, bool) {
	questions, state, err := wire.Questions(asks.Result.Of(asks.Raw))
	if err != nil || round >= maxRounds || len(questions) > maxAsks || len(questions) > 0 && r.Ask == nil {
		return wire.Message{}, false
	}
	if len(questions) == 0 {
		select {
		case <-time.After(time.Duration(round) * shedWait):
		case <-ctx.Done():
			return wire.Message{}, false
		}
	}
	// All at once, as the upstream asks.
	answers := make([]wire.Input, len(questions))
	var all sync.WaitGroup
	for i, q := range questions {
		if !wire.CanBeAsked(r.Session.ClientCapabilities, q.Method) {
			return wire.Message{}, false
		}
		all.Go(func() {
			id := wire.AppendString(nil, "input-"+strconv.Itoa(round)+"-"+strconv.Itoa(i))
			raw, err := r.Ask(ctx, wire.AppendRequest(nil, id, q.Method, q.Params))
			if err != nil {
				return
			}
			if m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)}); err == nil && m.Kind == wire.Result {
				answers[i] = wire.Input{Key: q.Key, Value: m.Result.Of(raw)}
			}
		})
	}
	all.Wait()
	if slices.ContainsFunc(answers, func(a wire.Input) bool { return a.Value == nil }) || ctx.Err() != nil {
		return wire.Message{}, false
	}
	next, err := wire.WithInput(request, answers, state)
	if err == nil {
		// A request that is made again is another one (MCP 2026-07-28, "Multi Round-Trip
		// Requests"), also beside those of other clients.
		id := r.Message.ID.Of(r.Message.Raw)
		next, err = replaceID(&next, wire.AppendString(nil, "sallyport-"+strconv.Itoa(round+1)+"-"+string(id)))
	}
	return next, err == nil
}

// toSessions makes a request that stands alone in a session that is kept for its
// owner, or continues the one it answers a question of.
func (u *upstream) toSessions(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	answers, state, again, err := wire.Retry(&r.Message)
	if err != nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, "the answers to a question cannot be read: "+err.Error(), "send inputResponses and requestState as the protocol has them")
	}
	if again {
		return u.resume(ctx, r, answers, state)
	}
	request, err := wire.RequestToSessions(&r.Message)
	if err != nil {
		return nil, u.refusal(ctx, u.notCrossing(err))
	}
	b := u.bridge
	s, h, err := b.begin(u, r)
	if err != nil {
		return nil, err
	}
	number := h.number
	other := *r
	other.Era, other.Session, other.Owner = wire.Sessions, &s.Session, ""
	if other.Message, err = alone(&request, number); err != nil {
		b.finish(s, number)
		return nil, u.refusal(ctx, err)
	}
	other.Notify = func(raw []byte) { b.during(s, h, raw) }
	greeting, err := u.link.greeting(ctx, &s.Session)
	if err != nil {
		b.finish(s, number)
		return nil, u.refusal(ctx, err)
	}
	if info, err := memberOf(greeting, "serverInfo"); err == nil && len(info) > 0 && info[0] == '{' {
		h.serverInfo = info
	}
	if !h.asks {
		defer b.finish(s, number)
		res, err := u.link.do(ctx, &other)
		if err != nil {
			return nil, u.refusal(ctx, err)
		}
		h.end(res, nil)
		return h.finished(ctx, r)
	}
	// The upstream's call may outlive the request that began it.
	own, drop := context.WithCancel(u.stage.ctx)
	h.drop, other.Ask = drop, h.ask
	if err := u.enter(); err != nil {
		drop()
		b.finish(s, number)
		return nil, err
	}
	go func() {
		defer u.leave()
		defer b.finish(s, number)
		defer drop()
		res, err := u.attempt(own, &other)
		h.cut = own.Err() != nil
		h.end(res, err)
	}()
	return h.wait(ctx, r)
}

// attempt makes a request in a goroutine of its own, where a panic would end the
// program and here is an error.
func (u *upstream) attempt(ctx context.Context, r *gateway.Request) (res *gateway.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			u.log.Error("a request met a panic", "panic", p, "stack", string(debug.Stack()))
			err = &sendError{fmt.Errorf("panic: %v", p), true}
		}
	}()
	return u.link.do(ctx, r)
}

// alone is a request with an id and a progress token that no other of its session
// has. In the stateless era two clients of one owner may well use the same.
func alone(m *wire.Message, number uint64) (wire.Message, error) {
	own := ownID(number)
	edits := []wire.Edit{{Span: m.ID, With: own}}
	if m.ProgressToken.Present() {
		edits = append(edits, wire.Edit{Span: m.ProgressToken, With: own})
		if m.ProgressToken.Start < m.ID.Start {
			edits[0], edits[1] = edits[1], edits[0]
		}
	}
	raw := wire.Splice(m.Raw, edits...)
	return wire.Scan(raw, wire.Limits{Bytes: len(raw)})
}

func ownID(number uint64) []byte {
	return wire.AppendString(nil, "sallyport-"+strconv.FormatUint(number, 10))
}

// digestOf covers what a retry has to repeat: the method, the name and the
// arguments, in whatever form. Its error is a refusal.
func digestOf(m *wire.Message) ([]byte, error) {
	arguments := m.Arguments.Of(m.Raw)
	if len(arguments) == 0 {
		arguments = []byte("null")
	}
	arguments, err := canonical.JSON(arguments)
	if err != nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, "the arguments cannot be compared with those of a later call: "+err.Error(), "")
	}
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(m.Method), []byte(m.Name), arguments} {
		sum.Write(strconv.AppendInt(nil, int64(len(part)), 10))
		sum.Write([]byte{' '})
		sum.Write(part)
	}
	return sum.Sum(nil), nil
}

// begin enters a request into the session of its owner.
func (b *bridge) begin(u *upstream, r *gateway.Request) (*bridged, *heldCall, error) {
	meta := r.Message.Meta.Of(r.Message.Raw)
	info, err := memberOf(meta, wire.MetaClientInfo)
	if err != nil {
		return nil, nil, u.refusal(context.Background(), err)
	}
	capabilities := r.Message.ClientCapabilities.Of(r.Message.Raw)
	asks := r.Judge != nil && r.Answered != nil && canBeAsked(capabilities)
	var digest []byte
	if asks {
		if digest, err = digestOf(&r.Message); err != nil {
			return nil, nil, err
		}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.session(u, r, info)
	if err != nil {
		return nil, nil, err
	}
	if r.Following != nil {
		s.following = r.Following
	}
	b.last++
	h := &heldCall{
		up: u, number: b.last, asks: asks, owner: r.Owner, method: r.Message.Method, digest: digest,
		drop: func() {}, current: r, latest: r, capabilities: slices.Clone(capabilities),
		questions: map[string]*asked{}, arrived: make(chan struct{}, 1), over: make(chan struct{}),
	}
	s.calls[h.number] = h
	s.used = time.Now()
	return s, h, nil
}

// session is the session of a request's owner. It is called with b.mu held.
func (b *bridge) session(u *upstream, r *gateway.Request, info []byte) (*bridged, error) {
	capabilities := wire.Offered(r.Message.ClientCapabilities.Of(r.Message.Raw), r.Roots)
	// Upstreams go by what a session's client said when it was opened: a client that
	// says something else is not it.
	said := sha256.Sum256(slices.Concat(info, []byte{0}, capabilities))
	key := r.Owner + "/" + base64.RawURLEncoding.EncodeToString(said[:])
	if s := b.sessions[key]; s != nil {
		return s, nil
	}
	if err := b.makeRoom(u, r.Owner); err != nil {
		return nil, err
	}
	b.last++
	s := &bridged{Session: gateway.Session{Person: r.Person}, owner: r.Owner, calls: map[uint64]*heldCall{}}
	s.ID = "bridge-" + strconv.FormatUint(b.last, 10)
	s.ClientInfo, s.ClientCapabilities = json.RawMessage(slices.Clone(info)), json.RawMessage(slices.Clone(capabilities))
	s.Roots = func(sallyport.UpstreamID) bool { return true } // as far as r may tell of them
	s.Deliver = func(raw []byte) { b.deliver(s, raw) }
	b.sessions[key] = s
	if b.sweep == nil {
		b.sweep = time.AfterFunc(u.stage.bridgeIdle, func() { b.clean(u) })
	}
	return s, nil
}

// attach keeps the session of a request's owner open for a subscription until
// detach.
func (b *bridge) attach(u *upstream, r *gateway.Request) (*bridged, error) {
	info, err := memberOf(r.Message.Meta.Of(r.Message.Raw), wire.MetaClientInfo)
	if err != nil {
		return nil, u.refusal(context.Background(), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.session(u, r, info)
	if err == nil {
		s.watches++
	}
	return s, err
}

func (b *bridge) detach(s *bridged) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.watches--
	s.used = time.Now()
}

// idle reports whether nothing needs the session.
func (s *bridged) idle() bool { return len(s.calls) == 0 && s.watches == 0 }

func memberOf(object []byte, name string) ([]byte, error) {
	if len(object) == 0 {
		return nil, nil
	}
	value, _, err := wire.Field(object, name)
	return value, err
}

// makeRoom ends the session that was not used for the longest time, of an owner
// that has as many as it may, or of all.
func (b *bridge) makeRoom(u *upstream, owner string) error {
	own := 0
	for _, s := range b.sessions {
		if s.owner == owner {
			own++
		}
	}
	crowded := own >= maxBridged
	if !crowded && len(b.sessions) < b.most {
		return nil
	}
	oldest := ""
	for key, s := range b.sessions {
		if s.idle() && (s.owner == owner || !crowded) && (oldest == "" || s.used.Before(b.sessions[oldest].used)) {
			oldest = key
		}
	}
	if oldest == "" {
		return unavailable("too many sessions with the system behind this tool are in use", "wait for calls in flight to end", false)
	}
	u.link.forget(&b.sessions[oldest].Session)
	delete(b.sessions, oldest)
	return nil
}

func (b *bridge) finish(s *bridged, number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(s.calls, number)
	s.used = time.Now()
}

// clean ends the sessions that have been idle for too long.
func (b *bridge) clean(u *upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.ended.Load() {
		b.sweep = nil
		return
	}
	limit := time.Now().Add(-u.stage.bridgeIdle)
	maps.DeleteFunc(b.sessions, func(_ string, s *bridged) bool {
		idle := s.idle() && !s.used.After(limit)
		if idle {
			u.link.forget(&s.Session)
		}
		return idle
	})
	if b.sweep = nil; len(b.sessions) > 0 {
		b.sweep = time.AfterFunc(u.stage.bridgeIdle/2, func() { b.clean(u) })
	}
}

// stop ends what waits, for good.
func (b *bridge) stop() {
	b.mu.Lock()
	if b.sweep != nil {
		b.sweep.Stop()
	}
	all := slices.Collect(maps.Values(b.held))
	b.mu.Unlock()
	for _, h := range all {
		h.Drop()
	}
}

// deliver passes on what the upstream says beside its calls: that a list has
// changed, and to the only call there is a log message.
func (b *bridge) deliver(s *bridged, raw []byte) {
	m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
	if err != nil {
		return
	}
	if isListChange(m.Method) {
		b.mu.Lock()
		following := s.following
		b.mu.Unlock()
		if following != nil {
			following.Updated(m.Method)
		}
		return
	}
	b.mu.Lock()
	var only *heldCall
	if len(s.calls) == 1 {
		for _, only = range s.calls {
		}
	}
	b.mu.Unlock()
	if only != nil {
		only.notify(raw)
	}
}

// during passes on what the upstream says during one of its calls.
func (b *bridge) during(s *bridged, h *heldCall, raw []byte) {
	m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
	if err == nil && isListChange(m.Method) {
		b.deliver(s, raw)
		return
	}
	h.notify(raw)
}

// heldCall is a request in a session that is kept for clients without. While its
// client is asked something it belongs to nobody, and it goes on when the client
// comes back.
type heldCall struct {
	up           *upstream
	number       uint64
	asks         bool // the client can be asked
	owner        string
	method       string
	digest       []byte
	capabilities []byte
	serverInfo   []byte             // of the upstream; nil if it did not say
	drop         context.CancelFunc // ends the upstream's request

	mu        sync.Mutex
	current   *gateway.Request  // that waits; nil while the client is asked
	latest    *gateway.Request  // that waited last
	questions map[string]*asked // that have no answer, by key
	asked     int               // so far
	round     uint64            // of requestState: each is good once
	expires   *time.Timer
	then      []func(*gateway.Response, error)
	ended     bool
	cut       bool               // it ended because this end wanted it to
	reason    *sallyport.Refusal // why it was dropped; nil if it was not
	response  *gateway.Response  // translated, under the request's own id
	err       error
	aside     *sallyport.Refusal // what those are told who do not wait, if that is not err

	judging atomic.Int32  // questions that may yet be put
	arrived chan struct{} // holds a token when there is a new question
	over    chan struct{} // closed when response or err is there
}

// asked is a question of the upstream that waits for its answer.
type asked struct {
	wire.Question
	number int
	raw    []byte
	id     []byte
	answer chan []byte
}

// notify passes on a notification of the upstream to the request that waits, under
// its progress token.
func (h *heldCall) notify(raw []byte) {
	h.mu.Lock()
	r := h.current
	h.mu.Unlock()
	if r == nil || r.Notify == nil {
		return
	}
	m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
	if err != nil || m.Kind != wire.Notification || wire.CrossingOf(wire.Stateless, true, m.Method).Fate != wire.Carried {
		return
	}
	if m.Method == wire.NotificationProgress {
		token := r.Message.ProgressToken.Of(r.Message.Raw)
		if token == nil || !sameID(m.ProgressToken.Of(raw), ownID(h.number)) {
			return
		}
		raw = wire.Splice(raw, wire.Edit{Span: m.ProgressToken, With: token})
	}
	r.Notify(raw)
}

var errNotAsked = errors.New("the client cannot be asked this now")

// ask takes a question of the upstream and returns its answer.
func (h *heldCall) ask(ctx context.Context, raw []byte) ([]byte, error) {
	m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
	if err != nil {
		return nil, err
	}
	// What nobody may ask goes to policy all the same: it says so in the record.
	if wire.CrossingOf(wire.Stateless, true, m.Method).Fate == wire.Carried && !wire.CanBeAsked(h.capabilities, m.Method) {
		return nil, errNotAsked
	}
	if !h.up.bridge.keep(h) {
		return nil, errNotAsked
	}
	h.mu.Lock()
	r := h.latest
	h.mu.Unlock()
	h.judging.Add(1)
	refused, err := r.Judge(ctx, raw)
	if err != nil || refused != nil {
		h.judging.Add(-1)
		return refused, err
	}
	q := &asked{Question: wire.Question{Method: m.Method, Params: m.Params.Of(raw)}, raw: raw, id: m.ID.Of(raw), answer: make(chan []byte, 1)}
	h.mu.Lock()
	h.asked++
	q.number, q.Key = h.asked, "question-"+strconv.Itoa(h.asked)
	h.questions[q.Key] = q
	h.mu.Unlock()
	h.judging.Add(-1)
	select {
	case h.arrived <- struct{}{}:
	default:
	}
	select {
	case answer := <-q.answer:
		return answer, nil
	case <-ctx.Done():
		h.mu.Lock()
		delete(h.questions, q.Key)
		h.mu.Unlock()
		return nil, ctx.Err()
	}
}

// keep makes a request one that can be continued, if there is room.
func (b *bridge) keep(h *heldCall) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[h.number] != nil {
		return true
	}
	own := 0
	for _, other := range b.held {
		if other.owner == h.owner {
			own++
		}
	}
	if own >= maxHeldEach || len(b.held) >= maxHeld {
		return false
	}
	b.held[h.number] = h
	return true
}

// forget makes a request one that cannot be continued any more.
func (b *bridge) forget(h *heldCall) {
	b.mu.Lock()
	delete(b.held, h.number)
	b.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.expires != nil {
		h.expires.Stop()
	}
}

// wait waits for the end of the upstream's request or a question, whichever comes
// first, for r.
func (h *heldCall) wait(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	for {
		select {
		case <-h.over:
			return h.finished(ctx, r)
		default:
		}
		select {
		case <-h.over:
		case <-h.arrived:
			h.gather(ctx)
			if res, err := h.put(r); res != nil || err != nil {
				return res, err
			}
		case <-ctx.Done():
			h.drop()
			<-h.over
		}
	}
}

// gather waits for what the upstream asks together with the question that has
// arrived.
func (h *heldCall) gather(ctx context.Context) {
	most := time.NewTimer(gatherMost * h.up.stage.gatherFor)
	defer most.Stop()
	for {
		select {
		case <-h.arrived:
		case <-time.After(h.up.stage.gatherFor):
			if h.judging.Load() == 0 {
				return
			}
		case <-most.C:
			return
		case <-h.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// finished is the upstream's response as the answer to r.
func (h *heldCall) finished(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	h.up.bridge.forget(h)
	if h.err != nil {
		return nil, h.up.refusal(ctx, h.err)
	}
	m, err := replaceID(&h.response.Message, r.Message.ID.Of(r.Message.Raw))
	if err != nil {
		return nil, h.up.refusal(ctx, &sendError{err, true})
	}
	return &gateway.Response{Message: m}, nil
}

// put makes the response to r that asks the client what is to be asked. From then
// on the request belongs to nobody. It returns nil if there is nothing to be asked
// any more.
func (h *heldCall) put(r *gateway.Request) (*gateway.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.questions) == 0 {
		return nil, nil
	}
	waiting := slices.SortedFunc(maps.Values(h.questions), func(a, b *asked) int { return a.number - b.number })
	questions := make([]wire.Question, len(waiting))
	for i, q := range waiting {
		questions[i] = q.Question
	}
	h.round++
	until := time.Now().Add(h.up.stage.holdFor)
	raw := wire.InputRequired(nil, r.Message.ID.Of(r.Message.Raw), questions, h.up.bridge.sealed(h, until))
	m, err := wire.Scan(raw, wire.Limits{Bytes: len(raw)})
	if err != nil {
		return nil, err
	}
	h.current = nil
	if h.expires != nil {
		h.expires.Stop()
	}
	h.expires = time.AfterFunc(time.Until(until), h.expire)
	return &gateway.Response{Message: m, Held: h}, nil
}

// end takes what became of the upstream's request.
func (h *heldCall) end(res *gateway.Response, err error) {
	if err == nil {
		var m wire.Message
		if m, err = wire.ResponseToStateless(&res.Message, h.method, h.serverInfo); err != nil {
			err = &sendError{err, true}
		}
		res = &gateway.Response{Message: m}
	}
	h.mu.Lock()
	if err != nil {
		res = nil
		switch {
		case h.reason != nil:
			err = h.reason
		case h.cut: // with the request that waited for it, or with everything
			h.aside = stopped()
		}
	}
	h.response, h.err, h.ended = res, err, true
	then := h.then
	h.then = nil
	h.mu.Unlock()
	for _, f := range then {
		h.tell(f)
	}
	close(h.over)
}

func (h *heldCall) tell(f func(*gateway.Response, error)) {
	switch {
	case h.aside != nil:
		f(nil, h.aside)
	case h.err != nil:
		f(nil, h.up.refusal(context.Background(), h.err))
	default:
		f(h.response, nil)
	}
}

// Then implements [gateway.Held].
func (h *heldCall) Then(f func(*gateway.Response, error)) {
	h.mu.Lock()
	ended := h.ended
	if !ended {
		h.then = append(h.then, f)
	}
	h.mu.Unlock()
	if ended {
		h.tell(f)
	}
}

// Drop implements [gateway.Held].
func (h *heldCall) Drop() {
	h.give(stopped())
}

func stopped() *sallyport.Refusal {
	r := sallyport.Refuse(sallyport.Cancelled, "the call was stopped while its client was asked something", "")
	r.Detail = map[string]any{"sent": true}
	return r
}

// expire ends a request whose client did not come back in time.
func (h *heldCall) expire() {
	r := stopped()
	r.Reason = "the client did not come back with an answer in time"
	h.give(r)
}

// give gives the request up.
func (h *heldCall) give(reason *sallyport.Refusal) {
	h.mu.Lock()
	if h.reason == nil && !h.ended {
		h.reason = reason
	}
	h.mu.Unlock()
	h.up.bridge.forget(h)
	h.drop()
}

// sealed is the requestState of a round: what it says is authenticated, encrypted,
// and bound to the upstream, the stage and the owner.
func (b *bridge) sealed(h *heldCall, until time.Time) string {
	plain := binary.BigEndian.AppendUint64(nil, h.number)
	plain = binary.BigEndian.AppendUint64(plain, h.round)
	plain = binary.BigEndian.AppendUint64(plain, uint64(until.UnixMilli()))
	plain = append(plain, h.digest...)
	nonce := make([]byte, b.seal.NonceSize())
	rand.Read(nonce)
	state := base64.RawURLEncoding.EncodeToString(b.seal.Seal(nonce, nonce, plain, bound(h.up, h.owner)))
	if home := h.up.stage.config.Home; home != nil && home() > 0 {
		// Another replica that the client comes back to knows by this where the call is held.
		state = strconv.FormatInt(home(), 10) + "." + state
	}
	return state
}

func bound(u *upstream, owner string) []byte {
	return []byte("sallyport requestState 1\x00" + u.stage.config.Stage.String() + "\x00" + string(u.id) + "\x00" + owner)
}

// unsealed finds the request that a requestState is of, for a retry with that
// digest, and makes r the one that waits for it.
func (b *bridge) unsealed(u *upstream, r *gateway.Request, state string, digest []byte) (*heldCall, *sallyport.Refusal) {
	foreign := func() *sallyport.Refusal {
		return sallyport.Refuse(sallyport.BadRequest, "requestState was not given out for this call", "send back what was received, with the same arguments, or make the call without it")
	}
	lost := func() *sallyport.Refusal {
		return sallyport.Refuse(sallyport.OutcomeUnknown, "the call that this one continues is no longer held, so the answer cannot reach it; it may have taken effect",
			"do not repeat a change: find out first whether it was made")
	}
	if _, after, ok := strings.Cut(state, "."); ok {
		state = after
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(state)
	if err != nil || len(box) < b.seal.NonceSize() {
		return nil, foreign()
	}
	nonce := b.seal.NonceSize()
	plain, err := b.seal.Open(nil, box[:nonce], box[nonce:], bound(u, r.Owner))
	if err != nil {
		// Sealed by somebody else, or by this gateway before it was started again: what
		// it held then is lost.
		return nil, lost()
	}
	if len(plain) < 24 || !bytes.Equal(plain[24:], digest) {
		return nil, foreign()
	}
	number, round := binary.BigEndian.Uint64(plain), binary.BigEndian.Uint64(plain[8:])
	until := time.UnixMilli(int64(binary.BigEndian.Uint64(plain[16:])))
	b.mu.Lock()
	h := b.held[number]
	b.mu.Unlock()
	if h == nil || time.Now().After(until) {
		return nil, lost()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != nil || h.round != round {
		return nil, sallyport.Refuse(sallyport.BadRequest, "requestState has been used", "wait for the answer of the call that used it")
	}
	h.current = r
	return h, nil
}

// resume continues a request with the client's answers.
func (u *upstream) resume(ctx context.Context, r *gateway.Request, answers []wire.Input, state string) (*gateway.Response, error) {
	digest, err := digestOf(&r.Message)
	if err != nil {
		return nil, err
	}
	if r.Judge == nil || r.Answered == nil {
		return nil, sallyport.Refuse(sallyport.Internal500, "a request that answers a question, without a way to record it", "")
	}
	h, refusal := u.bridge.unsealed(u, r, state, digest)
	if refusal != nil {
		refusal.Detail = map[string]any{"sent": false}
		return nil, refusal
	}
	leave := func(err error) (*gateway.Response, error) { // as it was
		h.mu.Lock()
		h.current = nil
		h.mu.Unlock()
		return nil, err
	}
	h.mu.Lock()
	var answered []*asked
	var messages [][]byte
	for _, a := range answers {
		if q := h.questions[a.Key]; q != nil {
			answered, messages = append(answered, q), append(messages, wire.AppendResult(nil, q.id, a.Value))
		}
	}
	open := len(h.questions)
	h.latest = r
	h.mu.Unlock()
	select {
	case <-h.over: // it did not wait for the answer
		return h.finished(ctx, r)
	default:
	}
	if len(answered) == 0 && open > 0 {
		return h.put(r)
	}
	for i, q := range answered {
		err := r.Answered(ctx, q.raw, messages[i])
		var refused *sallyport.Refusal
		switch {
		case errors.As(err, &refused):
			messages[i] = wire.AppendError(nil, q.id, wire.MethodNotFound, "not available", nil)
		case err != nil:
			return leave(err)
		}
	}
	if r.BeforeWrite != nil {
		if err := r.BeforeWrite(); err != nil {
			return leave(err)
		}
	}
	h.mu.Lock()
	h.expires.Stop()
	for i, q := range answered {
		delete(h.questions, q.Key)
		q.answer <- messages[i]
	}
	open = len(h.questions)
	h.mu.Unlock()
	if r.AfterWrite != nil {
		r.AfterWrite()
	}
	if open > 0 { // what was not answered is asked again
		select {
		case h.arrived <- struct{}{}:
		default:
		}
	}
	return h.wait(ctx, r)
}
