package canonical_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"sallyport/internal/canonical"
)

func TestJSON(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"white space", " { \"a\" :\t[ 1 ,\r\n2 ] } \n", `{"a":[1,2]}`},
		{"order", `{"b":1,"a":2,"":3,"B":4,"aa":5}`, `{"":3,"B":4,"a":2,"aa":5,"b":1}`},
		{"order is not that of the escapes", `{"\u007a":1,"a":2}`, `{"a":2,"z":1}`},
		{"order is not that of what is written", `{"a\"":1,"a#":2,"a\u0001":3,"a ":4}`, `{"a\u0001":3,"a ":4,"a\"":1,"a#":2}`},
		{"order of bytes, not of UTF-16", "{\"\U0001F600\":1,\"\uFB33\":2}", "{\"\uFB33\":2,\"\U0001F600\":1}"},
		{"order inside", `{"z":{"b":[{"d":1,"c":2}],"a":{}},"y":{"b":0,"a":0}}`, `{"y":{"a":0,"b":0},"z":{"a":{},"b":[{"c":2,"d":1}]}}`},
		{"arrays keep theirs", `[3,1,2,{"b":0,"a":0},[]]`, `[3,1,2,{"a":0,"b":0},[]]`},
		{"numbers", `[0,-0,1.0,1,1e0,1E0,1E+0,12345678901234567890,0.10,1e999]`, `[0,-0,1.0,1,1e0,1E0,1E+0,12345678901234567890,0.10,1e999]`},
		{"words", `[true,false,null]`, `[true,false,null]`},
		{"escapes", `"\"\\\/\b\f\n\r\t\u0041\u00e4\u001F\u0000\u007f\u2028\ud83d\ude00<>&"`, "\"\\\"\\\\/\\b\\f\\n\\r\\tAä\\u001f\\u0000\x7f\u2028😀<>&\""},
		{"short escapes from long ones", `"\u0008\u000C\u000a\u000D\u0009\u0022\u005c\u002f"`, `"\b\f\n\r\t\"\\/"`},
		{"scalar", ` 1.50 `, `1.50`},
		{"empty", `{"a":{},"b":[],"c":""}`, `{"a":{},"b":[],"c":""}`},
		{"deepest", strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 64) + strings.Repeat("]", 64)},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := []byte(c.raw)
			got, err := canonical.JSON(raw)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if string(raw) != c.raw {
				t.Errorf("the document itself became %s", raw)
			}
		})
	}
}

func TestJSONRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":                    ``,
		"white space":                " \n",
		"two values":                 `{} {}`,
		"garbage behind":             `1x`,
		"comma behind":               `1,`,
		"cut":                        `{"a":[1,`,
		"cut after a name":           `{"a"`,
		"comma last":                 `[1,]`,
		"wrong bracket":              `[1}`,
		"duplicate":                  `{"a":1,"b":2,"a":1}`,
		"duplicate with an escape":   `{"a":1,"\u0061":1}`,
		"duplicate inside":           `[[{"x":{"a":1,"a":1}}]]`,
		"half of a surrogate pair":   `"\ud800"`,
		"half in a name":             `{"\udc00":1}`,
		"not UTF-8":                  "\"\xff\"",
		"not UTF-8 in a name":        "{\"\xe4\":1}",
		"control character":          "\"\x01\"",
		"byte order mark":            "\uFEFF1",
		"leading zero":               `01`,
		"NaN":                        `NaN`,
		"too deep":                   strings.Repeat("[", 65) + strings.Repeat("]", 65),
		"too deep in objects":        strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65),
		"far too deep":               strings.Repeat("[", 1<<20),
		"name that is not a string":  `{1:2}`,
		"name that is null":          `{null:2}`,
		"object instead of its name": `{{}:2}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := canonical.JSON([]byte(raw)); err == nil {
				t.Errorf("became %s", got)
			}
			if got, err := canonical.Sum([]byte(raw)); err == nil || got != "" {
				t.Errorf("has the digest %q", got)
			}
			if same, err := canonical.Equal([]byte(raw), []byte(raw)); err == nil || same {
				t.Error("equals itself")
			}
			if same, err := canonical.Equal([]byte("1"), []byte(raw)); err == nil || same {
				t.Error("equals 1")
			}
		})
	}
}

func TestSum(t *testing.T) {
	// The digest of the empty text and of "abc": FIPS 180-2.
	for text, want := range map[string]string{
		"":    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	} {
		if got := canonical.SumBytes([]byte(text)); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	got, err := canonical.Sum([]byte(` {"b": 1.0, "a": "\u00e4"}`))
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(`{"a":"ä","b":1.0}`))); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":2}`, ` { "\u0062": 2, "a": 1 } `, true},
		{`{"a":1}`, `{"a":1.0}`, false},
		{`{"a":1e3}`, `{"a":1E3}`, false},
		{`{"a":12345678901234567890}`, `{"a":12345678901234567000}`, false},
		{`[1,2]`, `[2,1]`, false},
		{`{"a":null}`, `{}`, false},
		{`"1"`, `1`, false},
		{`"ä"`, "\"a\u0308\"", false}, // no normalisation
		{`0`, `-0`, false},
	} {
		if got, err := canonical.Equal([]byte(c.a), []byte(c.b)); err != nil || got != c.want {
			t.Errorf("%s and %s: %v, %v", c.a, c.b, got, err)
		}
	}
}

