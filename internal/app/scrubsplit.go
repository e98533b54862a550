package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/detect"
	"sallyport/internal/scrub"
)

// The formats of files that can be scrubbed.
const (
	formatCSV    = "csv"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
)

// Sizes in bytes: of what is read at once, and of the largest record there may be.
const (
	chunkSize = 256 << 10
	maxRecord = 64 << 20
)

// span is a record in a batch, or a field in a record.
type span struct{ start, end int }

// batch is some whole records with what stands between them.
type batch struct {
	raw     []byte
	records []span
	line    int64 // of raw[0], from 1
	out     []byte
	tally   scrub.Tally
	err     error
	done    chan struct{}
}

// lineError is what is wrong with a file, and in which line.
type lineError struct {
	line int64
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// offsetError is what is wrong at a byte of what is being looked at.
type offsetError struct {
	at  int
	err error
}

func (e *offsetError) Error() string { return e.err.Error() }
func (e *offsetError) Unwrap() error { return e.err }

func wrongAt(at int, format string, args ...any) error {
	return &offsetError{at, fmt.Errorf(format, args...)}
}

// inLine says in which line something is wrong, where text begins with a line.
func inLine(line int64, text []byte, err error) error {
	var off *offsetError
	if errors.As(err, &off) {
		line += int64(bytes.Count(text[:min(off.at, len(text))], []byte("\n")))
		err = off.err
	}
	return &lineError{line, err}
}

// splitter finds the records of a format.
type splitter interface {
	// split returns the whole records buf begins with, and how many bytes they and what
	// stands behind them take. It goes on there with the next call. Without whole
	// records n may be 0: then there has to be more in buf, and if last there is none.
	split(buf []byte, last bool) (records []span, n int, err error)
	// record appends what becomes of a record.
	record(dst, record []byte, t *scrub.Tally) ([]byte, error)
}

// chunks reads batches from a file.
type chunks struct {
	in    io.Reader
	split splitter
	buf   []byte // read and not yet in a batch
	line  int64
	eof   bool
	fresh func() *batch
	size  int // of the buffer to begin with
}

// next returns the next batch, or io.EOF.
func (c *chunks) next() (*batch, error) {
	for {
		if err := c.fill(); err != nil {
			return nil, err
		}
		if len(c.buf) == 0 && c.eof {
			if _, _, err := c.split.split(nil, true); err != nil {
				return nil, inLine(c.line, nil, err)
			}
			return nil, io.EOF
		}
		if err := checkText(c.buf, c.eof); err != nil {
			return nil, inLine(c.line, c.buf, err)
		}
		records, n, err := c.split.split(c.buf, c.eof)
		if err != nil {
			return nil, inLine(c.line, c.buf, err)
		}
		if n == 0 {
			if len(c.buf) >= maxRecord {
				return nil, inLine(c.line, nil, fmt.Errorf("the record that begins here is longer than %d MiB; is a quote not closed? large documents are read as NDJSON or as an array", maxRecord>>20))
			}
			c.grow()
			continue
		}
		b := c.fresh()
		b.raw = append(b.raw[:0], c.buf[:n]...)
		b.records, b.line = records, c.line
		c.line += int64(bytes.Count(b.raw, []byte("\n")))
		c.buf = c.buf[:copy(c.buf, c.buf[n:])]
		return b, nil
	}
}

func (c *chunks) grow() {
	more := make([]byte, len(c.buf), min(2*cap(c.buf), maxRecord))
	copy(more, c.buf)
	c.buf = more
}

// fill reads until the buffer is full.
func (c *chunks) fill() error {
	if c.buf == nil {
		c.buf = make([]byte, 0, c.size)
	}
	for len(c.buf) < cap(c.buf) && !c.eof {
		n, err := c.in.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			c.eof = true
		case err != nil:
			return err
		}
	}
	return nil
}

