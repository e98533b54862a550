package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/tailscale/hujson"
)

// MaxFile bounds the files that are read, in bytes.
const MaxFile = 16 << 20

var errByHand = errors.New("it says this in a way that cannot be changed without changing more: edit it by hand")

// splice replaces a range of text.
type splice struct {
	start, end int
	with       string
}

func apply(text []byte, edits ...splice) []byte {
	slices.SortStableFunc(edits, func(a, b splice) int { return a.start - b.start })
	out := bytes.Clone(text)
	for _, e := range slices.Backward(edits) {
		out = slices.Concat(out[:e.start], []byte(e.with), out[e.end:])
	}
	return out
}

// document is a file of JSON with comments that is being changed.
type document struct {
	text    []byte
	root    hujson.Value
	unit    string // of indentation
	newline string
}

// parseJSON reads a file of JSON with comments, which has to hold an object.
func parseJSON(text []byte) (*document, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{\n}\n")
	}
	root, err := hujson.Parse(text)
	if err != nil {
		return nil, err
	}
	d := &document{text: text, root: root, unit: "  ", newline: "\n"}
	if bytes.Contains(text, []byte("\r\n")) {
		d.newline = "\r\n"
	}
	o, ok := root.Value.(*hujson.Object)
	if !ok {
		return nil, errors.New("it holds something other than an object")
	}
	if len(o.Members) > 0 {
		if unit := d.indent(o.Members[0].Name.StartOffset); unit != "" {
			d.unit = unit
		}
	}
	return d, nil
}

// indent is the white space before a place on its line, "" if there is more.
func (d *document) indent(at int) string {
	line := d.text[bytes.LastIndexByte(d.text[:at], '\n')+1 : at]
	if strings.Trim(string(line), " \t") != "" {
		return ""
	}
	return string(line)
}

// member finds a member of an object; one that is there twice is an error.
func member(o *hujson.Object, name string) (at int, err error) {
	at = -1
	for i := range o.Members {
		if literal, ok := o.Members[i].Name.Value.(hujson.Literal); ok && literal.String() == name {
			if at >= 0 {
				return 0, fmt.Errorf("it has %q twice", name)
			}
			at = i
		}
	}
	return at, nil
}

// pretty is a value as it stands behind a margin.
func (d *document) pretty(value []byte, margin string) string {
	var b bytes.Buffer
	if json.Indent(&b, value, margin, d.unit) != nil {
		return string(value)
	}
	return strings.ReplaceAll(b.String(), "\n", d.newline)
}

// added are the edits that put an item behind the others of an object or array
// between start and end.
func (d *document) added(items []*hujson.Value, start, end int, margin, item string) []splice {
	closing := end - 1
	at := len(bytes.TrimRight(d.text[:closing], " \t\r\n"))
	inner := margin + d.unit
	tail := ""
	if !bytes.ContainsRune(d.text[at:closing], '\n') {
		tail = d.newline + margin
	}
	if len(items) == 0 {
		return []splice{{at, at, d.newline + inner + item + tail}}
	}
	last := items[len(items)-1]
	if own := d.lineIndent(last.StartOffset); own != "" && bytes.ContainsRune(d.text[start:last.StartOffset], '\n') {
		inner = own
	}
	if d.comma(last.EndOffset, closing) >= 0 {
		return []splice{{at, at, d.newline + inner + item + "," + tail}}
	}
	return []splice{{last.EndOffset, last.EndOffset, ","}, {at, at, d.newline + inner + item + tail}}
}

// comma is the place of a comma between two places, -1 if there is none; those in
// comments do not count.
func (d *document) comma(from, to int) int {
	for i := from; i < to; i++ {
		switch rest := d.text[i:to]; {
		case rest[0] == ',':
			return i
		case bytes.HasPrefix(rest, []byte("//")):
			n := bytes.IndexByte(rest, '\n')
			if n < 0 {
				return -1
			}
			i += n
		case bytes.HasPrefix(rest, []byte("/*")):
			n := bytes.Index(rest[2:], []byte("*/"))
			if n < 0 {
				return -1
			}
			i += n + 3
		}
	}
	return -1
}

