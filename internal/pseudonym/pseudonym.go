// Package pseudonym replaces personal data by values of the same form that belong to
// nobody. Within one data domain, which is one key, a value always becomes the same
// pseudonym, in every table, file and call; what two domains make of it cannot be
// linked without their keys.
//
// # Pseudonyms stay
//
// A pseudonym that is replaced again in its own domain stays as it is, so a file may
// be scrubbed twice. That is possible where pseudonyms can be known again:
//
//   - by a range nobody is given numbers from (telephone, IBAN, card, national numbers,
//     IP addresses, wallets): whatever lies there stays, whoever put it there;
//   - by a tag, a part of the pseudonym that the domain's key computes from the rest
//     (e-mail, names, texts, secrets, identifiers of 72 bits and more): a pseudonym of
//     another domain, or a real value that looks like one, is replaced.
//
// A mapping that keeps every value apart within one small space and also keeps its own
// results as they are can only be the one that changes nothing. So short identifiers
// are permuted, without collisions, and permuted again when replaced again. A date
// has no room for a mark either: it stays if its subject is a pseudonym of this domain
// that is known by a tag, since then the record has been here before.
//
// # Two values, one pseudonym
//
// Among n values of which each may become any of m pseudonyms, about n²/2m pairs share
// one. m is 2^55 for e-mail and secrets; 2^48 or more for tagged identifiers; 10^9 for
// cards of 16 digits; from 10^6 on for IBANs, mostly beyond 10^9; 131,840 for IPv4, 2^80
// for IPv6, 2^72 for wallets; 2^20 for each word of a name. Telephone: 71,200 in North
// America, 60,000 in France, 17,000 in the United Kingdom, 80,000 in Australia, and a
// hundredth of what fits its length elsewhere. National numbers: us-ssn 49 million, gb-nino 76
// million, gb-nhs 909,000, de-idnr 29 million, fr-nir 10^10, es-dni a million for each of
// DNI and NIE, it-cf beyond 10^9, nl-bsn 909,000, be-nrn 67,000, se-pnr 672,000, no-fnr 27
// million, fi-hetu 3.4 million a century, pl-pesel 336 million, ch-ahv 100,000, br-cpf 10^6,
// in-aadhaar 10^10, ca-sin 10^7, cn-ric 10^11. Where a column has to stay unique, count before.
//
// # What stays visible
//
// That two values are equal; how long they are and how they are written; the country
// of a telephone number, IBAN or national number, the network of a card; the time
// between two dates of one subject. Frequent values stay frequent.
package pseudonym

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
	"math/rand/v2"
	"sync"

	"sallyport/internal/ident"
)

// Domain makes the pseudonyms of one data domain. It may be used by many at once.
type Domain struct {
	macs sync.Pool // of hash.Hash, keyed
}

// New returns the domain of a key, which is 32 bytes from a good source, used for
// nothing else.
func New(key [32]byte) *Domain {
	return &Domain{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key[:]) }}}
}

// sum is the HMAC-SHA-256 (RFC 2104) of the parts under the domain's key, each with
// its length in front.
func (d *Domain) sum(parts ...[]byte) (out [32]byte) {
	mac := d.macs.Get().(hash.Hash)
	mac.Reset()
	var size [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		mac.Write(size[:])
		mac.Write(p)
	}
	mac.Sum(out[:0])
	d.macs.Put(mac)
	return out
}

// source is an endless sequence of numbers that follows from a key and a value.
type source struct{ rng rand.ChaCha8 }

func (d *Domain) source(parts ...[]byte) *source {
	s := new(source)
	s.rng.Seed(d.sum(parts...))
	return s
}

// below returns a number from 0 to n-1, all equally likely (D. Lemire, Fast Random
// Integer Generation in an Interval, 2019).
func (s *source) below(n int) int {
	for {
		hi, lo := bits.Mul64(s.rng.Uint64(), uint64(n))
		if lo >= -uint64(n)%uint64(n) {
			return int(hi)
		}
	}
}

