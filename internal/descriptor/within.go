package descriptor

import (
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// proof compares two JSON Schemas by what they let through.
type proof struct {
	a, b side
	// sameDefs: what references lead to is the same on both sides.
	sameDefs bool
	assumed  map[[2]string]bool // pairs of references that are being compared
	steps    int
}

// side is the document that references of a schema lead into.
type side struct {
	root      any
	reachable bool // no reference in it leads elsewhere than to a pointer within
}

// mostSteps bounds the work on schemas that a stranger wrote.
const mostSteps = 4_000

func newProof(a, b any) *proof {
	p := &proof{
		a: side{a, !leadsElsewhere(a, 0)}, b: side{b, !leadsElsewhere(b, 0)},
		assumed: map[[2]string]bool{},
	}
	p.sameDefs = true
	for _, k := range []string{"$defs", "definitions"} {
		p.sameDefs = p.sameDefs && reflect.DeepEqual(member(a, k), member(b, k)) && toDefinitions(member(a, k))
	}
	return p
}

// within reports whether it is proven that every value that fits schema a fits schema
// b, where a and b stand in two whole schemas. What is not proven is not thereby false:
// some keywords are only compared as they are written. "format" and the keywords that no
// specification knows count: a server may go by them.
func within(a, b any) bool {
	return reflect.DeepEqual(a, b) || oneDraft(a, b) && newProof(a, b).within(a, b)
}

// oneDraft reports whether two whole schemas are of one draft, and of one whose
// keywords are those that are read here.
func oneDraft(a, b any) bool {
	d := dialect(a)
	return d == dialect(b) && slices.Contains([]string{"draft/2020-12/schema", "draft/2019-09/schema", "draft-07/schema", "draft-06/schema"}, d)
}

func dialect(root any) string {
	d, ok := member(root, "$schema").(string)
	if !ok {
		return "draft/2020-12/schema"
	}
	_, d, _ = strings.Cut(strings.TrimSuffix(d, "#"), "json-schema.org/")
	return d
}

func member(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}

// leadsElsewhere reports whether references of a schema cannot be followed here.
func leadsElsewhere(v any, depth int) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			switch name {
			case "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor":
				return true
			case "$id", "id":
				if _, isText := x.(string); isText && depth > 0 {
					return true
				}
			case "$ref":
				if to, isText := x.(string); isText && to != "#" && !strings.HasPrefix(to, "#/") {
					return true
				}
			}
			if leadsElsewhere(x, depth+1) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return leadsElsewhere(x, depth+1) })
	}
	return false
}

// annotations say nothing about what a schema lets through.
var annotations = []string{
	"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment",
	"$schema", "$id", "id", "$defs", "definitions", "$vocabulary",
}

// follow leads a schema that is nothing but a reference to what it refers to. The
// address is "" for one that is none.
func (s *side) follow(schema any) (to any, address string, ok bool) {
	for range 32 {
		m, isMap := schema.(map[string]any)
		ref, has := m["$ref"].(string)
		if !isMap || !has {
			return schema, address, true
		}
		for name := range m {
			if name != "$ref" && !slices.Contains(annotations, name) {
				return schema, "", true
			}
		}
		if !s.reachable {
			return nil, "", false
		}
		at := s.root
		if ref != "#" {
			for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
				switch v := at.(type) {
				case map[string]any:
					at = v[step]
				case []any:
					i, err := strconv.Atoi(step)
					if err != nil || i < 0 || i >= len(v) {
						return nil, "", false
					}
					at = v[i]
				default:
					return nil, "", false
				}
			}
		}
		if at == nil {
			return nil, "", false
		}
		schema, address = at, ref
	}
	return nil, "", false
}

// refers reports whether a reference stands anywhere in a value.
func refers(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			if name == "$ref" || refers(x) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, refers)
	}
	return false
}

// same reports whether two parts of the two schemas are the same, also in what they
// refer to.
func (p *proof) same(a, b any) bool {
	return p.a.reachable && p.b.reachable && reflect.DeepEqual(a, b) && (!refers(a) || p.sameDefs && toDefinitions(a))
}

