package gateway

import (
	"context"
	"fmt"
	"testing"

	"sallyport"
	"sallyport/internal/wire"
)

// TestRoute: with several upstreams an address goes to the one that lists it, else
// to the one with a template that it fits; if some cannot be asked, the answer is
// not that there is no such address.
func TestRoute(t *testing.T) {
	newRoutes := func() *wide {
		w := newWide(t, "permit (principal, action, resource);", nil, "docs", "wiki", "mail")
		offers := func(uris, templates string) func(context.Context, *Request) (*Response, error) {
			return func(_ context.Context, q *Request) (*Response, error) {
				switch q.Method {
				case wire.MethodResourcesList:
					return w.says(`{"resources":[` + uris + `]}`), nil
				case wire.MethodResourcesTemplatesList:
					if templates == "" {
						m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"what?"}}`), wire.Limits{})
						return &Response{Message: m}, err
					}
					return w.says(`{"resourceTemplates":[` + templates + `]}`), nil
				}
				return w.says(`{"contents":[]}`), nil
			}
		}
		w.on("docs", offers(`{"uri":"docs://start"},{"uri":"both://x"}`, `{"uriTemplate":"docs://page/{n}"},{"uriTemplate":"two://{+path}"}`))
		w.on("wiki", offers(`{"uri":"wiki://start"},{"uri":"both://x"},{"uri":"docs://page/0"}`, `{"uriTemplate":"wiki://{+path}"},{"uriTemplate":"two://{+path}"},{"uriTemplate":"not a template {"}`))
		w.on("mail", offers(``, ""))
		return w
	}
	read := func(w *wide, uri string) Reply {
		return w.Call(t.Context(), w.request(sallyport.KindResource, wire.MethodResourcesRead, fmt.Sprintf(`{"uri":%q}`, uri), nil))
	}
	for uri, want := range map[string]sallyport.UpstreamID{
		"docs://start":     "docs",
		"docs://page/7":    "docs",
		"docs://page/0":    "wiki", // who lists it goes before who has a template
		"wiki://a/b/c":     "wiki",
		"docs://page/7/8":  "",
		"both://x":         "",
		"two://x":          "",
		"nowhere://at-all": "",
	} {
		w := newRoutes()
		r := read(w, uri)
		if want == "" {
			refused(t, r, sallyport.NotFound)
			continue
		}
		succeeded(t, r)
		last := w.outcomes[len(w.outcomes)-1].Record
		if last.Method != wire.MethodResourcesRead || last.Upstream != want {
			t.Errorf("%s went to %s", uri, last.Upstream)
		}
	}
	w := newRoutes()
	w.on("wiki", fails(sallyport.UpstreamUnavailable))
	succeeded(t, read(w, "docs://start"))
	refused(t, read(w, "wiki://start"), sallyport.UpstreamUnavailable)
}

// TestReplacedRelease: when people move the stage pointer, forward or back, the
// runs that are open with another release make no more calls.
func TestReplacedRelease(t *testing.T) {
	r := newRig(t, sallyport.Production, permitAll)
	if reply := r.call("look"); reply.Refusal != nil {
		t.Fatal(reply.Refusal)
	}
	state := r.decided(2)
	state.Pointers = map[Pointer]sallyport.ReleaseID{{"support", sallyport.Production}: "sha256:another"}
	r.SetState(state)
	refused(t, r.call("look"), sallyport.NoRelease)
	state = r.decided(3)
	state.Pointers = nil
	r.SetState(state)
	refused(t, r.call("write"), sallyport.NoRelease)
	if n := len(r.events); r.events[n-1] != "outcome" || len(r.intents) > 0 {
		t.Errorf("%v", r.events)
	}
}
