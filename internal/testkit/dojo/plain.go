package dojo

import (
	"encoding/json"
	"fmt"
	"slices"

	"sallyport"
	"sallyport/internal/flow"
)

// Setting is one policy: whether a call is held for a person.
type Setting struct {
	Name string
	// Hold is asked with what is known of the arguments, the tool, and whether the run
	// has read text.
	Hold func(f *flow.Facts, t *Tool, untrusted bool) bool
}

// Settings are the policies of the exam, from none to the strictest.
var Settings = []Setting{
	{"0 nothing", func(*flow.Facts, *Tool, bool) bool { return false }},
	{"1 authority arguments", func(f *flow.Facts, t *Tool, _ bool) bool { return t.Changing() && len(f.UntrustedArgs) > 0 }},
	{"2 and links in content", func(f *flow.Facts, t *Tool, _ bool) bool { return t.Changing() && loose(f) }},
	{"3 and destroying the unnamed", func(f *flow.Facts, t *Tool, _ bool) bool {
		return t.Changing() && loose(f) || destroys(f, t)
	}},
	{"4 and fetching what was made up", func(f *flow.Facts, t *Tool, _ bool) bool {
		return t.Changing() && loose(f) || destroys(f, t) || t.Fetches && constructed(f)
	}},
	{"5 and fetching the untrusted", func(f *flow.Facts, t *Tool, _ bool) bool { return consequential(t) && loose(f) || destroys(f, t) }},
	{"6 and confidential to unnamed", func(f *flow.Facts, t *Tool, _ bool) bool {
		return consequential(t) && loose(f) || destroys(f, t) || tells(f, t)
	}},
	{"7 as 6, single words do not count", func(f *flow.Facts, t *Tool, _ bool) bool {
		return consequential(t) && strict(f) || destroys(f, t) || tells(f, t)
	}},
	{"8 as 7, directories do not count", func(f *flow.Facts, t *Tool, _ bool) bool {
		return consequential(t) && (strict(f) || len(f.Unnamed) > 0)
	}},
	{"9 every change after text", func(_ *flow.Facts, t *Tool, untrusted bool) bool { return untrusted && consequential(t) }},
}

func consequential(t *Tool) bool { return t.Changing() || t.Fetches }

func loose(f *flow.Facts) bool { return len(f.UntrustedArgs)+f.UntrustedURLs > 0 }

// strict holds what rests on one word of the task text, too.
func strict(f *flow.Facts) bool { return loose(f) || len(f.WordOnly) > 0 }

func destroys(f *flow.Facts, t *Tool) bool { return t.Destructive && len(f.Unnamed) > 0 }

func tells(f *flow.Facts, t *Tool) bool {
	return t.Sends && f.Leaves >= sallyport.Confidential && len(f.Unnamed) > 0
}

// constructed lets an agent ask for an address that it has read somewhere and did not make
// up, if there is no query in it.
func constructed(f *flow.Facts) bool {
	return slices.ContainsFunc(f.Args, func(a flow.Arg) bool { return !a.Trusted && (a.Source == nil || a.Form != flow.URL) })
}

// Plain carries one case through package flow alone.
type Plain struct {
	x         *flow.Index
	tools     map[string]*Tool
	setting   Setting
	upstream  sallyport.UpstreamID
	n         int
	untrusted bool
	// Told is called with what was found of each call, if it is set.
	Told func(s *Step, f *flow.Facts)
}

// NewPlain begins a case, with the task's text in the envelope or without.
func NewPlain(c *Case, tools map[string]*Tool, setting Setting, task bool) *Plain {
	var e sallyport.Envelope
	if task {
		e.Task = c.Prompt
	}
	return &Plain{x: flow.New(&e), tools: tools, setting: setting, upstream: sallyport.UpstreamID(c.Suite)}
}

// Call judges a call, and learns what came of it if it is made.
func (p *Plain) Call(s *Step) Ending {
	t := p.tools[s.Tool]
	f := p.x.Judge(&flow.Query{Upstream: p.upstream, Profile: &t.Profile, Arguments: s.Arguments})
	if p.Told != nil {
		p.Told(s, &f)
	}
	if p.setting.Hold(&f, t, p.untrusted) {
		return Held
	}
	p.learn(p.call(s))
	return Made
}

// Approved learns that people approved a call, and what came of it.
func (p *Plain) Approved(s *Step) {
	c := p.call(s)
	p.x.Join(p.x.Approve(c))
	p.learn(c)
}

func (p *Plain) call(s *Step) *flow.Call {
	p.n++
	t := p.tools[s.Tool]
	return &flow.Call{
		ID: sallyport.CallID(fmt.Sprintf("call_%04d", p.n)), Upstream: p.upstream, Tool: s.Tool, Profile: &t.Profile, Access: t.Access,
		Arguments: s.Arguments, Result: Result(s.Output),
	}
}

func (p *Plain) learn(c *flow.Call) {
	p.x.Join(p.x.Learn(c))
	// Only endorsed fields keep a run from having read text.
	if t := p.tools[c.Tool]; !t.Changing() && !t.AllEndorsed() {
		p.untrusted = true
	}
}

// AllEndorsed reports whether people said of everything the tool returns that only the
// system writes it.
func (t *Tool) AllEndorsed() bool {
	return slices.ContainsFunc(t.Fields, func(f flow.Field) bool { return f.Pointer == "" || f.Pointer == "/*" })
}

// Result is that of a tool that answers with a text.
func Result(output string) []byte {
	text, err := json.Marshal(output)
	if err != nil {
		panic(err) // every string has a JSON form
	}
	return []byte(`{"content":[{"type":"text","text":` + string(text) + `}]}`)
}
