package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// session is the upstream's session of one client session.
type session struct {
	client *gateway.Session
	// What follows is written before opened is closed.
	opened  chan struct{}
	err     error
	id      string // empty where the server does without
	version string // agreed on
	// initialized is the result of initialize.
	initialized []byte

	level told

	quit context.CancelFunc // ends the stream beside the calls
	ctx  context.Context

	mu    sync.Mutex
	calls []*calling // in flight, youngest last
}

// calling is a call in flight that the upstream may ask something during.
type calling struct {
	r     *gateway.Request
	ctx   context.Context
	asked sync.WaitGroup // questions that were passed to r.Ask
}

// enter counts a call in until leave, and nothing is asked through it any more when
// leave returns.
func (s *session) enter(ctx context.Context, r *gateway.Request) (_ context.Context, leave func()) {
	ctx, done := context.WithCancel(ctx)
	c := &calling{r: r, ctx: ctx}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		s.calls = slices.DeleteFunc(s.calls, func(other *calling) bool { return other == c })
		s.mu.Unlock()
		done()
		c.asked.Wait()
	}
}

// asker is who is asked a question that came beside the calls. Many servers ask
// there during a call and do not say which: it is taken to belong to the youngest in
// flight, and without one to the session. passed has to be called when it was.
func (s *session) asker() (ask func(context.Context, []byte) ([]byte, error), passed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) == 0 {
		return s.client.Ask, func() {}
	}
	c := s.calls[len(s.calls)-1]
	if c.r.Ask == nil {
		return nil, func() {}
	}
	c.asked.Add(1)
	return func(ctx context.Context, raw []byte) ([]byte, error) {
		own, cancel := context.WithCancel(c.ctx) // the gateway finds the call by it
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return c.r.Ask(own, raw)
	}, c.asked.Done
}

// session returns the upstream's session that belongs to a client's, and opens
// one if there is none. Those who come while it is being opened wait for it.
func (h *httpLink) session(ctx context.Context, gs *gateway.Session) (*session, error) {
	h.mu.Lock()
	s := h.sessions[gs.ID]
	if s == nil {
		// A client's session ends its calls before it is forgotten: what is opened now
		// for a call that has ended, nobody would forget.
		if err := ctx.Err(); err != nil {
			h.mu.Unlock()
			return nil, err
		}
		if len(h.sessions) >= maxSessions {
			h.mu.Unlock()
			return nil, unavailable("there are too many sessions with the system behind this tool", "close sessions that are no longer used", false)
		}
		s = &session{client: gs, opened: make(chan struct{}), level: newTold()}
		s.ctx, s.quit = context.WithCancel(h.stage.ctx)
		h.sessions[gs.ID] = s
		h.mu.Unlock()
		// Whoever came first may leave first: it is opened beside the call.
		if !h.stage.aside(func() { h.open(s) }) {
			h.lose(s)
			s.err = shuttingDown()
			close(s.opened)
		}
	} else {
		h.mu.Unlock()
	}
	select {
	case <-s.opened:
		return s, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.stage.ctx.Done():
		return nil, shuttingDown()
	}
}

func (h *httpLink) greeting(ctx context.Context, gs *gateway.Session) ([]byte, error) {
	s, err := h.session(ctx, gs)
	if err != nil {
		return nil, err
	}
	return s.initialized, nil
}

func (h *httpLink) over(ctx context.Context, gs *gateway.Session) (<-chan struct{}, error) {
	s, err := h.session(ctx, gs)
	if err != nil {
		return nil, err
	}
	return s.ctx.Done(), nil
}

func (h *httpLink) open(s *session) {
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	err := h.initialize(ctx, s)
	if err == nil {
		err = h.inform(ctx, s, wire.AppendNotification(nil, wire.NotificationInitialized, nil))
	}
	if err != nil {
		if ctx.Err() != nil || timedOut(err) {
			err = &connectError{fmt.Errorf("opening a session took too long: %w", err)}
		}
		h.lose(s)
		h.note(fmt.Errorf("opening a session: %w", err))
		s.err = notSent(err)
	} else if s.id != "" && (s.client.Deliver != nil || s.client.Ask != nil) {
		listening := make(chan struct{})
		h.stage.aside(func() { h.listen(s, sync.OnceFunc(func() { close(listening) })) })
		if canBeAsked(h.offered(s.client)) {
			// A question that is asked where nobody listens yet is lost with most servers.
			select {
			case <-listening:
			case <-time.After(listenWait):
			case <-ctx.Done():
			}
		}
	}
	close(s.opened)
}

