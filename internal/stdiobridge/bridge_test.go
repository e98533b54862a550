package stdiobridge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/internal/stdiobridge"
	"sallyport/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// rig is a client at one end of a bridge, and a server at the other.
type rig struct {
	t     *testing.T
	in    *io.PipeWriter
	lines chan string
	ended chan error
	stop  context.CancelFunc

	mu   sync.Mutex
	said []string
}

// start bridges to a handler. change may change the configuration.
func start(t *testing.T, h http.HandlerFunc, change func(*stdiobridge.Config)) (*rig, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	r := bridgeTo(t, server.URL+"/mcp", change)
	return r, server
}

func bridgeTo(t *testing.T, url string, change func(*stdiobridge.Config)) *rig {
	t.Helper()
	in, toBridge := io.Pipe()
	fromBridge, out := io.Pipe()
	r := &rig{t: t, in: toBridge, lines: make(chan string, 100), ended: make(chan error, 1)}
	c := stdiobridge.Config{
		URL: url, Credential: func() (string, error) { return "the-key", nil }, In: in, Out: out, Grace: 200 * time.Millisecond,
		Say: func(line string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.said = append(r.said, line)
		},
	}
	if change != nil {
		change(&c)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() {
		err := stdiobridge.Run(ctx, c)
		out.Close()
		in.Close()
		r.ended <- err
	}()
	go func() {
		defer close(r.lines)
		s := bufio.NewScanner(fromBridge)
		s.Buffer(nil, 64<<20)
		for s.Scan() {
			r.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		toBridge.Close()
		stop()
		select {
		case <-r.ended:
		case <-time.After(patience):
			t.Error("the bridge does not end")
		}
	})
	return r
}

func (r *rig) send(line string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, line+"\n"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) next() string {
	r.t.Helper()
	select {
	case line, ok := <-r.lines:
		if !ok {
			r.t.Fatalf("the bridge has ended; it said %q", r.heard())
		}
		return line
	case <-time.After(patience):
		r.t.Fatalf("no line came; it said %q", r.heard())
		return ""
	}
}

func (r *rig) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

// want waits for a line that is exactly this.
func (r *rig) want(line string) {
	r.t.Helper()
	if got := r.next(); got != line {
		r.t.Errorf("got  %s\nwant %s", got, line)
	}
}

// finish ends the client and returns how the bridge ended.
func (r *rig) finish() error {
	r.t.Helper()
	r.in.Close()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(patience):
		r.t.Fatal("the bridge does not end when its client does")
		return nil
	}
}

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`

func call(id, tool, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,%s}}`, id, tool, args, meta)
}

func result(id, value string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, value)
}

func read(r *http.Request) (string, wire.Message) {
	body, _ := io.ReadAll(r.Body)
	m, _ := wire.Scan(body, wire.Limits{})
	return string(body), m
}

func reply(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, text)
}

func event(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Write(wire.AppendEvent(nil, "", []byte(text)))
	w.(http.Flusher).Flush()
}

// TestStateless: the headers say what the body does, the body and the answer pass
// byte for byte, and what repeats arguments is learned from the listing.
func TestStateless(t *testing.T) {
	var got sync.Map
	var listed atomic.Int32
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		body, m := read(req)
		if m.Method == wire.MethodToolsList {
			listed.Add(1)
			if err := wire.CheckHeaders(req.Header, &m); err != nil {
				t.Error(err)
			}
			id := string(m.ID.Of(m.Raw))
			if m.Cursor == "" {
				reply(w, result(id, `{"tools":[{"name":"other","inputSchema":{"type":"object"}}],"nextCursor":"2"}`))
			} else {
				reply(w, result(id, `{"tools":[{"name":"say","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}`))
			}
			return
		}
		got.Store(string(m.ID.Of(m.Raw)), body)
		if err := wire.CheckHeaders(req.Header, &m); err != nil {
			t.Error(err)
		}
		if region := req.Header.Get("Mcp-Param-Region"); region != "=?base64?ZXUtzqk=?=" {
			t.Errorf("Mcp-Param-Region is %q", region)
		}
		if key := req.Header.Get("Authorization"); key != "Bearer the-key" || req.Header.Get("Mcp-Session-Id") != "" {
			t.Errorf("headers: %v", req.Header)
		}
		event(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1e2,"progressToken":0}}`)
		event(w, result(string(m.ID.Of(m.Raw)), `{"big":12345678901234567890,  "x":"\u00e9"}`))
	}, nil)
	odd := strings.Replace(call(`"a\u0041"`, "say", `{"region":"eu-Ω" ,"n":1.0E+2,"large":12345678901234567890}`), `"jsonrpc"`, ` "jsonrpc" `, 1)
	r.send(odd)
	r.want(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1e2,"progressToken":0}}`)
	r.want(result(`"a\u0041"`, `{"big":12345678901234567890,  "x":"\u00e9"}`))
	if sent, _ := got.Load(`"a\u0041"`); sent != odd {
		t.Errorf("sent\n%v\nnot\n%v", sent, odd)
	}
	r.send(call("2", "say", `{"region":"eu-Ω"}`))
	r.next()
	r.next()
	if n := listed.Load(); n != 2 {
		t.Errorf("the tools were listed on %d pages, want once, on two", n)
	}
	if err := r.finish(); err != nil {
		t.Error(err)
	}
}

