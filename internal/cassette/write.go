package cassette

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/wire"
)

// Scrubber decides what becomes of each leaf before it is written.
type Scrubber interface {
	// Scrub is asked about every string, number, boolean and null, and about every
	// name of a member. It may not keep the leaf. Whatever it has an error for is
	// dropped.
	Scrub(leaf *Leaf) (Scrubbed, error)
}

// Part is a part of a call.
type Part uint8

// The parts.
const (
	InArguments Part = iota + 1
	InResult
	InError // a JSON-RPC error object
)

// String returns the part in lower case.
func (p Part) String() string {
	switch p {
	case InArguments:
		return "arguments"
	case InResult:
		return "result"
	case InError:
		return "error"
	default:
		return "unknown"
	}
}

// Leaf is what a [Scrubber] is asked about.
type Leaf struct {
	Tool    string
	Part    Part
	Pointer string // of a name, that of its object
	Key     string // the name of the member it stands under, however deep in arrays
	Class   string // declared for it; empty if nobody did
	Type    byte   // '"', '0', 't', 'f' or 'n'
	IsName  bool
	Text    string // what a string says; the token of anything else
	// Record are the scalar members of the object it stands in: what it is about.
	Record []Member
}

// Member is a scalar member of an object.
type Member struct{ Name, Text string }

// Verdict is what becomes of a leaf.
type Verdict uint8

// The verdicts. A leaf without one is dropped.
const (
	Keep    Verdict = iota + 1
	Replace         // by Text
	Drop
)

// Scrubbed is what a [Scrubber] says of a leaf.
type Scrubbed struct {
	Verdict Verdict
	// Text replaces that of the leaf. A number stays a number if Text is one, and
	// becomes a string otherwise.
	Text string
	// Found are the values that have to be gone: none of them may be in a sealed
	// cassette, in any encoding.
	Found []Found
	// Moved are the classes of values that were replaced by what others may have of their
	// own, a date by another date: they are counted, and not looked for.
	Moved []string
}

// Found is one personal value.
type Found struct {
	Class string
	Value string // as it is, not as it was encoded in the leaf
}

// Raw is one call as it was made, with everything personal in it.
type Raw struct {
	Since     time.Duration // since the recording began
	Tool      string
	Arguments []byte // an object, or nothing
	// Result is that of the tools/call, or Error the JSON-RPC error object.
	Result, Error []byte
	Access        sallyport.Access
	Latency       time.Duration
	Classes       *Classes // nil if none are declared
}

// Scrubbing counts what was done to the leaves of a recording.
type Scrubbing struct {
	Calls, Leaves int
	Replaced      map[string]int // values, by class
	Dropped       map[string]int // leaves, by reason
}

// Writer writes a cassette: a line for each call, each in one Write, scrubbed. Who has
// it syncs.
type Writer struct {
	to        io.Writer
	scrub     Scrubber
	limits    Limits
	originals *Originals
	report    Scrubbing
	stubs     map[[sha256.Size]byte]int // equal blobs have equal stubs
	seen      map[string]source         // ids by the result that returned them first
	given     map[string]bool           // ids that were arguments first
	broken    error
}

// source is where an id comes from.
type source struct {
	seq     int
	pointer string
}

// NewWriter writes the header. The cassette is to begin with it.
func NewWriter(to io.Writer, h Header, s Scrubber) (*Writer, error) {
	w := &Writer{
		to: to, scrub: s, limits: Limits{}.filled(), originals: NewOriginals(),
		report: Scrubbing{Replaced: map[string]int{}, Dropped: map[string]int{}},
		stubs:  map[[sha256.Size]byte]int{}, seen: map[string]source{}, given: map[string]bool{},
	}
	line := appendHeader(nil, &h)
	if _, err := (&Cassette{}).line(nil, line, 1, w.limits); err != nil {
		return nil, fmt.Errorf("cassette header: %w", err)
	}
	return w, w.write(line)
}

func appendHeader(b []byte, h *Header) []byte {
	b = fmt.Appendf(b, `{"cassette":%d,"upstream":`, Version)
	b = wire.AppendString(b, string(h.Upstream))
	b = append(b, `,"tools":`...)
	b = wire.AppendString(b, string(h.Tools))
	b = append(b, `,"scrub":`...)
	b = wire.AppendString(b, string(h.Scrub))
	b = append(b, `,"recorded":`...)
	b = wire.AppendString(b, h.Recorded.UTC().Format(time.RFC3339))
	b = fmt.Appendf(b, `,"clock_shift_ms":%d,"domain":`, h.ClockShift.Milliseconds())
	return append(wire.AppendString(b, h.Domain), '}')
}

