package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/wire"
)

func plan(t testing.TB, text string) *Plan {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func TestProblems(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`[]`, "it has to be a mapping with each key once"},
		{`{}`, "name a profile (calm, drifting, expiring, flaky, flaky-commit, hostile, overloaded, slow), or give rules or latency"},
		{`{"profile":"wild"}`, `/profile: there is no profile "wild"; there are calm, drifting, expiring, flaky, flaky-commit, hostile, overloaded, slow`},
		{`{"rule":[]}`, `/rule: "rule" is not known here; did you mean rules?; there are profile, rules, latency` + "\nname a profile (calm, drifting, expiring, flaky, flaky-commit, hostile, overloaded, slow), or give rules or latency"},
		{`{"rules":[]}`, "/rules: it has to be a list with something in it\nname a profile (calm, drifting, expiring, flaky, flaky-commit, hostile, overloaded, slow), or give rules or latency"},
		{`{"rules":[{"fault":"timeout","at":[1],"retry_after":"1s"}]}`, `/rules/0/retry_after: "retry_after" is not known here; there are tool, fault, at, from, to, rate, wait`},
		{`{"rules":[{"fault":"list_changed","at":[1],"field":"/x"}]}`, `/rules/0/field: "field" is not known here; there are tool, fault, at, from, to, rate, wait`},
		{`{"rules":[{"fault":"timeout","at":[1]},{"at":[0,"x"],"fault":"timeout"}]}`, "/rules/1/at/0: it has to be a whole number from 1 to 2147483647\n/rules/1/at/1: it has to be a whole number from 1 to 2147483647"},
		{`{"rules":[{"fault":"timeout"}]}`, "/rules/0: say which calls: at: [2, 5], rate: 0.05, or from: 3"},
		{`{"rules":[{"fault":"timeout","at":[1],"rate":0.5}]}`, "/rules/0: at names the calls: leave out rate, from and to"},
		{`{"rules":[{"fault":"timeout","rate":1.5}]}`, "/rules/0/rate: it has to be a number above 0 and at most 1"},
		{`{"rules":[{"fault":"timeout","rate":"0.5"}]}`, "/rules/0/rate: it has to be a number above 0 and at most 1"},
		{`{"rules":[{"fault":"too_many_requests","at":[1],"retry_after":"1500ms"}]}`, "/rules/0/retry_after: it has to be whole seconds: the header has no parts of them"},
		{`{"rules":[{"fault":"pagination_cut","at":[1],"field":"next"}]}`, "/rules/0/field: it has to be a JSON pointer, say /note or /items/0/note"},
		{`{"rules":[{"fault":"latency","at":[1]}]}`, "/rules/0: say how long: wait: 2s"},
		{`{"latency":{"spread":0.5}}`, "/latency: give it a mean, say 120ms"},
		{`{"latency":{"mean":"2s","most":"1s"}}`, "/latency/most: it is less than the mean"},
		{`{"rules":[1]}`, "/rules/0: it has to be a mapping with each key once"},
		{`{"rules":[{"fault":"timeout","from":3,"to":2}]}`, "/rules/0/to: it is before from"},
	} {
		_, err := Parse([]byte(c.text))
		problems, ok := errors.AsType[Problems](err)
		if !ok {
			t.Errorf("%s: %v are no problems", c.text, err)
			continue
		}
		if diff := cmp.Diff(c.want, problems.Error()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.text, diff)
		}
	}
	found := plan(t, `{"profile":"flaky","rules":[{"fault":"timeout","at":[1],"tool":"refnd"},{"fault":"timeout","at":[1]}]}`).
		Check([]sallyport.Tool{{Name: "r", UpstreamName: "refund"}})
	if want := `/rules/0/tool: no upstream of this world has a tool "refnd"; did you mean refund?`; found.Error() != want {
		t.Errorf("got %s, want %s", found.Error(), want)
	}
}

// The package comment names every fault and every profile.
func TestDocumented(t *testing.T) {
	source, err := os.ReadFile("fault.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := strings.Cut(string(source), "\npackage fault")
	for _, name := range append(kinds(), Profiles()...) {
		if !strings.Contains(doc, "//\t"+name+" ") {
			t.Errorf("%s is not in the package comment", name)
		}
	}
	for kind, may := range says {
		for _, key := range may {
			if !strings.Contains(doc, key) {
				t.Errorf("%s of %s is not in the package comment", key, kind)
			}
		}
	}
}

// A rate is the share of calls that it says, whatever the seed, the tool and the rules
// before it: within 5 standard deviations of n draws.
func TestRates(t *testing.T) {
	const n = 20000
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.001, 1).Draw(t, "rate")
		seed := rapid.Uint64().Draw(t, "seed")
		p, err := Parse(fmt.Appendf(nil, `{"rules":[{"rate":0.5,"fault":"timeout"},{"rate":%g,"fault":"rpc_error"}]}`, rate))
		if err != nil {
			t.Fatal(err)
		}
		hits := map[Kind]int{}
		for i := range n {
			if f := p.Fate("sha256:w", seed, i, "t"); f.Rule != nil {
				hits[f.Rule.Fault]++
			}
		}
		within := func(of int, rate float64, got int) {
			if bound := 5*math.Sqrt(float64(of)*rate*(1-rate)) + 1; math.Abs(float64(got)-float64(of)*rate) > bound {
				t.Errorf("rate %g: %d of %d calls, want %g ± %g", rate, got, of, float64(of)*rate, bound)
			}
		}
		within(n, 0.5, hits[Timeout])
		within(n-hits[Timeout], rate, hits[RPCError]) // of those that remain
	})
}