// toDefinitions reports whether all references in a value lead to definitions.
func toDefinitions(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			if to, isText := x.(string); name == "$ref" && isText {
				if !strings.HasPrefix(to, "#/$defs/") && !strings.HasPrefix(to, "#/definitions/") {
					return false
				}
			}
			if !toDefinitions(x) {
				return false
			}
		}
	case []any:
		for _, x := range v {
			if !toDefinitions(x) {
				return false
			}
		}
	}
	return true
}

func (p *proof) within(a, b any) bool {
	if p.steps++; p.steps > mostSteps {
		return false
	}
	if b == true || a == false || p.same(a, b) {
		return true
	}
	a, from, ok := p.a.follow(a)
	if !ok {
		return false
	}
	b, to, ok := p.b.follow(b)
	if !ok {
		return false
	}
	if from != "" || to != "" {
		// A schema that leads back to itself: it holds unless something else speaks
		// against it. A pair of one reference and one place is not told apart, so
		// that only a pair of references may be assumed.
		pair := [2]string{from, to}
		if from != "" && to != "" {
			if p.assumed[pair] {
				return true
			}
			p.assumed[pair] = true
			defer delete(p.assumed, pair)
		}
	}
	if b == true || a == false {
		return true
	}
	x, isA := a.(map[string]any)
	if a == true {
		x, isA = map[string]any{}, true
	}
	y, isB := b.(map[string]any)
	if !isA || !isB || x["$ref"] != nil || y["$ref"] != nil { // what stands beside a reference counts in some drafts only
		return false
	}
	if p.plainly(x, y) {
		return true
	}
	// What is let through by a is let through by each part of it.
	for _, part := range list(x["allOf"]) {
		if p.within(part, b) {
			return true
		}
	}
	for _, union := range []string{"anyOf", "oneOf"} {
		parts := list(x[union])
		if len(parts) > 0 && !slices.ContainsFunc(parts, func(part any) bool { return !p.within(part, b) }) {
			return p.unknownHold(x, y)
		}
	}
	return false
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// plainly compares keyword by keyword. Each keyword of b has to follow from what
// stands in a.
func (p *proof) plainly(a, b map[string]any) bool {
	if !p.unknownHold(a, b) {
		return false
	}
	kinds, limited := types(a)
	may := func(kind string) bool { return !limited || kinds[kind] }
	if _, has := b["type"]; has {
		allowed, ok := declaredTypes(b["type"])
		if !ok || !limited {
			return false
		}
		for kind := range kinds {
			if !allowed[kind] && (kind != "integer" || !allowed["number"]) {
				return false
			}
		}
	}
	for _, k := range []string{"enum", "const"} {
		if _, has := b[k]; !has {
			continue
		}
		allowed, from := values(b, k), finite(a)
		if from == nil {
			return false
		}
		for text := range from {
			if !allowed[text] {
				return false
			}
		}
	}
	numeric := may("number") || may("integer")
	for _, k := range []string{"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"} {
		if v, has := b[k]; has && numeric && !reflect.DeepEqual(a[k], v) && !bounded(a, k, v) {
			return false
		}
	}
	for k, kind := range map[string]string{
		"minLength": "string", "maxLength": "string", "minItems": "array", "maxItems": "array", "minProperties": "object", "maxProperties": "object",
	} {
		if v, has := b[k]; has && may(kind) && !reflect.DeepEqual(a[k], v) && !counted(a, k, v) {
			return false
		}
	}
	for _, k := range []string{"pattern", "format", "contentEncoding", "contentMediaType", "contentSchema"} {
		if v, has := b[k]; has && (k == "format" || may("string")) && !p.same(a[k], v) {
			return false
		}
	}
	if b["uniqueItems"] == true && may("array") && a["uniqueItems"] != true {
		return false
	}
	// What depends on what stands beside it is the same on both sides, or not compared.
	for _, group := range [][]string{
		{"contains", "minContains", "maxContains"}, {"if", "then", "else"}, {"not"}, {"oneOf"}, {"dependencies"}, {"dependentSchemas"},
	} {
		for _, k := range group {
			if _, has := b[k]; !has {
				continue
			}
			for _, each := range group {
				if !p.same(a[each], b[each]) {
					return false
				}
			}
		}
	}
	for _, k := range []string{"unevaluatedProperties", "unevaluatedItems", "$ref", "$dynamicRef", "$recursiveRef"} {
		if _, has := b[k]; has {
			return false
		}
	}
	if may("array") && !p.itemsHold(a, b) || may("object") && !p.membersHold(a, b) {
		return false
	}
	for _, part := range list(b["allOf"]) {
		if !p.within(a, part) {
			return false
		}
	}
	if union, has := b["anyOf"]; has && !p.same(a["anyOf"], union) && !p.intoOne(a, list(union)) {
		return false
	}
	return true
}

// intoOne reports whether all that fits a fits one of several, or each of the
// alternatives of a one of them.
func (p *proof) intoOne(a map[string]any, union []any) bool {
	fits := func(x any) bool { return slices.ContainsFunc(union, func(y any) bool { return p.within(x, y) }) }
	bare := map[string]any{}
	for k, v := range a {
		if k != "anyOf" {
			bare[k] = v
		}
	}
	if fits(bare) {
		return true
	}
	parts := list(a["anyOf"])
	return len(parts) > 0 && !slices.ContainsFunc(parts, func(x any) bool { return !fits(x) })
}

// known are the keywords that plainly, and what it calls, have read.
var known = func() map[string]bool {
	all := map[string]bool{}
	for _, k := range annotations {
		all[k] = true
	}
	for _, k := range strings.Fields("type enum const minimum exclusiveMinimum maximum exclusiveMaximum multipleOf minLength maxLength minItems maxItems " +
		"minProperties maxProperties pattern format contentEncoding contentMediaType contentSchema uniqueItems contains minContains maxContains if then else not " +
		"oneOf anyOf allOf dependencies dependentSchemas dependentRequired unevaluatedProperties unevaluatedItems $ref $dynamicRef $recursiveRef $anchor " +
		"$dynamicAnchor $recursiveAnchor items prefixItems additionalItems properties patternProperties additionalProperties propertyNames required") {
		all[k] = true
	}
	return all
}()

// unknownHold reports whether what no specification knows is the same.
func (p *proof) unknownHold(a, b map[string]any) bool {
	for k, v := range a {
		if !known[k] && !reflect.DeepEqual(b[k], v) {
			return false
		}
	}
	for k := range b {
		if _, has := a[k]; !known[k] && !has {
			return false
		}
	}
	return true
}

func declaredTypes(v any) (map[string]bool, bool) {
	all := map[string]bool{}
	switch v := v.(type) {
	case string:
		all[v] = true
	case []any:
		for _, x := range v {
			name, ok := x.(string)
			if !ok {
				return nil, false
			}
			all[name] = true
		}
	default:
		return nil, false
	}
	return all, true
}

// types are those that a schema lets through; limited is false if it says nothing of
// them.
func types(s map[string]any) (kinds map[string]bool, limited bool) {
	if v, has := s["type"]; has {
		kinds, limited = declaredTypes(v)
	}
	from := finite(s)
	if from == nil {
		return kinds, limited
	}
	of := map[string]bool{}
	for _, v := range from {
		kind := kindOf(v)
		if !limited || kinds[kind] || kind == "integer" && kinds["number"] {
			of[kind] = true
		} else if kind == "number" && kinds["integer"] {
			of["integer"] = true // 1.0 is one
		}
	}
	return of, true
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			return "number"
		}
		return "integer"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func values(s map[string]any, keyword string) map[string]bool {
	var all []any
	if keyword == "const" {
		all = []any{s["const"]}
	} else {
		all = list(s[keyword])
	}
	set := map[string]bool{}
	for _, v := range all {
		set[textOf(v)] = true
	}
	return set
}

// finite are the values that a schema lists, by their text; nil if it lists none.
func finite(s map[string]any) map[string]any {
	var from map[string]any
	if v, has := s["enum"]; has {
		from = map[string]any{}
		for _, x := range list(v) {
			from[textOf(x)] = x
		}
	}
	if v, has := s["const"]; has {
		only := map[string]any{textOf(v): v}
		if from != nil {
			if _, in := from[textOf(v)]; !in {
				only = map[string]any{}
			}
		}
		from = only
	}
	return from
}

// textOf writes a value so that equal ones have equal texts.
func textOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// rational reads a number exactly; one whose exponent would take memory is not read.
func rational(v any) *big.Rat {
	n, ok := v.(json.Number)
	if !ok || len(n) > 64 {
		return nil
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(string(n)), "e"); ok {
		if e, err := strconv.Atoi(exponent); err != nil || e > 400 || e < -400 {
			return nil
		}
	}
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return nil
	}
	return r
}

