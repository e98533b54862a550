package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// TestYAMLSaysWhatJSONSays: read back, both are the same value, whatever is in it.
func TestYAMLSaysWhatJSONSays(t *testing.T) {
	var value *rapid.Generator[any]
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "null", "yes", "no", "~", "1e3", "0x10", "2026-01-05", "- a", "a: b", "#", "\t", " x ", "a\nb", "<<", "=", "'", `"`, "\u2028", "{", "!x", "&x"}))
	value = rapid.Deferred(func() *rapid.Generator[any] {
		return rapid.OneOf(
			rapid.Map(text, func(s string) any { return s }),
			rapid.Map(rapid.IntRange(-1000, 1000), func(n int) any { return float64(n) }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
			rapid.Just[any](nil),
			rapid.Map(rapid.SliceOfN(value, 0, 4), func(l []any) any { return l }),
			rapid.Map(rapid.MapOfN(text, value, 0, 4), func(m map[string]any) any { return m }),
		)
	})
	rapid.Check(t, func(t *rapid.T) {
		raw, err := encode("json", value.Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := toYAML(raw)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(asYAML, &got); err != nil {
			t.Fatalf("%v in:\n%s", err, asYAML)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s\n%s", d, asYAML)
		}
	})
}

func TestNumbersKeepTheirDigits(t *testing.T) {
	raw, err := toYAML([]byte(`{"big":12345678901234567890,"exact":1.10,"exp":1E+2,"list":[],"none":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "big: 12345678901234567890\nexact: 1.10\nexp: 1E+2\nlist: []\nnone: {}\n"; string(raw) != want {
		t.Errorf("got\n%swant\n%s", raw, want)
	}
}

// TestNothingFromOutsideReachesTheTerminal: names of tools, reasons and whatever
// servers say are shown, and move no cursor, set no colour and start no new line.
func TestNothingFromOutsideReachesTheTerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("\x1b[31m\n\r\t\a\u009b\u202e\u2066\u2028ab")))).Draw(t, "text")
		p := newPaper(nil)
		p.width, p.colour = 80, true
		p.line("%s", s)
		p.fields("name", s)
		p.note("%s", s)
		table := columns("A", "B")
		table.row(s, s)
		p.table(table)
		for line := range strings.Lines(p.b.String()) {
			line = strings.TrimSuffix(line, "\n")
			for _, own := range []string{bold, dim, red, green, yellow, "0"} {
				line = strings.ReplaceAll(line, "\x1b["+own+"m", "")
			}
			if i := strings.IndexFunc(line, func(r rune) bool {
				return unicode.IsControl(r) || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\u2028'
			}); i >= 0 {
				t.Fatalf("%q is in %q", line[i:], line)
			}
		}
	})
}

func TestTable(t *testing.T) {
	table := columns("NAME", "CALLS>", "WHY")
	table.row("crm", "7", "short")
	table.row("東京", "1234", "a reason that is much too long for so narrow a terminal")
	table.row("e\u0301", "-")
	p := newPaper(nil)
	p.table(table)
	want := "NAME  CALLS  WHY\n" +
		"crm       7  short\n" +
		"東京   1234  a reason that is much too long for so narrow a terminal\n" +
		"e\u0301         -\n"
	if d := cmp.Diff(want, p.b.String()); d != "" {
		t.Error(d)
	}
	p = newPaper(nil)
	p.width = 40
	p.table(table)
	for line := range strings.Lines(p.b.String()) {
		if n := cells(strings.TrimSuffix(line, "\n")); n > 40 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if !strings.Contains(p.b.String(), "…") {
		t.Errorf("nothing was cut:\n%s", &p.b)
	}
	// Where there is hardly any room for the last column it goes below; a column
	// that says nothing goes away.
	wide := columns("NAME", "NOTHING", "ID", "WHY")
	wide.row("a", "-", strings.Repeat("x", 24), "because of this")
	wide.row("b", "-", strings.Repeat("y", 24), "-")
	below := newPaper(nil)
	below.width = 40
	below.table(wide)
	want = "NAME  ID\n" +
		"a     xxxxxxxxxxxxxxxxxxxxxxxx\n" +
		"    because of this\n" +
		"b     yyyyyyyyyyyyyyyyyyyyyyyy\n"
	if d := cmp.Diff(want, below.b.String()); d != "" {
		t.Error(d)
	}
	if strings.Contains(p.b.String(), "\x1b") {
		t.Errorf("there is colour where none was asked for:\n%q", &p.b)
	}
}

func TestCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, most := rapid.String().Draw(t, "s"), rapid.IntRange(1, 20).Draw(t, "most")
		got := cut(s, most)
		if cells(got) > most {
			t.Fatalf("cut(%q, %d) = %q, which is %d wide", s, most, got, cells(got))
		}
		if cells(s) <= most && got != s {
			t.Fatalf("cut(%q, %d) = %q", s, most, got)
		}
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Fatalf("cut(%q, %d) is not UTF-8", s, most)
		}
	})
}

func TestFormats(t *testing.T) {
	list := []map[string]int{{"a": 1}, {"a": 2}}
	for format, want := range map[string]string{
		"jsonl": "{\"a\":1}\n{\"a\":2}\n",
		"json":  "[\n  {\n    \"a\": 1\n  },\n  {\n    \"a\": 2\n  }\n]\n",
		"yaml":  "- a: 1\n- a: 2\n",
	} {
		got, err := encode(format, list)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s", format, err, got)
		}
	}
	// Nothing is an empty list, and no lines.
	for format, want := range map[string]string{"jsonl": "", "json": "[]\n", "yaml": "[]\n"} {
		got, err := encode(format, []string(nil))
		if err != nil || string(got) != want {
			t.Errorf("%s of nothing: %v %q", format, err, got)
		}
	}
	if got, err := encode("json", "<a> & b"); err != nil || string(got) != "\"<a> & b\"\n" {
		t.Errorf("%s %v", got, err)
	}
}

func TestLineDiff(t *testing.T) {
	old := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	next := []string{"a", "b", "c", "d", "E", "f", "g", "h", "i"}
	want := []string{"  c", "  d", "- e", "+ E", "  f", "  g", "  h", "+ i"}
	if d := cmp.Diff(want, lineDiff(old, next)); d != "" {
		t.Error(d)
	}
	lines := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		old, next := lines.Draw(t, "old"), lines.Draw(t, "next")
		count := map[string]int{}
		for _, l := range old {
			count[l]++
		}
		for _, l := range lineDiff(old, next) {
			switch l[:2] {
			case "- ":
				count[l[2:]]--
			case "+ ":
				count[l[2:]]++
			}
		}
		for _, l := range next {
			count[l]--
		}
		for l, n := range count {
			if n != 0 {
				t.Fatalf("%q is off by %d", l, n)
			}
		}
		if slices.Equal(old, next) && len(lineDiff(old, next)) > 0 {
			t.Fatal("the same lines differ")
		}
	})
}

func TestBar(t *testing.T) {
	if got, want := bar("verifying", "records", 50, 200, 60), "verifying ██████░░░░░░░░░░░░░░░░░░  25%  50 of 200 records"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, 1<<40).Draw(t, "total")
		done, width := rapid.Int64Range(0, 1<<40).Draw(t, "done"), rapid.IntRange(60, 200).Draw(t, "width")
		if got := bar("exporting", "records", done, total, width); cells(got) >= width {
			t.Fatalf("%q takes %d of %d columns", got, cells(got), width)
		}
	})
	// Where nobody looks nothing is drawn, and a bar that was drawn is taken away.
	var out bytes.Buffer
	b := &progress{out: &out, what: "x", began: time.Now().Add(-time.Hour)}
	b.set(1, 2)
	b.end()
	if out.Len() != 0 {
		t.Errorf("drawn without a terminal: %q", &out)
	}
	b.width = 80
	b.set(1, 2)
	b.end()
	if !strings.HasSuffix(out.String(), "\r\x1b[K") || !strings.Contains(out.String(), "50%") {
		t.Errorf("%q", &out)
	}
}

func TestSinceWhen(t *testing.T) {
	now := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"": {}, "90s": now.Add(-90 * time.Second), "2h": now.Add(-2 * time.Hour), "2026-01-01T00:00:00Z": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got, err := sinceWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if _, err := sinceWhen("yesterday", now); exitCode(err) != exitUsage {
		t.Errorf("yesterday: %v", err)
	}
}