// removed are the edits that take an item out: from, up to end, with the comma
// behind it, or the one in front of the last.
func (d *document) removed(from, end, previous, next int) []splice {
	start := from
	if own := bytes.TrimRight(d.text[:from], " \t"); len(own) > 0 && own[len(own)-1] == '\n' {
		start = len(bytes.TrimSuffix(own[:len(own)-1], []byte("\r")))
	}
	if c := d.comma(end, next); c >= 0 {
		if len(bytes.TrimSpace(d.text[end:c])) == 0 {
			return []splice{{start, c + 1, ""}}
		}
		return []splice{{start, end, ""}, {c, c + 1, ""}}
	}
	edits := []splice{{start, end, ""}}
	if previous >= 0 {
		if c := d.comma(previous, from); c >= 0 {
			edits = append(edits, splice{c, c + 1, ""})
		}
	}
	return edits
}

func values(o *hujson.Object) []*hujson.Value {
	list := make([]*hujson.Value, len(o.Members))
	for i := range o.Members {
		list[i] = &o.Members[i].Value
	}
	return list
}

func elements(a *hujson.Array) []*hujson.Value {
	list := make([]*hujson.Value, len(a.Elements))
	for i := range a.Elements {
		list[i] = &a.Elements[i]
	}
	return list
}

// quoted is a name as JSON has it.
func quoted(name string) string {
	b, err := compact(name)
	if err != nil {
		panic(err) // no text is without a form in JSON
	}
	return string(b)
}

// within returns the value of a member of the root, nil if there is none.
func (d *document) within(container string) (*hujson.Value, error) {
	o := d.root.Value.(*hujson.Object)
	i, err := member(o, container)
	if err != nil || i < 0 {
		return nil, err
	}
	return &o.Members[i].Value, nil
}

// putMember sets root.container.name.
func putMember(text []byte, container, name string, value []byte) ([]byte, error) {
	d, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	at, err := d.within(container)
	if err != nil {
		return nil, err
	}
	var out []byte
	switch {
	case at == nil:
		whole := append(append([]byte("{"+quoted(name)+":"), value...), '}')
		out = apply(d.text, d.added(values(d.root.Value.(*hujson.Object)), d.root.StartOffset, d.root.EndOffset, "", quoted(container)+": "+d.pretty(whole, d.unit))...)
	default:
		o, ok := at.Value.(*hujson.Object)
		if !ok {
			return nil, fmt.Errorf("its %q is no object", container)
		}
		i, err := member(o, name)
		if err != nil {
			return nil, err
		}
		if i >= 0 {
			old := &o.Members[i].Value
			if same(d.text[old.StartOffset:old.EndOffset], value) {
				return text, nil
			}
			out = apply(d.text, splice{old.StartOffset, old.EndOffset, d.pretty(value, d.lineIndent(old.StartOffset))})
		} else {
			margin := d.lineIndent(at.StartOffset)
			out = apply(d.text, d.added(values(o), at.StartOffset, at.EndOffset, margin, quoted(name)+": "+d.pretty(value, margin+d.unit))...)
		}
	}
	return out, checkJSON(d.text, out, func(root map[string]any) error {
		if root[container] == nil {
			root[container] = map[string]any{}
		}
		servers, ok := root[container].(map[string]any)
		if !ok {
			return errByHand
		}
		v, err := decoded(value)
		servers[name] = v
		return err
	})
}

