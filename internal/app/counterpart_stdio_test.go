package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport/internal/stdiobridge"
	"sallyport/internal/wire"
)

// The test binary is the bridge, too: clients of TypeScript start it.
func init() {
	endpoint := os.Getenv("SALLYPORT_TEST_BRIDGE")
	if endpoint == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kept, err := os.Create(os.Getenv("SALLYPORT_TEST_BRIDGE_KEEP"))
	if err == nil {
		err = stdiobridge.Run(ctx, stdiobridge.Config{
			URL: endpoint, In: os.Stdin, Out: io.MultiWriter(kept, os.Stdout), Credential: func() (string, error) { return os.Getenv("SALLYPORT_TEST_BRIDGE_KEY"), nil },
			Say: func(line string) { fmt.Fprintln(os.Stderr, line) },
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestStdioCounterparts lets clients that others wrote speak stdio to the bridge.
// They see what they see over HTTP, byte for byte.
func TestStdioCounterparts(t *testing.T) {
	f := newFloor(t)
	for _, w := range []struct {
		name    string
		make    func(t *testing.T) *world
		clients []client
		steps   func(w *world, client string) []step
	}{
		{"2025-11-25", f.sessionsHTTP, []client{f.bridged("client-1.mjs"), f.bridged("client-2.mjs"), goBridged}, f.sessionSteps},
		{"2026-07-28", f.statelessHTTP, []client{f.bridged("client-2.mjs"), goBridged}, statelessSteps},
	} {
		t.Run(w.name, func(t *testing.T) {
			world := w.make(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			for _, c := range w.clients {
				t.Run(c.name, func(t *testing.T) {
					steps := slices.DeleteFunc(w.steps(world, c.name), func(s step) bool { return s.from != "" && world.servers[s.from] == nil })
					seen := c.run(ctx, t, world, 1, steps)[0]
					for i := range min(len(steps), len(seen.Steps)) {
						// The TypeScript SDK forgets who waits for progress when it reads the response, and
						// passes progress that it has read together with it to nobody. The Go SDK's client
						// says whether the bridge has passed on all of it.
						if n := len(seen.Steps[i].Progress); n < steps[i].Progress && strings.HasSuffix(c.name, ".mjs") {
							t.Logf("step %d: the client shows %d of %d notifications of progress", i, n, steps[i].Progress)
							steps[i].Progress = n
						}
					}
					check(ctx, t, world, steps, seen)
				})
			}
			world.verify(ctx, t)
		})
	}
}

// bridged is a client of the TypeScript SDK that starts the bridge.
func (f *floor) bridged(script string) client {
	return client{script, func(ctx context.Context, t *testing.T, w *world, clients int, steps []step) []transcript {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		token := w.token()
		return f.script(ctx, t, script, map[string]any{
			"version": w.version, "clients": clients, "steps": steps, "keep": t.TempDir(), "bridge": self,
			"env": map[string]string{"SALLYPORT_TEST_BRIDGE": w.app.URL + "/mcp", "SALLYPORT_TEST_BRIDGE_KEY": token},
		})
	}}
}

// goBridged is a client of the Go SDK before a bridge in this process.
var goBridged = client{goSDK.name, func(ctx context.Context, t *testing.T, w *world, clients int, steps []step) []transcript {
	t.Helper()
	seen := make([]transcript, clients)
	token := w.token()
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			c := gopher{recorder: recorder{token: token}}
			ended := c.overStdio(w)
			if err := c.run(ctx, w, n, steps); err != nil {
				t.Errorf("client %d: %v", n, err)
			}
			if err := <-ended; err != nil {
				t.Errorf("the bridge of client %d ended: %v", n, err)
			}
			seen[n] = c.transcript
		})
	}
	all.Wait()
	return seen
}}

// overStdio lets the client reach the installation through a bridge, and keeps the
// answers that come out of it. The channel holds how the bridge ended.
func (c *gopher) overStdio(w *world) <-chan error {
	in, fromClient := io.Pipe()
	toClient, out := io.Pipe()
	asked := map[string]*kept{} // by id; around it is c.keeping
	// Both ends number their requests from one.
	note := func(out bool) *tap {
		return &tap{each: func(line []byte) {
			m, err := wire.Scan(line, wire.Limits{Bytes: len(line)})
			if err != nil {
				return
			}
			id := string(m.ID.Of(m.Raw))
			c.keeping.Lock()
			defer c.keeping.Unlock()
			switch {
			case !out && m.Kind == wire.Request && m.Method != wire.MethodSubscriptionsListen:
				asked[id] = &kept{in: &c.recorder, step: c.at}
				c.recorder.kept = append(c.recorder.kept, asked[id])
			case out && (m.Kind == wire.Result || m.Kind == wire.Error) && asked[id] != nil:
				asked[id].body.Write(line)
			}
		}}
	}
	ended := make(chan error, 1)
	go func() {
		err := stdiobridge.Run(context.Background(), stdiobridge.Config{
			URL: w.app.URL + "/mcp", In: in, Out: io.MultiWriter(note(true), out), Credential: func() (string, error) { return c.token, nil },
		})
		out.Close()
		in.Close()
		ended <- err
	}()
	c.transport = &mcp.IOTransport{Reader: toClient, Writer: tapped{fromClient, note(false)}}
	return ended
}

// tap sees lines pass.
type tap struct {
	each func(line []byte)
	part []byte
}

func (t *tap) Write(p []byte) (int, error) {
	t.part = append(t.part, p...)
	for {
		line, rest, whole := bytes.Cut(t.part, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		t.each(bytes.Clone(line))
		t.part = rest
	}
}

// tapped is a pipe with a tap before it.
type tapped struct {
	io.WriteCloser
	tap *tap
}

func (t tapped) Write(p []byte) (int, error) {
	if _, err := t.tap.Write(p); err != nil {
		return 0, err
	}
	return t.WriteCloser.Write(p)
}
