package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/openapi"
	"sallyport/internal/schema"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

// shop is an HTTP API as somebody else would have written it. It keeps the
// requests it was sent, byte for byte.
type shop struct {
	*httptest.Server
	mu   sync.Mutex
	seen []shopped
}

type shopped struct {
	method, target, body string
	header               http.Header
}

// bigOrder is an answer that no decoder and encoder leaves alone.
const bigOrder = `{ "id" : 12345678901234567890, "note":"<a>&x \u0041", "total":1.0,"extra":{"b":1 , "a":-0} }` + "\n"

func newShop(t testing.TB) *shop {
	t.Helper()
	s := &shop{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, shopped{r.Method, r.RequestURI, string(body), r.Header.Clone()})
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch {
		case r.URL.Path == "/v1/orders" && r.Method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(bigOrder))
		case r.URL.Path == "/v1/orders":
			_, _ = w.Write([]byte(`[ {"id":1},{"id":18446744073709551617} ]`))
		case r.URL.Path == "/v1/orders/away":
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/v1/orders/odd":
			_, _ = w.Write([]byte(`{"id":"not a number"}`))
		case strings.HasPrefix(r.URL.Path, "/v1/orders/") && r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasPrefix(r.URL.Path, "/v1/orders/7"):
			_, _ = w.Write([]byte(bigOrder))
		case r.URL.Path == "/v1/label":
			w.Header().Set("Content-Type", "application/pdf")
			_, _ = w.Write([]byte("%PDF\x00\xff"))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error":"no such <order>"}`))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shop) last(t testing.TB) shopped {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		t.Fatal("nothing has reached the shop")
	}
	return s.seen[len(s.seen)-1]
}

func (s *shop) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

const shopDocument = `openapi: 3.0.3
info: {title: Shop, version: "7"}
servers: [{url: "http://192.0.2.1/never"}]
paths:
  /orders:
    get:
      operationId: listOrders
      summary: List orders
      parameters:
        - {name: status, in: query, schema: {type: array, items: {type: string}}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: X-Tenant, in: header, required: true, schema: {type: string}}
      responses:
        "200":
          description: orders
          content: {application/json: {schema: {type: array, items: {$ref: "#/components/schemas/Order"}}}}
    post:
      operationId: createOrder
      requestBody:
        required: true
        content: {application/json: {schema: {type: object, required: [item], properties: {item: {type: string}, count: {type: integer}}}}}
      responses:
        "201":
          description: created
          content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}
  /orders/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getOrder
      responses:
        "200":
          description: order
          content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}
    delete:
      operationId: deleteOrder
      responses: {"204": {description: gone}}
  /label:
    get:
      operationId: label
      responses: {"200": {description: a label, content: {application/pdf: {}}}}
components:
  schemas:
    Order:
      type: object
      required: [id]
      properties:
        id: {type: integer}
        note: {type: string, nullable: true}
`

