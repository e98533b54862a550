package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/config"
	"sallyport/internal/wire"
)

// A till is a live system, of either era, that changes when it is told to, and keeps what
// it was asked. What it answers has white space, numbers and escapes of its own.
type till struct {
	url string
	era string

	mu        sync.Mutex
	customers map[string]string
	asked     []string // tools, in order
	ids       []string // of the customers that were asked for
}

func newTill(t *testing.T, era string) *till {
	s := &till{era: era, customers: map[string]string{}}
	for id, status := range map[string]string{"c1": "active", "c2": "active", "c3": "closed"} {
		s.customers[id] = `{ "id": "` + id + `", "name": "Ren\u00e9e ` + id + `",  "status": "` + status + `", "limit": 1.50, "serial": 12345678901234567890 }`
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL + "/mcp"
	return s
}

func (s *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m, err := wire.Scan(body, wire.Limits{})
	switch {
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case m.Kind != wire.Request:
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	result := `{}`
	switch m.Method {
	case wire.MethodInitialize:
		result = fmt.Sprintf(`{"protocolVersion":%q,"capabilities":{"tools":{},"resources":{}},"serverInfo":{"name":"till","version":"1"}}`, s.era)
	case wire.MethodToolsCall:
		result = s.call(&m)
	case wire.MethodResourcesRead:
		result = `{"contents":[{"uri":"file:///report","text":"3 customers"}]}`
	case wire.MethodResourcesList:
		result = `{"resources":[{"uri":"file:///report","name":"report"}]}`
	case wire.MethodResourcesTemplatesList:
		result = `{"resourceTemplates":[]}`
	}
	if s.era == wire.Version20260728 {
		result = strings.Replace(`{"resultType":"complete",`+result[1:], ",}", "}", 1)
	}
	_, _ = w.Write(wire.AppendResult(nil, m.ID.Of(m.Raw), []byte(result)))
}

func (s *till) call(m *wire.Message) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, m.Name)
	var args struct{ ID, Status, Customer string }
	_ = json.Unmarshal(m.Arguments.Of(m.Raw), &args)
	text := func(document string) string {
		return `{"content":[{"type":"text","text":` + quotedOddly(document) + `}],"structuredContent":` + document + `}`
	}
	switch m.Name {
	case "get_customer":
		s.ids = append(s.ids, args.ID)
		if row, ok := s.customers[args.ID]; ok {
			return text(row)
		}
		return `{"content":[{"type":"text","text":"Error: no such customer (` + args.ID + `)"}],"isError":true}`
	case "list_customers":
		var rows []string
		for _, id := range []string{"c1", "c2", "c3"} {
			if row := s.customers[id]; args.Status == "" || strings.Contains(row, `"`+args.Status+`"`) {
				rows = append(rows, row)
			}
		}
		return text(fmt.Sprintf("{\n  \"customers\": [%s],\n  \"total\": %d, \"page\": 1 }", strings.Join(rows, ", "), len(rows)))
	case "list_notes":
		return text(`{ "notes" : [ ] }`)
	case "say_customer":
		return `{"content":[{"type":"text","text":"c1 is active"}]}`
	case "weather":
		return `{"content":[{"type":"text","text":"rain"}]}`
	default: // whatever else arrives changes something
		s.customers = map[string]string{}
		return text(`{"done":true}`)
	}
}

// quotedOddly is a JSON string with escapes that nobody needs.
func quotedOddly(text string) string {
	return strings.ReplaceAll(string(wire.AppendString(nil, text)), "Ren", `\u0052en`)
}

// changes are the tools that arrived and are no reads.
func (s *till) changes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.asked), func(name string) bool {
		return slices.Contains([]string{"get_customer", "list_customers", "list_notes", "say_customer", "weather"}, name)
	})
}

func (s *till) askedFor(id string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.ids {
		if have == id {
			n++
		}
	}
	return n
}

