package gateway

import (
	"context"

	"sallyport"
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

// limit asks whether there is room: in the run's budget, which is reserved here
// and never given back, since a refused call costs as much care as another; and
// at the upstream, whose place is given back when the call ends.
func (g *Gateway) limit(ctx context.Context, x *Exchange) error {
	if !x.Listing {
		number, ok, err := x.Run.reserve(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return overBudget(x)
		}
		x.Number = number
	}
	if !x.reaches() {
		return nil
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

func overBudget(x *Exchange) *sallyport.Refusal {
	r := sallyport.Refuse(sallyport.OverBudget, "the run has used up its calls", "finish with what you have, or ask for a new run")
	r.Detail = map[string]any{"max_calls": x.Run.Envelope.MaxCalls}
	return r
}
