package audit_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
)

var update = flag.Bool("update", false, "write the vectors in testdata again")

// lines are the lines of an export, each with its line break.
func lines(export []byte) []string {
	return strings.SplitAfter(strings.TrimSuffix(string(export), "\n")+"\n", "\n")[:bytes.Count(export, []byte("\n"))]
}

// seal puts lines together, with an end line that fits them: what somebody does who
// has read how it is made.
func seal(list []string) []byte {
	var keep []string
	for _, l := range list {
		if !strings.HasPrefix(l, `{"end":`) {
			keep = append(keep, l)
		}
	}
	all := strings.Join(keep, "")
	return []byte(all + fmt.Sprintf("{\"end\":\"sha256:%x\"}\n", sha256of(all)))
}

// numbered gives the record lines the sequences in which they stand.
func numbered(list []string) []string {
	n := 0
	for i, l := range list {
		if rest, ok := strings.CutPrefix(l, `{"sequence":`); ok {
			list[i] = fmt.Sprintf(`{"sequence":%d%s`, n, rest[strings.IndexByte(rest, ','):])
			n++
		}
	}
	return list
}

// vector is a case another implementation can use: what is to be verified, and what
// the first finding must be.
type vector struct {
	name, expect, comment string
	key                   string   // trusted, or "" for the one in the export
	against               [][]byte // checkpoints kept elsewhere
	export                []byte
}

const vectorSize = 24

