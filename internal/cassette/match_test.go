package cassette_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/cassette"
)

func deck(t testing.TB, c *cassette.Cassette, rules cassette.Rules) *cassette.Deck {
	t.Helper()
	d, err := cassette.NewDeck(c, rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func player(t testing.TB, rules cassette.Rules, calls ...cassette.Raw) *cassette.Player {
	t.Helper()
	return cassette.NewPlayer(deck(t, record(t, calls...), rules), cassette.Options{})
}

func answer(n int) string { return fmt.Sprintf(`{"n":%d}`, n) }

func ignoring(paths ...string) (r cassette.Rules) {
	for _, p := range paths {
		r.Arguments.Ignore = append(r.Arguments.Ignore, cassette.Ignore{Path: p, Why: "another one in every call"})
	}
	r.MaxIgnored = 1
	return r
}

func tolerating(t cassette.Tolerate) (r cassette.Rules) {
	r.Arguments.Tolerate = []cassette.Tolerate{t}
	return r
}

// TestTiers asks for args where was is recorded.
func TestTiers(t *testing.T) {
	for _, c := range []struct {
		name     string
		rules    cassette.Rules
		was, ask string
		tier     cassette.Tier // 0 for a miss
	}{
		{"equal", cassette.Rules{}, `{"a":1,"b":"x"}`, `{ "b":"\u0078", "a":1 }`, cassette.Exact},
		{"nothing", cassette.Rules{}, `{}`, ``, cassette.Exact},
		{"another number", cassette.Rules{}, `{"a":1}`, `{"a":1.0}`, 0},
		{"one more", cassette.Rules{}, `{"a":1}`, `{"a":1,"b":null}`, 0},
		{"one less", cassette.Rules{}, `{"a":1,"b":null}`, `{"a":1}`, 0},
		{"rules do not lower what is equal", ignoring("/a"), `{"a":1,"b":2}`, `{"a":1,"b":2}`, cassette.Exact},

		{"ignored", ignoring("/a"), `{"a":1,"b":2}`, `{"a":[3],"b":2}`, cassette.Bounded},
		{"ignored and not there", ignoring("/a"), `{"a":1,"b":2}`, `{"b":2}`, cassette.Bounded},
		{"ignored and new", ignoring("/a"), `{"b":2}`, `{"a":1,"b":2}`, cassette.Bounded},
		{"ignored in each", ignoring("/l/*/t"), `{"l":[{"t":1,"x":1},{"t":2,"x":2}]}`, `{"l":[{"t":8,"x":1},{"t":9,"x":2}]}`, cassette.Bounded},
		{"not ignored in each", ignoring("/l/*/t"), `{"l":[{"t":1,"x":1}]}`, `{"l":[{"t":1,"x":2}]}`, 0},
		{"an element", ignoring("/l/1"), `{"l":[1,2,3]}`, `{"l":[1,9,3]}`, cassette.Bounded},
		{"another element", ignoring("/l/1"), `{"l":[1,2,3]}`, `{"l":[1,2,4]}`, 0},
		{"elements keep their number", ignoring("/l/1"), `{"l":[1,2,3]}`, `{"l":[1,3]}`, 0},
		{"an escaped name", ignoring("/a~1b~0"), `{"a/b~":1,"c":1}`, `{"a/b~":2,"c":1}`, cassette.Bounded},
		{"a name is not cut", ignoring("/a"), `{"a\":":1,"c":1}`, `{"a\":":2,"c":1}`, 0},

		{"number", tolerating(cassette.Tolerate{Path: "/a", Number: "0.3"}), `{"a":1.0}`, `{"a":1.3}`, cassette.Tolerated},
		{"number, beyond", tolerating(cassette.Tolerate{Path: "/a", Number: "0.3"}), `{"a":1.0}`, `{"a":1.30000000000000000001}`, 0},
		{"number, spelling", tolerating(cassette.Tolerate{Path: "/a", Number: "0"}), `{"a":100}`, `{"a":1.00e2}`, cassette.Tolerated},
		{"number, long", tolerating(cassette.Tolerate{Path: "/a", Number: "0"}), `{"a":12345678901234567890}`, `{"a":12345678901234567891}`, 0},
		{"number, too large", tolerating(cassette.Tolerate{Path: "/a", Number: "1"}), `{"a":1e999999999}`, `{"a":1e999999998}`, 0},
		{"number, absent", tolerating(cassette.Tolerate{Path: "/a", Number: "1"}), `{"a":1}`, `{}`, 0},
		{"number, a string", tolerating(cassette.Tolerate{Path: "/a", Number: "1"}), `{"a":1}`, `{"a":"1"}`, 0},
		{"percent", tolerating(cassette.Tolerate{Path: "/a", Percent: "5"}), `{"a":-200}`, `{"a":-190}`, cassette.Tolerated},
		{"percent, beyond", tolerating(cassette.Tolerate{Path: "/a", Percent: "5"}), `{"a":-200}`, `{"a":-189.9}`, 0},
		{"time", tolerating(cassette.Tolerate{Path: "/a", Within: "90s"}), `{"a":"2026-11-01T10:00:00Z"}`, `{"a":"2026-11-01T12:01:30+02:00"}`, cassette.Tolerated},
		{"time, beyond", tolerating(cassette.Tolerate{Path: "/a", Within: "90s"}), `{"a":"2026-11-01T10:00:00Z"}`, `{"a":"2026-11-01T10:01:31Z"}`, 0},
		{"date", tolerating(cassette.Tolerate{Path: "/a", Within: "24h"}), `{"a":"2026-10-31"}`, `{"a":"2026-11-01"}`, cassette.Tolerated},
		{"no time", tolerating(cassette.Tolerate{Path: "/a", Within: "24h"}), `{"a":"x"}`, `{"a":"y"}`, 0},
		{"casefold", tolerating(cassette.Tolerate{Path: "/a", Casefold: true}), `{"a":"Straße É"}`, `{"a":"sTRAßE é"}`, cassette.Tolerated},
		{"casefold, another", tolerating(cassette.Tolerate{Path: "/a", Casefold: true}), `{"a":"ab"}`, `{"a":"AC"}`, 0},
		{"regex", tolerating(cassette.Tolerate{Path: "/a", Regex: `ord_\d+`}), `{"a":"ord_1"}`, `{"a":"ord_22"}`, cassette.Tolerated},
		{"regex, whole", tolerating(cassette.Tolerate{Path: "/a", Regex: `ord_\d+`}), `{"a":"ord_1"}`, `{"a":"ord_22x"}`, 0},
		{"regex, alternatives are whole", tolerating(cassette.Tolerate{Path: "/a", Regex: `a|b`}), `{"a":"a"}`, `{"a":"cb"}`, 0},
		{"regex, recorded otherwise", tolerating(cassette.Tolerate{Path: "/a", Regex: `ord_\d+`}), `{"a":"none"}`, `{"a":"ord_1"}`, 0},
		{"set", tolerating(cassette.Tolerate{Path: "/a", Set: true}), `{"a":[1,{"x":1},1]}`, `{"a":[{"x":1},1,1]}`, cassette.Tolerated},
		{"set, as often", tolerating(cassette.Tolerate{Path: "/a", Set: true}), `{"a":[1,2,1]}`, `{"a":[1,2,2]}`, 0},
		{"subset of members", tolerating(cassette.Tolerate{Path: "/a", Subset: true}), `{"a":{"x":1}}`, `{"a":{"x":1,"y":2}}`, cassette.Tolerated},
		{"subset, one less", tolerating(cassette.Tolerate{Path: "/a", Subset: true}), `{"a":{"x":1,"y":2}}`, `{"a":{"x":1}}`, 0},
		{"subset of elements", tolerating(cassette.Tolerate{Path: "/a", Subset: true}), `{"a":[3,1]}`, `{"a":[1,2,3]}`, cassette.Tolerated},
		{"subset at the root", tolerating(cassette.Tolerate{Subset: true}), `{"a":1}`, `{"a":1,"b":2}`, cassette.Tolerated},
		{"the rest is exact", tolerating(cassette.Tolerate{Path: "/a", Casefold: true}), `{"a":"x","b":1}`, `{"a":"X","b":2}`, 0},
		{"rules for another tool", tolerating(cassette.Tolerate{Tool: "other", Path: "/a", Casefold: true}), `{"a":"x"}`, `{"a":"X"}`, 0},
		{"both", cassette.Rules{MaxIgnored: 1, Arguments: cassette.Differences{
			Ignore:   []cassette.Ignore{{Path: "/l/*/t", Why: "its own"}},
			Tolerate: []cassette.Tolerate{{Tool: "get", Path: "/l", Set: true}},
		}}, `{"l":[{"x":1,"t":1},{"x":2,"t":1}]}`, `{"l":[{"x":2,"t":7},{"x":1,"t":8}]}`, cassette.Tolerated},
		{"tolerance inside of a subset", cassette.Rules{Arguments: cassette.Differences{Tolerate: []cassette.Tolerate{
			{Path: "/a", Subset: true}, {Path: "/a/x", Number: "1"},
		}}}, `{"a":{"x":1}}`, `{"a":{"x":2,"y":1}}`, cassette.Tolerated},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := player(t, c.rules, read("get", `{"other":"call"}`, answer(0)), read("get", c.was, answer(1)))
			a, err := p.Next("get", []byte(c.ask))
			if c.tier == 0 {
				var miss *cassette.Miss
				if !errors.As(err, &miss) {
					t.Fatalf("answered %s at %v, %v", a.Result, a.Tier, err)
				}
				return
			}
			if err != nil || a.Tier != c.tier || a.Seq != 2 || string(a.Result) != answer(1) {
				t.Errorf("got %s of call %d at %v, %v; want %v", a.Result, a.Seq, a.Tier, err, c.tier)
			}
		})
	}
}

