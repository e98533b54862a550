package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/control"
)

const database = "sallyport.db"

// watched is a program under the tracer that serves.
type watched struct {
	*traced
	url, link string
	stderr    *lockedBuffer
}

// lockedBuffer takes what a program says while a test may read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// watch starts the program under the tracer; judge may be nil. The program may end
// before it serves, if judge kills it: then url is empty.
func (c *town) watch(judge func(systemCall) verdict) *watched {
	c.t.Helper()
	w := &watched{stderr: &lockedBuffer{}}
	w.traced = trace(c.t, c.program, w.stderr, judge, c.upArgs()...)
	var err error
	if w.url, w.link, err = greeting(w.stdout); err != nil {
		<-w.ended
		if !w.status.Signaled() && judge == nil {
			c.t.Fatalf("%v\n%s", err, w.stderr)
		}
	}
	return w
}

// kill ends the program now.
func (w *watched) kill() {
	_ = unix.Kill(w.pid, unix.SIGKILL) // it may have ended
	<-w.ended
}

// moment is where in the life of the program it is killed.
type moment int

const (
	starting moment = iota + 1 // on a store that a crash left
	working                    // under load
	stopping                   // told to stop, under load
)

// spot is a kind of system call that the program is killed at.
type spot struct {
	name   string
	when   moment
	within int // the kill is at the n-th such call, n from 1 to within
	is     func(systemCall) bool
	writes bool
}

func on(object string, names ...string) func(systemCall) bool {
	return func(c systemCall) bool {
		if c.on != object {
			return false
		}
		for _, n := range names {
			if strings.HasPrefix(c.name, n) {
				return true
			}
		}
		return len(names) == 0
	}
}

func stored(c systemCall) bool { return strings.HasPrefix(c.on, database) }

// spots are the kinds of calls at which the program is killed, again and again on
// the same project.
var spots = []spot{
	{"write to the write-ahead log", working, 40, on(database+"-wal", "pwrite64"), true},
	{"sync of the write-ahead log", working, 10, on(database+"-wal", "fsync", "fdatasync"), false},
	{"connection to an upstream", working, 2, on("upstream", "connect"), false},
	{"request to an upstream", working, 20, on("upstream", "write"), true},
	{"request to a child", working, 10, on("pipe", "write"), true},
	{"answer to an agent or a person", working, 30, on("agent", "write"), true},
	{"any change of the store", working, 60, stored, true},
	{"any change of the store", starting, 12, stored, true},
	{"write to the database", stopping, 5, on(database, "pwrite64"), true},
	{"sync of the database", stopping, 1, on(database, "fsync", "fdatasync"), false},
	{"removal of the write-ahead log", stopping, 1, on(database+"-wal", "unlink"), false},
	{"any change of the store", stopping, 20, stored, true},
}

// blow is a way to kill the program at a kind of call.
type blow struct {
	spot
	way string // "before" it, "after" it, or after "half of" what it writes
}

func blows() (all []blow) {
	for _, way := range []string{"before", "after", "half of"} {
		for _, at := range spots {
			if way != "half of" || at.writes {
				all = append(all, blow{at, way})
			}
		}
	}
	return all
}

// strike kills the program at the n-th call of a kind, and says which that was.
func strike(is func(systemCall) bool, n int, way string, hit *string) func(systemCall) verdict {
	return func(c systemCall) verdict {
		if !is(c) {
			return verdict{}
		}
		if n--; n != 0 {
			return verdict{}
		}
		*hit = way + " " + c.String()
		switch way {
		case "before":
			return verdict{kill: true, stall: stored(c)} // nothing may get ahead of the store
		case "after":
			return verdict{after: func() bool { return true }}
		default:
			return verdict{half: strings.Contains(c.name, "write"), after: func() bool { return true }}
		}
	}
}

