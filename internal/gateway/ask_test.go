package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

const mayAskCRM = permitAll + `
forbid (principal, action in [Action::"sampling/createMessage", Action::"elicitation/create", Action::"roots/list"], resource)
unless { resource == Upstream::"crm" };`

const allButRoots = `permit (principal, action in [Action::"read", Action::"changing", Action::"sampling/createMessage", Action::"elicitation/create"], resource);`

// question is a request of an upstream; its answer has the same id.
func question(method string) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"q-7","method":%q,"params":{"message":"Which one?"}}`, method)
}

const answered = `{"jsonrpc":"2.0","id":"q-7","result":{"action":"accept","content":{"a":12345678901234567890}}}`

// asking makes an upstream ask the client something during a call, and hands what
// came back to got.
func asking(w *wide, raw []byte, got func([]byte, error)) func(context.Context, *Request) (*Response, error) {
	return func(ctx context.Context, q *Request) (*Response, error) {
		if q.Ask == nil {
			got(nil, errors.New("nobody can be asked"))
		} else {
			got(q.Ask(ctx, raw))
		}
		return respond(w.t), nil
	}
}

// TestUpstreamAsks lets upstreams of a session ask its client, under policies.
func TestUpstreamAsks(t *testing.T) {
	for _, c := range []struct {
		name, policies, tool, method string
		client                       func() ([]byte, error) // nil: must not be asked
		outcome                      sallyport.Outcome
		kind                         sallyport.Kind
		answer                       string // in what the upstream gets; "" for an error of Ask
	}{
		{"permitted", mayAskCRM, "look", wire.MethodElicitationCreate, func() ([]byte, error) { return []byte(answered), nil }, sallyport.OutcomeOK, sallyport.KindElicitation, answered},
		{"permitted sampling", mayAskCRM, "look", wire.MethodSamplingCreateMessage, func() ([]byte, error) { return []byte(answered), nil }, sallyport.OutcomeOK, sallyport.KindSampling, answered},
		{"no policy permits", `permit (principal, action in Action::"read", resource);`, "look", wire.MethodElicitationCreate, nil, sallyport.OutcomeRefused, sallyport.KindElicitation, `"error"`},
		{"another upstream", mayAskCRM, "mail__look", wire.MethodSamplingCreateMessage, nil, sallyport.OutcomeRefused, sallyport.KindSampling, `"error"`},
		{"permitted roots", mayAskCRM, "look", wire.MethodRootsList, func() ([]byte, error) { return []byte(answered), nil }, sallyport.OutcomeOK, sallyport.KindRoots, answered},
		{"another upstream's roots", mayAskCRM, "mail__look", wire.MethodRootsList, nil, sallyport.OutcomeRefused, sallyport.KindRoots, `"error"`},
		{"roots, where all else may be asked", allButRoots, "look", wire.MethodRootsList, nil, sallyport.OutcomeRefused, sallyport.KindRoots, `"error"`},
		{"nothing else", mayAskCRM, "look", "tools/call", nil, sallyport.OutcomeRefused, 0, `"error"`},
		{"the client does not answer", mayAskCRM, "look", wire.MethodElicitationCreate, func() ([]byte, error) { return nil, errors.New("gone") }, sallyport.OutcomeError, sallyport.KindElicitation, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWide(t, c.policies, nil, "crm", "mail")
			asked := 0
			s := &Session{ID: "s", Key: "key_1", Ask: func(_ context.Context, raw []byte) ([]byte, error) {
				if asked++; c.client == nil || string(raw) != string(question(c.method)) {
					t.Errorf("the client was asked %s", raw)
					return nil, errors.New("not me")
				}
				return c.client()
			}}
			got := func(answer []byte, err error) {
				if (err == nil) != (c.answer != "") || !strings.Contains(string(answer), c.answer) {
					t.Errorf("the upstream got %s, %v", answer, err)
				}
				if m, err := wire.Scan(answer, wire.Limits{}); answer != nil && (err != nil || string(m.ID.Of(m.Raw)) != `"q-7"`) {
					t.Errorf("the upstream cannot tell what it is the answer of: %s", answer)
				}
				// The record is there before the answer leaves.
				if len(w.outcomes) != 1 {
					t.Errorf("%d records when the answer left", len(w.outcomes))
				}
			}
			id := sallyport.UpstreamID("crm")
			if strings.HasPrefix(c.tool, "mail") {
				id = "mail"
			}
			w.on(id, asking(w, question(c.method), got))
			x := w.request(sallyport.KindTool, wire.MethodToolsCall, fmt.Sprintf(`{"name":%q,"arguments":{"id":"1"}}`, c.tool), s)
			succeeded(t, w.Call(t.Context(), x)) // the tool may do without
			if want := 1; c.client != nil && asked != want {
				t.Errorf("the client was asked %d times", asked)
			}
			if len(w.outcomes) != 2 {
				t.Fatalf("%d records", len(w.outcomes))
			}
			r := w.outcomes[0].Record
			if r.Outcome != c.outcome || r.Method != c.method || r.CallKind != c.kind || r.Call == x.ID || r.Call == "" || r.Run != "run_1" ||
				r.Upstream != id || r.Tool != "" || r.ToolDigest != "" || r.Decision == nil || r.Decision.Allow != (c.outcome != sallyport.OutcomeRefused) {
				t.Errorf("recorded %+v", r)
			}
			if body, err := r.AppendJSON(nil); err != nil {
				t.Error(err)
			} else if _, err := audit.ParseRecord(body); err != nil {
				t.Errorf("%s: %v", body, err)
			}
			if want := `{"message":"Which one?"}`; string(w.outcomes[0].Payload.Arguments) != want || len(w.outcomes[0].Payload.Salt) != 32 {
				t.Errorf("kept %s", w.outcomes[0].Payload.Arguments)
			}
			if (r.Result != "") != (c.outcome == sallyport.OutcomeOK) {
				t.Errorf("the record's result is %q", r.Result)
			}
		})
	}
}

// TestAskWithoutARecord: an answer whose record cannot be made does not leave.
func TestAskWithoutARecord(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	s := &Session{ID: "s", Key: "key_1", Ask: func(context.Context, []byte) ([]byte, error) {
		w.onConclude = func() error { w.onConclude = nil; return errors.New("the disk is full") }
		return []byte(answered), nil
	}}
	w.on("crm", asking(w, question(wire.MethodElicitationCreate), func(answer []byte, err error) {
		if answer != nil || err == nil {
			t.Errorf("%s left without a record", answer)
		}
	}))
	succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, s)))
}

// TestHaltStopsQuestions: after a halt nobody is asked on behalf of what it stops,
// though the call that the question belongs to is on its way.
func TestHaltStopsQuestions(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	s := &Session{ID: "s", Key: "key_1", Ask: func(context.Context, []byte) ([]byte, error) {
		t.Error("the client was asked")
		return nil, errors.New("no")
	}}
	w.on("crm", func(_ context.Context, q *Request) (*Response, error) {
		w.SetState(w.decided(2, sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm", Reason: "wrong"}))
		answer, err := q.Ask(context.Background(), question(wire.MethodElicitationCreate))
		if err != nil || !strings.Contains(string(answer), `"error"`) {
			t.Errorf("%s %v", answer, err)
		}
		return nil, context.Canceled
	})
	refused(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, s)), sallyport.Halted)
	if len(w.outcomes) != 2 || w.outcomes[0].Record.Outcome != sallyport.OutcomeRefused || w.outcomes[0].Record.Refusal.Code != sallyport.Halted {
		t.Errorf("%+v", w.outcomes)
	}
}

// TestNobodyToAsk: without a session, or with a client that answers nothing, the
// backend has nobody to ask. A question that cannot be read is not passed on.
func TestNobodyToAsk(t *testing.T) {
	for _, s := range []*Session{nil, {ID: "s", Key: "key_1"}} {
		w := newWide(t, permitAll, nil, "crm")
		w.on("crm", func(_ context.Context, q *Request) (*Response, error) {
			if q.Ask != nil {
				t.Error("there is somebody to ask")
			}
			return respond(t), nil
		})
		succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, s)))
	}
	w := newWide(t, permitAll, nil, "crm")
	s := &Session{ID: "s", Key: "key_1", Ask: func(_ context.Context, raw []byte) ([]byte, error) {
		t.Errorf("asked %s", raw)
		return nil, nil
	}}
	w.on("crm", asking(w, []byte(`{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","method":"roots/list"}`), func(answer []byte, err error) {
		if err == nil {
			t.Errorf("got %s", answer)
		}
	}))
	succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, s)))
}

