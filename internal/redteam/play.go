package redteam

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Strength is how hard an attacker tries.
type Strength string

// The strengths.
const (
	Verbatim   Strength = "verbatim"   // the value stands in what the agent reads, and is used so
	Obfuscated Strength = "obfuscated" // it is disguised where it is read, and respelled where it is used
	Split      Strength = "split"      // it is read in two halves
	ByField    Strength = "endorsed"   // the attacker can write to an endorsed field
)

// Strengths are all of them.
var Strengths = []Strength{Verbatim, Obfuscated, Split, ByField}

// Target is what is attacked: an installation, and what stands behind it.
type Target interface {
	// Begin opens a run.
	Begin(task string) (Run, error)
	// Answer says what the calls that arrive from now on are answered.
	Answer(text string)
	// Arrived are the arguments of all calls that have arrived so far, and whose they are.
	Arrived() []Arrival
	// Approve has a person approve the call that was held last, if there is one.
	Approve() error
}

// Arrival is a call that reached an upstream.
type Arrival struct{ Tool, Args string }

// Run is one run of the agent.
type Run interface {
	// Call makes a call and returns what the agent is answered. With attached it comes
	// back with the approval of the call that was held last.
	Call(tool string, args json.RawMessage, attached bool) (string, error)
	// Request makes a request to Sallyport itself with the run's credential, and returns
	// the status and what is answered.
	Request(method, path, body string) (status int, answer string, err error)
}

// Result is what came of one case in one strength.
type Result struct {
	Case     string
	Strength Strength
	// Breach says what got through; empty if nothing did.
	Breach string
}

// In are the strengths in which a case is tried.
func (c *Case) In() []Strength {
	return slices.DeleteFunc(slices.Clone(Strengths), func(s Strength) bool {
		return len(c.Only) > 0 && !slices.Contains(c.Only, s) || s == ByField && c.Endorsed == nil
	})
}

// Play tries a case in one strength.
func Play(t Target, c *Case, strength Strength) (Result, error) {
	r := Result{Case: c.ID, Strength: strength}
	run, err := t.Begin(c.Task)
	if err != nil {
		return r, fmt.Errorf("case %s: %w", c.ID, err)
	}
	p := player{t: t, c: c, strength: strength, run: run, before: len(t.Arrived())}
	if strength == ByField {
		if err := p.call(c.Endorsed, c.Value, 1); err != nil {
			return r, fmt.Errorf("case %s, endorsed: %w", c.ID, err)
		}
	}
	for i := range c.Steps {
		for n := range max(c.Steps[i].Times, 1) {
			if err := p.step(&c.Steps[i], n+1); err != nil {
				return r, fmt.Errorf("case %s, step %d: %w", c.ID, i+1, err)
			}
		}
	}
	r.Breach = p.judge()
	return r, nil
}

type player struct {
	t        Target
	c        *Case
	strength Strength
	run      Run
	before   int // arrivals before the case
	landed   int // attacks that arrived, or were served
	what     string
	answers  []string
}

func (p *player) step(s *Step, n int) (err error) {
	switch {
	case s.Run:
		p.run, err = p.t.Begin(p.c.Task)
		return err
	case s.Approve:
		return p.t.Approve()
	case s.Request != "":
		method, path, _ := strings.Cut(s.Request, " ")
		status, answer, err := p.run.Request(method, path, strings.ReplaceAll(s.Body, "{{value}}", p.c.Value))
		p.answers = append(p.answers, answer)
		if status < 300 {
			p.landed++
			p.what = fmt.Sprintf("%s: %d", s.Request, status)
		}
		return err
	case s.Call != "":
		for _, value := range brought(p.c.Value, p.strength) {
			if err := p.call(s, value, n); err != nil {
				return err
			}
			if !strings.Contains(s.Answers, "{{value}}") {
				break // nothing of it comes in here
			}
		}
		return nil
	}
	for _, value := range used(p.c.Value, p.strength) {
		args, err := s.arguments(value, n)
		if err != nil {
			return err
		}
		was := len(p.t.Arrived())
		answer, err := p.run.Call(s.Attack, args, s.Attached)
		if err != nil {
			return err
		}
		p.answers = append(p.answers, answer)
		if came := p.t.Arrived()[was:]; len(came) > 0 {
			p.landed += len(came)
			p.what = came[0].Tool + " " + came[0].Args
			return nil
		}
	}
	return nil
}

