package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/policy"
)

// monday is in the morning, in UTC.
var monday = time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)

const refundSchema = `{
	"type": "object",
	"required": ["payment", "amount"],
	"properties": {
		"payment": {"type": "string"},
		"amount": {"type": "integer"},
		"fee": {"type": "number"},
		"reason": {"type": "string", "enum": ["duplicate", "fraud", "goodwill"]},
		"urgent": {"type": "boolean"},
		"tags": {"type": "array", "items": {"type": "string"}},
		"note": {"type": ["string", "null"]},
		"meta": {"type": "object"},
		"when": {"type": "string", "format": "date-time"},
		"order": {
			"type": "object",
			"required": ["total"],
			"properties": {
				"total": {"type": "integer"},
				"lines": {"type": "array", "items": {
					"type": "object", "required": ["sku"],
					"properties": {"sku": {"type": "string"}, "n": {"type": "integer"}}
				}},
				"extra": {"type": ["integer", "string"]}
			}
		}
	}
}`

func tools() []policy.Tool {
	return []policy.Tool{
		{
			Name: "crm/lookup", Upstream: "crm", Access: sallyport.Read, DataClass: sallyport.Confidential,
			InputSchema: []byte(`{"type":"object","required":["id"],"properties":{"id":{"type":"string"}}}`),
		},
		{
			Name: "payments/refund", Upstream: "payments", Access: sallyport.Changing,
			InputSchema: []byte(refundSchema),
			ArgKinds:    map[string]sallyport.ArgKind{"amount": sallyport.Quantity},
		},
		{
			Name: "mail/send", Upstream: "mail",
			InputSchema: []byte(`{"type":"object","properties":{"to":{"type":"array","items":{"type":"string"}},"body":{"type":"string"}}}`),
		},
		{Upstream: "docs"},
	}
}

func sourcesOf(texts ...string) []policy.Source {
	var sources []policy.Source
	for i, s := range texts {
		sources = append(sources, policy.Source{Path: fmt.Sprintf("policies/%c.cedar", 'a'+i), Text: s})
	}
	return sources
}

func compile(t testing.TB, texts ...string) *policy.Set {
	t.Helper()
	set, problems := policy.Compile(tools(), sourcesOf(texts...))
	for _, p := range problems {
		t.Errorf("%s\n\t%s", p.Error(), p.Excerpt)
	}
	if set == nil {
		t.FailNow()
	}
	return set
}

// refund is a call of payments/refund with these arguments.
func refund(args string) *policy.Query {
	q := &policy.Query{
		Provenance: policy.Provenance{Known: true}, History: policy.History{Known: true},
		Principal: sallyport.Principal{Agent: "support", Release: "sha256:aa"},
		Tier:      sallyport.TierMedium, Owner: "ana",
		Kind: sallyport.KindTool, Upstream: "payments", UpstreamIdentity: "sha256:bb", Tool: "refund", ToolDigest: "sha256:cc",
		Stage: sallyport.Production, Now: monday,
		Run: policy.RunFacts{ID: "run_1", Calls: 3, Labels: sallyport.NewLabels(), Task: "refund p_1"},
	}
	if args != "" {
		q.Args = []byte(args)
	}
	return q
}

const plain = `{"payment":"p_1","amount":100}`

const permitRefund = `@id("permit") permit (principal, action == Action::"payments/refund", resource);` + "\n"

// when is a set that permits a refund if and only if the condition holds.
func when(t testing.TB, condition string) *policy.Set {
	t.Helper()
	return compile(t, `@id("permit") permit (principal, action == Action::"payments/refund", resource) when { `+condition+` };`)
}

