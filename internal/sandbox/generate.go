package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// The limits of one answer.
const (
	maxSteps  = 12_000  // over all tries: subschemas gone through, and what costs as much
	maxMade   = 1 << 20 // bytes of strings, numbers and values taken over
	maxNested = 24      // levels of the value
	richLevel = 4       // up to which what may be left out is usually there
	maxTries  = 6
)

// generator makes one value for an output schema.
type generator struct {
	root     *value
	given    map[string]*value // arguments
	echo     bool
	apart    bool // of oneOf, the other forms are kept away from what one of them makes
	steps    int
	made     int
	patterns map[string]*regexp.Regexp // compiled, by their text
	ways     map[*value][][]*value     // what against has found
	others   map[*value]*value         // what refused has made
}

// spend counts steps, or bytes where they are many.
func (g *generator) spend(steps int) error {
	if g.steps += steps; g.steps > maxSteps {
		return errSteps
	}
	return nil
}

// take counts the bytes of a value and returns them.
func (g *generator) take(raw []byte) ([]byte, error) {
	if g.made += len(raw); g.made > maxMade {
		return nil, errSteps
	}
	return raw, g.spend(len(raw) / 64)
}

// pattern is a compiled pattern, or nil where there can be none.
func (g *generator) pattern(text string) *regexp.Regexp {
	re, ok := g.patterns[text]
	if !ok {
		re, _ = schema.Regexp(text) // it has compiled with the schema
		g.patterns[text] = re
	}
	return re
}

// unmet is why no value could be made at a place.
type unmet struct{ pointer, why string }

func (e *unmet) Error() string { return e.why }

var errSteps = &unmet{why: "its output schema is too large or too entangled"}

// generate makes a value that fits the schema of out. Equal keys and arguments
// make equal bytes.
func generate(out *output, given map[string][]byte, key [32]byte) ([]byte, error) {
	g := generator{
		root: out.document, given: map[string]*value{}, patterns: map[string]*regexp.Regexp{},
		ways: map[*value][][]*value{}, others: map[*value]*value{},
	}
	for name, raw := range given {
		if v, err := parse(raw); err == nil {
			g.given[name] = v
		}
	}
	var last error
	for try := range maxTries {
		g.made = 0
		// An argument that comes back is the first thing given up.
		g.echo = try < maxTries/2
		g.apart = try > 0
		d := &dice{key: key}
		if try > 0 {
			d = d.at("try " + strconv.Itoa(try))
		}
		made, err := g.value(&request{all: []*value{out.document}}, d)
		if err == nil {
			if err = out.schema.Validate(made); err == nil {
				return made, nil
			}
		}
		last = err
	}
	var none *unmet
	var bad *schema.Invalid
	switch {
	case errors.As(last, &none):
		return nil, gap(none.pointer, at(none.pointer)+none.why)
	case errors.As(last, &bad):
		return nil, gap(bad.Pointer, at(bad.Pointer)+"no value was found that is "+bad.Expected)
	default:
		return nil, last
	}
}

func at(pointer string) string {
	if pointer == "" {
		return ""
	}
	return "at " + pointer + " of its result, "
}

// request asks for a value that fits all of some subschemas.
type request struct {
	all     []*value
	pointer string
	name    string // of the property it is for, if any
	level   int
	listed  bool            // it is for something inside an array
	known   bool            // an object around the one it is for has an id of its own
	within  bool            // so would be known for what is inside the value
	open    []*value        // subschemas of references being followed around it
	taken   map[string]bool // what it may not be, where items have to differ
}

func (r *request) fail(format string, args ...any) error {
	return &unmet{pointer: r.pointer, why: fmt.Sprintf(format, args...)}
}

// value makes a value. Where the schema offers alternatives it tries them in an
// order drawn by the dice, until one can be met.
func (g *generator) value(r *request, d *dice) ([]byte, error) {
	if r.level > maxNested {
		return nil, r.fail("its schema goes on without end")
	}
	todo := make([]choice, len(r.all))
	for i, s := range r.all {
		todo[i].schema = s
	}
	return g.choose(r, todo, nil, d)
}

// choice is a subschema to be met or, without one, ways of which one is to be gone.
type choice struct {
	schema  *value
	ways    [][]*value
	place   string
	ordered bool // the first ways are the better ones
}

