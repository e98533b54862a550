package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sallyport/doc"
	"sallyport/internal/api"
)

// TestRefusalsPage: every code of refusal.go has a paragraph in the page, with
// the status this API gives it, and the page has no others.
func TestRefusalsPage(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../../refusal.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typed, ok := spec.Type.(*ast.Ident); ok && typed.Name == "Code" {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
		return true
	})
	if len(codes) < 25 {
		t.Fatalf("only %d codes were found in refusal.go", len(codes))
	}
	page := []byte(doc.Refusals)
	// A heading is the anchor that problems point to: the code and nothing else.
	paragraph := regexp.MustCompile("(?ms)^### ([a-z_]+)\n\nHTTP ([0-9]{3})\\. \\S.*?\n\n\\*\\*What to do\\.\\*\\* \\S")
	have := map[string]int{}
	for _, m := range paragraph.FindAllSubmatch(page, -1) {
		have[string(m[1])], _ = strconv.Atoi(string(m[2]))
	}
	statuses := api.Statuses()
	for _, code := range codes {
		status, ok := have[code]
		switch {
		case !ok:
			t.Errorf("doc/refusals.md says nothing of %s, or not in the form of the others", code)
		case statuses[code] == 0:
			t.Errorf("the API has no status for %s", code)
		case status != statuses[code]:
			t.Errorf("doc/refusals.md says HTTP %d of %s, the API answers %d", status, code, statuses[code])
		}
	}
	for code := range have {
		if !slices.Contains(codes, code) {
			t.Errorf("doc/refusals.md knows %s, and refusal.go does not", code)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^### `).FindAll(page, -1)); n != len(have) {
		t.Errorf("%d headings and %d paragraphs", n, len(have))
	}
}

// TestTypesLeadToText: whoever follows the type of a problem, without any
// credential, finds the paragraph of its code as the page has it.
func TestTypesLeadToText(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for code, status := range api.Statuses() {
		at, pointer, _ := strings.Cut(api.TypeOf(code), "#")
		w := r.ask(ask{method: "GET", path: at})
		var there any = decode[map[string]any](r, w)
		for _, step := range strings.Split(pointer, "/")[1:] {
			there = there.(map[string]any)[step]
		}
		said, ok := there.(map[string]any)
		if !ok {
			t.Errorf("%s leads nowhere", api.TypeOf(code))
			continue
		}
		text, _ := said["description"].(string)
		if title, _ := said["title"].(string); title == "" || said["status"] != float64(status) || !strings.HasPrefix(text, "HTTP "+itoa(status)+". ") || !strings.Contains(text, "**What to do.**") {
			t.Errorf("%s leads to %v", api.TypeOf(code), said)
		}
		if !strings.Contains(doc.Refusals, "### "+code+"\n\n"+text+"\n") || strings.Contains(text, "\n#") {
			t.Errorf("%s leads to what is not the paragraph of the page: %s", api.TypeOf(code), text)
		}
	}
}
