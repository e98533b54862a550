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

// soon fails the test if f does not return: what it does needs no waiting.
func soon(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the store does not answer any more")
	}
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

func (r *rig) state(id sallyport.RunID) sallyport.RunState {
	r.t.Helper()
	run, err := r.Run(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return run.State
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

// TestSweepFindsWhatIsOver puts more runs that go on before those that are over
// than one sweep ends.
func TestSweepFindsWhatIsOver(t *testing.T) {
	r := newRig(t)
	clock := clocked(r)
	ctx, began := context.Background(), r.Now()
	sides(1_100, func(i int) { r.openUntil(sallyport.RunID(fmt.Sprintf("run_a%04d", i)), began.Add(24*time.Hour)) })
	sides(1_300, func(i int) { r.openUntil(sallyport.RunID(fmt.Sprintf("run_b%04d", i)), began.Add(time.Hour)) })
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {time.Hour - time.Nanosecond, 0}, {time.Hour, 1_000}, {time.Hour, 300}, {time.Hour, 0}} {
		clock.Store(began.Add(step.after).UnixNano())
		if n, err := r.Sweep(ctx); n != step.want || err != nil {
			t.Errorf("after %v %d runs ended, want %d: %v", step.after, n, step.want, err)
		}
	}
	for id, want := range map[sallyport.RunID]sallyport.RunState{
		"run_a0000": sallyport.RunOpen, "run_a1099": sallyport.RunOpen, "run_b0000": sallyport.RunExpired, "run_b1299": sallyport.RunExpired,
	} {
		if got := r.state(id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	var hash [32]byte
	copy(hash[:], "run_b0000")
	if _, err := r.Key(ctx, hash); err == nil {
		t.Error("the token of a run that expired is still good")
	}
	r.verified()
}

func agentKey(id sallyport.KeyID) *gateway.Identity {
	return &gateway.Identity{Key: id, Kind: sallyport.KeyAgent, Agent: "support", Release: releaseA, Ceiling: sallyport.Production}
}

// TestImplicitRun: a run is the key's and the stage's, outlives the program, and
// ends when nothing has used it for thirty minutes.
func TestImplicitRun(t *testing.T) {
	r := newRig(t)
	clock := clocked(r)
	ctx := context.Background()
	implicit := func(key sallyport.KeyID, release sallyport.ReleaseID, stage sallyport.Stage) sallyport.RunID {
		t.Helper()
		run, err := r.Implicit(ctx, agentKey(key), release, stage, r.Now())
		if err != nil {
			t.Fatal(err)
		}
		if !run.Implicit || run.Release != release || run.Stage != stage || run.OpenedBy != key || run.Envelope.Person != "" || run.Envelope.Task != "" {
			t.Fatalf("%+v", run.Run)
		}
		return run.ID
	}
	var ids [50]sallyport.RunID
	sides(len(ids), func(i int) { ids[i] = implicit("key_1", releaseA, sallyport.Sandbox) })
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one key has two runs: %s and %s", ids[0], id)
		}
	}
	id := ids[0]
	for what, other := range map[string]sallyport.RunID{
		"key": implicit("key_2", releaseA, sallyport.Sandbox), "stage": implicit("key_1", releaseA, sallyport.Production),
	} {
		if other == id {
			t.Errorf("another %s has the same run", what)
		}
	}
	// It is used again and again, longer than the idle end in all.
	for range 3 {
		clock.Add(int64(idleEnd - time.Nanosecond))
		if n, err := r.Sweep(ctx); err != nil || r.state(id) != sallyport.RunOpen {
			t.Fatalf("%d runs ended: %v", n, err)
		}
		if got := implicit("key_1", releaseA, sallyport.Sandbox); got != id {
			t.Fatalf("the run ended before it was idle for long enough")
		}
	}
	if r.state(id) != sallyport.RunOpen {
		t.Error("the sweep ended a run that had just been used")
	}
	// Another release is another run, and the one before it ends.
	const releaseB = sallyport.ReleaseID("sha256:bbbbbbbbbbbbbbbb")
	second := implicit("key_1", releaseB, sallyport.Sandbox)
	if second == id || r.state(id) != sallyport.RunExpired {
		t.Errorf("a key that has moved to another release goes on in %s, which is %s", second, r.state(id))
	}
	// After a restart it goes on, if it is young enough.
	clock.Add(int64(idleEnd - time.Second))
	r.reopen()
	if got := implicit("key_1", releaseB, sallyport.Sandbox); got != second {
		t.Error("the run did not outlive the program")
	}
	clock.Add(int64(idleEnd))
	if got := implicit("key_1", releaseB, sallyport.Sandbox); got == second || r.state(second) != sallyport.RunExpired {
		t.Error("the run did not end after thirty idle minutes")
	}
	clock.Add(int64(idleEnd))
	if n, err := r.Sweep(ctx); n == 0 || err != nil {
		t.Errorf("%d ended: %v", n, err)
	}
	if runs, keys := r.inMemory(); runs+keys > 0 {
		t.Errorf("%d runs and %d data keys are kept", runs, keys)
	}
	r.verified()
}

// TestReadersDoNotWaitForEachOther asks for as many things at once as there are
// connections many times over, with nothing in memory, as after a restart.
func TestReadersDoNotWaitForEachOther(t *testing.T) {
	r := newRig(t)
	ctx, n := context.Background(), 64
	for i := range n {
		r.openUntil(sallyport.RunID(fmt.Sprintf("run_%02d", i)), r.Now().Add(time.Hour))
	}
	r.openRun(runA)
	r.conclude("1")
	r.reopen()
	soon(t, func() {
		sides(n, func(i int) {
			if _, err := r.Runs(ctx, "", n); err != nil {
				t.Error(err)
			}
			if _, err := r.Open(ctx, sallyport.RunID(fmt.Sprintf("run_%02d", i)), r.Now()); err != nil {
				t.Error(err)
			}
			lines, err := r.Trace(ctx, runA, "", true)
			if err != nil || len(lines) != 1 || lines[0].Payload == nil {
				t.Errorf("%d lines: %v", len(lines), err)
			}
		})
	})
}

func (r *rig) conclude(call string) {
	r.t.Helper()
	if err := r.Conclude(context.Background(), entry(audit.Outcome, call, sallyport.OutcomeOK)); err != nil {
		r.t.Fatal(err)
	}
}

// TestEndedRunIsForgotten: whatever is going on while a run ends, nothing of it
// is kept, and it is over for everybody who asks after that.
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
			if _, err := r.Open(ctx, id, r.Now()); err == nil {
				t.Errorf("%s has ended and can be called in", id)
			}
		})
		wait.Wait()
		if _, err := r.Open(ctx, id, r.Now()); err == nil {
			t.Errorf("%s has ended and can be called in", id)
		}
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
