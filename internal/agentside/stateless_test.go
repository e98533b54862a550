package agentside_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// odd is a result that a program which decodes and encodes it would change.
const odd = "{ \"content\":[{\"type\":\"video\",\"x\":1.0}],\n\t\"structuredContent\":{\"id\":12345678901234567890,\"t\":\"<a>&\\u00e9\\/\"},\"isError\":false,\"later\":[1e2 , -0],\"resultType\":\"complete\" }"

const serverInfo = `"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"sallyport","version":"1.2.3"}}`

// TestBytesPass: what the gateway gives reaches the client byte for byte behind
// the client's own id, whatever the client's id looks like, and what the client
// sent reaches the gateway so.
func TestBytesPass(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	for _, id := range []string{`7`, `-9007199254740993`, `"a"`, `"\u0061 <&> \"x\""`, `""`} {
		for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
			for _, reply := range []gateway.Reply{
				{Result: []byte(odd)},
				{Result: []byte(`{"content":[{"type":"text","text":"` + strings.Repeat("x", 300<<10) + `"}]}`)},
				{Error: []byte("{ \"code\":-32000,\"message\":\"no\",\"data\":{\"n\":12345678901234567890}\n}")},
			} {
				var r *request
				if era == wire.Stateless {
					r = modern("tools/call", `"name":"echo", "arguments":{"n":12345678901234567890},`)
					r.body = strings.Replace(r.body, `"id":7`, `"id": `+id, 1)
				} else {
					r = legacy(session, toolCall(id, "echo"))
				}
				f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
					if string(x.Message.Raw) != r.body || x.Era != era || x.Message.Name != "echo" || x.Credential != alice {
						t.Errorf("the gateway got %+v", x)
					}
					return reply
				})
				res := do(h, r)
				want := `{"jsonrpc":"2.0","id":` + id + `,"result":` + string(reply.Result) + `}`
				if reply.Error != nil {
					want = `{"jsonrpc":"2.0","id":` + id + `,"error":` + string(reply.Error) + `}`
				}
				got := body(t, res)
				if got != want || res.StatusCode != 200 {
					t.Errorf("%v %s: status %d\ngot  %.200s\nwant %.200s", era, id, res.StatusCode, got, want)
				}
				if res.ContentLength != int64(len(want)) && res.Header.Get("Content-Length") == "" {
					t.Errorf("no Content-Length")
				}
			}
		}
	}
}

// TestEveryMethod serves each method of the stateless era.
func TestEveryMethod(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	for _, tt := range []struct{ method, params, want string }{
		{"server/discover", "", `{"jsonrpc":"2.0","id":7,"result":{"supportedVersions":["2026-07-28","2025-11-25","2025-06-18"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"prompts":{"listChanged":true},"completions":{},"logging":{}},"instructions":"be \"kind\"","resultType":"complete","ttlMs":30000,"cacheScope":"private",` + serverInfo + `}}`},
		{"tools/list", "", `{"jsonrpc":"2.0","id":7,"result":{"tools":[` + string(f.tools.Definitions[0]) + `,` + string(f.tools.Definitions[1]) + `],"resultType":"complete","ttlMs":30000,"cacheScope":"private",` + serverInfo + `}}`},
		{"resources/list", "", `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":30000,"cacheScope":"private",` + serverInfo + `,"resources":[]}}`},
		{"resources/templates/list", "", `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":30000,"cacheScope":"private",` + serverInfo + `,"resourceTemplates":[]}}`},
		{"prompts/list", "", `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":30000,"cacheScope":"private",` + serverInfo + `,"prompts":[]}}`},
		{"tools/call", `"name":"echo",`, `{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete"}}`},
		{"resources/read", `"uri":"file:///a",`, `{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete"}}`},
		{"prompts/get", `"name":"p",`, `{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete"}}`},
		{"completion/complete", `"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":""},`, `{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete"}}`},
	} {
		for range 2 { // the second time from what was kept
			r := do(h, modern(tt.method, tt.params))
			if got := body(t, r); got != tt.want || r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: status %d\ngot  %s\nwant %s", tt.method, r.StatusCode, got, tt.want)
			}
		}
	}
	if text := body(t, do(h, modern("tools/list", `"cursor":"x",`))); !strings.Contains(text, "-32602") {
		t.Errorf("a cursor nobody gave out: %s", text)
	}

	// What a list says of itself is not said again.
	f.list = func(context.Context, *gateway.Exchange) gateway.Reply {
		return gateway.Reply{Result: []byte(`{"prompts":[],"ttlMs":5,"_meta":{"a":1},"resultType":"complete","cacheScope":"private"}`)}
	}
	has(t, body(t, do(h, modern("prompts/list", ""))), `"result":{"prompts":[],"ttlMs":5,"_meta":{"a":1},"resultType":"complete","cacheScope":"private"}}`)
	// And what is not an array of anything still becomes an object.
	f.list = func(context.Context, *gateway.Exchange) gateway.Reply { return gateway.Reply{Result: []byte(`{}`)} }
	isMessage(t, body(t, do(h, modern("prompts/list", ""))))

	for _, method := range []string{"notifications/cancelled", "notifications/whatever"} {
		r := do(h, post(`{"jsonrpc":"2.0","method":"`+method+`","params":{"requestId":7}}`, "MCP-Protocol-Version", "2026-07-28"))
		if text := body(t, r); r.StatusCode != 202 || text != "" {
			t.Errorf("%s: status %d %s", method, r.StatusCode, text)
		}
	}
	r := do(h, post(`{"jsonrpc":"2.0","method":"notifications/x"}`, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "notifications/y"))
	if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, "-32020") {
		t.Errorf("notification with another Mcp-Method: status %d %s", r.StatusCode, text)
	}
}

