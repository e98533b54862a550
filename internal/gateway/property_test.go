package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
)

// fate is what befalls one call on its way. A point is where an error occurs, or
// where the kill switch is pulled.
type fate struct {
	tool   string
	fault  point // where something fails
	halt   point // where an operator halts the tool
	cancel point // where the caller hangs up
}

type point string

const (
	nowhere       point = "nowhere"
	beforeIntent  point = "before the intent is durable"
	afterIntent   point = "after the intent is durable"
	beforeWriting point = "before the first byte"
	whileWriting  point = "after the first byte"
	afterWriting  point = "after the last byte"
	panicking     point = "panics after the last byte"
	answering     point = "with an error as the answer"
	beforeOutcome point = "before the outcome is durable"
	afterOutcome  point = "after the outcome is durable"
)

// model is a gateway between fakes that know what may never happen.
type model struct {
	*rig
	mu       sync.Mutex
	fates    map[string]fate // by the id that the context of a call carries
	cancels  map[string]context.CancelFunc
	intents  map[string]int
	outcomes map[string][]sallyport.Outcome
	wrote    map[string]int
	answered map[string]bool
	halted   bool // the halt has been applied
	wrong    []string
}

func (m *model) never(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

// at does what is to happen at a point, and returns the error that occurs there.
func (m *model) at(id string, p point) error {
	m.mu.Lock()
	f, cancel := m.fates[id], m.cancels[id]
	m.mu.Unlock()
	if f.halt == p {
		gone, stop := context.WithCancel(context.Background())
		stop() // it is not waited for here: it may be this call that it waits for
		m.Halt(gone, stopWrite)
		m.mu.Lock()
		m.halted = true
		m.mu.Unlock()
	}
	if f.cancel == p {
		cancel()
	}
	if f.fault == p {
		if p == panicking {
			panic("the backend is broken")
		}
		return fmt.Errorf("fault %s", p)
	}
	return nil
}

var stopWrite = sallyport.Halt{Scope: sallyport.HaltTool, Subject: "crm/write", Reason: "wrong"}

type idKey struct{}

func idOf(ctx context.Context) string { return ctx.Value(idKey{}).(string) }

func (m *model) Intend(ctx context.Context, e *Entry) error {
	id := idOf(ctx)
	if err := m.at(id, beforeIntent); err != nil {
		return err
	}
	m.mu.Lock()
	m.intents[id]++
	m.mu.Unlock()
	return m.at(id, afterIntent)
}

func (m *model) Conclude(ctx context.Context, e *Entry) error {
	id := idOf(ctx)
	if ctx.Err() != nil || e.Record.Kind != audit.Outcome {
		m.never("the outcome of %s is %+v, %v", id, e.Record, ctx.Err())
	}
	if err := m.at(id, beforeOutcome); err != nil {
		return err
	}
	m.mu.Lock()
	m.outcomes[id] = append(m.outcomes[id], e.Record.Outcome)
	m.mu.Unlock()
	return m.at(id, afterOutcome)
}

func (m *model) Backend(*sallyport.StageUpstream) (Backend, error) { return m, nil }

func (m *model) Do(ctx context.Context, q *Request) (*Response, error) {
	id := idOf(ctx)
	if err := m.at(id, beforeWriting); err != nil {
		return nil, sallyport.Refuse(sallyport.UpstreamUnavailable, err.Error(), "")
	}
	m.mu.Lock()
	late := m.halted && q.Message.Name == "write"
	m.mu.Unlock()
	if err := q.BeforeWrite(); err != nil {
		return nil, err
	}
	if late {
		m.never("%s is written after the halt was applied", id)
	}
	m.mu.Lock()
	if q.Message.Name == "write" && m.intents[id] != 1 {
		m.wrong = append(m.wrong, fmt.Sprintf("%s is written with %d durable intents", id, m.intents[id]))
	}
	if m.wrote[id]++; m.wrote[id] > 1 {
		m.wrong = append(m.wrong, id+" is written again")
	}
	m.mu.Unlock()
	if err := m.at(id, whileWriting); err != nil {
		return nil, sallyport.Refuse(sallyport.UpstreamUnavailable, err.Error(), "")
	}
	q.AfterWrite()
	if err := errors.Join(m.at(id, afterWriting), m.at(id, panicking), ctx.Err()); err != nil {
		return nil, sallyport.Refuse(sallyport.UpstreamUnavailable, err.Error(), "")
	}
	m.mu.Lock()
	m.answered[id] = true
	m.mu.Unlock()
	r := respond(m.t)
	if m.at(id, answering) != nil {
		r.Message.IsError = true
	}
	return r, nil
}

// TestNoEffectWithoutARecord makes calls, several at once, that meet faults, halts
// and callers that hang up anywhere on their way.
func TestNoEffectWithoutARecord(t *testing.T) {
	base := newRig(t, sallyport.Production, permitAll)
	faults := []point{nowhere, beforeIntent, afterIntent, beforeWriting, whileWriting, afterWriting, panicking, answering, beforeOutcome, afterOutcome}
	times := []point{nowhere, nowhere, nowhere, beforeIntent, afterIntent, beforeWriting, whileWriting, afterWriting, beforeOutcome}
	rapid.Check(t, func(rt *rapid.T) {
		r := &rig{t: t, plan: base.plan, run: NewRun(base.run.Run, nil)}
		m := &model{
			rig: r, fates: map[string]fate{}, cancels: map[string]context.CancelFunc{},
			intents: map[string]int{}, outcomes: map[string][]sallyport.Outcome{}, wrote: map[string]int{}, answered: map[string]bool{},
		}
		c := base.Gateway.Config
		c.Ledger, c.Runs, c.Stages = m, m, map[sallyport.Stage]Backends{sallyport.Production: m}
		r.Gateway = New(c)
		epoch := int64(1)
		m.SetState(m.decided(epoch))
		replies := map[string]Reply{}
		var n int
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			var wait sync.WaitGroup
			var mu sync.Mutex
			for range rapid.IntRange(1, 4).Draw(rt, "calls at once") {
				f := fate{
					tool:  rapid.SampledFrom([]string{"write", "write", "look"}).Draw(rt, "tool"),
					fault: rapid.SampledFrom(faults).Draw(rt, "fault"), halt: rapid.SampledFrom(times).Draw(rt, "halt"), cancel: rapid.SampledFrom(times).Draw(rt, "hangs up"),
				}
				n++
				id := fmt.Sprint("call-", n)
				x := exchange(t, f.tool, fmt.Sprintf(`{"id":%q}`, id))
				ctx, cancel := context.WithCancel(context.WithValue(context.Background(), idKey{}, id))
				m.mu.Lock()
				m.fates[id], m.cancels[id] = f, cancel
				m.mu.Unlock()
				wait.Go(func() {
					defer cancel()
					reply := m.Call(ctx, x)
					m.mu.Lock()
					if (reply.Result != nil || reply.Error != nil) && len(m.outcomes[id]) != 1 {
						m.wrong = append(m.wrong, fmt.Sprintf("the reply of %s left with %d durable outcomes", id, len(m.outcomes[id])))
					}
					m.mu.Unlock()
					mu.Lock()
					replies[id] = reply
					mu.Unlock()
				})
			}
			wait.Wait()
			if rapid.Bool().Draw(rt, "resume") { // recorded, and taken back
				m.SetState(m.decided(epoch+1, stopWrite))
				m.SetState(m.decided(epoch + 2))
				epoch += 2
				m.halted = false
			}
		}
		for id, f := range m.fates {
			reply, outcomes := replies[id], m.outcomes[id]
			switch {
			case len(outcomes) > 1:
				m.never("%s has %d outcomes", id, len(outcomes))
			case len(outcomes) == 0 && f.fault != beforeOutcome:
				m.never("%s has no outcome", id)
			case len(outcomes) == 0 && (reply.Refusal == nil || reply.Refusal.Code != sallyport.RecordFailed):
				m.never("%s has no outcome and its caller was told %+v", id, reply)
			case f.fault == afterOutcome && (reply.Refusal == nil || reply.Refusal.Code != sallyport.RecordFailed):
				m.never("nobody knows whether %s has an outcome, and its caller was told %+v", id, reply)
			}
			if f.tool == "look" && m.intents[id] > 0 {
				m.never("%s is a read and has an intent", id)
			}
			if len(outcomes) == 1 {
				sent := m.wrote[id] > 0
				var want []sallyport.Outcome
				switch {
				case !sent, f.tool == "look" && !m.answered[id]:
					want = []sallyport.Outcome{sallyport.OutcomeRefused}
				case !m.answered[id]:
					want = []sallyport.Outcome{sallyport.OutcomeUnsettled}
				case f.fault == answering:
					want = []sallyport.Outcome{sallyport.OutcomeError}
				default:
					want = []sallyport.Outcome{sallyport.OutcomeOK}
				}
				if outcomes[0] != want[0] {
					m.never("%s (%+v): written %v, answered %v, recorded as %s, want %s", id, f, sent, m.answered[id], outcomes[0], want[0])
				}
			}
		}
		if m.InFlight() != 0 {
			m.never("%d calls are in flight", m.InFlight())
		}
		if len(m.wrong) > 0 {
			rt.Fatalf("%q", m.wrong)
		}
	})
}
