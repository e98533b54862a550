package conform

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sallyport"
)

// rates: of those who come at once as many are admitted as a rate has, and whoever is
// refused is told when there will be one more. Rates are counted by the engine's own
// clock, so what is asked here takes longer than the test.
func rates(r *rig) {
	ctx := context.Background()
	hourly := sallyport.Rate{Calls: 10, Per: time.Hour}
	const step = 6 * time.Minute
	began := time.Now()
	var admitted atomic.Int64
	var wait sync.WaitGroup
	for range 40 {
		wait.Go(func() {
			switch wait, err := r.Take(ctx, "production/crm", hourly); {
			case err != nil:
				r.Error(err)
			case wait == 0:
				admitted.Add(1)
			case wait < 0 || wait > step:
				r.Errorf("refused, and told to come back after %v", wait)
			}
		})
	}
	wait.Wait()
	if n := admitted.Load(); n != 10 {
		r.Errorf("%d of %s were admitted", n, hourly)
	}
	// When exactly: one step after they were taken.
	then, err := r.Take(ctx, "production/crm", hourly)
	r.must(err)
	if passed := time.Since(began); then > step || then < step-passed-time.Second {
		r.Errorf("%v after the first call there is one more in %v", passed, then)
	}
	// Another key has all of its own.
	then, err = r.Take(ctx, "staging/crm", hourly)
	r.must(err)
	if then != 0 {
		r.Errorf("what is taken elsewhere counts: %v", then)
	}
	// A faster rate in its place: what was taken is all of it, and no more.
	fast := sallyport.Rate{Calls: 10_000, Per: 10 * time.Second}
	if then, err = r.Take(ctx, "production/crm", fast); err != nil || then > time.Millisecond {
		r.Errorf("after the rate was raised: %v, %v", then, err)
	}
	r.soon(func() {
		for {
			if then, err = r.Take(ctx, "production/crm", fast); err != nil || then == 0 {
				return
			}
			time.Sleep(then)
		}
	})
	r.must(err)
	for _, none := range []sallyport.Rate{{}, {Calls: 1}, {Per: time.Hour}, {Calls: -1, Per: time.Hour}, {Calls: 1, Per: -time.Hour}, {Calls: 1, Per: time.Second - 1}, {Calls: 1 << 30, Per: time.Hour}} {
		_, err := r.Take(ctx, "none", none)
		r.wants(sallyport.BadConfig, err)
	}
}
