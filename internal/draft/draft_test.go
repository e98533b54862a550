package draft_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/draft"
	"sallyport/internal/testkit"
	"sallyport/internal/twin"
)

var update = flag.Bool("update", false, "write the golden files anew")

// system is a twin that is taken for a real system: what it answers is recorded, and a
// draft knows nothing else of it than its tools.
type system struct {
	tools []sallyport.Tool
	world *twin.World
}

func newSystem(t testing.TB, definition string, files map[string][]byte, tools string) *system {
	t.Helper()
	s := &system{}
	var all []json.RawMessage
	if err := json.Unmarshal([]byte(tools), &all); err != nil {
		t.Fatal(err)
	}
	for _, raw := range all {
		var d struct{ Name string }
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		s.tools = append(s.tools, sallyport.Tool{Name: d.Name, UpstreamName: d.Name, Definition: sallyport.Text(raw)})
	}
	s.world = compiled(t, testkit.FromYAML(t, []byte(definition)), files, s.tools)
	return s
}

func compiled(t testing.TB, definition []byte, files map[string][]byte, tools []sallyport.Tool) *twin.World {
	t.Helper()
	def, err := twin.Parse(definition)
	if err != nil {
		t.Fatalf("%v\n%s", err, definition)
	}
	w, err := twin.Compile(def, files, tools)
	if err != nil {
		t.Fatalf("%v\n%s", err, definition)
	}
	return w
}

type call struct{ tool, args string }

// session is what a world answers to calls, one after the other.
func session(t testing.TB, w *twin.World, calls ...call) draft.Session {
	t.Helper()
	run := w.NewRun(7)
	s := draft.Session{Name: "recorded"}
	for i, c := range calls {
		result, isError := answer(t, run, c.tool, []byte(c.args), i)
		if result == nil {
			t.Fatalf("%s %s: the system does not answer", c.tool, c.args)
		}
		s.Calls = append(s.Calls, draft.Call{Tool: c.tool, Args: []byte(c.args), Result: result, IsError: isError})
	}
	return s
}

// answer is a tools/call result, nil if no rule gives one.
func answer(t testing.TB, run *twin.Run, tool string, args []byte, number int) (result []byte, isError bool) {
	t.Helper()
	a, err := run.Call(&sallyport.Tool{UpstreamName: tool}, args, number)
	if err != nil {
		return nil, false
	}
	out := map[string]any{"content": []any{}}
	if a.HasText {
		out["content"] = []any{map[string]any{"type": "text", "text": a.Text}}
	}
	if a.Structured != nil && a.Structured[0] == '{' {
		out["structuredContent"] = json.RawMessage(a.Structured)
	}
	if a.IsError {
		out["isError"] = true
	}
	raw, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return raw, a.IsError
}

// trial replays sessions exactly: there are no ids that two runs would make in two ways.
func trial(t testing.TB, tools []sallyport.Tool, sessions []draft.Session) draft.Trial {
	return func(definition []byte, files map[string][]byte) ([][]draft.Verdict, error) {
		def, err := twin.Parse(definition)
		if err != nil {
			return nil, err
		}
		w, err := twin.Compile(def, files, tools)
		if err != nil {
			return nil, err
		}
		var all [][]draft.Verdict
		for _, s := range sessions {
			run := w.NewRun(7)
			var verdicts []draft.Verdict
			for i, c := range s.Calls {
				got, isError := answer(t, run, c.Tool, c.Args, i)
				v := draft.Verdict{Known: got != nil, Status: got != nil && isError == c.IsError}
				if got != nil {
					same, err := canonical.Equal(got, c.Result)
					v.Same = err == nil && same
					v.Shape = v.Same
				}
				verdicts = append(verdicts, v)
			}
			all = append(all, verdicts)
		}
		return all, nil
	}
}

