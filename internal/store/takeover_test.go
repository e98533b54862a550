package store

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/testkit/pgserver"
)

// newPostgresRig is a rig whose store is in a database of its own.
func newPostgresRig(t *testing.T, s *pgserver.Server) (*rig, *database) {
	t.Helper()
	r, d := unopened(t), newDatabase(t, s)
	r.Path, r.Postgres = "", s.URL(d.name)
	r.open()
	t.Cleanup(func() { r.Close() })
	return r, d
}

// load writes records from many sides until the returned function is called, which
// returns those that were acknowledged and those whose writing failed.
func (r *rig) load(writers int) (stop func() (kept, failed []string)) {
	var over atomic.Bool
	var mu sync.Mutex
	var kept, failed []string
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := 0; !over.Load(); i++ {
				id := fmt.Sprintf("rec_%d_%d", w, i)
				err := r.Commit(context.Background(), person(id))
				mu.Lock()
				if err == nil {
					kept = append(kept, id)
				} else {
					failed = append(failed, id)
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(time.Millisecond) // it is refused at once while the store is away
				}
			}
		})
	}
	return func() ([]string, []string) {
		over.Store(true)
		wait.Wait()
		return kept, failed
	}
}

// ids counts how often each record is in the log.
func (r *rig) ids() map[string]int {
	r.t.Helper()
	count := map[string]int{}
	err := r.Records(context.Background(), 0, r.Size(), func(_ int64, body []byte) error {
		rec, err := audit.ParseRecord(body)
		if err == nil {
			count[rec.ID]++
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return count
}

// exact checks that what was acknowledged is in the log once, and what failed once
// or not at all.
func (r *rig) exact(kept, failed []string) {
	r.t.Helper()
	if len(kept) == 0 {
		r.t.Fatal("nothing was acknowledged")
	}
	count := r.ids()
	for _, id := range kept {
		if count[id] != 1 {
			r.t.Errorf("%s was acknowledged, and is there %d times", id, count[id])
		}
	}
	for _, id := range failed {
		if count[id] > 1 {
			r.t.Errorf("%s failed, and is there %d times", id, count[id])
		}
	}
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it never was so: " + what)
		}
	}
}

// TestServerRestarts: the server crashes and comes back under load, again and again.
// While it is away everything is refused; afterwards what was acknowledged is there.
func TestServerRestarts(t *testing.T) {
	s, err := pgserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r, _ := newPostgresRig(t, s)
	stop := r.load(16)
	for range 3 {
		size := r.Size()
		eventually(t, "records are written", func() bool { return r.Size() > size+200 })
		if err := s.Down(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the store says that it is away", func() bool { return r.Ready() != nil })
		if r.Ready().Code != sallyport.NotReady {
			t.Errorf("%v", r.Ready())
		}
		if err := r.Commit(t.Context(), person("rec_away")); err == nil {
			t.Error("something was recorded nowhere")
		}
		if err := s.Up(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the store is back", func() bool { return r.Ready() == nil })
	}
	size := r.Size()
	eventually(t, "records are written", func() bool { return r.Size() > size })
	kept, failed := stop()
	if len(failed) == 0 {
		t.Error("nothing failed: nothing was tested")
	}
	r.verified()
	r.exact(kept, failed)
	t.Logf("%d acknowledged, %d failed", len(kept), len(failed))
}

// TestBackWithoutCalls: a store that was away is found to be back though nobody
// writes.
func TestBackWithoutCalls(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	if err := d.server.Exec("postgres", "ALTER DATABASE "+d.name+" WITH ALLOW_CONNECTIONS false"); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Sever(d.name, "sallyport "); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store says that it is away", func() bool { return r.Ready() != nil })
	if err := d.server.Exec("postgres", "ALTER DATABASE "+d.name+" WITH ALLOW_CONNECTIONS true"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is back", func() bool { return r.Ready() == nil })
	if err := r.Commit(t.Context(), person("rec_1")); err != nil {
		t.Fatal(err)
	}
	r.verified()
}

// TestSeveredAtCommit ends the session before and after a commit happened. The caller
// is told of an error both times; the log holds the record only in the second case.
func TestSeveredAtCommit(t *testing.T) {
	for _, c := range []struct {
		point    string
		happened int
	}{{"begin", 0}, {"commit", 0}, {"committed", 1}} {
		t.Run(c.point, func(t *testing.T) {
			r, d := newPostgresRig(t, server(t))
			var done atomic.Bool
			sever := func(at string) error {
				if at != c.point || !done.CompareAndSwap(false, true) {
					return nil
				}
				if err := d.server.Sever(d.name, "sallyport "); err != nil {
					return err
				}
				if c.happened > 0 {
					return errors.New("nobody heard of it")
				}
				return nil
			}
			if err := r.Commit(t.Context(), person("rec_before")); err != nil {
				t.Fatal(err)
			}
			r.fault.Store(&sever)
			if err := r.Commit(t.Context(), person("rec_severed")); err == nil {
				t.Fatal("no error")
			}
			eventually(t, "something can be written again", func() bool { return r.Commit(t.Context(), person("rec_after")) == nil })
			r.verified()
			if count := r.ids(); count["rec_before"] != 1 || count["rec_severed"] != c.happened || count["rec_after"] != 1 {
				t.Errorf("%v", count)
			}
		})
	}
}

// TestSeveredUnderLoad ends sessions wherever they happen to be.
func TestSeveredUnderLoad(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	stop := r.load(16)
	for range 20 {
		size := r.Size()
		eventually(t, "records are written", func() bool { return r.Size() > size+20 })
		if err := d.server.Sever(d.name, "sallyport "+r.boot); err != nil {
			t.Fatal(err)
		}
	}
	kept, failed := stop()
	eventually(t, "something can be written again", func() bool { return r.Commit(t.Context(), person("rec_end")) == nil })
	r.verified()
	r.exact(kept, failed)
}

// TestRace: of starts that race for a store one gets it, and the others are told who
// has.
func TestRace(t *testing.T) {
	r := unopened(t)
	d := newDatabase(t, server(t))
	r.Path, r.Postgres = "", d.server.URL(d.name)
	stores, errs := make([]*Store, 4), make([]error, 4)
	sides(len(stores), func(i int) { stores[i], errs[i] = Open(t.Context(), r.Config) })
	won := 0
	for i, s := range stores {
		if errs[i] == nil {
			won++
			if err := s.Commit(t.Context(), person("rec_1")); err != nil {
				t.Error(err)
			}
			defer s.Close()
			continue
		}
		refusal, ok := errors.AsType[*sallyport.Refusal](errs[i])
		if !ok || refusal.Code != sallyport.Conflict || refusal.Detail["pid"] == nil || refusal.Detail["since"] == nil {
			t.Errorf("%v", errs[i])
		}
	}
	if won != 1 {
		t.Errorf("%d starts have the store", won)
	}
}

// TestTakenOver: a start whose session was ended, and the store taken by another,
// never writes again, not even when the other has gone.
func TestTakenOver(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	if err := r.Commit(t.Context(), person("rec_old")); err != nil {
		t.Fatal(err)
	}
	// The old start does not look for itself while the other takes over.
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func(at string) error {
		if at == "begin" {
			once.Do(func() { close(held); <-release })
		}
		return nil
	}
	r.fault.Store(&hold)
	late := make(chan error, 1)
	go func() { late <- r.Commit(context.Background(), person("rec_late")) }()
	<-held
	if err := d.server.Sever(d.name, "sallyport "+r.boot); err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), r.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(t.Context(), person("rec_new")); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := <-late; err == nil {
		t.Error("a start that was taken over has written")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := r.Commit(t.Context(), person(fmt.Sprint("rec_later_", i))); err == nil {
			t.Error("a start that was taken over has written after the other had gone")
		}
	}
	eventually(t, "it says so", func() bool { return r.Ready() != nil })
	r.verified()
	if count := r.ids(); count["rec_old"] != 1 || count["rec_new"] != 1 || len(count) != 2 {
		t.Errorf("%v", count)
	}
}

// TestFence: whoever has the session with the lock and no longer the name in the
// database commits nothing.
func TestFence(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	if err := d.server.Exec(d.name, `UPDATE control SET boot = 'another'`); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), person("rec_1")); err == nil {
		t.Error("written past the fence")
	}
	if n := len(r.ids()); n != 0 {
		t.Errorf("%d records", n)
	}
}

// TestAnotherSession: what is written in another session than the one with the lock,
// as through a pooler, is not written.
func TestAnotherSession(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	var done atomic.Bool
	elsewhere := func(at string) error {
		if at == "begin" && done.CompareAndSwap(false, true) {
			r.db.(*postgres).pid++
		}
		return nil
	}
	r.fault.Store(&elsewhere)
	if err := r.Commit(t.Context(), person("rec_elsewhere")); err == nil {
		t.Error("written in another session")
	}
	eventually(t, "something can be written again", func() bool { return r.Commit(t.Context(), person("rec_here")) == nil })
	if count := r.ids(); count["rec_elsewhere"] != 0 || count["rec_here"] != 1 {
		t.Errorf("%v", count)
	}
}

// TestEndIsMissing: a database that has less than was acknowledged, since a backup was
// restored or a standby lagged, is not written any more.
func TestEndIsMissing(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	for i := range 3 {
		if err := r.Commit(t.Context(), person(fmt.Sprint("rec_", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.server.Exec(d.name, `DELETE FROM records WHERE seq = 2`); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Exec(d.name, `UPDATE control SET written = 0; DELETE FROM hashes; DELETE FROM checkpoints`); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Sever(d.name, "sallyport "); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store says that something is wrong", func() bool {
		if err := r.Commit(t.Context(), person("rec_more")); err == nil {
			t.Fatal("written behind what is left")
		}
		return r.Ready() != nil
	})
	if n := len(r.ids()); n > 2 {
		t.Errorf("%d records", n)
	}
}

// envWriter makes the test binary a program that writes to the store at a URL until
// it is killed, and says what was acknowledged.
const envWriter = "SALLYPORT_TEST_WRITER"

func writeAlways(url string) {
	skey, err := os.ReadFile(os.Getenv("SALLYPORT_TEST_SIGNER"))
	if err != nil {
		panic(err)
	}
	signer, err := note.NewSigner(string(skey))
	if err != nil {
		panic(err)
	}
	s, err := Open(context.Background(), Config{
		Postgres: url, Origin: origin, Signer: signer, SealingKey: make([]byte, 32), PseudonymKey: []byte("0123456789abcdef0123456789abcdef"),
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("rec_paused_%d_%d", w, i)
				if s.Commit(context.Background(), person(id)) == nil {
					fmt.Println(id)
				} else if s.Ready() == errTaken {
					fmt.Println("taken over")
				}
			}
		}()
	}
	select {}
}

// TestPausedWriter stops a writer in the middle of its work (SIGSTOP), has another
// take over, and lets it go on: it commits nothing any more.
func TestPausedWriter(t *testing.T) {
	r := unopened(t)
	d := newDatabase(t, server(t))
	r.Path, r.Postgres = "", d.server.URL(d.name)
	key := filepath.Join(t.TempDir(), "signer")
	if err := os.WriteFile(key, []byte(r.skey), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envWriter+"="+r.Postgres, "SALLYPORT_TEST_SIGNER="+key)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var mu sync.Mutex
	var kept []string
	taken := make(chan struct{})
	go func() {
		var once sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "taken over" {
				once.Do(func() { close(taken) })
				continue
			}
			mu.Lock()
			kept = append(kept, lines.Text())
			mu.Unlock()
		}
	}()
	written := func() int { mu.Lock(); defer mu.Unlock(); return len(kept) }
	eventually(t, "the writer writes", func() bool { return written() > 100 })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.Config); err == nil || !strings.Contains(err.Error(), "has had the store") {
		t.Fatalf("the lock of a paused program is its: %v", err)
	}
	if err := d.server.Sever(d.name, "sallyport "); err != nil { // as an operator does
		t.Fatal(err)
	}
	r.open()
	defer r.Close()
	if err := r.Commit(t.Context(), person("rec_new")); err != nil {
		t.Fatal(err)
	}
	size := r.Size()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-taken:
	case <-time.After(time.Minute):
		t.Fatalf("the writer does not say that it was taken over: %s", said.String())
	}
	if r.Size() != size {
		t.Errorf("%d records were written by nobody", r.Size()-size)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.verified()
	mu.Lock()
	defer mu.Unlock()
	r.exact(kept, nil)
}

