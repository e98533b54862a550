package draft

import (
	"slices"
	"strings"
)

// table is a table that a world may have.
type table struct {
	name string
	one  string // a row of it in the singular
	row  *shape
	why  why
	key  []string
	kwhy why
	id   *idStyle
	refs []ref
	// value is the field with the content, of a table whose rows are written and read by
	// a key as files are.
	value string
	seeds []*val
}

// ref says that a field holds keys of another table.
type ref struct {
	field    string
	to       *table
	onDelete int // an index of deletes
	why      why
}

// deletes are what may become of a row whose reference goes. The first is that the
// reference is not declared at all.
var deletes = []string{"none", "cascade", "restrict", "null"}

type idStyle struct {
	style, prefix string
	digits        int // of prefix; 0 if that is not known
}

// place is where rows of a table stand in the answer of a tool.
type place struct {
	member string // of the answer; "" for the whole
	list   bool
	table  *table
}

// wrappers are names of members that say nothing of what is in them.
var wrappers = []string{"results", "result", "items", "item", "data", "content", "contents", "value", "values", "records", "rows", "list", "entries", "matches", "hits", "output", "response"}

// fillers are words of names that are no part of a noun; edges end it.
var (
	fillers = []string{"all", "my", "the", "a", "an", "multiple", "recent", "most", "current", "new", "available", "details", "detail", "info", "information", "data", "existing", "text", "full"}
	edges   = []string{"by", "for", "of", "from", "in", "with", "to", "on", "at", "and", "matching", "that", "as", "into"}
)

func nounOf(words []string) []string {
	var out []string
	for _, w := range words {
		if slices.Contains(edges, w) {
			break
		}
		if !slices.Contains(fillers, w) && verbs[w] == unclear {
			out = append(out, w)
		}
	}
	return out
}

func (d *drafter) table(words []string, row *shape, p float64, format string, args ...any) *table {
	name := tableName(words)
	if name == "" {
		return nil
	}
	at := slices.IndexFunc(d.tables, func(t *table) bool { return sameNoun(t.name, name) })
	if at < 0 {
		t := &table{name: name, one: strings.TrimSuffix(tableOne(words), "_"), row: &shape{kind: '{'}, why: why{p: p}}
		t.why.say(format, args...)
		d.tables = append(d.tables, t)
		at = len(d.tables) - 1
	} else {
		d.tables[at].why.raise(p/2, format, args...)
	}
	t := d.tables[at]
	for _, m := range row.members {
		if own := t.row.member(m.name); own == nil {
			if len(t.row.members) > 0 && t.why.reasons != nil && len(t.why.reasons) > 1 {
				m.required = false
			}
			t.row.members = append(t.row.members, m)
		} else {
			own.required = own.required && m.required
			if own.shape.kind == 0 {
				own.shape = m.shape
			}
		}
	}
	for i := range t.row.members {
		if m := &t.row.members[i]; row.member(m.name) == nil {
			m.required = false
		}
	}
	return t
}

func tableOne(words []string) string {
	words = slices.Clone(words)
	words[len(words)-1] = singular(words[len(words)-1])
	return strings.Join(words, "_")
}

// source says where a shape is known from.
func (t *tool) source() string {
	if t.schema {
		return "output schema of " + t.name
	}
	return "recorded answers of " + t.name
}

func (d *drafter) findTables() {
	for _, t := range d.tools {
		noun := nounOf(t.noun)
		switch {
		case t.out.rows():
			d.table(noun, t.out.items, 0.85, "rows in the %s", t.source())
		case t.out.is('{'):
			any := false
			for _, m := range t.out.members {
				if !m.shape.rows() {
					continue
				}
				any = true
				words := split(m.name)
				if slices.Contains(wrappers, strings.ToLower(m.name)) {
					if t.verb != list && t.verb != get {
						continue // the outcome of each part of a change
					}
					words = noun
				}
				d.table(words, m.shape.items, 0.85, "rows in the %s", t.source())
			}
			if (!any || t.verb == get) && len(noun) > 0 && t.verb != list && d.looksLikeRow(t, noun) {
				d.table(noun, t.out, 0.8, "a row in the %s", t.source())
			}
		}
		if t.verb == create {
			for _, m := range t.in.members {
				if m.shape.rows() && sameNoun(m.name, strings.Join(noun, "_")) {
					d.table(split(m.name), m.shape.items, 0.8, "rows in the input schema of %s", t.name)
				}
			}
		}
	}
	// What is added to a list in the rows of a table is no table of its own.
	d.tables = slices.DeleteFunc(d.tables, func(t *table) bool {
		return slices.ContainsFunc(d.tables, func(of *table) bool {
			return of != t && slices.ContainsFunc(of.row.members, func(m member) bool {
				return sameNoun(m.name, t.name) && m.shape.is('[') && m.shape.items.scalar()
			})
		})
	})
	d.findStores()
	// A table needs something to tell its rows apart.
	d.tables = slices.DeleteFunc(d.tables, func(t *table) bool { return len(t.row.members) == 0 })
}

