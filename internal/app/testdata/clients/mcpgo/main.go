// Command mcpgo is a client of mark3labs/mcp-go: an implementation of the protocol
// that shares no code with the official SDKs. It is a module of its own, so that
// Sallyport's does not grow by it. It reads and writes what
// ../../counterpart/run.mjs does, for one client.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

type input struct {
	URL, Token, Version string
	Steps               []step
}

type step struct {
	Method   string
	Params   json.RawMessage
	Progress int
	Cancel   bool
}

type transcript struct {
	Version string    `json:"version"`
	Steps   []made    `json:"steps"`
	Asked   []told    `json:"asked"`
	Answers []*answer `json:"answers"`
}

type made struct {
	Result   any               `json:"result,omitempty"`
	Error    *failure          `json:"error,omitempty"`
	Progress []json.RawMessage `json:"progress"`
}

type failure struct {
	Message string `json:"message"`
}

type told struct {
	Step   int    `json:"step"`
	Method string `json:"method"`
}

// run is one run of the client. It is also its RoundTripper, which keeps the
// answers to POSTs, and its answers to what servers ask.
type run struct {
	input

	mu         sync.Mutex // around what follows
	at         int
	transcript transcript
	progress   []json.RawMessage
	progressed chan struct{}
}

// patience is how long what has to come is waited for.
const patience = 30 * time.Second

func main() {
	r := run{progressed: make(chan struct{}, 64)}
	err := json.NewDecoder(os.Stdin).Decode(&r.input)
	if err == nil {
		err = r.make(context.Background())
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode([]transcript{r.transcript})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (r *run) make(ctx context.Context) error {
	http, err := transport.NewStreamableHTTP(r.URL, transport.WithHTTPBasicClient(&http.Client{Transport: r}))
	if err != nil {
		return err
	}
	c := client.NewClient(http, client.WithProtocolVersion(r.Version), client.WithElicitationHandler(r), client.WithSamplingHandler(r))
	c.OnNotification(r.notified)
	if err := c.Start(ctx); err != nil {
		return err
	}
	var hello mcp.InitializeRequest
	hello.Params.ProtocolVersion = r.Version
	hello.Params.ClientInfo = mcp.Implementation{Name: "counterpart", Version: "1"}
	if _, err := c.Initialize(ctx, hello); err != nil {
		return err
	}
	r.transcript.Version = c.ProtocolVersion()
	for i, s := range r.Steps {
		r.mu.Lock()
		r.at, r.progress = i, nil
		r.mu.Unlock()
		calling, cancel := context.WithCancel(ctx)
		done := make(chan made, 1)
		go func() {
			result, err := do(calling, c, s)
			if err != nil {
				done <- made{Error: &failure{err.Error()}}
			} else {
				done <- made{Result: result}
			}
		}()
		// The handlers of notifications are called when the SDK likes.
		for range s.Progress {
			select {
			case <-r.progressed:
			case <-time.After(patience):
				cancel()
				return fmt.Errorf("%s %s: no progress; %+v", s.Method, s.Params, <-done)
			}
		}
		if s.Cancel {
			cancel()
		}
		m := <-done
		cancel()
		r.mu.Lock()
		m.Progress = r.progress
		r.transcript.Steps = append(r.transcript.Steps, m)
		r.mu.Unlock()
	}
	return c.Close()
}

// do makes one step by the SDK's own method for it.
func do(ctx context.Context, c *client.Client, s step) (any, error) {
	switch s.Method {
	case "tools/list":
		return c.ListTools(ctx, mcp.ListToolsRequest{})
	case "resources/list":
		return c.ListResources(ctx, mcp.ListResourcesRequest{})
	case "prompts/list":
		return c.ListPrompts(ctx, mcp.ListPromptsRequest{})
	case "tools/call":
		var r mcp.CallToolRequest
		if err := json.Unmarshal(s.Params, &r.Params); err != nil {
			return nil, err
		}
		if s.Progress > 0 {
			r.Params.Meta = &mcp.Meta{ProgressToken: "progress of " + r.Params.Name}
		}
		return c.CallTool(ctx, r)
	case "resources/read":
		var r mcp.ReadResourceRequest
		if err := json.Unmarshal(s.Params, &r.Params); err != nil {
			return nil, err
		}
		return c.ReadResource(ctx, r)
	case "prompts/get":
		var r mcp.GetPromptRequest
		if err := json.Unmarshal(s.Params, &r.Params); err != nil {
			return nil, err
		}
		return c.GetPrompt(ctx, r)
	}
	return nil, fmt.Errorf("this client does not make %s", s.Method)
}

func (r *run) notified(n mcp.JSONRPCNotification) {
	if n.Method != "notifications/progress" {
		return
	}
	params, err := json.Marshal(n.Params)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.progress = append(r.progress, params)
	r.mu.Unlock()
	r.progressed <- struct{}{}
}

func (r *run) asked(method string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transcript.Asked = append(r.transcript.Asked, told{r.at, method})
}

// Elicit answers as a person would.
func (r *run) Elicit(context.Context, mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	r.asked("elicitation/create")
	return &mcp.ElicitationResult{ElicitationResponse: mcp.ElicitationResponse{
		Action: mcp.ElicitationResponseActionAccept, Content: map[string]any{"name": "Ada"},
	}}, nil
}

// CreateMessage answers as a model would.
func (r *run) CreateMessage(context.Context, mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	r.asked("sampling/createMessage")
	return &mcp.CreateMessageResult{
		Model: "m", SamplingMessage: mcp.SamplingMessage{Role: mcp.RoleAssistant, Content: mcp.NewTextContent("roses are red")},
	}, nil
}

// answer is the body of an answer to a POST, as far as it was read.
type answer struct {
	Step int    `json:"step"`
	Body string `json:"body"`

	io.ReadCloser `json:"-"`
	in            *run
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	a.Body += string(p[:n])
	return n, err
}

func (r *run) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+r.Token)
	var sent struct {
		Method string
		ID     json.RawMessage
	}
	if req.Method == http.MethodPost {
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
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || sent.Method == "" || sent.ID == nil {
		return res, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &answer{Step: r.at, ReadCloser: res.Body, in: r}
	r.transcript.Answers, res.Body = append(r.transcript.Answers, a), a
	return res, nil
}
