package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

// sameBytes makes an empty slice of bytes equal to none.
var sameBytes = cmp.Comparer(bytes.Equal)

// readEvents reads all events and the error at the end.
func readEvents(r io.Reader, max int) (events []wire.Event, err error) {
	er := wire.NewEventReader(r, max)
	for {
		e, err := er.Next()
		if err != nil {
			if _, again := er.Next(); again != err {
				return events, fmt.Errorf("first %v, then %v", err, again)
			}
			return events, err
		}
		events = append(events, e)
	}
}

func TestEventReader(t *testing.T) {
	ev := func(data string) wire.Event { return wire.Event{Type: "message", Data: []byte(data)} }
	for _, c := range []struct {
		name, stream string
		want         []wire.Event
	}{
		{"nothing", "", nil},
		{"one", "data: a\n\n", []wire.Event{ev("a")}},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []wire.Event{ev("a"), ev("b")}},
		{"several lines with CRLF", "data: a\r\ndata: b\r\nid: 1\r\n\r\n", []wire.Event{{Type: "message", ID: "1", Data: []byte("a\nb")}}},
		{"CR", "data: a\r\rdata: b\r\r", []wire.Event{ev("a"), ev("b")}},
		{"all kinds of line ends", "data: a\r\n\rdata: b\n\r\ndata: c\r\n\n", []wire.Event{ev("a"), ev("b"), ev("c")}},
		{"several lines", "data: a\ndata: b\ndata:\ndata:  c\n\n", []wire.Event{ev("a\nb\n\n c")}},
		{"no space behind the colon", "data:a\n\n", []wire.Event{ev("a")}},
		{"one space only is dropped", "data:  a \n\n", []wire.Event{ev(" a ")}},
		{"tab is not a space", "data:\ta\n\n", []wire.Event{ev("\ta")}},
		{"empty data", "data:\n\ndata\n\n", []wire.Event{ev(""), ev("")}},
		{"colons in data", "data: a: b:c\n\n", []wire.Event{ev("a: b:c")}},
		{"type", "event: x\ndata: a\n\ndata: b\n\n", []wire.Event{{Type: "x", Data: []byte("a")}, ev("b")}},
		{"last type counts", "event: x\nevent: y\ndata: a\n\n", []wire.Event{{Type: "y", Data: []byte("a")}}},
		{"type without data goes with its event", "event: x\n\ndata: a\n\n", []wire.Event{ev("a")}},
		{"empty type", "event:\ndata: a\n\n", []wire.Event{ev("a")}},
		{"id stays", "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", []wire.Event{{Type: "message", ID: "1", Data: []byte("a")}, {Type: "message", ID: "1", Data: []byte("b")}, ev("c")}},
		{"id without data counts", "id: 1\n\ndata: a\n\n", []wire.Event{{Type: "message", ID: "1", Data: []byte("a")}}},
		{"id with NUL", "id: 1\nid: 2\x00\ndata: a\n\n", []wire.Event{{Type: "message", ID: "1", Data: []byte("a")}}},
		{"priming event of 2025-11-25", "id: s/0\nretry: 500\ndata:\n\n", []wire.Event{{Type: "message", ID: "s/0", Retry: 500, Data: []byte{}}}},
		{"retry without data goes to the next", "retry: 5\n\ndata: a\n\ndata: b\n\n", []wire.Event{{Type: "message", Retry: 5, Data: []byte("a")}, ev("b")}},
		{"bad retry", "retry: -1\nretry: 1s\nretry:\nretry: 99999999999999999999\ndata: a\n\n", []wire.Event{ev("a")}},
		{"comments", ":\n: keep-alive\ndata: a\n:x\n\n:\n\n", []wire.Event{ev("a")}},
		{"unknown fields", "Data: no\ndata : no\n data: no\nfoo\ndata: a\n\n", []wire.Event{ev("a")}},
		{"byte order mark", "\uFEFFdata: a\n\n\uFEFFdata: b\n\n", []wire.Event{ev("a")}},
		{"byte order mark alone on a line", "\uFEFF\ndata: a\n\n", []wire.Event{ev("a")}},
		{"blank lines", "\n\n\r\r\r\n\ndata: a\n\n\n\n", []wire.Event{ev("a")}},
		{"not complete", "data: a\n\ndata: b\n", []wire.Event{ev("a")}},
		{"line not complete", "data: a\n\ndata: b", []wire.Event{ev("a")}},
		{"NUL in data", "data: a\x00b\n\n", []wire.Event{ev("a\x00b")}},
		{"longer than the buffer", "data: " + strings.Repeat("x", 10000) + "\ndata: y\n\ndata: " + strings.Repeat("z", 5000) + "\n\n", []wire.Event{ev(strings.Repeat("x", 10000) + "\ny"), ev(strings.Repeat("z", 5000))}},
		{"long lines behind one another", "data: a\ndata: " + strings.Repeat("x", 9000) + "\ndata: " + strings.Repeat("y", 9000) + "\n\n", []wire.Event{ev("a\n" + strings.Repeat("x", 9000) + "\n" + strings.Repeat("y", 9000))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once":       strings.NewReader(c.stream),
				"byte by byte":  iotest.OneByteReader(strings.NewReader(c.stream)),
				"in halves":     iotest.HalfReader(strings.NewReader(c.stream)),
				"data with EOF": iotest.DataErrReader(strings.NewReader(c.stream)),
			} {
				got, err := readEvents(r, 1<<20)
				if err != io.EOF {
					t.Errorf("%s: ends with %v", how, err)
				}
				if diff := cmp.Diff(c.want, got, sameBytes); diff != "" {
					t.Errorf("%s: %s", how, diff)
				}
			}
		})
	}
}

