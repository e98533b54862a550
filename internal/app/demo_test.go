package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/demo"
	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// startOpenDemo is a demo whose agent may do everything, with some of its files.
func startOpenDemo(t *testing.T, files map[string]string) *Demo {
	t.Helper()
	o := Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()}
	all := map[string]string{"policies/support.cedar": "@id(\"all\")\npermit (principal, action, resource);\n"}
	maps.Copy(all, files)
	for name, text := range all {
		if err := writeOnce(o.Dir, name, text); err != nil {
			t.Fatal(err)
		}
	}
	d, err := NewDemo(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.App.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// inventory is what the live servers say that they hold, as data of their twin.
func inventory(t *testing.T) map[string]string {
	t.Helper()
	company := demo.New()
	ask := func(server, tool, args string, to any) bool {
		t.Helper()
		s := httptest.NewServer(company.Handler(server))
		defer s.Close()
		m, err := call(s.URL, company.Token(server), tool, args)
		if err != nil {
			t.Fatal(err)
		}
		if m.IsError {
			return false
		}
		if err := json.Unmarshal(m.StructuredContent.Of(m.Raw), to); err != nil {
			t.Fatal(err)
		}
		return true
	}
	type row = map[string]any
	var customers, notes, payments []row
	for n := 1; ; n++ {
		var customer row
		id := fmt.Sprintf("cus_%04d", n)
		if !ask("crm", "get_customer", `{"id":"`+id+`"}`, &customer) {
			break
		}
		for _, note := range customer["notes"].([]any) {
			note.(row)["customer"] = id
			notes = append(notes, note.(row))
		}
		delete(customer, "notes")
		customers = append(customers, customer)
		var list struct{ Payments []row }
		ask("payments", "list_payments", `{"customer":"`+id+`"}`, &list)
		for i := range list.Payments { // the newest first
			p := list.Payments[len(list.Payments)-1-i]
			p["customer"] = id
			payments = append(payments, p)
		}
	}
	if len(customers) != 6 || len(notes) != 3 || len(payments) != 12 {
		t.Fatalf("the live servers hold %d customers, %d notes, %d payments", len(customers), len(notes), len(payments))
	}
	files := map[string]string{}
	for name, rows := range map[string][]row{"customers": customers, "notes": notes, "payments": payments} {
		raw, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		files["worlds/data/"+name+".json"] = string(raw)
	}
	return files
}

// members are those of a result, or an error; the id of the call apart.
func members(t *testing.T, m *wire.Message) map[string]string {
	t.Helper()
	by := map[string]string{}
	if m.Kind == wire.Error {
		by["error"] = string(m.Error.Of(m.Raw))
	} else if err := wire.Each(m.Result.Of(m.Raw), func(name string, raw []byte) error {
		by[name] = string(raw)
		return nil
	}); err != nil {
		t.Fatalf("%s: %v", m.Raw, err)
	}
	for name, text := range by {
		by[name] = callID.ReplaceAllString(text, "call")
	}
	return by
}

var callID = regexp.MustCompile(`call_[0-9a-z]{26}`)

// TestTwinIsFaithful: with the data of the live servers their twin answers every call
// with the same bytes, errors and what calls before have changed included.
func TestTwinIsFaithful(t *testing.T) {
	d := startOpenDemo(t, inventory(t))
	sandbox, production := d.run(t, sallyport.Sandbox), d.run(t, sallyport.Production)
	seen := map[string]int{} // answers by tool, and by whether they are errors
	same := func(tool, args string) {
		t.Helper()
		twin, err := call(d.App.URL, sandbox, tool, args)
		if err != nil {
			t.Fatal(err)
		}
		live, err := call(d.App.URL, production, tool, args)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(members(t, live), members(t, twin)); diff != "" {
			t.Errorf("%s %s (-live +twin)\n%s", tool, args, diff)
		}
		seen[fmt.Sprintf("%s %t", tool, live.IsError)]++
	}
	for _, c := range []struct{ tool, args string }{
		{"find_customer", `{"email":"elif@example.com"}`},
		{"find_customer", `{"email":"eve@example.com"}`},
		{"find_customer", `{"email":"ADA@example.com"}`},
		{"find_customer", `{"email":"\u0061da@example.com"}`},
		{"find_customer", `{"email":"no address"}`},
		{"find_customer", `{}`},
		{"get_customer", `{"id":"cus_0005"}`},
		{"get_customer", `{"id":"cus_0006"}`},
		{"get_customer", `{"id":"cus_9999"}`},
		{"get_customer", `{"id":"5"}`},
		{"add_note", `{"id":"cus_0006","text":"<called> & \"asked\" \\ twice\n\ttoday \u00e9 é 😀 \ud83d\ude00 \/ \u2028 \u0041"}`},
		{"add_note", `{"text":"in another order","id":"cus_0006"}`},
		{"add_note", `{"id":"cus_0001","text":"again"}`},
		{"add_note", `{"id":"cus_9999","text":"x"}`},
		{"add_note", `{"id":"cus_0001","text":""}`},
		{"get_customer", `{"id":"cus_0006"}`},
		{"list_payments", `{"customer":"cus_0001"}`},
		{"list_payments", `{"customer":"cus_9999"}`},
		{"refund", `{"payment":"pay_1002","amount":40,"reason":"late"}`},
		{"refund", `{"payment":"pay_1002","amount":4.0e1,"reason":"late"}`},
		{"refund", `{"payment":"pay_1002","amount":1,"reason":"late"}`},
		{"refund", `{"payment":"pay_1005","amount":1,"reason":"late"}`},
		{"refund", `{"payment":"pay_1009","amount":901,"reason":"late"}`},
		{"refund", `{"payment":"pay_1009","amount":900.0,"reason":"late"}`},
		{"refund", `{"payment":"pay_9999","amount":1,"reason":"late"}`},
		{"refund", `{"payment":"pay_1001","amount":0,"reason":"late"}`},
		{"refund", `{"payment":"pay_1001","amount":"40","reason":"late"}`},
		{"refund", `{"payment":"pay_1001","amount":40,"reason":"late","now":true}`},
		{"list_payments", `{"customer":"cus_0001"}`},
		{"list_payments", `{"customer":"cus_0005"}`},
		{"list_outbox", `{}`},
		{"send_mail", `{"to":"ada@example.com","subject":"Refund <1>","body":"On its way.\n\u0000"}`},
		{"send_mail", `{"body":"","subject":"Second","to":"x@example.net"}`},
		{"send_mail", `{"to":"ada@example.com","subject":"","body":""}`},
		{"list_outbox", `{}`},
		{"list_outbox", `{"page":2}`},
		{"read_minds", `{}`},
	} {
		same(c.tool, c.args)
	}
	// And any others: what one changes, those after it see.
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		customer := fmt.Sprintf("cus_%04d", 1+r.IntN(8))
		switch r.IntN(7) {
		case 0:
			same("find_customer", fmt.Sprintf(`{"email":"%s@example.com"}`, []string{"ada", "bruno", "chiara", "david", "elif", "farid", "gita"}[r.IntN(7)]))
		case 1:
			same("get_customer", `{"id":"`+customer+`"}`)
		case 2:
			same("add_note", fmt.Sprintf(`{"id":%q,"text":"note %d"}`, customer, i))
		case 3:
			same("list_payments", `{"customer":"`+customer+`"}`)
		case 4:
			same("refund", fmt.Sprintf(`{"payment":"pay_%d","amount":%d,"reason":"%d"}`, 1001+r.IntN(14), 1+r.IntN(200), i))
		case 5:
			same("send_mail", fmt.Sprintf(`{"to":"%s@example.com","subject":"%d","body":"b"}`, customer, i))
		case 6:
			same("list_outbox", `{}`)
		}
	}
	for _, tool := range []string{"find_customer", "get_customer", "add_note", "list_payments", "refund", "send_mail", "list_outbox"} {
		for _, failed := range []bool{false, true} {
			if seen[fmt.Sprintf("%s %t", tool, failed)] == 0 {
				t.Errorf("no call of %s has shown an answer with isError %t", tool, failed)
			}
		}
	}
}

