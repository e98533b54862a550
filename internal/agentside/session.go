package agentside

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// session is one client's session of version 2025-11-25 and older.
type session struct {
	gateway.Session
	credential [sha256.Size]byte // digest of the one that opened it
	changes    changes           // that the client has been told it will hear of
	level      atomic.Int32      // of log messages; see logging/setLevel
	used       atomic.Int64      // when it was used last, in Unix nanoseconds
	over       chan struct{}     // closed when the session has ended

	mu    sync.Mutex
	calls map[string]context.CancelFunc // being made, by idKey; nil when ended
	// queue is what belongs to no call. Only the youngest stream takes from it: an
	// older one may be a connection that broke without a word.
	queue   outbox
	streams []chan struct{} // what wakes each stream, youngest last
	asked   map[string]chan wire.Message
	askedN  uint64
}

// serveSession serves a message of a version that has sessions.
func (p *post) serveSession() {
	if p.m.Kind == wire.Request && p.m.Method == wire.MethodInitialize {
		p.initialize()
		return
	}
	s, refused := p.h.find(p.r, p.credential)
	if refused != nil {
		if refused.challenge {
			challenge(p.w, p.r, true)
		}
		p.fail(refused.status, wire.InvalidRequest, refused.text, nil)
		return
	}
	p.session = s
	s.touch(p.h.Now())
	switch p.m.Kind {
	case wire.Request:
		v, ok := verbs[p.m.Method]
		if !ok || !v.sessions {
			p.fail(http.StatusOK, wire.MethodNotFound, unknown(p.m.Method), nil)
			return
		}
		p.serveRequest(v)
	case wire.Notification:
		if p.m.Method == wire.NotificationCancelled && p.m.RequestID.Present() {
			s.cancel(idKey(p.m.RequestID.Of(p.m.Raw)))
		}
		p.w.WriteHeader(http.StatusAccepted)
	default:
		s.answered(p.m)
		p.w.WriteHeader(http.StatusAccepted)
	}
}

// serveRequest serves a request of a session. What it asks for outlives the
// connection: in versions with sessions a client that is gone has not cancelled
// (2025-11-25, basic/transports, "Sending Messages to the Server"), so a call goes
// on until its deadline, a cancellation by name, or the end of the session, and
// if nobody reads its result then nobody does.
func (p *post) serveRequest(v verb) {
	ctx, cancel := context.WithCancel(&callContext{context.WithoutCancel(p.r.Context()), p})
	defer cancel()
	key := idKey(p.m.ID.Of(p.m.Raw))
	switch p.session.begin(key, cancel) {
	case ended:
		p.fail(http.StatusNotFound, wire.InvalidRequest, "the session has ended", nil)
		return
	case twice:
		p.fail(http.StatusBadRequest, wire.InvalidRequest, "a request with this id is still being answered", nil)
		return
	}
	p.ctx, p.key = ctx, key
	defer p.finish()
	v.serve(p, v.kind)
	p.session.touch(p.h.Now())
}

// finish takes a request of a session off its list. That is before the answer is
// sent: whoever has read the answer may use the id again.
func (p *post) finish() {
	if p.key != "" {
		p.session.finish(p.key)
		p.key = ""
	}
}

// initialize opens a session in the version the client asks for, if that is
// 2025-11-25 or 2025-06-18. Any other is answered with 2025-11-25, as version
// negotiation has it; who cannot speak it leaves. What the two say differently is
// between client and upstream: capabilities decide it (an elicitation with a URL,
// sampling with tools), and both sides are told the other's.
func (p *post) initialize() {
	params, version := p.m.Params.Of(p.m.Raw), wire.Version20251125
	s := &session{
		over:  make(chan struct{}),
		calls: map[string]context.CancelFunc{},
		asked: map[string]chan wire.Message{},
	}
	for _, want := range []struct {
		name   string
		begins byte
		keep   *json.RawMessage
	}{
		{"protocolVersion", '"', nil},
		{"capabilities", '{', &s.ClientCapabilities},
		{"clientInfo", '{', &s.ClientInfo},
	} {
		value, err := field(params, want.name)
		if err != nil || len(value) == 0 || value[0] != want.begins {
			p.fail(http.StatusOK, wire.InvalidParams, "params."+want.name+" is missing or has the wrong type", nil)
			return
		}
		switch {
		case want.keep != nil:
			*want.keep = bytes.Clone(value)
		case string(value) == `"`+wire.Version20250618+`"`:
			version = wire.Version20250618
		}
	}
	d, err := p.h.Gateway.Describe(p.r.Context(), p.credential)
	if err != nil {
		p.refuse(0, p.h.refusal(err))
		return
	}
	s.ID = p.h.homed(rand.Text()) // at least 128 bits
	s.Key = d.Key
	s.credential = sha256.Sum256([]byte(p.credential))
	s.changes = changesIn(d.Capabilities)
	s.Deliver, s.LogLevel = s.deliver, func() string { return levels[s.level.Load()] }
	if mayBeAsked(s.ClientCapabilities) {
		s.Ask = s.ask
	}
	if refusal := p.h.open(s); refusal != nil {
		p.fail(http.StatusServiceUnavailable, codeRefused, refusal.Reason, append(p.appendRefusal([]byte(`{"refusal":`), refusal), '}'))
		return
	}
	result := []byte(`{"protocolVersion":"` + version + `","capabilities":`)
	result = append(result, capabilities(d)...)
	result = append(append(result, `,"serverInfo":`...), p.h.serverInfo...)
	if d.Instructions != "" {
		result = wire.AppendString(append(result, `,"instructions":`...), d.Instructions)
	}
	p.w.Header()[wire.HeaderSessionID] = []string{s.ID}
	p.send(http.StatusOK, `,"result":`, append(result, '}'))
}

