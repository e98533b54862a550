package openapi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Surface is what clients of one or several APIs see of them: which operation a
// request is for. It does not change once it is in use.
type Surface struct {
	// Keys are where clients of any of the APIs may put their credential.
	Keys   []Key
	routes map[int][]*Route // by the number of segments, the most concrete first
}

// Route is one operation at one path.
type Route struct {
	*Operation
	Name  string // of the tool, as its callers know it
	Owner string // whose operation it is
	// Path is the template, below a server's own path or with it.
	Path     string
	segments []segment
	input    shape // the schema of the tool's arguments
	twice    bool  // another owner has the same method and template
}

// segment is one segment of a template: one literal more than names.
type segment struct{ literals, names []string }

// Add adds the operations of a plan. tool gives the name and the definition of the
// tool of an operation, ok only if it is offered.
func (s *Surface) Add(owner string, p *Plan, tool func(operation string) (name string, definition []byte, ok bool)) error {
	if s.routes == nil {
		s.routes = map[int][]*Route{}
	}
	for _, k := range p.Keys {
		if !slices.Contains(s.Keys, k) {
			s.Keys = append(s.Keys, k)
		}
	}
	for i := range p.Operations {
		o := &p.Operations[i]
		name, definition, ok := tool(o.Tool)
		if !ok {
			continue
		}
		input, err := inputOf(definition)
		if err != nil {
			return fmt.Errorf("tool %s: %w", clip(name), err)
		}
		// With the path of a server first: that is what the document says.
		for _, base := range append(slices.Clone(p.Bases), "") {
			r := &Route{Operation: o, Name: name, Owner: owner, Path: base + o.Path, input: input}
			for text := range strings.SplitSeq(r.Path[1:], "/") {
				literals, names, _ := template("/" + text) // sound, see unsound
				literals[0] = literals[0][1:]
				for i, l := range literals {
					literals[i] = plainly(l)
				}
				r.segments = append(r.segments, segment{literals, names})
			}
			s.add(r)
		}
	}
	return nil
}

func (s *Surface) add(r *Route) {
	n := len(r.segments)
	for _, other := range s.routes[n] {
		if other.Method == r.Method && compare(other, r) == 0 {
			other.twice = other.twice || other.Owner != r.Owner
			return
		}
	}
	at, _ := slices.BinarySearchFunc(s.routes[n], r, func(a, b *Route) int { return cmp.Or(compare(a, b), -1) })
	s.routes[n] = slices.Insert(s.routes[n], at, r)
}

// compare orders templates: the more concrete comes first, segment by segment from
// the left (OpenAPI 3.1.1, section 4.8.8.2, says so of whole paths, and leaves the rest
// to us). Zero: they fit the same paths.
func compare(a, b *Route) int {
	for i, x := range a.segments {
		y := b.segments[i]
		if c := cmp.Or(
			cmp.Compare(min(len(x.names), 1), min(len(y.names), 1)),
			-cmp.Compare(len(strings.Join(x.literals, "")), len(strings.Join(y.literals, ""))),
			slices.Compare(x.literals, y.literals),
		); c != 0 {
			return c
		}
	}
	return 0
}

// Match is a request's path and method found.
type Match struct {
	*Route
	inPath map[string]string // by name, as they stand in the path
}

// Twice reports whether several owners have what was found: it is nobody's.
func (m *Match) Twice() bool { return m.twice }

// Find finds the operation of a request. path is percent-encoded and begins with a
// slash. It is nil if there is none; allowed are then the methods that there are at the
// path, none if there is nothing at it.
func (s *Surface) Find(method, path string) (m *Match, allowed []string) {
	if !strings.HasPrefix(path, "/") {
		return nil, nil
	}
	segments := strings.Split(path[1:], "/")
	for i := range segments {
		segments[i] = plainly(segments[i])
	}
	for _, r := range s.routes[len(segments)] {
		if r.Method != method && slices.Contains(allowed, r.Method) {
			continue
		}
		inPath, ok := r.fits(segments)
		switch {
		case !ok:
		case r.Method == method:
			return &Match{r, inPath}, nil
		default:
			allowed = append(allowed, r.Method)
		}
	}
	slices.Sort(allowed)
	return nil, allowed
}

// Paths are the methods and templates of all operations, as "GET /pets/{petId}".
func (s *Surface) Paths() []string {
	var all []string
	for _, routes := range s.routes {
		for _, r := range routes {
			if r.Path == r.Operation.Path {
				all = append(all, r.Method+" "+r.Path)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *Route) fits(segments []string) (inPath map[string]string, ok bool) {
	for i, s := range r.segments {
		if len(s.names) == 0 && s.literals[0] != segments[i] {
			return nil, false
		}
	}
	inPath = map[string]string{}
	for i, s := range r.segments {
		if len(s.names) > 0 && !s.fits(segments[i], inPath) {
			return nil, false
		}
	}
	return inPath, true
}

// fits takes a segment apart: each name has at least one character, and of several the
// first ones as few as there can be.
func (s *segment) fits(text string, into map[string]string) bool {
	rest, ok := strings.CutPrefix(text, s.literals[0])
	if !ok {
		return false
	}
	last := len(s.names) - 1
	for i, name := range s.names {
		literal, at := s.literals[i+1], 0
		switch {
		case i == last:
			if at = len(rest) - len(literal); !strings.HasSuffix(rest, literal) {
				return false
			}
		case literal == "": // one beside the other: nothing says where it ends
			at = 1
		case rest != "":
			if at = strings.Index(rest[1:], literal); at >= 0 {
				at++
			}
		}
		if at < 1 {
			return false
		}
		into[name], rest = rest[:at], rest[at+len(literal):]
	}
	return true
}

// plainly is percent-encoded text in its one form: what need not be encoded is not, and
// the digits of what is are capitals (RFC 3986, section 6.2.2).
func plainly(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			b.WriteByte(s[i])
			continue
		}
		c := fromHex(s[i+1])<<4 | fromHex(s[i+2])
		b.WriteString(percent(string([]byte{c}), false))
		i += 2
	}
	return b.String()
}
