package draft

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sallyport/internal/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

func text2val(text string) *val {
	return &val{kind: '"', text: text, raw: string(wire.AppendString(nil, text))}
}

func object(names []string, items []*val) *val {
	b := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(wire.AppendString(b, name), ':')
		b = append(b, items[i].raw...)
	}
	return &val{kind: '{', names: names, items: items, raw: string(append(b, '}'))}
}

// rule is one way in which a tool could be answered.
type rule struct {
	binding *tree
	why     why
	tables  []*table // that have to be there
}

// tree is a part of a definition: an expression, or members in their order.
type tree struct {
	leaf  string // Starlark, or the name of a table
	raw   bool   // leaf is JSON
	names []string
	items []*tree
	list  bool
}

func leaf(format string, args ...any) *tree { return &tree{leaf: fmt.Sprintf(format, args...)} }

// members makes a tree of names and what they are, in turn; nil is left out.
func members(pairs ...any) *tree {
	t := &tree{}
	for i := 0; i < len(pairs); i += 2 {
		var item *tree
		switch v := pairs[i+1].(type) {
		case string:
			item = &tree{leaf: v}
		case *tree:
			item = v
		}
		if item != nil {
			t.names, t.items = append(t.names, pairs[i].(string)), append(t.items, item)
		}
	}
	return t
}

func steps(all ...*tree) *tree {
	t := &tree{list: true}
	for _, s := range all {
		if s != nil {
			t.items = append(t.items, s)
		}
	}
	return members("steps", t)
}

// methods are what objects have in Starlark: a member of such a name is not reached by
// a dot.
var methods = []string{"clear", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values",
	"and", "else", "for", "if", "in", "lambda", "not", "or", "def", "return", "pass", "load", "while", "break", "continue", "elif",
	"as", "assert", "async", "await", "class", "del", "except", "finally", "from", "global", "import", "is", "nonlocal", "raise", "try", "with", "yield"}

