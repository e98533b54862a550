// Package cassette holds recorded calls: the world of grade E2, that answers a call
// with what a real system once answered to the same one.
//
// # A recording is made
//
// A [Writer] takes each call as it was made, replaces what is personal by asking a
// [Scrubber] about every leaf, and writes one line for it. What was replaced stays in
// memory, in [Originals]. [Seal] then looks for every one of those values in what was
// written, however it may be encoded, and refuses if it finds one. Only a sealed
// cassette is evidence ([Cassette.Evidence]).
//
//	w, _ := cassette.NewWriter(file, cassette.Header{…}, scrubber)
//	err := w.Append(cassette.Raw{Tool: "get_order", Arguments: …, Result: …, Access: sallyport.Read})
//	sealed, report, err := cassette.Seal(recorded, w.Originals(), canaries)
//
// # A recording answers
//
// [Parse] reads a cassette, [NewDeck] makes the index that all runs share, [NewPlayer]
// is what one run has of its own: which recordings have answered, and which of its ids
// stand for which recorded ids. A call is answered by the first tier that has a
// recording for it:
//
//	T0  equal arguments, in canonical form
//	T1  equal arguments but for what may be ignored; ids that an earlier recorded call
//	    returned are those that the earlier call of this run returned
//	T2  arguments equal within what is tolerated, place by place
//	T3  the nearest recording: to explore with, never evidence
//
// Recordings that fit one call answer in the order in which they were made. When all
// have answered, a read is answered by the last once more; a change is never answered
// twice. A call that nothing answers is a [*Miss], which says what is nearest, where it
// differs first and which rule would bridge that.
//
//	deck, err := cassette.NewDeck(c, rules)
//	p := cassette.NewPlayer(deck, cassette.Options{})
//	answer, err := p.Next("get_order", args)       // or *Miss
//	p.Observe("create_order", args, result)        // a twin answered, the ids are its own
//
// # How good is it
//
// [Liveness] changes every recorded leaf and says which changes nobody would notice.
// [Compare] holds what a twin or the real system answers now against the recording.
//
// # Pointers
//
// A place of a document is an RFC 6901 pointer. In a rule, * stands for any element or
// member. Where a string holds JSON itself, the step into it is ~json, as in
// /content/0/text/~json/id.
//
// Nothing here does I/O, has a clock, or writes a log. A [Deck] may be used by many at
// once; a Writer and a Player by one at a time.
package cassette

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
)

// Version is that of the format.
const Version = 1

// MaxDepth is how deep arguments and results may be nested.
const MaxDepth = canonical.MaxDepth

// Header is the first line of a cassette.
type Header struct {
	Upstream sallyport.UpstreamID
	Tools    sallyport.Digest // of the upstream's tool definitions
	Scrub    sallyport.Digest // of how it was scrubbed
	Recorded time.Time        // written in UTC, to the second
	// ClockShift is by how much times were moved, in whole milliseconds.
	ClockShift time.Duration
	Domain     string // the data domain whose pseudonyms these are
}

// Call is one recorded call, scrubbed.
type Call struct {
	Seq   int           // from 1, without gaps
	Since time.Duration // since the recording began, in whole milliseconds
	Tool  string
	// Arguments are in canonical form, an object.
	Arguments []byte
	// Result is that of the tools/call, its tokens as the server wrote them, without
	// white space between them. It is nil where the server answered with a JSON-RPC
	// error, which Error is then.
	Result  []byte
	Error   []byte
	IsError bool // an Error, or a Result whose isError is true
	Access  sallyport.Access
	Latency time.Duration // in whole milliseconds
	Bound   []Bound
}

// Bound says that a leaf of the arguments is an id that an earlier call returned.
type Bound struct {
	At   string // pointer into the arguments
	Seq  int    // of the earlier call
	From string // pointer into its result
}

