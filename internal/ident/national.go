package ident

import "bytes"

// scheme is one kind of national number.
type scheme struct {
	country string

	// valid judges the compact form.
	valid func(c []byte) bool

	// reserved reports whether a number of the right form lies in the range that
	// issue writes to.
	reserved func(c []byte) bool

	// issue appends a number of that range, with right check digits. like is the
	// compact form of a valid number, for what has variants.
	issue func(dst, like []byte, draw func(n int) int) []byte
}

// schemes are the numbers, each with the public rule it follows. Where a register
// keeps a range for tests, or has one it never gives out, issue writes there;
// where none is known the comment says "no range", and issue writes to a corner of
// the space that is small enough to meet by chance seldom.
var schemes = [kindsEnd]*scheme{
	// Social Security Administration, "SSN Randomization": no area 000, 666 or
	// 900-999, no group 00, no serial 0000. Numbers with 9 in front are ITINs only
	// from group 50 on (IRS, Publication 1915).
	USSSN: {"US",
		func(c []byte) bool {
			return len(c) == 9 && digits(c) && c[0] != '9' && string(c[:3]) != "000" && string(c[:3]) != "666" &&
				string(c[3:5]) != "00" && string(c[5:]) != "0000"
		},
		func(c []byte) bool {
			return len(c) == 9 && digits(c) && c[0] == '9' && c[3] < '5' && string(c[3:5]) != "00" && string(c[5:]) != "0000"
		},
		func(dst, _ []byte, draw func(int) int) []byte {
			dst = appendDigits(dst, 900+draw(100), 3)
			dst = appendDigits(dst, 1+draw(49), 2)
			return appendDigits(dst, 1+draw(9999), 4)
		},
	},

	// HMRC, National Insurance Manual NIM39110: the letters D, F, I, Q, U and V are
	// in no prefix, O is not second, some pairs are never used, suffix A to D. Q is
	// what HMRC's own examples begin with.
	GBNINO: {"GB",
		func(c []byte) bool {
			if !nino(c) || bytes.IndexByte([]byte("DFIQUV"), c[0]) >= 0 {
				return false
			}
			switch string(c[:2]) {
			case "BG", "GB", "NK", "KN", "TN", "NT", "ZZ":
				return false
			}
			return true
		},
		func(c []byte) bool { return nino(c) && c[0] == 'Q' },
		func(dst, _ []byte, draw func(int) int) []byte {
			const second = "ABCEGHJKLMNPRSTWXYZ"
			dst = append(dst, 'Q', second[draw(len(second))])
			return append(appendDigits(dst, draw(1_000_000), 6), byte('A'+draw(4)))
		},
	},

	// NHS Data Dictionary, "NHS number": weights 10 to 2, modulus 11. Numbers that
	// begin with 999 are kept for tests.
	GBNHS: {"GB",
		func(c []byte) bool { return len(c) == 10 && digits(c) && c[9] == nhsDigit(c) },
		func(c []byte) bool { return len(c) == 10 && digits(c) && string(c[:3]) == "999" && c[9] == nhsDigit(c) },
		func(dst, _ []byte, draw func(int) int) []byte {
			return untilRight(dst, func(b []byte) ([]byte, bool) {
				b = appendDigits(append(b, "999"...), draw(1_000_000), 6)
				check := nhsDigit(b)
				return append(b, check), check != 0
			})
		},
	},

	// § 139b AO and the Bundeszentralamt für Steuern's rules: eleven digits, ISO/IEC
	// 7064 MOD 11,10; of the first ten one digit comes twice or three times, the
	// others at most once. 0 in front is for tests.
	DEIDNr: {"DE",
		func(c []byte) bool { return idnr(c) && c[0] != '0' },
		func(c []byte) bool { return idnr(c) && c[0] == '0' },
		func(dst, _ []byte, draw func(int) int) []byte {
			body := []byte("0123456789")
			for i := 9; i > 1; i-- {
				j := 1 + draw(i)
				body[i], body[j] = body[j], body[i]
			}
			place := 1 + draw(9)
			digit := byte('0' + draw(9))
			if digit >= body[place] {
				digit++
			}
			body[place] = digit
			return append(append(dst, body...), Mod11And10(body))
		},
	},

	// INSEE, "Numéro d'inscription au répertoire": sex, year, month, department,
	// commune, order, and 97 less the remainder by 97; Corsica's 2A and 2B count as
	// 19 and 18. No range; no sex is written 9.
	FRNIR: {"FR",
		func(c []byte) bool { return nir(c) && bytes.IndexByte([]byte("123478"), c[0]) >= 0 },
		func(c []byte) bool { return nir(c) && c[0] == '9' },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, '9'), draw(100), 2)
			dst = appendDigits(dst, 1+draw(12), 2)
			dst = appendDigits(dst, 21+draw(75), 2)
			dst = appendDigits(dst, 1+draw(990), 3)
			dst = appendDigits(dst, 1+draw(999), 3)
			return appendDigits(dst, 97-nirRest(dst[at:]), 2)
		},
	},

	// Real Decreto 1553/2005 and the Ministerio del Interior's "cálculo del dígito de
	// control": number modulo 23 chooses the letter; X, Y and Z of a NIE count as 0,
	// 1 and 2. No range; numbers from 99000000 on and NIEs with Z and 9 have not been
	// reached.
	ESDNI: {"ES",
		func(c []byte) bool { return dni(c) },
		func(c []byte) bool {
			return dni(c) && (c[0] == '9' && c[1] == '9' || c[0] == 'Z' && c[1] == '9')
		},
		func(dst, like []byte, draw func(int) int) []byte {
			at := len(dst)
			if like[0] >= 'X' {
				dst = appendDigits(append(dst, 'Z', '9'), draw(1_000_000), 6)
			} else {
				dst = appendDigits(append(dst, '9', '9'), draw(1_000_000), 6)
			}
			return append(dst, dniLetter(dst[at:]))
		},
	},

	// Decreto del Ministero delle Finanze 23/12/1976: name, birth, place, and a
	// letter from two tables. No range; no place has a code from Z950 to Z999.
	ITCF: {"IT",
		func(c []byte) bool { return cf(c) },
		func(c []byte) bool { return cf(c) && c[11] == 'Z' && c[12] == '9' && '5' <= c[13] && c[13] <= '9' },
		func(dst, _ []byte, draw func(int) int) []byte {
			const consonants = "BCDFGLMNPRSTVZ"
			at := len(dst)
			for range 6 {
				dst = append(dst, consonants[draw(len(consonants))])
			}
			dst = append(appendDigits(dst, draw(100), 2), cfMonths[draw(12)])
			dst = appendDigits(dst, 1+draw(28)+40*draw(2), 2)
			dst = appendDigits(append(dst, 'Z'), 950+draw(50), 3)
			return append(dst, cfLetter(dst[at:]))
		},
	},

	// Rijksdienst voor Identiteitsgegevens, "elfproef": weights 9 to 2 and -1. Test
	// numbers begin with 9999; none that begins with 99 is known to be given out.
	NLBSN: {"NL",
		func(c []byte) bool { return bsn(c) },
		func(c []byte) bool { return bsn(c) && c[0] == '9' && c[1] == '9' },
		func(dst, _ []byte, draw func(int) int) []byte {
			return untilRight(dst, func(b []byte) ([]byte, bool) {
				b = appendDigits(append(b, '9', '9'), draw(1_000_000), 6)
				check := weighted(b, 9, 8, 7, 6, 5, 4, 3, 2) % 11
				return append(b, byte('0'+check)), check < 10
			})
		},
	},

	// Arrêté royal du 3 avril 1984: birth, number of the day, and 97 less the
	// remainder by 97, with a 2 in front for who was born from 2000 on. Numbers of a
	// day are 001 to 998.
	BENRN: {"BE",
		func(c []byte) bool { return nrn(c) },
		func(c []byte) bool { return nrn(c) && (string(c[6:9]) == "000" || string(c[6:9]) == "999") },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(dst, draw(100), 2)
			dst = appendDigits(dst, 1+draw(12), 2)
			dst = appendDigits(dst, 1+draw(28), 2)
			dst = appendDigits(dst, 999*draw(2), 3)
			return appendDigits(dst, 97-nrnRest(dst[at:], draw(2) == 1), 2)
		},
	},

	// Folkbokföringslagen § 18, Skatteverket SKV 704: birth, serial, Luhn; a
	// coordination number has 60 added to its day. The serials 980 to 999 are not
	// given at birth, Skatteverket's test numbers have them.
	SEPNR: {"SE",
		func(c []byte) bool { return pnr(c) },
		func(c []byte) bool { return pnr(c) && c[len(c)-4] == '9' && c[len(c)-3] >= '8' },
		func(dst, like []byte, draw func(int) int) []byte {
			if len(like) == 12 {
				dst = append(dst, "19"...)
			}
			at := len(dst)
			dst = appendDigits(dst, draw(100), 2)
			dst = appendDigits(dst, 1+draw(12), 2)
			dst = appendDigits(dst, 1+draw(28), 2)
			dst = appendDigits(dst, 980+draw(20), 3)
			return append(dst, LuhnDigit(dst[at:]))
		},
	},

	// Folkeregisterforskriften § 2-2-1: birth, individual number, two digits modulo
	// 11; a D-number has 40 added to its day. Skatteetaten's synthetic persons have
	// 80 added to their month.
	NOFNR: {"NO",
		func(c []byte) bool { return fnr(c) && c[2] < '8' },
		func(c []byte) bool { return fnr(c) && c[2] >= '8' },
		func(dst, _ []byte, draw func(int) int) []byte {
			return untilRight(dst, func(b []byte) ([]byte, bool) {
				b = appendDigits(b, 1+draw(28), 2)
				b = appendDigits(b, 81+draw(12), 2)
				b = appendDigits(b, draw(100), 2)
				b = appendDigits(b, draw(1000), 3)
				return fnrDigits(b)
			})
		},
	},

	// Digital and Population Data Services Agency, "The personal identity code":
	// birth, a sign for the century, individual number, and the remainder by 31. From
	// 900 on the numbers are temporary or for tests.
	FIHETU: {"FI",
		func(c []byte) bool { return hetu(c) && c[7] < '9' },
		func(c []byte) bool { return hetu(c) && c[7] == '9' },
		func(dst, like []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(dst, 1+draw(28), 2)
			dst = appendDigits(dst, 1+draw(12), 2)
			dst = append(appendDigits(dst, draw(100), 2), like[6])
			dst = appendDigits(dst, 900+draw(100), 3)
			return append(dst, hetuSign(dst[at:]))
		},
	},

	// Ustawa o ewidencji ludności: birth with the century in its month, serial, and a
	// digit from the weights 1, 3, 7, 9. Months from 61 on are of the 23rd century.
	PLPESEL: {"PL",
		func(c []byte) bool { return pesel(c) && (c[2] < '4' || c[2] >= '8') },
		func(c []byte) bool { return pesel(c) && '6' <= c[2] && c[2] < '8' },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(dst, draw(100), 2)
			dst = appendDigits(dst, 61+draw(12), 2)
			dst = appendDigits(dst, 1+draw(28), 2)
			dst = appendDigits(dst, draw(10_000), 4)
			return append(dst, peselDigit(dst[at:]))
		},
	},

	// Bundesamt für Sozialversicherungen, "AHV-Nummer": 756, nine digits drawn at
	// random, and the check digit of EAN-13. No range; 7569999 is one number in ten
	// thousand.
	CHAHV: {"CH",
		func(c []byte) bool { return ahv(c) },
		func(c []byte) bool { return ahv(c) && string(c[:7]) == "7569999" },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, "7569999"...), draw(100_000), 5)
			return append(dst, eanDigit(dst[at:]))
		},
	},

	// Receita Federal, Instrução Normativa RFB 1548/2015: two digits modulo 11. No
	// range; 999 in front is one number in a thousand.
	BRCPF: {"BR",
		func(c []byte) bool { return cpf(c) },
		func(c []byte) bool { return cpf(c) && string(c[:3]) == "999" },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, "999"...), draw(999_999), 6)
			dst = append(dst, cpfDigit(dst[at:]))
			return append(dst, cpfDigit(dst[at:]))
		},
	},

	// UIDAI, "Aadhaar number": twelve digits, Verhoeff, not 0 or 1 in front.
	INAadhaar: {"IN",
		func(c []byte) bool { return len(c) == 12 && digits(c) && c[0] > '1' && Verhoeff(c) },
		func(c []byte) bool { return len(c) == 12 && digits(c) && c[0] == '1' && Verhoeff(c) },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, '1'), draw(10_000_000_000), 10)
			return append(dst, VerhoeffDigit(dst[at:]))
		},
	},

	// Employment and Social Development Canada, "Social Insurance Number": nine
	// digits, Luhn, no 0 and no 8 in front.
	CASIN: {"CA",
		func(c []byte) bool { return len(c) == 9 && digits(c) && c[0] != '0' && c[0] != '8' && Luhn(c) },
		func(c []byte) bool { return len(c) == 9 && digits(c) && c[0] == '0' && Luhn(c) },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, '0'), draw(10_000_000), 7)
			return append(dst, LuhnDigit(dst[at:]))
		},
	},

	// GB 11643-1999: place, birth, serial, ISO/IEC 7064 MOD 11-2. No province is 99.
	CNRIC: {"CN",
		func(c []byte) bool { return ric(c) && province(number(c[:2])) },
		func(c []byte) bool { return ric(c) && c[0] == '9' && c[1] == '9' },
		func(dst, _ []byte, draw func(int) int) []byte {
			at := len(dst)
			dst = appendDigits(append(dst, "99"...), draw(10_000), 4)
			dst = appendDigits(dst, 1930+draw(80), 4)
			dst = appendDigits(dst, 1+draw(12), 2)
			dst = appendDigits(dst, 1+draw(28), 2)
			dst = appendDigits(dst, draw(1000), 3)
			return append(dst, ricSign(dst[at:]))
		},
	},
}

