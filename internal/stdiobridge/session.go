package stdiobridge

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"time"

	"sallyport/internal/wire"
)

const (
	// The wait before the stream of a session is opened again, and before a server
	// that is gone is asked again.
	firstWait   = 250 * time.Millisecond
	longestWait = 10 * time.Second
)

// session is one of the sessions era.
type session struct {
	id      string // "" if the server gives none
	version string
	hello   wire.Message // the initialize request that opened it
	ctx     context.Context
	over    context.CancelFunc
	// changes are the listings that the server said it will tell the changes of.
	changes []string
}

// headers adds those that belong to the session, if there is one.
func (s *session) headers(h http.Header) {
	if s == nil {
		return
	}
	h.Set(wire.HeaderVersion, s.version)
	if s.id != "" {
		h.Set(wire.HeaderSessionID, s.id)
	}
}

// open serves the request that opens a session.
func (b *bridge) open(ctx context.Context, f *flight) []byte {
	b.mu.Lock()
	old := b.session
	b.mu.Unlock()
	if old != nil {
		b.endSession(old)
	}
	s, out := b.begin(ctx, f.m)
	if out.answer == nil {
		return b.failure(&f.m, codeBridge, out.why, out.sent)
	}
	if s != nil {
		b.mu.Lock()
		b.session = s
		b.mu.Unlock()
	}
	return out.answer.Raw
}

// begin opens a session. Without an error there is one only if the server's answer
// is a result.
func (b *bridge) begin(ctx context.Context, hello wire.Message) (*session, outcome) {
	out := b.post(ctx, &hello, http.Header{}, func() {})
	if out.answer == nil || out.answer.Kind != wire.Result {
		return nil, out
	}
	result := out.answer.Result.Of(out.answer.Raw)
	s := &session{id: out.header.Get(wire.HeaderSessionID), version: wire.Version20251125, hello: hello}
	if quoted, ok, err := wire.Field(result, "protocolVersion"); err == nil && ok {
		if version, err := wire.DecodeString(quoted); err == nil {
			s.version = version
		}
	}
	for kind, notification := range map[string]string{
		"tools": wire.NotificationToolsListChanged, "resources": wire.NotificationResourcesListChanged, "prompts": wire.NotificationPromptsListChanged,
	} {
		capabilities, ok, err := wire.Field(result, "capabilities")
		if err != nil || !ok {
			break
		}
		if of, ok, err := wire.Field(capabilities, kind); err == nil && ok && of[0] == '{' {
			if told, _, err := wire.Field(of, "listChanged"); err == nil && string(told) == "true" {
				s.changes = append(s.changes, notification)
			}
		}
	}
	s.ctx, s.over = context.WithCancel(b.ctx)
	return s, out
}

// initialized passes on that the client is ready, and opens the stream for what
// the server has to say by itself.
func (b *bridge) initialized(m wire.Message) {
	b.send(m)
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if s != nil {
		b.running.Go(func() { b.listen(s) })
	}
}

// lost opens another session in the place of one that the server does not know any
// more, and says what happened. A request that met it was not looked at.
func (b *bridge) lost(old *session) string {
	b.reopening.Lock()
	defer b.reopening.Unlock()
	b.mu.Lock()
	now := b.session
	b.mu.Unlock()
	const was = "the server does not know this session any more (it was restarted, or the session was unused for too long): this was not carried out"
	if now != old {
		return was + "; another session is open: make the call again"
	}
	ctx, cancel := context.WithTimeout(b.ctx, noticeTime)
	defer cancel()
	s, out := b.begin(ctx, old.hello)
	switch {
	case s == nil && out.answer != nil:
		return was + "; another session was refused: " + string(out.answer.Error.Of(out.answer.Raw))
	case s == nil:
		return was + "; another session could not be opened: " + out.why
	}
	b.mu.Lock()
	b.session = s
	b.tools = toolHeaders{}
	b.mu.Unlock()
	old.over()
	ready, err := wire.Scan(wire.AppendNotification(nil, wire.NotificationInitialized, nil), wire.Limits{})
	if err != nil {
		panic("stdiobridge: " + err.Error())
	}
	b.sendIn(s, ready)
	b.Say("the server did not know the session any more; another one is open")
	for _, change := range s.changes {
		b.emit(wire.AppendNotification(nil, change, nil))
	}
	b.running.Go(func() { b.listen(s) })
	return was + "; another session is open: make the call again"
}

// listen reads what belongs to no request, until the session is over. A stream
// that ends is opened again.
func (b *bridge) listen(s *session) {
	wait, complained := firstWait, false
	for s.ctx.Err() == nil {
		h := http.Header{"Accept": {typeEvents}}
		s.headers(h)
		resp, err := b.do(s.ctx, http.MethodGet, h, nil)
		switch {
		case s.ctx.Err() != nil:
			if err == nil {
				resp.Body.Close()
			}
			return
		case err != nil:
			if !complained {
				complained = true
				b.Say("the server does not answer: " + plain(err) + "; it will be asked again")
			}
		default:
			kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			switch status := resp.StatusCode; {
			case status == http.StatusOK && kind == typeEvents:
				if complained {
					b.Say("the server answers again")
				}
				wait, complained = firstWait, false
				if retry := b.stream(resp); retry > 0 {
					wait = min(retry, longestWait)
				}
			case status == http.StatusMethodNotAllowed, s.id == "":
				resp.Body.Close()
				return // it has nothing to say by itself
			case status == http.StatusNotFound:
				resp.Body.Close()
				b.lost(s)
			default:
				resp.Body.Close()
				if !complained {
					complained = true
					b.Say(fmt.Sprintf("the server answered %s to the stream of the session; it will be asked again", resp.Status))
				}
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, longestWait)
	}
}

// stream passes the messages of a stream on, and returns the wait that the server
// asks for before it is opened again.
func (b *bridge) stream(resp *http.Response) (retry time.Duration) {
	defer resp.Body.Close()
	events := wire.NewEventReader(resp.Body, b.MaxMessage)
	for {
		e, err := events.Next()
		if err != nil {
			return retry
		}
		if e.Retry > 0 {
			retry = time.Duration(e.Retry) * time.Millisecond
		}
		if got, ok := b.event(e); ok {
			b.emit(got.Raw)
		}
	}
}

// endSession tells the server that a session is over.
func (b *bridge) endSession(s *session) {
	s.over()
	if s.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), endTime)
	defer cancel()
	h := http.Header{}
	s.headers(h)
	resp, err := b.do(ctx, http.MethodDelete, h, nil)
	if err != nil {
		return // it ends by itself when it is unused
	}
	resp.Body.Close()
}
