package agentside

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"sallyport"
	"sallyport/internal/wire"
)

// maxListens is how many subscriptions/listen streams one key may hold open.
const maxListens = 16

// listen is one open subscriptions/listen stream.
type listen struct {
	wants   changes
	changed chan struct{} // holds a token while there is something to say
}

// listen holds a stream open and says on it when lists have changed. Of the
// filter it takes what the caller is offered; subscriptions to single resources
// are not.
func (p *post) listen(sallyport.Kind) {
	notifications, err := field(p.m.Params.Of(p.m.Raw), "notifications")
	if err != nil || len(notifications) == 0 || notifications[0] != '{' {
		p.fail(http.StatusBadRequest, wire.InvalidParams, "params.notifications is not an object", nil)
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
	l := &listen{changed: make(chan struct{}, 1), wants: changes{
		tools:     offered.tools && wanted("toolsListChanged"),
		resources: offered.resources && wanted("resourcesListChanged"),
		prompts:   offered.prompts && wanted("promptsListChanged"),
	}}
	if !p.h.addListen(d.Key, l) {
		p.fail(http.StatusTooManyRequests, codeRefused, "this credential holds too many streams open", nil)
		return
	}
	defer p.h.removeListen(d.Key, l)
	p.answer.close()

	meta := append([]byte(`{"_meta":{"`+wire.MetaSubscriptionID+`":`), p.m.ID.Of(p.m.Raw)...)
	meta = append(meta, '}')
	e := openEvents(p.w)
	acknowledged := append(append(bytes.Clone(meta), `,"notifications":`...), l.wants.filter()...)
	e.write([]message{{raw: wire.AppendNotification(nil, wire.NotificationSubscriptionsAcknowledged, append(acknowledged, '}'))}})
	news := l.wants.news(append(bytes.Clone(meta), '}'))
	if len(news) > 0 {
		p.follow(e, l, news)
	}
	// The end by the server's will has a response; that by the client's has
	// nobody to read it.
	result := append(bytes.Clone(meta[:len(meta)-1]), `,"`+wire.MetaServerInfo+`":`...)
	result = append(append(result, p.h.serverInfo...), `},"resultType":"complete"}`...)
	e.write([]message{{raw: wire.AppendResult(nil, p.m.ID.Of(p.m.Raw), result)}})
	e.close()
}

// follow writes the news until either side ends the stream.
func (p *post) follow(e *events, l *listen, news []message) {
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for !e.gone {
		select {
		case <-l.changed:
			e.write(news)
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

// filter is what is acknowledged, as JSON.
func (c changes) filter() []byte {
	b, err := json.Marshal(struct {
		Tools     bool `json:"toolsListChanged,omitempty"`
		Prompts   bool `json:"promptsListChanged,omitempty"`
		Resources bool `json:"resourcesListChanged,omitempty"`
	}{c.tools, c.prompts, c.resources})
	if err != nil {
		panic("agentside: booleans do not marshal: " + err.Error())
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
		wakeUp(l.changed)
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