// Country is the country whose state gives out a national kind, in ISO 3166 letters,
// and empty for other kinds.
func (k Kind) Country() string {
	if !k.National() {
		return ""
	}
	return schemes[k].country
}

// ValidNational checks a national number in its compact form, check digits and all.
// FIHETU keeps its sign for the century.
func ValidNational(k Kind, c []byte) bool { return k.National() && schemes[k].valid(c) }

// ReservedNational reports whether a number lies in the range IssueNational writes to.
func ReservedNational(k Kind, c []byte) bool { return k.National() && schemes[k].reserved(c) }

// IssueNational appends a number of the kind that nobody has. like is a valid number
// of the kind, and draw returns a number below n, evenly.
func IssueNational(k Kind, dst, like []byte, draw func(n int) int) []byte {
	return schemes[k].issue(dst, like, draw)
}

// untilRight draws bodies until one has check digits: about one in eleven has none.
func untilRight(dst []byte, try func([]byte) ([]byte, bool)) []byte {
	for at := len(dst); ; dst = dst[:at] {
		var ok bool
		if dst, ok = try(dst); ok {
			return dst
		}
		dst = dst[:at]
	}
}

func nino(c []byte) bool {
	return len(c) == 9 && isUpper(c[0]) && isUpper(c[1]) && bytes.IndexByte([]byte("DFIOQUV"), c[1]) < 0 &&
		digits(c[2:8]) && 'A' <= c[8] && c[8] <= 'D'
}

