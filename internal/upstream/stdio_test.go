package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// structured decodes structuredContent.
func structured[T any](t testing.TB, m wire.Message) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(m.StructuredContent.Of(m.Raw), &v); err != nil {
		t.Fatalf("%s: %v", m.Raw, err)
	}
	return v
}

type environ struct {
	Env []string `json:"env"`
	Dir string   `json:"dir"`
	Pid int      `json:"pid"`
}

// alive reports whether a process runs: one that nobody has collected does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return len(after) > 0 && after[0] != 'Z' && after[0] != 'X'
}

func TestStdioPassesBytes(t *testing.T) {
	t.Parallel()
	for _, era := range []string{wire.Version20260728, wire.Version20251125} {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			b := backend(t, newStage(t, sallyport.Production), program(t, era, "ERA="+era))
			s := clientSession("s1")
			call := func(id, tool, arguments string) wire.Message {
				if era == wire.Version20260728 {
					return do(t, b, stateless(t, id, tool, arguments))
				}
				return do(t, b, sessions(t, s, id, tool, arguments))
			}
			m := call(`"my id"`, "echo", `{}`)
			if want := `{"result":` + strange + ` ,"id" : "my id", "jsonrpc":"2.0"}`; string(m.Raw) != want {
				t.Errorf("got  %s\nwant %s", m.Raw, want)
			}
			if got := string(m.ID.Of(m.Raw)); got != `"my id"` {
				t.Errorf("id %s", got)
			}
			arguments := `{"n":12345678901234567890, "f":1.00 ,"s":"a b<&>"}`
			if m := call("12345678901234567890", "args", arguments); string(m.StructuredContent.Of(m.Raw)) != arguments {
				t.Errorf("arguments came as %s", m.StructuredContent.Of(m.Raw))
			}
			m = call("3", "error", `{}`)
			if m.Kind != wire.Error || !strings.Contains(string(m.Raw), `"data":{"n":12345678901234567890}`) {
				t.Errorf("error came as %s", m.Raw)
			}
			// Line ends between tokens have to go: a message is a line.
			m = call("4", "args", "{\n\"a\":\r\n1}")
			if got := string(m.StructuredContent.Of(m.Raw)); got != "{ \"a\":  1}" {
				t.Errorf("arguments with line ends came as %q", got)
			}
		})
	}
}

