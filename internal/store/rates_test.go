package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/testkit/pgserver"
)

func anyRate(t *rapid.T) sallyport.Rate {
	return sallyport.Rate{
		Calls: rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, sallyport.MostRateCalls)).Draw(t, "calls"),
		Per:   time.Duration(rapid.Int64Range(int64(sallyport.LeastRatePer), int64(sallyport.MostRatePer)).Draw(t, "per")),
	}
}

// made are calls that were made at a time.
type made struct{ at, calls int64 }

// most is how many more calls than its rate allows a stretch of time has that begins and
// ends with calls, in the worst one; above zero is too many.
func most(r sallyport.Rate, all []made) int64 {
	worst := int64(-1 << 62)
	for i, first := range all {
		var sum int64
		for _, m := range all[i:] {
			sum += m.calls
			t := m.at - first.at
			// Calls*t/Per, rounded down, in two parts that do not overflow.
			per := int64(r.Per)
			allowed := int64(r.Calls) + t/per*int64(r.Calls) + mulDiv(t%per, int64(r.Calls), per)
			worst = max(worst, sum-allowed)
		}
	}
	return worst
}

// mulDiv is a*b/c, where a is less than c.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	quotient, _ := bits.Div64(hi, lo, uint64(c))
	return int64(quotient)
}

// TestRateIsKept: whatever is taken and whenever, no stretch of time has more calls than
// Calls + Calls*t/Per. What is refused would have been more, by the rate rounded to
// nanoseconds for a call; and the wait is exact.
func TestRateIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRate(t)
		p := gcraOf(r)
		var tat, now int64
		var all []made
		for range rapid.IntRange(1, 60).Draw(t, "asked") {
			now += rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 3*p.step), rapid.Int64Range(0, 2*p.full)).Draw(t, "later")
			want := rapid.OneOf(rapid.Just(int64(1)), rapid.Int64Range(1, int64(r.Calls)+2)).Draw(t, "want")
			after, calls := p.take(tat, now, 0, want)
			if calls < 0 || calls > want || after < tat {
				t.Fatalf("%d of %d calls, and the TAT goes from %d to %d", calls, want, tat, after)
			}
			if calls < want {
				// One more: there is a stretch of time up to now that has too many.
				tooMany := false
				one := append(all[:len(all):len(all)], made{now, calls + 1})
				for i := range one {
					var sum int64
					for _, m := range one[i:] {
						sum += m.calls
					}
					tooMany = tooMany || sum*p.step > p.full+now-one[i].at
				}
				if !tooMany {
					t.Fatalf("%s: %d calls were to be had at %d, and there were %d: %v", r, want, now, calls, all)
				}
				wait := p.wait(after, now)
				if wait <= 0 {
					t.Fatalf("refused, and a wait of %d", wait)
				}
				if _, early := p.take(after, now+wait-1, 0, 1); early != 0 {
					t.Fatalf("there was one before the wait of %d was over", wait)
				}
				if _, then := p.take(after, now+wait, 0, 1); then != 1 {
					t.Fatalf("there was none when the wait of %d was over", wait)
				}
			}
			tat = after
			all = append(all, made{now, calls})
		}
		if n := most(r, all); n > 0 {
			t.Fatalf("%s: %d too many: %v", r, n, all)
		}
	})
}

// TestPortionsKeepTheRate: replicas take portions and make the calls at any time until
// they have to. No stretch of time has too many.
func TestPortionsKeepTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRate(t)
		if rapid.Bool().Draw(t, "fast") { // else a portion is one call
			r = sallyport.Rate{Calls: rapid.IntRange(20, 200).Draw(t, "calls of many"), Per: time.Second}
		}
		p := gcraOf(r)
		var tat, now int64
		var all []made
		for range rapid.IntRange(1, 20).Draw(t, "portions") {
			now += rapid.OneOf(rapid.Just(int64(0)), rapid.Just(p.full/4), rapid.Int64Range(0, 3*p.step), rapid.Int64Range(0, p.full/2)).Draw(t, "later")
			o := p.portion(rapid.OneOf(rapid.Just(1), rapid.IntRange(1, r.Calls)).Draw(t, "waiting"))
			var calls int64
			var held bool
			tat, calls, held = p.share(tat, now, o)
			if calls > o.most || !held && calls > o.wanted {
				t.Fatalf("%d calls (held: %v) for %+v", calls, held, o)
			}
			at := now
			if held && rapid.Bool().Draw(t, "held") {
				at += o.hold - rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, o.hold)).Draw(t, "earlier")
			}
			if calls > 0 {
				all = append(all, made{at, calls})
			}
		}
		slices.SortFunc(all, func(a, b made) int { return cmp.Compare(a.at, b.at) })
		if n := most(r, all); n > 0 {
			t.Fatalf("%s: %d too many: %v", r, n, all)
		}
	})
}

