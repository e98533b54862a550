package app

import (
	"bufio"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sallyport"
	"sallyport/internal/auth"
	"sallyport/internal/cassette"
	"sallyport/internal/config"
	"sallyport/internal/ident"
	"sallyport/internal/scrub"
)

// ScrubOptions say what is to be scrubbed, and how.
type ScrubOptions struct {
	Dir     string   // the project directory, whose key is used unless KeyFile is given
	Files   []string // "-" is Stdin
	Out     string   // the folder for what comes of them; of "-" it goes to Stdout
	Domain  string
	KeyFile string // 32 bytes in base 64
	Rules   string // file of declared classes; none if empty
	Subject string // instead of the rules'
	Format  string // csv, json or ndjson; by the file's name if empty
	NoNames bool   // the first record of a table is data
	DryRun  bool   // count, and write nothing
	Force   bool   // write over what is there
	// Analyzer is the address of a Presidio analyzer, and Language that of the texts.
	Analyzer, Language string
	Stdin              io.Reader
	Stdout             io.Writer
	// Progress, if not nil, is called now and then with the bytes read so far and those
	// there are, 0 if nobody knows.
	Progress func(done, total int64)
}

// ScrubReport is what was found and what was done about it. No value is in it.
type ScrubReport struct {
	Domain string          `json:"domain"`
	Key    string          `json:"key"`
	Rules  string          `json:"rules"` // digest
	DryRun bool            `json:"dry_run"`
	Files  []*ScrubbedFile `json:"files"`
	// Classes are the sums over all files and places.
	Classes []FoundClass `json:"classes"`
}

// ScrubbedFile is one file of a report.
type ScrubbedFile struct {
	Input   string `json:"input"`
	Output  string `json:"output,omitempty"`
	Format  string `json:"format"`
	Status  string `json:"status"`
	Bytes   int64  `json:"bytes"` // read
	Records int64  `json:"records"`
	Values  int64  `json:"values"`  // that were looked at
	Quoted  int64  `json:"quoted"`  // numbers that had to become strings
	Renamed int64  `json:"renamed"` // names of members that a number keeps apart
	// Found is by column, or by pointer into a record.
	Found []FoundPlace `json:"found"`
	// Untouched are the columns in which nothing was found or declared.
	Untouched []string `json:"untouched,omitempty"`
}

// What became of a file.
const (
	StatusScrubbed  = "scrubbed"
	StatusUnchanged = "unchanged" // its output is there already, of the same source, key and rules
	StatusCopied    = "copied"    // it was scrubbed before by the same key and rules
	StatusChecked   = "checked"   // in a dry run
)

// FoundPlace counts the values of one class in one place.
type FoundPlace struct {
	Place string `json:"place"`
	Class string `json:"class"`
	Done  string `json:"done"` // pseudonymise, redact, drop, keep, or already
	Count int64  `json:"count"`
}

// FoundClass counts the values of one class.
type FoundClass struct {
	Class string `json:"class"`
	Done  string `json:"done"`
	Count int64  `json:"count"`
}

// scrubNote is the file in an output folder that says what is in it.
const scrubNote = "scrub.json"

// scrubNotes is what scrub.json holds.
type scrubNotes struct {
	Scrubbed []scrubbedNote `json:"scrubbed"`
}

type scrubbedNote struct {
	File    string `json:"file"` // its name in the folder
	Format  string `json:"format"`
	Domain  string `json:"domain"`
	Key     string `json:"key"`
	Rules   string `json:"rules"`
	Source  string `json:"source"` // HMAC-SHA-256 of the source, under the domain's key for files
	Digest  string `json:"digest"` // SHA-256 of the file
	Bytes   int64  `json:"bytes"`
	Records int64  `json:"records"`
}

