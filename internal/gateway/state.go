package gateway

import (
	"context"
	"slices"
	"time"

	"sallyport"
)

// State is what people have decided, as this replica sees it. It is never
// changed, only replaced.
type State struct {
	// Epoch grows with every control change that has committed.
	Epoch int64
	Halts []sallyport.Halt
	// Pointers say which release of an agent a stage runs.
	Pointers map[Pointer]sallyport.ReleaseID
	// Configs are the current configuration of each stage, by digest.
	Configs map[sallyport.Stage]sallyport.Digest

	// local are halts that work already and are not yet in Halts: the store has
	// not taken them, or this replica has not read them back.
	local []sallyport.Halt
}

// Pointer names a stage pointer.
type Pointer struct {
	Agent sallyport.AgentID
	Stage sallyport.Stage
}

// Halted returns the first halt that stops the target, or nil.
func (s *State) Halted(t *sallyport.Target) *sallyport.Halt {
	for i := range s.Halts {
		if s.Halts[i].Stops(t) {
			return &s.Halts[i]
		}
	}
	for i := range s.local {
		if s.local[i].Stops(t) {
			return &s.local[i]
		}
	}
	return nil
}

// Has reports whether a halt of the same scope and subject works already.
func (s *State) Has(h sallyport.Halt) bool {
	same := func(k sallyport.Halt) bool { return k.Scope == h.Scope && k.Subject == h.Subject }
	return slices.ContainsFunc(s.Halts, same) || slices.ContainsFunc(s.local, same)
}

// State returns the current state.
func (g *Gateway) State() *State { return g.state.Load() }

// SetState replaces the state unless a newer one is in place, and stops the
// calls in flight that the new one halts: see [Stopping]. A halt that works locally
// goes on working until it has been read back from the store.
func (g *Gateway) SetState(s State) Stopping {
	for {
		old := g.state.Load()
		if old.Epoch > s.Epoch {
			return nil
		}
		next := s
		next.local = nil
		for _, h := range old.local {
			if !slices.ContainsFunc(s.Halts, func(k sallyport.Halt) bool { return k.Scope == h.Scope && k.Subject == h.Subject }) {
				next.local = append(next.local, h)
			}
		}
		if g.state.CompareAndSwap(old, &next) {
			return g.flights.stop(&next)
		}
	}
}

// Stopping are the calls that a state stops.
type Stopping []*flight

// Wait returns when each of them has been sent or never will be: a call that had not
// begun to write does not write any more, since beforeWrite looks at the state after
// it has marked itself and whoever stops looks at the mark after the state. It returns
// those whose bytes were sent, or may have been, how many were not, and false if ctx
// ended before.
func (s Stopping) Wait(ctx context.Context) (inFlight []sallyport.CallID, unsent int, sure bool) {
	sure = true
	for _, f := range s {
		select {
		case <-f.settled:
		case <-ctx.Done():
			sure = false
		}
		if f.sent() {
			inFlight = append(inFlight, f.call)
		} else {
			unsent++
		}
	}
	return inFlight, unsent, sure
}

// HaltReport says what a halt did on this replica. Times are measured, not
// promised.
type HaltReport struct {
	// Applied: no call that matches is admitted after it.
	Applied time.Time `json:"applied"`
	// Confirmed: every call that matches and was admitted before has either been
	// stopped before its first byte or is listed in InFlight. Zero if that could
	// not be established in time.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// InFlight are calls whose bytes had been, or may have been, sent: they were
	// cancelled, and what they did is unknown until settled.
	InFlight []sallyport.CallID `json:"in_flight"`
	// Stopped counts calls that were admitted but never sent.
	Stopped int `json:"stopped"`
}

// Halt stops everything the halt matches, at once and in memory: it needs no
// store and waits for nobody but the calls it stops. Recording it is the
// caller's business. ctx bounds the wait for confirmation.
func (g *Gateway) Halt(ctx context.Context, h sallyport.Halt) HaltReport {
	var next *State
	for {
		old := g.state.Load()
		changed := *old
		next = &changed
		next.local = append(slices.Clip(old.local), h)
		if g.state.CompareAndSwap(old, next) {
			break
		}
	}
	report := HaltReport{Applied: g.Now()}
	confirmed := false
	report.InFlight, report.Stopped, confirmed = g.flights.stop(next).Wait(ctx)
	if confirmed {
		report.Confirmed = g.Now()
	}
	return report
}

// Plans makes the plan of a release in a stage's current configuration.
type Plans interface {
	// Plan returns a refusal with code no_release when the release or the stage
	// has not been applied.
	Plan(ctx context.Context, release sallyport.ReleaseID, stage sallyport.Stage, config sallyport.Digest) (*Plan, error)
}
