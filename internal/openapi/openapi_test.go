package openapi_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/openapi"
	"sallyport/internal/schema"
)

// read reads a document and holds what must be true of any.
func read(t testing.TB, text string) *openapi.API {
	t.Helper()
	api, err := openapi.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	sound(t, api)
	return api
}

// sound: definitions are tools with schemas that can be read, and the plan can be
// read back.
func sound(t testing.TB, api *openapi.API) {
	t.Helper()
	for _, o := range api.Operations {
		var def struct {
			Name         string
			InputSchema  json.RawMessage
			OutputSchema json.RawMessage
			Annotations  struct{ ReadOnlyHint *bool }
		}
		if err := json.Unmarshal(o.Definition, &def); err != nil {
			t.Fatalf("%s: %v", o.Definition, err)
		}
		if def.Name != o.Tool || len(def.Name) > 64 || (o.Output == openapi.OutputNone) != (def.OutputSchema == nil) {
			t.Errorf("%s %s: %s", o.Method, o.Path, o.Definition)
		}
		if read := o.Method == "GET" || o.Method == "HEAD"; def.Annotations.ReadOnlyHint == nil || *def.Annotations.ReadOnlyHint != read {
			t.Errorf("%s %s has the hints %+v", o.Method, o.Path, def.Annotations)
		}
	}
	plan, err := openapi.ParsePlan(api.Plan())
	if err != nil {
		t.Fatalf("%s: %v", api.Plan(), err)
	}
	want := slices.Clone(api.Operations)
	for i := range want {
		want[i].Definition = nil
	}
	if len(want) > 0 {
		if diff := cmp.Diff(want, plan.Operations); diff != "" {
			t.Error(diff)
		}
	}
}

// document is one of a single operation: parameters, body and responses are YAML
// in one line.
func document(version, path, method, parameters, body, responses string) string {
	text := fmt.Sprintf("openapi: %s\ninfo: {title: T, version: '1'}\npaths:\n  %s:\n    %s:\n      operationId: op\n      parameters: %s\n", version, path, method, parameters)
	if body != "" {
		text += "      requestBody: " + body + "\n"
	}
	if responses != "" {
		text += "      responses: " + responses + "\n"
	}
	return text
}

func operation(t testing.TB, text string) *openapi.Operation {
	t.Helper()
	api := read(t, text)
	if len(api.Operations) != 1 {
		t.Fatalf("%d operations, left out: %v", len(api.Operations), api.LeftOut)
	}
	return &api.Operations[0]
}

