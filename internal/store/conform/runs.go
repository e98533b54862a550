package conform

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// idleEnd is how long after its last call an implicit run ends (architecture,
// "Who and what").
const idleEnd = 30 * time.Minute

// runsLearn: what a run knows is joined, never replaced, and its calls are counted.
func runsLearn(r *rig) {
	ctx := context.Background()
	run := r.started()
	for _, l := range []sallyport.Labels{
		{Integrity: sallyport.Endorsed, Confidentiality: sallyport.Public},
		{Integrity: sallyport.User, Confidentiality: sallyport.Confidential},
		{Integrity: sallyport.System, Confidentiality: sallyport.Public},
		{},
	} {
		e := r.entry(run, audit.Outcome, sallyport.CallID(r.id("call")), sallyport.OutcomeOK)
		e.Record.Access = sallyport.Read
		if l != (sallyport.Labels{}) {
			e.Record.Labels = &l
		}
		r.must(r.Conclude(ctx, e))
	}
	want := sallyport.Labels{Integrity: sallyport.Endorsed, Confidentiality: sallyport.Confidential}
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		stored, err := r.Run(ctx, run.ID)
		r.must(err)
		full := *run
		full.Labels, full.Calls = want, 4
		if diff := cmp.Diff(full, *stored); diff != "" {
			r.Error(diff)
		}
		open, err := r.Open(ctx, run.ID, r.now())
		if err != nil || open.Calls() != 4 || open.Labels() != want {
			r.Errorf("%+v, %v", open, err)
		}
	}
}

// tally is a run as a model knows it.
type tally struct {
	*sallyport.Run
	calls         int
	labels        sallyport.Labels
	open, unknown []sallyport.CallID
}

// runsAreExact: whatever calls began and ended in several runs, whatever people did
// in between and however often the program was closed or killed, every start knows
// the same calls, labels and open calls as a model that saw every record.
func runsAreExact(r *rig) {
	ctx := context.Background()
	r.property(func(t *rapid.T) {
		runs := make([]*tally, rapid.IntRange(1, 3).Draw(t, "runs"))
		for i := range runs {
			runs[i] = &tally{Run: r.started(), labels: sallyport.NewLabels()}
		}
		take := func(from *[]sallyport.CallID) (call sallyport.CallID, ok bool) {
			if len(*from) == 0 {
				return "", false
			}
			i := rapid.IntRange(0, len(*from)-1).Draw(t, "call")
			call = (*from)[i]
			*from = slices.Delete(*from, i, i+1)
			return call, true
		}
		end := func(run *tally, call sallyport.CallID, as sallyport.Outcome, access sallyport.Access) {
			e := r.entry(run.Run, audit.Outcome, call, as)
			e.Record.Access = access
			if rapid.Bool().Draw(t, "learns") {
				e.Record.Labels = &sallyport.Labels{
					Integrity:       sallyport.Integrity(rapid.IntRange(1, 4).Draw(t, "integrity")),
					Confidentiality: sallyport.Confidentiality(rapid.IntRange(1, 4).Draw(t, "confidentiality")),
				}
				run.labels = run.labels.Join(*e.Record.Labels)
			}
			r.must(r.Conclude(ctx, e))
		}
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			run := runs[rapid.IntRange(0, len(runs)-1).Draw(t, "run")]
			switch rapid.SampledFrom([]string{"begin", "begin", "end", "end", "unsure", "read", "settle", "checkpoint", "next"}).Draw(t, "step") {
			case "begin":
				call, err := r.intend(run.Run)
				r.must(err)
				run.open = append(run.open, call)
				run.calls++
			case "end":
				if call, ok := take(&run.open); ok {
					end(run, call, sallyport.OutcomeOK, sallyport.Changing)
				}
			case "unsure":
				if call, ok := take(&run.open); ok {
					end(run, call, sallyport.OutcomeUnsettled, sallyport.Changing)
					run.unknown = append(run.unknown, call)
				}
			case "read": // no intent before it
				end(run, sallyport.CallID(r.id("call")), sallyport.OutcomeOK, sallyport.Read)
				run.calls++
			case "settle":
				if call, ok := take(&run.unknown); ok {
					r.must(r.settle(run.Run, call, "happened"))
				}
			case "checkpoint":
				r.must(r.Checkpoint())
			case "next": // another start
				if rapid.Bool().Draw(t, "killed") {
					r.crash()
				} else {
					r.reopen()
				}
				for _, run := range runs { // calls may be made in it before anything else is asked
					if open, err := r.Open(ctx, run.ID, r.now()); err != nil || open.Calls() != run.calls || open.Labels() != run.labels {
						r.Fatalf("%v: calls go on in another run than one with %d calls that knows %v", err, run.calls, run.labels)
					}
				}
				_, err := r.MarkUnknown(ctx)
				r.must(err)
				for _, run := range runs {
					run.unknown = append(run.unknown, run.open...)
					run.open = nil
				}
			}
		}
		check := func() {
			r.Helper()
			for _, run := range runs {
				waiting := slices.Sorted(slices.Values(run.unknown))
				if have := slices.Sorted(slices.Values(r.waiting(run.Run))); !slices.Equal(have, waiting) {
					r.Fatalf("unknown are %v, want %v", have, waiting)
				}
				stored, err := r.Run(ctx, run.ID)
				r.must(err)
				if stored.Calls != run.calls || stored.Labels != run.labels {
					r.Fatalf("%s has %d calls and knows %v, want %d and %v", run.ID, stored.Calls, stored.Labels, run.calls, run.labels)
				}
			}
		}
		check()
		if rapid.IntRange(0, 2).Draw(t, "killed in the end") > 0 {
			return
		}
		r.crash()
		_, err := r.MarkUnknown(ctx)
		r.must(err)
		for _, run := range runs {
			run.unknown = append(run.unknown, run.open...)
		}
		check()
	})
}

