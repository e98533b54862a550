package schema

import "github.com/santhosh-tekuri/jsonschema/v6"

// Oracle is what the library makes of a schema that Compile accepts.
type Oracle struct {
	schema *jsonschema.Schema
	// Foreign is set where Validate asks the library anyway.
	Foreign bool
}

// CompileBoth compiles a schema and its oracle.
func CompileBoth(raw []byte) (*Schema, *Oracle, error) {
	s, lib, err := compile(raw, true)
	if err != nil {
		return nil, nil, err
	}
	return s, &Oracle{schema: lib, Foreign: s.library != nil}, nil
}

// Parse is the reading of values the library is given.
func Parse(raw []byte) (any, error) { return parse(raw, MaxValueDepth) }

// Fits asks the library.
func (o *Oracle) Fits(v any) bool { return o.schema.Validate(v) == nil }

// ForceLibrary makes Validate ask the library, for benchmarks.
func ForceLibrary(s *Schema, o *Oracle) *Schema {
	return &Schema{root: s.root, library: o.schema, paths: 1}
}
