package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// ErrTooLarge is returned by readers for a message beyond their limit. The rest
// of the stream cannot be read.
var ErrTooLarge = errors.New("message larger than the limit")

// Event is one server-sent event (WHATWG HTML, section 9.2).
type Event struct {
	Type string // "message" if the stream names none
	// ID is the last id the stream has set, in this event or before it.
	ID string
	// Data is the lines of the event with LF between them. Its bytes are the
	// caller's to keep; they may be anything, UTF-8 or not.
	Data []byte
	// Retry is the time in milliseconds after which to reconnect that the stream
	// has set since the event before; 0 if none.
	Retry int
}

// EventReader takes a stream of server-sent events apart.
type EventReader struct {
	r    *bufio.Reader
	max  int
	line []byte // a line that did not fit into the buffer of r
	long bool   // the last line is in line
	id   string
	err  error
	// afterCR says that the last line ended in CR, so that a LF is a part of its end.
	afterCR bool
	begun   bool
}

// NewEventReader reads from r events of which neither the data nor any line is
// longer than maxEvent bytes.
func NewEventReader(r io.Reader, maxEvent int) *EventReader {
	return &EventReader{r: bufio.NewReaderSize(r, 4096), max: maxEvent}
}

// Next returns the next event that has data, as soon as its last line has been
// read. Errors are io.EOF at the end of the stream (an event that is not complete
// there is dropped), ErrTooLarge, and those of the reader underneath; each comes
// back again and again.
func (r *EventReader) Next() (Event, error) {
	if r.err != nil {
		return Event{}, r.err
	}
	var e Event
	hasData := false
	for {
		line, err := r.readLine()
		if err != nil {
			r.err = err
			return Event{}, err
		}
		if len(line) == 0 {
			if hasData {
				if e.Type == "" {
					e.Type = "message"
				}
				e.ID = r.id
				return e, nil
			}
			e.Type = "" // nothing to dispatch, but a retry stays set
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			switch {
			case hasData:
				e.Data = append(append(e.Data, '\n'), value...)
			case r.long:
				e.Data, r.line = value, nil // handed over rather than copied
			default:
				e.Data = append(make([]byte, 0, len(value)), value...)
			}
			hasData = true
			if len(e.Data) > r.max {
				r.err = ErrTooLarge
				return Event{}, r.err
			}
		case "event":
			e.Type = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				r.id = string(value)
			}
		case "retry":
			if ms, ok := digitsOnly(value); ok {
				e.Retry = ms
			}
		}
	}
}

func digitsOnly(b []byte) (int, bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(string(b))
	return n, err == nil
}

// readLine returns the next line without its end: LF, CR or CR LF. It does not
// wait for the LF behind a CR. The line is good until the next call.
func (r *EventReader) readLine() ([]byte, error) {
	const fieldName = len("event: ")
	r.line, r.long = r.line[:0], false
	for {
		if r.r.Buffered() == 0 {
			if _, err := r.r.Peek(1); err != nil {
				return nil, err
			}
		}
		window, err := r.r.Peek(r.r.Buffered())
		if err != nil {
			return nil, err
		}
		if r.afterCR {
			r.afterCR = false
			if window[0] == '\n' {
				r.discard(1)
				continue
			}
		}
		n, ended := len(window), false
		if i := bytes.IndexByte(window, '\n'); i >= 0 {
			n, ended = i, true
		}
		if i := bytes.IndexByte(window[:n], '\r'); i >= 0 {
			n, ended, r.afterCR = i, true, true
		}
		if len(r.line)+n-fieldName > r.max {
			return nil, ErrTooLarge
		}
		line := window[:n]
		if len(r.line) > 0 || !ended {
			if r.line == nil {
				r.line = make([]byte, 0, 8*len(line))
			}
			r.line, r.long = append(r.line, line...), true
			line = r.line
		}
		if !ended {
			r.discard(n)
			continue
		}
		r.discard(n + 1) // leaves the bytes of window in place until the next read
		if !r.begun {
			r.begun = true
			line = bytes.TrimPrefix(line, []byte("\uFEFF"))
		}
		return line, nil
	}
}

// discard drops bytes that are known to be buffered.
func (r *EventReader) discard(n int) {
	if _, err := r.r.Discard(n); err != nil {
		panic("wire: discard of buffered bytes: " + err.Error())
	}
}

// AppendEvent appends a message event with the data, each of its lines as one. An
// id that is empty or could not be read back (NUL, CR or LF in it) is left out. CR
// and CR LF in the data come back as LF; JSON has them between tokens only.
func AppendEvent(dst []byte, id string, data []byte) []byte {
	dst = append(dst, "event: message\n"...)
	if id != "" && !strings.ContainsAny(id, "\x00\r\n") {
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		dst = append(dst, '\n')
	}
	for {
		n := bytes.IndexAny(data, "\r\n")
		if n < 0 {
			break
		}
		dst = append(dst, "data: "...)
		dst = append(dst, data[:n]...)
		dst = append(dst, '\n')
		if data[n] == '\r' && n+1 < len(data) && data[n+1] == '\n' {
			n++
		}
		data = data[n+1:]
	}
	dst = append(dst, "data: "...)
	dst = append(dst, data...)
	return append(dst, "\n\n"...)
}

// LineReader takes a stdio stream apart: one message on each line.
type LineReader struct {
	r   *bufio.Reader
	max int
	err error
}

// NewLineReader reads from r lines of at most max bytes.
func NewLineReader(r io.Reader, max int) *LineReader {
	return &LineReader{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// Next returns the next line that is not blank, without its end; its bytes are the
// caller's to keep. A last line without an end is a line. Errors are io.EOF at the
// end, ErrTooLarge, and those of the reader underneath; each comes back again and
// again.
func (r *LineReader) Next() ([]byte, error) {
	for r.err == nil {
		var line []byte
		part, err := r.r.ReadSlice('\n')
		for ; err == bufio.ErrBufferFull && len(line)+len(part)-1 <= r.max; part, err = r.r.ReadSlice('\n') {
			line = append(line, part...)
		}
		line = append(line, part...)
		switch {
		case err == bufio.ErrBufferFull:
			r.err = ErrTooLarge
			return nil, r.err
		case err != nil:
			r.err = err
			if err != io.EOF {
				return nil, err
			}
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > r.max {
			r.err = ErrTooLarge
			return nil, r.err
		}
		if len(bytes.TrimLeft(line, " \t\r")) > 0 {
			return line, nil
		}
	}
	return nil, r.err
}