func (w *Writer) write(line []byte) error {
	w.originals.cover(line)
	n, err := w.to.Write(append(line, '\n'))
	if err == nil && n < len(line)+1 {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.broken = fmt.Errorf("cassette: %w; its last line may be cut, begin another", err)
	}
	return w.broken
}

// Originals are the values that were replaced so far.
func (w *Writer) Originals() *Originals { return w.originals }

// Report is what was done so far.
func (w *Writer) Report() Scrubbing {
	out := w.report
	out.Replaced, out.Dropped = maps.Clone(out.Replaced), maps.Clone(out.Dropped)
	return out
}

// Append scrubs a call and writes its line. After an error of the io.Writer nothing
// more is written. A call that cannot be recorded, since it is not JSON say, is an
// error and leaves no line.
func (w *Writer) Append(raw Raw) error {
	if w.broken != nil {
		return w.broken
	}
	call, err := w.call(raw)
	if err != nil {
		return fmt.Errorf("recording a call of %s: %w", raw.Tool, err)
	}
	line := appendCall(nil, &call)
	doc, err := parse(line, MaxDepth+1)
	if err == nil {
		_, err = readCall(&fields{of: doc}) // what cannot be read is not written
	}
	switch {
	case err != nil:
		return fmt.Errorf("recording a call of %s: the scrubbed line cannot be read: %w", raw.Tool, err)
	case len(line) > w.limits.Line:
		return fmt.Errorf("recording a call of %s: %d bytes are more than a line may have, %d", raw.Tool, len(line), w.limits.Line)
	case call.Seq > w.limits.Calls:
		return fmt.Errorf("recording a call of %s: a cassette has at most %d calls; begin another", raw.Tool, w.limits.Calls)
	}
	if err := w.write(line); err != nil {
		return err
	}
	w.report.Calls++
	w.remember(&call)
	return nil
}

