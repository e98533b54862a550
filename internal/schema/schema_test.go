package schema_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/internal/schema"
)

func compile(t testing.TB, raw string) *schema.Schema {
	t.Helper()
	s, err := schema.Compile([]byte(raw))
	if err != nil {
		t.Fatalf("compile %.200s: %v", raw, err)
	}
	return s
}

const refundSchema = `{
	"type": "object",
	"properties": {
		"payment": {"type": "string", "pattern": "^pay_[0-9]+$"},
		"amount": {"type": "integer", "minimum": 1, "maximum": 100000},
		"reason": {"type": "string", "maxLength": 20},
		"speed": {"enum": ["slow", "fast"]},
		"lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}, "maxItems": 2},
		"to": {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "object", "properties": {"iban": {"type": "string", "minLength": 4}}, "required": ["iban"]}]}
	},
	"required": ["payment", "amount"],
	"additionalProperties": false
}`

// What a model is told, word for word: it has to be able to act on it.
func TestReasons(t *testing.T) {
	t.Parallel()
	tests := []struct{ value, want, expected string }{
		{`{"payment":"pay_1","amount":40}`, "", ""},
		{`{"payment":"pay_1","amount":"12"}`, `/amount: want integer, got string "12"`, "integer"},
		{`{"payment":"pay_1","amount":12.5}`, `/amount: want integer, got number 12.5`, "integer"},
		{`{"payment":"pay_1","amount":1e2}`, "", ""},
		{`{"payment":"pay_1","amount":0}`, `/amount: want at least 1, got number 0`, "at least 1"},
		{`{"payment":"pay_1","amount":100000.5e0}`, `/amount: want integer, got number 100000.5e0`, "integer"},
		{`{"payment":"pay_1","amount":12345678901234567890}`, `/amount: want at most 100000, got number 12345678901234567890`, "at most 100000"},
		{`{"payment":"p1","amount":1}`, `/payment: want text that matches ^pay_[0-9]+$, got string "p1"`, "text that matches ^pay_[0-9]+$"},
		{`{"payment":"pay_1"}`, `missing required property "amount" (integer)`, `property "amount"`},
		{``, `missing required properties "amount" (integer), "payment" (string)`, `properties "amount", "payment"`},
		{`[]`, `want object, got an array`, "object"},
		{`{"payment":"pay_1","amount":1,"reason":"ääääääääääääääääääää"}`, "", ""},
		{`{"payment":"pay_1","amount":1,"reason":"äääääääääääääääääääää"}`, `/reason: want at most 20 characters, got 21`, "at most 20 characters"},
		{`{"payment":"pay_1","amount":1,"speed":"warp"}`, `/speed: want one of "slow", "fast", got string "warp"`, `one of "slow", "fast"`},
		{`{"payment":"pay_1","amount":1,"a/b~c":1}`, `/a~1b~0c: unknown property; known are "amount", "lines", "payment", "reason", "speed", "to"`, `known are "amount", "lines", "payment", "reason", "speed", "to"`},
		{`{"payment":"pay_1","amount":1,"lines":[{"sku":"a"},{"sku":2}]}`, `/lines/1/sku: want string, got number 2`, "string"},
		{`{"payment":"pay_1","amount":1,"lines":[{"sku":"a"},{}]}`, `/lines/1: missing required property "sku" (string)`, `property "sku"`},
		{`{"payment":"pay_1","amount":1,"lines":[{"sku":"a"},{"sku":"b"},{"sku":"c"}]}`, `/lines: want at most 2 items, got 3`, "at most 2 items"},
		{`{"payment":"pay_1","amount":1,"to":null}`, "", ""},
		{`{"payment":"pay_1","amount":1,"to":3}`, `/to: want string, or null, or object, got number 3`, "string, or null, or object"},
		{`{"payment":"pay_1","amount":1,"to":{"iban":"DE"}}`, `/to/iban: want at least 4 characters, got 2`, "at least 4 characters"},
		{`{"payment":"pay_1","amount":1,"reason":"\ud83d\ude00\u00e4"}`, "", ""},
		{`{"p\u0061yment":"pay_1","amount":1}`, "", ""},
	}
	s := compile(t, refundSchema)
	for _, test := range tests {
		err := s.Validate([]byte(test.value))
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.value, err)
			}
			continue
		}
		var bad *schema.Invalid
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want %s", test.value, err, test.want)
			continue
		}
		if bad.Error() != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.value, bad.Error(), test.want)
		}
		if bad.Expected != test.expected {
			t.Errorf("%s: expected %q, want %q", test.value, bad.Expected, test.expected)
		}
	}
}

