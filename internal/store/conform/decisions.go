package conform

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/canonical"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// putKey makes a key as a person does.
func (r *rig) putKey(k control.Key) error {
	record := r.record(audit.KeyMade, map[string]any{"key": k.ID, "kind": k.Kind, "ceiling": k.Ceiling, "expires": k.Expires})
	record.Principal = &audit.Principal{Agent: k.Agent, Release: k.Release, Key: k.ID}
	return r.Commit(context.Background(), record, control.PutKey{Key: k})
}

func (r *rig) putPerson(p sallyport.Person) error {
	record := r.record(audit.PersonMade, map[string]any{"roles": p.Roles})
	record.Principal = &audit.Principal{Person: string(p.ID)}
	return r.Commit(context.Background(), record, control.PutPerson{Person: p})
}

// promote moves a stage pointer as a person does.
func (r *rig) promote(p control.Pointer, was sallyport.ReleaseID) error {
	record := r.record(audit.Promoted, map[string]any{"from": was, "reason": p.Reason})
	record.By, record.Stage, record.Principal = string(p.By), p.Stage, &audit.Principal{Agent: p.Agent, Release: p.Release}
	return r.Commit(context.Background(), record, control.SetPointer{
		Agent: p.Agent, Stage: p.Stage, Release: p.Release, Was: was, By: p.By, Reason: p.Reason, At: p.At,
	})
}

func (r *rig) decided() *control.Decided {
	r.Helper()
	d, err := r.Decided(context.Background())
	r.must(err)
	if d.Epoch != r.Epoch() {
		r.Errorf("decided at epoch %d, which is %d", d.Epoch, r.Epoch())
	}
	return d
}

// inForce is all that people can have decided, as it can be seen.
type inForce struct {
	Decided *control.Decided
	Persons []sallyport.Person
	Keys    []control.Key
	Size    int64
}

func (r *rig) inForce() inForce {
	r.Helper()
	ctx := context.Background()
	people, err := r.Persons(ctx)
	r.must(err)
	keys, err := r.ListKeys(ctx, "", 0, time.Time{}, "", 1000)
	r.must(err)
	return inForce{r.decided(), people, keys, r.Size()}
}

// allOrNothing: changes and their record are made durable together; if one of the
// changes cannot be made, none is.
func allOrNothing(r *rig) {
	ctx := context.Background()
	run := r.started()
	r.must(r.promote(control.Pointer{Agent: "support", Stage: sallyport.Staging, Release: digest("one"), By: ana, Reason: "first", At: r.now()}, ""))
	r.must(r.Commit(ctx, r.applied(), control.SetConfig{Stage: sallyport.Staging, Digest: digest("config")}, control.SetLatest{Agent: "support", Release: digest("one")}))
	r.must(r.putPerson(sallyport.Person{ID: ana, Roles: []sallyport.Role{sallyport.Admin}}))
	n := 0
	good := func() []control.Change {
		n++
		return []control.Change{
			control.SetPointer{Agent: "support", Stage: sallyport.Staging, Release: digest("two"), Was: digest("one"), At: r.now()},
			control.SetPointer{Agent: "support", Stage: sallyport.Sandbox, Release: digest("two"), At: r.now()},
			control.SetConfig{Stage: sallyport.Production, Digest: digest("config")},
			control.SetLatest{Agent: "support", Release: digest("two")},
			control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "no", At: r.now()}},
			control.PutPerson{Person: sallyport.Person{ID: ben, Roles: []sallyport.Role{sallyport.Viewer}}},
			control.PutPerson{Person: sallyport.Person{ID: ana, Roles: []sallyport.Role{sallyport.Viewer}}},
			control.PutKey{Key: control.Key{ID: sallyport.KeyID(fmt.Sprint("key_", n)), Hash: [32]byte{1: byte(n >> 8), 2: byte(n)}, Made: r.now()}},
			control.PutRun{Run: r.newRun()},
			control.EndRun{ID: run.ID, At: r.now()},
			control.PutVersion{Kind: control.ReleaseVersion, Digest: digest("two"), Body: []byte(`{}`)},
		}
	}
	bad := []struct {
		code   sallyport.Code
		change control.Change
	}{
		{sallyport.Conflict, control.SetPointer{Agent: "support", Stage: sallyport.Production, Release: digest("two"), Was: digest("one"), At: r.now()}},
		{sallyport.Conflict, control.SetConfig{Stage: sallyport.Sandbox, Digest: digest("two"), Was: digest("one")}},
		{sallyport.NotFound, control.DropHalt{Scope: sallyport.HaltAgent, Subject: "nobody"}},
		{sallyport.NotFound, control.RevokeKey{ID: "key_none", At: r.now()}},
		{sallyport.NotFound, control.Settle{Call: "call_none"}},
		{sallyport.NoRun, control.EndRun{ID: "run_none", At: r.now()}},
		{sallyport.Unauthenticated, control.UseLink{Hash: [32]byte{9}, At: r.now()}},
		{sallyport.NotFound, control.PutAnswer{Answer: control.Answer{Key: "none", Status: 200, At: r.now()}}},
	}
	before := r.inForce()
	r.property(func(t *rapid.T) {
		all := good()
		changes := rapid.Permutation(all).Draw(t, "changes")[:rapid.IntRange(1, len(all)).Draw(t, "how many")]
		b := bad[rapid.IntRange(0, len(bad)-1).Draw(t, "what cannot be done")]
		changes = slices.Insert(changes, rapid.IntRange(0, len(changes)).Draw(t, "where"), b.change)
		record := r.applied()
		if rapid.Bool().Draw(t, "without a record") {
			record = nil
		}
		r.wants(b.code, r.Commit(ctx, record, changes...))
		if d := cmp.Diff(before, r.inForce()); d != "" {
			r.Fatal(d)
		}
		if _, err := r.Release(ctx, digest("two")); err == nil {
			r.Fatal("a version was registered")
		}
	})
	if got := r.state(run.ID); got != sallyport.RunOpen {
		r.Errorf("the run is %s", got)
	}
	_, err := r.intend(run) // nothing is halted in memory either
	r.must(err)
	before.Size = r.Size()
	r.crash()
	if d := cmp.Diff(before, r.inForce()); d != "" {
		r.Error(d)
	}
}

