package store

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"sallyport"
	"sallyport/internal/audit"
)

// hashesPerRow bounds one row of tree hashes, so that reading one hash stays
// cheap.
const hashesPerRow = 1024

// late is what follows from the newest records and is not in the tables yet: the
// hashes of the tree, which calls are open, what calls added to their runs. The
// records alone are written with every commit. The rest is written down at the
// latest with the next checkpoint and before anything a person changes; after a
// crash it is made again from the records.
type late struct {
	from   int64       // follows from the records from here on
	hashes []tlog.Hash // from the stored-hash index audit.FirstIndex(from)
	runs   map[sallyport.RunID]*delta
	// open is every call with an intent and no final outcome, written down or not;
	// moved are those whose row has to be written or deleted.
	open  map[sallyport.CallID]*intent
	moved map[sallyport.CallID]bool
}

// intent is a row of the table of open intents.
type intent struct {
	seq  int64
	boot string // which start of the program made it; empty if its outcome is unknown
	row  bool   // it is in the table
}

// delta is what calls added to a run.
type delta struct {
	calls  int
	labels sallyport.Labels // zero adds nothing
	at     int64
}

// saying is what of a record has consequences.
type saying struct {
	kind    audit.Kind
	call    sallyport.CallID
	run     sallyport.RunID
	unknown bool
	labels  sallyport.Labels
	at      int64
}

func says(r *audit.Record) saying {
	s := saying{kind: r.Kind, call: r.Call, run: r.Run, unknown: r.Outcome == sallyport.OutcomeUnsettled, at: r.Time}
	if r.Labels != nil {
		s.labels = *r.Labels
	}
	return s
}

// take takes note of the record that has just been appended to the tree, which
// is now one larger.
func (l *late) take(seq int64, r *saying, boot string) {
	open := l.open[r.call]
	switch r.kind {
	case audit.Intent:
		l.open[r.call], l.moved[r.call] = &intent{seq: seq, boot: boot}, true
		l.add(r, 1)
	case audit.Outcome, audit.Unknown:
		switch {
		case open == nil && r.kind == audit.Outcome:
			l.add(r, 1) // a call that needed no intent is counted here
			return
		case open == nil:
			return
		case r.unknown:
			open.boot, l.moved[r.call] = "", true
		default:
			l.end(r.call, open)
		}
		if r.kind == audit.Outcome {
			l.add(r, 0)
		}
	case audit.Settled:
		if open != nil {
			l.end(r.call, open)
		}
	}
}

// end says that the outcome of a call is known.
func (l *late) end(call sallyport.CallID, open *intent) {
	delete(l.open, call)
	if delete(l.moved, call); open.row {
		l.moved[call] = true
	}
}

// add joins what a call adds to its run.
func (l *late) add(r *saying, calls int) {
	if r.run == "" {
		return
	}
	d := l.runs[r.run]
	if d == nil {
		d = &delta{}
		l.runs[r.run] = d
	}
	d.calls += calls
	d.at = max(d.at, r.at)
	switch {
	case d.labels == (sallyport.Labels{}):
		d.labels = r.labels
	case r.labels != (sallyport.Labels{}):
		d.labels = d.labels.Join(r.labels)
	}
}

// hashRows are the rows of the table of hashes that have to be written.
func (l *late) hashRows() (firsts []int64, rows [][]byte) {
	for first, rest := audit.FirstIndex(l.from), l.hashes; len(rest) > 0; {
		n := min(len(rest), hashesPerRow)
		blob := make([]byte, 0, n*tlog.HashSize)
		for i := range n {
			blob = append(blob, rest[i][:]...)
		}
		firsts, rows = append(firsts, first), append(rows, blob)
		first, rest = first+int64(n), rest[n:]
	}
	return firsts, rows
}

// bounds are the labels to join in numbers: the lower integrity, the higher
// confidentiality.
func (d *delta) bounds() (integrity, confidentiality int64) {
	if d.labels == (sallyport.Labels{}) {
		return 255, 0
	}
	return levels(d.labels)
}

// levels are labels as the tables have them. An integrity of 0, below all others, stands
// for what is untrusted and suspected: so the lower of two is what both together are.
func levels(l sallyport.Labels) (integrity, confidentiality int64) {
	if l.Suspected {
		return 0, int64(l.Confidentiality)
	}
	return int64(max(l.Integrity, sallyport.Untrusted)), int64(l.Confidentiality)
}

func labelsOf(integrity, confidentiality int64) sallyport.Labels {
	l := sallyport.Labels{Integrity: sallyport.Integrity(max(integrity, int64(sallyport.Untrusted))), Confidentiality: sallyport.Confidentiality(confidentiality)}
	l.Suspected = integrity == 0
	return l
}

