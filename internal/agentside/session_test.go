package agentside_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// TestInitialize: 2025-06-18 is spoken, every other version is answered with
// 2025-11-25, and no answer says more than another.
func TestInitialize(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	ids := map[string]bool{}
	for _, version := range []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05", "2099-01-01"} {
		r := do(h, post(strings.Replace(initializeBody, `"protocolVersion":"2025-11-25"`, `"protocolVersion":"`+version+`"`, 1)))
		agreed := "2025-11-25"
		if version == "2025-06-18" {
			agreed = version
		}
		want := `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"` + agreed + `","capabilities":` + f.caps +
			`,"serverInfo":{"name":"sallyport","version":"1.2.3"},"instructions":"be \"kind\""}}`
		if got := body(t, r); got != want || r.StatusCode != 200 {
			t.Errorf("%s: status %d\ngot  %s\nwant %s", version, r.StatusCode, got, want)
		}
		id := r.Header.Get("Mcp-Session-Id")
		if len(id) < 26 || ids[id] {
			t.Errorf("session id %q", id)
		}
		ids[id] = true
		var names []string
		for name := range r.Header {
			names = append(names, name)
		}
		if len(names) != 4 { // Cache-Control, Content-Length, Content-Type, Mcp-Session-Id
			t.Errorf("headers %v", names)
		}
	}
	if h.Sessions() != 5 {
		t.Errorf("%d sessions", h.Sessions())
	}
}

// TestSessionMethods serves each method that has no other test here.
func TestSessionMethods(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	for _, tt := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, 202, ""},
		{`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`, 202, ""},
		{`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`, 202, ""},
		{`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}`, 202, ""},
		{`{"jsonrpc":"2.0","method":"notifications/cancelled"}`, 202, ""},
		{`{"jsonrpc":"2.0","method":"notifications/unheard/of"}`, 202, ""},
		{`{"jsonrpc":"2.0","id":"ask-1","result":{}}`, 202, ""},
		{`{"jsonrpc":"2.0","id":5,"error":{"code":1,"message":"m"}}`, 202, ""},
		{`{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}`, 202, ""},
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, 200, `{"jsonrpc":"2.0","id":1,"result":{}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, 200, `{"jsonrpc":"2.0","id":1,"result":{"tools":[` + string(f.tools.Definitions[0]) + `,` + string(f.tools.Definitions[1]) + `]}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"prompts/list"}`, 200, `{"jsonrpc":"2.0","id":1,"result":{"prompts":[]}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"file:///a"}}`, 200, `{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"file:///a"}}`, 200, `{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}`, 200, `{"jsonrpc":"2.0","id":1,"result":{}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"loud"}}`, 200, `-32602`},
		{`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel"}`, 200, `-32602`},
		{`{"jsonrpc":"2.0","id":1,"method":"server/discover"}`, 200, `-32601`},
		{`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}`, 200, `-32601`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/steal"}`, 200, `-32601`},
		{`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`, 200, `-32601`},
	} {
		r := do(h, legacy(session, tt.body))
		got := body(t, r)
		if r.StatusCode != tt.status || !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: status %d %s", tt.body, r.StatusCode, got)
		}
	}
	// The versions before 2025-06-18 had no header, and a client may still send the
	// one it asked for.
	for _, version := range []string{"", "2025-03-26", "2025-06-18"} {
		if r := do(h, legacy(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "MCP-Protocol-Version", version)); r.StatusCode != 200 {
			t.Errorf("version %q: status %d", version, r.StatusCode)
		}
	}
	// A credential that counts no more cannot even ping.
	f.revoke(alice)
	for _, method := range []string{`"ping"`, `"logging/setLevel","params":{"level":"info"}`, `"tools/list"`, `"prompts/list"`} {
		if r := do(h, legacy(session, `{"jsonrpc":"2.0","id":1,"method":`+method+`}`)); r.StatusCode != 401 {
			t.Errorf("%s: status %d", method, r.StatusCode)
		}
	}
}

