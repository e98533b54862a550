package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/config"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

type call struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

// answer is the body of the response to one POST, as it came.
type answer struct {
	Method string `json:"method"`
	Body   string `json:"body"`
}

// TestCounterparts puts servers that others wrote behind an installation, and
// clients that others wrote in front of it: definitions pass byte for byte, and
// results are those of the server itself.
func TestCounterparts(t *testing.T) {
	node := tool(t, "node")
	packages := install(t, tool(t, "npm"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()

	// Not t.TempDir: its name, with letters of both cases and digits, looks like a
	// secret in a command's arguments.
	made, err := os.MkdirTemp("", "files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(made) })
	files, err := filepath.EvalSymlinks(made)
	if err != nil {
		t.Fatal(err)
	}
	letter := filepath.Join(files, "letter.txt")
	write(t, letter, "Grüße <b> & \"quotes\" \u2028\nsecond line\n")
	entry := func(server string) string {
		return filepath.Join(packages, "node_modules", "@modelcontextprotocol", server, "dist", "index.js")
	}
	commands := map[sallyport.UpstreamID][]string{
		"everything": {node, entry("server-everything"), "stdio"},
		"filesystem": {node, entry("server-filesystem"), files},
	}
	calls := []call{
		{"echo", map[string]any{"message": "a < b & \"c\" é \u2028"}},
		{"read_text_file", map[string]any{"path": letter}},
	}
	want := []json.RawMessage{
		direct(ctx, t, commands["everything"], calls[0]),
		direct(ctx, t, commands["filesystem"], calls[1]),
	}

	dir := t.TempDir()
	pinned := project(ctx, t, dir, commands)
	installation, token := start(ctx, t, dir)

	t.Run("typescript", func(t *testing.T) {
		input, err := json.Marshal(map[string]any{"url": installation.URL + "/mcp", "token": token(), "calls": calls})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, node, "client.mjs")
		cmd.Dir, cmd.Stdin = packages, bytes.NewReader(input)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("the client: %v\n%s", err, &stderr)
		}
		var got struct {
			Version string
			Tools   []string
			Results []json.RawMessage
			Bodies  []answer
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("the client wrote %q: %v", out, err)
		}
		if got.Version != wire.Version20251125 {
			t.Errorf("the session speaks %s", got.Version)
		}
		if len(got.Tools) != len(pinned) {
			t.Errorf("the SDK lists %d tools, pinned are %d", len(got.Tools), len(pinned))
		}
		check(t, got.Bodies, pinned, got.Results, want)
	})

	t.Run("go", func(t *testing.T) {
		recorder := &recorder{token: token()}
		client := mcp.NewClient(&mcp.Implementation{Name: "counterpart", Version: "1"}, nil)
		session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
			Endpoint: installation.URL + "/mcp", HTTPClient: &http.Client{Transport: recorder},
		}, &mcp.ClientSessionOptions{ProtocolVersion: wire.Version20251125})
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if v := session.InitializeResult().ProtocolVersion; v != wire.Version20251125 {
			t.Errorf("the session speaks %s", v)
		}
		listed := 0
		for _, err := range session.Tools(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			listed++
		}
		if listed != len(pinned) {
			t.Errorf("the SDK lists %d tools, pinned are %d", listed, len(pinned))
		}
		var results []json.RawMessage
		for _, c := range calls {
			res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: c.Name, Arguments: c.Arguments})
			if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			raw, err := json.Marshal(res)
			if err != nil {
				t.Fatal(err)
			}
			results = append(results, raw)
		}
		check(t, recorder.answers(), pinned, results, want)
	})
}