// looksLikeRow reports whether the answer of a tool is a row, and not a message.
func (d *drafter) looksLikeRow(t *tool, noun []string) bool {
	scalars, own := 0, false
	for _, m := range t.out.members {
		if m.shape.scalar() {
			scalars++
			own = own || keyName(m.name, tableOne(noun)) >= 0.6 || t.in.member(m.name) != nil && t.in.member(m.name).shape.scalar()
		}
	}
	return own && scalars >= 2
}

// findStores looks for what is written and read by a key, as files are: a tool whose
// answer is, in recordings, what another was given for the same key before.
func (d *drafter) findStores() {
	for _, w := range d.tools {
		if w.reads || w.verb != put && w.verb != create {
			continue
		}
		for _, r := range d.tools {
			if !r.reads && r.verb != get || r == w {
				continue
			}
			for _, k := range w.in.members {
				if !k.required || !k.shape.scalar() || r.in.member(k.name) == nil {
					continue
				}
				for _, v := range w.in.members {
					if v.name == k.name || !v.shape.is('"') || !v.required {
						continue
					}
					n := roundTrips(w, r, k.name, v.name)
					if n == 0 {
						continue
					}
					noun := nounOf(w.noun)
					row := &shape{kind: '{', members: []member{{k.name, k.shape, true}, {v.name, v.shape, true}}}
					t := d.table(noun, row, 0.8, "what %s is given as %s, %s answers for the same %s: seen %s", w.name, v.name, r.name, k.name, times(n))
					if t != nil && t.value == "" && t.key == nil {
						t.key, t.value = []string{k.name}, v.name
						t.kwhy = why{p: 0.85}
						t.kwhy.say("%s and %s name it by %s", w.name, r.name, k.name)
					}
				}
			}
		}
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	default:
		return itoa(n) + " times"
	}
}

// content is the one text an answer consists of.
func (c *recorded) content() (string, bool) {
	switch a := c.answer; {
	case a == nil:
	case a.kind == '"':
		return a.text, true
	case a.kind == '{' && len(a.items) == 1 && a.items[0].kind == '"':
		return a.items[0].text, true
	}
	return "", false
}

func roundTrips(w, r *tool, key, value string) int {
	n := 0
	for _, read := range r.good() {
		text, ok := read.content()
		var last *recorded
		for _, c := range w.good() {
			if c.session == read.session && c.number < read.number && same(c.args.member(key), read.args.member(key)) {
				last = c
			}
		}
		if v := last.arg(value); ok && v != nil && v.kind == '"' && v.text == text {
			n++
		}
	}
	return n
}

func (c *recorded) arg(name string) *val {
	if c == nil {
		return nil
	}
	return c.args.member(name)
}

func same(a, b *val) bool { return a != nil && b != nil && a.kind == b.kind && a.raw == b.raw }

// placesOf are where rows of tables stand in the answer of a tool.
func (d *drafter) placesOf(t *tool) []place {
	find := func(words []string, row *shape) *table {
		name := tableName(words)
		for _, table := range d.tables {
			if sameNoun(table.name, name) && fits(row, table) {
				return table
			}
		}
		// Another name for the same rows.
		for _, table := range d.tables {
			if table.value == "" && len(row.members) > 1 && fits(row, table) && len(row.members) == len(table.row.members) {
				return table
			}
		}
		return nil
	}
	var out []place
	noun := nounOf(t.noun)
	switch {
	case t.out.rows():
		if table := find(noun, t.out.items); table != nil {
			out = append(out, place{"", true, table})
		}
	case t.out.is('{'):
		for _, m := range t.out.members {
			if !m.shape.rows() {
				continue
			}
			words := split(m.name)
			if slices.Contains(wrappers, strings.ToLower(m.name)) {
				words = noun
			}
			if table := find(words, m.shape.items); table != nil {
				out = append(out, place{m.name, true, table})
			}
		}
		if table := find(noun, t.out); table != nil && t.verb != list && d.looksLikeRow(t, noun) {
			return []place{{"", false, table}}
		}
		if table := find(noun, t.out); len(out) == 0 && table != nil && t.verb != list {
			out = append(out, place{"", false, table})
		}
	}
	return out
}

