package wire_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

func TestSplice(t *testing.T) {
	raw := []byte("0123456789")
	e := func(start, end int, with string) wire.Edit {
		return wire.Edit{Span: wire.Span{Start: start, End: end}, With: []byte(with)}
	}
	for _, c := range []struct {
		name  string
		edits []wire.Edit
		want  string
	}{
		{"none", nil, "0123456789"},
		{"one in the middle", []wire.Edit{e(3, 5, "xyz")}, "012xyz56789"},
		{"at both ends", []wire.Edit{e(0, 1, ""), e(9, 10, "end")}, "12345678end"},
		{"all", []wire.Edit{e(0, 10, "")}, ""},
		{"insert", []wire.Edit{e(5, 5, "-")}, "01234-56789"},
		{"insert at both ends", []wire.Edit{e(0, 0, "<"), e(10, 10, ">")}, "<0123456789>"},
		{"neighbours", []wire.Edit{e(2, 4, "a"), e(4, 6, "b")}, "01ab6789"},
		{"insert before what is replaced", []wire.Edit{e(2, 2, "a"), e(2, 4, "b")}, "01ab456789"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(wire.Splice(raw, c.edits...)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if string(raw) != "0123456789" {
				t.Fatalf("the message itself became %q", raw)
			}
		})
	}
	for name, edits := range map[string][]wire.Edit{
		"out of order": {e(5, 6, ""), e(1, 2, "")},
		"overlap":      {e(1, 4, ""), e(3, 5, "")},
		"beyond":       {e(8, 11, "")},
		"backwards":    {e(4, 3, "")},
		"negative":     {e(-1, 3, "")},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			wire.Splice(raw, edits...)
		})
	}
}

