// Package draft writes the first version of a world from what is known of an upstream:
// the definitions of its tools and what was recorded of them. It does no I/O.
//
//	d, err := draft.New(draft.Input{World: "memory", Tools: tools, Sessions: sessions}, trial)
//	d.Text        // worlds/memory.yaml, with comments
//	d.Files       // under worlds/data
//	d.Findings    // what was concluded, how surely, and why
//
// Everything in a draft is a guess with a confidence from 0 to 1 and its reasons. What
// is below the threshold is written commented out.
//
// Guesses come from four places. A schema says what a row is made of. The name of a
// tool says what it may do, and so do its annotations; neither is believed alone, and a
// name never makes a tool less dangerous than its annotations say (see [Reads]). What
// tells them apart are recordings: for each tool there are several rules that would
// fit its name and schemas, and each is tried by replaying what was recorded (a
// [Trial]). The one that agrees best is taken, and how often it agreed is what its
// confidence becomes. Answers in words are learned in the same way: the parts of a text
// that are arguments of the call are put in, the others stay.
//
// Rows that a recording read before anything had made them are the rows a run begins
// with.
package draft

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"sallyport"
)

// Threshold is the confidence from which on a guess is written to take effect.
const Threshold = 0.8

// Input is what is known.
type Input struct {
	World    string
	Upstream sallyport.UpstreamID
	Tools    []sallyport.Tool
	Sessions []Session
	// Threshold is used instead of the constant if it is not zero.
	Threshold float64
	// Cassettes are the names of the recordings under worlds/cassettes: they answer what
	// no rule does. Only those that are listed are named in the world.
	Cassettes []string
}

// Session is one recording: calls in their order, against a system that nobody else
// changed in the meantime.
type Session struct {
	Name  string
	Calls []Call
}

// Call is one recorded call.
type Call struct {
	Tool    string
	Args    []byte // an object
	Result  []byte // of the tools/call; nil where there was a JSON-RPC error
	IsError bool
}

// Trial replays all sessions, in their order, against a definition (JSON as package
// twin reads it) with its files, and says how each call of each session agreed: one
// Verdict for each. An error says that the definition cannot be compiled.
type Trial func(definition []byte, files map[string][]byte) ([][]Verdict, error)

// Verdict is how one replayed call agreed with the recorded one.
type Verdict struct {
	Known  bool // there is a rule for the tool, and it was not at fault
	Status bool
	Shape  bool
	Value  float64 // share of the leaves that agree
	Same   bool
}

// score puts a verdict on a scale of 0 to 1.
func (v Verdict) score() float64 {
	switch {
	case !v.Known:
		return 0
	case v.Same:
		return 1
	case !v.Status:
		return 0.05
	case !v.Shape:
		return 0.1 + 0.3*v.Value
	default:
		return 0.2 + 0.6*v.Value
	}
}

// Draft is what came of it.
type Draft struct {
	Text     []byte
	Files    map[string][]byte
	Findings []Finding
}

// Finding is one guess.
type Finding struct {
	Kind       string   `json:"kind"` // table, key, field, reference, enum, unique, ordered, seed, tool
	Subject    string   `json:"subject"`
	Says       string   `json:"says"`
	Confidence float64  `json:"confidence"`
	Reasons    []string `json:"reasons"`
	Kept       bool     `json:"kept"` // it takes effect
	// Agreed of Calls recorded calls of a tool were answered as recorded.
	Agreed int `json:"agreed,omitempty"`
	Calls  int `json:"calls,omitempty"`
	Lines  int `json:"lines,omitempty"` // that were written for it, without comments
}

// why collects the reasons of a guess.
type why struct {
	p       float64
	reasons []string
}

func (w *why) say(format string, args ...any) {
	w.reasons = append(w.reasons, fmt.Sprintf(format, args...))
}

// raise moves the confidence a share of the way to 1, lower to 0.
func (w *why) raise(share float64, format string, args ...any) {
	w.p += (1 - w.p) * share
	w.say(format, args...)
}

func (w *why) lower(share float64, format string, args ...any) {
	w.p *= 1 - share
	w.say(format, args...)
}

func (w *why) clone() why { return why{w.p, slices.Clone(w.reasons)} }

// drafter is the state of one draft.
type drafter struct {
	in     Input
	trial  Trial
	tools  []*tool
	tables []*table
	budget int // trials left
}

// mostTrials bounds how often the recordings are replayed.
const mostTrials = 600

// New drafts a world. Trial is nil if there are no recordings.
func New(in Input, trial Trial) (*Draft, error) {
	if in.Threshold == 0 {
		in.Threshold = Threshold
	}
	if !(in.Threshold > 0 && in.Threshold <= 1) {
		return nil, fmt.Errorf("the threshold is %v: a number above 0, and 1 at most", in.Threshold)
	}
	d := &drafter{in: in, trial: trial, budget: mostTrials}
	for i := range in.Tools {
		t, err := readTool(&in.Tools[i])
		if err != nil {
			return nil, fmt.Errorf("tool %s: %w", in.Tools[i].UpstreamName, err)
		}
		d.tools = append(d.tools, t)
	}
	if err := d.readSessions(); err != nil {
		return nil, err
	}
	d.findTables()
	d.findKeys()
	d.findReferences()
	for _, t := range d.tools {
		t.rules = d.rulesOf(t)
	}
	d.findSeeds()
	if trial != nil && len(in.Sessions) > 0 {
		d.choose()
	}
	return d.write()
}

