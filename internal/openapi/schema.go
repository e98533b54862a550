package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strings"
)

// What the value of a keyword of JSON Schema 2020-12 is, as far as a converted
// schema keeps it. Keywords that are not here are left out: what remains of them
// is annotation, or OpenAPI's own.
type keyword uint8

const (
	value   keyword = iota + 1 // stands as it is
	sub                        // a schema
	subList                    // a list of schemas
	subMap                     // schemas by name
)

var keywords30 = map[string]keyword{
	"title": value, "description": value, "default": value, "enum": value, "format": value, "pattern": value,
	"multipleOf": value, "maximum": value, "minimum": value, "maxLength": value, "minLength": value,
	"maxItems": value, "minItems": value, "uniqueItems": value, "maxProperties": value, "minProperties": value,
	"deprecated": value, "readOnly": value, "writeOnly": value,
	"not": sub, "items": sub, "additionalProperties": sub,
	"allOf": subList, "anyOf": subList, "oneOf": subList, "properties": subMap,
}

var keywords31 = map[string]keyword{
	"title": value, "description": value, "default": value, "enum": value, "const": value, "format": value, "pattern": value,
	"type": value, "multipleOf": value, "maximum": value, "exclusiveMaximum": value, "minimum": value, "exclusiveMinimum": value,
	"maxLength": value, "minLength": value, "maxItems": value, "minItems": value, "uniqueItems": value,
	"maxContains": value, "minContains": value, "maxProperties": value, "minProperties": value, "dependentRequired": value,
	"contentEncoding": value, "contentMediaType": value, "deprecated": value, "readOnly": value, "writeOnly": value, "examples": value,
	"not": sub, "if": sub, "then": sub, "else": sub, "items": sub, "contains": sub, "propertyNames": sub,
	"additionalProperties": sub, "unevaluatedItems": sub, "unevaluatedProperties": sub,
	"allOf": subList, "anyOf": subList, "oneOf": subList, "prefixItems": subList,
	"properties": subMap, "patternProperties": subMap, "dependentSchemas": subMap,
}

// rebasing keywords change what references in a schema mean.
var rebasing = []string{"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"}

// converter makes JSON Schema 2020-12 of the schemas of one tool's input or
// output. What they refer to becomes $defs, so that schemas that hold themselves
// stay finite.
type converter struct {
	root   *node
	old    bool // OpenAPI 3.0
	output bool // of responses, which have no write-only properties; requests have no read-only ones
	names  map[string]string
	defs   []definition
	// binary: strings of format binary are given as base64.
	binary bool
	// deepest is how many references lie between the schema and what it still says
	// anything of: beyond, anything fits. depth is where it is being converted.
	deepest, depth int
	left           int // bytes it may still grow by
}

// definition is one that a reference leads to; its text comes later.
type definition struct {
	name  string
	of    *node
	depth int
	text  []byte
}

// errLarge: what is made of a schema is larger than it may be.
var errLarge = errors.New("its schemas are too large")

var defName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// ref returns the reference to the definition of what a pointer points at, but for
// its closing brace.
func (c *converter) ref(pointer string, to *node) []byte {
	name, ok := c.names[pointer]
	if !ok && c.depth >= c.deepest {
		return []byte("{")
	}
	if !ok {
		decoded, _ := unpercent(pointer)
		last := unescape.Replace(decoded[strings.LastIndexByte(decoded, '/')+1:])
		name = defName.ReplaceAllString(last, "_")
		if name == "" || slices.ContainsFunc(c.defs, func(d definition) bool { return d.name == name }) {
			name += "_" + short(pointer)
		}
		if c.names == nil {
			c.names = map[string]string{}
		}
		c.names[pointer] = name
		c.defs = append(c.defs, definition{name: name, of: to, depth: c.depth + 1})
	}
	return appendString([]byte(`{"$ref":`), "#/$defs/"+name)
}

// define converts what has been referred to, the nearest first.
func (c *converter) define() error {
	for i := 0; i < len(c.defs); i++ {
		c.depth = c.defs[i].depth
		text, err := c.schema(nil, c.defs[i].of)
		if err != nil {
			return err
		}
		c.defs[i].text = text
	}
	return nil
}

// short tells apart what would have one name.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// schema appends the conversion of a schema.
func (c *converter) schema(dst []byte, n *node) ([]byte, error) {
	before := len(dst)
	out, err := c.convert(dst, n)
	if err != nil {
		return nil, err
	}
	// What is within others counts again, so that depth costs, too.
	if c.left -= len(out) - before; c.left < 0 {
		return nil, errLarge
	}
	return out, nil
}

func (c *converter) convert(dst []byte, n *node) ([]byte, error) {
	if n.is('t') || n.is('f') {
		return n.append(dst), nil
	}
	if !n.is('{') {
		return nil, wrong(n, "a schema has to be an object")
	}
	for _, word := range rebasing {
		if n.get(word) != nil {
			return nil, wrong(n, "the schema has %s, which is not followed", word)
		}
	}
	to, pointer, err := resolve(c.root, n)
	if err != nil {
		return nil, err
	}
	if to != n {
		ref := c.ref(pointer, to)
		dst = append(dst, ref...)
		if !c.old && len(n.names) > 1 { // in 3.0 what stands beside a reference is not looked at
			if len(ref) > 1 {
				dst = append(dst, ',')
			}
			return c.members(dst, n)
		}
		return append(dst, '}'), nil
	}
	return c.members(append(dst, '{'), n)
}