func TestBadRules(t *testing.T) {
	c := record(t, read("get", `{"a":1,"b":2,"c":3,"d":4}`, `{}`))
	for _, r := range []struct {
		rules cassette.Rules
		want  string
	}{
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "/a", Why: " "}}}}, "without a reason"},
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "", Why: "x"}}}}, "everything"},
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "a", Why: "x"}}}}, "begin with /"},
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "/a~", Why: "x"}}}}, "~0"},
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "/a", Why: "x"}, {Path: "/a", Why: "y"}}}}, "two rules"},
		{cassette.Rules{Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "/a", Why: "x"}}}}, "1 of 4 recorded leaves (25 %)"},
		{cassette.Rules{MaxIgnored: 1.5}, "max_ignored"},
		{tolerating(cassette.Tolerate{Path: "/a"}), "say one of"},
		{tolerating(cassette.Tolerate{Path: "/a", Set: true, Casefold: true}), "say one of"},
		{tolerating(cassette.Tolerate{Path: "/a", Number: "-1"}), "no amount"},
		{tolerating(cassette.Tolerate{Path: "/a", Number: "1/3"}), "no amount"},
		{tolerating(cassette.Tolerate{Path: "/a", Percent: "many"}), "no amount"},
		{tolerating(cassette.Tolerate{Path: "/a", Within: "soon"}), "no duration"},
		{tolerating(cassette.Tolerate{Path: "/a", Regex: "("}), "regex"},
		{cassette.Rules{Arguments: cassette.Differences{Tolerate: []cassette.Tolerate{{Path: "/l", Set: true}, {Tool: "get", Path: "/*/*/x", Number: "1"}}}}, "no order"},
		{cassette.Rules{Results: cassette.Differences{Tolerate: []cassette.Tolerate{{Path: "/x"}}}}, "rules for results"},
	} {
		if _, err := cassette.NewDeck(c, r.rules, nil); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%+v: %v, want %q", r.rules, err, r.want)
		}
	}
	d := deck(t, c, cassette.Rules{MaxIgnored: 0.25, Arguments: cassette.Differences{Ignore: []cassette.Ignore{{Path: "/a", Why: "x"}}}})
	if got := d.Ignored(); got != (cassette.Share{Part: 1, Of: 4}) {
		t.Errorf("ignored %+v", got)
	}
}

