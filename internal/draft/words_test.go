package draft_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sallyport/internal/draft"
)

// labelled are names of tools and whether they only read.
func labelled(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		name, what, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && name != "#" {
			out[name] = what == "reads"
		}
	}
	return out
}

// TestReads measures names against tools that the words were not written for. A name
// can only raise what annotations say, so what counts is how many tools that change
// something sound like reads: as few as can be.
func TestReads(t *testing.T) {
	for _, c := range []struct {
		file        string
		tools       int
		least, most float64 // of reads that are found; of changes taken for reads
	}{
		{"injecagent.txt", 330, 0.75, 0.05},
		{"observed.txt", 30, 0.75, 0.06},
	} {
		found, reads, wrong, changes := 0, 0, 0, 0
		var missed, taken []string
		all := labelled(t, c.file)
		if len(all) < c.tools {
			t.Errorf("%s has %d tools", c.file, len(all))
		}
		for name, does := range all {
			says := draft.Reads(name)
			switch {
			case does && says:
				found, reads = found+1, reads+1
			case does:
				reads++
				missed = append(missed, name)
			case says:
				wrong, changes = wrong+1, changes+1
				taken = append(taken, name)
			default:
				changes++
			}
		}
		t.Logf("%s: read names: precision %.3f, recall %.3f (%d of %d); changes taken for reads: %d of %d: %s; reads not known as such: %s", c.file,
			float64(found)/float64(found+wrong), float64(found)/float64(reads), found, reads, wrong, changes, fmt.Sprint(taken), fmt.Sprint(missed))
		if r := float64(found) / float64(reads); r < c.least {
			t.Errorf("%s: %.3f of reads are found, want %.2f", c.file, r, c.least)
		}
		if r := float64(wrong) / float64(changes); r > c.most {
			t.Errorf("%s: %.3f of changes sound like reads, want %.2f at most: %v", c.file, r, c.most, taken)
		}
	}
}
