package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

// step is one request of a client. The tags are what testdata/counterpart/run.mjs
// reads.
type step struct {
	Method string         `json:"method"`
	Params map[string]any `json:"params,omitempty"`
	// Progress asks for progress, and so many notifications of it have to come;
	// Cancel cancels the request at the first of them.
	Progress int  `json:"progress,omitempty"`
	Cancel   bool `json:"cancel,omitempty"`
	// Await is a notification that has to have come before the next step.
	Await string `json:"await,omitempty"`

	// from is the server that answers, and gives byte for byte the same answer to
	// anybody; without one nothing is compared. There the tool is called as.
	from sallyport.UpstreamID
	as   string
	// text is what the answer has to contain, where it differs from time to time.
	text string
	// list is the member of the result with the items, which are those of all
	// servers.
	list string
	// unreadable: the answer holds what the official SDKs refuse to read.
	unreadable bool
}

// transcript is what a client saw.
type transcript struct {
	Version string
	Steps   []made
	// Asked are the requests that a server made of the client, in either era.
	Asked []told
	Told  []told
	// Answers are the bodies of the answers to POSTs, in the order of the requests.
	Answers []answer
}

// made is what an SDK made of the answer to a step.
type made struct {
	Result   json.RawMessage
	Error    *failure
	Progress []json.RawMessage
}

type failure struct{ Message string }

type answer struct {
	Step int
	Body string
}

type told struct {
	Step   int
	Method string
	Params json.RawMessage
}

// client lets clients of an SDK make the steps, each all of them, all clients at
// once.
type client struct {
	name string
	run  func(ctx context.Context, t *testing.T, w *world, clients int, steps []step) []transcript
}

