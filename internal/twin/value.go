package twin

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.starlark.net/starlark"

	"sallyport/internal/canonical"
	"sallyport/internal/wire"
)

// spelling is a number that is not written as it would be printed, 1.10 or 1e3, and
// the value it was read as.
type spelling struct {
	token string
	value starlark.Value
}

// spellings are kept beside the object or list that a number stands in, by name or
// index: Starlark's numbers have no room for them.
type spellings map[starlark.Value]map[string]spelling

// values turns JSON into Starlark and back. Every object and list it makes is new.
type values struct {
	odd    spellings
	charge func(bytes int) error // an error beyond the limit
}

// maxDigits is how long a number may be: arithmetic on longer ones is slow.
const maxDigits = 4096

func (vs *values) note(in starlark.Value, at, token string, v starlark.Value) {
	if vs.odd == nil {
		vs.odd = spellings{}
	}
	if vs.odd[in] == nil {
		vs.odd[in] = map[string]spelling{}
	}
	vs.odd[in][at] = spelling{token: token, value: v}
}

// number is what a JSON number is in Starlark, and whether it prints as the token.
func number(token string) (v starlark.Value, plain bool) {
	if !strings.ContainsAny(token, ".eE") {
		if i, err := strconv.ParseInt(token, 10, 64); err == nil {
			return starlark.MakeInt64(i), token != "-0"
		}
		i, _ := new(big.Int).SetString(token, 10)
		return starlark.MakeBigInt(i), true
	}
	f, _ := strconv.ParseFloat(token, 64) // beyond the range it is infinite
	return starlark.Float(f), string(appendFloat(nil, f)) == token
}

// appendFloat prints a double as Python's repr does.
func appendFloat(dst []byte, f float64) []byte {
	size := math.Abs(f)
	if f == 0 || size >= 1e-4 && size < 1e16 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	return strconv.AppendFloat(dst, f, 'e', -1, 64)
}

// write appends the JSON of a value, without white space.
func (vs *values) write(dst []byte, v starlark.Value) ([]byte, error) {
	start := len(dst)
	dst, err := vs.appendValue(dst, v, 0)
	if err != nil {
		return nil, err
	}
	return dst, vs.charge(len(dst) - start)
}

// maxAnswer bounds the JSON that a value becomes, in bytes.
const maxAnswer = 64 << 20

