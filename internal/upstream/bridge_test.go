package upstream_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// office is a server of the sessions era whose tools are functions. Answers of the
// client find their way to the one that asked.
type office struct {
	*site
	opened    atomic.Int64 // sessions
	ended     atomic.Int64
	known     sync.Map // session ids
	asked     sync.Map // question id to chan string
	calls     sync.Map // session and request id to chan struct{}, closed when cancelled
	cancelled atomic.Int64
	tool      func(o *office, w http.ResponseWriter, r received)
}

func newOffice(t testing.TB, tool func(o *office, w http.ResponseWriter, r received)) *office {
	o := &office{tool: tool}
	o.site = newSite(t, o.serve)
	return o
}

func (o *office) serve(w http.ResponseWriter, r received) {
	id := r.header.Get(wire.HeaderSessionID)
	switch {
	case r.method == http.MethodDelete:
		o.known.Delete(id)
		close(o.gone(id))
		o.ended.Add(1)
		return
	case r.method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case r.message.Method == wire.MethodInitialize:
		id = fmt.Sprintf("s%d", o.opened.Add(1))
		o.known.Store(id, true)
		w.Header().Set(wire.HeaderSessionID, id)
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"office" }}}`, r.id())
		return
	}
	if _, ok := o.known.Load(id); !ok {
		http.Error(w, "no such session", http.StatusNotFound)
		return
	}
	switch m := r.message; {
	case m.Kind == wire.Result || m.Kind == wire.Error:
		if ch, ok := o.asked.LoadAndDelete(id + string(m.ID.Of(m.Raw))); ok {
			ch.(chan string) <- string(m.Raw)
		}
		w.WriteHeader(http.StatusAccepted)
	case m.Kind == wire.Notification:
		if m.Method == wire.NotificationCancelled {
			o.cancelled.Add(1)
			close(o.gone(id + string(m.RequestID.Of(m.Raw))))
		}
		w.WriteHeader(http.StatusAccepted)
	default:
		o.tool(o, w, r)
	}
}

func (o *office) gone(call string) chan struct{} {
	ch, _ := o.calls.LoadOrStore(call, make(chan struct{}))
	return ch.(chan struct{})
}

// ask asks the client of a call something and waits for the answer.
func (o *office) ask(w http.ResponseWriter, r received, id, method string) string {
	ch := make(chan string, 1)
	o.asked.Store(r.header.Get(wire.HeaderSessionID)+id, ch)
	sayEvent(w, `{"jsonrpc":"2.0","id":%s,"method":%q,"params":{"message" : "of %s"}}`, id, method, r.message.Name)
	select {
	case answer := <-ch:
		if strings.Contains(answer, "or did not answer") && r.message.Name == "hold" { // given up: so is the call
			select {
			case <-o.gone(r.header.Get(wire.HeaderSessionID) + r.id()):
			case <-o.gone(r.header.Get(wire.HeaderSessionID)):
			}
		}
		return answer
	case <-o.gone(r.header.Get(wire.HeaderSessionID) + r.id()):
		return "cancelled"
	case <-o.gone(r.header.Get(wire.HeaderSessionID)):
		return "cancelled"
	case <-time.After(deadline):
		return "nobody answered"
	}
}

// reply answers a call on its event stream.
func replyEvent(w http.ResponseWriter, r received, result string) {
	sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, r.id(), result)
}

// alone is a tools/call of the stateless era, by an owner that can be asked.
type alone struct {
	owner, id, tool, arguments, capabilities, more string
	judge                                          func(raw []byte) ([]byte, error)
	told                                           *records
	notify                                         func([]byte)
}

// records are what the gateway would record.
type records struct {
	mu   sync.Mutex
	list []string
}

func (r *records) add(format string, args ...any) {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, fmt.Sprintf(format, args...))
	}
}

func (r *records) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func (a alone) request(t testing.TB) *gateway.Request {
	t.Helper()
	for at, value := range map[*string]string{&a.owner: "me", &a.id: "1", &a.arguments: "{}", &a.capabilities: `{"elicitation":{},"sampling":{}}`} {
		if *at == "" {
			*at = value
		}
	}
	m := scan(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q, "arguments":%s%s,"_meta":{"progressToken":"p%s","io.modelcontextprotocol/protocolVersion":"2026-07-28",`+
		`"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":%s}}}`, a.id, a.tool, a.arguments, a.more, strings.Trim(a.id, `"`), a.capabilities))
	r := &gateway.Request{Message: m, Method: m.Method, Era: wire.Stateless, MaxResult: 4 << 20, Owner: a.owner, Notify: a.notify}
	r.Judge = func(_ context.Context, raw []byte) ([]byte, error) {
		a.told.add("asked %s", raw)
		if a.judge != nil {
			return a.judge(raw)
		}
		return nil, nil
	}
	r.Answered = func(_ context.Context, question, answer []byte) error {
		a.told.add("answered %s with %s", question, answer)
		return nil
	}
	r.BeforeWrite = func() error { a.told.add("before"); return nil }
	r.AfterWrite = func() { a.told.add("after") }
	return r
}