func vectors(t testing.TB) []vector {
	whole := func() *memory { return calls(t, vectorSize, 8, 16) }
	m := whole()
	export := m.export()
	edit := func(change func([]string) []string) []byte { return seal(change(lines(export))) }
	line := func(seq int) int { return seq + 1 }
	leavesAt := vectorSize + 1

	altered := func(l []string) []string {
		l[line(17)] = strings.Replace(l[line(17)], "crm", "cra", 1)
		return l
	}

	// The log written again with another record 5, and signed with a key.
	rewritten := func(letter byte) *memory {
		n := newMemory(t)
		n.signer, n.vkey = key(t, origin, letter)
		for i := range vectorSize {
			switch {
			case i == 8 || i == 16:
				n.sign()
			}
			b := body(t, i)
			if i == 5 {
				b = bytes.Replace(b, []byte("crm"), []byte("cra"), 1)
			}
			n.append(b)
		}
		n.sign()
		return n
	}
	// The first 8 records signed, then 5 changed and all signed again.
	forked := rewritten('k')
	forked.checkpoints[0] = m.checkpoints[0]
	foreign, _ := key(t, "example.org/other", 'o')
	root := leaf(1)
	other, err := audit.SignCheckpoint(audit.Checkpoint{Origin: "example.org/other", Size: 8, Root: root}, foreign)
	if err != nil {
		t.Fatal(err)
	}
	cosigned := whole()
	witness, _ := key(t, "witness.example", 'w')
	cosigned.others = []note.Signer{witness}
	cosigned.sign()

	twice := newMemory(t)
	for _, i := range []int{0, 1, 2, 3, 2} {
		twice.append(bytes.Replace(body(t, i), []byte(fmt.Sprintf("rec_%d", i)), []byte(fmt.Sprintf("rec_%d_%d", i, twice.size)), 1))
	}
	twice.sign()
	unannounced := newMemory(t)
	for _, i := range []int{0, 1, 3} {
		unannounced.append(body(t, i))
	}
	unannounced.sign()
	empty := newMemory(t)
	empty.sign()

	return []vector{
		{name: "whole", expect: "ok", key: m.vkey, export: export, comment: "a log of 24 records and three checkpoints"},
		{name: "whole_own_key", expect: "ok", export: export, comment: "without a trusted key the one in the export is taken, and the report says so"},
		{name: "whole_against", expect: "ok", key: m.vkey, against: m.checkpoints[:2], export: export, comment: "checkpoints kept elsewhere agree"},
		{name: "empty", expect: "ok", key: m.vkey, export: empty.export(), comment: "no records, and a checkpoint that says so"},
		{name: "altered", expect: "altered 17", key: m.vkey, export: edit(altered), comment: "one byte in the body of record 17"},
		{name: "altered_sequence", expect: "altered 17", key: m.vkey, comment: "the body of record 17 is whole, its sequence is not", export: edit(func(l []string) []string {
			l[line(17)] = strings.Replace(l[line(17)], `"sequence":17,`, `"sequence":19,`, 1)
			return l
		})},
		{name: "sequence_form", expect: "malformed 17", key: m.vkey, comment: "the sequence of record 17 is written with a leading zero", export: edit(func(l []string) []string {
			l[line(17)] = strings.Replace(l[line(17)], `"sequence":17,`, `"sequence":017,`, 1)
			return l
		})},
		{name: "end_twice", expect: "malformed", key: m.vkey, comment: "the end line is there twice", export: append(bytes.Clone(export), lines(export)[len(lines(export))-1]...)},
		{name: "records_after_leaves", expect: "malformed", key: m.vkey, comment: "a record once more, after the leaves", export: edit(func(l []string) []string {
			return slices.Insert(l, leavesAt+1, l[line(17)])
		})},
		{name: "altered_two", expect: "altered 3", key: m.vkey, comment: "records 3 and 17; the first is named first", export: edit(func(l []string) []string {
			l[line(3)] = strings.Replace(l[line(3)], "crm", "cra", 1)
			return altered(l)
		})},
		{name: "altered_and_missing", expect: "missing 9", key: m.vkey, comment: "record 9 is gone, and 10 altered", export: edit(func(l []string) []string {
			l[line(10)] = strings.Replace(l[line(10)], "crm", "cra", 1)
			return slices.Delete(l, line(9), line(10))
		})},
		{name: "not_a_record", expect: "malformed 17", key: m.vkey, comment: "the line of record 17 is no record line", export: edit(func(l []string) []string {
			l[line(17)] = "{}\n"
			return l
		})},
		{name: "reordered", expect: "reordered 5", key: m.vkey, comment: "records 5 and 6 changed places", export: edit(func(l []string) []string {
			l[line(5)], l[line(6)] = l[line(6)], l[line(5)]
			return l
		})},
		{name: "reordered_numbered", expect: "reordered 5", key: m.vkey, comment: "records 5 and 6 changed places and took each other's sequence", export: edit(func(l []string) []string {
			l[line(5)], l[line(6)] = l[line(6)], l[line(5)]
			return numbered(l)
		})},
		{name: "reordered_forward", expect: "reordered 3", key: m.vkey, comment: "record 20 stands before record 3", export: edit(func(l []string) []string {
			x := l[line(20)]
			return numbered(slices.Insert(slices.Delete(l, line(20), line(21)), line(3), x))
		})},
		{name: "reordered_back", expect: "reordered 3", key: m.vkey, comment: "records 3 and 4 stand after record 20", export: edit(func(l []string) []string {
			x := slices.Clone(l[line(3):line(5)])
			return slices.Insert(slices.Delete(l, line(3), line(5)), line(19), x...)
		})},
		{name: "missing", expect: "missing 17", key: m.vkey, comment: "record 17 is gone", export: edit(func(l []string) []string {
			return slices.Delete(l, line(17), line(18))
		})},
		{name: "missing_numbered", expect: "missing 17", key: m.vkey, comment: "record 17 is gone, and those after it took the sequence before theirs", export: edit(func(l []string) []string {
			return numbered(slices.Delete(l, line(17), line(18)))
		})},
		{name: "missing_first", expect: "missing 0", key: m.vkey, comment: "records 0 to 2 are gone", export: edit(func(l []string) []string {
			return slices.Delete(l, line(0), line(3))
		})},
		{name: "missing_last", expect: "missing 22", key: m.vkey, comment: "the last two records are gone; the leaves still tell", export: edit(func(l []string) []string {
			return slices.Delete(l, line(22), line(24))
		})},
		{name: "inserted", expect: "inserted 17", key: m.vkey, comment: "a record that was never logged stands before record 17", export: edit(func(l []string) []string {
			x := strings.Replace(l[line(17)], "crm", "cra", 1)
			return numbered(slices.Insert(l, line(17), x))
		})},
		{name: "inserted_last", expect: "inserted 24", key: m.vkey, comment: "a record that was never logged stands after the last", export: edit(func(l []string) []string {
			x := strings.Replace(l[line(23)], "crm", "cra", 1)
			return numbered(slices.Insert(l, line(24), x))
		})},
		{name: "duplicated", expect: "duplicated 17", key: m.vkey, comment: "record 17 is there twice", export: edit(func(l []string) []string {
			return slices.Insert(l, line(18), l[line(17)])
		})},
		{name: "leaf", expect: "tree 17", key: m.vkey, comment: "the leaf hash of record 17 was changed; the checkpoint agrees with the record", export: edit(func(l []string) []string {
			l[leavesAt] = leavesWith(t, l[leavesAt], 17, root)
			return l
		})},
		{name: "record_and_leaf", expect: "tree 16", key: m.vkey, comment: "record 17 and its leaf hash were changed: 16 records fit, 24 do not", export: edit(func(l []string) []string {
			l = altered(l)
			body := "{" + strings.TrimSuffix(strings.SplitN(l[line(17)], ",", 2)[1], "\n")
			l[leavesAt] = leavesWith(t, l[leavesAt], 17, audit.LeafHash([]byte(body)))
			return l
		})},
		{name: "signature", expect: "checkpoint", key: m.vkey, comment: "a bad signature on the first checkpoint", export: edit(func(l []string) []string {
			i := strings.Index(l[leavesAt+1], "\u2014 ") + len("\u2014 "+origin+" ") + 30
			l[leavesAt+1] = l[leavesAt+1][:i] + "AAAA" + l[leavesAt+1][i+4:]
			return l
		})},
		{name: "no_last_checkpoint", expect: "checkpoint 16", key: m.vkey, comment: "no checkpoint covers the records from 16 on", export: edit(func(l []string) []string {
			return slices.Delete(l, leavesAt+3, leavesAt+4)
		})},
		{name: "foreign_checkpoint", expect: "checkpoint", key: m.vkey, comment: "a checkpoint of another log among them", export: edit(func(l []string) []string {
			return slices.Insert(l, leavesAt+2, strings.ReplaceAll(l[leavesAt+1], origin, "example.org/other"))
		})},
		{name: "another_key", expect: "checkpoint", key: second(key(t, origin, 'n')), export: export, comment: "signed by a key that is not the trusted one"},
		{name: "cut_in_line", expect: "cut", key: m.vkey, export: export[:len(export)/3], comment: "the file ends in the middle of a record"},
		{name: "cut_at_line", expect: "cut", key: m.vkey, comment: "the file ends after a record", export: []byte(strings.Join(lines(export)[:12], ""))},
		{name: "cut_end", expect: "cut", key: m.vkey, comment: "only the end line is gone", export: []byte(strings.Join(lines(export)[:len(lines(export))-1], ""))},
		{name: "cut_tail", expect: "ok", key: m.vkey, export: shorter(t, m, 16), comment: "the log was cut back to an earlier checkpoint: the file alone cannot show it"},
		{name: "cut_tail_against", expect: "cut 16", key: m.vkey, against: m.checkpoints[2:], export: shorter(t, m, 16), comment: "the log was cut back to an earlier checkpoint: the one kept elsewhere shows it"},
		{name: "cut_records_and_leaves", expect: "cut 16", key: m.vkey, comment: "the tail was cut, a checkpoint that covers it was left", export: edit(func(l []string) []string {
			short := lines(shorter(t, m, 16))
			return slices.Insert(short, len(short)-1, l[leavesAt+3])
		})},
		{name: "replaced", expect: "ok", key: m.vkey, export: rewritten('k').export(), comment: "record 5 is another and all was signed again: the file alone cannot show it"},
		{name: "replaced_against", expect: "replaced", key: m.vkey, against: m.checkpoints[1:2], export: rewritten('k').export(), comment: "record 5 is another and all was signed again: the checkpoint kept elsewhere shows it"},
		{name: "replaced_with_key_against", expect: "replaced", against: m.checkpoints[1:2], export: rewritten('n').export(), comment: "and with another key, which is taken from the export"},
		{name: "replaced_forked", expect: "replaced 0", key: m.vkey, export: forked.export(), comment: "an older checkpoint was left that signs another history"},
		{name: "against_another_log", expect: "checkpoint", key: m.vkey, against: [][]byte{other}, export: export, comment: "the checkpoint kept elsewhere is of another log"},
		{name: "cosigned", expect: "ok", key: m.vkey, export: cosigned.export(), comment: "with a signature by a witness whose key is not given"},
		{name: "cosignature", expect: "malformed", key: m.vkey, comment: "the signature of the witness was changed: only the end line shows it", export: func() []byte {
			b := cosigned.export()
			i := bytes.LastIndex(b, []byte("witness.example ")) + len("witness.example ") + 30
			copy(b[i:], "AAAA")
			return b
		}()},
		{name: "repeated", expect: "repeated 4", key: m.vkey, export: twice.export(), comment: "a call has two intents"},
		{name: "no_intent", expect: "no_intent 2", key: m.vkey, export: unannounced.export(), comment: "a changing call has an outcome and no intent"},
		{name: "header", expect: "malformed", key: m.vkey, comment: "the size in the header is another", export: edit(func(l []string) []string {
			l[0] = strings.Replace(l[0], `"size":24`, `"size":024`, 1)
			return l
		})},
		{name: "nothing", expect: "malformed", key: m.vkey, export: nil, comment: "an empty file"},
	}
}

