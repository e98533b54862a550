package sandbox

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// dice draws the values of one place in an answer. They follow from a key and the
// place alone, so what is generated elsewhere, and in what order, changes nothing.
type dice struct {
	key   [32]byte
	block [32]byte
	left  int // bytes of block not yet drawn
	next  uint64
}

// at is the dice of a place below this one.
func (d *dice) at(place string) *dice {
	text := append(d.key[:len(d.key):len(d.key)], '/')
	return &dice{key: sha256.Sum256(append(text, place...))}
}

func (d *dice) uint64() uint64 {
	if d.left == 0 {
		text := append(d.key[:len(d.key):len(d.key)], '#')
		d.block = sha256.Sum256(binary.BigEndian.AppendUint64(text, d.next))
		d.next++
		d.left = len(d.block)
	}
	v := binary.BigEndian.Uint64(d.block[len(d.block)-d.left:])
	d.left -= 8
	return v
}

// below draws from 0 to n-1; n is at least 1.
func (d *dice) below(n int) int {
	high, _ := bits.Mul64(d.uint64(), uint64(n))
	return int(high)
}

// between draws from low to high, both included.
func (d *dice) between(low, high int) int { return low + d.below(high-low+1) }

func pick[T any](d *dice, from []T) T { return from[d.below(len(from))] }

// order is a permutation of 0 to n-1.
func (d *dice) order(n int) []int {
	out := make([]int, n)
	for i := range out {
		j := d.below(i + 1)
		out[i], out[j] = out[j], i
	}
	return out
}
