package audit_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"sallyport/internal/audit"
)

// The leaves and roots that Certificate Transparency implementations test with.
func TestRootsAreThoseOfRFC6962(t *testing.T) {
	t.Parallel()
	tree := audit.NewTree()
	if r, err := tree.Root(); err != nil || hex.EncodeToString(r[:]) != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("no leaves: %x, %v", r, err)
	}
	for _, c := range []struct{ leaf, root string }{
		{"", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
		{"00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"},
		{"10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"},
		{"2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"},
		{"3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"},
		{"40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"},
		{"5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"},
		{"606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"},
	} {
		leaf, err := hex.DecodeString(c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		tree.Append(nil, audit.LeafHash(leaf))
		if r, err := tree.Root(); err != nil || hex.EncodeToString(r[:]) != c.root {
			t.Errorf("%d leaves: %x, %v, want %s", tree.Size(), r, err, c.root)
		}
	}
}

func TestLeafHashOfAnyLength(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2046, 2047, 2048, 2049, 70000} {
		b := bytes.Repeat([]byte{'x'}, n)
		if audit.LeafHash(b) != tlog.RecordHash(b) {
			t.Errorf("%d bytes: not the RFC 6962 hash", n)
		}
	}
}

// stored is what the tree over n numbered leaves makes somebody store.
type stored []tlog.Hash

func (s stored) ReadHashes(at []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range at {
		if i >= int64(len(s)) {
			return nil, audit.ErrNoHash
		}
		out = append(out, s[i])
	}
	return out, nil
}

func leaf(n int64) audit.Leaf {
	return audit.LeafHash(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func grown(t *rapid.T, size int64) (*audit.Tree, stored) {
	tree, s := audit.NewTree(), stored{}
	for n := range size {
		if audit.FirstIndex(n) != int64(len(s)) {
			t.Fatalf("the first hash of leaf %d is %d, %d are stored", n, audit.FirstIndex(n), len(s))
		}
		s = tree.Append(s, leaf(n))
	}
	return tree, s
}

func root(t rapid.TB, tree *audit.Tree) tlog.Hash {
	t.Helper()
	r, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTreeStoresAndResumesWhatTlogDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 600).Draw(t, "size")
		tree, s := grown(t, size)
		var want stored
		for n := range size {
			h, err := tlog.StoredHashesForRecordHash(n, leaf(n), want)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, h...)
		}
		if !slices.Equal(want, s) {
			t.Fatalf("stored hashes are\n%v, tlog says\n%v", s, want)
		}
		th, err := tlog.TreeHash(size, want)
		if err != nil || th != root(t, tree) {
			t.Fatalf("root %v, tlog says %v, %v", root(t, tree), th, err)
		}

		at := rapid.Int64Range(0, size).Draw(t, "resumed at")
		again, err := audit.ResumeTree(at, s)
		if err != nil {
			t.Fatal(err)
		}
		snapshot := *again
		for n := at; n < size; n++ {
			got := again.Append(nil, leaf(n))
			if want := s[audit.FirstIndex(n):audit.FirstIndex(n+1)]; !slices.Equal(want, got) {
				t.Fatalf("leaf %d: stored %v, resumed %v", n, want, got)
			}
		}
		if root(t, again) != root(t, tree) || again.Size() != size {
			t.Fatal("a resumed tree grows to another root")
		}
		for n := at; n < size; n++ { // what a snapshot is for
			snapshot.Append(nil, leaf(n))
		}
		if root(t, &snapshot) != root(t, tree) {
			t.Fatal("a copied tree grows to another root")
		}
	})
}

// every has a hash at every index.
type every struct{}

func (every) ReadHashes(at []int64) ([]tlog.Hash, error) { return make([]tlog.Hash, len(at)), nil }