// Cassette is what was recorded.
type Cassette struct {
	Header Header
	Calls  []Call
	// Sealed is the digest in the seal, of all lines before it and of what it says;
	// empty without one.
	Sealed sallyport.Digest
	// Whole is how many bytes the whole lines take: what to cut a file to, that ends
	// in the middle of a line.
	Whole int

	results map[int]*node // while it is read: those that something is bound to
}

// Evidence returns nil if what the cassette answers may be evidence.
func (c *Cassette) Evidence() error {
	if c.Sealed == "" {
		return errors.New("cassette is not sealed: what it answers is no evidence until `sallyport world seal` has found nothing personal in it")
	}
	return nil
}

// Limits of what is read. Zero means the default.
type Limits struct {
	Line  int // bytes, without the line feed; 16 MiB
	Calls int // 100,000
	Depth int // of arguments and results; MaxDepth, which is also the most
}

func (l Limits) filled() Limits {
	if l.Line == 0 {
		l.Line = 16 << 20
	}
	if l.Calls == 0 {
		l.Calls = 100_000
	}
	if l.Depth == 0 || l.Depth > MaxDepth {
		l.Depth = MaxDepth
	}
	return l
}

// Damage is a line that is not as it was written.
type Damage struct {
	Line   int // from 1
	Reason string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("cassette, line %d: %s; record it again, or take the file from where it is known to be whole", d.Line, d.Reason)
}

// Truncated says that the last line has no end: whoever wrote it was stopped. The
// lines before it are whole.
type Truncated struct {
	Line  int // from 1: the one without an end
	Bytes int // of that line
}

func (t *Truncated) Error() string {
	return fmt.Sprintf("cassette, line %d: ends after %d bytes in the middle of the line; the lines before are whole, cut the file there", t.Line, t.Bytes)
}

// Parse reads a cassette. The error is a *Damage, or a *Truncated, with which the
// cassette of the whole lines is returned.
func Parse(data []byte, limits Limits) (*Cassette, error) {
	return parseLines(data, limits, func(int, []byte, *node) error { return nil })
}

// parseLines shows each line, and what is in it, once it is known to be one.
func parseLines(data []byte, limits Limits, show func(line int, text []byte, doc *node) error) (*Cassette, error) {
	limits = limits.filled()
	c := &Cassette{results: map[int]*node{}}
	defer func() { c.results = nil }()
	for line := 1; ; line++ {
		rest := data[c.Whole:]
		if len(rest) == 0 && line > 1 {
			return c, nil
		}
		end := bytes.IndexByte(rest, '\n')
		switch {
		case end > limits.Line || end < 0 && len(rest) > limits.Line:
			return nil, &Damage{line, fmt.Sprintf("longer than %d bytes", limits.Line)}
		case c.Sealed != "":
			return nil, &Damage{line, "something stands behind the seal"}
		case end < 0:
			return c, &Truncated{line, len(rest)}
		}
		doc, err := c.line(data, rest[:end], line, limits)
		if err != nil {
			return nil, &Damage{line, err.Error()}
		}
		if err := show(line, rest[:end], doc); err != nil {
			return nil, err
		}
		c.Whole += end + 1
	}
}

// line reads the line that comes next.
func (c *Cassette) line(data, text []byte, line int, limits Limits) (*node, error) {
	doc, err := parse(text, limits.Depth+1)
	if err != nil {
		return nil, err
	}
	return doc, c.read(doc, data, text, line, limits)
}