// state is the requestState of a result that asks for input, and the keys of its
// questions.
func state(t testing.TB, m wire.Message) (string, []wire.Question) {
	t.Helper()
	if m.ResultType != wire.ResultInputRequired {
		t.Fatalf("no question: %s", m.Raw)
	}
	questions, token, err := wire.Questions(m.Result.Of(m.Raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := wire.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	return text, questions
}

func with(state, key, answer string) string {
	return fmt.Sprintf(`,"requestState":%q,"inputResponses":{%q:%s}`, state, key, answer)
}

const (
	modest   = `{ "content":[ ],"structuredContent":{"n":12345678901234567890 , "f":1.0}, "x":null}`
	accepted = `{"action":"accept","content":{"n":1.00}}`
)

func TestStatelessClientOfSessions(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) {
		sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1.50}}`, r.message.ProgressToken.Of(r.message.Raw))
		sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1.0}}`)
		sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b"}}`)
		replyEvent(w, r, modest)
	})
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(o.site))
	var got []string
	a := alone{id: "7", tool: "x", arguments: `{"a": 1.0 }`, notify: func(raw []byte) { got = append(got, string(raw)) }}
	m := do(t, b, a.request(t))
	want := `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"office" }},` + modest[1:] + `}`
	if string(m.Raw) != want {
		t.Errorf("\n got %s\nwant %s", m.Raw, want)
	}
	if want := []string{
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p7","progress":1.50}}`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1.0}}`,
	}; !slices.Equal(got, want) {
		t.Errorf("told %q", got)
	}
	var sent received
	for _, r := range o.received() {
		switch r.message.Method {
		case wire.MethodInitialize:
			if !strings.Contains(r.body, `"capabilities":{"elicitation":{},"sampling":{}},"clientInfo":{"name":"t","version":"1"}`) {
				t.Errorf("initialize: %s", r.body)
			}
		case wire.MethodToolsCall:
			sent = r
		}
	}
	if strings.Contains(sent.body, "io.modelcontextprotocol") || !strings.Contains(sent.body, `"arguments":{"a": 1.0 }`) || sent.header.Get(wire.HeaderVersion) != wire.Version20250618 {
		t.Errorf("sent %s under %s", sent.body, sent.header)
	}

	// One session for an owner, however its clients number their requests; another
	// for another owner, another release of the client, another stage.
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { do(t, b, alone{tool: "x"}.request(t)) })
	}
	all.Wait()
	if n := o.opened.Load(); n != 1 {
		t.Errorf("%d sessions for one owner", n)
	}
	ids := map[string]bool{}
	for _, r := range o.received() {
		if r.message.Method == wire.MethodToolsCall {
			ids[r.id()+string(r.message.ProgressToken.Of(r.message.Raw))] = true
		}
	}
	if len(ids) != 21 {
		t.Errorf("%d different ids and progress tokens of 21 requests", len(ids))
	}
	do(t, b, alone{owner: "you", tool: "x"}.request(t))
	do(t, b, alone{tool: "x", capabilities: `{}`}.request(t))
	do(t, backend(t, newStage(t, sallyport.Staging), atSessions(o.site)), alone{tool: "x"}.request(t))
	if n := o.opened.Load(); n != 4 {
		t.Errorf("%d sessions, want 4", n)
	}
	if err := stage.Close(within(t)); err != nil || o.ended.Load() != 3 {
		t.Errorf("%d sessions were ended, %v", o.ended.Load(), err)
	}
}

// TestBridgedSessionLost: the request that finds out fails and is not made again;
// the next one opens another session.
func TestBridgedSessionLost(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) { replyEvent(w, r, modest) })
	b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
	do(t, b, alone{tool: "x"}.request(t))
	o.known.Clear()
	_, err := b.Do(within(t), alone{tool: "x"}.request(t))
	refused(t, err, sallyport.UpstreamUnavailable, true)
	do(t, b, alone{tool: "x"}.request(t))
	if n := o.opened.Load(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	calls := 0
	for _, r := range o.received() {
		if r.message.Method == wire.MethodToolsCall {
			calls++
		}
	}
	if calls != 3 {
		t.Errorf("%d calls were sent for 3", calls)
	}
}

