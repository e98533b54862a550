package schema_test

import (
	"encoding/json"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"sallyport/internal/schema"
)

// words from which schemas and values are made; few, so that they meet.
var (
	names   = []string{"a", "b", "ä", "x-1", "/~"}
	scalars = []string{
		`null`, `true`, `false`, `0`, `-0`, `1`, `1.0`, `2`, `-1`, `1.5`, `10`, `1e1`, `12345678901234567890`,
		`12345678901234567891`, `1e-3`, `0.3`, `""`, `"a"`, `"ab"`, `"ä"`, `"\u00e4"`, `"😀"`, `"\ud83d\ude00"`, `"a\nb"`,
	}
	kinds    = []string{"null", "boolean", "integer", "number", "string", "array", "object"}
	patterns = []string{"a", "^a$", "^.$", "[0-9]+", "^x-", "\\u00e4", "b|c"}
	bounds   = []string{`0`, `1`, `1.5`, `2`, `10`, `12345678901234567890`, `-1`}
	units    = []string{`1`, `2`, `0.1`, `0.5`, `3`}
	anchors  = []string{"#", "#/$defs/a", "#/$defs/b", "#/definitions/a", "#/properties/a"}
)

func raw(s string) json.RawMessage { return json.RawMessage(s) }

func drawValue(t *rapid.T, depth int) json.RawMessage {
	switch n := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case n < 2 && depth > 0:
		object := map[string]json.RawMessage{}
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			object[rapid.SampledFrom(names).Draw(t, "name")] = drawValue(t, depth-1)
		}
		return marshal(object)
	case n < 4 && depth > 0:
		list := []json.RawMessage{}
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			list = append(list, drawValue(t, depth-1))
		}
		return marshal(list)
	default:
		return raw(rapid.SampledFrom(scalars).Draw(t, "scalar"))
	}
}

func marshal(v any) json.RawMessage {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return out
}

func drawSchema(t *rapid.T, depth int) json.RawMessage {
	if depth == 0 || rapid.IntRange(0, 9).Draw(t, "plain") == 0 {
		return raw(rapid.SampledFrom([]string{`true`, `false`, `{}`, `{"type":"string"}`, `{"type":"integer"}`}).Draw(t, "leaf"))
	}
	sub := func() json.RawMessage { return drawSchema(t, depth-1) }
	list := func() json.RawMessage {
		out := []json.RawMessage{sub()}
		for range rapid.IntRange(0, 2).Draw(t, "more") {
			out = append(out, sub())
		}
		return marshal(out)
	}
	named := func(keys []string) json.RawMessage {
		out := map[string]json.RawMessage{}
		for range rapid.IntRange(1, 3).Draw(t, "count") {
			out[rapid.SampledFrom(keys).Draw(t, "key")] = sub()
		}
		return marshal(out)
	}
	count := func() json.RawMessage { return raw(strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "n"))) }
	needs := func() json.RawMessage {
		return marshal(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID[string]).Draw(t, "needs"))
	}
	from := func(words []string) json.RawMessage { return raw(rapid.SampledFrom(words).Draw(t, "from")) }
	text := func(words []string) json.RawMessage { return marshal(rapid.SampledFrom(words).Draw(t, "word")) }
	make := map[string]func() json.RawMessage{
		"type":    func() json.RawMessage { return text(kinds) },
		"enum":    func() json.RawMessage { return marshal([]json.RawMessage{drawValue(t, 1), drawValue(t, 1)}) },
		"const":   func() json.RawMessage { return drawValue(t, 1) },
		"minimum": func() json.RawMessage { return from(bounds) }, "maximum": func() json.RawMessage { return from(bounds) },
		"exclusiveMinimum": func() json.RawMessage { return from(bounds) }, "exclusiveMaximum": func() json.RawMessage { return from(bounds) },
		"multipleOf": func() json.RawMessage { return from(units) },
		"minLength":  count, "maxLength": count, "minItems": count, "maxItems": count, "minProperties": count, "maxProperties": count,
		"minContains": count, "maxContains": count,
		"pattern":           func() json.RawMessage { return text(patterns) },
		"properties":        func() json.RawMessage { return named(names) },
		"patternProperties": func() json.RawMessage { return named(patterns) },
		"$defs":             func() json.RawMessage { return named(names[:2]) },
		"definitions":       func() json.RawMessage { return named(names[:1]) },
		"dependentSchemas":  func() json.RawMessage { return named(names) },
		"dependencies":      func() json.RawMessage { return named(names) },
		"dependentRequired": func() json.RawMessage {
			return marshal(map[string]json.RawMessage{rapid.SampledFrom(names).Draw(t, "if"): needs()})
		},
		"required":             needs,
		"uniqueItems":          func() json.RawMessage { return from([]string{"true", "false"}) },
		"additionalProperties": sub, "propertyNames": sub, "items": sub, "contains": sub, "not": sub, "if": sub, "then": sub, "else": sub,
		"additionalItems": sub, "unevaluatedProperties": sub, "unevaluatedItems": sub,
		"allOf": list, "anyOf": list, "oneOf": list, "prefixItems": list,
		"$ref": func() json.RawMessage { return text(anchors) },
	}
	words := rapid.SliceOfNDistinct(rapid.SampledFrom(sortedKeys(make)), 1, 5, rapid.ID[string]).Draw(t, "words")
	out := map[string]json.RawMessage{}
	for _, word := range words {
		out[word] = make[word]()
	}
	return marshal(out)
}

