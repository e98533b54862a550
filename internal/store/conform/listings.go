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

// history is a log in which calls of two runs begin and end, and the calls as they
// should be listed, oldest first.
type history struct {
	*rig
	runs          []*sallyport.Run
	open, unknown []control.Call
	want          []control.Call
}

func (r *rig) history() *history {
	r.Helper()
	h := &history{rig: r}
	for _, agent := range []sallyport.AgentID{"support", "billing"} {
		run := r.newRun()
		run.Agent = agent
		r.must(r.start(run))
		h.runs = append(h.runs, &run)
	}
	return h
}

// begin is a call that begins now, in a stage.
func (h *history) begin(run *sallyport.Run, stage sallyport.Stage, tool string) control.Call {
	return control.Call{
		ID: sallyport.CallID(h.id("call")), Run: run.ID, At: h.now(), Agent: run.Agent, Release: run.Release, Key: run.OpenedBy, Stage: stage,
		Upstream: "crm", Tool: tool, Kind: sallyport.KindTool, Access: sallyport.Changing, Binding: sallyport.Live, Decision: "allow",
	}
}

// put records a call with a kind of record, and what it says; it is listed by that.
func (h *history) put(c control.Call, kind audit.Kind, as sallyport.Outcome) control.Call {
	h.Helper()
	i := slices.IndexFunc(h.runs, func(r *sallyport.Run) bool { return r.ID == c.Run })
	e := h.entry(h.runs[i], kind, c.ID, as)
	e.Record.Stage, e.Record.Tool, e.Record.Access = c.Stage, c.Tool, c.Access
	c.Sequence, c.InFlight, c.Outcome, c.Decision = h.Size(), kind == audit.Intent, as, "allow"
	// It is listed at its beginning, and the record is of now.
	e.Record.LatencyMicros = h.now().Sub(c.At).Microseconds()
	c.LatencyMicros = e.Record.LatencyMicros
	if as == sallyport.OutcomeRefused {
		e.Record.Decision, e.Record.Refusal = nil, sallyport.Refuse(sallyport.Denied, "no", "")
		c.Decision, c.Refusal = "deny", e.Record.Refusal
	}
	if kind == audit.Intent {
		h.must(h.Intend(context.Background(), e))
	} else {
		h.must(h.Conclude(context.Background(), e))
	}
	c.Person = e.Record.Principal.Person // a pseudonym now
	h.want = slices.DeleteFunc(h.want, func(w control.Call) bool { return w.ID == c.ID })
	h.want = append(h.want, c)
	return c
}

// step is one thing that happens, a second after the one before.
func (h *history) step(t *rapid.T) {
	h.Helper()
	h.pass(time.Second)
	take := func(from *[]control.Call) control.Call {
		i := rapid.IntRange(0, len(*from)-1).Draw(t, "call")
		c := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		return c
	}
	fresh := func() control.Call {
		return h.begin(rapid.SampledFrom(h.runs).Draw(t, "run"), rapid.SampledFrom(sallyport.Stages).Draw(t, "stage"), rapid.SampledFrom([]string{"read", "write"}).Draw(t, "tool"))
	}
	kinds := []string{"intend", "intend", "intend", "read", "read", "denied", "applied"}
	if len(h.open) > 0 {
		kinds = append(kinds, "end", "end", "end", "unsure", "lost")
	}
	if len(h.unknown) > 0 {
		kinds = append(kinds, "settle")
	}
	switch rapid.SampledFrom(kinds).Draw(t, "step") {
	case "intend":
		h.open = append(h.open, h.put(fresh(), audit.Intent, 0))
	case "read":
		c := fresh()
		c.Access = sallyport.Read
		h.put(c, audit.Outcome, sallyport.OutcomeOK)
	case "denied":
		h.put(fresh(), audit.Outcome, sallyport.OutcomeRefused)
	case "applied":
		h.must(h.Commit(context.Background(), h.applied()))
	case "end":
		h.put(take(&h.open), audit.Outcome, rapid.SampledFrom([]sallyport.Outcome{sallyport.OutcomeOK, sallyport.OutcomeError, sallyport.OutcomeRefused}).Draw(t, "as"))
	case "unsure":
		h.unknown = append(h.unknown, h.put(take(&h.open), audit.Outcome, sallyport.OutcomeUnsettled))
	case "lost": // the program ends, and says so of what was in flight when it starts
		h.crash()
		first := h.Size()
		lost, err := h.MarkUnknown(context.Background())
		h.must(err)
		if len(lost) != len(h.open) {
			h.Fatalf("%d are lost, want %d", len(lost), len(h.open))
		}
		for i, u := range lost {
			at := slices.IndexFunc(h.open, func(c control.Call) bool { return c.ID == u.Call })
			c := h.open[at]
			c.Sequence, c.InFlight, c.Outcome = first+int64(i), false, sallyport.OutcomeUnsettled
			h.want = append(slices.DeleteFunc(h.want, func(w control.Call) bool { return w.ID == c.ID }), c)
			h.unknown = append(h.unknown, c)
		}
		h.open = nil
	case "settle": // it stays where it is listed
		c := take(&h.unknown)
		run := h.runs[slices.IndexFunc(h.runs, func(r *sallyport.Run) bool { return r.ID == c.Run })]
		h.must(h.settle(run, c.ID, "happened"))
		h.want[slices.IndexFunc(h.want, func(w control.Call) bool { return w.ID == c.ID })].Settled = "happened"
	}
}

