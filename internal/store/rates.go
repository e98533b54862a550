package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport"
)

const (
	// mostRates bounds the rates that are kept in memory.
	mostRates = 4096
	// ahead is how much of a rate a replica takes at a time, and mostAhead how many
	// calls at most; for how long it may keep them, heldFor says.
	ahead, mostAhead = 100 * time.Millisecond, 64
	heldFor          = time.Second
)

// gcra is a rate in nanoseconds: step is what one call takes, rounded up, and full
// what can be taken at once. What is kept of its use is one number, the theoretical
// arrival time (TAT): when all that was taken will have been refilled.
//
// This is the generic cell rate algorithm in its form of virtual scheduling (ITU-T
// I.371), for several calls at a time, which need not be made at once: those that are
// taken at s, to be made by s+hold, are put down as made at s+hold, and must fit into
// what there is at s. So whenever they are made, no stretch of time t has more than
// (full+t)/step calls.
type gcra struct{ step, full int64 }

func gcraOf(r sallyport.Rate) gcra {
	n := int64(r.Calls)
	step := (int64(r.Per) + n - 1) / n
	return gcra{step, step * n}
}

// take takes up to want calls at now, to be made by now+hold, and returns the new TAT.
func (p gcra) take(tat, now, hold, want int64) (after, calls int64) {
	tat = min(tat, now+p.full) // it is of a slower rate, or the clock was put back
	from := max(tat, now+hold)
	if calls = min(want, (now+p.full-from)/p.step); calls < 1 {
		return tat, 0
	}
	return from + calls*p.step, calls
}

// wait is how long after now there will be one call to take.
func (p gcra) wait(tat, now int64) int64 { return max(tat+p.step-now-p.full, 0) }

// portion is what a replica takes at a time: wanted calls are made at once, up to most
// are kept for those that come within hold.
type portion struct{ wanted, most, hold int64 }

func (p gcra) portion(waiting int) portion {
	wanted := int64(max(waiting, 1))
	return portion{
		wanted: wanted,
		most:   max(wanted, min(int64(ahead)/p.step, mostAhead)),
		hold:   min(int64(heldFor), p.full/4), // what is held for long costs much of what can be taken at once
	}
}

// share takes a portion: all of it to be held where there is enough for that, otherwise
// what is wanted at once.
func (p gcra) share(tat, now int64, o portion) (after, calls int64, held bool) {
	if o.most > o.wanted {
		if after, calls = p.take(tat, now, o.hold, o.most); calls >= o.wanted {
			return after, calls, true
		}
	}
	after, calls = p.take(tat, now, 0, o.wanted)
	return after, calls, false
}

// shareQuery is share as SQL, over one row of a table at (tat, now). Its parameters from
// $2 on are step, full, wanted, most and hold.
const shareQuery = `capped AS (
		SELECT now, least(tat, now + $3::bigint) AS tat FROM at
	), begun AS (
		SELECT now, tat, greatest(tat, now) AS soon, greatest(tat, now + $6::bigint) AS later FROM capped
	), could AS (
		SELECT *, least($4::bigint, (now + $3 - soon) / $2::bigint) AS few,
			CASE WHEN $5::bigint > $4 THEN least($5, (now + $3 - later) / $2) ELSE 0 END AS many FROM begun
	), share AS (
		SELECT now, many >= $4 AS held, CASE WHEN many >= $4 THEN many ELSE few END AS calls,
			CASE WHEN many >= $4 THEN later + many * $2 WHEN few > 0 THEN soon + few * $2 ELSE tat END AS after FROM could
	)`

// rates is what this program knows of rates.
type rates struct {
	mu     sync.Mutex
	began  time.Time
	tats   map[string]int64  // in nanoseconds since began; where one program has the store to itself
	shares map[string]*share // of rates that are counted in the database
}

var errManyRates = sallyport.Refuse(sallyport.TooBusy, "there are too many rates in use at one time", "wait a moment and call again")

// Take implements [gateway.Rates].
func (s *Store) Take(ctx context.Context, key string, r sallyport.Rate) (wait time.Duration, err error) {
	if s.closed.Load() || s.writer == nil {
		return 0, errClosed
	}
	if !r.Valid() {
		return 0, sallyport.Refuse(sallyport.BadConfig, "the rate "+r.String()+" cannot be kept", "correct it and apply again")
	}
	if e, ok := s.db.(*postgres); ok {
		share, err := s.rates.share(key, time.Now())
		if err != nil {
			return 0, err
		}
		return share.take(ctx, r, func(o portion) (granted, error) { return e.takeShare(s, key, r, o) })
	}
	return s.rates.take(key, gcraOf(r), time.Now())
}

// take takes one call of a rate that this program alone counts. With a restart it
// begins anew.
func (m *rates) take(key string, p gcra, at time.Time) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tats == nil {
		m.tats, m.began = map[string]int64{}, at
	}
	now := int64(at.Sub(m.began))
	tat, known := m.tats[key]
	if !known && len(m.tats) >= mostRates {
		for k, t := range m.tats {
			if t <= now {
				delete(m.tats, k)
			}
		}
		if len(m.tats) >= mostRates {
			return 0, errManyRates
		}
	}
	after, calls := p.take(tat, now, 0, 1)
	m.tats[key] = after
	if calls == 0 {
		return time.Duration(p.wait(after, now)), nil
	}
	return 0, nil
}

