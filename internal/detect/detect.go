// Package detect finds personal data and secrets in text and in the leaves of JSON
// documents: e-mail addresses, telephone numbers, IBANs, payment cards, national
// numbers of seventeen countries, IP addresses, wallets, dates of birth, names and
// addresses by their key, and secrets by their prefix or by their key.
//
// It goes over a text once, word by word, and looks closer only where something may
// begin: at an @, a plus, a parenthesis, a digit, a prefix a token is known by.
// Everything that has check digits is checked. What a number without them means is
// decided by how it is written and by the key or the word in front of it; a bare run
// of digits under no telling key is nothing.
//
// What it cannot see: names, addresses and free text under keys that do not tell;
// numbers split over several leaves; what is encoded twice; pictures.
package detect

import (
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/ident"
)

// Confidence is how sure a finding is.
type Confidence uint8

// The confidences, least first.
const (
	Possible Confidence = iota + 1 // written as the kind is, nothing to check, or many numbers pass the check
	Likely                         // check digits or a rare form, or a telling key
	Certain                        // several signs at once
)

// String returns the confidence in lower case.
func (c Confidence) String() string {
	switch c {
	case Possible:
		return "possible"
	case Likely:
		return "likely"
	case Certain:
		return "certain"
	default:
		return "unknown"
	}
}

// Encoding is how a value was wrapped.
type Encoding uint8

// The encodings.
const (
	Plain   Encoding = iota // not wrapped
	Base64                  // RFC 4648, either alphabet, padded or not
	Hex                     // RFC 4648, section 8
	Percent                 // RFC 3986, section 2.1
	JSON                    // a string inside a JSON document inside a string, with escapes of its own
)

// Finding is one value found. Start and End are bytes of the text that was scanned.
// If it was wrapped, they are those of the whole wrapped run, and Kind is that of the
// first thing in it.
type Finding struct {
	Kind       ident.Kind
	Start, End int
	Confidence Confidence
	Encoding   Encoding
}

// Scanner scans. It may be used by many at once.
type Scanner struct {
	passes sync.Pool // of *pass
	walks  sync.Pool // of *walk
}

// New returns a scanner.
func New() *Scanner {
	return &Scanner{
		passes: sync.Pool{New: func() any { return new(pass) }},
		walks:  sync.Pool{New: func() any { return &walk{dec: new(jsontext.Decoder)} }},
	}
}

// ScanText appends what it finds in the text to dst, in order and without overlaps.
// key is that of the key the text stands under; 0 says nothing. A text that is itself
// a JSON object or array is read as one. dst may have room left over from a call
// before; apart from it nothing is allocated for texts without wrapped values.
func (s *Scanner) ScanText(dst []Finding, text []byte, key Key) []Finding {
	if inner, ok := s.nested(dst, text, key); ok {
		return inner
	}
	p := s.passes.Get().(*pass)
	dst = p.scan(dst, text, key, 1)
	s.passes.Put(p)
	return dst
}
