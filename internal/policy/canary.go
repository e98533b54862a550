package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"sallyport"
)

// The canary is two tools that no upstream can have, because its name is none,
// and three policies that no source can hold, because its ids are reserved. Both
// tools are permitted; one of them is also forbidden, by what its arguments say.
const (
	canaryName  = "sallyport:canary"
	canaryFree  = "free"
	canaryCaged = "caged"
)

// hatch adds the canary's tools to a model and returns its policies.
func hatch(m *model) []*policy {
	args := &shape{form: record, members: map[string]*member{"sings": {shape: &shape{form: boolean}}}}
	for _, name := range []string{canaryFree, canaryCaged} {
		a := &action{
			uid: actionUID(canaryName + "/" + name), hidden: true, tool: &Tool{Upstream: canaryName, Access: sallyport.Read},
			context: &shape{form: record, members: map[string]*member{"args": {shape: args}}},
		}
		m.tools[toolKey{canaryName, name}] = a
	}
	source := &Source{Path: canaryName}
	permit := func(name string) *policy {
		tree := ast.Permit().ActionEq(actionUID(canaryName+"/"+name)).Annotate("id", cedar.String(canaryName+"/permit-"+name))
		return newPolicy(source, tree, &policySpan{})
	}
	sings := ast.Context().Access("args").Access("sings")
	forbid := ast.Forbid().ActionEq(actionUID(canaryName+"/"+canaryCaged)).When(sings).Annotate("id", canaryName+"/forbid")
	return []*policy{
		permit(canaryFree), permit(canaryCaged),
		newPolicy(source, forbid, &policySpan{conditions: []*span{{kids: []*span{{kids: []*span{{}}}}}}}),
	}
}

var errNotEnforced = errors.New("policies are not being enforced")

// Canary proves that decisions follow from policies: it puts two calls through
// Decide, of which a hidden policy forbids one and a hidden policy permits the
// other, and checks that every policy of the set can be found by some call. Any
// error of it means that policies are not being enforced, whatever the set says.
func (s *Set) Canary() error {
	q := Query{
		Principal: sallyport.Principal{Agent: canaryName}, Tier: sallyport.TierLow, Stage: sallyport.Production,
		Kind: sallyport.KindTool, Upstream: canaryName, Args: []byte(`{"sings":true}`),
		Now: time.Unix(0, 0), Run: RunFacts{Labels: sallyport.NewLabels()},
	}
	q.Tool = canaryFree
	free, _ := s.Decide(&q)
	if !free.Allow || len(free.Reasons) != 1 {
		return fmt.Errorf("%w: a permitted call was not permitted: %v", errNotEnforced, free.Errors)
	}
	q.Tool = canaryCaged
	caged, _ := s.Decide(&q)
	if caged.Allow || len(caged.Errors) > 0 || len(caged.Reasons) != 1 || caged.Reasons[0].Policy != canaryName+"/forbid" {
		return fmt.Errorf("%w: a forbidden call was not forbidden by the policy that forbids it: %v", errNotEnforced, caged.Errors)
	}
	q.Args = []byte(`{"sings":false}`)
	if quiet, _ := s.Decide(&q); !quiet.Allow {
		return fmt.Errorf("%w: a policy forbids what it does not speak of: %v", errNotEnforced, quiet.Errors)
	}
	reached := make([]bool, len(s.policies))
	for _, bucket := range s.buckets {
		for _, i := range bucket {
			reached[i] = true
		}
	}
	for i, p := range s.policies {
		if !reached[i] {
			return fmt.Errorf("%w: no call is checked against %s", errNotEnforced, p.id)
		}
	}
	return nil
}
