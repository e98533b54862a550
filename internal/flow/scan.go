package flow

import (
	"slices"
	"strings"
	"unicode/utf8"

	"sallyport/internal/ident"
)

// around is what stands at the ends of a word and does not belong to it.
const around = "\"'`()[]{}<>,;:!?*_.|\u2018\u2019\u201c\u201d\u2026"

// longest is how many words a value of several words may have.
const longest = 8

// scan calls found for what looks like a value in a text that has been cleaned:
// addresses, numbers with a form, codes, paths, capitalised words and what is
// quoted. A value may be found more than once and in several forms.
func scan(s string, found func(Form, string)) {
	run := 0 // where a run of capitalised words begins, plus one
	words := 0
	endRun := func(end int) {
		if run > 0 && words > 1 {
			phrase := fold(strings.Trim(s[run-1:end], around))
			found(Name, phrase)
			if telling(phrase) {
				found(Plain, phrase)
			}
		}
		run, words = 0, 0
	}
	last := 0
	for start := 0; start < len(s); {
		if space(s[start]) {
			start++
			continue
		}
		end, flags := start, uint16(0)
		for end < len(s) && !space(s[end]) {
			flags |= class[s[end]]
			end++
		}
		if flags&(digit|upper|at|dot|slash|quote|high) == 0 && strings.IndexByte(s[start:end], '-') < 0 && strings.IndexByte(s[start:end], '_') < 0 {
			endRun(last)
			last, start = end, end
			continue
		}
		chunk := s[start:end]
		word := strings.Trim(chunk, around)
		capital := word != "" && class[word[0]]&(upper|high) != 0
		if capital {
			if run == 0 {
				run = start + 1
			}
			words++
			if flags&(digit|at|slash) == 0 && len(word) >= 3 {
				found(Name, fold(word))
			}
			if words == longest || strings.ContainsAny(chunk[len(chunk)-1:], ".,;:!?)\"") {
				endRun(end)
			}
		} else {
			endRun(last)
		}
		last = end
		if flags&(at|dot|slash|colon) != 0 {
			links(chunk, func(whole string) {
				if v, ok := email(whole); ok {
					found(Email, v)
				} else if v, _, ok := address(whole); ok && v != "" {
					found(URL, v)
				}
			})
		}
		if flags&digit != 0 {
			numbers(s, start, word, found)
		}
		if flags&(at|quote) == 0 && strings.ContainsAny(word, "-_./\\") {
			if phrase := fold(word); telling(phrase) {
				found(Plain, phrase)
			}
		}
		if flags&quote != 0 {
			quoted(s, start, end, found)
		}
		start = end
	}
	endRun(last)
}

func space(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\v' || c == '\f'
}

// links calls fn for what may be an address in a word: the word itself, its parts
// between brackets, quotes, commas and the like, and what begins with a scheme in the
// midst of them.
func links(chunk string, fn func(string)) {
	const between = "<>\"`|[]{}(),;'="
	word := strings.Trim(chunk, around)
	if word == "" {
		return
	}
	if !strings.ContainsAny(word, between) || begins(word) == 0 && !strings.ContainsAny(word, "<>\"`|[]{}") {
		fn(word)
	}
	if begins(word) <= 0 && !strings.ContainsAny(word, between) {
		return
	}
	for part := range strings.FieldsFuncSeq(word, func(r rune) bool { return strings.ContainsRune(between, r) }) {
		if part = strings.Trim(part, around); part != "" && part != word {
			fn(part[max(begins(part), 0):])
		} else if part != "" && begins(part) > 0 {
			fn(part[begins(part):])
		}
	}
}

// begins is where the scheme of a URL begins in a text, -1 if there is none.
func begins(s string) int {
	i := strings.Index(s, "://")
	if i < 0 {
		return -1
	}
	for i > 0 && s[i-1] < utf8.RuneSelf && (alnum(s[i-1]) || strings.IndexByte("+.-", s[i-1]) >= 0) {
		i--
	}
	return i
}

// numbers looks for a value with digits that begins with the word at start; some are
// written with spaces.
func numbers(s string, start int, word string, found func(Form, string)) {
	if word == "" {
		return
	}
	switch form, v := recognise(word); form {
	case IBAN, Phone, Date, Code:
		found(form, v)
		return
	}
	begin := start + strings.IndexByte(s[start:], word[0])
	if len(word) >= 4 && class[word[0]]&upper != 0 {
		if want := ident.IBANLength([]byte(word + "0")); want > 0 {
			end, have := begin, 0
			for ; end < len(s) && have < want && (alnum(s[end]) || s[end] == ' '); end++ {
				if s[end] != ' ' {
					have++
				}
			}
			if v, ok := iban(s[begin:end]); ok {
				found(IBAN, v)
			}
		}
	}
	if start < len(s) && (s[start] == '+' || s[start] == '(' || class[s[start]] == digit) {
		end := start
		for end < len(s) && end < start+32 && (class[s[end]] == digit || strings.IndexByte("+ -()", s[end]) >= 0) {
			end++
		}
		if v, ok := phone(strings.TrimRight(s[start:end], " -()")); ok {
			found(Phone, v)
		}
	}
}

// quoted finds what a quote that opens in the word from start to end encloses.
func quoted(s string, start, end int, found func(Form, string)) {
	for i := start; i < end; i++ {
		if class[s[i]]&quote == 0 || i > 0 && alnum(s[i-1]) {
			continue
		}
		rest := s[i+1 : min(len(s), i+82)]
		if j := strings.IndexByte(rest, s[i]); j > 0 {
			v := fold(strings.TrimSpace(rest[:j]))
			found(Name, v)
			if telling(v) {
				found(Plain, v)
			}
		}
	}
}

// phrases calls found for every run of up to longest words of a text that has been
// cleaned, if it can be told from a coincidence.
func phrases(s string, found func(Form, string)) {
	words := strings.Fields(s)
	for i := range words {
		for j := i + 1; j <= min(len(words), i+longest); j++ {
			if p := phrase(words[i:j]); telling(p) {
				found(Plain, p)
			}
		}
	}
}

func phrase(words []string) string {
	words = slices.Clone(words)
	words[0] = strings.TrimLeft(words[0], around)
	words[len(words)-1] = strings.TrimRight(words[len(words)-1], around)
	return fold(strings.Join(words, " "))
}
