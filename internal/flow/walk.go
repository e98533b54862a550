package flow

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// leaf is one value of a document that is neither object nor list, or, where isName
// is set, the name of a member.
type leaf struct {
	path   []string // names of members; "*" for places in lists
	at     []int    // beside path: the place in a list, -1 for a member
	text   string
	kind   byte // '"', '0', 't', 'f', 'n'
	isName bool
}

// pointer is the leaf's JSON pointer, with places in lists as numbers if exact is
// set. A name that may be a value itself is written as "*".
func (l *leaf) pointer(exact bool) string {
	var b strings.Builder
	for i, name := range l.path {
		b.WriteByte('/')
		switch {
		case l.at[i] >= 0 && exact:
			b.WriteString(strconv.Itoa(l.at[i]))
		case l.at[i] >= 0 || !fieldName(name):
			b.WriteByte('*')
		default:
			b.WriteString(name)
		}
	}
	return b.String()
}

// fieldName reports whether a member's name is one that people give to fields.
func fieldName(s string) bool {
	if s == "" || len(s) > 48 || class[s[0]]&(letter|digit) == 0 && s[0] != '_' && s[0] != '$' {
		return false
	}
	digits := 0
	for i := range len(s) {
		c := class[s[i]]
		if c&high != 0 || c&(letter|digit) == 0 && s[i] != '_' && s[i] != '-' && s[i] != '$' {
			return false
		}
		if c == digit {
			digits++
		}
	}
	return digits <= 3
}

// walkJSON calls fn for each leaf and each member's name of a document in order. The
// leaf is fn's until it returns.
func walkJSON(doc []byte, fn func(*leaf) error) error {
	type frame struct {
		object bool
		n      int
	}
	dec := jsontext.NewDecoder(bytes.NewReader(doc))
	var (
		l      leaf
		frames []frame
	)
	names := make(map[string]string)
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return fmt.Errorf("document to be indexed: %w", err)
		}
		kind := byte(tok.Kind())
		if kind == '}' || kind == ']' {
			frames = frames[:len(frames)-1]
			l.path, l.at = l.path[:len(frames)], l.at[:len(frames)]
			if len(frames) == 0 {
				return end(dec)
			}
			continue
		}
		if n := len(frames); n > 0 {
			top := &frames[n-1]
			switch {
			case !top.object:
				l.path, l.at = append(l.path[:n-1], "*"), append(l.at[:n-1], top.n)
				top.n++
			case top.n%2 == 0:
				top.n++
				name := tok.String()
				if known, ok := names[name]; ok {
					name = known
				} else if len(names) < 1024 {
					names[name] = name
				}
				l.path, l.at = append(l.path[:n-1], name), append(l.at[:n-1], -1)
				l.text, l.kind, l.isName = name, '"', true
				if err := fn(&l); err != nil {
					return err
				}
				continue
			default:
				top.n++
			}
		}
		if kind == '{' || kind == '[' {
			if len(frames) == MaxDepth {
				return errors.New("document to be indexed: nested too deep")
			}
			frames = append(frames, frame{object: kind == '{'})
			continue
		}
		l.text, l.kind, l.isName = tok.String(), kind, false
		if err := fn(&l); err != nil {
			return err
		}
		if len(frames) == 0 {
			return end(dec)
		}
	}
}

func end(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); err == nil {
		return errors.New("document to be indexed: more than one value")
	}
	return nil
}

// maxYAML is how many bytes of YAML are read as such.
const maxYAML = 512 << 10

// walkYAML is walkJSON of one YAML document. What has no equal in JSON is an error
// before fn is called: anchors, tags of its own, keys that are no text, equal keys.
func walkYAML(doc []byte, fn func(*leaf) error) error {
	if len(doc) > maxYAML {
		return errors.New("document to be indexed: too long")
	}
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	var root yaml.Node
	if err := dec.Decode(&root); err != nil {
		return fmt.Errorf("document to be indexed: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		return errors.New("document to be indexed: more than one value")
	}
	if len(root.Content) != 1 {
		return errors.New("document to be indexed: no value")
	}
	var l leaf
	each := func(*leaf) error { return nil }
	var walk func(n *yaml.Node, depth int) error
	walk = func(n *yaml.Node, depth int) error {
		if n.Anchor != "" || depth > MaxDepth {
			return errors.New("document to be indexed: anchor, or nested too deep")
		}
		switch n.Kind {
		case yaml.SequenceNode:
			for i, c := range n.Content {
				l.path, l.at = append(l.path[:depth], "*"), append(l.at[:depth], i)
				if err := walk(c, depth+1); err != nil {
					return err
				}
				l.path, l.at = l.path[:depth], l.at[:depth]
			}
			return nil
		case yaml.MappingNode:
			seen := make(map[string]bool, len(n.Content)/2)
			for i := 0; i+1 < len(n.Content); i += 2 {
				name := n.Content[i]
				if name.Kind != yaml.ScalarNode || seen[name.Value] || name.Anchor != "" {
					return errors.New("document to be indexed: a key that is no text, or twice")
				}
				seen[name.Value] = true
				l.path, l.at = append(l.path[:depth], name.Value), append(l.at[:depth], -1)
				l.text, l.kind, l.isName = name.Value, '"', true
				if err := each(&l); err != nil {
					return err
				}
				if err := walk(n.Content[i+1], depth+1); err != nil {
					return err
				}
				l.path, l.at = l.path[:depth], l.at[:depth]
			}
			return nil
		case yaml.ScalarNode:
			l.text, l.isName = n.Value, false
			switch n.ShortTag() {
			case "!!str", "!!timestamp":
				l.kind = '"'
			case "!!int", "!!float":
				l.kind = '0'
			case "!!bool":
				l.kind = 't'
			case "!!null":
				l.kind = 'n'
			default:
				return errors.New("document to be indexed: a tag of its own")
			}
			return each(&l)
		default:
			return errors.New("document to be indexed: an alias")
		}
	}
	if err := walk(root.Content[0], 0); err != nil {
		return err
	}
	each = fn
	return walk(root.Content[0], 0)
}