func appendCall(b []byte, c *Call) []byte {
	b = fmt.Appendf(b, `{"seq":%d,"at_ms":%d,"tool":`, c.Seq, c.Since.Milliseconds())
	b = wire.AppendString(b, c.Tool)
	b = append(append(b, `,"args":`...), c.Arguments...)
	if c.Result != nil {
		b = append(append(b, `,"result":`...), c.Result...)
	} else {
		b = append(append(b, `,"error":`...), c.Error...)
	}
	b = fmt.Appendf(b, `,"is_error":%t,"access":"%s","latency_ms":%d`, c.IsError, c.Access, c.Latency.Milliseconds())
	separator := `,"bound":[`
	for _, bound := range c.Bound {
		b = append(b, separator...)
		separator = ","
		b = wire.AppendString(append(b, `{"at":`...), bound.At)
		b = fmt.Appendf(b, `,"seq":%d,"from":`, bound.Seq)
		b = append(wire.AppendString(b, bound.From), '}')
	}
	if len(c.Bound) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func (w *Writer) call(raw Raw) (Call, error) {
	call := Call{Seq: w.report.Calls + 1, Since: raw.Since, Tool: raw.Tool, Access: raw.Access, Latency: raw.Latency}
	if (raw.Result == nil) == (raw.Error == nil) {
		return call, errors.New("it has either a result or an error")
	}
	if raw.Tool == "" || !utf8.ValidString(raw.Tool) {
		return call, errors.New("the tool has no name")
	}
	if len(raw.Arguments) == 0 {
		raw.Arguments = []byte("{}")
	}
	s := scrubbing{w: w, tool: raw.Tool, done: map[*node]leafDone{}}
	classes := raw.Classes
	if classes == nil {
		classes = &Classes{}
	}
	args, err := s.read(InArguments, raw.Arguments, classes.arguments)
	if err != nil {
		return call, err
	}
	answer, part := raw.Result, InResult
	if raw.Result == nil {
		answer, part = raw.Error, InError
	}
	result, err := s.read(part, answer, classes.results)
	if err != nil {
		return call, err
	}
	if call.Arguments, err = canonical.JSON(s.append(nil, args)); err != nil {
		return call, fmt.Errorf("arguments: %w", err)
	}
	if scrubbed := s.append(nil, result); part == InResult {
		call.Result = scrubbed
		doc, err := parse(scrubbed, MaxDepth)
		if err != nil {
			return call, fmt.Errorf("result: %w", err)
		}
		call.IsError = failed(doc)
	} else {
		call.Error, call.IsError = scrubbed, true
	}
	call.Bound, err = w.bound(call.Arguments)
	return call, err
}

// scrubbing is that of one call.
type scrubbing struct {
	w      *Writer
	tool   string
	part   Part
	done   map[*node]leafDone
	echoes []echo // whole leaves that were replaced: they may stand in a text, too
}

type echo struct{ original, replacement string }

// leafDone is what becomes of a leaf; of an object, of its names.
type leafDone struct {
	replaced bool
	text     string
	inner    *node    // JSON in a string, that is scrubbed on its own
	names    []string // of an object
	dropped  bool     // an object whose names cannot be kept
}

// read parses one part and decides on each of its leaves.
func (s *scrubbing) read(part Part, raw []byte, classes classesAt) (*node, error) {
	doc, err := parse(raw, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", part, err)
	}
	if doc.kind != '{' {
		return nil, fmt.Errorf("%s: no object", part)
	}
	s.part = part
	s.decide(doc, place{classes: classes, nest: 2})
	return doc, nil
}

// place is where in a document a value stands.
type place struct {
	pointer string
	key     string
	classes classesAt
	record  []Member
	binary  bool // what says so stands beside it
	nest    int  // how many strings may still be opened
}

func (s *scrubbing) decide(n *node, at place) {
	switch n.kind {
	case '{':
		at.record = nil
		for i, item := range n.items {
			if item.kind != '{' && item.kind != '[' {
				at.record = append(at.record, Member{n.names[i], item.text})
			}
		}
		kind := n.member("type")
		media := kind != nil && (kind.text == "image" || kind.text == "audio")
		object := leafDone{names: make([]string, len(n.names))}
		for i, item := range n.items {
			object.names[i] = s.name(n.names[i], at)
			if slices.Contains(object.names[:i], object.names[i]) {
				object.dropped = true
			}
			next := at
			next.key = n.names[i]
			next.pointer = below(at.pointer, next.key)
			next.classes = at.classes.below(next.key)
			next.binary = next.key == "blob" || media && next.key == "data"
			s.decide(item, next)
		}
		if object.dropped {
			s.w.report.Dropped["names that became equal"]++
		}
		s.done[n] = object
	case '[':
		for i, item := range n.items {
			next := at
			next.pointer = below(at.pointer, strconv.Itoa(i))
			next.classes = at.classes.below(strconv.Itoa(i))
			s.decide(item, next)
		}
	default:
		s.leaf(n, at)
	}
}

func (s *scrubbing) leaf(n *node, at place) {
	text := n.text
	if n.kind == '"' {
		if inner := n.held(MaxDepth); inner != nil && at.nest > 0 && !at.binary {
			s.done[n] = leafDone{inner: inner}
			at.pointer += "/" + heldText
			at.classes = at.classes.below(heldStep)
			at.nest--
			s.decide(inner, at)
			return
		}
		text = s.withoutBlobs(text, at.binary)
	}
	leaf := Leaf{
		Tool: s.tool, Part: s.part, Pointer: at.pointer, Key: at.key, Class: at.classes.class,
		Type: n.kind, Text: text, Record: at.record,
	}
	s.w.report.Leaves++
	said := s.ask(&leaf)
	switch said.Verdict {
	case Keep:
		s.done[n] = leafDone{replaced: text != n.text, text: text}
	case Replace:
		s.done[n] = leafDone{replaced: true, text: said.Text}
		if len(said.Found) == 1 && said.Found[0].Value == n.text && n.kind == '"' {
			s.echoes = append(s.echoes, echo{n.text, said.Text})
		}
	default:
		s.done[n] = leafDone{replaced: true, text: s.stub(n)}
	}
}

// ask asks the scrubber, and keeps the values it found.
func (s *scrubbing) ask(leaf *Leaf) Scrubbed {
	said, err := s.w.scrub.Scrub(leaf)
	if err != nil {
		said = Scrubbed{Verdict: Drop, Found: said.Found}
		s.w.report.Dropped["the scrubber had an error"]++
		if leaf.Type == '"' && len(leaf.Text) >= longEnough { // nobody knows what it was
			s.w.originals.Add(leaf.Text)
		}
	} else if said.Verdict != Keep && said.Verdict != Replace {
		s.w.report.Dropped["the scrubber said so"]++
	}
	for _, class := range said.Moved {
		s.w.report.Replaced[class]++
	}
	for _, f := range said.Found {
		s.w.report.Replaced[f.Class]++
		s.w.originals.Add(f.Value)
		if said.Verdict == Replace && f.Value == leaf.Text {
			s.w.originals.became(f.Value, said.Text)
		}
	}
	return said
}

func (s *scrubbing) name(text string, at place) string {
	said := s.ask(&Leaf{
		Tool: s.tool, Part: s.part, Pointer: at.pointer, Key: at.key, Class: "",
		Type: '"', IsName: true, Text: text, Record: at.record,
	})
	switch said.Verdict {
	case Keep:
		return text
	case Replace:
		return said.Text
	default:
		return "dropped-" + strconv.Itoa(s.ordinal(text))
	}
}

// stub stands for a leaf that was dropped: of the same type, and for equal strings the
// same.
func (s *scrubbing) stub(n *node) string {
	switch n.kind {
	case '"':
		return fmt.Sprintf("dropped %d: %d bytes", s.ordinal(n.text), len(n.text))
	case '0':
		return "0"
	case 't', 'f':
		return "false"
	default:
		return "null"
	}
}

func (s *scrubbing) ordinal(text string) int {
	sum := sha256.Sum256([]byte(text))
	if _, ok := s.w.stubs[sum]; !ok {
		s.w.stubs[sum] = len(s.w.stubs) + 1
	}
	return s.w.stubs[sum]
}

// How long runs of base64 or hexadecimal digits are which are dropped if they are no
// text: a whole leaf, a part of one, and hexadecimal digits, that may be a digest.
const (
	wholeBlob = 64
	innerBlob = 256
	hexBlob   = 129
)

// withoutBlobs replaces what cannot be looked into. The stub is of the same alphabet,
// so that who decodes it can.
func (s *scrubbing) withoutBlobs(text string, binary bool) string {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\n' && c != '\r' && c != '\t' && c != '\f' && c != '\b' && c != 0x1B {
			s.w.report.Dropped["binary"]++
			return fmt.Sprintf("dropped %d: %d bytes", s.ordinal(text), len(text))
		}
	}
	if len(text) < wholeBlob && !binary {
		return text
	}
	var out strings.Builder
	rest, written := text, false
	for len(rest) > 0 {
		start := strings.IndexFunc(rest, inBase64)
		if start < 0 {
			break
		}
		end := start
		for end < len(rest) && (inBase64(rune(rest[end])) || end > start && (rest[end] == '\n' || rest[end] == '\r')) {
			end++
		}
		least := innerBlob
		if strings.TrimSpace(text) == strings.TrimSpace(rest[start:end]) || strings.HasSuffix(text[:len(text)-len(rest)+start], ";base64,") {
			least = wholeBlob
		}
		if binary {
			least = 1
		}
		run := rest[start:end]
		out.WriteString(rest[:start])
		if len(run) >= least && (binary || isBlob(run)) {
			stub := fmt.Sprintf("dropped %d: %d bytes", s.ordinal(run), len(run))
			out.WriteString(base64.StdEncoding.EncodeToString([]byte(stub)))
			s.w.report.Dropped["base64"]++
			written = true
		} else {
			out.WriteString(run)
		}
		rest = rest[end:]
	}
	if !written {
		return text
	}
	out.WriteString(rest)
	return out.String()
}