// nothingIsLate: what a reader asks for is what has been acknowledged.
func nothingIsLate(r *rig) {
	ctx := context.Background()
	run := r.started()
	r.must(r.Checkpoint())
	for n := 1; n < 10; n++ {
		r.pass(time.Minute)
		call, err := r.intend(run)
		r.must(err)
		if n%3 == 0 {
			r.must(r.conclude(run, call, sallyport.OutcomeUnsettled))
			if have := r.waiting(run); len(have) != n/3 || have[n/3-1] != call {
				r.Fatalf("%v", have)
			}
		}
		one, err := r.Run(ctx, run.ID)
		r.must(err)
		listed, err := r.ListRuns(ctx, control.RunFilter{}, "", 1)
		r.must(err)
		if one.Calls != n || !one.LastCall.Equal(r.now()) || len(listed) != 1 || !cmp.Equal(*one, listed[0]) {
			r.Fatalf("%d calls, the last at %v: %+v, %+v", n, r.now(), one, listed)
		}
		calls, _, err := r.ListCalls(ctx, control.RecordFilter{}, -1, 1)
		if err != nil || len(calls) != 1 || calls[0].ID != call {
			r.Fatalf("%+v, %v", calls, err)
		}
	}
}

func agentKey(id sallyport.KeyID) *gateway.Identity {
	return &gateway.Identity{Key: id, Kind: sallyport.KeyAgent, Agent: "support", Release: digest("release"), Ceiling: sallyport.Production}
}

// state is that of a run as it is stored.
func (r *rig) state(id sallyport.RunID) sallyport.RunState {
	r.Helper()
	run, err := r.Run(context.Background(), id)
	r.must(err)
	return run.State
}

