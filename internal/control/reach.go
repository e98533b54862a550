package control

import (
	"context"
	"fmt"
	"slices"

	"sallyport"
	"sallyport/internal/audit"
)

// Reach is what a person is about to do with a real system, outside of any release.
type Reach struct {
	As       string               `json:"as"` // "record" its traffic, or "compare" a world with it
	Upstream sallyport.UpstreamID `json:"upstream"`
	Stage    sallyport.Stage      `json:"stage"`
	File     string               `json:"file,omitempty"` // of the recording
	Reason   string               `json:"reason"`
}

// reachers are the roles that may reach a stage's systems with that stage's credential.
// Nobody does in the sandbox.
var reachers = map[sallyport.Stage][]sallyport.Role{
	sallyport.Staging:    {sallyport.Developer, sallyport.Operator, sallyport.Approver},
	sallyport.Production: {sallyport.Operator, sallyport.Approver},
}

// Reached records that a person is going to reach a real system. Nobody does before it
// returns, or if it is an error: one with code halted where what is to be reached is.
func (c *Control) Reached(ctx context.Context, by *sallyport.Person, r *Reach) error {
	roles, ok := reachers[r.Stage]
	if !ok {
		return sallyport.Refuse(sallyport.BadRequest, "nothing real answers in "+r.Stage.String(), "name staging or production")
	}
	if err := needs(by, "reach upstreams of "+r.Stage.String(), roles...); err != nil {
		return err
	}
	if err := reasoned(r.Reason); err != nil {
		return err
	}
	if !slices.Contains([]string{"record", "compare"}, r.As) || r.As == "compare" && r.Stage != sallyport.Staging {
		return sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("a system of %s is not reached to %q", r.Stage, r.As), "record in staging or production, or compare in staging")
	}
	d, err := c.Past.Decided(ctx)
	if err != nil {
		return err
	}
	target := sallyport.Target{Stage: r.Stage, Upstream: r.Upstream}
	for i := range d.Halts {
		if h := &d.Halts[i]; h.Stops(&target) {
			return sallyport.Refuse(sallyport.Halted, fmt.Sprintf("this is halted: %s %s (%s)", h.Scope, h.Subject, h.Reason), "sallyport resume, when it may go on")
		}
	}
	record, err := c.record(audit.Reached, by.ID, map[string]any{"as": r.As, "file": r.File, "reason": r.Reason})
	if err != nil {
		return err
	}
	record.Stage, record.Upstream = r.Stage, r.Upstream
	return c.Book.Commit(ctx, record)
}
