package sandbox

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// value is parsed JSON that remembers its bytes and the order of its members.
type value struct {
	kind    byte // as jsontext has them: n t f " 0 { [
	raw     []byte
	text    string // of a string
	names   []string
	members map[string]*value
	items   []*value
	never   *value // of a schema made here: a keyword that what is made may not meet
}

// parse reads one JSON value of bounded depth.
func parse(raw []byte) (*value, error) {
	var compact jsontext.Value = bytes.Clone(raw)
	if err := compact.Compact(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return parseNext(jsontext.NewDecoder(bytes.NewReader(compact)), compact, 0)
}

// maxDepth bounds schemas and examples; a schema beyond it has not compiled.
const maxDepth = 128

func parseNext(d *jsontext.Decoder, raw []byte, depth int) (*value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	// PeekKind moves past the comma or colon, but not the offset.
	v := &value{kind: byte(d.PeekKind())}
	token, err := d.ReadToken()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	start := int(d.InputOffset()) - 1
	switch v.kind {
	case '{':
		v.members = map[string]*value{}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, fmt.Errorf("not JSON: %w", err)
			}
			key := name.String()
			if v.members[key], err = parseNext(d, raw, depth+1); err != nil {
				return nil, err
			}
			v.names = append(v.names, key)
		}
		_, err = d.ReadToken()
	case '[':
		for d.PeekKind() != ']' {
			item, err := parseNext(d, raw, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, item)
		}
		_, err = d.ReadToken()
	case '"':
		v.text = token.String()
		v.raw, err = jsontext.AppendQuote(nil, v.text)
		return v, err
	default:
		v.raw = []byte(token.String())
		return v, nil
	}
	v.raw = raw[start:d.InputOffset()]
	return v, err
}

// member is a member of an object; nil for none, and for anything but an object.
func (v *value) member(name string) *value {
	if v == nil {
		return nil
	}
	return v.members[name]
}

// truth is 't', 'f' or, where there is no such boolean member, 0.
func (v *value) truth(name string) byte {
	if m := v.member(name); m != nil && (m.kind == 't' || m.kind == 'f') {
		return m.kind
	}
	return 0
}

// count is a member that counts something, or otherwise.
func (v *value) count(name string, otherwise int) int {
	m := v.member(name)
	if m == nil || m.kind != '0' {
		return otherwise
	}
	n, err := strconv.ParseFloat(string(m.raw), 64)
	if err != nil || n < 0 || n > 1<<40 {
		return otherwise
	}
	return int(n)
}

// resolve finds what a reference inside a document that has compiled leads to.
func (v *value) resolve(ref string) *value {
	if id := v.member("$id"); id != nil {
		base, _, _ := strings.Cut(id.text, "#")
		ref = strings.TrimPrefix(ref, base)
	}
	fragment, err := url.PathUnescape(strings.TrimPrefix(ref, "#"))
	if err != nil {
		return nil
	}
	if fragment != "" && fragment[0] != '/' {
		return v.anchor(fragment)
	}
	for _, token := range strings.Split(fragment, "/")[1:] {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		if v.kind == '[' {
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(v.items) {
				return nil
			}
			v = v.items[i]
		} else if v = v.member(token); v == nil {
			return nil
		}
	}
	return v
}

// anchor finds the subschema with a name. Names are unique, and nothing that is
// not a subschema is expected to have one.
func (v *value) anchor(name string) *value {
	for _, word := range []string{"$anchor", "$dynamicAnchor"} {
		if a := v.member(word); a != nil && a.kind == '"' && a.text == name {
			return v
		}
	}
	for _, key := range v.names {
		if found := v.members[key].anchor(name); found != nil {
			return found
		}
	}
	for _, item := range v.items {
		if found := item.anchor(name); found != nil {
			return found
		}
	}
	return nil
}
