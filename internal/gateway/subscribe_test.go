package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/wire"
)

// kiosk is a rig whose upstream crm tells of resources.
type kiosk struct {
	*wide
	t *testing.T

	mu       sync.Mutex
	watching map[string]*Watching // by resource
	ended    map[string]int
	told     []string
	closed   error // of the run
}

const readKiosk = `permit (principal, action, resource);
forbid (principal, action == Action::"resources/read", resource) when { context.uri like "*secret*" };`

func newKiosk(t *testing.T) *kiosk {
	t.Helper()
	k := &kiosk{wide: newWide(t, readKiosk, nil, "crm"), t: t, watching: map[string]*Watching{}, ended: map[string]int{}}
	k.Runs = k
	k.on("crm", func(_ context.Context, q *Request) (*Response, error) {
		if q.Watching == nil {
			t.Errorf("%s comes without a way to tell", q.Method)
			return k.says(`{}`), nil
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.watching[q.Message.Name] = q.Watching
		r := k.says(`{}`)
		r.Watch = &stall{k: k, uri: q.Message.Name}
		return r, nil
	})
	return k
}

type stall struct {
	k    *kiosk
	uri  string
	once sync.Once
}

func (s *stall) End() {
	s.once.Do(func() {
		s.k.mu.Lock()
		defer s.k.mu.Unlock()
		s.k.ended[s.uri]++
	})
}

func (k *kiosk) Open(ctx context.Context, id sallyport.RunID, now time.Time) (*Run, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed != nil {
		return nil, k.closed
	}
	return k.rig.Open(ctx, id, now)
}

// session is a client with sessions that keeps what it is told.
func (k *kiosk) session() *Session {
	return &Session{ID: "s", Key: "key_1", Deliver: func(raw []byte) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.told = append(k.told, string(raw))
	}}
}

func (k *kiosk) subscribe(s *Session, uri string) Reply {
	k.t.Helper()
	return k.Call(context.Background(), k.request(sallyport.KindResource, wire.MethodResourcesSubscribe, fmt.Sprintf(`{"uri":%q}`, uri), s))
}

// news has the upstream say that addresses have changed, to whoever subscribed to
// one, and returns what the client is told.
func (k *kiosk) news(of string, uris ...string) []string {
	k.t.Helper()
	k.mu.Lock()
	w := k.watching[of]
	k.told = nil
	k.mu.Unlock()
	for _, uri := range uris {
		w.Updated(uri)
	}
	time.Sleep(time.Second) // of the bubble
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.told
}

func updated(uri string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":%q}}`, uri)
}

// TestSubscriptionTells: a client hears of what it asked for and of what lies below,
// if it may read that, each once however often it is said.
func TestSubscriptionTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		refused(t, k.subscribe(s, "a:secret"), sallyport.Denied)
		if n := k.requests("crm"); n != 0 {
			t.Fatalf("the upstream was asked %d times", n)
		}
		succeeded(t, k.subscribe(s, "a:b"))
		for _, c := range []struct {
			say  []string
			want []string
		}{
			{[]string{"a:b", "a:b", "a:b"}, []string{updated("a:b")}},
			{[]string{"a:b/c", "a:b?d"}, []string{updated("a:b/c"), updated("a:b?d")}},
			{[]string{"a:b/secret", "a:bc", "a:", "z:z", ""}, nil},
			{slices.Repeat([]string{"a:b/1", "a:b/2"}, 1000), []string{updated("a:b/1"), updated("a:b/2")}},
		} {
			// Equal ones that wait are told once; one that has been told may be told again.
			got := k.news("a:b", c.say...)
			told := slices.Compact(slices.Sorted(slices.Values(got)))
			if !slices.Equal(told, c.want) || len(got) > len(c.say) {
				t.Errorf("after %d, %.3q, it is told %d times %q", len(c.say), c.say, len(got), told)
			}
		}
		var many []string
		for i := range 10 * maxDue {
			many = append(many, fmt.Sprintf("a:b/%d", i))
		}
		if got := k.news("a:b", many...); len(got) > 2*maxDue || got[len(got)-1] == "" || !slices.Contains(got, updated("a:b")) {
			t.Errorf("of a storm it is told %d times: %.3q", len(got), got)
		}
	})
}

