package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

const (
	origin   = "example.org/log"
	runA     = sallyport.RunID("run_a")
	releaseA = sallyport.ReleaseID("sha256:aaaaaaaaaaaaaaaa")
)

// rig is a store in a folder of its own that can be closed and opened again.
type rig struct {
	t *testing.T
	Config
	vkey string
	*Store
	// fault is asked at every point where a commit can fail.
	fault atomic.Pointer[func(point string) error]
}

func newRig(t *testing.T) *rig {
	t.Helper()
	skey, vkey, err := audit.NewSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	r := &rig{t: t, vkey: vkey, Config: Config{
		Path: filepath.Join(t.TempDir(), "data", "store.db"), Origin: origin, Signer: signer,
		SealingKey: make([]byte, 32), PseudonymKey: []byte("0123456789abcdef0123456789abcdef"),
		Now: func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler),
	}}
	r.open()
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	s, err := Open(context.Background(), r.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	if s.Size() == 0 { // nothing is being written yet that could look at it
		s.faults = func(point string) error {
			if f := r.fault.Load(); f != nil {
				return (*f)(point)
			}
			return nil
		}
	}
	r.Store = s
}

// failOnce makes the next commit fail at a point.
func (r *rig) failOnce(point string) {
	var done atomic.Bool
	f := func(at string) error {
		if at == point && done.CompareAndSwap(false, true) {
			return errors.New("the disk said no")
		}
		return nil
	}
	r.fault.Store(&f)
}

func (r *rig) reopen() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// verified closes and opens the store, so that a checkpoint covers all of it,
// and checks all of it.
func (r *rig) verified() *audit.Report {
	r.t.Helper()
	r.fault.Store(nil)
	r.reopen()
	report, err := audit.VerifySource(context.Background(), r.Store, audit.VerifyOptions{Keys: []string{r.vkey}})
	if err != nil {
		r.t.Fatal(err)
	}
	if !report.OK || report.Size != r.Size() || report.Records != r.Size() {
		r.t.Fatalf("the log of %d does not verify: %+v", r.Size(), report)
	}
	return report
}

