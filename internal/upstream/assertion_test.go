package upstream_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"sallyport/internal/upstream"
)

// key is a private key of a test, and how what it signed is verified.
type key struct {
	pem    string
	verify func(text, signature []byte) bool
}

func pemOf(t testing.TB, private any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newECKey(t testing.TB, curve elliptic.Curve) (*ecdsa.PrivateKey, key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private, key{pemOf(t, private), func(text, signature []byte) bool {
		sum := sha256.Sum256(text)
		half := len(signature) / 2
		return len(signature) == 64 && ecdsa.Verify(&private.PublicKey, sum[:], new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
	}}
}

func newEdKey(t testing.TB) key {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{pemOf(t, private), func(text, signature []byte) bool { return ed25519.Verify(public, text, signature) }}
}

func newRSAKey(t testing.TB, bits int) (*rsa.PrivateKey, key) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return private, key{pemOf(t, private), func(text, signature []byte) bool {
		sum := sha256.Sum256(text)
		return rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, sum[:], signature) == nil
	}}
}

// asserted is a JWT taken apart.
type asserted struct {
	head struct {
		Alg, Kid, Typ string
	}
	claims struct {
		Iss, Sub, Aud, Jti string
		Iat, Exp           int64
	}
}

// open verifies a JWT with a key and takes it apart; it holds nothing that is not
// expected.
func (k *key) open(t testing.TB, text string) (a asserted) {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", text)
	}
	raw := make([][]byte, 3)
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	if !k.verify([]byte(parts[0]+"."+parts[1]), raw[2]) {
		t.Fatal("the signature is not the key's")
	}
	for i, to := range []any{&a.head, &a.claims} {
		d := json.NewDecoder(strings.NewReader(string(raw[i])))
		d.DisallowUnknownFields()
		if err := d.Decode(to); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func TestAssertions(t *testing.T) {
	t.Parallel()
	ec, p256 := newECKey(t, elliptic.P256())
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, rsa2048 := newRSAKey(t, 2048)
	older := func(kind string, der []byte, k key) key {
		k.pem = string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		return k
	}
	now := time.Unix(1_800_000_000, 999)
	for name, c := range map[string]struct {
		key key
		alg string
	}{
		"P-256":      {p256, "ES256"},
		"P-256 SEC1": {older("EC PRIVATE KEY", sec1, p256), "ES256"},
		"RSA":        {rsa2048, "RS256"},
		"RSA PKCS 1": {older("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), rsa2048), "RS256"},
		"Ed25519":    {newEdKey(t), "EdDSA"},
		"padded":     {key{"\n" + p256.pem + "\n", p256.verify}, "ES256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := map[string]bool{}
			for range 50 { // signatures with zeros in front among them
				text, thumbprint, err := upstream.Assert(c.key.pem, "", "me", `a "person" <é>`, "https://as.example.com", now)
				if err != nil {
					t.Fatal(err)
				}
				a := c.key.open(t, text)
				if a.head.Alg != c.alg || a.head.Kid != thumbprint || a.head.Typ != "JWT" {
					t.Fatalf("header %+v, thumbprint %q", a.head, thumbprint)
				}
				if a.claims.Iss != "me" || a.claims.Sub != `a "person" <é>` || a.claims.Aud != "https://as.example.com" || a.claims.Iat != 1_800_000_000 || a.claims.Exp != 1_800_000_060 {
					t.Fatalf("claims %+v", a.claims)
				}
				if seen[a.claims.Jti] || len(a.claims.Jti) < 20 {
					t.Fatalf("the id %q twice, or short", a.claims.Jti)
				}
				seen[a.claims.Jti] = true
			}
			text, _, err := upstream.Assert(c.key.pem, "named", "me", "me", "you", now)
			if err != nil || c.key.open(t, text).head.Kid != "named" {
				t.Errorf("%s %v", text, err)
			}
		})
	}
}

// TestThumbprint is the example of RFC 8037, appendix A.1 to A.3.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	_, thumbprint, err := upstream.Assert(pemOf(t, ed25519.NewKeyFromSeed(seed)), "", "a", "b", "c", time.Unix(0, 0))
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; err != nil || thumbprint != want {
		t.Errorf("got %q, %v; want %q", thumbprint, err, want)
	}
}

// TestKeysThatAreNotUsed: and what is said of them holds nothing of them.
func TestKeysThatAreNotUsed(t *testing.T) {
	t.Parallel()
	ec, good := newECKey(t, elliptic.P256())
	_, p384 := newECKey(t, elliptic.P384())
	_, small := newRSAKey(t, 1024)
	public, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind, content string, headers map[string]string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content), Headers: headers}))
	}
	for name, text := range map[string]string{
		"none":      "",
		"a secret":  "hunter2hunter2",
		"another":   p384.pem,
		"small":     small.pem,
		"public":    block("PUBLIC KEY", string(public), nil),
		"garbage":   block("PRIVATE KEY", "hunter2", nil),
		"two":       good.pem + good.pem,
		"before":    "hunter2\n" + good.pem,
		"behind":    good.pem + "hunter2",
		"encrypted": block("ENCRYPTED PRIVATE KEY", "hunter2", nil),
		"old":       block("EC PRIVATE KEY", "hunter2", map[string]string{"Proc-Type": "4,ENCRYPTED"}),
		"cut":       good.pem[:len(good.pem)-30],
	} {
		_, _, err := upstream.Assert(text, "", "a", "b", "c", time.Now())
		if err == nil {
			t.Errorf("%s: used", name)
		} else if said := fmt.Sprint(err); strings.Contains(said, "hunter2") || len(said) > 120 {
			t.Errorf("%s: %s", name, said)
		}
	}
}