func (vs *values) appendValue(dst []byte, v starlark.Value, depth int) ([]byte, error) {
	if depth > canonical.MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", canonical.MaxDepth)
	}
	if len(dst) > maxAnswer {
		return nil, fmt.Errorf("more than %d bytes of JSON", maxAnswer)
	}
	var err error
	switch v := v.(type) {
	case starlark.NoneType:
		return append(dst, "null"...), nil
	case starlark.Bool:
		return strconv.AppendBool(dst, bool(v)), nil
	case starlark.Int:
		return append(dst, v.String()...), nil
	case starlark.Float:
		if math.IsInf(float64(v), 0) || math.IsNaN(float64(v)) {
			return nil, fmt.Errorf("%s is no number in JSON", v)
		}
		return appendFloat(dst, float64(v)), nil
	case starlark.String:
		return jsontext.AppendQuote(dst, string(v))
	case *starlark.List:
		return vs.appendList(dst, v, v, depth)
	case starlark.Tuple:
		return vs.appendList(dst, nil, v, depth)
	case *starlark.Dict:
		odd := vs.odd[v]
		dst = append(dst, '{')
		for i, item := range v.Items() {
			key, ok := item[0].(starlark.String)
			if !ok {
				return nil, fmt.Errorf("a member of an object is named by a string, not by %s", item[0].Type())
			}
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = jsontext.AppendQuote(dst, string(key)); err != nil {
				return nil, err
			}
			dst = append(dst, ':')
			if s, ok := odd[string(key)]; ok && sameNumber(s.value, item[1]) {
				dst = append(dst, s.token...)
				continue
			}
			if dst, err = vs.appendValue(dst, item[1], depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	default:
		return nil, fmt.Errorf("%s cannot be written as JSON", v.Type())
	}
}

func (vs *values) appendList(dst []byte, in *starlark.List, items starlark.Indexable, depth int) ([]byte, error) {
	var odd map[string]spelling
	if in != nil {
		odd = vs.odd[in]
	}
	var err error
	dst = append(dst, '[')
	for i := range items.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		if odd != nil {
			if s, ok := odd[strconv.Itoa(i)]; ok && sameNumber(s.value, items.Index(i)) {
				dst = append(dst, s.token...)
				continue
			}
		}
		if dst, err = vs.appendValue(dst, items.Index(i), depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func sameNumber(a, b starlark.Value) bool {
	if a.Type() != b.Type() {
		return false
	}
	same, err := starlark.Equal(a, b)
	return err == nil && same
}

// styled is the text of a JSON value. A string is its own text.
func styled(raw []byte, style string) (string, error) {
	if raw[0] == '"' {
		text, err := jsontext.AppendUnquote(nil, raw)
		return string(text), err
	}
	return laidOut(raw, style)
}

// laidOut is JSON without white space, with that of a style.
func laidOut(raw []byte, style string) (string, error) {
	switch style {
	case "python":
		dst, err := appendPython(nil, raw)
		return string(dst), err
	case "indent":
		v := jsontext.Value(bytes.Clone(raw))
		err := v.Indent(jsontext.WithIndent("  "), jsontext.PreserveRawStrings(true))
		return string(v), err
	}
	return string(raw), nil
}

// appendPython writes compact JSON as Python's json.dumps does without options:
// ", " and ": ", and nothing but ASCII.
func appendPython(dst, raw []byte) ([]byte, error) {
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case '"':
			end := i + 1
			for raw[end] != '"' {
				if raw[end] == '\\' {
					end++
				}
				end++
			}
			text, err := jsontext.AppendUnquote(nil, raw[i:end+1])
			if err != nil {
				return nil, err
			}
			dst = appendASCII(dst, text)
			i = end + 1
			continue
		case ',', ':':
			dst = append(dst, c, ' ')
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst, nil
}

func appendASCII(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	unit := func(u rune) {
		dst = append(dst, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	dst = append(dst, '"')
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\r':
			dst = append(dst, '\\', 'r')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r == '\b':
			dst = append(dst, '\\', 'b')
		case r == '\f':
			dst = append(dst, '\\', 'f')
		case r < 0x20 || r >= 0x7f && r < 0x10000 && r != 0x7f:
			unit(r)
		case r >= 0x10000:
			r -= 0x10000
			unit(0xd800 + r>>10)
			unit(0xdc00 + r&0x3ff)
		default:
			dst = append(dst, byte(r))
		}
	}
	return append(dst, '"')
}

// A state is compared in a form of its own: members sorted, equal numbers equal
// however they are spelled, lists sorted unless their order counts.

// stateOf is that form of a value. ordered are the pointers, split into their tokens,
// of the lists whose order counts.
func stateOf(raw []byte, ordered [][]string) []byte {
	switch raw[0] {
	case '{':
		members := membersOf(raw)
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		dst := []byte{'{'}
		for _, m := range members {
			dst = append(wire.AppendString(dst, m.name), ':')
			dst = append(append(dst, stateOf(m.raw, below(ordered, m.name))...), ',')
		}
		return append(dst, '}')
	case '[':
		inside := below(ordered, "*")
		var items [][]byte
		for i := 1; raw[i] != ']'; {
			end := valueEnd(raw, i)
			items = append(items, stateOf(raw[i:end], inside))
			if i = end; raw[i] == ',' {
				i++
			}
		}
		if !slices.ContainsFunc(ordered, func(p []string) bool { return len(p) == 0 }) {
			slices.SortFunc(items, bytes.Compare)
		}
		dst := []byte{'['}
		for _, item := range items {
			dst = append(append(dst, item...), ',')
		}
		return append(dst, ']')
	case '"':
		return wire.AppendString(nil, string(unquoted(raw)))
	case 'n', 't', 'f':
		return raw
	default:
		return appendDecimal(nil, string(raw))
	}
}

// below are the pointers that lead on through a member or element.
func below(ordered [][]string, name string) [][]string {
	var inside [][]string
	for _, p := range ordered {
		if len(p) > 0 && (p[0] == name || p[0] == "*") {
			inside = append(inside, p[1:])
		}
	}
	return inside
}

// appendDecimal writes a number so that 5, 5.0 and 50e-1 are one: its digits without
// zeros at the ends, and the power of ten they are multiplied by.
func appendDecimal(dst []byte, token string) []byte {
	negative := strings.HasPrefix(token, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(token, "-")), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return append(dst, '0')
	}
	power := new(big.Int)
	if exponent != "" {
		power.SetString(strings.TrimPrefix(exponent, "+"), 10)
	}
	power.Add(power, big.NewInt(int64(len(digits)-len(trimmed)-len(fraction))))
	if negative {
		dst = append(dst, '-')
	}
	dst = append(append(dst, trimmed...), 'e')
	return power.Append(dst, 10)
}
