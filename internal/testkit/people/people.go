// Package people makes up persons of many countries, seeded, with the numbers that
// states, banks and networks would give them: all check digits are right, and none
// lies in a range for tests. It is what scanning and scrubbing are measured with.
package people

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"sallyport/internal/ident"
)

// Countries are those persons come from, in ISO 3166 letters.
var Countries = []string{"US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "SE", "NO", "FI", "PL", "CH", "BR", "IN", "CA", "CN"}

// A Person has what a customer's record would have. Values are as people write them.
type Person struct {
	Country        string
	Given, Family  string
	Email          string
	Phone          string // with its country code
	National       string // as written in the country; empty where this package knows no way
	IBAN           string // empty where the country has none
	Card           string
	IDKind         ident.Kind
	ID             string
	Born           string // year-month-day
	Street         string
	IPv4, IPv6     string
	Bitcoin, Ether string
	Password       string
	Token          string
}

// People makes persons.
type People struct{ *rand.Rand }

// New returns people of a seed: equal seeds, equal people.
func New(seed uint64) *People { return &People{rand.New(rand.NewPCG(seed, 0x5eed))} }

func (p *People) pick(list string) string {
	all := strings.Fields(list)
	return all[p.IntN(len(all))]
}

// fill replaces # by a digit, N by one from 2 to 9, X by one from 1 to 9 and @ by a
// capital.
func (p *People) fill(pattern string) string {
	out := []byte(pattern)
	for i, c := range out {
		switch c {
		case '#':
			out[i] = byte('0' + p.IntN(10))
		case 'N':
			out[i] = byte('2' + p.IntN(8))
		case 'X':
			out[i] = byte('1' + p.IntN(9))
		case '@':
			out[i] = byte('A' + p.IntN(26))
		}
	}
	return string(out)
}

func (p *People) random(n int, alphabet string) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[p.IntN(len(alphabet))]
	}
	return string(out)
}

var given = map[string]string{
	"US": "James Mary Linda Robert Tyrone Madison", "GB": "Oliver Amelia Harry Isla Nigel Gemma", "DE": "Jürgen Anja Lukas Heike Günther Franziska",
	"FR": "Élodie Jean-Luc Chloé Thierry Aurélie Rémi", "ES": "José Lucía Íñigo Carmen Javier Begoña", "IT": "Giulia Marco Chiara Luca Ilaria Nicolò",
	"NL": "Daan Femke Joost Sanne Bram Marloes", "BE": "Wout Élise Pieter Lotte Thibault Noor", "SE": "Åsa Björn Linnéa Göran Elsa Sven",
	"NO": "Øyvind Ingrid Håkon Solveig Lars Kari", "FI": "Väinö Aino Jukka Päivi Mikko Helmi", "PL": "Łukasz Agnieszka Wojciech Małgorzata Paweł Zofia",
	"CH": "Urs Reto Ursina Beat Corinne Fabienne", "BR": "João Beatriz Thiago Conceição Luiz Fernanda", "IN": "Priya Arjun Lakshmi Vikram Ananya Rohan",
	"CA": "Liam Maude Étienne Charlotte Noah Olivia", "CN": "Wei Xiuying Jing Lei Fang Yang",
}

var family = map[string]string{
	"US": "Smith Washington Nguyen Ramirez O'Connor Kowalski", "GB": "Jones Patel Hughes MacLeod Okafor Whitfield", "DE": "Müller Schäfer Weiß Krüger Yıldız Baumgartner",
	"FR": "Lefèvre Dubois Benoît N'Diaye Moreau Girard", "ES": "García Muñoz Etxeberria Fernández Ibáñez Rey", "IT": "Rossi D'Angelo Esposito Ferrari Conti Russo",
	"NL": "Jansen Bakker Visser Meijer Smit Dekker", "BE": "Peeters Janssens Dupont Maes Lambert Claes", "SE": "Lindström Åkesson Nyström Öberg Holm Ek",
	"NO": "Hansen Bjørnstad Lund Haugen Strøm Dahl", "FI": "Virtanen Mäkelä Korhonen Hämäläinen Laine Niemi", "PL": "Wiśniewski Zając Kowalczyk Dąbrowska Wójcik Nowak",
	"CH": "Zürcher Favre Bianchi Meier Küng Rochat", "BR": "Silva Souza Gonçalves Araújo Lima Rocha", "IN": "Sharma Iyer Reddy Chatterjee Nair Singh",
	"CA": "Tremblay Roy Campbell Gagnon Singh Wong", "CN": "Wang Li Zhang Liu Chen Zhao",
}

