package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sallyport"
	"sallyport/internal/audit"
)

const (
	// leaderBeat is how long a leader may not be heard of before another takes its place.
	leaderBeat = 3 * time.Second
	// pace is the least and restful the longest pause between two looks for arrivals.
	pace, restful = 5 * time.Millisecond, 40 * time.Millisecond
	// atOnce bounds what is read of one replica at a time.
	atOnce = 500
)

// leading is what a replica knows of its own leadership.
type leading struct {
	wake   chan struct{} // somebody waits for places
	leads  atomic.Bool
	marked atomic.Bool // unknown outcomes have been looked for once
	signs  atomic.Bool // somebody waits for a checkpoint
}

func (l *leading) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// lead is the goroutine that gives records their places, while this replica is the one
// that may.
func (e *postgres) lead(ctx context.Context, s *Store) {
	pause := 2 * leastPause
	for ctx.Err() == nil {
		began := time.Now()
		err := e.term(ctx, s)
		e.leads.Store(false)
		if ctx.Err() == nil && err != nil {
			s.Log.Debug("records get their places from another replica, or later", "err", err)
		}
		if pause = min(2*pause, mostPause); time.Since(began) > 5*mostPause {
			pause = 2 * leastPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// leader is a replica that gives places. Its name is in the database while it may: one
// that was paused while another took its place gives none any more.
type leader struct {
	*postgres
	s       *Store
	conn    *sql.Conn
	name    string
	seq     sequence
	epoch   int64 // of the record that was placed last
	covered int64 // by a checkpoint
}

// term waits until this replica leads, and does, until it cannot or ctx ends.
func (e *postgres) term(ctx context.Context, s *Store) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer discard(conn)
	if err := e.elected(ctx, conn); err != nil {
		return err
	}
	l := &leader{postgres: e, s: s, conn: conn, name: s.boot + " " + randomName()}
	// Who led before holds the row while it gives places, and nothing it begins after this
	// has an effect.
	if err := conn.QueryRowContext(ctx, `UPDATE sequence SET leader = $1 RETURNING epoch`, l.name).Scan(&l.epoch); err != nil {
		return err
	}
	if l.seq, err = readSequence(ctx, conn, &postgresDialect, s.size.Load(), func(int64) string { return "0" }); err != nil {
		s.Log.Error("records get no places", "err", err)
		return err
	}
	if err := conn.QueryRowContext(ctx, `SELECT coalesce(max(size), 0) FROM checkpoints`).Scan(&l.covered); err != nil {
		return err
	}
	e.leads.Store(true)
	signed, pause := time.Now(), pace
	for {
		// What has begun is ended: a session does not survive being interrupted, and the
		// last things are said in it.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		given, err := l.round(work)
		if err == nil && (time.Since(signed) >= time.Second || e.signs.Swap(false)) {
			signed = time.Now()
			err = errors.Join(l.sign(work), l.close(work))
		}
		cancel()
		if err == nil && ctx.Err() != nil {
			return l.last()
		}
		if err != nil {
			return err
		}
		if pause = min(2*pause, restful); given > 0 {
			pause = pace
		}
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-time.After(pause):
		}
	}
}

// elected waits for the lock of the leader. One that is not heard of any more loses it.
func (e *postgres) elected(ctx context.Context, conn *sql.Conn) error {
	key := e.key("leader")
	for {
		var got, quiet bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1), NOT EXISTS (SELECT 1 FROM sequence JOIN replicas ON boot = split_part(leader, ' ', 1)
			WHERE ended = 0 AND beat > `+clock+` - $2)`, key, leaderBeat.Microseconds()).Scan(&got, &quiet)
		if err != nil || got {
			return err
		}
		if quiet {
			if holder, err := holderOf(ctx, conn, key); err != nil {
				return err
			} else if holder != nil && strings.HasPrefix(holder.name, "sallyport ") {
				if _, err := conn.ExecContext(ctx, `SELECT pg_terminate_backend($1)`, holder.PID); err != nil {
					return fmt.Errorf("end the session of the leader that is not heard of: %w", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// last is what a leader does that ends: the next one has less to do.
func (l *leader) last() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		if given, err := l.round(ctx); err != nil || given == 0 {
			return errors.Join(err, l.sign(ctx))
		}
	}
}

// arrived is a record without a place.
type arrived struct {
	start, n, epoch, at int64
	body                []byte
}

// round gives places to what has arrived. What was judged by older decisions comes before
// those that changed them: a halt stands behind every call that it did not stop. And
// what was written after something was acknowledged comes behind it: the clock is the
// database's.
func (l *leader) round(ctx context.Context) (given int, err error) {
	waiting, newest, err := l.read(ctx)
	if err != nil {
		return 0, err
	}
	if newest > l.epoch {
		// Something judged by the decisions before may still be on its way.
		if err := l.stand(ctx, l.conn); err != nil {
			return 0, err
		}
		if waiting, _, err = l.read(ctx); err != nil {
			return 0, err
		}
	}
	next := merge(waiting, newest)
	if len(next) == 0 && l.seq.late.from == l.seq.tree.Size() {
		return 0, nil
	}
	from := l.seq.tree.Size()
	starts, ns, counts := make([]int64, len(next)), make([]int64, len(next)), map[int64]int64{}
	for i, a := range next {
		r, err := audit.ParseRecord(a.body)
		if err != nil {
			return 0, fmt.Errorf("record %d of replica %d: %w", a.n, a.start, err)
		}
		said := says(r)
		l.seq.take(&said, audit.LeafHash(a.body), strconv.FormatInt(a.start, 10))
		starts[i], ns[i], counts[a.start] = a.start, a.n, a.n+1
		newest, l.epoch = max(newest, a.epoch), max(l.epoch, a.epoch)
	}
	if err := retried(func() error { return l.write(ctx, from, starts, ns, counts) }); err != nil {
		return 0, err
	}
	l.seq.down()
	l.s.grew(l.seq.tree.Size())
	return len(next), nil
}

// read reads what has arrived, of each replica in its order, and the newest epoch.
func (l *leader) read(ctx context.Context) (waiting [][]arrived, newest int64, err error) {
	err = each(ctx, l.conn, `SELECT r.start, a.n, a.epoch, a.at, a.body FROM replicas r CROSS JOIN LATERAL (
			SELECT n, epoch, at, body FROM arrivals WHERE arrivals.start = r.start AND n >= (SELECT n FROM placed WHERE placed.start = r.start) ORDER BY n LIMIT $1
		) a WHERE NOT r.done ORDER BY r.start, a.n`, func(scan func(...any) error) error {
		var a arrived
		if err := scan(&a.start, &a.n, &a.epoch, &a.at, &a.body); err != nil {
			return err
		}
		if k := len(waiting); k == 0 || waiting[k-1][0].start != a.start {
			waiting = append(waiting, nil)
		}
		k := len(waiting) - 1
		waiting[k] = append(waiting[k], a)
		newest = max(newest, a.epoch)
		return nil
	}, atOnce)
	return waiting, newest, err
}

// merge puts what has arrived up to an epoch into one order, in which that of each
// replica is kept. Where not all of a replica was read it ends with that.
func merge(waiting [][]arrived, newest int64) (out []arrived) {
	cut := make([]bool, len(waiting))
	for i, w := range waiting {
		cut[i] = len(w) == atOnce
	}
	for {
		first := -1
		for i, w := range waiting {
			if len(w) == 0 {
				if cut[i] {
					return out
				}
				continue
			}
			if w[0].epoch > newest {
				continue
			}
			if first < 0 || w[0].epoch < waiting[first][0].epoch || w[0].epoch == waiting[first][0].epoch && w[0].at < waiting[first][0].at {
				first = i
			}
		}
		if first < 0 {
			return out
		}
		out, waiting[first] = append(out, waiting[first][0]), waiting[first][1:]
	}
}

var errNotLeader = errors.New("another replica leads")

// write gives the places and writes down what follows from the records, in one
// statement, which has an effect only while this is the leader.
func (l *leader) write(ctx context.Context, from int64, starts, ns []int64, counts map[int64]int64) error {
	late := &l.seq.late
	var counted, upTo []int64
	for start, n := range counts {
		counted, upTo = append(counted, start), append(upTo, n)
	}
	firsts, hashes := late.hashRows()
	var runs []string
	for id := range late.runs {
		runs = append(runs, string(id))
	}
	slices.Sort(runs) // rows are locked in this order by everybody
	calls, last, integrity, confidentiality := make([]int64, len(runs)), make([]int64, len(runs)), make([]int64, len(runs)), make([]int64, len(runs))
	for i, id := range runs {
		d := late.runs[sallyport.RunID(id)]
		calls[i], last[i] = int64(d.calls), d.at
		integrity[i], confidentiality[i] = d.bounds()
	}
	var opened, boots, closed []string
	var places []int64
	for call := range late.moved {
		if open := late.open[call]; open != nil {
			opened, places, boots = append(opened, string(call)), append(places, open.seq), append(boots, open.boot)
		} else {
			closed = append(closed, string(call))
		}
	}
	var mine int
	err := l.conn.QueryRowContext(ctx, `WITH mine AS (
			UPDATE sequence SET written = $2, epoch = $3 WHERE leader = $1 AND written = $4 RETURNING one
		), gave AS (
			INSERT INTO places (seq, start, n) SELECT $5 + v.o - 1, v.start, v.n FROM mine, unnest($6::bigint[], $7::bigint[]) WITH ORDINALITY AS v (start, n, o)
		), counted AS (
			UPDATE placed SET n = v.n FROM mine, unnest($8::bigint[], $9::bigint[]) AS v (start, n) WHERE placed.start = v.start
		), hashed AS (
			INSERT INTO hashes (first, hashes) SELECT v.first, v.hashes FROM mine, unnest($10::bigint[], $11::bytea[]) AS v (first, hashes)
		), learned AS (
			UPDATE runs SET calls = runs.calls + v.calls, last_call = greatest(runs.last_call, v.last),
				integrity = least(runs.integrity, v.integrity), confidentiality = greatest(runs.confidentiality, v.confidentiality)
			FROM mine, unnest($12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[]) AS v (id, calls, last, integrity, confidentiality) WHERE runs.id = v.id
		), opened AS (
			INSERT INTO intents (call, seq, boot) SELECT v.call, v.seq, v.boot FROM mine, unnest($17::text[], $18::bigint[], $19::text[]) AS v (call, seq, boot)
			ON CONFLICT (call) DO UPDATE SET boot = excluded.boot
		), closed AS (
			DELETE FROM intents USING mine WHERE call = ANY($20::text[])
		) SELECT count(*) FROM mine`,
		l.name, l.seq.tree.Size(), l.epoch, late.from, from, starts, ns, counted, upTo, firsts, hashes,
		runs, calls, last, integrity, confidentiality, opened, places, boots, closed).Scan(&mine)
	if err == nil && mine != 1 {
		err = errNotLeader
	}
	return err
}

// sign makes a checkpoint if the tree has grown.
func (l *leader) sign(ctx context.Context) error {
	size := l.seq.tree.Size()
	if size <= l.covered {
		return nil
	}
	signed, err := l.s.sign(&l.seq)
	if err == nil {
		_, err = l.conn.ExecContext(ctx, `INSERT INTO checkpoints (size, note) SELECT $1, $2 FROM sequence WHERE leader = $3 ON CONFLICT (size) DO NOTHING`, size, signed, l.name)
	}
	if err != nil {
		l.s.Log.Error("no checkpoint could be made", "size", size, "err", err)
		return err
	}
	l.covered = size
	return nil
}

// close takes the replicas off the list that are gone and have left nothing without a
// place.
func (l *leader) close(ctx context.Context) error {
	const gone = `NOT done AND ended <> 0 AND ended < ` + clock + ` - $1`
	var some bool
	if err := l.conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM replicas WHERE `+gone+`)`, givenUp.Microseconds()).Scan(&some); err != nil || !some {
		return err
	}
	// What they sent last may be on its way still.
	if alone, err := l.stood(ctx, l.conn, leastStand); !alone || err != nil {
		return err
	}
	_, err := l.conn.ExecContext(ctx, `UPDATE replicas SET done = true WHERE `+gone+`
		AND (SELECT n FROM placed WHERE placed.start = replicas.start) >= coalesce((SELECT n + 1 FROM arrivals WHERE arrivals.start = replicas.start ORDER BY n DESC LIMIT 1), 0)`,
		givenUp.Microseconds())
	return err
}