// canBeAsked reports whether a client answers anything.
func canBeAsked(capabilities []byte) bool {
	return slices.ContainsFunc([]string{wire.MethodElicitationCreate, wire.MethodSamplingCreateMessage, wire.MethodRootsList},
		func(method string) bool { return wire.CanBeAsked(capabilities, method) })
}

// notSent makes an error of the opening of a session one of a call that was not
// sent because of it.
func notSent(err error) error {
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		c := *r
		c.Detail = map[string]any{"sent": false}
		return &c
	}
	if e := (*sendError)(nil); errors.As(err, &e) {
		return &sendError{e.err, false}
	}
	return err
}

// offered is what the upstream is told of what the client of a session can do.
func (u *upstream) offered(s *gateway.Session) []byte {
	return wire.Offered(s.ClientCapabilities, s.Roots != nil && s.Roots(u.id))
}

// initializeRequest is what opens a session: the upstream is told of the client
// what the client said of itself, as far as it is offered.
func (u *upstream) initializeRequest(id []byte, s *gateway.Session) []byte {
	info := []byte(s.ClientInfo)
	if len(info) == 0 {
		c := u.stage.config.Client
		info = wire.AppendString([]byte(`{"name":`), c.Name)
		info = append(wire.AppendString(append(info, `,"version":`...), c.Version), '}')
	}
	params := wire.AppendString([]byte(`{"protocolVersion":`), u.version)
	params = append(append(params, `,"capabilities":`...), u.offered(s)...)
	params = append(append(params, `,"clientInfo":`...), info...)
	return wire.AppendRequest(nil, id, wire.MethodInitialize, append(params, '}'))
}

// initialized reads the answer to initialize and returns the version agreed on.
func (u *upstream) initialized(m *wire.Message) (version string, err error) {
	if m.Kind == wire.Error {
		return "", protocolError("it refused to open a session")
	}
	token, ok, err := wire.Field(m.Result.Of(m.Raw), "protocolVersion")
	if err != nil {
		return "", err
	}
	if ok {
		version, err = wire.DecodeString(token)
	}
	if !ok || err != nil || !sessionsVersion(version) {
		return "", protocolError("it opened a session in a version of the protocol that is not spoken")
	}
	return version, nil
}

// sessionsVersion reports whether a version belongs to the sessions era. Servers
// of versions before those that are spoken are spoken to all the same: what
// differs is for the client to read.
func sessionsVersion(v string) bool {
	if era, ok := wire.EraOf(v); ok {
		return era == wire.Sessions
	}
	_, err := time.Parse(time.DateOnly, v)
	return err == nil && v < wire.Version20251125
}

func (h *httpLink) initialize(ctx context.Context, s *session) error {
	raw := h.initializeRequest([]byte(`"sallyport-initialize"`), s.client)
	request, err := wire.Scan(raw, wire.Limits{Bytes: len(raw)})
	if err != nil {
		return h.misconfigured("the client's own description cannot be passed on")
	}
	x, err := h.send(ctx, &message{body: raw, person: s.client.Person})
	if err != nil {
		return err
	}
	id := string(x.head.session)
	res, err := h.receive(ctx, &x, s, &gateway.Request{Message: request, MaxResult: defaultMaxResult})
	if err != nil {
		return err
	}
	if s.version, err = h.initialized(&res.Message); err != nil {
		return err
	}
	if len(id) > maxHeaderLine/2 || !visible(id) {
		return protocolError("its session id has characters that no session id has")
	}
	s.id, s.initialized = id, res.Message.Result.Of(res.Message.Raw)
	return nil
}

// listen reads the stream of messages that belong to no call, for as long as the
// session lives. A server may do without one (405).
func (h *httpLink) listen(s *session, listening func()) {
	wait, last := time.Second, ""
	for s.ctx.Err() == nil {
		began := time.Now()
		id, retry, again := h.stream(s, last, listening)
		if !again {
			return
		}
		last = id
		if time.Since(began) > time.Minute {
			wait = time.Second
		}
		pause := wait
		if retry > 0 {
			pause = retry
		}
		wait = min(2*wait, 30*time.Second)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
	}
}