func TestDecide(t *testing.T) {
	t.Parallel()
	forbidLarge := `@id("limit") @reason("over 500") @hint("ask for less")
		forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 };`
	limit := sallyport.Reason{Policy: "limit", Effect: "forbid", Says: "over 500", Hint: "ask for less"}
	permit := sallyport.Reason{Policy: "permit", Effect: "permit"}
	for _, tt := range []struct {
		name string
		set  []string
		args string
		want sallyport.Decision
	}{
		{"no policy", nil, plain, sallyport.Decision{}},
		{"a permit", []string{permitRefund}, plain, sallyport.Decision{Allow: true, Reasons: []sallyport.Reason{permit}}},
		{"a forbid alone", []string{forbidLarge}, plain, sallyport.Decision{}},
		{"forbid wins", []string{permitRefund + forbidLarge}, `{"payment":"p","amount":501}`, sallyport.Decision{Reasons: []sallyport.Reason{limit}}},
		{"forbid wins in any order", []string{forbidLarge, permitRefund}, `{"payment":"p","amount":501}`, sallyport.Decision{Reasons: []sallyport.Reason{limit}}},
		{"a forbid that does not match", []string{forbidLarge, permitRefund}, `{"payment":"p","amount":500}`, sallyport.Decision{Allow: true, Reasons: []sallyport.Reason{permit}}},
		{
			"every reason, in the order of the sources",
			[]string{permitRefund, `@id("two") permit (principal, action, resource);`, `permit (principal, action, resource);permit (principal, action, resource == Upstream::"crm");permit (principal, action, resource);`},
			plain,
			sallyport.Decision{Allow: true, Reasons: []sallyport.Reason{
				permit, {Policy: "two", Effect: "permit"}, {Policy: "policies/c.cedar#1", Effect: "permit"}, {Policy: "policies/c.cedar#3", Effect: "permit"},
			}},
		},
		{
			"an error denies, though a permit holds",
			[]string{permitRefund, `@id("broken") forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount * 9223372036854775807 == 0 };`},
			plain,
			sallyport.Decision{Errors: []string{"broken: integer overflow"}},
		},
		{
			"an error in a permit denies, though another permit holds",
			[]string{permitRefund, `@id("broken") permit (principal, action == Action::"payments/refund", resource) when { context.args.amount * 9223372036854775807 == 0 };`},
			plain,
			sallyport.Decision{Errors: []string{"broken: integer overflow"}},
		},
		{
			"an error beside a forbid keeps the forbid's reason",
			[]string{permitRefund + forbidLarge, `@id("broken") permit (principal, action == Action::"payments/refund", resource) when { context.args.amount * 9223372036854775807 == 0 };`},
			`{"payment":"p","amount":501}`,
			sallyport.Decision{Reasons: []sallyport.Reason{limit}, Errors: []string{"broken: integer overflow"}},
		},
		{
			"a required argument that is missing denies",
			[]string{permitRefund + forbidLarge}, `{"payment":"p"}`,
			sallyport.Decision{Errors: []string{"limit: record does not have the attribute `amount`"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, _ := compile(t, tt.set...).Decide(refund(tt.args))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// What a call does not say must never be taken for something harmless.
func TestUnknownsDeny(t *testing.T) {
	t.Parallel()
	set := compile(t, `permit (principal, action, resource);`)
	if d, _ := set.Decide(refund(plain)); !d.Allow {
		t.Fatalf("the call itself: %+v", d)
	}
	for name, spoil := range map[string]func(*policy.Query){
		"kind":            func(q *policy.Query) { q.Kind = 0 },
		"kind that is no": func(q *policy.Query) { q.Kind = 99 },
		"stage":           func(q *policy.Query) { q.Stage = 0 },
		"stage beyond":    func(q *policy.Query) { q.Stage = sallyport.Production + 1 },
		"tier":            func(q *policy.Query) { q.Tier = 0 },
		"tier beyond":     func(q *policy.Query) { q.Tier = sallyport.TierHigh + 1 },
		"agent":           func(q *policy.Query) { q.Principal.Agent = "" },
		"upstream":        func(q *policy.Query) { q.Upstream = "" },
		"other upstream":  func(q *policy.Query) { q.Upstream = "crm" },
		"tool":            func(q *policy.Query) { q.Tool = "refund2" },
		"no tool":         func(q *policy.Query) { q.Tool = "" },
		"integrity":       func(q *policy.Query) { q.Run.Labels.Integrity = sallyport.System + 1 },
		"confidentiality": func(q *policy.Query) { q.Run.Labels.Confidentiality = sallyport.Restricted + 1 },
		"sampling of no upstream": func(q *policy.Query) {
			q.Kind, q.Upstream = sallyport.KindSampling, ""
		},
	} {
		q := refund(plain)
		spoil(q)
		d, _ := set.Decide(q)
		if d.Allow || len(d.Errors) != 1 {
			t.Errorf("unknown %s: %+v", name, d)
		}
		if set.CouldAllow(q) {
			t.Errorf("unknown %s is listed", name)
		}
		if x := set.Explain(q); x.Decision.Allow || len(x.Change) == 0 {
			t.Errorf("unknown %s is not explained: %+v", name, x)
		}
	}
	var zero sallyport.Decision
	if zero.Allow {
		t.Error("the zero decision allows")
	}
	if d, _ := set.Decide(&policy.Query{}); d.Allow {
		t.Error("the zero query is allowed")
	}
	timed := compile(t, `permit (principal, action, resource) when { context.now.hour < 24 };`)
	q := refund(plain)
	q.Now = time.Time{}
	if d, _ := timed.Decide(q); d.Allow || len(d.Errors) != 1 {
		t.Errorf("no time: %+v", d)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	for condition, want := range map[string]bool{
		`principal == Agent::"support"`:                                         true,
		`principal in Agent::"support"`:                                         true,
		`principal is Agent in Agent::"other"`:                                  false,
		`principal.owner == "ana"`:                                              true,
		`principal.tier == "medium"`:                                            true,
		`principal.release == "sha256:aa"`:                                      true,
		`principal has person`:                                                  true,
		`principal has person && principal.person == Person::"eve@example.com"`: false,
		`principal has person && principal.person == Person::"bob@example.com"`: true,
		`action in Action::"changing"`:                                          true,
		`action in [Action::"read", Action::"upstream:payments"]`:               true,
		`resource == Upstream::"payments"`:                                      true,
		`resource.identity == "sha256:bb"`:                                      true,
		`context.stage == "production"`:                                         true,
		`context.stage == "sandbox"`:                                            false,
		`context.tool.digest == "sha256:cc"`:                                    true,
		`context.tool.access == "changing"`:                                     true,
		`context.tool.data_class == "restricted"`:                               true, // nobody said it may travel
		`context.tool.data_class_level == 4`:                                    true,
		`context.run.id == "run_1"`:                                             true,
		`context.run.implicit`:                                                  false,
		`context.run.calls == 3`:                                                true,
		`context.run.task like "refund *"`:                                      true,
		`context.run has person`:                                                false,
		`context.run.integrity == "untrusted"`:                                  true,
		`context.run.integrity_level <= 1`:                                      true,
		`context.run.confidentiality == "confidential"`:                         true,
		`context.run.confidentiality_level >= 3`:                                true,
		`context.now.hour == 23 && context.now.weekday == 7`:                    true, // Sunday in UTC, Monday in +02:00
		`context.now.at < datetime("2026-01-05T00:00:00Z")`:                     true,
		`context.now.at == datetime("2026-01-04T23:30:00Z")`:                    true,
		`context.args.payment == "p_1"`:                                         true,
		`context["args"]["amount"] == 100`:                                      true,
		`context.args has fee`:                                                  false,
		`context.args has order.total`:                                          true,
		`context.args has order.total && context.args.order.total == 7`:         true,
		`context.args has order && context.args.order has lines && !context.args.order.lines.isEmpty()`: true,
		`context.args has tags && context.args.tags.containsAll(["a", "b"])`:                            true,
		`(if context.args has urgent then context.args.urgent else false)`:                              true,
	} {
		q := refund(`{"payment":"p_1","amount":100,"urgent":true,"tags":["b","a","b"],"order":{"total":7,"lines":[{"n":2,"sku":"x"}]}}`)
		q.Principal.Person = "bob@example.com"
		q.Now = time.Date(2026, 1, 5, 1, 30, 0, 0, time.FixedZone("", 2*3600))
		q.Run.Labels = sallyport.Labels{Integrity: sallyport.Untrusted, Confidentiality: sallyport.Confidential}
		if d, _ := when(t, condition).Decide(q); d.Allow != want || len(d.Errors) > 0 {
			t.Errorf("%s: got %+v, want %v", condition, d, want)
		}
	}
}

// A set is asked by callers that differ, one after another.
func TestCallersDiffer(t *testing.T) {
	t.Parallel()
	set := when(t, `principal.owner == "ana" && resource.identity == "sha256:bb" && (principal has person || principal.tier == "medium")`)
	for range 2 {
		for _, tt := range []struct {
			change func(*policy.Query)
			want   bool
		}{
			{func(*policy.Query) {}, true},
			{func(q *policy.Query) { q.Owner = "bob" }, false},
			{func(q *policy.Query) { q.UpstreamIdentity = "sha256:moved" }, false},
			{func(q *policy.Query) { q.Tier = sallyport.TierHigh }, false},
			{func(q *policy.Query) { q.Tier, q.Principal.Person = sallyport.TierHigh, "eve" }, true},
			{func(q *policy.Query) { q.Principal.Agent = "other" }, true},
		} {
			q := refund(plain)
			tt.change(q)
			if d, _ := set.Decide(q); d.Allow != tt.want {
				t.Errorf("%+v: got %+v", q, d)
			}
		}
	}
}

// Labels nobody set are the strict ones.
func TestZeroLabelsAreStrict(t *testing.T) {
	t.Parallel()
	q := refund(plain)
	q.Run.Labels = sallyport.Labels{}
	set := when(t, `context.run.integrity == "untrusted" && context.run.integrity_level == 1 && context.run.confidentiality == "restricted" && context.run.confidentiality_level == 4`)
	d, f := set.Decide(q)
	if !d.Allow {
		t.Errorf("got %+v", d)
	}
	if want := (sallyport.Labels{Integrity: sallyport.Untrusted, Confidentiality: sallyport.Restricted}); f.Labels != want {
		t.Errorf("facts say %+v", f.Labels)
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	query := func(kind sallyport.Kind, upstream, name, uri string) *policy.Query {
		q := refund("")
		q.Kind, q.Upstream, q.Tool, q.URI = kind, sallyport.UpstreamID(upstream), name, uri
		return q
	}
	for _, tt := range []struct {
		policy string
		query  *policy.Query
		want   bool
	}{
		{`permit (principal, action == Action::"resources/read", resource == Upstream::"docs") when { context.uri like "doc://public/*" };`, query(sallyport.KindResource, "docs", "", "doc://public/1"), true},
		{`permit (principal, action == Action::"resources/read", resource == Upstream::"docs") when { context.uri like "doc://public/*" };`, query(sallyport.KindResource, "docs", "", "doc://secret/1"), false},
		{`permit (principal, action == Action::"resources/read", resource == Upstream::"docs");`, query(sallyport.KindResource, "crm", "", "doc://public/1"), false},
		{`permit (principal, action == Action::"prompts/get", resource) when { context.prompt == "greet" };`, query(sallyport.KindPrompt, "docs", "greet", ""), true},
		{`permit (principal, action == Action::"prompts/get", resource) when { context.prompt == "greet" };`, query(sallyport.KindPrompt, "docs", "other", ""), false},
		{`permit (principal, action == Action::"completion/complete", resource) when { context has prompt && context.prompt == "greet" };`, query(sallyport.KindCompletion, "docs", "greet", ""), true},
		{`permit (principal, action == Action::"completion/complete", resource) when { context has prompt && context.prompt == "greet" };`, query(sallyport.KindCompletion, "docs", "", "doc://1"), false},
		{`permit (principal, action == Action::"completion/complete", resource) when { context has uri };`, query(sallyport.KindCompletion, "docs", "", "doc://1"), true},
		{`permit (principal, action == Action::"sampling/createMessage", resource);`, query(sallyport.KindSampling, "crm", "", ""), true},
		{`permit (principal, action == Action::"elicitation/create", resource);`, query(sallyport.KindSampling, "crm", "", ""), false},
		{`permit (principal, action in [Action::"read", Action::"changing"], resource);`, query(sallyport.KindSampling, "crm", "", ""), false},
		{`permit (principal, action in Action::"upstream:crm", resource);`, query(sallyport.KindResource, "crm", "", "x"), false},
		{`permit (principal, action, resource);`, query(sallyport.KindElicitation, "crm", "", ""), true},
		{`permit (principal, action == Action::"roots/list", resource == Upstream::"crm");`, query(sallyport.KindRoots, "crm", "", ""), true},
		{`permit (principal, action == Action::"roots/list", resource == Upstream::"crm");`, query(sallyport.KindRoots, "docs", "", ""), false},
		{`permit (principal, action in [Action::"sampling/createMessage", Action::"elicitation/create"], resource);`, query(sallyport.KindRoots, "crm", "", ""), false},
		{`permit (principal, action in [Action::"read", Action::"changing"], resource);`, query(sallyport.KindRoots, "crm", "", ""), false},
		{`permit (principal, action, resource);`, query(sallyport.KindRoots, "crm", "", ""), true},
	} {
		set := compile(t, tt.policy)
		if d, _ := set.Decide(tt.query); d.Allow != tt.want || len(d.Errors) > 0 {
			t.Errorf("%s\n%s of %s: got %+v, want %v", tt.policy, tt.query.Kind, tt.query.Upstream, d, tt.want)
		}
		if tt.want && !set.CouldAllow(tt.query) {
			t.Errorf("%s\n%s is not listed", tt.policy, tt.query.Kind)
		}
	}
}

func TestFacts(t *testing.T) {
	t.Parallel()
	q := refund(`{"payment":"p","amount":1e400,"fee":null}`)
	q.Now = time.Date(2026, 1, 4, 23, 0, 0, 0, time.UTC)
	q.Run.Implicit = true
	_, got := when(t, `context.args.amount < 500 && context.args has fee`).Decide(q)
	want := policy.Facts{
		Stage: sallyport.Production, UpstreamIdentity: "sha256:bb", ToolDigest: "sha256:cc", Access: sallyport.Changing,
		Hour: 23, Weekday: 7, Calls: 3, Implicit: true, Labels: sallyport.NewLabels(),
		Provenance: &policy.Provenance{Known: true}, History: &policy.History{Known: true},
		Inexact: []policy.Inexact{
			{Path: "args.amount", Why: "it is not a whole number of at most 64 bits"},
			{Path: "args.fee", Why: "it is null"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	_, sampled := when(t, `true`).Decide(&policy.Query{Kind: sallyport.KindSampling})
	for _, f := range []policy.Facts{got, sampled, {Stage: sallyport.Sandbox, Labels: sallyport.NewLabels(), UpstreamIdentity: "a\"\u2028\x00é"}} {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(f); err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(want.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(f.JSON(), &b); err != nil {
			t.Fatalf("%s: %v", f.JSON(), err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f.JSON(), diff)
		}
	}
	if none := new(policy.Facts).JSON(); none != nil {
		t.Errorf("facts of no decision: %s", none)
	}
}

// A stage's policies are written for all releases of the stage.
func TestStageSources(t *testing.T) {
	t.Parallel()
	stage := func(text string) policy.Source {
		return policy.Source{Path: "stages/production.cedar", Text: text, Stage: true}
	}
	release := policy.Source{Path: "policies/a.cedar", Text: permitRefund}
	for _, tt := range []struct {
		text    string
		len     int // beside the permit
		inert   int
		problem string
	}{
		{`forbid (principal, action in Action::"changing", resource) when { context.run.calls > 100 };`, 1, 0, ""},
		{`forbid (principal, action == Action::"hr/dismiss", resource);`, 0, 1, ""},
		{`forbid (principal, action in Action::"upstream:hr", resource);`, 0, 1, ""},
		{`forbid (principal, action in [Action::"hr/dismiss", Action::"payments/refund"], resource) when { context.args.amount > 500 };`, 1, 0, ""},
		{`forbid (principal, action, resource == Upstream::"hr");`, 0, 1, ""},
		{`forbid (principal, action, resource) when { resource == Upstream::"hr" };`, 0, 1, ""},
		{`forbid (principal, action in [Action::"read", Action::"changing"], resource) when { action == Action::"hr/dismiss" };`, 0, 1, ""},
		{`forbid (principal, action, resource) when { resource == Upstream::"hr" || context.run.calls > 5 };`, 1, 0, ""},
		{`permit (principal, action, resource);`, 0, 0, "a stage's policy can only forbid"},
		{`forbid (principal, action, resource) when { context.stage == "prod" };`, 0, 0, `context.stage is never "prod"`},
		{`forbid (principal, action, resource) when { 1 == 2 };`, 0, 0, "this is always false"},
		{`forbid (principal, action, resource) when { context.stage == "sandbox" && context.stage == "production" };`, 0, 0, "can never match"},
		{`forbid (principal, action == Tool::"hr/dismiss", resource);`, 0, 0, "Tool is not a type"},
	} {
		set, problems := policy.Compile(tools(), []policy.Source{release, stage(tt.text)})
		if tt.problem != "" {
			if set != nil || len(problems) != 1 || !strings.Contains(problems[0].Message, tt.problem) || problems[0].Line != 1 {
				t.Errorf("%s: problems %v, want %q", tt.text, problems, tt.problem)
			}
			continue
		}
		if len(problems) > 0 {
			t.Errorf("%s: %v", tt.text, problems)
			continue
		}
		if set.Len() != 1+tt.len || len(set.Inert()) != tt.inert {
			t.Errorf("%s: %d policies and inert %v", tt.text, set.Len(), set.Inert())
		}
		// In a release's own bundle every one of the inert is a mistake.
		if tt.inert > 0 {
			s := stage(tt.text)
			s.Stage = false
			if set, problems := policy.Compile(tools(), []policy.Source{release, s}); set != nil || len(problems) == 0 {
				t.Errorf("%s: accepted in a release", tt.text)
			}
		}
	}
}

func TestCanary(t *testing.T) {
	t.Parallel()
	texts := []string{permitRefund, `@id("freeze") forbid (principal, action, resource);`}
	set := compile(t, texts...)
	if set.Len() != 2 {
		t.Errorf("the canary is counted: %d", set.Len())
	}
	for range 2 {
		if err := set.Canary(); err != nil {
			t.Fatalf("a set that forbids everything: %v", err)
		}
	}
	if err := compile(t).Canary(); err != nil {
		t.Errorf("an empty set: %v", err)
	}
	for name, spoil := range map[string]func(*policy.Set){
		"the forbid is not consulted":             (*policy.Set).Silence,
		"the permit is not consulted":             func(s *policy.Set) { s.Forget("sallyport:canary/free") },
		"nothing that names a tool is consulted":  func(s *policy.Set) { s.Forget("payments/refund") },
		"nothing that names no tool is consulted": (*policy.Set).ForgetAny,
	} {
		set := compile(t, texts...)
		spoil(set)
		if err := set.Canary(); err == nil || !strings.Contains(err.Error(), "policies are not being enforced") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nobody reaches it by its name.
	if sallyport.ValidName("sallyport:canary") {
		t.Error("an upstream can be named like the canary")
	}
	text, err := policy.SchemaText(tools())
	if err != nil || strings.Contains(text, "canary") {
		t.Errorf("the schema for people: %v", err)
	}
}

// Decide, CouldAllow, Explain and Canary may run at the same time; run with
// -race.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	set := compile(t, permitRefund, `forbid (principal, action == Action::"payments/refund", resource) when { context.args.amount > 500 || principal.owner == "eve" };`)
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 200 {
				amount := (g*200 + i) % 1000
				q := refund(fmt.Sprintf(`{"payment":"p","amount":%d}`, amount))
				q.Principal.Agent = sallyport.AgentID(fmt.Sprintf("agent-%d", i%7))
				if d, _ := set.Decide(q); d.Allow != (amount <= 500) {
					t.Errorf("amount %d: %+v", amount, d)
				}
				if !set.CouldAllow(q) || set.Explain(q).Decision.Allow != (amount <= 500) {
					t.Errorf("amount %d is listed or explained otherwise", amount)
				}
			}
			if err := set.Canary(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// Callers that make up names must not fill the memory.
func TestScopesAreBounded(t *testing.T) {
	t.Parallel()
	set := compile(t, permitRefund)
	for i := range 3000 {
		q := refund(plain)
		q.Principal.Agent = sallyport.AgentID(fmt.Sprintf("a%d", i))
		if d, _ := set.Decide(q); !d.Allow {
			t.Fatalf("agent %d: %+v", i, d)
		}
	}
	if n := set.Breadth("payments/refund"); n > 1024 {
		t.Errorf("%d scopes are kept", n)
	}
}

func TestInputs(t *testing.T) {
	t.Parallel()
	r := &sallyport.Release{
		Tools: []sallyport.Tool{{
			Name: "refund", Upstream: "payments", UpstreamName: "refund", Access: sallyport.Read,
			Definition: []byte(`{"name":"refund","InputSchema":{"type":"object"},"inputSchema":{"type":"object","properties":{"amount":{"type":"integer"}}}}`),
		}},
		Servers:  map[sallyport.UpstreamID]sallyport.PinnedServer{"payments": {}, "docs": {}},
		Policies: []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: `permit (principal, action == Action::"payments/refund", resource) when { context.args has amount && context.args.amount < 5 };`}},
	}
	c := &sallyport.StageConfig{Policies: []sallyport.PolicyFile{{Path: "stage.cedar", Text: `forbid (principal, action, resource == Upstream::"docs");`}}}
	set, problems := policy.CompileFor(r, c)
	if len(problems) > 0 || set.Len() != 2 {
		t.Fatalf("%v", problems)
	}
	if d, _ := set.Decide(refund(`{"amount":4}`)); !d.Allow {
		t.Errorf("got %+v", d)
	}
}

// TestPast: what came before a call, what has been counted, and what the agent says of it.
func TestPast(t *testing.T) {
	t.Parallel()
	confidence := func(n int) *int { return &n }
	money := policy.Counter{Name: "money", Decimal: true}
	for _, tt := range []struct {
		condition string
		change    func(q *policy.Query)
		want      bool
	}{
		{`context.history.done["crm/lookup"] > 0`, func(q *policy.Query) { q.History.Done = map[string]int{"crm/lookup": 1} }, true},
		{`context.history.done["crm/lookup"] > 0`, func(q *policy.Query) { q.History.Times = map[string]int{"crm/lookup": 1} }, false},
		{`context.history.times["crm/lookup"] == 3 && context.history.calls == 4`, func(q *policy.Query) { q.History.Times = map[string]int{"crm/lookup": 3, "crm/gone": 1} }, true},
		{`context.history.called.contains("crm/lookup")`, func(q *policy.Query) { q.History.Done = map[string]int{"crm/lookup": 1} }, true},
		{`context.history.called.contains("crm/lookup")`, func(*policy.Query) {}, false},
		{`context.history.classes.contains("restricted")`, func(q *policy.Query) { q.History.Classes = []string{"restricted"} }, true},
		{`context.history.denied == 1 && context.history.approved == 2 && context.history.errors == 3 && context.history.unknown == 4 && context.history.changing == 5 && context.history.seconds == 6`, func(q *policy.Query) {
			q.History = policy.History{Known: true, Denied: 1, Approved: 2, Errors: 3, Unknown: 4, Changing: 5, Seconds: 6}
		}, true},
		{`context.counters.calls.before == 2 && context.counters.calls.adds == 1 && context.counters.calls.after == 3`, func(*policy.Query) {}, true},
		{`context.counters.money.after.greaterThan(decimal("500.0"))`, func(*policy.Query) {}, false},
		{`context.counters.money.after.greaterThan(decimal("499.9999"))`, func(*policy.Query) {}, true},
		{`context.declared has confidence && context.declared.confidence < 700`, func(q *policy.Query) { q.Declared.Confidence = confidence(699) }, true},
		{`context.declared has confidence && context.declared.confidence < 700`, func(*policy.Query) {}, false},
		{`context.declared.missing.contains("age")`, func(q *policy.Query) { q.Declared.Missing = []string{"age"} }, true},
	} {
		set, problems := policy.Compile(tools(), sourcesOf(`permit `+refundScope+` when { `+tt.condition+` };`), policy.Counter{Name: "calls"}, money)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		q := refund(plain)
		q.Counters = map[string]policy.Count{
			"calls": {Before: 2 * sallyport.Unit, Adds: sallyport.Unit},
			"money": {Before: 4_005_000, Adds: 995_000},
		}
		tt.change(q)
		if d, _ := set.Decide(q); d.Allow != tt.want || len(d.Errors) > 0 {
			t.Errorf("%s: %+v", tt.condition, d)
		}
		if !set.CouldAllow(q) {
			t.Errorf("%s: it is not listed, and might be permitted", tt.condition)
		}
	}
	// Nobody looked.
	for _, condition := range []string{`context.history.calls < 5`, `context.counters.calls.before < 5`} {
		set, problems := policy.Compile(tools(), sourcesOf(`permit `+refundScope+` when { `+condition+` };`), policy.Counter{Name: "calls"})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		q := refund(plain)
		q.History.Known = false
		if d, _ := set.Decide(q); d.Allow || len(d.Errors) != 1 {
			t.Errorf("%s: %+v", condition, d)
		}
		if history, counters := set.Asks(q); history == (len(counters) == 1) {
			t.Errorf("%s asks for %v, %v", condition, history, counters)
		}
	}
	if _, problems := policy.Compile(tools(), sourcesOf(`permit `+refundScope+` when { context.counters.other.before < 5 };`), money); len(problems) != 1 {
		t.Errorf("a counter that there is not: %v", problems)
	}
	if _, problems := policy.Compile(tools(), sourcesOf(`permit `+refundScope+` when { context.history.done["crm/other"] < 5 };`), money); len(problems) != 1 {
		t.Errorf("a tool that there is not: %v", problems)
	}
}
