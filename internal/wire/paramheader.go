package wire

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// ParamHeader is one property of a tool's arguments that HTTP requests of the
// stateless era repeat in a header.
type ParamHeader struct {
	Header string   // without "Mcp-Param-", as the schema writes it
	Path   []string // names of properties, outermost first
	Type   string   // "string", "integer" or "boolean"
}

const annotation = "x-mcp-header"

// ParamHeaders returns the properties of a tool's input schema that are annotated
// with x-mcp-header, in the order of the schema (MCP 2026-07-28, Streamable HTTP,
// "Schema Extension"). The error, a *[SyntaxError], means that the tool must not be
// offered: an annotation is not a token, is used twice (case aside), is on
// something other than a string, integer or boolean, or is where "properties"
// alone do not lead to.
func ParamHeaders(inputSchema []byte) ([]ParamHeader, error) {
	var ps []ParamHeader
	// Most schemas have none, and then need not be walked. An escape could hide one.
	if !bytes.Contains(inputSchema, []byte(annotation)) && bytes.IndexByte(inputSchema, '\\') < 0 {
		return nil, nil
	}
	if err := walkSchema(inputSchema, nil, true, &ps); err != nil {
		return nil, err
	}
	for i := range ps {
		for _, q := range ps[:i] {
			if strings.EqualFold(ps[i].Header, q.Header) {
				return nil, badAnnotation(ps[i].Path, "repeats the name of another")
			}
		}
	}
	return ps, nil
}

func badAnnotation(path []string, why string) error {
	return &SyntaxError{Code: InvalidRequest, Reason: annotation + " of property " + strconv.Quote(strings.Join(path, ".")) + " " + why}
}

// walkSchema collects annotations. reachable says that nothing but "properties"
// led here along path.
func walkSchema(schema []byte, path []string, reachable bool, ps *[]ParamHeader) error {
	var kind, header []byte
	if err := Each(schema, func(keyword string, value []byte) error {
		switch keyword {
		case annotation:
			header = value
			return nil
		case "type":
			kind = value
			return nil
		case "properties":
			return walkNamed(value, path, reachable, ps)
		case "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies":
			return walkNamed(value, path, false, ps)
		case "enum", "const", "default", "examples":
			return nil // values, not schemas
		default:
			return walkOther(value, path, ps)
		}
	}); err != nil {
		return err
	}
	if header == nil {
		return nil
	}
	if !reachable || len(path) == 0 {
		return badAnnotation(path, "stands where properties alone do not lead")
	}
	name, err := DecodeString(header)
	if err != nil {
		return badAnnotation(path, "is not a string")
	}
	if !isFieldName(name) {
		return badAnnotation(path, "is not the name of a header")
	}
	switch string(kind) {
	case `"string"`, `"integer"`, `"boolean"`:
	default:
		return badAnnotation(path, "is on something other than a string, integer or boolean")
	}
	*ps = append(*ps, ParamHeader{Header: name, Path: path, Type: string(kind[1 : len(kind)-1])})
	return nil
}

// walkNamed walks an object whose names are names and whose values are schemas.
func walkNamed(schemas []byte, path []string, reachable bool, ps *[]ParamHeader) error {
	if schemas[0] != '{' {
		return nil
	}
	return Each(schemas, func(name string, schema []byte) error {
		if schema[0] != '{' {
			return nil
		}
		return walkSchema(schema, append(path[:len(path):len(path)], name), reachable, ps)
	})
}

// walkOther looks for annotations where there must be none: the schema or schemas
// of any other keyword, known or not.
func walkOther(value []byte, path []string, ps *[]ParamHeader) error {
	switch value[0] {
	case '{':
		return walkSchema(value, path, false, ps)
	case '[':
		elements, err := Elements(value)
		if err != nil {
			return err
		}
		for _, e := range elements {
			if err := walkOther(e, path, ps); err != nil {
				return err
			}
		}
	}
	return nil
}

// isFieldName reports whether s is a token of RFC 9110, section 5.6.2.
func isFieldName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') &&
			strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// argument returns the text of the header that mirrors an argument, and false if
