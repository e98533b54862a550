package draft

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"sallyport/internal/wire"
)

// json appends a tree as JSON.
func (t *tree) json(b []byte) []byte {
	switch {
	case t.raw:
		return append(b, t.leaf...)
	case t.list:
		b = append(b, '[')
		for i, item := range t.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.json(b)
		}
		return append(b, ']')
	case t.leaf == "" && (len(t.names) > 0 || t.items != nil):
		b = append(b, '{')
		for i, item := range t.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.json(append(wire.AppendString(b, t.names[i]), ':'))
		}
		return append(b, '}')
	default:
		return wire.AppendString(b, t.leaf)
	}
}

// yaml is a tree as a node.
func (t *tree) yaml() *yaml.Node {
	switch {
	case t.raw:
		n := &yaml.Node{Kind: yaml.ScalarNode, Value: t.leaf}
		if len(t.leaf) > 0 && (t.leaf[0] == '{' || t.leaf[0] == '[') {
			n = &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
			if t.leaf[0] == '[' {
				n.Kind = yaml.SequenceNode
			}
		}
		return n
	case t.list:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range t.items {
			n.Content = append(n.Content, item.yaml())
		}
		return n
	case t.leaf == "" && (len(t.names) > 0 || t.items != nil):
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i, item := range t.items {
			n.Content = append(n.Content, text(t.names[i]), item.yaml())
		}
		return n
	default:
		return text(t.leaf)
	}
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if n.Style == yaml.LiteralStyle { // what Starlark reads stays on one line
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// widest is how long a line of a draft may be before it is broken up.
const widest = 100

// lines are "name: tree", on one line if it fits.
func lines(name string, t *tree, indent int) ([]string, error) {
	whole := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text(name), t.yaml()}}
	var flow func(n *yaml.Node, on bool)
	flow = func(n *yaml.Node, on bool) {
		if n.Kind == yaml.ScalarNode || len(n.Content) == 0 {
			return
		}
		n.Style = 0
		if on {
			n.Style = yaml.FlowStyle
		}
		for _, kid := range n.Content {
			flow(kid, on)
		}
	}
	for _, kid := range whole.Content {
		flow(kid, true)
	}
	out, err := encoded(whole)
	if err != nil {
		return nil, err
	}
	if len(out) > 1 || len(out[0])+indent > widest {
		// Only the outermost is broken up; each of its parts again stays on a line.
		top := whole.Content[1]
		top.Style = 0
		if out, err = encoded(whole); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(l string) bool { return len(l)+indent > widest }) && top.Kind == yaml.MappingNode {
			for _, kid := range top.Content {
				if kid.Kind == yaml.SequenceNode {
					kid.Style = 0
				}
			}
			if out, err = encoded(whole); err != nil {
				return nil, err
			}
		}
	}
	for i := range out {
		out[i] = strings.Repeat(" ", indent) + out[i]
	}
	return out, nil
}

func encoded(n *yaml.Node) ([]string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n"), e.Close()
}

// comment breaks a text into lines of a comment. Servers choose what some of it says:
// nothing of that leads out of the line.
func comment(indent int, text string) []string {
	text = strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, text)
	lead := strings.Repeat(" ", indent) + "# "
	var out []string
	line := lead
	for _, word := range strings.Fields(text) {
		if len(line) > len(lead) && len(line)+1+len(word) > widest {
			out, line = append(out, line), lead+"  "
		}
		if strings.TrimSpace(line) != "#" && !strings.HasSuffix(line, "  ") {
			line += " "
		}
		line += word
	}
	return append(out, line)
}

// out puts a line into a comment: it then has no effect.
func commented(list []string) []string {
	out := make([]string, len(list))
	for i, l := range list {
		trimmed := strings.TrimLeft(l, " ")
		out[i] = l[:len(l)-len(trimmed)] + "# " + trimmed
		if deeper := len(l) - len(trimmed); i > 0 { // what belongs together stays together
			first := len(list[0]) - len(strings.TrimLeft(list[0], " "))
			out[i] = strings.Repeat(" ", first) + "# " + strings.Repeat(" ", deeper-first) + trimmed
		}
	}
	return out
}

