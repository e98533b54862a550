package flow

import (
	"strings"

	"sallyport"
	"sallyport/internal/detect"
)

// Marks recognise confidential text when it leaves again. Short values are marked
// whole; of longer text so many of its runs of shingle letters and digits are
// marked that anything of shingle+window-1 that is repeated has a mark in it
// (Schleimer, Wilkerson, Aiken: Winnowing, 2003). Letters are folded and everything
// else left out first. A hash of 64 bits is enough: an accident makes the judgement
// stricter, never laxer.
type marks map[uint64]uint8

const (
	shingle = 16
	window  = 17
	short   = 5      // words of a value that is marked whole
	given   = 1 << 7 // a mark of what the run's host said: it is no secret of a result
)

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func (m marks) add(h uint64, bits uint8) {
	have := m[h]
	m[h] = max(have&^given, bits&^given) | (have|bits)&given
}

// squeeze is the folded letters and digits of a text.
func squeeze(dst []byte, s string) []byte {
	if classOf(s)&high != 0 {
		s = fold(clean(s))
	}
	for i := range len(s) {
		c := s[i]
		if class[c]&upper != 0 {
			c += 'a' - 'A'
		}
		if alnum(c) {
			dst = append(dst, c)
		}
	}
	return dst
}

// whole is the hash of a value that is marked whole, and whether it can be told from
// others: by six letters and digits, or five digits.
func whole(s string) (uint64, bool) {
	squeezed := squeeze(make([]byte, 0, 64), s)
	h := uint64(fnvOffset)
	digits := true
	for _, c := range squeezed {
		h = (h ^ uint64(c)) * fnvPrime
		digits = digits && class[c] == digit
	}
	return h, tells(len(squeezed), digits)
}

func tells(n int, digits bool) bool { return n >= 6 || n == 5 && digits }

// text marks a text of a class.
func (m marks) text(s string, bits uint8) {
	if len(strings.Fields(s[:min(len(s), 256)])) <= short && len(s) <= 256 {
		if h, ok := whole(s); ok {
			m.add(h, bits)
		}
	}
	var (
		hashes [window]uint64
		least  = -1
		n      int
	)
	shingles(s, func(h uint64) {
		at := n % window
		hashes[at] = h
		n++
		if n < window {
			return
		}
		// The window has one new hash; look through it again only if its least has left.
		switch {
		case least == at || least < 0:
			least = at
			for i := range hashes {
				if hashes[i] < hashes[least] {
					least = i
				}
			}
		case h < hashes[least]:
			least = at
		default:
			return
		}
		m.add(hashes[least], bits)
	})
	if n > 0 && n < window {
		least := 0
		for i := range n {
			if hashes[i] < hashes[least] {
				least = i
			}
		}
		m.add(hashes[least], bits)
	}
}

// shingles calls fn with a rolling hash of each run of shingle letters and digits.
func shingles(s string, fn func(uint64)) {
	const base = 0x9E3779B97F4A7C15 | 1
	top := uint64(1)
	for range shingle - 1 {
		top *= base
	}
	squeezed := squeeze(make([]byte, 0, len(s)), s)
	h := uint64(0)
	for i, c := range squeezed {
		if i >= shingle {
			h -= top * (uint64(squeezed[i-shingle]) + 1)
		}
		h = h*base + uint64(c) + 1
		if i >= shingle-1 {
			fn(h ^ h>>29)
		}
	}
}

// leaves is the highest class of what is recognised in a text, also in what is
// encoded in it once.
func (m marks) leaves(s string, depth int) sallyport.Confidentiality {
	most := sallyport.Public
	see := func(h uint64) {
		if bits := m[h]; bits != 0 && bits&given == 0 {
			most = max(most, sallyport.Confidentiality(bits))
		}
	}
	if len(m) == 0 {
		return most
	}
	words := strings.FieldsFunc(clean(s), func(r rune) bool { return r < 0x80 && !alnum(byte(r)) })
	squeezed := make([]byte, 0, len(s))
	ends := make([]int, len(words))
	for i, w := range words {
		squeezed = squeeze(squeezed, w)
		ends[i] = len(squeezed)
	}
	start := 0
	for i := range words {
		h, digits, at := uint64(fnvOffset), true, start
		for j := i; j < min(len(words), i+maxWords); j++ {
			for ; at < ends[j]; at++ {
				h = (h ^ uint64(squeezed[at])) * fnvPrime
				digits = digits && class[squeezed[at]] == digit
			}
			if tells(at-start, digits) {
				see(h)
			}
		}
		start = ends[i]
	}
	shingles(s, see)
	if depth == 0 {
		return most
	}
	for chunk := range strings.FieldsSeq(s) {
		if len(chunk) < 20 {
			continue
		}
		for _, how := range []detect.Encoding{detect.Base64, detect.Hex, detect.Percent} {
			if inner, ok := detect.Unwrap(how, []byte(strings.Trim(chunk, around))); ok {
				most = max(most, m.leaves(string(inner), depth-1))
			}
		}
	}
	return most
}

// maxWords is how many words are looked at together: a value of five words may be
// split at its hyphens and points.
const maxWords = 8