func drafted(t testing.TB, s *system, in draft.Input) *draft.Draft {
	t.Helper()
	in.World, in.Upstream, in.Tools = "copy", "original", s.tools
	d, err := draft.New(in, trial(t, s.tools, in.Sessions))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *system) compare(t *testing.T, d *draft.Draft, calls ...call) {
	t.Helper()
	copied := compiled(t, testkit.FromYAML(t, d.Text), d.Files, s.tools).NewRun(7)
	want := session(t, s.world, calls...)
	for i, c := range calls {
		got, _ := answer(t, copied, c.tool, []byte(c.args), i)
		same, err := canonical.Equal(got, want.Calls[i].Result)
		if got == nil || err != nil || !same {
			t.Errorf("%s %s\n got %s\nwant %s", c.tool, c.args, got, want.Calls[i].Result)
		}
	}
	if t.Failed() {
		t.Logf("%s", d.Text)
	}
}

func find(d *draft.Draft, kind, subject string) *draft.Finding {
	for i := range d.Findings {
		if f := &d.Findings[i]; f.Kind == kind && f.Subject == subject {
			return f
		}
	}
	return nil
}

// desk is a system of tickets: rows by ids that it makes, one at a time.
const desk = `
world: desk
tables:
  tickets:
    key: id
    id: {style: sequence}
    seed: tickets.ndjson
tools:
  list_tickets: {list: tickets, where: 'args.get("status") == None or row.status == args.status', return: {tickets: rows}}
  get_ticket: {get: tickets, key: args.id, missing: no such ticket}
  create_ticket: {create: tickets, set: {title: args.title, owner: args.owner, status: '"open"'}}
  update_ticket: {patch: tickets, key: args.id, missing: no such ticket}
  delete_ticket: {delete: tickets, key: args.id, missing: no such ticket, return: {deleted: 'True'}}
  get_report: {return: {text: '"nothing"'}}
`

const deskTools = `[
{"name":"list_tickets","inputSchema":{"type":"object","properties":{"status":{"type":"string"}}},"annotations":{"readOnlyHint":true},
 "outputSchema":{"type":"object","required":["tickets"],"properties":{"tickets":{"type":"array","items":{"$ref":"#/$defs/ticket"}}},
 "$defs":{"ticket":{"type":"object","required":["id","title","owner","status"],"properties":{"id":{"type":"integer"},"title":{"type":"string"},"owner":{"type":"string"},"status":{"type":"string","enum":["open","closed"]}}}}}},
{"name":"get_ticket","inputSchema":{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]},"annotations":{"readOnlyHint":true},
 "outputSchema":{"type":"object","required":["id","title","owner","status"],"properties":{"id":{"type":"integer"},"title":{"type":"string"},"owner":{"type":"string"},"status":{"type":"string","enum":["open","closed"]}}}},
{"name":"create_ticket","inputSchema":{"type":"object","properties":{"title":{"type":"string"},"owner":{"type":"string"}},"required":["title","owner"]},"annotations":{"readOnlyHint":false},
 "outputSchema":{"type":"object","required":["id","title","owner","status"],"properties":{"id":{"type":"integer"},"title":{"type":"string"},"owner":{"type":"string"},"status":{"type":"string","enum":["open","closed"]}}}},
{"name":"update_ticket","inputSchema":{"type":"object","properties":{"id":{"type":"integer"},"status":{"type":"string"},"owner":{"type":"string"}},"required":["id"]},"annotations":{"readOnlyHint":false},
 "outputSchema":{"type":"object","required":["id","title","owner","status"],"properties":{"id":{"type":"integer"},"title":{"type":"string"},"owner":{"type":"string"},"status":{"type":"string"}}}},
{"name":"delete_ticket","inputSchema":{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]},"annotations":{"readOnlyHint":false,"destructiveHint":true},
 "outputSchema":{"type":"object","required":["deleted"],"properties":{"deleted":{"type":"boolean"}}}},
{"name":"get_report","inputSchema":{"type":"object","properties":{"day":{"type":"string"}},"required":["day"]},"annotations":{"readOnlyHint":false}}
]`

var deskFiles = map[string][]byte{"tickets.ndjson": []byte(`{"id":1,"title":"printer is on fire","owner":"ada","status":"open"}
{"id":2,"title":"no coffee","owner":"bob","status":"closed"}
{"id":3,"title":"door stuck","owner":"ada","status":"open"}
`)}

