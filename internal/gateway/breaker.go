package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"sallyport"
)

const (
	// breakAfter is how many calls in a row have to go wrong for a breaker to open, and
	// breakFor how long it stays so before one call is let through to try.
	breakAfter = 5
	breakFor   = 5 * time.Second
)

// breakerKey is one tool of an upstream of a stage, as it is reached there, or what is
// not a tool of it by its kind. Without either it is the upstream: whether anybody is there
// at all.
type breakerKey struct {
	stage    sallyport.Stage
	upstream sallyport.UpstreamID
	identity sallyport.Digest
	tool     string
	kind     sallyport.Kind
}

type circuit struct {
	*gobreaker.TwoStepCircuitBreaker[any]
	since atomic.Int64 // when its state changed, in nanoseconds since 1970
}

// breaker asks whether the upstream is known to be down, or the tool not to answer, so
// that calls which would wait for nothing end at once. Only what the transport did and how
// long it took counts: an answer that is an error is an answer. A tool that does not answer
// cuts off no other tool; an upstream that nobody can reach is cut off as a whole.
func (g *Gateway) breaker(_ context.Context, x *Exchange) error {
	if !x.reaches() {
		return nil
	}
	whole := breakerKey{stage: x.Stage, upstream: x.Upstream.ID, identity: x.Upstream.Identity}
	part := whole
	if part.kind = x.Kind; x.Tool != nil {
		part.tool = x.Tool.UpstreamName
	}
	if err := g.circuit(x, whole, unreached); err != nil {
		return err
	}
	return g.circuit(x, part, verdict)
}

// circuit asks one breaker, and has it told what the call says.
func (g *Gateway) circuit(x *Exchange, key breakerKey, says func(*Exchange, error) error) error {
	at, ok := g.breakers.Load(key)
	if !ok {
		c := &circuit{}
		c.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Timeout:     breakFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
			IsExcluded:  func(err error) bool { return errors.Is(err, errNothingLearned) },
			OnStateChange: func(_ string, from, to gobreaker.State) {
				c.since.Store(g.Now().UnixNano())
				g.Log.Warn("a circuit breaker has changed", "stage", key.stage, "upstream", key.upstream, "tool", key.tool, "from", from, "to", to)
			},
		})
		at, _ = g.breakers.LoadOrStore(key, c)
	}
	done, err := at.(*circuit).Allow()
	if err != nil {
		return sallyport.Refuse(sallyport.UpstreamUnavailable, "the system behind this tool has not been answering",
			"try something else, or call again in a few seconds")
	}
	x.settle = append(x.settle, func(_ bool, err error) { done(says(x, err)) })
	return nil
}

// errNothingLearned is the verdict on a call that says nothing of its upstream: it
// was stopped or cancelled before there was an answer.
var errNothingLearned = errors.New("the call says nothing of its upstream")

// errSlow is the verdict on a call that was answered late.
var errSlow = errors.New("the upstream took too long")

// unreached is what a call says of whether anybody is there: nil if somebody is.
func unreached(x *Exchange, err error) error {
	if r, ok := errors.AsType[*sallyport.Refusal](err); ok && r.Code == sallyport.UpstreamUnavailable {
		return err
	}
	if x.Response == nil && !x.flight.sent() {
		return errNothingLearned
	}
	return nil
}

// verdict is what a call says of what it calls: nil if it answers, and in time.
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
	if slow := x.Upstream.Slow; slow > 0 && x.UpstreamTime >= slow {
		return errSlow
	}
	return nil
}

// Breaker is a circuit breaker that is not closed.
type Breaker struct {
	Stage    sallyport.Stage      `json:"stage"`
	Upstream sallyport.UpstreamID `json:"upstream"`
	// Tool is the upstream's own name of one, and Kind that of what is not a tool; both
	// are empty where nobody is reached at all.
	Tool  string         `json:"tool,omitempty"`
	Kind  sallyport.Kind `json:"kind,omitzero"`
	State string         `json:"state"` // "open", or "half-open": the next call is a try
	Since time.Time      `json:"since"`
}

// Breakers are those that are not closed, in order.
func (g *Gateway) Breakers() []Breaker {
	var all []Breaker
	g.breakers.Range(func(k, v any) bool {
		key, c := k.(breakerKey), v.(*circuit)
		if state := c.State(); state != gobreaker.StateClosed {
			all = append(all, Breaker{key.stage, key.upstream, key.tool, key.kind, state.String(), time.Unix(0, c.since.Load()).UTC()})
		}
		return true
	})
	slices.SortFunc(all, func(a, b Breaker) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Tool, b.Tool))
	})
	return all
}