// TestSharesAsSQL: the database shares as this program does.
func TestSharesAsSQL(t *testing.T) {
	d := newDatabase(t, server(t))
	err := d.server.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
		rapid.Check(t, func(t *rapid.T) {
			p := gcraOf(anyRate(t))
			o := p.portion(rapid.IntRange(0, 100).Draw(t, "waiting"))
			now := rapid.Int64Range(0, 3e18).Draw(t, "now")
			tat := max(now+rapid.Int64Range(-2*p.full, 2*p.full).Draw(t, "tat"), 0)
			if rapid.Bool().Draw(t, "nearly full") {
				tat = now + p.full - rapid.Int64Range(0, 70*p.step).Draw(t, "short of full")
			}
			var calls, after int64
			var held bool
			err := c.QueryRow(ctx, `WITH at AS (SELECT $1::bigint AS tat, $7::bigint AS now), `+shareQuery+` SELECT calls, held, after FROM share`,
				tat, p.step, p.full, o.wanted, o.most, o.hold, now).Scan(&calls, &held, &after)
			if err != nil {
				t.Fatal(err)
			}
			wantAfter, wantCalls, wantHeld := p.share(tat, now, o)
			if calls != wantCalls || held != wantHeld || after != wantAfter {
				t.Fatalf("TAT %d at %d, %+v, %+v: the database gives %d until %d (held: %v), want %d until %d (%v)",
					tat, now, p, o, calls, after, held, wantCalls, wantAfter, wantHeld)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRatesInMemory: each key has its own, and those that are as good as none make room.
func TestRatesInMemory(t *testing.T) {
	var m rates
	at := time.Now()
	p := gcraOf(sallyport.Rate{Calls: 2, Per: time.Minute})
	take := func(key string, want time.Duration) {
		t.Helper()
		if wait, err := m.take(key, p, at); err != nil || wait != want {
			t.Errorf("%s: %v, %v, want %v", key, wait, err, want)
		}
	}
	take("a", 0)
	take("a", 0)
	take("a", 30*time.Second)
	take("b", 0)
	at = at.Add(29 * time.Second)
	take("a", time.Second)
	at = at.Add(time.Second)
	take("a", 0)
	take("a", 30*time.Second)
	for i := range mostRates - 1 { // the last takes the place of "b", which is full again
		take(fmt.Sprint(i), 0)
	}
	if _, err := m.take("one more", p, at); !errors.Is(err, errManyRates) {
		t.Errorf("one more than there may be: %v", err)
	}
	take("a", 30*time.Second) // those there are go on
	at = at.Add(31 * time.Second)
	take("one more", 0)
	if n := len(m.tats); n != 2 { // and "a", of which one is used
		t.Errorf("%d are kept", n)
	}
	// Another rate of the same key: what was taken counts, up to all of it.
	p = gcraOf(sallyport.Rate{Calls: 1, Per: 24 * time.Hour})
	take("day", 0)
	take("day", 24*time.Hour)
	p = gcraOf(sallyport.Rate{Calls: 10, Per: time.Second})
	take("day", 100*time.Millisecond)
}

var errAway = errors.New("away")

// TestShare: one question at a time, for all that wait; everybody leaves when they like.
func TestShare(t *testing.T) {
	r := sallyport.Rate{Calls: 100, Per: time.Second}
	type question struct {
		portion
		answer chan granted
		fail   chan error
	}
	bubble := func(do func(t *testing.T, s *share, asked chan *question, ask func(portion) (granted, error))) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan *question, 10)
			var open atomic.Int64
			do(t, &share{}, asked, func(o portion) (granted, error) {
				if open.Add(1) > 1 {
					t.Error("two questions at a time")
				}
				defer open.Add(-1)
				q := &question{o, make(chan granted), make(chan error)}
				asked <- q
				select {
				case g := <-q.answer:
					return g, nil
				case err := <-q.fail:
					return granted{}, err
				}
			})
		})
	}
	type end struct {
		wait time.Duration
		err  error
	}
	takes := func(ctx context.Context, s *share, r sallyport.Rate, ask func(portion) (granted, error), n int) chan end {
		ends := make(chan end, n)
		for range n {
			go func() {
				wait, err := s.take(ctx, r, ask)
				ends <- end{wait, err}
			}()
		}
		synctest.Wait()
		return ends
	}
	// What is taken ahead is used by those who come within the hold, and by no others.
	bubble(func(t *testing.T, s *share, asked chan *question, ask func(portion) (granted, error)) {
		ends := takes(t.Context(), s, r, ask, 1)
		q := <-asked
		if q.wanted != 1 || q.most != 10 || q.hold != int64(250*time.Millisecond) {
			t.Errorf("asked for %+v", q.portion)
		}
		time.Sleep(50 * time.Millisecond)
		q.answer <- granted{calls: 10, held: true}
		if e := <-ends; e.wait != 0 || e.err != nil {
			t.Error(e)
		}
		for range 8 {
			if wait, err := s.take(t.Context(), r, nil); wait != 0 || err != nil {
				t.Error(wait, err)
			}
		}
		time.Sleep(200 * time.Millisecond) // 250 ms after the question
		ends = takes(t.Context(), s, r, ask, 1)
		(<-asked).answer <- granted{calls: 0, wait: 30 * time.Millisecond}
		if e := <-ends; e.wait != 30*time.Millisecond || e.err != nil {
			t.Error("what was left after the hold was used", e)
		}
		// Until then nobody is asked; another rate is another question.
		time.Sleep(10 * time.Millisecond)
		if wait, err := s.take(t.Context(), r, nil); wait != 20*time.Millisecond || err != nil {
			t.Error(wait, err)
		}
		ends = takes(t.Context(), s, sallyport.Rate{Calls: 7, Per: time.Second}, ask, 1)
		(<-asked).answer <- granted{calls: 1}
		if e := <-ends; e.wait != 0 || e.err != nil {
			t.Error(e)
		}
	})
	// Those that wait are served together, and those for whom there is none are refused.
	bubble(func(t *testing.T, s *share, asked chan *question, ask func(portion) (granted, error)) {
		first := takes(t.Context(), s, r, ask, 1)
		ctx, leave := context.WithCancel(t.Context())
		gone := takes(ctx, s, r, ask, 5)
		rest := takes(t.Context(), s, r, ask, 30)
		leave()
		for range 5 {
			if e := <-gone; !errors.Is(e.err, context.Canceled) {
				t.Error("it waits for others", e)
			}
		}
		(<-asked).answer <- granted{calls: 1}
		synctest.Wait()
		q := <-asked
		if q.wanted != 30 {
			t.Errorf("asked for %d, and 30 wait", q.wanted)
		}
		q.answer <- granted{calls: 20, wait: time.Second}
		synctest.Wait()
		served := 0
		for _, ends := range []chan end{first, rest} {
			for range cap(ends) {
				switch e := <-ends; {
				case e.err != nil:
					t.Error(e.err)
				case e.wait == 0:
					served++
				case e.wait != time.Second:
					t.Error(e.wait)
				}
			}
		}
		if served != 21 || len(asked) != 0 {
			t.Errorf("%d were served, and there are %d questions more", served, len(asked))
		}
	})
	// When others are always faster, a refusal ends it; an error is that of all.
	bubble(func(t *testing.T, s *share, asked chan *question, ask func(portion) (granted, error)) {
		ends := takes(t.Context(), s, r, ask, 1)
		for range 3 {
			(<-asked).answer <- granted{}
		}
		if e := <-ends; e.wait != 10*time.Millisecond || e.err != nil {
			t.Error(e)
		}
		ends = takes(t.Context(), s, r, ask, 7)
		(<-asked).fail <- errAway
		for range 7 {
			if e := <-ends; !errors.Is(e.err, errAway) {
				t.Error(e)
			}
		}
		if len(asked) != 0 {
			t.Error("asked again")
		}
	})
}