// there is to be none because the argument is absent or null. args may be nil.
func (p *ParamHeader) argument(args []byte) (text string, ok bool, err error) {
	value := args
	for _, name := range p.Path {
		if len(value) == 0 || value[0] != '{' {
			return "", false, nil
		}
		v, ok, err := Field(value, name)
		if err != nil || !ok {
			return "", false, err
		}
		value = v
	}
	bad := func(want string) error {
		return &SyntaxError{Code: InvalidParams, Reason: "argument " + strconv.Quote(strings.Join(p.Path, ".")) + " is not " + want}
	}
	switch string(value) {
	case "", "null":
		return "", false, nil
	}
	switch p.Type {
	case "string":
		if value[0] != '"' {
			return "", false, bad("a string")
		}
		return string(unquoted(value)), true, nil
	case "integer":
		n, ok := safeInteger(value)
		if !ok {
			return "", false, bad("an integer of at most 53 bits")
		}
		return strconv.FormatInt(n, 10), true, nil
	case "boolean":
		if value[0] != 't' && value[0] != 'f' {
			return "", false, bad("a boolean")
		}
		return string(value), true, nil
	default:
		return "", false, bad("of a type that a header can carry")
	}
}

// CheckParamHeaders holds the Mcp-Param headers of a tools/call against its
// arguments: each is there if and only if its argument is, and says the same,
// integers being compared as numbers. Headers that ps does not know are ignored.
// The error is a *[SyntaxError] with Code HeaderMismatch, or InvalidParams for an
// argument of the wrong type.
func CheckParamHeaders(h http.Header, ps []ParamHeader, args []byte) error {
	for i := range ps {
		p := &ps[i]
		got, has, err := one(h, headerParam+p.Header)
		if err != nil {
			return err
		}
		want, wanted, err := p.argument(args)
		if err != nil {
			return err
		}
		switch {
		case !has && !wanted:
			continue
		case !has:
			return mismatch("header " + headerParam + p.Header + " is missing")
		case !wanted:
			return mismatch("header " + headerParam + p.Header + " is there without its argument")
		}
		if got, err = DecodeHeaderValue(got); err != nil {
			return err
		}
		if p.Type == "integer" {
			if n, ok := safeInteger([]byte(got)); ok {
				got = strconv.FormatInt(n, 10)
			}
		}
		if got != want {
			return mismatch("header " + headerParam + p.Header + " differs from its argument")
		}
	}
	return nil
}

// SetParamHeaders sets the Mcp-Param headers of a tools/call on its way to a
// server, and removes those whose argument is absent. The error is a *[SyntaxError]
// with Code InvalidParams, for an argument of the wrong type.
func SetParamHeaders(h http.Header, ps []ParamHeader, args []byte) error {
	for i := range ps {
		p := &ps[i]
		text, ok, err := p.argument(args)
		if err != nil {
			return err
		}
		if ok {
			h.Set(headerParam+p.Header, EncodeHeaderValue(text))
		} else {
			h.Del(headerParam + p.Header)
		}
	}
	return nil
}

// safeInteger reads a JSON number that is an integer, however it is written, and
// that every reader holds exactly: at most 2^53-1 in magnitude.
func safeInteger(tok []byte) (int64, bool) {
	s := scanner{b: tok}
	if !s.number() || s.i != len(tok) {
		return 0, false
	}
	mantissa, negative := bytes.CutPrefix(tok, []byte("-"))
	exponent := 0
	if i := bytes.IndexAny(mantissa, "eE"); i >= 0 {
		e, err := strconv.Atoi(string(mantissa[i+1:]))
		if err != nil {
			return 0, false
		}
		mantissa, exponent = mantissa[:i], e
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	digits := append(append(make([]byte, 0, len(mantissa)), whole...), fraction...)
	shift := exponent - len(fraction) // the value is digits times ten to the shift
	digits = bytes.TrimLeft(digits, "0")
	if len(digits) == 0 {
		return 0, true
	}
	for digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		shift++
	}
	if shift < 0 || shift > 16 || len(digits)+shift > 16 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(digits)+strings.Repeat("0", shift), 10, 64)
	if err != nil || n > 1<<53-1 {
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}