func (r *rig) openRun(id sallyport.RunID) {
	r.t.Helper()
	err := r.Commit(context.Background(), person("rec_open_"+string(id)), control.PutRun{Run: sallyport.Run{
		ID: id, Agent: "support", Release: releaseA, Stage: sallyport.Production, State: sallyport.RunOpen,
		OpenedBy: "key_1", Opened: r.Now(), Labels: sallyport.NewLabels(),
		Envelope: sallyport.Envelope{Task: "a secret task", Expires: r.Now().Add(time.Hour)},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
}

func person(id string) *audit.Record {
	return &audit.Record{ID: id, Time: 1, Kind: audit.Applied, By: "ana@example.com"}
}

func entry(kind audit.Kind, call string, outcome sallyport.Outcome) *gateway.Entry {
	e := &gateway.Entry{
		Record: &audit.Record{
			ID: "rec_" + string(kind) + "_" + call, Time: 2_000_000, Kind: kind, Run: runA, Call: sallyport.CallID("call_" + call),
			Stage: sallyport.Production, Upstream: "crm", Tool: "write", Access: sallyport.Changing, Binding: sallyport.Live,
			CallKind: sallyport.KindTool, Outcome: outcome, Principal: &audit.Principal{Agent: "support", Person: "ana@example.com"},
		},
		Target:  sallyport.Target{Stage: sallyport.Production, Agent: "support", Release: releaseA, Upstream: "crm", Tool: "write", Run: runA},
		Payload: gateway.Payload{Salt: make([]byte, 32), Arguments: []byte(`{"to":"` + call + `"}`)},
	}
	if kind != audit.Intent {
		e.Payload.Result = []byte(`{"done":"` + call + `"}`)
	}
	return e
}

func TestGroupCommit(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	const callers, each = 16, 20
	var wait sync.WaitGroup
	errs := make(chan error, callers)
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				call := fmt.Sprintf("%d_%d", c, i)
				if err := r.Intend(ctx, entry(audit.Intent, call, 0)); err != nil {
					errs <- err
					return
				}
				if err := r.Conclude(ctx, entry(audit.Outcome, call, sallyport.OutcomeOK)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	var next int64
	err := r.Records(ctx, 0, r.Size(), func(seq int64, body []byte) error {
		if seq != next {
			return fmt.Errorf("sequence %d where %d belongs", seq, next)
		}
		next++
		return nil
	})
	if err != nil || next != 1+2*callers*each || r.Size() != next {
		t.Fatalf("%d records of size %d, %v", next, r.Size(), err)
	}
	if run, err := r.Run(ctx, runA); err != nil || run.Calls != callers*each {
		t.Fatalf("run %+v, %v", run, err)
	}
	if report := r.verified(); len(report.Unknown) > 0 {
		t.Fatalf("unknown: %v", report.Unknown)
	}
	if u, err := r.Unknowns(ctx); err != nil || len(u) > 0 {
		t.Fatalf("unknowns %v, %v", u, err)
	}
}

// TestFaults fails a commit before and after it happened. The caller is told
// of an error both times; the log holds the record only in the second case, once.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		point    string
		happened int64
	}{{"begin", 0}, {"commit", 0}, {"committed", 1}} {
		for name, do := range map[string]func(*rig) error{
			"intend": func(r *rig) error { return r.Intend(context.Background(), entry(audit.Intent, "x", 0)) },
			"conclude": func(r *rig) error {
				return r.Conclude(context.Background(), entry(audit.Outcome, "before", sallyport.OutcomeOK))
			},
			"commit": func(r *rig) error {
				return r.Commit(context.Background(), person("rec_halt"), control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltRun, Subject: "run_other", At: r.Now()}})
			},
		} {
			t.Run(c.point+"/"+name, func(t *testing.T) {
				r := newRig(t)
				ctx := context.Background()
				r.openRun(runA)
				if err := r.Intend(ctx, entry(audit.Intent, "before", 0)); err != nil {
					t.Fatal(err)
				}
				size := r.Size()
				r.failOnce(c.point)
				if err := do(r); err == nil {
					t.Fatal("no error")
				}
				if got := r.Size(); got != size+c.happened {
					t.Fatalf("size %d after %d", got, size)
				}
				if err := r.Intend(ctx, entry(audit.Intent, "after", 0)); err != nil {
					t.Fatalf("the commit after it: %v", err)
				}
				if err := r.Conclude(ctx, entry(audit.Outcome, "after", sallyport.OutcomeOK)); err != nil {
					t.Fatalf("the commit after it: %v", err)
				}
				r.verified()
				ids := map[string]bool{}
				err := r.Records(ctx, 0, r.Size(), func(_ int64, body []byte) error {
					rec, err := audit.ParseRecord(body)
					if err == nil && ids[rec.ID] {
						err = fmt.Errorf("%s is there twice", rec.ID)
					}
					ids[rec.ID] = true
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if int64(len(ids)) != size+c.happened+2 {
					t.Fatalf("%d records", len(ids))
				}
			})
		}
	}
}

// TestUnreadableAfterFault: a store that cannot find out what happened refuses
// until it can, and then goes on without a gap.
func TestUnreadableAfterFault(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	var failing atomic.Bool
	failing.Store(true)
	f := func(point string) error {
		if failing.Load() && (point == "commit" || point == "reload") {
			return errors.New("the disk is away")
		}
		return nil
	}
	r.fault.Store(&f)
	for i := range 3 {
		if err := r.Commit(ctx, person(fmt.Sprint("rec_lost_", i))); err == nil {
			t.Fatal("no error")
		}
	}
	failing.Store(false)
	if err := r.Commit(ctx, person("rec_kept")); err != nil {
		t.Fatal(err)
	}
	if r.Size() != 1 {
		t.Fatalf("size %d", r.Size())
	}
	r.verified()
}

func TestConflictLeavesNothing(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	set := func(was, to sallyport.Digest) error {
		return r.Commit(ctx, person("rec_"+string(was+to)),
			control.SetLatest{Agent: "support", Release: to},
			control.SetConfig{Stage: sallyport.Staging, Was: was, Digest: to})
	}
	if err := set("", "one"); err != nil {
		t.Fatal(err)
	}
	size, epoch := r.Size(), r.Epoch()
	for _, was := range []sallyport.Digest{"", "other"} {
		if err := set(was, "two"); code(err) != sallyport.Conflict {
			t.Fatalf("was %q: %v", was, err)
		}
	}
	if r.Size() != size || r.Epoch() != epoch {
		t.Fatalf("size %d, epoch %d after a conflict", r.Size(), r.Epoch())
	}
	d, err := r.Decided(ctx)
	if err != nil || d.Configs[sallyport.Staging] != "one" || d.Latest["support"] != "one" {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := set("one", "two"); err != nil {
		t.Fatal(err)
	}
	// A halt that a later change of its op undoes stops nothing.
	r.openRun(runA)
	err = r.Commit(ctx, person("rec_no"), control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltGlobal}},
		control.DropHalt{Scope: sallyport.HaltAgent, Subject: "nobody"})
	if code(err) != sallyport.NotFound {
		t.Fatal(err)
	}
	if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); err != nil {
		t.Fatal(err)
	}
	r.verified()
}