// TestSessionTheft: with another credential a session does not exist, for no
// method and no kind of message.
func TestSessionTheft(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	for _, r := range []*request{
		legacy(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`),
		legacy(session, toolCall("1", "echo")),
		legacy(session, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`),
		legacy(session, `{"jsonrpc":"2.0","id":"ask-1","result":{}}`),
		{method: "GET", url: "/mcp", header: http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}},
		{method: "DELETE", url: "/mcp", header: http.Header{"Mcp-Session-Id": {session}}},
	} {
		if res := do(h, r.with("Authorization", "Bearer "+bob)); res.StatusCode != 404 {
			t.Errorf("%s %s: status %d", r.method, r.body, res.StatusCode)
		}
		if res := do(h, r.with("Authorization", "Bearer nobody")); res.StatusCode != 401 {
			t.Errorf("%s %s: status %d for an unknown credential", r.method, r.body, res.StatusCode)
		}
	}
	if h.Sessions() != 1 || f.calls.Load() != 0 {
		t.Errorf("%d sessions, %d calls", h.Sessions(), f.calls.Load())
	}
	if r := do(h, legacy(session, toolCall("1", "echo"))); r.StatusCode != 200 {
		t.Errorf("the owner: status %d", r.StatusCode)
	}
}

// TestDeleteEndsSession, its calls and its streams.
func TestDeleteEndsSession(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	stream := openStream(t, server, session)
	begun := make(chan struct{})
	f.onCall(func(ctx context.Context, _ *gateway.Exchange) gateway.Reply {
		close(begun)
		<-ctx.Done()
		return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "the call was cancelled", "")}
	})
	done := make(chan string)
	go func() { done <- body(t, do(h, legacy(session, toolCall("1", "slow")))) }()
	<-begun
	gone := &request{method: "DELETE", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Session-Id": {session}}}
	if r := do(h, gone); r.StatusCode != 204 {
		t.Errorf("status %d", r.StatusCode)
	}
	has(t, <-done, "Refused (cancelled)")
	if got := stream(); got != "EOF" {
		t.Errorf("the stream goes on: %s", got)
	}
	for _, r := range []*request{gone, legacy(session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)} {
		if res := do(h, r); res.StatusCode != 404 {
			t.Errorf("%s after the end: status %d", r.method, res.StatusCode)
		}
	}
	if h.Sessions() != 0 || f.closedSessions() != 1 {
		t.Errorf("%d sessions, %d closed", h.Sessions(), f.closedSessions())
	}
}

// openStream opens the stream of a session and returns what reads it. It is open
// when the function returns.
func openStream(t testing.TB, server *httptest.Server, session string) func() string {
	t.Helper()
	r := &request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}}
	res, err := http.DefaultClient.Do(r.http(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return events(t, res)
}

// sessionOf returns the gateway's side of a session.
func sessionOf(t testing.TB, f *fake, h http.Handler, id string) *gateway.Session {
	t.Helper()
	var s *gateway.Session
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		s = x.Session
		return gateway.Reply{Result: []byte("{}")}
	})
	body(t, do(h, legacy(id, toolCall(`"find"`, "echo"))))
	f.onCall(nil)
	return s
}

// TestSessionKnowsItsClient: upstreams are told what the client said of itself,
// to the byte, and can ask only a client that can be asked.
func TestSessionKnowsItsClient(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	for _, tt := range []struct {
		capabilities string
		asked        bool
	}{
		{`{"sampling":{}}`, true}, {`{ "elicitation" : {"form":{}} }`, true}, {`{"roots":{"listChanged":true}}`, true},
		{`{}`, false}, {`{"experimental":{}}`, false}, {`{"sampling":null}`, false},
	} {
		r := do(h, post(strings.Replace(initializeBody, `{"sampling":{}}`, tt.capabilities, 1)))
		s := sessionOf(t, f, h, r.Header.Get("Mcp-Session-Id"))
		if s.Key != "alice" || string(s.ClientCapabilities) != tt.capabilities || string(s.ClientInfo) != `{"name":"test","version":"1"}` || (s.Ask != nil) != tt.asked {
			t.Errorf("session %+v for %s", s, tt.capabilities)
		}
	}
}