func TestResumeTreeFails(t *testing.T) {
	t.Parallel()
	if _, err := audit.ResumeTree(-1, stored{}); err == nil {
		t.Error("a negative size: no error")
	}
	if _, err := audit.ResumeTree(1<<62, every{}); err == nil {
		t.Error("a size out of bounds: no error")
	}
	if _, err := audit.ResumeTree(3, stored{}); !errors.Is(err, audit.ErrNoHash) {
		t.Errorf("no stored hashes: %v", err)
	}
	short := tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, nil })
	if _, err := audit.ResumeTree(3, short); err == nil {
		t.Error("too few hashes: no error")
	}
}

func TestProofsHoldAndOthersDoNot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 400).Draw(t, "size")
		tree, s := grown(t, size)
		th := root(t, tree)
		pos := rapid.Int64Range(0, size-1).Draw(t, "pos")
		p, err := audit.Inclusion(s, size, pos)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckInclusion(p, size, th, pos, leaf(pos)); err != nil {
			t.Fatal(err)
		}
		if audit.CheckInclusion(p, size, th, pos, leaf(size)) == nil {
			t.Fatal("holds for another record")
		}
		if size > 1 && audit.CheckInclusion(p, size, th, (pos+1)%size, leaf(pos)) == nil {
			t.Fatal("holds at another position")
		}
		if audit.CheckInclusion(append(p, th), size, th, pos, leaf(pos)) == nil {
			t.Fatal("holds with a hash too many")
		}

		old := rapid.Int64Range(0, size).Draw(t, "old")
		before, _ := grown(t, old)
		c, err := audit.Consistency(s, old, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckConsistency(c, old, root(t, before), size, th); err != nil {
			t.Fatal(err)
		}
		if audit.CheckConsistency(c, old, leaf(0), size, th) == nil && old != 1 { // whose root it is
			t.Fatal("holds for another old root")
		}
		if audit.CheckConsistency(append(c, th), old, root(t, before), size, th) == nil {
			t.Fatal("holds with a hash too many")
		}
	})
}

