package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/control"
)

// town is a past with things of several names. It asserts, whenever it is asked,
// that the halt works and is recorded already.
type town struct {
	*office
	asked  int
	broken error
	hung   chan struct{} // not nil: whoever asks waits for it
}

func newTown(t *testing.T) *town {
	o := newOffice(t)
	w := &town{office: o}
	w.Control.Past = w
	o.past.Latest["clerk"] = releaseB
	return w
}

func (w *town) Decided(ctx context.Context) (*control.Decided, error) {
	w.asked++
	if len(w.local) == 0 || len(w.past.Halts) == 0 {
		w.t.Error("names are looked up before the halt works and is recorded")
	}
	if w.hung != nil {
		<-w.hung
	}
	if w.broken != nil {
		return nil, w.broken
	}
	return w.office.Decided(ctx)
}

func (w *town) Release(_ context.Context, id sallyport.ReleaseID) (*sallyport.Release, error) {
	switch id {
	case releaseA: // runs in sandbox and production
		return &sallyport.Release{ID: id, Agent: "support", Tools: []sallyport.Tool{{Name: "payments__refund", Upstream: "payments", UpstreamName: "refund"}}}, nil
	case releaseB: // was applied last
		return &sallyport.Release{ID: id, Agent: "support", Tools: []sallyport.Tool{{Name: "send", Upstream: "mail", UpstreamName: "send"}}}, nil
	}
	return nil, sallyport.Refuse(sallyport.NoRelease, "not applied", "")
}

func (w *town) StageConfig(_ context.Context, id sallyport.Digest) (*sallyport.StageConfig, error) {
	return &sallyport.StageConfig{ID: id, Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{"payments": {}, "mail": {}}}, nil
}

// TestHaltOfNothing: a halt whose subject nothing has is accepted, works and is
// recorded, and its answer names what was probably meant.
func TestHaltOfNothing(t *testing.T) {
	slip := "sha256:a1" + strings.Repeat("a", 62)
	for _, c := range []struct {
		scope   sallyport.HaltScope
		subject string
		near    []string // nil if the name is known
		says    string
	}{
		{sallyport.HaltTool, "payments/refund", nil, ""},
		{sallyport.HaltTool, "mail/send", nil, ""},
		{sallyport.HaltTool, "payments/refnd", []string{"payments/refund"}, "no tool with the name payments/refnd is pinned by a release that runs or was applied last, so nothing that is known now is stopped; did you mean payments/refund?"},
		{sallyport.HaltTool, "crm/refund", []string{"payments/refund"}, "did you mean payments/refund?"},
		{sallyport.HaltTool, "payments/payments__refund", []string{}, "stopped"}, // what agents call it
		{sallyport.HaltUpstream, "mail", nil, ""},
		{sallyport.HaltUpstream, "payment", []string{"payments"}, "no upstream with the name payment is part of"},
		{sallyport.HaltAgent, "clerk", nil, ""},
		{sallyport.HaltAgent, "clark", []string{"clerk"}, "no agent with the name clark has been applied"},
		{sallyport.HaltAgent, "zebra", []string{}, "stopped"},
		{sallyport.HaltRelease, string(releaseA), nil, ""},
		{sallyport.HaltRelease, slip, []string{string(releaseA)}, "no release with the name " + slip + " has been applied"},
		{sallyport.HaltRun, "run_1", nil, ""},
		{sallyport.HaltRun, "run_2", []string{}, "no run with the name run_2 was ever opened"},
		{sallyport.HaltStage, "staging", nil, ""},
		{sallyport.HaltGlobal, "", nil, ""},
	} {
		w := newTown(t)
		w.runs["run_1"] = &sallyport.Run{ID: "run_1"}
		s, err := w.Control.Halt(t.Context(), holding(sallyport.Operator), c.scope, c.subject, "why")
		if err != nil || !s.Recorded || len(w.local) != 1 || len(w.past.Halts) != 1 || w.asked == 0 {
			t.Errorf("halt %s %q: %+v, %v", c.scope, c.subject, s, err)
			continue
		}
		switch {
		case c.near == nil:
			if s.Nameless != nil {
				t.Errorf("halt %s %q: %s", c.scope, c.subject, s.Nameless.Says)
			}
		case s.Nameless == nil:
			t.Errorf("halt %s %q stops nothing, and does not say so", c.scope, c.subject)
		default:
			if diff := cmp.Diff(c.near, s.Nameless.Near); diff != "" || !strings.HasSuffix(s.Nameless.Says, c.says) && !strings.HasPrefix(s.Nameless.Says, c.says) {
				t.Errorf("halt %s %q: %s %s", c.scope, c.subject, s.Nameless.Says, diff)
			}
		}
	}
}

