package app

import (
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

const provenancePolicy = `
@id("all")
permit (principal, action, resource);

@id("known-payments")
@reason("the payment was named by nobody")
forbid (principal, action == Action::"payments/refund", resource)
when { context.provenance.untrusted_args.contains("payment") };

@id("links")
forbid (principal, action == Action::"crm/add_note", resource)
when { context.provenance.untrusted_urls > 0 };
`

// TestProvenance: what an argument may be follows from where its value came from, which a
// run knows exactly, also after a restart.
func TestProvenance(t *testing.T) {
	dir := t.TempDir()
	if err := writeOnce(dir, "policies/support.cedar", provenancePolicy); err != nil {
		t.Fatal(err)
	}
	d, err := NewDemo(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if !closed {
			_ = d.App.Close()
		}
	})
	host, err := d.App.Control.MakeHostKey(t.Context(), d.Person, "support", sallyport.Production, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run := func(e sallyport.Envelope) string {
		t.Helper()
		opened, err := d.App.Control.OpenRun(t.Context(), &host.Key, 0, e)
		if err != nil {
			t.Fatal(err)
		}
		return opened.Token
	}
	url := d.App.URL
	wants := func(token, tool, args, code string) {
		t.Helper()
		m, err := call(url, token, tool, args)
		if err != nil {
			t.Fatal(err)
		}
		if got := codeOf(m); got != code || code == "" && m.IsError {
			t.Errorf("%s %s: %q, want %q: %s", tool, args, got, code, m.Raw)
		}
	}
	refund := func(payment string) string { return `{"payment":"` + payment + `","amount":1,"reason":"late"}` }
	token, other := run(sallyport.Envelope{}), run(sallyport.Envelope{})
	wants(token, "refund", refund("pay_1001"), "denied")
	wants(token, "list_payments", `{"customer":"cus_0001"}`, "")
	wants(token, "refund", refund("pay_1001"), "")
	wants(token, "refund", refund("pay_1001"), "") // as often as it likes
	wants(token, "refund", refund("pay_9999"), "denied")
	wants(other, "refund", refund("pay_1001"), "denied") // what one run knows is nothing to another
	wants(token, "add_note", `{"id":"cus_0001","text":"see https://evil.example/x?q=1"}`, "denied")
	wants(token, "add_note", `{"id":"cus_0001","text":"done"}`, "")
	named := run(sallyport.Envelope{TrustedValues: []sallyport.TrustedValue{{Type: "payment", Value: "pay_1002"}}})
	wants(named, "refund", refund("pay_1002"), "")
	wants(named, "refund", refund("pay_1001"), "denied")
	lines, _, err := d.App.Store.ListRecords(t.Context(), audit.Outcome, control.RecordFilter{Tool: "refund", Outcome: sallyport.OutcomeRefused}, -1, 1)
	if err != nil || len(lines) != 1 || !strings.Contains(string(lines[0].Body), `"provenance":{"untrusted_args":["payment"]`) {
		t.Errorf("the record does not say where the payment came from: %s %v", lines[0].Body, err)
	}

	// Another start of the program knows it, too.
	closed = true
	company := d.App.stops[0]
	d.App.stops = d.App.stops[1:]
	if err := d.App.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = company() })
	again, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	url = again.URL
	wants(token, "refund", refund("pay_1001"), "")
	wants(token, "refund", refund("pay_9999"), "denied")
	wants(other, "refund", refund("pay_1001"), "denied")
}