// pages reads all pages of a listing of calls.
func (r *rig) pages(f control.RecordFilter, limit int) []control.Call {
	r.Helper()
	var out []control.Call
	for below := int64(-1); ; {
		page, next, err := r.ListCalls(context.Background(), f, below, limit)
		r.must(err)
		if len(page) > limit {
			r.Fatalf("%d calls on a page of %d", len(page), limit)
		}
		out = append(out, page...)
		if next < 0 {
			return out
		}
		if below >= 0 && next >= below {
			r.Fatalf("the page below %d is continued below %d", below, next)
		}
		below = next
	}
}

// listCalls: pages of any size, put together, are the calls there are, each once,
// newest first, and a filter leaves out exactly what it does not ask for.
func listCalls(r *rig) {
	r.property(func(t *rapid.T) {
		h := r.history()
		first := r.Size()
		since := r.now()
		for range rapid.IntRange(1, 16).Draw(t, "steps") {
			h.step(t)
		}
		slices.Reverse(h.want)
		runs := []sallyport.RunID{h.runs[0].ID, h.runs[1].ID}
		mine := func(c control.Call) bool { return c.Sequence >= first } // others are of the cases before
		for range 8 {
			f := control.RecordFilter{
				Run:      rapid.SampledFrom(append(runs, "", "")).Draw(t, "run"),
				Agent:    rapid.SampledFrom([]sallyport.AgentID{"", "", "support", "nobody"}).Draw(t, "agent"),
				Stage:    rapid.SampledFrom([]sallyport.Stage{0, 0, sallyport.Staging, sallyport.Production}).Draw(t, "stage"),
				Tool:     rapid.SampledFrom([]string{"", "", "write", "none"}).Draw(t, "tool"),
				Upstream: rapid.SampledFrom([]sallyport.UpstreamID{"", "", "crm", "mail"}).Draw(t, "upstream"),
				Outcome:  rapid.SampledFrom([]sallyport.Outcome{0, 0, sallyport.OutcomeOK, sallyport.OutcomeRefused, sallyport.OutcomeUnsettled}).Draw(t, "outcome"),
				Decision: rapid.SampledFrom([]string{"", "", "allow", "deny"}).Draw(t, "decision"),
				Since:    since,
			}
			var want []control.Call
			for _, c := range h.want {
				if f.Fits(&c) {
					want = append(want, c)
				}
			}
			have := slices.DeleteFunc(r.pages(f, rapid.IntRange(1, 9).Draw(t, "limit")), func(c control.Call) bool { return !mine(c) })
			if diff := cmp.Diff(want, have); diff != "" {
				r.Fatalf("%+v (-want +got):\n%s", f, diff)
			}
		}
		for _, c := range h.want {
			got, lines, err := r.Call(context.Background(), c.ID, nil)
			r.must(err)
			if diff := cmp.Diff(&c, got); diff != "" {
				r.Fatalf("one call (-want +got):\n%s", diff)
			}
			for _, l := range lines {
				if !bytes.Contains(l.Body, []byte(c.ID)) || l.Arguments != nil || l.Result != nil {
					r.Fatalf("a record of another call, or a payload nobody asked for: %s %s", l.Body, l.Arguments)
				}
			}
		}
		for _, c := range h.open { // nothing is left for the next case to find
			h.put(c, audit.Outcome, sallyport.OutcomeOK)
		}
		r.pass(time.Hour)
	})
}