func (c *Cassette) read(doc *node, data, text []byte, line int, limits Limits) error {
	f := fields{of: doc}
	switch {
	case line == 1:
		f.only("cassette", "upstream", "tools", "scrub", "recorded", "clock_shift_ms", "domain")
		if v := f.whole("cassette"); f.err == nil && v != Version {
			return fmt.Errorf("format %d, this program reads format %d", v, Version)
		}
		c.Header = Header{
			Upstream: sallyport.UpstreamID(f.text("upstream")),
			Tools:    f.digest("tools"), Scrub: f.digest("scrub"),
			Recorded: f.time("recorded"), ClockShift: f.millis("clock_shift_ms"),
			Domain: f.text("domain"),
		}
		if f.err == nil && !bytes.Equal(appendHeader(nil, &c.Header), text) {
			return errForm
		}
		return f.err
	case doc.kind == '{' && doc.member("seal") != nil:
		f.only("seal", "calls", "lines", "originals", "unsearched", "coincidences")
		if v := f.whole("seal"); f.err == nil && v != Version {
			return fmt.Errorf("seal %d, this program reads seal %d", v, Version)
		}
		count, lines := f.whole("calls"), f.digest("lines")
		said := Sealing{
			Calls: count, Originals: f.whole("originals"),
			Unsearched: f.whole("unsearched"), Coincidences: f.whole("coincidences"),
		}
		switch {
		case f.err != nil:
			return f.err
		case !bytes.Equal(appendSeal(nil, &said, lines), text):
			return errForm
		case count != len(c.Calls):
			return fmt.Errorf("the seal is of %d calls, there are %d", count, len(c.Calls))
		case lines != said.digest(data[:c.Whole]):
			return errors.New("the lines are not those that were sealed")
		}
		c.Sealed = lines
		return nil
	case len(c.Calls) == limits.Calls:
		return fmt.Errorf("more than %d calls", limits.Calls)
	}
	call, err := readCall(&f)
	if err != nil {
		return err
	}
	if call.Seq != len(c.Calls)+1 {
		return fmt.Errorf("call %d stands where call %d should", call.Seq, len(c.Calls)+1)
	}
	if !bytes.Equal(appendCall(nil, &call), text) {
		return errForm
	}
	if err := c.checkBound(&call); err != nil {
		return err
	}
	c.Calls = append(c.Calls, call)
	return nil
}

var errForm = errors.New("its members are not written as a recording has them")

func readCall(f *fields) (Call, error) {
	f.only("seq", "at_ms", "tool", "args", "result", "error", "is_error", "access", "latency_ms", "bound")
	call := Call{
		Seq: f.whole("seq"), Since: f.millis("at_ms"), Tool: f.text("tool"),
		IsError: f.truth("is_error"), Latency: f.millis("latency_ms"),
	}
	access := f.text("access")
	args := f.get("args")
	if f.err != nil {
		return call, f.err
	}
	switch access {
	case "read":
		call.Access = sallyport.Read
	case "changing":
		call.Access = sallyport.Changing
	default:
		return call, errors.New(`access is neither "read" nor "changing"`)
	}
	if call.Tool == "" {
		return call, errors.New("tool is empty")
	}
	if args.kind != '{' {
		return call, errors.New("args is no object")
	}
	var err error
	if call.Arguments, err = canonical.JSON(args.raw); err != nil {
		return call, fmt.Errorf("args: %w", err)
	}
	if !bytes.Equal(call.Arguments, args.raw) {
		return call, errors.New("args is not in canonical form")
	}
	result, failure := f.of.member("result"), f.of.member("error")
	switch {
	case (result == nil) == (failure == nil):
		return call, errors.New("a call has either result or error")
	case result != nil && result.kind != '{':
		return call, errors.New("result is no object")
	case failure != nil && failure.kind != '{':
		return call, errors.New("error is no object")
	case result != nil:
		call.Result = bytes.Clone(result.raw)
	default:
		call.Error = bytes.Clone(failure.raw)
	}
	if call.IsError != failed(result) {
		return call, errors.New("is_error says something else than the result")
	}
	bound := f.of.member("bound")
	if bound == nil {
		return call, nil
	}
	if bound.kind != '[' || len(bound.items) == 0 {
		return call, errors.New("bound is no list of something")
	}
	for _, item := range bound.items {
		b := fields{of: item}
		b.only("at", "seq", "from")
		call.Bound = append(call.Bound, Bound{At: b.text("at"), Seq: b.whole("seq"), From: b.text("from")})
		if b.err != nil {
			return call, fmt.Errorf("bound: %w", b.err)
		}
	}
	return call, nil
}

