// Package descriptor judges what a server says of its tools before anybody believes it.
// A definition is text of a stranger that a model reads and obeys: [Compare] says what a
// changed one changes, [Check] what in one looks like an attack, and neither says that a
// definition is harmless. Both only read; who pins a definition is a person.
//
//	changes, err := descriptor.Compare(&pinned, &offered)
//	findings, err := descriptor.Check(&offered, others...)
package descriptor

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/canonical"
)

// Set is what one upstream offers.
type Set struct {
	Upstream sallyport.UpstreamID
	// Instructions are what the server says to every model that uses it.
	Instructions string
	Tools        []Tool
}

// Tool is one tool of a set.
type Tool struct {
	// Definition is a JSON object as MCP has it: name, description, inputSchema.
	Definition json.RawMessage
	// Reads says that a person declared that it changes nothing.
	Reads bool
}

// Effect is what a change means for those who use a tool. More is graver.
type Effect uint8

// The effects.
const (
	Cosmetic  Effect = iota + 1 // texts are other; nothing else is accepted or returned
	Narrowed                    // less is accepted, or more is promised
	Widened                     // more is accepted, offered or returned
	Dangerous                   // it may deceive, ask for more, break what works, or cannot be judged
)

var effectNames = []string{"", "cosmetic", "narrowed", "widened", "dangerous"}

// Severity is how much a finding weighs.
type Severity uint8

// The severities.
const (
	Low    Severity = iota + 1 // worth knowing
	Medium                     // a reason to read the definition word by word
	High                       // a reason not to pin it
)

var severityNames = []string{"", "low", "medium", "high"}

func (e Effect) String() string   { return nameOf(effectNames, uint8(e)) }
func (s Severity) String() string { return nameOf(severityNames, uint8(s)) }

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return ""
}

// MarshalText writes the effect in lower case.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// MarshalText writes the severity in lower case.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var (
	_ encoding.TextMarshaler = Effect(0)
	_ encoding.TextMarshaler = Severity(0)
)

// Finding is one thing in a definition that looks like an attack or makes one easier.
type Finding struct {
	Code     Code                 `json:"code"`
	Severity Severity             `json:"severity"`
	Upstream sallyport.UpstreamID `json:"upstream"`
	Tool     string               `json:"tool,omitempty"` // safe for a terminal; absent of what is said of the server
	// Pointer is where in the definition, as a JSON pointer (RFC 6901), or
	// "/instructions".
	Pointer string `json:"pointer"`
	// Excerpt is what was found, one line that a terminal shows and does not obey.
	Excerpt string `json:"excerpt,omitempty"`
	Why     string `json:"why"`
	Do      string `json:"do"`
}

// Part is one difference between two definitions.
type Part struct {
	Pointer string `json:"pointer"`
	Effect  Effect `json:"effect"`
	What    string `json:"what"` // safe for a terminal
}

// Change is how one tool, or what the server says of itself, differs.
type Change struct {
	// Tool is "" where it is about the server's instructions. Was is the name of a tool
	// that has been renamed.
	Tool   string `json:"tool,omitempty"`
	Was    string `json:"was,omitempty"`
	State  State  `json:"state"`
	Effect Effect `json:"effect"` // that of the gravest part
	Parts  []Part `json:"parts"`
}

// State is what has become of a tool.
type State string

// The states. What is as it was is not a change.
const (
	Added   State = "added"
	Removed State = "removed"
	Renamed State = "renamed"
	Changed State = "changed"
)

func (c *Change) add(pointer string, e Effect, format string, args ...any) {
	c.Parts = append(c.Parts, Part{pointer, e, fmt.Sprintf(format, args...)})
	c.Effect = max(c.Effect, e)
}

// definition is a definition that has been read.
type definition struct {
	raw     json.RawMessage
	sum     string
	name    string
	members map[string]any
	reads   bool
}

// read reads definitions strictly: what two readers could read in two ways is an error.
func read(tools []Tool) ([]*definition, error) {
	var all []*definition
	seen := map[string]bool{}
	for i := range tools {
		form, err := canonical.JSON(tools[i].Definition)
		if err != nil {
			return nil, fmt.Errorf("reading definition %d: %w", i, err)
		}
		d := &definition{raw: tools[i].Definition, sum: canonical.SumBytes(form), reads: tools[i].Reads}
		dec := json.NewDecoder(bytes.NewReader(form))
		dec.UseNumber()
		if err := dec.Decode(&d.members); err != nil || d.members == nil {
			return nil, fmt.Errorf("reading definition %d: it is no object", i)
		}
		if d.name, _ = d.members["name"].(string); d.name == "" {
			return nil, fmt.Errorf("reading definition %d: it has no name", i)
		}
		if seen[d.name] {
			return nil, fmt.Errorf("reading definition %d: a second one named %s", i, Safe(d.name))
		}
		seen[d.name] = true
		all = append(all, d)
	}
	return all, nil
}

// mostShown is how many characters of a stranger's text are shown at once.
const mostShown = 96

// Safe is a text on one line that a terminal shows and does not obey: what is not
// plainly seen is written as its number, and what is long is cut.
func Safe(s string) string {
	var b strings.Builder
	n := 0
	for i, r := range s {
		if n++; n > mostShown {
			b.WriteString("…")
			break
		}
		switch {
		case r == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				fmt.Fprintf(&b, "<%02X>", s[i])
				continue
			}
			b.WriteString("<U+FFFD>")
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r) && !unicode.In(r, unicode.Mn, unicode.Me) && !invisible(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "<U+%04X>", r)
		}
	}
	return strings.TrimSpace(b.String())
}

// invisible are letters and signs that leave nothing to see.
func invisible(r rune) bool {
	return r == 0x115f || r == 0x1160 || r == 0x3164 || r == 0xffa0 || r == 0x2800 || unicode.Is(unicode.Variation_Selector, r)
}

// around is a safe excerpt of a text from a little before a place.
func around(s string, at int) string {
	from := max(0, at-24)
	for from > 0 && !utf8.RuneStart(s[from]) {
		from--
	}
	excerpt := Safe(s[from:])
	if from > 0 {
		excerpt = "…" + excerpt
	}
	return excerpt
}

var escape = strings.NewReplacer("~", "~0", "/", "~1")

func pointer(steps ...string) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteByte('/')
		b.WriteString(escape.Replace(s))
	}
	return b.String()
}

func sortFindings(all []Finding) {
	slices.SortStableFunc(all, func(a, b Finding) int {
		if a.Severity != b.Severity {
			return int(b.Severity) - int(a.Severity)
		}
		return strings.Compare(a.Tool+"\x00"+a.Pointer+"\x00"+string(a.Code), b.Tool+"\x00"+b.Pointer+"\x00"+string(b.Code))
	})
}
