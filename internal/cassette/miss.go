package cassette

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"sallyport"
)

// Reason is why nothing answered.
type Reason uint8

// The reasons.
const (
	NoTool  Reason = iota + 1 // no call of this tool was recorded
	NoMatch                   // none with these arguments
	Spent                     // a change with these arguments has answered already
	Stale                     // an id of the recording for which this run has another
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case NoTool:
		return "no call of this tool is recorded"
	case NoMatch:
		return "no call with these arguments is recorded"
	case Spent:
		return "every recording of this change has answered once already"
	case Stale:
		return "the id is the recording's own, this run was given another one"
	default:
		return "unknown"
	}
}

// Miss is a call that no recording answers. It is for people: where a class is
// declared, only the length of a value is shown.
type Miss struct {
	Tool   string
	Reason Reason
	// Seq is the nearest recording; 0 if there is none. Of the nearest ones it is the
	// earliest.
	Seq int
	// Pointer is where it differs first: Expected was recorded, Got was asked.
	Pointer, Expected, Got string
	// Rule, of the world's file, would let this difference be; empty if no rule would.
	Rule string
	// Other tools with a name like this one.
	Other []string
}

func (m *Miss) Error() string {
	text := "cassette has no answer for " + m.Tool + ": " + m.Reason.String()
	if m.Seq > 0 && m.Reason == NoMatch {
		text += fmt.Sprintf("; the nearest is call %d, which differs first at %q: recorded %s, asked %s", m.Seq, m.Pointer, m.Expected, m.Got)
	}
	if m.Reason == Stale {
		text += fmt.Sprintf(", at %q", m.Pointer)
	}
	return text + "; " + m.hint()
}

func (m *Miss) hint() string {
	switch {
	case m.Rule != "":
		return "record this call, or if the difference does not matter add to the world's file:\n" + m.Rule
	case len(m.Other) > 0:
		return "record this call; there are recordings of " + strings.Join(m.Other, ", ")
	case m.Reason == Spent:
		return fmt.Sprintf("record a session in which it is made again (call %d was the last), or teach a twin", m.Seq)
	case m.Reason == Stale:
		return "use the id that this run's earlier call returned"
	default:
		return "record this call, or teach a twin"
	}
}

// Refusal is the miss as what the gateway knows. Its words are for people and for the
// log; what an agent is told is the gateway's affair.
func (m *Miss) Refusal() *sallyport.Refusal {
	hint := m.hint()
	reason := strings.TrimSuffix(m.Error(), "; "+hint)
	r := sallyport.Refuse(sallyport.WorldGap, reason, hint)
	r.Detail = map[string]any{"tool": m.Tool}
	if m.Seq > 0 {
		r.Detail["nearest"] = m.Seq
		r.Detail["pointer"] = m.Pointer
	}
	if m.Rule != "" {
		r.Detail["rule"] = m.Rule
	}
	return r
}

func (p *Player) miss(name string, args *node) *Miss {
	m := &Miss{Tool: name, Reason: NoMatch}
	t := p.deck.byTool[name]
	if t == nil {
		m.Reason = NoTool
		var names []string
		for other := range p.deck.byTool {
			names = append(names, other)
		}
		m.Other = sallyport.Nearest(name, names)
		return m
	}
	best, _ := p.deck.nearest(t, args, func(int) bool { return true })
	m.Seq = best + 1
	var was, is *node
	m.Pointer, was, is = firstDifference(p.deck.calls[best], args, t.rules, "")
	secret := false
	if c := p.deck.classes[name]; c != nil {
		secret = personal(c.arguments.at(m.Pointer))
	}
	m.Expected, m.Got = shown(was, secret), shown(is, secret)
	at := m.Pointer
	for i := range len(at) { // a list in another order is that, not its first element
		if a, b := p.deck.calls[best].at(at[:i]), args.at(at[:i]); at[i] == '/' && a != nil && b != nil && a.kind == '[' && (&rule{what: asSet}).allows(a, b, nil) {
			at, was, is = at[:i], a, b
			break
		}
	}
	m.Rule = bridge(name, at, was, is, m.Seq)
	return m
}

const mostShown = 120

// shown is a value as a miss shows it.
func shown(n *node, secret bool) string {
	if n == nil {
		return "nothing"
	}
	if secret {
		what := map[byte]string{'{': "object", '[': "array", '"': "string", '0': "number", 't': "boolean", 'f': "boolean", 'n': "null"}[n.kind]
		return fmt.Sprintf("%s of %d bytes", what, len(n.text)+len(n.raw)*btoi(n.text == ""))
	}
	if len(n.raw) <= mostShown {
		return string(n.raw)
	}
	cut := mostShown
	for !utf8.RuneStart(n.raw[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes)", n.raw[:cut], len(n.raw))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// bridge is the narrowest rule that lets a difference be, as YAML.
func bridge(toolName, pointer string, was, is *node, seq int) string {
	kind, line := "tolerate", ""
	switch {
	case was != nil && is != nil && was.kind == '0' && is.kind == '0' && ratOf(was.text) != nil && ratOf(is.text) != nil:
		gap := ratOf(was.text)
		gap.Abs(gap.Sub(gap, ratOf(is.text)))
		places, _ := gap.FloatPrec()
		line = "number: " + strconv.Quote(gap.FloatString(places))
	case was != nil && is != nil && was.kind == '"' && is.kind == '"' && strings.EqualFold(was.text, is.text):
		line = "casefold: true"
	case was != nil && is != nil && was.kind == '"' && is.kind == '"' && isTime(was.text) && isTime(is.text):
		a, _ := timeOf(was.text)
		b, _ := timeOf(is.text)
		gap := a.Sub(b)
		line = "within: " + max(gap, -gap).String()
	case was != nil && is != nil && (&rule{what: asSet}).allows(was, is, nil):
		line = "set: true"
	case was == nil && pointer != "":
		pointer = pointer[:strings.LastIndexByte(pointer, '/')]
		line = "subset: true"
	case pointer == "":
		return ""
	default:
		kind = "ignore"
		line = "why: " + strconv.Quote(fmt.Sprintf("differs from the recording, call %d", seq))
	}
	return fmt.Sprintf("match:\n  arguments:\n    %s:\n      - tool: %s\n        path: %s\n        %s\n",
		kind, strconv.Quote(toolName), strconv.Quote(pointer), line)
}
