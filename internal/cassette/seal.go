package cassette

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sallyport"
	"sallyport/internal/canonical"
)

// Originals are the values that were replaced in a recording. They are in memory
// alone: nothing here writes them.
type Originals struct {
	values map[string]bool
	made   map[string]bool            // replacements of other values
	stayed map[string]bool            // values that were replaced by themselves
	lines  map[[sha256.Size]byte]bool // digests of the lines they were kept for
}

// NewOriginals returns an empty set.
func NewOriginals() *Originals {
	return &Originals{
		values: map[string]bool{}, made: map[string]bool{}, stayed: map[string]bool{},
		lines: map[[sha256.Size]byte]bool{},
	}
}

// Add puts a value into the set.
func (o *Originals) Add(value string) {
	if value = strings.TrimSpace(value); value != "" {
		o.values[value] = true
	}
}

// Count is how many different values there are.
func (o *Originals) Count() int { return len(o.values) }

func (o *Originals) became(value, replacement string) {
	if value = strings.TrimSpace(value); value == strings.TrimSpace(replacement) {
		o.stayed[value] = true
	} else {
		o.made[strings.TrimSpace(replacement)] = true
	}
}

func (o *Originals) cover(line []byte) { o.lines[sha256.Sum256(line)] = true }

// Hit is where a value was found that should be gone. The value is not in it.
type Hit struct {
	Line     int    // from 1
	Pointer  string // into the line; a step that holds such a value is <name N>
	Encoding Encoding
	Length   int  // of the value, in bytes
	Canary   bool // it was planted
}

// Leak refuses to seal.
type Leak struct {
	Hits  []Hit // the first of them
	Total int   // at least
}

const mostHits = 100

func (l *Leak) Error() string {
	h := l.Hits[0]
	what := "a value that was replaced elsewhere"
	if h.Canary {
		what = "a planted canary"
	}
	more := ""
	if l.Total > 1 {
		more = fmt.Sprintf(" (%d places in all)", l.Total)
	}
	return fmt.Sprintf("cassette is not sealed: line %d, %s: %s of %d bytes is still there, %s%s; declare a data class for that place in the upstream's file and record again",
		h.Line, h.Pointer, what, h.Length, h.Encoding, more)
}

// Sealing is what a seal rests on.
type Sealing struct {
	Calls, Bytes int
	Originals    int // values that were looked for
	// Unsearched are values of less than four bytes: they are everywhere.
	Unsearched int
	// Coincidences are places at which a value of less than eight bytes, or a time,
	// stands that is also what another value was replaced by.
	Coincidences int
}

// Seal looks in a recording for every original value and every canary: as it is, with
// the escapes of JSON, percent-encoded, in base64 at any offset, in hexadecimal digits,
// and in one of these inside of another. Capitals do not matter from eight bytes on,
// and in addresses. A value of four to seven bytes is found where it stands as a word.
// If there is none, it returns the recording with a last line that holds the digest of
// all others; a *Leak otherwise.
//
// The originals have to be those that the recording's own Writer collected, and no
// line may have changed since. A canary has at least eight bytes.
func Seal(recorded []byte, o *Originals, canaries [][]byte) ([]byte, Sealing, error) {
	s := search{report: Sealing{Bytes: len(recorded)}, originals: o}
	if err := s.prepare(o, canaries); err != nil {
		return nil, Sealing{}, err
	}
	c, err := parseLines(recorded, Limits{}, func(line int, text []byte, doc *node) error {
		if doc.member("seal") != nil {
			return errors.New("cassette is sealed already: use it as it is")
		}
		if !o.lines[sha256.Sum256(text)] {
			return fmt.Errorf("cassette, line %d: was not written by the recording whose values are to be looked for; seal in the process that recorded, or record again", line)
		}
		s.read(line, doc)
		return nil
	})
	if err != nil {
		return nil, Sealing{}, err
	}
	if s.report.Calls = len(c.Calls); s.report.Calls == 0 {
		return nil, Sealing{}, errors.New("cassette has no calls: record some before sealing it")
	}
	if s.total > 0 {
		return nil, s.report, &Leak{Hits: s.hits, Total: s.total}
	}
	sealed := append(appendSeal(bytes.Clone(recorded), &s.report, s.report.digest(recorded)), '\n')
	return sealed, s.report, nil
}

