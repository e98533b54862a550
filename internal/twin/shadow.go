package twin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.starlark.net/starlark"

	"sallyport"
)

// A run over a live system knows of its tables what the system was asked for. What a
// rule needs beyond that is [Unknown], and not guessed.

// Shadow says where rows are in what a live system answers. The package comment shows
// its form.
type Shadow struct {
	Reads  map[string]Places `json:"reads,omitempty"`
	Fetch  map[string]Fetch  `json:"fetch,omitempty"` // by table
	Opaque Names             `json:"opaque,omitempty"`
	Apart  Names             `json:"apart,omitempty"`
}

// Places are where the answers of one tool hold rows; as JSON also just one.
type Places []Place

// Place is where an answer holds one row or a list of them. Row, Rows, Count and More
// are JSON pointers into the answer, of which "" is the whole.
type Place struct {
	Table string  `json:"table"`
	Row   *string `json:"row,omitempty"`
	Rows  *string `json:"rows,omitempty"`
	// Show is whether a row belongs there: an expression of args, key and row.
	Show Expr `json:"show,omitempty"`
	// Count are whole numbers that count the rows; "none" says that no number does.
	Count Names `json:"count,omitempty"`
	// More is false, null, "" or not there where the list has no further page.
	More *string `json:"more,omitempty"`
}

// Fetch is how one row is read from the live system.
type Fetch struct {
	Tool string `json:"tool"`
	Args Expr   `json:"args"` // expressions of key
	// Absent is a part of the text of an error that says that there is no such row.
	// Left out: what the tool's rule has as missing.
	Absent string `json:"absent,omitempty"`
}

// UnmarshalJSONFrom reads a place or a list of them.
func (p *Places) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '{' {
		*p = make(Places, 1)
		return json.UnmarshalDecode(d, &(*p)[0])
	}
	return json.UnmarshalDecode(d, (*[]Place)(p))
}

type showing struct {
	Place
	table *table
	show  *starlark.Function
}

type fetch struct {
	Fetch
	args *starlark.Function
}

