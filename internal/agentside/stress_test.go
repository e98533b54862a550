package agentside_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
)

// TestStress opens, uses and leaves sessions and streams from many sides at once,
// in every way they can be left, and looks for what is left behind.
func TestStress(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := newFake(t)
	f.onCall(func(ctx context.Context, x *gateway.Exchange) gateway.Reply {
		notify := func() {
			if x.Notify != nil {
				x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`))
			}
		}
		switch x.Message.Name {
		case "slow":
			notify()
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Millisecond): // its deadline
			}
			go notify() // after the end
			return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "x", "")}
		case "ask":
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			x.Session.Ask(ctx, []byte(`{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}`))
			x.Session.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}`))
		case "stream":
			notify()
		}
		return gateway.Reply{Result: []byte(`{"content":[]}`)}
	})
	h := newHandler(t, f, func(c *agentside.Config) { c.MaxSessionsPerKey = 30 })
	server := httptest.NewServer(h)
	client := &http.Client{Transport: &http.Transport{}}
	do := func(ctx context.Context, r *request) int {
		res, err := client.Do(r.http(server.URL).WithContext(ctx))
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	var opened sync.Map
	var wait sync.WaitGroup
	for worker := range 10 {
		wait.Go(func() {
			for round := range 50 {
				ctx, cancel := context.WithCancel(context.Background())
				res, err := client.Do(post(initializeBody).http(server.URL))
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				session := res.Header.Get("Mcp-Session-Id")
				opened.Store(session, true)
				var inside sync.WaitGroup
				inside.Go(func() {
					do(ctx, &request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}})
				})
				inside.Go(func() { do(ctx, legacy(session, toolCall("1", "slow"))) })
				inside.Go(func() {
					do(ctx, modern("subscriptions/listen", `"notifications":{"toolsListChanged":true},`))
				})
				for i, name := range []string{"echo", "stream", "ask"} {
					do(ctx, legacy(session, toolCall(fmt.Sprint(i+2), name)))
				}
				h.ToolsChanged()
				if (worker+round)%3 != 0 {
					do(context.Background(), legacy(session, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`))
				}
				if (worker+round)%2 == 0 {
					do(context.Background(), &request{method: "DELETE", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Session-Id": {session}}})
				}
				cancel()
				inside.Wait()
			}
		})
	}
	wait.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	h.Close(ctx)
	// What was cut off above is not waited for: what Close cancels must end.
	if err := h.Close(context.Background()); err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
	server.Close()
	n := 0
	opened.Range(func(any, any) bool { n++; return true })
	if h.Sessions() != 0 || f.closedSessions() != n || n != 500 {
		t.Errorf("%d sessions left, %d of %d closed", h.Sessions(), f.closedSessions(), n)
	}
}
