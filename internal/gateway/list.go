package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/yosida95/uritemplate/v3"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/wire"
)

const (
	listTTL     = 30 * time.Second
	toolListTTL = 5 * time.Second
	maxPages    = 100
	listPage    = 500
	// mostToolLists bounds the tool lists that are kept, mostListed the bytes of
	// the other lists, and maxListed those of one. Beyond it all are forgotten:
	// what is in use is soon back.
	mostToolLists = 256
	mostListed    = 64 << 20
	maxListed     = 16 << 20
)

// ToolList is what a caller may see of the tools of its release: pinned
// definitions, in the order of their names.
type ToolList struct {
	Definitions [][]byte
	Etag        string
}

// caller resolves who is asking without making a call.
func (g *Gateway) caller(ctx context.Context, credential string, session *Session) (*Exchange, error) {
	x := &Exchange{Credential: credential, Session: session, Started: g.Now()}
	if err := g.authenticate(ctx, x); err != nil {
		return nil, err
	}
	return x, g.resolveRun(ctx, x)
}

// Describe tells a client what it is talking to. It says the same in every
// stage. Its error is a *sallyport.Refusal or a fault. A client that is only there
// is not using a run: none is opened for an agent key, or kept from ending.
func (g *Gateway) Describe(ctx context.Context, credential string) (*Description, error) {
	x, err := g.presented(ctx, credential)
	if err != nil {
		return nil, g.refuseList(err).Refusal
	}
	d := x.Plan.description
	d.Key = x.Identity.Key
	return &d, nil
}

// presented finds out what a credential may do, without using a run.
func (g *Gateway) presented(ctx context.Context, credential string) (*Exchange, error) {
	x := &Exchange{Credential: credential, Started: g.Now()}
	err := g.authenticate(ctx, x)
	switch {
	case err != nil:
	case x.Identity.Kind == sallyport.KeyAgent:
		err = g.resolveAgent(ctx, g.state.Load(), x)
	default:
		err = g.resolveRun(ctx, x)
	}
	return x, err
}

// Tools lists the tools that policy could permit the caller to call: the same
// decision as that of a call, asked with the arguments unknown. Definitions are
// the pinned ones, so no upstream can slow the list or change it.
func (g *Gateway) Tools(ctx context.Context, credential string) (*ToolList, error) {
	x, err := g.caller(ctx, credential, nil)
	if err != nil {
		return nil, g.refuseList(err).Refusal
	}
	if h := g.state.Load().Halted(&x.Target); h != nil {
		return nil, haltedRefusal(h)
	}
	x.Before = x.Run.Labels()
	key := toolListKey{x.Plan, x.Run.ID, x.Before, x.Run.Calls()}
	if list := g.lists.tools(key, x.Started); list != nil {
		return list, nil
	}
	g.lookAt(x)
	list := &ToolList{}
	for _, t := range x.Plan.ordered {
		if t.Stage == nil || t.Binding == sallyport.Off {
			continue
		}
		if x.Run.Envelope.Tools != nil && !slices.Contains(x.Run.Envelope.Tools, t.Name) {
			continue
		}
		x.Kind, x.Tool, x.Upstream = sallyport.KindTool, t, t.Stage
		if x.Plan.Policies.CouldAllow(g.query(x)) {
			list.Definitions = append(list.Definitions, t.Advertised)
		}
	}
	var all []byte
	for _, d := range list.Definitions {
		all = append(append(all, d...), '\n')
	}
	list.Etag = canonical.SumBytes(all)
	g.lists.keepTools(key, list, x.Started)
	return list, nil
}

