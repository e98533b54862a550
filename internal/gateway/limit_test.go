package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport"
)

// TestBreaker walks one through its states: closed, open after five failures in a
// row, half-open after five seconds, when one call at a time may try.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, permitAll, nil, "crm", "mail")
		w.on("crm", fails(sallyport.UpstreamUnavailable))
		ctx := t.Context()
		tries := func(n, reach int, want sallyport.Code) {
			t.Helper()
			before := w.requests("crm")
			for range n {
				refused(t, w.tool(ctx, "look"), want)
			}
			if got := w.requests("crm") - before; got != reach {
				t.Errorf("%d of %d calls reached the upstream, want %d", got, n, reach)
			}
		}
		tries(5, 5, sallyport.UpstreamUnavailable)
		tries(3, 0, sallyport.UpstreamUnavailable)
		// The breaker of one upstream never touches another.
		for range 10 {
			succeeded(t, w.tool(ctx, "mail__look"))
		}
		// A change that is refused by it leaves no intent behind.
		intents := len(w.intents)
		refused(t, w.tool(ctx, "write"), sallyport.UpstreamUnavailable)
		if len(w.intents) != intents {
			t.Error("a dead upstream left an intent behind")
		}
		time.Sleep(5*time.Second - time.Nanosecond)
		tries(1, 0, sallyport.UpstreamUnavailable)
		time.Sleep(2 * time.Nanosecond)
		tries(3, 1, sallyport.UpstreamUnavailable) // the first tries, and it is open again

		time.Sleep(5*time.Second + time.Nanosecond)
		free := make(chan struct{})
		w.on("crm", func(context.Context, *Request) (*Response, error) { <-free; return respond(t), nil })
		var first Reply
		var wait sync.WaitGroup
		wait.Go(func() { first = w.tool(ctx, "look") })
		synctest.Wait()
		tries(3, 0, sallyport.UpstreamUnavailable) // one tries, the others do not wait for it
		close(free)
		wait.Wait()
		succeeded(t, first)
		w.on("crm", nil)
		for range 10 {
			succeeded(t, w.tool(ctx, "look"))
		}
	})
}

// TestBreakerCounts says which ends of a call count against its upstream, and
// which for it. What says nothing of it neither opens a breaker nor closes one.
func TestBreakerCounts(t *testing.T) {
	type end = func(*wide) func(context.Context, *Request) (*Response, error)
	fail := func(code sallyport.Code) end {
		return func(*wide) func(context.Context, *Request) (*Response, error) { return fails(code) }
	}
	for _, c := range []struct {
		name          string
		end           end
		fails, closes bool
	}{
		{"unavailable", fail(sallyport.UpstreamUnavailable), true, false},
		{"broken protocol", fail(sallyport.UpstreamProtocol), true, false},
		{"no answer in time", fail(sallyport.DeadlineExceeded), true, false},
		{"too large", fail(sallyport.ResultTooLarge), false, true},
		{"cancelled by the caller", fail(sallyport.Cancelled), false, false},
		{"of another era", fail(sallyport.EraMismatch), false, false},
		{"an answer", func(*wide) func(context.Context, *Request) (*Response, error) { return nil }, false, true},
		{"an error is an answer", func(w *wide) func(context.Context, *Request) (*Response, error) {
			return func(context.Context, *Request) (*Response, error) {
				return w.says(`{"content":[],"isError":true}`), nil
			}
		}, false, true},
		{"it asks what it may not", func(w *wide) func(context.Context, *Request) (*Response, error) {
			return func(context.Context, *Request) (*Response, error) {
				return w.says(`{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}}}`), nil
			}
		}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWide(t, permitAll, nil, "crm")
				isOpen := func() bool {
					before := w.requests("crm")
					w.tool(t.Context(), "look")
					return w.requests("crm") == before
				}
				w.on("crm", c.end(w))
				for range 5 {
					w.tool(t.Context(), "look")
				}
				if got := isOpen(); got != c.fails {
					t.Errorf("five of these: the breaker is open: %v, want %v", got, c.fails)
				}
				// Four failures, one of these, one failure: an answer begins the row again.
				time.Sleep(time.Minute)
				w = newWide(t, permitAll, nil, "crm")
				for i := range 6 {
					w.on("crm", fails(sallyport.UpstreamUnavailable))
					if i == 4 {
						w.on("crm", c.end(w))
					}
					w.tool(t.Context(), "look")
				}
				if got, want := isOpen(), !c.closes; got != want {
					t.Errorf("in between: the breaker is open: %v, want %v", got, want)
				}
				// In a half-open breaker.
				w = newWide(t, permitAll, nil, "crm")
				w.on("crm", fails(sallyport.UpstreamUnavailable))
				for range 5 {
					w.tool(t.Context(), "look")
				}
				time.Sleep(5*time.Second + time.Nanosecond)
				w.on("crm", c.end(w))
				w.tool(t.Context(), "look")
				w.on("crm", fails(sallyport.UpstreamUnavailable))
				w.tool(t.Context(), "look") // closed: the first failure of five; half-open: the last
				if got, want := isOpen(), !c.closes; got != want {
					t.Errorf("when it tries: the breaker is open: %v, want %v", got, want)
				}
			})
		})
	}
}

