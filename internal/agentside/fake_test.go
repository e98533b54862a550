package agentside_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

const (
	alice = "alice-token" // key "alice"
	bob   = "bob-token"   // key "bob"
)

// fake is a gateway that holds the handler to the contract: it complains of
// exchanges that a gateway could not govern.
type fake struct {
	t     testing.TB
	calls atomic.Int64

	mu     sync.Mutex
	gone   map[string]bool // credentials that count no more
	call   func(ctx context.Context, x *gateway.Exchange) gateway.Reply
	list   func(ctx context.Context, x *gateway.Exchange) gateway.Reply
	tools  *gateway.ToolList
	listen func(ctx context.Context, x *gateway.Exchange, uris []string, l *gateway.Listener) []string
	ended  []*gateway.Listener
	failed error // of Tools and Describe
	caps   string
	closed map[*gateway.Session]int
}

func newFake(t testing.TB) *fake {
	return &fake{
		t: t, gone: map[string]bool{}, closed: map[*gateway.Session]int{},
		caps: `{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"prompts":{"listChanged":true},"completions":{},"logging":{}}`,
		tools: &gateway.ToolList{
			Definitions: [][]byte{
				[]byte(`{"name":"echo","inputSchema":{"type":"object"}, "x-unknown": 12345678901234567890}`),
				[]byte(`{"name":"slow","inputSchema":{"type":"object"}}`),
			},
			Etag: "sha256:tools",
		},
	}
}

func (f *fake) key(credential string) (sallyport.KeyID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, ok := strings.CutSuffix(credential, "-token")
	if !ok || f.gone[credential] {
		return "", sallyport.Refuse(sallyport.Unauthenticated, "the credential is not known", "ask for a new one")
	}
	return sallyport.KeyID(key), nil
}

func (f *fake) revoke(credential string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone[credential] = true
}

var kinds = map[string]sallyport.Kind{
	wire.MethodToolsCall:              sallyport.KindTool,
	wire.MethodResourcesRead:          sallyport.KindResource,
	wire.MethodResourcesSubscribe:     sallyport.KindResource,
	wire.MethodResourcesUnsubscribe:   sallyport.KindResource,
	wire.MethodResourcesList:          sallyport.KindResource,
	wire.MethodResourcesTemplatesList: sallyport.KindResource,
	wire.MethodPromptsGet:             sallyport.KindPrompt,
	wire.MethodPromptsList:            sallyport.KindPrompt,
	wire.MethodCompletionComplete:     sallyport.KindCompletion,
}

// check is the contract of an Exchange.
func (f *fake) check(ctx context.Context, x *gateway.Exchange, listing bool) {
	f.t.Helper()
	switch {
	case x.Credential == "" || strings.Contains(x.Credential, " "):
		f.t.Errorf("credential %q", x.Credential)
	case x.Message.Kind != wire.Request:
		f.t.Errorf("message is a %v", x.Message.Kind)
	case x.Kind != kinds[x.Message.Method] || x.Kind == 0:
		f.t.Errorf("kind %v of %s", x.Kind, x.Message.Method)
	case x.Listing != listing:
		f.t.Errorf("listing %v of %s", x.Listing, x.Message.Method)
	case x.Era != wire.Sessions && x.Era != wire.Stateless:
		f.t.Errorf("era %v", x.Era)
	case (x.Era == wire.Sessions) != (x.Session != nil):
		f.t.Errorf("session %v in era %v", x.Session, x.Era)
	case x.Session != nil && (x.Session.ID == "" || x.Session.Key == "" || x.Session.Deliver == nil):
		f.t.Errorf("session %+v", x.Session)
	case x.ID != "" || x.Headers == nil || ctx == nil:
		f.t.Errorf("exchange %+v", x)
	}
	if _, err := wire.Scan(x.Message.Raw, wire.Limits{}); err != nil {
		f.t.Errorf("message cannot be read: %v", err)
	}
}

func (f *fake) Call(ctx context.Context, x *gateway.Exchange) gateway.Reply {
	f.check(ctx, x, false)
	f.calls.Add(1)
	x.ID = "call_1"
	if _, err := f.key(x.Credential); err != nil {
		return gateway.Reply{Refusal: err.(*sallyport.Refusal)}
	}
	f.mu.Lock()
	call := f.call
	f.mu.Unlock()
	if call != nil {
		return call(ctx, x)
	}
	return gateway.Reply{Result: []byte(`{"content":[],"resultType":"complete"}`)}
}

func (f *fake) List(ctx context.Context, x *gateway.Exchange) gateway.Reply {
	f.check(ctx, x, true)
	if _, err := f.key(x.Credential); err != nil {
		return gateway.Reply{Refusal: err.(*sallyport.Refusal)}
	}
	if f.list != nil {
		return f.list(ctx, x)
	}
	name := map[string]string{
		wire.MethodResourcesList: "resources", wire.MethodResourcesTemplatesList: "resourceTemplates", wire.MethodPromptsList: "prompts",
	}[x.Message.Method]
	return gateway.Reply{Result: []byte(`{"` + name + `":[]}`)}
}

func (f *fake) Tools(_ context.Context, credential string) (*gateway.ToolList, error) {
	if _, err := f.key(credential); err != nil {
		return nil, err
	}
	if f.failed != nil {
		return nil, f.failed
	}
	return f.tools, nil
}

