package flow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sallyport"
)

// Delta is what one call taught a run. It is made by [Index.Learn] and
// [Index.Approve] and never changed.
type Delta struct {
	call    sallyport.CallID
	text    int // bytes of result that were indexed
	over    bool
	sources []Source
	numbers map[Source]uint32
	slots   map[key]slot // sources as indices of this delta's own, plus one
	marks   marks
}

func newDelta(call sallyport.CallID) *Delta {
	return &Delta{call: call, numbers: make(map[Source]uint32), slots: make(map[key]slot), marks: make(marks)}
}

// maxSources bounds how many places one delta tells apart.
const maxSources = 4096

func (d *Delta) source(s Source) uint32 {
	if n, ok := d.numbers[s]; ok {
		return n
	}
	if len(d.sources) == maxSources-1 {
		s.Pointer = ""
		if n, ok := d.numbers[s]; ok {
			return n
		}
	}
	if len(d.sources) == maxSources {
		return maxSources // as untrusted as any
	}
	d.sources = append(d.sources, s)
	n := uint32(len(d.sources))
	d.numbers[s] = n
	return n
}

func (d *Delta) firm(k key, from uint32) {
	s := d.slots[k]
	if s.firm == 0 {
		s.firm = from
		d.slots[k] = s
	}
}

func (d *Delta) soft(k key, from uint32) {
	s := d.slots[k]
	if s.soft == 0 {
		s.soft = from
		d.slots[k] = s
	}
}

func (d *Delta) seen(k key, from uint32) {
	s := d.slots[k]
	if s.seen == 0 {
		s.seen = from
		d.slots[k] = s
	}
}

func (d *Delta) sent(k key) {
	s := d.slots[k]
	s.sent = true
	d.slots[k] = s
}

// host trusts the host of a trusted address for links in content.
func (d *Delta) host(canonical string, from uint32) {
	if _, host, _ := address(canonical); host != "" {
		d.firm(keyOf(Host, host), from)
	}
}

// trust adds a value that people put on a list. Its type says what it may be used
// as: "amount", "number", "date" name nobody; "host" and "domain" are addresses'
// hosts; "id" and "..._id" are ids; anything else is a name or address.
func (d *Delta) trust(kind, text string, from uint32) {
	text = strings.TrimSpace(clean(text))
	if h, ok := whole(text); ok {
		d.marks.add(h, given)
	}
	kind = strings.ToLower(kind)
	form, canonical := recognise(text)
	switch {
	case kind == "amount" || kind == "number" || kind == "date":
		if form == Decimal || form == Date {
			d.firm(keyOf(form, canonical), from)
		}
	case kind == "host" || kind == "domain":
		host := strings.TrimSuffix(fold(text), ".")
		d.firm(keyOf(Host, "*", host), from)
		d.firm(keyOf(Host, host), from)
	case isID(kind):
		d.firm(keyOf(ID, "", noun(kind), text), from)
		d.firm(keyOf(ID, "", anyID, text), from)
	default:
		if form != Plain && form != Decimal && form != Date && canonical != "" {
			d.firm(keyOf(form, canonical), from)
			if form == URL {
				d.host(canonical, from)
			}
		}
		if form != URL {
			d.firm(keyOf(Name, bareName(text)), from)
		}
	}
}

const (
	deltaVersion = 1
	maxName      = 1 << 10
	maxSlots     = 1 << 22
	knownBits    = uint8(given | 7)
)

const (
	hasFirm = 1 << iota
	hasSoft
	hasSeen
	wasSent
)

// Encode is the delta as bytes: the same for equal deltas. Numbers are varints
// (encoding/binary), texts and lists begin with their length.
//
//	version call text flags sources slots marks
//	source: kind call upstream tool pointer field integrity
//	slot, in ascending order of keys: key (16 bytes) flags source...
//	mark, in ascending order: hash less the one before, bits
func (d *Delta) Encode() []byte {
	b := make([]byte, 0, 64+20*len(d.slots)+8*len(d.marks))
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b = append(b, deltaVersion)
	text(string(d.call))
	b = binary.AppendUvarint(b, uint64(d.text))
	flags := byte(0)
	if d.over {
		flags = 1
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(d.sources)))
	for i := range d.sources {
		s := &d.sources[i]
		b = append(b, byte(s.Kind))
		text(string(s.Call))
		text(string(s.Upstream))
		text(s.Tool)
		text(s.Pointer)
		b = append(b, byte(s.Field), byte(s.Integrity))
	}
	keys := slices.SortedFunc(maps.Keys(d.slots), func(a, b key) int { return bytes.Compare(a[:], b[:]) })
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		s := d.slots[k]
		b = append(b, k[:]...)
		at := len(b)
		b = append(b, 0)
		for i, n := range []uint32{s.firm, s.soft, s.seen} {
			if n != 0 {
				b[at] |= 1 << i
				b = binary.AppendUvarint(b, uint64(n))
			}
		}
		if s.sent {
			b[at] |= wasSent
		}
	}
	hashes := slices.Sorted(maps.Keys(d.marks))
	b = binary.AppendUvarint(b, uint64(len(hashes)))
	before := uint64(0)
	for _, h := range hashes {
		b = append(binary.AppendUvarint(b, h-before), d.marks[h])
		before = h
	}
	return b
}

