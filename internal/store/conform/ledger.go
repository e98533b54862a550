package conform

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// intentsAndOutcomes: whatever was acknowledged is in the log, in the order in
// which it was acknowledged, and the program may be killed directly after.
func intentsAndOutcomes(r *rig) {
	ctx := context.Background()
	run := r.started()
	want := []string{r.log()[0].ID}
	took := func(record *audit.Record, err error) {
		r.Helper()
		r.must(err)
		want = append(want, record.ID)
	}
	for n := range 12 {
		call := sallyport.CallID(r.id("call"))
		intent := r.entry(run, audit.Intent, call, 0)
		took(intent.Record, r.Intend(ctx, intent))
		if n%5 == 4 {
			r.crash()
		}
		outcome := r.entry(run, audit.Outcome, call, sallyport.OutcomeOK)
		took(outcome.Record, r.Conclude(ctx, outcome))
		if n%5 == 2 {
			r.crash()
		}
		record := r.applied()
		took(record, r.Commit(ctx, record))
		if n%5 == 0 {
			r.crash()
		}
		var have []string
		for _, record := range r.log() {
			have = append(have, record.ID)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			r.Fatal(diff)
		}
	}
}

// noIntentAfterHalt: what is halted begins no more, and leaves nothing behind.
func noIntentAfterHalt(r *rig) {
	ctx := context.Background()
	run := r.started()
	before, err := r.intend(run)
	r.must(err)
	r.must(r.halt(sallyport.HaltUpstream, "crm"))
	size := r.Size()
	_, err = r.intend(run)
	r.wants(sallyport.Halted, err)
	if refusal, ok := err.(*sallyport.Refusal); ok && !strings.Contains(refusal.Reason, "wrong") {
		r.Errorf("%v does not say why", err)
	}
	if r.Size() != size {
		r.Error("a refused intent left a record")
	}
	// Another upstream is not meant, and what has begun may end.
	other := r.entry(run, audit.Intent, sallyport.CallID(r.id("call")), 0)
	other.Record.Upstream, other.Target.Upstream = "mail", "mail"
	r.must(r.Intend(ctx, other))
	r.must(r.conclude(run, before, sallyport.OutcomeOK))
	r.must(r.resume(sallyport.HaltUpstream, "crm"))
	_, err = r.intend(run)
	r.must(err)
}

// everyHaltStops what it is meant for, nothing else, and from start to start.
func everyHaltStops(r *rig) {
	ctx := context.Background()
	run := r.started()
	one, two := *run, *run
	two.Stage, two.Agent, two.Release, two.ID = sallyport.Staging, "billing", digest("another"), r.newRun().ID
	two.Envelope.Expires = run.Envelope.Expires
	r.must(r.start(two))
	intend := func(of *sallyport.Run, upstream, tool string) error {
		e := r.entry(of, audit.Intent, sallyport.CallID(r.id("call")), 0)
		e.Record.Upstream, e.Record.Tool = sallyport.UpstreamID(upstream), tool
		e.Target.Upstream, e.Target.Tool = sallyport.UpstreamID(upstream), tool
		return r.Intend(ctx, e)
	}
	for i, h := range []struct {
		scope   sallyport.HaltScope
		subject string
		spares  bool // the other call
	}{
		{sallyport.HaltGlobal, "", false}, {sallyport.HaltStage, "production", true}, {sallyport.HaltAgent, "support", true},
		{sallyport.HaltRelease, string(run.Release), true}, {sallyport.HaltUpstream, "crm", true}, {sallyport.HaltTool, "crm/write", true},
		{sallyport.HaltRun, string(run.ID), true},
	} {
		r.must(r.halt(h.scope, h.subject))
		for range 3 {
			r.wants(sallyport.Halted, intend(&one, "crm", "write"))
			switch err := intend(&two, "mail", "send"); {
			case h.spares:
				r.must(err)
			default:
				r.wants(sallyport.Halted, err)
			}
			if i%2 == 0 {
				r.reopen()
			} else {
				r.crash()
			}
		}
		r.must(r.resume(h.scope, h.subject))
		r.must(intend(&one, "crm", "write"))
	}
}