// TestInputRequired is the same in the stateless era: the question comes as a
// result, and enters only if each thing asked may be asked.
func TestInputRequired(t *testing.T) {
	for requests, want := range map[string]sallyport.Code{
		`{"a":{"method":"elicitation/create","params":{}}}`:                             "",
		`{"a":{"method":"sampling/createMessage"},"b":{"method":"elicitation/create"}}`: "",
		`{}`:                            "",
		`{"a":{"method":"roots/list"}}`: "",
		`{"a":{"method":"tools/call"}}`: sallyport.Denied,
		`{"a":{"method":"elicitation/create"},"b":{"method":"roots/list"}}`:                                          "",
		`{"a":{"method":"elicitation/create"},"b":{"method":"roots/get"}}`:                                           sallyport.Denied,
		`{"a":{"method":"elicitation/create"},"b":{"method":"elicitation\u002fcreate"},"c":{"method":"ROOTS/LIST"}}`: sallyport.Denied,
		`{"a":{}}`:            sallyport.UpstreamProtocol,
		`{"a":{"method":""}}`: sallyport.UpstreamProtocol,
		`{"a":{"method":"elicitation/create","params":[]}}`: sallyport.UpstreamProtocol,
		many(17):             sallyport.UpstreamProtocol,
		many(16):             "",
		`{"a":{"method":7}}`: sallyport.UpstreamProtocol,
		`7`:                  sallyport.UpstreamProtocol,
	} {
		w := newWide(t, mayAskCRM, modern, "crm", "mail")
		result := `{"resultType":"input_required","inputRequests":` + requests + `,"requestState":"opaque"}`
		for _, id := range []sallyport.UpstreamID{"crm", "mail"} {
			w.on(id, func(context.Context, *Request) (*Response, error) { return w.says(result), nil })
		}
		r := w.tool(t.Context(), "look")
		switch {
		case want == "" && string(r.Result) != result:
			t.Errorf("%s: %v %s", requests, r.Refusal, r.Result)
		case want != "" && (r.Refusal == nil || r.Refusal.Code != want):
			t.Errorf("%s: %+v", requests, r)
		}
		// What crm may ask, mail may not.
		if r := w.tool(t.Context(), "mail__look"); (r.Refusal == nil) != (requests == `{}`) {
			t.Errorf("mail asked %s: %v", requests, r.Refusal)
		}
	}
	w := newWide(t, permitAll, modern, "crm")
	w.on("crm", func(context.Context, *Request) (*Response, error) {
		return w.says(`{"resultType":"input_required","requestState":"opaque"}`), nil
	})
	r := w.tool(t.Context(), "look")
	if !json.Valid(r.Result) {
		t.Errorf("a result that asks nothing: %v", r.Refusal)
	}
}

