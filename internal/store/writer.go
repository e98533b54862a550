package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// maxBatch bounds one transaction, so that the first who waits does not wait
// for everybody.
const maxBatch = 512

// When a batch was crowded, so is the next: it gathers for less than a commit
// takes, which makes fewer and fuller ones. A caller that is alone never waits.
const (
	crowded = 4
	gather  = 200 * time.Microsecond
)

// op is what one caller wants written. Its records and changes commit together
// or not at all.
type op struct {
	records []sealed
	changes []control.Change
	fence   *sallyport.Target // refuse if a halt stops it
	sign    []byte            // a signed checkpoint to keep
	signed  int64             // its size
	down    bool              // write down what is late
	result  chan error
}

// sealed is a record made ready for the log: what can be done before its place
// is known has been done by the caller's goroutine.
type sealed struct {
	run     sallyport.RunID
	body    []byte
	leaf    audit.Leaf
	payload []byte
	says    saying
}

var errClosed = errors.New("the store is closed")

// do hands an op to the writing goroutine and waits for its commit. It does not
// give up when ctx ends: what was handed over will be written.
func (s *Store) do(o *op) error {
	o.result = make(chan error, 1)
	if s.closed.Load() {
		return errClosed
	}
	select {
	case s.ops <- o:
	case <-s.done:
		return errClosed
	}
	select {
	case err := <-o.result:
		return err
	case <-s.done:
		select {
		case err := <-o.result:
			return err
		default:
			return errClosed
		}
	}
}

// write is the writing goroutine. It takes whatever is waiting, commits it in
// one transaction and answers everybody. Once a second, if there is anything new,
// it signs a checkpoint.
func (s *Store) write() {
	defer close(s.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var checkpointed int64 = -1
	var batch []*op
	crowd := 0 // the size of the batch before
	for {
		batch = batch[:0]
		select {
		case o := <-s.ops:
			batch = append(batch, o)
		case <-tick.C:
			s.look()
			checkpointed = s.checkpoint(checkpointed)
			continue
		case signed := <-s.now:
			checkpointed = s.checkpoint(checkpointed)
			close(signed)
			continue
		case <-s.quit:
			for {
				select {
				case o := <-s.ops:
					batch = append(batch, o)
					continue
				default:
				}
				break
			}
			s.commit(batch)
			s.checkpoint(checkpointed)
			return
		}
		if crowd >= crowded {
			time.Sleep(gather)
		}
	drain:
		for len(batch) < maxBatch {
			select {
			case o := <-s.ops:
				batch = append(batch, o)
			default:
				break drain
			}
		}
		crowd = len(batch)
		s.commit(batch)
	}
}

// commit writes a batch and answers its callers.
func (s *Store) commit(batch []*op) {
	if len(batch) == 0 {
		return
	}
	results := make([]error, len(batch))
	var err error
	if s.void {
		err = s.refresh()
	}
	if err == nil {
		if err = s.transact(batch, results); err != nil {
			// It may have happened all the same: what we know in memory is void.
			s.void = true
			err = errors.Join(err, s.refresh())
		}
	}
	for i, o := range batch {
		if err != nil {
			results[i] = fmt.Errorf("store: %w", err)
		}
		o.result <- results[i]
	}
}

// refresh reads again what is void in memory. Until that has worked nothing may
// be written: a record would get a wrong place in the tree.
func (s *Store) refresh() error {
	ctx, cancel := s.patient()
	defer cancel()
	err := s.fault("reload")
	if err == nil {
		err = s.db.again(ctx, s)
	}
	if err == nil {
		err = s.reload(ctx)
	}
	if err != nil {
		refusal, ok := errors.AsType[*sallyport.Refusal](err)
		if !ok || refusal.Code != sallyport.NotReady { // the rest is for operators
			refusal = sallyport.Refuse(sallyport.NotReady, "nothing can be recorded at the moment, so nothing is done", "an operator has to look at the log of the server")
		}
		if s.away.Swap(refusal) == nil {
			s.Log.Error("the store is away: calls are refused until it is back", "err", withRemedy(err))
		}
		return fmt.Errorf("the store cannot be read: %w", err)
	}
	if s.away.Swap(nil) != nil {
		s.Log.Info("the store is back")
	}
	s.void = false
	return nil
}

// look sees, while nobody writes, whether the store is still there and still ours,
// and whether one that was away is back.
func (s *Store) look() {
	ctx, cancel := s.patient()
	defer cancel()
	if !s.void {
		s.void = s.db.again(ctx, s) != nil
	}
	if s.void {
		_ = s.refresh() // says so itself
	}
}

// patient bounds what is done with the database at once.
func (s *Store) patient() (context.Context, context.CancelFunc) {
	if d := s.db.dialect().patience; d > 0 {
		return context.WithTimeout(context.Background(), d)
	}
	return context.Background(), func() {}
}

// transact writes the batch in one transaction. An op that is refused by itself
// (a fence, a conflict) gets its own result; anything else fails all.
func (s *Store) transact(batch []*op, results []error) (err error) {
	ctx, cancel := s.patient()
	defer cancel()
	if err := s.fault("begin"); err != nil {
		return err
	}
	if err := s.db.begin(ctx, s); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_, _ = s.conn.ExecContext(ctx, `ROLLBACK`) // nothing to roll back if the commit went through
		}
	}()
	w := &batchWriter{s: s, ctx: ctx, from: s.tree.Size()}
	for i, o := range batch {
		results[i], err = w.apply(o)
		if err != nil {
			return err
		}
	}
	if err := s.db.insert(ctx, s, w.from, w.records); err != nil {
		return err
	}
	if err := s.fault("commit"); err != nil {
		return err
	}
	if _, err := s.stmts.commit.ExecContext(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.fault("committed"); err != nil {
		return err
	}
	s.size.Store(s.tree.Size())
	for _, call := range w.settled {
		delete(s.late.open, call)
	}
	if w.control {
		return s.reloadControl(ctx, s.conn)
	}
	return nil
}

