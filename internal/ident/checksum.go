package ident

// Luhn reports whether the digits end in the right check digit (ISO/IEC 7812-1,
// annex B).
func Luhn(d []byte) bool { return len(d) > 1 && luhnSum(d)%10 == 0 }

// LuhnDigit is the check digit to put behind the digits.
func LuhnDigit(body []byte) byte {
	sum, double := 0, true
	for i := len(body) - 1; i >= 0; i-- {
		sum += luhnValue(body[i], double)
		double = !double
	}
	return byte('0' + (10-sum%10)%10)
}

func luhnSum(d []byte) int {
	sum, double := 0, false
	for i := len(d) - 1; i >= 0; i-- {
		sum += luhnValue(d[i], double)
		double = !double
	}
	return sum
}

func luhnValue(c byte, double bool) int {
	n := int(c - '0')
	if double {
		if n *= 2; n > 9 {
			n -= 9
		}
	}
	return n
}

// Mod97 is the remainder by 97 of digits and capital letters, where A counts 10 and
// Z 35 (ISO/IEC 7064, MOD 97-10).
func Mod97(parts ...[]byte) int {
	n := 0
	for _, part := range parts {
		for _, c := range part {
			if isDigit(c) {
				n = (n*10 + int(c-'0')) % 97
			} else {
				n = (n*100 + int(c-'A'+10)) % 97
			}
		}
	}
	return n
}

// Mod11And10 is the check digit of ISO/IEC 7064, MOD 11,10.
func Mod11And10(body []byte) byte {
	p := 10
	for _, c := range body {
		s := (int(c-'0') + p) % 10
		if s == 0 {
			s = 10
		}
		p = s * 2 % 11
	}
	return byte('0' + (11-p)%10)
}

// verhoeff is the multiplication in the dihedral group of order 10, and turn what
// each place does to a digit before (J. Verhoeff, Error Detecting Decimal Codes,
// 1969).
var verhoeff, verhoeffTurn = func() (mul [10][10]byte, turn [8][10]byte) {
	for a := range 10 {
		for b := range 10 {
			switch {
			case a < 5 && b < 5:
				mul[a][b] = byte((a + b) % 5)
			case a < 5:
				mul[a][b] = byte(5 + (a+b-5)%5)
			case b < 5:
				mul[a][b] = byte(5 + (a-b)%5)
			default:
				mul[a][b] = byte((a - b + 5) % 5)
			}
		}
	}
	first := [10]byte{1, 5, 7, 6, 2, 8, 3, 0, 9, 4}
	for d := range 10 {
		turn[0][d] = byte(d)
	}
	for i := 1; i < 8; i++ {
		for d := range 10 {
			turn[i][d] = first[turn[i-1][d]]
		}
	}
	return mul, turn
}()

// Verhoeff reports whether the digits end in the right check digit.
func Verhoeff(d []byte) bool {
	c := byte(0)
	for i := range d {
		c = verhoeff[c][verhoeffTurn[i%8][d[len(d)-1-i]-'0']]
	}
	return len(d) > 1 && c == 0
}

// VerhoeffDigit is the check digit to put behind the digits.
func VerhoeffDigit(body []byte) byte {
	c := byte(0)
	for i := range body {
		c = verhoeff[c][verhoeffTurn[(i+1)%8][body[len(body)-1-i]-'0']]
	}
	for d := range byte(10) {
		if verhoeff[c][d] == 0 {
			return '0' + d
		}
	}
	return '0' // c has an inverse: not reached
}

// weighted is the sum of the digits, each times its weight.
func weighted(d []byte, weights ...int) int {
	sum := 0
	for i, w := range weights {
		sum += w * int(d[i]-'0')
	}
	return sum
}
