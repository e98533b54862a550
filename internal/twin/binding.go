package twin

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.starlark.net/starlark"

	"sallyport"
	"sallyport/internal/wire"
)

// Answer is what a tool answers.
type Answer struct {
	// Structured is one JSON value without white space; nil where the answer is text
	// alone.
	Structured []byte
	// Text is what the result says in words, or the same value as text; it may be empty.
	Text string
	// HasText tells whether there is a text.
	HasText bool
	// IsError is set for an error that the world foresees.
	IsError bool
	// Changes are what the call did, by table and row.
	Changes []Change
}

// binding is a compiled Binding.
type binding struct {
	Binding
	verb  string
	table *table

	key, match, where, limit, offset, cursor, set, ret, text *starlark.Function

	steps []step
	call  starlark.Callable
}

type step struct {
	Step
	verb  string
	table *table

	when, require, be, key, set, ret *starlark.Function
}

// chosen are the names of what is set.
func chosen(of map[string]bool) []string {
	var names []string
	for name, set := range of {
		if set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *compiler) tableAt(at, name string) *table {
	t := c.world.byName[name]
	if t == nil {
		var names []string
		for _, t := range c.world.tables {
			names = append(names, t.name)
		}
		c.fail(at, "there is no table %q%s", name, near(name, names))
	}
	return t
}

func (c *compiler) binding(name string, def Binding) *binding {
	at := func(tokens ...string) []string { return append([]string{"tools", name}, tokens...) }
	b := &binding{Binding: def}
	b.Result = cmp.Or(def.Result, c.def.Result, "both")
	b.Style = cmp.Or(def.Style, c.def.Style, "compact")
	c.oneOf(pointer(at("result")...), "result", b.Result, results)
	c.oneOf(pointer(at("style")...), "style", b.Style, styles)

	verbs := map[string]string{"list": def.List, "get": def.Get, "create": def.Create, "patch": def.Patch, "delete": def.Delete}
	set := map[string]bool{"steps": len(def.Steps) > 0, "call": def.Call != ""}
	for verb, table := range verbs {
		set[verb] = table != ""
	}
	switch what := chosen(set); {
	case len(what) == 0 && len(def.Return) > 0:
		b.verb = "return"
	case len(what) != 1:
		c.fail(pointer(at()...), "a tool is one of list, get, create, patch, delete, steps, call, or a return alone; this one is %s", cmp.Or(strings.Join(what, " and "), "none"))
		return b
	default:
		b.verb = what[0]
	}
	if table := verbs[b.verb]; table != "" {
		b.table = c.tableAt(pointer(at(b.verb)...), table)
	}

	// What belongs to which kind.
	fits := map[string]string{
		"key": "get patch delete create", "match": "list", "where": "list", "order": "list", "limit": "list",
		"offset": "list", "cursor": "list", "fields": "list get", "set": "create patch", "script": "call",
		"return": "list get create patch delete return",
	}
	for _, member := range chosen(map[string]bool{
		"key": len(def.Key) > 0, "match": len(def.Match) > 0, "where": len(def.Where) > 0, "order": len(def.Order) > 0,
		"limit": len(def.Limit) > 0, "offset": len(def.Offset) > 0, "cursor": len(def.Cursor) > 0, "fields": len(def.Fields) > 0,
		"set": len(def.Set) > 0, "script": def.Script != "", "return": len(def.Return) > 0,
	}) {
		if !slices.Contains(strings.Fields(fits[member]), b.verb) {
			c.fail(pointer(at(member)...), "%s has no %s", b.verb, member)
		}
	}

	args := []string{"args"}
	row := []string{"args", "key", "row"}
	b.key = c.expr(def.Key, args, at("key")...)
	b.match = c.expr(def.Match, args, at("match")...)
	b.where = c.expr(def.Where, row, at("where")...)
	b.limit = c.expr(def.Limit, args, at("limit")...)
	b.offset = c.expr(def.Offset, args, at("offset")...)
	b.cursor = c.expr(def.Cursor, args, at("cursor")...)
	switch b.verb {
	case "list":
		b.ret = c.expr(def.Return, []string{"args", "rows", "total", "next"}, at("return")...)
	case "return":
		b.ret = c.expr(def.Return, args, at("return")...)
	case "create":
		b.set = c.expr(def.Set, args, at("set")...)
		b.ret = c.expr(def.Return, row, at("return")...)
	default:
		b.set = c.expr(def.Set, row, at("set")...)
		b.ret = c.expr(def.Return, row, at("return")...)
	}
	if b.text = c.expr(def.Text, []string{"args", "answer"}, at("text")...); b.text != nil && b.Result == "structured" {
		c.fail(pointer(at("text")...), "a tool whose result is structured alone has no text")
	}
	switch b.verb {
	case "get", "patch", "delete":
		if len(def.Key) == 0 {
			c.fail(pointer(at()...), "%s needs the key of the row, as in key: args.id", b.verb)
		}
	case "call":
		file := cmp.Or(def.Script, c.def.Script)
		scriptAt := at("script")
		if def.Script == "" {
			scriptAt = []string{"script"}
		}
		if file == "" {
			c.fail(pointer(at("call")...), "call needs a script: name its file here or for the whole world")
			break
		}
		globals := c.script(pointer(scriptAt...), file)
		if globals == nil {
			break
		}
		fn, ok := globals[def.Call].(*starlark.Function)
		if !ok || fn.NumParams() < 1 {
			c.fail(pointer(at("call")...), "%s has no function %s(args)%s", file, def.Call, near(def.Call, globals.Keys()))
			break
		}
		b.call = fn
	case "steps":
		c.steps(b, name)
	}
	return b
}

func (c *compiler) steps(b *binding, name string) {
	params := []string{"args"}
	for i, def := range b.Steps {
		at := func(tokens ...string) []string {
			return append([]string{"tools", name, "steps", strconv.Itoa(i)}, tokens...)
		}
		s := step{Step: def}
		what := chosen(map[string]bool{
			"require": len(def.Require) > 0, "let": def.Let != "", "insert": def.Insert != "", "update": def.Update != "",
			"delete": def.Delete != "", "return": len(def.Return) > 0,
		})
		if len(what) != 1 {
			c.fail(pointer(at()...), "a step is one of require, let, insert, update, delete, return; this one is %s", cmp.Or(strings.Join(what, " and "), "none"))
			continue
		}
		s.verb = what[0]
		s.when = c.expr(def.When, params, at("when")...)
		s.require = c.expr(def.Require, params, at("require")...)
		s.be = c.expr(def.Be, params, at("be")...)
		s.key = c.expr(def.Key, params, at("key")...)
		s.ret = c.expr(def.Return, params, at("return")...)
		setParams := params
		if s.verb == "update" && !slices.Contains(params, "row") {
			setParams = append(slices.Clone(params), "row")
		}
		s.set = c.expr(def.Set, setParams, at("set")...)
		needs := func(member string, there bool) {
			if !there {
				c.fail(pointer(at()...), "%s needs %s", s.verb, member)
			}
		}
		switch s.verb {
		case "require":
			needs("else, the text of the error", def.Else != "")
		case "let":
			needs("be", len(def.Be) > 0)
		case "insert":
			needs("set", len(def.Set) > 0)
			s.table = c.tableAt(pointer(at("insert")...), def.Insert)
		case "update":
			needs("key and set", len(def.Key) > 0 && len(def.Set) > 0)
			s.table = c.tableAt(pointer(at("update")...), def.Update)
		case "delete":
			needs("key", len(def.Key) > 0)
			s.table = c.tableAt(pointer(at("delete")...), def.Delete)
		}
		if made := cmp.Or(def.Let, def.As); made != "" {
			if !tableName.MatchString(made) || made == "args" || made == "tables" {
				c.fail(pointer(at()...), "%q cannot be a name here", made)
			}
			if !slices.Contains(params, made) {
				params = append(slices.Clone(params), made)
			}
		}
		b.steps = append(b.steps, s)
	}
}

// Call answers one call: number counts the calls of the run from 0, args is a JSON
// object or nothing at all. Either all of the call happens or nothing: after an
// error, and after an answer that is one, the tables are as they were. The error is a
// *sallyport.Refusal: InvalidArguments where args are no object; WorldGap where the
// world has no rule for the tool, or a rule with a fault; over a live system also an
// *[Unknown]. The clock does not advance for what is refused.
func (r *Run) Call(tool *sallyport.Tool, args []byte, number int) (Answer, error) {
	if len(args) == 0 {
		args = []byte("{}")
	}
	b := r.world.bindings[toolName(tool)]
	if b == nil {
		rule := r.world.draft(tool)
		gap := sallyport.Refuse(sallyport.WorldGap,
			fmt.Sprintf("world %s has no rule for tool %s", r.world.name, toolName(tool)),
			"add one to worlds/"+r.world.name+".yaml, say:\n"+rule)
		gap.Detail = map[string]any{"world": r.world.name, "tool": toolName(tool), "rule": rule}
		return Answer{}, gap
	}
	c := &call{run: r, number: number, left: r.world.limits.Memory}
	thread := c.begin(r.world.limits)
	given, args, err := c.arguments(args)
	if err != nil {
		return Answer{}, sallyport.Refuse(sallyport.InvalidArguments, "the arguments cannot be read: "+err.Error(), "pass the arguments as one JSON object")
	}
	before := r.Snapshot()
	raw, err := c.answer(thread, b, given, args)
	var answer Answer
	if err == nil {
		answer, err = c.result(thread, b, given, raw)
	}
	unknown := r.met()
	if unknown != nil {
		err = unknown
	}
	if err != nil {
		if resetErr := r.Reset(before); resetErr != nil {
			panic("twin: a call cannot be taken back: " + resetErr.Error())
		}
		if unknown != nil {
			return Answer{}, unknown
		}
		text, foreseen := b.foreseen(err)
		if !foreseen {
			return Answer{}, r.world.fault(tool, err)
		}
		answer = Answer{Text: text, HasText: true, IsError: true}
	}
	answer.Changes = r.changesSince(before)
	r.tick(number)
	return answer, nil
}

// arguments checks what an agent passed; it comes back without white space.
func (c *call) arguments(args []byte) (*starlark.Dict, []byte, error) {
	if err := wire.Each(args, func(string, []byte) error { return nil }); err != nil {
		return nil, nil, err
	}
	args = appendCompact(nil, args)
	v, err := c.vals.read(args)
	if errors.Is(err, errMemory) {
		return nil, nil, errors.New("they are too large")
	}
	if err != nil {
		return nil, nil, err
	}
	return v.(*starlark.Dict), args, nil
}

// foreseen is the text of an error that the tool answers with.
func (b *binding) foreseen(err error) (text string, ok bool) {
	var said *expected
	if errors.As(err, &said) {
		return said.text, true
	}
	var v *violation
	if !errors.As(err, &v) {
		return "", false
	}
	switch v.kind {
	case "missing":
		return cmp.Or(b.Missing, v.text), true
	case "duplicate":
		return cmp.Or(b.Duplicate, v.text), true
	case "conflict":
		return cmp.Or(b.Conflict, v.text), true
	default:
		// What an agent passes can be of a wrong type; what a script writes must not be.
		return v.text, b.verb == "create" || b.verb == "patch"
	}
}

// fault refuses because of a rule that is wrong.
func (w *World) fault(tool *sallyport.Tool, err error) *sallyport.Refusal {
	where, what := place(err)
	reason := fmt.Sprintf("the rule of world %s for tool %s is at fault: %s", w.name, toolName(tool), what)
	hint := "correct the tool's rule in worlds/" + w.name + ".yaml"
	if where != "" {
		reason = fmt.Sprintf("the rule of world %s for tool %s is at fault at %s: %s", w.name, toolName(tool), where, what)
	}
	switch {
	case errors.Is(err, errMemory):
		hint = "make it need less, or raise limits.memory"
	case strings.Contains(what, "too many steps"):
		hint = "find rows by match or find instead of where, or raise limits.steps"
	}
	refusal := sallyport.Refuse(sallyport.WorldGap, reason, hint)
	refusal.Detail = map[string]any{"world": w.name, "tool": toolName(tool), "place": where}
	return refusal
}

// result puts an answer into the forms that the binding asks for.
func (c *call) result(t *starlark.Thread, b *binding, args *starlark.Dict, raw []byte) (Answer, error) {
	var a Answer
	if b.Result != "structured" {
		said := raw
		if b.text != nil {
			v, err := c.vals.read(raw)
			if err == nil {
				v, err = starlark.Call(t, b.text, starlark.Tuple{args, v}, nil)
			}
			if err == nil {
				said, err = c.vals.write(nil, v)
			}
			if err != nil {
				return Answer{}, err
			}
		}
		text, err := styled(said, b.Style)
		if err != nil {
			return Answer{}, err
		}
		a.Text, a.HasText = text, true
	}
	if b.Result != "text" {
		a.Structured = raw
	}
	return a, nil
}

// answer is the JSON of what the tool answers, without white space.
func (c *call) answer(t *starlark.Thread, b *binding, args *starlark.Dict, rawArgs []byte) ([]byte, error) {
	eval := func(fn *starlark.Function, more ...starlark.Value) (starlark.Value, error) {
		return starlark.Call(t, fn, append(starlark.Tuple{args}, more...), nil)
	}
	give := func(fn *starlark.Function, more ...starlark.Value) ([]byte, error) {
		v, err := eval(fn, more...)
		if err != nil {
			return nil, err
		}
		return c.vals.write(nil, v)
	}
	switch b.verb {
	case "call":
		v, err := starlark.Call(t, b.call, starlark.Tuple{args}, nil)
		if err != nil {
			return nil, err
		}
		return c.vals.write(nil, v)
	case "steps":
		return c.runSteps(t, b, args)
	case "list":
		return c.list(b, eval, give)
	case "return":
		return give(b.ret)
	}

	key := ""
	if b.key != nil {
		v, err := eval(b.key)
		if err != nil {
			return nil, err
		}
		if key, err = c.keyText(b.table, v); err != nil {
			return nil, err
		}
	}
	// asValues are what set and return know as key and row.
	asValues := func(row []byte) (k, v starlark.Value, err error) {
		if k, err = c.vals.read([]byte(key)); err != nil {
			return nil, nil, err
		}
		v, err = c.vals.read(row)
		return k, v, err
	}
	// set is what the binding sets, or else the arguments.
	set := func(more ...starlark.Value) ([]byte, error) {
		if b.set != nil {
			return give(b.set, more...)
		}
		return rawArgs, nil
	}
	var row []byte
	switch b.verb {
	case "create":
		made, err := set()
		if err != nil {
			return nil, err
		}
		if made[0] != '{' {
			return nil, fmt.Errorf("set is no object but %s", short(made))
		}
		if key, row, err = c.run.insert(b.table, key, made); err != nil {
			return nil, err
		}
	case "patch":
		_, before, ok := c.run.get(b.table, key)
		if !ok {
			return nil, violate("missing", "%s not found", key)
		}
		k, v, err := asValues(before)
		if err != nil {
			return nil, err
		}
		changes, err := set(k, v)
		if err != nil {
			return nil, err
		}
		if row, err = c.run.patch(b.table, key, changes); err != nil {
			return nil, err
		}
	case "delete":
		var err error
		if row, err = c.run.remove(b.table, key); err != nil {
			return nil, err
		}
	default: // get
		var ok bool
		if _, row, ok = c.run.get(b.table, key); !ok {
			return nil, violate("missing", "%s not found", key)
		}
		if len(b.Fields) > 0 {
			row = pick(row, b.Fields)
		}
	}
	if b.ret == nil {
		return row, nil
	}
	k, v, err := asValues(row)
	if err != nil {
		return nil, err
	}
	return give(b.ret, k, v)
}

// pick is an object of some members, in the order in which they are named.
func pick(row []byte, names []string) []byte {
	values := map[string][]byte{}
	eachMember(row, func(name, raw []byte) { values[string(name)] = raw })
	var members []member
	for _, name := range names {
		if raw, ok := values[name]; ok {
			members = append(members, member{name, raw})
		}
	}
	return object(members)
}

type evaluate func(fn *starlark.Function, more ...starlark.Value) (starlark.Value, error)

// number is a whole number that an expression gives; None is otherwise.
func (eval evaluate) number(fn *starlark.Function, what string, otherwise int) (int, error) {
	if fn == nil {
		return otherwise, nil
	}
	v, err := eval(fn)
	if err != nil || v == starlark.None {
		return otherwise, err
	}
	n := 0
	if err := starlark.AsInt(v, &n); err != nil || n < 0 {
		return 0, &expected{fmt.Sprintf("%s must be a whole number from 0", what)}
	}
	return n, nil
}

func (c *call) list(b *binding, eval evaluate, give func(fn *starlark.Function, more ...starlark.Value) ([]byte, error)) ([]byte, error) {
	limit, err := eval.number(b.limit, "limit", -1)
	if err != nil {
		return nil, err
	}
	offset, err := eval.number(b.offset, "offset", 0)
	if err != nil {
		return nil, err
	}
	if b.cursor != nil {
		v, err := eval(b.cursor)
		if err != nil {
			return nil, err
		}
		if text, ok := starlark.AsString(v); ok && text != "" {
			if offset, err = readCursor(text); err != nil {
				return nil, err
			}
		}
	}

	var rows [][]byte
	total := 0
	all := b.ret != nil || len(b.Order) > 0 // whether every row has to be seen
	take := func(key string, row []byte) (more bool, err error) {
		if b.where != nil {
			k, err := c.vals.read([]byte(key))
			if err != nil {
				return false, err
			}
			v, err := c.vals.read(row)
			if err != nil {
				return false, err
			}
			yes, err := eval(b.where, k, v)
			if err != nil {
				return false, err
			}
			if !yes.Truth() {
				return true, nil
			}
		}
		total++
		if len(b.Order) > 0 || total > offset && (limit < 0 || len(rows) < limit) {
			if err := c.charge(24); err != nil {
				return false, err
			}
			rows = append(rows, row)
		}
		return all || limit < 0 || len(rows) < limit, nil
	}
	if err := c.candidates(b, eval, take); err != nil {
		return nil, err
	}
	if len(b.Order) > 0 {
		sortRows(rows, b.Order)
		rows = rows[min(offset, len(rows)):]
		if limit >= 0 {
			rows = rows[:min(limit, len(rows))]
		}
	}

	answer := []byte{'['}
	for i, row := range rows {
		if i > 0 {
			answer = append(answer, ',')
		}
		if len(b.Fields) > 0 {
			row = pick(row, b.Fields)
		}
		if err := c.charge(len(row) + 1); err != nil {
			return nil, err
		}
		answer = append(answer, row...)
	}
	answer = append(answer, ']')
	if b.ret == nil {
		return answer, nil
	}
	values, err := c.vals.read(answer)
	if err != nil {
		return nil, err
	}
	next := starlark.Value(starlark.None)
	if end := offset + len(rows); len(rows) > 0 && end < total {
		next = starlark.String(writeCursor(end))
	}
	return give(b.ret, values, starlark.MakeInt(total), next)
}

// A cursor is a place in a list, in a form that says nothing.
func writeCursor(n int) string { return "c" + strconv.FormatInt(int64(n)*7919+104729, 36) }

func readCursor(text string) (int, error) {
	v, err := strconv.ParseInt(strings.TrimPrefix(text, "c"), 36, 64)
	n := (v - 104729) / 7919
	if err != nil || n < 0 || writeCursor(int(n)) != text {
		return 0, &expected{"the cursor is not valid"}
	}
	return int(n), nil
}

// candidates offers the rows that match, or all rows, until take wants no more.
func (c *call) candidates(b *binding, eval evaluate, take func(key string, row []byte) (bool, error)) error {
	if b.match != nil {
		names, values, err := matched(func() (starlark.Value, error) { return eval(b.match) })
		if err != nil {
			return err
		}
		found, err := c.match(b.table, names, values)
		if err != nil {
			return err
		}
		for _, n := range found {
			key, row := c.run.at(b.table, n)
			if more, err := take(key, row); err != nil || !more {
				return err
			}
		}
		return nil
	}
	var err error
	c.run.each(b.table, func(_ int, key, row []byte) bool {
		var more bool
		more, err = take(string(key), row)
		return err == nil && more
	})
	return err
}

// matched are the fields and values that a match asks for.
func matched(match func() (starlark.Value, error)) (names []string, values []starlark.Value, err error) {
	v, err := match()
	if err != nil {
		return nil, nil, err
	}
	dict, ok := v.(*starlark.Dict)
	if !ok || dict.Len() == 0 {
		return nil, nil, errors.New("match is an object of fields and values")
	}
	for _, item := range dict.Items() {
		name, _ := starlark.AsString(item[0])
		names, values = append(names, name), append(values, item[1])
	}
	return names, values, nil
}

// sortRows orders rows by fields; "-amount" has the greatest first. Null and absent
// come first, then booleans, numbers, text. Equal rows stay in their order.
func sortRows(rows [][]byte, order []string) {
	type sorted struct {
		row  []byte
		keys []sortKey
	}
	all := make([]sorted, len(rows))
	for i, row := range rows {
		all[i] = sorted{row, sortKeys(row, order)}
	}
	slices.SortStableFunc(all, func(a, b sorted) int { return compareKeys(a.keys, b.keys, order) })
	for i := range all {
		rows[i] = all[i].row
	}
}

// precedes reports whether a row stands before another one in an order.
func precedes(row, other []byte, order []string) bool {
	return compareKeys(sortKeys(row, order), sortKeys(other, order), order) < 0
}

func sortKeys(row []byte, order []string) []sortKey {
	keys := make([]sortKey, len(order))
	eachMember(row, func(name, raw []byte) {
		for j, o := range order {
			if strings.TrimPrefix(o, "-") == string(name) {
				keys[j] = makeSortKey(raw)
			}
		}
	})
	return keys
}

func compareKeys(a, b []sortKey, order []string) int {
	for j, o := range order {
		if d := a[j].compare(b[j]); d != 0 {
			if o[0] == '-' {
				return -d
			}
			return d
		}
	}
	return 0
}

type sortKey struct {
	class  int
	number starlark.Value
	text   string
}

func makeSortKey(raw []byte) sortKey {
	switch c := raw[0]; {
	case c == 'n':
		return sortKey{}
	case c == 'f':
		return sortKey{class: 1}
	case c == 't':
		return sortKey{class: 2}
	case c == '"':
		return sortKey{class: 4, text: string(unquoted(raw))}
	case c == '{' || c == '[':
		return sortKey{class: 5, text: string(raw)}
	default:
		v, _ := number(string(raw))
		return sortKey{class: 3, number: v}
	}
}

func (a sortKey) compare(b sortKey) int {
	if d := cmp.Compare(a.class, b.class); d != 0 || a.class < 3 {
		return d
	}
	if a.class > 3 {
		return cmp.Compare(a.text, b.text)
	}
	if less, err := starlark.Compare(lessThan, a.number, b.number); err == nil && less {
		return -1
	}
	if less, err := starlark.Compare(lessThan, b.number, a.number); err == nil && less {
		return 1
	}
	return 0
}

func (c *call) runSteps(t *starlark.Thread, b *binding, args *starlark.Dict) ([]byte, error) {
	scope := map[string]starlark.Value{"args": args}
	// Parameters are those that a step was compiled with; what is not let yet is None.
	eval := func(fn *starlark.Function) (starlark.Value, error) {
		values := make(starlark.Tuple, fn.NumParams())
		for i := range values {
			name, _ := fn.Param(i)
			if values[i] = scope[name]; values[i] == nil {
				values[i] = starlark.None
			}
		}
		return starlark.Call(t, fn, values, nil)
	}
	for i := range b.steps {
		s := &b.steps[i]
		if s.when != nil {
			if yes, err := eval(s.when); err != nil {
				return nil, err
			} else if !yes.Truth() {
				continue
			}
		}
		key, result := "", starlark.Value(starlark.None)
		if s.key != nil {
			v, err := eval(s.key)
			if err != nil {
				return nil, err
			}
			if key, err = c.keyText(s.table, v); err != nil {
				return nil, err
			}
		}
		var err error
		switch s.verb {
		case "require":
			if result, err = eval(s.require); err == nil && !result.Truth() {
				err = &expected{s.Else}
			}
		case "let":
			result, err = eval(s.be)
		case "insert":
			if result, err = eval(s.set); err == nil {
				result, err = c.insert(s.table, key, result)
			}
		case "update":
			result, err = c.updateStep(s, key, scope, eval)
		case "delete":
			var raw []byte
			if raw, err = c.run.remove(s.table, key); err == nil {
				result, err = c.vals.read(raw)
			}
		default: // return
			v, err := eval(s.ret)
			if err != nil {
				return nil, err
			}
			return c.vals.write(nil, v)
		}
		if err != nil {
			return nil, err
		}
		if name := cmp.Or(s.Let, s.As); name != "" {
			scope[name] = result
		}
	}
	return []byte("null"), nil
}

// updateStep changes members of a row. Its set may speak of row, unless an earlier
// step has let something of that name.
func (c *call) updateStep(s *step, key string, scope map[string]starlark.Value, eval func(*starlark.Function) (starlark.Value, error)) (starlark.Value, error) {
	_, raw, ok := c.run.get(s.table, key)
	if !ok {
		return nil, violate("missing", "%s not found", key)
	}
	if _, taken := scope["row"]; !taken {
		row, err := c.vals.read(raw)
		if err != nil {
			return nil, err
		}
		scope["row"] = row
		defer delete(scope, "row")
	}
	v, err := eval(s.set)
	if err != nil {
		return nil, err
	}
	changes, ok := v.(*starlark.Dict)
	if !ok {
		return nil, fmt.Errorf("set is no object but %s", v.Type())
	}
	if raw, err = c.update(s.table, key, changes); err != nil {
		return nil, err
	}
	return c.vals.read(raw)
}
