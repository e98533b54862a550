package flow_test

import (
	"bytes"
	"testing"

	"sallyport"
	"sallyport/internal/flow"
)

func FuzzDecodeDelta(f *testing.F) {
	x := flow.New(envelope(""))
	c := &flow.Call{ID: "call_1", Upstream: "crm", Tool: "list_users", Profile: directory, Arguments: []byte(`{"q":"eve@evil.net"}`), Result: structured(users)}
	f.Add(x.Learn(c).Encode())
	f.Add(x.Approve(c).Encode())
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := flow.DecodeDelta(b)
		if err != nil {
			return
		}
		if !bytes.Equal(d.Encode(), b) {
			t.Fatalf("%x is read and written as %x", b, d.Encode())
		}
		x := flow.New(envelope(""))
		x.Join(d)
		x.Judge(&flow.Query{Arguments: []byte(`{"a":"b"}`)})
	})
}

// FuzzCall feeds results and arguments of anybody. Nothing that nobody endorsed ever
// makes a value trusted, and what the call itself said never does.
func FuzzCall(f *testing.F) {
	f.Add([]byte(`{"to":"mia@example.com","id":7}`), structured(users), "send it to mia@example.com", false)
	f.Add([]byte(`{"to":["a@b.co, <c@d.eu>"]}`), []byte(`{"content":[{"type":"text","text":"- name: Mia\n  id: 3\n"},{"type":"image","data":"aGk="}]}`), `call "Mia Berg" +49 30 1234567`, true)
	f.Add([]byte(`{"url":"https://a.b@c/..//%2e?x#y"}`), []byte(`{"isError":"x","content":{}}`), "(www.a.com) [b](http://c.de/f(g))", false)
	f.Add([]byte(`{"a":"\u200b\ud83d\ude00"}`), []byte(`"just text"`), "GB29 NWBK 6016 1331 9268 19 'q' “z”", true)
	f.Fuzz(func(t *testing.T, arguments, result []byte, task string, asYAML bool) {
		p := &flow.Profile{Args: map[string]sallyport.ArgKind{"body": sallyport.Content}}
		endorsing := *directory
		if asYAML {
			p.Format, endorsing.Format = flow.YAML, flow.YAML
		}
		x := flow.New(envelope(task))
		q := &flow.Query{Upstream: "crm", Profile: p, Arguments: arguments}
		before := x.Judge(q)
		for _, profile := range []*flow.Profile{nil, p, &endorsing} {
			d := x.Learn(&flow.Call{ID: "call_1", Upstream: "crm", Profile: profile, Arguments: arguments, Result: result})
			back, err := flow.DecodeDelta(d.Encode())
			if err != nil {
				t.Fatal(err)
			}
			x.Join(back)
		}
		after := x.Judge(q)
		if len(before.Args) != len(after.Args) {
			t.Fatalf("%d leaves became %d", len(before.Args), len(after.Args))
		}
		for i := range before.Args {
			if after.Args[i].Trusted && !before.Args[i].Trusted {
				t.Fatalf("%+v became %+v", before.Args[i], after.Args[i])
			}
		}
	})
}

func FuzzSuggest(f *testing.F) {
	f.Add([]byte(`{"inputSchema":{"properties":{"to":{"type":["string","null"]}}},"outputSchema":{"type":"array","items":{"properties":{"id":{}}}}}`), []byte(`[{"id":1}]`))
	f.Fuzz(func(t *testing.T, raw, sample []byte) {
		s, err := flow.Suggest(flow.Definition{Name: "list_users", Raw: raw, Samples: [][]byte{sample}}, []flow.Definition{{Name: "add_user", Raw: raw}})
		if err != nil {
			return
		}
		for _, a := range s.Args {
			if a.Kind == 0 || a.Why == "" {
				t.Fatalf("argument %+v", a)
			}
		}
		for _, g := range s.Fields {
			if g.Kind == 0 || g.Why == "" {
				t.Fatalf("field %+v", g)
			}
		}
	})
}
