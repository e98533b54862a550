package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Inclusion proves that the tree of size records has the record at pos. It needs
// O(log size) stored hashes, read at once.
func Inclusion(read tlog.HashReader, size, pos int64) (tlog.RecordProof, error) {
	if size > MaxSize || pos < 0 || pos >= size {
		return nil, fmt.Errorf("prove record %d in a log of %d: not in it", pos, size)
	}
	p, err := tlog.ProveRecord(size, pos, read)
	if err != nil {
		return nil, fmt.Errorf("prove record %d in a log of %d: %w", pos, size, err)
	}
	return p, nil
}

// CheckInclusion checks that the tree of size records with this root has the leaf
// at pos. It returns nil if it does.
func CheckInclusion(p tlog.RecordProof, size int64, root tlog.Hash, pos int64, leaf Leaf) error {
	if size > MaxSize || pos < 0 || pos >= size || tlog.CheckRecord(p, size, root, pos, leaf) != nil {
		return fmt.Errorf("the proof does not show the record at %d in the log of %d", pos, size)
	}
	return nil
}

// Consistency proves that the tree of size records begins with the tree of the
// first old ones.
func Consistency(read tlog.HashReader, old, size int64) (tlog.TreeProof, error) {
	if size > MaxSize || old < 0 || old > size {
		return nil, fmt.Errorf("prove that a log of %d begins with one of %d: it cannot", size, old)
	}
	if old == 0 {
		return tlog.TreeProof{}, nil // every tree begins with the empty one
	}
	p, err := tlog.ProveTree(size, old, read)
	if err != nil {
		return nil, fmt.Errorf("prove that a log of %d begins with one of %d: %w", size, old, err)
	}
	return p, nil
}

// CheckConsistency checks that the tree of size records with root begins with the
// tree of old records with oldRoot. It returns nil if it does.
func CheckConsistency(p tlog.TreeProof, old int64, oldRoot tlog.Hash, size int64, root tlog.Hash) error {
	ok := false
	switch {
	case old < 0 || old > size || size > MaxSize:
	case old == 0:
		ok = len(p) == 0 && oldRoot == EmptyRoot && (size > 0 || root == EmptyRoot)
	default:
		ok = tlog.CheckTree(p, size, root, old, oldRoot) == nil
	}
	if !ok {
		return fmt.Errorf("the proof does not show that the log of %d begins with that of %d", size, old)
	}
	return nil
}

// Proof is a receipt for one record that can be checked without the log: a C2SP
// tlog-proof (c2sp.org/tlog-proof@v1).
type Proof struct {
	// Index is the sequence of the record.
	Index int64
	// Extra is the body of the record, or nil where it is handed over some other
	// way. The proof is what makes it trustworthy, not that it is here.
	Extra  []byte
	Hashes tlog.RecordProof
	// Checkpoint is the signed checkpoint, with any cosignatures.
	Checkpoint []byte
}

const proofHeader = "c2sp.org/tlog-proof@v1\n"

// MarshalProof writes a proof as text.
func MarshalProof(p *Proof) ([]byte, error) {
	if p.Index < 0 || p.Index >= MaxSize || len(p.Hashes) > 63 || len(p.Extra) > MaxBody ||
		len(p.Checkpoint) == 0 || len(p.Checkpoint) > MaxCheckpoint {
		return nil, fmt.Errorf("write the proof of record %d: index, hashes, record or checkpoint out of bounds", p.Index)
	}
	b := []byte(proofHeader)
	if len(p.Extra) > 0 {
		b = append(b, "extra "...)
		b = base64.StdEncoding.AppendEncode(b, p.Extra)
		b = append(b, '\n')
	}
	b = append(b, "index "...)
	b = strconv.AppendInt(b, p.Index, 10)
	b = append(b, '\n')
	for _, h := range p.Hashes {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...), nil
}

