// Package canonical gives JSON documents one form, so that equal documents have
// equal digests: no white space, the members of each object sorted by the bytes of
// their names, strings with the fewest escapes, numbers as they were written.
//
// It is not RFC 8785. That form reads numbers as IEEE 754 doubles, which makes
// 12345678901234567890 and 12345678901234567000 one number; here 1, 1.0 and 1e0
// are three.
package canonical

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deep objects and arrays may be nested.
const MaxDepth = 64

// JSON returns the canonical form of one JSON value. In it strings escape only
// the quote, the backslash and control characters: \b \f \n \r \t, and \u00xx in
// lower case for the rest. Duplicate names, text that is not UTF-8, halves of
// surrogate pairs, nesting beyond MaxDepth and text behind the value are errors.
func JSON(raw []byte) ([]byte, error) {
	w := writer{
		dec:     jsontext.NewDecoder(bytes.NewBuffer(raw)),
		dst:     make([]byte, 0, len(raw)),
		members: make([]member, 0, 16),
		names:   make([]byte, 0, 256),
	}
	if err := w.value(0); err != nil {
		return nil, fmt.Errorf("canonical form: %w", err)
	}
	if rest := bytes.TrimLeft(raw[w.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("canonical form: text after the value at byte %d", len(raw)-len(rest))
	}
	return w.dst, nil
}

// Sum returns "sha256:" and the hexadecimal digest of the canonical form. The
// errors are those of [JSON].
func Sum(raw []byte) (string, error) {
	b, err := JSON(raw)
	if err != nil {
		return "", err
	}
	return SumBytes(b), nil
}

// SumBytes returns "sha256:" and the hexadecimal digest of exactly these bytes.
func SumBytes(b []byte) string {
	const prefix = "sha256:"
	sum := sha256.Sum256(b)
	var text [len(prefix) + 2*sha256.Size]byte
	copy(text[:], prefix)
	hex.Encode(text[len(prefix):], sum[:])
	return string(text[:])
}

// Equal reports whether two JSON values have the same canonical form. The errors
// are those of [JSON].
func Equal(a, b []byte) (bool, error) {
	ca, err := JSON(a)
	if err != nil {
		return false, err
	}
	cb, err := JSON(b)
	if err != nil {
		return false, err
	}
	return bytes.Equal(ca, cb), nil
}

type writer struct {
	dec     *jsontext.Decoder
	dst     []byte
	members []member // of all objects that are open, innermost last
	names   []byte   // the unescaped names of members
	sorted  []byte   // where an object's members are put in order
}

// member is a member that has been written: where in names its name is, and where
// in dst it stands, name and value.
type member struct {
	nameStart, nameEnd int
	start, end         int
}

func (w *writer) value(depth int) error {
	switch kind := w.dec.PeekKind(); kind {
	case '{', '[':
		if depth == MaxDepth {
			return fmt.Errorf("nested deeper than %d", MaxDepth)
		}
		if kind == '{' {
			return w.object(depth + 1)
		}
		return w.array(depth + 1)
	default:
		v, err := w.dec.ReadValue()
		if err != nil {
			return err
		}
		if kind != '"' {
			w.dst = append(w.dst, v...)
			return nil
		}
		if bytes.IndexByte(v, '\\') < 0 {
			w.dst = append(w.dst, v...) // without escapes, a string is in its form
			return nil
		}
		text, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return err
		}
		w.dst = appendString(w.dst, text)
		return nil
	}
}

func (w *writer) array(depth int) error {
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	w.dst = append(w.dst, '[')
	for first := true; w.dec.PeekKind() != ']'; first = false {
		if !first {
			w.dst = append(w.dst, ',')
		}
		if err := w.value(depth); err != nil {
			return err
		}
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	w.dst = append(w.dst, ']')
	return nil
}

func (w *writer) object(depth int) error {
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	w.dst = append(w.dst, '{')
	start, outer, outerNames := len(w.dst), len(w.members), len(w.names)
	for w.dec.PeekKind() != '}' {
		if len(w.members) > outer {
			w.dst = append(w.dst, ',')
		}
		name, err := w.dec.ReadValue()
		if err != nil {
			return err
		}
		m := member{nameStart: len(w.names), start: len(w.dst)}
		if w.names, err = jsontext.AppendUnquote(w.names, name); err != nil {
			return err
		}
		m.nameEnd = len(w.names)
		w.dst = append(appendString(w.dst, w.names[m.nameStart:]), ':')
		if err := w.value(depth); err != nil {
			return err
		}
		m.end = len(w.dst)
		w.members = append(w.members, m)
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	w.sort(start, w.members[outer:])
	w.members, w.names = w.members[:outer], w.names[:outerNames]
	w.dst = append(w.dst, '}')
	return nil
}

// sort puts the members of one object, written from start on, in order.
func (w *writer) sort(start int, members []member) {
	byName := func(a, b member) int {
		return bytes.Compare(w.names[a.nameStart:a.nameEnd], w.names[b.nameStart:b.nameEnd])
	}
	if slices.IsSortedFunc(members, byName) {
		return
	}
	slices.SortFunc(members, byName)
	w.sorted = w.sorted[:0]
	for i, m := range members {
		if i > 0 {
			w.sorted = append(w.sorted, ',')
		}
		w.sorted = append(w.sorted, w.dst[m.start:m.end]...)
	}
	copy(w.dst[start:], w.sorted)
}

// appendString appends text, which is UTF-8, as a JSON string.
func appendString(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"', c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20:
			dst = append(dst, c)
		case c == '\b':
			dst = append(dst, '\\', 'b')
		case c == '\f':
			dst = append(dst, '\\', 'f')
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(dst, '"')
}
