package guard

import (
	"bytes"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/detect"
	"sallyport/internal/wire"
)

// Unseen reports whether nobody sees a character that a model reads: controls,
// marks of zero width, marks of direction, tags, fillers and selectors of variants
// (Unicode 16, chapter 23). The selector that makes a sign an emoji is not one.
func Unseen(r rune) bool {
	switch {
	case r < 0x20:
		return r != '\t' && r != '\n' && r != '\r'
	case r < 0x7f:
		return false
	case r <= 0x9f, r == 0xad, r == 0x34f, r == 0x61c, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5:
		return true
	case 0x180b <= r && r <= 0x180f, 0x200b <= r && r <= 0x200f, 0x202a <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f:
		return true
	case r == 0x3164, r == 0xfeff, r == 0xffa0, 0xfe00 <= r && r <= 0xfe0e, 0xfff9 <= r && r <= 0xfffb:
		return true
	case 0x1d173 <= r && r <= 0x1d17a, 0xe0000 <= r && r <= 0xe0fff:
		return true
	}
	return false
}

// maySee marks the bytes that no unseen character begins with or is.
var maySee = func() (t [256]bool) {
	for c := range 256 {
		t[c] = true
	}
	for r := rune(0); r <= 0x10ffff; r++ {
		if Unseen(r) {
			var b [4]byte
			utf8.EncodeRune(b[:], r)
			t[b[0]] = false
		}
	}
	return t
}()

// unseenAt is the length of what nobody sees at a place of a text, 0 if that is
// nothing: a character, or a whole escape sequence of a terminal (ECMA-48).
func unseenAt(text []byte, i int) int {
	if maySee[text[i]] {
		return 0
	}
	r, size := utf8.DecodeRune(text[i:])
	if r == utf8.RuneError && size == 1 || !Unseen(r) {
		return 0
	}
	if r != 0x1b && r != 0x9b {
		return size
	}
	j := i + size
	if r == 0x1b {
		if j == len(text) {
			return size
		}
		switch text[j] {
		case ']', 'P', '_', '^': // up to BEL, or ESC and a backslash
			for j++; j < len(text); j++ {
				if text[j] == 7 {
					return j + 1 - i
				}
				if text[j] == 0x1b && j+1 < len(text) && text[j+1] == '\\' {
					return j + 2 - i
				}
			}
			return size // it has no end: the rest is text
		case '[':
			j++
		default:
			return size
		}
	}
	for ; j < len(text) && 0x20 <= text[j] && text[j] < 0x40; j++ {
	}
	if j < len(text) && 0x40 <= text[j] && text[j] < 0x7f {
		return j + 1 - i
	}
	return size
}

// maxNested is how many documents are opened that lie in texts of each other.
const maxNested = 4

// asDocument reports whether a text may be a JSON document.
func asDocument(text []byte) bool {
	t := bytes.TrimSpace(text)
	return len(t) > 2 && (t[0] == '{' && t[len(t)-1] == '}' || t[0] == '[' && t[len(t)-1] == ']')
}

// unseen counts what nobody sees in a text, and in a document that the text is.
func (g *Guard) unseen(text []byte, depth int) (n int) {
	for i := 0; i < len(text); i++ {
		if maySee[text[i]] {
			continue
		}
		if size := unseenAt(text, i); size > 0 {
			n++
			i += size - 1
		}
	}
	if depth < maxNested && bytes.Contains(text, []byte(`\`)) && asDocument(text) {
		inner := 0
		if g.scanner.ScanJSON(text, func(l *detect.Leaf) error {
			if l.Type == '"' && !l.Verbatim {
				inner += g.unseen(l.Text, depth+1)
			}
			return nil
		}) == nil {
			n += inner
		}
	}
	return n
}

// bare is a document without what nobody sees in its texts; every other byte is as it
// was.
func (g *Guard) bare(doc []byte, depth int) (out []byte, n int, err error) {
	var edits []wire.Edit
	err = g.scanner.ScanJSON(doc, func(l *detect.Leaf) error {
		if l.Type != '"' {
			return nil
		}
		text, m := g.bareText(l.Text, depth)
		if m == 0 {
			return nil
		}
		n += m
		token, err := jsontext.AppendQuote(nil, text)
		edits = append(edits, wire.Edit{Span: wire.Span{Start: l.Start, End: l.End}, With: token})
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	out = wire.Splice(doc, edits...)
	if n > 0 { // two names may have become one
		err = g.scanner.ScanJSON(out, func(*detect.Leaf) error { return nil })
	}
	return out, n, err
}

func (g *Guard) bareText(text []byte, depth int) (out []byte, n int) {
	last := 0
	for i := 0; i < len(text); i++ {
		size := unseenAt(text, i)
		if size == 0 {
			continue
		}
		out = append(out, text[last:i]...)
		last = i + size
		i = last - 1
		n++
	}
	out = append(out, text[last:]...)
	if depth < maxNested && asDocument(out) {
		if inner, m, err := g.bare(out, depth+1); err == nil && m > 0 {
			return inner, n + m
		}
	}
	return out, n
}