// TestBridgedSessionsEnd: when nobody uses them, and when there are too many.
func TestBridgedSessionsEnd(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) { replyEvent(w, r, modest) })
	stage := newStage(t, sallyport.Production)
	upstream.Patience(stage, 50*time.Millisecond, time.Minute)
	b := backend(t, stage, atSessions(o.site))
	do(t, b, alone{tool: "x"}.request(t))
	eventually(t, "the idle session ends", func() bool { return o.ended.Load() == 1 })
	do(t, b, alone{tool: "x"}.request(t))

	crowd := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		if r.message.Name == "wait" {
			o.ask(w, r, `"q"`, wire.MethodElicitationCreate)
		}
		replyEvent(w, r, modest)
	})
	b = backend(t, newStage(t, sallyport.Production), atSessions(crowd.site))
	for i := range 3 * upstream.MaxBridged {
		do(t, b, alone{tool: "x", capabilities: fmt.Sprintf(`{"n":%d}`, i)}.request(t))
	}
	eventually(t, "only the youngest stay", func() bool { return crowd.ended.Load() == 2*upstream.MaxBridged })
	// Those that are used stay, and there are no more.
	for i := range upstream.MaxBridged {
		state(t, do(t, b, alone{tool: "wait", owner: "busy", capabilities: fmt.Sprintf(`{"elicitation":{},"n":%d}`, i)}.request(t)))
	}
	_, err := b.Do(within(t), alone{tool: "x", owner: "busy", capabilities: `{"n":"another"}`}.request(t))
	refused(t, err, sallyport.UpstreamUnavailable, false)
	do(t, b, alone{tool: "x", owner: "another"}.request(t))

	// There are so many at most, whoever owns them; nobody can take another's place
	// while it is used.
	stage = newStage(t, sallyport.Production)
	b = backend(t, stage, program(t, wire.Version20251125))
	upstream.Crowd(b, 2)
	for i := range 4 {
		do(t, b, alone{tool: "echo", owner: fmt.Sprint(i)}.request(t))
	}
	if n := status(t, stage).Children; n != 2 {
		t.Errorf("%d children", n)
	}
	state(t, do(t, b, alone{tool: "ask", owner: "a"}.request(t)))
	state(t, do(t, b, alone{tool: "ask", owner: "b"}.request(t)))
	_, err = b.Do(within(t), alone{tool: "echo", owner: "c"}.request(t))
	refused(t, err, sallyport.UpstreamUnavailable, false)
}

// TestHeldCall lets a server ask twice in one call: the client comes back twice,
// and it stays one call of the server.
func TestHeldCall(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		first := o.ask(w, r, `"q 1"`, wire.MethodElicitationCreate)
		sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":2}}`, r.message.ProgressToken.Of(r.message.Raw))
		second := o.ask(w, r, `2`, wire.MethodSamplingCreateMessage)
		replyEvent(w, r, fmt.Sprintf(`{"content":[],"structuredContent":[%s, %s]}`, first, second))
	})
	b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
	told := &records{}
	first := do1(t, b, alone{tool: "x", arguments: `{"a":1, "b":2}`, told: told}.request(t))
	if first.Held == nil {
		t.Fatal("the call is not held")
	}
	token, questions := state(t, first.Message)
	if len(questions) != 1 || questions[0].Method != wire.MethodElicitationCreate || string(questions[0].Params) != `{"message" : "of x"}` {
		t.Errorf("asked %v", questions)
	}
	if want := []string{"before", "after", `asked {"jsonrpc":"2.0","id":"q 1","method":"elicitation/create","params":{"message" : "of x"}}`}; !slices.Equal(told.all(), want) {
		t.Errorf("recorded %q", told.all())
	}
	var ends []string
	note := func(who string) func(*gateway.Response, error) {
		return func(res *gateway.Response, err error) {
			ends = append(ends, fmt.Sprintf("%s %v %v", who, res != nil, err))
		}
	}
	first.Held.Then(note("first"))

	// The arguments may be written in another way; the progress token is another.
	progress := ""
	told2 := &records{}
	second := do1(t, b, alone{id: `"other"`, tool: "x", arguments: `{ "b":2,"a":1}`, more: with(token, questions[0].Key, accepted), told: told2,
		notify: func(raw []byte) { progress = string(raw) }}.request(t))
	token2, questions2 := state(t, second.Message)
	if token2 == token || questions2[0].Key == questions[0].Key || questions2[0].Method != wire.MethodSamplingCreateMessage {
		t.Errorf("asked %v again", questions2)
	}
	if !strings.Contains(progress, `"progressToken":"pother"`) {
		t.Errorf("progress %s", progress)
	}
	if got := told2.all(); len(got) != 4 || !strings.HasPrefix(got[0], `answered {"jsonrpc":"2.0","id":"q 1"`) || !strings.Contains(got[0], accepted) || got[1] != "before" || got[2] != "after" || !strings.HasPrefix(got[3], "asked") {
		t.Errorf("recorded %q", got)
	}
	second.Held.Then(note("second"))
	if len(ends) > 0 {
		t.Errorf("%q while it goes on", ends)
	}
	third := do1(t, b, alone{id: "3", tool: "x", arguments: `{"a":1,"b":2}`, more: with(token2, questions2[0].Key, `{"role" : "assistant"}`)}.request(t))
	want := `"structuredContent":[{"jsonrpc":"2.0","id":"q 1","result":` + accepted + `}, {"jsonrpc":"2.0","id":2,"result":{"role" : "assistant"}}]`
	if third.Held != nil || !strings.Contains(string(third.Message.Raw), want) || string(third.Message.ID.Of(third.Message.Raw)) != "3" {
		t.Errorf("got  %s\nwant %s", third.Message.Raw, want)
	}
	if want := []string{"first true <nil>", "second true <nil>"}; !slices.Equal(ends, want) {
		t.Errorf("ended %q", ends)
	}
	calls := 0
	for _, r := range o.received() {
		if r.message.Method == wire.MethodToolsCall {
			calls++
		}
	}
	if calls != 1 {
		t.Errorf("the server got %d calls", calls)
	}
	// It is over: whatever comes back now finds nothing.
	_, err := b.Do(within(t), alone{tool: "x", arguments: `{"a":1,"b":2}`, more: with(token2, questions2[0].Key, accepted)}.request(t))
	refused(t, err, sallyport.OutcomeUnknown, false)
}