// TestHaltLeavesBreakerAlone: calls that an operator stopped, or that could not
// be recorded, say nothing of their upstream.
func TestHaltLeavesBreakerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, permitAll, nil, "crm")
		w.on("crm", fails(sallyport.UpstreamUnavailable))
		for range 5 {
			w.tool(t.Context(), "look")
		}
		time.Sleep(5*time.Second + time.Nanosecond)
		w.onIntend = func() error { return sallyport.Refuse(sallyport.Halted, "stopped", "") }
		refused(t, w.tool(t.Context(), "write"), sallyport.Halted)
		w.onIntend = nil
		refused(t, w.tool(t.Context(), "look"), sallyport.UpstreamUnavailable) // half-open still: it tries, and is open
		before := w.requests("crm")
		refused(t, w.tool(t.Context(), "look"), sallyport.UpstreamUnavailable)
		if w.requests("crm") != before {
			t.Error("a call that was never sent closed the breaker")
		}
	})
}

// TestPlaces: an upstream has so many places, of its own, and all are given back
// whatever the end of a call is.
func TestPlaces(t *testing.T) {
	limited := func(n int) func(*sallyport.Release, *sallyport.StageConfig) {
		return func(_ *sallyport.Release, c *sallyport.StageConfig) {
			u := c.Upstreams["crm"]
			u.MaxInFlight = n
			c.Upstreams["crm"] = u
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, permitAll, limited(3), "crm", "mail")
		fill := func(w *wide, n int) (release func()) {
			free := make(chan struct{})
			w.on("crm", func(context.Context, *Request) (*Response, error) { <-free; return respond(t), nil })
			var wait sync.WaitGroup
			for range n {
				wait.Go(func() { succeeded(t, w.tool(t.Context(), "look")) })
			}
			synctest.Wait()
			return func() { close(free); wait.Wait(); w.on("crm", nil) }
		}
		release := fill(w, 3)
		refused(t, w.tool(t.Context(), "look"), sallyport.TooBusy)
		refused(t, w.tool(t.Context(), "write"), sallyport.TooBusy)
		if len(w.intents) > 0 {
			t.Error("a call without a place left an intent behind")
		}
		for range 5 {
			succeeded(t, w.tool(t.Context(), "mail__look"))
		}
		// A limit that was lowered counts at once, for calls from then on.
		lower := newWide(t, permitAll, limited(1), "crm", "mail")
		full := w.plan
		w.plan = lower.plan
		w.on("crm", nil)
		succeeded(t, w.tool(t.Context(), "look"))
		inner := fill(w, 1)
		refused(t, w.tool(t.Context(), "look"), sallyport.TooBusy)
		inner()
		w.plan = full
		release()

		ends := []func(context.Context, *Request) (*Response, error){
			nil, fails(sallyport.Cancelled), fails(sallyport.ResultTooLarge),
			func(context.Context, *Request) (*Response, error) { panic("no") },
			func(ctx context.Context, _ *Request) (*Response, error) { <-ctx.Done(); return nil, ctx.Err() },
		}
		for range 4 {
			for _, end := range ends {
				w.on("crm", end)
				if r := w.tool(t.Context(), "look"); r.Refusal != nil && r.Refusal.Code == sallyport.TooBusy {
					t.Fatal("a place was not given back")
				}
			}
		}
		w.onIntend = func() error { return sallyport.Refuse(sallyport.Halted, "stopped", "") }
		for range 4 {
			refused(t, w.tool(t.Context(), "write"), sallyport.Halted)
		}
		if n := w.InFlight(); n != 0 {
			t.Errorf("%d calls are in flight", n)
		}
	})
}

