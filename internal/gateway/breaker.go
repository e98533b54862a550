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
	key := slotKey{stage: x.Stage, upstream: x.Upstream.ID, identity: x.Upstream.Identity}
	b, ok := g.breakers.Load(key)
	if !ok {
		b, _ = g.breakers.LoadOrStore(key, gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Name:        string(x.Upstream.ID),
			Timeout:     5 * time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
			IsExcluded:  func(err error) bool { return errors.Is(err, errNothingLearned) },
		}))
	}
	done, err := b.(*gobreaker.TwoStepCircuitBreaker[any]).Allow()
	if err != nil {
		return sallyport.Refuse(sallyport.UpstreamUnavailable, "the system behind this tool has not been answering",
			"try something else, or call again in a few seconds")
	}
	x.settle = append(x.settle, func(_ bool, err error) { done(verdict(x, err)) })
	return nil
}

// errNothingLearned is the verdict on a call that says nothing of its upstream: it
// was stopped or cancelled before there was an answer.
var errNothingLearned = errors.New("the call says nothing of its upstream")

// verdict is what a call says of its upstream: nil if it answers.
func verdict(x *Exchange, err error) error {
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		switch status, _ := r.Detail["status"].(int); {
		case r.Code == sallyport.UpstreamProtocol && status >= 400 && status < 500:
			return nil // it answers; what it does not like is in the request
		}
		switch r.Code {
		case sallyport.UpstreamUnavailable, sallyport.UpstreamProtocol, sallyport.DeadlineExceeded:
			return err
		case sallyport.ResultTooLarge:
			return nil
		}
	}
	if x.Response == nil {
		return errNothingLearned
	}
	return nil
}