// nhsDigit is 0 where there is none.
func nhsDigit(c []byte) byte {
	switch check := 11 - weighted(c, 10, 9, 8, 7, 6, 5, 4, 3, 2)%11; check {
	case 11:
		return '0'
	case 10:
		return 0
	default:
		return byte('0' + check)
	}
}

func idnr(c []byte) bool {
	if len(c) != 11 || !digits(c) {
		return false
	}
	var count [10]int
	for _, d := range c[:10] {
		count[d-'0']++
	}
	twice, thrice := 0, 0
	for _, n := range count {
		switch {
		case n == 2:
			twice++
		case n == 3:
			thrice++
		case n > 3:
			return false
		}
	}
	return twice+thrice == 1 && Mod11And10(c[:10]) == c[10]
}

func nir(c []byte) bool {
	if len(c) != 15 || !digits(c[:5]) || !digits(c[7:]) || !isDigit(c[5]) {
		return false
	}
	if !isDigit(c[6]) && (c[5] != '2' || c[6] != 'A' && c[6] != 'B') {
		return false
	}
	switch m := number(c[3:5]); {
	case 1 <= m && m <= 12, m == 20, 30 <= m && m <= 42, m >= 50:
	default:
		return false
	}
	return string(c[5:7]) != "00" && string(c[7:10]) != "000" && string(c[10:13]) != "000" &&
		number(c[13:]) == 97-nirRest(c)
}