func TestIntentAfterHalt(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	halt := control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm", Reason: "wrong", At: r.Now()}}
	drop := control.DropHalt{Scope: sallyport.HaltUpstream, Subject: "crm"}
	if err := r.Commit(ctx, person("rec_halt"), halt); err != nil {
		t.Fatal(err)
	}
	size := r.Size()
	if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); code(err) != sallyport.Halted {
		t.Fatal(err)
	}
	if r.Size() != size {
		t.Fatal("a refused intent left a record")
	}
	other := entry(audit.Intent, "other", 0)
	other.Target.Upstream = "mail"
	if err := r.Intend(ctx, other); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(ctx, person("rec_resume"), drop); err != nil {
		t.Fatal(err)
	}
	if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); err != nil {
		t.Fatal(err)
	}

	// In one batch: the writer is held at its beginning while the batch gathers.
	held, release, batches := make(chan struct{}), make(chan struct{}), atomic.Int32{}
	f := func(point string) error {
		if point == "begin" && batches.Add(1) == 1 {
			close(held)
			<-release
		}
		return nil
	}
	r.fault.Store(&f)
	late := entry(audit.Intent, "late", 0)
	intent, err := r.seal(late.Record, &late.Payload)
	if err != nil {
		t.Fatal(err)
	}
	ops := []*op{{}, {changes: []control.Change{halt}}, {records: []sealed{intent}, fence: &late.Target}}
	for i, o := range ops {
		o.result = make(chan error, 1)
		r.ops <- o
		if i == 0 {
			<-held
		}
	}
	close(release)
	var halted *HaltedError
	for i, o := range ops {
		err := <-o.result
		if i == 2 && !errors.As(err, &halted) || i != 2 && err != nil {
			t.Fatalf("op %d: %v", i, err)
		}
	}
	if batches.Load() != 2 {
		t.Fatalf("%d batches", batches.Load())
	}
	r.verified()
}