// failed reports whether a result says that the call failed; no result is an error.
func failed(result *node) bool {
	if result == nil {
		return true
	}
	v := result.member("isError")
	return v != nil && v.kind == 't'
}

// checkBound holds what is bound against where it comes from.
func (c *Cassette) checkBound(call *Call) error {
	if len(call.Bound) == 0 {
		return nil
	}
	args, err := parse(call.Arguments, MaxDepth)
	if err != nil {
		return err
	}
	for _, b := range call.Bound {
		if b.Seq < 1 || b.Seq >= call.Seq {
			return fmt.Errorf("bound: call %d is not an earlier one", b.Seq)
		}
		for _, p := range []string{b.At, b.From} {
			if _, err := steps(p); err != nil {
				return fmt.Errorf("bound: %w", err)
			}
		}
		leaf := args.at(b.At)
		if leaf == nil || leaf.kind != '"' && leaf.kind != '0' {
			return errors.New("bound: at leads to no string or number")
		}
		from := c.results[b.Seq]
		if from == nil {
			if from, err = parse(c.Calls[b.Seq-1].Result, MaxDepth); err != nil {
				return fmt.Errorf("bound: call %d has no result", b.Seq)
			}
			c.results[b.Seq] = from
		}
		if source := from.at(b.From); source == nil || source.kind != '"' && source.kind != '0' || source.text != leaf.text {
			return errors.New("bound: from leads to another value than at")
		}
	}
	return nil
}

// fields reads the members of one object; the first thing that is wrong stays in err.
type fields struct {
	of  *node
	err error
}

func (f *fields) fail(member, why string) {
	if f.err == nil {
		f.err = fmt.Errorf("%s %s", member, why)
	}
}

// only allows these members and no others.
func (f *fields) only(names ...string) {
	if f.of.kind != '{' {
		f.err = errors.New("no object")
		return
	}
next:
	for _, n := range f.of.names {
		for _, allowed := range names {
			if n == allowed {
				continue next
			}
		}
		f.err = errors.New("it has a member that is not of this format")
		return
	}
}

func (f *fields) get(member string) *node {
	v := f.of.member(member)
	if v == nil {
		f.fail(member, "is missing")
		return &node{}
	}
	return v
}

func (f *fields) text(member string) string {
	v := f.get(member)
	if v.kind != '"' {
		f.fail(member, "is no string")
	}
	return v.text
}

func (f *fields) digest(member string) sallyport.Digest {
	const prefix = "sha256:"
	text := f.text(member)
	if len(text) != len(prefix)+2*sha256.Size || text[:len(prefix)] != prefix {
		f.fail(member, "is no sha256 digest")
		return ""
	}
	if _, err := hex.DecodeString(text[len(prefix):]); err != nil {
		f.fail(member, "is no sha256 digest")
	}
	return sallyport.Digest(text)
}

func (f *fields) whole(member string) int {
	v := f.get(member)
	n, err := strconv.Atoi(v.text)
	if v.kind != '0' || err != nil || n < 0 {
		f.fail(member, "is no whole number from 0 on")
	}
	return n
}

// millis reads a number of milliseconds, which may be negative.
func (f *fields) millis(member string) time.Duration {
	v := f.get(member)
	n, err := strconv.ParseInt(v.text, 10, 64)
	const most = math.MaxInt64 / int64(time.Millisecond)
	if v.kind != '0' || err != nil || n > most || n < -most {
		f.fail(member, "is no whole number of milliseconds")
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

func (f *fields) truth(member string) bool {
	v := f.get(member)
	if v.kind != 't' && v.kind != 'f' {
		f.fail(member, "is neither true nor false")
	}
	return v.kind == 't'
}

func (f *fields) time(member string) time.Time {
	t, err := time.Parse(time.RFC3339, f.text(member))
	if err != nil {
		f.fail(member, "is no RFC 3339 time")
	}
	return t.UTC()
}