// pointersAndConfigs are set by whoever knows what they were, and by nobody else.
func pointersAndConfigs(r *rig) {
	ctx := context.Background()
	type place struct {
		agent sallyport.AgentID
		stage sallyport.Stage
	}
	pointers, configs := map[place]control.Pointer{}, map[sallyport.Stage]sallyport.Digest{}
	latest := map[sallyport.AgentID]sallyport.ReleaseID{}
	check := func() {
		r.Helper()
		want := &control.Decided{Epoch: r.Epoch(), Configs: configs, Latest: latest}
		for _, p := range pointers {
			want.Pointers = append(want.Pointers, p)
		}
		slices.SortFunc(want.Pointers, func(a, b control.Pointer) int {
			return strings.Compare(fmt.Sprint(a.Agent, " ", int(a.Stage)), fmt.Sprint(b.Agent, " ", int(b.Stage)))
		})
		if d := cmp.Diff(want, r.decided()); d != "" {
			r.Fatal(d)
		}
	}
	some := rapid.SampledFrom([]sallyport.Digest{digest("a"), digest("b"), digest("c")})
	r.property(func(t *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			stage := rapid.SampledFrom(sallyport.Stages).Draw(t, "stage")
			at := place{rapid.SampledFrom([]sallyport.AgentID{"support", "billing"}).Draw(t, "agent"), stage}
			to := some.Draw(t, "to")
			pointer := rapid.Bool().Draw(t, "pointer")
			is := configs[stage]
			if pointer {
				is = pointers[at].Release
			}
			was := is
			if rapid.IntRange(0, 2).Draw(t, "knows") == 0 {
				was = rapid.OneOf(some, rapid.Just[sallyport.Digest]("")).Draw(t, "was")
			}
			r.pass(time.Second)
			size, epoch := r.Size(), r.Epoch()
			p := control.Pointer{Agent: at.agent, Stage: stage, Release: to, By: ana, Reason: r.id("because"), At: r.now()}
			var err error
			if pointer {
				err = r.promote(p, was)
			} else {
				err = r.Commit(ctx, r.applied(), control.SetConfig{Stage: stage, Digest: to, Was: was}, control.SetLatest{Agent: at.agent, Release: to})
			}
			switch {
			case was != is:
				r.wants(sallyport.Conflict, err)
				if r.Size() != size || r.Epoch() != epoch {
					r.Fatalf("size %d, epoch %d after a conflict at %d, %d", r.Size(), r.Epoch(), size, epoch)
				}
				continue
			case err != nil:
				r.Fatal(err)
			case pointer:
				pointers[at] = p
			default:
				configs[stage], latest[at.agent] = to, to
			}
			if r.Size() != size+1 || r.Epoch() <= epoch {
				r.Fatalf("size %d, epoch %d after %d, %d", r.Size(), r.Epoch(), size, epoch)
			}
		}
		check()
	})
	epoch := r.Epoch()
	for _, again := range []func(){r.reopen, r.crash} {
		again()
		check()
		if r.Epoch() != epoch {
			r.Errorf("another start is at epoch %d, not %d", r.Epoch(), epoch)
		}
	}
}