func second[A, B any](_ A, b B) B { return b }

// shorter is the export of the log cut back to size.
func shorter(t testing.TB, m *memory, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := audit.Export(t.Context(), &b, m, audit.ExportOptions{Key: m.vkey, Size: size}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// leavesWith is a line of leaves with another hash at i.
func leavesWith(t testing.TB, line string, i int, h tlog.Hash) string {
	t.Helper()
	head, tail := `{"leaves":"`, `","first":0}`+"\n"
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(line, head), tail))
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[i*tlog.HashSize:], h[:])
	return head + base64.StdEncoding.EncodeToString(raw) + tail
}

func (v vector) write() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "expect: %s\ncomment: %s\n", v.expect, v.comment)
	if v.key != "" {
		fmt.Fprintf(&b, "key: %s\n", v.key)
	}
	for _, a := range v.against {
		fmt.Fprintf(&b, "against: %s\n", base64.StdEncoding.EncodeToString(a))
	}
	return append(append(b.Bytes(), '\n'), v.export...)
}

func readVector(t testing.TB, file string) (v vector) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, export, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		t.Fatalf("%s has no header", file)
	}
	v.name, v.export = strings.TrimSuffix(filepath.Base(file), ".txt"), export
	for l := range strings.Lines(string(head)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), ": ")
		switch name {
		case "expect":
			v.expect = value
		case "comment":
			v.comment = value
		case "key":
			v.key = value
		case "against":
			raw, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			v.against = append(v.against, raw)
		default:
			t.Fatalf("%s: %s: unknown", file, name)
		}
	}
	return v
}