func (f *fake) Describe(_ context.Context, credential string) (*gateway.Description, error) {
	key, err := f.key(credential)
	if err != nil {
		return nil, err
	}
	if f.failed != nil {
		return nil, f.failed
	}
	return &gateway.Description{Key: key, Capabilities: json.RawMessage(f.caps), Instructions: "be \"kind\""}, nil
}

func (f *fake) Listen(ctx context.Context, x *gateway.Exchange, uris []string, l *gateway.Listener) []string {
	if x.Message.Method != wire.MethodSubscriptionsListen || x.Session != nil || l.Updated == nil || l.Ended == nil {
		f.t.Errorf("listens with %+v, %+v", x, l)
	}
	f.mu.Lock()
	listen := f.listen
	f.mu.Unlock()
	if listen != nil {
		return listen(ctx, x, uris, l)
	}
	return nil
}

func (f *fake) EndListener(l *gateway.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, l)
}

func (f *fake) CloseSession(s *gateway.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed[s]++; f.closed[s] > 1 {
		f.t.Errorf("session %s closed %d times", s.ID, f.closed[s])
	}
}

func (f *fake) closedSessions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.closed)
}

func (f *fake) onCall(call func(ctx context.Context, x *gateway.Exchange) gateway.Reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.call = call
}

// testWriter lets what is logged appear in the test's output.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func newHandler(t testing.TB, f *fake, change ...func(*agentside.Config)) *agentside.Handler {
	c := agentside.Config{
		Gateway:      f,
		AllowedHosts: []string{"example.com", "127.0.0.1"},
		ServerInfo:   agentside.ServerInfo{Name: "sallyport", Version: "1.2.3"},
		Log:          slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, f := range change {
		f(&c)
	}
	return agentside.New(c)
}

// serve starts a server that ends with the test.
func serve(t testing.TB, h *agentside.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		h.Close(ctx) // at once: clients are gone
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// request is one request to the endpoint, as a well-behaved client makes it but
// for what a test changes.
type request struct {
	method, url, body string
	header            http.Header
}

func (r *request) http(base string) *http.Request {
	req, err := http.NewRequest(r.method, base+r.url, strings.NewReader(r.body))
	if err != nil {
		panic(err)
	}
	req.Header = r.header
	if host := r.header.Get("Host"); host != "" {
		req.Host = host
	}
	return req
}

func post(body string, headers ...string) *request {
	r := &request{method: http.MethodPost, url: "/mcp", body: body, header: http.Header{
		"Authorization": {"Bearer " + alice},
		"Content-Type":  {"application/json"},
		"Accept":        {"application/json, text/event-stream"},
	}}
	return r.with(headers...)
}

// with sets headers; an empty value removes one, and a name twice in a row sends
// it twice.
func (r *request) with(headers ...string) *request {
	for i := 0; i < len(headers); i += 2 {
		name := http.CanonicalHeaderKey(headers[i])
		switch {
		case headers[i+1] == "":
			delete(r.header, name)
		case i >= 2 && headers[i-2] == headers[i]:
			r.header[name] = append(r.header[name], headers[i+1])
		default:
			r.header[name] = []string{headers[i+1]}
		}
	}
	return r
}

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// modern is a request of the stateless era. params are the members besides
// _meta, with a comma at the end.
func modern(method, params string, headers ...string) *request {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{%s%s}}`, method, params, meta)
	r := post(body, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", method)
	if m, err := wire.Scan([]byte(body), wire.Limits{}); err == nil && m.Name != "" && method != wire.MethodCompletionComplete {
		r.with("Mcp-Name", m.Name)
	}
	return r.with(headers...)
}

// legacy is a request of a session.
func legacy(session, body string, headers ...string) *request {
	return post(body, "Mcp-Session-Id", session, "MCP-Protocol-Version", "2025-11-25").with(headers...)
}

func toolCall(id, name string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{}}}`, id, name)
}

// do serves a request without a network.
func do(h http.Handler, r *request) *http.Response {
	w := httptest.NewRecorder()
	req := r.http("http://example.com")
	if req.Host == "" {
		req.Host = "example.com"
	}
	h.ServeHTTP(w, req)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	return string(b)
}

const initializeBody = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"sampling":{}},"clientInfo":{"name":"test","version":"1"}}}`

// initialize opens a session and returns its id.
func initialize(t testing.TB, h http.Handler, headers ...string) string {
	t.Helper()
	r := do(h, post(initializeBody, headers...))
	text := body(t, r)
	id := r.Header.Get("Mcp-Session-Id")
	if r.StatusCode != 200 || id == "" {
		t.Fatalf("initialize: %d %s", r.StatusCode, text)
	}
	return id
}

// events reads the data of server-sent events from a response.
func events(t testing.TB, r *http.Response) func() string {
	t.Helper()
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("status %d, type %q: %s", r.StatusCode, r.Header.Get("Content-Type"), body(t, r))
	}
	reader := wire.NewEventReader(r.Body, 1<<20)
	return func() string {
		t.Helper()
		e, err := reader.Next()
		if err != nil {
			return err.Error()
		}
		return string(e.Data)
	}
}

// has fails unless all parts are in text.
func has(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %s in\n%s", part, text)
		}
	}
}

// isMessage fails unless the text is one JSON-RPC message.
func isMessage(t testing.TB, text string) wire.Message {
	t.Helper()
	m, err := wire.Scan(bytes.TrimSpace([]byte(text)), wire.Limits{})
	if err != nil {
		t.Errorf("not a message: %v\n%s", err, text)
	}
	return m
}
