package detect_test

import (
	"bytes"
	"testing"

	"sallyport/internal/detect"
	"sallyport/internal/testkit/people"
)

// corpus is about a megabyte of records, as one array.
func corpus() []byte {
	world := people.New(9)
	doc := []byte{'['}
	for len(doc) < 1<<20 {
		if len(doc) > 1 {
			doc = append(doc, ',')
		}
		doc = append(doc, world.Record().Doc...)
	}
	return append(doc, ']')
}

func BenchmarkScanJSON(b *testing.B) {
	s, doc := detect.New(), corpus()
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	found := 0
	for b.Loop() {
		found = 0
		if err := s.ScanJSON(doc, func(l *detect.Leaf) error { found += len(l.Findings); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(found), "findings")
}

func BenchmarkScanText(b *testing.B) {
	prose := bytes.Repeat([]byte("The delivery of order 281077032 left the warehouse on 2026-03-04 at 17:05, weighs 12.5 kg and is expected "+
		"within three days; questions go to the help desk, which is open from 8:00 to 18:00 and answers to whoever asks. "), 5000)
	for _, c := range []struct {
		name string
		text []byte
	}{{"prose", prose}, {"records", bytes.ReplaceAll(corpus(), []byte(`[{`), []byte(`x {`))}} {
		b.Run(c.name, func(b *testing.B) {
			s := detect.New()
			var dst []detect.Finding
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				dst = s.ScanText(dst[:0], c.text, 0)
			}
			b.ReportMetric(float64(len(dst)), "findings")
		})
	}
}