// sequence gives records their places in the tree, and knows what follows from them.
// Whoever has it owns the log: nobody else may append.
type sequence struct {
	tree *audit.Tree
	late late
}

// take appends a record, made by a start of the program, and returns its place.
func (q *sequence) take(says *saying, leaf audit.Leaf, boot string) int64 {
	seq := q.tree.Size()
	q.late.hashes = q.tree.Append(q.late.hashes, leaf)
	q.late.take(seq, says, boot)
	return seq
}

// down says that what was late has been written.
func (q *sequence) down() {
	l := &q.late
	for call := range l.moved {
		if open := l.open[call]; open != nil {
			open.row = true
		}
	}
	l.from, l.hashes = q.tree.Size(), l.hashes[:0]
	clear(l.runs)
	clear(l.moved)
}

// readSequence makes the tree and what is late from the tables and the records they
// lag behind, which a start made that bootOf names. Known is how many records this
// program has seen.
func readSequence(ctx context.Context, q querier, d *dialect, known int64, bootOf func(seq int64) string) (out sequence, err error) {
	var written int64
	if err := q.QueryRowContext(ctx, `SELECT written FROM `+d.progress).Scan(&written); err != nil {
		return out, err
	}
	size, err := countRecords(ctx, q)
	if err != nil {
		return out, err
	}
	if known > size {
		return out, fmt.Errorf("the log ends at record %d, and this program has seen %d written: the end of what was acknowledged is missing", size, known)
	}
	if written > size {
		return out, fmt.Errorf("the log ends at record %d, but %d were written: its end is missing", size, written)
	}
	if out.tree, err = audit.ResumeTree(written, hashReader{ctx, q}); err != nil {
		return out, fmt.Errorf("the tree of %d records: %w", written, err)
	}
	out.late = late{from: written, runs: map[sallyport.RunID]*delta{}, open: map[sallyport.CallID]*intent{}, moved: map[sallyport.CallID]bool{}}
	err = each(ctx, q, `SELECT call, seq, boot FROM intents`, func(scan func(...any) error) error {
		var call sallyport.CallID
		row := &intent{row: true}
		err := scan(&call, &row.seq, &row.boot)
		out.late.open[call] = row
		return err
	})
	if err != nil {
		return out, err
	}
	err = eachRecord(ctx, q, written, size, func(seq int64, body []byte) error {
		if seq != out.tree.Size() {
			return fmt.Errorf("record %d is missing", out.tree.Size())
		}
		r, err := audit.ParseRecord(body)
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		said := says(r)
		out.take(&said, audit.LeafHash(body), bootOf(seq))
		return nil
	})
	return out, err
}

// countRecords is the number of records that have a place.
func countRecords(ctx context.Context, q querier) (n int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce((SELECT seq + 1 FROM records ORDER BY seq DESC LIMIT 1), 0)`).Scan(&n)
	return n, err
}

// ReadHashes implements [audit.Source] and [tlog.HashReader]. Hashes that are not
// written down yet are made from the records.
func (s *Store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	ctx := context.Background()
	read := hashReader{ctx, s.readers}
	hashes, err := read.ReadHashes(indexes)
	if !errors.Is(err, audit.ErrNoHash) {
		return hashes, err
	}
	tail, first, err := s.tail(ctx)
	if err != nil {
		return nil, err
	}
	hashes = make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if at := index - first; at >= 0 && at < int64(len(tail)) {
			hashes[i] = tail[at]
			continue
		}
		one, err := read.ReadHashes(indexes[i : i+1])
		if err != nil {
			return nil, err
		}
		hashes[i] = one[0]
	}
	return hashes, nil
}

// tail makes the hashes that are not written down, from the stored-hash index
// first on.
func (s *Store) tail(ctx context.Context) (hashes []tlog.Hash, first int64, err error) {
	tx, err := s.readers.BeginTx(ctx, s.db.dialect().snapshot)
	if err != nil {
		return nil, 0, err
	}
	defer tx.Rollback()
	var written int64
	if err := tx.QueryRowContext(ctx, `SELECT written FROM `+s.db.dialect().progress).Scan(&written); err != nil {
		return nil, 0, err
	}
	tree, err := audit.ResumeTree(written, hashReader{ctx, tx})
	if err != nil {
		return nil, 0, err
	}
	err = eachRecord(ctx, tx, written, audit.MaxSize, func(seq int64, body []byte) error {
		if seq != tree.Size() { // a gap: what lies behind it has no place in the tree
			return fmt.Errorf("record %d: %w", tree.Size(), audit.ErrNoHash)
		}
		hashes = tree.Append(hashes, audit.LeafHash(body))
		return nil
	})
	return hashes, audit.FirstIndex(written), err
}
