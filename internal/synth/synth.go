// Package synth makes up the rows of a world's tables: as many as are wanted, seeded,
// and shaped like data that was learned from. It does no I/O and reads no clock.
//
//	l := synth.NewLearner(&table, keep)  // one pass, bounded memory
//	err := l.Add(row)                    // JSON objects
//	shape := l.Shape()                   // JSON; the data need not stay
//	g, err := synth.New(tables, shapes, rows, seed)
//	for row := range g.Rows("orders") { … }
//
// Row n of a table follows from the definition, the shapes, the counts, the seed and n,
// and from nothing else: no row is remembered. So a reference is the key that some row
// of the other table will have or has had, uniqueness comes from numbering (a keyed
// permutation of the row's number, in the digits of the value), and a million rows take
// no more memory than ten. All arithmetic is on integers, or on doubles that are never
// fused, and gives the same bytes on every machine.
//
// # What a shape holds
//
// Of each field how often it is absent or null, about how many values it has and how
// unevenly they and the rows that refer to a parent are spread; of numbers, times,
// lengths and counts of words the ranges they lie in, each of at least five values and
// with ends that do not depend on them; of strings the pattern of digits, capitals and
// small letters, if five have it. No value is in a shape, but those of an enum, which
// the definition has anyway, and those of fields to be kept. Names of members are in
// it if the definition has them, or if five rows and one in a hundred do and nothing
// personal is found in them. Punctuation in ASCII belongs to patterns; a value that has
// nothing else is its own pattern.
//
// # What is made up
//
// What a name says holds a person's data is written in ranges that nobody is given
// values from, see package ident; names of persons, streets and places are of words of
// our own. What a pattern makes is drawn again if it could be somebody's.
package synth

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Table is one table that is to be filled.
type Table struct {
	Name string
	Key  []string
	// KeyOutside: the key is no member of rows.
	KeyOutside bool
	ID         ID
	Fields     []Field
	Unique     [][]string
}

// ID says how a table makes ids, as in package twin.
type ID struct {
	Style  string // sequence, prefix, uuid, base32; empty for none
	Prefix string
	Digits int   // of prefix; 8 if zero
	Length int   // of base32; 16 if zero
	Start  int64 // of sequence
}

// Field is a declared member of rows.
type Field struct {
	Name     string
	Type     string   // string, int, number, bool, time, enum, object, array, json or empty
	Values   []string // of an enum
	Required bool
	Unique   bool
	Refs     string // the table whose key it holds
}

func (t *Table) field(name string) *Field {
	for i := range t.Fields {
		if t.Fields[i].Name == name {
			return &t.Fields[i]
		}
	}
	return nil
}

// Shape is what was learned of one table.
type Shape struct {
	Rows   int64                  `json:"rows"`
	Fields map[string]*FieldShape `json:"fields"`
}

// The kinds of values, as shapes name them.
const (
	kindString = "string"
	kindNumber = "number"
	kindBool   = "bool"
	kindTime   = "time" // RFC 3339
	kindDate   = "date" // year-month-day
	kindObject = "object"
	kindArray  = "array"
)

// FieldShape is what was learned of one field. Shares are in millionths.
type FieldShape struct {
	Kind   string `json:"kind,omitempty"`   // the most frequent; empty if all were null
	Absent int64  `json:"absent,omitempty"` // of rows
	Null   int64  `json:"null,omitempty"`   // of rows
	// Distinct is about how many values there are, and Spread which share of rows has
	// those of each band: the first 1024th of the values by frequency, up to the first
	// 512th, and so on to the second half.
	Distinct int64   `json:"distinct,omitempty"`
	Spread   []int64 `json:"spread,omitempty"`
	// Values are those of an enum or of a field that is kept.
	Values []Share `json:"values,omitempty"`
	True   int64   `json:"true,omitempty"` // of booleans
	// Ranges are of numbers, of seconds since 1970, or of elements.
	Ranges   []Range `json:"ranges,omitempty"`
	Decimals int     `json:"decimals,omitempty"` // of numbers, at most
	// Patterns are of strings: # for a digit, ^ for a capital, ~ for another letter.
	Patterns []Share `json:"patterns,omitempty"`
	Lengths  []Range `json:"lengths,omitempty"` // in characters
	Words    []Range `json:"words,omitempty"`

	Members map[string]*FieldShape `json:"members,omitempty"`
	Items   *FieldShape            `json:"items,omitempty"`
}

// Share is a value or a pattern and how frequent it is.
type Share struct {
	Text  string `json:"text"`
	Share int64  `json:"share"`
}

// Range is from From up to and without To.
type Range struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Share int64   `json:"share"`
}

const million = 1_000_000

// bands is how many parts a spread has.
const bands = 11

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood, Fast Splittable
// Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// hashOf is FNV-1a over 64 bits, mixed.
func hashOf[T string | []byte](seed uint64, text T) uint64 {
	h := 0xcbf29ce484222325 ^ mix(seed)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 0x100000001b3
	}
	return mix(h)
}

// dice is a sequence of numbers that follows from where it begins.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	return mix(uint64(*d))
}

// below returns a number from 0 to n-1.
func (d *dice) below(n uint64) uint64 {
	hi, _ := bits.Mul64(d.next(), n)
	return hi
}

func (d *dice) draw(n int) int { return int(d.below(uint64(n))) }

func (d *dice) of(list []string) string { return list[d.draw(len(list))] }

// permute is a permutation of the numbers below size that follows from the key: four
// rounds of a Feistel network over the next power of four, walked until it ends below
// size. n is below size, and size at most 2^62.
func permute(n, size, key uint64) uint64 {
	half := max(1, (bits.Len64(size-1)+1)/2)
	mask := uint64(1)<<half - 1
	for {
		left, right := n>>half, n&mask
		for round := range uint64(4) {
			left, right = right, left^mix(right+mix(key+round))&mask
		}
		if n = left<<half | right; n < size {
			return n
		}
	}
}

// mostCount bounds what shapes count.
const mostCount = 1 << 50

// Check finds shapes that nothing was learned to: they come from files that people can
// change.
func (s *Shape) Check() error {
	if s == nil || s.Rows < 0 || s.Rows > mostCount {
		return errors.New("a table has no shape")
	}
	for name, f := range s.Fields {
		if err := f.check(0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (f *FieldShape) check(depth int) error {
	if f == nil || depth > mostNested+1 {
		return errors.New("there is no shape, or it is nested too deep")
	}
	outside := func(n, most int64) bool { return n < 0 || n > most }
	if outside(f.Absent, million) || outside(f.Null, million) || outside(f.True, million) || outside(f.Distinct, mostCount) || f.Decimals < 0 || f.Decimals > 9 || len(f.Spread) != 0 && len(f.Spread) != bands {
		return errors.New("a number is out of its range")
	}
	for _, share := range f.Spread {
		if outside(share, million) {
			return errors.New("a share is out of its range")
		}
	}
	for _, list := range [][]Range{f.Ranges, f.Lengths, f.Words} {
		for _, r := range list {
			if !(r.From < r.To) || math.Abs(r.From) > 1e19 || math.Abs(r.To) > 1e19 || r.Share < 1 || r.Share > million {
				return errors.New("a range ends before it begins")
			}
		}
	}
	for _, list := range [][]Share{f.Values, f.Patterns} {
		for _, s := range list {
			if s.Share < 1 || s.Share > million {
				return errors.New("a share is out of its range")
			}
		}
	}
	for name, m := range f.Members {
		if err := m.check(depth + 1); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if f.Items != nil {
		return f.Items.check(depth + 1)
	}
	return nil
}