// List answers resources/list, resources/templates/list and prompts/list: what
// the upstreams of the release list, merged, without what policy would not let
// the caller use. An upstream that does not answer is left out and named in the
// result's _meta; the others do not wait for it beyond their own deadline.
func (g *Gateway) List(ctx context.Context, x *Exchange) Reply {
	who, err := g.caller(ctx, x.Credential, x.Session)
	if err != nil {
		return g.refuseList(err)
	}
	if h := g.state.Load().Halted(&who.Target); h != nil { // what is kept is not asked for again
		return Reply{Refusal: haltedRefusal(h)}
	}
	kind, key, capability := sallyport.KindResource, "resources", "resources"
	switch x.Message.Method {
	case wire.MethodResourcesTemplatesList:
		key = "resourceTemplates"
	case wire.MethodPromptsList:
		kind, key, capability = sallyport.KindPrompt, "prompts", "prompts"
	}
	type part struct {
		items [][]byte
		err   error
	}
	var upstreams []*sallyport.StageUpstream
	for _, u := range who.Plan.upstreams {
		if who.Plan.offers(u.ID, capability) && (u.Binding == sallyport.Live || u.Binding == sallyport.Shadow) {
			upstreams = append(upstreams, u)
		}
	}
	parts := make([]part, len(upstreams))
	var wait sync.WaitGroup
	for i, u := range upstreams {
		wait.Go(func() {
			defer func() {
				if err := parts[i].err; err != nil && !errors.As(err, new(*sallyport.Refusal)) {
					g.Log.Error("a list could not be made", "upstream", u.ID, "err", err)
				}
			}()
			defer contain("list", &parts[i].err)
			parts[i].items, parts[i].err = g.lists.items(ctx, g, x, who, u, x.Message.Method, kind, key)
		})
	}
	wait.Wait()
	var items [][]byte
	var missing []string
	state := g.state.Load()
	for i, u := range upstreams {
		target := who.Target
		target.Upstream = u.ID
		if h := state.Halted(&target); h != nil { // what is kept of it is not told either
			parts[i].err = haltedRefusal(h)
		}
		if parts[i].err != nil {
			var r *sallyport.Refusal
			if !errors.As(parts[i].err, &r) || r.Code != sallyport.Denied {
				missing = append(missing, string(u.ID))
			}
			continue
		}
		for _, item := range parts[i].items {
			if g.mayUse(who, u, kind, item) {
				items = append(items, item)
			}
		}
	}
	if len(missing) == 0 {
		g.follows.saw(g, who, x, items)
	}
	reply := listReply(x, key, items, missing)
	if len(items) > 0 && reply.Refusal == nil {
		return g.teach(ctx, who, x, kind, reply)
	}
	return reply
}

// teach releases a list to a run. What was kept made another run learn; this one
// will have seen it, too, and if that is new to it, then it is recorded before.
func (g *Gateway) teach(ctx context.Context, who, x *Exchange, kind sallyport.Kind, reply Reply) Reply {
	who.Before = who.Run.Labels()
	if who.After = who.knows(); who.After == who.Before {
		return reply
	}
	who.ID, who.flight = sallyport.CallID(newID("call", who.Started)), &flight{}
	who.Kind, who.Message, who.Listing = kind, x.Message, true
	who.Response = &Response{Message: wire.Message{Raw: reply.Result, Kind: wire.Result, Result: wire.Span{End: len(reply.Result)}}}
	who.salt = make([]byte, 32)
	rand.Read(who.salt)
	if err := g.conclude(context.WithoutCancel(ctx), who, &reply); err != nil {
		g.Log.Error("a list that was kept could not be recorded; it was withheld", "call", who.ID, "err", err)
		return Reply{Refusal: unrecorded()}
	}
	return reply
}

// mayUse is the decision of a call of the item, asked beforehand.
func (g *Gateway) mayUse(who *Exchange, u *sallyport.StageUpstream, kind sallyport.Kind, item []byte) bool {
	x := *who
	x.Kind, x.Upstream, x.Before = kind, u, who.Run.Labels()
	x.Message.Name = itemName(item)
	q := g.query(&x)
	return x.Plan.Policies.CouldAllow(q)
}

// itemName is what a resource, template or prompt is called by.
func itemName(item []byte) string {
	for _, key := range []string{"uri", "uriTemplate", "name"} {
		if token, ok, err := wire.Field(item, key); err == nil && ok {
			if s, err := wire.DecodeString(token); err == nil {
				return s
			}
		}
	}
	return ""
}

