package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport/internal/wire"
)

// goSDK is a client of the Go SDK.
var goSDK = client{"go", func(ctx context.Context, t *testing.T, w *world, clients int, steps []step) []transcript {
	t.Helper()
	seen := make([]transcript, clients)
	token := w.token()
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			c := gopher{recorder: recorder{token: token}}
			if err := c.run(ctx, w, n, steps); err != nil {
				t.Errorf("client %d: %v", n, err)
			}
			seen[n] = c.transcript
		})
	}
	all.Wait()
	return seen
}}

// gopher is one client of the Go SDK.
type gopher struct {
	recorder
	transport mcp.Transport // nil for that over HTTP
	session   *mcp.ClientSession

	mu         sync.Mutex // around what follows
	step       int
	transcript transcript
	progress   []json.RawMessage
	progressed func()
}

// patience is how long a client waits for what has to come.
const patience = 30 * time.Second

func (c *gopher) connect(ctx context.Context, w *world) error {
	options := &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{},
		ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			c.asked(wire.MethodElicitationCreate)
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			c.asked(wire.MethodSamplingCreateMessage)
			return &mcp.CreateMessageResult{Model: "m", Role: "assistant", Content: &mcp.TextContent{Text: "roses are red"}}, nil
		},
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.progress = append(c.progress, fmt.Appendf(nil, "%v", r.Params.Progress))
			if c.progressed != nil {
				c.progressed()
			}
		},
		LoggingMessageHandler:  func(context.Context, *mcp.LoggingMessageRequest) { c.told(wire.NotificationMessage) },
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { c.told(wire.NotificationToolsListChanged) },
		ResourceUpdatedHandler: func(context.Context, *mcp.ResourceUpdatedNotificationRequest) {
			c.told(wire.NotificationResourcesUpdated)
		},
	}
	transport := c.transport
	if transport == nil {
		transport = &mcp.StreamableClientTransport{Endpoint: w.app.URL + "/mcp", HTTPClient: &http.Client{Transport: c}}
	}
	var err error
	c.session, err = mcp.NewClient(&mcp.Implementation{Name: "counterpart", Version: "1"}, options).Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: w.spoken})
	if err == nil {
		c.transcript.Version = c.session.InitializeResult().ProtocolVersion
	}
	return err
}

func (c *gopher) asked(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transcript.Asked = append(c.transcript.Asked, told{Step: c.step, Method: method})
}

func (c *gopher) told(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transcript.Told = append(c.transcript.Told, told{Step: c.step, Method: method})
}

func (c *gopher) heard(method string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.transcript.Told, func(n told) bool { return n.Method == method })
}

func (c *gopher) run(ctx context.Context, w *world, number int, steps []step) error {
	c.recorder.at = -1
	if err := c.connect(ctx, w); err != nil {
		return err
	}
	for i, s := range steps {
		c.recorder.enter(i)
		calling, cancel := context.WithCancel(ctx)
		c.mu.Lock()
		c.step, c.progress, c.progressed = i, nil, nil
		if s.Cancel {
			c.progressed = cancel
		}
		c.mu.Unlock()
		result, err := c.do(calling, s, number)
		cancel()
		if err := c.settle(ctx, s); err != nil {
			return err
		}
		raw, failed := json.Marshal(result)
		if failed != nil {
			return failed
		}
		c.mu.Lock()
		c.transcript.Steps = append(c.transcript.Steps, made{Result: raw, Progress: c.progress})
		if err != nil {
			c.transcript.Steps[i].Error = &failure{err.Error()}
		}
		c.mu.Unlock()
	}
	err := c.session.Close()
	c.transcript.Answers = c.recorder.answers()
	return err
}

// settle waits for what a step has to bring beside its answer: the SDK calls the
// handlers of notifications when it likes.
func (c *gopher) settle(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		progress := len(c.progress)
		c.mu.Unlock()
		if progress >= s.Progress && (s.Await == "" || c.heard(s.Await)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %s: waited in vain for %s, or for the rest of %d notifications of progress", s.Method, s.Await, s.Progress)
		}
	}
}

