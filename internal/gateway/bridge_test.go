package gateway

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

// suspended is an upstream's request that waits for its client.
type suspended struct {
	dropped int
	then    []func(*Response, error)
}

func (s *suspended) Drop()                         { s.dropped++ }
func (s *suspended) Then(f func(*Response, error)) { s.then = append(s.then, f) }

func (s *suspended) end(res *Response, err error) {
	for _, f := range s.then {
		f(res, err)
	}
}

const asksForInput = `{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Which one?"}}},"requestState":"s"}`

// suspends makes an upstream ask before it goes on.
func (w *wide) suspends(s *suspended) func(context.Context, *Request) (*Response, error) {
	return func(ctx context.Context, q *Request) (*Response, error) {
		if q.Owner != "key_1/run_1" {
			w.t.Errorf("made by %q", q.Owner)
		}
		if refused, err := q.Judge(ctx, question(wire.MethodElicitationCreate)); refused != nil || err != nil {
			return respond(w.t), nil // it does without
		}
		res := w.says(asksForInput)
		res.Held = s
		return res, nil
	}
}

// outcomesOf are the outcomes of calls of tools, in order.
func (w *wide) outcomesOf(kind sallyport.Kind) (all []*audit.Record) {
	w.rig.mu.Lock()
	defer w.rig.mu.Unlock()
	for _, e := range w.outcomes {
		if e.Record.CallKind == kind {
			all = append(all, e.Record)
		}
	}
	return all
}

// TestHeldCall: a call whose upstream goes on has no outcome until it is over; what
// the client was asked is recorded before it is.
func TestHeldCall(t *testing.T) {
	lost := sallyport.Refuse(sallyport.Cancelled, "the client did not come back", "")
	for _, c := range []struct {
		name, tool string
		end        func(w *wide, s *suspended)
		want       sallyport.Outcome
	}{
		{"a change that is made", "write", func(w *wide, s *suspended) { s.end(respond(w.t), nil) }, sallyport.OutcomeOK},
		{"a change that ends in an error", "write", func(w *wide, s *suspended) { s.end(w.says(`{"isError":true,"content":[]}`), nil) }, sallyport.OutcomeError},
		{"a change nobody knows of", "write", func(_ *wide, s *suspended) { s.end(nil, lost) }, sallyport.OutcomeUnsettled},
		{"a read", "look", func(w *wide, s *suspended) { s.end(respond(w.t), nil) }, sallyport.OutcomeOK},
		{"a read that is lost", "look", func(_ *wide, s *suspended) { s.end(nil, lost) }, sallyport.OutcomeRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWide(t, permitAll, nil, "crm")
			s := &suspended{}
			w.on("crm", w.suspends(s))
			r := w.tool(t.Context(), c.tool)
			if string(r.Result) != asksForInput {
				t.Fatalf("%s, %v", r.Result, r.Refusal)
			}
			asked := w.outcomesOf(sallyport.KindElicitation)
			if len(asked) != 1 || asked[0].Outcome != sallyport.OutcomeOK || asked[0].Arguments == "" || asked[0].Result != "" || asked[0].Labels == nil {
				t.Fatalf("recorded of the question: %+v", asked)
			}
			if got := w.outcomesOf(sallyport.KindTool); len(got) != 0 || w.InFlight() != 1 {
				t.Fatalf("%d outcomes and %d in flight while it goes on", len(got), w.InFlight())
			}
			if w.run.Labels().Integrity != sallyport.Untrusted {
				t.Error("the run has read the question and knows nothing")
			}
			c.end(w, s)
			got := w.outcomesOf(sallyport.KindTool)
			if len(got) != 1 || got[0].Outcome != c.want || w.InFlight() != 0 {
				t.Fatalf("%d in flight, recorded %+v", w.InFlight(), got)
			}
			if intended := w.intents[got[0].Call]; intended != (c.tool == "write") {
				t.Errorf("an intent of its own: %v", intended)
			}
		})
	}
}

// TestHaltFindsHeldCall: it is in flight, and dropped.
func TestHaltFindsHeldCall(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	s := &suspended{}
	w.on("crm", w.suspends(s))
	w.tool(t.Context(), "write")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	report := w.Halt(ctx, sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "test"})
	if s.dropped != 1 || len(report.InFlight) != 1 || report.Confirmed.IsZero() {
		t.Errorf("dropped %d times, reported %+v", s.dropped, report)
	}
	s.end(nil, sallyport.Refuse(sallyport.Cancelled, "dropped", ""))
	got := w.outcomesOf(sallyport.KindTool)
	if len(got) != 1 || got[0].Outcome != sallyport.OutcomeUnsettled || got[0].Call != report.InFlight[0] {
		t.Errorf("recorded %+v", got)
	}
	w.resumeAll()
	halting := &suspended{}
	w.on("crm", func(ctx context.Context, q *Request) (*Response, error) {
		res, err := w.suspends(halting)(ctx, q)
		w.Halt(ctx, sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "test"})
		return res, err
	})
	ctx2, cancel2 := context.WithCancel(t.Context())
	defer cancel2()
	w.tool(ctx2, "write")
	if halting.dropped == 0 {
		t.Error("a halt between the question and its release was missed")
	}
}

// resumeAll takes back all halts.
func (w *wide) resumeAll() {
	s := w.decided(w.State().Epoch + 1)
	w.state.Store(&s)
}

