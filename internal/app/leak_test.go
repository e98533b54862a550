package app

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

// The test binary is the stdio server, too. This runs before TestMain.
func init() { testkit.Main() }

// site is an installation before three upstreams of the same one tool: "modern"
// speaks the stateless era over HTTP, "older" has sessions over HTTP, and "child"
// has sessions over stdio. In the sandbox all are simulated.
type site struct {
	*App
	modern, older *testkit.FastUpstream
	person        *sallyport.Person
	host          string // secret of a host key that opens runs up to production
}

// startSite starts a site; child is the server behind the upstream of that name,
// and deadline that of every call.
func startSite(tb testing.TB, child testkit.Stdio, deadline time.Duration) *site {
	tb.Helper()
	ctx, dir := tb.Context(), tb.TempDir()
	s := &site{modern: testkit.NewFastUpstream(tb), older: testkit.NewFastUpstream(tb)}
	command, env := child.Command(tb)
	var childEnv []string
	for name, value := range env {
		childEnv = append(childEnv, fmt.Sprintf("%s: %q", name, value))
	}
	files := map[string]string{
		"sallyport.yaml":     "listen: 127.0.0.1:8484\n",
		"pipeline.yaml":      "stages: {production: {suspend: {never: true}}}\n", // equal calls are made by the thousand
		"agents/worker.yaml": "agent: worker\nowner: worker@example.com\ntier: medium\nupstreams: [modern, older, child]\ntools: {modern: [\"*\"], older: [\"*\"], child: [\"*\"]}\npolicies: [policies/all.cedar]\n",
		"policies/all.cedar": "@id(\"all\")\npermit (principal, action, resource);\n",
	}
	for name, transport := range map[string]string{
		"modern": fmt.Sprintf("url: %s\n    era: %q", s.modern.URL, wire.Version20260728),
		"older":  fmt.Sprintf("url: %s\n    era: %q", s.older.URL, wire.Version20251125),
		"child":  fmt.Sprintf("command: [%q]\n    env: {%s}\n    era: %q", command[0], strings.Join(childEnv, ", "), wire.Version20251125),
	} {
		files["upstreams/"+name+".yaml"] = fmt.Sprintf("upstream: %s\npins: %s.pins.json\nstages:\n  sandbox: {binding: simulate}\n  production:\n    %s\n    binding: live\n    deadline: %s\ntools:\n  echo: {access: changing, data_class: internal, args: {message: content, count: quantity}}\n", name, name, transport, deadline)
		files["upstreams/"+name+".pins.json"] = fmt.Sprintf("{\"server\":{\"protocolVersion\":%q,\"capabilities\":%s,\"serverInfo\":%s},\"tools\":[%s]}\n",
			wire.Version20260728, testkit.Capabilities, testkit.ServerInfo, testkit.Definition)
	}
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		tb.Fatal(problems)
	}
	a, err := New(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := a.Close(); err != nil {
			tb.Error(err)
		}
	})
	s.App = a
	if err := s.prepare(ctx); err != nil {
		tb.Fatal(err)
	}
	return s
}

// prepare does what people do by hand before an agent can call.
func (s *site) prepare(ctx context.Context) error {
	if _, err := s.Founder(ctx, "you@localhost"); err != nil {
		return err
	}
	people, err := s.Store.Persons(ctx)
	if err != nil {
		return err
	}
	s.person = &people[0]
	p, err := s.Propose(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Control.Apply(ctx, s.person, p, p.Digest, "test"); err != nil {
		return err
	}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Production} {
		if _, err := s.Control.Promote(ctx, s.person, "worker", "", stage, "test"); err != nil {
			return err
		}
	}
	host, err := s.Control.MakeHostKey(ctx, s.person, "worker", sallyport.Production, 1, "test")
	if err != nil {
		return err
	}
	s.host = host.Secret
	return nil
}

// client is an MCP client that can leave in the middle of anything.
type client struct {
	http       *http.Client
	url, token string
	session    string // empty in the stateless era
}

func newClient(s *site, token string) *client {
	return &client{http: &http.Client{Transport: &http.Transport{}}, url: s.URL + "/mcp", token: token}
}

// send sends a message, or opens the session's stream for an empty one.
func (c *client) send(ctx context.Context, method, id, params string) (*http.Response, error) {
	verb, body := http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s}}`, id, method, params)
	if id == "" {
		body = fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":{%s}}`, method, params)
	}
	if c.session == "" && method != wire.MethodInitialize {
		const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{},"progressToken":"p"}`
		comma := ","
		if params == "" {
			comma = ""
		}
		body = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s}}`, id, method, params+comma+meta)
	}
	if method == http.MethodGet || method == http.MethodDelete {
		verb, body = method, ""
	}
	req, err := http.NewRequestWithContext(ctx, verb, c.url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		m, err := wire.Scan([]byte(body), wire.Limits{})
		if err != nil {
			return nil, err
		}
		version := wire.Version20260728
		if c.session != "" {
			version = wire.Version20251125
		}
		if method != wire.MethodInitialize {
			wire.SetHeaders(req.Header, &m, version)
		}
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json, text/event-stream")
	if method == http.MethodGet {
		req.Header.Set("Accept", "text/event-stream")
	}
	if c.session != "" {
		req.Header.Set(wire.HeaderSessionID, c.session)
	}
	return c.http.Do(req)
}

