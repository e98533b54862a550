package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"sallyport"
)

// policy is one policy, ready to be evaluated.
type policy struct {
	id     string // its @id, or "<path>#<n>"
	source *Source
	at     *policySpan
	forbid bool
	says   string
	hint   string
	need   *sallyport.Need // of a forbid that people may lift
	logged bool            // it is tried out: see hold.go

	tree       *ast.Policy
	conditions []condition
	// body is the policy without its scope: the index has already applied it.
	body *cedar.Policy
	// touch is what the conditions read of the context.
	touch touch

	// actions are those in its scope, sorted by name; upstreams is nil for any.
	actions   []*action
	upstreams []string
}

// condition is one when or unless.
type condition struct {
	when bool
	body *expr
}

// maxProblems is where Compile stops looking for more.
const maxProblems = 100

// Compile reads, checks and indexes policies over tools and counters. The set is nil if there
// is any problem, and problems are in the order of the sources, but those with
// tools come alone and have the tool's Name for their path.
//
// Checked are: syntax; that every tool, group, upstream, attribute and argument
// named exists; types, and that optional attributes are asked for with has
// before they are read (Cedar's strict validation); that strings are compared
// with values they can have; and that each policy can match at all. See the
// package comment for the rest of the rules.
func Compile(tools []Tool, sources []Source, counters ...Counter) (*Set, []Problem) {
	m, problems := newModel(tools, counters)
	if len(problems) > 0 {
		return nil, problems
	}
	c := &checker{model: m, ids: map[string]*policy{}}
	for i := range sources {
		c.file(&sources[i])
	}
	var policies []*policy
	for _, p := range c.policies {
		if len(c.problems) >= maxProblems {
			break
		}
		if c.check(p) {
			policies = append(policies, p)
		}
	}
	if len(c.problems) > 0 {
		order := map[string]int{}
		for i := range sources {
			if _, ok := order[sources[i].Path]; !ok {
				order[sources[i].Path] = i
			}
		}
		slices.SortStableFunc(c.problems, func(a, b Problem) int {
			if a.Path != b.Path {
				return order[a.Path] - order[b.Path]
			}
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		if len(c.problems) > maxProblems {
			c.problems = c.problems[:maxProblems]
		}
		return nil, c.problems
	}
	return newSet(m, policies, c.inert), nil
}

// checker finds what is wrong with policies.
type checker struct {
	model    *model
	policies []*policy
	ids      map[string]*policy
	problems []Problem
	inert    []Problem
}

// problem makes one about the text at a byte of a source.
func problem(s *Source, at int, hint, format string, args ...any) Problem {
	line, column, excerpt := lineOf(s.Text, at)
	return Problem{Path: s.Path, Line: line, Column: column, Excerpt: excerpt, Hint: hint, Message: fmt.Sprintf(format, args...)}
}

func (c *checker) report(s *Source, at int, hint, format string, args ...any) {
	c.problems = append(c.problems, problem(s, at, hint, format, args...))
}

// place is where cedar-go's parser says that an error is.
var place = regexp.MustCompile(`<input>:(\d+):(\d+)(?: "(?s:.*?)")?: `)

// file reads the policies of one source.
func (c *checker) file(s *Source) {
	if len(s.Text) > MaxFileBytes {
		c.problems = append(c.problems, Problem{
			Path: s.Path, Message: fmt.Sprintf("the file has %d bytes, more than %d", len(s.Text), MaxFileBytes),
			Hint: "split it",
		})
		return
	}
	if !utf8.ValidString(s.Text) {
		c.report(s, invalidAt(s.Text), "", "the text is not UTF-8")
		return
	}
	spans, bad := parse(s.Text)
	if bad != nil {
		c.report(s, bad.at, bad.hint, "%s", bad.message)
		return
	}
	for _, sp := range spans {
		if sp.end-sp.at > MaxPolicyBytes {
			c.report(s, sp.mark, "split it", "the policy has %d bytes, more than %d", sp.end-sp.at, MaxPolicyBytes)
			return
		}
	}
	if len(c.policies)+len(spans) > MaxPolicies {
		c.problems = append(c.problems, Problem{Path: s.Path, Message: fmt.Sprintf("there are more than %d policies", MaxPolicies)})
		return
	}
	list, err := cedar.NewPolicyListFromBytes(s.Path, []byte(s.Text))
	if err == nil && len(list) != len(spans) {
		err = errors.New("the text can be read in two ways")
	}
	if err != nil {
		c.unread(s, spans, err)
		return
	}
	for i, one := range list {
		p := newPolicy(s, (*ast.Policy)(one.AST()), spans[i])
		if p.id == "" {
			p.id = fmt.Sprintf("%s#%d", s.Path, i+1)
			if _, ok := spans[i].annotations["id"]; ok {
				c.report(s, spans[i].annotations["id"].mark, "", "an @id must not be empty")
			}
		}
		at := spans[i].mark
		if a, ok := spans[i].annotations["id"]; ok {
			at = a.mark
		}
		if strings.HasPrefix(p.id, canaryName) {
			c.report(s, at, "", "an @id must not begin with %q", canaryName)
			continue
		}
		if first := c.ids[p.id]; first != nil {
			line, _, _ := lineOf(first.source.Text, first.at.mark)
			c.report(s, at, "", "the @id %q is that of the policy at %s:%d", p.id, first.source.Path, line)
			continue
		}
		c.ids[p.id] = p
		c.policies = append(c.policies, p)
	}
}

// unread reports what cedar-go's parser says of a text.
func (c *checker) unread(s *Source, spans []*policySpan, err error) {
	message := strings.TrimPrefix(err.Error(), "parser error: ")
	at, known := 0, false
	if m := place.FindStringSubmatch(message); m != nil {
		line, _ := strconv.Atoi(m[1])
		column, _ := strconv.Atoi(m[2])
		_, message, _ = strings.Cut(message, m[0])
		at, known = offset(s.Text, line, column)
	}
	for i := 0; i < len(spans) && !known; i++ {
		var one cedar.Policy
		if one.UnmarshalCedar([]byte(s.Text[spans[i].at:spans[i].end])) != nil {
			at, known = spans[i].mark, true
		}
	}
	c.report(s, at, "", "%s", message)
}

// offset is the byte at a line and a column, both from 1.
func offset(s string, line, column int) (at int, ok bool) {
	for ; line > 1; line-- {
		n := strings.IndexByte(s[at:], '\n')
		if n < 0 {
			return 0, false
		}
		at += n + 1
	}
	for i := range s[at:] {
		if column--; column == 0 {
			return at + i, line == 1
		}
	}
	return len(s), line == 1
}

func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return len(s)
}

func newPolicy(s *Source, tree *ast.Policy, at *policySpan) *policy {
	p := &policy{source: s, at: at, tree: tree, forbid: tree.Effect == ast.EffectForbid}
	for _, a := range tree.Annotations {
		switch a.Key {
		case "id":
			p.id = string(a.Value)
		case "reason":
			p.says = string(a.Value)
		case "hint":
			p.hint = string(a.Value)
		}
	}
	bare := *tree
	bare.Principal, bare.Action, bare.Resource = ast.ScopeTypeAll{}, ast.ScopeTypeAll{}, ast.ScopeTypeAll{}
	p.body = cedar.NewPolicyFromAST((*publicast.Policy)(&bare))
	for i, cond := range tree.Conditions {
		p.touch.read(cond.Body)
		p.conditions = append(p.conditions, condition{bool(cond.Condition), placed(cond.Body, at.conditions[i])})
	}
	return p
}

// check reports what is wrong with a policy. It returns whether the policy is of
// any use; one that is not and is not wrong either is noted as inert.
func (c *checker) check(p *policy) bool {
	before := len(c.problems)
	if p.source.Stage && !p.forbid {
		c.report(p.source, p.at.mark, "put it into the policies of the agent", "a stage's policy can only forbid")
		return false
	}
	c.manner(p)
	why, at := c.scope(p)
	if len(c.problems) > before {
		return false
	}
	if why == "" {
		for _, cond := range p.conditions {
			c.names(p, cond.body)
		}
		if len(c.problems) > before {
			return false
		}
		c.types(p)
		if len(c.problems) > before {
			return false
		}
		var other bool
		if at, why, other = c.unmatchable(p); why != "" && !other {
			c.report(p.source, at, "", "this policy can never match: %s", why)
			return false
		}
	}
	switch {
	case why == "":
		return true
	case p.source.Stage:
		c.inert = append(c.inert, problem(p.source, at, "", "this policy applies to nothing in this release: %s", why))
	default:
		c.report(p.source, at, "", "this policy can never match: %s", why)
	}
	return false
}

// scope checks the head of a policy and fills p.actions and p.upstreams. why says
// what is missing from this release for the policy to apply, if anything.
func (c *checker) scope(p *policy) (why string, at int) {
	m := c.model
	typed := func(et, want types.EntityType, at int, example string) {
		if et != want {
			c.report(p.source, at, "write "+example, "%s is not a type that can stand here", et)
		}
	}
	agent := func(uid cedar.EntityUID) {
		typed(uid.Type, agentType, p.at.principal.mark, cedar.NewEntityUID(agentType, uid.ID).String())
	}
	switch s := p.tree.Principal.(type) {
	case ast.ScopeTypeEq:
		agent(s.Entity)
	case ast.ScopeTypeIn:
		agent(s.Entity)
	case ast.ScopeTypeIs:
		typed(s.Type, agentType, p.at.principal.mark, "principal is Agent")
	case ast.ScopeTypeIsIn:
		typed(s.Type, agentType, p.at.principal.mark, "principal is Agent")
		agent(s.Entity)
	case ast.ScopeTypeAll:
	}

	var upstream *cedar.EntityUID
	switch s := p.tree.Resource.(type) {
	case ast.ScopeTypeEq:
		upstream = &s.Entity
	case ast.ScopeTypeIn:
		upstream = &s.Entity
	case ast.ScopeTypeIs:
		typed(s.Type, upstreamType, p.at.resource.mark, "resource is Upstream")
	case ast.ScopeTypeIsIn:
		typed(s.Type, upstreamType, p.at.resource.mark, "resource is Upstream")
		upstream = &s.Entity
	case ast.ScopeTypeAll:
	}
	if upstream != nil {
		p.upstreams = []string{string(upstream.ID)}
		typed(upstream.Type, upstreamType, p.at.resource.mark, cedar.NewEntityUID(upstreamType, upstream.ID).String())
		if upstream.Type == upstreamType && !slices.Contains(m.upstreams, string(upstream.ID)) {
			why, at = fmt.Sprintf("there is no upstream %q", upstream.ID), p.at.resource.mark
			if !p.source.Stage {
				c.report(p.source, at, nearest(string(upstream.ID), m.upstreams), "%s", why)
			}
		}
	}

	var named []cedar.EntityUID
	exact := false
	switch s := p.tree.Action.(type) {
	case ast.ScopeTypeAll:
		p.actions = m.sorted
	case ast.ScopeTypeEq:
		named, exact = []cedar.EntityUID{s.Entity}, true
	case ast.ScopeTypeIn:
		named = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeInSet:
		named = s.Entities
		if len(named) == 0 {
			c.report(p.source, p.at.action.mark, "", "the policy names no action, so it can never match")
		}
	}
	in := map[*action]bool{}
	for i, uid := range named {
		mark := p.at.action.mark
		if len(p.at.action.kids) == len(named) {
			mark = p.at.action.kids[i].mark
		}
		group, isGroup := m.groups[uid]
		switch {
		case uid.Type != actionType:
			c.report(p.source, mark, "write "+actionUID(string(uid.ID)).String(), "%s is not a type that can stand here", uid.Type)
		case m.actions[uid] != nil:
			in[m.actions[uid]] = true
		case isGroup && exact:
			c.report(p.source, mark, "write action in "+uid.String(), "%s is a group of actions, which no action equals", uid)
		case isGroup && len(group) == 0:
			if why == "" {
				why, at = fmt.Sprintf("there is no tool in %s", uid), mark
			}
		case isGroup:
			for _, a := range group {
				in[a] = true
			}
		case p.source.Stage:
			if why == "" {
				why, at = fmt.Sprintf("there is no action %s", uid), mark
			}
		default:
			c.report(p.source, mark, c.actionHint(string(uid.ID)), "there is no action %s", uid)
		}
	}
	if named != nil {
		p.actions = slices.SortedFunc(maps.Keys(in), func(a, b *action) int { return strings.Compare(string(a.uid.ID), string(b.uid.ID)) })
	}
	if len(p.actions) > 0 && upstream == nil {
		return "", 0
	}
	if len(p.actions) == 0 {
		return why, at
	}
	if why != "" && at == p.at.resource.mark {
		return why, at
	}
	// A tool is always called at its own upstream.
	of := slices.DeleteFunc(slices.Clone(p.actions), func(a *action) bool {
		return a.tool != nil && string(a.tool.Upstream) != p.upstreams[0]
	})
	if p.actions = of; len(of) == 0 {
		return fmt.Sprintf("none of its actions is a tool of %q", p.upstreams[0]), p.at.resource.mark
	}
	return "", 0
}

func (c *checker) actionHint(name string) string {
	var names []string
	for _, a := range c.model.sorted {
		names = append(names, string(a.uid.ID))
	}
	for g := range c.model.groups {
		names = append(names, string(g.ID))
	}
	slices.Sort(names)
	return nearest(name, names)
}

// names checks that what an expression names exists, and that strings with a
// known list of values are compared with one of them.
func (c *checker) names(p *policy, e *expr) {
	switch n := e.IsNode.(type) {
	case ast.NodeValue:
		if uid, ok := n.Value.(types.EntityUID); ok {
			c.entity(p, e, uid)
		}
	case ast.NodeTypeAccess, ast.NodeTypeHas:
		if c.steps(p, e) {
			return
		}
		if v, ok := e.kids[0].IsNode.(ast.NodeValue); ok {
			if _, ok := v.Value.(types.EntityUID); ok {
				c.report(p.source, e.mark, "", "only principal, resource and context have attributes")
				return
			}
		}
	case ast.NodeTypeEquals, ast.NodeTypeNotEquals:
		c.listed(p, e.kids[0], e.kids[1], false)
		c.listed(p, e.kids[1], e.kids[0], false)
	case ast.NodeTypeContains:
		c.listed(p, e.kids[0], e.kids[1], true)
		if _, ok := e.kids[0].IsNode.(ast.NodeTypeSet); ok {
			for _, k := range e.kids[0].kids {
				c.listed(p, e.kids[1], k, false)
			}
		}
	case ast.NodeTypeContainsAll, ast.NodeTypeContainsAny:
		for i, other := range []int{1, 0} {
			if _, ok := e.kids[other].IsNode.(ast.NodeTypeSet); ok {
				for _, k := range e.kids[other].kids {
					c.listed(p, e.kids[i], k, true)
				}
			}
		}
	}
	for _, k := range e.kids {
		c.names(p, k)
	}
}

func (c *checker) entity(p *policy, e *expr, uid types.EntityUID) {
	switch uid.Type {
	case agentType, personType:
	case upstreamType:
		if !p.source.Stage && !slices.Contains(c.model.upstreams, string(uid.ID)) {
			c.report(p.source, e.mark, nearest(string(uid.ID), c.model.upstreams), "there is no upstream %q", uid.ID)
		}
	case actionType:
		_, group := c.model.groups[uid]
		if !p.source.Stage && !group && c.model.actions[uid] == nil {
			c.report(p.source, e.mark, c.actionHint(string(uid.ID)), "there is no action %s", uid)
		}
	default:
		c.report(p.source, e.mark, nearest(string(uid.Type), []string{agentType, upstreamType, personType, actionType}), "there is no type %s", uid.Type)
	}
}

// roots are the shapes that a variable can have in a policy.
func (c *checker) roots(p *policy, variable string) []*shape {
	if s := c.model.roots[variable]; s != nil {
		return []*shape{s}
	}
	var out []*shape
	if variable == "context" {
		for _, a := range p.actions {
			out = append(out, a.context)
		}
	}
	return out
}

// steps checks each name of an expression such as context.args.order.total. It
// reports whether e is one.
func (c *checker) steps(p *policy, e *expr) bool {
	var nodes []*expr // from the last step to the first
	var path []string
	n := e
	for {
		switch v := n.IsNode.(type) {
		case ast.NodeTypeAccess:
			path = append(path, string(v.Value))
		case ast.NodeTypeHas:
			if n != e {
				return false
			}
			path = append(path, string(v.Value))
		case ast.NodeTypeVariable:
			slices.Reverse(path)
			slices.Reverse(nodes)
			c.path(p, string(v.Name), path, nodes)
			return true
		default:
			return false
		}
		nodes = append(nodes, n)
		n = n.kids[0]
	}
}

func (c *checker) path(p *policy, variable string, path []string, nodes []*expr) {
	roots := c.roots(p, variable)
	for i, name := range path {
		var names []string
		var why string
		found := false
		for _, r := range roots {
			if m := r.at(path[:i+1]); m != nil {
				if m.form != hidden {
					found = true
					break
				}
				why = m.why
			} else if m := r.at(path[:i]); m != nil && m.form == record {
				names = append(names, m.names()...)
			}
		}
		if found {
			continue
		}
		what := strings.Join(append([]string{variable}, path[:i]...), ".")
		if why != "" {
			c.report(p.source, nodes[i].mark, "forbid the tool as a whole, or give the argument one type in its schema",
				"policy cannot see %s.%s: %s", what, name, why)
			return
		}
		slices.Sort(names)
		names = slices.Compact(names)
		hint := nearest(name, names)
		if i == 0 && variable == "context" {
			for _, r := range roots {
				if r.at([]string{"args", name}) != nil {
					hint = "did you mean context.args." + name + "?"
				}
			}
		}
		switch {
		case hint != "":
		case len(names) == 0:
			hint = what + " has no attributes that policy can see"
		case len(names) <= 12:
			hint = "there is: " + strings.Join(names, ", ")
		}
		subject := what
		if variable == "context" && len(p.actions) == 1 {
			subject += " of " + string(p.actions[0].uid.ID)
		}
		c.report(p.source, nodes[i].mark, hint, "%s has no attribute %q", subject, name)
		return
	}
}

// listed reports a string that value can never be.
func (c *checker) listed(p *policy, value, literal *expr, elements bool) {
	v, ok := literal.IsNode.(ast.NodeValue)
	if !ok {
		return
	}
	s, ok := v.Value.(types.String)
	if !ok {
		return
	}
	variable, path, ok := chain(value.IsNode)
	if !ok || len(path) == 0 {
		return
	}
	values := c.values(p, variable, path, elements)
	if values != nil && !slices.Contains(values, string(s)) {
		hint := nearest(string(s), values)
		if hint == "" {
			hint = "it is one of " + strings.Join(values, ", ")
		}
		c.report(p.source, literal.mark, hint, "%s is never %q", strings.Join(append([]string{variable}, path...), "."), s)
	}
}

// values are those a string can have in any of the policy's actions, or nil if
// that is not known.
func (c *checker) values(p *policy, variable string, path []string, elements bool) []string {
	var values []string
	for _, r := range c.roots(p, variable) {
		m := r.at(path)
		if m == nil {
			continue
		}
		s := m.shape
		if elements {
			if s.form != set {
				continue
			}
			s = s.elem
		}
		if s.form != text || s.enum == nil {
			return nil
		}
		values = append(values, s.enum...)
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// types reports what Cedar's strict validation finds, each at the smallest part
// of the text that has the fault by itself.
func (c *checker) types(p *policy) {
	v := c.validator(p)
	faults := faultsOf(v.Policy("", p.tree))
	type fault struct {
		text    string
		actions []string
	}
	var found []*fault
	for _, text := range slices.Sorted(maps.Keys(faults)) {
		bare, of := text, ""
		if m := perAction.FindStringSubmatch(text); m != nil {
			bare, of = m[1], m[2]
		}
		i := slices.IndexFunc(found, func(f *fault) bool {
			return f.text == text || of != "" && strings.HasPrefix(f.text, bare+" in context for ")
		})
		if i < 0 {
			i = len(found)
			found = append(found, &fault{text: text})
		}
		if of != "" {
			found[i].actions = append(found[i].actions, of)
		}
	}
	if len(found) > 10 {
		found = found[:10]
	}
	for _, f := range found {
		at, in := p.at.mark, (*expr)(nil)
		for _, cond := range p.conditions {
			l := locator{v: v, p: p, fault: f.text}
			if l.has(cond.body.IsNode) {
				in = l.find(cond.body, nil)
				if at = in.at; strings.Contains(f.text, "attribute") {
					at = in.mark
				}
				break
			}
		}
		message, hint := explainFault(f.text, f.actions, p.source, in)
		c.report(p.source, at, hint, "%s", message)
	}
}

// perAction matches the faults that name an action: one for each action in
// scope that has it.
var perAction = regexp.MustCompile(`^(?s:(.*)) in context for Action::"(?s:(.*))"( not found)?$`)

// validator checks the policy against as much of the schema as it can apply to:
// every action is a world of its own to the validator, and most policies are
// about few of them.
func (c *checker) validator(p *policy) *validate.Validator {
	full := c.model.resolved
	s := &resolved.Schema{Namespaces: full.Namespaces, Entities: full.Entities, Enums: full.Enums, Actions: map[types.EntityUID]resolved.Action{}}
	for g := range c.model.groups {
		s.Actions[g] = full.Actions[g]
	}
	named := false
	for _, cond := range p.conditions {
		named = named || mentions(cond.body.IsNode, "action")
		ast.Inspect(ast.NewNode(cond.body.IsNode), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				if uid, ok := v.Value.(types.EntityUID); ok && uid.Type == actionType {
					// Known or, in a stage's policy, another release's: without
					// AppliesTo it is a name and nothing more.
					s.Actions[uid] = resolved.Action{Entity: cedar.Entity{UID: uid, Parents: full.Actions[uid].Entity.Parents}}
				}
			}
			return true
		})
	}
	// Where no argument is read, all tools look alike.
	alike := !named && !p.touch.arguments()
	seenTool := false
	for _, a := range p.actions {
		act := full.Actions[a.uid]
		if alike && a.tool != nil {
			if seenTool {
				act.AppliesTo = nil
			}
			seenTool = true
		}
		s.Actions[a.uid] = act
	}
	// The scope itself is checked: what it names must be there.
	if set, ok := p.tree.Action.(ast.ScopeTypeInSet); ok {
		for _, uid := range set.Entities {
			if _, ok := s.Actions[uid]; !ok {
				s.Actions[uid] = resolved.Action{Entity: cedar.Entity{UID: uid}}
			}
		}
	}
	return validate.New(s)
}

// faultsOf takes joined errors apart.
func faultsOf(err error) map[string]bool {
	out := map[string]bool{}
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
			return
		}
		out[err.Error()] = true
	}
	if err != nil {
		walk(err)
	}
	return out
}

