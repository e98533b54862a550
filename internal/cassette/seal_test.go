package cassette_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/cassette"
)

// masker replaces leaves with a personal class whole, and the people it knows anywhere.
// It leaves what skip names.
type masker struct {
	people []string
	skip   string
	asked  []string
}

func mask(value string) string {
	sum := sha256.Sum256([]byte(value))
	return "p-" + hex.EncodeToString(sum[:5])
}

func (m *masker) Scrub(leaf *cassette.Leaf) (cassette.Scrubbed, error) {
	m.asked = append(m.asked, fmt.Sprintf("%s %s %q %q %s", leaf.Part, leaf.Pointer, leaf.Key, leaf.Class, leaf.Text))
	out := cassette.Scrubbed{Verdict: cassette.Keep}
	switch {
	case leaf.Text == m.skip && m.skip != "":
		return cassette.Scrubbed{Verdict: cassette.Keep}, nil
	case leaf.Class == "broken":
		return cassette.Scrubbed{}, errors.New("cannot be looked into")
	case leaf.Class == "drop":
		return cassette.Scrubbed{}, nil
	case leaf.Class != "" && leaf.Class != cassette.ClassNone:
		text := mask(leaf.Text)
		if leaf.Type == '0' {
			text = "77"
		}
		return cassette.Scrubbed{Verdict: cassette.Replace, Text: text, Found: []cassette.Found{{Class: leaf.Class, Value: leaf.Text}}}, nil
	}
	text := leaf.Text
	for _, p := range m.people {
		if strings.Contains(text, p) {
			text = strings.ReplaceAll(text, p, mask(p))
			out.Found = append(out.Found, cassette.Found{Class: "person", Value: p})
		}
	}
	if len(out.Found) > 0 {
		out.Verdict, out.Text = cassette.Replace, text
	}
	return out, nil
}