// bounded reports whether a bound of b follows from those of a.
func bounded(a map[string]any, keyword string, v any) bool {
	want := rational(v)
	if want == nil {
		return false
	}
	follows := func(of string, sign int, orEqual bool) bool {
		have := rational(a[of])
		if have == nil {
			return false
		}
		c := have.Cmp(want) * sign
		return c > 0 || c == 0 && orEqual
	}
	switch keyword {
	case "minimum":
		return follows("minimum", 1, true) || follows("exclusiveMinimum", 1, true)
	case "exclusiveMinimum":
		return follows("minimum", 1, false) || follows("exclusiveMinimum", 1, true)
	case "maximum":
		return follows("maximum", -1, true) || follows("exclusiveMaximum", -1, true)
	case "exclusiveMaximum":
		return follows("maximum", -1, false) || follows("exclusiveMaximum", -1, true)
	}
	have := rational(a["multipleOf"])
	return have != nil && want.Sign() > 0 && new(big.Rat).Quo(have, want).IsInt()
}

// counted reports whether a bound on a length follows from that of a.
func counted(a map[string]any, keyword string, v any) bool {
	want, have := rational(v), rational(a[keyword])
	if want != nil && strings.HasPrefix(keyword, "min") && want.Sign() == 0 {
		return true
	}
	if want == nil || have == nil {
		return false
	}
	if strings.HasPrefix(keyword, "min") {
		return have.Cmp(want) >= 0
	}
	return have.Cmp(want) <= 0
}

