package sandbox

import (
	"math/big"
	"slices"
	"strconv"

	"sallyport/internal/wire"
)

// This file is what a generator does about "not": it turns it into what is asked for
// instead. Whatever it misses shows when the whole value is checked.

// refutable are the keywords that can be turned around, those first that leave the
// value most like what it would have been.
var refutable = []string{
	"required", "properties", "const", "enum", "pattern", "minLength", "maxLength",
	"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
	"minItems", "maxItems", "prefixItems", "items", "contains", "minProperties", "maxProperties",
	"not", "anyOf", "oneOf", "allOf", "$ref", "type",
}

// against are the ways not to meet a schema: what is to be met for each.
func (g *generator) against(s *value) [][]*value {
	if ways, known := g.ways[s]; known {
		return ways
	}
	g.ways[s] = nil // what leads back here is no way
	var ways [][]*value
	if s.kind == 'f' {
		ways = [][]*value{{}}
	}
	for _, word := range refutable {
		if v := s.member(word); v != nil && g.spend(1) == nil {
			ways = append(ways, g.turned(word, v)...)
		}
	}
	g.ways[s] = ways
	return ways
}

// turned are the ways not to meet one keyword.
func (g *generator) turned(word string, v *value) (ways [][]*value) {
	add := func(s ...*value) { ways = append(ways, s) }
	counted := func(kind, opposite string, by int) {
		if n := object("n", v).count("n", -1) + by; n >= 0 && v.kind == '0' {
			add(object("type", text(kind), opposite, whole(n)))
		}
	}
	switch word {
	case "required":
		for _, name := range v.items {
			add(object("type", text("object")), absent(name.text))
		}
	case "properties":
		for _, name := range v.names {
			other := object(name, g.refused(v.members[name]))
			add(object("type", text("object"), "required", list(text(name)), "properties", other))
		}
	case "const", "enum":
		add(&value{kind: '{', never: object(word, v)})
	case "pattern":
		add(object("type", text("string")), &value{kind: '{', never: object(word, v)})
	case "multipleOf":
		add(object("type", text("number")), &value{kind: '{', never: object(word, v)})
	case "minLength":
		counted("string", "maxLength", -1)
	case "maxLength":
		counted("string", "minLength", 1)
	case "minItems":
		counted("array", "maxItems", -1)
	case "maxItems":
		counted("array", "minItems", 1)
	case "minProperties":
		counted("object", "maxProperties", -1)
	case "maxProperties":
		counted("object", "minProperties", 1)
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
		opposite := map[string]string{"minimum": "exclusiveMaximum", "maximum": "exclusiveMinimum", "exclusiveMinimum": "maximum", "exclusiveMaximum": "minimum"}
		if v.kind == '0' {
			add(object("type", text("number"), opposite[word], v))
		}
	case "prefixItems":
		for i := range v.items {
			all := make([]*value, i+1)
			for j := range i {
				all[j] = &value{kind: 't'}
			}
			all[i] = g.refused(v.items[i])
			add(object("type", text("array"), "minItems", whole(i+1), "prefixItems", list(all...)))
		}
	case "items":
		add(object("type", text("array"), "minItems", whole(1), "prefixItems", list(g.refused(v))))
	case "contains":
		add(object("type", text("array"), "items", g.refused(v)))
	case "not":
		add(v)
	case "anyOf", "oneOf":
		var none []*value
		for _, form := range v.items {
			none = append(none, g.refused(form))
		}
		add(none...)
	case "allOf":
		for _, part := range v.items {
			ways = append(ways, g.against(part)...)
		}
	case "$ref":
		if target := g.root.resolve(v.text); target != nil {
			ways = g.against(target)
		}
	case "type":
		allowed := v.items
		if v.kind == '"' {
			allowed = []*value{v}
		}
		var others []*value
		for _, kind := range kindOrder {
			if !slices.ContainsFunc(allowed, func(a *value) bool {
				return a.text == kind || a.text == "number" && kind == "integer" || a.text == "integer" && kind == "number"
			}) {
				others = append(others, text(kind))
			}
		}
		if names := func(kind string) bool {
			return slices.ContainsFunc(allowed, func(a *value) bool { return a.text == kind })
		}; names("integer") && !names("number") {
			add(object("type", text("number")), &value{kind: '{', never: object("multipleOf", whole(1))})
		}
		if len(others) > 0 {
			add(object("type", list(others...)))
		}
	}
	return ways
}

// refused is the schema that a value meets which does not meet s.
func (g *generator) refused(s *value) *value {
	other := g.others[s]
	if other == nil {
		other = object("not", s)
		g.others[s] = other
	}
	return other
}

// barred reports whether what was made meets a keyword that it may not.
func (f *form) barred(made []byte) bool {
	if !slices.ContainsFunc(f.all, func(s *value) bool { return s.never != nil }) {
		return false
	}
	v, err := parse(made)
	return err == nil && f.bars(v)
}

func (f *form) bars(v *value) bool {
	return slices.ContainsFunc(f.all, func(s *value) bool {
		rule := s.never
		if rule == nil {
			return false
		}
		if c := rule.member("const"); c != nil {
			return equal(c, v)
		}
		if e := rule.member("enum"); e != nil {
			f.g.steps += len(e.items) / 16
			return slices.ContainsFunc(e.items, func(o *value) bool { return equal(o, v) })
		}
		if p := rule.member("pattern"); p != nil {
			re := f.g.pattern(p.text)
			return v.kind == '"' && re != nil && re.MatchString(v.text)
		}
		unit, ok := number(rule.member("multipleOf"))
		n, isNumber := number(v)
		return ok && isNumber && unit.Sign() > 0 && new(big.Rat).Quo(n, unit).IsInt()
	})
}

// object is a schema of keywords and their values, in turn.
func object(pairs ...any) *value {
	v := &value{kind: '{', members: map[string]*value{}}
	for i := 0; i < len(pairs); i += 2 {
		name := pairs[i].(string)
		v.names = append(v.names, name)
		v.members[name] = pairs[i+1].(*value)
	}
	return v
}

// absent is the schema of an object without that member.
func absent(name string) *value { return object("properties", object(name, &value{kind: 'f'})) }

func list(items ...*value) *value { return &value{kind: '[', items: items} }

func text(s string) *value { return &value{kind: '"', text: s, raw: wire.AppendString(nil, s)} }

func whole(n int) *value { return &value{kind: '0', raw: strconv.AppendInt(nil, int64(n), 10)} }
