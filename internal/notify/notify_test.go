package notify_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outbox is a store in memory that lets nothing pass which the real one would refuse.
type outbox struct {
	t         *testing.T
	mu        sync.Mutex
	now       time.Time
	approvals map[sallyport.ApprovalID]*kept
	notices   map[string]sallyport.Notice
	// fail, if set, makes a change not happen, or happen and be reported as an error all
	// the same.
	fail func(control.Change) (before, after error)
}

type kept struct {
	control.Approval
	again time.Time
}

func newOutbox(t *testing.T) *outbox {
	return &outbox{t: t, now: time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC), approvals: map[sallyport.ApprovalID]*kept{}, notices: map[string]sallyport.Notice{}}
}

func (o *outbox) Now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *outbox) pass(d time.Duration) {
	o.mu.Lock()
	o.now = o.now.Add(d)
	o.mu.Unlock()
}

const secretArgument = "DE02120300000000202051"

// asks adds an approval that waits for approvers, and after 20 minutes for operators.
func (o *outbox) asks(id string) *control.Approval {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := control.Approval{
		Approval: sallyport.Approval{
			ID: sallyport.ApprovalID(id), State: sallyport.ApprovalPending, Call: "call_1", Tier: sallyport.TierHigh,
			Bound: sallyport.Bound{Agent: "support", Release: "sha256:abc", Run: "run_1", Stage: sallyport.Production, Kind: sallyport.KindTool, Upstream: "payments", Tool: "refund"},
			Needs: []sallyport.Need{{
				Policy: "large-refunds", Says: "refunds above 100 EUR are approved by people", Roles: []sallyport.Role{sallyport.Approver}, Quorum: 1,
				Escalate: []sallyport.Escalation{{After: 20 * time.Minute, Role: sallyport.Operator}},
			}},
			Asked: o.now, Expires: o.now.Add(time.Hour),
		},
		Arguments: json.RawMessage(`{"iban":"` + secretArgument + `"}`), Edited: json.RawMessage(`{"iban":"` + secretArgument + `"}`), Facts: json.RawMessage(`{"x":"` + secretArgument + `"}`),
	}
	o.approvals[a.ID] = &kept{Approval: a}
	return &a
}

func (o *outbox) decide(id sallyport.ApprovalID, s sallyport.ApprovalState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.approvals[id]
	a.State, a.Decided = s, o.now
}

func (o *outbox) ToTell(context.Context) ([]control.Approval, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []control.Approval
	for _, a := range o.approvals {
		if a.Told >= 0 && (!a.again.After(o.now) || a.State != sallyport.ApprovalPending) {
			out = append(out, o.look(a))
		}
	}
	return out, nil
}

// look is an approval as it is read: expired by the clock.
func (o *outbox) look(a *kept) control.Approval {
	c := a.Approval
	if c.State == sallyport.ApprovalPending && !o.now.Before(c.Expires) {
		c.State = sallyport.ApprovalExpired
	}
	return c
}

func (o *outbox) LookApproval(_ context.Context, id sallyport.ApprovalID) (*control.Approval, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a := o.approvals[id]; a != nil {
		c := o.look(a)
		return &c, nil
	}
	return nil, sallyport.Refuse(sallyport.NotFound, "there is no approval", "")
}

func (o *outbox) DueNotices(_ context.Context, target string, by time.Time) ([]sallyport.Notice, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []sallyport.Notice
	for _, n := range o.notices {
		if n.Target == target && !n.Due.IsZero() && !n.Due.After(by) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b sallyport.Notice) int {
		if c := a.Due.Compare(b.Due); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out[:min(len(out), 4)], nil
}

func (o *outbox) Commit(_ context.Context, r *audit.Record, changes ...control.Change) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r != nil || len(changes) != 1 {
		o.t.Errorf("a notice is no decision, and each change stands alone: %v, %v", r, changes)
	}
	var after error
	if o.fail != nil {
		var before error
		if before, after = o.fail(changes[0]); before != nil {
			return before
		}
	}
	conflict := sallyport.Refuse(sallyport.Conflict, "somebody else does", "")
	switch c := changes[0].(type) {
	case control.TellApproval:
		a := o.approvals[c.ID]
		if a.Told != c.Was {
			return conflict
		}
		if a.Told == sallyport.ToldAll || c.Now != sallyport.ToldAll && c.Now < a.Told {
			o.t.Errorf("told %d after %d", c.Now, a.Told)
		}
		a.Told, a.again = c.Now, c.Again
		for _, n := range c.Notices {
			if _, twice := o.notices[n.ID]; twice {
				o.t.Errorf("notice %s is made twice", n.ID)
			}
			o.notices[n.ID] = n
		}
	case control.MoveNotice:
		n, ok := o.notices[c.Notice.ID]
		if !ok || !n.Due.Equal(c.Was) {
			return conflict
		}
		o.notices[n.ID] = c.Notice
	case control.DropNotice:
		delete(o.notices, c.ID)
	case control.DropNotices:
		for id, n := range o.notices {
			if n.Made.Before(c.Before) {
				delete(o.notices, id)
			}
		}
	default:
		o.t.Errorf("change %T", c)
	}
	return after
}