// fits reports whether rows of a shape may be those of a table: most of its members are
// known there, and the key is among them if it is known.
func fits(row *shape, t *table) bool {
	known := 0
	for _, m := range row.members {
		if t.row.member(m.name) != nil {
			known++
		}
	}
	for _, k := range t.key {
		if row.member(k) == nil {
			return false
		}
	}
	return known > 0 && 2*known >= len(row.members)
}

// rowsAt are the rows at a place of an answer.
func (p *place) rowsAt(answer *val) []*val {
	at := answer
	if p.member != "" {
		at = answer.member(p.member)
	}
	switch {
	case at == nil:
		return nil
	case !p.list:
		return []*val{at}
	case at.objects():
		return at.items
	default:
		return nil
	}
}

// keyName is how much a name sounds like the key of rows of which one is called one.
func keyName(name, one string) float64 {
	plain := strings.Join(split(name), "_")
	switch plain {
	case "id", one + "_id", "uuid", one + "_uuid":
		return 0.9
	case "key", "code", "number", "slug", one, one + "_number", one + "_key", one + "_code":
		return 0.7
	case "name", "path", "email", "username", "url", "uri", "filename", "symbol", one + "_name", one + "_path":
		return 0.6
	default:
		return 0.3
	}
}

// namesKey reports whether an argument is called after a field of a table: name, names,
// entityName or entity_names for the name of entities.
func (t *table) namesKey(arg, field string, many bool) bool {
	words := split(arg)
	if len(words) == 0 {
		return false
	}
	if many {
		if last := words[len(words)-1]; singular(last) == last {
			return false
		}
		words[len(words)-1] = singular(words[len(words)-1])
	}
	said, want := strings.Join(words, "_"), strings.Join(split(field), "_")
	return said == want || said == t.one+"_"+want || want == t.one+"_"+said
}

func (d *drafter) findKeys() {
	for _, t := range d.tables {
		if t.key == nil {
			d.findKey(t)
		}
	}
	d.tables = slices.DeleteFunc(d.tables, func(t *table) bool { return t.key == nil })
	for _, t := range d.tables {
		d.findIDs(t)
	}
}

func (d *drafter) findKey(t *table) {
	lists := d.recordedLists(t)
	var best why
	for _, m := range t.row.members {
		if !m.shape.scalar() || m.shape.kind == 'b' || !m.required && len(t.row.members) > 1 {
			continue
		}
		w := why{p: keyName(m.name, t.one)}
		w.say("%q by its name", m.name)
		for _, tool := range d.tools {
			for _, arg := range tool.in.members {
				one := arg.shape.scalar() && t.namesKey(arg.name, m.name, false) && (tool.verb == get || tool.verb == patch || tool.verb == remove || keyName(m.name, t.one) >= 0.6)
				many := arg.shape.is('[') && arg.shape.items.scalar() && t.namesKey(arg.name, m.name, true)
				if one || many {
					w.raise(0.5, "%s takes it as %s", tool.name, arg.name)
				}
			}
		}
		rows, twice := 0, false
		for _, list := range lists {
			seen := map[string]bool{}
			for _, row := range list {
				if v := row.member(m.name); v != nil {
					twice = twice || seen[v.raw]
					seen[v.raw] = true
					rows++
				}
			}
		}
		switch {
		case twice:
			continue // a name that recordings contradict
		case rows >= 3:
			w.raise(0.4, "no two rows of one recorded answer share it")
		}
		if w.p > best.p {
			best, t.key = w, []string{m.name}
		}
	}
	if best.p >= 0.5 {
		t.kwhy = best
		return
	}
	// All that every row has, together.
	t.key = nil
	for _, m := range t.row.members {
		if m.required && m.shape.scalar() {
			t.key = append(t.key, m.name)
		}
	}
	if len(t.key) < 2 {
		t.key = nil
		return
	}
	t.kwhy = why{p: 0.6}
	t.kwhy.say("no member alone tells rows apart")
	for _, tool := range d.tools {
		if tool.verb != remove {
			continue
		}
		for _, arg := range tool.in.members {
			if arg.shape.rows() && !slices.ContainsFunc(t.key, func(k string) bool { return arg.shape.items.member(k) == nil }) {
				t.kwhy.raise(0.5, "%s takes all of them", tool.name)
			}
		}
	}
	for _, list := range lists {
		seen := map[string]bool{}
		for _, row := range list {
			if k := t.keyOf(row); seen[k] {
				t.kwhy.lower(0.9, "two rows of one recorded answer share them")
				return
			} else if k != "" {
				seen[k] = true
			}
		}
		if len(seen) >= 3 {
			t.kwhy.raise(0.3, "no two rows of a recorded answer share them")
		}
	}
}

