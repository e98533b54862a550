// Package scrub takes personal data and secrets out of JSON documents, rows of tables
// and texts. What a person declared of a place wins; elsewhere what [detect] finds is
// replaced by pseudonyms of the data domain (see [pseudonym]), so that equal values
// become equal in every table, file and call of it. What does not fire keeps its
// bytes.
//
// Scrubbing again what was scrubbed changes nothing, but for what pseudonym cannot know
// again: short identifiers that were declared, dates whose subject is neither an e-mail
// address nor a long identifier that is scrubbed itself, and numbers under a key that fits
// several kinds, such as national_id: the pseudonym of one may be a real number of another.
package scrub

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/detect"
	"sallyport/internal/ident"
	"sallyport/internal/pseudonym"
)

// Finder finds what the scanner cannot, such as names in running text. It is given the
// texts of one record and returns for each what it found, in any order. What overlaps
// with a finding of the scanner's counts only beside it. Its errors end the scrubbing.
type Finder func(texts [][]byte) ([][]detect.Finding, error)

// Scrubber scrubs for one data domain. It may be used by many at once, if its Finder
// may.
type Scrubber struct {
	// Finder, if not nil, is asked about every text that no rule covers.
	Finder Finder

	domain      *pseudonym.Domain
	scanner     *detect.Scanner
	actions     [256]Action // by kind
	columns     map[string]*rule
	places      place
	hasPointers bool
	subject     string // the name of a member or column
	subjectAt   *place // or where it stands
	works       sync.Pool
}

// rule is a Rule that was looked up.
type rule struct {
	Rule
	kind ident.Kind // 0 for a group of kinds
	key  detect.Key // of a group: what finds them
}

// New returns a scrubber for the data domain of a key; the key is used for nothing
// else.
func New(key [32]byte, rules *Rules) (*Scrubber, error) {
	if err := rules.check(); err != nil {
		return nil, err
	}
	s := &Scrubber{domain: pseudonym.New(key), scanner: detect.New(), columns: map[string]*rule{}, hasPointers: len(rules.Pointers) > 0}
	s.works.New = func() any { return new(work) }
	for i := range s.actions {
		s.actions[i] = Pseudonymise
	}
	for class, action := range rules.Classes {
		for _, kind := range groups[class] {
			s.actions[kind] = action
		}
	}
	for class, action := range rules.Classes {
		if kind, ok := ident.ParseKind(class); ok {
			s.actions[kind] = action
		}
	}
	for _, class := range rules.Kept {
		kind, _ := ident.ParseKind(class)
		s.actions[kind] = Keep
		for _, kind := range groups[class] {
			s.actions[kind] = Keep
		}
	}
	for name, r := range rules.Columns {
		s.columns[name] = lookUp(r)
	}
	for at, r := range rules.Pointers {
		s.places.add(at, lookUp(r))
	}
	if strings.HasPrefix(rules.Subject, "/") {
		s.subjectAt = new(place)
		s.subjectAt.add(rules.Subject, new(rule))
	} else {
		s.subject = rules.Subject
	}
	return s, nil
}

func lookUp(r Rule) *rule {
	kind, _ := ident.ParseKind(r.Class)
	out := &rule{Rule: r, kind: kind}
	if out.Class == "" {
		out.Class = "declared"
	}
	if kind == 0 && r.Class != "" {
		out.key = detect.KeyOf([]byte(r.Class))
	}
	return out
}

func (s *Scrubber) hasSubject() bool { return s.subject != "" || s.subjectAt != nil }
func (s *Scrubber) hasRules() bool   { return s.hasPointers || len(s.columns) > 0 }

func (s *Scrubber) isSubject(pointer string) bool {
	if s.subjectAt != nil {
		var room [maxSteps]string
		return s.subjectAt.find(stepsOf(room[:0], pointer)) != nil
	}
	return s.subject != "" && unescapeStep(pointer[strings.LastIndexByte(pointer, '/')+1:]) == s.subject
}

// subjectText is what a date's subject is known by: an e-mail address is the same in
// any case.
func subjectText(text []byte) []byte {
	text = bytes.TrimSpace(text)
	if bytes.IndexByte(text, '@') >= 0 {
		return bytes.ToLower(text)
	}
	return bytes.Clone(text)
}

// maxNested is how many documents are opened that lie in strings of each other.
const maxNested = 4

