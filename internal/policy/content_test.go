package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/policy"
)

// TestContent: policies see what the arguments hold and whether something was suspected,
// and a tool is not hidden by what is known with the arguments alone.
func TestContent(t *testing.T) {
	set := compile(t, `
@id("all") permit (principal, action, resource);
@id("mail") forbid (principal, action == Action::"payments/refund", resource) when { context.content.classes.contains("email") };
@id("high") forbid (principal, action == Action::"payments/refund", resource) when { context.content.data_class_level > 3 || context.content.data_class == "restricted" };
@id("turned") forbid (principal, action == Action::"payments/refund", resource) when { context.content.reidentified.containsAny(["phone"]) };
@id("suspected") forbid (principal, action in Action::"changing", resource) when { context.run.suspected_injection };
`)
	for _, c := range []struct {
		name    string
		content policy.Content
		labels  sallyport.Labels
		because string
	}{
		{name: "nothing"},
		{name: "a class", content: policy.Content{Classes: []string{"card", "email"}}, because: "mail"},
		{name: "another class", content: policy.Content{Classes: []string{"card"}, Class: sallyport.Confidential}},
		{name: "a level", content: policy.Content{Class: sallyport.Restricted}, because: "high"},
		{name: "turned back", content: policy.Content{Reidentified: []string{"phone"}}, because: "turned"},
		{name: "suspected", labels: sallyport.Labels{Integrity: sallyport.User, Confidentiality: sallyport.Public, Suspected: true}, because: "suspected"},
	} {
		q := refund(plain)
		q.Content = c.content
		if c.labels != (sallyport.Labels{}) {
			q.Run.Labels = c.labels
		}
		d, facts := set.Decide(q)
		if d.Allow != (c.because == "") || !d.Allow && (len(d.Reasons) != 1 || d.Reasons[0].Policy != c.because) {
			t.Errorf("%s: %+v", c.name, d)
		}
		want, err := json.Marshal(facts)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(facts.JSON())); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if listed := set.CouldAllow(q); listed != (c.labels == sallyport.Labels{}) {
			t.Errorf("%s: listed %v", c.name, listed)
		}
	}
}