func classes(t testing.TB, input, output string, declared cassette.Declared) *cassette.Classes {
	t.Helper()
	c, err := cassette.ClassesOf([]byte(input), []byte(output), declared)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestScrubbed(t *testing.T) {
	cl := classes(t,
		`{"properties":{"who":{"x-data-class":"name"},"note":{"x-data-class":"text"},"filter":{"$ref":"#/$defs/f"}},
		  "$defs":{"f":{"properties":{"mail":{"x-data-class":"email"},"and":{"type":"array","items":{"$ref":"#/$defs/f"}}}}}}`,
		`{"x-data-class":"none","allOf":[{"properties":{"people":{"items":{"properties":{"name":{"x-data-class":"name"},"pay":{"x-data-class":"pay"}}}}}}],
		  "properties":{"oops":{"x-data-class":"broken"},"gone":{"x-data-class":"drop"},"flag":{"x-data-class":"drop"},"deep":{"x-data-class":"name"}}}`,
		cassette.Declared{
			Arguments: map[string]string{"/note": cassette.ClassNone, "/tags/*": "tag"},
			Results:   map[string]string{"/extra/by": "name"},
		})
	blob := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xFF, 0, 7}, 40))
	raw := cassette.Raw{
		Tool: "find", Classes: cl,
		Arguments: []byte(`{"who":"Ann","note":"plain","tags":["x1","x2"],"filter":{"and":[{"mail":"ann@example.com"}]},"Zoe Zed":{"a":1},"free":"ask Zoe Zed"}`),
		Result: []byte(`{"structuredContent": {"people":[{"name":"Bob Builder","pay":5000}],"oops":"something long","gone":"abc","flag":true,"deep":{"er":["Carla C"]},"extra":{"by":"Dora D"}},
			"content":[{"type":"text","text":"{ \"people\": [ {\"name\": \"Bob Builder\", \"pay\": 5000} ] }"},
				{"type":"text","text":"Bob Builder (not Bob Builders) met Carla C"},
				{"type":"text","text":"{ \"nothing\" : \"here\" }"},
				{"type":"image","data":"iVBORw0=","mimeType":"image/png"},
				{"type":"text","text":"` + blob + `"},
				{"type":"text","text":"` + blob + `"},
				{"type":"text","text":"see data:application/pdf;base64,` + blob + ` there"},
				{"type":"text","text":"a\u0000b"},
				{"type":"text","text":"` + strings.Repeat("0123456789abcdef", 8) + `"}]}`),
	}
	m := &masker{people: []string{"Zoe Zed"}}
	data, w := recorded(t, m, raw)
	c := parse(t, data)
	stub := func(n, size int) string {
		return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "dropped %d: %d bytes", n, size))
	}
	pretty := func(raw []byte) string {
		var out bytes.Buffer
		if err := json.Indent(&out, raw, "", " "); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	wantArgs := `{"filter":{"and":[{"mail":"` + mask("ann@example.com") + `"}]},"free":"ask ` + mask("Zoe Zed") + `","note":"plain","` + mask("Zoe Zed") + `":{"a":1},"tags":["` +
		mask("x1") + `","` + mask("x2") + `"],"who":"` + mask("Ann") + `"}`
	if diff := cmp.Diff(pretty([]byte(wantArgs)), pretty(c.Calls[0].Arguments)); diff != "" {
		t.Error(diff)
	}
	wantResult := `{"structuredContent":{"people":[{"name":"` + mask("Bob Builder") + `","pay":77}],"oops":"dropped 1: 14 bytes","gone":"dropped 2: 3 bytes","flag":false,"deep":{"er":["` + mask("Carla C") + `"]},"extra":{"by":"` + mask("Dora D") + `"}},
		"content":[{"type":"text","text":"{\"people\":[{\"name\":\"` + mask("Bob Builder") + `\",\"pay\":77}]}"},
			{"type":"text","text":"` + mask("Bob Builder") + ` (not Bob Builders) met ` + mask("Carla C") + `"},
			{"type":"text","text":"{ \"nothing\" : \"here\" }"},
			{"type":"image","data":"` + stub(3, 8) + `","mimeType":"image/png"},
			{"type":"text","text":"` + stub(4, 160) + `"},
			{"type":"text","text":"` + stub(4, 160) + `"},
			{"type":"text","text":"see data:application/pdf;base64,` + stub(4, 160) + ` there"},
			{"type":"text","text":"dropped 5: 3 bytes"},
			{"type":"text","text":"` + strings.Repeat("0123456789abcdef", 8) + `"}]}`
	if diff := cmp.Diff(pretty([]byte(wantResult)), pretty(c.Calls[0].Result)); diff != "" {
		t.Error(diff)
	}
	report := w.Report()
	if diff := cmp.Diff(map[string]int{"name": 5, "email": 1, "tag": 2, "pay": 2, "person": 2}, report.Replaced); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"the scrubber had an error": 1, "the scrubber said so": 2, "base64": 4, "binary": 1}, report.Dropped); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		`arguments /filter/and/0/mail "mail" "email" ann@example.com`,
		`arguments  "" "" Zoe Zed`,
		`result /structuredContent/people/0/pay "pay" "pay" 5000`,
		`result /content/0/text/~json/people/0/name "name" "name" Bob Builder`,
		`result /structuredContent/deep/er/0 "er" "name" Carla C`,
		`result /content/0/type "type" "" text`,
	} {
		if !strings.Contains("\n"+strings.Join(m.asked, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("the scrubber was not asked about %s", want)
		}
	}
}

