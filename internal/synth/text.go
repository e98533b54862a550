package synth

import (
	"bytes"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/detect"
	"sallyport/internal/ident"
)

// subject is what the name of a field says it is about: a kind of personal data, or
// one of those below.
type subject uint16

const (
	aboutNothing subject = 0
	aboutBirth           = subject(ident.BirthDate)
	aboutGiven   subject = iota + 256
	aboutFamily
	aboutCity
	aboutPostcode
	aboutCountry
	aboutCurrency
	aboutLanguage
	aboutCompany
	aboutTitle
	aboutProse
	aboutURL
	aboutColour
	aboutTime
	aboutCount
	aboutAmount
	aboutAge
	aboutYear
	aboutPercent
	aboutFlag
)

// subjects are by the last word of a name, or by all of it without what separates
// words. They come before what package detect makes of it.
var subjects = func() map[string]subject {
	m := map[string]subject{}
	for s, words := range map[subject]string{
		aboutGiven: "firstname givenname forename vorname prenom", aboutFamily: "lastname familyname surname nachname",
		aboutCity: "city town ort stadt ville", aboutPostcode: "zip zipcode postcode postalcode plz", aboutCountry: "country countrycode land",
		aboutCurrency: "currency currencycode", aboutLanguage: "language locale lang", aboutCompany: "company organisation organization employer vendor supplier firm",
		aboutTitle: "title subject label headline product", aboutProse: "description comment comments note notes summary body message text reason remark",
		aboutURL: "url uri link href website homepage", aboutColour: "color colour", aboutTime: "at timestamp datetime created updated modified",
		aboutCount: "count quantity qty stock attempts retries", aboutAmount: "amount price total cost balance fee sum rate weight",
		aboutAge: "age", aboutYear: "year", aboutPercent: "percent percentage discount", aboutFlag: "active enabled deleted archived verified is has",
	} {
		for w := range strings.FieldsSeq(words) {
			m[w] = s
		}
	}
	return m
}()

// subjectOf is what a field is about that stands in what is called under.
func subjectOf(name, under string) subject {
	words := nameWords(name)
	if len(words) == 0 {
		return aboutNothing
	}
	if s, ok := subjects[strings.Join(words, "")]; ok {
		return s
	}
	if s, ok := subjects[words[len(words)-1]]; ok {
		return s
	}
	if words[0] == "is" || words[0] == "has" {
		return aboutFlag
	}
	key := detect.KeyOf([]byte(name)).Under(detect.KeyOf([]byte(under)))
	for _, k := range personalKinds {
		if key.Has(k) {
			return subject(k)
		}
	}
	if words[len(words)-1] == "name" {
		return aboutTitle
	}
	return aboutNothing
}

// personalKinds are in the order in which a name that suggests several is read.
var personalKinds = func() []ident.Kind {
	kinds := []ident.Kind{
		ident.Email, ident.Phone, ident.IBAN, ident.Card, ident.IPv4, ident.IPv6, ident.Bitcoin, ident.Ethereum,
		ident.BirthDate, ident.Secret, ident.Address, ident.Name,
	}
	for _, k := range ident.Kinds() {
		if k.National() {
			kinds = append(kinds, k)
		}
	}
	return kinds
}()

// nameWords are the words of a name in small letters.
func nameWords(name string) []string {
	var words []string
	start := true
	for i, c := range []byte(name) {
		capital := 'A' <= c && c <= 'Z'
		switch {
		case capital:
			if start || i > 0 && !('A' <= name[i-1] && name[i-1] <= 'Z') {
				words, start = append(words, ""), false
			}
			words[len(words)-1] += string(rune(c + 'a' - 'A'))
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c >= 0x80:
			if start {
				words, start = append(words, ""), false
			}
			words[len(words)-1] += string([]byte{c})
		default:
			start = true
		}
	}
	return words
}

// kind is the type of a field of which nothing else is known.
func (s subject) kind() string {
	switch s {
	case aboutTime:
		return kindTime
	case aboutBirth:
		return kindDate
	case aboutCount, aboutAge, aboutYear, aboutPercent:
		return "int"
	case aboutAmount:
		return kindNumber
	case aboutFlag:
		return kindBool
	}
	return kindString
}

// personal is the kind of personal data a field is about, or 0.
func (s subject) personal() ident.Kind {
	switch {
	case s > 0 && s < aboutGiven:
		return ident.Kind(s)
	case s == aboutGiven || s == aboutFamily:
		return ident.Name
	case s == aboutCity || s == aboutPostcode:
		return ident.Address
	}
	return 0
}

