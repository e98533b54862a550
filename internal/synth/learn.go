package synth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport/internal/detect"
	"sallyport/internal/wire"
)

// The bounds of what a learner remembers.
const (
	mostFields   = 512  // of a table, nested ones included
	mostCounted  = 2048 // values of a field that are counted one by one
	mostPatterns = 128  // of a field
	mostKept     = 256  // values of a field that is kept
	mostNested   = 4
	longPattern  = 64 // characters; what is longer is text
	// leastAlike is how many values a range or a pattern stands for at least.
	leastAlike = 5
)

// Learner learns the shape of one table.
type Learner struct {
	table  *Table
	keep   map[string]bool
	root   *learned
	fields int
	scan   *detect.Scanner
}

// NewLearner returns a learner that has seen nothing. keep names fields, or pointers into
// rows, whose values may be in the shape.
func NewLearner(t *Table, keep []string) *Learner {
	l := &Learner{table: t, keep: map[string]bool{}, root: &learned{members: map[string]*learned{}}, scan: detect.New()}
	for _, k := range keep {
		l.keep["/"+strings.TrimPrefix(k, "/")] = true
	}
	return l
}

// learned is what is known of a field so far.
type learned struct {
	seen, nulls int64
	kinds       map[string]int64
	trues       int64
	numbers     histogram
	decimals    int
	days        histogram // by daySlot
	lengths     histogram
	words       histogram
	elements    histogram
	patterns    map[string]int64
	odd         int64 // strings without a pattern that is counted
	values      map[string]int64
	sample      sample
	members     map[string]*learned
	items       *learned
}

// histogram counts values in ranges whose ends do not depend on them.
type histogram map[int32]int64

// Each power of two is cut into this many ranges.
const cuts = 16

// slot is the number of the range a value lies in.
func slot(x float64) int32 {
	size := math.Abs(x)
	if size < 1e-9 {
		return 0
	}
	size = min(size, 1e18)
	fraction, exponent := math.Frexp(size) // 0.5 to 1
	n := int32(exponent+64)*cuts + int32((fraction-0.5)*2*cuts) + 1
	if x < 0 {
		return -n
	}
	return n
}

// slotFrom is where the range of a slot begins, at the end nearer to zero, and where
// the next begins.
func slotFrom(n int32) float64 {
	if n <= 0 {
		return 0
	}
	n--
	return math.Ldexp(0.5+float64(n%cuts)/(2*cuts), int(n/cuts)-64)
}

func slotRange(n int32) (from, to float64) {
	switch {
	case n == 0:
		return 0, slotFrom(1)
	case n < 0:
		return -slotFrom(-n + 1), -slotFrom(-n)
	default:
		return slotFrom(n), slotFrom(n + 1)
	}
}

// daySlot is in units of 2^18 seconds, which is three days, from 1900 to 2100.
func daySlot(t time.Time) int32 {
	return int32(min(max(t.Unix(), -2208988800), 4102444800) >> 18)
}

func dayRange(n int32) (from, to float64) {
	return float64(int64(n) << 18), float64((int64(n) + 1) << 18)
}

func (h *histogram) add(n int32) {
	if *h == nil {
		*h = histogram{}
	}
	(*h)[n]++
}

// ranges are those that stand for enough values each.
func (h histogram) ranges(ends func(int32) (from, to float64)) []Range {
	var all []Range
	total, open := int64(0), false
	for _, n := range slices.Sorted(maps.Keys(h)) {
		total += h[n]
		from, to := ends(n)
		if open {
			last := &all[len(all)-1]
			last.To = to
			last.Share += h[n]
		} else {
			all = append(all, Range{From: from, To: to, Share: h[n]})
		}
		open = all[len(all)-1].Share < leastAlike
	}
	if total < leastAlike {
		return nil
	}
	if open { // there is another before it, or the total were too small
		last := all[len(all)-1]
		all = all[:len(all)-1]
		all[len(all)-1].To = last.To
		all[len(all)-1].Share += last.Share
	}
	for i := range all {
		all[i].Share = max(1, share(all[i].Share, total))
	}
	return all
}

func share(n, of int64) int64 {
	if of == 0 {
		return 0
	}
	return int64(math.Round(float64(n) / float64(of) * million))
}