// TestEqualNames: two names that become one would lose a member or be refused by who
// reads it.
func TestEqualNames(t *testing.T) {
	data := written(t, collapse{}, read("get", `{}`, `{"by":{"Ann":1,"Bob":2},"n":1}`))
	if got, want := string(parse(t, data).Calls[0].Result), `{}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// collapse gives every name of a member the same pseudonym.
type collapse struct{}

func (collapse) Scrub(leaf *cassette.Leaf) (cassette.Scrubbed, error) {
	if leaf.IsName {
		return cassette.Scrubbed{Verdict: cassette.Replace, Text: "x"}, nil
	}
	return cassette.Scrubbed{Verdict: cassette.Keep}, nil
}

func TestErrorsAreScrubbed(t *testing.T) {
	raw := cassette.Raw{Tool: "get", Error: []byte(`{"code":-32000,"message":"no such customer: Zoe Zed","data":{"tried":["Zoe Zed"]}}`)}
	c := parse(t, written(t, &masker{people: []string{"Zoe Zed"}}, raw))
	want := `{"code":-32000,"message":"no such customer: ` + mask("Zoe Zed") + `","data":{"tried":["` + mask("Zoe Zed") + `"]}}`
	if got := string(c.Calls[0].Error); got != want || !c.Calls[0].IsError {
		t.Errorf("got %s", got)
	}
}

func TestBadClasses(t *testing.T) {
	for _, c := range []struct {
		input    string
		declared cassette.Declared
		want     string
	}{
		{`{"x-data-class":7}`, cassette.Declared{}, "no name of a class"},
		{`{"properties":{"a":{"$ref":"other.json#/a"}}}`, cassette.Declared{}, "this schema alone"},
		{`{"$ref":"#/nothing"}`, cassette.Declared{}, "leads nowhere"},
		{`{`, cassette.Declared{}, "input schema"},
		{`{}`, cassette.Declared{Results: map[string]string{"x": "name"}}, "begin with /"},
		{`{}`, cassette.Declared{Results: map[string]string{"/x": ""}}, "is empty"},
	} {
		if _, err := cassette.ClassesOf([]byte(c.input), nil, c.declared); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.input, err, c.want)
		}
	}
}

// encodings are the ways in which a value may survive.
var encodings = []struct {
	name string
	as   func(t *rapid.T, v string) string
}{
	{"plain", func(_ *rapid.T, v string) string { return v }},
	{"within a word", func(_ *rapid.T, v string) string { return "x" + v + "9" }},
	{"JSON", func(_ *rapid.T, v string) string { return encode(v) }},
	{"JSON in JSON", func(_ *rapid.T, v string) string { return encode(encode(map[string]string{"k": v})) }},
	{"every character escaped", func(_ *rapid.T, v string) string {
		var b strings.Builder
		for _, r := range v {
			if r > 0xFFFF {
				b.WriteRune(r)
				continue
			}
			fmt.Fprintf(&b, `\u%04X`, r)
		}
		return b.String()
	}},
	{"query", func(_ *rapid.T, v string) string { return "https://x.test/?q=" + url.QueryEscape(v) + "&n=1" }},
	{"path", func(_ *rapid.T, v string) string { return "https://x.test/" + url.PathEscape(v) + "/edit" }},
	{"every byte in percent", func(_ *rapid.T, v string) string {
		var b strings.Builder
		for i := range len(v) {
			fmt.Fprintf(&b, "%%%02x", v[i])
		}
		return b.String()
	}},
	{"base64", func(_ *rapid.T, v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }},
	{"base64 for URLs", func(_ *rapid.T, v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }},
	{"base64 around more", func(t *rapid.T, v string) string {
		before := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "after")
		return base64.StdEncoding.EncodeToString([]byte(string(before) + v + string(after)))
	}},
	{"base64 behind a word", func(t *rapid.T, v string) string {
		return rapid.StringMatching(`[a-z/]{0,5}`).Draw(t, "word") + base64.StdEncoding.EncodeToString([]byte(v))
	}},
	{"base64 in lines", func(_ *rapid.T, v string) string {
		text := base64.StdEncoding.EncodeToString([]byte("some text before it, " + v))
		return text[:len(text)/2] + "\r\n" + text[len(text)/2:]
	}},
	{"hexadecimal", func(_ *rapid.T, v string) string { return hex.EncodeToString([]byte(v)) }},
	{"hexadecimal in capitals", func(_ *rapid.T, v string) string { return "a" + strings.ToUpper(hex.EncodeToString([]byte(v))) }},
	{"base64 of JSON", func(_ *rapid.T, v string) string {
		return base64.StdEncoding.EncodeToString([]byte(encode(map[string]string{"k": v})))
	}},
	{"percent of base64", func(_ *rapid.T, v string) string {
		return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(v)))
	}},
	{"other capitals", func(_ *rapid.T, v string) string {
		b := []byte(v)
		for i, c := range b {
			if 'a' <= c && c <= 'z' {
				b[i] = c - 'a' + 'A'
			} else if 'A' <= c && c <= 'Z' {
				b[i] = c - 'A' + 'a'
			}
		}
		return string(b)
	}},
}

// person draws values none of which is a part of another.
func person() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[A-Z][a-z]{4,9} [A-Z][a-z]{9}`),
		rapid.StringMatching(`[a-z]{2,8}@[a-z]{8}\.example`),
		rapid.StringMatching(`\+49 1[0-9]{2} [0-9]{7}`),
		rapid.StringMatching(`DE[0-9]{20}`),
		rapid.StringMatching(`sk_[A-Za-z0-9_-]{30}`),
	)
}