// TestParameters are the examples of OpenAPI 3.1.1, section 4.8.12.6, and what
// has no form.
func TestParameters(t *testing.T) {
	const (
		list   = `["blue","black","brown"]`
		record = `{"R":100,"G":200,"B":150}`
	)
	for _, c := range []struct{ in, style, explode, value, want string }{
		{"path", "simple", "false", `"blue"`, "/x/blue"},
		{"path", "simple", "false", list, "/x/blue,black,brown"},
		{"path", "simple", "false", record, "/x/R,100,G,200,B,150"},
		{"path", "simple", "true", record, "/x/R=100,G=200,B=150"},
		{"path", "label", "false", `"blue"`, "/x/.blue"},
		{"path", "label", "false", list, "/x/.blue,black,brown"},
		{"path", "label", "true", list, "/x/.blue.black.brown"},
		{"path", "label", "true", record, "/x/.R=100.G=200.B=150"},
		{"path", "matrix", "false", `"blue"`, "/x/;color=blue"},
		{"path", "matrix", "false", list, "/x/;color=blue,black,brown"},
		{"path", "matrix", "true", list, "/x/;color=blue;color=black;color=brown"},
		{"path", "matrix", "true", record, "/x/;R=100;G=200;B=150"},
		{"query", "form", "true", `"blue"`, "/x?color=blue"},
		{"query", "form", "true", `""`, "/x?color="},
		{"query", "form", "true", list, "/x?color=blue&color=black&color=brown"},
		{"query", "form", "false", list, "/x?color=blue,black,brown"},
		{"query", "form", "false", `[]`, "/x"},
		{"query", "form", "true", `[]`, "/x"},
		{"query", "form", "false", record, "/x?color=R,100,G,200,B,150"},
		{"query", "form", "true", record, "/x?R=100&G=200&B=150"},
		{"query", "spaceDelimited", "false", list, "/x?color=blue%20black%20brown"},
		{"query", "pipeDelimited", "false", list, "/x?color=blue%7Cblack%7Cbrown"},
		{"query", "deepObject", "true", record, "/x?color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150"},
		{"query", "form", "true", `12345678901234567890.10`, "/x?color=12345678901234567890.10"},
		{"query", "form", "true", `"a&b=c#d+e ü"`, "/x?color=a%26b%3Dc%23d%2Be%20%C3%BC"},
		{"query", "form", "true", `null`, "/x"},
		{"query", "form", "true", `[null]`, "null has no form"},
		{"query", "form", "true", `[["a"]]`, "no form within another"},
		{"query", "deepObject", "true", `{"a":{"b":1},"c":[true,{"d e":"&"}]}`, "/x?color%5Ba%5D%5Bb%5D=1&color%5Bc%5D%5B0%5D=true&color%5Bc%5D%5B1%5D%5Bd%20e%5D=%26"},
		{"query", "deepObject", "true", `["a","b"]`, "/x?color%5B0%5D=a&color%5B1%5D=b"},
		{"query", "deepObject", "true", `{"a":null}`, "null has no form"},
		{"query", "deepObject", "true", `"blue"`, "has to be an object"},
		{"path", "simple", "false", `""`, "nothing cannot be part"},
		{"path", "simple", "false", `null`, "is missing"},
		{"path", "simple", "false", `".."`, "lead out of the path"},
		{"path", "simple", "false", `"."`, "lead out of the path"},
		{"path", "label", "false", `"."`, "lead out of the path"},
		{"path", "label", "true", `["",""]`, "lead out of the path"},
		{"path", "simple", "false", `"..;a"`, "lead out of the path"},
		{"path", "simple", "false", `"a/b"`, "slash"},
		{"path", "simple", "false", `["a","../b"]`, "slash"},
		{"path", "simple", "false", `"a\\b"`, "slash"},
		{"path", "simple", "false", `"%2e%2E"`, "decoded twice"},
		{"path", "simple", "false", `"a%2Fb"`, "decoded twice"},
		{"path", "simple", "false", `"50%"`, "/x/50%25"},
		{"path", "simple", "false", `"a\u0000b"`, "control character"},
		{"path", "simple", "false", `"a?b#c"`, "/x/a%3Fb%23c"},
		{"path", "simple", "false", `"..."`, "/x/..."},
	} {
		path := map[string]string{"path": "/x/{color}", "query": "/x"}[c.in]
		o := operation(t, document("3.1.0", path, "get", fmt.Sprintf("[{name: color, in: %s, required: %t, style: %s, explode: %s, schema: {}}]", c.in, c.in == "path", c.style, c.explode), "", ""))
		r, err := o.Request([]byte(`{"color":` + c.value + `}`))
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v", c, err)
			}
		} else if r.Target != c.want || r.Body != nil {
			t.Errorf("%+v: got %s", c, r.Target)
		}
	}
}

func TestHeadersAndCookies(t *testing.T) {
	o := operation(t, document("3.0.0", "/x", "get", `[{name: X-A, in: header, schema: {}}, {name: b, in: cookie, schema: {}}, {name: c, in: cookie, schema: {}},
        {name: j, in: query, content: {application/json: {schema: {}}}}, {name: r, in: query, allowReserved: true, schema: {}},
        {name: Authorization, in: header, schema: {}}, {name: Host, in: header, schema: {}}, {name: X-HTTP-Method-Override, in: header, schema: {}}]`, "", ""))
	for args, want := range map[string]string{
		`{"X-A":"v 1","b":"x; c=y","c":[1,2]}`: `/x X-A=v 1 Cookie=b=x%3B%20c%3Dy; c=1; c=2`,
		`{"j":{"a" : 1.0}}`:                    `/x?j=%7B%22a%22%20%3A%201.0%7D`,
		`{"r":"a/b?c&d#e[f]+g=h"}`:             `/x?r=a/b?c%26d%23e%5Bf%5D%2Bg%3Dh`,
		`{"X-A":["a","b"]}`:                    `/x X-A=a,b`,
		`{"X-A":"a\r\nB: c"}`:                  "visible ASCII",
		`{"X-A":" a"}`:                         "visible ASCII",
		`{"X-A":""}`:                           "visible ASCII",
		`{"X-A":"ü"}`:                          "visible ASCII",
		`{"Authorization":"Bearer x"}`:         "no place for",
		`{"Host":"elsewhere"}`:                 "no place for",
		`{"X-HTTP-Method-Override":"DELETE"}`:  "no place for",
		`{"b":"x","b":"y"}`:                    "cannot be read",
		`[]`:                                   "cannot be read",
	} {
		r, err := o.Request([]byte(args))
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", args, err)
			}
			continue
		}
		got := r.Target
		for _, f := range r.Header {
			got += " " + f.Name + "=" + f.Value
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", args, got, want)
		}
	}
}