// Where no form fits, the reason is about the one that is meant.
func TestFormMeant(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"oneOf":[
		{"properties":{"kind":{"const":"all"},"name":{"const":""}},"required":["kind"]},
		{"properties":{"kind":{"const":"run"},"name":{"type":"string","pattern":"^run_"}},"required":["kind","name"]},
		{"properties":{"kind":{"const":"tool"},"name":{"type":"string","pattern":"/"},"of":{"type":"object","properties":{"x":{"type":"integer"}}}},"required":["kind","name"]},
		{"type":"string"}]}`)
	for value, want := range map[string]string{
		`{"kind":"run","name":"7"}`:                   `/name: want text that matches ^run_, got string "7"`,
		`{"name":"7","kind":"run"}`:                   `/name: want text that matches ^run_, got string "7"`,
		`{"kind":"run"}`:                              `missing required property "name" (string)`,
		`{"kind":"tool","name":"a/b","of":{"x":"1"}}`: `/of/x: want integer, got string "1"`,
		`{"kind":"other","name":"7"}`:                 `/kind: want "all", or "run", or "tool", got string "other"`,
		`{"kind":"all","name":"7"}`:                   `/name: want "", got string "7"`,
		`{"kind":"tool","name":"all","mode":"x"}`:     `/name: want text that matches /, got string "all"`,
	} {
		if err := s.Validate([]byte(value)); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", value, err, want)
		}
	}
}

func TestKeywords(t *testing.T) {
	t.Parallel()
	const draft7 = `"$schema":"http://json-schema.org/draft-07/schema#",`
	const draft2019 = `"$schema":"https://json-schema.org/draft/2019-09/schema",`
	tests := []struct {
		schema     string
		fit, unfit []string
	}{
		{`true`, []string{`1`, `{}`, `null`}, nil},
		{`false`, nil, []string{`1`, `{}`}},
		{`{}`, []string{`1`, `[[]]`}, nil},
		{`{"type":["integer","null"]}`, []string{`1`, `1.0`, `-0`, `10e-1`, `null`, `12345678901234567890`}, []string{`1.5`, `1e-1`, `"1"`, `true`}},
		{`{"type":"number"}`, []string{`1`, `1.5`}, []string{`"1"`}},
		{`{"const":12345678901234567890}`, []string{`12345678901234567890`, `1234567890123456789e1`, `12345678901234567890.0`}, []string{`12345678901234567891`, `12345678901234567000`}},
		{`{"enum":[1,"a",null,{"b":[1,2]}]}`, []string{`1.0`, `"a"`, `null`, `{"b":[1.0,2]}`}, []string{`2`, `"b"`, `{"b":[2,1]}`, `false`}},
		{`{"const":"a","enum":["b"]}`, nil, []string{`"a"`, `"b"`}},
		{`{"const":null}`, []string{`null`}, []string{`0`, `{}`}},
		{`{"maximum":9007199254740993}`, []string{`9007199254740993`}, []string{`9007199254740994`}},
		{`{"maximum":12345678901234567890}`, []string{`12345678901234567890`, `-1e900`}, []string{`12345678901234567890.1`, `1e20`}},
		{`{"exclusiveMinimum":0,"exclusiveMaximum":1}`, []string{`0.5`, `1e-30`}, []string{`0`, `-0.0`, `1.0`}},
		{`{"multipleOf":0.01}`, []string{`19.99`, `0`, `1e2`}, []string{`0.001`}},
		{`{"minLength":2,"maxLength":2}`, []string{`"ab"`, `"😀ä"`, `"\ud83d\ude00a"`, `3`}, []string{`"a"`, `"abc"`}},
		{`{"pattern":"^\\u00e4\\/"}`, []string{`"ä/"`}, []string{`"a/"`}},
		{`{"pattern":"b"}`, []string{`"abc"`, `1`}, []string{`"ac"`}},
		{`{"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":{"type":"integer"}}`, []string{`{"x-a":"b","c":1}`}, []string{`{"x-a":1}`, `{"c":"d"}`}},
		{`{"properties":{"a":false}}`, []string{`{"b":1}`}, []string{`{"a":1}`}},
		{`{"propertyNames":{"maxLength":1}}`, []string{`{"a":1}`, `{"\u00e4":1}`}, []string{`{"ab":1}`}},
		{`{"minProperties":1,"maxProperties":2}`, []string{`{"a":1}`}, []string{`{}`, `{"a":1,"b":1,"c":1}`}},
		{`{"dependentRequired":{"a":["b"]},"dependentSchemas":{"c":{"required":["d"]}}}`, []string{`{"a":1,"b":1}`, `{"c":1,"d":1}`, `{}`}, []string{`{"a":1}`, `{"c":1}`}},
		{`{` + draft7 + `"dependencies":{"a":["b"],"c":{"required":["d"]}}}`, []string{`{"a":1,"b":1}`}, []string{`{"a":1}`, `{"c":1}`}},
		{`{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`, []string{`["a",1,2]`, `[]`}, []string{`[1]`, `["a","b"]`}},
		{`{` + draft7 + `"items":[{"type":"string"}],"additionalItems":false}`, []string{`["a"]`}, []string{`["a",1]`, `[1]`}},
		{`{` + draft2019 + `"items":[{"type":"string"}],"additionalItems":{"type":"integer"}}`, []string{`["a",1]`}, []string{`["a","b"]`}},
		{`{"contains":{"type":"string"},"minContains":2,"maxContains":3}`, []string{`["a","b",1]`}, []string{`["a"]`, `["a","b","c","d"]`}},
		{`{"contains":{"type":"string"},"minContains":0}`, []string{`[]`}, nil},
		{`{"uniqueItems":true}`, []string{`[1,2,"1"]`, `[{"a":1},{"a":2}]`}, []string{`[1,1.0]`, `[{"a":1,"b":2},{"b":2,"a":1}]`}},
		{`{"minItems":1,"maxItems":1}`, []string{`[1]`}, []string{`[]`, `[1,2]`}},
		{`{"allOf":[{"minimum":1},{"maximum":2}]}`, []string{`1`}, []string{`0`, `3`}},
		{`{"oneOf":[{"minimum":1},{"maximum":2}]}`, []string{`0`, `3`}, []string{`1`}},
		{`{"not":{"type":"string"}}`, []string{`1`}, []string{`"a"`}},
		{`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, []string{`{"a":1,"b":1}`, `{"c":1}`}, []string{`{"a":1}`, `{}`}},
		{`{"then":false}`, []string{`1`}, nil},
		{`{"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}},"additionalProperties":false}},"$ref":"#/$defs/n"}`, []string{`{"next":{"next":{}}}`}, []string{`{"next":{"next":{"x":1}}}`}},
		{`{"$id":"https://example.com/tool.json","$defs":{"a b":{"$anchor":"named","type":"string"}},"properties":{"x":{"$ref":"https://example.com/tool.json#/$defs/a%20b"},"y":{"$ref":"#named"}}}`, []string{`{"x":"a"}`}, []string{`{"x":1}`, `{"y":1}`}},
		{`{` + draft7 + `"definitions":{"s":{"type":"string"}},"properties":{"a":{"$ref":"#/definitions/s","type":"integer"}}}`, []string{`{"a":"b"}`}, []string{`{"a":1}`}},
		{`{"$defs":{"s":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/s","maxLength":1}}}`, []string{`{"a":"b"}`}, []string{`{"a":"bb"}`}},
		{`{"components":{"schemas":{"P":{"type":"string"}}},"properties":{"p":{"$ref":"#/components/schemas/P"}}}`, []string{`{"p":"x"}`}, []string{`{"p":1}`}},
		{`{"properties":{"children":{"type":"array","items":{"$dynamicRef":"#node"}}},"$dynamicAnchor":"node","required":["id"]}`, []string{`{"id":1,"children":[{"id":2}]}`}, []string{`{"id":1,"children":[{}]}`}},
		{`{` + draft2019 + `"$recursiveAnchor":true,"properties":{"child":{"$recursiveRef":"#"}},"required":["id"]}`, []string{`{"id":1,"child":{"id":1}}`}, []string{`{"id":1,"child":{}}`}},
		{`{"properties":{"a":{}},"unevaluatedProperties":false}`, []string{`{"a":1}`}, []string{`{"b":1}`}},
		{`{"$schema":"http://json-schema.org/draft-04/schema#","minimum":1,"exclusiveMinimum":true}`, []string{`2`}, []string{`1`}},
		{`{"$schema":"http://json-schema.org/draft-06/schema#","const":1}`, []string{`1`}, []string{`2`}},
		{`{"format":"email"}`, []string{`"not an address"`}, nil},
		{`{` + draft7 + `"format":"email"}`, []string{`"not an address"`}, nil},
		{`{"properties":{"format":{"type":"string"},"$schema":{"type":"string"},"$ref":{"type":"string"},"$id":{"type":"string"}}}`, []string{`{"format":"x"}`}, []string{`{"format":1}`, `{"$ref":1}`, `{"$schema":1}`, `{"$id":1}`}},
		{`{"default":{"$ref":"https://example.com/x"},"examples":[{"$id":"y"}]}`, []string{`1`}, nil},
	}
	for _, test := range tests {
		s, oracle, err := schema.CompileBoth([]byte(test.schema))
		if err != nil {
			t.Errorf("%s: %v", test.schema, err)
			continue
		}
		check := func(values []string, fit bool) {
			for _, value := range values {
				if err := s.Validate([]byte(value)); (err == nil) != fit {
					t.Errorf("%s of %s: %v, want fit=%t", value, test.schema, err, fit)
				}
				v, err := schema.Parse([]byte(value))
				if err != nil {
					t.Fatal(err)
				}
				if oracle.Fits(v) != fit {
					t.Errorf("%s of %s: the library says fit=%t", value, test.schema, !fit)
				}
			}
		}
		check(test.fit, true)
		check(test.unfit, false)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"items":`, 70) + `{}` + strings.Repeat(`}`, 70)
	wide := `{"properties":{"a":{}`
	for i := range schema.MaxSubschemas {
		wide += fmt.Sprintf(`,"p%d":{}`, i)
	}
	wide += "}}"
	tests := []struct{ schema, want string }{
		{``, "not JSON"},
		{`{`, "not JSON"},
		{`{} {}`, "more than one"},
		{`[]`, "want an object or a boolean, got array"},
		{`null`, "got null"},
		{`{"type":"object","type":"string"}`, "duplicate"},
		{"{\"title\":\"\xff\"}", "UTF-8"},
		{`{"type":"strnig"}`, `/type: "strnig" is not a type`},
		{`{"properties":{"a":{"type":1}}}`, "/properties/a/type"},
		{`{"properties":{"a":1}}`, "/properties/a: want an object or a boolean, got number"},
		{`{"required":"a"}`, "/required"},
		{`{"minLength":-1}`, "minLength"},
		{`{"minLength":1e30}`, "/minLength: 1e30 is not a count"},
		{`{"minimum":1e999999}`, "number out of range"},
		{`{"minimum":` + strings.Repeat("1", 600) + `}`, "number out of range"},
		{`{"multipleOf":0}`, "multipleOf"},
		{`{"$ref":"https://example.com/other.json"}`, "/$ref: \"https://example.com/other.json\" leads out of the document"},
		{`{"$ref":"other.json#/a"}`, "leads out of the document"},
		{`{"$ref":"file:///etc/passwd"}`, "leads out of the document"},
		{`{"$ref":"http://json-schema.org/draft-07/schema#"}`, "leads out of the document"},
		{`{"$id":"https://example.com/a","$ref":"https://example.com/abc"}`, "leads out of the document"},
		{`{"$defs":{"unused":{"$ref":"https://example.com/"}}}`, "/$defs/unused/$ref"},
		{`{"properties":{"a":{"$dynamicRef":"https://example.com/"}}}`, "leads out"},
		{`{"$ref":"#/nowhere"}`, "nothing at"},
		{`{"$ref":"#/a/01","a":[true,true]}`, "nothing at"},
		{`{"$ref":"#nobody"}`, "no anchor"},
		{`{"$ref":"#/title","title":"x"}`, "/title: want an object or a boolean, got string"},
		{`{"$defs":{"a":{"$id":"https://example.com/b"}}}`, "embedded"},
		{`{"$schema":"https://example.com/my-schema"}`, "/$schema"},
		{`{"$schema":7}`, "/$schema"},
		{`{"pattern":"(?=a)"}`, "/pattern"},
		{`{"pattern":"("}`, "/pattern"},
		{`{"pattern":"(a{1000}b{1000}c{1000}d{1000}e{1000}f{1000}g{1000}h{1000}i{1000}j{1000}k{1000})"}`, "too large"},
		{`{"patternProperties":{"(a+)\\1":{}}}`, "/patternProperties"},
		{`{"$ref":"#"}`, "refers to itself"},
		{`{"anyOf":[{"type":"string"},{"$ref":"#"}]}`, "refers to itself"},
		{`{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}`, "refers to itself"},
		{`{"properties":{"a":{"$ref":"#"}},"unevaluatedProperties":false}`, "may not refer to itself"},
		{`{"$defs":{"a":{"$anchor":"x"},"b":{"$anchor":"x"}}}`, "anchor"},
		{deep, "nested too deep"},
		{wide, "more than 4096 subschemas"},
		{`{"description":"` + strings.Repeat("x", schema.MaxBytes) + `"}`, "at most 262144"},
	}
	for _, test := range tests {
		_, err := schema.Compile([]byte(test.schema))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.120s: got %v, want …%s…", test.schema, err, test.want)
		}
	}
}

// A schema whose branches lead to each other again takes 2^depth steps if nobody
// counts them.
func TestWorkIsBounded(t *testing.T) {
	t.Parallel()
	doubling := `{"$defs":{"a":{"items":{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}}},"$ref":"#/$defs/a"}`
	hidden := `{"$defs":{"a":{"items":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]},"type":"array"}},"not":{"$ref":"#/$defs/a"}}`
	chain := `{"$defs":{`
	for i := range 40 {
		chain += fmt.Sprintf(`"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, i+1, i+1)
	}
	chain += `"d40":{}},"$ref":"#/$defs/d0"}`
	nested := strings.Repeat("[", 100) + `1` + strings.Repeat("]", 100)
	for _, test := range []struct{ schema, value string }{{doubling, nested}, {hidden, nested}, {chain, `1`}} {
		s := compile(t, test.schema)
		started := time.Now()
		err := s.Validate([]byte(test.value))
		if err == nil || !strings.Contains(err.Error(), "too much work") {
			t.Errorf("%.80s: %v", test.schema, err)
		}
		if spent := time.Since(started); spent > 5*time.Second {
			t.Errorf("%.80s: took %v", test.schema, spent)
		}
	}
	if _, err := schema.Compile([]byte(strings.Replace(chain, `"d40":{}`, `"d40":{"unevaluatedItems":false}`, 1))); err == nil || !strings.Contains(err.Error(), "share parts") {
		t.Errorf("a chain the library cannot bound: %v", err)
	}
	for _, value := range []string{strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"a":1e999999}`, strings.Repeat("9", 600)} {
		if err := compile(t, `{"properties":{"a":{"minimum":0}},"items":{"items":{}},"minimum":0}`).Validate([]byte(value)); value[0] != '[' && err == nil {
			t.Errorf("%.40s: accepted", value)
		}
	}
	if err := compile(t, `{"items":{"$ref":"#"}}`).Validate([]byte(strings.Repeat("[", 200) + strings.Repeat("]", 200))); err == nil || !strings.Contains(err.Error(), "nested too deep") {
		t.Errorf("200 levels: %v", err)
	}
	// Members beyond what a fixed machine word counts.
	required, value := `{"required":["p0"`, `{"p0":1`
	for i := 1; i < 100; i++ {
		required += fmt.Sprintf(`,"p%d"`, i)
		value += fmt.Sprintf(`,"p%d":1`, i)
	}
	s := compile(t, required+`]}`)
	if err := s.Validate([]byte(value + "}")); err != nil {
		t.Error(err)
	}
	if err := s.Validate([]byte(strings.Replace(value, `"p77":1,`, "", 1) + "}")); err == nil || err.Error() != `missing required property "p77"` {
		t.Error(err)
	}
}

// Validate must not run out of bounds whatever it is given.
func TestValidateSurvivesGarbage(t *testing.T) {
	t.Parallel()
	s := compile(t, refundSchema)
	for _, value := range []string{"{", `{"`, `{"payment`, `{"payment":`, `{"payment":"`, `{"payment":"a\`, `{"payment":"a\u00`, `{"a":1,}`, `{"a"}`, `[1`, `[1,]`, `nul`, ` `, `{}x`, `{}{}`, `"`, `]`, `{"lines":[`, `{"lines":[{}`, `{"a":[}]`} {
		if err := s.Validate([]byte(value)); err == nil {
			t.Errorf("%q accepted", value)
		}
	}
}
