package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a file people write, maxPins one that `upstream pin` writes,
// both in bytes.
const (
	maxFile = 1 << 20
	maxPins = 32 << 20
)

// maxProblems bounds what is said of one file.
const maxProblems = 50

// maxDepth bounds how deep values may nest in a YAML file.
const maxDepth = 64

// document is one YAML file while it is read: a tree of nodes that know their
// places, and what is wrong with it so far.
type document struct {
	path     string
	lines    []string
	root     *yaml.Node // nil if the text is not one YAML document
	problems Problems
	notes    Problems
	// secrets are values that nothing may repeat.
	secrets []string
}

var yamlErrorLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// parseYAML reads one document of plain YAML: no anchors, aliases or tags, no
// key twice, no second document.
func parseYAML(path string, text []byte) *document {
	d := &document{path: path, lines: strings.Split(string(text), "\n")}
	for i, line := range d.lines {
		if !utf8.ValidString(line) {
			d.problems = append(d.problems, Problem{Path: path, Line: i + 1, Message: "not UTF-8 text", Hint: "save the file as UTF-8"})
			return d
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		d.problem(nil, "", "the file is empty")
		return d
	}
	if err != nil {
		d.syntax(err)
		return d
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			d.syntax(err)
			return d
		}
		d.problem(&second, "write one file for each", "a second document in one file")
		return d
	}
	if d.plain(doc.Content[0], 1) {
		d.root = doc.Content[0]
		d.collectSecrets(d.root)
	}
	return d
}

// syntax records what the YAML parser said. Its errors name a line but for those
// in the first one.
func (d *document) syntax(err error) {
	p := Problem{Path: d.path, Line: 1, Message: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlErrorLine.FindStringSubmatch(err.Error()); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Message = "not YAML: " + m[2]
	}
	if name, ok := strings.CutPrefix(err.Error(), "yaml: unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		p.Message = "an alias of an anchor: files are written out in full"
		for i, line := range d.lines {
			if before, _, ok := strings.Cut(line, "*"+name); ok {
				p.Line, p.Column = i+1, utf8.RuneCountInString(before)+1
				break
			}
		}
	}
	p.Line = min(p.Line, len(d.lines))
	line := d.lines[p.Line-1]
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		p.Hint = "indent with spaces; YAML allows no tabs"
	case strings.Contains(p.Message, "mapping values are not allowed"):
		p.Hint = `put a text that holds ": " in quotes`
	case strings.Contains(p.Message, "alphabetic or numeric"), strings.Contains(p.Message, "cannot start any token"):
		p.Hint = "put a text that begins with *, &, @, % or ` in quotes"
	}
	p.Message = maskSecrets(p.Message)
	p.Excerpt = brokenExcerpt(d.lines, p.Line)
	d.problems = append(d.problems, p)
}

// plain refuses what makes a YAML file mean something other than it shows, and
// reports whether the rest can be judged all the same.
func (d *document) plain(n *yaml.Node, depth int) bool {
	switch {
	case depth > maxDepth:
		d.problem(n, "", "values nest deeper than %d", maxDepth)
		return false
	case n.Kind == yaml.AliasNode:
		d.problem(n, "", "an alias of an anchor: files are written out in full")
		return false
	case n.Anchor != "":
		d.problem(n, "", "an anchor: files are written out in full")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		d.problem(n, "leave the tag out", "a YAML tag: the type of a value follows from its key")
		return false
	}
	ok := true
	if n.Kind == yaml.MappingNode {
		first := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				d.problem(key, "", "a key has to be text")
				ok = false
			} else if was, twice := first[key.Value]; twice {
				d.problem(key, "", "key %s is written twice; first in line %d", quote(key.Value), was.Line)
			} else {
				first[key.Value] = key
			}
		}
	}
	for _, c := range n.Content {
		ok = d.plain(c, depth+1) && ok
	}
	return ok
}

func (d *document) problem(at *yaml.Node, hint, format string, args ...any) {
	if d.full() {
		return
	}
	if len(d.problems) == maxProblems-1 {
		d.problems = append(d.problems, Problem{Path: d.path, Message: "and more: put these right first"})
		return
	}
	d.problems = append(d.problems, d.say(at, hint, fmt.Sprintf(format, args...)))
}

