package cassette_test

import (
	"bytes"
	"fmt"
	"testing"

	"sallyport/internal/cassette"
)

// shop records n calls of a shop, each of another customer and order.
func shop(b *testing.B, n int) (*cassette.Cassette, []byte, *cassette.Writer) {
	b.Helper()
	var file bytes.Buffer
	w, err := cassette.NewWriter(&file, header(), keepAll{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		args := fmt.Sprintf(`{"amount":%d.5,"currency":"EUR","customer":"cus_%06d","lines":[{"sku":"A-%d","n":1},{"sku":"B","n":2}],"request":"r-%d"}`, i, i, i%97, i)
		result := fmt.Sprintf(`{"structuredContent":{"id":"ord_%06d","customer":{"id":"cus_%06d","name":"p-%010x","mail":"u-%010x@masked.invalid","street":"No street at all %d"},"total":%d.50,"status":"open","lines":[{"sku":"A-%d","price":"12.50","text":"A cup, of the kind that has a handle"},{"sku":"B","price":"3.00","text":"A saucer to put under it"}],"created":"2026-11-01T10:02:11Z"},"content":[{"type":"text","text":"{\"id\":\"ord_%06d\",\"status\":\"open\"}"}]}`,
			i, i, i*7919, i*104729, i, i, i%97, i)
		if err := w.Append(read("order", args, result)); err != nil {
			b.Fatal(err)
		}
	}
	return parse(b, file.Bytes()), file.Bytes(), w
}

func BenchmarkMatch(b *testing.B) {
	const n = 10_000
	c, _, _ := shop(b, n)
	rules := ignoring("/request")
	rules.Arguments.Tolerate = []cassette.Tolerate{{Path: "/amount", Number: "0.1"}, {Path: "/lines", Set: true}}
	d := deck(b, c, rules)
	ask := func(format string, args ...any) [][]byte {
		var out [][]byte
		for i := range n {
			out = append(out, fmt.Appendf(nil, format, append([]any{i, i, i % 97, i}, args...)...))
		}
		return out
	}
	for _, bench := range []struct {
		name  string
		tier  cassette.Tier
		calls [][]byte
	}{
		{"T0", cassette.Exact, ask(`{"amount":%d.5,"currency":"EUR","customer":"cus_%06d","lines":[{"sku":"A-%d","n":1},{"sku":"B","n":2}],"request":"r-%d"}`)},
		{"T1", cassette.Bounded, ask(`{"amount":%d.5,"currency":"EUR","customer":"cus_%06d","lines":[{"sku":"A-%d","n":1},{"sku":"B","n":2}],"request":"x-%d"}`)},
		{"T2", cassette.Tolerated, ask(`{"amount":%d.45,"currency":"EUR","customer":"cus_%06d","lines":[{"sku":"B","n":2},{"sku":"A-%d","n":1}],"request":"x-%d"}`)},
		{"miss", 0, ask(`{"amount":%d.5,"currency":"USD","customer":"cus_%06d","lines":[{"sku":"A-%d","n":1},{"sku":"B","n":2}],"request":"r-%d"}`)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p := cassette.NewPlayer(d, cassette.Options{})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%n == 0 {
					p = cassette.NewPlayer(d, cassette.Options{})
				}
				if a, err := p.Next("order", bench.calls[i%n]); a.Tier != bench.tier || (err == nil) != (bench.tier != 0) {
					b.Fatal(a.Tier, err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "match/s")
		})
	}
}

// BenchmarkRepeats is one poll that was recorded 10,000 times.
func BenchmarkRepeats(b *testing.B) {
	const n = 10_000
	var file bytes.Buffer
	w, err := cassette.NewWriter(&file, header(), keepAll{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		if err := w.Append(read("poll", `{}`, answer(i))); err != nil {
			b.Fatal(err)
		}
	}
	d := deck(b, parse(b, file.Bytes()), cassette.Rules{})
	p := cassette.NewPlayer(d, cassette.Options{})
	for i := 0; b.Loop(); i++ {
		if i%(2*n) == 0 {
			p = cassette.NewPlayer(d, cassette.Options{})
		}
		if _, err := p.Next("poll", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	_, data, w := shop(b, 10_000)
	for i := range 10_000 {
		switch i % 3 {
		case 0:
			w.Originals().Add(fmt.Sprintf("Person%d Surname%d", i*7919%100003, i))
		case 1:
			w.Originals().Add(fmt.Sprintf("person%d@company%d.example", i, i%50))
		default:
			w.Originals().Add(fmt.Sprintf("+49 151 %07d", i*104729%10000000))
		}
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, report, err := cassette.Seal(data, w.Originals(), nil); err != nil || report.Originals != 10_000 {
			b.Fatal(report, err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	_, data, _ := shop(b, 10_000)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := cassette.Parse(data, cassette.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	var file bytes.Buffer
	w, err := cassette.NewWriter(&file, header(), keepAll{})
	if err != nil {
		b.Fatal(err)
	}
	raw := read("order", `{"amount":1.5,"currency":"EUR"}`, `{"structuredContent":{"id":"ord_1","status":"open","lines":[{"sku":"A","text":"A cup"}]},"content":[]}`)
	for i := 0; b.Loop(); i++ {
		if i%50_000 == 0 {
			file.Reset()
			if w, err = cassette.NewWriter(&file, header(), keepAll{}); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Append(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLiveness(b *testing.B) {
	c, _, _ := shop(b, 1000)
	for b.Loop() {
		if _, err := cassette.Liveness(c, cassette.Rules{}); err != nil {
			b.Fatal(err)
		}
	}
}
