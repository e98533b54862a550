package agentside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

const (
	// maxListens is how many subscriptions/listen streams one key may hold open.
	maxListens = 16
	// maxResources is how many resources one of them may name.
	maxResources = 64
)

// listen is one open subscriptions/listen stream.
type listen struct {
	wants changes
	meta  []byte        // the params of what is said on it, up to their end
	wake  chan struct{} // holds a token while there is something to say

	mu    sync.Mutex
	queue outbox
	over  bool // it has lost what it was opened for: the client has to listen again
}

// listen holds a stream open and says on it when lists or resources have changed.
// Of the filter it takes what the caller is offered and may read.
func (p *post) listen(kind sallyport.Kind) {
	notifications, err := field(p.m.Params.Of(p.m.Raw), "notifications")
	if err != nil || len(notifications) == 0 || notifications[0] != '{' {
		p.fail(http.StatusBadRequest, wire.InvalidParams, "params.notifications is not an object", nil)
		return
	}
	resources, err := resourcesIn(notifications)
	if err != nil {
		p.fail(http.StatusBadRequest, wire.InvalidParams, err.Error(), nil)
		return
	}
	d, err := p.h.Gateway.Describe(p.r.Context(), p.credential)
	if err != nil {
		p.refuse(0, p.h.refusal(err))
		return
	}
	wanted := func(name string) bool {
		value, err := field(notifications, name)
		return err == nil && string(value) == "true"
	}
	offered := changesIn(d.Capabilities)
	l := &listen{wake: make(chan struct{}, 1), wants: changes{
		tools:     offered.tools && wanted("toolsListChanged"),
		resources: offered.resources && wanted("resourcesListChanged"),
		prompts:   offered.prompts && wanted("promptsListChanged"),
	}}
	l.meta = append(append([]byte(`{"_meta":{"`+wire.MetaSubscriptionID+`":`), p.m.ID.Of(p.m.Raw)...), '}')
	if !p.h.addListen(d.Key, l) {
		p.fail(http.StatusTooManyRequests, codeRefused, "this credential holds too many streams open", nil)
		return
	}
	defer p.h.removeListen(d.Key, l)
	told := l.listener()
	defer p.h.Gateway.EndListener(told)
	resources = p.h.Gateway.Listen(p.ctx, p.exchange(kind), resources, told)
	p.answer.close()

	e := openEvents(p.w)
	acknowledged := append(append(bytes.Clone(l.meta), `,"notifications":`...), l.wants.filter(resources)...)
	e.write([]message{{raw: wire.AppendNotification(nil, wire.NotificationSubscriptionsAcknowledged, append(acknowledged, '}'))}})
	if l.wants != (changes{}) || len(resources) > 0 {
		p.follow(e, l)
	}
	// The end by the server's will has a response; that by the client's has
	// nobody to read it.
	result := append(bytes.Clone(l.meta[:len(l.meta)-1]), `,"`+wire.MetaServerInfo+`":`...)
	result = append(append(result, p.h.serverInfo...), `},"resultType":"complete"}`...)
	e.write([]message{{raw: wire.AppendResult(nil, p.m.ID.Of(p.m.Raw), result)}})
	e.close()
}

// resourcesIn are the resources that a filter names, each once.
func resourcesIn(notifications []byte) ([]string, error) {
	raw, err := field(notifications, "resourceSubscriptions")
	if err != nil || raw == nil || string(raw) == "null" {
		return nil, err
	}
	all, err := wire.Strings(raw)
	if err != nil {
		return nil, errors.New("params.notifications.resourceSubscriptions is not an array of strings")
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) > maxResources {
		return nil, fmt.Errorf("params.notifications.resourceSubscriptions names more than %d resources", maxResources)
	}
	return all, nil
}

// follow writes what there is to say until either side ends the stream.
func (p *post) follow(e *events, l *listen) {
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for !e.gone {
		l.mu.Lock()
		messages, over := l.queue.take(), l.over
		l.mu.Unlock()
		e.write(messages)
		if over {
			return
		}
		select {
		case <-l.wake:
		case <-tick.C:
			if _, err := p.h.Gateway.Describe(p.r.Context(), p.credential); err != nil {
				return
			}
			e.comment()
		case <-p.h.closing:
			return
		case <-p.r.Context().Done():
			e.gone = true
		}
	}
}