// TestSharesAreForgotten: memory has an end, and what is in use stays.
func TestSharesAreForgotten(t *testing.T) {
	var m rates
	now := time.Now()
	for i := range mostRates {
		s, err := m.share(fmt.Sprint(i), now)
		if err != nil {
			t.Fatal(err)
		}
		s.left, s.until = 1, now.Add(time.Second)
	}
	if _, err := m.share("one more", now); !errors.Is(err, errManyRates) {
		t.Errorf("one more than there may be: %v", err)
	}
	m.shares["7"].next = now.Add(time.Minute)
	m.shares["8"].waiting = 1
	if _, err := m.share("one more", now.Add(time.Second)); err != nil {
		t.Error(err)
	}
	if n := len(m.shares); n != 3 || m.shares["7"] == nil || m.shares["8"] == nil {
		t.Errorf("%d are kept", n)
	}
}

// TestRateOverReplicas: four replicas use one rate as hard as they can for three
// seconds. Together they keep it, and get most of it.
func TestRateOverReplicas(t *testing.T) {
	t.Parallel()
	first, _ := newPostgresRig(t, server(t))
	stores := []*Store{first.Store}
	for range 3 {
		s, err := Open(context.Background(), first.Config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		stores = append(stores, s)
	}
	loads := []struct {
		sallyport.Rate
		admitted atomic.Int64
	}{
		{Rate: sallyport.Rate{Calls: 300, Per: time.Second}}, // 30 at a time
		{Rate: sallyport.Rate{Calls: 5, Per: time.Second}},   // one at a time
	}
	began := time.Now()
	var wait sync.WaitGroup
	for i := range loads {
		load := &loads[i]
		for _, s := range stores {
			for range 8 {
				wait.Go(func() {
					for time.Since(began) < 3*time.Second {
						pause, err := s.Take(context.Background(), fmt.Sprint(i), load.Rate)
						switch {
						case err != nil:
							t.Error(err)
							return
						case pause == 0:
							load.admitted.Add(1)
						default:
							time.Sleep(pause)
						}
					}
				})
			}
		}
	}
	wait.Wait()
	took := time.Since(began)
	for i := range loads {
		load := &loads[i]
		n := load.admitted.Load()
		allowed := int64(load.Calls) + mulDiv(int64(took%load.Per), int64(load.Calls), int64(load.Per)) + int64(took/load.Per)*int64(load.Calls)
		t.Logf("%s: %d calls in %v, of %d allowed", load.Rate, n, took, allowed)
		if n > allowed {
			t.Errorf("%s: %d calls in %v, and %d are allowed", load.Rate, n, took, allowed)
		}
		if least := int64(load.Calls) * 4 * 8 / 10; n < least { // of those of three seconds
			t.Errorf("%s: only %d calls, want %d", load.Rate, n, least)
		}
	}
}

// TestRatesWhileServerIsAway: nothing is let through that cannot be counted, and it goes
// on when the server is back.
func TestRatesWhileServerIsAway(t *testing.T) {
	t.Parallel()
	own, err := pgserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	r, d := newPostgresRig(t, own)
	hourly := sallyport.Rate{Calls: 3, Per: time.Hour}
	take := func() error {
		wait, err := r.Take(context.Background(), "a", hourly)
		if err == nil && wait > 0 {
			err = sallyport.Refuse(sallyport.RateLimited, wait.String(), "")
		}
		return err
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	if err := own.Down(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var refusal *sallyport.Refusal
		if err := take(); !errors.As(err, &refusal) || refusal.Code != sallyport.NotReady {
			t.Errorf("without a server: %v", err)
		}
	}
	if err := own.Up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "calls are counted again", func() bool { return take() == nil })
	if err := take(); err != nil {
		t.Error(err)
	}
	var refusal *sallyport.Refusal
	if err := take(); !errors.As(err, &refusal) || refusal.Code != sallyport.RateLimited {
		t.Errorf("after three calls: %v", err)
	}
	// Rows that say nothing any more go when another is made.
	if err := own.Exec(d.name, `UPDATE rates SET tat = 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Take(context.Background(), "b", hourly); err != nil {
		t.Fatal(err)
	}
	var rows int
	err = own.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT count(*) FROM rates`).Scan(&rows)
	})
	if err != nil || rows != 1 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}

// BenchmarkTakeInMemory takes one rate from one and many sides.
func BenchmarkTakeInMemory(b *testing.B) {
	var m rates
	p := gcraOf(sallyport.Rate{Calls: sallyport.MostRateCalls, Per: time.Second})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.take("production/crm", p, time.Now()); err != nil {
				b.Error(err)
			}
		}
	})
}
