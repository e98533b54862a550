// Package stdiobridge lets a client that speaks only stdio reach a server that
// speaks streamable HTTP: each line that comes in is a POST, and what comes back,
// as one document or as an event stream, goes out as lines. Messages of both eras
// pass as they are; a session, where there is one, is kept beside them.
//
// Nothing is ever sent twice. A request that may have reached the server and got
// no answer is answered with an error that says so.
package stdiobridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"sallyport/internal/wire"
)

// Config is what a bridge needs. Zero numbers mean the default.
type Config struct {
	// URL is that of the endpoint, as in http://127.0.0.1:8484/mcp.
	URL string
	// Credential is sent as a bearer token. It is asked for with every request, so
	// that one that has been replaced is used from then on.
	Credential func() (string, error)
	In         io.Reader
	Out        io.Writer
	// Say tells people what happened, one line at a time; nil tells nobody.
	Say func(line string)
	// MaxMessage is the largest message in either direction, in bytes (default 64
	// MiB). The server has a limit of its own.
	MaxMessage int
	// Grace is how long answers are waited for once In has ended (default 2 s).
	Grace time.Duration
}

const (
	// dialTime bounds reaching the server; answers may take as long as they like.
	dialTime = 10 * time.Second
	// noticeTime bounds what has no answer: notifications, and the end of a session.
	noticeTime = 10 * time.Second
	// endTime is how long the server may take to end a session when the client has
	// gone: clients kill a program that does not end within a few seconds.
	endTime = 2 * time.Second
	// maxWaiting bounds the notifications that are still to be sent; beyond it no
	// more is read.
	maxWaiting = 256
)

// codeBridge is the JSON-RPC code of errors that begin here. It lies outside the
// range that JSON-RPC and MCP keep for themselves.
const codeBridge = -31004

// errOver ends everything when the client has gone.
var errOver = errors.New("the client has closed its end")

// bridge is one client's connection.
type bridge struct {
	Config
	client *http.Client
	ctx    context.Context // ends with the bridge; its cause says why
	quit   context.CancelCauseFunc

	running sync.WaitGroup // whatever was started, but for the reader of In
	calls   sync.WaitGroup // requests that will be answered
	notices chan notice    // in the order in which they are to be sent
	told    chan struct{}  // closed when all of them have been
	over    chan struct{}  // closed when nothing runs any more
	opening chan struct{}  // while a session is being opened: closed when that is over

	writing sync.Mutex // around Out

	mu      sync.Mutex
	flights map[string]*flight // by the id as it was written
	session *session           // nil in the stateless era
	tools   toolHeaders

	reopening sync.Mutex
}

// flight is a request that has no answer yet.
type flight struct {
	m       wire.Message
	era     wire.Era
	cancel  context.CancelFunc
	written chan struct{} // closed when it has been sent, or will not be
	once    sync.Once
	mu      sync.Mutex
	quiet   bool // the client wants no answer any more
}

func (f *flight) sent() { f.once.Do(func() { close(f.written) }) }

func (f *flight) silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quiet = true
}

func (f *flight) silent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.quiet
}

// notice is a message without an answer, and the request that it must not
// overtake, if there is one.
type notice struct {
	m     wire.Message
	after *flight
}

