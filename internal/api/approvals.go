package api

import (
	"context"
	"time"

	"sallyport"
	"sallyport/internal/control"
)

type (
	// ApprovalQuery says which approvals to list.
	ApprovalQuery struct {
		Paging
		State sallyport.ApprovalState `query:"state" doc:"Approvals that stand so."`
		Agent sallyport.AgentID       `query:"agent" doc:"Asked for by this agent."`
		Run   sallyport.RunID         `query:"run" doc:"Of this run."`
	}
	// StatsQuery says since when to count.
	StatsQuery struct {
		Since time.Time         `query:"since" doc:"Asked then or later; 30 days ago if it is left out."`
		Agent sallyport.AgentID `query:"agent" doc:"Asked for by this agent."`
	}
	// DrillRequest seeds a request that nobody should approve.
	DrillRequest struct {
		Agent     sallyport.AgentID `json:"agent"`
		Stage     sallyport.Stage   `json:"stage"`
		Tool      string            `json:"tool"` // as the agent knows it
		Arguments map[string]any    `json:"arguments"`
		Task      string            `json:"task,omitempty"`
		Role      sallyport.Role    `json:"role,omitempty"`
		Reason    string            `json:"reason"`
	}
)

func (c *server) listApprovals(ctx context.Context, by *sallyport.Person, q *ApprovalQuery) (*Page[control.Approval], error) {
	words, err := positionOf("approvals", q.Cursor, 1)
	if err != nil {
		return nil, err
	}
	below := sallyport.ApprovalID("")
	if words != nil {
		below = sallyport.ApprovalID(words[0])
		if _, ok := sallyport.TimeOfID("apr", words[0]); !ok {
			return nil, badCursor
		}
	}
	found, err := c.Control.Approvals(ctx, by, control.ApprovalFilter{State: q.State, Agent: q.Agent, Run: q.Run}, below, q.limit()+1)
	if err != nil {
		return nil, err
	}
	return pageOf(found, q.limit(), func(a *control.Approval) string { return cursor("approvals", string(a.ID)) }), nil
}