func value() *rapid.Generator[string] {
	return rapid.OneOf(
		person(),
		rapid.StringMatching(`[ -~]{8,30}`).Filter(func(s string) bool { return len(strings.TrimSpace(s)) >= 8 }),
		rapid.StringMatching(`[äöüßéñ日本語]{4,12}`),
	)
}

// TestSealFinds: a value that was replaced in one place and survives in another, in
// whatever encoding and place, keeps the recording from being sealed.
func TestSealFinds(t *testing.T) {
	for _, e := range encodings {
		t.Run(e.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				v := strings.TrimSpace(value().Draw(rt, "value"))
				text := e.as(rt, v)
				if strings.TrimSpace(text) == "" {
					return
				}
				args, result, pointer := `{}`, `{"x":1}`, ""
				switch rapid.IntRange(0, 3).Draw(rt, "place") {
				case 0:
					args, pointer = encode(map[string]any{"a": []string{"b", text}}), "/args/a/1"
				case 1:
					result, pointer = encode(map[string]any{"content": []any{map[string]string{"text": text}}}), "/result/content/0/text"
				case 2:
					result, pointer = encode(map[string]any{text: 1}), "/result/<name 1>"
				case 3:
					result, pointer = encode(map[string]any{text: map[string]string{"t": text}}), "/result/<name 1>"
				}
				others := rapid.SliceOfN(value(), 0, 5).Draw(rt, "others")
				data, w := recorded(t, keepAll{}, read("get", `{}`, `{"fine":true}`), read("get", args, result))
				if len(w.Report().Dropped) > 0 {
					return // nobody could look into it
				}
				for _, o := range append(others, v) {
					w.Originals().Add(o)
				}
				sealed, _, err := cassette.Seal(data, w.Originals(), nil)
				var leak *cassette.Leak
				if !errors.As(err, &leak) || sealed != nil {
					rt.Fatalf("%q as %q: sealed, %v\n%s", v, text, err, data)
				}
				if h := leak.Hits[0]; h.Line != 3 || h.Pointer != pointer && !strings.HasPrefix(h.Pointer, pointer+"/") {
					rt.Errorf("found at line %d, %s; want 3, %s", h.Line, h.Pointer, pointer)
				}
				if strings.Contains(err.Error(), v) {
					rt.Errorf("the value is in the error: %v", err)
				}
				// As a canary it is found as well.
				fresh, w := recorded(t, keepAll{}, read("get", `{}`, `{"fine":true}`), read("get", args, result))
				if _, _, err := cassette.Seal(fresh, w.Originals(), [][]byte{[]byte(v)}); !errors.As(err, &leak) || !leak.Hits[0].Canary {
					rt.Errorf("canary: %v", err)
				}
			})
		})
	}
}

