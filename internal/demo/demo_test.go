package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/config"
	"sallyport/internal/demo"
	"sallyport/internal/sandbox"
	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

type bearing struct{ token string }

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.RoundTrip(r)
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// connect is the official SDK as a client.
func connect(t *testing.T, c *demo.Company, name, version string) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "sdk", Version: "1"}, nil)
	transport := &mcp.StreamableClientTransport{
		Endpoint: serve(t, c.Handler(name)), HTTPClient: &http.Client{Transport: bearing{c.Token(name)}},
		DisableStandaloneSSE: true,
	}
	session, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Close(); err != nil {
			t.Error(err)
		}
	})
	return session
}

func TestOfficialClient(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := demo.New()
			call := func(s *mcp.ClientSession, name string, args any) (map[string]any, string) {
				t.Helper()
				r, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: name, Arguments: args})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				text := r.Content[0].(*mcp.TextContent).Text
				if r.IsError {
					return nil, text
				}
				return r.StructuredContent.(map[string]any), text
			}
			crm, payments, mail := connect(t, c, "crm", version), connect(t, c, "payments", version), connect(t, c, "mail", version)
			if got := crm.InitializeResult(); got.ProtocolVersion != version || got.ServerInfo == nil || got.ServerInfo.Name != "demo-crm" || !strings.Contains(got.Instructions, "e-mail address first") {
				t.Errorf("greeting %+v", got)
			}
			list, err := payments.ListTools(t.Context(), nil)
			if err != nil || len(list.Tools) != 2 || list.Tools[1].Name != "refund" || *list.Tools[1].Annotations.DestructiveHint != true {
				t.Errorf("tools %+v, %v", list, err)
			}

			ada, _ := call(crm, "find_customer", map[string]any{"email": "ada@example.com"})
			if ada["id"] != "cus_0001" || ada["name"] != "Ada Lindqvist" {
				t.Errorf("ada %v", ada)
			}
			if _, text := call(crm, "find_customer", map[string]any{"email": "eve@example.com"}); text != "no customer has the address eve@example.com" {
				t.Error(text)
			}
			call(crm, "add_note", map[string]any{"id": "cus_0001", "text": "<called> & asked"})
			full, text := call(crm, "get_customer", map[string]any{"id": "cus_0001"})
			if notes := full["notes"].([]any); len(notes) != 2 || notes[1].(map[string]any)["note"] != "note_0004" || !strings.Contains(text, "<called> & asked") {
				t.Errorf("ada %v, %s", full, text)
			}

			refund := func(amount any) string {
				_, text := call(payments, "refund", map[string]any{"payment": "pay_1002", "amount": amount, "reason": "late"})
				return text
			}
			if got := refund(40); got != `{"refund":"ref_0001","payment":"pay_1002","amount":40}` {
				t.Error(got)
			}
			if got := refund(json.RawMessage(`4.0e1`)); got != `{"refund":"ref_0002","payment":"pay_1002","amount":40}` {
				t.Error(got)
			}
			if got := refund(1); got != "only 0 EUR of pay_1002 are left to refund" {
				t.Error(got)
			}
			if got := refund("40"); got != `invalid arguments: /amount: want integer, got string "40"` {
				t.Error(got)
			}
			owed, _ := call(payments, "list_payments", map[string]any{"customer": "cus_0001"})
			if p := owed["payments"].([]any); len(p) != 3 || p[1].(map[string]any)["refunded"] != 80.0 || p[0].(map[string]any)["payment"] != "pay_1003" {
				t.Errorf("owed %v", owed)
			}

			call(mail, "send_mail", map[string]any{"to": "ada@example.com", "subject": "Refund", "body": "On its way."})
			outbox, _ := call(mail, "list_outbox", map[string]any{})
			if m := outbox["messages"].([]any); len(m) != 1 || m[0].(map[string]any)["to"] != "ada@example.com" {
				t.Errorf("outbox %v", outbox)
			}
			if _, err := mail.CallTool(t.Context(), &mcp.CallToolParams{Name: "read_minds"}); err == nil {
				t.Error("a tool that does not exist was called")
			}

			era, _ := wire.EraOf(version)
			var tools []string
			for _, call := range c.Calls("payments") {
				tools = append(tools, call.Tool)
				if call.Era != era {
					t.Errorf("%s arrived in the era %v", call.Tool, call.Era)
				}
			}
			if diff := cmp.Diff([]string{"refund", "refund", "refund", "refund", "list_payments"}, tools); diff != "" {
				t.Error(diff)
			}
			if got := string(c.Calls("payments")[1].Args); !strings.Contains(got, `"amount":4.0e1`) {
				t.Errorf("arguments arrived as %s", got)
			}
		})
	}
}

