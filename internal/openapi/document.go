// Package openapi reads OpenAPI 3.0 and 3.1 documents as descriptions of tools:
// each operation becomes the definition of an MCP tool and a plan by which the
// arguments of a call become exactly one HTTP request.
//
// It is pure: it reads no file, follows no reference out of the document, and
// never looks at the servers a document names. Where a request goes is for
// whoever sends it to say; here it has a path and a query.
package openapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// What a document may be at most.
const (
	MaxDocument = 8 << 20 // bytes
	maxDepth    = 100     // of nested values
	maxNodes    = 1_000_000
)

// Error is why a document, or one operation of it, cannot be used. Line is that
// of the document, zero if it is about no place in it.
type Error struct {
	Line    int
	Message string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

func wrong(n *node, format string, args ...any) *Error {
	e := &Error{Message: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line = n.line
	}
	return e
}

// node is a value of a document. Methods work on nil, a value that is not there.
type node struct {
	kind   jsontext.Kind // of null, a boolean, a string, a number, an object, an array
	text   string        // of a string, or a number's token
	names  []string      // of an object's members, in their order
	values []*node       // of an object or an array
	line   int
}

func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for i, have := range n.names {
		if have == name {
			return n.values[i]
		}
	}
	return nil
}

func (n *node) is(kind jsontext.Kind) bool { return n != nil && n.kind == kind }

// str is the text of a string, "" of anything else.
func (n *node) str() string {
	if n.is('"') {
		return n.text
	}
	return ""
}

func (n *node) isTrue() bool { return n.is('t') }

// append appends the value as JSON, numbers with their digits.
func (n *node) append(dst []byte) []byte {
	switch n.kind {
	case '{':
		dst = append(dst, '{')
		for i, name := range n.names {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, name), ':')
			dst = n.values[i].append(dst)
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for i, v := range n.values {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = v.append(dst)
		}
		return append(dst, ']')
	case '"':
		return appendString(dst, n.text)
	case '0':
		return append(dst, n.text...)
	case 't':
		return append(dst, "true"...)
	case 'f':
		return append(dst, "false"...)
	}
	return append(dst, "null"...)
}

func appendString(dst []byte, s string) []byte {
	// Text of a document is valid UTF-8, which is all that could go wrong.
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		return append(dst, `""`...)
	}
	return out
}

// reader counts what it makes.
type reader struct{ nodes int }

func (r *reader) node(kind jsontext.Kind, line, depth int) (*node, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, &Error{line, fmt.Sprintf("the document has more than %d values", maxNodes)}
	}
	if depth > maxDepth {
		return nil, &Error{line, fmt.Sprintf("values nest deeper than %d", maxDepth)}
	}
	return &node{kind: kind, line: line}, nil
}

// parse reads JSON if the text begins with a brace, YAML otherwise.
func parse(text []byte) (*node, error) {
	if len(text) > MaxDocument {
		return nil, &Error{Message: fmt.Sprintf("the document is larger than %d MiB", MaxDocument>>20)}
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) {
		return nil, &Error{Message: "the document is not UTF-8"}
	}
	r := &reader{}
	if begin := bytes.TrimLeft(text, " \t\r\n"); len(begin) > 0 && begin[0] == '{' {
		return r.fromJSON(text)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{Message: "the document is empty"}
		}
		return nil, &Error{Message: "the document is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &Error{Message: "the file holds more than one YAML document"}
	}
	return r.fromYAML(doc.Content[0], 1)
}

