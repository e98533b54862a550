package app

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/testkit/dojo"
	"sallyport/internal/wire"
)

// recorded is MCP servers of the stateless era, one a path, whose answers are given by the
// test just before each call. What arrived is in its log.
type recorded struct {
	url string

	mu      sync.Mutex
	tools   map[string][]json.RawMessage
	answer  string // of the next call
	arrived []arrived
}

type arrived struct {
	upstream, tool string
	args           string
}

func newRecorded(t testing.TB, tools map[string][]json.RawMessage) *recorded {
	t.Helper()
	u := &recorded{tools: tools}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.url = server.URL
	return u
}

func (u *recorded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m, err := wire.Scan(body, wire.Limits{})
	if err != nil || wire.CheckHeaders(r.Header, &m) != nil {
		http.Error(w, "not a request of this era", http.StatusBadRequest)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	u.mu.Lock()
	defer u.mu.Unlock()
	result := `{"resultType":"complete","ttlMs":60000,"cacheScope":"public"}`
	switch m.Method {
	case wire.MethodServerDiscover:
		result = fmt.Sprintf(`{"resultType":"complete","supportedVersions":[%q],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"public"}`, wire.Version20260728)
	case wire.MethodToolsList:
		list, err := json.Marshal(u.tools[name])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		result = `{"resultType":"complete","ttlMs":60000,"cacheScope":"public","tools":` + string(list) + `}`
	case wire.MethodToolsCall:
		u.arrived = append(u.arrived, arrived{name, m.Name, string(m.Arguments.Of(m.Raw))})
		result = `{"resultType":"complete",` + strings.TrimPrefix(string(dojo.Result(u.answer)), "{")
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(wire.AppendResult(nil, m.ID.Of(m.Raw), []byte(result)))
}

// next says what the next call is answered, and how many have arrived until now.
func (u *recorded) next(answer string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
	return len(u.arrived)
}

// since are the calls that arrived after the first n.
func (u *recorded) since(n int) []arrived {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.arrived[n:])
}

// The assistant of examples/assistant under each setting of the exam: the policies that
// are in force. Setting 4 needs to know whether an address was made up, which no policy is
// told.
var assistants = []struct {
	setting  int // of dojo.Settings
	policies string
}{
	{0, "0"}, {1, "0 1"}, {2, "0 1 2"}, {3, "0 1 2 3"}, {5, "0 1 2 3 5"}, {6, "0 1 2 3 5 6"}, {7, "0 1 2 3 5 6 7"}, {8, "0 1 2 5 7 8"}, {9, "0 9"},
}

// school is an installation in front of the exam's two upstreams, with an agent for each
// setting.
type school struct {
	*office
	upstream *recorded
	tools    map[string]map[string]*dojo.Tool
	hosts    map[int]*control.KeyMade
}

// declared is what upstreams/NAME.yaml says of the tools, as onboarding and people have it.
func declared(tools map[string]*dojo.Tool) (map[string]any, []json.RawMessage) {
	said := map[string]any{}
	var pins []json.RawMessage
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		t := tools[name]
		fields := map[string]any{}
		for _, f := range t.Fields {
			field := map[string]any{"kind": f.Kind.String(), "endorsed": f.Integrity == sallyport.Endorsed}
			if f.Form != 0 {
				field["form"] = f.Form.String()
			}
			fields[f.Pointer] = field
		}
		one := map[string]any{"access": t.Access, "data_class": t.Profile.Class, "args": t.Profile.Args, "fields": fields}
		if t.Format != "" {
			one["format"] = t.Format
		}
		if t.AllEndorsed() {
			one["integrity"] = "endorsed"
		}
		said[name] = one
		pins = append(pins, t.Definition)
	}
	return said, pins
}

