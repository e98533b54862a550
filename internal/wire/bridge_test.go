package wire

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden tables again")

func scanned(t testing.TB, raw string) *Message {
	t.Helper()
	m, err := Scan([]byte(raw), Limits{})
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return &m
}

var caller = Caller{Version: Version20260728, Info: []byte(`{"name":"c" }`), Capabilities: []byte(`{"elicitation":{}}`), LogLevel: "info"}

const callerMeta = `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},` +
	`"io.modelcontextprotocol/clientInfo":{"name":"c" },"io.modelcontextprotocol/logLevel":"info"`

func TestRequestToStateless(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"no params", `{"jsonrpc":"2.0","id":1,"method":"resources/list"}`,
			`{"params":{"_meta":{` + callerMeta + `}},"jsonrpc":"2.0","id":1,"method":"resources/list"}`},
		{"empty params", ` {"jsonrpc":"2.0","id":1,"method":"resources/list","params":{ }} `,
			` {"jsonrpc":"2.0","id":1,"method":"resources/list","params":{"_meta":{` + callerMeta + `} }} `},
		{"no _meta", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{ "name":"x", "arguments":{"a":1.0 } }}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{` + callerMeta + `}, "name":"x", "arguments":{"a":1.0 } }}`},
		{"a _meta", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":7}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{` + callerMeta + `,"progressToken":7}}}`},
		{"reserved names are not believed", `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x","_meta":{"io.modelcontextprotocol/clientCapabilities" : {"sampling":{}} ,"io.modelcontextprotocol/protocolVersion":"2025-11-25"}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x","_meta":{"io.modelcontextprotocol/clientInfo":{"name":"c" },"io.modelcontextprotocol/logLevel":"info",` +
				`"io.modelcontextprotocol/clientCapabilities" : {"elicitation":{}} ,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`},
	} {
		got, err := RequestToStateless(scanned(t, c.in), caller)
		if err != nil || string(got.Raw) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, got.Raw, c.want)
		}
	}
	for _, in := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"never/heard"}`,
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","task":{"ttl":1}}}`,
	} {
		var cross *CrossError
		if _, err := RequestToStateless(scanned(t, in), caller); !errors.As(err, &cross) {
			t.Errorf("%s crossed: %v", in, err)
		}
	}
}