// check compares what came over the wire byte for byte, and what an SDK made of
// the results by value.
func check(t *testing.T, answers []answer, pinned map[string]string, parsed, want []json.RawMessage) {
	t.Helper()
	listed := map[string]string{}
	var results []json.RawMessage
	for _, a := range answers {
		result := result(t, a.Body)
		if a.Method == wire.MethodToolsCall {
			results = append(results, result)
			continue
		}
		var page struct{ Tools []json.RawMessage }
		if err := json.Unmarshal(result, &page); err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Tools {
			name := nameOf(t, d)
			if _, twice := listed[name]; twice {
				t.Errorf("%s is listed twice", name)
			}
			listed[name] = string(d)
		}
	}
	for name, d := range pinned {
		if listed[name] != d {
			t.Errorf("definition of %s\n got %s\nwant %s", name, listed[name], d)
		}
	}
	for name := range listed {
		if _, ok := pinned[name]; !ok {
			t.Errorf("%s is listed and not pinned", name)
		}
	}
	if len(results) != len(want) || len(parsed) != len(want) {
		t.Fatalf("%d results came, the SDK returned %d, want %d", len(results), len(parsed), len(want))
	}
	for i := range want {
		if !bytes.Equal(results[i], want[i]) {
			t.Errorf("result %d\n got %s\nwant %s", i, results[i], want[i])
		}
		if !reflect.DeepEqual(value(t, parsed[i]), value(t, want[i])) {
			t.Errorf("result %d by the SDK\n got %s\nwant %s", i, parsed[i], want[i])
		}
	}
}

func value(t *testing.T, raw []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func nameOf(t *testing.T, definition []byte) string {
	t.Helper()
	var d struct{ Name string }
	if err := json.Unmarshal(definition, &d); err != nil {
		t.Fatal(err)
	}
	return d.Name
}

// result finds the response in a body, which is JSON or a stream of events.
func result(t *testing.T, body string) json.RawMessage {
	t.Helper()
	messages := []string{body}
	if !strings.HasPrefix(strings.TrimSpace(body), "{") {
		messages = nil
		for line := range strings.Lines(body) {
			if data, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "data:"); ok && strings.TrimSpace(data) != "" {
				messages = append(messages, data)
			}
		}
	}
	for _, m := range messages {
		var response struct {
			Result json.RawMessage `json:"result"`
		}
		if err := json.Unmarshal([]byte(m), &response); err == nil && response.Result != nil {
			return response.Result
		}
	}
	t.Fatalf("no result in %q", body)
	return nil
}

// recorder authenticates requests, and keeps the answers to tools/list and
// tools/call.
type recorder struct {
	token string
	mu    sync.Mutex
	kept  []*kept
}

type kept struct {
	io.ReadCloser
	method string
	in     *recorder
	body   bytes.Buffer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+r.token)
	var sent struct{ Method string }
	if req.Method == http.MethodPost && req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body.Close()
		req.Body = io.NopCloser(bytes.NewReader(body))
		if err := json.Unmarshal(body, &sent); err != nil {
			return nil, err
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && (sent.Method == wire.MethodToolsList || sent.Method == wire.MethodToolsCall) {
		k := &kept{ReadCloser: res.Body, method: sent.Method, in: r}
		res.Body = k
		r.mu.Lock()
		r.kept = append(r.kept, k)
		r.mu.Unlock()
	}
	return res, err
}

func (k *kept) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	k.in.mu.Lock()
	defer k.in.mu.Unlock()
	k.body.Write(p[:n])
	return n, err
}

func (r *recorder) answers() (all []answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.kept {
		all = append(all, answer{k.method, k.body.String()})
	}
	return all
}

// direct calls a tool of a server without anything in between and returns the
// result as the server wrote it.
func direct(ctx context.Context, t *testing.T, command []string, c call) json.RawMessage {
	t.Helper()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(out)
	ask := func(id int, method string, params any) json.RawMessage {
		raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "method": method, "params": params})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(append(raw, '\n')); err != nil {
			t.Fatal(err)
		}
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			var m struct {
				ID            int
				Method        string
				Result, Error json.RawMessage
			}
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatalf("%s: %q: %v", method, line, err)
			}
			if m.Method == "" && m.ID == id {
				if m.Result == nil {
					t.Fatalf("%s: %s", method, m.Error)
				}
				return m.Result
			}
		}
	}
	ask(1, "initialize", map[string]any{
		"protocolVersion": wire.Version20251125, "capabilities": map[string]any{},
		"clientInfo": map[string]any{"name": "counterpart", "version": "1"},
	})
	if _, err := io.WriteString(in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	return ask(2, wire.MethodToolsCall, c)
}

