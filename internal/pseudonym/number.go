package pseudonym

import (
	"bytes"
	"net/netip"
	"unicode"

	"sallyport/internal/ident"
)

// leastPhone is how many digits a telephone number has at least.
const leastPhone = 6

// phoneDigits appends the digits of a number and says whether a plus stands before
// them.
func phoneDigits(dst, value []byte) (digits []byte, plus bool) {
	for _, c := range value {
		switch {
		case isDigit(c):
			dst = append(dst, c)
		case c == '+' && len(dst) == 0:
			plus = true
		}
	}
	return dst, plus
}

// phone keeps how a number is written. What is no number, or has more in it than one,
// becomes digits alone.
func (d *Domain) phone(dst, value []byte) []byte {
	digits, plus := phoneDigits(nil, value)
	if len(digits) < leastPhone {
		src := d.source([]byte("phone-text"), value)
		return ident.IssuePhone(dst, []byte("0000000000"), false, src.below)
	}
	fresh := ident.IssuePhone(nil, digits, plus, d.source([]byte("phone"), ident.CanonicalPhone(nil, digits, plus)).below)
	if _, ok := ident.Compact(nil, value); ok && !bytes.ContainsFunc(value, unicode.IsLetter) {
		return relay(dst, value, fresh)
	}
	if plus {
		dst = append(dst, '+')
	}
	return append(dst, fresh...)
}

// account replaces IBANs and cards.
func (d *Domain) account(dst []byte, kind ident.Kind, value []byte) []byte {
	c, ok := ident.Compact(nil, value)
	like, valid, issue := []byte("DE89370400440532013000"), ident.ValidIBAN, ident.IssueIBAN
	if kind == ident.Card {
		like, valid, issue = []byte("4111111111111111"), ident.ValidCard, ident.IssueCard
	}
	if ok && valid(c) {
		return relay(dst, value, issue(nil, c, d.source([]byte(kind.String()), c).below))
	}
	return issue(dst, like, d.source([]byte(kind.String()), value).below)
}

// compact is the compact form of a national number. That of Finland keeps its sign.
func compact(dst []byte, kind ident.Kind, value []byte) ([]byte, bool) {
	if kind == ident.FIHETU {
		return append(dst, bytes.ToUpper(bytes.TrimSpace(value))...), true
	}
	return ident.Compact(dst, value)
}

func (d *Domain) national(dst []byte, kind ident.Kind, value []byte) []byte {
	label := []byte(kind.String())
	c, ok := compact(nil, kind, value)
	if ok && ident.ValidNational(kind, c) {
		fresh := ident.IssueNational(kind, nil, c, d.source(label, c).below)
		if kind == ident.FIHETU {
			return append(dst, fresh...)
		}
		return relay(dst, value, fresh)
	}
	return ident.IssueNational(kind, dst, []byte("000000-000"), d.source(label, value).below)
}

// Documentation and benchmark networks: RFC 5737, RFC 2544 (198.18.0.0/15, added
// since the three others have 768 addresses together), RFC 3849.
var (
	docNets = []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	}
	docNet6 = netip.MustParsePrefix("2001:db8::/32")
)

func ownIP(kind ident.Kind, value []byte) bool {
	a, err := netip.ParseAddr(string(value))
	if err != nil {
		return false
	}
	if kind == ident.IPv6 {
		return docNet6.Contains(a)
	}
	for _, n := range docNets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (d *Domain) ip(dst []byte, kind ident.Kind, value []byte) []byte {
	canonical := value
	if a, err := netip.ParseAddr(string(value)); err == nil {
		canonical = a.Unmap().AsSlice()
	}
	src := d.source([]byte(kind.String()), canonical)
	if kind == ident.IPv6 {
		a := docNet6.Addr().As16()
		for i := 6; i < 16; i++ {
			a[i] = byte(src.below(256))
		}
		return netip.AddrFrom16(a).AppendTo(dst)
	}
	n := src.below(3*256 + 1<<17)
	for _, net := range docNets {
		size := 1 << (32 - net.Bits())
		if n >= size {
			n -= size
			continue
		}
		a := net.Addr().As4()
		a[1] += byte(n >> 16)
		a[2] += byte(n >> 8)
		a[3] += byte(n)
		return netip.AddrFrom4(a).AppendTo(dst)
	}
	return dst
}

func (d *Domain) wallet(dst []byte, kind ident.Kind, value []byte) []byte {
	if kind == ident.Ethereum {
		return ident.MakeEthereum(dst, true, d.source([]byte("ethereum"), bytes.ToLower(value)).below)
	}
	like, canonical := []byte("bc1"), bytes.ToLower(value)
	if value[0] == '1' || value[0] == '3' {
		like, canonical = value[:1], value
	}
	return ident.MakeBitcoin(dst, like, true, d.source([]byte("bitcoin"), canonical).below)
}
