package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"sallyport"
)

// mostAtOnce bounds, in bytes, what is sent with one statement, unless it is one op, and
// mostChanges the ops of a transaction that takes several statements for each: meanwhile the
// fence is held.
const mostAtOnce, mostChanges = 8 << 20, 64

// size is about how many bytes an op is.
func (o *op) size() (n int) {
	for i := range o.records {
		n += len(o.records[i].body) + len(o.records[i].payload)
	}
	return n
}

// commit writes a batch: ops without changes with one statement in one round trip, so
// that a program that is paused holds up nobody; what people changed in transactions
// between.
func (e *postgres) commit(ctx context.Context, s *Store, batch []*op, results []error) error {
	for from := 0; from < len(batch); {
		to, changes, size := from+1, len(batch[from].changes) > 0, batch[from].size()
		for to < len(batch) && len(batch[to].changes) > 0 == changes {
			if size += batch[to].size(); size > mostAtOnce || changes && to-from == mostChanges {
				break
			}
			to++
		}
		write := e.arrive
		if changes {
			write = e.change
		}
		err := retried(func() error { return write(ctx, s, batch[from:to], results[from:to]) })
		if errors.Is(err, errEnded) { // nothing was written: once more, under another number
			if err = e.again(ctx, s); err == nil {
				err = write(ctx, s, batch[from:to], results[from:to])
			}
		}
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}

// retried repeats what the server has undone because two transactions stood in each
// other's way (SQLSTATE class 40, and 55P03).
func retried(do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if try == 5 || !inTheWay(err) {
			return err
		}
	}
}

func inTheWay(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (refused.Code == "40P01" || refused.Code == "40001" || refused.Code == "55P03")
}

// arrive writes the records of ops that change nothing else.
func (e *postgres) arrive(ctx context.Context, s *Store, batch []*op, results []error) error {
	for range 100 {
		if e.stale.Swap(false) {
			if err := e.reload(ctx, s); err != nil {
				return err
			}
		}
		var records []*sealed
		for i, o := range batch {
			if results[i] = s.stops(o); results[i] != nil {
				continue
			}
			for j := range o.records {
				records = append(records, &o.records[j])
			}
		}
		if len(records) == 0 {
			return nil
		}
		if err := s.fault("begin"); err != nil {
			return err
		}
		if err := s.fault("commit"); err != nil {
			return err
		}
		written, err := e.insert(ctx, s, records)
		if err != nil {
			return err
		}
		if written {
			e.next += int64(len(records))
			return s.fault("committed")
		}
		// Something has been decided meanwhile, or this start was given up.
		if err := e.there(ctx, s); err != nil {
			return err
		}
		if err := e.reload(ctx, s); err != nil {
			return err
		}
	}
	return errors.New("something is decided faster than records can be written")
}

