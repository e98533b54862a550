package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"sallyport"
)

// This file is what is asked of policies by those who change them: would a test notice
// if this one were missing, and does any call depend on it?

// Listed is one policy of a set.
type Listed struct {
	Policy string `json:"policy"`
	Effect string `json:"effect"`
	Path   string `json:"path"`
	Line   int    `json:"line"`
	// Mode is "log" for a policy that is only tried out, and "approval" for one that
	// people may lift.
	Mode  string `json:"mode,omitempty"`
	Stage bool   `json:"stage,omitempty"` // of a stage, not of a release
}

// List is the policies of the set, in the order of the sources.
func (s *Set) List() []Listed {
	out := make([]Listed, s.count)
	for i, p := range s.policies[:s.count] {
		out[i] = Listed{Policy: p.id, Effect: p.effect(), Path: p.source.Path, Mode: p.mode(), Stage: p.source.Stage}
		out[i].Line, _, _ = lineOf(p.source.Text, p.at.mark)
	}
	return out
}

// Mutation is a change of one policy that a test should notice.
type Mutation string

// The mutations.
const (
	Dropped Mutation = "dropped"
	Flipped Mutation = "flipped" // permit for forbid, forbid for permit
)

// Mutant is the source of a policy with that policy dropped, or flipped and good for no
// approval. There is none of a policy that decides nothing (@mode), and none that permits
// where a source may only forbid.
func (s *Set) Mutant(id string, m Mutation) (Source, bool) {
	p := s.byID[cedar.PolicyID(id)]
	if p == nil || p.logged || m == Flipped && p.source.Stage {
		return Source{}, false
	}
	text := []byte(p.source.Text)
	blank := func(at, end int) { // so that every other policy stays on its line
		for i := at; i < end; i++ {
			if text[i] != '\n' {
				text[i] = ' '
			}
		}
	}
	switch m {
	case Dropped:
		blank(p.at.at, p.at.end)
	case Flipped:
		copy(text[p.at.mark:], map[bool]string{true: "permit", false: "forbid"}[p.forbid])
		for _, name := range []string{"on_deny", "approver_role", "quorum", "expires", "escalate"} {
			a := p.at.annotations[name]
			blank(a.at, a.end)
		}
	default:
		return Source{}, false
	}
	return Source{Path: p.source.Path, Text: string(text), Stage: p.source.Stage}, true
}

// Weight is what one policy that held for a call had to do with its decision.
type Weight struct {
	Policy string
	Forbid bool
	// Decides is that without it the call would have ended in another way.
	Decides bool
}

// Weigh decides a call as Decide does, and weighs the policies whose scope and conditions
// it met. Those that are only tried out are not among them.
func (s *Set) Weigh(q *Query) (sallyport.Decision, []Weight) {
	r := requests.Get().(*request)
	defer r.release()
	d := r.decide(s, q)
	if !r.built || len(r.facts.Inexact) > 0 {
		return d, nil
	}
	var weights []Weight
	whole := r.scope
	for i, p := range whole.policies {
		if p.logged || !r.met(p) {
			continue
		}
		r.scope = &scope{
			ids: slices.Delete(slices.Clone(whole.ids), i, i+1), policies: slices.Delete(slices.Clone(whole.policies), i, i+1),
			context: whole.context, args: whole.args, now: whole.now, manners: whole.manners,
		}
		but := r.judge()
		r.scope = whole
		weights = append(weights, Weight{p.id, p.forbid, Verb(&but) != Verb(&d)})
	}
	return d, weights
}

// met reports whether all conditions of a policy hold.
func (r *request) met(p *policy) bool {
	env := r.env()
	for _, c := range p.conditions {
		if holds, err := isTrue(c.body, &env); err != nil || holds != c.when {
			return false
		}
	}
	return true
}

// Because is the policies of a decision in a few words that are the same for every call
// that ended alike: what decided it, or that nothing permitted it.
func Because(d *sallyport.Decision) string {
	if len(d.Errors) > 0 {
		return "an error: " + d.Errors[0]
	}
	ids := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		ids[i] = r.Effect + " " + r.Policy
	}
	if len(ids) == 0 {
		return "nothing permits it"
	}
	slices.Sort(ids)
	return strings.Join(ids, ", ")
}
