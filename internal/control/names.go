package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sallyport"
)

// Nameless says that nothing known has the name a halt was given for. The halt
// stands all the same: something may have the name later.
type Nameless struct {
	// Says is one sentence for people; it begins with what is missing.
	Says string `json:"says"`
	// Near are the nearest names that are known, the nearest first.
	Near []string `json:"near"`
}

// FindName looks for what a halt's subject names among what has been applied and
// runs. It returns nil if there is such a thing, and an error if that could not be
// found out. What a release names counts while the release runs in a stage or is
// the one of its agent that was applied last; a release or a run counts always.
func FindName(ctx context.Context, past Past, d *Decided, scope sallyport.HaltScope, subject string) (*Nameless, error) {
	var what, where string
	var known []string
	var err error
	switch scope {
	case sallyport.HaltAgent:
		what, where = "agent", "has been applied"
		known = agentsOf(d)
	case sallyport.HaltUpstream:
		what, where = "upstream", "is part of what has been applied"
		known, err = upstreamsOf(ctx, past, d)
	case sallyport.HaltTool:
		what, where = "tool", "is pinned by a release that runs or was applied last"
		known, err = toolsOf(ctx, past, d)
	case sallyport.HaltRelease:
		what, where = "release", "has been applied"
		_, err = past.Release(ctx, sallyport.ReleaseID(subject))
		if err == nil {
			return nil, nil
		}
		known, err = textOf(releasesOf(d)), unlessMissing(err)
	case sallyport.HaltRun:
		what, where = "run", "was ever opened"
		_, err = past.Run(ctx, sallyport.RunID(subject))
		if err == nil {
			return nil, nil
		}
		err = unlessMissing(err)
	default: // everything, and the stages, are always there
		return nil, nil
	}
	if err != nil || slices.Contains(known, subject) {
		return nil, err
	}
	near := sallyport.Nearest(subject, known)
	says := fmt.Sprintf("no %s with the name %s %s, so nothing that is known now is stopped", what, subject, where)
	if hint := didYouMean(near); hint != "" {
		says += "; " + hint
	}
	if near == nil {
		near = []string{} // never null
	}
	return &Nameless{Says: says, Near: near}, nil
}

// didYouMean is the question after names that may have been meant, "" for none.
func didYouMean(near []string) string {
	if len(near) == 0 {
		return ""
	}
	return "did you mean " + strings.Join(near, " or ") + "?"
}

// unlessMissing is nil for an error that says there is no such thing.
func unlessMissing(err error) error {
	if r, ok := errors.AsType[*sallyport.Refusal](err); ok && (r.Code == sallyport.NoRelease || r.Code == sallyport.NoRun || r.Code == sallyport.NotFound) {
		return nil
	}
	return err
}

func textOf[S ~string](names []S) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out
}

// agentsOf are the agents that have been applied.
func agentsOf(d *Decided) []string { return textOf(slices.Collect(maps.Keys(d.Latest))) }

// releasesOf are the releases that run in a stage or were applied last.
func releasesOf(d *Decided) []sallyport.ReleaseID {
	ids := slices.Collect(maps.Values(d.Latest))
	for _, p := range d.Pointers {
		ids = append(ids, p.Release)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// toolsOf are the tools that those releases pin, as a halt names them.
func toolsOf(ctx context.Context, past Past, d *Decided) ([]string, error) {
	var names []string
	for _, id := range releasesOf(d) {
		r, err := past.Release(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, t := range r.Tools {
			names = append(names, string(t.Upstream)+"/"+t.UpstreamName)
		}
	}
	return names, nil
}

// upstreamsOf are the upstreams of those tools, and of all stages.
func upstreamsOf(ctx context.Context, past Past, d *Decided) ([]string, error) {
	names, err := toolsOf(ctx, past, d)
	for i, name := range names {
		names[i], _, _ = strings.Cut(name, "/")
	}
	for _, id := range d.Configs {
		if err != nil {
			break
		}
		var c *sallyport.StageConfig
		if c, err = past.StageConfig(ctx, id); err == nil {
			names = append(names, textOf(slices.Collect(maps.Keys(c.Upstreams)))...)
		}
	}
	return names, err
}

// noAgent refuses an agent that has not been applied.
func noAgent(d *Decided, agent sallyport.AgentID) error {
	hint := "write agents/" + string(agent) + ".yaml and run: sallyport apply"
	if near := didYouMean(sallyport.Nearest(string(agent), agentsOf(d))); near != "" {
		hint = near + " if not, " + hint
	}
	return sallyport.Refuse(sallyport.NotFound, fmt.Sprintf("no release of agent %q has been applied", agent), hint)
}

// releaseOf is a release that has to be one of the agent.
func (c *Control) releaseOf(ctx context.Context, d *Decided, agent sallyport.AgentID, id sallyport.ReleaseID) (*sallyport.Release, error) {
	r, err := c.Past.Release(ctx, id)
	if none, ok := errors.AsType[*sallyport.Refusal](err); ok && none.Code == sallyport.NoRelease {
		if near := didYouMean(sallyport.Nearest(string(id), textOf(releasesOf(d)))); near != "" {
			return nil, sallyport.Refuse(none.Code, none.Reason, near)
		}
	}
	if err != nil {
		return nil, err
	}
	if r.Agent != agent {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("release %s is of agent %s, not %s", id.Short(), r.Agent, agent), "release list shows the releases of an agent")
	}
	return r, nil
}
