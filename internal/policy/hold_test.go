package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/policy"
)

const heldForbid = `@id("ask") @on_deny("approval") @approver_role("approver, operator") @quorum("2") @expires("4h") @escalate("30m admin")
	forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };`

func decided(set *policy.Set, args string) sallyport.Decision {
	d, _ := set.Decide(aRefund(args))
	return d
}

func aRefund(args string) *policy.Query {
	return &policy.Query{
		Principal: sallyport.Principal{Agent: "support", Release: "sha256:1", Key: "key_1"}, Tier: sallyport.TierLow, Kind: sallyport.KindTool,
		Upstream: "payments", Tool: "refund", Stage: sallyport.Production, Args: []byte(args), Now: monday, Run: policy.RunFacts{Labels: sallyport.NewLabels()},
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	const large, small = `{"payment":"p","amount":501}`, `{"payment":"p","amount":5}`
	want := []sallyport.Need{{
		Policy: "ask", Roles: []sallyport.Role{sallyport.Approver, sallyport.Operator}, Quorum: 2, Within: 4 * time.Hour,
		Escalate: []sallyport.Escalation{{After: 30 * time.Minute, Role: sallyport.Admin}},
	}}
	for _, tt := range []struct {
		name  string
		set   []string
		args  string
		verb  string
		needs []sallyport.Need
	}{
		{"held", []string{permitRefund, heldForbid}, large, "hold", want},
		{"not in its scope", []string{permitRefund, heldForbid}, small, "allow", nil},
		{"nobody permits it", []string{heldForbid}, large, "deny", nil},
		{"another forbids it", []string{permitRefund, heldForbid, `forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 100 };`}, large, "deny", nil},
		{"an error denies", []string{permitRefund, heldForbid, `forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount * 9223372036854775807 > 0 };`}, large, "deny", nil},
		{"a permit that is only tried out permits nothing", []string{strings.Replace(permitRefund, "@id", `@mode("log") @id`, 1), heldForbid}, large, "deny", nil},
	} {
		d := decided(compile(t, tt.set...), tt.args)
		if got := policy.Verb(&d); got != tt.verb {
			t.Errorf("%s: %s, want %s: %+v", tt.name, got, tt.verb, d)
		}
		if d.Allow && d.Held {
			t.Errorf("%s: allowed and held", tt.name)
		}
		if diff := cmp.Diff(tt.needs, d.Needs()); tt.verb == "hold" && diff != "" {
			t.Errorf("%s: needs (-want +got):\n%s", tt.name, diff)
		}
	}
	// What people may lift hides nothing.
	q := aRefund("")
	if !compile(t, permitRefund, `@on_deny("approval") forbid (principal, action, resource);`).CouldAllow(q) {
		t.Error("a tool is hidden by a policy that people may lift")
	}
}

func TestLogMode(t *testing.T) {
	t.Parallel()
	set := compile(t, permitRefund, `@id("trial") @mode("log") forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };`)
	d := decided(set, `{"payment":"p","amount":501}`)
	if !d.Allow || len(d.Logged) != 1 || d.Logged[0].Policy != "trial" {
		t.Errorf("tried out: %+v", d)
	}
	if d = decided(set, `{"payment":"p","amount":5}`); !d.Allow || len(d.Logged) != 0 {
		t.Errorf("tried out, and not in its scope: %+v", d)
	}
}

func TestHoldProblems(t *testing.T) {
	t.Parallel()
	for annotations, want := range map[string]string{
		`@on_deny("ask")`:                              `"ask" is not what can follow a deny`,
		`@quorum("2")`:                                 "@quorum means nothing without an approval",
		`@on_deny("approval") @quorum("0")`:            `"0" is not a number of people`,
		`@on_deny("approval") @approver_role("boss")`:  `role "boss"`,
		`@on_deny("approval") @expires("1s")`:          "not a time to decide in",
		`@on_deny("approval") @escalate("2h admin")`:   "not when to ask somebody else",
		`@on_deny("approval") @escalate("20m nobody")`: `role "nobody"`,
		`@mode("maybe")`:                               `"maybe" is not a mode`,
	} {
		_, problems := policy.Compile(tools(), sourcesOf(permitRefund, annotations+` forbid (principal, action, resource);`))
		if len(problems) != 1 || !strings.Contains(problems[0].Message, want) || problems[0].Line == 0 {
			t.Errorf("%s: %v", annotations, problems)
		}
	}
	if _, problems := policy.Compile(tools(), sourcesOf(`@on_deny("approval") `+permitRefund)); len(problems) != 1 {
		t.Errorf("a permit that is approved: %v", problems)
	}
}

// TestHoldIsNoPermit: whatever the policies are, a call is held only if it would be allowed
// without those that people may lift, and never allowed where it would not be with them
// as plain forbids.
func TestHoldIsNoPermit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var held, plain, bare []string
		for i := range rapid.IntRange(1, 6).Draw(rt, "policies") {
			effect := rapid.SampledFrom([]string{"permit", "forbid"}).Draw(rt, "effect")
			text := effect + ` (principal, action == Action::"payments/refund", resource) when { context.args.amount ` +
				rapid.SampledFrom([]string{"> 3", "< 7", "== 5", "!= 5"}).Draw(rt, "when") + ` };`
			if effect == "forbid" && rapid.Bool().Draw(rt, "lifted") {
				held = append(held, `@on_deny("approval") `+text)
			} else {
				held, bare = append(held, text), append(bare, text)
			}
			plain = append(plain, text)
			_ = i
		}
		args := `{"payment":"p","amount":` + rapid.SampledFrom([]string{"1", "5", "9"}).Draw(rt, "amount") + `}`
		a, b, c := decided(compile(t, held...), args), decided(compile(t, plain...), args), decided(compile(t, bare...), args)
		if a.Allow != b.Allow || a.Held != (!b.Allow && c.Allow) {
			rt.Fatalf("allow %v held %v; as plain forbids %v, without them %v: %q", a.Allow, a.Held, b.Allow, c.Allow, held)
		}
	})
}