// implicitRuns: a run is the key's and the stage's, outlives the program, and ends
// when nothing has used it for thirty minutes.
func implicitRuns(r *rig) {
	ctx := context.Background()
	one, other := digest("release"), digest("another")
	implicit := func(key sallyport.KeyID, release sallyport.ReleaseID, stage sallyport.Stage) sallyport.RunID {
		r.Helper()
		run, err := r.Implicit(ctx, agentKey(key), release, stage, r.now())
		if err != nil {
			r.Error(err)
			return ""
		}
		if !run.Implicit || run.Agent != "support" || run.Release != release || run.Stage != stage || run.OpenedBy != key || run.Labels() != sallyport.NewLabels() ||
			!cmp.Equal(run.Envelope, sallyport.Envelope{Expires: run.Envelope.Expires}) {
			r.Errorf("%+v", run.Run)
		}
		return run.ID
	}
	var ids [50]sallyport.RunID
	sides(len(ids), func(i int) { ids[i] = implicit("key_1", one, sallyport.Sandbox) })
	id := ids[0]
	if slices.ContainsFunc(ids[:], func(x sallyport.RunID) bool { return x != id }) || r.Size() != 1 {
		r.Fatalf("one key has the runs %v, in %d records", slices.Compact(slices.Sorted(slices.Values(ids[:]))), r.Size())
	}
	if again := implicit("key_2", one, sallyport.Sandbox); again == id {
		r.Error("another key has the same run")
	}
	if again := implicit("key_1", one, sallyport.Production); again == id {
		r.Error("another stage has the same run")
	}
	// It is used again and again, longer than the idle end in all.
	for range 3 {
		r.pass(idleEnd - time.Nanosecond)
		if n, err := r.Sweep(ctx); err != nil || r.state(id) != sallyport.RunOpen {
			r.Fatalf("%d runs ended: %v", n, err)
		}
		if got := implicit("key_1", one, sallyport.Sandbox); got != id {
			r.Fatalf("the run ended before it was idle for long enough")
		}
	}
	if n, err := r.Sweep(ctx); err != nil || r.state(id) != sallyport.RunOpen {
		r.Errorf("%d runs ended, among them one that had just been used: %v", n, err)
	}
	// Another release is another run, and the one before it ends.
	second := implicit("key_1", other, sallyport.Sandbox)
	if second == id || r.state(id) != sallyport.RunExpired {
		r.Errorf("a key that has moved to another release goes on in %s, which is %s", second, r.state(id))
	}
	// It goes on after a restart, if it is young enough: a call in it is what counts.
	for _, restart := range []func(){r.reopen, r.crash} {
		r.pass(idleEnd - time.Second)
		if second != implicit("key_1", other, sallyport.Sandbox) {
			r.Error("the run ended before it was idle for long enough")
		}
		run, err := r.Run(ctx, second)
		r.must(err)
		_, err = r.read(run)
		r.must(err)
		r.pass(idleEnd - time.Second)
		restart()
		if got := implicit("key_1", other, sallyport.Sandbox); got != second {
			r.Error("the run did not outlive the program")
		}
	}
	r.pass(idleEnd)
	if got := implicit("key_1", other, sallyport.Sandbox); got == second || r.state(second) != sallyport.RunExpired {
		r.Error("the run did not end after thirty idle minutes")
	}
	r.pass(idleEnd)
	if n, err := r.Sweep(ctx); n == 0 || err != nil {
		r.Errorf("%d ended: %v", n, err)
	}
	runs, err := r.ListRuns(ctx, control.RunFilter{State: sallyport.RunOpen}, "", 10)
	if err != nil || len(runs) > 0 {
		r.Errorf("%+v, %v", runs, err)
	}
	// Each was opened once and ended once.
	opened, ended := map[sallyport.RunID]int{}, map[sallyport.RunID]int{}
	for _, record := range r.log() {
		switch record.Kind {
		case audit.RunOpened:
			opened[record.Run]++
		case audit.RunClosed:
			ended[record.Run]++
		}
	}
	for id, n := range opened {
		if n != 1 || ended[id] > 1 {
			r.Errorf("%s was opened %d times and ended %d times", id, n, ended[id])
		}
	}
	if len(opened) != 5 {
		r.Errorf("%d runs", len(opened))
	}
}

// runsExpire at the moment their envelope says, for everybody, swept or not.
func runsExpire(r *rig) {
	ctx := context.Background()
	run := r.started()
	until := run.Envelope.Expires
	for _, again := range []func(){func() {}, r.reopen} {
		again()
		var open *gateway.Run
		opens := func(at time.Time) error {
			return r.patient(func() (err error) { open, err = r.Open(ctx, run.ID, at); return err })
		}
		r.must(opens(until.Add(-time.Nanosecond)))
		if open.Envelope.Task != run.Envelope.Task || open.Envelope.MaxCalls != run.Envelope.MaxCalls {
			r.Errorf("%+v", open.Run)
		}
		r.wants(sallyport.NoRun, opens(until))
	}
	r.clock.Store(until.Add(-time.Nanosecond).UnixNano())
	r.sweep(0)
	r.clock.Store(until.UnixNano())
	r.sweep(1)
	r.sweep(0)
	r.wants(sallyport.NoRun, r.patient(func() error { _, err := r.Open(ctx, run.ID, noon); return err }))
	r.wants(sallyport.Unauthenticated, r.patient(func() error { _, err := r.Key(ctx, tokenOf(run.ID)); return err }))
	var stored *sallyport.Run
	err := r.patient(func() (err error) { stored, err = r.Run(ctx, run.ID); return err })
	if err != nil || stored.State != sallyport.RunExpired || !stored.Closed.Equal(until) || stored.Close != nil {
		r.Errorf("%+v, %v", stored, err)
	}
}

