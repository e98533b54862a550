package wire

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"
	"unicode/utf8"
)

// The limits that hold where Limits says nothing.
const (
	DefaultBytes = 4 << 20
	DefaultDepth = 64
)

// place is where in a message an object stands; it decides which of its members
// are of interest.
type place uint8

const (
	plain place = iota // of no interest: only its grammar is checked
	inMessage
	inParams
	inMeta // params._meta
	inRef  // params.ref
	inResult
)

// slot is where the span of one member of interest is kept.
type slot uint8

const (
	noSlot slot = iota
	slotVersion
	slotID
	slotMethod
	slotParams
	slotResult
	slotError
	slotName
	slotURI
	slotArguments
	slotInputs
	slotCursor
	slotMeta
	slotRef
	slotToken
	slotRequestID
	slotMetaToken
	slotMetaVersion
	slotMetaCapabilities
	slotRefType
	slotRefName
	slotRefURI
	slotResultMeta
	slotResultType
	slotIsError
	slotStructured
	slotContent
	slots
)

// routed are the names of interest at each place. A name that differs from one
// of them only by case is refused: some readers take it for the same. Results
// are left out, since their members are the tool's own affair.
var routed = [...][][]byte{
	inMessage: names("jsonrpc", "id", "method", "params", "result", "error"),
	inParams:  names("name", "uri", "arguments", "inputResponses", "cursor", "_meta", "ref", "progressToken", "requestId"),
	inMeta:    names(MetaProgressToken, MetaProtocolVersion, MetaClientCapabilities),
	inRef:     names("type", "name", "uri"),
	inResult:  nil,
}

func names(s ...string) [][]byte {
	b := make([][]byte, len(s))
	for i := range s {
		b[i] = []byte(s[i])
	}
	return b
}

// route says where the span of a member goes and what its value is.
func route(at place, name []byte) (slot, place) {
	switch at {
	case inMessage:
		switch string(name) {
		case "jsonrpc":
			return slotVersion, plain
		case "id":
			return slotID, plain
		case "method":
			return slotMethod, plain
		case "params":
			return slotParams, inParams
		case "result":
			return slotResult, inResult
		case "error":
			return slotError, plain
		}
	case inParams:
		switch string(name) {
		case "name":
			return slotName, plain
		case "uri":
			return slotURI, plain
		case "arguments":
			return slotArguments, plain
		case "inputResponses":
			return slotInputs, plain
		case "cursor":
			return slotCursor, plain
		case "_meta":
			return slotMeta, inMeta
		case "ref":
			return slotRef, inRef
		case "progressToken":
			return slotToken, plain
		case "requestId":
			return slotRequestID, plain
		}
	case inMeta:
		switch string(name) {
		case MetaProgressToken:
			return slotMetaToken, plain
		case MetaProtocolVersion:
			return slotMetaVersion, plain
		case MetaClientCapabilities:
			return slotMetaCapabilities, plain
		}
	case inRef:
		switch string(name) {
		case "type":
			return slotRefType, plain
		case "name":
			return slotRefName, plain
		case "uri":
			return slotRefURI, plain
		}
	case inResult:
		switch string(name) {
		case "_meta":
			return slotResultMeta, plain
		case "resultType":
			return slotResultType, plain
		case "isError":
			return slotIsError, plain
		case "structuredContent":
			return slotStructured, plain
		case "content":
			return slotContent, plain
		}
	}
	return noSlot, plain
}

// scanner goes over a document once. Its methods leave i behind what they
// scanned and report whether they could; after a false, err says why.
type scanner struct {
	b     []byte
	i     int
	depth int // levels of nesting still allowed
	err   *SyntaxError
	spans [slots]Span
}

// member is told of each member or element of the outermost value. For an
// element of an array, name is absent.
type member func(name, value Span) bool

func (s *scanner) fail(reason string) bool { return s.failAt(ParseError, reason, s.i) }

func (s *scanner) failAt(code int, reason string, at int) bool {
	s.err = &SyntaxError{Code: code, Reason: reason, Offset: at}
	return false
}

// begin checks the size of the document and skips leading white space.
func (s *scanner) begin(maxBytes int) bool {
	if maxBytes > math.MaxInt32 {
		maxBytes = math.MaxInt32 // the table of names counts in int32
	}
	if len(s.b) > maxBytes {
		return s.failAt(InvalidRequest, "larger than the limit", maxBytes)
	}
	s.space()
	if s.i == len(s.b) {
		return s.fail("no JSON value")
	}
	return true
}

// end checks that nothing but white space follows.
func (s *scanner) end() bool {
	s.space()
	if s.i != len(s.b) {
		return s.fail("more text after the JSON value")
	}
	return true
}

