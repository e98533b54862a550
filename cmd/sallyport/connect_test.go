package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestLineDiffOfLongFiles: of a long file that differs in one place, that place is
// shown.
func TestLineDiffOfLongFiles(t *testing.T) {
	var before []string
	for i := range 5 * mostLines {
		before = append(before, fmt.Sprint(i))
	}
	after := slices.Insert(slices.Clone(before), 3*mostLines, "new")
	want := []string{"  5998", "  5999", "+ new", "  6000", "  6001"}
	if got := lineDiff(before, after); !slices.Equal(got, want) {
		t.Errorf("got %q", got[:min(len(got), 10)])
	}
	if got := lineDiff(after, before); !slices.Equal(got, []string{"  5998", "  5999", "- new", "  6000", "  6001"}) {
		t.Errorf("the other way round: %q", got[:min(len(got), 10)])
	}
	for _, c := range []struct{ old, next, want string }{
		{"", "a", "+ a"}, {"a", "", "- a"}, {"a a", "a", "  a|- a"}, {"a b c", "a b c", ""}, {"a b a", "a", "  a|- b|- a"},
	} {
		got := strings.Join(lineDiff(strings.Fields(c.old), strings.Fields(c.next)), "|")
		if got != c.want {
			t.Errorf("%q to %q: %q, want %q", c.old, c.next, got, c.want)
		}
	}
}
