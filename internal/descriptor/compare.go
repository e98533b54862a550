package descriptor

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Compare says how what is offered differs from what is pinned, the server's
// instructions first, then the tools by name. Equal sets have no changes. The checks of
// [Check] are asked, too: a text that gains an instruction is dangerous.
func Compare(pinned, offered *Set) ([]Change, error) {
	old, err := read(pinned.Tools)
	if err != nil {
		return nil, fmt.Errorf("pinned tools of %s: %w", pinned.Upstream, err)
	}
	next, err := read(offered.Tools)
	if err != nil {
		return nil, fmt.Errorf("tools that %s offers: %w", offered.Upstream, err)
	}
	c := newChecker(offered.Upstream)
	var changes []Change
	if was, is := pinned.Instructions, offered.Instructions; was != is {
		ch := Change{State: Changed}
		ch.add("/instructions", Widened, "what the server tells every model is other: %s", shift(was, is))
		ch.gains(c.instructions(was), c.instructions(is))
		changes = append(changes, ch)
	}
	names := map[string][2]*definition{}
	for _, d := range old {
		names[d.name] = [2]*definition{d, nil}
	}
	for _, d := range next {
		names[d.name] = [2]*definition{names[d.name][0], d}
	}
	renamed := renames(names)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, is := names[name][0], names[name][1]
		ch := Change{Tool: Safe(name), State: Changed}
		switch {
		case is == nil:
			if slices.Contains(slices.Collect(maps.Values(renamed)), was) {
				continue
			}
			ch.State = Removed
			ch.add("", Narrowed, "the tool is no longer offered")
		case was == nil && renamed[name] != nil:
			ch.State, ch.Was = Renamed, Safe(renamed[name].name)
			ch.add("/name", Dangerous, "%s is now named %s: policies and pins know it by its name", ch.Was, ch.Tool)
		case was == nil:
			ch.State = Added
			ch.add("", Widened, "a tool that was not there")
			ch.gains(nil, c.tool(is))
		case was.sum == is.sum:
			continue
		default:
			ch.definition(was, is)
			ch.gains(c.tool(was), c.tool(is))
		}
		changes = append(changes, ch)
	}
	return changes, nil
}

// renames are tools that are as one was that is gone, but for the name: by the new name.
func renames(names map[string][2]*definition) map[string]*definition {
	body := func(d *definition) string {
		rest := maps.Clone(d.members)
		delete(rest, "name")
		return textOf(rest)
	}
	gone := map[string]*definition{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if d := names[name]; d[1] == nil {
			gone[body(d[0])] = d[0]
		}
	}
	found := map[string]*definition{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if d := names[name]; d[0] == nil && gone[body(d[1])] != nil {
			found[name] = gone[body(d[1])]
			delete(gone, body(d[1]))
		}
	}
	return found
}

// gains adds what the checks find now and did not find before.
func (c *Change) gains(was, is []Finding) {
	for i := range is {
		f := &is[i]
		if f.Severity < Medium || slices.ContainsFunc(was, func(o Finding) bool { return o.Code == f.Code && o.Pointer == f.Pointer }) {
			continue
		}
		c.add(f.Pointer, Dangerous, "it gains %s: %s", f.Code, f.Excerpt)
	}
}

// shift says how one text became another, by the part that differs.
func shift(was, is string) string {
	head := 0
	for head < min(len(was), len(is)) && was[head] == is[head] {
		head++
	}
	tail := 0
	for tail < min(len(was), len(is))-head && was[len(was)-1-tail] == is[len(is)-1-tail] {
		tail++
	}
	cut := func(s string) string {
		part := strings.TrimSpace(s[head : len(s)-tail])
		if part == "" {
			return "nothing"
		}
		return fmt.Sprintf("%q", Safe(part))
	}
	return cut(was) + " became " + cut(is)
}

// definition compares two definitions of one tool.
func (c *Change) definition(was, is *definition) {
	for _, name := range union(was.members, is.members) {
		a, hadA := was.members[name]
		b, hasB := is.members[name]
		if hadA && hasB && reflect.DeepEqual(a, b) {
			continue
		}
		at := pointer(name)
		switch name {
		case "inputSchema":
			d := schemas{Change: c, accepted: true}
			d.whole(at, a, b)
		case "outputSchema":
			switch {
			case !hasB:
				c.add(at, Dangerous, "it no longer says what it returns")
			case !hadA:
				c.add(at, Narrowed, "it says now what it returns")
			default:
				d := schemas{Change: c}
				d.whole(at, a, b)
			}
		case "annotations":
			c.hints(at, a, b)
		case "description", "title":
			c.text(at, a, b)
		case "icons", "_meta":
			c.add(at, Cosmetic, "%s differs", name)
		default:
			c.add(at, Dangerous, "%s differs, and it is not known what it means", Safe(name))
		}
	}
	if len(c.Parts) == 0 {
		c.add("", Cosmetic, "it is written in another way")
	}
}

