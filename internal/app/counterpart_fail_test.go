package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/wire"
)

// TestCounterpartDies kills a server in the middle of a call. That call is refused
// at once, calls to other servers never notice, and the next call to the same
// server is answered by a new process.
func TestCounterpartDies(t *testing.T) {
	f := newFloor(t)
	everything := []string{f.node, "--import", f.own("pid.mjs"), f.module("server-everything"), "stdio"}
	long := map[string]any{"duration": 600, "steps": 6000}
	for _, c := range []struct {
		name    string
		version string
		// make returns the server that dies and the one beside it, and what brings
		// the dead one back if it is not for Sallyport to do so.
		make            func(t *testing.T) (mortal, other *server, again func())
		wait, say, pid  string // tools of the mortal, the first with no end
		waits, says     map[string]any
		beside, besides string
		arg             string
	}{
		{
			name: "2025-11-25/stdio", version: wire.Version20251125,
			make: func(*testing.T) (*server, *server, func()) {
				return &server{command: everything}, &server{command: []string{f.node, f.module("server-filesystem"), f.files}}, nil
			},
			wait: "trigger-long-running-operation", waits: long, say: "echo", says: map[string]any{"message": "alive"}, pid: "get-env",
			beside: "read_text_file", arg: "path", besides: f.letter,
		},
		{
			name: "2026-07-28/stdio", version: wire.Version20260728,
			make: func(t *testing.T) (*server, *server, func()) {
				return &server{command: []string{f.node, f.own("modern.mjs"), "stdio"}}, &server{url: serveGo(t)}, nil
			},
			wait: "wait", waits: map[string]any{"note": "x"}, say: "say", says: map[string]any{"text": "alive"}, pid: "pid",
			beside: "exact", arg: "text", besides: "beside",
		},
		{
			name: "2026-07-28/http", version: wire.Version20260728,
			make: func(t *testing.T) (*server, *server, func()) {
				l := f.listen(t, f.own("modern.mjs"), "http")
				u, err := url.Parse(l.url)
				if err != nil {
					t.Fatal(err)
				}
				return &server{url: l.url}, &server{url: serveGo(t)}, func() {
					l.kill() // it is dead, and its port is free when it has been waited for
					f.listenOn(t, u.Port(), f.own("modern.mjs"), "http")
				}
			},
			wait: "wait", waits: map[string]any{"note": "x"}, say: "say", says: map[string]any{"text": "alive"}, pid: "pid",
			beside: "exact", arg: "text", besides: "beside",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			mortal, other, again := c.make(t)
			w := newWorld(t, c.version, map[sallyport.UpstreamID]*server{"mortal": mortal, "other": other})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()

			// Somebody uses the other server all the time.
			var beside sync.WaitGroup
			done := make(chan struct{})
			var calls atomic.Int64
			stop := sync.OnceFunc(func() {
				close(done)
				beside.Wait()
			})
			defer stop()
			neighbour := gopher{recorder: recorder{token: w.token()}}
			if err := neighbour.connect(ctx, w); err != nil {
				t.Fatal(err)
			}
			beside.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					began := time.Now()
					r, err := neighbour.session.CallTool(ctx, &mcp.CallToolParams{Name: c.beside, Arguments: map[string]any{c.arg: c.besides}})
					if err != nil || r.IsError {
						t.Errorf("a call to the other server after %s: %+v, %v", time.Since(began), r, err)
						return
					}
					calls.Add(1)
				}
			})

			begun := make(chan struct{})
			victim := gopher{recorder: recorder{token: w.token()}}
			victim.progressed = sync.OnceFunc(func() { close(begun) })
			if err := victim.connect(ctx, w); err != nil {
				t.Fatal(err)
			}
			call := func(name string, arguments map[string]any) (*mcp.CallToolResult, error) {
				params := &mcp.CallToolParams{Name: name, Arguments: arguments}
				params.SetProgressToken("p")
				return victim.session.CallTool(ctx, params)
			}
			must := func(name string, arguments map[string]any) string {
				t.Helper()
				r, err := call(name, arguments)
				if err != nil || r.IsError {
					t.Fatalf("%s: %+v, %v", name, r, err)
				}
				return text(r)
			}
			// alive makes two calls, and says which process answered the last.
			alive := func() int {
				t.Helper()
				must(c.say, c.says)
				return processID(t, must(c.pid, map[string]any{}))
			}
			first := alive()
			go func() {
				<-begun
				if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}()
			r, err := call(c.wait, c.waits)
			if err != nil || !r.IsError || !strings.HasPrefix(text(r), "Refused (upstream_") {
				t.Errorf("the call in the middle of which the server died: %+v, %v", r, err)
			}
			if again != nil {
				again()
			}
			if second := alive(); second == first {
				t.Errorf("the server that died is still process %d", second)
			}
			for calls.Load() < 3 && ctx.Err() == nil && !t.Failed() { // fewer show nothing
				time.Sleep(time.Millisecond)
			}
			stop()
			t.Logf("%d calls to the other server meanwhile", calls.Load())
			if err := neighbour.session.Close(); err != nil {
				t.Error(err)
			}
			if err := victim.session.Close(); err != nil {
				t.Error(err)
			}
			w.verify(ctx, t)
		})
	}
}

func text(r *mcp.CallToolResult) string {
	if len(r.Content) == 1 {
		if t, ok := r.Content[0].(*mcp.TextContent); ok {
			return t.Text
		}
	}
	return fmt.Sprintf("%+v", r)
}

// processID reads what the tool pid of modern.mjs says, or get-env of
// server-everything with pid.mjs.
func processID(t *testing.T, said string) int {
	t.Helper()
	var env struct {
		ID string `json:"PROCESS_ID"`
	}
	if json.Unmarshal([]byte(said), &env) == nil && env.ID != "" {
		said = env.ID
	}
	n, err := strconv.Atoi(said)
	if err != nil || n <= 1 {
		t.Fatalf("%q is not a process", said)
	}
	return n
}