// tend is the goroutine that marks what is open and will not end any more as unknown:
// what could not be recorded here, and, on the leader, what replicas that are gone have
// left.
func (e *postgres) tend(ctx context.Context, s *Store) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !e.leads.Load() && (len(s.lostCalls()) == 0 || s.Ready() != nil) {
			continue
		}
		if !e.marked.Load() { // what was left before this start is found, and told, by whoever began it
			continue
		}
		unknown, err := s.MarkUnknown(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Debug("calls of replicas that are gone are not looked for", "err", err)
		}
		for _, u := range unknown {
			s.Log.Warn("a call was sent and nobody knows what it did, by a replica that is gone or while nothing could be recorded: settle it", "call", u.Call, "tool", u.Tool)
		}
	}
}

// caughtUp waits until all that has arrived has its place.
func (e *postgres) caughtUp(ctx context.Context, s *Store, signed bool) error {
	within := 5 * time.Second
	if s.writer == nil { // it can wake nobody, and perhaps there is nobody
		within = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	want, starts := map[int64]int64{}, []int64{}
	err := each(ctx, s.readers, `SELECT r.start, a.n + 1 FROM replicas r CROSS JOIN LATERAL (
			SELECT n FROM arrivals WHERE arrivals.start = r.start ORDER BY n DESC LIMIT 1
		) a WHERE NOT r.done AND EXISTS (SELECT 1 FROM replicas WHERE ended = 0)`, func(scan func(...any) error) error {
		var start, n int64
		err := scan(&start, &n)
		want[start], starts = n, append(starts, start)
		return err
	})
	if err != nil {
		return err
	}
	for {
		var size, covered int64
		if err := s.readers.QueryRowContext(ctx, `SELECT written, (SELECT coalesce(max(size), 0) FROM checkpoints) FROM sequence`).Scan(&size, &covered); err != nil {
			return err
		}
		left := false
		err := each(ctx, s.readers, `SELECT start, n FROM placed WHERE start = ANY($1)`, func(scan func(...any) error) error {
			var start, n int64
			err := scan(&start, &n)
			left = left || n < want[start]
			return err
		}, starts)
		if err != nil {
			return err
		}
		if !left {
			if err := s.readers.QueryRowContext(ctx, `SELECT written FROM sequence`).Scan(&size); err != nil {
				return err
			}
			s.grew(size)
			if !signed || covered >= size {
				return nil
			}
			e.signs.Store(true)
		}
		e.nudge()
		select {
		case <-ctx.Done():
			return fmt.Errorf("records wait for their places: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
