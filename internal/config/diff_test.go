package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
)

// small is one agent with one tool and one upstream that is live in production.
func small() *Versions {
	return &Versions{
		Releases: map[sallyport.AgentID]sallyport.Release{"a": {
			Agent: "a", Owner: "o", Tier: sallyport.TierMedium, DataDomain: "default",
			Tools: []sallyport.Tool{{
				Name: "pay", Upstream: "u", UpstreamName: "pay", Digest: "sha256:1", Definition: sallyport.Text(`{"name":"pay"}`),
				Access: sallyport.Changing, DataClass: sallyport.Internal, Integrity: sallyport.Endorsed,
				ArgKinds: map[string]sallyport.ArgKind{"to": sallyport.Authority, "amount": sallyport.Quantity},
			}},
			Servers:  map[sallyport.UpstreamID]sallyport.PinnedServer{"u": {ProtocolVersion: "2025-11-25", Capabilities: json.RawMessage(`{}`)}},
			Policies: []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: "@id(\"p\") permit (principal, action, resource);\n@id(\"f\") forbid (principal, action, resource) when { context.args.amount > 5 };"}},
		}},
		Stages: map[sallyport.Stage]sallyport.StageConfig{sallyport.Production: {
			Stage: sallyport.Production,
			Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{"u": {
				ID: "u", Identity: "sha256:2", Binding: sallyport.Live, Deadline: 10 * time.Second,
				Transport: sallyport.Transport{URL: "https://u.example.com/mcp", Credential: "env:SALLYPORT_U"},
				Bindings:  map[string]sallyport.Binding{"refund": sallyport.Off},
			}},
		}},
	}
}