const tillWorld = `world: over
tables:
  customers:
    key: id
    fields: {status: {type: enum, values: [active, closed]}}
  notes:
    key: id
    id: {style: prefix, prefix: n_}
    fields: {customer: {type: string, refs: customers}}
tools:
  get_customer: {get: customers, key: args.id, missing: no such customer}
  set_customer: {patch: customers, key: args.id, set: {status: args.status}, missing: no such customer}
  drop_customer: {delete: customers, key: args.id, missing: no such customer}
  add_note: {create: notes, set: {customer: args.customer, text: args.text}}
  list_notes: {list: notes, match: {customer: args.customer}}
  close_all:
    steps:
      - {let: all, be: tables.customers.rows()}
      - {return: {closed: len(all)}}
  mail: {return: {sent: true}}
shadow:
  reads:
    get_customer: {table: customers, row: ""}
    list_customers: {table: customers, rows: /customers, count: /total, show: args.get("status") == None or row.status == args.status}
    list_notes: {table: notes, rows: /notes}
  fetch:
    customers: {tool: get_customer, args: {id: key}}
  apart: [weather]
  opaque: [mail]
`

// tillTools are the tools and whether people declared them to be reads. sly says of
// itself that it only reads, which nobody has confirmed.
var tillTools = []struct{ name, access string }{
	{"get_customer", "read"}, {"list_customers", "read"}, {"list_notes", "read"}, {"say_customer", "read"}, {"weather", "read"},
	{"set_customer", ""}, {"drop_customer", ""}, {"add_note", ""}, {"close_all", ""}, {"mail", ""}, {"refund", ""}, {"sly", ""},
}

type shadowed struct {
	*yard
	t    *testing.T
	till *till
}

// startShadow has an agent in production over a till. binding is that of its stage.
func startShadow(t *testing.T, s *till, binding string) *shadowed {
	t.Helper()
	var pins []string
	declared := ""
	for _, tool := range tillTools {
		annotations := ""
		if tool.name == "sly" {
			annotations = `,"annotations":{"readOnlyHint":true}`
		}
		pins = append(pins, `{"name":"`+tool.name+`","inputSchema":{"type":"object"}`+annotations+`}`)
		if tool.access != "" {
			declared += "  " + tool.name + ": {access: read, data_class: internal}\n"
		}
	}
	files := map[string]string{
		"sallyport.yaml":           "listen: 127.0.0.1:8484\nsecrets: {files: [secrets]}\n",
		"policies/all.cedar":       "@id(\"all\")\npermit (principal, action, resource);\n",
		"agents/live.yaml":         "agent: live\nowner: a@example.com\ntier: low\nupstreams: [till]\npolicies: [policies/all.cedar]\n",
		"upstreams/till.pins.json": fmt.Sprintf(`{"server":{"protocolVersion":%q,"capabilities":{"tools":{},"resources":{}}},"tools":[%s]}`, s.era, strings.Join(pins, ",")),
		"upstreams/till.yaml": "upstream: till\nstages:\n  sandbox: {binding: simulate}\n  production:\n" + binding +
			"    world: over\n    url: " + s.url + "\n    credential: file:secrets/till\n    rate: {calls: 1000, per: 1s}\ntools:\n" + declared,
		"worlds/over.yaml": tillWorld,
		"secrets/till":     "reads",
	}
	dir := t.TempDir()
	writeFiles(t, dir, files)
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	y := &shadowed{yard: &yard{}, t: t, till: s}
	y.begin(dir)
	if _, err := y.Founder(t.Context(), "you@localhost"); err != nil {
		t.Fatal(err)
	}
	people, err := y.Store.Persons(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	y.person = &people[0]
	if err := y.apply(t, y.person, "the shadow tests"); err != nil {
		t.Fatal(err)
	}
	for _, stage := range sallyport.Stages {
		if _, err := y.Control.Promote(t.Context(), y.person, "live", "", stage, "the shadow tests"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if changes := s.changes(); len(changes) > 0 {
			t.Errorf("the live system was told to %v", changes)
		}
	})
	return y
}

func (y *shadowed) begin(dir string) {
	y.t.Helper()
	a, err := New(y.t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		y.t.Fatal(err)
	}
	y.App = a
	y.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			y.t.Error(err)
		}
	})
}