// validDomain are the names of data domains, as manifests have them.
var validDomain = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// Scrub scrubs files. It stops at the first that cannot be; those before it are whole,
// and of it nothing is left. The report is of those that were done.
func Scrub(ctx context.Context, o ScrubOptions) (*ScrubReport, error) {
	j, err := planScrub(ctx, &o)
	if err != nil {
		return nil, err
	}
	report := &ScrubReport{Domain: o.Domain, Key: j.key.ID, Rules: j.rules, DryRun: o.DryRun, Files: []*ScrubbedFile{}}
	for _, f := range j.files {
		done, err := j.file(ctx, f)
		if err != nil {
			return report.summed(), fmt.Errorf("%s: %w", f.Input, err)
		}
		report.Files = append(report.Files, done)
	}
	return report.summed(), nil
}

func (r *ScrubReport) summed() *ScrubReport {
	sums := map[FoundClass]int64{}
	for _, f := range r.Files {
		for _, p := range f.Found {
			sums[FoundClass{Class: p.Class, Done: p.Done}] += p.Count
		}
	}
	r.Classes = []FoundClass{}
	for c, n := range sums {
		c.Count = n
		r.Classes = append(r.Classes, c)
	}
	slices.SortFunc(r.Classes, func(a, b FoundClass) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Done, b.Done))
	})
	return r
}

// scrubJob is the work of one command.
type scrubJob struct {
	o     *ScrubOptions
	key   *auth.DomainKey
	rules string
	s     *scrub.Scrubber
	files []*ScrubbedFile
	total int64
	read  atomic.Int64
}

// planScrub checks everything that can be before the first byte is read.
func planScrub(ctx context.Context, o *ScrubOptions) (*scrubJob, error) {
	if !validDomain.MatchString(o.Domain) {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%q is no name of a data domain", o.Domain), "use a-z, 0-9 and '-', at most 64 of them")
	}
	j := &scrubJob{o: o}
	taken := map[string]string{}
	for _, name := range o.Files {
		f := &ScrubbedFile{Input: name, Format: o.Format}
		if f.Format == "" {
			var ok bool
			if f.Format, ok = formatOf(name); !ok {
				return nil, sallyport.Refuse(sallyport.BadRequest, name+": its name does not tell its format", "say --format csv, json or ndjson")
			}
		}
		j.files = append(j.files, f)
		if name == "-" {
			if len(o.Files) > 1 {
				return nil, sallyport.Refuse(sallyport.BadRequest, "- stands for standard input, and goes with no other file", "")
			}
			continue
		}
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, sallyport.Refuse(sallyport.NotFound, "there is no file "+name, "")
		case err != nil:
			return nil, err
		case info.IsDir():
			return nil, sallyport.Refuse(sallyport.BadRequest, name+" is a folder", "name the files in it")
		}
		j.total += info.Size()
		if o.DryRun {
			continue
		}
		if o.Out == "" {
			return nil, sallyport.Refuse(sallyport.BadRequest, "there is no folder for what is written", "name one with --out, or only count with --dry-run")
		}
		base := filepath.Base(name)
		if base == scrubNote {
			return nil, sallyport.Refuse(sallyport.BadRequest, name+" says what was scrubbed beside it, and is no data", "leave it out")
		}
		if other, ok := taken[base]; ok {
			return nil, sallyport.Refuse(sallyport.Conflict, other+" and "+name+" would become one file", "scrub them into two folders")
		}
		taken[base] = name
		f.Output = filepath.Join(o.Out, base)
	}
	if err := j.unlikeInputs(); err != nil {
		return nil, err
	}
	root, err := scrubRoot(o)
	if err != nil {
		return nil, err
	}
	if j.key, err = auth.NewDomainKey(root, o.Domain); err != nil {
		return nil, err
	}
	rules := &scrub.Rules{}
	if o.Rules != "" {
		if rules, err = readRules(o.Rules); err != nil {
			return nil, err
		}
	}
	if o.Subject != "" {
		rules.Subject = o.Subject
	}
	j.rules = rules.Digest()
	if j.s, err = scrub.New(j.key.Pseudonyms, rules); err != nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, err.Error(), "")
	}
	if o.Analyzer != "" {
		a, err := newAnalyzer(o.Analyzer, o.Language)
		if err != nil {
			return nil, err
		}
		j.s.Finder = a.finder(ctx)
		j.rules += "+analyzer" // what it finds is not ours to say
	}
	return j, nil
}