// haltsRaceIntents: a halt and its intents are in one order, that of the log, and
// no intent that is halted lies behind the halt.
func haltsRaceIntents(r *rig) {
	ctx := context.Background()
	run := r.started()
	var over atomic.Bool
	var phase atomic.Int64 // odd while a halt is acknowledged
	var wait sync.WaitGroup
	began := make([]map[sallyport.CallID]bool, 16)
	for i := range began {
		began[i] = map[sallyport.CallID]bool{}
		wait.Go(func() {
			for !over.Load() {
				e := r.entry(run, audit.Intent, sallyport.CallID(r.id("call")), 0)
				if i%4 == 3 {
					e.Record.Upstream, e.Target.Upstream = "mail", "mail"
				}
				before := phase.Load()
				err := r.Intend(ctx, e)
				switch {
				case err == nil && i%4 != 3 && before%2 == 1 && before == phase.Load():
					r.Errorf("%s began although a halt had been acknowledged", e.Record.Call)
				case err == nil:
					began[i][e.Record.Call] = true
				case i%4 == 3:
					r.Error(err)
					return
				default:
					r.wants(sallyport.Halted, err)
				}
			}
		})
	}
	const rounds = 12
	for range rounds {
		r.grown(r.Size() + 40)
		r.must(r.halt(sallyport.HaltUpstream, "crm"))
		phase.Add(1)
		for range 3 {
			r.must(r.Commit(ctx, r.applied()))
		}
		phase.Add(1)
		r.must(r.resume(sallyport.HaltUpstream, "crm"))
	}
	over.Store(true)
	wait.Wait()
	stopped, times := false, 0
	logged := map[sallyport.CallID]bool{}
	for seq, record := range r.log() {
		switch record.Kind {
		case audit.HaltedK:
			stopped = true
			times++
		case audit.Resumed:
			stopped = false
		case audit.Intent:
			if stopped && record.Upstream == "crm" {
				r.Errorf("record %d is an intent behind the halt", seq)
			}
			if logged[record.Call] {
				r.Errorf("%s has two intents", record.Call)
			}
			logged[record.Call] = true
		}
	}
	acknowledged := 0
	for _, calls := range began {
		for call := range calls {
			acknowledged++
			if !logged[call] {
				r.Errorf("%s began and has no intent", call)
			}
		}
	}
	if times != rounds || acknowledged != len(logged) {
		r.Errorf("%d halts, %d calls began, %d intents", times, acknowledged, len(logged))
	}
}

// manyWriters: however many write at once, the sequence has no gap, and of every
// call there is one intent and behind it one outcome.
func manyWriters(r *rig) {
	ctx := context.Background()
	run := r.started()
	const writers, each = 64, 8
	sides(writers, func(int) {
		for range each {
			call, err := r.intend(run)
			if err == nil {
				err = r.conclude(run, call, sallyport.OutcomeOK)
			}
			if err != nil {
				r.Error(err)
				return
			}
		}
	})
	state := map[sallyport.CallID]int{}
	for _, record := range r.log() {
		switch {
		case record.Kind == audit.Intent && state[record.Call] == 0, record.Kind == audit.Outcome && state[record.Call] == 1:
			state[record.Call]++
		case record.Call != "":
			r.Errorf("%s has an %s out of place", record.Call, record.Kind)
		}
	}
	if len(state) != writers*each || r.Size() != 1+2*writers*each {
		r.Errorf("%d calls in %d records", len(state), r.Size())
	}
	if got, err := r.Run(ctx, run.ID); err != nil || got.Calls != writers*each {
		r.Errorf("%+v, %v", got, err)
	}
	if report := r.verified(); len(report.Unknown) > 0 {
		r.Errorf("unknown: %v", report.Unknown)
	}
	if u, err := r.Unknowns(ctx); err != nil || len(u) > 0 {
		r.Errorf("unknown: %v, %v", u, err)
	}
}