// choose moves subschemas from todo to done, following references and allOf, and goes one
// way of each choice; with all done it makes the value.
func (g *generator) choose(r *request, todo []choice, done []*value, d *dice) ([]byte, error) {
	todo = slices.Clone(todo)
	done = slices.Clone(done)
	for len(todo) > 0 {
		if err := g.spend(1); err != nil {
			return nil, err
		}
		next := todo[0]
		todo = todo[1:]
		s := next.schema
		if s == nil {
			return g.either(r, todo, done, d.at(next.place), &next)
		}
		if s.kind == 't' || slices.Contains(done, s) {
			continue
		}
		if s.kind != '{' {
			return nil, r.fail("its schema allows nothing")
		}
		done = append(done, s)
		for _, word := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
			ref := s.member(word)
			if ref == nil || ref.kind != '"' {
				continue
			}
			target := g.root.resolve(ref.text)
			if target == nil {
				return nil, r.fail("a reference leads nowhere")
			}
			r.open = append(slices.Clip(r.open), target)
			todo = append(todo, choice{schema: target})
		}
		if all := s.member("allOf"); all != nil {
			for _, part := range all.items {
				todo = append(todo, choice{schema: part})
			}
		}
		todo = append(todo, g.choices(s, strconv.Itoa(len(done)))...)
	}
	return g.make(r, done, d)
}

// choices are those that a subschema leaves. n tells them from those of others.
func (g *generator) choices(s *value, n string) []choice {
	var out []choice
	for _, word := range []string{"anyOf", "oneOf"} {
		forms := s.member(word)
		if forms == nil || len(forms.items) == 0 {
			continue
		}
		c := choice{place: word + n}
		for i, form := range forms.items {
			way := []*value{form}
			if word == "oneOf" && g.apart {
				for j, other := range forms.items {
					if j != i {
						way = append(way, g.refused(other))
					}
				}
			}
			c.ways = append(c.ways, way)
		}
		out = append(out, c)
	}
	if when := s.member("if"); when != nil && (s.member("then") != nil || s.member("else") != nil) {
		out = append(out, choice{place: "if" + n, ways: [][]*value{present(when, s.member("then")), present(g.refused(when), s.member("else"))}})
	}
	if not := s.member("not"); not != nil {
		ways := g.against(not)
		if len(ways) == 0 && len(not.names) > 0 {
			ways = [][]*value{{}} // perhaps by chance
		}
		out = append(out, choice{place: "not" + n, ordered: true, ways: ways})
	}
	for _, word := range []string{"dependentRequired", "dependentSchemas", "dependencies"} {
		rules := s.member(word)
		if rules == nil {
			continue
		}
		for _, name := range rules.names {
			rule := rules.members[name]
			if rule.kind == '[' {
				rule = object("required", rule)
			}
			out = append(out, choice{place: word + n + name, ways: [][]*value{{object("required", list(text(name))), rule}, {absent(name)}}})
		}
	}
	return out
}

func present(vs ...*value) []*value {
	return slices.DeleteFunc(vs, func(v *value) bool { return v == nil })
}

// either tries the ways of a choice. Deep inside a value, the plain ones come first.
func (g *generator) either(r *request, todo []choice, done []*value, d *dice, c *choice) ([]byte, error) {
	order := d.order(len(c.ways))
	switch {
	case c.ordered:
		slices.Sort(order)
	case r.level >= richLevel:
		slices.SortStableFunc(order, func(a, b int) int { return weight(c.ways[a]) - weight(c.ways[b]) })
	}
	first := r.fail("its schema allows nothing")
	for n, i := range order {
		open, on := r.open, slices.Clone(todo)
		for _, s := range c.ways[i] {
			on = append(on, choice{schema: s})
		}
		made, err := g.choose(r, on, done, d.at(strconv.Itoa(i)))
		r.open = open
		if err == nil || err == errSteps {
			return made, err
		}
		if n == 0 {
			first = err
		}
	}
	return nil, first
}

// weight is small for schemas that end here.
func weight(ways []*value) int {
	heavy := 0
	for _, s := range ways {
		for _, word := range []string{"$ref", "properties", "items", "anyOf", "oneOf", "allOf", "additionalProperties"} {
			if s.member(word) != nil {
				heavy++
			}
		}
	}
	return heavy
}

// types a value may have, in the order in which they are preferred.
var kindOrder = []string{"object", "array", "string", "integer", "number", "boolean", "null"}

// implied says which type a schema without one is about.
var implied = []struct{ kind, words string }{
	{"object", "properties required additionalProperties patternProperties minProperties propertyNames dependentRequired dependentSchemas"},
	{"array", "items prefixItems minItems maxItems uniqueItems contains"},
	{"string", "minLength maxLength pattern format"},
	{"number", "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"},
}

