package stdiobridge_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/internal/stdiobridge"
	"sallyport/internal/wire"
)

// FuzzBridge: whatever a client writes and a server answers, what comes out is one
// message on each line, no request is made twice, and the bridge ends with its
// client.
func FuzzBridge(f *testing.F) {
	for _, client := range []string{
		hello + "\n" + ready + "\n", call("1", "x", `{"a":1}`) + "\n" + call("1", "x", "{}") + "\n", "{}\n[]\n\n\x00\n", call(`"\ud800"`, "x", "{}"),
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}` + "\n", `{"jsonrpc":"2.0","id":1,"method":"x\n","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"a\nb"}}}`,
	} {
		for _, server := range []string{result("1", "{}"), "{\n\"jsonrpc\":\"2.0\",\"id\":1,\r\"result\":{}}", "data: " + result("1", "{}") + "\n\n", "data: {\ndata: }\n\nid: 1\nretry: 5\n\n", "", `{"jsonrpc":"2.0","error":{"code":1,"message":"\u0000"}}`} {
			f.Add([]byte(client), []byte(server), server != "" && server[0] == 'd', 200)
			f.Add([]byte(client), []byte(server), false, 404)
		}
	}
	type answer struct {
		body   []byte
		events bool
		status int
		posts  atomic.Int64
	}
	var now atomic.Pointer[answer]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := now.Load()
		if r.Method != http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		a.posts.Add(1)
		w.Header().Set(wire.HeaderSessionID, "s")
		w.Header().Set("Content-Type", "application/json")
		if a.events {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(a.status)
		w.Write(a.body)
	}))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, client, body []byte, events bool, status int) {
		if status < 200 || status > 599 {
			status = 200
		}
		a := &answer{body: body, events: events, status: status}
		now.Store(a)
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_ = stdiobridge.Run(ctx, stdiobridge.Config{
			URL: server.URL, Credential: func() (string, error) { return "key", nil }, In: bytes.NewReader(client), Out: &out, Grace: time.Second, MaxMessage: 1 << 20,
		})
		if ctx.Err() != nil {
			t.Fatal("it does not end")
		}
		for line := range bytes.Lines(out.Bytes()) {
			if _, err := wire.Scan(bytes.TrimSuffix(line, []byte("\n")), wire.Limits{Bytes: 4 << 20}); err != nil {
				t.Errorf("%q came out: %v", line, err)
			}
		}
		// Each line is at most one request, and what the bridge asks by itself: a listing
		// of tools for the first call, and a session in the place of a lost one with its
		// notification.
		if lines := int64(bytes.Count(client, []byte("\n")) + 1); a.posts.Load() > 3*lines+maxPages {
			t.Errorf("%d lines became %d requests", lines, a.posts.Load())
		}
	})
}

// maxPages is how many pages of a listing the bridge asks for at most.
const maxPages = 100
