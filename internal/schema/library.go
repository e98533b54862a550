package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// A schema the library judges may not lead back to itself, and maxPaths bounds
// how often its parts may share parts: the library has no budget of its own.
const (
	maxPaths       = 10_000
	maxLibraryWork = 1 << 26 // paths times bytes of the value
)

// documentURL names the document inside the library; it leads nowhere.
const documentURL = "schema:///document"

// noLoader refuses to load anything.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%q leads out of the document", url)
}

// libraryCompile checks a surveyed document against its meta-schema and compiles it.
func libraryCompile(doc any, d draft) (s *jsonschema.Schema, err error) {
	defer recovered(&err)
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(libraryPattern)
	switch d {
	case 4:
		c.DefaultDraft(jsonschema.Draft4)
	case 6:
		c.DefaultDraft(jsonschema.Draft6)
	case 7:
		c.DefaultDraft(jsonschema.Draft7)
	case 2019:
		c.DefaultDraft(jsonschema.Draft2019)
	default:
		c.DefaultDraft(jsonschema.Draft2020)
	}
	if err := c.AddResource(documentURL, doc); err != nil {
		return nil, err
	}
	s, err = c.Compile(documentURL)
	var bad *jsonschema.SchemaValidationError
	var reason *jsonschema.ValidationError
	if errors.As(err, &bad) && errors.As(bad.Err, &reason) {
		why := libraryReason(reason)
		return nil, errAt(why.Pointer, "%s", why.Message)
	}
	return s, err
}

// libraryValidate checks a value with the library.
func (s *Schema) libraryValidate(raw []byte) (err error) {
	defer recovered(&err)
	if s.paths*len(raw) > maxLibraryWork {
		return &Invalid{Message: "too much work to check against this schema", Expected: "a smaller value"}
	}
	v, err := parse(raw, MaxValueDepth)
	if err != nil {
		return &Invalid{Message: err.Error(), Expected: "one JSON value"}
	}
	var bad *jsonschema.ValidationError
	if err := s.library.Validate(v); errors.As(err, &bad) {
		return libraryReason(bad)
	} else if err != nil {
		return &Invalid{Message: err.Error(), Expected: "a value that fits the schema"}
	}
	return nil
}

// recovered turns a panic of the library into a value that does not fit.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = &Invalid{Message: fmt.Sprintf("cannot be checked: %v", p), Expected: "a value that can be checked"}
	}
}

var english = message.NewPrinter(language.English)

// libraryReason picks the deepest reason of a validation error. Where several are
// as deep, the order of their texts decides, since the library's is that of a map.
func libraryReason(err *jsonschema.ValidationError) *Invalid {
	var best *Invalid
	depth := -1
	var visit func(e *jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			visit(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		r := &Invalid{Message: e.ErrorKind.LocalizedString(english)}
		for _, token := range e.InstanceLocation {
			r.Pointer = join(r.Pointer, token)
		}
		r.Expected = libraryExpected(e.ErrorKind)
		d := len(e.InstanceLocation)
		if d > depth || d == depth && (r.Pointer+r.Message) < (best.Pointer+best.Message) {
			best, depth = r, d
		}
	}
	visit(err)
	return best
}

func libraryExpected(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return strings.Join(k.Want, " or ")
	case *kind.Required:
		return "property " + strings.Join(quoted(k.Missing), ", ")
	case *kind.AdditionalProperties, *kind.FalseSchema:
		return "nothing"
	case *kind.Enum:
		shown := make([]string, 0, maxListed)
		for _, v := range k.Want[:min(len(k.Want), maxListed)] {
			shown = append(shown, show(v))
		}
		return listed(shown, len(k.Want))
	default:
		return strings.Join(k.KeywordPath(), " ")
	}
}

func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("%q", name)
	}
	slices.Sort(out)
	return out
}

// countPaths counts the ways that lead from the root to a subschema. A schema that
// leads back to itself has no end of them, which is an error.
func countPaths(root *node) (int, error) {
	counts := map[*node]int{}
	var count func(n *node) (int, error)
	count = func(n *node) (int, error) {
		if c, ok := counts[n]; ok {
			if c == 0 {
				return 0, errors.New("it may not refer to itself")
			}
			return c, nil
		}
		counts[n] = 0
		total := 1
		for _, sub := range slices.Concat(n.inPlace(), n.inside()) {
			c, err := count(sub)
			if err != nil {
				return 0, err
			}
			if total += c; total > maxPaths {
				return 0, fmt.Errorf("its parts may share parts in at most %d ways", maxPaths)
			}
		}
		counts[n] = total
		return total, nil
	}
	return count(root)
}
