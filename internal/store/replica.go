package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"sallyport"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

const (
	// beat is how often a replica says that it is there, and asks what has been decided.
	beat = 500 * time.Millisecond
	// lease is how long what was read is good for. It begins when it was asked for: one
	// that read old decisions has ended this long after the new ones were committed.
	lease = 2 * time.Second
	// givenUp is how long a replica is not heard of before the others go on without it.
	givenUp = 10 * time.Second
)

// hearing is what a replica knows of what was decided on others.
type hearing struct {
	until  atomic.Int64 // the end of the lease, in nanoseconds since the start
	stale  atomic.Bool  // the writing goroutine has to read again what was decided
	follow atomic.Pointer[Follow]
	soon   atomic.Pointer[context.CancelFunc] // ends the wait for the next beat
}

// Follow has calls judged by what has been decided now. It returns the calls it stopped
// whose bytes were sent, or may have been, and an error if a call that has to be
// stopped could not be.
type Follow func(ctx context.Context) (inFlight []sallyport.CallID, err error)

// Follow has f called whenever something has been decided, here or on another replica,
// and tells the others when it has worked: a halt is confirmed by that. With an engine
// that one program has to itself nothing is called. It is called once, before calls are
// made.
func (s *Store) Follow(f Follow) {
	if e, ok := s.db.(*postgres); ok {
		e.follow.Store(&f)
		e.hurry()
	}
}

// hurry ends the wait for the next beat.
func (h *hearing) hurry() {
	if wake := h.soon.Load(); wake != nil {
		(*wake)()
	}
}

var errNoLease = sallyport.Refuse(sallyport.NotReady, "what people have decided could not be read for a while, so nothing is done", "try again later")

// Lease says that others may have decided something that is not known here, nil if
// they cannot have: a halt that is confirmed on another replica holds here.
func (s *Store) Lease() *sallyport.Refusal {
	e, ok := s.db.(*postgres)
	if !ok || int64(time.Since(e.born)) < e.until.Load() {
		return nil
	}
	return errNoLease
}

// Replicated reports whether several programs may write the store.
func (s *Store) Replicated() bool {
	_, ok := s.db.(*postgres)
	return ok
}