// TestSameIDTwice: two requests in flight with one id are one too many, however
// the id is written; the same id afterwards, or in another session, is fine.
func TestSameIDTwice(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	one, two := initialize(t, h), initialize(t, h)
	begun, finish := make(chan struct{}, 10), make(chan struct{})
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		if x.Message.Name == "slow" {
			begun <- struct{}{}
			<-finish
		}
		return gateway.Reply{Result: []byte("{}")}
	})
	done := make(chan *http.Response, 2)
	go func() { done <- do(h, legacy(one, toolCall(`"a"`, "slow"))) }()
	<-begun
	for _, r := range []*request{legacy(one, toolCall(`"a"`, "echo")), legacy(one, toolCall(`"\u0061"`, "echo")),
		legacy(one, `{"jsonrpc":"2.0","id":"a","method":"ping"}`), legacy(one, `{"jsonrpc":"2.0","id":"a","method":"tools/list"}`)} {
		res := do(h, r)
		if text := body(t, res); res.StatusCode != 400 || !strings.Contains(text, "-32600") {
			t.Errorf("%s: status %d %s", r.body, res.StatusCode, text)
		}
	}
	for _, r := range []*request{legacy(one, toolCall(`"b"`, "echo")), legacy(two, toolCall(`"a"`, "echo"))} {
		if res := do(h, r); res.StatusCode != 200 {
			t.Errorf("%s: status %d", r.body, res.StatusCode)
		}
	}
	close(finish)
	if res := <-done; res.StatusCode != 200 {
		t.Errorf("the first: status %d", res.StatusCode)
	}
	if res := do(h, legacy(one, toolCall(`"a"`, "echo"))); res.StatusCode != 200 {
		t.Errorf("afterwards: status %d", res.StatusCode)
	}
	// 7 and "7" are two ids.
	finish = make(chan struct{})
	go func() { done <- do(h, legacy(one, toolCall(`7`, "slow"))) }()
	<-begun
	if res := do(h, legacy(one, toolCall(`"7"`, "echo"))); res.StatusCode != 200 {
		t.Errorf("7 and \"7\": status %d", res.StatusCode)
	}
	close(finish)
	<-done
}

// TestIDAgain: whoever has read an answer may use its id again, at once.
func TestIDAgain(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	r := legacy(session, toolCall("1", "echo"))
	w := &onWrite{ResponseRecorder: httptest.NewRecorder()}
	w.first = func() {
		if res := do(h, r); res.StatusCode != 200 {
			t.Errorf("status %d: %s", res.StatusCode, body(t, res))
		}
	}
	h.ServeHTTP(w, r.http("http://example.com"))
	if f.calls.Load() != 2 {
		t.Errorf("%d calls", f.calls.Load())
	}
}

// onWrite does something when the first bytes are written.
type onWrite struct {
	*httptest.ResponseRecorder
	first func()
}

func (w *onWrite) Write(b []byte) (int, error) {
	if first := w.first; first != nil {
		w.first = nil
		first()
	}
	return w.ResponseRecorder.Write(b)
}

// TestCancelled cancels the call it names in its own session and nothing else.
func TestCancelled(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	one, two := initialize(t, h), initialize(t, h)
	begun := make(chan struct{}, 10)
	var mu sync.Mutex
	contexts := map[string]context.Context{}
	finish := make(chan struct{})
	f.onCall(func(ctx context.Context, x *gateway.Exchange) gateway.Reply {
		mu.Lock()
		contexts[x.Session.ID+string(x.Message.ID.Of(x.Message.Raw))] = ctx
		mu.Unlock()
		begun <- struct{}{}
		select {
		case <-ctx.Done():
			return gateway.Reply{Refusal: sallyport.Refuse(sallyport.Cancelled, "the call was cancelled", "")}
		case <-finish:
			return gateway.Reply{Result: []byte("{}")}
		}
	})
	done := make(chan string, 4)
	calls := []*request{legacy(one, toolCall(`"a"`, "slow")), legacy(one, toolCall(`2`, "slow")), legacy(two, toolCall(`"a"`, "slow")), legacy(two, toolCall(`2`, "slow"))}
	for _, r := range calls {
		go func() { done <- body(t, do(h, r)) }()
		<-begun
	}
	for _, id := range []string{`"b"`, `1`, `"2"`, `"\u0061"`} { // only the last is one
		if r := do(h, legacy(one, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`,"reason":"x"}}`)); r.StatusCode != 202 {
			t.Errorf("status %d", r.StatusCode)
		}
	}
	has(t, <-done, "Refused (cancelled)")
	mu.Lock()
	for key, ctx := range contexts {
		if cancelled := ctx.Err() != nil; cancelled != (key == one+`"a"`) {
			t.Errorf("call %s: %v", key, ctx.Err())
		}
	}
	mu.Unlock()
	close(finish)
	for range 3 {
		has(t, <-done, `"result":{}`)
	}
}

