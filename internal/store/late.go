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
			delete(l.open, r.call)
			if delete(l.moved, r.call); open.row {
				l.moved[r.call] = true
			}
		}
		if r.kind == audit.Outcome {
			l.add(r, 0)
		}
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

// writeDown writes what is late into the tables, in the transaction at hand.
func (w *batchWriter) writeDown() error {
	s, l := w.s, &w.s.late
	if l.from == s.tree.Size() {
		return nil
	}
	for first, rest := audit.FirstIndex(l.from), l.hashes; len(rest) > 0; {
		n := min(len(rest), hashesPerRow)
		blob := make([]byte, 0, n*tlog.HashSize)
		for i := range n {
			blob = append(blob, rest[i][:]...)
		}
		if _, err := s.stmts.hashes.ExecContext(w.ctx, first, blob); err != nil {
			return fmt.Errorf("hashes: %w", err)
		}
		first, rest = first+int64(n), rest[n:]
	}
	for id, d := range l.runs {
		// Labels only ever join: the lower integrity, the higher confidentiality.
		integrity, confidentiality := int64(255), int64(0)
		if d.labels != (sallyport.Labels{}) {
			integrity, confidentiality = int64(d.labels.Integrity), int64(d.labels.Confidentiality)
		}
		if _, err := s.stmts.run.ExecContext(w.ctx, d.calls, d.at, integrity, confidentiality, string(id)); err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
	}
	for call := range l.moved {
		open := l.open[call]
		if open == nil {
			if _, err := s.stmts.settle.ExecContext(w.ctx, string(call)); err != nil {
				return fmt.Errorf("intent: %w", err)
			}
			continue
		}
		if _, err := s.stmts.open.ExecContext(w.ctx, string(call), open.seq, open.boot); err != nil {
			return fmt.Errorf("intent: %w", err)
		}
		open.row = true
	}
	if _, err := s.stmts.written.ExecContext(w.ctx, s.tree.Size()); err != nil {
		return fmt.Errorf("written: %w", err)
	}
	l.from, l.hashes = s.tree.Size(), l.hashes[:0]
	clear(l.runs)
	clear(l.moved)
	return nil
}

// reloadLate makes the tree and what is late from the tables and the records
// they lag behind.
func (s *Store) reloadLate(ctx context.Context) error {
	var size, written int64
	if err := s.conn.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(seq)+1, 0) FROM records), written FROM control`).Scan(&size, &written); err != nil {
		return err
	}
	if known := s.size.Load(); known > size {
		return fmt.Errorf("the log ends at record %d, and this program has seen %d written: the end of what was acknowledged is missing", size, known)
	}
	if written > size {
		return fmt.Errorf("the log ends at record %d, but %d were written: its end is missing", size, written)
	}
	tree, err := audit.ResumeTree(written, hashReader{ctx, s.conn})
	if err != nil {
		return fmt.Errorf("the tree of %d records: %w", written, err)
	}
	l := late{from: written, runs: map[sallyport.RunID]*delta{}, open: map[sallyport.CallID]*intent{}, moved: map[sallyport.CallID]bool{}}
	err = each(ctx, s.conn, `SELECT call, seq, boot FROM intents`, func(scan func(...any) error) error {
		var call sallyport.CallID
		row := &intent{row: true}
		err := scan(&call, &row.seq, &row.boot)
		l.open[call] = row
		return err
	})
	if err != nil {
		return err
	}
	err = eachRecord(ctx, s.conn, written, size, func(seq int64, body []byte) error {
		if seq != tree.Size() {
			return fmt.Errorf("record %d is missing", tree.Size())
		}
		r, err := audit.ParseRecord(body)
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		boot := s.boot
		if seq < s.began {
			boot = "earlier"
		}
		said := says(r)
		l.hashes = tree.Append(l.hashes, audit.LeafHash(body))
		l.take(seq, &said, boot)
		return nil
	})
	if err != nil {
		return err
	}
	s.tree, s.late = tree, l
	s.size.Store(size)
	return nil
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
	if err := tx.QueryRowContext(ctx, `SELECT written FROM control`).Scan(&written); err != nil {
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
