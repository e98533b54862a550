package descriptor_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sallyport/internal/descriptor"
)

type poisonedCase struct {
	Name string `json:"name"`
	setFile
	Others []setFile         `json:"others"`
	Want   []descriptor.Code `json:"want"`
}

func poisoned(t testing.TB) []poisonedCase {
	t.Helper()
	b, err := os.ReadFile("testdata/poisoned.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []poisonedCase
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPoisoned holds what is found, and, of those that are called paraphrases, that
// nothing is: the day one of them is found its name changes. Every code is in use.
func TestPoisoned(t *testing.T) {
	met := map[descriptor.Code]bool{}
	for _, c := range poisoned(t) {
		s := c.set()
		var others []descriptor.Set
		for i := range c.Others {
			others = append(others, c.Others[i].set())
		}
		found, err := descriptor.Check(&s, others...)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		var codes []descriptor.Code
		for _, f := range found {
			codes = append(codes, f.Code)
			met[f.Code] = true
			if f.Why == "" || f.Do == "" || f.Severity == 0 || strings.ContainsFunc(f.Excerpt+f.Tool, func(r rune) bool { return r < ' ' || descriptor.Safe(string(r)) != string(r) && r != ' ' }) {
				t.Errorf("%s: %+v", c.Name, f)
			}
		}
		paraphrase := strings.HasPrefix(c.Name, "paraphrase")
		for _, want := range c.Want {
			if slices.Contains(codes, want) == paraphrase {
				t.Errorf("%s: found %q, and %q is told", c.Name, codes, want)
			}
		}
	}
	for _, code := range descriptor.Codes() {
		if !met[code] {
			t.Errorf("nothing in the corpus is found by %s", code)
		}
	}
}

// TestPage: doc/tools.md explains every code, and none that there is not.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../doc/tools.md")
	if err != nil {
		t.Fatal(err)
	}
	var told []descriptor.Code
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(page, -1) {
		told = append(told, descriptor.Code(m[1]))
	}
	slices.Sort(told)
	if !slices.Equal(told, descriptor.Codes()) {
		t.Errorf("the page has %q, there are %q", told, descriptor.Codes())
	}
}
