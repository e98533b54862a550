package app

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/control"
	"sallyport/internal/testkit/pgserver"
)

// moved makes the project use a database of a server, and copies its store there if
// it has one.
func (c *town) moved(s *pgserver.Server) {
	c.t.Helper()
	name, err := s.Fresh()
	if err != nil {
		c.t.Fatal(err)
	}
	for path, text := range map[string]string{
		"sallyport.yaml": "listen: 127.0.0.1:8484\nstore: {postgres: \"file:secrets/store\"}\n",
		"secrets/store":  s.URL(name) + "\n",
	} {
		path = filepath.Join(c.dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(c.dir, ".sallyport", "store", "sallyport.db")); err == nil {
		c.run(0, "store", "copy", "--dir", c.dir)
		if said := c.run(1, "store", "copy", "--dir", c.dir); !strings.Contains(said, "not empty") {
			c.t.Errorf("copied over a copy: %s", said)
		}
	}
}

func newServer(t *testing.T) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestCrashOnPostgres begins a project on a file, kills the program, copies what it
// left to PostgreSQL, and goes on killing it there.
func TestCrashOnPostgres(t *testing.T) {
	server := newServer(t)
	c := newTown(t)
	s := c.serve()
	c.found(s.url, s.link)
	c.signed()
	rounds := crashPoints(t, 6)
	for i := range rounds {
		c.check(s.url)
		wait := c.load(s.url, nil)
		time.Sleep(time.Duration(20+rand.IntN(300)) * time.Millisecond) // the point of the crash, not a wait for anything
		s.kill()
		wait()
		if i == 0 {
			c.moved(server)
		}
		s = c.serve()
	}
	s.kill()
	c.finish()
}

// TestDatabaseGoes: while the database is away nothing is done, halts work, and the
// program says so; when it is back, it goes on.
func TestDatabaseGoes(t *testing.T) {
	server := newServer(t)
	c := newTown(t)
	c.moved(server)
	found := func(want ...string) {
		t.Helper()
		text := fmt.Sprint(Doctor(t.Context(), c.dir, time.Second, time.Now))
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("doctor does not say %q: %s", w, text)
			}
		}
	}
	found("PostgreSQL 1", "UTF8", "fsync is on", "synchronous_commit is on", "no tables yet")
	s := c.serve()
	c.found(s.url, s.link)
	c.signed()
	found("has had it open since", "its schema has version", "it can be written")
	opened, err := post[control.RunOpened](c.client, s.url, c.host, "/v1/runs", api.RunRequest{Stage: sallyport.Production})
	if err != nil {
		t.Fatal(err)
	}
	token := opened.Token
	c.runs = append(c.runs, opened.Run.ID)
	c.alone = true // nobody decides anything but what this test does
	stop := make(chan struct{})
	wait := c.load(s.url, stop)
	answers := func(status int) {
		t.Helper()
		for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			resp, err := http.Get(s.url + "/readyz")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == status {
					return
				}
			}
			if time.Now().After(until) {
				t.Fatalf("readyz does not answer %d: %v", status, err)
			}
		}
	}
	answers(http.StatusOK)
	c.calls(100)
	if err := server.Down(); err != nil {
		t.Fatal(err)
	}
	answers(http.StatusServiceUnavailable)
	close(stop)
	wait()
	c.mu.Lock()
	before := len(c.executed)
	c.mu.Unlock()
	for i, tool := range []string{"book__echo", "shelf__echo"} {
		req, err := callRequest(s.url, token, tool, fmt.Sprintf(`{"message":"away-%d"}`, i))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(raw), "not_ready") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	c.mu.Lock()
	if len(c.executed) != before {
		t.Error("a call was executed and cannot have been recorded")
	}
	c.mu.Unlock()
	if said := c.run(1, "halt", "global", "--reason", "test", "--server", s.url); !strings.Contains(said, "--local") {
		t.Errorf("whoever halts is not told how: %s", said)
	}
	c.run(0, "halt", "upstream", "book", "--reason", "test", "--local", "--dir", c.dir)
	found("PostgreSQL server runs")
	if err := server.Up(); err != nil {
		t.Fatal(err)
	}
	answers(http.StatusOK)
	for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		now, err := post[api.Status](http.DefaultClient, s.url, c.person, "/v1/status", nil)
		if err == nil && len(now.Halts) == 1 && now.Halts[0].Subject == "book" {
			break // the halt given meanwhile is recorded
		}
		if time.Now().After(until) {
			t.Fatalf("%+v %v", now, err)
		}
	}
	// Refusals of this kind could not be recorded.
	maps.DeleteFunc(c.refusals, func(_ string, r refused) bool { return r.Code == sallyport.NotReady })
	c.run(0, "resume", "upstream", "book", "--reason", "test", "--server", s.url)
	c.closing = true
	c.check(s.url)
	if len(c.results) < 50 {
		t.Errorf("%d calls were answered: too few to show anything", len(c.results))
	}
	s.end(os.Interrupt)
	c.run(0, "audit", "verify", "--dir", c.dir)
	c.check(c.serve().url)
}
