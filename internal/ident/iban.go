package ident

// account is the form of a country's account numbers: the whole length of an IBAN,
// the form of what stands behind the check digits (n digit, a capital letter, c
// either), and how much of that names the bank.
type account struct {
	country string
	form    []byte
	bank    int
}

// forms spells the structures of the SWIFT IBAN registry (ISO 13616): a count, a
// letter, and a stroke behind the bank's identifier.
var forms = []struct{ country, structure string }{
	{"AD", "4n|4n12c"}, {"AE", "3n|16n"}, {"AL", "8n|16c"}, {"AT", "5n|11n"}, {"AZ", "4a|20c"},
	{"BA", "3n|13n"}, {"BE", "3n|9n"}, {"BG", "4a|6n8c"}, {"BH", "4a|14c"}, {"BR", "8n|15n1a1c"},
	{"BY", "4c|4n16c"}, {"CH", "5n|12c"}, {"CR", "4n|14n"}, {"CY", "3n|5n16c"}, {"CZ", "4n|16n"},
	{"DE", "8n|10n"}, {"DK", "4n|10n"}, {"DO", "4c|20n"}, {"EE", "2n|14n"}, {"EG", "4n|21n"},
	{"ES", "4n|16n"}, {"FI", "3n|11n"}, {"FO", "4n|10n"}, {"FR", "5n|5n11c2n"}, {"GB", "4a|14n"},
	{"GE", "2a|16n"}, {"GI", "4a|15c"}, {"GL", "4n|10n"}, {"GR", "3n|4n16c"}, {"GT", "4c|20c"},
	{"HR", "7n|10n"}, {"HU", "3n|21n"}, {"IE", "4a|14n"}, {"IL", "3n|16n"}, {"IQ", "4a|15n"},
	{"IS", "4n|18n"}, {"IT", "1a5n|5n12c"}, {"JO", "4a|4n18c"}, {"KW", "4a|22c"}, {"KZ", "3n|13c"},
	{"LB", "4n|20c"}, {"LC", "4a|24c"}, {"LI", "5n|12c"}, {"LT", "5n|11n"}, {"LU", "3n|13c"},
	{"LV", "4a|13c"}, {"MC", "5n|5n11c2n"}, {"MD", "2c|18c"}, {"ME", "3n|15n"}, {"MK", "3n|10c2n"},
	{"MR", "5n|18n"}, {"MT", "4a|5n18c"}, {"MU", "4a|19n3a"}, {"NL", "4a|10n"}, {"NO", "4n|7n"},
	{"PK", "4a|16c"}, {"PL", "8n|16n"}, {"PS", "4a|21c"}, {"PT", "4n|17n"}, {"QA", "4a|21c"},
	{"RO", "4a|16c"}, {"RS", "3n|15n"}, {"SA", "2n|18c"}, {"SC", "4a|20n3a"}, {"SE", "3n|17n"},
	{"SI", "5n|10n"}, {"SK", "4n|16n"}, {"SM", "1a5n|5n12c"}, {"ST", "4n|17n"}, {"SV", "4a|20n"},
	{"TL", "3n|16n"}, {"TN", "2n|18n"}, {"TR", "5n|17c"}, {"UA", "6n|19c"}, {"VA", "3n|15n"},
	{"VG", "4a|16n"}, {"XK", "4n|12n"},
}

// accounts is indexed by the two letters of a country.
var accounts = func() (table [26 * 26]*account) {
	for _, f := range forms {
		a := &account{country: f.country}
		count := 0
		for _, c := range []byte(f.structure) {
			switch {
			case c == '|':
				a.bank = len(a.form)
			case isDigit(c):
				count = count*10 + int(c-'0')
			default:
				for range count {
					a.form = append(a.form, c)
				}
				count = 0
			}
		}
		table[int(f.country[0]-'A')*26+int(f.country[1]-'A')] = a
	}
	return table
}()

func accountOf(c []byte) *account {
	if len(c) < 5 || !isUpper(c[0]) || !isUpper(c[1]) || !isDigit(c[2]) || !isDigit(c[3]) {
		return nil
	}
	return accounts[int(c[0]-'A')*26+int(c[1]-'A')]
}

// IBANLength is how many characters the IBANs have that begin as c does, and 0 if
// none begin so.
func IBANLength(c []byte) int {
	if a := accountOf(c); a != nil {
		return 4 + len(a.form)
	}
	return 0
}

// ValidIBAN checks country, length, form and the two check digits (ISO 13616-1).
// Check digits that some countries keep inside the account number are not looked at.
func ValidIBAN(c []byte) bool {
	a := accountOf(c)
	if a == nil || len(c) != 4+len(a.form) || c[2] == '0' && c[3] < '2' || c[2] == '9' && c[3] == '9' {
		return false
	}
	for i, f := range a.form {
		switch b := c[4+i]; {
		case isDigit(b) && f != 'a', isUpper(b) && f != 'n':
		default:
			return false
		}
	}
	return Mod97(c[4:], c[:4]) == 1
}

// nobody's bank: no register we know of has a bank of zeros, or one called TEST.
const testBank = "TEST"

// ReservedIBAN reports whether the bank's identifier is one that IssueIBAN writes.
func ReservedIBAN(c []byte) bool {
	a := accountOf(c)
	if a == nil || len(c) != 4+len(a.form) {
		return false
	}
	for i, f := range a.form[:a.bank] {
		if c[4+i] != bankLetter(f, i) {
			return false
		}
	}
	return true
}

func bankLetter(form byte, i int) byte {
	if form == 'a' {
		return testBank[i%len(testBank)]
	}
	return '0'
}

// IssueIBAN appends an IBAN of the same country with a bank that does not exist,
// an account number from draw, which returns a number below n, and right check
// digits. An account number of the form c is written in digits. like is a valid
// IBAN.
func IssueIBAN(dst, like []byte, draw func(n int) int) []byte {
	a := accountOf(like)
	at := len(dst)
	dst = append(dst, like[0], like[1], '0', '0')
	for i, f := range a.form {
		switch {
		case i < a.bank:
			dst = append(dst, bankLetter(f, i))
		case f == 'a':
			dst = append(dst, byte('A'+draw(26)))
		default:
			dst = append(dst, byte('0'+draw(10)))
		}
	}
	seal(dst[at:])
	return dst
}

// seal writes the right check digits into an IBAN (ISO 13616-1) whose own are zeros.
func seal(iban []byte) {
	check := 98 - Mod97(iban[4:], iban[:4])
	iban[2], iban[3] = byte('0'+check/10), byte('0'+check%10)
}

// IBANCountries are the countries that have IBANs.
func IBANCountries() []string {
	all := make([]string, len(forms))
	for i, f := range forms {
		all[i] = f.country
	}
	return all
}

// MakeIBAN appends an IBAN of a country with any bank at all, drawn: for tests that
// need accounts as they are in life.
func MakeIBAN(dst []byte, country string, draw func(n int) int) []byte {
	a := accountOf([]byte(country + "000"))
	at := len(dst)
	dst = append(dst, country[0], country[1], '0', '0')
	for i, f := range a.form {
		switch {
		case f == 'a' || f == 'c' && draw(4) == 0:
			dst = append(dst, byte('A'+draw(26)))
		case i == 0:
			dst = append(dst, byte('1'+draw(9)))
		default:
			dst = append(dst, byte('0'+draw(10)))
		}
	}
	seal(dst[at:])
	return dst
}