// TestRepeats: equal calls are answered in order; then a read stays as it was last,
// and a change is not made again.
func TestRepeats(t *testing.T) {
	p := player(t, ignoring("/key"),
		read("get", `{"a":1}`, answer(1)), change("set", `{"a":1,"key":"k1"}`, answer(2)),
		read("get", `{"a":1}`, answer(3)), change("set", `{"a":1,"key":"k2"}`, answer(4)),
		cassette.Raw{Tool: "odd", Result: []byte(answer(5))}, // nobody said what it does
	)
	for i, step := range []struct {
		tool, args string
		want       int // 0 for a miss
		repeat     bool
	}{
		{"get", `{"a":1}`, 1, false},
		{"get", `{"a":1}`, 3, false},
		{"get", `{"a":1}`, 3, true},
		{"get", `{"a":1}`, 3, true},
		{"set", `{"a":1,"key":"k2"}`, 4, false},
		{"set", `{"a":1,"key":"k2"}`, 0, false}, // the very same change, though k1 is left
		{"set", `{"a":1,"key":"mine"}`, 2, false},
		{"set", `{"a":1,"key":"mine"}`, 0, false},
		{"set", `{"a":1,"key":"other"}`, 0, false},
		{"odd", ``, 5, false},
		{"odd", ``, 0, false},
	} {
		a, err := p.Next(step.tool, []byte(step.args))
		var miss *cassette.Miss
		switch {
		case step.want == 0:
			if !errors.As(err, &miss) || miss.Reason != cassette.Spent {
				t.Errorf("step %d: answered %s, %v", i, a.Result, err)
			}
		case err != nil || string(a.Result) != answer(step.want) || a.Repeat != step.repeat:
			t.Errorf("step %d: %s, repeat %t, %v; want %s", i, a.Result, a.Repeat, err, answer(step.want))
		}
	}
}

