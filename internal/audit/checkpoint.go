package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxCheckpoint bounds a signed checkpoint, in bytes.
const MaxCheckpoint = 16 << 10

// Checkpoint says that the log called Origin had Size records with this root. As a
// signed note it is a C2SP tlog-checkpoint without extension lines.
type Checkpoint struct {
	// Origin is the name of the log and of the key that signs for it; neither
	// spaces nor '+' are in it.
	Origin string    `json:"origin"`
	Size   int64     `json:"size"`
	Root   tlog.Hash `json:"root"`
}

func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// SignCheckpoint signs a checkpoint. The signer's name must be the origin; others
// (witnesses, say, or the key before this one) sign the same text after it.
func SignCheckpoint(c Checkpoint, signer note.Signer, others ...note.Signer) ([]byte, error) {
	if signer.Name() != c.Origin {
		return nil, fmt.Errorf("sign a checkpoint of %q: the key is that of %q", c.Origin, signer.Name())
	}
	if c.Size < 0 || c.Size > MaxSize {
		return nil, fmt.Errorf("sign a checkpoint of %q: %d records", c.Origin, c.Size)
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, append([]note.Signer{signer}, others...)...)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint of %q: %w", c.Origin, err)
	}
	return b, nil
}

// OpenCheckpoint reads a signed checkpoint and checks it against the known keys. It
// wants a good signature by a known key that is named as the origin is; signatures
// by unknown keys count for nothing and harm nothing, a bad one by a known key is
// an error. The text and the form of every signature must be the only ones that
// say what they say. [UnknownKeyError] is the error if no known key signed.
func OpenCheckpoint(b []byte, known note.Verifiers) (Checkpoint, error) {
	if len(b) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d bytes: longer than %d", len(b), MaxCheckpoint)
	}
	n, err := note.Open(b, known)
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		n = unverified.Note
	} else if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := strictSignatures(b[len(n.Text):]); err != nil {
		return Checkpoint{}, err
	}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil
		}
	}
	return c, &UnknownKeyError{Checkpoint: c, Signatures: append(n.Sigs, n.UnverifiedSigs...)}
}

// UnknownKeyError is the error for a well-formed checkpoint that no known key of
// its origin has signed.
type UnknownKeyError struct {
	Checkpoint Checkpoint
	Signatures []note.Signature
}

func (e *UnknownKeyError) Error() string {
	var by []string
	for _, s := range e.Signatures {
		by = append(by, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
	}
	return fmt.Sprintf("checkpoint of %q: signed by %s, none of which is a known key of that log",
		e.Checkpoint.Origin, strings.Join(by, ", "))
}

func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("checkpoint: want three lines: origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > MaxSize {
		return Checkpoint{}, fmt.Errorf("checkpoint: size %.20q: want a number up to %d", lines[1], int64(MaxSize))
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: root %.50q: want the base64 of 32 bytes", lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	if c.text() != text {
		return Checkpoint{}, errors.New("checkpoint: size or root are not in their only form")
	}
	if size == 0 && root != EmptyRoot {
		return Checkpoint{}, errors.New("checkpoint: the root is not that of a log without records")
	}
	return c, nil
}

// strictSignatures refuses what note.Open lets pass: base64 with stray bits, and two
// signatures by one key, of which it looks at the first only. It is given what
// note.Open has accepted, from the blank line on.
func strictSignatures(b []byte) error {
	var seen []string
	for line := range bytes.Lines(b[1:]) {
		id, sig, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(string(line), "\n"), "— "), " ")
		raw, err := base64.StdEncoding.DecodeString(sig)
		if err != nil || len(raw) < 4 || base64.StdEncoding.EncodeToString(raw) != sig {
			return fmt.Errorf("checkpoint: signature of %q is not in its only form", id)
		}
		id += "+" + string(raw[:4])
		if slices.Contains(seen, id) {
			return errors.New("checkpoint: two signatures by one key")
		}
		seen = append(seen, id)
	}
	return nil
}

// NewSigner makes an Ed25519 key pair for the log called name: skey is secret and
// signs, vkey is public and verifies. Both are one line of text in the encoding of
// the signed-note specification.
func NewSigner(name string) (skey, vkey string, err error) {
	skey, vkey, err = note.GenerateKey(rand.Reader, name)
	if err == nil {
		_, err = note.NewVerifier(vkey) // the name is not looked at before
	}
	if err != nil {
		return "", "", fmt.Errorf("make a signing key for %q: %w", name, err)
	}
	return skey, vkey, nil
}

// VerifierKey is the public key of a secret one.
func VerifierKey(skey string) (vkey string, err error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return "", fmt.Errorf("read a signing key: %w", err)
	}
	// PRIVATE+KEY+name+id+key, where the base64 of the key may hold more of them.
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(skey, "+", 5)[4])
	if err != nil {
		return "", fmt.Errorf("read a signing key: %w", err)
	}
	return note.NewEd25519VerifierKey(signer.Name(), ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey))
}

// Verifiers are the keys somebody knows, from their public encodings. A key that is
// not in its only form is refused.
func Verifiers(vkeys ...string) (note.Verifiers, error) {
	var list []note.Verifier
	for i, k := range vkeys {
		if slices.Contains(vkeys[:i], k) {
			continue // the list would call it ambiguous
		}
		v, err := newVerifier(k)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}

func newVerifier(vkey string) (note.Verifier, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("key %.200q: %w", vkey, err)
	}
	// name+id+key, where the base64 of the key may hold more of them.
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil || fmt.Sprintf("%s+%08x+%s", v.Name(), v.KeyHash(), base64.StdEncoding.EncodeToString(raw)) != vkey {
		return nil, fmt.Errorf("key %.200q: not in its only form", vkey)
	}
	return v, nil
}