// note is a problem that hinders nothing.
func (d *document) note(at *yaml.Node, hint, format string, args ...any) {
	d.notes = append(d.notes, d.say(at, hint, fmt.Sprintf(format, args...)))
}

func (d *document) say(at *yaml.Node, hint, message string) Problem {
	p := Problem{Path: d.path, Message: message, Hint: hint}
	if at != nil {
		p.Line, p.Column = at.Line, at.Column
		p.Excerpt = excerpt(d.lines, at.Line)
	}
	return p
}

// full reports whether enough is wrong with the file already.
func (d *document) full() bool { return len(d.problems) >= maxProblems }

// value is the node at the end of a path of keys (and indexes of lists), or the
// nearest node above it that there is.
func (d *document) value(path ...string) *yaml.Node {
	_, v := d.find(path)
	return v
}

// key is the node of the last key of a path, or the nearest above it.
func (d *document) key(path ...string) *yaml.Node {
	k, _ := d.find(path)
	return k
}

func (d *document) find(path []string) (key, value *yaml.Node) {
	key, value = d.root, d.root
	for _, p := range path {
		var k, v *yaml.Node
		switch {
		case value == nil:
		case value.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(value.Content); i += 2 {
				if value.Content[i].Value == p {
					k, v = value.Content[i], value.Content[i+1]
					break
				}
			}
		case value.Kind == yaml.SequenceNode:
			if i, err := strconv.Atoi(p); err == nil && i >= 0 && i < len(value.Content) {
				k, v = value.Content[i], value.Content[i]
			}
		}
		if v == nil {
			return key, key
		}
		key, value = k, v
	}
	return key, value
}

// has reports whether a key is written, with whatever value.
func (d *document) has(path ...string) bool {
	n := d.root
	for _, p := range path {
		if n == nil || n.Kind != yaml.MappingNode {
			return false
		}
		parent := n
		n = nil
		for i := 0; i+1 < len(parent.Content); i += 2 {
			if parent.Content[i].Value == p {
				n = parent.Content[i+1]
				break
			}
		}
	}
	return n != nil
}

// read decodes the document into the struct that to points at. What is wrong is
// in d.problems; fields of the struct that are wrong stay zero.
func (d *document) read(to any) {
	if d.root != nil {
		d.decode(d.root, reflect.ValueOf(to).Elem(), "", "")
	}
}

// duration is a length of time as people write it: 30s, 1m30s.
type duration time.Duration

// size is a number of bytes as people write it: 4MiB, 512KiB, 100.
type size int

var (
	rawType      = reflect.TypeFor[json.RawMessage]()
	durationType = reflect.TypeFor[duration]()
	sizeType     = reflect.TypeFor[size]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decode reads n into v. For messages, path is where the value is and name what
// it is called: "stages.staging.deadline" and "deadline".
func (d *document) decode(n *yaml.Node, v reflect.Value, path, name string) {
	t := v.Type()
	switch {
	case t == rawType:
		raw, ok := d.json(n)
		if ok {
			v.SetBytes(raw)
		}
	case t == durationType:
		d.duration(n, v, name)
	case t == sizeType:
		d.size(n, v, name)
	case reflect.PointerTo(t).Implements(textType):
		text, ok := d.text(n, name)
		if !ok {
			return
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			v.SetZero()
			words := enumWords(t)
			d.problem(n, didYouMean(text, words), "%s is %s, want one of %s", name, quote(text), strings.Join(words, ", "))
		}
	case t.Kind() == reflect.Pointer:
		p := reflect.New(t.Elem())
		d.decode(n, p.Elem(), path, name)
		v.Set(p)
	case t.Kind() == reflect.Struct:
		d.fields(n, v, path, name)
	case t.Kind() == reflect.Map:
		d.entries(n, v, path, name)
	case t.Kind() == reflect.Slice:
		if isNull(n) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			hint := ""
			if n.Kind == yaml.ScalarNode {
				hint = "write [" + sample(n.Value) + "]"
			}
			d.problem(n, hint, "%s has to be a list, this is %s", name, kindOf(n))
			return
		}
		list := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, c := range n.Content {
			d.decode(c, list.Index(i), path+"."+strconv.Itoa(i), name)
		}
		v.Set(list)
	case t.Kind() == reflect.String:
		text, ok := d.text(n, name)
		if !ok {
			return
		}
		if w, ok := v.Interface().(interface{ words() []string }); ok && !slices.Contains(w.words(), text) {
			d.problem(n, didYouMean(text, w.words()), "%s is %s, want one of %s", name, quote(text), strings.Join(w.words(), ", "))
			return
		}
		v.SetString(text)
	case t.Kind() == reflect.Bool:
		if n.Kind == yaml.ScalarNode && n.Tag == "!!bool" {
			v.SetBool(strings.EqualFold(n.Value, "true"))
			return
		}
		d.problem(n, boolHint(n.Value), "%s has to be true or false, this is %s", name, kindOf(n))
	case t.Kind() == reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || i <= 0 || !jsonNumber.MatchString(n.Value) {
			d.problem(n, "", "%s has to be a whole number greater than zero", name)
			return
		}
		v.SetInt(int64(i))
	default:
		panic("config: no way to read a " + t.String())
	}
}