// again ends the program and starts it anew.
func (y *shadowed) again() {
	y.t.Helper()
	dir := y.Dir
	if err := y.App.Close(); err != nil {
		y.t.Fatal(err)
	}
	y.begin(dir)
}

// result is what the agent is answered, but for what a server says of itself.
func (y *shadowed) result(token, tool, args string) string {
	y.t.Helper()
	m, err := call(y.URL, token, tool, args)
	if err != nil {
		y.t.Fatal(err)
	}
	raw := m.Result.Of(m.Raw)
	out := `{`
	_ = wire.Each(raw, func(name string, value []byte) error {
		if name == "content" || name == "structuredContent" || name == "isError" {
			out += `,"` + name + `":` + string(value)
		}
		return nil
	})
	return strings.Replace(out, "{,", "{", 1) + `}`
}

func (y *shadowed) expect(token, tool, args, want string) {
	y.t.Helper()
	if got := y.result(token, tool, args); got != want {
		y.t.Errorf("%s %s\n got %s\nwant %s", tool, args, got, want)
	}
}

// tillSays is the answer of the till about a document.
func tillSays(document string) string {
	return `{"content":[{"type":"text","text":` + quotedOddly(document) + `}],"structuredContent":` + document + `}`
}

// records are the outcomes of a run's calls, in their order.
func (y *shadowed) records(run sallyport.RunID) []*audit.Record {
	y.t.Helper()
	lines, err := y.Store.Trace(y.t.Context(), run, "", false)
	if err != nil {
		y.t.Fatal(err)
	}
	var out []*audit.Record
	for _, l := range lines {
		r, err := audit.ParseRecord(l.Body)
		if err != nil {
			y.t.Fatal(err)
		}
		if r.Kind == audit.Outcome {
			out = append(out, r)
		}
	}
	return out
}