func listReply(x *Exchange, key string, items [][]byte, missing []string) Reply {
	from := 0
	if x.Message.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(x.Message.Cursor)
		n, err2 := strconv.Atoi(string(raw))
		if err != nil || err2 != nil || n < 0 || n > len(items) {
			return Reply{Refusal: sallyport.Refuse(sallyport.BadRequest, "the cursor is not one that this list gave out", "list from the beginning")}
		}
		from = n
	}
	to := min(from+listPage, len(items))
	out := append([]byte(`{"`), key...)
	out = append(out, `":[`...)
	for i, item := range items[from:to] {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	out = append(out, ']')
	if to < len(items) {
		out = append(out, `,"nextCursor":`...)
		out = wire.AppendString(out, base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(to))))
	}
	if x.Era == wire.Stateless {
		out = append(out, `,"resultType":"complete","ttlMs":`...)
		out = strconv.AppendInt(out, listTTL.Milliseconds(), 10)
		out = append(out, `,"cacheScope":"private"`...)
	}
	if len(missing) > 0 {
		names, _ := json.Marshal(missing)
		out = append(append(append(out, `,"_meta":{"sallyport/unavailable":`...), names...), '}')
	}
	return Reply{Result: append(out, '}')}
}

func (g *Gateway) refuseList(err error) Reply {
	var r *sallyport.Refusal
	if !errors.As(err, &r) {
		g.Log.Error("a list could not be made", "err", err)
		r = sallyport.Refuse(sallyport.Internal500, "the gateway met a fault of its own", "")
	}
	return outward(Reply{Refusal: r})
}

// CloseSession ends the upstream sessions of a client's session.
func (g *Gateway) CloseSession(s *Session) {
	s.closed.Store(true)
	g.subs.end(func(of *subscription) bool { return of.session == s })
	if f := s.follower.Load(); f != nil {
		f.end()
	}
	g.lists.forget(func(k listKey) bool { return k.session == s.ID })
	for _, backends := range g.Stages {
		backends.Forget(s)
	}
}

// Tell passes a client's notification to the upstreams of its session; best
// effort.
func (g *Gateway) Tell(ctx context.Context, s *Session, raw []byte) {
	for _, backends := range g.Stages {
		backends.Tell(ctx, s, raw)
	}
}

// listCache keeps lists for their time to live. Lists of a session belong to
// that session; in the stateless era identity comes with each request and lists
// are the same for everybody before they are filtered.
type listCache struct {
	mu    sync.Mutex
	kept  map[listKey]kept
	size  int // of kept, in bytes
	tool  map[toolListKey]keptTools
	sweep time.Time
}

type listKey struct {
	stage    sallyport.Stage
	upstream sallyport.UpstreamID
	identity sallyport.Digest
	session  string
	changed  uint64 // how often an upstream of the session said so
	method   string
}

type kept struct {
	items [][]byte
	size  int // of the items, in bytes
	until time.Time
}

// toolListKey is all that a policy is asked with when tools are listed, but the
// time.
type toolListKey struct {
	plan   *Plan
	run    sallyport.RunID
	labels sallyport.Labels
	calls  int
}

type keptTools struct {
	list  *ToolList
	until time.Time
}

func (c *listCache) tools(k toolListKey, now time.Time) *ToolList {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.tool[k]; ok && now.Before(e.until) {
		return e.list
	}
	return nil
}

func (c *listCache) keepTools(k toolListKey, l *ToolList, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clean(now)
	if c.tool == nil || len(c.tool) >= mostToolLists {
		c.tool = map[toolListKey]keptTools{}
	}
	c.tool[k] = keptTools{l, now.Add(toolListTTL)}
}

// clean forgets what is out of date, at most once a time to live.
func (c *listCache) clean(now time.Time) {
	if now.Before(c.sweep) {
		return
	}
	c.sweep = now.Add(toolListTTL)
	for k, e := range c.tool {
		if !now.Before(e.until) {
			delete(c.tool, k)
		}
	}
	for k, e := range c.kept {
		if !now.Before(e.until) {
			c.size -= e.size
			delete(c.kept, k)
		}
	}
}

// forget drops the lists that are meant.
func (c *listCache) forget(meant func(listKey) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.kept {
		if meant(k) {
			c.size -= e.size
			delete(c.kept, k)
		}
	}
}

