package agentside

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"sallyport/internal/wire"
)

// Replicas are the servers that share a store with this one. What a client's session
// holds (its streams, what it asked for, its sessions with upstreams) is with the one
// where it was opened: requests that reach another are passed on to it, so that a
// client need not come back to where it began.
type Replicas interface {
	// Self is the number of this one, zero if there are no others.
	Self() int64
	// Pass passes a request on to another and its answer back. It reports false, and
	// has answered nothing, if that one is gone or cannot be reached.
	Pass(w http.ResponseWriter, r *http.Request, to int64) bool
}

// homed is an id that says where it was made.
func (h *Handler) homed(id string) string {
	if h.Replicas == nil || h.Replicas.Self() == 0 {
		return id
	}
	return strconv.FormatInt(h.Replicas.Self(), 10) + "." + id
}

// homeOf is the other replica where an id or a requestState was made, zero if it was
// made here or does not say so.
func (h *Handler) homeOf(id string) int64 {
	at, _, ok := strings.Cut(id, ".")
	if !ok || h.Replicas == nil || len(at) > 19 {
		return 0
	}
	home, err := strconv.ParseInt(at, 10, 64)
	if err != nil || home <= 0 || home == h.Replicas.Self() {
		return 0
	}
	return home
}

// passedBack passes a request that answers a question, in the stateless era, on to the
// replica that holds the call it was asked in. An upstream's own requestState that looks
// like one of ours goes the same way, and is answered there as here.
func (p *post) passedBack() bool {
	raw, ok, err := wire.Field(p.m.Params.Of(p.m.Raw), "requestState")
	var state string
	if err != nil || !ok || json.Unmarshal(raw, &state) != nil {
		return false
	}
	home := p.h.homeOf(state)
	if home == 0 {
		return false
	}
	r := p.r.Clone(p.r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(p.m.Raw)), int64(len(p.m.Raw))
	return p.h.Replicas.Pass(p.w, r, home)
}

// passedOn passes a request of a session of another replica on to that. A session that
// is here is served here, though the replica may have another number by now.
func (h *Handler) passedOn(w http.ResponseWriter, r *http.Request) bool {
	id := first(r.Header, wire.HeaderSessionID)
	home := h.homeOf(id)
	if home == 0 {
		return false
	}
	h.mu.RLock()
	here := h.sessions[id] != nil
	h.mu.RUnlock()
	if _, ok := bearer(r.Header); here || !ok {
		return false
	}
	return h.Replicas.Pass(w, r, home)
}
