package policy

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"

	"sallyport"
)

// This file is what a policy says beside yes and no: that people may lift it for one
// call (@on_deny), and that it is only tried out (@mode).

// manner reads the annotations that say how a policy is meant.
func (c *checker) manner(p *policy) {
	word := func(name string) (string, bool) {
		for _, a := range p.tree.Annotations {
			if string(a.Key) == name {
				return string(a.Value), true
			}
		}
		return "", false
	}
	bad := func(name, hint, format string, args ...any) {
		c.report(p.source, p.at.annotations[name].mark, hint, format, args...)
	}
	if mode, ok := word("mode"); ok {
		if p.logged = mode == "log"; !p.logged && mode != "enforce" {
			bad("mode", "log or enforce", "%q is not a mode of a policy", mode)
		}
	}
	onDeny, held := word("on_deny")
	switch {
	case !held:
	case !p.forbid:
		bad("on_deny", "annotate the policy that forbids", "only what a policy forbids can be approved")
		return
	case onDeny == "deny":
		held = false
	case onDeny != "approval":
		bad("on_deny", "deny or approval", "%q is not what can follow a deny", onDeny)
		return
	}
	if !held {
		for _, name := range []string{"approver_role", "quorum", "expires", "escalate"} {
			if _, ok := word(name); ok {
				bad(name, `add @on_deny("approval"), or leave it out`, "@%s means nothing without an approval", name)
			}
		}
		return
	}
	n := &sallyport.Need{Policy: p.id, Says: p.says, Roles: []sallyport.Role{sallyport.Approver}, Quorum: 1, Within: sallyport.DefaultApprovalTime}
	if text, ok := word("approver_role"); ok {
		n.Roles = nil
		for name := range strings.SplitSeq(text, ",") {
			var r sallyport.Role
			if err := r.UnmarshalText([]byte(strings.TrimSpace(name))); err != nil {
				bad("approver_role", "", "%v", err)
			}
			n.Roles = append(n.Roles, r)
		}
	}
	if text, ok := word("quorum"); ok {
		var err error
		if n.Quorum, err = strconv.Atoi(text); err != nil || n.Quorum < 1 || n.Quorum > sallyport.MostQuorum {
			bad("quorum", fmt.Sprintf("1 to %d", sallyport.MostQuorum), "%q is not a number of people", text)
		}
	}
	if text, ok := word("expires"); ok {
		var err error
		if n.Within, err = time.ParseDuration(text); err != nil || n.Within < sallyport.LeastApprovalTime || n.Within > sallyport.MostApproval {
			bad("expires", "from 1m to 168h", "%q is not a time to decide in", text)
		}
	}
	if text, ok := word("escalate"); ok {
		for step := range strings.SplitSeq(text, ",") {
			var e sallyport.Escalation
			after, role, _ := strings.Cut(strings.TrimSpace(step), " ")
			var err error
			if e.After, err = time.ParseDuration(after); err != nil || e.After <= 0 || e.After >= n.Within {
				bad("escalate", `as in "20m operator, 40m admin", before the approval expires`, "%q is not when to ask somebody else", step)
			} else if err := e.Role.UnmarshalText([]byte(strings.TrimSpace(role))); err != nil {
				bad("escalate", "", "%v", err)
			}
			n.Escalate = append(n.Escalate, e)
		}
	}
	p.need = n
}

// without makes a scope what cedar.Authorize evaluates of it when some policies are left
// out.
type without struct {
	*scope
	out func(*policy) bool
}

// All yields the policies that are not left out.
func (w without) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i, p := range w.policies {
			if !w.out(p) && !yield(w.ids[i], p.body) {
				return
			}
		}
	}
}

func (p *policy) isLogged() bool { return p.logged }

// lifted reports whether a policy would not be in the way of a call that people approved.
func (p *policy) lifted() bool { return p.logged || p.need != nil }

func (p *policy) mode() string {
	switch {
	case p.logged:
		return "log"
	case p.need != nil:
		return "approval"
	}
	return ""
}

// judge decides by the policies that are enforced, and says what people could still do
// about it and what those that are tried out would have said.
func (r *request) judge() sallyport.Decision {
	if !r.scope.manners {
		return r.authorize(r.scope)
	}
	d := r.authorize(without{r.scope, (*policy).isLogged})
	if !d.Allow && len(d.Errors) == 0 && len(d.Reasons) > 0 &&
		!slices.ContainsFunc(d.Reasons, func(r sallyport.Reason) bool { return r.Need == nil }) {
		if but := r.authorize(without{r.scope, (*policy).lifted}); but.Allow {
			d.Held = true
		} else {
			d = but // nobody permits it, so there is nothing to approve
		}
	}
	if slices.ContainsFunc(r.scope.policies, (*policy).isLogged) {
		for _, reason := range r.authorize(r.scope).Reasons {
			if r.set.byID[cedar.PolicyID(reason.Policy)].logged {
				d.Logged = append(d.Logged, reason)
			}
		}
	}
	return d
}