// locator finds the smallest expression with a fault, by checking parts alone.
type locator struct {
	v     *validate.Validator
	p     *policy
	fault string
	tries int
}

// maxTries bounds how far a fault is followed into a large condition.
const maxTries = 400

func (l *locator) has(n ast.IsNode) bool {
	one := *l.p.tree
	one.Conditions = []ast.ConditionType{{Condition: ast.ConditionWhen, Body: n}}
	return faultsOf(l.v.Policy("", &one))[l.fault]
}

// find follows the fault down from e. guard is what is known to hold where e is
// evaluated: has-checks on the left of && or in an if.
func (l *locator) find(e *expr, guard ast.IsNode) *expr {
	for i, k := range e.kids {
		if l.tries++; l.tries > maxTries {
			return e
		}
		g := guard
		switch e.IsNode.(type) {
		case ast.NodeTypeAnd, ast.NodeTypeIfThenElse:
			if i == 1 {
				g = both(guard, e.kids[0].IsNode)
			}
		}
		// Compared with itself, an expression of any type is a condition.
		alone := both(g, ast.NodeTypeEquals{BinaryNode: ast.BinaryNode{Left: k.IsNode, Right: k.IsNode}})
		if l.has(alone) {
			return l.find(k, g)
		}
	}
	return e
}

