package policy

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cedar-policy/cedar-go/types"
)

// The bounds of what an array becomes a Cedar set of. Finding a place in a set
// costs a step for each element of equal hash, and whoever writes arguments can
// choose elements of equal hash; more elements than this are inexact.
const (
	maxElements    = 1024
	maxAllElements = 4096 // of all arrays of one call
)

// plan is what of a value is needed: its shape, narrowed to the members that
// some policy reads.
type plan struct {
	name  string
	quote []byte // the name as bytes, for comparisons
	shape *shape
	// whole means that a policy takes the value as it is; members then holds all
	// that can be seen.
	whole   bool
	members map[string]*plan
}

// reader converts the arguments of one call. It is reused.
type reader struct {
	in  bytes.Reader
	dec *jsontext.Decoder

	path     []string
	elements int
	inexact  []Inexact
	scratch  []types.RecordMap
}

// maxScratch is how many members a map may have to be kept for the next record.
const maxScratch = 8

// fields is an empty map for the members of a record; done makes the record of
// it. cedar-go copies the map, so one can serve many records.
func (r *reader) fields() types.RecordMap {
	if n := len(r.scratch); n > 0 {
		m := r.scratch[n-1]
		r.scratch = r.scratch[:n-1]
		return m
	}
	return make(types.RecordMap, maxScratch)
}

func (r *reader) done(m types.RecordMap) types.Record {
	rec := types.NewRecord(m)
	// A map that has grown would be copied with all its empty places.
	if len(m) <= maxScratch {
		clear(m)
		r.scratch = append(r.scratch, m)
	}
	return rec
}

var errNotObject = errors.New("the arguments are not one well-formed JSON object")

// args reads a JSON object into a record of the members that p names. What a
// policy would read and Cedar cannot hold is left out of the record and listed
// in r.inexact. Duplicate names, invalid UTF-8, unpaired surrogates and anything
// after the object are errors: two readers could take them for different things.
func (r *reader) args(b []byte, p *plan) (types.Record, error) {
	r.path = append(r.path[:0], p.name)
	r.elements, r.inexact = 0, nil
	if b == nil {
		b = []byte("{}")
	}
	r.in.Reset(b)
	if r.dec == nil {
		r.dec = jsontext.NewDecoder(&r.in)
	} else {
		r.dec.Reset(&r.in)
	}
	defer r.in.Reset(nil) // hold no caller's bytes
	if r.dec.PeekKind() != '{' {
		return types.Record{}, errNotObject
	}
	rec, err := r.object(p)
	if err == nil {
		if _, err = r.dec.ReadToken(); errors.Is(err, io.EOF) {
			return rec, nil
		}
	}
	return types.Record{}, errNotObject
}

func (r *reader) object(p *plan) (types.Record, error) {
	if _, err := r.dec.ReadToken(); err != nil {
		return types.Record{}, err
	}
	m := r.fields()
	for r.dec.PeekKind() != '}' {
		raw, err := r.dec.ReadValue()
		if err != nil {
			return types.Record{}, err
		}
		name := raw[1:max(len(raw)-1, 1)]
		if bytes.IndexByte(name, '\\') >= 0 {
			if name, err = jsontext.AppendUnquote(nil, raw); err != nil {
				return types.Record{}, err
			}
		}
		mp := p.members[string(name)]
		if mp == nil {
			r.unread(p, name)
			if err := r.dec.SkipValue(); err != nil {
				return types.Record{}, err
			}
			continue
		}
		r.path = append(r.path, mp.name)
		v, err := r.value(mp)
		r.path = r.path[:len(r.path)-1]
		if err != nil {
			return types.Record{}, err
		}
		if v != nil {
			m[types.String(mp.name)] = v
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return types.Record{}, err
	}
	return r.done(m), nil
}

// unread looks at a member that no policy names. It matters in two cases: a
// policy takes the whole object and would take it for one without that member,
// or the name is another spelling of one that a policy does read.
func (r *reader) unread(p *plan, name []byte) {
	if p.whole {
		r.path = append(r.path, string(name))
		r.note("policy cannot see it, and a policy reads all of " + strings.Join(r.path[:len(r.path)-1], "."))
		r.path = r.path[:len(r.path)-1]
		return
	}
	if _, declared := p.shape.members[string(name)]; declared {
		return
	}
	for _, mp := range p.members {
		if bytes.EqualFold(name, mp.quote) {
			r.path = append(r.path, mp.name)
			r.note("it is given in another spelling, by letter case")
			r.path = r.path[:len(r.path)-1]
		}
	}
}

func (r *reader) note(why string) {
	r.inexact = append(r.inexact, Inexact{Path: strings.Join(r.path, "."), Why: why})
}

// value reads the next value. It is nil where the value is inexact.
func (r *reader) value(p *plan) (types.Value, error) {
	kind := r.dec.PeekKind()
	var want jsontext.Kind
	switch p.shape.form {
	case text:
		want = '"'
	case long, decimal:
		want = '0'
	case boolean:
		want = 't'
		if kind == 'f' {
			want = 'f'
		}
	case set:
		want = '['
	case record:
		want = '{'
	case hidden, datetime, entity: // no argument that is read has these
	}
	if kind != want {
		if err := r.dec.SkipValue(); err != nil {
			return nil, err
		}
		if kind == 'n' {
			r.note("it is null")
		} else {
			r.note("it is not of the declared type")
		}
		return nil, nil
	}
	switch p.shape.form {
	case record:
		return r.object(p)
	case set:
		return r.array(p)
	case text, long, decimal, boolean, hidden, datetime, entity:
	}
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	switch p.shape.form {
	case text:
		return unquoted(raw)
	case boolean:
		return types.Boolean(raw[0] == 't'), nil
	case long:
		n, ok := scaled(raw, 0)
		if !ok {
			r.note("it is not a whole number of at most 64 bits")
			return nil, nil
		}
		return types.Long(n), nil
	case decimal:
		n, ok := scaled(raw, 4)
		if !ok {
			r.note("it has more than 4 decimal places or is too large")
			return nil, nil
		}
		return types.NewDecimal(n, -4)
	case hidden, datetime, entity, set, record:
	}
	return nil, nil
}

func unquoted(raw []byte) (types.Value, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return types.String(raw[1 : len(raw)-1]), nil
	}
	s, err := jsontext.AppendUnquote(nil, raw)
	return types.String(s), err
}

