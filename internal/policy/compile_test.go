package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/policy"
)

const refundScope = `(principal, action == Action::"payments/refund", resource)`

// Each text has one fault, marked by «» around what must be pointed at.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, message, hint string }{
		// syntax
		{`permit (principal, action, resource)«`, `expected when, unless or ";" but found the end of the text`, ""},
		{`«permti» (principal, action, resource);`, `expected permit or forbid but found "permti"`, "did you mean permit?"},
		{`permit (principal, action«;» resource);`, `expected "," but found ";"`, ""},
		{`permit (principal, action, resource) when { 1 «=» 2 };`, `'=' means nothing here`, ""},
		{`permit (principal, action, resource) when { context.stage == «"x` + "\n };", `the string does not end on its line`, ""},
		{`permit (principal, action, resource) when { «foo» };`, `foo means nothing here`, ""},
		{`permit (principal, action, resource) when { «contxt».stage == "sandbox" };`, `contxt means nothing here`, "did you mean context?"},
		{`permit (principal, action, resource) when { context.stage.«contians»("x") };`, `there is no method contians`, "did you mean contains?"},
		{`permit (principal, action, resource) when { «deciml»("1.0") == decimal("1.0") };`, `there is no function deciml`, "did you mean decimal?"},
		{`permit (principal, action, resource) when { context.«in» == 1 };`, `expected a name but found "in"`, `as the name of an attribute write ["in"]`},
		{`«/* open`, `the comment does not end`, ""},
		{`permit (principal, action, resource) when { ` + strings.Repeat("(", 200) + `true` + strings.Repeat(")", 200) + ` };`, `nested more than 100 deep`, ""},
		{`permit (principal, action, resource) when { ` + strings.Repeat("!", 200) + `true };`, `nested more than 100 deep`, ""},
		{`permit (principal, action, resource) when { context` + strings.Repeat(".stage", 200) + ` };`, `nested more than 100 deep`, ""},
		{`permit (principal, action, resource) when { 1 < «9223372036854775808» };`, `the number has more than 64 bits`, ""},
		{`«permit» (principal, action, resource) when { context.run.task == "\u{d800}" };`, `bad unicode escape`, ""},
		{`permit (principal, action, resource) when { {a: 1, a: 2«}».a == 1 };`, `duplicate key: a`, ""},

		// names in the scope
		{`permit (principal, action == «Action::"payments/refnd"», resource);`, `there is no action Action::"payments/refnd"`, "did you mean payments/refund?"},
		{`permit (principal, action == «Action::"refund"», resource);`, `there is no action`, "did you mean payments/refund?"},
		{`permit (principal, action in [Action::"read", «Action::"raed"»], resource);`, `there is no action`, "did you mean read?"},
		{`permit (principal, action == «Action::"read"», resource);`, `is a group of actions, which no action equals`, `write action in Action::"read"`},
		{`permit (principal, action == «Tool::"payments/refund"», resource);`, `Tool is not a type that can stand here`, `write Action::"payments/refund"`},
		{`permit (principal == «User::"support"», action, resource);`, `User is not a type that can stand here`, `write Agent::"support"`},
		{`permit (principal is «User», action, resource);`, `User is not a type that can stand here`, `write principal is Agent`},
		{`permit (principal, action, resource == «Upstream::"payment"»);`, `there is no upstream "payment"`, "did you mean payments?"},
		{`permit (principal, action, resource in «Server::"payments"»);`, `Server is not a type that can stand here`, `write Upstream::"payments"`},

		// names in conditions
		{`permit ` + refundScope + ` when { context.args.«amuont» < 5 };`, `context.args of payments/refund has no attribute "amuont"`, "did you mean amount?"},
		{`permit ` + refundScope + ` when { context.args[«"amuont"»] < 5 };`, `has no attribute "amuont"`, "did you mean amount?"},
		{`permit ` + refundScope + ` when { context.args has «amuont» };`, `has no attribute "amuont"`, "did you mean amount?"},
		{`permit ` + refundScope + ` when { context.«amount» < 5 };`, `context of payments/refund has no attribute "amount"`, "did you mean context.args.amount?"},
		{`permit ` + refundScope + ` when { context.args has order && context.args.order.«totl» < 5 };`, `context.args.order of payments/refund has no attribute "totl"`, "did you mean total?"},
		{`permit ` + refundScope + ` when { context.args.amount.«cents» < 5 };`, `has no attribute "cents"`, ""},
		{`permit (principal, action, resource) when { principal.«teir» == "low" };`, `principal has no attribute "teir"`, "did you mean tier?"},
		{`permit (principal, action, resource) when { resource.«name» == "crm" };`, `resource has no attribute "name"`, "there is: identity"},
		{`permit (principal, action, resource) when { action.«name» == "crm" };`, `action has no attribute "name"`, ""},
		{`permit (principal, action, resource) when { principal has person && principal.person.«name» == "x" };`, `principal.person has no attribute "name"`, ""},
		{`permit (principal, action, resource) when { Agent::"other".«tier» == "low" };`, `only principal, resource and context have attributes`, ""},
		{`permit (principal, action, resource) when { action == «Action::"crm/lookp"» };`, `there is no action`, "did you mean crm/lookup?"},
		{`permit (principal, action, resource) when { resource == «Upstream::"cmr"» };`, `there is no upstream "cmr"`, "did you mean crm?"},
		{`permit (principal, action, resource) when { principal == «Agnt::"x"» };`, `there is no type Agnt`, "did you mean Agent?"},

		// arguments that policy cannot see
		{`permit ` + refundScope + ` when { context.args has «note» };`, `policy cannot see context.args.note: its schema allows more than one type (string, null)`, ""},
		{`permit ` + refundScope + ` when { context.args.«meta» == context.args };`, `policy cannot see context.args.meta: it is an object that declares no properties`, ""},
		{`permit ` + refundScope + ` when { context.args has order && context.args.order has «extra» };`, `policy cannot see context.args.order.extra: its schema allows more than one type (integer, string)`, ""},

		// values that a string never has
		{`forbid (principal, action, resource) when { context.stage == «"prod"» };`, `context.stage is never "prod"`, "it is one of production, sandbox, staging"},
		{`forbid (principal, action, resource) when { «"Production"» == context.stage };`, `context.stage is never "Production"`, "did you mean production?"},
		{`forbid (principal, action, resource) unless { context.stage != «"sandbx"» };`, `context.stage is never "sandbx"`, "did you mean sandbox?"},
		{`forbid (principal, action, resource) when { ["sandbox", «"live"»].contains(context.stage) };`, `context.stage is never "live"`, ""},
		{`forbid (principal, action, resource) when { principal.tier == «"hihg"» };`, `principal.tier is never "hihg"`, "did you mean high?"},
		{`forbid (principal, action, resource) when { context.run.integrity == «"trusted"» };`, `context.run.integrity is never "trusted"`, "did you mean untrusted?"},
		{`forbid ` + refundScope + ` when { context.args has reason && context.args.reason == «"duplicated"» };`, `context.args.reason is never "duplicated"`, "did you mean duplicate?"},

		// types
		{`forbid ` + refundScope + ` when { context.args.payment == "x" || «context.args.amount == "5"» };`, `the types Long and String are not compatible`, ""},
		{`forbid ` + refundScope + ` when { context.args.amount > 5 && «context.args.payment» > 5 };`, `but this is String`, ""},
		{`forbid ` + refundScope + ` when { context.args has fee && «context.args.fee» > 5 };`, `but this is decimal`, "a JSON number is a decimal"},
		{`forbid ` + refundScope + ` when { context.args has fee && «context.args.fee.greaterThan(5)» };`, `expected decimal but this is Long`, "a JSON number is a decimal"},
		{`forbid ` + refundScope + ` when { context.args has fee && context.args.fee.greaterThan(«decimal("5")») };`, `failed to parse as a decimal value`, ""},
		{`forbid ` + refundScope + ` when { «context.args.amount» };`, `expected Bool but this is Long`, ""},
		{`forbid ` + refundScope + ` when { «[]».contains(context.args.amount) };`, `empty set literals are forbidden`, ""},
		{`forbid ` + refundScope + ` when { «context.now.at < "2026-12-24T00:00:00Z"» };`, `but this is String`, `write datetime(`},

		// optional attributes
		{`forbid ` + refundScope + ` when { context.args.«fee».greaterThan(decimal("5.0")) };`, `context.args.fee may be absent`, `check it first: context.args has fee && ...`},
		{`forbid ` + refundScope + ` when { context.args has order && context.args.order.«lines».isEmpty() };`, `context.args.order.lines may be absent`, `context.args.order has lines && ...`},
		{`forbid ` + refundScope + ` when { context.args has fee } when { context.args.«fee».greaterThan(decimal("5.0")) };`, `context.args.fee may be absent`, ``},
		{`forbid (principal, action, resource) when { principal.«person» == Person::"x" };`, `principal.person may be absent`, `check it first: principal has person && ...`},
		{`forbid (principal, action in [Action::"crm/lookup", Action::"mail/send"], resource) when { context.args.«id» == "x" };`, `there is no context.args.id in a call of mail/send`, "name fewer actions"},
		{`forbid (principal, action, resource) when { context.«args» == context.args };`, `there is no context.args in a call of completion/complete and 5 more`, ""},
		{`forbid (principal, action == Action::"completion/complete", resource) when { context.«uri» == "x" };`, `context.uri may be absent`, ""},

		{`forbid ` + refundScope + ` when { context.args has fee && context.args.fee.lessThan(decimal("1.0")) || context.args.«fee».lessThan(decimal("2.0")) };`, `context.args.fee may be absent`, ``},
		{`forbid ` + refundScope + ` when { if context.args has fee then context.args.fee.lessThan(decimal("1.0")) else context.args.«fee».lessThan(decimal("2.0")) };`, `context.args.fee may be absent`, ``},
		{`forbid (principal, action in [Action::"read", Action::"changing"], resource) when { action in Action::"upstream:payments" && «context.run.calls == "x"» };`, `the types Long and String are not compatible`, ``},

		// what can never match
		{`forbid (principal, action, resource) when { «1 == 2» };`, `this policy can never match: this is always false`, ""},
		{`forbid (principal, action, resource) when { «false» };`, `this is always false`, ""},
		{`forbid (principal, action, resource) unless { «true» };`, `this is always true`, ""},
		{`forbid (principal, action, resource) when { context.run.calls > 5 && !(«1 < 2») };`, `this is always true`, ""},
		{`forbid (principal, action, resource) when { «9223372036854775807 + 1 > 0» };`, `it cannot be evaluated: integer overflow`, ""},
		{`forbid (principal, action, resource) when { context.stage == "sandbox" && «context.stage == "production"» };`, `context.stage can only be "sandbox" here`, ""},
		{`forbid (principal, action, resource) when { context.stage == "sandbox" } unless { «context.stage == "sandbox"» };`, `can never match`, ""},
		{`forbid ` + refundScope + ` when { context.args.payment == "a" && «context.args.payment == "b"» };`, `context.args.payment can only be "a" here`, ""},
		{`forbid ` + refundScope + ` when { context.args.amount == 1 && «context.args.amount == 2» };`, `can never match`, ""},
		{`forbid ` + refundScope + ` when { context.args.amount > 5 && «context.args.amount < 6» };`, `context.args.amount is never in this range`, ""},
		{`forbid ` + refundScope + ` when { context.args.amount == 5 && «context.args.amount > 5» };`, `can never match`, ""},
		{`forbid ` + refundScope + ` when { context.args has urgent && context.args.urgent && !«context.args.urgent» };`, `can never match`, ""},
		{`forbid ` + refundScope + ` when { context.args has fee && !(«context.args has fee») };`, `can never match`, ""},
		{`forbid ` + refundScope + ` unless { «context.args has amount» };`, `context.args.amount is always there`, ""},
		{`forbid (principal, action, resource) when { «context.now.hour > 23» };`, `context.now.hour is never in this range`, ""},
		{`forbid (principal, action, resource) when { «context.now.weekday == 0» };`, `can never match`, ""},
		{`forbid (principal, action, resource) when { «context.stage like "prod"» };`, `can never match`, ""},
		{`forbid (principal == Agent::"a", action, resource) when { «principal == Agent::"b"» };`, `principal can only be Agent::"a" here`, ""},
		{`forbid (principal, action in Action::"read", resource) when { «action in Action::"changing"» };`, `can never match`, ""},
		{`forbid (principal, action, resource) when { «action == Action::"read"» };`, `can never match`, ""},
		{`forbid (principal, action == Action::"crm/lookup", resource == «Upstream::"mail"»);`, `none of its actions is a tool of "mail"`, ""},
		{`forbid (principal, action == Action::"crm/lookup", resource) when { «resource == Upstream::"mail"» };`, `can never match`, ""},
		{`forbid (principal, action, resource) when { «resource is Agent» };`, `resource is always of type Upstream`, ""},
		{`forbid (principal, action in «Action::"upstream:docs"», resource);`, `there is no tool in Action::"upstream:docs"`, ""},
		{`forbid (principal, action in [«]», resource);`, `names no action`, ""},
		{`forbid (principal, action, resource) when { context.run.calls == 1 && «false» || context.stage == "sandbox" && 1 == 2 };`, `can never match`, ""},

		// ids
		{`@id("x") permit (principal, action, resource); «@id("x")» forbid (principal, action, resource);`, `the @id "x" is that of the policy at policies/a.cedar:1`, ""},
		{`permit (principal, action, resource); «@id("policies/a.cedar#1")» forbid (principal, action, resource);`, `the @id "policies/a.cedar#1" is that of the policy`, ""},
		{`«@id("")» permit (principal, action, resource);`, `an @id must not be empty`, ""},
		{`«@id» permit (principal, action, resource);`, `an @id must not be empty`, ""},
		{`«@id("sallyport:canary/forbid")» permit (principal, action, resource);`, `an @id must not begin with "sallyport:canary"`, ""},
		{"«\xff", `the text is not UTF-8`, ""},
	} {
		before, _, _ := strings.Cut(tt.text, "«")
		text := strings.NewReplacer("«", "", "»", "").Replace(tt.text)
		// Something ahead of it, so that lines and columns mean something.
		ahead := "// täglich\n@id(\"first\") permit (principal, action, resource);\n\n\t"
		if strings.Contains(tt.text, "#1") {
			ahead = "\n\n\n\t"
		}
		tt.message = strings.Replace(tt.message, "a.cedar:1", "a.cedar:4", 1)
		set, problems := policy.Compile(tools(), []policy.Source{{Path: "policies/a.cedar", Text: ahead + text}})
		if set != nil || len(problems) != 1 {
			t.Errorf("%s\n\tproblems: %v", tt.text, problems)
			continue
		}
		p := problems[0]
		if _, again := policy.Compile(tools(), []policy.Source{{Path: "policies/a.cedar", Text: ahead + text}}); !cmp.Equal(again, problems) {
			t.Errorf("%s\n\tis %v at first and %v then", tt.text, problems, again)
		}
		if !strings.Contains(p.Message, tt.message) {
			t.Errorf("%s\n\tgot  %s\n\twant %s", tt.text, p.Message, tt.message)
		}
		if !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%s\n\thint %q, want %q", tt.text, p.Hint, tt.hint)
		}
		if strings.Contains(tt.text, "«") {
			column := 2 + len([]rune(before))
			if p.Path != "policies/a.cedar" || p.Line != 4 || p.Column != column {
				t.Errorf("%s\n\tis placed at %d:%d, want 4:%d", tt.text, p.Line, p.Column, column)
			}
			if first, _, _ := strings.Cut(text, "\n"); p.Excerpt != "\t"+first && len(first) < 190 && !strings.Contains(tt.message, "UTF-8") {
				t.Errorf("%s\n\texcerpt %q", tt.text, p.Excerpt)
			}
		}
		if !strings.HasPrefix(p.Error(), fmt.Sprintf("%s:%d:%d: %s", p.Path, p.Line, p.Column, p.Message)) {
			t.Errorf("%q is not path:line:col: message", p.Error())
		}
	}
}