// modern makes every upstream one of the stateless era.
func modern(_ *sallyport.Release, c *sallyport.StageConfig) {
	for id, u := range c.Upstreams {
		u.Transport.Era = wire.Version20260728
		c.Upstreams[id] = u
	}
}

// many are so many questions.
func many(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"q%d":{"method":"roots/list"}`, i)
	}
	return "{" + strings.Join(all, ",") + "}"
}

// TestInputRequiredIsRecorded: each question in a result is a call of its own kind,
// recorded before the result leaves; if one may not be asked, none is.
func TestInputRequiredIsRecorded(t *testing.T) {
	const three = `{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"é"}},"b":{"method":"sampling/createMessage"},"c":{"method":"roots/list","params":{}}},"requestState":"opaque"}`
	for policies, outcome := range map[string]sallyport.Outcome{permitAll: sallyport.OutcomeOK, allButRoots: sallyport.OutcomeRefused} {
		w := newWide(t, policies, modern, "crm")
		w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(three), nil })
		r := w.tool(t.Context(), "look")
		if permitted := outcome == sallyport.OutcomeOK; permitted != (string(r.Result) == three) || permitted == (r.Refusal != nil) {
			t.Errorf("%s, %v", r.Result, r.Refusal)
		}
		if len(w.outcomes) != 4 {
			t.Fatalf("%d records", len(w.outcomes))
		}
		salts := map[string]bool{}
		for i, kind := range []sallyport.Kind{sallyport.KindElicitation, sallyport.KindSampling, sallyport.KindRoots, sallyport.KindTool} {
			e := w.outcomes[i]
			if e.Record.CallKind != kind || e.Record.Outcome != outcome || e.Record.Arguments == "" || salts[string(e.Payload.Salt)] {
				t.Errorf("recorded %+v", e.Record)
			}
			salts[string(e.Payload.Salt)] = true
			if kind == sallyport.KindTool {
				continue
			}
			may := kind != sallyport.KindRoots || policies == permitAll
			if e.Record.Decision.Allow != may || e.Record.Result != "" || (e.Record.Labels != nil) != (outcome == sallyport.OutcomeOK) {
				t.Errorf("recorded %+v", e.Record)
			}
		}
		if got := string(w.outcomes[0].Payload.Arguments); got != `{"message":"é"}` {
			t.Errorf("kept %s", got)
		}
	}

	w := newWide(t, permitAll, modern, "crm")
	w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(three), nil })
	w.onConclude = func() error { w.onConclude = nil; return errors.New("the disk is full") }
	refused(t, w.tool(t.Context(), "look"), sallyport.RecordFailed)
}

// TestAnswersInTheSameEra: what a client answers is judged by what it can be read as
// and recorded before it leaves. What may not leave is not sent.
func TestAnswersInTheSameEra(t *testing.T) {
	const (
		accept = `"a":{"action":"accept","content":{"roots":[]}}`
		said   = `"b":{"role":"assistant","model":"m","content":{"type":"text","text":"x"}}`
		roots  = `"c":{"roots":[{"uri":"file:///home/ada"}]}`
	)
	for _, c := range []struct {
		policies, answers string
		want              sallyport.Code
		recorded          []string // before the call
	}{
		{permitAll, accept + "," + said + "," + roots, "", []string{"elicitation ok", "sampling ok", "roots ok"}},
		{allButRoots, accept, "", []string{"elicitation ok"}},
		{allButRoots, accept + "," + roots, sallyport.Denied, []string{"elicitation ok", "roots refused"}},
		{allButRoots, `"c":{"\u0052oots":[]}`, sallyport.Denied, []string{"roots refused"}},
		{allButRoots, `"c":{"action":"accept","roots":[]}`, sallyport.Denied, []string{"elicitation ok", "roots refused"}},
		{permitAll, `"c":{}`, sallyport.BadRequest, nil},
		{permitAll, `"c":7`, sallyport.BadRequest, nil},
		{permitAll, strings.Trim(strings.ReplaceAll(many(17), "method", "action"), "{}") + "}", sallyport.BadRequest, nil},
		{permitAll, "", "", nil},
	} {
		w := newWide(t, c.policies, modern, "crm")
		sent := 0
		w.on("crm", func(_ context.Context, q *Request) (*Response, error) {
			if sent++; !strings.Contains(string(q.Message.Raw), `"input\u0052esponses":{`+c.answers+`}`) {
				t.Errorf("sent %s", q.Message.Raw)
			}
			if len(w.outcomes) != len(c.recorded) {
				t.Errorf("%d records when the answers left", len(w.outcomes))
			}
			return respond(t), nil
		})
		r := w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"},"requestState":"s","input\u0052esponses":{`+c.answers+`}}`, nil))
		if (c.want == "") != (r.Refusal == nil) || r.Refusal != nil && r.Refusal.Code != c.want || (sent == 1) != (c.want == "") {
			t.Errorf("%s: %v, sent %d times", c.answers, r.Refusal, sent)
		}
		var recorded []string
		for _, e := range w.outcomes {
			if e.Record.CallKind != sallyport.KindTool {
				recorded = append(recorded, e.Record.CallKind.String()+" "+e.Record.Outcome.String())
				if (e.Record.Result != "") != (e.Record.Outcome == sallyport.OutcomeOK) {
					t.Errorf("recorded %+v", e.Record)
				}
			}
		}
		if !slices.Equal(recorded, c.recorded) {
			t.Errorf("%s: recorded %q, want %q", c.answers, recorded, c.recorded)
		}
	}
}

