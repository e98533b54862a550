package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// crashed is the store as it would be found if the program had just been killed:
// a copy of its files, opened by another start.
func (r *rig) crashed() *rig {
	r.t.Helper()
	dir := r.t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(r.Path + suffix)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "store.db"+suffix), raw, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	after := &rig{t: r.t, Config: r.Config, vkey: r.vkey}
	after.Path = filepath.Join(dir, "store.db")
	after.open()
	r.t.Cleanup(func() { after.Close() })
	return after
}

// TestLateIsMadeAgain: whatever calls began and ended, whatever people did in
// between and whenever what is late was written down, a start after a crash knows
// the same runs, open calls and tree as one model that saw every record.
func TestLateIsMadeAgain(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		defer r.Close()
		r.openRun(runA)
		open, unknown := map[sallyport.CallID]bool{}, map[sallyport.CallID]bool{}
		calls, labels := 0, sallyport.NewLabels()
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		for i := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			l := sallyport.Labels{Integrity: sallyport.User, Confidentiality: sallyport.Confidential}
			name := fmt.Sprint(i)
			some := func(of map[sallyport.CallID]bool) (sallyport.CallID, bool) {
				var all []sallyport.CallID
				for c := range of {
					all = append(all, c)
				}
				if slices.Sort(all); len(all) == 0 {
					return "", false
				}
				return rapid.SampledFrom(all).Draw(rt, "call"), true
			}
			end := func(c sallyport.CallID, as sallyport.Outcome, access sallyport.Access) {
				e := entry(audit.Outcome, string(c)[len("call_"):], as)
				e.Record.Access = access
				if rapid.Bool().Draw(rt, "learns") {
					e.Record.Labels = &l
					labels = labels.Join(l)
				}
				must(r.Conclude(ctx, e))
			}
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0, 1:
				must(r.Intend(ctx, entry(audit.Intent, name, 0)))
				open[sallyport.CallID("call_"+name)] = true
				calls++
			case 2:
				if c, ok := some(open); ok {
					end(c, sallyport.OutcomeOK, sallyport.Changing)
					delete(open, c)
				}
			case 3:
				if c, ok := some(open); ok {
					end(c, sallyport.OutcomeUnsettled, sallyport.Changing)
					delete(open, c)
					unknown[c] = true
				}
			case 4: // a read: no intent before it
				end(sallyport.CallID("call_"+name), sallyport.OutcomeOK, sallyport.Read)
				calls++
			case 5:
				if c, ok := some(unknown); ok {
					must(r.Commit(ctx, &audit.Record{ID: "rec_settled_" + name, Time: 1, Kind: audit.Settled, Run: runA, Call: c}, control.Settle{Call: c}))
					delete(unknown, c)
				}
			case 6:
				must(r.Checkpoint())
			}
		}
		before := make([]int64, tlog.StoredHashCount(r.Size()))
		for i := range before {
			before[i] = int64(i)
		}
		live, err := r.ReadHashes(before) // some are not in the table yet
		must(err)

		after := r.crashed()
		defer after.Close()
		again, err := after.ReadHashes(before)
		must(err)
		if diff := cmp.Diff(live, again); diff != "" {
			rt.Fatal(diff)
		}
		_, err = after.MarkUnknown(ctx)
		must(err)
		found, err := after.Unknowns(ctx)
		must(err)
		var have, want []string
		for _, u := range found {
			have = append(have, string(u.Call))
		}
		for c := range open {
			want = append(want, string(c))
		}
		for c := range unknown {
			want = append(want, string(c))
		}
		slices.Sort(have)
		slices.Sort(want)
		if diff := cmp.Diff(want, have); diff != "" {
			rt.Fatal(diff)
		}
		run, err := after.Run(ctx, runA)
		must(err)
		if run.Calls != calls || run.Labels != labels {
			rt.Fatalf("the run has %d calls and knows %v, want %d and %v", run.Calls, run.Labels, calls, labels)
		}
		if report := after.verified(); len(report.Unknown) != len(want) {
			rt.Fatalf("%d unknown, want %d", len(report.Unknown), len(want))
		}
	})
}

// TestNothingIsLate: what a reader asks for is written down before it is read.
func TestNothingIsLate(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	for _, call := range []string{"a", "b"} {
		if err := r.Intend(ctx, entry(audit.Intent, call, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Conclude(ctx, entry(audit.Outcome, "b", sallyport.OutcomeUnsettled)); err != nil {
		t.Fatal(err)
	}
	found, err := r.Unknowns(ctx)
	if err != nil || len(found) != 1 || found[0].Call != "call_b" {
		t.Fatalf("%+v, %v", found, err)
	}
	runs, err := r.Runs(ctx, "", 1)
	if err != nil || len(runs) != 1 || runs[0].Calls != 2 {
		t.Fatalf("%+v, %v", runs, err)
	}
}

// TestMissingEnd: a log shorter than what was written down has lost its end.
func TestMissingEnd(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for i := range 3 {
		if err := r.Commit(ctx, person(fmt.Sprintf("rec_%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.conn.ExecContext(ctx, `DELETE FROM records WHERE seq = 2`); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, r.Config); err == nil {
		s.Close()
		t.Fatal("a log without its end was opened")
	}
}
