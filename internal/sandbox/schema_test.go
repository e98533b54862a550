package sandbox_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/sandbox"
	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// tool makes a tool with an output schema (none if empty) and examples, each
// "when => result" or a result alone.
func tool(t testing.TB, output string, examples ...string) *sallyport.Tool {
	t.Helper()
	definition := `{"name":"t","inputSchema":{"type":"object"}}`
	if output != "" {
		definition = `{"name":"t","inputSchema":{"type":"object"},"outputSchema":` + output + `}`
	}
	sum, err := canonical.Sum([]byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	out := &sallyport.Tool{Name: "t", Digest: sallyport.Digest(sum), Definition: sallyport.Text(definition), Access: sallyport.Read}
	for _, e := range examples {
		if when, result, ok := strings.Cut(e, " => "); ok {
			out.Examples = append(out.Examples, sallyport.Example{When: json.RawMessage(when), Result: json.RawMessage(result)})
		} else {
			out.Examples = append(out.Examples, sallyport.Example{Result: json.RawMessage(e)})
		}
	}
	return out
}

func answer(t testing.TB, tool *sallyport.Tool, args string, era wire.Era, seed uint64, n int) string {
	t.Helper()
	got, err := answerOf(sandbox.New(sandbox.Config{}), tool, []byte(args), era, seed, n)
	if err != nil {
		t.Fatalf("answer to %s: %v", args, err)
	}
	return string(got)
}

// structured is the structured content of an answer.
func structured(t testing.TB, result string) string {
	t.Helper()
	raw, ok, err := wire.Field([]byte(result), "structuredContent")
	if err != nil || !ok {
		t.Fatalf("no structured content in %s (%v)", result, err)
	}
	return string(raw)
}

// answerOf is what the worlds say to a call of a tool that names none.
func answerOf(w *sandbox.Worlds, t *sallyport.Tool, args []byte, era wire.Era, seed uint64, n int) ([]byte, error) {
	a, err := w.Answer(context.Background(), &sallyport.Simulated{Tool: t, Args: args, Era: era, Seed: seed, Number: n})
	if err != nil {
		return nil, err
	}
	return a.Result, nil
}

func TestExamplesAnswer(t *testing.T) {
	t.Parallel()
	tl := tool(t, "",
		`{"email":"ada@example.com"} => {"id":"cus_1", "balance":12345678901234567890}`,
		`{"email":"ada@example.com","deep":true} => {"id":"never"}`,
		`{"amount":1.0} => {"one":"point zero"}`,
		`{"o":{"b":2,"a":1}} => "a plain \"text\""`,
		`{"whole":true} => {"content":[{"type":"text","text":"no such customer"}],"isError":true}`,
		`{"listed":true} => [1,2]`,
		`{"content":"mine"} => {"content":["no","blocks"]}`,
		`{"id":null}`,
	)
	tests := []struct {
		args string
		era  wire.Era
		want string
	}{
		{`{"email":"ada@example.com","deep":true}`, wire.Sessions, `{"content":[{"type":"text","text":"{\"id\":\"cus_1\",\"balance\":12345678901234567890}"}],"structuredContent":{"id":"cus_1","balance":12345678901234567890}}`},
		{`{"email":"\u0061da@example.com"}`, wire.Stateless, `{"resultType":"complete","content":[{"type":"text","text":"{\"id\":\"cus_1\",\"balance\":12345678901234567890}"}],"structuredContent":{"id":"cus_1","balance":12345678901234567890}}`},
		{`{"amount":1.0}`, wire.Sessions, `{"content":[{"type":"text","text":"{\"one\":\"point zero\"}"}],"structuredContent":{"one":"point zero"}}`},
		{`{"o": {"a":1, "b":2}, "more":1}`, wire.Sessions, `{"content":[{"type":"text","text":"a plain \"text\""}]}`},
		{`{"whole":true}`, wire.Sessions, `{"content":[{"type":"text","text":"no such customer"}],"isError":true}`},
		{`{"whole":true}`, wire.Stateless, `{"resultType":"complete","content":[{"type":"text","text":"no such customer"}],"isError":true}`},
		{`{"listed":true}`, wire.Sessions, `{"content":[{"type":"text","text":"[1,2]"}]}`},
		{`{"listed":true}`, wire.Stateless, `{"resultType":"complete","content":[{"type":"text","text":"[1,2]"}],"structuredContent":[1,2]}`},
		{`{"content":"mine"}`, wire.Sessions, `{"content":[{"type":"text","text":"{\"content\":[\"no\",\"blocks\"]}"}],"structuredContent":{"content":["no","blocks"]}}`},
		{`{"email":"bruno@example.com"}`, wire.Sessions, `{"content":[{"type":"text","text":"{\"id\":null}"}],"structuredContent":{"id":null}}`},
		{``, wire.Sessions, `{"content":[{"type":"text","text":"{\"id\":null}"}],"structuredContent":{"id":null}}`},
	}
	for _, test := range tests {
		if got := answer(t, tl, test.args, test.era, 1, 0); got != test.want {
			t.Errorf("%s in %v:\n got %s\nwant %s", test.args, test.era, got, test.want)
		}
	}
}

const customerSchema = `{
	"type":"object",
	"properties":{
		"id":{"type":"string","pattern":"^cus_[0-9]{4}$"},
		"email":{"type":"string","format":"email"},
		"name":{"type":"string","minLength":3,"maxLength":40},
		"created_at":{"type":"string","format":"date-time"},
		"tier":{"enum":["basic","plus"]},
		"balance":{"type":"number","minimum":0,"maximum":50,"multipleOf":0.01},
		"payments":{"type":"array","minItems":2,"maxItems":4,"uniqueItems":true,"items":{
			"type":"object","properties":{"payment":{"type":"string"},"amount":{"type":"integer","minimum":1}},"required":["payment","amount"]}},
		"note":{"type":["string","null"]},
		"parent":{"$ref":"#"}
	},
	"required":["id","email","name","created_at","tier","balance","payments"]
}`

func TestEcho(t *testing.T) {
	t.Parallel()
	tl := tool(t, customerSchema)
	var got struct {
		ID, Email, Tier string
		Parent          *struct{ ID string }
	}
	read := func(args string) {
		t.Helper()
		if err := json.Unmarshal([]byte(structured(t, answer(t, tl, args, wire.Sessions, 7, 0))), &got); err != nil {
			t.Fatal(err)
		}
	}
	read(`{"id":"cus_0042","tier":"plus"}`)
	if got.ID != "cus_0042" || got.Tier != "plus" {
		t.Errorf("the arguments did not come back: %+v", got)
	}
	if got.Parent == nil || got.Parent.ID == got.ID {
		t.Errorf("a customer is its own parent: %+v", got.Parent)
	}
	// What the schema does not allow, or of another type, does not come back.
	read(`{"id":"42","tier":"gold","email":7}`)
	if !regexp.MustCompile(`^cus_[0-9]{4}$`).MatchString(got.ID) || got.Tier == "gold" {
		t.Errorf("got %+v", got)
	}
	// One id is not that of everything in a list.
	list := tool(t, `{"type":"object","properties":{"items":{"type":"array","minItems":3,"items":{"type":"object","properties":{"id":{"type":"string"},"customer":{"type":"string"}},"required":["id","customer"]}}},"required":["items"]}`)
	var many struct {
		Items []struct{ ID, Customer string }
	}
	if err := json.Unmarshal([]byte(structured(t, answer(t, list, `{"id":"x","customer":"cus_1"}`, wire.Sessions, 7, 0))), &many); err != nil {
		t.Fatal(err)
	}
	for _, item := range many.Items {
		if item.ID == "x" || item.Customer != "cus_1" {
			t.Errorf("got %+v", many)
		}
	}
}

// Equal reads are answered alike, changes differ from call to call, and seeds,
// tools and arguments differ from each other.
func TestWhatAnAnswerDependsOn(t *testing.T) {
	t.Parallel()
	read := tool(t, customerSchema)
	change := *read
	change.Access = sallyport.Changing
	undeclared := *read
	undeclared.Access = 0
	const args = `{"id":"cus_0001","verbose":true}`
	first := answer(t, read, args, wire.Sessions, 1, 0)
	if got := answer(t, read, `{ "verbose" : true , "id":"cus_000\u0031" }`, wire.Sessions, 1, 9); got != first {
		t.Error("an equal read was answered differently")
	}
	if answer(t, read, args, wire.Sessions, 2, 0) == first {
		t.Error("another seed gave the same answer")
	}
	if answer(t, read, `{"id":"cus_0001"}`, wire.Sessions, 1, 0) == first {
		t.Error("other arguments gave the same answer")
	}
	other := *read
	other.Digest += "0"
	if answer(t, &other, args, wire.Sessions, 1, 0) == first {
		t.Error("another tool gave the same answer")
	}
	for name, tl := range map[string]*sallyport.Tool{"a change": &change, "an undeclared tool": &undeclared} {
		if answer(t, tl, args, wire.Sessions, 1, 0) == answer(t, tl, args, wire.Sessions, 1, 1) {
			t.Errorf("%s was answered alike twice", name)
		}
	}
	stateless := answer(t, read, args, wire.Stateless, 1, 0)
	if stateless != `{"resultType":"complete",`+first[1:] {
		t.Errorf("the eras differ in more than their form: %s", stateless)
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	check := map[string]func(string) error{
		"date-time": func(s string) error { _, err := time.Parse(time.RFC3339, s); return err },
		"date":      func(s string) error { _, err := time.Parse(time.DateOnly, s); return err },
		"time":      func(s string) error { _, err := time.Parse("15:04:05Z", s); return err },
		"email":     func(s string) error { _, err := mail.ParseAddress(s); return err },
		"ipv4":      func(s string) error { _, err := netip.ParseAddr(s); return err },
		"ipv6":      func(s string) error { _, err := netip.ParseAddr(s); return err },
		"uri": func(s string) error {
			u, err := url.Parse(s)
			if err == nil && (!u.IsAbs() || u.Host == "") {
				return errors.New("not absolute")
			}
			return err
		},
		"uuid": func(s string) error {
			if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(s) {
				return errors.New("not a version 4 UUID")
			}
			return nil
		},
		"hostname": func(s string) error {
			if !regexp.MustCompile(`^[a-z]+(\.[a-z]+)+$`).MatchString(s) {
				return errors.New("not a host")
			}
			return nil
		},
		"duration": func(s string) error {
			if !regexp.MustCompile(`^PT[0-9]+H$`).MatchString(s) {
				return errors.New("not a duration")
			}
			return nil
		},
	}
	for format, check := range check {
		tl := tool(t, `{"type":"string","format":"`+format+`"}`)
		for seed := range uint64(50) {
			var s string
			if err := json.Unmarshal([]byte(structured(t, answer(t, tl, "", wire.Stateless, seed, 0))), &s); err != nil {
				t.Fatal(err)
			}
			if err := check(s); err != nil {
				t.Errorf("%s: %q: %v", format, s, err)
			}
		}
	}
}

// Schemas that can be met are met for every seed.
func TestMakes(t *testing.T) {
	t.Parallel()
	for _, output := range []string{
		customerSchema,
		`{}`, `true`, `{"type":"object"}`, `{"type":"null"}`, `{"type":"array"}`,
		`{"const":{"a":[1,2]}}`, `{"enum":[12345678901234567890]}`, `{"type":"integer","enum":["a",3]}`,
		`{"type":"integer","minimum":12345678901234567890}`, `{"type":"integer","maximum":-12345678901234567890}`,
		`{"type":"integer","exclusiveMinimum":4,"exclusiveMaximum":6}`, `{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":0.001}`,
		`{"type":"number","multipleOf":0.25,"minimum":0.1,"maximum":0.6}`, `{"allOf":[{"multipleOf":4},{"multipleOf":6}],"type":"integer"}`,
		`{"type":"number","minimum":0.123456,"maximum":0.123456}`,
		`{"type":"string","minLength":500}`, `{"type":"string","maxLength":0}`, `{"type":"string","maxLength":3,"minLength":3}`,
		`{"type":"string","pattern":"^[A-Z]{2}[0-9]{2}( [A-Z0-9]{4}){3,7}$"}`, `{"type":"string","pattern":"^(foo|bar)?-\\d+\\.\\w*$"}`,
		`{"type":"string","pattern":"[^\\x00-\\x7f]"}`, `{"type":"string","pattern":"^a+$","minLength":60,"maxLength":70}`, `{"type":"string","pattern":"x","minLength":20}`,
		`{"type":"string","pattern":"\\bword\\b"}`, `{"type":"string","pattern":"^\\u00e4.$"}`,
		`{"type":"array","items":{"enum":["a","b","c"]},"uniqueItems":true,"minItems":3}`,
		`{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":false}`,
		`{"type":"array","contains":{"const":7},"minContains":2,"items":{"type":"integer"},"minItems":4}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","type":"array","items":[{"const":1},{"const":2}],"additionalItems":false,"minItems":2}`,
		`{"type":"object","additionalProperties":{"type":"integer"},"minProperties":2}`,
		`{"type":"object","patternProperties":{"^x-[a-z]+$":{"type":"boolean"}},"additionalProperties":false,"minProperties":3}`,
		`{"type":"object","propertyNames":{"pattern":"^[a-z]{3}$"},"minProperties":2}`,
		`{"type":"object","properties":{"a":{},"b":{},"c":{}},"maxProperties":1}`,
		`{"type":"object","properties":{"a":{},"b":{},"c":false},"dependentRequired":{"a":["d"]},"required":["a"]}`,
		`{"type":"object","required":["not declared"]}`,
		`{"oneOf":[{"type":"string","maxLength":3},{"type":"integer"}]}`,
		`{"anyOf":[{"required":["a"]},{"required":["b"]}],"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}`,
		`{"allOf":[{"properties":{"a":{"type":"integer","minimum":5}},"required":["a"]},{"properties":{"a":{"maximum":5}}}]}`,
		`{"anyOf":[{"type":"string"},{"type":"null"}],"oneOf":[{"minLength":2,"type":"string"},{"type":"integer"}]}`,
		`{"type":"object","properties":{"kind":{"enum":["a","b"]},"v":{}},"required":["kind","v"],"if":{"properties":{"kind":{"const":"a"}}},"then":{"properties":{"v":{"type":"string"}}},"else":{"properties":{"v":{"type":"integer"}}}}`,
		`{"$defs":{"tree":{"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["name","children"]}},"$ref":"#/$defs/tree"}`,
		`{"$defs":{"list":{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#/$defs/list"},{"type":"null"}]}},"required":["next"]}},"$ref":"#/$defs/list"}`,
		`{"$defs":{"expr":{"oneOf":[{"type":"object","properties":{"and":{"type":"array","items":{"$ref":"#/$defs/expr"},"minItems":2}},"required":["and"],"additionalProperties":false},{"type":"string"}]}},"$ref":"#/$defs/expr"}`,
		`{"type":"object","properties":{"self":{"$ref":"#"},"n":{"type":["object","null"],"properties":{"self":{"$ref":"#"}},"required":["self"]}},"required":["n"]}`,
		`{"$id":"https://example.com/s","$defs":{"a":{"$anchor":"A","type":"integer"}},"properties":{"x":{"$ref":"https://example.com/s#A"}},"required":["x"],"type":"object"}`,
		`{"type":"string","pattern":"^[a-z]+$","not":{"enum":["a","b"]}}`,
		`{"oneOf":[{"type":"string","pattern":"^a"},{"type":"string","pattern":"b$"}]}`,
		`{"type":"object","unevaluatedProperties":false,"oneOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"integer"}},"required":["b"]}]}`,
		`{"type":"object","properties":{"a":{"not":{"$ref":"#"}}},"required":["a"]}`,
		`{"not":{"$ref":"#/$defs/x"},"$defs":{"x":{"type":"object"}}}`,
		`{"not":{"not":{"type":"integer"}}}`,
		`{"not":{"anyOf":[{"type":"string"},{"type":"object"}]},"type":["string","object","integer"]}`,
		`{"not":{"allOf":[{"type":"string"},{"minLength":3}]}}`,
		`{"type":"string","not":{"const":"a"}}`,
		`{"not":{"type":"string"}}`,
		`{"not":{"type":["string","number","object"]}}`,
		`{"type":"integer","minimum":1,"maximum":3,"not":{"enum":[1,2]}}`,
		`{"type":"integer","minimum":1,"maximum":100,"not":{"minimum":3}}`,
		`{"type":"object","not":{"required":["a"]},"properties":{"a":{},"b":{}}}`,
		`{"type":"object","required":["a"],"properties":{"a":{"enum":["x","y"]}},"not":{"properties":{"a":{"const":"x"}}}}`,
		`{"type":"string","not":{"pattern":"^[a-z]"}}`,
		`{"type":"string","not":{"minLength":4}}`,
		`{"type":"array","items":{"type":"integer"},"not":{"minItems":2}}`,
		`{"enum":["a","b","c","d","e","f","g","h","i","j"],"not":{"enum":["a","b","c","d","e","f","g","h","i"]}}`,
		`{"allOf":[{"not":{"const":null}},{"type":["null","boolean"]}]}`,
		`{"oneOf":[{"type":"integer","multipleOf":2},{"type":"integer","multipleOf":3}]}`,
		`{"oneOf":[{"type":"object","properties":{"a":{"type":"string"}}},{"type":"object","properties":{"b":{"type":"string"}},"required":["b"]}]}`,
		`{"oneOf":[{"type":"object","required":["a"]},{"type":"object","required":["b"]}],"properties":{"a":{"type":"string"},"b":{"type":"string"}}}`,
		`{"oneOf":[{"type":"number"},{"type":"integer"}]}`,
		`{"oneOf":[{"properties":{"kind":{"const":"cat"},"lives":{"type":"integer"}},"required":["kind"]},{"properties":{"kind":{"const":"dog"},"tricks":{"type":"array","items":{"type":"string"}}},"required":["kind"]}],"type":"object"}`,
		`{"type":"object","properties":{"card":{"type":"string"}},"dependentSchemas":{"card":{"properties":{"address":{"type":"string"}},"required":["address"]}},"required":["card"]}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"card":{"type":"string"}},"dependencies":{"card":{"properties":{"address":{"type":"string"}},"required":["address"]}},"required":["card"]}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"card":{"type":"string"}},"dependencies":{"card":["address"]},"required":["card"]}`,
		`{"type":"object","properties":{"a":{"type":"string"}},"unevaluatedProperties":false,"allOf":[{"properties":{"b":{"type":"integer"}},"required":["b"]}]}`,
		`{"type":"object","properties":{"a":{"type":"string"}},"unevaluatedProperties":{"type":"integer"},"minProperties":3}`,
		`{"type":"array","prefixItems":[{"type":"string"}],"unevaluatedItems":false,"minItems":1}`,
		`{"type":"array","prefixItems":[{"type":"string"}],"unevaluatedItems":{"type":"integer"},"minItems":3}`,
		`{"type":"array","contains":{"type":"string"},"unevaluatedItems":{"type":"integer"},"minItems":3}`,
		`{"$id":"https://example.com/tree","$dynamicAnchor":"node","type":"object","properties":{"data":{"type":"string"},"children":{"type":"array","items":{"$dynamicRef":"#node"}}},"required":["data"]}`,
		`{"$dynamicAnchor":"T","$defs":{"list":{"$anchor":"L","type":"array","items":{"$dynamicRef":"#T"},"minItems":1}},"type":"object","properties":{"l":{"$ref":"#L"},"v":{"type":"integer"}},"required":["v"]}`,
		`{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"type":"object","properties":{"child":{"$recursiveRef":"#"},"v":{"type":"integer"}},"required":["v"]}`,
		`{"type":"array","contains":{"const":7},"maxContains":1,"items":{"type":"integer","minimum":6,"maximum":8},"minItems":5}`,
		`{"type":"array","contains":{"minimum":5},"minContains":2,"maxContains":2,"items":{"type":"integer","minimum":0,"maximum":9},"minItems":6}`,
		`{"type":"array","contains":{"type":"string"},"minContains":0,"items":{"type":"integer"},"minItems":1}`,
		`{"type":"array","prefixItems":[{"type":"string"},{"type":"string"}],"contains":{"type":"integer"}}`,
		`{"type":"object","properties":{"a":{}},"additionalProperties":false,"patternProperties":{"^x":{"type":"integer"}},"minProperties":3}`,
		`{"type":"object","propertyNames":{"enum":["a","b","c"]},"minProperties":3}`,
		`{"type":"object","propertyNames":{"minLength":5,"maxLength":6},"additionalProperties":{"type":"boolean"},"minProperties":2}`,
		`{"type":"object","propertyNames":{"$ref":"#/$defs/n"},"$defs":{"n":{"pattern":"^k[0-9]$"}},"additionalProperties":{"type":"boolean"},"minProperties":2}`,
		`{"type":"object","required":["x_a"],"patternProperties":{"^x_":{"type":"integer"}},"additionalProperties":false}`,
		`{"type":"array","items":{"type":"boolean"},"uniqueItems":true,"minItems":2}`,
		`{"type":"array","items":{"type":"integer","minimum":1,"maximum":3},"uniqueItems":true,"minItems":3}`,
		`{"type":"array","items":{"type":"object","properties":{"k":{"enum":["a","b"]},"v":{"type":"boolean"}},"required":["k","v"],"additionalProperties":false},"uniqueItems":true,"minItems":4}`,
		`{"type":"array","items":{"type":["null","boolean"]},"uniqueItems":true,"minItems":3}`,
		`{"type":"string","allOf":[{"pattern":"^[a-z]+$"},{"pattern":"z"},{"minLength":4}]}`,
		`{"type":"string","allOf":[{"pattern":"^ab"},{"pattern":"yz$"}]}`,
		`{"type":"string","format":"email","maxLength":20}`,
		`{"type":"string","format":"uuid","pattern":"^[0-9a-f-]{36}$"}`,
		`{"type":"string","format":"date","pattern":"^2025"}`,
		`{"type":"string","format":"uri","minLength":100}`,
		`{"type":"string","format":"date-time","minLength":200}`,
		`{"type":"integer","format":"int32"}`,
		`{"type":"integer","format":"int64","minimum":3000000000}`,
		`{"type":"number","format":"float"}`,
		`{"type":"number","format":"double","exclusiveMinimum":0,"exclusiveMaximum":1}`,
		`{"type":"string","format":"byte","contentEncoding":"base64"}`,
		`{"type":"string","contentEncoding":"base64"}`,
		`{"type":"string","contentMediaType":"application/json"}`,
		`{"type":"string","format":"password","minLength":8}`,
		`{"type":"string","format":"idn-hostname"}`,
		`{"type":"string","format":"made-up"}`,
		`{"type":"number","multipleOf":0.1,"minimum":0.05,"maximum":0.35}`,
		`{"type":"number","multipleOf":7.5,"exclusiveMinimum":7.5,"exclusiveMaximum":22.5}`,
		`{"type":"number","multipleOf":0.333}`,
		`{"type":"integer","multipleOf":1000000007}`,
		`{"type":"integer","multipleOf":1.5}`,
		`{"type":["integer","string"],"minimum":5,"minLength":3}`,
		`{"if":{"type":"integer"},"then":{"minimum":100},"else":{"type":"string","minLength":9}}`,
		`{"type":"object","properties":{"country":{"enum":["US","NL"]},"zip":{"type":"string"}},"required":["country","zip"],"if":{"properties":{"country":{"const":"US"}}},"then":{"properties":{"zip":{"pattern":"^[0-9]{5}$"}}},"else":{"properties":{"zip":{"pattern":"^[0-9]{4} [A-Z]{2}$"}}}}`,
		`{"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":9}},"required":["a"],"if":{"properties":{"a":{"minimum":5}}},"then":{"required":["big"]},"else":{"required":["small"]}}`,
		`{"allOf":[{"if":{"properties":{"t":{"const":1}}},"then":{"required":["one"]}},{"if":{"properties":{"t":{"const":2}}},"then":{"required":["two"]}}],"type":"object","properties":{"t":{"enum":[1,2,3]}},"required":["t"]}`,
		`{"anyOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false},{"type":"object","properties":{"b":{"$ref":"#"}},"required":["b"],"additionalProperties":false}]}`,
		`{"type":"object","properties":{"a":{"allOf":[{"$ref":"#/$defs/x"},{"description":"y"}]}},"required":["a"],"$defs":{"x":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}}`,
		`{"const":null}`,
		`{"type":"object","const":{"a":1}}`,
		`{"enum":[null,1,"a",{"b":[]}],"type":["object","null"]}`,
		`{"type":"object","properties":{"a":{"default":5,"type":"string"}},"required":["a"]}`,
		`{"type":"object","minProperties":2,"maxProperties":2,"properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}}}`,
		`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"dependentRequired":{"a":["b"]},"maxProperties":1}`,
		`{"type":"array","items":{"$ref":"#/$defs/n"},"minItems":1,"$defs":{"n":{"type":"object","properties":{"c":{"type":"array","items":{"$ref":"#/$defs/n"}},"p":{"$ref":"#/$defs/n"}},"required":["c"]}}}`,
		`{"type":"object","properties":{"a":{"$ref":"#/properties/b"},"b":{"type":"string","minLength":1}},"required":["a"]}`,
		`{"$ref":"#/$defs/a%20b~1c","$defs":{"a b/c":{"type":"integer"}}}`,
		`{"type":"object","properties":{"x":{"not":{}}}}`,
		`{"type":"object","properties":{"a":true,"b":false},"required":["a"]}`,
		`{"type":"array","maxItems":0,"items":{"type":"string"}}`,
		`{"type":"string","pattern":"^(?i)abc[^\\s]$"}`,
		`{"type":"string","pattern":"\\p{Lu}{3}"}`,
		`{"type":"string","pattern":"^\\S+@\\S+$","format":"email"}`,
		`{"type":"object","propertyNames":{"pattern":"^[A-Z]"},"properties":{"a":{"type":"string"},"B":{"type":"string"}}}`,
		`{"type":"object","properties":{"total":{"type":"number","minimum":0},"tax":{"type":"number","maximum":-1}},"required":["total","tax"]}`,
		`{"type":"array","items":[{"type":"string"},{"type":"integer"}],"$schema":"http://json-schema.org/draft-07/schema#","minItems":4,"additionalItems":{"type":"boolean"}}`,
		`{"type":"string","examples":["as shown"]}`, `{"type":"integer","default":5}`, `{"type":"string","examples":[7],"format":"uuid"}`,
	} {
		s, err := schema.Compile([]byte(output))
		if err != nil {
			t.Errorf("%s: %v", output, err)
			continue
		}
		tl := tool(t, output)
		for seed := range uint64(40) {
			got, err := answerOf(sandbox.New(sandbox.Config{}), tl, []byte(`{"q":"x"}`), wire.Stateless, seed, 0)
			if err != nil {
				t.Errorf("%s, seed %d: %v", output, seed, err)
				break
			}
			if err := s.Validate([]byte(structured(t, string(got)))); err != nil {
				t.Errorf("%s: %s: %v", output, got, err)
			}
			if len(got) > 100_000 {
				t.Errorf("%s: %d bytes", output, len(got))
			}
		}
	}
}

// What cannot be answered is refused with the place and what to do, in words that
// do not say where the tool is answered.
func TestGaps(t *testing.T) {
	t.Parallel()
	tests := []struct {
		tool          *sallyport.Tool
		pointer, want string
	}{
		{tool(t, ""), "", "neither an output schema nor an example"},
		{tool(t, "", `{"id":"1"} => {"a":1}`), "", "neither an output schema nor an example"},
		{tool(t, `{"$ref":"https://example.com/x"}`), "", "cannot be used"},
		{tool(t, `{"type":"strnig"}`), "", "cannot be used"},
		{tool(t, `false`), "", "allows nothing"},
		{tool(t, `{"type":"object","properties":{"a":{"type":"object","properties":{"b~/":{"type":"string","minLength":5,"maxLength":4}},"required":["b~/"]}},"required":["a"]}`), "/a/b~0~1", "as long as"},
		{tool(t, `{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`), "*", "without end"},
		{tool(t, `{"type":"array","minItems":100000,"items":{}}`), "", "too many"},
		{tool(t, `{"type":"string","minLength":10000000}`), "", "too many"},
		{tool(t, `{"type":"array","items":{"type":"array","items":{"type":"array","minItems":900},"minItems":900},"minItems":900}`), "*", ""},
		{tool(t, `{"type":"array","items":{"const":1},"uniqueItems":true,"minItems":2}`), "/1", "names no value"},
		{tool(t, `{"type":"array","items":{"type":"boolean"},"uniqueItems":true,"minItems":3}`), "", "differ"},
		{tool(t, `{"not":{}}`), "", "its schema allows nothing"},
		{tool(t, `{"type":"object","properties":{"a":{"type":"string","not":{"type":"string"}}},"required":["a"]}`), "/a", "no type is left"},
		{tool(t, `{"type":"object","required":["a","b"],"maxProperties":1}`), "", "more properties than it allows"},
		{tool(t, `{"type":"array","items":{"type":"array","contains":{"const":1},"minContains":3,"maxItems":2},"minItems":1}`), "/0", "more items than it allows"},
		{tool(t, `{"type":"object","properties":{"b":false},"required":["b"]}`), "", `the property "b" and does not allow it`},
		{tool(t, `{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}`, `{"n":"one"}`), "/n", "does not fit its output schema"},
		{tool(t, "", `5x`), "", "not JSON"},
		{tool(t, "", `[1] => {"a":1}`), "", "not a JSON object"},
	}
	for i, test := range tests {
		started := time.Now()
		got, err := answerOf(sandbox.New(sandbox.Config{}), test.tool, []byte(`{"id":"2"}`), wire.Sessions, 1, 0)
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != sallyport.WorldGap {
			t.Errorf("%d: got %.100s, %v", i, got, err)
			continue
		}
		if !strings.Contains(refusal.Reason, test.want) || !strings.Contains(refusal.Reason, "no answer is known for this tool") || !strings.Contains(refusal.Hint, "example") {
			t.Errorf("%d: %v, want …%s…", i, err, test.want)
		}
		pointer, _ := refusal.Detail["pointer"].(string)
		if test.pointer != "*" && pointer != test.pointer {
			t.Errorf("%d: pointer %q, want %q (%v)", i, pointer, test.pointer, err)
		}
		noTell(t, refusal.Reason+refusal.Hint)
		if spent := time.Since(started); spent > 5*time.Second {
			t.Errorf("%d: took %v", i, spent)
		}
	}
	var refusal *sallyport.Refusal
	if _, err := answerOf(sandbox.New(sandbox.Config{}), tool(t, `{}`), []byte(`[]`), wire.Sessions, 1, 0); !errors.As(err, &refusal) || refusal.Code != sallyport.InvalidArguments {
		t.Errorf("arguments that are no object: %v", err)
	}
}

// Schemas that ask for much are answered or given up soon: what is made is
// counted, not only what is kept.
func TestWorkIsBounded(t *testing.T) {
	t.Parallel()
	var numbers []string
	for i := range 20_000 {
		numbers = append(numbers, fmt.Sprint(i))
	}
	for name, output := range map[string]string{
		"many forms":     `{"anyOf":[` + strings.Repeat(`{"type":"integer","enum":["x"]},`, 300) + `false]}`,
		"forms of forms": `{"$defs":{"a":{"anyOf":[{"type":"array","items":{"$ref":"#/$defs/a"},"minItems":2,"maxItems":1},{"type":"object","properties":{"x":{"$ref":"#/$defs/a"},"y":{"$ref":"#/$defs/a"}},"required":["x","y"]}]}},"$ref":"#/$defs/a"}`,
		"2^30 forms":     `{"allOf":[` + strings.Repeat(`{"anyOf":[{"minimum":1,"type":"string"},{"type":"integer"}]},`, 30) + `{"type":"boolean"}]}`,
		"a cube":         `{"type":"array","items":{"type":"array","items":{"type":"array","minItems":900},"minItems":900},"minItems":900}`,
		"a draw of all":  `{"type":"array","items":{"enum":[` + strings.Join(numbers, ",") + `]},"uniqueItems":true,"minItems":500}`,
		"all of a range": `{"type":"array","items":{"type":"integer","minimum":1,"maximum":1000},"uniqueItems":true,"minItems":1000}`,
		"long patterns":  `{"type":"array","minItems":1000,"items":{"type":"string","pattern":"^([a-z]{30}){30}[a-z]*$","minLength":90000}}`,
		"long texts":     `{"type":"array","minItems":1000,"items":{"type":"string","minLength":99999}}`,
		"long numbers":   `{"type":"array","minItems":1000,"items":{"type":"number","multipleOf":1e-1000,"minimum":1e1000}}`,
	} {
		started := time.Now()
		got, err := answerOf(sandbox.New(sandbox.Config{}), tool(t, output), nil, wire.Stateless, 1, 0)
		if spent := time.Since(started); spent > 5*time.Second {
			t.Errorf("%s: took %v", name, spent)
		}
		if len(got) > 4<<20 {
			t.Errorf("%s: %d bytes", name, len(got))
		}
		if unbounded := name != "a draw of all" && name != "all of a range"; (err != nil) != unbounded {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

var tells = regexp.MustCompile(`(?i)sandbox|simulat|synthetic|world|staging|production|stage|mock|fake|dummy|sallyport|lorem`)

func noTell(t testing.TB, text string) {
	t.Helper()
	if word := tells.FindString(text); word != "" {
		t.Errorf("%q tells where the tool is answered: %s", word, text)
	}
}

func TestNothingTells(t *testing.T) {
	t.Parallel()
	tl := tool(t, `{"type":"object","properties":{"status":{"type":"string"},"note":{"type":"string"},"company":{"type":"string"},"title":{"type":"string"},"url":{"type":"string"},"email":{"type":"string"},"order_id":{"type":"string"}}}`)
	for seed := range uint64(200) {
		noTell(t, answer(t, tl, "", wire.Stateless, seed, 0))
	}
}

// drawOutput draws an output schema of the kind tools have.
func drawOutput(t *rapid.T, depth int) any {
	scalars := []string{
		`{"type":"string"}`, `{"type":"string","format":"date-time"}`, `{"type":"string","format":"email"}`, `{"type":"integer","minimum":1,"maximum":9}`,
		`{"type":"number"}`, `{"type":"boolean"}`, `{"type":["string","null"]}`, `{"enum":["a","b",null]}`, `{"const":12345678901234567890}`,
		`{"type":"string","pattern":"^[a-f]{2,4}-?[0-9]+$"}`, `{"type":"string","minLength":8,"maxLength":12}`, `{"$ref":"#"}`, `{"anyOf":[{"type":"integer"},{"type":"string","maxLength":4}]}`, `{}`,
	}
	if depth == 0 {
		return json.RawMessage(rapid.SampledFrom(scalars).Draw(t, "scalar"))
	}
	switch rapid.IntRange(0, 10).Draw(t, "shape") {
	case 0, 1:
		properties := map[string]any{}
		for range rapid.IntRange(0, 4).Draw(t, "properties") {
			properties[rapid.SampledFrom([]string{"id", "email", "total", "items", "createdAt", "a/b", "ä"}).Draw(t, "name")] = drawOutput(t, depth-1)
		}
		out := map[string]any{"type": "object", "properties": properties}
		required := []string{}
		for _, name := range []string{"id", "items", "ä"} {
			if _, ok := properties[name]; ok && rapid.Bool().Draw(t, "required") {
				required = append(required, name)
			}
		}
		out["required"] = required
		if rapid.Bool().Draw(t, "closed") {
			out["additionalProperties"] = false
		}
		return out
	case 2:
		return map[string]any{"type": "array", "items": drawOutput(t, depth-1), "minItems": rapid.IntRange(0, 2).Draw(t, "least")}
	case 3:
		return map[string]any{rapid.SampledFrom([]string{"anyOf", "oneOf"}).Draw(t, "choice"): []any{drawOutput(t, depth-1), drawOutput(t, depth-1)}}
	case 4:
		return map[string]any{"type": "object", "additionalProperties": drawOutput(t, depth-1)}
	case 5:
		return map[string]any{"allOf": []any{drawOutput(t, depth-1), map[string]any{"not": drawOutput(t, 0)}}}
	case 6:
		return map[string]any{"if": drawOutput(t, 0), "then": drawOutput(t, depth-1), "else": drawOutput(t, depth-1)}
	case 7:
		return map[string]any{
			"type": "object", "properties": map[string]any{"id": drawOutput(t, 0), "kind": drawOutput(t, depth-1)}, "unevaluatedProperties": rapid.Bool().Draw(t, "more"),
			"dependentSchemas":  map[string]any{"id": map[string]any{"properties": map[string]any{"total": drawOutput(t, 0)}, "required": []string{"total"}}},
			"dependentRequired": map[string]any{"kind": []string{"id"}}, "minProperties": rapid.IntRange(0, 3).Draw(t, "least"),
		}
	case 8:
		return map[string]any{
			"type": "array", "prefixItems": []any{drawOutput(t, 0)}, "contains": drawOutput(t, 0), "minContains": rapid.IntRange(0, 2).Draw(t, "least"), "maxContains": 2,
			"items": drawOutput(t, 0), "uniqueItems": rapid.Bool().Draw(t, "unique"),
		}
	case 9:
		return map[string]any{"type": "object", "patternProperties": map[string]any{"^x": drawOutput(t, depth-1)}, "propertyNames": map[string]any{"maxLength": 6}, "additionalProperties": rapid.Bool().Draw(t, "more")}
	default:
		return drawOutput(t, 0)
	}
}

// Whatever the output schema: an answer that fits it, or a gap.
func TestAnswersFit(t *testing.T) {
	t.Parallel()
	var asked, answered int
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(drawOutput(t, 3))
		if err != nil {
			t.Fatal(err)
		}
		s, err := schema.Compile(raw)
		if err != nil {
			return // a reference straight to itself
		}
		definition := []byte(`{"outputSchema":` + string(raw) + `}`)
		sum, err := canonical.Sum(definition)
		if err != nil {
			t.Fatal(err)
		}
		tl := &sallyport.Tool{Digest: sallyport.Digest(sum), Definition: definition}
		args := rapid.SampledFrom([]string{``, `{"id":"abc"}`, `{"total":3,"items":"x","email":null}`, `{"id":12345678901234567890}`}).Draw(t, "args")
		asked++
		got, err := answerOf(sandbox.New(sandbox.Config{}), tl, []byte(args), wire.Stateless, rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 3).Draw(t, "n"))
		if err != nil {
			var refusal *sallyport.Refusal
			if !errors.As(err, &refusal) || refusal.Code != sallyport.WorldGap {
				t.Fatalf("%s: %v", raw, err)
			}
			return
		}
		answered++
		value, _, err := wire.Field(got, "structuredContent")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(value); err != nil {
			t.Fatalf("schema %s\nanswer %s\n%v", raw, value, err)
		}
		text, _, err := wire.Field(got, "content")
		if err != nil {
			t.Fatal(err)
		}
		var blocks []struct{ Type, Text string }
		if err := json.Unmarshal(text, &blocks); err != nil || len(blocks) != 1 || blocks[0].Text != string(value) {
			t.Fatalf("the text is not the structured content: %s", got)
		}
	})
	t.Logf("%d of %d schemas were answered", answered, asked)
	if answered < asked*3/4 {
		t.Errorf("only %d of %d schemas were answered", answered, asked)
	}
}

// Equal inputs give equal bytes, from any number of goroutines and worlds; and the
// same bytes as on every other machine, which the golden file stands for.
func TestSameSeedSameBytes(t *testing.T) {
	t.Parallel()
	tools := []*sallyport.Tool{tool(t, customerSchema), tool(t, `{"type":"object","additionalProperties":{"type":["number","null"]}}`)}
	tools[1].Access = sallyport.Changing
	transcript := func(w *sandbox.Worlds) string {
		var out strings.Builder
		for n := range 6 {
			for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
				got, err := answerOf(w, tools[n%2], fmt.Appendf(nil, `{"id":"cus_%04d"}`, n), era, 42, n)
				if err != nil {
					return err.Error()
				}
				fmt.Fprintf(&out, "%s\n", got)
			}
		}
		return out.String()
	}
	shared := sandbox.New(sandbox.Config{})
	want := transcript(shared)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			w := shared
			if i%2 == 0 {
				w = sandbox.New(sandbox.Config{})
			}
			if got := transcript(w); got != want {
				t.Errorf("run %d: %s", i, cmp.Diff(want, got))
			}
		})
	}
	wg.Wait()

	golden := filepath.Join("testdata", "transcript.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(kept), want); diff != "" {
		t.Errorf("the transcript is not the one kept:\n%s", diff)
	}
}

