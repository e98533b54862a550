package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/wire"
)

// Agent is the scripted support agent: an MCP client that knows an address and a
// token, and nothing of what stands behind them.
type Agent struct {
	Endpoint string // of MCP over streamable HTTP
	Token    string // sent as a bearer token
	Era      wire.Era
	Client   *http.Client // nil for http.DefaultClient
	// Pace is the time between two calls while the agent goes on working; zero
	// means 20 ms.
	Pace time.Duration
}

// Step is one thing the agent did, and what came of it.
type Step struct {
	Name    string          // "connect", "find", "list", "refund", "check", "large refund", "wrong type", "held refund" or "work"
	Tool    string          // as the agent sees it; empty for connect
	Args    json.RawMessage // nil for connect
	Outcome Outcome
	// Code is that of a refusal, such as "denied"; empty if the text is none.
	Code string
	Text string // what the tool said, or why it could not be asked
	Took time.Duration
	// Page is where people decide about a call that is held, and State what the agent comes
	// back with.
	Page, State string
}

// Outcome is how a step ended.
type Outcome string

// The outcomes: a result, a result with isError, a result that waits for people, an error
// of the protocol.
const (
	OK     Outcome = "ok"
	Failed Outcome = "failed"
	Held   Outcome = "held"
	Fault  Outcome = "fault"
)

// haltedCode is that of a call that a halt has stopped.
const haltedCode = "halted"

// maxFaults is how many calls may go wrong in a row while the agent works.
const maxFaults = 5

// ErrNotHalted is returned by [Agent.Run] when its context ends before anybody
// halts the agent.
var ErrNotHalted = errors.New("nobody has halted the agent")

// Run connects, finds the customer with the address ada@example.com, lists her
// payments, refunds 40, lists them again, tries to refund 900, tries to refund the
// text "40", asks for a refund of 200, and then goes on reading the customer until a halt
// stops it. It calls each after every step. It returns nil once halted, ErrNotHalted, or
// why it could not connect or go on.
func (a *Agent) Run(ctx context.Context, each func(Step)) error {
	s := session{agent: a, tools: map[string]string{}}
	started := time.Now()
	err := s.connect(ctx)
	step := Step{Name: "connect", Outcome: OK, Text: fmt.Sprintf("%d tools", len(s.tools)), Took: time.Since(started)}
	if err != nil {
		step.Outcome, step.Text = Fault, err.Error()
	}
	each(step)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", a.Endpoint, err)
	}
	defer s.close()

	var who struct{ ID string }
	var owed struct {
		Payments []struct {
			Payment          string
			Amount, Refunded int
		}
	}
	faults := 0
	var last Step
	do := func(name, tool string, args any, to any) bool {
		step, structured := s.call(ctx, name, tool, args, "")
		each(step)
		if last = step; step.Outcome == Fault {
			faults++
		} else {
			faults = 0
		}
		if to != nil {
			_ = json.Unmarshal(structured, to) // without it the next step uses what is known anyway
		}
		return step.Code != haltedCode
	}
	if !do("find", "find_customer", map[string]any{"email": "ada@example.com"}, &who) {
		return nil
	}
	if who.ID == "" {
		who.ID = "cus_0001"
	}
	if !do("list", "list_payments", map[string]any{"customer": who.ID}, &owed) {
		return nil
	}
	// The least payment that 40 can be taken from, and the largest of all.
	small, large := "pay_1002", "pay_1001"
	least, most := math.MaxInt, 0
	for _, p := range owed.Payments {
		left := p.Amount - p.Refunded
		if left >= 40 && left < least {
			small, least = p.Payment, left
		}
		if left > most {
			large, most = p.Payment, left
		}
	}
	type refund struct {
		Payment string `json:"payment"`
		Amount  any    `json:"amount"`
		Reason  string `json:"reason"`
	}
	if !do("refund", "refund", refund{small, 40, "The parcel came late."}, nil) ||
		!do("check", "list_payments", map[string]any{"customer": who.ID}, nil) ||
		!do("large refund", "refund", refund{large, 900, "The customer asked for all of it."}, nil) ||
		!do("wrong type", "refund", refund{small, "40", "The parcel came late."}, nil) ||
		!do("held refund", "refund", refund{large, 200, "The customer was promised it."}, nil) {
		return nil
	}
	interval := a.Pace
	if interval <= 0 {
		interval = 20 * time.Millisecond
	}
	pace := time.NewTicker(interval)
	defer pace.Stop()
	for {
		if !do("work", "get_customer", map[string]any{"id": who.ID}, nil) {
			return nil
		}
		if ctx.Err() == nil && faults >= maxFaults {
			return fmt.Errorf("call %s: %s", last.Tool, last.Text)
		}
		select {
		case <-ctx.Done():
			return ErrNotHalted
		case <-pace.C:
		}
	}
}

