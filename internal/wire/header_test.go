package wire_test

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

const meta20260728 = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func message(t *testing.T, raw string) *wire.Message {
	t.Helper()
	m, err := wire.Scan([]byte(raw), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

// request reads headers as they come off a connection, so that what net/http does
// to names and values is in the test.
func request(t *testing.T, lines string) http.Header {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST /mcp HTTP/1.1\r\nHost: x\r\n" + strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r.Header
}

func TestCheckHeaders(t *testing.T) {
	call := func(name string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":` + name + `,` + meta20260728 + `}}`
	}
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta20260728 + `}}`
	read := `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"name":"decoy","uri":"file:///a b",` + meta20260728 + `}}`
	const (
		ok       = 0
		mismatch = wire.HeaderMismatch
		params   = wire.InvalidParams
	)
	for _, c := range []struct {
		name, headers, body string
		code                int
	}{
		{"good", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\n", call(`"t"`), ok},
		{"names of headers in any case, white space around values", "mcp-protocol-version:2026-07-28\nMCP-METHOD:  tools/call \nmcp-NAME: t\n", call(`"t"`), ok},
		{"name with an escape in the body", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\n", call(`"\u0074"`), ok},
		{"name in base64", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: =?base64?w6Q=?=\n", call(`"ä"`), ok},
		{"name in base64 without need", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: =?base64?dA==?=\n", call(`"t"`), ok},
		{"uri", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: resources/read\nMcp-Name: file:///a b\n", read, ok},
		{"list", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\n", list, ok},
		{"a name where there is none to mirror", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\nMcp-Name: x\n", list, ok},
		{"notification", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: notifications/cancelled\n", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, ok},
		{"notification without Mcp-Method", "MCP-Protocol-Version: 2026-07-28\n", `{"jsonrpc":"2.0","method":"notifications/cancelled"}`, ok},

		{"no headers", "", call(`"t"`), mismatch},
		{"no version", "Mcp-Method: tools/call\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"another version", "MCP-Protocol-Version: 2025-11-25\nMcp-Method: tools/call\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"two versions", "MCP-Protocol-Version: 2026-07-28\nMCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"no method", "MCP-Protocol-Version: 2026-07-28\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"another method", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"method in another case", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: Tools/Call\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"two methods", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Method: tools/list\nMcp-Name: t\n", call(`"t"`), mismatch},
		{"no name", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\n", call(`"t"`), mismatch},
		{"another name", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: u\n", call(`"t"`), mismatch},
		{"name in another case", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: T\n", call(`"t"`), mismatch},
		{"two names", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\nMcp-Name: u\n", call(`"t"`), mismatch},
		{"two names of a list", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\nMcp-Name: t\nMcp-Name: u\n", list, mismatch},
		{"name not in base64", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: =?base64?!!?=\n", call(`"t"`), mismatch},
		{"raw bytes in the name", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: ä\n", call(`"ä"`), mismatch},
		{"name of the decoy", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: resources/read\nMcp-Name: decoy\n", read, mismatch},
		{"notification of another method", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\n", `{"jsonrpc":"2.0","method":"notifications/cancelled"}`, mismatch},
		{"notification without a version", "", `{"jsonrpc":"2.0","method":"notifications/cancelled"}`, mismatch},
		{"notification of another version", "MCP-Protocol-Version: 2026-07-28\n", `{"jsonrpc":"2.0","method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2027-01-01"}}}`, mismatch},

		{"no version in the body", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\n", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`, params},
		{"no capabilities in the body", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\n", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, params},
		{"no name in the body", "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: t\n", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + meta20260728 + `}}`, params},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := wire.CheckHeaders(request(t, c.headers), message(t, c.body))
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

func TestSetHeaders(t *testing.T) {
	call := message(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ä\n",`+meta20260728+`}}`)
	stale := func() http.Header {
		return http.Header{"Mcp-Name": {"stale"}, "Mcp-Method": {"stale"}, "Mcp-Protocol-Version": {"stale", "more"}, "Accept": {"kept"}}
	}
	for _, c := range []struct {
		name, version string
		m             *wire.Message
		want          http.Header
	}{
		{"sessions", wire.Version20251125, call, http.Header{"Mcp-Protocol-Version": {"2025-11-25"}, "Accept": {"kept"}}},
		{"stateless", wire.Version20260728, call, http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"=?base64?w6QK?="}, "Accept": {"kept"}}},
		{"list", wire.Version20260728, message(t, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"name":"x"}}`),
			http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/list"}, "Accept": {"kept"}}},
		{"result", wire.Version20260728, message(t, `{"jsonrpc":"2.0","id":1,"result":{}}`), http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Accept": {"kept"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := stale()
			wire.SetHeaders(h, c.m, c.version)
			if diff := cmp.Diff(c.want, h); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSetHeadersPassCheck checks that what is set for a call of any name is what
// the other side accepts, and that a call of another name is not.
func TestSetHeadersPassCheck(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		body := func(name string) *wire.Message {
			m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":`+spell(t, name)+`,`+meta20260728+`}}`), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			return &m
		}
		h := http.Header{}
		wire.SetHeaders(h, body(name), wire.Version20260728)
		if err := wire.CheckHeaders(h, body(name)); err != nil {
			t.Fatalf("%v: %v", h, err)
		}
		if err := wire.CheckHeaders(h, body(name+"x")); err == nil {
			t.Fatalf("%v passes for another name", h)
		}
	})
}

func TestHeaderValues(t *testing.T) {
	for text, want := range map[string]string{
		// the examples of the specification
		"us-west1":           "us-west1",
		"Hello, 世界":          "=?base64?SGVsbG8sIOS4lueVjA==?=",
		" padded ":           "=?base64?IHBhZGRlZCA=?=",
		"line1\nline2":       "=?base64?bGluZTEKbGluZTI=?=",
		"=?base64?literal?=": "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=",

		"":              "=?base64??=",
		"a b":           "a b",
		"a\tb":          "=?base64?YQli?=",
		"~!":            "~!",
		"\x7f":          "=?base64?fw==?=",
		"=?base64?half": "=?base64?half",
		"half?=":        "half?=",
		"=?BASE64?x?=":  "=?BASE64?x?=",
	} {
		if got := wire.EncodeHeaderValue(text); got != want {
			t.Errorf("%q is written %q, want %q", text, got, want)
		}
		if got, err := wire.DecodeHeaderValue(want); err != nil || got != text {
			t.Errorf("%q is read %q, %v", want, got, err)
		}
	}
	if got, err := wire.DecodeHeaderValue("a\tb"); err != nil || got != "a\tb" {
		t.Errorf("a tab inside: %q, %v", got, err)
	}
	if got, err := wire.DecodeHeaderValue(""); err != nil || got != "" {
		t.Errorf("empty: %q, %v", got, err)
	}
	for name, value := range map[string]string{
		"control":            "a\x01b",
		"line feed":          "a\nb",
		"DEL":                "a\x7f",
		"UTF-8":              "ä",
		"white space before": " a",
		"white space behind": "a\t",
		"not base64":         "=?base64?a b?=",
		"no padding":         "=?base64?YQ?=",
		"padding bits":       "=?base64?YR==?=",
		"URL alphabet":       "=?base64?__8=?=",
		"not UTF-8":          "=?base64?/w==?=",
	} {
		if got, err := wire.DecodeHeaderValue(value); err == nil {
			t.Errorf("%s: %q was read as %q", name, value, got)
		}
	}
}

// FuzzHeaderValue checks that every text survives in a header, that what is
// written may stand there, and that what is read has one text only.
func FuzzHeaderValue(f *testing.F) {
	for _, s := range []string{"", "a", " a", "a ", "\t", "ä", "=?base64?YQ==?=", "=?base64?=", "=?base64??=", "=?base64?YQ?=", "\r\nX: y", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value := wire.EncodeHeaderValue(s)
		for i := range len(value) {
			if value[i] < 0x20 || value[i] > 0x7e {
				t.Fatalf("%q is written %q", s, value)
			}
		}
		if value == "" || strings.TrimSpace(value) != value {
			t.Fatalf("%q is written %q", s, value)
		}
		got, err := wire.DecodeHeaderValue(value)
		if strings.ToValidUTF8(s, "") == s {
			if err != nil || got != s {
				t.Fatalf("%q came back as %q, %v", s, got, err)
			}
		} else if err == nil {
			t.Fatalf("%q, which is not UTF-8, came back as %q", s, got)
		}
		if text, err := wire.DecodeHeaderValue(s); err == nil {
			if again, err := wire.DecodeHeaderValue(wire.EncodeHeaderValue(text)); err != nil || again != text {
				t.Fatalf("%q reads %q, then %q, %v", s, text, again, err)
			}
		} else {
			var syntax *wire.SyntaxError
			if !errors.As(err, &syntax) || syntax.Code != wire.HeaderMismatch {
				t.Fatalf("%q: %v", s, err)
			}
		}
	})
}
