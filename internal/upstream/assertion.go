package upstream

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
	"errors"
	"math/big"
	"strings"
	"time"
)

// assertionLife is how long what is signed for an authorization server is good.
const assertionLife = time.Minute

// claims are those of everything that is signed for an authorization server: who
// says it, of whom, to whom, and when (RFC 7519, section 4.1).
type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Issued   int64  `json:"iat"` // seconds since 1970, as Expires
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"` // never used twice
}

func newClaims(issuer, subject, audience string, now time.Time) claims {
	return claims{issuer, subject, audience, now.Unix(), now.Add(assertionLife).Unix(), rand.Text()}
}

// assertionKey is a private key that signs for an authorization server.
type assertionKey struct {
	algorithm string // RFC 7518, section 3.1; RFC 8037, section 3.1
	// thumbprint is that of the public key (RFC 7638), in base64url: its id where
	// nobody gave it another.
	thumbprint string
	sign       func(text []byte) ([]byte, error)
}

// parseAssertionKey reads a private key in PEM: PKCS #8 (RFC 5958), or the older
// forms of RSA and elliptic curves. P-256, Ed25519 and RSA of 2048 to 8192 bits are
// taken. Its errors repeat nothing of the text.
func parseAssertionKey(text string) (*assertionKey, error) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("it is not a private key in PEM")
	case strings.TrimSpace(string(rest)) != "" || !strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN "):
		return nil, errors.New("there is more in it than one private key in PEM")
	case len(block.Headers) > 0 || block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is an encrypted private key, which is not read")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New("it is not a private key in PEM")
	}
	if err != nil {
		return nil, errors.New("it is a private key that cannot be read")
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P256() {
			break
		}
		point, err := key.PublicKey.Bytes() // 4, x, y
		if err != nil || len(point) != 65 {
			break
		}
		return &assertionKey{"ES256", thumbprint(`{"crv":"P-256","kty":"EC","x":"` + b64(point[1:33]) + `","y":"` + b64(point[33:]) + `"}`),
			func(text []byte) ([]byte, error) {
				sum := sha256.Sum256(text)
				r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
				if err != nil {
					return nil, err
				}
				// Not ASN.1: the two numbers, one behind the other (RFC 7518, section 3.4).
				return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
			}}, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
			break
		}
		e := big.NewInt(int64(key.E)).Bytes()
		return &assertionKey{"RS256", thumbprint(`{"e":"` + b64(e) + `","kty":"RSA","n":"` + b64(key.N.Bytes()) + `"}`),
			func(text []byte) ([]byte, error) {
				sum := sha256.Sum256(text)
				return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
			}}, nil
	case ed25519.PrivateKey:
		public := key.Public().(ed25519.PublicKey)
		return &assertionKey{"EdDSA", thumbprint(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(public) + `"}`),
			func(text []byte) ([]byte, error) { return ed25519.Sign(key, text), nil }}, nil
	}
	return nil, errors.New("it is a private key of a kind that is not used: P-256, Ed25519 and RSA from 2048 bits are")
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func thumbprint(jwk string) string {
	sum := sha256.Sum256([]byte(jwk))
	return b64(sum[:])
}

// assert signs claims as a JWT in compact form (RFC 7515, section 7.1). The key's id
// is its thumbprint unless another is given.
func (k *assertionKey) assert(id string, c claims) (string, error) {
	if id == "" {
		id = k.thumbprint
	}
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}{k.algorithm, id, "JWT"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := b64(header) + "." + b64(body)
	signature, err := k.sign([]byte(text))
	if err != nil {
		return "", err
	}
	return text + "." + b64(signature), nil
}
