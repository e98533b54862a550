package policy_test

import (
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	cedarschema "github.com/cedar-policy/cedar-go/x/exp/schema"

	"sallyport/internal/policy"
)

// FuzzCompile compiles texts. Nothing may make it panic; a problem has a place in
// the text; and what Cedar can read, the part that finds places can read too, but
// for what is nested too deep or names what does not exist.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		permitRefund,
		`@id("limit") @reason("x") forbid (principal == Agent::"a", action in [Action::"read", Action::"payments/refund"], resource is Upstream in Upstream::"crm",)
when { context.args has order.total && context.args["order"].total * -2 >= - 1 } unless { if principal has person then principal.person == Person::"\u{1F600}\x41" else !true };`,
		`permit (principal is Agent, action, resource) when { {a: [1, 2,], "b": ip("10.0.0.1"),}.a.containsAny([3]) || context.stage like "a*\*" };`,
		`permit (principal, action, resource) when { context.args.fee.lessThan(decimal("1.0")) };`,
		`permit (principal, action, resource) when { (((((1 == 2))))) };`,
		`permit (principal, action, resource) when { principal.getTag("a") == 1 && principal.hasTag("a") && [].isEmpty() };`,
		`permit (principal, action, resource) when { 9223372036854775808 > 1 };`,
		`permit(principal,action,resource)when{principal in[Agent::"a"]&&action in Action::"read"&&resource is Upstream in Upstream::"crm"};`,
		"// c\n/* d */ @a(\"\") permit (principal, action, resource);\r\n", `permit (principal, action == A::B::"c", resource) when { A::B::"c" == f::g("h") };`,
		`permit (principal, action, resource) when { "` + "\x00" + `" == "\u{d800}" };`, `@id`, `permit (principal, action in [], resource);`, `!-!-1`, `/`, `"`, "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, problems := policy.Compile(tools(), []policy.Source{{Path: "fuzz.cedar", Text: text}})
		if (set == nil) == (len(problems) == 0) {
			t.Fatalf("a set %v and problems %v", set, problems)
		}
		lines := strings.Count(text, "\n") + 1
		for _, p := range problems {
			if p.Path != "fuzz.cedar" || p.Message == "" || p.Line > lines || p.Line < 1 && len(text) <= policy.MaxFileBytes {
				t.Fatalf("%q\n%+v", text, p)
			}
		}
		if set != nil {
			q := refund(`{"payment":"p_1","amount":100,"fee":1.5,"order":{"total":1}}`)
			d, _ := set.Decide(q)
			if d.Allow && !set.CouldAllow(q) {
				t.Fatalf("%q allows and is not listed", text)
			}
			if x := set.Explain(q); x.Decision.Allow != d.Allow {
				t.Fatalf("%q is explained otherwise", text)
			}
			if err := set.Canary(); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
		if len(text) > 1000 {
			return
		}
		ok, message := policy.Readable(text)
		_, err := cedar.NewPolicyListFromBytes("fuzz.cedar", []byte(text))
		if err == nil && !ok && !strings.Contains(message, "nested more than") {
			t.Fatalf("Cedar reads %q: %s", text, message)
		}
	})
}

// FuzzShapes reads schemas as upstreams send them. Whatever a schema says, a
// policy that names nothing of it works, and its text is Cedar.
func FuzzShapes(f *testing.F) {
	for _, s := range []string{
		refundSchema, `true`, `[]`, `{"type":"object","properties":{"":{"type":"string"},"__entity":{"type":"integer"},"a\"\\b":{"$ref":"#"}}}`,
		`{"properties":{"a":{"$ref":"#/properties/b"},"b":{"$ref":"#/properties/a"}},"type":"object"}`, `{"type":["object"],"required":5,"properties":{"x":{"enum":[]}}}`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"n":{"type":"array","items":{"$ref":"#/$defs/a"}}}}}}`,
	} {
		f.Add([]byte(s), []byte(`{"a":1,"":"x","n":[{"n":[]}]}`))
	}
	f.Fuzz(func(t *testing.T, schema, args []byte) {
		one := []policy.Tool{{Name: "payments/refund", Upstream: "payments", InputSchema: schema}}
		set, problems := policy.Compile(one, sourcesOf(permitRefund+`forbid (principal, action == Action::"payments/refund", resource) when { context.args == context.args };`))
		text, err := policy.SchemaText(one)
		if (err == nil) != (text != "") || set != nil && err != nil {
			t.Fatalf("%v %v", problems, err)
		}
		if err == nil {
			var s cedarschema.Schema
			if err := s.UnmarshalCedar([]byte(text)); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
		}
		if set != nil {
			set.Decide(refund(string(args)))
		}
	})
}
