package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// A policy matches if some choice between the alternatives of its conditions is
// free of contradictions. The search below looks for one. It is told of
// equalities, orders, presence and membership; what it does not understand it
// takes to be possible, so it never refuses a policy that can match.

// goal is an expression that must turn out as want.
type goal struct {
	e    *expr
	want bool
}

// domain is what a value can still be.
type domain struct {
	any    bool          // not limited to values
	values []types.Value // if not any
	not    []types.Value
	lo, hi types.Long
	ranged bool
}

// state is what has been assumed so far.
type state struct {
	domains map[string]domain
	opaque  []goal
}

type search struct {
	c        *checker
	p        *policy
	anywhere bool // as if any action and upstream were known
	branches int
	at       int
	why      string
}

const maxBranches = 256

// unmatchable reports where and why a policy can never match; why is empty if it
// may. other means that it could in a release with other tools or upstreams.
func (c *checker) unmatchable(p *policy) (at int, why string, other bool) {
	var goals []goal
	for _, cond := range slices.Backward(p.conditions) {
		goals = append(goals, goal{cond.body, cond.when})
	}
	s := &search{c: c, p: p}
	if s.possible(slices.Clone(goals), s.begin()) {
		return 0, "", false
	}
	if p.source.Stage {
		free := &search{c: c, p: p, anywhere: true}
		other = free.possible(goals, free.begin())
	}
	return s.at, s.why, other
}

func (s *search) begin() state {
	st := state{domains: map[string]domain{}}
	switch sc := s.p.tree.Principal.(type) {
	case ast.ScopeTypeEq:
		st.domains["principal"] = domain{values: []types.Value{sc.Entity}}
	case ast.ScopeTypeIn:
		st.domains["principal"] = domain{values: []types.Value{sc.Entity}}
	case ast.ScopeTypeIsIn:
		st.domains["principal"] = domain{values: []types.Value{sc.Entity}}
	case ast.ScopeTypeAll, ast.ScopeTypeIs:
	}
	return st
}

// possible tries to reach all goals, the last first.
func (s *search) possible(goals []goal, st state) bool {
	for len(goals) > 0 {
		g := goals[len(goals)-1]
		goals = goals[:len(goals)-1]
		k := g.e.kids
		switch n := g.e.IsNode.(type) {
		case ast.NodeTypeNot:
			goals = append(goals, goal{k[0], !g.want})
		case ast.NodeTypeAnd:
			if g.want {
				goals = append(goals, goal{k[1], true}, goal{k[0], true})
				continue
			}
			return s.either(goals, st, []goal{{k[0], false}}, []goal{{k[1], false}, {k[0], true}})
		case ast.NodeTypeOr:
			if !g.want {
				goals = append(goals, goal{k[1], false}, goal{k[0], false})
				continue
			}
			return s.either(goals, st, []goal{{k[0], true}}, []goal{{k[1], true}, {k[0], false}})
		case ast.NodeTypeIfThenElse:
			return s.either(goals, st, []goal{{k[1], g.want}, {k[0], true}}, []goal{{k[2], g.want}, {k[0], false}})
		default:
			if why := s.assume(n, g, &st); why != "" {
				if s.why == "" {
					s.at, s.why = g.e.at, why
				}
				return false
			}
		}
	}
	return true
}

func (s *search) either(goals []goal, st state, a, b []goal) bool {
	if s.branches++; s.branches > maxBranches {
		return true
	}
	copied := state{domains: make(map[string]domain, len(st.domains)), opaque: slices.Clone(st.opaque)}
	for k, v := range st.domains {
		copied.domains[k] = v
	}
	return s.possible(append(slices.Clone(goals), a...), copied) || s.possible(append(slices.Clone(goals), b...), st)
}