// tree of a table as the definition has it.
func (d *drafter) tableTree(t *table, all bool) *tree {
	key := leaf("%s", t.key[0])
	if len(t.key) > 1 {
		key = &tree{list: true}
		for _, k := range t.key {
			key.items = append(key.items, leaf("%s", k))
		}
	}
	out := members("key", key)
	add := func(name string, item *tree) { out.names, out.items = append(out.names, name), append(out.items, item) }
	if t.id != nil {
		id := members("style", t.id.style)
		if t.id.prefix != "" {
			id = members("style", t.id.style, "prefix", t.id.prefix)
		}
		if t.id.digits > 0 {
			id.names, id.items = append(id.names, "digits"), append(id.items, &tree{leaf: itoa(t.id.digits), raw: true})
		}
		add("id", id)
	}
	if len(t.seeds) > 0 {
		add("seed", leaf("%s", d.seedFile(t)))
	}
	fields := &tree{}
	for _, m := range t.row.members {
		f := &tree{}
		put := func(name string, item *tree) { f.names, f.items = append(f.names, name), append(f.items, item) }
		kind := map[byte]string{'{': "object", '[': "array", '"': "string", '0': "number", 'b': "bool"}[m.shape.kind]
		switch {
		case len(m.shape.enum) > 0:
			values := &tree{list: true}
			for _, v := range m.shape.enum {
				values.items = append(values.items, leaf("%s", v))
			}
			put("type", leaf("enum"))
			put("values", values)
		case m.shape.format == "date-time" && d.allTimes(t, m.name):
			put("type", leaf("time"))
		case kind == "number" && m.shape.whole:
			put("type", leaf("int"))
		case kind != "":
			put("type", leaf("%s", kind))
		}
		if m.required && !m.shape.nullable && !slices.ContainsFunc(t.seeds, func(row *val) bool { return row.member(m.name) == nil }) {
			put("required", &tree{leaf: "true", raw: true})
		}
		for i := range t.refs {
			if r := &t.refs[i]; r.field == m.name && r.onDelete > 0 && (all || r.why.p >= d.in.Threshold) {
				put("refs", leaf("%s", r.to.name))
				put("on_delete", leaf("%s", deletes[r.onDelete]))
			}
		}
		if len(f.names) > 0 {
			fields.names, fields.items = append(fields.names, m.name), append(fields.items, f)
		}
	}
	if len(fields.names) > 0 {
		add("fields", fields)
	}
	return out
}

// allTimes reports whether the recorded values of a member are times as twins have
// them.
func (d *drafter) allTimes(t *table, name string) bool {
	return !slices.ContainsFunc(t.seeds, func(row *val) bool {
		v := row.member(name)
		return v != nil && (v.kind != '"' || len(v.text) < 20 || v.text[10] != 'T')
	})
}

func (d *drafter) seedFile(t *table) string { return d.in.World + "-" + t.name + ".ndjson" }

func (d *drafter) files(tables []*table) map[string][]byte {
	files := map[string][]byte{}
	for _, t := range tables {
		if len(t.seeds) == 0 {
			continue
		}
		var b []byte
		for _, row := range t.seeds {
			b = append(append(b, row.raw...), '\n')
		}
		files[d.seedFile(t)] = b
	}
	return files
}

// binding of a tool with how it says its answers.
func (d *drafter) binding(t *tool, r *rule) *tree {
	b := *r.binding
	b.names, b.items = slices.Clone(b.names), slices.Clone(b.items)
	add := func(name, value string) { b.names, b.items = append(b.names, name), append(b.items, leaf("%s", value)) }
	world := d.talk()
	if t.talk.result != world.result {
		add("result", t.talk.result)
	}
	if t.talk.style != "" && t.talk.style != world.style && t.talk.result != "structured" && !t.plain() {
		add("style", t.talk.style)
	}
	if t.talk.apart {
		if e := t.spoken(); e != "" {
			add("text", e)
		}
	}
	return &b
}

