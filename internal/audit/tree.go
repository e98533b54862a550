package audit

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxSize bounds the number of records of a log, so that no size read from outside
// can make index arithmetic overflow.
const MaxSize = 1 << 48

// Leaf is the leaf hash of a record.
type Leaf = tlog.Hash

// LeafHash is the RFC 6962 leaf hash of a record's body: SHA-256 of a zero byte and
// the body.
func LeafHash(body []byte) Leaf {
	var buf [2048]byte // as long as nearly every body, and not on the heap
	if len(body) < len(buf) {
		return sha256.Sum256(append(buf[:1], body...))
	}
	h := sha256.New()
	h.Write(buf[:1])
	h.Write(body)
	var sum Leaf
	h.Sum(sum[:0])
	return sum
}

// EmptyRoot is the root of a tree without leaves (RFC 6962 section 2.1).
var EmptyRoot = tlog.Hash(sha256.Sum256(nil))

// Tree is a Merkle tree that grows at its right edge and holds nothing else. It is
// a value: a copy is a snapshot to return to when what [Tree.Append] gave could not
// be stored. It is for one goroutine.
type Tree struct {
	size int64
	// edge[l] is the root of the complete subtree of 2^l leaves that ends the
	// levels above l; it is meaningful only where bit l of size is set.
	edge [49]tlog.Hash
}

// NewTree is the tree without leaves.
func NewTree() *Tree { return new(Tree) }

// ResumeTree is the tree of the first size records, whose stored hashes read gives.
// It reads one hash for each bit of size. It does not look whether they are right:
// compare [Tree.Root] with a checkpoint.
func ResumeTree(size int64, read tlog.HashReader) (*Tree, error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("resume a tree of %d records: not between 0 and %d", size, int64(MaxSize))
	}
	t := &Tree{size: size}
	if size == 0 {
		return t, nil
	}
	var at []int64
	var levels []int
	for l := bits.Len64(uint64(size)) - 1; l >= 0; l-- {
		if size>>l&1 == 1 {
			at = append(at, tlog.StoredHashIndex(l, size>>l-1))
			levels = append(levels, l)
		}
	}
	hashes, err := read.ReadHashes(at)
	if err != nil {
		return nil, fmt.Errorf("resume a tree of %d records: %w", size, err)
	}
	if len(hashes) != len(at) {
		return nil, fmt.Errorf("resume a tree of %d records: got %d hashes for %d", size, len(hashes), len(at))
	}
	for i, l := range levels {
		t.edge[l] = hashes[i]
	}
	return t, nil
}

// Append adds a leaf and appends to dst the hashes that have to be stored for it:
// the leaf and the root of every subtree it completes, in the order of their
// stored-hash indexes, the first of which is [FirstIndex] of the size before. A
// tree of [MaxSize] records panics.
func (t *Tree) Append(dst []tlog.Hash, l Leaf) []tlog.Hash {
	if t.size >= MaxSize {
		panic("audit: the log is full")
	}
	h, level := l, 0
	dst = append(dst, h)
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.edge[level], h)
		dst = append(dst, h)
		level++
	}
	t.edge[level] = h
	t.size++
	return dst
}

// FirstIndex is the stored-hash index of the first hash that appending to a tree of
// size records gives.
func FirstIndex(size int64) int64 { return tlog.StoredHashIndex(0, size) }

// Size is the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Root is the RFC 6962 root, from the right edge alone. The error is always nil.
func (t *Tree) Root() (tlog.Hash, error) { return t.root(), nil }

func (t *Tree) root() tlog.Hash {
	if t.size == 0 {
		return EmptyRoot
	}
	l := bits.TrailingZeros64(uint64(t.size))
	h := t.edge[l]
	for l++; t.size>>l > 0; l++ {
		if t.size>>l&1 == 1 {
			h = tlog.NodeHash(t.edge[l], h)
		}
	}
	return h
}