// What looks like some of the above and is right.
func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``,
		"// nothing but a comment",
		`permit (principal == Agent::"somebody-else", action, resource);`,
		`permit (principal, action, resource,);`,
		`@note permit (principal, action, resource) when { true } unless { false };`,
		`forbid ` + refundScope + ` when { context.args.amount > 5 && context.args.amount < 7 };`,
		`forbid ` + refundScope + ` when { context.args.amount != 5 && context.args.amount != 6 };`,
		`forbid ` + refundScope + ` when { context.args.amount == 5 || context.args.amount == 6 };`,
		`forbid ` + refundScope + ` when { context.args.amount == -9223372036854775808 };`,
		`forbid ` + refundScope + ` when { context.args.payment like "p\*_*" };`,
		`forbid ` + refundScope + ` when { if context.args has fee then context.args.fee.lessThan(decimal("1.5")) else true };`,
		`forbid ` + refundScope + ` when { context.args has order.total && context.args.order.total > 5 };`,
		`forbid ` + refundScope + ` when { context.args has order && !(context.args has order.lines) };`,
		`forbid (principal, action in [Action::"read", Action::"changing"], resource) when { action == Action::"payments/refund" };`,
		`forbid (principal, action in [Action::"crm/lookup", Action::"payments/refund"], resource) when { context.args has amount && context.args.amount > 5 };`,
		`forbid (principal, action in [Action::"upstream:docs", Action::"read"], resource);`,
		`forbid (principal, action in [Action::"crm/lookup", Action::"payments/refund"], resource) unless { context.args has amount };`,
		`forbid (principal, action, resource) when { ["sandbox", "staging"].contains(context.stage) };`,
		`forbid (principal, action, resource) when { context.stage like "prod*" };`,
		`forbid (principal, action, resource) when { principal.tier != "low" && principal.tier != "medium" };`,
		`forbid (principal, action, resource) when { principal.owner == "a" || principal.owner == "b" && context.run.calls > 2 };`,
		`forbid (principal, action, resource) when { (context.now.weekday > 5 || context.now.hour < 7 || context.now.hour >= 19) && context.stage == "production" };`,
		`forbid (principal, action == Action::"resources/read", resource) when { context.uri == "x" };`,
		`forbid (principal is Agent, action, resource is Upstream in Upstream::"crm") when { resource in Upstream::"crm" && principal is Agent };`,
		`forbid (principal, action, resource) when { {a: 1, "b c": context.stage}["b c"] == "sandbox" };`,
		`forbid (principal, action, resource) when { context.run has person && principal has person && context.run.person == principal.person };`,
		`forbid (principal, action, resource) when { - - 1 == 1 && !!true && context.run.calls * 2 - 1 > 3 };`,
		`forbid (principal, action, resource) when { context.now.at.toDate() == datetime("2026-12-24") && context.now.at.durationSince(datetime("2026-12-24")) < duration("1h") };`,
		`forbid (principal, action, resource) when { ip("10.0.0.1").isInRange(ip("10.0.0.0/8")) };`,
		`forbid (principal, action, resource) when { /* a ; } " */ context.run.task == "a\"b\u{1F600}" };`,
	} {
		if _, problems := policy.Compile(tools(), []policy.Source{{Path: "policies/a.cedar", Text: text}}); len(problems) > 0 {
			t.Errorf("%s\n\t%v", text, problems)
		}
	}
}