func nirRest(c []byte) int {
	var body [13]byte
	copy(body[:], c)
	switch body[6] {
	case 'A':
		body[5], body[6] = '1', '9'
	case 'B':
		body[5], body[6] = '1', '8'
	}
	return number(body[:]) % 97
}

func dni(c []byte) bool {
	return len(c) == 9 && (isDigit(c[0]) || 'X' <= c[0] && c[0] <= 'Z') && digits(c[1:8]) && c[8] == dniLetter(c)
}

func dniLetter(c []byte) byte {
	first := int(c[0] - '0')
	if c[0] >= 'X' {
		first = int(c[0] - 'X')
	}
	return "TRWAGMYFPDXBNJZSQVHLCKE"[(first*10_000_000+number(c[1:8]))%23]
}

const cfMonths = "ABCDEHLMPRST"

// cfDigit reads a digit that may be written as one of the letters that tell two
// persons with the same code apart.
func cfDigit(c byte) (int, bool) {
	if isDigit(c) {
		return int(c - '0'), true
	}
	i := bytes.IndexByte([]byte("LMNPQRSTUV"), c)
	return i, i >= 0
}

func cf(c []byte) bool {
	if len(c) != 16 {
		return false
	}
	var d [16]int
	for i, b := range c {
		switch i {
		case 6, 7, 9, 10, 12, 13, 14:
			n, ok := cfDigit(b)
			if !ok {
				return false
			}
			d[i] = n
		default:
			if !isUpper(b) {
				return false
			}
		}
	}
	dd := d[9]*10 + d[10]
	if dd > 40 {
		dd -= 40
	}
	return dd >= 1 && dd <= 31 && bytes.IndexByte([]byte(cfMonths), c[8]) >= 0 && c[15] == cfLetter(c)
}

