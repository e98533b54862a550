package sandbox

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport/internal/wire"
)

// maxText is the longest text that is made up, in characters.
const maxText = 100_000

// fitsText says why a text does not fit the keywords about strings.
func (f *form) fitsText(text string) error {
	length := utf8.RuneCountInString(text)
	if length < f.largest("minLength", 0) || length > f.smallest("maxLength", 1<<40) {
		return errors.New("no text was found that is as long as its schema wants")
	}
	for _, p := range f.each("pattern") {
		if re := f.g.pattern(p.text); re == nil || !re.MatchString(text) {
			return fmt.Errorf("no text was found that matches %.80s", p.text)
		}
	}
	return nil
}

// string makes a text: of the format, if there is one; else one that matches the
// pattern, if there is one; else one that suits the property's name.
func (f *form) string(name string, d *dice) (string, error) {
	least := f.largest("minLength", 0)
	if least > maxText {
		return "", fmt.Errorf("%d characters are too many to make up", least)
	}
	var last error
	for _, format := range f.each("format") {
		write, known := formats[format.text]
		if !known {
			continue
		}
		for try := range 8 {
			text := write(d.at("format" + strconv.Itoa(try)))
			if short := least - utf8.RuneCountInString(text); short > 0 && endless[format.text] {
				text += strings.Repeat("a", short)
			}
			if last = f.fitsText(text); last == nil {
				return text, nil
			}
		}
	}
	if patterns := f.each("pattern"); len(patterns) > 0 {
		for try, reach := range []int{2, 4, 2, 4, 10, 40, max(least, 1), 2*least + 100} {
			for _, p := range patterns {
				text, err := f.g.matching(p.text, reach, d.at("pattern"+strconv.Itoa(try)))
				if err != nil {
					return "", err
				}
				// Drawing and matching cost more than a step.
				if err := f.g.spend(4 + len(text)/16); err != nil {
					return "", err
				}
				if last = f.fitsText(text); last == nil {
					return text, nil
				}
				// Two patterns may each speak of one end.
				for _, other := range patterns {
					if other == p {
						continue
					}
					end, err := f.g.matching(other.text, reach, d.at("end"+strconv.Itoa(try)))
					if err == nil && f.fitsText(text+end) == nil {
						return text + end, nil
					}
				}
				// A pattern without an end may be followed by anything.
				if short := least - utf8.RuneCountInString(text); short > 0 {
					if padded := text + strings.Repeat("a", short); f.fitsText(padded) == nil {
						return padded, nil
					}
				}
			}
		}
		return "", last
	}
	// A format is an annotation: a text of another form fits as well.
	text := suited(name, d)
	if encoded := f.each("contentEncoding"); len(encoded) > 0 {
		if write, known := encodings[encoded[0].text]; known {
			text = write(d)
		}
	} else if media := f.each("contentMediaType"); len(media) > 0 && strings.HasSuffix(media[0].text, "json") {
		text = `{"id":"` + letters(d, lower32, 12) + `"}`
	}
	if len(text) < least {
		long := bytes.NewBufferString(text)
		for long.Len() < least {
			long.WriteString(" " + pick(d, sentences))
		}
		text = long.String()
	}
	if most := f.smallest("maxLength", maxText); len(text) > most {
		text = text[:most]
		// Cut where a word ends, if that leaves enough.
		if i := strings.LastIndexByte(text, ' '); i >= least && i > 0 {
			text = text[:i]
		}
	}
	// Where it is one that may not be, others of the same length may.
	for try := range 12 {
		if !f.barred(wire.AppendString(nil, text)) {
			break
		}
		text = letters(d, pick(d, []string{"ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789", lower32, "-_."}), max(least, min(len(text), 1+try)))
	}
	return text, f.fitsText(text)
}

