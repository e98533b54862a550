package draft

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport"
	"sallyport/internal/wire"
)

// val is a JSON value whose members keep their order.
type val struct {
	kind  byte // '{' '[' '"' '0' 't' 'f' 'n'
	names []string
	items []*val
	text  string // of a string what it says, else its token
	raw   string // without white space
}

const maxDepth = 200

func parse(raw []byte) (*val, error) {
	v := jsontext.Value(bytes.Clone(raw))
	if err := v.Compact(); err != nil {
		return nil, err
	}
	return read(v, 0)
}

func read(raw jsontext.Value, depth int) (*val, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	v := &val{kind: byte(raw.Kind()), raw: string(raw), text: string(raw)}
	switch v.kind {
	case '"':
		text, err := wire.DecodeString(raw)
		if err != nil {
			return nil, err
		}
		v.text = text
	case '{', '[':
		d := jsontext.NewDecoder(bytes.NewReader(raw))
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		for d.PeekKind() != '}' && d.PeekKind() != ']' {
			if v.kind == '{' {
				name, err := d.ReadToken()
				if err != nil {
					return nil, err
				}
				v.names = append(v.names, name.String())
			}
			item, err := d.ReadValue()
			if err != nil {
				return nil, err
			}
			kid, err := read(item, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, kid)
		}
	}
	return v, nil
}

func (v *val) member(name string) *val {
	if v != nil && v.kind == '{' {
		if i := slices.Index(v.names, name); i >= 0 {
			return v.items[i]
		}
	}
	return nil
}

func (v *val) scalar() bool { return v != nil && v.kind != '{' && v.kind != '[' }

// objects reports whether it is a list of objects, and of at least one.
func (v *val) objects() bool {
	return v != nil && v.kind == '[' && len(v.items) > 0 && !slices.ContainsFunc(v.items, func(i *val) bool { return i.kind != '{' })
}

// shape is what values of one place look like, from a schema or from examples.
type shape struct {
	kind     byte // '{' '[' '"' '0' 'b' or 0 for anything
	members  []member
	items    *shape // of a list
	enum     []string
	format   string
	whole    bool // integers alone
	nullable bool
}

type member struct {
	name     string
	shape    *shape
	required bool
}

func (s *shape) member(name string) *member {
	if s != nil {
		for i := range s.members {
			if s.members[i].name == name {
				return &s.members[i]
			}
		}
	}
	return nil
}

func (s *shape) is(kind byte) bool { return s != nil && s.kind == kind }

func (s *shape) scalar() bool {
	return s != nil && (s.kind == '"' || s.kind == '0' || s.kind == 'b')
}

// rows reports whether it is a list of objects with members.
func (s *shape) rows() bool { return s.is('[') && s.items.is('{') && len(s.items.members) > 0 }

// ofSchema reads the part of a JSON Schema that drafts use: types, properties, items,
// enums, references within the document. What else it says is passed over.
func ofSchema(root *val) *shape {
	r := schemaReader{root, mostShapes}
	return r.shape(root, 0)
}

// schemaReader reads one schema, which may refer to itself: not more than left shapes.
type schemaReader struct {
	root *val
	left int
}

const mostShapes = 4000

func (r *schemaReader) shape(s *val, depth int) *shape {
	if r.left--; depth > 12 || r.left < 0 || s == nil || s.kind != '{' {
		return &shape{}
	}
	if ref := s.member("$ref"); ref != nil {
		at := r.root
		for _, step := range strings.Split(strings.TrimPrefix(strings.TrimPrefix(ref.text, "#"), "/"), "/") {
			if step != "" {
				at = at.member(strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
			}
		}
		return r.shape(at, depth+1)
	}
	out := &shape{}
	kinds := map[string]byte{"object": '{', "array": '[', "string": '"', "number": '0', "integer": '0', "boolean": 'b'}
	types := []*val{}
	if t := s.member("type"); t != nil && t.kind == '[' {
		types = t.items
	} else if t != nil {
		types = append(types, t)
	}
	for _, name := range []string{"anyOf", "oneOf"} { // a type, or null
		if any := s.member(name); any != nil && any.kind == '[' && len(types) == 0 {
			var one *val
			n := 0
			for _, a := range any.items {
				if t := a.member("type"); t != nil && t.text == "null" {
					out.nullable = true
					continue
				}
				one, n = a, n+1
			}
			if n == 1 {
				null := out.nullable
				out = r.shape(one, depth+1)
				out.nullable = out.nullable || null
				return out
			}
		}
	}
	for _, t := range types {
		if t.text == "null" {
			out.nullable = true
			continue
		}
		if out.kind != 0 { // several types
			out.kind = 0
			break
		}
		out.kind = kinds[t.text]
		out.whole = t.text == "integer"
	}
	if out.kind == 0 && s.member("properties") != nil {
		out.kind = '{'
	}
	if f := s.member("format"); f != nil {
		out.format = f.text
	}
	if e := s.member("enum"); e != nil && e.kind == '[' && out.kind == '"' {
		for _, v := range e.items {
			if v.kind == '"' {
				out.enum = append(out.enum, v.text)
			}
		}
	}
	if out.kind == '[' {
		out.items = r.shape(s.member("items"), depth+1)
	}
	if p := s.member("properties"); out.kind == '{' && p != nil {
		required := s.member("required")
		for i, name := range p.names {
			must := required != nil && slices.ContainsFunc(required.items, func(v *val) bool { return v.text == name })
			out.members = append(out.members, member{name, r.shape(p.items[i], depth+1), must})
		}
	}
	return out
}

// with is a shape that the value fits, too. A nil shape is that of no value so far.
func (s *shape) with(v *val) *shape {
	kind := v.kind
	if kind == 't' || kind == 'f' {
		kind = 'b'
	}
	if kind == 'n' {
		if s == nil {
			return &shape{nullable: true}
		}
		s.nullable = true
		return s
	}
	if s == nil || s.kind == 0 && s.nullable && len(s.members) == 0 {
		null := s != nil
		s = &shape{kind: kind, whole: true, nullable: null}
		if kind == '{' {
			for i, name := range v.names {
				s.members = append(s.members, member{name, (*shape)(nil).with(v.items[i]), true})
			}
		}
	} else if s.kind != kind {
		s.kind = 0
		return s
	}
	switch kind {
	case '0':
		s.whole = s.whole && !strings.ContainsAny(v.text, ".eE")
	case '[':
		for _, item := range v.items {
			s.items = s.items.with(item)
		}
	case '{':
		for i := range s.members {
			if m := &s.members[i]; v.member(m.name) == nil {
				m.required = false
			}
		}
		for i, name := range v.names {
			if m := s.member(name); m == nil {
				s.members = append(s.members, member{name, (*shape)(nil).with(v.items[i]), false})
			} else {
				m.shape = m.shape.with(v.items[i])
			}
		}
	}
	return s
}

// tool is what is known of one tool.
type tool struct {
	def    *sallyport.Tool
	name   string
	verb   verb
	noun   []string
	reads  bool // annotations and name agree on it, or a person has declared it
	hints  map[string]bool
	in     *shape
	out    *shape // nil if nobody knows
	schema bool   // out is from a schema
	calls  []*recorded
	talk   talk

	rules  []rule
	chosen int
	agreed int
}

// recorded is one recorded call, read.
type recorded struct {
	session, number int
	args            *val
	isError         bool
	structured      *val // nil if there is none
	text            *string
	// answer is what the tool says: structured, or what the text holds, or the text.
	answer *val
}

// talk is how a tool says its answers.
type talk struct {
	result string // text, structured, both
	style  string // of text, if it is the answer as JSON
	apart  bool   // the text says something else than the structured answer
}

func readTool(def *sallyport.Tool) (*tool, error) {
	t := &tool{def: def, name: def.UpstreamName, hints: map[string]bool{}}
	if t.name == "" {
		t.name = def.Name
	}
	whole, err := parse(def.Definition)
	if err != nil {
		return nil, fmt.Errorf("its definition: %w", err)
	}
	t.verb, t.noun = verbOf(split(t.name))
	in := whole.member("inputSchema")
	t.in = ofSchema(in)
	if out := whole.member("outputSchema"); out != nil {
		t.out, t.schema = ofSchema(out), true
	}
	// One that finds one.
	if n := len(t.noun); t.verb == list && t.out.is('{') && n > 0 && singular(t.noun[n-1]) == t.noun[n-1] &&
		!slices.ContainsFunc(t.out.members, func(m member) bool { return m.shape.rows() }) {
		t.verb = get
	}
	if a := whole.member("annotations"); a != nil {
		for i, name := range a.names {
			t.hints[name] = a.items[i].kind == 't'
		}
	}
	t.reads = def.Access == sallyport.Read || t.hints["readOnlyHint"] && (Reads(t.name) || t.verb == unclear)
	return t, nil
}

// hinted reports what an annotation says, if it says something.
func (t *tool) hinted(name string) (says, there bool) {
	says, there = t.hints[name]
	return says, there
}

func readCall(c *Call) (*recorded, error) {
	r := &recorded{isError: c.IsError}
	args := c.Args
	if len(args) == 0 {
		args = []byte("{}")
	}
	var err error
	if r.args, err = parse(args); err != nil {
		return nil, fmt.Errorf("its arguments: %w", err)
	}
	if c.Result == nil {
		r.isError = true
		return r, nil
	}
	result, err := parse(c.Result)
	if err != nil {
		return nil, fmt.Errorf("its result: %w", err)
	}
	r.structured = result.member("structuredContent")
	if content := result.member("content"); content != nil && content.kind == '[' && len(content.items) == 1 {
		if b := content.items[0]; b.member("type") != nil && b.member("type").text == "text" && b.member("text") != nil {
			r.text = &b.member("text").text
		}
	}
	switch {
	case r.structured != nil:
		r.answer = r.structured
	case r.text != nil:
		if v, err := parse([]byte(*r.text)); err == nil && !v.scalar() {
			r.answer = v
		} else {
			r.answer = &val{kind: '"', text: *r.text, raw: string(wire.AppendString(nil, *r.text))}
		}
	}
	return r, nil
}

// good are the calls that succeeded and whose answer can be read.
func (t *tool) good() []*recorded {
	var out []*recorded
	for _, c := range t.calls {
		if !c.isError && c.answer != nil {
			out = append(out, c)
		}
	}
	return out
}

// learn takes from the recordings what no schema said: the shape of answers, and in
// which form they come.
func (t *tool) learn() {
	t.talk = talk{result: "both"}
	if !t.schema {
		t.talk.result = "text"
	}
	good := t.good()
	if len(good) == 0 {
		return
	}
	if !t.schema {
		t.out = nil
		for _, c := range good {
			t.out = t.out.with(c.answer)
		}
	}
	c := good[len(good)-1]
	switch {
	case c.structured == nil:
		t.talk.result = "text"
	case c.text == nil:
		t.talk.result = "structured"
	default:
		t.talk.result = "both"
	}
	if c.text == nil {
		return
	}
	v, err := parse([]byte(*c.text))
	held := err == nil && !v.scalar()
	if held {
		t.talk.style = "compact"
	}
	t.talk.apart = c.structured != nil && !(held && v.raw == c.structured.raw)
	for _, c := range good {
		switch {
		case c.text == nil || !held:
		case strings.Contains(*c.text, "\n  "):
			t.talk.style = "indent"
		case strings.Contains(*c.text, "\": "):
			t.talk.style = "python"
		}
	}
}