// TestRoundTrip: what was recorded of a system makes a twin that answers, to calls that
// were not recorded, what the system answers.
func TestRoundTrip(t *testing.T) {
	s := newSystem(t, desk, deskFiles, deskTools)
	recorded := session(t, s.world,
		call{"list_tickets", `{}`}, call{"get_ticket", `{"id":2}`}, call{"get_ticket", `{"id":9}`},
		call{"list_tickets", `{"status":"open"}`}, call{"create_ticket", `{"title":"lift hums","owner":"cleo"}`},
		call{"create_ticket", `{"title":"too dark","owner":"bob"}`}, call{"list_tickets", `{}`},
		call{"update_ticket", `{"id":1,"status":"closed"}`}, call{"update_ticket", `{"id":3,"owner":"bob"}`}, call{"update_ticket", `{"id":9,"owner":"bob"}`},
		call{"get_ticket", `{"id":1}`}, call{"delete_ticket", `{"id":2}`}, call{"delete_ticket", `{"id":2}`}, call{"list_tickets", `{}`},
	)
	d := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}})
	s.compare(t, d,
		call{"list_tickets", `{"status":"closed"}`}, call{"delete_ticket", `{"id":1}`}, call{"get_ticket", `{"id":1}`},
		call{"update_ticket", `{"id":2,"status":"open","owner":"dora"}`}, call{"create_ticket", `{"title":"x","owner":"y"}`},
		call{"list_tickets", `{"status":"open"}`}, call{"delete_ticket", `{"id":99}`}, call{"list_tickets", `{}`},
	)
	for _, name := range []string{"list_tickets", "get_ticket", "create_ticket", "update_ticket", "delete_ticket"} {
		if f := find(d, "tool", name); !f.Kept || f.Agreed != f.Calls || f.Confidence < 0.8 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := find(d, "tool", "get_report"); f.Kept {
		t.Errorf("a tool that is annotated as changing something has a rule for its name: %+v", f)
	}
	if f := find(d, "key", "tickets"); f == nil || f.Says != "id" || !f.Kept {
		t.Errorf("key: %+v", f)
	}
	if !bytes.Equal(d.Files["copy-tickets.ndjson"], deskFiles["tickets.ndjson"]) {
		t.Errorf("seeds: %s", d.Files["copy-tickets.ndjson"])
	}
}

// TestWithoutRecordings: from the tools alone, what their schemas say is live, and what
// only a name says is not.
func TestWithoutRecordings(t *testing.T) {
	s := newSystem(t, desk, deskFiles, deskTools)
	d := drafted(t, s, draft.Input{})
	if f := find(d, "table", "tickets"); f == nil || !f.Kept {
		t.Errorf("table: %+v\n%s", f, d.Text)
	}
	if f := find(d, "enum", "tickets.status"); f == nil {
		t.Error("the enum of the schema is not found")
	}
	if f := find(d, "tool", "update_ticket"); f.Kept {
		t.Errorf("how a change works is believed by its name: %+v", f)
	}
	loose := drafted(t, s, draft.Input{Threshold: 0.5})
	if f := find(loose, "tool", "update_ticket"); !f.Kept {
		t.Errorf("with a threshold of 0.5: %+v", f)
	}
	compiled(t, testkit.FromYAML(t, loose.Text), loose.Files, s.tools)
}

