package cassette_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/cassette"
)

func header() cassette.Header {
	return cassette.Header{
		Upstream: "shop",
		Tools:    sallyport.Digest(canonical.SumBytes([]byte("tools"))),
		Scrub:    sallyport.Digest(canonical.SumBytes([]byte("scrub"))),
		Recorded: time.Date(2026, 11, 1, 10, 2, 11, 0, time.UTC), ClockShift: -37 * 24 * time.Hour, Domain: "sandbox",
	}
}

// keepAll finds nothing personal anywhere.
type keepAll struct{}

func (keepAll) Scrub(*cassette.Leaf) (cassette.Scrubbed, error) {
	return cassette.Scrubbed{Verdict: cassette.Keep}, nil
}

// record writes calls and reads them back.
func record(t testing.TB, calls ...cassette.Raw) *cassette.Cassette {
	t.Helper()
	return parse(t, written(t, keepAll{}, calls...))
}

func written(t testing.TB, s cassette.Scrubber, calls ...cassette.Raw) []byte {
	t.Helper()
	data, _ := recorded(t, s, calls...)
	return data
}

func recorded(t testing.TB, s cassette.Scrubber, calls ...cassette.Raw) ([]byte, *cassette.Writer) {
	t.Helper()
	var file bytes.Buffer
	w, err := cassette.NewWriter(&file, header(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if err := w.Append(c); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes(), w
}

func parse(t testing.TB, data []byte) *cassette.Cassette {
	t.Helper()
	c, err := cassette.Parse(data, cassette.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(tool, args, result string) cassette.Raw {
	return cassette.Raw{Tool: tool, Arguments: []byte(args), Result: []byte(result), Access: sallyport.Read}
}

func change(tool, args, result string) cassette.Raw {
	c := read(tool, args, result)
	c.Access = sallyport.Changing
	return c
}

// TestWritten: a cassette is what stands here, to the byte, since who reads it may be
// older or newer.
func TestWritten(t *testing.T) {
	data := written(t, keepAll{},
		cassette.Raw{
			Since: 1500 * time.Microsecond, Tool: "find", Arguments: []byte("{ \"query\":\"A\\u006en\",\n\"limit\": 1e2 }"),
			Result: []byte("{\n \"z\": 12345678901234567890,\n \"a\": [ 1.0, \"caf\\u00e9\" ] }"), Access: sallyport.Read, Latency: 84 * time.Millisecond,
		},
		cassette.Raw{Since: time.Second, Tool: "open", Result: []byte(`{"structuredContent":{"id":"ord_12"},"isError":false}`)},
		cassette.Raw{Tool: "close", Arguments: []byte(`{"order":"ord_12"}`), Error: []byte(`{"code":-32602,"message":"no"}`), Access: sallyport.Changing},
		cassette.Raw{Tool: "close", Arguments: []byte(`{"order":"ord_13"}`), Result: []byte(`{"isError":true,"content":[]}`), Access: sallyport.Changing},
	)
	lines := strings.SplitAfter(string(data), "\n")
	want := []string{
		`{"cassette":1,"upstream":"shop","tools":"` + string(header().Tools) + `","scrub":"` + string(header().Scrub) +
			`","recorded":"2026-11-01T10:02:11Z","clock_shift_ms":-3196800000,"domain":"sandbox"}` + "\n",
		`{"seq":1,"at_ms":1,"tool":"find","args":{"limit":1e2,"query":"Ann"},"result":{"z":12345678901234567890,"a":[1.0,"caf\u00e9"]},"is_error":false,"access":"read","latency_ms":84}` + "\n",
		`{"seq":2,"at_ms":1000,"tool":"open","args":{},"result":{"structuredContent":{"id":"ord_12"},"isError":false},"is_error":false,"access":"changing","latency_ms":0}` + "\n",
		`{"seq":3,"at_ms":0,"tool":"close","args":{"order":"ord_12"},"error":{"code":-32602,"message":"no"},"is_error":true,"access":"changing","latency_ms":0,"bound":[{"at":"/order","seq":2,"from":"/structuredContent/id"}]}` + "\n",
		`{"seq":4,"at_ms":0,"tool":"close","args":{"order":"ord_13"},"result":{"isError":true,"content":[]},"is_error":true,"access":"changing","latency_ms":0}` + "\n",
		"",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Fatal(diff)
	}
	c := parse(t, data)
	if diff := cmp.Diff(header(), c.Header); diff != "" {
		t.Error(diff)
	}
	if c.Whole != len(data) || len(c.Calls) != 4 || c.Sealed != "" || c.Evidence() == nil {
		t.Errorf("read back: %d bytes, %d calls, sealed %q", c.Whole, len(c.Calls), c.Sealed)
	}
	if diff := cmp.Diff([]cassette.Bound{{At: "/order", Seq: 2, From: "/structuredContent/id"}}, c.Calls[2].Bound); diff != "" {
		t.Error(diff)
	}
}

func TestCutAnywhere(t *testing.T) {
	data := written(t, keepAll{}, read("a", `{}`, `{}`), read("b", `{}`, `{"x":1}`))
	for cut := range len(data) {
		c, err := cassette.Parse(data[:cut], cassette.Limits{})
		if cut > 0 && data[cut-1] == '\n' {
			if err != nil || c.Whole != cut {
				t.Errorf("cut at %d, behind a line: %v", cut, err)
			}
			continue
		}
		var truncated *cassette.Truncated
		if !errors.As(err, &truncated) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		whole := bytes.LastIndexByte(data[:cut], '\n') + 1
		if c.Whole != whole || truncated.Bytes != cut-whole || truncated.Line != bytes.Count(data[:cut], []byte{'\n'})+1 {
			t.Errorf("cut at %d: %d whole bytes, %+v", cut, c.Whole, truncated)
		}
	}
}

func TestDamage(t *testing.T) {
	good := string(written(t, keepAll{}, change("open", `{"n":1}`, `{"id":"ord_12"}`), read("get", `{"id":"ord_12"}`, `{}`)))
	deep := strings.Repeat("[", 64) + strings.Repeat("]", 64)
	for _, c := range []struct {
		name     string
		old, new string
		line     int
		want     string
	}{
		{"another format", `"cassette":1`, `"cassette":2`, 1, "format 2"},
		{"no header", good[:strings.Index(good, "\n")+1], "", 1, "not of this format"},
		{"digest", `"tools":"sha256:`, `"tools":"sha512:`, 1, "tools is no sha256"},
		{"time", `11-01T10`, `13-01T10`, 1, "no RFC 3339"},
		{"unknown member", `"seq":1,`, `"seq":1,"more":0,`, 2, "not of this format"},
		{"duplicate member", `"seq":1,`, `"seq":1,"seq":1,`, 2, "duplicate"},
		{"duplicate inside", `"result":{"id":"ord_12"}`, `"result":{"id":1,"id":"ord_12"}`, 2, "duplicate"},
		{"order of members", `"seq":1,"at_ms":0,`, `"at_ms":0,"seq":1,`, 2, "not written as"},
		{"white space", `"seq":1,`, `"seq": 1,`, 2, "not written as"},
		{"sequence", `"seq":2,"at_ms"`, `"seq":3,"at_ms"`, 3, "call 3 stands where call 2"},
		{"not canonical", `{"n":1}`, `{"n": 1}`, 2, "canonical"},
		{"no object", `{"n":1}`, `[1]`, 2, "args is no object"},
		{"two answers", `"result":{}`, `"result":{},"error":{}`, 3, "either result or error"},
		{"no answer", `"result":{},`, ``, 3, "either result or error"},
		{"status", `"is_error":false`, `"is_error":true`, 2, "is_error"},
		{"access", `"access":"read"`, `"access":"none"`, 3, "access"},
		{"no tool", `"tool":"get"`, `"tool":""`, 3, "tool"},
		{"time before the epoch of numbers", `"latency_ms":0`, `"latency_ms":99999999999999999999`, 2, "milliseconds"},
		{"bound to a later call", `"at":"/id","seq":1`, `"at":"/id","seq":2`, 3, "earlier"},
		{"bound to another value", `"result":{"id":"ord_12"}`, `"result":{"id":"ord_13"}`, 3, "another value"},
		{"bound to nothing", `"at":"/id"`, `"at":"/no"`, 3, "no string"},
		{"bad pointer", `"at":"/id"`, `"at":"/~2"`, 3, "~"},
		{"not UTF-8", `ord_12"},"is`, "ord_\xff2\"},\"is", 2, "UTF-8"},
		{"too deep", `"result":{}`, `"result":{"x":` + deep + `}`, 3, "too deep"},
		{"empty line", "\n{\"seq\":2", "\n\n{\"seq\":2", 3, ""},
		{"not JSON", `"seq":1,`, `"seq":1`, 2, ""},
		{"behind it", "\"latency_ms\":0}\n", "\"latency_ms\":0} x\n", 2, "text after"},
		{"own seal", "\"latency_ms\":0}\n", "\"latency_ms\":0}\n" + `{"seal":1,"calls":1,"lines":"` + string(header().Tools) + `","originals":0,"unsearched":0,"coincidences":0}` + "\n", 3, "not those that were sealed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("%q is not in the cassette", c.old)
			}
			_, err := cassette.Parse([]byte(strings.Replace(good, c.old, c.new, 1)), cassette.Limits{})
			var damage *cassette.Damage
			if !errors.As(err, &damage) || damage.Line != c.line || !strings.Contains(damage.Reason, c.want) {
				t.Errorf("got %v, want damage of line %d about %q", err, c.line, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	data := written(t, keepAll{}, read("a", `{}`, `{}`), read("a", `{"x":[[1]]}`, `{"y":"`+strings.Repeat("z ", 150)+`"}`))
	for _, c := range []struct {
		limits cassette.Limits
		want   string
	}{
		{cassette.Limits{Line: 299}, "longer than 299"},
		{cassette.Limits{Calls: 1}, "more than 1 calls"},
		{cassette.Limits{Depth: 2}, "too deep"},
	} {
		_, err := cassette.Parse(data, c.limits)
		var damage *cassette.Damage
		if !errors.As(err, &damage) || !strings.Contains(damage.Reason, c.want) {
			t.Errorf("%+v: %v", c.limits, err)
		}
	}
	if _, err := cassette.Parse(data, cassette.Limits{Line: 500, Calls: 2, Depth: 3}); err != nil {
		t.Error(err)
	}
}

// stingy takes a number of bytes, then has an error.
type stingy struct {
	bytes.Buffer
	left   int
	writes []int
}

func (s *stingy) Write(b []byte) (int, error) {
	s.writes = append(s.writes, len(b))
	if len(b) > s.left {
		n, _ := s.Buffer.Write(b[:s.left])
		s.left = 0
		return n, errors.New("no space")
	}
	s.left -= len(b)
	return s.Buffer.Write(b)
}

func TestWriteStops(t *testing.T) {
	file := &stingy{left: 600}
	w, err := cassette.NewWriter(file, header(), keepAll{})
	if err != nil {
		t.Fatal(err)
	}
	wrote := 0
	for err == nil {
		if err = w.Append(read("a", `{}`, `{"y":1}`)); err == nil {
			wrote++
		}
	}
	if wrote == 0 || !strings.Contains(err.Error(), "no space") {
		t.Fatalf("after %d calls: %v", wrote, err)
	}
	before := file.Len()
	if err := w.Append(read("a", `{}`, `{}`)); err == nil || file.Len() != before {
		t.Error("went on after a line that may be cut")
	}
	c, err := cassette.Parse(file.Bytes(), cassette.Limits{})
	var truncated *cassette.Truncated
	if !errors.As(err, &truncated) || len(c.Calls) != wrote || w.Report().Calls != wrote {
		t.Errorf("read back %d of %d calls: %v", len(c.Calls), wrote, err)
	}
	if len(file.writes) != wrote+2 {
		t.Errorf("%d writes for %d lines", len(file.writes), wrote+2)
	}
}

func TestNotRecorded(t *testing.T) {
	file := new(bytes.Buffer)
	w, err := cassette.NewWriter(file, header(), keepAll{})
	if err != nil {
		t.Fatal(err)
	}
	before := file.Len()
	for _, raw := range []cassette.Raw{
		{Tool: "a"},
		{Tool: "a", Result: []byte(`{}`), Error: []byte(`{}`)},
		{Result: []byte(`{}`)},
		{Tool: "a", Arguments: []byte(`[]`), Result: []byte(`{}`)},
		{Tool: "a", Arguments: []byte(`{"a":1,"a":2}`), Result: []byte(`{}`)},
		{Tool: "a", Result: []byte(`{"a":`)},
		{Tool: "a", Result: []byte(`7`)},
		{Tool: "a", Result: []byte(`{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`)},
		{Tool: "a", Result: []byte(`{"a":"` + strings.Repeat("z ", 8<<20) + `"}`)},
	} {
		if err := w.Append(raw); err == nil || !strings.HasPrefix(err.Error(), "recording a call of ") {
			t.Errorf("%.60s: %v", fmt.Sprintf("%+v", raw), err)
		}
	}
	if file.Len() != before {
		t.Error("something was written")
	}
	if err := w.Append(read("a", "", `{}`)); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(written(f, keepAll{}, change("open", `{"n":1}`, `{"id":"ord_12"}`), read("get", `{"id":"ord_12"}`, `{"content":[{"type":"text","text":"{\"a\":1}"}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := cassette.Parse(data, cassette.Limits{})
		var damage *cassette.Damage
		var truncated *cassette.Truncated
		switch {
		case errors.As(err, &damage):
			return
		case errors.As(err, &truncated):
			if bytes.IndexByte(data[c.Whole:], '\n') >= 0 {
				t.Fatal("the line that is cut has an end")
			}
			if again, err := cassette.Parse(data[:c.Whole], cassette.Limits{}); c.Whole > 0 && (err != nil || len(again.Calls) != len(c.Calls)) {
				t.Fatalf("the whole lines: %v", err)
			}
		case err != nil:
			t.Fatal(err)
		}
		d, err := cassette.NewDeck(c, cassette.Rules{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := cassette.NewPlayer(d, cassette.Options{})
		for _, call := range c.Calls {
			a, err := p.Next(call.Tool, call.Arguments)
			if err != nil || a.Tier != cassette.Exact || !bytes.Equal(a.Result, call.Result) && call.Access != sallyport.Read {
				t.Fatalf("call %d: tier %v, %v", call.Seq, a.Tier, err)
			}
		}
		if _, err := cassette.Liveness(c, cassette.Rules{}); err != nil {
			t.Fatal(err)
		}
	})
}

func encode[T any](v T) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