func (p *proof) itemsHold(a, b map[string]any) bool {
	for _, k := range []string{"items", "prefixItems", "additionalItems"} {
		_, isList := b[k].([]any)
		_, wasList := a[k].([]any)
		if isList || wasList || k == "additionalItems" && (a[k] != nil || b[k] != nil) {
			// Places of an array are compared as they are written.
			return p.same(a["items"], b["items"]) && p.same(a["prefixItems"], b["prefixItems"]) && p.same(a["additionalItems"], b["additionalItems"])
		}
	}
	of, has := b["items"]
	return !has || p.within(orTrue(a, "items"), of)
}

// orTrue is a part of a schema, or the schema that lets everything through.
func orTrue(s map[string]any, keyword string) any {
	if v, has := s[keyword]; has {
		return v
	}
	return true
}

func (p *proof) membersHold(a, b map[string]any) bool {
	required := map[string]bool{}
	for _, v := range list(a["required"]) {
		required[textOf(v)] = true
	}
	for _, v := range list(b["required"]) {
		if !required[textOf(v)] {
			return false
		}
	}
	properties := func(s map[string]any, keyword string) map[string]any {
		m, _ := s[keyword].(map[string]any)
		return m
	}
	ofA, ofB := properties(a, "properties"), properties(b, "properties")
	patternsA, patternsB := properties(a, "patternProperties"), properties(b, "patternProperties")
	for name, schema := range ofB {
		from, listed := ofA[name]
		if !listed {
			from = orTrue(a, "additionalProperties")
			if len(patternsA) > 0 {
				from = true
			}
		}
		if !p.within(from, schema) {
			return false
		}
	}
	for pattern, schema := range patternsB {
		from, listed := patternsA[pattern]
		if !listed {
			from = true
		}
		if !p.within(from, schema) {
			return false
		}
	}
	if rest, has := b["additionalProperties"]; has {
		for name, schema := range ofA {
			if _, listed := ofB[name]; !listed && !p.within(schema, rest) {
				return false
			}
		}
		for pattern, schema := range patternsA {
			if _, listed := patternsB[pattern]; !listed && !p.within(schema, rest) {
				return false
			}
		}
		// Names that b lists by a pattern and a does not are among these: more is asked
		// for than has to hold.
		if !p.within(orTrue(a, "additionalProperties"), rest) {
			return false
		}
	}
	if names, has := b["propertyNames"]; has && !p.within(orTrue(a, "propertyNames"), names) {
		return false
	}
	with := properties(b, "dependentRequired")
	for name, others := range with {
		have := map[string]bool{}
		for _, v := range list(properties(a, "dependentRequired")[name]) {
			have[textOf(v)] = true
		}
		for _, v := range list(others) {
			if !have[textOf(v)] && !required[textOf(v)] {
				return false
			}
		}
	}
	return true
}
