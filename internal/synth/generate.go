package synth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/detect"
	"sallyport/internal/wire"
)

// MostRows is how many rows one table may have.
const MostRows = 1 << 32

// mostElements is how many elements the lists of a row have together at most.
const mostElements = 10_000

// longRow is how many bytes a row has when its lists end.
const longRow = 256 << 10

// Generator makes rows. It may be used by one goroutine at a time.
type Generator struct {
	seed   uint64
	tables map[string]*tablePlan
	scan   *detect.Scanner
	room   []detect.Finding
	left   int // elements that lists of this row may still have
}

// Row is one row: its JSON, and its key, as JSON, where that is outside of rows. Both
// are overwritten by the next one.
type Row struct{ Key, JSON []byte }

type tablePlan struct {
	*Table
	rows   uint64
	shape  *Shape
	salt   uint64
	fields []*fieldPlan // the key first, then by name
	byName map[string]*fieldPlan
}

type fieldPlan struct {
	table       *tablePlan
	name        string
	typ         string
	values      []string
	required    bool
	unique      bool // all by itself
	key         bool // the table's one key, made by its id style
	target      *tablePlan
	shape       *FieldShape
	about       subject
	salt        uint64
	group       *group
	place       int // in the group
	members     []*fieldPlan
	items       *fieldPlan
	pattern     string // of a unique string
	patternSize uint64
	low, span   uint64 // of a unique number or time
	distinct    uint64 // values that repeat; 0 if each row draws its own
}

// group is several fields that are unique together: the number of the row, permuted
// and taken apart into one digit for each.
type group struct {
	salt  uint64
	sizes []uint64
	size  uint64 // their product
}

func (g *group) digit(n uint64, place int) uint64 {
	n = permute(n, g.size, g.salt)
	for _, s := range g.sizes[:place] {
		n /= s
	}
	return n % g.sizes[place]
}