// TestCrashAtSystemCalls kills the program exactly before, exactly after and in the
// middle of chosen system calls: while it works, while it stops, and while it starts
// on what the crash before left. What holds is checked beside every start that was
// left alone. SALLYPORT_CRASH_POINTS says how often, if it is set.
func TestCrashAtSystemCalls(t *testing.T) {
	c := newTown(t)
	first := c.watch(nil)
	c.found(first.url, first.link)
	c.signed()
	first.kill()

	all := blows()
	hits := make([]int, len(all))
	points := crashPoints(t, 2*len(all))
	began := time.Now()
	for i := range points {
		b := all[i%len(all)]
		n := 1 + rand.IntN(b.within)
		var hit string
		judge := strike(b.is, n, b.way, &hit)
		if b.when == starting {
			c.watch(judge).kill() // it may serve: there may be fewer such calls than n
		} else {
			w := c.watch(nil)
			c.check(w.url)
			if t.Failed() {
				t.Fatalf("after %d kills", i)
			}
			stop := make(chan struct{})
			wait := c.load(w.url, stop)
			if b.when == stopping || i%2 == 1 && b.within > 2 { // let the load get going
				c.calls(rand.IntN(60))
			}
			w.judged(judge)
			if b.when == stopping {
				_ = unix.Kill(w.pid, unix.SIGTERM)
			}
			select {
			case <-w.ended:
			case <-time.After(10 * time.Second): // there were fewer such calls than n
			}
			w.kill()
			close(stop)
			wait()
		}
		if hit != "" {
			hits[i%len(all)]++
		}
		t.Logf("%3d %6.2f s: %s the %d. %s: %s", i, time.Since(began).Seconds(), b.way, n, b.name, hit)
	}
	for i, b := range all {
		if points >= 2*len(all) && hits[i] == 0 {
			t.Errorf("the program was never killed: %s a %s", b.way, b.name)
		}
	}
	c.finish()
}

// TestCrashAtFirstStart kills the program while it makes its keys and its store,
// and then while it starts on what that left. Left alone, it starts and works.
func TestCrashAtFirstStart(t *testing.T) {
	keys := func(s systemCall) bool { return strings.Contains(s.on, ".key") || strings.HasSuffix(s.on, ".pub") }
	made := func(s systemCall) bool { return keys(s) || stored(s) }
	for i := range crashPoints(t, 8) {
		c := newTown(t)
		way := []string{"before", "after", "half of"}[i/2%3]
		var hit, again string
		if i%2 == 0 {
			c.watch(strike(keys, 1+rand.IntN(13), way, &hit)).kill()
		} else {
			c.watch(strike(made, 1+rand.IntN(140), way, &hit)).kill()
		}
		c.watch(strike(made, 1+rand.IntN(40), way, &again)).kill()
		t.Logf("%s, then %s", hit, again)
		w := c.watch(nil)
		c.found(w.url, w.link)
		c.check(w.url)
		if t.Failed() {
			return
		}
		w.kill()
	}
}

