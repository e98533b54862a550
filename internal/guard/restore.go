package guard

import (
	"github.com/go-json-experiment/json/jsontext"

	"sallyport"
	"sallyport/internal/detect"
	"sallyport/internal/wire"
)

// Original is what a pseudonym stands for.
type Original struct{ Class, Text string }

// maxAsked bounds how many values of one document may be pseudonyms, and maxValue how
// long one is, in bytes.
const (
	maxAsked = 1024
	maxValue = 1024
)

// Pseudonyms are the values in a document that may be pseudonyms: whole leaves, and
// what is found in the midst of texts. Each is there once.
func (g *Guard) Pseudonyms(doc []byte) ([]string, error) {
	var all []string
	seen := map[string]bool{}
	err := g.candidates(doc, func(l *detect.Leaf, at []wire.Span) error {
		for _, s := range at {
			if text := string(s.Of(l.Text)); !seen[text] && len(all) < maxAsked {
				seen[text] = true
				all = append(all, text)
			}
		}
		return nil
	})
	return all, err
}

// Restore puts originals in the place of their pseudonyms, and says where. Every other
// byte is as it was.
func (g *Guard) Restore(doc []byte, known map[string]Original) ([]byte, []Finding, error) {
	var edits []wire.Edit
	var found []Finding
	err := g.candidates(doc, func(l *detect.Leaf, at []wire.Span) error {
		var within []wire.Edit
		for _, s := range at {
			o, ok := known[string(s.Of(l.Text))]
			if !ok {
				continue
			}
			within = append(within, wire.Edit{Span: s, With: []byte(o.Text)})
			found = append(found, Finding{l.Pointer(), o.Class, sallyport.GuardPass, 1})
			if s.Start == 0 && s.End == len(l.Text) {
				break
			}
		}
		if within == nil {
			return nil
		}
		token := wire.Splice(l.Text, within...)
		if v := jsontext.Value(token); l.Type != '0' || v.Kind() != '0' || !v.IsValid() {
			var err error
			if token, err = jsontext.AppendQuote(nil, token); err != nil {
				return err
			}
		}
		edits = append(edits, wire.Edit{Span: wire.Span{Start: l.Start, End: l.End}, With: token})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return wire.Splice(doc, edits...), found, nil
}

// candidates calls fn with the leaves of a document that may hold a pseudonym, and with
// the places in their text where: the whole of it, then what was found in its midst.
// Names of members hold none.
func (g *Guard) candidates(doc []byte, fn func(l *detect.Leaf, at []wire.Span) error) error {
	return g.scanner.ScanJSON(doc, func(l *detect.Leaf) error {
		if l.IsName || l.Type != '"' && l.Type != '0' {
			return nil
		}
		var at []wire.Span
		if n := len(l.Text); n > 0 && n <= maxValue {
			at = append(at, wire.Span{End: n})
		}
		floor := 0
		for _, f := range l.Findings {
			at = words(at, l.Text, floor, f.Start)
			if floor = f.End; f.Encoding == detect.Plain && f.End-f.Start <= maxValue && f.End-f.Start < len(l.Text) {
				at = append(at, wire.Span{Start: f.Start, End: f.End})
			}
		}
		return fn(l, words(at, l.Text, floor, len(l.Text)))
	})
}

// words adds the words of a text that may be the pseudonym of an identifier or a secret:
// those with a digit, and those that begin as pseudonyms of secrets do.
func words(at []wire.Span, text []byte, from, to int) []wire.Span {
	for i := from; i < to; i++ {
		start := i
		digit := false
		for i < to && letter(text[i]) {
			digit = digit || '0' <= text[i] && text[i] <= '9'
			i++
		}
		if n := i - start; n >= 6 && n <= maxValue && n < len(text) && (digit || hasFold(text, start, "masked-")) {
			at = append(at, wire.Span{Start: start, End: i})
		}
	}
	return at
}
