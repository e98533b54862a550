package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

const benchClients = 8

// BenchmarkCall measures one call of a tool over loopback by parallel clients
// that keep their connections: to the upstream itself, through
// httputil.ReverseProxy, and through a whole installation. Clients and upstream
// are in this process, so its CPU time holds theirs.
func BenchmarkCall(b *testing.B) {
	b.Run("direct", func(b *testing.B) {
		u := testkit.NewFastUpstream(b)
		benchCalls(b, u, u.URL, "", "echo")
	})
	// Without a pool of its own ReverseProxy makes a buffer of 32 KiB for every
	// response; with one it is the harder thing to compare with.
	for _, name := range []string{"reverseproxy", "reverseproxy-pooled"} {
		b.Run(name, func(b *testing.B) {
			var pool httputil.BufferPool
			if name == "reverseproxy-pooled" {
				pool = &bufferPool{}
			}
			u := testkit.NewFastUpstream(b)
			target, err := url.Parse(u.URL)
			if err != nil {
				b.Fatal(err)
			}
			transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
			b.Cleanup(transport.CloseIdleConnections)
			proxy := httptest.NewServer(&httputil.ReverseProxy{
				Transport: transport, BufferPool: pool,
				Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL, r.Out.Host = target, "" },
			})
			b.Cleanup(proxy.Close)
			benchCalls(b, u, proxy.URL, "", "echo")
		})
	}
	for _, access := range []string{"read", "changing"} {
		b.Run("governed-"+access, func(b *testing.B) {
			u := testkit.NewFastUpstream(b)
			a, token := benchApp(b, u, access)
			benchCalls(b, u, a.URL+"/mcp", token, "echo")
		})
	}
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

// benchApp is an installation before one upstream, with a run that is open in
// production.
func benchApp(b *testing.B, u *testkit.FastUpstream, access string) (*App, string) {
	b.Helper()
	dir, ctx := b.TempDir(), b.Context()
	for name, text := range map[string]string{
		"sallyport.yaml":      "listen: 127.0.0.1:8484\n",
		"agents/bench.yaml":   "agent: bench\nowner: bench@example.com\ntier: medium\nupstreams: [fast]\ntools: {fast: [\"*\"]}\npolicies: [policies/all.cedar]\n",
		"policies/all.cedar":  "@id(\"all\")\npermit (principal, action, resource);\n",
		"upstreams/fast.yaml": fmt.Sprintf("upstream: fast\npins: fast.pins.json\nstages:\n  sandbox: {binding: simulate}\n  production:\n    url: %s\n    era: \"2026-07-28\"\n    binding: live\n    deadline: 5s\ntools:\n  echo: {access: %s, data_class: internal, args: {message: content, count: quantity}}\n", u.URL, access),
		"upstreams/fast.pins.json": fmt.Sprintf("{\"server\":{\"protocolVersion\":%q,\"capabilities\":%s,\"serverInfo\":%s,\"instructions\":\"Echo what you like.\"},\"tools\":[%s]}\n",
			wire.Version20260728, testkit.Capabilities, testkit.ServerInfo, testkit.Definition),
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		b.Fatal(problems)
	}
	a, err := New(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	token, err := benchRun(ctx, a)
	if err != nil {
		b.Fatal(err)
	}
	return a, token
}

// benchRun does what people do by hand before an agent can call.
func benchRun(ctx context.Context, a *App) (string, error) {
	if _, err := a.Founder(ctx, "you@localhost"); err != nil {
		return "", err
	}
	people, err := a.Store.Persons(ctx)
	if err != nil {
		return "", err
	}
	who := &people[0]
	p, err := a.Propose(ctx)
	if err != nil {
		return "", err
	}
	if _, err := a.Control.Apply(ctx, who, p, p.Digest, "benchmark"); err != nil {
		return "", err
	}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Production} {
		if _, err := a.Control.Promote(ctx, who, "bench", "", stage, "benchmark"); err != nil {
			return "", err
		}
	}
	host, err := a.Control.MakeHostKey(ctx, who, "bench", sallyport.Production, 1, "benchmark")
	if err != nil {
		return "", err
	}
	run, err := a.Control.OpenRun(ctx, &host.Key, sallyport.Production, sallyport.Envelope{Task: "benchmark"})
	if err != nil {
		return "", err
	}
	return run.Token, nil
}

func benchCalls(b *testing.B, u *testkit.FastUpstream, endpoint, token, tool string) {
	b.Helper()
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"r-1","method":"tools/call","params":{"name":%q,"arguments":{"message":"hi","count":3},"_meta":{%q:%q,%q:{"name":"bench","version":"1"},%q:{}}}}`,
		tool, wire.MetaProtocolVersion, wire.Version20260728, wire.MetaClientInfo, wire.MetaClientCapabilities)
	m, err := wire.Scan(body, wire.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	wire.SetHeaders(h, &m, wire.Version20260728)
	transport := &http.Transport{MaxIdleConnsPerHost: benchClients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	call := func() error {
		req, err := http.NewRequest(http.MethodPost, endpoint, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header = h.Clone()
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(text, []byte("echo-0001")) || bytes.Contains(text, []byte(`"isError":true`))) {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		return err
	}
	calls := func(n int64) {
		var left atomic.Int64
		left.Store(n)
		var failed atomic.Pointer[error]
		var wait sync.WaitGroup
		for range benchClients {
			wait.Go(func() {
				for left.Add(-1) >= 0 {
					if err := call(); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		wait.Wait()
		if err := failed.Load(); err != nil {
			b.Fatal(*err)
		}
	}
	// Connections, plans and pools are made before anything is counted: the
	// upstream holds the first calls until all of them are in flight.
	u.SetDelay(50 * time.Millisecond)
	calls(2 * benchClients)
	u.SetDelay(0)
	calls(25 * benchClients)
	u.Reset()

	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	calls(int64(b.N))
	cpu := cpuTime(b) - before
	b.StopTimer()
	b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(u.Connections()), "new-conns")
	if u.Requests() != b.N || u.Calls() != b.N {
		b.Fatalf("the upstream saw %d requests, %d of them calls, for %d calls", u.Requests(), u.Calls(), b.N)
	}
}

// cpuTime is what this process has used so far, as user and system.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