// sample counts values by their hash. When there are too many it keeps those whose
// hash ends in one more zero: of the values that stay every row has been counted
// (M. Wegman's adaptive sampling, in P. Flajolet, On Adaptive Sampling, 1990).
type sample struct {
	counts map[uint64]int64
	level  int
}

func (s *sample) add(h uint64) {
	if h&(1<<s.level-1) != 0 {
		return
	}
	if s.counts == nil {
		s.counts = map[uint64]int64{}
	}
	s.counts[h]++
	for len(s.counts) > mostCounted {
		s.level++
		maps.DeleteFunc(s.counts, func(h uint64, _ int64) bool { return h&(1<<s.level-1) != 0 })
	}
}

func (s *sample) distinct() int64 { return int64(len(s.counts)) << s.level }

// spread is which share of rows has the values of each band.
func (s *sample) spread() []int64 {
	counts := slices.SortedFunc(maps.Values(s.counts), func(a, b int64) int { return cmp.Compare(b, a) })
	total, most := 0.0, float64(len(counts))
	for _, n := range counts {
		total += float64(n)
	}
	out := make([]int64, bands)
	for b := range out {
		from, to := 0.0, math.Ldexp(1, b-bands+1)
		if b > 0 {
			from = to / 2
		}
		from, to = from*most, to*most
		in := 0.0
		for i := int(from); i < len(counts) && float64(i) < to; i++ {
			in += float64(float64(counts[i]) * (min(to, float64(i+1)) - max(from, float64(i)))) // not fused
		}
		out[b] = int64(math.Round(in / total * million))
	}
	return out
}

// Add learns from one row, which is a JSON object.
func (l *Learner) Add(row []byte) error {
	if len(row) == 0 || row[0] != '{' {
		return errors.New("a row is a JSON object")
	}
	l.root.seen++
	return l.object(l.root, row, "", 0)
}

func (l *Learner) object(at *learned, raw []byte, path string, depth int) error {
	return wire.Each(raw, func(name string, value []byte) error {
		m := at.members[name]
		if m == nil {
			if l.fields >= mostFields {
				return nil
			}
			l.fields++
			m = &learned{kinds: map[string]int64{}}
			at.members[name] = m
		}
		return l.value(m, value, path+"/"+name, depth)
	})
}

func (l *Learner) value(f *learned, raw []byte, path string, depth int) error {
	f.seen++
	switch raw[0] {
	case 'n':
		f.nulls++
		return nil
	case 't', 'f':
		f.kinds[kindBool]++
		if raw[0] == 't' {
			f.trues++
		}
	case '{':
		f.kinds[kindObject]++
		if depth >= mostNested {
			return nil
		}
		if f.members == nil {
			f.members = map[string]*learned{}
		}
		return l.object(f, raw, path, depth+1)
	case '[':
		f.kinds[kindArray]++
		if depth >= mostNested {
			return nil
		}
		items, err := wire.Elements(raw)
		if err != nil {
			return err
		}
		f.elements.add(slot(float64(len(items))))
		if f.items == nil {
			f.items = &learned{kinds: map[string]int64{}}
		}
		for _, item := range items {
			if err := l.value(f.items, item, path+"/*", depth+1); err != nil {
				return err
			}
		}
		return nil
	case '"':
		text, err := wire.DecodeString(raw)
		if err != nil {
			return err
		}
		f.sample.add(hashOf(0, text))
		f.text(text)
		if declared := l.declared(path); declared != nil && declared.Type == "enum" {
			if slices.Contains(declared.Values, text) {
				f.count(text)
			}
			return nil
		}
		if l.keep[path] {
			f.count(text)
			if len(f.values) > mostKept {
				return fmt.Errorf("%s has more than %d values: that is too many to keep", path, mostKept)
			}
		}
	default:
		x, err := strconv.ParseFloat(string(raw), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return err
		}
		f.kinds[kindNumber]++
		f.sample.add(hashOf(0, raw))
		f.numbers.add(slot(x))
		if _, fraction, ok := strings.Cut(string(raw), "."); ok && !strings.ContainsAny(fraction, "eE") {
			f.decimals = max(f.decimals, min(len(fraction), 9))
		}
	}
	return nil
}

// declared is the field of a path without steps.
func (l *Learner) declared(path string) *Field { return l.table.field(path[1:]) }

