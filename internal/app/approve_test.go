package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/wire"
)

// heldPolicy lets the demo's agent refund anything, if people say so.
const heldPolicy = `
@id("read")
permit (principal, action in Action::"read", resource);

@id("refunds")
permit (principal, action == Action::"payments/refund", resource);

@id("large-refunds") @on_deny("approval") @expires("5m")
@reason("refunds above 100 EUR are approved by people")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 100 };

@id("huge-refunds") @on_deny("approval") @approver_role("operator") @quorum("2")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 300 };

@id("notes")
permit (principal, action == Action::"crm/add_note", resource);

@id("no-notes")
forbid (principal, action == Action::"crm/add_note", resource);
`

// office is the demo with people who decide.
type office struct {
	*Demo
	t                  *testing.T
	ana, ben, cam, dev *sallyport.Person
}

func startOffice(t *testing.T) *office {
	t.Helper()
	return startOfficeIn(t, t.TempDir())
}

func startOfficeIn(t *testing.T, dir string) *office {
	t.Helper()
	if err := writeOnce(dir, "policies/support.cedar", heldPolicy); err != nil {
		t.Fatal(err)
	}
	d, err := NewDemo(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{Demo: d, t: t}
	d.App.agents.Approvals.Hold = 100 * time.Millisecond
	t.Cleanup(func() {
		if err := o.App.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, p := range map[string]struct {
		to    **sallyport.Person
		roles []sallyport.Role
	}{
		"ana@example.com": {&o.ana, []sallyport.Role{sallyport.Approver, sallyport.Operator}},
		"ben@example.com": {&o.ben, []sallyport.Role{sallyport.Operator}},
		"cam@example.com": {&o.cam, []sallyport.Role{sallyport.Approver}},
		"dev@example.com": {&o.dev, []sallyport.Role{sallyport.Developer}},
	} {
		*p.to = &sallyport.Person{ID: sallyport.PersonID(name), Roles: p.roles}
		if err := d.App.Control.PutPerson(t.Context(), d.Person, **p.to); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// token opens a run in production on behalf of a person.
func (o *office) token(person sallyport.PersonID) string {
	o.t.Helper()
	host, err := o.App.Control.MakeHostKey(o.t.Context(), o.Person, "support", sallyport.Production, 1, "test")
	if err != nil {
		o.t.Fatal(err)
	}
	run, err := o.App.Control.OpenRun(o.t.Context(), &host.Key, 0, sallyport.Envelope{Person: person, Task: "pay it back"})
	if err != nil {
		o.t.Fatal(err)
	}
	return run.Token
}

// asks makes a call of the stateless era whose client can open pages, or not, and that
// comes back with a state, or with nothing.
func (o *office) asks(token, tool, args string, opens bool, state string) *wire.Message {
	o.t.Helper()
	m, err := o.try(token, tool, args, opens, state, "")
	if err != nil {
		o.t.Fatal(err)
	}
	return m
}

func (o *office) try(token, tool, args string, opens bool, state, attached string) (*wire.Message, error) {
	req, err := callRequest(o.App.URL, token, tool, args)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	body := string(raw)
	if opens {
		body = strings.Replace(body, `"io.modelcontextprotocol/clientCapabilities":{}`, `"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}`, 1)
	}
	if state != "" {
		body = strings.Replace(body, `"params":{`, `"params":{"requestState":`+string(wire.AppendString(nil, state))+`,"inputResponses":{"sallyport-approval":{"action":"accept"}},`, 1)
	}
	if attached != "" {
		body = strings.Replace(body, `"_meta":{`, `"_meta":{"sallyport/approval":"`+attached+`",`, 1)
	}
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	m, err := wire.Scan(raw, wire.Limits{})
	return &m, err
}

// held is what a call is told that waits for people.
type held struct {
	state string
	id    sallyport.ApprovalID
	url   string
}

// holds makes a call that has to be held.
func (o *office) holds(token, args string) held {
	o.t.Helper()
	m := o.asks(token, "refund", args, true, "")
	return o.waits(m)
}

func (o *office) waits(m *wire.Message) held {
	o.t.Helper()
	var r struct {
		ResultType    string
		RequestState  string
		InputRequests map[string]struct {
			Method string
			Params struct{ Mode, URL, ElicitationID, Message string }
		}
	}
	if err := json.Unmarshal(m.Result.Of(m.Raw), &r); err != nil {
		o.t.Fatalf("%s: %v", m.Raw, err)
	}
	q := r.InputRequests["sallyport-approval"]
	if r.ResultType != wire.ResultInputRequired || q.Method != wire.MethodElicitationCreate || q.Params.Mode != "url" || !strings.HasPrefix(r.RequestState, "sallyport.approval.") {
		o.t.Fatalf("not held: %s", m.Raw)
	}
	if want := o.App.URL + "/approvals/" + q.Params.ElicitationID; q.Params.URL != want {
		o.t.Fatalf("the page is %s, want %s", q.Params.URL, want)
	}
	return held{r.RequestState, sallyport.ApprovalID(q.Params.ElicitationID), q.Params.URL}
}

func (o *office) says(by *sallyport.Person, id sallyport.ApprovalID, yes bool) *control.Approval {
	o.t.Helper()
	a, err := o.App.Control.Decide(o.t.Context(), by, id, control.Verdict{Approve: yes, Reason: "test"})
	if err != nil {
		o.t.Fatal(err)
	}
	return a
}

// codeOf says with which code a call was refused, "" if it was not.
func codeOf(m *wire.Message) string {
	meta, ok, err := wire.Field(m.Result.Of(m.Raw), "_meta")
	if err != nil || !ok {
		return ""
	}
	refusal, ok, err := wire.Field(meta, "sallyport/refusal")
	if err != nil || !ok {
		return ""
	}
	code, _, _ := wire.Field(refusal, "code")
	return strings.Trim(string(code), `"`)
}

const refund200 = `{"payment":"pay_1001","amount":200,"reason":"late"}`

func TestApprovalIsForExactlyOneCall(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	before := o.Company.Refunded()
	h := o.holds(token, refund200)
	if o.Company.Refunded() != before {
		t.Fatal("a call that was held was made")
	}
	a := o.says(o.cam, h.id, true)
	if a.State != sallyport.ApprovalApproved {
		t.Fatalf("the approval is %s", a.State)
	}
	m := o.asks(token, "refund", refund200, true, h.state)
	if m.IsError || o.Company.Refunded() != before+200 {
		t.Fatalf("approved, and refused: %s", m.Raw)
	}
	// Once.
	m = o.asks(token, "refund", refund200, true, h.state)
	if codeOf(m) != "conflict" || o.Company.Refunded() != before+200 {
		t.Fatalf("an approval was good for two calls: %s", m.Raw)
	}
	// An equal call is a new one.
	if again := o.holds(token, refund200); again.id == h.id {
		t.Fatal("an equal call got the approval of another")
	}
	// The record of the call names the approval.
	lines, _, err := o.App.Store.ListRecords(t.Context(), audit.Intent, control.RecordFilter{Tool: "refund"}, -1, 10)
	if err != nil || len(lines) != 1 || !strings.Contains(string(lines[0].Body), string(h.id)) {
		t.Errorf("intents: %v %v", lines, err)
	}
}

// TestApprovalMisuse is the matrix of what must not pass.
func TestApprovalMisuse(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token, other := o.token(""), o.token("")
	before := o.Company.Refunded()
	approved := func() held {
		t.Helper()
		h := o.holds(token, refund200)
		o.says(o.cam, h.id, true)
		return h
	}
	nothing := func(what string, m *wire.Message, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if now := o.Company.Refunded(); now != before {
			t.Errorf("%s: %d EUR were refunded: %s", what, now-before, m.Raw)
			before = now
		}
	}
	h := approved()
	for what, args := range map[string]string{
		"another amount":  `{"payment":"pay_1001","amount":201,"reason":"late"}`,
		"another payment": `{"payment":"pay_1002","amount":200,"reason":"late"}`,
		"another reason":  `{"payment":"pay_1001","amount":200,"reason":"later"}`,
	} {
		m, err := o.try(token, "refund", args, true, h.state, "")
		nothing(what, m, err)
		m, err = o.try(token, "refund", args, false, "", string(h.id))
		nothing(what+", by id", m, err)
	}
	m, err := o.try(other, "refund", refund200, true, h.state, "")
	nothing("another run, with the state", m, err)
	m, err = o.try(other, "refund", refund200, false, "", string(h.id))
	nothing("another run, with the id", m, err)
	if codeOf(m) != "not_found" {
		t.Errorf("another run is told that there is an approval: %s", m.Raw)
	}
	for what, state := range map[string]string{
		"a forged state": "sallyport.approval." + strings.Repeat("A", 120), "an altered state": h.state[:len(h.state)-3] + "AAA", "a cut state": h.state[:40],
	} {
		m, err := o.try(token, "refund", refund200, true, state, "")
		nothing(what, m, err)
	}
	m, err = o.try(token, "refund", refund200, false, "", "apr_01k00000000000000000000000")
	nothing("an approval that does not exist", m, err)

	// Nobody approves what was asked on their own behalf, without the role, or twice.
	mine := o.token(o.cam.ID)
	own := o.holds(mine, refund200)
	for _, by := range []*sallyport.Person{o.cam, o.dev, {ID: "nobody@example.com"}} {
		if _, err := o.App.Control.Decide(t.Context(), by, own.id, control.Verdict{Approve: true, Reason: "test"}); err == nil {
			t.Errorf("%s approved", by.ID)
		}
	}
	if _, err := o.App.Control.Decide(t.Context(), o.cam, h.id, control.Verdict{Approve: true, Reason: "test"}); err == nil {
		t.Error("approved what was approved")
	}

	// Denied.
	denied := o.holds(token, `{"payment":"pay_1001","amount":150,"reason":"late"}`)
	o.says(o.cam, denied.id, false)
	m, err = o.try(token, "refund", `{"payment":"pay_1001","amount":150,"reason":"late"}`, true, denied.state, "")
	nothing("denied", m, err)
	if codeOf(m) != "denied" || !strings.Contains(string(m.Raw), "a person denied it: test") {
		t.Errorf("denied: %s", m.Raw)
	}

	// The role of who approved is taken away.
	h = approved()
	if err := o.App.Control.PutPerson(t.Context(), o.Person, sallyport.Person{ID: o.cam.ID, Roles: []sallyport.Role{sallyport.Viewer}}); err != nil {
		t.Fatal(err)
	}
	m, err = o.try(token, "refund", refund200, true, h.state, "")
	nothing("by somebody who is no approver any more", m, err)
	if err := o.App.Control.PutPerson(t.Context(), o.Person, *o.cam); err != nil {
		t.Fatal(err)
	}

	// Halted meanwhile.
	if _, err := o.App.Control.Halt(t.Context(), o.Person, sallyport.HaltTool, "payments/refund", "test"); err != nil {
		t.Fatal(err)
	}
	m, err = o.try(token, "refund", refund200, true, h.state, "")
	nothing("halted", m, err)
	if err := o.App.Control.Resume(t.Context(), o.Person, sallyport.HaltTool, "payments/refund", "test"); err != nil {
		t.Fatal(err)
	}

	// Expired.
	o.App.Store.Now = func() time.Time { return time.Now().Add(6 * time.Minute) }
	m, err = o.try(token, "refund", refund200, true, h.state, "")
	nothing("expired", m, err)
	o.App.Store.Now = time.Now

	// The policies are others.
	path := filepath.Join(o.App.Dir, "policies", "support.cedar")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "\n@id(\"more\") forbid (principal, action == Action::\"payments/refund\", resource) when { context.args.amount > 4000 };\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := o.App.Propose(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.App.Control.Apply(t.Context(), o.Person, p, p.Digest, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.App.Control.Promote(t.Context(), o.Person, "support", "", sallyport.Production, "test"); err != nil {
		t.Fatal(err)
	}
	m, err = o.try(token, "refund", refund200, true, h.state, "")
	nothing("under other policies", m, err)
}

// TestApprovalDoubleUse: of many calls at once with one approval, one is made.
func TestApprovalDoubleUse(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	before := o.Company.Refunded()
	h := o.holds(token, refund200)
	o.says(o.cam, h.id, true)
	var all sync.WaitGroup
	made := make(chan string, 32)
	for range cap(made) {
		all.Go(func() {
			m, err := o.try(token, "refund", refund200, true, h.state, "")
			if err != nil {
				t.Error(err)
			} else if !m.IsError {
				made <- string(m.Raw)
			}
		})
	}
	all.Wait()
	if len(made) != 1 || o.Company.Refunded() != before+200 {
		t.Fatalf("%d calls were made with one approval, %d EUR", len(made), o.Company.Refunded()-before)
	}
}

func TestApprovalQuorum(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	const args = `{"payment":"pay_1001","amount":310,"reason":"late"}`
	h := o.holds(token, args)
	// Two policies hold it: one wants an approver, the other two operators.
	if a := o.says(o.cam, h.id, true); a.State != sallyport.ApprovalPending {
		t.Fatalf("one approver: %s", a.State)
	}
	if a := o.says(o.ben, h.id, true); a.State != sallyport.ApprovalPending {
		t.Fatalf("one operator: %s", a.State)
	}
	if m := o.asks(token, "refund", args, true, h.state); codeOf(m) != "" || m.ResultType != wire.ResultInputRequired {
		t.Fatalf("not enough have approved: %s", m.Raw)
	}
	if a := o.says(o.ana, h.id, true); a.State != sallyport.ApprovalApproved {
		t.Fatalf("two operators and an approver: %s", a.State)
	}
	before := o.Company.Refunded()
	if m := o.asks(token, "refund", args, true, h.state); m.IsError || o.Company.Refunded() != before+310 {
		t.Fatalf("approved by all: %s", m.Raw)
	}
}

// TestApprovalEdited: people put other arguments in the agent's stead, and those are sent.
func TestApprovalEdited(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	before := o.Company.Refunded()
	h := o.holds(token, refund200)
	for _, bad := range []string{`{"payment":"pay_1001"}`, `[]`, `{"payment":"pay_1001","amount":"all","reason":"x"}`, `{`} {
		if _, err := o.App.Control.Decide(t.Context(), o.cam, h.id, control.Verdict{Approve: true, Reason: "less", Edited: json.RawMessage(bad)}); err == nil {
			t.Errorf("edited to %s", bad)
		}
	}
	a, err := o.App.Control.Decide(t.Context(), o.cam, h.id, control.Verdict{Approve: true, Reason: "less", Edited: json.RawMessage(`{"payment":"pay_1001","amount":120,"reason":"late"}`)})
	if err != nil || a.State != sallyport.ApprovalApproved {
		t.Fatalf("%v %v", a, err)
	}
	if m := o.asks(token, "refund", refund200, true, h.state); m.IsError || o.Company.Refunded() != before+120 {
		t.Fatalf("edited: %d EUR: %s", o.Company.Refunded()-before, m.Raw)
	}
	lines, _, err := o.App.Store.ListRecords(t.Context(), audit.Intent, control.RecordFilter{Tool: "refund"}, -1, 10)
	if err != nil || len(lines) != 1 {
		t.Fatal(lines, err)
	}
	if r, err := audit.ParseRecord(lines[0].Body); err != nil || r.ArgumentsSent == "" || r.ArgumentsSent == r.Arguments {
		t.Errorf("what was sent and what was asked: %s", lines[0].Body)
	}

	// A vote for the agent's arguments is none for the edited ones.
	const args = `{"payment":"pay_1001","amount":310,"reason":"late"}`
	h = o.holds(token, args)
	o.says(o.ben, h.id, true)
	a, err = o.App.Control.Decide(t.Context(), o.ana, h.id, control.Verdict{Approve: true, Reason: "more", Edited: json.RawMessage(`{"payment":"pay_1001","amount":320,"reason":"late"}`)})
	if err != nil || a.State != sallyport.ApprovalPending {
		t.Fatalf("two operators said yes to two things: %v %v", a.State, err)
	}
	if a = o.says(o.ben, h.id, true); a.State != sallyport.ApprovalApproved {
		t.Fatalf("both said yes to the same: %v", a.State)
	}
}

// TestApprovalOfOlderClients: the call is held for a while, and comes back by itself;
// later an equal call finds the approval, once.
func TestApprovalOfOlderClients(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	before := o.Company.Refunded()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { // as soon as it is asked
		for ctx.Err() == nil {
			waiting, err := o.App.Store.ListApprovals(ctx, control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 1)
			if err == nil && len(waiting) == 1 {
				_, _ = o.App.Control.Decide(ctx, o.cam, waiting[0].ID, control.Verdict{Approve: true, Reason: "test"})
				return
			}
		}
	}()
	o.App.agents.Approvals.Hold = time.Minute
	c := openSession(t, o.App.URL, token)
	m := c.call(t, "refund", refund200)
	if m.IsError || o.Company.Refunded() != before+200 {
		t.Fatalf("held, approved, and not made: %s", m.Raw)
	}
	// Nobody decides in time: the client is told what to do.
	o.App.agents.Approvals.Hold = time.Millisecond
	m = c.call(t, "refund", refund200)
	waiting, err := o.App.Store.ListApprovals(ctx, control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 10)
	if err != nil || len(waiting) != 1 || codeOf(m) != "approval_required" || !strings.Contains(string(m.Raw), o.App.pageOf(waiting[0].ID)) {
		t.Fatalf("%v %v: %s", waiting, err, m.Raw)
	}
	if m = c.call(t, "refund", refund200); codeOf(m) != "approval_required" {
		t.Fatalf("%s", m.Raw)
	}
	if again, err := o.App.Store.ListApprovals(ctx, control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 10); err != nil || len(again) != 1 {
		t.Fatalf("an equal call while one waits asked people again: %v %v", again, err)
	}
	o.says(o.cam, waiting[0].ID, true)
	if m = c.call(t, "refund", refund200); m.IsError || o.Company.Refunded() != before+400 {
		t.Fatalf("%s", m.Raw)
	}
	if m = c.call(t, "refund", refund200); codeOf(m) != "approval_required" || o.Company.Refunded() != before+400 {
		t.Fatalf("an equal call after that is a new one: %s", m.Raw)
	}
}

// TestApprovalCrowd: an agent that asks for more and more is told to wait.
func TestApprovalCrowd(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	for n := range 16 {
		o.holds(token, fmt.Sprintf(`{"payment":"pay_1001","amount":%d,"reason":"late"}`, 150+n))
	}
	if m := o.asks(token, "refund", `{"payment":"pay_1001","amount":190,"reason":"late"}`, true, ""); codeOf(m) != "too_busy" {
		t.Fatalf("%s", m.Raw)
	}
}

// TestApprovalDrill: a request that nobody should approve looks like any other, does
// nothing, and is counted.
func TestApprovalDrill(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	for range 2 {
		if err := o.App.Control.Drill(t.Context(), o.ben, control.Drill{Agent: "support", Stage: sallyport.Production, Tool: "refund", Arguments: json.RawMessage(`{"payment":"pay_1001","amount":4999,"reason":"x"}`), Reason: "monthly"}); err != nil {
			t.Fatal(err)
		}
	}
	waiting, err := o.App.Store.ListApprovals(t.Context(), control.ApprovalFilter{}, "", 10)
	if err != nil || len(waiting) != 2 {
		t.Fatal(waiting, err)
	}
	o.says(o.cam, waiting[0].ID, true)
	o.says(o.cam, waiting[1].ID, false)
	all, err := o.App.Store.ListApprovals(t.Context(), control.ApprovalFilter{}, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	if s := control.Count(all, time.Time{}, time.Now()); s.Drills != 2 || s.Caught != 1 || s.Asked != 0 {
		t.Errorf("%+v", s)
	}
}

// TestApprovalDenyWins: what another policy forbids outright nobody is asked about.
func TestApprovalDenyWins(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	if m := o.asks(o.token(""), "add_note", `{"id":"cus_0001","text":"x"}`, true, ""); codeOf(m) != "denied" {
		t.Fatalf("%s", m.Raw)
	}
	if waiting, err := o.App.Store.ListApprovals(t.Context(), control.ApprovalFilter{}, "", 10); err != nil || len(waiting) != 0 {
		t.Fatal(waiting, err)
	}
}

// session is a client of the sessions era.
type olderClient struct{ url, token, id string }

func openSession(t *testing.T, url, token string) *olderClient {
	t.Helper()
	c := &olderClient{url: url, token: token}
	c.post(t, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	c.post(t, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return c
}

func (c *olderClient) call(t *testing.T, tool, args string) *wire.Message {
	t.Helper()
	raw := c.post(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, args))
	m, err := wire.Scan(raw, wire.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return &m
}

func (c *olderClient) post(t *testing.T, body string) []byte {
	t.Helper()
	req, err := http.NewRequest("POST", c.url+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if c.id != "" {
		req.Header.Set("Mcp-Session-Id", c.id)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if id := resp.Header.Get("Mcp-Session-Id"); id != "" {
		c.id = id
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, data, ok := strings.Cut(string(raw), "data: "); ok && strings.Contains(resp.Header.Get("Content-Type"), "event-stream") {
		raw = []byte(strings.TrimSpace(data))
	}
	return raw
}

// TestApprovalTwoReplicas: asked on one, decided on the other, and used once by many calls
// on both.
func TestApprovalTwoReplicas(t *testing.T) {
	server := newServer(t)
	name, err := server.Fresh()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for path, text := range map[string]string{
		"policies/support.cedar": heldPolicy,
		"sallyport.yaml":         "listen: 127.0.0.1:8484\nsecrets: {files: [secrets], env: [SALLYPORT_]}\nstore: {postgres: \"file:secrets/store\"}\n",
		"secrets/store":          server.URL(name) + "\n",
	} {
		if err := writeOnce(dir, path, text); err != nil {
			t.Fatal(err)
		}
	}
	d, err := NewDemo(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.App.Close() })
	o := &office{Demo: d, t: t, cam: &sallyport.Person{ID: "cam@example.com", Roles: []sallyport.Role{sallyport.Approver}}}
	if err := d.App.Control.PutPerson(t.Context(), d.Person, *o.cam); err != nil {
		t.Fatal(err)
	}
	other, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	token := o.token("")
	before := o.Company.Refunded()
	h := o.holds(token, refund200)
	if a, err := other.Control.Decide(t.Context(), o.cam, h.id, control.Verdict{Approve: true, Reason: "test"}); err != nil || a.State != sallyport.ApprovalApproved {
		t.Fatal(a, err)
	}
	there := &office{Demo: &Demo{App: other, Company: d.Company}, t: t}
	var all sync.WaitGroup
	made := make(chan string, 32)
	for i := range cap(made) {
		all.Go(func() {
			at := o
			if i%2 == 0 {
				at = there
			}
			m, err := at.try(token, "refund", refund200, true, h.state, "")
			if err != nil {
				t.Error(err)
			} else if !m.IsError {
				made <- string(m.Raw)
			}
		})
	}
	all.Wait()
	if len(made) != 1 || o.Company.Refunded() != before+200 {
		t.Fatalf("%d calls were made with one approval, %d EUR", len(made), o.Company.Refunded()-before)
	}
}