// ParseProof reads what [MarshalProof] writes, in that form only. It checks nothing:
// [VerifyProof] does.
func ParseProof(b []byte) (*Proof, error) {
	wrong := func(what string) (*Proof, error) {
		return nil, errors.New("proof: " + what)
	}
	if len(b) > base64.StdEncoding.EncodedLen(MaxBody)+MaxCheckpoint+4096 {
		return wrong("too long")
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		return wrong("no checkpoint in it")
	}
	lines := strings.Split(string(head), "\n")
	p := &Proof{Checkpoint: checkpoint}
	if lines[0]+"\n" != proofHeader {
		return wrong("the first line is not c2sp.org/tlog-proof@v1")
	}
	lines = lines[1:]
	var err error
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if p.Extra, err = base64.StdEncoding.DecodeString(lines[0][len("extra "):]); err != nil {
			return wrong("the extra data is not base64")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return wrong("no index in it")
	}
	if p.Index, err = strconv.ParseInt(lines[0][len("index "):], 10, 64); err != nil {
		return wrong("the index is not a number")
	}
	for _, l := range lines[1:] {
		h, err := tlog.ParseHash(l)
		if err != nil {
			return wrong("a line is not the base64 of a hash")
		}
		p.Hashes = append(p.Hashes, h)
	}
	again, err := MarshalProof(p)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return wrong("not in its only form")
	}
	return p, nil
}

// IsProof reports whether a file that begins with head is a proof.
func IsProof(head []byte) bool { return bytes.HasPrefix(head, []byte(proofHeader)) }

// ReportProof checks the text of a proof against public keys (as checkpoint.pub
// has them) as [VerifyExport] checks a log. What does not hold is a finding; the
// error is for keys and texts that are none.
func ReportProof(text []byte, keys []string) (*Report, error) {
	known, err := Verifiers(keys...)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	p, err := ParseProof(text)
	if err != nil {
		return nil, err
	}
	r := &Report{Keys: keys}
	c, err := VerifyProof(p, nil, known)
	if err != nil {
		r.Findings = []Finding{{p.Index, TreeBroken, err.Error()}}
		return r, nil
	}
	r.OK, r.Origin, r.Records, r.Size, r.Root, r.Checkpoints = true, c.Origin, 1, c.Size, c.Root, 1
	r.Notes = []string{fmt.Sprintf("record %d is in the log of %d that was signed; of the other records the proof says nothing", p.Index, c.Size)}
	return r, nil
}

// NewProof makes the receipt of the record at pos with this body, under a signed
// checkpoint that covers it. It looks whether what it made holds.
func NewProof(read tlog.HashReader, signed []byte, known note.Verifiers, pos int64, body []byte) (*Proof, error) {
	c, err := OpenCheckpoint(signed, known)
	if err != nil {
		return nil, fmt.Errorf("prove record %d: %w", pos, err)
	}
	hashes, err := Inclusion(read, c.Size, pos)
	if err != nil {
		return nil, err
	}
	p := &Proof{Index: pos, Extra: body, Hashes: hashes, Checkpoint: signed}
	if _, err := VerifyProof(p, body, known); err != nil {
		return nil, err
	}
	return p, nil
}

// VerifyProof checks that the record with this body is in the log at the proof's
// index, and returns the checkpoint that says so. A nil body means the one the
// proof carries. Errors: of [OpenCheckpoint], and that the proof does not hold.
func VerifyProof(p *Proof, body []byte, known note.Verifiers) (Checkpoint, error) {
	if body == nil {
		body = p.Extra
	}
	if len(body) == 0 {
		return Checkpoint{}, fmt.Errorf("verify the proof of record %d: the record is neither given nor in the proof", p.Index)
	}
	c, err := OpenCheckpoint(p.Checkpoint, known)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verify the proof of record %d: %w", p.Index, err)
	}
	if err := CheckInclusion(p.Hashes, c.Size, c.Root, p.Index, LeafHash(body)); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}
