package gateway

import (
	"context"

	"sallyport"
	"sallyport/internal/wire"
)

// This file is what a call needs beyond the path when client and upstream speak
// different eras: see doc/bridge.md.

// era is the one an upstream speaks.
func era(u *sallyport.StageUpstream) wire.Era {
	e, _ := wire.EraOf(u.Transport.Era) // backends refuse versions that are not spoken
	return e
}

// crosses reports whether the call goes to an upstream of another era. An HTTP
// API has none.
func (x *Exchange) crosses() bool {
	return x.Upstream != nil && x.Upstream.Transport.OpenAPI.None() && era(x.Upstream) != x.Era
}

// owner names the credential and the run of a call.
func (x *Exchange) owner() string {
	return string(x.Identity.Key) + "/" + string(x.Run.ID)
}

// bridge gives a request what it needs to cross.
func (g *Gateway) bridge(x *Exchange, req *Request) {
	req.Owner = x.owner()
	req.Again = func(ctx context.Context) error { return g.again(ctx, x) }
	if x.Session == nil {
		req.Judge = func(ctx context.Context, raw []byte) (refused []byte, err error) {
			defer contain("judge", &err) // of an upstream's goroutine
			return g.judge(ctx, x, raw)
		}
		req.Answered = func(ctx context.Context, asked, answer []byte) error { return g.answered(ctx, x, asked, answer) }
	}
}

// again records the intent of a further upstream request of a call: the first
// one's has an end, and by then whoever was asked may not have answered.
func (g *Gateway) again(ctx context.Context, x *Exchange) error {
	if h := g.state.Load().Halted(&x.Target); h != nil {
		return haltedRefusal(h)
	}
	if !x.Intended {
		return nil
	}
	switch place, err := x.Run.reserve(ctx, false); {
	case err != nil:
		return err
	case place == nil:
		return overBudget(x)
	}
	round := *x
	round.ID, round.rounds = sallyport.CallID(newID("call", g.Now())), nil
	if err := g.intend(ctx, &round); err != nil {
		return err
	}
	x.rounds = append(x.rounds, &round)
	x.DispatchBy = round.DispatchBy
	return nil
}

// concludeRounds records the outcome of a call for its later rounds, too: it is the
// outcome of all their intents.
func (g *Gateway) concludeRounds(ctx context.Context, x *Exchange, reply *Reply) error {
	for _, r := range x.rounds {
		round := *x
		round.ID, round.salt, round.rounds = r.ID, r.salt, nil
		if err := g.conclude(ctx, &round, reply); err != nil {
			return err
		}
	}
	return nil
}

// judge decides whether the client will find a question of the upstream in the
// result of a call. A question that leaves has been recorded, and the run has
// learned what the upstream says in it; so has one that does not.
func (g *Gateway) judge(ctx context.Context, x *Exchange, raw []byte) ([]byte, error) {
	m, err := wire.Scan(raw, wire.Limits{Bytes: max(len(raw), 1)})
	if err != nil {
		return nil, err
	}
	return g.recordQuestion(ctx, x, g.put(x, &m))
}

// answered records the client's answer to a question, judged again: policy may
// have changed since. x is the call that brought it.
func (g *Gateway) answered(ctx context.Context, x *Exchange, asked, answer []byte) error {
	m, err := wire.Scan(asked, wire.Limits{Bytes: max(len(asked), 1)})
	if err != nil {
		return err
	}
	q := inquiry{message: &m, began: g.Now(), answer: answer}
	if q.decision, q.facts, q.refused = g.mayAsk(x, m.Method); q.refused == nil {
		q.refused = g.leavesAsItIs(x, answer)
	}
	if _, err := g.recordQuestion(ctx, x, &q); err != nil {
		return err
	}
	return q.refused
}

// holds reports whether the upstream is still at work on a call that has been
// answered with a question. If the question is not going to leave, it is told to
// stop, and what it did nobody knows.
func (g *Gateway) holds(x *Exchange, err error) bool {
	if x.Response == nil || x.Response.Held == nil {
		return false
	}
	if err == nil {
		return true
	}
	x.Response.Held.Drop()
	x.Response = nil
	return false
}

// hold lets a call go on after its question has been answered to the client. It is
// in flight as far as a halt is concerned, and its outcome is recorded when it is
// known. The question itself has been recorded.
func (g *Gateway) hold(x *Exchange) {
	kept := *x // whoever made x may use it again
	kept.Notify, kept.Headers, kept.Session = nil, nil, nil
	held := x.Response.Held
	kept.flight.held.Store(&held)
	if g.state.Load().Halted(&kept.Target) != nil { // it came before stop could find it
		held.Drop()
	}
	held.Then(func(res *Response, err error) {
		if err := g.over(&kept, res, err); err != nil {
			g.Log.Error("the outcome of a call that had asked its client something could not be recorded", "call", kept.ID, "err", err)
		}
	})
}

// over records how a call that went on has ended: with a response, or failed.
func (g *Gateway) over(x *Exchange, res *Response, failed error) (err error) {
	defer contain("over", &err) // of an upstream's goroutine
	ctx := context.Background()
	g.flights.leave(x.flight)
	x.Response, x.After = res, x.knows()
	if failed == nil {
		failed = g.guardResponse(ctx, x)
	} else {
		failed = g.sendError(ctx, x, failed)
	}
	reply := g.reply(x, failed)
	err = g.conclude(ctx, x, &reply)
	if g.Observer != nil {
		g.Observer.Ended(x, reply, g.Now().Sub(x.Started))
	}
	return err
}
