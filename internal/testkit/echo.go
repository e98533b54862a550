// Package testkit holds what tests of several packages need: a fast MCP server over
// HTTP and over stdio, and a check for goroutines left behind. It is imported from
// test files only.
package testkit

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"sallyport/internal/wire"
)

// Definition is the one tool the servers have, byte for byte. Its white space is
// odd on purpose, and it has a member that no version of the protocol knows.
const Definition = `{"name":"echo", "title":"Echo","description":"Answers the same <thing> & nothing else.",` +
	`"inputSchema":{"type":"object","properties":{"message":{"type":"string"},"count":{"type":"integer"}},"required":["message"]},` +
	`"outputSchema":{"type":"object","properties":{"id":{"type":"string"},"text":{"type":"string"}},"required":["id","text"]},` +
	`"annotations":{"readOnlyHint":true},"x-vendor":{"weight":12345678901234567890 , "ratio":1.0}}`

// ServerInfo and Capabilities are what the servers say of themselves.
const (
	ServerInfo   = `{"name":"echo-server","version":"1.2.3"}`
	Capabilities = `{"tools":{}}`
)

// Fidelity is a result that a gateway which decodes and encodes again would
// change: large and long numbers, odd white space, escapes, unknown members and an
// unknown type of content.
const Fidelity = `{ "content":[ {"type":"text","text":"<a>&\u003c\/ \ud83d\ude00"},` + "\t" + `{"type":"hologram","depth":12345678901234567890,"data":null} ],` +
	`"structuredContent":{"id":"e\u0031","text":"t","big":12345678901234567890,"exact":1.10,"exp":1E+2,"neg":-0,"x":{"b":1,"a":2}},` +
	"\n" + `"unknownMember":[1 , 2],"isError":false }`

// FidelityError is an error, the value of "error", with data of the same kind.
const FidelityError = `{"code":-32050,"message":"no \u00e4","data":{"big":12345678901234567890 , "list":[1.0,2e0]},"unknown":true}`

// DefaultSize is the size of the usual result in bytes, about.
const DefaultSize = 300

// result is a result of about size bytes.
func result(size int) []byte {
	const head = `{"content":[{"type":"text","text":"`
	text := strings.Repeat("All is well. ", max(0, size-120)/13+1)
	return []byte(head + text + `"}],"structuredContent":{"id":"echo-0001","text":"All is well, and this is the structured part of it."}}`)
}

// knobs say how calls are answered.
type knobs struct {
	delay    time.Duration
	hang     bool
	progress int
	result   []byte // an object
	failure  []byte // of a JSON-RPC error, instead of a result
	reply    func(id []byte) []byte
}

// answer writes the whole response to a request, or nil if the method is unknown.
func answer(dst []byte, m *wire.Message, era wire.Era, k *knobs) []byte {
	id := m.ID.Of(m.Raw)
	switch m.Method {
	case wire.MethodInitialize:
		return wire.AppendResult(dst, id, fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":%s,"serverInfo":%s,"instructions":"Echo what you like."}`, wire.Version20251125, Capabilities, ServerInfo))
	case wire.MethodServerDiscover:
		return wire.AppendResult(dst, id, fmt.Appendf(nil, `{"resultType":"complete","supportedVersions":[%q],"capabilities":%s,"instructions":"Echo what you like.","ttlMs":0,"cacheScope":"private","_meta":{%q:%s}}`, wire.Version20260728, Capabilities, wire.MetaServerInfo, ServerInfo))
	case wire.MethodPing:
		return wire.AppendResult(dst, id, []byte(`{}`))
	case wire.MethodToolsList:
		list := `{"tools":[` + Definition + `]}`
		if era == wire.Stateless {
			list = `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[` + Definition + `]}`
		}
		return wire.AppendResult(dst, id, []byte(list))
	case wire.MethodToolsCall:
		switch {
		case k.reply != nil:
			return append(dst, k.reply(id)...)
		case k.failure != nil:
			dst = append(append(dst, `{"jsonrpc":"2.0","id":`...), id...)
			dst = append(append(dst, `,"error":`...), k.failure...)
			return append(dst, '}')
		case era == wire.Stateless && !bytes.Contains(k.result, []byte(`"resultType"`)):
			dst = append(append(dst, `{"jsonrpc":"2.0","id":`...), id...)
			dst = append(append(dst, `,"result":{"resultType":"complete",`...), k.result[1:]...)
			return append(dst, '}')
		default:
			return wire.AppendResult(dst, id, k.result)
		}
	}
	return nil
}

// progress is the n-th progress notification for a call.
func progress(m *wire.Message, n int) []byte {
	token := m.ProgressToken.Of(m.Raw)
	if token == nil {
		token = m.ID.Of(m.Raw)
	}
	return wire.AppendNotification(nil, wire.NotificationProgress, fmt.Appendf(nil, `{"progressToken":%s,"progress":%d}`, token, n))
}

// eraOf is the era a message is of. Its header may be empty.
func eraOf(m *wire.Message, header string) wire.Era {
	if era, ok := wire.EraOf(header); m.MetaVersion != "" || ok && era == wire.Stateless {
		return wire.Stateless
	}
	return wire.Sessions
}