func union(a, b map[string]any) []string {
	all := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.Sort(all)
	return slices.Compact(all)
}

func (c *Change) text(at string, a, b any) {
	was, isText := a.(string)
	is, areTexts := b.(string)
	if a != nil && !isText || b != nil && !areTexts {
		c.add(at, Dangerous, "it is no text")
		return
	}
	c.add(at, Cosmetic, "the text: %s", shift(was, is))
}

// hints compares what two definitions claim of themselves. That a tool claims to be
// safer is only a claim.
func (c *Change) hints(at string, a, b any) {
	was, okA := a.(map[string]any)
	is, okB := b.(map[string]any)
	if a != nil && !okA || b != nil && !okB {
		c.add(at, Dangerous, "the hints are no object")
		return
	}
	// What holds of a tool that says nothing (MCP 2025-11-25, ToolAnnotations), and
	// which value is the safer.
	rules := map[string]struct{ absent, safer bool }{
		"readOnlyHint": {false, true}, "destructiveHint": {true, false}, "idempotentHint": {false, true}, "openWorldHint": {true, false},
	}
	for _, name := range union(was, is) {
		if reflect.DeepEqual(was[name], is[name]) {
			continue
		}
		rule, isHint := rules[name]
		if !isHint {
			if name == "title" {
				c.text(at+pointer(name), was[name], is[name])
			} else {
				c.add(at+pointer(name), Dangerous, "the hint %s differs, and it is not known what it means", Safe(name))
			}
			continue
		}
		value := func(m map[string]any) bool {
			v, said := m[name]
			if !said {
				return rule.absent
			}
			b, isBool := v.(bool)
			return isBool && b || !isBool && !rule.safer
		}
		switch {
		case value(was) == value(is):
			c.add(at+pointer(name), Cosmetic, "%s says the same in another way", name)
		case value(is) == rule.safer:
			c.add(at+pointer(name), Cosmetic, "it claims now to be safer: %s", name)
		default:
			c.add(at+pointer(name), Dangerous, "it no longer claims to be safe: %s", name)
		}
	}
}

// schemas compares two schemas of one place of a tool.
type schemas struct {
	*Change
	accepted   bool // of arguments; else of results
	into, from *proof
	seen       map[[2]string]bool
	parts      int
}

// mostParts bounds what is said of one schema.
const mostParts = 200

func (d *schemas) whole(at string, a, b any) {
	if !oneDraft(a, b) {
		d.add(at, Dangerous, "the schemas are of different or unknown drafts, so they cannot be compared")
		return
	}
	d.into, d.from, d.seen = newProof(a, b), newProof(b, a), map[[2]string]bool{}
	before := len(d.Parts)
	d.compare(at, a, b)
	if len(d.Parts) == before { // definitions that nothing refers to
		d.add(at, Cosmetic, "the schema is written in another way and says the same")
	}
}

func (d *schemas) compare(at string, a, b any) {
	if d.into.same(a, b) {
		return
	}
	if d.parts++; d.parts > mostParts {
		if d.parts == mostParts+1 {
			d.add(at, Dangerous, "there are more differences than are compared")
		}
		return
	}
	toA, from, okA := d.into.a.follow(a)
	toB, to, okB := d.into.b.follow(b)
	if !okA || !okB {
		d.add(at, Dangerous, "it refers to what cannot be read here")
		return
	}
	if from != "" && to != "" {
		pair := [2]string{from, to}
		if d.seen[pair] {
			return
		}
		d.seen[pair] = true
	}
	x, isA := toA.(map[string]any)
	y, isB := toB.(map[string]any)
	if !isA || !isB {
		d.rest(at, toA, toB, nil)
		return
	}
	d.said(at, x, y)
	required := func(s map[string]any) map[string]bool {
		all := map[string]bool{}
		for _, v := range list(s["required"]) {
			if name, ok := v.(string); ok {
				all[name] = true
			}
		}
		return all
	}
	needA, needB := required(x), required(y)
	propsA, _ := x["properties"].(map[string]any)
	propsB, _ := y["properties"].(map[string]any)
	for _, name := range union(propsA, propsB) {
		was, had := propsA[name]
		is, has := propsB[name]
		at := at + pointer("properties", name)
		switch {
		case !had:
			d.appears(at, name, needB[name])
		case !has:
			d.vanishes(at, name, needA[name])
		default:
			d.need(at, name, needA[name], needB[name])
			d.compare(at, was, is)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needB)) {
		_, was := propsA[name]
		_, is := propsB[name]
		if !was && !is {
			d.need(at+pointer("required"), name, needA[name], true)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needA)) {
		_, was := propsA[name]
		_, is := propsB[name]
		if !was && !is && !needB[name] {
			d.need(at+pointer("required"), name, true, false)
		}
	}
	apart := []string{"properties", "required"}
	_, itemsA := x["items"].(map[string]any)
	_, itemsB := y["items"].(map[string]any)
	if itemsA && itemsB {
		d.compare(at+pointer("items"), x["items"], y["items"])
		apart = append(apart, "items")
	}
	d.rest(at, toA, toB, apart)
}