// TestCounterparts puts servers that others wrote behind an installation, and
// clients that others wrote in front of it. What the clients list are the pinned
// definitions, and what they are answered is what the server answers to anybody:
// byte for byte, on the wire.
func TestCounterparts(t *testing.T) {
	f := newFloor(t)
	for _, w := range []struct {
		name    string
		make    func(t *testing.T) *world
		clients []client
		steps   func(w *world, client string) []step
		spoken  string // by the clients, if that is another version than the servers'
	}{
		{"2025-11-25/stdio", f.sessionsStdio, []client{f.typescript("client-1.mjs"), f.typescript("client-2.mjs"), goSDK}, f.sessionSteps, ""},
		{"2025-11-25/http", f.sessionsHTTP, []client{f.typescript("client-1.mjs"), f.typescript("client-2.mjs"), goSDK}, f.sessionSteps, ""},
		{"2026-07-28/stdio", f.statelessStdio, []client{f.typescript("client-2.mjs"), goSDK}, statelessSteps, ""},
		{"2026-07-28/http", f.statelessHTTP, []client{f.typescript("client-2.mjs"), goSDK}, statelessSteps, ""},
		{"2025-06-18/http", f.sessionsHTTP, []client{goSDK}, f.sessionSteps, wire.Version20250618},
		{"2026-07-28 to 2025-11-25/stdio", f.sessionsStdio, []client{f.typescript("client-2.mjs"), goSDK}, f.sessionSteps, wire.Version20260728},
		{"2026-07-28 to 2025-11-25/http", f.sessionsHTTP, []client{f.typescript("client-2.mjs"), goSDK}, f.sessionSteps, wire.Version20260728},
		{"2025-11-25 to 2026-07-28/stdio", f.statelessStdio, []client{f.typescript("client-1.mjs"), f.typescript("client-2.mjs"), goSDK}, statelessSteps, wire.Version20251125},
		{"2025-11-25 to 2026-07-28/http", f.statelessHTTP, []client{f.typescript("client-1.mjs"), f.typescript("client-2.mjs"), goSDK}, statelessSteps, wire.Version20251125},
		{"2025-06-18 to 2026-07-28/http", f.statelessHTTP, []client{goSDK}, statelessSteps, wire.Version20250618},
	} {
		t.Run(w.name, func(t *testing.T) {
			world := w.make(t)
			if w.spoken != "" {
				world.spoken = w.spoken
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			for _, c := range w.clients {
				t.Run(c.name, func(t *testing.T) {
					steps := slices.DeleteFunc(w.steps(world, c.name), func(s step) bool {
						return s.from != "" && world.servers[s.from] == nil || world.crosses(s.from) && barred(s)
					})
					check(ctx, t, world, steps, c.run(ctx, t, world, 1, steps)[0])
				})
			}
			world.verify(ctx, t)
		})
	}
}

// TestManyCounterparts lets twenty clients call at once, over everything that
// could be shared: each is answered its own.
func TestManyCounterparts(t *testing.T) {
	const clients, calls = 20, 8
	f := newFloor(t)
	for _, w := range []struct {
		name    string
		make    func(t *testing.T) *world
		clients []client
		tool    string
		arg     string
		spoken  string // as above
	}{
		{"2025-11-25/http", f.sessionsHTTP, []client{f.typescript("client-1.mjs"), goSDK}, "echo", "message", ""},
		{"2026-07-28/stdio", f.statelessStdio, []client{f.typescript("client-2.mjs"), goSDK}, "say", "text", ""},
		{"2026-07-28/http", f.statelessHTTP, []client{f.typescript("client-2.mjs"), goSDK}, "say", "text", ""},
		{"2026-07-28 to 2025-11-25/stdio", f.sessionsStdio, []client{f.typescript("client-2.mjs"), goSDK}, "echo", "message", wire.Version20260728},
		{"2026-07-28 to 2025-11-25/http", f.sessionsHTTP, []client{f.typescript("client-2.mjs"), goSDK}, "echo", "message", wire.Version20260728},
		{"2025-11-25 to 2026-07-28/stdio", f.statelessStdio, []client{f.typescript("client-1.mjs"), goSDK}, "say", "text", wire.Version20251125},
	} {
		t.Run(w.name, func(t *testing.T) {
			world := w.make(t)
			if w.spoken != "" {
				world.spoken = w.spoken
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			for _, c := range w.clients {
				t.Run(c.name, func(t *testing.T) {
					var steps []step
					for i := range calls {
						steps = append(steps, step{Method: wire.MethodToolsCall, Params: map[string]any{
							"name": w.tool, "arguments": map[string]any{w.arg: fmt.Sprintf("call %d of client %s.", i, ownNumber)},
						}})
					}
					seen := c.run(ctx, t, world, clients, steps)
					if len(seen) != clients {
						t.Fatalf("%d clients ran", len(seen))
					}
					for n, one := range seen {
						for i, s := range one.Steps {
							if want := fmt.Sprintf("call %d of client %d.", i, n); s.Error != nil || !bytes.Contains(s.Result, []byte(want)) {
								t.Errorf("%q was answered %s %+v", want, s.Result, s.Error)
							}
						}
						if len(one.Steps) != calls {
							t.Errorf("client %d made %d calls", n, len(one.Steps))
						}
					}
				})
			}
			world.verify(ctx, t)
		})
	}
}

// ownNumber stands in params for the number of the client.
const ownNumber = "«CLIENT»"

// called is a call of a tool whose name two servers may have: then it is prefixed.
func (w *world) called(from sallyport.UpstreamID, name string, arguments map[string]any) step {
	s := toolCall(from, name, arguments)
	if prefixed := string(from) + "__" + name; w.pinned[prefixed+" "] != "" {
		s.as, s.Params["name"] = name, prefixed
	}
	return s
}

func toolCall(from sallyport.UpstreamID, name string, arguments map[string]any) step {
	return step{Method: wire.MethodToolsCall, Params: map[string]any{"name": name, "arguments": arguments}, from: from}
}

// oddText is hard on everything that re-encodes.
const oddText = "a < b & \"c\" é \u2028 \U0001F600 \\u0041 \t\x7f"

// sessionSteps are those of the sessions era, before server-everything and
// server-filesystem.
func (f *floor) sessionSteps(_ *world, client string) []step {
	text := func(s step, want string) step { s.from, s.text = "", want; return s }
	slow := func(seconds float64, steps int) map[string]any {
		return map[string]any{"duration": seconds, "steps": steps}
	}
	uri := func(uri string) map[string]any { return map[string]any{"uri": uri} }
	const document = "demo://resource/static/document/features.md"
	steps := []step{
		{Method: wire.MethodPing},
		{Method: wire.MethodToolsList, list: "tools"},
		{Method: wire.MethodResourcesList, list: "resources"},
		{Method: wire.MethodResourcesTemplatesList, list: "resourceTemplates"},
		{Method: wire.MethodPromptsList, list: "prompts"},

		toolCall("everything", "echo", map[string]any{"message": oddText}),
		toolCall("everything", "get-sum", map[string]any{"a": 0.1, "b": 9007199254740991}),
		toolCall("everything", "get-structured-content", map[string]any{"location": "Chicago"}),
		toolCall("everything", "get-annotated-message", map[string]any{"messageType": "error", "includeImage": true}),
		toolCall("everything", "get-tiny-image", map[string]any{}),
		toolCall("everything", "get-resource-links", map[string]any{"count": 3}),
		text(toolCall("", "get-resource-reference", map[string]any{"resourceType": "Text", "resourceId": 7}), "Resource 7"),
		toolCall("filesystem", "read_text_file", map[string]any{"path": f.letter}),
		toolCall("filesystem", "read_multiple_files", map[string]any{"paths": []string{f.letter, f.letter + ".none"}}),
		toolCall("filesystem", "read_text_file", map[string]any{"path": f.letter + ".none"}),
		toolCall("filesystem", "write_file", map[string]any{"path": filepath.Join(f.files, client+".txt"), "content": oddText}),
		toolCall("filesystem", "read_text_file", map[string]any{"path": filepath.Join(f.files, client+".txt")}),

		{Method: wire.MethodResourcesRead, Params: uri(document), from: "everything"},
		{Method: wire.MethodResourcesRead, Params: uri("demo://resource/dynamic/text/7"), text: "Resource 7"},
		{Method: wire.MethodResourcesRead, Params: uri("demo://resource/none"), from: "everything"},

		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "simple-prompt"}, from: "everything"},
		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "args-prompt", "arguments": map[string]any{"city": oddText}}, from: "everything"},
		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "args-prompt"}, from: "everything"},
		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "no-such-prompt"}, from: "everything"},
		{Method: wire.MethodCompletionComplete, from: "everything", Params: map[string]any{
			"ref":      map[string]any{"type": "ref/prompt", "name": "completable-prompt"},
			"argument": map[string]any{"name": "name", "value": "A"},
			"context":  map[string]any{"arguments": map[string]any{"department": "Engineering"}},
		}},
		{Method: wire.MethodCompletionComplete, from: "everything", Params: map[string]any{
			"ref":      map[string]any{"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"},
			"argument": map[string]any{"name": "resourceId", "value": "12"},
		}},

		{Method: wire.MethodLoggingSetLevel, Params: map[string]any{"level": "debug"}},
		{Method: wire.MethodResourcesSubscribe, Params: uri(document), Await: wire.NotificationMessage},
		{Method: wire.MethodToolsCall, Params: map[string]any{"name": "toggle-subscriber-updates", "arguments": map[string]any{}},
			Await: wire.NotificationResourcesUpdated, text: "Started"},
		text(toolCall("", "toggle-subscriber-updates", map[string]any{}), "Stopped"),
		{Method: wire.MethodResourcesUnsubscribe, Params: uri(document)},

		{Method: wire.MethodToolsCall, Params: map[string]any{"name": "trigger-long-running-operation", "arguments": slow(0.3, 3)}, Progress: 3, from: "everything"},
		{Method: wire.MethodToolsCall, Params: map[string]any{"name": "trigger-long-running-operation", "arguments": slow(600, 6000)}, Progress: 1, Cancel: true},
		toolCall("everything", "echo", map[string]any{"message": "after a cancellation"}),

		text(toolCall("", "trigger-elicitation-request", map[string]any{}), "- Name: Ada"),
		text(toolCall("", "trigger-sampling-request", map[string]any{"prompt": "a poem, please"}), "roses are"),
	}
	return steps
}

