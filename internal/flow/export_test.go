package flow

import (
	"maps"
	"slices"
)

// Same reports whether two indices know the same of the same values.
func (x *Index) Same(y *Index) bool {
	if x.text != y.text || x.over != y.over || !maps.Equal(x.marks, y.marks) || len(x.slots) != len(y.slots) || !sameSources(x, y) {
		return false
	}
	at := func(x *Index, n uint32) Source {
		if n == 0 {
			return Source{}
		}
		return x.sources[n-1]
	}
	for k, a := range x.slots {
		b, ok := y.slots[k]
		if !ok || a.sent != b.sent || at(x, a.firm) != at(y, b.firm) || at(x, a.soft) != at(y, b.soft) || at(x, a.seen) != at(y, b.seen) {
			return false
		}
	}
	return true
}

func sameSources(x, y *Index) bool {
	order := func(a, b Source) int { return a.compare(&b) }
	return slices.Equal(slices.SortedFunc(slices.Values(x.sources), order), slices.SortedFunc(slices.Values(y.sources), order))
}