// refusedAmongOthers: what commits together does not fail together. What is
// refused, or cannot be, leaves nothing; those beside it know nothing of it.
func refusedAmongOthers(r *rig) {
	ctx := context.Background()
	run := r.started()
	taken := control.Key{ID: "key_taken", Kind: sallyport.KeyHost, Hash: [32]byte{1}, Agent: "support", Ceiling: sallyport.Sandbox, Made: r.now(), Expires: r.now()}
	r.must(r.putKey(taken))
	again := taken
	again.ID = "key_again" // with the same hash
	bad := []struct {
		code    sallyport.Code // empty: an error that is no refusal, or not_ready
		changes []control.Change
	}{
		{sallyport.Conflict, []control.Change{control.SetPointer{Agent: "support", Stage: sallyport.Sandbox, Release: digest("b"), Was: digest("a"), At: r.now()}}},
		{sallyport.NotFound, []control.Change{control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltGlobal}}, control.DropHalt{Scope: sallyport.HaltAgent, Subject: "nobody"}}},
		{sallyport.NoRun, []control.Change{control.PutPerson{Person: sallyport.Person{ID: ben, Roles: []sallyport.Role{sallyport.Viewer}}}, control.EndRun{ID: "run_none"}}},
		{"", []control.Change{control.PutKey{Key: again}}},
		{"", []control.Change{control.PutRun{Run: *run}}},
	}
	want := map[string]bool{}
	for _, record := range r.log() {
		want[record.ID] = true
	}
	var mu sync.Mutex
	sides(64, func(i int) {
		for n := range 4 {
			if (i+n)%2 == 0 {
				record := r.applied()
				err := error(nil)
				if i%4 < 2 {
					err = r.Commit(ctx, record)
				} else { // which a halt would stop
					e := r.entry(run, audit.Intent, sallyport.CallID(r.id("call")), 0)
					record, err = e.Record, r.Intend(ctx, e)
				}
				if err != nil {
					r.Error(err)
				}
				mu.Lock()
				want[record.ID] = true
				mu.Unlock()
				continue
			}
			b := bad[(i+n)/2%len(bad)]
			err := r.Commit(ctx, r.applied(), b.changes...)
			if err == nil {
				r.Errorf("%+v was done", b.changes)
			} else if b.code != "" {
				r.wants(b.code, err)
			}
		}
	})
	have := map[string]bool{}
	for _, record := range r.log() {
		have[record.ID] = true
	}
	if diff := cmp.Diff(want, have); diff != "" {
		r.Error(diff)
	}
	if d, err := r.Decided(ctx); err != nil || len(d.Halts)+len(d.Pointers) > 0 {
		r.Errorf("%+v, %v", d, err)
	}
	if people, err := r.Persons(ctx); err != nil || len(people) > 0 {
		r.Errorf("%v, %v", people, err)
	}
	_, err := r.intend(run) // nor is anything halted in memory
	r.must(err)
}

// writers write until they are refused or told to stop. They return what was
// acknowledged so far, and end.
func (r *rig) writers(n int, run *sallyport.Run) (acknowledged func() map[string]bool, end func()) {
	var mu sync.Mutex
	done := map[string]bool{}
	var over atomic.Bool
	var wait sync.WaitGroup
	e := r.Engine
	for range n {
		wait.Go(func() {
			for !over.Load() {
				call := sallyport.CallID(r.id("call"))
				intent, outcome := r.entry(run, audit.Intent, call, 0), r.entry(run, audit.Outcome, call, sallyport.OutcomeOK)
				for _, record := range []*audit.Record{intent.Record, outcome.Record} {
					var err error
					if record.Kind == audit.Intent {
						err = e.Intend(context.Background(), intent)
					} else {
						err = e.Conclude(context.Background(), outcome)
					}
					if err != nil {
						return
					}
					mu.Lock()
					done[record.ID] = true
					mu.Unlock()
				}
			}
		})
	}
	acknowledged = func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		out := make(map[string]bool, len(done))
		for id := range done {
			out[id] = true
		}
		return out
	}
	return acknowledged, func() { over.Store(true); wait.Wait() }
}