func TestManyProblems(t *testing.T) {
	t.Parallel()
	set, problems := policy.Compile(tools(), sourcesOf(
		"permit (principal, action, resource) when { context.stage == \"x\" };\npermit (principal, action == Action::\"nope\", resource);\npermit (principal, action, resource);",
		"forbid (principal, action, resource) when { 1 == 2 };",
		"permit (",
	))
	var places []string
	for _, p := range problems {
		places = append(places, fmt.Sprintf("%s:%d", p.Path, p.Line))
	}
	if got, want := strings.Join(places, " "), "policies/a.cedar:1 policies/a.cedar:2 policies/b.cedar:1 policies/c.cedar:1"; set != nil || got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if set, problems := policy.Compile(tools(), sourcesOf(strings.Repeat("permit (principal, action == Action::\"nope\", resource);\n", 2000))); set != nil || len(problems) != 100 {
		t.Errorf("%d problems", len(problems))
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	one := "permit (principal, action, resource);\n"
	for name, tt := range map[string]struct {
		texts []string
		want  string
	}{
		"a file too long":       {[]string{strings.Repeat(" ", policy.MaxFileBytes+1)}, "more than 262144"},
		"a file just so":        {[]string{strings.Repeat(" ", policy.MaxFileBytes)}, ""},
		"too many policies":     {[]string{strings.Repeat(one, 5000), strings.Repeat(one, 5001)}, "more than 10000 policies"},
		"as many as there may":  {[]string{strings.Repeat(one, 5000), strings.Repeat(one, 5000)}, ""},
		"a policy too long":     {[]string{one + `permit (principal, action, resource) when { context.run.task == "` + strings.Repeat("x", policy.MaxPolicyBytes) + `" };`}, "more than 32768"},
		"a condition very long": {[]string{`permit (principal, action, resource) when { context.run.calls > 1` + strings.Repeat(" && context.run.calls > 1", 1200) + ` };`}, ""},
		"alternatives many":     {[]string{`permit (principal, action, resource) when { context.run.calls > 1` + strings.Repeat(" && (context.run.calls > 1 || context.run.task == \"\")", 500) + ` };`}, ""},
	} {
		began := time.Now()
		set, problems := policy.Compile(tools(), sourcesOf(tt.texts...))
		if tt.want == "" && set == nil || tt.want != "" && (len(problems) != 1 || !strings.Contains(problems[0].Message, tt.want)) {
			t.Errorf("%s: %v", name, problems)
		}
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}

func TestTools(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tools []policy.Tool
		want  string
	}{
		"twice":              {[]policy.Tool{{Name: "crm/a", Upstream: "crm"}, {Name: "crm/a", Upstream: "crm"}}, "given twice"},
		"of another":         {[]policy.Tool{{Name: "crm/a", Upstream: "mail"}}, "does not begin with its upstream"},
		"of no name":         {[]policy.Tool{{Name: "crm/", Upstream: "crm"}}, "does not begin with its upstream"},
		"of no upstream":     {[]policy.Tool{{Name: "a"}}, "cannot name an upstream"},
		"like another kind":  {[]policy.Tool{{Name: "roots/list", Upstream: "roots"}}, "the name is that of a kind of call"},
		"like a kind":        {[]policy.Tool{{Name: "resources/read", Upstream: "resources"}}, "the name is that of a kind of call"},
		"of no JSON":         {[]policy.Tool{{Name: "crm/a", Upstream: "crm", InputSchema: []byte(`{`)}}, "read the input schema"},
		"like a group":       {[]policy.Tool{{Name: "upstream:crm/a", Upstream: "upstream:crm"}}, "cannot name an upstream"},
		"with odd names":     {[]policy.Tool{{Name: "crm/a\"b\\/ü\n", Upstream: "crm"}, {Name: "crm/read", Upstream: "crm"}, {Name: "upstream/crm", Upstream: "upstream"}}, ""},
		"of the same ending": {[]policy.Tool{{Name: "a/b", Upstream: "a"}, {Name: "b/b", Upstream: "b"}}, ""},
	} {
		set, problems := policy.Compile(tt.tools, nil)
		if tt.want == "" {
			if set == nil {
				t.Errorf("%s: %v", name, problems)
			}
			if _, err := policy.SchemaText(tt.tools); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if set != nil || len(problems) != 1 || !strings.Contains(problems[0].Message, tt.want) || problems[0].Path != tt.tools[len(tt.tools)-1].Name {
			t.Errorf("%s: %v", name, problems)
		}
		if _, err := policy.SchemaText(tt.tools); err == nil {
			t.Errorf("%s: a schema all the same", name)
		}
	}
}

// How arguments' schemas come out as Cedar types.
func TestShapes(t *testing.T) {
	t.Parallel()
	for schema, want := range map[string]string{
		`{"type":"string"}`:                           "x?: String",
		`{"type":"string","enum":["a","b"]}`:          "@enum(\"a, b\")",
		`{"enum":["a","b"]}`:                          "@enum(\"a, b\")",
		`{"const":"a"}`:                               "@enum(\"a\")",
		`{"type":["string"]}`:                         "x?: String",
		`{"type":"integer","minimum":3}`:              "x?: Long",
		`{"type":"number"}`:                           "x?: decimal",
		`{"type":"boolean"}`:                          "x?: Bool",
		`{"type":"array","items":{"type":"integer"}}`: "x?: Set<Long>",
		`{"type":"array","items":{"type":"array","items":{"type":"number"}}}`:     "x?: Set<Set<decimal>>",
		`{"type":"object","properties":{"y":{"type":"string"}},"required":["y"]}`: "y: String",
		`{"$ref":"#/$defs/t"}`:                          "x?: Long",
		`{"allOf":[{"$ref":"#/$defs/t"}]}`:              "x?: Long",
		`{"$ref":"#/$defs/a~1b%20c"}`:                   "x?: Bool",
		`{"$ref":"#/$defs/list/prefix/1"}`:              "x?: String",
		`{"$ref":"#/$defs/loop"}`:                       "x: its schema refers to itself",
		`{"$ref":"#/$defs/none"}`:                       "which is not in the same document",
		`{"$ref":"https://example.com/t"}`:              "which is not in the same document",
		`{"$ref":"#"}`:                                  "x?: {",
		`{"$ref":"#%zz"}`:                               "which is not in the same document",
		`true`:                                          "x: its schema allows any type",
		`{}`:                                            "x: its schema names no type",
		`{"type":["string","null"]}`:                    "x: its schema allows more than one type (string, null)",
		`{"anyOf":[{"type":"string"},{"type":"null"}]}`: "x: its schema is a choice (anyOf)",
		`{"oneOf":[{"type":"string"}]}`:                 "x: its schema is a choice (oneOf)",
		`{"allOf":[{"type":"string"},{"minLength":1}]}`: "x: its schema is a choice (allOf)",
		`{"enum":["a",1]}`:                              "x: its schema is an enumeration of other values than strings",
		`{"type":"null"}`:                               "x: it is always null",
		`{"type":"thing"}`:                              "x: its schema is of no known type",
		`{"type":"object"}`:                             "x: it is an object that declares no properties",
		`{"type":"object","additionalProperties":{"type":"string"}}`: "x: it is an object that declares no properties",
		`{"type":"array"}`: "x: it is an array whose schema names no items",
		`{"type":"array","prefixItems":[{"type":"string"}],"items":{"type":"string"}}`:                                                  "x: its items are of different types",
		`{"type":"array","items":[{"type":"string"}]}`:                                                                                  "x: its items are of different types",
		`{"type":"array","items":{"type":"object"}}`:                                                                                    "x: of its items: it is an object that declares no properties",
		`{"type":"array","items":{"type":"object","properties":{"y":{"type":"string"},"z":{"type":"object","properties":{"v":true}}}}}`: `hold \"z.v\", which is hidden`,
		strings.Repeat(`{"type":"array","items":`, 30) + `{"type":"string"}` + strings.Repeat(`}`, 30):                                  "nested more than 16 deep",
	} {
		doc := fmt.Sprintf(`{"type":"object","properties":{"x":%s},"$defs":{
			"t":{"type":"integer"},"a/b c":{"type":"boolean"},"loop":{"$ref":"#/$defs/loop"},"list":{"prefix":[1,{"type":"string"}]}}}`, schema)
		if schema == `{"$ref":"#"}` {
			doc = `{"type":"object","properties":{"x":{"$ref":"#"}}}`
		}
		text, err := policy.SchemaText([]policy.Tool{{Name: "a/b", Upstream: "a", Access: sallyport.Read, InputSchema: []byte(doc)}})
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("%s: %v\nwant %s in\n%s", schema, err, want, text)
		}
	}
	// A few references can stand for very many parts.
	bomb := `{"type":"object","properties":{"x":{"$ref":"#/$defs/a0"}},"$defs":{`
	for i := range 12 {
		bomb += fmt.Sprintf(`"a%d":{"type":"object","properties":{"p":{"$ref":"#/$defs/a%d"},"q":{"$ref":"#/$defs/a%d"},"r":{"$ref":"#/$defs/a%d"}}},`, i, i+1, i+1, i+1)
	}
	bomb += `"a12":{"type":"string"}}}`
	text, err := policy.SchemaText([]policy.Tool{{Name: "a/b", Upstream: "a", InputSchema: []byte(bomb)}})
	if err != nil || len(text) > 1<<20 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