// stream opens the stream once and passes on what it brings until it ends. It
// returns the id of the last event, the wait the server asks for, and whether to
// try again. listening is called when the stream is open, or is known not to be.
func (h *httpLink) stream(s *session, last string, listening func()) (string, time.Duration, bool) {
	c, err := h.subscribe(s.ctx, s, last)
	listening()
	if err != nil {
		h.note(fmt.Errorf("stream beside the calls: %w", err))
		return last, 0, true
	}
	defer c.abandon()
	switch {
	case c.head.status == 404:
		h.lose(s)
		return "", 0, false
	case c.head.status == 401 || c.head.status == 403:
		h.unaccepted(c.secrets)
		return last, 0, true
	case c.head.status == 429 || c.head.status >= 500:
		return last, 0, true
	case c.head.status != 200 || c.head.media != mediaEvents || c.head.coded:
		return "", 0, false
	}
	asked := h.questions(s.ctx, s)
	defer asked.end()
	events := wire.NewEventReader(c.eventBuffer(), defaultMaxResult)
	retry := time.Duration(0)
	for {
		e, err := events.Next()
		if err != nil {
			if err != io.EOF && s.ctx.Err() == nil {
				h.note(fmt.Errorf("stream beside the calls: %w", err))
			}
			return last, retry, !tooLarge(err)
		}
		if eventID(e.ID) {
			last = e.ID
		}
		if e.Retry > 0 {
			retry = retryWait(e.Retry)
		}
		if e.Type != "message" || len(e.Data) == 0 {
			continue
		}
		m, err := wire.Scan(e.Data, wire.Limits{Bytes: defaultMaxResult})
		switch {
		case err != nil, m.Kind == wire.Result, m.Kind == wire.Error:
			h.dropped.Add(1)
		case m.Kind == wire.Notification:
			if h.hear(s.client, &m) && s.client.Deliver != nil {
				s.client.Deliver(m.Raw)
			}
		default:
			ask, passed := s.asker()
			asked.pass(&m, ask, passed)
		}
	}
}

// subscribe asks for an event stream of a session, from behind the event with the
// id last if that is not empty, and reads the head of the response.
func (h *httpLink) subscribe(ctx context.Context, s *session, last string) (exchange, error) {
	secrets, err := h.authority(ctx, s.client.Person)
	if err != nil {
		return exchange{}, err
	}
	c, err := h.pool.get(ctx, false)
	if err != nil {
		return exchange{}, err
	}
	x := exchange{conn: c, release: c.watch(ctx), secrets: secrets}
	c.out = append(append(c.out[:0], h.get...), secrets.fields...)
	if s.id != "" {
		c.out = appendField(c.out, wire.HeaderSessionID, s.id)
	}
	c.out = appendField(c.out, wire.HeaderVersion, s.version)
	if last != "" {
		c.out = appendField(c.out, "Last-Event-ID", last)
	}
	c.out = append(c.out, "\r\n"...)
	if _, err = c.send(nil); err == nil {
		err = c.receive()
	}
	if err != nil {
		x.abandon()
		return exchange{}, err
	}
	return x, nil
}

// eventID reports whether an event's id can be sent back.
func eventID(id string) bool { return id != "" && len(id) < maxHeaderLine/4 && visible(id) }

// retryWait is the wait a server asks for, in milliseconds, within reason.
func retryWait(ms int) time.Duration {
	return time.Duration(min(max(ms, 10), 30_000)) * time.Millisecond
}

// lose drops a session that the server no longer knows, or never did.
func (h *httpLink) lose(s *session) {
	h.mu.Lock()
	if h.sessions[s.client.ID] == s {
		delete(h.sessions, s.client.ID)
	}
	h.mu.Unlock()
	s.quit()
}

func (h *httpLink) forget(gs *gateway.Session) {
	h.mu.Lock()
	s := h.sessions[gs.ID]
	tell := s != nil && !h.ending
	if tell {
		h.finishing.Add(1)
	}
	h.mu.Unlock()
	if s == nil {
		return
	}
	h.lose(s)
	if tell && !h.stage.aside(func() {
		defer h.finishing.Done()
		h.finish(s)
	}) {
		h.finishing.Done()
	}
}

// finish tells the server that a session is over.
func (h *httpLink) finish(s *session) {
	<-s.opened
	if s.err != nil || s.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), asideTimeout)
	defer cancel()
	secrets, err := h.authority(ctx, s.client.Person)
	if err != nil {
		return
	}
	c, err := h.pool.get(ctx, false)
	if err != nil {
		return
	}
	x := exchange{conn: c, release: c.watch(ctx)}
	c.out = append(append(c.out[:0], h.delete...), secrets.fields...)
	c.out = appendField(c.out, wire.HeaderSessionID, s.id)
	c.out = appendField(c.out, wire.HeaderVersion, s.version)
	c.out = append(c.out, "\r\n"...)
	if _, err := c.send(nil); err != nil || c.receive() != nil {
		x.abandon()
		return
	}
	if _, err := c.body.readAll(maxErrorBody); err != nil {
		x.abandon()
		return
	}
	x.done()
}