// TestSealed: what a scrubber that forgets nothing has written can be sealed, and holds
// no original; what one that forgets something has written cannot.
func TestSealed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		people := rapid.SliceOfN(person(), 1, 6).Draw(rt, "people")
		var raws []cassette.Raw
		first := ""
		for i := range rapid.IntRange(1, 4).Draw(rt, "calls") {
			who := rapid.SampledFrom(people).Draw(rt, "who")
			if i == 0 {
				first = who
			}
			raws = append(raws, read("get", encode(map[string]any{"who": who, "n": i}),
				encode(map[string]any{"content": []any{map[string]string{"text": "This is " + who + ", " + who + "."}}, who: encode([]string{who})})))
		}
		data, w := recorded(t, &masker{people: people}, raws...)
		sealed, report, err := cassette.Seal(data, w.Originals(), [][]byte{[]byte("canary-1234567")})
		if err != nil {
			rt.Fatal(err)
		}
		for _, p := range people {
			if bytes.Contains(bytes.ToLower(sealed), []byte(strings.ToLower(p))) {
				rt.Fatalf("%q is in\n%s", p, sealed)
			}
		}
		c := parse(t, sealed)
		if c.Evidence() != nil || report.Calls != len(raws) || report.Originals == 0 {
			rt.Fatalf("%v, %+v", c.Evidence(), report)
		}
		forgot, w := recorded(t, &masker{people: people, skip: first}, raws...)
		var leak *cassette.Leak
		if _, _, err := cassette.Seal(forgot, w.Originals(), nil); !errors.As(err, &leak) || leak.Hits[0].Line != 2 || leak.Hits[0].Pointer != "/args/who" {
			rt.Fatalf("%v\n%s", err, forgot)
		}
	})
}

