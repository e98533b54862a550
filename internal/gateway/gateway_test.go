package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

const (
	release = sallyport.ReleaseID("sha256:aaaaaaaaaaaaaaaa")
	config  = sallyport.Digest("sha256:bbbbbbbbbbbbbbbb")
)

// rig is a gateway between fakes. The fakes are strict: what breaks the order
// that records must keep fails the test.
type rig struct {
	t *testing.T
	*Gateway
	run  *Run
	plan *Plan

	mu       sync.Mutex
	intents  map[sallyport.CallID]bool // true once durable
	outcomes []*Entry
	events   []string

	// What the fakes do; nil means what works.
	onIntend    func() error // after the intent was asked for, before it is durable
	afterIntend func() error // after it is durable
	onConclude  func() error
	do          func(context.Context, *Request) (*Response, error)
	answer      func() ([]byte, error)
	fault       *sallyport.Refusal // what the world says in its stead
}

const schemaText = `{"type":"object","properties":{"id":{"type":"string"}},"required":["id"],"additionalProperties":false}`

func newRig(t *testing.T, stage sallyport.Stage, policies string) *rig {
	t.Helper()
	tool := func(name string, access sallyport.Access) sallyport.Tool {
		return sallyport.Tool{
			Name: name, Upstream: "crm", UpstreamName: name, Digest: "sha256:cccccccccccccccc",
			Definition: sallyport.Text(`{"name":"` + name + `","inputSchema":` + schemaText + `}`),
			Access:     access, ArgKinds: map[string]sallyport.ArgKind{"id": sallyport.Authority},
			DataClass: sallyport.Confidential, Integrity: sallyport.Untrusted,
		}
	}
	binding := sallyport.Live
	if stage == sallyport.Sandbox {
		binding = sallyport.Simulate
	}
	plan, err := NewPlan(&sallyport.Release{
		ID: release, Agent: "support", Owner: "team", Tier: sallyport.TierLow,
		Tools:    []sallyport.Tool{tool("look", sallyport.Read), tool("write", sallyport.Changing)},
		Servers:  map[sallyport.UpstreamID]sallyport.PinnedServer{"crm": {Capabilities: json.RawMessage(`{"tools":{}}`)}},
		Policies: []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: policies}},
	}, &sallyport.StageConfig{
		ID: config, Stage: stage,
		Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{"crm": {ID: "crm", Identity: "sha256:dddddddddddddddd", Binding: binding}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, plan: plan, intents: map[sallyport.CallID]bool{}}
	r.run = NewRun(sallyport.Run{
		ID: "run_1", Agent: "support", Release: release, Stage: stage, State: sallyport.RunOpen,
		OpenedBy: "key_host", Labels: sallyport.NewLabels(),
	}, nil)
	clock := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	r.Gateway = New(Config{
		Identities: r, Runs: r, Ledger: r, Plans: r, World: r,
		Stages: map[sallyport.Stage]Backends{sallyport.Staging: r, sallyport.Production: r},
		Now:    func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler), DispatchWithin: 5 * time.Second,
		Ready: func() *sallyport.Refusal { return nil },
	})
	r.SetState(r.decided(1))
	return r
}

const permitAll = `permit (principal, action, resource);`

func (r *rig) decided(epoch int64, halts ...sallyport.Halt) State {
	return State{
		Epoch: epoch, Halts: halts, Configs: map[sallyport.Stage]sallyport.Digest{r.run.Stage: config},
		Pointers: map[Pointer]sallyport.ReleaseID{{"support", r.run.Stage}: release},
	}
}

func (r *rig) Identify(_ context.Context, credential string) (*Identity, error) {
	if credential != "token" {
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "not known", "")
	}
	return &Identity{Key: "key_1", Kind: sallyport.KeyRun, Agent: "support", Run: "run_1"}, nil
}