// TestQuestionIsRefused: policy says no before anything leaves, the upstream hears
// it, and a question that reached the result all the same ends the call.
func TestQuestionIsRefused(t *testing.T) {
	w := newWide(t, permitAll+`forbid (principal, action == Action::"elicitation/create", resource);`, nil, "crm")
	s := &suspended{}
	w.on("crm", w.suspends(s))
	r := w.tool(t.Context(), "look")
	asked := w.outcomesOf(sallyport.KindElicitation)
	if r.Refusal != nil || len(asked) != 1 || asked[0].Outcome != sallyport.OutcomeRefused {
		t.Errorf("%v, recorded %+v", r.Refusal, asked)
	}
	w.on("crm", func(context.Context, *Request) (*Response, error) {
		res := w.says(asksForInput)
		res.Held = s
		return res, nil
	})
	refused(t, w.tool(t.Context(), "write"), sallyport.Denied)
	if got := w.outcomesOf(sallyport.KindTool); s.dropped != 1 || w.InFlight() != 0 || got[len(got)-1].Outcome != sallyport.OutcomeUnsettled {
		t.Errorf("dropped %d times, recorded %+v", s.dropped, got)
	}
}

// TestAnswerIsRecorded before it leaves, and it does not leave without.
func TestAnswerIsRecorded(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	full := errors.New("the disk is full")
	w.on("crm", func(ctx context.Context, q *Request) (*Response, error) {
		if err := q.Answered(ctx, question(wire.MethodElicitationCreate), []byte(answered)); err != nil {
			t.Error(err)
		}
		got := w.outcomesOf(sallyport.KindElicitation)
		if len(got) != 1 || got[0].Outcome != sallyport.OutcomeOK || got[0].Result == "" || string(w.outcomes[0].Payload.Result) != answered {
			t.Errorf("recorded %+v", got)
		}
		w.onConclude = func() error { w.onConclude = nil; return full }
		if err := q.Answered(ctx, question(wire.MethodElicitationCreate), []byte(answered)); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		return respond(t), nil
	})
	succeeded(t, w.tool(t.Context(), "write"))
}

// TestRoundsOfACall: each further upstream request of a change has an intent and
// an outcome of its own, and none is made after a halt or beyond the budget.
func TestRoundsOfACall(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	s := &Session{ID: "s", Key: "key_1", Ask: func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no") }}
	call := func(tool string, do func(ctx context.Context, q *Request) error) Reply {
		w.on("crm", func(ctx context.Context, q *Request) (*Response, error) {
			if err := do(ctx, q); err != nil {
				return nil, err
			}
			return respond(t), nil
		})
		return w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"`+tool+`","arguments":{"id":"1"}}`, s))
	}
	twice := func(ctx context.Context, q *Request) error {
		for range 2 {
			if err := q.Again(ctx); err != nil {
				return err
			}
			if err := q.BeforeWrite(); err != nil {
				return err
			}
			q.AfterWrite()
		}
		return nil
	}
	succeeded(t, call("write", twice))
	if got := w.outcomesOf(sallyport.KindTool); len(w.intents) != 3 || len(got) != 3 || slices.ContainsFunc(got, func(r *audit.Record) bool {
		return r.Outcome != sallyport.OutcomeOK || !w.intents[r.Call]
	}) {
		t.Errorf("%d intents, outcomes %+v", len(w.intents), got)
	}
	succeeded(t, call("look", twice))
	if len(w.intents) != 3 {
		t.Errorf("a read has intents: %v", w.intents)
	}
	// Nobody knows what became of the last round.
	before := len(w.outcomes)
	refused(t, call("write", func(ctx context.Context, q *Request) error {
		if err := twice(ctx, q); err != nil {
			return err
		}
		return sallyport.Refuse(sallyport.UpstreamUnavailable, "gone", "")
	}), sallyport.UpstreamUnavailable)
	for _, e := range w.outcomes[before:] {
		if e.Record.Outcome != sallyport.OutcomeUnsettled {
			t.Errorf("recorded %+v", e.Record)
		}
	}
	w.run.Envelope.MaxCalls = w.run.Calls() + 2
	refused(t, call("write", twice), sallyport.OverBudget)
	w.run.Envelope.MaxCalls = 0
	refused(t, call("write", func(ctx context.Context, q *Request) error {
		h := sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "test"}
		changed := *w.state.Load()
		changed.local = append(changed.local, h)
		w.state.Store(&changed)
		return q.Again(ctx)
	}), sallyport.Halted)
}

// TestSessionClientDoesNotGetQuestions in results: it could not read them.
func TestSessionClientDoesNotGetQuestions(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(asksForInput), nil })
	x := w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, &Session{ID: "s", Key: "key_1"})
	refused(t, w.Call(t.Context(), x), sallyport.EraMismatch)
	if r := w.tool(t.Context(), "look"); string(r.Result) != asksForInput {
		t.Errorf("%s %v", r.Result, r.Refusal)
	}
}

// TestListsOfSessionUpstreams are kept for one owner alone.
func TestListsOfSessionUpstreams(t *testing.T) {
	for version, want := range map[string]int{wire.Version20251125: 2, wire.Version20260728: 1} {
		w := newWide(t, permitAll, func(_ *sallyport.Release, c *sallyport.StageConfig) {
			u := c.Upstreams["crm"]
			u.Transport.Era = version
			c.Upstreams["crm"] = u
		}, "crm")
		w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(`{"resources":[]}`), nil })
		for _, run := range []sallyport.RunID{"run_1", "run_1", "run_2"} {
			w.run.Run.ID = run
			if r := w.List(t.Context(), w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil)); r.Result == nil {
				t.Fatal(r.Refusal)
			}
		}
		if n := w.requests("crm"); n != want {
			t.Errorf("%s: asked %d times for two runs, want %d", version, n, want)
		}
	}
}