// members appends the keywords of a schema, but for $ref, and its closing brace.
// dst ends in a brace or a comma.
func (c *converter) members(dst []byte, n *node) ([]byte, error) {
	known := keywords31
	null := false
	if c.old {
		known = keywords30
		null = n.get("nullable").isTrue()
	}
	if null && n.get("type") == nil {
		// Of what may be null besides, without a type of its own.
		inner := *n
		inner.names, inner.values = nil, nil
		for i, name := range n.names {
			if name != "nullable" {
				inner.names, inner.values = append(inner.names, name), append(inner.values, n.values[i])
			}
		}
		dst, err := c.members(append(dst, `"anyOf":[{`...), &inner)
		return append(dst, `,{"type":"null"}]}`...), err
	}
	key := func(name string) { dst = append(appendString(dst, name), ':') }
	base64 := c.binary && n.get("format").str() == "binary"
	for i, name := range n.names {
		v := n.values[i]
		kind, ok := known[name]
		switch {
		case c.old && name == "type":
			key("type")
			if null {
				dst = append(append(v.append(append(dst, '[')), `,"null"`...), ']')
			} else {
				dst = v.append(dst)
			}
		case c.old && (name == "exclusiveMinimum" || name == "exclusiveMaximum"):
			if bound := n.get(map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}[name]); v.isTrue() && bound != nil {
				key(name)
				dst = bound.append(dst)
			} else {
				continue
			}
		case c.old && name == "minimum" && n.get("exclusiveMinimum").isTrue(), c.old && name == "maximum" && n.get("exclusiveMaximum").isTrue():
			continue
		case name == "example" && n.get("examples") == nil:
			key("examples")
			dst = append(v.append(append(dst, '[')), ']')
		case name == "format" && base64:
			key("contentEncoding")
			dst = append(dst, `"base64"`...)
		case name == "contentMediaType" && c.binary && n.get("contentEncoding") == nil:
			key(name)
			dst = append(v.append(dst), `,"contentEncoding":"base64"`...)
		case name == "enum" && null && v.is('['):
			key(name)
			dst = v.append(dst)
			if !slices.ContainsFunc(v.values, func(e *node) bool { return e.kind == 'n' }) {
				dst = dst[:len(dst)-1]
				if len(v.values) > 0 {
					dst = append(dst, ',')
				}
				dst = append(dst, "null]"...)
			}
		case name == "required":
			list := c.required(n, v)
			if list == nil {
				continue
			}
			key(name)
			dst = append(dst, list...)
		case !ok:
			continue
		case kind == value:
			key(name)
			dst = v.append(dst)
		case kind == sub:
			key(name)
			var err error
			if dst, err = c.schema(dst, v); err != nil {
				return nil, err
			}
		case kind == subList:
			if !v.is('[') {
				return nil, wrong(v, "%s has to be a list", name)
			}
			key(name)
			dst = append(dst, '[')
			for j, s := range v.values {
				if j > 0 {
					dst = append(dst, ',')
				}
				var err error
				if dst, err = c.schema(dst, s); err != nil {
					return nil, err
				}
			}
			dst = append(dst, ']')
		case kind == subMap:
			if !v.is('{') {
				return nil, wrong(v, "%s has to be a mapping", name)
			}
			key(name)
			dst = append(dst, '{')
			for j, s := range v.values {
				if j > 0 {
					dst = append(dst, ',')
				}
				dst = append(appendString(dst, v.names[j]), ':')
				var err error
				if dst, err = c.schema(dst, s); err != nil {
					return nil, err
				}
			}
			dst = append(dst, '}')
		}
		dst = append(dst, ',')
	}
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, '}'), nil
}

// required is what a schema requires in the direction it is converted for: a
// response has no write-only properties, a request no read-only ones (OpenAPI
// 3.0.3, "Schema Object", and as good in 3.1). Nil is nothing.
func (c *converter) required(n, list *node) []byte {
	not := "readOnly"
	if c.output {
		not = "writeOnly"
	}
	dst := []byte{'['}
	for _, v := range list.values {
		p := n.get("properties").get(v.str())
		if to, _, err := resolve(c.root, p); err == nil && (to.get(not).isTrue() || p.get(not).isTrue()) {
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = v.append(dst)
	}
	if len(dst) == 1 {
		return nil
	}
	return append(dst, ']')
}

// appendDefs appends the definitions as a last member, if there are any, to an
// object whose closing brace is still missing.
func (c *converter) appendDefs(dst []byte) []byte {
	if len(c.defs) == 0 {
		return dst
	}
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, `"$defs":{`...)
	for i, d := range c.defs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(appendString(dst, d.name), ':'), d.text...)
	}
	return append(dst, '}')
}

// isObject reports whether all that fits a schema is an object. known holds what
// was found of schemas on the way: one that is being looked at is none yet.
func isObject(root, n *node, known map[*node]bool) bool {
	n, _, err := resolve(root, n)
	if err != nil || !n.is('{') || n.get("nullable").isTrue() {
		return false
	}
	if is, ok := known[n]; ok {
		return is
	}
	known[n] = false
	is := false
	one := func(s *node) bool { return isObject(root, s, known) }
	every := func(list *node) bool {
		return list.is('[') && len(list.values) > 0 && !slices.ContainsFunc(list.values, func(s *node) bool { return !one(s) })
	}
	t, all := n.get("type"), n.get("allOf")
	switch {
	case t != nil:
		is = t.str() == "object" || t.is('[') && len(t.values) == 1 && t.values[0].str() == "object"
	case n.get("properties").is('{'):
		is = true
	case all.is('['):
		is = slices.ContainsFunc(all.values, one)
	default:
		is = every(n.get("oneOf")) || every(n.get("anyOf"))
	}
	known[n] = is
	return is
}