// TestListsDifferByEtag: two callers with different tools never get each other's.
func TestListsDifferByEtag(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	one := body(t, do(h, modern("tools/list", "")))
	f.tools = &gateway.ToolList{Definitions: [][]byte{[]byte(`{"name":"other"}`)}, Etag: "sha256:other"}
	two := body(t, do(h, modern("tools/list", "")))
	f.tools = &gateway.ToolList{Definitions: [][]byte{[]byte(`{"name":"third"}`)}}
	three := body(t, do(h, modern("tools/list", "")))
	f.tools = &gateway.ToolList{}
	none := body(t, do(h, modern("tools/list", "")))
	has(t, one, "echo")
	has(t, two, `"tools":[{"name":"other"}]`)
	has(t, three, `"tools":[{"name":"third"}]`)
	has(t, none, `"tools":[],`)
}

// TestRefusals: to a model a refusal is the result of its tool; to a program it is
// an error. Neither says what only people may know.
func TestRefusals(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	refusal := &sallyport.Refusal{Code: sallyport.Denied, Reason: "no policy permits it", Hint: "ask for less",
		Detail: map[string]any{"policy": "production-only"}}
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		x.ID = "call_9"
		return gateway.Reply{Refusal: refusal}
	})
	told := `{"code":"denied","reason":"no policy permits it","hint":"ask for less"}`
	const text = `Refused (denied): no policy permits it. ask for less`
	for _, tt := range []struct {
		r    *request
		want string
	}{
		{modern("tools/call", `"name":"echo",`), `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[{"type":"text","text":"` + text + `"}],"isError":true,"_meta":{"sallyport/refusal":` + told + `,"io.modelcontextprotocol/serverInfo":{"name":"sallyport","version":"1.2.3"}}}}`},
		{legacy(session, toolCall("1", "echo")), `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + text + `"}],"isError":true,"_meta":{"sallyport/refusal":` + told + `}}}`},
		{modern("resources/read", `"uri":"file:///a",`), `{"jsonrpc":"2.0","id":7,"error":{"code":-31003,"message":"` + text + `","data":{"refusal":` + told + `}}}`},
		{legacy(session, `{"jsonrpc":"2.0","id":"p","method":"prompts/get","params":{"name":"p"}}`), `{"jsonrpc":"2.0","id":"p","error":{"code":-31003,"message":"` + text + `","data":{"refusal":` + told + `}}}`},
	} {
		r := do(h, tt.r)
		if got := body(t, r); got != tt.want || r.StatusCode != 200 {
			t.Errorf("status %d\ngot  %s\nwant %s", r.StatusCode, got, tt.want)
		}
	}

	// Every code reaches a model as a result, but those that say what is wrong with the
	// envelope: who asks, what the headers say, what the protocol asks for.
	for _, code := range []sallyport.Code{sallyport.NoRun, sallyport.NoRelease, sallyport.UnknownTool, sallyport.Halted,
		sallyport.NotFound, sallyport.InvalidArguments, sallyport.Internal500, sallyport.NotReady, sallyport.ApprovalRequired} {
		refusal = sallyport.Refuse(code, "because", "")
		for _, r := range []*request{modern("tools/call", `"name":"echo",`), legacy(session, toolCall("1", "echo"))} {
			res := do(h, r)
			got := body(t, res)
			has(t, got, `"isError":true`, `Refused (`+string(code)+`): because"`)
			if told := strings.Contains(got, `"call":"call_9"`); told != (code == sallyport.Internal500) {
				t.Errorf("%s: the id of the call is told: %v", code, told)
			}
			if res.StatusCode != 200 {
				t.Errorf("%s: status %d", code, res.StatusCode)
			}
		}
	}
	refusal = sallyport.Refuse(sallyport.Unauthenticated, "revoked", "")
	for _, r := range []*request{modern("tools/call", `"name":"echo",`), legacy(session, toolCall("1", "echo"))} {
		res := do(h, r)
		has(t, body(t, res), `"error":{"code":-31003,"message":"Refused (unauthenticated): revoked"`)
		if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("status %d, %v", res.StatusCode, res.Header)
		}
	}

	refusal = sallyport.Refuse(sallyport.HeaderMismatch, "another region", "")
	mismatched := do(h, modern("tools/call", `"name":"echo",`))
	has(t, body(t, mismatched), `"id":7,"error":{"code":-32020,"message":"Refused (header_mismatch): another region","data":{"refusal":{"code":"header_mismatch"`)
	if mismatched.StatusCode != 400 {
		t.Errorf("status %d", mismatched.StatusCode)
	}

	// A gateway that says nothing at all is a fault.
	f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply { return gateway.Reply{} })
	has(t, body(t, do(h, modern("tools/call", `"name":"echo",`))), `"isError":true`, `Refused (internal)`)
	f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply { return gateway.Reply{Refusal: refusal} })

	// Codes that the protocol has a number for.
	for _, tt := range []struct {
		code          sallyport.Code
		era1, era2    string
		method, param string
	}{
		{sallyport.NotFound, "-32002", "-32602", "resources/read", `"uri":"file:///a",`},
		{sallyport.NotFound, "-32602", "-32602", "prompts/get", `"name":"p",`},
		{sallyport.BadRequest, "-32602", "-32602", "prompts/get", `"name":"p",`},
		{sallyport.BadRequest, "-32602", "-32602", "tools/call", `"name":"echo",`},
		{sallyport.Internal500, "-32603", "-32603", "prompts/get", `"name":"p",`},
	} {
		refusal = sallyport.Refuse(tt.code, "because", "")
		one := legacy(session, `{"jsonrpc":"2.0","id":1,"method":"`+tt.method+`","params":{`+strings.TrimSuffix(tt.param, ",")+`}}`)
		has(t, body(t, do(h, one)), `"code":`+tt.era1)
		has(t, body(t, do(h, modern(tt.method, tt.param))), `"code":`+tt.era2)
	}
}

