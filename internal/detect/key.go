package detect

import (
	"strings"

	"sallyport/internal/ident"
)

// Key is what the name of a member, a column or a word in front of a value says
// about the value: a bit for each kind it may be, and some more.
type Key uint64

const (
	opaque  Key = 1 << (48 + iota) // an id, count, version or the like: a number is most likely nothing else
	generic                        // says nothing itself, so what stands around it counts
	person                         // what it holds is about a person
	strong                         // what it holds is a secret whatever it looks like
	naming                         // a part of a name, if it stands inside a person
	negated                        // of a secret only its length, its type, its expiry
	version                        // of a program: four numbers with dots between them are no address
)

func bit(kinds ...ident.Kind) Key {
	var k Key
	for _, kind := range kinds {
		k |= 1 << kind
	}
	return k
}

// Has reports whether the key suggests the kind.
func (k Key) Has(kind ident.Kind) bool { return k>>kind&1 != 0 }

// national are all national kinds.
var national = func() Key {
	var k Key
	for kind := range ident.Kind(48) {
		if kind.National() {
			k |= bit(kind)
		}
	}
	return k
}()

// vocabulary maps words of names, in lower case and without what separates words, to
// what they say. Names of several words are looked up whole, then by two words next to
// each other, then by single words. wordLengths has for each pair of letters how long
// the words are that begin with it: most words end there.
var vocabulary, wordLengths = func() (map[string]Key, [1024]uint32) {
	m := map[string]Key{}
	say := func(k Key, words string) {
		for w := range strings.FieldsSeq(words) {
			m[w] |= k
		}
	}
	say(bit(ident.Email), "email mail emailaddress mailaddress")
	say(bit(ident.Phone), "phone telephone tel mobile cell fax msisdn telefon telefone telefono téléphone handy phonenumber "+
		"handynummer telefonnummer rufnummer mobil mobilnummer cellphone mobilephone gsm whatsapp celular movil cellulare telefoon "+
		"puhelin phoneno telno mobileno call")
	say(bit(ident.IBAN), "iban bankaccount kontonummer")
	say(bit(ident.Card), "card cardnumber creditcard debitcard cc ccnumber ccnum pan cardno kreditkarte kartennummer carte "+
		"tarjeta paymentcard")
	say(bit(ident.IPv4, ident.IPv6), "ip ipaddress ipaddr clientip remoteip remoteaddr sourceip ipv4 ipv6 xforwardedfor")
	say(bit(ident.Bitcoin, ident.Ethereum), "wallet btc bitcoin eth ethereum walletaddress")
	say(bit(ident.BirthDate), "dob birthdate dateofbirth birthday bday birth born geburtsdatum geburtstag geboren datenaissance "+
		"datedenaissance fechanacimiento fechadenacimiento datadinascita datanascita datanascimento datadenascimento "+
		"geboortedatum fodelsedatum fødselsdato fodselsdato syntymaaika dataurodzenia naissance")
	say(bit(ident.USSSN), "ssn socialsecurity socialsecuritynumber social")
	say(bit(ident.GBNINO), "nino nationalinsurance nationalinsurancenumber ni insurance")
	say(bit(ident.GBNHS), "nhs nhsnumber nhsno")
	say(bit(ident.DEIDNr), "steuerid steueridentifikationsnummer idnr steuernummer steuer identifikationsnummer")
	say(bit(ident.FRNIR), "nir insee securitesociale numerosecuritesociale secu")
	say(bit(ident.ESDNI), "dni nie nif documentonacional")
	say(bit(ident.ITCF), "codicefiscale cf fiscale")
	say(bit(ident.NLBSN), "bsn burgerservicenummer sofinummer")
	say(bit(ident.BENRN), "rijksregisternummer rijksregister nrn niss insz registrenational")
	say(bit(ident.SEPNR), "personnummer pnr samordningsnummer")
	say(bit(ident.NOFNR), "fodselsnummer fødselsnummer fnr personnummer")
	say(bit(ident.FIHETU), "hetu henkilotunnus")
	say(bit(ident.PLPESEL), "pesel")
	say(bit(ident.CHAHV), "ahv avs ahvnummer")
	say(bit(ident.BRCPF), "cpf")
	say(bit(ident.INAadhaar), "aadhaar aadhar uidai")
	say(bit(ident.CASIN), "sin socialinsurance socialinsurancenumber")
	say(bit(ident.CNRIC), "residentid shenfenzheng idcard")
	say(national, "nationalid nationalidnumber nationalidentifier personalid personalnumber identitynumber idnumber taxid tin "+
		"taxpayerid taxnumber identitycard governmentid")
	say(bit(ident.Secret)|strong, "password passwd pwd passphrase secret clientsecret privatekey secretkey passcode passwort kennwort "+
		"motdepasse contrasena wachtwoord secretaccesskey accountkey sharedaccesskey encryptionkey signingkey")
	say(bit(ident.Secret), "token apikey accesskey authkey auth authorization credential credentials bearer accesstoken refreshtoken "+
		"authtoken apitoken sessiontoken bottoken sessioncookie cookie xapikey idtoken")
	say(bit(ident.Name), "firstname lastname surname givenname familyname fullname middlename maidenname vorname nachname prenom "+
		"nomdefamille apellido apellidos cognome forename cardholder cardholdername accountholder holdername patientname "+
		"customername contactname recipientname sendername employeename personname ownername beneficiaryname legalname "+
		"guestname passengername secondname imie nazwisko fornamn efternamn etunimi sukunimi voornaam achternaam")
	say(bit(ident.Address), "street streetaddress address address1 address2 addressline addressline1 addressline2 postaladdress "+
		"homeaddress mailingaddress strasse straße shippingaddress billingaddress adresse anschrift streetname direccion indirizzo")
	say(person, "customer user person contact patient employee client member guest passenger recipient sender owner applicant "+
		"student beneficiary driver holder payee payer tenant traveler traveller subscriber kunde name cardholder author")
	say(generic, "name value number nummer no nr num first last full middle text content data raw display current primary main home work "+
		"private other old new default")
	say(naming, "name first last full middle")
	say(opaque, "id uuid guid hash sha sha1 sha256 sha512 md5 digest checksum etag version ver revision rev commit order sku isbn ean upc "+
		"gtin barcode serial tracking invoice timestamp time created updated epoch ts trace span request correlation nonce offset "+
		"cursor count size length amount total price qty quantity lat lon lng latitude longitude seed port reference ref product "+
		"item batch lot model build asin part transaction ticket case parcel shipment")
	say(version, "version ver revision rev release build firmware driver")
	say(negated, "page next cursor continuation count max min type limit usage expires expiry expiration policy updated changed at "+
		"length strength required enabled url uri endpoint reset hint used remaining ttl scope name csrf counts budget total prompt completion")
	var lengths [1024]uint32
	for w := range m {
		lengths[pair(w[0], w[1])] |= 1 << min(len(w), 31)
	}
	return m, lengths
}()

