package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// follows is what follows from the records alone: the open calls, and the run.
func follows(rt *rapid.T, r *rig) (open []string, calls int, labels sallyport.Labels) {
	labels = sallyport.NewLabels()
	intents := map[sallyport.CallID]bool{}
	err := r.Records(context.Background(), 0, r.Size(), func(_ int64, body []byte) error {
		rec, err := audit.ParseRecord(body)
		if err != nil {
			return err
		}
		switch rec.Kind {
		case audit.Intent:
			intents[rec.Call] = true
			calls++
		case audit.Outcome:
			if _, ok := intents[rec.Call]; !ok {
				calls++
			}
			if rec.Outcome != sallyport.OutcomeUnsettled {
				intents[rec.Call] = false
			}
			if rec.Labels != nil {
				labels = labels.Join(*rec.Labels)
			}
		case audit.Settled:
			intents[rec.Call] = false
		}
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
	for c, is := range intents {
		if is {
			open = append(open, string(c))
		}
	}
	slices.Sort(open)
	return open, calls, labels
}

// TestLateUnderFaults: whatever fails, before or after it happened, and whoever
// writes at the same time, the tables say what the records say: in the store that
// lived through it and in one that was started after a crash.
func TestLateUnderFaults(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		defer r.Close()
		r.openRun(runA)
		var mu sync.Mutex
		name := 0
		for range rapid.IntRange(1, 12).Draw(rt, "rounds") {
			point := rapid.SampledFrom([]string{"", "", "begin", "commit", "committed", "reload", "committed+reload"}).Draw(rt, "fault")
			twice := point == "committed+reload"
			fired := map[string]bool{}
			f := func(at string) error {
				mu.Lock()
				defer mu.Unlock()
				if (at == point || twice && (at == "committed" || at == "reload")) && !fired[at] {
					fired[at] = true
					return errors.New("the disk said no")
				}
				return nil
			}
			r.fault.Store(&f)
			var wait sync.WaitGroup
			for range rapid.IntRange(1, 4).Draw(rt, "side by side") {
				name++
				call, how := fmt.Sprint(name), rapid.IntRange(0, 5).Draw(rt, "how")
				wait.Go(func() {
					l := sallyport.Labels{Integrity: sallyport.Endorsed, Confidentiality: sallyport.Internal}
					end := func(as sallyport.Outcome, access sallyport.Access) {
						e := entry(audit.Outcome, call, as)
						e.Record.Access, e.Record.Labels = access, &l
						r.Conclude(ctx, e)
					}
					switch how {
					case 0:
						end(sallyport.OutcomeOK, sallyport.Read)
					case 1:
						r.Intend(ctx, entry(audit.Intent, call, 0))
					case 2:
						if r.Intend(ctx, entry(audit.Intent, call, 0)) == nil {
							end(sallyport.OutcomeOK, sallyport.Changing)
						}
					case 3:
						if r.Intend(ctx, entry(audit.Intent, call, 0)) == nil {
							end(sallyport.OutcomeUnsettled, sallyport.Changing)
							r.Commit(ctx, &audit.Record{ID: "rec_settled_" + call, Time: 1, Kind: audit.Settled, Run: runA, Call: sallyport.CallID("call_" + call)},
								control.Settle{Call: sallyport.CallID("call_" + call)})
						}
					case 4:
						r.Checkpoint()
					case 5:
						r.MarkUnknown(ctx)
					}
				})
			}
			wait.Wait()
			if rapid.IntRange(0, 3).Draw(rt, "crash") == 0 {
				after := r.crashed()
				agree(rt, after)
				after.Close()
			}
		}
		none := func(string) error { return nil }
		r.fault.Store(&none)
		r.Commit(ctx, person("rec_end"))
		agree(rt, r)
	})
}

func agree(rt *rapid.T, r *rig) {
	ctx := context.Background()
	open, calls, labels := follows(rt, r)
	if _, err := r.MarkUnknown(ctx); err != nil {
		rt.Fatal(err)
	}
	var have []string
	err := each(ctx, r.readers, `SELECT call FROM intents ORDER BY call`, func(scan func(...any) error) error {
		var c string
		err := scan(&c)
		have = append(have, c)
		return err
	})
	slices.Sort(have)
	if diff := cmp.Diff(open, have); err != nil || diff != "" {
		rt.Fatal("open calls", err, diff)
	}
	run, err := r.Run(ctx, runA)
	if err != nil || run.Calls != calls || run.Labels != labels {
		rt.Fatalf("%v: the run has %d calls and knows %v; its records say %d and %v", err, run.Calls, run.Labels, calls, labels)
	}
}