// Replace appends the pseudonym of a value to dst. A value that is not of its kind
// becomes a pseudonym of the kind all the same; an empty one stays empty. subject is
// whom a date belongs to, as it stands in the same record, and is not looked at for
// other kinds.
//
// Pseudonyms of what is ASCII are ASCII without quotes, backslashes and control
// characters that were not in the value. A number without quotes may get a zero in
// front (de-idnr, ca-sin, iban do; id does not): then it has to be quoted.
func (d *Domain) Replace(dst []byte, kind ident.Kind, value, subject []byte) []byte {
	if len(bytes.TrimSpace(value)) == 0 || d.Recognises(kind, value) {
		return append(dst, value...)
	}
	switch kind {
	case ident.Email:
		return d.email(dst, value)
	case ident.Phone:
		return d.phone(dst, value)
	case ident.IBAN, ident.Card:
		return d.account(dst, kind, value)
	case ident.IPv4, ident.IPv6:
		return d.ip(dst, kind, value)
	case ident.Bitcoin, ident.Ethereum:
		return d.wallet(dst, kind, value)
	case ident.BirthDate, ident.Date:
		return d.date(dst, value, subject)
	case ident.Secret:
		return d.secret(dst, value)
	case ident.Name:
		return d.name(dst, value, namePrefix)
	case ident.Address:
		return d.name(dst, value, streetPrefix)
	case ident.Text:
		return d.prose(dst, value)
	default:
		if kind.National() {
			return d.national(dst, kind, value)
		}
		return d.id(dst, value)
	}
}

// Recognises reports whether a value is a pseudonym of the kind: for kinds with a
// range of their own, of any domain; for those with a tag, of this domain, wrongly so
// once in 2^10 words that could be a name's, 2^18 texts, 2^24 others. It is always
// false for dates and short identifiers.
func (d *Domain) Recognises(kind ident.Kind, value []byte) bool {
	var room [64]byte
	switch kind {
	case ident.Email:
		return d.ownEmail(value)
	case ident.Phone:
		digits, plus := phoneDigits(room[:0], value)
		return len(digits) >= leastPhone && ident.ReservedPhone(digits, plus)
	case ident.IBAN:
		c, ok := ident.Compact(room[:0], value)
		return ok && ident.ValidIBAN(c) && ident.ReservedIBAN(c)
	case ident.Card:
		c, ok := ident.Compact(room[:0], value)
		return ok && ident.ValidCard(c) && ident.ReservedCard(c)
	case ident.IPv4, ident.IPv6:
		return ownIP(kind, value)
	case ident.Bitcoin:
		return ident.ValidBitcoin(value) && ident.ReservedBitcoin(value)
	case ident.Ethereum:
		return ident.ValidEthereum(value) && ident.ReservedEthereum(value)
	case ident.BirthDate, ident.Date:
		return false
	case ident.Secret:
		return d.ownToken(secretPrefix, value)
	case ident.Name:
		return d.ownWords(value) || d.ownToken(namePrefix, value)
	case ident.Address:
		return d.ownWords(value) || d.ownToken(streetPrefix, value)
	case ident.Text:
		return d.ownProse(value)
	default:
		if kind.National() {
			c, ok := compact(room[:0], kind, value)
			return ok && ident.ReservedNational(kind, c)
		}
		return d.ownID(value)
	}
}

// known reports whether a subject is a pseudonym that is known by its tag.
func (d *Domain) known(subject []byte) bool {
	return d.ownEmail(subject) || d.ownID(subject) || d.ownToken(secretPrefix, subject) || d.ownWords(subject)
}

// relay writes the characters of a compact form in the places where the digits and
// letters of the written form are, and keeps what separates them.
func relay(dst, written, fresh []byte) []byte {
	for _, c := range written {
		switch {
		case '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z':
			if len(fresh) == 0 {
				return dst
			}
			b := fresh[0]
			if 'a' <= c && c <= 'z' && 'A' <= b && b <= 'Z' {
				b += 'a' - 'A'
			}
			dst = append(dst, b)
			fresh = fresh[1:]
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, fresh...)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
