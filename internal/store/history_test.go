package store

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/gateway"
)

// TestHistoryTellsWhatIsUnderWay: a call with an intent is told when it was begun, before
// what ended after that, and once more when it has ended; also where one reading found only
// its beginning.
func TestHistoryTellsWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.openRun(runA)
	var got []string
	told := func(x *gateway.Told) error {
		what := "ended "
		if x.Begun {
			what = "begun "
		}
		if x.Kind != sallyport.KindTool || x.Upstream != "crm" || x.Tool != "write" || x.Begun && x.Result != nil {
			t.Errorf("%+v", x)
		}
		got = append(got, what+string(x.Call)+" "+string(x.Arguments))
		return nil
	}
	ended := func(call string) {
		t.Helper()
		if err := r.Conclude(ctx, entry(audit.Outcome, call, sallyport.OutcomeOK)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Intend(ctx, entry(audit.Intent, "slow", 0)); err != nil {
		t.Fatal(err)
	}
	ended("quick")
	mark, err := r.History(ctx, runA, nil, told)
	if err != nil {
		t.Fatal(err)
	}
	begun, quick := `begun call_slow {"to":"slow"}`, `ended call_quick {"to":"quick"}`
	if diff := cmp.Diff([]string{begun, quick}, got); diff != "" {
		t.Fatal(diff)
	}
	got = nil
	slow := entry(audit.Outcome, "slow", sallyport.OutcomeOK)
	slow.Payload.Arguments = nil // the intent has them
	if err := r.Conclude(ctx, slow); err != nil {
		t.Fatal(err)
	}
	if _, err := r.History(ctx, runA, mark, told); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{begun, quick, `ended call_slow {"to":"slow"}`}, got); diff != "" {
		t.Error(diff)
	}
}
