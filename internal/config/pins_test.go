package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
)

// anyJSON is a JSON object with white space in odd places.
func anyJSON(name string) *rapid.Generator[json.RawMessage] {
	return rapid.Custom(func(t *rapid.T) json.RawMessage {
		space := rapid.SampledFrom([]string{"", " ", "\n", "\t", "\r\n  ", "\n\n"})
		value := rapid.SampledFrom([]string{"1", "1.0", "12345678901234567890", `"<&>\u2028"`, `"\u00e9é"`, "true", "null", "[ ]", `{"a" :1}`, "1e400"})
		var b strings.Builder
		b.WriteString("{" + space.Draw(t, "s"))
		if name != "" {
			b.WriteString(`"name"` + space.Draw(t, "s") + ":" + space.Draw(t, "s") + `"` + name + `"`)
		}
		for i, v := range rapid.SliceOfN(value, 0, 4).Draw(t, "values") {
			if i > 0 || name != "" {
				b.WriteString(space.Draw(t, "s") + "," + space.Draw(t, "s"))
			}
			b.WriteString(`"m` + string(rune('a'+i)) + `":` + space.Draw(t, "s") + v)
		}
		b.WriteString(space.Draw(t, "s") + "}")
		return json.RawMessage(b.String())
	})
}

// TestPinsKeepEveryByte: what is written is read back, definitions byte for byte.
func TestPinsKeepEveryByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Pins{
			Server: sallyport.PinnedServer{
				ProtocolVersion: rapid.SampledFrom([]string{"2025-11-25", "2026-07-28"}).Draw(t, "version"),
				Capabilities:    anyJSON("").Draw(t, "capabilities"),
				Instructions:    rapid.String().Draw(t, "instructions"),
			},
			Tools: []json.RawMessage{},
		}
		if rapid.Bool().Draw(t, "info") {
			p.Server.ServerInfo = anyJSON("").Draw(t, "serverInfo")
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "tools") {
			p.Tools = append(p.Tools, anyJSON("tool"+string(rune('a'+i))).Draw(t, "tool"))
		}
		back, err := ParsePins(p.Marshal())
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Marshal())
		}
		if diff := cmp.Diff(p, back); diff != "" {
			t.Fatalf("(-written +read)\n%s", diff)
		}
		if !bytes.Equal(p.Marshal(), back.Marshal()) {
			t.Fatal("written twice it differs")
		}
	})
}

func TestParsePinsRefuses(t *testing.T) {
	server := `"server": {"protocolVersion": "2025-11-25", "capabilities": {}}`
	tests := []struct{ text, want string }{
		{``, "1:1: not JSON: the file ends too early"},
		{`[]`, "1:1: the file has to be an object"},
		{"{\n", "2:1: not JSON: the file ends too early"},
		{"{\n  \"tools\": []\n}", "1:1: server is missing in the file"},
		{"{" + server + "}", "1:1: tools is missing in the file"},
		{"{" + server + `, "tools": [], "tool": []}`, `unknown member "tool" in the file`},
		{"{" + server + `, "tools": []} {}`, "text after the end"},
		{"{" + server + `, "tools": [1]}`, "1:77: a tool has to be an object"},
		{"{" + server + `, "tools": {}}`, "tools has to be an array"},
		{"{" + server + `, "tools": [{"Name": "a"}]}`, "a tool without a name"},
		{"{" + server + `, "tools": [{"name": ""}]}`, "a tool without a name"},
		{"{" + server + `, "tools": [{"name": 1}]}`, "a tool without a name"},
		{"{" + server + `, "tools": [{"name": "a"}, {"name": "a"}]}`, `a second tool named "a"`},
		{"{" + server + `, "tools": [{"name": "a", "x": {"y": 1, "y": 2}}]}`, "duplicate object member name"},
		{"{" + server + `, "tools": [{"name": "` + "\xff" + `"}]}`, "invalid UTF-8"},
		{"{" + server + `, "tools": [{"name": "a",}]}`, "not JSON"},
		{"{" + server + ", " + server + `, "tools": []}`, "duplicate object member name"},
		{`{"server": {"protocolVersion": 1, "capabilities": {}}, "tools": []}`, "protocolVersion has to be text"},
		{`{"server": {"protocolVersion": "1"}, "tools": []}`, "capabilities is missing in server"},
		{`{"server": {"protocolVersion": "1", "capabilities": []}, "tools": []}`, "capabilities has to be an object"},
	}
	for _, tt := range tests {
		p, err := ParsePins([]byte(tt.text))
		var problems Problems
		if p != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

func FuzzParsePins(f *testing.F) {
	f.Add([]byte(template(f, "minimal")["upstreams/weather.pins.json"]))
	f.Add([]byte(`{"server":{"protocolVersion":"","capabilities":{}},"tools":[]}`))
	f.Add([]byte("{\"server\":{\"protocolVersion\":\"1\",\"capabilities\":{ \"a\" : 1e9 }},\"tools\":[{\"name\":\"\\u0061\",\"name2\":\"\xff\"}]}"))
	f.Add([]byte(`{"tools":[{"name":"a"},{"name":"a"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePins(b)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || problems[0].Line < 1 || problems[0].Line > bytes.Count(b, []byte("\n"))+1 {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, raw := range p.Tools {
			if !bytes.Contains(b, raw) {
				t.Fatalf("%q is not in the file", raw)
			}
		}
		back, err := ParsePins(p.Marshal())
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Marshal())
		}
		if !slices.EqualFunc(p.Tools, back.Tools, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) ||
			p.Server.ProtocolVersion != back.Server.ProtocolVersion || p.Server.Instructions != back.Server.Instructions ||
			!bytes.Equal(p.Server.Capabilities, back.Server.Capabilities) || !bytes.Equal(p.Server.ServerInfo, back.Server.ServerInfo) {
			t.Fatalf("read %+v, written and read %+v", p, back)
		}
	})
}