func do1(t testing.TB, b gateway.Backend, r *gateway.Request) *gateway.Response {
	t.Helper()
	res, err := b.Do(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestRequestStateIsBound: to owner, stage, upstream and call, and it is good once.
func TestRequestStateIsBound(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		o.ask(w, r, `"q"`, wire.MethodElicitationCreate)
		replyEvent(w, r, modest)
	})
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(o.site))
	other, err := stage.Backend(&sallyport.StageUpstream{ID: "mail", Transport: atSessions(o.site)})
	if err != nil {
		t.Fatal(err)
	}
	token, questions := state(t, do(t, b, alone{tool: "x"}.request(t)))
	retry := with(token, questions[0].Key, accepted)
	box, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range box {
		changed := slices.Clone(box)
		changed[i] ^= 1
		_, err := b.Do(within(t), alone{tool: "x", more: with(base64.RawURLEncoding.EncodeToString(changed), questions[0].Key, accepted)}.request(t))
		refused(t, err, sallyport.OutcomeUnknown, false)
	}
	for name, c := range map[string]struct {
		b    gateway.Backend
		a    alone
		want sallyport.Code
	}{
		"another owner":           {b, alone{tool: "x", owner: "you", more: retry}, sallyport.OutcomeUnknown},
		"another stage":           {backend(t, newStage(t, sallyport.Staging), atSessions(o.site)), alone{tool: "x", more: retry}, sallyport.OutcomeUnknown},
		"another upstream":        {other, alone{tool: "x", more: retry}, sallyport.OutcomeUnknown},
		"another tool":            {b, alone{tool: "y", more: retry}, sallyport.BadRequest},
		"other arguments":         {b, alone{tool: "x", arguments: `{"a":1}`, more: retry}, sallyport.BadRequest},
		"no state":                {b, alone{tool: "x", more: `,"inputResponses":{}`}, sallyport.BadRequest},
		"a state of nobody":       {b, alone{tool: "x", more: with("abc", "k", accepted)}, sallyport.BadRequest},
		"answers of another type": {b, alone{tool: "x", more: with(token, questions[0].Key, "1")}, sallyport.BadRequest},
	} {
		told := &records{}
		c.a.told = told
		_, err := c.b.Do(within(t), c.a.request(t))
		refused(t, err, c.want, false)
		if len(told.all()) > 0 {
			t.Errorf("%s: %q", name, told.all())
		}
	}
	// Neither an answer to something else nor a veto uses it up: the first is asked
	// again, under another state.
	again := do1(t, b, alone{tool: "x", more: with(token, "another", accepted)}.request(t))
	token2, questions2 := state(t, again.Message)
	if questions2[0].Key != questions[0].Key || again.Held == nil {
		t.Errorf("asked %v", questions2)
	}
	_, err = b.Do(within(t), alone{tool: "x", more: retry}.request(t))
	refused(t, err, sallyport.BadRequest, false)
	r := alone{tool: "x", more: with(token2, questions[0].Key, accepted)}.request(t)
	halted := sallyport.Refuse(sallyport.Halted, "stop", "")
	r.BeforeWrite = func() error { return halted }
	if _, err = b.Do(within(t), r); !errors.Is(err, halted) {
		t.Errorf("a veto gave %v", err)
	}
	if m := do(t, b, alone{tool: "x", more: with(token2, questions[0].Key, accepted)}.request(t)); !strings.Contains(string(m.Raw), modest[1:]) {
		t.Errorf("got %s", m.Raw)
	}
}