// Values that look like what they stand for. Addresses, hosts and names are those
// set aside for examples (RFC 2606, RFC 5737, RFC 3849): nothing that is sent
// there reaches anybody. All of it is ASCII.
var (
	firstNames = []string{"Ada", "Bruno", "Chiara", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena", "Marta", "Noor", "Oskar", "Petra"}
	lastNames  = []string{"Almeida", "Berg", "Costa", "Dahl", "Eriksen", "Fischer", "Garcia", "Hansen", "Ivanova", "Jensen", "Keller", "Lindqvist", "Moreau", "Novak", "Olsen", "Petrov"}
	cities     = []string{"Lisbon", "Bergen", "Turin", "Graz", "Aarhus", "Ghent", "Porto", "Malmo", "Leipzig", "Tartu"}
	countries  = []string{"PT", "NO", "IT", "AT", "DK", "BE", "SE", "DE", "EE", "FR"}
	currencies = []string{"EUR", "SEK", "USD", "GBP", "NOK"}
	states     = []string{"open", "active", "pending", "closed", "done"}
	nouns      = []string{"order", "invoice", "parcel", "account", "contract", "ticket", "meeting", "report", "device", "route", "refund", "profile"}
	adjectives = []string{"late", "new", "regular", "annual", "open", "small", "second", "northern", "shared", "final"}
	companies  = []string{"Northwind", "Harbour", "Lantern", "Juniper", "Cobalt", "Meridian", "Orchard", "Sparrow"}
	sentences  = []string{
		"The parcel arrived on Tuesday.", "Please confirm the address.", "The invoice was paid in full.",
		"A call back was asked for in the afternoon.", "The order contains three items.",
		"The contract runs until the end of the year.", "Nothing else is outstanding.", "The device was replaced.",
	}
	topDomains = []string{"example.com", "example.org", "example.net"}
)

const lower32 = "abcdefghijklmnopqrstuvwxyz234567"

func letters(d *dice, alphabet string, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[d.below(len(alphabet))]
	}
	return string(out)
}

func person(d *dice) string { return pick(d, firstNames) + " " + pick(d, lastNames) }

func email(d *dice) string {
	return strings.ToLower(pick(d, firstNames)+"."+pick(d, lastNames)) + "@" + pick(d, topDomains)
}

func host(d *dice) string {
	return strings.ToLower(pick(d, companies)) + "." + pick(d, topDomains)
}

// instant is a time in a fixed stretch, to the second: a world has no clock.
func instant(d *dice) time.Time {
	first := time.Date(2025, time.January, 1, 6, 0, 0, 0, time.UTC)
	return first.Add(time.Duration(d.below(540*24*3600)) * time.Second)
}