// FuzzAnswer: whatever a definition and its arguments are, the answer fits the
// schema or is refused.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		customerSchema, `{"type":"string","pattern":"^(a|b){2,}[^x]$"}`, `{"type":"object","required":["a"],"additionalProperties":{"$ref":"#"}}`,
		`{"allOf":[{"anyOf":[{"type":"integer"},{"type":"array","items":{"$ref":"#"}}]},{"minItems":1}]}`, `{"if":true,"then":{"multipleOf":0.3}}`,
	} {
		f.Add([]byte(s), []byte(`{"id":"cus_0001","email":"a@example.com"}`), []byte(`{"id":1}`), uint64(1))
	}
	f.Add([]byte(`{}`), []byte(`{"content":[]}`), []byte(`{"content":[],"isError":true}`), uint64(2))
	f.Fuzz(func(t *testing.T, output, args, example []byte, seed uint64) {
		if len(output) > 4096 {
			return
		}
		definition := append(append([]byte(`{"outputSchema":`), output...), '}')
		tl := &sallyport.Tool{Digest: "d", Definition: definition}
		if seed%4 == 0 {
			tl.Examples = []sallyport.Example{{When: args, Result: example}}
		}
		got, err := answerOf(sandbox.New(sandbox.Config{}), tl, args, wire.Stateless, seed, 0)
		if err != nil {
			var refusal *sallyport.Refusal
			if !errors.As(err, &refusal) {
				t.Fatal(err)
			}
			return
		}
		if _, err := wire.Scan(wire.AppendResult(nil, []byte("1"), got), wire.Limits{}); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if len(tl.Examples) > 0 {
			return
		}
		s, err := schema.Compile(output)
		if err != nil {
			t.Fatal(err)
		}
		value, _, err := wire.Field(got, "structuredContent")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(value); err != nil {
			t.Fatalf("%s: %v", value, err)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	w := sandbox.New(sandbox.Config{})
	args := []byte(`{"id":"cus_0001"}`)
	for name, tl := range map[string]*sallyport.Tool{
		"schema":  tool(b, customerSchema),
		"example": tool(b, "", `{"id":"cus_0001"} => {"id":"cus_0001","email":"ada@example.com"}`),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := answerOf(w, tl, args, wire.Stateless, 1, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRealSchemas: what tools, shops and this program's own API say of their arguments and
// results can be made up, from any seed.
func TestRealSchemas(t *testing.T) {
	t.Parallel()
	var all [][]byte
	collect := func(raw []byte) {
		var walk func(raw []byte)
		walk = func(raw []byte) {
			if items, err := wire.Elements(raw); err == nil {
				for _, item := range items {
					walk(item)
				}
				return
			}
			_ = wire.Each(raw, func(name string, value []byte) error {
				switch name {
				case "inputSchema", "outputSchema", "parameters", "schema":
					if value[0] == '{' {
						all = append(all, value)
					}
				default:
					walk(value)
				}
				return nil
			})
		}
		walk(raw)
	}
	files, err := filepath.Glob(filepath.Join("..", "demo", "tools", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, filepath.Join("..", "openapi", "testdata", "shop.json"), filepath.Join("..", "twin", "testdata", "retail", "retail.json.gz")) {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if raw, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		collect(raw)
	}
	made := 0
	for _, output := range all {
		s, err := schema.Compile(output)
		if err != nil {
			continue // it refers to another part of its document
		}
		made++
		for seed := range uint64(10) {
			got, err := answerOf(sandbox.New(sandbox.Config{}), tool(t, string(output)), nil, wire.Stateless, seed, 0)
			if err != nil {
				t.Errorf("%s, seed %d: %v", output, seed, err)
				break
			}
			if err := s.Validate([]byte(structured(t, string(got)))); err != nil {
				t.Errorf("%s: %s: %v", output, got, err)
			}
		}
	}
	if made < 30 {
		t.Errorf("only %d schemas of %d", made, len(all))
	}
	t.Logf("%d schemas of %d", made, len(all))
}
