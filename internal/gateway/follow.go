package gateway

import (
	"context"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/wire"
)

// This file is what becomes of it when an upstream says that a list has changed.
// Nothing that is pinned changes by that. Lists of resources and prompts are read
// again, along the path like any list, and a client is told only if what it may see
// of them is not what it was.

// readAgain is the least time between two readings of a list because an upstream
// said that it has changed.
const readAgain = time.Second

// listsOf are the lists that a notification is about.
var listsOf = map[string][]string{
	wire.NotificationResourcesListChanged: {wire.MethodResourcesList, wire.MethodResourcesTemplatesList},
	wire.NotificationPromptsListChanged:   {wire.MethodPromptsList},
}

// followers are the clients that are told when a list of theirs has changed: those
// with sessions once they have listed something, those without while they listen.
type followers struct {
	mu  sync.Mutex
	all map[*follower]struct{}
}

// follower is one of them.
type follower struct {
	g        *Gateway
	x        Exchange  // by which it lists
	listener *Listener // nil in a session
	owner    string    // its credential and run
	stage    sallyport.Stage
	tell     func(method string)
	ctx      context.Context
	end      context.CancelFunc

	mu    sync.Mutex
	saw   map[string]string // digest of what it has seen, by list method
	due   map[string]bool   // by notification
	looks bool
}

func (all *followers) add(g *Gateway, who, x *Exchange) *follower {
	f := &follower{
		g: g, owner: who.owner(), stage: who.Stage, saw: map[string]string{}, due: map[string]bool{},
		x: Exchange{Credential: x.Credential, Era: x.Era, Session: x.Session, Message: x.Message, Headers: x.Headers},
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx, f.end = ctx, func() {
		cancel()
		all.mu.Lock()
		delete(all.all, f)
		all.mu.Unlock()
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.all == nil {
		all.all = map[*follower]struct{}{}
	}
	all.all[f] = struct{}{}
	return f
}

// listen follows the lists of a client of the stateless era.
func (all *followers) listen(ctx context.Context, g *Gateway, x *Exchange, l *Listener) {
	who, err := g.caller(ctx, x.Credential, nil)
	if err != nil {
		return // it gets no lists either
	}
	f := all.add(g, who, x)
	all.mu.Lock()
	defer all.mu.Unlock()
	f.listener, f.tell = l, l.Changed
}

func (all *followers) of(meant func(*follower) bool) []*follower {
	all.mu.Lock()
	defer all.mu.Unlock()
	var found []*follower
	for f := range all.all {
		if meant(f) {
			found = append(found, f)
		}
	}
	return found
}

// toolsChanged tells the client of a call that its tools have changed: in a session on
// the call's own stream, before the result; else whoever listens in the same run.
func (g *Gateway) toolsChanged(x *Exchange) {
	if x.Session != nil {
		if x.Notify != nil {
			x.Notify(wire.AppendNotification(nil, wire.NotificationToolsListChanged, nil))
		}
		return
	}
	owner := x.owner()
	for _, f := range g.follows.of(func(f *follower) bool { return f.listener != nil && f.stage == x.Stage && f.owner == owner }) {
		f.tell(wire.NotificationToolsListChanged)
	}
}

// end ends those of a listener.
func (all *followers) end(l *Listener) {
	for _, f := range all.of(func(f *follower) bool { return f.listener == l }) {
		f.end()
	}
}

// saw is told what a client has been shown of a list.
func (all *followers) saw(g *Gateway, who, x *Exchange, items [][]byte) {
	var whole []byte
	for _, item := range items {
		whole = append(append(whole, item...), '\n')
	}
	digest := canonical.SumBytes(whole)
	var found []*follower
	if s := x.Session; s != nil {
		f := s.follower.Load()
		if f == nil {
			s.watch(who.Principal.Person)
			f = all.add(g, who, x)
			f.tell = func(method string) {
				if s.tell != nil {
					s.tell(wire.AppendNotification(nil, method, nil))
				}
			}
			if !s.follower.CompareAndSwap(nil, f) {
				f.end()
				f = s.follower.Load()
			}
			if s.closed.Load() {
				f.end()
			}
		}
		found = append(found, f)
	} else {
		owner := who.owner()
		found = all.of(func(f *follower) bool { return f.listener != nil && f.owner == owner })
	}
	for _, f := range found {
		f.mu.Lock()
		f.saw[x.Message.Method] = digest
		f.mu.Unlock()
	}
}

// following is what a request for a list brings along, where an upstream says by
// itself that it has changed and no session of the client's would hear it.
func (g *Gateway) following(x *Exchange) *Watching {
	u, stage := x.Upstream, x.Stage
	if x.Session != nil && era(u) == wire.Sessions || !x.Plan.tells(u.ID) {
		return nil
	}
	target, owner := x.Target, x.owner()
	return &Watching{
		Updated: func(method string) {
			private := era(u) == wire.Sessions // to that one session
			g.lists.forget(func(k listKey) bool {
				return k.stage == stage && k.upstream == u.ID && (!private || k.session == owner)
			})
			for _, f := range g.follows.of(func(f *follower) bool {
				return f.stage == stage && (!private || f.listener != nil && f.owner == owner)
			}) {
				f.changed(method)
			}
		},
		May: func(context.Context) bool { return g.Ready() == nil && g.state.Load().Halted(&target) == nil },
	}
}

// tells reports whether a pinned server said that it tells when a list changes.
func (p *Plan) tells(u sallyport.UpstreamID) bool {
	s, ok := p.Release.Servers[u]
	if !ok || len(s.Capabilities) == 0 {
		return false
	}
	for _, name := range []string{"tools", "resources", "prompts"} {
		if of, ok, err := wire.Field(s.Capabilities, name); err == nil && ok && of[0] == '{' {
			if value, ok, err := wire.Field(of, "listChanged"); err == nil && ok && string(value) == "true" {
				return true
			}
		}
	}
	return false
}

// changed has the lists that a notification is about read again. It does not wait.
func (f *follower) changed(method string) {
	if listsOf[method] == nil || f.ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.due[method] = true
	if !f.looks {
		f.looks = true
		go f.look()
	}
}

// look reads again what is due until nothing is.
func (f *follower) look() {
	for {
		f.mu.Lock()
		due := f.due
		f.due = map[string]bool{}
		if len(due) == 0 || f.ctx.Err() != nil {
			f.looks = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		for method := range due {
			if f.differs(listsOf[method]) && f.ctx.Err() == nil {
				f.tell(method)
			}
		}
		select {
		case <-time.After(readAgain):
		case <-f.ctx.Done():
		}
	}
}

// differs reads lists and reports whether one is not what the client has seen. What
// a client in a session has not listed cannot be out of date; one that listens may
// have listed before.
func (f *follower) differs(lists []string) (differs bool) {
	for _, method := range lists {
		f.mu.Lock()
		before, known := f.saw[method]
		f.mu.Unlock()
		if !known && f.listener == nil {
			continue
		}
		x := f.x
		var err error
		if x.Message, err = listRequest(&f.x, method, "", f.g.Now()); err != nil {
			continue
		}
		f.g.List(f.ctx, &x)
		f.mu.Lock()
		differs = differs || f.saw[method] != before
		f.mu.Unlock()
	}
	return differs
}