func (r *reader) fromJSON(text []byte) (*node, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	line, at := 1, int64(0)
	where := func() int {
		now := min(dec.InputOffset(), int64(len(text)))
		line += bytes.Count(text[at:now], []byte("\n"))
		at = now
		return line
	}
	var read func(depth int) (*node, error)
	read = func(depth int) (*node, error) {
		t, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		kind, text := t.Kind(), ""
		if kind == '"' || kind == '0' {
			text = t.String()
		}
		n, err := r.node(kind, where(), depth)
		if err != nil {
			return nil, err
		}
		n.text = text
		for kind == '{' && dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			n.names = append(n.names, name.String())
			v, err := read(depth + 1)
			if err != nil {
				return nil, err
			}
			n.values = append(n.values, v)
		}
		for kind == '[' && dec.PeekKind() != ']' {
			v, err := read(depth + 1)
			if err != nil {
				return nil, err
			}
			n.values = append(n.values, v)
		}
		if kind == '{' || kind == '[' {
			_, err = dec.ReadToken()
		}
		return n, err
	}
	n, err := read(1)
	if err == nil {
		if _, err = dec.ReadToken(); errors.Is(err, io.EOF) {
			return n, nil
		}
		if err == nil {
			err = errors.New("text after its end")
		}
	}
	var own *Error
	if errors.As(err, &own) {
		return nil, own
	}
	return nil, &Error{where(), "the document is not JSON: " + strings.TrimPrefix(err.Error(), "jsontext: ")}
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// fromYAML reads the part of YAML that is JSON in another dress.
func (r *reader) fromYAML(y *yaml.Node, depth int) (*node, error) {
	bad := func(format string, args ...any) (*node, error) {
		return nil, &Error{y.Line, fmt.Sprintf(format, args...)}
	}
	if y.Kind == yaml.AliasNode || y.Anchor != "" {
		return bad("YAML anchors and aliases are not read: write the value out, or use $ref")
	}
	switch y.Kind {
	case yaml.MappingNode:
		n, err := r.node('{', y.Line, depth)
		if err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			k := y.Content[i]
			if k.Kind != yaml.ScalarNode || k.Anchor != "" || k.ShortTag() == "!!merge" {
				return nil, &Error{k.Line, "the key of a mapping has to be plain text"}
			}
			if seen[k.Value] {
				return nil, &Error{k.Line, fmt.Sprintf("the key %q is there twice", clip(k.Value))}
			}
			seen[k.Value] = true
			v, err := r.fromYAML(y.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			n.names, n.values = append(n.names, k.Value), append(n.values, v)
		}
		return n, nil
	case yaml.SequenceNode:
		n, err := r.node('[', y.Line, depth)
		if err != nil {
			return nil, err
		}
		for _, c := range y.Content {
			v, err := r.fromYAML(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.values = append(n.values, v)
		}
		return n, nil
	case yaml.ScalarNode:
		kind, text := jsontext.Kind('"'), y.Value
		switch y.ShortTag() {
		case "!!null":
			kind, text = 'n', ""
		case "!!bool":
			kind, text = 'f', ""
			if strings.EqualFold(y.Value, "true") {
				kind = 't'
			}
		case "!!int", "!!float":
			kind = '0'
			if !jsonNumber.MatchString(y.Value) {
				return bad("the number %s is written in a way that JSON does not know", clip(y.Value))
			}
		case "!!str", "!!timestamp":
		default:
			return bad("the YAML tag %s is not read", clip(y.Tag))
		}
		n, err := r.node(kind, y.Line, depth)
		if err == nil {
			n.text = text
		}
		return n, err
	}
	return bad("this kind of YAML is not read")
}

// clip is a value as a message repeats it.
func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// resolve follows the $ref of n, and those that lead on from there, to what is no
// reference: within the document and nowhere else. pointer is where it ended, ""
// if n is no reference.
func resolve(root, n *node) (to *node, pointer string, err error) {
	seen := map[string]bool{}
	for n.is('{') && n.get("$ref") != nil {
		ref := n.get("$ref")
		if !ref.is('"') {
			return nil, "", wrong(ref, "a $ref that is no text")
		}
		p, ok := strings.CutPrefix(ref.text, "#")
		if !ok {
			return nil, "", wrong(ref, "the reference %q leads out of the document, and only those within it are followed", clip(ref.text))
		}
		if seen[p] {
			return nil, "", wrong(ref, "the reference %q leads back to itself", clip(ref.text))
		}
		seen[p] = true
		if n, err = pointed(root, p, ref); err != nil {
			return nil, "", err
		}
		pointer = p
	}
	return n, pointer, nil
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// pointed is what a JSON pointer (RFC 6901, as a URI fragment) points at.
func pointed(root *node, pointer string, ref *node) (*node, error) {
	n := root
	if pointer == "" {
		return n, nil
	}
	text, ok := unpercent(pointer)
	if !ok || text[0] != '/' {
		return nil, wrong(ref, "the reference %q is no JSON pointer", clip(ref.text))
	}
	for token := range strings.SplitSeq(text[1:], "/") {
		token = unescape.Replace(token)
		var next *node
		switch {
		case n.kind == '{':
			next = n.get(token)
		case n.kind == '[' && len(token) < 7 && jsonNumber.MatchString(token):
			at := 0
			for _, d := range token {
				at = at*10 + int(d-'0')
			}
			if at >= 0 && at < len(n.values) {
				next = n.values[at]
			}
		}
		if next == nil {
			return nil, wrong(ref, "the reference %q leads to nothing", clip(ref.text))
		}
		n = next
	}
	return n, nil
}

// unpercent decodes percent-encoding once.
func unpercent(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return "", false
		}
		out = append(out, fromHex(s[i+1])<<4|fromHex(s[i+2]))
		i += 2
	}
	return string(out), true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func fromHex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
