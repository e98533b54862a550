package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
)

func TestRecordIsWrittenInThisForm(t *testing.T) {
	t.Parallel()
	r := &audit.Record{
		ID: "rec_1", Time: 1790000000000000, Kind: audit.Outcome, Run: "run_a", Call: "call_b",
		Principal: &audit.Principal{Agent: "support", Person: "p_7"},
		Stage:     sallyport.Staging, Tool: "send\u00e9\n\"", CallKind: sallyport.KindTool, Access: sallyport.Read,
		Decision: &sallyport.Decision{Reasons: []sallyport.Reason{{Policy: "a#1", Effect: "forbid", Hint: "ask"}}, Errors: []string{"x"}},
		Facts:    json.RawMessage("{ \"n\": 9007199254740993 }"),
		Labels:   &sallyport.Labels{Integrity: sallyport.User, Confidentiality: sallyport.Public},
		Outcome:  sallyport.OutcomeUnsettled,
		Refusal:  &sallyport.Refusal{Code: sallyport.Denied, Reason: "no", Detail: map[string]any{"b": 1.5, "a": "<"}},
		Binding:  sallyport.Simulate, Grade: sallyport.GradeSchema, LatencyMicros: 7, Redactions: []string{"/a", "/b"},
	}
	want := `{"id":"rec_1","time":1790000000000000,"kind":"outcome","run":"run_a","call":"call_b",` +
		`"principal":{"agent":"support","person":"p_7"},"stage":"staging","tool":"send` + "\u00e9" + `\n\"","call_kind":"tool","access":"read",` +
		`"decision":{"allow":false,"reasons":[{"policy":"a#1","effect":"forbid","hint":"ask"}],"errors":["x"]},` +
		`"facts":{"n":9007199254740993},"binding":"simulate","grade":"E1",` +
		`"labels":{"integrity":"user","confidentiality":"public"},"outcome":"unknown",` +
		`"refusal":{"code":"denied","reason":"no","detail":{"a":"\u003c","b":1.5}},"latency_micros":7,"redactions":["/a","/b"]}`
	if got := string(write(t, r)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRecordThatCannotBeWrittenLeavesTheBufferAsItWas(t *testing.T) {
	t.Parallel()
	ok := audit.Record{ID: "r", Kind: audit.Started}
	for name, change := range map[string]func(*audit.Record){
		"no id":      func(r *audit.Record) { r.ID = "" },
		"no kind":    func(r *audit.Record) { r.Kind = "" },
		"stage":      func(r *audit.Record) { r.Stage = sallyport.Production + 1 },
		"outcome":    func(r *audit.Record) { r.Outcome = sallyport.OutcomeUnsettled + 1 },
		"labels":     func(r *audit.Record) { r.Labels = &sallyport.Labels{Integrity: 9} },
		"facts":      func(r *audit.Record) { r.Facts = json.RawMessage(`{"a":1,"a":2}`) },
		"facts cut":  func(r *audit.Record) { r.Facts = json.RawMessage(`{"a":`) },
		"two values": func(r *audit.Record) { r.Facts = json.RawMessage(`1 2`) },
		"detail":     func(r *audit.Record) { r.Detail = json.RawMessage("{\"a\":\"\xff\"}") },
		"detail refusal": func(r *audit.Record) {
			r.Refusal = &sallyport.Refusal{Detail: map[string]any{"c": make(chan int)}}
		},
		"too long": func(r *audit.Record) { r.Tool = strings.Repeat("x", audit.MaxBody) },
	} {
		r := ok
		change(&r)
		if b, err := r.AppendJSON([]byte("before")); err == nil || string(b) != "before" {
			t.Errorf("%s: got %.60q, %v; want an error", name, b, err)
		}
	}
}

func TestTextThatIsNotUTF8IsReplaced(t *testing.T) {
	t.Parallel()
	b := write(t, &audit.Record{ID: "r", Kind: audit.Started, Tool: "a\xffb\xc3"})
	r, err := audit.ParseRecord(b)
	if err != nil || r.Tool != "a\ufffdb\ufffd" {
		t.Errorf("got %q, %v", r.Tool, err)
	}
}

// fill sets every field below v to something that is not its zero value, so that a
// field added to any of the types, here or in the words, cannot be forgotten.
func fill(t testing.TB, v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" {
				fill(t, v.Field(i), f.Name)
			}
		}
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte(`{"` + name + `":[true,null,-1.5e3]}`))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), name+"0")
		fill(t, v.Index(1), name+"1")
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]any{"a": "b", "n": 1.5, "list": []any{nil, true}}))
	case reflect.String:
		v.SetString("the " + name)
	case reflect.Int64:
		v.SetInt(int64(len(name)))
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Bool:
		v.SetBool(true)
	default:
		t.Fatalf("%s: a %v", name, v.Kind())
	}
}

