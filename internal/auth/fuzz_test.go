package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// oneKey knows one credential.
type oneKey struct {
	secret string
	key    control.Key
	asked  int
}

func (o *oneKey) Key(_ context.Context, hash [32]byte) (*control.Key, error) {
	o.asked++
	if hash != sha256.Sum256([]byte(o.secret)) {
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "the credential is not known", "")
	}
	return &o.key, nil
}
func (o *oneKey) Person(context.Context, sallyport.PersonID) (*sallyport.Person, error) {
	return &sallyport.Person{}, nil
}
func (o *oneKey) Epoch() int64 { return 1 }

// FuzzKey presents credentials: only the very bytes of one that was given out
// identify anybody, however often others are tried, and what could be none is not
// even looked up.
func FuzzKey(f *testing.F) {
	const secret = "sp_run_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, credential := range []string{secret, "", "sp_", "sp_run_", secret + " ", " " + secret, secret[:len(secret)-1], strings.ToUpper(secret), "Bearer " + secret, secret + "\x00", "sp_person_" + secret[7:], strings.Repeat(secret, 5), "sp_\xff"} {
		f.Add(credential)
	}
	f.Fuzz(func(t *testing.T, credential string) {
		now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		keys := &oneKey{secret: secret, key: control.Key{ID: "key_1", Kind: sallyport.KeyRun, Expires: now.Add(time.Hour)}}
		a := &Auth{Keys: keys, Now: func() time.Time { return now }}
		for _, presented := range []string{credential, secret, credential} {
			id, err := a.Identify(t.Context(), presented)
			if presented == secret {
				if err != nil || id.Key != "key_1" {
					t.Fatalf("%v %v", id, err)
				}
				continue
			}
			var r *sallyport.Refusal
			if !errors.As(err, &r) || r.Code != sallyport.Unauthenticated {
				t.Fatalf("%q is %+v, %v", presented, id, err)
			}
			if len(presented) > 8 && strings.Contains(r.Error(), presented) {
				t.Fatalf("the refusal repeats %q", presented)
			}
		}
		if most := 3; keys.asked > most || !strings.HasPrefix(credential, "sp_") && keys.asked > 1 {
			t.Fatalf("looked up %d times for %q", keys.asked, credential)
		}
		now = now.Add(2 * time.Hour)
		if _, err := a.Identify(t.Context(), credential); err == nil {
			t.Fatalf("%q never expires", credential)
		}
	})
}

// FuzzRing opens folders of keys that hold anything. What opens is keys of the
// right size that sign what they verify, and opens again as the same; what does
// not open is left as it was.
func FuzzRing(f *testing.F) {
	skey, _, err := audit.NewSigner("sallyport.local/00000000")
	if err != nil {
		f.Fatal(err)
	}
	const sealing = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, k := range []string{skey, skey + "\n", "", "PRIVATE+KEY+", skey[:len(skey)-1], skey + skey, strings.ToLower(skey), "PRIVATE+KEY+x+00000000+AQ=="} {
		for _, s := range []string{sealing, "", "AAAA", sealing + "\n", sealing + "=", "\xff"} {
			f.Add(k, s)
		}
	}
	f.Fuzz(func(t *testing.T, checkpoint, sealing string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"checkpoint.key": checkpoint, "sealing.key": sealing} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := OpenRing(dir)
		for name, text := range map[string]string{"checkpoint.key": checkpoint, "sealing.key": sealing} {
			if b, readErr := os.ReadFile(filepath.Join(dir, name)); readErr != nil || string(b) != text {
				t.Fatalf("%s became %q, %v", name, b, readErr)
			}
		}
		if err != nil {
			if secret := strings.TrimSpace(sealing); len(secret) > 16 && strings.Contains(err.Error(), secret) {
				t.Fatalf("the error repeats the key: %v", err)
			}
			return
		}
		if len(r.Sealing) != 32 || len(r.Pseudonyms) != 32 || r.Origin == "" {
			t.Fatalf("%+v", r)
		}
		known, err := audit.Verifiers(r.Verifier)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: "x\n"}, r.Signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, known); err != nil {
			t.Fatalf("signed by %s, not verified: %v", r.Verifier, err)
		}
		again, err := OpenRing(dir)
		if err != nil || again.Verifier != r.Verifier || string(again.Sealing) != string(r.Sealing) || string(again.Pseudonyms) != string(r.Pseudonyms) {
			t.Fatalf("opened again it differs: %v", err)
		}
	})
}
