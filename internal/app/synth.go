package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/synth"
	"sallyport/internal/twin"
	"sallyport/internal/wire"
)

// SynthOptions say which tables are filled, and after what.
type SynthOptions struct {
	Dir   string // the project directory
	World string
	Rows  map[string]int64 // by table
	Learn []string         // files of masked rows, table=file or called as the table is
	// Shapes is a file: what was learned is written to it, and without Learn taken
	// from it.
	Shapes string
	Keep   []string // fields of which values may be in shapes, table.field
	Seed   uint64
	Out    string // folder
	Force  bool   // write over what is there
	// Progress, if not nil, is called now and then with the rows made so far and those
	// there are to be; while it learns, the second is 0.
	Progress func(done, total int64)
}

// SynthReport is what was made.
type SynthReport struct {
	World  string       `json:"world"`
	Seed   uint64       `json:"seed"`
	Shapes string       `json:"shapes,omitempty"` // the file that was written
	Tables []SynthTable `json:"tables"`
}

// SynthTable is one table of a report.
type SynthTable struct {
	Table   string `json:"table"`
	Learned int64  `json:"learned"` // rows
	Rows    int64  `json:"rows"`
	Bytes   int64  `json:"bytes"`
	File    string `json:"file,omitempty"`
}

// synthShapes is what a file of shapes holds.
type synthShapes struct {
	Version int                     `json:"version"` // 1
	Tables  map[string]*synth.Shape `json:"tables"`
}

const (
	maxShapes     = 64 << 20
	synthInterval = 4096 // rows between two looks at whether to go on
)

// Synth fills tables of a world. Nothing takes its place before all of it is made.
func Synth(ctx context.Context, o SynthOptions) (*SynthReport, error) {
	def, problems := config.ReadTwin(os.DirFS(o.Dir), o.World)
	if len(problems) > 0 {
		return nil, problems
	}
	tables := synthTables(def)
	refuse := func(what, next string) error { return sallyport.Refuse(sallyport.BadRequest, what, next) }
	switch {
	case len(o.Rows) == 0 && (len(o.Learn) == 0 || o.Shapes == ""):
		return nil, refuse("it is not said how many rows there are to be", "say --rows table=number,..., or only learn with --learn and --shapes")
	case len(o.Rows) > 0 && o.Out == "":
		return nil, refuse("there is no folder for what is written", "name one with --out")
	case len(o.Keep) > 0 && len(o.Learn) == 0:
		return nil, refuse("--keep is for learning, and nothing is learned from", "name files with --learn")
	}
	outputs := map[string]string{}
	for name, n := range o.Rows {
		if n == 0 {
			continue
		}
		outputs[name] = filepath.Join(o.Out, name+".ndjson")
		if def.Tables[name].KeyOutside {
			outputs[name] = filepath.Join(o.Out, name+".json")
		}
	}
	taken := slices.Sorted(maps.Values(outputs))
	if len(o.Learn) > 0 && o.Shapes != "" {
		taken = append(taken, o.Shapes)
	}
	for _, file := range taken {
		if _, err := os.Lstat(file); err == nil && !o.Force {
			return nil, sallyport.Refuse(sallyport.Conflict, file+" is there already; nothing was written", "name another one, or write over it with --force")
		}
	}
	shapes, err := o.shapes(ctx, tables, taken)
	if err != nil {
		return nil, err
	}
	made, err := synth.New(tables, shapes, o.Rows, o.Seed)
	if err != nil {
		return nil, refuse("the tables of "+o.World+" cannot be filled so:\n"+err.Error(), "")
	}
	report := &SynthReport{World: o.World, Seed: o.Seed, Tables: []SynthTable{}}
	total, before := int64(0), int64(0)
	for _, n := range o.Rows {
		total += n
	}
	var temporary []string
	defer func() {
		for _, name := range temporary {
			_ = gone(name) // those that are in their place have gone
		}
	}()
	for i := range tables {
		t := &tables[i]
		done := SynthTable{Table: t.Name, Rows: o.Rows[t.Name], File: outputs[t.Name]}
		if s := shapes[t.Name]; s != nil {
			done.Learned = s.Rows
		}
		if done.File != "" {
			var name string
			name, done.Bytes, err = writeAside(done.File, func(w *bufio.Writer) error {
				return writeRows(ctx, w, made, t, func(n int64) {
					if o.Progress != nil {
						o.Progress(before+n, total)
					}
				})
			})
			temporary = append(temporary, name)
			if err != nil {
				return nil, fmt.Errorf("filling %s: %w", t.Name, err)
			}
			before += done.Rows
		}
		if done.File != "" || done.Learned > 0 {
			report.Tables = append(report.Tables, done)
		}
	}
	if len(o.Learn) > 0 && o.Shapes != "" {
		raw, err := json.MarshalIndent(synthShapes{Version: 1, Tables: shapes}, "", "  ")
		if err != nil {
			return nil, err
		}
		name, _, err := writeAside(o.Shapes, func(w *bufio.Writer) error {
			_, err := w.Write(append(raw, '\n'))
			return err
		})
		temporary = append(temporary, name)
		if err != nil {
			return nil, err
		}
		if err := settle(name, o.Shapes, o.Force); err != nil {
			return nil, err
		}
		report.Shapes = o.Shapes
	}
	at := 0
	for _, t := range report.Tables {
		if t.File != "" {
			if err := settle(temporary[at], t.File, o.Force); err != nil {
				return nil, err
			}
			at++
		}
	}
	return report, nil
}