func (r *rig) Open(context.Context, sallyport.RunID, time.Time) (*Run, error) { return r.run, nil }

func (r *rig) Implicit(context.Context, *Identity, sallyport.ReleaseID, sallyport.Stage, time.Time) (*Run, error) {
	return nil, errors.New("no implicit run was expected")
}

func (r *rig) Plan(_ context.Context, id sallyport.ReleaseID, stage sallyport.Stage, c sallyport.Digest) (*Plan, error) {
	if id != release || stage != r.run.Stage || c != config {
		return nil, sallyport.Refuse(sallyport.NoRelease, "not applied", "")
	}
	return r.plan, nil
}

func (r *rig) Intend(_ context.Context, e *Entry) error {
	if e.Record.Kind != audit.Intent || e.Record.DispatchBy == 0 || len(e.Payload.Salt) != 32 {
		r.t.Errorf("not an intent: %+v", e.Record)
	}
	if r.onIntend != nil {
		if err := r.onIntend(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	if _, again := r.intents[e.Record.Call]; again {
		r.t.Errorf("%s is intended twice", e.Record.Call)
	}
	r.intents[e.Record.Call] = true
	r.events = append(r.events, "intent")
	r.mu.Unlock()
	if r.afterIntend != nil {
		return r.afterIntend()
	}
	return nil
}

func (r *rig) Conclude(ctx context.Context, e *Entry) error {
	if err := ctx.Err(); err != nil {
		r.t.Errorf("an outcome must outlive its caller: %v", err)
	}
	if r.onConclude != nil {
		if err := r.onConclude(); err != nil {
			return err
		}
	}
	if _, err := e.Record.AppendJSON(nil); err != nil {
		r.t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := e.Record.Outcome != sallyport.OutcomeRefused && e.Record.Access != sallyport.Read && e.Record.Binding == sallyport.Live &&
		!slices.Contains([]sallyport.Kind{sallyport.KindElicitation, sallyport.KindSampling, sallyport.KindRoots}, e.Record.CallKind) // asked of the client
	if changed && !r.intents[e.Record.Call] {
		r.t.Errorf("%s changed something without an intent", e.Record.Call)
	}
	r.outcomes = append(r.outcomes, e)
	r.events = append(r.events, "outcome")
	return nil
}

func (r *rig) Backend(*sallyport.StageUpstream) (Backend, error) { return r, nil }
func (r *rig) Tell(context.Context, *Session, []byte)            {}
func (r *rig) Forget(*Session)                                   {}

func (r *rig) Do(ctx context.Context, q *Request) (*Response, error) {
	if r.do != nil {
		return r.do(ctx, q)
	}
	if err := r.write(q); err != nil {
		return nil, err
	}
	return respond(r.t), nil
}

// write is what every backend does before its first byte and after its last.
func (r *rig) write(q *Request) error {
	if err := q.BeforeWrite(); err != nil {
		return err
	}
	r.mu.Lock()
	if q.Message.Name == "write" && len(r.intents) == 0 {
		r.t.Error("a change is written before its intent is durable")
	}
	r.events = append(r.events, "write")
	r.mu.Unlock()
	q.AfterWrite()
	return nil
}

func (r *rig) Answer(context.Context, *sallyport.Simulated) (*sallyport.Simulation, error) {
	if r.answer != nil {
		result, err := r.answer()
		return &sallyport.Simulation{Result: result, Grade: sallyport.GradeSchema, Refused: r.fault}, err
	}
	return &sallyport.Simulation{Result: []byte(`{"content":[]}`), Grade: sallyport.GradeSchema}, nil
}

func respond(t *testing.T) *Response {
	m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[],"n":12345678901234567890}}`), wire.Limits{})
	if err != nil {
		t.Error(err)
	}
	return &Response{Message: m}
}

func exchange(t *testing.T, tool, args string) *Exchange {
	t.Helper()
	m, err := wire.Scan(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, args), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return &Exchange{Credential: "token", Kind: sallyport.KindTool, Message: m}
}

func (r *rig) call(tool string) Reply {
	r.t.Helper()
	return r.Call(context.Background(), exchange(r.t, tool, `{"id":"1"}`))
}

// expect checks the one outcome, the refusal (none for "") and what happened, in
// order.
func (r *rig) expect(reply Reply, code sallyport.Code, outcome sallyport.Outcome, events ...string) {
	r.t.Helper()
	var got sallyport.Code
	if reply.Refusal != nil {
		got = reply.Refusal.Code
	}
	if got != code || (reply.Result == nil) != (code != "") {
		r.t.Errorf("refusal %v, result %s; want %q", reply.Refusal, reply.Result, code)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.events, events) {
		r.t.Errorf("happened: %v, want %v", r.events, events)
	}
	if outcome == 0 {
		if len(r.outcomes) > 0 {
			r.t.Errorf("%d outcomes", len(r.outcomes))
		}
	} else if len(r.outcomes) != 1 || r.outcomes[0].Record.Outcome != outcome {
		r.t.Errorf("outcomes %+v, want one of %s", r.outcomes, outcome)
	}
	if n := r.InFlight(); n != 0 {
		r.t.Errorf("%d calls are still in flight", n)
	}
}

func TestPipelineOrder(t *testing.T) {
	want := []string{
		"authenticate", "resolve", "halt", "validate", "label in", "inspect", "rewrite", "authorize", "limit", "definition", "approve", "breaker",
		"intend", "execute", "guard response", "account", "label out",
	}
	if got := New(Config{}).Path(); !slices.Equal(got, want) {
		t.Fatalf("the order is part of the security argument\n got %q\nwant %q", got, want)
	}
}

func TestRecordBeforeEffect(t *testing.T) {
	r := newRig(t, sallyport.Production, permitAll)
	reply := r.call("write")
	r.expect(reply, "", sallyport.OutcomeOK, "intent", "write", "outcome")
	if string(reply.Result) != `{"content":[],"n":12345678901234567890}` {
		t.Errorf("the result is not the upstream's: %s", reply.Result)
	}
	if got := r.run.Labels(); got.Integrity != sallyport.Untrusted || got.Confidentiality != sallyport.Confidential {
		t.Errorf("the run knows %+v", got)
	}

	r = newRig(t, sallyport.Production, permitAll)
	r.expect(r.call("look"), "", sallyport.OutcomeOK, "write", "outcome") // a read has no intent
}

func TestIntendFails(t *testing.T) {
	broken := func() error { return errors.New("the disk is full") }
	r := newRig(t, sallyport.Production, permitAll)
	r.onIntend = broken
	r.expect(r.call("write"), sallyport.Internal500, sallyport.OutcomeRefused, "outcome")

	r = newRig(t, sallyport.Production, permitAll)
	r.afterIntend = broken // it is durable, and nobody knows: the fake sees that it is closed
	r.expect(r.call("write"), sallyport.Internal500, sallyport.OutcomeRefused, "intent", "outcome")

	r = newRig(t, sallyport.Production, permitAll)
	r.onIntend = func() error { return sallyport.Refuse(sallyport.Halted, "stopped", "") }
	r.expect(r.call("write"), sallyport.Halted, sallyport.OutcomeRefused, "outcome")
}

func TestConcludeFails(t *testing.T) {
	for tool, events := range map[string][]string{"write": {"intent", "write"}, "look": {"write"}} {
		r := newRig(t, sallyport.Production, permitAll)
		r.onConclude = func() error { return errors.New("the disk is full") }
		r.expect(r.call(tool), sallyport.RecordFailed, 0, events...)
		if r.run.Labels() != sallyport.NewLabels() {
			t.Error("the run learned from a result that nobody saw")
		}
	}
}

var stop = sallyport.Halt{Scope: sallyport.HaltTool, Subject: "crm/write", Reason: "wrong"}

func TestHaltBefore(t *testing.T) {
	r := newRig(t, sallyport.Production, permitAll)
	report := r.Halt(context.Background(), stop)
	if report.Applied.IsZero() || report.Confirmed.IsZero() || len(report.InFlight) > 0 || report.Stopped > 0 {
		t.Errorf("%+v", report)
	}
	r.expect(r.call("write"), sallyport.Halted, sallyport.OutcomeRefused, "outcome")
	if reply := r.call("look"); reply.Refusal != nil {
		t.Errorf("a halt of one tool stopped another: %v", reply.Refusal)
	}
	// A state that does not know the halt yet does not end it; one that has read
	// it and then dropped it does.
	r.SetState(r.decided(2))
	if reply := r.call("write"); reply.Refusal == nil {
		t.Error("a halt was lost before it was recorded")
	}
	r.SetState(r.decided(3, stop))
	r.SetState(r.decided(4))
	r.SetState(r.decided(2, stop)) // older: ignored
	if reply := r.call("write"); reply.Refusal != nil {
		t.Error(reply.Refusal)
	}
}

// TestHaltWhileWaiting stops a call that waits for its share of the run's budget: it is
// told that it was halted, or, if its caller went away, that it was cancelled.
func TestHaltWhileWaiting(t *testing.T) {
	for _, code := range []sallyport.Code{sallyport.Halted, sallyport.Cancelled} {
		r := newRig(t, sallyport.Production, permitAll)
		ctx, hangUp := context.WithCancel(t.Context())
		r.run = NewRun(r.run.Run, func(ctx context.Context, _ *sallyport.Run) (int, int, error) {
			if code == sallyport.Cancelled {
				hangUp()
			} else {
				go r.Halt(context.Background(), stop)
			}
			<-ctx.Done()
			return 0, 0, fmt.Errorf("a share: %w", ctx.Err())
		})
		r.expect(r.Call(ctx, exchange(t, "write", `{"id":"1"}`)), code, sallyport.OutcomeRefused, "outcome")
		hangUp()
	}
}

// TestNotReadyWhileWaiting: a call that is not begun, since the store cannot be read, is
// not recorded; one that could not be intended is, for its intent may be there.
func TestNotReadyWhileWaiting(t *testing.T) {
	away := sallyport.Refuse(sallyport.NotReady, "away", "")
	r := newRig(t, sallyport.Production, permitAll)
	r.run = NewRun(r.run.Run, func(context.Context, *sallyport.Run) (int, int, error) { return 0, 0, away })
	r.expect(r.call("write"), sallyport.NotReady, 0)

	r = newRig(t, sallyport.Production, permitAll)
	r.onIntend = func() error { return away }
	r.expect(r.call("write"), sallyport.NotReady, sallyport.OutcomeRefused, "outcome")
}

// TestHaltInFlight halts a call at each place it can be at.
func TestHaltInFlight(t *testing.T) {
	for _, c := range []struct {
		name    string
		written bool
		outcome sallyport.Outcome
		events  []string
	}{
		{"between intent and write", false, sallyport.OutcomeRefused, []string{"intent", "outcome"}},
		{"after the write", true, sallyport.OutcomeUnsettled, []string{"intent", "write", "outcome"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, sallyport.Production, permitAll)
			there := make(chan struct{})
			r.do = func(ctx context.Context, q *Request) (*Response, error) {
				if c.written {
					if err := r.write(q); err != nil {
						return nil, err
					}
				}
				close(there)
				<-ctx.Done() // the halt cancels it
				if !c.written {
					if err := r.write(q); err != nil {
						return nil, err
					}
				}
				return nil, ctx.Err()
			}
			replies := make(chan Reply, 1)
			x := exchange(t, "write", `{"id":"1"}`)
			go func() { replies <- r.Call(context.Background(), x) }()
			<-there
			report := r.Halt(context.Background(), stop)
			r.expect(<-replies, sallyport.Halted, c.outcome, c.events...)
			if report.Confirmed.IsZero() {
				t.Error("not confirmed")
			}
			if c.written && (!slices.Equal(report.InFlight, []sallyport.CallID{x.ID}) || report.Stopped != 0) {
				t.Errorf("%+v does not list %s", report, x.ID)
			}
			if !c.written && (len(report.InFlight) > 0 || report.Stopped != 1) {
				t.Errorf("%+v: the call was never sent", report)
			}
		})
	}

	r := newRig(t, sallyport.Production, permitAll)
	r.afterIntend = func() error { // durable, and then the halt comes
		r.SetState(r.decided(2, stop))
		return nil
	}
	r.expect(r.call("write"), sallyport.Halted, sallyport.OutcomeRefused, "intent", "outcome")
}

// TestHaltNotConfirmed: a writer that does not come back is not waited for
// beyond the caller's patience, and is listed.
func TestHaltNotConfirmed(t *testing.T) {
	r := newRig(t, sallyport.Production, permitAll)
	there, free := make(chan struct{}), make(chan struct{})
	r.do = func(_ context.Context, q *Request) (*Response, error) {
		if err := q.BeforeWrite(); err != nil {
			return nil, err
		}
		close(there)
		<-free
		return nil, context.Canceled
	}
	done := make(chan Reply, 1)
	go func() { done <- r.call("write") }()
	<-there
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	report := r.Halt(ctx, stop)
	close(free)
	r.expect(<-done, sallyport.Halted, sallyport.OutcomeUnsettled, "intent", "outcome")
	if !report.Confirmed.IsZero() || len(report.InFlight) != 1 {
		t.Errorf("%+v", report)
	}
}

// TestIntentTooOld: a call that waited longer than its intent allows is not sent.
func TestIntentTooOld(t *testing.T) {
	r := newRig(t, sallyport.Production, permitAll)
	r.do = func(_ context.Context, q *Request) (*Response, error) {
		later := r.Now().Add(6 * time.Second)
		r.Now = func() time.Time { return later }
		return nil, r.write(q)
	}
	r.expect(r.call("write"), sallyport.DeadlineExceeded, sallyport.OutcomeRefused, "intent", "outcome")
}

// TestSandboxWall forges what a plan would never hold: a live binding in the
// sandbox. Nothing is reached, even if somebody wired backends for it.
func TestSandboxWall(t *testing.T) {
	for _, wired := range []bool{false, true} {
		for _, binding := range []sallyport.Binding{sallyport.Live, sallyport.Shadow, sallyport.Hybrid, sallyport.Defer, 0} {
			r := newRig(t, sallyport.Sandbox, permitAll)
			r.do = func(context.Context, *Request) (*Response, error) {
				t.Error("a sandbox call reached a backend")
				return nil, errors.New("reached")
			}
			if wired {
				r.Stages[sallyport.Sandbox] = r
			}
			for _, tool := range r.plan.ordered {
				tool.Binding = binding
			}
			for _, u := range r.plan.upstreams {
				u.Binding = binding
			}
			for _, tool := range []string{"look", "write"} {
				if reply := r.call(tool); reply.Refusal == nil || reply.Refusal.Code != sallyport.UpstreamUnavailable && reply.Refusal.Code != sallyport.BindingOff {
					t.Errorf("binding %s: %+v", binding, reply)
				}
			}
		}
	}
	// And sandbox data never answers a production call.
	r := newRig(t, sallyport.Production, permitAll)
	r.plan.tools["look"].Binding = sallyport.Simulate
	r.expect(r.call("look"), sallyport.UpstreamUnavailable, sallyport.OutcomeRefused, "outcome")
	if code := r.outcomes[0].Record.Refusal.Code; code != sallyport.StageWall {
		t.Errorf("the log says %s", code) // and the agent is not told where it is
	}

	release := *r.plan.Release
	if _, err := NewPlan(&release, &sallyport.StageConfig{Stage: sallyport.Sandbox, Upstreams: r.plan.Config.Upstreams}); err == nil {
		t.Error("a live binding in the sandbox was planned")
	}
}

func TestSimulated(t *testing.T) {
	r := newRig(t, sallyport.Sandbox, permitAll)
	r.expect(r.call("write"), "", sallyport.OutcomeOK, "outcome")
	if g := r.outcomes[0].Record.Grade; g != sallyport.GradeSchema {
		t.Errorf("grade %s", g)
	}
}

// TestSimulatedFaults: what a world withholds after a call had its effect is in the
// record; a call that had none is refused. Either way a caller cannot tell which.
func TestSimulatedFaults(t *testing.T) {
	for _, c := range []struct {
		tool, result, want string
		outcome            sallyport.Outcome
	}{
		{"write", `{"content":[]}`, "too late; it may have taken effect", sallyport.OutcomeOK},
		{"write", "", "too late; it may have taken effect", sallyport.OutcomeRefused},
		{"look", `{"content":[]}`, "too late", sallyport.OutcomeRefused},
	} {
		r := newRig(t, sallyport.Sandbox, permitAll)
		r.fault, r.answer = sallyport.Refuse(sallyport.DeadlineExceeded, "too late", ""), func() ([]byte, error) {
			if c.result == "" {
				return nil, nil
			}
			return []byte(c.result), nil
		}
		reply := r.call(c.tool)
		r.expect(reply, sallyport.DeadlineExceeded, c.outcome, "outcome")
		e := r.outcomes[0]
		if reply.Refusal == nil || reply.Refusal.Reason != c.want || e.Record.Grade != sallyport.GradeSchema || string(e.Payload.Result) != c.result {
			t.Errorf("%s %s: %v, grade %s, result %s", c.tool, c.result, reply.Refusal, e.Record.Grade, e.Payload.Result)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, policies, tool, args string
		spent                      bool
		want                       sallyport.Code
	}{
		{"default deny", `permit (principal, action == Action::"crm/look", resource);`, "write", `{"id":"1"}`, false, sallyport.Denied},
		{"forbidden", permitAll + `forbid (principal, action == Action::"crm/write", resource);`, "write", `{"id":"1"}`, false, sallyport.Denied},
		{"unknown tool", permitAll, "drop_everything", `{}`, false, sallyport.UnknownTool},
		{"another case", permitAll, "Write", `{"id":"1"}`, false, sallyport.UnknownTool},
		{"wrong arguments", permitAll, "write", `{"id":1}`, false, sallyport.InvalidArguments},
		{"more arguments", permitAll, "write", `{"id":"1","x":2}`, false, sallyport.InvalidArguments},
		{"no budget", permitAll, "write", `{"id":"1"}`, true, sallyport.OverBudget},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, sallyport.Production, c.policies)
			if c.spent {
				r.run.Envelope.MaxCalls, r.run.calls = 3, 3
			}
			r.expect(r.Call(context.Background(), exchange(t, c.tool, c.args)), c.want, sallyport.OutcomeRefused, "outcome")
		})
	}

	r := newRig(t, sallyport.Production, permitAll)
	x := exchange(t, "write", `{"id":"1"}`)
	x.Credential = "other"
	r.expect(r.Call(context.Background(), x), sallyport.Unauthenticated, 0) // nobody's call leaves no record

	r = newRig(t, sallyport.Production, permitAll)
	r.run.Envelope.Tools = []string{"look"}
	r.expect(r.call("write"), sallyport.UnknownTool, sallyport.OutcomeRefused, "outcome")

	r = newRig(t, sallyport.Production, permitAll)
	r.run.Envelope.MaxCalls = 2
	for i, want := range []bool{true, true, false} {
		if reply := r.call("look"); (reply.Refusal == nil) != want {
			t.Errorf("call %d: %v", i, reply.Refusal)
		}
	}
}

// TestHeadersOfArguments: a client without sessions repeats the arguments that the
// tool's schema names, and what it repeats is what it says.
func TestHeadersOfArguments(t *testing.T) {
	for _, c := range []struct {
		name   string
		header string // of the argument; "-" for none
		era    wire.Era
		want   sallyport.Code
	}{
		{"as it is", "1", wire.Stateless, ""},
		{"encoded", "=?base64?MQ==?=", wire.Stateless, ""},
		{"another", "2", wire.Stateless, sallyport.HeaderMismatch},
		{"not base64", "=?base64?M!?=", wire.Stateless, sallyport.HeaderMismatch},
		{"missing", "-", wire.Stateless, sallyport.HeaderMismatch},
		{"missing in a session", "-", wire.Sessions, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, sallyport.Production, permitAll)
			r.plan.tools["write"].ParamHeaders = []wire.ParamHeader{{Header: "Key", Path: []string{"id"}, Type: "string"}}
			x := exchange(t, "write", `{"id":"1"}`)
			x.Era, x.Headers = c.era, http.Header{}
			if c.era == wire.Sessions {
				r.plan.tools["write"].Stage.Transport.Era, x.Session = wire.Version20251125, &Session{Key: "key_1"}
			}
			if c.header != "-" {
				x.Headers.Set("Mcp-Param-Key", c.header)
			}
			if c.want != "" {
				r.expect(r.Call(context.Background(), x), c.want, sallyport.OutcomeRefused, "outcome")
				return
			}
			r.expect(r.Call(context.Background(), x), "", sallyport.OutcomeOK, "intent", "write", "outcome")
		})
	}
}

// TestPanic: a panic is an outcome, and tells the caller nothing.
func TestPanic(t *testing.T) {
	for _, c := range []struct {
		name    string
		written bool
		outcome sallyport.Outcome
		events  []string
	}{
		{"before the write", false, sallyport.OutcomeRefused, []string{"intent", "outcome"}},
		{"after the write", true, sallyport.OutcomeUnsettled, []string{"intent", "write", "outcome"}},
	} {
		r := newRig(t, sallyport.Production, permitAll)
		r.do = func(_ context.Context, q *Request) (*Response, error) {
			if c.written {
				if err := r.write(q); err != nil {
					return nil, err
				}
			}
			panic("secret insides")
		}
		reply := r.call("write")
		r.expect(reply, sallyport.Internal500, c.outcome, c.events...)
		if strings.Contains(reply.Refusal.Error(), "secret") {
			t.Errorf("%s: %v", c.name, reply.Refusal)
		}
	}
	r := newRig(t, sallyport.Sandbox, permitAll)
	r.answer = func() ([]byte, error) { panic("secret insides") }
	r.expect(r.call("write"), sallyport.Internal500, sallyport.OutcomeRefused, "outcome")
}

// TestHungUp: the caller goes away after a change was written. What it did is
// unknown, and that is recorded; a read just did not happen.
func TestHungUp(t *testing.T) {
	for tool, c := range map[string]struct {
		outcome sallyport.Outcome
		events  []string
	}{
		"write": {sallyport.OutcomeUnsettled, []string{"intent", "write", "outcome"}},
		"look":  {sallyport.OutcomeRefused, []string{"write", "outcome"}},
	} {
		r := newRig(t, sallyport.Production, permitAll)
		ctx, cancel := context.WithCancel(context.Background())
		r.do = func(ctx context.Context, q *Request) (*Response, error) {
			if err := r.write(q); err != nil {
				return nil, err
			}
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		r.expect(r.Call(ctx, exchange(t, tool, `{"id":"1"}`)), sallyport.Cancelled, c.outcome, c.events...)
	}
}