// listRecords by kind, by what they say and by when they were made.
func listRecords(r *rig) {
	ctx := context.Background()
	h := r.history()
	for n := range 60 {
		h.pass(time.Second)
		c := h.begin(h.runs[0], sallyport.Sandbox, "read")
		c.Access = sallyport.Read
		if n%3 == 0 {
			h.put(c, audit.Outcome, sallyport.OutcomeRefused)
		} else {
			h.put(c, audit.Outcome, sallyport.OutcomeOK)
		}
	}
	r.pass(time.Second)
	r.must(r.Commit(ctx, r.applied()))
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) } // the n-th call is of n
	for _, c := range []struct {
		name string
		kind audit.Kind
		f    control.RecordFilter
		want int
	}{
		{"all", "", control.RecordFilter{}, 63},
		{"outcomes", audit.Outcome, control.RecordFilter{}, 60},
		{"opened", audit.RunOpened, control.RecordFilter{}, 2},
		{"applied", audit.Applied, control.RecordFilter{}, 1},
		{"promoted", audit.Promoted, control.RecordFilter{}, 0},
		{"denied", audit.Outcome, control.RecordFilter{Decision: "deny"}, 20},
		{"of a run", "", control.RecordFilter{Run: h.runs[0].ID}, 61},
		{"since", audit.Outcome, control.RecordFilter{Since: at(51)}, 10},
		{"until", audit.Outcome, control.RecordFilter{Until: at(11)}, 10},
		{"between", audit.Outcome, control.RecordFilter{Since: at(20), Until: at(30)}, 10},
		{"in no time", "", control.RecordFilter{Since: at(30), Until: at(30)}, 0},
		{"nothing yet", "", control.RecordFilter{Since: at(3600)}, 0},
		{"nothing before", "", control.RecordFilter{Until: noon}, 0},
		{"another upstream", "", control.RecordFilter{Upstream: "mail"}, 0},
		{"a run that is not", "", control.RecordFilter{Run: "run_none"}, 0},
	} {
		for _, limit := range []int{1, 7, 100} {
			got, below := 0, int64(-1)
			for next := int64(0); next >= 0; below = next {
				var lines []control.Line
				var err error
				lines, next, err = r.ListRecords(ctx, c.kind, c.f, below, limit)
				r.must(err)
				for _, l := range lines {
					if below >= 0 && l.Sequence >= below || l.Arguments != nil {
						r.Errorf("%s: record %d is not below %d", c.name, l.Sequence, below)
					}
					r.must(r.Records(ctx, l.Sequence, l.Sequence+1, func(seq int64, body []byte) error {
						if seq != l.Sequence || !bytes.Equal(body, l.Body) {
							return fmt.Errorf("record %d is %s, and is listed as %s", seq, body, l.Body)
						}
						return nil
					}))
					below = l.Sequence
				}
				if len(lines) > limit {
					r.Errorf("%s: %d records on a page of %d", c.name, len(lines), limit)
				}
				got += len(lines)
			}
			if got != c.want {
				r.Errorf("%s by %d: %d records, want %d", c.name, limit, got, c.want)
			}
		}
	}
}

