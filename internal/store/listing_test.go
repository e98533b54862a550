package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// step is one thing that happens to the log of a listing test, a second after
// the one before.
type step struct {
	call  int    // which call
	what  string // "intend", "ok", "denied", "unknown", "settle", "lost", "apply"
	agent sallyport.AgentID
	stage sallyport.Stage
	tool  string
}

func callID(n int) sallyport.CallID {
	return sallyport.CallID(sallyport.MakeID("call", noon.Add(time.Duration(n)*time.Second), [10]byte{9: byte(n)}))
}

// play carries steps out on a store with two runs and returns the calls as they
// should be listed, newest first.
func (r *rig) play(t testing.TB, steps []step) []control.Call {
	t.Helper()
	ctx := context.Background()
	var want []control.Call
	drop := func(id sallyport.CallID) control.Call {
		i := slices.IndexFunc(want, func(c control.Call) bool { return c.ID == id })
		if i < 0 {
			return control.Call{}
		}
		c := want[i]
		want = slices.Delete(want, i, i+1)
		return c
	}
	for n, s := range steps {
		now := noon.Add(time.Duration(n) * time.Second)
		id := callID(s.call)
		record := &audit.Record{
			ID: fmt.Sprintf("rec_%d", n), Time: now.UnixMicro(), Run: sallyport.RunID("run_" + string(s.agent)), Call: id,
			Stage: s.stage, Upstream: "crm", Tool: s.tool, Access: sallyport.Changing, Binding: sallyport.Live, CallKind: sallyport.KindTool,
			Principal: &audit.Principal{Agent: s.agent, Release: releaseA, Key: "key_1"}, Decision: &sallyport.Decision{Allow: true},
		}
		entry := &gateway.Entry{
			Record: record, Target: sallyport.Target{Stage: s.stage, Agent: s.agent, Run: record.Run},
			Payload: gateway.Payload{Salt: make([]byte, 32), Arguments: []byte(`{"n":1}`)},
		}
		c := control.Call{
			ID: id, Run: record.Run, Sequence: r.Size(), At: now, Agent: s.agent, Release: releaseA, Key: "key_1", Stage: s.stage,
			Upstream: "crm", Tool: s.tool, Kind: sallyport.KindTool, Access: sallyport.Changing, Binding: sallyport.Live, Decision: "allow",
		}
		var err error
		switch s.what {
		case "intend":
			record.Kind = audit.Intent
			c.InFlight = true
			err = r.Intend(ctx, entry)
		case "ok":
			drop(id)
			record.Kind, record.Outcome = audit.Outcome, sallyport.OutcomeOK
			c.Outcome = sallyport.OutcomeOK
			err = r.Conclude(ctx, entry)
		case "denied":
			drop(id)
			record.Kind, record.Outcome, record.Decision = audit.Outcome, sallyport.OutcomeRefused, nil
			record.Refusal = sallyport.Refuse(sallyport.Denied, "no", "")
			c.Outcome, c.Decision, c.Refusal = sallyport.OutcomeRefused, "deny", record.Refusal
			err = r.Conclude(ctx, entry)
		case "unknown":
			drop(id)
			record.Kind, record.Outcome = audit.Outcome, sallyport.OutcomeUnsettled
			c.Outcome = sallyport.OutcomeUnsettled
			err = r.Conclude(ctx, entry)
		case "settle": // it stays where it is listed, and is told by its intent
			c = drop(id)
			record.Kind, record.Outcome, record.Detail = audit.Settled, sallyport.OutcomeOK, []byte(`{"as":"happened"}`)
			c.Settled = "happened"
			err = r.Commit(ctx, record, control.Settle{Call: id})
		case "lost": // the program ends, and says so of what was in flight when it starts
			r.reopen()
			first := r.Size()
			var lost []control.Unknown
			if lost, err = r.MarkUnknown(ctx); err != nil {
				t.Fatal(err)
			}
			for i, u := range lost {
				c := drop(u.Call)
				c.Sequence, c.InFlight, c.Outcome = first+int64(i), false, sallyport.OutcomeUnsettled
				want = append(want, c)
			}
			continue
		default:
			if err := r.Commit(ctx, &audit.Record{ID: record.ID, Time: record.Time, Kind: audit.Applied}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", s.what, err)
		}
		want = append(want, c)
		slices.SortFunc(want, func(a, b control.Call) int { return int(a.Sequence - b.Sequence) })
	}
	slices.Reverse(want)
	return want
}

// drawSteps draws a history that could have been.
func drawSteps(t *rapid.T) []step {
	states := map[int]string{} // of calls that are not over
	of := map[int]step{}
	var out []step
	for n := range rapid.IntRange(1, 40).Draw(t, "steps") {
		var open, unknown []int
		for c := range n {
			switch states[c] {
			case "open":
				open = append(open, c)
			case "unknown":
				unknown = append(unknown, c)
			}
		}
		s := step{
			call: n, agent: rapid.SampledFrom([]sallyport.AgentID{"support", "billing"}).Draw(t, "agent"),
			stage: rapid.SampledFrom(sallyport.Stages).Draw(t, "stage"), tool: rapid.SampledFrom([]string{"read", "write"}).Draw(t, "tool"),
		}
		kinds := []string{"intend", "intend", "ok", "denied", "apply"}
		if len(open) > 0 {
			kinds = append(kinds, "end", "end", "end", "lost")
		}
		if len(unknown) > 0 {
			kinds = append(kinds, "settle")
		}
		switch s.what = rapid.SampledFrom(kinds).Draw(t, "what"); s.what {
		case "intend":
			states[n] = "open"
		case "end":
			s = of[rapid.SampledFrom(open).Draw(t, "call")]
			s.what = rapid.SampledFrom([]string{"ok", "denied", "unknown"}).Draw(t, "end")
			states[s.call] = ""
			if s.what == "unknown" {
				states[s.call] = "unknown"
			}
		case "settle":
			s = of[rapid.SampledFrom(unknown).Draw(t, "call")]
			s.what = "settle"
			states[s.call] = ""
		case "lost":
			for _, c := range open {
				states[c] = "unknown"
			}
		}
		if s.call == n {
			of[n] = s
		}
		out = append(out, s)
	}
	return out
}

// TestListCalls: pages of any size, put together, are the calls there are, each
// once, newest first, and a filter leaves out exactly what it does not ask for.
func TestListCalls(t *testing.T) {
	var filters []control.RecordFilter
	for _, agent := range []sallyport.AgentID{"", "support"} {
		for _, run := range []sallyport.RunID{"", "run_billing"} {
			for _, outcome := range []sallyport.Outcome{0, sallyport.OutcomeOK, sallyport.OutcomeRefused, sallyport.OutcomeUnsettled} {
				for _, decision := range []string{"", "allow", "deny"} {
					filters = append(filters,
						control.RecordFilter{Agent: agent, Run: run, Outcome: outcome, Decision: decision},
						control.RecordFilter{Agent: agent, Run: run, Outcome: outcome, Decision: decision, Tool: "write", Stage: sallyport.Production})
				}
			}
		}
	}
	for seed := range 12 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			steps := rapid.Custom(drawSteps).Example(seed)
			r := newRig(t)
			r.openRun("run_support")
			r.openRun("run_billing")
			want := r.play(t, steps)
			for i, f := range filters {
				limit := 1 + i%7
				var fit []control.Call
				for _, c := range want {
					if f.Fits(&c) {
						fit = append(fit, c)
					}
				}
				if diff := cmp.Diff(fit, r.pages(t, f, limit)); diff != "" {
					t.Fatalf("%+v\nfilter %+v, limit %d (-want +got):\n%s", steps, f, limit, diff)
				}
			}
			for _, c := range want {
				got, lines, err := r.Call(t.Context(), c.ID, nil)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(&c, got); diff != "" {
					t.Errorf("one call (-want +got):\n%s", diff)
				}
				for _, l := range lines {
					if !bytes.Contains(l.Body, []byte(c.ID)) || l.Arguments != nil {
						t.Errorf("a record of another call, or a payload nobody asked for: %s %s", l.Body, l.Arguments)
					}
				}
			}
		})
	}
}