// listener is how the gateway tells the client. What waits already is not added
// again, and a client that does not read loses the oldest.
func (l *listen) listener() *gateway.Listener {
	told := &gateway.Listener{
		Updated: func(uri string) {
			params := wire.AppendString(append(bytes.Clone(l.meta), `,"uri":`...), uri)
			l.say(message{raw: wire.AppendNotification(nil, wire.NotificationResourcesUpdated, append(params, '}'))})
		},
		Ended: func() {
			l.mu.Lock()
			l.over = true
			l.mu.Unlock()
			wakeUp(l.wake)
		},
	}
	if l.wants != (changes{}) {
		told.Changed = func(method string) {
			if only := l.wants.of(method); only != (changes{}) {
				l.say(only.news(append(bytes.Clone(l.meta), '}'))...)
			}
		}
	}
	return told
}

func (l *listen) say(all ...message) {
	l.mu.Lock()
	for _, m := range all {
		l.queue.addChange(m.raw)
	}
	l.mu.Unlock()
	wakeUp(l.wake)
}

// changes are the lists of which a client hears when they change.
type changes struct{ tools, resources, prompts bool }

// changesIn are the lists that capabilities promise news of.
func changesIn(capabilities []byte) changes {
	promised := func(name string) bool {
		of, err := field(capabilities, name)
		if err != nil || len(of) == 0 || of[0] != '{' {
			return false
		}
		value, err := field(of, "listChanged")
		return err == nil && string(value) == "true"
	}
	if len(capabilities) == 0 {
		return changes{}
	}
	return changes{promised("tools"), promised("resources"), promised("prompts")}
}

// of is what of the changes a notification is about.
func (c changes) of(method string) changes {
	return changes{
		tools:     c.tools && method == wire.NotificationToolsListChanged,
		resources: c.resources && method == wire.NotificationResourcesListChanged,
		prompts:   c.prompts && method == wire.NotificationPromptsListChanged,
	}
}

// filter is what is acknowledged, as JSON.
func (c changes) filter(resources []string) []byte {
	b, err := json.Marshal(struct {
		Tools     bool     `json:"toolsListChanged,omitempty"`
		Prompts   bool     `json:"promptsListChanged,omitempty"`
		Resources bool     `json:"resourcesListChanged,omitempty"`
		Each      []string `json:"resourceSubscriptions,omitempty"`
	}{c.tools, c.prompts, c.resources, resources})
	if err != nil {
		panic("agentside: booleans and texts do not marshal: " + err.Error())
	}
	return b
}

// news are the notifications that say what may have changed. params is JSON; nil
// is left out.
func (c changes) news(params []byte) []message {
	var all []message
	for _, one := range []struct {
		wanted bool
		method string
	}{
		{c.tools, wire.NotificationToolsListChanged},
		{c.resources, wire.NotificationResourcesListChanged},
		{c.prompts, wire.NotificationPromptsListChanged},
	} {
		if one.wanted {
			all = append(all, message{raw: wire.AppendNotification(nil, one.method, params)})
		}
	}
	return all
}

func (h *Handler) addListen(key sallyport.KeyID, l *listen) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.perKeyL[key] >= maxListens {
		return false
	}
	h.perKeyL[key]++
	h.listens[l] = struct{}{}
	return true
}

func (h *Handler) removeListen(key sallyport.KeyID, l *listen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listens, l)
	if h.perKeyL[key]--; h.perKeyL[key] == 0 {
		delete(h.perKeyL, key)
	}
}

// ToolsChanged tells the clients that listen that the lists they have seen may be
// out of date: call it when a release, a stage or a pin has changed. It never
// blocks.
func (h *Handler) ToolsChanged() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for l := range h.listens {
		l.say(l.wants.news(append(bytes.Clone(l.meta), '}'))...)
	}
	for _, s := range h.sessions {
		s.mu.Lock()
		for _, m := range s.changes.news(nil) {
			s.queue.addChange(m.raw)
		}
		s.wakeLocked()
		s.mu.Unlock()
	}
}