// New plans how tables are filled. Shapes may be missing; rows says how many of each
// table. The error says everything that is in the way.
func New(tables []Table, shapes map[string]*Shape, rows map[string]int64, seed uint64) (*Generator, error) {
	g := &Generator{seed: seed, tables: map[string]*tablePlan{}, scan: detect.New()}
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for i := range tables {
		t := &tables[i]
		g.tables[t.Name] = &tablePlan{Table: t, rows: uint64(max(rows[t.Name], 0)), shape: shapes[t.Name], salt: hashOf(seed, t.Name), byName: map[string]*fieldPlan{}}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		switch {
		case g.tables[name] == nil:
			fail("there is no table %q", name)
		case rows[name] < 0 || rows[name] > MostRows:
			fail("%s cannot have %d rows: at most %d", name, rows[name], int64(MostRows))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	names := slices.Sorted(maps.Keys(g.tables))
	for _, name := range names {
		if t := g.tables[name]; t.rows > 0 {
			g.plan(t, fail)
		}
	}
	for _, name := range names {
		if t := g.tables[name]; t.rows > 0 {
			g.constrain(t, fail)
		}
	}
	for _, name := range names {
		if g.circular(g.tables[name], nil) {
			fail("the key of %s is made of itself, by way of what it refers to", name)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return g, nil
}

func (g *Generator) circular(t *tablePlan, above []*tablePlan) bool {
	if slices.Contains(above, t) {
		return true
	}
	for _, k := range t.Key {
		if f := t.byName[k]; f != nil && f.target != nil && g.circular(f.target, append(above, t)) {
			return true
		}
	}
	return false
}

// plan says what each field of a table is made of.
func (g *Generator) plan(t *tablePlan, fail func(string, ...any)) {
	var names []string
	for _, f := range t.Fields {
		names = append(names, f.Name)
	}
	if t.shape != nil {
		names = append(names, slices.Collect(maps.Keys(t.shape.Fields))...)
	}
	slices.Sort(names)
	names = slices.Compact(slices.Concat(t.Key, slices.DeleteFunc(names, func(n string) bool { return slices.Contains(t.Key, n) })))
	for _, name := range names {
		f := &fieldPlan{table: t, name: name}
		if t.shape != nil {
			f.shape = t.shape.Fields[name]
		}
		if d := t.field(name); d != nil {
			f.typ, f.values, f.required, f.unique = d.Type, d.Values, d.Required, d.Unique
			if d.Refs != "" {
				f.target = g.tables[d.Refs]
				switch {
				case f.target == nil:
					fail("%s of %s refers to %s, which is no table", name, t.Name, d.Refs)
				case f.target.rows == 0 && (d.Required || slices.Contains(t.Key, name)):
					fail("%s of %s refers to %s: give it rows as well", name, t.Name, d.Refs)
				case len(f.target.Key) != 1:
					fail("%s of %s refers to %s, whose key has several fields", name, t.Name, d.Refs)
				}
			}
		}
		if slices.Contains(t.Key, name) {
			f.required = true
			if len(t.Key) == 1 {
				f.unique, f.key = true, f.target == nil && t.ID.Style != ""
			}
		}
		g.complete(f, t.Name)
		t.fields = append(t.fields, f)
		t.byName[name] = f
	}
}

// complete says of what type a field is and what it is about, and so on below it.
func (g *Generator) complete(f *fieldPlan, under string) {
	f.salt = hashOf(f.table.salt, under+"/"+f.name)
	f.about = subjectOf(f.name, under)
	if f.shape == nil {
		f.shape = &FieldShape{}
	}
	switch {
	case f.typ == "" || f.typ == "json" || f.typ == kindString && (f.shape.Kind == kindTime || f.shape.Kind == kindDate):
		f.typ = f.shape.Kind
	case f.typ == kindTime && f.about == aboutNothing:
		f.about = aboutTime
	}
	if f.typ == "" {
		f.typ = f.about.kind()
	}
	if f.typ == kindString && f.shape.Kind == kindString && f.about.personal() == 0 && !f.unique && len(f.shape.Values) == 0 &&
		f.table.shape != nil && f.shape.Distinct > 0 && f.shape.Distinct*10 < 9*f.table.shape.Rows {
		f.distinct = uint64(f.shape.Distinct)
		if f.shape.Distinct*20 > f.table.shape.Rows { // as many more as there are more rows
			hi, lo := bits.Mul64(f.distinct, f.table.rows)
			f.distinct, _ = bits.Div64(hi%uint64(f.table.shape.Rows), lo, uint64(f.table.shape.Rows))
			f.distinct = max(f.distinct, 1)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.shape.Members)) {
		m := &fieldPlan{table: f.table, name: name, shape: f.shape.Members[name]}
		g.complete(m, under+"/"+f.name)
		f.members = append(f.members, m)
	}
	if f.shape.Items != nil {
		f.items = &fieldPlan{table: f.table, name: f.name, shape: f.shape.Items, required: true}
		g.complete(f.items, under+"/"+f.name+"/*")
	}
}

// somebodys reports whether numbers in a field could be somebody's.
func (f *fieldPlan) somebodys() bool {
	r := f.shape.Ranges
	return f.about.numeric() && (len(r) == 0 || r[len(r)-1].To >= million)
}

// size is how many values a field can have that are a choice, and 0 for others.
func (f *fieldPlan) size() uint64 {
	switch {
	case f.target != nil:
		return f.target.rows
	case f.typ == "enum":
		return uint64(len(f.values))
	case f.typ == kindBool:
		return 2
	}
	return 0
}

// constrain sees to it that what has to be unique is.
func (g *Generator) constrain(t *tablePlan, fail func(string, ...any)) {
	for _, f := range t.fields {
		if f.typ == "enum" && len(f.values) == 0 {
			fail("%s of %s is an enum without values", f.name, t.Name)
		}
		if f.unique {
			g.alone(f, fail)
		}
	}
	if t.KeyOutside && len(t.Key) == 0 {
		return
	}
	for _, names := range append([][]string{t.Key}, t.Unique...) {
		g.together(t, names, fail)
	}
}

// alone makes one field unique.
func (g *Generator) alone(f *fieldPlan, fail func(string, ...any)) {
	t := f.table
	few := func(size uint64) {
		if size < t.rows {
			fail("%s of %s has to be unique, and there are %d values for %d rows", f.name, t.Name, size, t.rows)
		}
	}
	switch {
	case f.key:
		switch id := &t.ID; id.Style {
		case "sequence":
			if id.Start > 0 && uint64(id.Start) <= t.rows {
				fail("ids of %s are to begin at %d, and %d rows take the numbers below: take fewer, or leave out start", t.Name, id.Start, t.rows)
			}
		case "prefix":
			if digits := orElse(id.Digits, 8); digits < 18 {
				few(power(10, digits))
			}
		case "base32":
			if length := orElse(id.Length, 16); length < 12 {
				few(power(32, length))
			}
		case "uuid":
		default:
			fail("%s has ids of the style %q, which is not known", t.Name, id.Style)
		}
	case f.size() > 0:
		if f.target != nil && f.target == t {
			fail("%s of %s refers to rows of its own table, and cannot be unique as well", f.name, t.Name)
		}
		few(f.size())
		f.group, f.place = &group{salt: f.salt, sizes: []uint64{max(f.size(), 1)}, size: max(f.size(), 1)}, 0
	case (f.typ == "int" || f.typ == kindNumber) && f.somebodys():
		fail("%s of %s has to be unique, and is %s in digits alone: declare it a string", f.name, t.Name, f.about.personal())
	case f.typ == "int" || f.typ == kindNumber || f.typ == kindTime || f.typ == kindDate:
		f.low, f.span = 1, t.rows
		if f.typ == kindDate || f.typ == kindTime {
			f.low = 946684800 // 2000
		}
		if r := f.shape.Ranges; len(r) > 0 && r[0].From >= 0 && r[len(r)-1].To < 1<<53 {
			f.low = uint64(math.Ceil(r[0].From))
			f.span = uint64(math.Ceil(r[len(r)-1].To)) - f.low
		}
		if f.typ == kindDate {
			f.low, f.span = f.low/86400, f.span/86400
		}
		f.span = max(f.span, t.rows)
		if f.typ == kindDate && f.low+f.span > 2932896 || f.typ == kindTime && f.low+f.span > 253402300800 {
			fail("%s of %s has to be unique, and there are not enough dates for %d rows", f.name, t.Name, t.rows)
		}
	case f.typ == kindString:
		if !f.about.countless() {
			fail("%s of %s has to be unique, and there are too few made-up values of its kind: it cannot be filled", f.name, t.Name)
		}
		for _, p := range f.shape.Patterns {
			if size := patternSize(p.Text); size >= t.rows && !tokenLike(p.Text) && f.about == aboutNothing {
				f.pattern, f.patternSize = p.Text, size
				break
			}
		}
	default:
		fail("%s of %s has to be unique, and is of type %s", f.name, t.Name, f.typ)
	}
}

// together makes several fields unique together, unless one of them is by itself.
func (g *Generator) together(t *tablePlan, names []string, fail func(string, ...any)) {
	var parts []*fieldPlan
	for _, name := range names {
		f := t.byName[name]
		if f == nil {
			f = &fieldPlan{table: t, name: name, typ: kindString, unique: true, shape: &FieldShape{}, about: subjectOf(name, t.Name), salt: hashOf(t.salt, name)}
			t.byName[name] = f
			t.fields = append(t.fields, f)
		}
		if f.unique {
			return
		}
		parts = append(parts, f)
	}
	for _, f := range parts { // one that any number of values suits
		if f.size() == 0 && f.typ != "int" && f.group == nil && (f.typ != kindString || f.about.countless()) && f.typ != kindObject && f.typ != kindArray {
			f.unique, f.distinct = true, 0
			g.alone(f, fail)
			return
		}
	}
	made := &group{salt: hashOf(t.salt, strings.Join(names, "\x00")), size: 1}
	var counts []*fieldPlan
	for _, f := range parts {
		switch {
		case f.group != nil:
			fail("%s of %s is in two groups that have to be unique: that cannot be kept", f.name, t.Name)
			return
		case f.target == t:
			fail("%s of %s refers to rows of its own table, and cannot be unique as well", f.name, t.Name)
			return
		case f.size() == 0 && f.typ == "int":
			counts = append(counts, f)
		case made.size < 1<<28 && f.size() > 0:
			f.group, f.place = made, len(made.sizes)
			made.sizes, made.size = append(made.sizes, f.size()), made.size*f.size()
		}
	}
	for i, f := range counts {
		size := uint64(1)
		if i == len(counts)-1 {
			size = max(1, (2*t.rows+made.size-1)/made.size)
		}
		f.group, f.place = made, len(made.sizes)
		made.sizes, made.size = append(made.sizes, size), made.size*size
	}
	if made.size < t.rows {
		fail("%s of %s have to be unique together, and there are %d combinations for %d rows", strings.Join(names, ", "), t.Name, made.size, t.rows)
	}
}

func power(base uint64, n int) uint64 {
	p := uint64(1)
	for range n {
		p *= base
	}
	return p
}

func orElse(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// Rows are the rows of a table, in order.
func (g *Generator) Rows(table string) iter.Seq[Row] {
	t := g.tables[table]
	return func(yield func(Row) bool) {
		if t == nil {
			return
		}
		var r Row
		for n := range t.rows {
			g.left = mostElements
			r.JSON, r.Key = append(r.JSON[:0], '{'), r.Key[:0]
			for _, f := range t.fields {
				if t.KeyOutside && slices.Contains(t.Key, f.name) {
					r.Key = g.value(r.Key, f, n, n)
					if r.Key[0] != '"' {
						r.Key = wire.AppendString(nil, string(r.Key))
					}
					continue
				}
				r.JSON = g.member(r.JSON, f, n, n)
			}
			r.JSON = append(r.JSON, '}')
			if !yield(r) {
				return
			}
		}
	}
}

// member appends a member of a row, or nothing if it is absent.
func (g *Generator) member(dst []byte, f *fieldPlan, n, at uint64) []byte {
	d := dice(mix(f.salt ^ 1 + at))
	chance := int64(d.below(million))
	null := !f.required && chance < f.shape.Absent+f.shape.Null
	if null && chance < f.shape.Absent {
		return dst
	}
	if f.target != nil && !f.required && (f.target.rows == 0 || f.target == f.table && n == 0) {
		null = true
	}
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(wire.AppendString(dst, f.name), ':')
	if null {
		return append(dst, "null"...)
	}
	return g.value(dst, f, n, at)
}

// value appends the value of a field in row n. at is the number of the value: n, but
// in lists.
func (g *Generator) value(dst []byte, f *fieldPlan, n, at uint64) []byte {
	d := dice(mix(f.salt ^ mix(at+2)))
	switch {
	case f.key:
		return g.id(dst, f.table, n)
	case f.target != nil:
		return g.keyOf(dst, f.target, g.parent(&d, f, n))
	case f.group != nil:
		digit := f.group.digit(n, f.place)
		switch f.typ {
		case "enum":
			return wire.AppendString(dst, f.values[digit])
		case kindBool:
			return strconv.AppendBool(dst, digit == 1)
		default:
			return strconv.AppendUint(dst, digit+1, 10)
		}
	}
	if len(f.shape.Values) > 0 && !f.unique && (f.typ == kindString || f.typ == "enum") {
		return wire.AppendString(dst, pick(&d, f.shape.Values))
	}
	switch f.typ {
	case "enum":
		return wire.AppendString(dst, d.of(f.values))
	case kindBool:
		share := f.shape.True
		if f.shape.Kind != kindBool {
			share = million / 2
		}
		return strconv.AppendBool(dst, int64(d.below(million)) < share)
	case "int", kindNumber:
		if f.unique {
			return strconv.AppendUint(dst, f.low+permute(n, f.span, f.salt), 10)
		}
		if f.somebodys() {
			return append(dst, digitsOf(made(nil, f.about, &d))...)
		}
		return g.number(dst, f, &d)
	case kindTime, kindDate:
		return g.time(dst, f, &d, n)
	case kindObject:
		dst = append(dst, '{')
		for _, m := range f.members {
			dst = g.member(dst, m, n, at)
		}
		return append(dst, '}')
	case kindArray:
		dst = append(dst, '[')
		if f.items != nil && len(f.shape.Ranges) > 0 {
			for i := range uint64(min(max(0, whole(&d, f.shape.Ranges)), mostElements)) {
				if g.left == 0 || len(dst) > longRow {
					break
				}
				g.left--
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = g.value(dst, f.items, n, mix(at)+i)
			}
		}
		return append(dst, ']')
	default:
		return wire.AppendString(dst, string(g.text(f, &d, n)))
	}
}

// keyOf appends the key of row n of a table, whose key is one field.
func (g *Generator) keyOf(dst []byte, t *tablePlan, n uint64) []byte {
	start := len(dst)
	dst = g.value(dst, t.byName[t.Key[0]], n, n)
	if t.KeyOutside && dst[start] != '"' {
		return wire.AppendString(dst[:start:start], string(dst[start:]))
	}
	return dst
}

// parent is the row that row n refers to.
func (g *Generator) parent(d *dice, f *fieldPlan, n uint64) uint64 {
	if f.group != nil {
		return f.group.digit(n, f.place)
	}
	rows := f.target.rows
	if f.target == f.table { // one before it
		if n == 0 {
			return 0
		}
		return f.rank(d, n)
	}
	used := rows
	if s := f.target.shape; s != nil && s.Rows > 0 && f.shape.Distinct > 0 && f.shape.Distinct < s.Rows {
		hi, lo := bits.Mul64(rows, uint64(f.shape.Distinct))
		used, _ = bits.Div64(hi, lo, uint64(s.Rows))
	}
	return permute(f.rank(d, max(used, 1)), rows, f.salt)
}

// rank draws one of n values, of which the first are drawn as often as was learned.
func (f *fieldPlan) rank(d *dice, n uint64) uint64 {
	if len(f.shape.Spread) != bands {
		return d.below(n)
	}
	chance, band := int64(d.below(million)), 0
	for band < bands-1 && chance >= f.shape.Spread[band] {
		chance -= f.shape.Spread[band]
		band++
	}
	// Band 0 is the first 2^-10 of all, band b from 2^(b-11) up to twice that.
	shift := bands - 1
	if band > 0 {
		shift = bands - band
	}
	at := d.next() >> shift
	if band > 0 {
		at += 1 << (64 - shift)
	}
	hi, _ := bits.Mul64(at, n)
	return hi
}

func (g *Generator) id(dst []byte, t *tablePlan, n uint64) []byte {
	switch id := &t.ID; id.Style {
	case "sequence":
		return strconv.AppendUint(dst, n+1, 10)
	case "prefix":
		digits := orElse(id.Digits, 8)
		v := permute(n, power(10, min(digits, 18)), t.salt)
		return wire.AppendString(dst, fmt.Sprintf("%s%0*d", id.Prefix, digits, v))
	case "uuid":
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], mix(t.salt^mix(n)))
		binary.BigEndian.PutUint64(b[8:], permute(n, 1<<62, t.salt))
		b[6], b[8] = b[6]&0x0f|0x40, b[8]|0x80
		return append(dst, fmt.Sprintf(`"%x-%x-%x-%x-%x"`, b[:4], b[4:6], b[6:8], b[8:10], b[10:])...)
	default:
		const digits = "0123456789abcdefghjkmnpqrstvwxyz"
		text := []byte(id.Prefix)
		length := orElse(id.Length, 16)
		v := permute(n, power(32, min(length, 12)), t.salt)
		d := dice(mix(t.salt ^ mix(n)))
		for i := range length {
			if i < 12 {
				text = append(text, digits[v&31])
				v >>= 5
			} else {
				text = append(text, digits[d.below(32)])
			}
		}
		return wire.AppendString(dst, string(text))
	}
}

// pick draws one by its share.
func pick(d *dice, all []Share) string {
	total := int64(0)
	for _, s := range all {
		total += s.Share
	}
	chance := int64(d.below(uint64(max(total, 1))))
	for _, s := range all {
		if chance -= s.Share; chance < 0 {
			return s.Text
		}
	}
	return all[0].Text
}

// within draws a number from ranges by their share.
func within(d *dice, ranges []Range) (x float64, of Range) {
	total := int64(0)
	for _, r := range ranges {
		total += r.Share
	}
	chance := int64(d.below(uint64(max(total, 1))))
	for _, of = range ranges {
		if chance -= of.Share; chance < 0 {
			break
		}
	}
	unit := math.Ldexp(float64(d.next()>>11), -53)
	return of.From + float64(float64(of.To-of.From)*unit), of // the conversion keeps it from being fused
}

// whole draws a whole number.
func whole(d *dice, ranges []Range) int64 {
	x, of := within(d, ranges)
	low, high := math.Ceil(of.From), math.Ceil(of.To)
	if high <= low {
		return int64(math.Floor(x))
	}
	if high-low < 1<<53 {
		return int64(low) + int64(d.below(uint64(high-low)))
	}
	return int64(math.Floor(x))
}

func (g *Generator) number(dst []byte, f *fieldPlan, d *dice) []byte {
	ranges, decimals := f.shape.Ranges, f.shape.Decimals
	if len(ranges) == 0 || f.shape.Kind != kindNumber {
		var r Range
		r, decimals = f.about.numbers(f.typ == "int")
		ranges = []Range{r}
	}
	if f.typ == "int" || decimals == 0 {
		return strconv.AppendInt(dst, whole(d, ranges), 10)
	}
	x, _ := within(d, ranges)
	return strconv.AppendFloat(dst, x, 'f', decimals, 64)
}

func (g *Generator) time(dst []byte, f *fieldPlan, d *dice, n uint64) []byte {
	var seconds int64
	switch {
	case f.unique && f.typ == kindDate:
		seconds = int64(f.low+permute(n, f.span, f.salt)) * 86400
	case f.unique:
		seconds = int64(f.low + permute(n, f.span, f.salt))
	case len(f.shape.Ranges) > 0 && (f.shape.Kind == kindTime || f.shape.Kind == kindDate):
		seconds = whole(d, f.shape.Ranges)
	case f.about == aboutBirth:
		seconds = -631152000 + int64(d.below(55*365*86400)) // 1950 to 2004
	default:
		seconds = 1735689600 + int64(d.below(365*86400)) // 2025
	}
	layout := time.RFC3339
	if f.typ == kindDate {
		layout = time.DateOnly
	}
	dst = append(dst, '"')
	return append(time.Unix(seconds, 0).UTC().AppendFormat(dst, layout), '"')
}
