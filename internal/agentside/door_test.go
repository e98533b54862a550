package agentside_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
)

// TestDoor holds still what every kind of request is answered with, and that
// nothing that is refused reaches the gateway.
func TestDoor(t *testing.T) {
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	deep := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}}`
	call := `"name":"echo","arguments":{},`
	for _, tt := range []struct {
		name   string
		r      *request
		status int
		want   string // in the body, or in the header named before a colon
	}{
		{"host that is not ours", post(ping, "Host", "evil.example"), 403, "host"},
		{"host with a name of ours before it", post(ping, "Host", "example.com.evil.example"), 403, "host"},
		{"host with a dot behind it", post(ping, "Host", "example.com."), 403, "host"},
		{"host with a port", post(ping, "Host", "example.com:8484"), 400, "Mcp-Session-Id"},
		{"host with something like a port", post(ping, "Host", "example.com:x"), 403, "host"},
		{"host in capitals", post(ping, "Host", "EXAMPLE.com"), 400, "Mcp-Session-Id"},
		{"origin of another site", post(ping, "Origin", "https://evil.example"), 403, "origin"},
		{"origin null", post(ping, "Origin", "null"), 403, "origin"},
		{"origin with the host in its path", post(ping, "Origin", "http://evil.example/example.com"), 403, "origin"},
		{"origin with the host as user", post(ping, "Origin", "http://example.com@evil.example"), 403, "origin"},
		{"origin of another port", post(ping, "Origin", "http://example.com:81"), 403, "origin"},
		{"origin of the host itself", post(ping, "Origin", "http://example.com"), 400, "Mcp-Session-Id"},
		{"origin that is listed", post(ping, "Origin", "https://inspector.example"), 400, "Mcp-Session-Id"},
		{"two origins", post(ping, "Origin", "http://example.com", "Origin", "http://example.com"), 400, "Origin"},
		{"rebinding: the attacker's host and origin", post(ping, "Host", "evil.example", "Origin", "http://evil.example"), 403, "host"},

		{"put", &request{method: "PUT", url: "/mcp", header: http.Header{}}, 405, "Allow:GET, POST, DELETE"},
		{"options", &request{method: "OPTIONS", url: "/mcp", header: http.Header{}}, 405, "Allow:GET, POST, DELETE"},
		{"get of the stateless era", (&request{method: "GET", url: "/mcp", header: http.Header{}}).with("MCP-Protocol-Version", "2026-07-28"), 405, "Allow:POST"},
		{"delete of the stateless era", (&request{method: "DELETE", url: "/mcp", header: http.Header{}}).with("MCP-Protocol-Version", "2026-07-28"), 405, "Allow:POST"},

		{"no content type", post(ping, "Content-Type", ""), 415, "application/json"},
		{"form", post(ping, "Content-Type", "application/x-www-form-urlencoded"), 415, ""},
		{"text", post(ping, "Content-Type", "text/plain"), 415, ""},
		{"json in another charset", post(ping, "Content-Type", "application/json; charset=utf-16"), 415, ""},
		{"json in utf-8", post(ping, "Content-Type", `Application/JSON; charset="UTF-8"`), 400, "Mcp-Session-Id"},
		{"two content types", post(ping, "Content-Type", "application/json", "Content-Type", "application/json"), 400, "Content-Type"},
		{"gzip", post(ping, "Content-Encoding", "gzip"), 415, "encoded"},
		{"identity", post(ping, "Content-Encoding", "identity"), 400, "Mcp-Session-Id"},

		{"accepts only json", post(ping, "Accept", "application/json"), 406, ""},
		{"accepts only streams", post(ping, "Accept", "text/event-stream"), 406, ""},
		{"accepts html", post(ping, "Accept", "text/html"), 406, ""},
		{"accepts no streams", post(ping, "Accept", "application/json, text/event-stream;q=0.0"), 406, ""},
		{"accepts anything", post(ping, "Accept", "*/*"), 400, "Mcp-Session-Id"},
		{"accepts all of both types", post(ping, "Accept", "application/*;q=0.5, TEXT/*"), 400, "Mcp-Session-Id"},
		{"does not say what it accepts", post(ping, "Accept", ""), 400, "Mcp-Session-Id"},
		{"accepts in two lines", post(ping, "Accept", "application/json", "Accept", "text/event-stream"), 400, "Mcp-Session-Id"},

		{"no credential", post(ping, "Authorization", ""), 401, `WWW-Authenticate:Bearer resource_metadata="http://example.com/.well-known/oauth-protected-resource"`},
		{"basic", post(ping, "Authorization", "Basic YTpi"), 401, `WWW-Authenticate:Bearer resource_metadata="http://example.com/.well-known/oauth-protected-resource", error="invalid_token"`},
		{"empty bearer", post(ping, "Authorization", "Bearer  "), 401, ""},
		{"two bearers in a line", post(ping, "Authorization", "Bearer a, Bearer b"), 401, ""},
		{"two credentials", post(ping, "Authorization", "Bearer a", "Authorization", "Bearer b"), 400, "Authorization"},
		{"bearer in lower case", post(ping, "Authorization", "bearer "+alice), 400, "Mcp-Session-Id"},
		{"credential in the query", func() *request { r := post(ping, "Authorization", ""); r.url = "/mcp?access_token=" + alice; return r }(), 400, "query"},
		{"credential in both", func() *request { r := post(ping); r.url = "/mcp?access_token=" + alice; return r }(), 400, "query"},
		{"unknown credential, stateless", modern("tools/list", "", "Authorization", "Bearer x"), 401, `"code":"unauthenticated"`},
		{"unknown credential, call", modern("tools/call", call, "Authorization", "Bearer x"), 401, `"code":"unauthenticated"`},
		{"unknown credential, initialize", post(initializeBody, "Authorization", "Bearer x"), 401, `WWW-Authenticate:Bearer resource_metadata="http://example.com/.well-known/oauth-protected-resource", error="invalid_token"`},

		{"two versions", modern("tools/list", "", "MCP-Protocol-Version", "2026-07-28", "MCP-Protocol-Version", "2026-07-28"), 400, "Mcp-Protocol-Version"},
		{"two sessions", post(ping, "Mcp-Session-Id", "a", "Mcp-Session-Id", "b"), 400, "Mcp-Session-Id"},
		{"two methods", modern("tools/list", "", "Mcp-Method", "tools/list", "Mcp-Method", "tools/list"), 400, "Mcp-Method"},
		{"two names", modern("tools/call", call, "Mcp-Name", "echo", "Mcp-Name", "echo"), 400, "Mcp-Name"},

		{"body too large", post(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"` + strings.Repeat("x", 70<<10) + `"}}`), 413, ""},
		{"empty body", post(""), 400, `"code":-32700`},
		{"not json", post("hello"), 400, `"code":-32700`},
		{"two messages", post(ping + ping), 400, `"code":-32700`},
		{"bad utf-8", post("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"x\":\"\xff\"}}"), 400, `"code":-32700`},
		{"batch", post("[" + ping + "]"), 400, `"code":-32600`},
		{"too deep", post(deep), 400, `"code":-32600`},
		{"duplicate name", post(`{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`), 400, `"code":-32700`},
		{"duplicate name in escapes", post(`{"jsonrpc":"2.0","id":1,"method":"ping","meth\u006fd":"tools/call"}`), 400, `"code":-32700`},
		{"name in other case", post(`{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`), 400, `"code":-32`},
		{"no version of json-rpc", post(`{"id":1,"method":"ping"}`), 400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600`},
		{"id null", post(`{"jsonrpc":"2.0","id":null,"method":"ping"}`), 400, `"code":-32600`},
		{"id fraction", post(`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`), 400, `"code":-32600`},
		{"params array", post(`{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`), 400, `"code":-32600`},

		{"version nobody knows", modern("tools/list", "", "MCP-Protocol-Version", "1900-01-01"), 400, `"code":-32020`},
		{"version nobody knows, in header and body", post(strings.ReplaceAll(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{`+meta+`}}`, "2026-07-28", "2099-01-01"), "MCP-Protocol-Version", "2099-01-01"), 400,
			`{"jsonrpc":"2.0","id":7,"error":{"code":-32022,"message":"unsupported protocol version","data":{"supported":["2026-07-28","2025-11-25","2025-06-18"],"requested":"2099-01-01"}}}`},
		{"version nobody knows, of a session", post(ping, "MCP-Protocol-Version", "2024-11-05"), 400, `"code":-32022`},
		{"header of one era, body of the other", modern("tools/list", "", "MCP-Protocol-Version", "2025-11-25"), 400, `"code":-32020`},
		{"body of the new era without header", modern("tools/list", "", "MCP-Protocol-Version", ""), 400, `"code":-32020`},
		{"header without _meta", post(ping, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "ping"), 400, `"code":-32602`},
		{"no client capabilities", post(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/list"), 400, `"code":-32602`},
		{"no Mcp-Method", modern("tools/list", "", "Mcp-Method", ""), 400, `"code":-32020`},
		{"another Mcp-Method", modern("tools/list", "", "Mcp-Method", "tools/call"), 400, `"code":-32020`},
		{"Mcp-Method in other case", modern("tools/list", "", "Mcp-Method", "Tools/List"), 400, `"code":-32020`},
		{"no Mcp-Name", modern("tools/call", call, "Mcp-Name", ""), 400, `"code":-32020`},
		{"another Mcp-Name", modern("tools/call", call, "Mcp-Name", "delete"), 400, `"code":-32020`},
		{"another Mcp-Name, encoded", modern("tools/call", call, "Mcp-Name", "=?base64?ZGVsZXRl?="), 400, `"code":-32020`},
		{"log level nobody knows", post(strings.Replace(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{`+meta+`}}`, `Capabilities":{}`, `Capabilities":{},"io.modelcontextprotocol/logLevel":"loud"`, 1), "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/list"), 400, `"code":-32602`},

		{"initialize in the new era", modern("initialize", ""), 404, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601`},
		{"ping in the new era", modern("ping", ""), 404, `"code":-32601`},
		{"setLevel in the new era", modern("logging/setLevel", `"level":"info",`), 404, `"code":-32601`},
		{"subscribe in the new era", modern("resources/subscribe", `"uri":"file:///a",`), 404, `"code":-32601`},
		{"unknown method in the new era", modern("tools/steal", ""), 404, `"code":-32601`},
		{"method of servers in the new era", modern("sampling/createMessage", ""), 404, `"code":-32601`},
		{"response in the new era", post(`{"jsonrpc":"2.0","id":7,"result":{}}`, "MCP-Protocol-Version", "2026-07-28"), 400, `"code":-32600`},

		{"no session", post(ping), 400, "Mcp-Session-Id"},
		{"unknown session", legacy("nobody", ping), 404, `"id":1,"error":{"code":-32600`},
		{"unknown session and credential", legacy("nobody", ping, "Authorization", "Bearer x"), 401, `WWW-Authenticate:Bearer resource_metadata="http://example.com/.well-known/oauth-protected-resource", error="invalid_token"`},
		{"get without a session", (&request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}}}), 400, "Mcp-Session-Id"},
		{"get of what is no stream", (&request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/html"}}}), 406, ""},
		{"get without a credential", (&request{method: "GET", url: "/mcp", header: http.Header{"Accept": {"text/event-stream"}}}), 401, ""},
		{"get of a version nobody knows", (&request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Protocol-Version": {"2024-11-05"}}}), 400, "version"},
		{"delete of an unknown session", (&request{method: "DELETE", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Session-Id": {"nobody"}}}), 404, ""},
		{"initialize without capabilities", post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{}}}`), 200, `"code":-32602`},
		{"initialize without params", post(`{"jsonrpc":"2.0","id":1,"method":"initialize"}`), 200, `"code":-32602`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			known := 0
			f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
				known++
				return gateway.Reply{Result: []byte("{}")}
			})
			h := newHandler(t, f, func(c *agentside.Config) {
				c.MaxBody = 64 << 10
				c.MaxDepth = 100
				c.AllowedOrigins = []string{"https://Inspector.example/"}
			})
			r := do(h, tt.r)
			text := body(t, r)
			if r.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", r.StatusCode, tt.status, text)
			}
			if name, value, ok := strings.Cut(tt.want, ":"); ok && http.CanonicalHeaderKey(name) != "" && r.Header.Values(name) != nil {
				if got := r.Header.Get(name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			} else {
				has(t, text, tt.want)
			}
			if r.Header.Get("Content-Type") == "application/json" {
				isMessage(t, text)
			}
			if got := r.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control is %q", got)
			}
			if known != 0 || h.Sessions() != 0 {
				t.Errorf("%d calls, %d sessions", known, h.Sessions())
			}
			if r.Header.Get("Mcp-Session-Id") != "" {
				t.Error("a session id was given out")
			}
		})
	}
}

// TestBodyIsReadWhole: nothing is asked of the gateway before the last byte of
// the body has come, and never if it does not come.
func TestBodyIsReadWhole(t *testing.T) {
	f := newFake(t)
	server := serve(t, newHandler(t, f))
	whole := modern("tools/call", `"name":"echo","arguments":{"a":1},`)

	in, out := io.Pipe()
	req := whole.http(server.URL)
	req.Body, req.ContentLength = in, int64(len(whole.body))
	done := make(chan *http.Response, 1)
	go func() {
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	io.WriteString(out, whole.body[:len(whole.body)-1])
	if n := f.calls.Load(); n != 0 {
		t.Errorf("%d calls before the body was there", n)
	}
	io.WriteString(out, whole.body[len(whole.body)-1:])
	out.Close()
	r := <-done
	if text := body(t, r); r.StatusCode != 200 || f.calls.Load() != 1 {
		t.Errorf("status %d after %d calls: %s", r.StatusCode, f.calls.Load(), text)
	}

	in, out = io.Pipe()
	req = whole.http(server.URL)
	req.Body, req.ContentLength = in, int64(len(whole.body))
	go func() {
		io.WriteString(out, whole.body[:len(whole.body)-1])
		out.CloseWithError(errors.New("cable cut"))
	}()
	if _, err := http.DefaultClient.Do(req); err == nil {
		t.Error("half a request was answered")
	}
	if n := f.calls.Load(); n != 1 {
		t.Errorf("half a request was called")
	}
}

// TestBodySizes reads bodies of all sizes about the limits of the buffers, with
// a declared length and in chunks, and passes each on unchanged.
func TestBodySizes(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f, func(c *agentside.Config) { c.MaxBody = 200 << 10 })
	server := serve(t, h)
	var seen []byte
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		seen = x.Message.Raw
		return gateway.Reply{Result: []byte("{}")}
	})
	for _, size := range []int{500, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 200<<10 - 1, 200 << 10, 200<<10 + 1, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			r := modern("tools/call", `"name":"echo","arguments":{},`)
			r.body += strings.Repeat(" ", size-len(r.body))
			req := r.http(server.URL)
			if chunked {
				req.ContentLength = -1
				req.Body = io.NopCloser(io.MultiReader(strings.NewReader(r.body)))
			}
			seen = nil
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body(t, res)
			switch {
			case size > 200<<10 && (res.StatusCode != 413 || seen != nil):
				t.Errorf("%d bytes, chunked %v: status %d", size, chunked, res.StatusCode)
			case size <= 200<<10 && (res.StatusCode != 200 || !bytes.Equal(seen, []byte(r.body))):
				t.Errorf("%d bytes, chunked %v: status %d, %d bytes came", size, chunked, res.StatusCode, len(seen))
			}
		}
	}
}

// TestSlowBody: a client that does not finish its body in time is not waited for.
func TestSlowBody(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	r := modern("tools/list", "").http("http://example.com")
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	before := time.Now()
	h.ServeHTTP(w, r)
	if len(w.read) != 2 || w.read[0].Before(before.Add(time.Second)) || !w.read[1].IsZero() {
		t.Errorf("read deadlines %v: want one for the body, and then none", w.read)
	}
}

// deadlines records the deadlines a handler sets.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, t)
	return nil
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write = append(d.write, t)
	return nil
}

// TestFaultsStayInside: what is no refusal is a fault of the program, and says
// nothing about it.
func TestFaultsStayInside(t *testing.T) {
	for _, r := range []*request{modern("tools/list", ""), modern("server/discover", ""), post(initializeBody),
		modern("subscriptions/listen", `"notifications":{},`)} {
		f := newFake(t)
		f.failed = errors.New("disk /dev/sda1 of customer 12 is full")
		res := do(newHandler(t, f), r)
		text := body(t, res)
		has(t, text, `"code":-32603`, `"code":"internal"`)
		if strings.Contains(text, "sda1") {
			t.Errorf("the fault leaked: %s", text)
		}
	}
}

// TestRefusedAtInitialize: a refusal tells the client why, and no session is left.
func TestRefusedAtInitialize(t *testing.T) {
	f := newFake(t)
	f.failed = sallyport.Refuse(sallyport.NoRelease, "no release is assigned", "promote one")
	h := newHandler(t, f)
	text := body(t, do(h, post(initializeBody)))
	has(t, text, `"code":-31003`, `Refused (no_release): no release is assigned. promote one`, `"hint":"promote one"`)
	if h.Sessions() != 0 {
		t.Error("a session is open")
	}
}