// TestEventReaderDoesNotWait checks that an event comes back as soon as its last
// line end is there, even if that is a CR and a LF could follow.
func TestEventReaderDoesNotWait(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r\n", "\r\n\r"} {
		pr, pw := io.Pipe()
		sent := make(chan error, 1)
		go func() {
			_, err := pw.Write([]byte("data: a" + end))
			sent <- err
		}()
		e, err := wire.NewEventReader(pr, 100).Next()
		if err != nil || string(e.Data) != "a" {
			t.Errorf("%q: %q, %v", end, e.Data, err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

func TestEventReaderLimit(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, max := range []int{10, 4090, 4096, 5000, 20000} {
		for _, c := range []struct {
			name, stream string
			ok           bool
		}{
			{"just fits", "data: " + x(max) + "\n\n", true},
			{"just fits in lines", "data: " + x(max-5) + "\ndata: xxxx\n\n", true},
			{"line too long", "data: " + x(max+2) + "\n\n", false},
			{"data too long", "data:" + x(max+1) + "\n\n", false},
			{"lines too long together", "data: " + x(max-5) + "\ndata: xxxxx\n\n", false},
			{"many empty lines", strings.Repeat("data\n", max+2) + "\n", false},
			{"comment too long", ":" + x(max+7) + "\ndata: a\n\n", false},
			{"many comments", strings.Repeat(": keep-alive\n\n", max) + "data: a\n\n", true},
			{"no end in sight", "data: " + x(3*max+100), false},
			{"each event counts for itself", strings.Repeat("data: "+x(max)+"\n\n", 3), true},
		} {
			_, err := readEvents(strings.NewReader(c.stream), max)
			if want := map[bool]error{true: io.EOF, false: wire.ErrTooLarge}[c.ok]; err != want {
				t.Errorf("limit %d, %s: got %v, want %v", max, c.name, err, want)
			}
		}
	}
}

func TestEventReaderReportsErrors(t *testing.T) {
	broken := errors.New("connection reset")
	events, err := readEvents(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(broken)), 100)
	if err != broken || len(events) != 1 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

// TestEventDataIsTheCallers checks that an event is not changed by reading on.
func TestEventDataIsTheCallers(t *testing.T) {
	for _, n := range []int{10, 4000, 4090, 4096, 9000, 40000} {
		a, b := strings.Repeat("a", n), strings.Repeat("b", n)
		r := wire.NewEventReader(strings.NewReader("data: "+a+"\n\ndata: "+b+"\n\ndata: "+b+"\n\n"), 1<<20)
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		if string(e.Data) != a {
			t.Errorf("%d bytes changed under the caller", n)
		}
	}
}

func TestAppendEvent(t *testing.T) {
	for _, c := range []struct{ id, data, want string }{
		{"", `{"a":1}`, "event: message\ndata: {\"a\":1}\n\n"},
		{"7", `{}`, "event: message\nid: 7\ndata: {}\n\n"},
		{"", "a\nb\r\nc\rd", "event: message\ndata: a\ndata: b\ndata: c\ndata: d\n\n"},
		{"", "a\n", "event: message\ndata: a\ndata: \n\n"},
		{"", "", "event: message\ndata: \n\n"},
		{"1\nevent: x", "a", "event: message\ndata: a\n\n"},
		{"1\x00", "a", "event: message\ndata: a\n\n"},
		{"1\r2", "a", "event: message\ndata: a\n\n"},
	} {
		if got := string(wire.AppendEvent(nil, c.id, []byte(c.data))); got != c.want {
			t.Errorf("%q, %q: got %q, want %q", c.id, c.data, got, c.want)
		}
	}
}

// normal is what is left of line ends once data has been an event.
func normal(data []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
}

// FuzzEvents checks that any stream is read without harm and alike however it is
// cut, and that what is written as an event is read back.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "\uFEFFid: 1\r\ndata\r\r", ":\n\nretry: 5\nevent: x\ndata: {\"a\":\ndata: 1}\n\n", "data: a", "\r\n\r\n", "id: \x00\ndata:\n\n"} {
		f.Add([]byte(s), "1")
	}
	f.Fuzz(func(t *testing.T, stream []byte, id string) {
		const max = 1 << 10
		whole, errWhole := readEvents(bytes.NewReader(stream), max)
		bits, errBits := readEvents(iotest.OneByteReader(bytes.NewReader(stream)), max)
		if errWhole != errBits || !cmp.Equal(whole, bits, sameBytes) {
			t.Fatalf("%q: at once %v %v, byte by byte %v %v", stream, whole, errWhole, bits, errBits)
		}
		for _, e := range whole {
			if len(e.Data) > max || e.Type == "" || bytes.IndexByte(e.Data, '\r') >= 0 {
				t.Fatalf("%q: %+v", stream, e)
			}
		}

		written := wire.AppendEvent(nil, id, stream)
		written = wire.AppendEvent(written, "", []byte("next"))
		events, err := readEvents(bytes.NewReader(written), len(stream)+len(id)+10)
		if err != io.EOF || len(events) != 2 {
			t.Fatalf("%q reads back as %v, %v", written, events, err)
		}
		e := events[0]
		if strings.ContainsAny(id, "\x00\r\n") {
			id = ""
		}
		if e.Type != "message" || e.ID != id || !bytes.Equal(e.Data, normal(stream)) {
			t.Fatalf("%q with id %q reads back as %+v", stream, id, e)
		}
	})
}

// TestEventKeepsMessages checks that what an event does to line ends changes
// nothing of a message but the white space between its tokens.
func TestEventKeepsMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(genMessage(t))
		e, err := wire.NewEventReader(bytes.NewReader(wire.AppendEvent(nil, "", raw)), len(raw)+10).Next()
		if err != nil || !bytes.Equal(e.Data, normal(raw)) {
			t.Fatalf("%q came back as %q, %v", raw, e.Data, err)
		}
		before, err := wire.Scan(raw, wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		after, err := wire.Scan(e.Data, wire.Limits{})
		if err != nil || after.Name != before.Name || after.Method != before.Method {
			t.Fatalf("%q became %q: %v", raw, e.Data, err)
		}
	})
}