func TestBodies(t *testing.T) {
	for _, c := range []struct{ content, args, media, want string }{
		{`{application/json: {schema: {}}}`, `{"body": { "a":1.0 , "b":12345678901234567890} }`, "application/json", `{ "a":1.0 , "b":12345678901234567890}`},
		{`{application/json: {schema: {}}}`, `{"body":null}`, "application/json", `null`},
		{`{application/json: {schema: {}}}`, `{}`, "", ""},
		{`{application/vnd.api+json: {schema: {}}, text/plain: {}}`, `{"body":[1]}`, "application/vnd.api+json", `[1]`},
		{`{text/csv: {}}`, `{"body":"a,b\n\u00fc"}`, "text/csv", "a,b\nü"},
		{`{application/octet-stream: {}}`, `{"body":"AP8="}`, "application/octet-stream", "\x00\xff"},
		{`{application/octet-stream: {}}`, `{"body":"AP8"}`, "", "not base64"},
		{`{image/png: {}}`, `{"body":"AP8="}`, "image/png", "\x00\xff"},
		{`{application/xml: {}, image/png: {}}`, `{"body":"<a/>"}`, "application/xml", "<a/>"},
		{`{text/plain: {}}`, `{"body":1}`, "", "has to be text"},
		{`{application/x-www-form-urlencoded: {schema: {type: object, properties: {a: {}, l: {type: array}, o: {type: object}}}}}`,
			`{"body":{"a":"x&y=z","l":[1,2],"o":{"k":1.0},"other":null}}`, "application/x-www-form-urlencoded", `a=x%26y%3Dz&l=1&l=2&o=%7B%22k%22%3A1.0%7D`},
		{`{application/x-www-form-urlencoded: {schema: {type: object, properties: {l: {type: array}}}, encoding: {l: {style: pipeDelimited}}}}`,
			`{"body":{"l":[1,2]}}`, "application/x-www-form-urlencoded", `l=1%7C2`},
		{`{application/x-www-form-urlencoded: {schema: {type: object}}}`, `{"body":[]}`, "", "has to be an object"},
	} {
		o := operation(t, document("3.0.0", "/x", "post", "[]", "{content: "+c.content+"}", ""))
		r, err := o.Request([]byte(c.args))
		if err != nil {
			if c.media != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v", c, err)
			}
		} else if r.ContentType != c.media || string(r.Body) != c.want || r.Target != "/x" {
			t.Errorf("%+v: got %s %q", c, r.ContentType, r.Body)
		}
	}
}