func TestTampering(t *testing.T) {
	data, w := recorded(t, keepAll{}, read("get", `{}`, `{"price":100}`), change("set", `{"a":1}`, `{}`))
	sealed, _, err := cassette.Seal(data, w.Originals(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, sealed)
	if err := c.Evidence(); err != nil {
		t.Fatal(err)
	}
	p := cassette.NewPlayer(deck(t, c, cassette.Rules{}), cassette.Options{})
	if a, err := p.Next("get", nil); err != nil || !a.Evidence {
		t.Errorf("a sealed cassette is no evidence: %v", err)
	}
	p = cassette.NewPlayer(deck(t, parse(t, data), cassette.Rules{}), cassette.Options{})
	if a, err := p.Next("get", nil); err != nil || a.Evidence {
		t.Errorf("a cassette without a seal is evidence: %v", err)
	}
	// Any byte that changes is noticed, in the lines and in the seal.
	for i := range sealed {
		for _, to := range []byte{'0', '7', 'x', sealed[i] ^ 1} {
			if to == sealed[i] {
				continue
			}
			other := bytes.Clone(sealed)
			other[i] = to
			c, err := cassette.Parse(other, cassette.Limits{})
			if err == nil && c.Evidence() == nil {
				t.Fatalf("byte %d, %q for %q, went unnoticed", i, to, sealed[i])
			}
		}
	}
	lines := bytes.SplitAfter(sealed, []byte("\n"))
	for name, other := range map[string][][]byte{
		"a line less":    {lines[0], lines[1], lines[3]},
		"a line behind":  {lines[0], lines[1], lines[2], lines[3], lines[2]},
		"a call behind":  {lines[0], lines[1], lines[2], lines[3], bytes.Replace(lines[2], []byte(`"seq":2`), []byte(`"seq":3`), 1)},
		"two seals":      {lines[0], lines[1], lines[2], lines[3], lines[3]},
		"half the seal":  {lines[0], lines[1], lines[2], lines[3][:20]},
		"without a seal": {lines[0], lines[1], lines[2]},
	} {
		if c, err := cassette.Parse(bytes.Join(other, nil), cassette.Limits{}); err == nil && c.Evidence() == nil {
			t.Errorf("%s: evidence", name)
		}
	}
}

func TestNotSealed(t *testing.T) {
	data, w := recorded(t, keepAll{}, read("get", `{}`, `{"price":100}`))
	sealed, _, err := cassette.Seal(data, w.Originals(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := recorded(t, keepAll{}, read("get", `{}`, `{"price":101}`))
	empty, we := recorded(t, keepAll{})
	for _, c := range []struct {
		name string
		data []byte
		o    *cassette.Originals
		can  string
		want string
	}{
		{"sealed", sealed, w.Originals(), "", "sealed already"},
		{"cut", data[:len(data)-3], w.Originals(), "", "in the middle of the line"},
		{"damaged", bytes.Replace(data, []byte(`"seq":1`), []byte(`"seq":2`), 1), w.Originals(), "", "call 2 stands"},
		{"another recording", other, w.Originals(), "", "line 2: was not written by the recording"},
		{"no originals", data, cassette.NewOriginals(), "", "line 1: was not written by the recording"},
		{"nothing", empty, we.Originals(), "", "no calls"},
		{"short canary", data, w.Originals(), "canary", "at least 8"},
	} {
		var canaries [][]byte
		if c.can != "" {
			canaries = [][]byte{[]byte(c.can)}
		}
		if out, _, err := cassette.Seal(c.data, c.o, canaries); err == nil || out != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestShortValues: from four to seven bytes a value counts as a word of its own alone,
// below four not at all.
func TestShortValues(t *testing.T) {
	for _, c := range []struct {
		value, result string
		found         bool
	}{
		{"Mark", `{"t":"Dear Mark, hello"}`, true},
		{"Mark", `{"t":"the Market"}`, false},
		{"Mark", `{"t":"marked, mark"}`, false},
		{"Mark", `{"Mark":1}`, true},
		{"Mark", `{"t":"TWFyaw=="}`, true},
		{"a@b.c", `{"t":"A@B.C"}`, true},
		{"1842", `{"n":1842}`, true},
		{"1842", `{"n":[18420,21842]}`, false},
		{"read", `{"t":"x"}`, false}, // a word of the format's own
		{"0000", `{"t":"x"}`, false},
		{"Ann", `{"t":"Ann"}`, false},
		{"+49 (0) 30 1234-567", `{"t":"call 490301234567"}`, true},
		{"ABCD EFGH", `{"t":"ABCDEFGH"}`, false}, // no number
		{"\U0001F600\U0001F601!", `{"t":"\\ud83d\\ude00\\uD83D\\uDE01!"}`, true},
	} {
		data, w := recorded(t, keepAll{}, read("get", `{}`, c.result))
		w.Originals().Add(c.value)
		_, report, err := cassette.Seal(data, w.Originals(), nil)
		var leak *cassette.Leak
		if errors.As(err, &leak) != c.found || err != nil && !c.found {
			t.Errorf("%q in %s: %v", c.value, c.result, err)
		}
		if want := len(c.value) < 4; (report.Unsearched == 1) != want {
			t.Errorf("%q: %+v", c.value, report)
		}
	}
}

// swap is a scrubber of short numbers, of which each becomes another one's original.
type swap struct{ bad bool }

func (s swap) Scrub(leaf *cassette.Leaf) (cassette.Scrubbed, error) {
	if leaf.Key != "id" || leaf.IsName {
		return cassette.Scrubbed{Verdict: cassette.Keep}, nil
	}
	n, err := strconv.Atoi(leaf.Text)
	if err != nil {
		return cassette.Scrubbed{}, err
	}
	to := strconv.Itoa(21003 - n)
	if s.bad && n == 10001 {
		to = leaf.Text
	}
	return cassette.Scrubbed{Verdict: cassette.Replace, Text: to, Found: []cassette.Found{{Class: "id", Value: leaf.Text}}}, nil
}

// TestCoincidence: short ids are permuted, so one's pseudonym may be another's original.
func TestCoincidence(t *testing.T) {
	calls := []cassette.Raw{read("get", `{"id":10001}`, `{}`), read("get", `{"id":11002}`, `{}`)}
	data, w := recorded(t, swap{}, calls...)
	if _, report, err := cassette.Seal(data, w.Originals(), nil); err != nil || report.Coincidences != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	data, w = recorded(t, swap{bad: true}, calls...)
	var leak *cassette.Leak
	if _, _, err := cassette.Seal(data, w.Originals(), nil); !errors.As(err, &leak) || leak.Total != 2 {
		t.Errorf("one that became itself: %v", err)
	}
}

// TestTimesCoincide: times that are shifted become one another's originals.
func TestTimesCoincide(t *testing.T) {
	cl := classes(t, `{"properties":{"id":{"x-data-class":"date"}}}`, "", cassette.Declared{})
	var raws []cassette.Raw
	for _, day := range []string{"2026-11-01", "2026-11-02", "2026-11-03"} {
		raw := read("get", `{"id":"`+day+`"}`, `{}`)
		raw.Classes = cl
		raws = append(raws, raw)
	}
	data, w := recorded(t, tomorrow{}, raws...)
	if _, report, err := cassette.Seal(data, w.Originals(), nil); err != nil || report.Coincidences != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	data, w = recorded(t, tomorrow{}, append(raws, read("get", `{}`, `{"when":"2026-11-01"}`))...)
	var leak *cassette.Leak
	if _, _, err := cassette.Seal(data, w.Originals(), nil); !errors.As(err, &leak) || leak.Total != 1 {
		t.Errorf("a time that nothing became: %v", err)
	}
}

// tomorrow makes the next day of each day in 2026-11 that has a class.
type tomorrow struct{}

func (tomorrow) Scrub(leaf *cassette.Leaf) (cassette.Scrubbed, error) {
	if leaf.Class != "date" {
		return cassette.Scrubbed{Verdict: cassette.Keep}, nil
	}
	text := leaf.Text[:9] + string(leaf.Text[9]+1)
	return cassette.Scrubbed{Verdict: cassette.Replace, Text: text, Found: []cassette.Found{{Class: "date", Value: leaf.Text}}}, nil
}

// TestSearchIsComplete holds the search against the plainest one, with values that
// overlap in every way.
func TestSearchIsComplete(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		whole := rapid.StringOfN(rapid.RuneFrom([]rune("abB")), 24, 40, -1).Draw(rt, "whole")
		part := rapid.Custom(func(t *rapid.T) string {
			from := rapid.IntRange(0, len(whole)-8).Draw(t, "from")
			return whole[from:rapid.IntRange(from+8, min(len(whole), from+14)).Draw(t, "to")]
		})
		values := rapid.SliceOfN(part, 1, 12).Draw(rt, "values")
		texts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return rapid.StringMatching(`[ab]{0,3}`).Draw(t, "before") + part.Draw(t, "part") + rapid.StringMatching(`[ab]{0,3}`).Draw(t, "after")
		}), 1, 5).Draw(rt, "texts")
		data, w := recorded(t, keepAll{}, read("get", `{}`, encode(map[string]any{"l": texts})))
		for _, v := range values {
			w.Originals().Add(v)
		}
		want := map[string]int{}
		total := 0
		for i, text := range texts {
			seen := map[string]bool{}
			for _, v := range values {
				if strings.Contains(strings.ToLower(text), strings.ToLower(v)) && !seen[v] {
					seen[v] = true
					want[fmt.Sprint("/result/l/", i)]++
					total++
				}
			}
		}
		_, _, err := cassette.Seal(data, w.Originals(), nil)
		var leak *cassette.Leak
		if !errors.As(err, &leak) {
			leak = &cassette.Leak{}
			if err != nil {
				rt.Fatal(err)
			}
		}
		got := map[string]int{}
		for _, h := range leak.Hits {
			got[h.Pointer]++
		}
		if diff := cmp.Diff(want, got); diff != "" || leak.Total != total {
			rt.Fatalf("%d, want %d: %s", leak.Total, total, diff)
		}
	})
}

func TestManyHits(t *testing.T) {
	var raws []cassette.Raw
	for range 30 {
		raws = append(raws, read("get", `{"a":["Zoe Zedson","x","Zoe Zedson"],"b":"Zoe Zedson Zoe Zedson"}`, encode(strings.Split(strings.Repeat("Zoe Zedson,", 9), ","))))
		raws[len(raws)-1].Result = []byte(`{"l":` + string(raws[len(raws)-1].Result) + `}`)
	}
	data, w := recorded(t, keepAll{}, raws...)
	w.Originals().Add("Zoe Zedson")
	_, _, err := cassette.Seal(data, w.Originals(), nil)
	var leak *cassette.Leak
	if !errors.As(err, &leak) || len(leak.Hits) != 100 || leak.Total != 30*12 || strings.Contains(err.Error(), "Zoe") {
		t.Errorf("%d of %d: %v", len(leak.Hits), leak.Total, err)
	}
}