// TestDisconnectIsNoCancellation where there are sessions: the call goes on when
// its client is gone.
func TestDisconnectIsNoCancellation(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	session := initialize(t, h)
	begun, finished := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context()) // of the connection
	f.onCall(func(call context.Context, x *gateway.Exchange) gateway.Reply {
		close(begun)
		<-ctx.Done()
		finished <- call.Err()
		return gateway.Reply{Result: []byte("{}")}
	})
	go func() {
		<-begun
		cancel()
	}()
	r := legacy(session, toolCall("1", "slow")).http("http://example.com")
	h.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	if err := <-finished; err != nil {
		t.Errorf("the call ended with %v", err)
	}
}

// TestLevelOfSession filters log messages in calls and beside them.
func TestLevelOfSession(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	s := sessionOf(t, f, h, session)
	read := openStream(t, server, session)
	message := func(level string) []byte {
		return []byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"` + level + `","data":"` + level + `"}}`)
	}
	s.Deliver(message("debug"))
	has(t, read(), "debug")
	if r := do(h, legacy(session, `{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"warning"}}`)); r.StatusCode != 200 {
		t.Fatalf("status %d", r.StatusCode)
	}
	for _, l := range []string{"debug", "info", "notice", "warning", "alert"} {
		s.Deliver(message(l))
	}
	has(t, read(), "warning")
	has(t, read(), "alert")
	f.onCall(func(_ context.Context, x *gateway.Exchange) gateway.Reply {
		x.Notify(message("info"))
		x.Notify(message("error"))
		return gateway.Reply{Result: []byte("{}")}
	})
	text := body(t, do(h, legacy(session, toolCall("1", "echo"))))
	if strings.Contains(text, "info") || !strings.Contains(text, "error") {
		t.Errorf("level warning lets through\n%s", text)
	}
}

// TestDeliverOnOneStream: each message arrives on exactly one stream, the youngest,
// in order; what comes while there is none waits; a change of a list waits once.
func TestDeliverOnOneStream(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	s := sessionOf(t, f, h, session)
	updated := func(n int) []byte {
		return fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///%d"}}`, n)
	}
	s.Deliver(updated(1))
	h.ToolsChanged()
	h.ToolsChanged()
	s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`))
	s.Deliver(updated(2))
	old := openStream(t, server, session)
	for _, want := range []string{"file:///1", "tools/list_changed", "resources/list_changed", "prompts/list_changed", "file:///2"} {
		has(t, old(), want)
	}
	young := openStream(t, server, session)
	for n := range 100 {
		s.Deliver(updated(n))
		has(t, young(), fmt.Sprintf("file:///%d\"", n))
	}
	do(h, &request{method: "DELETE", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Session-Id": {session}}})
	if got := old() + young(); got != "EOFEOF" {
		t.Errorf("after the end: %s", got)
	}
	s.Deliver(updated(3)) // nobody is there: dropped without harm
}

// TestOlderStreamsWait even while the youngest is slow to write: what is delivered
// stays in order and comes once.
func TestOlderStreamsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f)
		session := initialize(t, h)
		s := sessionOf(t, f, h, session)
		old, young := httptest.NewRecorder(), &slow{httptest.NewRecorder()}
		for _, w := range []http.ResponseWriter{old, young} {
			go func() {
				r := &request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}}
				h.ServeHTTP(w, r.http("http://example.com"))
			}()
			synctest.Wait()
		}
		for n := range 3 {
			s.Deliver(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///%d"}}`, n))
			time.Sleep(25 * time.Second)
		}
		time.Sleep(10 * time.Minute)
		h.Close(t.Context()) // and the last writes with it
		if got := old.Body.String(); strings.Contains(got, "file:///") {
			t.Errorf("the older stream has %s", got)
		}
		if got := young.Body.String(); strings.Count(got, "file:///") != 3 {
			t.Errorf("the younger stream has %s", got)
		}
	})
}

