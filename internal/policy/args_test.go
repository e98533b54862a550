package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/policy"
)

// Values that Cedar cannot hold. Whatever a policy asks of such an argument, and
// however carefully it asks, the call is denied with an error; a policy that does
// not read it is not disturbed.
func TestInexactDenies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path  string // of the argument
		value string
		reads []string // conditions that read it
	}{
		{"amount", `1e400`, []string{`context.args.amount < 5`}},
		{"amount", `12345678901234567890`, []string{
			`context.args.amount < 5`, `{c: context}.c.args.amount < 5`, `(if context.run.implicit then context else context).args.amount < 5`,
			`(if context.run.implicit then context.args else context.args).amount < 5`, `[context.args].contains(context.args)`, `context == context`,
		}},
		{"amount", `9223372036854775808`, []string{`context.args.amount < 5`}},
		{"amount", `-9223372036854775809`, []string{`context.args.amount < 5`}},
		{"amount", `1.5`, []string{`context.args.amount < 5`}},
		{"amount", `1e-1`, []string{`context.args.amount < 5`}},
		{"amount", `1e99999999999999999999`, []string{`context.args.amount < 5`}},
		{"amount", `"5"`, []string{`context.args.amount < 5`}},
		{"amount", `null`, []string{`context.args.amount < 5`, `context.args.amount != 7`, `["a"].contains(context.args.payment) || context.args.amount > 2`}},
		{"amount", `[5]`, []string{`context.args.amount < 5`}},
		{"fee", `0.00001`, []string{
			`context.args has fee`, `!(context.args has fee)`, `context.args has fee && context.args.fee.lessThan(decimal("9.0"))`,
			`if context.args has fee then true else true`, `{a: context.args has fee}.a`, `context has args && context.args has "fee"`,
		}},
		{"fee", `null`, []string{`context.args has fee`, `if context.args has fee then context.args.fee.lessThan(decimal("9.0")) else true`}},
		{"fee", `922337203685477.5808`, []string{`context.args has fee`}},
		{"fee", `-922337203685477.5809`, []string{`context.args has fee`}},
		{"fee", `1e400`, []string{`context.args has fee`}},
		{"fee", `"1.5"`, []string{`context.args has fee`}},
		{"reason", `5`, []string{`context.args has reason && context.args.reason == "fraud"`}},
		{"urgent", `"true"`, []string{`context.args has urgent && context.args.urgent`}},
		{"tags", `"a"`, []string{`context.args has tags`}},
		{"tags", `["a",null]`, []string{`context.args has tags`, `context.args has tags && context.args.tags.contains("a")`}},
		{"tags", `["a",{"b":1}]`, []string{`context.args has tags`}},
		{"tags", `[` + strings.Repeat(`"x",`, 1024) + `"y"]`, []string{`context.args has tags && !context.args.tags.contains("z")`}},
		{"order", `null`, []string{`context.args has order`, `context.args has order && context.args.order.total > 5`, `context.args has order.lines`}},
		{"order", `[]`, []string{`context.args has order`, `context.args has order && context.args.order.total > 5`}},
		{"order", `{"total":1e400}`, []string{`context.args has order && context.args.order.total > 5`, `context.args has order && context.args.order has total`}},
		{"order", `{"total":5,"lines":[{"sku":null}]}`, []string{`context.args has order && context.args.order has lines`, `context.args has order.lines && context.args.order.lines.isEmpty()`}},
		{"order", `{"total":5,"lines":[{"sku":"a","colour":"red"}]}`, []string{`context.args has order.lines && context.args.order.lines.isEmpty()`}},
		{"order", `{"total":5,"lines":[{"sku":"a","n":1.5}]}`, []string{`context.args has order.lines && context.args.order.lines.isEmpty()`}},
		{"order", `{"total":5,"extra":7}`, []string{`context.args has order && context.args.order == context.args.order`}},
		{"order", `{"total":5,"unknown":7}`, []string{`context.args has order && {a: context.args.order}.a.total > 1`, `context.args has order && (if true then context.args.order else context.args.order).total > 1`}},
	} {
		args := fmt.Sprintf(`{"payment":"p",%q:%s}`, tt.path, tt.value)
		for _, condition := range tt.reads {
			for _, text := range []string{
				// It must not matter what kind of policy reads it and how.
				`forbid ` + refundScope + ` when { ` + condition + ` };`,
				`forbid ` + refundScope + ` unless { ` + condition + ` };`,
				`permit ` + refundScope + ` when { ` + condition + ` };`,
				`forbid ` + refundScope + ` when { context.run.calls > 1000 && (` + condition + `) };`,
				`forbid ` + refundScope + ` when { context.run.calls < 1000 || (` + condition + `) };`,
			} {
				set, problems := policy.Compile(tools(), sourcesOf(permitRefund+text))
				if len(problems) > 0 {
					if strings.Contains(text, "unless") || strings.Contains(problems[0].Message, "never match") {
						continue // always true, some of them
					}
					t.Fatalf("%s: %v", text, problems)
				}
				d, facts := set.Decide(refund(args))
				if d.Allow || len(d.Errors) == 0 || len(facts.Inexact) != len(d.Errors) {
					t.Errorf("%s with %.60s\n\tgot %+v, facts %+v", text, args, d, facts.Inexact)
					continue
				}
				if !strings.HasPrefix(facts.Inexact[0].Path, "args."+tt.path) {
					t.Errorf("%s with %.60s: path %s", text, args, facts.Inexact[0].Path)
				}
				if x := set.Explain(refund(args)); !cmp.Equal(x.Decision, d) || len(x.Change) == 0 || !strings.Contains(x.Change[0].Text, "policies/a.cedar#2") {
					t.Errorf("%s with %.60s: explained as %v", text, args, x)
				}
			}
		}
		// A policy about something else, and one for another agent, do not care.
		set := compile(t, permitRefund+`forbid `+refundScope+` when { context.args.payment == "q" };
			forbid (principal == Agent::"other", action == Action::"payments/refund", resource) when { `+tt.reads[0]+` };`)
		if d, facts := set.Decide(refund(args)); !d.Allow || len(facts.Inexact) > 0 {
			t.Errorf("%.60s disturbs a policy that does not read it: %+v, %+v", args, d, facts.Inexact)
		}
		q := refund(args)
		q.Principal.Agent = "other"
		if d, _ := set.Decide(q); d.Allow {
			t.Errorf("%.60s does not disturb the agent whose policy reads it", args)
		}
	}
}