func TestRunLearns(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	steps := []sallyport.Labels{
		{Integrity: sallyport.Endorsed, Confidentiality: sallyport.Public},
		{Integrity: sallyport.User, Confidentiality: sallyport.Confidential},
		{Integrity: sallyport.System, Confidentiality: sallyport.Public},
		{},
	}
	for i, l := range steps {
		e := entry(audit.Outcome, fmt.Sprint(i), sallyport.OutcomeOK)
		e.Record.Access = sallyport.Read
		if l != (sallyport.Labels{}) {
			e.Record.Labels = &l
		}
		if err := r.Conclude(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // as written, and as read by another start
		run, err := r.Run(ctx, runA)
		want := sallyport.Labels{Integrity: sallyport.Endorsed, Confidentiality: sallyport.Confidential}
		if err != nil || run.Labels != want || run.Calls != 4 || run.Envelope.Task != "a secret task" {
			t.Fatalf("%+v, %v", run, err)
		}
		r.verified()
	}
	open, err := r.Open(ctx, runA, r.Now())
	if err != nil || open.Calls() != 4 || open.Labels().Confidentiality != sallyport.Confidential {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := r.Commit(ctx, person("rec_end"), control.EndRun{ID: runA, At: r.Now()}); err != nil {
		t.Fatal(err)
	}
	r.Forget(runA)
	if _, err := r.Open(ctx, runA, r.Now()); code(err) != sallyport.NoRun {
		t.Fatal(err)
	}
}

func TestMarkUnknown(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	for _, call := range []string{"lost", "done", "unsure"} {
		if err := r.Intend(ctx, entry(audit.Intent, call, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Conclude(ctx, entry(audit.Outcome, "done", sallyport.OutcomeOK)); err != nil {
		t.Fatal(err)
	}
	if err := r.Conclude(ctx, entry(audit.Outcome, "unsure", sallyport.OutcomeUnsettled)); err != nil {
		t.Fatal(err)
	}
	list := func() (calls []sallyport.CallID) {
		t.Helper()
		u, err := r.Unknowns(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range u {
			calls = append(calls, one.Call)
		}
		return calls
	}
	if marked, err := r.MarkUnknown(ctx); err != nil || len(marked) != 0 {
		t.Fatalf("calls of this start are under way: %v, %v", marked, err)
	}
	if got := fmt.Sprint(list()); got != "[call_unsure]" {
		t.Fatal(got)
	}
	r.reopen()
	marked, err := r.MarkUnknown(ctx)
	if err != nil || len(marked) != 1 || marked[0].Call != "call_lost" || marked[0].Agent != "support" || marked[0].Tool != "write" {
		t.Fatalf("%+v, %v", marked, err)
	}
	for range 2 {
		if marked, err = r.MarkUnknown(ctx); err != nil || len(marked) != 0 {
			t.Fatalf("marked again: %v, %v", marked, err)
		}
		if got := fmt.Sprint(list()); got != "[call_lost call_unsure]" {
			t.Fatal(got)
		}
		if report := r.verified(); len(report.Unknown) != 2 {
			t.Fatalf("%+v", report.Unknown)
		}
	}
	settled := &audit.Record{ID: "rec_settled", Time: 1, Kind: audit.Settled, Run: runA, Call: "call_lost"}
	if err := r.Commit(ctx, settled, control.Settle{Call: "call_lost"}); err != nil {
		t.Fatal(err)
	}
	settled.ID = "rec_settled_again"
	if err := r.Commit(ctx, settled, control.Settle{Call: "call_lost"}); code(err) != sallyport.NotFound {
		t.Fatal(err)
	}
	if got := fmt.Sprint(list()); got != "[call_unsure]" {
		t.Fatal(got)
	}
	r.verified()
}

func TestPayloads(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); err != nil {
		t.Fatal(err)
	}
	if err := r.Conclude(ctx, entry(audit.Outcome, "x", sallyport.OutcomeOK)); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	lines, err := r.Trace(ctx, runA, "call_x", true)
	if err != nil || len(lines) != 2 {
		t.Fatalf("%v, %v", lines, err)
	}
	if p := lines[1].Payload; p == nil || string(p.Arguments) != `{"to":"x"}` || string(p.Result) != `{"done":"x"}` || len(p.Salt) != 32 {
		t.Fatalf("%+v", p)
	}
	if lines[0].Payload == nil || lines[0].Payload.Result == nil && len(lines[0].Payload.Arguments) == 0 {
		t.Fatalf("%+v", lines[0].Payload)
	}
	rec, err := audit.ParseRecord(lines[1].Body)
	if err != nil || rec.Principal.Person != r.Pseudonym("ana@example.com") {
		t.Fatalf("%+v, %v", rec.Principal, err)
	}

	// A payload that was moved to another record does not open.
	raw, err := sql.Open("sqlite", dsn(r.Path, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Exec(`UPDATE records SET payload = (SELECT payload FROM records WHERE seq = 1) WHERE seq = 2`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Trace(ctx, runA, "", true); err == nil {
		t.Fatal("a payload of another record was opened")
	}

	if _, err := raw.Exec(`DELETE FROM data_keys`); err != nil {
		t.Fatal(err)
	}
	r.Forget(runA)
	lines, err = r.Trace(ctx, runA, "", true)
	if err != nil || len(lines) != 2 {
		t.Fatalf("%v, %v", lines, err)
	}
	for _, l := range lines {
		if l.Payload != nil {
			t.Fatal("an erased payload was opened")
		}
	}
	if run, err := r.Run(ctx, runA); err != nil || run.Envelope.Task != "" {
		t.Fatalf("%+v, %v", run, err)
	}
	r.verified() // what is erased was never in the tree
}

func TestClosedRefuses(t *testing.T) {
	r := newRig(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(context.Background(), person("rec_x")); err == nil {
		t.Fatal("a closed store took a record")
	}
}

func code(err error) sallyport.Code {
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}