// pointersRace: of many who move a pointer from the same place one does, and the
// records tell the moves in the order in which they were made.
func pointersRace(r *rig) {
	type move struct{ from, to sallyport.ReleaseID }
	var mu sync.Mutex
	var moves []move
	ben := ben
	sides(50, func(i int) {
		to := digest(fmt.Sprint("first ", i))
		if err := r.promote(control.Pointer{Agent: "support", Stage: sallyport.Sandbox, Release: to, By: ben, Reason: "mine", At: r.now()}, ""); err == nil {
			mu.Lock()
			moves = append(moves, move{"", to})
			mu.Unlock()
		} else {
			r.wants(sallyport.Conflict, err)
		}
	})
	if len(moves) != 1 {
		r.Errorf("%d made the first move", len(moves))
	}
	sides(16, func(i int) {
		for n := range 6 {
			d, err := r.Decided(context.Background())
			if err != nil || len(d.Pointers) != 1 {
				r.Errorf("%+v, %v", d, err)
				return
			}
			m := move{d.Pointers[0].Release, digest(fmt.Sprint(i, " ", n))}
			if err := r.promote(control.Pointer{Agent: "support", Stage: sallyport.Sandbox, Release: m.to, By: ben, Reason: "mine", At: r.now()}, m.from); err == nil {
				mu.Lock()
				moves = append(moves, m)
				mu.Unlock()
			} else {
				r.wants(sallyport.Conflict, err)
			}
		}
	})
	next := map[sallyport.ReleaseID]sallyport.ReleaseID{}
	for _, m := range moves {
		if to, twice := next[m.from]; twice {
			r.Errorf("from %s it was moved to %s and to %s", m.from.Short(), to.Short(), m.to.Short())
		}
		next[m.from] = m.to
	}
	at := sallyport.ReleaseID("")
	n := 0
	for _, record := range r.log() {
		if to := next[at]; record.Principal.Release != to {
			r.Fatalf("record %d says %s, and it was moved to %s", n, record.Principal.Release.Short(), to.Short())
		}
		at = next[at]
		n++
	}
	if n != len(moves) || r.decided().Pointers[0].Release != at {
		r.Errorf("%d records of %d moves; it is at %s, not %s", n, len(moves), r.decided().Pointers[0].Release.Short(), at.Short())
	}
}

// decidedIsOneState: whoever reads what has been decided sees all of a commit or
// nothing of it, and never an older state after a newer one.
func decidedIsOneState(r *rig) {
	ctx := context.Background()
	both := func(n int) (err error) {
		was := sallyport.ReleaseID("")
		if n > 0 {
			was = digest(fmt.Sprint(n - 1))
		}
		to := digest(fmt.Sprint(n))
		changes := []control.Change{control.SetConfig{Stage: sallyport.Sandbox, Was: was, Digest: to}, control.SetLatest{Agent: "support", Release: to}}
		if n%2 == 0 {
			changes = append(changes, control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltAgent, Subject: "support", Reason: string(to), At: r.now()}})
			return r.Commit(ctx, r.record(audit.HaltedK, map[string]any{"scope": sallyport.HaltAgent, "subject": "support"}), changes...)
		}
		changes = append(changes, control.DropHalt{Scope: sallyport.HaltAgent, Subject: "support"})
		return r.Commit(ctx, r.record(audit.Resumed, map[string]any{"scope": sallyport.HaltAgent, "subject": "support"}), changes...)
	}
	const rounds = 80
	number := map[sallyport.Digest]int{}
	for n := range rounds {
		number[digest(fmt.Sprint(n))] = n
	}
	r.must(both(0))
	var over atomic.Bool
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			seen, epoch := 0, int64(0)
			for last := false; !last; {
				last = over.Load()
				acknowledged := r.Epoch()
				d, err := r.Decided(ctx)
				if err != nil {
					r.Error(err)
					return
				}
				n, ok := number[d.Configs[sallyport.Sandbox]]
				if !ok || n < seen || d.Epoch < epoch || d.Epoch < acknowledged || (n > seen) != (d.Epoch > epoch) && epoch > 0 ||
					d.Latest["support"] != d.Configs[sallyport.Sandbox] || len(d.Halts) != 1-n%2 || len(d.Halts) > 0 && d.Halts[0].Reason != string(d.Latest["support"]) {
					r.Errorf("after %d at epoch %d: %d, %+v", seen, epoch, n, d)
					return
				}
				seen, epoch = n, d.Epoch
			}
			if seen != rounds-1 {
				r.Errorf("the last that was seen is %d", seen)
			}
		})
	}
	for n := 1; n < rounds; n++ {
		if err := both(n); err != nil {
			r.Error(err)
		}
	}
	over.Store(true)
	wait.Wait()
}

