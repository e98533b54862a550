package descriptor_test

import (
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"sallyport"
	"sallyport/internal/descriptor"
)

type setFile struct {
	Source       string            `json:"source"`
	Upstream     string            `json:"upstream"`
	Instructions string            `json:"instructions"`
	Tools        []json.RawMessage `json:"tools"`
}

func (f *setFile) set() descriptor.Set {
	s := descriptor.Set{Upstream: sallyport.UpstreamID(f.Upstream), Instructions: f.Instructions}
	for _, d := range f.Tools {
		s.Tools = append(s.Tools, descriptor.Tool{Definition: d})
	}
	return s
}

// benign are lists of tools that other people wrote in good faith.
func benign(t testing.TB) []setFile {
	t.Helper()
	f, err := os.Open("testdata/benign.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all []setFile
	if err := json.NewDecoder(z).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFalseAlarms counts what is found in tools that nobody poisoned.
func TestFalseAlarms(t *testing.T) {
	tools, count, alarmed := 0, map[string]int{}, map[descriptor.Severity]map[string]bool{}
	for _, f := range benign(t) {
		s := f.set()
		tools += len(s.Tools)
		found, err := descriptor.Check(&s)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range found {
			count[one.Severity.String()+" "+string(one.Code)]++
			if alarmed[one.Severity] == nil {
				alarmed[one.Severity] = map[string]bool{}
			}
			alarmed[one.Severity][f.Upstream+"/"+one.Tool] = true
			if one.Severity > descriptor.Low {
				t.Logf("%s %s %s %s: %s", one.Severity, one.Code, f.Upstream, one.Tool+one.Pointer, one.Excerpt)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%s: %d", k, count[k])
	}
	t.Logf("%d tools; with a finding: high %d, medium %d, low %d", tools, len(alarmed[descriptor.High]), len(alarmed[descriptor.Medium]), len(alarmed[descriptor.Low]))
	if tools < 300 {
		t.Fatalf("only %d tools were looked at", tools)
	}
	if n := len(alarmed[descriptor.High]); n*200 > tools {
		t.Errorf("%d of %d honest tools have a grave finding: more than 0.5 %%", n, tools)
	}
	if n := len(alarmed[descriptor.Medium]); n*25 > tools {
		t.Errorf("%d of %d honest tools have a finding of medium weight: more than 4 %%", n, tools)
	}
}
