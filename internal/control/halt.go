package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/audit"
)

// Stopped says what a halt did on this replica; times are measured.
type Stopped struct {
	Halt sallyport.Halt `json:"halt"`
	// Applied: no matching call is admitted after it. Confirmed: every matching
	// call admitted before has been stopped or is listed in InFlight; zero if that
	// was not established in time.
	Applied   time.Time `json:"applied"`
	Confirmed time.Time `json:"confirmed,omitzero"`
	// ConfirmedMicros is from the command's arrival to Confirmed.
	ConfirmedMicros int64              `json:"confirmed_micros,omitempty"`
	InFlight        []sallyport.CallID `json:"in_flight"`
	Unsent          int                `json:"unsent"`
	// Recorded is false while the store has not taken the halt; it works all the
	// same and is recorded when the store is back.
	Recorded bool   `json:"recorded"`
	Problem  string `json:"problem,omitempty"`
}

// Halt stops what the scope names, at once: in memory first, then in the book.
// It asks for no gate and waits for no other decision. A store that is down
// does not prevent it.
func (c *Control) Halt(ctx context.Context, by *sallyport.Person, scope sallyport.HaltScope, subject, reason string) (*Stopped, error) {
	if err := needs(by, "halt", sallyport.Operator, sallyport.Approver); err != nil {
		return nil, err
	}
	if err := reasoned(reason); err != nil {
		return nil, err
	}
	if err := haltable(scope, subject); err != nil {
		return nil, err
	}
	return c.stop(ctx, sallyport.Halt{Scope: scope, Subject: subject, Reason: reason, By: string(by.ID), At: c.Now()}), nil
}

// HaltLocally stops what the halt names on the word of the machine itself: a
// signal, or the file of spare halts.
func (c *Control) HaltLocally(ctx context.Context, h sallyport.Halt) *Stopped {
	return c.stop(ctx, h)
}

// recordWait is how long whoever halts waits for the record of it. A store that is
// slow has had its chance then; one that hangs must not keep the word that the
// halt works.
const recordWait = 10 * time.Second

func (c *Control) stop(ctx context.Context, h sallyport.Halt) *Stopped {
	arrived := c.Now()
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := c.Live.Halt(bounded, h)
	out.Halt = h
	if out.InFlight == nil {
		out.InFlight = []sallyport.CallID{} // never null
	}
	if !out.Confirmed.IsZero() {
		out.ConfirmedMicros = out.Confirmed.Sub(arrived).Microseconds()
	}
	recorded, effect := make(chan error, 1), out
	go func() { recorded <- c.recordHalt(context.WithoutCancel(ctx), h, &effect) }()
	var err error
	select {
	case err = <-recorded:
	case <-time.After(recordWait):
		// It may be recorded yet, and once more from the file: a halt twice is one.
		err = fmt.Errorf("the store has not answered for %s", recordWait)
	}
	if err != nil {
		c.Log.Error("a halt works but could not be recorded; it will be when the store is back", "scope", h.Scope, "subject", h.Subject, "err", err)
		out.Problem = "not recorded yet: " + err.Error()
		if err := c.keepSpare(h); err != nil {
			out.Problem += "; and it could not be kept in a file: a restart would forget it: " + err.Error()
		}
		return &out
	}
	out.Recorded = true
	return &out
}

func (c *Control) recordHalt(ctx context.Context, h sallyport.Halt, s *Stopped) error {
	detail := map[string]any{"scope": h.Scope, "subject": h.Subject, "reason": h.Reason}
	if s != nil {
		detail["applied"], detail["confirmed"], detail["in_flight"], detail["unsent"] = s.Applied, s.Confirmed, s.InFlight, s.Unsent
	}
	record, err := c.record(audit.HaltedK, sallyport.PersonID(h.By), detail)
	if err != nil {
		return err
	}
	return c.decide(ctx, record, AddHalt{h})
}

// Resume takes a halt back.
func (c *Control) Resume(ctx context.Context, by *sallyport.Person, scope sallyport.HaltScope, subject, reason string) error {
	if err := needs(by, "resume", sallyport.Operator, sallyport.Approver); err != nil {
		return err
	}
	if err := reasoned(reason); err != nil {
		return err
	}
	if err := haltable(scope, subject); err != nil {
		return err
	}
	c.deciding.Lock()
	defer c.deciding.Unlock()
	if err := c.Recover(ctx); err != nil { // a halt that is not recorded cannot be taken back
		return fmt.Errorf("recording halts first: %w", err)
	}
	record, err := c.record(audit.Resumed, by.ID, map[string]any{"scope": scope, "subject": subject, "reason": reason})
	if err != nil {
		return err
	}
	return c.decide(ctx, record, DropHalt{scope, subject})
}

// Recover records the halts that the book could not take before. It is called
// at the start and every few seconds.
func (c *Control) Recover(ctx context.Context) error {
	c.recovering.Lock()
	defer c.recovering.Unlock()
	c.spare.Lock()
	kept, err := c.Spare.Kept()
	c.spare.Unlock()
	if err != nil || len(kept) == 0 {
		return err
	}
	for _, h := range kept {
		if err := c.recordHalt(ctx, h, nil); err != nil {
			return err
		}
	}
	// Another may have been put there meanwhile, by somebody for whom nothing else
	// worked: it stays for the next time.
	c.spare.Lock()
	defer c.spare.Unlock()
	return c.Spare.Change(func(now []sallyport.Halt) []sallyport.Halt {
		return slices.DeleteFunc(now, func(h sallyport.Halt) bool {
			return slices.ContainsFunc(kept, func(k sallyport.Halt) bool { return same(&k, &h) })
		})
	})
}

// same reports whether two halts stop the same.
func same(a, b *sallyport.Halt) bool { return a.Scope == b.Scope && a.Subject == b.Subject }

func (c *Control) keepSpare(h sallyport.Halt) error {
	c.spare.Lock()
	defer c.spare.Unlock()
	return c.Spare.Change(func(kept []sallyport.Halt) []sallyport.Halt {
		if slices.ContainsFunc(kept, func(k sallyport.Halt) bool { return same(&k, &h) }) {
			return kept
		}
		return append(kept, h)
	})
}

// haltable refuses a subject that cannot be what the scope names.
func haltable(scope sallyport.HaltScope, subject string) error {
	bad := func(want string) error {
		return sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%q is not %s", subject, want), "see: sallyport halt --help")
	}
	switch scope {
	case sallyport.HaltGlobal:
		if subject != "" {
			return bad("needed: a global halt has no subject")
		}
	case sallyport.HaltStage:
		var s sallyport.Stage
		if s.UnmarshalText([]byte(subject)) != nil {
			return bad("a stage")
		}
	case sallyport.HaltAgent, sallyport.HaltUpstream:
		if !sallyport.ValidName(subject) {
			return bad("a name")
		}
	case sallyport.HaltRelease:
		if !strings.HasPrefix(subject, "sha256:") || len(subject) != 7+64 {
			return bad("the whole digest of a release")
		}
	case sallyport.HaltTool:
		upstream, tool, ok := strings.Cut(subject, "/")
		if !ok || !sallyport.ValidName(upstream) || tool == "" {
			return bad("a tool, written <upstream>/<tool>")
		}
	case sallyport.HaltRun:
		if !strings.HasPrefix(subject, "run_") {
			return bad("a run")
		}
	default:
		return bad("a scope")
	}
	return nil
}
