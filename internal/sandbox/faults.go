package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"sallyport"
	"sallyport/internal/fault"
	"sallyport/internal/twin"
	"sallyport/internal/wire"
)

// faults are what goes wrong in a world on purpose. Package fault says what that can
// be; nil is nothing.
type faults struct {
	plan *fault.Plan
	twin *twin.World // for reads from a state that has passed; nil if there is none
}

// past is a run as it was: the twin without its latest calls, and those.
type past struct {
	twin  *twin.Run
	since []sallyport.Simulated // what had an effect, one for each time
}

func parseFaults(raw json.RawMessage) (*faults, error) {
	plan, err := fault.Parse(raw)
	if plan == nil || err != nil {
		return nil, err
	}
	return &faults{plan: plan}, nil
}

// answer answers a call by do, unless the call is to go wrong. What the call waits for
// comes before its effect: a call that is given up while it waits has had none, and is
// not made again from the records.
func (f *faults) answer(ctx context.Context, q *sallyport.Simulated, again bool, r *run, do func() (*sallyport.Simulation, error)) (*sallyport.Simulation, error) {
	if f == nil {
		return do()
	}
	fate := f.plan.Fate(q.World.Digest, q.Seed, q.Number, cmp.Or(q.Tool.UpstreamName, q.Tool.Name))
	if !again {
		if err := wait(ctx, fate.Wait); err != nil {
			return nil, err
		}
	}
	if fate.Rule == nil {
		return f.effect(q, r, do)
	}
	kind := fate.Rule.Fault
	if kind.Effects() == 0 {
		return withoutEffect(fate.Rule, q, f.grade(q, r)), nil
	}
	var stale *sallyport.Simulation
	if kind == fault.StaleRead && !again && q.Tool.Access == sallyport.Read {
		stale = f.stale(q, r, fate.Rule.Behind)
	}
	a, err := f.effect(q, r, do)
	if err != nil || again && kind.Effects() == 1 {
		return a, err
	}
	switch kind {
	case fault.DuplicateDelivery:
		// Something on the way has sent the call again: what it got then is what is passed
		// on. What nothing answers a second time was answered once.
		if b, err := f.effect(q, r, do); err == nil {
			return b, nil
		}
	case fault.StaleRead:
		if stale != nil && a.Grade == sallyport.GradeTwin {
			return stale, nil
		}
	case fault.TimeoutAfterCommit:
		a.Refused = timedOut()
	case fault.ListChanged:
		a.ListChanged = true
	case fault.OversizedResult:
		a.Refused = sent(sallyport.Refuse(sallyport.ResultTooLarge, "the result is larger than this tool may return", "ask for less"))
	default:
		if a.Error == nil {
			a.Result = fate.Alter(a.Result)
		}
	}
	return a, nil
}

// wait waits for real, until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// withoutEffect is the answer of a system that does not do what it is asked. The
// refusals are those the gateway makes of such an answer where a real system gives it.
func withoutEffect(rule *fault.Rule, q *sallyport.Simulated, grade sallyport.Grade) *sallyport.Simulation {
	a := &sallyport.Simulation{Grade: grade}
	switch rule.Fault {
	case fault.TooManyRequests:
		a.Status, a.RetryAfter = 429, rule.RetryAfter
		a.Refused = status(429, rule.RetryAfter)
	case fault.ServerError:
		a.Status, a.RetryAfter = rule.Status, rule.RetryAfter
		a.Refused = status(rule.Status, rule.RetryAfter)
	case fault.ExpiredCredential:
		a.Refused = sent(sallyport.Refuse(sallyport.UpstreamUnavailable, "the system behind this tool does not accept this gateway's credential", "ask an operator to renew it"))
	case fault.Timeout:
		a.Refused = timedOut()
	case fault.RPCError:
		a.Error = append(strconv.AppendInt([]byte(`{"code":`), int64(rule.Code), 10), `,"message":`...)
		a.Error = append(wire.AppendString(a.Error, rule.Message), '}')
	case fault.PermissionDenied:
		a.Status = 403
		a.Result = wire.ToolError(nil, q.Era, rule.Message, nil)
	default:
		a.Result = wire.ToolError(nil, q.Era, rule.Message, nil)
	}
	return a
}

func status(code int, retryAfter time.Duration) *sallyport.Refusal {
	hint := "call again later"
	if retryAfter > 0 {
		hint = fmt.Sprintf("call again in %d s", retryAfter/time.Second)
	}
	return sent(sallyport.Refuse(sallyport.UpstreamUnavailable, fmt.Sprintf("the system behind this tool answered with status %d", code), hint))
}

func timedOut() *sallyport.Refusal {
	return sent(sallyport.Refuse(sallyport.DeadlineExceeded, "the system behind this tool did not answer in time", ""))
}

// sent says that the request had reached the system.
func sent(r *sallyport.Refusal) *sallyport.Refusal {
	r.Detail = map[string]any{"sent": true}
	return r
}

// grade is that of who would have answered.
func (f *faults) grade(q *sallyport.Simulated, r *run) sallyport.Grade {
	switch {
	case f.twin != nil && f.twin.Knows(q.Tool):
		return sallyport.GradeTwin
	case len(r.players) > 0:
		return sallyport.GradeReplay
	default:
		return sallyport.GradeSchema
	}
}

// effect has a call answered, and keeps what a later read may not see yet.
func (f *faults) effect(q *sallyport.Simulated, r *run, do func() (*sallyport.Simulation, error)) (*sallyport.Simulation, error) {
	a, err := do()
	if behind := f.plan.Behind(); err == nil && behind > 0 && f.twin != nil && f.twin.Knows(q.Tool) {
		if r.past == nil {
			r.past = &past{twin: f.twin.NewRun(q.Seed)}
		}
		p, kept := r.past, *q
		kept.Args = bytes.Clone(q.Args)
		p.since = append(p.since, kept)
		n := 0
		for n < len(p.since) && p.since[n].Number < q.Number-behind {
			_, _ = p.twin.Call(p.since[n].Tool, p.since[n].Args, p.since[n].Number) // it was answered once
			n++
		}
		p.since = append(p.since[:0:0], p.since[n:]...)
	}
	return a, err
}

// stale is the answer from the state that was behind calls ago: after those with lower
// numbers than that. It is nil if no twin answers, or its rule is at fault.
func (f *faults) stale(q *sallyport.Simulated, r *run, behind int) *sallyport.Simulation {
	if f.twin == nil || !f.twin.Knows(q.Tool) {
		return nil
	}
	run := f.twin.NewRun(q.Seed)
	if r.past != nil {
		run = r.past.twin
		before := run.Snapshot()
		defer func() {
			if err := run.Reset(before); err != nil {
				panic("sandbox: what was looked at cannot be left: " + err.Error())
			}
		}()
		for _, s := range r.past.since {
			if s.Number < q.Number-behind {
				_, _ = run.Call(s.Tool, s.Args, s.Number)
			}
		}
	}
	a, err := run.Call(q.Tool, q.Args, q.Number)
	if err != nil {
		return nil
	}
	return &sallyport.Simulation{Result: replyOf(&a, q.Era), Grade: sallyport.GradeTwin}
}
