package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/wire"
)

// wide is a rig before several upstreams, each of which answers as the test says,
// and whose clock goes with that of a bubble.
type wide struct {
	*rig
	mu      sync.Mutex
	asked   map[sallyport.UpstreamID]int // requests of any kind
	answers map[sallyport.UpstreamID]func(ctx context.Context, q *Request) (*Response, error)
	told    []*Session // that the backends were told to forget
}

// capable is what every upstream of a wide rig said of itself when it was pinned.
const capable = `{"tools":{},"resources":{"listChanged":true},"prompts":{}}`

// newWide makes a rig of upstreams by id. Each has the tools "look" (a read) and
// "write", under its own prefix but for the tools of "crm".
func newWide(t *testing.T, policies string, change func(*sallyport.Release, *sallyport.StageConfig), ids ...sallyport.UpstreamID) *wide {
	t.Helper()
	w := &wide{
		rig: newRig(t, sallyport.Production, permitAll), asked: map[sallyport.UpstreamID]int{},
		answers: map[sallyport.UpstreamID]func(context.Context, *Request) (*Response, error){},
	}
	r := &sallyport.Release{
		ID: release, Agent: "support", Owner: "team", Tier: sallyport.TierLow,
		Servers:  map[sallyport.UpstreamID]sallyport.PinnedServer{},
		Policies: []sallyport.PolicyFile{{Path: "policies/a.cedar", Text: policies}},
	}
	c := &sallyport.StageConfig{ID: config, Stage: sallyport.Production, Upstreams: map[sallyport.UpstreamID]sallyport.StageUpstream{}}
	for _, id := range ids {
		for _, name := range []string{"look", "write"} {
			tool := sallyport.Tool{
				Name: string(id) + "__" + name, Upstream: id, UpstreamName: name, Digest: "sha256:cccccccccccccccc",
				Definition: sallyport.Text(`{ "x-odd": [1.0,"name"] ,"name" :"` + name + `", "inputSchema":` + schemaText + `}`),
				Access:     sallyport.Changing, DataClass: sallyport.Confidential, Integrity: sallyport.Untrusted,
			}
			if name == "look" {
				tool.Access = sallyport.Read
			}
			if id == "crm" {
				tool.Name = name
			}
			r.Tools = append(r.Tools, tool)
		}
		r.Servers[id] = sallyport.PinnedServer{Capabilities: json.RawMessage(capable)}
		c.Upstreams[id] = sallyport.StageUpstream{ID: id, Identity: sallyport.Digest("sha256:" + string(id)), Binding: sallyport.Live}
	}
	slices.SortFunc(r.Tools, func(a, b sallyport.Tool) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	if change != nil {
		change(r, c)
	}
	plan, err := NewPlan(r, c)
	if err != nil {
		t.Fatal(err)
	}
	w.plan = plan
	w.Stages = map[sallyport.Stage]Backends{sallyport.Production: w}
	w.Now = time.Now
	return w
}

func (w *wide) Backend(u *sallyport.StageUpstream) (Backend, error) { return one{w, u.ID}, nil }
func (w *wide) Tell(context.Context, *Session, []byte)              {}
func (w *wide) Forget(s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, s)
}

// requests counts what has reached an upstream so far.
func (w *wide) requests(id sallyport.UpstreamID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[id]
}

// on makes an upstream answer with f.
func (w *wide) on(id sallyport.UpstreamID, f func(ctx context.Context, q *Request) (*Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[id] = f
}

// one is one upstream of a wide rig.
type one struct {
	w  *wide
	id sallyport.UpstreamID
}

func (o one) Do(ctx context.Context, q *Request) (*Response, error) {
	if err := o.w.write(q); err != nil {
		return nil, err
	}
	o.w.mu.Lock()
	o.w.asked[o.id]++
	f := o.w.answers[o.id]
	o.w.mu.Unlock()
	if f == nil {
		return respond(o.w.t), nil
	}
	return f(ctx, q)
}

// says makes the response whose result is the text.
func (w *wide) says(result string) *Response {
	m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"result":`+result+`}`), wire.Limits{})
	if err != nil {
		w.t.Error(err)
	}
	return &Response{Message: m}
}

// fails makes an upstream fail with a code.
func fails(code sallyport.Code) func(context.Context, *Request) (*Response, error) {
	return func(context.Context, *Request) (*Response, error) {
		return nil, sallyport.Refuse(code, "it does not work", "")
	}
}

// request is an exchange of any method. In a session it has the credential's.
func (w *wide) request(kind sallyport.Kind, method, params string, s *Session) *Exchange {
	w.t.Helper()
	m, err := wire.Scan(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, method, params), wire.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	x := &Exchange{Credential: "token", Era: wire.Stateless, Kind: kind, Message: m, Session: s}
	if s != nil {
		x.Era = wire.Sessions
	}
	return x
}

// tool calls a tool of the rig.
func (w *wide) tool(ctx context.Context, name string) Reply {
	w.t.Helper()
	return w.Call(ctx, w.request(sallyport.KindTool, wire.MethodToolsCall, fmt.Sprintf(`{"name":%q,"arguments":{"id":"1"}}`, name), nil))
}

// refused checks that a reply is a refusal of a code.
func refused(t *testing.T, r Reply, want sallyport.Code) {
	t.Helper()
	if r.Refusal == nil || r.Refusal.Code != want {
		t.Errorf("want %s, got result %s and %v", want, r.Result, r.Refusal)
	}
}

// succeeded checks that a reply is a result.
func succeeded(t *testing.T, r Reply) {
	t.Helper()
	if r.Refusal != nil || r.Result == nil {
		t.Errorf("got %v", r.Refusal)
	}
}
