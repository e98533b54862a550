package wire_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/wire"
)

// call430 is a tools/call of the stateless era of the usual size.
const call430 = `{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":{"name":"crm_update_customer","arguments":{"customer_id":"C-20391","fields":{"status":"active","credit_limit":2500,"note":"raised after the yearly review"}},"_meta":{"progressToken":"p-4711","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"agent-host","version":"1.4.2"},"io.modelcontextprotocol/clientCapabilities":{}}}}`

// What a decoder has to be told for a gateway to route a call.
type envelopeV1 struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
		Meta      struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
}

type envelopeV2 struct {
	JSONRPC string         `json:"jsonrpc"`
	ID      jsontext.Value `json:"id"`
	Method  string         `json:"method"`
	Params  struct {
		Name      string         `json:"name"`
		Arguments jsontext.Value `json:"arguments"`
		Meta      struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
}

func BenchmarkScan430B(b *testing.B) {
	raw := []byte(call430)
	run := func(name string, f func() (string, error)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				got, err := f()
				if err != nil || got != "crm_update_customer" {
					b.Fatal(got, err)
				}
			}
		})
	}
	run("wire", func() (string, error) {
		m, err := wire.Scan(raw, wire.Limits{})
		return m.Name, err
	})
	run("jsonv1", func() (string, error) {
		var m envelopeV1
		err := json.Unmarshal(raw, &m)
		return m.Params.Name, err
	})
	run("jsonv2", func() (string, error) {
		var m envelopeV2
		err := jsonv2.Unmarshal(raw, &m)
		return m.Params.Name, err
	})
}

// BenchmarkScanSizes shows that time grows with the length of a message and not
// faster, whatever is in it.
func BenchmarkScanSizes(b *testing.B) {
	members := func(n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, `,"k%d":%d`, i, i)
		}
		return "{" + s.String()[1:] + "}"
	}
	result := func(body string) string { return `{"jsonrpc":"2.0","id":1,"result":` + body + `}` }
	for _, c := range []struct{ name, raw string }{
		{"ascii32KB", result(`{"content":[{"type":"text","text":"` + strings.Repeat("plain text ", 2900) + `"}]}`)},
		{"wide32KB", result(`{"content":[{"type":"text","text":"` + strings.Repeat("äöü漢字 ", 2400) + `"}]}`)},
		{"escapes32KB", result(`{"content":[{"type":"text","text":"` + strings.Repeat(`line\n\"q\" `, 2900) + `"}]}`)},
		{"members1000", result(members(1000))},
		{"members100000", result(members(100000))},
	} {
		b.Run(c.name, func(b *testing.B) {
			raw := []byte(c.raw)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := wire.Scan(raw, wire.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheckHeaders(b *testing.B) {
	m, err := wire.Scan([]byte(call430), wire.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	h := http.Header{}
	wire.SetHeaders(h, &m, wire.Version20260728)
	b.ReportAllocs()
	for b.Loop() {
		if err := wire.CheckHeaders(h, &m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkItems2000(b *testing.B) {
	var s strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&s, `,{"name":"tool_%d","description":"does %d things","inputSchema":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"]}}`, i, i)
	}
	raw := []byte(`{"tools":[` + s.String()[1:] + `]}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if items, _, err := wire.Items(raw, "tools"); err != nil || len(items) != 2000 {
			b.Fatal(len(items), err)
		}
	}
}

func BenchmarkEvents(b *testing.B) {
	data := []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + strings.Repeat("x", 32<<10) + `"}]}}`)
	stream := string(wire.AppendEvent(nil, "", data))
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if _, err := wire.NewEventReader(strings.NewReader(stream), 1<<20).Next(); err != nil {
			b.Fatal(err)
		}
	}
}