// writeAside writes a temporary file beside where it belongs, and gives its name.
func writeAside(file string, write func(w *bufio.Writer) error) (name string, size int64, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", 0, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".synth-*")
	if err != nil {
		return "", 0, err
	}
	buffered := bufio.NewWriterSize(tmp, chunkSize)
	err = errors.Join(write(buffered), buffered.Flush(), tmp.Chmod(0o644), tmp.Sync())
	size, seekErr := tmp.Seek(0, io.SeekCurrent)
	return tmp.Name(), size, errors.Join(err, seekErr, tmp.Close())
}

func writeRows(ctx context.Context, w *bufio.Writer, made *synth.Generator, t *synth.Table, progress func(int64)) error {
	n := int64(0)
	if t.KeyOutside {
		w.WriteByte('{')
	}
	for row := range made.Rows(t.Name) {
		if n%synthInterval == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			progress(n)
		}
		if t.KeyOutside {
			if n > 0 {
				w.WriteString(",\n")
			}
			w.Write(row.Key)
			w.WriteByte(':')
		}
		if _, err := w.Write(row.JSON); err != nil {
			return err
		}
		if !t.KeyOutside {
			w.WriteByte('\n')
		}
		n++
	}
	if t.KeyOutside {
		w.WriteString("}\n")
	}
	return nil // an error of the writer comes again with Flush
}

// synthTables are the tables of a world by name.
func synthTables(def *twin.Definition) []synth.Table {
	var tables []synth.Table
	for _, name := range slices.Sorted(maps.Keys(def.Tables)) {
		d := def.Tables[name]
		t := synth.Table{Name: name, Key: d.Key, KeyOutside: d.KeyOutside, ID: synth.ID(d.ID)}
		for _, u := range d.Unique {
			t.Unique = append(t.Unique, u)
		}
		for _, field := range slices.Sorted(maps.Keys(d.Fields)) {
			f := d.Fields[field]
			t.Fields = append(t.Fields, synth.Field{Name: field, Type: f.Type, Values: f.Values, Required: f.Required, Unique: f.Unique, Refs: f.Refs})
		}
		tables = append(tables, t)
	}
	return tables
}