// oneCall: its records and, for who may see them, what they commit to.
func oneCall(r *rig) {
	ctx := context.Background()
	run := r.started()
	call, err := r.intend(run)
	r.must(err)
	_, err = r.read(run)
	r.must(err)
	r.must(r.conclude(run, call, sallyport.OutcomeOK))
	var asked sallyport.Stage
	c, lines, err := r.Call(ctx, call, func(s sallyport.Stage) error { asked = s; return nil })
	r.must(err)
	if asked != sallyport.Production || len(lines) != 2 || c.Outcome != sallyport.OutcomeOK || c.InFlight ||
		!strings.Contains(string(lines[0].Arguments), string(call)) || !strings.Contains(string(lines[1].Result), "done") {
		r.Errorf("%+v %+v, asked for %v", c, lines, asked)
	}
	no := sallyport.Refuse(sallyport.NotPermitted, "no", "")
	c, lines, err = r.Call(ctx, call, func(sallyport.Stage) error { return no })
	r.wants(sallyport.NotPermitted, err)
	if c != nil || lines != nil {
		r.Errorf("%v %v", c, lines)
	}
	for _, id := range []sallyport.CallID{
		sallyport.CallID(r.id("call")), "call_x", "call_%", "call_" + sallyport.CallID(strings.Repeat("_", 26)), "", "%", sallyport.CallID(run.ID), call + "0", call[:len(call)-1],
		sallyport.CallID(strings.ToUpper(string(call))), "call_' OR '1'='1",
	} {
		_, _, err := r.Call(ctx, id, nil)
		r.wants(sallyport.NotFound, err)
	}
	// A call that was refused before it had a run.
	e := r.entry(run, audit.Outcome, sallyport.CallID(r.id("call")), sallyport.OutcomeRefused)
	e.Record.Run, e.Target.Run = "", ""
	r.must(r.Conclude(ctx, e))
	if c, lines, err := r.Call(ctx, e.Record.Call, nil); err != nil || len(lines) != 1 || c.Outcome != sallyport.OutcomeRefused {
		r.Errorf("%+v %v %v", c, lines, err)
	}
	// One whose id is of long before its record, as where a clock was wrong.
	old := r.entry(run, audit.Outcome, sallyport.CallID(sallyport.MakeID("call", noon.AddDate(-1, 0, 0), [10]byte{1})), sallyport.OutcomeRefused)
	r.must(r.Conclude(ctx, old))
	if c, lines, err := r.Call(ctx, old.Record.Call, nil); err != nil || len(lines) != 1 || c.ID != old.Record.Call {
		r.Errorf("%+v %v %v", c, lines, err)
	}
}

// paged reads all pages of two, as far as the last is full.
func paged[T any](r *rig, page func(last *T, limit int) ([]T, error)) []T {
	r.Helper()
	const limit = 2
	var out []T
	for last := (*T)(nil); ; {
		some, err := page(last, limit)
		r.must(err)
		if len(some) > limit || len(out) > 1000 {
			r.Fatalf("%d on a page of %d, %d before them", len(some), limit, len(out))
		}
		out = append(out, some...)
		if len(some) < limit {
			return out
		}
		last = &some[len(some)-1]
	}
}

func listRuns(r *rig) {
	ctx := context.Background()
	var ids []sallyport.RunID
	for n := range 9 {
		run := r.newRun()
		if n%3 == 0 {
			run.Agent = "billing"
		}
		run.Stage = sallyport.Stages[n%3]
		r.must(r.start(run))
		if n < 4 {
			r.must(r.end(&run, []string{"success", "failure"}[n%2]))
		}
		ids = append(ids, run.ID)
		r.pass(time.Minute)
	}
	for _, c := range []struct {
		name string
		f    control.RunFilter
		want []int
	}{
		{"all", control.RunFilter{}, []int{8, 7, 6, 5, 4, 3, 2, 1, 0}},
		{"agent", control.RunFilter{Agent: "billing"}, []int{6, 3, 0}},
		{"release", control.RunFilter{Release: digest("release"), Agent: "support"}, []int{8, 7, 5, 4, 2, 1}},
		{"another release", control.RunFilter{Release: digest("none")}, nil},
		{"stage", control.RunFilter{Stage: sallyport.Staging}, []int{7, 4, 1}},
		{"open", control.RunFilter{State: sallyport.RunOpen}, []int{8, 7, 6, 5, 4}},
		{"success", control.RunFilter{Outcome: "success"}, []int{2, 0}},
		{"no outcome is a pattern", control.RunFilter{Outcome: "succ"}, nil},
		{"nor part of a text", control.RunFilter{Outcome: `success"`}, nil},
		{"since", control.RunFilter{Since: noon.Add(5 * time.Minute)}, []int{8, 7, 6, 5}},
		{"until", control.RunFilter{Until: noon.Add(5 * time.Minute)}, []int{4, 3, 2, 1, 0}},
	} {
		var want []sallyport.RunID
		for _, n := range c.want {
			want = append(want, ids[n])
		}
		var have []sallyport.RunID
		for _, run := range paged(r, func(last *sallyport.Run, limit int) ([]sallyport.Run, error) {
			below := sallyport.RunID("")
			if last != nil {
				below = last.ID
			}
			return r.ListRuns(ctx, c.f, below, limit)
		}) {
			have = append(have, run.ID)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			r.Errorf("%s: %s", c.name, diff)
		}
	}
}