// TestBudgetIsExact: however many calls come at once, no more are made than the
// host allowed, and a refused call is not given back.
func TestBudgetIsExact(t *testing.T) {
	for _, most := range []int{1, 7, 40} {
		w := newWide(t, permitAll, nil, "crm")
		w.run.Envelope.MaxCalls = most
		var made, over atomic.Int64
		var wait sync.WaitGroup
		for range 60 {
			wait.Go(func() {
				switch r := w.tool(context.Background(), "look"); {
				case r.Refusal == nil:
					made.Add(1)
				case r.Refusal.Code == sallyport.OverBudget:
					over.Add(1)
				}
			})
		}
		wait.Wait()
		if int(made.Load()) != most || int(over.Load()) != 60-most || w.requests("crm") != most {
			t.Errorf("of %d allowed calls %d were made, %d reached the upstream", most, made.Load(), w.requests("crm"))
		}
	}
	w := newWide(t, permitAll, nil, "crm")
	w.run.Envelope.MaxCalls = 2
	w.on("crm", fails(sallyport.UpstreamUnavailable))
	for _, want := range []sallyport.Code{sallyport.UpstreamUnavailable, sallyport.UpstreamUnavailable, sallyport.OverBudget} {
		refused(t, w.tool(t.Context(), "look"), want)
	}
	// Listing costs nothing: an agent may look at what there is.
	w.on("crm", resources(w, "file:///1"))
	if names, _, _ := w.listed(w.request(sallyport.KindResource, "resources/list", `{}`, nil)); len(names) != 1 {
		t.Errorf("listed %v", names)
	}
}

// counter is a Rates that gives out what it has, of each key.
type counter struct {
	mu    sync.Mutex
	has   map[string]int
	rates map[string]sallyport.Rate // asked for last
	err   error
	wait  time.Duration
}

func (c *counter) Take(ctx context.Context, key string, r sallyport.Rate) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rates[key] = r
	if c.err != nil || ctx.Err() != nil {
		return 0, errors.Join(c.err, ctx.Err())
	}
	if c.has[key]--; c.has[key] < 0 {
		return c.wait, nil
	}
	return 0, nil
}