// shadow compiles what is said of a live system. It comes after the tools.
func (c *compiler) shadow(tools []sallyport.Tool) {
	w, def := c.world, &c.def.Shadow
	w.places, w.fetches = map[string][]showing{}, map[*table]*fetch{}
	w.opaque, w.apart = def.Opaque, def.Apart
	access := map[string]sallyport.Access{}
	for i := range tools {
		access[toolName(&tools[i])] = tools[i].Access
	}
	is := func(at, tool string, want sallyport.Access) {
		switch has, known := access[tool]; {
		case len(tools) == 0:
		case !known:
			c.fail(at, "the upstream has no tool %q%s", tool, near(tool, slices.Sorted(maps.Keys(access))))
		case want == sallyport.Read && has != sallyport.Read:
			c.fail(at, "%s is not declared to be a read, so it never reaches the live system: give it a rule under tools", tool)
		case want != sallyport.Read && has == sallyport.Read:
			c.fail(at, "%s is a read: it passes to the live system", tool)
		}
	}
	for i, tool := range def.Opaque {
		is(pointer("shadow", "opaque", fmt.Sprint(i)), tool, sallyport.Changing)
	}
	for i, tool := range def.Apart {
		is(pointer("shadow", "apart", fmt.Sprint(i)), tool, sallyport.Read)
		if def.Reads[tool] != nil {
			c.fail(pointer("shadow", "apart", fmt.Sprint(i)), "%s is under reads, too: it shows rows or it does not", tool)
		}
	}
	for _, tool := range slices.Sorted(maps.Keys(def.Reads)) {
		is(pointer("shadow", "reads", tool), tool, sallyport.Read)
		for i, p := range def.Reads[tool] {
			at := []string{"shadow", "reads", tool}
			if len(def.Reads[tool]) > 1 {
				at = append(at, fmt.Sprint(i))
			}
			w.places[tool] = append(w.places[tool], c.place(at, p))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(def.Fetch)) {
		at := func(tokens ...string) []string { return append([]string{"shadow", "fetch", name}, tokens...) }
		f := &fetch{Fetch: def.Fetch[name]}
		t := c.tableAt(pointer(at()...), name)
		f.args = c.expr(f.Args, []string{"key"}, at("args")...)
		if f.Args.Kind() != '{' {
			c.fail(pointer(at("args")...), "args is an object of the tool's arguments, as in {id: key}")
		}
		if !slices.ContainsFunc(w.places[f.Tool], func(p showing) bool { return p.table == t && p.Row != nil }) {
			c.fail(pointer(at("tool")...), "shadow.reads has to say where the answer of %s has its row of %s: {table: %s, row: POINTER}", f.Tool, name, name)
		}
		if b := w.bindings[f.Tool]; f.Absent == "" && b != nil && b.verb == "get" {
			f.Absent = b.Missing
		}
		if t != nil {
			w.fetches[t] = f
		}
	}
}

func (c *compiler) place(at []string, def Place) showing {
	where := func(tokens ...string) []string { return append(slices.Clone(at), tokens...) }
	p := showing{Place: def, table: c.tableAt(pointer(where("table")...), def.Table)}
	if (def.Row == nil) == (def.Rows == nil) {
		c.fail(pointer(at...), "say where its row is, or where its rows are: row or rows")
	}
	if def.Row != nil && (def.Count != nil || def.More != nil) {
		c.fail(pointer(at...), "count and more belong to rows")
	}
	check := func(name, text string) {
		if !jsontext.Pointer(text).IsValid() {
			c.fail(pointer(where(name)...), "%q is no JSON pointer", text)
		}
	}
	for name, text := range map[string]*string{"row": def.Row, "rows": def.Rows, "more": def.More} {
		if text != nil {
			check(name, *text)
		}
	}
	if slices.Equal(def.Count, Names{"none"}) {
		p.Count = Names{}
	} else {
		for _, text := range def.Count {
			check("count", text)
		}
	}
	p.show = c.expr(def.Show, []string{"args", "key", "row"}, where("show")...)
	return p
}

// FitsShadow says why the world cannot lie over a live system: its tables begin empty
// there, and hold nothing but what the system has said and the run has changed. The
// error is Problems.
func (d *Definition) FitsShadow() error {
	var problems Problems
	if len(d.Tables) == 0 {
		problems = append(problems, &Problem{Reason: "over a live system the world needs tables: they hold what runs change"})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Tables)) {
		t := d.Tables[name]
		wrong := func(is bool, member, reason string) {
			if is {
				problems = append(problems, &Problem{Pointer: pointer("tables", name, member), Reason: reason})
			}
		}
		wrong(t.Seed.File != "", "seed", "over a live system tables begin empty: data made up for a sandbox never answers a production call")
		wrong(t.KeyOutside, "key_outside", "over a live system rows hold their keys")
		wrong(t.ID.Style == "sequence" && t.ID.Start == 0, "id", "over a live system nobody knows the greatest id: give start, beyond all that there will be, or another style")
		unique := len(t.Unique) > 0
		for _, f := range t.Fields {
			unique = unique || f.Unique
		}
		wrong(unique, "unique", "over a live system nobody knows all rows: only its own answer says what is taken")
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// Unknown is what a rule would have to know of the live system. Without a key it is
// which rows there are.
type Unknown struct {
	Table string
	Key   string // JSON

	table *table
}

func (u *Unknown) Error() string {
	if u.Key == "" {
		return "the rule looks through the rows of " + u.Table + ", and nobody has seen all of them"
	}
	return "the row " + short([]byte(u.Key)) + " of " + u.Table + " is not known"
}

// learned is what a run knows of the tables of a live system.
type learned struct {
	rows    map[rowKey]seen
	touched []rowKey // by calls, in order; some may be as they were
	size    int      // of rows, in bytes
	unknown *Unknown // the first that a call has met
}

type rowKey struct {
	table *table
	key   string
}

// seen is a row as the live system has shown it. Without bytes there was none.
type seen struct {
	raw   []byte
	whole bool // else members may be missing
}

// maxLearned bounds the rows of a live system that one run keeps, in bytes. Others are
// asked for again, or unknown.
const maxLearned = 8 << 20

// NewShadow begins a run over a live system, of which it knows nothing yet, at a time.
func (w *World) NewShadow(seed uint64, at time.Time) *Run {
	r := w.NewRun(seed)
	r.clock, r.live = at.UTC(), &learned{rows: map[rowKey]seen{}}
	return r
}

// lacks notes that a call needs a row, or without a key all rows, of a table.
func (r *Run) lacks(t *table, key string) {
	if r.live != nil && r.live.unknown == nil {
		r.live.unknown = &Unknown{Table: t.name, Key: key, table: t}
	}
}

// met is what the last call would have had to know, nil for nothing.
func (r *Run) met() *Unknown {
	if r.live == nil {
		return nil
	}
	u := r.live.unknown
	r.live.unknown = nil
	return u
}

// touch notes that a call has written a row.
func (r *Run) touch(t *table, key string) {
	if k := (rowKey{t, key}); r.live != nil && !slices.Contains(r.live.touched, k) {
		r.live.touched = append(r.live.touched, k)
	}
}

// taken reports whether a row has an id that is being made. The live system is taken to
// have none that a world makes; one that has shows when it is learned.
func (r *Run) taken(t *table, id string) bool {
	if r.live == nil {
		_, _, taken := r.get(t, id)
		return taken
	}
	k := rowKey{t, id}
	if s, known := r.live.rows[k]; known && s.raw != nil {
		return true
	}
	if _, made := r.tables[t.place].created[id]; made {
		return true
	}
	r.live.rows[k] = seen{whole: true}
	return false
}

// knows reports whether the run can say if there is a row with a key.
func (r *Run) knows(t *table, key string) bool {
	if r.live == nil {
		return true
	}
	if s, ok := r.live.rows[rowKey{t, key}]; ok {
		return s.whole
	}
	_, created := r.tables[t.place].created[key]
	return created
}

// learn takes in a row that the live system has shown. It is an error if the row is
// none of the table, or the run has made one with its key.
func (r *Run) learn(t *table, row []byte, whole bool) error {
	key, err := t.keyOf(row)
	if err != nil {
		return err
	}
	if whole {
		if err := t.check(row); err != nil {
			return err
		}
	}
	k, o := rowKey{t, key}, &r.tables[t.place]
	was, known := r.live.rows[k]
	n, there := o.created[key]
	if there && (!known || was.raw == nil) {
		return fmt.Errorf("the run has made %s, and the live system has a row with that key", short([]byte(key)))
	}
	is := seen{slices.Clone(row), whole}
	if !whole && was.raw != nil {
		is = seen{withMembers(was.raw, membersOf(row), false), was.whole}
	}
	if r.live.size += len(is.raw) - len(was.raw); r.live.size > maxLearned && !known {
		r.live.size -= len(is.raw)
		return nil
	}
	r.live.rows[k] = is
	r.journal, r.forgotten = nil, r.forgotten+1
	switch {
	case there:
		o.rows[n] = changed{key: key, raw: reapply(t.compare(was.raw, o.rows[n].raw), is.raw)}
	case was.raw == nil:
		if o.rows == nil {
			o.rows, o.created = map[int]changed{}, map[string]int{}
		}
		n = t.len() + o.next
		o.next++
		o.rows[n], o.created[key] = changed{key: key, raw: is.raw}, n
	}
	return nil
}

// reapply makes changes to another row.
func reapply(fields []FieldChange, row []byte) []byte {
	for _, f := range fields {
		if f.After != nil {
			row = withMembers(row, []member{{f.Name, f.After}}, false)
			continue
		}
		row = object(slices.DeleteFunc(membersOf(row), func(m member) bool { return m.name == f.Name }))
	}
	return row
}

// changed is what the run has made of the rows of a table, in the order in which it
// first touched them.
func (r *Run) changed(t *table) []Change {
	var changes []Change
	for _, k := range r.live.touched {
		if k.table != t {
			continue
		}
		c := Change{Table: t.name, Key: k.key, Before: r.live.rows[k].raw}
		if n, ok := r.tables[t.place].created[k.key]; ok {
			c.After = r.tables[t.place].rows[n].raw
		}
		if c.Fields = t.compare(c.Before, c.After); len(c.Fields) > 0 || (c.Before == nil) != (c.After == nil) {
			changes = append(changes, c)
		}
	}
	return changes
}

// Changed reports whether the run has changed what a tool that reads may show: any table
// at all, where nothing says what it shows.
func (r *Run) Changed(tool *sallyport.Tool) bool {
	name := toolName(tool)
	if slices.Contains(r.world.apart, name) {
		return false
	}
	tables := r.world.tables
	if places, ok := r.world.places[name]; ok {
		tables = nil
		for _, p := range places {
			tables = append(tables, p.table)
		}
	}
	return slices.ContainsFunc(tables, func(t *table) bool { return len(r.changed(t)) > 0 })
}

// ChangedAny reports whether the run has changed anything.
func (r *Run) ChangedAny() bool {
	return slices.ContainsFunc(r.world.tables, func(t *table) bool { return len(r.changed(t)) > 0 })
}

// FitsShadow is that of the definition.
func (w *World) FitsShadow() error { return w.shadowed }

// Opaque reports whether people have said that what a tool does cannot be modelled.
func (w *World) Opaque(tool *sallyport.Tool) bool { return slices.Contains(w.opaque, toolName(tool)) }

// Fetch is how an unknown row is read from the live system: the tool's own name there,
// and its arguments. It is an error if nothing says how.
func (r *Run) Fetch(u *Unknown) (tool string, args []byte, err error) {
	f := r.world.fetches[u.table]
	if f == nil || u.Key == "" {
		return "", nil, u
	}
	c := &call{run: r, left: r.world.limits.Memory}
	thread := c.begin(r.world.limits)
	key, err := c.vals.read([]byte(u.Key))
	if err == nil {
		key, err = starlark.Call(thread, f.args, starlark.Tuple{key}, nil)
	}
	if err == nil {
		args, err = c.vals.write(nil, key)
	}
	if err != nil {
		return "", nil, fmt.Errorf("the arguments to fetch a row of %s with: %w", u.Table, err)
	}
	return f.Tool, args, nil
}

// Fetched takes in what the live system has answered to a [Run.Fetch]: the document of
// the answer, or nil and the text of an error. It is an error if that says neither what
// the row is nor that there is none.
func (r *Run) Fetched(u *Unknown, document []byte, text string) error {
	f := r.world.fetches[u.table]
	if document == nil {
		if f.Absent == "" || !strings.Contains(text, f.Absent) {
			return fmt.Errorf("%s did not say whether there is such a row", f.Tool)
		}
	} else if err := r.Learn(f.Tool, document); err != nil {
		return err
	}
	if k := (rowKey{u.table, u.Key}); !r.knows(u.table, u.Key) {
		if document != nil && r.shows(f.Tool, u.table, document) {
			return fmt.Errorf("%s answered with another row", f.Tool)
		}
		r.live.rows[k] = seen{whole: true}
	}
	return nil
}

// shows reports whether the answer of a tool holds a row of a table.
func (r *Run) shows(tool string, t *table, document []byte) bool {
	for _, p := range r.world.places[tool] {
		if p.table == t && p.Row != nil {
			if row := valueAt(document, *p.Row); row != nil && row[0] == '{' {
				return true
			}
		}
	}
	return false
}
