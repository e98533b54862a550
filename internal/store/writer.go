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
	spend   *spending         // of counters; alone
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
	raises  bool // the run learns something from it, as far as this replica knows
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

// write is the writing goroutine. It takes whatever is waiting, commits it and
// answers everybody.
func (s *Store) write() {
	defer close(s.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var batch []*op
	crowd := 0 // the size of the batch before
	for {
		batch = batch[:0]
		select {
		case o := <-s.ops:
			batch = append(batch, o)
		case <-tick.C:
			s.look()
			s.db.tick(s)
			continue
		case f := <-s.asides:
			f()
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

// aside has the writing goroutine do something between two batches, and waits for it.
func (s *Store) aside(f func()) error {
	did := make(chan struct{})
	select {
	case s.asides <- func() { defer close(did); f() }:
	case <-s.done:
		return errClosed
	}
	<-did
	return nil
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
		ctx, cancel := s.patient()
		err = s.db.commit(ctx, s, batch, results)
		cancel()
		if err != nil {
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
// be written: a record would get a wrong place, or be judged by old decisions.
func (s *Store) refresh() error {
	ctx, cancel := s.patient()
	defer cancel()
	err := s.fault("reload")
	if err == nil {
		err = s.db.again(ctx, s)
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

// look sees, while nobody writes, whether the store is still there, and whether one
// that was away is back.
func (s *Store) look() {
	ctx, cancel := s.patient()
	defer cancel()
	if !s.void {
		s.void = s.db.there(ctx, s) != nil
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

// stops returns the halt that stops an op, as far as the writing goroutine knows.
func (s *Store) stops(o *op) error {
	if o.fence != nil {
		for i := range s.halts {
			if s.halts[i].Stops(o.fence) {
				return &HaltedError{s.halts[i]}
			}
		}
	}
	return nil
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
