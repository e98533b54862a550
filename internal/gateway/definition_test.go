package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport"
)

// shop is what an upstream offers, as a test has it.
type shop struct {
	mu    sync.Mutex
	tools map[string]sallyport.Digest
	says  string
	err   error
	wait  chan struct{} // where it is not nil, nothing is answered before it is closed
	asked int
	told  []string
}

func (s *shop) Offered(ctx context.Context, _ sallyport.Stage, _ *sallyport.StageUpstream) (*Offered, error) {
	s.mu.Lock()
	s.asked++
	wait := s.wait
	s.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, sallyport.Refuse(sallyport.DeadlineExceeded, "it did not answer in time", "")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tools := map[string]sallyport.Digest{}
	for name, digest := range s.tools {
		tools[name] = digest
	}
	return &Offered{Tools: tools, Instructions: s.says}, s.err
}

func (s *shop) Differs(_ context.Context, found []Difference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range found {
		s.told = append(s.told, d.Tool+" "+string(d.Live))
	}
	return nil
}

func (s *shop) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

const recheck = 5 * time.Minute

const asPinned = sallyport.Digest("sha256:cccccccccccccccc")

// open is a rig before a shop that offers what is pinned.
func open(t *testing.T) (*rig, *shop) {
	r := newRig(t, sallyport.Production, permitAll)
	s := &shop{tools: map[string]sallyport.Digest{"look": asPinned, "write": asPinned}}
	r.Offers, r.Now = s, time.Now
	for _, tool := range r.plan.ordered {
		tool.Stage.Recheck = recheck
	}
	for _, u := range r.plan.upstreams {
		u.Recheck = recheck
	}
	return r, s
}

// refused calls a tool and expects a refusal, or none for "".
func (r *rig) refused(tool string, code sallyport.Code) {
	r.t.Helper()
	reply := r.call(tool)
	var got sallyport.Code
	if reply.Refusal != nil {
		got = reply.Refusal.Code
	}
	if got != code {
		r.t.Errorf("%s: refusal %v, want %q", tool, reply.Refusal, code)
	}
}

func TestChangedToolIsRefusedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		r.refused("write", "")
		r.refused("write", "")
		if s.asked != 1 {
			t.Errorf("asked %d times for two calls", s.asked)
		}
		s.set(func() { s.tools["write"] = "sha256:other" })
		r.refused("write", "") // the comparison is young enough
		time.Sleep(recheck)
		before := len(r.events)
		r.refused("write", sallyport.ToolChanged)
		if got := r.events[before:]; !slices.Equal(got, []string{"outcome"}) {
			t.Errorf("happened: %v", got)
		}
		r.refused("look", "")
		r.refused("write", sallyport.ToolChanged)
		synctest.Wait()
		if !slices.Equal(s.told, []string{"write sha256:other"}) {
			t.Errorf("recorded: %q", s.told)
		}
		found, err := r.Differences(t.Context())
		if err != nil || len(found) != 1 || found[0].Tool != "write" || found[0].Live != "sha256:other" || found[0].Pinned != asPinned {
			t.Errorf("differences %+v, %v", found, err)
		}

		s.set(func() { delete(s.tools, "look"); s.tools["write"] = asPinned })
		time.Sleep(recheck)
		r.refused("write", "") // it is again what was pinned
		r.refused("look", sallyport.ToolChanged)
		synctest.Wait()
		if !slices.Equal(s.told, []string{"write sha256:other", "look "}) {
			t.Errorf("recorded: %q", s.told)
		}
		s.set(func() { s.tools["look"], s.says = asPinned, "Obey." })
		time.Sleep(recheck)
		r.refused("write", "") // what it says of itself stops nothing, and is told
		synctest.Wait()
		if !slices.Equal(s.told[2:], []string{" "}) {
			t.Errorf("recorded: %q", s.told)
		}
	})
}

func TestSlowListDoesNotSlowReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		s.wait = make(chan struct{})
		began := time.Now()
		for range 10 {
			r.refused("look", "")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("reads waited %v", took)
		}
		done := make(chan struct{})
		for range 5 {
			go func() { r.refused("write", ""); done <- struct{}{} }()
		}
		time.Sleep(time.Second)
		r.mu.Lock()
		intents := len(r.intents)
		r.mu.Unlock()
		if intents != 0 {
			t.Error("a change did not wait for the comparison")
		}
		close(s.wait)
		for range 5 {
			<-done
		}
		if s.asked != 1 {
			t.Errorf("asked %d times", s.asked)
		}
	})
}

func TestNoComparisonNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		s.err = errors.New("it is gone")
		r.refused("write", sallyport.UpstreamUnavailable)
		r.refused("look", "")
		r.refused("write", sallyport.UpstreamUnavailable)
		if s.asked != 1 {
			t.Errorf("asked %d times in a moment", s.asked)
		}
		s.set(func() { s.err = nil })
		time.Sleep(offerAgain)
		r.refused("write", "")

		s.set(func() { s.wait = make(chan struct{}) }) // it never answers
		time.Sleep(recheck)
		began := time.Now()
		r.refused("write", sallyport.DeadlineExceeded)
		if took := time.Since(began); took != offerWithin {
			t.Errorf("waited %v", took)
		}
	})
}

func TestListChangedIsComparedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		r.ToolsChanged(sallyport.Production, "crm") // nobody has called it
		r.refused("write", "")
		time.Sleep(2 * readAgain)
		s.set(func() { s.tools["look"] = "sha256:other" })
		r.ToolsChanged(sallyport.Staging, "crm")
		r.ToolsChanged(sallyport.Production, "mail")
		synctest.Wait()
		if s.asked != 1 {
			t.Error("another upstream was asked")
		}
		r.ToolsChanged(sallyport.Production, "crm")
		synctest.Wait()
		r.refused("look", sallyport.ToolChanged)
		for range 20 { // it goes on saying so
			r.ToolsChanged(sallyport.Production, "crm")
		}
		synctest.Wait()
		if s.asked != 2 {
			t.Errorf("asked %d times", s.asked)
		}
		r.refused("write", "") // waits for the one that is due
		if s.asked != 3 {
			t.Errorf("asked %d times", s.asked)
		}
	})
}

func TestHaltedUpstreamIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		r.refused("write", "")
		r.Halt(t.Context(), sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: "crm"})
		time.Sleep(2 * readAgain)
		r.ToolsChanged(sallyport.Production, "crm")
		synctest.Wait()
		if s.asked != 1 {
			t.Error("a halted upstream was asked")
		}
	})
}

func TestListingLooksBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		s.tools["write"] = "sha256:other"
		if _, err := r.Tools(t.Context(), "token"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s.asked != 1 || !strings.HasPrefix(strings.Join(s.told, ","), "write") {
			t.Errorf("asked %d times, recorded %q", s.asked, s.told)
		}
	})
}

func TestNothingIsComparedUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := open(t)
		for _, tool := range r.plan.ordered {
			tool.Stage.Recheck = 0
		}
		s.err = errors.New("it is gone")
		r.refused("write", "")
		synctest.Wait()
		if s.asked != 0 {
			t.Error("an upstream was asked that nobody wants compared")
		}
	})
}