func (d *drafter) readSessions() error {
	for si, s := range d.in.Sessions {
		for ci, c := range s.Calls {
			at := slices.IndexFunc(d.tools, func(t *tool) bool { return t.name == c.Tool })
			if at < 0 {
				continue // a tool that the upstream has no more
			}
			r, err := readCall(&c)
			if err != nil {
				return fmt.Errorf("%s, call %d: %w", s.Name, ci+1, err)
			}
			r.session, r.number = si, ci
			d.tools[at].calls = append(d.tools[at].calls, r)
		}
	}
	for _, t := range d.tools {
		t.learn()
	}
	return nil
}

// choose tries the alternatives of every tool and table, one after the other and twice
// over, and keeps what agrees best with the recordings.
func (d *drafter) choose() {
	best := d.try()
	for range 2 {
		before := best
		for _, t := range d.tools {
			// With no recorded call of its own a tool's rule cannot be told from another.
			if len(t.calls) == 0 {
				continue
			}
			best = d.among(best, len(t.rules), &t.chosen)
		}
		for _, t := range d.tables {
			for i := range t.refs {
				best = d.among(best, len(deletes), &t.refs[i].onDelete)
			}
		}
		if best <= before {
			break
		}
	}
	verdicts := d.replay()
	// Changes first: what reads show may be wrong because of them alone.
	for _, reads := range []bool{false, true} {
		blurred := d.blurred()
		for _, t := range d.tools {
			if len(t.rules) > 0 && len(t.calls) > 0 && t.looks() == reads {
				d.judge(t, verdicts, blurred)
			}
		}
	}
	d.judgeReferences(best)
}

// among sets a choice to the alternative that agrees best; of equal ones the first.
func (d *drafter) among(best float64, n int, choice *int) float64 {
	was := *choice
	kept := was
	for i := range n {
		if i == was || d.budget == 0 {
			continue
		}
		*choice = i
		if score := d.try(); score > best+1e-9 {
			best, kept = score, i
		}
	}
	*choice = kept
	return best
}

// try is how well the draft agrees with the recordings as it is now.
func (d *drafter) try() float64 {
	total := 0.0
	for _, s := range d.replay() {
		for _, v := range s {
			total += v.score()
		}
	}
	return total
}

// replay gives nothing where the definition cannot be compiled.
func (d *drafter) replay() [][]Verdict {
	if d.budget == 0 {
		return nil
	}
	d.budget--
	definition, files, err := d.definition()
	if err != nil {
		return nil
	}
	verdicts, err := d.trial(definition, files)
	if err != nil {
		return nil
	}
	return verdicts
}

// looks reports whether a tool is taken for one that changes nothing.
func (t *tool) looks() bool { return t.reads || t.verb == list || t.verb == get }

// blurred is where each session has the first successful change that no rule makes: a
// read behind it may differ through no fault of its own rule.
func (d *drafter) blurred() []int {
	first := make([]int, len(d.in.Sessions))
	for i := range first {
		first[i] = len(d.in.Sessions[i].Calls)
	}
	for _, t := range d.tools {
		if t.looks() || len(t.rules) > 0 && t.rules[t.chosen].why.p >= d.in.Threshold {
			continue
		}
		for _, c := range t.calls {
			if !c.isError {
				first[c.session] = min(first[c.session], c.number)
			}
		}
	}
	return first
}

// judge makes what was replayed the confidence of a tool's rule.
func (d *drafter) judge(t *tool, verdicts [][]Verdict, blurred []int) {
	r := &t.rules[t.chosen]
	if verdicts == nil {
		r.why.lower(0.5, "it cannot be replayed")
		return
	}
	n, agreed, score, behind := 0, 0, 0.0, 0
	for _, c := range t.calls {
		v := verdicts[c.session][c.number]
		if v.Same {
			t.agreed++
		}
		if t.looks() && c.number > blurred[c.session] && !v.Same {
			behind++
			continue
		}
		n++
		score += v.score()
		if v.Same {
			agreed++
		}
	}
	if behind > 0 {
		r.why.say("%d of its recorded calls are behind a change that no rule makes", behind)
	}
	switch {
	case n == 0:
	case agreed == n && n == 1:
		r.why.raise(0.5, "the one recorded call agrees")
	case agreed == n:
		r.why.raise(1-math.Pow(0.5, float64(n)), "all %d recorded calls agree", n)
	default:
		r.why.say("%d of %d recorded calls agree", agreed, n)
		r.why.p = min(r.why.p, 0.75*score/float64(n))
	}
	r.why.p = min(r.why.p, 0.99)
}

// judgeReferences looks whether the recordings tell what becomes of rows whose
// reference goes.
func (d *drafter) judgeReferences(best float64) {
	for _, t := range d.tables {
		for i := range t.refs {
			ref := &t.refs[i]
			kept := ref.onDelete
			if kept == 0 { // nothing needs the reference to hold
				ref.why.p = min(ref.why.p, 0.6)
				ref.why.say("the recordings do not need it to be enforced")
				continue
			}
			ref.onDelete = 0
			without := d.try()
			ref.onDelete = kept
			if without < best {
				ref.why.raise(0.7, "without %s on_delete the recordings agree less", deletes[kept])
			}
		}
	}
}

func joinReasons(reasons []string) string {
	var once []string
	for _, r := range reasons {
		if !slices.Contains(once, r) {
			once = append(once, r)
		}
	}
	return strings.Join(once, "; ")
}

// sortFindings puts findings in the order of the file, the surest first.
func sortFindings(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Confidence, a.Confidence), cmp.Compare(a.Subject, b.Subject))
	})
}
