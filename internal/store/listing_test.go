package store

import (
	"fmt"
	"testing"
	"time"

	"sallyport/internal/audit"
	"sallyport/internal/control"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// TestScanIsBounded: a filter that nothing fits does not read the whole log in
// one page, and its pages come to an end all the same.
func TestScanIsBounded(t *testing.T) {
	r := newRig(t)
	const all = maxExamined + 700
	var batch []*op
	for n := range all {
		made, err := r.seal(&audit.Record{ID: fmt.Sprintf("rec_%d", n), Time: noon.UnixMicro() + int64(n)*1e6, Kind: audit.Applied}, nil)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, &op{records: []sealed{made}, result: make(chan error, 1)})
	}
	for _, o := range batch {
		r.ops <- o
	}
	for _, o := range batch {
		if err := <-o.result; err != nil {
			t.Fatal(err)
		}
	}
	lines, next, err := r.ListRecords(t.Context(), audit.Promoted, control.RecordFilter{}, -1, 10)
	if err != nil || len(lines) != 0 || next != all-maxExamined {
		t.Fatalf("%d records, continued below %d, %v; want none, below %d", len(lines), next, err, all-maxExamined)
	}
	if lines, next, err = r.ListRecords(t.Context(), audit.Promoted, control.RecordFilter{}, next, 10); err != nil || len(lines) != 0 || next != -1 {
		t.Fatalf("%d records, continued below %d, %v", len(lines), next, err)
	}
	// Times lead to their place without reading what lies between.
	old := control.RecordFilter{Until: noon.Add(10 * time.Second)}
	if lines, next, err = r.ListRecords(t.Context(), audit.Applied, old, -1, 100); err != nil || len(lines) != 10 || next != -1 {
		t.Fatalf("%d records, continued below %d, %v", len(lines), next, err)
	}
}
