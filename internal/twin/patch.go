package twin

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"go.starlark.net/starlark"

	"sallyport"
	"sallyport/internal/wire"
)

// What a live system answers is JSON with white space of its own. Whatever is read here
// has been checked before, as the rest of a message.

// segment is an element of a list, or a member of an object: at is all of it, and value
// the value alone.
type segment struct {
	name      string
	at, value wire.Span
}

// partsAt are the parts of the object or list at a span, and where its first one would
// begin.
func partsAt(doc []byte, at wire.Span) (parts []segment, inside int) {
	i := at.Start
	space := func() {
		for doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\t' || doc[i] == '\r' {
			i++
		}
	}
	object := doc[i] == '{'
	i++
	inside = i
	for space(); doc[i] != '}' && doc[i] != ']'; space() {
		p := segment{at: wire.Span{Start: i}}
		if object {
			end := stringEnd(doc, i)
			p.name = string(unquoted(doc[i:end]))
			i = end
			space()
			i++ // the colon
			space()
		}
		p.value = wire.Span{Start: i, End: valueEnd(doc, i)}
		for c := doc[p.value.End-1]; c == ' ' || c == '\n' || c == '\t' || c == '\r'; c = doc[p.value.End-1] {
			p.value.End-- // valueEnd of a number goes as far as what follows it
		}
		p.at.End = p.value.End
		parts = append(parts, p)
		i = p.at.End
		if space(); doc[i] == ',' {
			i++
		}
	}
	return parts, inside
}

// whole is where the one value of a document is.
func whole(doc []byte) wire.Span {
	start := len(doc) - len(bytes.TrimLeft(doc, " \n\t\r"))
	return wire.Span{Start: start, End: len(bytes.TrimRight(doc, " \n\t\r"))}
}

// find is where a pointer leads to.
func find(doc []byte, pointer string) (wire.Span, bool) {
	at := whole(doc)
	for token := range jsontext.Pointer(pointer).Tokens() {
		c := doc[at.Start]
		if c != '{' && c != '[' {
			return wire.Span{}, false
		}
		parts, _ := partsAt(doc, at)
		i := slices.IndexFunc(parts, func(p segment) bool { return p.name == token })
		if c == '[' {
			var err error
			if i, err = strconv.Atoi(token); err != nil || i < 0 || i >= len(parts) {
				return wire.Span{}, false
			}
		}
		if i < 0 {
			return wire.Span{}, false
		}
		at = parts[i].value
	}
	return at, true
}

// valueAt is the value that a pointer leads to, nil for none.
func valueAt(doc []byte, pointer string) []byte {
	if at, ok := find(doc, pointer); ok {
		return at.Of(doc)
	}
	return nil
}

// rowsAt are where the rows of a place are. It is no place of this document if what is
// there is neither null nor what it should be.
func (p *showing) rowsAt(doc []byte) (rows []segment, list wire.Span, ok bool) {
	pointer := p.Row
	if pointer == nil {
		pointer = p.Rows
	}
	at, found := find(doc, *pointer)
	switch {
	case !found || doc[at.Start] == 'n':
		return nil, at, p.Row != nil
	case p.Row != nil:
		return []segment{{at: at, value: at}}, at, doc[at.Start] == '{'
	case doc[at.Start] != '[':
		return nil, at, false
	}
	rows, _ = partsAt(doc, at)
	for _, row := range rows {
		if doc[row.value.Start] != '{' {
			return nil, at, false
		}
	}
	return rows, at, true
}

// completes reports whether what a tool shows of a table are rows with all members.
func (r *Run) completes(tool string, t *table) bool {
	f := r.world.fetches[t]
	return f == nil || f.Tool == tool
}

// Learn takes in the rows that the live system has shown in the answer of a tool. After
// an error, which says what does not fit, some have been taken in.
func (r *Run) Learn(tool string, document []byte) error {
	places := r.world.places[tool]
	for i := range places {
		p := &places[i]
		rows, _, ok := p.rowsAt(document)
		if !ok {
			return fmt.Errorf("the answer of %s does not hold rows of %s where they should be", tool, p.table.name)
		}
		for _, row := range rows {
			if err := r.learn(p.table, appendCompact(nil, row.value.Of(document)), r.completes(tool, p.table)); err != nil {
				return fmt.Errorf("a row of %s in the answer of %s: %w", p.table.name, tool, err)
			}
		}
	}
	return nil
}