// insert writes records in one round trip, and what their runs learn from them; it
// reports false, and has written nothing, if they were judged by decisions that are no
// longer the newest, this start has been given up, or the session is another. The
// statements up to the end of the round trip are one transaction. The fence is got
// with a statement of its own: only a statement after it sees all that was decided
// before it was got.
func (e *postgres) insert(ctx context.Context, s *Store, records []*sealed) (written bool, err error) {
	runs, bodies, payloads := columns(records)
	b := &pgx.Batch{}
	b.Queue(`SELECT pg_advisory_xact_lock_shared($1)`, e.fenceKey())
	b.Queue(`INSERT INTO arrivals (start, n, epoch, at, run, body, payload)
		SELECT $1, $2 + r.o - 1, c.epoch, `+clock+`, r.run, r.body, r.payload
		FROM control c, replicas m, unnest($5::text[], $6::bytea[], $7::bytea[]) WITH ORDINALITY AS r (run, body, payload, o)
		WHERE c.epoch = $3 AND m.start = $1 AND m.ended = 0 AND pg_backend_pid() = $4`,
		e.start.Load(), e.next, s.judge, e.pid, runs, bodies, payloads)
	if ids, integrity, confidentiality := raised(records); len(ids) > 0 { // if the records are there
		b.Queue(raises+` AND EXISTS (SELECT 1 FROM arrivals WHERE start = $4 AND n = $5)`, ids, integrity, confidentiality, e.start.Load(), e.next)
	}
	err = s.conn.Raw(func(driver any) (err error) {
		sent := driver.(*stdlib.Conn).Conn().SendBatch(ctx, b)
		defer func() { err = errors.Join(err, sent.Close()) }()
		for range b.Len() {
			tag, err := sent.Exec()
			if err != nil {
				return err
			}
			if tag.Insert() {
				written = tag.RowsAffected() == int64(len(records))
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("records from %d: %w", e.next, err)
	}
	return written, nil
}

// raises joins labels to what runs know.
const raises = `UPDATE runs SET integrity = least(runs.integrity, v.i), confidentiality = greatest(runs.confidentiality, v.c)
	FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS v (id, i, c) WHERE runs.id = v.id`

func columns(records []*sealed) (runs []string, bodies, payloads [][]byte) {
	runs, bodies, payloads = make([]string, len(records)), make([][]byte, len(records)), make([][]byte, len(records))
	for i, r := range records {
		runs[i], bodies[i], payloads[i] = string(r.run), r.body, r.payload
	}
	return runs, bodies, payloads
}

// raised is what runs learn from records, as far as it is not known that they know it:
// the lower integrity, the higher confidentiality. Other replicas read it before they
// judge the next call of the run. Rows are locked in the order of ids, as by everybody.
func raised(records []*sealed) (ids []string, integrity, confidentiality []int64) {
	labels := map[sallyport.RunID]sallyport.Labels{}
	for _, r := range records {
		if r.raises {
			if l, ok := labels[r.run]; ok {
				labels[r.run] = l.Join(r.says.labels)
			} else {
				labels[r.run] = r.says.labels
				ids = append(ids, string(r.run))
			}
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		i, c := levels(labels[sallyport.RunID(id)])
		integrity, confidentiality = append(integrity, i), append(confidentiality, c)
	}
	return ids, integrity, confidentiality
}

// change writes ops that change something, each or not at all, in one transaction.
func (e *postgres) change(ctx context.Context, s *Store, batch []*op, results []error) (err error) {
	if err := s.fault("begin"); err != nil {
		return err
	}
	t := &transaction{s: s, ctx: ctx, notifies: true}
	if err := t.exec(`BEGIN ISOLATION LEVEL READ COMMITTED`); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_ = t.exec(`ROLLBACK`) // nothing to roll back if the commit went through
		}
	}()
	if err := t.exec(`SELECT pg_advisory_xact_lock_shared($1)`, e.fenceKey()); err != nil {
		return err
	}
	if err := e.there(ctx, s); err != nil {
		return err
	}
	if slices.ContainsFunc(batch, func(o *op) bool { return o.fence != nil }) {
		// What is decided from here on waits until this has ended, or finds it: see Confirm.
		if err := e.reload(ctx, s); err != nil {
			return err
		}
	}
	var records []*sealed
	for i, o := range batch {
		if results[i] = s.stops(o); results[i] != nil {
			continue
		}
		var all error
		if results[i], all = t.change(o.changes); all != nil {
			return all
		}
		if results[i] != nil {
			continue
		}
		for j := range o.records {
			records = append(records, &o.records[j])
		}
	}
	// What made the epoch grow has locked its row: it stays what it is here.
	runs, bodies, payloads := columns(records)
	err = t.exec(`INSERT INTO arrivals (start, n, epoch, at, run, body, payload)
		SELECT $1, $2 + r.o - 1, c.epoch, `+clock+`, r.run, r.body, r.payload
		FROM control c, unnest($3::text[], $4::bytea[], $5::bytea[]) WITH ORDINALITY AS r (run, body, payload, o)`,
		e.start.Load(), e.next, runs, bodies, payloads)
	if err != nil {
		return fmt.Errorf("records from %d: %w", e.next, err)
	}
	if ids, integrity, confidentiality := raised(records); len(ids) > 0 {
		if err := t.exec(raises, ids, integrity, confidentiality); err != nil {
			return err
		}
	}
	if err := s.fault("commit"); err != nil {
		return err
	}
	if err := t.exec(`COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.fault("committed"); err != nil {
		return err
	}
	e.next += int64(len(records))
	if t.judges {
		return e.reload(ctx, s)
	}
	return nil
}