func TestRequestToSessions(t *testing.T) {
	const reserved = `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
	for _, c := range []struct{ name, in, want string }{
		{"nothing else in _meta", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{` + reserved + ` }, "arguments":{} }}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x", "arguments":{} }}`},
		{"a _meta that stays", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"traceparent":"00" , ` + reserved + `},"name":"x"}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"traceparent":"00"},"name":"x"}}`},
		{"nothing else at all", `{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{"_meta":{` + reserved + `}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{}}`},
		{"a retry", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"requestState":"s","name":"x","inputResponses":{"a":{}},"_meta":{` + reserved + `}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`},
		{"names with escapes", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","request\u0053tate":"s"}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`},
	} {
		got, err := RequestToSessions(scanned(t, c.in))
		if err != nil || string(got.Raw) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, got.Raw, c.want)
		}
	}
	var cross *CrossError
	for _, method := range []string{MethodServerDiscover, MethodSubscriptionsListen, MethodTasksUpdate, "x"} {
		if _, err := RequestToSessions(scanned(t, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{}}`)); !errors.As(err, &cross) {
			t.Errorf("%s crossed: %v", method, err)
		}
	}
}

func TestResponses(t *testing.T) {
	const info = `{"name":"s" }`
	for _, c := range []struct{ name, method, in, want string }{
		{"plain", MethodToolsCall, `{"result":{ "content":[ ]},"id":1,"jsonrpc":"2.0"}`,
			`{"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s" }}, "content":[ ]},"id":1,"jsonrpc":"2.0"}`},
		{"empty", MethodPing, `{"result":{},"id":1,"jsonrpc":"2.0"}`,
			`{"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s" }}},"id":1,"jsonrpc":"2.0"}`},
		{"cacheable", MethodResourcesRead, `{"result":{"contents":[],"ttlMs":"x","_meta":{"a":1}},"id":1,"jsonrpc":"2.0"}`,
			`{"result":{"resultType":"complete","cacheScope":"private","contents":[],"ttlMs":0,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s" },"a":1}},"id":1,"jsonrpc":"2.0"}`},
		{"a name that meant nothing", MethodToolsCall, `{"result":{"resultType":"input_required","ttlMs":1,"_meta":{"io.modelcontextprotocol/serverInfo":7}},"id":1,"jsonrpc":"2.0"}`,
			`{"result":{"resultType":"complete","ttlMs":1,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s" }}},"id":1,"jsonrpc":"2.0"}`},
		{"not found", MethodResourcesRead, `{"jsonrpc":"2.0","id":1,"error":{"message":"no","code": -32002 ,"data":{"code":-32002}}}`,
			`{"jsonrpc":"2.0","id":1,"error":{"message":"no","code": -32602 ,"data":{"code":-32002}}}`},
		{"another error", MethodResourcesRead, `{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"no"}}`,
			`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"no"}}`},
	} {
		got, err := ResponseToStateless(scanned(t, c.in), c.method, []byte(info))
		if err != nil || string(got.Raw) != c.want {
			t.Errorf("to stateless, %s: %v\n got %s\nwant %s", c.name, err, got.Raw, c.want)
		}
	}
	for _, c := range []struct{ name, method, in, want string }{
		{"plain", MethodToolsCall, `{"jsonrpc":"2.0","id":1,"result":{"content":[], "resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{}}}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`},
		{"what a tool says", MethodToolsCall, `{"jsonrpc":"2.0","id":1,"result":{"ttlMs":5,"resultType":"complete" , "_meta":{}}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"ttlMs":5, "_meta":{}}}`},
		{"cacheable", MethodResourcesRead, `{"jsonrpc":"2.0","id":1,"result":{"ttlMs":5,"resultType":"complete","cacheScope":"public","contents":[ 1.0 ],"_meta":{"io.modelcontextprotocol/serverInfo":{},"a":1}}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"contents":[ 1.0 ],"_meta":{"a":1}}}`},
		{"without a type", MethodToolsCall, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`},
		{"an error", MethodToolsCall, `{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"no"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"no"}}`},
	} {
		got, err := ResponseToSessions(scanned(t, c.in), c.method)
		if err != nil || string(got.Raw) != c.want {
			t.Errorf("to sessions, %s: %v\n got %s\nwant %s", c.name, err, got.Raw, c.want)
		}
	}
	for _, kind := range []string{ResultInputRequired, "task"} {
		var cross *CrossError
		if _, err := ResponseToSessions(scanned(t, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"`+kind+`"}}`), MethodToolsCall); !errors.As(err, &cross) {
			t.Errorf("a result of type %s crossed: %v", kind, err)
		}
	}
}

