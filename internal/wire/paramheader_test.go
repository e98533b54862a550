package wire_test

import (
	"errors"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

func TestParamHeaders(t *testing.T) {
	ps := func(p ...wire.ParamHeader) []wire.ParamHeader { return p }
	region := wire.ParamHeader{Header: "Region", Path: []string{"region"}, Type: "string"}
	for _, c := range []struct {
		name, schema string
		want         []wire.ParamHeader
		refused      string // a part of the reason
	}{
		{"none", `{"type":"object","properties":{"a":{"type":"string"}}}`, nil, ""},
		{"none, with escapes", `{"type":"object","description":"a \"b\"","properties":{"a":{"type":["string","null"],"items":[true,{"not":{}}]}}}`, nil, ""},
		{"one", `{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"q":{"type":"string"}}}`, ps(region), ""},
		{"written with escapes", `{"properties":{"regi\u006fn":{"typ\u0065":"string","x-mcp-h\u0065ader":"R\u0065gion"}}}`, ps(region), ""},
		{"of each type, nested", `{"properties":{"a":{"properties":{"b":{"properties":{"c":{"x-mcp-header":"C","type":"integer"}}},"d":{"type":"boolean","x-mcp-header":"D-1"}}},"region":{"x-mcp-header":"Region","type":"string"}}}`,
			ps(wire.ParamHeader{Header: "C", Path: []string{"a", "b", "c"}, Type: "integer"}, wire.ParamHeader{Header: "D-1", Path: []string{"a", "d"}, Type: "boolean"}, region), ""},
		{"siblings far down", `{"properties":{"a":{"properties":{"b":{"properties":{"c":{"properties":{"d":{"type":"string","x-mcp-header":"D"},"e":{"type":"string","x-mcp-header":"E"}}}}}}}}}`,
			ps(wire.ParamHeader{Header: "D", Path: []string{"a", "b", "c", "d"}, Type: "string"}, wire.ParamHeader{Header: "E", Path: []string{"a", "b", "c", "e"}, Type: "string"}), ""},
		{"a property of that name", `{"properties":{"x-mcp-header":{"type":"string"},"properties":{"properties":{"type":{"type":"string","x-mcp-header":"T"}}}}}`,
			ps(wire.ParamHeader{Header: "T", Path: []string{"properties", "type"}, Type: "string"}), ""},
		{"a definition of that name", `{"$defs":{"x-mcp-header":{"type":"string"}}}`, nil, ""},
		{"in values", `{"properties":{"a":{"default":{"x-mcp-header":""},"const":{"x-mcp-header":1},"enum":[{"x-mcp-header":2}],"examples":[{"x-mcp-header":3}]}}}`, nil, ""},
		{"every character of a token", `{"properties":{"region":{"type":"string","x-mcp-header":"!#$%&'*+-.^_|~09azAZ` + "`" + `"}}}`,
			ps(wire.ParamHeader{Header: "!#$%&'*+-.^_|~09azAZ`", Path: []string{"region"}, Type: "string"}), ""},

		{"empty", `{"properties":{"a":{"type":"string","x-mcp-header":""}}}`, nil, "not the name of a header"},
		{"space", `{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}`, nil, "not the name of a header"},
		{"colon", `{"properties":{"a":{"type":"string","x-mcp-header":"a:"}}}`, nil, "not the name of a header"},
		{"line feed", `{"properties":{"a":{"type":"string","x-mcp-header":"a\nb"}}}`, nil, "not the name of a header"},
		{"beyond ASCII", `{"properties":{"a":{"type":"string","x-mcp-header":"ä"}}}`, nil, "not the name of a header"},
		{"a number", `{"properties":{"a":{"type":"string","x-mcp-header":1}}}`, nil, "not a string"},
		{"null", `{"properties":{"a":{"type":"string","x-mcp-header":null}}}`, nil, "not a string"},
		{"of type number", `{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}`, nil, "other than"},
		{"of type object", `{"properties":{"a":{"type":"object","x-mcp-header":"A"}}}`, nil, "other than"},
		{"of two types", `{"properties":{"a":{"type":["string","null"],"x-mcp-header":"A"}}}`, nil, "other than"},
		{"of no type", `{"properties":{"a":{"x-mcp-header":"A"}}}`, nil, "other than"},
		{"twice", `{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"properties":{"c":{"type":"string","x-mcp-header":"a"}}}}}`, nil, "repeats"},
		{"on the root", `{"type":"string","x-mcp-header":"A"}`, nil, "do not lead"},
		{"in items", `{"properties":{"a":{"items":{"type":"string","x-mcp-header":"A"}}}}`, nil, "do not lead"},
		{"in properties of items", `{"properties":{"a":{"items":{"properties":{"b":{"type":"string","x-mcp-header":"A"}}}}}}`, nil, "do not lead"},
		{"in a list of items", `{"properties":{"a":{"prefixItems":[{},{"type":"string","x-mcp-header":"A"}]}}}`, nil, "do not lead"},
		{"in anyOf", `{"properties":{"a":{"anyOf":[{"type":"string","x-mcp-header":"A"}]}}}`, nil, "do not lead"},
		{"in if", `{"if":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}`, nil, "do not lead"},
		{"in a definition", `{"properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"string","x-mcp-header":"A"}}}`, nil, "do not lead"},
		{"in patternProperties", `{"patternProperties":{".":{"type":"string","x-mcp-header":"A"}}}`, nil, "do not lead"},
		{"in additionalProperties", `{"additionalProperties":{"type":"string","x-mcp-header":"A"}}`, nil, "do not lead"},
		{"in an unknown keyword", `{"x-acme":[[{"type":"string","x-mcp-header":"A"}]]}`, nil, "do not lead"},
		{"no schema", `["x-mcp-header"]`, nil, "not an object"},
		{"no JSON", `{"x-mcp-header":`, nil, "ends where"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := wire.ParamHeaders([]byte(c.schema))
			var syntax *wire.SyntaxError
			switch {
			case c.refused == "" && err != nil:
				t.Fatal(err)
			case c.refused != "" && (!errors.As(err, &syntax) || !strings.Contains(syntax.Reason, c.refused)):
				t.Fatalf("got %v, want %q", err, c.refused)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var paramHeaders = []wire.ParamHeader{
	{Header: "Region", Path: []string{"region"}, Type: "string"},
	{Header: "Limit", Path: []string{"page", "limit"}, Type: "integer"},
	{Header: "Dry", Path: []string{"dry"}, Type: "boolean"},
}

func TestCheckParamHeaders(t *testing.T) {
	const (
		ok       = 0
		mismatch = wire.HeaderMismatch
		params   = wire.InvalidParams
	)
	for _, c := range []struct {
		name, headers, args string
		code                int
	}{
		{"none", "", `{}`, ok},
		{"no arguments", "", ``, ok},
		{"all", "Mcp-Param-Region: eu\nmcp-param-limit: 42\nMCP-PARAM-DRY: true\n", `{"region":"eu","page":{"limit":42},"dry":true}`, ok},
		{"null", "", `{"region":null,"page":null,"dry":null}`, ok},
		{"nowhere to look", "", `{"page":[1]}`, ok},
		{"others are ignored", "Mcp-Param-Other: x\n", `{}`, ok},
		{"base64", "Mcp-Param-Region: =?base64?w6Q=?=\n", `{"region":"\u00e4"}`, ok},
		{"empty text", "Mcp-Param-Region:\n", `{"region":""}`, ok},
		{"number written otherwise", "Mcp-Param-Limit: 42.0\n", `{"page":{"limit":42}}`, ok},
		{"number written otherwise in the body", "Mcp-Param-Limit: 420\n", `{"page":{"limit":4.2e2}}`, ok},
		{"largest", "Mcp-Param-Limit: 9007199254740991\n", `{"page":{"limit":9007199254740991}}`, ok},
		{"smallest", "Mcp-Param-Limit: -9007199254740991\n", `{"page":{"limit":-9007199254740991}}`, ok},
		{"minus nothing", "Mcp-Param-Limit: 0\n", `{"page":{"limit":-0}}`, ok},

		{"missing", "", `{"region":"eu"}`, mismatch},
		{"missing for an empty text", "", `{"region":""}`, mismatch},
		{"missing for false", "", `{"dry":false}`, mismatch},
		{"without argument", "Mcp-Param-Region: eu\n", `{}`, mismatch},
		{"with null", "Mcp-Param-Region: null\n", `{"region":null}`, mismatch},
		{"other text", "Mcp-Param-Region: us\n", `{"region":"eu"}`, mismatch},
		{"text in another case", "Mcp-Param-Region: EU\n", `{"region":"eu"}`, mismatch},
		{"twice", "Mcp-Param-Region: eu\nMcp-Param-Region: eu\n", `{"region":"eu"}`, mismatch},
		{"raw bytes", "Mcp-Param-Region: ä\n", `{"region":"ä"}`, mismatch},
		{"other number", "Mcp-Param-Limit: 43\n", `{"page":{"limit":42}}`, mismatch},
		{"other sign", "Mcp-Param-Limit: -42\n", `{"page":{"limit":42}}`, mismatch},
		{"not quite the number", "Mcp-Param-Limit: 9007199254740990.9\n", `{"page":{"limit":9007199254740991}}`, mismatch},
		{"no JSON number", "Mcp-Param-Limit: 0x2A\n", `{"page":{"limit":42}}`, mismatch},
		{"plus", "Mcp-Param-Limit: +42\n", `{"page":{"limit":42}}`, mismatch},
		{"underscore", "Mcp-Param-Limit: 4_2\n", `{"page":{"limit":42}}`, mismatch},
		{"boolean in another case", "Mcp-Param-Dry: True\n", `{"dry":true}`, mismatch},
		{"boolean as a number", "Mcp-Param-Dry: 1\n", `{"dry":true}`, mismatch},
		{"text numbers are not compared as numbers", "Mcp-Param-Region: 42.0\n", `{"region":"42"}`, mismatch},

		{"number for text", "Mcp-Param-Region: 1\n", `{"region":1}`, params},
		{"text for a number", "Mcp-Param-Limit: 42\n", `{"page":{"limit":"42"}}`, params},
		{"fraction", "Mcp-Param-Limit: 42.5\n", `{"page":{"limit":42.5}}`, params},
		{"too large", "Mcp-Param-Limit: 9007199254740992\n", `{"page":{"limit":9007199254740992}}`, params},
		{"object", "Mcp-Param-Dry: true\n", `{"dry":{}}`, params},
		{"text for a boolean", "Mcp-Param-Dry: true\n", `{"dry":"true"}`, params},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := wire.CheckParamHeaders(request(t, c.headers), paramHeaders, []byte(c.args))
			var syntax *wire.SyntaxError
			switch {
			case c.code == ok && err != nil:
				t.Error(err)
			case c.code != ok && (!errors.As(err, &syntax) || syntax.Code != c.code):
				t.Errorf("got %v, want code %d", err, c.code)
			}
		})
	}
}

func TestSetParamHeaders(t *testing.T) {
	h := http.Header{"Mcp-Param-Dry": {"stale"}, "Accept": {"kept"}}
	args := []byte(`{"region":"\u00e4","page":{"limit":4.20e1},"dry":null}`)
	if err := wire.SetParamHeaders(h, paramHeaders, args); err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Mcp-Param-Region": {"=?base64?w6Q=?="}, "Mcp-Param-Limit": {"42"}, "Accept": {"kept"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if err := wire.CheckParamHeaders(h, paramHeaders, args); err != nil {
		t.Error(err)
	}
	for _, args := range []string{`{"region":1}`, `{"page":{"limit":9007199254740992}}`, `{"dry":0}`, `{"region":"a","region":"b"}`, `{"region":`} {
		if err := wire.SetParamHeaders(http.Header{}, paramHeaders, []byte(args)); err == nil {
			t.Errorf("%s was accepted", args)
		}
	}
}

// TestIntegersAreExact holds the comparison of numbers against math/big.
func TestIntegersAreExact(t *testing.T) {
	limit := []wire.ParamHeader{{Header: "N", Path: []string{"n"}, Type: "integer"}}
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(
			rapid.StringMatching(`-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?`),
			rapid.StringMatching(`-?900719925474099[0-9]{1,2}(\.0{0,3}[01])?(e0)?`),
			rapid.StringMatching(`-?0\.0{0,20}[0-9]{1,3}e[0-9]{1,2}`),
		).Draw(t, "number")
		exact, ok := new(big.Rat).SetString(number)
		if !ok {
			t.Fatalf("generated %q", number)
		}
		bound := new(big.Rat).SetInt64(1<<53 - 1)
		want := exact.IsInt() && new(big.Rat).Abs(exact).Cmp(bound) <= 0

		h := http.Header{}
		err := wire.SetParamHeaders(h, limit, []byte(`{"n":`+number+`}`))
		if (err == nil) != want {
			t.Fatalf("%s: %v, want %v", number, err, want)
		}
		if want && h.Get("Mcp-Param-N") != exact.Num().String() {
			t.Fatalf("%s is written %q", number, h.Get("Mcp-Param-N"))
		}
	})
}