// TestRate: calls that reach an upstream with a rate are counted, all of a stage
// together, and refused with a wait when there are none left. Nothing else is counted.
func TestRate(t *testing.T) {
	hourly := sallyport.Rate{Calls: 60, Per: time.Hour}
	limited := func(change func(u *sallyport.StageUpstream)) func(*sallyport.Release, *sallyport.StageConfig) {
		return func(_ *sallyport.Release, c *sallyport.StageConfig) {
			u := c.Upstreams["crm"]
			u.Rate = &hourly
			if change != nil {
				change(&u)
			}
			c.Upstreams["crm"] = u
		}
	}
	rig := func(t *testing.T, has int, change func(u *sallyport.StageUpstream)) (*wide, *counter) {
		w := newWide(t, permitAll, limited(change), "crm", "mail")
		c := &counter{has: map[string]int{"production/crm": has}, rates: map[string]sallyport.Rate{}, wait: 90 * time.Second}
		w.Rates = c
		return w, c
	}
	t.Run("counted", func(t *testing.T) {
		w, c := rig(t, 3, nil)
		w.run.Envelope.MaxCalls = 100
		for range 2 {
			succeeded(t, w.tool(t.Context(), "look"))
		}
		succeeded(t, w.tool(t.Context(), "write"))
		intents, calls := len(w.intents), w.run.Calls()
		for _, name := range []string{"look", "write"} {
			refused(t, w.tool(t.Context(), name), sallyport.RateLimited)
		}
		if w.requests("crm") != 3 || len(w.intents) != intents {
			t.Errorf("%d calls reached the upstream, and there are %d intents more", w.requests("crm"), len(w.intents)-intents)
		}
		if n := w.run.Calls() - calls; n != 2 {
			t.Errorf("two calls that were refused count for %d in the budget", n)
		}
		if c.rates["production/crm"] != hourly || len(c.rates) != 1 {
			t.Errorf("taken from %v", c.rates)
		}
		succeeded(t, w.tool(t.Context(), "mail__look")) // which has no rate
		last := w.outcomes[len(w.outcomes)-2].Record
		if last.Outcome != sallyport.OutcomeRefused || last.Refusal.Detail["retry_after_ms"] != int64(90_000) {
			t.Errorf("recorded %s with %+v", last.Outcome, last.Refusal)
		}
		// Resources count as tools do; lists do not, nor what ends a subscription.
		c.has["production/crm"] = 1
		w.on("crm", resources(w, "file:///1"))
		x := func(method string) *Exchange {
			return w.request(sallyport.KindResource, method, `{"uri":"file:///1"}`, nil)
		}
		w.listed(w.request(sallyport.KindResource, "resources/list", `{}`, nil))
		if r := w.Call(t.Context(), x("resources/read")); r.Refusal != nil {
			t.Error(r.Refusal)
		}
		refused(t, w.Call(t.Context(), x("resources/read")), sallyport.RateLimited)
		if names, _, _ := w.listed(w.request(sallyport.KindResource, "resources/list", `{"cursor":""}`, nil)); len(names) != 1 {
			t.Errorf("without a call left, listed %v", names)
		}
		r := w.Call(t.Context(), w.request(sallyport.KindResource, "resources/unsubscribe", `{"uri":"file:///1"}`, &Session{Key: "key_1"}))
		if r.Refusal != nil {
			t.Error("a subscription cannot be ended:", r.Refusal)
		}
	})
	t.Run("before the place", func(t *testing.T) {
		w, c := rig(t, 0, func(u *sallyport.StageUpstream) { u.MaxInFlight = 1 })
		for range 3 {
			refused(t, w.tool(t.Context(), "look"), sallyport.RateLimited)
		}
		c.has["production/crm"] = 1
		succeeded(t, w.tool(t.Context(), "look")) // none of those holds a place
	})
	t.Run("after policy and budget", func(t *testing.T) {
		w, c := rig(t, 10, nil)
		w.run.Envelope.MaxCalls = 1
		succeeded(t, w.tool(t.Context(), "look"))
		refused(t, w.tool(t.Context(), "look"), sallyport.OverBudget)
		if c.has["production/crm"] != 9 {
			t.Error("a call over its budget was counted")
		}
		w = newWide(t, `forbid (principal, action, resource);`, limited(nil), "crm")
		w.Rates = c
		refused(t, w.tool(t.Context(), "look"), sallyport.Denied)
		if c.has["production/crm"] != 9 {
			t.Error("a denied call was counted")
		}
	})
	t.Run("off", func(t *testing.T) {
		w, c := rig(t, 0, func(u *sallyport.StageUpstream) { u.Bindings = map[string]sallyport.Binding{"look": sallyport.Off} })
		refused(t, w.tool(t.Context(), "look"), sallyport.BindingOff)
		if len(c.rates) != 0 {
			t.Error("what reaches nothing was counted")
		}
	})
	for _, tt := range []struct {
		name string
		err  error
		want sallyport.Code
	}{
		{"not ready", sallyport.Refuse(sallyport.NotReady, "away", ""), sallyport.NotReady},
		{"a fault", errors.New("no"), sallyport.Internal500},
		{"cancelled", context.Canceled, sallyport.Cancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c := rig(t, 10, nil)
			c.err = tt.err
			refused(t, w.tool(t.Context(), "look"), tt.want)
			if w.requests("crm") != 0 {
				t.Error("a call that was not counted reached the upstream")
			}
		})
	}
	t.Run("nothing counts", func(t *testing.T) {
		w, _ := rig(t, 10, nil)
		w.Rates = nil
		refused(t, w.tool(t.Context(), "look"), sallyport.Internal500)
		succeeded(t, w.tool(t.Context(), "mail__look"))
	})
	// What an agent reads, and what it may act on.
	for wait, want := range map[time.Duration]string{
		time.Nanosecond:         "nothing was sent; wait 1 second and call again",
		time.Second:             "nothing was sent; wait 1 second and call again",
		time.Second + 1:         "nothing was sent; wait 2 seconds and call again",
		120 * time.Second:       "nothing was sent; wait 120 seconds and call again",
		120*time.Second + 1:     "nothing was sent; wait 3 minutes and call again",
		24*time.Hour - 1:        "nothing was sent; wait 1440 minutes and call again",
		1500 * time.Microsecond: "nothing was sent; wait 1 second and call again",
	} {
		r := rateLimited(wait)
		if ms := r.Detail["retry_after_ms"].(int64); r.Hint != want || time.Duration(ms)*time.Millisecond < wait || time.Duration(ms-1)*time.Millisecond >= wait {
			t.Errorf("after %v: %q, %d ms", wait, r.Hint, ms)
		}
	}
}

