package guard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"sallyport"
	"sallyport/internal/detect"
	"sallyport/internal/guard"
)

// BenchmarkCheck is of about 1 MB in which every 13th row has something to be found,
// against copying it, reading it byte by byte, and the scanner alone.
func BenchmarkCheck(b *testing.B) {
	var rows []any
	for i := range 4000 {
		row := map[string]any{"id": fmt.Sprintf("ord_%06d", i), "status": "delivered", "total": 12.5 * float64(i), "items": []any{map[string]any{"sku": fmt.Sprintf("SKU-%d", i%97), "title": "a water bottle of steel, 500 ml", "quantity": i % 5}},
			"note": "left at the door; the neighbour was not at home, and the courier will come again on Friday"}
		if i%13 == 0 {
			row["contact"] = fmt.Sprintf("customer%d@mail.example.org or +44 7911 12%04d", i, i)
		}
		rows = append(rows, row)
	}
	doc, err := json.Marshal(rows)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			_ = bytes.Clone(doc)
		}
	})
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			n := 0
			for _, c := range doc {
				if c == '"' {
					n++
				}
			}
			if n == 0 {
				b.Fatal("nothing")
			}
		}
	})
	scanner := detect.New()
	b.Run("detect", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			if err := scanner.ScanJSON(doc, func(*detect.Leaf) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, c := range []struct {
		name  string
		rules guard.Rules
	}{
		{"label", guard.Rules{}},
		{"pseudonymise", guard.Rules{Classes: classes("email", sallyport.GuardPseudonymise, "phone", sallyport.GuardPseudonymise)}},
		{"deny", guard.Rules{Classes: classes("card", sallyport.GuardDeny)}},
	} {
		g := newGuard(b, c.rules)
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if v := g.Check(doc); v.Refusal != nil {
					b.Fatal(v.Refusal)
				}
			}
		})
	}
	small := []byte(`{"content":[{"type":"text","text":"order ord_1 was delivered to the door on Friday; nothing is owed"}],"structuredContent":{"id":"ord_1","status":"delivered","items":[{"sku":"SKU-1","quantity":2}]},"isError":false}`)
	g := newGuard(b, guard.Rules{})
	b.Run("small", func(b *testing.B) {
		b.SetBytes(int64(len(small)))
		b.ReportAllocs()
		for b.Loop() {
			g.Check(small)
		}
	})
}