// abroad and home are how numbers are written with the country code and without.
var abroad = map[string][]string{
	"US": {"+1 N0# N## ####", "+1-N0#-N##-####", "+1N0#N######"}, "GB": {"+44 20 7### ####", "+447#########", "+44 7### ######"},
	"DE": {"+49 30 X#######", "+49 (0)171 X######", "+4989X#######"}, "FR": {"+33 6 ## ## ## ##", "+336########"}, "ES": {"+34 6## ### ###", "+349########"},
	"IT": {"+39 3## ### ####", "+3906X#######"}, "NL": {"+31 6 X#######", "+31201######"}, "BE": {"+32 4## ## ## ##", "+322#######"},
	"SE": {"+46 70 ### ## ##", "+4687######"}, "NO": {"+47 9## ## ###", "+474#######"}, "FI": {"+358 40 #######", "+35850#######"},
	"PL": {"+48 5## ### ###", "+4822#######"}, "CH": {"+41 79 ### ## ##", "+4144#######"}, "BR": {"+55 11 9####-####", "+552199#######"},
	"IN": {"+91 9#### #####", "+918#########"}, "CA": {"+1 (N0#) N##-####", "+1N0#N######"}, "CN": {"+86 138 #### ####", "+8613#########"},
}

var home = map[string][]string{
	"US": {"(N0#) N##-####", "N0#-N##-####", "N0#.N##.####", "1-N0#-N##-####"}, "GB": {"020 7### ####", "07### ######", "01632 ######", "0161 ### ####", "07### ### ###"},
	"DE": {"030 X#######", "0171 X######", "089/X######", "(030) X#######"}, "FR": {"06 ## ## ## ##", "01.##.##.##.##"}, "NL": {"06-X#######", "020-X######"},
	"BE": {"04## ## ## ##", "02 ### ## ##"}, "SE": {"070-### ## ##", "08-### ## ##"}, "IT": {"06 X#######"}, "CH": {"079 ### ## ##"},
	"BR": {"(11) 9####-####", "21 9####-####"}, "CA": {"N0#-N##-####"}, "CN": {"138 #### ####"},
}

// ids are the kinds of each country with the forms a number may have before its checks
// are looked at, and how it is written.
var ids = map[ident.Kind]struct {
	country string
	form    func(p *People) string
	written []string // # stands for each next character
}{
	ident.USSSN:  {"US", func(p *People) string { return p.fill("N##X#####") }, []string{"###-##-####", "#########"}},
	ident.GBNINO: {"GB", func(p *People) string { return p.fill("@@######") + p.random(1, "ABCD") }, []string{"## ## ## ## #", "#########"}},
	ident.GBNHS:  {"GB", func(p *People) string { return p.fill("4#########") }, []string{"### ### ####", "##########"}},
	ident.DEIDNr: {"DE", func(p *People) string { return p.fill("X##########") }, []string{"## ### ### ###", "###########"}},
	ident.FRNIR:  {"FR", func(p *People) string { return p.random(1, "12") + p.fill("##") + p.month() + p.fill("75X##X####") }, []string{"# ## ## ## ### ### ##", "###############"}},
	ident.ESDNI:  {"ES", func(p *People) string { return p.random(1, "1234567XY") + p.fill("#######@") }, []string{"#########"}},
	ident.ITCF: {"IT", func(p *People) string {
		return p.fill("@@@@@@##") + p.random(1, "ABCDEHLMPRST") + p.day() + p.fill("H###@")
	}, []string{"################"}},
	ident.NLBSN: {"NL", func(p *People) string { return p.fill("1########") }, []string{"#########"}},
	ident.BENRN: {"BE", func(p *People) string { return p.fill("##") + p.month() + p.day() + p.fill("X####") }, []string{"##.##.##-###.##", "###########"}},
	ident.SEPNR: {"SE", func(p *People) string { return p.fill("##") + p.month() + p.day() + p.fill("X###") }, []string{"######-####", "##########"}},
	ident.NOFNR: {"NO", func(p *People) string { return p.day() + p.month() + p.fill("#######") }, []string{"###### #####", "###########"}},
	ident.FIHETU: {"FI", func(p *People) string {
		return p.day() + p.month() + p.fill("##") + p.random(1, "-A") + p.fill("X##") + p.random(1, "0123456789ABCDEFHJKLMNPRSTUVWXY")
	}, []string{"###########"}},
	ident.PLPESEL:   {"PL", func(p *People) string { return p.fill("##") + p.month() + p.day() + p.fill("#####") }, []string{"###########"}},
	ident.CHAHV:     {"CH", func(p *People) string { return p.fill("756##########") }, []string{"###.####.####.##", "#############"}},
	ident.BRCPF:     {"BR", func(p *People) string { return p.fill("###########") }, []string{"###.###.###-##", "###########"}},
	ident.INAadhaar: {"IN", func(p *People) string { return p.fill("N###########") }, []string{"#### #### ####", "############"}},
	ident.CASIN:     {"CA", func(p *People) string { return p.fill("N########") }, []string{"###-###-###", "### ### ###", "#########"}},
	ident.CNRIC: {"CN", func(p *People) string {
		return "110105" + fmt.Sprint(1940+p.IntN(70)) + p.month() + p.day() + p.fill("###") + p.random(1, "0123456789X")
	}, []string{"##################"}},
}

