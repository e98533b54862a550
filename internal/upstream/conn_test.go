package upstream_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/upstream"
)

var responses = []struct {
	name, text string
	want       string // the body, or "!" and a part of the error
}{
	{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", "abc"},
	{"no reason", "HTTP/1.1 200\r\ncontent-LENGTH:3\r\n\r\nabc", "abc"},
	{"empty", "HTTP/1.1 202 \r\nContent-Length: 0\r\n\r\n", ""},
	{"no content", "HTTP/1.1 204 No Content\r\n\r\n", ""},
	{"until the end", "HTTP/1.1 200 OK\r\n\r\nabc", "abc"},
	{"1.0", "HTTP/1.0 200 OK\r\n\r\nabc", "abc"},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\nab\r\n01;x=\"y\"\r\nc\r\n0\r\n\r\n", "abc"},
	{"trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: b\r\n\r\n", ""},
	{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "a"},

	{"nothing", "", "!EOF"},
	{"not http", "220 mail.example ESMTP\r\n\r\n", "!not HTTP"},
	{"http/2", "HTTP/2.0 200 OK\r\n\r\n", "!not HTTP"},
	{"short status", "HTTP/1.1 20 OK\r\n\r\n", "!not HTTP"},
	{"text status", "HTTP/1.1 2x0 OK\r\n\r\n", "!not a number"},
	{"status 999", "HTTP/1.1 999 OK\r\n\r\n", "!status outside"},
	{"switch", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "!switched"},
	{"endless interim", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9), "!interim"},
	{"cut head", "HTTP/1.1 200 OK\r\nContent-Le", "!unexpected EOF"},
	{"bare lf", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "!CRLF"},
	{"cr in a line", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "!CRLF"},
	{"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", "!name"},
	{"folded field", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", "!token"},
	{"no name", "HTTP/1.1 200 OK\r\n: b\r\n\r\n", "!name"},
	{"space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "!token"},
	{"control character", "HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", "!control"},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "!two content-lengths"},
	{"list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", "!not a number"},
	{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", "!not a number"},
	{"empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\na", "!not a number"},
	{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\na", "!not a number"},
	{"large length", "HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\na", "!too large"},
	{"length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!both"},
	{"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "!other than chunked"},
	{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!other than chunked"},
	{"chunks in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "!other than chunked"},
	{"two sessions", "HTTP/1.1 200 OK\r\nMcp-Session-Id: a\r\nMcp-Session-Id: b\r\n\r\n", "!two session"},
	{"long line", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 20<<10) + "\r\n\r\n", "!16 KiB"},
	{"long head", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 10<<10)+"\r\n", 10) + "\r\n", "!64 KiB"},
	{"cut body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "!unexpected EOF"},
	{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "!unexpected EOF"},
	{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "!unexpected EOF"},
	{"long chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "!longer than it said"},
	{"chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", "!not a number"},
	{"no chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", "!not a number"},
	{"huge chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc", "!not a number"},
	{"large chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nabc", "!too large"},
	{"bad trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx y\r\n\r\n", "!name"},
}

func TestResponses(t *testing.T) {
	t.Parallel()
	for _, c := range responses {
		for _, r := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text))} {
			got, err := upstream.ReadResponse(r, 1<<20)
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %q, %v", c.name, got.Body, err)
				}
			} else if err != nil || string(got.Body) != want {
				t.Errorf("%s: got %q, %v", c.name, got.Body, err)
			}
		}
	}
}

func TestIdleConnectionsAreDroppedBeforeTheServerDoes(t *testing.T) {
	t.Parallel()
	const s = time.Second
	if diff := cmp.Diff([]time.Duration{10 * s, 10 * s, 3 * s, s, s}, upstream.Keeps(20*s, 25*s, 6*s, s, 0)); diff != "" {
		t.Error(diff)
	}
	for value, want := range map[string]time.Duration{
		"timeout=5": 4 * s, "max=100, Timeout=5": 4 * s, "timeout=1": -1, "timeout=0": -1,
		"timeout=86400": 59 * s, "timeout=99999999999999999999": 0, "timeout=x": 0, "timeout=-3": 0, "": 0, "max=3": 0,
	} {
		if got := upstream.KeepAlive(value); got != want {
			t.Errorf("%q keeps %v, want %v", value, got, want)
		}
	}
}

// Whatever way content is sent, and however it arrives, it is read whole, and
// what is longer than allowed is refused.
func TestContentIsReadWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "content")
		text := &bytes.Buffer{}
		text.WriteString("HTTP/1.1 200 OK\r\n")
		switch rapid.IntRange(0, 2).Draw(t, "framing") {
		case 0:
			fmt.Fprintf(text, "Content-Length: %d\r\n\r\n%s", len(content), content)
		case 1:
			fmt.Fprintf(text, "\r\n%s", content)
		default:
			text.WriteString("Transfer-Encoding: chunked\r\n\r\n")
			for rest := content; len(rest) > 0; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
				fmt.Fprintf(text, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			text.WriteString("0\r\n\r\n")
		}
		limit := rapid.IntRange(0, 3000).Draw(t, "limit")
		got, err := upstream.ReadResponse(iotest.HalfReader(text), limit)
		if len(content) > limit {
			if err == nil {
				t.Fatalf("%d bytes got through a limit of %d", len(content), limit)
			}
			return
		}
		if err != nil || !bytes.Equal(got.Body, content) {
			t.Fatalf("got %q, %v", got.Body, err)
		}
	})
}

// What this package takes for a response, net/http takes for the same one.
func FuzzResponse(f *testing.F) {
	for _, c := range responses {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := upstream.ReadResponse(bytes.NewReader(text), 1<<20)
		if err != nil {
			return
		}
		in := bufio.NewReader(bytes.NewReader(text))
		for {
			r, err := http.ReadResponse(in, &http.Request{Method: http.MethodPost})
			if err != nil {
				t.Fatalf("read %q as %d; net/http: %v", text, got.Status, err)
			}
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil {
				t.Fatalf("body of %q; net/http: %v", text, err)
			}
			if r.StatusCode < 200 {
				continue
			}
			if r.StatusCode != got.Status || !bytes.Equal(body, got.Body) {
				t.Fatalf("read %q as %d %q; net/http as %d %q", text, got.Status, got.Body, r.StatusCode, body)
			}
			if r.Close && !got.Last {
				t.Fatalf("would reuse the connection of %q", text)
			}
			return
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"id\":1}\nabc\r\n\n"), 8)
	f.Add([]byte(`{"a":"\"id\":","id":12}`+"\n"), 4)
	f.Fuzz(func(t *testing.T, text []byte, max int) {
		if max < 1 || max > 1<<20 {
			return
		}
		got, err := upstream.Lines(bytes.NewReader(text), max)
		if err == nil {
			t.Fatal("no error at the end")
		}
		for _, line := range got {
			if strings.HasPrefix(line, "too long: ") {
				continue
			}
			if len(line) > max || strings.ContainsAny(line, "\n") || !bytes.Contains(text, []byte(line)) {
				t.Fatalf("line %q of %q, at most %d", line, text, max)
			}
		}
	})
}