// grown waits until a log has a size, by writing to it.
func (r *rig) grown(size int64) {
	for r.Size() < size {
		r.must(r.Commit(context.Background(), r.applied()))
	}
}

// held checks that all that was acknowledged is in the log, once.
func (r *rig) held(acknowledged map[string]bool) {
	r.Helper()
	seen := map[string]bool{}
	for _, record := range r.log() {
		if seen[record.ID] {
			r.Errorf("%s is there twice", record.ID)
		}
		seen[record.ID] = true
	}
	for id := range acknowledged {
		if !seen[id] {
			r.Errorf("%s was acknowledged and is not in the log", id)
		}
	}
	if len(acknowledged) < 50 {
		r.Errorf("only %d were acknowledged", len(acknowledged))
	}
}

// closeWhileWriting: everybody is answered, and what was acknowledged is there.
func closeWhileWriting(r *rig) {
	acknowledged, end := r.writers(64, r.started())
	r.grown(400)
	r.soon(func() {
		if err := r.Close(); err != nil {
			r.Error(err)
		}
		end()
	})
	r.open()
	r.held(acknowledged())
}

// crashWhileWriting: whatever had been acknowledged when the program was killed
// is there, the sequence has no gap, and the calls without an outcome are listed.
func crashWhileWriting(r *rig) {
	ctx := context.Background()
	run := r.started()
	for round := range 3 {
		acknowledged, end := r.writers(32, run)
		r.grown(r.Size() + 300)
		before := acknowledged()
		place, err := r.place.Crash()
		r.must(err)
		end()
		r.must(r.Close())
		r.place = place
		r.open()
		r.held(before)
		open := map[sallyport.CallID]bool{}
		for _, record := range r.log() {
			switch record.Kind {
			case audit.Intent:
				open[record.Call] = true
			case audit.Outcome:
				delete(open, record.Call)
			}
		}
		_, err = r.MarkUnknown(ctx)
		r.must(err)
		have := map[sallyport.CallID]bool{}
		for _, call := range r.waiting(run) {
			have[call] = true
		}
		if diff := cmp.Diff(open, have); diff != "" {
			r.Errorf("round %d, open calls (-want +got):\n%s", round, diff)
		}
	}
}

