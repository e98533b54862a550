// Package guard looks at the content of calls: at arguments on their way to an
// upstream, and at what an upstream says on its way to an agent. It finds personal data
// and secrets by class (package detect; what people declared of a field wins),
// characters that nobody sees, and texts that look like instructions to a model, and it
// does with each class what a stage's rules say.
//
// What no rule makes disappear keeps its bytes. What looks like an instruction is never
// a reason to stop anything: it is only known afterwards.
package guard

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sallyport"
	"sallyport/internal/detect"
	"sallyport/internal/ident"
	"sallyport/internal/scrub"
)

// Hidden is the class of characters that nobody sees and a model reads, and of escape
// sequences of terminals.
const Hidden = "hidden"

// Keep, in the place of a class, declares a field that is not looked into.
const Keep = "keep"

// Classes are the classes of data that rules may name, sorted.
func Classes() []string {
	all := []string{Hidden}
	for _, k := range ident.Kinds() {
		all = append(all, k.Class())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Confidentiality is how far what is of a class may travel.
func Confidentiality(class string) sallyport.Confidentiality {
	switch class {
	case Hidden:
		return sallyport.Public
	case "ip", "date":
		return sallyport.Internal
	case "secret", "card", "iban", "national-id", "wallet":
		return sallyport.Restricted
	default:
		return sallyport.Confidential
	}
}

// Rules are what becomes of what goes one way.
type Rules struct {
	// Classes is by class; one that is not there has [sallyport.GuardLabel].
	Classes map[string]sallyport.GuardAction
	// Declared are classes that people declared, or [Keep], by JSON pointer with * and
	// **. They win over what is found.
	Declared map[string]string
	// Depth, Members and String bound a value, as those of [sallyport.Guard] do.
	Depth, Members, String int
	// Tools are names that content has no reason to speak of.
	Tools []string
}

func (r *Rules) action(class string) sallyport.GuardAction {
	if a, ok := r.Classes[class]; ok {
		if a < sallyport.GuardPass || a > sallyport.GuardDeny {
			return sallyport.GuardDeny
		}
		return a
	}
	return sallyport.GuardLabel
}

// Guard does what rules say, for one data domain. It may be used by many at once.
type Guard struct {
	rules   Rules
	scrub   *scrub.Scrubber
	scanner *detect.Scanner
	hidden  sallyport.GuardAction
	signs   *signs
}

// New makes a guard for the data domain whose pseudonyms a key makes.
func New(key [32]byte, r *Rules) (*Guard, error) {
	s := scrub.Rules{Pointers: map[string]scrub.Rule{}, Classes: map[string]scrub.Action{}}
	known := Classes()
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		if !slices.Contains(known, class) {
			return nil, fmt.Errorf("guard: there is no class %q: write one of %s", class, strings.Join(known, ", "))
		}
	}
	for _, class := range known {
		if class == Hidden {
			continue
		}
		if a := scrubbing(r.action(class)); a == scrub.Keep {
			s.Kept = append(s.Kept, class)
		} else {
			s.Classes[class] = a
		}
	}
	for _, at := range slices.Sorted(maps.Keys(r.Declared)) {
		class := r.Declared[at]
		switch {
		case class == Keep:
			s.Pointers[at] = scrub.Rule{Action: scrub.Keep}
		case class == Hidden || !slices.Contains(known, class):
			return nil, fmt.Errorf("guard: %s is declared to be %q, which is no class of a field", at, class)
		default:
			s.Pointers[at] = scrub.Rule{Class: class, Action: scrubbing(r.action(class))}
		}
	}
	scrubber, err := scrub.New(key, &s)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return &Guard{rules: *r, scrub: scrubber, scanner: detect.New(), hidden: r.action(Hidden), signs: newSigns(r.Tools)}, nil
}

// scrubbing is what is done to a value: what is denied stays until it is counted.
func scrubbing(a sallyport.GuardAction) scrub.Action {
	switch a {
	case sallyport.GuardPseudonymise:
		return scrub.Pseudonymise
	case sallyport.GuardRedact:
		return scrub.Redact
	default:
		return scrub.Keep
	}
}

// Finding is what was found in one place. It holds no value.
type Finding struct {
	Pointer string // JSON pointer; * stands for indices and for names that may be somebody's
	Class   string
	Action  sallyport.GuardAction
	Count   int64
}

// String is the finding as a record has it.
func (f Finding) String() string {
	return fmt.Sprintf("%s %s %s %d", f.Pointer, f.Class, f.Action, f.Count)
}

// Masked is a value that a pseudonym was put in the place of.
type Masked struct {
	Class, Original, Pseudonym string
}

// Verdict is what a guard says of one value.
type Verdict struct {
	// Doc is what may go on: the value itself, the same bytes, where no rule fired.
	Doc []byte
	// Findings are in the order of their places. What has the action pass is not among
	// them, and what is a pseudonym already is not either.
	Findings []Finding
	Masked   []Masked // each pseudonym once
	// Refusal says why nothing may go on; nil if something may.
	Refusal *sallyport.Refusal
	// Class is how far what goes on may travel, by the classes that are in it.
	Class sallyport.Confidentiality
	// Suspected says that something in it looks like an instruction to a model.
	Suspected bool
}

// Changed reports whether the value goes on as another.
func (v *Verdict) Changed(doc []byte) bool { return !bytes.Equal(v.Doc, doc) }

// Classes are those of the findings, sorted.
func (v *Verdict) Classes() []string {
	var all []string
	for i := range v.Findings {
		all = append(all, v.Findings[i].Class)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// maxMasked bounds how many values of one document are returned for turning back.
const maxMasked = 10_000

// Check looks at one JSON value.
func (g *Guard) Check(doc []byte) *Verdict {
	v := &Verdict{Doc: doc, Class: sallyport.Public}
	if over := g.shape(doc); over != "" {
		v.Refusal = refuse("it has "+over, "size", "", "ask for less, or send less")
		return v
	}
	found, err := g.look(doc)
	if err != nil {
		return g.unread(v)
	}
	v.Suspected = found.signs.suspected()
	if n := found.hidden; n > 0 {
		// What is written with characters in between that nobody sees is found without
		// them; if there is anything to be done about it they have to go.
		bare, _, err := g.bare(doc, 0)
		if err != nil {
			return g.unread(v)
		}
		without, err := g.look(bare)
		if err != nil {
			return g.unread(v)
		}
		action := g.hidden
		v.Suspected = v.Suspected || without.signs.suspected()
		if action < sallyport.GuardRedact {
			after, _, err := g.bare(found.doc, 0)
			if err != nil {
				return g.unread(v)
			}
			if g.acts(without) > g.acts(found) || !bytes.Equal(after, without.doc) {
				action = sallyport.GuardRedact
			}
		}
		if action == sallyport.GuardRedact {
			found = without
		}
		if action != sallyport.GuardPass {
			v.Findings = append(v.Findings, Finding{"", Hidden, action, int64(n)})
		}
	}
	v.Doc, v.Masked = found.doc, found.masked
	for _, c := range found.tally.Counts() {
		f := Finding{c.Place, ClassOf(c.Class), 0, c.N}
		switch c.Done {
		case scrub.Pseudonymise.String():
			f.Action = sallyport.GuardPseudonymise
		case scrub.Redact.String():
			f.Action = sallyport.GuardRedact
		case scrub.Keep.String():
			if f.Class == declared {
				continue
			}
			f.Action = g.rules.action(f.Class)
		default:
			continue // a pseudonym already
		}
		if f.Action == sallyport.GuardPass {
			continue
		}
		if f.Action == sallyport.GuardLabel {
			v.Class = max(v.Class, Confidentiality(f.Class))
		}
		v.Findings = append(v.Findings, f)
	}
	v.deny()
	return v
}

// declared is what scrub calls the class of a place that is kept.
const declared = "declared"

// ClassOf is the class of a kind, and of a class itself.
func ClassOf(name string) string {
	if kind, ok := ident.ParseKind(name); ok {
		return kind.Class()
	}
	return name
}

// deny refuses what holds something that may not go on. A refusal names at most so many
// places.
func (v *Verdict) deny() {
	const most = 8
	var where []string
	first := -1
	for i, f := range v.Findings {
		if f.Action != sallyport.GuardDeny {
			continue
		}
		if first < 0 {
			first = i
		}
		if len(where) < most {
			where = append(where, f.Class+" at "+place(f.Pointer))
		}
	}
	if first < 0 {
		return
	}
	v.Doc, v.Masked = nil, nil
	v.Refusal = refuse("it holds "+strings.Join(where, ", "), v.Findings[first].Class, v.Findings[first].Pointer, "leave it out, or do without")
}

func place(pointer string) string {
	if pointer == "" {
		return "the top"
	}
	return pointer
}

func refuse(why, class, pointer, hint string) *sallyport.Refusal {
	r := sallyport.Refuse(sallyport.ContentDenied, why+", which may not pass here", hint)
	r.Detail = map[string]any{"class": class, "pointer": pointer}
	return r
}

// unread is the verdict on what cannot be read: where something would be done about
// content, nothing goes on.
func (g *Guard) unread(v *Verdict) *Verdict {
	v.Class, v.Suspected = sallyport.Restricted, true
	if slices.ContainsFunc(Classes(), func(c string) bool { return g.rules.action(c) > sallyport.GuardLabel }) {
		v.Doc = nil
		v.Refusal = refuse("it cannot be read", "unreadable", "", "leave it out, or do without")
	}
	return v
}

// looked is what one look at a document found.
type looked struct {
	doc    []byte
	tally  scrub.Tally
	masked []Masked
	hidden int
	signs  score
}

func (g *Guard) look(doc []byte) (*looked, error) {
	f := &looked{}
	seen := map[string]bool{}
	f.tally.Seen = func(kind ident.Kind, original, became []byte) {
		if kind == 0 || string(became) == "["+kind.String()+"]" || string(became) == "["+kind.Class()+"]" || seen[string(became)] || len(f.masked) >= maxMasked {
			return
		}
		if g.rules.action(kind.Class()) != sallyport.GuardPseudonymise {
			return
		}
		m := Masked{kind.Class(), string(original), string(became)}
		seen[m.Pseudonym] = true
		f.masked = append(f.masked, m)
	}
	f.tally.Look = func(l *detect.Leaf) {
		if l.Type != '"' && !l.IsName {
			return
		}
		f.hidden += g.unseen(l.Text, 0)
		g.signs.read(&f.signs, l.Text)
	}
	var err error
	f.doc, err = g.scrub.JSON(make([]byte, 0, len(doc)), doc, &f.tally)
	if err == nil && bytes.Equal(f.doc, doc) {
		f.doc = doc
	}
	return f, err
}

// acts counts what something has to be done about.
func (g *Guard) acts(f *looked) (n int64) {
	for _, c := range f.tally.Counts() {
		if c.Done == scrub.Keep.String() && g.rules.action(ClassOf(c.Class)) != sallyport.GuardDeny || c.Class == declared {
			continue
		}
		if c.Done != "already" {
			n += c.N
		}
	}
	return n
}

// shape says in which way a value is larger than it may be, "" if in none. It counts
// what a document would have if it is one; whether it is, others say.
func (g *Guard) shape(doc []byte) string {
	r := &g.rules
	if r.Depth == 0 && r.Members == 0 && r.String == 0 {
		return ""
	}
	depth, deepest, members, longest := 0, 0, 0, 0
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
			for i+1 < len(doc) && (doc[i+1] == ' ' || doc[i+1] == '\n' || doc[i+1] == '\r' || doc[i+1] == '\t') {
				i++
			}
			if i+1 < len(doc) && doc[i+1] != '}' && doc[i+1] != ']' {
				members++
			}
		case '}', ']':
			depth--
		case ',':
			members++
		case '"':
			start := i + 1
			for i++; i < len(doc) && doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
			longest = max(longest, min(i, len(doc))-start)
		}
	}
	for _, l := range []struct {
		is, most int
		of       string
	}{{deepest, r.Depth, "levels"}, {members, r.Members, "members"}, {longest, r.String, "bytes in one text"}} {
		if l.most > 0 && l.is > l.most {
			return "more than " + strconv.Itoa(l.most) + " " + l.of
		}
	}
	return ""
}