// do makes one step by the SDK's own method for it.
func (c *gopher) do(ctx context.Context, s step, number int) (any, error) {
	raw, err := json.Marshal(s.Params)
	if err != nil {
		return nil, err
	}
	raw = bytes.ReplaceAll(raw, []byte(ownNumber), strconv.AppendInt(nil, int64(number), 10))
	switch s.Method {
	case wire.MethodPing:
		return nil, c.session.Ping(ctx, nil)
	case wire.MethodToolsList:
		return c.session.ListTools(ctx, nil)
	case wire.MethodToolsCall:
		var p struct {
			Name      string
			Arguments json.RawMessage
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, err
		}
		params := &mcp.CallToolParams{Name: p.Name, Arguments: p.Arguments}
		if s.Progress > 0 {
			params.SetProgressToken("progress of " + p.Name)
		}
		return c.session.CallTool(ctx, params)
	case wire.MethodResourcesList:
		return c.session.ListResources(ctx, nil)
	case wire.MethodResourcesTemplatesList:
		return c.session.ListResourceTemplates(ctx, nil)
	case wire.MethodResourcesRead:
		return with(raw, func(p *mcp.ReadResourceParams) (any, error) { return c.session.ReadResource(ctx, p) })
	case wire.MethodResourcesSubscribe:
		return with(raw, func(p *mcp.SubscribeParams) (any, error) { return nil, c.session.Subscribe(ctx, p) })
	case wire.MethodResourcesUnsubscribe:
		return with(raw, func(p *mcp.UnsubscribeParams) (any, error) { return nil, c.session.Unsubscribe(ctx, p) })
	case wire.MethodPromptsList:
		return c.session.ListPrompts(ctx, nil)
	case wire.MethodPromptsGet:
		return with(raw, func(p *mcp.GetPromptParams) (any, error) { return c.session.GetPrompt(ctx, p) })
	case wire.MethodCompletionComplete:
		return with(raw, func(p *mcp.CompleteParams) (any, error) { return c.session.Complete(ctx, p) })
	case wire.MethodLoggingSetLevel:
		return with(raw, func(p *mcp.SetLoggingLevelParams) (any, error) { return nil, c.session.SetLoggingLevel(ctx, p) })
	case wire.MethodSubscriptionsListen:
		return nil, nil // this SDK listens by itself, from the beginning
	default:
		return nil, fmt.Errorf("this client does not make %s", s.Method)
	}
}

func with[P any](raw []byte, f func(*P) (any, error)) (any, error) {
	p := new(P)
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, err
	}
	return f(p)
}

// recorder authenticates requests, and keeps the answers to them.
type recorder struct {
	token string

	keeping sync.Mutex
	at      int
	kept    []*kept
}

// kept is a body that is being read.
type kept struct {
	io.ReadCloser
	in   *recorder
	step int
	body bytes.Buffer
}

func (r *recorder) enter(step int) {
	r.keeping.Lock()
	defer r.keeping.Unlock()
	r.at = step
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+r.token)
	var sent struct {
		Method string
		ID     json.RawMessage
	}
	if req.Method == http.MethodPost && req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body.Close()
		req.Body = io.NopCloser(bytes.NewReader(body))
		if err := json.Unmarshal(body, &sent); err != nil {
			return nil, err
		}
	}
	r.keeping.Lock()
	k := &kept{in: r, step: r.at}
	if sent.Method != "" && sent.ID != nil && sent.Method != wire.MethodSubscriptionsListen {
		r.kept = append(r.kept, k)
	}
	r.keeping.Unlock()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		k.ReadCloser, res.Body = res.Body, k
	}
	return res, err
}

func (k *kept) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	k.in.keeping.Lock()
	defer k.in.keeping.Unlock()
	k.body.Write(p[:n])
	return n, err
}

func (r *recorder) answers() (all []answer) {
	r.keeping.Lock()
	defer r.keeping.Unlock()
	for _, k := range r.kept {
		all = append(all, answer{k.step, k.body.String()})
	}
	return all
}

// goServer is a server of the Go SDK that speaks 2026-07-28.
func goServer() http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "gopher", Version: "1"}, &mcp.ServerOptions{
		Instructions: "dig", Capabilities: &mcp.ServerCapabilities{},
	})
	object := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&mcp.Tool{Name: "exact", Description: "gives <back> & what it was given, é \u2028", InputSchema: object},
		func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(r.Params.Arguments)}}, StructuredContent: r.Params.Arguments}, nil
		})
	s.AddTool(&mcp.Tool{Name: "strange", InputSchema: object},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{
				Meta:              mcp.Meta{"example.com/n": json.Number("12345678901234567890"), "": []any{}},
				Content:           []mcp.Content{&mcp.TextContent{Text: oddText}},
				StructuredContent: json.RawMessage(`{"large":-98765432109876543210,"form":1.0E+2,"tiny":1e-400,"text":"\u0000\ud83d\ude00\/"}`),
				IsError:           true,
			}, nil
		})
	s.AddTool(&mcp.Tool{Name: "fail", InputSchema: object},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, &jsonrpc.Error{Code: -32098, Message: "it is <broken>", Data: json.RawMessage(`{"why":12345678901234567890,"list":[null,{}]}`)}
		})
	s.AddTool(&mcp.Tool{Name: "climb", InputSchema: object},
		func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for i := range 3 {
				if token := r.Params.GetProgressToken(); token != nil {
					if err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i + 1)}); err != nil {
						return nil, err
					}
				}
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "on top"}}}, nil
		})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{
		Stateless: true, PropagateRequestCancellation: true,
	})
}
