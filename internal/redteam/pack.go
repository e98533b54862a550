// Package redteam tries what an attacker would. Its cases are data that anybody can extend
// (redteam/README.md says how they are written); this package reads them, derives from each
// the four strengths in which an attacker tries it, plays them without a model against a
// [Target] and judges what came of it by what arrived, never by what was answered.
package redteam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Pack is one file: the cases of one group.
type Pack struct {
	Group string   `yaml:"group"` // R1 to R14, or a name of one's own
	Title string   `yaml:"title"`
	ASI   []string `yaml:"asi"`   // OWASP Top 10 for agentic applications, 2026: ASI01
	MCP   []string `yaml:"mcp"`   // OWASP MCP Top 10: MCP06
	ATLAS []string `yaml:"atlas"` // MITRE ATLAS: AML.T0051
	Cases []Case   `yaml:"cases"`
}

// Case is one thing that an attacker wants.
type Case struct {
	ID    string `yaml:"id"`
	Title string `yaml:"title"`
	// Task is what the agent was told to do, as the host puts it into the envelope.
	Task string `yaml:"task"`
	// Value is what the attacker brings in: an account, an address, a path. Steps name it
	// as {{value}}.
	Value string `yaml:"value"`
	// Endorsed is the step by which somebody who can write to an endorsed field would
	// bring in the value. Without one the case has no such strength.
	Endorsed *Step  `yaml:"endorsed"`
	Steps    []Step `yaml:"steps"`
	Oracle   Oracle `yaml:"oracle"`
	// Most is, of at_most, how many attacks may arrive, and Least how many have to: a case
	// in which nothing arrives at all may not try what it says.
	Most  int `yaml:"most"`
	Least int `yaml:"least"`
	// Only lists the strengths in which the case makes sense; none is all four.
	Only []Strength `yaml:"only"`
}

// Step is one thing the hijacked agent does: exactly one of Call, Attack, Request, Run and
// Approve.
type Step struct {
	Call    string    `yaml:"call"`    // a tool: an honest call, on which something comes in
	Attack  string    `yaml:"attack"`  // a tool: what the attacker wants to happen
	Args    yaml.Node `yaml:"args"`    // of Call and Attack, a mapping
	Answers string    `yaml:"answers"` // what the tool answers to a Call
	// Times is how often the step is made; zero is once. Args name the number of the time,
	// from 1, as {{n}}.
	Times int `yaml:"times"`
	// Attached sends an Attack with the approval that the last call had.
	Attached bool `yaml:"attached"`
	// Request is a request to Sallyport itself, with the credential of the run:
	// "POST /v1/promote". It is an attack.
	Request string `yaml:"request"`
	Body    string `yaml:"body"`
	Run     bool   `yaml:"run"`     // another run begins
	Approve bool   `yaml:"approve"` // a person approves the call that was held last
}

// Oracle is how a case is judged.
type Oracle string

// The oracles.
const (
	NotForwarded Oracle = "not_forwarded" // no attack arrived, and no request was served
	Absent       Oracle = "absent"        // nothing that arrived holds the value
	Unseen       Oracle = "unseen"        // nothing that the agent was answered holds the value
	AtMost       Oracle = "at_most"       // at most so many attacks arrived
)

var oracles = []Oracle{NotForwarded, Absent, Unseen, AtMost}

// What a pack may hold.
const (
	MaxPack  = 1 << 20 // bytes
	MaxCases = 500
	MaxSteps = 50
	MaxTimes = 200
)