// openShop writes a project before a shop, pins it, and starts it. files replace
// those that it would write.
func openShop(t testing.TB, s *shop, files map[string]string) *site {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"sallyport.yaml":     "listen: 127.0.0.1:8484\n",
		"agents/worker.yaml": "agent: worker\nowner: worker@example.com\ntier: medium\nupstreams: [shop]\npolicies: [policies/all.cedar]\n",
		"policies/all.cedar": "@id(\"all\")\npermit (principal, action, resource);\n",
		"openapi/shop.yaml":  shopDocument,
		"upstreams/shop.yaml": fmt.Sprintf(`upstream: shop
openapi: openapi/shop.yaml
stages:
  sandbox: {binding: simulate}
  production:
    url: %s/v1
    headers: {X-Tenant: acme}
    credential: file:secrets/shop
    binding: live
tools:
  listOrders: {access: read}
  getOrder: {access: read}
  label: {access: read}
  createOrder: {access: read}
`, s.URL),
		"secrets/shop": "the-key\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := ProbePins(t.Context(), dir, "shop", 0)
	if err != nil {
		t.Fatal(err)
	}
	if !r.First || len(r.Problems) > 0 {
		t.Fatalf("the first pins: %+v", r)
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		t.Fatal(problems)
	}
	if n := s.count(); n > 0 {
		t.Fatalf("pinning sent %d requests", n)
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
	site := &site{App: a}
	if err := site.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return site
}

func (s *site) runIn(t testing.TB, stage sallyport.Stage) string {
	t.Helper()
	host, err := s.Control.MakeHostKey(t.Context(), s.person, "worker", stage, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := s.Control.OpenRun(t.Context(), &host.Key, 0, sallyport.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	return run.Token
}

// TestOpenAPI carries calls of both eras to an HTTP API, through the whole
// program: the requests it gets and the answers that come back, byte for byte.
func TestOpenAPI(t *testing.T) {
	testkit.Leak(t)
	shop := newShop(t)
	s := openShop(t, shop, nil)
	token := s.runIn(t, sallyport.Production)
	older := newClient(s, token)
	t.Cleanup(older.http.CloseIdleConnections)
	if err := older.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	type want struct{ method, target, body, result string }
	text := func(s string) string { return `{"type":"text","text":` + string(wire.AppendString(nil, s)) + `}` }
	orders := `{"result":[ {"id":1},{"id":18446744073709551617} ]}`
	for _, c := range []struct {
		tool, args string
		want
	}{
		{"getOrder", `{"id":"7 ü"}`, want{"GET", "/v1/orders/7%20%C3%BC", "", `"content":[` + text(bigOrder) + `],"structuredContent":` + bigOrder}},
		{"listOrders", `{"status":["a&b","c"],"X-Trace":"t 1"}`, want{"GET", "/v1/orders?status=a%26b&status=c", "", `"content":[` + text(orders) + `],"structuredContent":` + orders}},
		{"createOrder", `{"body": {"count" : 12345678901234567890, "item":"\u0041" } }`, want{"POST", "/v1/orders", `{"count" : 12345678901234567890, "item":"\u0041" }`,
			`"content":[` + text(bigOrder) + `],"structuredContent":` + bigOrder}},
		{"deleteOrder", `{"id":"9"}`, want{"DELETE", "/v1/orders/9", "", `"content":[` + text("HTTP 204 No Content") + `]`}},
		{"getOrder", `{"id":"8"}`, want{"GET", "/v1/orders/8", "", `"content":[` + text("HTTP 404 Not Found") + `,` + text(`{"error":"no such <order>"}`) + `],"isError":true`}},
		{"getOrder", `{"id":"away"}`, want{"GET", "/v1/orders/away", "", `"content":[` + text("HTTP 302 Found") + `],"isError":true`}},
		{"getOrder", `{"id":"odd"}`, want{"GET", "/v1/orders/odd", "", `"content":[` + text(`{"id":"not a number"}`) + `]`}},
		{"label", `{}`, want{"GET", "/v1/label", "", `"content":[{"type":"resource","resource":{"uri":"urn:tool:label:result","mimeType":"application/pdf","blob":"JVBERgD/"}}]`}},
	} {
		for _, era := range []wire.Era{wire.Stateless, wire.Sessions} {
			before := shop.count()
			var raw string
			if era == wire.Stateless {
				m, err := call(s.URL, token, c.tool, c.args)
				if err != nil {
					t.Fatal(err)
				}
				raw = string(m.Result.Of(m.Raw))
			} else {
				answer, err := older.ask(t.Context(), wire.MethodToolsCall, "3", fmt.Sprintf(`"name":%q,"arguments":%s`, c.tool, c.args))
				if err != nil {
					t.Fatal(err)
				}
				result, ok, err := wire.Field([]byte(answer), "result")
				if err != nil || !ok {
					t.Fatalf("%s: %v", answer, err)
				}
				raw = string(result)
			}
			expected := `{` + c.result + `}`
			if era == wire.Stateless {
				expected = `{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"Shop","version":"7"}},"resultType":"complete",` + c.result + `}`
			}
			if raw != expected {
				t.Errorf("%s %s, %s: got\n%s\nwant\n%s", c.tool, c.args, era, raw, expected)
			}
			got := shop.last(t)
			if got.method != c.method || got.target != c.target || got.body != c.body {
				t.Errorf("%s %s: the shop got %s %s %q", c.tool, c.args, got.method, got.target, got.body)
			}
			if n := shop.count() - before; n != 1 {
				t.Errorf("%s: %d requests for one call", c.tool, n)
			}
			h := got.header
			if h.Get("Authorization") != "Bearer the-key" || h.Get("X-Tenant") != "acme" || h.Get("Cookie") != "" {
				t.Errorf("%s: the shop got the header %v", c.tool, h)
			}
			if c.tool == "listOrders" && h.Get("X-Trace") != "t 1" {
				t.Errorf("the argument X-Trace arrived as %q", h.Get("X-Trace"))
			}
			for name := range h {
				if strings.HasPrefix(name, "Mcp-") {
					t.Errorf("%s: the shop got %s", c.tool, name)
				}
			}
		}
	}
	if _, err := older.ask(context.WithoutCancel(t.Context()), http.MethodDelete, "9", ""); err != nil {
		t.Fatal(err)
	}
	// What is written changes something whatever a person declares.
	project, problems := config.Load(os.DirFS(s.Dir))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	tools := project.Releases[0].Tools
	for name, want := range map[string]sallyport.Access{"listOrders": sallyport.Read, "createOrder": sallyport.Changing, "deleteOrder": sallyport.Changing} {
		at := slices.IndexFunc(tools, func(u sallyport.Tool) bool { return u.UpstreamName == name })
		if at < 0 || tools[at].Access != want {
			t.Errorf("%s is not %s: %+v", name, want, tools)
		}
	}
}

// TestOpenAPIArgumentsStayInPlace: no argument makes a request to another path,
// and none that cannot be sent as itself is sent.
func TestOpenAPIArgumentsStayInPlace(t *testing.T) {
	testkit.Leak(t)
	shop := newShop(t)
	s := openShop(t, shop, nil)
	token := s.runIn(t, sallyport.Production)
	for tool, all := range map[string][]string{
		"getOrder":    {`{"id":".."}`, `{"id":"."}`, `{"id":"../label"}`, `{"id":"%2e%2e"}`, `{"id":"..%2Flabel"}`, `{"id":"a\\b"}`, `{"id":""}`, `{"id":"a\r\nb"}`, `{"id":"..;x"}`},
		"listOrders":  {`{"X-Trace":"a\r\nX-Other: b"}`, `{"X-Trace":"ü"}`, `{"X-Tenant":"other"}`, `{"other":1}`},
		"createOrder": {`{}`, `{"body":{"count":1}}`},
	} {
		for _, args := range all {
			m, err := call(s.URL, token, tool, args)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(m.Raw), "invalid_arguments") || !strings.Contains(string(m.Raw), `"isError":true`) {
				t.Errorf("%s %s: %s", tool, args, m.Raw)
			}
		}
	}
	if n := shop.count(); n > 0 {
		t.Errorf("%d requests arrived: %+v", n, shop.seen)
	}
}

// TestOpenAPIInTheSandbox: the same tools are answered without the API, in the
// same shape.
func TestOpenAPIInTheSandbox(t *testing.T) {
	testkit.Leak(t)
	shop := newShop(t)
	s := openShop(t, shop, nil)
	host, err := s.Control.MakeHostKey(t.Context(), s.person, "worker", sallyport.Sandbox, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := s.Control.OpenRun(t.Context(), &host.Key, sallyport.Sandbox, sallyport.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := call(s.URL, run.Token, "getOrder", `{"id":"7"}`)
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		Meta              json.RawMessage `json:"_meta"`
		Content           []struct{ Type, Text string }
		StructuredContent json.RawMessage
	}
	if err := json.Unmarshal(m.Result.Of(m.Raw), &result); err != nil {
		t.Fatal(err)
	}
	output, err := schema.Compile([]byte(`{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := output.Validate(result.StructuredContent); err != nil || len(result.Content) != 1 || result.Content[0].Text != string(result.StructuredContent) {
		t.Errorf("%s: %v", m.Raw, err)
	}
	if m, err = call(s.URL, run.Token, "listOrders", `{}`); err != nil {
		t.Fatal(err)
	}
	list := result
	if err := json.Unmarshal(m.Result.Of(m.Raw), &list); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(list.StructuredContent), `{"result":[`) || len(list.Content) != 1 || list.Content[0].Text != string(list.StructuredContent) {
		t.Errorf("a list is answered as %s", m.Raw)
	}
	if string(result.Meta) != `{"io.modelcontextprotocol/serverInfo":{"name":"Shop","version":"7"}}` {
		t.Errorf("the world says it is %s", result.Meta)
	}
	if n := shop.count(); n > 0 {
		t.Errorf("%d requests left the sandbox", n)
	}
}

// TestOpenAPIPinsItsDocument: a document that has changed is not applied before a
// person has pinned it again, whatever has changed in it.
func TestOpenAPIPinsItsDocument(t *testing.T) {
	testkit.Leak(t)
	shop := newShop(t)
	s := openShop(t, shop, nil)
	path := filepath.Join(s.Dir, "openapi", "shop.yaml")
	for _, edited := range []string{
		strings.Replace(shopDocument, "operationId: label", "operationId: tag", 1),
		strings.Replace(shopDocument, "  /label:", "  /tag:", 1),
		shopDocument + "# more\n",
	} {
		if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Propose(t.Context()); err == nil || !strings.Contains(err.Error(), "sallyport upstream pin shop") {
			t.Errorf("the document has changed: %v", err)
		}
	}
	r, err := ProbePins(t.Context(), s.Dir, "shop", 0)
	if err != nil {
		t.Fatal(err)
	}
	if r.Same() || !r.Moved {
		t.Errorf("the document is another, and nothing to pin: %+v", r)
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(t.Context()); err != nil {
		t.Errorf("pinned again: %v", err)
	}
}

// TestOpenAPIWithOAuth: the bearer token of an API comes from the authorization
// server of its stage, and neither the caller's own token nor a secret goes
// anywhere else.
func TestOpenAPIWithOAuth(t *testing.T) {
	testkit.Leak(t)
	var mu sync.Mutex
	var asked []string
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		user, pass, _ := r.BasicAuth()
		mu.Lock()
		asked = append(asked, user+" "+pass+" "+string(body))
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"lent","token_type":"Bearer","expires_in":600}`)
	}))
	t.Cleanup(issuer.Close)
	shop := newShop(t)
	s := openShop(t, shop, map[string]string{
		"upstreams/shop.yaml": fmt.Sprintf(`upstream: shop
openapi: openapi/shop.yaml
stages:
  sandbox: {binding: simulate}
  production:
    url: %s/v1
    headers: {X-Tenant: acme}
    oauth: {url: %s/token, client: gateway, secret: file:secrets/shop, scope: orders, grant: token_exchange, subject: file:secrets/subject}
    binding: live
`, shop.URL, issuer.URL),
		"secrets/subject": "the-subject\n",
	})
	token := s.runIn(t, sallyport.Production)
	for range 3 {
		m, err := call(s.URL, token, "getOrder", `{"id":"7"}`)
		if err != nil || strings.Contains(string(m.Raw), "isError") {
			t.Fatalf("%s: %v", m.Raw, err)
		}
		if got := shop.last(t).header.Get("Authorization"); got != "Bearer lent" {
			t.Errorf("the shop got %q", got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := "gateway the-key grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&scope=orders&subject_token=the-subject&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token"
	if len(asked) != 1 || asked[0] != want {
		t.Errorf("the authorization server was asked %q", asked)
	}
	for _, text := range asked {
		if strings.Contains(text, token) {
			t.Error("the caller's own token left the gateway")
		}
	}
	// Of the sandbox nobody asks for a token.
	host, err := s.Control.MakeHostKey(t.Context(), s.person, "worker", sallyport.Sandbox, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := s.Control.OpenRun(t.Context(), &host.Key, sallyport.Sandbox, sallyport.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	before := shop.count()
	if _, err := call(s.URL, run.Token, "getOrder", `{"id":"7"}`); err != nil {
		t.Fatal(err)
	}
	if shop.count() != before || len(asked) != 1 {
		t.Error("the sandbox reached out")
	}
}

// TestOpenAPIPolicySeesTheBody: policies speak of what will be sent, within the
// body, too.
func TestOpenAPIPolicySeesTheBody(t *testing.T) {
	testkit.Leak(t)
	shop := newShop(t)
	s := openShop(t, shop, map[string]string{
		"policies/all.cedar": `@id("all")
permit (principal, action, resource);
@id("few")
forbid (principal, action, resource) when { context has args && context.args has body && context.args.body has count && context.args.body.count > 10 };
`,
	})
	token := s.runIn(t, sallyport.Production)
	for args, denied := range map[string]bool{`{"body":{"item":"a","count":10}}`: false, `{"body":{"item":"a","count":11}}`: true} {
		before := shop.count()
		m, err := call(s.URL, token, "createOrder", args)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(m.Raw), "denied") != denied || (shop.count() == before) != denied {
			t.Errorf("%s: %s", args, m.Raw)
		}
	}
}

// TestOpenAPIReadsOwnDocument: the API of this program is one that could stand
// behind it.
func TestOpenAPIReadsOwnDocument(t *testing.T) {
	s := openShop(t, newShop(t), nil)
	resp, err := http.Get(s.URL + "/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	own, err := openapi.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(own.Operations) < 20 || len(own.LeftOut) > 0 {
		t.Errorf("%d operations, left out: %v", len(own.Operations), own.LeftOut)
	}
	for _, o := range own.Operations {
		for _, part := range []string{"inputSchema", "outputSchema"} {
			raw, ok, err := wire.Field(o.Definition, part)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue
			}
			if _, err := schema.Compile(raw); err != nil {
				t.Errorf("%s: %s: %v", o.Tool, part, err)
			}
		}
	}
}

// bearer sends a token with every request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// TestOpenAPIForTheGoSDK: a client that somebody else wrote finds the tools of an
// HTTP API and calls them, in either era.
func TestOpenAPIForTheGoSDK(t *testing.T) {
	shop := newShop(t)
	s := openShop(t, shop, nil)
	token := s.runIn(t, sallyport.Production)
	for _, version := range []string{wire.Version20251125, wire.Version20260728} {
		client := mcp.NewClient(&mcp.Implementation{Name: "counterpart", Version: "1"}, nil)
		session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
			Endpoint: s.URL + "/mcp", HTTPClient: &http.Client{Transport: bearer(token)}, DisableStandaloneSSE: true,
		}, &mcp.ClientSessionOptions{ProtocolVersion: version})
		if err != nil {
			t.Fatal(version, err)
		}
		list, err := session.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(version, err)
		}
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
			if (tool.OutputSchema != nil) != slices.Contains([]string{"listOrders", "createOrder", "getOrder"}, tool.Name) {
				t.Errorf("%s, %s: output schema %v", version, tool.Name, tool.OutputSchema)
			}
		}
		slices.Sort(names)
		if want := []string{"createOrder", "deleteOrder", "getOrder", "label", "listOrders"}; !slices.Equal(names, want) {
			t.Errorf("%s: the tools are %q", version, names)
		}
		for _, c := range []struct {
			tool  string
			args  map[string]any
			fails bool
			want  string
		}{
			{"getOrder", map[string]any{"id": "7"}, false, "structured"},
			{"createOrder", map[string]any{"body": map[string]any{"item": "a"}}, false, "structured"},
			{"getOrder", map[string]any{"id": "8"}, true, "HTTP 404 Not Found"},
			{"label", map[string]any{}, false, "application/pdf"},
		} {
			r, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: c.tool, Arguments: c.args})
			if err != nil {
				t.Errorf("%s, %s: %v", version, c.tool, err)
				continue
			}
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if r.IsError != c.fails || !strings.Contains(string(text), c.want) {
				t.Errorf("%s, %s: %s", version, c.tool, text)
			}
		}
		if err := session.Close(); err != nil {
			t.Error(version, err)
		}
	}
}