// Whatever the library and the walker are both asked, they say the same.
func TestWalkerAgreesWithLibrary(t *testing.T) {
	t.Parallel()
	var asked, fits, own int
	rapid.Check(t, func(t *rapid.T) {
		text := drawSchema(t, 3)
		if draft := rapid.SampledFrom([]string{"", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema"}).Draw(t, "draft"); draft != "" && text[0] == '{' {
			var object map[string]json.RawMessage
			if err := json.Unmarshal(text, &object); err != nil {
				t.Fatal(err)
			}
			object["$schema"] = marshal(draft)
			text = marshal(object)
		}
		s, oracle, err := schema.CompileBoth(text)
		if err != nil {
			return // a reference to nowhere or to itself
		}
		for range 8 {
			value := drawValue(t, 3)
			asked++
			if agree(t, s, oracle, text, value) {
				fits++
			}
			if !oracle.Foreign {
				own++
			}
		}
	})
	if own < asked/2 || fits < asked/20 || fits > asked*19/20 {
		t.Errorf("%d values, %d fit, %d were the walker's: the generators have drifted", asked, fits, own)
	}
}

// agree compares the verdicts, and the verdict with and without a reason.
func agree(t interface {
	Errorf(string, ...any)
	Fatal(...any)
}, s *schema.Schema, oracle *schema.Oracle, text, value []byte) bool {
	v, err := schema.Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	got := s.Validate(value)
	if want := oracle.Fits(v); (got == nil) != want {
		t.Errorf("schema %s\nvalue %s\nwe say %v, the library fits=%t", text, value, got, want)
	}
	if got != nil && got.Error() == "not one JSON value" {
		t.Errorf("schema %s\nvalue %s\nfits when asked for a reason", text, value)
	}
	return got == nil
}

var schemaSeeds = []string{
	refundSchema, `true`, `{"$ref":"#/$defs/a","$defs":{"a":{"type":"array","items":{"$ref":"#/$defs/a"},"minItems":1}}}`,
	`{"oneOf":[{"required":["a"]},{"required":["b"]}],"not":{"required":["c"]}}`,
	`{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"const":1}],"additionalItems":{"enum":[1,"a",null]}}`,
	`{"patternProperties":{"^a":{"multipleOf":0.1}},"propertyNames":{"maxLength":3},"minProperties":1}`,
	`{"properties":{"a":{"uniqueItems":true,"contains":{"type":"integer"}}},"unevaluatedProperties":false}`,
	`{"if":{"minimum":1e3},"then":{"maximum":12345678901234567890},"else":{"exclusiveMaximum":-0.5}}`,
}

var valueSeeds = []string{
	`{"payment":"pay_1","amount":40}`, `[[1],[[]]]`, `{"a":[1,1.0]}`, `{"b":2}`, `[1,null,"a"]`, `{"abc":0.30}`, `12345678901234567890`,
	`"\ud83d\ude00"`, `"\ud800"`, ` { "a" : [ 1 , 2 ] } `, `{"a":1,"b":{}}`, `-0.5e0`, `{"\u0061":"\/"}`,
}

// FuzzValidate gives outside schemas and values to both judges.
func FuzzValidate(f *testing.F) {
	for _, s := range schemaSeeds {
		for _, v := range valueSeeds {
			f.Add([]byte(s), []byte(v))
		}
	}
	f.Fuzz(func(t *testing.T, text, value []byte) {
		if len(text) > 4096 || len(value) > 4096 {
			return
		}
		s, oracle, err := schema.CompileBoth(text)
		if err != nil {
			return
		}
		if _, err := schema.Parse(value); err != nil {
			_ = s.Validate(value) // must only survive it
			return
		}
		if err := s.Validate(value); err != nil {
			switch err.Error() {
			case "too much work to check against this schema":
				return // the library would not come back
			}
		}
		agree(t, s, oracle, text, value)
	})
}

// FuzzCompile only has to come back, with or without a schema.
func FuzzCompile(f *testing.F) {
	for _, s := range schemaSeeds {
		f.Add([]byte(s))
	}
	for _, s := range []string{`{"$ref":"#/%2"}`, `{"pattern":"\\u{1F600}\\ud83d\\ude00\\u12"}`, `{"$id":7,"$anchor":{}}`, `{"type":[]}`, `{"required":[1]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := schema.Compile(text)
		if (s == nil) == (err == nil) {
			t.Fatalf("schema %v, error %v", s, err)
		}
	})
}