func TestProofsOutOfBoundsAreRefused(t *testing.T) {
	t.Parallel()
	huge := int64(1)<<62 + 1 // tlog would not come back
	for name, err := range map[string]error{
		"inclusion negative":   fails(audit.Inclusion(stored{}, 3, -1)),
		"inclusion at the end": fails(audit.Inclusion(stored{}, 3, 3)),
		"inclusion huge":       fails(audit.Inclusion(stored{}, huge, 3)),
		"inclusion not stored": fails(audit.Inclusion(stored{}, 3, 0)),
		"check huge":           audit.CheckInclusion(nil, huge, tlog.Hash{}, 1, tlog.Hash{}),
		"consistency back":     fails(audit.Consistency(stored{}, 4, 3)),
		"consistency huge":     fails(audit.Consistency(stored{}, 4, huge)),
		"check back":           audit.CheckConsistency(nil, 4, tlog.Hash{}, 3, tlog.Hash{}),
		"check empty":          audit.CheckConsistency(nil, 0, tlog.Hash{}, 3, tlog.Hash{}),
		"check consist. huge":  audit.CheckConsistency(nil, 4, tlog.Hash{}, huge, tlog.Hash{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func fails[T any](_ T, err error) error { return err }

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	signer, vkey := key(t, origin, 'k')
	other, otherKey := key(t, "witness.example", 'w')
	_, newKey := key(t, origin, 'n')
	c := audit.Checkpoint{Origin: origin, Size: 7, Root: leaf(1)}
	signed, err := audit.SignCheckpoint(c, signer, other)
	if err != nil {
		t.Fatal(err)
	}
	if want := origin + "\n7\n" + leaf(1).String() + "\n\n— " + origin + " "; !strings.HasPrefix(string(signed), want) {
		t.Errorf("got %q", signed)
	}
	open := func(b []byte, keys ...string) (audit.Checkpoint, error) {
		known, err := audit.Verifiers(keys...)
		if err != nil {
			t.Fatal(err)
		}
		return audit.OpenCheckpoint(b, known)
	}
	for _, keys := range [][]string{{vkey}, {vkey, vkey}, {otherKey, vkey}, {newKey, vkey}} {
		if got, err := open(signed, keys...); err != nil || got != c {
			t.Errorf("known %v: %v, %v", keys, got, err)
		}
	}
	// A witness says that it saw the checkpoint, not that the log made it.
	for _, keys := range [][]string{nil, {newKey}, {otherKey}} {
		got, err := open(signed, keys...)
		if u, ok := errors.AsType[*audit.UnknownKeyError](err); !ok || u.Checkpoint != c || len(u.Signatures) != 2 {
			t.Errorf("known %v: %v, %v; want an unknown key", keys, got, err)
		}
	}
	if _, err := audit.SignCheckpoint(c, other); err == nil {
		t.Error("signed with the key of another log")
	}
	if _, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: -1}, signer); err == nil {
		t.Error("signed a negative size")
	}

	sign := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r := leaf(1).String()
	for name, b := range map[string][]byte{
		"no note":            []byte("x"),
		"extension line":     sign(origin + "\n7\n" + r + "\nmore\n"),
		"no root":            sign(origin + "\n7\n"),
		"leading zero":       sign(origin + "\n07\n" + r + "\n"),
		"negative":           sign(origin + "\n-7\n" + r + "\n"),
		"size out of bounds": sign(origin + "\n4611686018427387905\n" + r + "\n"),
		"short root":         sign(origin + "\n7\n" + r[4:] + "\n"),
		"stray bits in root": sign(origin + "\n7\n" + r[:42] + string(r[42]+1) + "=\n"),
		"root of no records": sign(origin + "\n0\n" + r + "\n"),
		"two signatures":     append(bytes.Clone(signed), signed[bytes.Index(signed, []byte("— ")):]...),
		"long":               append(bytes.Clone(signed), bytes.Repeat([]byte("— x AAAAAAAA\n"), 2000)...),
		"stray bits":         stray(signed),
		"another size":       bytes.Replace(signed, []byte("\n7\n"), []byte("\n8\n"), 1),
	} {
		if got, err := open(b, vkey); err == nil {
			t.Errorf("%s: opened as %v", name, got)
		}
	}
	empty, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Root: audit.EmptyRoot}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(empty, vkey); err != nil {
		t.Errorf("no records: %v", err)
	}
}

// stray changes bits of the first signature that base64 throws away.
func stray(signed []byte) []byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b := bytes.Clone(signed)
	i := bytes.IndexByte(b[bytes.Index(b, []byte("— ")):], '=') + bytes.Index(b, []byte("— ")) - 1
	b[i] = digits[strings.IndexByte(digits, b[i])|1]
	return b
}

func TestKeys(t *testing.T) {
	t.Parallel()
	skey, vkey, err := audit.NewSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := audit.VerifierKey(skey); err != nil || got != vkey {
		t.Errorf("VerifierKey: %q, %v, want %q", got, err, vkey)
	}
	for _, name := range []string{"", "a b", "a+b", "a\n"} {
		if s, v, err := audit.NewSigner(name); err == nil {
			t.Errorf("%q: made %q, %q", name, s, v)
		}
	}
	if _, err := audit.VerifierKey(vkey); err == nil {
		t.Error("VerifierKey took a public key")
	}
	upper := strings.Split(vkey, "+")
	upper[1] = strings.ToUpper(upper[1]) + ""
	for _, k := range []string{"", "x", skey, vkey + "A", upper[0] + "+AAAAAAAA+" + upper[2]} {
		if _, err := audit.Verifiers(k); err == nil {
			t.Errorf("took %q for a key", k)
		}
	}
}

