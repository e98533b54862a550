// Package counterpart holds internal/upstream against servers that others wrote:
// those of the official Go SDK, in both eras, over both transports.
package counterpart_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv("PLAY") == "server" {
		if err := newServer(nil).Run(context.Background(), &mcp.StdioTransport{}); err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type text struct {
	Text string `json:"text"`
}

// newServer has a tool for each thing a server can do during a call. cancelled,
// if not nil, is told of calls that were.
func newServer(cancelled chan<- string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "sdk", Version: "1"}, &mcp.ServerOptions{
		Instructions:       "be kind",
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	s.AddResource(&mcp.Resource{URI: "memo:one", Name: "one"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: "memo:one", Text: "1"}}}, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "touch"},
		func(ctx context.Context, _ *mcp.CallToolRequest, in text) (*mcp.CallToolResult, any, error) {
			return nil, nil, s.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: in.Text})
		})
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "says <it> & again"},
		func(_ context.Context, _ *mcp.CallToolRequest, in text) (*mcp.CallToolResult, text, error) {
			return nil, in, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "fail"},
		func(context.Context, *mcp.CallToolRequest, text) (*mcp.CallToolResult, any, error) {
			return nil, nil, errors.New("it is broken")
		})
	mcp.AddTool(s, &mcp.Tool{Name: "progress"},
		func(ctx context.Context, r *mcp.CallToolRequest, in text) (*mcp.CallToolResult, text, error) {
			for i := range 3 {
				err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i + 1), Message: "step"})
				if err != nil {
					return nil, text{}, err
				}
			}
			return nil, in, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "wait"},
		func(ctx context.Context, _ *mcp.CallToolRequest, in text) (*mcp.CallToolResult, any, error) {
			<-ctx.Done()
			if cancelled != nil {
				cancelled <- in.Text
			}
			fmt.Fprintln(os.Stderr, "cancelled", in.Text)
			return nil, nil, ctx.Err()
		})
	mcp.AddTool(s, &mcp.Tool{Name: "sample"},
		func(ctx context.Context, r *mcp.CallToolRequest, in text) (*mcp.CallToolResult, text, error) {
			got, err := r.Session.CreateMessage(ctx, &mcp.CreateMessageParams{
				MaxTokens: 10, Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: in.Text}}},
			})
			if err != nil {
				return nil, text{}, err
			}
			return nil, text{got.Content.(*mcp.TextContent).Text}, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "elicit"},
		func(ctx context.Context, r *mcp.CallToolRequest, in text) (*mcp.CallToolResult, text, error) {
			got, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: in.Text, RequestedSchema: map[string]any{"type": "object"}})
			if err != nil {
				return nil, text{}, err
			}
			return nil, text{got.Action}, nil
		})
	return s
}

// counterpart is a way to reach the server.
type counterpart struct {
	name      string
	transport sallyport.Transport
	cancelled chan string // nil for a program
}