func TestMultipart(t *testing.T) {
	o := operation(t, document("3.0.0", "/x", "post", "[]",
		"{content: {multipart/form-data: {schema: {type: object, properties: {file: {type: string, format: binary}, note: {type: string}, meta: {type: object}, many: {type: array, items: {type: string, format: binary}}}}, encoding: {file: {contentType: image/png}}}}}", ""))
	args := []byte(`{"body":{"file":"AP8=","note":"a\r\n--b","meta":{"n" : 1.0},"many":["AA==","AQ=="],"q\"\r\nX: y":"z"}}`)
	r, err := o.Request(args)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := o.Request(args); err != nil || string(again.Body) != string(r.Body) {
		t.Error("the same arguments make different bytes")
	}
	media, params, err := mime.ParseMediaType(r.ContentType)
	if err != nil || media != "multipart/form-data" {
		t.Fatal(r.ContentType, err)
	}
	var got []string
	parts := multipart.NewReader(strings.NewReader(string(r.Body)), params["boundary"])
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s|%s|%s|%q", p.FormName(), p.FileName(), p.Header.Get("Content-Type"), content))
	}
	want := []string{`file|file|image/png|"\x00\xff"`, `note|||"a\r\n--b"`, `meta||application/json|"{\"n\" : 1.0}"`,
		`many|many|application/octet-stream|"\x00"`, `many|many|application/octet-stream|"\x01"`, `q%22%0D%0AX: y|||"z"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSchemas: what a document says in the words of its version becomes JSON
// Schema 2020-12 that means the same.
func TestSchemas(t *testing.T) {
	for _, c := range []struct{ version, schema, yes, no string }{
		{"3.0.0", `{type: string, nullable: true}`, `null`, `1`},
		{"3.0.0", `{type: string, nullable: true, enum: [a]}`, `null`, `"b"`},
		{"3.0.0", `{type: string}`, `"a"`, `null`},
		{"3.0.0", `{nullable: true, allOf: [{type: integer}]}`, `null`, `"a"`},
		{"3.0.0", `{type: integer, minimum: 3, exclusiveMinimum: true}`, `4`, `3`},
		{"3.0.0", `{type: integer, minimum: 3, exclusiveMinimum: false}`, `3`, `2`},
		{"3.0.0", `{type: integer, maximum: 12345678901234567890, exclusiveMaximum: true}`, `12345678901234567889`, `12345678901234567890`},
		{"3.0.0", `{$ref: '#/components/schemas/A', nullable: true}`, `{"a":1}`, `null`},
		{"3.0.0", `{type: object, required: [r, w], properties: {r: {readOnly: true}, w: {writeOnly: true}}}`, `{"w":1}`, `{"r":1}`},
		{"3.0.0", `{x-thing: 1, xml: {name: a}, discriminator: {propertyName: a}, type: boolean}`, `true`, `1`},
		{"3.1.0", `{type: [string, 'null'], const: null}`, `null`, `"a"`},
		{"3.1.0", `{type: integer, exclusiveMinimum: 3}`, `4`, `3`},
		{"3.1.0", `{$ref: '#/components/schemas/A', required: [b]}`, `{"a":1,"b":1}`, `{"a":1}`},
		{"3.1.0", `{$ref: '#/components/schemas/Tree'}`, `{"kids":[{"kids":[]}]}`, `{"kids":[{"kids":[1]}]}`},
		{"3.1.0", `{prefixItems: [{type: string}], items: false}`, `["a"]`, `["a","b"]`},
		{"3.1.0", `{if: {type: string}, then: {maxLength: 1}, patternProperties: {'^a': {type: integer}}}`, `"a"`, `"ab"`},
		{"3.1.0", `true`, `1`, ``},
	} {
		o := operation(t, document(c.version, "/x", "post", "[]", "{required: true, content: {application/json: {schema: "+c.schema+"}}}", "")+
			"components: {schemas: {A: {type: object, required: [a], properties: {a: {type: integer}}}, Tree: {type: object, properties: {kids: {type: array, items: {$ref: '#/components/schemas/Tree'}}}}}}\n")
		var def struct{ InputSchema json.RawMessage }
		if err := json.Unmarshal(o.Definition, &def); err != nil {
			t.Fatal(err)
		}
		s, err := schema.Compile(def.InputSchema)
		if err != nil {
			t.Errorf("%+v: %s: %v", c, def.InputSchema, err)
			continue
		}
		if err := s.Validate([]byte(`{"body":` + c.yes + `}`)); err != nil {
			t.Errorf("%+v: %s: %v", c, def.InputSchema, err)
		}
		if c.no != "" && s.Validate([]byte(`{"body":`+c.no+`}`)) == nil {
			t.Errorf("%+v: %s takes what it should not", c, def.InputSchema)
		}
	}
}

func TestOutputs(t *testing.T) {
	const components = "components: {schemas: {A: {type: object, properties: {a: {$ref: '#/components/schemas/A'}}}, B: {allOf: [{$ref: '#/components/schemas/A'}]}, L: {allOf: [{$ref: '#/components/schemas/L'}]}}}\n"
	for _, c := range []struct{ responses, output, accept, yes, no string }{
		{`{"200": {content: {application/json: {schema: {$ref: '#/components/schemas/A'}}}}}`, "body", "application/json, */*;q=0.5", `{"a":{}}`, `{"a":1}`},
		{`{"201": {content: {application/json: {schema: {$ref: '#/components/schemas/B'}}}}}`, "body", "application/json, */*;q=0.5", `{"a":{}}`, `[]`},
		{`{"2XX": {content: {application/hal+json: {schema: {type: array}}}}}`, "result", "application/hal+json, */*;q=0.5", `{"result":[]}`, `{"result":1}`},
		{`{"200": {content: {application/json: {schema: {type: object, nullable: true}}}}}`, "result", "application/json, */*;q=0.5", `{"result":null}`, `{}`},
		{`{"204": {description: none}, "404": {content: {application/json: {schema: {type: object}}}}}`, "", "*/*", "", ""},
		{`{"200": {content: {text/plain: {schema: {type: string}}}}}`, "", "*/*", "", ""},
		{`{"200": {content: {application/json: {}}}}`, "", "application/json, */*;q=0.5", "", ""},
	} {
		o := operation(t, document("3.0.0", "/x", "get", "[]", "", c.responses)+components)
		if string(o.Output) != c.output || o.Accept != c.accept {
			t.Errorf("%s: %s %s", c.responses, o.Output, o.Accept)
		}
		var def struct{ OutputSchema json.RawMessage }
		if err := json.Unmarshal(o.Definition, &def); err != nil {
			t.Fatal(err)
		}
		if c.yes == "" {
			continue
		}
		if !strings.HasPrefix(string(def.OutputSchema), `{"type":"object"`) {
			t.Errorf("%s: no client would take %s", c.responses, def.OutputSchema)
		}
		s, err := schema.Compile(def.OutputSchema)
		if err != nil {
			t.Fatalf("%s: %v", def.OutputSchema, err)
		}
		if s.Validate([]byte(c.yes)) != nil || s.Validate([]byte(c.no)) == nil {
			t.Errorf("%s: %s", c.responses, def.OutputSchema)
		}
	}
}

// TestNames of tools and arguments are such as every client takes, and no two
// things have one.
func TestNames(t *testing.T) {
	api := read(t, `{"openapi":"3.1.0","info":{"title":"T","version":"1"},
  "components":{"securitySchemes":{"k":{"type":"apiKey","in":"query","name":"key"}}},
  "paths":{"/a/{id}":{"get":{"parameters":[{"name":"id","in":"path","required":true,"schema":{}},{"name":"id","in":"query","schema":{}},
    {"name":"filter[x]","in":"query","schema":{}},{"name":"filter.x","in":"query","schema":{}},{"name":"key","in":"query","schema":{}}]},
    "post":{"operationId":"`+strings.Repeat("long", 30)+`","parameters":[{"name":"id","in":"path","required":true,"schema":{}},{"name":"body","in":"query","schema":{}}],
      "requestBody":{"content":{"application/json":{"schema":{}}}}}}}}`)
	var got []string
	for _, o := range api.Operations {
		line := o.Tool
		for _, p := range o.Params {
			line += " " + p.In + ":" + p.Arg
		}
		if o.Body != nil {
			line += " body:" + o.Body.Arg
		}
		got = append(got, line)
	}
	want := []string{"get_a_id path:path_id query:query_id query:filter_x_ query:filter.x", "longlonglonglonglonglonglonglonglonglonglonglonglonglon_e7af0d0f path:id query:query_body body:body"}
	got[1] = got[1][:56] + "e7af0d0f" + got[1][64:] // the digest is what it is
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRefused are documents that are not read, and operations that are left out.
func TestRefused(t *testing.T) {
	head := "openapi: 3.0.0\ninfo: {title: T, version: '1'}\n"
	for name, c := range map[string]struct{ text, want string }{
		"empty":      {"", "empty"},
		"not yaml":   {"a: [", "not YAML"},
		"two":        {head + "---\n{}\n", "more than one"},
		"not json":   {"{\"openapi\":}", "not JSON"},
		"json twice": {`{"openapi":"3.0.0","openapi":"3.0.0"}`, "not JSON"},
		"yaml twice": {head + "info: {}\n", "there twice"},
		"tail":       {`{} {}`, "not JSON"},
		"list":       {"- a\n", "not an object"},
		"swagger":    {"swagger: '2.0'\n", "Swagger 2.0"},
		"version":    {"openapi: 3.2.0\n", "version 3.0 or 3.1"},
		"title":      {"openapi: 3.0.0\n", "no title"},
		"alias":      {head + "x-a: &a {b: 1}\npaths: *a\n", "anchors and aliases"},
		"number":     {head + "x-a: 0x1f\n", "JSON does not know"},
		"tag":        {head + "x-a: !!binary aGk=\n", "tag"},
		"utf-8":      {head + "x-a: \xff\n", "UTF-8"},
		"dialect":    {"openapi: 3.1.0\njsonSchemaDialect: https://example.com/x\n", "dialect"},
		"deep":       {head + "x-a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "deeper"},
		"deep json":  {`{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, "deeper"},
		"large":      {strings.Repeat("#", openapi.MaxDocument+1), "larger"},
		"same names": {head + "paths: {/a: {get: {operationId: x}, post: {operationId: x}}}\n", "tool is named x"},
		"path loop":  {head + "paths: {/a: {$ref: '#/paths/~1a'}}\n", "back to itself"},
		"path away":  {head + "paths: {/a: {$ref: 'other.yaml'}}\n", "out of the document"},
	} {
		if _, err := openapi.Read([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something about %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct{ path, parameters, body, want string }{
		"param loop":    {"/a", "[{$ref: '#/components/parameters/P'}]", "", "back to itself"},
		"param away":    {"/a", "[{$ref: 'http://example.com/p.yaml#/a'}]", "", "out of the document"},
		"param nowhere": {"/a", "[{$ref: '#/components/parameters/none'}]", "", "leads to nothing"},
		"schema loop":   {"/a", "[{name: a, in: query, schema: {$ref: '#/components/schemas/S'}}]", "", "back to itself"},
		"no template":   {"/a/{b", "[]", "", "no template"},
		"no param":      {"/a/{b}", "[]", "", "nothing says what {b}"},
		"stray param":   {"/a", "[{name: b, in: path, schema: {}}]", "", "not in its path"},
		"dots":          {"/a/../b", "[]", "", "out of itself"},
		"encoded dots":  {"/a/%2e%2e/b", "[]", "", "out of itself"},
		"empty":         {"/a//b", "[]", "", "out of itself"},
		"query":         {"/a?b=c", "[]", "", "escaped"},
		"fragment":      {"'/a#b'", "[]", "", "escaped"},
		"line":          {`"/a\r\nX: y"`, "[]", "", "escaped"},
		"style":         {"/a", "[{name: a, in: query, style: simple, schema: {}}]", "", "style"},
		"twice":         {"/a", "[{name: a, in: query, schema: {}}, {name: a, in: query, schema: {}}]", "", "twice"},
		"host":          {"/a", "[{name: Host, in: header, required: true, schema: {}}]", "", "not for an argument"},
		"cookie":        {"/a", "[{name: 'a;b', in: cookie, schema: {}}]", "", "cookie"},
		"media":         {"/a", "[]", "{content: {application/*: {}}}", "not written"},
		"bad media":     {"/a", "[]", `{content: {"text/plain\r\nX: y": {}}}`, "media type"},
		"no schema":     {"/a", "[]", "{content: {multipart/form-data: {}}}", "not described"},
		"id":            {"/a", "[{name: a, in: query, schema: {$id: x}}]", "", "$id"},
	} {
		text := document("3.1.0", c.path, "post", c.parameters, c.body, "") +
			"components: {parameters: {P: {$ref: '#/components/parameters/P'}}, schemas: {S: {$ref: '#/components/schemas/Q'}, Q: {$ref: '#/components/schemas/S'}}}\n"
		api, err := openapi.Read([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(api.Operations) > 0 || len(api.LeftOut) != 1 || !strings.Contains(api.LeftOut[0].Message, c.want) || api.LeftOut[0].Line == 0 {
			t.Errorf("%s: %v %v, want something about %q", name, api.Operations, api.LeftOut, c.want)
		}
	}
}

// TestSameWritten: a document is the same API in YAML and in JSON.
func TestSameWritten(t *testing.T) {
	names, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no documents", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		api := read(t, string(text))
		other, err := os.ReadFile(strings.TrimSuffix(name, ".yaml") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		twin := read(t, string(other))
		if string(api.Plan()) != string(twin.Plan()) {
			t.Errorf("%s: plans differ:\n%s\n%s", name, api.Plan(), twin.Plan())
		}
		for i := range api.Operations {
			if a, b := api.Operations[i].Definition, twin.Operations[i].Definition; string(a) != string(b) {
				t.Errorf("%s: definitions differ:\n%s\n%s", name, a, b)
			}
		}
	}
}

// anyText is text that means something somewhere on the way.
var anyText = rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"..", ".", "/", "%2f", "..%2F", "\r\n", "a&b=c", ";", "\\", "?x", "#y", "%00", "ü", "", "..;", "a/../b"}))

// TestRequestsStayInPlace: whatever the arguments are, a request has the path of
// its operation, segment by segment, and a server that decodes it gets the values
// back.
func TestRequestsStayInPlace(t *testing.T) {
	o := operation(t, document("3.1.0", "/v/{a}/w/{b}.json", "post", `[{name: a, in: path, required: true, schema: {}}, {name: b, in: path, required: true, schema: {}},
        {name: q, in: query, schema: {}}, {name: X-H, in: header, schema: {}}, {name: c, in: cookie, schema: {}}]`, "{content: {application/json: {schema: {}}}}", ""))
	rapid.Check(t, func(t *rapid.T) {
		values := map[string]string{}
		for _, name := range []string{"a", "b", "q", "X-H", "c", "body"} {
			values[name] = anyText.Draw(t, name)
		}
		args, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(args, &values); err != nil { // what JSON cannot carry is gone
			t.Fatal(err)
		}
		r, err := o.Request(args)
		if err != nil {
			return
		}
		if strings.ContainsFunc(r.Target, func(c rune) bool { return c <= ' ' || c > '~' || c == '#' }) {
			t.Fatalf("%q is no target", r.Target)
		}
		u, err := url.ParseRequestURI("http://host" + r.Target)
		if err != nil {
			t.Fatal(err)
		}
		segments := strings.Split(u.EscapedPath(), "/")
		if len(segments) != 5 || segments[1] != "v" || segments[3] != "w" || u.JoinPath().EscapedPath() != u.EscapedPath() {
			t.Fatalf("%s is another path", r.Target)
		}
		a, _ := url.PathUnescape(segments[2])
		b, _ := url.PathUnescape(strings.TrimSuffix(segments[4], ".json"))
		if a != values["a"] || b != values["b"] || len(u.Query()) != 1 || u.Query().Get("q") != values["q"] {
			t.Fatalf("%s does not carry %q", r.Target, values)
		}
		for _, f := range r.Header {
			if strings.ContainsFunc(f.Value, func(c rune) bool { return c < ' ' || c > '~' }) || f.Name == "X-H" && f.Value != values["X-H"] ||
				f.Name == "Cookie" && strings.ContainsAny(f.Value[2:], "; =") {
				t.Fatalf("%s: %q", f.Name, f.Value)
			}
		}
		var body string
		if err := json.Unmarshal(r.Body, &body); err != nil || body != values["body"] {
			t.Fatalf("the body is %q", r.Body)
		}
	})
}

// TestBinarySurvives: base64 in, the bytes out.
func TestBinarySurvives(t *testing.T) {
	o := operation(t, document("3.1.0", "/x", "put", "[]", "{content: {application/octet-stream: {}}}", ""))
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.SliceOf(rapid.Byte()).Draw(t, "content")
		r, err := o.Request([]byte(`{"body":"` + base64.StdEncoding.EncodeToString(content) + `"}`))
		if err != nil || string(r.Body) != string(content) {
			t.Fatalf("%q: %v", r.Body, err)
		}
	})
}

