package gateway

import (
	"context"
	"fmt"
	"time"

	"sallyport"
	"sallyport/internal/wire"
)

// defaultInFlight bounds the calls to one upstream of one stage at one time, so
// that a slow one cannot take every goroutine and connection of the gateway.
const defaultInFlight = 64

// slotKey is one upstream of one stage, as it is reached there.
type slotKey struct {
	stage    sallyport.Stage
	upstream sallyport.UpstreamID
	identity sallyport.Digest
	most     int // places; a limit that was changed counts from then on
}

// Rates counts calls against rates, those of all replicas together.
type Rates interface {
	// Take takes one call out of a rate that is counted under a key. A wait above zero:
	// there is none, and there can be one after that. Errors are refusals with code
	// not_ready where nothing can be counted, too_busy, or that of ctx.
	Take(ctx context.Context, key string, r sallyport.Rate) (wait time.Duration, err error)
}

// limit asks whether there is room: in the run's budget, which is reserved here
// and never given back, since a refused call costs as much care as another; in the
// upstream's rate, which is not given back either; and at the upstream, whose place
// is given back when the call ends.
func (g *Gateway) limit(ctx context.Context, x *Exchange) error {
	if !x.Listing {
		place, err := x.Run.reserve(ctx, x.binding() == sallyport.Simulate || x.shadows() && x.within == nil)
		if err != nil {
			return g.sendError(ctx, x, err)
		}
		if place == nil {
			return overBudget(x)
		}
		if x.Number = place.number + 1; x.within != nil {
			x.Number = x.within.Number
		}
		if place.done != nil {
			x.place = place
			x.settle = append(x.settle, func(bool, error) { place.leave() })
		}
	}
	if err := g.spend(ctx, x); err != nil {
		return err
	}
	if !x.reaches() {
		return nil
	}
	if err := g.takeRate(ctx, x); err != nil {
		return err
	}
	n := x.Upstream.MaxInFlight
	if n <= 0 {
		n = defaultInFlight
	}
	key := slotKey{x.Stage, x.Upstream.ID, x.Upstream.Identity, n}
	slots, ok := g.slots.Load(key)
	if !ok {
		slots, _ = g.slots.LoadOrStore(key, make(chan struct{}, n))
	}
	select {
	case slots.(chan struct{}) <- struct{}{}:
		x.settle = append(x.settle, func(bool, error) { <-slots.(chan struct{}) })
		return nil
	default:
		return sallyport.Refuse(sallyport.TooBusy, "too many calls to this tool's system are in flight", "wait a moment and call again")
	}
}

// takeRate takes the call out of its upstream's rate. Lists are not counted: one that
// is refused would hide what an agent may use. What ends a subscription does not reach
// the upstream.
func (g *Gateway) takeRate(ctx context.Context, x *Exchange) error {
	rate := x.Upstream.Rate
	if rate == nil || x.Listing || x.Message.Method == wire.MethodResourcesUnsubscribe {
		return nil
	}
	if g.Rates == nil {
		return fmt.Errorf("limit: upstream %s has a rate, and nothing counts it", x.Upstream.ID)
	}
	wait, err := g.Rates.Take(ctx, x.Stage.String()+"/"+string(x.Upstream.ID), *rate)
	if err != nil {
		return g.sendError(ctx, x, fmt.Errorf("limit: %w", err))
	}
	if wait > 0 {
		return rateLimited(wait)
	}
	return nil
}

func rateLimited(wait time.Duration) *sallyport.Refusal {
	n, unit := (wait+time.Second-1)/time.Second, "seconds"
	switch {
	case n <= 1:
		n, unit = 1, "second"
	case n > 120:
		n, unit = (n+59)/60, "minutes"
	}
	r := sallyport.Refuse(sallyport.RateLimited, "this tool's system is being called as often as it may be",
		fmt.Sprintf("nothing was sent; wait %d %s and call again", n, unit))
	r.Detail = map[string]any{"retry_after_ms": (wait + time.Millisecond - 1).Milliseconds()}
	return r
}

func overBudget(x *Exchange) *sallyport.Refusal {
	r := sallyport.Refuse(sallyport.OverBudget, "the run has used up its calls", "finish with what you have, or ask for a new run")
	r.Detail = map[string]any{"max_calls": x.Run.Envelope.MaxCalls}
	return r
}
