package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"sallyport"
)

// breaker asks whether the upstream is known to be down, so that calls to a dead
// one end at once. Only what the transport did counts: an answer that is an
// error is an answer.
func (g *Gateway) breaker(_ context.Context, x *Exchange) error {
	if !x.reaches() {
		return nil
	}
	key := slotKey{x.Stage, x.Upstream.ID, x.Upstream.Identity}
	b, ok := g.breakers.Load(key)
	if !ok {
		b, _ = g.breakers.LoadOrStore(key, gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Name:        string(x.Upstream.ID),
			Timeout:     5 * time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
		}))
	}
	done, err := b.(*gobreaker.TwoStepCircuitBreaker[any]).Allow()
	if err != nil {
		return sallyport.Refuse(sallyport.UpstreamUnavailable, "the system behind this tool has not been answering",
			"try something else, or call again in a few seconds")
	}
	x.settle = append(x.settle, func(_ bool, err error) {
		if transportFault(err) {
			done(err)
		} else {
			done(nil)
		}
	})
	return nil
}

func transportFault(err error) bool {
	var r *sallyport.Refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.Code {
	case sallyport.UpstreamUnavailable, sallyport.UpstreamProtocol, sallyport.DeadlineExceeded:
		return true
	}
	return false
}