func (s *scanner) space() {
	for s.i < len(s.b) && s.b[s.i] <= ' ' {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the byte at i, or 0 at the end of the document. A 0 in the
// document fits no place where peek is asked either.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) value(at place) bool {
	switch c := s.peek(); c {
	case '"':
		_, ok := s.str()
		return ok
	case '{':
		return s.object(at, nil)
	case '[':
		return s.array(nil)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if s.i == len(s.b) {
			return s.fail("ends where a value should be")
		}
		return s.fail("not a JSON value")
	}
}

func (s *scanner) literal(want string) bool {
	if len(s.b)-s.i < len(want) || string(s.b[s.i:s.i+len(want)]) != want {
		return s.fail("not a JSON value")
	}
	s.i += len(want)
	return true
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.i++
	}
	switch c := s.peek(); {
	case c == '0':
		s.i++
		if c := s.peek(); '0' <= c && c <= '9' {
			return s.fail("number with a leading zero")
		}
	case '1' <= c && c <= '9':
		s.digits()
	default:
		return s.fail("number without digits")
	}
	if s.peek() == '.' {
		s.i++
		if !s.digits() {
			return s.fail("number without digits behind the point")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return s.fail("number without digits in its exponent")
		}
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stops marks the high bit of the first byte of x, lowest first, that is a
// quote, a backslash or a control character. Bits above the first mark may be
// wrong.
func stops(x uint64) uint64 {
	quote := x ^ ones*'"'
	slash := x ^ ones*'\\'
	return ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
}

// str scans the string at i. escaped reports whether it has escapes, so that
// its text is not its bytes.
func (s *scanner) str() (escaped, ok bool) {
	b, start, i := s.b, s.i, s.i+1
	var wide uint64 // has a high bit set if a byte may be beyond ASCII
	for {
		c := byte(0)
		for ; i+8 <= len(b); i += 8 {
			x := binary.LittleEndian.Uint64(b[i:])
			wide |= x
			if m := stops(x); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				c = b[i]
				goto stop
			}
		}
		for ; i < len(b); i++ {
			c = b[i]
			if c < 0x20 || c == '"' || c == '\\' {
				goto stop
			}
			wide |= uint64(c)
		}
		s.i = i
		return false, s.fail("string without an end")

	stop:
		switch c {
		case '"':
			s.i = i + 1
			if wide&highs != 0 && !utf8.Valid(b[start:s.i]) {
				return false, s.failAt(ParseError, "string that is not UTF-8", start+invalidUTF8(b[start:s.i]))
			}
			return escaped, true
		case '\\':
			escaped = true
			n, reason := escape(b[i:])
			if reason != "" {
				s.i = i
				return false, s.fail(reason)
			}
			i += n
		default:
			s.i = i
			return false, s.fail("control character in a string")
		}
	}
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

// escape returns the length of the escape b begins with, both halves of a
// surrogate pair counted as one.
func escape(b []byte) (n int, reason string) {
	if len(b) < 2 {
		return 0, "string without an end"
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, ""
	case 'u':
		r, ok := hex4(b)
		switch {
		case !ok:
			return 0, "\\u without four hexadecimal digits"
		case r < 0xD800 || r > 0xDFFF:
			return 6, ""
		case r < 0xDC00:
			if low, ok := hex4(b[6:]); ok && 0xDC00 <= low && low <= 0xDFFF {
				return 12, ""
			}
		}
		return 0, "half of a surrogate pair"
	default:
		return 0, "unknown escape in a string"
	}
}

// hex4 reads a \uXXXX at the beginning of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// appendUnescaped appends the text of a scanned string, given without its
// quotes.
func appendUnescaped(dst, text []byte) []byte {
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		n := 2
		switch c := text[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(text[i:])
			n = 6
			if 0xD800 <= r && r <= 0xDFFF {
				low, _ := hex4(text[i+6:])
				r = 0x10000 + (r-0xD800)<<10 + (low - 0xDC00)
				n = 12
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, c)
		}
		text = text[i+n:]
	}
}

// unquoted returns the text of a scanned string token. Without escapes it is a
// part of tok.
func unquoted(tok []byte) []byte {
	text := tok[1 : len(tok)-1]
	if bytes.IndexByte(text, '\\') < 0 {
		return text
	}
	return appendUnescaped(make([]byte, 0, len(text)), text)
}

func (s *scanner) object(at place, visit member) bool {
	if !s.enter() {
		return false
	}
	if s.peek() == '}' {
		return s.leave()
	}
	var seen nameSet
	for {
		name := Span{Start: s.i}
		if s.peek() != '"' {
			return s.fail("want a member name in quotes")
		}
		escaped, ok := s.str()
		if !ok {
			return false
		}
		name.End = s.i
		if !seen.add(s.b, name.Start+1, name.End-1, escaped) {
			return s.failAt(ParseError, "two members of one object with the same name", name.Start)
		}
		slot, child := noSlot, plain
		if at != plain {
			key := s.b[name.Start+1 : name.End-1]
			if escaped {
				key = appendUnescaped(nil, key)
			}
			if slot, child = route(at, key); slot == noSlot {
				for _, r := range routed[at] {
					if bytes.EqualFold(r, key) {
						return s.failAt(InvalidRequest, "a name that differs from \""+string(r)+"\" only by case", name.Start)
					}
				}
			}
		}
		s.space()
		if s.peek() != ':' {
			return s.fail("want ':' after a member name")
		}
		s.i++
		s.space()
		value := Span{Start: s.i}
		if !s.value(child) {
			return false
		}
		value.End = s.i
		s.spans[slot] = value
		if visit != nil && !visit(name, value) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case '}':
			return s.leave()
		default:
			return s.fail("want ',' or '}' after a member")
		}
	}
}