// pages reads all pages of a listing of calls.
func (r *rig) pages(t *testing.T, f control.RecordFilter, limit int) []control.Call {
	t.Helper()
	var out []control.Call
	for below := int64(-1); ; {
		page, next, err := r.ListCalls(t.Context(), f, below, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > limit {
			t.Fatalf("%d calls on a page of %d", len(page), limit)
		}
		out = append(out, page...)
		if next < 0 {
			return out
		}
		if below >= 0 && next >= below {
			t.Fatalf("the page below %d is continued below %d", below, next)
		}
		below = next
	}
}

func TestListRecordsByTimeAndKind(t *testing.T) {
	r := newRig(t)
	r.openRun("run_support")
	var steps []step
	for n := range 60 {
		what := "ok"
		if n%3 == 0 {
			what = "denied"
		}
		steps = append(steps, step{call: n, what: what, agent: "support", stage: sallyport.Sandbox, tool: "read"})
	}
	r.play(t, steps)
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }
	for _, c := range []struct {
		name string
		kind audit.Kind
		f    control.RecordFilter
		want int
	}{
		{"all", "", control.RecordFilter{}, 61},
		{"outcomes", audit.Outcome, control.RecordFilter{}, 60},
		{"applied", audit.Applied, control.RecordFilter{}, 1},
		{"denied", audit.Outcome, control.RecordFilter{Decision: "deny"}, 20},
		{"since", audit.Outcome, control.RecordFilter{Since: at(50)}, 10},
		{"until", audit.Outcome, control.RecordFilter{Until: at(10)}, 10},
		{"between", audit.Outcome, control.RecordFilter{Since: at(20), Until: at(30)}, 10},
		{"nothing yet", "", control.RecordFilter{Since: at(3600)}, 0},
		{"another upstream", "", control.RecordFilter{Upstream: "mail"}, 0},
		{"a run that is not", "", control.RecordFilter{Run: "run_none"}, 0},
	} {
		got, below := 0, int64(-1)
		for {
			lines, next, err := r.ListRecords(t.Context(), c.kind, c.f, below, 7)
			if err != nil {
				t.Fatal(c.name, err)
			}
			for _, l := range lines {
				if below >= 0 && l.Sequence >= below {
					t.Errorf("%s: record %d is not below %d", c.name, l.Sequence, below)
				}
				below = l.Sequence
			}
			got += len(lines)
			if below = next; next < 0 {
				break
			}
		}
		if got != c.want {
			t.Errorf("%s: %d records, want %d", c.name, got, c.want)
		}
	}
}

