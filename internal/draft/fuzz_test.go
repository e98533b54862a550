package draft_test

import (
	"testing"

	"sallyport"
	"sallyport/internal/draft"
	"sallyport/internal/testkit"
	"sallyport/internal/twin"
)

// FuzzNew: whatever a server says of its tools and answers, a draft is made or refused,
// and what is made can be compiled.
func FuzzNew(f *testing.F) {
	f.Add("get_thing", `{"name":"get_thing","inputSchema":{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]},"outputSchema":{"type":"object","required":["id","n"],"properties":{"id":{"type":"string"},"n":{"type":"number"}}}}`, `{"id":"a"}`, `{"content":[],"structuredContent":{"id":"a","n":1.50}}`)
	f.Add("createThings", `{"name":"createThings","inputSchema":{"properties":{"things":{"type":"array","items":{"$ref":"#/$defs/t"}}},"$defs":{"t":{"properties":{"from":{"type":"string"},"to b":{"type":["string","null"]}},"required":["from"]}}}}`, `{"things":[{"from":"x"}]}`, `{"content":[{"type":"text","text":"[{\"from\":\"x\"}]"}]}`)
	f.Add("delete_ä", `{"name":"delete_ä","inputSchema":{"$ref":"#"},"outputSchema":{"anyOf":[{"type":"null"},{"type":"array","items":true}]}}`, `{}`, `{"isError":true,"content":[{"type":"text","text":"no"}]}`)
	f.Fuzz(func(t *testing.T, name, definition, args, result string) {
		tool := sallyport.Tool{Name: name, UpstreamName: name, Definition: sallyport.Text(definition)}
		in := draft.Input{World: "w", Upstream: "u", Tools: []sallyport.Tool{tool}, Sessions: []draft.Session{{Name: "s", Calls: []draft.Call{{Tool: name, Args: []byte(args), Result: []byte(result)}}}}}
		d, err := draft.New(in, trial(t, in.Tools, in.Sessions))
		if err != nil {
			return
		}
		def, err := twin.Parse(testkit.FromYAML(t, d.Text))
		if err != nil {
			t.Fatalf("%v\n%s", err, d.Text)
		}
		if _, err := twin.Compile(def, d.Files, nil); err != nil {
			t.Fatalf("%v\n%s", err, d.Text)
		}
	})
}