// TestAgentMovesWithoutAChange: what the scripted agent does and is told is the same
// where the twin with the servers' data answers and where they answer themselves.
func TestAgentMovesWithoutAChange(t *testing.T) {
	d := startOpenDemo(t, inventory(t))
	steps := map[sallyport.Stage][]string{}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Production} {
		before := d.Company.Refunded()
		ctx, end := context.WithCancel(t.Context())
		agent := demo.Agent{Endpoint: d.App.URL + "/mcp", Token: d.run(t, stage), Era: wire.Stateless}
		ended := false
		err := agent.Run(ctx, func(s demo.Step) {
			if !ended {
				steps[stage] = append(steps[stage], fmt.Sprintf("%s %s %s %s %s %s", s.Name, s.Tool, s.Args, s.Outcome, s.Code, s.Text))
			}
			if s.Name == "work" {
				ended = true
				end()
			}
		})
		end()
		if !errors.Is(err, demo.ErrNotHalted) {
			t.Fatal(err)
		}
		// The policy allows the refunds of 900 and 200 here.
		if paid := d.Company.Refunded() - before; paid != map[sallyport.Stage]int{sallyport.Production: 1140}[stage] {
			t.Errorf("from %s the payments server has paid back %d EUR", stage, paid)
		}
	}
	if len(steps[sallyport.Production]) != 9 {
		t.Errorf("%q", steps[sallyport.Production])
	}
	if diff := cmp.Diff(steps[sallyport.Production], steps[sallyport.Sandbox]); diff != "" {
		t.Errorf("(-production +sandbox)\n%s", diff)
	}
}