// cfOdd is what a character counts at an odd place: digits and the letters from A to
// J alike, then K to Z.
var cfOdd = [26]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}

func cfLetter(c []byte) byte {
	sum := 0
	for i, b := range c[:15] {
		n := int(b - 'A')
		if isDigit(b) {
			n = int(b - '0')
		}
		if i%2 == 0 {
			n = cfOdd[n]
		}
		sum += n
	}
	return byte('A' + sum%26)
}

func bsn(c []byte) bool {
	return len(c) == 9 && digits(c) && string(c) != "000000000" && weighted(c, 9, 8, 7, 6, 5, 4, 3, 2, -1)%11 == 0
}

func nrn(c []byte) bool {
	if len(c) != 11 || !digits(c) || number(c[2:4])%20 > 12 || number(c[2:4]) >= 60 || number(c[4:6]) > 31 {
		return false
	}
	check := number(c[9:])
	return check == 97-nrnRest(c, false) || check == 97-nrnRest(c, true)
}

func nrnRest(c []byte, late bool) int {
	n := number(c[:9])
	if late {
		n += 2_000_000_000
	}
	return n % 97
}

func pnr(c []byte) bool {
	if len(c) == 12 {
		switch string(c[:2]) {
		case "18", "19", "20":
			c = c[2:]
		}
	}
	if len(c) != 10 || !digits(c) {
		return false
	}
	dd := number(c[4:6])
	if dd > 60 {
		dd -= 60
	}
	return day(number(c[2:4]), dd) && string(c[6:9]) != "000" && Luhn(c)
}