// halts are pulled again and again, and released once.
func halts(r *rig) {
	list := func(want ...sallyport.Halt) {
		r.Helper()
		for _, again := range []func(){func() {}, r.reopen, r.crash} {
			again()
			if d := cmp.Diff(want, r.decided().Halts); d != "" {
				r.Fatal(d)
			}
		}
	}
	h := func(scope sallyport.HaltScope, subject string) sallyport.Halt {
		return sallyport.Halt{Scope: scope, Subject: subject, Reason: "wrong", By: string(ana), At: r.now()}
	}
	first := h(sallyport.HaltTool, "crm/write")
	r.must(r.halt(sallyport.HaltTool, "crm/write"))
	r.pass(time.Minute)
	second := h(sallyport.HaltGlobal, "")
	r.must(r.halt(sallyport.HaltGlobal, ""))
	list(first, second)
	r.pass(time.Minute)
	first = h(sallyport.HaltTool, "crm/write") // again, and so the newest
	r.must(r.halt(sallyport.HaltTool, "crm/write"))
	list(second, first)
	epoch := r.Epoch()
	var released atomic.Int64
	sides(50, func(int) {
		if err := r.resume(sallyport.HaltTool, "crm/write"); err == nil {
			released.Add(1)
		} else {
			r.wants(sallyport.NotFound, err)
		}
	})
	if released.Load() != 1 || r.Epoch() <= epoch {
		r.Errorf("released %d times, at epoch %d after %d", released.Load(), r.Epoch(), epoch)
	}
	list(second)
	r.wants(sallyport.NotFound, r.resume(sallyport.HaltGlobal, "x"))
	r.must(r.resume(sallyport.HaltGlobal, ""))
	list()
}

// linksAreUsedOnce, however many try, and not when they have expired.
func linksAreUsedOnce(r *rig) {
	ctx := context.Background()
	r.must(r.putPerson(sallyport.Person{ID: ana, Roles: []sallyport.Role{sallyport.Admin}}))
	signIn := func(link byte) error {
		k := control.Key{ID: sallyport.KeyID(r.id("key")), Kind: sallyport.KeyPerson, Person: ana, Made: r.now(), Expires: r.now().Add(time.Hour)}
		copy(k.Hash[:], k.ID)
		return r.Commit(ctx, r.record(audit.SignedIn, map[string]any{"key": k.ID, "expires": k.Expires}), control.UseLink{Hash: [32]byte{link}, At: r.now()}, control.PutKey{Key: k})
	}
	keys := func() int {
		r.Helper()
		keys, err := r.ListKeys(ctx, "", sallyport.KeyPerson, time.Time{}, "", 1000)
		r.must(err)
		return len(keys)
	}
	until := r.now().Add(15 * time.Minute)
	for _, link := range []byte{1, 2, 3} {
		r.must(r.Commit(ctx, nil, control.PutLink{Link: control.Link{Hash: [32]byte{link}, Person: ana, Expires: until}}))
	}
	if err := r.Commit(ctx, nil, control.PutLink{Link: control.Link{Hash: [32]byte{1}, Person: ben, Expires: until}}); err == nil {
		r.Error("a link was made twice")
	}
	r.wants(sallyport.Unauthenticated, signIn(9))
	var used atomic.Int64
	sides(50, func(int) {
		if err := signIn(1); err == nil {
			used.Add(1)
		} else {
			r.wants(sallyport.Unauthenticated, err)
		}
	})
	if used.Load() != 1 || keys() != 1 {
		r.Errorf("used %d times for %d keys", used.Load(), keys())
	}
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		r.wants(sallyport.Unauthenticated, signIn(1))
	}
	l, err := r.Link(ctx, [32]byte{2})
	r.must(err)
	if d := cmp.Diff(&control.Link{Hash: [32]byte{2}, Person: ana, Expires: until}, l); d != "" {
		r.Error(d)
	}
	r.clock.Store(until.Add(-time.Microsecond).UnixNano())
	r.must(signIn(2))
	r.clock.Store(until.UnixNano())
	r.wants(sallyport.Unauthenticated, signIn(3))
	if keys() != 2 {
		r.Errorf("%d keys", keys())
	}
}

