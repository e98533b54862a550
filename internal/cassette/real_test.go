package cassette_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"sallyport/internal/cassette"
	"sallyport/internal/detect"
	"sallyport/internal/ident"
	"sallyport/internal/pseudonym"
)

// real scrubs with the detectors and pseudonyms of this program.
type real struct {
	scan   *detect.Scanner
	domain *pseudonym.Domain
}

func (r real) Scrub(leaf *cassette.Leaf) (cassette.Scrubbed, error) {
	out := cassette.Scrubbed{Verdict: cassette.Keep}
	if leaf.Type != '"' && leaf.Type != '0' {
		return out, nil
	}
	if leaf.Class != "" {
		kind, ok := ident.ParseKind(leaf.Class)
		if !ok {
			return out, fmt.Errorf("no such class: %s", leaf.Class)
		}
		out.Verdict, out.Text = cassette.Replace, string(r.domain.Replace(nil, kind, []byte(leaf.Text), nil))
		out.Found = []cassette.Found{{Class: leaf.Class, Value: leaf.Text}}
		return out, nil
	}
	var key detect.Key
	if !leaf.IsName {
		key = detect.KeyOf([]byte(leaf.Key))
	}
	text := r.replace([]byte(leaf.Text), key, &out)
	if len(out.Found) > 0 {
		out.Verdict, out.Text = cassette.Replace, string(text)
	}
	return out, nil
}

func (r real) replace(text []byte, key detect.Key, out *cassette.Scrubbed) []byte {
	var fresh []byte
	at := 0
	for _, f := range r.scan.ScanText(nil, text, key) {
		fresh = append(fresh, text[at:f.Start]...)
		at = f.End
		run := text[f.Start:f.End]
		if f.Encoding != detect.Plain {
			if inner, ok := detect.Unwrap(f.Encoding, run); ok {
				fresh = append(fresh, detect.Wrap(f.Encoding, r.replace(inner, key, out), run)...)
				continue
			}
		}
		pseudo := r.domain.Replace(nil, f.Kind, run, nil)
		if string(pseudo) != string(run) {
			out.Found = append(out.Found, cassette.Found{Class: f.Kind.String(), Value: string(run)})
		}
		fresh = append(fresh, pseudo...)
	}
	return append(fresh, text[at:]...)
}

// TestDetectorsAndPseudonyms: what the detectors find and the declared classes name is
// replaced alike in all places, and nothing of it is in the sealed cassette; what
// neither knows keeps it from being sealed.
func TestDetectorsAndPseudonyms(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	s := real{detect.New(), pseudonym.New([32]byte{1, 2, 3})}
	cl := classes(t, `{"properties":{"name":{"x-data-class":"name"}}}`, `{"properties":{"customer":{"properties":{"name":{"x-data-class":"name"}}}}}`, cassette.Declared{})
	people := []string{"Adalbert Quarz", "Brunhilde Opal", "Cordula Topas", "Dietmar Beryll"}
	var raws []cassette.Raw
	var all []string
	for i := range 200 {
		name := people[i%len(people)]
		mail := fmt.Sprintf("%s.%d@firma-%d.de", strings.ToLower(strings.Fields(name)[0]), i, i%7)
		iban := string(ident.MakeIBAN(nil, "DE", rng.IntN))
		phone := fmt.Sprintf("+49 151 %08d", rng.IntN(100_000_000))
		all = append(all, name, mail, iban, phone)
		raw := read("find", encode(map[string]any{"name": name, "mail": mail}), encode(map[string]any{
			"structuredContent": map[string]any{"customer": map[string]any{"name": name, "email": mail, "iban": iban}, mail: 1},
			"content": []any{
				map[string]any{"type": "text", "text": encode(map[string]any{"customer": map[string]any{"name": name, "phone": phone}})},
				map[string]any{"type": "text", "text": name + " (" + mail + ", phone " + phone + ") pays from " + iban},
			},
		}))
		raw.Classes = cl
		raws = append(raws, raw)
	}
	data, w := recorded(t, s, raws...)
	sealed, report, err := cassette.Seal(data, w.Originals(), [][]byte{[]byte("canary-99887766")})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if strings.Contains(strings.ToLower(string(sealed)), strings.ToLower(v)) {
			t.Errorf("%q is in the sealed cassette", v)
		}
	}
	if report.Originals < 3*200 {
		t.Errorf("%+v, replaced %v", report, w.Report().Replaced)
	}
	c := parse(t, sealed)
	if string(c.Calls[0].Arguments) == string(raws[0].Arguments) {
		t.Error("nothing was replaced")
	}
	p := cassette.NewPlayer(deck(t, c, cassette.Rules{}), cassette.Options{})
	for _, call := range c.Calls {
		if a, err := p.Next(call.Tool, call.Arguments); err != nil || !a.Evidence || a.Tier != cassette.Exact {
			t.Fatalf("call %d: %+v, %v", call.Seq, a, err)
		}
	}

	raws = append(raws, read("note", `{}`, `{"content":[{"type":"text","text":"asked by brunhilde opal"}]}`))
	data, w = recorded(t, s, raws...)
	var leak *cassette.Leak
	if _, _, err := cassette.Seal(data, w.Originals(), nil); !errors.As(err, &leak) || leak.Hits[0].Line != 202 || leak.Hits[0].Pointer != "/result/content/0/text" {
		t.Errorf("a name in a text of another call: %v", err)
	}
}
