package agentside_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestStrangersSendNoLongBodies: whoever is not known is told so before four
// megabytes of theirs are held in memory.
func TestStrangersSendNoLongBodies(t *testing.T) {
	t.Parallel()
	h := newHandler(t, newFake(t))
	server := serve(t, h)
	body, more := io.Pipe()
	defer more.Close()
	go more.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"` + strings.Repeat("x", 256<<10)))
	r := post(`{}`, "Authorization", "Bearer nobody").http(server.URL)
	r.Body, r.ContentLength = body, -1
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("answered %s", resp.Status)
	}
}

// TestBodiesThatNeverCome: a connection whose request was refused before its body
// is not held for the body for good.
func TestBodiesThatNeverCome(t *testing.T) {
	t.Parallel()
	h := newHandler(t, newFake(t))
	deadlines := 0
	w := &deadlined{ResponseRecorder: httptest.NewRecorder(), set: &deadlines}
	r := httptest.NewRequest("POST", "/mcp", strings.NewReader(`{}`)) // no credential
	h.ServeHTTP(w, r)
	if w.Code == http.StatusOK || deadlines != 1 || w.last.IsZero() {
		t.Errorf("answered %d; %d deadlines for reading, the last %v", w.Code, deadlines, w.last)
	}
}

// deadlined is a response whose connection keeps its deadline for reading.
type deadlined struct {
	*httptest.ResponseRecorder
	set  *int
	last time.Time
}

func (d *deadlined) SetReadDeadline(t time.Time) error {
	*d.set++
	d.last = t
	return nil
}
