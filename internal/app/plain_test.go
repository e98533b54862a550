package app

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

const marketDocument = `openapi: 3.1.0
info: {title: Market, version: "3"}
servers: [{url: "https://market.example/v1"}]
paths:
  /orders:
    get:
      operationId: listOrders
      parameters:
        - {name: status, in: query, schema: {type: array, items: {type: string}}}
        - {name: limit, in: query, schema: {type: integer, minimum: 1}}
      responses:
        "200": {description: orders, content: {application/json: {schema: {type: array, items: {$ref: "#/components/schemas/Order"}}}}}
    post:
      operationId: createOrder
      requestBody:
        required: true
        content: {application/json: {schema: {type: object, required: [item], properties: {item: {type: string}, count: {type: integer}}}}}
      responses:
        "201": {description: created, content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
        "422": {description: no, content: {application/json: {}}}
  /orders/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: integer}}
    get:
      operationId: getOrder
      responses:
        "200": {description: order, content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
        "404": {description: none, content: {application/json: {}}}
    delete:
      operationId: deleteOrder
      responses: {"204": {description: gone}, "404": {description: none, content: {application/json: {}}}}
  /orders/{id}/note:
    put:
      operationId: setNote
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      requestBody:
        required: true
        content: {application/x-www-form-urlencoded: {schema: {type: object, required: [text], properties: {text: {type: string}}}}}
      responses:
        "200": {description: order, content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
        "404": {description: none, content: {application/json: {}}}
components:
  securitySchemes:
    key: {type: apiKey, in: header, name: X-Api-Key}
    login: {type: http, scheme: basic}
  schemas:
    Order:
      type: object
      required: [id, item, count, status]
      properties: {id: {type: integer}, item: {type: string}, count: {type: integer}, status: {type: string}, note: {type: string}}
`

const marketWorld = `world: market
tables:
  orders:
    key: id
    id: {style: sequence}
    seed: orders.json
tools:
  listOrders:
    list: orders
    where: 'args.get("status") == None or row.status in args.status'
    limit: 'args.get("limit", 100)'
  createOrder:
    steps:
      - {require: 'args.body.get("count", 1) < 100', else: 'HTTP 422 {"error":"too many"}'}
      - {insert: orders, as: made, set: {item: args.body.item, count: 'args.body.get("count", 1)', status: '"open"'}}
      - {return: made}
  getOrder: {get: orders, key: args.id, missing: 'HTTP 404 {"error":"no such order"}'}
  deleteOrder: {delete: orders, key: args.id, missing: 'HTTP 404 {"error":"no such order"}'}
  setNote: {patch: orders, key: args.id, set: {note: args.body.text}, missing: 'HTTP 404 {"error":"no such order"}'}
`

const marketOrders = `[{"id":1,"item":"lamp","count":1,"status":"open"},{"id":2,"item":"desk","count":2,"status":"sent"}]`

type order struct {
	ID     int    `json:"id"`
	Item   string `json:"item"`
	Count  int    `json:"count"`
	Status string `json:"status"`
	Note   string `json:"note,omitempty"`
}