// TestContradicted: what recordings speak against is commented out, whatever its name.
func TestContradicted(t *testing.T) {
	s := newSystem(t, `
world: odd
tables: {notes: {key: n, seed: notes.ndjson}}
tools:
  list_notes: {list: notes, return: {notes: '[{"id": r.id, "text": r.text} for r in rows]'}}
  create_note: {return: {id: '"1"', text: '"not kept"'}}
`, map[string][]byte{"notes.ndjson": []byte(`{"n":1,"id":"1","text":"a"}` + "\n" + `{"n":2,"id":"1","text":"b"}` + "\n")}, `[
{"name":"list_notes","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"outputSchema":{"type":"object","required":["notes"],"properties":{"notes":{"type":"array","items":{"type":"object","required":["id","text"],"properties":{"id":{"type":"string"},"text":{"type":"string"}}}}}}},
{"name":"create_note","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"outputSchema":{"type":"object","required":["id","text"],"properties":{"id":{"type":"string"},"text":{"type":"string"}}}}]`)
	recorded := session(t, s.world, call{"list_notes", `{}`}, call{"create_note", `{"text":"c"}`}, call{"list_notes", `{}`})
	d := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}})
	if f := find(d, "key", "notes"); f != nil && f.Says == "id" && f.Kept {
		t.Errorf("two rows have one id, and it is the key: %+v\n%s", f, d.Text)
	}
	if f := find(d, "tool", "create_note"); f.Kept {
		t.Errorf("a tool that makes no note makes one: %+v\n%s", f, d.Text)
	}
}

// TestPartly: a rule that answers some of what was recorded, and not all, is not live.
func TestPartly(t *testing.T) {
	s := newSystem(t, strings.Replace(desk, "get_ticket: {get: tickets, key: args.id, missing: no such ticket}",
		`get_ticket: {return: 'tables.tickets[args.id] if args.id != 2 else fail("ticket 2 is locked")'}`, 1), deskFiles, deskTools)
	recorded := session(t, s.world, call{"list_tickets", `{}`}, call{"get_ticket", `{"id":1}`}, call{"get_ticket", `{"id":2}`}, call{"get_ticket", `{"id":3}`})
	d := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}})
	if f := find(d, "tool", "get_ticket"); f.Kept || f.Agreed != 2 || f.Calls != 3 {
		t.Errorf("%+v\n%s", f, d.Text)
	}
}

// TestBehind: what a read shows after a change that no rule makes says nothing against
// the read's rule.
func TestBehind(t *testing.T) {
	s := newSystem(t, strings.Replace(desk, "update_ticket: {patch: tickets, key: args.id, missing: no such ticket}",
		`update_ticket: {patch: tickets, key: args.id, set: {owner: '"nobody"'}, return: {n: len(tables.tickets)}}`, 1), deskFiles, deskTools)
	calls := []call{{"list_tickets", `{}`}, {"get_ticket", `{"id":1}`}, {"get_ticket", `{"id":3}`}, {"update_ticket", `{"id":1,"status":"closed"}`},
		{"get_ticket", `{"id":1}`}, {"list_tickets", `{}`}, {"list_tickets", `{"status":"open"}`}}
	d := drafted(t, s, draft.Input{Sessions: []draft.Session{session(t, s.world, calls...)}})
	if f := find(d, "tool", "update_ticket"); f.Kept {
		t.Errorf("%+v\n%s", f, d.Text)
	}
	if f := find(d, "tool", "get_ticket"); !f.Kept || f.Agreed != 2 || f.Calls != 3 {
		t.Errorf("%+v\n%s", f, d.Text)
	}
	s.compare(t, d, call{"get_ticket", `{"id":2}`}, call{"list_tickets", `{"status":"closed"}`})
}

// TestAnnotated: a name that an annotation contradicts is believed less.
func TestAnnotated(t *testing.T) {
	plain := newSystem(t, desk, deskFiles, deskTools)
	odd := newSystem(t, desk, deskFiles, strings.Replace(deskTools, `"required":["id"]},"annotations":{"readOnlyHint":false},`, `"required":["id"]},"annotations":{"readOnlyHint":true},`, 1))
	of := func(s *system) float64 {
		return find(drafted(t, s, draft.Input{}), "tool", "update_ticket").Confidence
	}
	if a, b := of(plain), of(odd); b >= a/2 {
		t.Errorf("%v with the annotation of a read, %v without", b, a)
	}
}

