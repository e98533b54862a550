package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// sides does something from many sides at once.
func sides(n int, do func(i int)) {
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { do(i) })
	}
	wait.Wait()
}

// clocked gives the store a clock that the test moves.
func clocked(r *rig) *atomic.Int64 {
	r.t.Helper()
	clock := &atomic.Int64{}
	clock.Store(r.Now().UnixNano())
	r.Config.Now = func() time.Time { return time.Unix(0, clock.Load()).UTC() }
	r.reopen()
	return clock
}

// open opens an explicit run with its token, as control does.
func (r *rig) openUntil(id sallyport.RunID, until time.Time) {
	key := control.Key{ID: sallyport.KeyID("key_" + string(id)), Kind: sallyport.KeyRun, Agent: "support", Run: id, Expires: until}
	copy(key.Hash[:], id)
	err := r.Commit(context.Background(), person("rec_open_"+string(id)), control.PutRun{Run: sallyport.Run{
		ID: id, Agent: "support", Release: releaseA, Stage: sallyport.Production, State: sallyport.RunOpen,
		OpenedBy: "key_1", Opened: r.Now(), LastCall: r.Now(), Labels: sallyport.NewLabels(), Envelope: sallyport.Envelope{Expires: until},
	}}, control.PutKey{Key: key})
	if err != nil {
		r.t.Error(err)
	}
}

// inMemory counts what is kept of runs.
func (r *rig) inMemory() (runs, keys int) {
	r.runs.mu.Lock()
	defer r.runs.mu.Unlock()
	r.dataKeys.Range(func(any, any) bool { keys++; return true })
	if n := len(r.runs.implicit) + len(r.runs.opening); n > 2*len(r.runs.open) {
		r.t.Errorf("%d implicit runs and locks are kept for %d runs", n, len(r.runs.open))
	}
	return len(r.runs.open), keys
}

func agentKey(id sallyport.KeyID) *gateway.Identity {
	return &gateway.Identity{Key: id, Kind: sallyport.KeyAgent, Agent: "support", Release: releaseA, Ceiling: sallyport.Production}
}

// TestIdleRunsAreForgotten: of runs that nobody uses any more nothing is kept.
func TestIdleRunsAreForgotten(t *testing.T) {
	r := newRig(t)
	clock := clocked(r)
	ctx := context.Background()
	sides(60, func(i int) { // three runs of every key, and of one all at once
		key := sallyport.KeyID(fmt.Sprint("key_", i%10))
		if _, err := r.Implicit(ctx, agentKey(key), releaseA, sallyport.Stages[i%3], r.Now()); err != nil {
			t.Error(err)
		}
	})
	if runs, _ := r.inMemory(); runs != 30 {
		t.Errorf("%d runs are kept", runs)
	}
	// A key that moves to another release leaves its run behind.
	if _, err := r.Implicit(ctx, agentKey("key_0"), "sha256:bbbbbbbbbbbbbbbb", sallyport.Sandbox, r.Now()); err != nil {
		t.Error(err)
	}
	if runs, _ := r.inMemory(); runs != 30 {
		t.Errorf("%d runs are kept", runs)
	}
	clock.Add(int64(idleEnd))
	if n, err := r.Sweep(ctx); n != 30 || err != nil {
		t.Errorf("%d ended: %v", n, err)
	}
	if runs, keys := r.inMemory(); runs+keys > 0 {
		t.Errorf("%d runs and %d data keys are kept", runs, keys)
	}
}

// TestEndedRunIsForgotten: whatever is going on while a run ends, nothing of it
// is kept.
func TestEndedRunIsForgotten(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	sides(100, func(i int) {
		id := sallyport.RunID(fmt.Sprintf("run_%03d", i))
		r.openUntil(id, r.Now().Add(time.Hour))
		var wait sync.WaitGroup
		var over atomic.Bool
		for range 3 {
			wait.Go(func() { // finds the run out of memory, again and again
				for {
					if _, err := r.Open(ctx, id, r.Now()); err != nil || over.Load() {
						return
					}
					r.Forget(id)
				}
			})
		}
		wait.Go(func() {
			defer over.Store(true)
			if err := r.Commit(ctx, person("rec_end_"+string(id)), control.EndRun{ID: id, At: r.Now(), Close: &sallyport.RunClose{Outcome: "success"}}); err != nil {
				t.Error(err)
			}
			r.Forget(id)
		})
		wait.Wait()
	})
	if runs, keys := r.inMemory(); runs+keys > 0 {
		t.Errorf("%d runs and %d data keys are kept", runs, keys)
	}
	// A call that ends after its run keeps nothing, and looking at it does not.
	late := entry(audit.Outcome, "late", sallyport.OutcomeOK)
	late.Record.Run = "run_001"
	if err := r.Conclude(ctx, late); err != nil {
		t.Error(err)
	}
	if lines, err := r.Trace(ctx, "run_001", "", true); err != nil || len(lines) != 1 || lines[0].Payload == nil {
		t.Errorf("%+v %v", lines, err)
	}
	if runs, keys := r.inMemory(); runs+keys > 0 {
		t.Errorf("%d runs and %d data keys are kept after the end", runs, keys)
	}
}