// plain reports whether answers are text and no JSON.
func (t *tool) plain() bool {
	good := t.good()
	return len(good) > 0 && good[0].answer.kind == '"'
}

// spoken is what the text of an answer is, of its structured part or of the arguments.
func (t *tool) spoken() string {
	var good []*recorded
	for _, c := range t.good() {
		if c.text != nil && c.structured != nil {
			good = append(good, c)
		}
	}
	if len(good) == 0 {
		return ""
	}
	for _, name := range good[0].structured.names {
		if !slices.ContainsFunc(good, func(c *recorded) bool {
			v := c.structured.member(name)
			return v == nil || !saysWhole(v, *c.text)
		}) {
			return of("answer", name, true)
		}
	}
	if e, ok := template(good, func(c *recorded) *val { return text2val(*c.text) }); ok {
		return e.leaf
	}
	return ""
}

// saysWhole reports whether a text is a value: the string, or its JSON.
func saysWhole(v *val, text string) bool {
	if v.kind == '"' {
		return v.text == text
	}
	held, err := parse([]byte(text))
	return err == nil && !v.scalar() && held.raw == v.raw
}

// talk is how most tools say their answers.
func (d *drafter) talk() talk {
	count := func(of func(talk) string) string {
		seen := map[string]int{}
		best := ""
		for _, t := range d.tools {
			v := of(t.talk)
			if v == "" {
				continue
			}
			if seen[v]++; best == "" || seen[v] > seen[best] {
				best = v
			}
		}
		return best
	}
	style := count(func(t talk) string {
		return t.style
	})
	if style == "" {
		style = "compact"
	}
	return talk{result: count(func(t talk) string { return t.result }), style: style}
}

// definition is the draft as it is now, with everything in it.
func (d *drafter) definition() ([]byte, map[string][]byte, error) {
	tables, tools := &tree{}, &tree{}
	var used []*table
	for _, t := range d.tables {
		tables.names, tables.items = append(tables.names, t.name), append(tables.items, d.tableTree(t, true))
		used = append(used, t)
	}
	for _, t := range d.tools {
		if len(t.rules) > 0 {
			tools.names, tools.items = append(tools.names, t.name), append(tools.items, d.binding(t, &t.rules[t.chosen]))
		}
	}
	world := d.talk()
	top := members("world", d.in.World, "result", world.result, "style", world.style)
	if len(tables.names) > 0 {
		top.names, top.items = append(top.names, "tables"), append(top.items, tables)
	}
	if len(tools.names) > 0 {
		top.names, top.items = append(top.names, "tools"), append(top.items, tools)
	}
	raw := top.json(nil)
	if !json.Valid(raw) {
		return nil, nil, fmt.Errorf("the draft of %s is no JSON", d.in.World)
	}
	return raw, d.files(used), nil
}

