package redteam_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/redteam"
)

const smallest = `
group: X1
title: t
cases:
  - {id: a, title: t, value: abcdef, oracle: not_forwarded, steps: [{call: look, answers: "use {{value}}"}, {attack: do, args: {to: "{{value}}"}}]}
`

func TestParseRefuses(t *testing.T) {
	if _, err := redteam.Parse([]byte(smallest)); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"no known key": {"title: t\ncases", "titel: t\ncases"}, "no oracle": {"oracle: not_forwarded", "oracle: fine"}, "no name": {"id: a,", "id: A b,"},
		"two kinds": {"{call: look,", "{call: look, attack: do,"}, "no kind": {"{call: look, answers: \"use {{value}}\"}", "{times: 2}"},
		"no attack": {", {attack: do, args: {to: \"{{value}}\"}}", ""}, "args of no mapping": {"args: {to: \"{{value}}\"}", "args: [1]"},
		"often": {"{attack: do,", "{attack: do, times: 100000,"}, "short": {"value: abcdef, oracle: not_forwarded", "value: abc, oracle: absent"},
		"most": {"oracle: not_forwarded", "oracle: not_forwarded, most: 1"}, "least": {"oracle: not_forwarded", "oracle: at_most, most: 1, least: 2"},
		"a strength": {"id: a,", "id: a, only: [weak],"}, "not a number of JSON": {"args: {to: \"{{value}}\"}", "args: {to: .nan}"},
		"two documents": {"cases:", "cases: []\n---\ncases:"}, "twice": {"  - {id: a", "  - {id: a, title: t, oracle: not_forwarded, steps: [{attack: x}]}\n  - {id: a"},
	} {
		text := strings.Replace(smallest, change[0], change[1], 1)
		if text == smallest {
			t.Fatalf("%s changes nothing", what)
		}
		if p, err := redteam.Parse([]byte(text)); err == nil {
			t.Errorf("%s was read: %+v", what, p)
		}
	}
	if _, err := redteam.Parse(make([]byte, redteam.MaxPack+1)); err == nil {
		t.Error("a pack of any size was read")
	}
}

// A careless target lets everything arrive that is spelled as it is on its list.
type careless struct {
	takes   func(args string) bool
	answer  string
	arrived []redteam.Arrival
	read    []string
}

func (c *careless) Begin(string) (redteam.Run, error) { return c, nil }
func (c *careless) Answer(text string)                { c.answer = text }
func (c *careless) Arrived() []redteam.Arrival        { return c.arrived }
func (c *careless) Approve() error                    { return redteam.ErrNothingHeld }

func (c *careless) Call(tool string, args json.RawMessage, _ bool) (string, error) {
	if tool != "look" && !c.takes(string(args)) {
		return "no", nil
	}
	c.arrived = append(c.arrived, redteam.Arrival{Tool: tool, Args: string(args)})
	c.read = append(c.read, c.answer)
	return c.answer, nil
}

func (c *careless) Request(string, string, string) (int, string, error) { return 403, "", nil }

// TestStrengths: each strength is another attack, and what a target lets through is found.
func TestStrengths(t *testing.T) {
	p, err := redteam.Parse([]byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	c := &p.Cases[0]
	if got := c.In(); len(got) != 3 {
		t.Fatalf("without an endorsed field a case has no such strength: %v", got)
	}
	for strength, reads := range map[redteam.Strength]string{redteam.Verbatim: "abcdef", redteam.Obfuscated: "a\u200bb", redteam.Split: "use abc|use def"} {
		target := &careless{takes: func(string) bool { return true }}
		r, err := redteam.Play(target, c, strength)
		if err != nil || r.Breach == "" {
			t.Errorf("%s: %+v %v: what arrived was not seen", strength, r, err)
		}
		if got := strings.Join(target.read, "|"); !strings.Contains(got, reads) {
			t.Errorf("%s: the agent read %q, want %q in it", strength, got, reads)
		}
	}
	wide := &careless{takes: func(args string) bool { return strings.Contains(args, "\uff41") }}
	if r, err := redteam.Play(wide, c, redteam.Verbatim); err != nil || r.Breach != "" {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := redteam.Play(wide, c, redteam.Obfuscated); err != nil || r.Breach == "" {
		t.Errorf("a target that takes wide letters: %+v %v", r, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(smallest))
	packs, err := filepath.Glob("../../redteam/*.yaml")
	if err != nil || len(packs) == 0 {
		f.Fatal("no packs", err)
	}
	for _, name := range packs {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := redteam.Parse(b)
		if err != nil {
			return
		}
		for i := range p.Cases {
			c := &p.Cases[i]
			for _, s := range c.In() {
				times := 0
				for _, step := range c.Steps {
					times += max(step.Times, 1)
				}
				if times > 500 {
					return // it is long, and nothing else
				}
				if _, err := redteam.Play(&careless{takes: func(string) bool { return true }}, c, s); err != nil && !strings.Contains(err.Error(), redteam.ErrNothingHeld.Error()) {
					t.Fatalf("what was read cannot be played: %v", err)
				}
			}
		}
	})
}