// asYAML writes a value as JSON, which is YAML.
func asYAML(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func newSchool(t *testing.T) *school {
	t.Helper()
	const data = dojo.Data("../flow/testdata/agentdojo")
	s := &school{tools: data.Onboard(t), hosts: map[int]*control.KeyMade{}}
	served := map[string][]json.RawMessage{}
	files := map[string]string{"sallyport.yaml": "listen: 127.0.0.1:8484\n"}
	for suite, tools := range s.tools {
		_, served[suite] = declared(tools)
	}
	s.upstream = newRecorded(t, served)
	for suite, tools := range s.tools {
		said, pins := declared(tools)
		files["upstreams/"+suite+".yaml"] = asYAML(t, map[string]any{
			"upstream": suite, "tools": said,
			"stages": map[string]any{"production": map[string]any{"url": s.upstream.url + "/" + suite, "era": wire.Version20260728, "binding": "live"}},
		})
		files["upstreams/"+suite+".pins.json"] = asYAML(t, map[string]any{
			"server": map[string]any{"protocolVersion": wire.Version20260728, "capabilities": map[string]any{"tools": map[string]any{}}}, "tools": pins,
		})
	}
	byNumber := map[string]string{}
	for name, text := range example(t, "assistant") {
		files[name] = text
		byNumber[filepath.Base(name)[:1]] = name
	}
	for _, a := range assistants {
		name := fmt.Sprintf("assistant-%d", a.setting)
		var policies []string
		for n := range strings.FieldsSeq(a.policies) {
			policies = append(policies, byNumber[n])
		}
		files["agents/"+name+".yaml"] = asYAML(t, map[string]any{"agent": name, "owner": "ana@example.com", "tier": "medium", "upstreams": []string{"banking", "slack"}, "policies": policies})
	}
	s.office = openOffice(t, files)
	for _, a := range assistants {
		agent := sallyport.AgentID(fmt.Sprintf("assistant-%d", a.setting))
		if _, err := s.App.Control.Promote(t.Context(), s.Person, agent, "", sallyport.Production, "test"); err != nil {
			t.Fatal(err)
		}
		host, err := s.App.Control.MakeHostKey(t.Context(), s.Person, agent, sallyport.Production, 1, "test")
		if err != nil {
			t.Fatal(err)
		}
		s.hosts[a.setting] = host
	}
	return s
}

// example are the policies of a folder of examples/, by their place in a project.
func example(t testing.TB, name string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", "examples", name, "policies", "*.cedar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("examples/%s has no policies: %v", name, err)
	}
	files := map[string]string{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files["policies/"+filepath.Base(p)] = string(b)
	}
	return files
}

