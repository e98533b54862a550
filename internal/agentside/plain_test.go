package agentside_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
	"sallyport/internal/openapi"
	"sallyport/internal/wire"
)

const pets = `{"server":{"name":"Pets","version":"1"},"keys":[{"in":"query","name":"key"},{"in":"header","name":"Authorization"},{"in":"cookie","name":"c"}],"operations":[
  {"tool":"look","method":"GET","path":"/pets/{id}","params":[{"arg":"id","name":"id","in":"path","style":"simple"},{"arg":"q","name":"q","in":"query","style":"form","explode":true}],"accept":"*/*"},
  {"tool":"feed","method":"POST","path":"/pets/{id}","params":[{"arg":"id","name":"id","in":"path","style":"simple"}],"body":{"arg":"body","media":"application/json","form":"json"},"accept":"*/*"}]}`

// newPets is what a caller finds who may call the pets' API, and another that has one of
// its operations.
func newPets(t testing.TB) *gateway.Plain {
	t.Helper()
	s := &openapi.Surface{}
	for owner, text := range map[string]string{"pets": pets, "other": strings.Replace(strings.Split(pets, ",\n  {\"tool\":\"feed\"")[0]+"]}", "{id}", "{it}", 1)} {
		if owner == "other" {
			text = strings.ReplaceAll(text, `"name":"id"`, `"name":"it"`)
		}
		plan, err := openapi.ParsePlan([]byte(text))
		if err != nil {
			t.Fatal(owner, err)
		}
		if err := s.Add(owner, plan, func(op string) (string, []byte, bool) {
			return owner + "__" + op, []byte(`{"name":"x","inputSchema":{"type":"object","properties":{"id":{"type":"integer"}}}}`), owner == "pets" || op == "look"
		}); err != nil {
			t.Fatal(err)
		}
	}
	return &gateway.Plain{Surface: s}
}

// TestServePlain: what the gateway is asked, and what becomes of what it says.
func TestServePlain(t *testing.T) {
	token := "sp_run_" + strings.Repeat("x", 37) + "-token"
	f := newFake(t)
	var reply gateway.Reply
	var got *gateway.Exchange
	f.call = func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		got = x
		x.ID = "call_1"
		return reply
	}
	h := newHandler(t, f, func(c *agentside.Config) {
		c.Plain = &agentside.Plain{
			At: func(_ context.Context, credential, name string) (*gateway.Plain, error) {
				if credential != token || name != "pets" {
					return nil, sallyport.Refuse(sallyport.NotFound, "no "+name, "")
				}
				return newPets(t), nil
			},
			Refuse: func(w http.ResponseWriter, status int, r *sallyport.Refusal) {
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(max(status, 418))
				fmt.Fprintf(w, "%s %s", r.Code, r.Reason)
			},
		}
	})
	server := httptest.NewServer(http.HandlerFunc(h.ServePlain))
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for name, c := range map[string]struct {
		method, path, key string
		reply             gateway.Reply
		called            string // the message
		status            int
		says              string
		field             [2]string
	}{
		"an answer": {"POST", "/worlds/pets/pets/7", "bearer", gateway.Reply{Result: []byte(`{"content":[{"type":"text","text":"fed"}]}`)},
			`{"name":"pets__feed","arguments":{"id":7,"body":{ "a":1.0 }}}`, 200, "fed", [2]string{"Content-Type", "text/plain; charset=utf-8"}},
		"no page": {"POST", "/worlds/pets/pets/7", "query", gateway.Reply{Result: []byte(`{"content":[{"type":"resource","resource":{"uri":"u","mimeType":"text/html","text":"<script>"}}]}`)},
			`{"name":"pets__feed","arguments":{"id":7,"body":{ "a":1.0 }}}`, 200, "<script>", [2]string{"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"}},
		"waits": {"POST", "/worlds/pets/pets/7", "cookie", gateway.Reply{Refusal: &sallyport.Refusal{Code: sallyport.RateLimited, Reason: "slow", Detail: map[string]any{"retry_after_ms": int64(1500)}}},
			`{"name":"pets__feed","arguments":{"id":7,"body":{ "a":1.0 }}}`, 418, "rate_limited slow", [2]string{"Retry-After", "2"}},
		"a call refused": {"POST", "/worlds/pets/pets/7", "word", gateway.Reply{Refusal: sallyport.Refuse(sallyport.Denied, "no", "")},
			`{"name":"pets__feed","arguments":{"id":7,"body":{ "a":1.0 }}}`, 418, "denied no", [2]string{"X-Request-Id", "call_1"}},
		"an error of JSON-RPC": {"POST", "/worlds/pets/pets/7", "bearer", gateway.Reply{Error: []byte(`{"code":-32603,"message":"x"}`)},
			`{"name":"pets__feed","arguments":{"id":7,"body":{ "a":1.0 }}}`, 418, "upstream_protocol", [2]string{"X-Request-Id", "call_1"}},
		"of two":     {"GET", "/worlds/pets/pets/7", "bearer", gateway.Reply{}, "", 418, "conflict", [2]string{}},
		"a HEAD too": {"HEAD", "/worlds/pets/pets/7", "bearer", gateway.Reply{}, "", 418, "", [2]string{}},
		"elsewhere":  {"GET", "/worlds/pets", "bearer", gateway.Reply{}, "", 418, "not_found", [2]string{}},
	} {
		reply, got = c.reply, nil
		r, err := http.NewRequest(c.method, server.URL+c.path, strings.NewReader(`{ "a":1.0 }`))
		if err != nil {
			t.Fatal(err)
		}
		if c.method != "POST" {
			r.Body, r.ContentLength = nil, 0
		}
		switch c.key {
		case "query":
			r.URL.RawQuery = "key=" + token
		case "cookie":
			r.AddCookie(&http.Cookie{Name: "c", Value: token})
		case "word":
			r.Header.Set("Authorization", "token "+token)
		default:
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(text), c.says) {
			t.Errorf("%s: %s %q, %v", name, resp.Status, text, err)
		}
		if field := c.field[0]; field != "" && resp.Header.Get(field) != c.field[1] {
			t.Errorf("%s: %s is %q", name, field, resp.Header.Get(field))
		}
		called := ""
		if got != nil {
			called = string(got.Message.Params.Of(got.Message.Raw))
			if got.Credential != token || got.Era != wire.Stateless || got.Kind != sallyport.KindTool || len(got.Headers) > 0 {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if called != c.called {
			t.Errorf("%s: called %s", name, called)
		}
	}
}