// tokensDieWithTheirRun: whatever is going on while a run ends, it ends once, and
// nobody who asks after that gets in.
func tokensDieWithTheirRun(r *rig) {
	ctx := context.Background()
	sides(40, func(int) {
		run := r.newRun()
		if err := r.start(run); err != nil {
			r.Error(err)
			return
		}
		if key, err := r.Key(ctx, tokenOf(run.ID)); err != nil || key.Run != run.ID || key.Kind != sallyport.KeyRun {
			r.Errorf("%+v, %v", key, err)
		}
		in := func() error {
			_, opened := r.Open(ctx, run.ID, r.now())
			_, known := r.Key(ctx, tokenOf(run.ID))
			if opened == nil || known == nil {
				return nil
			}
			return errors.Join(opened, known)
		}
		var over atomic.Bool
		var ended atomic.Int64
		var wait sync.WaitGroup
		for range 2 {
			wait.Go(func() {
				for !over.Load() && in() == nil {
					r.Forget(run.ID) // finds the run out of memory, again and again
				}
			})
			wait.Go(func() {
				if err := r.end(&run, "success"); err == nil {
					ended.Add(1)
				} else {
					r.wants(sallyport.NoRun, err)
				}
				r.Forget(run.ID)
				over.Store(true)
				if in() == nil {
					r.Errorf("%s has ended and can be called in", run.ID)
				}
			})
		}
		wait.Wait()
		if in() == nil || ended.Load() != 1 {
			r.Errorf("%s has ended %d times and can be called in: %v", run.ID, ended.Load(), in() == nil)
		}
	})
	runs, err := r.ListRuns(ctx, control.RunFilter{Outcome: "success", State: sallyport.RunClosed}, "", 100)
	if err != nil || len(runs) != 40 {
		r.Errorf("%d runs were closed, %v", len(runs), err)
	}
	r.crash()
	for _, run := range runs {
		_, err := r.Key(ctx, tokenOf(run.ID))
		r.wants(sallyport.Unauthenticated, err)
		_, err = r.Open(ctx, run.ID, r.now())
		r.wants(sallyport.NoRun, err)
	}
	// A call that ends after its run is recorded, and can be read.
	late, err := r.read(&runs[0])
	r.must(err)
	if lines := r.opened(late); len(lines) != 1 || len(lines[0].Arguments) == 0 {
		r.Errorf("%+v", lines)
	}
}

// sweepFindsWhatIsOver also behind more runs that go on than one sweep ends.
func sweepFindsWhatIsOver(r *rig) {
	ctx := context.Background()
	var all [2][]sallyport.Run // that go on, that end
	for i, n := range []int{1_050, 1_100} {
		for range n {
			run := r.newRun()
			run.Envelope.Expires = noon.Add([]time.Duration{24 * time.Hour, time.Hour}[i])
			all[i] = append(all[i], run)
		}
	}
	for _, runs := range all {
		sides(len(runs), func(i int) {
			if err := r.start(runs[i]); err != nil {
				r.Error(err)
			}
		})
	}
	for _, after := range []time.Duration{0, time.Hour - time.Nanosecond} {
		r.clock.Store(noon.Add(after).UnixNano())
		r.sweep(0)
	}
	r.clock.Store(noon.Add(time.Hour).UnixNano())
	for _, want := range []int{1_000, 100, 0} {
		r.sweep(want)
	}
	for i, want := range []sallyport.RunState{sallyport.RunOpen, sallyport.RunExpired} {
		for _, at := range []int{0, len(all[i]) - 1} {
			run := all[i][at]
			if got := r.state(run.ID); got != want {
				r.Errorf("%s is %s, want %s", run.ID, got, want)
			}
			if _, err := r.Key(ctx, tokenOf(run.ID)); (err == nil) != (want == sallyport.RunOpen) {
				r.Errorf("the token of a run that is %s: %v", want, err)
			}
		}
	}
}

// readersDoNotWaitForEachOther: as many ask at once as there are connections many
// times over, with nothing in memory, as after a restart.
func readersDoNotWaitForEachOther(r *rig) {
	ctx := context.Background()
	const n = 64
	var runs [n]*sallyport.Run
	sides(n, func(i int) {
		run := r.newRun()
		if err := r.start(run); err != nil {
			r.Error(err)
		}
		runs[i] = &run
	})
	call, err := r.read(runs[0])
	r.must(err)
	r.reopen()
	r.soon(func() {
		sides(n, func(i int) {
			if _, err := r.ListRuns(ctx, control.RunFilter{}, "", n); err != nil {
				r.Error(err)
			}
			if _, err := r.Open(ctx, runs[i].ID, r.now()); err != nil {
				r.Error(err)
			}
			if _, lines, err := r.Call(ctx, call, func(sallyport.Stage) error { return nil }); err != nil || len(lines) != 1 || lines[0].Arguments == nil {
				r.Errorf("%d lines: %v", len(lines), err)
			}
			if calls, _, err := r.ListCalls(ctx, control.RecordFilter{}, -1, 5); err != nil || len(calls) != 1 {
				r.Errorf("%d calls: %v", len(calls), err)
			}
		})
	})
}