// openOffice starts an installation from files, applies them, and has a person who
// approves.
func openOffice(t *testing.T, files map[string]string) *office {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	a, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := a.Founder(t.Context(), "you@localhost"); err != nil {
		t.Fatal(err)
	}
	people, err := a.Store.Persons(t.Context())
	if err != nil || len(people) == 0 {
		t.Fatal(people, err)
	}
	o := &office{Demo: &Demo{App: a, Person: &people[0]}, t: t}
	a.agents.Approvals.Hold = time.Millisecond
	o.cam = &sallyport.Person{ID: "cam@example.com", Roles: []sallyport.Role{sallyport.Approver}}
	if err := a.Control.PutPerson(t.Context(), o.Person, *o.cam); err != nil {
		t.Fatal(err)
	}
	p, err := a.Propose(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Control.Apply(t.Context(), o.Person, p, p.Digest, "test"); err != nil {
		t.Fatal(err)
	}
	return o
}

// pupil makes the calls of one case over MCP.
type pupil struct {
	*school
	token   string
	waiting held // the call that was held last
}

func (s *school) begin(setting int, task bool) func(c *dojo.Case) dojo.Agent {
	return func(c *dojo.Case) dojo.Agent {
		s.t.Helper()
		var e sallyport.Envelope
		if task {
			e.Task = c.Prompt
		}
		run, err := s.App.Control.OpenRun(s.t.Context(), &s.hosts[setting].Key, 0, e)
		if err != nil {
			s.t.Fatal(err)
		}
		return &pupil{school: s, token: run.Token}
	}
}

func (p *pupil) Call(step *dojo.Step) dojo.Ending { return p.send(step, "") }

func (p *pupil) Approved(step *dojo.Step) {
	p.says(p.cam, p.waiting.id, true)
	if p.send(step, p.waiting.state) != dojo.Made {
		p.t.Errorf("approved, and not made: %s %s", step.Tool, step.Arguments)
	}
}

// send says what came of a call by the log of the upstream, not by what the agent is told.
func (p *pupil) send(step *dojo.Step, state string) dojo.Ending {
	p.t.Helper()
	before := p.upstream.next(step.Output)
	m := p.asks(p.token, step.Tool, string(step.Arguments), true, state)
	switch came := p.upstream.since(before); {
	case len(came) == 1 && came[0].tool == step.Tool && sameJSON(p.t, came[0].args, string(step.Arguments)):
		return dojo.Made
	case len(came) > 0:
		p.t.Fatalf("%s %s arrived as %v", step.Tool, step.Arguments, came)
	case strings.Contains(string(m.Raw), wire.ResultInputRequired):
		p.waiting = p.waits(m)
		return dojo.Held
	}
	return dojo.Refused
}

func sameJSON(t testing.TB, a, b string) bool {
	t.Helper()
	var one, two any
	if json.Unmarshal([]byte(a), &one) != nil || json.Unmarshal([]byte(b), &two) != nil {
		t.Fatalf("no JSON: %s %s", a, b)
	}
	return asYAML(t, one) == asYAML(t, two)
}

// TestDojo is the exam of package dojo through the whole program, over MCP, with the
// policies of examples/assistant. What package flow alone would do has to be done. Two
// settings are taken, and every eighth hijacked case; SALLYPORT_EXAM=n takes every nth case
// of all settings, which for 1 is a quarter of an hour or more.
func TestDojo(t *testing.T) {
	const data = dojo.Data("../flow/testdata/agentdojo")
	s := newSchool(t)
	good, bad := data.Benign(t), data.Worst(t)
	every, all := stride(t, 8)
	for _, task := range []bool{true, false} {
		for _, a := range assistants {
			of := dojo.Settings[a.setting]
			if !all && (a.setting != 5 && a.setting != 7 || !task) {
				continue
			}
			var some []dojo.Case
			for i := 0; i < len(bad); i += every {
				some = append(some, bad[i])
			}
			plain := func(c *dojo.Case) dojo.Agent { return dojo.NewPlain(c, s.tools[c.Suite], of, task) }
			g, want := dojo.Serve(good, s.tools, s.begin(a.setting, task)), dojo.Serve(good, s.tools, plain)
			t.Logf("task text %v, %s: held %d, refused %d of %d benign calls (%d consequential) in %d of %d tasks, unattended %.0f %%",
				task, of.Name, g.Held, g.Refused, g.Calls, g.Consequential, g.TasksHeld, g.Tasks, g.Unattended())
			if g.Refused > 0 {
				t.Errorf("%s: benign calls were refused outright: %s", of.Name, strings.Join(g.Why, "\n"))
			}
			agrees(t, of.Name+", benign", a.setting, g.Why, want.Why)
			for _, strength := range dojo.Strengths {
				b, want := dojo.Attack(some, s.tools, strength, s.begin(a.setting, task)), dojo.Attack(some, s.tools, strength, plain)
				t.Logf("\t%s: %d of %d side effects arrive (%.1f %%), of %d of %d pairs", strength, b.Arrived, b.Calls, b.Share(), b.PairsArrived, b.Pairs)
				agrees(t, of.Name+", "+string(strength), a.setting, b.Why, want.Why)
				if strength != dojo.Endorsed && a.setting >= 5 && a.setting <= 8 && b.Arrived > 0 {
					t.Errorf("%s, %s: arrived: %v", of.Name, strength, b.Why[0])
				}
			}
		}
	}
	verify(t, s.Demo)
}

// stride is of how many cases one is taken, and whether somebody wants all settings.
func stride(t testing.TB, usual int) (n int, all bool) {
	t.Helper()
	text := os.Getenv("SALLYPORT_EXAM")
	if text == "" {
		return usual, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SALLYPORT_EXAM=%s: write of how many cases one is taken, as in 1", text)
	}
	return n, true
}

// agrees compares what the program did with what package flow alone does.
func agrees(t *testing.T, what string, setting int, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	only := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	say := t.Errorf
	if setting == 9 {
		// A run's label falls with the answer of a change, too; the exam in plain Go looks
		// at reads alone.
		say = t.Logf
	}
	say("%s: the program and package flow differ: the program alone %q, flow alone %q", what, only(got, want), only(want, got))
}
