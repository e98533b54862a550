package gateway

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sallyport"
)

// TestLine: calls that a world answers are answered in the order in which they were
// admitted, also when one of them gives up while it waits.
func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRun(sallyport.Run{ID: "run_1"}, nil)
		var places []*place
		for i := range 5 {
			p, err := r.reserve(t.Context(), true)
			if err != nil || p.number != i {
				t.Fatalf("%+v %v", p, err)
			}
			places = append(places, p)
		}
		if p, err := r.reserve(t.Context(), false); err != nil || p.done != nil || p.number != 5 {
			t.Fatalf("a call in no line: %+v %v", p, err)
		}
		var order []int
		for _, i := range []int{4, 2, 3, 1, 0} {
			go func() {
				defer places[i].leave()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i == 2 {
					cancel() // before its turn
				}
				if err := places[i].wait(ctx); err != nil {
					if i != 2 || !errors.Is(err, context.Canceled) {
						t.Errorf("call %d: %v", i, err)
					}
					return
				}
				time.Sleep(time.Second)
				order = append(order, i)
			}()
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []int{0, 1, 3, 4}; !slices.Equal(order, want) {
			t.Errorf("answered in the order %v, want %v", order, want)
		}
	})
}