// make makes a value that fits all of the subschemas, whose references and
// alternatives are resolved.
func (g *generator) make(r *request, all []*value, d *dice) ([]byte, error) {
	if err := g.spend(1); err != nil {
		return nil, err
	}
	f := form{g: g, all: all}
	kinds := f.kinds()
	if len(kinds) == 0 {
		return nil, r.fail("no type is left that all parts of its schema allow")
	}
	if g.echo && r.name != "" && !(r.name == "id" && (r.listed || r.known)) {
		if arg, ok := g.given[r.name]; ok && f.accepts(arg, kinds, nil) {
			return g.take(arg.raw)
		}
	}
	for _, word := range []string{"const", "enum", "examples", "example", "default"} {
		var list *value
		var from []*value
		for _, v := range f.each(word) {
			list = v
			if from = v.items; word != "enum" && word != "examples" {
				from = []*value{v}
			}
			if len(from) > 0 {
				break
			}
		}
		if len(from) > 0 {
			start := d.at(word).below(len(from))
			for i := range from {
				v := from[(start+i)%len(from)]
				if err := g.spend(1 + len(v.raw)/64); err != nil {
					return nil, err
				}
				if !r.taken[string(v.raw)] && f.accepts(v, kinds, list) {
					return g.take(v.raw)
				}
			}
		}
		if (word == "const" || word == "enum") && f.has(word) {
			return nil, r.fail("its %s names no value that fits the rest of its schema", word)
		}
	}
	// Null is what a value may be when it is not known: now and then, and where
	// the value would otherwise go on without end.
	if len(kinds) > 1 && kinds[len(kinds)-1] == "null" {
		if r.level >= richLevel && f.nested(kinds[0]) || r.level > 0 && d.at("null").below(8) == 0 {
			return []byte("null"), nil
		}
	}
	var first error
	for _, kind := range kinds {
		made, err := g.ofKind(kind, r, &f, d.at(kind))
		for try := 0; err == nil && try < 20 && f.barred(made); try++ {
			made, err = g.ofKind(kind, r, &f, d.at(kind+strings.Repeat("'", try+1)))
		}
		if err == nil || err == errSteps {
			return made, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (g *generator) ofKind(kind string, r *request, f *form, d *dice) ([]byte, error) {
	switch kind {
	case "object":
		return g.object(r, f, d)
	case "array":
		return g.array(r, f, d)
	case "string":
		text, err := f.string(r.name, d)
		if err == errSteps {
			return nil, err
		}
		if err != nil {
			return nil, r.fail("%v", err)
		}
		return g.take(wire.AppendString(nil, text))
	case "integer", "number":
		text, err := f.number(kind == "integer", r.taken, d)
		if err != nil {
			return nil, r.fail("%v", err)
		}
		return g.take([]byte(text))
	case "boolean":
		return strconv.AppendBool(nil, d.below(2) == 1), nil
	default:
		return []byte("null"), nil
	}
}

func (g *generator) object(r *request, f *form, d *dice) ([]byte, error) {
	required := map[string]bool{}
	var names []string
	declared := map[string]bool{}
	add := func(name string) {
		if !declared[name] {
			declared[name] = true
			names = append(names, name)
		}
	}
	for _, s := range f.all {
		if p := s.member("properties"); p != nil {
			for _, name := range p.names {
				add(name)
			}
		}
	}
	for _, s := range f.all {
		if list := s.member("required"); list != nil {
			for _, name := range list.items {
				required[name.text] = true
				add(name.text)
			}
		}
	}

	wanted := map[string]bool{}
	least, most := f.largest("minProperties", 0), f.smallest("maxProperties", 1<<20)
	if len(required) > most {
		return nil, r.fail("its schema asks for more properties than it allows")
	}
	for _, name := range names {
		if f.mayHave(r, name, d) {
			wanted[name] = required[name] || r.level < richLevel && d.at("with "+name).below(8) != 0
		} else if required[name] {
			return nil, r.fail("its schema asks for the property %q and does not allow it", name)
		}
	}
	count := func() int {
		n := 0
		for _, name := range names {
			if wanted[name] {
				n++
			}
		}
		return n
	}
	for i := len(names) - 1; i >= 0 && count() > most; i-- {
		wanted[names[i]] = required[names[i]]
	}
	for i := 0; i < len(names) && count() < least; i++ {
		if _, may := wanted[names[i]]; may {
			wanted[names[i]] = true
		}
	}

	// A map has no names of its own.
	more := max(least-count(), 0)
	if len(names) == 0 && f.isMap() && r.level < richLevel {
		more = max(more, min(d.at("more").between(1, 3), most))
	}
	if more > 1000 {
		return nil, r.fail("%d properties are too many to make up", more)
	}
	for i := range more {
		name, err := f.extraName(r, i, declared, d)
		if err == errSteps {
			return nil, err
		}
		if err != nil {
			return nil, r.fail("%v", err)
		}
		add(name)
		wanted[name] = true
	}

	made := []byte{'{'}
	for _, name := range names {
		if !wanted[name] {
			continue
		}
		sub := &request{
			all: f.property(name), pointer: r.pointer + "/" + escapeToken(name), name: name,
			level: r.level + 1, listed: r.listed, open: r.open,
			known: r.within, within: r.within || declared["id"],
		}
		if !required[name] && g.returns(sub) {
			continue
		}
		v, err := g.value(sub, d.at("."+name))
		if err == errSteps || err != nil && required[name] {
			return nil, err
		}
		if err != nil {
			continue // it may be left out, and cannot be met
		}
		if len(made) > 1 {
			made = append(made, ',')
		}
		made = append(wire.AppendString(made, name), ':')
		made = append(made, v...)
	}
	return append(made, '}'), nil
}

// returns reports whether a request leads straight back to a reference that is
// being followed around it.
func (g *generator) returns(r *request) bool {
	seen := 0
	var leads func(s *value, depth int) bool
	leads = func(s *value, depth int) bool {
		if seen++; s == nil || seen > 64 || depth > 8 {
			return false
		}
		if s == g.root && r.level > 0 {
			return r.level >= 3
		}
		if ref := s.member("$ref"); ref != nil {
			target := g.root.resolve(ref.text)
			// Twice is what a tree needs to look like one.
			n := 0
			for _, o := range r.open {
				if o == target {
					n++
				}
			}
			if n >= 2 || leads(target, depth+1) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(r.all, func(s *value) bool { return leads(s, 0) })
}

var tokenEscape = strings.NewReplacer("~", "~0", "/", "~1")

func escapeToken(name string) string { return tokenEscape.Replace(name) }

// array makes an array. What it has to contain stands behind the items at fixed places
// or, if there may be none, among them.
func (g *generator) array(r *request, f *form, d *dice) ([]byte, error) {
	prefix := 0
	for _, s := range f.all {
		prefix = max(prefix, len(f.prefix(s)))
	}
	from := 0
	if f.has("contains") {
		from = prefix
	}
	for ; ; from-- {
		made, err := g.arrayWith(r, f, prefix, from, d)
		if err == nil || err == errSteps || from == 0 {
			return made, err
		}
	}
}

// arrayWith makes an array whose items from some place on are what it has to contain.
func (g *generator) arrayWith(r *request, f *form, prefix, from int, d *dice) ([]byte, error) {
	least, most := f.largest("minItems", 0), f.smallest("maxItems", 1<<20)
	length, end := least, from
	wanted := map[int]*value{} // by place
	for _, s := range f.all {
		if what := s.member("contains"); what != nil {
			for range min(s.count("minContains", 1), 1000) {
				wanted[end] = what
				end++
			}
		}
	}
	if end > from {
		length = max(length, end)
	}
	item := func(i int) *request {
		sub := &request{
			pointer: r.pointer + "/" + strconv.Itoa(i), name: r.name, level: r.level + 1, listed: true, open: r.open,
			all: f.item(i),
		}
		if what := wanted[i]; what != nil {
			sub.all = append(sub.all, what)
		} else if len(sub.all) == 0 {
			sub.all = f.each("unevaluatedItems")
		}
		for _, s := range f.all {
			if what := s.member("contains"); what != nil && what != wanted[i] && s.member("maxContains") != nil {
				sub.all = append(sub.all, g.refused(what))
			}
		}
		return sub
	}
	if r.level < richLevel && !g.returns(item(prefix)) {
		length = max(length, prefix, min(d.at("length").between(1, 3), most))
	}
	if length > most && least <= most {
		length = max(least, most)
	}
	if length < end {
		return nil, r.fail("its schema asks for more items than it allows")
	}
	if length > 1000 {
		return nil, r.fail("%d items are too many to make up", length)
	}

	var taken map[string]bool
	if f.has("uniqueItems") {
		taken = map[string]bool{}
	}
	var items [][]byte
	for i := range length {
		var v []byte
		var err error
		for try := range 20 {
			sub := item(i)
			sub.taken = taken
			v, err = g.value(sub, d.at(strconv.Itoa(i)+strings.Repeat("'", try)))
			if err != nil || !taken[string(v)] {
				break
			}
			err = r.fail("no more items were found that differ")
		}
		if err != nil {
			if i >= least && i >= end && err != errSteps {
				break // fewer will do
			}
			return nil, err
		}
		if taken != nil {
			taken[string(v)] = true
		}
		items = append(items, v)
	}
	made := append([]byte{'['}, bytes.Join(items, []byte{','})...)
	return append(made, ']'), nil
}

// form is a set of subschemas that one value has to fit, all of them.
type form struct {
	g   *generator
	all []*value
}

func (f *form) has(word string) bool {
	return slices.ContainsFunc(f.all, func(s *value) bool {
		m := s.member(word)
		return m != nil && m.kind != 'f'
	})
}

// each are the values a keyword has.
func (f *form) each(word string) []*value {
	var out []*value
	for _, s := range f.all {
		if m := s.member(word); m != nil {
			out = append(out, m)
		}
	}
	return out
}

func (f *form) largest(word string, otherwise int) int {
	n, found := 0, false
	for _, s := range f.all {
		if c := s.count(word, -1); c >= 0 {
			n, found = max(n, c), true
		}
	}
	if !found {
		return otherwise
	}
	return n
}

func (f *form) smallest(word string, otherwise int) int {
	for _, s := range f.all {
		otherwise = min(otherwise, s.count(word, otherwise))
	}
	return otherwise
}

// kinds are the types that all of the subschemas allow, preferred ones first.
func (f *form) kinds() []string {
	kinds, typed := kindOrder, false
	for _, t := range f.each("type") {
		typed = true
		allowed := t.items
		if t.kind == '"' {
			allowed = []*value{t}
		}
		var left []string
		for _, kind := range kinds {
			if slices.ContainsFunc(allowed, func(a *value) bool {
				return a.text == kind || a.text == "number" && kind == "integer"
			}) {
				left = append(left, kind)
			}
		}
		kinds = left
	}
	if typed {
		// Where numbers are wanted, whole ones are not preferred.
		if i := slices.Index(kinds, "integer"); i >= 0 && slices.Contains(kinds, "number") {
			kinds = slices.Delete(slices.Clone(kinds), i, i+1)
		}
		return kinds
	}
	if f.has("const") || f.has("enum") {
		return kinds
	}
	for _, guess := range implied {
		for _, word := range strings.Fields(guess.words) {
			if f.has(word) {
				return []string{guess.kind}
			}
		}
	}
	return []string{"string"}
}

// nested reports whether a value of the kind could hold further values.
func (f *form) nested(kind string) bool { return kind == "object" || kind == "array" }

// accepts reports whether a value from elsewhere can stand here: by its type and,
// where it is a scalar, by every keyword that speaks of scalars. The parts of
// objects and arrays are left to the final check. The value is known to be in list.
func (f *form) accepts(v *value, kinds []string, list *value) bool {
	if !slices.ContainsFunc(kinds, func(kind string) bool { return v.isA(kind) }) {
		return false
	}
	for _, s := range f.all {
		if c := s.member("const"); c != nil && !equal(c, v) {
			return false
		}
		if e := s.member("enum"); e != nil && e != list {
			f.g.steps += len(e.items) / 16
			if !slices.ContainsFunc(e.items, func(o *value) bool { return equal(o, v) }) {
				return false
			}
		}
	}
	if f.bars(v) {
		return false
	}
	switch v.kind {
	case '"':
		return f.fitsText(v.text) == nil
	case '0':
		return f.fitsNumber(v)
	}
	return true
}

func (v *value) isA(kind string) bool {
	switch kind {
	case "object":
		return v.kind == '{'
	case "array":
		return v.kind == '['
	case "string":
		return v.kind == '"'
	case "boolean":
		return v.kind == 't' || v.kind == 'f'
	case "null":
		return v.kind == 'n'
	case "number":
		return v.kind == '0'
	default:
		n, ok := number(v)
		return ok && n.IsInt()
	}
}

func equal(a, b *value) bool {
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case '"':
		return a.text == b.text
	case '0':
		x, ok1 := number(a)
		y, ok2 := number(b)
		return ok1 && ok2 && x.Cmp(y) == 0
	case '[':
		return slices.EqualFunc(a.items, b.items, equal)
	case '{':
		if len(a.names) != len(b.names) {
			return false
		}
		for _, name := range a.names {
			if other := b.member(name); other == nil || !equal(a.members[name], other) {
				return false
			}
		}
	}
	return true
}

// maxNumberText keeps a number from being expanded to megabytes.
const maxNumberText = 512

func number(v *value) (*big.Rat, bool) {
	if v == nil || v.kind != '0' || len(v.raw) > maxNumberText {
		return nil, false
	}
	if e := bytes.IndexAny(v.raw, "eE"); e >= 0 {
		if exp, err := strconv.Atoi(string(v.raw[e+1:])); err != nil || exp > 1000 || exp < -1000 {
			return nil, false
		}
	}
	return new(big.Rat).SetString(string(v.raw))
}

// prefix and rest are the items at fixed places and all others, in the words of
// either draft.
func (f *form) prefix(s *value) []*value {
	if p := s.member("prefixItems"); p != nil {
		return p.items
	}
	if p := s.member("items"); p != nil && p.kind == '[' {
		return p.items
	}
	return nil
}

func (f *form) rest(s *value) *value {
	rest := s.member("items")
	if rest != nil && rest.kind == '[' {
		return s.member("additionalItems")
	}
	return rest
}

// item are the subschemas that judge the i-th item, from 0, for its place.
func (f *form) item(i int) []*value {
	var out []*value
	for _, s := range f.all {
		if p := f.prefix(s); i < len(p) {
			out = append(out, p[i])
		} else if rest := f.rest(s); rest != nil {
			out = append(out, rest)
		}
	}
	return out
}

// property are the subschemas that judge a member.
func (f *form) property(name string) []*value {
	var out []*value
	for _, s := range f.all {
		judged := false
		if p := s.member("properties").member(name); p != nil {
			out, judged = append(out, p), true
		}
		if patterns := s.member("patternProperties"); patterns != nil {
			for _, text := range patterns.names {
				if re := f.g.pattern(text); re != nil && re.MatchString(name) {
					out, judged = append(out, patterns.members[text]), true
				}
			}
		}
		if more := s.member("additionalProperties"); more != nil && !judged {
			out = append(out, more)
		}
	}
	if len(out) == 0 {
		return f.each("unevaluatedProperties")
	}
	return out
}

// mayHave reports whether a member may have that name.
func (f *form) mayHave(r *request, name string, d *dice) bool {
	if slices.ContainsFunc(f.property(name), func(s *value) bool { return s.kind == 'f' }) {
		return false
	}
	rules := f.each("propertyNames")
	if len(rules) == 0 {
		return true
	}
	only := &request{all: append(rules, object("const", text(name))), pointer: r.pointer, level: r.level + 1}
	_, err := f.g.value(only, d)
	return err == nil
}

// isMap reports whether an object is there for members without declared names.
func (f *form) isMap() bool {
	for _, s := range f.all {
		for _, word := range []string{"additionalProperties", "unevaluatedProperties"} {
			if more := s.member(word); more != nil && more.kind == '{' {
				return true
			}
		}
		if s.member("patternProperties") != nil {
			return true
		}
	}
	return false
}

// extraName makes up a name for a member that is not declared.
func (f *form) extraName(r *request, i int, taken map[string]bool, d *dice) (string, error) {
	rules := f.each("propertyNames")
	var patterns []string
	for _, p := range f.each("patternProperties") {
		patterns = append(patterns, p.names...)
	}
	for try := range 20 {
		place := d.at("name" + strconv.Itoa(i) + strings.Repeat("'", try))
		name := pick(place, nouns)
		switch {
		case len(patterns) > 0:
			made, err := f.g.matching(pick(place, patterns), 3, place)
			if err != nil {
				return "", err
			}
			if name = made; try > 3 { // a pattern without an end
				name += letters(place, lower32, 1+try/4)
			}
		case len(rules) > 0:
			made, err := f.g.value(&request{all: append(rules, object("type", text("string"))), pointer: r.pointer, level: r.level + 1}, place)
			if err != nil {
				return "", err
			}
			if name, err = wire.DecodeString(made); err != nil {
				return "", err
			}
		case try > 4:
			name += strconv.Itoa(i + try)
		}
		if name != "" && !taken[name] && f.mayHave(r, name, place) {
			return name, nil
		}
	}
	return "", errors.New("no more names were found for its properties")
}