func inBase64(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '+' || r == '/' || r == '-' || r == '_' || r == '='
}

// isBlob reports whether a run of base64 or hexadecimal digits is something other than
// text that can be scanned.
func isBlob(run string) bool {
	run = strings.TrimRight(strings.NewReplacer("\n", "", "\r", "", "-", "+", "_", "/").Replace(run), "=")
	if decoded, err := hex.DecodeString(run); err == nil {
		return len(run) >= hexBlob && !isText(decoded)
	}
	decoded, err := base64.RawStdEncoding.DecodeString(run)
	return err == nil && !isText(decoded)
}

func isText(b []byte) bool {
	return utf8.Valid(b) && bytes.IndexFunc(b, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }) < 0
}

// append writes what has become of a value, without white space.
func (s *scrubbing) append(b []byte, n *node) []byte {
	done := s.done[n]
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i, item := range n.items {
			if done.dropped {
				break
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = append(wire.AppendString(b, done.names[i]), ':')
			b = s.append(b, item)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = s.append(b, item)
		}
		return append(b, ']')
	case '"':
		text := n.text
		switch {
		case done.inner != nil:
			text = string(s.append(nil, done.inner))
			if untouched, err := canonical.Equal(done.inner.raw, []byte(text)); err == nil && untouched {
				return append(b, n.raw...) // with the white space it had
			}
			return wire.AppendString(b, text)
		case done.replaced:
			text = done.text
		default:
		}
		if text = s.echo(text); text == n.text {
			return append(b, n.raw...)
		}
		return wire.AppendString(b, text)
	default:
		if !done.replaced || done.text == n.text {
			return append(b, n.raw...)
		}
		if value, err := parse([]byte(done.text), 0); err == nil && value.kind != '"' {
			return append(b, value.raw...)
		}
		return wire.AppendString(b, done.text)
	}
}