// TestStatusOfErrors: the stateless era gives some errors of a server a status of
// their own; where there are sessions 404 means that one has ended.
func TestStatusOfErrors(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	for code, status := range map[string]int{"-32601": 404, "-32021": 400, "-32602": 200, "-32020": 200, "-32000": 200, "5": 200} {
		f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
			return gateway.Reply{Error: []byte(`{"code":` + code + `,"message":"m"}`)}
		})
		if r := do(h, modern("tools/call", `"name":"echo",`)); r.StatusCode != status {
			t.Errorf("code %s: status %d, want %d", code, r.StatusCode, status)
		}
		if r := do(h, legacy(session, toolCall("1", "echo"))); r.StatusCode != 200 {
			t.Errorf("code %s in a session: status %d", code, r.StatusCode)
		}
	}
}

// TestStreams: an answer becomes a stream with the first notification and not
// before it, in both eras, if the client takes streams by name.
func TestStreams(t *testing.T) {
	f := newFake(t)
	server := serve(t, newHandler(t, f))
	session := initialize(t, server.Config.Handler, "Host", "127.0.0.1")
	progress := func(n string) string {
		return `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":` + n + `}}`
	}
	for _, r := range []*request{modern("tools/call", `"name":"echo",`), legacy(session, toolCall("7", "echo"))} {
		next := make(chan string)
		f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			for n := range next {
				raw := []byte(progress(n))
				x.Notify(raw)
				clear(raw) // it belongs to the upstream again
			}
			return gateway.Reply{Result: []byte("{\"content\":[],\n\"x\":1}")}
		})
		go func() { next <- "1" }()
		res, err := http.DefaultClient.Do(r.http(server.URL))
		if err != nil {
			t.Fatal(err)
		}
		if res.Header.Get("X-Accel-Buffering") != "no" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", res.Header)
		}
		read := events(t, res)
		if got := read(); got != progress("1") {
			t.Errorf("first event %s", got)
		}
		next <- "2" // the first has come although the call goes on
		if got := read(); got != progress("2") {
			t.Errorf("second event %s", got)
		}
		close(next)
		if got := read(); got != "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[],\n\"x\":1}}" {
			t.Errorf("response %q", got)
		}
		if got := read(); got != "EOF" {
			t.Errorf("after the response: %s", got)
		}

		// A client that only lets anything pass gets one document.
		f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			if x.Notify != nil {
				t.Error("notifications of which nobody will hear")
			}
			return gateway.Reply{Result: []byte(`{}`)}
		})
		res, err = http.DefaultClient.Do(r.with("Accept", "*/*").http(server.URL))
		if err != nil {
			t.Fatal(err)
		}
		if got := body(t, res); got != `{"jsonrpc":"2.0","id":7,"result":{}}` {
			t.Errorf("answer %s", got)
		}
	}
}

