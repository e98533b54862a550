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
	// leaseOver is when it is over everywhere: a clock may go a little faster here than there.
	leaseOver = lease + lease/10
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
// made, and returns when there is a lease, or after a few seconds without one.
func (s *Store) Follow(ctx context.Context, f Follow) {
	e, ok := s.db.(*postgres)
	if !ok {
		return
	}
	e.follow.Store(&f)
	ctx, cancel := context.WithTimeout(ctx, 2*lease)
	defer cancel()
	for s.Lease() != nil && ctx.Err() == nil {
		e.hurry()
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
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
	// A beat is committed as all else is: a server that waits for its standby, which may be
	// the server of the others by now, renews no lease.
	conn, err := pgx.ConnectConfig(ctx, e.settings("sallyport hears "+s.boot, working))
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
		asked, known, start := time.Since(e.born), s.Epoch(), e.start.Load()
		var epoch, size int64
		bounded, cancel := context.WithTimeout(ctx, lease)
		err := conn.QueryRow(bounded, `UPDATE replicas SET beat = `+clock+`, epoch = $2, flying = $3 WHERE start = $1 AND boot = $4 AND ended = 0
			RETURNING (SELECT epoch FROM control), (SELECT written FROM sequence)`, start, judged, string(flying), s.boot).Scan(&epoch, &size)
		cancel()
		if errors.Is(err, pgx.ErrNoRows) { // given up: the writing goroutine joins again
			judged = 0
			if err := s.aside(s.look); err != nil {
				return err
			}
			if e.start.Load() == start { // it could not
				e.rest(ctx)
			}
			continue
		}
		if err != nil {
			return err
		}
		if epoch < known { // the same numbers would name other decisions than before
			err := s.aside(func() {
				_ = e.lose(s, "decisions that were put into effect here are missing in the database", "known", known, "found", epoch)
				s.void = true
				s.look()
			})
			if err != nil {
				return err
			}
			e.until.Store(0)
			e.rest(ctx)
			continue
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

// rest waits for a beat.
func (e *postgres) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(beat):
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
		// Who was given up has a lease yet, it may be; who has ended by itself has no beat.
		err := each(ctx, s.prompt, `SELECT DISTINCT ON (boot) start, address, epoch, flying FROM replicas
			WHERE NOT done AND boot <> $1 AND (ended = 0 OR ended > `+clock+` - $2 AND beat > 0) ORDER BY boot, start DESC`, func(scan func(...any) error) error {
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
		}, s.boot, leaseOver.Microseconds())
		if err != nil {
			return nil, err
		}
		if len(out.Silent) == 0 || time.Since(decided) > leaseOver {
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

// leastStand and mostStand are how long the fence is waited for at a time.
const leastStand, mostStand = 50 * time.Millisecond, 2 * time.Second

// stand has the fence alone, and lets go of it: what was judged by decisions older than
// those that are committed now has been written, or never will be. Everybody who writes
// waits behind it, so it waits for as short a time as it can: where commits take longer
// than that, and the next begin before the last end, only a longer wait has an end.
func (e *postgres) stand(ctx context.Context, conn *sql.Conn) error {
	for wait := leastStand; ctx.Err() == nil; wait = min(2*wait, mostStand) {
		if alone, err := e.stood(ctx, conn, wait); alone || err != nil {
			return err
		}
		// Who has it and has sent nothing for so long is paused in the middle of it: its session
		// is ended. Whoever may not do that goes on waiting.
		_, _ = conn.ExecContext(ctx, `SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
			WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND a.pid <> pg_backend_pid() AND a.application_name LIKE 'sallyport %'
				AND a.wait_event = 'ClientRead' AND a.state_change < clock_timestamp() - interval '2 seconds'`,
			int64(uint64(e.fenceKey())>>32), int64(uint32(e.fenceKey())))
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}

// stood tries for a while to have the fence alone.
func (e *postgres) stood(ctx context.Context, conn *sql.Conn, wait time.Duration) (bool, error) {
	// In one round trip: a program that is paused does not keep it.
	b := &pgx.Batch{}
	b.Queue(`SELECT set_config('lock_timeout', $1, true)`, strconv.FormatInt(wait.Milliseconds(), 10))
	b.Queue(`SELECT pg_advisory_xact_lock($1)`, e.fenceKey())
	err := conn.Raw(func(driver any) error { return driver.(*stdlib.Conn).Conn().SendBatch(ctx, b).Close() })
	if busy, ok := errors.AsType[*pgconn.PgError](err); ok && busy.Code == "55P03" {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the fence: %w", err)
	}
	return true, nil
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
	if s.Replicated() { // it may have another number by now
		err = s.readers.QueryRowContext(ctx, `SELECT now.address FROM replicas was JOIN replicas now ON now.boot = was.boot
			WHERE was.start = $1 AND now.ended = 0 AND NOT now.done ORDER BY now.start DESC LIMIT 1`, start).Scan(&address)
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
		boot  string
		quiet bool
	}
	var others []row
	ended := false // one has, and perhaps nobody has had the fence since
	err = each(ctx, q, `SELECT start, boot, beat < `+clock+` - $2, ended <> 0 FROM replicas WHERE NOT done AND start <> $1`, func(scan func(...any) error) error {
		var r row
		var has bool
		err := scan(&r.start, &r.boot, &r.quiet, &has)
		if ended = ended || has; !has {
			others = append(others, r)
		}
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
		// What its sessions hold they hold for as long as it is paused.
		_, err := q.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sallyport ' || $1
			AND NOT EXISTS (SELECT 1 FROM replicas WHERE boot = $1 AND ended = 0)`, o.boot)
		if err != nil {
			s.Log.Warn("the sessions of a replica that is gone could not be ended: what they hold is not free before the database finds out", "start", o.start, "err", err)
		}
	}
	if n == 0 && !ended {
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
	if err == nil {
		e.marked.Store(true)
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

	state     sallyport.RunState
	labels    sallyport.Labels
	calls     int
	elsewhere int // records of it that other starts of the program have written
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
	case <-e.ending:
		return nil, errClosed
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
	err := each(ctx, s.prompt, `SELECT id, state, integrity, confidentiality, CASE WHEN stage = 1 THEN reserved ELSE calls END,
		(SELECT count(*) FROM arrivals WHERE run = id AND start <> $2) FROM runs WHERE id = ANY($1)`, func(scan func(...any) error) error {
		var r freshRun
		var integrity, confidentiality int64
		if err := scan(&r.id, &r.state, &integrity, &confidentiality, &r.calls, &r.elsewhere); err != nil {
			return err
		}
		r.labels = labelsOf(integrity, confidentiality)
		for _, w := range byID[r.id] {
			w.state, w.labels, w.calls, w.elsewhere = r.state, r.labels, r.calls, r.elsewhere
		}
		return nil
	}, ids, s.Start())
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
	ctx, cancel := s.promptly(ctx) // whoever hangs keeps others from the sessions that a halt needs
	defer cancel()
	for ; want > 0; want /= 2 {
		var after int
		// Not by what has been recorded: that is written down a little later, and counts calls
		// that were refused before they had a number.
		err := s.writer.QueryRowContext(ctx, `UPDATE runs SET reserved = reserved + $2 WHERE id = $1 AND reserved + $2 <= $3 RETURNING reserved`,
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