// leastEcho is how long a value is that is looked for in the texts of the same call.
const leastEcho = 4

// echo replaces, in a text, the values of other leaves of the call. A name that has a
// class where it stands alone is known by nothing in the midst of a sentence.
func (s *scrubbing) echo(text string) string {
	slices.SortFunc(s.echoes, func(a, b echo) int {
		return cmp.Or(cmp.Compare(len(b.original), len(a.original)), strings.Compare(a.original, b.original))
	})
	for _, e := range s.echoes {
		if len(e.original) < leastEcho || len(text) <= len(e.original) {
			continue
		}
		from := 0
		for {
			i := strings.Index(text[from:], e.original)
			if i < 0 {
				break
			}
			i += from
			end := i + len(e.original)
			if isWord(text, i-1) || isWord(text, end) {
				from = i + 1
				continue
			}
			text = text[:i] + e.replacement + text[end:]
			from = i + len(e.replacement)
		}
	}
	return text
}

// isWord reports whether the byte at i is a part of a word.
func isWord[T string | []byte](text T, i int) bool {
	if i < 0 || i >= len(text) {
		return false
	}
	c := text[i]
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= utf8.RuneSelf
}

// mostIDs bounds how many ids are remembered. What came later is not bound.
const mostIDs = 1 << 20

// bound finds the ids among the arguments that an earlier result returned.
func (w *Writer) bound(args []byte) ([]Bound, error) {
	doc, err := parse(args, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	var out []Bound
	eachID(doc, "", "", false, func(pointer, text string) {
		if from, ok := w.seen[text]; ok {
			out = append(out, Bound{At: pointer, Seq: from.seq, From: from.pointer})
		}
	})
	return out, nil
}

// remember keeps the ids of a call that was written.
func (w *Writer) remember(call *Call) {
	keep := func(raw []byte, inside bool, found func(pointer, text string)) {
		if doc, err := parse(raw, MaxDepth); err == nil {
			eachID(doc, "", "", inside, found)
		}
	}
	keep(call.Arguments, false, func(_, text string) {
		if _, ok := w.seen[text]; !ok && len(w.given) < mostIDs {
			w.given[text] = true
		}
	})
	if call.Result == nil {
		return
	}
	keep(call.Result, true, func(pointer, text string) {
		if _, ok := w.seen[text]; !ok && !w.given[text] && len(w.seen) < mostIDs {
			w.seen[text] = source{call.Seq, pointer}
		}
	})
}

// eachID calls found for each leaf that may be an id: a number where the key says so,
// a word with a digit in it, or any word where the key says so.
func eachID(n *node, pointer, key string, inside bool, found func(pointer, text string)) {
	switch n.kind {
	case '{', '[':
		for i, item := range n.items {
			next := key
			if n.kind == '{' {
				next = n.names[i]
			}
			eachID(item, below(pointer, n.step(i)), next, inside, found)
		}
	case '0':
		if namesID(key) && !strings.ContainsAny(n.text, ".eE-") {
			found(pointer, n.text)
		}
	case '"':
		if inside {
			if inner := n.held(MaxDepth); inner != nil {
				eachID(inner, pointer+"/"+heldText, key, false, found)
				return
			}
		}
		if len(n.text) >= 3 && len(n.text) <= 512 && !strings.ContainsAny(n.text, " \t\r\n") &&
			(namesID(key) || strings.ContainsAny(n.text, "0123456789") && !isTime(n.text)) {
			found(pointer, n.text)
		}
	}
}

// namesID reports whether a key is that of an id.
func namesID(key string) bool {
	key = strings.ToLower(key)
	for _, end := range []string{"id", "ids", "key", "uuid", "ref", "token", "cursor", "number", "handle"} {
		if strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

func isTime(text string) bool {
	_, ok := timeOf(text)
	return ok
}
