package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/agentside"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

// TestRunsLeaveMemoryFlat opens and closes ten thousand runs, makes a few calls
// in a part of them, explicit and implicit, and looks at what the heap holds
// after a thousand, in the middle and at the end.
func TestRunsLeaveMemoryFlat(t *testing.T) {
	s := startSite(t, testkit.Stdio{}, 10*time.Second)
	ctx := t.Context()
	host, err := s.Auth.Key(ctx, s.host)
	if err != nil {
		t.Fatal(err)
	}
	flat(t, "run", 10_000, func(i int) error {
		opened, err := s.Control.OpenRun(ctx, host, sallyport.Stage(1+2*(i&1)), sallyport.Envelope{
			Task: fmt.Sprint("task ", i), Person: sallyport.PersonID(fmt.Sprint("person-", i)),
		})
		if err != nil {
			return err
		}
		if i%8 < 2 {
			for range 2 {
				if err := s.callDirectly(ctx, opened.Token); err != nil {
					return err
				}
			}
			if _, err := s.Gateway.Tools(ctx, opened.Token); err != nil {
				return err
			}
		}
		if i%16 == 0 {
			if _, err := s.Store.Trace(ctx, opened.Run.ID, "", true); err != nil {
				return err
			}
		}
		if err := s.Control.CloseRun(ctx, host, opened.Run.ID, sallyport.RunClose{Outcome: "success"}); err != nil {
			return err
		}
		if i%16 == 1 { // people look at runs that have ended, and agents do not know yet
			if _, err := s.Store.Trace(ctx, opened.Run.ID, "", true); err != nil {
				return err
			}
			if err := s.callDirectly(ctx, opened.Token); err == nil {
				return fmt.Errorf("run %s has ended and a call was made in it", opened.Run.ID)
			}
		}
		return nil
	})
}