// unlikeInputs sees to it that nothing is written where something is read.
func (j *scrubJob) unlikeInputs() error {
	for _, f := range j.files {
		if f.Output == "" {
			continue
		}
		out, err := os.Stat(f.Output)
		if err != nil {
			continue // not there, or found out later
		}
		for _, in := range j.files {
			if info, err := os.Stat(in.Input); err == nil && os.SameFile(info, out) {
				return sallyport.Refuse(sallyport.Conflict, f.Output+" would be written over, and it is "+in.Input+", which is read", "name another folder with --out")
			}
		}
	}
	return nil
}

func formatOf(name string) (string, bool) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv", ".tsv", ".tab":
		return formatCSV, true
	case ".json":
		return formatJSON, true
	case ".ndjson", ".jsonl":
		return formatNDJSON, true
	}
	return "", false
}

// scrubRoot is what the keys of data domains follow from.
func scrubRoot(o *ScrubOptions) ([]byte, error) {
	if o.KeyFile != "" {
		root, err := auth.ReadKeyFile(o.KeyFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, sallyport.Refuse(sallyport.NotFound, "there is no key file "+o.KeyFile, "make one, once, and keep it: head -c 32 /dev/urandom | base64 > "+o.KeyFile)
		}
		return root, err
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "sallyport.yaml")); errors.Is(err, fs.ErrNotExist) {
		return nil, sallyport.Refuse(sallyport.NotFound, "there is no project in "+o.Dir+" whose key could be used",
			"name its directory with --dir, or a key of your own with --key-file")
	}
	server, problems := config.LoadServer(os.DirFS(o.Dir))
	if len(problems) > 0 {
		return nil, problems
	}
	ring, err := auth.OpenRing((&App{Options: Options{Dir: o.Dir}}).path(server.Keys))
	if err != nil {
		return nil, err
	}
	return ring.Pseudonyms, nil
}

func readRules(name string) (*scrub.Rules, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	rules, err := scrub.ParseRules(name, text, func(schema string) ([]byte, error) {
		if !filepath.IsAbs(schema) {
			schema = filepath.Join(filepath.Dir(name), schema)
		}
		return os.ReadFile(schema)
	})
	if err != nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, err.Error(), "")
	}
	return rules, nil
}

// file does one file.
func (j *scrubJob) file(ctx context.Context, f *ScrubbedFile) (*ScrubbedFile, error) {
	f.Found = []FoundPlace{}
	if f.Input == "-" {
		out := j.o.Stdout
		f.Status = StatusScrubbed
		if j.o.DryRun {
			out, f.Status = io.Discard, StatusChecked
		}
		buffered := bufio.NewWriterSize(out, chunkSize)
		_, err := j.stream(ctx, f, j.o.Stdin, buffered)
		return f, errors.Join(err, buffered.Flush())
	}
	in, err := os.Open(f.Input)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	before, err := j.scrubbedBefore(f)
	if err != nil {
		return nil, err
	}
	if j.o.DryRun {
		f.Status = StatusChecked
		if before != nil {
			f.Status = StatusCopied
		}
		_, err := j.stream(ctx, f, in, io.Discard)
		return f, err
	}
	if _, err := os.Lstat(f.Output); err == nil && !j.o.Force {
		same, err := j.madeBefore(f)
		if err != nil || same {
			f.Status = StatusUnchanged
			return f, err
		}
		return nil, sallyport.Refuse(sallyport.Conflict, f.Output+" is there already; nothing was written", "name another folder with --out, or write over it with --force")
	}
	return f, j.write(ctx, f, in, before)
}