func TestEveryFieldIsWrittenAndRead(t *testing.T) {
	t.Parallel()
	var r audit.Record
	fill(t, reflect.ValueOf(&r).Elem(), "")
	b := write(t, &r)
	got, err := audit.ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&r, got); d != "" {
		t.Errorf("ParseRecord (-wrote +read):\n%s", d)
	}
	var std audit.Record
	if err := json.Unmarshal(b, &std); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&r, &std); d != "" {
		t.Errorf("encoding/json (-wrote +read):\n%s", d)
	}
	// And in the order of the fields.
	var at int
	for i := range reflect.TypeFor[audit.Record]().NumField() {
		tag, _, _ := strings.Cut(reflect.TypeFor[audit.Record]().Field(i).Tag.Get("json"), ",")
		next := bytes.Index(b[at:], []byte(`"`+tag+`":`))
		if next < 0 {
			t.Fatalf("%s is not there, or not after the field before it", tag)
		}
		at += next
	}
}

// genJSON makes JSON text of any shape, compact or not.
func genJSON(t *rapid.T, depth int) string {
	pad := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	switch n := rapid.IntRange(0, 7).Draw(t, "shape"); {
	case n < 2 && depth > 0:
		var parts []string
		for i := range rapid.IntRange(0, 3).Draw(t, "members") {
			k, _ := json.Marshal(fmt.Sprint(i, rapid.String().Draw(t, "name")))
			parts = append(parts, string(k)+pad.Draw(t, "pad")+":"+genJSON(t, depth-1))
		}
		return "{" + strings.Join(parts, pad.Draw(t, "pad")+",") + "}"
	case n < 4 && depth > 0:
		var parts []string
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			parts = append(parts, genJSON(t, depth-1)+pad.Draw(t, "pad"))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case n == 4:
		b, _ := json.Marshal(rapid.String().Draw(t, "text"))
		return string(b)
	case n == 5:
		return rapid.SampledFrom([]string{"true", "false", "null", `"\ud83d\ude00\/"`}).Draw(t, "word")
	}
	return rapid.SampledFrom([]string{"0", "-0", "1e9", "-1.25E-7", "9007199254740993", "12"}).Draw(t, "number")
}