func boolHint(text string) string {
	switch strings.ToLower(text) {
	case "yes", "on", "y":
		return "write true"
	case "no", "off", "n":
		return "write false"
	}
	return ""
}

// sample is a value as a hint repeats it.
func sample(s string) string {
	switch {
	case len(s) > 40 || maskSecrets(s) != s || looksSecret(s):
		return "…"
	case plainWord.MatchString(s):
		return s
	}
	return fmt.Sprintf("%q", s)
}

var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]*$`)

// fields reads a mapping into a struct, whose keys are in its yaml tags:
// `yaml:"key"`, or `yaml:"key,required"`.
func (d *document) fields(n *yaml.Node, v reflect.Value, path, name string) {
	if isNull(n) {
		n = &yaml.Node{Kind: yaml.MappingNode, Line: n.Line, Column: n.Column}
	}
	if n.Kind != yaml.MappingNode {
		if name == "" {
			name = "the file"
		}
		d.problem(n, "", "%s has to be a mapping of keys to values, this is %s", name, kindOf(n))
		return
	}
	known := map[string]int{}
	var keys, missing []string
	for i := range v.NumField() {
		key, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		known[key] = i
		keys = append(keys, key)
		if options == "required" {
			missing = append(missing, key)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if d.full() {
			return
		}
		k, c := n.Content[i], n.Content[i+1]
		field, ok := known[k.Value]
		if !ok {
			where := ""
			if path != "" {
				where = " in " + path
			}
			d.problem(k, suggest(k.Value, unwritten(keys, n), "keys"), "unknown key %s%s", quote(k.Value), where)
			continue
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == k.Value })
		d.decode(c, v.Field(field), join(path, k.Value), k.Value)
	}
	for _, m := range missing {
		where := ""
		if path != "" {
			where = " in " + path
		}
		d.problem(n, "", "%s is missing%s", m, where)
	}
}

// unwritten are the keys that n does not have: suggesting one that is already
// there helps nobody.
func unwritten(keys []string, n *yaml.Node) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return true
			}
		}
		return false
	})
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *document) entries(n *yaml.Node, v reflect.Value, path, name string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, "", "%s has to be a mapping of keys to values, this is %s", name, kindOf(n))
		return
	}
	t := v.Type()
	m := reflect.MakeMapWithSize(t, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		key := reflect.New(t.Key()).Elem()
		if reflect.PointerTo(t.Key()).Implements(textType) {
			if err := key.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(k.Value)); err != nil {
				d.problem(k, suggest(k.Value, enumWords(t.Key()), "keys"), "unknown key %s in %s", quote(k.Value), path)
				continue
			}
		} else {
			key.SetString(k.Value)
		}
		value := reflect.New(t.Elem()).Elem()
		d.decode(c, value, join(path, k.Value), k.Value)
		m.SetMapIndex(key, value)
	}
	v.Set(m)
}

func isText(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!timestamp")
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// text is a scalar as its author wrote it. Words that YAML takes for a date are
// text all the same; numbers and truth values are not, since 012 and 1e3 do not
// survive being read as one.
func (d *document) text(n *yaml.Node, name string) (string, bool) {
	switch {
	case isText(n):
		return n.Value, true
	case isNull(n):
		d.problem(n, "", "%s has no value", name)
	case n.Kind == yaml.ScalarNode:
		d.problem(n, "put it in quotes", "%s has to be text, this is %s", name, kindOf(n))
	default:
		d.problem(n, "", "%s has to be text, this is %s", name, kindOf(n))
	}
	return "", false
}

func (d *document) duration(n *yaml.Node, v reflect.Value, name string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if t, err := time.ParseDuration(n.Value); err == nil && t > 0 {
			v.SetInt(int64(t))
			return
		}
	}
	hint := "write a number and a unit, as in 500ms, 30s or 2m"
	if n.Kind == yaml.ScalarNode && n.Tag == "!!int" && len(n.Value) < 10 {
		hint = "did you mean \"" + n.Value + "s\"?"
	}
	d.problem(n, hint, "%s has to be a duration greater than zero, this is %s", name, kindOf(n))
}

var sizeUnits = []struct {
	name  string
	bytes int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

func (d *document) size(n *yaml.Node, v reflect.Value, name string) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!int") {
		digits := strings.TrimRight(n.Value, "KMGTiBbkmg")
		unit := n.Value[len(digits):]
		count, err := strconv.Atoi(strings.TrimSpace(digits))
		for _, u := range sizeUnits {
			if err == nil && u.name == unit && count > 0 && count <= math.MaxInt32*1024/u.bytes {
				v.SetInt(int64(count * u.bytes))
				return
			}
		}
		if near := nearest(unit, []string{"KiB", "MiB", "GiB"}); err == nil && near != "" {
			d.problem(n, "did you mean \""+strings.TrimSpace(digits)+near+"\"?", "%s is %s, which is no size", name, quote(n.Value))
			return
		}
	}
	d.problem(n, "write a number of bytes, or one with KiB, MiB or GiB, as in 4MiB", "%s has to be a size greater than zero, this is %s", name, kindOf(n))
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a truth value"
	case "!!int", "!!float":
		return "a number"
	}
	return "text"
}

// enumWords are the names of the values of one of the small enumerations of the
// words, which number them from one and give every name once.
func enumWords(t reflect.Type) []string {
	var words []string
	v := reflect.New(t).Elem()
	for i := uint64(1); i < 32; i++ {
		v.SetUint(i)
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil || string(text) == "unknown" || slices.Contains(words, string(text)) {
			break
		}
		words = append(words, string(text))
	}
	return words
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// json is a YAML value as JSON. Numbers keep their digits; a date is text.
func (d *document) json(n *yaml.Node) (json.RawMessage, bool) {
	var b bytes.Buffer
	if !d.writeJSON(&b, n) {
		return nil, false
	}
	return b.Bytes(), true
}

func (d *document) writeJSON(b *bytes.Buffer, n *yaml.Node) bool {
	ok := true
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Tag != "!!str" && k.Tag != "!!timestamp" {
				d.problem(k, "put it in quotes", "a key has to be text, this is %s", kindOf(k))
				ok = false
			}
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSONString(b, k.Value)
			b.WriteByte(':')
			ok = d.writeJSON(b, n.Content[i+1]) && ok
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			ok = d.writeJSON(b, c) && ok
		}
		b.WriteByte(']')
	default:
		switch n.Tag {
		case "!!null":
			b.WriteString("null")
		case "!!bool":
			b.WriteString(strings.ToLower(n.Value))
		case "!!int", "!!float":
			// Only JSON's own syntax: what YAML makes of 012 or 1_000 surprises.
			if !jsonNumber.MatchString(n.Value) {
				d.problem(n, "write the number as JSON does, or put it in quotes", "a number that JSON writes differently: %s", quote(n.Value))
				return false
			}
			b.WriteString(n.Value)
		case "!!str", "!!timestamp":
			writeJSONString(b, n.Value)
		default:
			d.problem(n, "put it in quotes", "a value that JSON cannot hold: %s", kindOf(n))
			return false
		}
	}
	return ok
}

func writeJSONString(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	// A string always has a JSON form; Encode ends it with a newline.
	if err := enc.Encode(s); err == nil {
		b.Truncate(b.Len() - 1)
	}
}