// ask sends a message and returns the whole answer.
func (c *client) ask(ctx context.Context, method, id, params string) (string, error) {
	resp, err := c.send(ctx, method, id, params)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// open begins a session.
func (c *client) open(ctx context.Context) error {
	resp, err := c.send(ctx, wire.MethodInitialize, "0", `"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"t","version":"1"}`)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if c.session = resp.Header.Get(wire.HeaderSessionID); c.session == "" {
		return fmt.Errorf("no session: %s %s %w", resp.Status, text, err)
	}
	_, err = c.ask(ctx, wire.NotificationInitialized, "", "")
	return err
}

// cut sends a request and hangs up when the first line of the answer is there, or
// after that long.
func (c *client) cut(ctx context.Context, after time.Duration, method, id, params string) {
	ctx, cancel := context.WithTimeout(ctx, after)
	defer cancel()
	resp, err := c.send(ctx, method, id, params)
	if err != nil {
		return
	}
	_, _ = bufio.NewReader(resp.Body).ReadString('\n')
	cancel()
	resp.Body.Close()
}

func echo(upstream string) string {
	return fmt.Sprintf(`"name":"%s__echo","arguments":{"message":"hi"}`, upstream)
}

// descriptors are the open files of this process, by what they are.
func descriptors(tb testing.TB) map[string]int {
	tb.Helper()
	dir := "/dev/fd"
	if runtime.GOOS == "linux" {
		dir = "/proc/self/fd"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	open := map[string]int{}
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // the one that read the folder
		}
		if kind, _, ok := strings.Cut(link, ":["); ok {
			link = kind // sockets and pipes have numbers of their own
		}
		open[link]++
	}
	return open
}

// children are the processes that this one has started and that are there, also
// those that have ended and that nobody has waited for.
func children(tb testing.TB) []int {
	tb.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	var all []int
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid; the name may hold anything.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Dir(name), "/proc/"))
			if err != nil {
				tb.Fatal(err)
			}
			all = append(all, pid)
		}
	}
	return all
}

// nothingLeft fails the test if, when it ends and everything it started is
// stopped, there are goroutines, open files or processes that were not there now.
func nothingLeft(t *testing.T) {
	t.Helper()
	testkit.Leak(t)
	files, processes := descriptors(t), children(t)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			var left []string
			for name, n := range descriptors(t) {
				if n > files[name] {
					left = append(left, fmt.Sprintf("%d times %s", n-files[name], name))
				}
			}
			for _, pid := range children(t) {
				if !slices.Contains(processes, pid) {
					left = append(left, fmt.Sprintf("process %d", pid))
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("left behind: %q", left)
				return
			}
		}
	})
}