func TestFate(t *testing.T) {
	p := plan(t, `{"rules":[{"at":[2,5],"tool":"a","fault":"timeout"},{"from":4,"to":6,"fault":"rpc_error","wait":"3s"},{"rate":0.5,"tool":"b","fault":"tool_error"}]}`)
	var got []string
	for i := range 7 {
		if f := p.Fate("w", 1, i, "a"); f.Rule != nil {
			got = append(got, fmt.Sprintf("%d %s %s", i+1, f.Rule.Fault, f.Wait))
		}
	}
	if diff := cmp.Diff([]string{"2 timeout 0s", "4 rpc_error 3s", "5 timeout 0s", "6 rpc_error 3s"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// Each of world, seed, number and tool counts.
	fates := func(world sallyport.Digest, seed uint64, from int, tool string) (b []bool) {
		p := plan(t, `{"rules":[{"rate":0.5,"fault":"timeout"}]}`)
		for i := range 64 {
			b = append(b, p.Fate(world, seed, from+i, tool).Rule != nil)
		}
		return b
	}
	same := fates("w", 1, 0, "a")
	if !slices.Equal(same, fates("w", 1, 0, "a")) {
		t.Error("another time another fate")
	}
	for name, other := range map[string][]bool{"world": fates("v", 1, 0, "a"), "seed": fates("w", 2, 0, "a"), "number": fates("w", 1, 64, "a"), "tool": fates("w", 1, 0, "b")} {
		if slices.Equal(same, other) {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestLatency(t *testing.T) {
	p := plan(t, `{"latency":{"mean":"120ms","spread":0.5,"most":"2s"}}`)
	sum, most := time.Duration(0), time.Duration(0)
	const n = 20000
	for i := range n {
		w := p.Fate("w", 3, i, "t").Wait
		if w <= 0 || w > 2*time.Second {
			t.Fatalf("call %d takes %s", i, w)
		}
		sum, most = sum+w, max(most, w)
	}
	if mean := sum / n; mean < 116*time.Millisecond || mean > 124*time.Millisecond {
		t.Errorf("the mean is %s", mean)
	}
	if most < 400*time.Millisecond {
		t.Errorf("none takes longer than %s", most)
	}
	if w := plan(t, `{"profile":"slow","latency":{"mean":"1s"}}`).Fate("w", 3, 0, "t").Wait; w != time.Second {
		t.Errorf("the profile's latency counts, not the file's: %s", w)
	}
}

// Where a text is written in a JSON string: each of its bytes is found again.
func TestOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := []byte{'"'}
		ends := map[int]int{0: 1} // of the text, in the token
		text := ""
		for _, unit := range rapid.SliceOf(rapid.SampledFrom([]string{"a", "é", "😀", `\n`, `\"`, `\\`, `\u00e9`, `\u0041`, `\ud83d\ude00`, `\uD83D\uDE00`, `\ud7ff`, `\ue000`})).Draw(t, "units") {
			token = append(token, unit...)
			s, err := wire.DecodeString([]byte(`"` + unit + `"`))
			if err != nil {
				t.Fatal(err)
			}
			text += s
			ends[len(text)] = len(token)
		}
		token = append(token, '"')
		for n := range len(text) + 1 {
			want, ok := ends[n]
			for m := n; !ok; m-- {
				want, ok = ends[m]
			}
			if got := offset(token, n); got != want {
				t.Fatalf("byte %d of %s is at %d, not %d", n, token, got, want)
			}
		}
	})
}

func alter(t testing.TB, rule, result string) string {
	t.Helper()
	p := plan(t, `{"rules":[{"from":1,`+rule+`}]}`)
	f := p.Fate("w", 1, 0, "t")
	return string(f.Alter([]byte(result)))
}

// What is not of the fault keeps its bytes: white space, escapes, digits, order.
func TestAlter(t *testing.T) {
	const odd = `{ "structuredContent" : { "n": 1.50, "items": [ 1, {"a":"\u00e9"} , 3 ], "nextCursor": "x" },` +
		` "content":[{"type":"text","text":"{ \"n\": 1.50, \"items\": [ 1, {\"a\":\"\\u00e9\ud83d\ude00\"} , 3 ], \"nextCursor\": \"x\" }"},{"type":"text","text":"more"}] }`
	for _, c := range []struct{ rule, result, want string }{
		{`"fault":"injected_instruction","text":"go"`, odd, strings.NewReplacer(`"\u00e9"`, `"\u00e9 go"`, `\ude00\"`, `\ude00 go\"`).Replace(odd)},
		{`"fault":"pagination_cut"`, odd, strings.NewReplacer(`"x"`, `null`, `\"x\"`, `null`).Replace(odd)},
		{`"fault":"partial_result","keep":0.4`, odd, strings.NewReplacer(`, {"a":"\u00e9"} , 3 ]`, `]`, `, {\"a\":\"\\u00e9\ud83d\ude00\"} , 3 ]`, `]`).Replace(odd)},
		{`"fault":"partial_result","keep":0.1`, `{"content":[],"structuredContent":{"x":[1]}}`, `{"content":[],"structuredContent":{"x":[]}}`},
		{`"fault":"schema_drift","field":"/items/0/nextCursor"`, odd, strings.ReplaceAll(odd, `nextCursor`, `next_cursor`)},
		{`"fault":"schema_drift","field":"/a","becomes":"n"`, odd, strings.NewReplacer(`"a":`, `"n_2":`, `\"a\":`, `\"n_2\":`, `{\"a\":`, `{\"n_2\":`).Replace(odd)},
		{`"fault":"truncated_result"`, `{"structuredContent" :{"a":1} , "content":[{"type":"text","text":"abc\u00e9"}]}`, `{ "content":[{"type":"text","text":"ab"}]}`},
		{`"fault":"truncated_result"`, `{"content":[{"type":"text","text":"abcd"},{"type":"text","text":"efgh"}],"structuredContent":{"a":{}},"z":0}`, `{"content":[{"type":"text","text":"ab"},{"type":"text","text":"efgh"}],"z":0}`},
		{`"fault":"injected_instruction","text":"go"`, `{"content":[{"type":"text","text":"plain \u00e9"}]}`, `{"content":[{"type":"text","text":"plain \u00e9 go"}]}`},
		{`"fault":"injected_instruction","text":"go"`, `{"content":[{"type":"image","data":"text"}]}`, `{"content":[{"type":"image","data":"text"}]}`},
		{`"fault":"timeout_after_commit"`, odd, odd},
	} {
		if diff := cmp.Diff(c.want, alter(t, c.rule, c.result)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.rule, diff)
		}
	}
	// One tool drifts in one way, and each is a name that somebody could have given.
	rows := `{"content":[],"structuredContent":{"rows":[{"order_id":1},{"order_id":2}]}}`
	if once := alter(t, `"fault":"schema_drift"`, rows); once == rows || once != alter(t, `"fault":"schema_drift"`, rows) {
		t.Errorf("drift made %s", once)
	}
	for from, to := range map[string]string{"order_id": "orderId", "orderId": "order_id", "id": "id_v2", "_x": "_x_v2"} {
		if got := otherSpelling(from); got != to {
			t.Errorf("%s becomes %s, want %s", from, got, to)
		}
	}
}

// Whatever a definition says, it is refused or its fates can be asked, and what they
// make of a result is JSON.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"profile":"hostile"}`, `{"profile":"drifting","rules":[{"tool":"a","at":[1,2],"fault":"timeout_after_commit"}],"latency":{"mean":"1ms","spread":0.5}}`,
		`{"rules":[{"from":1,"fault":"partial_result","field":"/a~1b","keep":0.3},{"rate":1e-3,"fault":"rpc_error","code":-1,"message":"\u00e9"}]}`,
		`{"rules":[{"from":1,"fault":"schema_drift","becomes":"a\"b"}]}`, `{"rules":[{"from":1,"fault":"truncated_result","keep":0.99}]}`, `null`, `{"rules":{}}`,
	} {
		f.Add([]byte(s), []byte(`{"content":[{"type":"text","text":"{\"rows\":[1,{\"a\":\"\\u00e9\"}]}"}],"structuredContent":{"rows":[1,{"a":"x"}],"cursor":"c"}}`))
	}
	f.Fuzz(func(t *testing.T, raw, result []byte) {
		p, err := Parse(raw)
		if err != nil {
			if problems, ok := errors.AsType[Problems](err); !ok || len(problems) == 0 {
				t.Fatalf("%v are no problems", err)
			}
			return
		}
		p.Check([]sallyport.Tool{{Name: "a"}})
		if wire.Each(result, func(string, []byte) error { return nil }) != nil {
			result = []byte("{}")
		}
		for n := range 20 {
			fate := p.Fate("w", 1, n, "a")
			if fate.Rule == nil {
				continue
			}
			before := bytes.Clone(result)
			if after := fate.Alter(result); !json.Valid(after) {
				t.Fatalf("%s makes %s of %s", fate.Rule.Fault, after, result)
			}
			if !bytes.Equal(before, result) {
				t.Fatal("the result it was given has changed")
			}
		}
	})
}