func (p *People) month() string { return fmt.Sprintf("%02d", 1+p.IntN(12)) }
func (p *People) day() string   { return fmt.Sprintf("%02d", 1+p.IntN(28)) }

// Number returns a valid number of a national kind as it is written, and the written
// form that nothing can be mistaken for where there are several: the first.
func (p *People) Number(kind ident.Kind) (compact, written string) {
	of := ids[kind]
	for {
		c := of.form(p)
		if !ident.ValidNational(kind, []byte(c)) || ident.ReservedNational(kind, []byte(c)) {
			continue
		}
		var out []byte
		next := 0
		for _, b := range []byte(of.written[p.IntN(len(of.written))]) {
			if b == '#' {
				b = c[next]
				next++
			}
			out = append(out, b)
		}
		return c, string(out)
	}
}

var cards = []string{"4###############", "51##############", "2230############", "34#############", "6011############", "3530############", "36############"}

func (p *People) card() string {
	for {
		body := p.fill(cards[p.IntN(len(cards))])
		c := []byte(body[:len(body)-1])
		c = append(c, ident.LuhnDigit(c))
		if !ident.ValidCard(c) || ident.ReservedCard(c) {
			continue
		}
		if len(c) != 16 || p.IntN(2) == 0 {
			return string(c)
		}
		return inFours(string(c))
	}
}

// plain leaves of a name what may stand in an address.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return -1
		}
	}, name)
}

// Next makes a person of a country.
func (p *People) Next(country string) Person {
	one := Person{Country: country, Given: p.pick(given[country]), Family: p.pick(family[country])}
	one.Email = plain(one.Given) + p.pick(". _ - +x") + plain(one.Family) + fmt.Sprint(p.IntN(9999)) + "@" +
		p.pick("gmail.com outlook.com proton.me mail.acme-corp.co.uk firma.de correo.es poste.it uni-west.edu")
	for one.Phone == "" || !ident.ValidPhone(onlyDigits(one.Phone)) {
		one.Phone = p.fill(abroad[country][p.IntN(len(abroad[country]))])
	}
	if forms := home[country]; forms != nil {
		for one.National == "" || country == "US" && strings.Contains(one.National, "555") {
			one.National = p.fill(forms[p.IntN(len(forms))])
		}
	}
	for _, c := range ident.IBANCountries() {
		if c == country {
			iban := string(ident.MakeIBAN(nil, country, p.IntN))
			if p.IntN(2) == 0 {
				iban = inFours(iban)
			}
			one.IBAN = iban
		}
	}
	one.Card = p.card()
	var kinds []ident.Kind
	for _, k := range ident.Kinds() {
		if k.National() && ids[k].country == country {
			kinds = append(kinds, k)
		}
	}
	one.IDKind = kinds[p.IntN(len(kinds))]
	_, one.ID = p.Number(one.IDKind)
	one.Born = fmt.Sprintf("%d-%s-%s", 1935+p.IntN(70), p.month(), p.day())
	one.Street = fmt.Sprintf("%d %s %s", 1+p.IntN(250), p.pick("Oak Mill Station Church Park"), p.pick("Street Road Lane Avenue"))
	one.IPv4 = fmt.Sprintf("%d.%d.%d.%d", 33+p.IntN(90), p.IntN(256), p.IntN(256), 1+p.IntN(254))
	one.IPv6 = fmt.Sprintf("2a02:%x:%x::%x:%d", 0x1000+p.IntN(0xe000), 0x100+p.IntN(0xf00), 0xa0+p.IntN(0xf00), 1+p.IntN(99))
	one.Bitcoin = string(ident.MakeBitcoin(nil, []byte(p.pick("1 3 b")), false, p.IntN))
	one.Ether = string(ident.MakeEthereum(nil, false, p.IntN))
	one.Password = p.pick("correct sunny Tiger Winter blue") + p.random(5, "abcdefghkmnpqrstuvwxyz23456789!?#") + fmt.Sprint(p.IntN(100))
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	switch p.IntN(5) {
	case 0:
		one.Token = "ghp_" + p.random(36, letters)
	case 1:
		one.Token = "AKIA" + p.random(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
	case 2:
		one.Token = "sk_live_" + p.random(24, letters)
	case 3:
		one.Token = "xoxb-" + p.random(12, "0123456789") + "-" + p.random(24, letters)
	case 4:
		one.Token = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+p.random(8, letters)+`"}`)) + "." + p.random(43, letters)
	}
	return one
}

