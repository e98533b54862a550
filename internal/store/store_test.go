package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
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
	skey, vkey string
	*Store
	// fault is asked at every point where a commit can fail.
	fault atomic.Pointer[func(point string) error]
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := unopened(t)
	r.open()
	t.Cleanup(func() { r.Close() })
	return r
}

func unopened(t *testing.T) *rig {
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
	return &rig{t: t, skey: skey, vkey: vkey, Config: Config{
		Path: filepath.Join(t.TempDir(), "data", "store.db"), Origin: origin, Signer: signer,
		SealingKey: make([]byte, 32), PseudonymKey: []byte("0123456789abcdef0123456789abcdef"),
		Now: func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler),
	}}
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
	if r.Size() > 0 {
		if err := r.Checkpoint(); err != nil {
			r.t.Fatal(err)
		}
	}
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

// TestHaltAndIntentInOneBatch: the writer is held at its beginning while a batch
// gathers in which a halt stands before the intent that it stops.
func TestHaltAndIntentInOneBatch(t *testing.T) {
	r := newRig(t)
	r.openRun(runA)
	halt := control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm", Reason: "wrong", At: r.Now()}}
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

// TestPayloadOfAnotherRecord moves a payload: it opens under its own record only.
func TestPayloadOfAnotherRecord(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); err != nil {
		t.Fatal(err)
	}
	if err := r.Conclude(ctx, entry(audit.Outcome, "x", sallyport.OutcomeOK)); err != nil {
		t.Fatal(err)
	}
	if lines, err := r.Trace(ctx, runA, "call_x", true); err != nil || len(lines) != 2 || lines[1].Payload == nil || len(lines[1].Payload.Salt) != 32 {
		t.Fatalf("%+v, %v", lines, err)
	}
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
}
