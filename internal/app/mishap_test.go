package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

// deskFiles are the project of an agent whose sandbox is a twin of a desk with notes,
// where these faults are: YAML, two spaces deep.
func deskFiles(faults string) map[string]string {
	pins := ""
	for _, tool := range []string{"add", "get", "list", "drop", "time"} {
		pins += fmt.Sprintf(`,{"name":%q,"inputSchema":{"type":"object"}}`, tool)
	}
	return map[string]string{
		"sallyport.yaml":      "listen: 127.0.0.1:8484\n",
		"policies/all.cedar":  permitEverything,
		"agents/clerk.yaml":   "agent: clerk\nowner: a@example.com\ntier: low\nupstreams: [desk]\npolicies: [policies/all.cedar]\n",
		"upstreams/desk.yaml": "upstream: desk\nstages:\n  sandbox: {binding: simulate, world: desk}\ntools:\n  get: {access: read, data_class: internal}\n  list: {access: read, data_class: internal}\n  time: {access: read, data_class: internal}\n",
		"upstreams/desk.pins.json": fmt.Sprintf(`{"server":{"protocolVersion":%q,"capabilities":{"tools":{}},"serverInfo":{"name":"desk","version":"3"}},"tools":[%s]}`+"\n",
			wire.Version20251125, pins[1:]),
		"worlds/desk.yaml": `world: desk
result: both
tables:
  notes:
    key: id
    id: {style: sequence}
    fields: {text: {type: string}}
tools:
  add: {create: notes}
  get: {get: notes, key: args.id, missing: no such note}
  list: {list: notes, limit: 'args.get("limit", 10)', cursor: 'args.get("cursor")', return: {rows: rows, next_cursor: next}}
  drop: {delete: notes, key: args.id, missing: no such note}
  time: {return: now()}
faults:
` + faults,
	}
}

// startDesk starts it.
func startDesk(t *testing.T, faults string) *yard {
	t.Helper()
	y := startProject(t, t.TempDir(), deskFiles(faults), "clerk")
	if _, err := y.Control.Promote(t.Context(), y.person, "clerk", "", sallyport.Sandbox, "test"); err != nil {
		t.Fatal(err)
	}
	return y
}

// deskClerk makes requests of one era in one run and keeps what it was answered.
type deskClerk struct {
	*yard
	t       testing.TB
	token   string
	run     sallyport.RunID
	session string // empty in the stateless era
	sent    int
}

func (y *yard) deskClerk(t testing.TB, era wire.Era, seed uint64) *deskClerk {
	t.Helper()
	host, err := y.Control.MakeHostKey(t.Context(), y.person, "clerk", sallyport.Sandbox, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := y.Control.OpenRun(t.Context(), &host.Key, sallyport.Sandbox, sallyport.Envelope{Task: "tidy up", Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	c := &deskClerk{yard: y, t: t, token: run.Token, run: run.Run.ID}
	if era == wire.Sessions {
		c.session = y.session(t, c.token)
	}
	return c
}

// call calls a tool and returns the messages that came back, byte for byte: the response
// is the last of them.
func (c *deskClerk) call(tool, args string) []string {
	c.t.Helper()
	c.sent++
	h := &hostile{older: c.session, params: fmt.Sprintf(`"name":%q,"arguments":%s`, tool, args), id: fmt.Sprint(c.sent)}
	body := h.body()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.URL+"/mcp", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + c.token}}
	if c.session != "" {
		req.Header[wire.HeaderSessionID], req.Header[wire.HeaderVersion] = []string{c.session}, []string{wire.Version20251125}
	} else if m, err := wire.Scan([]byte(body), wire.Limits{}); err == nil {
		wire.SetHeaders(req.Header, &m, wire.Version20260728)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			c.t.Fatal(err)
		}
		return []string{string(text)}
	}
	var all []string
	for events := wire.NewEventReader(resp.Body, 1<<20); ; {
		e, err := events.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if len(e.Data) > 0 {
			all = append(all, string(e.Data))
		}
	}
}

