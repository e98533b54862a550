package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport"
	"sallyport/internal/audit"
)

const origin = "example.org/sallyport"

// key makes the key pair that belongs to a name and a letter, always the same one.
func key(t testing.TB, name string, letter byte) (note.Signer, string) {
	t.Helper()
	seed := bytes.Repeat([]byte{letter}, ed25519.SeedSize)
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(name, pub)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Split(vkey, "+")[1]
	signer, err := note.NewSigner("PRIVATE+KEY+" + name + "+" + id + "+" +
		base64.StdEncoding.EncodeToString(append([]byte{1}, seed...)))
	if err != nil {
		t.Fatal(err)
	}
	return signer, vkey
}

// memory is a stored log that holds to what a Source must do.
type memory struct {
	t           testing.TB
	bodies      map[int64][]byte
	size        int64
	hashes      map[int64]tlog.Hash
	checkpoints [][]byte
	tree        *audit.Tree
	signer      note.Signer
	others      []note.Signer
	vkey        string
}

func newMemory(t testing.TB) *memory {
	m := &memory{t: t, bodies: map[int64][]byte{}, hashes: map[int64]tlog.Hash{}, tree: audit.NewTree()}
	m.signer, m.vkey = key(t, origin, 'k')
	return m
}

func (m *memory) append(body []byte) {
	m.t.Helper()
	if m.tree.Size() != m.size {
		m.t.Fatalf("append to a tree of %d at %d", m.tree.Size(), m.size)
	}
	at := audit.FirstIndex(m.size)
	for i, h := range m.tree.Append(nil, audit.LeafHash(body)) {
		if _, ok := m.hashes[at+int64(i)]; ok {
			m.t.Fatalf("hash %d is stored already", at+int64(i))
		}
		m.hashes[at+int64(i)] = h
	}
	m.bodies[m.size] = bytes.Clone(body)
	m.size++
}

func (m *memory) sign() []byte {
	m.t.Helper()
	root, err := m.tree.Root()
	if err != nil {
		m.t.Fatal(err)
	}
	signed, err := audit.SignCheckpoint(audit.Checkpoint{Origin: origin, Size: m.tree.Size(), Root: root}, m.signer, m.others...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.checkpoints = append(m.checkpoints, signed)
	return signed
}

func (m *memory) Records(ctx context.Context, from, to int64, fn func(int64, []byte) error) error {
	for n := from; n < min(to, m.size); n++ {
		body, ok := m.bodies[n]
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		lent := bytes.Clone(body)
		if err := fn(n, lent); err != nil {
			return err
		}
		for i := range lent {
			lent[i] = 0xff // whoever kept it finds out
		}
	}
	return nil
}

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		h, ok := m.hashes[i]
		if !ok {
			return nil, fmt.Errorf("hash %d: %w", i, audit.ErrNoHash)
		}
		out = append(out, h)
	}
	return out, nil
}

func (m *memory) Checkpoints(ctx context.Context, fn func([]byte) error) error {
	for _, c := range m.checkpoints {
		if err := fn(bytes.Clone(c)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memory) export() []byte {
	m.t.Helper()
	var b bytes.Buffer
	if err := audit.Export(m.t.Context(), &b, m, audit.ExportOptions{Key: m.vkey}); err != nil {
		m.t.Fatal(err)
	}
	return b.Bytes()
}

// body is the nth record of a log of calls: intents and outcomes in turn.
func body(t testing.TB, n int) []byte {
	t.Helper()
	r := &audit.Record{
		ID:        fmt.Sprintf("rec_%d", n),
		Time:      1_790_000_000_000_000 + int64(n),
		Kind:      audit.Intent,
		Run:       "run_1",
		Call:      sallyport.CallID(fmt.Sprintf("call_%d", n/2)),
		Stage:     sallyport.Production,
		Upstream:  "crm",
		Tool:      "note",
		Access:    sallyport.Changing,
		Arguments: audit.Commit([]byte{byte(n)}, []byte("a"))[:30],
		Binding:   sallyport.Live,
	}
	if n%2 == 1 {
		r.Kind, r.Outcome, r.LatencyMicros = audit.Outcome, sallyport.OutcomeOK, 10
	}
	return write(t, r)
}

func write(t testing.TB, r *audit.Record) []byte {
	t.Helper()
	b, err := r.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// calls is a log of size such records, with a checkpoint at each of the sizes in at
// and at the end.
func calls(t testing.TB, size int, at ...int64) *memory {
	t.Helper()
	m := newMemory(t)
	for n := range size {
		for _, a := range at {
			if a == m.size {
				m.sign()
			}
		}
		m.append(body(t, n))
	}
	m.sign()
	return m
}

func verify(t testing.TB, export []byte, o audit.VerifyOptions) *audit.Report {
	t.Helper()
	r, err := audit.VerifyExport(bytes.NewReader(export), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK != (len(r.Findings) == 0) {
		t.Fatalf("OK is %v with findings %v", r.OK, r.Findings)
	}
	return r
}

// gist is what a report says in one line: "ok", or the first finding.
func gist(r *audit.Report) string {
	if r.OK {
		return "ok"
	}
	if f := r.Findings[0]; f.Sequence >= 0 {
		return fmt.Sprintf("%s %d", f.Kind, f.Sequence)
	}
	return string(r.Findings[0].Kind)
}

func pretty(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func sha256of(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }
