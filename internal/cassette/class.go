package cassette

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Classes are the data classes people declared for the leaves of one tool's arguments
// and results. They win over what a detector thinks.
type Classes struct {
	arguments, results classesAt
}

// classesAt are the classes that may be said of one place: those of the upstream's
// file come before those of the schema.
type classesAt struct {
	file, schema []*branch[string]
	class        string // that of the place
	byFile       bool
}

// Declared is what an upstream's file says of one tool. The keys are pointers, in
// which * stands for any element or member; a class holds for all that is below. Those
// of Results lead into the structured content, and into JSON in a block of text.
type Declared struct {
	Arguments, Results map[string]string
}

// ClassesOf reads the classes of a tool: x-data-class of its schemas, which may be
// empty, and what the upstream's file declares.
func ClassesOf(inputSchema, outputSchema []byte, declared Declared) (*Classes, error) {
	c := &Classes{}
	for _, part := range []struct {
		what   string
		schema []byte
		said   map[string]string
		into   *classesAt
	}{
		{"input schema", inputSchema, declared.Arguments, &c.arguments},
		{"output schema", outputSchema, declared.Results, &c.results},
	} {
		file := new(branch[string])
		for _, pointer := range slices.Sorted(maps.Keys(part.said)) {
			path, err := steps(pointer)
			if err != nil {
				return nil, fmt.Errorf("data class: %w", err)
			}
			class := part.said[pointer]
			if class == "" {
				return nil, fmt.Errorf("data class of %q is empty: name one, or %q", pointer, ClassNone)
			}
			file.grow(path).value = &class
		}
		part.into.file = []*branch[string]{file}
		if len(part.schema) == 0 {
			continue
		}
		root, err := parse(part.schema, 2*MaxDepth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
		s := schemaReader{root: root, done: map[*node]*branch[string]{}}
		top, err := s.read(root)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
		part.into.schema = []*branch[string]{top}
	}
	c.results.file = asResult(c.results.file)
	c.results.schema = asResult(c.results.schema)
	c.arguments = c.arguments.here()
	c.results = c.results.here()
	return c, nil
}

// ClassNone declares that a leaf is not personal; so does "public".
const ClassNone = "none"

func personal(class string) bool { return class != "" && class != ClassNone && class != "public" }

// asResult puts what is said of structured content where a tools/call result has it.
func asResult(content []*branch[string]) []*branch[string] {
	root := new(branch[string])
	for _, path := range [][]string{
		{"structuredContent"}, {"content", "*", "text"}, {"content", "*", "text", heldStep},
		{"content", "*", "resource", "text"}, {"content", "*", "resource", "text", heldStep},
	} {
		b := root.grow(path)
		b.also = append(b.also, content...)
	}
	return []*branch[string]{root}
}

// here forks the branches, and finds the class of the place.
func (c classesAt) here() classesAt {
	out := classesAt{class: c.class, byFile: c.byFile}
	for _, b := range c.file {
		out.file = forked(out.file, b)
	}
	for _, b := range c.schema {
		out.schema = forked(out.schema, b)
	}
	if v := said(out.file); v != nil {
		out.class, out.byFile = *v, true
	} else if v := said(out.schema); v != nil && !out.byFile {
		out.class = *v
	}
	return out
}

func (c classesAt) below(step string) classesAt {
	if len(c.file) == 0 && len(c.schema) == 0 {
		return c
	}
	return classesAt{file: along(c.file, step), schema: along(c.schema, step), class: c.class, byFile: c.byFile}.here()
}

// at is the class of a place.
func (c classesAt) at(pointer string) string {
	path, err := steps(pointer)
	if err != nil {
		return ""
	}
	for _, s := range path {
		c = c.below(s)
	}
	return c.class
}

type schemaReader struct {
	root *node
	done map[*node]*branch[string] // schemas may be recursive
}

func (s *schemaReader) read(n *node) (*branch[string], error) {
	if b, ok := s.done[n]; ok {
		return b, nil
	}
	b := new(branch[string])
	s.done[n] = b
	if n.kind != '{' {
		return b, nil // true and false say nothing of classes
	}
	for i, item := range n.items {
		var err error
		switch keyword := n.names[i]; keyword {
		case "x-data-class":
			if item.kind != '"' || item.text == "" {
				return nil, fmt.Errorf("x-data-class at byte %d is no name of a class", item.start)
			}
			b.value = &item.text
		case "$ref", "$dynamicRef":
			var target *node
			if target, err = s.resolve(item.text); err == nil {
				err = s.add(&b.also, target)
			}
		case "allOf", "anyOf", "oneOf":
			for _, each := range item.items {
				if err = s.add(&b.also, each); err != nil {
					break
				}
			}
		case "if", "then", "else":
			err = s.add(&b.also, item)
		case "dependentSchemas":
			for _, each := range item.items {
				if err = s.add(&b.also, each); err != nil {
					break
				}
			}
		case "properties", "prefixItems":
			for j, each := range item.items {
				place := b.grow([]string{item.step(j)})
				if keyword == "properties" && item.names[j] == "*" {
					continue // a property of that name cannot be told from every one
				}
				if err = s.add(&place.also, each); err != nil {
					break
				}
			}
		case "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties":
			if item.kind == '[' { // as prefixItems were written once
				for j, each := range item.items {
					if err = s.add(&b.grow([]string{strconv.Itoa(j)}).also, each); err != nil {
						break
					}
				}
				break
			}
			err = s.add(&b.grow([]string{"*"}).also, item)
		case "patternProperties":
			for _, each := range item.items {
				if err = s.add(&b.grow([]string{"*"}).also, each); err != nil {
					break
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (s *schemaReader) add(to *[]*branch[string], n *node) error {
	b, err := s.read(n)
	if err == nil {
		*to = append(*to, b)
	}
	return err
}

func (s *schemaReader) resolve(ref string) (*node, error) {
	fragment, ok := strings.CutPrefix(ref, "#")
	pointer, err := url.PathUnescape(fragment)
	if !ok || err != nil || pointer != "" && pointer[0] != '/' {
		return nil, fmt.Errorf("$ref %q: data classes are followed into this schema alone, by pointers", ref)
	}
	n := s.root.at(pointer)
	if n == nil {
		return nil, fmt.Errorf("$ref %q leads nowhere", ref)
	}
	return n, nil
}