// lineIndent is the white space that the line of a place begins with.
func (d *document) lineIndent(at int) string {
	start := bytes.LastIndexByte(d.text[:at], '\n') + 1
	line := d.text[start:at]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// removeMember takes root.container.name out.
func removeMember(text []byte, container, name string) (out []byte, found bool, err error) {
	d, err := parseJSON(text)
	if err != nil {
		return nil, false, err
	}
	at, err := d.within(container)
	if err != nil || at == nil {
		return text, false, err
	}
	o, ok := at.Value.(*hujson.Object)
	if !ok {
		return text, false, nil
	}
	i, err := member(o, name)
	if err != nil || i < 0 {
		return text, false, err
	}
	previous, next := -1, at.EndOffset-1
	if i > 0 {
		previous = o.Members[i-1].Value.EndOffset
	}
	if i+1 < len(o.Members) {
		next = o.Members[i+1].Name.StartOffset
	}
	out = apply(d.text, d.removed(o.Members[i].Name.StartOffset, o.Members[i].Value.EndOffset, previous, next)...)
	return out, true, checkJSON(d.text, out, func(root map[string]any) error {
		delete(root[container].(map[string]any), name)
		return nil
	})
}

// element finds the element of an array whose member key is id.
func element(a *hujson.Array, key, id string) int {
	return slices.IndexFunc(a.Elements, func(e hujson.Value) bool {
		o, ok := e.Value.(*hujson.Object)
		if !ok {
			return false
		}
		i, err := member(o, key)
		if err != nil || i < 0 {
			return false
		}
		literal, ok := o.Members[i].Value.Value.(hujson.Literal)
		return ok && literal.Kind() == '"' && literal.String() == id
	})
}

// putElement adds a value to the array root.container unless one with this id is
// there.
func putElement(text []byte, container, key, id string, value []byte) ([]byte, error) {
	d, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	at, err := d.within(container)
	if err != nil {
		return nil, err
	}
	var out []byte
	if at == nil {
		whole := append(append([]byte("["), value...), ']')
		out = apply(d.text, d.added(values(d.root.Value.(*hujson.Object)), d.root.StartOffset, d.root.EndOffset, "", quoted(container)+": "+d.pretty(whole, d.unit))...)
	} else {
		a, ok := at.Value.(*hujson.Array)
		if !ok {
			return nil, fmt.Errorf("its %q is no array", container)
		}
		if element(a, key, id) >= 0 {
			return text, nil
		}
		margin := d.lineIndent(at.StartOffset)
		out = apply(d.text, d.added(elements(a), at.StartOffset, at.EndOffset, margin, d.pretty(value, margin+d.unit))...)
	}
	return out, checkJSON(d.text, out, func(root map[string]any) error {
		list, _ := root[container].([]any)
		v, err := decoded(value)
		root[container] = append(list, v)
		return err
	})
}

// removeElement takes the element with this id out of the array root.container.
func removeElement(text []byte, container, key, id string) (out []byte, found bool, err error) {
	d, err := parseJSON(text)
	if err != nil {
		return nil, false, err
	}
	at, err := d.within(container)
	if err != nil || at == nil {
		return text, false, err
	}
	a, ok := at.Value.(*hujson.Array)
	if !ok {
		return text, false, nil
	}
	i := element(a, key, id)
	if i < 0 {
		return text, false, nil
	}
	previous, next := -1, at.EndOffset-1
	if i > 0 {
		previous = a.Elements[i-1].EndOffset
	}
	if i+1 < len(a.Elements) {
		next = a.Elements[i+1].StartOffset
	}
	out = apply(d.text, d.removed(a.Elements[i].StartOffset, a.Elements[i].EndOffset, previous, next)...)
	return out, true, checkJSON(d.text, out, func(root map[string]any) error {
		root[container] = slices.Delete(root[container].([]any), i, i+1)
		return nil
	})
}

// decoded is a value with every digit of its numbers.
func decoded(text []byte) (any, error) {
	standard, err := hujson.Standardize(bytes.Clone(text))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(standard))
	d.UseNumber()
	var v any
	err = d.Decode(&v)
	return v, err
}

func same(a, b []byte) bool {
	x, err := decoded(a)
	y, err2 := decoded(b)
	return err == nil && err2 == nil && reflect.DeepEqual(x, y)
}

// checkJSON holds what came of an edit against what it was to do.
func checkJSON(before, after []byte, change func(root map[string]any) error) error {
	want, err := decoded(before)
	if err != nil {
		return err
	}
	root, ok := want.(map[string]any)
	if !ok {
		return errByHand
	}
	if err := change(root); err != nil {
		return err
	}
	got, err := decoded(after)
	if err != nil || !reflect.DeepEqual(got, want) {
		return errByHand
	}
	return nil
}