// A part of an object that no policy reads may be anything; and of an object of
// which only is asked whether it is there, all parts may.
func TestInexactBeside(t *testing.T) {
	t.Parallel()
	set := when(t, `context.args has order && context.args.order.total > 5`)
	for args, want := range map[string]bool{
		`{"payment":"p","amount":1e400,"order":{"total":6,"lines":null,"extra":1e400}}`: true,
		`{"payment":"p","amount":1,"order":{"total":6,"unknown":[null]}}`:               true,
		`{"payment":"p","amount":1,"order":{"total":5,"unknown":[null]}}`:               false,
	} {
		if d, f := set.Decide(refund(args)); d.Allow != want || len(d.Errors) > 0 || len(f.Inexact) > 0 {
			t.Errorf("%s: %+v", args, d)
		}
	}
	if d, _ := when(t, `context.args has order`).Decide(refund(`{"order":{"total":1e400}}`)); !d.Allow {
		t.Errorf("whether it is there is known: %+v", d)
	}
}

// What two readers could take for different things is never decided upon.
func TestMalformedArguments(t *testing.T) {
	t.Parallel()
	set := when(t, `context.args.amount < 500`)
	good := []string{
		plain, ` { "amount" : 1 , "payment":"p"} `, `{"amou\u006et":1}`, `{"amount":1.0}`, `{"amount":-0}`, `{"amount":1e2}`,
		`{"amount":0.0000e400}`, `{"amount":4990e-1}`, `{"amount":1,"x":{"Amount":1,"amount":2}}`, `{"amount":1,"deep":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
	}
	for _, args := range good {
		if d, _ := set.Decide(refund(args)); !d.Allow {
			t.Errorf("%.60s: %+v", args, d)
		}
	}
	bad := []string{
		`[]`, `null`, `5`, `{`, `}`, ``, ` `, `{"amount":1`, `{"amount":1}}`, `{"amount":1}{}`, `{"amount":1} x`, `{"amount":1,}`, `{amount:1}`,
		`{"amount":1,"amount":900}`, `{"amount":900,"amount":1}`, `{"amount":1,"amou\u006et":900}`, `{"x":{"y":1,"y":2},"amount":1}`,
		`{"amount":1,"x":"` + "\xff" + `"}`, `{"amount":1,"x":"\ud800"}`, `{"amount":1,"` + "\xc3" + `":2}`, `{"amount":01}`, `{"amount":+1}`, `{"amount":.5}`,
		`{"amount":0x10}`, `{"amount":NaN}`, `{"amount":1/*c*/}`, `{'amount':1}`, "{\"amount\":1,\"x\":\"\n\"}", "\ufeff" + plain,
		`{"amount":1,"deep":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	}
	for _, args := range bad {
		q := refund(args)
		q.Args = []byte(args)
		if d, _ := set.Decide(q); d.Allow || len(d.Errors) != 1 || strings.Contains(d.Errors[0], "900") {
			t.Errorf("%.60s: %+v", args, d)
		}
	}
	// Letter case: some readers of JSON do not tell Amount from amount.
	for _, args := range []string{`{"amount":1,"Amount":900}`, `{"Amount":900,"amount":1}`, `{"amount":1,"AMOUNT":900}`, `{"AMOUNT":900}`} {
		d, f := set.Decide(refund(args))
		if d.Allow || len(f.Inexact) == 0 || f.Inexact[0].Path != "args.amount" {
			t.Errorf("%s: %+v", args, d)
		}
	}
	if d, f := when(t, `context.args has tags && context.args.tags.contains("a")`).Decide(refund(`{"tags":["a"],"tag` + "ſ" + `":["b"]}`)); d.Allow || len(f.Inexact) == 0 {
		t.Errorf("a long s folds to s: %+v", d)
	}
	// Two declared arguments may differ by case alone.
	set, problems := policy.Compile([]policy.Tool{{Name: "a/b", Upstream: "a", InputSchema: []byte(`{"type":"object","properties":{"id":{"type":"string"},"ID":{"type":"string"}}}`)}},
		sourcesOf(`permit (principal, action == Action::"a/b", resource) when { context.args has id && context.args.id == "x" };`))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	q := refund(`{"id":"x","ID":"y"}`)
	q.Upstream, q.Tool = "a", "b"
	if d, _ := set.Decide(q); !d.Allow {
		t.Errorf("declared in both spellings: %+v", d)
	}
	// Arguments that nobody reads are not parsed at all.
	if d, _ := compile(t, permitRefund).Decide(refund(`{`)); !d.Allow {
		t.Errorf("unread: %+v", d)
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	for arg, literal := range map[string]string{
		`"grüße 😀"`:            `"grüße 😀"`,
		`"gr\u00fc\u00dfe"`:    `"grüße"`,
		`"\ud83d\ude00"`:       `"😀"`,
		`"a\"b\\c\/d\n\u0000"`: `"a\"b\\c/d\n\0"`,
		`"\ufffd"`:             `"\u{fffd}"`,
		`""`:                   `""`,
		`"e\u0301"`:            `"e\u{301}"`, // not the same as é: nothing is normalised
	} {
		if d, _ := when(t, `context.args.payment == `+literal).Decide(refund(`{"payment":` + arg + `}`)); !d.Allow {
			t.Errorf("%s is not %s: %+v", arg, literal, d)
		}
	}
	if d, _ := when(t, `context.args.payment == "é"`).Decide(refund(`{"payment":"e\u0301"}`)); d.Allow {
		t.Error("a string was normalised")
	}
}

func TestScaled(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		digits := rapid.StringMatching(`-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,12})?([eE][-+]?[0-9]{1,2})?`).Draw(t, "number")
		places := rapid.SampledFrom([]int{0, 4}).Draw(t, "places")
		got, ok := policy.Scaled(digits, places)
		want, valid := new(big.Rat).SetString(digits)
		if !valid {
			t.Fatalf("%q is not a number", digits)
		}
		want.Mul(want, big.NewRat(int64(map[int]int{0: 1, 4: 10000}[places]), 1))
		fits := want.IsInt() && want.Num().IsInt64()
		if ok != fits || ok && want.Num().Int64() != got {
			t.Fatalf("%s at %d places: got %d %v, want %s", digits, places, got, ok, want)
		}
	})
	for number, want := range map[string]int64{
		"9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63, "-0": 0, "-0.0e7": 0, "1.0": 1, "1e18": 1e18,
		"0." + strings.Repeat("0", 100_000) + "7e100001": 7, "7" + strings.Repeat("0", 100_000) + "e-100000": 7, "0e999999999999999999999999": 0,
	} {
		if got, ok := policy.Scaled(number, 0); !ok || got != want {
			t.Errorf("%.40s: got %d %v", number, got, ok)
		}
	}
}