// FuzzRead: no document makes this program fail, and of one that is read every
// operation is sound.
func FuzzRead(f *testing.F) {
	names, err := filepath.Glob("testdata/*.*")
	if err != nil || len(names) == 0 {
		f.Fatal("no documents", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(document("3.0.0", "/x/{a}", "post", "[{name: a, in: path, schema: {nullable: true}}]", "{content: {multipart/form-data: {schema: {properties: {a: {}}}}}}", "{'200': {content: {application/json: {schema: {type: array}}}}}")))
	f.Fuzz(func(t *testing.T, text []byte) {
		api, err := openapi.Read(text, "X-Tenant")
		if err != nil {
			return
		}
		sound(t, api)
	})
}

// FuzzRequest: whatever a plan and arguments are, what is made of them is a
// request below its path, and its fields end where they should.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"server":{"name":"T","version":"1"},"operations":[{"tool":"op","method":"GET","path":"/x/{a}","params":[{"arg":"a","name":"a","in":"path","style":"simple"},{"arg":"h","name":"X-H","in":"header","style":"simple"}],"accept":"*/*"}]}`), []byte(`{"a":"..","h":"x\r\ny"}`))
	f.Add([]byte(`{"server":{"name":"","version":""},"operations":[{"tool":"","method":"POST","path":"/{a}{b}","params":[{"arg":"a","name":"a","in":"path","style":"label"},{"arg":"b","name":"b","in":"path","style":"matrix","explode":true}],"body":{"arg":"c","media":"multipart/form-data","form":"multipart"},"accept":"*/*"}]}`), []byte(`{"a":[".",""],"b":{"x":1},"c":{"n":[1,"2"]}}`))
	f.Fuzz(func(t *testing.T, text, args []byte) {
		plan, err := openapi.ParsePlan(text)
		if err != nil {
			return
		}
		for i := range plan.Operations {
			r, err := plan.Operations[i].Request(args)
			if err != nil {
				continue
			}
			if strings.ContainsFunc(r.Target, func(c rune) bool { return c <= ' ' || c > '~' || c == '#' }) || r.Target[0] != '/' {
				t.Fatalf("%q is no target", r.Target)
			}
			path, _, _ := strings.Cut(r.Target, "?")
			for s := range strings.SplitSeq(path, "/") {
				if d, err := url.PathUnescape(s); err != nil || d == "." || d == ".." || strings.ContainsAny(d, "/\\") {
					t.Fatalf("%s leads elsewhere", r.Target)
				}
			}
			for _, f := range append(r.Header, openapi.Field{Name: "Accept", Value: r.Accept}, openapi.Field{Name: "Content-Type", Value: r.ContentType}) {
				if strings.ContainsAny(f.Name+f.Value, "\r\n\x00") {
					t.Fatalf("%q: %q", f.Name, f.Value)
				}
			}
		}
	})
}