func TestStdioRewritesIDAndTokenAlone(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20260728))
	for range 3 {
		r := stateless(t, `"abc"`, "raw", `{"progressToken":"tok-abc","id":"abc"}`)
		got := structured[struct{ Raw string }](t, do(t, b, r)).Raw
		m := scan(t, got)
		back := wire.Splice(m.Raw, wire.Edit{Span: m.ID, With: []byte(`"abc"`)}, wire.Edit{Span: m.ProgressToken, With: []byte(`"tok-abc"`)})
		if string(back) != string(r.Message.Raw) {
			t.Errorf("sent %s\nfor  %s", got, r.Message.Raw)
		}
		if string(m.ID.Of(m.Raw)) != string(m.ProgressToken.Of(m.Raw)) {
			t.Errorf("id %s and token %s", m.ID.Of(m.Raw), m.ProgressToken.Of(m.Raw))
		}
	}
	// The token may stand before the id.
	m := scan(t, `{"params":{"_meta":{"progressToken":5},"name":"raw"},"method":"tools/call","id":"x","jsonrpc":"2.0"}`)
	got := structured[struct{ Raw string }](t, do(t, b, &gateway.Request{Message: m, Era: wire.Stateless})).Raw
	if want := `{"params":{"_meta":{"progressToken":4},"name":"raw"},"method":"tools/call","id":4,"jsonrpc":"2.0"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStdioEnvironmentIsEmptyButForWhatIsNamed(t *testing.T) {
	t.Parallel()
	s := newStageWith(t, upstream.Config{Secret: func(ref string) (string, error) {
		if ref != "env:CRM_TOKEN" {
			return "", errors.New("no such secret")
		}
		return "s3cret\n", nil
	}})
	dir := t.TempDir()
	transport := program(t, wire.Version20260728, "TOKEN=env:CRM_TOKEN")
	transport.Dir = dir
	got := structured[environ](t, do(t, backend(t, s, transport), stateless(t, "1", "environ", `{}`)))
	if diff := cmp.Diff([]string{"PLAY=server", "TOKEN=s3cret"}, got.Env); diff != "" {
		t.Error(diff)
	}
	if got.Dir != dir {
		t.Errorf("runs in %s, want %s", got.Dir, dir)
	}
}

func TestStdioSecretThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newStageWith(t, upstream.Config{Secret: func(string) (string, error) { return "", errors.New("0451 is not a secret") }})
	_, err := backend(t, s, program(t, wire.Version20260728, "TOKEN=file:token")).Do(within(t), stateless(t, "1", "echo", `{}`))
	r := refused(t, err, sallyport.BadConfig, false)
	if strings.Contains(r.Error(), "0451") {
		t.Errorf("the refusal says %q", r)
	}
}

func TestStdioSharesNoChildBetweenSessionsOrStages(t *testing.T) {
	t.Parallel()
	pids := map[int]string{}
	for _, stage := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
		s := newStage(t, stage)
		b := backend(t, s, program(t, wire.Version20251125))
		for _, id := range []string{"s1", "s2", "s1"} {
			pid := structured[environ](t, do(t, b, sessions(t, clientSession(id), "1", "environ", `{}`))).Pid
			if who := pids[pid]; who != "" && who != stage.String()+id {
				t.Errorf("%s %s and %s share a child", stage, id, who)
			}
			pids[pid] = stage.String() + id
		}
		if st := status(t, s); st.Children != 2 || st.Sessions != 2 {
			t.Errorf("status %+v", st)
		}
	}
	if len(pids) != 4 {
		t.Errorf("%d children for four sessions", len(pids))
	}
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20260728))
	shared := map[int]bool{}
	for i := range 4 {
		shared[structured[environ](t, do(t, b, stateless(t, fmt.Sprint(i), "environ", `{}`))).Pid] = true
	}
	if len(shared) != 1 {
		t.Errorf("%d children for the stateless era", len(shared))
	}
}

func TestStdioTellsServerOfTheClient(t *testing.T) {
	t.Parallel()
	s := newStage(t, sallyport.Production)
	b := backend(t, s, program(t, wire.Version20251125))
	session := clientSession("s1")
	// Nothing is started to be told something.
	s.Tell(within(t), session, []byte(`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`))
	if n := status(t, s).Children; n != 0 {
		t.Fatalf("%d children", n)
	}
	do(t, b, sessions(t, session, "1", "echo", `{}`))
	for _, method := range []string{"roots/list_changed", "cancelled", "initialized"} {
		s.Tell(within(t), session, []byte(`{"jsonrpc":"2.0","method":"notifications/`+method+`","params":{"requestId":1}}`))
	}
	do(t, b, sessions(t, session, "2", "echo", `{}`))
	want := []string{
		`initialize {"protocolVersion":"2025-11-25","capabilities":{"sampling":{},"elicitation":{}},"clientInfo":{"name":"client-s1","version":"7"}}`,
		`told notifications/initialized`,
		`told notifications/roots/list_changed`,
	}
	eventually(t, "standard error", func() bool { return len(status(t, s).Stderr) >= 4 })
	if diff := cmp.Diff(want, status(t, s).Stderr[1:]); diff != "" {
		t.Error(diff)
	}
}

func TestStdioProgress(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20260728))
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			var got []string
			r := stateless(t, fmt.Sprint(i), "progress", `{}`)
			r.Notify = func(raw []byte) { got = append(got, string(raw)) }
			do(t, b, r)
			want := make([]string, 3)
			for j := range want {
				want[j] = fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"progressToken":"tok-%d", "extra":1.50}}`, j, i)
			}
			// What names no call reaches nobody: the child is shared.
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	calls.Wait()
}

func TestStdioDeliversWhatBelongsToNoCall(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20251125))
	delivered := make(chan string, 8)
	session := clientSession("s1")
	session.Deliver = func(raw []byte) { delivered <- string(raw) }
	r := sessions(t, session, "1", "progress", `{}`)
	n := 0
	r.Notify = func([]byte) { n++ }
	do(t, b, r)
	if n != 3 {
		t.Errorf("%d notifications of the call, want 3", n)
	}
	if got := <-delivered; !strings.Contains(got, `"data":"about `) {
		t.Errorf("delivered %s", got)
	}
}

