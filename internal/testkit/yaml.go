package testkit

import (
	"bytes"
	"encoding/json"
	"testing"

	"go.yaml.in/yaml/v3"
)

// FromYAML turns YAML into JSON with its members in their order, as config does. A time is
// the text it is written as.
func FromYAML(t testing.TB, text []byte) []byte {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var write func(dst *bytes.Buffer, n *yaml.Node)
	write = func(dst *bytes.Buffer, n *yaml.Node) {
		switch n.Kind {
		case yaml.DocumentNode:
			write(dst, n.Content[0])
		case yaml.MappingNode:
			dst.WriteByte('{')
			for i := 0; i < len(n.Content); i += 2 {
				if i > 0 {
					dst.WriteByte(',')
				}
				key, _ := json.Marshal(n.Content[i].Value)
				dst.Write(key)
				dst.WriteByte(':')
				write(dst, n.Content[i+1])
			}
			dst.WriteByte('}')
		case yaml.SequenceNode:
			dst.WriteByte('[')
			for i, item := range n.Content {
				if i > 0 {
					dst.WriteByte(',')
				}
				write(dst, item)
			}
			dst.WriteByte(']')
		default:
			var v any
			if err := n.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if n.Tag == "!!timestamp" {
				v = n.Value
			}
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			dst.Write(raw)
		}
	}
	var dst bytes.Buffer
	write(&dst, &doc)
	return dst.Bytes()
}
