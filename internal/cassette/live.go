package cassette

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"sallyport/internal/wire"
)

// Assertions is which recorded leaves are looked at: one that can change without anyone
// noticing asserts nothing.
type Assertions struct {
	Live, Total int
	Dead        []Dead // in the order of the recording
}

// Dead is a leaf that may change unnoticed.
type Dead struct {
	Seq     int
	Tool    string
	Part    Part
	Pointer string
	Rule    string // the path of the rule that lets it
}

// Liveness changes every recorded leaf of arguments and results, one at a time and in
// several ways, and looks whether the matching, or [Compare], notices: a leaf is live
// if any change of its value is noticed. Values keep their type.
func Liveness(c *Cassette, rules Rules) (Assertions, error) {
	var out Assertions
	d, _, err := newDeck(c, rules, nil)
	if err != nil {
		return out, err
	}
	for i := range c.Calls {
		call := &c.Calls[i]
		t := d.byTool[call.Tool]
		out.each(call, InArguments, d.calls[i], t.rules, 0, func(mutant *node) bool {
			for _, tier := range t.tiers() {
				if slices.Contains(d.index[t.key(call.Tool, tier, mutant)], int32(i)) && (tier != Tolerated || same(d.calls[i], mutant, t.rules)) {
					return false
				}
			}
			return true
		})
		reply := Reply{Result: call.Result, Error: call.Error}
		was, protocolError, err := reply.read()
		if err != nil {
			return out, fmt.Errorf("recorded reply of call %d: %w", call.Seq, err)
		}
		part := InResult
		if protocolError {
			part = InError
		}
		of := d.results.of(call.Tool)
		out.each(call, part, was, of, mostNested, func(mutant *node) bool {
			f := compareNodes(was, mutant, protocolError, protocolError, of)
			return !f.Same()
		})
	}
	return out, nil
}

// each changes every leaf of a document and asks whether that is noticed.
func (a *Assertions) each(call *Call, part Part, doc *node, rules []*branch[rule], nest int, noticed func(*node) bool) {
	var visit func(n *node, rules []*branch[rule], rule, pointer string, nest int, put func(*node) *node)
	visit = func(n *node, rules []*branch[rule], rule, pointer string, nest int, put func(*node) *node) {
		if r := said(rules); r != nil {
			rule = r.pointer
		}
		for i, item := range n.items {
			step := n.step(i)
			visit(item, along(rules, step), rule, below(pointer, step), nest, func(mutant *node) *node {
				return put(n.with(i, mutant))
			})
		}
		if !n.isLeaf() {
			return
		}
		if nest > 0 {
			if inner := opened(n); inner != nil {
				visit(inner, along(rules, heldStep), rule, pointer+"/"+heldText, nest-1, func(mutant *node) *node {
					return put(&node{kind: '"', raw: wire.AppendString(nil, string(mutant.raw)), text: string(mutant.raw)})
				})
				return
			}
		}
		a.Total++
		for _, raw := range mutants(n) {
			mutant, err := parse(raw, MaxDepth)
			if err == nil && noticed(put(mutant)) {
				a.Live++
				return
			}
		}
		a.Dead = append(a.Dead, Dead{Seq: call.Seq, Tool: call.Tool, Part: part, Pointer: pointer, Rule: rule})
	}
	visit(doc, rules, "", "", nest, func(mutant *node) *node { return mutant })
}

// with is a container with another item. Only its raw is put right: where the other
// items stand is not.
func (n *node) with(i int, item *node) *node {
	c := *n
	c.items = slices.Clone(n.items)
	c.items[i] = item
	from, to := n.items[i].start-n.start, n.items[i].end-n.start
	c.raw = slices.Concat(n.raw[:from], item.raw, n.raw[to:])
	return &c
}

// mutants are other values of a leaf's type, as canonical JSON.
func mutants(n *node) [][]byte {
	switch n.kind {
	case '{':
		return [][]byte{[]byte(`{"another":true}`)}
	case '[':
		return [][]byte{[]byte(`[true]`)}
	case 't':
		return [][]byte{[]byte(`false`)}
	case 'f':
		return [][]byte{[]byte(`true`)}
	case 'n':
		return [][]byte{[]byte(`0`)}
	case '0':
		if f, err := strconv.ParseFloat(n.text, 64); err == nil && f < 1e15 && f > -1e15 {
			return [][]byte{strconv.AppendFloat(nil, f+1, 'f', -1, 64), strconv.AppendFloat(nil, 2*f+1000, 'f', -1, 64)}
		}
		return [][]byte{[]byte("1"), []byte("2000")}
	default:
		var out [][]byte
		if t, ok := timeOf(n.text); ok {
			for _, by := range []time.Duration{time.Second, 24 * time.Hour, 366 * 24 * time.Hour} {
				text := t.Add(by).Format(time.RFC3339)
				if len(n.text) == len(time.DateOnly) {
					text = text[:len(time.DateOnly)]
				}
				if text != n.text {
					out = append(out, wire.AppendString(nil, text))
				}
			}
			return out
		}
		turned := []byte(n.text)
		for i, c := range turned {
			switch {
			case 'a' <= c && c < 'z', 'A' <= c && c < 'Z', '0' <= c && c < '9':
				turned[i]++
			case c == 'z', c == 'Z':
				turned[i] -= 25
			case c == '9':
				turned[i] = '0'
			}
		}
		for _, text := range []string{n.text + "x", "another", string(turned)} {
			if text != n.text {
				out = append(out, wire.AppendString(nil, text))
			}
		}
		return out
	}
}