// Return makes a call again that was held.
func (a *Agent) Return(ctx context.Context, held Step) Step {
	s := session{agent: a, tools: map[string]string{}}
	step, _ := s.call(ctx, held.Name, held.Tool, held.Args, held.State)
	return step
}

// maxReply is the largest reply that is read, in bytes.
const maxReply = 1 << 20

// session is one connection of the agent.
type session struct {
	agent *Agent
	id    string            // of the sessions era
	tools map[string]string // as listed, by the name without a prefix
	last  int64
}

func (s *session) connect(ctx context.Context) error {
	greeting, params := wire.MethodServerDiscover, ""
	if s.agent.Era == wire.Sessions {
		greeting = wire.MethodInitialize
		params = `{"protocolVersion":"` + wire.Version20251125 + `","capabilities":{},"clientInfo":{"name":"support-agent","version":"1.0.0"}}`
	}
	if _, err := s.ask(ctx, greeting, params); err != nil {
		return err
	}
	if s.agent.Era == wire.Sessions {
		if err := s.tell(ctx, wire.NotificationInitialized); err != nil {
			return err
		}
	}
	cursor := ""
	for {
		params := `{}`
		if cursor != "" {
			params = `{"cursor":` + string(wire.AppendString(nil, cursor)) + `}`
		}
		m, err := s.ask(ctx, wire.MethodToolsList, params)
		if err != nil {
			return err
		}
		items, next, err := wire.Items(m.Result.Of(m.Raw), "tools")
		if err != nil {
			return err
		}
		for _, item := range items {
			var t struct{ Name string }
			if err := json.Unmarshal(item, &t); err != nil {
				return err
			}
			_, plain, prefixed := strings.Cut(t.Name, "__")
			if !prefixed {
				plain = t.Name
			}
			s.tools[plain] = t.Name
		}
		if cursor = next; cursor == "" {
			return nil
		}
	}
}

// call calls a tool and returns the structured result, if there is one. state is that of
// a call that was held.
func (s *session) call(ctx context.Context, name, tool string, args any, state string) (Step, json.RawMessage) {
	step := Step{Name: name, Tool: tool}
	if listed, ok := s.tools[tool]; ok {
		step.Tool = listed
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return step.fault(err), nil
	}
	step.Args = raw
	started := time.Now()
	params := append(wire.AppendString([]byte(`{"name":`), step.Tool), `,"arguments":`...)
	params = append(params, raw...)
	if state != "" {
		params = wire.AppendString(append(params, `,"requestState":`...), state)
	}
	m, err := s.ask(ctx, wire.MethodToolsCall, string(append(params, '}')))
	step.Took = time.Since(started)
	if err != nil {
		return step.fault(err), nil
	}
	if m.ResultType == wire.ResultInputRequired {
		return step.held(m.Result.Of(m.Raw)), nil
	}
	var blocks []struct{ Text string }
	if err := json.Unmarshal(m.Content.Of(m.Raw), &blocks); err != nil {
		return step.fault(err), nil
	}
	for _, b := range blocks {
		step.Text += b.Text
	}
	step.Outcome = OK
	if m.IsError {
		step.Outcome, step.Code = Failed, codeOf(step.Text)
	}
	return step, m.StructuredContent.Of(m.Raw)
}

