package sallyport

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// mostNear bounds what Nearest returns: more than that is a list, not a hint.
const mostNear = 3

// Nearest returns the names that a word was probably meant to be, at most three,
// the nearest first, and of equally near ones the first in the alphabet. Near is
// what few edits turn the word into, for a word of its length, with capitals and
// '_' for '-' free of charge; and "<upstream>/<tool>" is near to the tool alone or
// at another upstream.
func Nearest(word string, names []string) []string {
	type candidate struct {
		name  string
		edits int
	}
	word = folded(word)
	if word == "" || len(word) > 128 {
		return nil
	}
	most := max(1, utf8.RuneCountInString(word)/3)
	var near []candidate
	for _, name := range names {
		f := folded(name)
		n := edits(word, f, most)
		_, tool, ok := strings.Cut(f, "/")
		elsewhere := ok && (tool == word || strings.HasSuffix(word, "/"+tool))
		if elsewhere {
			n = min(n, 2) // further than a slip
		}
		if n <= most || elsewhere {
			near = append(near, candidate{name, n})
		}
	}
	slices.SortFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.edits, b.edits), strings.Compare(a.name, b.name))
	})
	near = slices.Compact(near)
	var out []string
	for _, c := range near[:min(len(near), mostNear)] {
		out = append(out, c.name)
	}
	return out
}

func folded(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "-")) }

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that turn a into b (optimal string alignment); above most, it may say less.
func edits(a, b string, most int) int {
	x, y := []rune(a), []rune(b)
	if d := len(x) - len(y); d > most || -d > most {
		return most + 1
	}
	before := make([]int, len(y)+1)
	row := make([]int, len(y)+1)
	next := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		next[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			next[j+1] = min(next[j]+1, row[j+1]+1, row[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(y)]
}
