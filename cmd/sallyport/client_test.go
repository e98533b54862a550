package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/app"
	"sallyport/internal/control"
)

// lossy stands between the command line and a server, and loses the answers to
// the next few requests: they have been carried out, and nobody hears of it.
type lossy struct {
	mu    sync.Mutex
	lose  int
	asked []string // method, path and idempotency key
}

func (l *lossy) take() (asked []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked, l.asked = l.asked, nil
	return asked
}

func startLossy(t *testing.T, server string) (*lossy, string) {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.asked = append(l.asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Idempotency-Key"))
		lost := l.lose > 0
		if lost {
			l.lose--
		}
		l.mu.Unlock()
		if !lost {
			proxy.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the connection ends here
	}))
	t.Cleanup(s.Close)
	return l, s.URL
}

// TestLostAnswers: a command whose answer is lost asks once more with the same
// idempotency key, and what it asks for is done once; two commands never share a
// key. A sign-in link is not tried again: it may have been used up.
func TestLostAnswers(t *testing.T) {
	d, err := app.NewDemo(t.Context(), app.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.App.Close(); err != nil {
			t.Error(err)
		}
	})
	between, at := startLossy(t, d.App.URL)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("SALLYPORT_SERVER", at)
	command := func(want, lose int, args ...string) (stdout, stderr string, asked []string) {
		t.Helper()
		between.mu.Lock()
		between.lose = lose
		between.mu.Unlock()
		var out, complaints bytes.Buffer
		if code := run(args, &out, &complaints); code != want {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, want, &complaints)
		}
		return out.String(), complaints.String(), between.take()
	}
	link := func() string {
		t.Helper()
		link, err := d.App.Control.MakeLink(t.Context(), d.Person.ID)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	if _, said, asked := command(exitError, 1, "login", link()); len(asked) != 1 || !strings.Contains(said, "was lost before it had answered") {
		t.Errorf("login: %q, asked %q", said, asked)
	}
	command(0, 0, "login", link())

	keys := func() int {
		t.Helper()
		all, err := d.App.Store.ListKeys(t.Context(), "support", sallyport.KeyHost, time.Time{}, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	used := map[string]bool{}
	fresh := func(asked []string, times int) {
		t.Helper()
		if len(asked) != times {
			t.Errorf("asked %d times, want %d: %q", len(asked), times, asked)
			return
		}
		key := asked[0][strings.LastIndexByte(asked[0], ' ')+1:]
		for _, a := range asked {
			if a != asked[0] || len(key) < 22 {
				t.Errorf("not sent again as it was, or without a key: %q", asked)
			}
		}
		if used[key] {
			t.Errorf("a key is used for two commands: %q", asked)
		}
		used[key] = true
	}
	before := keys()
	for lose, asks := range map[int]int{0: 1, 1: 2} {
		out, _, asked := command(0, lose, "keys", "host", "support", "-o", "json")
		fresh(asked, asks)
		var made control.KeyMade
		if err := json.Unmarshal([]byte(out), &made); err != nil || !strings.HasPrefix(made.Secret, "sp_host_") {
			t.Errorf("with %d answers lost: %v %s", lose, err, out)
		}
	}
	if made := keys() - before; made != 2 {
		t.Errorf("two commands made %d keys", made)
	}
	_, _, asked := command(0, 1, "halt", "tool", "payments/refund", "--reason", "why")
	fresh(asked, 2)
	_, _, asked = command(0, 1, "resume", "tool", "payments/refund", "--reason", "why")
	fresh(asked, 2)
	if _, _, asked := command(0, 1, "status"); len(asked) != 2 || asked[0] != "GET /v1/status " {
		t.Errorf("status asked %q", asked)
	}
	// What is lost again and again is lost, and says that it may have happened. (On a
	// connection that was used before, net/http sends again too.)
	before = keys()
	if _, said, asked := command(exitError, 9, "keys", "host", "support"); len(asked) < 2 || len(asked) > 3 || !strings.Contains(said, "may have been done all the same") || keys() != before+1 {
		t.Errorf("%q, asked %q, %d keys more", said, asked, keys()-before)
	}
}

// TestAnswerStillUnderWay: where the first request is still being carried out, the
// second waits for its answer.
func TestAnswerStillUnderWay(t *testing.T) {
	var asked int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked++
		switch {
		case asked == 1:
			panic(http.ErrAbortHandler)
		case asked < 4:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"code":"conflict","detail":"being carried out"}`))
		default:
			_, _ = w.Write([]byte(`{"link":"sp_link_x"}`))
		}
	}))
	t.Cleanup(s.Close)
	cl := &client{server: s.URL, pause: time.Microsecond}
	var made api.LinkMade
	if err := cl.do(t.Context(), "POST", "/v1/persons", struct{}{}, &made); err != nil || made.Link != "sp_link_x" || asked != 4 {
		t.Errorf("asked %d times: %+v, %v", asked, made, err)
	}
	// A conflict that is no answer to asking again is what it is.
	asked = 1
	var r *sallyport.Refusal
	if err := cl.do(t.Context(), "POST", "/v1/persons", struct{}{}, &made); !errors.As(err, &r) || r.Code != sallyport.Conflict || asked != 2 {
		t.Errorf("asked %d times: %v", asked-1, err)
	}
	// Nobody waits for longer than they have time.
	asked = 0
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cl.do(ctx, "POST", "/v1/persons", struct{}{}, &made); !errors.Is(err, context.Canceled) {
		t.Errorf("after it was cancelled: %v", err)
	}
}