func (v vector) options() audit.VerifyOptions {
	o := audit.VerifyOptions{Against: v.against}
	if v.key != "" {
		o.Keys = []string{v.key}
	}
	return o
}

func TestVectors(t *testing.T) {
	t.Parallel()
	want := map[string]vector{}
	for _, v := range vectors(t) {
		file := filepath.Join("testdata", "vectors", v.name+".txt")
		want[file] = v
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, v.write(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(want) {
		t.Errorf("%d files, %d vectors: run with -update and remove what is left over", len(files), len(want))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			v := readVector(t, file)
			if w, ok := want[file]; !ok || !bytes.Equal(w.write(), v.write()) {
				t.Error("the file is not what this test makes: run with -update, and say why the format changed")
			}
			r := verify(t, v.export, v.options())
			if got := gist(r); got != v.expect {
				t.Errorf("got %q, want %q (%s)\n%s", got, v.expect, v.comment, pretty(r))
			}
			if len(r.Findings) > 4 {
				t.Errorf("%d findings for one change: %s", len(r.Findings), pretty(r.Findings))
			}
			if said := slices.Contains(r.Notes, audit.CannotExclude); said != (len(v.against) == 0 || v.name == "against_another_log") {
				t.Errorf("notes: %q", r.Notes)
			}
			if r.KeyFromExport != (v.key == "") {
				t.Errorf("KeyFromExport is %v", r.KeyFromExport)
			}
			// Read in single bytes it is the same.
			again, err := audit.VerifyExport(iotest.OneByteReader(bytes.NewReader(v.export)), v.options())
			if err != nil || pretty(again) != pretty(r) {
				t.Errorf("read byte by byte: %v\n%s", err, pretty(again))
			}
		})
	}
}

func TestReportSaysWhatFits(t *testing.T) {
	t.Parallel()
	m := calls(t, 11, 4)
	var calledWith []int64
	r := verify(t, m.export(), audit.VerifyOptions{Keys: []string{m.vkey}, Against: m.checkpoints[:1], Progress: func(done, total int64) {
		calledWith = append(calledWith, done, total)
	}})
	if !r.OK || r.Origin != origin || r.Records != 11 || r.Size != 11 || r.Root != root(t, m.tree) || r.Checkpoints != 2 || r.Against != 1 {
		t.Error(pretty(r))
	}
	if len(r.Unknown) != 1 || r.Unknown[0].Call != "call_5" || r.Unknown[0].Sequence != 10 || r.Unknown[0].Tool != "note" || r.Unknown[0].Marked {
		t.Errorf("unknown: %s", pretty(r.Unknown))
	}
	if !slices.Equal(calledWith, []int64{11, 11}) {
		t.Errorf("progress: %v", calledWith)
	}
}

func TestVerifyExportFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	m := calls(t, 3)
	r := io.MultiReader(bytes.NewReader(m.export()[:100]), iotest.ErrReader(broken))
	if _, err := audit.VerifyExport(r, audit.VerifyOptions{}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := audit.VerifyExport(bytes.NewReader(m.export()), audit.VerifyOptions{Keys: []string{"x"}}); err == nil {
		t.Error("a key that is none: no error")
	}
}

func TestLongLineIsAFinding(t *testing.T) {
	t.Parallel()
	m := calls(t, 3)
	l := lines(m.export())
	l[2] = strings.Repeat("x", 3*audit.MaxBody) + "\n"
	if r := verify(t, seal(l), audit.VerifyOptions{Keys: []string{m.vkey}}); gist(r) != "malformed 1" {
		t.Error(pretty(r))
	}
	l[2] = strings.Repeat("x", 3*audit.MaxBody)
	if r := verify(t, []byte(strings.Join(l[:3], "")), audit.VerifyOptions{Keys: []string{m.vkey}}); r.OK {
		t.Error("a file of one long line is ok")
	}
}

// Every byte of an export is under something: changing any of them is found, also
// if the end line is made again, and in a record it names the record.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	m := calls(t, 40, 20)
	export := m.export()
	o := audit.VerifyOptions{Keys: []string{m.vkey}}
	var starts []int // of the lines
	for i := 0; i < len(export); i += bytes.IndexByte(export[i:], '\n') + 1 {
		starts = append(starts, i)
	}
	end := starts[len(starts)-1]

	check := func(i int, to byte) {
		x := bytes.Clone(export)
		x[i] = to
		line, found := slices.BinarySearch(starts, i)
		if !found {
			line--
		}
		if i < end {
			x = append(x[:end], fmt.Sprintf("{\"end\":\"sha256:%x\"}\n", sha256of(string(x[:end])))...)
		}
		r := verify(t, x, o)
		if r.OK {
			t.Errorf("byte %d of line %d, %q for %q: ok", i-starts[line], line+1, to, export[i])
		}
		// The last line break takes the leaves along, by which records are named.
		if line >= 1 && line <= 40 && i != starts[41]-1 && r.Findings[0].Sequence != int64(line-1) {
			t.Errorf("byte %d of line %d, %q for %q: %s", i-starts[line], line+1, to, export[i], pretty(r.Findings))
		}
	}
	// The value of each byte is another for each position, so that together they
	// try all; header, checkpoints and end get some single bits too.
	work := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range work {
				check(i, export[i]^byte(1+i*7%255))
				if i < starts[1] || i >= starts[42] {
					check(i, export[i]^1)
					check(i, export[i]^0x20) // upper and lower case
				}
			}
		})
	}
	for i := range export {
		work <- i
	}
	close(work)
	wg.Wait()
}