func fnr(c []byte) bool {
	if len(c) != 11 || !digits(c) {
		return false
	}
	dd, mm := number(c[:2]), number(c[2:4])
	if dd > 40 {
		dd -= 40
	}
	if mm > 80 {
		mm -= 80
	}
	var own [11]byte
	full, ok := fnrDigits(append(own[:0], c[:9]...))
	return ok && day(mm, dd) && string(full) == string(c)
}

// fnrDigits appends the two check digits to nine digits, if they have any.
func fnrDigits(c []byte) ([]byte, bool) {
	body := c[len(c)-9:]
	first := (11 - weighted(body, 3, 7, 6, 1, 8, 9, 4, 5, 2)%11) % 11
	if first == 10 {
		return c, false
	}
	second := (11 - (weighted(body, 5, 4, 3, 2, 7, 6, 5, 4, 3)+2*first)%11) % 11
	if second == 10 {
		return c, false
	}
	return append(c, byte('0'+first), byte('0'+second)), true
}

func hetu(c []byte) bool {
	if len(c) != 11 || !digits(c[:6]) || !digits(c[7:10]) || bytes.IndexByte([]byte("+-YXWVUABCDEF"), c[6]) < 0 {
		return false
	}
	return day(number(c[2:4]), number(c[:2])) && number(c[7:10]) >= 2 && c[10] == hetuSign(c)
}

func hetuSign(c []byte) byte {
	return "0123456789ABCDEFHJKLMNPRSTUVWXY"[(number(c[:6])*1000+number(c[7:10]))%31]
}

func pesel(c []byte) bool {
	return len(c) == 11 && digits(c) && day(number(c[2:4])%20, number(c[4:6])) && c[10] == peselDigit(c)
}

func peselDigit(c []byte) byte {
	return byte('0' + (10-weighted(c, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3)%10)%10)
}

func ahv(c []byte) bool {
	return len(c) == 13 && digits(c) && string(c[:3]) == "756" && c[12] == eanDigit(c)
}

func eanDigit(c []byte) byte {
	return byte('0' + (10-weighted(c, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3)%10)%10)
}

func cpf(c []byte) bool {
	if len(c) != 11 || !digits(c) || bytes.Count(c, c[:1]) == 11 {
		return false
	}
	return c[9] == cpfDigit(c[:9]) && c[10] == cpfDigit(c[:10])
}

// cpfDigit weighs the last digit 2, the one before it 3, and so on.
func cpfDigit(c []byte) byte {
	sum := 0
	for i, d := range c {
		sum += (len(c) + 1 - i) * int(d-'0')
	}
	if check := 11 - sum%11; check < 10 {
		return byte('0' + check)
	}
	return '0'
}

// province reports whether the first two digits are in use (GB/T 2260).
func province(n int) bool {
	switch {
	case 11 <= n && n <= 15, 21 <= n && n <= 23, 31 <= n && n <= 37, 41 <= n && n <= 46, 50 <= n && n <= 54,
		61 <= n && n <= 65, n == 71, 81 <= n && n <= 83:
		return true
	}
	return false
}

func ric(c []byte) bool {
	if len(c) != 18 || !digits(c[:17]) {
		return false
	}
	century := string(c[6:8])
	return (century == "18" || century == "19" || century == "20") && day(number(c[10:12]), number(c[12:14])) &&
		c[17] == ricSign(c)
}

func ricSign(c []byte) byte {
	return "10X98765432"[weighted(c, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11]
}