// TestSpliceRename is what the gateway does to a call: another name, nothing else.
func TestSpliceRename(t *testing.T) {
	raw := []byte("{ \"jsonrpc\":\"2.0\", \"id\": 12345678901234567890,\n\"method\":\"tools/call\",\"params\":{\"arguments\":{\"n\":1.0,\"big\":12345678901234567890 , \"x\":\"<a>&\\u00e4\"},\"name\":\"crm.\\u006cookup\"}}")
	m, err := wire.Scan(raw, wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	got := wire.Splice(raw, wire.Edit{Span: m.NameSpan, With: wire.AppendString(nil, "lookup")})
	want := strings.Replace(string(raw), `"crm.\u006cookup"`, `"lookup"`, 1)
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestInsert(t *testing.T) {
	for raw, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`:                `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a":1}}}`,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{ \n}}": "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"_meta\":{\"a\":1} \n}}",
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{ "x":1}}`:          `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a":1}, "x":1}}`,
	} {
		m, err := wire.Scan([]byte(raw), wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		got := wire.Splice(m.Raw, wire.Insert(m.Raw, m.Params, "_meta", []byte(`{"a":1}`)))
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if m, err = wire.Scan(got, wire.Limits{}); err != nil || string(m.Meta.Of(got)) != `{"a":1}` {
			t.Errorf("%s: _meta %q, %v", got, m.Meta.Of(got), err)
		}
	}
}

func TestAppend(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
		kind wire.MessageKind // 0: not a message
	}{
		{"result", wire.AppendResult(nil, []byte(`"a"`), []byte(`{"x":1}`)), `{"jsonrpc":"2.0","id":"a","result":{"x":1}}`, wire.Result},
		{"error", wire.AppendError(nil, []byte("1"), wire.InvalidParams, "bad \"x\"\n", nil), `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad \"x\"\n"}}`, wire.Error},
		{"error with data", wire.AppendError(nil, []byte("1"), wire.UnsupportedVersion, "no", []byte(`{"supported":[]}`)), `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":[]}}}`, wire.Error},
		{"error without an id", wire.AppendError(nil, nil, wire.ParseError, "no", nil), `{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}`, wire.Error},
		{"request", wire.AppendRequest(nil, []byte("7"), wire.MethodToolsList, []byte(`{"cursor":"c"}`)), `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"c"}}`, wire.Request},
		{"request without params", wire.AppendRequest(nil, []byte("7"), wire.MethodPing, nil), `{"jsonrpc":"2.0","id":7,"method":"ping"}`, wire.Request},
		{"notification", wire.AppendNotification(nil, wire.NotificationCancelled, []byte(`{"requestId":7}`)), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`, wire.Notification},
		{"notification without params", wire.AppendNotification(nil, wire.NotificationInitialized, nil), `{"jsonrpc":"2.0","method":"notifications/initialized"}`, wire.Notification},
		{"tool error", wire.ToolError(nil, wire.Sessions, "denied: \\", nil), `{"content":[{"type":"text","text":"denied: \\"}],"isError":true}`, 0},
		{"tool error of the stateless era", wire.ToolError(nil, wire.Stateless, "no", []byte(`{"a":1}`)), `{"resultType":"complete","content":[{"type":"text","text":"no"}],"isError":true,"_meta":{"a":1}}`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := strings.ReplaceAll(c.want, "\n", `\n`)
			if string(c.got) != want {
				t.Fatalf("got  %s\nwant %s", c.got, want)
			}
			raw := c.got
			if c.kind == 0 {
				raw, c.kind = wire.AppendResult(nil, []byte("1"), c.got), wire.Result
			}
			m, err := wire.Scan(raw, wire.Limits{})
			if err != nil || m.Kind != c.kind {
				t.Fatalf("reads back as %v, %v", m.Kind, err)
			}
		})
	}
	if got := wire.AppendResult([]byte("kept "), []byte("1"), []byte("{}")); !bytes.HasPrefix(got, []byte("kept {")) {
		t.Errorf("does not append: %s", got)
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `""`,
		"plain":                   `"plain"`,
		"<a>&'/\x7f\u2028":        "\"<a>&'/\x7f\u2028\"",
		"\"\\":                    `"\"\\"`,
		"\b\f\n\r\t":              `"\b\f\n\r\t"`,
		"\x00\x1b\x1f":            `"\u0000\u001b\u001f"`,
		"ä漢😀":                     `"ä漢😀"`,
		"a\xffb\xe2\x82":          "\"a\uFFFDb\uFFFD\uFFFD\"",
		"\xed\xa0\x80\uFFFD":      "\"\uFFFD\uFFFD\uFFFD\uFFFD\"",
		"\xff" + "\n" + "\xc0.\"": "\"\uFFFD\\n\uFFFD.\\\"\"",
	} {
		if got := string(wire.AppendString(nil, in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestStringsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "text") {
			s = rapid.String().Draw(t, "s")
		}
		tok := wire.AppendString(nil, s)
		var v2 string
		if err := jsonv2.Unmarshal(tok, &v2); err != nil {
			t.Fatalf("v2 refuses %s: %v", tok, err)
		}
		got, err := wire.DecodeString(tok)
		if err != nil || got != v2 {
			t.Fatalf("%s reads back as %q (%v), for v2 as %q", tok, got, err, v2)
		}
		if utf8.ValidString(s) && got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
		spelt := spell(t, v2)
		if got, err := wire.DecodeString([]byte(spelt)); err != nil || got != v2 {
			t.Fatalf("%s reads as %q, %v", spelt, got, err)
		}
	})
}

// FuzzDecodeString holds strings against json v2.
func FuzzDecodeString(f *testing.F) {
	for _, s := range []string{`"a"`, `"\ud83d\ude00"`, `"\ud83d"`, `""`, `"`, "\"\xff\"", `"a" `, `"\u00e4\/\\"`, `1`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, tok []byte) {
		got, err := wire.DecodeString(tok)
		trimmed := bytes.Trim(tok, " \t\r\n")
		valid := len(trimmed) == len(tok) && jsontext.Value(tok).IsValid() && jsontext.Value(tok).Kind() == '"'
		if (err == nil) != valid {
			t.Fatalf("%q: %v, v2 says %v", tok, err, valid)
		}
		if err != nil {
			return
		}
		want, err := jsontext.AppendUnquote(nil, tok)
		if err != nil || got != string(want) {
			t.Fatalf("%q is %q, for v2 %q (%v)", tok, got, want, err)
		}
	})
}