// digest is that of the lines and of what is said of them.
func (s *Sealing) digest(lines []byte) sallyport.Digest {
	return sallyport.Digest(canonical.SumBytes(appendSeal(slices.Clip(lines), s, "")))
}

func appendSeal(b []byte, s *Sealing, lines sallyport.Digest) []byte {
	return fmt.Appendf(b, `{"seal":%d,"calls":%d,"lines":"%s","originals":%d,"unsearched":%d,"coincidences":%d}`,
		Version, s.Calls, lines, s.Originals, s.Unsearched, s.Coincidences)
}

// search is the search of one recording.
type search struct {
	finder    *finder
	viewer    viewer
	originals *Originals
	canaries  int // the values from here on are planted
	line      int
	hits      []Hit
	total     int
	known     map[seen]bool // of this line; without a pointer, anywhere in it
	report    Sealing
}

// seen is a hit that need not be reported again.
type seen struct{ pointer, value string }

func (s *search) prepare(o *Originals, canaries [][]byte) error {
	values := map[string]bool{}
	for v := range o.values {
		if len(v) < leastWord {
			s.report.Unsearched++
			continue
		}
		s.report.Originals++
		values[v] = true
		if c := compact(v); len(c) >= longEnough {
			values[c] = true
		}
	}
	var all [][]byte
	for _, v := range slices.Sorted(maps.Keys(values)) {
		all = append(all, []byte(v))
	}
	s.canaries = len(all)
	for i, c := range canaries {
		if len(c) < longEnough {
			return fmt.Errorf("canary %d has %d bytes: plant one of at least %d, that stands nowhere by chance", i+1, len(c), longEnough)
		}
		all = append(all, c)
	}
	s.finder = newFinder(all)
	return nil
}

// compact is a number without what groups its digits; nothing for anything else.
func compact(v string) string {
	out := make([]byte, 0, len(v))
	digits := 0
	for i := range len(v) {
		switch c := v[i]; {
		case '0' <= c && c <= '9':
			digits++
			out = append(out, c)
		case 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z':
			out = append(out, c)
		case c == ' ' || c == '-' || c == '.' || c == '/' || c == '(' || c == ')' || c == '+':
		default:
			return ""
		}
	}
	if digits*2 < len(out) || len(out) == len(v) {
		return ""
	}
	return string(out)
}

// read searches what a line holds of the outside: numbers and words of the format's
// own are left out.
func (s *search) read(line int, doc *node) {
	s.line = line
	s.known = map[seen]bool{}
	for i, item := range doc.items {
		switch member := doc.names[i]; member {
		case "upstream", "domain", "tool", "args", "result", "error":
			if s.value(item, "/"+member); item.kind == '{' {
				s.text(item.raw, "/"+member, 0, Plain)
			}
		}
	}
}

// mostNested is how often a text is decoded.
const mostNested = 2

func (s *search) value(n *node, pointer string) {
	for i, item := range n.items {
		step := n.step(i)
		if n.kind == '{' {
			before := s.total
			hidden := pointer + "/<name " + strconv.Itoa(i+1) + ">"
			if s.text([]byte(step), hidden, mostNested, Plain); s.total > before {
				s.value(item, hidden)
				continue
			}
		}
		s.value(item, below(pointer, step))
	}
	if n.isLeaf() && n.kind != '{' && n.kind != '[' {
		s.text([]byte(n.text), pointer, mostNested, Plain)
	}
}

func (s *search) text(text []byte, pointer string, nest int, as Encoding) {
	if len(text) < leastWord {
		return
	}
	s.viewer.views(text, as, nest, func(view []byte, as Encoding) {
		s.finder.each(view, func(v, at int) bool {
			if !s.finder.fits(v, at, view, as) {
				return true
			}
			value := string(s.finder.values[v])
			if s.known[seen{pointer, value}] || nest == 0 && s.known[seen{"", value}] {
				return true
			}
			s.known[seen{pointer, value}], s.known[seen{"", value}] = true, true
			if (len(value) < longEnough || isTime(value)) && v < s.canaries && s.originals.made[value] && !s.originals.stayed[value] {
				s.report.Coincidences++
				return true
			}
			s.total++
			if len(s.hits) < mostHits {
				s.hits = append(s.hits, Hit{s.line, pointer, as, len(value), v >= s.canaries})
			}
			return s.total < 10*mostHits
		})
	})
}
