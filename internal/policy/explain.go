package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"sallyport"
)

// Explanation says how a decision came about and what would change it. It holds
// values of arguments: it is for people who may see the call.
type Explanation struct {
	Decision sallyport.Decision `json:"decision"`
	Facts    Facts              `json:"facts"`
	// Policies are those whose scope the call is in, in the order of the sources;
	// empty where something was wrong before any was evaluated.
	Policies []Verdict `json:"policies"`
	// Change says what would have to be otherwise for a denied call to be allowed.
	Change []Change `json:"change,omitempty"`
}

// Verdict is what one policy said of the call.
type Verdict struct {
	Policy string `json:"policy"`
	Effect string `json:"effect"`
	Path   string `json:"path"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	// State is "satisfied", "not satisfied" or "error".
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Mode is "log" for a policy that is only tried out, and "approval" for one that
	// people may lift.
	Mode string `json:"mode,omitempty"`
	// Clauses are the parts of its conditions, up to the first that does not hold.
	Clauses []Clause `json:"clauses,omitempty"`
}

// Clause is one part of a condition: what && joins, and of what || joins the
// alternative that held.
type Clause struct {
	// Word is "when" or "unless": a clause of unless holds if its text is false.
	Word  string `json:"word"`
	Text  string `json:"text"`
	Line  int    `json:"line"`
	Holds bool   `json:"holds"`
	Reads []Read `json:"reads,omitempty"`
	Error string `json:"error,omitempty"`
}

// Read is one value that a clause read, as Cedar writes it; "absent", or, where
// only that was asked, "present".
type Read struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Change is one way to another decision.
type Change struct {
	Text   string `json:"text"`
	Policy string `json:"policy,omitempty"`
	// Clauses are those it is about.
	Clauses []Clause `json:"clauses,omitempty"`
	// Paste is a policy that would permit the call, if none names it yet.
	Paste string `json:"paste,omitempty"`
}

// maxChanges bounds how many policies of one sort are offered for a change.
const maxChanges = 5

// Explain decides the call as Decide does and says why.
func (s *Set) Explain(q *Query) Explanation {
	r := requests.Get().(*request)
	defer r.release()
	x := Explanation{Decision: r.decide(s, q)}
	x.Facts = r.facts
	switch {
	case len(r.facts.Inexact) > 0:
		x.Change = r.exactly()
		return x
	case !r.built:
		for _, e := range x.Decision.Errors {
			x.Change = append(x.Change, Change{Text: "the call cannot be judged: " + e})
		}
		return x
	}
	for _, p := range r.scope.policies {
		x.Policies = append(x.Policies, r.verdict(p))
	}
	if !x.Decision.Allow {
		x.Change = r.changes(x.Policies)
	}
	return x
}

func (r *request) verdict(p *policy) Verdict {
	v := Verdict{Policy: p.id, Effect: p.effect(), Path: p.source.Path, State: "satisfied", Mode: p.mode()}
	v.Line, v.Column, _ = lineOf(p.source.Text, p.at.mark)
	for _, c := range p.conditions {
		for _, part := range parts(c) {
			cl := r.clause(p, part, c.when)
			v.Clauses = append(v.Clauses, cl)
			if cl.Error != "" {
				v.State, v.Error = "error", cl.Error
				return v
			}
			if !cl.Holds {
				v.State = "not satisfied"
				return v
			}
		}
	}
	return v
}

// parts splits a when at &&. An unless stays whole.
func parts(c condition) []*expr {
	if !c.when {
		return []*expr{c.body}
	}
	var out []*expr
	for e := c.body; ; e = e.kids[0] {
		if _, ok := e.IsNode.(ast.NodeTypeAnd); !ok {
			out = append(out, e)
			break
		}
		out = append(out, e.kids[1])
	}
	slices.Reverse(out)
	return out
}

func (r *request) clause(p *policy, e *expr, when bool) Clause {
	env := r.env()
	value, err := isTrue(e, &env)
	c := Clause{Word: "when", Holds: value == when}
	if !when {
		c.Word = "unless"
	}
	if err != nil {
		c.Error, c.Holds = err.Error(), false
	}
	// Of alternatives, the one that held is what matters.
	for err == nil && value {
		if _, ok := e.IsNode.(ast.NodeTypeOr); !ok {
			break
		}
		if left, err := isTrue(e.kids[0], &env); err == nil && left {
			e = e.kids[0]
		} else {
			e = e.kids[1]
		}
	}
	c.Line, _, _ = lineOf(p.source.Text, e.at)
	if e.end <= len(p.source.Text) {
		c.Text = strings.Join(strings.Fields(p.source.Text[e.at:e.end]), " ")
	}
	c.Reads = r.reads(e, &env)
	return c
}

func isTrue(e *expr, env *eval.Env) (bool, error) {
	v, err := eval.Eval(e.IsNode, *env)
	if err != nil {
		return false, err
	}
	b, ok := v.(cedar.Boolean)
	if !ok {
		return false, fmt.Errorf("the condition is %s", eval.TypeName(v))
	}
	return bool(b), nil
}

// reads are the values that an expression is made of.
func (r *request) reads(e *expr, env *eval.Env) []Read {
	var out []Read
	add := func(name string, n ast.IsNode, presence bool) {
		if slices.ContainsFunc(out, func(r Read) bool { return r.Name == name }) {
			return
		}
		text := "absent"
		if v, err := eval.Eval(n, *env); err == nil {
			text = string(v.MarshalCedar())
			if presence {
				text = "present"
			}
			if len(text) > 200 {
				text = strings.ToValidUTF8(text[:200], "") + "..."
			}
		}
		out = append(out, Read{name, text})
	}
	ast.Inspect(ast.NewNode(e.IsNode), func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeAccess:
			if k, ok := key(n); ok {
				add(k, n, false)
				return false
			}
		case ast.NodeTypeHas:
			whole := ast.NodeTypeAccess{StrOpNode: ast.StrOpNode{Arg: n.Arg, Value: n.Value}}
			if k, ok := key(whole); ok {
				add(k, whole, true)
				return false
			}
		case ast.NodeTypeVariable:
			if n.Name != "context" {
				add(string(n.Name), n, false)
			}
		}
		return true
	})
	return out
}

// exactly is what would have to change where policy cannot hold an argument.
func (r *request) exactly() []Change {
	var out []Change
	for _, i := range r.facts.Inexact {
		var readers []string
		path := strings.Split(i.Path, ".")
		for _, p := range r.scope.policies {
			if p.touch.reaches(path, r.action.context) {
				readers = append(readers, p.id)
			}
		}
		out = append(out, Change{Text: fmt.Sprintf("%s would have to be a value that policy can hold (%s); it is read by %s",
			i.Path, i.Why, strings.Join(readers, ", "))})
	}
	return out
}

// changes is what would have to be otherwise for the call to be allowed.
func (r *request) changes(verdicts []Verdict) []Change {
	var out []Change
	for _, v := range verdicts {
		switch {
		case v.Mode == "log":
		case v.State == "error":
			out = append(out, Change{Policy: v.Policy, Text: fmt.Sprintf("%s could not be evaluated, which denies every call in its scope", v.Policy), Clauses: v.Clauses[len(v.Clauses)-1:]})
		case v.State == "satisfied" && v.Effect == "forbid":
			text := fmt.Sprintf("%s forbids it while all of this holds", v.Policy)
			if v.Mode == "approval" {
				text = fmt.Sprintf("%s forbids it while all of this holds, unless people approve the call", v.Policy)
			}
			if len(v.Clauses) == 0 {
				text = v.Policy + " forbids every call in its scope"
			}
			out = append(out, Change{Policy: v.Policy, Text: text, Clauses: v.Clauses})
		}
	}
	if len(out) > 0 {
		return out
	}
	// Nothing forbids it and nothing permits it: what came nearest?
	for _, v := range verdicts {
		if v.Effect == "permit" && v.State == "not satisfied" && v.Mode == "" {
			out = append(out, Change{Policy: v.Policy, Text: v.Policy + " would permit it if this held", Clauses: v.Clauses[len(v.Clauses)-1:]})
		}
	}
	slices.SortStableFunc(out, func(a, b Change) int { return r.passed(verdicts, b) - r.passed(verdicts, a) })
	if len(out) > 0 {
		return out[:min(len(out), maxChanges)]
	}
	for _, p := range r.set.policies {
		if p.forbid || !slices.Contains(p.actions, r.action) {
			continue
		}
		who, where := inScope(p.tree.Principal, r.principal), inScope(p.tree.Resource, r.resource)
		text := p.id + " permits it, but at another upstream"
		if !who {
			text = p.id + " permits it, but for another agent than " + r.principal.String()
		}
		if (!who || !where) && len(out) < maxChanges {
			out = append(out, Change{Policy: p.id, Text: text})
		}
	}
	if len(out) > 0 {
		return out
	}
	return []Change{{Text: fmt.Sprintf("no permit names %s; this one would permit it", r.action.uid), Paste: r.permit()}}
}

// passed is how many clauses of a change's policy held.
func (r *request) passed(verdicts []Verdict, c Change) int {
	for _, v := range verdicts {
		if v.Policy == c.Policy {
			return len(v.Clauses)
		}
	}
	return 0
}

// permit is a policy that permits calls like this one and no more.
func (r *request) permit() string {
	id := "allow-" + strings.NewReplacer("/", "-", ":", "-").Replace(string(r.action.uid.ID))
	for n := 2; r.set.byID[cedar.PolicyID(id)] != nil; n++ {
		id = fmt.Sprintf("%s-%d", strings.TrimSuffix(id, fmt.Sprintf("-%d", n-1)), n)
	}
	return fmt.Sprintf("@id(%s)\npermit (\n  principal == %s,\n  action == %s,\n  resource == %s\n)\nwhen { context.stage == %s };\n",
		cedar.String(id).MarshalCedar(), r.principal, r.action.uid, r.resource, cedar.String(r.q.Stage.String()).MarshalCedar())
}

var modeText = map[string]string{"log": " (tried out, not enforced)", "approval": " (people may lift it)"}

// String is the explanation as people read it in a terminal.
func (x Explanation) String() string {
	var b strings.Builder
	b.WriteString(Verb(&x.Decision) + "\n")
	for _, r := range x.Decision.Reasons {
		fmt.Fprintf(&b, "  because of %s (%s)", r.Policy, r.Effect)
		if r.Says != "" {
			fmt.Fprintf(&b, ": %s", r.Says)
		}
		b.WriteByte('\n')
	}
	for _, e := range x.Decision.Errors {
		fmt.Fprintf(&b, "  error: %s\n", e)
	}
	if !x.Decision.Allow && len(x.Decision.Reasons) == 0 && len(x.Decision.Errors) == 0 {
		b.WriteString("  because no policy permits it\n")
	}
	if len(x.Policies) > 0 {
		b.WriteString("policies in scope:\n")
	}
	for _, v := range x.Policies {
		fmt.Fprintf(&b, "  %s:%d:%d  %s %s: %s%s\n", v.Path, v.Line, v.Column, v.Effect, v.Policy, v.State, modeText[v.Mode])
	}
	if len(x.Change) > 0 {
		b.WriteString("what would have to change:\n")
	}
	for _, c := range x.Change {
		fmt.Fprintf(&b, "  %s\n", c.Text)
		for _, cl := range c.Clauses {
			fmt.Fprintf(&b, "    %s { %s }\n", cl.Word, cl.Text)
			for _, r := range cl.Reads {
				fmt.Fprintf(&b, "      %s is %s\n", r.Name, r.Value)
			}
			if cl.Error != "" {
				fmt.Fprintf(&b, "      %s\n", cl.Error)
			}
		}
		for _, line := range strings.Split(strings.TrimSuffix(c.Paste, "\n"), "\n") {
			if line != "" {
				fmt.Fprintf(&b, "    %s\n", line)
			}
		}
	}
	return b.String()
}
