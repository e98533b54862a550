package cassette

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// node is one value of a JSON document. Of a document in canonical form raw is
// canonical, too, so that equal values have equal raw.
type node struct {
	kind       byte // '{' '[' '"' '0' 't' 'f' 'n'
	start, end int  // bytes of the document
	raw        []byte
	text       string   // what a string says; of other scalars their token
	names      []string // of an object, one for each of items
	items      []*node
}

// parse reads one JSON value. Duplicate names, text that is not UTF-8, nesting
// beyond depth and text behind the value are errors.
func parse(raw []byte, depth int) (*node, error) {
	p := parser{raw: raw, text: string(raw), dec: jsontext.NewDecoder(bytes.NewBuffer(raw))}
	n, err := p.value(depth)
	if err != nil {
		return nil, err
	}
	if rest := bytes.TrimLeft(raw[n.end:], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("text after the value at byte %d", len(raw)-len(rest))
	}
	return n, nil
}

type parser struct {
	raw   []byte
	text  string // raw; what strings say is a part of it, unless they have escapes
	dec   *jsontext.Decoder
	nodes []node   // room for the next ones
	names []string // of all objects that are open, innermost last
	items []*node  // of all containers that are open
}

func (p *parser) node(kind byte, start int) *node {
	if len(p.nodes) == cap(p.nodes) {
		p.nodes = make([]node, 0, min(64, max(4, 2*cap(p.nodes))))
	}
	p.nodes = append(p.nodes, node{kind: kind, start: start})
	return &p.nodes[len(p.nodes)-1]
}

func (p *parser) value(depth int) (*node, error) {
	kind := p.dec.PeekKind()
	if kind != '{' && kind != '[' {
		token, err := p.dec.ReadValue()
		if err != nil {
			return nil, err
		}
		end := int(p.dec.InputOffset())
		n := p.node(byte(kind), end-len(token))
		n.end, n.raw = end, p.raw[end-len(token):end:end]
		if n.text = p.text[n.start:n.end]; n.kind == '"' {
			n.text, err = p.unquote(n.start, n.end)
		}
		return n, err
	}
	if depth == 0 {
		return nil, fmt.Errorf("nested too deep at byte %d", p.dec.InputOffset())
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, err
	}
	n := p.node(byte(kind), int(p.dec.InputOffset())-1)
	names, items := len(p.names), len(p.items)
	for {
		if k := p.dec.PeekKind(); k == '}' || k == ']' {
			break
		}
		if kind == '{' {
			token, err := p.dec.ReadValue()
			if err != nil {
				return nil, err
			}
			end := int(p.dec.InputOffset())
			text, err := p.unquote(end-len(token), end)
			if err != nil {
				return nil, err
			}
			p.names = append(p.names, text)
		}
		item, err := p.value(depth - 1)
		if err != nil {
			return nil, err
		}
		p.items = append(p.items, item)
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return nil, err
	}
	if len(p.items) > items {
		n.names, n.items = slices.Clone(p.names[names:]), slices.Clone(p.items[items:])
	}
	p.names, p.items = p.names[:names], p.items[:items]
	n.end = int(p.dec.InputOffset())
	n.raw = p.raw[n.start:n.end:n.end]
	return n, nil
}

func (p *parser) unquote(start, end int) (string, error) {
	if bytes.IndexByte(p.raw[start:end], '\\') < 0 {
		return p.text[start+1 : end-1], nil
	}
	text, err := jsontext.AppendUnquote(nil, p.raw[start:end])
	return string(text), err
}

// member returns the member of an object, or nil.
func (n *node) member(of string) *node {
	for i := range n.names {
		if n.names[i] == of {
			return n.items[i]
		}
	}
	return nil
}

// step is the reference token under which the i-th item of a container stands.
func (n *node) step(i int) string {
	if n.kind == '{' {
		return n.names[i]
	}
	return strconv.Itoa(i)
}

// isLeaf reports whether nothing stands below: an empty container is one, too.
func (n *node) isLeaf() bool { return len(n.items) == 0 }

// leaves counts the leaves.
func (n *node) leaves() int {
	if n.isLeaf() {
		return 1
	}
	count := 0
	for _, item := range n.items {
		count += item.leaves()
	}
	return count
}

