package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// types is a set of JSON types. An integer is a number too.
type types uint8

const (
	typeNull types = 1 << iota
	typeBoolean
	typeInteger
	typeNumber
	typeString
	typeArray
	typeObject
)

var typeNames = []string{"null", "boolean", "integer", "number", "string", "array", "object"}

func (t types) String() string {
	var names []string
	for i, name := range typeNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// node is one subschema, ready to be walked. A pointer that is nil and a length
// that is negative ask for nothing.
type node struct {
	never bool // the schema false
	types types

	// values are the canonical forms of enum (or const), or, if plain, what the
	// strings hold that all of them are.
	values map[string]bool
	plain  bool
	listed string // for messages

	min, max, above, below *bound // minimum, maximum, exclusive ones
	multiple               *big.Rat
	multipleText           string

	minLength, maxLength int
	pattern              *pattern

	properties    []property
	index         map[string]int // of properties, where they are many
	required      int            // how many properties are required
	patterns      []patternProperty
	additional    *node
	names         *node
	minProperties int
	maxProperties int
	dependents    []dependent

	prefix      []*node
	rest        *node
	contains    *node
	minContains int
	maxContains int
	minItems    int
	maxItems    int
	unique      bool

	ref                 *node
	allOf, anyOf, oneOf []*node
	not                 *node
	when, then, other   *node // if, then, else
}

func newNode() *node {
	return &node{
		minLength: -1, maxLength: -1, minProperties: -1, maxProperties: -1,
		minItems: -1, maxItems: -1, minContains: -1, maxContains: -1,
	}
}

// property is a member that is declared, required or both.
type property struct {
	name     string
	declared bool
	schema   *node // nil where it is only required, or anything goes
	required int   // its place among the required ones, or -1
}

type patternProperty struct {
	pattern *pattern
	schema  *node
}

// dependent is what the presence of a member asks of the whole object.
type dependent struct {
	name   string
	needs  []string
	schema *node
}

// builder turns a parsed document into nodes.
type builder struct {
	doc     any
	draft   draft
	idWord  string // "$id", in draft 04 "id"
	base    string // the document's own $id, without fragment
	nodes   map[string]*node
	anchors map[string]string // to pointers
	seen    map[string]bool   // pointers of the subschemas surveyed
	strange int               // references to places that hold no subschema by position
	program int               // instructions of all patterns
	foreign string            // a keyword or draft the walker does not judge
}

type draft int

var drafts = map[string]draft{
	"json-schema.org/schema":               2020,
	"json-schema.org/draft/2020-12/schema": 2020,
	"json-schema.org/draft/2019-09/schema": 2019,
	"json-schema.org/draft-07/schema":      7,
	"json-schema.org/draft-06/schema":      6,
	"json-schema.org/draft-04/schema":      4,
}

func (b *builder) build() (*node, error) {
	b.draft = 2020
	b.idWord = "$id"
	switch root := b.doc.(type) {
	case bool:
	case map[string]any:
		if v, ok := root["$schema"]; ok {
			text, _ := v.(string)
			text = strings.TrimSuffix(text, "#")
			text = strings.TrimPrefix(strings.TrimPrefix(text, "http://"), "https://")
			if b.draft, ok = drafts[text]; !ok {
				return nil, errAt("/$schema", "%.80q is not a draft known here", v)
			}
			if b.draft < 7 {
				b.foreign = fmt.Sprintf("draft %02d", int(b.draft))
			}
			if b.draft == 4 {
				b.idWord = "id"
			}
		}
		if id, ok := root[b.idWord].(string); ok {
			b.base, _, _ = strings.Cut(id, "#")
			// With the document's own name gone, every reference that stays
			// inside it starts with '#'.
			delete(root, b.idWord)
		}
	default:
		return nil, errAt("", "want an object or a boolean, got %s", kindOf(b.doc))
	}
	if err := b.survey("", b.doc); err != nil {
		return nil, err
	}
	root, err := b.node("", b.doc)
	if err != nil {
		return nil, err
	}
	return root, b.findLoop()
}

// Where subschemas stand.
var (
	schemaWords = []string{
		"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not",
		"propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "contentSchema",
	}
	schemaListWords = []string{"allOf", "anyOf", "items", "oneOf", "prefixItems"}
	schemaMapWords  = []string{
		"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties",
	}
	referenceWords = []string{"$ref", "$dynamicRef", "$recursiveRef"}
)

// subschemas calls f with the pointer and value of everything directly inside
// object that is a subschema by its position, in a fixed order.
func subschemas(ptr string, object map[string]any, f func(ptr string, v any) error) error {
	for _, word := range schemaWords {
		switch v := object[word].(type) {
		case map[string]any, bool:
			if err := f(join(ptr, word), v); err != nil {
				return err
			}
		}
	}
	for _, word := range schemaListWords {
		list, _ := object[word].([]any)
		for i, v := range list {
			if err := f(join(ptr, word)+"/"+strconv.Itoa(i), v); err != nil {
				return err
			}
		}
	}
	for _, word := range schemaMapWords {
		members, _ := object[word].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if _, names := members[name].([]any); names && word == "dependencies" {
				continue
			}
			if err := f(join(join(ptr, word), name), members[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// survey goes over every subschema of the document, used or not, counts them,
// finds anchors, takes out what would change the meaning of a reference or of
// "format", and refuses what leads out of the document.
func (b *builder) survey(ptr string, v any) error {
	if b.seen[ptr] {
		return nil
	}
	b.seen[ptr] = true
	if len(b.seen) > MaxSubschemas {
		return errAt(ptr, "more than %d subschemas", MaxSubschemas)
	}
	object, ok := v.(map[string]any)
	if !ok {
		if _, ok := v.(bool); !ok {
			return errAt(ptr, "want an object or a boolean, got %s", kindOf(v))
		}
		return nil
	}
	if _, ok := object[b.idWord].(string); ok {
		return errAt(ptr, "an embedded %q is not supported", b.idWord)
	}
	if ptr != "" {
		delete(object, "$schema")
	}
	delete(object, "format")
	for _, word := range []string{"$anchor", "$dynamicAnchor"} {
		if name, ok := object[word].(string); ok && b.draft >= 2019 {
			if at, ok := b.anchors[name]; ok && at != ptr {
				return errAt(ptr, "anchor %q is also at %s", name, at)
			}
			b.anchors[name] = ptr
		}
	}
	for _, word := range referenceWords {
		ref, ok := object[word].(string)
		if !ok {
			continue
		}
		local := ref
		if b.base != "" {
			local = strings.TrimPrefix(ref, b.base)
		}
		if local != "" && local[0] != '#' {
			return errAt(join(ptr, word), "%.120q leads out of the document", ref)
		}
		if local == "" {
			local = "#"
		}
		object[word] = local
		if word == "$ref" && b.draft < 2019 {
			// Nothing beside a reference counts there, but the library reads const.
			delete(object, "const")
		}
	}
	return subschemas(ptr, object, b.survey)
}

// resolve finds the subschema a local reference names.
func (b *builder) resolve(at, ref string) (string, any, error) {
	fragment, err := url.PathUnescape(strings.TrimPrefix(ref, "#"))
	if err != nil {
		return "", nil, errAt(at, "%.120q is not a reference", ref)
	}
	if fragment != "" && fragment[0] != '/' {
		ptr, ok := b.anchors[fragment]
		if !ok {
			return "", nil, errAt(at, "no anchor %.120q in the document", fragment)
		}
		fragment = ptr
	}
	ptr, v := "", b.doc
	for fragment != "" {
		token := fragment[1:]
		token, fragment = cutBefore(token, '/')
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		ok := false
		switch in := v.(type) {
		case map[string]any:
			v, ok = in[token]
		case []any:
			// RFC 6901 has no leading zeros or signs.
			if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(in) && strconv.Itoa(i) == token {
				v, ok = in[i], true
			}
		}
		if !ok {
			return "", nil, errAt(at, "nothing at %.120q in the document", ref)
		}
		ptr = join(ptr, token)
	}
	return ptr, v, nil
}

func cutBefore(s string, c byte) (string, string) {
	if i := strings.IndexByte(s, c); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

// node builds the subschema at a pointer, once.
func (b *builder) node(ptr string, v any) (*node, error) {
	if n, ok := b.nodes[ptr]; ok {
		return n, nil
	}
	n := newNode()
	b.nodes[ptr] = n // before what is inside it, which may refer back
	switch v := v.(type) {
	case bool:
		n.never = !v
		return n, nil
	case map[string]any:
		k := keywords{b: b, ptr: ptr, in: v}
		k.fill(n)
		return n, k.err
	default:
		return nil, errAt(ptr, "want an object or a boolean, got %s", kindOf(v))
	}
}

// keywords reads the keywords of one object and keeps the first error.
type keywords struct {
	b   *builder
	ptr string
	in  map[string]any
	err error
}

func (k *keywords) fail(word, format string, args ...any) {
	if k.err == nil {
		k.err = errAt(join(k.ptr, word), format, args...)
	}
}

func (k *keywords) fill(n *node) {
	draft := k.b.draft
	n.ref = k.reference("$ref")
	if n.ref != nil && draft < 2019 {
		return // what stands beside a reference does not count
	}
	if draft == 2019 {
		n.addRef(k.reference("$recursiveRef"))
	}
	if draft >= 2020 {
		// One document is one resource, so there is nothing dynamic to find.
		n.addRef(k.reference("$dynamicRef"))
	}
	for _, word := range []string{"unevaluatedItems", "unevaluatedProperties"} {
		if _, ok := k.in[word]; ok && draft >= 2019 {
			k.b.foreign = strconv.Quote(word)
		}
	}

	k.types(n)
	k.values(n)
	n.min, n.max = k.bound("minimum"), k.bound("maximum")
	n.below, n.above = k.bound("exclusiveMaximum"), k.bound("exclusiveMinimum")
	if v, ok := k.in["multipleOf"].(json.Number); ok {
		n.multiple, _ = new(big.Rat).SetString(v.String())
		n.multipleText = v.String()
		if n.multiple == nil || n.multiple.Sign() <= 0 {
			k.fail("multipleOf", "want a number above zero")
			return
		}
	}
	n.minLength, n.maxLength = k.length("minLength"), k.length("maxLength")
	if text, ok := k.in["pattern"].(string); ok {
		n.pattern = k.pattern("pattern", text)
	}

	k.properties(n)
	n.names = k.schema("propertyNames")
	n.minProperties, n.maxProperties = k.length("minProperties"), k.length("maxProperties")

	n.unique, _ = k.in["uniqueItems"].(bool)
	n.minItems, n.maxItems = k.length("minItems"), k.length("maxItems")
	if draft >= 2020 {
		n.prefix, n.rest = k.list("prefixItems"), k.schema("items")
	} else if _, tuple := k.in["items"].([]any); tuple {
		n.prefix, n.rest = k.list("items"), k.schema("additionalItems")
	} else {
		n.rest = k.schema("items")
	}
	if n.contains = k.schema("contains"); n.contains != nil && draft >= 2019 {
		n.minContains, n.maxContains = k.length("minContains"), k.length("maxContains")
	}

	n.allOf = append(n.allOf, k.list("allOf")...)
	n.anyOf, n.oneOf = k.list("anyOf"), k.list("oneOf")
	n.not = k.schema("not")
	if n.when = k.schema("if"); n.when != nil {
		n.then, n.other = k.schema("then"), k.schema("else")
	}
}

// addRef adds a second reference beside the first.
func (n *node) addRef(ref *node) {
	switch {
	case ref == nil:
	case n.ref == nil:
		n.ref = ref
	default:
		first := n.ref
		n.ref = newNode()
		n.ref.allOf = []*node{first, ref}
	}
}

// maxStrange bounds references into places like /components/schemas, each of
// which costs a pass over the document.
const maxStrange = 64

func (k *keywords) reference(word string) *node {
	ref, ok := k.in[word].(string)
	if !ok || k.err != nil {
		return nil
	}
	ptr, v, err := k.b.resolve(join(k.ptr, word), ref)
	if err != nil {
		k.err = err
		return nil
	}
	if !k.b.seen[ptr] {
		if k.b.strange++; k.b.strange > maxStrange {
			k.fail(word, "more than %d references to places that hold no schema by position", maxStrange)
			return nil
		}
		if err := k.b.survey(ptr, v); err != nil {
			k.err = err
			return nil
		}
	}
	return k.node(ptr, v)
}

func (k *keywords) node(ptr string, v any) *node {
	if k.err != nil {
		return nil
	}
	n, err := k.b.node(ptr, v)
	if err != nil {
		k.err = err
		return nil
	}
	return n
}

func (k *keywords) schema(word string) *node {
	v, ok := k.in[word]
	if !ok {
		return nil
	}
	return k.node(join(k.ptr, word), v)
}

func (k *keywords) list(word string) []*node {
	list, _ := k.in[word].([]any)
	nodes := make([]*node, len(list))
	for i, v := range list {
		nodes[i] = k.node(join(k.ptr, word)+"/"+strconv.Itoa(i), v)
	}
	return nodes
}

func (k *keywords) types(n *node) {
	var names []any
	switch v := k.in["type"].(type) {
	case nil:
		return
	case string:
		names = []any{v}
	case []any:
		names = v
	}
	for _, name := range names {
		text, _ := name.(string)
		i := slices.Index(typeNames, text)
		if i < 0 {
			k.fail("type", "%.80q is not a type", name)
			return
		}
		n.types |= 1 << i
	}
	if n.types == 0 {
		k.fail("type", "no type is named")
	}
}

func (k *keywords) values(n *node) {
	var values []any
	constant, isConst := k.in["const"]
	list, isEnum := k.in["enum"].([]any)
	switch {
	case isConst && k.b.draft >= 6:
		if values = []any{constant}; isEnum {
			// Rare enough to be written as what it means.
			both := newNode()
			both.setValues(list)
			n.allOf = append(n.allOf, both)
		}
	case isEnum:
		values = list
	default:
		return
	}
	n.setValues(values)
}

func (n *node) setValues(values []any) {
	n.plain = !slices.ContainsFunc(values, func(v any) bool {
		_, text := v.(string)
		return !text
	})
	shown := make([]string, 0, maxListed)
	n.values = make(map[string]bool, len(values))
	for i, v := range values {
		if n.plain {
			n.values[v.(string)] = true
		} else {
			n.values[string(appendCanonical(nil, v))] = true
		}
		if i < maxListed {
			shown = append(shown, show(v))
		}
	}
	n.listed = listed(shown, len(values))
}

func (k *keywords) bound(word string) *bound {
	v, ok := k.in[word].(json.Number)
	if !ok {
		return nil
	}
	return newBound(v.String())
}

// length reads a keyword that counts, -1 where it is absent.
func (k *keywords) length(word string) int {
	v, ok := k.in[word].(json.Number)
	if !ok {
		return -1
	}
	d := parseDecimal([]byte(v))
	if !d.integer() || d.negative || d.exp > 15 {
		k.fail(word, "%.40s is not a count", v)
		return -1
	}
	count := 0
	for i := range d.exp {
		count *= 10
		if i < len(d.digits) {
			count += int(d.digits[i] - '0')
		}
	}
	return count
}

func (k *keywords) properties(n *node) {
	declared, _ := k.in["properties"].(map[string]any)
	required, _ := k.in["required"].([]any)
	at := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		at[name] = len(n.properties)
		n.properties = append(n.properties, property{
			name: name, declared: true, required: -1,
			schema: k.node(join(k.ptr, "properties")+"/"+pointerEscape.Replace(name), declared[name]),
		})
	}
	for _, v := range required {
		name, ok := v.(string)
		if !ok {
			k.fail("required", "want names, got %s", kindOf(v))
			return
		}
		i, ok := at[name]
		if !ok {
			i = len(n.properties)
			at[name] = i
			n.properties = append(n.properties, property{name: name, required: -1})
		}
		if n.properties[i].required < 0 {
			n.properties[i].required = n.required
			n.required++
		}
	}
	if len(n.properties) > 8 {
		n.index = at
	}

	patterns, _ := k.in["patternProperties"].(map[string]any)
	for _, text := range slices.Sorted(maps.Keys(patterns)) {
		word := join("patternProperties", text)
		n.patterns = append(n.patterns, patternProperty{
			pattern: k.pattern("patternProperties", text),
			schema:  k.node(k.ptr+"/"+word, patterns[text]),
		})
	}
	n.additional = k.schema("additionalProperties")

	needs, _ := k.in["dependentRequired"].(map[string]any)
	if k.b.draft < 2019 {
		needs = nil
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		n.dependents = append(n.dependents, dependent{name: name, needs: k.strings(needs[name])})
	}
	schemas, _ := k.in["dependentSchemas"].(map[string]any)
	if k.b.draft < 2019 {
		schemas = nil
	}
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		ptr := join(join(k.ptr, "dependentSchemas"), name)
		n.dependents = append(n.dependents, dependent{name: name, schema: k.node(ptr, schemas[name])})
	}
	// Later drafts split "dependencies" in two but still know it.
	old, _ := k.in["dependencies"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(old)) {
		d := dependent{name: name}
		if list, ok := old[name].([]any); ok {
			d.needs = k.strings(list)
		} else {
			d.schema = k.node(join(join(k.ptr, "dependencies"), name), old[name])
		}
		n.dependents = append(n.dependents, d)
	}
}

func (k *keywords) strings(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, item := range list {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// inPlace are the subschemas that judge the same value as n does.
func (n *node) inPlace() []*node {
	out := slices.Concat(n.allOf, n.anyOf, n.oneOf)
	for _, sub := range []*node{n.ref, n.not, n.when, n.then, n.other} {
		if sub != nil {
			out = append(out, sub)
		}
	}
	for _, d := range n.dependents {
		if d.schema != nil {
			out = append(out, d.schema)
		}
	}
	return out
}

// inside are the subschemas that judge parts of the value n judges.
func (n *node) inside() []*node {
	out := slices.Clone(n.prefix)
	for _, p := range n.properties {
		if p.schema != nil {
			out = append(out, p.schema)
		}
	}
	for _, p := range n.patterns {
		out = append(out, p.schema)
	}
	for _, sub := range []*node{n.additional, n.names, n.rest, n.contains} {
		if sub != nil {
			out = append(out, sub)
		}
	}
	return out
}

// findLoop refuses a schema that asks for itself of the same value, which no
// value can answer.
func (b *builder) findLoop() error {
	const open, done = 1, 2
	state := map[*node]int{}
	var enter func(n *node) bool
	enter = func(n *node) bool {
		switch state[n] {
		case open:
			return false
		case done:
			return true
		}
		state[n] = open
		for _, sub := range n.inPlace() {
			if !enter(sub) {
				return false
			}
		}
		state[n] = done
		return true
	}
	for _, ptr := range slices.Sorted(maps.Keys(b.nodes)) {
		if !enter(b.nodes[ptr]) {
			return errAt(ptr, "refers to itself without going into the value")
		}
	}
	return nil
}
