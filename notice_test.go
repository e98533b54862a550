package sallyport_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
)

func TestUntold(t *testing.T) {
	asked := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	a := sallyport.Approval{
		State: sallyport.ApprovalPending, Asked: asked, Expires: asked.Add(time.Hour),
		Needs: []sallyport.Need{
			{Roles: []sallyport.Role{sallyport.Approver}, Escalate: []sallyport.Escalation{{After: 20 * time.Minute, Role: sallyport.Operator}, {After: 40 * time.Minute, Role: sallyport.Admin}}},
			{Roles: []sallyport.Role{sallyport.Reviewer}, Escalate: []sallyport.Escalation{{After: 30 * time.Minute, Role: sallyport.Approver}}},
		},
	}
	denied := a
	denied.State, denied.Decided = sallyport.ApprovalDenied, asked.Add(25*time.Minute)
	both := []sallyport.Role{sallyport.Approver, sallyport.Reviewer}
	with := func(r ...sallyport.Role) []sallyport.Role { return append(slices.Clone(both), r...) }
	for _, c := range []struct {
		name  string
		a     *sallyport.Approval
		told  sallyport.Told
		at    time.Duration
		want  []sallyport.Telling
		after sallyport.Told
		again time.Duration // since asked; zero for never
	}{
		{"at once", &a, 0, 0, []sallyport.Telling{{Event: sallyport.ApprovalAsked, Roles: both}}, 1, 20 * time.Minute},
		{"told already", &a, 1, time.Minute, nil, 1, 20 * time.Minute},
		{"the next role", &a, 1, 20 * time.Minute, []sallyport.Telling{{Event: sallyport.ApprovalEscalated, Roles: []sallyport.Role{sallyport.Operator}}}, 2, 30 * time.Minute},
		{"a role that was asked is not told again", &a, 2, 30 * time.Minute, nil, 3, 40 * time.Minute},
		{"the last", &a, 3, 40 * time.Minute, []sallyport.Telling{{Event: sallyport.ApprovalEscalated, Roles: []sallyport.Role{sallyport.Admin}}}, 4, time.Hour},
		{"two at once", &a, 1, 50 * time.Minute, []sallyport.Telling{{Event: sallyport.ApprovalEscalated, Roles: []sallyport.Role{sallyport.Operator, sallyport.Admin}}}, 4, time.Hour},
		{"late", &a, 0, 50 * time.Minute, []sallyport.Telling{{Event: sallyport.ApprovalAsked, Roles: with(sallyport.Operator, sallyport.Admin)}}, 4, time.Hour},
		{"expired, before it was swept", &a, 4, time.Hour, []sallyport.Telling{{Event: sallyport.ApprovalLapsed, Roles: with(sallyport.Operator, sallyport.Admin)}}, sallyport.ToldAll, 0},
		{"denied", &denied, 2, 26 * time.Minute, []sallyport.Telling{{Event: sallyport.ApprovalDecided, Roles: with(sallyport.Operator)}}, sallyport.ToldAll, 0},
		{"denied before anybody was told", &denied, 0, 2 * time.Hour, []sallyport.Telling{{Event: sallyport.ApprovalDecided, Roles: with(sallyport.Operator)}}, sallyport.ToldAll, 0},
		{"over", &denied, sallyport.ToldAll, 2 * time.Hour, nil, sallyport.ToldAll, 0},
	} {
		got, after, again := c.a.Untold(c.told, asked.Add(c.at))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		want := time.Time{}
		if c.again != 0 {
			want = asked.Add(c.again)
		}
		if after != c.after || !again.Equal(want) {
			t.Errorf("%s: told %d, again at %v; want %d, %v", c.name, after, again, c.after, want)
		}
	}
}

// TestUntoldOnce: whenever it is looked, each role that is asked is told so once, nobody
// is told before the time of their role, and the end is told once and last.
func TestUntoldOnce(t *testing.T) {
	roles := []sallyport.Role{sallyport.Reviewer, sallyport.Approver, sallyport.Operator, sallyport.Admin}
	asked := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		minute := func(label string) time.Duration {
			return time.Duration(rapid.IntRange(1, 59).Draw(t, label)) * time.Minute
		}
		role := rapid.SampledFrom(roles)
		a := sallyport.Approval{State: sallyport.ApprovalPending, Asked: asked, Expires: asked.Add(time.Hour)}
		for range rapid.IntRange(1, 3).Draw(t, "needs") {
			n := sallyport.Need{Roles: rapid.SliceOfNDistinct(role, 1, 2, rapid.ID[sallyport.Role]).Draw(t, "roles")}
			for range rapid.IntRange(0, 3).Draw(t, "steps") {
				n.Escalate = append(n.Escalate, sallyport.Escalation{After: minute("after"), Role: role.Draw(t, "role")})
			}
			a.Needs = append(a.Needs, n)
		}
		decided := 1000 * time.Hour
		if rapid.Bool().Draw(t, "decided") {
			decided = minute("decided at")
		}
		looks := rapid.SliceOfN(rapid.IntRange(0, 90), 1, 20).Draw(t, "looks")
		slices.Sort(looks)
		told, ends := sallyport.Told(0), 0
		knows := map[sallyport.Role]int{}
		for _, m := range append(looks, 120) {
			at := time.Duration(m) * time.Minute
			if at >= decided {
				a.State, a.Decided = sallyport.ApprovalApproved, asked.Add(decided)
			}
			var tellings []sallyport.Telling
			var again time.Time
			tellings, told, again = a.Untold(told, asked.Add(at))
			for _, what := range tellings {
				switch what.Event {
				case sallyport.ApprovalAsked, sallyport.ApprovalEscalated:
					if ends > 0 {
						t.Fatal("asked after its end")
					}
					for _, r := range what.Roles {
						if knows[r]++; knows[r] > 1 {
							t.Fatalf("%s is asked twice", r)
						}
						if !slices.ContainsFunc(a.Needs, func(n sallyport.Need) bool { return slices.Contains(n.RolesAt(at), r) }) {
							t.Fatalf("%s is asked and may not decide yet", r)
						}
					}
				case sallyport.ApprovalDecided, sallyport.ApprovalLapsed:
					if ends++; (what.Event == sallyport.ApprovalDecided) != (decided < time.Hour) {
						t.Fatalf("decided after %v, and told %s", decided, what.Event)
					}
				}
			}
			if told != sallyport.ToldAll {
				if !again.After(asked.Add(at)) {
					t.Fatalf("at %v it is to be looked again at %v", at, again)
				}
				for i := range a.Needs {
					for _, r := range a.Needs[i].RolesAt(at) {
						if knows[r] != 1 {
							t.Fatalf("%s may decide after %v and does not know", r, at)
						}
					}
				}
			}
		}
		if ends != 1 {
			t.Fatalf("its end is told %d times", ends)
		}
	})
}
