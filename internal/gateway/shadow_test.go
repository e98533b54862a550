package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/wire"
)

// steps are what an engine of shadows says, one after the other.
type steps []sallyport.ShadowStep

func (s *steps) Shadow(context.Context, *sallyport.Shadowed) (*sallyport.ShadowStep, error) {
	if len(*s) == 0 {
		return nil, errors.New("no more steps")
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next, nil
}

type freely struct{}

func (freely) Take(context.Context, string, sallyport.Rate) (time.Duration, error) { return 0, nil }

// newShadowRig is a rig whose tools are bound to shadow.
func newShadowRig(t *testing.T, says ...sallyport.ShadowStep) *rig {
	t.Helper()
	r := newRig(t, sallyport.Production, permitAll)
	u := r.plan.Config.Upstreams["crm"]
	u.Binding, u.World = sallyport.Shadow, sallyport.WorldRef{Name: "over", Digest: "sha256:eeeeeeeeeeeeeeee"}
	u.Rate = &sallyport.Rate{Calls: 1, Per: time.Second}
	c := *r.plan.Config
	c.Upstreams = map[sallyport.UpstreamID]sallyport.StageUpstream{"crm": u}
	var err error
	if r.plan, err = NewPlan(r.plan.Release, &c); err != nil {
		t.Fatal(err)
	}
	all := steps(says)
	r.Shadows, r.Rates = &all, freely{}
	return r
}

// TestShadowNeverWrites: whatever the engine says, and in whatever order, a change is
// never sent; neither is it where the mark of a read has been lost on the way.
func TestShadowNeverWrites(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		step := rapid.Custom(func(t *rapid.T) sallyport.ShadowStep {
			var s sallyport.ShadowStep
			s.Pass, s.Own = rapid.Bool().Draw(t, "pass"), rapid.Bool().Draw(t, "own")
			if rapid.Bool().Draw(t, "ask") {
				s.Ask = &sallyport.LiveRead{Tool: rapid.SampledFrom([]string{"look", "write", "nothing"}).Draw(t, "of"), Args: []byte(`{"id":"1"}`)}
			}
			if rapid.Bool().Draw(t, "result") {
				s.Result = []byte(`{"content":[]}`)
			}
			s.Opaque = rapid.SampledFrom([]string{"", "why"}).Draw(t, "opaque")
			return s
		})
		r := newShadowRig(t, rapid.SliceOfN(step, 0, 4).Draw(rt, "steps")...)
		r.do = func(_ context.Context, q *Request) (*Response, error) {
			if q.Message.Name == "write" {
				rt.Error("a change is sent")
			}
			if err := r.write(q); err != nil {
				return nil, err
			}
			return respond(t), nil
		}
		for _, tool := range []string{"write", "look"} {
			r.call(tool)
		}
	})
	r := newShadowRig(t)
	x := exchange(t, "write", `{"id":"1"}`)
	x.Kind, x.Stage, x.Tool, x.Upstream, x.flight = sallyport.KindTool, sallyport.Production, r.plan.tools["write"], r.plan.tools["write"].Stage, &flight{}
	var refusal *sallyport.Refusal
	if err := r.live(t.Context(), x); !errors.As(err, &refusal) || refusal.Code != sallyport.StageWall {
		t.Errorf("where the request is made: %v", err)
	}
	if err := r.beforeWrite(x); !errors.As(err, &refusal) || refusal.Code != sallyport.StageWall || x.flight.sent() {
		t.Errorf("before the first byte: %v", err)
	}
	r.Shadows = nil
	if got := r.call("look"); got.Refusal == nil || got.Refusal.Code != sallyport.UpstreamUnavailable {
		t.Errorf("without an engine: %+v", got)
	}
}

