package sallyport_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport"
)

// TestMet: an approval is met exactly when, for each need, enough different persons who may
// decide said yes last, to the arguments as they are now.
func TestMet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		asked := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		now := asked.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes")) * time.Minute)
		role := rapid.SampledFrom([]sallyport.Role{sallyport.Approver, sallyport.Operator, sallyport.Reviewer})
		people := map[sallyport.PersonID]*sallyport.Person{}
		for i := range 5 {
			id := sallyport.PersonID(fmt.Sprintf("p%d", i))
			people[id] = &sallyport.Person{ID: id, Roles: rapid.SliceOfN(role, 0, 2).Draw(t, "roles")}
		}
		name := rapid.SampledFrom([]sallyport.PersonID{"p0", "p1", "p2", "p3", "p4", "gone"})
		edit := rapid.SampledFrom([]sallyport.Digest{"", "e1"})
		a := sallyport.Approval{Asked: asked, Tier: rapid.SampledFrom([]sallyport.Tier{sallyport.TierLow, sallyport.TierHigh}).Draw(t, "tier"), Owner: string(name.Draw(t, "owner"))}
		a.Bound.Person, a.Bound.Edited = name.Draw(t, "asks"), edit.Draw(t, "edited")
		for range rapid.IntRange(0, 3).Draw(t, "needs") {
			n := sallyport.Need{Roles: []sallyport.Role{role.Draw(t, "role")}, Quorum: rapid.IntRange(1, 3).Draw(t, "quorum")}
			if rapid.Bool().Draw(t, "escalates") {
				n.Escalate = []sallyport.Escalation{{After: time.Hour, Role: role.Draw(t, "later")}}
			}
			a.Needs = append(a.Needs, n)
		}
		for range rapid.IntRange(0, 8).Draw(t, "votes") {
			a.Votes = append(a.Votes, sallyport.Vote{Person: name.Draw(t, "by"), Approve: rapid.Bool().Draw(t, "yes"), Edited: edit.Draw(t, "to")})
		}
		// The same, said the other way round.
		want := len(a.Needs) > 0
		for _, n := range a.Needs {
			found := 0
			for id, p := range people {
				last := -1
				for i, v := range a.Votes {
					if v.Person == id {
						last = i
					}
				}
				if last < 0 || !a.Votes[last].Approve || a.Votes[last].Edited != a.Bound.Edited || id == a.Bound.Person || a.Tier == sallyport.TierHigh && string(id) == a.Owner {
					continue
				}
				may := p.Has(n.Roles...)
				for _, e := range n.Escalate {
					may = may || now.Sub(asked) >= e.After && p.Has(e.Role)
				}
				if may {
					found++
				}
			}
			want = want && found >= n.Quorum
		}
		got := a.Met(a.Needs, func(id sallyport.PersonID) *sallyport.Person { return people[id] }, now)
		if got != want {
			t.Fatalf("met: %v, want %v: %+v", got, want, a)
		}
	})
}
