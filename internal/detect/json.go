package detect

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deep objects and arrays may be nested.
const MaxDepth = 64

// Leaf is one string, number, boolean, null or member name of a document. It and what
// it holds are valid until the function that was given it returns.
type Leaf struct {
	Start, End int    // its token in the document, quotes and all
	Text       []byte // what a string says; the token of anything else
	Verbatim   bool   // of a string: Text stands in the document as it is, from Start+1 on
	Type       byte   // '"', '0', 't', 'f' or 'n'
	IsName     bool   // the name of a member, not a value
	Key        Key    // of the name it stands under
	Findings   []Finding

	dec *jsontext.Decoder
}

// Pointer returns where the leaf stands, as a JSON pointer (RFC 6901). It allocates.
func (l *Leaf) Pointer() string { return string(l.dec.StackPointer()) }

// walk is one going through one document.
type walk struct {
	dec      *jsontext.Decoder
	in       bytes.Buffer
	text     []byte // of a string with escapes
	findings []Finding
	stack    [MaxDepth + 1]frame
	leaf     Leaf
	pass     pass
	names    [128]knownName
}

// knownName is what was found out about a name: the same few come again and again.
type knownName struct {
	text  [24]byte
	size  int
	key   Key
	quiet bool // nothing to find in the name itself
}

func (w *walk) name(text []byte) (key Key, quiet bool) {
	if len(text) == 0 || len(text) > len(knownName{}.text) {
		return KeyOf(text), false
	}
	n := &w.names[(int(text[0])*7+int(text[len(text)-1])*31+int(text[len(text)/2])*3+len(text))%len(w.names)]
	if n.size != len(text) || string(n.text[:n.size]) != string(text) {
		n.size = copy(n.text[:], text)
		n.key = KeyOf(text)
		n.quiet = true
		for _, c := range text {
			n.quiet = n.quiet && class[c]&(lower|upper|line) != 0
		}
	}
	return n.key, n.quiet
}

type frame struct {
	key    Key // of the object or array
	member Key // of the member whose value comes next
	object bool
	name   bool // a name comes next
}

// ScanJSON reads one JSON document and calls fn for each leaf and each member name in
// order, with what was found in it. An error of fn ends it and is returned as it is.
// Duplicate names, text that is not UTF-8, nesting beyond MaxDepth and text behind
// the value are errors; leaves before the place may have been reported by then.
func (s *Scanner) ScanJSON(doc []byte, fn func(*Leaf) error) error {
	return s.scanJSON(doc, 0, 1, fn)
}

// ScanJSONUnder is ScanJSON of a document that stands under a key itself, as one in a
// string of another document does.
func (s *Scanner) ScanJSONUnder(doc []byte, key Key, fn func(*Leaf) error) error {
	return s.scanJSON(doc, key, 1, fn)
}

func (s *Scanner) scanJSON(doc []byte, key Key, depth int, fn func(*Leaf) error) error {
	w := s.walks.Get().(*walk)
	defer func() {
		w.in = bytes.Buffer{} // hold on to nobody's document
		w.dec.Reset(&w.in)
		s.walks.Put(w)
	}()
	// The decoder works on the bytes of a buffer in place.
	w.in = *bytes.NewBuffer(doc)
	w.dec.Reset(&w.in)
	level := 0
	w.stack[0] = frame{key: key, member: key}
	for {
		kind := w.dec.PeekKind()
		top := &w.stack[level]
		switch kind {
		case '{', '[':
			if level == MaxDepth {
				return fmt.Errorf("document to be scanned: nested deeper than %d at byte %d", MaxDepth, w.dec.InputOffset())
			}
			if _, err := w.dec.ReadToken(); err != nil {
				return fmt.Errorf("document to be scanned: %w", err)
			}
			level++
			w.stack[level] = frame{key: top.member, member: top.member, object: kind == '{', name: kind == '{'}
			continue
		case '}', ']':
			if _, err := w.dec.ReadToken(); err != nil {
				return fmt.Errorf("document to be scanned: %w", err)
			}
			level--
		default:
			token, err := w.dec.ReadValue()
			if err != nil {
				return fmt.Errorf("document to be scanned: %w", err)
			}
			if err := s.leaf(w, token, top, depth, fn); err != nil {
				return err
			}
			if top.object && top.name {
				top.name = false
				continue
			}
		}
		top = &w.stack[level]
		top.name = top.object
		if level == 0 {
			if rest := bytes.TrimLeft(doc[w.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
				return fmt.Errorf("document to be scanned: text after the value at byte %d", len(doc)-len(rest))
			}
			return nil
		}
	}
}

func (s *Scanner) leaf(w *walk, token jsontext.Value, top *frame, depth int, fn func(*Leaf) error) error {
	l := &w.leaf
	end := int(w.dec.InputOffset())
	*l = Leaf{Start: end - len(token), End: end, Text: token, Type: token[0], Key: top.member, Findings: w.findings[:0], dec: w.dec}
	switch c := token[0]; {
	case c == '"':
		l.Text, l.Verbatim = token[1:len(token)-1], true
		if bytes.IndexByte(l.Text, '\\') >= 0 {
			text, err := jsontext.AppendUnquote(w.text[:0], token)
			if err != nil {
				return fmt.Errorf("document to be scanned: string at byte %d: %w", l.Start, err)
			}
			w.text, l.Text, l.Verbatim = text, text, false
		}
		if top.object && top.name {
			key, quiet := w.name(l.Text)
			l.IsName, l.Key = true, 0
			top.member = key.Under(top.key)
			if quiet {
				break
			}
		}
		if depth > 0 {
			if inner, ok := s.nested(l.Findings, l.Text, l.Key); ok {
				l.Findings = inner
				break
			}
		}
		l.Findings = w.pass.scan(l.Findings, l.Text, l.Key, depth)
	case c == '-' || '0' <= c && c <= '9':
		l.Type = '0'
		if len(token) >= 6 && !bytes.ContainsAny(token, "-.eE") {
			l.Findings = w.pass.scan(l.Findings, token, l.Key, 0)
		}
	}
	w.findings = l.Findings[:0]
	return fn(l)
}

// nested scans a text that is a JSON object or array itself. It reports whether it is.
func (s *Scanner) nested(dst []Finding, text []byte, key Key) ([]Finding, bool) {
	trimmed := bytes.Trim(text, " \t\r\n")
	if len(trimmed) < 2 || trimmed[0] != '{' && trimmed[0] != '[' || trimmed[len(trimmed)-1] != '}' && trimmed[len(trimmed)-1] != ']' {
		return dst, false
	}
	at := len(dst)
	err := s.scanJSON(text, key, 0, func(l *Leaf) error {
		for _, f := range l.Findings {
			switch {
			case l.Type != '"':
				f.Start, f.End = f.Start+l.Start, f.End+l.Start
			case l.Verbatim:
				f.Start, f.End = f.Start+l.Start+1, f.End+l.Start+1
			default:
				// Where in the escapes it lies cannot be said: the whole string.
				f.Start, f.End, f.Encoding = l.Start+1, l.End-1, JSON
				dst = append(dst, f)
				return nil
			}
			dst = append(dst, f)
		}
		return nil
	})
	if err != nil {
		return dst[:at], false
	}
	return dst, true
}
