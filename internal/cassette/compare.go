package cassette

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"sallyport/internal/canonical"
)

// Reply is what came back from a call: a tools/call result or a JSON-RPC error object.
type Reply struct{ Result, Error []byte }

// Difference is in what way a reply differs from the recorded one.
type Difference uint8

// The differences.
const (
	OtherStatus Difference = iota + 1 // one failed, or both in different ways
	Missing                           // recorded, and not there now
	Extra                             // there now, and not recorded
	OtherType
	OtherValue
	OtherOrder // the same elements
)

// String returns the difference in words.
func (d Difference) String() string {
	switch d {
	case OtherStatus:
		return "other status"
	case Missing:
		return "missing"
	case Extra:
		return "extra"
	case OtherType:
		return "other type"
	case OtherValue:
		return "other value"
	case OtherOrder:
		return "other order"
	default:
		return "none"
	}
}

// Fidelity is how well a reply agrees with the recorded one. There are no values in it.
type Fidelity struct {
	Status bool // both succeeded, or failed in the same way
	Shape  bool // the same members of the same types; how long lists are does not matter
	Order  bool // lists have the same order, where a rule does not let it be
	// Agree is how many of the recorded leaves, without the ignored ones, have the
	// same value now.
	Agree, Leaves int
	Extra         int // leaves that were not recorded
	Ignored       int // recorded leaves that were not looked at
	// First is where they differ first, and Kind how: 0 if they do not. A list that
	// agrees but for its order comes after everything else.
	First string
	Kind  Difference
}

// Same reports whether nothing differs.
func (f *Fidelity) Same() bool { return f.Kind == 0 }

// Value is the share of recorded leaves that agree, from 0 to 1; 1 if there are none.
func (f *Fidelity) Value() float64 {
	if f.Leaves == 0 {
		return 1
	}
	return float64(f.Agree) / float64(f.Leaves)
}

// Compare holds a reply against the recorded one. White space, the order of members
// and escapes do not matter, also in JSON inside of a string. Not looked at are _meta
// of a result, and resultType if one of the two has none. Replies that are no JSON
// objects are errors.
func Compare(tool string, recorded, replayed Reply, rules Differences) (Fidelity, error) {
	set, err := rules.compile()
	if err != nil {
		return Fidelity{}, fmt.Errorf("rules for results: %w", err)
	}
	return compare(recorded, replayed, set.of(tool))
}

// Compare is [Compare] by the rules of the deck.
func (d *Deck) Compare(tool string, recorded, replayed Reply) (Fidelity, error) {
	return compare(recorded, replayed, d.results.of(tool))
}

func compare(recorded, replayed Reply, rules []*branch[rule]) (Fidelity, error) {
	was, wasError, err := recorded.read()
	if err != nil {
		return Fidelity{}, fmt.Errorf("recorded reply: %w", err)
	}
	is, isError, err := replayed.read()
	if err != nil {
		return Fidelity{}, fmt.Errorf("reply of this run: %w", err)
	}
	return compareNodes(was, is, wasError, isError, rules), nil
}

func (r *Reply) read() (doc *node, protocolError bool, err error) {
	raw := r.Result
	if protocolError = raw == nil; protocolError {
		raw = r.Error
	}
	form, err := canonical.JSON(raw)
	if err != nil {
		return nil, false, err
	}
	if doc, err = parse(form, MaxDepth); err != nil {
		return nil, false, err
	}
	if doc.kind != '{' {
		return nil, false, errors.New("it is no JSON object")
	}
	return doc, protocolError, nil
}

func compareNodes(was, is *node, wasError, isError bool, rules []*branch[rule]) Fidelity {
	c := comparison{Fidelity: Fidelity{Status: true, Shape: true, Order: true}, nest: mostNested}
	if wasError != isError || !wasError && failed(was) != failed(is) {
		c.Status, c.Shape = false, false
		c.Leaves = was.leaves()
		c.differs("", OtherStatus)
		return c.Fidelity
	}
	eachPair(was, is, func(step string, a, b *node) bool {
		if !wasError && (step == "_meta" || step == "resultType" && (a == nil || b == nil)) {
			if a != nil {
				c.Ignored += a.leaves()
			}
			return true
		}
		c.pair(a, b, along(rules, step), below("", step))
		return true
	})
	if c.Kind == 0 && !c.Order {
		c.First, c.Kind = c.order, OtherOrder
	}
	return c.Fidelity
}

type comparison struct {
	Fidelity
	order string // the first list in another order
	nest  int    // how many strings may still be opened
}

func (c *comparison) differs(pointer string, kind Difference) {
	if c.Kind == 0 {
		c.First, c.Kind = pointer, kind
	}
}