// TestHeldCallEnds in every way but the client's answer.
func TestHeldCallEnds(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		switch r.message.Name {
		case "impatient":
			sayEvent(w, `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
			<-release
			replyEvent(w, r, modest)
		case "fails":
			sayEvent(w, `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
			<-release
		default:
			o.ask(w, r, `"q"`, wire.MethodElicitationCreate)
			replyEvent(w, r, modest)
		}
	})
	begin := func(stage *upstream.Stage, tool string) (gateway.Backend, *gateway.Response, chan error) {
		b := backend(t, stage, atSessions(o.site))
		res := do1(t, b, alone{tool: tool}.request(t))
		ended := make(chan error, 1)
		res.Held.Then(func(res *gateway.Response, err error) {
			if (res == nil) == (err == nil) {
				t.Errorf("ended with %v and %v", res, err)
			}
			ended <- err
		})
		return b, res, ended
	}
	over := func(what string, ended chan error) error {
		t.Helper()
		select {
		case err := <-ended:
			return err
		case <-time.After(deadline):
			t.Fatalf("%s: it goes on", what)
			return nil
		}
	}
	after := func(b gateway.Backend, tool string, res *gateway.Response) error {
		token, questions := state(t, res.Message)
		_, err := b.Do(within(t), alone{tool: tool, more: with(token, questions[0].Key, accepted)}.request(t))
		return err
	}

	impatient := newStage(t, sallyport.Production)
	upstream.Patience(impatient, time.Minute, 30*time.Millisecond)
	b, res, ended := begin(impatient, "hold")
	refused(t, over("nobody comes back", ended), sallyport.Cancelled, true)
	refused(t, after(b, "hold", res), sallyport.OutcomeUnknown, false)
	eventually(t, "the server is told", func() bool { return o.cancelled.Load() == 1 })

	b, res, ended = begin(newStage(t, sallyport.Production), "hold")
	res.Held.Drop()
	res.Held.Drop()
	refused(t, over("a halt", ended), sallyport.Cancelled, true)
	refused(t, after(b, "hold", res), sallyport.OutcomeUnknown, false)

	closing := newStage(t, sallyport.Production)
	_, _, ended = begin(closing, "hold")
	if err := closing.Close(within(t)); err != nil {
		t.Error(err)
	}
	refused(t, over("the end of the stage", ended), sallyport.Cancelled, true)

	stage := newStage(t, sallyport.Production)
	b, res, ended = begin(stage, "impatient")
	failing, failed, broken := begin(stage, "fails")
	close(release)
	if err := over("the server does not wait", ended); err != nil {
		t.Errorf("ended with %v", err)
	}
	if err := after(b, "impatient", res); err != nil {
		t.Errorf("the result that came meanwhile: %v", err)
	}
	refused(t, over("the server fails", broken), sallyport.UpstreamUnavailable, true)
	refused(t, after(failing, "fails", failed), sallyport.UpstreamUnavailable, true)

	// A panic on the way is the end of the call and of nothing else.
	r := alone{tool: "hold"}.request(t)
	r.BeforeWrite = func() error { panic("no") }
	_, err := b.Do(within(t), r)
	refused(t, err, sallyport.UpstreamUnavailable, true)

	// A client that hangs up while nothing is asked cancels as ever.
	ctx, cancel := context.WithCancel(t.Context())
	r = alone{tool: "hold"}.request(t)
	r.AfterWrite = cancel
	_, err = b.Do(ctx, r)
	refused(t, err, sallyport.Cancelled, true)
}

// TestQuestionsThatDoNotLeave: policy refuses, or the client cannot be asked. The
// server is told, and the call goes on.
func TestQuestionsThatDoNotLeave(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		method := wire.MethodElicitationCreate
		if r.message.Name != "x" {
			method = r.message.Name
		}
		replyEvent(w, r, `{"content":[],"structuredContent":`+o.ask(w, r, `"q"`, method)+`}`)
	})
	b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
	no := func([]byte) ([]byte, error) {
		return []byte(`{"jsonrpc":"2.0","id":"q","error":{"code":-32601,"message":"denied"}}`), nil
	}
	for name, c := range map[string]struct {
		a     alone
		want  string
		asked int
	}{
		"policy":             {alone{tool: "x", judge: no}, "denied", 1},
		"roots":              {alone{tool: wire.MethodRootsList, capabilities: `{"roots":{},"elicitation":{}}`, judge: no}, "denied", 1},
		"no record":          {alone{tool: "x", judge: func([]byte) ([]byte, error) { return nil, errors.New("the disk is full") }}, "not asked", 1},
		"not said":           {alone{tool: "x", capabilities: `{"sampling":{}}`}, "not asked", 0},
		"nothing was said":   {alone{tool: "x", capabilities: `{}`}, "cannot be asked", 0},
		"ping of the server": {alone{tool: wire.MethodPing}, `"result":{}`, 0},
	} {
		told := &records{}
		c.a.told = told
		res := do1(t, b, c.a.request(t))
		if res.Held != nil || !strings.Contains(string(res.Message.Raw), c.want) {
			t.Errorf("%s: %s", name, res.Message.Raw)
		}
		asked := 0
		for _, line := range told.all() {
			if strings.HasPrefix(line, "asked") {
				asked++
			}
		}
		if asked != c.asked {
			t.Errorf("%s: %q", name, told.all())
		}
	}
}

