package gateway

import (
	"context"
	"slices"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/wire"
)

// TestPersonOfARun: an upstream is told on whose behalf a request is made by the
// run's envelope alone; and where it answers each person for herself, one is not
// shown what it listed for another.
func TestPersonOfARun(t *testing.T) {
	w := newWide(t, permitAll, func(_ *sallyport.Release, c *sallyport.StageConfig) {
		u := c.Upstreams["mail"]
		u.Transport.OAuth = sallyport.OAuth{URL: "https://as.example.com/", Person: sallyport.OAuthPerson{Key: "env:K", Issuer: "i"}}
		c.Upstreams["mail"] = u
	}, "crm", "mail")
	var seen []string
	for _, id := range []sallyport.UpstreamID{"crm", "mail"} {
		w.on(id, func(_ context.Context, q *Request) (*Response, error) {
			w.mu.Lock()
			seen = append(seen, string(id)+" for "+string(q.Person))
			w.mu.Unlock()
			if q.Session != nil && q.Session.Person != q.Person {
				t.Errorf("a session of %q in a request for %q", q.Session.Person, q.Person)
			}
			if q.Method == wire.MethodResourcesList {
				return resources(w, "file:///"+string(id)+"/"+string(q.Person))(t.Context(), q)
			}
			return respond(t), nil
		})
	}
	as := func(person sallyport.PersonID) {
		w.run = NewRun(sallyport.Run{ID: sallyport.RunID("run_" + person), Agent: "support", Release: release, Stage: sallyport.Production, State: sallyport.RunOpen,
			Labels: sallyport.NewLabels(), Envelope: sallyport.Envelope{Person: person}}, nil)
	}
	as("ana")
	succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"},"_meta":{"person":"ben"}}`, nil)))
	succeeded(t, w.Call(t.Context(), w.request(sallyport.KindTool, wire.MethodToolsCall, `{"name":"look","arguments":{"id":"1"}}`, &Session{ID: "s", Key: "key_1"})))
	if want := []string{"crm for ana", "crm for ana"}; !slices.Equal(seen, want) {
		t.Errorf("asked %q, want %q", seen, want)
	}
	for _, person := range []sallyport.PersonID{"ana", "ben", ""} {
		as(person)
		for range 2 {
			names, _, _ := w.listed(w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil))
			text := strings.Join(names, " ")
			// What the upstream answers nobody in particular is kept for everybody.
			if want := "file:///crm/ana file:///mail/" + string(person); text != want {
				t.Errorf("%q is shown %q, want %q", person, text, want)
			}
		}
	}
	if n := w.requests("mail"); n != 3 {
		t.Errorf("mail was asked %d times for three persons", n)
	}
}