// write makes the files and the findings.
func (d *drafter) write() (*Draft, error) {
	for _, t := range d.tools {
		if len(t.rules) == 0 || t.agreed < 2 || t.rules[t.chosen].why.p < d.in.Threshold {
			continue
		}
		for _, table := range t.rules[t.chosen].tables {
			for _, w := range []*why{&table.why, &table.kwhy} {
				w.raise(0.6, "%d recorded calls of %s agree with it", t.agreed, t.name)
				w.p = min(w.p, 0.99)
			}
		}
	}
	out := &Draft{}
	kept := map[*table]bool{}
	var text []string
	say := func(l ...string) { text = append(text, l...) }

	calls := 0
	for _, s := range d.in.Sessions {
		calls += len(s.Calls)
	}
	head := fmt.Sprintf("Drafted from the %d tools of %s", len(d.tools), d.in.Upstream)
	if len(d.in.Sessions) > 0 {
		head += fmt.Sprintf(" and %d recorded calls", calls)
	}
	say(comment(0, head+fmt.Sprintf(". Each part has a confidence and its reasons; what has less than %.2f is commented out. Correct it, then hold it against recordings with: sallyport world verify %s", d.in.Threshold, d.in.World))...)
	world := d.talk()
	say("world: "+d.in.World, "result: "+world.result, "style: "+world.style)
	if len(d.in.Cassettes) > 0 {
		list := &tree{list: true}
		for _, c := range d.in.Cassettes {
			list.items = append(list.items, leaf("%s", c))
		}
		l, err := lines("cassettes", list, 0)
		if err != nil {
			return nil, err
		}
		say("# What no rule answers is answered as recorded.")
		say(l...)
	}

	live := false
	var tables []string
	for _, t := range d.tables {
		p := min(t.why.p, t.kwhy.p)
		on := p >= d.in.Threshold
		kept[t] = on
		live = live || on
		l, err := d.tableLines(t)
		if err != nil {
			return nil, err
		}
		reasons := append(slices.Clone(t.why.reasons), "key "+strings.Join(t.key, ", ")+": "+joinReasons(t.kwhy.reasons))
		out.Findings = append(out.Findings,
			Finding{Kind: "table", Subject: t.name, Says: fmt.Sprintf("a table of %d seeds", len(t.seeds)), Confidence: round(t.why.p), Reasons: t.why.reasons, Kept: on, Lines: len(l)},
			Finding{Kind: "key", Subject: t.name, Says: strings.Join(t.key, ", "), Confidence: round(t.kwhy.p), Reasons: t.kwhy.reasons, Kept: on})
		tables = append(tables, comment(2, fmt.Sprintf("%.2f  %s", p, joinReasons(reasons)))...)
		for i := range t.refs {
			r := &t.refs[i]
			works := on && r.onDelete > 0 && r.why.p >= d.in.Threshold
			says := fmt.Sprintf("%s refers to %s", r.field, r.to.name)
			if r.onDelete > 0 {
				says += ", on_delete: " + deletes[r.onDelete]
			}
			out.Findings = append(out.Findings, Finding{Kind: "reference", Subject: t.name + "." + r.field, Says: says, Confidence: round(r.why.p), Reasons: r.why.reasons, Kept: works})
			if !works {
				says += fmt.Sprintf("; to hold rows to it: fields: {%s: {refs: %s, on_delete: restrict}}", r.field, r.to.name)
			}
			tables = append(tables, comment(2, fmt.Sprintf("%.2f  %s: %s", r.why.p, says, joinReasons(r.why.reasons)))...)
		}
		for _, m := range t.row.members {
			if len(m.shape.enum) > 0 {
				out.Findings = append(out.Findings, Finding{Kind: "enum", Subject: t.name + "." + m.name, Says: strings.Join(m.shape.enum, ", "), Confidence: 0.95, Reasons: []string{"the schema lists them"}, Kept: on})
			}
			if f := m.shape.format; f == "email" && !slices.Contains(t.key, m.name) {
				w := why{p: 0.5}
				w.say("addresses of one kind are often unique")
				out.Findings = append(out.Findings, Finding{Kind: "unique", Subject: t.name + "." + m.name, Says: "no two rows share it", Confidence: w.p, Reasons: w.reasons})
				tables = append(tables, comment(2, fmt.Sprintf("%.2f  unique: [%s]: %s", w.p, m.name, joinReasons(w.reasons)))...)
			}
			if m.shape.is('[') && m.shape.items.scalar() {
				w := d.orderOf(t, m.name)
				out.Findings = append(out.Findings, Finding{Kind: "ordered", Subject: t.name + "." + m.name, Says: "the order of its elements counts", Confidence: round(w.p), Reasons: w.reasons})
				tables = append(tables, comment(2, fmt.Sprintf("%.2f  ordered: [/%s]: %s", w.p, m.name, joinReasons(w.reasons)))...)
			}
		}
		if !on {
			l = commented(l)
		}
		tables = append(tables, l...)
	}
	if live {
		say("", "tables:")
	} else if len(tables) > 0 {
		say("", "# tables:")
	}
	say(tables...)

	var tools []string
	any := false
	for _, t := range d.tools {
		f := Finding{Kind: "tool", Subject: t.name, Calls: len(t.calls), Agreed: t.agreed}
		if len(t.rules) == 0 {
			f.Says, f.Reasons = "no rule", []string{d.unknown(t)}
			out.Findings = append(out.Findings, f)
			tools = append(tools, comment(2, fmt.Sprintf("0.00  %s: %s", t.name, f.Reasons[0]))...)
			continue
		}
		r := &t.rules[t.chosen]
		l, err := lines(t.name, d.binding(t, r), 2)
		if err != nil {
			return nil, err
		}
		missing := slices.IndexFunc(r.tables, func(t *table) bool { return !kept[t] })
		f.Confidence, f.Reasons, f.Lines = round(r.why.p), r.why.reasons, len(l)
		f.Says = r.binding.names[0]
		f.Kept = r.why.p >= d.in.Threshold && missing < 0
		if missing >= 0 && r.why.p >= d.in.Threshold {
			f.Reasons = append(slices.Clone(f.Reasons), "it needs the table "+r.tables[missing].name)
		}
		out.Findings = append(out.Findings, f)
		tools = append(tools, comment(2, fmt.Sprintf("%.2f  %s", r.why.p, joinReasons(f.Reasons)))...)
		if !f.Kept {
			l = commented(l)
		} else {
			any = true
		}
		tools = append(tools, l...)
	}
	if any {
		say("", "tools:")
	} else {
		say("", "# tools:")
	}
	say(tools...)
	out.Text = []byte(strings.Join(text, "\n") + "\n")
	var of []*table
	for _, t := range d.tables {
		if kept[t] {
			of = append(of, t)
			if n := len(t.seeds); n > 0 {
				out.Findings = append(out.Findings, Finding{Kind: "seed", Subject: t.name, Says: fmt.Sprintf("%d rows", n), Confidence: 0.9, Reasons: []string{"read before any change that names them"}, Kept: true})
			}
		}
	}
	out.Files = d.files(of)
	sortFindings(out.Findings)
	return out, nil
}

