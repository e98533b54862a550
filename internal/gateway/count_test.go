package gateway

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport"
	"sallyport/internal/limit"
	"sallyport/internal/wire"
)

// abacus counts in memory, as a store does.
type abacus struct {
	mu      sync.Mutex
	windows map[string]*limit.Window
	lost    bool
}

func (a *abacus) at(key string) *limit.Window {
	if a.windows == nil {
		a.windows = map[string]*limit.Window{}
	}
	if a.windows[key] == nil {
		a.windows[key] = &limit.Window{}
	}
	return a.windows[key]
}

func (a *abacus) Spent(_ context.Context, charges []limit.Charge) ([]sallyport.Amount, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]sallyport.Amount, len(charges))
	for i, c := range charges {
		out[i] = a.at(c.Key).Sum(time.Now().UnixMicro())
	}
	return out, nil
}

func (a *abacus) Spend(_ context.Context, charges []limit.Charge) (*limit.Receipt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost {
		return nil, sallyport.Refuse(sallyport.NotReady, "it is gone", "")
	}
	now := time.Now().UnixMicro()
	for _, c := range charges {
		if w := a.at(c.Key); c.Most != nil && !w.Fits(now, c.Amount, *c.Most) {
			o := &limit.Over{Charge: c, Spent: w.Sum(now)}
			var ever bool
			o.Wait, ever = w.Wait(now, c.Amount, *c.Most)
			o.Never = !ever
			return nil, o
		}
	}
	r := &limit.Receipt{Charges: charges}
	for _, c := range charges {
		r.At = append(r.At, a.at(c.Key).Add(now, c.Per, c.Amount))
	}
	return r, nil
}

func (a *abacus) Unspend(_ context.Context, r *limit.Receipt) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range r.Charges {
		a.at(c.Key).Take(r.At[i], c.Amount)
	}
	return nil
}

// budgeted is a rig whose stage has a counter.
func budgeted(t *testing.T, policies string, c sallyport.Counter) (*wide, *abacus) {
	t.Helper()
	w := newWide(t, policies, func(_ *sallyport.Release, config *sallyport.StageConfig) {
		config.Counters = map[string]sallyport.Counter{"spent": c}
	}, "crm", "mail")
	a := &abacus{}
	w.Counters = a
	return w, a
}

// TestBudget: calls take from it, also those of which nobody knows how they ended; what
// was certainly not sent is given back; and other tools do not care.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := budgeted(t, permitAll, sallyport.Counter{
			Tools: []string{"crm/write"}, Count: sallyport.MeasureCalls, Per: time.Hour, By: []sallyport.CountedBy{sallyport.ByAgent}, Most: new(3 * sallyport.Unit),
		})
		ctx := t.Context()
		succeeded(t, w.tool(ctx, "write"))
		w.on("crm", fails(sallyport.DeadlineExceeded)) // it was sent
		refused(t, w.tool(ctx, "write"), sallyport.DeadlineExceeded)
		w.on("crm", nil)
		// Certainly not sent: it could not be recorded before.
		w.onIntend = func() error { return sallyport.Refuse(sallyport.NotReady, "no", "") }
		refused(t, w.tool(ctx, "write"), sallyport.NotReady)
		w.onIntend = nil
		succeeded(t, w.tool(ctx, "write"))
		before := w.requests("crm")
		r := w.tool(ctx, "write")
		refused(t, r, sallyport.OverBudget)
		if w.requests("crm") != before {
			t.Error("a call beyond the budget was sent")
		}
		if r.Refusal.Detail["counter"] != "spent" || r.Refusal.Detail["most"] != "3" {
			t.Errorf("%v", r.Refusal.Detail)
		}
		succeeded(t, w.tool(ctx, "look"))
		succeeded(t, w.tool(ctx, "mail__write"))
		time.Sleep(time.Hour + 2*time.Minute)
		succeeded(t, w.tool(ctx, "write"))
		a.lost = true
		refused(t, w.tool(ctx, "write"), sallyport.NotReady)
		succeeded(t, w.tool(ctx, "look"))
		w.Counters = nil
		refused(t, w.tool(ctx, "write"), sallyport.Internal500)
	})
}

