package gateway

import (
	"context"
	"crypto/rand"
	"strings"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/canonical"
	"sallyport/internal/policy"
)

// intend makes what is about to happen durable. Only a change that leaves this
// program needs it: a read is recorded once, with its outcome, before its result
// is released; a simulated change has nothing to be lost.
func (g *Gateway) intend(ctx context.Context, x *Exchange) error {
	x.salt = make([]byte, 32)
	rand.Read(x.salt)
	if !x.Changing() || !x.reaches() {
		return nil
	}
	x.DispatchBy = g.dispatchBy()
	r := g.record(x, audit.Intent)
	r.DispatchBy = x.DispatchBy.UnixMicro()
	err := g.Ledger.Intend(ctx, &Entry{
		Record: r, Target: x.Target,
		Payload: Payload{Salt: x.salt, Arguments: x.Arguments},
	})
	if err != nil {
		return err
	}
	x.Intended = true
	return nil
}

// conclude makes the outcome durable, and with it what the run has come to
// know. The reply is not released before.
func (g *Gateway) conclude(ctx context.Context, x *Exchange, reply *Reply) error {
	if x.Run == nil && x.Principal.Agent == "" {
		return nil
	}
	if x.Listing && reply.Refusal != nil && x.Response == nil {
		return nil // a list that was not fetched: nothing was asked of anybody
	}
	if reply.Refusal != nil && reply.Refusal.Code == sallyport.NotReady && x.DispatchBy.IsZero() && !x.flight.sent() {
		return nil // nothing was begun, and nothing can be recorded
	}
	r := g.record(x, audit.Outcome)
	r.LatencyMicros = g.Now().Sub(x.Started).Microseconds()
	r.UpstreamMicros = x.UpstreamTime.Microseconds()
	r.Grade = x.Grade
	e := &Entry{Record: r, Target: x.Target}
	if !x.Intended {
		e.Payload.Arguments = x.Arguments
	}
	result := reply.Result
	if reply.Error != nil {
		result = reply.Error
	}
	switch {
	case reply.Refusal != nil && x.Changing() && x.flight.sent() && x.Response == nil:
		r.Outcome, r.Refusal = sallyport.OutcomeUnsettled, reply.Refusal
	case reply.Refusal != nil && x.Response != nil:
		// Withheld, but it came: the log should know which, and that a change was made.
		r.Outcome, r.Refusal, result = sallyport.OutcomeRefused, reply.Refusal, x.Response.Message.Raw
		if x.Changing() {
			r.Outcome = x.Response.outcome()
		}
	case reply.Refusal != nil:
		r.Outcome, r.Refusal = sallyport.OutcomeRefused, reply.Refusal
	default:
		r.Outcome = x.Response.outcome()
	}
	if result != nil {
		r.Result = audit.Commit(x.salt, result)
		e.Payload.Result = result
	}
	if x.salt != nil {
		e.Payload.Salt = x.salt
	}
	if x.flight.heard.Load() && x.After == (sallyport.Labels{}) {
		// There is no result, but the client has read what the upstream said before.
		x.After = x.knows()
	}
	if x.After != (sallyport.Labels{}) {
		r.Labels = &x.After
	}
	if err := g.Ledger.Conclude(ctx, e); err != nil {
		return err
	}
	x.Outcome = r.Outcome
	if x.Run != nil && x.After != (sallyport.Labels{}) {
		x.Run.learn(x.After)
	}
	return g.concludeRounds(ctx, x, reply)
}

// outcome is how the call ended as the upstream tells it.
func (r *Response) outcome() sallyport.Outcome {
	if r.Message.Error.Present() || r.Message.IsError {
		return sallyport.OutcomeError
	}
	return sallyport.OutcomeOK
}

// record is what every record of a call says.
func (g *Gateway) record(x *Exchange, kind audit.Kind) *audit.Record {
	now := g.Now()
	r := &audit.Record{
		ID: newID("rec", now), Time: now.UnixMicro(), Kind: kind,
		Call: x.ID, Stage: x.Stage, Method: x.Message.Method, CallKind: x.Kind,
		Principal: &audit.Principal{
			Agent: x.Principal.Agent, Release: x.Principal.Release, Key: x.Principal.Key,
			Person: string(x.Principal.Person), // the ledger makes it a pseudonym
		},
	}
	if x.Run != nil {
		r.Run = x.Run.ID
	}
	if x.Plan != nil {
		r.PolicyDigest, r.StageConfig = x.Plan.PolicyDigest, x.Plan.Config.ID
		r.DataDomain = x.Plan.Release.DataDomain
	}
	if x.Upstream != nil {
		r.Upstream, r.UpstreamIdentity = x.Upstream.ID, x.Upstream.Identity
		r.Binding = x.binding()
		if r.Binding == sallyport.Simulate && x.Number > 0 {
			r.World, r.Number = x.Upstream.World.Digest, int64(x.Number)
		}
	}
	r.Access = sallyport.Changing
	if !x.Changing() {
		r.Access = sallyport.Read
	}
	r.Tool = clip(x.Message.Name)
	if x.Tool != nil {
		r.Tool, r.ToolDigest = x.Tool.UpstreamName, x.Tool.Digest
	}
	if x.salt == nil && len(x.Arguments) > 0 {
		x.salt = make([]byte, 32)
		rand.Read(x.salt)
	}
	if len(x.Arguments) > 0 {
		r.Arguments = audit.Commit(x.salt, x.Arguments)
	}
	if x.Decision.Allow || len(x.Decision.Reasons) > 0 || len(x.Decision.Errors) > 0 {
		decision := x.Decision
		decision.Errors = decision.Errors[:min(len(decision.Errors), maxInexact)]
		r.Decision = &decision
	}
	facts := x.Facts
	facts.Inexact = facts.Inexact[:min(len(facts.Inexact), maxInexact)]
	r.Facts = facts.JSON()
	return r
}

const (
	// maxText bounds, in bytes, each text of a record that a caller or an upstream
	// had a hand in: a record that is too long for the log ([audit.MaxBody]) would be
	// none.
	maxText = 8 << 10
	// maxInexact bounds how many arguments that policy could not be given, and what
	// went wrong with them, are recorded; one is a deny.
	maxInexact = 8
)

// clip shortens a text to maxText, at the end of a character.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}

// policyDigest covers the policies that may decide, in order.
func policyDigest(sources []policy.Source) sallyport.Digest {
	var all []byte
	for _, s := range sources {
		all = append(all, s.Path...)
		all = append(all, 0)
		all = append(all, s.Text...)
		all = append(all, 0)
	}
	return sallyport.Digest(canonical.SumBytes(all))
}
