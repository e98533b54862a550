package control

import (
	"context"
	"fmt"
	"slices"

	"sallyport"
	"sallyport/internal/audit"
)

// Settle ends an unknown outcome on the word of a person who has looked: the
// call happened, or it did not. The call is never repeated.
func (c *Control) Settle(ctx context.Context, by *sallyport.Person, u Unknown, as, reason string) error {
	if err := needs(by, "settle outcomes", sallyport.Operator, sallyport.Approver); err != nil {
		return err
	}
	if err := reasoned(reason); err != nil {
		return err
	}
	if !slices.Contains([]string{"happened", "did-not-happen"}, as) {
		return sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("an outcome cannot be settled as %q", as), "happened or did-not-happen")
	}
	record, err := c.record(audit.Settled, by.ID, map[string]any{"as": as, "reason": reason, "intent": u.Sequence})
	if err != nil {
		return err
	}
	record.Run, record.Call, record.Stage, record.Upstream, record.Tool = u.Run, u.Call, u.Stage, u.Upstream, u.Tool
	record.Principal = &audit.Principal{Agent: u.Agent}
	record.Outcome = sallyport.OutcomeOK
	if as == "did-not-happen" {
		record.Outcome = sallyport.OutcomeRefused
	}
	return c.Book.Commit(ctx, record, Settle{u.Call})
}