// field is the value of a member of an object that may be absent.
func field(object []byte, name string) ([]byte, error) {
	if object == nil {
		return nil, nil
	}
	value, _, err := wire.Field(object, name)
	return value, err
}

// capabilities is what the caller is offered, as an object in any case.
func capabilities(d *gateway.Description) []byte {
	if len(d.Capabilities) == 0 {
		return []byte("{}")
	}
	return d.Capabilities
}

// notFound is why a session was not found.
type notFound struct {
	status    int
	text      string
	challenge bool
}

// find returns the session a request names. A session belongs to the credential
// that opened it: to any other it does not exist, so that an id that leaked is of
// no use (2025-11-25, security best practices, "Session Hijacking").
func (h *Handler) find(r *http.Request, credential string) (*session, *notFound) {
	id := first(r.Header, wire.HeaderSessionID)
	if id == "" {
		return nil, &notFound{status: http.StatusBadRequest, text: "the Mcp-Session-Id header is missing: initialize first"}
	}
	h.mu.RLock()
	s := h.sessions[id]
	h.mu.RUnlock()
	if s != nil {
		digest := sha256.Sum256([]byte(credential))
		if subtle.ConstantTimeCompare(digest[:], s.credential[:]) == 1 {
			return s, nil
		}
	}
	// Only who is known learns that there is no such session.
	if _, err := h.Gateway.Describe(r.Context(), credential); err != nil {
		if refusal := h.refusal(err); refusal.Code == sallyport.Unauthenticated {
			return nil, &notFound{http.StatusUnauthorized, refusal.Reason, true}
		}
	}
	return nil, &notFound{status: http.StatusNotFound, text: "there is no such session: initialize again"}
}

// open enters a session, or refuses.
func (h *Handler) open(s *session) *sallyport.Refusal {
	s.touch(h.Now())
	h.mu.Lock()
	var evicted *session
	defer func() {
		h.mu.Unlock()
		if evicted != nil {
			h.end(evicted)
		}
	}()
	if h.closed {
		return sallyport.Refuse(sallyport.NotReady, "the server is shutting down", "connect again later")
	}
	own := h.perKey[s.Key]
	if len(own) >= h.MaxSessionsPerKey {
		if evicted = longestUnused(own); evicted == nil {
			return sallyport.Refuse(sallyport.TooBusy, "this credential has too many sessions in use", "end some first")
		}
		h.removeLocked(evicted)
	}
	if len(h.sessions) >= h.MaxSessions {
		return sallyport.Refuse(sallyport.TooBusy, "there are too many sessions", "try again later")
	}
	if own = h.perKey[s.Key]; own == nil {
		own = map[*session]struct{}{}
		h.perKey[s.Key] = own
	}
	own[s] = struct{}{}
	h.sessions[s.ID] = s
	if h.sweeper == nil {
		h.sweeper = time.AfterFunc(h.SessionIdle/4, h.sweep)
	}
	return nil
}

// longestUnused is the session that was used the longest ago among those that
// nothing is going on in; nil if there is none.
func longestUnused(sessions map[*session]struct{}) *session {
	var oldest *session
	for s := range sessions {
		if !s.busy() && (oldest == nil || s.used.Load() < oldest.used.Load()) {
			oldest = s
		}
	}
	return oldest
}