func both(a, b ast.IsNode) ast.IsNode {
	if a == nil {
		return b
	}
	return ast.NodeTypeAnd{BinaryNode: ast.BinaryNode{Left: a, Right: b}}
}

// explainFault puts a fault of Cedar's validator into words for people who do
// not know Cedar yet.
func explainFault(fault string, actions []string, s *Source, in *expr) (message, hint string) {
	where := ""
	if in != nil && in.end > in.at && in.end-in.at <= 120 {
		where = strings.Join(strings.Fields(s.Text[in.at:in.end]), " ")
	}
	of := ""
	switch n := len(actions); {
	case n == 1:
		of = " in a call of " + actions[0]
	case n > 1:
		of = fmt.Sprintf(" in a call of %s and %d more", actions[0], n-1)
	}
	message = fault
	switch {
	case strings.HasPrefix(fault, "unable to guarantee safety of access to optional attribute"):
		if where == "" {
			return "an optional attribute is read without a check that it is there", "check it first with has"
		}
		message = fmt.Sprintf("%s may be absent%s", where, of)
		if n, ok := in.IsNode.(ast.NodeTypeAccess); ok && len(in.kids) == 1 {
			base := strings.Join(strings.Fields(s.Text[in.kids[0].at:in.kids[0].end]), " ")
			hint = fmt.Sprintf("check it first: %s has %s && ...", base, attribute(string(n.Value)))
		}
		return message, hint
	case strings.HasPrefix(fault, "attribute ") && strings.HasSuffix(fault, " not found"):
		if where != "" && of != "" {
			return fmt.Sprintf("there is no %s%s", where, of), "name fewer actions in the scope, or check with has first"
		}
	case strings.Contains(fault, "decimal"):
		hint = `a JSON number is a decimal: write .lessThan(decimal("1.0")), .greaterThan(decimal("1.0")) or == decimal("1.0")`
	case strings.Contains(fault, "datetime") && strings.Contains(fault, "saw String"):
		hint = `write datetime("2026-12-24T00:00:00Z")`
	}
	message = strings.NewReplacer(
		"unexpected type: ", "", "__cedar::internal::AnyEntity", "an entity", "__cedar::internal::Any", "anything",
		"__cedar::internal::OpenRecord{}", "a record", "__cedar::internal::True", "Bool", "__cedar::internal::False", "Bool",
		" saw ", " this is ",
	).Replace(message)
	if where != "" {
		message = where + ": " + message
	}
	return message, hint
}

// attribute is a name as it is written after has.
func attribute(name string) string {
	toks, err := tokens(name)
	if err == nil && len(toks) == 2 && toks[0].kind == tokName && toks[0].end == len(name) && toks[0].at == 0 {
		return name
	}
	return strconv.Quote(name)
}