func genRecord(t *rapid.T) *audit.Record {
	text := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9:_-]{1,40}`), rapid.String())
	texts := rapid.SliceOfN(text, 0, 3)
	number := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64())
	raw := func() json.RawMessage {
		if rapid.Bool().Draw(t, "raw") {
			return json.RawMessage(genJSON(t, 3))
		}
		return nil
	}
	upTo := func(n int) uint8 { return uint8(rapid.IntRange(0, n).Draw(t, "word")) }
	r := &audit.Record{
		ID: rapid.StringN(1, 30, -1).Draw(t, "id"), Time: number.Draw(t, "time"),
		Kind: audit.Kind(rapid.StringN(1, 30, -1).Draw(t, "kind")),
		Run:  sallyport.RunID(text.Draw(t, "run")), Call: sallyport.CallID(text.Draw(t, "call")),
		Stage: sallyport.Stage(upTo(3)), Upstream: sallyport.UpstreamID(text.Draw(t, "upstream")),
		UpstreamIdentity: sallyport.Digest(text.Draw(t, "identity")), Tool: text.Draw(t, "tool"),
		ToolDigest: sallyport.Digest(text.Draw(t, "tool digest")), Method: text.Draw(t, "method"),
		CallKind: sallyport.Kind(upTo(6)), Access: sallyport.Access(upTo(2)),
		Arguments: text.Draw(t, "arguments"), ArgumentsSent: text.Draw(t, "sent"),
		Result: text.Draw(t, "result"), ResultSent: text.Draw(t, "result sent"),
		Facts: raw(), PolicyDigest: sallyport.Digest(text.Draw(t, "policy")),
		StageConfig: sallyport.Digest(text.Draw(t, "stage config")),
		Binding:     sallyport.Binding(upTo(7)), Grade: sallyport.Grade(upTo(7)),
		Approval: text.Draw(t, "approval"), Outcome: sallyport.Outcome(upTo(4)),
		DispatchBy: number.Draw(t, "dispatch by"), LatencyMicros: number.Draw(t, "latency"),
		UpstreamMicros: number.Draw(t, "upstream micros"), DataDomain: text.Draw(t, "domain"),
		Redactions: texts.Draw(t, "redactions"), By: text.Draw(t, "by"), Detail: raw(),
	}
	if rapid.Bool().Draw(t, "principal") {
		r.Principal = &audit.Principal{Agent: sallyport.AgentID(text.Draw(t, "agent")), Key: sallyport.KeyID(text.Draw(t, "key"))}
	}
	if rapid.Bool().Draw(t, "decision") {
		r.Decision = &sallyport.Decision{Allow: rapid.Bool().Draw(t, "allow"), Errors: texts.Draw(t, "errors")}
		for range rapid.IntRange(0, 3).Draw(t, "reasons") {
			r.Decision.Reasons = append(r.Decision.Reasons, sallyport.Reason{Policy: text.Draw(t, "policy id"), Says: text.Draw(t, "says")})
		}
	}
	if rapid.Bool().Draw(t, "labels") {
		r.Labels = &sallyport.Labels{Integrity: sallyport.Integrity(1 + upTo(3)), Confidentiality: sallyport.Confidentiality(1 + upTo(3)), Suspected: upTo(1) == 1}
	}
	if rapid.Bool().Draw(t, "refusal") {
		r.Refusal = &sallyport.Refusal{Code: sallyport.Code(text.Draw(t, "code")), Reason: text.Draw(t, "reason")}
		if rapid.Bool().Draw(t, "detail") {
			r.Refusal.Detail = map[string]any{text.Draw(t, "name"): text.Draw(t, "value"), "n": 2.5}
		}
	}
	return r
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord(t)
		b, err := r.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(b, "\n\r") {
			t.Fatalf("a line break in %q", b)
		}
		if again, err := r.AppendJSON([]byte("x")); err != nil || string(again) != "x"+string(b) {
			t.Fatalf("written twice: %q, then %q, %v", b, again, err)
		}
		for _, raw := range []*json.RawMessage{&r.Facts, &r.Detail} {
			if len(*raw) > 0 {
				var short bytes.Buffer
				if err := json.Compact(&short, *raw); err != nil {
					t.Fatal(err)
				}
				*raw = short.Bytes()
			}
		}
		got, err := audit.ParseRecord(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if d := cmp.Diff(r, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("ParseRecord (-wrote +read):\n%s", d)
		}
		var std audit.Record
		if err := json.Unmarshal(b, &std); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, &std, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("encoding/json (-wrote +read):\n%s", d)
		}
	})
}

func TestParseRecordIsStrict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, want string }{
		{"least", `{"id":"r","time":1,"kind":"started"}`, ""},
		{"unknown name", `{"id":"r","time":1,"kind":"started","later":{"x":[1,{}]}}`, ""},
		{"case is no match", `{"id":"r","time":1,"kind":"started","TIME":"x"}`, ""},
		{"pair of surrogates", `{"id":"r","kind":"started","tool":"\ud83d\ude00"}`, ""},
		{"empty", ``, "an object"},
		{"not an object", `[]`, "an object"},
		{"no id", `{"time":1,"kind":"started"}`, "an id and a kind"},
		{"twice", `{"id":"r","kind":"started","id":"r"}`, "twice"},
		{"twice, escaped", `{"id":"r","kind":"started","\u0069d":"r"}`, "twice"},
		{"twice, unknown", `{"id":"r","kind":"started","x":1,"x":1}`, "twice"},
		{"twice, deep", `{"id":"r","kind":"started","facts":[{"a":{"b":1,"b":1}}]}`, "twice"},
		{"space", `{"id":"r", "kind":"started"}`, "a string"},
		{"after", `{"id":"r","kind":"started"} `, "after the record"},
		{"null", `{"id":null,"kind":"started"}`, "a string"},
		{"control character", "{\"id\":\"r\x01\",\"kind\":\"started\"}", "control character"},
		{"half a pair", `{"id":"\ud83d","kind":"started"}`, "escape"},
		{"pair the wrong way", `{"id":"\ude00\ud83d","kind":"started"}`, "escape"},
		{"wrong escape", `{"id":"\x","kind":"started"}`, "escape"},
		{"not UTF-8", "{\"id\":\"\xff\",\"kind\":\"started\"}", "UTF-8"},
		{"leading zero", `{"id":"r","time":01,"kind":"started"}`, "a comma"},
		{"fraction", `{"id":"r","time":1.0,"kind":"started"}`, "whole number"},
		{"too large", `{"id":"r","time":9223372036854775808,"kind":"started"}`, "whole number"},
		{"not a number", `{"id":"r","kind":"started","x":-}`, "a digit"},
		{"no stage", `{"id":"r","kind":"started","stage":"moon"}`, "stage"},
		{"deep", `{"id":"r","kind":"started","facts":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, "nested"},
		{"cut", `{"id":"r","kind":"started`, "the end of a string"},
		{"comma", `{"id":"r","kind":"started",}`, "a string"},
		{"long", `{"id":"` + strings.Repeat("x", audit.MaxBody) + `","kind":"started"}`, "longer than"},
	} {
		r, err := audit.ParseRecord([]byte(c.body))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, %v; want an error with %q", c.name, r, err, c.want)
		}
	}
	many := `{"id":"r","kind":"started"`
	for i := range 100 {
		many += fmt.Sprintf(`,"x%d":1`, i)
	}
	if _, err := audit.ParseRecord([]byte(many + "}")); err != nil {
		t.Errorf("many names: %v", err)
	}
	if _, err := audit.ParseRecord([]byte(many + `,"x7":1}`)); err == nil {
		t.Error("many names, one of them twice: no error")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(body(f, 3))
	f.Add([]byte(`{"id":"r","time":1,"kind":"started","later":[1,{"a":null}],"facts":{"n":1e3}}`))
	f.Add([]byte(`{"id":"\ud83d\ude00","time":-1,"kind":"outcome","outcome":"unknown","labels":{"integrity":"user"}}`))
	f.Add([]byte(`{"id":"r","kind":"x","refusal":{"code":"c","reason":"r","detail":{"a":[1.5,"b"]}},"decision":{"allow":true,"reasons":[{}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.ParseRecord(b)
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("took what is not JSON: %q", b)
		}
		again, err := r.AppendJSON(nil)
		if err != nil {
			t.Fatalf("read but cannot be written: %v: %q", err, b)
		}
		r2, err := audit.ParseRecord(again)
		if err != nil {
			t.Fatalf("written but cannot be read: %v: %q", err, again)
		}
		// Labels without a word gain the strict one, so it is the text that settles.
		if third, err := r2.AppendJSON(nil); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("written %q, then %q, %v", again, third, err)
		}
	})
}

func TestCommit(t *testing.T) {
	t.Parallel()
	// RFC 4231, test case 2.
	got := audit.Commit([]byte("Jefe"), []byte("what do ya want for nothing?"))
	if want := "hmac-sha256:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// typical is the outcome of a call as most are.
func typical() *audit.Record {
	d := func(c string) sallyport.Digest { return sallyport.Digest("sha256:" + strings.Repeat(c, 64)) }
	return &audit.Record{
		ID: "0199d1d0-7c00-7000-8000-000000000001", Time: 1790000000000000, Kind: audit.Outcome,
		Run: "run_01hzy3v9k2m4n6p8q0r2s4t6v8", Call: "call_01hzy3v9k2m4n6p8q0r2s4t6v9",
		Principal: &audit.Principal{Agent: "support", Release: d("a"), Key: "key_7f3a", Person: "p_5b1d0c"},
		Stage:     sallyport.Production, Upstream: "crm", UpstreamIdentity: d("b"), Tool: "customer_get", ToolDigest: d("c"),
		Method: "tools/call", CallKind: sallyport.KindTool, Access: sallyport.Read,
		Arguments: "hmac-sha256:" + strings.Repeat("d", 64), Result: "hmac-sha256:" + strings.Repeat("e", 64),
		Decision:     &sallyport.Decision{Allow: true, Reasons: []sallyport.Reason{{Policy: "read-crm", Effect: "permit"}}},
		Facts:        json.RawMessage(`{"recipient_domain":"example.org","external":false,"amount":120}`),
		PolicyDigest: d("f"), StageConfig: d("0"), Binding: sallyport.Live, Grade: sallyport.GradeLive,
		Labels:  &sallyport.Labels{Integrity: sallyport.Untrusted, Confidentiality: sallyport.Internal},
		Outcome: sallyport.OutcomeOK, LatencyMicros: 8123, UpstreamMicros: 7901, DataDomain: "main",
	}
}

func TestTypicalRecordIsWrittenWithoutAllocation(t *testing.T) {
	r, dst, tree := typical(), make([]byte, 0, 4096), audit.NewTree()
	hashes := make([]audit.Leaf, 0, 64)
	n := testing.AllocsPerRun(200, func() {
		b, err := r.AppendJSON(dst)
		if err != nil {
			t.Fatal(err)
		}
		hashes = tree.Append(hashes[:0], audit.LeafHash(b))
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r, dst := typical(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		out, err := r.AppendJSON(dst)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(out)))
	}
}

// BenchmarkRecord is all that one record costs before it is stored.
func BenchmarkRecord(b *testing.B) {
	r, dst, tree := typical(), make([]byte, 0, 4096), audit.NewTree()
	var hashes []audit.Leaf
	b.ReportAllocs()
	for b.Loop() {
		out, err := r.AppendJSON(dst)
		if err != nil {
			b.Fatal(err)
		}
		hashes = tree.Append(hashes[:0], audit.LeafHash(out))
	}
}

func BenchmarkParseRecord(b *testing.B) {
	body := write(b, typical())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.ParseRecord(body); err != nil {
			b.Fatal(err)
		}
	}
}