// TestNotifyAfterTheEnd: an upstream that goes on talking after its response is
// not heard, and does no harm.
func TestNotifyAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f)
		var notify func([]byte)
		f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			notify = x.Notify
			return gateway.Reply{Result: []byte(`{}`)}
		})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, modern("tools/call", `"name":"echo",`).http("http://example.com"))
		notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`))
		synctest.Wait()
		if got := w.Body.String(); got != `{"jsonrpc":"2.0","id":7,"result":{}}` {
			t.Errorf("answer %s", got)
		}
	})
}

// TestWriteDeadlines: what may block has a deadline, and the connection, which may
// carry more requests, is left without one.
func TestWriteDeadlines(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	text := ""
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		if text == "" {
			x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`))
		}
		return gateway.Reply{Result: []byte(`{"x":"` + text + `"}`)}
	})
	for _, text = range []string{"", strings.Repeat("x", 1<<20)} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, modern("tools/call", `"name":"echo",`).http("http://example.com"))
		n := len(w.write)
		if n < 2 || !w.write[n-1].IsZero() {
			t.Fatalf("write deadlines %v", w.write)
		}
		for _, d := range w.write[:n-1] {
			if time.Until(d) < 10*time.Second {
				t.Errorf("write deadlines %v", w.write)
			}
		}
	}
}

