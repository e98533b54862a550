package twin

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"go.starlark.net/starlark"

	"sallyport/internal/canonical"
)

// The functions of this file read JSON that has been checked before and has no white
// space, as all rows are: package wire checks it, and this is done a million times.

// valueEnd is where the value that begins at i ends.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return stringEnd(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = stringEnd(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	default:
		for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
			i++
		}
		return i
	}
}

func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// unquoted is the text of a string, in the same bytes if it has no escapes.
func unquoted(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		panic("twin: a string that was read is not JSON: " + err.Error())
	}
	return text
}

// eachMember visits the members of an object, with the text of their names.
func eachMember(b []byte, visit func(name, raw []byte)) {
	for i := 1; b[i] != '}'; {
		end := stringEnd(b, i)
		name := unquoted(b[i:end])
		i = end + 1
		end = valueEnd(b, i)
		visit(name, b[i:end])
		if i = end; b[i] == ',' {
			i++
		}
	}
}

// memberOf is the value of a member, nil for none.
func memberOf(b []byte, name string) []byte {
	var found []byte
	eachMember(b, func(n, raw []byte) {
		if string(n) == name {
			found = raw
		}
	})
	return found
}

// read makes a value of JSON. The error is that of a limit.
func (vs *values) read(raw []byte) (starlark.Value, error) {
	v, _, _, err := vs.next(raw, 0, 0)
	return v, err
}

// next reads the value at i: where it ends, and its token if it is a number in an odd
// spelling.
func (vs *values) next(b []byte, i, depth int) (v starlark.Value, end int, odd string, err error) {
	if depth > canonical.MaxDepth {
		return nil, 0, "", fmt.Errorf("nested deeper than %d", canonical.MaxDepth)
	}
	switch b[i] {
	case '{':
		dict := starlark.NewDict(8)
		for i++; b[i] != '}'; {
			end := stringEnd(b, i)
			name := string(unquoted(b[i:end]))
			if err := vs.charge(64 + len(name)); err != nil {
				return nil, 0, "", err
			}
			member, end, odd, err := vs.next(b, end+1, depth+1)
			if err != nil {
				return nil, 0, "", err
			}
			if err := dict.SetKey(starlark.String(name), member); err != nil {
				return nil, 0, "", err
			}
			if odd != "" {
				vs.note(dict, name, odd, member)
			}
			if i = end; b[i] == ',' {
				i++
			}
		}
		return dict, i + 1, "", vs.charge(64)
	case '[':
		var items []starlark.Value
		spelled := map[int]string(nil)
		for i++; b[i] != ']'; {
			item, end, odd, err := vs.next(b, i, depth+1)
			if err != nil {
				return nil, 0, "", err
			}
			if odd != "" {
				if spelled == nil {
					spelled = map[int]string{}
				}
				spelled[len(items)] = odd
			}
			items = append(items, item)
			if i = end; b[i] == ',' {
				i++
			}
		}
		list := starlark.NewList(items)
		for at, token := range spelled {
			vs.note(list, strconv.Itoa(at), token, items[at])
		}
		return list, i + 1, "", vs.charge(64 + 16*len(items))
	case '"':
		end := stringEnd(b, i)
		return starlark.String(unquoted(b[i:end])), end, "", vs.charge(16 + end - i)
	case 'n':
		return starlark.None, i + 4, "", nil
	case 't':
		return starlark.True, i + 4, "", nil
	case 'f':
		return starlark.False, i + 5, "", nil
	default:
		end := valueEnd(b, i)
		if end-i > maxDigits {
			return nil, 0, "", fmt.Errorf("a number of more than %d characters", maxDigits)
		}
		token := string(b[i:end])
		v, plain := number(token)
		if plain {
			token = ""
		}
		return v, end, token, vs.charge(16 + len(token))
	}
}