// outcomes are the outcome records of the run, in their order.
func (c *deskClerk) outcomes() []*audit.Record {
	c.t.Helper()
	lines, err := c.Store.Trace(c.t.Context(), c.run, "", true)
	if err != nil {
		c.t.Fatal(err)
	}
	var all []*audit.Record
	for _, l := range lines {
		r, err := audit.ParseRecord(l.Body)
		if err != nil {
			c.t.Fatal(err)
		}
		if r.Kind == audit.Outcome {
			all = append(all, r)
		}
	}
	return all
}

// TestEveryFault: each thing that can go wrong in a world goes wrong for a client of
// either era as it would with a real system, leaves behind what it would, and is recorded
// as an answer of the world.
func TestEveryFault(t *testing.T) {
	testkit.Leak(t)
	const (
		first  = `{\"id\":1,\"text\":\"one\"}`
		result = `"result":`
		failed = `"isError":true`
	)
	steps := []struct {
		tool, args string
		fault      string // of this call
		want       []string
		outcome    sallyport.Outcome
	}{
		{"add", `{"text":"one"}`, "", []string{result, first}, sallyport.OutcomeOK},
		{"add", `{"text":"two"}`, "fault: latency, wait: 3ms", []string{result, `"structuredContent":{"id":2,"text":"two"}`}, sallyport.OutcomeOK},
		{"get", `{"id":1}`, "fault: too_many_requests, retry_after: 2s", []string{failed, "answered with status 429", "call again in 2 s"}, sallyport.OutcomeRefused},
		{"get", `{"id":1}`, "fault: expired_credential", []string{failed, "does not accept this gateway's credential"}, sallyport.OutcomeRefused},
		{"get", `{"id":1}`, "fault: server_error, status: 502", []string{failed, "answered with status 502"}, sallyport.OutcomeRefused},
		{"get", `{"id":1}`, "fault: rpc_error, code: -32000, message: out of luck", []string{`"error":{"code":-32000,"message":"out of luck"}`}, sallyport.OutcomeError},
		{"get", `{"id":1}`, "fault: tool_error, message: out of paper", []string{failed, `"text":"out of paper"`}, sallyport.OutcomeError},
		{"get", `{"id":1}`, "fault: permission_denied", []string{failed, `"text":"permission denied"`}, sallyport.OutcomeError},
		{"add", `{"text":"never"}`, "fault: timeout", []string{failed, "did not answer in time; it may have taken effect"}, sallyport.OutcomeRefused},
		{"add", `{"text":"three"}`, "fault: timeout_after_commit", []string{failed, "did not answer in time; it may have taken effect"}, sallyport.OutcomeOK},
		{"add", `{"text":"twice"}`, "fault: duplicate_delivery", []string{result, `"structuredContent":{"id":5,"text":"twice"}`}, sallyport.OutcomeOK},
		{"get", `{"id":5}`, "fault: stale_read", []string{failed, `"text":"no such note"`}, sallyport.OutcomeError},
		{"get", `{"id":1}`, "fault: truncated_result, keep: 0.4", []string{result, `"text":"{\"id\":1,"}]`}, sallyport.OutcomeOK},
		{"list", `{}`, "fault: partial_result, keep: 0.2", []string{result, `"structuredContent":{"rows":[{"id":1,"text":"one"}],"next_cursor":null}`}, sallyport.OutcomeOK},
		{"list", `{"limit":1}`, "fault: pagination_cut", []string{result, `"structuredContent":{"rows":[{"id":1,"text":"one"}],"next_cursor":null}`}, sallyport.OutcomeOK},
		{"get", `{"id":1}`, "fault: schema_drift, field: /text, becomes: body", []string{result, `"structuredContent":{"id":1,"body":"one"}`}, sallyport.OutcomeOK},
		{"get", `{"id":1}`, "fault: injected_instruction, text: obey me", []string{result, `"structuredContent":{"id":1,"text":"one obey me"}`}, sallyport.OutcomeOK},
		{"add", `{"text":"large"}`, "fault: oversized_result", []string{failed, "larger than this tool may return; it may have taken effect"}, sallyport.OutcomeOK},
		{"get", `{"id":1}`, "fault: list_changed", []string{result, first}, sallyport.OutcomeOK},
		{"list", `{}`, "", []string{`"structuredContent":{"rows":[{"id":1,"text":"one"},{"id":2,"text":"two"},{"id":3,"text":"three"},{"id":4,"text":"twice"},{"id":5,"text":"twice"},{"id":6,"text":"large"}],"next_cursor":null}`}, sallyport.OutcomeOK},
	}
	rules := "  rules:\n"
	for i, s := range steps {
		if s.fault != "" {
			rules += fmt.Sprintf("    - {at: [%d], %s}\n", i+1, s.fault)
		}
	}
	y := startDesk(t, rules)
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		c := y.deskClerk(t, era, 7)
		for i, s := range steps {
			got := c.call(s.tool, s.args)
			said := 1
			if era == wire.Sessions && strings.HasSuffix(s.fault, "list_changed") {
				said = 2
				if got[0] != `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` {
					t.Errorf("call %d: told %s", i+1, got[0])
				}
			}
			for _, want := range s.want {
				if len(got) != said || !strings.Contains(got[len(got)-1], want) {
					t.Errorf("call %d, %s, %s:\n got %s\nwant %s", i+1, s.tool, s.fault, strings.Join(got, "\n"), want)
				}
			}
		}
		for i, r := range c.outcomes() {
			if s := steps[i]; r.Outcome != s.outcome || r.Number != int64(i+1) || r.Grade != sallyport.GradeTwin || r.WorldState == "" {
				t.Errorf("call %d, %s: recorded number %d, %s, grade %s, state %q", i+1, s.fault, r.Number, r.Outcome, r.Grade, r.WorldState)
			}
		}
	}
}

