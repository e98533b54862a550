package testkit

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/internal/wire"
)

// FastUpstream is an MCP server over streamable HTTP of both eras that does as
// little as it can: what is measured before it is not its own work. Its knobs may
// be turned while it serves.
type FastUpstream struct {
	// URL is where it serves.
	URL string

	server   *httptest.Server
	knobs    atomic.Pointer[knobs]
	mu       sync.Mutex // around a change of knobs
	requests atomic.Int64
	calls    atomic.Int64
	opened   atomic.Int64
	ended    atomic.Int64
	sessions atomic.Int64
	seen     atomic.Pointer[func(*http.Request, []byte)]
	released chan struct{}
	once     sync.Once
}

// NewFastUpstream starts a server on the loopback interface, and stops it when the
// test ends.
func NewFastUpstream(tb testing.TB) *FastUpstream {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return NewFastUpstreamAt(tb, l)
}

// NewFastUpstreamAt is NewFastUpstream for the connections of a listener.
func NewFastUpstreamAt(tb testing.TB, l net.Listener) *FastUpstream {
	tb.Helper()
	u := &FastUpstream{released: make(chan struct{})}
	u.knobs.Store(&knobs{result: result(DefaultSize)})
	u.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: u}}
	u.server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			u.opened.Add(1)
		}
	}
	u.server.Start()
	u.URL = u.server.URL + "/mcp"
	tb.Cleanup(u.Kill)
	return u
}

// Kill stops the server at once: its connections break and its port refuses.
func (u *FastUpstream) Kill() {
	u.Release()
	u.server.CloseClientConnections()
	u.server.Close()
}

// Requests counts all requests, Calls those that call a tool, Connections the
// connections that were opened, Sessions the sessions that were begun and Ended
// those that a client ended; since the start or the last Reset.
func (u *FastUpstream) Requests() int    { return int(u.requests.Load()) }
func (u *FastUpstream) Calls() int       { return int(u.calls.Load()) }
func (u *FastUpstream) Connections() int { return int(u.opened.Load()) }
func (u *FastUpstream) Sessions() int    { return int(u.sessions.Load()) }
func (u *FastUpstream) Ended() int       { return int(u.ended.Load()) }

// Reset sets the counts to zero.
func (u *FastUpstream) Reset() {
	for _, n := range []*atomic.Int64{&u.requests, &u.calls, &u.opened, &u.sessions, &u.ended} {
		n.Store(0)
	}
}

func (u *FastUpstream) turn(f func(k *knobs)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := *u.knobs.Load()
	f(&k)
	u.knobs.Store(&k)
}

// SetDelay makes every call take that long.
func (u *FastUpstream) SetDelay(d time.Duration) { u.turn(func(k *knobs) { k.delay = d }) }

// SetHang makes calls wait until the client goes away or Release is called.
func (u *FastUpstream) SetHang(hang bool) { u.turn(func(k *knobs) { k.hang = hang }) }

// Release answers the calls that hang, now and from now on.
func (u *FastUpstream) Release() { u.once.Do(func() { close(u.released) }) }

// SetSize makes results about that many bytes long.
func (u *FastUpstream) SetSize(bytes int) { u.turn(func(k *knobs) { k.result = result(bytes) }) }

// SetResult makes every call answer with these bytes, an object, as its result. In
// the stateless era a resultType is put first, unless there is one.
func (u *FastUpstream) SetResult(raw []byte) { u.turn(func(k *knobs) { k.result = raw }) }

// SetError makes every call answer with these bytes as its error; nil ends that.
func (u *FastUpstream) SetError(raw []byte) { u.turn(func(k *knobs) { k.failure = raw }) }

// SetReply makes every call answer with what f makes of the request's id, as the
// whole body; nil ends that.
func (u *FastUpstream) SetReply(f func(id []byte) []byte) { u.turn(func(k *knobs) { k.reply = f }) }

// SetStream makes calls answer with a stream of that many progress notifications
// before the response; zero ends that.
func (u *FastUpstream) SetStream(notifications int) {
	u.turn(func(k *knobs) { k.progress = notifications })
}

// OnRequest calls f with every request and its body before it is answered.
func (u *FastUpstream) OnRequest(f func(r *http.Request, body []byte)) { u.seen.Store(&f) }

// buffers keep a call from making garbage that would be measured.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

var jsonType = []string{"application/json"}

func (u *FastUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.requests.Add(1)
	if r.Method != http.MethodPost {
		if r.Method == http.MethodDelete {
			u.ended.Add(1)
			return
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	in, out := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(in)
	defer buffers.Put(out)
	body, err := readInto((*in)[:0], r.Body)
	*in = body
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if seen := u.seen.Load(); seen != nil {
		(*seen)(r, append([]byte(nil), body...))
	}
	m, err := wire.Scan(body, wire.Limits{Bytes: 64 << 20})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	era := eraOf(&m, r.Header.Get(wire.HeaderVersion))
	k := u.knobs.Load()
	switch {
	case era == wire.Stateless:
		if err := wire.CheckHeaders(r.Header, &m); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	case m.Method == wire.MethodInitialize:
		w.Header().Set(wire.HeaderSessionID, "session-"+strconv.FormatInt(u.sessions.Add(1), 10))
	case r.Header.Get(wire.HeaderSessionID) == "":
		http.Error(w, "the session id is missing", http.StatusBadRequest)
		return
	}
	if m.Method == wire.MethodToolsCall {
		u.calls.Add(1)
		if k.progress > 0 {
			u.stream(w, r, &m, era, k)
			return
		}
		if !u.wait(r, k) {
			return
		}
	}
	*out = answer((*out)[:0], &m, era, k)
	if len(*out) == 0 {
		w.WriteHeader(http.StatusNotFound)
		*out = wire.AppendError((*out)[:0], m.ID.Of(m.Raw), wire.MethodNotFound, "unknown method", nil)
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(*out))}
	_, _ = w.Write(*out) // whoever hung up is not waiting for it
}

// wait holds a call as the knobs want, and reports whether anybody still waits.
func (u *FastUpstream) wait(r *http.Request, k *knobs) bool {
	if k.delay > 0 {
		t := time.NewTimer(k.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return false
		}
	}
	if k.hang {
		select {
		case <-u.released:
		case <-r.Context().Done():
			return false
		}
	}
	return true
}

func (u *FastUpstream) stream(w http.ResponseWriter, r *http.Request, m *wire.Message, era wire.Era, k *knobs) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	for n := range k.progress {
		if _, err := w.Write(wire.AppendEvent(nil, "", progress(m, n+1))); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
	}
	if !u.wait(r, k) {
		return
	}
	_, _ = w.Write(wire.AppendEvent(nil, "", answer(nil, m, era, k)))
}

func readInto(dst []byte, r io.Reader) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