// callDirectly makes one call of the tool behind the stateless upstream.
func (s *site) callDirectly(ctx context.Context, token string) error {
	m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"modern__echo","arguments":{"message":"hi"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`), wire.Limits{})
	if err != nil {
		return err
	}
	reply := s.Gateway.Call(ctx, &gateway.Exchange{Credential: token, Era: wire.Stateless, Kind: sallyport.KindTool, Message: m})
	if reply.Refusal != nil {
		return reply.Refusal
	}
	return nil
}

// TestImplicitRunsLeaveMemoryFlat lets 64 agent keys call once in 31 minutes, so
// that every call opens a run and ends the one before.
func TestImplicitRunsLeaveMemoryFlat(t *testing.T) {
	s := startSite(t, testkit.Stdio{}, 10*time.Second)
	ctx := t.Context()
	release := s.Gateway.State().Pointers[gateway.Pointer{Agent: "worker", Stage: sallyport.Sandbox}]
	now := time.Now()
	const keys = 64
	var locks [keys]sync.Mutex
	var times [keys]time.Time
	n := flat(t, "implicit run", 10_000, func(i int) error {
		k := i % keys
		locks[k].Lock() // a key's time goes forward only
		defer locks[k].Unlock()
		times[k] = times[k].Add(31 * time.Minute)
		at := now.Add(times[k].Sub(time.Time{}))
		id := &gateway.Identity{Key: sallyport.KeyID(fmt.Sprint("key_", k)), Kind: sallyport.KeyAgent, Agent: "worker", Release: release, Ceiling: sallyport.Sandbox}
		run, err := s.Store.Implicit(ctx, id, release, sallyport.Sandbox, at)
		if err != nil || i%8 != 0 {
			return err
		}
		return s.Store.Conclude(ctx, &gateway.Entry{
			Record:  &audit.Record{ID: fmt.Sprint("rec_", i), Time: at.UnixMicro(), Kind: audit.Outcome, Run: run.ID, Call: sallyport.CallID(fmt.Sprint("call_", i)), Outcome: sallyport.OutcomeOK},
			Payload: gateway.Payload{Salt: make([]byte, 32), Arguments: []byte("{}")},
		})
	})
	ended, err := s.Store.ListRuns(ctx, control.RunFilter{}, "", 2*n)
	if err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, r := range ended {
		if r.State == sallyport.RunOpen {
			open++
		}
	}
	if len(ended) != n || open != keys {
		t.Errorf("%d runs, %d of them open, want %d and %d", len(ended), open, n, keys)
	}
}

// TestHaltsLeaveMemoryFlat pulls and releases the kill switch two thousand times.
func TestHaltsLeaveMemoryFlat(t *testing.T) {
	s := startSite(t, testkit.Stdio{}, 10*time.Second)
	ctx := t.Context()
	flat(t, "halt", 2_000, func(i int) error {
		scope, subject := sallyport.HaltRun, fmt.Sprint("run_", i)
		if i%2 == 0 {
			scope, subject = sallyport.HaltTool, fmt.Sprint("modern/tool-", i)
		}
		if report, err := s.Control.Halt(ctx, s.person, scope, subject, "test"); err != nil || report.Problem != "" {
			return fmt.Errorf("%+v %w", report, err)
		}
		return s.Control.Resume(ctx, s.person, scope, subject, "test")
	})
	if state := s.Gateway.State(); len(state.Halts) > 0 || state.Has(sallyport.Halt{Scope: sallyport.HaltTool, Subject: "modern/tool-0"}) {
		t.Errorf("halts are left: %+v", state.Halts)
	}
}

// TestSessionsLeaveMemoryFlat opens ten thousand sessions with one credential,
// calls an upstream in some of them, and abandons them: the credential's oldest
// make way.
func TestSessionsLeaveMemoryFlat(t *testing.T) {
	s := startSite(t, testkit.Stdio{}, 10*time.Second)
	token := s.openRun(t)
	s.warm(t, s.agents, token)
	n := flat(t, "session", 10_000, func(i int) error { return s.session(s.agents, token, i%40 == 0) })
	if n := s.agents.Sessions(); n > 100 {
		t.Errorf("%d sessions are open", n)
	}
	// Those that made way ended their sessions with the upstream, too.
	until(t, func() bool { return s.older.Sessions()-s.older.Ended() <= 100 })
	if s.older.Sessions() < n/100 {
		t.Errorf("%d sessions with the upstream: the test shows nothing", s.older.Sessions())
	}
}

// TestAbandonedSessionsExpire opens as many, in the time that one may be idle.
func TestAbandonedSessionsExpire(t *testing.T) {
	s := startSite(t, testkit.Stdio{}, 10*time.Second)
	token := s.openRun(t)
	h := agentside.New(agentside.Config{Gateway: s.Gateway, SessionIdle: 2 * time.Second, MaxSessionsPerKey: 10_000})
	t.Cleanup(func() {
		if err := h.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s.warm(t, h, token)
	const n = 5_000 / slow
	var after [3]uint64
	for round := range after {
		var next atomic.Int64
		var wait sync.WaitGroup
		for range 64 {
			wait.Go(func() {
				for i := next.Add(1); i <= n; i = next.Add(1) {
					if err := s.session(h, token, i%40 == 0); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		if h.Sessions() < n/2 || s.older.Sessions() < n/80 {
			t.Errorf("%d sessions are open, %d with the upstream: the test shows nothing", h.Sessions(), s.older.Sessions())
		}
		full := heap()
		until(t, func() bool { return h.Sessions() == 0 && s.older.Sessions() == s.older.Ended() })
		after[round] = heap()
		t.Logf("the heap holds %d bytes with %d sessions, %d after", full, n, after[round])
	}
	// A table for so many is made once, in this round or that; what leaks grows in
	// every one.
	grown := min(float64(after[1])-float64(after[0]), float64(after[2])-float64(after[1])) / n
	if grown > 100*slow {
		t.Errorf("memory grows by %.0f bytes for each session", grown)
	}
}

func (s *site) openRun(t *testing.T) string {
	t.Helper()
	host, err := s.Auth.Key(t.Context(), s.host)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := s.Control.OpenRun(t.Context(), host, sallyport.Production, sallyport.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	return opened.Token
}

// warm makes as many connections to the upstream as will ever be used at once.
func (s *site) warm(t *testing.T, h http.Handler, token string) {
	t.Helper()
	s.older.SetDelay(100 * time.Millisecond)
	defer s.older.SetDelay(0)
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			if err := s.session(h, token, true); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// session opens a session, makes a call in it if it should, and leaves.
func (s *site) session(h http.Handler, token string, call bool) error {
	send := func(id, method, params, session string) (*httptest.ResponseRecorder, error) {
		req := httptest.NewRequest(http.MethodPost, s.URL+"/mcp", strings.NewReader(
			fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s}}`, id, method, params)))
		for k, v := range map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream"} {
			req.Header.Set(k, v)
		}
		if session != "" {
			req.Header.Set(wire.HeaderSessionID, session)
			req.Header.Set(wire.HeaderVersion, wire.Version20251125)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code == http.StatusNotFound {
			return nil, errMadeWay
		}
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), `"error"`) || strings.Contains(w.Body.String(), `"isError":true`) {
			return nil, fmt.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
		return w, nil
	}
	w, err := send("1", wire.MethodInitialize, `"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"t","version":"1"}`, "")
	if err != nil || !call {
		return err
	}
	if _, err = send("2", wire.MethodToolsCall, echo("older"), w.Header().Get(wire.HeaderSessionID)); errors.Is(err, errMadeWay) {
		return nil // it made way before it was used
	}
	return err
}

var errMadeWay = errors.New("the session is gone")

// flat does something many times over, from many sides at once, and compares
// what the heap holds after a tenth, in the middle and at the end. What grows with
// the count is a leak; what is kept whatever the count is there before the first
// of them. It returns how often it was done: the race detector makes it slow, and
// has seen enough after a tenth.
func flat(t *testing.T, what string, last int, do func(i int) error) int {
	t.Helper()
	const sides, most = 64, 200 * slow // bytes for each
	last /= slow
	first, middle := last/10, last*55/100
	var next atomic.Int64
	until := func(n int) uint64 {
		var wait sync.WaitGroup
		for range sides {
			wait.Go(func() {
				for {
					i := next.Add(1) - 1
					if i >= int64(n) {
						return
					}
					if err := do(int(i)); err != nil {
						t.Errorf("%s %d: %v", what, i, err)
						return
					}
				}
			})
		}
		wait.Wait()
		next.Store(int64(n))
		if t.Failed() {
			t.FailNow()
		}
		return heap()
	}
	var held [3]uint64
	for i, n := range [3]int{first, middle, last} {
		held[i] = until(n)
		t.Logf("%d: the heap holds %d bytes", n, held[i])
	}
	grown := (float64(held[2]) - float64(held[0])) / float64(last-first)
	late := (float64(held[2]) - float64(held[1])) / float64(last-middle)
	t.Logf("%.0f bytes for each %s, %.0f in the second half", grown, what, late)
	if grown > most && late > most {
		t.Errorf("memory grows by %.0f bytes for each %s", grown, what)
	}
	return last
}

// heap is what the heap holds when everything is collected that can be. Pools
// are emptied by the second collection, finalizers run before the third.
func heap() uint64 {
	var m runtime.MemStats
	for range 4 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
