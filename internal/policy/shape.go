package policy

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cedar-policy/cedar-go/types"
	schema "github.com/cedar-policy/cedar-go/x/exp/schema/ast"

	"sallyport"
)

// form is which Cedar type a value has. The zero value is one that policy cannot
// see.
type form uint8

const (
	hidden form = iota
	text
	long
	decimal
	boolean
	datetime
	entity
	set
	record
)

// shape is the type of one value, with what Cedar's own types cannot say: the
// values it can have, and why policy cannot see it.
type shape struct {
	form form
	why  string // hidden: as in "the argument x is hidden: it may be null"
	enum []string
	// lo and hi bound a long if hi > lo.
	lo, hi  int64
	kind    types.EntityType   // of an entity
	elem    *shape             // of a set
	members map[string]*member // of a record
	common  schema.Ident       // the name of a record in the schema's text
}

type member struct {
	*shape
	optional bool
	notes    schema.Annotations
}

// names are those of the members that policy can see, sorted.
func (s *shape) names() []string {
	var ns []string
	for n, m := range s.members {
		if m.form != hidden {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return ns
}

// at follows a path of names through records. It returns nil where there is
// nothing of that name.
func (s *shape) at(path []string) *member {
	m := &member{shape: s}
	for _, name := range path {
		if m.form != record {
			return nil
		}
		next, ok := m.members[name]
		if !ok {
			return nil
		}
		m = next
	}
	return m
}

// cedar is the shape as a type of Cedar's schema; commons collects the records
// that have a name of their own.
func (s *shape) cedar(commons schema.CommonTypes) schema.IsType {
	switch s.form {
	case text:
		return schema.String()
	case long:
		return schema.Long()
	case decimal:
		return schema.Decimal()
	case boolean:
		return schema.Bool()
	case datetime:
		return schema.Datetime()
	case entity:
		return schema.EntityType(s.kind)
	case set:
		return schema.Set(s.elem.cedar(commons))
	case record, hidden:
	}
	if s.common != "" {
		if _, ok := commons[s.common]; !ok {
			commons[s.common] = schema.CommonType{Type: s.fields(commons)}
		}
		return schema.Type(types.Path(s.common))
	}
	return s.fields(commons)
}

func (s *shape) fields(commons schema.CommonTypes) schema.RecordType {
	r := schema.RecordType{}
	for _, n := range s.names() {
		m := s.members[n]
		notes := maps.Clone(m.notes)
		if len(m.enum) > 0 {
			if notes == nil {
				notes = schema.Annotations{}
			}
			notes["enum"] = types.String(strings.Join(m.enum, ", "))
		}
		r[types.String(n)] = schema.Attribute{Type: m.cedar(commons), Optional: m.optional, Annotations: notes}
	}
	return r
}

// The bounds of what is made of one tool's schema: deeper or larger parts of it
// are hidden from policy.
const (
	maxShapeDepth = 16
	maxShapeNodes = 10_000
)

// argShape reads the JSON Schema of a tool's arguments. The result is always a
// record; members of it may be hidden.
func argShape(t *Tool) (*shape, error) {
	args := &shape{form: record, members: map[string]*member{}}
	if len(t.InputSchema) == 0 {
		return args, nil
	}
	var doc any
	if err := json.Unmarshal(t.InputSchema, &doc); err != nil {
		return nil, fmt.Errorf("read the input schema: %w", err)
	}
	r := &schemaReader{doc: doc}
	root, ok := doc.(map[string]any)
	if !ok {
		return args, nil // true and false are schemas too, and declare nothing
	}
	if s := r.read(root, 0); s.form == record {
		args = s
	}
	for name, m := range args.members {
		if k := t.ArgKinds[name]; k != 0 {
			m.notes = schema.Annotations{"kind": types.String(k.String())}
		} else if t.Access != sallyport.Read {
			m.notes = schema.Annotations{"kind": types.String(sallyport.Authority.String())}
		}
	}
	return args, nil
}

// schemaReader turns JSON Schema (2020-12, and what older drafts share with it)
// into shapes. A keyword it does not know can only narrow what a type allows, so
// it is safe to pass over.
type schemaReader struct {
	doc   any
	open  []string // references being followed
	nodes int
}

func hide(format string, args ...any) *shape {
	return &shape{form: hidden, why: fmt.Sprintf(format, args...)}
}

func (r *schemaReader) read(v any, depth int) *shape {
	if r.nodes++; r.nodes > maxShapeNodes {
		return hide("its schema is too large")
	}
	if depth > maxShapeDepth {
		return hide("it is nested more than %d deep", maxShapeDepth)
	}
	s, ok := v.(map[string]any)
	if !ok {
		return hide("its schema allows any type")
	}
	kind, ok := s["type"]
	if !ok {
		return r.untyped(s, depth)
	}
	if list, ok := kind.([]any); ok {
		if len(list) != 1 {
			return hide("its schema allows more than one type (%s)", joined(list))
		}
		kind = list[0]
	}
	switch kind {
	case "string":
		return &shape{form: text, enum: stringsOf(s)}
	case "integer":
		return &shape{form: long}
	case "number":
		return &shape{form: decimal}
	case "boolean":
		return &shape{form: boolean}
	case "array":
		return r.array(s, depth)
	case "object":
		return r.object(s, depth)
	case "null":
		return hide("it is always null")
	}
	return hide("its schema is of no known type")
}

// untyped reads a schema that does not say its type itself.
func (r *schemaReader) untyped(s map[string]any, depth int) *shape {
	if ref, ok := s["$ref"].(string); ok {
		if slices.Contains(r.open, ref) {
			return hide("its schema refers to itself")
		}
		target, ok := pointed(r.doc, ref)
		if !ok {
			return hide("its schema refers to %q, which is not in the same document", ref)
		}
		r.open = append(r.open, ref)
		defer func() { r.open = r.open[:len(r.open)-1] }()
		return r.read(target, depth)
	}
	if all, ok := s["allOf"].([]any); ok && len(all) == 1 {
		return r.read(all[0], depth)
	}
	if c, ok := s["const"].(string); ok {
		return &shape{form: text, enum: []string{c}}
	}
	if list, ok := s["enum"].([]any); ok {
		if values := stringsOf(s); len(values) == len(list) {
			return &shape{form: text, enum: values}
		}
		return hide("its schema is an enumeration of other values than strings")
	}
	for _, k := range []string{"anyOf", "oneOf", "allOf"} {
		if _, ok := s[k]; ok {
			return hide("its schema is a choice (%s)", k)
		}
	}
	return hide("its schema names no type")
}

func (r *schemaReader) object(s map[string]any, depth int) *shape {
	props, _ := s["properties"].(map[string]any)
	if len(props) == 0 && depth > 0 {
		return hide("it is an object that declares no properties")
	}
	var required []any
	if list, ok := s["required"].([]any); ok {
		required = list
	}
	out := &shape{form: record, members: make(map[string]*member, len(props))}
	// Sorted, because the bound on nodes hides whatever comes last.
	for _, name := range slices.Sorted(maps.Keys(props)) {
		out.members[name] = &member{
			shape:    r.read(props[name], depth+1),
			optional: !slices.Contains(required, any(name)),
		}
	}
	return out
}

func (r *schemaReader) array(s map[string]any, depth int) *shape {
	if _, ok := s["prefixItems"]; ok {
		return hide("its items are of different types")
	}
	items, ok := s["items"]
	if !ok {
		return hide("it is an array whose schema names no items")
	}
	if _, ok := items.([]any); ok {
		return hide("its items are of different types")
	}
	elem := r.read(items, depth+1)
	if elem.form == hidden {
		return hide("of its items: %s", elem.why)
	}
	if name, why := elem.firstHidden(); name != "" {
		// Sets are compared by their elements: one with a part that policy cannot
		// see would be equal to what it is not.
		return hide("its items hold %q, which is hidden: %s", name, why)
	}
	return &shape{form: set, elem: elem}
}

func (s *shape) firstHidden() (name, why string) {
	for _, n := range slices.Sorted(maps.Keys(s.members)) {
		m := s.members[n]
		if m.form == hidden {
			return n, m.why
		}
		if name, why := m.firstHidden(); name != "" {
			return n + "." + name, why
		}
	}
	return "", ""
}

// stringsOf are the strings a schema's enum or const allows; nil for any.
func stringsOf(s map[string]any) []string {
	if c, ok := s["const"].(string); ok {
		return []string{c}
	}
	list, _ := s["enum"].([]any)
	var out []string
	for _, v := range list {
		if t, ok := v.(string); ok && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

func joined(list []any) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ", ")
}

// pointed follows a reference within one document: "#" or "#/" and a JSON
// Pointer (RFC 6901) in the form of a URI fragment.
func pointed(doc any, ref string) (any, bool) {
	frag, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return nil, false
	}
	frag, err := url.PathUnescape(frag)
	if err != nil || frag != "" && frag[0] != '/' {
		return nil, false
	}
	if frag == "" {
		return doc, true
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, step := range strings.Split(frag[1:], "/") {
		step = unescape.Replace(step)
		switch v := doc.(type) {
		case map[string]any:
			if doc, ok = v[step]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			doc = v[i]
		default:
			return nil, false
		}
	}
	return doc, true
}