// keysAndPersons come back as they were put, by what they are asked for by.
func keysAndPersons(r *rig) {
	ctx := context.Background()
	at := r.now().Add(1234567 * time.Microsecond)
	all := []control.Key{
		{ID: "key_host", Kind: sallyport.KeyHost, Agent: "support", Ceiling: sallyport.Production, Note: `the "host", ✓`, Made: at, Expires: at.AddDate(0, 0, 30)},
		{ID: "key_agent", Kind: sallyport.KeyAgent, Agent: "support", Release: digest("one"), Ceiling: sallyport.Sandbox, Made: at.Add(time.Microsecond), Expires: at.AddDate(0, 0, 1)},
		{ID: "key_plain", Kind: sallyport.KeyHost, Agent: "billing", Ceiling: sallyport.Staging, Made: at},
	}
	for i := range all {
		all[i].Hash = [32]byte{byte(i), 0, 0xff, 31: byte(i)}
		r.must(r.putKey(all[i]))
	}
	check := func() {
		r.Helper()
		for _, again := range []func(){func() {}, r.crash} {
			again()
			for i := range all {
				k, err := r.Key(ctx, all[i].Hash)
				r.must(err)
				if d := cmp.Diff(&all[i], k); d != "" {
					r.Error(d)
				}
			}
		}
	}
	check()
	for i, same := range []func(k *control.Key){func(k *control.Key) { k.ID = "key_host" }, func(k *control.Key) { k.Hash = all[0].Hash }} {
		k := control.Key{ID: sallyport.KeyID(fmt.Sprint("key_same_", i)), Hash: [32]byte{5, byte(i)}, Kind: sallyport.KeyHost, Agent: "support", Ceiling: sallyport.Sandbox, Made: at}
		same(&k)
		if err := r.putKey(k); err == nil {
			r.Errorf("another key of the same id or secret was made: %+v", k)
		}
	}
	check()
	epoch := r.Epoch()
	var revoked atomic.Int64
	sides(50, func(int) {
		if err := r.revoke("key_agent"); err == nil {
			revoked.Add(1)
		} else {
			r.wants(sallyport.NotFound, err)
		}
	})
	all[1].Revoked = r.now()
	if revoked.Load() != 1 || r.Epoch() <= epoch {
		r.Errorf("revoked %d times, at epoch %d after %d", revoked.Load(), r.Epoch(), epoch)
	}
	r.pass(time.Hour)
	r.wants(sallyport.NotFound, r.revoke("key_agent")) // and when it was revoked stays
	check()

	every := sallyport.Person{ID: "zoe", Roles: []sallyport.Role{sallyport.Viewer, sallyport.Developer, sallyport.Reviewer, sallyport.Approver, sallyport.Operator, sallyport.Auditor, sallyport.Admin}}
	r.must(r.putPerson(every))
	r.must(r.putPerson(sallyport.Person{ID: ben, Roles: []sallyport.Role{sallyport.Admin, sallyport.Viewer}}))
	r.must(r.putPerson(sallyport.Person{ID: ana, Roles: []sallyport.Role{sallyport.Viewer}}))
	r.must(r.putPerson(sallyport.Person{ID: ana, Roles: []sallyport.Role{sallyport.Approver, sallyport.Operator}}))
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		people, err := r.Persons(ctx)
		r.must(err)
		want := []sallyport.Person{
			{ID: ana, Roles: []sallyport.Role{sallyport.Approver, sallyport.Operator}}, {ID: ben, Roles: []sallyport.Role{sallyport.Admin, sallyport.Viewer}}, every,
		}
		if d := cmp.Diff(want, people); d != "" {
			r.Error(d)
		}
		for i := range want {
			p, err := r.Person(ctx, want[i].ID)
			r.must(err)
			if d := cmp.Diff(&want[i], p); d != "" {
				r.Error(d)
			}
		}
	}
}

