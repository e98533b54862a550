package cassette

import (
	"bytes"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// How long a value is that is looked for at all, that may be a part of a word, and
// that is looked for in the midst of encoded bytes. What is shorter would be found
// everywhere.
const (
	longEnough  = 8
	leastWord   = 4
	leastInside = 6
)

// finder finds many values at once in time linear in what is searched: A. Aho and M.
// Corasick, Efficient String Matching, 1975. The letters of ASCII are folded.
type finder struct {
	values [][]byte // as they are
	fail   []uint32 // by state: the longest proper suffix that is a state
	value  []int32  // by state: the value that ends here, or -1
	twin   []int32  // by value: another one that ends there, in other capitals, or -1
	also   []uint32 // by state: the next suffix at which a value ends, or 0
	root   [256]uint32

	// Edges below the root, in a table with open addressing: state<<8|byte, plus one.
	edges []edge
	mask  uint32

	// begins has a bit for each hash of four bytes a value begins with. At the root,
	// most places are passed over by it.
	begins [1 << 14]uint64
}

type edge struct {
	key uint64
	to  uint32
}

func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// newFinder takes values of at least leastWord bytes.
func newFinder(values [][]byte) *finder {
	f := &finder{values: values}
	total := 0
	for _, v := range values {
		total += len(v)
	}
	size := uint32(16)
	for int(size) < 2*total {
		size *= 2
	}
	f.twin = make([]int32, len(values))
	f.edges, f.mask = make([]edge, size), size-1
	f.fail, f.value, f.also = make([]uint32, 1, total+1), append(make([]int32, 0, total+1), -1), make([]uint32, 1, total+1)
	type link struct {
		from, to uint32
		c        byte
	}
	var links []link
	for i, v := range values {
		state := uint32(0)
		for _, c := range v {
			c = fold(c)
			next := f.step(state, c)
			if next == 0 {
				next = uint32(len(f.fail))
				f.fail, f.value, f.also = append(f.fail, 0), append(f.value, -1), append(f.also, 0)
				f.connect(state, c, next)
				links = append(links, link{state, next, c})
			}
			state = next
		}
		f.twin[i], f.value[state] = f.value[state], int32(i)
		at := f.hash(fold(v[0]), fold(v[1]), fold(v[2]), fold(v[3]))
		f.begins[at>>6] |= 1 << (at & 63)
	}
	// Breadth first: a state's suffixes are shorter than it is.
	depth := make([]uint32, len(f.fail))
	for _, l := range links { // in the order of making, parents are before children
		depth[l.to] = depth[l.from] + 1
	}
	byDepth := make([][]link, 0, 64)
	for _, l := range links {
		for int(depth[l.to]) > len(byDepth) {
			byDepth = append(byDepth, nil)
		}
		byDepth[depth[l.to]-1] = append(byDepth[depth[l.to]-1], l)
	}
	for level, of := range byDepth {
		for _, l := range of {
			if level > 0 {
				f.fail[l.to] = f.next(f.fail[l.from], l.c)
			}
			suffix := f.fail[l.to]
			if f.value[suffix] < 0 {
				suffix = f.also[suffix]
			}
			f.also[l.to] = suffix
		}
	}
	return f
}

func (f *finder) hash(a, b, c, d byte) uint32 {
	x := uint32(a) | uint32(b)<<8 | uint32(c)<<16 | uint32(d)<<24
	return x * 0x9E3779B1 >> 12 // 20 bits
}

func slot(key uint64) uint32 { return uint32(key * 0x9E3779B97F4A7C15 >> 32) }

// step follows an edge, or returns 0 if there is none.
func (f *finder) step(state uint32, c byte) uint32 {
	if state == 0 {
		return f.root[c]
	}
	key := uint64(state)<<8 | uint64(c)
	for at := slot(key) & f.mask; ; at = (at + 1) & f.mask {
		e := &f.edges[at]
		if e.key == key {
			return e.to
		}
		if e.key == 0 {
			return 0
		}
	}
}

func (f *finder) connect(state uint32, c byte, to uint32) {
	if state == 0 {
		f.root[c] = to
		return
	}
	key := uint64(state)<<8 | uint64(c)
	at := slot(key) & f.mask
	for f.edges[at].key != 0 {
		at = (at + 1) & f.mask
	}
	f.edges[at] = edge{key, to}
}

func (f *finder) next(state uint32, c byte) uint32 {
	for {
		if to := f.step(state, c); to != 0 || state == 0 {
			return to
		}
		state = f.fail[state]
	}
}

// each calls found for each value in the text, with where it begins. found returns
// whether to go on.
func (f *finder) each(text []byte, found func(value, at int) bool) bool {
	state := uint32(0)
	for i := 0; i < len(text); i++ {
		if state == 0 {
			// Every value has four bytes or more: where none begins with the next four,
			// the state after this byte is the root again.
			for ; i+leastWord <= len(text); i++ {
				at := f.hash(fold(text[i]), fold(text[i+1]), fold(text[i+2]), fold(text[i+3]))
				if f.begins[at>>6]>>(at&63)&1 != 0 {
					break
				}
			}
			if i+leastWord > len(text) {
				return true
			}
		}
		state = f.next(state, fold(text[i]))
		for at := state; at != 0; at = f.also[at] {
			for v := f.value[at]; v >= 0; v = f.twin[v] {
				if !found(int(v), i+1-len(f.values[v])) {
					return false
				}
			}
		}
	}
	return true
}

// Encoding is how a value was wrapped that was found in a recording.
type Encoding uint8

// The encodings.
const (
	Plain   Encoding = iota + 1
	Escaped          // with escapes of JSON
	Percent          // RFC 3986, section 2.1, or as HTML forms have it
	Base64           // RFC 4648, either alphabet, at any offset
	Hex              // either case
)

// String returns the encoding in lower case.
func (e Encoding) String() string {
	switch e {
	case Plain:
		return "plain"
	case Escaped:
		return "escaped"
	case Percent:
		return "percent-encoded"
	case Base64:
		return "base64"
	case Hex:
		return "hexadecimal"
	default:
		return "unknown"
	}
}

// viewer holds what decoding needs room for, on each level of it.
type viewer struct {
	run, bytes []byte
	below      *viewer
}

// views calls see for a text, and for all that it may mean when it is decoded, at most
// nest times over. A view is valid until see returns.
func (v *viewer) views(text []byte, as Encoding, nest int, see func(view []byte, as Encoding)) {
	see(text, as)
	if nest == 0 {
		return
	}
	if v.below == nil {
		v.below = new(viewer)
	}
	if bytes.IndexByte(text, '\\') >= 0 {
		v.below.views(unescaped(text), Escaped, nest-1, see)
	}
	plus := bytes.IndexByte(text, '+') >= 0
	if bytes.IndexByte(text, '%') >= 0 {
		v.below.views(unpercented(text, false), Percent, nest-1, see)
		if plus {
			v.below.views(unpercented(text, true), Percent, nest-1, see)
		}
	} else if plus {
		see(unpercented(text, true), Percent)
	}
	v.runs(text, &sextet, 6, func(run []byte) {
		for offset := range min(4, len(run)) {
			decoded := v.packed(run[offset:], 6)
			if isText(bytes.TrimRight(decoded, "\x00")) && len(decoded) >= 2*leastInside {
				v.below.views(decoded, Base64, nest-1, see)
			} else {
				see(decoded, Base64)
			}
		}
	})
	v.runs(text, &quartet, 8, func(run []byte) {
		for offset := range 2 {
			decoded := v.packed(run[offset:], 4)
			if isText(decoded) {
				v.below.views(decoded, Hex, nest-1, see)
			} else {
				see(decoded, Hex)
			}
		}
	})
}

// noDigit marks a byte that is no digit of an encoding.
const noDigit = 0xFF

var sextet, quartet = func() (six, four [256]byte) {
	for i := range six {
		six[i], four[i] = noDigit, noDigit
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range len(digits) {
		six[digits[i]] = byte(i)
	}
	six['-'], six['_'] = 62, 63
	for i := range byte(16) {
		four["0123456789abcdef"[i]], four["0123456789ABCDEF"[i]] = i, i
	}
	return six, four
}()

// runs calls found for each run of digits, as their values. Line ends within a run are
// passed over (RFC 2045).
func (v *viewer) runs(text []byte, digit *[256]byte, least int, found func(run []byte)) {
	run := v.run
	defer func() { v.run = run[:0] }()
	for i := 0; i < len(text); {
		if digit[text[i]] == noDigit {
			i++
			continue
		}
		end := i + 1
		for end < len(text) && digit[text[end]] != noDigit {
			end++
		}
		run = run[:0]
		for _, c := range text[i:end] {
			run = append(run, digit[c])
		}
		for end+1 < len(text) && (text[end] == '\n' || text[end] == '\r') {
			start := end
			for start < len(text) && (text[start] == '\n' || text[start] == '\r') {
				start++
			}
			if start == len(text) || digit[text[start]] == noDigit {
				break
			}
			for end = start; end < len(text) && digit[text[end]] != noDigit; end++ {
				run = append(run, digit[text[end]])
			}
		}
		if len(run) >= least {
			found(run)
		}
		i = end
	}
}

// packed puts the bits of digits together to bytes; bits that fill no byte are left
// out.
func (v *viewer) packed(run []byte, bits uint) []byte {
	out := v.bytes[:0]
	var have uint
	var word uint32
	for _, d := range run {
		word = word<<bits | uint32(d)
		if have += bits; have >= 8 {
			have -= 8
			out = append(out, byte(word>>have))
		}
	}
	v.bytes = out
	return out
}

// unescaped undoes the escapes of JSON strings, wherever they stand.
func unescaped(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		n := 2
		if text[i+1] == 'u' {
			n = 6
			if i+12 <= len(text) && text[i+6] == '\\' {
				if both, err := jsontext.AppendUnquote(out, quoted(text[i:i+12])); err == nil {
					out, i = both, i+11
					continue
				}
			}
		}
		if i+n <= len(text) {
			if one, err := jsontext.AppendUnquote(out, quoted(text[i:i+n])); err == nil {
				out, i = one, i+n-1
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

func quoted(text []byte) []byte {
	return append(append([]byte{'"'}, text...), '"')
}

// unpercented undoes percent-encoding; with plus, a + is a space.
func unpercented(text []byte, plus bool) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '%' && i+2 < len(text) && quartet[text[i+1]] != noDigit && quartet[text[i+2]] != noDigit:
			out = append(out, quartet[text[i+1]]<<4|quartet[text[i+2]])
			i += 2
		case c == '+' && plus:
			out = append(out, ' ')
		default:
			out = append(out, c)
		}
	}
	return out
}

// fits reports whether a value stands in a view for itself: short ones as whole words,
// in the same case unless they are addresses.
func (f *finder) fits(v, at int, view []byte, as Encoding) bool {
	value := f.values[v]
	if len(value) >= longEnough {
		return true
	}
	end := at + len(value)
	if isWord(view, at-1) || isWord(view, end) {
		return false
	}
	if bytes.IndexByte(value, '@') < 0 && !bytes.Equal(view[at:end], value) {
		return false
	}
	return as != Base64 && as != Hex || len(value) >= leastInside || len(value) == len(bytes.TrimRight(view, "\x00")) ||
		utf8.Valid(view) && isText(view)
}