// DecodeDelta reads what Encode wrote and nothing else: every delta has one
// encoding.
func DecodeDelta(b []byte) (*Delta, error) {
	r := reader{b: b}
	if v := r.byte(); v != deltaVersion {
		return nil, fmt.Errorf("delta of a run: version %d, want %d: was it written by a newer program?", v, deltaVersion)
	}
	d := newDelta(sallyport.CallID(r.text()))
	d.text = r.count(MaxText)
	flags := r.byte()
	d.over = flags == 1
	r.check(flags <= 1)
	for range r.count(maxSources) {
		s := Source{
			Kind: SourceKind(r.byte()), Call: sallyport.CallID(r.text()), Upstream: sallyport.UpstreamID(r.text()), Tool: r.text(), Pointer: r.text(),
			Field: FieldKind(r.byte()), Integrity: sallyport.Integrity(r.byte()),
		}
		// What stands in no delta is not taken from one.
		r.check(s.Kind == FromResult && s.Integrity <= sallyport.Endorsed || s.Kind == FromApproval && s.Integrity == sallyport.Endorsed)
		r.check(s.Integrity >= sallyport.Untrusted && int(s.Field) < len(fieldKinds))
		d.sources = append(d.sources, s)
		d.numbers[s] = uint32(len(d.sources))
		if r.err != nil {
			return nil, r.err
		}
	}
	r.check(len(d.numbers) == len(d.sources))
	from := func(kind SourceKind, integrity sallyport.Integrity) uint32 {
		n := r.count(len(d.sources))
		r.check(n > 0)
		if r.err == nil && integrity != 0 {
			r.check(d.sources[n-1].Kind == kind && d.sources[n-1].Integrity == integrity)
		}
		return uint32(n)
	}
	var last key
	for i := range r.count(maxSlots) {
		var k key
		copy(k[:], r.take(len(k)))
		r.check(i == 0 || bytes.Compare(last[:], k[:]) < 0)
		last = k
		flags := r.byte()
		r.check(flags != 0 && flags <= hasFirm|hasSoft|hasSeen|wasSent)
		s := slot{sent: flags&wasSent != 0}
		if flags&hasFirm != 0 {
			s.firm = from(FromApproval, sallyport.Endorsed)
		}
		if flags&hasSoft != 0 {
			s.soft = from(FromResult, sallyport.Endorsed)
		}
		if flags&hasSeen != 0 {
			s.seen = from(0, 0)
		}
		if r.err != nil {
			return nil, r.err
		}
		d.slots[k] = s
	}
	before := uint64(0)
	for i := range r.count(maxSlots) {
		step := r.uvarint()
		bits := r.byte()
		r.check(i == 0 || step > 0 && before+step > before)
		r.check(bits != 0 && bits&^knownBits == 0 && bits&^given <= uint8(sallyport.Restricted))
		before += step
		if r.err != nil {
			return nil, r.err
		}
		d.marks[before] = bits
	}
	r.check(len(r.b) == 0)
	if r.err != nil {
		return nil, r.err
	}
	return d, nil
}

var errDelta = errors.New("delta of a run: damaged; restore the store from a copy, or close the run")

// reader takes a delta apart; after an error it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) check(ok bool) {
	if !ok && r.err == nil {
		r.err = errDelta
	}
}

func (r *reader) take(n int) []byte {
	if r.check(n <= len(r.b)); r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.check(n > 0 && (n == 1 || r.b[n-1] != 0)); r.err != nil {
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) count(most int) int {
	v := r.uvarint()
	if r.check(v <= uint64(most)); r.err != nil {
		return 0
	}
	return int(v)
}

func (r *reader) text() string { return string(r.take(r.count(maxName))) }
