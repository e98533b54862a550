package ident

// issuer is a range of payment card numbers by their first six digits (ISO/IEC
// 7812; the ranges the networks publish), the lengths its numbers have, and the
// first digits of the numbers the networks and payment services document for tests.
type issuer struct {
	low, high int
	lengths   uint32 // bit n: n digits
	test      string
}

const (
	only14    = 1 << 14
	only15    = 1 << 15
	only16    = 1 << 16
	upTo19    = 1<<16 | 1<<17 | 1<<18 | 1<<19
	visa      = 1<<13 | 1<<16 | 1<<19
	diners    = 1<<14 | upTo19
	maestroes = 1<<12 | 1<<13 | 1<<14 | 1<<15 | upTo19
)

var issuers = []issuer{
	{220000, 220499, upTo19, "220000"}, // Mir
	{222100, 272099, only16, "222300"}, // Mastercard
	{300000, 305999, diners, "305693"}, // Diners Club
	{309500, 309599, diners, "305693"},
	{340000, 349999, only15, "378282"}, // American Express
	{352800, 358999, upTo19, "356600"}, // JCB
	{360000, 369999, diners, "362272"}, // Diners Club
	{370000, 379999, only15, "378282"}, // American Express
	{380000, 399999, diners, "385200"}, // Diners Club
	{400000, 499999, visa, "424242"},
	{500000, 509999, maestroes, "501800"}, // Maestro and others
	{510000, 559999, only16, "555555"},    // Mastercard
	{560000, 589999, maestroes, "501800"},
	{601100, 601199, upTo19, "601111"}, // Discover
	{620000, 629999, upTo19, "620000"}, // UnionPay
	{630400, 630499, maestroes, "501800"},
	{639000, 639099, maestroes, "501800"},
	{644000, 659999, upTo19, "601111"}, // Discover
	{670000, 679999, maestroes, "501800"},
}

func issuerOf(c []byte) *issuer {
	if len(c) < 12 || !digits(c) {
		return nil
	}
	n := number(c[:6])
	for i := range issuers {
		if s := &issuers[i]; s.low <= n && n <= s.high && s.lengths>>len(c)&1 != 0 {
			return s
		}
	}
	return nil
}

// ValidCard checks the digits of a payment card number: its issuer's range, the
// length that goes with it, and the check digit.
func ValidCard(c []byte) bool { return issuerOf(c) != nil && Luhn(c) }

// ReservedCard reports whether a valid number begins with digits that are
// documented for tests.
func ReservedCard(c []byte) bool {
	s := issuerOf(c)
	return s != nil && string(c[:len(s.test)]) == s.test
}

// IssueCard appends a card number of the same network and length in a test range,
// with the right check digit. like is a valid number.
func IssueCard(dst, like []byte, draw func(n int) int) []byte {
	s := issuerOf(like)
	at := len(dst)
	dst = append(dst, s.test...)
	for len(dst)-at < len(like)-1 {
		dst = append(dst, byte('0'+draw(10)))
	}
	return append(dst, LuhnDigit(dst[at:]))
}