// TestAgentKey calls with a key that opens no runs.
func TestAgentKey(t *testing.T) {
	type decided struct {
		pointer sallyport.ReleaseID
		explicit,
		halted bool
		ceiling sallyport.Stage
	}
	for _, c := range []struct {
		name string
		decided
		want sallyport.Code
	}{
		{"promoted", decided{pointer: release, ceiling: sallyport.Production}, ""},
		{"another release is promoted", decided{pointer: "sha256:other", ceiling: sallyport.Production}, sallyport.NoRelease},
		{"nothing is promoted", decided{ceiling: sallyport.Production}, sallyport.NoRelease},
		{"a key for less", decided{pointer: release, ceiling: sallyport.Staging}, sallyport.NoRelease},
		{"a key for nothing", decided{pointer: release}, sallyport.NoRelease},
		{"only explicit runs", decided{pointer: release, ceiling: sallyport.Production, explicit: true}, sallyport.NoRun},
		{"halted", decided{pointer: release, ceiling: sallyport.Production, halted: true}, sallyport.Halted},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWide(t, permitAll, func(_ *sallyport.Release, s *sallyport.StageConfig) { s.ExplicitRuns = c.explicit }, "crm")
			k := &keyed{wide: w, identity: Identity{Key: "key_agent", Kind: sallyport.KeyAgent, Agent: "support", Release: release, Ceiling: c.ceiling}}
			w.Identities, w.Runs = k, k
			state := w.decided(2)
			delete(state.Pointers, Pointer{"support", sallyport.Production})
			if c.pointer != "" {
				state.Pointers[Pointer{"support", sallyport.Production}] = c.pointer
			}
			if c.halted {
				state.Halts = []sallyport.Halt{{Scope: sallyport.HaltAgent, Subject: "support", Reason: "wrong"}}
			}
			w.SetState(state)
			// Whoever is only there opens no run.
			if _, err := w.Describe(t.Context(), "any"); (err == nil) != (c.want == "") || k.opened != 0 {
				t.Errorf("%v, and %d runs were opened", err, k.opened)
			}
			r := w.tool(t.Context(), "look")
			if c.want == "" {
				succeeded(t, r)
			} else {
				refused(t, r, c.want)
			}
			if want := 0; c.want != "" && k.opened != want {
				t.Errorf("%d runs were opened for nothing", k.opened)
			}
			if len(w.outcomes) != 1 || w.outcomes[0].Record.Principal.Key != "key_agent" {
				t.Errorf("recorded %+v", w.outcomes)
			}
		})
	}
	// Other kinds of credentials make no calls at all.
	for _, kind := range []sallyport.KeyKind{0, sallyport.KeyPerson, sallyport.KeyHost, 9} {
		w := newWide(t, permitAll, nil, "crm")
		k := &keyed{wide: w, identity: Identity{Key: "key_1", Kind: kind, Agent: "support", Release: release, Run: "run_1", Ceiling: sallyport.Production}}
		w.Identities, w.Runs = k, k
		refused(t, w.tool(t.Context(), "look"), sallyport.NotPermitted)
		if _, err := w.Describe(t.Context(), "any"); err == nil {
			t.Errorf("a credential of kind %s is described to", kind)
		}
	}
}

// keyed is a wide rig behind another kind of credential.
type keyed struct {
	*wide
	identity Identity
	opened   int
}

func (k *keyed) Identify(context.Context, string) (*Identity, error) { return &k.identity, nil }
func (k *keyed) Implicit(_ context.Context, id *Identity, r sallyport.ReleaseID, stage sallyport.Stage, _ time.Time) (*Run, error) {
	if k.opened++; r != k.identity.Release || stage != sallyport.Production || *id != k.identity {
		return nil, fmt.Errorf("a run of %s in %s", r, stage)
	}
	return k.run, nil
}