// statelessSteps are those of the stateless era, before modern.mjs and, over HTTP,
// a server of the Go SDK.
func statelessSteps(w *world, client string) []step {
	text := func(s step, want string) step { s.from, s.text = "", want; return s }
	uri := func(uri string) map[string]any { return map[string]any{"uri": uri} }
	steps := []step{
		{Method: wire.MethodToolsList, list: "tools"},
		{Method: wire.MethodResourcesList, list: "resources"},
		{Method: wire.MethodResourcesTemplatesList, list: "resourceTemplates"},
		{Method: wire.MethodPromptsList, list: "prompts"},

		toolCall("modern", "say", map[string]any{"text": oddText}),
		toolCall("modern", "say", map[string]any{"text": "with a header", "region": "eu-Ω"}),
		toolCall("modern", "odd", map[string]any{}),
		w.called("modern", "fail", map[string]any{}),
		{Method: wire.MethodToolsCall, Progress: 3, from: "modern", Params: map[string]any{"name": "steps", "arguments": map[string]any{"count": 3}}},
		{Method: wire.MethodToolsCall, Progress: 1, Cancel: true, Params: map[string]any{"name": "wait", "arguments": map[string]any{"note": client}}},
		text(toolCall("", "cancelled", map[string]any{"note": client}), client+" was cancelled"),
		text(toolCall("", "ask", map[string]any{}), "half way / ü"),
		text(toolCall("", "sample", map[string]any{}), "roses are"),

		{Method: wire.MethodResourcesRead, Params: uri("memo:///one"), from: "modern"},
		{Method: wire.MethodResourcesRead, Params: uri("memo:///bytes"), from: "modern"},
		{Method: wire.MethodResourcesRead, Params: uri("memo:///by-name/Ada"), from: "modern"},
		{Method: wire.MethodResourcesRead, Params: uri("memo:///missing"), from: "modern"},
		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "greet", "arguments": map[string]any{"who": oddText}}, from: "modern"},
		{Method: wire.MethodPromptsGet, Params: map[string]any{"name": "strange"}, from: "modern", unreadable: true},
		{Method: wire.MethodCompletionComplete, from: "modern", Params: map[string]any{
			"ref":      map[string]any{"type": "ref/prompt", "name": "greet"},
			"argument": map[string]any{"name": "who", "value": "A"},
		}},
		{Method: wire.MethodSubscriptionsListen, Params: map[string]any{"notifications": map[string]any{"toolsListChanged": true}}},

		toolCall("gopher", "exact", map[string]any{"small": 0.1, "text": "é \U0001F600"}),
		toolCall("gopher", "strange", map[string]any{}),
		w.called("gopher", "fail", map[string]any{}),
		{Method: wire.MethodToolsCall, Progress: 3, from: "gopher", Params: map[string]any{"name": "climb", "arguments": map[string]any{}}},
	}
	if client == goSDK.name {
		// Only this client can say these numbers: JavaScript has none so exact.
		steps = append(steps, toolCall("gopher", "exact", map[string]any{
			"large": json.Number("12345678901234567890"), "precise": json.Number("0.1000000000000000055511151231257827"), "form": json.Number("1.0E+2"),
		}))
	}
	return steps
}

