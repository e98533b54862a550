package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

// kindAsked is the kind of call an upstream makes of a client by a method. What
// is not listed cannot be asked.
var kindAsked = map[string]sallyport.Kind{
	wire.MethodSamplingCreateMessage: sallyport.KindSampling,
	wire.MethodElicitationCreate:     sallyport.KindElicitation,
}

// mayAsk decides whether the upstream of a call may ask the client something.
// It is a call of its own kind, denied by default.
func (g *Gateway) mayAsk(x *Exchange, method string) (sallyport.Decision, error) {
	kind, ok := kindAsked[method]
	if !ok {
		return sallyport.Decision{}, sallyport.Refuse(sallyport.Denied,
			"the system behind this tool asked for something that is never given", "do without this tool")
	}
	q := g.query(x)
	q.Kind, q.Tool, q.URI, q.Args = kind, "", "", nil
	d, _ := x.Plan.Policies.Decide(q)
	if !d.Allow {
		return d, sallyport.Refuse(sallyport.Denied,
			"the system behind this tool asked for "+kind.String()+", which no policy permits", "do without this tool")
	}
	return d, nil
}

// ask passes an upstream's request (MCP 2025-11-25) to the client if policy
// permits, and otherwise answers it with an error. Question and answer are
// recorded before the answer leaves for the upstream; so is a question that the
// client did not answer.
func (g *Gateway) ask(ctx context.Context, x *Exchange, raw []byte) ([]byte, error) {
	m, err := wire.Scan(raw, wire.Limits{})
	if err != nil {
		return nil, err
	}
	q := inquiry{message: &m, began: g.Now()}
	if q.decision, q.refused = g.mayAsk(x, m.Method); q.refused == nil {
		if h := g.state.Load().Halted(&x.Target); h != nil {
			q.refused = haltedRefusal(h)
		} else {
			q.answer, q.unanswered = x.Session.client(ctx, raw)
		}
	}
	return g.recordQuestion(ctx, x, &q)
}

// inquiry is a question that an upstream asks a client during a call.
type inquiry struct {
	message    *wire.Message
	began      time.Time
	decision   sallyport.Decision
	refused    error  // a *sallyport.Refusal
	answer     []byte // the client's response; nil while there is none
	unanswered error
}

// recordQuestion records a question as a call of its own kind and returns the
// answer the upstream gets: the client's, or an error if the question was refused.
func (g *Gateway) recordQuestion(ctx context.Context, x *Exchange, q *inquiry) ([]byte, error) {
	m, answer := q.message, q.answer
	salt := make([]byte, 32)
	rand.Read(salt)
	r := g.record(x, audit.Outcome)
	r.Call, r.Method, r.CallKind = sallyport.CallID(newID("call", q.began)), clip(m.Method), kindAsked[m.Method]
	r.Tool, r.ToolDigest, r.Decision = "", "", &q.decision
	params := m.Params.Of(m.Raw)
	r.Arguments, r.Outcome = audit.Commit(salt, params), sallyport.OutcomeOK
	switch {
	case q.refused != nil:
		r.Outcome, r.Refusal = sallyport.OutcomeRefused, q.refused.(*sallyport.Refusal)
		answer = wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "not available", nil)
	case q.unanswered != nil:
		r.Outcome, answer = sallyport.OutcomeError, nil
	case answer == nil: // it leaves, and the answer comes with another call
		learned := x.knows()
		r.Labels = &learned
	default:
		r.Result = audit.Commit(salt, answer)
	}
	r.LatencyMicros = g.Now().Sub(q.began).Microseconds()
	err := g.Ledger.Conclude(context.WithoutCancel(ctx), &Entry{
		Record: r, Target: x.Target, Payload: Payload{Salt: salt, Arguments: params, Result: answer},
	})
	if err = errors.Join(err, q.unanswered); err != nil {
		return nil, err
	}
	if r.Labels != nil {
		x.Run.learn(*r.Labels)
	}
	return answer, nil
}