// held is a step whose result asks for a page to be opened.
func (s Step) held(result []byte) Step {
	questions, state, err := wire.Questions(result)
	if err == nil && len(questions) == 1 {
		var page struct{ Message, URL string }
		if err = json.Unmarshal(questions[0].Params, &page); err == nil {
			s.State, err = wire.DecodeString(state)
		}
		s.Outcome, s.Text, s.Page = Held, page.Message, page.URL
	}
	if err != nil {
		return s.fault(err)
	}
	return s
}

func (s Step) fault(err error) Step {
	s.Outcome, s.Text = Fault, err.Error()
	s.Code = codeOf(s.Text)
	return s
}

// codeOf is the code of a refusal, whose text begins with "Refused (code):".
func codeOf(text string) string {
	rest, ok := strings.CutPrefix(text, "Refused (")
	code, _, closed := strings.Cut(rest, "):")
	if !ok || !closed || code == "" || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return code
}

// ask sends a request and waits for its result. The error of an error response is
// its message.
func (s *session) ask(ctx context.Context, method, params string) (*wire.Message, error) {
	s.last++
	id := strconv.AppendInt(nil, s.last, 10)
	version := wire.Version20251125
	if s.agent.Era == wire.Stateless {
		version = wire.Version20260728
		meta := fmt.Sprintf(`{"_meta":{%q:%q,%q:{"name":"support-agent","version":"1.0.0"},%q:{"elicitation":{"url":{}}}}`,
			wire.MetaProtocolVersion, version, wire.MetaClientInfo, wire.MetaClientCapabilities)
		if rest := strings.TrimPrefix(params, "{"); rest != "" && rest != "}" {
			meta += "," + rest
		} else {
			meta += "}"
		}
		params = meta
	}
	body := wire.AppendRequest(nil, id, method, []byte(params))
	resp, err := s.send(ctx, http.MethodPost, body, version)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if v := resp.Header.Get(wire.HeaderSessionID); v != "" && method == wire.MethodInitialize {
		s.id = v
	}
	m, err := reply(resp, id)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", method, resp.Status, err)
	}
	if m.Kind == wire.Error {
		var e struct{ Message string }
		if err := json.Unmarshal(m.Error.Of(m.Raw), &e); err != nil {
			return nil, err
		}
		return nil, errors.New(e.Message)
	}
	return m, nil
}

func (s *session) tell(ctx context.Context, notification string) error {
	resp, err := s.send(ctx, http.MethodPost, wire.AppendNotification(nil, notification, nil), wire.Version20251125)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", notification, resp.Status)
	}
	return nil
}

// close ends a session, whether or not the caller's context has ended.
func (s *session) close() {
	if s.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if resp, err := s.send(ctx, http.MethodDelete, nil, wire.Version20251125); err == nil {
		resp.Body.Close()
	}
}

func (s *session) send(ctx context.Context, method string, body []byte, version string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.agent.Endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		m, err := wire.Scan(body, wire.Limits{})
		if err != nil {
			return nil, err
		}
		if m.Method != wire.MethodInitialize {
			wire.SetHeaders(req.Header, &m, version)
		}
	}
	req.Header.Set("Authorization", "Bearer "+s.agent.Token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if s.id != "" {
		req.Header.Set(wire.HeaderSessionID, s.id)
	}
	client := s.agent.Client
	if client == nil {
		client = http.DefaultClient
	}
	return client.Do(req)
}

// reply reads the response to a request: the body, or the event of a stream that
// answers it.
func reply(resp *http.Response, id []byte) (*wire.Message, error) {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "text/event-stream" {
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
		if err != nil {
			return nil, err
		}
		m, err := wire.Scan(raw, wire.Limits{})
		if err != nil && resp.StatusCode/100 != 2 {
			return nil, errors.New(strings.TrimSpace(string(raw)))
		}
		return &m, err
	}
	events := wire.NewEventReader(resp.Body, maxReply)
	for {
		e, err := events.Next()
		if err != nil {
			return nil, err
		}
		m, err := wire.Scan(e.Data, wire.Limits{})
		if err != nil {
			return nil, err
		}
		if (m.Kind == wire.Result || m.Kind == wire.Error) && bytes.Equal(m.ID.Of(m.Raw), id) {
			return &m, nil
		}
	}
}
