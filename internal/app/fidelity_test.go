package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/config"
	"sallyport/internal/wire"
)

// A mirror answers every call with the bytes of its arguments: as the structured
// content of the result or, if they have a member "fail", as the data of an error.
// What comes back unchanged was neither changed on the way there nor on the way
// back. Over HTTP it keeps what it was sent.
type mirror struct {
	url  string
	mu   sync.Mutex
	seen [][]byte // messages that called a tool
}

const (
	envMirror  = "SALLYPORT_TEST_MIRROR"
	mirrorTool = `{"name":"mirror","inputSchema":{"type":"object"}}`
)

// The test binary is the mirror over stdio, too.
func init() {
	version := os.Getenv(envMirror)
	if version == "" {
		return
	}
	lines := wire.NewLineReader(os.Stdin, 64<<20)
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			os.Exit(0)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		m, err := wire.Scan(line, wire.Limits{Bytes: 64 << 20})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if m.Kind == wire.Request {
			if _, err := os.Stdout.Write(append(reflected(&m), '\n')); err != nil {
				os.Exit(1)
			}
		}
	}
}

func newMirror(t testing.TB) *mirror {
	t.Helper()
	u := &mirror{}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.url = server.URL
	return u
}

func (u *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m, err := wire.Scan(body, wire.Limits{Bytes: 64 << 20})
	switch {
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case m.Kind != wire.Request:
		w.WriteHeader(http.StatusAccepted)
	default:
		if m.Method == wire.MethodToolsCall {
			u.mu.Lock()
			u.seen = append(u.seen, body)
			u.mu.Unlock()
		}
		if m.Method == wire.MethodInitialize {
			w.Header().Set(wire.HeaderSessionID, "one")
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(reflected(&m))
	}
}

func (u *mirror) calls() [][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// reflected is the response to a request.
func reflected(m *wire.Message) []byte {
	id := m.ID.Of(m.Raw)
	switch m.Method {
	case wire.MethodInitialize:
		return wire.AppendResult(nil, id, fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":{"tools":{}},"serverInfo":{"name":"mirror","version":"1"}}`, wire.Version20251125))
	case wire.MethodServerDiscover:
		return wire.AppendResult(nil, id, fmt.Appendf(nil, `{"resultType":"complete","supportedVersions":[%q],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}`, wire.Version20260728))
	case wire.MethodToolsList:
		return wire.AppendResult(nil, id, []byte(`{"resultType":"complete","tools":[`+mirrorTool+`]}`))
	case wire.MethodToolsCall:
		arguments := m.Arguments.Of(m.Raw)
		if _, fails, err := wire.Field(arguments, "fail"); fails && err == nil {
			return []byte(`{"jsonrpc":"2.0","id":` + string(id) + `,"error":` + wrongly(arguments) + `}`)
		}
		return wire.AppendResult(nil, id, []byte(rightly(m.MetaVersion != "", arguments)))
	}
	return wire.AppendError(nil, id, wire.MethodNotFound, "unknown", nil)
}

// rightly and wrongly are the result and the error a mirror makes of arguments,
// with members and white space that no encoder would leave alone.
func rightly(stateless bool, arguments []byte) string {
	complete := ""
	if stateless {
		complete = `"resultType" :"complete",`
	}
	return `{` + complete + ` "content":[ {"type":"hologram","depth":1.0e2,"data":null} ],"x-vendor":{"b":1 , "a":-0},` + "\t" + `"structuredContent":` + string(arguments) + ` ,"isError":false}`
}

func wrongly(arguments []byte) string {
	return `{"code":-32050 ,"message":"no \u00e4\/","x":12345678901234567890,"data":` + string(arguments) + ` }`
}

// faithful are arguments whose bytes tell of every reader that decodes them and
// writes them again.
func faithful() map[string]string {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + `[]` + strings.Repeat(`}`, n) }
	return map[string]string{
		"nothing":                 `{}`,
		"large integers":          `{"a":9007199254740993,"b":12345678901234567890,"c":-9223372036854775809,"d":` + strings.Repeat("9", 400) + `}`,
		"zeros":                   `{"a":-0,"b":0,"c":-0.0,"d":0e0,"e":0.0e-0}`,
		"exponents":               `{"a":1E400,"b":1e+2,"c":1E-400,"d":1.0,"e":1.10,"f":100e-2,"g":-1E+0007}`,
		"precision":               `{"a":0.1000000000000000055511151231257827,"b":3.141592653589793238462643383279502884197}`,
		"order of names":          `{"zz":1,"a":2,"b10":3,"b9":4,"":5,"A":6}`,
		"names that look alike":   `{"a":1,"A":2,"\u0430":3,"a ":4,"a\u0000":5}`,
		"white space":             "{ \"a\" :\t[ 1 ,\t2,  3 ] , \"b\":{ } }",
		"escapes":                 `{"a":"\u0041\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\","b":"\u2028\u2029\u0000\u007f"}`,
		"raw":                     "{\"a\":\"A\u00e9\U0001f600/\u2028\u2029\u007f\ufeff\ufffd\u0301\"}",
		"escaped names":           `{"\u0061":1,"b\u002fc":2,"\ud83d\ude00":3}`,
		"markup":                  `{"a":"<script>&amp;</script>\u003c","b":"</b>"}`,
		"unknown types":           `{"content":[{"type":"hologram","frames":[1.0]}],"_meta":{"x":1},"jsonrpc":"1.0","id":7,"method":"ping"}`,
		"emptiness":               `{"a":null,"b":"","c":[],"d":{},"e":[null,[],{}]}`,
		"a message in a string":   `{"a":"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\ndata: x\n\n"}`,
		"depth at the limit":      deep(wire.DefaultDepth - 3),
		"a long string":           `{"a":"` + strings.Repeat("A\u00e9\\u00e9 ", 100_000) + `"}`,
		"many members":            manyMembers(5000),
		"a long array of numbers": `[1.0` + strings.Repeat(`,-0`, 50_000) + `]`,
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `%c"m%d":%d.0`, ",{"[min(1, max(0, 1-i))], n-i, i)
	}
	return b.String() + "}"
}

// glass is an installation with mirrors behind it: one in each era over HTTP, one
// in each era over stdio.
type glass struct {
	*yard
	mirrors map[string]*mirror // by upstream; over HTTP alone
	token   string
	run     sallyport.RunID
	session string
}

func startGlass(t *testing.T, access string) *glass {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := &glass{mirrors: map[string]*mirror{"new-http": newMirror(t), "old-http": newMirror(t)}}
	files := map[string]string{
		"sallyport.yaml":     "listen: 127.0.0.1:8484\n",
		"policies/all.cedar": "@id(\"all\")\npermit (principal, action, resource);\n",
		"agents/glass.yaml":  "agent: glass\nowner: a@example.com\ntier: low\nupstreams: [new-http, old-http, new-stdio, old-stdio]\npolicies: [policies/all.cedar]\n",
	}
	for _, id := range []string{"new-http", "old-http", "new-stdio", "old-stdio"} {
		version := wire.Version20251125
		if strings.HasPrefix(id, "new") {
			version = wire.Version20260728
		}
		transport := fmt.Sprintf("command: [%q]\n    env: {%s: %q, TWIN: %q}", self, envMirror, version, id)
		if m := g.mirrors[id]; m != nil {
			transport = "url: " + m.url
		}
		files["upstreams/"+id+".yaml"] = fmt.Sprintf("upstream: %s\nstages:\n  production:\n    %s\n    era: %q\n    binding: live\ntools:\n  mirror: {access: %s, data_class: internal}\n", id, transport, version, access)
		files["upstreams/"+id+".pins.json"] = fmt.Sprintf("{\"server\":{\"protocolVersion\":%q,\"capabilities\":{\"tools\":{}}},\"tools\":[%s]}\n", version, mirrorTool)
	}
	g.yard = startProject(t, t.TempDir(), files, "glass")
	g.token, g.run = g.yard.token(t, "glass", 0)
	g.session = g.yard.session(t, g.token)
	return g
}

// startProject starts an installation of these files, with an agent in production.
func startProject(t *testing.T, dir string, files map[string]string, agent sallyport.AgentID) *yard {
	t.Helper()
	writeFiles(t, dir, files)
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	a, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := a.Founder(t.Context(), "you@localhost"); err != nil {
		t.Fatal(err)
	}
	people, err := a.Store.Persons(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{App: a, person: &people[0]}
	if err := y.apply(t, y.person, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Control.Promote(t.Context(), y.person, agent, "", sallyport.Production, "test"); err != nil {
		t.Fatal(err)
	}
	return y
}

// toolOf is the advertised name of an upstream's one tool.
func toolOf(upstream string) string { return upstream + "__mirror" }

// body is a call of an upstream's mirror, in the upstream's era.
func (g *glass) body(upstream, arguments string) *hostile {
	h := &hostile{params: `"arguments":` + arguments + ` , "name":"` + toolOf(upstream) + `"`}
	if strings.HasPrefix(upstream, "old") {
		h.older = g.session
	}
	return h
}

var upstreams = []string{"new-http", "old-http", "new-stdio", "old-stdio"}

// TestFidelity sends arguments of every kind to servers of both eras over both
// transports, and has them come back as a result and as the data of an error.
func TestFidelity(t *testing.T) {
	for _, access := range []string{"read", "changing"} {
		t.Run(access, func(t *testing.T) {
			g := startGlass(t, access)
			type sent struct{ arguments, answer string }
			var all []sent
			for _, upstream := range upstreams {
				for name, arguments := range faithful() {
					if arguments[0] != '{' {
						arguments = `{"list":` + arguments + `}`
					}
					for _, fails := range []bool{false, true} {
						if fails {
							arguments = strings.TrimSuffix(strings.TrimSuffix(arguments, "}"), ",") + `,"fail":1}`
							if arguments = strings.Replace(arguments, `{,`, `{`, 1); name == "white space" {
								arguments = strings.Replace(arguments, "},", "} ,\t", 1)
							}
						}
						a, err := g.send(t.Context(), g.token, g.body(upstream, arguments))
						if err != nil {
							t.Fatal(err)
						}
						m, err := wire.Scan([]byte(a.body), wire.Limits{Bytes: 64 << 20})
						if err != nil {
							t.Fatalf("%s to %s: %d %.300s: %v", name, upstream, a.status, a.body, err)
						}
						got, want := string(m.Result.Of(m.Raw)), rightly(strings.HasPrefix(upstream, "new"), []byte(arguments))
						if fails {
							got, want = string(m.Error.Of(m.Raw)), wrongly([]byte(arguments))
						}
						if got != want {
							t.Errorf("%s to %s, failing %v\n got %.600s\nwant %.600s", name, upstream, fails, a.body, want)
						}
						all = append(all, sent{arguments, want})
						if mirror := g.mirrors[upstream]; mirror != nil {
							calls := mirror.calls()
							if len(calls) == 0 || !bytes.Contains(calls[len(calls)-1], []byte(`"arguments":`+arguments+` , "name":"mirror"`)) {
								t.Errorf("%s: %s was sent other bytes", name, upstream)
							}
						}
					}
				}
			}
			g.recorded(t, len(all), func(i int) (string, string) { return all[i].arguments, all[i].answer })
		})
	}
}

// recorded holds the records of the run's calls, in their order, against what was
// sent and answered: the commitments of the log are over those very bytes.
func (g *glass) recorded(t *testing.T, n int, call func(i int) (arguments, answer string)) {
	t.Helper()
	lines, err := g.Store.Trace(t.Context(), g.run, "", true)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := 0
	var salt []byte
	var arguments string
	for _, l := range lines {
		r, err := audit.ParseRecord(l.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind != audit.Intent && r.Kind != audit.Outcome || l.Payload == nil {
			continue
		}
		if len(l.Payload.Arguments) > 0 { // with the intent, where there is one
			salt, arguments = l.Payload.Salt, string(l.Payload.Arguments)
		}
		if r.Kind == audit.Intent {
			if r.Arguments != audit.Commit(salt, []byte(arguments)) {
				t.Errorf("the intent of %s commits to other arguments", r.Call)
			}
			continue
		}
		if outcomes == n {
			t.Fatalf("more outcomes than calls: %s", l.Body)
		}
		sent, answered := call(outcomes)
		outcomes++
		switch {
		case arguments != sent:
			t.Errorf("recorded arguments %.200s, sent %.200s", arguments, sent)
		case r.Arguments != audit.Commit(salt, []byte(sent)):
			t.Errorf("%s commits to other arguments than %.200s", r.Call, sent)
		case string(l.Payload.Result) != answered:
			t.Errorf("recorded result %.200s, answered %.200s", l.Payload.Result, answered)
		case r.Result != audit.Commit(l.Payload.Salt, []byte(answered)):
			t.Errorf("%s commits to another result than %.200s", r.Call, answered)
		}
	}
	if outcomes != n {
		t.Errorf("%d outcomes of %d calls", outcomes, n)
	}
}

// TestFidelityOfLines sends what one line cannot carry to a server that reads
// lines: white space is all that may differ, and only there.
func TestFidelityOfLines(t *testing.T) {
	g := startGlass(t, "read")
	arguments := "{\r\n  \"a\": [1.0,\n 2],\n\t\"b\": \"x\\ny\"\r\n}"
	for _, upstream := range upstreams {
		a, err := g.send(t.Context(), g.token, g.body(upstream, arguments))
		if err != nil {
			t.Fatal(err)
		}
		want := arguments
		if strings.HasSuffix(upstream, "stdio") {
			want = strings.NewReplacer("\r", " ", "\n", " ").Replace(arguments)
		}
		if want = rightly(strings.HasPrefix(upstream, "new"), []byte(want)); !strings.Contains(a.body, want) {
			t.Errorf("%s\n got %s\nwant %s", upstream, a.body, want)
		}
	}
}

// TestStrictness sends what two readers could read differently: each is refused
// in a form that says why, and nothing of it reaches an upstream.
func TestStrictness(t *testing.T) {
	g := startGlass(t, "changing")
	deep := strings.Repeat(`{"a":`, wire.DefaultDepth-2) + `[]` + strings.Repeat(`}`, wire.DefaultDepth-2)
	type odd struct {
		name   string
		change func(usual string) string // of the body
		header http.Header
		status int
		code   int // of JSON-RPC; zero where the answer is below it
	}
	arguments := func(a string) func(string) string {
		return func(usual string) string { return strings.Replace(usual, `{"here":1}`, a, 1) }
	}
	replace := func(from, to string) func(string) string {
		return func(usual string) string { return strings.Replace(usual, from, to, 1) }
	}
	same := func(usual string) string { return usual }
	const bad = http.StatusBadRequest
	for _, o := range []odd{
		{"a name twice", arguments(`{"a":1,"a":2}`), nil, bad, wire.ParseError},
		{"a name twice, once escaped", arguments(`{"a":1,"\u0061":2}`), nil, bad, wire.ParseError},
		{"a name twice, deep inside", arguments(`{"x":[{"y":{"a":1,"b":2,"a":1}}]}`), nil, bad, wire.ParseError},
		{"arguments twice", replace(`"arguments":`, `"arguments":{},"arguments":`), nil, bad, wire.ParseError},
		{"params twice", replace(`"params":`, `"params":{},"params":`), nil, bad, wire.ParseError},
		{"the method twice", replace(`"method":`, `"method":"ping","method":`), nil, bad, wire.ParseError},
		{"the id twice", replace(`"id":1`, `"id":1,"id":1`), nil, bad, wire.ParseError},
		{"a name in another case", replace(`"arguments":`, `"Arguments":{},"arguments":`), nil, bad, wire.InvalidRequest},
		{"the method in another case", replace(`"method":`, `"METHOD":"ping","method":`), nil, bad, wire.InvalidRequest},
		{"a name in a folded case", replace(`"params":`, `"param\u017f":{},"params":`), nil, bad, wire.InvalidRequest},
		{"no UTF-8", arguments("{\"a\":\"\xff\"}"), nil, bad, wire.ParseError},
		{"an overlong character", arguments("{\"a\":\"\xc0\xaf\"}"), nil, bad, wire.ParseError},
		{"a raw half of a pair", arguments("{\"a\":\"\xed\xa0\x80\"}"), nil, bad, wire.ParseError},
		{"no UTF-8 in a name", arguments("{\"\xff\":1}"), nil, bad, wire.ParseError},
		{"half a pair", arguments(`{"a":"\ud800"}`), nil, bad, wire.ParseError},
		{"the other half", arguments(`{"a":"\udc00"}`), nil, bad, wire.ParseError},
		{"the halves in the wrong order", arguments(`{"a":"\udc00\ud800"}`), nil, bad, wire.ParseError},
		{"half a pair in a name", arguments(`{"\ud800":1}`), nil, bad, wire.ParseError},
		{"a byte order mark", func(u string) string { return "\ufeff" + u }, nil, bad, wire.ParseError},
		{"a byte order mark of UTF-16", func(u string) string { return "\xff\xfe" + u }, nil, bad, wire.ParseError},
		{"UTF-16", func(u string) string { return strings.Join(strings.Split(u, ""), "\x00") }, nil, bad, wire.ParseError},
		{"something behind", func(u string) string { return u + `x` }, nil, bad, wire.ParseError},
		{"a message behind", func(u string) string { return u + "\n" + u }, nil, bad, wire.ParseError},
		{"a NUL behind", func(u string) string { return u + "\x00" }, nil, bad, wire.ParseError},
		{"an odd space", replace(`"id":1`, "\"id\":\u00a01"), nil, bad, wire.ParseError},
		{"a batch", func(u string) string { return "[" + u + "]" }, nil, bad, wire.InvalidRequest},
		{"an empty batch", func(string) string { return "[]" }, nil, bad, wire.InvalidRequest},
		{"nothing", func(string) string { return " " }, nil, bad, wire.ParseError},
		{"half a message", func(u string) string { return u[:len(u)/2] }, nil, bad, wire.ParseError},
		{"a comment", arguments(`{/**/}`), nil, bad, wire.ParseError},
		{"a comma too many", arguments(`{"a":1,}`), nil, bad, wire.ParseError},
		{"a number that is none", arguments(`{"a":NaN}`), nil, bad, wire.ParseError},
		{"a zero in front", arguments(`{"a":01}`), nil, bad, wire.ParseError},
		{"a plus", arguments(`{"a":+1}`), nil, bad, wire.ParseError},
		{"single quotes", arguments(`{'a':1}`), nil, bad, wire.ParseError},
		{"a raw line end in a string", arguments("{\"a\":\"\n\"}"), nil, bad, wire.ParseError},
		{"too deep", arguments(deep), nil, bad, wire.InvalidRequest},
		{"another version of JSON-RPC", replace(`"2.0"`, `"1.0"`), nil, bad, wire.InvalidRequest},
		{"no version of JSON-RPC", replace(`"jsonrpc":"2.0",`, ``), nil, bad, wire.InvalidRequest},
		{"an id that is none", replace(`"id":1`, `"id":1.5`), nil, bad, wire.InvalidRequest},
		{"an id that is null", replace(`"id":1`, `"id":null`), nil, bad, wire.InvalidRequest},
		{"params in a list", replace(`"params":{`, `"params":[],"x":{`), nil, bad, wire.InvalidRequest},
		{"a result besides", replace(`"id":1`, `"id":1,"result":{}`), nil, bad, wire.InvalidRequest},
		{"a name that is none", replace(`"name":"new-http__mirror"`, `"name":["new-http__mirror"]`), http.Header{"Mcp-Name": {toolOf("new-http")}, "Mcp-Method": {"tools/call"}, "Mcp-Protocol-Version": {wire.Version20260728}}, bad, wire.InvalidRequest},
		{"another name in the head", same, http.Header{"Mcp-Name": {toolOf("old-http")}}, bad, wire.HeaderMismatch},
		{"another method in the head", same, http.Header{"Mcp-Method": {"tools/list"}}, bad, wire.HeaderMismatch},
		{"another version in the head", same, http.Header{"Mcp-Protocol-Version": {wire.Version20251125}}, bad, wire.HeaderMismatch},
		{"a version nobody speaks", same, http.Header{"Mcp-Protocol-Version": {"2099-01-01"}}, bad, wire.HeaderMismatch},
		{"no name in the head", same, http.Header{"Mcp-Name": nil}, bad, wire.HeaderMismatch},
		{"no method in the head", same, http.Header{"Mcp-Method": nil}, bad, wire.HeaderMismatch},
		{"no version in the head", same, http.Header{"Mcp-Protocol-Version": nil}, bad, wire.HeaderMismatch},
		{"the name of the head in another case", same, http.Header{"Mcp-Name": {strings.ToUpper(toolOf("new-http"))}}, bad, wire.HeaderMismatch},
		{"two names in the head", same, http.Header{"Mcp-Name": {toolOf("new-http"), toolOf("new-http")}}, bad, 0},
		{"two versions in the head", same, http.Header{"Mcp-Protocol-Version": {wire.Version20260728, wire.Version20260728}}, bad, 0},
		{"two content types", same, http.Header{"Content-Type": {"application/json", "application/json"}}, bad, 0},
		{"text", same, http.Header{"Content-Type": {"text/plain"}}, http.StatusUnsupportedMediaType, 0},
		{"another character set", same, http.Header{"Content-Type": {"application/json; charset=utf-7"}}, http.StatusUnsupportedMediaType, 0},
		{"compressed", same, http.Header{"Content-Encoding": {"gzip"}}, http.StatusUnsupportedMediaType, 0},
		// It asks first: an answer to a body on its way may be lost with the connection.
		{"too much", arguments(`{"a":"` + strings.Repeat("a", (4<<20)+(100<<10)) + `"}`), http.Header{"Expect": {"100-continue"}}, http.StatusRequestEntityTooLarge, 0},
	} {
		t.Run(o.name, func(t *testing.T) {
			usual := g.body("new-http", `{"here":1}`)
			h := hostile{raw: o.change(usual.body()), header: http.Header{}}
			if h.raw == usual.body() && o.header == nil {
				t.Fatal("nothing was changed")
			}
			// The headers of the usual request, whatever can be read of this one.
			m, err := wire.Scan([]byte(usual.body()), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			wire.SetHeaders(h.header, &m, wire.Version20260728)
			maps.Copy(h.header, o.header)
			a, err := g.send(t.Context(), g.token, &h)
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Error struct{ Code int }
			}
			if o.code != 0 {
				if err := json.Unmarshal([]byte(a.body), &answer); err != nil {
					t.Errorf("%v in %s", err, a.body)
				}
			}
			if a.status != o.status || answer.Error.Code != o.code {
				t.Errorf("answered %d %.300s, want status %d and code %d", a.status, a.body, o.status, o.code)
			}
			if o.code == 0 && strings.HasPrefix(a.body, "{") {
				t.Errorf("answered %.300s", a.body)
			}
		})
	}
	for id, m := range g.mirrors {
		if calls := m.calls(); len(calls) > 0 {
			t.Errorf("%s was sent %.300s", id, calls[0])
		}
	}
	// The same request without anything odd arrives.
	if a, err := g.send(t.Context(), g.token, g.body("new-http", `{"here":1}`)); err != nil || !strings.Contains(a.body, `"here":1`) || len(g.mirrors["new-http"].calls()) != 1 {
		t.Errorf("%v %v", a, err)
	}
}

// TestStrictnessOfAnswers has upstreams send what two readers could read
// differently: nothing of it reaches the agent, and the record says why.
func TestStrictnessOfAnswers(t *testing.T) {
	y := startYard(t, false)
	token, _ := y.token(t, "staged", 0)
	session := y.session(t, token)
	result := func(id, content string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"result":{"resultType":"complete","content":` + content + `}}`
	}
	for name, answer := range map[string]func(id string) string{
		"a name twice":          func(id string) string { return result(id, `[{"type":"text","text":"odd","text":"odd"}]`) },
		"no UTF-8":              func(id string) string { return result(id, "[{\"type\":\"text\",\"text\":\"odd\xff\"}]") },
		"half a pair":           func(id string) string { return result(id, `[{"type":"text","text":"odd\ud800"}]`) },
		"something behind":      func(id string) string { return result(id, `["odd"]`) + "x" },
		"a byte order mark":     func(id string) string { return "\ufeff" + result(id, `["odd"]`) },
		"a batch":               func(id string) string { return "[" + result(id, `["odd"]`) + "]" },
		"half of it":            func(id string) string { s := result(id, `["odd"]`); return s[:len(s)-2] },
		"too deep":              func(id string) string { return result(id, strings.Repeat("[", 80)+`"odd"`+strings.Repeat("]", 80)) },
		"another id":            func(string) string { return result("2", `["odd"]`) },
		"an id of another type": func(string) string { return result(`"1"`, `["odd"]`) },
		"a result and an error": func(id string) string {
			return `{"jsonrpc":"2.0","id":` + id + `,"result":{"a":"odd"},"error":{"code":1,"message":"odd"}}`
		},
		"neither":               func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"odd":1}` },
		"a result that is none": func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"result":["odd"]}` },
		"a question":            func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"odd"}` },
		"nothing":               func(string) string { return "" },
		"more than it may":      func(id string) string { return result(id, `["odd`+strings.Repeat("a", 5<<20)+`"]`) },
	} {
		for _, h := range []hostile{{}, {older: session}} {
			t.Run(name+" "+fmt.Sprint(h.older != ""), func(t *testing.T) {
				// An answer in between, so that the breaker does not take the rest.
				if a, err := y.send(t.Context(), token, &h); err != nil || !strings.Contains(a.body, marker(sallyport.Staging)) {
					t.Fatalf("%v %v", a, err)
				}
				y.staging.turnHostile(t, func(w http.ResponseWriter, _ *http.Request, m *wire.Message) bool {
					if m.Method != wire.MethodToolsCall {
						return false
					}
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, answer(string(m.ID.Of(m.Raw))))
					return true
				})
				a, err := y.send(context.Background(), token, &h)
				if err != nil {
					t.Fatal(err)
				}
				want := sallyport.UpstreamProtocol
				if name == "more than it may" {
					want = sallyport.ResultTooLarge
				}
				if strings.Contains(a.body, "odd") || !strings.Contains(a.body, `"code":"`+string(want)+`"`) {
					t.Errorf("answered %.400s", a.body)
				}
			})
		}
	}
	y.stands(t, sallyport.Staging, nil)
}