// share is the part of a rate that this replica has taken and not used up.
type share struct {
	mu      sync.Mutex
	rate    sallyport.Rate
	left    int64
	until   time.Time // what is left is void from then on
	next    time.Time // there is nothing to be taken before
	waiting int
	asked   *asked // nil unless the database is being asked
}

// asked is a question to the database. What it answers is for those that have waited
// for it.
type asked struct {
	done  chan struct{}
	calls int64
	short bool // there were fewer calls than were wanted
	err   error
}

// granted is what the database answers: so many calls, to be made at once or, if held,
// within the hold; and how long after that there is one more.
type granted struct {
	calls int64
	held  bool
	wait  time.Duration
}

// share is that of a key. Those that hold nothing are forgotten when there are many.
func (m *rates) share(key string, now time.Time) (*share, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.shares[key]; s != nil {
		return s, nil
	}
	if len(m.shares) >= mostRates {
		for k, s := range m.shares {
			if s.empty(now) {
				delete(m.shares, k)
			}
		}
		if len(m.shares) >= mostRates {
			return nil, errManyRates
		}
	}
	if m.shares == nil {
		m.shares = map[string]*share{}
	}
	s := &share{}
	m.shares[key] = s
	return s, nil
}

func (s *share) empty(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting == 0 && s.asked == nil && (s.left == 0 || !now.Before(s.until)) && !now.Before(s.next)
}

// take takes one call. One question at a time is put to the database, on behalf of all
// that wait.
func (s *share) take(ctx context.Context, r sallyport.Rate, ask func(portion) (granted, error)) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for short := 0; ; {
		if s.rate != r {
			s.rate, s.left, s.next = r, 0, time.Time{}
		}
		now := time.Now()
		switch {
		case s.left > 0 && now.Before(s.until):
			s.left--
			return 0, nil
		case now.Before(s.next):
			return s.next.Sub(now), nil
		case short == 3: // there was none for us, and would have been when we heard of it
			return time.Duration(gcraOf(r).step), nil
		}
		s.waiting++
		a := s.asked
		if a == nil {
			a = &asked{done: make(chan struct{})}
			s.asked = a
			go s.ask(a, r, ask)
		}
		s.mu.Unlock()
		var err error
		select {
		case <-a.done:
			err = a.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		s.waiting--
		if err != nil {
			return 0, err
		}
		if a.calls > 0 {
			a.calls--
			return 0, nil
		}
		if a.short {
			short++
		}
	}
}

func (s *share) ask(a *asked, r sallyport.Rate, ask func(portion) (granted, error)) {
	s.mu.Lock()
	o := gcraOf(r).portion(s.waiting)
	s.mu.Unlock()
	began := time.Now()
	got, err := ask(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(a.done)
	s.asked = nil
	a.err = err
	if err != nil || s.rate != r {
		return
	}
	a.calls = min(got.calls, int64(s.waiting))
	if s.left = 0; got.held {
		s.left, s.until = got.calls-a.calls, began.Add(time.Duration(o.hold))
	}
	if a.short = got.calls < o.wanted; a.short {
		s.next = began.Add(got.wait)
	}
}

// takeShare takes a portion of a rate out of the database, in one statement. Whoever
// locks the row reads the clock after that.
func (e *postgres) takeShare(s *Store, key string, r sallyport.Rate, o portion) (granted, error) {
	ctx, cancel := s.promptly(context.Background())
	defer cancel()
	p := gcraOf(r)
	for range 3 {
		var got granted
		err := s.writer.QueryRowContext(ctx, `WITH mine AS MATERIALIZED (SELECT tat FROM rates WHERE key = $1 FOR UPDATE),
			at AS MATERIALIZED (SELECT tat, `+clock+` * 1000 AS now FROM mine), `+shareQuery+`,
			wrote AS (UPDATE rates SET tat = after FROM share WHERE key = $1 AND tat <> after)
			SELECT calls, held, greatest(after + $2 - now - $3, 0) FROM share`,
			key, p.step, p.full, o.wanted, o.most, o.hold).Scan(&got.calls, &got.held, &got.wait)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return got, s.uncounted(err)
		}
		// The first of its kind. Others that have become as good as none make room.
		_, err = s.writer.ExecContext(ctx, `WITH old AS (
				DELETE FROM rates WHERE key IN (SELECT key FROM rates WHERE tat < `+clock+` * 1000 - 86400000000000 LIMIT 1000 FOR UPDATE SKIP LOCKED)
			) INSERT INTO rates (key, tat) VALUES ($1, 0) ON CONFLICT (key) DO NOTHING`, key)
		if err != nil {
			return got, s.uncounted(err)
		}
	}
	return granted{}, fmt.Errorf("rate %s: its row is deleted as often as it is made", key)
}

// uncounted is what somebody is told whose call cannot be counted.
func (s *Store) uncounted(err error) error {
	if s.closed.Load() {
		return errClosed
	}
	return s.unread(fmt.Errorf("rates: %w", err))
}