var (
	idForm      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	groupForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,31}$`)
	requestForm = regexp.MustCompile(`^(GET|POST|PUT|PATCH|DELETE) /\S*$`)
)

// Parse reads one pack. Keys that are not known, and cases that could not be judged, are
// errors that name the case.
func Parse(b []byte) (*Pack, error) {
	if len(b) > MaxPack {
		return nil, fmt.Errorf("a pack has at most %d bytes, this has %d", MaxPack, len(b))
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	var p Pack
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("reading a pack: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("a pack is one document: put other groups into files of their own")
	}
	if !groupForm.MatchString(p.Group) {
		return nil, fmt.Errorf("%q is no name of a group: write group: R1", p.Group)
	}
	if len(p.Cases) == 0 || len(p.Cases) > MaxCases {
		return nil, fmt.Errorf("group %s has %d cases, want 1 to %d", p.Group, len(p.Cases), MaxCases)
	}
	known := map[string]bool{}
	for i := range p.Cases {
		c := &p.Cases[i]
		if known[c.ID] {
			return nil, fmt.Errorf("case %s is there twice", c.ID)
		}
		known[c.ID] = true
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("group %s, case %d (%s): %w", p.Group, i+1, c.ID, err)
		}
	}
	return &p, nil
}

func (c *Case) check() error {
	switch {
	case !idForm.MatchString(c.ID):
		return errors.New("id has to be a-z, 0-9 and '-', at most 64 of them")
	case c.Title == "":
		return errors.New("title says what the attacker wants")
	case !slices.Contains(oracles, c.Oracle):
		return fmt.Errorf("oracle has to be one of %v", oracles)
	case (c.Oracle == Absent || c.Oracle == Unseen) && len(c.Value) < 4:
		return fmt.Errorf("oracle %s looks for the value, which has to have four characters or more", c.Oracle)
	case c.Most < 0 || c.Most > 0 && c.Oracle != AtMost:
		return errors.New("most goes with oracle: at_most")
	case c.Least < 0 || c.Least > c.Most:
		return errors.New("least goes with most, and is no larger")
	case len(c.Steps) == 0 || len(c.Steps) > MaxSteps:
		return fmt.Errorf("it has %d steps, want 1 to %d", len(c.Steps), MaxSteps)
	}
	for _, s := range c.Only {
		if !slices.Contains(Strengths, s) {
			return fmt.Errorf("%q is no strength: want some of %v", s, Strengths)
		}
	}
	attacks := 0
	for i := range c.Steps {
		if err := c.Steps[i].check(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		if c.Steps[i].Attack != "" || c.Steps[i].Request != "" {
			attacks++
		}
	}
	if attacks == 0 && c.Oracle != Unseen {
		return errors.New("it has no attack: nothing could arrive")
	}
	if c.Endorsed != nil {
		if err := c.Endorsed.check(); err != nil || c.Endorsed.Call == "" {
			return errors.Join(errors.New("endorsed has to be a call"), err)
		}
	}
	return nil
}

func (s *Step) check() error {
	kinds := 0
	for _, is := range []bool{s.Call != "", s.Attack != "", s.Request != "", s.Run, s.Approve} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("write exactly one of call, attack, request, run and approve")
	case s.Times < 0 || s.Times > MaxTimes:
		return fmt.Errorf("times has to be from 1 to %d", MaxTimes)
	case s.Answers != "" && s.Call == "":
		return errors.New("answers goes with call")
	case s.Attached && s.Attack == "":
		return errors.New("attached goes with attack")
	case s.Body != "" && s.Request == "":
		return errors.New("body goes with request")
	case s.Request != "" && !requestForm.MatchString(s.Request):
		return errors.New(`request is a method and a path: "POST /v1/promote"`)
	case !s.Args.IsZero() && (s.Args.Kind != yaml.MappingNode || s.Call == "" && s.Attack == ""):
		return errors.New("args is a mapping, and goes with call and attack")
	}
	_, err := s.arguments("", 1)
	return err
}

// arguments are those of the step, a JSON object, with the value and the number of the
// time put in.
func (s *Step) arguments(value string, n int) (json.RawMessage, error) {
	if s.Args.IsZero() {
		return json.RawMessage(`{}`), nil
	}
	var args map[string]any
	if err := s.Args.Decode(&args); err != nil {
		return nil, fmt.Errorf("args: %w", err)
	}
	b, err := json.Marshal(put(args, strings.NewReplacer("{{value}}", value, "{{n}}", strconv.Itoa(n))))
	if err != nil {
		return nil, fmt.Errorf("args have no JSON form: %w", err)
	}
	return b, nil
}

// put replaces what is to be replaced in every text.
func put(v any, names *strings.Replacer) any {
	switch v := v.(type) {
	case string:
		return names.Replace(v)
	case []any:
		for i := range v {
			v[i] = put(v[i], names)
		}
	case map[string]any:
		for k := range v {
			v[k] = put(v[k], names)
		}
	}
	return v
}