// TestServersRefused: a server that may lose what it acknowledges is refused, with
// what to do about it.
func TestServersRefused(t *testing.T) {
	d := newDatabase(t, server(t))
	r := unopened(t)
	r.Path, r.Postgres = "", d.server.URL(d.name)
	if err := d.server.Exec("postgres", "ALTER DATABASE "+d.name+" SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.Config); err == nil || !strings.Contains(err.Error(), "synchronous_commit is off") {
		t.Errorf("%v", err)
	}
	var warned bytes.Buffer
	r.AsynchronousCommit, r.Log = true, slog.New(slog.NewTextHandler(&warned, nil))
	s, err := Open(t.Context(), r.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(warned.String(), "level=WARN") || !strings.Contains(warned.String(), "synchronous_commit") {
		t.Errorf("no warning: %s", warned.String())
	}
	latin, err := d.server.Fresh()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.server.Drop(latin), d.server.Exec("postgres", "CREATE DATABASE "+latin+" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")); err != nil {
		t.Fatal(err)
	}
	defer d.server.Drop(latin)
	r.Postgres = d.server.URL(latin)
	if _, err := Open(t.Context(), r.Config); err == nil || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("%v", err)
	}
	for _, c := range []struct {
		server Server
		lax    bool
		want   string
	}{
		{Server{Version: 15, Encoding: "UTF8", Fsync: true, Synchronous: "on"}, false, ""},
		{Server{Version: 15, Encoding: "UTF8", Fsync: true, Synchronous: "remote_apply"}, false, ""},
		{Server{Version: 15, Encoding: "UTF8", Fsync: true, Synchronous: "off"}, true, ""},
		{Server{Version: 14, Encoding: "UTF8", Fsync: true, Synchronous: "on"}, true, "PostgreSQL 14"},
		{Server{Version: 15, Encoding: "UTF8", Synchronous: "on"}, true, "fsync is off"},
		{Server{Version: 15, Encoding: "UTF8", Fsync: true, Synchronous: "on", Standby: true}, true, "standby"},
	} {
		refusal := c.server.refusal(c.lax)
		if (refusal == nil) != (c.want == "") || refusal != nil && (!strings.Contains(refusal.Reason, c.want) || refusal.Hint == "") {
			t.Errorf("%+v: %v", c.server, refusal)
		}
	}
	// No error repeats a password.
	for _, url := range []string{"postgres://ana:hunter2@[::1", "postgres://ana:hunter2@/", "host=/nowhere password=hunter2 dbname=x", "postgres://ana:hunter2@127.0.0.1:1/x?connect_timeout=1"} {
		r.Postgres = url
		if _, err := Open(t.Context(), r.Config); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestCopy moves a store with everything in it.
func TestCopy(t *testing.T) {
	r := newRig(t)
	fill(t, r)
	d := newDatabase(t, server(t))
	to := r.Config
	to.Path, to.Postgres = "", d.server.URL(d.name)
	var refusal *sallyport.Refusal
	if _, err := Copy(t.Context(), r.Path, to); !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict {
		t.Fatalf("a store that is open was copied: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	size := r.Size()
	copied, err := Copy(t.Context(), r.Path, to)
	if err != nil || copied.Size != size || copied.Checkpoint == nil {
		t.Fatalf("%+v %v", copied, err)
	}
	if _, err := Copy(t.Context(), r.Path, to); !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict || !strings.Contains(refusal.Reason, "not empty") {
		t.Errorf("copied over: %v", err)
	}
	file, err := sql.Open("sqlite", dsn(r.Path, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := rowsOf(t, file)
	r.Config = to
	r.open()
	if lines, err := r.Trace(t.Context(), runA, "", true); err != nil || len(lines) == 0 || lines[0].Payload == nil && lines[1].Payload == nil {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	if r.Size() != size {
		t.Errorf("%d records, %d before", r.Size(), size)
	}
	if diff := cmp.Diff(before, rowsOf(t, r.readers)); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
	r.verified()
}

// tables are all there are but control, whose one row is compared by what it does.
var tables = []string{"answers", "checkpoints", "data_keys", "halts", "hashes", "intents", "keys", "latest", "links", "persons", "pointers", "records", "runs", "stage_configs", "versions"}

// rowsOf is what is in the tables, as text.
func rowsOf(t *testing.T, q querier) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, table := range tables {
		rows, err := q.QueryContext(t.Context(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				t.Fatal(err)
			}
			text := ""
			for i, v := range values {
				switch b := v.(type) {
				case []byte:
					v = fmt.Sprintf("%x", b)
				case nil:
					v = "" // what is empty reads as if it were not there
				case int64:
					if columns[i] == "implicit" {
						v = b != 0
					}
				}
				text += fmt.Sprintf("%s=%v ", columns[i], v)
			}
			out[table] = append(out[table], text)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		if len(out[table]) == 0 {
			t.Errorf("nothing is in %s", table)
		}
		slices.Sort(out[table])
	}
	return out
}

// fill writes into every table.
func fill(t *testing.T, r *rig) {
	t.Helper()
	ctx := t.Context()
	r.openRun(runA)
	digest, at := sallyport.Digest("sha256:aaaa"), r.Now()
	key := control.Key{ID: "key_1", Kind: sallyport.KeyAgent, Hash: [32]byte{1}, Agent: "support", Made: at, Expires: at.Add(time.Hour)}
	err := r.Commit(ctx, person("rec_all"),
		control.PutVersion{Kind: control.ReleaseVersion, Digest: digest, Body: []byte("{}")},
		control.SetConfig{Stage: sallyport.Production, Digest: digest}, control.SetLatest{Agent: "support", Release: digest},
		control.SetPointer{Agent: "support", Stage: sallyport.Production, Release: digest, By: "ana@example.com", At: at},
		control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltRun, Subject: "run_other", Reason: "wrong – \u00e4", At: at}},
		control.PutPerson{Person: sallyport.Person{ID: "ana@example.com", Roles: []sallyport.Role{sallyport.Admin}}},
		control.PutLink{Link: control.Link{Hash: [32]byte{2}, Person: "ana@example.com", Expires: at.Add(time.Hour)}},
		control.PutKey{Key: key}, control.PutAnswer{Answer: control.Answer{Key: "a", Request: "b", Body: []byte{}, At: at}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Implicit(ctx, agentKey("key_1"), releaseA, sallyport.Sandbox, at); err != nil {
		t.Fatal(err)
	}
	for i := range 1500 { // more than one row of hashes
		if err := r.Commit(ctx, person(fmt.Sprint("rec_", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Intend(ctx, entry(audit.Intent, "open", 0)); err != nil {
		t.Fatal(err)
	}
	read := entry(audit.Outcome, "read", sallyport.OutcomeOK)
	read.Record.Access = sallyport.Read
	if err := r.Conclude(ctx, read); err != nil {
		t.Fatal(err)
	}
}
