package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

// parts is what a test says of a message, by the text at each span.
type parts struct {
	Kind                                     wire.MessageKind
	ID, Method, Params, Result, Error        string
	Name, NameToken, RefType, Arguments      string
	Cursor, Meta, ProgressToken, MetaVersion string
	Capabilities, RequestID, ResultType      string
	IsError                                  bool
	Structured, Content, Inputs              string
}

func partsOf(m *wire.Message) parts {
	at := func(s wire.Span) string { return string(s.Of(m.Raw)) }
	return parts{
		Kind: m.Kind, ID: at(m.ID), Method: m.Method,
		Params: at(m.Params), Result: at(m.Result), Error: at(m.Error),
		Name: m.Name, NameToken: at(m.NameSpan), RefType: m.RefType, Arguments: at(m.Arguments),
		Cursor: m.Cursor, Meta: at(m.Meta), ProgressToken: at(m.ProgressToken), MetaVersion: m.MetaVersion,
		Capabilities: at(m.ClientCapabilities), RequestID: at(m.RequestID), ResultType: m.ResultType,
		IsError: m.IsError, Structured: at(m.StructuredContent), Content: at(m.Content),
		Inputs: at(m.Inputs),
	}
}

var accepted = []struct {
	name, raw string
	want      parts
}{
	{"call", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup","arguments":{"a":1}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{"name":"crm.lookup","arguments":{"a":1}}`, Name: "crm.lookup", NameToken: `"crm.lookup"`, Arguments: `{"a":1}`}},
	{"call of the stateless era", `{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"progressToken":7},"name":"t"}}`,
		parts{Kind: wire.Request, ID: `"x"`, Method: "tools/call",
			Params: `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"progressToken":7},"name":"t"}`,
			Name:   "t", NameToken: `"t"`, Meta: `{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"progressToken":7}`,
			ProgressToken: "7", MetaVersion: "2026-07-28", Capabilities: `{"elicitation":{}}`}},
	{"members in any order, white space anywhere", " \t\r\n{ \"params\" : { \"arguments\" : [ ] , \"name\" : \"t\" } ,\n\"method\":\"tools/call\" , \"id\" : -0 , \"jsonrpc\" : \"2.0\" }\n ",
		parts{Kind: wire.Request, ID: "-0", Method: "tools/call", Params: `{ "arguments" : [ ] , "name" : "t" }`, Name: "t", NameToken: `"t"`, Arguments: "[ ]"}},
	{"names and values written with escapes", `{"json\u0072pc":"2\u002e0","\u0069d":1,"meth\u006fd":"tools\/call","p\u0061rams":{"n\u0061me":"a\u0062","argum\u0065nts":{},"_\u006deta":{"progress\u0054oken":"t"}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{"n\u0061me":"a\u0062","argum\u0065nts":{},"_\u006deta":{"progress\u0054oken":"t"}}`,
			Name: "ab", NameToken: `"a\u0062"`, Arguments: "{}", Meta: `{"progress\u0054oken":"t"}`, ProgressToken: `"t"`}},
	{"every escape in a name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\"\\\/\b\f\n\r\tA\u00e4\ud83d\ude00ä😀"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{"name":"\"\\\/\b\f\n\r\tA\u00e4\ud83d\ude00ä😀"}`,
			Name: "\"\\/\b\f\n\r\tAä😀ä😀", NameToken: `"\"\\\/\b\f\n\r\tA\u00e4\ud83d\ude00ä😀"`}},
	{"call without a name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{}`}},
	{"call without params", `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call"}},
	{"the name of a call is not its uri", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"uri":"file:///a","name":"t"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{"uri":"file:///a","name":"t"}`, Name: "t", NameToken: `"t"`}},
	{"read", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a","name":"t"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "resources/read", Params: `{"uri":"file:///a","name":"t"}`, Name: "file:///a", NameToken: `"file:///a"`}},
	{"subscribe", `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:b"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "resources/subscribe", Params: `{"uri":"a:b"}`, Name: "a:b", NameToken: `"a:b"`}},
	{"unsubscribe", `{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"a:b"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "resources/unsubscribe", Params: `{"uri":"a:b"}`, Name: "a:b", NameToken: `"a:b"`}},
	{"resource updated", `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b"}}`,
		parts{Kind: wire.Notification, Method: "notifications/resources/updated", Params: `{"uri":"a:b"}`, Name: "a:b", NameToken: `"a:b"`}},
	{"prompt", `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","arguments":{"x":"y"}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "prompts/get", Params: `{"name":"p","arguments":{"x":"y"}}`, Name: "p", NameToken: `"p"`, Arguments: `{"x":"y"}`}},
	{"completion of a prompt", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"n","value":"v"}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "completion/complete", Params: `{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"n","value":"v"}}`, Name: "p", NameToken: `"p"`, RefType: "ref/prompt"}},
	{"completion of a resource", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"f:{x}"},"name":"ignored"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "completion/complete", Params: `{"ref":{"type":"ref/resource","uri":"f:{x}"},"name":"ignored"}`, Name: "f:{x}", NameToken: `"f:{x}"`, RefType: "ref/resource"}},
	{"list with a cursor", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"c\u0031"}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/list", Params: `{"cursor":"c\u0031"}`, Cursor: "c1"}},
	{"a cursor of somebody else", `{"jsonrpc":"2.0","id":1,"method":"acme/scroll","params":{"cursor":17,"name":[],"uri":0,"ref":1,"progressToken":null,"requestId":{}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "acme/scroll", Params: `{"cursor":17,"name":[],"uri":0,"ref":1,"progressToken":null,"requestId":{}}`}},
	{"progress", `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":0.5,"_meta":{"progressToken":3}}}`,
		parts{Kind: wire.Notification, Method: "notifications/progress", Params: `{"progressToken":"p","progress":0.5,"_meta":{"progressToken":3}}`, ProgressToken: `"p"`, Meta: `{"progressToken":3}`}},
	{"cancelled", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":-12,"reason":"x"}}`,
		parts{Kind: wire.Notification, Method: "notifications/cancelled", Params: `{"requestId":-12,"reason":"x"}`, RequestID: "-12"}},
	{"unknown members everywhere", `{"x":[1,{"y":null}],"jsonrpc":"2.0","id":1,"method":"ping","params":{"z":1.50,"_meta":{"com.example/a":{}}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "ping", Params: `{"z":1.50,"_meta":{"com.example/a":{}}}`, Meta: `{"com.example/a":{}}`}},
	{"names of interest deeper down mean nothing", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"name":"u","method":"x","Method":"y","params":{"PARAMS":{"name":"v"}}}}}`,
		parts{Kind: wire.Request, ID: "1", Method: "tools/call", Params: `{"name":"t","arguments":{"name":"u","method":"x","Method":"y","params":{"PARAMS":{"name":"v"}}}}`, Name: "t", NameToken: `"t"`, Arguments: `{"name":"u","method":"x","Method":"y","params":{"PARAMS":{"name":"v"}}}`}},
	{"large integer id", `{"jsonrpc":"2.0","id":12345678901234567890123,"method":"ping"}`,
		parts{Kind: wire.Request, ID: "12345678901234567890123", Method: "ping"}},
	{"empty string id", `{"jsonrpc":"2.0","id":"","method":"ping"}`,
		parts{Kind: wire.Request, ID: `""`, Method: "ping"}},

	{"result", `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"video"}],"structuredContent":{"id":12345678901234567890},"isError":true,"resultType":"complete","_meta":{"a":1},"more":1.0}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{"content":[{"type":"video"}],"structuredContent":{"id":12345678901234567890},"isError":true,"resultType":"complete","_meta":{"a":1},"more":1.0}`,
			ResultType: "complete", IsError: true, Structured: `{"id":12345678901234567890}`, Content: `[{"type":"video"}]`, Meta: `{"a":1}`}},
	{"result that asks for input", `{"jsonrpc":"2.0","id":1,"result":{"resultType":"input\u005frequired"}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{"resultType":"input\u005frequired"}`, ResultType: "input_required"}},
	{"result of an extension's type", `{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","isError":false}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{"resultType":"task","isError":false}`, ResultType: "task"}},
	{"result with null for what it has not", `{"jsonrpc":"2.0","id":1,"result":{"_meta":null,"isError":null,"resultType":null,"structuredContent":null}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{"_meta":null,"isError":null,"resultType":null,"structuredContent":null}`, Structured: "null"}},
	{"result with members in other cases", `{"jsonrpc":"2.0","id":1,"result":{"Content":1,"CONTENT":2}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{"Content":1,"CONTENT":2}`}},
	{"empty result", `{"jsonrpc":"2.0","id":1,"result":{}}`,
		parts{Kind: wire.Result, ID: "1", Result: `{}`}},
	{"error", `{"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"no","data":{"x":1}}}`,
		parts{Kind: wire.Error, ID: `"a"`, Error: `{"code":-32601,"message":"no","data":{"x":1}}`}},
	{"error without an id", `{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}`,
		parts{Kind: wire.Error, Error: `{"code":-32700,"message":"no"}`}},
	{"error with a null id", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}`,
		parts{Kind: wire.Error, Error: `{"code":-32700,"message":"no"}`}},
}

func TestScanAccepts(t *testing.T) {
	for _, c := range accepted {
		t.Run(c.name, func(t *testing.T) {
			m, err := wire.Scan([]byte(c.raw), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if got := partsOf(&m); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			checkAgainstV2(t, &m)
		})
	}
}

const (
	parse   = wire.ParseError
	invalid = wire.InvalidRequest
)

var refused = []struct {
	name, raw string
	code      int
	reason    string // a part of it
	id        string // to answer to
}{
	{"nothing", ``, parse, "no JSON value", ""},
	{"white space", " \n", parse, "no JSON value", ""},
	{"batch", ` [{"jsonrpc":"2.0","id":1,"method":"ping"}]`, invalid, "batch", ""},
	{"string", `"x"`, invalid, "not an object", ""},
	{"null", ` null `, invalid, "not an object", ""},
	{"two messages", `{"jsonrpc":"2.0","id":1,"method":"ping"} {}`, parse, "more text", ""},
	{"comma behind", `{"jsonrpc":"2.0","id":1,"method":"ping"},`, parse, "more text", ""},
	{"byte order mark", "\uFEFF" + `{"jsonrpc":"2.0","id":1,"method":"ping"}`, parse, "not a JSON value", ""},
	{"white space that JSON has not", "{\"jsonrpc\":\"2.0\",\v\"id\":1,\"method\":\"ping\"}", parse, "member name", ""},
	{"no end", `{"jsonrpc":"2.0"`, parse, "want ',' or '}'", ""},
	{"no end behind a comma", `{"jsonrpc":"2.0",`, parse, "member name", ""},
	{"no end behind a colon", `{"jsonrpc":`, parse, "ends where a value", ""},
	{"no end in a string", `{"jsonrpc`, parse, "without an end", ""},
	{"no end in a long string", `{"jsonrpc is not what this is`, parse, "without an end", ""},
	{"no end behind a backslash", `{"jsonrpc\`, parse, "without an end", ""},
	{"comma before a brace", `{"jsonrpc":"2.0",}`, parse, "member name", ""},
	{"comma before a bracket", `{"a":[1,]}`, parse, "not a JSON value", ""},
	{"comma first", `{,"a":1}`, parse, "member name", ""},
	{"no comma", `{"a":1 "b":2}`, parse, "want ',' or '}'", ""},
	{"no comma between elements", `{"a":[1 2]}`, parse, "want ',' or ']'", ""},
	{"no colon", `{"a" 1}`, parse, "want ':'", ""},
	{"name without quotes", `{a:1}`, parse, "member name", ""},
	{"single quotes", `{'a':1}`, parse, "member name", ""},
	{"comment", `{"a":1/**/}`, parse, "want ',' or '}'", ""},
	{"wrong bracket", `{"a":[1}`, parse, "want ',' or ']'", ""},
	{"NaN", `{"a":NaN}`, parse, "not a JSON value", ""},
	{"True", `{"a":True}`, parse, "not a JSON value", ""},
	{"tru", `{"a":tru}`, parse, "not a JSON value", ""},
	{"nul at the end", `{"a":nul`, parse, "not a JSON value", ""},
	{"plus", `{"a":+1}`, parse, "not a JSON value", ""},
	{"minus alone", `{"a":-}`, parse, "without digits", ""},
	{"point first", `{"a":.5}`, parse, "not a JSON value", ""},
	{"point last", `{"a":1.}`, parse, "behind the point", ""},
	{"leading zero", `{"a":01}`, parse, "leading zero", ""},
	{"leading zero behind a minus", `{"a":-012}`, parse, "leading zero", ""},
	{"exponent without digits", `{"a":1e}`, parse, "exponent", ""},
	{"signed exponent without digits", `{"a":1e+}`, parse, "exponent", ""},
	{"hexadecimal", `{"a":0x10}`, parse, "want ',' or '}'", ""},
	{"tab in a string", "{\"a\":\"x\ty\"}", parse, "control character", ""},
	{"newline in a long string", "{\"a\":\"0123456789abcdef\n0123456789\"}", parse, "control character", ""},
	{"NUL in a name", "{\"a\x00\":1}", parse, "control character", ""},
	{"unknown escape", `{"a":"\x41"}`, parse, "unknown escape", ""},
	{"upper-case U", `{"a":"\U0041"}`, parse, "unknown escape", ""},
	{"short \\u", `{"a":"\u12"}`, parse, "four hexadecimal", ""},
	{"\\u with other letters", `{"a":"\u12g4"}`, parse, "four hexadecimal", ""},
	{"high half alone", `{"a":"\ud800"}`, parse, "surrogate", ""},
	{"low half alone", `{"a":"\udc00"}`, parse, "surrogate", ""},
	{"high half before another", `{"a":"\ud800\ud800"}`, parse, "surrogate", ""},
	{"high half before a letter", `{"a":"\ud800\u0041"}`, parse, "surrogate", ""},
	{"halves apart", `{"a":"\ud83d \ude00"}`, parse, "surrogate", ""},
	{"half in a name", `{"\ud800":1}`, parse, "surrogate", ""},
	{"half encoded in UTF-8", "{\"a\":\"\xed\xa0\x80\"}", parse, "UTF-8", ""},
	{"Latin-1", "{\"a\":\"\xe4\"}", parse, "UTF-8", ""},
	{"overlong", "{\"a\":\"\xc0\xaf\"}", parse, "UTF-8", ""},
	{"beyond Unicode", "{\"a\":\"\xf4\x90\x80\x80\"}", parse, "UTF-8", ""},
	{"UTF-8 cut off", "{\"a\":\"\xe2\x82\"}", parse, "UTF-8", ""},
	{"not UTF-8 in a name", "{\"\xff\":1}", parse, "UTF-8", ""},
	{"not UTF-8 outside strings", "{\"a\":1,\xff}", parse, "member name", ""},

	{"duplicate id", `{"jsonrpc":"2.0","id":1,"method":"ping","id":2}`, parse, "same name", ""},
	{"duplicate method", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, parse, "same name", ""},
	{"duplicate with an escape", `{"jsonrpc":"2.0","id":1,"method":"ping","meth\u006fd":"tools/call"}`, parse, "same name", ""},
	{"duplicate without an escape", `{"jsonrpc":"2.0","id":1,"meth\u006fd":"ping","method":"tools/call"}`, parse, "same name", ""},
	{"duplicate with two escapes", `{"a\u0062":1,"\u0061b":2}`, parse, "same name", ""},
	{"duplicate pair and letter", `{"\ud83d\ude00":1,"😀":2}`, parse, "same name", ""},
	{"duplicate name of a tool", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name":"drop"}}`, parse, "same name", ""},
	{"duplicate in arguments", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"to":"a","to":"b"}}}`, parse, "same name", ""},
	{"duplicate deep in an array", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"x":[[{"a":1},{"a":1,"a":1}]]}}}`, parse, "same name", ""},
	{"duplicate in a result", `{"jsonrpc":"2.0","id":1,"result":{"isError":false,"isError":true}}`, parse, "same name", ""},
	{"duplicate empty name", `{"":1,"":1}`, parse, "same name", ""},

	{"no version", `{"id":1,"method":"ping"}`, invalid, "jsonrpc", "1"},
	{"old version", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, invalid, "jsonrpc", "1"},
	{"version as a number", `{"jsonrpc":2.0,"id":1,"method":"ping"}`, invalid, "jsonrpc", "1"},
	{"version inside a number", `{"jsonrpc":12.01,"id":1,"method":"ping"}`, invalid, "jsonrpc", "1"},
	{"empty object", `{}`, invalid, "jsonrpc", ""},
	{"nothing to do", `{"jsonrpc":"2.0","id":7}`, invalid, "none of", "7"},
	{"result and error", `{"jsonrpc":"2.0","id":7,"result":{},"error":{}}`, invalid, "more than one", "7"},
	{"method and result", `{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}`, invalid, "more than one", "7"},
	{"method and error", `{"jsonrpc":"2.0","id":7,"method":"ping","error":{}}`, invalid, "more than one", "7"},
	{"params and result", `{"jsonrpc":"2.0","id":7,"params":{},"result":{}}`, invalid, "without", "7"},
	{"params and error", `{"jsonrpc":"2.0","id":7,"params":{},"error":{}}`, invalid, "without", "7"},
	{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, invalid, `"id"`, ""},
	{"id with a fraction", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, invalid, `"id"`, ""},
	{"id 1.0", `{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, invalid, `"id"`, ""},
	{"id with an exponent", `{"jsonrpc":"2.0","id":1e3,"method":"ping"}`, invalid, `"id"`, ""},
	{"id an object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, invalid, `"id"`, ""},
	{"id a boolean", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, invalid, `"id"`, ""},
	{"result without an id", `{"jsonrpc":"2.0","result":{}}`, invalid, `"id"`, ""},
	{"result with a null id", `{"jsonrpc":"2.0","id":null,"result":{}}`, invalid, `"id"`, ""},
	{"error with a bad id", `{"jsonrpc":"2.0","id":1.5,"error":{}}`, invalid, `"id"`, ""},
	{"method a number", `{"jsonrpc":"2.0","id":3,"method":1}`, invalid, `"method"`, "3"},
	{"method null", `{"jsonrpc":"2.0","id":3,"method":null}`, invalid, `"method"`, "3"},
	{"method empty", `{"jsonrpc":"2.0","id":3,"method":""}`, invalid, `"method"`, "3"},
	{"params an array", `{"jsonrpc":"2.0","id":3,"method":"ping","params":[]}`, invalid, `"params"`, "3"},
	{"params null", `{"jsonrpc":"2.0","id":3,"method":"ping","params":null}`, invalid, `"params"`, "3"},
	{"result null", `{"jsonrpc":"2.0","id":3,"result":null}`, invalid, `"result"`, "3"},
	{"result an array", `{"jsonrpc":"2.0","id":3,"result":[]}`, invalid, `"result"`, "3"},
	{"error a string", `{"jsonrpc":"2.0","id":3,"error":"no"}`, invalid, `"error"`, "3"},
	{"name a number", `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":1}}`, invalid, "params.name", "3"},
	{"name null", `{"jsonrpc":"2.0","id":3,"method":"prompts/get","params":{"name":null}}`, invalid, "params.name", "3"},
	{"uri an object", `{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":{}}}`, invalid, "params.uri", "3"},
	{"cursor a number", `{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{"cursor":1}}`, invalid, "params.cursor", "3"},
	{"ref a string", `{"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":"p"}}`, invalid, "params.ref", "3"},
	{"ref to a prompt and a resource", `{"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"name":"a","uri":"b"}}}`, invalid, "both", "3"},
	{"ref to a number", `{"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"name":1}}}`, invalid, "params.ref", "3"},
	{"ref of no type", `{"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":1}}}`, invalid, "params.ref.type", "3"},
	{"_meta an array", `{"jsonrpc":"2.0","id":3,"method":"ping","params":{"_meta":[]}}`, invalid, "_meta", "3"},
	{"_meta null", `{"jsonrpc":"2.0","id":3,"method":"ping","params":{"_meta":null}}`, invalid, "_meta", "3"},
	{"version in _meta a number", `{"jsonrpc":"2.0","id":3,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}}`, invalid, "protocolVersion", "3"},
	{"progress token an object", `{"jsonrpc":"2.0","id":3,"method":"ping","params":{"_meta":{"progressToken":{}}}}`, invalid, "progressToken", "3"},
	{"progress of an object", `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":null}}`, invalid, "progressToken", ""},
	{"cancelled with a fraction", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1.5}}`, invalid, "requestId", ""},
	{"isError a string", `{"jsonrpc":"2.0","id":3,"result":{"isError":"false"}}`, invalid, "isError", "3"},
	{"resultType a number", `{"jsonrpc":"2.0","id":3,"result":{"resultType":1}}`, invalid, "resultType", "3"},
	{"_meta of a result a string", `{"jsonrpc":"2.0","id":3,"result":{"_meta":""}}`, invalid, "_meta", "3"},

	{"Method", `{"jsonrpc":"2.0","id":1,"Method":"ping"}`, invalid, `"method" only by case`, ""},
	{"Method beside method", `{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`, invalid, "only by case", ""},
	{"ID", `{"jsonrpc":"2.0","ID":1,"method":"ping"}`, invalid, "only by case", ""},
	{"PARAMS", `{"jsonrpc":"2.0","id":1,"method":"ping","PARAMS":{}}`, invalid, "only by case", ""},
	{"Name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}`, invalid, "only by case", ""},
	{"Name with an escape", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","\u004eame":"b"}}`, invalid, "only by case", ""},
	{"a name that folds beyond ASCII", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","argumentſ":{}}}`, invalid, `"arguments" only by case`, ""},
	{"_Meta", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_Meta":{}}}`, invalid, "only by case", ""},
	{"protocolversion", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolversion":"x"}}}`, invalid, "only by case", ""},
	{"URI of a ref", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"URI":"x"}}}`, invalid, "only by case", ""},
}

func TestScanRefuses(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			m, err := wire.Scan([]byte(c.raw), wire.Limits{})
			var syntax *wire.SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("error is %v", err)
			}
			if syntax.Code != c.code || !strings.Contains(syntax.Reason, c.reason) {
				t.Errorf("got %d %q, want %d %q", syntax.Code, syntax.Reason, c.code, c.reason)
			}
			if syntax.Offset < 0 || syntax.Offset > len(c.raw) {
				t.Errorf("offset %d of %d", syntax.Offset, len(c.raw))
			}
			if got := string(m.ID.Of(m.Raw)); got != c.id {
				t.Errorf("id to answer to is %q, want %q", got, c.id)
			}
			if want := (wire.Message{Raw: []byte(c.raw), ID: m.ID}); fmt.Sprint(m) != fmt.Sprint(want) {
				t.Errorf("more came back than the id: %+v", m)
			}
		})
	}
}

func TestScanSaysWhere(t *testing.T) {
	for raw, want := range map[string]int{
		`{"jsonrpc":"2.0",}`:                               17,
		`{"a":1,"b":{"c":1,"c":2}}`:                        18,
		"{\"a\":\"ok ä \xff\"}":                            12,
		`{"a":"0123456789\ud800"}`:                         16,
		`{"jsonrpc":"2.0","id":1,"method":"ping"} x`:       41,
		`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`:       22,
		`{"jsonrpc":"2.0","id":1,"method":"a","Params":1}`: 37,
	} {
		_, err := wire.Scan([]byte(raw), wire.Limits{})
		var syntax *wire.SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset != want {
			t.Errorf("%s: %v, want it at byte %d", raw, err, want)
		}
	}
}

func TestScanLimits(t *testing.T) {
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	nested := func(n int) string {
		n-- // the message is a level itself
		return `{"jsonrpc":"2.0","id":1,"method":"ping","x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	objects := func(n int) string {
		n--
		return `{"jsonrpc":"2.0","id":1,"method":"ping","x":` + strings.Repeat(`{"x":`, n) + "1" + strings.Repeat("}", n) + `}`
	}
	wide := `{"jsonrpc":"2.0","id":1,"method":"ping","x":[` + strings.Repeat("[[]],", 200) + `1]}`
	for _, c := range []struct {
		name, raw string
		limits    wire.Limits
		want      string // a part of the reason
	}{
		{"default depth", nested(64), wire.Limits{}, ""},
		{"beyond default depth", nested(65), wire.Limits{}, "deeper"},
		{"beyond default depth in objects", objects(65), wire.Limits{}, "deeper"},
		{"far beyond default depth", nested(100000), wire.Limits{}, "deeper"},
		{"depth of one", ping, wire.Limits{Depth: 1}, ""},
		{"beyond depth of one", nested(2), wire.Limits{Depth: 1}, "deeper"},
		{"depth is not breadth", wide, wire.Limits{Depth: 4}, ""},
		{"more depth", nested(1000), wire.Limits{Depth: 1000}, ""},
		{"just as large", ping, wire.Limits{Bytes: len(ping)}, ""},
		{"too large", ping + " ", wire.Limits{Bytes: len(ping)}, "larger"},
		{"default size", ping + strings.Repeat(" ", 4<<20-len(ping)), wire.Limits{}, ""},
		{"beyond default size", ping + strings.Repeat(" ", 4<<20+1-len(ping)), wire.Limits{}, "larger"},
		{"more size", ping + strings.Repeat(" ", 4<<20+1-len(ping)), wire.Limits{Bytes: 1 << 40}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := wire.Scan([]byte(c.raw), c.limits)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var syntax *wire.SyntaxError
			if !errors.As(err, &syntax) || syntax.Code != invalid || !strings.Contains(syntax.Reason, c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestScanFindsDuplicatesAmongMany crosses the boundary between the two ways in
// which duplicates are looked for, with and without escapes on either side.
func TestScanFindsDuplicatesAmongMany(t *testing.T) {
	spell := func(i int, escaped bool) string {
		if escaped {
			return fmt.Sprintf(`"\u006bey%d"`, i)
		}
		return fmt.Sprintf(`"key%d"`, i)
	}
	for _, n := range []int{1, 2, 15, 16, 17, 18, 31, 33, 64, 65, 1000, 5000} {
		for trial := range 20 {
			rng := rand.New(rand.NewPCG(uint64(n), uint64(trial)))
			members := make([]string, n)
			for i := range members {
				members[i] = spell(i, rng.IntN(3) == 0) + ":null"
			}
			wrap := func() []byte {
				return []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{` + strings.Join(members, ",") + `}}}`)
			}
			if _, err := wire.Scan(wrap(), wire.Limits{}); err != nil {
				t.Fatalf("%d different names: %v", n, err)
			}
			again := spell(rng.IntN(n), rng.IntN(2) == 0) + ":1"
			at := rng.IntN(n + 1)
			members = append(members[:at:at], append([]string{again}, members[at:]...)...)
			if _, err := wire.Scan(wrap(), wire.Limits{}); err == nil || !strings.Contains(err.Error(), "same name") {
				t.Fatalf("%d names and one again at %d: %v", n, at, err)
			}
		}
	}
}

// TestScanTellsManyNamesApart has so many names that some pairs of them share a
// hash.
func TestScanTellsManyNamesApart(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"result":{"":0`)
	for i := range 200_000 {
		fmt.Fprintf(&b, `,"%x":0`, i)
	}
	b.WriteString("}}")
	if _, err := wire.Scan([]byte(b.String()), wire.Limits{}); err != nil {
		t.Error(err)
	}
}

// TestScanReadsEveryStringLength puts a byte that matters at every distance from
// the word boundaries of the string loop.
func TestScanReadsEveryStringLength(t *testing.T) {
	for n := range 40 {
		for pad := range 9 {
			fill := strings.Repeat("x", n)
			tail := strings.Repeat(" ", pad)
			for _, c := range []struct {
				text string
				ok   bool
			}{
				{fill, true}, {fill + "ä", true}, {fill + `\"`, true}, {fill + `\\`, true}, {fill + `\u0041` + fill, true},
				{fill + "\x7f", true}, {fill + "\u0080", true}, {fill + "😀" + fill, true},
				{fill + "\x1f", false}, {fill + "\x00" + fill, false}, {fill + "\xff", false}, {fill + "\xe4" + fill, false},
				{fill + `\`, false}, {fill + `\q` + fill, false},
			} {
				raw := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + c.text + `"}}` + tail
				m, err := wire.Scan([]byte(raw), wire.Limits{})
				if (err == nil) != c.ok {
					t.Fatalf("%q: %v", raw, err)
				}
				if c.ok {
					checkAgainstV2(t, &m)
				}
			}
		}
	}
}

func TestScanAllocates(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		most      float64
	}{
		{"call", call430, 1}, // the name
		{"result", `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"x"}],"isError":false,"resultType":"complete"}}`, 0},
		{"progress", `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":5}}`, 0},
	} {
		raw := []byte(c.raw)
		got := testing.AllocsPerRun(100, func() {
			if _, err := wire.Scan(raw, wire.Limits{}); err != nil {
				t.Fatal(err)
			}
		})
		if got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.most)
		}
	}
}

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkAgainstV2 decodes the message again with json v2 and compares what was
// found, part by part.
func checkAgainstV2(t failer, m *wire.Message) {
	t.Helper()
	object := func(raw []byte) map[string]jsontext.Value {
		if len(raw) == 0 || raw[0] != '{' {
			return nil
		}
		var o map[string]jsontext.Value
		if err := jsonv2.Unmarshal(raw, &o); err != nil {
			t.Fatalf("v2 refuses %q: %v", raw, err)
		}
		return o
	}
	text := func(raw jsontext.Value) string {
		if len(raw) == 0 || raw[0] != '"' {
			return ""
		}
		var s string
		if err := jsonv2.Unmarshal(raw, &s); err != nil {
			t.Fatalf("v2 refuses %q: %v", raw, err)
		}
		return s
	}
	top := object(bytes.TrimSpace(m.Raw))
	want := parts{ID: string(top["id"]), Method: text(top["method"]), Params: string(top["params"]), Result: string(top["result"]), Error: string(top["error"])}
	switch {
	case want.Method != "" && want.ID != "":
		want.Kind = wire.Request
	case want.Method != "":
		want.Kind = wire.Notification
	case want.Result != "":
		want.Kind = wire.Result
	default:
		want.Kind = wire.Error
		if want.ID == "null" {
			want.ID = ""
		}
	}
	if want.Method != "" {
		params := object(top["params"])
		meta := object(params["_meta"])
		ref := object(params["ref"])
		want.Arguments, want.Inputs = string(params["arguments"]), string(params["inputResponses"])
		want.Meta = string(params["_meta"])
		want.MetaVersion = text(meta[wire.MetaProtocolVersion])
		want.Capabilities = string(meta[wire.MetaClientCapabilities])
		want.ProgressToken = string(meta["progressToken"])
		var name jsontext.Value
		switch want.Method {
		case "tools/call", "prompts/get":
			name = params["name"]
		case "resources/read", "resources/subscribe", "resources/unsubscribe", "notifications/resources/updated":
			name = params["uri"]
		case "completion/complete":
			if name = ref["name"]; name == nil {
				name = ref["uri"]
			}
			want.RefType = text(ref["type"])
		case "tools/list", "resources/list", "resources/templates/list", "prompts/list", "tasks/list":
			want.Cursor = text(params["cursor"])
		case "notifications/progress":
			want.ProgressToken = string(params["progressToken"])
		case "notifications/cancelled":
			want.RequestID = string(params["requestId"])
		}
		want.Name, want.NameToken = text(name), string(name)
	}
	if want.Kind == wire.Result {
		result := object(top["result"])
		want.ResultType = text(result["resultType"])
		want.IsError = string(result["isError"]) == "true"
		want.Structured = string(result["structuredContent"])
		want.Content = string(result["content"])
		if object(result["_meta"]) != nil {
			want.Meta = string(result["_meta"])
		}
	}
	if got := partsOf(m); got != want {
		t.Fatalf("of %q\nwire found %+v\nv2 found   %+v", m.Raw, got, want)
	}
	if again := wire.Splice(m.Raw); !bytes.Equal(again, m.Raw) {
		t.Fatalf("splice of nothing made %q of %q", again, m.Raw)
	}
	for _, s := range []wire.Span{m.ID, m.Params, m.Result, m.Error, m.NameSpan, m.Arguments, m.Inputs, m.Meta, m.ProgressToken,
		m.ClientCapabilities, m.RequestID, m.StructuredContent, m.Content} {
		if !s.Present() {
			continue
		}
		if same := wire.Splice(m.Raw, wire.Edit{Span: s, With: s.Of(m.Raw)}); !bytes.Equal(same, m.Raw) {
			t.Fatalf("splice of %v with itself made %q of %q", s, same, m.Raw)
		}
	}
}

// Generators: documents in every spelling the grammar allows.

func genSpace(t *rapid.T) string {
	if rapid.IntRange(0, 5).Draw(t, "space") > 0 {
		return ""
	}
	return rapid.StringMatching(`[ \t\r\n]{0,3}`).Draw(t, "spaces")
}

// spell writes s as a JSON string, some of its letters as escapes.
func spell(t *rapid.T, s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch how := rapid.IntRange(0, 9).Draw(t, "how"); {
		case how == 0 && r > 0xFFFF:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xD800+r>>10, 0xDC00+r&0x3FF)
		case how == 0, r < 0x20:
			fmt.Fprintf(&b, `\u%04x`, r)
		case r == '"', r == '\\', r == '/' && how == 1:
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func genValue(t *rapid.T, depth int) string {
	kinds := 5
	if depth <= 0 {
		kinds = 3
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
	case 1:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?`).Draw(t, "number")
	case 2, 3:
		return spell(t, rapid.String().Draw(t, "text"))
	case 4:
		var b strings.Builder
		for i := range rapid.IntRange(0, 4).Draw(t, "elements") {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(genSpace(t) + genValue(t, depth-1) + genSpace(t))
		}
		return "[" + b.String() + genSpace(t) + "]"
	default:
		return genObject(t, depth, rapid.IntRange(0, 20).Draw(t, "members"), nil)
	}
}

// genObject writes an object of the given members and some others, in any order.
func genObject(t *rapid.T, depth, others int, members map[string]string) string {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zA-Zäſ/_.\x{1F600}]{0,6}`), 0, others, func(s string) string { return strings.ToLower(strings.ToUpper(s)) }).Draw(t, "names")
	all := map[string]string{}
	for _, n := range names {
		all[n] = ""
	}
	for n := range members {
		for other := range all {
			if strings.EqualFold(other, n) {
				delete(all, other)
			}
		}
	}
	for n := range all {
		all[n] = genValue(t, depth-1)
	}
	for n, v := range members {
		all[n] = v
	}
	order := make([]string, 0, len(all))
	for n := range all {
		order = append(order, n)
	}
	order = rapid.Permutation(order).Draw(t, "order")
	var b strings.Builder
	for i, n := range order {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(genSpace(t) + spell(t, n) + genSpace(t) + ":" + genSpace(t) + all[n] + genSpace(t))
	}
	return "{" + b.String() + genSpace(t) + "}"
}

func genID(t *rapid.T) string {
	if rapid.Bool().Draw(t, "string id") {
		return spell(t, rapid.String().Draw(t, "id"))
	}
	return rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})`).Draw(t, "id")
}

// genMessage writes a message that is to be accepted.
func genMessage(t *rapid.T) string {
	maybe := func(m map[string]string, name string, value func() string) {
		if rapid.Bool().Draw(t, name) {
			m[name] = value()
		}
	}
	text := func() string { return spell(t, rapid.String().Draw(t, "text")) }
	value := func() string { return genValue(t, 3) }
	top := map[string]string{"jsonrpc": spell(t, "2.0")}
	switch rapid.SampledFrom([]string{"method", "result", "error"}).Draw(t, "what") {
	case "method":
		maybe(top, "id", func() string { return genID(t) })
		method := rapid.SampledFrom([]string{"tools/call", "tools/list", "prompts/get", "prompts/list", "resources/read", "resources/subscribe",
			"notifications/resources/updated", "completion/complete", "notifications/progress", "notifications/cancelled", "acme/other"}).Draw(t, "method")
		top["method"] = spell(t, method)
		maybe(top, "params", func() string {
			params, meta := map[string]string{}, map[string]string{}
			maybe(params, "name", text)
			maybe(params, "uri", text)
			maybe(params, "cursor", text)
			maybe(params, "arguments", value)
			maybe(params, "progressToken", func() string { return genID(t) })
			maybe(params, "requestId", func() string { return genID(t) })
			maybe(params, "ref", func() string {
				ref := map[string]string{"type": text()}
				ref[rapid.SampledFrom([]string{"name", "uri"}).Draw(t, "ref to")] = text()
				return genObject(t, 2, 3, ref)
			})
			maybe(params, "_meta", func() string {
				maybe(meta, "progressToken", func() string { return genID(t) })
				maybe(meta, wire.MetaProtocolVersion, text)
				maybe(meta, wire.MetaClientCapabilities, value)
				return genObject(t, 2, 3, meta)
			})
			return genObject(t, 3, 3, params)
		})
	case "result":
		top["id"] = genID(t)
		result := map[string]string{}
		maybe(result, "resultType", text)
		maybe(result, "isError", func() string { return rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "isError") })
		maybe(result, "content", value)
		maybe(result, "structuredContent", value)
		maybe(result, "_meta", func() string { return genObject(t, 2, 3, nil) })
		top["result"] = genObject(t, 3, 3, result)
	case "error":
		maybe(top, "id", func() string { return genID(t) })
		top["error"] = genObject(t, 3, 3, map[string]string{"code": "-32000"})
	}
	// Whatever else stands at the top must not be a name of interest.
	for _, n := range []string{"id", "method", "params", "result", "error"} {
		if _, ok := top[n]; !ok {
			top["x"+n] = "0"
		}
	}
	return genSpace(t) + genObject(t, 3, 0, top) + genSpace(t)
}

func TestScanFindsWhatV2Finds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := genMessage(t)
		m, err := wire.Scan([]byte(raw), wire.Limits{})
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		checkAgainstV2(t, &m)
	})
}

// TestScanRefusesEveryCut checks that no part of a message is a message.
func TestScanRefusesEveryCut(t *testing.T) {
	for _, c := range accepted {
		raw := strings.TrimRight(c.raw, " \n")
		for n := range len(raw) {
			if _, err := wire.Scan([]byte(raw[:n]), wire.Limits{}); err == nil {
				t.Fatalf("%q was accepted", raw[:n])
			}
		}
	}
}

// ours lists why Scan refuses a document that json v2 takes: every rule of Scan
// beyond syntax, unique names and UTF-8, written down a second time from the
// decoded document. An empty list means that Scan has to accept.
func ours(raw []byte) (why []string) {
	because := func(ok bool, reason string) {
		if !ok {
			why = append(why, reason)
		}
	}
	object := func(v jsontext.Value) map[string]jsontext.Value {
		var o map[string]jsontext.Value
		if v.Kind() != '{' || jsonv2.Unmarshal(v, &o) != nil {
			return nil
		}
		return o
	}
	kind := func(v jsontext.Value, kinds string) bool {
		return v == nil || strings.IndexByte(kinds, byte(v.Kind())) >= 0
	}
	id := func(v jsontext.Value) bool {
		return v.Kind() == '"' || v.Kind() == '0' && !bytes.ContainsAny(v, ".eE")
	}
	folds := func(o map[string]jsontext.Value, names ...string) {
		for have := range o {
			for _, n := range names {
				because(have == n || !strings.EqualFold(have, n), "a name differs by case only")
			}
		}
	}
	has := func(o map[string]jsontext.Value, name string) bool { return o[name] != nil }

	depth, deepest := 0, 0
	for d := jsontext.NewDecoder(bytes.NewReader(raw)); ; {
		tok, err := d.ReadToken()
		if err != nil {
			break
		}
		switch tok.Kind() {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	because(deepest <= 64, "too deep")

	top := object(jsontext.Value(bytes.TrimSpace(raw)))
	if top == nil {
		return append(why, "not an object")
	}
	folds(top, "jsonrpc", "id", "method", "params", "result", "error")
	var version string
	because(has(top, "jsonrpc") && jsonv2.Unmarshal(top["jsonrpc"], &version) == nil && version == "2.0", "version")
	n := 0
	for _, name := range []string{"method", "result", "error"} {
		if has(top, name) {
			n++
		}
	}
	because(n == 1, "not one of method, result, error")
	because(!has(top, "params") || has(top, "method"), "params without method")
	because(kind(top["error"], "{"), "error is no object")
	because(kind(top["result"], "{"), "result is no object")

	// The objects inside are looked at wherever they are, since names are.
	params := object(top["params"])
	meta, ref := object(params["_meta"]), object(params["ref"])
	folds(params, "name", "uri", "arguments", "inputResponses", "cursor", "_meta", "ref", "progressToken", "requestId")
	folds(meta, wire.MetaProtocolVersion, wire.MetaClientCapabilities, "progressToken")
	folds(ref, "type", "name", "uri")

	switch {
	case has(top, "method"):
		var method string
		because(jsonv2.Unmarshal(top["method"], &method) == nil && top["method"].Kind() == '"' && method != "", "method")
		because(!has(top, "id") || id(top["id"]), "id")
		because(kind(top["params"], "{"), "params is no object")
		because(kind(params["_meta"], "{"), "_meta is no object")
		because(kind(meta[wire.MetaProtocolVersion], `"`), "version in _meta")
		switch method {
		case "tools/call", "prompts/get":
			because(kind(params["name"], `"`), "name")
		case "resources/read", "resources/subscribe", "resources/unsubscribe", "notifications/resources/updated":
			because(kind(params["uri"], `"`), "uri")
		case "tools/list", "resources/list", "resources/templates/list", "prompts/list", "tasks/list":
			because(kind(params["cursor"], `"`), "cursor")
		case "completion/complete":
			because(kind(params["ref"], "{"), "ref")
			because(kind(ref["type"], `"`) && kind(ref["name"], `"`) && kind(ref["uri"], `"`), "inside ref")
			because(!has(ref, "name") || !has(ref, "uri"), "ref to two")
		case "notifications/progress":
			because(kind(params["progressToken"], `"0`), "progress token")
		case "notifications/cancelled":
			because(!has(params, "requestId") || id(params["requestId"]), "requestId")
		}
		because(method == "notifications/progress" || kind(meta["progressToken"], `"0`), "progress token")
	case has(top, "result"):
		result := object(top["result"])
		because(has(top, "id") && id(top["id"]), "id")
		because(kind(result["_meta"], "{n"), "_meta is no object")
		because(kind(result["isError"], "tfn"), "isError")
		because(kind(result["resultType"], `"n`), "resultType")
	case has(top, "error"):
		because(!has(top, "id") || top["id"].Kind() == 'n' || id(top["id"]), "id")
	}
	return why
}

// FuzzScan holds Scan against json v2: both refuse what is not syntax, not UTF-8
// or has a name twice; beyond that Scan refuses what ours lists and nothing else;
// and of what it accepts it finds the same parts.
func FuzzScan(f *testing.F) {
	for _, c := range accepted {
		f.Add([]byte(c.raw))
	}
	for _, c := range refused {
		f.Add([]byte(c.raw))
	}
	f.Add([]byte(call430))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := wire.Scan(raw, wire.Limits{Bytes: 1 << 20})
		if len(raw) > 1<<20 {
			if err == nil {
				t.Fatal("size limit does not hold")
			}
			return
		}
		valid := jsontext.Value(raw).IsValid()
		if err == nil {
			if !valid {
				t.Fatalf("accepted %q, which v2 refuses", raw)
			}
			if why := ours(raw); len(why) > 0 {
				t.Fatalf("accepted %q in spite of %v", raw, why)
			}
			checkAgainstV2(t, &m)
			return
		}
		var syntax *wire.SyntaxError
		if !errors.As(err, &syntax) {
			t.Fatalf("%q: error of another type: %v", raw, err)
		}
		if !valid {
			return
		}
		if syntax.Code == wire.ParseError {
			t.Fatalf("no JSON to Scan, though v2 takes %q: %v", raw, err)
		}
		if len(ours(raw)) == 0 {
			t.Fatalf("refused %q: %v", raw, err)
		}
	})
}
