package agentside

import (
	"bytes"
	"net/http"
	"slices"
	"time"

	"sallyport"
)

// maxStreams is how many event streams one session may have open.
const maxStreams = 4

// get opens the stream of a session for what belongs to no call.
func (h *Handler) get(w http.ResponseWriter, r *http.Request) {
	if _, events, _ := accepts(r.Header["Accept"]); !events {
		refuseHTTP(w, http.StatusNotAcceptable, "the client must accept text/event-stream")
		return
	}
	s, credential, ok := h.named(w, r)
	if !ok {
		return
	}
	if _, err := h.Gateway.Describe(r.Context(), credential); err != nil {
		h.refuseStream(w, r, err)
		return
	}
	wake := s.attach()
	defer func() {
		s.detach(wake)
		s.touch(h.Now())
	}()
	e := openEvents(w)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for !e.gone {
		e.write(s.take(wake))
		select {
		case <-wake:
			if s.closed(wake) {
				return
			}
		case <-tick.C:
			if _, err := h.Gateway.Describe(r.Context(), credential); err != nil {
				return // the credential has gone: the client learns why when it asks again
			}
			e.comment()
		case <-s.over:
			return
		case <-h.closing:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (h *Handler) refuseStream(w http.ResponseWriter, r *http.Request, err error) {
	refusal, status := h.refusal(err), http.StatusForbidden
	if refusal.Code == sallyport.Unauthenticated {
		challenge(w, r, true)
		status = http.StatusUnauthorized
	}
	refuseHTTP(w, status, refusal.Error())
}

// attach adds a stream, the youngest. One too many ends the oldest.
func (s *session) attach() chan struct{} {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = append(s.streams, wake)
	if len(s.streams) > maxStreams {
		wakeUp(s.streams[0])
		s.streams = slices.Delete(s.streams, 0, 1)
	}
	return wake
}

// detach removes a stream; the one before it takes over.
func (s *session) detach(wake chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.streams, wake); i >= 0 {
		s.streams = slices.Delete(s.streams, i, i+1)
	}
	s.wakeLocked()
}

// closed reports whether a stream has been replaced.
func (s *session) closed(wake chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.Contains(s.streams, wake)
}

// take returns what waits, to the youngest stream only.
func (s *session) take(wake chan struct{}) []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.streams); n == 0 || s.streams[n-1] != wake {
		return nil
	}
	return s.queue.take()
}

// deliver passes on a notification of an upstream that belongs to no call. It
// never blocks.
func (s *session) deliver(raw []byte) {
	if !passes(raw, level(s.level.Load())) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.addChange(bytes.Clone(raw))
	s.wakeLocked()
}

func (s *session) wakeLocked() {
	if n := len(s.streams); n > 0 {
		wakeUp(s.streams[n-1])
	}
}