// write scrubs a file into a temporary one beside its place, and puts it there whole.
func (j *scrubJob) write(ctx context.Context, f *ScrubbedFile, in *os.File, before *scrubbedNote) (err error) {
	if err := os.MkdirAll(j.o.Out, 0o755); err != nil {
		return err
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(j.o.Out, "."+filepath.Base(f.Output)+".scrub-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gone(tmp.Name())) }()
	digest := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(tmp, digest), chunkSize)
	note := scrubbedNote{File: filepath.Base(f.Output), Format: f.Format, Domain: j.o.Domain, Key: j.key.ID, Rules: j.rules}
	if before != nil {
		f.Status, note.Source, note.Records = StatusCopied, before.Source, before.Records
		f.Records = before.Records
		f.Bytes, err = io.Copy(buffered, in)
	} else {
		f.Status = StatusScrubbed
		note.Source, err = j.stream(ctx, f, in, buffered)
		note.Records = f.Records
	}
	err = errors.Join(err, buffered.Flush(), tmp.Chmod(info.Mode().Perm()), tmp.Sync())
	size, seekErr := tmp.Seek(0, io.SeekCurrent)
	if err = errors.Join(err, seekErr, tmp.Close()); err != nil {
		return err
	}
	note.Digest, note.Bytes = "sha256:"+hex.EncodeToString(digest.Sum(nil)), size
	if err := settle(tmp.Name(), f.Output, j.o.Force); err != nil {
		return err
	}
	return writeNote(j.o.Out, note)
}

// gone removes a temporary file, which may have been renamed.
func gone(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settle puts a file where it belongs. Without force it takes no other's place.
func settle(tmp, output string, force bool) error {
	if force {
		return os.Rename(tmp, output)
	}
	err := os.Link(tmp, output)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return sallyport.Refuse(sallyport.Conflict, output+" has come into being meanwhile", "")
	}
	if _, statErr := os.Lstat(output); errors.Is(statErr, fs.ErrNotExist) {
		return os.Rename(tmp, output) // a file system without links
	}
	return err
}

// stream scrubs one file and returns its commitment. Batches are scrubbed at the same
// time and written in their order.
func (j *scrubJob) stream(ctx context.Context, f *ScrubbedFile, in io.Reader, out io.Writer) (source string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var split splitter
	var columns *csvFile
	switch f.Format {
	case formatCSV:
		columns = &csvFile{s: j.s, noNames: j.o.NoNames}
		if ext := strings.ToLower(filepath.Ext(f.Input)); ext == ".tsv" || ext == ".tab" {
			columns.comma = '\t'
		}
		split = columns
	case formatJSON:
		split = &jsonFile{s: j.s}
	case formatNDJSON:
		split = &lineFile{s: j.s}
	default:
		return "", sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("there is no format %q", f.Format), "say --format csv, json or ndjson")
	}
	commitment := hmac.New(sha256.New, j.key.Files)
	counted := &countingReader{in: in, hash: commitment, all: &j.read}
	workers := runtime.GOMAXPROCS(0)
	pool := sync.Pool{New: func() any { return new(batch) }}
	order, work := make(chan *batch, 2*workers), make(chan *batch, 2*workers)
	var readErr error
	go func() {
		// It is not waited for: it may be reading from a terminal.
		defer close(order)
		defer close(work)
		c := chunks{in: counted, split: split, line: 1, size: chunkSize, fresh: func() *batch {
			b := pool.Get().(*batch)
			*b = batch{raw: b.raw, out: b.out[:0], done: make(chan struct{})}
			return b
		}}
		for {
			b, err := c.next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					readErr = err
				}
				return
			}
			for _, to := range []chan *batch{order, work} {
				select {
				case to <- b:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	for range workers {
		busy.Go(func() {
			for {
				select {
				case b, ok := <-work:
					if !ok {
						return
					}
					b.scrub(split)
					close(b.done)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	var tally scrub.Tally
	for open := true; open; {
		var b *batch
		select {
		case b, open = <-order:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if !open {
			break
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if b.err != nil {
			return "", b.err
		}
		if _, err := out.Write(b.out); err != nil {
			return "", err
		}
		f.Records += int64(len(b.records))
		tally.Add(&b.tally)
		if j.o.Progress != nil {
			j.o.Progress(j.read.Load(), j.total)
		}
		pool.Put(b)
	}
	if err := cmp.Or(ctx.Err(), readErr); err != nil {
		return "", err
	}
	f.Bytes, f.Values, f.Quoted, f.Renamed = counted.n, tally.Leaves, tally.Quoted, tally.Renamed
	touched := map[string]bool{}
	for _, c := range tally.Counts() {
		f.Found = append(f.Found, FoundPlace{Place: c.Place, Class: c.Class, Done: c.Done, Count: c.N})
		touched[c.Place] = true
	}
	if columns != nil {
		for _, name := range columns.names {
			if !touched[name] {
				f.Untouched = append(f.Untouched, name)
			}
		}
	}
	return "hmac-sha256:" + hex.EncodeToString(commitment.Sum(nil)), nil
}

// scrub fills out.
func (b *batch) scrub(with splitter) {
	last := 0
	for _, r := range b.records {
		b.out = append(b.out, b.raw[last:r.start]...)
		var err error
		if b.out, err = with.record(b.out, b.raw[r.start:r.end], &b.tally); err != nil {
			line := b.line + int64(bytesBefore(b.raw, r.start))
			b.err = inLine(line, b.raw[r.start:r.end], err)
			return
		}
		last = r.end
	}
	b.out = append(b.out, b.raw[last:]...)
}

func bytesBefore(raw []byte, end int) int {
	n := 0
	for _, c := range raw[:end] {
		if c == '\n' {
			n++
		}
	}
	return n
}

// countingReader counts and commits to what is read.
type countingReader struct {
	in   io.Reader
	hash hash.Hash
	n    int64
	all  *atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.hash.Write(b[:n])
	c.n += int64(n)
	c.all.Add(int64(n))
	return n, err
}

// noteOf returns what a folder says of a file in it, if it says something.
func noteOf(dir, file string) (*scrubbedNote, error) {
	notes, err := readNotes(dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(notes.Scrubbed, func(n scrubbedNote) bool { return n.File == file })
	if i < 0 {
		return nil, nil
	}
	return &notes.Scrubbed[i], nil
}

func readNotes(dir string) (*scrubNotes, error) {
	notes := &scrubNotes{}
	text, err := os.ReadFile(filepath.Join(dir, scrubNote))
	if errors.Is(err, fs.ErrNotExist) {
		return notes, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, notes); err != nil {
		return nil, fmt.Errorf("%s: %w; move it away if it is none of sallyport's", filepath.Join(dir, scrubNote), err)
	}
	return notes, nil
}

func writeNote(dir string, note scrubbedNote) error {
	notes, err := readNotes(dir)
	if err != nil {
		return err
	}
	notes.Scrubbed = slices.DeleteFunc(notes.Scrubbed, func(n scrubbedNote) bool { return n.File == note.File })
	notes.Scrubbed = append(notes.Scrubbed, note)
	slices.SortFunc(notes.Scrubbed, func(a, b scrubbedNote) int { return strings.Compare(a.File, b.File) })
	text, err := json.MarshalIndent(notes, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+scrubNote+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, scrubNote))
	}
	return errors.Join(err, gone(f.Name()))
}

// scrubbedBefore returns what is known of an input that was scrubbed with this key. One
// that was scrubbed with other rules has to be scrubbed from its source: dates and short
// identifiers would change a second time.
func (j *scrubJob) scrubbedBefore(f *ScrubbedFile) (*scrubbedNote, error) {
	note, err := noteOf(filepath.Dir(f.Input), filepath.Base(f.Input))
	if err != nil || note == nil || note.Key != j.key.ID {
		return nil, err
	}
	digest := sha256.New()
	if err := hashFile(digest, f.Input); err != nil {
		return nil, err
	}
	switch {
	case note.Digest != "sha256:"+hex.EncodeToString(digest.Sum(nil)):
		return nil, nil // changed since
	case note.Rules == j.rules:
		return note, nil
	case j.o.Force:
		return nil, nil
	}
	return nil, sallyport.Refuse(sallyport.Conflict, "it was scrubbed before with this key and other rules, and dates and short identifiers would change once more",
		"scrub the file it came from, or this one with --force")
}

// madeBefore reports whether the output is there, whole, and comes from this input by
// this key and these rules.
func (j *scrubJob) madeBefore(f *ScrubbedFile) (bool, error) {
	note, err := noteOf(j.o.Out, filepath.Base(f.Output))
	if err != nil || note == nil || note.Key != j.key.ID || note.Rules != j.rules {
		return false, err
	}
	digest, source := sha256.New(), hmac.New(sha256.New, j.key.Files)
	if err := errors.Join(hashFile(digest, f.Output), hashFile(source, f.Input)); err != nil {
		return false, err
	}
	f.Records = note.Records
	return note.Digest == "sha256:"+hex.EncodeToString(digest.Sum(nil)) && note.Source == "hmac-sha256:"+hex.EncodeToString(source.Sum(nil)), nil
}

func hashFile(h hash.Hash, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}

// RecordingScrubber scrubs recordings of a data domain before they touch a disk.
type RecordingScrubber struct{ s *scrub.Scrubber }

// NewRecordingScrubber returns one for a domain of the ring.
func NewRecordingScrubber(ring *auth.Ring, domain string, rules *scrub.Rules) (*RecordingScrubber, error) {
	key, err := auth.NewDomainKey(ring.Pseudonyms, domain)
	if err != nil {
		return nil, err
	}
	s, err := scrub.New(key.Pseudonyms, rules)
	if err != nil {
		return nil, err
	}
	return &RecordingScrubber{s}, nil
}

// Scrub says what becomes of one leaf of a call. Dates move with the first e-mail
// address beside them, or the first member beside them whose name ends in id.
func (r *RecordingScrubber) Scrub(l *cassette.Leaf) (cassette.Scrubbed, error) {
	v := scrub.Value{Pointer: l.Pointer, Type: l.Type, IsName: l.IsName, Text: []byte(l.Text), Subject: recordSubject(l.Record)}
	switch l.Class {
	case "":
	case cassette.ClassNone, "public":
		v.Rule = &scrub.Rule{Action: scrub.Keep}
	default:
		v.Rule = &scrub.Rule{Class: l.Class, Action: scrub.Pseudonymise}
	}
	var said cassette.Scrubbed
	t := scrub.Tally{Seen: func(kind ident.Kind, original, _ []byte) {
		if kind == ident.BirthDate || kind == ident.Date {
			said.Moved = append(said.Moved, kind.Class()) // to another person's date
			return
		}
		said.Found = append(said.Found, cassette.Found{Class: kind.Class(), Value: string(original)})
	}}
	text, ok, err := r.s.Value(v, &t)
	switch {
	case err != nil:
		return said, err
	case !ok:
		said.Verdict = cassette.Drop
	case string(text) == l.Text:
		said.Verdict = cassette.Keep
	default:
		said.Verdict, said.Text = cassette.Replace, string(text)
	}
	return said, nil
}

func recordSubject(record []cassette.Member) []byte {
	for _, m := range record {
		if strings.Contains(m.Text, "@") && !strings.ContainsAny(m.Text, " \n") {
			return []byte(m.Text)
		}
	}
	for _, m := range record {
		if strings.HasSuffix(strings.ToLower(m.Name), "id") {
			return []byte(m.Text)
		}
	}
	return nil
}