// shapes are those learned from files, or those of a file. written are the files that
// must not be among those that are read.
func (o *SynthOptions) shapes(ctx context.Context, tables []synth.Table, written []string) (map[string]*synth.Shape, error) {
	if len(o.Learn) == 0 {
		return readShapes(o.Shapes)
	}
	learners := map[string]*synth.Learner{}
	byName := map[string]*synth.Table{}
	keep := map[string][]string{}
	for i := range tables {
		byName[tables[i].Name] = &tables[i]
	}
	for _, k := range o.Keep {
		table, field, ok := strings.Cut(k, ".")
		if !ok || byName[table] == nil {
			return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%q names no field of a table", k), "write --keep table.field")
		}
		keep[table] = append(keep[table], field)
	}
	rows := int64(0)
	for _, from := range o.Learn {
		name, file, named := strings.Cut(from, "=")
		if !named {
			file = from
			name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		}
		t := byName[name]
		if t == nil {
			return nil, sallyport.Refuse(sallyport.NotFound, fmt.Sprintf("%s has no table %q to learn of from %s", o.World, name, file), "write --learn table="+file)
		}
		for _, w := range written {
			if sameFile(w, file) {
				return nil, sallyport.Refuse(sallyport.Conflict, w+" would be written over, and it is read", "name another folder with --out")
			}
		}
		if learners[name] == nil {
			learners[name] = synth.NewLearner(t, keep[name])
		}
		err := eachLearned(file, t, func(row []byte) error {
			if rows++; rows%synthInterval == 0 {
				if o.Progress != nil {
					o.Progress(rows, 0)
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			return learners[name].Add(row)
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil, sallyport.Refuse(sallyport.NotFound, "there is no file "+file, "")
		}
		if err != nil {
			return nil, fmt.Errorf("learning from %s: %w", file, err)
		}
	}
	shapes := map[string]*synth.Shape{}
	for name, l := range learners {
		shapes[name] = l.Shape()
	}
	return shapes, nil
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

func readShapes(file string) (map[string]*synth.Shape, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sallyport.Refuse(sallyport.NotFound, "there is no file of shapes "+file, "make one with --learn")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxShapes))
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var s synthShapes
	if err := dec.Decode(&s); err != nil || s.Version != 1 {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%s holds no shapes of this version: %v", file, err), "make it again with --learn")
	}
	for name, shape := range s.Tables {
		if err := shape.Check(); err != nil {
			return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%s: %s: %v", file, name, err), "make it again with --learn")
		}
	}
	return s.Tables, nil
}

// eachLearned visits the rows of a file of JSON, NDJSON or CSV.
func eachLearned(file string, t *synth.Table, visit func(row []byte) error) error {
	format, ok := formatOf(file)
	if !ok {
		return sallyport.Refuse(sallyport.BadRequest, "its name does not tell its format", "call it .csv, .json or .ndjson")
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if format == formatCSV {
		return eachRecord(f, t, visit)
	}
	dec := jsontext.NewDecoder(f)
	inside, members := false, false
	if format == formatJSON {
		inside, members = true, dec.PeekKind() == '{'
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
	}
	for {
		if kind := dec.PeekKind(); inside && (kind == ']' || kind == '}') {
			return nil
		}
		if members {
			if _, err := dec.ReadToken(); err != nil {
				return err
			}
		}
		row, err := dec.ReadValue()
		if errors.Is(err, io.EOF) && !inside {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(row); err != nil {
			return err
		}
	}
}

// eachRecord reads CSV as a twin does: what a column holds follows from the type of
// its field, and nothing at all is null.
func eachRecord(f io.Reader, t *synth.Table, visit func(row []byte) error) error {
	r := csv.NewReader(f)
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		return fmt.Errorf("reading the names of the columns: %w", err)
	}
	names := slices.Clone(head)
	names[0] = strings.TrimPrefix(names[0], "\ufeff")
	types := make([]string, len(names))
	for i, name := range names {
		if at := slices.IndexFunc(t.Fields, func(f synth.Field) bool { return f.Name == name }); at >= 0 {
			types[i] = t.Fields[at].Type
		}
	}
	var row []byte
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		row = append(row[:0], '{')
		for i, text := range record {
			if i > 0 {
				row = append(row, ',')
			}
			row = append(wire.AppendString(row, names[i]), ':')
			bare := slices.Contains([]string{"int", "number", "bool", "object", "array", "json"}, types[i]) && jsontext.Value(text).IsValid()
			switch {
			case text == "":
				row = append(row, "null"...)
			case bare:
				row = append(row, strings.TrimSpace(text)...)
			default:
				row = wire.AppendString(row, text)
			}
		}
		if err := visit(append(row, '}')); err != nil {
			line, _ := r.FieldPos(0)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}