// unknowns: a call that may have happened is listed until a person settles it.
func unknowns(r *rig) {
	ctx := context.Background()
	run := r.started()
	var calls []sallyport.CallID
	for range 3 {
		call, err := r.intend(run)
		r.must(err)
		calls = append(calls, call)
	}
	lost, done, unsure := calls[0], calls[1], calls[2]
	r.must(r.conclude(run, done, sallyport.OutcomeOK))
	r.must(r.conclude(run, unsure, sallyport.OutcomeUnsettled))
	list := func(want ...sallyport.CallID) {
		r.Helper()
		if have := r.waiting(run); !slices.Equal(have, want) {
			r.Fatalf("listed are %v, want %v", have, want)
		}
	}
	if marked, err := r.MarkUnknown(ctx); err != nil || len(marked) != 0 {
		r.Fatalf("calls of this start are under way: %v, %v", marked, err)
	}
	list(unsure)
	r.reopen()
	marked, err := r.MarkUnknown(ctx)
	if err != nil || len(marked) != 1 {
		r.Fatalf("%+v, %v", marked, err)
	}
	want := control.Unknown{
		Call: lost, Run: run.ID, Sequence: 1, At: noon, Agent: run.Agent, Stage: run.Stage, Upstream: "crm", Tool: "write",
	}
	if diff := cmp.Diff(want, marked[0]); diff != "" {
		r.Error(diff)
	}
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		if marked, err := r.MarkUnknown(ctx); err != nil || len(marked) != 0 {
			r.Fatalf("marked again: %v, %v", marked, err)
		}
		list(lost, unsure)
	}
	if report := r.verified(); len(report.Unknown) != 2 {
		r.Errorf("%+v", report.Unknown)
	}
	// Many settle it; one does.
	var settled atomic.Int64
	sides(50, func(int) {
		if err := r.settle(run, lost, "happened"); err == nil {
			settled.Add(1)
		} else {
			r.wants(sallyport.NotFound, err)
		}
	})
	if settled.Load() != 1 {
		r.Errorf("settled %d times", settled.Load())
	}
	list(unsure)
	r.wants(sallyport.NotFound, r.settle(run, done, "happened"))
	r.wants(sallyport.NotFound, r.settle(run, "call_none", "happened"))
	flying, err := r.intend(run)
	r.must(err)
	r.wants(sallyport.NotFound, r.settle(run, flying, "happened")) // it will say itself
	r.must(r.Checkpoint())
	r.wants(sallyport.NotFound, r.settle(run, flying, "happened"))
	r.must(r.conclude(run, flying, sallyport.OutcomeOK))
	for _, again := range []func(){r.crash, r.reopen} {
		again()
		if marked, err := r.MarkUnknown(ctx); err != nil || len(marked) != 0 {
			r.Fatalf("marked again: %v, %v", marked, err)
		}
		list(unsure)
	}
	if report := r.verified(); len(report.Unknown) != 1 || report.Unknown[0].Call != unsure {
		r.Errorf("%+v", report.Unknown)
	}
	// What people found out is told with the call, wherever it is shown.
	r.must(r.settle(run, unsure, "did-not-happen"))
	list()
	told := map[sallyport.CallID]string{lost: "happened", unsure: "did-not-happen"}
	listed, _, err := r.ListCalls(ctx, control.RecordFilter{Outcome: sallyport.OutcomeUnsettled}, -1, 10)
	r.must(err)
	for _, c := range listed {
		one, _, err := r.Call(ctx, c.ID, nil)
		r.must(err)
		if c.Settled != told[c.ID] || !cmp.Equal(c, *one) || c.Tool != "write" || c.Agent != run.Agent {
			r.Errorf("%+v, %+v", c, one)
		}
	}
	if len(listed) != len(told) {
		r.Errorf("%+v", listed)
	}
}

// unknownsAreMarkedOnce, however many ask for it and however often.
func unknownsAreMarkedOnce(r *rig) {
	ctx := context.Background()
	run := r.started()
	want := map[sallyport.CallID]int{}
	for range 3 {
		for range 5 {
			call, err := r.intend(run)
			r.must(err)
			want[call] = 1
		}
		r.crash()
		var marked atomic.Int64
		sides(16, func(int) {
			m, err := r.MarkUnknown(ctx)
			if err != nil {
				r.Error(err)
			}
			marked.Add(int64(len(m)))
		})
		if marked.Load() != 5 {
			r.Errorf("%d were marked", marked.Load())
		}
	}
	have := map[sallyport.CallID]int{}
	for _, record := range r.log() {
		if record.Kind == audit.Unknown {
			have[record.Call]++
			if record.Run != run.ID || record.Outcome != sallyport.OutcomeUnsettled || record.Tool != "write" {
				r.Errorf("%+v", record)
			}
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		r.Error(diff)
	}
}

// opened is the first record of a call with what it commits to.
func (r *rig) opened(call sallyport.CallID) []control.Line {
	r.Helper()
	_, lines, err := r.Call(context.Background(), call, func(sallyport.Stage) error { return nil })
	r.must(err)
	return lines
}

// payloads: whatever bytes a record commits to come back as they were.
func payloads(r *rig) {
	ctx := context.Background()
	run := r.started()
	type kept struct {
		call sallyport.CallID
		sent [2][]byte
	}
	var all []kept
	check := func(k kept) {
		r.Helper()
		lines := r.opened(k.call)
		if len(lines) != 1 || !bytes.Equal(lines[0].Arguments, k.sent[0]) || !bytes.Equal(lines[0].Result, k.sent[1]) {
			r.Fatalf("%q and %q became %+v", k.sent[0], k.sent[1], lines)
		}
		record, err := audit.ParseRecord(lines[0].Body)
		if err != nil || record.Call != k.call {
			r.Fatalf("%+v, %v", record, err)
		}
	}
	put := func(args, res []byte) {
		k := kept{sallyport.CallID(r.id("call")), [2][]byte{args, res}}
		e := r.entry(run, audit.Outcome, k.call, sallyport.OutcomeOK)
		e.Record.Access = sallyport.Read
		arguments(e, args)
		result(e, res)
		r.must(r.Conclude(ctx, e))
		check(k)
		all = append(all, k)
	}
	put(nil, nil)
	put(bytes.Repeat([]byte("long "), 60_000), bytes.Repeat([]byte{0, 0xff}, 200_000))
	r.property(func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Byte(), 0, 300)
		put(some.Draw(t, "arguments"), some.Draw(t, "result"))
	})
	r.crash()
	for _, k := range all {
		check(k)
	}
}