// TestNothingIsLeft starts the whole program, does every kind of thing, leaves
// some of them in the middle, and stops.
func TestNothingIsLeft(t *testing.T) {
	nothingLeft(t)
	s := startSite(t, testkit.Stdio{ExitAfter: 9}, 2*time.Second)
	ctx := t.Context()
	host, err := s.Auth.Key(ctx, s.host)
	if err != nil {
		t.Fatal(err)
	}
	var clients []*client
	var mu sync.Mutex
	connect := func(stage sallyport.Stage) *client {
		t.Helper()
		run, err := s.Control.OpenRun(ctx, host, stage, sallyport.Envelope{})
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(s, run.Token)
		mu.Lock()
		defer mu.Unlock()
		clients = append(clients, c)
		return c
	}
	works := func(c *client, id, params string) {
		t.Helper()
		text, err := c.ask(ctx, wire.MethodToolsCall, id, params)
		if err != nil || !strings.Contains(text, `"content"`) || strings.Contains(text, `"isError":true`) {
			t.Errorf("%s: %s %v", params, text, err)
		}
	}

	// The stateless era: lists, calls, streams cut in the middle, calls given up.
	modern := connect(sallyport.Production)
	if text, err := modern.ask(ctx, wire.MethodToolsList, "1", ""); err != nil || strings.Count(text, `__echo"`) != 3 {
		t.Errorf("%s %v", text, err)
	}
	for range 5 {
		works(modern, "2", echo("modern"))
	}
	works(connect(sallyport.Sandbox), "1", echo("child"))
	s.modern.SetStream(3)
	works(modern, "3", echo("modern"))
	s.modern.SetHang(true)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() { modern.cut(ctx, time.Second, wire.MethodToolsCall, "4", echo("modern")) })
	}
	wait.Wait()
	s.modern.SetStream(0)
	modern.cut(ctx, 50*time.Millisecond, wire.MethodToolsCall, "5", echo("modern"))
	modern.cut(ctx, time.Second, wire.MethodSubscriptionsListen, "6", `"notifications":{"toolsListChanged":true}`)

	// Sessions: over HTTP and to a process each; with a stream of their own; ended,
	// abandoned, and cut off; calls cancelled by name and by the end of the session.
	var sessions []*client
	for range 3 {
		c := connect(sallyport.Production)
		if err := c.open(ctx); err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, c)
		for i, name := range []string{"older", "child", "older", "child"} {
			works(c, strconv.Itoa(10+i), echo(name))
		}
	}
	before := len(children(t))
	if runtime.GOOS == "linux" && before < len(sessions) {
		t.Errorf("%d processes for %d sessions: the test shows nothing", before, len(sessions))
	}
	s.older.SetHang(true)
	cancelled := sessions[0]
	wait.Go(func() {
		_, _ = cancelled.ask(ctx, wire.MethodToolsCall, "20", echo("older"))
	})
	calling := func(n int) bool { return s.Gateway.InFlight() == n }
	until(t, func() bool { return calling(1) })
	if _, err := cancelled.ask(ctx, wire.NotificationCancelled, "", `"requestId":20`); err != nil {
		t.Error(err)
	}
	wait.Wait()
	sessions[0].cut(ctx, 50*time.Millisecond, wire.MethodToolsCall, "21", echo("older"))
	sessions[0].cut(ctx, 50*time.Millisecond, http.MethodGet, "", "")
	wait.Go(func() { _, _ = sessions[1].ask(ctx, wire.MethodToolsCall, "22", echo("older")) })
	until(t, func() bool { return calling(2) })
	if _, err := sessions[1].ask(ctx, http.MethodDelete, "", ""); err != nil {
		t.Error(err)
	}
	wait.Wait()
	until(t, func() bool { return calling(0) }) // the one that was cut ends at its deadline
	s.older.SetHang(false)

	// A process that ends in the middle of a call is started again.
	dies := sessions[0]
	died := false
	for i := range 12 {
		text, err := dies.ask(ctx, wire.MethodToolsCall, strconv.Itoa(30+i), echo("child"))
		if err != nil {
			t.Fatal(err)
		}
		died = died || strings.Contains(text, string(sallyport.UpstreamUnavailable))
	}
	if !died {
		t.Error("the process did not end: the test shows nothing")
	}

	// A halt in the middle of calls, and its end.
	s.modern.Reset()
	arrived := func() bool { return s.modern.Calls() == 4 }
	for i := range 4 {
		wait.Go(func() { _, _ = modern.ask(ctx, wire.MethodToolsCall, strconv.Itoa(40+i), echo("modern")) })
	}
	until(t, arrived)
	report, err := s.Control.Halt(ctx, s.person, sallyport.HaltAgent, "worker", "test")
	if err != nil || len(report.InFlight) != 4 || report.Confirmed.IsZero() {
		t.Errorf("%+v %v", report, err)
	}
	wait.Wait()
	if err := s.Control.Resume(ctx, s.person, sallyport.HaltAgent, "worker", "test"); err != nil {
		t.Error(err)
	}

	// An upstream that goes away while it is being called.
	s.modern.Reset()
	for i := range 4 {
		wait.Go(func() { _, _ = modern.ask(ctx, wire.MethodToolsCall, strconv.Itoa(50+i), echo("modern")) })
	}
	until(t, arrived)
	s.modern.Kill()
	wait.Wait()
	if text, err := modern.ask(ctx, wire.MethodToolsCall, "60", echo("modern")); err != nil || !strings.Contains(text, string(sallyport.UpstreamUnavailable)) {
		t.Errorf("%s %v", text, err)
	}

	// The rest is left open, for the stop to end: streams of both eras, a call that
	// hangs, a session with its process, a connection that says nothing.
	s.older.SetHang(true)
	open, stop := context.WithCancel(context.WithoutCancel(ctx))
	var left sync.WaitGroup
	listener := connect(sallyport.Production)
	left.Go(func() {
		_, _ = listener.ask(open, wire.MethodSubscriptionsListen, "70", `"notifications":{"toolsListChanged":true}`)
	})
	left.Go(func() { _, _ = sessions[2].ask(open, http.MethodGet, "", "") })
	left.Go(func() { _, _ = sessions[2].ask(open, wire.MethodToolsCall, "71", echo("older")) })
	until(t, func() bool { return calling(1) })
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	stop()
	left.Wait()
	for _, c := range clients {
		c.http.CloseIdleConnections()
	}
}

// until waits for something that will be.
func until(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}