func onlyDigits(s string) []byte {
	var d []byte
	for i, c := range []byte(strings.ReplaceAll(s, "(0)", "")) {
		if '0' <= c && c <= '9' && i >= 0 {
			d = append(d, c)
		}
	}
	return d
}

func inFours(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i += 4 {
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString(s[i:min(i+4, len(s))])
	}
	return out.String()
}

// Planted is one value in a record.
type Planted struct {
	Kind    ident.Kind
	Value   string // as it stands in the leaf
	Wrapped bool   // base64, hexadecimal or percent-encoded there
}

// Record is a person's record as a JSON document, with what was planted in it; all
// else in it is nothing of the kind.
type Record struct {
	Doc     []byte
	Planted []Planted
}

// Record makes a record of a person of any country: members with telling names, a note
// with some of the values in running text, some of them wrapped, and a lot of numbers
// that identify nobody.
func (p *People) Record() Record {
	one := p.Next(Countries[p.IntN(len(Countries))])
	var r Record
	plant := func(k ident.Kind, v string) string {
		r.Planted = append(r.Planted, Planted{Kind: k, Value: v})
		return v
	}
	type object = map[string]any
	customer := object{
		p.pick("first_name firstName given_name vorname"): plant(ident.Name, one.Given),
		p.pick("last_name surname familyName nachname"):   plant(ident.Name, one.Family),
		p.pick("email e_mail contact emailAddress"):       plant(ident.Email, one.Email),
		p.pick("phone mobile telephone phoneNumber tel"):  plant(ident.Phone, one.Phone),
		p.pick("dob birth_date dateOfBirth geburtsdatum"): plant(ident.BirthDate, one.Born),
		"address": plant(ident.Address, one.Street),
		idKey[one.IDKind][p.IntN(len(idKey[one.IDKind]))]: plant(one.IDKind, one.ID),
	}
	doc := object{
		"id":         p.Uint64() >> 12,
		"uuid":       p.uuid(),
		"order_id":   p.fill("ORD-########"),
		"reference":  p.fill("##############"),
		"sha256":     p.random(64, "0123456789abcdef"),
		"etag":       p.random(32, "0123456789abcdef"),
		"created_at": fmt.Sprintf("20%d-%s-%sT%02d:%02d:%02d.%03dZ", 10+p.IntN(16), p.month(), p.day(), p.IntN(24), p.IntN(60), p.IntN(60), p.IntN(1000)),
		"updated":    1_400_000_000_000 + p.Int64N(400_000_000_000),
		"version":    p.fill("X.##.#"),
		"amount":     float64(p.IntN(1_000_000)) / 100,
		"sku":        p.fill("@@-####-@@"),
		"ean":        p.fill("4############"),
		"tracking":   p.fill("1Z@@####################"),
		"tags":       []string{"vip", p.fill("batch-####"), "q" + p.fill("X")},
		"token_type": "Bearer",
		"max_tokens": 4096,
		"customer":   customer,
		"geo":        []float64{float64(p.IntN(180000))/1000 - 90, float64(p.IntN(360000))/1000 - 180},
	}
	if one.IBAN != "" {
		doc[p.pick("iban account bankAccount payout")] = plant(ident.IBAN, one.IBAN)
	}
	if p.IntN(2) == 0 {
		doc["card"] = object{"number": plant(ident.Card, one.Card), "brand": "x", "exp": p.fill("0X/2#")}
	}
	switch p.IntN(6) {
	case 0:
		doc["client_ip"] = plant(ident.IPv4, one.IPv4)
	case 1:
		doc["peer"] = plant(ident.IPv6, one.IPv6)
	case 2:
		doc["payout_to"] = plant(ident.Bitcoin, one.Bitcoin)
	case 3:
		doc["payout_to"] = plant(ident.Ethereum, one.Ether)
	case 4:
		doc["password"] = plant(ident.Secret, one.Password)
	case 5:
		doc["config"] = "export API=" + plant(ident.Secret, one.Token)
	}
	note := fmt.Sprintf("Order %s of %s, build %s, 3 x 499.00 EUR. ", p.fill("#########"), doc["created_at"], p.fill("X.#.#-rc#"))
	switch p.IntN(9) {
	case 0:
		other := p.Next(one.Country)
		note += "Please write to " + plant(ident.Email, other.Email) + ", thanks."
	case 1:
		other := p.Next(one.Country)
		note += "She can be reached at " + plant(ident.Phone, other.Phone) + "."
	case 2:
		if other := p.Next(one.Country); other.National != "" {
			note += "New number: " + plant(ident.Phone, other.National) + " from Monday on."
		}
	case 3:
		other := p.Next(one.Country)
		note += "Paid with " + plant(ident.Card, inFours(strings.ReplaceAll(other.Card, " ", ""))) + " in the shop."
	case 4:
		other := p.Next(one.Country)
		note += idKey[other.IDKind][0] + ": " + plant(other.IDKind, other.ID) + " (checked)"
	case 5:
		wrapped := base64.StdEncoding.EncodeToString([]byte("contact " + one.Email))
		r.Planted = append(r.Planted, Planted{ident.Email, wrapped, true})
		note += "blob " + wrapped
	case 6:
		wrapped := url.QueryEscape("x" + one.Email)
		r.Planted = append(r.Planted, Planted{ident.Email, wrapped, true})
		note += "see https://shop.example/u?mail=" + wrapped + "&page=2"
	case 7:
		wrapped := hex.EncodeToString([]byte("mail=" + one.Email))
		r.Planted = append(r.Planted, Planted{ident.Email, wrapped, true})
		note += "hex " + wrapped
	case 8:
		note += "DB password=" + plant(ident.Secret, one.Password) + " until tomorrow"
	}
	doc["note"] = note
	var err error
	if r.Doc, err = json.Marshal(doc); err != nil {
		panic(err) // maps of strings and numbers
	}
	return r
}

