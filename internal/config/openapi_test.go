package config

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport"
)

const thingsDocument = `openapi: 3.0.3
info: {title: Things, version: "1"}
paths:
  /things:
    get: {operationId: get, parameters: [{name: X-Key, in: header, schema: {type: string}}]}
    post: {operationId: make}
    put: {operationId: odd, requestBody: {content: {application/json: {schema: {type: string, pattern: "(?<=a)b"}}}}}
`

// apiProject is a project with one HTTP API, pinned as its document is.
func apiProject(t testing.TB, upstream, document string) map[string]string {
	t.Helper()
	files := map[string]string{
		"sallyport.yaml":        "listen: 127.0.0.1:8484\n",
		"openapi/things.yaml":   document,
		"upstreams/things.yaml": upstream,
	}
	u, problems := LoadUpstream(project(files), "things")
	if len(problems) > 0 || u.API == nil {
		return files // said by Load, too
	}
	pins := Pins{Server: u.API.Server, Tools: u.API.Tools}
	files["upstreams/things.pins.json"] = string(pins.Marshal())
	return files
}

const thingsUpstream = `upstream: things
openapi: openapi/things.yaml
stages:
  sandbox: {binding: simulate}
  staging:
    url: https://staging.example.com/v1
    headers: {X-Key: env:SALLYPORT_STAGING}
    oauth:
      url: https://login.staging.example.com/token
      client: gateway
      secret: env:SALLYPORT_STAGING_CLIENT
    binding: live
  production:
    url: https://api.example.com/v1
    oauth:
      url: https://login.example.com/token
      grant: token_exchange
      client: gateway
      secret: env:SALLYPORT_CLIENT
      auth: post
      scope: things.read things.write
      subject: file:secrets/subject
    binding: live
tools:
  get: {access: read}
  make: {access: read}
`

func TestOpenAPIUpstream(t *testing.T) {
	files := apiProject(t, thingsUpstream, thingsDocument)
	p, problems := Load(project(files))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	u := p.Stages[sallyport.Production].Upstreams["things"]
	if u.Transport.OpenAPI.None() || u.Transport.Era != "" || u.Transport.OAuth.Grant != "token_exchange" || u.Transport.OAuth.Auth != "post" {
		t.Errorf("%+v", u.Transport)
	}
	if s := p.Stages[sallyport.Sandbox].Upstreams["things"]; !s.Transport.None() || s.Transport.OpenAPI.None() {
		t.Errorf("the sandbox reaches %+v", s.Transport)
	}
	refs := slices.Sorted(slices.Values(u.Transport.Secrets()))
	if !slices.Contains(refs, "env:SALLYPORT_CLIENT") || !slices.Contains(refs, "file:secrets/subject") {
		t.Errorf("the secrets of the transport are %q", refs)
	}
	// One that cannot be compiled is no tool.
	if strings.Contains(string(u.Transport.OpenAPI.Plan)+files["upstreams/things.pins.json"], `"odd"`) {
		t.Error("an operation is served whose schema cannot be compiled")
	}
	// A header that a stage configures is no argument in any.
	if strings.Contains(files["upstreams/things.pins.json"], "X-Key") {
		t.Error("a configured header is an argument")
	}
	all, problems := LoadUpstream(project(files), "things")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, tool := range all.Tools {
		if want := map[string]sallyport.Access{"get": sallyport.Read}[tool.Name]; tool.Access != want && (want != 0 || tool.Access != sallyport.Changing) {
			t.Errorf("%s is %s", tool.Name, tool.Access)
		}
	}

	// Every byte of the document counts.
	files["openapi/things.yaml"] += "# more\n"
	other, problems := Load(project(files))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if o := other.Stages[sallyport.Production].Upstreams["things"]; o.Identity == u.Identity {
		t.Error("another document has the same identity")
	}
	changes := Diff(p.Versions(), other.Versions())
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.What == "openapi" && c.Direction == Loosens }) {
		t.Errorf("diff does not see the document: %v", changes)
	}
	files["openapi/things.yaml"] = thingsDocument
	files["upstreams/things.yaml"] = strings.Replace(thingsUpstream, "scope: things.read things.write", "scope: things.admin", 1)
	other, problems = Load(project(files))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	changes = Diff(p.Versions(), other.Versions())
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.What == "oauth" && c.Direction == Loosens }) {
		t.Errorf("diff does not see the scope: %v", changes)
	}
}