func readLines(r io.Reader, max int) (lines []string, err error) {
	lr := wire.NewLineReader(r, max)
	for {
		line, err := lr.Next()
		if err != nil {
			if _, again := lr.Next(); again != err {
				return lines, fmt.Errorf("first %v, then %v", err, again)
			}
			return lines, err
		}
		lines = append(lines, string(line))
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	broken := errors.New("pipe closed")
	for _, c := range []struct {
		name, stream string
		max          int
		want         []string
		end          error
	}{
		{"nothing", "", 10, nil, io.EOF},
		{"lines", "{}\n[1]\n", 10, []string{"{}", "[1]"}, io.EOF},
		{"CRLF", "{}\r\n[1]\r\n", 10, []string{"{}", "[1]"}, io.EOF},
		{"blank lines", "\n \t\r\n{}\n\n\n", 10, []string{"{}"}, io.EOF},
		{"white space is kept", " {} \n", 10, []string{" {} "}, io.EOF},
		{"last line without an end", "{}\n[1]", 10, []string{"{}", "[1]"}, io.EOF},
		{"blank last line without an end", "{}\n  ", 10, []string{"{}"}, io.EOF},
		{"just fits", "0123456789\n0123456789\r\n", 10, []string{"0123456789", "0123456789"}, io.EOF},
		{"too long", "a\n01234567890\nb\n", 10, []string{"a"}, wire.ErrTooLarge},
		{"too long without an end", "a\n01234567890", 10, []string{"a"}, wire.ErrTooLarge},
		{"longer than the buffer", long + "\n{}\n", len(long), []string{long, "{}"}, io.EOF},
		{"longer than the buffer with CRLF", long + "\r\n{}\n", len(long), []string{long, "{}"}, io.EOF},
		{"longer than the buffer and too long", long + "\n{}\n", len(long) - 1, nil, wire.ErrTooLarge},
		{"much too long", long + "\n{}\n", 10, nil, wire.ErrTooLarge},
		{"the buffer and a CR", strings.Repeat("x", 64<<10-1) + "\r\n{}\n", 64<<10 - 1, []string{strings.Repeat("x", 64<<10-1), "{}"}, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{"at once": strings.NewReader(c.stream), "byte by byte": iotest.OneByteReader(strings.NewReader(c.stream))} {
				got, err := readLines(r, c.max)
				if err != c.end {
					t.Errorf("%s: ends with %v, want %v", how, err, c.end)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s: %s", how, diff)
				}
			}
		})
	}
	if lines, err := readLines(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 10); err != broken || len(lines) != 1 {
		t.Errorf("broken pipe: %q, %v", lines, err)
	}
}

func TestLinesAreTheCallers(t *testing.T) {
	r := wire.NewLineReader(strings.NewReader("aaaa\nbbbb\n"), 10)
	a, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil || string(a) != "aaaa" {
		t.Errorf("%q, %v", a, err)
	}
}

// FuzzLines holds LineReader against a plain split.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"a\nb", "\r\n\r\n", " \n{}\r\n", "0123456789012345678901234567890123456789\nx"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		const max = 32
		var want []string
		end := io.EOF
		for line := range bytes.SplitSeq(stream, []byte("\n")) {
			line = bytes.TrimSuffix(line, []byte("\r"))
			if len(line) > max {
				end = wire.ErrTooLarge
				break
			}
			if len(bytes.Trim(line, " \t\r")) > 0 {
				want = append(want, string(line))
			}
		}
		if got, err := readLines(bytes.NewReader(stream), max); err != end || !cmp.Equal(got, want) {
			t.Fatalf("%q: %q, %v; want %q, %v", stream, got, err, want, end)
		}
	})
}
