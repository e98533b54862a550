package app

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/api"
)

// TestRefusalsOfTheListenerAreProblems: whoever asks the API by a name that the
// installation does not answer to, for a path there is none of, or in a way that a
// path does not know, gets a problem with a code, a hint and a type that leads to
// text, like everybody else.
func TestRefusalsOfTheListenerAreProblems(t *testing.T) {
	d := startDemo(t)
	for _, c := range []struct {
		method, path, host string
		status             int
		code               sallyport.Code
	}{
		{"GET", "/v1/status", "rebound.example.com", http.StatusForbidden, sallyport.NotPermitted},
		{"POST", "/v1/halt", "rebound.example.com:8484", http.StatusForbidden, sallyport.NotPermitted},
		{"GET", "/v1/openapi.json", "[::2]:8484", http.StatusForbidden, sallyport.NotPermitted},
		{"GET", "/v1/nothing", "evil", http.StatusForbidden, sallyport.NotPermitted},
		{"GET", "/metrics", "rebound.example.com", http.StatusForbidden, sallyport.NotPermitted},
		{"GET", "/v1/nothing", "", http.StatusNotFound, sallyport.NotFound},
		{"GET", "/v1", "", http.StatusNotFound, sallyport.NotFound},
		{"POST", "/v1/runs/a/b", "", http.StatusNotFound, sallyport.NotFound},
		{"DELETE", "/v1/status", "", http.StatusMethodNotAllowed, sallyport.BadRequest},
		{"GET", "/v1/halt", "", http.StatusMethodNotAllowed, sallyport.BadRequest},
		{"GET", "/v1/status", "", http.StatusUnauthorized, sallyport.Unauthenticated},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, d.App.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.host != "" {
			req.Host = c.host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var p api.Problem
		if err := json.Unmarshal(raw, &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s of %q: %s %s", c.method, c.path, c.host, resp.Header.Get("Content-Type"), raw)
			continue
		}
		if resp.StatusCode != c.status || p.Status != c.status || p.Code != c.code || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Type, "/v1/openapi.json#/") {
			t.Errorf("%s %s of %q: %s, want %d %s", c.method, c.path, c.host, raw, c.status, c.code)
		}
		if p.Hint == "" && c.code != sallyport.Unauthenticated {
			t.Errorf("%s %s of %q has no hint: %s", c.method, c.path, c.host, raw)
		}
	}
}