// numeric reports whether numbers about it are somebody's.
func (s subject) numeric() bool {
	k := s.personal()
	return k == ident.Phone || k == ident.Card || k.National()
}

// countless reports whether any number of strings about it can be made that differ.
func (s subject) countless() bool {
	switch k := s.personal(); k {
	case 0, ident.Email, ident.Phone, ident.IBAN, ident.Name, ident.Address, ident.Secret:
		return true
	default:
		return false
	}
}

// numbers are those of a field of which only the name is known.
func (s subject) numbers(whole bool) (Range, int) {
	switch s {
	case aboutCount:
		return Range{1, 21, million}, 0
	case aboutAge:
		return Range{18, 91, million}, 0
	case aboutYear:
		return Range{1990, 2027, million}, 0
	case aboutPercent:
		return Range{0, 101, million}, 0
	case aboutAmount:
		if !whole {
			return Range{1, 500, million}, 2
		}
	}
	if whole {
		return Range{1, 1001, million}, 0
	}
	return Range{0, 1000, million}, 2
}

// Our own words. No given or family name is one that is known to be borne.
var (
	plainWords = strings.Fields("amber anchor apple arrow autumn badge basil beacon birch bridge bronze button cabin candle canyon cedar " +
		"cherry clover cobalt copper coral cotton cradle dahlia dune ember fable feather fern garden ginger glacier " +
		"harbor hazel indigo island ivory jasper kettle lantern lemon linen maple marble meadow mirror nutmeg olive " +
		"orchard pebble pepper quartz ribbon saddle silver spruce sunday thistle timber tulip velvet walnut willow zephyr")
	givenNames = strings.Fields("Averlin Belothy Cadrien Dorivane Elsimar Feroline Galvindra Hestrel Ilvander Jorabeth Keldamir Lirosanne " +
		"Maveline Noridell Ostrevan Pelorine Quenlis Rosamel Sedrivane Talwynet Ulmerin Vestalore Wendaric Xanoline Yorvandel Zelimarre")
	familyFronts = strings.Fields("Amber Birch Candle Copper Dune Ember Fable Feather Ginger Glacier Indigo Kettle Lantern Marble Nutmeg Pebble Quartz Ribbon Thistle Velvet")
	familyBacks  = strings.Fields("quill wick vane thorpe mantle spindle gable latch hollow furrow sprig tassel")
	streetWords  = strings.Fields("Way Row Walk Rise Passage Steps")
	townFronts   = strings.Fields("Port Upper Lower New Old East West Little Great Saint")
	countries    = strings.Fields("AT BE BR CA CH DE DK ES FI FR GB IE IN IT JP NL NO PL PT SE US")
	currencies   = strings.Fields("EUR USD GBP CHF SEK NOK DKK PLN JPY CAD")
	languages    = strings.Fields("en de fr es it nl sv pl pt fi")
	colours      = strings.Fields("black blue brown green grey orange purple red white yellow")
	companyBacks = strings.Fields("Works Supply Labs Trading Foundry Systems")
	hosts        = strings.Fields("example.com example.net example.org") // RFC 2606
)

const tokenDigits = "abcdefghijkmnpqrstuvwxyz23456789"

// token appends at least four characters that are different for each number below
// size.
func token(dst []byte, number, size uint64) []byte {
	for i := 0; i < 4 || size > 1; i++ {
		dst = append(dst, tokenDigits[number&31])
		number, size = number>>5, (size+31)>>5
	}
	return dst
}

// text makes a string for row n.
func (g *Generator) text(f *fieldPlan, d *dice, n uint64) []byte {
	switch {
	case f.unique:
		return g.uniqueText(f, d, n)
	case f.distinct > 0:
		at := f.rank(d, f.distinct)
		*d = dice(mix(f.salt ^ mix(^at)))
		if len(f.shape.Patterns) == 0 && f.about == aboutNothing && len(f.shape.Lengths) == 0 {
			return numbered(at)
		}
	}
	if f.about != aboutNothing && (f.about.personal() != 0 || f.shape.Kind == "") {
		return made(nil, f.about, d)
	}
	switch {
	case f.shape.Kind == "":
		return append(append([]byte(d.of(plainWords)), ' '), d.of(plainWords)...)
	case len(f.shape.Patterns) > 0:
		for range 8 {
			pattern := pick(d, f.shape.Patterns)
			if strings.Count(pattern, " ") > 1 && !strings.Contains(pattern, "#") {
				break // words of our own read better
			}
			if text := fill(pattern, d, nil); g.nobodys(text, f.name) {
				return text
			}
		}
	}
	return prose(f, d)
}