func (o *outbox) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.notices)
}

// hook is an endpoint that checks signatures as a receiver does.
type hook struct {
	*httptest.Server
	t   *testing.T
	key []byte
	now func() time.Time
	mu  sync.Mutex
	got []told
	// answer is the status of the next answers; 200 when there are none left.
	answer []int
}

type told struct{ id, event, state, url string }

const signingKey = "0123456789abcdef0123456789abcdef"

func newHook(t *testing.T, o *outbox) *hook {
	h := &hook{t: t, key: []byte(signingKey), now: o.Now}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id, at := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, h.key)
	mac.Write([]byte(id + "." + at + "." + string(body)))
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if !slices.Contains(strings.Fields(r.Header.Get("webhook-signature")), want) {
		h.t.Errorf("the signature is %q, want %q", r.Header.Get("webhook-signature"), want)
	}
	if at != strconv.FormatInt(h.now().Unix(), 10) {
		h.t.Errorf("the timestamp is %s, not that of the try", at)
	}
	if strings.Contains(string(body), secretArgument) {
		h.t.Errorf("arguments are told: %s", body)
	}
	var p struct {
		Type string
		Data struct{ State, URL string }
	}
	if err := json.Unmarshal(body, &p); err != nil {
		h.t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.answer) > 0 {
		status := h.answer[0]
		h.answer = h.answer[1:]
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		if status/100 != 2 {
			w.WriteHeader(status)
			return
		}
	}
	h.got = append(h.got, told{id, p.Type, p.Data.State, p.Data.URL})
}

func (h *hook) events() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, g := range h.got {
		out = append(out, g.event)
	}
	return out
}

func (h *hook) wants(events ...string) {
	h.t.Helper()
	if diff := cmp.Diff(events, h.events()); diff != "" {
		h.t.Fatalf("told: %s", diff)
	}
}

func settings(o *outbox, hooks ...config.Webhook) notify.Config {
	return notify.Config{
		Outbox: o, To: config.Notify{Webhooks: hooks}, Now: o.Now, Log: slog.New(slog.DiscardHandler),
		Page: func(id sallyport.ApprovalID) string { return "https://sallyport.example.com/approvals/" + string(id) },
		Secret: func(ref string) (string, error) {
			if ref != "env:HOOK" {
				return "", fmt.Errorf("secret %s: it is not there", ref)
			}
			return "whsec_" + base64.StdEncoding.EncodeToString([]byte(signingKey)), nil
		},
	}
}

func to(h *hook) config.Webhook { return config.Webhook{URL: h.URL, Secret: "env:HOOK"} }

// TestEvents: an approval is told when it is asked for, when the next role's time has
// come, and at its end; each once, whoever looks how often; to those whom it concerns.
func TestEvents(t *testing.T) {
	o := newOutbox(t)
	all, operators, ends := newHook(t, o), newHook(t, o), newHook(t, o)
	forOperators, forEnds := to(operators), to(ends)
	forOperators.Roles = []sallyport.Role{sallyport.Operator}
	forEnds.Events = []sallyport.ApprovalEvent{sallyport.ApprovalDecided, sallyport.ApprovalLapsed}
	n := notify.New(settings(o, to(all), forOperators, forEnds))
	rounds := func() {
		for range 3 {
			n.Round(t.Context())
		}
	}
	a := o.asks("apr_1")
	rounds()
	all.wants("approval.asked")
	operators.wants()
	o.pass(20 * time.Minute)
	rounds()
	all.wants("approval.asked", "approval.escalated")
	operators.wants("approval.escalated")
	o.decide(a.ID, sallyport.ApprovalDenied)
	rounds()
	all.wants("approval.asked", "approval.escalated", "approval.decided")
	operators.wants("approval.escalated", "approval.decided")
	ends.wants("approval.decided")
	if last := all.got[2]; last.state != "denied" || last.url != "https://sallyport.example.com/approvals/apr_1" {
		t.Errorf("%+v", last)
	}
	o.asks("apr_2")
	rounds()
	o.pass(time.Hour)
	rounds()
	ends.wants("approval.decided", "approval.expired")
	if o.left() != 0 {
		t.Errorf("%d notices are left", o.left())
	}
}