// TestLines: a document over several lines becomes one line.
func TestLines(t *testing.T) {
	r, _ := start(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 1, \"result\": {\"a\": \"\\n\"}\n}\n")
	}, nil)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + meta + `}}`)
	r.want(`{    "jsonrpc": "2.0",   "id": 1, "result": {"a": "\n"} } `)
}

// TestConcurrency: many requests are answered in whatever order the server likes.
func TestConcurrency(t *testing.T) {
	const many = 50
	var waiting sync.WaitGroup
	waiting.Add(many)
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		waiting.Done()
		waiting.Wait() // all of them are there at once
		reply(w, result(string(m.ID.Of(m.Raw)), fmt.Sprintf(`{"own":%s}`, m.ID.Of(m.Raw))))
	}, nil)
	for i := range many {
		r.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"resources/read","params":{"uri":"x:%d",%s}}`, i, i, meta))
	}
	seen := map[string]bool{}
	for range many {
		seen[r.next()] = true
	}
	for i := range many {
		if want := result(fmt.Sprint(i), fmt.Sprintf(`{"own":%d}`, i)); !seen[want] {
			t.Errorf("%s did not come", want)
		}
	}
}

const hello = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`

const ready = `{"jsonrpc":"2.0","method":"notifications/initialized"}`

// sessions is a server of the sessions era, as small as one can be.
type sessions struct {
	t *testing.T
	// serve answers what is not its own business.
	serve func(w http.ResponseWriter, r *http.Request, m wire.Message)

	mu      sync.Mutex
	open    map[string]chan string // what is to be said by itself
	made    int
	log     []string
	streams chan string // ids of sessions whose stream was opened
}

func newSessions(t *testing.T) *sessions {
	return &sessions{t: t, open: map[string]chan string{}, streams: make(chan string, 10)}
}

// forget is a restart: no session is known any more.
func (s *sessions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.open {
		close(c)
		delete(s.open, id)
	}
}

func (s *sessions) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, line)
}

func (s *sessions) logged() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, m := read(r)
	if m.Method == wire.MethodInitialize {
		s.mu.Lock()
		s.made++
		id := fmt.Sprintf("session-%d", s.made)
		s.open[id] = make(chan string, 10)
		s.mu.Unlock()
		w.Header().Set(wire.HeaderSessionID, id)
		reply(w, result(string(m.ID.Of(m.Raw)), `{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s","version":"1"}}`))
		return
	}
	id := r.Header.Get(wire.HeaderSessionID)
	s.mu.Lock()
	say, known := s.open[id]
	s.mu.Unlock()
	if !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if v := r.Header.Get(wire.HeaderVersion); v != "2025-06-18" {
		s.t.Errorf("%s in version %q", r.Method, v)
	}
	switch r.Method {
	case http.MethodGet:
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		s.streams <- id
		for {
			select {
			case text, ok := <-say:
				if !ok {
					return
				}
				event(w, text)
			case <-r.Context().Done():
				return
			}
		}
	case http.MethodDelete:
		s.note("deleted " + id)
		s.mu.Lock()
		delete(s.open, id)
		s.mu.Unlock()
	default:
		s.note(body)
		if m.Kind != wire.Request {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		s.serve(w, r, m)
	}
}