// node is a document before it is written.
type node struct {
	scalar   string // if not "", a number, a word or, with a quote before it, a text
	names    []string
	children []node // with names those of an object
	isObject bool
}

func genNode(t *rapid.T, depth int) node {
	kinds := 4
	if depth == 0 {
		kinds = 2
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		return node{scalar: rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")}
	case 1:
		return node{scalar: rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?`).Draw(t, "number")}
	case 2:
		return node{scalar: `"` + rapid.String().Draw(t, "text")}
	case 3:
		var n node
		for range rapid.IntRange(0, 4).Draw(t, "elements") {
			n.children = append(n.children, genNode(t, depth-1))
		}
		return n
	default:
		n := node{isObject: true, names: rapid.SliceOfNDistinct(rapid.String(), 0, 8, rapid.ID[string]).Draw(t, "names")}
		for range n.names {
			n.children = append(n.children, genNode(t, depth-1))
		}
		return n
	}
}

// write spells a document at random: order of members, white space, escapes.
func (n node) write(t *rapid.T, b *strings.Builder) {
	space := func() {
		if rapid.IntRange(0, 5).Draw(t, "space") == 0 {
			b.WriteString(rapid.StringMatching(`[ \t\r\n]{1,3}`).Draw(t, "spaces"))
		}
	}
	text := func(s string) {
		b.WriteByte('"')
		for _, r := range s {
			switch {
			case r > 0xFFFF && rapid.Bool().Draw(t, "pair"):
				fmt.Fprintf(b, `\u%04x\u%04X`, 0xD800+(r-0x10000)>>10, 0xDC00+(r-0x10000)&0x3FF)
			case r < 0x20, r == '"', r == '\\', r <= 0xFFFF && rapid.IntRange(0, 5).Draw(t, "escape") == 0:
				fmt.Fprintf(b, `\u%04X`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
	}
	space()
	defer space()
	if s, ok := strings.CutPrefix(n.scalar, `"`); ok {
		text(s)
		return
	}
	if n.scalar != "" {
		b.WriteString(n.scalar)
		return
	}
	order := make([]int, len(n.children))
	for i := range order {
		order[i] = i
	}
	ends := "[]"
	if n.isObject {
		ends = "{}"
		order = rapid.Permutation(order).Draw(t, "order")
	}
	b.WriteByte(ends[0])
	for i, at := range order {
		if i > 0 {
			b.WriteByte(',')
		}
		if n.isObject {
			space()
			text(n.names[at])
			space()
			b.WriteByte(':')
		}
		n.children[at].write(t, b)
	}
	space()
	b.WriteByte(ends[1])
}

func (n node) spell(t *rapid.T) []byte {
	var b strings.Builder
	n.write(t, &b)
	return []byte(b.String())
}

// numbers returns the number tokens of a document in the order of their places.
func (n node) numbers(all []*string) []*string {
	for i := range n.children {
		c := &n.children[i]
		if c.scalar != "" && strings.ContainsRune("-0123456789", rune(c.scalar[0])) {
			all = append(all, &c.scalar)
		}
		all = c.numbers(all)
	}
	return all
}

func TestOneDocumentHasOneForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := genNode(t, 3)
		a, b := doc.spell(t), doc.spell(t)
		form, err := canonical.JSON(a)
		if err != nil {
			t.Fatalf("%q: %v", a, err)
		}
		other, err := canonical.JSON(b)
		if err != nil || !bytes.Equal(form, other) {
			t.Fatalf("%q\nbecame %q,\n%q\nbecame %q, %v", a, form, b, other, err)
		}
		again, err := canonical.JSON(form)
		if err != nil || !bytes.Equal(form, again) {
			t.Fatalf("%q became %q, %v", form, again, err)
		}
		checkForm(t, a, form)

		// Another spelling of one number makes another document.
		if numbers := doc.numbers(nil); len(numbers) > 0 {
			n := rapid.SampledFrom(numbers).Draw(t, "number")
			if strings.ContainsAny(*n, ".eE") {
				*n = "7" + strings.TrimPrefix(*n, "-")
			} else {
				*n += ".0"
			}
			c := doc.spell(t)
			if same, err := canonical.Equal(a, c); err != nil || same {
				t.Fatalf("%q equals %q, %v", a, c, err)
			}
		}
	})
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkForm checks with json v2 that form says what raw says, and is sorted and
// written as JSON promises.
func checkForm(t failer, raw, form []byte) {
	t.Helper()
	compact := jsontext.Value(bytes.Clone(form))
	if err := compact.Compact(jsontext.EscapeForHTML(false), jsontext.EscapeForJS(false), jsontext.PreserveRawStrings(false)); err != nil {
		t.Fatalf("v2 refuses the form %q of %q: %v", form, raw, err)
	}
	if !bytes.Equal(compact, form) {
		t.Fatalf("%q became %q, which v2 writes %q", raw, form, compact)
	}
	checkSame(t, raw, form)
}

func checkSame(t failer, raw, form jsontext.Value) {
	t.Helper()
	if raw.Kind() != form.Kind() {
		t.Fatalf("%q became %q", raw, form)
	}
	decode := func(v jsontext.Value, into any) {
		if err := jsonv2.Unmarshal(v, into); err != nil {
			t.Fatalf("v2 refuses %q: %v", v, err)
		}
	}
	switch form.Kind() {
	case '{':
		var a, b map[string]jsontext.Value
		decode(raw, &a)
		decode(form, &b)
		if len(a) != len(b) {
			t.Fatalf("%q became %q", raw, form)
		}
		for name := range a {
			checkSame(t, a[name], b[name])
		}
		var order []string
		d := jsontext.NewDecoder(bytes.NewReader(form))
		for {
			tok, err := d.ReadToken()
			if err != nil {
				break
			}
			if d.StackDepth() == 1 && tok.Kind() == '"' {
				if _, n := d.StackIndex(1); n%2 == 1 {
					order = append(order, tok.String())
				}
			}
		}
		if !slices.IsSorted(order) || len(order) != len(b) {
			t.Fatalf("members of %q are in the order %q", form, order)
		}
	case '[':
		var a, b []jsontext.Value
		decode(raw, &a)
		decode(form, &b)
		if len(a) != len(b) {
			t.Fatalf("%q became %q", raw, form)
		}
		for i := range a {
			checkSame(t, a[i], b[i])
		}
	case '"':
		var a, b string
		decode(raw, &a)
		decode(form, &b)
		if a != b {
			t.Fatalf("%q became %q", raw, form)
		}
	default:
		if strings.Trim(string(raw), " \t\r\n") != string(form) {
			t.Fatalf("%q became %q", raw, form)
		}
	}
}

// FuzzJSON checks that whatever json v2 takes and is not nested too deeply has a
// form and nothing else has, that the form says the same, and that it is its own
// form.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"b":[1.0,{"y":"\u00e4","x":null}],"a":-0}`, `"\ud83d\ude00"`, `{"a":1,"a":2}`, ``, `[`, `1 2`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		depth, deepest := 0, 0
		for d := jsontext.NewDecoder(bytes.NewReader(raw)); ; {
			if _, err := d.ReadToken(); err != nil {
				break
			}
			depth = d.StackDepth()
			deepest = max(deepest, depth)
		}
		form, err := canonical.JSON(raw)
		if want := jsontext.Value(raw).IsValid() && deepest <= canonical.MaxDepth; (err == nil) != want {
			t.Fatalf("%q: %v, v2 says %v", raw, err, want)
		}
		if err != nil {
			return
		}
		checkForm(t, raw, form)
		again, err := canonical.JSON(form)
		if err != nil || !bytes.Equal(again, form) {
			t.Fatalf("%q became %q, then %q, %v", raw, form, again, err)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	call := []byte(`{"customer_id":"C-20391","fields":{"status":"active","credit_limit":2500,"note":"raised after the yearly review"}}`)
	var tools strings.Builder
	for i := range 200 {
		fmt.Fprintf(&tools, `,{"name":"tool_%d","description":"does %d things","inputSchema":{"type":"object","required":["a"],"properties":{"b":{"type":"integer"},"a":{"type":"string"}}}}`, i, i)
	}
	for name, raw := range map[string][]byte{"call": call, "tools200": []byte("[" + tools.String()[1:] + "]")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := canonical.Sum(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