// TestOpenAPIProblems are one change each of a project that is sound.
func TestOpenAPIProblems(t *testing.T) {
	edit := func(old, with string) func(map[string]string) {
		return func(files map[string]string) {
			if !strings.Contains(files["upstreams/things.yaml"], old) {
				t.Fatalf("no %q to replace", old)
			}
			files["upstreams/things.yaml"] = strings.Replace(files["upstreams/things.yaml"], old, with, 1)
		}
	}
	document := func(text string) func(map[string]string) {
		return func(files map[string]string) { files["openapi/things.yaml"] = text }
	}
	for name, c := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"no file":     {func(f map[string]string) { delete(f, "openapi/things.yaml") }, "there is no file"},
		"outside":     {edit("openapi: openapi/things.yaml", "openapi: ../things.yaml"), "cannot be the path"},
		"absolute":    {edit("openapi: openapi/things.yaml", "openapi: /etc/passwd"), "cannot be the path"},
		"upstreams":   {edit("openapi: openapi/things.yaml", "openapi: upstreams/things.yaml"), "cannot be the path"},
		"no document": {document("a: b"), "no OpenAPI document"},
		"broken":      {document("openapi: 3.0.0\ninfo: {title: T}\npaths: [\n"), "not YAML"},
		"nothing":     {document("openapi: 3.0.0\ninfo: {title: T}\n"), "no operation that can be served"},
		"other tools": {document(strings.Replace(thingsDocument, "operationId: get", "operationId: fetch", 1)), "describes other tools"},
		"other name":  {document(strings.Replace(thingsDocument, "title: Things", "title: Other", 1)), "describes other tools"},
		"era":         {edit("url: https://api.example.com/v1\n", "url: https://api.example.com/v1\n    era: \"2025-11-25\"\n"), "speaks no version of MCP"},
		"command":     {edit("url: https://api.example.com/v1\n", "command: [server]\n"), "is reached by a url"},
		"query":       {edit("url: https://api.example.com/v1\n", "url: https://api.example.com/v1?a=b\n"), "so it has no query"},
		"both":        {edit("    oauth:\n      url: https://login.example.com", "    credential: env:SALLYPORT_X\n    oauth:\n      url: https://login.example.com"), "not both"},
		"below":       {edit("https://api.example.com/v1", "https://staging.example.com/v1/live"), "is below the other"},
		"above":       {edit("https://api.example.com/v1", "https://staging.example.com"), "is below the other"},
		"same":        {edit("https://api.example.com/v1", "https://staging.example.com/v1/"), "endpoint of things in staging"},
		"same issuer": {edit("https://login.example.com/token", "https://login.staging.example.com/token"), "endpoint of things in staging"},
		"issuer":      {edit("https://login.example.com/token", "https://staging.example.com/v1/token"), "is below the other"},
		"plain":       {edit("https://login.example.com/token", "http://login.example.com/token"), "plain http"},
		"password":    {edit("https://login.example.com/token", "https://a:b@login.example.com/token"), "user name or password"},
		"same secret": {edit("env:SALLYPORT_CLIENT\n", "env:SALLYPORT_STAGING_CLIENT\n"), "credential of things in staging"},
		"no secret":   {edit("env:SALLYPORT_CLIENT\n", "hunter2\n"), "secret reference"},
		"no subject":  {edit("      subject: file:secrets/subject\n", ""), "needs a subject"},
		"subject":     {edit("grant: token_exchange", "grant: client_credentials"), "goes with the grant"},
		"grant":       {edit("grant: token_exchange", "grant: password"), "want one of"},
		"realm":       {edit("https://login.example.com/token", "https://login.staging.example.com/token"), "another realm or authorization server"},
		"key id":      {edit("      auth: post\n", "      key_id: k\n"), "key_id goes with auth: private_key_jwt"},
		"two":         {edit("      subject: file:secrets/subject\n", "      subject: file:secrets/subject\n      person: {key: file:secrets/p, issuer: i}\n"), "not both"},
		"two types":   {edit("      subject: file:secrets/subject\n", "      subject_type: urn:x\n      person: {key: file:secrets/p, issuer: i}\n"), "not both"},
		"no person":   {edit("      subject: file:secrets/subject\n", "      person: {key: file:secrets/p}\n"), "issuer is missing"},
		"no key":      {edit("      subject: file:secrets/subject\n", "      person: {issuer: i}\n"), "key is missing"},
		"plain key":   {edit("      subject: file:secrets/subject\n", "      person: {key: hunter2, issuer: i}\n"), "secret reference"},
		"one key":     {edit("      subject: file:secrets/subject\n", "      person: {key: env:SALLYPORT_CLIENT, issuer: i}\n"), "a key is for one thing"},
		"their key":   {edit("      subject: file:secrets/subject\n", "      person: {key: env:SALLYPORT_STAGING_CLIENT, issuer: i}\n"), "credential of things in staging"},
		"same client": {edit("      subject: file:secrets/subject\n", "      person: {key: file:secrets/p, issuer: gateway}\n"), "named by the client itself"},
		"person":      {edit("      url: https://login.staging.example.com/token\n", "      url: https://login.staging.example.com/token\n      person: {key: file:secrets/p, issuer: i}\n"), "person goes with the grant"},
		"line break":  {edit("      subject: file:secrets/subject\n", "      person: {key: file:secrets/p, issuer: \"a\\nb\"}\n"), "line break"},
		"auth":        {edit("auth: post", "auth: none"), "want one of"},
		"no client":   {edit("      grant: token_exchange\n      client: gateway\n", "      grant: token_exchange\n"), "client is missing"},
		"sandbox":     {edit("sandbox: {binding: simulate}", "sandbox: {binding: simulate, oauth: {url: 'https://x.example.com/', client: a, secret: 'env:SALLYPORT_X'}}"), "the sandbox reaches nothing"},
		"no url":      {edit("url: https://api.example.com/v1\n", "deadline: 1s\n"), "goes with a url"},
		"no binding":  {edit("    binding: live\n  production", "    binding: shadow\n  production"), "binding"},
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(apiProject(t, thingsUpstream, thingsDocument))
			c.change(files)
			p, problems := Load(project(files))
			if p != nil || !strings.Contains(problems.Error(), c.want) {
				t.Errorf("got %v, want something about %q", problems, c.want)
			}
			if strings.Contains(problems.Error(), "hunter2") {
				t.Error("a message holds a secret")
			}
		})
	}
}

