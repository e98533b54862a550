package agentside_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// FuzzHandler sends what it likes, with a credential that counts, to a handler
// with one open session. Whatever comes, the handler answers with a status below
// 500, and with a message, events of messages, plain text or nothing; it asks of
// the gateway only what a gateway can govern (see fake.check); and it does not
// change what the gateway gave.
func FuzzHandler(f *testing.F) {
	for _, r := range []*request{
		post(initializeBody), modern("server/discover", ""), modern("tools/list", ""), modern("tools/call", `"name":"echo","arguments":{"a":1},`),
		modern("resources/read", `"uri":"file:///a",`), modern("subscriptions/listen", `"notifications":{"toolsListChanged":true},`),
		modern("completion/complete", `"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":""},`),
		legacy("*", toolCall("1", "echo")), legacy("*", toolCall(`"\u0061"`, "echo")), legacy("*", `{"jsonrpc":"2.0","id":1,"method":"ping"}`),
		legacy("*", `{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}`),
		legacy("*", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`),
		legacy("*", `{"jsonrpc":"2.0","id":"ask-1","result":{}}`), legacy("*", `[]`), legacy("*", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}`),
		legacy("*", `{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{"_meta":{"progressToken":1}}}`),
		{method: "GET", header: http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {"*"}}},
		{method: "DELETE", header: http.Header{"Mcp-Session-Id": {"*"}}},
	} {
		var lines strings.Builder
		for name, values := range r.header {
			if name != "Authorization" {
				lines.WriteString(name + ": " + strings.Join(values, "\n"+name+": ") + "\n")
			}
		}
		f.Add(r.method, lines.String(), []byte(r.body), true)
	}
	f.Add("POST", "Host: evil.example\nOrigin: null\nAccept: ;q=,*/*;q=0\nContent-Type: application/json;=\n", []byte("\xff"), false)

	const result = `{"content":[1.0,12345678901234567890],"x":"<"}`
	f.Fuzz(func(t *testing.T, method, lines string, sent []byte, noisy bool) {
		if len(sent) > 64<<10 {
			return
		}
		gw := newFake(t)
		gw.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
			if noisy && x.Notify != nil {
				x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`))
			}
			return gateway.Reply{Result: []byte(result)}
		})
		h := newHandler(t, gw, func(c *agentside.Config) { c.MaxBody = 32 << 10 })
		session := initialize(t, h)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // streams end at once
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://example.com/mcp", strings.NewReader(string(sent)))
		r.Method = method
		r.Header.Set("Authorization", "Bearer "+alice)
		for line := range strings.Lines(lines) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			value = strings.TrimPrefix(value, " ")
			if name == "Mcp-Session-Id" && value == "*" {
				value = session
			}
			if name == "Host" {
				r.Host = value
			} else if name != "" {
				r.Header.Add(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		res := w.Result()
		text := body(t, res)
		if res.StatusCode >= 500 {
			t.Errorf("status %d: %s", res.StatusCode, text)
		}
		switch kind := res.Header.Get("Content-Type"); kind {
		case "application/json":
			checkAnswer(t, sent, text, result)
		case "text/event-stream":
			reader := wire.NewEventReader(strings.NewReader(text), 1<<20)
			for {
				e, err := reader.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				checkAnswer(t, sent, string(e.Data), result)
			}
		case "text/plain; charset=utf-8":
			if res.StatusCode < 400 {
				t.Errorf("status %d with text %s", res.StatusCode, text)
			}
		default:
			if text != "" || kind != "" {
				t.Errorf("%q: %s", kind, text)
			}
		}
		if err := h.Close(t.Context()); err != nil || h.Sessions() != 0 {
			t.Errorf("closed with %v, %d sessions left", err, h.Sessions())
		}
	})
}

// checkAnswer: a response has the id of the request, as it was written, and a call
// has the gateway's result.
func checkAnswer(t *testing.T, sent []byte, text, result string) {
	t.Helper()
	m := isMessage(t, text)
	asked, err := wire.Scan(sent, wire.Limits{Depth: 10_000})
	if m.Kind == wire.Notification {
		return
	}
	if id := string(m.ID.Of(m.Raw)); id != "" && id != string(asked.ID.Of(sent)) {
		t.Errorf("id %s answers %s", id, sent)
	}
	if err != nil && m.Kind != wire.Error {
		t.Errorf("%s was answered with %s", sent, text)
	}
	if m.Kind == wire.Result && asked.Method == wire.MethodToolsCall && string(m.Result.Of(m.Raw)) != result {
		t.Errorf("the result became %s", text)
	}
}