func (p *People) uuid() string {
	h := p.random(32, "0123456789abcdef")
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

// idKey are the names of members that hold a national number.
var idKey = map[ident.Kind][]string{
	ident.USSSN: {"ssn", "socialSecurityNumber"}, ident.GBNINO: {"nino", "national_insurance_number"}, ident.GBNHS: {"nhs_number", "nhsNumber"},
	ident.DEIDNr: {"steuer_id", "steuerIdentifikationsnummer"}, ident.FRNIR: {"nir", "numero_securite_sociale"}, ident.ESDNI: {"dni", "nif"},
	ident.ITCF: {"codice_fiscale", "codiceFiscale"}, ident.NLBSN: {"bsn", "burgerservicenummer"}, ident.BENRN: {"niss", "rijksregisternummer"},
	ident.SEPNR: {"personnummer"}, ident.NOFNR: {"fodselsnummer", "fnr"}, ident.FIHETU: {"hetu", "henkilotunnus"}, ident.PLPESEL: {"pesel"},
	ident.CHAHV: {"ahv_nummer", "ahv"}, ident.BRCPF: {"cpf"}, ident.INAadhaar: {"aadhaar", "aadhaar_number"}, ident.CASIN: {"sin", "social_insurance_number"},
	ident.CNRIC: {"resident_id", "national_id"},
}