// TestOpenAPILeftOut: what cannot be served is said.
func TestOpenAPILeftOut(t *testing.T) {
	document := thingsDocument + "  /other:\n    servers: [{url: https://elsewhere.example.com}]\n    get: {operationId: away}\n"
	p, problems := Load(project(apiProject(t, thingsUpstream, document)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var notes []string
	for _, n := range p.Notes {
		notes = append(notes, n.String())
	}
	if text := strings.Join(notes, "\n"); !strings.Contains(text, "GET /other is left out") || !strings.Contains(text, "PUT /things is left out: its inputSchema") || !strings.Contains(text, "openapi/things.yaml") {
		t.Errorf("notes:\n%s", text)
	}
	var plan struct{ Operations []struct{ Tool string } }
	u := p.Stages[sallyport.Production].Upstreams["things"]
	if err := json.Unmarshal(u.Transport.OpenAPI.Plan, &plan); err != nil {
		t.Fatal(err)
	}
	for _, o := range plan.Operations {
		if o.Tool == "away" {
			t.Error("it is in the plan")
		}
	}
}

// TestPersonOfAnUpstream: who is named, and by which key, is part of what calls go
// to, and its key a secret of the stage.
func TestPersonOfAnUpstream(t *testing.T) {
	text := strings.Replace(thingsUpstream, "      auth: post\n", "      auth: private_key_jwt\n      key_id: k-1\n      issuer: https://login.example.com\n", 1)
	text = strings.Replace(text, "subject: file:secrets/subject", "person: {key: file:secrets//person, issuer: https://sallyport.example.com/production}", 1)
	files := apiProject(t, text, thingsDocument)
	p, problems := Load(project(files))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	u := p.Stages[sallyport.Production].Upstreams["things"]
	want := sallyport.OAuth{
		URL: "https://login.example.com/token", Grant: "token_exchange", Client: "gateway", Secret: "env:SALLYPORT_CLIENT", Auth: "private_key_jwt", KeyID: "k-1",
		Issuer: "https://login.example.com", Scope: "things.read things.write",
		Person: sallyport.OAuthPerson{Key: "file:secrets/person", Issuer: "https://sallyport.example.com/production"},
	}
	if u.Transport.OAuth != want {
		t.Errorf("got  %+v\nwant %+v", u.Transport.OAuth, want)
	}
	if !slices.Contains(u.Transport.Secrets(), "file:secrets/person") {
		t.Errorf("the secrets of the transport are %q", u.Transport.Secrets())
	}
	files["upstreams/things.yaml"] = strings.Replace(text, "example.com/production}", "example.com/other}", 1)
	other, problems := Load(project(files))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	changes := Diff(p.Versions(), other.Versions())
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.What == "oauth" && c.Direction == Loosens }) {
		t.Errorf("diff does not see who names persons: %v", changes)
	}
}

