package app

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// hung is a book on a disk that neither works nor fails.
type hung struct{ free chan struct{} }

func (h hung) Commit(context.Context, *audit.Record, ...control.Change) error {
	<-h.free
	return nil
}

// nobodyLive reads nothing back.
type nobodyLive struct{ live }

func (nobodyLive) Refresh(context.Context) error { return nil }

// TestFileHaltsWhileTheStoreHangs: each halt of the file works as soon as it is
// seen, whatever the store is doing with the one before.
func TestFileHaltsWhileTheStoreHangs(t *testing.T) {
	a := &App{Options: Options{Log: quiet()}, halts: filepath.Join(t.TempDir(), "halts.json"), Gateway: gateway.New(gateway.Config{Now: time.Now})}
	book := hung{make(chan struct{})}
	a.Control = control.New(control.Config{Book: book, Live: nobodyLive{live{a}}, Others: a.Store, Spare: spare{a.halts}, Now: time.Now, Log: quiet()})
	var halts []sallyport.Halt
	for _, subject := range []string{"crm", "mail"} {
		halts = append(halts, sallyport.Halt{Scope: sallyport.HaltUpstream, Subject: subject, Reason: "wrong", By: "file", At: time.Now()})
		if err := (spare{a.halts}).Change(func([]sallyport.Halt) []sallyport.Halt { return halts }); err != nil {
			t.Fatal(err)
		}
		taken := make(chan struct{})
		go func() {
			a.takeSpareHalts(context.Background())
			close(taken)
		}()
		select {
		case <-taken:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody looks for halts any more")
		}
		if a.Gateway.State().Halted(&sallyport.Target{Upstream: sallyport.UpstreamID(subject)}) == nil {
			t.Errorf("%s is not halted", subject)
		}
	}
	close(book.free)
	a.beside.Wait()
}

// TestUnreadableHaltsCanBeTakenBack once the file is in order again.
func TestUnreadableHaltsCanBeTakenBack(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Production)
	file := d.App.halts
	if err := os.WriteFile(file, []byte(`[{"scope":`), 0o600); err != nil {
		t.Fatal(err)
	}
	until := func(what string, halted bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			m, err := call(d.App.URL, token, "list_payments", `{"customer":"cus_0001"}`)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(m.Raw), `"halted"`) == halted {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s", what, m.Raw)
			}
		}
	}
	until("a file that cannot be read halts nothing", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := d.App.Control.Resume(t.Context(), d.Person, sallyport.HaltGlobal, "", "the file is in order")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it cannot be taken back: %v", err)
		}
	}
	until("it works on", false)
}

// deadlined is a response whose connection keeps its deadline for reading.
type deadlined struct {
	*httptest.ResponseRecorder
	set  int
	last time.Time
}

func (d *deadlined) SetReadDeadline(t time.Time) error {
	d.set++
	d.last = t
	return nil
}

// TestBodiesAreNotWaitedForForGood, least of all those that nobody reads.
func TestBodiesAreNotWaitedForForGood(t *testing.T) {
	for _, c := range []struct {
		name      string
		body      io.Reader
		read      bool
		set, left bool // a deadline
	}{
		{"no body", nil, true, false, false},
		{"read", strings.NewReader("body"), true, true, false},
		{"not read", strings.NewReader("body"), false, true, true},
	} {
		w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
		hurry(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if c.read {
				_, _ = io.Copy(io.Discard, r.Body)
			}
		})).ServeHTTP(w, httptest.NewRequest("POST", "/v1/halt", c.body))
		if w.set > 0 != c.set || !w.last.IsZero() != c.left {
			t.Errorf("%s: %d deadlines, the last %v", c.name, w.set, w.last)
		}
	}
}