func (r *reader) array(p *plan) (types.Value, error) {
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, err
	}
	elem := p.members[""]
	var values []types.Value
	exact := true
	for r.dec.PeekKind() != ']' {
		if !exact || len(values) >= maxElements || r.elements >= maxAllElements {
			if exact {
				r.note("it is or holds a very long array")
				exact = false
			}
			if err := r.dec.SkipValue(); err != nil {
				return nil, err
			}
			continue
		}
		r.elements++
		v, err := r.value(elem)
		if err != nil {
			return nil, err
		}
		if v == nil {
			exact = false // the element has noted why
			continue
		}
		values = append(values, v)
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, err
	}
	if !exact {
		return nil, nil
	}
	return types.NewSet(values...), nil
}

// scaled is the JSON number raw times 10^places, if that is a whole number of
// at most 64 bits. It is exact: nothing goes through floating point.
func scaled(raw []byte, places int) (int64, bool) {
	negative := raw[0] == '-'
	if negative {
		raw = raw[1:]
	}
	var (
		n      uint64 // of all digits so far but trailing zeros
		zeros  int    // zeros not yet multiplied into n
		digits = raw
		point  = -1 // digits after the point; -1 before it
		exp    int
	)
	for i, c := range raw {
		if c == 'e' || c == 'E' {
			digits = raw[:i]
			exp = exponent(raw[i+1:])
			break
		}
	}
	for _, c := range digits {
		if c == '.' {
			point = 0
			continue
		}
		if point >= 0 {
			point++
		}
		if c == '0' {
			zeros++
			continue
		}
		if n != 0 {
			var ok bool
			if n, ok = shifted(n, zeros+1); !ok {
				return 0, false
			}
		}
		zeros = 0
		d := uint64(c - '0')
		if n > math.MaxUint64-d {
			return 0, false
		}
		n += d
	}
	if n == 0 {
		return 0, true
	}
	n, ok := shifted(n, zeros-max(point, 0)+exp+places)
	if !ok {
		return 0, false
	}
	if negative {
		if n > 1<<63 {
			return 0, false
		}
		return -int64(n), true
	}
	return int64(n), n <= math.MaxInt64
}

// exponent reads the digits of an exponent, up to a size that is out of reach
// for any number that fits in memory.
func exponent(b []byte) int {
	negative := false
	if b[0] == '+' || b[0] == '-' {
		negative = b[0] == '-'
		b = b[1:]
	}
	e := 0
	for _, c := range b {
		if e = e*10 + int(c-'0'); e > 1<<40 {
			e = 1 << 40
		}
	}
	if negative {
		return -e
	}
	return e
}

// shifted is n times 10^by, where by is not negative and the product fits.
func shifted(n uint64, by int) (uint64, bool) {
	if by < 0 {
		return 0, false
	}
	for ; by > 0; by-- {
		if n > math.MaxUint64/10 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}