// numbered is one or more words that are different for each number.
func numbered(n uint64) []byte {
	text := []byte(plainWords[n%64])
	for n /= 64; n > 0; n /= 64 {
		text = append(append(text, ' '), plainWords[n%64]...)
	}
	return text
}

// nobodys reports whether nothing personal is found in a text.
func (g *Generator) nobodys(text []byte, name string) bool {
	g.room = g.scan.ScanText(g.room[:0], text, detect.KeyOf([]byte(name)))
	return len(g.room) == 0
}

func (g *Generator) uniqueText(f *fieldPlan, d *dice, n uint64) []byte {
	rows := max(f.table.rows, 2)
	if f.pattern != "" {
		at := permute(n, f.patternSize, f.salt)
		if text := fill(f.pattern, d, &at); g.nobodys(text, f.name) {
			return text
		}
	}
	at := permute(n, rows, f.salt)
	word := d.of(plainWords)
	switch f.about.personal() {
	case ident.Email:
		return append(append(token(append([]byte(word), '.'), at, rows), '@'), d.of(hosts)...)
	case ident.Phone:
		return append([]byte("+4900"), padded(at, 9)...)
	case ident.IBAN:
		return ident.IssueIBAN(nil, []byte("DE89370400440532013000"), func(n int) int {
			digit := int(at % uint64(n))
			at /= uint64(n)
			return digit
		})
	case ident.Name:
		text := append([]byte(d.of(givenNames)), ' ')
		if f.about == aboutGiven || f.about == aboutFamily {
			text = text[:0]
		}
		first := len(text)
		for size := rows; size > 1 || len(text)-first < 6; size = (size + 59) / 60 {
			text = append(text, "bdfghjklmnprstv"[at%15], "aeio"[at/15%4])
			at /= 60
		}
		text[first] -= 'a' - 'A'
		return text
	case ident.Address:
		return append(strconv.AppendUint(nil, at+1, 10), " "+capital(word)+" "+d.of(streetWords)...)
	case ident.Secret:
		return token([]byte("synthetic-"), at, rows)
	}
	if f.about == aboutURL {
		return token([]byte("https://"+d.of(hosts)+"/"+word+"-"), at, rows)
	}
	return token([]byte(word+"-"), at, rows)
}

func padded(n uint64, digits int) string {
	text := strconv.FormatUint(n, 10)
	return strings.Repeat("0", max(0, digits-len(text))) + text
}

func capital(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

// made appends what a field is about, where nobody's is.
func made(dst []byte, about subject, d *dice) []byte {
	add := func(parts ...string) []byte {
		for _, p := range parts {
			dst = append(dst, p...)
		}
		return dst
	}
	family := func() string { return d.of(familyFronts) + d.of(familyBacks) }
	switch about {
	case aboutGiven:
		return add(d.of(givenNames))
	case aboutFamily:
		return add(family())
	case aboutCity:
		return add(d.of(townFronts), " ", capital(d.of(plainWords)))
	case aboutPostcode:
		return add("00", padded(d.below(1000), 3)) // no code of five digits begins so where there are people
	case aboutCountry:
		return add(d.of(countries))
	case aboutCurrency:
		return add(d.of(currencies))
	case aboutLanguage:
		return add(d.of(languages))
	case aboutColour:
		return add(d.of(colours))
	case aboutCompany:
		return add(capital(d.of(plainWords)), " ", capital(d.of(plainWords)), " ", d.of(companyBacks))
	case aboutTitle:
		return add(capital(d.of(plainWords)), " ", d.of(plainWords))
	case aboutURL:
		return token([]byte("https://"+d.of(hosts)+"/"+d.of(plainWords)+"-"), d.below(1<<20), 1<<20)
	case aboutBirth:
		return time.Unix(-631152000+int64(d.below(55*365*86400)), 0).UTC().AppendFormat(dst, time.DateOnly)
	case aboutProse:
		words := 4 + d.draw(9)
		for i := range words {
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = append(dst, d.of(plainWords)...)
		}
		return dst
	}
	switch k := ident.Kind(about); {
	case k == ident.Email:
		return append(add(d.of(plainWords), ".", d.of(plainWords), strconv.FormatUint(10+d.below(990), 10), "@"), d.of(hosts)...)
	case k == ident.Phone:
		return ident.IssuePhone(append(dst, '+'), []byte("12125550100"), true, d.draw)
	case k == ident.IBAN:
		return ident.IssueIBAN(dst, []byte("DE89370400440532013000"), d.draw)
	case k == ident.Card:
		return ident.IssueCard(dst, []byte("4111111111111111"), d.draw)
	case k == ident.IPv4: // RFC 5737
		return add([]string{"192.0.2.", "198.51.100.", "203.0.113."}[d.draw(3)], strconv.Itoa(1+d.draw(254)))
	case k == ident.IPv6: // RFC 3849
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		for i := 6; i < len(a); i++ {
			a[i] = byte(d.draw(256))
		}
		return netip.AddrFrom16(a).AppendTo(dst)
	case k == ident.Bitcoin:
		return ident.MakeBitcoin(dst, []byte("bc1"), true, d.draw)
	case k == ident.Ethereum:
		return ident.MakeEthereum(dst, true, d.draw)
	case k == ident.Secret:
		return token(append(dst, "synthetic-"...), d.next(), 1<<63)
	case k == ident.Name:
		return add(d.of(givenNames), " ", family())
	case k == ident.Address:
		return add(strconv.Itoa(1+d.draw(200)), " ", capital(d.of(plainWords)), " ", d.of(streetWords))
	case k.National():
		return ident.IssueNational(k, dst, []byte("000000-000"), d.draw)
	}
	return add(d.of(plainWords))
}

// digitsOf are the digits of a text as a number that is not 0.
func digitsOf(text []byte) []byte {
	digits := bytes.TrimLeft(bytes.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return r
		}
		return -1
	}, text), "0")
	if len(digits) == 0 {
		return []byte("0")
	}
	return digits
}