// payloadsAreSealed: who gets hold of what is kept reads nothing of what was
// sent, answered or said by the host, and neither does a program with another key.
func payloadsAreSealed(r *rig) {
	ctx := context.Background()
	run := r.newRun()
	run.Envelope = sallyport.Envelope{
		Task: "the-secret-task", Person: "zoe-secret@example.com", TrustedValues: []sallyport.TrustedValue{{Type: "iban", Value: "the-secret-iban"}},
		Tools: []string{"write"}, MaxCalls: 7, Seed: 11, Expires: r.now().Add(time.Hour),
	}
	r.must(r.start(run))
	call := sallyport.CallID(r.id("call"))
	intent, outcome := r.entry(&run, audit.Intent, call, 0), r.entry(&run, audit.Outcome, call, sallyport.OutcomeOK)
	arguments(intent, []byte(`{"to":"the-secret-argument"}`))
	arguments(outcome, nil) // they are with the intent
	outcome.Record.Arguments = intent.Record.Arguments
	result(outcome, []byte(`{"is":"the-secret-result"}`))
	r.must(r.Intend(ctx, intent))
	r.must(r.Conclude(ctx, outcome))
	r.reopen()
	got, err := r.Run(ctx, run.ID)
	r.must(err)
	if diff := cmp.Diff(run.Envelope, got.Envelope); diff != "" {
		r.Error(diff)
	}
	lines := r.opened(call)
	if len(lines) != 2 || string(lines[0].Arguments) != `{"to":"the-secret-argument"}` || string(lines[1].Result) != `{"is":"the-secret-result"}` {
		r.Errorf("%+v", lines)
	}
	for _, look := range []func(){func() {}, func() { r.must(r.Checkpoint()) }, r.reopen} {
		look()
		kept, err := r.place.Bytes()
		r.must(err)
		if !bytes.Contains(kept, []byte(call)) {
			r.Fatal("that is not all that is kept")
		}
		for _, secret := range []string{"secret-task", "zoe-secret", "secret-iban", "secret-argument", "secret-result"} {
			if bytes.Contains(kept, []byte(secret)) {
				r.Errorf("%s can be read", secret)
			}
		}
	}
	r.must(r.Close())
	other := r.settings
	other.SealingKey = bytes.Repeat([]byte{6}, 32)
	if e, err := r.place.Open(ctx, other); err == nil { // it may refuse to
		if _, lines, err := e.Call(ctx, call, func(sallyport.Stage) error { return nil }); err == nil {
			r.Errorf("opened with another key: %+v", lines)
		}
		if run, err := e.Run(ctx, run.ID); err == nil {
			r.Errorf("opened with another key: %+v", run)
		}
		r.must(e.Close())
	}
	r.open()
}