// TestAllThatRefersToAll: of an API in which every object holds every other, each
// tool describes what is near and leaves the rest open.
func TestAllThatRefersToAll(t *testing.T) {
	var b strings.Builder
	b.WriteString(document("3.1.0", "/x", "post", "[]", "{content: {application/json: {schema: {$ref: '#/components/schemas/S0'}}}}",
		"{'200': {content: {application/json: {schema: {$ref: '#/components/schemas/S0'}}}}}"))
	b.WriteString("components:\n  schemas:\n")
	const n = 60
	for i := range n {
		fmt.Fprintf(&b, "    S%d:\n      type: object\n      description: %s\n      properties:\n        id: {type: integer}\n", i, strings.Repeat("words ", 1000))
		for j := range n {
			fmt.Fprintf(&b, "        p%d: {$ref: '#/components/schemas/S%d'}\n", j, (i+j)%n)
		}
	}
	o := operation(t, b.String())
	if size := len(o.Definition); size > 330<<10 {
		t.Errorf("one tool is described in %d bytes", size)
	}
	var def struct{ InputSchema, OutputSchema json.RawMessage }
	if err := json.Unmarshal(o.Definition, &def); err != nil {
		t.Fatal(err)
	}
	for raw, c := range map[*json.RawMessage][2]string{
		&def.InputSchema:  {`{"body":{"id":1,"p1":{"anything":1}}}`, `{"body":{"id":"x"}}`},
		&def.OutputSchema: {`{"id":1,"p1":{"anything":1}}`, `{"id":"x"}`},
	} {
		s, err := schema.Compile(*raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate([]byte(c[0])); err != nil {
			t.Error(err)
		}
		if s.Validate([]byte(c[1])) == nil {
			t.Errorf("%s is taken", c[1])
		}
	}
}