// newMarket is the API of marketDocument as somebody has written it, in the state of
// marketOrders. It keeps the credentials that it was sent.
func newMarket(t testing.TB) (*httptest.Server, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var keys []string
	orders := map[int]*order{}
	var first []*order
	if err := json.Unmarshal([]byte(marketOrders), &first); err != nil {
		t.Fatal(err)
	}
	for _, o := range first {
		orders[o.ID] = o
	}
	next := 3
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	failed := func(w http.ResponseWriter, status int, text string) {
		answer(w, status, map[string]string{"error": text})
	}
	one := func(do func(http.ResponseWriter, *http.Request, *order)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var id int
			_, _ = fmt.Sscan(r.PathValue("id"), &id)
			if o := orders[id]; o != nil {
				do(w, r, o)
				return
			}
			failed(w, 404, "no such order")
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/orders", func(w http.ResponseWriter, r *http.Request) {
		list := []*order{}
		for _, o := range orders {
			if states := r.URL.Query()["status"]; states == nil || slices.Contains(states, o.Status) {
				list = append(list, o)
			}
		}
		slices.SortFunc(list, func(a, b *order) int { return cmp.Compare(a.ID, b.ID) })
		answer(w, 200, list)
	})
	mux.HandleFunc("POST /v1/orders", func(w http.ResponseWriter, r *http.Request) {
		o := &order{ID: next, Count: 1, Status: "open"}
		if err := json.NewDecoder(r.Body).Decode(o); err != nil || o.Count >= 100 {
			failed(w, 422, "too many")
			return
		}
		next++
		orders[o.ID] = o
		answer(w, 201, o)
	})
	mux.HandleFunc("GET /v1/orders/{id}", one(func(w http.ResponseWriter, _ *http.Request, o *order) { answer(w, 200, o) }))
	mux.HandleFunc("DELETE /v1/orders/{id}", one(func(w http.ResponseWriter, _ *http.Request, o *order) {
		delete(orders, o.ID)
		w.WriteHeader(204)
	}))
	mux.HandleFunc("PUT /v1/orders/{id}/note", one(func(w http.ResponseWriter, r *http.Request, o *order) {
		o.Note = r.PostFormValue("text")
		answer(w, 200, o)
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, fmt.Sprint(r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"), r.Header.Get("Cookie")))
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(keys)
	}
}

// openMarket starts a project before a market. files replace those that it would write.
func openMarket(t testing.TB, url string, files map[string]string) *site {
	t.Helper()
	all := map[string]string{
		"agents/worker.yaml": "agent: worker\nowner: worker@example.com\ntier: medium\nupstreams: [store]\npolicies: [policies/all.cedar]\n",
		"openapi/shop.yaml":  marketDocument, // of the upstream that openShop pins
		"upstreams/shop.yaml": fmt.Sprintf(`upstream: shop
openapi: openapi/shop.yaml
stages:
  sandbox: {binding: simulate, world: market}
  production: {url: %s/v1, credential: file:secrets/shop, binding: live}
tools:
  listOrders: {access: read}
  getOrder: {access: read}
`, url),
		"worlds/market.yaml":      marketWorld,
		"worlds/data/orders.json": marketOrders,
	}
	all["agents/worker.yaml"] = strings.Replace(all["agents/worker.yaml"], "store", "shop", 1)
	for name, text := range files {
		all[name] = text
	}
	return openShop(t, &shop{Server: &httptest.Server{URL: url}}, all)
}

// runOf opens a run in a stage, whose release the site has promoted.
func (s *site) runOf(t testing.TB, stage sallyport.Stage, e sallyport.Envelope) string {
	t.Helper()
	host, err := s.Control.MakeHostKey(t.Context(), s.person, "worker", stage, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := s.Control.OpenRun(t.Context(), &host.Key, stage, e)
	if err != nil {
		t.Fatal(err)
	}
	return run.Token
}

// heard is an answer as a client of an API looks at it.
type heard struct {
	Status int
	Media  string
	Body   any
}

// ask is a client of the market that knows nothing but its address and its key.
func ask(t testing.TB, base, key, method, path, media, body string) heard {
	t.Helper()
	answer, _ := askWith(t, base, map[string]string{"Authorization": "Bearer " + key}, method, path, media, body)
	return answer
}

func askWith(t testing.TB, base string, fields map[string]string, method, path, media, body string) (heard, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		r.Header.Set(name, value)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := heard{Status: resp.StatusCode, Media: resp.Header.Get("Content-Type")}
	if len(text) > 0 && json.Unmarshal(text, &out.Body) != nil {
		out.Body = string(text)
	}
	return out, resp.Header
}

const (
	formMedia = "application/x-www-form-urlencoded"
	jsonMedia = "application/json"
)

// session is what an agent does at a market.
var session = []struct{ method, path, media, body string }{
	{"GET", "/orders", "", ""},
	{"GET", "/orders?status=open&status=lost", "", ""},
	{"POST", "/orders", jsonMedia, `{"item":"a <chair>","count":4}`},
	{"POST", "/orders", jsonMedia, `{"item":"chairs","count":400}`},
	{"GET", "/orders/3", "", ""},
	{"PUT", "/orders/3/note", formMedia, "text=for+the+%C3%BC+%26+ladies"},
	{"GET", "/orders/9", "", ""},
	{"DELETE", "/orders/1", "", ""},
	{"DELETE", "/orders/1", "", ""},
	{"HEAD", "/orders/2", "", ""},
	{"GET", "/orders", "", ""},
}

// TestPlain: a client of an HTTP API that has nothing of it but an address and a key
// gets the same answers from the API itself, from a world, and from the API through the
// gateway.
func TestPlain(t *testing.T) {
	testkit.Leak(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	direct, _ := newMarket(t)
	behind, keys := newMarket(t)
	s := openMarket(t, behind.URL, nil)
	tokens := map[sallyport.Stage]string{sallyport.Sandbox: s.runOf(t, sallyport.Sandbox, sallyport.Envelope{}), sallyport.Production: s.runOf(t, sallyport.Production, sallyport.Envelope{})}
	for _, step := range session {
		want := ask(t, direct.URL+"/v1", "the-key", step.method, step.path, step.media, step.body)
		for stage, base := range map[sallyport.Stage]string{sallyport.Sandbox: "/worlds/market/v1", sallyport.Production: "/worlds/market"} {
			got := ask(t, s.URL+base, tokens[stage], step.method, step.path, step.media, step.body)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s in %s: %s", step.method, step.path, stage, diff)
			}
		}
		if stage := sallyport.Sandbox; len(keys()) == 0 && step.method == "GET" && step.path == "/orders" {
			t.Errorf("nothing has reached the API from other stages than %s", stage)
		}
	}
	if n := len(keys()); n != len(session) {
		t.Errorf("%d requests reached the API, %d were made in production", n, len(session))
	}
	for _, key := range keys() {
		if key != "Bearer the-key" {
			t.Errorf("the API was sent %q", key)
		}
	}
	// Each was a call like any other.
	calls := map[string]int{}
	for _, r := range s.outcomes(t) {
		calls[r.Stage.String()+" "+r.Tool+" "+r.Outcome.String()]++
	}
	want := map[string]int{}
	for _, stage := range []string{"sandbox", "production"} {
		for what, n := range map[string]int{"listOrders ok": 3, "createOrder ok": 1, "createOrder error": 1, "getOrder ok": 2, "getOrder error": 1, "setNote ok": 1, "deleteOrder ok": 1, "deleteOrder error": 1} {
			want[stage+" "+what] = n
		}
	}
	if diff := gocmp.Diff(want, calls); diff != "" {
		t.Errorf("the log: %s", diff)
	}
}

// outcomes are the records of calls that have ended, in order.
func (s *site) outcomes(t testing.TB) []*audit.Record {
	t.Helper()
	var all []*audit.Record
	if err := s.Store.Records(t.Context(), 0, s.Store.Size(), func(_ int64, body []byte) error {
		var r audit.Record
		err := json.Unmarshal(body, &r)
		if r.Kind == audit.Outcome {
			all = append(all, &r)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// problem is a refusal as a caller by plain HTTP reads it.
func problem(t testing.TB, h heard) (code, detail, hint string) {
	t.Helper()
	p, ok := h.Body.(map[string]any)
	if !ok || h.Media != "application/problem+json" {
		t.Fatalf("not a problem: %+v", h)
	}
	text := func(name string) string { v, _ := p[name].(string); return v }
	return text("code"), text("detail"), text("hint")
}

// TestPlainRefuses: what is not served, and what it says then. Nothing in it tells which
// stage it is.
func TestPlainRefuses(t *testing.T) {
	testkit.Leak(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	api, keys := newMarket(t)
	s := openMarket(t, api.URL, map[string]string{
		"policies/all.cedar": "@id(\"all\")\npermit (principal, action, resource);\n@id(\"few\")\nforbid (principal, action, resource) when { context has args && context.args has body && context.args.body has count && context.args.body.count > 10 };\n",
	})
	sandbox, production := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{}), s.runOf(t, sallyport.Production, sallyport.Envelope{})
	bearer := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }
	for name, c := range map[string]struct {
		method, path, media, body string
		status                    int
		code, says                string
	}{
		"no name":         {"GET", "/worlds/", "", "", 404, "not_found", "there is"},
		"another name":    {"GET", "/worlds/markt/orders", "", "", 404, "not_found", "did you mean \"market\"?"},
		"another path":    {"GET", "/worlds/market/oders", "", "", 404, "not_found", "did you mean GET /orders?"},
		"up":              {"GET", "/worlds/market/../../v1/openapi.json", "", "", 404, "not_found", ""},
		"two slashes":     {"GET", "/worlds/market//orders", "", "", 404, "not_found", ""},
		"another method":  {"PATCH", "/worlds/market/orders/1", "", "", 405, "bad_request", "use DELETE, GET, HEAD, OPTIONS"},
		"trace":           {"TRACE", "/worlds/market/orders/1", "", "", 405, "bad_request", "use DELETE"},
		"another query":   {"GET", "/worlds/market/orders?dry_run=true", "", "", 400, "bad_request", "no query parameter \"dry_run\": it has status, limit"},
		"no number":       {"GET", "/worlds/market/orders/one", "", "", 422, "invalid_arguments", "/id"},
		"out of bounds":   {"GET", "/worlds/market/orders?limit=0", "", "", 422, "invalid_arguments", "/limit"},
		"no body":         {"POST", "/worlds/market/orders", jsonMedia, "", 422, "invalid_arguments", "body"},
		"not json":        {"POST", "/worlds/market/orders", jsonMedia, "{", 400, "bad_request", "not JSON"},
		"twice":           {"POST", "/worlds/market/orders", jsonMedia, `{"item":"a","item":"b"}`, 400, "bad_request", "name twice"},
		"another media":   {"POST", "/worlds/market/orders", formMedia, "item=a", 415, "bad_request", "application/json"},
		"against policy":  {"POST", "/worlds/market/orders", jsonMedia, `{"item":"a","count":11}`, 403, "denied", ""},
		"a body of a GET": {"GET", "/worlds/market/orders", jsonMedia, "{}", 400, "bad_request", "no body"},
	} {
		in, _ := askWith(t, s.URL, bearer(sandbox), c.method, c.path, c.media, c.body)
		out, header := askWith(t, s.URL, bearer(production), c.method, c.path, c.media, c.body)
		code, detail, hint := problem(t, in)
		if in.Status != c.status || code != c.code || !strings.Contains(detail+" "+hint, c.says) {
			t.Errorf("%s: %+v", name, in)
		}
		if diff := gocmp.Diff(in, out); diff != "" {
			t.Errorf("%s differs between sandbox and production: %s", name, diff)
		}
		if (c.status == 405) != (header.Get("Allow") != "") {
			t.Errorf("%s: Allow is %q", name, header.Get("Allow"))
		}
	}
	if got, header := askWith(t, s.URL, bearer(sandbox), "OPTIONS", "/worlds/market/orders", "", ""); got.Status != 204 || header.Get("Allow") != "GET, POST, HEAD, OPTIONS" {
		t.Errorf("OPTIONS: %+v, %v", got, header)
	}
	large := strings.Repeat("x", 5<<20)
	// Expect has the client wait with the body until it is wanted.
	if got, _ := askWith(t, s.URL, map[string]string{"Authorization": "Bearer " + sandbox, "Expect": "100-continue"}, "POST", "/worlds/market/orders", jsonMedia, large); got.Status != 413 {
		t.Errorf("a large body: %+v", got)
	}
	// A world does not say that it is one.
	over := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{MaxCalls: 1})
	ask(t, s.URL, over, "GET", "/worlds/market/orders", "", "")
	if code, _, _ := problem(t, ask(t, s.URL, over, "GET", "/worlds/market/orders", "", "")); code != "over_budget" {
		t.Errorf("a run without calls left: %s", code)
	}
	only := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{Tools: []string{"getOrder"}})
	if got := ask(t, s.URL, only, "GET", "/worlds/market/orders", "", ""); got.Status != 404 {
		t.Errorf("a tool that the run does not have: %+v", got)
	}
	if got := ask(t, s.URL, only, "GET", "/worlds/shop/v1/orders/1", "", ""); got.Status != 200 {
		t.Errorf("by the upstream's own name: %+v", got)
	}
	if n := len(keys()); n > 0 {
		t.Errorf("%d requests reached the API", n)
	}
}

// TestPlainCredentials: the credential goes where the document says that the API's own
// goes, or is a bearer's; in one place, and on to nobody.
func TestPlainCredentials(t *testing.T) {
	testkit.Leak(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	api, keys := newMarket(t)
	s := openMarket(t, api.URL, nil)
	token := s.runOf(t, sallyport.Production, sallyport.Envelope{})
	basic := func(user, password string) map[string]string {
		r, err := http.NewRequest("GET", "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, password)
		return map[string]string{"Authorization": r.Header.Get("Authorization")}
	}
	for name, c := range map[string]struct {
		fields map[string]string
		query  string
		status int
	}{
		"bearer":             {map[string]string{"Authorization": "bearer " + token}, "", 200},
		"api key":            {map[string]string{"X-Api-Key": token}, "", 200},
		"user":               {basic(token, ""), "", 200},
		"password":           {basic("me", token), "", 200},
		"user and password":  {basic(token, token), "", 401},
		"nothing":            {nil, "", 401},
		"another header":     {map[string]string{"X-Other-Key": token}, "", 401},
		"raw":                {map[string]string{"Authorization": token}, "", 401},
		"cookie":             {map[string]string{"Cookie": "key=" + token}, "", 401},
		"query":              {nil, "?status=" + token, 401},
		"twice":              {map[string]string{"Authorization": "Bearer " + token, "X-Api-Key": token}, "", 401},
		"two":                {map[string]string{"Authorization": "Bearer " + token, "X-Api-Key": "sp_run_" + strings.Repeat("A", 43)}, "", 401},
		"one and a word":     {map[string]string{"Authorization": "Bearer " + token, "X-Api-Key": "sp_word"}, "?status=sp_word", 200},
		"one that is none":   {map[string]string{"Authorization": "Bearer sp_run_" + strings.Repeat("A", 43)}, "", 401},
		"a key of the API":   {map[string]string{"Authorization": "Bearer the-key"}, "", 401},
		"as an argument too": {map[string]string{"Authorization": "Bearer " + token}, "?status=x" + token, 400},
	} {
		before := len(keys())
		got, header := askWith(t, s.URL, c.fields, "GET", "/worlds/market/orders"+c.query, "", "")
		if got.Status != c.status || (c.status == 401) != (header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %+v, %v", name, got, header)
		}
		if (len(keys()) > before) != (c.status == 200) {
			t.Errorf("%s: the API was asked %d times", name, len(keys())-before)
		}
	}
	for _, key := range keys() {
		if key != "Bearer the-key" {
			t.Errorf("the API was sent %q", key)
		}
	}
	// From elsewhere than an allowed origin nothing is served, whoever asks.
	if got, _ := askWith(t, s.URL, map[string]string{"Authorization": "Bearer " + token, "Origin": "https://elsewhere.example"}, "GET", "/worlds/market/orders", "", ""); got.Status != 403 {
		t.Errorf("another origin: %+v", got)
	}
	made, err := s.Control.MakeAgentKey(t.Context(), s.person, "worker", "", sallyport.Production, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, s.URL, made.Secret, "GET", "/worlds/market/orders/2", "", ""); got.Status != 200 {
		t.Errorf("an agent key: %+v", got)
	}
	if _, err := s.Control.Halt(t.Context(), s.person, sallyport.HaltTool, "shop/getOrder", "test"); err != nil {
		t.Fatal(err)
	}
	if code, _, _ := problem(t, ask(t, s.URL, made.Secret, "GET", "/worlds/market/orders/2", "", "")); code != "halted" {
		t.Errorf("a halted tool: %s", code)
	}
}

// TestPlainAndMCPAreOneWorld: a run that calls by both sees one state, and what fails
// fails alike.
func TestPlainAndMCPAreOneWorld(t *testing.T) {
	testkit.Leak(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	api, _ := newMarket(t)
	s := openMarket(t, api.URL, nil)
	token := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{})
	made := ask(t, s.URL+"/worlds/market", token, "POST", "/orders", jsonMedia, `{"item":"chair"}`)
	id := made.Body.(map[string]any)["id"]
	for _, c := range []struct{ tool, args, want string }{
		{"getOrder", fmt.Sprintf(`{"id":%v}`, id), `"structuredContent":{"id":3,"item":"chair","count":1,"status":"open"}`},
		{"getOrder", `{"id":99}`, `"content":[{"type":"text","text":"HTTP 404 Not Found"},{"type":"text","text":"{\"error\":\"no such order\"}"}],"isError":true`},
		{"createOrder", `{"body":{"item":"x","count":100}}`, `"content":[{"type":"text","text":"HTTP 422 Unprocessable Entity"},{"type":"text","text":"{\"error\":\"too many\"}"}],"isError":true`},
		{"listOrders", `{"status":["sent"]}`, `"structuredContent":{"result":[{"id":2,"item":"desk","count":2,"status":"sent"}]}`},
		{"deleteOrder", `{"id":2}`, `"content":[{"type":"text","text":"HTTP 204 No Content"}]`},
	} {
		m, err := call(s.URL, token, c.tool, c.args)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(m.Raw), c.want) {
			t.Errorf("%s %s: %s", c.tool, c.args, m.Raw)
		}
	}
	if got := ask(t, s.URL+"/worlds/market", token, "GET", "/orders/2", "", ""); got.Status != 404 {
		t.Errorf("what MCP deleted is there: %+v", got)
	}
	before := s.Store.Size()
	if got := ask(t, s.URL+"/worlds/market", token, "HEAD", "/orders/1", "", ""); got.Status != 200 || got.Body != nil || s.Store.Size() == before {
		t.Errorf("HEAD of what can be had: %+v", got)
	}
}

// TestPlainFaults: what goes wrong in a world goes wrong as it does over HTTP, and the
// same as at the API itself.
func TestPlainFaults(t *testing.T) {
	testkit.Leak(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(429)
	}))
	t.Cleanup(api.Close)
	s := openMarket(t, api.URL, map[string]string{"worlds/market.yaml": marketWorld + `faults:
  rules:
    - {at: [1, 2], fault: too_many_requests, retry_after: 3s}
    - {at: [3], fault: server_error}
    - {at: [4], fault: timeout}
    - {at: [5], fault: truncated_result, keep: 0.5}
    - {at: [6], fault: oversized_result}
    - {at: [7], fault: rpc_error}
    - {at: [8], fault: permission_denied, message: "not yours"}
`})
	token := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{})
	live := s.runOf(t, sallyport.Production, sallyport.Envelope{})
	get := func(token string) (heard, http.Header) {
		return askWith(t, s.URL, map[string]string{"Authorization": "Bearer " + token}, "GET", "/worlds/market/orders/1", "", "")
	}
	sim, header := get(token)
	real, liveHeader := get(live)
	if diff := gocmp.Diff(real, sim); diff != "" || sim.Status != 429 || header.Get("Retry-After") != "3" || liveHeader.Get("Retry-After") != "3" {
		t.Errorf("429: %s, %v, %v", diff, header, liveHeader)
	}
	a, err := call(s.URL, token, "getOrder", `{"id":1}`)
	if err != nil {
		t.Fatal(err)
	}
	b, err := call(s.URL, live, "getOrder", `{"id":1}`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(result(t, b), result(t, a)); diff != "" || !strings.Contains(string(a.Raw), `HTTP 429 Too Many Requests\nRetry-After: 3`) {
		t.Errorf("429 by MCP: %s: %s", diff, a.Raw)
	}
	for _, want := range []struct {
		status int
		code   string
	}{{503, ""}, {504, "deadline_exceeded"}, {200, ""}, {502, "result_too_large"}, {502, "upstream_protocol"}, {403, ""}, {200, ""}} {
		got, _ := get(token)
		if got.Status != want.status {
			t.Errorf("%+v, want %d", got, want.status)
		}
		if want.code != "" {
			if code, _, _ := problem(t, got); code != want.code {
				t.Errorf("%+v, want %s", got, want.code)
			}
		}
	}
}

func result(t testing.TB, m *wire.Message) string {
	t.Helper()
	return string(m.Result.Of(m.Raw))
}

// TestPlainWithCurl: nothing but curl.
func TestPlainWithCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is needed: ", err)
	}
	api, _ := newMarket(t)
	s := openMarket(t, api.URL, nil)
	token := s.runOf(t, sallyport.Sandbox, sallyport.Envelope{})
	run := func(args ...string) string {
		out, err := exec.Command(curl, append([]string{"-sS", "-w", "|%{http_code}|%{content_type}", "-u", token + ":"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(bytes.TrimSpace(out))
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{s.URL + "/worlds/market/v1/orders/2"}, `{"id":2,"item":"desk","count":2,"status":"sent"}|200|application/json`},
		{[]string{"--json", `{"item":"chair"}`, s.URL + "/worlds/market/v1/orders"}, `{"id":3,"item":"chair","count":1,"status":"open"}|201|application/json`},
		{[]string{"-X", "PUT", "-d", "text=hi+there", s.URL + "/worlds/market/v1/orders/3/note"}, `{"id":3,"item":"chair","count":1,"status":"open","note":"hi there"}|200|application/json`},
		{[]string{"-G", "-d", "status=lost", s.URL + "/worlds/market/v1/orders"}, `[]|200|application/json`},
		{[]string{"-X", "DELETE", s.URL + "/worlds/market/v1/orders/3"}, `|204|`},
		{[]string{s.URL + "/worlds/market/v1/orders/3"}, `{"error":"no such order"}|404|application/json`},
	} {
		if got := run(c.args...); got != c.want {
			t.Errorf("curl %q: %s, want %s", c.args, got, c.want)
		}
	}
}

// BenchmarkPlain makes one call by plain HTTP and the same by MCP in turns, each on its
// own connection, and reports how much longer the first takes.
func BenchmarkPlain(b *testing.B) {
	api, _ := newMarket(b)
	s := openMarket(b, api.URL, nil)
	token := s.runOf(b, sallyport.Sandbox, sallyport.Envelope{})
	do := func(r *http.Request, err error, want string) time.Duration {
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if took := time.Since(began); err == nil && strings.Contains(string(text), want) {
			return took
		}
		b.Fatalf("%s: %s, %v", resp.Status, text, err)
		return 0
	}
	var plain, mcp time.Duration
	for b.Loop() {
		r, err := http.NewRequest("GET", s.URL+"/worlds/market/v1/orders/2", nil)
		if err == nil {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		plain += do(r, err, `"desk"`)
		r, err = callRequest(s.URL, token, "getOrder", `{"id":2}`)
		mcp += do(r, err, `desk`)
	}
	b.ReportMetric(float64(plain.Nanoseconds())/float64(b.N), "plain-ns/op")
	b.ReportMetric(float64(plain)/float64(mcp), "plain/mcp")
	b.ReportMetric(0, "ns/op")
}
