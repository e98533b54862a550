package schema

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// RE2 runs in time proportional to the program times the text, so both are
// bounded: the program when a schema is compiled, their product at each match.
const (
	maxPatternBytes = 4096
	maxPatternProg  = 10_000  // instructions of one pattern
	maxSchemaProg   = 100_000 // instructions of all patterns of a schema
	maxMatchWork    = 1 << 25
)

// pattern is a regular expression of a schema.
type pattern struct {
	text string
	re   *regexp.Regexp
	size int // instructions
}

// newPattern compiles an ECMA-262 regular expression as far as RE2 can run it:
// lookaround and back references are errors.
func newPattern(text string) (*pattern, error) {
	if len(text) > maxPatternBytes {
		return nil, fmt.Errorf("pattern of %d bytes: at most %d are allowed", len(text), maxPatternBytes)
	}
	expr := fromECMA(text)
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("pattern %.80q: %w", text, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("pattern %.80q: %w", text, err)
	}
	if len(prog.Inst) > maxPatternProg {
		return nil, fmt.Errorf("pattern %.80q is too large when its repeats are written out", text)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("pattern %.80q: %w", text, err)
	}
	return &pattern{text: text, re: re, size: len(prog.Inst)}, nil
}

// Regexp compiles the value of a "pattern" keyword the way [Compile] does.
func Regexp(text string) (*regexp.Regexp, error) {
	p, err := newPattern(text)
	if err != nil {
		return nil, err
	}
	return p.re, nil
}

// match reports whether the pattern occurs in s. A text too long for the pattern
// does not match.
func (p *pattern) match(s []byte) bool {
	return len(s)*p.size <= maxMatchWork && p.re.Match(s)
}

// MatchString and String make a pattern usable by the library.
func (p *pattern) MatchString(s string) bool {
	return len(s)*p.size <= maxMatchWork && p.re.MatchString(s)
}

func (p *pattern) String() string { return p.text }

func libraryPattern(text string) (jsonschema.Regexp, error) {
	p, err := newPattern(text)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (k *keywords) pattern(word, text string) *pattern {
	if k.err != nil {
		return nil
	}
	p, err := newPattern(text)
	if err != nil {
		k.fail(word, "%v", err)
		return nil
	}
	if k.b.program += p.size; k.b.program > maxSchemaProg {
		k.fail(word, "the patterns of the schema are too large together")
		return nil
	}
	return p
}

// fromECMA writes \uXXXX and \u{X} the way RE2 has them; all else that both know
// is written alike.
func fromECMA(text string) string {
	if !strings.Contains(text, `\u`) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		if text[i+1] == 'u' {
			if r, n := escapedRune(text[i:]); n > 0 {
				fmt.Fprintf(&out, `\x{%x}`, r)
				i += n - 1
				continue
			}
		}
		out.WriteString(text[i : i+2])
		i++
	}
	return out.String()
}

// escapedRune reads \u{X}, \uXXXX or a pair of surrogates at the start of s, and
// returns how many bytes it takes, zero for none.
func escapedRune(s string) (rune, int) {
	if rest, ok := strings.CutPrefix(s, `\u{`); ok {
		digits, _, ok := strings.Cut(rest, "}")
		v, err := strconv.ParseUint(digits, 16, 32)
		if !ok || err != nil || v > 0x10FFFF {
			return 0, 0
		}
		return rune(v), len(`\u{`) + len(digits) + 1
	}
	first, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(first) {
		if second, ok := hex4(s[6:]); ok {
			if r := utf16.DecodeRune(first, second); r != 0xFFFD {
				return r, 12
			}
		}
	}
	return first, 6
}

// hex4 reads \uXXXX.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}
