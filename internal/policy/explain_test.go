package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/policy"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		set  string
		args string
		want string
	}{
		{
			"a forbid, and which part of it",
			permitRefund + `@id("limit") @reason("over 500")
forbid (principal, action == Action::"payments/refund", resource)
when { context.stage == "production" && (context.args.payment == "x" || context.args.amount > 500) }
unless { principal.owner == "eve" };`,
			`{"payment":"p_1","amount":900}`,
			`deny
  because of limit (forbid): over 500
policies in scope:
  policies/a.cedar:1:15  permit permit: satisfied
  policies/a.cedar:3:1  forbid limit: satisfied
what would have to change:
  limit forbids it while all of this holds
    when { context.stage == "production" }
      context.stage is "production"
    when { context.args.amount > 500 }
      context.args.amount is 900
    unless { principal.owner == "eve" }
      principal.owner is "ana"
`,
		},
		{
			"the permits that came nearest",
			`@id("far") permit (principal, action in Action::"changing", resource) when { context.stage == "sandbox" && context.run.calls < 2 };
@id("near") permit (principal, action == Action::"payments/refund", resource) when { context.stage == "production" && context.args has fee && context.args.fee.lessThan(decimal("1.0")) };`,
			plain,
			`deny
  because no policy permits it
policies in scope:
  policies/a.cedar:1:12  permit far: not satisfied
  policies/a.cedar:2:13  permit near: not satisfied
what would have to change:
  near would permit it if this held
    when { context.args has fee }
      context.args.fee is absent
  far would permit it if this held
    when { context.stage == "sandbox" }
      context.stage is "production"
`,
		},
		{
			"a permit for somebody else",
			`@id("other") permit (principal == Agent::"other", action in Action::"changing", resource);
@id("elsewhere") permit (principal, action, resource == Upstream::"crm");`,
			plain,
			`deny
  because no policy permits it
what would have to change:
  other permits it, but for another agent than Agent::"support"
`,
		},
		{
			"no permit at all",
			`@id("allow-payments-refund") forbid (principal, action, resource) when { context.stage == "sandbox" };`,
			plain,
			`deny
  because no policy permits it
policies in scope:
  policies/a.cedar:1:30  forbid allow-payments-refund: not satisfied
what would have to change:
  no permit names Action::"payments/refund"; this one would permit it
    @id("allow-payments-refund-2")
    permit (
      principal == Agent::"support",
      action == Action::"payments/refund",
      resource == Upstream::"payments"
    )
    when { context.stage == "production" };
`,
		},
		{
			"an error",
			permitRefund + `@id("sum") forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount * 9223372036854775807 > 0 };`,
			plain,
			"deny\n  error: sum: integer overflow\npolicies in scope:\n  policies/a.cedar:1:15  permit permit: satisfied\n  policies/a.cedar:2:12  forbid sum: error\n" +
				"what would have to change:\n  sum could not be evaluated, which denies every call in its scope\n" +
				"    when { context.args.amount * 9223372036854775807 > 0 }\n      context.args.amount is 100\n" +
				"      integer overflow while attempting to multiply `100` by `9223372036854775807`\n",
		},
		{
			"an argument that cannot be held",
			permitRefund + `@id("limit") forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };`,
			`{"payment":"p","amount":1e400}`,
			`deny
  error: args.amount cannot be given to policy exactly, and a policy reads it: it is not a whole number of at most 64 bits
what would have to change:
  args.amount would have to be a value that policy can hold (it is not a whole number of at most 64 bits); it is read by limit
`,
		},
		{
			"arguments that are no JSON",
			permitRefund + `forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };`,
			`{`,
			"deny\n  error: the arguments are not one well-formed JSON object\nwhat would have to change:\n  the call cannot be judged: the arguments are not one well-formed JSON object\n",
		},
		{
			"an allow",
			permitRefund,
			plain,
			"allow\n  because of permit (permit)\npolicies in scope:\n  policies/a.cedar:1:15  permit permit: satisfied\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, compile(t, tt.set).Explain(refund(tt.args)).String()); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPasteOddNames(t *testing.T) {
	t.Parallel()
	odd := []policy.Tool{{Name: "crm/a\"b\\ü\n*", Upstream: "crm"}}
	set, problems := policy.Compile(odd, nil)
	if set == nil {
		t.Fatal(problems)
	}
	q := refund("")
	q.Upstream, q.Tool = "crm", "a\"b\\ü\n*"
	x := set.Explain(q)
	if len(x.Change) != 1 || x.Change[0].Paste == "" {
		t.Fatalf("%+v", x)
	}
	set, problems = policy.Compile(odd, sourcesOf(x.Change[0].Paste))
	if set == nil {
		t.Fatalf("%s\n%v", x.Change[0].Paste, problems)
	}
	if d, _ := set.Decide(q); !d.Allow {
		t.Errorf("%s\n%+v", x.Change[0].Paste, d)
	}
	q.Stage = sallyport.Sandbox
	if d, _ := set.Decide(q); d.Allow {
		t.Error("it permits more than was asked")
	}
}

const testFile = `# yaml-language-server: $schema=policy-tests.json
agent: support
tests:
  - name: small refunds pass
    stage: production
    call: {tool: payments/refund, args: {payment: p_1, amount: 500}}
    want: allow
    because: [permit]
  - name: a refund over the limit is denied
    stage: production
    call: {tool: payments/refund, args: {payment: p_1, amount: 900}}
    run: {calls: 3, integrity: untrusted, confidentiality: confidential, task: "refund p_1", person: bob, implicit: false, id: run_x}
    now: 2026-01-05T10:00:00Z
    person: bob
    want: deny
    because: [limit]
  - name: an amount that nobody can hold
    stage: production
    call: {tool: payments/refund, args: {payment: "1", amount: 12345678901234567890123, tags: [a, 1.50, true, null, 2026-01-05, {b: ~}]}}
    want: deny
  - name: a public document
    stage: sandbox
    call: {kind: resource, upstream: docs, uri: "doc://public/1"}
    want: allow
  - name: sampling
    stage: staging
    call: {kind: sampling, upstream: crm}
    want: deny
  - name: roots
    stage: staging
    call: {kind: roots, upstream: crm}
    want: deny
`

const testSet = permitRefund + `@id("limit") forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };
permit (principal, action == Action::"resources/read", resource) when { context.uri like "doc://public/*" && resource.identity == "sha256:id" };`

func TestTestFile(t *testing.T) {
	t.Parallel()
	f, problems := policy.ParseTests("policies/a.test.yaml", []byte(testFile))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if f.Agent != "support" || len(f.Tests) != 6 || f.Tests[1].Line != 9 {
		t.Errorf("%+v", f)
	}
	if got, want := string(f.Tests[2].Query.Args), `{"payment":"1","amount":12345678901234567890123,"tags":["a",1.50,true,null,"2026-01-05",{"b":null}]}`; got != want {
		t.Errorf("arguments %s, want %s", got, want)
	}
	base := policy.Query{Tier: sallyport.TierLow, Owner: "ana"}
	pin := func(*policy.Query) (sallyport.Digest, sallyport.Digest) { return "sha256:id", "sha256:tool" }
	for _, r := range f.Run(compile(t, testSet), base, pin) {
		if !r.Passed {
			t.Errorf("%s:%d: %s: %s", r.Path, r.Line, r.Name, r.Why)
		}
	}
	// Without the limit, the second test fails and says by which policies.
	results := f.Run(compile(t, permitRefund), base, nil)
	if r := results[1]; r.Passed || !strings.Contains(r.Why, "wanted deny; limit is not among the reasons\ngot allow\n  because of permit (permit)") {
		t.Errorf("%+v", r)
	}
	if r := results[3]; r.Passed || !strings.Contains(r.Why, "no permit names") {
		t.Errorf("%+v", r)
	}
}

func TestTestFileProblems(t *testing.T) {
	t.Parallel()
	ok := "agent: a\ntests:\n  - name: x\n    stage: production\n    call: {tool: crm/lookup}\n    want: deny\n"
	if _, problems := policy.ParseTests("x", []byte(ok)); len(problems) > 0 {
		t.Fatal(problems)
	}
	change := func(old, new string) string { return strings.Replace(ok, old, new, 1) }
	for _, tt := range []struct {
		text         string
		line, column int
		want         string
	}{
		{"", 0, 0, "the file is empty"},
		{"a: [", 1, 1, "did not find"},
		{"- a", 1, 1, "want keys and values"},
		{ok + "---\n" + ok, 0, 0, "more than one document"},
		{change("agent: a", "agnet: a"), 1, 1, `unknown key "agnet"`},
		{change("agent: a\n", ""), 1, 1, `"agent" is missing`},
		{change("want: deny", "  want: deny"), 2, 1, "did not find expected key"},
		{change("agent: a", "agent: A B"), 1, 8, "cannot name an agent"},
		{change("agent: a", "agent: [a]"), 1, 8, "want a string"},
		{change("agent: a", "agent: a\nagent: b"), 2, 1, `the key "agent" is given twice`},
		{change("production", "prod"), 4, 12, `stage "prod": want one of`},
		{change("want: deny", "want: maybe"), 6, 11, "want allow, deny or hold"},
		{change("want: deny", "wants: deny"), 6, 5, `unknown key "wants"`},
		{change("want: deny", "want: deny\n    because: limit"), 7, 14, "want a list of policy ids"},
		{change("want: deny", "want: deny\n    now: today"), 7, 10, "want a time such as"},
		{change("want: deny", "want: deny\n    run: {calls: -1}"), 7, 18, "want a number"},
		{change("want: deny", "want: deny\n    run: {implicit: yes}"), 7, 21, "want true or false"},
		{change("want: deny", "want: deny\n    run: {integrity: high}"), 7, 22, `integrity "high": want one of`},
		{change("crm/lookup", "lookup"), 5, 18, "want <upstream>/<tool>"},
		{change("{tool: crm/lookup}", "{kind: tool}"), 5, 11, "the call names no tool"},
		{change("{tool: crm/lookup}", "{}"), 5, 11, "the call names no tool"},
		{change("{tool: crm/lookup}", "{kind: resource, uri: x}"), 5, 11, `"upstream" is missing`},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, kind: prompt}"), 5, 11, "a call of a tool has no kind"},
		{change("{tool: crm/lookup}", "{kind: prompt, upstream: crm, args: {}}"), 5, 11, "only a call of a tool has args"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: [1]}"), 5, 36, "want keys and values"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: {a: 0x10}}"), 5, 40, "is not a JSON number"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: {a: .inf}}"), 5, 40, "is not a JSON number"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: {a: 1, a: 2}}"), 5, 43, "is given twice"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: {a: &x [1], b: *x}}"), 5, 51, "anchors and aliases"},
		{change("{tool: crm/lookup}", "{tool: crm/lookup, args: {a: !!binary aGk=}}"), 5, 40, "want a JSON value"},
		{"a: \xff", 0, 0, "not UTF-8"},
		{strings.Repeat(" ", policy.MaxFileBytes+1), 0, 0, "more than 262144"},
	} {
		f, problems := policy.ParseTests("a.test.yaml", []byte(tt.text))
		if f != nil || len(problems) != 1 {
			t.Errorf("%s\n\t%v", tt.text, problems)
			continue
		}
		if p := problems[0]; !strings.Contains(p.Message, tt.want) || p.Line != tt.line || p.Column != tt.column || p.Line > 0 && p.Excerpt == "" {
			t.Errorf("%s\n\tgot %s, want %d:%d %s", tt.text, p.Error(), tt.line, tt.column, tt.want)
		}
	}
}

func FuzzParseTests(f *testing.F) {
	f.Add([]byte(testFile))
	for _, s := range []string{"", "agent: a\ntests: []", "a: &a [*a]", "tests:\n- {call: {args: {<<: {a: 1}}}}", "agent: a\ntests: [{name: x, stage: sandbox, call: {tool: crm/lookup, args: {a: [[[[1]]]]}}, want: deny}]"} {
		f.Add([]byte(s))
	}
	set := compile(f, testSet)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, problems := policy.ParseTests("fuzz", b)
		if (file == nil) == (len(problems) == 0) {
			t.Fatalf("a file %v and problems %v", file, problems)
		}
		if file != nil {
			file.Run(set, policy.Query{Tier: sallyport.TierLow}, nil)
		}
	})
}