// Whoever writes arguments may look for elements of equal hash; it must not pay.
func TestHostileArrays(t *testing.T) {
	t.Parallel()
	schema := []byte(`{"type":"object","properties":{
		"pairs":{"type":"array","items":{"type":"array","items":{"type":"integer"}}},
		"many":{"type":"array","items":{"type":"array","items":{"type":"array","items":{"type":"integer"}}}}}}`)
	var pairs []string
	for i := range 20_000 {
		pairs = append(pairs, fmt.Sprintf("[%d,%d]", i, 1_000_000-i)) // equal sums, equal hashes
	}
	lists := make([]string, 0, 100)
	for i := 0; i+1000 <= len(pairs); i += 1000 {
		lists = append(lists, "["+strings.Join(pairs[i:i+1000], ",")+"]")
	}
	for _, args := range []string{
		`{"pairs":[` + strings.Join(pairs, ",") + `]}`,
		`{"many":[` + strings.Join(lists, ",") + `]}`,
	} {
		began := time.Now()
		_, inexact, err := policy.Convert(schema, []byte(args))
		if err != nil || len(inexact) == 0 {
			t.Errorf("%.40s: %v %v", args, inexact, err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%.40s took %v", args, d)
		}
	}
}

// FuzzArgs converts arguments and holds the result against another reader of the
// same JSON: what is in the record equals the JSON value, and what is not in it is
// listed.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{
		`{"payment":"p_1","amount":100,"fee":1.25,"urgent":true,"tags":["a","b","a"],"order":{"total":1,"lines":[{"sku":"x","n":2},{"sku":"y"}]}}`,
		`{"amount":1e400,"fee":0.00001,"payment":"\ud83d\ude00"}`, `{"amount":-0,"fee":-0.0,"tags":[]}`, `{"amount":12345678901234567890}`,
		`{"amount":1.0,"fee":1}`, `{"amount":null,"order":null,"tags":[null]}`, `{"meta":{},"note":1,"zzz":[]}`, `{"Amount":1}`, `{"amount":1,"amount":2}`,
		`{"fee":922337203685477.5807}`, `{"fee":-922337203685477.5808}`, `{"order":{"total":2,"extra":1}}`, `{"amount":1E+2}`, `{"payment":"\u0000\\\""}`,
		`[`, `{}`, ``, `null`, "{\"payment\":\"\xff\"}", `{"tags":[["a"]]}`, `{"amount":"5","urgent":"x","payment":5}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if hugeExponent.Match(b) {
			return // the oracle would take all day
		}
		rec, inexact, err := policy.Convert([]byte(refundSchema), b)
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		var oracle map[string]any
		stdErr := dec.Decode(&oracle)
		if _, more := dec.Token(); stdErr == nil && more != io.EOF {
			stdErr = fmt.Errorf("more after it")
		}
		if err != nil {
			return // stricter than the oracle, on purpose
		}
		if stdErr != nil {
			t.Fatalf("%q was read, and is no JSON object: %v", b, stdErr)
		}
		listed := map[string]bool{}
		for _, i := range inexact {
			listed[i.Path] = true
		}
		var schema map[string]any
		if err := json.Unmarshal([]byte(refundSchema), &schema); err != nil {
			t.Fatal(err)
		}
		sameObject(t, "args", schema, oracle, rec, listed)
	})
}

var hugeExponent = regexp.MustCompile(`[eE][-+]?0*[0-9]{5}`)

func sameObject(t *testing.T, path string, schema, oracle map[string]any, rec types.Record, listed map[string]bool) {
	props, _ := schema["properties"].(map[string]any)
	for name, v := range oracle {
		at := path + "." + name
		got, ok := rec.Get(types.String(name))
		sub, declared := props[name].(map[string]any)
		if ok && !declared {
			t.Fatalf("%s is in the record and not declared", at)
		}
		if !ok {
			if !listed[at] && !below(listed, at) {
				t.Fatalf("%s is neither in the record nor listed", at)
			}
			continue
		}
		sameValue(t, at, sub, v, got, listed)
	}
	for name := range rec.All() {
		if _, ok := oracle[string(name)]; !ok {
			t.Fatalf("%s.%s is in the record and not in the arguments", path, name)
		}
	}
}

func below(listed map[string]bool, path string) bool {
	for p := range listed {
		if strings.HasPrefix(p, path+".") {
			return true
		}
	}
	return false
}

func sameValue(t *testing.T, path string, schema map[string]any, want any, got types.Value, listed map[string]bool) {
	bad := func() { t.Fatalf("%s is %v, and %s in Cedar", path, want, got.MarshalCedar()) }
	switch got := got.(type) {
	case types.String:
		if s, ok := want.(string); !ok || s != string(got) {
			bad()
		}
	case types.Boolean:
		if b, ok := want.(bool); !ok || b != bool(got) {
			bad()
		}
	case types.Long, types.Decimal:
		n, ok := want.(json.Number)
		if !ok {
			bad()
		}
		exact, _ := new(big.Rat).SetString(string(n))
		text := strings.TrimSuffix(strings.TrimPrefix(string(got.MarshalCedar()), `decimal("`), `")`)
		mine, _ := new(big.Rat).SetString(text)
		if exact == nil || mine == nil || exact.Cmp(mine) != 0 {
			bad()
		}
	case types.Record:
		o, ok := want.(map[string]any)
		if !ok {
			bad()
		}
		sameObject(t, path, schema, o, got, listed)
	case types.Set:
		list, ok := want.([]any)
		if !ok || got.Len() > len(list) || len(list) > 0 && got.Len() == 0 {
			bad()
		}
		items := schema["items"].(map[string]any)
		for _, w := range list {
			found := false
			for v := range got.All() {
				found = found || alike(items, w, v)
			}
			if !found {
				t.Fatalf("%s: %v is not in %s", path, w, got.MarshalCedar())
			}
		}
	default:
		t.Fatalf("%s is a %T", path, got)
	}
}

// alike compares elements of sets of this test's schema: strings and flat
// records.
func alike(schema map[string]any, w any, v types.Value) bool {
	switch v := v.(type) {
	case types.String:
		return w == string(v)
	case types.Long:
		n, ok := w.(json.Number)
		if !ok {
			return false
		}
		exact, _ := new(big.Rat).SetString(string(n))
		return exact != nil && exact.Cmp(new(big.Rat).SetInt64(int64(v))) == 0
	case types.Record:
		o, ok := w.(map[string]any)
		if !ok || len(o) != v.Len() {
			return false
		}
		for name, e := range o {
			got, ok := v.Get(types.String(name))
			if !ok || !alike(nil, e, got) {
				return false
			}
		}
		return true
	}
	return false
}

// The same arguments in another order and spacing are the same to policy.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := []string{`"payment":"p"`, `"amount":` + strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "amount")), `"urgent":true`, `"tags":["a","b"]`, `"zz":{"a":[1,{}]}`}
		a := "{" + strings.Join(members, ",") + "}"
		b := "{ " + strings.Join(rapid.Permutation(members).Draw(t, "order"), " ,\n") + "}"
		set, problems := policy.Compile(tools(), sourcesOf(`permit `+refundScope+` when { context.args.amount > 4 && context.args has tags && context.args.tags.containsAll(["b", "a"]) };`))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		da, fa := set.Decide(refund(a))
		db, fb := set.Decide(refund(b))
		if !cmp.Equal(da, db) || !cmp.Equal(fa, fb) {
			t.Fatalf("%s: %+v\n%s: %+v", a, da, b, db)
		}
	})
}