// keyed is the row that a read asks for by its key, where the world has a rule for it
// that says so.
func (r *Run) keyed(c *call, t *starlark.Thread, tool string, args *starlark.Dict) (rowKey, bool, error) {
	b := r.world.bindings[tool]
	if b == nil || b.verb != "get" {
		return rowKey{}, false, nil
	}
	v, err := starlark.Call(t, b.key, starlark.Tuple{args}, nil)
	if err != nil {
		return rowKey{}, false, err
	}
	key, err := c.keyText(b.table, v)
	return rowKey{b.table, key}, err == nil, err
}

// Owns reports whether a read asks for a row that only the run has made, or has removed:
// the live system cannot know, and the world's own rule answers.
func (r *Run) Owns(tool *sallyport.Tool, args []byte) (bool, error) {
	c, thread, given, err := r.reading(args)
	if err != nil {
		return false, err
	}
	k, ok, err := r.keyed(c, thread, toolName(tool), given)
	if err != nil || !ok {
		return false, err
	}
	for _, change := range r.changed(k.table) {
		if change.Key == k.key && (change.Before == nil || change.After == nil) {
			return true, nil
		}
	}
	return false, nil
}

// reading is a call that only looks.
func (r *Run) reading(args []byte) (*call, *starlark.Thread, *starlark.Dict, error) {
	c := &call{run: r, left: r.world.limits.Memory}
	thread := c.begin(r.world.limits)
	if len(args) == 0 {
		args = []byte("{}")
	}
	given, _, err := c.arguments(args)
	return c, thread, given, err
}

// patcher makes the edits of one answer.
type patcher struct {
	run      *Run
	call     *call
	thread   *starlark.Thread
	tool     string
	args     *starlark.Dict
	asked    rowKey // with isKeyed
	isKeyed  bool
	document []byte
	edits    []wire.Edit
}

