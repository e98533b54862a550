package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sallyport"
)

// Problem is one thing that is wrong in a project directory: where, what, and
// what to do about it. No text of a Problem holds a secret, even where the
// problem is that somebody wrote one down.
type Problem struct {
	Path string `json:"path"` // relative to the project directory, with slashes
	// Line and Column start at one; a column counts characters. Zero means that
	// the problem is in no particular place.
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	// Excerpt is the offending line, with anything that looks like a secret
	// replaced.
	Excerpt string `json:"excerpt,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// String is the problem as people read it on a terminal: path:line:column and
// the message, the line with a caret under the column, and the hint.
func (p Problem) String() string {
	var b strings.Builder
	place := []string{}
	if p.Path != "" {
		place = append(place, p.Path)
	}
	if p.Line > 0 {
		place = append(place, strconv.Itoa(p.Line))
	}
	if p.Line > 0 && p.Column > 0 {
		place = append(place, strconv.Itoa(p.Column))
	}
	if len(place) > 0 {
		b.WriteString(strings.Join(place, ":") + ": ")
	}
	b.WriteString(p.Message)
	if p.Excerpt != "" {
		number := fmt.Sprint(p.Line)
		fmt.Fprintf(&b, "\n  %s | %s", number, p.Excerpt)
		if under, ok := p.caret(); ok {
			fmt.Fprintf(&b, "\n  %s | %s^", strings.Repeat(" ", len(number)), under)
		}
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "\n  hint: %s", p.Hint)
	}
	return b.String()
}

// caret is the space before a caret under the problem's column. Tabs stay tabs,
// so that both lines are as wide. Where something before the column was
// replaced, the columns no longer agree and there is no caret.
func (p Problem) caret() (string, bool) {
	if p.Column < 1 || p.Column > utf8.RuneCountInString(p.Excerpt)+1 {
		return "", false
	}
	var b strings.Builder
	left := p.Column - 1
	for i, r := range p.Excerpt {
		if left == 0 {
			break
		}
		if strings.HasPrefix(p.Excerpt[i:], masked) {
			return "", false
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
		left--
	}
	return b.String(), true
}

// Problems are all that is wrong, in the order of the files. An empty list is
// no error: never assign one to a variable of type error, use [Problems.Err].
type Problems []Problem

// Error is every problem, one after the other.
func (ps Problems) Error() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = p.String()
	}
	return strings.Join(parts, "\n")
}

// Err is the list as an error, nil if there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// ordered sorts problems by place and drops those said twice: one policy that is
// wrong for two agents is one problem.
func (ps Problems) ordered() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return slices.CompactFunc(ps, func(a, b Problem) bool {
		return a.Path == b.Path && a.Line == b.Line && a.Column == b.Column && a.Message == b.Message
	})
}

// excerpt is line n of a file as a problem shows it: never a secret, and never
// more than a terminal's width or two. A line too long to be written by people
// has none.
func excerpt(lines []string, n int) string {
	if n < 1 || n > len(lines) || len(lines[n-1]) > 4<<10 {
		return ""
	}
	if continuesSecret(lines, n-1) {
		return masked
	}
	line := maskSecrets(strings.TrimRight(lines[n-1], " \t\r"))
	const most = 160
	if utf8.RuneCountInString(line) > most {
		line = string([]rune(line)[:most]) + "…"
	}
	return strings.Map(printable, line)
}

func printable(r rune) rune {
	if r != '\t' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
		return '�'
	}
	return r
}

// quote is a value as a message shows it.
func quote(s string) string {
	if len(s) > 4<<10 {
		s = s[:4<<10]
	}
	s = maskSecrets(s)
	const most = 64
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// suggest is a hint for a word that is none of the valid ones: the nearest of
// them, or if none is near, all of them.
func suggest(word string, valid []string, plural string) string {
	if hint := didYouMean(word, valid); hint != "" {
		return hint
	}
	if len(valid) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(valid))
	const most = 24
	more := ""
	if len(sorted) > most {
		more = fmt.Sprintf(" and %d more", len(sorted)-most)
		sorted = sorted[:most]
	}
	return "the " + plural + " are " + strings.Join(sorted, ", ") + more
}

func didYouMean(word string, valid []string) string {
	if near := nearest(word, valid); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// nearest is the candidate that is nearest to a word, or "" if none is near.
func nearest(word string, candidates []string) string {
	if near := sallyport.Nearest(word, candidates); len(near) > 0 {
		return near[0]
	}
	return ""
}