// work is the room for one record.
type work struct {
	s        *Scrubber
	t        *Tally
	depth    int
	buf      []byte // what leaves become
	out      []byte // what the leaf at hand becomes
	place    []byte
	findings []detect.Finding
	edits    []edit
	waiting  []waiting
	subjects []subject
	outer    []byte          // the subject around the document
	names    map[string]bool // that fired, behind the pointer of their object
}

// edit is a token of the document that becomes buf[from:to].
type edit struct{ start, end, from, to int }

// waiting is a leaf that is rewritten once the whole record is known.
type waiting struct {
	leaf
	edit int
}

type subject struct {
	pointer string
	text    []byte
}

// leaf is what has to be known of a value to rewrite it.
type leaf struct {
	text     []byte
	kind     byte // as in [detect.Leaf.Type]; 0 for a text that is in no JSON
	isName   bool
	key      detect.Key
	findings []detect.Finding
	rule     *rule
	place    string // pointer, or column
	subject  []byte
}

func (s *Scrubber) begin(t *Tally, depth int) *work {
	w := s.works.Get().(*work)
	w.s, w.t, w.depth = s, t, depth
	w.outer = nil
	w.buf, w.edits, w.waiting, w.subjects = w.buf[:0], w.edits[:0], w.waiting[:0], w.subjects[:0]
	clear(w.names)
	return w
}

func (s *Scrubber) end(w *work) {
	clear(w.waiting)
	clear(w.subjects)
	w.t = nil
	s.works.Put(w)
}

// JSON appends a document to dst in which only the leaves that fired differ: the tokens
// of strings, numbers and names of members. t counts what was done. What is no JSON of
// one value in UTF-8 without duplicate names, at most [detect.MaxDepth] deep, is an
// error, with which dst is returned as it came.
func (s *Scrubber) JSON(dst, doc []byte, t *Tally) ([]byte, error) {
	return s.json(dst, doc, around{}, 0, t)
}

// around is what stands around a document.
type around struct {
	key     detect.Key
	place   string
	subject []byte // of dates, unless there is one within
}

// notJSON is the error of a document that is none.
type notJSON struct{ error }

func (e notJSON) Unwrap() error { return e.error }

func (s *Scrubber) json(dst, doc []byte, in around, depth int, t *Tally) ([]byte, error) {
	w := s.begin(t, depth)
	defer s.end(w)
	w.outer = in.subject
	places := s.hasRules() || s.hasSubject()
	renamed := false
	var fault error // of what is done with leaves
	err := s.scanner.ScanJSONUnder(doc, in.key, func(l *detect.Leaf) error {
		t.Leaves++
		if t.Look != nil {
			t.Look(l)
		}
		v := leaf{text: l.Text, kind: l.Type, isName: l.IsName, key: l.Key, findings: l.Findings}
		if places || len(l.Findings) > 0 || s.Finder != nil {
			v.place = in.place + l.Pointer()
		}
		if places {
			at := v.place
			if l.IsName {
				at = at[:strings.LastIndexByte(at, '/')]
			}
			v.rule = s.ruleAt(at)
			if !l.IsName && s.isSubject(v.place) && l.Type != 'n' {
				w.subjects = append(w.subjects, subject{v.place, subjectText(l.Text)})
			}
			if l.IsName && (v.rule == nil || v.rule.Action != Keep) {
				v.rule = nil // a rule is about values
			}
		}
		if v.rule == nil && len(v.findings) == 0 && !s.asks(&v) && !(s.hasRules() && nested(&v)) {
			return nil
		}
		at := edit{l.Start, l.End, len(w.buf), len(w.buf)}
		if s.hasSubject() && dated(&v) || s.asks(&v) {
			v.text, v.findings = bytes.Clone(v.text), slices.Clone(v.findings)
			w.waiting = append(w.waiting, waiting{v, len(w.edits)})
			w.edits = append(w.edits, at)
			return nil
		}
		changed, err := w.token(&v)
		if at.to = len(w.buf); err == nil && changed {
			renamed = renamed || l.IsName
			w.edits = append(w.edits, at)
		}
		fault = err
		return err
	})
	if fault != nil {
		return dst, fault
	}
	if err != nil {
		return dst, notJSON{err}
	}
	if err := w.settle(&renamed); err != nil {
		return dst, err
	}
	from := len(dst)
	last := 0
	for _, e := range w.edits {
		if e.from == e.to {
			continue
		}
		dst = append(append(dst, doc[last:e.start]...), w.buf[e.from:e.to]...)
		last = e.end
	}
	dst = append(dst, doc[last:]...)
	if renamed {
		if err := s.scanner.ScanJSON(dst[from:], func(*detect.Leaf) error { return nil }); err != nil {
			return dst[:from], fmt.Errorf("names of members cannot be replaced: what they become makes no document any more: %w", err)
		}
	}
	return dst, nil
}

