package pseudonym

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"math/bits"
)

// The alphabets of a character in an identifier.
const (
	kept   = iota // it stays
	first0        // the first of several digits, if it is no zero
	tens
	lowers
	uppers
	hexLower
	hexUpper
)

var alphabets = [...]string{
	kept: "", first0: "123456789", tens: "0123456789", lowers: "abcdefghijklmnopqrstuvwxyz", uppers: "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
	hexLower: "0123456789abcdef", hexUpper: "0123456789ABCDEF",
}

// shape says for each byte of an identifier which alphabet it is of. Two identifiers
// have the same shape if the one could become the other.
type shape []byte

// shapeOf is false for what has other bytes than those of printable ASCII.
func shapeOf(value []byte) (shape, bool) {
	s := make(shape, len(value))
	digits, low, up, beyond := 0, 0, 0, false
	for i, c := range value {
		switch {
		case c < ' ' || c > '~':
			return nil, false
		case isDigit(c):
			s[i] = tens
			digits++
		case isLower(c):
			s[i] = lowers
			low++
			beyond = beyond || c > 'f'
		case isUpper(c):
			s[i] = uppers
			up++
			beyond = beyond || c > 'F'
		}
	}
	switch {
	case digits > 0 && low+up > 0 && (low == 0 || up == 0) && !beyond && digits+low+up >= 8:
		hex := byte(hexLower)
		if up > 0 {
			hex = hexUpper
		}
		for i := range s {
			if s[i] != kept {
				s[i] = hex
			}
		}
		if uuid(value) {
			s[14], s[19] = kept, kept // version and variant (RFC 9562, section 4)
		}
	case digits == len(value) && digits > 1:
		// A number has no zero in front, before and after.
		if s[0] = first0; value[0] == '0' {
			s[0] = kept
		}
	}
	return s, true
}

func uuid(v []byte) bool {
	return len(v) == 36 && v[8] == '-' && v[13] == '-' && v[18] == '-' && v[23] == '-' && bytes.Count(v, []byte("-")) == 4
}

// label is the shape with what stays, for a key: identifiers with different labels
// never become each other.
func (s shape) label(value []byte) []byte {
	l := append([]byte("shape"), s...)
	for i, a := range s {
		if a == kept {
			l = append(l, value[i])
		}
	}
	return l
}

// size is how many identifiers have the shape.
func (s shape) size() *big.Int {
	n := big.NewInt(1)
	for _, a := range s {
		if a != kept {
			n.Mul(n, big.NewInt(int64(len(alphabets[a]))))
		}
	}
	return n
}

// Identifiers with at least tagged bits of room carry a tag of at least tagBits.
const (
	taggedBits = 72
	tagBits    = 24
)

const idPrefix = "id"

// id replaces an identifier: character by character of the same alphabet.
func (d *Domain) id(dst, value []byte) []byte {
	s, ok := shapeOf(value)
	if !ok {
		return d.token(append(append(dst, idPrefix...), '-'), idPrefix, value)
	}
	size := s.size()
	switch {
	case size.BitLen() == 1:
		return append(dst, value...) // nothing in it but separators, or a single zero
	case size.BitLen() <= taggedBits:
		return d.permute(dst, value, s, size)
	}
	label := s.label(value)
	at := len(dst)
	for try := byte(0); ; try++ {
		src := d.source([]byte("id"), label, value, []byte{try})
		dst = append(dst[:at], value...)
		out := dst[at:]
		tag := s.tagFrom()
		for i, a := range s[:tag] {
			if a != kept {
				out[i] = alphabets[a][src.below(len(alphabets[a]))]
			}
		}
		d.tagID(out, s, tag)
		if again, _ := shapeOf(out); bytes.Equal(again, s) {
			return dst
		}
	}
}

// tagFrom is where the tag begins: at the fewest last characters that have room for it.
func (s shape) tagFrom() int {
	n := 1
	for i := len(s) - 1; i > 0; i-- {
		if s[i] != kept {
			if n *= len(alphabets[s[i]]); n >= 1<<tagBits {
				return i
			}
		}
	}
	return 0
}

// tagID writes the tag of what stands before it.
func (d *Domain) tagID(out []byte, s shape, from int) {
	src := d.source([]byte("tag"), []byte("id"), s, out[:from])
	for i := from; i < len(out); i++ {
		if a := s[i]; a != kept {
			out[i] = alphabets[a][src.below(len(alphabets[a]))]
		}
	}
}

