package app

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/auth"
	"sallyport/internal/cassette"
	"sallyport/internal/detect"
	"sallyport/internal/ident"
	"sallyport/internal/scrub"
	"sallyport/internal/testkit/people"
)

// scrubIn is a folder with a key and files.
func scrubIn(t testing.TB, files map[string]string) (dir string, o ScrubOptions) {
	t.Helper()
	dir = t.TempDir()
	files["key"] = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n"
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ScrubOptions{Out: filepath.Join(dir, "out"), Domain: "test", KeyFile: filepath.Join(dir, "key")}
}

func scrubbedFiles(t testing.TB, o ScrubOptions) *ScrubReport {
	t.Helper()
	r, err := Scrub(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// leavesOf are the leaves of a document by place, names of members included.
func leavesOf(t testing.TB, doc []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := detect.New().ScanJSON(doc, func(l *detect.Leaf) error {
		if !l.IsName {
			all[l.Pointer()] = string(l.Text)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	return all
}

// TestScrubCorpus scrubs 10,000 records of persons of 17 countries as NDJSON, as an
// array and as a table, and holds recall and precision by class in each, that nothing
// planted survives, that everything else is as it was, and that a value becomes the
// same in all three.
func TestScrubCorpus(t *testing.T) {
	const count = 10_000
	world := people.New(17)
	records := make([]people.Record, count)
	leaves := make([]map[string]string, count)
	columns := map[string]bool{}
	var ndjson, array bytes.Buffer
	for i := range records {
		records[i] = world.Record()
		leaves[i] = leavesOf(t, records[i].Doc)
		for at := range leaves[i] {
			columns[at] = true
		}
		ndjson.Write(records[i].Doc)
		ndjson.WriteString("\r\n")
		array.WriteString([]string{"[\n  ", " ,\n\t"}[min(i, 1)])
		array.Write(records[i].Doc)
	}
	array.WriteString("\n]\n")
	var header []string
	for at := range columns {
		header = append(header, at)
	}
	slices.Sort(header)
	var table bytes.Buffer
	w := csv.NewWriter(&table)
	names := make([]string, len(header))
	for i, at := range header {
		names[i] = strings.ReplaceAll(at[1:], "/", ".")
	}
	if err := w.Write(names); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		row := make([]string, len(header))
		for c, at := range header {
			row[c] = leaves[i][at]
		}
		if err := w.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	w.Flush()
	dir, o := scrubIn(t, map[string]string{"p.ndjson": ndjson.String(), "p.json": array.String(), "p.csv": table.String()})
	for _, name := range []string{"p.ndjson", "p.json", "p.csv"} {
		o.Files = append(o.Files, filepath.Join(dir, name))
	}
	report := scrubbedFiles(t, o)

	// What has become of each leaf, by file and record.
	after := map[string][]map[string]string{}
	for line := range strings.Lines(readFile(t, report.Files[0].Output)) {
		if !strings.HasSuffix(line, "}\r\n") {
			t.Fatalf("line %q", line)
		}
		after["p.ndjson"] = append(after["p.ndjson"], leavesOf(t, []byte(line)))
	}
	out := readFile(t, report.Files[1].Output)
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(out), &elements); err != nil {
		t.Fatal(err)
	}
	for _, e := range elements {
		after["p.json"] = append(after["p.json"], leavesOf(t, e))
	}
	if strings.Count(out, " ,\n\t") != count-1 || !strings.HasPrefix(out, "[\n  {") || !strings.HasSuffix(out, "}\n]\n") {
		t.Error("the array is not spaced as it was")
	}
	rows, err := csv.NewReader(strings.NewReader(readFile(t, report.Files[2].Output))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(rows[0], names) {
		t.Errorf("columns are %q", rows[0])
	}
	for i, row := range rows[1:] {
		m := map[string]string{}
		for c, at := range header {
			if _, ok := leaves[i][at]; ok {
				m[at] = row[c]
			} else if row[c] != "" {
				t.Fatalf("row %d: %s was empty and is %q", i, at, row[c])
			}
		}
		after["p.csv"] = append(after["p.csv"], m)
	}

	for f, file := range report.Files {
		name := filepath.Base(file.Input)
		planted, hit, reported := map[string]int{}, map[string]int{}, map[string]int{}
		for _, c := range file.Found {
			reported[c.Class] += int(c.Count)
		}
		if len(after[name]) != count || file.Records != count {
			t.Fatalf("%s: %d records, reported %d", name, len(after[name]), file.Records)
		}
		changedElsewhere := 0
		for i, r := range records {
			for _, p := range r.Planted {
				class := p.Kind.Class()
				planted[class]++
				gone := true
				for at, v := range leaves[i] {
					if strings.Contains(v, p.Value) && (p.Wrapped || len(p.Value) > 3 || v == p.Value) && strings.Contains(after[name][i][at], p.Value) && at != "/note" {
						gone = false
					}
					if at == "/note" && len(p.Value) > 3 && strings.Contains(after[name][i][at], p.Value) {
						gone = false
					}
				}
				if gone {
					hit[class]++
				}
			}
			for at, was := range leaves[i] {
				is := after[name][i][at]
				if f > 0 && is != after["p.ndjson"][i][at] {
					t.Fatalf("record %d, %s: %q became %q in %s and %q in NDJSON", i, at, was, is, name, after["p.ndjson"][i][at])
				}
				if was != is && !slices.ContainsFunc(r.Planted, func(p people.Planted) bool { return strings.Contains(was, p.Value) }) {
					changedElsewhere++
				}
			}
		}
		var text strings.Builder
		classes := make([]string, 0, len(planted))
		for class := range planted {
			classes = append(classes, class)
		}
		for class := range reported {
			if planted[class] == 0 {
				classes = append(classes, class)
			}
		}
		slices.Sort(classes)
		for _, class := range classes {
			recall := float64(hit[class]) / float64(max(planted[class], 1))
			precision := min(1, float64(hit[class])/float64(max(reported[class], 1)))
			fmt.Fprintf(&text, "%-12s planted %6d  found %6d  recall %.4f  precision %.4f\n", class, planted[class], reported[class], recall, precision)
			if recall < 0.99 || precision < 0.99 {
				t.Errorf("%s, %s: recall %.4f, precision %.4f", name, class, recall, precision)
			}
		}
		t.Logf("%s: %d leaves changed in which nothing was planted\n%s", name, changedElsewhere, &text)
		if changedElsewhere > count/200 {
			t.Errorf("%s: %d leaves changed in which nothing was planted", name, changedElsewhere)
		}
	}
}

// TestScrubAgain holds what a second run does: nothing where the same is there, a copy
// of what was scrubbed before, and no overwriting.
func TestScrubAgain(t *testing.T) {
	dir, o := scrubIn(t, map[string]string{"a.csv": "mail,dob\njane@corp.example,1985-03-12\n", "rules.yaml": "columns: {dob: {action: redact, class: date}}"})
	o.Files = []string{filepath.Join(dir, "a.csv")}
	r := scrubbedFiles(t, o)
	out := r.Files[0].Output
	first := readFile(t, out)
	if r.Files[0].Status != StatusScrubbed || strings.Contains(first, "jane") || strings.Contains(first, "1985-03-12") {
		t.Fatalf("%s: %s", r.Files[0].Status, first)
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want the permissions of the source", info.Mode(), err)
	}
	if r := scrubbedFiles(t, o); r.Files[0].Status != StatusUnchanged {
		t.Errorf("the same again is %s", r.Files[0].Status)
	}
	again := o
	again.Files, again.Out = []string{out}, filepath.Join(dir, "again")
	if r := scrubbedFiles(t, again); r.Files[0].Status != StatusCopied || readFile(t, r.Files[0].Output) != first {
		t.Errorf("what was scrubbed is %s", r.Files[0].Status)
	}
	refusals := func(what string, o ScrubOptions) {
		t.Helper()
		before := readFile(t, out)
		_, err := Scrub(context.Background(), o)
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict {
			t.Errorf("%s: %v", what, err)
		}
		if readFile(t, out) != before {
			t.Errorf("%s: the file changed", what)
		}
	}
	other := o
	other.Rules = filepath.Join(dir, "rules.yaml")
	refusals("other rules over what is there", other)
	other.Files, other.Out = []string{out}, filepath.Join(dir, "other")
	refusals("what was scrubbed with other rules", other)
	self := o
	self.Out, self.Force = dir, true
	refusals("a file over itself", self)
	if err := os.Symlink(filepath.Join(dir, "a.csv"), filepath.Join(dir, "link.csv")); err != nil {
		t.Fatal(err)
	}
	self.Files = []string{filepath.Join(dir, "link.csv")}
	refusals("a file over itself by another name", self)
	two := o
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b", "a.csv"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	two.Files = append(two.Files, filepath.Join(dir, "b", "a.csv"))
	refusals("two files of one name", two)
	// Something else is there.
	if err := os.WriteFile(out, []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusals("somebody else's file", o)
	o.Force = true
	if r := scrubbedFiles(t, o); r.Files[0].Status != StatusScrubbed || readFile(t, out) != first {
		t.Error("--force did not write it again")
	}
	// Another domain makes something else of it.
	o.Domain, o.Out = "other", filepath.Join(dir, "domain")
	if r := scrubbedFiles(t, o); readFile(t, r.Files[0].Output) == first {
		t.Error("two domains agree")
	}
}

func TestScrubKeepsTheForm(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"a.csv", "\xEF\xBB\xBFid;\"e mail\";note\r\n1;\"a@corp.example\";\"say \"\"hi\"\"; ok\"\r\n\r\n2;;x", "\xEF\xBB\xBFid;\"e mail\";note\r\n1;\"M\";\"say \"\"hi\"\"; ok\"\r\n\r\n2;;x"},
		{"b.csv", "a,email\n\"multi\nline\",a@corp.example\n", "a,email\n\"multi\nline\",M\n"},
		{"c.tsv", "5\" pipe\temail\nb\"c\ta@corp.example\n", "5\" pipe\temail\nb\"c\tM\n"},
		{"d.csv", "a|mail\nx,y|a@corp.example\n", "a|mail\nx,y|M\n"},
		{"e.csv", "email\na@corp.example\nx\n", "email\nM\nx\n"},
		{"f.csv", "doc,n\n\"{\"\"mail\"\": \"\"a@corp.example\"\"}\",1.50\n", "doc,n\n\"{\"\"mail\"\": \"\"M\"\"}\",1.50\n"},
		{"g.csv", "", ""},
		{"h.csv", "email\n", "email\n"},
		{"a.ndjson", "\xEF\xBB\xBF {\"a\" : 1.10}\r\n\n\t\"a@corp.example\"\n[]", "\xEF\xBB\xBF {\"a\" : 1.10}\r\n\n\t\"M\"\n[]"},
		{"a.json", " [ {\"m\":\"a@corp.example\"} , 1,[ ] ,\"a@corp.example\"]\n", " [ {\"m\":\"M\"} , 1,[ ] ,\"M\"]\n"},
		{"b.json", "\xEF\xBB\xBF{\"x\":[\"a@corp.example\"],\"y\":\"\\\\\\\"\"}", "\xEF\xBB\xBF{\"x\":[\"M\"],\"y\":\"\\\\\\\"\"}"},
		{"c.json", "[]", "[]"}, {"d.json", "7", "7"}, {"e.json", " null\n", " null\n"},
	} {
		dir, o := scrubIn(t, map[string]string{c.name: c.in})
		o.Files = []string{filepath.Join(dir, c.name)}
		got := readFile(t, scrubbedFiles(t, o).Files[0].Output)
		s, err := scrub.New(mustKey(t, o).Pseudonyms, &scrub.Rules{})
		if err != nil {
			t.Fatal(err)
		}
		mail, err := s.Text(nil, []byte("a@corp.example"), new(scrub.Tally))
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(c.want, "M", string(mail)); got != want {
			t.Errorf("%s: %q became\n%q, want\n%q", c.name, c.in, got, want)
		}
	}
}

func mustKey(t testing.TB, o ScrubOptions) *auth.DomainKey {
	t.Helper()
	root, err := auth.ReadKeyFile(o.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.NewDomainKey(root, o.Domain)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestScrubHostileFiles holds that what is broken is said with its line, and that
// nothing is left of it.
func TestScrubHostileFiles(t *testing.T) {
	rows := strings.Repeat("a@corp.example,x\n", 40_000) // more than one batch
	for _, c := range []struct{ name, in, want string }{
		{"a.csv", "mail,b\n" + rows + "a,\"unclosed\nb,c\n", "line 40002: the quote that begins here is not closed"},
		{"b.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 fields, and there are 2 columns"},
		{"c.csv", "a,b\n1,\"x\"y\n", "line 2: text after a closing quote"},
		{"d.csv", "a,b\n1,\"x\n\n\x00\"\n", "line 4: a NUL byte"},
		{"e.csv", "a,b\n1,M\xFCller\n", "line 2: not UTF-8"},
		{"f.csv", "\xFF\xFEa\x00,\x00", "line 1: this is UTF-16"},
		{"g.csv", "jane@corp.example,Jane\nx,y\n", "line 1: the first line should name the columns, and field 1 looks like data"},
		{"h.csv", "1,2026-01-05,17.5\n2,2026-01-06,18\n", "line 1: the first line should name the columns, and most of it are numbers"},
		{"i.csv", "a,b\n1,\"" + strings.Repeat("x", maxRecord), "line 2: the record that begins here is longer than 64 MiB"},
		{"a.ndjson", "{}\n" + strings.Repeat("{\"a\":1}\n", 60_000) + "{\"a\":}\n", "line 60002: not JSON"},
		{"b.ndjson", "{\"a\":1}\n{\"a\":1,\"a\":2}\n", "line 2: not JSON"},
		{"c.ndjson", "{\"a\":1} {\"b\":2}\n", "line 1: "},
		{"d.ndjson", "{}\n" + strings.Repeat("[", 70) + strings.Repeat("]", 70) + "\n", "line 2: document to be scanned: nested deeper than 64"},
		{"a.json", "[{\"a\":1},\n{\"b\":\"x\ny\"}]", "line 2: not JSON"},
		{"b.json", "[1,\n2", "line 2: not JSON: the document ends too soon"},
		{"c.json", "[1,\n2}", "line 2: not JSON: '}' after an element"},
		{"d.json", "{}\n{}\n", "line 2: not JSON: text after the document; a file with a document in each line is NDJSON"},
		{"e.json", "", "line 1: not JSON: the document ends too soon"},
		{"f.json", "[{\"a\":[1}]", "line 1: not JSON"},
		{"g.json", "[\n\n{\"a\":1,\n\"b\":\"\x80\"}]", "line 4: not UTF-8"},
		{"h.json", "[,]", "line 1: not JSON: ',' where a value should be"},
		{"i.json", "[\"abc", "line 1: not JSON: the value that begins here does not end"},
		{"j.json", strings.Repeat("[", 100_000), "line 1: not JSON: the value that begins here does not end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, o := scrubIn(t, map[string]string{c.name: c.in, "good.json": "[]"})
			o.Files = []string{filepath.Join(dir, "good.json"), filepath.Join(dir, c.name)}
			r, err := Scrub(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if r == nil || len(r.Files) != 1 {
				t.Errorf("report of the file before it: %+v", r)
			}
			left, err := os.ReadDir(o.Out)
			if err != nil || len(left) != 2 || left[0].Name() != "good.json" || left[1].Name() != scrubNote {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
	}
}

// TestScrubChunks holds that what comes out does not depend on how a file is cut.
func TestScrubChunks(t *testing.T) {
	dir, o := scrubIn(t, map[string]string{})
	_ = dir
	s, err := scrub.New(mustKey(t, o).Pseudonyms, &scrub.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(format, text string, size int) (string, error) {
		split := map[string]splitter{formatCSV: &csvFile{s: s, comma: ','}, formatJSON: &jsonFile{s: s}, formatNDJSON: &lineFile{s: s}}[format]
		c := chunks{in: strings.NewReader(text), split: split, line: 1, size: size, fresh: func() *batch { return &batch{} }}
		var out strings.Builder
		for {
			b, err := c.next()
			if errors.Is(err, io.EOF) {
				return out.String(), nil
			}
			if err != nil {
				return "", err
			}
			if b.scrub(split); b.err != nil {
				return "", b.err
			}
			out.Write(b.out)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]string{formatCSV, formatJSON, formatNDJSON}).Draw(t, "format")
		var parts []string
		pieces := []string{"a@corp.example", "\"", "\\", "\n", "\r\n", ",", "é", "[", "]", "{", "}", ":", " ", "1", "\"\"", "null", `{"a":"b@corp.example"}`, `"x"`, "\xEF\xBB\xBF", "a,b\n"}
		if rapid.Bool().Draw(t, "well-formed") {
			pieces = map[string][]string{
				formatCSV: {"a,b\n", "a@corp.example,\"é,\n\"\"\"\n", "\n", "\"\",\r\n"}, formatNDJSON: {`{"a":"b@corp.example"}` + "\n", " \r\n", "[1,\"\\\"\"]\n"},
				formatJSON: {`{"a":["b@corp.example"]}`, `"\\\""`, "1.50", " null"},
			}[format]
		}
		for range rapid.IntRange(0, 12).Draw(t, "pieces") {
			parts = append(parts, rapid.SampledFrom(pieces).Draw(t, "piece"))
		}
		text := strings.Join(parts, "")
		if format == formatJSON && len(pieces) == 4 {
			text = "[" + strings.Join(parts, ",\n") + "]"
		}
		whole, wholeErr := run(format, text, chunkSize)
		cut, cutErr := run(format, text, rapid.IntRange(1, 40).Draw(t, "size"))
		if whole != cut || (wholeErr == nil) != (cutErr == nil) {
			t.Fatalf("%s %q: whole %q, %v; cut %q, %v", format, text, whole, wholeErr, cut, cutErr)
		}
	})
}

func FuzzScrubFile(f *testing.F) {
	f.Add(uint8(0), []byte("a,email\n\"x\ny\",a@corp.example\n"))
	f.Add(uint8(0), []byte("\"a\"\"b\"|c\r\n1|2\r\n"))
	f.Add(uint8(1), []byte(`[{"a":"b@corp.example"}, 1]`))
	f.Add(uint8(2), []byte("{\"a\":\"b@corp.example\"}\n\n[]\n"))
	_, o := scrubIn(f, map[string]string{})
	o.Files = []string{"-"}
	f.Fuzz(func(t *testing.T, which uint8, text []byte) {
		o := o
		o.Format = []string{formatCSV, formatJSON, formatNDJSON}[which%3]
		var out bytes.Buffer
		o.Stdin, o.Stdout = bytes.NewReader(text), &out
		if _, err := Scrub(context.Background(), o); err != nil {
			return
		}
		if o.Format == formatJSON && json.Valid(bytes.TrimPrefix(text, bom)) != json.Valid(bytes.TrimPrefix(out.Bytes(), bom)) {
			t.Fatalf("%q became %q", text, &out)
		}
		if o.Format == formatCSV {
			comma := detectComma(bytes.TrimPrefix(text, bom))
			was, err := readCSV(text, comma)
			if err != nil {
				return // encoding/csv is stricter about quotes
			}
			is, err := readCSV(out.Bytes(), comma)
			if err != nil || len(was) != len(is) {
				t.Fatalf("%q became %q: %v", text, &out, err)
			}
			for i := range was {
				if len(was[i]) != len(is[i]) {
					t.Fatalf("%q became %q", text, &out)
				}
			}
		}
	})
}

func readCSV(text []byte, comma byte) ([][]string, error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, bom)))
	r.Comma, r.FieldsPerRecord = rune(comma), -1
	return r.ReadAll()
}

// endless gives a file of some size by repeating a part, and looks at the heap.
type endless struct {
	part  []byte
	left  int64
	at    int
	mark  int64
	worst uint64
}

func (e *endless) Read(b []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), e.left)], e.part[e.at:])
	e.at = (e.at + n) % len(e.part)
	e.left -= int64(n)
	if e.mark -= int64(n); e.mark <= 0 {
		e.mark = 8 << 20
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		e.worst = max(e.worst, m.HeapAlloc)
	}
	return n, nil
}

// TestScrubMemory holds that memory does not grow with the file.
func TestScrubMemory(t *testing.T) {
	world := people.New(8)
	var lines, rows bytes.Buffer
	filler := strings.Repeat("nothing to be found in here ", 300)
	for range 400 {
		one := world.Next(people.Countries[world.IntN(len(people.Countries))])
		fmt.Fprintf(&lines, "{\"record\":%s,\"text\":%q}\n", world.Record().Doc, filler)
		fmt.Fprintf(&rows, "%s,%s,\"%s, %s\",%s\n", one.Email, one.Phone, one.Street, one.Family, filler)
	}
	array := bytes.ReplaceAll(lines.Bytes(), []byte("\n"), []byte(",\n"))
	for _, c := range []struct {
		format      string
		begin, part []byte
		size        int64
		end         string
	}{
		{formatNDJSON, nil, lines.Bytes(), 200 << 20, ""},
		{formatJSON, []byte("["), array, 24 << 20, "0]"},
		{formatCSV, []byte("email,phone,address,note\n"), rows.Bytes(), 24 << 20, ""},
	} {
		_, o := scrubIn(t, map[string]string{})
		o.Files, o.Format, o.Stdout = []string{"-"}, c.format, io.Discard
		size := c.size / int64(len(c.part)) * int64(len(c.part))
		gen := &endless{part: c.part, left: size}
		o.Stdin = io.MultiReader(bytes.NewReader(c.begin), gen, strings.NewReader(c.end))
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		r := scrubbedFiles(t, o)
		grown := int64(gen.worst) - int64(before.HeapAlloc)
		t.Logf("%s: %d MB, heap grew by %d MB at most, %.0f MB/s", c.format, size>>20, grown>>20, float64(size)/1e6/time.Since(began).Seconds())
		if grown > 48<<20 {
			t.Errorf("%s: the heap grew by %d MB", c.format, grown>>20)
		}
		if r.Files[0].Bytes < size || r.Files[0].Records < 1000 {
			t.Errorf("%s: %+v", c.format, r.Files[0])
		}
	}
}

// presidio speaks the documented API: texts and their language in, a list of findings
// for each text out, with places in characters.
func presidio(t *testing.T, answer func(w http.ResponseWriter, texts []string)) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Text     []string `json:"text"`
			Language string   `json:"language"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/analyze" || r.Method != "POST" || q.Language != "de" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %+v %v", r.Method, r.URL.Path, q, err)
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, q.Text)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestScrubWithAnalyzer(t *testing.T) {
	dir, o := scrubIn(t, map[string]string{
		"a.ndjson": `{"note":"Grüße von Jörg Müller, a@corp.example","n":5}` + "\n", "a.csv": "id,note\n1,bei Jörg Müller am 5.5.\n2,nichts\n",
		"classes.yaml": "columns: {id: keep}",
	})
	find := func(w http.ResponseWriter, texts []string) {
		answer := make([][]map[string]any, len(texts))
		for i, text := range texts {
			answer[i] = []map[string]any{}
			chars := []rune(text)
			if at := strings.Index(text, "Jörg"); at >= 0 {
				start := len([]rune(text[:at]))
				answer[i] = append(answer[i], map[string]any{"entity_type": "PERSON", "start": start, "end": start + 11, "score": 0.85, "analysis_explanation": nil},
					map[string]any{"entity_type": "DATE_TIME", "start": len(chars) - 3, "end": len(chars), "score": 0.6})
			}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}
	o.Files = []string{filepath.Join(dir, "a.ndjson"), filepath.Join(dir, "a.csv")}
	o.Rules, o.Language, o.Analyzer = filepath.Join(dir, "classes.yaml"), "de", presidio(t, find)
	r := scrubbedFiles(t, o)
	doc, table := readFile(t, r.Files[0].Output), readFile(t, r.Files[1].Output)
	s, err := scrub.New(mustKey(t, o).Pseudonyms, &scrub.Rules{Columns: map[string]scrub.Rule{"n": {Class: "name", Action: scrub.Pseudonymise}}})
	if err != nil {
		t.Fatal(err)
	}
	name, err := s.JSON(nil, []byte(`{"n":"Jörg Müller"}`), new(scrub.Tally))
	if err != nil {
		t.Fatal(err)
	}
	who := strings.TrimSuffix(strings.TrimPrefix(string(name), `{"n":"`), `"}`)
	if !strings.HasPrefix(doc, `{"note":"Grüße von `+who+`, `) || strings.Contains(doc, "a@corp") || !strings.HasSuffix(doc, `,"n":5}`+"\n") {
		t.Errorf("document: %s", doc)
	}
	if table != "id,note\n1,bei "+who+" am 5.5.\n2,nichts\n" {
		t.Errorf("table: %s", table)
	}
	for what, bad := range map[string]func(w http.ResponseWriter, texts []string){
		"status 500":          func(w http.ResponseWriter, _ []string) { w.WriteHeader(500) },
		"no list of findings": func(w http.ResponseWriter, _ []string) { fmt.Fprint(w, `{"error":"x"}`) },
		"0 texts of 1":        func(w http.ResponseWriter, _ []string) { fmt.Fprint(w, `[]`) },
		"outside of the text": func(w http.ResponseWriter, _ []string) {
			fmt.Fprint(w, `[[{"entity_type":"PERSON","start":2,"end":900}]]`)
		},
		"which is not followed": func(w http.ResponseWriter, _ []string) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(307)
		},
	} {
		o.Analyzer, o.Out = presidio(t, bad), filepath.Join(dir, "bad")
		if _, err := Scrub(context.Background(), o); err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "Jörg") {
			t.Errorf("%s: %v", what, err)
		}
		if left, err := os.ReadDir(o.Out); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", what, left, err)
		}
	}
	for _, address := range []string{"ftp://x", "http://presidio.example:5002", "x", ""} {
		if _, err := newAnalyzer(address, "en"); err == nil {
			t.Errorf("%s is asked", address)
		}
	}
	if a, err := newAnalyzer("https://presidio.example/api", "en"); err != nil || a.url != "https://presidio.example/api/analyze" {
		t.Errorf("%v, %v", a, err)
	}
}

