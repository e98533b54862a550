package descriptor_test

import (
	"encoding/json"
	"strings"
	"testing"

	"sallyport/internal/descriptor"
)

// FuzzDescriptors: whatever a server says of its tools, reading it ends, a set compared
// with itself has no changes, and nothing that is shown obeys a terminal.
func FuzzDescriptors(f *testing.F) {
	f.Add([]byte(`{"name":"a","inputSchema":{"type":"object"}}`), []byte(`{"name":"a","inputSchema":{"type":"object","required":["x"]}}`))
	f.Add([]byte(`{"name":"a","inputSchema":{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}}}`), []byte(`{"name":"a","inputSchema":{"$ref":"#/$defs/b","$defs":{"b":{"anyOf":[{"$ref":"#"}]}}}}`))
	f.Add([]byte("{\"name\":\"\\u001b]8;;x\\u0007\",\"description\":\"\\udb40\\udc41\"}"), []byte(`{"name":"b","inputSchema":{"minimum":1e400,"multipleOf":0}}`))
	f.Add([]byte(`{"name":"a","annotations":{"readOnlyHint":"yes"},"outputSchema":[]}`), []byte(`{"name":"a","annotations":[],"outputSchema":{"properties":{"x":{}}}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		one, other := setOf(string(a)), setOf(string(b))
		found, err := descriptor.Check(one, *other)
		if err == nil {
			for _, x := range found {
				plain(t, x.Tool, x.Excerpt)
			}
			same, err := descriptor.Compare(one, one)
			if err != nil || len(same) > 0 {
				t.Fatalf("against itself: %+v, %v", same, err)
			}
		}
		changes, err := descriptor.Compare(one, other)
		if err != nil {
			return
		}
		for _, c := range changes {
			plain(t, c.Tool, c.Was)
			if len(c.Parts) == 0 || c.Effect == 0 {
				t.Fatalf("a change without a part: %+v", c)
			}
			for _, p := range c.Parts {
				plain(t, p.What)
			}
		}
	})
}

func plain(t *testing.T, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if strings.ContainsFunc(s, func(r rune) bool {
			return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || 0x202a <= r && r <= 0x202e || 0xe0000 <= r && r < 0xe0080
		}) {
			t.Fatalf("%q is not plain", s)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	var sets []descriptor.Set
	size, tools := 0, 0
	for _, f := range benign(b) {
		sets = append(sets, f.set())
		for _, d := range f.Tools {
			size += len(d)
			tools++
		}
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		for i := range sets {
			if _, err := descriptor.Check(&sets[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*tools), "µs/tool")
}

func BenchmarkCompare(b *testing.B) {
	old := benign(b)[len(benign(b))-3].set()
	next := old
	next.Tools = nil
	for _, t := range old.Tools {
		next.Tools = append(next.Tools, descriptor.Tool{Definition: json.RawMessage(strings.ReplaceAll(string(t.Definition), `"string"`, `["string","null"]`))})
	}
	for b.Loop() {
		if _, err := descriptor.Compare(&old, &next); err != nil {
			b.Fatal(err)
		}
	}
}