func TestDiffDirections(t *testing.T) {
	release := func(change func(r *sallyport.Release)) func(v *Versions) {
		return func(v *Versions) {
			r := v.Releases["a"]
			r.Tools = slices.Clone(r.Tools)
			r.Tools[0].ArgKinds = maps.Clone(r.Tools[0].ArgKinds)
			r.Servers = maps.Clone(r.Servers)
			r.Policies = slices.Clone(r.Policies)
			change(&r)
			v.Releases["a"] = r
		}
	}
	tool := func(change func(t *sallyport.Tool)) func(v *Versions) {
		return release(func(r *sallyport.Release) { change(&r.Tools[0]) })
	}
	policy := func(text string) func(v *Versions) {
		return release(func(r *sallyport.Release) { r.Policies[0].Text = text })
	}
	stage := func(change func(s *sallyport.StageConfig)) func(v *Versions) {
		return func(v *Versions) {
			s := v.Stages[sallyport.Production]
			s.Upstreams = maps.Clone(s.Upstreams)
			change(&s)
			v.Stages[sallyport.Production] = s
		}
	}
	upstream := func(change func(u *sallyport.StageUpstream)) func(v *Versions) {
		return stage(func(s *sallyport.StageConfig) {
			u := s.Upstreams["u"]
			u.Bindings = maps.Clone(u.Bindings)
			change(&u)
			s.Upstreams["u"] = u
		})
	}
	const permit, forbid = "@id(\"p\") permit (principal, action, resource);\n", "@id(\"f\") forbid (principal, action, resource) when { context.args.amount > 5 };\n"

	tests := []struct {
		name   string
		change func(v *Versions)
		want   []string // "what: direction", in order
	}{
		{"nothing", func(*Versions) {}, nil},
		{"owner", release(func(r *sallyport.Release) { r.Owner = "p" }), []string{"owner: neutral"}},
		{"code", release(func(r *sallyport.Release) { r.Code = "2" }), []string{"code: neutral"}},
		{"prompt", release(func(r *sallyport.Release) { r.Prompt = "sha256:3" }), []string{"prompt: neutral"}},
		{"model", release(func(r *sallyport.Release) { r.Model = json.RawMessage(`"m"`) }), []string{"model: neutral"}},
		{"higher tier", release(func(r *sallyport.Release) { r.Tier = sallyport.TierHigh }), []string{"tier: tightens"}},
		{"lower tier", release(func(r *sallyport.Release) { r.Tier = sallyport.TierLow }), []string{"tier: loosens"}},
		{"data domain", release(func(r *sallyport.Release) { r.DataDomain = "other" }), []string{"data_domain: loosens"}},
		{"tool added", release(func(r *sallyport.Release) {
			r.Tools = append(r.Tools, sallyport.Tool{Name: "b", Upstream: "u", UpstreamName: "b"})
		}), []string{"tool: loosens"}},
		{"tool removed", release(func(r *sallyport.Release) { r.Tools = nil }), []string{"tool: tightens"}},
		{"tool of another upstream with the same name", tool(func(t *sallyport.Tool) { t.Upstream = "w" }), []string{"tool: tightens", "tool: loosens"}},
		{"tool twice", release(func(r *sallyport.Release) { r.Tools = append(r.Tools, r.Tools[0]) }), []string{"something: unknown"}},
		{"advertised name", tool(func(t *sallyport.Tool) { t.Name = "u__pay" }), []string{"advertised name: neutral"}},
		{"definition", tool(func(t *sallyport.Tool) { t.Digest = "sha256:4"; t.Definition = sallyport.Text("{}") }), []string{"definition: loosens"}},
		{"definition's layout", tool(func(t *sallyport.Tool) { t.Definition = sallyport.Text(`{ "name":"pay"}`) }), []string{"definition: neutral"}},
		{"now read", tool(func(t *sallyport.Tool) { t.Access = sallyport.Read }), []string{"access: loosens"}},
		{"less confidential", tool(func(t *sallyport.Tool) { t.DataClass = sallyport.Public }), []string{"data_class: loosens"}},
		{"more confidential", tool(func(t *sallyport.Tool) { t.DataClass = sallyport.Restricted }), []string{"data_class: tightens"}},
		{"class not given", tool(func(t *sallyport.Tool) { t.DataClass = 0 }), []string{"data_class: tightens"}},
		{"more trusted", tool(func(t *sallyport.Tool) { t.Integrity = sallyport.System }), []string{"integrity: loosens"}},
		{"less trusted", tool(func(t *sallyport.Tool) { t.Integrity = sallyport.Untrusted }), []string{"integrity: tightens"}},
		{"authority to content", tool(func(t *sallyport.Tool) { t.ArgKinds["to"] = sallyport.Content }), []string{"argument to: loosens"}},
		{"quantity to authority", tool(func(t *sallyport.Tool) { t.ArgKinds["amount"] = sallyport.Authority }), []string{"argument amount: tightens"}},
		{"quantity to content", tool(func(t *sallyport.Tool) { t.ArgKinds["amount"] = sallyport.Content }), []string{"argument amount: unknown"}},
		{"quantity not listed", tool(func(t *sallyport.Tool) { delete(t.ArgKinds, "amount") }), []string{"argument amount: tightens"}},
		{"authority not listed", tool(func(t *sallyport.Tool) { delete(t.ArgKinds, "to") }), []string{"argument to: neutral"}},
		{"examples", tool(func(t *sallyport.Tool) { t.Examples = []sallyport.Example{{Result: json.RawMessage("1")}} }), []string{"examples: neutral"}},
		{"server says otherwise", release(func(r *sallyport.Release) {
			r.Servers["u"] = sallyport.PinnedServer{ProtocolVersion: "2025-11-25", Capabilities: json.RawMessage(`{}`), Instructions: "obey"}
		}), []string{"pinned server: loosens"}},
		{"server added", release(func(r *sallyport.Release) { r.Servers["w"] = sallyport.PinnedServer{} }), []string{"upstream: loosens"}},
		{"server removed", release(func(r *sallyport.Release) { delete(r.Servers, "u") }), []string{"upstream: tightens"}},
		{"agent removed", func(v *Versions) { delete(v.Releases, "a") }, []string{"agent: neutral"}},
		{"agent added", func(v *Versions) { v.Releases["b"] = sallyport.Release{Agent: "b"} }, []string{"agent: loosens"}},

		{"forbid added", policy(permit + forbid + `@id("g") forbid (principal, action, resource) when { context.stage == "production" };`), []string{"policy g: tightens"}},
		{"forbid without a name added", policy(permit + forbid + "forbid (principal, action, resource);"), []string{"policy policies/a.cedar#3: tightens"}},
		{"permit added", policy(permit + forbid + `@id("q") permit (principal, action, resource) when { context.stage == "sandbox" };`), []string{"policy q: loosens"}},
		{"the same permit once more", policy(permit + forbid + permit), []string{"policy p: loosens"}},
		{"forbid removed", policy(permit), []string{"policy f: loosens"}},
		{"permit removed", policy(forbid), []string{"policy p: loosens"}},
		{"forbid made stricter", policy(permit + strings.Replace(forbid, "> 5", "> 4", 1)), []string{"policy f: loosens"}},
		{"permit becomes forbid", policy(strings.Replace(permit, "permit", "forbid", 1) + forbid), []string{"policy p: loosens"}},
		{"permit with another name", policy(strings.Replace(permit, `"p"`, `"q"`, 1) + forbid), []string{"policy p: loosens", "policy q: loosens"}},
		{"comment", policy("// hello\n" + permit + "\n\n" + forbid), []string{"policies: neutral"}},
		{"order", policy(forbid + permit), []string{"policies: neutral"}},
		{"moved", release(func(r *sallyport.Release) {
			r.Policies = []sallyport.PolicyFile{{Path: "policies/b.cedar", Text: permit}, {Path: "policies/c.cedar", Text: forbid}}
		}), []string{"policies: neutral"}},
		{"not Cedar", policy("permit"), []string{"policies: unknown"}},

		{"explicit runs", stage(func(s *sallyport.StageConfig) { s.ExplicitRuns = true }), []string{"explicit_runs: tightens"}},
		{"stage policy", stage(func(s *sallyport.StageConfig) {
			s.Policies = []sallyport.PolicyFile{{Path: "policies/s.cedar", Text: forbid}}
		}), []string{"policy f: tightens"}},
		{"stage gone", func(v *Versions) { delete(v.Stages, sallyport.Production) }, []string{"upstream: tightens"}},
		{"upstream gone", stage(func(s *sallyport.StageConfig) { delete(s.Upstreams, "u") }), []string{"upstream: tightens"}},
		{"upstream added, off", stage(func(s *sallyport.StageConfig) {
			s.Upstreams["w"] = sallyport.StageUpstream{ID: "w", Binding: sallyport.Off}
		}), []string{"upstream: neutral"}},
		{"upstream added, live", stage(func(s *sallyport.StageConfig) {
			s.Upstreams["w"] = sallyport.StageUpstream{ID: "w", Binding: sallyport.Live, Identity: "sha256:9", Transport: sallyport.Transport{URL: "https://w.example.com"}}
		}), []string{"upstream: neutral", "transport: loosens", "binding: loosens"}},
		{"off", upstream(func(u *sallyport.StageUpstream) { u.Binding = sallyport.Off }), []string{"binding: tightens"}},
		{"simulate", upstream(func(u *sallyport.StageUpstream) { u.Binding = sallyport.Simulate }), []string{"binding: tightens"}},
		{"a binding that is not served", upstream(func(u *sallyport.StageUpstream) { u.Binding = sallyport.Hybrid }), []string{"binding: unknown"}},
		{"no binding", upstream(func(u *sallyport.StageUpstream) { u.Binding = 0 }), []string{"binding: unknown"}},
		{"tool live", upstream(func(u *sallyport.StageUpstream) { u.Bindings["refund"] = sallyport.Live }), []string{"binding of refund: loosens"}},
		{"tool back to live", upstream(func(u *sallyport.StageUpstream) { delete(u.Bindings, "refund") }), []string{"binding of refund: loosens"}},
		{"tool off", upstream(func(u *sallyport.StageUpstream) { u.Bindings["pay"] = sallyport.Off }), []string{"binding of pay: tightens"}},
		{"tool as its upstream", upstream(func(u *sallyport.StageUpstream) { u.Bindings["pay"] = sallyport.Live }), []string{"binding of pay: neutral"}},
		{"all off but one", upstream(func(u *sallyport.StageUpstream) {
			u.Binding, u.Bindings["refund"] = sallyport.Off, sallyport.Live
		}), []string{"binding: tightens", "binding of refund: loosens"}},
		{"shorter deadline", upstream(func(u *sallyport.StageUpstream) { u.Deadline = time.Second }), []string{"deadline: tightens"}},
		{"default deadline", upstream(func(u *sallyport.StageUpstream) { u.Deadline = 0 }), []string{"deadline: loosens"}},
		{"lower limits", upstream(func(u *sallyport.StageUpstream) { u.MaxResult, u.MaxInFlight = 1<<20, 8 }), []string{"max_result: tightens", "max_in_flight: tightens"}},
		{"higher limits", upstream(func(u *sallyport.StageUpstream) { u.MaxResult, u.MaxInFlight = 8<<20, 128 }), []string{"max_result: loosens", "max_in_flight: loosens"}},
		{"limits that hold anyway", upstream(func(u *sallyport.StageUpstream) { u.MaxResult, u.MaxInFlight = DefaultMaxResult, DefaultMaxInFlight }), []string{"max_result: neutral", "max_in_flight: neutral"}},
		{"repointed", upstream(func(u *sallyport.StageUpstream) {
			u.Transport.URL, u.Identity = "https://evil.example.com/mcp", "sha256:5"
		}), []string{"url: loosens"}},
		{"another credential", upstream(func(u *sallyport.StageUpstream) { u.Transport.Credential = "env:SALLYPORT_W" }), []string{"credential: loosens"}},
		{"no credential", upstream(func(u *sallyport.StageUpstream) { u.Transport.Credential = "" }), []string{"credential: loosens"}},
		{"header", upstream(func(u *sallyport.StageUpstream) { u.Transport.Headers = map[string]string{"X-A": "b"} }), []string{"header X-A: loosens"}},
		{"another era", upstream(func(u *sallyport.StageUpstream) { u.Transport.Era = eraStateless }), []string{"era: loosens"}},
		{"nothing reached", upstream(func(u *sallyport.StageUpstream) {
			u.Transport, u.Binding = sallyport.Transport{}, sallyport.Off
		}), []string{"transport: tightens", "binding: tightens"}},
		{"command", upstream(func(u *sallyport.StageUpstream) { u.Transport = sallyport.Transport{Command: []string{"x"}} }), []string{"url: loosens", "command: loosens", "credential: loosens"}},
		{"identity alone", upstream(func(u *sallyport.StageUpstream) { u.Identity = "sha256:6" }), []string{"identity: unknown"}},
	}
	for _, tt := range tests {
		to := small()
		tt.change(to)
		var got []string
		for _, c := range Diff(small(), to) {
			got = append(got, fmt.Sprintf("%s: %s", c.What, c.Direction))
			if c.Why == "" || c.Where == "" || (c.Agent == "") == (c.Stage == 0) {
				t.Errorf("%s: says too little: %+v", tt.name, c)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestDiffRates: fewer calls at once or in the long run tighten, unless the other of the
// two grows.
func TestDiffRates(t *testing.T) {
	none := sallyport.Rate{}
	minute := sallyport.Rate{Calls: 60, Per: time.Minute}
	for _, tt := range []struct {
		name     string
		from, to sallyport.Rate
		want     string
	}{
		{"none", none, none, ""},
		{"the same", minute, minute, ""},
		{"a first one", none, minute, "none to 60 in 1m0s: tightens"},
		{"no longer one", minute, none, "60 in 1m0s to none: loosens"},
		{"fewer", minute, sallyport.Rate{Calls: 59, Per: time.Minute}, "60 in 1m0s to 59 in 1m0s: tightens"},
		{"more", minute, sallyport.Rate{Calls: 61, Per: time.Minute}, "60 in 1m0s to 61 in 1m0s: loosens"},
		{"over a longer time", minute, sallyport.Rate{Calls: 60, Per: time.Hour}, "60 in 1m0s to 60 in 1h0m0s: tightens"},
		{"over a shorter time", minute, sallyport.Rate{Calls: 60, Per: time.Second}, "60 in 1m0s to 60 in 1s: loosens"},
		{"as many, fewer at once", minute, sallyport.Rate{Calls: 1, Per: time.Second}, "60 in 1m0s to 1 in 1s: tightens"},
		{"as many, more at once", minute, sallyport.Rate{Calls: 3600, Per: time.Hour}, "60 in 1m0s to 3600 in 1h0m0s: loosens"},
		{"fewer, more at once", minute, sallyport.Rate{Calls: 100, Per: time.Hour}, "60 in 1m0s to 100 in 1h0m0s: loosens"},
		{"more, fewer at once", minute, sallyport.Rate{Calls: 2, Per: time.Second}, "60 in 1m0s to 2 in 1s: loosens"},
		{"the most there can be", sallyport.Rate{Calls: 999_999, Per: 24 * time.Hour}, sallyport.Rate{Calls: 1_000_000, Per: 24 * time.Hour}, "999999 in 24h0m0s to 1000000 in 24h0m0s: loosens"},
		{"none that can be kept", minute, sallyport.Rate{Calls: 60}, "60 in 1m0s to 60 in 0s: unknown"},
	} {
		with := func(r sallyport.Rate) *Versions {
			v := small()
			u := v.Stages[sallyport.Production].Upstreams["u"]
			if r != none {
				u.Rate = &r
			}
			v.Stages[sallyport.Production].Upstreams["u"] = u
			return v
		}
		got := ""
		for _, c := range Diff(with(tt.from), with(tt.to)) {
			got += fmt.Sprintf("%s to %s: %s", c.From, c.To, c.Direction)
			if c.What != "rate" || c.Why == "" || c.Where != "production, upstream u" {
				t.Errorf("%s: says %+v", tt.name, c)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestDiffCounters: more room loosens, and so does whatever may be counted no more.
func TestDiffCounters(t *testing.T) {
	counter := func(most sallyport.Amount, tools ...string) map[string]sallyport.Counter {
		c := sallyport.Counter{Tools: tools, Count: sallyport.MeasureCalls, Per: time.Hour}
		if most > 0 {
			c.Most = &most
		}
		return map[string]sallyport.Counter{"c": c}
	}
	for _, tt := range []struct {
		name     string
		from, to map[string]sallyport.Counter
		want     string
	}{
		{"none", nil, nil, ""},
		{"the same", counter(5, "u/t"), counter(5, "u/t"), ""},
		{"a first one", nil, counter(5, "u/t"), "counter tightens"},
		{"no longer one", counter(5, "u/t"), nil, "counter loosens"},
		{"less", counter(5, "u/t"), counter(4, "u/t"), "most tightens"},
		{"more", counter(5, "u/t"), counter(6, "u/t"), "most loosens"},
		{"without end", counter(5, "u/t"), counter(0, "u/t"), "most loosens"},
		{"other tools", counter(5, "u/t"), counter(5, "u/t", "u/u"), "what is counted loosens"},
	} {
		with := func(c map[string]sallyport.Counter) *Versions {
			v := small()
			s := v.Stages[sallyport.Production]
			s.Counters = c
			v.Stages[sallyport.Production] = s
			return v
		}
		got := ""
		for _, c := range Diff(with(tt.from), with(tt.to)) {
			got += c.What + " " + c.Direction.String()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestUnknownLoosens(t *testing.T) {
	for _, d := range []Direction{0, Loosens, 9} {
		if !d.Loosening() {
			t.Errorf("%d does not loosen", d)
		}
	}
	if Tightens.Loosening() || Neutral.Loosening() {
		t.Error("something that does not loosen does")
	}
	for _, d := range []Direction{0, Tightens, Neutral, Loosens} {
		var back Direction
		if text, _ := d.MarshalText(); back.UnmarshalText(text) != nil || back != d {
			t.Errorf("%s read back is %s", d, back)
		}
	}
	if new(Direction).UnmarshalText([]byte("loosen")) == nil {
		t.Error("loosen is a direction")
	}
}

// anyPolicies is a bundle of up to six policies in up to three files.
func anyPolicies(t *rapid.T, label string) []sallyport.PolicyFile {
	one := rapid.Custom(func(t *rapid.T) string {
		effect := rapid.SampledFrom([]string{"permit", "forbid"}).Draw(t, "effect")
		id := rapid.SampledFrom([]string{"", `@id("a") `, `@id("b") `}).Draw(t, "id")
		when := rapid.SampledFrom([]string{"", ` when { context.stage == "staging" }`, " when { context.run.calls > 3 }", " unless { context.run.calls > 3 }"}).Draw(t, "when")
		return id + effect + " (principal, action, resource)" + when + ";"
	})
	var files []sallyport.PolicyFile
	for i, n := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 3).Draw(t, label) {
		text := strings.Join(rapid.SliceOfN(one, n, n).Draw(t, "policies"), rapid.SampledFrom([]string{"\n", " ", "\n// and\n"}).Draw(t, "between"))
		files = append(files, sallyport.PolicyFile{Path: fmt.Sprintf("policies/%d.cedar", i), Text: text})
	}
	return files
}

// TestOnlyForbidsTighten: a change of policies that adds a permit or removes
// anything loosens, whatever else it does.
func TestOnlyForbidsTighten(t *testing.T) {
	count := func(files []sallyport.PolicyFile) map[string]int {
		m := map[string]int{}
		for _, f := range files {
			for _, p := range strings.Split(strings.ReplaceAll(f.Text, "// and", ""), ";") {
				if p = strings.Join(strings.Fields(p), " "); p != "" {
					m[p]++
				}
			}
		}
		return m
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyPolicies(t, "a"), anyPolicies(t, "b")
		from, to := small(), small()
		for v, files := range map[*Versions][]sallyport.PolicyFile{from: a, to: b} {
			s := v.Stages[sallyport.Production]
			s.Policies = files
			v.Stages[sallyport.Production] = s
		}
		x, y := count(a), count(b)
		worse := false
		for p := range y {
			worse = worse || y[p] > x[p] && strings.Contains(p, "permit")
		}
		for p := range x {
			worse = worse || x[p] > y[p]
		}
		changes := Diff(from, to)
		loosens := slices.ContainsFunc(changes, func(c Change) bool { return c.Direction.Loosening() })
		if loosens != worse {
			t.Fatalf("worse: %v, but %+v", worse, changes)
		}
		if slices.ContainsFunc(Diff(from, from), func(Change) bool { return true }) {
			t.Fatal("a change from nothing to nothing")
		}
	})
}

func TestDiffOfNothing(t *testing.T) {
	if c := Diff(nil, nil); len(c) > 0 {
		t.Error(c)
	}
	p := load(t, template(t, "support"))
	if c := Diff(p.Versions(), p.Versions()); len(c) > 0 {
		t.Error(c)
	}
	// Everything of a new project is new, and production's endpoints loosen it.
	var loosened []string
	for _, c := range Diff(nil, p.Versions()) {
		if c.Stage == sallyport.Production && c.Direction.Loosening() {
			loosened = append(loosened, c.Where+" "+c.What)
		}
	}
	want := []string{
		"production, upstream crm transport", "production, upstream crm binding",
		"production, upstream mail transport", "production, upstream mail binding",
		"production, upstream payments transport", "production, upstream payments binding",
	}
	if diff := cmp.Diff(want, loosened); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