func (c *comparison) pair(was, is *node, rules []*branch[rule], pointer string) {
	r := said(rules)
	switch {
	case r != nil && r.what == ignored:
		if was != nil {
			c.Ignored += was.leaves()
		}
	case was == nil:
		c.Shape = false
		c.Extra += is.leaves()
		c.differs(pointer, Extra)
	case is == nil:
		c.Shape = false
		c.Leaves += was.leaves()
		c.differs(pointer, Missing)
	case was.kind != is.kind && (was.kind != 't' && was.kind != 'f' || is.kind != 't' && is.kind != 'f'):
		c.Shape = false
		c.Leaves += was.leaves()
		c.differs(pointer, OtherType)
	case r != nil && r.allows(was, is, rules):
		c.Agree, c.Leaves = c.Agree+was.leaves(), c.Leaves+was.leaves()
		if r.what == asSubset {
			return
		}
	case was.kind == '{':
		if was.isLeaf() {
			c.Agree, c.Leaves = c.Agree+1, c.Leaves+1
		}
		eachPair(was, is, func(step string, a, b *node) bool {
			if a != nil || r == nil || r.what != asSubset {
				c.pair(a, b, along(rules, step), below(pointer, step))
			}
			return true
		})
	case was.kind == '[':
		c.arrays(was, is, rules, pointer, r)
	default:
		c.scalar(was, is, rules, pointer)
	}
}

func (c *comparison) scalar(was, is *node, rules []*branch[rule], pointer string) {
	if c.nest > 0 && was != is {
		a, b := opened(was), opened(is)
		if a != nil && b != nil {
			c.nest--
			c.pair(a, b, along(rules, heldStep), pointer+"/"+heldText)
			c.nest++
			return
		}
	}
	c.Leaves++
	if bytes.Equal(was.raw, is.raw) {
		c.Agree++
		return
	}
	c.differs(pointer, OtherValue)
}

// opened is the JSON that a string holds, in canonical form.
func opened(n *node) *node {
	if n.held(MaxDepth) == nil {
		return nil
	}
	form, err := canonical.JSON([]byte(n.text))
	if err != nil {
		return nil
	}
	inner, err := parse(form, MaxDepth)
	if err != nil {
		return nil
	}
	return inner
}

// arrays compares the elements in order, unless they are the same in another one. With
// a rule that there is no order, equal elements go together first, then those with the
// same id, and what is left in order.
func (c *comparison) arrays(was, is *node, rules []*branch[rule], pointer string, r *rule) {
	if was.isLeaf() {
		c.Leaves++
		if is.isLeaf() {
			c.Agree++
		}
	}
	unordered := r != nil && (r.what == asSet || r.what == asSubset)
	if !unordered && len(was.items) == len(is.items) && len(was.items) > 1 && !same(was, is, rules) && contains(was, is, rules) {
		c.Agree, c.Leaves = c.Agree+was.leaves(), c.Leaves+was.leaves()
		if c.Order {
			c.Order, c.order = false, pointer
		}
		return
	}
	partner := make([]int, len(was.items)) // 1 + the index in is
	taken := make([]bool, len(is.items))
	if unordered {
		pairUp(was, is, partner, taken, func(n *node, i int) string {
			return string(appendNormal(nil, n, along(rules, strconv.Itoa(i)), false))
		})
		pairUp(was, is, partner, taken, func(n *node, _ int) string {
			for i, item := range n.items {
				if n.kind == '{' && item.isLeaf() && (item.kind == '"' || item.kind == '0') && (n.names[i] == "id" || n.names[i] == "key") {
					return item.text
				}
			}
			return ""
		})
	}
	next := 0
	for i, item := range was.items {
		if partner[i] == 0 && !unordered && i < len(is.items) {
			partner[i], taken[i] = i+1, true
		}
		for partner[i] == 0 && next < len(is.items) {
			if !taken[next] {
				partner[i], taken[next] = next+1, true
			}
			next++
		}
		at := below(pointer, strconv.Itoa(i))
		if partner[i] == 0 {
			c.Leaves += item.leaves()
			c.differs(at, Missing)
			continue
		}
		c.pair(item, is.items[partner[i]-1], along(rules, strconv.Itoa(i)), at)
	}
	for i, item := range is.items {
		if !taken[i] && (r == nil || r.what != asSubset) {
			c.Extra += item.leaves()
			c.differs(below(pointer, strconv.Itoa(i)), Extra)
		}
	}
}

// pairUp pairs elements that have no partner yet and the same key.
func pairUp(was, is *node, partner []int, taken []bool, key func(n *node, i int) string) {
	free := map[string][]int{}
	for i, item := range is.items {
		if k := key(item, i); !taken[i] && k != "" {
			free[k] = append(free[k], i)
		}
	}
	for i, item := range was.items {
		if partner[i] != 0 {
			continue
		}
		if k := key(item, i); len(free[k]) > 0 {
			partner[i], taken[free[k][0]] = free[k][0]+1, true
			free[k] = free[k][1:]
		}
	}
}