// Run bridges until In ends, which is how a client says that it is done, or ctx
// does. Then the session is ended at the server, and nothing is left running but
// what waits for the client: a goroutine that reads from In, if ctx ended first, and
// those that write to Out, if nobody reads there. The error is nil if In ended and
// the client has read everything.
func Run(ctx context.Context, c Config) error {
	if c.MaxMessage <= 0 {
		c.MaxMessage = 64 << 20
	}
	if c.Grace <= 0 {
		c.Grace = 2 * time.Second
	}
	if c.Say == nil {
		c.Say = func(string) {}
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, TLSHandshakeTimeout: dialTime,
		ForceAttemptHTTP2: true, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
	}
	defer transport.CloseIdleConnections()
	b := &bridge{
		Config: c, flights: map[string]*flight{}, notices: make(chan notice, maxWaiting), told: make(chan struct{}), over: make(chan struct{}),
		client: &http.Client{
			Transport: transport,
			// The credential is for this address and for no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	b.ctx, b.quit = context.WithCancelCause(ctx)
	defer b.quit(nil)

	lines := make(chan []byte)
	ended := make(chan error, 1)
	go func() {
		in := wire.NewLineReader(c.In, c.MaxMessage)
		for {
			line, err := in.Next()
			if err != nil {
				ended <- err
				return
			}
			select {
			case lines <- line:
			case <-b.ctx.Done():
				return
			}
		}
	}()
	b.running.Go(b.sendNotices)

	err := b.pass(lines, ended)
	return errors.Join(err, b.end())
}

// pass takes lines until there are no more. What follows the request for a session
// belongs to that session, and has to wait for it.
func (b *bridge) pass(lines <-chan []byte, ended <-chan error) error {
	for {
		next := lines
		if b.opening != nil {
			next = nil
		}
		select {
		case line := <-next:
			b.take(line)
		case <-b.opening:
			b.opening = nil
		case err := <-ended:
			switch {
			case err == io.EOF:
				return nil
			case errors.Is(err, wire.ErrTooLarge):
				return fmt.Errorf("a message of the client has more than %d bytes: what follows it cannot be read", b.MaxMessage)
			}
			return fmt.Errorf("reading from the client: %w", err)
		case <-b.ctx.Done():
			return context.Cause(b.ctx)
		}
	}
}

// end waits a little for what is being answered, ends the session, and returns
// when nothing runs any more, or says that the client does not let it.
func (b *bridge) end() error {
	close(b.notices)
	b.mu.Lock()
	for _, f := range b.flights {
		if f.m.Method == wire.MethodSubscriptionsListen { // has no answer until somebody ends it
			f.silence()
			f.cancel()
		}
	}
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		<-b.told
		b.calls.Wait()
		close(done)
	}()
	grace := time.NewTimer(b.Grace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	case <-b.ctx.Done():
	}
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if s != nil {
		b.endSession(s)
	}
	b.quit(errOver)
	go func() {
		<-done
		b.running.Wait()
		close(b.over)
	}()
	late := time.NewTimer(endTime)
	defer late.Stop()
	select {
	case <-b.over:
		return nil
	case <-late.C:
		return errors.New("the client does not read what it is sent")
	}
}

// take serves one message of the client. It returns as soon as the next one may
// be looked at.
func (b *bridge) take(line []byte) {
	m, err := wire.Scan(line, wire.Limits{Bytes: b.MaxMessage})
	if err != nil {
		code := wire.InvalidRequest
		var s *wire.SyntaxError
		if errors.As(err, &s) {
			code = s.Code
		}
		b.Say("a message of the client is refused: " + err.Error())
		b.emit(wire.AppendError(nil, m.ID.Of(m.Raw), code, err.Error(), nil))
		return
	}
	switch {
	case m.Kind == wire.Request:
		b.request(m)
	case m.Kind == wire.Notification && m.Method == wire.NotificationInitialized:
		b.initialized(m)
	case m.Kind == wire.Notification && m.Method == wire.NotificationCancelled:
		b.cancelled(m)
	default:
		b.queue(notice{m: m})
	}
}

func (b *bridge) queue(n notice) {
	select {
	case b.notices <- n:
	case <-b.ctx.Done():
	}
}

// eraOf is the era of a request. One of a version that is not known is sent as
// those of the stateless era are: the server says what it knows.
func eraOf(m *wire.Message) wire.Era {
	if m.MetaVersion == "" {
		return wire.Sessions
	}
	if era, ok := wire.EraOf(m.MetaVersion); ok {
		return era
	}
	return wire.Stateless
}

// request sends a request of the client.
func (b *bridge) request(m wire.Message) {
	ctx, cancel := context.WithCancel(b.ctx)
	f := &flight{m: m, era: eraOf(&m), cancel: cancel, written: make(chan struct{})}
	key := string(m.ID.Of(m.Raw))
	b.mu.Lock()
	taken := b.flights[key] != nil
	if !taken {
		b.flights[key] = f
	}
	b.mu.Unlock()
	if taken {
		cancel()
		b.fail(&m, wire.InvalidRequest, "a request with this id is still being answered", notSent)
		return
	}
	b.calls.Add(1)
	opens := f.era == wire.Sessions && m.Method == wire.MethodInitialize
	opening := make(chan struct{})
	if opens {
		b.opening = opening
	}
	b.running.Go(func() {
		defer b.calls.Done()
		defer cancel()
		defer close(opening)
		defer f.sent()
		answer := b.serve(ctx, f)
		// Whoever has read the answer may use the id again.
		b.mu.Lock()
		delete(b.flights, key)
		b.mu.Unlock()
		if answer != nil {
			b.emit(answer)
		}
	})
}

// serve returns the answer to a request, nil if the client wants none.
func (b *bridge) serve(ctx context.Context, f *flight) []byte {
	if f.era == wire.Sessions && f.m.Method == wire.MethodInitialize {
		return b.open(ctx, f)
	}
	h := http.Header{}
	var s *session
	if f.era == wire.Stateless {
		wire.SetHeaders(h, &f.m, f.m.MetaVersion)
		if f.m.Method == wire.MethodToolsCall {
			if err := b.paramHeaders(ctx, h, &f.m); err != nil {
				return b.failure(&f.m, wire.InvalidParams, err.Error(), notSent)
			}
		}
	} else {
		b.mu.Lock()
		s = b.session
		b.mu.Unlock()
		s.headers(h)
	}
	out := b.post(ctx, &f.m, h, f.sent)
	if s != nil && out.status == http.StatusNotFound {
		return b.failure(&f.m, codeBridge, b.lost(s), notSent)
	}
	if f.era == wire.Stateless && out.answer != nil {
		b.learn(&f.m, out.answer)
	}
	if out.answer == nil {
		if f.silent() {
			return nil
		}
		if context.Cause(b.ctx) == errOver {
			out.why = "the client closed its end before the answer came"
		}
		return b.failure(&f.m, codeBridge, out.why, out.sent)
	}
	return out.answer.Raw
}

// cancelled passes a cancellation on. In the stateless era over HTTP it is the end
// of the request itself (MCP 2026-07-28, Streamable HTTP, "Cancellation").
func (b *bridge) cancelled(m wire.Message) {
	b.mu.Lock()
	f := b.flights[string(m.RequestID.Of(m.Raw))]
	b.mu.Unlock()
	switch {
	case f == nil:
		return // it has been answered
	case f.era == wire.Stateless:
		f.silence()
		f.cancel()
	default:
		f.silence()
		b.queue(notice{m: m, after: f})
	}
}

// sendNotices sends what has no answer, one after the other.
func (b *bridge) sendNotices() {
	defer close(b.told)
	for n := range b.notices {
		if n.after != nil {
			select {
			case <-n.after.written:
			case <-b.ctx.Done():
			}
		}
		b.send(n.m)
	}
}

// send sends what has no answer.
func (b *bridge) send(m wire.Message) {
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if !b.sendIn(s, m) {
		b.Say(b.lost(s))
	}
}

// sendIn sends what has no answer in a session, nil for none. It is false if the
// server does not know the session.
func (b *bridge) sendIn(s *session, m wire.Message) bool {
	ctx, cancel := context.WithTimeout(b.ctx, noticeTime)
	defer cancel()
	h := http.Header{}
	if s == nil {
		wire.SetHeaders(h, &m, wire.Version20260728)
	}
	s.headers(h)
	out := b.post(ctx, &m, h, func() {})
	switch {
	case s != nil && out.status == http.StatusNotFound:
		return false
	case out.status != http.StatusAccepted && out.status != http.StatusOK && b.ctx.Err() == nil:
		b.Say(fmt.Sprintf("a %s of the client did not arrive: %s", m.Kind, out.why))
	}
	return true
}

// emit writes one message to the client. What breaks a line can only stand between
// tokens of JSON, where a space is as good.
func (b *bridge) emit(raw []byte) {
	line := make([]byte, 0, len(raw)+1)
	line = append(line, raw...)
	if bytes.ContainsAny(line, "\r\n") {
		for i, c := range line {
			if c == '\n' || c == '\r' {
				line[i] = ' '
			}
		}
	}
	line = append(line, '\n')
	b.writing.Lock()
	defer b.writing.Unlock()
	if _, err := b.Out.Write(line); err != nil {
		b.quit(fmt.Errorf("writing to the client: %w", err))
	}
}

// sent says whether a request that got no answer may have been carried out.
type sent bool

const (
	notSent   sent = false
	maybeSent sent = true
)

// failure is the error that a request is answered with.
func (b *bridge) failure(m *wire.Message, code int, why string, reached sent) []byte {
	if b.ctx.Err() == nil {
		b.Say(fmt.Sprintf("%s: %s", m.Method, why))
	}
	data := []byte(`{"sallyport/bridge":{"sent":"no"}}`)
	if reached == maybeSent {
		data = []byte(`{"sallyport/bridge":{"sent":"maybe"}}`)
	}
	return wire.AppendError(nil, m.ID.Of(m.Raw), code, why, data)
}

func (b *bridge) fail(m *wire.Message, code int, why string, reached sent) {
	b.emit(b.failure(m, code, why, reached))
}