// TestSubscriptionEnds: nothing is told once the client may not read, whoever
// changed that, and the upstream is let go.
func TestSubscriptionEnds(t *testing.T) {
	for name, stops := range map[string]func(k *kiosk, s *Session){
		"unsubscribe": func(k *kiosk, s *Session) {
			succeeded(k.t, k.Call(k.t.Context(), k.request(sallyport.KindResource, wire.MethodResourcesUnsubscribe, `{"uri":"a:b"}`, s)))
		},
		"unsubscribe, refused": func(k *kiosk, s *Session) {
			k.plan.Config.Upstreams = nil
			for _, u := range k.plan.upstreams {
				u.Binding = sallyport.Off
			}
			refused(k.t, k.Call(k.t.Context(), k.request(sallyport.KindResource, wire.MethodResourcesUnsubscribe, `{"uri":"a:b"}`, s)), sallyport.BindingOff)
		},
		"halt": func(k *kiosk, _ *Session) {
			k.Halt(k.t.Context(), sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm", Reason: "x"})
			if n := len(k.subs.all); n != 0 {
				k.t.Errorf("%d go on after the halt is confirmed", n)
			}
		},
		"another release": func(k *kiosk, _ *Session) {
			state := k.decided(2)
			state.Pointers = map[Pointer]sallyport.ReleaseID{{"support", sallyport.Production}: "sha256:other"}
			k.SetState(state)
		},
		"another policy": func(k *kiosk, _ *Session) {
			r := *k.plan.Release
			r.Policies = []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: "permit (principal, action == Action::\"prompts/get\", resource);"}}
			plan, err := NewPlan(&r, k.plan.Config)
			if err != nil {
				k.t.Fatal(err)
			}
			k.plan = plan
		},
		"run ended": func(k *kiosk, _ *Session) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.closed = sallyport.Refuse(sallyport.NoRun, "the run has ended", "")
		},
		"session ended": func(k *kiosk, s *Session) { k.CloseSession(s) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKiosk(t)
				s := k.session()
				defer k.CloseSession(s)
				succeeded(t, k.subscribe(s, "a:b"))
				succeeded(t, k.subscribe(s, "a:b")) // the one takes the place of the other
				if got := k.news("a:b", "a:b"); !slices.Equal(got, []string{updated("a:b")}) || k.ended["a:b"] != 1 {
					t.Fatalf("it is told %q; %d subscriptions have ended", got, k.ended["a:b"])
				}
				stops(k, s)
				if got := k.news("a:b", "a:b"); len(got) > 0 {
					t.Errorf("it is told %q", got)
				}
				if k.ended["a:b"] != 2 || len(k.subs.all) != 0 {
					t.Errorf("%d have ended, %d are left", k.ended["a:b"], len(k.subs.all))
				}
			})
		})
	}
}

// TestSubscriptionIsLookedAt: what nobody tells is judged all the same.
func TestSubscriptionIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		succeeded(t, k.subscribe(s, "a:b"))
		k.mu.Lock()
		k.closed = sallyport.Refuse(sallyport.NoRun, "the run has ended", "")
		k.mu.Unlock()
		time.Sleep(2 * lookAgain)
		synctest.Wait()
		if len(k.subs.all) != 0 || k.ended["a:b"] != 1 {
			t.Error("the subscription of a run that has ended goes on")
		}
	})
}

// TestSubscriptionWhileNotReady: while the gateway may not serve nothing is told,
// and nothing is lost.
func TestSubscriptionWhileNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		succeeded(t, k.subscribe(s, "a:b"))
		var ready atomic.Bool
		k.Ready = func() *sallyport.Refusal {
			if ready.Load() {
				return nil
			}
			return sallyport.Refuse(sallyport.NotReady, "wait", "")
		}
		if got := k.news("a:b", "a:b"); len(got) > 0 {
			t.Fatalf("told %q", got)
		}
		ready.Store(true)
		time.Sleep(2 * lookAgain)
		synctest.Wait()
		if !slices.Equal(k.told, []string{updated("a:b")}) {
			t.Errorf("told %q", k.told)
		}
	})
}

// TestSubscriptionsAreBounded counts what one session may have.
func TestSubscriptionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		for i := range maxPlace {
			succeeded(t, k.subscribe(s, fmt.Sprintf("a:%d", i)))
		}
		refused(t, k.subscribe(s, "a:more"), sallyport.TooBusy)
		succeeded(t, k.Call(t.Context(), k.request(sallyport.KindResource, wire.MethodResourcesUnsubscribe, `{"uri":"a:7"}`, s)))
		succeeded(t, k.subscribe(s, "a:more"))
	})
}

// TestSubscriptionIsRecordedFirst: what could not be recorded does not begin.
func TestSubscriptionIsRecordedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		k.onConclude = func() error { return fmt.Errorf("the disk is full") }
		refused(t, k.subscribe(s, "a:b"), sallyport.RecordFailed)
		if got := k.news("a:b", "a:b"); len(got) > 0 || k.ended["a:b"] != 1 {
			t.Errorf("told %q, %d ended", got, k.ended["a:b"])
		}
	})
}