// sweep ends the sessions that have been idle for too long.
func (h *Handler) sweep() {
	limit := h.Now().Add(-h.SessionIdle).UnixNano()
	for _, s := range h.allSessions() {
		if s.used.Load() <= limit && !s.busy() {
			h.end(s)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sessions) > 0 && !h.closed {
		h.sweeper.Reset(h.SessionIdle / 4)
	} else {
		h.sweeper = nil
	}
}

func (h *Handler) allSessions() []*session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		all = append(all, s)
	}
	return all
}

// Sessions is how many sessions are open.
func (h *Handler) Sessions() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.sessions)
}

// end ends a session, once: its calls are cancelled, its streams and questions
// end, and its upstream sessions with it.
func (h *Handler) end(s *session) {
	h.mu.Lock()
	h.removeLocked(s)
	h.mu.Unlock()
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	if calls == nil {
		return
	}
	close(s.over)
	for _, cancel := range calls {
		cancel()
	}
	h.Gateway.CloseSession(&s.Session)
}

func (h *Handler) removeLocked(s *session) {
	if h.sessions[s.ID] == s {
		delete(h.sessions, s.ID)
	}
	delete(h.perKey[s.Key], s)
	if len(h.perKey[s.Key]) == 0 {
		delete(h.perKey, s.Key)
	}
}

func (s *session) touch(now time.Time) { s.used.Store(now.UnixNano()) }

// busy reports whether a call is being made or a stream is open.
func (s *session) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls) > 0 || len(s.streams) > 0
}

// idKey is an id as something to compare: 7 and "7" differ, "a" and "\u0061" do
// not.
func idKey(token []byte) string {
	if len(token) > 0 && token[0] == '"' && bytes.IndexByte(token, '\\') >= 0 {
		if text, err := wire.DecodeString(token); err == nil {
			return `"` + text + `"`
		}
	}
	return string(token)
}

// begun says how the beginning of a call went.
type begun uint8

const (
	began begun = iota + 1
	ended       // the session has ended
	twice       // a call with the same id is being made
)

func (s *session) begin(key string, cancel context.CancelFunc) begun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		return ended
	}
	if _, ok := s.calls[key]; ok {
		return twice
	}
	s.calls[key] = cancel
	return began
}

// finish says that a call is over and answered.
func (s *session) finish(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, key)
}

// cancel cancels one call of this session, if it is being made.
func (s *session) cancel(key string) {
	s.mu.Lock()
	cancel := s.calls[key]
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// delete ends a session.
func (h *Handler) delete(w http.ResponseWriter, r *http.Request) {
	if s, _, ok := h.named(w, r); ok {
		h.end(s)
		w.WriteHeader(http.StatusNoContent)
	}
}

// named returns the session that a request without a body names, and the
// credential that came with it, or answers the request.
func (h *Handler) named(w http.ResponseWriter, r *http.Request) (*session, string, bool) {
	if v := first(r.Header, wire.HeaderVersion); v != "" && !legacy(v) {
		refuseHTTP(w, http.StatusBadRequest, "unsupported protocol version")
		return nil, "", false
	}
	credential, ok := h.credential(w, r)
	if !ok {
		return nil, "", false
	}
	s, refused := h.find(r, credential)
	if refused != nil {
		if refused.challenge {
			challenge(w, r, true)
		}
		refuseHTTP(w, refused.status, refused.text)
		return nil, "", false
	}
	s.touch(h.Now())
	return s, credential, true
}

// ping answers, if the credential still counts.
func (p *post) ping(sallyport.Kind) {
	if p.authenticated() {
		p.send(http.StatusOK, `,"result":`, emptyObject)
	}
}

// setLevel keeps the least level of log messages for the session. Upstreams are
// not told: what they send beneath it ends here.
func (p *post) setLevel(sallyport.Kind) {
	token, err := field(p.m.Params.Of(p.m.Raw), "level")
	l, ok := levelOf(token)
	if err != nil || !ok {
		p.fail(http.StatusOK, wire.InvalidParams, "params.level is not one of the protocol's", nil)
		return
	}
	if p.authenticated() {
		p.session.level.Store(int32(l))
		p.send(http.StatusOK, `,"result":`, emptyObject)
	}
}

// authenticated asks whether the credential counts, for what asks the gateway
// nothing else, and refuses the request if not.
func (p *post) authenticated() bool {
	_, err := p.h.Gateway.Describe(p.r.Context(), p.credential)
	if err != nil {
		p.refuse(0, p.h.refusal(err))
	}
	return err == nil
}

var emptyObject = []byte("{}")