// assume takes a simple expression to be want. It returns why that cannot be.
func (s *search) assume(n ast.IsNode, g goal, st *state) string {
	if constant(n) {
		v, err := eval.Eval(n, eval.Env{Entities: cedar.EntityMap{}, Context: cedar.Record{}})
		if err != nil {
			return "it cannot be evaluated: " + err.Error()
		}
		if v != types.Boolean(g.want) {
			return fmt.Sprintf("this is always %v", !g.want)
		}
		return ""
	}
	k := g.e.kids
	switch n := n.(type) {
	case ast.NodeTypeEquals:
		return s.equal(g, k[0].IsNode, k[1].IsNode, g.want, st)
	case ast.NodeTypeNotEquals:
		return s.equal(g, k[0].IsNode, k[1].IsNode, !g.want, st)
	case ast.NodeTypeIn:
		var set []types.Value
		for _, v := range literals(k[1].IsNode) {
			uid, ok := v.(types.EntityUID)
			if !ok {
				return ""
			}
			set = append(set, uid)
			for _, a := range s.c.model.groups[uid] {
				set = append(set, a.uid)
			}
		}
		if set != nil {
			return s.among(k[0].IsNode, set, g.want, st)
		}
	case ast.NodeTypeContains:
		if set := literals(k[0].IsNode); set != nil {
			if _, single := k[0].IsNode.(ast.NodeTypeSet); single {
				return s.among(k[1].IsNode, set, g.want, st)
			}
		}
	case ast.NodeTypeLessThan:
		return s.order(k[0].IsNode, k[1].IsNode, true, g.want, st)
	case ast.NodeTypeLessThanOrEqual:
		return s.order(k[0].IsNode, k[1].IsNode, false, g.want, st)
	case ast.NodeTypeGreaterThan:
		return s.order(k[1].IsNode, k[0].IsNode, true, g.want, st)
	case ast.NodeTypeGreaterThanOrEqual:
		return s.order(k[1].IsNode, k[0].IsNode, false, g.want, st)
	case ast.NodeTypeLike:
		return s.like(n, g.want, st)
	case ast.NodeTypeIs:
		return s.is(n, g.want)
	case ast.NodeTypeHas:
		if variable, path, ok := chain(n.Arg); ok {
			return s.there(variable, append(path, string(n.Value)), g.want, st)
		}
	case ast.NodeTypeAccess:
		return s.among(n, []types.Value{types.True}, g.want, st)
	}
	for _, o := range st.opaque {
		if o.want != g.want && ast.Equal(ast.NewNode(o.e.IsNode), ast.NewNode(g.e.IsNode)) {
			return "this contradicts another of its conditions"
		}
	}
	st.opaque = append(st.opaque, g)
	return ""
}

// constant reports whether n has one value whatever the call.
func constant(n ast.IsNode) bool {
	is := true
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeVariable:
			is = false
		case ast.NodeValue:
			if _, ok := n.Value.(types.EntityUID); ok {
				is = false
			}
		}
		return is
	})
	return is
}

// literals are the values of a literal or of a set of them, nil if n is more
// than that. Calls such as decimal("1.0") count.
func literals(n ast.IsNode) []types.Value {
	one := func(n ast.IsNode) types.Value {
		switch n := n.(type) {
		case ast.NodeValue:
			return n.Value
		case ast.NodeTypeExtensionCall:
			if constant(n) {
				if v, err := eval.Eval(n, eval.Env{}); err == nil {
					return v
				}
			}
		}
		return nil
	}
	if set, ok := n.(ast.NodeTypeSet); ok {
		out := make([]types.Value, 0, len(set.Elements))
		for _, e := range set.Elements {
			v := one(e)
			if v == nil {
				return nil
			}
			out = append(out, v)
		}
		return out
	}
	if v := one(n); v != nil {
		return []types.Value{v}
	}
	return nil
}

// key names what an expression reads, if it is one value of the call.
func key(n ast.IsNode) (string, bool) {
	variable, path, ok := chain(n)
	return strings.Join(append([]string{variable}, path...), "."), ok
}

func (s *search) equal(g goal, a, b ast.IsNode, want bool, st *state) string {
	if ka, ok := key(a); ok {
		if kb, ok := key(b); ok {
			if ka == kb && !want {
				return "a value equals itself"
			}
			return ""
		}
	}
	for _, pair := range [][2]ast.IsNode{{a, b}, {b, a}} {
		if _, isSet := pair[1].(ast.NodeTypeSet); isSet {
			continue
		}
		if v := literals(pair[1]); v != nil {
			return s.among(pair[0], v, want, st)
		}
	}
	return ""
}

// among takes the value n to be, or not to be, one of values.
func (s *search) among(n ast.IsNode, values []types.Value, want bool, st *state) string {
	k, ok := key(n)
	if !ok {
		return ""
	}
	d := s.domain(k, n, st)
	if want {
		if d.any {
			d.any, d.values = false, values
		} else {
			d.values = slices.DeleteFunc(slices.Clone(d.values), func(v types.Value) bool { return !containsValue(values, v) })
		}
	} else {
		d.not = slices.Concat(d.not, values)
	}
	return s.keep(k, d, st)
}

func (s *search) keep(k string, d domain, st *state) string {
	before, known := st.domains[k]
	st.domains[k] = d
	if !d.empty() {
		return ""
	}
	if known && !before.any && len(before.values) > 0 && len(before.values) <= 8 {
		var names []string
		for _, v := range before.values {
			names = append(names, string(v.MarshalCedar()))
		}
		return fmt.Sprintf("%s can only be %s here", k, strings.Join(names, " or "))
	}
	if d.ranged {
		return fmt.Sprintf("%s is never in this range", k)
	}
	return fmt.Sprintf("%s is never this in the actions of the policy", k)
}

func (d *domain) empty() bool {
	if d.ranged && d.lo > d.hi {
		return true
	}
	if d.any {
		return d.ranged && d.lo == d.hi && containsValue(d.not, d.lo)
	}
	return !slices.ContainsFunc(d.values, func(v types.Value) bool {
		if l, ok := v.(types.Long); ok && d.ranged && (l < d.lo || l > d.hi) {
			return false
		}
		return !containsValue(d.not, v)
	})
}