func (f *learned) count(text string) {
	if f.values == nil {
		f.values = map[string]int64{}
	}
	f.values[text]++
}

func (f *learned) text(text string) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		f.kinds[kindTime]++
		f.days.add(daySlot(t))
		return
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		f.kinds[kindDate]++
		f.days.add(daySlot(t))
		return
	}
	f.kinds[kindString]++
	f.lengths.add(slot(float64(utf8.RuneCountInString(text))))
	f.words.add(slot(float64(len(strings.Fields(text)))))
	pattern, ok := patternOf(text)
	if _, known := f.patterns[pattern]; !ok || !known && len(f.patterns) >= mostPatterns {
		f.odd++
		return
	}
	if f.patterns == nil {
		f.patterns = map[string]int64{}
	}
	f.patterns[pattern]++
}

// patternOf is the pattern of a string, if it is not too long for one.
func patternOf(text string) (string, bool) {
	if len(text) > 4*longPattern || utf8.RuneCountInString(text) > longPattern {
		return "", false
	}
	return strings.Map(func(r rune) rune {
		switch {
		case '0' <= r && r <= '9':
			return '#'
		case unicode.IsUpper(r):
			return '^'
		case r > unicode.MaxASCII || unicode.IsLetter(r):
			return '~'
		case r == '#' || r == '^' || r == '~' || r < ' ' || r == 0x7f:
			return '.'
		default:
			return r
		}
	}, text), true
}

// Shape is what was learned so far.
func (l *Learner) Shape() *Shape {
	s := &Shape{Rows: l.root.seen, Fields: map[string]*FieldShape{}}
	for name, f := range l.root.members {
		declared := l.table.field(name) != nil || slices.Contains(l.table.Key, name)
		if declared || l.named(name, f.seen, s.Rows) {
			s.Fields[name] = l.shape(f, s.Rows)
		}
	}
	return s
}

// named reports whether the name of a member says nothing of whose it is.
func (l *Learner) named(name string, seen, of int64) bool {
	return seen >= leastAlike && seen*100 >= of && len(name) <= 64 && len(l.scan.ScanText(nil, []byte(name), 0)) == 0
}

func (l *Learner) shape(f *learned, of int64) *FieldShape {
	s := &FieldShape{Absent: share(max(of-f.seen, 0), of), Null: share(f.nulls, max(of, f.seen))}
	most := int64(0)
	for _, kind := range slices.Sorted(maps.Keys(f.kinds)) {
		if f.kinds[kind] > most {
			s.Kind, most = kind, f.kinds[kind]
		}
	}
	if f.kinds[kindString] > 0 && (s.Kind == kindDate || s.Kind == kindTime) {
		s.Kind = kindString // not every one is a time
	}
	if len(f.sample.counts) > 0 {
		s.Distinct, s.Spread = f.sample.distinct(), f.sample.spread()
	}
	switch s.Kind {
	case kindBool:
		s.True = share(f.trues, f.kinds[kindBool])
	case kindNumber:
		s.Ranges, s.Decimals = f.numbers.ranges(slotRange), f.decimals
	case kindTime, kindDate:
		s.Ranges = f.days.ranges(dayRange)
	case kindString:
		s.Lengths, s.Words = f.lengths.ranges(slotRange), f.words.ranges(slotRange)
		s.Patterns = shares(f.patterns, leastAlike)
	case kindObject:
		s.Members = map[string]*FieldShape{}
		for name, m := range f.members {
			if l.named(name, m.seen, f.kinds[kindObject]) {
				s.Members[name] = l.shape(m, f.kinds[kindObject])
			}
		}
	case kindArray:
		s.Ranges = f.elements.ranges(slotRange)
		if f.items != nil {
			s.Items = l.shape(f.items, f.items.seen)
		}
	}
	s.Values = shares(f.values, 1)
	return s
}

// shares are those that occur often enough, the most frequent first.
func shares(counts map[string]int64, least int64) []Share {
	var all []Share
	total := int64(0)
	for text, n := range counts {
		if n >= least {
			all = append(all, Share{text, n})
			total += n
		}
	}
	for i := range all {
		all[i].Share = max(1, share(all[i].Share, total))
	}
	slices.SortFunc(all, func(a, b Share) int { return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Text, b.Text)) })
	return all
}