// Patch is how an answer of the live system has to differ so that it shows what the run
// has changed: edits of its document, in order. Without a document, which is an error of
// the live system, it is none. The answer cannot be patched if there is an error, which
// says why. All of the answer's rows have been learned.
func (r *Run) Patch(tool *sallyport.Tool, args, document []byte) ([]wire.Edit, error) {
	if !r.Changed(tool) {
		return nil, nil
	}
	p := &patcher{run: r, tool: toolName(tool), document: document}
	places := r.world.places[p.tool]
	if len(places) == 0 {
		return nil, fmt.Errorf("nothing says which rows %s shows: write it under shadow.reads, or under shadow.apart if it shows none", p.tool)
	}
	var err error
	if p.call, p.thread, p.args, err = r.reading(args); err != nil {
		return nil, err
	}
	if p.asked, p.isKeyed, err = r.keyed(p.call, p.thread, p.tool, p.args); err != nil {
		return nil, err
	}
	for i := range places {
		changes := r.changed(places[i].table)
		if len(changes) == 0 {
			continue
		}
		var rows []segment
		var list wire.Span
		ok := places[i].Row != nil
		if document != nil {
			rows, list, ok = places[i].rowsAt(document)
		}
		switch {
		case !ok:
			err = fmt.Errorf("the live system's answer does not hold rows of %s, which the run has changed", places[i].table.name)
		case places[i].Row != nil:
			err = p.one(&places[i], changes, rows)
		default:
			err = p.list(&places[i], changes, rows, list)
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(p.edits, func(a, b wire.Edit) int { return a.Span.Start - b.Span.Start })
	for i := 1; i < len(p.edits); i++ {
		if p.edits[i].Span.Start < p.edits[i-1].Span.End {
			return nil, errors.New("places of rows lie within what the run has changed")
		}
	}
	return p.edits, nil
}

func changeOf(changes []Change, key string) *Change {
	if i := slices.IndexFunc(changes, func(c Change) bool { return c.Key == key }); i >= 0 {
		return &changes[i]
	}
	return nil
}

// one patches a single row.
func (p *patcher) one(at *showing, changes []Change, rows []segment) error {
	key := ""
	if len(rows) > 0 {
		var err error
		if key, err = at.table.keyOf(appendCompact(nil, rows[0].value.Of(p.document))); err != nil {
			return err
		}
		if c := changeOf(changes, key); c != nil {
			if c.After == nil {
				return fmt.Errorf("the answer shows %s, which the run has removed", short([]byte(key)))
			}
			if belongs, known, err := p.belongs(at, c); err != nil || known && !belongs {
				return errors.Join(err, fmt.Errorf("%s does not belong into the answer any more", short([]byte(key))))
			}
			p.row(at, c, rows[0].value)
		}
	}
	if p.isKeyed && p.asked.table == at.table && (key != "" || changeOf(changes, p.asked.key) == nil) {
		return nil
	}
	for i := range changes {
		if changes[i].Key == key || changes[i].After == nil {
			continue
		}
		if belongs, known, err := p.belongs(at, &changes[i]); err != nil || belongs || !known {
			return errors.Join(err, fmt.Errorf("%s, which the run has changed, may belong into the answer", short([]byte(changes[i].Key))))
		}
	}
	return nil
}

// row replaces the members of a row that the run has changed.
func (p *patcher) row(at *showing, c *Change, row wire.Span) {
	members, inside := partsAt(p.document, row)
	gone := func(i int) bool {
		return slices.ContainsFunc(c.Fields, func(f FieldChange) bool { return f.Name == members[i].name && f.After == nil })
	}
	var added [][]byte
	for _, f := range c.Fields {
		i := slices.IndexFunc(members, func(m segment) bool { return m.name == f.Name })
		switch {
		case f.After == nil:
		case i >= 0:
			p.edits = append(p.edits, wire.Edit{Span: members[i].value, With: f.After})
		case p.run.completes(p.tool, at.table):
			added = append(added, append(append(wire.AppendString(nil, f.Name), ':'), f.After...))
		}
	}
	p.edits = append(p.edits, relist(members, inside, gone, nil, added)...)
}

// relist takes parts out of a list or object and puts others in: in front of those that
// stay, by their index, and at the end.
func relist(parts []segment, inside int, gone func(i int) bool, before map[int][][]byte, last [][]byte) []wire.Edit {
	var edits []wire.Edit
	kept := -1 // the last that stays
	for i := range parts {
		if gone(i) {
			continue
		}
		if kept+1 < i {
			from := parts[kept+1].at.Start
			edits = append(edits, wire.Edit{Span: wire.Span{Start: from, End: parts[i].at.Start}})
		}
		if more := before[i]; len(more) > 0 {
			at := parts[i].at.Start
			edits = append(edits, wire.Edit{Span: wire.Span{Start: at, End: at}, With: append(bytes.Join(more, []byte{','}), ',')})
		}
		kept = i
	}
	if kept+1 == len(parts) && len(last) == 0 {
		return edits
	}
	end := wire.Span{Start: inside, End: inside}
	with := bytes.Join(last, []byte{','})
	if len(parts) > 0 {
		end = wire.Span{Start: parts[0].at.Start, End: parts[len(parts)-1].at.End}
	}
	if kept >= 0 {
		end.Start = parts[kept].at.End
		if len(with) > 0 {
			with = append([]byte{','}, with...)
		}
	}
	return append(edits, wire.Edit{Span: end, With: with})
}

// belongs reports whether a row as the run has made it belongs into the answer, where
// something says so.
func (p *patcher) belongs(at *showing, c *Change) (belongs, known bool, err error) {
	key, err := p.call.vals.read([]byte(c.Key))
	if err != nil {
		return false, false, err
	}
	ask := func(fn *starlark.Function) (bool, error) {
		row, err := p.call.vals.read(c.After)
		if err != nil {
			return false, err
		}
		v, err := starlark.Call(p.thread, fn, starlark.Tuple{p.args, key, row}, nil)
		if unknown := p.run.live.unknown; unknown != nil {
			p.run.live.unknown, err = nil, unknown
		}
		return err == nil && bool(v.Truth()), err
	}
	if at.show != nil {
		belongs, err = ask(at.show)
		return belongs, err == nil, err
	}
	b := p.run.world.bindings[p.tool]
	if b == nil || b.table != at.table {
		return false, false, nil
	}
	if b.verb == "get" {
		return p.isKeyed && p.asked == rowKey{at.table, c.Key}, p.isKeyed, nil
	}
	if b.verb != "list" {
		return false, false, nil
	}
	if b.match != nil {
		names, values, err := matched(func() (starlark.Value, error) { return starlark.Call(p.thread, b.match, starlark.Tuple{p.args}, nil) })
		if err != nil {
			return false, false, err
		}
		want, err := p.call.valuesText(values)
		if err != nil {
			return false, false, err
		}
		if has, _ := fieldsText(c.After, names); has != want {
			return false, true, nil
		}
	}
	if b.where == nil {
		return true, true, nil
	}
	belongs, err = ask(b.where)
	return belongs, err == nil, err
}

// list patches a list of rows.
func (p *patcher) list(at *showing, changes []Change, rows []segment, list wire.Span) error {
	binding := p.run.world.bindings[p.tool]
	if binding == nil || binding.verb != "list" || binding.table != at.table {
		binding = nil
	}
	shown := make([][]byte, len(rows))
	gone := make([]bool, len(rows))
	there := map[string]bool{}
	removed := 0
	for i, row := range rows {
		shown[i] = appendCompact(nil, row.value.Of(p.document))
		key, err := at.table.keyOf(shown[i])
		if err != nil {
			return err
		}
		there[key] = true
		c := changeOf(changes, key)
		if c == nil {
			continue
		}
		stays := false
		if c.After != nil {
			known := false
			if stays, known, err = p.belongs(at, c); err != nil || !known {
				return errors.Join(err, fmt.Errorf("nothing says whether %s, which the run has changed, still belongs into the list: say it with show", short([]byte(key))))
			}
		}
		if stays {
			p.row(at, c, row.value)
			continue
		}
		gone[i], removed = true, removed+1
	}
	var added [][]byte
	for i := range changes {
		if c := &changes[i]; c.After != nil && !there[c.Key] {
			belongs, known, err := p.belongs(at, c)
			if err != nil || !known {
				return errors.Join(err, fmt.Errorf("nothing says whether %s, which the run has changed, belongs into the list: say it with show", short([]byte(c.Key))))
			}
			if belongs {
				added = append(added, c.After)
			}
		}
	}
	if at.More != nil && len(added) > 0 {
		switch string(valueAt(p.document, *at.More)) {
		case "", "null", "false", `""`:
		default:
			added = nil // they come with the last page
		}
	}
	before := map[int][][]byte{}
	var last [][]byte
	if len(added) > 0 {
		if err := p.unpaged(binding, len(rows)); err != nil {
			return err
		}
	}
	for _, row := range added {
		i := len(rows)
		if binding != nil && len(binding.Order) > 0 {
			i = slices.IndexFunc(shown, func(other []byte) bool { return precedes(row, other, binding.Order) })
			for i >= 0 && i < len(rows) && gone[i] {
				i++
			}
			if i < 0 {
				i = len(rows)
			}
		}
		switch {
		case binding != nil && len(binding.Fields) > 0:
			row = pick(row, binding.Fields)
		case len(shown) > 0 && !p.run.completes(p.tool, at.table): // members as its neighbours have them
			var names []string
			for _, m := range membersOf(shown[0]) {
				names = append(names, m.name)
			}
			row = pick(row, names)
		}
		if i == len(rows) {
			last = append(last, row)
		} else {
			before[i] = append(before[i], row)
		}
	}
	if len(added) == removed && removed == 0 {
		return nil
	}
	_, inside := partsAt(p.document, list)
	p.edits = append(p.edits, relist(rows, inside, func(i int) bool { return gone[i] }, before, last)...)
	return p.counts(at, len(added)-removed)
}

// unpaged says why rows cannot be added to a list: it may not be all of it.
func (p *patcher) unpaged(b *binding, rows int) error {
	if b == nil {
		return nil
	}
	eval := evaluate(func(fn *starlark.Function, more ...starlark.Value) (starlark.Value, error) {
		return starlark.Call(p.thread, fn, append(starlark.Tuple{p.args}, more...), nil)
	})
	limit, err := eval.number(b.limit, "limit", -1)
	offset, err2 := eval.number(b.offset, "offset", 0)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	cursor := starlark.Value(starlark.None)
	if b.cursor != nil {
		if cursor, err = eval(b.cursor); err != nil {
			return err
		}
	}
	if limit >= 0 && rows >= limit || offset > 0 || bool(cursor.Truth()) {
		return errors.New("rows that the run has changed belong into the list, and it is one page of several")
	}
	return nil
}

// counts changes the numbers that count the rows of a list.
func (p *patcher) counts(at *showing, more int) error {
	if more == 0 {
		return nil
	}
	if at.Count == nil {
		tokens := slices.Collect(jsontext.Pointer(*at.Rows).Tokens())
		if len(tokens) == 0 {
			return nil
		}
		above, ok := find(p.document, pointer(tokens[:len(tokens)-1]...))
		if !ok || p.document[above.Start] != '{' {
			return nil
		}
		beside, _ := partsAt(p.document, above)
		for _, m := range beside {
			if c := p.document[m.value.Start]; c == '-' || c >= '0' && c <= '9' {
				return fmt.Errorf("%q, beside the rows, may count them: say it with count, or count: none", m.name)
			}
		}
		return nil
	}
	for _, pointer := range at.Count {
		where, ok := find(p.document, pointer)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(string(where.Of(p.document)))
		if err != nil {
			return fmt.Errorf("%s, which counts the rows, is no whole number", pointer)
		}
		p.edits = append(p.edits, wire.Edit{Span: where, With: strconv.AppendInt(nil, int64(n+more), 10)})
	}
	return nil
}