// TestShadow: an agent that knows nothing of it reads the live system, changes it, and
// reads its changes; the live system is only read; another run sees nothing of it; and a
// restart in between changes nothing.
func TestShadow(t *testing.T) {
	for _, era := range []string{wire.Version20260728, wire.Version20251125} {
		t.Run(era, func(t *testing.T) {
			s := newTill(t, era)
			y := startShadow(t, s, "    binding: shadow\n")
			token, run := y.token(t, "live", 0)
			c := func(id string) string { return s.customers[id] }
			closed := strings.Replace(c("c1"), `"active"`, `"closed"`, 1)

			y.expect(token, "get_customer", `{"id":"c1"}`, tillSays(c("c1")))
			y.expect(token, "set_customer", `{"id":"c1","status":"closed"}`,
				`{"content":[{"type":"text","text":"{\"id\":\"c1\",\"name\":\"Ren\\u00e9e c1\",\"status\":\"closed\",\"limit\":1.50,\"serial\":12345678901234567890}"}],"structuredContent":{"id":"c1","name":"Ren\u00e9e c1","status":"closed","limit":1.50,"serial":12345678901234567890}}`)
			after := func() {
				t.Helper()
				y.expect(token, "get_customer", `{"id":"c1"}`, tillSays(closed))
				y.expect(token, "list_customers", `{"status":"active"}`, tillSays("{\n  \"customers\": ["+c("c2")+"],\n  \"total\": 1, \"page\": 1 }"))
				y.expect(token, "list_customers", `{}`, tillSays("{\n  \"customers\": ["+strings.Join([]string{closed, c("c2"), c("c3")}, ", ")+"],\n  \"total\": 3, \"page\": 1 }"))
				y.expect(token, "weather", `{}`, `{"content":[{"type":"text","text":"rain"}]}`)
			}
			after()
			compact := strings.NewReplacer(`{ `, `{`, ` }`, `}`, `": `, `":`, `,  `, `,`, `, `, `,`).Replace(closed)
			y.expect(token, "list_customers", `{"status":"closed"}`, strings.Replace( // what is put in has no escapes of the till
				tillSays("{\n  \"customers\": ["+c("c3")+","+compact+"],\n  \"total\": 2, \"page\": 1 }"), `:\"\u0052en`, `:\"Ren`, 1))

			// c2 has only been seen in a list: it is fetched, as a call of its own.
			before := s.askedFor("c2")
			note := y.result(token, "add_note", `{"customer":"c2","text":"hello"}`)
			if s.askedFor("c2") != before+1 {
				t.Errorf("the customer of the note was asked for %d times", s.askedFor("c2")-before)
			}
			var made struct{ StructuredContent struct{ ID string } }
			if err := json.Unmarshal([]byte(note), &made); err != nil || made.StructuredContent.ID == "" {
				t.Fatalf("%s: %v", note, err)
			}
			row := `{"id":"` + made.StructuredContent.ID + `","customer":"c2","text":"hello"}`
			noted := func() {
				t.Helper()
				y.expect(token, "list_notes", `{"customer":"c2"}`, tillSays(`{ "notes" : [`+row+` ] }`))
				y.expect(token, "list_notes", `{"customer":"c1"}`, tillSays(`{ "notes" : [ ] }`))
				y.expect(token, "add_note", `{"customer":"c9","text":"?"}`, `{"content":[{"type":"text","text":"customer \"c9\" not found"}],"isError":true}`)
			}
			noted()
			y.again()
			after()
			noted()

			// Another run sees nothing of it.
			other, _ := y.token(t, "live", 0)
			y.expect(other, "get_customer", `{"id":"c1"}`, tillSays(c("c1")))
			y.expect(other, "list_notes", `{"customer":"c2"}`, tillSays(`{ "notes" : [ ] }`))

			for i, r := range y.records(run) {
				if r.Grade != sallyport.GradeShadow || r.Binding != sallyport.Shadow || r.World == "" || r.Number == 0 || r.Opaque != "" {
					t.Errorf("record %d of %s: %+v", i, r.Tool, r)
				}
			}
			if fetched := slices.DeleteFunc(y.records(run), func(r *audit.Record) bool { return r.Number != 8 }); len(fetched) != 2 ||
				fetched[0].Tool != "get_customer" || fetched[0].Access != sallyport.Read || fetched[1].Tool != "add_note" {
				t.Errorf("what was fetched for the eighth call: %+v", fetched)
			}
			if report := verify(t, &Demo{App: y.App}); len(report.Findings) > 0 {
				t.Errorf("%+v", report.Findings)
			}
		})
	}
}

// TestShadowRemoves: what the run has removed is gone for it, and for it alone.
func TestShadowRemoves(t *testing.T) {
	s := newTill(t, wire.Version20260728)
	y := startShadow(t, s, "    binding: off\n    bindings: {get_customer: shadow, list_customers: shadow, set_customer: shadow}\n")
	token, _ := y.token(t, "live", 0)
	if got := y.result(token, "drop_customer", `{"id":"c1"}`); !strings.Contains(got, "isError") {
		t.Errorf("what is off: %s", got)
	}
	y.expect(token, "set_customer", `{"id":"c7","status":"closed"}`, `{"content":[{"type":"text","text":"no such customer"}],"isError":true}`)
	y.expect(token, "set_customer", `{"id":"c2","status":"closed"}`, y.result(token, "set_customer", `{"id":"c2","status":"closed"}`))

	y = startShadow(t, s, "    binding: shadow\n    bindings: {mail: off}\n")
	token, run := y.token(t, "live", 0)
	c := func(id string) string { return s.customers[id] }
	if got := y.result(token, "drop_customer", `{"id":"c2"}`); !strings.Contains(got, "not answering") {
		t.Errorf("notes may refer to c2, and nobody has seen them all: %s", got)
	}
	if records := y.records(run); !strings.Contains(records[len(records)-1].Opaque, "notes") {
		t.Errorf("%+v", records)
	}
	y.expect(token, "list_customers", `{}`, tillSays("{\n  \"customers\": ["+strings.Join([]string{c("c1"), c("c2"), c("c3")}, ", ")+"],\n  \"total\": 3, \"page\": 1 }"))
}