// TestQuestionsAtOnce: what a server asks at once its client finds in one result,
// and answers in one request.
func TestQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	judged := make(chan struct{}, 3)
	methods := []string{wire.MethodElicitationCreate, wire.MethodSamplingCreateMessage, wire.MethodRootsList}
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		answers := make(chan string, len(methods))
		for i, method := range methods {
			id := strconv.Itoa(100 + i)
			o.asked.Store(r.header.Get(wire.HeaderSessionID)+id, answers)
			sayEvent(w, `{"jsonrpc":"2.0","id":%s,"method":%q,"params":{"n":%s}}`, id, method, id)
			select {
			case <-judged: // only then does it ask more
			case <-time.After(deadline):
			}
		}
		all := make([]string, len(methods))
		for i := range all {
			select {
			case all[i] = <-answers:
			case <-o.gone(r.header.Get(wire.HeaderSessionID)):
				return
			}
		}
		slices.Sort(all)
		replyEvent(w, r, `{"content":[],"structuredContent":{"all":[`+strings.Join(all, ",")+`]}}`)
	})
	stage := newStage(t, sallyport.Production)
	upstream.Gather(stage, 300*time.Millisecond)
	b := backend(t, stage, atSessions(o.site))
	told := &records{}
	call := func(more string) *gateway.Request {
		r := alone{tool: "x", capabilities: `{"elicitation":{},"sampling":{},"roots":{}}`, more: more, told: told, judge: func([]byte) ([]byte, error) {
			judged <- struct{}{}
			return nil, nil
		}}.request(t)
		r.Roots = true
		return r
	}
	token, questions := state(t, do(t, b, call("")))
	if len(questions) != len(methods) {
		t.Fatalf("asked %+v", questions)
	}
	var answers []string
	for i, q := range questions {
		if q.Method != methods[i] || string(q.Params) != fmt.Sprintf(`{"n":%d}`, 100+i) {
			t.Errorf("asked %s %s", q.Method, q.Params)
		}
		answers = append(answers, fmt.Sprintf(`%q:{"answers":%d.0}`, q.Key, i))
	}
	m := do(t, b, call(fmt.Sprintf(`,"requestState":%q,"inputResponses":{%s}`, token, strings.Join(answers, ","))))
	want := `"all":[{"jsonrpc":"2.0","id":100,"result":{"answers":0.0}},{"jsonrpc":"2.0","id":101,"result":{"answers":1.0}},{"jsonrpc":"2.0","id":102,"result":{"answers":2.0}}]`
	if !strings.Contains(string(m.Raw), want) {
		t.Errorf("got %s", m.Raw)
	}
	asked, answered := 0, 0
	for _, line := range told.all() {
		if strings.HasPrefix(line, "asked") {
			asked++
		}
		if strings.HasPrefix(line, "answered") {
			answered++
		}
	}
	if asked != 3 || answered != 3 {
		t.Errorf("recorded %q", told.all())
	}
}

// TestWhoIsToldOfRoots: a server is told that its client has roots only where it may
// ask for them, and never that it will hear of changes. All else it is told as it was.
func TestWhoIsToldOfRoots(t *testing.T) {
	t.Parallel()
	const capabilities = `{"elicitation":{ }, "roots":{"listChanged":true}}`
	for _, told := range []bool{false, true} {
		want := `{"elicitation":{ }}`
		if told {
			want = `{"elicitation":{ }, "roots":{}}`
		}
		session := func() *gateway.Request {
			s := clientSession("s")
			s.ClientCapabilities = json.RawMessage(capabilities)
			s.Roots = func(u sallyport.UpstreamID) bool { return told && u != "" }
			r := sessions(t, s, "1", "x", `{"roots":{"listChanged":true}}`)
			r.Roots = told
			return r
		}
		own := func() *gateway.Request {
			r := alone{tool: "x", arguments: `{"roots":{"listChanged":true}}`, capabilities: capabilities}.request(t)
			r.Roots = told
			return r
		}
		o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) { replyEvent(w, r, modest) })
		s := newSite(t, echo)
		for name, c := range map[string]struct {
			b    gateway.Backend
			at   *site
			r    *gateway.Request
			says func(r received) bool
		}{
			"sessions":              {backend(t, newStage(t, sallyport.Production), atSessions(o.site)), o.site, session(), func(r received) bool { return r.message.Method == wire.MethodInitialize }},
			"stateless to sessions": {backend(t, newStage(t, sallyport.Production), atSessions(o.site)), o.site, own(), func(r received) bool { return r.message.Method == wire.MethodInitialize }},
			"stateless":             {backend(t, newStage(t, sallyport.Production), at(s)), s, own(), func(r received) bool { return true }},
			"sessions to stateless": {backend(t, newStage(t, sallyport.Production), at(s)), s, session(), func(r received) bool { return true }},
		} {
			before := len(c.at.received())
			do(t, c.b, c.r)
			said := 0
			for _, r := range c.at.received()[before:] {
				if r.message.Method == wire.MethodToolsCall && !strings.Contains(r.body, `"arguments":{"roots":{"listChanged":true}}`) {
					t.Errorf("%s: sent %s", name, r.body)
				}
				if c.says(r) {
					if said++; !strings.Contains(r.body, `apabilities":`+want) || strings.Contains(strings.Replace(r.body, `"arguments":{"roots":{"listChanged":true}}`, "", 1), "listChanged") {
						t.Errorf("%s, told %v: %s", name, told, r.body)
					}
				}
			}
			if said != 1 {
				t.Errorf("%s: said %d times", name, said)
			}
		}
	}
	// Who says nothing to Roots is not told; whoever asks without having been told is
	// judged, which leaves a record.
	o := newOffice(t, func(o *office, w http.ResponseWriter, r received) {
		replyEvent(w, r, `{"content":[],"structuredContent":`+o.ask(w, r, `"q"`, wire.MethodRootsList)+`}`)
	})
	b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
	records := &records{}
	do(t, b, alone{tool: "x", capabilities: capabilities, told: records, judge: func([]byte) ([]byte, error) {
		return []byte(`{"jsonrpc":"2.0","id":"q","error":{"code":-32601,"message":"denied"}}`), nil
	}}.request(t))
	if got := records.all(); !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "asked") }) {
		t.Errorf("recorded %q", got)
	}
	if got := o.received()[0].body; strings.Contains(got, "roots") {
		t.Errorf("told %s", got)
	}
}