// items returns what one upstream lists, from the cache or by asking it. Asking
// is a call like any other, along the whole path.
func (c *listCache) items(ctx context.Context, g *Gateway, x, who *Exchange, u *sallyport.StageUpstream, method string, kind sallyport.Kind, key string) ([][]byte, error) {
	k := listKey{stage: who.Stage, upstream: u.ID, identity: u.Identity, method: method}
	switch {
	case x.Session != nil:
		k.session, k.changed = x.Session.ID, x.Session.changed.Load()
	case era(u) == wire.Sessions, !u.Transport.OAuth.Person.None(): // it may list for one session or person what it does not for another
		k.session = who.owner()
	}
	now := g.Now()
	c.mu.Lock()
	e, ok := c.kept[k]
	c.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.items, nil
	}
	var items [][]byte
	cursor, size := "", 0
	for range maxPages {
		m, err := listRequest(x, method, cursor, now)
		if err != nil {
			return nil, err
		}
		r := g.Call(ctx, &Exchange{
			Credential: x.Credential, Era: x.Era, Kind: kind, Message: m, Session: x.Session,
			Listing: true, Upstream: u,
		})
		switch {
		case r.Refusal != nil:
			return nil, r.Refusal
		case isCode(r.Error, wire.MethodNotFound): // it has no such list
			r.Result = []byte(`{"` + key + `":[]}`)
		case r.Error != nil:
			return nil, sallyport.Refuse(sallyport.UpstreamProtocol, "the upstream answered the list with an error", "")
		}
		page, next, err := wire.Items(r.Result, key)
		if err != nil {
			return nil, sallyport.Refuse(sallyport.UpstreamProtocol, "the upstream's list cannot be read: "+err.Error(), "")
		}
		items = append(items, page...)
		if size += len(r.Result); size > maxListed {
			return nil, sallyport.Refuse(sallyport.ResultTooLarge, "the upstream's list is too large", "")
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clean(now)
	if c.kept == nil || c.size+size > mostListed {
		c.kept, c.size = map[listKey]kept{}, 0
	}
	c.size += size - c.kept[k].size
	c.kept[k] = kept{items, size, now.Add(listTTL)}
	return items, nil
}

// has reports whether an upstream lists a name: of a prompt, of a resource, or of
// a resource template that the name is or fits (RFC 6570).
func (c *listCache) has(ctx context.Context, g *Gateway, x *Exchange, u *sallyport.StageUpstream, method, name string) (bool, error) {
	kind, key, is := sallyport.KindResource, "resources", func(listed string) bool { return listed == name }
	switch method {
	case wire.MethodPromptsList:
		kind, key = sallyport.KindPrompt, "prompts"
	case wire.MethodResourcesTemplatesList:
		key, is = "resourceTemplates", func(listed string) bool { return listed == name || fits(listed, name) }
	}
	items, err := c.items(ctx, g, x, x, u, method, kind, key)
	return slices.ContainsFunc(items, func(item []byte) bool { return is(itemName(item)) }), err
}

// isCode reports whether a JSON-RPC error has a code.
func isCode(raw []byte, code int) bool {
	token, ok, err := wire.Field(raw, "code")
	return err == nil && ok && string(token) == strconv.Itoa(code)
}

// maxTemplate bounds what is matched against an address, in bytes.
const maxTemplate = 2 << 10

func fits(template, uri string) bool {
	if len(template) > maxTemplate || len(uri) > maxTemplate {
		return false
	}
	t, err := uritemplate.New(template)
	return err == nil && t.Match(uri) != nil
}

// listRequest is the gateway's own request for a page of a list, in the words
// the client used of itself.
func listRequest(x *Exchange, method, cursor string, now time.Time) (wire.Message, error) {
	params := []byte(`{`)
	if cursor != "" {
		params = wire.AppendString(append(params, `"cursor":`...), cursor)
	}
	if meta := x.Message.Meta.Of(x.Message.Raw); len(meta) > 0 && x.Era == wire.Stateless {
		if len(params) > 1 {
			params = append(params, ',')
		}
		params = append(append(params, `"_meta":`...), meta...)
	}
	params = append(params, '}')
	id := wire.AppendString(nil, newID("list", now))
	return wire.Scan(wire.AppendRequest(nil, id, method, params), wire.Limits{})
}