func (r *rig) revoke(id sallyport.KeyID) error {
	return r.Commit(context.Background(), r.record(audit.KeyRevoked, map[string]any{"key": id}), control.RevokeKey{ID: id, At: r.now()})
}

// release is one that a project could have.
func (r *rig) release(agent sallyport.AgentID, prompt string) (*sallyport.Release, control.PutVersion) {
	r.Helper()
	v := &sallyport.Release{
		Agent: agent, Owner: string(ana), Tier: sallyport.TierLow, Prompt: prompt, DataDomain: "default",
		Tools: []sallyport.Tool{}, Servers: map[sallyport.UpstreamID]sallyport.PinnedServer{}, Policies: []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: "permit (principal, action, resource);\n// ✓\x00"}},
	}
	var err error
	v.ID, err = config.Digest(v)
	r.must(err)
	return v, control.PutVersion{Kind: control.ReleaseVersion, Digest: v.ID, Body: r.canonical(v)}
}

func (r *rig) canonical(v any) []byte {
	r.Helper()
	raw, err := json.Marshal(v)
	r.must(err)
	raw, err = canonical.JSON(raw)
	r.must(err)
	return raw
}

// versions never change.
func versions(r *rig) {
	ctx := context.Background()
	v, put := r.release("support", "p")
	c := &sallyport.StageConfig{Stage: sallyport.Staging, Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{}, ExplicitRuns: true}
	var err error
	c.ID, err = config.Digest(c)
	r.must(err)
	applied := r.now()
	r.must(r.Commit(ctx, r.applied(), put, control.PutVersion{Kind: control.StageVersion, Digest: c.ID, Body: r.canonical(c)}))
	for _, again := range []func(){func() {}, r.reopen, r.crash} {
		again()
		// Once more is nothing, whatever is said to be in it.
		r.pass(time.Hour)
		other := put
		other.Body = []byte(`{"agent":"another"}`)
		r.must(r.Commit(ctx, r.applied(), put, other))
		a, err := r.Applied(ctx, v.ID)
		r.must(err)
		if d := cmp.Diff(&control.Registered{Release: v, At: applied}, a); d != "" {
			r.Error(d)
		}
		have, err := r.Release(ctx, v.ID)
		r.must(err)
		if d := cmp.Diff(v, have); d != "" {
			r.Error(d)
		}
		stage, err := r.StageConfig(ctx, c.ID)
		r.must(err)
		if d := cmp.Diff(c, stage); d != "" {
			r.Error(d)
		}
		// One is not the other.
		_, err = r.Release(ctx, c.ID)
		r.wants(sallyport.NoRelease, err)
		_, err = r.StageConfig(ctx, v.ID)
		r.wants(sallyport.NoRelease, err)
	}
}