// TestListener: a client of the stateless era is told of what it may read, and that
// it has to ask again when that ends.
func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		var told []string
		ends := 0
		l := &Listener{Updated: func(uri string) { told = append(told, uri) }, Ended: func() { ends++ }}
		x := k.request(sallyport.KindResource, wire.MethodSubscriptionsListen, `{"notifications":{}}`, nil)
		got := k.Listen(t.Context(), x, []string{"a:1", "a:2", "a:secret"}, l)
		if want := []string{"a:1", "a:2"}; !slices.Equal(got, want) {
			t.Fatalf("agreed to %q", got)
		}
		k.news("a:2", "a:2")
		if !slices.Equal(told, []string{"a:2"}) || ends != 0 {
			t.Errorf("told %q, ended %d times", told, ends)
		}
		k.watching["a:1"].Lost()
		time.Sleep(time.Second)
		synctest.Wait()
		if ends != 1 {
			t.Errorf("ended %d times", ends)
		}
		k.EndListener(l)
		if n := len(k.subs.all); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestFollowedLists: a client is told of a list when what it may see of it has
// changed.
func TestFollowedLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKiosk(t)
		s := k.session()
		defer k.CloseSession(s)
		listed := []string{"a:b"}
		k.on("crm", func(_ context.Context, q *Request) (*Response, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			var items []string
			if q.Method == wire.MethodResourcesList {
				for _, uri := range listed {
					items = append(items, fmt.Sprintf(`{"uri":%q,"name":"n"}`, uri))
				}
				return k.says(`{"resources":[` + strings.Join(items, ",") + `]}`), nil
			}
			return k.says(`{"resourceTemplates":[],"prompts":[]}`), nil
		})
		changed := func(to ...string) []string {
			k.mu.Lock()
			listed, k.told = to, nil
			k.mu.Unlock()
			for _, what := range []string{"tools", "resources", "prompts", "resources"} {
				s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/` + what + `/list_changed","params":{"_meta":{"say":"hello"}}}`))
			}
			time.Sleep(5 * readAgain)
			synctest.Wait()
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.told
		}
		const news = `{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}`
		list := func() {
			succeeded(t, k.List(t.Context(), k.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, s)))
		}
		list()
		for i, c := range []struct {
			listed []string
			want   []string
		}{
			{[]string{"a:b"}, nil},
			{[]string{"a:b", "a:c"}, []string{news}},
			{[]string{"a:b", "a:c"}, nil},
			{[]string{"a:b", "a:c", "a:secret"}, nil},
			{[]string{"a:secret"}, []string{news}},
		} {
			if got := changed(c.listed...); !slices.Equal(got, c.want) {
				t.Errorf("%d: told %q", i, got)
			}
		}
		before := k.requests("crm")
		k.Halt(t.Context(), sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm", Reason: "x"})
		if got := changed("a:d"); len(got) > 0 || k.requests("crm") != before {
			t.Errorf("after a halt it is told %q", got)
		}
	})
}

// TestCovers: an address is covered by itself and by what it lies below.
func TestCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		asked := rapid.StringMatching(`[a-z]+:[a-z/?#.]{0,8}`).Draw(t, "asked")
		rest := rapid.StringMatching(`[a-z/?#.]{0,6}`).Draw(t, "rest")
		want := rest == "" || strings.HasSuffix(asked, "/") || strings.ContainsAny(rest[:1], "/?#")
		if Covers(asked, asked+rest) != want {
			t.Fatalf("%q and %q", asked, asked+rest)
		}
		if rest != "" && Covers(asked+rest, asked) {
			t.Fatalf("%q is told of %q, which it lies below", asked+rest, asked)
		}
	})
}

// TestTasks: a call that asks for a task is not sent, and a result that is one does
// not enter; nobody knows what becomes of a change that was begun so.
func TestTasks(t *testing.T) {
	for result, isTask := range map[string]bool{
		`{"resultType":"task","taskId":"1","status":"working"}`: true,
		`{"task":{"taskId":"1","status":"working"}}`:            true,
		`{"content":[],"task":{"taskId":"1"}}`:                  false,
		`{"task":"1"}`:                                          false,
	} {
		w := newWide(t, permitAll, nil, "crm")
		w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(result), nil })
		for name, unknown := range map[string]bool{"look": false, "write": true} {
			reply := w.tool(t.Context(), name)
			if !isTask {
				succeeded(t, reply)
				continue
			}
			refused(t, reply, sallyport.EraMismatch)
			want := sallyport.OutcomeRefused
			if unknown {
				want = sallyport.OutcomeUnsettled
			}
			if got := w.outcomes[len(w.outcomes)-1].Record.Outcome; got != want {
				t.Errorf("%s of %s: outcome %s, want %s", name, result, got, want)
			}
		}
		before := w.requests("crm")
		refused(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"},"task":{"ttl":1}}`, nil)), sallyport.EraMismatch)
		if w.requests("crm") != before {
			t.Error("it was sent")
		}
	}
}