// TestShadowRecords: what the live system said is kept where another answer goes out,
// what a change needs is read by a call of its own under the same number, and where the
// evidence ends the records say so from there on.
func TestShadowRecords(t *testing.T) {
	live := []byte(`{"content":[],"n":12345678901234567890}`)
	r := newShadowRig(t,
		sallyport.ShadowStep{Pass: true}, sallyport.ShadowStep{Result: []byte(`{"content":[],"n":1}`)},
		sallyport.ShadowStep{Pass: true}, sallyport.ShadowStep{Result: live},
		sallyport.ShadowStep{Ask: &sallyport.LiveRead{Tool: "look", Args: []byte(`{"id":"7"}`)}}, sallyport.ShadowStep{Result: live, Own: true},
		sallyport.ShadowStep{Opaque: "cannot be known"},
		sallyport.ShadowStep{Pass: true}, sallyport.ShadowStep{Result: live},
	)
	for i, tool := range []string{"look", "look", "write", "write", "look"} {
		reply := r.call(tool)
		if refused := reply.Refusal != nil; refused != (i == 3) || refused && reply.Refusal.Code != sallyport.UpstreamUnavailable {
			t.Fatalf("call %d: %+v", i, reply)
		}
		if i == 0 && string(reply.Result) != `{"content":[],"n":1}` || i == 1 && string(reply.Result) != string(live) {
			t.Errorf("call %d is answered %s", i, reply.Result)
		}
	}
	type line struct {
		Tool   string
		Number int64
		Sent   bool
		Opaque string
	}
	var got []line
	for _, e := range r.outcomes {
		got = append(got, line{e.Record.Tool, e.Record.Number, e.Record.ResultSent != "", e.Record.Opaque})
		if e.Record.Binding != sallyport.Shadow || e.Record.Grade != sallyport.GradeShadow || e.Record.World == "" || e.Payload.Arguments == nil {
			t.Errorf("%+v", e.Record)
		}
	}
	want := []line{{"look", 1, true, ""}, {"look", 2, false, ""}, {"look", 3, false, ""}, {"write", 3, false, ""}, {"write", 5, false, "cannot be known"}, {"look", 6, false, "cannot be known"}}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if string(r.outcomes[0].Payload.Result) != string(live) {
		t.Errorf("kept is %s", r.outcomes[0].Payload.Result)
	}
	if len(r.intents) > 0 {
		t.Error("a change that is not sent has an intent")
	}
}

// TestShadowPlans: what could write through the credential of a reader, or has no world
// or no rate, is no plan.
func TestShadowPlans(t *testing.T) {
	r := newShadowRig(t)
	for name, change := range map[string]func(u *sallyport.StageUpstream){
		"live beside it": func(u *sallyport.StageUpstream) { u.Bindings = map[string]sallyport.Binding{"write": sallyport.Live} },
		"under live": func(u *sallyport.StageUpstream) {
			u.Binding, u.Bindings = sallyport.Live, map[string]sallyport.Binding{"look": sallyport.Shadow}
		},
		"no world": func(u *sallyport.StageUpstream) { u.World = sallyport.WorldRef{} },
		"no rate":  func(u *sallyport.StageUpstream) { u.Rate = nil },
	} {
		c := *r.plan.Config
		u := c.Upstreams["crm"]
		change(&u)
		c.Upstreams = map[sallyport.UpstreamID]sallyport.StageUpstream{"crm": u}
		if _, err := NewPlan(r.plan.Release, &c); err == nil {
			t.Errorf("%s is a plan", name)
		}
	}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Staging} {
		c := *r.plan.Config
		c.Stage = stage
		if _, err := NewPlan(r.plan.Release, &c); err == nil {
			t.Errorf("shadow in %s is a plan", stage)
		}
	}
}

// TestShadowAsksNobody: what the live system asks of a client during a read is not passed
// on: the run's other calls wait for this one.
func TestShadowAsksNobody(t *testing.T) {
	r := newShadowRig(t, sallyport.ShadowStep{Pass: true})
	r.do = func(_ context.Context, q *Request) (*Response, error) {
		if q.Ask != nil || q.Judge != nil {
			t.Error("the client can be asked")
		}
		m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{}}}`), wire.Limits{})
		return &Response{Message: m}, err
	}
	x := exchange(t, "look", `{"id":"1"}`)
	x.Session = &Session{ID: "s", Key: "key_1", ClientCapabilities: json.RawMessage(`{"elicitation":{}}`), Ask: func(context.Context, []byte) ([]byte, error) { return nil, nil }}
	if reply := r.Call(t.Context(), x); reply.Refusal == nil || reply.Refusal.Code != sallyport.EraMismatch {
		t.Errorf("%+v", reply)
	}
}
