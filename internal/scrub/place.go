package scrub

import (
	"iter"
	"strings"

	"sallyport/internal/detect"
)

// maxSteps is how deep places are told apart.
const maxSteps = detect.MaxDepth

// place is a node of the tree of declared pointers.
type place struct {
	rule *rule
	kids map[string]*place
	any  *place // for *
	deep *place // for **
}

func (p *place) add(pointer string, r *rule) {
	at := p
	for step := range written(pointer) {
		at = at.kid(step)
	}
	at.rule = r
}

func (p *place) kid(step string) *place {
	var to **place
	switch step {
	case "*":
		to = &p.any
	case "**":
		to = &p.deep
	default:
		step = unescapeStep(step)
		if p.kids == nil {
			p.kids = map[string]*place{}
		}
		if p.kids[step] == nil {
			p.kids[step] = &place{}
		}
		return p.kids[step]
	}
	if *to == nil {
		*to = &place{}
	}
	return *to
}

// find returns the rule for exactly these steps: names before *, and that before **.
func (p *place) find(steps []string) *rule {
	if len(steps) == 0 {
		if p.rule == nil && p.deep != nil {
			return p.deep.rule
		}
		return p.rule
	}
	if kid := p.kids[steps[0]]; kid != nil {
		if r := kid.find(steps[1:]); r != nil {
			return r
		}
	}
	if p.any != nil {
		if r := p.any.find(steps[1:]); r != nil {
			return r
		}
	}
	if p.deep != nil {
		for i := range len(steps) + 1 {
			if r := p.deep.find(steps[i:]); r != nil {
				return r
			}
		}
	}
	return nil
}

// written are the steps of a pointer as they are written there.
func written(pointer string) iter.Seq[string] {
	if pointer == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(pointer[1:], "/")
}

// stepsOf splits a pointer.
func stepsOf(room []string, pointer string) []string {
	for step := range written(pointer) {
		room = append(room, unescapeStep(step))
	}
	return room
}

// ruleAt returns what was declared of a place, or of the nearest place around it.
func (s *Scrubber) ruleAt(pointer string) *rule {
	var room [maxSteps]string
	steps := stepsOf(room[:0], pointer)
	for n := len(steps); n >= 0; n-- {
		if s.hasPointers {
			if r := s.places.find(steps[:n]); r != nil {
				return r
			}
		}
		if n > 0 {
			if r := s.columns[steps[n-1]]; r != nil {
				return r
			}
		}
	}
	return nil
}

// shared is how many steps two pointers begin with alike.
func shared(a, b string) int {
	n, i := 0, 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		if a[i] == '/' && i > 0 {
			n++
		}
		i++
	}
	if (i == len(a) || a[i] == '/') && (i == len(b) || b[i] == '/') && i > 0 {
		n++
	}
	return n
}

// general appends a pointer as a report may have it: an index, and a name that may be
// somebody's, is a *.
func general(dst []byte, pointer string) []byte {
	for step := range written(pointer) {
		dst = append(dst, '/')
		if plain(step) {
			dst = append(dst, step...)
		} else {
			dst = append(dst, '*')
		}
	}
	return dst
}

// plain reports whether a name is that of a field rather than of somebody: letters
// with few digits, in one word.
func plain(step string) bool {
	digits, letters := 0, 0
	for _, c := range []byte(step) {
		switch {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80:
			letters++
		case c == '_' || c == '-' || c == '.' || c == '$':
		default:
			return false
		}
	}
	return letters > 0 && digits < 4 && len(step) <= 40
}
