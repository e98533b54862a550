package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// touch says what policies read of a value: all of it, whether it is there
// (has), or only some of its members. It is worked out from the text of the
// conditions, so it holds whatever the values turn out to be: a part that is not
// in it cannot make a difference to any decision.
type touch struct {
	whole, has bool
	members    map[string]*touch
}

func (t *touch) member(name string) *touch {
	if t.members == nil {
		t.members = map[string]*touch{}
	}
	m := t.members[name]
	if m == nil {
		m = &touch{}
		t.members[name] = m
	}
	return m
}

// join adds what u reads.
func (t *touch) join(u *touch) {
	t.whole = t.whole || u.whole
	t.has = t.has || u.has
	for name, m := range u.members {
		t.member(name).join(m)
	}
}

// read adds to t, which stands for the context, what n reads.
func (t *touch) read(n ast.IsNode) {
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeAccess:
			if root, path, ok := chain(n); ok {
				if root == "context" {
					t.mark(path).whole = true
				}
				return false
			}
		case ast.NodeTypeHas:
			if root, path, ok := chain(n.Arg); ok {
				if root == "context" {
					t.mark(append(path, string(n.Value))).has = true
				}
				return false
			}
		case ast.NodeTypeVariable:
			if n.Name == "context" {
				t.whole = true
			}
		}
		return true
	})
}

func (t *touch) mark(path []string) *touch {
	for _, name := range path {
		t = t.member(name)
	}
	return t
}

// chain takes apart an expression such as context.args.order.total: the
// variable it begins with, and the names.
func chain(n ast.IsNode) (root string, path []string, ok bool) {
	for {
		switch v := n.(type) {
		case ast.NodeTypeAccess:
			path = append(path, string(v.Value))
			n = v.Arg
		case ast.NodeTypeVariable:
			slices.Reverse(path)
			return string(v.Name), path, true
		default:
			return "", nil, false
		}
	}
}

// ofArguments reports whether something is read that is not known before the arguments
// are: they, or what was found in them.
func (t *touch) ofArguments() bool {
	return slices.ContainsFunc(ofCall, func(name string) bool { return t.members[name] != nil })
}

// ofCall are the members of the context that are not known before there is a call.
var ofCall = []string{"args", "content", "provenance", "history", "counters", "declared"}

// arguments reports whether any argument is read.
func (t *touch) arguments() bool {
	_, args := t.members["args"]
	return args || t.whole
}

// mentions reports whether n names the variable.
func mentions(n ast.IsNode, variable types.String) bool {
	found := false
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		if v, ok := n.(ast.NodeTypeVariable); ok && v.Name == variable {
			found = true
		}
		return !found
	})
	return found
}

// reaches reports whether what t reads includes what is at path. An array is
// one value: who asks for it asks for all of it.
func (t *touch) reaches(path []string, s *shape) bool {
	for _, step := range path {
		if t.whole || s.form != record {
			return true
		}
		if t = t.members[step]; t == nil {
			return false
		}
		if m := s.members[step]; m != nil {
			s = m.shape
		}
	}
	return true
}

// plan narrows a shape to what t reads of it.
func (t *touch) plan(name string, s *shape) *plan {
	p := &plan{name: name, quote: []byte(name), shape: s, whole: t.whole}
	switch s.form {
	case record:
		p.members = map[string]*plan{}
		for n, m := range s.members {
			if m.form == hidden {
				continue
			}
			if mt := t.members[n]; mt != nil || t.whole {
				if mt == nil {
					mt = &touch{}
				}
				if t.whole && !mt.whole {
					mt = &touch{whole: true}
				}
				p.members[n] = mt.plan(n, m.shape)
			}
		}
	case set:
		all := touch{whole: true}
		p.members = map[string]*plan{"": all.plan("", s.elem)}
	case hidden, text, long, decimal, boolean, datetime, entity:
	}
	return p
}