// TestHaltDoesNotNeedNames: names that cannot be looked up, or not soon, change
// nothing about a halt but that its answer says nothing of them.
func TestHaltDoesNotNeedNames(t *testing.T) {
	halt := func(w *town) *control.Stopped {
		s, err := w.Control.Halt(t.Context(), holding(sallyport.Operator), sallyport.HaltTool, "payments/refnd", "why")
		if err != nil || s.Nameless != nil || len(w.local) != 1 {
			t.Errorf("%+v, %v", s, err)
		}
		return s
	}
	broken := newTown(t)
	broken.broken = errDisk
	if s := halt(broken); !s.Recorded || broken.asked != 1 {
		t.Errorf("%+v", s)
	}
	unrecorded := newTown(t)
	unrecorded.failBefore = true
	if s := halt(unrecorded); s.Recorded || unrecorded.asked != 0 {
		t.Errorf("a store that did not take the halt was asked for names: %+v", s)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		w.hung = make(chan struct{})
		began := time.Now()
		s := halt(w)
		if !s.Recorded || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %+v", time.Since(began), s)
		}
		close(w.hung)
	})
}

// TestNamesThatWereMeant: verbs that refuse a name they do not know say which one
// was probably meant.
func TestNamesThatWereMeant(t *testing.T) {
	by := holding(sallyport.Admin)
	for name, c := range map[string]struct {
		do   func(*office) error
		hint string
	}{
		"promote, agent": {func(o *office) error {
			_, err := o.Promote(t.Context(), by, "suport", "", sallyport.Sandbox, "why")
			return err
		}, "did you mean support? if not, write agents/suport.yaml"},
		"promote, release": {func(o *office) error {
			_, err := o.Promote(t.Context(), by, "support", "sha256:b1"+releaseB[9:], sallyport.Sandbox, "why")
			return err
		}, "did you mean " + string(releaseB) + "?"},
		"host key": {func(o *office) error {
			_, err := o.MakeHostKey(t.Context(), by, "supporter", sallyport.Sandbox, 1, "")
			return err
		}, "did you mean support?"},
		"agent key": {func(o *office) error {
			_, err := o.MakeAgentKey(t.Context(), by, "suppotr", "", sallyport.Sandbox, 1, "")
			return err
		}, "did you mean support?"},
		"agent key, release": {func(o *office) error {
			_, err := o.MakeAgentKey(t.Context(), by, "support", "sha256:a1"+releaseA[9:], sallyport.Sandbox, 1, "")
			return err
		}, "did you mean " + string(releaseA) + "?"},
		"resume": {func(o *office) error {
			o.past.Halts = []sallyport.Halt{{Scope: sallyport.HaltTool, Subject: "payments/refund"}, {Scope: sallyport.HaltAgent, Subject: "support"}}
			return o.Resume(t.Context(), by, sallyport.HaltTool, "payments/refnd", "why")
		}, "did you mean payments/refund?"},
		"nothing near": {func(o *office) error {
			_, err := o.Promote(t.Context(), by, "zebra", "", sallyport.Sandbox, "why")
			return err
		}, "write agents/zebra.yaml"},
	} {
		o := newOffice(t)
		var r *sallyport.Refusal
		if err := c.do(o); !errors.As(err, &r) || !strings.HasPrefix(r.Hint, c.hint) || o.commits != 0 {
			t.Errorf("%s: %v, want the hint %q", name, err, c.hint)
		}
	}
}