// TestWhoIsToldOfRoots: an upstream that may be permitted to ask for them, of a
// client that has them.
func TestWhoIsToldOfRoots(t *testing.T) {
	const has, hasNot = `{"roots":{"listChanged":true}}`, `{"sampling":{}}`
	for _, c := range []struct {
		policies, capabilities string
		want                   bool
	}{
		{permitAll, has, true}, {permitAll, hasNot, false}, {allButRoots, has, false},
		{permitAll + `forbid (principal, action == Action::"roots/list", resource) when { context.run.integrity_level < 3 };`, has, true},
		{permitAll + `forbid (principal, action == Action::"roots/list", resource) when { context.run.integrity_level >= 3 };`, has, false},
	} {
		for _, s := range []*Session{nil, {ID: "s", Key: "key_1", ClientCapabilities: json.RawMessage(c.capabilities)}} {
			w := newWide(t, c.policies, nil, "crm", "mail")
			w.on("crm", func(_ context.Context, q *Request) (*Response, error) {
				if q.Roots != c.want || s != nil && (s.Roots("crm") != c.want || s.Roots("mail")) {
					t.Errorf("%s, %s: told %v", c.policies, c.capabilities, q.Roots)
				}
				return respond(t), nil
			})
			succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall,
				`{"name":"look","arguments":{"id":"1"},"_meta":{"`+wire.MetaClientCapabilities+`":`+c.capabilities+`}}`, s)))
		}
	}
}
