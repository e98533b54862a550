package agentside_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
)

// ready is a gateway that does nothing, and so costs nothing.
type ready struct {
	reply gateway.Reply
	tools *gateway.ToolList
}

func (g *ready) Call(context.Context, *gateway.Exchange) gateway.Reply { return g.reply }
func (g *ready) List(context.Context, *gateway.Exchange) gateway.Reply { return g.reply }
func (g *ready) Tools(context.Context, string) (*gateway.ToolList, error) {
	return g.tools, nil
}
func (g *ready) Describe(context.Context, string) (*gateway.Description, error) {
	return &gateway.Description{Key: "k", Capabilities: []byte(`{"tools":{}}`)}, nil
}
func (g *ready) CloseSession(*gateway.Session) {}
func (g *ready) EndListener(*gateway.Listener) {}
func (g *ready) Listen(context.Context, *gateway.Exchange, []string, *gateway.Listener) []string {
	return nil
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func (d *discard) SetReadDeadline(time.Time) error  { return nil }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

// again is a body that can be read more than once.
type again struct{ *strings.Reader }

func (again) Close() error { return nil }

// BenchmarkHandler is what the handler itself costs: a 430-byte request and a
// 300-byte result, without a network. "echo" is the least a handler can do: read
// the body and write as much back.
func BenchmarkHandler(b *testing.B) {
	result := []byte(`{"content":[{"type":"text","text":"` + strings.Repeat("x", 230) + `"}],"resultType":"complete"}`)
	g := &ready{reply: gateway.Reply{Result: result}, tools: toolsOf(2000)}
	h := agentside.New(agentside.Config{Gateway: g, AllowedHosts: []string{"example.com"}, Log: slog.New(slog.DiscardHandler)})
	session := initialize(b, h)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(result)))
		w.Write(result)
		_ = body
	})
	arguments := `"name":"echo","arguments":{"text":"` + strings.Repeat("y", 130) + `"},`
	call := modern("tools/call", arguments)
	for _, bench := range []struct {
		name string
		h    http.Handler
		r    *request
	}{
		{"echo", echo, call},
		{"stateless", h, call},
		{"session", h, legacy(session, strings.Replace(toolCall("1", "echo"), "{}", `{"text":"`+strings.Repeat("y", 300)+`"}`, 1))},
		{"list2000", h, modern("tools/list", "")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			body := strings.NewReader(bench.r.body)
			req := bench.r.http("http://example.com")
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(bench.r.body)
				req.Body = again{body}
				clear(w.header)
				bench.h.ServeHTTP(w, req)
			}
		})
	}
}

// BenchmarkServer is the same over a connection, where net/http's own cost is
// part of both sides.
func BenchmarkServer(b *testing.B) {
	result := []byte(`{"content":[{"type":"text","text":"` + strings.Repeat("x", 230) + `"}],"resultType":"complete"}`)
	h := agentside.New(agentside.Config{Gateway: &ready{reply: gateway.Reply{Result: result}}, Log: slog.New(slog.DiscardHandler)})
	session := initialize(b, h, "Host", "localhost")
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Write(result)
	})
	for _, bench := range []struct {
		name string
		h    http.Handler
		r    *request
	}{
		{"echo", echo, modern("tools/call", `"name":"echo",`)},
		{"stateless", h, modern("tools/call", `"name":"echo",`)},
		{"session", h, legacy(session, toolCall("1", "echo"))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			server := httptest.NewServer(bench.h)
			defer server.Close()
			b.ReportAllocs()
			for b.Loop() {
				res, err := http.DefaultClient.Do(bench.r.http(server.URL))
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
}

func toolsOf(n int) *gateway.ToolList {
	l := &gateway.ToolList{Etag: "e"}
	for i := range n {
		l.Definitions = append(l.Definitions, fmt.Appendf(nil, `{"name":"tool_%d","description":%q,"inputSchema":{"type":"object","properties":{"a":{"type":"string"}}}}`, i, strings.Repeat("d", 300)))
	}
	return l
}
