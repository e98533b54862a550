package cassette_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/cassette"
)

func TestCompare(t *testing.T) {
	set := func(path string) cassette.Differences {
		return cassette.Differences{Tolerate: []cassette.Tolerate{{Path: path, Set: true}}}
	}
	for _, c := range []struct {
		name    string
		rules   cassette.Differences
		was, is string
		want    cassette.Fidelity
	}{
		{"equal", cassette.Differences{}, `{"a":[1,{"b":"x"}],"c":{}}`, `{ "c":{}, "a":[1,{"b":"\u0078"}] }`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 3, Leaves: 3}},
		{"value", cassette.Differences{}, `{"a":[1,2],"b":1}`, `{"a":[1,3],"b":1}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 3, First: "/a/1", Kind: cassette.OtherValue}},
		{"true and false are one type", cassette.Differences{}, `{"a":true}`, `{"a":false}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Leaves: 1, First: "/a", Kind: cassette.OtherValue}},
		{"type", cassette.Differences{}, `{"a":1,"b":2}`, `{"a":"1","b":2}`, cassette.Fidelity{Status: true, Order: true, Agree: 1, Leaves: 2, First: "/a", Kind: cassette.OtherType}},
		{"missing", cassette.Differences{}, `{"a":{"x":1,"y":2},"b":2}`, `{"b":2}`, cassette.Fidelity{Status: true, Order: true, Agree: 1, Leaves: 3, First: "/a", Kind: cassette.Missing}},
		{"extra", cassette.Differences{}, `{"b":2}`, `{"a":{"x":1,"y":2},"b":2}`, cassette.Fidelity{Status: true, Order: true, Agree: 1, Leaves: 1, Extra: 2, First: "/a", Kind: cassette.Extra}},
		{"shorter list", cassette.Differences{}, `{"l":[1,2,3]}`, `{"l":[1,2]}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 3, First: "/l/2", Kind: cassette.Missing}},
		{"longer list", cassette.Differences{}, `{"l":[1]}`, `{"l":[1,2]}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 1, Extra: 1, First: "/l/1", Kind: cassette.Extra}},
		{"no longer empty", cassette.Differences{}, `{"l":[],"m":{}}`, `{"l":[2],"m":{}}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 2, Extra: 1, First: "/l/0", Kind: cassette.Extra}},
		{"order", cassette.Differences{}, `{"l":[{"id":1},{"id":2}],"z":1}`, `{"l":[{"id":2},{"id":1}],"z":1}`, cassette.Fidelity{Status: true, Shape: true, Agree: 3, Leaves: 3, First: "/l", Kind: cassette.OtherOrder}},
		{"order after value", cassette.Differences{}, `{"l":[1,2],"z":1}`, `{"l":[2,1],"z":2}`, cassette.Fidelity{Status: true, Shape: true, Agree: 2, Leaves: 3, First: "/z", Kind: cassette.OtherValue}},
		{"a set", set("/l"), `{"l":[{"id":1},{"id":2}]}`, `{"l":[{"id":2},{"id":1}]}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 2}},
		{"a set, one element differs", set("/l"), `{"l":[{"id":1,"n":"a"},{"id":2,"n":"b"},{"id":3,"n":"c"}]}`, `{"l":[{"id":3,"n":"c"},{"id":2,"n":"B"},{"id":1,"n":"a"}]}`,
			cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 5, Leaves: 6, First: "/l/1/n", Kind: cassette.OtherValue}},
		{"a set with one less", set("/l"), `{"l":[1,2,3]}`, `{"l":[3,1]}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 3, First: "/l/1", Kind: cassette.Missing}},
		{"a subset", cassette.Differences{Tolerate: []cassette.Tolerate{{Path: "/o", Subset: true}}}, `{"o":{"a":1,"b":2}}`, `{"o":{"a":1,"b":3,"c":4}}`,
			cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 2, First: "/o/b", Kind: cassette.OtherValue}},
		{"ignored", cassette.Differences{Ignore: []cassette.Ignore{{Path: "/*/at", Why: "the time"}}}, `{"a":{"at":1,"n":1},"b":{"n":1}}`, `{"a":{"n":1},"b":{"n":1,"at":7}}`,
			cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 2, Ignored: 1}},
		{"tolerated", cassette.Differences{Tolerate: []cassette.Tolerate{{Tool: "get", Path: "/n", Percent: "1"}}}, `{"n":200}`, `{"n":201.9}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 1}},
		{"status", cassette.Differences{}, `{"content":[1,2]}`, `{"content":[1,2],"isError":true}`, cassette.Fidelity{Order: true, Leaves: 2, Kind: cassette.OtherStatus}},
		{"eras and _meta", cassette.Differences{}, `{"a":1,"_meta":{"x":1}}`, `{"a":1,"resultType":"complete","_meta":{"y":7}}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 1, Ignored: 1}},
		{"JSON in text", cassette.Differences{}, `{"content":[{"text":"{\"a\": 1, \"b\": [ ] }"}]}`, `{"content":[{"text":"{\"b\":[],\"a\":1}"}]}`, cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 2, Leaves: 2}},
		{"JSON in text differs", cassette.Differences{}, `{"content":[{"text":"{\"a\": 1, \"b\": [1]}"}]}`, `{"content":[{"text":"{\"b\":[2],\"a\":1}"}]}`,
			cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 2, First: "/content/0/text/~json/b/0", Kind: cassette.OtherValue}},
		{"a rule for JSON in text", cassette.Differences{Ignore: []cassette.Ignore{{Path: "/content/*/text/~json/at", Why: "the time"}}}, `{"content":[{"text":"{\"at\":1,\"n\":2}"}]}`, `{"content":[{"text":"{\"at\":8,\"n\":2}"}]}`,
			cassette.Fidelity{Status: true, Shape: true, Order: true, Agree: 1, Leaves: 1, Ignored: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := cassette.Compare("get", cassette.Reply{Result: []byte(c.was)}, cassette.Reply{Result: []byte(c.is)}, c.rules)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	failure := cassette.Reply{Error: []byte(`{"code":-32602,"message":"no"}`)}
	for _, c := range []struct {
		is   cassette.Reply
		want cassette.Difference
	}{
		{failure, 0},
		{cassette.Reply{Error: []byte(`{"code":-32602,"message":"No"}`)}, cassette.OtherValue},
		{cassette.Reply{Result: []byte(`{"isError":true}`)}, cassette.OtherStatus},
	} {
		if got, err := cassette.Compare("get", failure, c.is, cassette.Differences{}); err != nil || got.Kind != c.want {
			t.Errorf("%s%s: %v, %v", c.is.Error, c.is.Result, got.Kind, err)
		}
	}
	for _, bad := range []string{``, `[]`, `{"a":1,"a":1}`} {
		if _, err := cassette.Compare("get", cassette.Reply{Result: []byte(`{}`)}, cassette.Reply{Result: []byte(bad)}, cassette.Differences{}); err == nil {
			t.Errorf("%q was compared", bad)
		}
	}
}

func TestLiveness(t *testing.T) {
	c := record(t,
		change("open", `{"item":"cup","n":2,"key":"k-1","at":"2026-11-01T10:00:00Z","tags":[],"by":{"name":"x","extra":null},"gift":false}`,
			`{"structuredContent":{"id":"ord_12","list":[{"a":1},{"a":2}],"at":7},"content":[{"type":"text","text":"{\"at\":7,\"id\":\"ord_12\"}"}],"_meta":{"x":1}}`),
		read("get", `{"id":"ord_12"}`, `{"isError":true}`),
		cassette.Raw{Tool: "get", Arguments: []byte(`{"id":"ord_13"}`), Error: []byte(`{"code":1}`)},
	)
	full, err := cassette.Liveness(c, cassette.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	meta := cassette.Dead{Seq: 1, Tool: "open", Part: cassette.InResult, Pointer: "/_meta/x"}
	if diff := cmp.Diff(cassette.Assertions{Live: 8 + 7 + 4, Total: 8 + 8 + 4, Dead: []cassette.Dead{meta}}, full); diff != "" {
		t.Error(diff)
	}
	rules := cassette.Rules{
		Arguments: cassette.Differences{
			Ignore: []cassette.Ignore{{Path: "/key", Why: "another one in every call"}},
			Tolerate: []cassette.Tolerate{
				{Path: "/n", Number: "0.5"}, {Path: "/item", Regex: ".*"}, {Path: "/at", Within: "100000h"}, {Path: "/tags", Subset: true},
				{Path: "/by", Subset: true}, {Tool: "get", Path: "/id", Regex: `ord_.*`},
			},
		},
		Results: cassette.Differences{
			Ignore:   []cassette.Ignore{{Path: "/structuredContent/at", Why: "the time"}, {Path: "/content/*/text/~json/at", Why: "the time"}},
			Tolerate: []cassette.Tolerate{{Path: "/structuredContent/list", Set: true}},
		},
	}
	some, err := cassette.Liveness(c, rules)
	if err != nil {
		t.Fatal(err)
	}
	args := func(pointer, rule string) cassette.Dead {
		return cassette.Dead{Seq: 1, Tool: "open", Part: cassette.InArguments, Pointer: pointer, Rule: rule}
	}
	want := cassette.Assertions{Total: full.Total, Dead: []cassette.Dead{
		args("/at", "/at"), args("/item", "/item"), args("/key", "/key"), args("/tags", "/tags"), meta,
		{Seq: 1, Tool: "open", Part: cassette.InResult, Pointer: "/content/0/text/~json/at", Rule: "/content/*/text/~json/at"},
		{Seq: 1, Tool: "open", Part: cassette.InResult, Pointer: "/structuredContent/at", Rule: "/structuredContent/at"},
	}}
	want.Live = want.Total - len(want.Dead)
	slices.SortStableFunc(some.Dead, func(a, b cassette.Dead) int { return int(a.Part) - int(b.Part) })
	slices.SortStableFunc(want.Dead, func(a, b cassette.Dead) int {
		return (int(a.Part)-int(b.Part))*1000 + strings.Compare(a.Pointer, b.Pointer)
	})
	slices.SortStableFunc(some.Dead, func(a, b cassette.Dead) int {
		return (int(a.Part)-int(b.Part))*1000 + strings.Compare(a.Pointer, b.Pointer)
	})
	if diff := cmp.Diff(want, some); diff != "" {
		t.Error(diff)
	}
}

// leaf is one leaf of a decoded document, and how to put another in its place.
type leaf struct {
	pointer string
	value   any
	put     func(any)
}

func leaves(v any, pointer string, put func(any), out []leaf) []leaf {
	switch v := v.(type) {
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			step := strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
			out = leaves(v[name], pointer+"/"+step, func(to any) { v[name] = to }, out)
		}
		if len(v) == 0 {
			out = append(out, leaf{pointer, v, put})
		}
	case []any:
		for i := range v {
			out = leaves(v[i], fmt.Sprint(pointer, "/", i), func(to any) { v[i] = to }, out)
		}
		if len(v) == 0 {
			out = append(out, leaf{pointer, v, put})
		}
	default:
		out = append(out, leaf{pointer, v, put})
	}
	return out
}

// TestLiveLeavesAreNoticed: a leaf that is said to be live, and that no rule is about,
// cannot be changed to anything without the call being answered by something else, or
// by nothing.
func TestLiveLeavesAreNoticed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := record(t, calls(rt)...)
		rules := rapid.SampledFrom(someRules[:3]).Draw(rt, "rules") // those that only ignore
		rules.MaxIgnored = 1
		live, err := cassette.Liveness(c, rules)
		if err != nil {
			rt.Fatal(err)
		}
		d := deck(t, c, rules)
		call := c.Calls[rapid.IntRange(0, len(c.Calls)-1).Draw(rt, "call")]
		var args any
		if err := json.Unmarshal(call.Arguments, &args); err != nil {
			rt.Fatal(err)
		}
		all := leaves(args, "", func(to any) { args = to }, nil)
		all = slices.DeleteFunc(all, func(l leaf) bool { // what comes into an empty one may be ignored
			return encode(l.value) == "{}" || encode(l.value) == "[]"
		})
		if len(all) == 0 {
			return
		}
		l := rapid.SampledFrom(all).Draw(rt, "leaf")
		to := document(1).Draw(rt, "to")
		if encode(to) == encode(l.value) {
			return
		}
		l.put(to)
		dead := slices.ContainsFunc(live.Dead, func(d cassette.Dead) bool {
			return d.Seq == call.Seq && d.Part == cassette.InArguments && d.Pointer == l.pointer
		})
		p := cassette.NewPlayer(d, cassette.Options{})
		for range len(c.Calls) + 1 { // until whatever fits has answered
			a, err := p.Next(call.Tool, []byte(encode(args)))
			var miss *cassette.Miss
			if errors.As(err, &miss) || a.Repeat {
				break
			}
			if err != nil {
				rt.Fatal(err)
			}
			if a.Seq == call.Seq && !dead {
				rt.Fatalf("call %d, recorded with %s, answered %s at %v", call.Seq, call.Arguments, encode(args), a.Tier)
			}
		}
	})
}

// TestFidelity: a result agrees with itself under all rules, and no longer once a leaf
// is another.
func TestFidelity(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var result any = map[string]any{"structuredContent": document(3).Draw(rt, "result"), "content": []any{}}
		was := encode(result)
		var rules cassette.Differences
		if rapid.Bool().Draw(rt, "sets") {
			rules.Tolerate = []cassette.Tolerate{{Path: "/structuredContent", Set: true}, {Tool: "other", Path: "/content", Subset: true}}
		}
		f, err := cassette.Compare("get", cassette.Reply{Result: []byte(was)}, cassette.Reply{Result: []byte(was)}, rules)
		if err != nil || !f.Same() || f.Value() != 1 || !f.Status || !f.Shape || !f.Order {
			rt.Fatalf("%+v, %v", f, err)
		}
		l := rapid.SampledFrom(leaves(result, "", nil, nil)).Draw(rt, "leaf")
		to := document(1).Draw(rt, "to")
		if encode(to) == encode(l.value) || l.put == nil {
			return
		}
		l.put(to)
		f, err = cassette.Compare("get", cassette.Reply{Result: []byte(was)}, cassette.Reply{Result: []byte(encode(result))}, rules)
		if err != nil || f.Same() {
			rt.Fatalf("%s and %s: %+v, %v", was, encode(result), f, err)
		}
		if f.Order && (f.Kind == 0 || f.Agree == f.Leaves && f.Extra == 0) {
			rt.Fatalf("%s and %s: %+v", was, encode(result), f)
		}
	})
}