// pair is a number below 1024 from two letters, the same for both cases.
func pair(a, b byte) int { return int(a&31)<<5 | int(b&31) }

// maxName is the longest name that is looked at.
const maxName = 64

// KeyOf says what a name suggests. Words in it may be separated by anything that is
// no letter and no digit, or by a capital.
func KeyOf(name []byte) Key {
	if len(name) > maxName {
		name = name[len(name)-maxName:]
	}
	var room [maxName]byte
	var ends [16]int // of the words
	flat, words := room[:0], 0
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			newWord := i > 0 && (class[name[i-1]]&(lower|digit) != 0 || i+1 < len(name) && class[name[i-1]]&upper != 0 && class[name[i+1]]&lower != 0)
			if newWord && len(flat) > 0 && words < len(ends)-1 && (words == 0 || ends[words-1] != len(flat)) {
				ends[words] = len(flat)
				words++
			}
			flat = append(flat, c+'a'-'A')
			continue
		}
		if class[c]&(lower|digit|high) != 0 {
			flat = append(flat, c)
			continue
		}
		if len(flat) > 0 && words < len(ends)-1 && (words == 0 || ends[words-1] != len(flat)) {
			ends[words] = len(flat)
			words++
		}
	}
	if words == 0 || ends[words-1] != len(flat) {
		ends[words] = len(flat)
		words++
	}
	if words == 1 {
		return settle(lookup(flat))
	}
	k := lookup(flat) &^ generic
	if k != 0 {
		return settle(k)
	}
	start := 0
	var last, before Key
	for i, end := range ends[:words] {
		before |= last
		last = lookup(flat[start:end])
		k |= last &^ (generic | naming)
		if i+1 < words {
			k |= lookup(flat[start:ends[i+1]]) &^ (generic | naming | opaque | negated | person | version)
		}
		start = end
	}
	if last&naming != 0 && before&(person|opaque) == person {
		k |= bit(ident.Name) // customer_name, userName
	}
	return settle(k)
}

// settle lets what speaks against something win.
func settle(k Key) Key {
	if k.Has(ident.Secret) && k&negated != 0 {
		k &^= bit(ident.Secret) | strong
	}
	if k&opaque != 0 && k.Has(ident.Secret) && k&strong == 0 {
		k &^= bit(ident.Secret) // token_id
	}
	if k&bit(ident.Email, ident.IPv4, ident.Bitcoin) != 0 {
		k &^= bit(ident.Address) // email_address
	}
	return k &^ negated
}

func lookup(word []byte) Key {
	if len(word) < 2 || wordLengths[pair(word[0], word[1])]>>min(len(word), 31)&1 == 0 {
		return 0
	}
	return vocabulary[string(word)]
}

// Under says what a member suggests that stands inside what parent suggests.
func (k Key) Under(parent Key) Key {
	if k&generic == 0 {
		return k
	}
	k |= parent &^ (opaque | person | naming | version)
	if k&naming != 0 && parent&person != 0 {
		k |= bit(ident.Name)
	}
	return k
}
