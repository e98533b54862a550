package agentside

import (
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

// passedOn passes a request of a session of another replica on to that. A session that
// is here is served here, though the replica may have another number by now.
func (h *Handler) passedOn(w http.ResponseWriter, r *http.Request) bool {
	id := first(r.Header, wire.HeaderSessionID)
	if id == "" || h.Replicas == nil {
		return false
	}
	at, _, _ := strings.Cut(id, ".")
	home, err := strconv.ParseInt(at, 10, 64)
	if err != nil || home <= 0 || home == h.Replicas.Self() {
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