// TestStatelessClientOfStdio: a child for each owner, asked under its own numbers.
func TestStatelessClientOfStdio(t *testing.T) {
	t.Parallel()
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, program(t, wire.Version20251125))
	m := do(t, b, alone{tool: "echo"}.request(t))
	if want := strings.Replace(strange, "{", `{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"by-hand","version":"1"}},`, 1); string(m.Result.Of(m.Raw)) != want {
		t.Errorf("\n got %s\nwant %s", m.Result.Of(m.Raw), want)
	}
	do(t, b, alone{tool: "echo", owner: "you"}.request(t))
	if n := status(t, stage).Children; n != 2 {
		t.Errorf("%d children for two owners", n)
	}
	told := &records{} // what names no call comes beside it
	do(t, b, alone{id: "5", tool: "progress", notify: func(raw []byte) { told.add("%s", raw) }}.request(t))
	progress := 0
	for _, line := range told.all() {
		if strings.Contains(line, `"progressToken":"p5", "extra":1.50`) {
			progress++
		}
	}
	if progress != 3 {
		t.Errorf("told %q", told.all())
	}
	token, questions := state(t, do(t, b, alone{tool: "ask"}.request(t)))
	m = do(t, b, alone{tool: "ask", more: with(token, questions[0].Key, `{"role":1.0}`)}.request(t))
	if !strings.Contains(string(m.Raw), `\"result\":{\"role\":1.0}`) {
		t.Errorf("got %s", m.Raw)
	}
}

// asking makes a server of the stateless era that asks for input so many times.
func asking(rounds int, questions string) func(w http.ResponseWriter, r received) {
	return func(w http.ResponseWriter, r received) {
		answers, state, _, err := wire.Retry(&r.message)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		if len(state) < rounds {
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"input_required","requestState":%q%s}}`, r.id(), state+"+", questions)
			return
		}
		text := ""
		for _, a := range answers {
			text += fmt.Sprintf(`,%q:%s`, a.Key, a.Value)
		}
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{ "resultType":"complete","content":[],"structuredContent":{"rounds":%q%s}}}`, r.id(), state, text)
	}
}

const name = `,"inputRequests":{"name":{"method":"elicitation/create","params":{"message":"é" }}}`

