package agentside

import (
	"bytes"
	"net/http"
	"slices"
	"sync"
	"time"

	"sallyport/internal/wire"
)

// headerCall names the call of an answer, for those who ask people about it.
const headerCall = "X-Request-Id"

// answer is the way back of one POST. It begins as one JSON document and becomes
// an event stream when a message comes before the response, if the client takes
// streams. From then on one goroutine writes, so that a client that reads slowly
// holds up nobody but itself.
type answer struct {
	p       *post
	streams bool  // the client asked for streams by name
	least   level // of log messages that the client wants

	mu      sync.Mutex
	closed  bool   // no message may come any more
	queue   outbox // of messages not written
	wake    chan struct{}
	stopped chan struct{} // closed by pump; nil until it is started
}

func (a *answer) init(p *post, streams bool) { a.p, a.streams = p, streams }

// notify passes on a notification of an upstream that belongs to the call. It
// never blocks and may be called from anywhere, also when the call is over.
func (a *answer) notify(raw []byte) {
	least := a.least
	if a.p.session != nil {
		least = level(a.p.session.level.Load())
	}
	if !passes(raw, least) {
		return
	}
	a.push(bytes.Clone(raw), "")
}

// push queues a message and begins the stream. asked is the id of a request of
// ours, which may not be dropped; then the result says whether it will be sent.
func (a *answer) push(raw []byte, asked string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || !a.streams || !a.queue.add(raw, asked) {
		return false
	}
	if a.stopped == nil {
		a.wake, a.stopped = make(chan struct{}, 1), make(chan struct{})
		go a.pump()
	}
	wakeUp(a.wake)
	return true
}

// withdraw takes a request of ours back. If the client has it already it is sent
// the other message instead; false means that neither could be done.
func (a *answer) withdraw(asked string, instead []byte) bool {
	a.mu.Lock()
	if a.queue.withdraw(asked) {
		a.mu.Unlock()
		return true
	}
	a.mu.Unlock()
	return a.push(instead, "")
}

// pump writes the stream until the answer is closed, and all that was queued
// until then.
func (a *answer) pump() {
	defer close(a.stopped)
	events := openEvents(a.p.w)
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		a.mu.Lock()
		messages, closed := a.queue.take(), a.closed
		a.mu.Unlock()
		events.write(messages)
		if closed {
			return
		}
		select {
		case <-a.wake:
		case <-tick.C:
			events.comment()
		}
	}
}

// close lets no more messages in and says whether the answer is a stream.
func (a *answer) close() (streaming bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	return a.stopped != nil
}

// end sends the response, in the form that the answer has by now. The pieces are
// one message and are not kept.
func (a *answer) end(status int, pieces ...[]byte) {
	a.p.finish()
	if !a.close() {
		if id := a.p.x.ID; id != "" { // in no body: equal runs are equal to the last byte
			a.p.w.Header()[headerCall] = []string{string(id)}
		}
		writeJSON(a.p.w, status, pieces...)
		return
	}
	wakeUp(a.wake)
	<-a.stopped
	e := events{w: a.p.w, control: http.NewResponseController(a.p.w)}
	e.write([]message{{raw: slices.Concat(pieces...)}})
	e.close()
}

// wakeUp signals without waiting; one signal is as good as two.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// events writes server-sent events to one response.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gone    bool // the client is: nothing is written any more
}

// openEvents begins an event stream and lets the client know.
func openEvents(w http.ResponseWriter) *events {
	e := &events{w: w, control: http.NewResponseController(w)}
	header := w.Header()
	header["Content-Type"] = headerEvents
	header["X-Accel-Buffering"] = headerNoBuffering
	w.WriteHeader(http.StatusOK)
	e.flush()
	return e
}

func (e *events) write(messages []message) {
	if len(messages) == 0 || e.gone {
		return
	}
	b := buffers.Get().(*[]byte)
	*b = (*b)[:0]
	for _, m := range messages {
		*b = wire.AppendEvent(*b, "", m.raw)
	}
	e.put(*b)
	putBuffer(b)
}

// comment keeps the connection open and finds out whether anybody reads it.
func (e *events) comment() {
	if !e.gone {
		e.put([]byte(":\n"))
	}
}

func (e *events) put(b []byte) {
	e.control.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := e.w.Write(b); err != nil {
		e.gone = true
		return
	}
	e.flush()
}

func (e *events) flush() {
	if err := e.control.Flush(); err != nil {
		e.gone = true
	}
}

// close takes the deadline off a connection that may carry more requests.
func (e *events) close() { e.control.SetWriteDeadline(time.Time{}) }

// message is one JSON-RPC message on its way to a client.
type message struct {
	raw   []byte
	asked string // the id, if it is a request of ours
}

const (
	maxQueued      = 256
	maxQueuedBytes = 1 << 20
	// maxMessage bounds one message of an upstream that is no result, in bytes.
	maxMessage = 4 << 20
)

// outbox holds messages in order: so many, and so many bytes or one message. When
// it is full the oldest notifications go: a list that changed twice is read once,
// progress is as good as its last step. Requests stay.
type outbox struct {
	messages []message
	bytes    int
}

// add reports whether the message will be sent.
func (o *outbox) add(raw []byte, asked string) bool {
	for len(o.messages) >= maxQueued || o.bytes+len(raw) > maxQueuedBytes && len(o.messages) > 0 {
		i := slices.IndexFunc(o.messages, func(m message) bool { return m.asked == "" })
		if i < 0 {
			return false
		}
		o.remove(i)
	}
	o.messages = append(o.messages, message{raw, asked})
	o.bytes += len(raw)
	return true
}

// addChange adds a notification that says nothing new while it is waiting.
func (o *outbox) addChange(raw []byte) {
	if !slices.ContainsFunc(o.messages, func(m message) bool { return bytes.Equal(m.raw, raw) }) {
		o.add(raw, "")
	}
}

// withdraw takes a request back and reports whether it was still there.
func (o *outbox) withdraw(asked string) bool {
	i := slices.IndexFunc(o.messages, func(m message) bool { return m.asked == asked })
	if i >= 0 {
		o.remove(i)
	}
	return i >= 0
}

func (o *outbox) remove(i int) {
	o.bytes -= len(o.messages[i].raw)
	o.messages = slices.Delete(o.messages, i, i+1)
}

func (o *outbox) take() []message {
	messages := o.messages
	o.messages, o.bytes = nil, 0
	return messages
}

// level is how urgent a log message is (RFC 5424, reversed: more is more
// urgent). The zero value lets every message pass.
type level int32

// levelNever is above all levels.
const levelNever level = 9

var levels = [...]string{"", "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// levelOf reads a level as JSON; false means that there is no such level.
func levelOf(token []byte) (level, bool) {
	name, err := wire.DecodeString(token)
	i := slices.Index(levels[:], name)
	return level(i), err == nil && i > 0
}

// passes reports whether a notification may go to a client that wants log
// messages of at least a level. Other notifications always may.
func passes(raw []byte, least level) bool {
	m, err := wire.Scan(raw, wire.Limits{Bytes: maxMessage})
	if err != nil || m.Kind != wire.Notification {
		return false
	}
	if m.Method != wire.NotificationMessage || least == 0 {
		return true
	}
	token, ok, err := wire.Field(m.Params.Of(m.Raw), "level")
	if err != nil || !ok {
		return false
	}
	l, ok := levelOf(token)
	return ok && l >= least
}
