package openapi

import (
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// shape is a schema, looked at for what kinds of values it lets be.
type shape struct{ root, node *node }

// inputOf is the schema of the arguments of a tool.
func inputOf(definition []byte) (shape, error) {
	n, err := (&reader{}).fromJSON(definition)
	if err != nil {
		return shape{}, err
	}
	in := n.get("inputSchema")
	if !in.is('{') {
		return shape{}, errors.New("its definition has no inputSchema")
	}
	return shape{in, in}, nil
}

// kinds is a set of kinds of JSON values.
type kinds uint8

const (
	isText kinds = 1 << iota
	isNumber
	isBool
	isNull
	isList
	isMembers
	isScalar = isText | isNumber | isBool
	isAny    = isScalar | isNull | isList | isMembers
)

var kindNamed = map[string]kinds{
	"string": isText, "number": isNumber, "integer": isNumber, "boolean": isBool, "null": isNull, "array": isList, "object": isMembers,
}

var kindOf = map[jsontext.Kind]kinds{'"': isText, '0': isNumber, 't': isBool, 'f': isBool, 'n': isNull, '[': isList, '{': isMembers}

// mostParts bounds how many parts of a schema are looked at for one value: what refers
// to much, and that to more, is then taken to let anything be.
const mostParts = 256

// kinds are those that the schema lets be, and possibly more.
func (s shape) kinds() kinds {
	left := mostParts
	return s.kindsIn(&left)
}

func (s shape) kindsIn(left *int) kinds {
	n := s.node
	if n.is('f') {
		return 0
	}
	if *left--; !n.is('{') || *left < 0 {
		return isAny
	}
	union := func(all *node, of func(*node) kinds) kinds {
		if !all.is('[') {
			return isAny
		}
		some := kinds(0)
		for _, v := range all.values {
			some |= of(v)
		}
		return some
	}
	within := func(v *node) kinds { return shape{s.root, v}.kindsIn(left) }
	out := union(n.get("enum"), func(v *node) kinds { return kindOf[v.kind] })
	if t := n.get("type"); t.is('"') {
		out &= kindNamed[t.text]
	} else {
		out &= union(t, func(v *node) kinds { return kindNamed[v.str()] })
	}
	if c := n.get("const"); c != nil {
		out &= kindOf[c.kind]
	}
	if to, ok := s.target(); ok {
		out &= to.kindsIn(left)
	}
	out &= union(n.get("anyOf"), within) & union(n.get("oneOf"), within)
	if all := n.get("allOf"); all.is('[') {
		for _, v := range all.values {
			out &= within(v)
		}
	}
	return out
}

// target is what the schema refers to.
func (s shape) target() (shape, bool) {
	ref := s.node.get("$ref")
	if ref == nil {
		return shape{}, false
	}
	to, _, err := resolve(s.root, &node{kind: '{', names: []string{"$ref"}, values: []*node{ref}})
	return shape{s.root, to}, err == nil
}

// maybe reports whether the schema lets a value of one of the kinds be.
func (s shape) maybe(k kinds) bool { return s.kinds()&k != 0 }

// only reports whether the schema lets no value of other kinds be, but for null.
func (s shape) only(k kinds) bool { return s.kinds()&^isNull == k }

// find is the first that look finds in the schema and in what it is made of.
func (s shape) find(look func(*node) *node) (shape, bool) {
	left := mostParts
	return s.findIn(&left, look)
}

func (s shape) findIn(left *int, look func(*node) *node) (shape, bool) {
	if *left--; !s.node.is('{') || *left < 0 {
		return shape{}, false
	}
	if at := look(s.node); at != nil {
		return shape{s.root, at}, true
	}
	if to, ok := s.target(); ok {
		if at, ok := to.findIn(left, look); ok {
			return at, true
		}
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		some := s.node.get(key)
		if !some.is('[') {
			continue
		}
		for _, v := range some.values {
			if at, ok := (shape{s.root, v}).findIn(left, look); ok {
				return at, true
			}
		}
	}
	return shape{}, false
}

// items is the schema of a list's elements; one that lets anything be if it does not say.
func (s shape) items() shape {
	at, _ := s.find(func(n *node) *node { return n.get("items") })
	return at
}

// property is the schema of a member, in the same way.
func (s shape) property(name string) shape {
	at, ok := s.find(func(n *node) *node { return n.get("properties").get(name) })
	if !ok {
		at, _ = s.find(func(n *node) *node { return n.get("additionalProperties") })
	}
	return at
}

// has reports whether the schema names a member, or lets there be any beside those it
// names.
func (s shape) has(name string) bool {
	if _, ok := s.find(func(n *node) *node { return n.get("properties").get(name) }); ok {
		return true
	}
	at, ok := s.find(func(n *node) *node { return n.get("additionalProperties") })
	return ok && !at.node.is('f')
}

// scalar is the value that a text stands for: one of those that the schema lists, text
// if it lets text be, a number or a boolean that is written so, and else the text, which
// is then refused for what it is.
func (s shape) scalar(text string) jsontext.Value {
	listed, ok := s.find(func(n *node) *node {
		var all []*node
		if e := n.get("enum"); e.is('[') {
			all = e.values
		}
		if c := n.get("const"); c != nil {
			all = append(all, c)
		}
		for _, v := range all {
			switch v.kind {
			case '"', '0':
				if v.text == text {
					return v
				}
			case 't', 'f':
				if string(v.append(nil)) == text {
					return v
				}
			}
		}
		return nil
	})
	if ok {
		return listed.node.append(nil)
	}
	k := s.kinds()
	switch {
	case k&isText != 0:
	case k&isNumber != 0 && jsonNumber.MatchString(text), k&isBool != 0 && (text == "true" || text == "false"):
		return jsontext.Value(text)
	}
	return appendString(nil, text)
}
