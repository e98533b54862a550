package scrub

import (
	"cmp"
	"maps"
	"slices"

	"sallyport/internal/detect"
	"sallyport/internal/ident"
)

// What became of a value, as reports count it.
const (
	already = "already" // it was a pseudonym of this domain, or of a range nobody has, and stayed
	other   = "*"       // stands for places beyond maxPlaces
)

// maxPlaces bounds how many places one tally tells apart.
const maxPlaces = 2000

// Count is how many values of a class were found or declared in one place.
type Count struct {
	Place string // a column, or a pointer in which * stands for indices and for names that may be somebody's
	Class string
	Done  string // an action, or already
	N     int64
}

// Tally counts what scrubbing did. It holds no value. The zero value is ready; it is
// for one goroutine at a time.
type Tally struct {
	Leaves int64 // strings, numbers, names and fields that were looked at
	Quoted int64 // numbers that had to become strings
	// Renamed counts names of members that had to be told apart by a number behind them,
	// since their pseudonyms are equal.
	Renamed int64
	// Seen, if not nil, is called with every value that became something else, as it
	// stood in its text, and what it became. Neither may be kept.
	Seen func(kind ident.Kind, original, became []byte)

	// Look, if not nil, is called with every leaf of a document and of the documents that
	// are opened in it, before anything is done with it. It may not be kept.
	Look func(l *detect.Leaf)

	counts map[cell]int64
	places map[string]bool
}

type cell struct{ place, class, done string }

// Add adds what another counted.
func (t *Tally) Add(o *Tally) {
	t.Leaves += o.Leaves
	t.Quoted += o.Quoted
	t.Renamed += o.Renamed
	for c, n := range o.counts {
		t.count([]byte(c.place), c.class, c.done, n)
	}
}

func (t *Tally) count(place []byte, class, done string, n int64) {
	if !t.places[string(place)] {
		if t.places == nil {
			t.places, t.counts = map[string]bool{}, map[cell]int64{}
		}
		if len(t.places) >= maxPlaces {
			place = []byte(other)
		}
		t.places[string(place)] = true
	}
	t.counts[cell{string(place), class, done}] += n
}

// Counts returns what was counted, by place, class and what was done.
func (t *Tally) Counts() []Count {
	out := make([]Count, 0, len(t.counts))
	for _, c := range slices.SortedFunc(maps.Keys(t.counts), func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.class, b.class), cmp.Compare(a.done, b.done))
	}) {
		out = append(out, Count{c.place, c.class, c.done, t.counts[c]})
	}
	return out
}