// The characters of patterns. Small letters alternate, so that they can be spoken.
const (
	digitSigns   = "0123456789"
	capitalSigns = "ABCDEFGHJKLMNPQRSTUVWXYZ"
	hardSigns    = "bdfghjklmnprstvz"
	softSigns    = "aeiou"
)

// signs are what may stand at a place of a pattern, and whether the next small letter
// is a vowel; "" for what stands for itself.
func signs(c byte, soft bool) (set string, nextSoft bool) {
	switch {
	case c == '#':
		return digitSigns, false
	case c == '^':
		return capitalSigns, true
	case c == '~' && soft:
		return softSigns, false
	case c == '~':
		return hardSigns, true
	}
	return "", false
}

// patternSize is how many strings a pattern allows, at most 2^62.
func patternSize(pattern string) uint64 {
	size, soft := uint64(1), false
	var set string
	for i := range len(pattern) {
		set, soft = signs(pattern[i], soft)
		if hi, lo := bits.Mul64(size, uint64(max(len(set), 1))); hi == 0 && lo <= 1<<62 {
			size = lo
		} else {
			return 1 << 62
		}
	}
	return size
}

// fill makes a string of a pattern: with a number, a different one for each below
// patternSize.
func fill(pattern string, d *dice, number *uint64) []byte {
	dst := make([]byte, 0, len(pattern))
	soft := false
	var set string
	for i := range len(pattern) {
		set, soft = signs(pattern[i], soft)
		switch {
		case set == "":
			dst = append(dst, pattern[i])
		case number == nil:
			dst = append(dst, set[d.draw(len(set))])
		default:
			dst = append(dst, set[*number%uint64(len(set))])
			*number /= uint64(len(set))
		}
	}
	return dst
}

// tokenLike reports whether a pattern allows what token makes behind a word.
func tokenLike(pattern string) bool {
	word, rest, ok := strings.Cut(pattern, "-")
	return ok && strings.Trim(word, "~") == "" && strings.Trim(rest, "~#") == ""
}

// prose is words of our own of about the length that was learned.
func prose(f *fieldPlan, d *dice) []byte {
	length := 24
	if len(f.shape.Lengths) > 0 {
		length = int(min(max(whole(d, f.shape.Lengths), 0), 1<<16))
	}
	var dst []byte
	oneWord := len(f.shape.Words) > 0 && f.shape.Words[len(f.shape.Words)-1].To <= 2
	for len(dst) < length {
		if len(dst) > 0 && !oneWord {
			dst = append(dst, ' ')
		}
		dst = append(dst, d.of(plainWords)...)
	}
	dst = dst[:length]
	if length > 0 && dst[length-1] == ' ' {
		dst[length-1] = 'e'
	}
	return dst
}