// TestBudgetOfResults: what came back and does not fit is withheld; what fits is counted
// as the agent gets it.
func TestBudgetOfResults(t *testing.T) {
	w, _ := budgeted(t, permitAll, sallyport.Counter{
		Tools: []string{"crm/*"}, Count: sallyport.MeasureResult, Of: "/items", Per: time.Hour, Most: new(5 * sallyport.Unit),
	})
	ctx := t.Context()
	items := func(text string) {
		w.on("crm", func(context.Context, *Request) (*Response, error) {
			return w.says(`{"content":[],"structuredContent":{"items":` + text + `}}`), nil
		})
	}
	items(`[1,2,3]`)
	succeeded(t, w.tool(ctx, "look"))
	r := w.tool(ctx, "look")
	refused(t, r, sallyport.OverBudget)
	if r.Result != nil {
		t.Error("what did not fit was released")
	}
	items(`[1,2]`)
	succeeded(t, w.tool(ctx, "look"))
	before := w.requests("crm")
	refused(t, w.tool(ctx, "look"), sallyport.OverBudget) // there is nothing left, so nothing is asked
	if w.requests("crm") != before {
		t.Error("it was asked though nothing could be released")
	}
}

// TestCountersInPolicy: policy is told what there is and what the call adds.
func TestCountersInPolicy(t *testing.T) {
	w, _ := budgeted(t, permitAll+`@id("twice") forbid (principal, action == Action::"mail/write", resource) when { context.counters.spent.before >= 2 };
		@id("thrice") forbid (principal, action == Action::"crm/write", resource) when { context.counters.spent.after > 3 };`, sallyport.Counter{
		Tools: []string{"crm/write"}, Count: sallyport.MeasureCalls, Per: time.Hour,
	})
	ctx := t.Context()
	succeeded(t, w.tool(ctx, "write"))
	succeeded(t, w.tool(ctx, "mail__write"))
	succeeded(t, w.tool(ctx, "write"))
	refused(t, w.tool(ctx, "mail__write"), sallyport.Denied)
	succeeded(t, w.tool(ctx, "write"))
	refused(t, w.tool(ctx, "write"), sallyport.Denied)
}