func TestProofFile(t *testing.T) {
	t.Parallel()
	m := calls(t, 11)
	known, err := audit.Verifiers(m.vkey)
	if err != nil {
		t.Fatal(err)
	}
	p, err := audit.NewProof(m, m.checkpoints[0], known, 5, body(t, 5))
	if err != nil {
		t.Fatal(err)
	}
	b, err := audit.MarshalProof(p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte("c2sp.org/tlog-proof@v1\nextra eyJpZCI6InJlY181Ii")) || !bytes.Contains(b, []byte("\nindex 5\n")) ||
		!bytes.HasSuffix(b, append([]byte("\n\n"), m.checkpoints[0]...)) {
		t.Errorf("got\n%s", b)
	}
	got, err := audit.ParseProof(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, got); d != "" {
		t.Errorf("(-written +read):\n%s", d)
	}
	c, err := audit.VerifyProof(got, nil, known)
	if err != nil || c.Size != 11 {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := audit.VerifyProof(got, body(t, 6), known); err == nil {
		t.Error("proves another record")
	}
	bare := *got
	bare.Extra = nil
	if _, err := audit.VerifyProof(&bare, nil, known); err == nil {
		t.Error("proves no record")
	}
	if _, err := audit.VerifyProof(&bare, body(t, 5), known); err != nil {
		t.Errorf("a proof without the record: %v", err)
	}
	if _, err := audit.VerifyProof(got, nil, nil); err == nil {
		t.Error("verified without a key")
	}
	if _, err := audit.NewProof(m, m.checkpoints[0], known, 6, body(t, 5)); err == nil {
		t.Error("made a proof that does not hold")
	}

	// Nothing in the file can be changed.
	for i := range b {
		for bit := range 8 {
			x := bytes.Clone(b)
			x[i] ^= 1 << bit
			p, err := audit.ParseProof(x)
			if err != nil {
				continue
			}
			if _, err := audit.VerifyProof(p, nil, known); err == nil {
				t.Errorf("byte %d, bit %d: still proves it", i, bit)
			}
		}
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	signer, vkey := key(f, origin, 'k')
	other, _ := key(f, "witness.example", 'w')
	known, err := audit.Verifiers(vkey)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: 7, Root: leaf(1)}, signer, other)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte(origin + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— " + origin + " AAAAAAAAAAA=\n"))
	f.Add([]byte("a\n1\n\n\n— b \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := audit.OpenCheckpoint(b, known)
		if err == nil && !bytes.Equal(b[:len(signed)/4], signed[:len(signed)/4]) {
			t.Fatalf("opened what was never signed: %v", c)
		}
		if u, ok := errors.AsType[*audit.UnknownKeyError](err); ok && (u.Checkpoint.Size < 0 || u.Checkpoint.Size > audit.MaxSize) {
			t.Fatalf("size %d", u.Checkpoint.Size)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	m := calls(f, 11)
	known, err := audit.Verifiers(m.vkey)
	if err != nil {
		f.Fatal(err)
	}
	for _, pos := range []int64{0, 10} {
		p, err := audit.NewProof(m, m.checkpoints[0], known, pos, body(f, int(pos)))
		if err != nil {
			f.Fatal(err)
		}
		b, err := audit.MarshalProof(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\nx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := audit.ParseProof(b)
		if err != nil {
			return
		}
		again, err := audit.MarshalProof(p)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("read %q, wrote %q, %v", b, again, err)
		}
		if _, err := audit.VerifyProof(p, nil, known); err == nil {
			if want, ok := m.bodies[p.Index]; !ok || !bytes.Equal(p.Extra, want) {
				t.Fatalf("proved a record that is not in the log: %q", b)
			}
		}
	})
}

func BenchmarkTreeAppend(b *testing.B) {
	tree := audit.NewTree()
	var dst []tlog.Hash
	l := leaf(1)
	b.ReportAllocs()
	for b.Loop() {
		dst = tree.Append(dst[:0], l)
	}
}

func BenchmarkRoot(b *testing.B) {
	tree := audit.NewTree()
	for n := range int64(1<<17 - 1) {
		tree.Append(nil, leaf(n))
	}
	for b.Loop() {
		if _, err := tree.Root(); err != nil {
			b.Fatal(err)
		}
	}
}