// header is a table of a TOML file.
type header struct {
	keys  []string
	start int // of its line
}

// headers are the tables of a TOML file, in their order.
func headers(text []byte) ([]header, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	var list []header
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
			continue
		}
		h := header{start: -1}
		for keys := e.Key(); keys.Next(); {
			k := keys.Node()
			if h.start < 0 {
				h.start = bytes.LastIndexByte(text[:k.Raw.Offset], '\n') + 1
			}
			h.keys = append(h.keys, string(k.Data))
		}
		list = append(list, h)
	}
	return list, p.Error()
}

// tables are the ranges of the lines of container.name and of the tables below it.
func tables(text []byte, container, name string) ([]splice, error) {
	list, err := headers(text)
	if err != nil {
		return nil, err
	}
	var ranges []splice
	for i, h := range list {
		if len(h.keys) < 2 || h.keys[0] != container || h.keys[1] != name {
			continue
		}
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].start
		}
		// Comments in front of the next table are the next table's.
		for end > h.start {
			line := bytes.LastIndexByte(text[h.start:end-1], '\n') + 1 + h.start
			if said := bytes.TrimSpace(text[line:end]); line == h.start || len(said) > 0 && said[0] != '#' {
				break
			}
			end = line
		}
		ranges = append(ranges, splice{start: h.start, end: end})
	}
	return ranges, nil
}

func decodeTOML(text []byte) (map[string]any, error) {
	m := map[string]any{}
	err := toml.Unmarshal(text, &m)
	return m, err
}

// putTable sets container.name to the table that block writes.
func putTable(text []byte, container, name, block string) ([]byte, error) {
	before, err := decodeTOML(text)
	if err != nil {
		return nil, err
	}
	entry, err := decodeTOML([]byte(block))
	if err != nil {
		return nil, err
	}
	value := entry[container].(map[string]any)[name]
	servers, ok := before[container].(map[string]any)
	switch {
	case before[container] == nil:
		servers = map[string]any{}
		before[container] = servers
	case !ok:
		return nil, fmt.Errorf("its %q is no table", container)
	case reflect.DeepEqual(servers[name], value):
		return text, nil
	}
	servers[name] = value

	if bytes.Contains(text, []byte("\r\n")) {
		block = strings.ReplaceAll(block, "\n", "\r\n")
	}
	ranges, err := tables(text, container, name)
	if err != nil {
		return nil, err
	}
	var out []byte
	if len(ranges) > 0 {
		ranges[0].with = block
		out = apply(text, ranges...)
	} else {
		gap := ""
		if len(text) > 0 {
			gap = "\n"
			if text[len(text)-1] != '\n' {
				gap = "\n\n"
			}
		}
		out = slices.Concat(text, []byte(gap), []byte(block))
	}
	if after, err := decodeTOML(out); err != nil || !reflect.DeepEqual(after, before) {
		return nil, errByHand
	}
	return out, nil
}

// removeTable takes container.name out.
func removeTable(text []byte, container, name string) (out []byte, found bool, err error) {
	before, err := decodeTOML(text)
	if err != nil {
		return nil, false, err
	}
	servers, ok := before[container].(map[string]any)
	if !ok || servers[name] == nil {
		return text, false, nil
	}
	ranges, err := tables(text, container, name)
	if err != nil {
		return nil, false, err
	}
	for i := range ranges {
		// The empty line in front of it was its own.
		if r := &ranges[i]; bytes.HasSuffix(text[:r.start], []byte("\n\n")) {
			r.start--
		}
	}
	out = apply(text, ranges...)
	delete(servers, name)
	after, err := decodeTOML(out)
	if err != nil {
		return nil, false, errByHand
	}
	if after[container] == nil && len(servers) == 0 {
		delete(before, container)
	}
	if !reflect.DeepEqual(after, before) {
		return nil, false, errByHand
	}
	return out, true, nil
}