func (s *scanner) array(visit member) bool {
	if !s.enter() {
		return false
	}
	if s.peek() == ']' {
		return s.leave()
	}
	for {
		value := Span{Start: s.i}
		if !s.value(plain) {
			return false
		}
		value.End = s.i
		if visit != nil && !visit(Span{}, value) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case ']':
			return s.leave()
		default:
			return s.fail("want ',' or ']' after an element")
		}
	}
}

func (s *scanner) enter() bool {
	if s.depth == 0 {
		return s.failAt(InvalidRequest, "nested deeper than the limit", s.i)
	}
	s.depth--
	s.i++
	s.space()
	return true
}

func (s *scanner) leave() bool {
	s.depth++
	s.i++
	return true
}

// nameSet is the names of one object seen so far. Small objects are compared
// name by name; the table of a large one is seeded, so that nobody can choose
// names that collide.
type nameSet struct {
	n       int
	few     [16]nameRef
	escaped uint16 // which of the few have escapes
	table   *nameTable
}

type nameRef struct{ start, end int32 }

// add reports whether the name b[start:end] (without quotes) was not there yet.
func (set *nameSet) add(b []byte, start, end int, escaped bool) bool {
	if set.n == len(set.few) {
		if set.table == nil {
			set.table = newNameTable()
			for i, ref := range set.few {
				set.table.add(b, ref, set.escaped>>i&1 != 0)
			}
		}
		return set.table.add(b, nameRef{int32(start), int32(end)}, escaped)
	}
	name := b[start:end]
	if escaped || set.escaped != 0 {
		if escaped {
			name = appendUnescaped(nil, name)
		}
		for i, ref := range set.few[:set.n] {
			other := b[ref.start:ref.end]
			if set.escaped>>i&1 != 0 {
				other = appendUnescaped(nil, other)
			}
			if bytes.Equal(name, other) {
				return false
			}
		}
	} else {
		for _, ref := range set.few[:set.n] {
			if int(ref.end-ref.start) == len(name) && string(b[ref.start:ref.end]) == string(name) {
				return false
			}
		}
	}
	if escaped {
		set.escaped |= 1 << set.n
	}
	set.few[set.n] = nameRef{int32(start), int32(end)}
	set.n++
	return true
}

// nameTable is an open-addressed hash set of names, at most half full.
type nameTable struct {
	seed  maphash.Seed
	n     int
	slots []nameSlot
}

type nameSlot struct {
	ref     nameRef // end is never 0 in a slot that is taken
	hash    uint32
	escaped bool
}

func newNameTable() *nameTable {
	return &nameTable{seed: maphash.MakeSeed(), slots: make([]nameSlot, 64)}
}

func (t *nameTable) add(b []byte, ref nameRef, escaped bool) bool {
	if 2*t.n >= len(t.slots) {
		old := t.slots
		t.slots = make([]nameSlot, 2*len(old))
		for _, s := range old {
			if s.ref.end != 0 {
				i := int(s.hash) & (len(t.slots) - 1)
				for t.slots[i].ref.end != 0 {
					i = (i + 1) & (len(t.slots) - 1)
				}
				t.slots[i] = s
			}
		}
	}
	name := nameText(b, ref, escaped)
	hash := uint32(maphash.Bytes(t.seed, name))
	i := int(hash) & (len(t.slots) - 1)
	for ; t.slots[i].ref.end != 0; i = (i + 1) & (len(t.slots) - 1) {
		s := t.slots[i]
		if s.hash == hash && bytes.Equal(nameText(b, s.ref, s.escaped), name) {
			return false
		}
	}
	t.slots[i] = nameSlot{ref: ref, hash: hash, escaped: escaped}
	t.n++
	return true
}

func nameText(b []byte, ref nameRef, escaped bool) []byte {
	text := b[ref.start:ref.end]
	if escaped {
		return appendUnescaped(nil, text)
	}
	return text
}
