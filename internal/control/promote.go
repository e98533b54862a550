package control

import (
	"context"
	"fmt"

	"sallyport"
	"sallyport/internal/audit"
)

// promoters are the roles that may move a stage pointer to a stage. A stage that
// is not listed cannot be entered.
var promoters = map[sallyport.Stage][]sallyport.Role{
	sallyport.Sandbox:    {sallyport.Developer, sallyport.Approver, sallyport.Operator},
	sallyport.Staging:    {sallyport.Approver, sallyport.Operator},
	sallyport.Production: {sallyport.Approver},
}

// Promotion says what a promotion moved.
type Promotion struct {
	Agent sallyport.AgentID   `json:"agent"`
	Stage sallyport.Stage     `json:"stage"`
	From  sallyport.ReleaseID `json:"from,omitempty"`
	To    sallyport.ReleaseID `json:"to"`
}

// Promote moves a stage pointer: the stage runs the release from now on. Without
// a release it takes the one that was applied last. Evidence is not asked for in
// this version; who, why and when is recorded.
func (c *Control) Promote(ctx context.Context, by *sallyport.Person, agent sallyport.AgentID, release sallyport.ReleaseID, to sallyport.Stage, reason string) (*Promotion, error) {
	roles, ok := promoters[to]
	if !ok {
		return nil, sallyport.Refuse(sallyport.BadRequest, "no release can be promoted to "+to.String(), "stages are sandbox, staging and production")
	}
	if err := needs(by, "promote to "+to.String(), roles...); err != nil {
		return nil, err
	}
	if err := reasoned(reason); err != nil {
		return nil, err
	}
	c.deciding.Lock()
	defer c.deciding.Unlock()
	past, err := c.Past.Decided(ctx)
	if err != nil {
		return nil, err
	}
	if release == "" {
		if release = past.Latest[agent]; release == "" {
			return nil, noAgent(past, agent)
		}
	}
	r, err := c.releaseOf(ctx, past, agent, release)
	if err != nil {
		return nil, err
	}
	config, err := c.Past.StageConfig(ctx, past.Configs[to])
	if err != nil {
		return nil, err
	}
	if err := c.Live.Check(r, config); err != nil {
		return nil, err
	}
	out := &Promotion{Agent: agent, Stage: to, To: release}
	for _, p := range past.Pointers {
		if p.Agent == agent && p.Stage == to {
			out.From = p.Release
		}
	}
	if out.From == release {
		return nil, sallyport.Refuse(sallyport.Conflict, fmt.Sprintf("%s already runs release %s of %s", to, release.Short(), agent), "")
	}
	record, err := c.record(audit.Promoted, by.ID, map[string]any{"from": out.From, "reason": reason})
	if err != nil {
		return nil, err
	}
	record.Stage, record.StageConfig = to, config.ID
	record.Principal = &audit.Principal{Agent: agent, Release: release}
	return out, c.decide(ctx, record, SetPointer{Agent: agent, Stage: to, Release: release, Was: out.From, By: by.ID, Reason: reason, At: c.Now()})
}
