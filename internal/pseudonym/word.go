package pseudonym

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// base32 are the characters of tokens: no l, o, 0 and 1, which are read wrongly.
const base32 = "abcdefghijkmnpqrstuvwxyz23456789"

// A token is eleven characters that follow from the value and five that follow from
// those under the domain's key: its tag.
const (
	tokenBody = 11
	tokenTag  = 5
	tokenSize = tokenBody + tokenTag
)

func (d *Domain) token(dst []byte, label string, canonical []byte) []byte {
	src := d.source([]byte(label), canonical)
	at := len(dst)
	for range tokenBody {
		dst = append(dst, base32[src.below(32)])
	}
	return d.tag(dst, label, dst[at:])
}

func (d *Domain) tag(dst []byte, label string, body []byte) []byte {
	sum := d.sum([]byte("tag"), []byte(label), body)
	for _, b := range sum[:tokenTag] {
		dst = append(dst, base32[b&31])
	}
	return dst
}

// ownToken reports whether a value is label, a hyphen, and a token of this domain.
func (d *Domain) ownToken(label string, value []byte) bool {
	rest, ok := bytes.CutPrefix(value, []byte(label+"-"))
	return ok && d.tagged(label, rest)
}

func (d *Domain) tagged(label string, token []byte) bool {
	if len(token) != tokenSize {
		return false
	}
	var want [tokenTag]byte
	return bytes.Equal(d.tag(want[:0], label, token[:tokenBody]), token[tokenBody:])
}

const secretPrefix = "masked"

// secret leaves nothing of the form of a secret, so that nobody takes it for one that
// works.
func (d *Domain) secret(dst, value []byte) []byte {
	return d.token(append(append(dst, secretPrefix...), '-'), secretPrefix, value)
}

// words are our own, for addresses and texts. There are 64.
var words = [64]string{
	"amber", "anchor", "apple", "arrow", "autumn", "badge", "basil", "beacon", "birch", "bridge", "bronze", "button", "cabin", "candle",
	"canyon", "cedar", "cherry", "clover", "cobalt", "copper", "coral", "cotton", "cradle", "dahlia", "dune", "ember", "fable", "feather",
	"fern", "garden", "ginger", "glacier", "harbor", "hazel", "indigo", "island", "ivory", "jasper", "kettle", "lantern", "lemon", "linen",
	"maple", "marble", "meadow", "mirror", "nutmeg", "olive", "orchard", "pebble", "pepper", "quartz", "ribbon", "saddle", "silver", "spruce",
	"sunday", "thistle", "timber", "tulip", "velvet", "walnut", "willow", "zephyr",
}

// exampleDomains are reserved for examples (RFC 2606, section 3).
var exampleDomains = [3]string{"example.com", "example.net", "example.org"}

// email writes word.token@example.…; word and domain follow from the token.
func (d *Domain) email(dst, value []byte) []byte {
	var room [tokenSize]byte
	return d.addressed(dst, d.token(room[:0], "email", bytes.ToLower(bytes.TrimSpace(value))))
}

func (d *Domain) addressed(dst, token []byte) []byte {
	sum := d.sum([]byte("email-words"), token)
	dst = append(append(dst, words[sum[0]%64]...), '.')
	dst = append(append(dst, token...), '@')
	return append(dst, exampleDomains[sum[1]%3]...)
}

func (d *Domain) ownEmail(value []byte) bool {
	dot, at := bytes.IndexByte(value, '.'), bytes.IndexByte(value, '@')
	if dot < 0 || at != dot+1+tokenSize || !d.tagged("email", value[dot+1:at]) {
		return false
	}
	var room [64]byte
	return bytes.Equal(d.addressed(room[:0], value[dot+1:at]), value)
}

// A word of a name is five syllables of 64: 20 bits that follow from the word and 10
// that are their tag. Made-up names, so that no real one is taken for a pseudonym.
const (
	consonants = "bdfghjklmnprstvz"
	vowels     = "aeio"
	nameBits   = 20
	nameTag    = 10
)

func appendSyllables(dst []byte, n uint32) []byte {
	for shift := nameBits + nameTag - 6; shift >= 0; shift -= 6 {
		s := n >> shift & 63
		dst = append(dst, consonants[s>>2], vowels[s&3])
	}
	return dst
}

func (d *Domain) nameTag(body uint32) uint32 {
	sum := d.sum([]byte("tag"), []byte("name"), []byte{byte(body), byte(body >> 8), byte(body >> 16)})
	return (uint32(sum[0]) | uint32(sum[1])<<8) & (1<<nameTag - 1)
}