// TestShadowEndsEvidence: what cannot be modelled is said in the records from there on,
// also after a restart, and to the agent it is a system that does not answer, or the
// live system's own answer.
func TestShadowEndsEvidence(t *testing.T) {
	s := newTill(t, wire.Version20251125)
	y := startShadow(t, s, "    binding: shadow\n")
	for _, c := range []struct{ name, tool, args, why string }{
		{"no rule", "refund", `{}`, "no rule"},
		{"declared opaque", "mail", `{}`, "declared opaque"},
		{"a rule that looks through everything", "close_all", `{}`, "looks through"},
		{"an annotation that nobody confirmed", "sly", `{}`, "no rule"},
		{"prose about what was changed", "say_customer", `{}`, "nothing says which rows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, run := y.token(t, "live", 0)
			y.expect(token, "say_customer", `{}`, `{"content":[{"type":"text","text":"c1 is active"}]}`)
			y.result(token, "set_customer", `{"id":"c1","status":"closed"}`)
			got := y.result(token, c.tool, c.args)
			if c.tool == "say_customer" {
				if got != `{"content":[{"type":"text","text":"c1 is active"}]}` {
					t.Errorf("%s", got)
				}
			} else if !strings.Contains(got, "the system behind this is not answering") || strings.Contains(got, "rule") || strings.Contains(got, "opaque") || strings.Contains(got, "world") {
				t.Errorf("the agent is told %s", got)
			}
			y.result(token, "weather", `{}`)
			y.again()
			y.result(token, "weather", `{}`)
			records := y.records(run)
			for i, r := range records {
				if ended := i >= len(records)-3; ended != strings.Contains(r.Opaque, c.why) || !ended && r.Opaque != "" {
					t.Errorf("record %d of %s says %q", i, r.Tool, r.Opaque)
				}
			}
		})
	}
}

// TestShadowWall: no change reaches the live system, whatever an agent writes.
func TestShadowWall(t *testing.T) {
	for _, binding := range []string{"    binding: shadow\n", "    binding: off\n    bindings: {get_customer: shadow, set_customer: shadow, sly: shadow}\n"} {
		s := newTill(t, wire.Version20260728)
		y := startShadow(t, s, binding)
		token, _ := y.token(t, "live", 0)
		for _, h := range []hostile{
			{params: `"name":"set_customer","arguments":{"id":"c1","status":"closed"}`},
			{params: `"name":"SET_CUSTOMER","arguments":{"id":"c1"}`},
			{params: `"name":"set\u005fcustomer","arguments":{"id":"c1","status":"closed"}`},
			{params: `"name":"till__set_customer","arguments":{"id":"c1"}`},
			{params: `"name":"get_customer","name":"set_customer","arguments":{"id":"c1"}`},
			{params: `"name":"sly","arguments":{}`},
			{params: `"name":"refund","arguments":{}`},
			{params: `"name":"refund","arguments":{}`, meta: `"access":"read","binding":"live","stage":"production"`},
			{params: `"name":"get_customer","arguments":{"id":"c1"}`, header: http.Header{"Mcp-Name": {"set_customer"}}},
			{params: `"name":"set_customer","arguments":{"id":"c1"},"task":{"ttl":60000}`},
			{params: `"name":"drop_customer","arguments":{"id":"c1"},"inputResponses":{"a":{"action":"accept"}}`},
			{method: "tools/set_customer", params: `"name":"set_customer"`},
			{method: "completion/complete", params: `"ref":{"type":"ref/prompt","name":"set_customer"},"argument":{"name":"id","value":"c1"}`},
			{raw: `[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"set_customer","arguments":{}}}]`},
		} {
			if _, err := y.send(t.Context(), token, &h); err != nil {
				t.Fatalf("%+v: %v", h, err)
			}
		}
		var wait sync.WaitGroup
		for i := range 12 { // many at once, in one run
			wait.Go(func() {
				tool := []string{"set_customer", "get_customer", "sly"}[i%3]
				if _, err := call(y.URL, token, tool, `{"id":"c2","status":"closed"}`); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if changes := s.changes(); len(changes) > 0 || len(s.customers) != 3 {
			t.Errorf("%s: %v", binding, changes)
		}
	}
}