// TestNobodyToTell: without targets nothing piles up, and who is configured later is not
// told of what is over.
func TestNobodyToTell(t *testing.T) {
	o := newOutbox(t)
	a := o.asks("apr_1")
	notify.New(settings(o)).Round(t.Context())
	o.decide(a.ID, sallyport.ApprovalApproved)
	notify.New(settings(o)).Round(t.Context())
	h := newHook(t, o)
	notify.New(settings(o, to(h))).Round(t.Context())
	h.wants()
	if o.left() != 0 {
		t.Errorf("%d notices are left", o.left())
	}
}

// TestRetries: what does not arrive is tried again after longer and longer pauses, under
// the same id, and not for ever.
func TestRetries(t *testing.T) {
	o := newOutbox(t)
	h := newHook(t, o)
	h.answer = []int{503, 302, 500, 200}
	n := notify.New(settings(o, to(h)))
	o.asks("apr_1")
	var waits []time.Duration
	began := o.Now()
	for range 2000 {
		n.Round(t.Context())
		if len(h.events()) > 0 {
			break
		}
		o.mu.Lock()
		for _, it := range o.notices {
			if w := it.Due.Sub(o.now); w > 0 && (len(waits) == 0 || it.Tries > len(waits)) {
				waits = append(waits, w)
			}
			if it.Error == "" || it.Tries == 0 {
				t.Errorf("tried in vain, and it says %+v", it)
			}
		}
		o.mu.Unlock()
		o.pass(time.Second)
	}
	h.wants("approval.asked")
	if len(waits) != 3 {
		t.Fatalf("pauses: %v", waits)
	}
	for i, want := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second} {
		if waits[i] < want*8/10 || waits[i] > want*12/10 {
			t.Errorf("pause %d is %v, want about %v", i+1, waits[i], want)
		}
	}
	if took := o.Now().Sub(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

func TestGivenUp(t *testing.T) {
	for name, status := range map[string]int{"it is gone for good": http.StatusGone, "it never answers well": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			o := newOutbox(t)
			h := newHook(t, o)
			h.answer = slices.Repeat([]int{status}, 1000)
			n := notify.New(settings(o, to(h)))
			a := o.asks("apr_1")
			n.Round(t.Context())
			o.decide(a.ID, sallyport.ApprovalDenied) // the end is told for hours
			began := o.Now()
			for range 500 {
				n.Round(t.Context())
				o.pass(time.Minute)
			}
			h.wants()
			tries := 1000 - len(h.answer)
			if want := map[int]int{http.StatusGone: 2, http.StatusBadGateway: 21}[status]; tries != want {
				t.Errorf("%d tries, want %d", tries, want)
			}
			if o.left() == 0 {
				t.Error("what was given up is not listed")
			}
			o.pass(7*24*time.Hour - o.Now().Sub(began) + 2*time.Hour)
			n.Round(t.Context())
			if o.left() != 0 {
				t.Errorf("after a week %d are left", o.left())
			}
		})
	}
}

// TestNobodyNeedsToCome: once people have decided, those who were not reached are not
// asked any more.
func TestNobodyNeedsToCome(t *testing.T) {
	o := newOutbox(t)
	h := newHook(t, o)
	h.answer = []int{503}
	n := notify.New(settings(o, to(h)))
	a := o.asks("apr_1")
	n.Round(t.Context())
	o.decide(a.ID, sallyport.ApprovalApproved)
	o.pass(time.Minute)
	n.Round(t.Context())
	h.wants("approval.decided")
	if o.left() != 0 {
		t.Errorf("%d notices are left", o.left())
	}
}

// TestDownTarget: a target that hangs slows no other.
func TestDownTarget(t *testing.T) {
	o := newOutbox(t)
	up := newHook(t, o)
	hung := make(chan struct{})
	down := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	}))
	defer down.Close()
	defer close(hung)
	ctx, cancel := context.WithCancel(t.Context())
	n := notify.New(settings(o, config.Webhook{URL: down.URL, Secret: "env:HOOK"}, to(up)))
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for i := range 3 {
		o.asks("apr_" + strconv.Itoa(i))
	}
	for end := time.Now().Add(30 * time.Second); len(up.events()) < 3; {
		if time.Now().After(end) {
			t.Fatalf("behind a target that hangs, %d of 3 arrived", len(up.events()))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestAnswers: what a target answers is neither followed nor read to its end.
func TestAnswers(t *testing.T) {
	o := newOutbox(t)
	var elsewhere atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer trap.Close()
	var sent atomic.Int64
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			n, err := w.Write(make([]byte, 64<<10))
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}))
	defer endless.Close()
	leads := httptest.NewServer(http.RedirectHandler(trap.URL, http.StatusTemporaryRedirect))
	defer leads.Close()
	n := notify.New(settings(o, config.Webhook{URL: leads.URL, Secret: "env:HOOK"}, config.Webhook{URL: endless.URL, Secret: "env:HOOK"}))
	o.asks("apr_1")
	n.Round(t.Context())
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.notices) != 1 {
		t.Errorf("%d notices are left, want that of the redirect", len(o.notices))
	}
	for _, it := range o.notices {
		if !strings.Contains(it.Error, "redirects are not followed") {
			t.Error(it.Error)
		}
	}
}