// erasure: without its data key nothing of a run can be read again, and its
// records, which hold nothing of it, stay what they are.
func erasure(r *rig) {
	ctx := context.Background()
	gone, stays := r.started(), r.started()
	var calls []sallyport.CallID
	for _, run := range []*sallyport.Run{gone, stays} {
		call, err := r.intend(run)
		r.must(err)
		r.must(r.conclude(run, call, sallyport.OutcomeOK))
		calls = append(calls, call)
		r.must(r.end(run, "success"))
		r.Forget(run.ID)
	}
	before := r.log()
	r.must(r.Close())
	r.must(r.place.Erase(gone.ID))
	r.open()
	if diff := cmp.Diff(before, r.log()); diff != "" {
		r.Error(diff)
	}
	for _, l := range r.opened(calls[0]) {
		if l.Arguments != nil || l.Result != nil {
			r.Errorf("%s and %s were erased", l.Arguments, l.Result)
		}
	}
	run, err := r.Run(ctx, gone.ID)
	r.must(err)
	if diff := cmp.Diff(sallyport.Envelope{}, run.Envelope); diff != "" || run.Calls != 1 || run.State != sallyport.RunClosed || run.Close.Outcome != "success" {
		r.Errorf("%+v\n%s", run, diff)
	}
	if lines := r.opened(calls[1]); len(lines) != 2 || len(lines[0].Arguments) == 0 || len(lines[1].Result) == 0 {
		r.Errorf("of another run: %+v", lines)
	}
	if run, err := r.Run(ctx, stays.ID); err != nil || run.Envelope.Task != stays.Envelope.Task {
		r.Errorf("of another run: %+v, %v", run, err)
	}
	if runs, err := r.ListRuns(ctx, control.RunFilter{}, "", 10); err != nil || len(runs) != 2 {
		r.Errorf("%+v, %v", runs, err)
	}
}

// pseudonyms: a record never names a person. The same person is called the same in
// every record, whoever they are in it, and differently under another key.
func pseudonyms(r *rig) {
	ctx := context.Background()
	by := func(p sallyport.PersonID) string {
		r.Helper()
		run := r.newRun()
		run.Envelope.Person = p
		r.must(r.start(run))
		_, err := r.read(&run)
		r.must(err)
		record := r.applied()
		record.By = string(p)
		r.must(r.Commit(ctx, record))
		log := r.log()
		opened, called, done := log[len(log)-3], log[len(log)-2], log[len(log)-1]
		name := done.By
		if name == "" || strings.Contains(name, string(p)) || opened.Principal.Person != name || called.Principal.Person != name {
			r.Errorf("%s is called %q, %q and %q", p, opened.Principal.Person, called.Principal.Person, name)
		}
		return name
	}
	first, second := by(ana), by(ben)
	if first == second {
		r.Errorf("%s and %s are both called %s", ana, ben, first)
	}
	seen := map[string]bool{}
	for n := range 50 { // names that differ little
		seen[by(sallyport.PersonID(fmt.Sprint("p", n)))] = true
	}
	if len(seen) != 50 {
		r.Errorf("%d names for 50 persons", len(seen))
	}
	for _, again := range []func(){r.reopen, r.crash} {
		again()
		if by(ana) != first || by(ben) != second {
			r.Error("another start calls them differently")
		}
	}
	// Nobody is called anything who did not do it.
	record := r.applied()
	record.By = ""
	r.must(r.Commit(ctx, record))
	if log := r.log(); log[len(log)-1].By != "" {
		r.Errorf("%q", log[len(log)-1].By)
	}
	r.settings.PseudonymKey = []byte("fedcba9876543210fedcba9876543210")
	r.reopen()
	if by(ana) == first {
		r.Error("the name does not depend on the key")
	}
}