func listReleases(r *rig) {
	ctx := context.Background()
	want := map[sallyport.AgentID][]control.Registered{}
	for n := range 12 {
		agent := sallyport.AgentID("support")
		if n%3 == 0 {
			agent = "billing"
		}
		v, put := r.release(agent, fmt.Sprint(n))
		r.must(r.Commit(ctx, r.applied(), put))
		for _, who := range []sallyport.AgentID{"", agent} {
			want[who] = append(want[who], control.Registered{Release: v, At: r.now()})
		}
		if n%4 == 3 { // several are of one moment
			r.pass(time.Minute)
		}
	}
	for _, agent := range []sallyport.AgentID{"", "support", "billing", "nobody"} {
		slices.SortFunc(want[agent], func(a, b control.Registered) int {
			if c := b.At.Compare(a.At); c != 0 {
				return c
			}
			return strings.Compare(string(a.ID), string(b.ID))
		})
		have := paged(r, func(last *control.Registered, limit int) ([]control.Registered, error) {
			if last == nil {
				return r.ListReleases(ctx, agent, time.Time{}, "", limit)
			}
			return r.ListReleases(ctx, agent, last.At, last.ID, limit)
		})
		if diff := cmp.Diff(want[agent], have); diff != "" {
			r.Errorf("of %q: %s", agent, diff)
		}
	}
}

func listKeys(r *rig) {
	ctx := context.Background()
	r.started() // a run's token is not listed
	type asked struct {
		agent sallyport.AgentID
		kind  sallyport.KeyKind
	}
	want := map[asked][]control.Key{}
	for n := range 12 {
		k := control.Key{ID: sallyport.KeyID(fmt.Sprintf("key_%02d", 20-n)), Kind: sallyport.KeyHost, Hash: [32]byte{byte(n)}, Agent: "support", Ceiling: sallyport.Sandbox, Made: r.now()}
		if n%3 == 0 {
			k.Agent = "billing"
		}
		if n%2 == 0 {
			k.Kind = sallyport.KeyAgent
		}
		r.must(r.putKey(k))
		for _, a := range []asked{{}, {k.Agent, 0}, {"", k.Kind}, {k.Agent, k.Kind}} {
			want[a] = append(want[a], k)
		}
		if n%4 == 3 { // several are of one moment
			r.pass(time.Minute)
		}
	}
	for _, a := range []asked{{}, {"support", 0}, {"billing", 0}, {"", sallyport.KeyHost}, {"support", sallyport.KeyAgent}, {"billing", sallyport.KeyHost}, {"", sallyport.KeyRun}, {"nobody", 0}} {
		slices.SortFunc(want[a], func(a, b control.Key) int {
			if c := b.Made.Compare(a.Made); c != 0 {
				return c
			}
			return strings.Compare(string(a.ID), string(b.ID))
		})
		have := paged(r, func(last *control.Key, limit int) ([]control.Key, error) {
			if last == nil {
				return r.ListKeys(ctx, a.agent, a.kind, time.Time{}, "", limit)
			}
			return r.ListKeys(ctx, a.agent, a.kind, last.Made, last.ID, limit)
		})
		if diff := cmp.Diff(want[a], have); diff != "" {
			r.Errorf("of %+v: %s", a, diff)
		}
	}
}