// of is a member of an object as an expression; of one that need not be there, get.
func of(base, name string, there bool) string {
	quoted := quote(name)
	if !there {
		return base + ".get(" + quoted + ")"
	}
	plain := name != "" && !slices.Contains(methods, name)
	for i, r := range name {
		plain = plain && (r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9')
	}
	if plain {
		return base + "." + name
	}
	return base + "[" + quoted + "]"
}

// quote is a string of Starlark.
func quote(s string) string { return string(wire.AppendString(nil, s)) }

// keyIn is the key of a table in a row that is called base.
func (t *table) keyIn(base string) string {
	if len(t.key) == 1 {
		return of(base, t.key[0], true)
	}
	parts := make([]string, len(t.key))
	for i, k := range t.key {
		parts[i] = of(base, k, true)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// oneKey is the argument that names one row of a table, manyKeys one that names
// several.
func (t *tool) oneKey(to *table) *member {
	if len(to.key) != 1 {
		return nil
	}
	for i := range t.in.members {
		if m := &t.in.members[i]; m.shape.scalar() && m.required && (to.namesKey(m.name, to.key[0], false) || keyName(m.name, to.one) >= 0.9 && keyName(to.key[0], to.one) >= 0.9) {
			return m
		}
	}
	return nil
}

func (t *tool) manyKeys(to *table) *member {
	if len(to.key) != 1 {
		return nil
	}
	for i := range t.in.members {
		if m := &t.in.members[i]; m.shape.is('[') && m.shape.items.scalar() && (to.namesKey(m.name, to.key[0], true) || keyName(singular(m.name), to.one) >= 0.9) {
			return m
		}
	}
	return nil
}

// rulesOf are the rules a tool could have, the likeliest first.
func (d *drafter) rulesOf(t *tool) []rule {
	places := d.placesOf(t)
	var rules []rule
	switch t.verb {
	case list, get:
		if ok, says := t.hinted("readOnlyHint"); says && !ok {
			break // it sounds like a read, and is none
		}
		rules = append(rules, d.reading(t, places)...)
	case create, put:
		rules = append(rules, d.creating(t, places)...)
	case patch:
		rules = append(rules, d.patching(t, places)...)
	case remove:
		rules = append(rules, d.removing(t)...)
	default:
		if t.reads {
			rules = append(rules, d.reading(t, places)...)
		}
	}
	if len(rules) == 0 || t.reads {
		rules = append(rules, d.saying(t)...)
	}
	t.base(rules)
	return rules
}

// base lets annotations count: a name that they contradict is not believed.
func (t *tool) base(rules []rule) {
	for i := range rules {
		w := &rules[i].why
		reads := t.looks()
		if ok, says := t.hinted("readOnlyHint"); says && ok == reads {
			w.raise(0.3, "its annotation says so, too")
		} else if says {
			w.lower(0.8, "its annotation says otherwise")
		}
		if ok, says := t.hinted("destructiveHint"); says && ok && t.verb == create {
			w.lower(0.3, "it is annotated as destructive")
		}
	}
}

// answer is the expression of a tool's answer, if its members are known: given are
// those that a rule has something for.
func (d *drafter) answer(t *tool, given map[string]string, row string, w *why) *tree {
	if whole, ok := given[""]; ok {
		return leaf("%s", whole)
	}
	good := t.good()
	if len(good) > 0 {
		if e := explain(good, func(c *recorded) *val { return c.answer }, given, row, "", w); e != nil {
			return e
		}
		w.lower(0.5, "its recorded answers are not understood")
		return nil
	}
	if !t.out.is('{') || len(t.out.members) == 0 {
		return nil
	}
	out := &tree{}
	for _, m := range t.out.members {
		e := ""
		switch arg := t.in.member(m.name); {
		case given[m.name] != "":
			e = given[m.name]
		case row != "":
			e = of(row, m.name, false)
		case arg != nil && arg.shape.kind == m.shape.kind:
			e = of("args", m.name, arg.required)
			w.lower(0.1, "%s of the answer may be the argument", m.name)
		case m.shape.kind == 'b':
			e = "True"
			w.lower(0.3, "nobody knows %s of the answer", m.name)
		case !m.required:
			continue
		case m.shape.kind == '"':
			e = quote("")
			w.lower(0.5, "nobody knows %s of the answer", m.name)
		default:
			e = "None"
			w.lower(0.7, "nobody knows %s of the answer", m.name)
		}
		out.names, out.items = append(out.names, m.name), append(out.items, leaf("%s", e))
	}
	return out
}

// explain makes one expression of what several calls answered: from what is given, the
// arguments, the row, and what is always the same. It is nil if there is none.
func explain(calls []*recorded, at func(*recorded) *val, given map[string]string, row, name string, w *why) *tree {
	if e := given[name]; e != "" {
		return leaf("%s", e)
	}
	first := at(calls[0])
	if first == nil {
		return nil
	}
	constant, kinds := true, true
	for _, c := range calls[1:] {
		v := at(c)
		if v == nil {
			return nil
		}
		constant = constant && v.raw == first.raw
		kinds = kinds && v.kind == first.kind
	}
	if e, ok := argument(calls, at); ok && (first.kind != 't' && first.kind != 'f' || !constant) {
		return e
	}
	if first.kind == '{' && kinds && !slices.ContainsFunc(calls, func(c *recorded) bool { return !slices.Equal(at(c).names, first.names) }) {
		out := &tree{}
		for _, m := range first.names {
			e := explain(calls, func(c *recorded) *val { return at(c).member(m) }, given, row, m, w)
			if e == nil {
				return nil
			}
			out.names, out.items = append(out.names, m), append(out.items, e)
		}
		return out
	}
	if e, ok := template(calls, at); first.kind == '"' && kinds && ok && strings.Contains(e.leaf, "args") {
		return e
	}
	if constant {
		if len(calls) == 1 && (first.kind == '"' || len(first.items) > 0) {
			w.lower(0.15, "%s was recorded once and may not always be the same", orAnswer(name))
		}
		return literal(first)
	}
	if row != "" && name != "" {
		return leaf("%s", of(row, name, false))
	}
	return nil
}

func orAnswer(name string) string {
	if name == "" {
		return "the answer"
	}
	return name
}

// literal is a value as an expression.
func literal(v *val) *tree {
	switch v.kind {
	case '"':
		return leaf("%s", quote(v.text))
	case '{', '[':
		out := &tree{list: v.kind == '[', names: v.names}
		for _, item := range v.items {
			out.items = append(out.items, literal(item))
		}
		if len(out.items) > 0 {
			return out
		}
	}
	return &tree{leaf: v.raw, raw: true}
}

// argument is the one that all calls answered with.
func argument(calls []*recorded, at func(*recorded) *val) (*tree, bool) {
	for i, name := range calls[0].args.names {
		if v := at(calls[0]); v.kind == 'n' || !same(v, calls[0].args.items[i]) {
			continue
		}
		if !slices.ContainsFunc(calls, func(c *recorded) bool { return !same(at(c), c.arg(name)) }) {
			return leaf("%s", of("args", name, true)), true
		}
	}
	return nil, false
}

// leastPart is how long an argument has to be to be taken for a part of a text.
const leastPart = 4

// template is a text in which arguments stand.
func template(calls []*recorded, at func(*recorded) *val) (*tree, bool) {
	type part struct{ text, arg string }
	parts := []part{{text: at(calls[0]).text}}
	var names []string
	for i, name := range calls[0].args.names {
		if v := calls[0].args.items[i]; v.scalar() && len(v.text) >= leastPart {
			names = append(names, name)
		}
	}
	// Longer values first: one may be a part of another.
	slices.SortStableFunc(names, func(a, b string) int { return len(calls[0].arg(b).text) - len(calls[0].arg(a).text) })
	for _, name := range names {
		value := calls[0].arg(name).text
		var next []part
		for _, p := range parts {
			if p.arg != "" {
				next = append(next, p)
				continue
			}
			for i, piece := range strings.Split(p.text, value) {
				if i > 0 {
					next = append(next, part{arg: name})
				}
				if piece != "" {
					next = append(next, part{text: piece})
				}
			}
		}
		parts = next
	}
	for _, c := range calls {
		text := ""
		for _, p := range parts {
			if p.arg == "" {
				text += p.text
			} else if v := c.arg(p.arg); v != nil {
				text += v.text
			}
		}
		if text != at(c).text {
			return nil, false
		}
	}
	var all []string
	for _, p := range parts {
		if p.arg == "" {
			all = append(all, quote(p.text))
		} else if calls[0].arg(p.arg).kind == '"' {
			all = append(all, of("args", p.arg, true))
		} else {
			all = append(all, "str("+of("args", p.arg, true)+")")
		}
	}
	return leaf("%s", strings.Join(all, " + ")), true
}

// failure is what a tool says when it fails, as an expression; constant reports whether
// it always says the same.
func (t *tool) failure() (expression string, constant, ok bool) {
	groups := map[string][]*recorded{}
	var order []string
	for _, c := range t.calls {
		if c.isError && c.answer != nil && c.answer.kind == '"' {
			// What one text is, the arguments apart.
			key := c.answer.text
			leaves(c.args, func(v *val) {
				if len(v.text) >= leastPart {
					key = strings.ReplaceAll(key, v.text, "\x00")
				}
			})
			if groups[key] == nil {
				order = append(order, key)
			}
			groups[key] = append(groups[key], c)
		}
	}
	best := ""
	for _, key := range order {
		if best == "" || len(groups[key]) > len(groups[best]) {
			best = key
		}
	}
	if best == "" {
		return "", false, false
	}
	calls := groups[best]
	e, ok := template(calls, func(c *recorded) *val { return c.answer })
	if !ok {
		return "", false, false
	}
	return e.leaf, !strings.Contains(best, "\x00"), true
}

// reading are the rules of a tool that gives rows.
func (d *drafter) reading(t *tool, places []place) []rule {
	var rules []rule
	for _, table := range d.tables {
		if table.value != "" {
			rules = append(rules, d.readingStore(t, table)...)
		}
	}
	if len(places) == 0 {
		return rules
	}
	main := places[0]
	for _, p := range places { // the one that others refer to
		if slices.ContainsFunc(places, func(o place) bool {
			return slices.ContainsFunc(o.table.refs, func(r ref) bool { return r.to == p.table })
		}) {
			main = p
			break
		}
	}
	if !main.list {
		return append(rules, d.readingOne(t, main)...)
	}
	var tables []*table
	for _, p := range places {
		tables = append(tables, p.table)
	}
	for _, f := range d.filters(t, main.table) {
		w := why{p: 0.6}
		w.say("it reads %s, by its name and answers", main.table.name)
		w.p *= f.p
		w.reasons = append(w.reasons, f.says)
		rows := "tables." + main.table.name + ".rows()"
		if f.where != "" {
			rows = fmt.Sprintf("[row for row in tables.%s.rows() if %s]", main.table.name, f.where)
		}
		if len(places) == 1 && main.member == "" && f.match == nil {
			binding := members("list", main.table.name)
			if f.where != "" {
				binding = members("list", main.table.name, "where", f.where)
			}
			rules = append(rules, rule{binding, w, tables})
			continue
		}
		if f.match != nil && len(places) == 1 && main.member == "" {
			rules = append(rules, rule{members("list", main.table.name, "match", f.match), w, tables})
			continue
		}
		if len(places) == 1 || f.where == "" {
			given := map[string]string{}
			for _, p := range places {
				given[p.member] = "tables." + p.table.name + ".rows()"
			}
			given[main.member] = rows
			own := w.clone()
			if a := d.answer(t, given, "", &own); a != nil {
				rules = append(rules, rule{members("return", a), own, tables})
			}
			continue
		}
		// Rows of other tables that belong to those that were found.
		for _, how := range []string{" and ", " or ", ""} {
			own := w.clone()
			given := map[string]string{main.member: "found"}
			for _, p := range places {
				if p.member == main.member {
					continue
				}
				var ends []string
				for _, r := range p.table.refs {
					if r.to == main.table {
						ends = append(ends, of("row", r.field, true)+" in keys")
					}
				}
				given[p.member] = "tables." + p.table.name + ".rows()"
				if len(ends) > 0 && how != "" {
					given[p.member] = fmt.Sprintf("[row for row in tables.%s.rows() if %s]", p.table.name, strings.Join(ends, how))
				}
			}
			if a := d.answer(t, given, "", &own); a != nil {
				own.say("with the rows of other tables that refer to them")
				rules = append(rules, rule{steps(members("let", "found", "be", rows), members("let", "keys", "be", "["+main.table.keyIn("row")+" for row in found]"), members("return", a)), own, tables})
			}
		}
	}
	return rules
}

// filter is one way in which arguments choose rows.
type filter struct {
	where string
	match *tree
	p     float64
	says  string
}

// asks are names of arguments that hold words to look for.
var asks = []string{"query", "q", "search", "keyword", "keywords", "term", "text", "search_query", "search_term", "filter"}

// pages are names of arguments that only cut.
var pages = []string{"limit", "offset", "page", "per_page", "page_size", "count", "max_results", "cursor", "page_token", "top", "skip", "n", "start", "end"}

func (d *drafter) filters(t *tool, table *table) []filter {
	if many := t.manyKeys(table); many != nil {
		return []filter{{where: table.keyIn("row") + " in " + of("args", many.name, true), p: 1.4, says: many.name + " are keys"}}
	}
	var parts []string
	var out []filter
	p, left := 1.3, 0
	var texts []string
	for _, m := range table.row.members {
		switch {
		case m.shape.is('"'):
			text := of("row", m.name, m.required)
			if !m.required {
				text = "(" + text + ` or "")`
			}
			texts = append(texts, text)
		case m.shape.is('[') && m.shape.items.is('"'):
			items := of("row", m.name, m.required)
			if !m.required {
				items = "(" + items + " or [])"
			}
			texts = append(texts, quote("\n")+".join("+items+")")
		}
	}
	for _, m := range t.in.members {
		plain := strings.Join(split(m.name), "_")
		switch {
		case slices.Contains(pages, plain):
			left++
		case m.shape.is('"') && slices.Contains(asks, plain) && len(texts) > 0:
			// Any text of the row, whatever its case.
			var in []string
			for _, text := range texts {
				in = append(in, of("args", m.name, true)+".lower() in "+text+".lower()")
			}
			found := "(" + strings.Join(in, " or ") + ")"
			if !m.required {
				found = "(" + of("args", m.name, false) + " == None or " + found + ")"
			}
			parts = append(parts, found)
			p *= 0.6
		case table.row.member(m.name) != nil && m.shape.scalar():
			equal := of("row", m.name, table.row.member(m.name).required) + " == " + of("args", m.name, true)
			if !m.required {
				equal = "(" + of("args", m.name, false) + " == None or " + equal + ")"
			}
			parts = append(parts, equal)
			p *= 0.95
		default:
			left++
		}
	}
	if left > 0 {
		p *= 0.5
	}
	says := "all of them"
	if len(parts) > 0 {
		says = "those that the arguments fit"
	}
	if left > 0 {
		says += "; what other arguments do is not known"
	}
	out = append(out, filter{where: strings.Join(parts, " and "), p: p, says: says})
	return out
}

// readingOne are the rules of a tool that gives one row.
func (d *drafter) readingOne(t *tool, p place) []rule {
	key := t.oneKey(p.table)
	if key == nil {
		return d.readingFirst(t, p)
	}
	w := why{p: 0.75}
	w.say("it gives one of %s by %s", p.table.name, key.name)
	if len(t.in.members) > 1 {
		w.lower(0.2, "it has other arguments, too")
	}
	binding := members("get", p.table.name, "key", of("args", key.name, true))
	if said, constant, ok := t.failure(); ok {
		if text := strings.TrimSpace(said); constant {
			binding = members("get", p.table.name, "key", of("args", key.name, true), "missing", unquote(text))
		} else {
			binding = steps(members("let", "row", "be", fmt.Sprintf("tables.%s.get(%s) or fail(%s)", p.table.name, of("args", key.name, true), said)), members("return", "row"))
		}
	}
	rules := []rule{{binding, w, uses(p.table)}}
	// A part of the row.
	var fields []string
	whole := true
	for _, m := range t.out.members {
		fields = append(fields, m.name)
	}
	for _, m := range p.table.row.members {
		whole = whole && slices.Contains(fields, m.name)
	}
	if !whole && binding.names[0] == "get" {
		part := &tree{list: true}
		for _, f := range fields {
			part.items = append(part.items, leaf("%s", f))
		}
		some := *binding
		some.names, some.items = append(slices.Clone(binding.names), "fields"), append(slices.Clone(binding.items), part)
		own := w.clone()
		own.say("and answers with a part of it")
		rules = append([]rule{{&some, own, uses(p.table)}}, rules...)
	}
	return rules
}

// readingFirst are the rules of a tool that gives the row whose members are what its
// arguments say.
func (d *drafter) readingFirst(t *tool, p place) []rule {
	var parts []string
	for _, m := range t.in.members {
		own := p.table.row.member(m.name)
		if own == nil || !own.shape.scalar() || !m.required {
			return nil
		}
		parts = append(parts, of("row", m.name, own.required)+" == "+of("args", m.name, true))
	}
	if len(parts) == 0 {
		return nil
	}
	w := why{p: 0.6}
	w.say("it gives the one of %s that its arguments fit", p.table.name)
	said := quote("not found")
	if text, _, ok := t.failure(); ok {
		said = text
		w.raise(0.2, "what it says when there is none was recorded")
	}
	return []rule{{steps(
		members("let", "found", "be", fmt.Sprintf("[row for row in tables.%s.rows() if %s] or fail(%s)", p.table.name, strings.Join(parts, " and "), said)),
		members("return", "found[0]")), w, uses(p.table)}}
}

func unquote(quoted string) string {
	text, err := wire.DecodeString([]byte(quoted))
	if err != nil {
		return quoted
	}
	return text
}

// readingStore are the rules of a tool that gives the content of what a key names.
func (d *drafter) readingStore(t *tool, table *table) []rule {
	key := t.in.member(table.key[0])
	if key == nil || !key.required || !key.shape.scalar() || !(t.out.is('"') || t.out.is('{') && len(t.out.members) == 1 && t.out.members[0].shape.is('"')) {
		return nil
	}
	seen := 0
	for _, w := range d.tools {
		if !w.reads && w.in.member(table.value) != nil {
			seen += roundTrips(w, t, table.key[0], table.value)
		}
	}
	if seen == 0 {
		return nil
	}
	w := why{p: 0.7}
	w.say("it answers what was written for the same %s: seen %s", key.name, times(seen))
	given := of("row", table.value, true)
	var a *tree
	if t.out.is('{') {
		a = members(t.out.members[0].name, given)
	} else {
		a = leaf("%s", given)
	}
	said := quote("not found")
	if text, _, ok := t.failure(); ok {
		said = text
		w.raise(0.2, "what it says when there is nothing was recorded")
	} else {
		for _, other := range d.tools {
			if text, _, ok := other.failure(); ok && other.looks() && other.in.member(key.name) != nil && strings.Contains(text, of("args", key.name, true)) {
				said = text
				w.say("that there is nothing it is taken to say as %s does", other.name)
				break
			}
		}
	}
	var others []*tree
	for _, m := range t.in.members {
		if m.name != key.name && !m.required {
			others = append(others, members("require", of("args", m.name, false)+" == None", "else", m.name+" is not known here"))
			w.lower(0.05, "%s is not understood", m.name)
		}
	}
	var all []*tree
	all = append(all, others...)
	all = append(all, members("let", "row", "be", fmt.Sprintf("tables.%s.get(%s) or fail(%s)", table.name, of("args", key.name, true), said)), members("return", a))
	return []rule{{steps(all...), w, uses(table)}}
}

// creating are the rules of a tool that makes rows.
func (d *drafter) creating(t *tool, places []place) []rule {
	var rules []rule
	noun := strings.Join(nounOf(t.noun), "_")
	for _, table := range d.tables {
		if table.value != "" {
			if t.in.member(table.key[0]) != nil && t.in.member(table.value) != nil && sameNoun(noun, table.name) {
				rules = append(rules, d.writing(t, table)...)
			}
			continue
		}
		if !sameNoun(noun, table.name) {
			continue
		}
		for _, m := range t.in.members {
			if !m.shape.rows() || !sameNoun(m.name, table.name) {
				continue
			}
			for _, how := range []struct{ skip, says string }{
				{" if " + table.keyIn("row") + " not in tables." + table.name, "what is there already is left out"},
				{"", "what is there already is an error"},
			} {
				w := why{p: 0.65}
				w.say("it makes %s of %s", table.name, m.name)
				w.say("%s", how.says)
				given := map[string]string{}
				for _, p := range places {
					if p.table == table {
						given[p.member] = "made"
					}
				}
				a := d.answer(t, given, "", &w)
				if a == nil {
					continue
				}
				rules = append(rules, rule{steps(
					members("let", "made", "be", fmt.Sprintf("[tables.%s.insert(row) for row in %s%s]", table.name, of("args", m.name, true), how.skip)),
					members("return", a)), w, uses(table)})
			}
		}
		if len(rules) > 0 {
			continue
		}
		known := 0
		for _, m := range t.in.members {
			if table.row.member(m.name) != nil {
				known++
			}
		}
		if known == 0 {
			continue
		}
		w := why{p: 0.6}
		w.say("it makes one of %s of its arguments", table.name)
		if known < len(t.in.members) {
			w.lower(0.2, "%d of its %d arguments are no members of a row", len(t.in.members)-known, len(t.in.members))
		}
		if table.id == nil && t.in.member(table.key[0]) == nil {
			w.lower(0.1, "how its ids look is not known")
		}
		binding := members("create", table.name)
		one := slices.ContainsFunc(places, func(p place) bool { return p.table == table && !p.list && p.member == "" })
		if !one {
			a := d.answer(t, nil, "row", &w)
			if a == nil {
				w.lower(0.3, "what it answers is not known")
			} else {
				binding = members("create", table.name, "return", a)
			}
		} else {
			// Members that are the same for every row that was made.
			set := &tree{}
			for _, m := range t.in.members {
				if m.required {
					set.names, set.items = append(set.names, m.name), append(set.items, leaf("%s", of("args", m.name, true)))
				}
			}
			more := false
			if good := t.good(); len(good) > 0 {
				for i, name := range good[0].answer.names {
					if t.in.member(name) == nil && !slices.Contains(table.key, name) {
						v := good[0].answer.items[i]
						if !slices.ContainsFunc(good, func(c *recorded) bool { return !same(v, c.answer.member(name)) }) && v.scalar() {
							set.names, set.items = append(set.names, name), append(set.items, literal(v))
							more = true
						}
					}
				}
			}
			if more {
				own := w.clone()
				own.say("with members that were the same in all recorded answers")
				rules = append(rules, rule{members("create", table.name, "set", set), own, uses(table)})
			}
		}
		rules = append(rules, rule{binding, w, uses(table)})
	}
	return rules
}

// writing are the rules of a tool that makes or replaces what a key names.
func (d *drafter) writing(t *tool, table *table) []rule {
	w := why{p: 0.7}
	w.say("it writes %s by %s", table.name, table.key[0])
	if ok, says := t.hinted("idempotentHint"); says && ok {
		w.raise(0.2, "it is annotated as idempotent")
	}
	a := d.answer(t, nil, "", &w)
	if a == nil {
		return nil
	}
	key := of("args", table.key[0], true)
	set := members(table.value, of("args", table.value, true))
	whole := members(table.key[0], key, table.value, of("args", table.value, true))
	return []rule{{steps(
		members("when", key+" in tables."+table.name, "update", table.name, "key", key, "set", set),
		members("when", key+" not in tables."+table.name, "insert", table.name, "set", whole),
		members("return", a)), w, uses(table)}}
}

// patching are the rules of a tool that changes members of a row.
func (d *drafter) patching(t *tool, places []place) []rule {
	noun := strings.Join(nounOf(t.noun), "_")
	var rules []rule
	for _, table := range d.tables {
		if !sameNoun(noun, table.name) || table.value != "" {
			continue
		}
		key := t.oneKey(table)
		if key == nil {
			continue
		}
		w := why{p: 0.65}
		w.say("it changes one of %s by %s", table.name, key.name)
		for _, m := range t.in.members {
			if m.name != key.name && table.row.member(m.name) == nil {
				w.lower(0.3, "%s is no member of a row", m.name)
			}
		}
		pairs := []any{"patch", table.name, "key", of("args", key.name, true)}
		if key.name != table.key[0] {
			pairs = append(pairs, "set", fmt.Sprintf("{k: args[k] for k in args if k != %s}", quote(key.name)))
		}
		if said, constant, ok := t.failure(); ok && constant {
			pairs = append(pairs, "missing", unquote(said))
		}
		if !slices.ContainsFunc(places, func(p place) bool { return p.table == table && !p.list && p.member == "" }) {
			if a := d.answer(t, nil, "row", &w); a != nil {
				pairs = append(pairs, "return", a)
			}
		}
		rules = append(rules, rule{members(pairs...), w, uses(table)})
	}
	return rules
}

// removing are the rules of a tool that deletes rows.
func (d *drafter) removing(t *tool) []rule {
	noun := strings.Join(nounOf(t.noun), "_")
	var rules []rule
	for _, table := range d.tables {
		if !sameNoun(noun, table.name) {
			continue
		}
		w := why{p: 0.65}
		w.say("it deletes from %s", table.name)
		if ok, says := t.hinted("destructiveHint"); says && ok {
			w.raise(0.3, "it is annotated as destructive")
		}
		if key := t.oneKey(table); key != nil {
			w.say("by %s", key.name)
			pairs := []any{"delete", table.name, "key", of("args", key.name, true)}
			if said, constant, ok := t.failure(); ok && constant {
				pairs = append(pairs, "missing", unquote(said))
			}
			if a := d.answer(t, nil, "row", &w); a != nil {
				pairs = append(pairs, "return", a)
			}
			rules = append(rules, rule{members(pairs...), w, uses(table)})
			continue
		}
		source, item := "", ""
		if many := t.manyKeys(table); many != nil {
			source, item = of("args", many.name, true), "k"
		}
		for _, m := range t.in.members {
			if m.shape.rows() && sameNoun(m.name, table.name) && !slices.ContainsFunc(table.key, func(k string) bool { return m.shape.items.member(k) == nil }) {
				source, item = of("args", m.name, true), table.keyIn("k")
			}
		}
		if source == "" {
			continue
		}
		for _, how := range []struct{ skip, says string }{
			{fmt.Sprintf(" if %s in tables.%s", item, table.name), "what is not there is left out"},
			{"", "what is not there is an error"},
		} {
			own := w.clone()
			own.say("%s", how.says)
			a := d.answer(t, nil, "", &own)
			if a == nil {
				continue
			}
			gone := members("let", "gone", "be", fmt.Sprintf("[tables.%s.delete(%s) for k in %s%s]", table.name, item, source, how.skip))
			rules = append(rules, rule{steps(gone, members("return", a)), own, uses(table)})
			if item != "k" {
				continue
			}
			// What refers to them goes, too, without being held to the reference otherwise.
			for _, from := range d.tables {
				var ends []string
				for _, r := range from.refs {
					if r.to == table {
						ends = append(ends, of("row", r.field, true)+" in "+source)
					}
				}
				if len(ends) > 0 {
					also := own.clone()
					also.say("and the %s that refer to them", from.name)
					rules = append(rules, rule{steps(gone,
						members("let", "also", "be", fmt.Sprintf("[tables.%s.delete(%s) for row in tables.%s.rows() if %s]", from.name, from.keyIn("row"), from.name, strings.Join(ends, " or "))),
						members("return", a)), also, uses(table, from)})
				}
			}
		}
	}
	return rules
}

// saying are the rules of a tool that always says the same, or says its arguments.
func (d *drafter) saying(t *tool) []rule {
	good := t.good()
	if len(good) == 0 || !t.reads {
		return nil // a change that only says that it happened would be a lie
	}
	w := why{p: 0.5}
	a := explain(good, func(c *recorded) *val { return c.answer }, nil, "", "", &w)
	if a == nil {
		return nil
	}
	distinct := map[string]bool{}
	for _, c := range good {
		distinct[c.args.raw] = true
	}
	if len(t.in.members) > 0 && len(distinct) < 2 {
		return nil // what it answers otherwise is anybody's guess
	}
	w.say("its answers follow from its arguments alone in %d recorded calls", len(good))
	return []rule{{members("return", a), w, nil}}
}

func uses(tables ...*table) []*table { return tables }
