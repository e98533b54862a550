package upstream_test

import (
	"context"
	"errors"
	"testing"

	"sallyport"
	"sallyport/internal/wire"
)

// TestNothingIsOpenedForASessionThatIsOver: a call whose client has ended its
// session on the way here must not open a session, or start a program, that
// nobody would end.
func TestNothingIsOpenedForASessionThatIsOver(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http", "stdio"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			transport := program(t, wire.Version20251125)
			if kind == "http" {
				transport = atSessions(newConversation(t).site)
			}
			s := newStage(t, sallyport.Production)
			b := backend(t, s, transport)
			client := clientSession("gone")
			ctx, cancel := context.WithCancel(within(t))
			cancel()         // as the end of a session does,
			s.Forget(client) // in this order
			if _, err := b.Do(ctx, sessions(t, client, "1", "echo", `{}`)); err == nil {
				t.Error("a cancelled call was made")
			}
			if st := status(t, s); st.Sessions != 0 || st.Children != 0 {
				t.Errorf("left behind for good: %d sessions, %d children", st.Sessions, st.Children)
			}
		})
	}
}

// TestStdioQuestionBesideTwoCalls: a question of a program that has two calls in
// flight is one of theirs, and goes where policy looks at it.
func TestStdioQuestionBesideTwoCalls(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20251125))
	client := clientSession("s1")
	client.Ask = func(context.Context, []byte) ([]byte, error) {
		t.Error("the client was asked past its calls")
		return nil, errors.New("no")
	}
	ctx, cancel := context.WithCancel(within(t))
	hang, sent, ended := sessions(t, client, "1", "hang", `{}`), make(chan struct{}), make(chan struct{})
	hang.AfterWrite = func() { close(sent) }
	go func() {
		defer close(ended)
		b.Do(ctx, hang)
	}()
	<-sent
	r := sessions(t, client, "2", "ask", `{}`)
	r.Ask = func(context.Context, []byte) ([]byte, error) {
		return []byte(`{"jsonrpc":"2.0","id":"q","result":{"x":1.0}}`), nil
	}
	if got := structured[struct{ Answer string }](t, do(t, b, r)).Answer; got != `{"jsonrpc":"2.0","id":"q","result":{"x":1.0}}` {
		t.Errorf("got %s", got)
	}
	cancel()
	<-ended
}