// TestServersShare: of two servers on one store, one sends each message.
func TestServersShare(t *testing.T) {
	o := newOutbox(t)
	h := newHook(t, o)
	one, two := notify.New(settings(o, to(h))), notify.New(settings(o, to(h)))
	for i := range 30 {
		o.asks(fmt.Sprintf("apr_%02d", i))
	}
	var all sync.WaitGroup
	for _, n := range []*notify.Notifier{one, two, one, two} {
		all.Go(func() { n.Round(t.Context()) })
		all.Wait()
	}
	for _, n := range []*notify.Notifier{one, two} {
		all.Go(func() { n.Round(t.Context()) })
	}
	all.Wait()
	if got := h.events(); len(got) != 30 {
		t.Errorf("%d messages about 30 approvals", len(got))
	}
	if o.left() != 0 {
		t.Errorf("%d notices are left", o.left())
	}
}

// TestAtLeastOnce: wherever the store fails, before or after a change took place, every
// message arrives, and one that arrives twice does so under one id.
func TestAtLeastOnce(t *testing.T) {
	broken := errors.New("the store is gone")
	for _, what := range []control.Change{control.TellApproval{}, control.MoveNotice{}, control.DropNotice{}, control.DropNotices{}} {
		for _, took := range []bool{false, true} {
			t.Run(fmt.Sprintf("%T took place %v", what, took), func(t *testing.T) {
				o := newOutbox(t)
				h := newHook(t, o)
				failures := 2
				o.fail = func(c control.Change) (before, after error) {
					if fmt.Sprintf("%T", c) != fmt.Sprintf("%T", what) || failures == 0 {
						return nil, nil
					}
					if failures--; took {
						return nil, broken
					}
					return broken, nil
				}
				n := notify.New(settings(o, to(h)))
				o.asks("apr_1")
				for range 30 {
					n.Round(t.Context())
					o.pass(30 * time.Second)
				}
				ids := map[string]bool{}
				for _, g := range h.got {
					ids[g.id] = true
				}
				if len(ids) != 1 || o.left() != 0 {
					t.Errorf("%d messages under %d ids; %d notices are left", len(h.got), len(ids), o.left())
				}
			})
		}
	}
}

// TestErased: of what is erased nobody is told.
func TestErased(t *testing.T) {
	o := newOutbox(t)
	h := newHook(t, o)
	h.answer = []int{503}
	n := notify.New(settings(o, to(h)))
	o.asks("apr_1")
	n.Round(t.Context())
	o.mu.Lock()
	clear(o.approvals)
	o.mu.Unlock()
	o.pass(time.Hour)
	n.Round(t.Context())
	h.wants()
	if o.left() != 0 {
		t.Errorf("%d notices are left", o.left())
	}
}

// TestSecrets: one is good or says how to make one, two sign both, and none is in an error.
func TestSecrets(t *testing.T) {
	good := "whsec_" + base64.StdEncoding.EncodeToString([]byte(signingKey))
	for secret, ok := range map[string]bool{
		good: true, good + " whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 64)): true,
		signingKey: false, "whsec_c2hvcnQ=": false, "whsec_!": false, good + " hunter2": false, "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)): false,
	} {
		o := newOutbox(t)
		h := newHook(t, o)
		c := settings(o, to(h))
		c.Secret = func(string) (string, error) { return secret, nil }
		n := notify.New(c)
		o.asks("apr_1")
		n.Round(t.Context())
		if got := len(h.events()) == 1; got != ok {
			t.Errorf("%q: sent %v, want %v", secret, got, ok)
		}
		errs := notify.Check(&c.To, c.Secret)
		if (len(errs) == 0) != ok {
			t.Errorf("%q: %v", secret, errs)
		}
		for _, err := range errs {
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), signingKey) {
				t.Errorf("an error holds the secret: %v", err)
			}
		}
	}
}