// TestStreamTakesOver: when the youngest stream ends the one before it goes on, and
// a client that opens ever more loses the oldest.
func TestStreamTakesOver(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	s := sessionOf(t, f, h, session)
	oldest := openStream(t, server, session)
	for range 4 {
		openStream(t, server, session)
	}
	if got := oldest(); got != "EOF" {
		t.Errorf("the fifth stream leaves the first open: %s", got)
	}
	read := openStream(t, server, session)
	s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`))
	has(t, read(), "list_changed")
}

// TestAsk: an upstream's question goes out on the stream of its call, with an id of
// ours, and the client's response comes back with the upstream's.
func TestAsk(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	// Two upstreams that use the same id at the same time.
	type result struct {
		raw []byte
		err error
	}
	answers := make([]result, 2)
	f.onCall(func(ctx context.Context, x *gateway.Exchange) gateway.Reply {
		ctx, cancel := context.WithTimeout(ctx, time.Minute) // as a gateway does
		defer cancel()
		var wait sync.WaitGroup
		for i := range answers {
			wait.Go(func() {
				raw, err := x.Session.Ask(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0","id": "up\u0031", "method":"sampling/createMessage","params":{"n":%d, "big":12345678901234567890}}`, i))
				answers[i] = result{raw, err}
			})
		}
		wait.Wait()
		return gateway.Reply{Result: []byte(`{"content":[]}`)}
	})
	res, err := http.DefaultClient.Do(legacy(session, toolCall("1", "echo")).http(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	read := events(t, res)
	seen := map[string]bool{}
	for range 2 {
		text := read()
		m := isMessage(t, text)
		id := string(m.ID.Of(m.Raw))
		if m.Method != "sampling/createMessage" || seen[id] || strings.Contains(id, "up") {
			t.Errorf("question %s", text)
		}
		seen[id] = true
		n, _, _ := wire.Field(m.Params.Of(m.Raw), "n")
		has(t, text, `"big":12345678901234567890`)
		// The same answer in another session, or from another client, is nobody's.
		other := initialize(t, h, "Authorization", "Bearer "+bob)
		stolen := `{"jsonrpc":"2.0","id":` + id + `,"result":{"n":"stolen"}}`
		do(h, legacy(other, stolen, "Authorization", "Bearer "+bob))
		do(h, legacy(session, stolen, "Authorization", "Bearer "+bob))
		if r := do(h, legacy(session, `{"jsonrpc":"2.0", "id":`+id+`,"result":{"n":`+string(n)+`,"big":1.0}}`)); r.StatusCode != 202 {
			t.Errorf("status %d", r.StatusCode)
		}
		do(h, legacy(session, stolen)) // and a second answer is none
	}
	has(t, read(), `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`)
	for i, a := range answers {
		want := fmt.Sprintf(`{"jsonrpc":"2.0", "id":"up\u0031","result":{"n":%d,"big":1.0}}`, i)
		if string(a.raw) != want || a.err != nil {
			t.Errorf("answer %s, %v, want %s", a.raw, a.err, want)
		}
	}
}

// TestAskBesideCalls goes out on the stream of the session; also when the call's
// client takes no stream.
func TestAskBesideCalls(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	read := openStream(t, server, session)
	f.onCall(func(ctx context.Context, x *gateway.Exchange) gateway.Reply {
		for _, ctx := range []context.Context{ctx, context.Background()} {
			raw, err := x.Session.Ask(ctx, []byte(`{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}`))
			if err != nil || string(raw) != `{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"declined"}}` {
				t.Errorf("answer %s, %v", raw, err)
			}
		}
		return gateway.Reply{Result: []byte("{}")}
	})
	done := make(chan string)
	go func() { done <- body(t, do(h, legacy(session, toolCall("1", "echo"), "Accept", "*/*"))) }()
	for range 2 {
		m := isMessage(t, read())
		do(h, legacy(session, `{"jsonrpc":"2.0","id":`+string(m.ID.Of(m.Raw))+`,"error":{"code":-1,"message":"declined"}}`))
	}
	if got := <-done; got != `{"jsonrpc":"2.0","id":1,"result":{}}` {
		t.Errorf("answer %s", got)
	}
}

// TestAskEnds when nobody waits any more, and the client is told if it may have
// seen the question.
func TestAskEnds(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	server := serve(t, h)
	session := initialize(t, h)
	s := sessionOf(t, f, h, session)
	question := []byte(`{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}`)

	// Nobody has seen it: nothing is left of it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ask(ctx, question); !errors.Is(err, context.Canceled) {
		t.Errorf("asked with %v", err)
	}
	read := openStream(t, server, session)
	s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`))
	has(t, read(), "list_changed")

	// The client has seen it.
	ctx, cancel = context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, err := s.Ask(ctx, question)
		asked <- err
	}()
	m := isMessage(t, read())
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("asked with %v", err)
	}
	want := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + string(m.ID.Of(m.Raw)) + `}}`
	if got := read(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	for _, bad := range []string{"", "{}", `{"jsonrpc":"2.0","method":"notifications/message","params":{}}`, `{"jsonrpc":"2.0","id":1,"result":{}}`} {
		if _, err := s.Ask(t.Context(), []byte(bad)); err == nil {
			t.Errorf("asked %s", bad)
		}
	}

	// The session ends.
	go func() {
		_, err := s.Ask(context.Background(), question)
		asked <- err
	}()
	read()
	do(h, &request{method: "DELETE", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Mcp-Session-Id": {session}}})
	if err := <-asked; err == nil {
		t.Error("a session that ended was answered")
	}
	if _, err := s.Ask(context.Background(), question); err == nil {
		t.Error("a session that had ended was asked")
	}
}

// TestAskIsBounded: an upstream cannot fill the memory with questions.
func TestAskIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f)
		session := initialize(t, h)
		s := sessionOf(t, f, h, session)
		refused, waited := 0, 0
		var mu sync.Mutex
		var wait sync.WaitGroup
		for i := range 1000 {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := s.Ask(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{}}`, i))
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, context.DeadlineExceeded) {
					waited++
				} else if err != nil {
					refused++
				}
			})
		}
		wait.Wait()
		if waited != 64 || refused != 936 {
			t.Errorf("%d waited, %d were refused", waited, refused)
		}
		h.Close(t.Context())
	})
}

