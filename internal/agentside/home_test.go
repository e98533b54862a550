package agentside_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport/internal/agentside"
)

// neighbours are replicas of which number 7 is there besides this one, which is 3.
type neighbours struct {
	passed []string // bodies, or the method where there is none
}

func (*neighbours) Self() int64 { return 3 }

func (n *neighbours) Pass(w http.ResponseWriter, r *http.Request, to int64) bool {
	if to != 7 {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	if len(body) == 0 {
		body = []byte(r.Method)
	}
	n.passed = append(n.passed, string(body))
	w.WriteHeader(http.StatusTeapot)
	return true
}

// TestPassedOn: what belongs to another replica goes there whole, and what does not, or
// belongs to one that is gone, is answered here.
func TestPassedOn(t *testing.T) {
	n := &neighbours{}
	h := newHandler(t, newFake(t), func(c *agentside.Config) { c.Replicas = n })
	session := func(id, method string) *http.Response {
		r := legacy(id, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		if r.method = method; method != http.MethodPost {
			r.body = ""
			r.with("Content-Type", "", "Accept", "text/event-stream")
		}
		return do(h, r)
	}
	for _, c := range []struct {
		id, method string
		status     int
	}{
		{"7.ABC", http.MethodPost, http.StatusTeapot},
		{"7.ABC", http.MethodGet, http.StatusTeapot},
		{"7.ABC", http.MethodDelete, http.StatusTeapot},
		{"3.ABC", http.MethodPost, http.StatusNotFound},
		{"8.ABC", http.MethodPost, http.StatusNotFound},
		{"-7.ABC", http.MethodPost, http.StatusNotFound},
		{"7ABC", http.MethodPost, http.StatusNotFound},
		{"99999999999999999999.A", http.MethodPost, http.StatusNotFound},
	} {
		if r := session(c.id, c.method); r.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.id, r.StatusCode, c.status)
		}
	}
	if len(n.passed) != 3 || n.passed[1] != "GET" || n.passed[2] != "DELETE" {
		t.Errorf("%q", n.passed)
	}
	if id := initialize(t, h); !strings.HasPrefix(id, "3.") {
		t.Errorf("a session made here is called %s", id)
	}
	n.passed = nil
	for state, want := range map[string]int{`"7.abc"`: 1, `"3.abc"`: 0, `"abc"`: 0, `"8.abc"`: 0, `7`: 0} {
		before := len(n.passed)
		m := modern("tools/call", `"name":"look","arguments":{},"inputResponses":{},"requestState":`+state+`,`)
		do(h, m)
		if len(n.passed)-before != want {
			t.Errorf("requestState %s: passed on %d times, want %d", state, len(n.passed)-before, want)
		}
	}
	if len(n.passed) != 1 || len(n.passed[0]) < 50 {
		t.Errorf("%q", n.passed)
	}
}