// The signature of a witness whose key is not given is under the end line alone.
func TestEveryByteOfACosignatureCounts(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	witness, _ := key(t, "witness.example", 'w')
	m.others = []note.Signer{witness}
	m.append(body(t, 0))
	m.sign()
	export := m.export()
	for i := range export {
		x := bytes.Clone(export)
		x[i] ^= 1
		if r := verify(t, x, audit.VerifyOptions{Keys: []string{m.vkey}}); r.OK {
			t.Errorf("byte %d: ok", i)
		}
	}
}

// Cut anywhere, an export does not verify.
func TestEveryCutIsFound(t *testing.T) {
	t.Parallel()
	m := calls(t, 5, 2)
	export := m.export()
	for n := range len(export) {
		if r := verify(t, export[:n], audit.VerifyOptions{Keys: []string{m.vkey}}); r.OK {
			t.Errorf("cut to %d of %d bytes: ok", n, len(export))
		}
	}
	if r := verify(t, append(export, '\n'), audit.VerifyOptions{}); r.OK {
		t.Error("with an empty line more: ok")
	}
}

func TestOneChangeAnywhereIsNamed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(2, 300).Draw(rt, "size")
		at := rapid.Int64Range(1, int64(size)).Draw(rt, "checkpoint")
		m := calls(t, size, at)
		l := lines(m.export())
		i := rapid.IntRange(0, size-2).Draw(rt, "record")
		j := rapid.IntRange(i+1, size-1).Draw(rt, "another")
		var want string
		switch rapid.IntRange(0, 4).Draw(rt, "change") {
		case 0:
			l[i+1] = strings.Replace(l[i+1], "crm", "cra", 1)
			want = fmt.Sprintf("altered %d", i)
		case 1:
			l[i+1], l[j+1] = l[j+1], l[i+1]
			want = fmt.Sprintf("reordered %d", i)
		case 2:
			l = slices.Delete(l, i+1, j+1)
			want = fmt.Sprintf("missing %d", i)
		case 3:
			l = slices.Insert(l, j+2, l[i+1])
			want = fmt.Sprintf("duplicated %d", i)
		case 4:
			l = slices.Insert(l, i+1, strings.Replace(l[j+1], "crm", "cra", 1))
			want = fmt.Sprintf("inserted %d", i)
		}
		if rapid.Bool().Draw(rt, "numbered") {
			l = numbered(l)
		}
		if r := verify(t, seal(l), audit.VerifyOptions{Keys: []string{m.vkey}}); gist(r) != want {
			rt.Fatalf("got %s, want %s: %s", gist(r), want, pretty(r.Findings))
		}
	})
}