// TestReferences: what becomes of rows that refer to a deleted one is learned.
func TestReferences(t *testing.T) {
	const tools = `[
{"name":"list_teams","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"outputSchema":{"type":"object","required":["teams"],"properties":{"teams":{"type":"array","items":{"type":"object","required":["id","name"],"properties":{"id":{"type":"string"},"name":{"type":"string"}}}}}}},
{"name":"list_members","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"outputSchema":{"type":"object","required":["members"],"properties":{"members":{"type":"array","items":{"type":"object","required":["id","team_id"],"properties":{"id":{"type":"string"},"team_id":{"type":["string","null"]}}}}}}},
{"name":"delete_team","inputSchema":{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]},"annotations":{"destructiveHint":true,"readOnlyHint":false},"outputSchema":{"type":"object","required":["ok"],"properties":{"ok":{"type":"boolean"}}}}]`
	for _, onDelete := range []string{"cascade", "null"} {
		s := newSystem(t, fmt.Sprintf(`
world: club
tables:
  teams: {key: id, seed: teams.ndjson}
  members: {key: id, seed: members.ndjson, fields: {team_id: {type: string, refs: teams, on_delete: %q}}}
tools:
  list_teams: {list: teams, return: {teams: rows}}
  list_members: {list: members, return: {members: rows}}
  delete_team: {delete: teams, key: args.id, return: {ok: true}}
`, onDelete), map[string][]byte{
			"teams.ndjson":   []byte(`{"id":"t1","name":"red"}` + "\n" + `{"id":"t2","name":"blue"}` + "\n" + `{"id":"t3","name":"grey"}` + "\n"),
			"members.ndjson": []byte(`{"id":"m1","team_id":"t1"}` + "\n" + `{"id":"m2","team_id":"t2"}` + "\n" + `{"id":"m3","team_id":"t1"}` + "\n"),
		}, tools)
		recorded := session(t, s.world, call{"list_teams", `{}`}, call{"list_members", `{}`}, call{"delete_team", `{"id":"t1"}`}, call{"list_teams", `{}`}, call{"list_members", `{}`})
		d := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}})
		f := find(d, "reference", "members.team_id")
		if f == nil || !f.Kept || !strings.Contains(f.Says, "on_delete: "+onDelete) {
			t.Errorf("%s: %+v", onDelete, f)
		}
		s.compare(t, d, call{"delete_team", `{"id":"t2"}`}, call{"list_members", `{}`}, call{"delete_team", `{"id":"t3"}`}, call{"list_members", `{}`})
	}
}

// TestDemo drafts worlds of the demo's servers from their tools alone, and keeps them as
// golden files.
func TestDemo(t *testing.T) {
	for _, name := range []string{"crm", "mail", "payments"} {
		raw, err := os.ReadFile(filepath.Join("..", "demo", "tools", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		s := newSystem(t, "{world: none, tools: {}}", nil, string(raw)) // nothing is recorded of it
		d, err := draft.New(draft.Input{World: name, Upstream: sallyport.UpstreamID(name), Tools: s.tools}, nil)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".yaml")
		if *update {
			if err := os.WriteFile(golden, d.Text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(d.Text)); diff != "" {
			t.Errorf("%s (-update writes it anew):\n%s", golden, diff)
		}
		def := testkit.FromYAML(t, d.Text)
		if bytes.Contains(def, []byte(`"tables"`)) || bytes.Contains(def, []byte(`"tools"`)) {
			compiled(t, def, d.Files, s.tools)
		}
	}
}

// TestSame: a draft is a function of what it is made of.
func TestSame(t *testing.T) {
	s := newSystem(t, desk, deskFiles, deskTools)
	recorded := session(t, s.world, call{"list_tickets", `{}`}, call{"create_ticket", `{"title":"lift hums","owner":"cleo"}`}, call{"list_tickets", `{}`})
	first := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}})
	for range 5 {
		if again := drafted(t, s, draft.Input{Sessions: []draft.Session{recorded}}); !bytes.Equal(first.Text, again.Text) {
			t.Fatal(cmp.Diff(string(first.Text), string(again.Text)))
		}
	}
	if !slices.IsSortedFunc(first.Findings, func(a, b draft.Finding) int { return int(1000 * (b.Confidence - a.Confidence)) }) {
		t.Error("the surest is not the first")
	}
}
