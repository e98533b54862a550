package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sallyport"
	"sallyport/internal/openapi"
	"sallyport/internal/wire"
)

// Plain is what a caller by plain HTTP finds at a name: the operations of one HTTP API
// of its release, or of several that one world answers for. Policy and all else are
// asked by [Gateway.Call], when one of them is called.
type Plain struct {
	*openapi.Surface
}

// Plain returns what there is at a name for a credential: the HTTP API of that id, else
// those for which a world of that name answers in any stage. The name is the same in
// every stage. Its error is a *sallyport.Refusal or a fault.
func (g *Gateway) Plain(ctx context.Context, credential, name string) (*Plain, error) {
	x, err := g.presented(ctx, credential)
	if err != nil {
		return nil, g.refuseList(err).Refusal
	}
	if p, ok := x.Plan.plain.Load(name); ok {
		return p.(*Plain), nil
	}
	p, err := x.Plan.makePlain(name)
	if err != nil {
		return nil, g.refuseList(err).Refusal
	}
	x.Plan.plain.Store(name, p)
	return p, nil
}

func (p *Plan) makePlain(name string) (*Plain, error) {
	var at []*sallyport.StageUpstream
	var names []string
	for _, u := range p.upstreams {
		if u.Transport.OpenAPI.None() {
			continue
		}
		if string(u.ID) == name {
			at = []*sallyport.StageUpstream{u}
			break
		}
		if names = append(names, string(u.ID)); slices.Contains(u.Worlds, name) {
			at = append(at, u)
		}
		names = append(names, u.Worlds...)
	}
	if len(at) == 0 {
		r := sallyport.Refuse(sallyport.NotFound, "there is no HTTP API at this name", "")
		if near := sallyport.Nearest(name, names); len(near) > 0 {
			r.Hint = fmt.Sprintf("did you mean %q?", near[0])
		} else if len(names) > 0 {
			r.Hint = fmt.Sprintf("there is %q", names[0])
		}
		return nil, r
	}
	s := &openapi.Surface{}
	for _, u := range at {
		tools := map[string]*PlannedTool{}
		for _, t := range p.ordered {
			if t.Upstream == u.ID {
				tools[t.UpstreamName] = t
			}
		}
		err := s.Add(string(u.ID), p.apis[u.ID], func(operation string) (string, []byte, bool) {
			t := tools[operation]
			if t == nil {
				return "", nil, false
			}
			return t.Name, t.Definition, true
		})
		if err != nil {
			return nil, err
		}
	}
	return &Plain{s}, nil
}

// asAPI has a world's answer be one of the HTTP API that the tool is an operation of.
func (t *PlannedTool) asAPI(a *sallyport.Simulation, era wire.Era) (err error) {
	if t.operation == nil || a.Error != nil {
		return nil
	}
	if a.Status != 0 {
		if a.Result == nil {
			a.Result = []byte("{}")
			if era == wire.Stateless {
				a.Result = []byte(`{"resultType":"complete"}`)
			}
		}
		a.Refused = nil
		a.Result, err = t.operation.Failed(a.Result, a.Status, int(a.RetryAfter/time.Second))
		return err
	}
	if a.Result == nil {
		return nil
	}
	a.Result, err = t.operation.AsAnswered(a.Result, func(structured []byte) bool {
		return t.Output != nil && t.Output.Validate(structured) == nil
	})
	return err
}
