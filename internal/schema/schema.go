// Package schema checks JSON values against the JSON Schemas that tools declare
// for their arguments and results.
//
// A schema is compiled once, when a tool is pinned, and may come from anybody:
// [Compile] bounds its size, depth and the work it can cause, and never loads
// anything from outside the document. [Schema.Validate] walks the bytes of a
// value, so that numbers keep every digit.
//
// Drafts: 2020-12 (the default), 2019-09 and 07 are checked by this package's own
// walker. Draft 06, draft 04 and the unevaluated* keywords are handed to
// github.com/santhosh-tekuri/jsonschema, which is also the oracle in tests and
// judges every schema against its meta-schema. "format", "contentEncoding" and
// "contentMediaType" are annotations, as the 2020-12 specification has it by
// default (JSON Schema Validation 2020-12, sections 7 and 8).
package schema

import (
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The limits of a schema.
const (
	MaxBytes      = 256 << 10 // of the document
	MaxDepth      = 64        // nested objects and arrays of the document
	MaxSubschemas = 4096

	// MaxValueDepth is how deep a value may be nested.
	MaxValueDepth = 128
)

// Schema is a compiled schema. It is immutable and safe for concurrent use.
type Schema struct {
	root *node
	// library is set where root cannot judge; paths is then how many ways lead
	// through the schema, which bounds the work of one value.
	library *jsonschema.Schema
	paths   int
}

// Compile reads a JSON Schema. Errors say where in the schema, as a JSON pointer:
// what is not JSON or repeats a member name, what the meta-schema of its draft
// forbids, a "$ref" that leads out of the document, an embedded "$id", a regular
// expression that RE2 cannot run, and anything beyond the limits.
func Compile(raw []byte) (*Schema, error) {
	s, _, err := compile(raw, false)
	return s, err
}

// compile is Compile; with both set it also returns what the library made of the
// schema, for tests to compare the two.
func compile(raw []byte, both bool) (*Schema, *jsonschema.Schema, error) {
	if len(raw) > MaxBytes {
		return nil, nil, fmt.Errorf("schema of %d bytes: at most %d are allowed", len(raw), MaxBytes)
	}
	doc, err := parse(raw, MaxDepth)
	if err != nil {
		return nil, nil, fmt.Errorf("schema: %w", err)
	}
	b := builder{doc: doc, nodes: map[string]*node{}, anchors: map[string]string{}, seen: map[string]bool{}}
	root, err := b.build()
	if err != nil {
		return nil, nil, fmt.Errorf("schema: %w", err)
	}
	lib, err := libraryCompile(doc, b.draft)
	if err != nil {
		return nil, nil, fmt.Errorf("schema: %w", err)
	}
	s := &Schema{root: root}
	if b.foreign != "" {
		if s.paths, err = countPaths(root); err != nil {
			return nil, nil, fmt.Errorf("schema: with %s, %w", b.foreign, err)
		}
		s.library = lib
	}
	if !both {
		lib = nil
	}
	return s, lib, nil
}

// Validate checks one JSON value, which must have been scanned strictly: valid
// JSON without repeated member names. No bytes at all are read as {}, since a call
// may leave its arguments out. The error is an *Invalid.
func (s *Schema) Validate(raw []byte) error {
	if len(raw) == 0 {
		raw = emptyObject
	}
	if s.library != nil {
		return s.libraryValidate(raw)
	}
	var w walk
	w.raw = raw
	w.budget = workBudget(raw)
	end := w.visit(s.root, w.space(0), 0)
	if end >= 0 && w.space(end) == len(raw) {
		return nil
	}
	return s.explain(raw)
}

var emptyObject = []byte("{}")

// workBudget is how many steps the check of one value may take. A schema without
// branches takes about one step for every value and never comes near it; one
// whose branches lead to each other again could take 2^depth.
func workBudget(raw []byte) int { return 1<<20 + 8*len(raw) }

// explain walks the value once more and keeps the reason.
func (s *Schema) explain(raw []byte) error {
	w := walk{raw: raw, budget: workBudget(raw), explain: true}
	end := w.visit(s.root, w.space(0), 0)
	if end >= 0 || w.why == nil {
		return &Invalid{Message: "not one JSON value", Expected: "one JSON value"}
	}
	return w.why
}

// Invalid says why a value does not fit, in words for whoever made the value.
type Invalid struct {
	// Pointer leads to the value that does not fit (RFC 6901); empty for the
	// whole value.
	Pointer string
	// Message says what is wanted and what came; it may quote the value.
	Message string
	// Expected is what is wanted, without anything of the value.
	Expected string

	listed  bool // it is none of the values that are listed
	lacking bool // it is an object that lacks a property
}

func (e *Invalid) Error() string {
	if e.Pointer == "" {
		return e.Message
	}
	return e.Pointer + ": " + e.Message
}

// errAt is an error about a place in a schema.
func errAt(ptr, format string, args ...any) error {
	if ptr == "" {
		ptr = "/"
	}
	return errors.New(ptr + ": " + fmt.Sprintf(format, args...))
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func join(ptr, token string) string { return ptr + "/" + pointerEscape.Replace(token) }
