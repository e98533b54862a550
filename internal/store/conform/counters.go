package conform

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"sallyport"
	"sallyport/internal/limit"
)

func charge(key string, amount, most int) limit.Charge {
	c := limit.Charge{Name: "spent", Key: key, Per: time.Hour, Amount: sallyport.Unit * sallyport.Amount(amount)}
	if most > 0 {
		c.Most = new(sallyport.Unit * sallyport.Amount(most))
	}
	return c
}

// counters: however many ask at one time, no more is spent than there may be, and all of
// that; all charges of a call are added or none; what is taken back can be spent again,
// once; and all of it outlives the program.
func counters(r *rig) {
	ctx := context.Background()
	spent := func(key string) int {
		r.Helper()
		got, err := r.Spent(ctx, []limit.Charge{charge(key, 0, 0)})
		r.must(err)
		return int(got[0] / sallyport.Unit)
	}
	var admitted atomic.Int64
	var wait sync.WaitGroup
	receipts := make([]*limit.Receipt, 40)
	for i := range receipts {
		wait.Go(func() {
			got, err := r.Spend(ctx, []limit.Charge{charge("b", 1, 0), charge("a", 3, 50)})
			over, refused := errors.AsType[*limit.Over](err)
			switch {
			case err == nil:
				admitted.Add(1)
				receipts[i] = got
			case !refused:
				r.Error(err)
			case over.Charge.Key != "a" || over.Spent > 50*sallyport.Unit || over.Never || over.Wait <= 0 || over.Wait > 62*time.Minute:
				r.Errorf("%+v", over)
			}
		})
	}
	wait.Wait()
	if n := admitted.Load(); n != 16 || spent("a") != 48 || spent("b") != 16 {
		r.Fatalf("%d were admitted; %d and %d were spent", n, spent("a"), spent("b"))
	}
	for _, one := range receipts {
		if one != nil {
			r.must(r.Unspend(ctx, one))
			break
		}
	}
	if spent("a") != 45 || spent("b") != 15 {
		r.Errorf("after one was taken back %d and %d were spent", spent("a"), spent("b"))
	}
	for _, again := range []func(){r.reopen, r.crash} {
		again()
		if spent("a") != 45 || spent("b") != 15 || spent("c") != 0 {
			r.Errorf("after another start %d and %d were spent", spent("a"), spent("b"))
		}
	}
	_, err := r.Spend(ctx, []limit.Charge{charge("c", 51, 50)})
	if over, ok := errors.AsType[*limit.Over](err); !ok || !over.Never {
		r.Errorf("what never fits: %v", err)
	}
	// What is not known before, 0, fits while there is any room.
	_, err = r.Spend(ctx, []limit.Charge{charge("a", 0, 46)})
	r.must(err)
	_, err = r.Spend(ctx, []limit.Charge{charge("a", 0, 45)})
	if _, ok := errors.AsType[*limit.Over](err); !ok {
		r.Errorf("nothing is left: %v", err)
	}
	r.must(r.SweepCounters(ctx))
	if spent("a") != 45 {
		r.Error("a counter was forgotten before its time")
	}
	// Nobody who sees the tables sees who is counted.
	_, err = r.Spend(ctx, []limit.Charge{charge("ana@example.com", 1, 0)})
	r.must(err)
	kept, err := r.place.Bytes()
	r.must(err)
	if bytes.Contains(kept, []byte("ana@example.com")) {
		r.Error("a person is named in a counter")
	}
}