// batchWriter is one transaction being written.
type batchWriter struct {
	s       *Store
	ctx     context.Context
	from    int64              // the sequence of the first of records
	records []*sealed          // have their place, and are written last
	control bool               // something changed that calls are judged by
	settled []sallyport.CallID // a person settled their outcomes
}

// apply writes one op. The first error is the op's own and leaves the
// transaction as it was before it; the second is everybody's.
func (w *batchWriter) apply(o *op) (own, all error) {
	s := w.s
	if o.fence != nil {
		for i := range s.halts {
			if s.halts[i].Stops(o.fence) {
				return &HaltedError{s.halts[i]}, nil
			}
		}
	}
	if len(o.changes) > 0 || o.down {
		if err := w.writeDown(); err != nil {
			return nil, err
		}
	}
	if len(o.changes) > 0 {
		own, all = w.change(o.changes)
		if own != nil || all != nil {
			return own, all
		}
	}
	for i := range o.records {
		r := &o.records[i]
		seq := s.tree.Size()
		w.records = append(w.records, r)
		s.late.hashes = s.tree.Append(s.late.hashes, r.leaf)
		s.late.take(seq, &r.says, s.boot)
	}
	if o.sign != nil {
		if _, err := s.conn.ExecContext(w.ctx, `INSERT INTO checkpoints (size, note) VALUES ($1, $2) ON CONFLICT (size) DO NOTHING`, o.signed, o.sign); err != nil {
			return nil, fmt.Errorf("checkpoint: %w", err)
		}
	}
	return nil, nil
}

// HaltedError is what the fence of an intent returns.
type HaltedError struct{ Halt sallyport.Halt }

func (e *HaltedError) Error() string { return "halted: " + e.Halt.Reason }

func (s *Store) fault(point string) error {
	if s.faults == nil {
		return nil
	}
	return s.faults(point)
}

// statements are prepared on the one connection that writes.
type statements struct {
	begin, commit, record, hashes, open, settle, run, written *sql.Stmt
}

func (p *statements) prepare(ctx context.Context, c *sql.Conn, d *dialect) error {
	for _, one := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&p.begin, d.begin},
		{&p.commit, `COMMIT`},
		{&p.record, d.record},
		{&p.hashes, `INSERT INTO hashes (first, hashes) VALUES ($1, $2)`},
		{&p.open, `INSERT INTO intents (call, seq, boot) VALUES ($1, $2, $3) ON CONFLICT (call) DO UPDATE SET boot = excluded.boot`},
		{&p.settle, `DELETE FROM intents WHERE call = $1`},
		{&p.written, `UPDATE control SET written = $1`},
		{&p.run, `UPDATE runs SET calls = calls + $1, last_call = ` + d.greatest + `(last_call, $2),
			integrity = ` + d.least + `(integrity, $3), confidentiality = ` + d.greatest + `(confidentiality, $4) WHERE id = $5`},
	} {
		stmt, err := c.PrepareContext(ctx, one.text)
		if err != nil {
			return fmt.Errorf("prepare %s: %w", one.text, err)
		}
		*one.stmt = stmt
	}
	return nil
}

func (p *statements) close() {
	for _, stmt := range []*sql.Stmt{p.begin, p.commit, p.record, p.hashes, p.open, p.settle, p.run, p.written} {
		if stmt != nil {
			stmt.Close()
		}
	}
}

// checkpoint writes down what is late and signs the tree as it is, if it has
// grown beyond size. It returns the size that is covered now.
func (s *Store) checkpoint(size int64) int64 {
	if s.void || s.tree.Size() == size || s.tree.Size() == 0 {
		return size
	}
	o := &op{down: true, signed: s.tree.Size(), result: make(chan error, 1)}
	root, unsigned := s.tree.Root()
	if unsigned == nil {
		o.sign, unsigned = audit.SignCheckpoint(audit.Checkpoint{Origin: s.Origin, Size: s.tree.Size(), Root: root}, s.Signer)
	}
	s.commit([]*op{o})
	if err := errors.Join(unsigned, <-o.result); err != nil {
		s.Log.Error("no checkpoint could be made", "size", s.tree.Size(), "err", err)
		return size
	}
	return o.signed
}

// hashReader reads stored tree hashes from their batches.
type hashReader struct {
	ctx context.Context
	q   querier
}

// ReadHashes implements [tlog.HashReader].
func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	var first int64 = -1
	var blob []byte
	for i, index := range indexes {
		at := index - first
		if first < 0 || at < 0 || at*tlog.HashSize >= int64(len(blob)) {
			err := r.q.QueryRowContext(r.ctx, `SELECT first, hashes FROM hashes WHERE first <= $1 ORDER BY first DESC LIMIT 1`, index).Scan(&first, &blob)
			if err != nil {
				if errors.Is(err, sql.ErrNoRows) {
					err = audit.ErrNoHash
				}
				return nil, fmt.Errorf("hash %d: %w", index, err)
			}
			if at = index - first; at*tlog.HashSize+tlog.HashSize > int64(len(blob)) {
				return nil, fmt.Errorf("hash %d: %w", index, audit.ErrNoHash)
			}
		}
		copy(out[i][:], blob[at*tlog.HashSize:])
	}
	return out, nil
}