func counterparts(t *testing.T) []counterpart {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var all []counterpart
	for _, version := range []string{wire.Version20260728, wire.Version20251125} {
		for _, inJSON := range []bool{false, true} {
			cancelled := make(chan string, 8)
			server := newServer(cancelled)
			h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{
				Stateless: version == wire.Version20260728, JSONResponse: inJSON, PropagateRequestCancellation: true,
			}))
			t.Cleanup(func() {
				h.CloseClientConnections()
				h.Close()
			})
			kind := "events"
			if inJSON {
				kind = "json"
			}
			all = append(all, counterpart{version + "/http/" + kind, sallyport.Transport{URL: h.URL, Era: version}, cancelled})
		}
		all = append(all, counterpart{version + "/stdio", sallyport.Transport{
			Command: []string{self}, Env: map[string]string{"PLAY": "server"}, Era: version,
		}, nil})
	}
	return all
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newStage(t *testing.T) *upstream.Stage {
	t.Helper()
	s := upstream.NewStage(upstream.Config{Stage: sallyport.Production, Client: upstream.Implementation{Name: "sallyport", Version: "test"}})
	t.Cleanup(func() {
		if err := s.Close(within(t)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (c *counterpart) backend(t *testing.T, s *upstream.Stage) gateway.Backend {
	t.Helper()
	b, err := s.Backend(&sallyport.StageUpstream{ID: "crm", Transport: c.transport})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *counterpart) session(id string) *gateway.Session {
	if c.transport.Era != wire.Version20251125 {
		return nil
	}
	return &gateway.Session{
		ID: id, ClientInfo: json.RawMessage(`{"name":"client","version":"7"}`),
		ClientCapabilities: json.RawMessage(`{"sampling":{},"elicitation":{"form":{}}}`),
	}
}

func (c *counterpart) request(t *testing.T, s *gateway.Session, id, method, params string) *gateway.Request {
	t.Helper()
	meta := `"progressToken":"tok"`
	era := wire.Sessions
	if s == nil {
		era = wire.Stateless
		meta += `,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},` +
			`"io.modelcontextprotocol/clientCapabilities":{"sampling":{},"elicitation":{}}`
	}
	if params != "" {
		params += ","
	}
	m, err := wire.Scan(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s"_meta":{%s}}}`, id, method, params, meta), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return &gateway.Request{Message: m, Method: method, Era: era, Session: s, MaxResult: 4 << 20}
}

func (c *counterpart) call(t *testing.T, s *gateway.Session, id, tool, argument string) *gateway.Request {
	t.Helper()
	return c.request(t, s, id, wire.MethodToolsCall, fmt.Sprintf(`"name":%q,"arguments":{"text":%q}`, tool, argument))
}

func do(t *testing.T, b gateway.Backend, r *gateway.Request) wire.Message {
	t.Helper()
	res, err := b.Do(within(t), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Message.Name, err)
	}
	return res.Message
}

func textOf(t *testing.T, m wire.Message) string {
	t.Helper()
	var got text
	if err := json.Unmarshal(m.StructuredContent.Of(m.Raw), &got); err != nil {
		t.Fatalf("%s: %v", m.Raw, err)
	}
	return got.Text
}

func eachCounterpart(t *testing.T, f func(t *testing.T, c *counterpart)) {
	for _, c := range counterparts(t) {
		t.Run(c.name, func(t *testing.T) { f(t, &c) })
	}
}

func TestCalls(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		stage := newStage(t)
		b := c.backend(t, stage)
		s := c.session("one")
		for i := range 20 {
			said := strings.Repeat("a <b> & \"c\" é\n", i*i*10)
			if got := textOf(t, do(t, b, c.call(t, s, fmt.Sprint(i), "echo", said))); got != said {
				t.Fatalf("got %d bytes, want %d", len(got), len(said))
			}
		}
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				said := fmt.Sprint("call ", i)
				if got := textOf(t, do(t, b, c.call(t, s, fmt.Sprint(100+i), "echo", said))); got != said {
					t.Errorf("got %q, want %q", got, said)
				}
			})
		}
		all.Wait()
		if m := do(t, b, c.call(t, s, `"x"`, "fail", "")); !m.IsError || string(m.ID.Of(m.Raw)) != `"x"` {
			t.Errorf("got %s", m.Raw)
		}
		m := do(t, b, c.request(t, s, "7", wire.MethodToolsCall, `"name":"nothing"`))
		if m.Kind != wire.Error {
			t.Errorf("got %s", m.Raw)
		}
		// The SDK reads this id into a double and answers another one.
		if m := do(t, b, c.call(t, s, "12345678901234567890", "echo", "x")); string(m.ID.Of(m.Raw)) != "12345678901234567890" {
			t.Errorf("got %s", m.Raw)
		}
		items, _, err := wire.Items(func() []byte {
			m := do(t, b, c.request(t, s, "8", wire.MethodToolsList, ""))
			return m.Result.Of(m.Raw)
		}(), "tools")
		if err != nil || len(items) != 7 {
			t.Errorf("%d tools, %v", len(items), err)
		}
		if st := stage.Status()[0]; st.Dropped != 0 || st.Restarts != 0 || st.LastError != "" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestProgress(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		if strings.Contains(c.name, "json") {
			return // its server has nowhere to send it
		}
		b := c.backend(t, newStage(t))
		r := c.call(t, c.session("one"), "1", "progress", "x")
		var got []string
		r.Notify = func(raw []byte) { got = append(got, string(raw)) }
		do(t, b, r)
		if len(got) != 3 || !strings.Contains(got[0], `"progressToken":"tok"`) {
			t.Errorf("notified %q", got)
		}
	})
}

func TestCancel(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		stage := newStage(t)
		b := c.backend(t, stage)
		s := c.session("one")
		do(t, b, c.call(t, s, "1", "echo", "x"))
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_, err := b.Do(ctx, c.call(t, s, "2", "wait", "me"))
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != sallyport.DeadlineExceeded {
			t.Fatalf("got %v", err)
		}
		if c.cancelled != nil {
			select {
			case got := <-c.cancelled:
				if got != "me" {
					t.Errorf("cancelled %q", got)
				}
			case <-within(t).Done():
				t.Error("the server was not told")
			}
		} else {
			told, tick := within(t), time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for !slices.Contains(stage.Status()[0].Stderr, "cancelled me") {
				select {
				case <-told.Done():
					t.Fatal("the server was not told")
				case <-tick.C:
				}
			}
		}
		do(t, b, c.call(t, s, "3", "echo", "x"))
	})
}

func TestQuestions(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		s := c.session("one")
		if s == nil {
			return // nobody may ask in the stateless era
		}
		ask := func(_ context.Context, raw []byte) ([]byte, error) {
			m, err := wire.Scan(raw, wire.Limits{})
			if err != nil {
				return nil, err
			}
			result := `{"action":"decline"}`
			if m.Method == wire.MethodSamplingCreateMessage {
				result = `{"model":"m","role":"assistant","content":{"type":"text","text":"answer"}}`
			}
			return wire.AppendResult(nil, m.ID.Of(raw), []byte(result)), nil
		}
		if strings.Contains(c.name, "json") {
			s.Ask = ask // they come beside the call
		}
		b := c.backend(t, newStage(t))
		do(t, b, c.call(t, s, "0", "echo", "x"))
		for tool, want := range map[string]string{"sample": "answer", "elicit": "decline"} {
			r := c.call(t, s, `"`+tool+`"`, tool, "q")
			r.Ask = ask
			if got := textOf(t, do(t, b, r)); got != want {
				t.Errorf("%s: got %q, want %q", tool, got, want)
			}
			if strings.Contains(c.name, "json") {
				continue
			}
			r = c.call(t, s, `"`+tool+`2"`, tool, "q")
			if m := do(t, b, r); !m.IsError {
				t.Errorf("%s: nobody was asked, and the answer was %s", tool, m.Raw)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		got, err := newStage(t).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: c.transport})
		if err != nil {
			t.Fatal(err)
		}
		// Over stdio this server speaks both eras, and the newer is found.
		want := c.transport.Era
		if len(c.transport.Command) > 0 {
			want = wire.Version20260728
		}
		if got.Version != want || got.Server.Instructions != "be kind" || !bytes.Contains(got.Server.ServerInfo, []byte(`"sdk"`)) {
			t.Errorf("got %s %+v", got.Version, got.Server)
		}
		if len(got.Tools) != 7 {
			t.Errorf("%d tools", len(got.Tools))
		}
	})
}

// What arrives is what the server sends to anybody else, byte for byte.
func TestResultsAreTheServersBytes(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		if c.name != wire.Version20260728+"/http/json" {
			return
		}
		b := c.backend(t, newStage(t))
		r := c.call(t, nil, "12345", "echo", "<&> é")
		m := do(t, b, r)
		direct, err := http.NewRequestWithContext(within(t), http.MethodPost, c.transport.URL, bytes.NewReader(r.Message.Raw))
		if err != nil {
			t.Fatal(err)
		}
		direct.Header.Set("Content-Type", "application/json")
		direct.Header.Set("Accept", "application/json, text/event-stream")
		wire.SetHeaders(direct.Header, &r.Message, wire.Version20260728)
		res, err := http.DefaultClient.Do(direct)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		want, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Raw, want) {
			t.Errorf("got  %s\nwant %s", m.Raw, want)
		}
	})
}

func TestSessionsAreEnded(t *testing.T) {
	eachCounterpart(t, func(t *testing.T, c *counterpart) {
		s := c.session("one")
		if s == nil {
			return
		}
		delivered := make(chan struct{}, 1)
		s.Deliver = func([]byte) {
			select {
			case delivered <- struct{}{}:
			default:
			}
		}
		stage := newStage(t)
		b := c.backend(t, stage)
		do(t, b, c.call(t, s, "1", "echo", "x"))
		stage.Forget(s)
		if n := stage.Status()[0].Sessions; n != 0 {
			t.Errorf("%d sessions", n)
		}
		do(t, b, c.call(t, s, "2", "echo", "x"))
	})
}

// TestWatch: news of a resource reach who asked for it, in either era and over either
// transport, until it is ended.
func TestWatch(t *testing.T) {
	for _, c := range counterparts(t) {
		t.Run(c.name, func(t *testing.T) {
			b := c.backend(t, newStage(t))
			s := c.session("watching")
			if s != nil {
				s.Deliver = func([]byte) {}
			}
			news := make(chan string, 100)
			method, params := wire.MethodSubscriptionsListen, `"notifications":{"resourceSubscriptions":["memo:one"]}`
			if s != nil {
				method, params = wire.MethodResourcesSubscribe, `"uri":"memo:one"`
			}
			r := c.request(t, s, "1", method, params)
			r.Message.Name = "memo:one"
			r.Watching = &gateway.Watching{Updated: func(uri string) { news <- uri }, May: func(context.Context) bool { return true }, Lost: func() { t.Error("lost") }}
			res, err := b.Do(within(t), r)
			if err != nil || res.Watch == nil || res.Message.Kind != wire.Result {
				t.Fatalf("%+v, %v", res, err)
			}
			ctx := within(t)
			for heard := false; !heard; { // a stream beside the calls may not be open yet
				do(t, b, c.call(t, s, "2", "touch", "memo:other"))
				do(t, b, c.call(t, s, "3", "touch", "memo:one"))
				select {
				case uri := <-news:
					if heard = true; uri != "memo:one" {
						t.Errorf("told of %q", uri)
					}
				case <-time.After(10 * time.Millisecond):
				case <-ctx.Done():
					t.Fatal("nothing is told")
				}
			}
			res.Watch.End()
			res.Watch.End()
		})
	}
}
