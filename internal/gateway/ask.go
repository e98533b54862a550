package gateway

import (
	"context"
	"crypto/rand"
	"errors"

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
	began := g.Now()
	decision, refused := g.mayAsk(x, m.Method)
	var answer []byte
	var unanswered error
	if refused == nil {
		if h := g.state.Load().Halted(&x.Target); h != nil {
			refused = haltedRefusal(h)
		} else {
			answer, unanswered = x.Session.client(ctx, raw)
		}
	}
	salt := make([]byte, 32)
	rand.Read(salt)
	r := g.record(x, audit.Outcome)
	r.Call, r.Method, r.CallKind = sallyport.CallID(newID("call", began)), clip(m.Method), kindAsked[m.Method]
	r.Tool, r.ToolDigest, r.Decision = "", "", &decision
	params := m.Params.Of(m.Raw)
	r.Arguments, r.Outcome = audit.Commit(salt, params), sallyport.OutcomeOK
	switch {
	case refused != nil:
		r.Outcome, r.Refusal = sallyport.OutcomeRefused, refused.(*sallyport.Refusal)
		answer = wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "not available", nil)
	case unanswered != nil:
		r.Outcome, answer = sallyport.OutcomeError, nil
	default:
		r.Result = audit.Commit(salt, answer)
	}
	r.LatencyMicros = g.Now().Sub(began).Microseconds()
	err = g.Ledger.Conclude(context.WithoutCancel(ctx), &Entry{
		Record: r, Target: x.Target, Payload: Payload{Salt: salt, Arguments: params, Result: answer},
	})
	if err = errors.Join(err, unanswered); err != nil {
		return nil, err
	}
	return answer, nil
}