func TestStdioAsks(t *testing.T) {
	t.Parallel()
	ask := func(_ context.Context, raw []byte) ([]byte, error) {
		if !strings.Contains(string(raw), "sampling/createMessage") {
			t.Errorf("asked %s", raw)
		}
		return []byte(`{"jsonrpc":"2.0","id":"q","result":{"x":1.0}}`), nil
	}
	for name, c := range map[string]struct {
		ask  func(context.Context, []byte) ([]byte, error)
		want string
	}{
		"answered": {ask, `{"jsonrpc":"2.0","id":"q","result":{"x":1.0}}`},
		"nobody":   {nil, `{"jsonrpc":"2.0","id":"q","error":{"code":-32601,"message":"the client cannot be asked this"}}`},
		"refused":  {func(context.Context, []byte) ([]byte, error) { return nil, errors.New("0451") }, `{"jsonrpc":"2.0","id":"q","error":{"code":-32603,"message":"the client was not asked, or did not answer"}}`},
		"other id": {func(context.Context, []byte) ([]byte, error) {
			return []byte(`{"jsonrpc":"2.0","id":4,"result":{"x":1.0}}`), nil
		}, `{"jsonrpc":"2.0","id":"q","result":{"x":1.0}}`},
		"no message": {func(context.Context, []byte) ([]byte, error) { return []byte(`{}`), nil }, `{"jsonrpc":"2.0","id":"q","error":{"code":-32603,"message":"the client's answer could not be read"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20251125))
			r := sessions(t, clientSession("s1"), "1", "ask", `{}`)
			r.Ask = c.ask
			if got := structured[struct{ Answer string }](t, do(t, b, r)).Answer; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	t.Run("a shared child asks nobody", func(t *testing.T) {
		t.Parallel()
		b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20260728))
		r := stateless(t, "1", "ask", `{}`)
		r.Ask = func(context.Context, []byte) ([]byte, error) {
			t.Error("asked")
			return nil, errors.New("no")
		}
		if got := structured[struct{ Answer string }](t, do(t, b, r)).Answer; !strings.Contains(got, "-32601") {
			t.Errorf("got %s", got)
		}
	})
}

func TestStdioBeforeAndAfterWrite(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20260728))
	var order []string
	r := stateless(t, "1", "echo", `{}`)
	r.BeforeWrite = func() error { order = append(order, "before"); return nil }
	r.AfterWrite = func() { order = append(order, "after") }
	do(t, b, r)
	if diff := cmp.Diff([]string{"before", "after"}, order); diff != "" {
		t.Error(diff)
	}
	veto := sallyport.Refuse(sallyport.Halted, "stop", "")
	r = stateless(t, "1", "crash", `{}`)
	r.BeforeWrite = func() error { return veto }
	r.AfterWrite = func() { t.Error("written") }
	if _, err := b.Do(within(t), r); err != error(veto) {
		t.Errorf("got %v, want what BeforeWrite returned", err)
	}
	do(t, b, stateless(t, "2", "echo", `{}`)) // and the child has not crashed
}

func TestStdioCancel(t *testing.T) {
	t.Parallel()
	for _, era := range []string{wire.Version20260728, wire.Version20251125} {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, sallyport.Production)
			b := backend(t, s, program(t, era))
			session := clientSession("s1")
			request := func(tool string) *gateway.Request {
				if era == wire.Version20260728 {
					return stateless(t, `"mine"`, tool, `{}`)
				}
				return sessions(t, session, `"mine"`, tool, `{}`)
			}
			do(t, b, request("echo"))
			ctx, cancel := context.WithCancel(within(t))
			r := request("hang")
			r.AfterWrite = cancel
			_, err := b.Do(ctx, r)
			refused(t, err, sallyport.Cancelled, true)
			number := 2
			if era == wire.Version20251125 {
				number = 3 // initialize is one
			}
			eventually(t, "cancellation", func() bool {
				return slices.Contains(status(t, s).Stderr, fmt.Sprintf("cancelled %d", number))
			})

			ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			_, err = b.Do(ctx, request("hang"))
			refused(t, err, sallyport.DeadlineExceeded, true)
			do(t, b, request("echo"))
		})
	}
}

func TestStdioCrashRestartBackoff(t *testing.T) {
	t.Parallel()
	s := newStage(t, sallyport.Production)
	b := backend(t, s, program(t, wire.Version20260728))
	pids := map[int]bool{}
	var beside sync.WaitGroup
	for range 3 {
		pids[structured[environ](t, do(t, b, stateless(t, "1", "environ", `{}`))).Pid] = true
		written := make(chan struct{})
		beside.Go(func() {
			r := stateless(t, "7", "hang", `{}`)
			r.AfterWrite = func() { close(written) }
			_, err := b.Do(within(t), r)
			r2 := refused(t, err, sallyport.UpstreamUnavailable, true)
			if !strings.Contains(r2.Reason, "may have been sent") {
				t.Errorf("the refusal says %q", r2)
			}
		})
		<-written
		_, err := b.Do(within(t), stateless(t, "2", "crash", `{}`))
		refused(t, err, sallyport.UpstreamUnavailable, true)
		beside.Wait()
	}
	eventually(t, "the count of restarts", func() bool { return status(t, s).Restarts == 3 })
	if len(pids) != 3 {
		t.Errorf("%d children", len(pids))
	}
	if st := status(t, s); !strings.Contains(st.LastError, "exit status 7") {
		t.Errorf("last error %q", st.LastError)
	}
	// By the fifth time the wait is longer than a call's patience.
	for range 5 {
		_, err := b.Do(within(t), stateless(t, "1", "crash", `{}`))
		r := refused(t, err, sallyport.UpstreamUnavailable, strings.Contains(err.Error(), "may have been sent"))
		if strings.Contains(r.Hint, "call again in") {
			return
		}
	}
	t.Error("a child that always crashes is always restarted")
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	ms := time.Millisecond
	if diff := cmp.Diff([]time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 100 * ms, 200 * ms},
		upstream.Waits(0, 0, time.Second, 59*time.Second, 60*time.Second, 0)); diff != "" {
		t.Error(diff)
	}
	waits := upstream.Waits(make([]time.Duration, 40)...)
	if last := waits[len(waits)-1]; last != 30*time.Second {
		t.Errorf("the longest wait is %v", last)
	}
}

func TestStdioProgramThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), sallyport.Transport{Command: []string{"./no-such-program"}, Era: wire.Version20260728})
	_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
	r := refused(t, err, sallyport.UpstreamUnavailable, false)
	if strings.Contains(r.Error(), "no-such-program") {
		t.Errorf("the refusal says %q", r)
	}
}

// TestStdioProgramOfTheProject: a program that is named by a relative path lies
// in the folder the command runs in, wherever this program was started.
func TestStdioProgramOfTheProject(t *testing.T) {
	t.Parallel()
	project := t.TempDir()
	if err := os.Mkdir(filepath.Join(project, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	transport := program(t, wire.Version20260728)
	if err := os.Symlink(transport.Command[0], filepath.Join(project, "bin", "server")); err != nil {
		t.Fatal(err)
	}
	for dir, command := range map[string]string{"": "bin/server", "bin": "./server"} {
		transport.Dir, transport.Command = dir, []string{command}
		b := backend(t, newStageWith(t, upstream.Config{Dir: project}), transport)
		got := structured[environ](t, do(t, b, stateless(t, "1", "environ", `{}`)))
		if want := filepath.Join(project, dir); got.Dir != want {
			t.Errorf("%s runs in %s, want %s", command, got.Dir, want)
		}
	}
}

func TestStdioServerWithoutSession(t *testing.T) {
	t.Parallel()
	// A server that refuses initialize.
	b := backend(t, newStage(t, sallyport.Production), program(t, wire.Version20251125, "ERA="+wire.Version20260728))
	_, err := b.Do(within(t), sessions(t, clientSession("s1"), "1", "echo", `{}`))
	refused(t, err, sallyport.UpstreamProtocol, false)
}

func TestStdioLines(t *testing.T) {
	t.Parallel()
	s := newStage(t, sallyport.Production)
	b := backend(t, s, program(t, wire.Version20260728))
	if m := do(t, b, stateless(t, "1", "junk", `{}`)); string(m.Result.Of(m.Raw)) != strange {
		t.Errorf("got %s", m.Raw)
	}
	if got := status(t, s).Dropped; got != 4 {
		t.Errorf("%d lines dropped, want 4", got)
	}
	_, err := b.Do(within(t), stateless(t, "2", "big", `{}`))
	refused(t, err, sallyport.ResultTooLarge, true)
	_, err = b.Do(within(t), stateless(t, "3", "invalid", `{}`))
	refused(t, err, sallyport.UpstreamProtocol, true)
	r := stateless(t, "4", "echo", `{}`)
	r.MaxResult = 100
	_, err = b.Do(within(t), r)
	refused(t, err, sallyport.ResultTooLarge, true)
	do(t, b, stateless(t, "5", "echo", `{}`))
	if got := status(t, s); got.Restarts != 0 {
		t.Errorf("restarted for a line")
	}
	_, err = b.Do(within(t), stateless(t, "6", "endless", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, true)
	do(t, b, stateless(t, "7", "echo", `{}`))
	if got := status(t, s); got.Restarts != 1 {
		t.Errorf("%d restarts after a line without end", got.Restarts)
	}
}

func TestStdioChildThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := newStage(t, sallyport.Production)
	b := backend(t, s, program(t, wire.Version20260728))
	ctx, cancel := context.WithCancel(within(t))
	deaf := make(chan error, 1)
	r := stateless(t, "1", "deaf", `{}`)
	written := make(chan struct{})
	r.AfterWrite = func() { close(written) }
	go func() {
		_, err := b.Do(ctx, r)
		deaf <- err
	}()
	<-written
	// This one does not fit into the pipe, the next waits behind it, and both end
	// when their callers say so.
	long := fmt.Sprintf(`{"text":%q}`, strings.Repeat("y", 3<<20))
	short, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	began := time.Now()
	_, err := b.Do(short, stateless(t, "2", "args", long))
	refused(t, err, sallyport.DeadlineExceeded, true)
	short2, stop2 := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop2()
	_, err = b.Do(short2, stateless(t, "3", "echo", `{}`))
	refused(t, err, sallyport.DeadlineExceeded, false)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	cancel()
	refused(t, <-deaf, sallyport.Cancelled, true)
}

func TestStdioEndsAChildInOrder(t *testing.T) {
	t.Parallel()
	t.Run("when its input is closed", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, sallyport.Production)
		b := backend(t, s, program(t, wire.Version20251125))
		session := clientSession("s1")
		pid := structured[environ](t, do(t, b, sessions(t, session, "1", "environ", `{}`))).Pid
		began := time.Now()
		s.Forget(session)
		eventually(t, "the end of the child", func() bool { return !alive(pid) })
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("took %v, as if it had to be forced", took)
		}
		st := status(t, s)
		if st.Children != 0 || st.Restarts != 0 {
			t.Errorf("status %+v", st)
		}
	})
	t.Run("with what it left behind", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, sallyport.Production)
		b := backend(t, s, program(t, wire.Version20260728))
		pids := structured[struct{ Pids []int }](t, do(t, b, stateless(t, "1", "family", `{}`))).Pids
		if err := s.Close(within(t)); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			eventually(t, "the end of the family", func() bool { return !alive(pid) })
		}
	})
	t.Run("by force, with its family", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, sallyport.Production)
		b := backend(t, s, program(t, wire.Version20260728, "STUBBORN=1"))
		pids := structured[struct{ Pids []int }](t, do(t, b, stateless(t, "1", "family", `{}`))).Pids
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			eventually(t, "the end of the family", func() bool { return !alive(pid) })
		}
		if _, err := b.Do(within(t), stateless(t, "2", "echo", `{}`)); err == nil {
			t.Error("a closed stage works")
		}
	})
	t.Run("a stubborn one within the grace", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, sallyport.Production)
		b := backend(t, s, program(t, wire.Version20260728, "STUBBORN=1"))
		pid := structured[environ](t, do(t, b, stateless(t, "1", "environ", `{}`))).Pid
		began := time.Now()
		if err := s.Close(within(t)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 6*time.Second {
			t.Errorf("took %v, want about 4 s", took)
		}
		if alive(pid) {
			t.Error("the child lives")
		}
	})
	t.Run("with a call in flight", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, sallyport.Production)
		b := backend(t, s, program(t, wire.Version20260728))
		written := make(chan struct{})
		failed := make(chan error, 1)
		go func() {
			r := stateless(t, "1", "hang", `{}`)
			r.AfterWrite = func() { close(written) }
			_, err := b.Do(within(t), r)
			failed <- err
		}()
		<-written
		if err := s.Close(within(t)); err != nil {
			t.Fatal(err)
		}
		refused(t, <-failed, sallyport.UpstreamUnavailable, true)
	})
}

// A gateway that is killed cannot tidy up: the kernel has to.
func TestStdioNoOrphanOutlivesAKilledGateway(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{"PLAY=gateway"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid := structured[environ](t, scan(t, strings.TrimSpace(line))).Pid
	if !alive(pid) {
		t.Fatal("the child does not run")
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the gateway was not killed")
	}
	// It ignores SIGTERM and the end of its input.
	eventually(t, "the end of the orphan", func() bool { return !alive(pid) })
}

func TestStderrIsBounded(t *testing.T) {
	t.Parallel()
	s := newStage(t, sallyport.Production)
	b := backend(t, s, program(t, wire.Version20251125))
	session := clientSession("s1")
	do(t, b, sessions(t, session, "1", "echo", `{}`))
	name := strings.Repeat("n", 3000)
	for range upstream.StderrLines + 20 {
		s.Tell(within(t), session, []byte(`{"jsonrpc":"2.0","method":"notifications/`+name+`"}`))
	}
	want := "told notifications/" + name
	eventually(t, "standard error", func() bool {
		lines := status(t, s).Stderr
		return len(lines) == upstream.StderrLines && lines[0] == want[:1024]
	})
	if lines := status(t, s).Stderr; slices.ContainsFunc(lines, func(l string) bool { return len(l) > 1024 }) {
		t.Error("a line of more than 1 KiB")
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	long := `{"result":{"id":9,"s":"\"id\":8,{"},"jsonrpc":"2.0","id":42}`
	got, err := upstream.Lines(strings.NewReader("one\r\n\n  \n"+long+"\nexactly 24 bytes of text\nlast"), 24)
	if diff := cmp.Diff([]string{"one", "too long: 42", "exactly 24 bytes of text"}, got); diff != "" || err != io.EOF {
		t.Error(diff, err)
	}
	got, err = upstream.Lines(io.MultiReader(strings.NewReader("a\n"), endless('x')), 24)
	if len(got) != 1 || err == nil || !strings.Contains(err.Error(), "without end") {
		t.Errorf("got %q, %v", got, err)
	}
}

type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

// The id that is found without keeping the line is the one the scanner finds.
func TestIDIsFoundInAnyMessage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom([]string{
			`1`, `"id"`, `"\"id\":7,"`, `{"id":3}`, `[{"id":4},"id",5]`, `{"a":[{"id":6}],"b":"}"}`, `"\\"`, `null`, `{}`, `[]`, ` 12 `,
		})
		members := []string{`"jsonrpc":"2.0"`, `"result":{"x":` + value.Draw(t, "value") + `}`}
		for i := range rapid.IntRange(0, 3).Draw(t, "others") {
			members = append(members, fmt.Sprintf(`"k%d" : %s`, i, value.Draw(t, "other")))
		}
		id := rapid.Uint64().Draw(t, "id")
		members = append(members, fmt.Sprintf(`"id":%d`, id))
		line := []byte("{" + strings.Join(rapid.Permutation(members).Draw(t, "order"), ",") + "}")
		m, err := wire.Scan(line, wire.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := upstream.FindID(line, rapid.IntRange(1, 40).Draw(t, "piece")), string(m.ID.Of(line)); got != want {
			t.Fatalf("found %q in %s", got, line)
		}
	})
}