func TestVerifySource(t *testing.T) {
	t.Parallel()
	change := func(m *memory, n int64) { m.bodies[n] = bytes.Replace(m.bodies[n], []byte("crm"), []byte("cra"), 1) }
	leafAt := func(n int64) int64 { return tlog.StoredHashIndex(0, n) }
	for _, c := range []struct {
		name, want string
		tamper     func(m *memory)
	}{
		{"whole", "ok", func(m *memory) {}},
		{"records after the last checkpoint", "ok", func(m *memory) {
			for n := range 3 {
				m.append(body(t, 600+n))
			}
		}},
		{"altered", "altered 17", func(m *memory) { change(m, 17) }},
		{"altered after the last checkpoint", "altered 600", func(m *memory) {
			m.append(body(t, 600))
			m.append(body(t, 601))
			change(m, 600)
		}},
		{"missing", "missing 300", func(m *memory) { delete(m.bodies, 300) }},
		{"missing, the last", "missing 598", func(m *memory) {
			delete(m.bodies, 598)
			delete(m.bodies, 599)
		}},
		{"swapped", "reordered 7", func(m *memory) { m.bodies[7], m.bodies[500] = m.bodies[500], m.bodies[7] }},
		{"leaf altered", "tree 17", func(m *memory) { m.hashes[leafAt(17)] = leaf(3) }},
		{"leaf missing", "tree 17", func(m *memory) { delete(m.hashes, leafAt(17)) }},
		{"record and leaf altered", "tree 256", func(m *memory) {
			change(m, 400)
			m.hashes[leafAt(400)] = audit.LeafHash(m.bodies[400])
		}},
		{"record and leaf missing", "tree 400", func(m *memory) {
			delete(m.bodies, 400)
			delete(m.hashes, leafAt(400))
		}},
		{"inner hash altered", "tree 255", func(m *memory) { m.hashes[tlog.StoredHashIndex(8, 0)] = leaf(3) }},
		{"inner hash missing", "tree 255", func(m *memory) { delete(m.hashes, tlog.StoredHashIndex(8, 0)) }},
		{"checkpoint altered", "checkpoint", func(m *memory) { m.checkpoints[0][len(m.checkpoints[0])-20] ^= 1 }},
		{"checkpoints gone", "checkpoint", func(m *memory) { m.checkpoints = nil }},
		{"cut", "cut 300", func(m *memory) {
			m.size = 300
			maps.DeleteFunc(m.hashes, func(i int64, _ tlog.Hash) bool { return i >= tlog.StoredHashCount(300) })
		}},
		{"checkpoints out of order", "checkpoint", func(m *memory) { slices.Reverse(m.checkpoints) }},
		{"a body that is no record", "malformed 600", func(m *memory) {
			m.append([]byte(`{"id":"x","id":"y"}`))
			m.sign()
		}},
		{"no intent", "no_intent 600", func(m *memory) {
			m.append(body(t, 701))
			m.sign()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := calls(t, 600, 256)
			m.t = t
			c.tamper(m)
			r, err := audit.VerifySource(t.Context(), m, audit.VerifyOptions{Keys: []string{m.vkey}})
			if err != nil {
				t.Fatal(err)
			}
			if got := gist(r); got != c.want {
				t.Errorf("got %s, want %s\n%s", got, c.want, pretty(r))
			}
			if len(r.Findings) > 3 {
				t.Errorf("%d findings for one change: %s", len(r.Findings), pretty(r.Findings))
			}
		})
	}

	m := calls(t, 20, 10)
	if _, err := audit.VerifySource(t.Context(), m, audit.VerifyOptions{}); err == nil {
		t.Error("without a key: no error")
	}
	kept := m.checkpoints[1]
	m.checkpoints = m.checkpoints[:1]
	m.size = 10
	o := audit.VerifyOptions{Keys: []string{m.vkey}}
	if r, err := audit.VerifySource(t.Context(), m, o); err != nil || !r.OK || !slices.Contains(r.Notes, audit.CannotExclude) {
		t.Errorf("cut back to a checkpoint: %v %s", err, pretty(r))
	}
	o.Against = [][]byte{kept}
	if r, err := audit.VerifySource(t.Context(), m, o); err != nil || gist(r) != "cut 10" {
		t.Errorf("cut back, against one kept elsewhere: %v %s", err, pretty(r))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audit.VerifySource(ctx, m, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// growing is a log to which records and checkpoints are added while it is read.
type growing struct{ *memory }

func (g *growing) ReadHashes(at []int64) ([]tlog.Hash, error) {
	for range 3 {
		g.append(body(g.t, int(g.size)))
	}
	g.sign()
	return g.memory.ReadHashes(at)
}

func TestALogMayGrowWhileItIsRead(t *testing.T) {
	t.Parallel()
	g := &growing{memory: calls(t, 600, 256)}
	r, err := audit.VerifySource(t.Context(), g, audit.VerifyOptions{Keys: []string{g.vkey}})
	if err != nil || !r.OK || r.Size != 600 {
		t.Errorf("verify: %v %s", err, pretty(r))
	}
	var b bytes.Buffer
	if err := audit.Export(t.Context(), &b, g, audit.ExportOptions{Key: g.vkey}); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, b.Bytes(), audit.VerifyOptions{Keys: []string{g.vkey}}); !r.OK {
		t.Errorf("export: %s", pretty(r))
	}
}

func TestExportAfterTheKeyWasChanged(t *testing.T) {
	t.Parallel()
	m := calls(t, 5)
	old := m.vkey
	m.signer, m.vkey = key(t, origin, 'n')
	m.append(body(t, 5))
	m.sign()
	if r := verify(t, m.export(), audit.VerifyOptions{Keys: []string{old, m.vkey}}); !r.OK || r.Checkpoints != 2 {
		t.Errorf("both keys: %s", pretty(r))
	}
	if r := verify(t, m.export(), audit.VerifyOptions{Keys: []string{m.vkey}}); gist(r) != "checkpoint" {
		t.Errorf("the new key: %s", pretty(r))
	}
}

// That somebody trusts the keys of two logs does not make them one.
func TestCheckpointsOfAnotherLogDoNotCount(t *testing.T) {
	t.Parallel()
	m := calls(t, 5)
	other, otherKey := key(t, "example.org/other", 'o')
	signed, err := audit.SignCheckpoint(audit.Checkpoint{Origin: "example.org/other", Size: 5, Root: root(t, m.tree)}, other)
	if err != nil {
		t.Fatal(err)
	}
	m.checkpoints = append(m.checkpoints, signed)
	o := audit.VerifyOptions{Keys: []string{m.vkey, otherKey}}
	if r := verify(t, m.export(), o); gist(r) != "checkpoint" {
		t.Errorf("export: %s", pretty(r))
	}
	if r, err := audit.VerifySource(t.Context(), m, o); err != nil || gist(r) != "checkpoint" {
		t.Errorf("source: %v %s", err, pretty(r))
	}
}

func TestExportFails(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	for name, c := range map[string]struct {
		change func(m *memory) audit.ExportOptions
		want   string
	}{
		"no key":             {func(m *memory) audit.ExportOptions { return audit.ExportOptions{} }, "key"},
		"no checkpoint":      {func(m *memory) audit.ExportOptions { m.checkpoints = nil; return audit.ExportOptions{Key: m.vkey} }, "no checkpoint"},
		"no such checkpoint": {func(m *memory) audit.ExportOptions { return audit.ExportOptions{Key: m.vkey, Size: 3} }, "no checkpoint of 3"},
		"no hash":            {func(m *memory) audit.ExportOptions { delete(m.hashes, 1); return audit.ExportOptions{Key: m.vkey} }, "no such stored hash"},
		"line break": {func(m *memory) audit.ExportOptions {
			m.bodies[2] = []byte("{\n}")
			return audit.ExportOptions{Key: m.vkey}
		}, "record 2"},
		"not an object": {func(m *memory) audit.ExportOptions {
			m.bodies[2] = []byte("[1]")
			return audit.ExportOptions{Key: m.vkey}
		}, "record 2"},
		"checkpoint unsorted": {func(m *memory) audit.ExportOptions {
			slices.Reverse(m.checkpoints)
			return audit.ExportOptions{Key: m.vkey}
		}, "comes after"},
	} {
		m := calls(t, 7, 5)
		err := audit.Export(t.Context(), io.Discard, m, c.change(m))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := calls(t, 400)
	err := audit.Export(t.Context(), writer(func([]byte) (int, error) { return 0, full }), m, audit.ExportOptions{Key: m.vkey})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// tiles is a directory of tiles as tlog's own reader wants it.
type tiles struct {
	t     testing.TB
	files map[string][]byte
}

func (s *tiles) Height() int { return 8 }

func (s *tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range list {
		// tlog writes the height into the path, C2SP does not.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		b, ok := s.files[path]
		if !ok {
			return nil, fmt.Errorf("no %s", path)
		}
		out = append(out, b)
	}
	return out, nil
}

func (s *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func TestTilesAreReadByTlog(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 255, 256, 257, 600} {
		m := calls(t, size)
		m.append(body(t, 9999)) // not covered, not written
		s := &tiles{t: t, files: map[string][]byte{}}
		err := audit.Tiles(t.Context(), m, int64(size), func(path string, data []byte) error {
			if _, ok := s.files[path]; ok {
				t.Errorf("%s is put twice", path)
			}
			s.files[path] = data
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		known, err := audit.Verifiers(m.vkey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := audit.OpenCheckpoint(s.files["checkpoint"], known)
		if err != nil || c.Size != int64(size) {
			t.Fatalf("%v, %v", c, err)
		}
		// The reader checks every hash it gives out against the root.
		read := tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, s)
		for n := range int64(size) {
			path := fmt.Sprintf("tile/entries/%03d", n/256)
			if n/256 == int64(size)/256 {
				path += fmt.Sprintf(".p/%d", size%256)
			}
			bundle, ok := s.files[path]
			if !ok {
				t.Fatalf("no %s among %v", path, slices.Sorted(maps.Keys(s.files)))
			}
			for range n % 256 {
				bundle = bundle[2+binary.BigEndian.Uint16(bundle):]
			}
			entry := bundle[2 : 2+binary.BigEndian.Uint16(bundle)]
			h, err := read.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
			if err != nil || h[0] != audit.LeafHash(entry) {
				t.Fatalf("entry %d of %d is not the leaf in its tile: %v", n, size, err)
			}
		}
	}
}

func TestTilesFail(t *testing.T) {
	t.Parallel()
	put := func(string, []byte) error { return nil }
	m := calls(t, 5)
	if err := audit.Tiles(t.Context(), m, 4, put); err == nil {
		t.Error("a size without a checkpoint: no error")
	}
	delete(m.bodies, 3)
	if err := audit.Tiles(t.Context(), m, 5, put); err == nil || !strings.Contains(err.Error(), "record 3 is missing") {
		t.Errorf("a missing record: %v", err)
	}
	m = calls(t, 5)
	m.append(write(t, &audit.Record{ID: "long", Kind: audit.Applied, By: strings.Repeat("x", audit.MaxTileEntry)}))
	m.sign()
	if err := audit.Tiles(t.Context(), m, 6, put); err == nil || !strings.Contains(err.Error(), "record 5") {
		t.Errorf("a long record: %v", err)
	}
	full := errors.New("disk full")
	if err := audit.Tiles(t.Context(), calls(t, 5), 5, func(string, []byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestCheckCalls(t *testing.T) {
	t.Parallel()
	type R = audit.Record
	call := func(kind audit.Kind, id string, change ...func(*R)) R {
		r := R{Kind: kind, Call: sallyport.CallID(id)}
		if kind == audit.Outcome {
			r.Outcome = sallyport.OutcomeOK
		}
		for _, c := range change {
			c(&r)
		}
		return r
	}
	read := func(r *R) { r.Access = sallyport.Read }
	refused := func(r *R) { r.Outcome = sallyport.OutcomeRefused }
	unsettled := func(r *R) { r.Outcome = sallyport.OutcomeUnsettled }
	simulated := func(r *R) { r.Binding = sallyport.Simulate }
	for _, c := range []struct {
		name    string
		records []R
		want    string // findings
		open    string
	}{
		{"a call", []R{call(audit.Intent, "a"), call(audit.Outcome, "a")}, "", ""},
		{"two at once", []R{call(audit.Intent, "a"), call(audit.Intent, "b"), call(audit.Outcome, "b"), call(audit.Outcome, "a")}, "", ""},
		{"a read", []R{call(audit.Outcome, "a", read)}, "", ""},
		{"refused before", []R{call(audit.Outcome, "a", refused)}, "", ""},
		{"refused after", []R{call(audit.Intent, "a"), call(audit.Outcome, "a", refused)}, "", ""},
		{"in a world", []R{call(audit.Outcome, "a", simulated)}, "", ""},
		{"asked of the client", []R{call(audit.Outcome, "a", func(r *R) { r.CallKind = sallyport.KindSampling })}, "", ""},
		{"asked of the client for roots", []R{call(audit.Outcome, "a", func(r *R) { r.CallKind = sallyport.KindRoots })}, "", ""},
		{"others are no calls", []R{{Kind: audit.Started}, {Kind: audit.RunOpened, Call: "a"}}, "", ""},
		{"no intent", []R{call(audit.Outcome, "a")}, "no_intent 0", ""},
		{"no intent, unknown", []R{call(audit.Outcome, "a", unsettled)}, "no_intent 0", "a"},
		{"intent too late", []R{call(audit.Outcome, "a", read), call(audit.Intent, "a")}, "no_intent 1", ""},
		{"two intents", []R{call(audit.Intent, "a"), call(audit.Outcome, "a"), call(audit.Intent, "a")}, "repeated 2", ""},
		{"two outcomes", []R{call(audit.Intent, "a"), call(audit.Outcome, "a"), call(audit.Outcome, "a", refused)}, "repeated 2", ""},
		{"of no call", []R{call(audit.Intent, ""), call(audit.Outcome, "")}, "malformed 0, malformed 1", ""},
		{"open", []R{call(audit.Intent, "b"), call(audit.Intent, "a")}, "", "b a"},
		{"outcome unknown", []R{call(audit.Intent, "a"), call(audit.Outcome, "a", unsettled)}, "", "a!"},
		{"marked unknown", []R{call(audit.Intent, "a"), call(audit.Unknown, "a")}, "", "a!"},
		{"marked without an intent", []R{call(audit.Unknown, "a")}, "no_intent 0", ""},
		{"settled", []R{call(audit.Intent, "a"), call(audit.Unknown, "a"), call(audit.Settled, "a")}, "", ""},
		{"settled out of nothing", []R{call(audit.Settled, "a")}, "no_intent 0", ""},
		{"outcome after the mark", []R{call(audit.Intent, "a"), call(audit.Unknown, "a"), call(audit.Outcome, "a")}, "", ""},
	} {
		var calls audit.Calls
		var findings []audit.Finding
		for i := range c.records {
			findings = append(findings, calls.Add(int64(i), &c.records[i])...)
		}
		open := calls.Open()
		var got, left []string
		for _, f := range findings {
			got = append(got, fmt.Sprintf("%s %d", f.Kind, f.Sequence))
		}
		for _, o := range open {
			left = append(left, string(o.Call)+map[bool]string{true: "!"}[o.Marked])
		}
		if g := strings.Join(got, ", "); g != c.want {
			t.Errorf("%s: findings %q, want %q", c.name, g, c.want)
		}
		if g := strings.Join(left, " "); strings.TrimSuffix(g, "!") != strings.TrimSuffix(c.open, "!") || strings.HasSuffix(c.open, "!") && g != c.open {
			t.Errorf("%s: open %q, want %q", c.name, g, c.open)
		}
	}
}

func FuzzVerifyExport(f *testing.F) {
	m := calls(f, 6, 3)
	export := m.export()
	f.Add(export)
	for _, v := range vectors(f) {
		if len(v.export) < 4096 {
			f.Add(v.export)
		}
	}
	f.Add([]byte(strings.Join(lines(export)[:3], "") + "{\"leaves\":\"AA==\",\"first\":0}\n{\"checkpoint\":\"x\"}\n{\"end\":\"\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.VerifyExport(bytes.NewReader(b), audit.VerifyOptions{Keys: []string{m.vkey}, Against: m.checkpoints[:1]})
		if err != nil {
			t.Fatal(err)
		}
		// Only the log that begins as that of the checkpoint kept elsewhere is.
		if l := lines(export); r.OK && !bytes.Contains(b, []byte(strings.Join(l[1:4], ""))) {
			t.Fatalf("ok: %q", b)
		}
	})
}

func BenchmarkVerifyExport(b *testing.B) {
	const size = 20000
	m := newMemory(b)
	for n := range size {
		r := typical()
		r.ID, r.Call = fmt.Sprintf("rec_%d", n), sallyport.CallID(fmt.Sprintf("call_%d", n))
		m.append(write(b, r))
		if n%2000 == 1999 {
			m.sign()
		}
	}
	export := m.export()
	b.SetBytes(int64(len(export)))
	b.ReportAllocs()
	for b.Loop() {
		if r := verify(b, export, audit.VerifyOptions{Keys: []string{m.vkey}}); !r.OK {
			b.Fatal(pretty(r))
		}
	}
	b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