// TestSharedTokenEndpoints: a token endpoint may be no stage's own if every stage
// that has it says so, nothing else stands there, and all that is a stage's own at
// it differs.
func TestSharedTokenEndpoints(t *testing.T) {
	base := template(t, "minimal")
	const there = "https://login.example.com/token"
	rapid.Check(t, func(t *rapid.T) {
		files := maps.Clone(base)
		type use struct {
			stage                        sallyport.Stage
			shared                       bool
			client, secret, audience, at string
		}
		var uses []use
		mostly := func(what, usual string, others ...string) string {
			if rapid.IntRange(0, 3).Draw(t, "usual "+what) > 0 {
				return usual
			}
			return rapid.SampledFrom(others).Draw(t, what)
		}
		endpoints := map[sallyport.Stage]bool{} // stages that have an upstream at the token endpoint
		for _, name := range []string{"x", "y"} {
			text := "upstream: " + name + "\npins: weather.pins.json\nstages:\n"
			for _, stage := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
				if rapid.IntRange(0, 5).Draw(t, "an upstream stands there") == 0 {
					text += "  " + stage.String() + ":\n    binding: off\n    url: " + there + "\n"
					endpoints[stage] = true
					continue
				}
				u := use{
					stage: stage, shared: rapid.IntRange(0, 6).Draw(t, "shared") > 0,
					client: mostly("client", stage.String(), "a", "b"), secret: mostly("secret", "SALLYPORT_"+strings.ToUpper(stage.String()), "SALLYPORT_A"),
					audience: mostly("audience", "", "crm", stage.String()),
					at:       rapid.SampledFrom([]string{there, "https://LOGIN.example.com:443/./token/?a"}).Draw(t, "spelled"),
				}
				uses = append(uses, u)
				text += "  " + stage.String() + ":\n    binding: off\n    url: https://" + name + "." + stage.String() + ".example.com/mcp\n" +
					"    oauth: {url: \"" + u.at + "\", client: " + u.client + ", secret: env:" + u.secret
				if u.shared {
					text += ", shared: true"
				}
				if u.audience != "" {
					text += ", audience: " + u.audience
				}
				text += "}\n"
			}
			files["upstreams/"+name+".yaml"] = text
		}
		wrong := len(endpoints) == 2
		for _, a := range uses {
			for stage := range endpoints {
				wrong = wrong || a.stage != stage
			}
			for _, b := range uses {
				if a.stage == b.stage {
					continue
				}
				wrong = wrong || !a.shared || !b.shared || a.client == b.client || a.secret == b.secret || a.audience != "" && a.audience == b.audience
			}
		}
		_, problems := Load(project(files))
		if (len(problems) > 0) != wrong {
			t.Fatalf("wrong: %v, problems: %v\n%s%s", wrong, problems, files["upstreams/x.yaml"], files["upstreams/y.yaml"])
		}
		for _, p := range problems {
			if !strings.Contains(p.Message, "exactly one stage") {
				t.Fatal(p)
			}
		}
	})
}