func uuid(d *dice) string {
	var b [16]byte
	for i := range b {
		b[i] = byte(d.below(256))
	}
	b[6] = b[6]&0x0f | 0x40 // RFC 9562, version 4
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func link(d *dice) string {
	return "https://" + host(d) + "/" + pick(d, nouns) + "s/" + letters(d, lower32, 8)
}

// formats are those of JSON Schema 2020-12, section 7.3, and those in wide use: of the
// OpenAPI Format Registry, and numbers that are texts.
var formats = map[string]func(d *dice) string{
	"date-time": func(d *dice) string { return instant(d).Format(time.RFC3339) },
	"date":      func(d *dice) string { return instant(d).Format(time.DateOnly) },
	"time":      func(d *dice) string { return instant(d).Format("15:04:05Z07:00") },
	"duration":  func(d *dice) string { return "PT" + strconv.Itoa(d.between(1, 48)) + "H" },
	"email":     email, "idn-email": email,
	"hostname": host, "idn-hostname": host,
	"ipv4": func(d *dice) string { return "192.0.2." + strconv.Itoa(d.between(1, 254)) },
	"ipv6": func(d *dice) string { return "2001:db8::" + strconv.FormatInt(int64(d.between(1, 0xffff)), 16) },
	"uri":  link, "iri": link, "url": link,
	"uri-reference": func(d *dice) string { return "/" + pick(d, nouns) + "s/" + letters(d, lower32, 8) },
	"iri-reference": func(d *dice) string { return "/" + pick(d, nouns) + "s/" + letters(d, lower32, 8) },
	"uri-template":  func(d *dice) string { return "/" + pick(d, nouns) + "s/{id}" },
	"uuid":          uuid,
	"json-pointer":  func(d *dice) string { return "/" + pick(d, nouns) + "/" + strconv.Itoa(d.below(10)) },
	"relative-json-pointer": func(d *dice) string {
		return strconv.Itoa(d.below(3)) + "/" + pick(d, nouns)
	},
	"password": func(d *dice) string { return letters(d, lower32, 16) },
	"int64":    func(d *dice) string { return strconv.Itoa(d.between(1, 1_000_000)) },
	"uint64":   func(d *dice) string { return strconv.Itoa(d.between(1, 1_000_000)) },
	"decimal": func(d *dice) string {
		return strconv.Itoa(d.between(1, 999)) + "." + letters(d, "0123456789", 2)
	},
	"base64url": func(d *dice) string { return base64.RawURLEncoding.EncodeToString([]byte(pick(d, sentences))) },
	"http-date": func(d *dice) string { return instant(d).Format("Mon, 02 Jan 2006 15:04:05 GMT") },
	"media-range": func(d *dice) string {
		return pick(d, []string{"application/json", "text/plain", "image/png"})
	},
	"commonmark": sentence, "html": func(d *dice) string { return "<p>" + sentence(d) + "</p>" },
	"char":   func(d *dice) string { return letters(d, "abcdefghijklmnopqrstuvwxyz", 1) },
	"regex":  func(d *dice) string { return "^" + pick(d, nouns) + "$" },
	"byte":   func(d *dice) string { return base64.StdEncoding.EncodeToString([]byte(pick(d, sentences))) },
	"binary": func(d *dice) string { return base64.StdEncoding.EncodeToString([]byte(pick(d, sentences))) },
}

// endless are the formats of texts that may go on.
var endless = map[string]bool{"uri": true, "iri": true, "url": true, "uri-reference": true, "iri-reference": true, "json-pointer": true, "password": true}

// encodings are those of contentEncoding (JSON Schema Validation 2020-12, section 8.3).
var encodings = map[string]func(d *dice) string{
	"base64":           formats["byte"],
	"base64url":        func(d *dice) string { return base64.URLEncoding.EncodeToString([]byte(pick(d, sentences))) },
	"base32":           func(d *dice) string { return base32.StdEncoding.EncodeToString([]byte(pick(d, nouns))) },
	"base16":           func(d *dice) string { return strings.ToUpper(hex.EncodeToString([]byte(pick(d, nouns)))) },
	"quoted-printable": func(d *dice) string { return pick(d, sentences) },
}

// hints go by the last word of a property's name.
var hints = map[string]func(d *dice) string{
	"email": email, "mail": email, "to": email, "from": email, "recipient": email, "sender": email,
	"name": person, "customer": person, "user": person, "owner": person, "author": person, "contact": person,
	"firstname": func(d *dice) string { return pick(d, firstNames) },
	"lastname":  func(d *dice) string { return pick(d, lastNames) },
	"company":   func(d *dice) string { return pick(d, companies) + " Ltd" },
	"city":      func(d *dice) string { return pick(d, cities) },
	"country":   func(d *dice) string { return pick(d, countries) },
	"currency":  func(d *dice) string { return pick(d, currencies) },
	"status":    func(d *dice) string { return pick(d, states) },
	"state":     func(d *dice) string { return pick(d, states) },
	"phone":     func(d *dice) string { return "+1 202 555 01" + letters(d, "0123456789", 2) },
	"address": func(d *dice) string {
		return strconv.Itoa(d.between(1, 99)) + " Harbour Street, " + pick(d, cities)
	},
	"url": link, "uri": link, "link": link, "href": link,
	"date": formats["date"], "day": formats["date"],
	"time": formats["date-time"], "at": formats["date-time"], "timestamp": formats["date-time"],
	"created": formats["date-time"], "updated": formats["date-time"],
	"uuid": uuid, "guid": uuid,
	"id":   func(d *dice) string { return letters(d, lower32, 12) },
	"key":  func(d *dice) string { return letters(d, lower32, 12) },
	"text": func(d *dice) string { return sentence(d) }, "body": func(d *dice) string { return sentence(d) },
	"note": func(d *dice) string { return sentence(d) }, "message": func(d *dice) string { return sentence(d) },
	"description": func(d *dice) string { return sentence(d) }, "content": func(d *dice) string { return sentence(d) },
	"summary": func(d *dice) string { return sentence(d) }, "comment": func(d *dice) string { return sentence(d) },
	"reason": func(d *dice) string { return sentence(d) },
}

func sentence(d *dice) string { return pick(d, sentences) + " " + pick(d, sentences) }

// suited is a text for a property of that name.
func suited(name string, d *dice) string {
	words := wordsOf(name)
	if len(words) > 0 {
		last := words[len(words)-1]
		hint, ok := hints[last]
		if !ok && strings.HasSuffix(last, "s") {
			hint, ok = hints[strings.TrimSuffix(last, "s")]
		}
		if joined := strings.Join(words, ""); hints[joined] != nil {
			hint, ok = hints[joined], true
		}
		if ok {
			text := hint(d)
			if last == "id" && len(words) > 1 {
				text = words[0] + "_" + text
			}
			return text
		}
	}
	return pick(d, adjectives) + " " + pick(d, nouns)
}

// wordsOf takes a name in snake_case, kebab-case or camelCase apart.
func wordsOf(name string) []string {
	var words []string
	start := true
	for i, c := range name {
		switch {
		case c >= utf8.RuneSelf:
			return nil
		case !unicode.IsLetter(c):
			start = true
			continue
		case unicode.IsUpper(c) && i > 0 && unicode.IsLower(rune(name[i-1])):
			start = true
		}
		if start {
			words = append(words, "")
			start = false
		}
		words[len(words)-1] += string(unicode.ToLower(c))
	}
	return words
}

// matching makes a text that a pattern matches, with repeats of up to reach where
// the pattern sets no bound. What it cannot do (a word boundary in an odd place)
// shows when the text is checked.
func (g *generator) matching(pattern string, reach int, d *dice) (string, error) {
	re := g.pattern(pattern)
	if re == nil {
		return "", fmt.Errorf("pattern %.80s cannot be read", pattern)
	}
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return "", fmt.Errorf("pattern %.80s: %w", pattern, err)
	}
	w := patternWriter{d: d, reach: reach}
	w.write(tree)
	if w.full {
		return "", fmt.Errorf("the least that matches %.80s is too long to make up", pattern)
	}
	return w.out.String(), nil
}