// call makes an honest call that brings in a value.
func (p *player) call(s *Step, value string, n int) error {
	args, err := s.arguments(value, n)
	if err != nil {
		return err
	}
	p.t.Answer(strings.ReplaceAll(s.Answers, "{{value}}", value))
	answer, err := p.run.Call(s.Call, args, false)
	p.answers = append(p.answers, answer)
	p.t.Answer("done")
	return err
}

func (p *player) judge() string {
	holds := func(s string) bool {
		for _, v := range used(p.c.Value, p.strength) {
			if q, _ := json.Marshal(v); strings.Contains(s, v) || strings.Contains(s, strings.Trim(string(q), `"`)) {
				return true
			}
		}
		return false
	}
	switch p.c.Oracle {
	case NotForwarded:
		if p.landed > 0 {
			return p.what
		}
	case AtMost:
		if p.landed < p.c.Least {
			return fmt.Sprintf("%d arrived, and %d have to: the case does not try what it says", p.landed, p.c.Least)
		}
		if p.landed > p.c.Most {
			return fmt.Sprintf("%d arrived, at most %d may: %s", p.landed, p.c.Most, p.what)
		}
	case Absent:
		for _, a := range p.t.Arrived()[p.before:] {
			if holds(a.Args) {
				return a.Tool + " " + a.Args
			}
		}
	case Unseen:
		if i := slices.IndexFunc(p.answers, holds); i >= 0 {
			return "the agent read " + p.answers[i]
		}
	}
	return ""
}

// brought is how a value stands in what the agent reads, one result after the other.
func brought(value string, s Strength) []string {
	runes := []rune(value)
	switch {
	case len(runes) < 4:
		return []string{value}
	case s == Obfuscated:
		var b strings.Builder
		for _, r := range runes {
			b.WriteRune(r)
			b.WriteRune('\u200b')
		}
		return []string{b.String()}
	case s == Split:
		return []string{string(runes[:len(runes)/2]), string(runes[len(runes)/2:])}
	}
	return []string{value}
}

// used is how a value is written where it is used. An obfuscating attacker tries one
// spelling after the other until one arrives.
func used(value string, s Strength) []string {
	if s != Obfuscated || value == "" {
		return []string{value}
	}
	half := len(value) / 2
	for half > 0 && value[half]&0xC0 == 0x80 {
		half-- // not within a character
	}
	wide := strings.Map(func(r rune) rune {
		if r > ' ' && r <= '~' {
			return r + 0xFEE0
		}
		return r
	}, value)
	look := strings.NewReplacer("a", "\u0430", "e", "\u0435", "o", "\u043e").Replace(value)
	return slices.Compact([]string{value, value[:half] + "\u200b" + value[half:], wide, strings.ToUpper(value), " " + value + "\u00a0", look})
}

// Table counts what was tried and held, by group and strength.
type Table struct {
	groups []string
	cells  map[string]map[Strength][2]int // tried, held
}

// Add counts a result.
func (t *Table) Add(group string, r Result) {
	if t.cells == nil {
		t.cells = map[string]map[Strength][2]int{}
	}
	if t.cells[group] == nil {
		t.cells[group] = map[Strength][2]int{}
		t.groups = append(t.groups, group)
	}
	cell := t.cells[group][r.Strength]
	cell[0]++
	if r.Breach == "" {
		cell[1]++
	}
	t.cells[group][r.Strength] = cell
}

// String is a line a group: held of tried in each strength.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-6s", "")
	for _, s := range Strengths {
		fmt.Fprintf(&b, "%12s", s)
	}
	for _, g := range t.groups {
		fmt.Fprintf(&b, "\n%-6s", g)
		for _, s := range Strengths {
			cell := t.cells[g][s]
			word := "-"
			if cell[0] > 0 {
				word = fmt.Sprintf("%d of %d", cell[1], cell[0])
			}
			fmt.Fprintf(&b, "%12s", word)
		}
	}
	return b.String()
}

// ErrNothingHeld is returned by Approve of a Target where no call waits.
var ErrNothingHeld = errors.New("no call waits for people")
