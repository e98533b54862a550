// Package ident knows the written forms of what points at a person or opens a
// door: which identifying numbers there are, how long they are, how their check
// digits are computed, and which ranges nobody is ever given. It finds nothing in
// a text and hides nothing: detect looks for these forms, pseudonym writes them.
//
// A number is checked and written in its compact form: digits and capital letters
// without spaces, dots, slashes and hyphens; see [Compact].
package ident

// Kind is what a value is.
type Kind uint8

// The kinds.
const (
	Email Kind = iota + 1
	Phone
	IBAN
	Card
	IPv4
	IPv6
	Bitcoin
	Ethereum
	BirthDate
	Secret // a password, key or token
	Name   // of a person, in full or in part
	Address
	USSSN
	GBNINO
	GBNHS
	DEIDNr
	FRNIR
	ESDNI // and NIE
	ITCF
	NLBSN
	BENRN
	SEPNR
	NOFNR
	FIHETU
	PLPESEL
	CHAHV
	BRCPF
	INAadhaar
	CASIN
	CNRIC

	// What nothing finds by its look, and only people declare.

	ID       // an opaque identifier
	Text     // free text
	Date     // any date of a person's life
	kindsEnd // one past the last
)

var kindNames = [kindsEnd]string{
	Email: "email", Phone: "phone", IBAN: "iban", Card: "card", IPv4: "ipv4", IPv6: "ipv6",
	Bitcoin: "bitcoin", Ethereum: "ethereum", BirthDate: "birth-date", Secret: "secret", Name: "name",
	Address: "address", USSSN: "us-ssn", GBNINO: "gb-nino", GBNHS: "gb-nhs", DEIDNr: "de-idnr",
	FRNIR: "fr-nir", ESDNI: "es-dni", ITCF: "it-cf", NLBSN: "nl-bsn", BENRN: "be-nrn", SEPNR: "se-pnr",
	NOFNR: "no-fnr", FIHETU: "fi-hetu", PLPESEL: "pl-pesel", CHAHV: "ch-ahv", BRCPF: "br-cpf",
	INAadhaar: "in-aadhaar", CASIN: "ca-sin", CNRIC: "cn-ric", ID: "id", Text: "text", Date: "date",
}

// String returns the name of the kind, as files and reports have it.
func (k Kind) String() string {
	if k == 0 || k >= kindsEnd {
		return "unknown"
	}
	return kindNames[k]
}

// ParseKind returns the kind of a name.
func ParseKind(name string) (Kind, bool) {
	for k := Kind(1); k < kindsEnd; k++ {
		if kindNames[k] == name {
			return k, true
		}
	}
	return 0, false
}

// Kinds returns all kinds in order.
func Kinds() []Kind {
	all := make([]Kind, 0, kindsEnd-1)
	for k := Kind(1); k < kindsEnd; k++ {
		all = append(all, k)
	}
	return all
}

// National reports whether the kind is a number that a state gives to persons.
func (k Kind) National() bool { return USSSN <= k && k <= CNRIC }

// Class is what a report counts by: all national numbers are one class, and so are
// the versions of IP and the wallets.
func (k Kind) Class() string {
	switch {
	case k.National():
		return "national-id"
	case k == IPv4 || k == IPv6:
		return "ip"
	case k == Bitcoin || k == Ethereum:
		return "wallet"
	default:
		return k.String()
	}
}

// Compact appends the digits and letters of a written number, in capitals, and
// reports whether there was nothing else in it but separators: space, dot, slash,
// hyphen, plus, parentheses and the no-break space.
func Compact(dst, text []byte) ([]byte, bool) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case '0' <= c && c <= '9' || 'A' <= c && c <= 'Z':
			dst = append(dst, c)
		case 'a' <= c && c <= 'z':
			dst = append(dst, c-'a'+'A')
		case c == ' ' || c == '.' || c == '-' || c == '/' || c == '+' || c == '(' || c == ')':
		case c == 0xC2 && i+1 < len(text) && text[i+1] == 0xA0:
			i++
		default:
			return dst, false
		}
	}
	return dst, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func digits(b []byte) bool {
	for _, c := range b {
		if !isDigit(c) {
			return false
		}
	}
	return len(b) > 0
}

// number is the value of up to 18 digits.
func number(b []byte) int {
	n := 0
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n
}

var monthDays = [13]int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// day reports whether there is such a day in some year.
func day(month, day int) bool {
	return 1 <= month && month <= 12 && 1 <= day && day <= monthDays[month]
}

// appendDigits appends n as width digits, with leading zeros.
func appendDigits(dst []byte, n, width int) []byte {
	at := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= at; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}