const answerAge = 24 * time.Hour

// answers: a place is made once, filled once, and free again after a day.
func answers(r *rig) {
	ctx := context.Background()
	first := control.Answer{Key: "k", Request: "r", At: noon}
	if there, err := r.Reserve(ctx, first); err != nil || there != nil {
		r.Fatalf("%+v %v", there, err)
	}
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		there, err := r.Reserve(ctx, control.Answer{Key: "k", Request: "other", At: noon})
		if err != nil || there == nil || there.Status != 0 || there.Request != "r" || len(there.Body) != 0 {
			r.Fatalf("%+v %v", there, err)
		}
	}
	full := control.Answer{Key: "k", Request: "r", Status: 200, Body: []byte("sealed\x00\xff"), At: noon}
	for what, a := range map[string]control.Answer{
		"without a status":   {Key: "k", Request: "r", Body: []byte("b"), At: noon},
		"of another request": {Key: "k", Request: "other", Status: 200, Body: []byte("b"), At: noon},
		"without a place":    {Key: "none", Request: "r", Status: 200, Body: []byte("b"), At: noon},
	} {
		if err := r.Keep(ctx, a); err == nil {
			r.Errorf("an answer %s was kept", what)
		}
	}
	r.must(r.Keep(ctx, full))
	if err := r.Keep(ctx, control.Answer{Key: "k", Request: "r", Status: 500, Body: []byte("late"), At: noon}); err == nil {
		r.Error("an answer was replaced")
	}
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		there, err := r.Reserve(ctx, first)
		r.must(err)
		if diff := cmp.Diff(&full, there); diff != "" {
			r.Error(diff)
		}
	}
	later := first
	later.At = noon.Add(answerAge - time.Second)
	if there, err := r.Reserve(ctx, later); err != nil || there == nil {
		r.Errorf("gone too early: %+v %v", there, err)
	}
	later.At = noon.Add(answerAge)
	if there, err := r.Reserve(ctx, later); err != nil || there != nil {
		r.Errorf("still there after a day: %+v %v", there, err)
	}

	// The sweep takes what is older than a day by the engine's clock.
	ages := []time.Duration{answerAge + time.Second, answerAge - time.Second}
	for n, age := range ages {
		if _, err := r.Reserve(ctx, control.Answer{Key: fmt.Sprint("sweep", n), Request: "r", At: r.now().Add(-age)}); err != nil {
			r.Fatal(err)
		}
	}
	r.must(r.SweepAnswers(ctx))
	for n, age := range ages {
		there, err := r.Reserve(ctx, control.Answer{Key: fmt.Sprint("sweep", n), Request: "r", At: r.now().Add(-age)})
		if err != nil || (there == nil) != (age > answerAge) {
			r.Errorf("%v old after the sweep: %+v, %v", age, there, err)
		}
	}
	if r.Size() != 0 {
		r.Errorf("answers left %d records", r.Size())
	}
}

// answersRace: of many who make the same request at once one gets its place, and
// one answer is kept.
func answersRace(r *rig) {
	ctx := context.Background()
	var got, kept atomic.Int64
	var mu sync.Mutex
	statuses := map[int]bool{}
	sides(50, func(int) {
		there, err := r.Reserve(ctx, control.Answer{Key: "k", Request: "r", At: noon})
		switch {
		case err != nil:
			r.Error(err)
		case there == nil:
			got.Add(1)
		case there.Request != "r":
			r.Errorf("%+v", there)
		}
	})
	sides(50, func(i int) {
		if err := r.Keep(ctx, control.Answer{Key: "k", Request: "r", Status: 200 + i, Body: []byte("b"), At: noon}); err == nil {
			kept.Add(1)
			mu.Lock()
			statuses[200+i] = true
			mu.Unlock()
		}
	})
	there, err := r.Reserve(ctx, control.Answer{Key: "k", Request: "r", At: noon})
	if err != nil || there == nil || got.Load() != 1 || kept.Load() != 1 || !statuses[there.Status] {
		r.Errorf("%d places, %d answers, %v: %+v, %v", got.Load(), kept.Load(), statuses, there, err)
	}
}
