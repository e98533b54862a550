package auth

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"sallyport/internal/audit"
)

// Ring is the keys of an installation, each for one job. They lie in a folder
// that is not the store's, one file each, readable by their owner alone.
type Ring struct {
	Origin     string // of the log
	Signer     note.Signer
	Verifier   string // the public half, as audit verify takes it
	Sealing    []byte // wraps data keys of runs
	Pseudonyms []byte
}

// OpenRing reads the keys in a folder, making those that are missing.
func OpenRing(dir string) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	r := &Ring{}
	skey, err := keyFile(filepath.Join(dir, "checkpoint.key"), func() (string, error) {
		var b [4]byte
		rand.Read(b[:])
		skey, _, err := audit.NewSigner(fmt.Sprintf("sallyport.local/%x", b))
		return skey, err
	})
	if err != nil {
		return nil, err
	}
	if r.Signer, err = note.NewSigner(skey); err != nil {
		return nil, fmt.Errorf("keys: checkpoint.key: %w", err)
	}
	r.Origin = r.Signer.Name()
	if r.Verifier, err = audit.VerifierKey(skey); err != nil {
		return nil, fmt.Errorf("keys: checkpoint.key: %w", err)
	}
	public := filepath.Join(dir, "checkpoint.pub")
	if have, err := os.ReadFile(public); err != nil || string(have) != r.Verifier+"\n" {
		if err := os.WriteFile(public, []byte(r.Verifier+"\n"), 0o644); err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
	}
	if r.Sealing, err = secretFile(filepath.Join(dir, "sealing.key")); err != nil {
		return nil, err
	}
	r.Pseudonyms, err = secretFile(filepath.Join(dir, "pseudonym.key"))
	return r, err
}

func secretFile(path string) ([]byte, error) {
	text, err := keyFile(path, func() (string, error) {
		var b [32]byte
		rand.Read(b[:])
		return base64.StdEncoding.EncodeToString(b[:]), nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("keys: %s does not hold 32 bytes in base 64", filepath.Base(path))
	}
	return raw, nil
}

// keyFile reads a key, or makes it once: a file that exists is never written. A new
// key is written beside its place and linked there whole, so that neither a crash
// nor another process that starts at the same time leaves half of one.
func keyFile(path string, fresh func() (string, error)) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("keys: %w", err)
	}
	text, err := fresh()
	if err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // readable by its owner alone
	if err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path)
	}
	if err = errors.Join(err, os.Remove(f.Name())); errors.Is(err, fs.ErrExist) {
		return keyFile(path, fresh) // somebody else made it meanwhile
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	return text, nil
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