// TestIdleSessionsEnd, and those do not in which something is going on.
func TestIdleSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f, func(c *agentside.Config) { c.SessionIdle = time.Hour })
		idle, pinging, calling, streaming := initialize(t, h), initialize(t, h), initialize(t, h), initialize(t, h)
		finish := make(chan struct{})
		f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
			<-finish
			return gateway.Reply{Result: []byte("{}")}
		})
		var wait sync.WaitGroup
		wait.Go(func() { do(h, legacy(calling, toolCall("1", "slow"))) })
		ctx, cancel := context.WithCancel(t.Context())
		wait.Go(func() {
			r := &request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {streaming}}}
			h.ServeHTTP(httptest.NewRecorder(), r.http("http://example.com").WithContext(ctx))
		})
		alive := func(session string) bool {
			return do(h, legacy(session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)).StatusCode == 202
		}
		for range 6 {
			time.Sleep(20 * time.Minute)
			alive(pinging)
		}
		synctest.Wait()
		if h.Sessions() != 3 || f.closedSessions() != 1 || alive(idle) {
			t.Errorf("%d sessions, %d closed", h.Sessions(), f.closedSessions())
		}
		for _, s := range []string{pinging, calling, streaming} {
			if !alive(s) {
				t.Error("a session in use has ended")
			}
		}
		close(finish)
		cancel()
		wait.Wait()
		time.Sleep(59 * time.Minute)
		if h.Sessions() != 3 {
			t.Errorf("%d sessions before their time", h.Sessions())
		}
		time.Sleep(17 * time.Minute)
		synctest.Wait()
		if h.Sessions() != 0 || f.closedSessions() != 4 {
			t.Errorf("%d sessions, %d closed", h.Sessions(), f.closedSessions())
		}
		// It begins again after there were none.
		initialize(t, h)
		time.Sleep(76 * time.Minute)
		synctest.Wait()
		if h.Sessions() != 0 {
			t.Error("the sweeper has stopped")
		}
		h.Close(t.Context())
	})
}

// TestStreamEndsWithCredential within a keep-alive.
func TestStreamEndsWithCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		h := newHandler(t, f)
		session := initialize(t, h)
		done := make(chan struct{})
		w := httptest.NewRecorder()
		go func() {
			defer close(done)
			r := &request{method: "GET", url: "/mcp", header: http.Header{"Authorization": {"Bearer " + alice}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}}}
			h.ServeHTTP(w, r.http("http://example.com"))
		}()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if got := strings.Count(w.Body.String(), ":\n"); got != 3 {
			t.Errorf("%d comments in a minute", got)
		}
		f.revoke(alice)
		time.Sleep(21 * time.Second)
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the stream outlives its credential")
		}
		h.Close(t.Context())
		<-done
	})
}

// TestSessionsAreBounded in all and by key: a key's own longest unused session
// makes room for its next, never another key's.
func TestSessionsAreBounded(t *testing.T) {
	f := newFake(t)
	var seconds atomic.Int64
	h := newHandler(t, f, func(c *agentside.Config) {
		c.MaxSessions, c.MaxSessionsPerKey = 5, 3
		c.Now = func() time.Time { return time.Unix(seconds.Add(1), 0) }
	})
	alive := func(session string) bool {
		return do(h, legacy(session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)).StatusCode == 202
	}
	a, b, c := initialize(t, h), initialize(t, h), initialize(t, h)
	alive(a) // so that b is the longest unused
	d := initialize(t, h)
	if diff := cmp.Diff([]bool{true, false, true, true}, []bool{alive(a), alive(b), alive(c), alive(d)}); diff != "" {
		t.Error(diff)
	}
	if h.Sessions() != 3 || f.closedSessions() != 1 {
		t.Errorf("%d sessions, %d closed", h.Sessions(), f.closedSessions())
	}
	initialize(t, h, "Authorization", "Bearer "+bob)
	initialize(t, h, "Authorization", "Bearer "+bob)
	r := do(h, post(initializeBody, "Authorization", "Bearer "+bob))
	if text := body(t, r); r.StatusCode != 503 || !strings.Contains(text, "too_busy") || r.Header.Get("Mcp-Session-Id") != "" {
		t.Errorf("status %d %s", r.StatusCode, text)
	}
	if h.Sessions() != 5 || !alive(a) {
		t.Errorf("%d sessions", h.Sessions())
	}

	// Room that a key makes for itself counts.
	full := newHandler(t, f, func(c *agentside.Config) { c.MaxSessions, c.MaxSessionsPerKey = 2, 2 })
	for range 3 {
		initialize(t, full)
	}

	// One in use is not taken away.
	begun, finish := make(chan struct{}, 3), make(chan struct{})
	f.onCall(func(context.Context, *gateway.Exchange) gateway.Reply {
		begun <- struct{}{}
		<-finish
		return gateway.Reply{Result: []byte("{}")}
	})
	var wait sync.WaitGroup
	for _, s := range []string{a, c, d} {
		wait.Go(func() { do(h, legacy(s, toolCall("1", "slow"))) })
		<-begun
	}
	if r := do(h, post(initializeBody)); r.StatusCode != 503 {
		t.Errorf("status %d with all sessions in use", r.StatusCode)
	}
	close(finish)
	wait.Wait()
}

// TestSaysNothingOfStages: the same client sees the same bytes whatever its key,
// but for what is random.
func TestSaysNothingOfStages(t *testing.T) {
	f := newFake(t)
	h := newHandler(t, f)
	var seen []map[string]any
	for _, credential := range []string{alice, bob} {
		all := map[string]any{}
		for _, r := range []*request{modern("server/discover", ""), modern("tools/list", ""), post(initializeBody), modern("tools/call", `"name":"echo",`)} {
			res := do(h, r.with("Authorization", "Bearer "+credential))
			header := res.Header.Clone()
			header.Del("Mcp-Session-Id")
			var v any
			if err := json.Unmarshal([]byte(body(t, res)), &v); err != nil {
				t.Fatal(err)
			}
			all[r.body] = map[string]any{"header": header, "body": v, "status": res.StatusCode}
		}
		seen = append(seen, all)
	}
	if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
		t.Error(diff)
	}
}