// TestLogMessages: in the stateless era a request says which it wants, and gets
// none if it says nothing.
func TestLogMessages(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		for _, level := range []string{`"debug"`, `"warning"`, `"emergency"`, `"loud"`, `7`} {
			x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":` + level + `,"data":1}}`))
		}
		x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{}}`))
		x.Notify([]byte(`not a message`))
		x.Notify([]byte(`{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}`)) // not in this era, not this way
		return gateway.Reply{Result: []byte(`{}`)}
	})
	for wants, gets := range map[string][]string{
		"":          nil,
		"debug":     {"debug", "warning", "emergency"},
		"warning":   {"warning", "emergency"},
		"emergency": {"emergency"},
	} {
		r := modern("tools/call", `"name":"echo",`)
		if wants != "" {
			r.body = strings.Replace(r.body, `Capabilities":{}`, `Capabilities":{},"io.modelcontextprotocol/logLevel":"`+wants+`"`, 1)
		}
		text := body(t, do(h, r))
		for _, level := range []string{"debug", "warning", "emergency"} {
			want := false
			for _, g := range gets {
				want = want || g == level
			}
			if strings.Contains(text, `"`+level+`"`) != want {
				t.Errorf("wants %q: %s", wants, text)
			}
		}
		if strings.Contains(text, "loud") || strings.Contains(text, "sampling") || strings.Count(text, "notifications/message") != len(gets) {
			t.Errorf("wants %q: %s", wants, text)
		}
	}
}

// TestDisconnectCancels: in the stateless era the end of the connection is the
// cancellation.
func TestDisconnectCancels(t *testing.T) {
	f := newFake(t)
	server := serve(t, newHandler(t, f))
	begun, cancelled := make(chan struct{}), make(chan error, 1)
	f.onCall(func(ctx context.Context, _ *gateway.Exchange) gateway.Reply {
		close(begun)
		<-ctx.Done()
		cancelled <- ctx.Err()
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "the call was cancelled", "")}
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := http.DefaultClient.Do(modern("tools/call", `"name":"echo",`).http(server.URL).WithContext(ctx)); err == nil {
		t.Error("a cancelled request was answered")
	}
	if err := <-cancelled; err != context.Canceled {
		t.Errorf("cancelled with %v", err)
	}
}

// TestListen: acknowledged first, then news of what was asked for and offered,
// each with the id of the request; and a response when the server ends it.
func TestListen(t *testing.T) {
	f := newFake(t)
	f.caps = `{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":false}}`
	h := newHandler(t, f)
	server := serve(t, h)
	res, err := http.DefaultClient.Do(modern("subscriptions/listen",
		`"notifications":{"toolsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["file:///a"]},`).http(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	read := events(t, res)
	const id = `"_meta":{"io.modelcontextprotocol/subscriptionId":7`
	if got := read(); got != `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{`+id+`},"notifications":{"toolsListChanged":true}}}` {
		t.Errorf("first event %s", got)
	}
	for range 3 {
		h.ToolsChanged()
		if got := read(); got != `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{`+id+`}}}` {
			t.Errorf("news %s", got)
		}
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := read(); got != `{"jsonrpc":"2.0","id":7,"result":{`+id+`,"io.modelcontextprotocol/serverInfo":{"name":"sallyport","version":"1.2.3"}},"resultType":"complete"}}` {
		t.Errorf("response %s", got)
	}
	if got := read(); got != "EOF" {
		t.Errorf("after the end: %s", got)
	}
	if r := do(h, modern("tools/list", "")); r.StatusCode != 503 {
		t.Errorf("status %d from a closed handler", r.StatusCode)
	}
}

// TestListenToResources: what the gateway agrees to is acknowledged and told, what
// waits is told once, and the stream ends with a subscription.
func TestListenToResources(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	var l *gateway.Listener
	f.listen = func(_ context.Context, _ *gateway.Exchange, uris []string, of *gateway.Listener) []string {
		if want := []string{"file:///<b>", "file:///a"}; !slices.Equal(uris, want) {
			t.Errorf("asked for %q", uris)
		}
		l = of
		l.Updated("file:///a") // before it is acknowledged
		l.Updated("file:///a")
		l.Changed("notifications/resources/list_changed")
		l.Changed("notifications/prompts/list_changed") // which it has not asked for
		return uris[1:]
	}
	server := serve(t, h)
	res, err := http.DefaultClient.Do(modern("subscriptions/listen",
		`"notifications":{"resourcesListChanged":true,"resourceSubscriptions":["file:///a","file:///<b>","file:///a"]},`).http(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	read := events(t, res)
	const id = `"_meta":{"io.modelcontextprotocol/subscriptionId":7`
	for _, want := range []string{
		`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{` + id + `},"notifications":{"resourcesListChanged":true,"resourceSubscriptions":["file:///a"]}}}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{` + id + `},"uri":"file:///a"}}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/list_changed","params":{` + id + `}}}`,
	} {
		if got := read(); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	l.Ended()
	has(t, read(), `"id":7,"result":`, `"resultType":"complete"`)
	if got := read(); got != "EOF" {
		t.Errorf("after the end: %s", got)
	}
	if f.mu.Lock(); !slices.Contains(f.ended, l) {
		t.Error("the gateway goes on telling")
	}
	f.mu.Unlock()
	for params, want := range map[string]string{
		`"notifications":{"resourceSubscriptions":"a"},`:                       "not an array of strings",
		`"notifications":{"resourceSubscriptions":[7]},`:                       "not an array of strings",
		`"notifications":{"resourceSubscriptions":[` + manyStrings(65) + `]},`: "more than 64",
	} {
		r := do(h, modern("subscriptions/listen", params))
		if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, want) {
			t.Errorf("%.60s: status %d %s", params, r.StatusCode, text)
		}
	}
}

func manyStrings(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Quote("a:" + strconv.Itoa(i))
	}
	return strings.Join(all, ",")
}

// TestListenToNothing ends at once, in the right form.
func TestListenToNothing(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	read := events(t, do(h, modern("subscriptions/listen", `"notifications":{"resourceSubscriptions":["file:///a"]},`)))
	has(t, read(), "notifications/subscriptions/acknowledged", `"notifications":{}`)
	has(t, read(), `"id":7,"result":`, `"resultType":"complete"`, `"io.modelcontextprotocol/subscriptionId":7`)
	for _, params := range []string{"", `"notifications":[],`, `"notifications":null,`} {
		r := do(h, modern("subscriptions/listen", params))
		if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, "-32602") {
			t.Errorf("%s: status %d %s", params, r.StatusCode, text)
		}
	}
}

// TestListensAreBounded by key, and a stream that ends makes room.
func TestListensAreBounded(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	open := func(credential string) (*http.Response, context.CancelFunc) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		res, err := http.DefaultClient.Do(modern("subscriptions/listen", `"notifications":{"toolsListChanged":true},`,
			"Authorization", "Bearer "+credential).http(server.URL).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		return res, cancel
	}
	var first context.CancelFunc
	for i := range 16 {
		res, cancel := open(alice)
		events(t, res)()
		if i == 0 {
			first = cancel
		}
	}
	if res, _ := open(alice); res.StatusCode != 429 {
		t.Errorf("the 17th: status %d", res.StatusCode)
	}
	if res, _ := open(bob); res.StatusCode != 200 {
		t.Errorf("of another key: status %d", res.StatusCode)
	}
	first()
	deadline := time.Now().Add(10 * time.Second)
	for {
		res, cancel := open(alice)
		if res.StatusCode == 200 {
			break
		}
		cancel()
		if time.Now().After(deadline) {
			t.Fatal("a stream that ended makes no room")
		}
	}
}

// TestListenKeepsAlive with comments, and ends when the credential counts no more.
func TestListenKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f)
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			req := modern("subscriptions/listen", `"notifications":{"toolsListChanged":true},`).http("http://example.com")
			h.ServeHTTP(w, req.WithContext(t.Context()))
		}()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if got := strings.Count(w.Body.String(), ":\n"); got < 2 || got > 4 {
			t.Errorf("%d comments in a minute", got)
		}
		f.revoke(alice)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the stream outlives its credential")
			h.Close(t.Context())
		}
	})
}

