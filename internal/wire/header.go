package wire

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode/utf8"
)

// The headers that mirror parts of a message, in the form in which net/http
// keeps them.
const (
	HeaderVersion   = "Mcp-Protocol-Version"
	HeaderMethod    = "Mcp-Method"
	HeaderName      = "Mcp-Name"
	HeaderSessionID = "Mcp-Session-Id"

	headerParam = "Mcp-Param-"
)

func mismatch(reason string) *SyntaxError {
	return &SyntaxError{Code: HeaderMismatch, Reason: reason}
}

// one returns the value of a header that may stand there once at most.
func one(h http.Header, name string) (value string, ok bool, err error) {
	switch v := h.Values(name); len(v) {
	case 0:
		return "", false, nil
	case 1:
		return v[0], true, nil
	default:
		return "", false, mismatch("header " + name + " stands there more than once")
	}
}

// named reports whether Mcp-Name mirrors the name of the method's requests.
func named(method string) bool {
	return method == MethodToolsCall || method == MethodResourcesRead || method == MethodPromptsGet
}

// CheckHeaders holds the headers of a POST of the stateless era against its body
// (MCP 2026-07-28, Streamable HTTP, "Server Validation"). It is for messages whose
// header or whose _meta names a version of that era: if only one of them does,
// that is a mismatch. What a notification's headers must be the specification
// leaves open; here they may be absent, but not different.
//
// The error is a *[SyntaxError] with Code HeaderMismatch, or InvalidParams if the
// headers are good and a member of _meta that every request has is missing.
func CheckHeaders(h http.Header, m *Message) error {
	version, hasVersion, err := one(h, HeaderVersion)
	if err != nil {
		return err
	}
	method, hasMethod, err := one(h, HeaderMethod)
	if err != nil {
		return err
	}
	name, hasName, err := one(h, HeaderName)
	if err != nil {
		return err
	}
	request := m.Kind == Request

	switch {
	case !hasVersion:
		return mismatch("header MCP-Protocol-Version is missing")
	case m.MetaVersion == "" && request:
		return &SyntaxError{Code: InvalidParams, Reason: "params._meta has no " + MetaProtocolVersion}
	case m.MetaVersion != "" && version != m.MetaVersion:
		return mismatch("header MCP-Protocol-Version differs from " + MetaProtocolVersion)
	}
	switch {
	case !hasMethod && request:
		return mismatch("header Mcp-Method is missing")
	case hasMethod && method != m.Method:
		return mismatch("header Mcp-Method differs from the method of the body")
	}
	if request && named(m.Method) {
		if !hasName {
			return mismatch("header Mcp-Name is missing")
		}
		if name, err = DecodeHeaderValue(name); err != nil {
			return err
		}
		switch {
		case !m.NameSpan.Present():
			return &SyntaxError{Code: InvalidParams, Reason: "params names nothing to be called or read"}
		case name != m.Name:
			return mismatch("header Mcp-Name differs from the name in the body")
		}
	}
	if request && !m.ClientCapabilities.Present() {
		return &SyntaxError{Code: InvalidParams, Reason: "params._meta has no " + MetaClientCapabilities}
	}
	return nil
}

// SetHeaders sets the headers that mirror a message on its way to a server, and
// removes those that have nothing to mirror. In the sessions era only the version
// is mirrored.
func SetHeaders(h http.Header, m *Message, version string) {
	h[HeaderVersion] = []string{version}
	delete(h, HeaderMethod)
	delete(h, HeaderName)
	if era, _ := EraOf(version); era != Stateless || m.Method == "" {
		return
	}
	h[HeaderMethod] = []string{EncodeHeaderValue(m.Method)}
	if named(m.Method) && m.NameSpan.Present() {
		h[HeaderName] = []string{EncodeHeaderValue(m.Name)}
	}
}

const (
	encodedPrefix = "=?base64?"
	encodedSuffix = "?="
)

// EncodeHeaderValue writes a text so that it survives in a header: as it is if it
// is printable ASCII without white space at its ends, in the form
// =?base64?...?= otherwise (MCP 2026-07-28, Streamable HTTP, "Value Encoding").
func EncodeHeaderValue(s string) string {
	if printable(s) && !(strings.HasPrefix(s, encodedPrefix) && strings.HasSuffix(s, encodedSuffix)) {
		return s
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(s)) + encodedSuffix
}

// printable reports whether s can stand in a header as it is. The empty text
// could, but intermediaries drop empty headers and some servers take one for
// missing.
func printable(s string) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return false
		}
	}
	return true
}

// DecodeHeaderValue is the reverse of [EncodeHeaderValue]. The error is a
// *[SyntaxError] with Code HeaderMismatch: characters that no header has, base64
// that is not canonical, or text that is not UTF-8.
func DecodeHeaderValue(s string) (string, error) {
	for i := range len(s) {
		if (s[i] < 0x20 && s[i] != '\t') || s[i] > 0x7E {
			return "", mismatch("header value with a character outside printable ASCII")
		}
	}
	if s != strings.Trim(s, " \t") {
		return "", mismatch("header value with white space around it")
	}
	text, ok := strings.CutPrefix(s, encodedPrefix)
	if !ok {
		return s, nil
	}
	if text, ok = strings.CutSuffix(text, encodedSuffix); !ok {
		return s, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", mismatch("header value that is not base64")
	}
	if !utf8.Valid(b) {
		return "", mismatch("header value that is not UTF-8")
	}
	return string(b), nil
}