// TestScanIsBounded: a filter that nothing fits does not read the whole log in
// one page, and its pages come to an end all the same.
func TestScanIsBounded(t *testing.T) {
	r := newRig(t)
	const all = maxExamined + 700
	var batch []*op
	for n := range all {
		made, err := r.seal(&audit.Record{ID: fmt.Sprintf("rec_%d", n), Time: noon.UnixMicro() + int64(n)*1e6, Kind: audit.Applied}, nil)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, &op{records: []sealed{made}, result: make(chan error, 1)})
	}
	for _, o := range batch {
		r.ops <- o
	}
	for _, o := range batch {
		if err := <-o.result; err != nil {
			t.Fatal(err)
		}
	}
	lines, next, err := r.ListRecords(t.Context(), audit.Promoted, control.RecordFilter{}, -1, 10)
	if err != nil || len(lines) != 0 || next != all-maxExamined {
		t.Fatalf("%d records, continued below %d, %v; want none, below %d", len(lines), next, err, all-maxExamined)
	}
	if lines, next, err = r.ListRecords(t.Context(), audit.Promoted, control.RecordFilter{}, next, 10); err != nil || len(lines) != 0 || next != -1 {
		t.Fatalf("%d records, continued below %d, %v", len(lines), next, err)
	}
	// Times lead to their place without reading what lies between.
	old := control.RecordFilter{Until: noon.Add(10 * time.Second)}
	if lines, next, err = r.ListRecords(t.Context(), audit.Applied, old, -1, 100); err != nil || len(lines) != 10 || next != -1 {
		t.Fatalf("%d records, continued below %d, %v", len(lines), next, err)
	}
}

