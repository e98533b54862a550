package sallyport_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport"
)

// TestTimeOfID: an id holds the millisecond it was made in, ids sort by it, and
// nothing else is taken for an id.
func TestTimeOfID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (time.Time, string) {
			at := time.UnixMilli(rapid.Int64Range(0, 1<<48-1).Draw(t, name)).UTC()
			random := [10]byte(rapid.SliceOfN(rapid.Byte(), 10, 10).Draw(t, name+" random"))
			return at, sallyport.MakeID("call", at, random)
		}
		at, id := draw("first")
		if got, ok := sallyport.TimeOfID("call", id); !ok || !got.Equal(at) {
			t.Fatalf("%s was made at %v, not %v (%v)", id, at, got, ok)
		}
		later, other := draw("second")
		if at.Before(later) && strings.Compare(id, other) >= 0 {
			t.Fatalf("%s of %v does not sort before %s of %v", id, at, other, later)
		}
	})
	for _, bad := range []string{"", "call_", "call_0", "run_01k00000000000000000000000", "call_81k00000000000000000000000", "call_01k0000000000000000000000l", "call_01K00000000000000000000000", "call_01k000000000000000000000000"} {
		if at, ok := sallyport.TimeOfID("call", bad); ok {
			t.Errorf("%q is of %v", bad, at)
		}
	}
}