// TestCallStreamKeepsAlive while a call that has begun to stream is quiet.
func TestCallStreamKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`))
			time.Sleep(time.Minute + time.Second)
			return gateway.Reply{Result: []byte(`{}`)}
		})
		text := body(t, do(newHandler(t, f), modern("tools/call", `"name":"echo",`)))
		if got := strings.Count(text, ":\n"); got != 3 {
			t.Errorf("%d comments in a minute:\n%s", got, text)
		}
		if !strings.HasSuffix(text, "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n") {
			t.Errorf("no response at the end:\n%s", text)
		}
	})
}

// TestSlowReader: a client that reads nothing holds up no upstream, and loses the
// oldest notifications and never the response.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		const n = 5000
		f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			for i := range n {
				x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":` + strings.Repeat("1", 1+i%9) + `}}`))
			}
			return gateway.Reply{Result: []byte(`{}`)}
		})
		w := &slow{ResponseRecorder: httptest.NewRecorder()}
		begin := time.Now()
		newHandler(t, f).ServeHTTP(w, modern("tools/call", `"name":"echo",`).http("http://example.com"))
		text := w.Body.String()
		if got := strings.Count(text, "notifications/progress"); got == 0 || got > 600 {
			t.Errorf("%d of %d notifications were kept", got, n)
		}
		has(t, text, `"id":7,"result":{}`)
		if took := time.Since(begin); took > 10*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// slow is a client that takes a minute for each read.
type slow struct{ *httptest.ResponseRecorder }

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(time.Minute)
	return s.ResponseRecorder.Write(b)
}

// TestClosedHandler ends what is going on: calls have until the context's end.
func TestClosedHandler(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f, func(c *agentside.Config) { c.MaxSessions = 3 })
	session := initialize(t, h)
	begun, cancelled := make(chan struct{}), make(chan struct{})
	f.onCall(func(ctx context.Context, _ *gateway.Exchange) gateway.Reply {
		close(begun)
		<-ctx.Done()
		close(cancelled)
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "x", "")}
	})
	go do(h, legacy(session, toolCall("1", "slow")))
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan error)
	go func() { closed <- h.Close(ctx) }()
	for do(h, modern("tools/list", "")).StatusCode != 503 {
	}
	select {
	case <-cancelled:
		t.Error("the call did not get its time")
	default:
	}
	cancel()
	if err := <-closed; err != context.Canceled {
		t.Errorf("closed with %v", err)
	}
	<-cancelled
	if h.Sessions() != 0 || f.closedSessions() != 1 {
		t.Errorf("%d sessions, %d closed", h.Sessions(), f.closedSessions())
	}
	if err := h.Close(t.Context()); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