func TestCallAndItsPayloads(t *testing.T) {
	r := newRig(t)
	r.openRun("run_support")
	r.play(t, []step{
		{call: 0, what: "intend", agent: "support", stage: sallyport.Production, tool: "write"},
		{call: 1, what: "ok", agent: "support", stage: sallyport.Production, tool: "read"},
		{call: 0, what: "ok", agent: "support", stage: sallyport.Production, tool: "write"},
	})
	var asked sallyport.Stage
	c, lines, err := r.Call(t.Context(), callID(0), func(s sallyport.Stage) error { asked = s; return nil })
	if err != nil || asked != sallyport.Production || len(lines) != 2 || c.Outcome != sallyport.OutcomeOK || string(lines[0].Arguments) != `{"n":1}` {
		t.Fatalf("%+v %+v %v, asked for %v", c, lines, err, asked)
	}
	no := sallyport.Refuse(sallyport.NotPermitted, "no", "")
	if c, lines, err := r.Call(t.Context(), callID(0), func(sallyport.Stage) error { return no }); code(err) != sallyport.NotPermitted || c != nil || lines != nil {
		t.Errorf("%v %v %v", c, lines, err)
	}
	for _, id := range []sallyport.CallID{callID(7), "call_x", "call_%", "", "run_support", callID(0) + "0", sallyport.CallID(strings.ToUpper(string(callID(0))))} {
		if _, _, err := r.Call(t.Context(), id, nil); code(err) != sallyport.NotFound {
			t.Errorf("call %q: %v", id, err)
		}
	}
	// A call that was refused before it had a run.
	e := entry(audit.Outcome, "x", sallyport.OutcomeRefused)
	e.Record.Run, e.Record.Call, e.Record.Time, e.Target.Run = "", callID(9), noon.Add(9*time.Second).UnixMicro(), ""
	if err := r.Conclude(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if c, lines, err := r.Call(t.Context(), callID(9), nil); err != nil || len(lines) != 1 || c.Outcome != sallyport.OutcomeRefused {
		t.Errorf("%+v %v %v", c, lines, err)
	}
}

func TestListRunsReleasesKeys(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	put := func(changes ...control.Change) {
		t.Helper()
		if err := r.Commit(ctx, nil, changes...); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 9 {
		at := noon.Add(time.Duration(n) * time.Minute)
		agent := sallyport.AgentID("support")
		if n%3 == 0 {
			agent = "billing"
		}
		id := sallyport.RunID(sallyport.MakeID("run", at, [10]byte{}))
		put(control.PutRun{Run: sallyport.Run{
			ID: id, Agent: agent, Release: releaseA, Stage: sallyport.Stages[n%3], State: sallyport.RunOpen, OpenedBy: "key_1",
			Opened: at, Labels: sallyport.NewLabels(),
		}}, control.PutKey{Key: control.Key{ID: sallyport.KeyID(fmt.Sprintf("key_%d", n)), Kind: sallyport.KeyHost, Hash: [32]byte{byte(n)}, Agent: agent, Made: at}},
			control.PutVersion{Kind: control.ReleaseVersion, Digest: sallyport.Digest(fmt.Sprintf("sha256:%064d", n)), Body: fmt.Appendf(nil, `{"id":"sha256:%064d","agent":%q,"owner":"ana","tier":"low","tools":[],"servers":{},"policies":[],"data_domain":"d"}`, n, agent)})
		if n < 4 {
			put(control.EndRun{ID: id, At: at, Close: &sallyport.RunClose{Outcome: []string{"success", "failure"}[n%2]}})
		}
	}
	for _, c := range []struct {
		name string
		f    control.RunFilter
		want int
	}{
		{"all", control.RunFilter{}, 9},
		{"agent", control.RunFilter{Agent: "billing"}, 3},
		{"release", control.RunFilter{Release: releaseA, Agent: "support"}, 6},
		{"another release", control.RunFilter{Release: "sha256:b"}, 0},
		{"stage", control.RunFilter{Stage: sallyport.Staging}, 3},
		{"open", control.RunFilter{State: sallyport.RunOpen}, 5},
		{"success", control.RunFilter{Outcome: "success"}, 2},
		{"no outcome is a pattern", control.RunFilter{Outcome: "succ"}, 0},
		{"since", control.RunFilter{Since: noon.Add(5 * time.Minute)}, 4},
		{"until", control.RunFilter{Until: noon.Add(5 * time.Minute)}, 5},
	} {
		var got []sallyport.RunID
		below := sallyport.RunID("")
		for {
			page, err := r.ListRuns(ctx, c.f, below, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, run := range page {
				got = append(got, run.ID)
				below = run.ID
			}
			if len(page) < 2 {
				break
			}
		}
		if len(got) != c.want || !slices.IsSortedFunc(got, func(a, b sallyport.RunID) int { return strings.Compare(string(b), string(a)) }) {
			t.Errorf("%s: %v, want %d", c.name, got, c.want)
		}
	}

	// All releases were applied at the same moment of the rig's clock.
	var digests []sallyport.ReleaseID
	var at time.Time
	var last sallyport.ReleaseID
	for {
		page, err := r.ListReleases(ctx, "support", at, last, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page {
			digests = append(digests, x.ID)
			at, last = x.At, x.ID
		}
		if len(page) < 4 {
			break
		}
	}
	if len(digests) != 6 || !slices.IsSorted(digests) {
		t.Errorf("releases: %v", digests)
	}
	if x, err := r.Applied(ctx, digests[0]); err != nil || x.ID != digests[0] || !x.At.Equal(at) {
		t.Errorf("%+v %v", x, err)
	}
	if _, err := r.Applied(ctx, "sha256:none"); code(err) != sallyport.NoRelease {
		t.Error(err)
	}

	var keys []sallyport.KeyID
	at, id := time.Time{}, sallyport.KeyID("")
	for {
		page, err := r.ListKeys(ctx, "support", sallyport.KeyHost, at, id, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page {
			keys = append(keys, k.ID)
			at, id = k.Made, k.ID
		}
		if len(page) < 4 {
			break
		}
	}
	if got, want := fmt.Sprint(keys), "[key_8 key_7 key_5 key_4 key_2 key_1]"; got != want {
		t.Errorf("keys: %s, want %s", got, want)
	}
	if page, err := r.ListKeys(ctx, "", sallyport.KeyAgent, time.Time{}, "", 4); err != nil || len(page) != 0 {
		t.Errorf("%v %v", page, err)
	}
}

// TestAnswers: a place is made once, filled once, and free again after a day.
func TestAnswers(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	first := control.Answer{Key: "k", Request: "r", At: noon}
	if there, err := r.Reserve(ctx, first); err != nil || there != nil {
		t.Fatalf("%+v %v", there, err)
	}
	if there, err := r.Reserve(ctx, control.Answer{Key: "k", Request: "other", At: noon}); err != nil || there == nil || there.Status != 0 || there.Request != "r" {
		t.Fatalf("%+v %v", there, err)
	}
	if err := r.Keep(ctx, control.Answer{Key: "k", Request: "r", At: noon}); err == nil {
		t.Error("an answer without a status was kept")
	}
	full := control.Answer{Key: "k", Request: "r", Status: 200, Body: []byte("sealed"), At: noon}
	if err := r.Keep(ctx, full); err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(ctx, control.Answer{Key: "k", Request: "r", Status: 500, Body: []byte("late"), At: noon}); err == nil {
		t.Error("an answer was replaced")
	}
	if err := r.Keep(ctx, control.Answer{Key: "none", Request: "r", Status: 200, At: noon}); err == nil {
		t.Error("an answer was kept without a place")
	}
	r.reopen()
	if there, err := r.Reserve(ctx, first); err != nil || there == nil {
		t.Fatal(err)
	} else if diff := cmp.Diff(&full, there); diff != "" {
		t.Error(diff)
	}
	later := first
	later.At = noon.Add(answerAge - time.Second)
	if there, err := r.Reserve(ctx, later); err != nil || there == nil {
		t.Errorf("gone too early: %+v %v", there, err)
	}
	later.At = noon.Add(answerAge)
	if there, err := r.Reserve(ctx, later); err != nil || there != nil {
		t.Errorf("still there after a day: %+v %v", there, err)
	}

	// The sweep takes what is older than a day by the store's clock.
	for n, at := range []time.Time{r.Now().Add(-answerAge - time.Second), r.Now().Add(-answerAge + time.Second)} {
		if _, err := r.Reserve(ctx, control.Answer{Key: fmt.Sprint("sweep", n), Request: "r", At: at}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SweepAnswers(ctx); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := r.readers.QueryRowContext(ctx, `SELECT count(*) FROM answers WHERE key LIKE 'sweep%'`).Scan(&left); err != nil || left != 1 {
		t.Errorf("%d answers are left, %v", left, err)
	}
}
