package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// parse reads one JSON value into maps, slices, strings, bools, nil and
// json.Number. Repeated names, invalid UTF-8, deeper nesting than depth, and
// numbers nobody can compare exactly (see readable) are errors.
func parse(raw []byte, depth int) (any, error) {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	v, err := parseValue(d, depth)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

func parseValue(d *jsontext.Decoder, depth int) (any, error) {
	tok, err := d.ReadToken()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		return tok.String(), nil
	case '0':
		text := tok.String()
		if !readable([]byte(text)) {
			return nil, errAt(string(d.StackPointer()), "number out of range")
		}
		return json.Number(text), nil
	}
	if depth == 0 {
		return nil, errAt(string(d.StackPointer()), "nested too deep")
	}
	if tok.Kind() == '[' {
		list := []any{}
		for d.PeekKind() != ']' {
			v, err := parseValue(d, depth-1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.ReadToken()
		return list, err
	}
	object := map[string]any{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		key := name.String()
		if object[key], err = parseValue(d, depth-1); err != nil {
			return nil, err
		}
	}
	_, err = d.ReadToken()
	return object, err
}