// word appends what becomes of one word of a name, in lower case.
func (d *Domain) word(dst, low []byte) []byte {
	if utf8.RuneCount(low) == 1 {
		return append(dst, 'x') // an initial
	}
	sum := d.sum([]byte("name"), low)
	body := (uint32(sum[0]) | uint32(sum[1])<<8 | uint32(sum[2])<<16) & (1<<nameBits - 1)
	return appendSyllables(dst, body<<nameTag|d.nameTag(body))
}

// ownWord reports whether a word in lower case is one that word appends.
func (d *Domain) ownWord(low []byte) bool {
	if len(low) == 1 {
		return low[0] == 'x'
	}
	if len(low) != (nameBits+nameTag)/3 {
		return false
	}
	n := uint32(0)
	for i := 0; i < len(low); i += 2 {
		c, v := bytes.IndexByte([]byte(consonants), low[i]), bytes.IndexByte([]byte(vowels), low[i+1])
		if c < 0 || v < 0 {
			return false
		}
		n = n<<6 | uint32(c)<<2 | uint32(v)
	}
	return d.nameTag(n>>nameTag) == n&(1<<nameTag-1)
}

// each calls fn for the runs of letters and of what is no letter, in order.
func each(text []byte, fn func(run []byte, letters bool)) {
	for len(text) > 0 {
		first, _ := utf8.DecodeRune(text)
		letters := nameLetter(first)
		n := bytes.IndexFunc(text, func(r rune) bool { return nameLetter(r) != letters })
		if n < 0 {
			n = len(text)
		}
		fn(text[:n], letters)
		text = text[n:]
	}
}

func nameLetter(r rune) bool { return unicode.IsLetter(r) || unicode.IsMark(r) }

// ownWords reports whether there are words in a text of more than one letter, and all
// of them are pseudonyms.
func (d *Domain) ownWords(text []byte) bool {
	count, own := 0, true
	each(text, func(run []byte, letters bool) {
		if letters && own {
			own = d.ownWord(bytes.ToLower(run))
			if utf8.RuneCount(run) > 1 {
				count++
			}
		}
	})
	return own && count > 0
}

const namePrefix, streetPrefix = "name", "street"

// name replaces each word for itself, so that a first name is the same alone and in
// the full name. Words that are pseudonyms already stay. Digits in between are
// replaced as well; what else separates words stays. What has digits and no word is
// replaced whole, by a token behind prefix.
func (d *Domain) name(dst, value []byte, prefix string) []byte {
	hasWord := false
	each(value, func(run []byte, letters bool) { hasWord = hasWord || letters && utf8.RuneCount(run) > 1 })
	if !hasWord && bytes.ContainsAny(value, "0123456789") {
		return d.token(append(append(dst, prefix...), '-'), prefix, value)
	}
	src := (*source)(nil)
	each(value, func(run []byte, letters bool) {
		if !letters {
			for _, c := range run {
				switch {
				case isDigit(c):
					if src == nil {
						src = d.source([]byte("name-digits"), bytes.ToLower(value))
					}
					c = byte('1' + src.below(9))
				case c >= utf8.RuneSelf:
					c = '.'
				}
				dst = append(dst, c)
			}
			return
		}
		low := bytes.ToLower(run)
		at := len(dst)
		if d.ownWord(low) {
			dst = append(dst, low...)
		} else {
			dst = d.word(dst, low)
		}
		first, size := utf8.DecodeRune(run)
		if unicode.IsUpper(first) {
			upto := at + 1
			if len(run) > size && bytes.Equal(bytes.ToUpper(run), run) {
				upto = len(dst)
			}
			copy(dst[at:upto], bytes.ToUpper(dst[at:upto]))
		}
	})
	return dst
}

// Texts of proseTag words at the end are the tag of those before.
const (
	proseTag   = 3
	leastProse = 4
	mostProse  = 60
)

// prose writes about as many words as there were, of our own.
func (d *Domain) prose(dst, value []byte) []byte {
	n := min(max(len(bytes.Fields(value)), leastProse), mostProse) - proseTag
	src := d.source([]byte("text"), value)
	at := len(dst)
	for i := range n {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, words[src.below(64)]...)
	}
	return d.proseTag(dst, dst[at:])
}

func (d *Domain) proseTag(dst, body []byte) []byte {
	sum := d.sum([]byte("tag"), []byte("text"), body)
	for _, b := range sum[:proseTag] {
		dst = append(append(dst, ' '), words[b%64]...)
	}
	return dst
}

func (d *Domain) ownProse(value []byte) bool {
	body := value
	for range proseTag {
		i := bytes.LastIndexByte(body, ' ')
		if i < 0 {
			return false
		}
		body = body[:i]
	}
	var room [64]byte
	return bytes.Equal(d.proseTag(room[:0], body), value[len(body):])
}