// TestDeclared: what an agent says of a call reaches policy, and what cannot be read is
// refused.
func TestDeclared(t *testing.T) {
	w := newWide(t, permitAll+`forbid (principal, action == Action::"crm/write", resource) when { context.declared has confidence && context.declared.confidence < 700 };
		forbid (principal, action == Action::"crm/write", resource) when { context.declared.missing.contains("customer.age") };`, nil, "crm")
	for _, tt := range []struct {
		meta string
		want sallyport.Code
	}{
		{`{}`, ""},
		{`{"sallyport/confidence":0.7}`, ""},
		{`{"sallyport/confidence":1}`, ""},
		{`{"sallyport/confidence":0.6999}`, sallyport.Denied},
		{`{"sallyport/confidence":0}`, sallyport.Denied},
		{`{"sallyport/missing":["order","customer.age"]}`, sallyport.Denied},
		{`{"sallyport/missing":["order"]}`, ""},
		{`{"sallyport/confidence":1.1}`, sallyport.BadRequest},
		{`{"sallyport/confidence":-0.1}`, sallyport.BadRequest},
		{`{"sallyport/confidence":"0.9"}`, sallyport.BadRequest},
		{`{"sallyport/confidence":null}`, sallyport.BadRequest},
		{`{"sallyport/missing":"order"}`, sallyport.BadRequest},
		{`{"sallyport/missing":["a customer's age"]}`, sallyport.BadRequest},
		{`{"sallyport/missing":[1]}`, sallyport.BadRequest},
	} {
		r := w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"write","arguments":{"id":"1"},"_meta":`+tt.meta+`}`, nil))
		if tt.want == "" && r.Refusal != nil || tt.want != "" && (r.Refusal == nil || r.Refusal.Code != tt.want) {
			t.Errorf("%s: want %q, got %v", tt.meta, tt.want, r.Refusal)
		}
	}
}

// TestBreakerOfOneTool: a tool that does not answer, or too late, cuts off itself alone.
func TestBreakerOfOneTool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, permitAll, func(_ *sallyport.Release, c *sallyport.StageConfig) {
			u := c.Upstreams["crm"]
			u.Slow = 10 * time.Second
			c.Upstreams["crm"] = u
		}, "crm")
		ctx := t.Context()
		slow := true
		w.on("crm", func(_ context.Context, q *Request) (*Response, error) {
			if q.Message.Name == "look" && slow {
				time.Sleep(11 * time.Second)
			}
			return respond(t), nil
		})
		for range 5 {
			succeeded(t, w.tool(ctx, "look")) // late, and an answer all the same
		}
		refused(t, w.tool(ctx, "look"), sallyport.UpstreamUnavailable)
		succeeded(t, w.tool(ctx, "write"))
		if b := w.Breakers(); len(b) != 1 || b[0].Tool != "look" || b[0].State != "open" || b[0].Upstream != "crm" {
			t.Errorf("%+v", b)
		}
		slow = false
		time.Sleep(5*time.Second + time.Nanosecond)
		succeeded(t, w.tool(ctx, "look"))
		if b := w.Breakers(); len(b) != 0 {
			t.Errorf("%+v", b)
		}
	})
}

// TestSuspend: a run that is denied again and again, or goes round in circles, is halted;
// whatever breaks the row begins it anew.
func TestSuspend(t *testing.T) {
	var halts []sallyport.Halt
	w := newWide(t, `permit (principal, action == Action::"crm/look", resource);`, func(_ *sallyport.Release, c *sallyport.StageConfig) {
		c.Suspend = &sallyport.Suspend{Denials: 4, Repeats: 5}
	}, "crm")
	w.Gateway.Suspend = func(h sallyport.Halt) {
		halts = append(halts, h)
		stopped, cancel := context.WithCancel(t.Context())
		cancel()
		w.Halt(stopped, h)
	}
	ctx := t.Context()
	for range 3 {
		for range 3 {
			refused(t, w.tool(ctx, "write"), sallyport.Denied)
		}
		succeeded(t, w.tool(ctx, "look"))
	}
	for range 4 {
		refused(t, w.tool(ctx, "write"), sallyport.Denied)
	}
	refused(t, w.tool(ctx, "look"), sallyport.Halted)
	if len(halts) != 1 || halts[0].Scope != sallyport.HaltRun || halts[0].By != sallyport.HaltedByConduct {
		t.Fatalf("%+v", halts)
	}

	w = newWide(t, permitAll, func(_ *sallyport.Release, c *sallyport.StageConfig) { c.Suspend = &sallyport.Suspend{Repeats: 5} }, "crm")
	w.Gateway.Suspend = func(h sallyport.Halt) { halts = append(halts, h) }
	halts = nil
	same := false
	n := 0
	w.on("crm", func(context.Context, *Request) (*Response, error) {
		if n++; same {
			return respond(t), nil
		}
		return w.says(fmt.Sprintf(`{"content":[],"n":%d}`, n)), nil
	})
	for range 10 {
		succeeded(t, w.tool(ctx, "look")) // another answer each time: a status that is watched
	}
	same = true
	for i := range 5 {
		if len(halts) > 0 {
			t.Fatalf("halted after %d", i)
		}
		succeeded(t, w.tool(ctx, "look"))
	}
	if len(halts) != 1 {
		t.Errorf("%+v", halts)
	}
}

// TestNothingIsRepeated: whatever a request ends with, there is one.
func TestNothingIsRepeated(t *testing.T) {
	for _, code := range []sallyport.Code{
		sallyport.UpstreamUnavailable, sallyport.UpstreamProtocol, sallyport.DeadlineExceeded, sallyport.RateLimited, sallyport.Cancelled, sallyport.Internal500, sallyport.OutcomeUnknown,
	} {
		for _, tool := range []string{"look", "write"} {
			w := newWide(t, permitAll, nil, "crm")
			w.on("crm", fails(code))
			w.tool(t.Context(), tool)
			if n := w.requests("crm"); n != 1 {
				t.Errorf("%s that ended with %s: %d requests", tool, code, n)
			}
		}
	}
}