// project writes a project directory with the pins that the servers give, and
// returns the definitions by name.
func project(ctx context.Context, t *testing.T, dir string, commands map[sallyport.UpstreamID][]string) map[string]string {
	t.Helper()
	stage := upstream.NewStage(upstream.Config{Stage: sallyport.Production, Client: upstream.Implementation{Name: "counterpart", Version: "1"}})
	defer stage.Close(ctx)
	pinned := map[string]string{}
	for id, command := range commands {
		found, err := stage.Probe(ctx, &sallyport.StageUpstream{ID: id, Transport: sallyport.Transport{Command: command, Dir: dir}})
		if err != nil {
			t.Fatalf("probe of %s: %v", id, err)
		}
		if found.Era != wire.Sessions || len(found.Tools) == 0 {
			t.Fatalf("probe of %s: era %v, %d tools", id, found.Era, len(found.Tools))
		}
		for _, d := range found.Tools {
			pinned[nameOf(t, d)] = string(d)
		}
		pins := config.Pins{Server: found.Server, Tools: found.Tools}
		write(t, filepath.Join(dir, "upstreams", string(id)+".pins.json"), string(pins.Marshal()))
		list, err := json.Marshal(command)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "upstreams", string(id)+".yaml"), fmt.Sprintf(
			"upstream: %s\nstages:\n  sandbox: {binding: simulate}\n  production:\n    command: %s\n    era: \"2025-11-25\"\n    binding: live\n", id, list))
	}
	write(t, filepath.Join(dir, "sallyport.yaml"), "listen: 127.0.0.1:0\n")
	write(t, filepath.Join(dir, "agents", "tester.yaml"),
		"agent: tester\nowner: tester@example.com\ntier: low\nupstreams: [everything, filesystem]\npolicies: [policies/tester.cedar]\n")
	write(t, filepath.Join(dir, "policies", "tester.cedar"), "@id(\"all\")\npermit (principal, action, resource);\n")
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	return pinned
}

// start starts an installation that runs the agent in production. The function
// opens a run and returns its token.
func start(ctx context.Context, t *testing.T, dir string) (*app.App, func() string) {
	t.Helper()
	a, err := app.New(ctx, app.Options{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if _, err := a.Founder(ctx, "you@localhost"); err != nil {
		t.Fatal(err)
	}
	people, err := a.Store.Persons(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Propose(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Control.Apply(ctx, &people[0], p, p.Digest, "counterparts"); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Production} {
		if _, err := a.Control.Promote(ctx, &people[0], "tester", "", stage, "counterparts"); err != nil {
			t.Fatal(err)
		}
	}
	host, err := a.Control.MakeHostKey(ctx, &people[0], "tester", sallyport.Production, 1, "counterparts")
	if err != nil {
		t.Fatal(err)
	}
	return a, func() string {
		run, err := a.Control.OpenRun(ctx, &host.Key, 0, sallyport.Envelope{Task: "counterparts"})
		if err != nil {
			t.Fatal(err)
		}
		if run.Run.Stage != sallyport.Production {
			t.Fatalf("the run is in %s", run.Run.Stage)
		}
		return run.Token
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tool finds a program that this test cannot do without.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing, and CI must test against real counterparts: %v", name, err)
		}
		t.Skipf("NOT TESTED AGAINST REAL COUNTERPARTS: install %s (%v)", name, err)
	}
	return path
}

// install returns a directory with testdata/counterpart and the packages it names,
// which is made once for each content of testdata/counterpart.
func install(t *testing.T, npm string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "counterpart", "*.*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("testdata/counterpart: %v, %v", names, err)
	}
	slices.Sort(names)
	sum := sha256.New()
	files := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(name), len(text), text)
		files[filepath.Base(name)] = string(text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	cache = filepath.Join(cache, "sallyport-counterpart")
	dir := filepath.Join(cache, fmt.Sprintf("%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	// Installed beside its place and moved there, so that half of it is never used.
	making, err := os.MkdirTemp(cache, "making-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(making)
	for name, text := range files {
		write(t, filepath.Join(making, name), text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = making
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	if err := os.Rename(making, dir); err != nil {
		if _, there := os.Stat(filepath.Join(dir, "node_modules")); there != nil {
			t.Fatal(err)
		}
	}
	return dir
}