// settle rewrites the leaves that waited for the whole record.
func (w *work) settle(renamed *bool) error {
	if len(w.waiting) == 0 {
		return nil
	}
	if err := w.ask(); err != nil {
		return err
	}
	for i := range w.waiting {
		v := &w.waiting[i]
		e := &w.edits[v.edit]
		v.subject = w.subjectOf(v.place)
		e.from = len(w.buf)
		changed, err := w.token(&v.leaf)
		if err != nil {
			return err
		}
		if e.to = len(w.buf); !changed {
			e.from = e.to
		}
		*renamed = *renamed || changed && v.isName
	}
	return nil
}

// subjectOf is the subject whose place has most in common with a place, of those the
// one nearest to the root, of those the first.
func (w *work) subjectOf(at string) []byte {
	best := w.outer
	most, length := -1, 0
	for _, s := range w.subjects {
		n := shared(at, s.pointer)
		if l := strings.Count(s.pointer, "/"); n > most || n == most && l < length {
			best, most, length = s.text, n, l
		}
	}
	return best
}

// asks reports whether the finder is asked about a leaf.
func (s *Scrubber) asks(v *leaf) bool {
	if s.Finder == nil || v.rule != nil || v.kind != '"' && v.kind != 0 || nested(v) {
		return false
	}
	letters := 0
	for _, c := range v.text {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80 {
			letters++
		}
	}
	return letters > 1 && !v.isName
}