func TestQuestionsAndAnswers(t *testing.T) {
	asked := []Question{{"q\"1", MethodElicitationCreate, []byte(`{ "message":"é" }`)}, {"q2", MethodRootsList, nil}}
	m := scanned(t, string(InputRequired(nil, []byte(`"i"`), asked, "st\"ate")))
	if m.ResultType != ResultInputRequired || string(m.ID.Of(m.Raw)) != `"i"` {
		t.Fatalf("%s", m.Raw)
	}
	got, state, err := Questions(m.Result.Of(m.Raw))
	if err != nil || len(got) != 2 || string(state) != `"st\"ate"` {
		t.Fatalf("%v %s %v", got, state, err)
	}
	asked[1].Params = []byte("{}")
	for i := range got {
		if got[i].Key != asked[i].Key || got[i].Method != asked[i].Method || !bytes.Equal(got[i].Params, asked[i].Params) {
			t.Errorf("%s became %s", asked[i], got[i])
		}
	}
	request := scanned(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{ "name":"x","arguments":{"n":1.00}}}`)
	if _, _, ok, err := Retry(request); ok || err != nil {
		t.Errorf("%s is taken for a retry: %v", request.Raw, err)
	}
	again, err := WithInput(request, []Input{{"q\"1", []byte(`{"action":"accept" }`)}}, state)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"inputResponses":{"q\"1":{"action":"accept" }},"requestState":"st\"ate", "name":"x","arguments":{"n":1.00}}}`; string(again.Raw) != want {
		t.Errorf("\n got %s\nwant %s", again.Raw, want)
	}
	answers, text, ok, err := Retry(&again)
	if err != nil || !ok || text != "st\"ate" || len(answers) != 1 || answers[0].Key != "q\"1" || string(answers[0].Value) != `{"action":"accept" }` {
		t.Errorf("%v %q %v %v", answers, text, ok, err)
	}
	// The next round's answers take the place of those before.
	third, err := WithInput(&again, nil, nil)
	if err != nil || string(third.Raw) != string(request.Raw) {
		t.Errorf("%s, %v", third.Raw, err)
	}
	for _, bad := range []string{`{"inputRequests":[]}`, `{"inputRequests":{"a":{}}}`, `{"inputRequests":{"a":{"method":7}}}`, `{"inputRequests":{"a":{"method":"x","params":[]}}}`, `{"requestState":7}`, `[]`} {
		if _, _, err := Questions([]byte(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	for _, bad := range []string{`"inputResponses":[]`, `"inputResponses":{"a":1}`, `"requestState":{}`} {
		if _, _, _, err := Retry(scanned(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x",`+bad+`}}`)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestCanBeAsked(t *testing.T) {
	for _, c := range []struct {
		capabilities, method string
		want                 bool
	}{
		{`{"elicitation":{}}`, MethodElicitationCreate, true}, {`{"elicitation":{}}`, MethodSamplingCreateMessage, false},
		{`{"sampling":{"tools":{}}}`, MethodSamplingCreateMessage, true}, {`{"roots":{}}`, MethodRootsList, true},
		{`{"elicitation":null}`, MethodElicitationCreate, false}, {``, MethodElicitationCreate, false}, {`{"":{}}`, "x", false},
	} {
		if got := CanBeAsked([]byte(c.capabilities), c.method); got != c.want {
			t.Errorf("%s asked %s: %v", c.capabilities, c.method, got)
		}
	}
}

func TestOffered(t *testing.T) {
	for _, c := range []struct{ capabilities, without, with string }{
		{`{"roots":{"listChanged":true},"sampling":{ }}`, `{"sampling":{ }}`, `{"roots":{},"sampling":{ }}`},
		{`{ "a":{"roots":{}} , "\u0072oots" : { "x":1.0, "list\u0043hanged":true } }`, `{ "a":{"roots":{}} }`, `{ "a":{"roots":{}} , "\u0072oots" : { "x":1.0 } }`},
		{`{"roots":null}`, `{}`, `{"roots":null}`},
		{`{"elicitation":{"roots":{"listChanged":true}}}`, `{"elicitation":{"roots":{"listChanged":true}}}`, `{"elicitation":{"roots":{"listChanged":true}}}`},
		{``, `{}`, `{}`}, {`{`, `{}`, `{}`},
	} {
		if got := string(Offered([]byte(c.capabilities), false)); got != c.without {
			t.Errorf("of %s without roots: %s", c.capabilities, got)
		}
		if got := string(Offered([]byte(c.capabilities), true)); got != c.with {
			t.Errorf("of %s with roots: %s", c.capabilities, got)
		}
	}
	for _, c := range []struct{ in, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"roots":{}},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"roots":{} ,"b":1.0}}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"roots":{}},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"b":1.0}}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/clientCapabilities":7}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/clientCapabilities":7}}}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`},
	} {
		got, err := Offering(scanned(t, c.in), false)
		if err != nil || string(got.Raw) != c.want || string(got.Arguments.Of(got.Raw)) != string(scanned(t, c.want).Arguments.Of([]byte(c.want))) {
			t.Errorf("%v\n got %s\nwant %s", err, got.Raw, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		rest := oddObject(2, nil).Draw(t, "rest")
		all := oddObject(2, []string{`"roots":` + oddObject(1, []string{`"listChanged":true`}).Draw(t, "roots")}).Draw(t, "all")
		for _, capabilities := range []string{rest, all} {
			for _, roots := range []bool{false, true} {
				got := Offered([]byte(capabilities), roots)
				if _, err := Scan([]byte(`{"jsonrpc":"2.0","method":"x","params":`+string(got)+`}`), Limits{}); err != nil {
					t.Fatalf("%s became %s: %v", capabilities, got, err)
				}
				if CanBeAsked(got, MethodRootsList) != (roots && capabilities == all) || strings.Contains(string(got), "listChanged") {
					t.Fatalf("%s became %s", capabilities, got)
				}
				if capabilities == rest && string(got) != rest {
					t.Fatalf("%s became %s", rest, got)
				}
			}
		}
	})
}

func TestForms(t *testing.T) {
	for answer, want := range map[string][]string{
		`{"action":"accept","content":{"roots":[]}}`:    {MethodElicitationCreate},
		`{"model":"m","role":"assistant","content":{}}`: {MethodSamplingCreateMessage},
		`{ "roots" : [] }`:                           {MethodRootsList},
		`{"ROOT\u017F":[],"\u0041ction":7}`:          {MethodRootsList, MethodElicitationCreate},
		`{"content":{"action":"accept"},"_meta":{}}`: nil,
		`{}`: nil,
	} {
		if got, err := Forms([]byte(answer)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", answer, got, err)
		}
	}
	if _, err := Forms([]byte(`[]`)); err == nil {
		t.Error("a list was read as an answer")
	}
}

// oddJSON draws a JSON value with white space and forms that no encoder keeps.
func oddJSON(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", " ", "\t", " \n "})
	scalar := rapid.SampledFrom([]string{"1.0", "-0", "12345678901234567890", "1E400", `"\u0041\/"`, `"é"`, `""`, "null", "true", `"}{,:"`, `"\\\""`})
	return rapid.Custom(func(t *rapid.T) string {
		kind := 0
		if depth > 0 {
			kind = rapid.IntRange(0, 2).Draw(t, "kind")
		}
		switch kind {
		case 1:
			return oddObject(depth-1, nil).Draw(t, "object")
		case 2:
			items := rapid.SliceOfN(oddJSON(depth-1), 0, 3).Draw(t, "items")
			return "[" + space.Draw(t, "s") + strings.Join(items, space.Draw(t, "s")+","+space.Draw(t, "s")) + "]"
		default:
			return scalar.Draw(t, "scalar")
		}
	})
}

// oddObject draws an object, with these members in it somewhere.
func oddObject(depth int, with []string) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", " ", "\t", " \n "})
	return rapid.Custom(func(t *rapid.T) string {
		members := append([]string{}, with...)
		for i := range rapid.IntRange(0, 3).Draw(t, "members") {
			members = append(members, fmt.Sprintf(`"m%d"%s:%s%s`, i, space.Draw(t, "s"), space.Draw(t, "s"), oddJSON(depth).Draw(t, "value")))
		}
		members = rapid.Permutation(members).Draw(t, "order")
		return "{" + space.Draw(t, "s") + strings.Join(members, space.Draw(t, "s")+","+space.Draw(t, "s")) + space.Draw(t, "s") + "}"
	})
}

// TestThereAndBack: what is carried into the other era and back is what it was;
// on the way arguments, results and names are the bytes they were.
func TestThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arguments := oddObject(3, nil).Draw(t, "arguments")
		with := []string{`"name":"x"`, `"arguments" : ` + arguments}
		if rapid.Bool().Draw(t, "meta") {
			with = append(with, `"_meta":`+oddObject(1, []string{`"progressToken":"p"`}).Draw(t, "meta"))
		}
		raw := `{"jsonrpc":"2.0", "method":"tools/call","id":1 ,"params":` + oddObject(2, with).Draw(t, "params") + `}`
		m, err := Scan([]byte(raw), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		there, err := RequestToStateless(&m, caller)
		if err != nil {
			t.Fatal(err)
		}
		if there.MetaVersion != Version20260728 || string(there.ClientCapabilities.Of(there.Raw)) != string(caller.Capabilities) || string(there.Arguments.Of(there.Raw)) != arguments || there.Name != "x" {
			t.Fatalf("%s became %s", raw, there.Raw)
		}
		back, err := RequestToSessions(&there)
		if err != nil || string(back.Raw) != raw {
			t.Fatalf("%v\n  was %s\n  got %s\nby way of %s", err, raw, back.Raw, there.Raw)
		}

		structured := oddJSON(3).Draw(t, "structured")
		result := `{"id":1,"jsonrpc":"2.0","result":` + oddObject(2, []string{`"structuredContent": ` + structured, `"content":[1.0 ]`}).Draw(t, "result") + ` }`
		if m, err = Scan([]byte(result), Limits{}); err != nil {
			t.Fatal(err)
		}
		method := rapid.SampledFrom([]string{MethodToolsCall, MethodResourcesRead}).Draw(t, "method")
		there, err = ResponseToStateless(&m, method, []byte(`{"name":"s"}`))
		if err != nil || there.ResultType != ResultComplete || string(there.StructuredContent.Of(there.Raw)) != structured || string(there.Content.Of(there.Raw)) != `[1.0 ]` {
			t.Fatalf("%s became %s, %v", result, there.Raw, err)
		}
		if back, err = ResponseToSessions(&there, method); err != nil || string(back.Raw) != result {
			t.Fatalf("%v\n  was %s\n  got %s\nby way of %s", err, result, back.Raw, there.Raw)
		}
	})
}

// FuzzBridge: whatever is read can be carried or is refused, and what was carried
// is a message with the same arguments and content.
func FuzzBridge(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":1.0},"_meta":{"progressToken":1}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"requestState":"s","inputResponses":{"a":{}},"_meta":{"io.modelcontextprotocol/clientCapabilities":{}}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"inputResponses":{"a":{"r\u006fots":[]}},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"b":1.0 ,"roots" :{"listChanged":true,"c":{}}}}}}`,
		` {"jsonrpc":"2.0","id":"\u0041","method":"resources/list"}`,
		`{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{}}},"requestState":"s"}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"contents":[],"ttlMs":0 , "_meta":{ }}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32002}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Scan(raw, Limits{})
		if err != nil {
			return
		}
		same := func(out Message, err error) {
			if err != nil {
				return
			}
			if !bytes.Equal(out.Arguments.Of(out.Raw), m.Arguments.Of(m.Raw)) || !bytes.Equal(out.Content.Of(out.Raw), m.Content.Of(m.Raw)) ||
				!bytes.Equal(out.StructuredContent.Of(out.Raw), m.StructuredContent.Of(m.Raw)) || !bytes.Equal(out.ID.Of(out.Raw), m.ID.Of(m.Raw)) ||
				out.Name != m.Name || out.Kind != m.Kind || out.Method != m.Method {
				t.Errorf("%s became %s", raw, out.Raw)
			}
		}
		switch m.Kind {
		case Request:
			same(RequestToStateless(&m, caller))
			same(RequestToSessions(&m))
			for _, roots := range []bool{false, true} {
				out, err := Offering(&m, roots)
				same(out, err)
				if told := CanBeAsked(out.ClientCapabilities.Of(out.Raw), MethodRootsList); err == nil && told && !roots {
					t.Errorf("%s became %s", raw, out.Raw)
				}
			}
			answers, state, _, err := Retry(&m)
			for _, a := range answers {
				if _, err := Forms(a.Value); err != nil {
					t.Errorf("%s: an answer that cannot be read: %v", raw, err)
				}
			}
			if err == nil && m.Params.Present() {
				again, err := WithInput(&m, answers, AppendString(nil, state))
				if err != nil {
					t.Fatal(err)
				}
				same(again, nil)
				if got, s, ok, err := Retry(&again); err != nil || !ok || s != state || len(got) != len(answers) {
					t.Errorf("%s: the retry says %v %q %v", again.Raw, got, s, err)
				}
			}
		case Result:
			for _, method := range []string{MethodToolsCall, MethodResourcesRead} {
				same(ResponseToStateless(&m, method, []byte(`{}`)))
				same(ResponseToSessions(&m, method))
			}
			questions, _, err := Questions(m.Result.Of(m.Raw))
			if err != nil {
				return
			}
			if _, err := Scan(InputRequired(nil, []byte("1"), questions, "s"), Limits{Bytes: 4*len(raw) + 1000}); err != nil {
				t.Errorf("%v cannot be asked: %v", questions, err)
			}
		case Error:
			same(ResponseToStateless(&m, MethodToolsCall, nil))
			same(ResponseToSessions(&m, MethodToolsCall))
		}
	})
}

// TestCrossings: every method of either era has its line, once, and doc/bridge.md
// shows the table.
func TestCrossings(t *testing.T) {
	seen := map[string]bool{}
	var table strings.Builder
	fates := map[Fate]string{Carried: "carried", Answered: "answered here", Dropped: "dropped", Barred: "refused"}
	for _, client := range []Era{Stateless, Sessions} {
		for _, up := range []bool{false, true} {
			who := map[bool]string{false: "client to upstream", true: "upstream to client"}[up]
			fmt.Fprintf(&table, "### Client of the %s era, %s\n\n| method | fate | how |\n|---|---|---|\n", client, who)
			for _, c := range Crossings {
				if c.Client != client || c.FromUpstream != up {
					continue
				}
				key := fmt.Sprint(client, up, c.Method)
				if seen[key] || c.How == "" || c.Fate == 0 || strings.ContainsAny(c.How, "|\n") {
					t.Errorf("%+v", c)
				}
				if seen[key] = true; CrossingOf(client, up, c.Method) != c {
					t.Errorf("%+v is not found", c)
				}
				fmt.Fprintf(&table, "| `%s` | %s | %s |\n", c.Method, fates[c.Fate], c.How)
			}
			table.WriteString("\n")
		}
	}
	if c := CrossingOf(Sessions, false, "x"); c.Fate != Barred {
		t.Errorf("an unknown method: %+v", c)
	}
	const path, begin, end = "../../doc/bridge.md", "<!-- table: wire.Crossings -->\n", "<!-- end of the table -->\n"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), begin)
	got, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", path)
	}
	if want := "\n" + table.String(); got != want {
		if !*update {
			t.Fatalf("%s does not show the table: go test ./internal/wire -run TestCrossings -update", path)
		}
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
