package detect_test

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"sallyport/internal/detect"
	"sallyport/internal/testkit/people"
)

// found is a finding with the text of its leaf.
type found struct {
	class string
	text  string
	at    string
	leaf  string
}

func findings(t *testing.T, s *detect.Scanner, doc []byte) []found {
	t.Helper()
	var all []found
	err := s.ScanJSON(doc, func(l *detect.Leaf) error {
		for _, f := range l.Findings {
			all = append(all, found{f.Kind.Class(), string(l.Text[f.Start:f.End]), l.Pointer(), string(l.Text)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRecallAndPrecision counts over 10,000 records of persons of 17 countries what is
// found of what was planted, and what is found besides.
func TestRecallAndPrecision(t *testing.T) {
	type score struct{ planted, hit, reported, false int }
	scores := map[string]*score{}
	of := func(class string) *score {
		if scores[class] == nil {
			scores[class] = new(score)
		}
		return scores[class]
	}
	s := detect.New()
	world := people.New(4)
	misses, wrongs := map[string][]string{}, map[string][]string{}
	for range 10_000 {
		r := world.Record()
		got := findings(t, s, r.Doc)
		used := make([]bool, len(got))
	planted:
		for _, p := range r.Planted {
			sc := of(p.Kind.Class())
			sc.planted++
			for i, g := range got {
				if !used[i] && g.class == p.Kind.Class() && g.text == p.Value {
					used[i] = true
					sc.hit++
					continue planted
				}
			}
			misses[p.Kind.String()] = append(misses[p.Kind.String()], p.Value)
		}
		for i, g := range got {
			of(g.class).reported++
			if !used[i] {
				of(g.class).false++
				wrongs[g.class] = append(wrongs[g.class], g.text+" at "+g.at+" in "+g.leaf)
			}
		}
	}
	var table strings.Builder
	classes := make([]string, 0, len(scores))
	for c := range scores {
		classes = append(classes, c)
	}
	sort.Strings(classes)
	for _, c := range classes {
		sc := scores[c]
		recall := float64(sc.hit) / float64(max(sc.planted, 1))
		precision := 1 - float64(sc.false)/float64(max(sc.reported, 1))
		fmt.Fprintf(&table, "%-12s planted %6d  recall %.4f  precision %.4f\n", c, sc.planted, recall, precision)
		if recall < 0.99 || precision < 0.99 {
			t.Errorf("%s: recall %.4f, precision %.4f", c, recall, precision)
		}
	}
	t.Log("\n" + table.String())
	for _, kind := range []map[string][]string{misses, wrongs} {
		for k, v := range kind {
			t.Logf("%s: %d, such as %q", k, len(v), v[:min(len(v), 6)])
		}
	}
}
