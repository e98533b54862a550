package control

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"sallyport"
	"sallyport/internal/audit"
)

// Proposal is a project directory as versions, and what they would change.
type Proposal struct {
	// Digest is over the whole of it; whoever has looked at a diff names it, so
	// that what is applied is what was looked at.
	Digest   sallyport.Digest
	Releases []sallyport.Release
	Stages   map[sallyport.Stage]sallyport.StageConfig
	// Worlds are those that stages name, by digest.
	Worlds map[sallyport.Digest]*sallyport.World
	// Loosens lists, in words, what would loosen a stage's configuration.
	Loosens map[sallyport.Stage][]string
}

// Applied says what apply did.
type Applied struct {
	Digest sallyport.Digest `json:"digest"`
	// Releases are the releases of the proposal; New those not registered before.
	Releases map[sallyport.AgentID]sallyport.ReleaseID `json:"releases"`
	New      []sallyport.ReleaseID                     `json:"new"`
	// Stages are the stages whose configuration changed.
	Stages []sallyport.Stage `json:"stages"`
}

// Apply registers the releases of a proposal and puts its stage configurations
// into force. It moves no stage pointer: an agent goes on running the release it
// runs. What loosens staging or production takes an approver or operator and a
// reason.
func (c *Control) Apply(ctx context.Context, by *sallyport.Person, p *Proposal, seen sallyport.Digest, reason string) (*Applied, error) {
	if err := needs(by, "apply", sallyport.Developer, sallyport.Approver, sallyport.Operator); err != nil {
		return nil, err
	}
	c.deciding.Lock()
	defer c.deciding.Unlock()
	if seen != "" && seen != p.Digest {
		return nil, sallyport.Refuse(sallyport.Conflict, "the project directory has changed since the diff that was looked at", "look at diff again, then apply")
	}
	for _, stage := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
		if len(p.Loosens[stage]) == 0 {
			continue
		}
		if err := needs(by, "loosen "+stage.String()+" ("+strings.Join(p.Loosens[stage], "; ")+")", sallyport.Approver, sallyport.Operator); err != nil {
			return nil, err
		}
		if err := reasoned(reason); err != nil {
			return nil, err
		}
	}
	past, err := c.Past.Decided(ctx)
	if err != nil {
		return nil, err
	}
	out := &Applied{Digest: p.Digest, Releases: map[sallyport.AgentID]sallyport.ReleaseID{}, New: []sallyport.ReleaseID{}, Stages: []sallyport.Stage{}}
	var changes []Change
	for i := range p.Releases {
		r := &p.Releases[i]
		for _, stage := range sallyport.Stages {
			config := p.Stages[stage]
			if err := c.Live.Check(r, &config); err != nil {
				return nil, err
			}
		}
		out.Releases[r.Agent] = r.ID
		if past.Latest[r.Agent] == r.ID {
			continue
		}
		out.New = append(out.New, r.ID)
		body, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		changes = append(changes, PutVersion{ReleaseVersion, r.ID, body}, SetLatest{r.Agent, r.ID})
	}
	for _, stage := range sallyport.Stages {
		config, ok := p.Stages[stage]
		if !ok || past.Configs[stage] == config.ID {
			continue
		}
		// The releases that people promoted have to go on working.
		for _, at := range past.Pointers {
			if at.Stage != stage {
				continue
			}
			running, err := c.Past.Release(ctx, at.Release)
			if err != nil {
				return nil, err
			}
			if err := c.Live.Check(running, &config); err != nil {
				return nil, err
			}
		}
		for _, ref := range worldsOf(&config, p) {
			for _, digest := range slices.Sorted(maps.Keys(p.Worlds[ref].Files)) {
				changes = append(changes, PutVersion{FileVersion, digest, p.Worlds[ref].Files[digest]})
			}
			changes = append(changes, PutVersion{WorldVersion, ref, p.Worlds[ref].Body})
		}
		body, err := json.Marshal(config)
		if err != nil {
			return nil, err
		}
		changes = append(changes, PutVersion{StageVersion, config.ID, body}, SetConfig{stage, config.ID, past.Configs[stage]})
		out.Stages = append(out.Stages, stage)
	}
	if len(changes) == 0 {
		return out, nil
	}
	loosened := map[string][]string{}
	for stage, list := range p.Loosens {
		loosened[stage.String()] = list
	}
	record, err := c.record(audit.Applied, by.ID, map[string]any{
		"digest": p.Digest, "releases": out.Releases, "stages": out.Stages, "loosens": loosened, "reason": reason,
	})
	if err != nil {
		return nil, err
	}
	return out, c.decide(ctx, record, changes...)
}

// worldsOf are the worlds of a stage that the proposal brings, in order.
func worldsOf(c *sallyport.StageConfig, p *Proposal) []sallyport.Digest {
	var out []sallyport.Digest
	for _, u := range c.Upstreams {
		if d := u.World.Digest; p.Worlds[d] != nil && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}
