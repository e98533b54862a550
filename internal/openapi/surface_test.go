package openapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/openapi"
)

// surfaceOf is what clients see of a document.
func surfaceOf(t testing.TB, text string) *openapi.Surface {
	t.Helper()
	s := &openapi.Surface{}
	offer(t, s, "api", text)
	return s
}

func offer(t testing.TB, s *openapi.Surface, owner, text string) {
	t.Helper()
	api, err := openapi.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(api.LeftOut) > 0 {
		t.Fatal(api.LeftOut)
	}
	plan, err := openapi.ParsePlan(api.Plan())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Add(owner, plan, func(operation string) (string, []byte, bool) {
		i := slices.IndexFunc(api.Operations, func(o openapi.Operation) bool { return o.Tool == operation })
		return operation, api.Operations[i].Definition, true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sent is a request as whoever it reaches sees it.
func sent(r *openapi.Request) (path string, in *openapi.Incoming) {
	in = &openapi.Incoming{Header: map[string][]string{}, Body: r.Body}
	path, in.Query, _ = strings.Cut(r.Target, "?")
	for _, f := range r.Header {
		name := http.CanonicalHeaderKey(f.Name)
		in.Header[name] = append(in.Header[name], f.Value)
	}
	if r.ContentType != "" {
		in.Header["Content-Type"] = []string{r.ContentType}
	}
	return path, in
}

// TestFind: the most concrete path of those with the method, below a server's path or
// without it.
func TestFind(t *testing.T) {
	op := func(id string, names ...string) string {
		var params []string
		for _, n := range names {
			params = append(params, fmt.Sprintf("{name: %s, in: path, required: true, schema: {type: string}}", n))
		}
		return fmt.Sprintf("{operationId: %s, parameters: [%s], responses: {'200': {description: d}}}", id, strings.Join(params, ", "))
	}
	s := surfaceOf(t, `openapi: 3.1.0
info: {title: T, version: '1'}
servers: [{url: 'https://api.example.com/v1'}, {url: 'https://{region}.example.com/{version}/', variables: {region: {default: eu}, version: {default: v2}}}]
paths:
  /pets: {get: `+op("list")+`, post: `+op("add")+`}
  /pets/mine: {get: `+op("mine")+`}
  /pets/{id}: {get: `+op("one", "id")+`, delete: `+op("drop", "id")+`}
  /pets/{id}.json: {get: `+op("file", "id")+`}
  /{kind}/mine: {get: `+op("any", "kind")+`}
  /range/{from}-{to}: {get: `+op("range", "from", "to")+`}
  /a~b/%C3%BC: {get: `+op("odd")+`}
`)
	for _, c := range []struct{ method, path, want, allowed string }{
		{"GET", "/pets", "list", ""},
		{"POST", "/pets", "add", ""},
		{"GET", "/v1/pets", "list", ""},
		{"GET", "/v2/pets/7", "one", ""},
		{"GET", "/v3/pets/7", "", ""},
		{"GET", "/pets/mine", "mine", ""},
		{"DELETE", "/pets/mine", "drop", ""},
		{"GET", "/cats/mine", "any", ""},
		{"GET", "/pets/7", "one", ""},
		{"GET", "/pets/7.json", "file", ""},
		{"GET", "/pets/.json", "one", ""},
		{"GET", "/pets/a%2Fb", "one", ""},
		{"GET", "/pets/a/b", "", ""},
		{"GET", "/pets/", "", ""},
		{"GET", "/p%65ts", "list", ""},
		{"GET", "/PETS", "", ""},
		{"GET", "/range/1-2-3", "range", ""},
		{"GET", "/range/-2", "", ""},
		{"GET", "/a%7eb/%c3%bc", "odd", ""},
		{"PUT", "/pets/7", "", "DELETE GET"},
		{"PUT", "/pets", "", "GET POST"},
		{"GET", "", "", ""},
	} {
		m, allowed := s.Find(c.method, c.path)
		got := ""
		if m != nil {
			got = m.Tool
		}
		if m == nil && strings.Join(allowed, " ") != c.allowed || got != c.want {
			t.Errorf("%s %s: got %q, allowed %q", c.method, c.path, got, allowed)
		}
	}
	want := []string{"DELETE /pets/{id}", "GET /a~b/%C3%BC", "GET /pets", "GET /pets/mine", "GET /pets/{id}", "GET /pets/{id}.json", "GET /range/{from}-{to}", "GET /{kind}/mine", "POST /pets"}
	if diff := cmp.Diff(want, s.Paths()); diff != "" {
		t.Error(diff)
	}
	// What two have is nobody's, whatever they call its parameters.
	offer(t, s, "other", "openapi: 3.1.0\ninfo: {title: T, version: '1'}\npaths:\n  /pets/{name}: {get: "+op("their", "name")+"}\n  /more: {get: "+op("more")+"}\n")
	for path, twice := range map[string]bool{"/pets/7": true, "/pets": false, "/more": false, "/v1/pets/7": false} {
		if m, _ := s.Find("GET", path); m == nil || m.Twice() != twice {
			t.Errorf("%s: %+v", path, m)
		}
	}
}

// readable is one operation with parameters in every place and style that can be read
// back as they were written: see TestArgumentsComeBack.
const readable = `openapi: 3.1.0
info: {title: T, version: '1'}
paths:
  /a/{text}/{list}/x{label}/{matrix}/{object}:
    post:
      operationId: op
      parameters:
        - {name: text, in: path, required: true, schema: {type: string}}
        - {name: list, in: path, required: true, schema: {type: array, items: {type: number}}}
        - {name: label, in: path, required: true, style: label, explode: true, schema: {type: array, items: {type: integer}}}
        - {name: matrix, in: path, required: true, style: matrix, explode: true, schema: {type: array, items: {type: string}}}
        - {name: object, in: path, required: true, explode: true, schema: {type: object, additionalProperties: {type: string}}}
        - {name: number, in: query, schema: {type: number}}
        - {name: flag, in: query, schema: {type: [boolean, 'null']}}
        - {name: id, in: query, schema: {oneOf: [{type: string}, {type: integer}]}}
        - {name: level, in: query, schema: {$ref: '#/components/schemas/Level'}}
        - {name: many, in: query, schema: {type: array, items: {type: string}}}
        - {name: comma, in: query, explode: false, schema: {type: array, items: {type: string}}}
        - {name: pipe, in: query, style: pipeDelimited, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: flat, in: query, explode: false, schema: {type: object, properties: {n: {type: number}}, additionalProperties: {type: string}}}
        - {name: 'deep[er]', in: query, style: deepObject, explode: true, schema: {$ref: '#/components/schemas/Deep'}}
        - {name: open, in: query, schema: {type: object, properties: {width: {type: number}, 'hé & ight': {type: string}}, additionalProperties: false}}
        - {name: json, in: query, content: {application/json: {schema: {}}}}
        - {name: X-Text, in: header, schema: {type: string}}
        - {name: x-numbers, in: header, schema: {type: array, items: {type: number}}}
        - {name: jar, in: cookie, schema: {type: string}}
      requestBody: {content: BODY}
components:
  schemas:
    Level: {enum: [low, 2, true, '2']}
    Deep: {type: object, properties: {a: {type: integer}, b: {type: array, items: {type: string}}, c: {$ref: '#/components/schemas/Deep'}}, additionalProperties: {type: string}}
`

var (
	number = rapid.SampledFrom([]string{"0", "-0", "1.0", "12345678901234567890", "0.10", "1e400", "-7"})
	// word is text that a segment of a path can hold.
	word = rapid.OneOf(rapid.StringMatching(`[a-zA-Z0-9 ü&=?#:@!+;,'-]{1,8}`), rapid.SampledFrom([]string{"50%", "a.b", "true", "7", "null", "..."}))
)

func quoted(g *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.Map(g, func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return string(b)
	})
}

func listOf(g *rapid.Generator[string], least int) *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(g, least, 4), func(all []string) string { return "[" + strings.Join(all, ",") + "]" })
}

