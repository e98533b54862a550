package agentside

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"sallyport/internal/wire"
)

// maxAsked bounds the questions of upstreams that one client has not answered.
const maxAsked = 64

// mayBeAsked reports whether a client said that it answers questions.
func mayBeAsked(capabilities []byte) bool {
	for _, name := range []string{"sampling", "elicitation", "roots"} {
		if value, err := field(capabilities, name); err == nil && len(value) > 0 && value[0] == '{' {
			return true
		}
	}
	return false
}

var errNotAnswered = errors.New("the client did not answer")

// ask passes an upstream's request to the client and returns the client's
// response with the upstream's id in it. On the way the request has an id of our
// own, so that two upstreams may use the same. It goes out on the stream of the
// call it belongs to if the client takes one, otherwise on that of the session.
func (s *session) ask(ctx context.Context, raw []byte) ([]byte, error) {
	m, err := wire.Scan(raw, wire.Limits{Bytes: maxMessage})
	if err != nil {
		return nil, fmt.Errorf("request of an upstream: %w", err)
	}
	if m.Kind != wire.Request {
		return nil, errors.New("request of an upstream: not a request")
	}
	id, answers, err := s.expect()
	if err != nil {
		return nil, err
	}
	defer s.forget(id)
	ours := wire.Splice(raw, wire.Edit{Span: m.ID, With: wire.AppendString(nil, id)})
	p, _ := ctx.Value(callKey{}).(*post)
	if p == nil || p.session != s || !p.answer.push(ours, id) {
		p = nil
		s.mu.Lock()
		ok := s.queue.add(ours, id)
		s.wakeLocked()
		s.mu.Unlock()
		if !ok {
			return nil, errNotAnswered
		}
	}
	select {
	case answer := <-answers:
		return wire.Splice(answer.Raw, wire.Edit{Span: answer.ID, With: m.ID.Of(raw)}), nil
	case <-s.over:
		return nil, errNotAnswered
	case <-ctx.Done():
		s.withdraw(p, id)
		return nil, ctx.Err()
	}
}

// expect makes an id for a request of ours and the place for its response.
func (s *session) expect() (string, <-chan wire.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil || len(s.asked) >= maxAsked {
		return "", nil, errNotAnswered
	}
	s.askedN++
	id := "ask-" + strconv.FormatUint(s.askedN, 10)
	answers := make(chan wire.Message, 1)
	s.asked[id] = answers
	return id, answers, nil
}

func (s *session) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, id)
}

// withdraw takes a request back that nobody waits for any more, or tells the
// client so if it may have seen it.
func (s *session) withdraw(p *post, id string) {
	params := append(wire.AppendString([]byte(`{"requestId":`), id), '}')
	cancelled := wire.AppendNotification(nil, wire.NotificationCancelled, params)
	if p != nil && p.answer.withdraw(id, cancelled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.queue.withdraw(id) {
		s.queue.add(cancelled, "")
		s.wakeLocked()
	}
}

// answered takes the client's response to a request of ours. One that nobody
// waits for is dropped: it came too late.
func (s *session) answered(m wire.Message) {
	id, err := wire.DecodeString(m.ID.Of(m.Raw))
	if err != nil {
		return
	}
	s.mu.Lock()
	answers := s.asked[id]
	delete(s.asked, id)
	s.mu.Unlock()
	if answers != nil {
		answers <- m
	}
}