// checkText refuses what is no UTF-8, but for a character that is cut at the end.
func checkText(b []byte, last bool) error {
	if len(b) > 1 && (b[0] == 0xFF && b[1] == 0xFE || b[0] == 0xFE && b[1] == 0xFF) {
		return errors.New("this is UTF-16; convert it to UTF-8 first: iconv -f UTF-16 -t UTF-8")
	}
	if at := bytes.IndexByte(b, 0); at >= 0 {
		return wrongAt(at, "a NUL byte: this is no text, or not in UTF-8")
	}
	if utf8.Valid(b) {
		return nil
	}
	for at := 0; at < len(b); {
		r, n := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && n == 1 {
			if !last && !utf8.FullRune(b[at:]) {
				return nil
			}
			return wrongAt(at, "not UTF-8 text; convert it first, as from Windows: iconv -f WINDOWS-1252 -t UTF-8")
		}
		at += n
	}
	return nil
}

// bom is the mark that some programs begin UTF-8 with.
var bom = []byte("\xEF\xBB\xBF")

// asDocument scrubs a record that is a JSON document, and says where one is not.
func asDocument(s *scrub.Scrubber, dst, record []byte, t *scrub.Tally) ([]byte, error) {
	dst, err := s.JSON(dst, record, t)
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return dst, wrongAt(int(syntax.ByteOffset), "not JSON: %w", syntax.Err)
	}
	return dst, err
}

// lineFile is the documents of an NDJSON file, one in each line. Blank lines are passed
// over.
type lineFile struct {
	s       *scrub.Scrubber
	started bool
}

func (l *lineFile) record(dst, record []byte, t *scrub.Tally) ([]byte, error) {
	return asDocument(l.s, dst, record, t)
}

func (l *lineFile) split(buf []byte, last bool) (records []span, n int, err error) {
	if !l.started && bytes.HasPrefix(buf, bom) {
		n = len(bom)
	}
	for n < len(buf) {
		end := bytes.IndexByte(buf[n:], '\n')
		next := n + end + 1
		if end < 0 {
			if !last {
				break
			}
			next = len(buf)
		}
		start, stop := n, next
		for start < stop && white(buf[start]) {
			start++
		}
		for stop > start && white(buf[stop-1]) {
			stop--
		}
		if start < stop {
			records = append(records, span{start, stop})
		}
		n = next
	}
	if n <= len(bom) && len(records) == 0 && !last {
		return nil, 0, nil
	}
	l.started = true
	return records, n, nil
}

