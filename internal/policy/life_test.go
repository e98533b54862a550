package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/policy"
)

const lifeText = `@id("read")
permit (principal, action in Action::"read", resource);

@id("refunds")
permit (principal, action == Action::"payments/refund", resource);

@id("again")
permit (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 500 };

@id("large") @on_deny("approval") @quorum("2")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 100 };

@id("huge")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 900 };

@id("tried") @mode("log")
forbid (principal, action, resource);
`

func lifeSet(t *testing.T, text string) (*policy.Set, []policy.Problem) {
	t.Helper()
	return policy.Compile([]policy.Tool{
		{Name: "payments/refund", Upstream: "payments", Access: sallyport.Changing, InputSchema: []byte(`{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"]}`)},
		{Name: "payments/look", Upstream: "payments", Access: sallyport.Read},
	}, []policy.Source{{Path: "policies/p.cedar", Text: text}})
}

func refundOf(amount string) *policy.Query {
	return &policy.Query{
		Principal: sallyport.Principal{Agent: "support"}, Tier: sallyport.TierLow, Stage: sallyport.Production, Kind: sallyport.KindTool,
		Upstream: "payments", Tool: "refund", Args: []byte(`{"amount":` + amount + `}`), Run: policy.RunFacts{ID: "run_1", Labels: sallyport.NewLabels()},
	}
}

// TestWeigh: a policy decides a call if without it the call ended in another way.
func TestWeigh(t *testing.T) {
	s, problems := lifeSet(t, lifeText)
	if problems != nil {
		t.Fatal(problems)
	}
	for _, c := range []struct {
		amount, verb string
		want         []policy.Weight
	}{
		{"50", "allow", []policy.Weight{{Policy: "refunds", Decides: true}}},
		{"200", "hold", []policy.Weight{{Policy: "refunds", Decides: true}, {Policy: "large", Forbid: true, Decides: true}}},
		{"600", "hold", []policy.Weight{{Policy: "refunds"}, {Policy: "again"}, {Policy: "large", Forbid: true, Decides: true}}},
		{"1000", "deny", []policy.Weight{{Policy: "refunds"}, {Policy: "again"}, {Policy: "large", Forbid: true}, {Policy: "huge", Forbid: true, Decides: true}}},
	} {
		d, got := s.Weigh(refundOf(c.amount))
		if diff := cmp.Diff(c.want, got); diff != "" || policy.Verb(&d) != c.verb {
			t.Errorf("%s: %s, want %s: %s", c.amount, policy.Verb(&d), c.verb, diff)
		}
		if plain, _ := s.Decide(refundOf(c.amount)); cmp.Diff(plain, d) != "" {
			t.Errorf("%s: weighed, it is decided otherwise: %s", c.amount, cmp.Diff(plain, d))
		}
	}
}

// TestMutants: each is what it says, loads, and leaves every other policy where it is.
func TestMutants(t *testing.T) {
	s, problems := lifeSet(t, lifeText)
	if problems != nil {
		t.Fatal(problems)
	}
	for _, one := range s.List() {
		for _, m := range []policy.Mutation{policy.Dropped, policy.Flipped} {
			source, ok := s.Mutant(one.Policy, m)
			if ok != (one.Mode != "log") {
				t.Errorf("%s %s: %v", one.Policy, m, ok)
			}
			if !ok {
				continue
			}
			mutant, problems := lifeSet(t, source.Text)
			if problems != nil {
				t.Errorf("%s %s: %v", one.Policy, m, problems)
				continue
			}
			var want []policy.Listed
			for _, other := range s.List() {
				switch {
				case other.Policy != one.Policy:
				case m == policy.Dropped:
					continue
				default:
					other.Effect, other.Mode = map[string]string{"permit": "forbid", "forbid": "permit"}[other.Effect], ""
				}
				want = append(want, other)
			}
			if diff := cmp.Diff(want, mutant.List()); diff != "" {
				t.Errorf("%s %s: %s", one.Policy, m, diff)
			}
		}
	}
	if _, ok := s.Mutant("nobody", policy.Dropped); ok {
		t.Error("a mutant of no policy")
	}
}
