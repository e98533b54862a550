package app

import (
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// TestApprovalLiftsOnlyThePoliciesThatAsked: what people said yes to was that the amount is
// large. That the agent has read a stranger's text since is another question, and they are
// asked it, though the same people would answer.
func TestApprovalLiftsOnlyThePoliciesThatAsked(t *testing.T) {
	dir := t.TempDir()
	if err := writeOnce(dir, "policies/support.cedar", `
@id("all")
permit (principal, action, resource);

@id("large-refunds") @on_deny("approval")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 100 };

@id("after-strangers") @on_deny("approval")
@reason("the agent has read what strangers wrote")
forbid (principal, action == Action::"payments/refund", resource)
when { context.run.integrity == "untrusted" };
`); err != nil {
		t.Fatal(err)
	}
	o := startOfficeIn(t, dir)
	defer verify(t, o.Demo)
	token := o.token("")
	before := o.Company.Refunded()
	large := o.holds(token, refund200)
	o.says(o.cam, large.id, true)
	if m := o.asks(token, "list_payments", `{"customer":"cus_0001"}`, true, ""); m.IsError {
		t.Fatalf("%s", m.Raw)
	}
	m := o.asks(token, "refund", refund200, true, large.state)
	if o.Company.Refunded() != before {
		t.Fatalf("a policy was lifted that had not asked: %s", m.Raw)
	}
	both := o.waits(m)
	if both.id == large.id {
		t.Fatal("people were not asked again")
	}
	a, err := o.App.Store.LookApproval(t.Context(), both.id)
	if err != nil || len(a.Needs) != 2 {
		t.Fatalf("%v: asked by %+v", err, a.Needs)
	}
	o.says(o.cam, both.id, true)
	if m := o.asks(token, "refund", refund200, true, both.state); m.IsError || o.Company.Refunded() != before+200 {
		t.Fatalf("approved for both, and refused: %s", m.Raw)
	}

	// An older client finds what waits for it by equal arguments: the same holds there.
	token = o.token("")
	c := openSession(t, o.App.URL, token)
	c.call(t, "refund", refund200)
	waiting, err := o.App.Store.ListApprovals(t.Context(), control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 10)
	if err != nil || len(waiting) != 1 {
		t.Fatal(waiting, err)
	}
	o.says(o.cam, waiting[0].ID, true)
	c.call(t, "list_payments", `{"customer":"cus_0001"}`)
	if m := c.call(t, "refund", refund200); o.Company.Refunded() != before+200 || codeOf(m) != "approval_required" {
		t.Fatalf("a policy was lifted that had not asked: %s", m.Raw)
	}
	if waiting, err = o.App.Store.ListApprovals(t.Context(), control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 10); err != nil || len(waiting) != 1 {
		t.Fatal(waiting, err)
	}
	o.says(o.cam, waiting[0].ID, true)
	if m := c.call(t, "refund", refund200); m.IsError || o.Company.Refunded() != before+400 {
		t.Fatalf("approved for both, and refused: %s", m.Raw)
	}
}

// TestApprovalsOfNobody: an id that names no approval of the run is refused the same way,
// and on record, whatever it is.
func TestApprovalsOfNobody(t *testing.T) {
	o := startOffice(t)
	defer verify(t, o.Demo)
	token := o.token("")
	h := o.holds(o.token(""), refund200)
	none := strings.Replace(string(h.id), "apr_", "apr_0", 1)[:len(h.id)]
	told := map[string]string{}
	for what, id := range map[string]string{"another run's": string(h.id), "none": none, "long": strings.Repeat("x", 2<<20), "no text": `\u0000`} {
		m, err := o.try(token, "refund", refund200, false, "", id)
		if err != nil {
			t.Fatal(err)
		}
		if codeOf(m) != "not_found" {
			t.Errorf("%s: %.400s", what, m.Raw)
		}
		told[what] = strings.ReplaceAll(string(m.Result.Of(m.Raw)), id, "ID")
	}
	if told["none"] != told["another run's"] {
		t.Errorf("an agent can tell whether an approval exists:\n%s\n%s", told["none"], told["another run's"])
	}
	lines, _, err := o.App.Store.ListRecords(t.Context(), audit.Outcome, control.RecordFilter{Tool: "refund", Outcome: sallyport.OutcomeRefused}, -1, 20)
	if err != nil || len(lines) != 5 {
		t.Errorf("%d of 5 refusals are on record: %v", len(lines), err)
	}
	unknown, err := o.App.Store.Unknowns(t.Context())
	if err != nil || len(unknown) != 0 {
		t.Errorf("nothing was sent, and people are asked what became of it: %+v %v", unknown, err)
	}
}

// TestApprovalOverPlainHTTP: a caller that has no way to say which approval it comes back
// with finds it by an equal request, once, and asks people no second time meanwhile.
func TestApprovalOverPlainHTTP(t *testing.T) {
	behind, keys := newMarket(t)
	s := openMarket(t, behind.URL, map[string]string{"policies/all.cedar": `
@id("all")
permit (principal, action, resource);
@id("deletions") @on_deny("approval")
forbid (principal, action == Action::"shop/deleteOrder", resource);
`})
	token := s.runOf(t, sallyport.Production, sallyport.Envelope{})
	deletes := func() heard { return ask(t, s.URL+"/worlds/market", token, "DELETE", "/orders/1", "", "") }
	pending := func() []control.Approval {
		t.Helper()
		found, err := s.Store.ListApprovals(t.Context(), control.ApprovalFilter{State: sallyport.ApprovalPending}, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	deletes()
	deletes()
	asked := pending()
	if len(asked) != 1 || len(keys()) != 0 {
		t.Fatalf("people are asked %d times, and %d requests went out", len(asked), len(keys()))
	}
	if _, err := s.Control.Decide(t.Context(), s.person, asked[0].ID, control.Verdict{Approve: true, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := deletes(); got.Status != 204 || len(keys()) != 1 {
		t.Errorf("approved: %+v, %d requests", got, len(keys()))
	}
	if deletes(); len(keys()) != 1 || len(pending()) != 1 {
		t.Errorf("used: %d requests, and %d approvals wait", len(keys()), len(pending()))
	}
}