func containsValue(values []types.Value, v types.Value) bool {
	return slices.ContainsFunc(values, v.Equal)
}

// domain is what k can be as far as it is known.
func (s *search) domain(k string, n ast.IsNode, st *state) domain {
	if d, ok := st.domains[k]; ok {
		return d
	}
	d := domain{any: true}
	variable, path, _ := chain(n)
	switch {
	case k == "action":
		if !s.anywhere {
			d.any = false
			for _, a := range s.p.actions {
				d.values = append(d.values, a.uid)
			}
		}
	case k == "resource":
		if !s.anywhere {
			d.any, d.values = false, s.resources()
		}
	case len(path) > 0:
		roots := s.c.roots(s.p, variable)
		bools := false
		for i, r := range roots {
			m := r.at(path)
			if m == nil {
				continue
			}
			bools = m.form == boolean
			if m.form == long && m.hi > m.lo && (i == 0 || d.ranged) {
				d.ranged, d.lo, d.hi = true, types.Long(m.lo), types.Long(m.hi)
			}
		}
		if values := s.c.values(s.p, variable, path, false); values != nil {
			d.any = false
			for _, v := range values {
				d.values = append(d.values, types.String(v))
			}
		}
		if bools {
			d.any, d.values = false, []types.Value{types.True, types.False}
		}
	}
	st.domains[k] = d
	return d
}

// resources are the upstreams a call in the policy's scope can be at.
func (s *search) resources() []types.Value {
	names := s.p.upstreams
	if names == nil {
		seen := map[string]bool{}
		for _, a := range s.p.actions {
			if a.tool == nil {
				names = s.c.model.upstreams
				break
			}
			if u := string(a.tool.Upstream); !seen[u] {
				seen[u] = true
				names = append(names, u)
			}
		}
	}
	var out []types.Value
	for _, u := range names {
		out = append(out, cedar.NewEntityUID(upstreamType, types.String(u)))
	}
	return out
}

// order takes a < b, or a <= b, to be want.
func (s *search) order(a, b ast.IsNode, strict, want bool, st *state) string {
	if !want {
		a, b, strict = b, a, !strict
	}
	above := false // whether the value is above the literal
	n, lit := a, b
	if _, ok := key(a); !ok {
		n, lit, above = b, a, true
	}
	v, ok := lit.(ast.NodeValue)
	if !ok {
		return ""
	}
	limit, ok := v.Value.(types.Long)
	k, isKey := key(n)
	if !ok || !isKey {
		return ""
	}
	d := s.domain(k, n, st)
	if !d.ranged {
		d.ranged, d.lo, d.hi = true, -1<<63, 1<<63-1
	}
	switch {
	case above && strict && limit == 1<<63-1, !above && strict && limit == -1<<63:
		d.lo, d.hi = 1, 0
	case above && strict:
		d.lo = max(d.lo, limit+1)
	case above:
		d.lo = max(d.lo, limit)
	case strict:
		d.hi = min(d.hi, limit-1)
	default:
		d.hi = min(d.hi, limit)
	}
	return s.keep(k, d, st)
}

func (s *search) like(n ast.NodeTypeLike, want bool, st *state) string {
	k, ok := key(n.Arg)
	if !ok {
		return ""
	}
	d := s.domain(k, n.Arg, st)
	if d.any {
		return ""
	}
	d.values = slices.DeleteFunc(slices.Clone(d.values), func(v types.Value) bool {
		str, ok := v.(types.String)
		return ok && n.Value.Match(str) != want
	})
	return s.keep(k, d, st)
}

func (s *search) is(n ast.NodeTypeIs, want bool) string {
	k, ok := key(n.Left)
	if !ok {
		return ""
	}
	of, known := map[string]types.EntityType{"principal": agentType, "action": actionType, "resource": upstreamType}[k]
	if known && (of == n.EntityType) != want {
		return fmt.Sprintf("%s is always of type %s", k, of)
	}
	return ""
}

// there takes an attribute to be present or absent.
func (s *search) there(variable string, path []string, want bool, st *state) string {
	name := strings.Join(append([]string{variable}, path...), ".")
	k := name + "?"
	d, ok := st.domains[k]
	if !ok {
		d = domain{values: []types.Value{types.True, types.False}}
		required, total := 0, 0
		for _, r := range s.c.roots(s.p, variable) {
			total++
			if m := r.at(path); m != nil && !m.optional {
				required++
			}
		}
		if total > 0 && required == total {
			d.values = d.values[:1]
		}
	}
	d.values = slices.DeleteFunc(slices.Clone(d.values), func(v types.Value) bool { return v != types.Boolean(want) })
	st.domains[k] = d
	if len(d.values) > 0 {
		return ""
	}
	if want {
		return name + " has to be absent elsewhere"
	}
	return name + " is always there, or has to be elsewhere"
}
