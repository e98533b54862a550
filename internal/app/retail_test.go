package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/wire"
)

// retail is an installation whose sandbox has the twin of tau-bench's retail shop, which
// package twin keeps, with what was recorded of the shop itself.
type retail struct {
	*App
	t     testing.TB
	tasks map[string][]retailTask
}

type retailTask struct {
	ID    int
	User  string       `json:"user_id"`
	Calls []retailCall `json:"ground_truth"`
}

type retailCall struct {
	Tool      string
	Arguments json.RawMessage
	Output    string
}

func unzipped(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("..", "twin", "testdata", "retail", name))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newRetail writes the project and starts it; more is added to sallyport.yaml.
func newRetail(t testing.TB, more string) *retail {
	t.Helper()
	files, tasks := retailFiles(t, more)
	return startRetail(t, files, tasks)
}

// retailFiles are those of the project, and the tasks that were recorded.
func retailFiles(t testing.TB, more string) (map[string]string, map[string][]retailTask) {
	t.Helper()
	var recorded struct {
		Tools []struct {
			Name        string          `json:"name"`
			Description string          `json:"description"`
			Parameters  json.RawMessage `json:"parameters"`
		} `json:"tools"`
		Splits map[string][]retailTask `json:"splits"`
	}
	if err := json.Unmarshal(unzipped(t, "retail.json.gz"), &recorded); err != nil {
		t.Fatal(err)
	}
	var pins []json.RawMessage
	declared := ""
	for _, tool := range recorded.Tools {
		pin, err := json.Marshal(map[string]any{"name": tool.Name, "description": tool.Description, "inputSchema": tool.Parameters})
		if err != nil {
			t.Fatal(err)
		}
		pins = append(pins, pin)
		declared += "  " + tool.Name + ": {data_class: internal}\n"
	}
	pinned, err := json.Marshal(map[string]any{
		"server": map[string]any{"protocolVersion": wire.Version20251125, "capabilities": map[string]any{"tools": map[string]any{}}, "serverInfo": map[string]any{"name": "shop", "version": "1"}},
		"tools":  pins,
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "twin", "testdata", "retail", "worlds", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return map[string]string{
		"sallyport.yaml":             "listen: 127.0.0.1:8484\n" + more,
		"agents/clerk.yaml":          "agent: clerk\nowner: ana@example.com\ntier: medium\nupstreams: [shop]\npolicies: [policies/all.cedar]\n",
		"policies/all.cedar":         "@id(\"all\")\npermit (principal, action, resource);\n",
		"upstreams/shop.yaml":        "upstream: shop\nstages:\n  sandbox: {binding: simulate, world: retail}\ntools:\n" + declared,
		"upstreams/shop.pins.json":   string(pinned),
		"worlds/retail.yaml":         read("retail.yaml"),
		"worlds/data/retail.star":    read("retail.star"),
		"worlds/data/retail_db.json": string(unzipped(t, "retail_db.json.gz")),
	}, recorded.Splits
}

// startRetail starts a project and lets the clerk into its sandbox.
func startRetail(t testing.TB, files map[string]string, tasks map[string][]retailTask) *retail {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	s := &retail{t: t, tasks: tasks}
	s.App = s.start(dir)
	if _, err := s.Founder(t.Context(), "you@localhost"); err != nil {
		t.Fatal(err)
	}
	person := s.person()
	p, err := s.Propose(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control.Apply(t.Context(), person, p, p.Digest, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control.Promote(t.Context(), person, "clerk", "", sallyport.Sandbox, "test"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *retail) start(dir string) *App {
	s.t.Helper()
	a, err := New(s.t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return a
}

func (s *retail) person() *sallyport.Person {
	s.t.Helper()
	people, err := s.Store.Persons(s.t.Context())
	if err != nil || len(people) == 0 {
		s.t.Fatalf("%v %v", people, err)
	}
	return &people[0]
}

// open opens a run and returns its token.
func (s *retail) open(seed uint64) string {
	s.t.Helper()
	host, err := s.Control.MakeHostKey(s.t.Context(), s.person(), "clerk", sallyport.Sandbox, 1, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	run, err := s.Control.OpenRun(s.t.Context(), &host.Key, sallyport.Sandbox, sallyport.Envelope{Task: "serve", Seed: seed})
	if err != nil {
		s.t.Fatal(err)
	}
	return run.Token
}

// answerOf is the text of a tool's result, over MCP.
func answerOf(url, token, tool, args string) (text string, isError bool, err error) {
	m, err := call(url, token, tool, args)
	if err != nil {
		return "", false, err
	}
	var result struct {
		Content []struct{ Text string }
		IsError bool
	}
	if err := json.Unmarshal(m.Result.Of(m.Raw), &result); err != nil || len(result.Content) != 1 {
		return "", false, fmt.Errorf("%s: %v", m.Raw, err)
	}
	return result.Content[0].Text, result.IsError, nil
}

// TestRetailThroughTheGateway: agents meet the twin of the shop over MCP, each task in a
// run of its own, and are answered as the shop answered, in both eras' endpoint, through
// policy and records.
func TestRetailThroughTheGateway(t *testing.T) {
	s := newRetail(t, "")
	for _, split := range []string{"dev", "test"} {
		calls, exact, refused := 0, 0, 0
		for _, task := range s.tasks[split] {
			token := s.open(1)
			for _, c := range task.Calls {
				calls++
				text, isError, err := answerOf(s.URL, token, c.Tool, string(c.Arguments))
				switch {
				case err != nil:
					t.Fatal(err)
				case text == c.Output && isError == strings.HasPrefix(c.Output, "Error"):
					exact++
				case strings.HasPrefix(text, "Refused (invalid_arguments)"):
					refused++
					t.Logf("%s %d: %s %s: %s", split, task.ID, c.Tool, c.Arguments, text)
				default:
					t.Errorf("%s %d: %s %s\n got %s\nwant %s", split, task.ID, c.Tool, c.Arguments, text, c.Output)
				}
			}
		}
		t.Logf("%s: %d calls, %d answered as by the shop, %d refused since the arguments do not fit the tool's own schema", split, calls, exact, refused)
	}
}

// sequence makes the calls of a task and gives what was answered; before each it asks
// where to call.
func (s *retail) sequence(token string, task *retailTask, at func(n int) string) []string {
	s.t.Helper()
	var out []string
	for n, c := range task.Calls {
		text, _, err := answerOf(at(n), token, c.Tool, string(c.Arguments))
		if err != nil {
			s.t.Fatal(err)
		}
		if text != c.Output {
			s.t.Errorf("call %d, %s %s\n got %s\nwant %s", n, c.Tool, c.Arguments, text, c.Output)
		}
		out = append(out, text)
	}
	return out
}

// longest is the task with the most calls of a split.
func (s *retail) longest(split string) *retailTask {
	best := &s.tasks[split][0]
	for i := range s.tasks[split] {
		if t := &s.tasks[split][i]; len(t.Calls) > len(best.Calls) {
			best = t
		}
	}
	return best
}

// TestWorldsOutliveTheProgram: what a run has done in a world is there after a restart,
// made again from the records.
func TestWorldsOutliveTheProgram(t *testing.T) {
	s := newRetail(t, "")
	task := s.longest("train")
	token := s.open(1)
	dir := s.Dir
	s.sequence(token, task, func(n int) string {
		if n%4 == 3 {
			if err := s.App.Close(); err != nil {
				t.Fatal(err)
			}
			s.App = s.start(dir)
		}
		return s.URL
	})
}

// TestWorldsAcrossReplicas: the calls of one run may go to any replica, one after the
// other, and are answered as by one.
func TestWorldsAcrossReplicas(t *testing.T) {
	server := newServer(t)
	database, err := server.Fresh()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SALLYPORT_RETAIL", server.URL(database))
	s := newRetail(t, "store: {postgres: \"env:SALLYPORT_RETAIL\"}\n")
	others := []*App{s.App, s.start(s.Dir), s.start(s.Dir)}
	for _, task := range s.tasks["dev"] {
		token := s.open(1)
		s.sequence(token, &task, func(n int) string { return others[n%len(others)].URL })
	}
	task := s.longest("train")
	s.sequence(s.open(1), task, func(n int) string { return others[n%len(others)].URL })
}