func white(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// jsonFile is a JSON file: an array, whose elements are records, or one record.
type jsonFile struct {
	s     *scrub.Scrubber
	state docState
}

type docState uint8

const (
	docBegins docState = iota
	docFirst           // an element or the end of the array comes next
	docElement
	docAfter // a comma or the end
	docEnded
)

func (d *jsonFile) record(dst, record []byte, t *scrub.Tally) ([]byte, error) {
	return asDocument(d.s, dst, record, t)
}

func (d *jsonFile) split(buf []byte, last bool) (records []span, n int, err error) {
	i := 0
	if d.state == docBegins && bytes.HasPrefix(buf, bom) {
		i = len(bom)
	}
	for {
		for i < len(buf) && white(buf[i]) {
			i++
		}
		if i == len(buf) {
			if last && d.state != docEnded {
				return nil, 0, wrongAt(i, "not JSON: the document ends too soon")
			}
			if d.state != docBegins || last {
				n = i
			}
			return records, n, nil
		}
		c := buf[i]
		switch {
		case d.state == docBegins && c == '[':
			d.state = docFirst
			i++
		case d.state == docAfter && c == ',':
			d.state = docElement
			i++
		case (d.state == docAfter || d.state == docFirst) && c == ']':
			d.state = docEnded
			i++
		case d.state == docAfter:
			return nil, 0, wrongAt(i, "not JSON: %q after an element, where a comma or ] should be", c)
		case d.state == docEnded:
			return nil, 0, wrongAt(i, "not JSON: text after the document; a file with a document in each line is NDJSON: --format ndjson")
		default:
			end, whole, err := valueEnd(buf, i, last)
			if err != nil {
				return nil, 0, err
			}
			if !whole {
				return records, n, nil
			}
			records = append(records, span{i, end})
			i = end
			if d.state == docBegins {
				d.state = docEnded
			} else {
				d.state = docAfter
			}
		}
		n = i
	}
}

// valueEnd returns where the JSON value at i ends, judging by quotes and brackets
// alone, and whether it does.
func valueEnd(buf []byte, i int, last bool) (end int, whole bool, err error) {
	start, depth := i, 0
	for i < len(buf) {
		switch c := buf[i]; {
		case c == '"':
			i = stringEnd(buf, i)
		case c == '{' || c == '[':
			depth++
			i++
			continue
		case depth > 0 && (c == '}' || c == ']'):
			depth--
			i++
		case depth > 0:
			i++
			continue
		default:
			for i < len(buf) && !white(buf[i]) && bytes.IndexByte([]byte(`,]}":`), buf[i]) < 0 {
				i++
			}
			if i == start {
				return i, false, wrongAt(i, "not JSON: %q where a value should be", c)
			}
			return i, i < len(buf) || last, nil
		}
		if depth == 0 && i <= len(buf) {
			return i, true, nil
		}
	}
	if last {
		err = wrongAt(start, "not JSON: the value that begins here does not end")
	}
	return i, false, err
}

// stringEnd returns where the string at i ends, or more than there is.
func stringEnd(buf []byte, i int) int {
	for at := i + 1; ; at++ {
		n := bytes.IndexByte(buf[at:], '"')
		if n < 0 {
			return len(buf) + 1
		}
		at += n
		escapes := 0
		for buf[at-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at + 1
		}
	}
}

// delimiters are what may stand between the fields of a table.
const delimiters = ",;\t|"

// csvFile is a CSV file (RFC 4180). Of its records the first names the columns.
type csvFile struct {
	s       *scrub.Scrubber
	comma   byte // 0 until it was detected
	noNames bool // the first record is data
	header  *scrub.Header
	names   []string
}

// field is one of a record: where it stands with its quotes, and what it says.
type field struct {
	span
	quoted bool
	text   []byte
}

func (c *csvFile) split(buf []byte, last bool) (records []span, n int, err error) {
	if c.header == nil {
		if len(buf) == 0 {
			return nil, 0, nil
		}
		if bytes.HasPrefix(buf, bom) {
			n = len(bom)
		}
		if c.comma == 0 {
			c.comma = detectComma(buf[n:])
		}
		end, next, whole, err := recordEnd(buf, n, c.comma, last)
		if err != nil || !whole {
			return nil, 0, err
		}
		if err := c.begin(buf[n:end]); err != nil {
			return nil, 0, wrongAt(n, "%w", err)
		}
		if !c.noNames {
			n = next
		}
	}
	for n < len(buf) {
		end, next, whole, err := recordEnd(buf, n, c.comma, last)
		if err != nil {
			return nil, 0, err
		}
		if !whole {
			break
		}
		if end > n {
			records = append(records, span{n, end})
		}
		n = next
	}
	return records, n, nil
}

// detectComma chooses the separator that gives the most fields, as many in each record
// of what the file begins with.
func detectComma(buf []byte) byte {
	best, most := byte(','), 1
	for _, comma := range []byte(delimiters) {
		count, records, even := 0, 0, true
		for n := 0; n < len(buf) && records < 50; {
			end, next, whole, err := recordEnd(buf, n, comma, false)
			if err != nil || !whole {
				even = even && (err == nil || records > 0)
				if records == 0 && err == nil {
					end, next = len(buf), len(buf)
				} else {
					break
				}
			}
			if end > n {
				fields, err := fieldsOf(nil, buf[n:end], comma)
				if records++; err != nil || records > 1 && len(fields) != count {
					even = false
					break
				}
				count = len(fields)
			}
			n = next
		}
		if even && count > most {
			best, most = comma, count
		}
	}
	return best
}

// begin takes the first record.
func (c *csvFile) begin(record []byte) error {
	fields, err := fieldsOf(nil, record, c.comma)
	if err != nil {
		return err
	}
	numbers := 0
	scanner := detect.New()
	for i, f := range fields {
		name := string(bytes.TrimSpace(f.text))
		if c.noNames {
			name = fmt.Sprint(i + 1)
		} else if len(scanner.ScanText(nil, f.text, 0)) > 0 {
			return fmt.Errorf("the first line should name the columns, and field %d looks like data; add a line of names, or say --no-header", i+1)
		}
		if len(name) > 0 && len(bytes.Trim(f.text, "0123456789.,-/: ")) == 0 {
			numbers++
		}
		c.names = append(c.names, name)
	}
	if !c.noNames && numbers > len(fields)/2 {
		return errors.New("the first line should name the columns, and most of it are numbers; add a line of names, or say --no-header")
	}
	if c.header, err = c.s.Header(c.names); err != nil {
		return fmt.Errorf("columns %q: %w", c.names, err)
	}
	return nil
}

// recordEnd returns where the record at n ends and the next one begins.
func recordEnd(buf []byte, n int, comma byte, last bool) (end, next int, whole bool, err error) {
	nl := bytes.IndexByte(buf[n:], '\n')
	if nl >= 0 && bytes.IndexByte(buf[n:n+nl], '"') < 0 {
		return lineEnd(buf, n, n+nl), n + nl + 1, true, nil
	}
	for at := n; ; {
		if at < len(buf) && buf[at] == '"' {
			open := at
			for at++; ; at += 2 {
				i := bytes.IndexByte(buf[at:], '"')
				if i < 0 {
					if last {
						err = wrongAt(open, "the quote that begins here is not closed")
					}
					return 0, 0, false, err
				}
				at += i
				if at+1 == len(buf) && !last {
					return 0, 0, false, nil
				}
				if at+1 == len(buf) || buf[at+1] != '"' {
					break
				}
			}
			at++
			if at < len(buf) && buf[at] != comma && buf[at] != '\n' && buf[at] != '\r' {
				return 0, 0, false, wrongAt(at, "text after a closing quote: a quote within a field is written twice")
			}
		}
		for at < len(buf) && buf[at] != comma && buf[at] != '\n' {
			at++
		}
		switch {
		case at == len(buf):
			return lineEnd(buf, n, at), at, last, nil
		case buf[at] == '\n':
			return lineEnd(buf, n, at), at + 1, true, nil
		}
		at++
	}
}

func lineEnd(buf []byte, start, end int) int {
	if end > start && buf[end-1] == '\r' {
		return end - 1
	}
	return end
}

// fieldsOf splits a record.
func fieldsOf(fields []field, record []byte, comma byte) ([]field, error) {
	for at := 0; ; {
		f := field{span: span{start: at}}
		if at < len(record) && record[at] == '"' {
			f.quoted = true
			end := at + 1
			doubled := false
			for {
				i := bytes.IndexByte(record[end:], '"')
				if i < 0 {
					return nil, wrongAt(at, "the quote that begins here is not closed")
				}
				end += i
				if end+1 == len(record) || record[end+1] != '"' {
					break
				}
				doubled = true
				end += 2
			}
			f.text = record[at+1 : end]
			if doubled {
				f.text = bytes.ReplaceAll(f.text, []byte(`""`), []byte(`"`))
			}
			at = end + 1
			if at < len(record) && record[at] != comma {
				return nil, wrongAt(at, "text after a closing quote: a quote within a field is written twice")
			}
		} else {
			end := bytes.IndexByte(record[at:], comma)
			if end < 0 {
				end = len(record) - at
			}
			f.text = record[at : at+end]
			at += end
		}
		f.end = at
		fields = append(fields, f)
		if at == len(record) {
			return fields, nil
		}
		at++
	}
}

func (c *csvFile) record(dst, record []byte, t *scrub.Tally) ([]byte, error) {
	var room [32]field
	fields, err := fieldsOf(room[:0], record, c.comma)
	if err != nil {
		return dst, err
	}
	if len(fields) != len(c.names) {
		return dst, fmt.Errorf("%d fields, and there are %d columns: with a column missing or too many nobody knows which value is which", len(fields), len(c.names))
	}
	var texts, out [32][]byte
	in, to := texts[:0], out[:0]
	for _, f := range fields {
		in, to = append(in, f.text), append(to, nil)
	}
	if err := c.s.Row(c.header, in, to, t); err != nil {
		return dst, err
	}
	last := 0
	for i, f := range fields {
		if to[i] == nil {
			continue
		}
		dst = append(dst, record[last:f.start]...)
		last = f.end
		if !f.quoted && bytes.IndexByte(to[i], '"') < 0 && bytes.IndexByte(to[i], c.comma) < 0 && !bytes.ContainsAny(to[i], "\r\n") {
			dst = append(dst, to[i]...)
			continue
		}
		dst = append(dst, '"')
		dst = append(dst, bytes.ReplaceAll(to[i], []byte(`"`), []byte(`""`))...)
		dst = append(dst, '"')
	}
	return append(dst, record[last:]...), nil
}
