package schema

import (
	"bytes"
	"cmp"
	"math/big"
	"strconv"
)

// Numbers are compared as decimal text, exactly. A number of more characters, or
// with a larger exponent, than these is refused instead of compared: expanding
// 1e999999 costs megabytes, and no receiver reads it as what it says.
const (
	maxNumberBytes = 512
	maxExponent    = 1000
)

// decimal is ±0.d1d2d3… × 10^exp with no zero at either end of the digits; zero
// has no digits.
type decimal struct {
	negative bool
	digits   []byte
	exp      int
}

// readable reports whether a JSON number token is within the limits.
func readable(tok []byte) bool {
	if len(tok) > maxNumberBytes {
		return false
	}
	e := bytes.IndexAny(tok, "eE")
	if e < 0 {
		return true
	}
	exp, err := strconv.Atoi(string(tok[e+1:]))
	return err == nil && -maxExponent <= exp && exp <= maxExponent
}

// parseDecimal reads a JSON number token that is readable.
func parseDecimal(tok []byte) decimal {
	var d decimal
	if len(tok) > 0 && tok[0] == '-' {
		d.negative = true
		tok = tok[1:]
	}
	if e := bytes.IndexAny(tok, "eE"); e >= 0 {
		d.exp, _ = strconv.Atoi(string(tok[e+1:]))
		tok = tok[:e]
	}
	whole, fraction, _ := bytes.Cut(tok, []byte{'.'})
	d.exp += len(whole)
	d.digits = whole
	if len(fraction) > 0 {
		d.digits = append(bytes.Clone(whole), fraction...)
	}
	for len(d.digits) > 0 && d.digits[0] == '0' {
		d.digits = d.digits[1:]
		d.exp--
	}
	d.digits = bytes.TrimRight(d.digits, "0")
	if len(d.digits) == 0 {
		return decimal{}
	}
	return d
}

func (d decimal) integer() bool { return d.exp >= len(d.digits) }

// compare is negative where d is less than e, zero where they are equal.
func (d decimal) compare(e decimal) int {
	switch {
	case d.sign() != e.sign():
		return cmp.Compare(d.sign(), e.sign())
	case d.negative:
		return e.magnitude(d)
	default:
		return d.magnitude(e)
	}
}

func (d decimal) magnitude(e decimal) int {
	if len(d.digits) > 0 && d.exp != e.exp {
		return cmp.Compare(d.exp, e.exp)
	}
	return bytes.Compare(d.digits, e.digits)
}

func (d decimal) sign() int {
	switch {
	case len(d.digits) == 0:
		return 0
	case d.negative:
		return -1
	default:
		return 1
	}
}

// append writes the one text all equal numbers share.
func (d decimal) append(dst []byte) []byte {
	if d.negative {
		dst = append(dst, '-')
	}
	if len(d.digits) == 0 {
		return append(dst, '0')
	}
	dst = append(dst, d.digits...)
	dst = append(dst, 'e')
	return strconv.AppendInt(dst, int64(d.exp-len(d.digits)), 10)
}

// bound is a limit of a number keyword: small where it fits in an int64.
type bound struct {
	text  string
	exact decimal
	small int64
	fits  bool
}

func newBound(text string) *bound {
	b := &bound{text: text, exact: parseDecimal([]byte(text))}
	b.small, b.fits = smallInteger([]byte(text))
	return b
}

// compareTo compares a JSON number token with the bound.
func (b *bound) compareTo(tok []byte) int {
	if n, ok := smallInteger(tok); ok && b.fits {
		return cmp.Compare(n, b.small)
	}
	return parseDecimal(tok).compare(b.exact)
}

// smallInteger reads a number token of at most 18 plain digits.
func smallInteger(tok []byte) (int64, bool) {
	digits := tok
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if tok[0] == '-' {
		n = -n
	}
	return n, true
}

// isInteger reports whether a number token has an integer value: 1.0 and 1e2 have.
func isInteger(tok []byte) bool {
	if !bytes.ContainsAny(tok, ".eE") {
		return true
	}
	return parseDecimal(tok).integer()
}

// multiple reports whether a number token is an integer multiple of unit.
func multiple(tok []byte, unit *big.Rat) bool {
	n, ok := new(big.Rat).SetString(string(tok))
	return ok && n.Quo(n, unit).IsInt()
}