// check compares what came over the wire byte for byte with what the servers say
// themselves, and what the SDK made of it by value.
func check(ctx context.Context, t *testing.T, w *world, steps []step, seen transcript) {
	t.Helper()
	if seen.Version != w.spoken {
		t.Errorf("the client speaks %s", seen.Version)
	}
	if len(seen.Steps) != len(steps) {
		t.Fatalf("%d of %d steps were made", len(seen.Steps), len(steps))
	}
	bodies := map[int]string{} // the last of each step
	for _, a := range seen.Answers {
		bodies[a.Step] = a.Body
	}
	for i, s := range steps {
		name := fmt.Sprintf("step %d, %s %v", i, s.Method, s.Params)
		sdk := seen.Steps[i]
		if len(sdk.Progress) != s.Progress {
			t.Errorf("%s: %d notifications of progress: %s", name, len(sdk.Progress), sdk.Progress)
		}
		if s.Await != "" && !slices.ContainsFunc(seen.Told, func(n told) bool { return n.Method == s.Await }) {
			t.Errorf("%s: no %s came", name, s.Await)
		}
		if s.Cancel {
			if sdk.Error == nil {
				t.Errorf("%s: it was cancelled, and answered %s", name, sdk.Result)
			}
			continue
		}
		if s.Method == wire.MethodSubscriptionsListen || s.from == "" && s.text == "" && s.list == "" {
			if sdk.Error != nil {
				t.Errorf("%s: %s", name, sdk.Error.Message)
			}
			continue
		}
		got, ok := responseIn(messagesIn(bodies[i]))
		if !ok {
			t.Errorf("%s: no response in %q; the SDK: %+v", name, bodies[i], sdk.Error)
			continue
		}
		switch {
		case s.list != "":
			checkList(ctx, t, w, name, s, got)
		case s.text != "":
			if !bytes.Contains(got.raw, []byte(s.text)) {
				t.Errorf("%s\n got %s\nwant %q in it", name, got.raw, s.text)
			}
		default:
			want, came := w.servers[s.from].answer(ctx, t, s), got
			if w.crosses(s.from) { // but for what the eras say differently around a result
				want, came = w.bare(t, s.Method, want), w.bare(t, s.Method, got)
			}
			if came.failed != want.failed || !bytes.Equal(came.raw, want.raw) {
				t.Errorf("%s\n got %s\nwant %s", name, came.raw, want.raw)
			}
		}
		switch {
		case (sdk.Error != nil) != (got.failed || s.unreadable):
			t.Errorf("%s: the SDK returned %s, %+v for %s", name, sdk.Result, sdk.Error, got.raw)
		case sdk.Error == nil && s.list == "":
			if wire := value(t, got.raw); !within(value(t, sdk.Result), wire) {
				t.Errorf("%s: the SDK made %s of %s", name, sdk.Result, got.raw)
			}
		case got.failed:
			var e struct{ Message string }
			if err := json.Unmarshal(got.raw, &e); err != nil || !strings.Contains(sdk.Error.Message, e.Message) {
				t.Errorf("%s: the SDK made %q of %s", name, sdk.Error.Message, got.raw)
			}
		}
	}
	if slices.ContainsFunc(steps, func(s step) bool { return s.text == "roses are" }) {
		asked := map[string]int{}
		for _, a := range seen.Asked {
			asked[a.Method]++
		}
		if want := map[string]int{wire.MethodElicitationCreate: 1, wire.MethodSamplingCreateMessage: 1}; !maps.Equal(asked, want) {
			t.Errorf("the client was asked %v, want %v", asked, want)
		}
	}
}