// TestBound: a twin opens the order under an id of its own; what was recorded for the
// recorded id answers for this one, and speaks of this one.
func TestBound(t *testing.T) {
	c := record(t,
		change("open", `{"item":"cup"}`, `{"structuredContent":{"id":"ord_12","number":7001},"content":[{"type":"text","text":"{\"id\": \"ord_12\"}"}]}`),
		read("get", `{"id":"ord_12"}`, `{"structuredContent":{"id":"ord_12","items":["cup"]},"content":[{"type":"text","text":"{\"id\": \"ord_12\", \"n\": 1.0}"}]}`),
		change("pay", `{"order":{"number":7001}}`, `{"structuredContent":{"paid":7001,"for":"ord_12"}}`),
		read("get", `{"id":"ord_77"}`, `{"x":"never returned"}`),
	)
	d := deck(t, c, cassette.Rules{})
	p := cassette.NewPlayer(d, cassette.Options{})
	seq, err := p.Observe("open", []byte(`{"item":"cup"}`), []byte(`{"structuredContent":{"number":42,"id":"ord_9\"9"},"content":[]}`))
	if err != nil || seq != 1 {
		t.Fatalf("observed call %d, %v", seq, err)
	}
	a, err := p.Next("get", []byte(`{"id":"ord_9\"9"}`))
	want := `{"structuredContent":{"id":"ord_9\"9","items":["cup"]},"content":[{"type":"text","text":"{\"id\": \"ord_9\\\"9\", \"n\": 1.0}"}]}`
	if err != nil || a.Tier != cassette.Bounded || string(a.Result) != want {
		t.Errorf("at %v, %v:\n%s\n%s", a.Tier, err, a.Result, want)
	}
	a, err = p.Next("pay", []byte(`{"order":{"number":42}}`))
	if want := `{"structuredContent":{"paid":42,"for":"ord_9\"9"}}`; err != nil || a.Tier != cassette.Bounded || string(a.Result) != want {
		t.Errorf("at %v, %v:\n%s", a.Tier, err, a.Result)
	}
	var miss *cassette.Miss
	if a, err := p.Next("get", []byte(`{"id":"ord_12"}`)); !errors.As(err, &miss) || miss.Reason != cassette.Stale || miss.Pointer != "/id" {
		t.Errorf("the recorded id is nobody's in this run: %s, %v", a.Result, err)
	}
	if a, err := p.Next("get", []byte(`{"id":"ord_77"}`)); err != nil || a.Tier != cassette.Exact {
		t.Errorf("an id that no call returned: %v, %v", a.Tier, err)
	}
	if _, err := p.Observe("open", []byte(`{"item":"cup"}`), []byte(`{}`)); !errors.As(err, &miss) || miss.Reason != cassette.Spent {
		t.Errorf("the recorded change was made twice: %v", err)
	}
	if a, err := p.Next("get", []byte(`{"id":"ord_9\"9"}`)); err != nil || !a.Repeat {
		t.Errorf("asked again: %v, %v", a.Repeat, err)
	}
}