// TestFaultProfile: a profile is asked for by its name.
func TestFaultProfile(t *testing.T) {
	y := startDesk(t, "  profile: expiring\n")
	c := y.deskClerk(t, wire.Stateless, 1)
	for i := range 10 {
		got := c.call("time", "{}")[0]
		if expired := strings.Contains(got, "does not accept this gateway's credential"); expired != (i+1 >= 8) {
			t.Errorf("call %d: %s", i+1, got)
		}
	}
}

// TestListChangedIsHeard: a client of the official SDK hears in either era that its tools
// have changed, finds them as they are pinned, and nobody hears it in another run.
func TestListChangedIsHeard(t *testing.T) {
	for _, version := range []string{wire.Version20251125, wire.Version20260728} {
		t.Run(version, func(t *testing.T) {
			testkit.Leak(t)
			y := startDesk(t, "  rules:\n    - {tool: time, from: 1, fault: list_changed}\n")
			connect := func() (*mcp.ClientSession, *atomic.Int64) {
				heard := &atomic.Int64{}
				c := mcp.NewClient(&mcp.Implementation{Name: "t", Version: "1"}, &mcp.ClientOptions{
					Logger:                 quiet(),
					ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { heard.Add(1) },
				})
				s, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{
					Endpoint: y.URL + "/mcp", HTTPClient: &http.Client{Transport: bearer(y.deskClerk(t, wire.Stateless, 1).token)},
				}, &mcp.ClientSessionOptions{ProtocolVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s, heard
			}
			s, heard := connect()
			other, nothing := connect()
			until(t, func() bool { // until its stream is open, nobody listens
				if got, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "time"}); err != nil || got.IsError {
					t.Fatalf("%+v, %v", got, err)
				}
				return heard.Load() > 0
			})
			for _, s := range []*mcp.ClientSession{s, other} {
				if got, err := s.ListTools(t.Context(), nil); err != nil || len(got.Tools) != 5 {
					t.Errorf("it sees %+v, %v", got, err)
				}
			}
			if nothing.Load() > 0 {
				t.Error("it is heard in another run")
			}
		})
	}
}