// FuzzParamHeaders checks that annotations obey the rules of the specification,
// whatever the schema, and that what is set for some arguments passes the check.
func FuzzParamHeaders(f *testing.F) {
	for _, s := range []string{
		`{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}`,
		`{"properties":{"a":{"properties":{"b":{"type":"integer","x-mcp-header":"B"}}}}}`,
		`{"properties":{"a":{"items":{"type":"string","x-mcp-header":"A"}}}}`,
		`{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"boolean","x-mcp-header":"a"}}}`,
		`{"x-mcp-header":"\u0041"}`,
	} {
		f.Add([]byte(s), []byte(`{"region":"eu","a":{"b":7}}`))
	}
	f.Add([]byte(`{"properties":{"n":{"type":"integer","x-mcp-header":"N"}}}`), []byte(`{"n":1e3}`))
	f.Add([]byte(`{"properties":{"n":{"type":"integer","x-mcp-header":"N"}}}`), []byte(`{"n":-0.0e-999999999999999999999}`))
	f.Add([]byte(`{"properties":{"s":{"type":"string","x-mcp-header":"S"}}}`), []byte(`{"s":"\u0000 \ud83d\ude00"}`))
	f.Fuzz(func(t *testing.T, schema, args []byte) {
		ps, err := wire.ParamHeaders(schema)
		if err != nil {
			var syntax *wire.SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("%q: %v", schema, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, p := range ps {
			if p.Header == "" || strings.ContainsFunc(p.Header, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == ',' || r == '"' }) {
				t.Fatalf("%q: header %q", schema, p.Header)
			}
			if lower := strings.ToLower(p.Header); seen[lower] {
				t.Fatalf("%q: %q twice", schema, p.Header)
			} else {
				seen[lower] = true
			}
			if p.Type != "string" && p.Type != "integer" && p.Type != "boolean" {
				t.Fatalf("%q: type %q", schema, p.Type)
			}
			pointer := ""
			for _, name := range p.Path {
				pointer += "/properties/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
			}
			if pointer == "" || !pointsTo(schema, pointer+"/x-mcp-header", p.Header) {
				t.Fatalf("%q: nothing at %s", schema, pointer)
			}
		}
		if !jsontext.Value(args).IsValid() {
			return
		}
		h := http.Header{}
		if wire.SetParamHeaders(h, ps, args) == nil {
			if err := wire.CheckParamHeaders(h, ps, args); err != nil {
				t.Fatalf("%q set %v, then: %v", args, h, err)
			}
			for name, values := range h {
				if len(values) != 1 || strings.ContainsAny(values[0], "\r\n\x00") {
					t.Fatalf("header %q: %q", name, values)
				}
			}
		}
	})
}

// pointsTo reports whether the JSON pointer leads to a string of that text.
func pointsTo(doc []byte, pointer, text string) bool {
	d := jsontext.NewDecoder(strings.NewReader(string(doc)))
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return false
		}
		if tok.Kind() == '"' && tok.String() == text && string(d.StackPointer()) == pointer {
			if _, n := d.StackIndex(d.StackDepth()); n%2 == 0 { // a value, not a name
				return true
			}
		}
	}
}

func TestMismatchNamesTheHeader(t *testing.T) {
	err := wire.CheckParamHeaders(http.Header{"Mcp-Param-Limit": {"1"}}, paramHeaders[1:2], []byte(`{"page":{"limit":2}}`))
	if want := "header Mcp-Param-Limit differs from its argument"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, strconv.Quote(want))
	}
}
