package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"

	"sallyport"
	"sallyport/internal/wire"
)

// Shadows are worlds that lie over live systems: a run's reads pass to the system, and
// what it changes it changes in the world alone, where only its own reads show it.
type Shadows interface {
	// Shadow says what comes next in a call, from the calls of the same run with lower
	// numbers and what the live system has said in this one. It is asked again with what
	// it wanted to hear.
	Shadow(ctx context.Context, q *sallyport.Shadowed) (*sallyport.ShadowStep, error)
}

// shadows reports whether the call is one of a run over a live system.
func (x *Exchange) shadows() bool { return x.binding() == sallyport.Shadow }

// onlyReads refuses what must not reach a live system that a run only reads. It is asked
// where the request is made, and again immediately before its first byte.
func (x *Exchange) onlyReads() error {
	if x.shadows() && x.Changing() {
		return sallyport.Refuse(sallyport.StageWall, "no change may reach the live system from here", "ask an operator to look at the bindings")
	}
	return nil
}

// shadow answers a call of a run over a live system. It waits for the calls of the run
// before it: what they have changed shows in this one.
func (g *Gateway) shadow(ctx context.Context, x *Exchange) error {
	if x.Stage != sallyport.Production || g.Shadows == nil {
		return sallyport.Refuse(sallyport.StageWall, "nothing lies over a live system here", "ask an operator to look at the bindings")
	}
	if x.Listing || x.within != nil {
		return g.underShadow(ctx, x)
	}
	if err := x.place.wait(ctx); err != nil {
		return g.sendError(ctx, x, err)
	}
	q := &sallyport.Shadowed{Simulated: sallyport.Simulated{
		World: x.Upstream.World, Args: x.Arguments, Era: x.Era,
		Run: x.Run.ID, Seed: x.Run.Envelope.Seed, Number: x.Number - 1,
	}}
	if x.Tool != nil {
		q.Tool = &x.Tool.Tool
	}
	for {
		step, err := g.Shadows.Shadow(ctx, q)
		if err != nil {
			return g.sendError(ctx, x, err)
		}
		x.Opaque = step.Opaque
		switch {
		case step.Ask != nil && x.Changing():
			heard, err := g.hear(ctx, x, step.Ask)
			if err != nil {
				return err
			}
			q.Heard = append(q.Heard, heard)
		case step.Pass && !x.Changing() && len(q.Heard) == 0:
			if err := g.underShadow(ctx, x); err != nil || x.Tool == nil {
				return err
			}
			m := &x.Response.Message
			q.Heard = []sallyport.Heard{{Tool: x.Tool.UpstreamName, Args: x.Arguments, Result: m.Result.Of(m.Raw)}}
		case step.Own:
			return g.fromWorld(x, &sallyport.Simulation{Result: step.Result, Grade: sallyport.GradeShadow})
		case x.Changing():
			x.Grade = sallyport.GradeShadow
			return sallyport.Refuse(sallyport.WorldGap, clip(step.Opaque), "give the tool a rule in the world "+x.Upstream.World.Name+", or say under shadow how its rows are fetched")
		case len(q.Heard) > 0:
			return x.patched(step.Result)
		default:
			return errors.New("shadow: the world says neither what it needs nor what it answers")
		}
	}
}

// underShadow has the live system answer a read.
func (g *Gateway) underShadow(ctx context.Context, x *Exchange) error {
	err := g.live(ctx, x)
	x.Grade = sallyport.GradeShadow
	if err == nil && x.Response.Message.ResultType == wire.ResultInputRequired {
		return sallyport.Refuse(sallyport.EraMismatch, "the system behind this tool asks for something before it goes on", "do without this tool")
	}
	return err
}

// patched has another result go out than the live system's.
func (x *Exchange) patched(result []byte) error {
	m := &x.Response.Message
	was := m.Result.Of(m.Raw)
	if bytes.Equal(was, result) {
		return nil
	}
	is, err := wire.Scan(wire.Splice(m.Raw, wire.Edit{Span: m.Result, With: result}), wire.Limits{Bytes: math.MaxInt})
	if err != nil {
		return fmt.Errorf("shadow: the patched answer cannot be read: %w", err)
	}
	x.Unpatched, x.Response.Message = was, is
	return nil
}

// hear reads the live system for a call that changes what it holds: a call of its own,
// judged and recorded like the agent's own, under the number of the call that needs it.
// The error is the refusal of a system that cannot be asked now, and for other reasons
// than what is asked.
func (g *Gateway) hear(ctx context.Context, x *Exchange, ask *sallyport.LiveRead) (sallyport.Heard, error) {
	heard := sallyport.Heard{Tool: ask.Tool, Args: ask.Args}
	var tool *PlannedTool
	for _, t := range x.Plan.ordered {
		if t.Upstream == x.Upstream.ID && t.UpstreamName == ask.Tool && t.Access == sallyport.Read && t.Binding == sallyport.Shadow {
			tool = t
		}
	}
	if tool == nil {
		heard.Failed = "the release has no such tool to read with"
		return heard, nil
	}
	params := append(wire.AppendString([]byte(`{"name":`), tool.Name), `,"arguments":`...)
	params = append(params, ask.Args...)
	if x.Message.Meta.Present() {
		meta := []byte(`{`)
		err := wire.Each(x.Message.Meta.Of(x.Message.Raw), func(name string, value []byte) error {
			if name == "progressToken" { // the agent's own request has it
				return nil
			}
			if len(meta) > 1 {
				meta = append(meta, ',')
			}
			meta = append(append(wire.AppendString(meta, name), ':'), value...)
			return nil
		})
		if err != nil {
			return heard, err
		}
		params = append(append(append(params, `,"_meta":`...), meta...), '}')
	}
	m, err := wire.Scan(wire.AppendRequest(nil, []byte("1"), wire.MethodToolsCall, append(params, '}')), wire.Limits{Bytes: math.MaxInt})
	if err != nil {
		return heard, fmt.Errorf("shadow: reading %s: %w", ask.Tool, err)
	}
	inner := &Exchange{Credential: x.Credential, Era: x.Era, Kind: sallyport.KindTool, Message: m, Session: x.Session, within: x}
	if len(tool.ParamHeaders) > 0 {
		inner.Headers = http.Header{}
		if err := wire.SetParamHeaders(inner.Headers, tool.ParamHeaders, ask.Args); err != nil {
			heard.Failed = err.Error()
			return heard, nil
		}
	}
	reply := g.Call(ctx, inner)
	heard.Result = reply.Result
	if r := reply.Refusal; r != nil {
		switch r.Code {
		case sallyport.Halted, sallyport.OverBudget, sallyport.RateLimited, sallyport.TooBusy, sallyport.UpstreamUnavailable,
			sallyport.DeadlineExceeded, sallyport.Cancelled, sallyport.NotReady, sallyport.RecordFailed, sallyport.NoRun, sallyport.NoRelease:
			return heard, r
		}
		heard.Failed = string(r.Code)
	}
	return heard, nil
}