// TestSandboxOfTheDemo: it keeps what a run changes, fits what the tools declare,
// holds other people than the live servers, and reaches none of those.
func TestSandboxOfTheDemo(t *testing.T) {
	d := startOpenDemo(t, nil)
	results := map[string]*schema.Schema{}
	for _, name := range demo.Names {
		u, problems := config.LoadUpstream(os.DirFS(d.App.Dir), sallyport.UpstreamID(name))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		for _, tool := range u.Tools {
			raw, _, err := wire.Field([]byte(tool.Definition), "outputSchema")
			if err != nil {
				t.Fatal(err)
			}
			if results[tool.UpstreamName], err = schema.Compile(raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := d.run(t, sallyport.Sandbox), d.run(t, sallyport.Sandbox)
	said := ""
	want := func(token, tool, args, part string) {
		t.Helper()
		m, err := call(d.App.URL, token, tool, args)
		if err != nil {
			t.Fatal(err)
		}
		got := string(m.StructuredContent.Of(m.Raw))
		said += got
		if m.IsError || !strings.Contains(got, part) {
			t.Errorf("%s %s: %s\nwant a part %s", tool, args, m.Raw, part)
		}
		if err := results[tool].Validate([]byte(got)); err != nil {
			t.Errorf("%s %s: %s: %v", tool, args, got, err)
		}
	}
	want(first, "find_customer", `{"email":"ada@example.com"}`, `{"id":"cus_0412","email":"ada@example.com","name":"Ada Sandoval"}`)
	want(first, "refund", `{"payment":"pay_2003","amount":40,"reason":"late"}`, `{"refund":"ref_0001","payment":"pay_2003","amount":40}`)
	want(first, "list_payments", `{"customer":"cus_0412"}`, `"payments":[{"payment":"pay_2003","date":"2026-10-15","purpose":"Express delivery","amount":60,"refunded":40}`)
	want(first, "add_note", `{"id":"cus_0412","text":"Called back."}`, `{"id":"cus_0412","note":"note_0004"}`)
	want(first, "get_customer", `{"id":"cus_0412"}`, `{"note":"note_0004","text":"Called back."}]`)
	want(first, "send_mail", `{"to":"ada@example.com","subject":"Refund","body":"On its way."}`, `{"message":"msg_0001","to":"ada@example.com"}`)
	want(first, "list_outbox", `{}`, `{"messages":[{"message":"msg_0001","to":"ada@example.com","subject":"Refund","body":"On its way."}]}`)
	// Another run knows nothing of it.
	want(second, "list_outbox", `{}`, `{"messages":[]}`)
	want(second, "list_payments", `{"customer":"cus_0412"}`, `"purpose":"Express delivery","amount":60,"refunded":0}`)
	for id := 412; id <= 417; id++ {
		want(second, "get_customer", fmt.Sprintf(`{"id":"cus_%04d"}`, id), `"notes":`)
		want(second, "list_payments", fmt.Sprintf(`{"customer":"cus_%04d"}`, id), `"payments":[{`)
	}
	for _, name := range demo.Names {
		if calls := d.Company.Calls(name); len(calls) != 0 {
			t.Errorf("the sandbox has called %s: %+v", name, calls)
		}
	}
	// Only the address that the agent is given is the same.
	for name, text := range inventory(t) {
		var rows []map[string]any
		if err := json.Unmarshal([]byte(text), &rows); err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			for _, member := range []string{"id", "name", "email", "city", "payment", "text"} {
				if v, ok := row[member].(string); ok && v != "ada@example.com" && strings.Contains(said, `"`+v+`"`) {
					t.Errorf("the sandbox knows %q of the live servers' %s", v, name)
				}
			}
		}
	}
	// What people make of the world stays theirs.
	at := filepath.Join(d.App.Dir, "worlds", "company.yaml")
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	template, err := config.Init("support")
	if err != nil || !bytes.Equal(text, []byte(template["worlds/company.yaml"])) {
		t.Errorf("the demo's world is not the template's: %v\n%s", err, text)
	}
}