func (r *rig) open(s *sessions) {
	r.t.Helper()
	r.send(hello)
	if got := r.next(); !strings.Contains(got, `"id":0,"result":{"protocolVersion":"2025-06-18"`) {
		r.t.Fatalf("initialize was answered %s", got)
	}
	r.send(ready)
	r.stream(s)
}

func (r *rig) stream(s *sessions) string {
	r.t.Helper()
	select {
	case id := <-s.streams:
		return id
	case <-time.After(patience):
		r.t.Fatal("the stream of the session was not opened")
		return ""
	}
}

// TestSession: the session is kept, its stream is open, the server may ask and is
// answered, and in the end the session is ended.
func TestSession(t *testing.T) {
	s := newSessions(t)
	answered := make(chan string, 1)
	s.serve = func(w http.ResponseWriter, _ *http.Request, m wire.Message) {
		event(w, `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
		deadline := time.After(patience)
		for {
			if i := slices.IndexFunc(s.logged(), func(l string) bool { return strings.Contains(l, `"id":"q"`) }); i >= 0 {
				answered <- s.logged()[i]
				break
			}
			select {
			case <-deadline:
				t.Error("the question was not answered")
				return
			case <-time.After(time.Millisecond):
			}
		}
		event(w, result(string(m.ID.Of(m.Raw)), `{}`))
	}
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	s.mu.Lock()
	s.open["session-1"] <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	s.mu.Unlock()
	r.want(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	r.send(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}`)
	r.want(`{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
	r.send(`{"jsonrpc":"2.0","id":"q","result":{"action":"accept","n":1.50}}`)
	r.want(result("7", "{}"))
	if got := <-answered; got != `{"jsonrpc":"2.0","id":"q","result":{"action":"accept","n":1.50}}` {
		t.Errorf("the answer arrived as %s", got)
	}
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	log := s.logged()
	if log[0] != ready || log[len(log)-1] != "deleted session-1" {
		t.Errorf("the server saw %q", log)
	}
}

// TestRestart: a server that does not know the session any more gets another one.
// What met it is answered with an error and not sent again.
func TestRestart(t *testing.T) {
	s := newSessions(t)
	s.serve = func(w http.ResponseWriter, _ *http.Request, m wire.Message) {
		reply(w, result(string(m.ID.Of(m.Raw)), `{}`))
	}
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`)
	r.want(result("1", "{}"))
	s.forget()
	// The stream finds out by itself, and says what may have changed.
	if id := r.stream(s); id != "session-2" {
		t.Errorf("the stream is of %s", id)
	}
	r.want(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	r.send(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}`)
	r.want(result("2", "{}"))
}

// TestLostInCall: a call that meets a server without its session is not carried
// out, and says so.
func TestLostInCall(t *testing.T) {
	s := newSessions(t)
	var calls atomic.Int32
	s.serve = func(w http.ResponseWriter, _ *http.Request, m wire.Message) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply(w, result(string(m.ID.Of(m.Raw)), `{}`))
	}
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`)
	r.want(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	if got := r.next(); !strings.Contains(got, `"id":1,"error"`) || !strings.Contains(got, "this was not carried out; another session is open") || !strings.Contains(got, `"sent":"no"`) {
		t.Errorf("got %s", got)
	}
	r.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`)
	r.want(result("1", "{}"))
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls arrived", n)
	}
}

// TestCancelStateless: a cancellation ends the request, and nothing is answered.
func TestCancelStateless(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		if m.Method == wire.MethodPromptsList {
			reply(w, result(string(m.ID.Of(m.Raw)), "{}"))
			return
		}
		close(begun)
		<-req.Context().Done()
		close(over)
	}, nil)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:",` + meta + `}}`)
	<-begun
	r.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	<-over
	r.send(`{"jsonrpc":"2.0","id":2,"method":"prompts/list","params":{` + meta + `}}`)
	r.want(result("2", "{}"))
}

// TestCancelSession: a cancellation is passed on, behind what it cancels.
func TestCancelSession(t *testing.T) {
	s := newSessions(t)
	begun := make(chan struct{})
	s.serve = func(_ http.ResponseWriter, req *http.Request, _ wire.Message) {
		close(begun)
		<-req.Context().Done()
	}
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`)
	r.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"enough"}}`)
	<-begun
	deadline := time.Now().Add(patience)
	for !slices.Contains(s.logged(), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"enough"}}`) {
		if time.Now().After(deadline) {
			t.Fatalf("the cancellation did not arrive: %q", s.logged())
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFaults: whatever goes wrong is one error for one request, which says whether
// the request may have arrived. No request arrives twice.
func TestFaults(t *testing.T) {
	ask := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"resources/read","params":{"uri":"x:",` + meta + `}}`
	}
	for _, c := range []struct {
		name  string
		serve http.HandlerFunc
		sent  string
		want  []string
	}{
		{"the connection breaks", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "maybe", []string{"the connection broke before an answer came", "look at what became of the call"}},
		{"the stream ends early", func(w http.ResponseWriter, _ *http.Request) {
			event(w, `{"jsonrpc":"2.0","method":"notifications/message","params":{}}`)
		}, "maybe", []string{"ended its answer before the response"}},
		{"the stream breaks", func(w http.ResponseWriter, _ *http.Request) {
			event(w, `{"jsonrpc":"2.0","method":"notifications/message","params":{}}`)
			panic(http.ErrAbortHandler)
		}, "maybe", []string{"the connection broke before the response"}},
		{"half a document", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			reply(w, `{"jsonrpc"`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "maybe", []string{"while the answer was being read"}},
		{"no message", func(w http.ResponseWriter, _ *http.Request) { reply(w, `[1]`) }, "maybe", []string{"what it sent is no message"}},
		{"another's answer", func(w http.ResponseWriter, _ *http.Request) { reply(w, result("2", "{}")) }, "maybe", []string{"answers another request"}},
		{"a credential that is not accepted", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "a bearer token\n is required")
		}, "no", []string{"401 Unauthorized: a bearer token is required; the credential is not valid"}},
		{"an error without an id", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"it is \"odd\""}}`)
		}, "no", []string{`400 Bad Request: it is \"odd\"`}},
		{"too large", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) }, "no", []string{"413", "limits.body"}},
		{"a fault of the server", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "maybe", []string{"502"}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "no", []string{"307"}},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }, "maybe", []string{"202"}},
		{"an answer beyond the limit", func(w http.ResponseWriter, _ *http.Request) {
			reply(w, result("1", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`))
		}, "maybe", []string{"more than 1048576 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var arrived atomic.Int32
			r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				arrived.Add(1)
				if req.URL.Path != "/mcp" {
					t.Errorf("%s was called", req.URL)
				}
				c.serve(w, req)
			}, func(c *stdiobridge.Config) { c.MaxMessage = 1 << 20 })
			r.send(ask("1"))
			got := r.next()
			for strings.Contains(got, "notifications/message") {
				got = r.next()
			}
			for _, want := range append(c.want, `{"jsonrpc":"2.0","id":1,"error":{"code":-31004,`, `"data":{"sallyport/bridge":{"sent":"`+c.sent+`"}}`) {
				if !strings.Contains(got, want) {
					t.Errorf("got %s\nwithout %s", got, want)
				}
			}
			if n := arrived.Load(); n != 1 {
				t.Errorf("the request arrived %d times", n)
			}
			if err := r.finish(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPasses: errors and refusals of the server are the client's, whatever the
// status.
func TestPasses(t *testing.T) {
	const refused = `{"jsonrpc":"2.0","id":1,"error":{"code":-31003,"message":"Refused (halted)","data":{"refusal":{}}}}`
	r, _ := start(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, refused)
	}, nil)
	r.send(call("1", "x", "{}"))
	r.want(refused)
}

// TestNobody: where no server is nothing was sent, and the bridge goes on.
func TestNobody(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	r := bridgeTo(t, server.URL+"/mcp", nil)
	for _, line := range []string{hello, call("0", "x", "{}")} {
		r.send(line)
		if got := r.next(); !strings.Contains(got, `"id":0,"error"`) || !strings.Contains(got, "connection refused; nothing was sent") || !strings.Contains(got, `"sent":"no"`) {
			t.Errorf("got %s", got)
		}
	}
	r.send(ready) // nobody answers it
	if err := r.finish(); err != nil {
		t.Error(err)
	}
}

// TestCredential: it is read anew for every request, and one that cannot be read is
// said.
func TestCredential(t *testing.T) {
	keys := []string{"first", "second", ""}
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		reply(w, result(string(m.ID.Of(m.Raw)), fmt.Sprintf("{%q:1}", req.Header.Get("Authorization"))))
	}, func(c *stdiobridge.Config) {
		c.Credential = func() (string, error) {
			key := keys[0]
			keys = keys[1:]
			if key == "" {
				return "", errors.New("the file is gone")
			}
			return key, nil
		}
	})
	ask := `{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + meta + `}}`
	r.send(ask)
	r.want(result("1", `{"Bearer first":1}`))
	r.send(ask)
	r.want(result("1", `{"Bearer second":1}`))
	r.send(ask)
	if got := r.next(); !strings.Contains(got, "there is no credential to send: the file is gone") {
		t.Errorf("got %s", got)
	}
}

// TestBadLines: what is no message is answered, and what follows is read.
func TestBadLines(t *testing.T) {
	hold := make(chan struct{})
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		<-hold
		reply(w, result(string(m.ID.Of(m.Raw)), "{}"))
	}, nil)
	r.send("not JSON")
	if got := r.next(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","error":{"code":-32700,`) {
		t.Errorf("got %s", got)
	}
	r.send(`{"jsonrpc":"2.0","id":5,"method":"ping","id":6}`)
	if got := r.next(); !strings.Contains(got, `"error":{"code":-32`) {
		t.Errorf("got %s", got)
	}
	ask := `{"jsonrpc":"2.0","id":"same","method":"prompts/list","params":{` + meta + `}}`
	r.send(ask)
	r.send(ask)
	if got := r.next(); !strings.Contains(got, "a request with this id is still being answered") {
		t.Errorf("got %s", got)
	}
	close(hold)
	r.want(result(`"same"`, "{}"))
}

// TestHugeLine: a line beyond the limit ends the bridge, since nobody knows where
// the next message begins.
func TestHugeLine(t *testing.T) {
	r, _ := start(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") }, func(c *stdiobridge.Config) { c.MaxMessage = 1000 })
	go io.WriteString(r.in, strings.Repeat("x", 200<<10))
	select {
	case err := <-r.ended:
		r.ended <- err
		if err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

// TestEnd: when the client goes, what is still being answered is waited for a
// little, then cancelled, and an error says so.
func TestEnd(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprintf("slow=%v", slow), func(t *testing.T) {
			begun, gone := make(chan struct{}), make(chan struct{})
			r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
				_, m := read(req)
				close(begun)
				if slow {
					<-req.Context().Done()
				} else {
					reply(w, result(string(m.ID.Of(m.Raw)), "{}"))
				}
				close(gone)
			}, nil)
			r.send(`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + meta + `}}`)
			if slow {
				<-begun
			}
			if err := r.finish(); err != nil {
				t.Error(err)
			}
			<-gone
			if got := r.next(); slow != strings.Contains(got, "the client closed its end before the answer came") || slow == strings.Contains(got, `"result"`) {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestStopped: told to end from outside it ends its session, although the client is
// still there.
func TestStopped(t *testing.T) {
	s := newSessions(t)
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	r.stop()
	err := <-r.ended
	r.ended <- err
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if log := s.logged(); log[len(log)-1] != "deleted session-1" {
		t.Errorf("the server saw %q", log)
	}
}

// TestClientGone: a client that does not read any more ends the bridge.
func TestClientGone(t *testing.T) {
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		reply(w, result(string(m.ID.Of(m.Raw)), "{}"))
	}, func(c *stdiobridge.Config) { c.Out = brokenPipe{} })
	r.send(`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + meta + `}}`)
	err := <-r.ended
	r.ended <- err
	if err == nil || !strings.Contains(err.Error(), "writing to the client: broken") {
		t.Errorf("it ended with %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken") }

// TestEndListening: a subscription has no end of its own, and is not waited for.
func TestEndListening(t *testing.T) {
	begun := make(chan struct{})
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		event(w, `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}`)
		close(begun)
		<-req.Context().Done()
	}, func(c *stdiobridge.Config) { c.Grace = time.Hour })
	r.send(`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{` + meta + `}}`)
	r.want(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}`)
	<-begun
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if line, more := <-r.lines; more {
		t.Errorf("%s came", line)
	}
}

// TestDeafClient: a client that neither reads nor leaves does not keep the bridge.
func TestDeafClient(t *testing.T) {
	nobody, out := io.Pipe()
	answered := make(chan struct{})
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		_, m := read(req)
		reply(w, result(string(m.ID.Of(m.Raw)), "{}"))
		close(answered)
	}, func(c *stdiobridge.Config) { c.Out, c.Grace = out, time.Millisecond })
	r.send(`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{` + meta + `}}`)
	<-answered
	if err := r.finish(); err == nil || !strings.Contains(err.Error(), "does not read") {
		t.Errorf("it ended with %v", err)
	}
	nobody.Close()
}

// TestAllAtOnce: what a client writes without waiting for its session still belongs
// to it.
func TestAllAtOnce(t *testing.T) {
	s := newSessions(t)
	s.serve = func(w http.ResponseWriter, _ *http.Request, m wire.Message) {
		reply(w, result(string(m.ID.Of(m.Raw)), `{}`))
	}
	early := make(chan string, 10)
	var opened atomic.Bool
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		body, m := read(req)
		req.Body = io.NopCloser(strings.NewReader(body))
		if m.Method != wire.MethodInitialize && !opened.Load() {
			early <- body
		}
		if m.Method == wire.MethodInitialize {
			select {
			case body := <-early:
				t.Errorf("%s came before the session was open", body)
			case <-time.After(50 * time.Millisecond): // the chance to be wrong
			}
			opened.Store(true)
		}
		s.ServeHTTP(w, req)
	}, nil)
	r.send(hello + "\n" + ready + "\n" + `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`)
	r.next()
	r.want(result("1", "{}"))
	r.stream(s)
}

// TestOpenedAgain: a client that opens another session has left the one before.
func TestOpenedAgain(t *testing.T) {
	s := newSessions(t)
	r, _ := start(t, s.ServeHTTP, nil)
	r.open(s)
	r.open(s)
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if log := s.logged(); !slices.Equal(log, []string{ready, "deleted session-1", ready, "deleted session-2"}) {
		t.Errorf("the server saw %q", log)
	}
}

// TestToolsChange: which arguments are repeated in headers is asked again once the
// server says that its tools have changed, or that the headers are wrong.
func TestToolsChange(t *testing.T) {
	const mismatch = `{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"no"}}`
	for _, wrong := range []bool{false, true} {
		t.Run(fmt.Sprintf("wrong=%v", wrong), func(t *testing.T) {
			var listed atomic.Int32
			r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
				_, m := read(req)
				id := string(m.ID.Of(m.Raw))
				switch n := listed.Load(); {
				case m.Method == wire.MethodToolsList:
					reply(w, result(id, fmt.Sprintf(`{"tools":[{"name":"say","inputSchema":{"type":"object","properties":{"a":{"type":"string","x-mcp-header":"H%d"}}}}]}`, listed.Add(1))))
				case req.Header.Get(fmt.Sprintf("Mcp-Param-H%d", n)) != "x":
					t.Errorf("after %d listings the headers are %v", n, req.Header)
				case n == 1 && wrong:
					reply(w, mismatch)
				case n == 1:
					event(w, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
					event(w, result(id, "{}"))
				default:
					reply(w, result(id, "{}"))
				}
			}, nil)
			r.send(call("1", "say", `{"a":"x"}`))
			if wrong {
				r.want(mismatch) // it is the client's to call again
			} else {
				r.next()
				r.next()
			}
			r.send(call("2", "say", `{"a":"x"}`))
			r.want(result("2", "{}"))
		})
	}
}

// TestLarge: messages of many megabytes pass as they are.
func TestLarge(t *testing.T) {
	sent := call("1", "x", `{"a":"`+strings.Repeat("é\\u0000", 1<<20)+`"}`)
	answer := result("1", `{"b":"`+strings.Repeat("x", 16<<20)+`","n":1.50}`)
	r, _ := start(t, func(w http.ResponseWriter, req *http.Request) {
		body, m := read(req)
		if m.Method == wire.MethodToolsList {
			reply(w, result(string(m.ID.Of(m.Raw)), `{"tools":[]}`))
			return
		}
		if body != sent {
			t.Errorf("%d bytes arrived as %d others", len(sent), len(body))
		}
		event(w, answer)
	}, nil)
	r.send(sent)
	if got := r.next(); got != answer {
		t.Errorf("%d bytes came out as %d others", len(answer), len(got))
	}
}