// said compares what is only said in a schema, to whoever fills it in.
func (d *schemas) said(at string, x, y map[string]any) {
	for _, k := range []string{"title", "description"} {
		if !reflect.DeepEqual(x[k], y[k]) {
			d.text(at+pointer(k), x[k], y[k])
		}
	}
	if !reflect.DeepEqual(x["default"], y["default"]) {
		d.add(at+pointer("default"), Widened, "what holds where nothing is said: %s became %s", orNothing(x["default"]), orNothing(y["default"]))
	}
	if !reflect.DeepEqual(x["examples"], y["examples"]) {
		d.add(at+pointer("examples"), Cosmetic, "the examples differ")
	}
}

func (d *schemas) appears(at, name string, needed bool) {
	switch {
	case !d.accepted:
		d.add(at, Widened, "it returns a new field %s", Safe(name))
	case needed:
		d.add(at, Dangerous, "a new argument %s has to be sent", Safe(name))
	default:
		d.add(at, Widened, "a new argument %s may be sent", Safe(name))
	}
}

func (d *schemas) vanishes(at, name string, needed bool) {
	switch {
	case !d.accepted:
		d.add(at, Dangerous, "the field %s is gone", Safe(name))
	case needed:
		d.add(at, Dangerous, "the argument %s, which every call has, is gone", Safe(name))
	default:
		d.add(at, Narrowed, "the argument %s is gone", Safe(name))
	}
}

func (d *schemas) need(at, name string, was, is bool) {
	switch {
	case was == is:
	case d.accepted && is:
		d.add(at, Dangerous, "the argument %s has to be sent now", Safe(name))
	case d.accepted:
		d.add(at, Widened, "the argument %s may be left out now", Safe(name))
	case is:
		d.add(at, Narrowed, "the field %s is always there now", Safe(name))
	default:
		d.add(at, Dangerous, "the field %s may be missing now", Safe(name))
	}
}

// rest compares two schemas without the keywords that were compared apart.
func (d *schemas) rest(at string, a, b any, apart []string) {
	strip := func(v any) any {
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		m = maps.Clone(m)
		for _, k := range slices.Concat(apart, annotations) {
			delete(m, k)
		}
		return m
	}
	x, y := strip(a), strip(b)
	if d.into.same(x, y) {
		return
	}
	what := differing(x, y)
	into, back := d.into.within(x, y), d.from.within(y, x)
	switch {
	case into && back:
		d.add(at, Cosmetic, "%s: written in another way, and the same values fit", what)
	case into:
		d.add(at, Widened, "%s: more values fit", what)
	case back:
		d.add(at, Narrowed, "%s: fewer values fit", what)
	default:
		d.add(at, Dangerous, "%s: other values fit, or it cannot be told which", what)
	}
}

// differing names the keywords in which two schemas differ, and shows short ones.
func differing(a, b any) string {
	x, isA := a.(map[string]any)
	y, isB := b.(map[string]any)
	if !isA || !isB {
		return Safe(textOf(a)) + " became " + Safe(textOf(b))
	}
	var all []string
	for _, k := range union(x, y) {
		if reflect.DeepEqual(x[k], y[k]) {
			continue
		}
		if was, is := orNothing(x[k]), orNothing(y[k]); len(was)+len(is) < mostShown {
			all = append(all, fmt.Sprintf("%s %s became %s", Safe(k), was, is))
		} else {
			all = append(all, Safe(k))
		}
	}
	if len(all) == 0 {
		return "what it refers to"
	}
	return strings.Join(all, ", ")
}

func orNothing(v any) string {
	if v == nil {
		return "nothing"
	}
	return Safe(textOf(v))
}