func post(t *testing.T, url, token, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodDelete
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestWire(t *testing.T) {
	t.Parallel()
	c := demo.New()
	url, token := serve(t, c.Handler("crm")), c.Token("crm")
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	list := `{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{` + meta + `}}`

	if status, h, _ := post(t, url, c.Token("mail"), list); status != 401 || h.Get("WWW-Authenticate") == "" {
		t.Errorf("another server's token: %d", status)
	}
	check := func(what string, status, want int, text, part string) {
		t.Helper()
		if status != want || !strings.Contains(text, part) {
			t.Errorf("%s: %d %s, want %d …%s…", what, status, text, want, part)
		}
	}
	status, _, text := post(t, url, token, list, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/list")
	check("list", status, 200, text, `"resultType":"complete"`)
	check("list", status, 200, text, `"io.modelcontextprotocol/serverInfo":{"name":"demo-crm"`)
	status, _, text = post(t, url, token, list, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call")
	check("a header that lies", status, 400, text, "-32020")
	status, _, text = post(t, url, token, list)
	check("no headers", status, 400, text, "-32020")
	status, _, text = post(t, url, token, strings.ReplaceAll(list, "2026-07-28", "2099-01-01"), "MCP-Protocol-Version", "2099-01-01", "Mcp-Method", "tools/list")
	check("a version to come", status, 400, text, `"code":-32022,"message":"this version is not supported","data":{"supported":["2026-07-28","2025-11-25"],"requested":"2099-01-01"}`)
	status, _, text = post(t, url, token, strings.Replace(list, "tools/list", "prompts/list", 1), "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "prompts/list")
	check("an unknown method", status, 404, text, "-32601")
	status, _, text = post(t, url, token, `{"jsonrpc":"2.0","id":1,"id":2}`)
	check("a repeated name", status, 400, text, "-32700")

	status, _, text = post(t, url, token, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "MCP-Protocol-Version", "2025-11-25")
	check("no session", status, 400, text, "session id is missing")
	status, h, text := post(t, url, token, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
	check("initialize", status, 200, text, `"protocolVersion":"2025-06-18"`)
	id := h.Get("Mcp-Session-Id")
	status, _, _ = post(t, url, token, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "Mcp-Session-Id", id)
	check("initialized", status, 202, "", "")
	status, _, text = post(t, url, token, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "Mcp-Session-Id", id)
	check("ping", status, 200, text, `"result":{}`)
	status, _, text = post(t, url, token, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Mcp-Session-Id", id)
	if strings.Contains(text, "resultType") {
		t.Errorf("a result of the other era: %d %s", status, text)
	}
	status, _, _ = post(t, url, token, "", "Mcp-Session-Id", id)
	check("delete", status, 204, "", "")
	status, _, text = post(t, url, token, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "Mcp-Session-Id", id)
	check("a session that has ended", status, 404, text, "no such session")

	if c.Handler("bank") != nil {
		t.Error("there is a bank")
	}
}

// The pins are what a server says and lists, byte for byte, in the form of a pins
// file; and a schema world can answer every tool from them.
func TestPins(t *testing.T) {
	t.Parallel()
	c := demo.New()
	world := sandbox.New(sandbox.Config{})
	for _, name := range demo.Names {
		pins, err := config.ParsePins(c.Pins(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
		_, _, text := post(t, serve(t, c.Handler(name)), c.Token(name), list, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/list")
		m, err := wire.Scan([]byte(text), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		items, _, err := wire.Items(m.Result.Of(m.Raw), "tools")
		if err != nil || len(items) != len(pins.Tools) {
			t.Fatalf("%s: %d tools listed, %d pinned, %v", name, len(items), len(pins.Tools), err)
		}
		for i, item := range items {
			if !bytes.Equal(item, pins.Tools[i]) {
				t.Errorf("%s: tool %d is listed as\n%s\nand pinned as\n%s", name, i, item, pins.Tools[i])
			}
			sum, err := canonical.Sum(item)
			if err != nil {
				t.Fatal(err)
			}
			tool := &sallyport.Tool{Digest: sallyport.Digest(sum), Definition: sallyport.Text(item)}
			for seed := range uint64(20) {
				if _, err := world.Answer(t.Context(), &sallyport.Simulated{
					Tool: tool, Args: []byte(`{"id":"cus_0003","customer":"cus_0003","amount":40,"payment":"pay_1001"}`), Era: wire.Stateless, Seed: seed,
				}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// What the servers answer fits the output schemas they declare.
func TestResultsFit(t *testing.T) {
	t.Parallel()
	c := demo.New()
	for _, call := range []struct{ server, tool, args string }{
		{"crm", "find_customer", `{"email":"elif@example.com"}`}, {"crm", "get_customer", `{"id":"cus_0005"}`}, {"crm", "add_note", `{"id":"cus_0005","text":"x"}`},
		{"payments", "list_payments", `{"customer":"cus_0005"}`}, {"payments", "refund", `{"payment":"pay_1009","amount":900,"reason":"x"}`},
		{"mail", "send_mail", `{"to":"a@example.com","subject":"s","body":""}`}, {"mail", "list_outbox", `{}`},
	} {
		pins, err := config.ParsePins(c.Pins(call.server))
		if err != nil {
			t.Fatal(err)
		}
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + call.tool + `","arguments":` + call.args + `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
		_, _, text := post(t, serve(t, c.Handler(call.server)), c.Token(call.server), body, "MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", call.tool)
		m, err := wire.Scan([]byte(text), wire.Limits{})
		if err != nil || m.IsError {
			t.Fatalf("%s: %s, %v", call.tool, text, err)
		}
		for _, d := range pins.Tools {
			if name, _, _ := wire.Field(d, "name"); string(name) != `"`+call.tool+`"` {
				continue
			}
			raw, _, err := wire.Field(d, "outputSchema")
			if err != nil {
				t.Fatal(err)
			}
			s, err := schema.Compile(raw)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(m.StructuredContent.Of(m.Raw)); err != nil {
				t.Errorf("%s: %s: %v", call.tool, text, err)
			}
		}
	}
}

// front stands where Sallyport will: one endpoint before the three servers, which
// denies large refunds and can be halted.
type front struct {
	company *demo.Company
	halted  atomic.Bool
	stream  bool // answer calls as a stream, with progress first
	mu      sync.Mutex
	deleted int
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodDelete {
		f.mu.Lock()
		f.deleted++
		f.mu.Unlock()
		return
	}
	body, _ := io.ReadAll(r.Body)
	m, err := wire.Scan(body, wire.Limits{})
	if err != nil || r.Header.Get("Authorization") != "Bearer run-token" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	answer := func(result string) {
		out := wire.AppendResult(nil, m.ID.Of(m.Raw), []byte(result))
		if f.stream && m.Method == wire.MethodToolsCall {
			w.Header().Set("Content-Type", "text/event-stream")
			progress := wire.AppendNotification(nil, wire.NotificationProgress, []byte(`{"progressToken":1,"progress":1}`))
			_, _ = w.Write(wire.AppendEvent(wire.AppendEvent(nil, "", progress), "", out))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	}
	refuse := func(text string) {
		answer(string(wire.ToolError(nil, wire.Sessions, text, nil)))
	}
	switch {
	case m.Kind != wire.Request:
		w.WriteHeader(http.StatusAccepted)
	case m.Method == wire.MethodInitialize:
		w.Header().Set("Mcp-Session-Id", "s1")
		answer(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"front","version":"1"}}`)
	case m.Method == wire.MethodServerDiscover:
		answer(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}`)
	case m.Method == wire.MethodToolsList && m.Cursor == "":
		answer(`{"tools":[{"name":"find_customer"},{"name":"crm__get_customer"}],"nextCursor":"2"}`)
	case m.Method == wire.MethodToolsList:
		answer(`{"tools":[{"name":"list_payments"},{"name":"refund"}]}`)
	case f.halted.Load():
		refuse("Refused (halted): this agent has been stopped. Wait for an operator")
	case m.Name == "refund" && bytes.Contains(m.Arguments.Of(m.Raw), []byte("900")):
		refuse("Refused (denied): refunds above 500 need a person")
	case m.Name == "refund" && bytes.Contains(m.Arguments.Of(m.Raw), []byte("200")) && !bytes.Contains(body, []byte(`"requestState":"come back"`)):
		answer(`{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"mode":"url","url":"http://here/approvals/apr_1","message":"a person decides"}}},"requestState":"come back"}`)
	default:
		server := map[string]string{"refund": "payments", "list_payments": "payments"}[m.Name]
		if server == "" {
			server = "crm"
		}
		m.Name = strings.TrimPrefix(m.Name, "crm__")
		call := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, m.ID.Of(m.Raw), m.Name, m.Arguments.Of(m.Raw))
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(call))
		req.Header.Set("Authorization", "Bearer "+f.company.Token(server))
		req.Header.Set("MCP-Protocol-Version", "2026-07-28")
		req.Header.Set("Mcp-Method", "tools/call")
		req.Header.Set("Mcp-Name", m.Name)
		rec := httptest.NewRecorder()
		f.company.Handler(server).ServeHTTP(rec, req)
		reply, err := wire.Scan(rec.Body.Bytes(), wire.Limits{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(string(reply.Result.Of(reply.Raw)))
	}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		f := &front{company: demo.New(), stream: era == wire.Stateless}
		agent := demo.Agent{Endpoint: serve(t, f), Token: "run-token", Era: era, Pace: time.Millisecond}
		var steps []string
		works := 0
		err := agent.Run(t.Context(), func(s demo.Step) {
			if s.Name == "work" && s.Outcome == demo.OK {
				if works++; works == 3 {
					f.halted.Store(true)
				}
				return
			}
			steps = append(steps, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", s.Name, s.Tool, s.Outcome, s.Code)))
			if s.Name == "refund" && string(s.Args) != `{"payment":"pay_1003","amount":40,"reason":"The parcel came late."}` {
				t.Errorf("refund with %s", s.Args)
			}
			if s.Name == "check" && !strings.Contains(s.Text, `"payment":"pay_1003","date":"2026-10-02","purpose":"Spare parts","amount":65,"refunded":40`) {
				t.Errorf("after the refund: %s", s.Text)
			}
			if s.Name == "held refund" {
				if s.Page != "http://here/approvals/apr_1" || s.Text != "a person decides" {
					t.Errorf("held: %+v", s)
				}
				if again := agent.Return(t.Context(), s); again.Outcome != demo.OK {
					t.Errorf("came back: %+v", again)
				}
			}
			if s.Name == "wrong type" && !strings.Contains(s.Text, "want integer") {
				t.Errorf("wrong type: %s", s.Text)
			}
		})
		if err != nil {
			t.Errorf("%v: %v", era, err)
		}
		want := []string{
			"connect  ok", "find find_customer ok", "list list_payments ok", "refund refund ok", "check list_payments ok",
			"large refund refund failed denied", "wrong type refund failed", "held refund refund held", "work crm__get_customer failed halted",
		}
		if diff := cmp.Diff(want, steps); diff != "" {
			t.Errorf("%v: %s", era, diff)
		}
		if (f.deleted == 1) != (era == wire.Sessions) {
			t.Errorf("%v: %d sessions were ended", era, f.deleted)
		}
		if before, after := demo.New().Refunded(), f.company.Refunded(); after != before+240 {
			t.Errorf("%v: %d EUR had been refunded, and then %d", era, before, after)
		}
	}
}

func TestAgentGivesUp(t *testing.T) {
	t.Parallel()
	f := &front{company: demo.New()}
	url := serve(t, f)
	ignore := func(demo.Step) {}
	wrong := demo.Agent{Endpoint: url, Token: "wrong", Era: wire.Stateless}
	if err := wrong.Run(t.Context(), ignore); err == nil || !strings.Contains(err.Error(), "connect to") {
		t.Errorf("with a wrong token: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	agent := demo.Agent{Endpoint: url, Token: "run-token", Era: wire.Stateless, Pace: time.Millisecond}
	err := agent.Run(ctx, func(s demo.Step) {
		if s.Name == "work" {
			cancel()
		}
	})
	if !errors.Is(err, demo.ErrNotHalted) {
		t.Errorf("without a halt: %v", err)
	}
	// The endpoint goes away while the agent works.
	gone := httptest.NewServer(f)
	defer gone.Close()
	agent.Endpoint = gone.URL
	closed := false
	err = agent.Run(t.Context(), func(s demo.Step) {
		if s.Name == "work" && !closed {
			closed = true
			gone.Close()
		}
	})
	if err == nil || !strings.Contains(err.Error(), "call crm__get_customer") {
		t.Errorf("with the endpoint gone: %v", err)
	}
}