func objectOf(t *rapid.T, label string, least int, names []string, of func(name string) *rapid.Generator[string]) string {
	var parts []string
	for i, name := range rapid.Permutation(names).Draw(t, label) {
		if i < least || rapid.Bool().Draw(t, label) {
			key, _ := json.Marshal(name)
			parts = append(parts, string(key)+":"+of(name).Draw(t, label+"/"+name))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func deepObject(t *rapid.T, depth int) string {
	return objectOf(t, "deep", 1, []string{"a", "b", "c", "d e&"}, func(name string) *rapid.Generator[string] {
		switch name {
		case "a":
			return rapid.SampledFrom([]string{"1", "-2"})
		case "b":
			return listOf(quoted(anyText), 1)
		case "c":
			if depth < 3 {
				return rapid.Just(deepObject(t, depth+1))
			}
			return rapid.Just(`{"a":1}`)
		}
		return quoted(anyText)
	})
}

// TestArgumentsComeBack: the arguments of a request are those that it was made of, the
// bytes of its JSON and the digits of its numbers included.
func TestArgumentsComeBack(t *testing.T) {
	text := quoted(anyText)
	for name, c := range map[string]struct {
		content string
		body    func(*rapid.T) string
	}{
		"json": {"{application/json: {schema: {}}}", func(t *rapid.T) string {
			return rapid.SampledFrom([]string{`{ "a" : 1.0 , "b":[ 12345678901234567890 ] }`, `null`, `"text"`, ` [1] `, `{}`}).Draw(t, "body")
		}},
		"form": {"{application/x-www-form-urlencoded: {schema: {type: object, properties: {n: {type: number}, l: {type: array, items: {type: string}}, o: {type: object}, d: {$ref: '#/components/schemas/Deep'}}}, encoding: {d: {style: deepObject, explode: true}}}}",
			func(t *rapid.T) string {
				return objectOf(t, "body", 1, []string{"n", "l", "o", "d", "other +"}, func(name string) *rapid.Generator[string] {
					switch name {
					case "n":
						return number
					case "l":
						return listOf(text, 1)
					case "o":
						return rapid.Just(`{"k" : 1.0}`)
					case "d":
						return rapid.Just(deepObject(t, 0))
					}
					return text
				})
			}},
		"multipart": {"{multipart/form-data: {schema: {type: object, properties: {file: {type: string, format: binary}, many: {type: array, items: {type: string, format: binary}}, n: {type: number}, o: {type: object}, l: {type: array, items: {type: string}}}}}}",
			func(t *rapid.T) string {
				return objectOf(t, "body", 1, []string{"file", "many", "n", "o", "l", "note \" x"}, func(name string) *rapid.Generator[string] {
					switch name {
					case "file":
						return rapid.Just(`"AP8="`)
					case "many":
						return listOf(rapid.SampledFrom([]string{`"AA=="`, `""`}), 1)
					case "n":
						return number
					case "o":
						return rapid.Just(`{"k" : 1.0}`)
					case "l":
						return listOf(text, 1)
					}
					return text
				})
			}},
		"text":   {"{text/csv: {}}", func(t *rapid.T) string { return text.Draw(t, "body") }},
		"binary": {"{image/png: {}}", func(t *rapid.T) string { return rapid.SampledFrom([]string{`""`, `"AP8="`}).Draw(t, "body") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := surfaceOf(t, strings.Replace(readable, "BODY", c.content, 1))
			m, _ := s.Find("POST", "/a/b/1/x.1/;matrix=a/k=v")
			if m == nil {
				t.Fatal("not found")
			}
			few := quoted(rapid.StringMatching(`[a-z ü&%]{1,5}`)) // no commas, which are between the elements
			made := 0
			rapid.Check(t, func(t *rapid.T) {
				parts := []string{
					`"text":` + quoted(word).Draw(t, "text"),
					`"list":` + listOf(number, 1).Draw(t, "list"),
					`"label":` + listOf(rapid.SampledFrom([]string{"1", "-22"}), 1).Draw(t, "label"),
					`"matrix":` + listOf(quoted(word), 1).Draw(t, "matrix"),
					`"object":` + objectOf(t, "object", 1, []string{"k", "m n"}, func(string) *rapid.Generator[string] { return quoted(word) }),
				}
				for _, p := range []struct {
					name string
					of   func() string
				}{
					{"number", func() string { return number.Draw(t, "number") }},
					{"flag", func() string { return rapid.SampledFrom([]string{"true", "false"}).Draw(t, "flag") }},
					{"id", func() string { return text.Draw(t, "id") }},
					{"level", func() string { return rapid.SampledFrom([]string{`"low"`, "2", "true"}).Draw(t, "level") }},
					{"many", func() string { return listOf(text, 1).Draw(t, "many") }},
					{"comma", func() string { return listOf(few, 1).Draw(t, "comma") }},
					{"pipe", func() string { return listOf(rapid.SampledFrom([]string{"1", "-22"}), 1).Draw(t, "pipe") }},
					{"flat", func() string {
						return objectOf(t, "flat", 1, []string{"n", "s"}, func(name string) *rapid.Generator[string] {
							if name == "n" {
								return number
							}
							return few
						})
					}},
					{"deep_er_", func() string { return deepObject(t, 0) }},
					{"open", func() string {
						return objectOf(t, "open", 1, []string{"width", "hé & ight"}, func(name string) *rapid.Generator[string] {
							if name == "width" {
								return number
							}
							return text
						})
					}},
					{"json", func() string { return rapid.SampledFrom([]string{`{"a" : 1.0}`, "[null]", `"x"`}).Draw(t, "json") }},
					{"X-Text", func() string { return quoted(rapid.StringMatching(`[!-~]([ -~]{0,6}[!-~])?`)).Draw(t, "X-Text") }},
					{"x-numbers", func() string { return listOf(number, 1).Draw(t, "x-numbers") }},
					{"jar", func() string { return text.Draw(t, "jar") }},
					{"body", func() string { return c.body(t) }},
				} {
					if rapid.Bool().Draw(t, "with "+p.name) {
						parts = append(parts, `"`+p.name+`":`+p.of())
					}
				}
				args := "{" + strings.Join(parts, ",") + "}"
				r, err := m.Request([]byte(args))
				if err != nil {
					return // what cannot be sent cannot come back
				}
				made++
				path, in := sent(r)
				again, allowed := s.Find("POST", path)
				if again == nil {
					t.Fatalf("%s is not found, allowed %q", path, allowed)
				}
				got, err := again.Arguments(in)
				if err != nil {
					t.Fatalf("%s\nas %s %+v: %v", args, r.Target, in, err)
				}
				if diff := cmp.Diff(unquoted(t, args), unquoted(t, string(got))); diff != "" {
					t.Fatalf("%s\nas %s %q\ncame back as\n%s\n%s", args, r.Target, r.Body, got, diff)
				}
			})
			if made < 50 {
				t.Errorf("only %d requests were made", made)
			}
		})
	}
}

// unquoted is JSON in a form in which text that is written differently is the same, and
// nothing else.
func unquoted(t *rapid.T, text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// TestArguments are requests as clients write them, and what is refused of them.
func TestArguments(t *testing.T) {
	for _, c := range []struct{ parameters, content, query, header, body, want string }{
		{"{name: n, in: query, schema: {type: integer}}", "", "n=007", "", "", `{"n":"007"}`},
		{"{name: n, in: query, schema: {type: integer}}", "", "n=%2B1", "", "", `{"n":"+1"}`},
		{"{name: n, in: query, schema: {type: integer}}", "", "n=1&n=2", "", "", "more than once"},
		{"{name: n, in: query, schema: {type: integer}}", "", "", "", "", `{}`},
		{"{name: s, in: query, schema: {}}", "", "s=7", "", "", `{"s":"7"}`},
		{"{name: s, in: query, schema: {type: string}}", "", "s=a+b%2Bc", "", "", `{"s":"a b+c"}`},
		{"{name: s, in: query, schema: {type: string}}", "", "s=a,b", "", "", `{"s":"a,b"}`},
		{"{name: s, in: query, schema: {type: string}}", "", "&s=a&", "", "", `{"s":"a"}`},
		{"{name: s, in: query, schema: {type: string}}", "", "s", "", "", `{"s":""}`},
		{"{name: s, in: query, schema: {type: string}}", "", "s=%ff", "", "", "UTF-8"},
		{"{name: s, in: query, schema: {type: string}}", "", "s=%2", "", "", "UTF-8"},
		{"{name: s, in: query, schema: {type: string}}", "", "t=1", "", "", `no query parameter "t": it has s`},
		{"{name: l, in: query, schema: {type: array, items: {type: integer}}}", "", "l=1", "", "", `{"l":[1]}`},
		{"{name: l, in: query, explode: false, schema: {type: array, items: {type: integer}}}", "", "l=1%2c2", "", "", `{"l":[1,2]}`},
		{"{name: l, in: query, explode: false, schema: {type: array, items: {type: string}}}", "", "l=a%2Cb,c", "", "", `{"l":["a,b","c"]}`},
		{"{name: l, in: query, style: pipeDelimited, explode: false, schema: {type: array, items: {type: string}}}", "", "l=a|b", "", "", `{"l":["a","b"]}`},
		{"{name: l, in: query, style: spaceDelimited, explode: false, schema: {type: array, items: {type: string}}}", "", "l=a+b", "", "", `{"l":["a","b"]}`},
		{"{name: d, in: query, style: deepObject, schema: {type: object}}", "", "d[a]=1&d[b][]=x&d[b][]=y", "", "", `{"d":{"a":"1","b":["x","y"]}}`},
		{"{name: d, in: query, style: deepObject, schema: {type: object}}", "", "d[a]=1&d[a][b]=2", "", "", "a value already"},
		{"{name: d, in: query, style: deepObject, schema: {type: object}}", "", "d[a]=1&d[a]=2", "", "", "more than once"},
		{"{name: d, in: query, style: deepObject, schema: {type: object}}", "", "d[a=1", "", "", "has no end"},
		{"{name: j, in: query, content: {application/json: {schema: {}}}}", "", "j={", "", "", "not JSON"},
		{"{name: o, in: query, schema: {type: object, properties: {a: {}}, additionalProperties: false}}", "", "a=1&b=2", "", "", `no query parameter "b"`},
		{"{name: X-L, in: header, schema: {type: array, items: {type: string}}}", "", "", "X-L: a, b", "", `{"X-L":["a","b"]}`},
		{"{name: X-S, in: header, schema: {type: string}}", "", "", "X-S: a, b", "", `{"X-S":"a, b"}`},
		{"{name: c, in: cookie, schema: {type: integer}}", "", "", "Cookie: a=b; c=7", "", `{"c":7}`},
		{"", "", "", "", "x", "takes no body"},
		{"", "{application/json: {schema: {}}}", "", "Content-Type: application/json; charset=utf-8", `{"a" : 1}`, `{"body":{"a" : 1}}`},
		{"", "{application/json: {schema: {}}}", "", "", `{"a" : 1}`, `{"body":{"a" : 1}}`},
		{"", "{application/json: {schema: {}}}", "", "Content-Type: application/json", ``, `{}`},
		{"", "{application/json: {schema: {}}}", "", "Content-Type: application/json", `{"a":1,"a":2}`, "name twice"},
		{"", "{application/json: {schema: {}}}", "", "Content-Type: application/json", "{} {}", "not JSON"},
		{"", "{application/json: {schema: {}}}", "", "Content-Type: text/plain", `{}`, "another media type"},
		{"", "{text/plain: {}}", "", "Content-Type: text/plain", "\xff", "UTF-8"},
		{"", "{multipart/form-data: {schema: {type: object}}}", "", "Content-Type: multipart/form-data", "x", "boundary"},
		{"", "{multipart/form-data: {schema: {type: object}}}", "", "Content-Type: multipart/form-data; boundary=b", "--b\r\n\r\nx\r\n--b--\r\n", "no name"},
	} {
		body := ""
		if c.content != "" {
			body = "{content: " + c.content + "}"
		}
		s := surfaceOf(t, document("3.1.0", "/x", "post", "["+c.parameters+"]", body, ""))
		m, _ := s.Find("POST", "/x")
		in := &openapi.Incoming{Query: c.query, Header: map[string][]string{}, Body: []byte(c.body)}
		if name, value, ok := strings.Cut(c.header, ": "); ok {
			in.Header[name] = []string{value}
		}
		got, err := m.Arguments(in)
		switch {
		case err != nil && (c.want[0] == '{' || !strings.Contains(err.Error(), c.want)), err == nil && string(got) != c.want:
			t.Errorf("%s %s: %s, %v, want %s", c.query, c.body, got, err, c.want)
		}
	}
}

// TestResponsesComeBack: what a response has become as a result of a tool is the same
// response again.
func TestResponsesComeBack(t *testing.T) {
	for _, responses := range []string{
		`{"200": {content: {application/json: {schema: {type: object}}}}, "404": {content: {application/problem+json: {}}}}`,
		`{"201": {content: {application/json: {schema: {type: array}}}}, default: {content: {application/json: {}}}}`,
		`{"200": {content: {text/csv: {}}}, "204": {description: none}}`,
		`{"204": {description: none}}`,
		`{"200": {content: {image/png: {}}}}`,
	} {
		o := operation(t, document("3.0.0", "/x", "get", "[]", "", responses))
		rapid.Check(t, func(t *rapid.T) {
			r := &openapi.Response{
				Status: rapid.SampledFrom([]int{200, 201, 204, 302, 400, 404, 429, 500, 503, 599}).Draw(t, "status"),
				Body:   []byte(rapid.SampledFrom([]string{"", ` { "a" : 1.0 } ` + "\n", "[ 1 ]", "null", "HTTP 404 x", "HTTP 200 OK", "a,b\n", "\x89PNG\x00\xff"}).Draw(t, "body")),
			}
			if r.Status >= 400 {
				r.RetryAfter = rapid.SampledFrom([]int{0, 7}).Draw(t, "retry")
			}
			if len(r.Body) > 0 {
				r.ContentType(rapid.SampledFrom([]string{"application/json", "text/csv; charset=utf-8", "image/png", "application/octet-stream"}).Draw(t, "media"))
			}
			result := append(o.AppendContent([]byte(`{"resultType":"complete",`), r, func([]byte) bool { return true }), '}')
			got, err := o.Response(result)
			if err != nil {
				t.Fatal(err)
			}
			good := r.Status <= 299
			if string(got.Body) != string(r.Body) && !(good && string(r.Body) == "HTTP 200 OK") {
				t.Fatalf("%q came back as %q: %s", r.Body, got.Body, result)
			}
			if !good && got.Status != r.Status || good && got.Status > 299 || got.RetryAfter != r.RetryAfter {
				t.Fatalf("%+v came back as %+v", r, got)
			}
			// A result that has the form of one of the API keeps it.
			again, err := o.AsAnswered(result, func([]byte) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			if last, err := o.Response(again); err != nil || !(good && len(r.Body) > 0) && string(again) != string(result) || last.Status != got.Status && len(r.Body) == 0 {
				t.Fatalf("%s\nbecame\n%s: %v", result, again, err)
			}
		})
	}
}

// TestAsAnswered: what a world says in its own words is what the API would have said.
func TestAsAnswered(t *testing.T) {
	const (
		order  = `{"200": {content: {application/json: {schema: {type: object, required: [id]}}}}, "404": {content: {application/json: {}}}, "409": {description: no}}`
		orders = `{"200": {content: {application/json: {schema: {type: array}}}}}`
		gone   = `{"204": {description: gone}}`
		csv    = `{"200": {content: {text/csv: {}}}}`
	)
	text := func(s string) string {
		b, _ := json.Marshal(s)
		return `{"type":"text","text":` + string(b) + `}`
	}
	for _, c := range []struct {
		method, responses, world, want string
		status                         int
		body                           string
	}{
		{"get", order, `"content":[` + text(`{"id": 1}`) + `],"structuredContent":{"id":1}`, `"content":[` + text(`{"id":1}`) + `],"structuredContent":{"id":1}`, 200, `{"id":1}`},
		{"get", order, `"content":[` + text("HTTP 404 {\"error\":\"none\"}") + `],"isError":true`, `"content":[` + text("HTTP 404 Not Found") + `,` + text(`{"error":"none"}`) + `],"isError":true`, 404, `{"error":"none"}`},
		{"get", order, `"content":[` + text("HTTP 404 Not Found\nnone") + `],"isError":true`, `"content":[` + text("HTTP 404 Not Found") + `,` + text(`none`) + `],"isError":true`, 404, `none`},
		{"get", order, `"content":[` + text("HTTP 409") + `],"isError":true`, `"content":[` + text("HTTP 409 Conflict") + `],"isError":true`, 409, ``},
		{"get", order, `"content":[` + text("HTTP 429 Too Many Requests\nRetry-After: 3") + `],"isError":true`, `"content":[` + text("HTTP 429 Too Many Requests\nRetry-After: 3") + `],"isError":true`, 429, ``},
		{"get", order, `"content":[` + text("no such order") + `],"isError":true`, `"content":[` + text("HTTP 404 Not Found") + `,` + text("no such order") + `],"isError":true`, 404, "no such order"},
		{"get", orders, `"content":[` + text("HTTP 99 no") + `],"isError":true`, `"content":[` + text("HTTP 400 Bad Request") + `,` + text("HTTP 99 no") + `],"isError":true`, 400, "HTTP 99 no"},
		{"get", orders, `"content":[` + text(`[1]`) + `],"structuredContent":[1]`, `"content":[` + text(`{"result":[1]}`) + `],"structuredContent":{"result":[1]}`, 200, `[1]`},
		{"get", orders, `"content":[` + text(`[1]`) + `]`, `"content":[` + text(`{"result":[1]}`) + `],"structuredContent":{"result":[1]}`, 200, `[1]`},
		{"get", orders, `"content":[` + text(`{"result":[1]}`) + `],"structuredContent":{"result":[1]}`, `"content":[` + text(`{"result":[1]}`) + `],"structuredContent":{"result":[1]}`, 200, `[1]`},
		{"delete", gone, `"content":[` + text(`{"id":1}`) + `],"structuredContent":{"id":1}`, `"content":[` + text("HTTP 204 No Content") + `]`, 204, ``},
		{"delete", gone, `"content":[` + text("no such order") + `],"isError":true`, `"content":[` + text("HTTP 400 Bad Request") + `,` + text("no such order") + `],"isError":true`, 400, "no such order"},
		{"get", csv, `"content":[` + text("a,b") + `]`, `"content":[` + text("a,b") + `]`, 200, "a,b"},
		{"get", csv, `"content":[` + text("HTTP 202 Accepted") + `]`, `"content":[` + text("HTTP 202 Accepted") + `]`, 202, ""},
		{"head", order, `"content":[` + text(`{"id":1}`) + `]`, `"content":[` + text("HTTP 200 OK") + `]`, 200, ``},
	} {
		o := operation(t, document("3.0.0", "/x", c.method, "[]", "", c.responses))
		got, err := o.AsAnswered([]byte(`{"resultType":"complete",`+c.world+`}`), func([]byte) bool { return true })
		if err != nil {
			t.Errorf("%s: %v", c.world, err)
			continue
		}
		if want := `{"resultType":"complete",` + c.want + `}`; string(got) != want {
			t.Errorf("%s became\n%s\nwant\n%s", c.world, got, want)
		}
		r, err := o.Response(got)
		if err != nil || r.Status != c.status || string(r.Body) != c.body {
			t.Errorf("%s is answered as %+v %q, %v", got, r, r.Body, err)
		}
	}
}

// FuzzIncoming: whatever a client sends becomes arguments that are one JSON object, or
// is refused; and of what can be sent on again, the arguments are the same.
func FuzzIncoming(f *testing.F) {
	document := strings.Replace(readable, "BODY", "{application/x-www-form-urlencoded: {schema: {type: object, properties: {n: {type: number}, d: {$ref: '#/components/schemas/Deep'}}}, encoding: {d: {style: deepObject}}}}", 1)
	s := surfaceOf(f, document)
	parts := surfaceOf(f, strings.Replace(readable, "BODY", "{multipart/form-data: {schema: {type: object, properties: {n: {type: number}, f: {type: string, format: binary}}}}}", 1))
	f.Add("/a/b/1/x.1/;matrix=a/k=v", "number=1.0&many=a&many=b&deep[er][a]=1&deep[er][b][]=2&open&width=3", "X-Text: a", "n=1&d[c][a]=2", "")
	f.Add("/a/b/1/x.1/;matrix=a/k=v", "json=%7B%22a%22:1%7D&flat=n,1,s,t&comma=a%2Cb", "Cookie: jar=a%20b; x=y", "--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n--b--\r\n", "multipart/form-data; boundary=b")
	f.Fuzz(func(t *testing.T, path, query, header, body, media string) {
		of := s
		if strings.HasPrefix(media, "multipart") {
			of = parts
		}
		m, _ := of.Find("POST", path)
		if m == nil {
			return
		}
		in := &openapi.Incoming{Query: query, Header: map[string][]string{}, Body: []byte(body)}
		if name, value, ok := strings.Cut(header, ": "); ok {
			in.Header[name] = []string{value}
		}
		if media != "" {
			in.Header["Content-Type"] = []string{media}
		}
		args, err := m.Arguments(in)
		if err != nil {
			return
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(args, &object); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		r, err := m.Request(args)
		if err != nil {
			return
		}
		path, again := sent(r)
		back, _ := of.Find("POST", path)
		if back == nil {
			t.Fatalf("%s is not found", path)
		}
		got, err := back.Arguments(again)
		if err != nil {
			t.Fatalf("%s as %s: %v", args, r.Target, err)
		}
		third, err := back.Request(got)
		if err != nil || third.Target != r.Target {
			t.Fatalf("%s\nas %s\ncame back as\n%s\nas %+v: %v", args, r.Target, got, third, err)
		}
	})
}

// TestOwnDocumentsAreFound: each operation of the documents that lie here is found by a
// request that was made for it.
func TestOwnDocumentsAreFound(t *testing.T) {
	names, err := filepath.Glob("testdata/*.json")
	if err != nil || len(names) == 0 {
		t.Fatal("no documents", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		api := read(t, string(text))
		s := &openapi.Surface{}
		plan, err := openapi.ParsePlan(api.Plan())
		if err != nil {
			t.Fatal(err)
		}
		definitions := map[string][]byte{}
		for _, o := range api.Operations {
			definitions[o.Tool] = o.Definition
		}
		if err := s.Add("api", plan, func(op string) (string, []byte, bool) { return op, definitions[op], true }); err != nil {
			t.Fatal(err)
		}
		for _, o := range api.Operations {
			path := o.Path
			for _, p := range o.Params {
				if p.In == "path" {
					path = strings.ReplaceAll(path, "{"+p.Name+"}", "7")
				}
			}
			for _, base := range append(api.Bases, "") {
				if m, allowed := s.Find(o.Method, base+path); m == nil || m.Tool != o.Tool {
					t.Errorf("%s %s%s is not found: %+v, %q", o.Method, base, path, m, allowed)
				}
			}
		}
	}
}