func round(p float64) float64 { return float64(int(p*100+0.5)) / 100 }

// tableLines are a table, a field to a line.
func (d *drafter) tableLines(t *table) ([]string, error) {
	whole := d.tableTree(t, false)
	out := []string{"  " + t.name + ":"}
	for i, name := range whole.names {
		if name != "fields" {
			l, err := lines(name, whole.items[i], 4)
			if err != nil {
				return nil, err
			}
			out = append(out, l...)
			continue
		}
		out = append(out, "    fields:")
		for j, field := range whole.items[i].names {
			l, err := lines(field, whole.items[i].items[j], 6)
			if err != nil {
				return nil, err
			}
			out = append(out, l...)
		}
	}
	return out, nil
}

// orderOf is how likely the order of a list of scalars counts.
func (d *drafter) orderOf(t *table, name string) why {
	w := why{p: 0.4}
	for _, row := range t.seeds {
		v := row.member(name)
		if v == nil || len(v.items) < 2 {
			continue
		}
		var texts []string
		for _, item := range v.items {
			texts = append(texts, item.text)
		}
		if !slices.IsSorted(texts) {
			w.raise(0.3, "a recorded list is in an order of its own")
			return w
		}
	}
	w.say("nothing recorded tells")
	return w
}

// unknown says why a tool has no rule.
func (d *drafter) unknown(t *tool) string {
	switch n := len(t.calls); {
	case n > 0:
		return fmt.Sprintf("nothing that fits its %d recorded calls is known; write its rule by hand", n)
	case len(d.in.Sessions) > 0:
		return "it was not recorded, and its name and schemas do not say enough; record it, or write its rule by hand"
	default:
		return "its name and schemas do not say enough; record it, or write its rule by hand"
	}
}