// refusals: what is not there, or not so any more, is refused with its code.
func refusals(r *rig) {
	ctx := context.Background()
	commit := func(changes ...control.Change) func() error {
		return func() error { return r.Commit(ctx, r.applied(), changes...) }
	}
	run := r.started()
	r.must(r.end(run, ""))
	r.must(r.putKey(control.Key{ID: "key_1", Kind: sallyport.KeyHost, Agent: "support", Ceiling: sallyport.Sandbox, Hash: [32]byte{1}, Made: r.now()}))
	r.must(r.revoke("key_1"))
	for name, c := range map[string]struct {
		code sallyport.Code
		do   func() error
	}{
		"person":               {sallyport.NotFound, func() error { _, err := r.Person(ctx, "nobody"); return err }},
		"link":                 {sallyport.Unauthenticated, func() error { _, err := r.Link(ctx, [32]byte{1}); return err }},
		"key":                  {sallyport.Unauthenticated, func() error { _, err := r.Key(ctx, [32]byte{}); return err }},
		"release":              {sallyport.NoRelease, func() error { _, err := r.Release(ctx, digest("none")); return err }},
		"applied":              {sallyport.NoRelease, func() error { _, err := r.Applied(ctx, digest("none")); return err }},
		"stage":                {sallyport.NoRelease, func() error { _, err := r.StageConfig(ctx, digest("none")); return err }},
		"run":                  {sallyport.NoRun, func() error { _, err := r.Run(ctx, "run_none"); return err }},
		"open":                 {sallyport.NoRun, func() error { _, err := r.Open(ctx, "run_none", r.now()); return err }},
		"open an ended run":    {sallyport.NoRun, func() error { _, err := r.Open(ctx, run.ID, r.now()); return err }},
		"end no run":           {sallyport.NoRun, commit(control.EndRun{ID: "run_none", At: r.now()})},
		"end an ended run":     {sallyport.NoRun, commit(control.EndRun{ID: run.ID, At: r.now(), Close: &sallyport.RunClose{Outcome: "success"}})},
		"call":                 {sallyport.NotFound, func() error { _, _, err := r.Call(ctx, sallyport.CallID(r.id("call")), nil); return err }},
		"revoke no key":        {sallyport.NotFound, commit(control.RevokeKey{ID: "key_none", At: r.now()})},
		"revoke a revoked key": {sallyport.NotFound, commit(control.RevokeKey{ID: "key_1", At: r.now()})},
		"resume nothing":       {sallyport.NotFound, commit(control.DropHalt{Scope: sallyport.HaltGlobal})},
		"settle nothing":       {sallyport.NotFound, commit(control.Settle{Call: "call_none"})},
		"use no link":          {sallyport.Unauthenticated, commit(control.UseLink{At: r.now()})},
		"move no pointer":      {sallyport.Conflict, commit(control.SetPointer{Agent: "a", Stage: sallyport.Sandbox, Release: "b", Was: "c", At: r.now()})},
		"replace no config":    {sallyport.Conflict, commit(control.SetConfig{Stage: sallyport.Sandbox, Digest: "b", Was: "c"})},
		"fill no answer":       {sallyport.NotFound, commit(control.PutAnswer{Answer: control.Answer{Key: "k", Status: 200, At: r.now()}})},
	} {
		for _, side := range []string{"here", "and again"} {
			size := r.Size()
			if err := c.do(); err == nil {
				r.Errorf("%s, %s: no error", name, side)
			} else {
				r.wants(c.code, err)
			}
			if r.Size() != size {
				r.Errorf("%s, %s: a record was left", name, side)
			}
		}
	}
	r.must(r.Ping(ctx))
}

// closed: who comes too late is told so, and does not wait.
func closed(r *rig) {
	ctx := context.Background()
	run := r.started()
	call, err := r.intend(run)
	r.must(err)
	size := r.Size()
	r.must(r.Close())
	r.must(r.Close()) // which is nothing
	r.soon(func() {
		for name, do := range map[string]func() error{
			"commit":       func() error { return r.Commit(ctx, r.applied()) },
			"intend":       func() error { _, err := r.intend(run); return err },
			"conclude":     func() error { return r.conclude(run, call, sallyport.OutcomeOK) },
			"reserve":      func() error { _, err := r.Reserve(ctx, control.Answer{Key: "k", At: r.now()}); return err },
			"keep":         func() error { return r.Keep(ctx, control.Answer{Key: "k", Status: 200, At: r.now()}) },
			"take":         func() error { _, err := r.Take(ctx, "a", sallyport.Rate{Calls: 1, Per: time.Hour}); return err },
			"mark unknown": func() error { _, err := r.MarkUnknown(ctx); return err },
			"sweep":        func() error { _, err := r.Sweep(ctx); return err },
			"checkpoint":   func() error { return r.Checkpoint() },
			"ping":         func() error { return r.Ping(ctx) },
			"implicit": func() error {
				_, err := r.Implicit(ctx, &gateway.Identity{Key: "key_1", Agent: "support"}, digest("one"), sallyport.Sandbox, r.now())
				return err
			},
		} {
			if do() == nil {
				r.Errorf("%s: no error", name)
			}
		}
	})
	r.open()
	if r.Size() != size {
		r.Errorf("%d records after %d", r.Size(), size)
	}
}