type patternWriter struct {
	d     *dice
	reach int
	out   strings.Builder
	full  bool
}

func (w *patternWriter) write(re *syntax.Regexp) {
	if w.full = w.full || w.out.Len() > maxText; w.full {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		w.out.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		w.out.WriteRune(w.oneOf(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		w.out.WriteByte("abcdefghijklmnopqrstuvwxyz0123456789"[w.d.below(36)])
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			w.write(sub)
		}
	case syntax.OpAlternate:
		w.write(pick(w.d, re.Sub))
	case syntax.OpStar:
		w.repeat(re.Sub[0], 0, w.reach)
	case syntax.OpPlus:
		w.repeat(re.Sub[0], 1, max(1, w.reach))
	case syntax.OpQuest:
		w.repeat(re.Sub[0], 0, 1)
	case syntax.OpRepeat:
		most := re.Max
		if most < 0 || most > re.Min+w.reach {
			most = re.Min + w.reach
		}
		w.repeat(re.Sub[0], re.Min, most)
	}
}

func (w *patternWriter) repeat(re *syntax.Regexp, least, most int) {
	for range w.d.between(least, most) {
		w.write(re)
	}
}

// oneOf draws from a class, given as pairs of first and last: a letter or digit
// if it has any, then something that can be seen, then anything.
func (w *patternWriter) oneOf(class []rune) rune {
	for _, inside := range [][]rune{{'0', '9', 'A', 'Z', 'a', 'z'}, {'!', '~'}, {0x21, 0xd7ff}, {0, 0xd7ff}, {0xe000, unicode.MaxRune}} {
		var pairs []rune
		total := 0
		for i := 0; i+1 < len(class); i += 2 {
			for j := 0; j < len(inside); j += 2 {
				low, high := max(class[i], inside[j]), min(class[i+1], inside[j+1])
				if low <= high {
					pairs = append(pairs, low, high)
					total += int(high-low) + 1
				}
			}
		}
		if total == 0 {
			continue
		}
		n := rune(w.d.below(total))
		for pair := range slices.Chunk(pairs, 2) {
			if size := pair[1] - pair[0] + 1; n >= size {
				n -= size
				continue
			}
			return pair[0] + n
		}
	}
	return 'a'
}