// hear is the goroutine that listens. What is decided is told by NOTIFY; whoever misses
// it reads it with the next beat.
func (e *postgres) hear(ctx context.Context, s *Store) {
	pause := leastPause
	for ctx.Err() == nil {
		err := e.listen(ctx, s, func() { pause = leastPause })
		if ctx.Err() != nil {
			return
		}
		s.Log.Debug("what is decided elsewhere is not heard", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

func (e *postgres) listen(ctx context.Context, s *Store, worked func()) error {
	settings := e.settings("sallyport hears "+s.boot, working)
	settings.RuntimeParams["synchronous_commit"] = "off" // a beat that is lost is beaten again
	conn, err := pgx.ConnectConfig(ctx, settings)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN sallyport_decided`); err != nil {
		return err
	}
	var judged int64 // the epoch that calls are judged by
	var flying []byte
	for {
		asked := time.Since(e.born)
		var epoch, size int64
		bounded, cancel := context.WithTimeout(ctx, lease)
		err := conn.QueryRow(bounded, `UPDATE replicas SET beat = `+clock+`, epoch = $2, flying = $3 WHERE start = $1 AND ended = 0
			RETURNING (SELECT epoch FROM control), (SELECT written FROM sequence)`, e.start.Load(), judged, string(flying)).Scan(&epoch, &size)
		cancel()
		if errors.Is(err, pgx.ErrNoRows) { // given up: the writing goroutine joins again
			judged = 0
			if err := s.aside(s.look); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		worked()
		s.heard(epoch)
		s.grew(size)
		follow := e.follow.Load()
		switch {
		case follow == nil:
		case judged < epoch:
			e.stale.Store(true)
			sent, err := (*follow)(ctx)
			if err != nil { // it is tried again, and no lease given meanwhile
				s.Log.Error("what has been decided cannot be put into effect", "err", err)
				break
			}
			if flying, err = json.Marshal(sent); err != nil {
				return err
			}
			judged = epoch
			continue // and say so
		default:
			e.until.Store(int64(asked + lease))
		}
		wait, soon := context.WithTimeout(ctx, beat)
		e.soon.Store(&soon)
		_, err = conn.WaitForNotification(wait)
		timely := wait.Err() != nil
		soon()
		if err != nil && !timely || ctx.Err() != nil {
			return err
		}
	}
}

// Confirm implements [control.Others]: it returns when what this replica has decided last, and all that was decided
// before, holds on every replica: each has said so, or its lease has ended. Nothing
// that was judged by older decisions is recorded or sent after that.
func (s *Store) Confirm(ctx context.Context) (*control.Elsewhere, error) {
	out := &control.Elsewhere{}
	e, ok := s.db.(*postgres)
	if !ok {
		out.At = s.Now()
		return out, nil
	}
	epoch, decided := s.Epoch(), time.Now()
	e.hurry()
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return nil, err
	}
	err = e.stand(ctx, conn)
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	for {
		out.Replicas, out.Silent, out.InFlight = 0, nil, nil
		err := each(ctx, s.readers, `SELECT start, address, epoch, flying FROM replicas WHERE ended = 0 AND NOT done AND start <> $1 ORDER BY start`, func(scan func(...any) error) error {
			var start, judges int64
			var address, flying string
			if err := scan(&start, &address, &judges, &flying); err != nil {
				return err
			}
			out.Replicas++
			if judges < epoch {
				out.Silent = append(out.Silent, replicaName(start, address))
				return nil
			}
			if flying == "" {
				return nil
			}
			var sent []sallyport.CallID
			err := json.Unmarshal([]byte(flying), &sent)
			out.InFlight = append(out.InFlight, sent...)
			return err
		}, e.start.Load())
		if err != nil {
			return nil, err
		}
		// A clock may go a little faster here than there.
		if len(out.Silent) == 0 || time.Since(decided) > lease+lease/10 {
			out.At = s.Now()
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func replicaName(start int64, address string) string {
	name := "replica " + strconv.FormatInt(start, 10)
	if address != "" {
		name += " at " + address
	}
	return name
}

// stand has the fence alone, and lets go of it: what was judged by decisions older than
// those that are committed now has been written, or never will be. It never waits for
// long at a time, since everybody who writes waits behind it.
func (e *postgres) stand(ctx context.Context, conn *sql.Conn) error {
	for ctx.Err() == nil {
		// In one round trip: a program that is paused does not keep it.
		b := &pgx.Batch{}
		b.Queue(`SET LOCAL lock_timeout = '50ms'`)
		b.Queue(`SELECT pg_advisory_xact_lock($1)`, e.fenceKey())
		err := conn.Raw(func(driver any) error { return driver.(*stdlib.Conn).Conn().SendBatch(ctx, b).Close() })
		if err == nil {
			return nil
		}
		if busy, ok := errors.AsType[*pgconn.PgError](err); !ok || busy.Code != "55P03" {
			return fmt.Errorf("the fence: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}

// Replicas are those at work, by number; none where one program has the store to
// itself.
func (s *Store) Replicas(ctx context.Context) ([]control.Replica, error) {
	e, ok := s.db.(*postgres)
	if !ok {
		return nil, nil
	}
	return replicas(ctx, s.readers, e.start.Load())
}

func replicas(ctx context.Context, q querier, self int64) (out []control.Replica, err error) {
	err = each(ctx, q, `SELECT start, address, began, beat, boot = (SELECT split_part(leader, ' ', 1) FROM sequence) FROM replicas WHERE ended = 0 AND NOT done ORDER BY start`, func(scan func(...any) error) error {
		var r control.Replica
		var began, beat int64
		err := scan(&r.Start, &r.Address, &began, &beat, &r.Leads)
		r.Began, r.Beat, r.Self = fromMicros(began), fromMicros(beat), r.Start == self
		out = append(out, r)
		return err
	})
	return out, err
}

// Reached says where the other replicas reach this one, as in http://10.0.0.3:8484.
func (s *Store) Reached(ctx context.Context, address string) error {
	e, ok := s.db.(*postgres)
	if !ok {
		return nil
	}
	e.address.Store(&address)
	_, err := s.writer.ExecContext(ctx, `UPDATE replicas SET address = $2 WHERE start = $1`, e.start.Load(), address)
	return err
}

// Address is where the replica with a number is reached, or a refusal with code
// not_found if it is gone or says none.
func (s *Store) Address(ctx context.Context, start int64) (string, error) {
	var address string
	err := sql.ErrNoRows
	if s.Replicated() {
		err = s.readers.QueryRowContext(ctx, `SELECT address FROM replicas WHERE start = $1 AND ended = 0`, start).Scan(&address)
	}
	if errors.Is(err, sql.ErrNoRows) || err == nil && address == "" {
		return "", sallyport.Refuse(sallyport.NotFound, "that replica is gone", "begin a new session")
	}
	return address, err
}

// Start is the number of this replica, 0 where one program has the store to itself.
func (s *Store) Start() int64 {
	if e, ok := s.db.(*postgres); ok {
		return e.start.Load()
	}
	return 0
}

// bury gives up the replicas whose session is gone, and those that were not heard of
// for long: they write nothing any more when it returns. It returns how many.
func (e *postgres) bury(ctx context.Context, s *Store, q *sql.Conn) (n int, err error) {
	type row struct {
		start int64
		quiet bool
	}
	var others []row
	err = each(ctx, q, `SELECT start, beat < `+clock+` - $2 FROM replicas WHERE NOT done AND ended = 0 AND start <> $1`, func(scan func(...any) error) error {
		var r row
		err := scan(&r.start, &r.quiet)
		others = append(others, r)
		return err
	}, e.start.Load(), givenUp.Microseconds())
	if err != nil {
		return 0, err
	}
	for _, o := range others {
		if !o.quiet {
			var free bool
			if err := q.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, e.startKey(o.start)).Scan(&free); err != nil {
				return n, err
			}
			if !free {
				continue
			}
			if _, err := q.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, e.startKey(o.start)); err != nil {
				return n, err
			}
		}
		if _, err := q.ExecContext(ctx, `UPDATE replicas SET ended = `+clock+` WHERE start = $1 AND ended = 0`, o.start); err != nil {
			return n, err
		}
		n++
		s.Log.Warn("a replica is gone: the others go on without it", "start", o.start)
	}
	if n == 0 {
		return 0, nil
	}
	return n, e.stand(ctx, q)
}

func (e *postgres) gone(ctx context.Context, s *Store) (func(boot string) bool, error) {
	at := map[string]bool{}
	err := each(ctx, s.readers, `SELECT start FROM replicas WHERE ended = 0 AND NOT done`, func(scan func(...any) error) error {
		var start int64
		err := scan(&start)
		at[strconv.FormatInt(start, 10)] = true
		return err
	})
	return func(boot string) bool { return !at[boot] }, err
}

func (e *postgres) alone(ctx context.Context, s *Store, f func() error) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	key := e.key("unknown outcomes")
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return err
	}
	_, err = e.bury(ctx, s, conn)
	if err == nil {
		err = f()
	}
	_, unlocked := conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key)
	if unlocked != nil {
		_ = discard(conn)
	}
	return errors.Join(err, unlocked)
}

// freshRun is a run that a call is about to be judged by.
type freshRun struct {
	id   sallyport.RunID
	done chan error

	state  sallyport.RunState
	labels sallyport.Labels
	calls  int
}

// readRun reads what a run knows and how it stands now, which another replica may have
// changed. It returns a refusal with code no_run if there is no such run. Whoever comes
// while a reading is under way is served by the next: one statement for all.
func (e *postgres) readRun(ctx context.Context, id sallyport.RunID) (*freshRun, error) {
	r := &freshRun{id: id, done: make(chan error, 1)}
	select {
	case e.fresh <- r:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-r.done:
		return r, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readFresh is the goroutine that reads runs.
func (e *postgres) readFresh(ctx context.Context, s *Store) {
	for {
		var wanted []*freshRun
		select {
		case r := <-e.fresh:
			wanted = append(wanted, r)
		case <-ctx.Done():
			for {
				select {
				case r := <-e.fresh:
					r.done <- errClosed
				default:
					return
				}
			}
		}
	drain:
		for len(wanted) < maxBatch {
			select {
			case r := <-e.fresh:
				wanted = append(wanted, r)
			default:
				break drain
			}
		}
		err := s.readRuns(ctx, wanted)
		for _, r := range wanted {
			switch {
			case err != nil:
				r.done <- err
			case r.state == 0:
				r.done <- sallyport.Refuse(sallyport.NoRun, "there is no run "+string(r.id), "have the host open a run")
			default:
				r.done <- nil
			}
		}
	}
}

func (s *Store) readRuns(ctx context.Context, wanted []*freshRun) error {
	ctx, cancel := context.WithTimeout(ctx, lease)
	defer cancel()
	byID := map[sallyport.RunID][]*freshRun{}
	var ids []string
	for _, r := range wanted {
		if byID[r.id] == nil {
			ids = append(ids, string(r.id))
		}
		byID[r.id] = append(byID[r.id], r)
	}
	err := each(ctx, s.readers, `SELECT id, state, integrity, confidentiality, greatest(calls, reserved) FROM runs WHERE id = ANY($1)`, func(scan func(...any) error) error {
		var r freshRun
		if err := scan(&r.id, &r.state, &r.labels.Integrity, &r.labels.Confidentiality, &r.calls); err != nil {
			return err
		}
		for _, w := range byID[r.id] {
			w.state, w.labels, w.calls = r.state, r.labels, r.calls
		}
		return nil
	}, ids)
	if err != nil {
		return s.unread(fmt.Errorf("runs: %w", err))
	}
	return nil
}

// shared is how the calls of a run are counted where other replicas make some: nil if
// nothing depends on it.
func (s *Store) shared(run *sallyport.Run) gateway.Share {
	if !s.Replicated() || run.Stage > sallyport.Sandbox && run.Envelope.MaxCalls <= 0 {
		return nil
	}
	return s.share
}

// share takes a share of a run's calls out of its budget. In the sandbox it is one call:
// its number decides what is answered. Elsewhere it is more where the budget is large,
// and a replica that ends takes what it has not used with it.
func (s *Store) share(ctx context.Context, run *sallyport.Run) (first, calls int, err error) {
	most, want := run.Envelope.MaxCalls, 1
	if run.Stage > sallyport.Sandbox {
		want = min(max(most/64, 1), 16)
	}
	if most <= 0 {
		most = math.MaxInt32
	}
	for ; want > 0; want /= 2 {
		var after int
		err := s.writer.QueryRowContext(ctx, `UPDATE runs SET reserved = greatest(reserved, calls) + $2 WHERE id = $1 AND greatest(reserved, calls) + $2 <= $3 RETURNING reserved`,
			string(run.ID), want, most).Scan(&after)
		if err == nil {
			return after - want, want, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return 0, 0, s.unread(err)
		}
	}
	return 0, 0, nil
}