// TestPowerLoss kills the program under load and takes back what it wrote since the
// last sync of each file: any of those blocks, as a machine that loses its power does.
// Everything that was acknowledged had been synced.
func TestPowerLoss(t *testing.T) {
	c := newTown(t)
	files := []string{database, database + "-wal"}
	synced := map[string][]byte{} // what is safe
	path := func(name string) string { return filepath.Join(c.dir, ".sallyport", "store", name) }
	keep := func(name string) {
		b, err := os.ReadFile(path(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		synced[name] = b
	}
	judge := func(s systemCall) verdict {
		if strings.HasPrefix(s.name, "f") && strings.HasSuffix(s.name, "sync") && slices.Contains(files, s.on) {
			return verdict{after: func() bool { keep(s.on); return false }}
		}
		return verdict{}
	}
	for i := range crashPoints(t, 6) {
		w := c.watch(judge)
		if i == 0 {
			c.found(w.url, w.link)
			c.signed()
		}
		c.check(w.url)
		if t.Failed() {
			t.Fatalf("after %d losses", i)
		}
		wait := c.load(w.url, nil)
		c.calls(20 + rand.IntN(40))
		n, sync := 1+rand.IntN(6), on(database+"-wal", "fsync", "fdatasync")
		w.judged(func(s systemCall) verdict {
			if sync(s) {
				if n--; n == 0 {
					return verdict{kill: true, stall: true}
				}
			}
			return judge(s)
		})
		select {
		case <-w.ended:
		case <-time.After(10 * time.Second):
			t.Error("it did not sync")
		}
		w.kill()
		wait()
		lost := 0
		for _, name := range files {
			b, err := os.ReadFile(path(name))
			if err != nil {
				t.Fatal(err)
			}
			safe, all := synced[name], i%2 == 0
			for at := 0; at < len(b); at += 512 {
				end := min(at+512, len(b))
				was := make([]byte, end-at)
				copy(was, safe[min(at, len(safe)):])
				if !bytes.Equal(was, b[at:end]) && (all || rand.IntN(2) == 0) {
					copy(b[at:], was)
					lost++
				}
			}
			if err := os.WriteFile(path(name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			synced[name] = b
		}
		if err := os.Remove(path(database + "-shm")); err != nil { // it is never synced, and made again
			t.Fatal(err)
		}
		t.Logf("%d blocks were lost", lost)
	}
	c.finish()
}

// TestHaltOutlivesCrash pulls the kill switch while the store cannot be written, and
// kills the program around the file that keeps the halt instead. A halt that was said
// to be kept is in force after the next start.
func TestHaltOutlivesCrash(t *testing.T) {
	full := failing(func(s systemCall) bool { return stored(s) && strings.HasSuffix(s.name, "write64") }, unix.ENOSPC)
	kept := 0
	for _, name := range []string{"write", "rename"} {
		for _, way := range []string{"before", "after", "half of"} {
			c := newTown(t)
			w := c.watch(nil)
			c.found(w.url, w.link)
			var hit string
			blow := strike(func(s systemCall) bool {
				return strings.HasPrefix(s.on, "halts.json") && strings.HasPrefix(s.name, name)
			}, 1, way, &hit)
			w.judged(func(s systemCall) verdict {
				if v := full(s); v.fail != 0 {
					return v
				}
				return blow(s)
			})
			client := &http.Client{}
			stopped, err := post[control.Stopped](client, w.url, c.person, "/v1/halt", api.HaltRequest{Scope: sallyport.HaltGlobal, Reason: "test"})
			client.CloseIdleConnections()
			w.kill()
			if hit == "" {
				t.Errorf("the program was not killed: %+v %v", stopped, err)
			}
			s := c.serve()
			status, err2 := post[api.Status](http.DefaultClient, s.url, c.person, "/v1/status", nil)
			if err2 != nil {
				t.Fatal(err2)
			}
			if len(status.Halts) > 0 {
				kept++
			}
			if told := err == nil || way != "before" && name == "rename"; told && len(status.Halts) == 0 {
				t.Errorf("killed %s, the halt is forgotten", hit)
			}
			c.check(s.url)
		}
	}
	if kept == 0 {
		t.Error("no halt was kept")
	}
}

// failing makes the calls of a kind fail.
func failing(is func(systemCall) bool, with unix.Errno) func(systemCall) verdict {
	return func(c systemCall) verdict {
		if is(c) {
			return verdict{fail: with}
		}
		return verdict{}
	}
}

// TestDiskFaults lets the disk be full, and its syncs fail, under load. The program
// refuses what it cannot record, can still be halted, goes on when the disk does, and
// has lost nothing that anybody was told of.
func TestDiskFaults(t *testing.T) {
	writes := func(names ...string) func(systemCall) bool {
		return func(s systemCall) bool { return stored(s) && slices.Contains(names, s.name) }
	}
	for _, fault := range []struct {
		name  string
		judge func(systemCall) verdict
		kept  bool   // a halt can be kept in a file
		says  string // what to do
	}{
		{"store cannot grow", failing(writes("write", "pwrite64", "ftruncate"), unix.ENOSPC), true, "make room on the disk"},
		{"disk is full", failing(func(s systemCall) bool { return stored(s) || strings.HasPrefix(s.on, "halts.json") }, unix.ENOSPC), false, "make room on the disk"},
		{"sync fails", failing(writes("fsync", "fdatasync"), unix.EIO), true, "look at the disk"},
	} {
		t.Run(strings.ReplaceAll(fault.name, " ", "_"), func(t *testing.T) {
			c := newTown(t)
			c.alone = true
			w := c.watch(nil)
			c.found(w.url, w.link)
			client := &http.Client{}
			defer client.CloseIdleConnections()
			opened, err := post[control.RunOpened](client, w.url, c.host, "/v1/runs", api.RunRequest{Stage: sallyport.Production})
			if err != nil {
				t.Fatal(err)
			}
			tools := []string{"book__echo", "shelf__echo", "child__echo"}
			call := func(tool string) (string, sallyport.Code) {
				t.Helper()
				name := fmt.Sprintf("call-%d", c.named.Add(1))
				if !c.call(client, w.url, opened.Token, tool, name) {
					t.Fatalf("%s was not answered\n%s", tool, w.stderr)
				}
				return name, c.refusals[name].Code
			}
			for _, tool := range tools {
				if _, code := call(tool); code != "" {
					t.Fatalf("%s before the fault: %s", tool, code)
				}
			}
			// Some calls are under way when it begins.
			stop := make(chan struct{})
			wait := c.load(w.url, stop)
			c.calls(20)
			close(stop)
			w.judged(fault.judge)
			wait()

			for range 3 {
				for _, tool := range tools {
					name, code := call(tool)
					if code != sallyport.RecordFailed {
						t.Errorf("%s while it lasts: %q", tool, code)
					}
					if tool != "shelf__echo" && c.executions()[name].times > 0 {
						t.Errorf("%s was executed without an intent", tool)
					}
				}
			}
			halt := api.HaltRequest{Scope: sallyport.HaltAgent, Subject: "worker", Reason: "test"}
			stopped, err := post[control.Stopped](client, w.url, c.person, "/v1/halt", halt)
			if err != nil {
				t.Fatal(err)
			}
			if stopped.Confirmed.IsZero() || stopped.Recorded || stopped.Problem == "" || fault.kept == strings.Contains(stopped.Problem, "a restart would forget it") {
				t.Errorf("a halt while it lasts: %+v", stopped)
			}
			// A person is told, and sees which calls nobody can say the outcome of.
			refusal, err := post[json.RawMessage](client, w.url, c.person, "/v1/keys", api.KeyRequest{Kind: sallyport.KeyAgent, Agent: "worker", Stage: sallyport.Sandbox, Days: 1})
			if err == nil || !strings.Contains(err.Error(), fault.says) {
				t.Errorf("a key while it lasts: %s, %v", refusal, err)
			}
			status, err := post[api.Status](client, w.url, c.person, "/v1/status", nil)
			if err != nil {
				t.Fatal(err)
			}
			did := c.executions()
			for name, r := range c.refusals {
				changed := r.Code == sallyport.RecordFailed && did[name].times > 0 && !strings.HasPrefix(c.tools[name], "shelf")
				if changed && !slices.ContainsFunc(status.Unknown, func(u control.Unknown) bool { return u.Call == r.Call }) {
					t.Errorf("%s was executed, its outcome could not be recorded, and status does not list it", name)
				}
			}

			executed := len(c.executions())
			for _, tool := range tools {
				call(tool)
			}
			if n := len(c.executions()); n != executed {
				t.Errorf("%d calls were executed after the halt", n-executed)
			}

			w.judged(nil)
			deadline := time.Now().Add(20 * time.Second)
			for _, code := call("book__echo"); code != sallyport.Halted; _, code = call("book__echo") {
				if time.Now().After(deadline) {
					t.Fatalf("when it is over, a halted call is refused as %s", code)
				}
			}
			if fault.kept {
				for {
					status, err := post[api.Status](client, w.url, c.person, "/v1/status", nil)
					if err != nil {
						t.Fatal(err)
					}
					if len(status.Halts) > 0 {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("when it is over, the halt is not recorded")
					}
				}
			} else if again, err := post[control.Stopped](client, w.url, c.person, "/v1/halt", halt); err != nil || !again.Recorded {
				t.Fatalf("when it is over, a halt: %+v, %v", again, err)
			}
			if _, err := post[json.RawMessage](client, w.url, c.person, "/v1/resume", halt); err != nil {
				t.Fatal(err)
			}
			for _, tool := range tools {
				if _, code := call(tool); code != "" {
					t.Errorf("%s when it is over: %s", tool, code)
				}
			}
			c.check(w.url)
			w.kill()
			// It does not start on such a disk, and says what to do.
			w = c.watch(fault.judge)
			if w.kill(); w.url != "" || w.status.ExitStatus() != 1 || !strings.Contains(w.stderr.String(), "the disk") {
				t.Errorf("started: %q, ended with %v: %s", w.url, w.status, w.stderr)
			}
			c.check(c.serve().url)
		})
	}
}
