package policy

import (
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"sallyport"
)

// CouldAllow is the decision with the arguments of the call unknown, and so are
// the address of a resource and the name of a prompt where they are empty. It is
// false only if no arguments could make Decide allow the call; where it cannot
// tell it is true if some permit may apply and no forbid certainly does. What people may
// lift forbids nothing here.
func (s *Set) CouldAllow(q *Query) bool {
	r := requests.Get().(*request)
	defer r.release()
	if r.resolve(s, q) != "" {
		return false
	}
	u := unknowns{args: true}
	switch q.Kind {
	case sallyport.KindResource:
		u.uri = q.URI == ""
	case sallyport.KindPrompt:
		u.prompt = q.Tool == ""
	case sallyport.KindCompletion:
		u.uri, u.prompt = q.URI == "", q.Tool == ""
	case sallyport.KindTool, sallyport.KindSampling, sallyport.KindElicitation, sallyport.KindRoots:
	}
	r.buildKnown(u)
	// What reads nothing unknown is decided as always; the rest is looked into.
	d := r.authorize(known{r.scope, u})
	if len(d.Errors) > 0 {
		return false
	}
	for _, reason := range d.Reasons {
		if reason.Effect == "forbid" {
			return false
		}
	}
	could := d.Allow
	for _, p := range r.scope.policies {
		if p.lifted() || !u.in(&p.touch) || could && !p.forbid {
			continue
		}
		may, must := r.may(p, u)
		if p.forbid && must {
			return false
		}
		could = could || !p.forbid && may
	}
	return could
}

// unknowns are the parts of a context that are not known yet.
type unknowns struct{ args, uri, prompt bool }

// any reports whether any of them is among v.
func (u unknowns) any(v unknowns) bool {
	return u.args && v.args || u.uri && v.uri || u.prompt && v.prompt
}

// in reports whether t reads any of them.
func (u unknowns) in(t *touch) bool {
	return t.whole || u.args && t.ofArguments() || u.uri && t.members["uri"] != nil || u.prompt && t.members["prompt"] != nil
}

// known is the policies of a scope that are in force and read nothing unknown.
type known struct {
	*scope
	u unknowns
}

func (k known) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i, p := range k.policies {
			if !p.lifted() && !k.u.in(&p.touch) && !yield(k.ids[i], p.body) {
				return
			}
		}
	}
}

// buildKnown makes the context without what is not known.
func (r *request) buildKnown(u unknowns) {
	m := r.reader.fields()
	for name, p := range r.scope.context.members {
		if slices.Contains(ofCall, name) || u.uri && name == "uri" || u.prompt && name == "prompt" {
			continue
		}
		if v, ok := r.contextValue(p); ok {
			m[cedar.String(name)] = v
		}
	}
	r.context = r.reader.done(m)
}

func (r *request) env() eval.Env {
	return eval.Env{Entities: r, Principal: r.principal, Action: r.action.uid, Resource: r.resource, Context: r.context}
}

// outcomes are what an expression can turn out as, over all values of what is
// not known.
type outcomes struct{ yes, no, fails bool }

// may reports whether the conditions of a policy may hold, and whether they do
// whatever the unknown is.
func (r *request) may(p *policy, u unknowns) (may, must bool) {
	may, must = true, true
	env := r.env()
	for _, c := range p.conditions {
		o := outcome(c.body, &env, u)
		if !c.when {
			o.yes, o.no = o.no, o.yes
		}
		may = may && o.yes
		must = must && o.yes && !o.no && !o.fails
	}
	return may, must
}

func outcome(e *expr, env *eval.Env, u unknowns) outcomes {
	if !u.any(e.reads) {
		v, err := eval.Eval(e.IsNode, *env)
		b, ok := v.(cedar.Boolean)
		return outcomes{yes: bool(b), no: ok && !bool(b), fails: err != nil || !ok}
	}
	var k [3]outcomes
	switch e.IsNode.(type) {
	case ast.NodeTypeNot, ast.NodeTypeAnd, ast.NodeTypeOr, ast.NodeTypeIfThenElse:
		for i, kid := range e.kids {
			k[i] = outcome(kid, env, u)
		}
	}
	switch e.IsNode.(type) {
	case ast.NodeTypeNot:
		return outcomes{k[0].no, k[0].yes, k[0].fails}
	case ast.NodeTypeAnd:
		return outcomes{k[0].yes && k[1].yes, k[0].no || k[0].yes && k[1].no, k[0].fails || k[0].yes && k[1].fails}
	case ast.NodeTypeOr:
		return outcomes{k[0].yes || k[0].no && k[1].yes, k[0].no && k[1].no, k[0].fails || k[0].no && k[1].fails}
	case ast.NodeTypeIfThenElse:
		return outcomes{
			k[0].yes && k[1].yes || k[0].no && k[2].yes,
			k[0].yes && k[1].no || k[0].no && k[2].no,
			k[0].fails || k[0].yes && k[1].fails || k[0].no && k[2].fails,
		}
	}
	return outcomes{true, true, true}
}