// TestRecordingsHoldNoOriginals records calls about 500 persons and seals them: of what
// was planted nothing is left, and a canary that was not declared is found out.
func TestRecordingsHoldNoOriginals(t *testing.T) {
	ring, err := auth.OpenRing(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewRecordingScrubber(ring, "test", &scrub.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := cassette.NewWriter(&file, cassette.Header{
		Upstream: "crm", Tools: sallyport.Digest("sha256:" + strings.Repeat("0", 64)), Scrub: sallyport.Digest((&scrub.Rules{}).Digest()),
		Recorded: time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC), Domain: "test",
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	world := people.New(31)
	var planted []people.Planted
	born := 0
	for i := range 500 {
		r := world.Record()
		for _, p := range r.Planted {
			if p.Kind == ident.BirthDate {
				born++
			}
		}
		text, err := json.Marshal(string(r.Doc))
		if err != nil {
			t.Fatal(err)
		}
		one := world.Next("DE")
		if err := w.Append(cassette.Raw{
			Since: time.Duration(i) * time.Second, Tool: "get_customer", Arguments: fmt.Appendf(nil, `{"email":%q}`, one.Email),
			Result: fmt.Appendf(nil, `{"content":[{"type":"text","text":%s}],"structuredContent":%s}`, text, r.Doc), Access: sallyport.Read,
		}); err != nil {
			t.Fatal(err)
		}
		planted = append(planted, r.Planted...)
	}
	if got := w.Report().Replaced[ident.BirthDate.Class()]; born == 0 || got < 2*born { // each is there twice: as text and as content
		t.Errorf("%d dates of birth were counted, and %d were twice there", got, born)
	}
	recorded := bytes.Clone(file.Bytes())
	sealed, report, err := cassette.Seal(recorded, w.Originals(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Originals < 2000 {
		t.Errorf("only %d originals were looked for", report.Originals)
	}
	for _, p := range planted {
		if p.Kind == ident.BirthDate {
			continue // a date that moved may be another person's
		}
		if len(p.Value) > 5 && bytes.Contains(sealed, []byte(p.Value)) {
			t.Errorf("%v %q is in the sealed cassette", p.Kind, p.Value)
		}
	}
	if _, _, err := cassette.Seal(recorded, w.Originals(), [][]byte{[]byte("get_customer")}); err == nil {
		t.Error("a canary in the recording was not found")
	}
}

// BenchmarkScrub is data scrub from file to file, and the scanner alone.
func BenchmarkScrub(b *testing.B) {
	world := people.New(9)
	var text bytes.Buffer
	for text.Len() < 16<<20 {
		text.Write(world.Record().Doc)
		text.WriteByte('\n')
	}
	b.Run("files", func(b *testing.B) {
		dir, o := scrubIn(b, map[string]string{"a.ndjson": text.String()})
		o.Files, o.Force = []string{filepath.Join(dir, "a.ndjson")}, true
		b.SetBytes(int64(text.Len()))
		for b.Loop() {
			scrubbedFiles(b, o)
		}
	})
	b.Run("scanner", func(b *testing.B) {
		s := detect.New()
		b.SetBytes(int64(text.Len()))
		for b.Loop() {
			for line := range bytes.Lines(text.Bytes()) {
				if err := s.ScanJSON(line, func(*detect.Leaf) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