// ownID reports whether a value is a long identifier of this domain.
func (d *Domain) ownID(value []byte) bool {
	s, ok := shapeOf(value)
	if !ok {
		return false
	}
	if d.ownToken(idPrefix, value) {
		return true
	}
	if s.size().BitLen() <= taggedBits {
		return false
	}
	want := bytes.Clone(value)
	d.tagID(want, s, s.tagFrom())
	return bytes.Equal(want, value)
}

// permute maps the identifiers of a shape one to one onto each other, none to itself.
//
// A number x of the shape becomes P⁻¹(P(x)+1 mod size), a cycle through all of them in
// an order that only the key knows, where P is a Feistel network of ten rounds over the
// next even number of bits (Luby and Rackoff, 1988; rounds as in NIST SP 800-38G),
// walked until it is inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains,
// 2002). What comes out with another shape, as a hexadecimal number without letters, is
// walked past in the same way.
func (d *Domain) permute(dst, value []byte, s shape, size *big.Int) []byte {
	f := feistel{d: d, label: s.label(value), half: uint(max(size.BitLen()+1, 2)) / 2}
	n := newWide(size)
	x := s.rank(value)
	at := len(dst)
	dst = append(dst, value...)
	for {
		y := f.walk(x, n, f.forth)
		if y = y.next(); y == n {
			y = wide{}
		}
		x = f.walk(y, n, f.back)
		s.unrank(dst[at:], x)
		if again, _ := shapeOf(dst[at:]); bytes.Equal(again, s) {
			return dst
		}
	}
}

// wide is a number of up to 128 bits.
type wide struct{ hi, lo uint64 }

func newWide(n *big.Int) wide {
	var b [16]byte
	n.FillBytes(b[:])
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w wide) next() wide {
	lo, carry := bits.Add64(w.lo, 1, 0)
	return wide{w.hi + carry, lo}
}

func (w wide) less(v wide) bool { return w.hi < v.hi || w.hi == v.hi && w.lo < v.lo }

// rank is the number of an identifier among those of its shape.
func (s shape) rank(value []byte) wide {
	var x wide
	for i, a := range s {
		if a == kept {
			continue
		}
		base := uint64(len(alphabets[a]))
		hi, lo := bits.Mul64(x.lo, base)
		var carry uint64
		x.lo, carry = bits.Add64(lo, uint64(bytes.IndexByte([]byte(alphabets[a]), value[i])), 0)
		x.hi = x.hi*base + hi + carry
	}
	return x
}

// unrank writes the identifier of a number.
func (s shape) unrank(out []byte, x wide) {
	for i := len(s) - 1; i >= 0; i-- {
		a := s[i]
		if a == kept {
			continue
		}
		base := uint64(len(alphabets[a]))
		q := x.hi / base
		lo, rest := bits.Div64(x.hi%base, x.lo, base)
		x = wide{q, lo}
		out[i] = alphabets[a][rest]
	}
}

// feistel is a keyed permutation of the numbers of 2*half bits.
type feistel struct {
	d     *Domain
	label []byte
	half  uint
}

const rounds = 10

func (f *feistel) round(i int, right uint64) uint64 {
	var in [9]byte
	in[0] = byte(i)
	binary.BigEndian.PutUint64(in[1:], right)
	sum := f.d.sum([]byte("permute"), f.label, in[:])
	return binary.BigEndian.Uint64(sum[:]) & (1<<f.half - 1)
}

func (f *feistel) split(x wide) (left, right uint64) {
	mask := uint64(1)<<f.half - 1
	return (x.lo>>f.half | x.hi<<(64-f.half)) & mask, x.lo & mask
}

func (f *feistel) join(left, right uint64) wide {
	return wide{left >> (64 - f.half), left<<f.half | right}
}

func (f *feistel) forth(x wide) wide {
	l, r := f.split(x)
	for i := range rounds {
		l, r = r, l^f.round(i, r)
	}
	return f.join(l, r)
}

func (f *feistel) back(x wide) wide {
	l, r := f.split(x)
	for i := rounds - 1; i >= 0; i-- {
		l, r = r^f.round(i, l), l
	}
	return f.join(l, r)
}

func (f *feistel) walk(x, n wide, step func(wide) wide) wide {
	for x = step(x); !x.less(n); {
		x = step(x)
	}
	return x
}
