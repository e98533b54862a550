package agentside_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// The official SDK of another hand is the client here: what it makes of the
// endpoint is what agents will.

// bearing adds a credential to requests.
type bearing struct{ credential string }

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.credential)
	return http.DefaultTransport.RoundTrip(r)
}

func connect(t *testing.T, url, version string, o *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "sdk", Version: "1"}, o)
	transport := &mcp.StreamableClientTransport{Endpoint: url + "/mcp", HTTPClient: &http.Client{Transport: bearing{alice}}}
	session, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// await fails if nothing comes in time.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func TestOfficialClient(t *testing.T) {
	for _, version := range []string{"2026-07-28", "2025-11-25", "2025-06-18"} {
		t.Run(version, func(t *testing.T) { officialClient(t, version) })
	}
}

func officialClient(t *testing.T, version string) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	changed := make(chan string, 10)
	progressed := make(chan float64, 10)
	logged := make(chan mcp.LoggingLevel, 10)
	session := connect(t, server.URL, version, &mcp.ClientOptions{
		ToolListChangedHandler:   func(context.Context, *mcp.ToolListChangedRequest) { changed <- "tools" },
		PromptListChangedHandler: func(context.Context, *mcp.PromptListChangedRequest) { changed <- "prompts" },
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			progressed <- r.Params.Progress
		},
		LoggingMessageHandler: func(_ context.Context, r *mcp.LoggingMessageRequest) { logged <- r.Params.Level },
		CreateMessageHandler: func(_ context.Context, r *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Model: "m", Role: "assistant", Content: &mcp.TextContent{Text: r.Params.SystemPrompt}}, nil
		},
	})
	modern := version == "2026-07-28"
	init := session.InitializeResult()
	if init.ProtocolVersion != version ||
		init.Instructions != `be "kind"` || init.ServerInfo.Name != "sallyport" || init.Capabilities.Completions == nil {
		t.Errorf("initialized with %+v", init)
	}
	if (h.Sessions() == 1) == modern {
		t.Errorf("%d sessions", h.Sessions())
	}

	tools, err := session.ListTools(t.Context(), nil)
	if err != nil || len(tools.Tools) != 2 || tools.Tools[0].Name != "echo" {
		t.Fatalf("tools %+v, %v", tools, err)
	}
	if modern && (tools.TTLMs != 30_000 || tools.CacheScope != "private") {
		t.Errorf("freshness %+v", tools.Cacheable)
	}
	if _, err := session.ListResources(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := session.ListResourceTemplates(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := session.ListPrompts(t.Context(), nil); err != nil {
		t.Error(err)
	}

	// A call with progress, log messages and a result.
	if !modern {
		if err := session.SetLoggingLevel(t.Context(), &mcp.SetLoggingLevelParams{Level: "warning"}); err != nil {
			t.Error(err)
		}
		if err := session.Ping(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	f.onCall(func(ctx context.Context, x *gateway.Exchange) gateway.Reply {
		token := x.Message.ProgressToken.Of(x.Message.Raw)
		for i := range 3 {
			x.Notify(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d}}`, token, i+1))
		}
		for _, l := range []string{"info", "error"} {
			x.Notify([]byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"` + l + `","data":1}}`))
		}
		text := "none"
		if x.Session != nil {
			raw, err := x.Session.Ask(ctx, []byte(`{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1,"systemPrompt":"sampled"}}`))
			if err != nil {
				t.Error(err)
			}
			has(t, string(raw), `"id":1`)
			text = "sampled"
			has(t, string(raw), text)
		}
		return gateway.Reply{Result: []byte(`{"content":[{"type":"text","text":"` + text + `"}],"resultType":"complete"}`)}
	})
	params := &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"a": 1}}
	params.SetProgressToken("p")
	if modern {
		params.Meta[mcp.MetaKeyLogLevel] = "warning"
	}
	result, err := session.CallTool(t.Context(), params)
	if err != nil || result.IsError || len(result.Content) != 1 {
		t.Fatalf("result %+v, %v", result, err)
	}
	if text := result.Content[0].(*mcp.TextContent).Text; text != map[bool]string{true: "none", false: "sampled"}[modern] {
		t.Errorf("text %q", text)
	}
	for want := range 3 {
		if got := await(t, progressed, "progress"); got != float64(want+1) {
			t.Errorf("progress %v", got)
		}
	}
	if got := await(t, logged, "a log message"); got != "error" {
		t.Errorf("level %v", got)
	}

	// A refusal is a result; an error of the upstream is an error.
	f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Denied, "no policy permits it", "ask for less")}
	})
	result, err = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo"})
	if err != nil || !result.IsError || result.Content[0].(*mcp.TextContent).Text != "Refused (denied): no policy permits it. ask for less" {
		t.Errorf("result %+v, %v", result, err)
	}
	if _, err = session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "file:///a"}); err == nil || !strings.Contains(err.Error(), "no policy permits it") {
		t.Errorf("read with %v", err)
	}
	f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
		return gateway.Reply{Error: []byte(`{"code":-32601,"message":"not here"}`)}
	})
	if _, err = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo"}); err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("called with %v", err)
	}

	// A prompt, a resource, a completion.
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		switch x.Message.Method {
		case wire.MethodPromptsGet:
			return gateway.Reply{Result: []byte(`{"messages":[],"resultType":"complete"}`)}
		case wire.MethodResourcesRead:
			return gateway.Reply{Result: []byte(`{"contents":[{"uri":"file:///a","text":"t"}],"resultType":"complete","ttlMs":0,"cacheScope":"private"}`)}
		default:
			return gateway.Reply{Result: []byte(`{"completion":{"values":["v"]},"resultType":"complete"}`)}
		}
	})
	if _, err := session.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "p"}); err != nil {
		t.Error(err)
	}
	if r, err := session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "file:///a"}); err != nil || r.Contents[0].Text != "t" {
		t.Error(r, err)
	}
	if r, err := session.Complete(t.Context(), &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "p"}, Argument: mcp.CompleteParamsArgument{Name: "a"}}); err != nil || r.Completion.Values[0] != "v" {
		t.Error(r, err)
	}

	// Cancellation reaches the call.
	begun, cancelled := make(chan struct{}), make(chan struct{})
	f.onCall(func(ctx context.Context, _ *gateway.Exchange) gateway.Reply {
		close(begun)
		<-ctx.Done()
		close(cancelled)
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "the call was cancelled", "")}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "slow"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled with %v", err)
	}
	await(t, cancelled, "the cancellation")

	// News of lists.
	h.ToolsChanged()
	got := map[string]bool{await(t, changed, "news"): true, await(t, changed, "news"): true}
	if !got["tools"] || !got["prompts"] {
		t.Errorf("news of %v", got)
	}

	if err := session.Close(); err != nil {
		t.Error(err)
	}
	if h.Sessions() != 0 {
		t.Errorf("%d sessions", h.Sessions())
	}
}

// TestOfficialClientIsRefused with a credential nobody knows, in both eras.
func TestOfficialClientIsRefused(t *testing.T) {
	f := newFake(t)
	server := serve(t, newHandler(t, f))
	f.revoke(alice)
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		client := mcp.NewClient(&mcp.Implementation{Name: "sdk", Version: "1"}, nil)
		transport := &mcp.StreamableClientTransport{Endpoint: server.URL + "/mcp", HTTPClient: &http.Client{Transport: bearing{alice}}}
		if _, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version}); err == nil || !strings.Contains(err.Error(), "unauthenticated") {
			t.Errorf("%s: connected with %v", version, err)
		}
	}
}