// keyOf is the key of a row as a text, "" if it has none.
func (t *table) keyOf(row *val) string {
	var parts []string
	for _, k := range t.key {
		v := row.member(k)
		if v == nil {
			return ""
		}
		parts = append(parts, v.raw)
	}
	return strings.Join(parts, "\x00")
}

// recordedLists are the rows of a table, an answer at a time.
func (d *drafter) recordedLists(t *table) [][]*val {
	var lists [][]*val
	for _, tool := range d.tools {
		for _, p := range d.placesOf(tool) {
			if p.table != t {
				continue
			}
			for _, c := range tool.good() {
				if rows := p.rowsAt(c.answer); len(rows) > 0 {
					lists = append(lists, rows)
				}
			}
		}
	}
	return lists
}

// findIDs looks at the keys that a tool made itself.
func (d *drafter) findIDs(t *table) {
	if len(t.key) != 1 {
		return
	}
	var made []string
	for _, tool := range d.tools {
		if tool.verb != create && tool.verb != act || tool.in.member(t.key[0]) != nil {
			continue
		}
		for _, p := range d.placesOf(tool) {
			if p.table != t {
				continue
			}
			for _, c := range tool.good() {
				for _, row := range p.rowsAt(c.answer) {
					if v := row.member(t.key[0]); v.scalar() && !strings.Contains(c.args.raw, v.raw) {
						made = append(made, v.text)
					}
				}
			}
		}
	}
	if len(made) == 0 {
		return
	}
	prefix, whole, uuid := made[0], true, true
	for _, text := range made {
		for !strings.HasPrefix(text, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
		whole = whole && strings.Trim(text, "0123456789") == ""
		uuid = uuid && len(text) == 36 && strings.Count(text, "-") == 4
	}
	switch at := strings.LastIndexAny(prefix, "_-"); {
	case uuid:
		t.id = &idStyle{style: "uuid"}
	case whole && !t.row.member(t.key[0]).shape.is('"'):
		t.id = &idStyle{style: "sequence"}
	case at > 0:
		t.id = &idStyle{style: "prefix", prefix: prefix[:at+1]}
	case len(made) > 1 && strings.TrimRight(prefix, "0123456789") != "":
		t.id = &idStyle{style: "prefix", prefix: strings.TrimRight(prefix, "0123456789")}
	default:
		t.id = &idStyle{style: "base32"}
	}
	if t.id.style == "prefix" {
		for i, text := range made {
			rest := strings.TrimPrefix(text, t.id.prefix)
			if strings.Trim(rest, "0123456789") != "" || i > 0 && len(rest) != t.id.digits {
				t.id.digits = 0
				break
			}
			t.id.digits = len(rest)
		}
	}
}

// findReferences finds fields that hold keys of tables, by their names and by the
// values that were recorded.
func (d *drafter) findReferences() {
	seen := map[*table]map[string]bool{}
	for _, t := range d.tables {
		seen[t] = map[string]bool{}
		for _, list := range d.recordedLists(t) {
			for _, row := range list {
				seen[t][t.keyOf(row)] = true
			}
		}
		for _, row := range d.made(t) {
			seen[t][t.keyOf(row)] = true
		}
	}
	for _, t := range d.tables {
		for _, m := range t.row.members {
			if !m.shape.scalar() || m.shape.kind == 'b' || len(t.key) == 1 && t.key[0] == m.name {
				continue
			}
			var best ref
			for _, to := range d.tables {
				if to == t || len(to.key) != 1 || to.row.member(to.key[0]) == nil || to.row.member(to.key[0]).shape.kind != m.shape.kind {
					continue
				}
				r := ref{field: m.name, to: to}
				plain, key := strings.Join(split(m.name), "_"), strings.Join(split(to.key[0]), "_")
				named := plain == to.one+"_"+key || plain == key && strings.HasPrefix(key, to.one+"_") || plain == to.one || plain == to.one+"_id"
				if named {
					r.why = why{p: 0.75}
					r.why.say("%q is called after the key of %s", m.name, to.name)
				}
				values, missing := map[string]bool{}, 0
				for _, list := range append(d.recordedLists(t), d.made(t)) {
					for _, row := range list {
						if v := row.member(m.name); v != nil && v.kind != 'n' && !values[v.raw] {
							values[v.raw] = true
							if !seen[to][v.raw] {
								missing++
							}
						}
					}
				}
				switch n := len(values); {
				case n == 0:
				case missing > 0 && named:
					r.why.lower(0.5, "%d of %d recorded values are no keys that were seen there", missing, n)
				case missing > 0:
					continue
				case named:
					r.why.raise(0.5, "all %d recorded values are keys there", n)
				case n >= 2:
					r.why = why{p: min(0.9, 0.5+0.1*float64(n))}
					r.why.say("all %d recorded values are keys of %s", n, to.name)
				}
				if r.why.p > best.why.p {
					best = r
				}
			}
			if best.why.p >= 0.5 {
				t.refs = append(t.refs, best)
			}
		}
	}
}

// made are the rows that recorded calls were given to create.
func (d *drafter) made(t *table) []*val {
	var rows []*val
	for _, tool := range d.tools {
		if tool.verb != create {
			continue
		}
		for _, m := range tool.in.members {
			if !m.shape.rows() || !sameNoun(m.name, t.name) {
				continue
			}
			for _, c := range tool.good() {
				if list := c.args.member(m.name); list.objects() {
					rows = append(rows, list.items...)
				}
			}
		}
	}
	return rows
}

// findSeeds takes the rows that were read before anything had touched them.
func (d *drafter) findSeeds() {
	all := map[[2]int]*tool{}
	read := map[[2]int]*recorded{}
	last := make([]int, len(d.in.Sessions))
	for _, t := range d.tools {
		for _, c := range t.calls {
			at := [2]int{c.session, c.number}
			all[at], read[at] = t, c
			last[c.session] = max(last[c.session], c.number)
		}
	}
	for _, t := range d.tables {
		index := map[string]int{}
		for s := range d.in.Sessions {
			touched := map[string]bool{} // values that changes were told
			for n := 0; n <= last[s]; n++ {
				tool, c := all[[2]int{s, n}], read[[2]int{s, n}]
				if tool == nil || c.isError {
					continue
				}
				if !tool.reads && tool.verb != get && tool.verb != list {
					leaves(c.args, func(v *val) { touched[v.raw] = true })
					leaves(c.answer, func(v *val) { touched[v.raw] = touched[v.raw] || tool.verb == create })
					continue
				}
				for _, row := range d.rowsRead(t, tool, c) {
					fresh := true
					for _, k := range t.key {
						fresh = fresh && touched[row.member(k).raw]
					}
					if fresh {
						continue // known to changes: not, or no more, as it was
					}
					k := t.keyOf(row)
					if at, known := index[k]; known {
						t.seeds[at] = joined(t.seeds[at], row)
					} else {
						index[k] = len(t.seeds)
						t.seeds = append(t.seeds, row)
					}
				}
			}
		}
	}
}

// rowsRead are the rows of a table in the answer to a read.
func (d *drafter) rowsRead(t *table, tool *tool, c *recorded) []*val {
	var rows []*val
	if t.value != "" {
		key := c.arg(t.key[0])
		text, ok := c.content()
		if key == nil || !ok || !d.readsWhole(t, tool, c) {
			return nil
		}
		return []*val{object([]string{t.key[0], t.value}, []*val{key, text2val(text)})}
	}
	for _, p := range d.placesOf(tool) {
		if p.table == t {
			for _, row := range p.rowsAt(c.answer) {
				if t.keyOf(row) != "" {
					rows = append(rows, row)
				}
			}
		}
	}
	return rows
}

// readsWhole reports whether a tool is one that gives the content of a store's row, by
// its key and with nothing else that was asked for.
func (d *drafter) readsWhole(t *table, tool *tool, c *recorded) bool {
	if len(c.args.names) != 1 {
		return false
	}
	for _, w := range d.tools {
		if !w.reads && (w.verb == put || w.verb == create) && w.in.member(t.key[0]) != nil && w.in.member(t.value) != nil && roundTrips(w, tool, t.key[0], t.value) > 0 {
			return true
		}
	}
	return false
}

// joined is a row with the members that only another sight of it has.
func joined(a, b *val) *val {
	names, items := slices.Clone(a.names), slices.Clone(a.items)
	for i, name := range b.names {
		if !slices.Contains(names, name) {
			names, items = append(names, name), append(items, b.items[i])
		}
	}
	return object(names, items)
}

func leaves(v *val, visit func(*val)) {
	if v == nil {
		return
	}
	if v.scalar() {
		visit(v)
	}
	for _, item := range v.items {
		leaves(item, visit)
	}
}