// crosses reports whether the clients speak another era than a server, or, if none
// is named, than the servers.
func (w *world) crosses(from sallyport.UpstreamID) bool {
	version := w.version
	if s := w.servers[from]; s != nil {
		version = s.version
	}
	client, _ := wire.EraOf(w.spoken)
	server, _ := wire.EraOf(version)
	return client != server
}

// barred reports whether a step needs what does not cross the eras, or is not in
// the other one at all: see doc/bridge.md.
func barred(s step) bool {
	name, _ := s.Params["name"].(string)
	return s.Await != "" || name == "toggle-subscriber-updates" || s.Method == wire.MethodResourcesUnsubscribe ||
		s.Method == wire.MethodPing || s.Method == wire.MethodLoggingSetLevel || s.Method == wire.MethodSubscriptionsListen
}

// bare is a response without the members that the bridge adds and takes out.
func (w *world) bare(t *testing.T, method string, r response) response {
	t.Helper()
	member := `"result":`
	if r.failed {
		member = `"error":`
	}
	m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,`+member+string(r.raw)+`}`), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if r.failed && w.spoken == wire.Version20260728 {
		m, err = wire.ResponseToStateless(&m, method, nil)
	} else if !r.failed {
		m, err = wire.ResponseToSessions(&m, method)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.raw = m.Result.Of(m.Raw)
	if r.failed {
		r.raw = m.Error.Of(m.Raw)
	}
	return r
}

// checkList compares the items of a list with those of all servers: for tools
// these are the pinned definitions.
func checkList(ctx context.Context, t *testing.T, w *world, name string, s step, got response) {
	t.Helper()
	want := w.pinned
	if s.Method != wire.MethodToolsList {
		want = map[string]string{}
		for _, server := range w.servers {
			if a := server.answer(ctx, t, s); !a.failed {
				maps.Copy(want, items(t, a.raw, s.list))
			}
		}
	}
	listed := items(t, got.raw, s.list)
	for item, d := range want {
		if listed[item] != d {
			t.Errorf("%s: %s\n got %s\nwant %s", name, item, listed[item], d)
		}
	}
	if len(listed) != len(want) || len(want) == 0 {
		t.Errorf("%s: lists %d, want %d", name, len(listed), len(want))
	}
}

// items are those of a list as they came, by what they are called.
func items(t *testing.T, result []byte, key string) map[string]string {
	t.Helper()
	var page map[string]json.RawMessage
	var all []json.RawMessage
	if err := json.Unmarshal(result, &page); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(page[key], &all); err != nil {
		t.Fatalf("%s in %s: %v", key, result, err)
	}
	if page["nextCursor"] != nil {
		t.Fatalf("%s has more pages", key)
	}
	byName := map[string]string{}
	for _, raw := range all {
		var item struct{ Name, URI, URITemplate string }
		if err := json.Unmarshal(raw, &item); err != nil {
			t.Fatal(err)
		}
		name := item.Name + " " + item.URI + item.URITemplate
		if _, twice := byName[name]; twice {
			t.Errorf("%s is listed twice", name)
		}
		byName[name] = string(raw)
	}
	return byName
}

func value(t *testing.T, raw []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return v
}

// within reports whether all that an SDK returned came over the wire: SDKs leave
// out what they do not know, and fill in zeros.
func within(got, wire any) bool {
	switch g := got.(type) {
	case map[string]any:
		w, ok := wire.(map[string]any)
		if !ok {
			return false
		}
		for k, v := range g {
			if came, ok := w[k]; ok && !within(v, came) || !ok && !reflect.ValueOf(v).IsZero() {
				return false
			}
		}
		return true
	case []any:
		w, ok := wire.([]any)
		return ok && slices.EqualFunc(g, w, within)
	default:
		return reflect.DeepEqual(got, wire)
	}
}

// response is one as it came: the bytes of its result, or of its error.
type response struct {
	failed bool
	raw    json.RawMessage
}

// messagesIn are those of a body, which is JSON or a stream of events.
func messagesIn(body string) [][]byte {
	if strings.HasPrefix(strings.TrimSpace(body), "{") {
		return [][]byte{[]byte(body)}
	}
	var messages [][]byte
	for line := range strings.Lines(body) {
		if data, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "data:"); ok && strings.TrimSpace(data) != "" {
			messages = append(messages, []byte(data))
		}
	}
	return messages
}

func responseIn(messages [][]byte) (response, bool) {
	for _, m := range messages {
		var r struct{ Result, Error json.RawMessage }
		switch err := json.Unmarshal(m, &r); {
		case err != nil:
		case r.Result != nil:
			return response{false, r.Result}, true
		case r.Error != nil:
			return response{true, r.Error}, true
		}
	}
	return response{}, false
}

// verify checks the log that the calls have left.
func (w *world) verify(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := w.app.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	report, err := audit.VerifySource(ctx, w.app.Store, audit.VerifyOptions{Keys: []string{w.app.Ring.Verifier}})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("the log does not verify: %+v", report.Findings)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