func TestSessionClientOfStateless(t *testing.T) {
	t.Parallel()
	client := func(ask func(raw []byte) ([]byte, error)) *gateway.Request {
		s := clientSession("s")
		s.LogLevel = func() string { return "warning" }
		r := sessions(t, s, "1", "x", `{"a": 1.0 }`)
		if ask != nil {
			r.Ask = func(_ context.Context, raw []byte) ([]byte, error) { return ask(raw) }
		}
		return r
	}
	var asked []string
	yes := func(raw []byte) ([]byte, error) {
		m := scan(t, string(raw))
		asked = append(asked, m.Method+" "+string(m.Params.Of(m.Raw)))
		return wire.AppendResult(nil, m.ID.Of(m.Raw), []byte(accepted)), nil
	}
	for _, c := range []struct {
		name   string
		server func(w http.ResponseWriter, r received)
		ask    func([]byte) ([]byte, error)
		want   string // of the response
		sent   int
		asked  int
	}{
		{"nothing asked", asking(0, ""), nil, `"result":{ "content":[],"structuredContent":{"rounds":""}}`, 1, 0},
		{"asked once", asking(1, name), yes, `"structuredContent":{"rounds":"+","name":` + accepted + `}`, 2, 1},
		{"asked twice", asking(2, name), yes, `"rounds":"++"`, 3, 2},
		{"asked for ever", asking(1000, name), yes, `"input_required"`, 8, 7},
		{"only to come again", asking(1, ""), yes, `"rounds":"+"`, 2, 0},
		{"nobody to ask", asking(1, name), nil, `"input_required"`, 1, 0},
		{"an error for an answer", asking(1, name), func(raw []byte) ([]byte, error) {
			return []byte(`{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}`), nil
		}, `"input_required"`, 1, 0},
		{"no answer", asking(1, name), func([]byte) ([]byte, error) { return nil, errors.New("gone") }, `"input_required"`, 1, 0},
		{"what the client does not do", asking(1, `,"inputRequests":{"r":{"method":"roots/list"}}`), yes, `"input_required"`, 1, 0},
		{"questions nobody can read", asking(1, `,"inputRequests":{"r":7}`), yes, `"input_required"`, 1, 0},
	} {
		asked = nil
		s := newSite(t, c.server)
		b := backend(t, newStage(t, sallyport.Production), at(s))
		r := client(c.ask)
		again := 0
		r.Again = func(context.Context) error { again++; return nil }
		m := do(t, b, r)
		if !strings.Contains(string(m.Raw), c.want) {
			t.Errorf("%s: got %s", c.name, m.Raw)
		}
		got := s.received()
		if len(got) != c.sent || len(asked) != c.asked || again != c.sent-1 {
			t.Errorf("%s: %d requests, %d questions, asked again %d times", c.name, len(got), len(asked), again)
		}
		for _, q := range asked {
			if q != `elicitation/create {"message":"é" }` {
				t.Errorf("%s: asked %s", c.name, q)
			}
		}
		if string(m.ID.Of(m.Raw)) != "1" {
			t.Errorf("%s: answered with another id: %s", c.name, m.Raw)
		}
		ids := map[string]bool{}
		for _, r := range got {
			if ids[r.id()] {
				t.Errorf("%s: two requests with id %s", c.name, r.id())
			}
			ids[r.id()] = true
			if err := wire.CheckHeaders(r.header, &r.message); err != nil || !strings.Contains(r.body, `"arguments":{"a": 1.0 }`) ||
				!strings.Contains(r.body, `"io.modelcontextprotocol/clientInfo":{"name":"client-s","version":"7"},"io.modelcontextprotocol/logLevel":"warning"`) {
				t.Errorf("%s: %v: sent %s", c.name, err, r.body)
			}
		}
	}

	// A halt between the rounds, and a result that the session era has no place for.
	s := newSite(t, asking(1, name))
	halted := sallyport.Refuse(sallyport.Halted, "stop", "")
	r := client(yes)
	r.Again = func(context.Context) error { return halted }
	if _, err := backend(t, newStage(t, sallyport.Production), at(s)).Do(within(t), r); !errors.Is(err, halted) || len(s.received()) != 1 {
		t.Errorf("%v after %d requests", err, len(s.received()))
	}
	task := newSite(t, func(w http.ResponseWriter, r received) {
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"task"}}`, r.id())
	})
	_, err := backend(t, newStage(t, sallyport.Production), at(task)).Do(within(t), client(yes))
	refused(t, err, sallyport.EraMismatch, true)
}

func TestSessionClientOfStatelessStdio(t *testing.T) {
	t.Parallel()
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, program(t, wire.Version20260728))
	r := sessions(t, clientSession("a"), "1", "raw", `{"n":1.0}`)
	m := do(t, b, r)
	for _, want := range []string{`\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"`, `\"arguments\":{\"n\":1.0}`} {
		if !strings.Contains(string(m.Raw), want) {
			t.Errorf("sent %s, want %s in it", m.Raw, want)
		}
	}
	do(t, b, sessions(t, clientSession("b"), "1", "echo", `{}`))
	var got []string
	r = sessions(t, clientSession("a"), "2", "progress", `{}`)
	r.Notify = func(raw []byte) { got = append(got, string(raw)) }
	m = do(t, b, r)
	if len(got) != 3 || !strings.Contains(got[0], `"progressToken":"tok-2"`) || m.ResultType != "" {
		t.Errorf("told %q, then %s", got, m.Raw)
	}
	if n := status(t, stage).Children; n != 1 {
		t.Errorf("%d children", n)
	}
}

// BenchmarkCross makes calls within an era and across, to the same server, which is
// part of what is measured.
func BenchmarkCross(b *testing.B) {
	o := newOffice(b, func(_ *office, w http.ResponseWriter, r received) {
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, r.id(), modest)
	})
	s := newSite(b, echo)
	const arguments = `{"customer":"c-1234567890","fields":["name","address","orders"]}`
	for _, c := range []struct {
		name string
		to   sallyport.Transport
		r    *gateway.Request
	}{
		{"stateless to stateless", at(s), stateless(b, "1", "x", arguments)},
		{"sessions to sessions", atSessions(o.site), sessions(b, clientSession("s"), "1", "x", arguments)},
		{"sessions to stateless", at(s), sessions(b, clientSession("s"), "1", "x", arguments)},
		{"stateless to sessions", atSessions(o.site), alone{tool: "x", arguments: arguments, capabilities: `{"roots":{}}`}.request(b)},
		{"stateless to sessions, may be asked", atSessions(o.site), alone{tool: "x", arguments: arguments}.request(b)},
	} {
		b.Run(c.name, func(b *testing.B) {
			to := backend(b, newStage(b, sallyport.Production), c.to)
			b.ReportAllocs()
			for b.Loop() {
				do1(b, to, c.r)
				o.forget()
				s.forget()
			}
		})
	}
}

// forget drops what the server has received.
func (s *site) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = nil
}
