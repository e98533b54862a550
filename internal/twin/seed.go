package twin

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/wire"
)

// load reads a table's seed. The problems are in the file, and few of many are
// reported: the first maxProblems.
const maxProblems = 20

func (t *table) load(seed *Seed, data []byte) Problems {
	var problems Problems
	fail := func(where string, err error) error {
		problems = append(problems, &Problem{Place: where, Reason: err.Error()})
		if len(problems) >= maxProblems {
			return errEnough
		}
		return nil
	}
	t.rows = make([]byte, 0, len(data))
	add := func(where string, raw []byte, key string, hasKey bool) error {
		if err := t.add(raw, key, hasKey); err != nil {
			return fail(where, err)
		}
		return nil
	}
	format := seed.Format
	if format == "" {
		format = formatOf(seed.File)
	}
	var err error
	switch format {
	case "ndjson":
		err = eachLine(data, func(line int, raw []byte) error {
			where := fmt.Sprintf("%s:%d", seed.File, line)
			if err := wire.Each(raw, func(string, []byte) error { return nil }); err != nil {
				return fail(where, err)
			}
			return add(where, raw, "", false)
		})
	case "csv":
		err = t.eachRecord(seed.File, data, add, fail)
	default:
		err = eachRow(seed, data, add)
	}
	if err != nil && !errors.Is(err, errEnough) {
		problems = append(problems, &Problem{Place: seed.File, Reason: err.Error()})
	}
	return problems
}

var errEnough = errors.New("enough problems")

func formatOf(file string) string {
	switch {
	case strings.HasSuffix(file, ".ndjson"), strings.HasSuffix(file, ".jsonl"):
		return "ndjson"
	case strings.HasSuffix(file, ".csv"):
		return "csv"
	default:
		return "json"
	}
}

func eachLine(data []byte, visit func(line int, raw []byte) error) error {
	for line := 1; len(data) > 0; line++ {
		raw, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		if raw = bytes.TrimSpace(raw); len(raw) == 0 {
			continue
		}
		if err := visit(line, raw); err != nil {
			return err
		}
	}
	return nil
}

type addRow func(where string, raw []byte, key string, hasKey bool) error

func eachRow(seed *Seed, data []byte, add addRow) error {
	data = bytes.TrimSpace(data)
	for token := range jsontext.Pointer(seed.At).Tokens() {
		raw, ok, err := wire.Field(data, token)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("there is nothing at %s", seed.At)
		}
		data = raw
	}
	if len(data) > 0 && data[0] == '{' {
		return wire.Each(data, func(key string, raw []byte) error {
			return add(seed.File+": "+strconv.Quote(key), raw, key, true)
		})
	}
	rows, err := wire.Elements(data)
	if err != nil {
		return err
	}
	for i, raw := range rows {
		if err := add(fmt.Sprintf("%s: row %d", seed.File, i+1), raw, "", false); err != nil {
			return err
		}
	}
	return nil
}

// eachRecord reads CSV. What a column holds follows from the type of its field;
// nothing at all is null, but in strings that refer to nothing.
func (t *table) eachRecord(file string, data []byte, add addRow, fail func(string, error) error) error {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		return fmt.Errorf("reading the names of the fields: %w", err)
	}
	names := append([]string(nil), head...)
	types := map[string]string{}
	for _, f := range t.fields {
		types[f.name] = f.Type
		if f.Refs != "" && (f.Type == "" || f.Type == "string") {
			types[f.name] = "reference"
		}
	}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line, _ := r.FieldPos(0)
		where := fmt.Sprintf("%s:%d", file, line)
		row := []byte{'{'}
		for i, text := range record {
			if i > 0 {
				row = append(row, ',')
			}
			row = append(wire.AppendString(row, names[i]), ':')
			switch types[names[i]] {
			case "int", "number", "bool", "object", "array", "json":
				if text == "" {
					text = "null"
				}
				row = append(row, text...)
			case "time", "enum", "reference":
				if text == "" {
					row = append(row, "null"...)
					continue
				}
				row = wire.AppendString(row, text)
			default:
				row = wire.AppendString(row, text)
			}
		}
		row = append(row, '}')
		// The text of a column can be anything.
		if err := wire.Each(row, func(string, []byte) error { return nil }); err != nil {
			err = fail(where, fmt.Errorf("a column does not fit its type: %w", err))
			if err != nil {
				return err
			}
			continue
		}
		if err := add(where, row, "", false); err != nil {
			return err
		}
	}
}