// held returns the object or array that the text of a string is, or nil. Many
// servers answer with JSON inside of a text block.
func (n *node) held(depth int) *node {
	if n.kind != '"' {
		return nil
	}
	text := strings.Trim(n.text, " \t\r\n")
	if len(text) < 2 || text[0] != '{' && text[0] != '[' || text[len(text)-1] != '}' && text[len(text)-1] != ']' {
		return nil
	}
	inner, err := parse([]byte(n.text), depth)
	if err != nil {
		return nil
	}
	return inner
}

// heldText is what stands in a pointer for the step from a string to the JSON it
// holds. No RFC 6901 pointer has it: a tilde is followed by 0 or 1 there. heldStep is
// the step itself, which is no name of any member, since it is not UTF-8.
const (
	heldText = "~json"
	heldStep = "\xffjson"
)

var escapeStep = strings.NewReplacer("~", "~0", "/", "~1")

// below is a pointer (RFC 6901) with one step more.
func below(pointer, step string) string {
	return pointer + "/" + escapeStep.Replace(step)
}

// steps splits a pointer. The step into a string is heldStep.
func steps(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	if pointer[0] != '/' {
		return nil, fmt.Errorf("pointer %q does not begin with /", pointer)
	}
	out := strings.Split(pointer[1:], "/")
	for i, s := range out {
		if s == heldText {
			out[i] = heldStep
			continue
		}
		for rest := s; ; {
			at := strings.IndexByte(rest, '~')
			if at < 0 {
				break
			}
			if rest = rest[at+1:]; rest == "" || rest[0] != '0' && rest[0] != '1' {
				return nil, fmt.Errorf("pointer %q: a ~ is written ~0 and a / inside of a name ~1", pointer)
			}
		}
		out[i] = strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
	}
	return out, nil
}

// at returns what a pointer leads to, or nil.
func (n *node) at(pointer string) *node {
	path, err := steps(pointer)
	if err != nil {
		return nil
	}
	for _, s := range path {
		switch {
		case n == nil:
			return nil
		case s == heldStep:
			n = n.held(MaxDepth)
		case n.kind == '{':
			n = n.member(s)
		case n.kind == '[':
			i, err := strconv.Atoi(s)
			if err != nil || i < 0 || i >= len(n.items) || strconv.Itoa(i) != s {
				return nil
			}
			n = n.items[i]
		default:
			return nil
		}
	}
	return n
}

// branch is a tree, or with also a graph, of what is said about places of
// documents. A place may be on several branches at once.
type branch[T any] struct {
	names map[string]*branch[T]
	any   *branch[T] // every element and member
	also  []*branch[T]
	value *T
}

// grow returns the branch of a path, on which * stands for any step.
func (b *branch[T]) grow(path []string) *branch[T] {
	for _, s := range path {
		if s == "*" {
			if b.any == nil {
				b.any = new(branch[T])
			}
			b = b.any
			continue
		}
		if b.names == nil {
			b.names = map[string]*branch[T]{}
		}
		next := b.names[s]
		if next == nil {
			next = new(branch[T])
			b.names[s] = next
		}
		b = next
	}
	return b
}

// forked adds a branch, and those that stand for the same place, to a set.
func forked[T any](set []*branch[T], b *branch[T]) []*branch[T] {
	if b == nil || slices.Contains(set, b) {
		return set
	}
	set = append(set, b)
	for _, other := range b.also {
		set = forked(set, other)
	}
	return set
}

// along follows a step from every branch of a set, those with the name first.
func along[T any](set []*branch[T], step string) []*branch[T] {
	var out []*branch[T]
	for _, b := range set {
		out = forked(out, b.names[step])
	}
	for _, b := range set {
		out = forked(out, b.any)
	}
	return out
}

// said is what the first branch with a value says, or nil.
func said[T any](set []*branch[T]) *T {
	for _, b := range set {
		if b.value != nil {
			return b.value
		}
	}
	return nil
}

// each calls do for every value of a tree.
func (b *branch[T]) each(do func(*T)) {
	if b == nil {
		return
	}
	if b.value != nil {
		do(b.value)
	}
	b.any.each(do)
	for _, below := range b.names {
		below.each(do)
	}
}