// ask gives the finder all texts at once.
func (w *work) ask() error {
	if w.s.Finder == nil {
		return nil
	}
	var texts [][]byte
	var of []*leaf
	for i := range w.waiting {
		if v := &w.waiting[i].leaf; w.s.asks(v) {
			texts, of = append(texts, v.text), append(of, v)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	found, err := w.s.Finder(texts)
	if err != nil {
		return err
	}
	if len(found) != len(texts) {
		return fmt.Errorf("analyzer answered about %d texts of %d", len(found), len(texts))
	}
	for i, v := range of {
		if v.findings, err = beside(v.text, v.findings, found[i]); err != nil {
			return err
		}
	}
	return nil
}

// beside adds findings to those there are, without what overlaps.
func beside(text []byte, own, more []detect.Finding) ([]detect.Finding, error) {
	slices.SortFunc(more, func(a, b detect.Finding) int { return a.Start - b.Start })
	out := own
	floor := 0
	for _, f := range more {
		if f.Start < 0 || f.End > len(text) || f.End < f.Start {
			return nil, errors.New("analyzer found something that lies outside of the text")
		}
		start := max(f.Start, floor)
		for _, o := range own {
			if o.End <= start || o.Start >= f.End {
				continue
			}
			if o.Start > start {
				out = addTrimmed(out, text, f, start, o.Start)
			}
			start = o.End
		}
		if start < f.End {
			out = addTrimmed(out, text, f, start, f.End)
		}
		floor = max(floor, f.End)
	}
	slices.SortFunc(out, func(a, b detect.Finding) int { return a.Start - b.Start })
	return out, nil
}

func addTrimmed(dst []detect.Finding, text []byte, f detect.Finding, start, end int) []detect.Finding {
	part := text[start:end]
	f.Start = end - len(bytes.TrimLeft(part, " \t\r\n,;:."))
	f.End = start + len(bytes.TrimRight(part, " \t\r\n,;:"))
	if f.Start >= f.End {
		return dst
	}
	return append(dst, f)
}

// dated reports whether a leaf holds a date that moves with its subject. What lies in a
// document or a wrapped run inside it may.
func dated(v *leaf) bool {
	if v.rule != nil {
		return v.rule.kind == ident.BirthDate || v.rule.kind == ident.Date
	}
	for _, f := range v.findings {
		if f.Kind == ident.BirthDate || f.Encoding != detect.Plain {
			return true
		}
	}
	return len(v.findings) > 0 && nested(v)
}

// nested reports whether the text of a leaf may be a JSON document itself.
func nested(v *leaf) bool {
	if v.isName || v.kind != '"' && v.kind != 0 {
		return false
	}
	t := bytes.Trim(v.text, " \t\r\n")
	return len(t) > 2 && (t[0] == '{' && t[len(t)-1] == '}' || t[0] == '[' && t[len(t)-1] == ']')
}

// token appends to buf what the token of a leaf becomes, and reports whether it
// changes.
func (w *work) token(v *leaf) (bool, error) {
	if v.kind == 'n' {
		return false, nil
	}
	what, err := w.value(v)
	if err == nil && what == stays && v.isName && len(v.findings) > 0 {
		what, w.out = fresh, append(w.out[:0], v.text...) // no other name may become it
	}
	if err != nil || what == stays {
		return false, err
	}
	if what == gone {
		if !v.isName {
			w.buf = append(w.buf, "null"...)
			return true, nil
		}
		w.out = append(append(append(w.out[:0], '['), "dropped"...), ']')
	}
	if v.isName {
		w.apart(v)
	}
	if bytes.Equal(w.out, v.text) {
		return false, nil
	}
	if v.kind == '0' && jsontext.Value(w.out).Kind() == '0' && jsontext.Value(w.out).IsValid() {
		w.buf = append(w.buf, w.out...)
		return true, nil
	}
	if v.kind == '0' {
		w.t.Quoted++
	}
	w.buf, err = jsontext.AppendQuote(w.buf, w.out)
	return true, err
}

// apart sees to it that two names of one object stay two.
func (w *work) apart(v *leaf) {
	if w.names == nil {
		w.names = map[string]bool{}
	}
	object := v.place[:strings.LastIndexByte(v.place, '/')+1]
	name := string(w.out)
	for n := 2; w.names[object+name]; n++ {
		name = fmt.Sprintf("%s~%d", w.out, n)
	}
	if name != string(w.out) {
		w.t.Renamed++
		w.out = append(w.out[:0], name...)
	}
	w.names[object+name] = true
}

// What becomes of the text of a leaf.
const (
	stays = iota // nothing
	fresh        // what is in work.out
	gone         // it is dropped
)

func (w *work) value(v *leaf) (int, error) {
	if v.rule != nil {
		return w.declared(v), nil
	}
	if nested(v) && w.depth < maxNested {
		in := around{v.key, v.place, v.subject}
		if v.kind == 0 && v.place != "" {
			in.place = "/" + escapeStep(v.place)
		}
		t := Tally{Seen: w.t.Seen, Look: w.t.Look}
		out, err := w.s.json(w.out[:0], v.text, in, w.depth+1, &t)
		if err == nil {
			w.t.Add(&t)
			w.out = out
			return w.changed(v.text), nil
		}
		if !errors.As(err, new(notJSON)) {
			return stays, err
		}
	}
	if len(v.findings) == 0 {
		return stays, nil
	}
	var err error
	if w.out, err = w.splice(w.out[:0], v.text, v.findings, v, 0); err != nil {
		return stays, err
	}
	if len(w.out) == 0 {
		return gone, nil
	}
	return w.changed(v.text), nil
}

func (w *work) changed(from []byte) int {
	if bytes.Equal(w.out, from) {
		return stays
	}
	return fresh
}

// declared does with a leaf what its rule says.
func (w *work) declared(v *leaf) int {
	r := v.rule
	if r.Action == Keep {
		w.kept(v, r.kind, r.Class, v.text)
		return stays
	}
	if len(v.text) == 0 && v.kind != '0' {
		return stays
	}
	kind := r.kind
	switch r.Action {
	case Drop:
		w.count(v, r.Class, Drop.String())
		w.saw(kind, v.text, nil)
		return gone
	case Redact:
		w.out = appendRedacted(w.out[:0], r.Class)
		w.count(v, r.Class, Redact.String())
	default:
		if v.kind == 't' || v.kind == 'f' {
			w.count(v, r.Class, Keep.String())
			return stays
		}
		if kind == 0 {
			kind = w.kindOf(v.text, r)
		}
		w.out = w.s.domain.Replace(w.out[:0], kind, v.text, v.subject)
		w.count(v, kind.Class(), w.done(v.text))
	}
	if bytes.Equal(w.out, v.text) {
		return stays
	}
	w.saw(kind, v.text, w.out)
	return fresh
}

// kindOf says which kind of a group a value is; one that is of none is an identifier.
func (w *work) kindOf(text []byte, r *rule) ident.Kind {
	w.findings = w.s.scanner.ScanText(w.findings[:0], text, r.key)
	for _, f := range w.findings {
		if f.Kind.Class() == r.Rule.Class && f.Encoding == detect.Plain && f.End-f.Start == len(bytes.TrimSpace(text)) {
			return f.Kind
		}
	}
	return ident.ID
}

func (w *work) done(original []byte) string {
	if bytes.Equal(w.out, original) {
		return already
	}
	return Pseudonymise.String()
}

func appendRedacted(dst []byte, class string) []byte {
	return append(append(append(dst, '['), class...), ']')
}

// splice appends a text in which its findings are replaced. depth is how many times it
// was unwrapped.
func (w *work) splice(dst, text []byte, findings []detect.Finding, v *leaf, depth int) ([]byte, error) {
	last := 0
	for _, f := range findings {
		dst = append(dst, text[last:f.Start]...)
		run := text[f.Start:f.End]
		last = f.End
		class := f.Kind.Class()
		action := w.s.actions[f.Kind]
		if f.Encoding != detect.Plain {
			var err error
			if dst, err = w.rewrap(dst, run, f, v, depth); err != nil {
				return dst, err
			}
			continue
		}
		if action == Keep {
			dst = append(dst, run...)
			w.kept(v, f.Kind, class, run)
			continue
		}
		at := len(dst)
		switch action {
		case Drop:
		case Redact:
			dst = appendRedacted(dst, f.Kind.String())
		default:
			dst = w.s.domain.Replace(dst, f.Kind, run, v.subject)
		}
		done := action.String()
		if bytes.Equal(dst[at:], run) {
			done = already
		} else {
			w.saw(f.Kind, run, dst[at:])
		}
		w.count(v, class, done)
	}
	return append(dst, text[last:]...), nil
}

// rewrap replaces what is in a wrapped run and wraps it again. A run in which nothing
// can be replaced becomes its class in brackets.
func (w *work) rewrap(dst, run []byte, f detect.Finding, v *leaf, depth int) ([]byte, error) {
	if inner, ok := detect.Unwrap(f.Encoding, run); ok && depth == 0 {
		found := w.s.scanner.ScanText(nil, inner, v.key)
		if len(found) > 0 {
			out, err := w.splice(nil, inner, found, v, depth+1)
			switch {
			case err != nil:
				return dst, err
			case bytes.Equal(out, inner):
				return append(dst, run...), nil
			}
			return append(dst, detect.Wrap(f.Encoding, out, run)...), nil
		}
	}
	if w.s.actions[f.Kind] == Keep {
		w.count(v, f.Kind.Class(), Keep.String())
		return append(dst, run...), nil
	}
	at := len(dst)
	dst = appendRedacted(dst, f.Kind.String())
	w.count(v, f.Kind.Class(), Redact.String())
	w.saw(f.Kind, run, dst[at:])
	return dst, nil
}

// kept counts a value that stays; a pseudonym is nobody's.
func (w *work) kept(v *leaf, kind ident.Kind, class string, value []byte) {
	if kind != 0 && w.s.domain.Recognises(kind, value) {
		w.count(v, class, already)
		return
	}
	w.count(v, class, Keep.String())
}

func (w *work) saw(kind ident.Kind, original, became []byte) {
	if w.t.Seen != nil {
		w.t.Seen(kind, original, became)
	}
}

func (w *work) count(v *leaf, class, done string) {
	if v.kind == 0 {
		w.place = append(w.place[:0], v.place...)
	} else {
		w.place = general(w.place[:0], v.place)
	}
	w.t.count(w.place, class, done, 1)
}

// Text appends a text to dst in which what was found is replaced. A text that is a
// JSON document is scrubbed as one. It need not be UTF-8.
func (s *Scrubber) Text(dst, text []byte, t *Tally) ([]byte, error) {
	t.Leaves++
	w := s.begin(t, 0)
	defer s.end(w)
	v := leaf{text: text, findings: s.scanner.ScanText(nil, text, 0)}
	w.waiting = append(w.waiting, waiting{leaf: v})
	if err := w.ask(); err != nil {
		return dst, err
	}
	what, err := w.value(&w.waiting[0].leaf)
	switch {
	case err != nil:
		return dst, err
	case what == stays:
		return append(dst, text...), nil
	case what == gone:
		return dst, nil
	default:
		return append(dst, w.out...), nil
	}
}

// Value is one leaf on its own, for those who walk a document themselves.
type Value struct {
	Pointer string // where it stands; of a name of a member, that of its object
	Type    byte   // '"', '0', 't', 'f' or 'n'
	IsName  bool
	Text    []byte // what a string says; the token of anything else
	Rule    *Rule  // declared for it; nil if only what the scrubber's rules say counts
	Subject []byte // of dates
}

// Value returns what becomes of a leaf: its text as it is, another, or ok false if it
// is dropped. A text that is JSON is scrubbed as such. The Finder is not asked.
func (s *Scrubber) Value(v Value, t *Tally) (text []byte, ok bool, err error) {
	t.Leaves++
	w := s.begin(t, 0)
	defer s.end(w)
	l := leaf{text: v.Text, kind: v.Type, isName: v.IsName, place: v.Pointer, subject: subjectText(v.Subject)}
	if v.IsName {
		l.place += "/" + escapeStep(string(v.Text))
	}
	if v.Rule != nil {
		if err := v.Rule.check(); err != nil {
			return nil, false, err
		}
		l.rule = lookUp(*v.Rule)
	} else if l.rule = s.ruleAt(v.Pointer); v.IsName && l.rule != nil && l.rule.Action != Keep {
		l.rule = nil
	}
	if l.rule == nil {
		if !v.IsName {
			l.key = keyAt(v.Pointer)
		}
		if v.Type == '"' || v.Type == '0' && len(v.Text) >= 6 && !bytes.ContainsAny(v.Text, "-.eE") {
			l.findings = s.scanner.ScanText(nil, v.Text, l.key)
		}
	}
	what, err := stays, error(nil)
	if v.Type != 'n' {
		what, err = w.value(&l)
	}
	switch {
	case err != nil || what == gone:
		return nil, false, err
	case what == stays:
		return v.Text, true, nil
	default:
		return bytes.Clone(w.out), true, nil
	}
}

// keyAt is what the names on the way to a place suggest.
func keyAt(pointer string) detect.Key {
	var room [maxSteps]string
	var k detect.Key
	for _, step := range stepsOf(room[:0], pointer) {
		if strings.Trim(step, "0123456789") != "" {
			k = detect.KeyOf([]byte(step)).Under(k)
		}
	}
	return k
}

// Header is the names of a table's columns, looked up once.
type Header struct {
	columns []column
	subject int // its column, or -1
}

type column struct {
	name string
	key  detect.Key
	rule *rule
}

// Header looks the names of columns up. That of the subject has to be among them if
// the rules name one.
func (s *Scrubber) Header(names []string) (*Header, error) {
	h := &Header{subject: -1}
	for i, name := range names {
		at := "/" + escapeStep(name)
		h.columns = append(h.columns, column{name, detect.KeyOf([]byte(name)), s.ruleAt(at)})
		if s.hasSubject() && h.subject < 0 && s.isSubject(at) {
			h.subject = i
		}
	}
	if s.hasSubject() && h.subject < 0 {
		return nil, errors.New("there is no column that is the subject of dates")
	}
	return h, nil
}

// Row rewrites one row. out has as many places as fields; those whose field changes
// are set to what it becomes, the others to nil. fields are what the fields mean, not
// how they are quoted.
func (s *Scrubber) Row(h *Header, fields, out [][]byte, t *Tally) error {
	if len(fields) != len(h.columns) || len(out) != len(fields) {
		return fmt.Errorf("row has %d fields, its header %d", len(fields), len(h.columns))
	}
	w := s.begin(t, 0)
	defer s.end(w)
	var subject []byte
	if h.subject >= 0 {
		subject = subjectText(fields[h.subject])
	}
	t.Leaves += int64(len(fields))
	for i, f := range fields {
		out[i] = nil
		c := &h.columns[i]
		v := leaf{text: f, key: c.key, rule: c.rule, place: c.name, subject: subject}
		if v.rule == nil {
			w.findings = s.scanner.ScanText(w.findings[:0], f, c.key)
			v.findings = w.findings
			if len(v.findings) == 0 && !s.asks(&v) && !(s.hasRules() && nested(&v)) {
				continue
			}
			if s.Finder != nil {
				v.findings = slices.Clone(v.findings)
			}
		}
		if s.Finder != nil {
			w.waiting = append(w.waiting, waiting{v, i})
			continue
		}
		if err := w.field(&v, &out[i]); err != nil {
			return err
		}
	}
	if s.Finder == nil {
		return nil
	}
	if err := w.ask(); err != nil {
		return err
	}
	for i := range w.waiting {
		if err := w.field(&w.waiting[i].leaf, &out[w.waiting[i].edit]); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) field(v *leaf, out *[]byte) error {
	what, err := w.value(v)
	switch {
	case err != nil:
		return err
	case what == gone:
		*out = []byte{}
	case what == fresh:
		*out = append([]byte{}, w.out...)
	}
	return nil
}