// TestGiven: an id that the caller knew before any result held it is bound to nothing.
func TestGiven(t *testing.T) {
	c := record(t,
		read("get", `{"id":"ord_12"}`, `{"id":"ord_12","limit":25,"since":"2026-11-01"}`),
		read("get", `{"id":"ord_12","limit":25,"since":"2026-11-01"}`, `{}`),
	)
	if b := c.Calls[1].Bound; len(b) != 0 {
		t.Errorf("bound: %+v", b)
	}
}

func TestMiss(t *testing.T) {
	schema := `{"type":"object","properties":{"who":{"x-data-class":"name"},"amount":{"type":"number"}}}`
	classes, err := cassette.ClassesOf([]byte(schema), nil, cassette.Declared{})
	if err != nil {
		t.Fatal(err)
	}
	c := record(t,
		change("refund", `{"amount":100,"order":"ord_500","note":"broken cup","who":"Ann"}`, `{}`),
		change("refund", `{"amount":7,"order":"ord_12","note":"broken cup","who":"Ann"}`, `{}`),
		change("refund", `{"amount":7,"order":"ord_12","note":"broken cup","who":"Ann"}`, `{}`),
		read("list", `{"tags":["a","b"],"at":"2026-11-01T10:00:00Z"}`, `{}`),
	)
	d, err := cassette.NewDeck(c, cassette.Rules{}, map[string]*cassette.Classes{"refund": classes})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		tool, args string
		want       cassette.Miss
	}{
		{"refund", `{"amount":7.25,"order":"ord_12","note":"broken cup","who":"Ann"}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 2, Pointer: "/amount", Expected: "7", Got: "7.25",
			Rule: "match:\n  arguments:\n    tolerate:\n      - tool: \"refund\"\n        path: \"/amount\"\n        number: \"0.25\"\n",
		}},
		{"refund", `{"amount":7,"order":"ord_12","note":"broken cup","who":"Annabella"}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 2, Pointer: "/who", Expected: "string of 3 bytes", Got: "string of 9 bytes",
			Rule: "match:\n  arguments:\n    ignore:\n      - tool: \"refund\"\n        path: \"/who\"\n        why: \"differs from the recording, call 2\"\n",
		}},
		{"refund", `{"amount":100,"order":"ord_500","note":"BROKEN cup","who":"Ann"}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 1, Pointer: "/note", Expected: `"broken cup"`, Got: `"BROKEN cup"`,
			Rule: "match:\n  arguments:\n    tolerate:\n      - tool: \"refund\"\n        path: \"/note\"\n        casefold: true\n",
		}},
		{"refund", `{"amount":100,"order":"ord_500","note":"broken cup","who":"Ann","x":1}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 1, Pointer: "/x", Expected: `nothing`, Got: `1`,
			Rule: "match:\n  arguments:\n    tolerate:\n      - tool: \"refund\"\n        path: \"\"\n        subset: true\n",
		}},
		{"list", `{"tags":["b","a"],"at":"2026-11-01T10:00:00Z"}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 4, Pointer: "/tags/0", Expected: `"a"`, Got: `"b"`,
			Rule: "match:\n  arguments:\n    tolerate:\n      - tool: \"list\"\n        path: \"/tags\"\n        set: true\n",
		}},
		{"list", `{"tags":["a","b"],"at":"2026-11-01T11:00:01+01:00"}`, cassette.Miss{
			Reason: cassette.NoMatch, Seq: 4, Pointer: "/at", Expected: `"2026-11-01T10:00:00Z"`, Got: `"2026-11-01T11:00:01+01:00"`,
			Rule: "match:\n  arguments:\n    tolerate:\n      - tool: \"list\"\n        path: \"/at\"\n        within: 1s\n",
		}},
		{"refunds", `{}`, cassette.Miss{Reason: cassette.NoTool, Other: []string{"refund"}}},
	} {
		_, err := cassette.NewPlayer(d, cassette.Options{}).Next(m.tool, []byte(m.args))
		m.want.Tool = m.tool
		var got *cassette.Miss
		if !errors.As(err, &got) || fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", m.want) {
			t.Errorf("%s %s:\n got %+v\nwant %+v", m.tool, m.args, err, m.want)
			continue
		}
		r := got.Refusal()
		if r.Code != sallyport.WorldGap || strings.Contains(r.Reason, "\n") || got.Rule != "" && !strings.Contains(r.Hint, got.Rule) || strings.Contains(r.Error(), "Annabella") {
			t.Errorf("refusal: %+v", r)
		}
		if got.Rule == "" {
			continue
		}
		// What is said to be ready to paste is.
		var file struct{ Match cassette.Rules }
		if err := yaml.Unmarshal([]byte(got.Rule), &file); err != nil {
			t.Fatal(err)
		}
		file.Match.MaxIgnored = 1
		with := deck(t, c, file.Match)
		if a, err := cassette.NewPlayer(with, cassette.Options{}).Next(m.tool, []byte(m.args)); err != nil || a.Seq != got.Seq {
			t.Errorf("with the rule\n%s: call %d, %v", got.Rule, a.Seq, err)
		}
	}
}

func TestExplore(t *testing.T) {
	data, w := recorded(t, keepAll{},
		read("get", `{"id":"a-100","deep":false}`, answer(1)), read("get", `{"id":"b-200","deep":false}`, answer(2)),
		change("set", `{"v":1}`, answer(3)), change("set", `{"v":1000}`, answer(4)),
	)
	sealed, _, err := cassette.Seal(data, w.Originals(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, sealed)
	p := cassette.NewPlayer(deck(t, c, cassette.Rules{}), cassette.Options{Explore: true})
	for _, step := range []struct{ tool, args, want string }{
		{"get", `{"id":"b-201","deep":false}`, answer(2)},
		{"get", `{"id":"a-1","deep":false}`, answer(1)},
		{"set", `{"v":2}`, answer(3)},
		{"set", `{"v":3}`, answer(4)},
	} {
		a, err := p.Next(step.tool, []byte(step.args))
		if err != nil || a.Tier != cassette.Nearest || a.Evidence || string(a.Result) != step.want {
			t.Errorf("%s %s: %s at %v, %v", step.tool, step.args, a.Result, a.Tier, err)
		}
	}
	var miss *cassette.Miss
	if a, err := p.Next("set", []byte(`{"v":4}`)); !errors.As(err, &miss) {
		t.Errorf("a change was answered a third time: %s", a.Result)
	}
	if _, err := p.Observe("get", []byte(`{"id":"a-1","deep":false}`), []byte(`{}`)); !errors.As(err, &miss) {
		t.Errorf("a nearest recording was taken for a fitting one: %v", err)
	}
}

// TestAligned: what an id is bound to last counts, and the id before is nobody's.
func TestAligned(t *testing.T) {
	p := player(t, cassette.Rules{},
		read("next", `{}`, `{"id":"job_1"}`), read("get", `{"id":"job_1"}`, `{"of":"job_1"}`))
	var miss *cassette.Miss
	for _, live := range []string{"job_7", "job_8"} {
		if _, err := p.Observe("next", nil, []byte(`{"id":"`+live+`"}`)); err != nil {
			t.Fatal(err)
		}
		if a, err := p.Next("get", []byte(`{"id":"`+live+`"}`)); err != nil || string(a.Result) != `{"of":"`+live+`"}` {
			t.Errorf("%s: %s, %v", live, a.Result, err)
		}
	}
	if a, err := p.Next("get", []byte(`{"id":"job_7"}`)); !errors.As(err, &miss) {
		t.Errorf("answered %s", a.Result)
	}
}

func TestBadArguments(t *testing.T) {
	p := player(t, cassette.Rules{}, read("get", `{}`, `{}`))
	for _, args := range []string{`[]`, `{"a":1,"a":1}`, `{`, `"x"`, strings.Repeat(`{"a":`, 70) + `1` + strings.Repeat(`}`, 70)} {
		var r *sallyport.Refusal
		if _, err := p.Next("get", []byte(args)); !errors.As(err, &r) || r.Code != sallyport.InvalidArguments {
			t.Errorf("%.20s: %v", args, err)
		}
	}
}

// document draws JSON of a few names and values, so that some are equal.
func document(depth int) *rapid.Generator[any] {
	scalar := rapid.OneOf(
		rapid.SampledFrom([]any{nil, true, false, "", "a", "A", "ord_1", "ord_2", "x y", "ü\"\\", "2026-11-01T10:00:00Z"}),
		rapid.Map(rapid.IntRange(-3, 3), func(i int) any { return i }),
	)
	if depth == 0 {
		return scalar
	}
	inner := document(depth - 1)
	return rapid.OneOf(scalar,
		rapid.Map(rapid.SliceOfN(inner, 0, 3), func(l []any) any { return l }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "id", "x/y", "~"}), inner, 0, 3), func(m map[string]any) any { return m }),
	)
}

func arguments() *rapid.Generator[string] {
	return rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "id", "list"}), document(2), 0, 4), encode[map[string]any])
}

func calls(t *rapid.T) []cassette.Raw {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) cassette.Raw {
		args := arguments().Draw(t, "args")
		result := encode(map[string]any{"structuredContent": document(1).Draw(t, "result")})
		raw := read(rapid.SampledFrom([]string{"get", "set"}).Draw(t, "tool"), args, result)
		if raw.Tool == "set" {
			raw.Access = sallyport.Changing
		}
		return raw
	}), 1, 8).Draw(t, "calls")
}

var someRules = []cassette.Rules{
	{},
	ignoring("/id"),
	ignoring("/*/a", "/list/0"),
	tolerating(cassette.Tolerate{Path: "/list", Set: true}),
	tolerating(cassette.Tolerate{Path: "/a", Number: "0.5"}),
	tolerating(cassette.Tolerate{Path: "/*/a", Casefold: true}),
	tolerating(cassette.Tolerate{Tool: "get", Path: "", Subset: true}),
	{MaxIgnored: 1, Arguments: cassette.Differences{
		Ignore:   []cassette.Ignore{{Path: "/*/id", Why: "its own"}},
		Tolerate: []cassette.Tolerate{{Path: "/id", Regex: `ord_\d`}, {Path: "/list", Set: true}, {Path: "/b", Within: "1h"}},
	}},
}

// TestEveryRecordingAnswersItself: whatever the rules, what was recorded is answered in
// the order of the recording and at T0.
func TestEveryRecordingAnswersItself(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		raws := calls(rt)
		c := record(t, raws...)
		rules := rapid.SampledFrom(someRules).Draw(rt, "rules")
		rules.MaxIgnored = 1
		p := cassette.NewPlayer(deck(t, c, rules), cassette.Options{})
		for i, call := range c.Calls {
			a, err := p.Next(call.Tool, raws[i].Arguments)
			if err != nil || a.Tier != cassette.Exact || a.Seq != call.Seq || a.Repeat {
				rt.Fatalf("call %d: answered by %d at %v, %v", call.Seq, a.Seq, a.Tier, err)
			}
		}
	})
}

// TestFIFO: however calls are mixed, those with the same arguments are answered in
// order, and each change once.
func TestFIFO(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := record(t, calls(rt)...)
		p := cassette.NewPlayer(deck(t, c, cassette.Rules{}), cassette.Options{})
		left := map[string][]int{} // the plainest model
		last := map[string]int{}
		for _, call := range c.Calls {
			k := call.Tool + string(call.Arguments)
			left[k] = append(left[k], call.Seq)
		}
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			call := c.Calls[rapid.IntRange(0, len(c.Calls)-1).Draw(rt, "call")]
			k := call.Tool + string(call.Arguments)
			a, err := p.Next(call.Tool, call.Arguments)
			switch {
			case len(left[k]) > 0:
				if err != nil || a.Seq != left[k][0] {
					rt.Fatalf("call %d, %v, want %d", a.Seq, err, left[k][0])
				}
				last[k], left[k] = a.Seq, left[k][1:]
			case call.Access == sallyport.Read:
				if err != nil || a.Seq != last[k] || !a.Repeat {
					rt.Fatalf("call %d, %v, want %d again", a.Seq, err, last[k])
				}
			default:
				var miss *cassette.Miss
				if !errors.As(err, &miss) || miss.Reason != cassette.Spent {
					rt.Fatalf("call %d has answered twice", a.Seq)
				}
			}
		}
	})
}

// TestRebuilt: a player to whom all calls of a run's history are made again is the one
// that was there, and goes on like it.
func TestRebuilt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := record(t, calls(rt)...)
		rules := rapid.SampledFrom(someRules).Draw(rt, "rules")
		rules.MaxIgnored = 1
		d := deck(t, c, rules)
		o := cassette.Options{Explore: rapid.Bool().Draw(rt, "explore")}
		p := cassette.NewPlayer(d, o)
		type call struct {
			Tool         string
			Args, Result []byte // with a result something else has answered
		}
		var past []call
		step := func(label string) call {
			h := call{Tool: rapid.SampledFrom([]string{"get", "set"}).Draw(rt, label)}
			h.Args = []byte(arguments().Draw(rt, label))
			if rapid.Bool().Draw(rt, label) {
				h.Args = c.Calls[rapid.IntRange(0, len(c.Calls)-1).Draw(rt, label)].Arguments
			}
			if rapid.Bool().Draw(rt, label) {
				h.Result = []byte(encode(map[string]any{"structuredContent": document(1).Draw(rt, label)}))
			}
			return h
		}
		do := func(p *cassette.Player, h call) string {
			if h.Result != nil {
				seq, err := p.Observe(h.Tool, h.Args, h.Result)
				return fmt.Sprint(seq, err)
			}
			a, err := p.Next(h.Tool, h.Args)
			return fmt.Sprintf("%+v %v", a, err)
		}
		for range rapid.IntRange(0, 12).Draw(rt, "steps") {
			h := step("past")
			do(p, h)
			past = append(past, h)
		}
		rebuilt := cassette.NewPlayer(d, o)
		for _, h := range past {
			do(rebuilt, h)
		}
		for range 4 {
			h := step("future")
			want := do(p, h)
			if got := do(rebuilt, h); got != want || !bytes.Equal(rebuilt.Snapshot(), p.Snapshot()) {
				rt.Fatalf("rebuilt:\n%s\n%s\nwant\n%s\n%s", got, rebuilt.Snapshot(), want, p.Snapshot())
			}
		}
	})
}

func TestLatencyIsRecorded(t *testing.T) {
	raw := read("get", `{}`, `{}`)
	raw.Latency = 1234 * time.Millisecond
	if a, err := player(t, cassette.Rules{}, raw).Next("get", nil); err != nil || a.Latency != raw.Latency {
		t.Errorf("latency %v, %v", a.Latency, err)
	}
}
