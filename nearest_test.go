package sallyport_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
)

func TestNearest(t *testing.T) {
	names := []string{"payments/refund", "payments/list_payments", "crm/refund", "support", "binding", "max_result", "url", "read"}
	for word, want := range map[string][]string{
		"bindng": {"binding"}, "Binding": {"binding"}, "bidning": {"binding"}, "bindings2": {"binding"},
		"max-result": {"max_result"}, "maxresult": {"max_result"}, "ulr": {"url"}, "url": {"url"},
		"payments/refnd": {"payments/refund"}, "payment/refund": {"payments/refund", "crm/refund"}, "mail/refund": {"crm/refund", "payments/refund"},
		"refund": {"crm/refund", "payments/refund"}, "suport": {"support"}, "Read": {"read"}, "raed": {"read"},
		"xyz": nil, "": nil, "/": nil, strings.Repeat("binding", 40): nil,
	} {
		if diff := cmp.Diff(want, sallyport.Nearest(word, names)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", word, diff)
		}
	}
}

// TestNearestFindsOneSlip: whichever letter is left out, doubled, changed or
// swapped with its neighbour, the name is found again, whatever else there is.
func TestNearestFindsOneSlip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z]{3,12}`).Draw(t, "name")
		others := rapid.SliceOfN(rapid.StringMatching(`[0-9]{3,40}`), 0, 8).Draw(t, "others")
		at := rapid.IntRange(0, len(name)-2).Draw(t, "at")
		slip := map[string]string{
			"left out": name[:at] + name[at+1:], "doubled": name[:at+1] + name[at:], "changed": name[:at] + "~" + name[at+1:],
			"swapped": name[:at] + name[at+1:at+2] + name[at:at+1] + name[at+2:], "capital": strings.ToUpper(name),
		}
		kind := rapid.SampledFrom([]string{"left out", "doubled", "changed", "swapped", "capital"}).Draw(t, "slip")
		got := sallyport.Nearest(slip[kind], append(slices.Clone(others), name, name))
		if !slices.Equal(got, []string{name}) {
			t.Fatalf("%s of %s, %q: %v", kind, name, slip[kind], got)
		}
	})
}
