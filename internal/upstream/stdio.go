package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

const (
	// stuckWrite is how long a child may leave a line half read before it is taken
	// for hung. It is short of the deadline of most calls.
	stuckWrite = 20 * time.Second
	// maxNotes bounds the notifications of one call that wait for its client.
	maxNotes = 64
	// maxSkipped bounds, as a multiple of the limit of a line, what is skipped to
	// find the end of one that is too long.
	maxSkipped = 16
	// patience is how long a call waits for a child that may not be restarted yet.
	patience = time.Second
)

// stdioLink is an upstream that is a program (MCP, "Transports", "stdio"): one
// message on each line. In the sessions era each client session has a child of
// its own; in the stateless era all requests share one, with ids and progress
// tokens of its own.
type stdioLink struct {
	*upstream
	stderr   ring
	restarts atomic.Uint64
	dropped  atomic.Uint64

	mu       sync.Mutex
	children map[string]*child // by the client's session; "" is the shared one
	backoff  backoff
}

func newStdioLink(u *upstream) *stdioLink {
	return &stdioLink{upstream: u, stderr: ring{log: u.log}, children: map[string]*child{}}
}

// maxLine is the longest line that is read.
func (l *stdioLink) maxLine() int { return max(l.maxResult, defaultMaxResult) }

// backoff says when a program that ended by itself may be started again.
type backoff struct {
	wait  time.Duration
	until time.Time
}

const (
	firstWait   = 100 * time.Millisecond
	longestWait = 30 * time.Second
	healthy     = time.Minute // a child that lived so long was well
)

// failed is told that a child ended by itself at now, having lived for lived.
func (b *backoff) failed(now time.Time, lived time.Duration) {
	if lived >= healthy {
		b.wait = 0
	}
	b.wait = min(max(2*b.wait, firstWait), longestWait)
	b.until = now.Add(b.wait)
}

// child is one running program and the calls that wait for it.
type child struct {
	link   *stdioLink
	key    string
	client *gateway.Session // nil if it is shared
	// What follows is written before opened is closed.
	opened      chan struct{}
	err         error
	process     *process
	initialized []byte // the result of initialize
	started     time.Time
	level       told

	ctx  context.Context // ends with the child
	quit context.CancelFunc
	// writing is held by whoever writes: a channel, so that it can be waited for
	// beside a context.
	writing chan struct{}
	deliver chan []byte // notifications that belong to no call
	asks    chan struct{}
	// dismissed: it is being ended, or its end has been accounted for.
	dismissed atomic.Bool

	mu      sync.Mutex
	dead    bool
	last    uint64
	pending map[uint64]*pending
}

// pending is a request that has no response yet.
type pending struct {
	number uint64
	r      *gateway.Request
	limit  int
	ctx    context.Context
	asked  sync.WaitGroup // questions of the child that were passed to r.Ask
	notes  chan []byte    // with the caller's progress token
	result chan wire.Message
	failed chan error
}

// child returns the running child of a session, or the shared one, and starts
// one if there is none. Those who come while it is being started wait for it.
func (l *stdioLink) child(ctx context.Context, s *gateway.Session) (*child, error) {
	key := ""
	if l.era == wire.Sessions {
		key = "s" + s.ID
	} else {
		s = nil
	}
	l.mu.Lock()
	c := l.children[key]
	if c == nil {
		// A client's session ends its calls before it is forgotten: what is started now
		// for a call that has ended, nobody would end.
		if err := ctx.Err(); err != nil {
			l.mu.Unlock()
			return nil, err
		}
		if len(l.children) >= maxChildren {
			l.mu.Unlock()
			return nil, unavailable("there are too many sessions with the system behind this tool", "close sessions that are no longer used", false)
		}
		wait := time.Until(l.backoff.until)
		if wait > patience {
			l.mu.Unlock()
			return nil, unavailable("the system behind this tool has stopped and is not started again yet",
				fmt.Sprintf("call again in %d s", int(wait/time.Second)+1), false)
		}
		c = &child{
			link: l, key: key, client: s, opened: make(chan struct{}), writing: make(chan struct{}, 1), level: newTold(),
			deliver: make(chan []byte, maxNotes), asks: make(chan struct{}, maxAsks), pending: map[uint64]*pending{},
		}
		c.ctx, c.quit = context.WithCancel(l.stage.ctx)
		l.children[key] = c
		l.mu.Unlock()
		if !l.stage.aside(func() { c.open(wait) }) {
			l.drop(c)
			c.err = shuttingDown()
			close(c.opened)
		}
	} else {
		l.mu.Unlock()
	}
	select {
	case <-c.opened:
		return c, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.stage.ctx.Done():
		return nil, shuttingDown()
	}
}

func (l *stdioLink) greeting(ctx context.Context, s *gateway.Session) ([]byte, error) {
	c, err := l.child(ctx, s)
	if err != nil {
		return nil, err
	}
	return c.initialized, nil
}

func (l *stdioLink) over(ctx context.Context, s *gateway.Session) (<-chan struct{}, error) {
	c, err := l.child(ctx, s)
	if err != nil {
		return nil, err
	}
	return c.ctx.Done(), nil
}

// drop takes the child out of use: the next call starts another.
func (l *stdioLink) drop(c *child) {
	l.mu.Lock()
	if l.children[c.key] == c {
		delete(l.children, c.key)
	}
	l.mu.Unlock()
	c.quit()
}

// open starts the child after a wait and greets it.
func (c *child) open(wait time.Duration) {
	l := c.link
	ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	if wait > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	err := ctx.Err()
	if err == nil {
		err = c.start()
	}
	if err == nil && l.era == wire.Sessions {
		err = c.greet(ctx)
	}
	if err != nil {
		l.note(fmt.Errorf("starting %s: %w", l.transport.Command[0], err))
		c.err = notSent(err)
		c.failed()
		l.drop(c)
		if c.process != nil {
			c.process.stop(l.stage.cut)
		}
	}
	close(c.opened)
}

// failed delays the next start, once for each child, unless this one was not to
// live any longer anyway.
func (c *child) failed() bool {
	if c.dismissed.Swap(true) || c.link.stage.ctx.Err() != nil {
		return false
	}
	lived := time.Duration(0)
	if c.process != nil {
		lived = time.Since(c.started)
	}
	c.link.mu.Lock()
	c.link.backoff.failed(time.Now(), lived)
	c.link.mu.Unlock()
	return true
}

func (c *child) start() error {
	l := c.link
	env := make(map[string]string, len(l.transport.Env))
	for name, value := range l.transport.Env {
		resolved, err := l.resolve("environment variable "+name, value)
		if err != nil {
			return err
		}
		env[name] = resolved
	}
	transport := l.transport
	if !filepath.IsAbs(transport.Dir) {
		transport.Dir = filepath.Join(l.stage.config.Dir, transport.Dir)
	}
	p, err := startProcess(&l.stage.starter, &transport, env, l.stderr.add)
	if err != nil {
		return &connectError{err}
	}
	c.process, c.started = p, time.Now()
	l.stage.tasks.Go(c.read) // tasks cannot be at zero: open is one
	if c.client != nil && c.client.Deliver != nil {
		l.stage.tasks.Go(func() {
			for {
				select {
				case raw := <-c.deliver:
					c.client.Deliver(raw)
				case <-c.ctx.Done():
					return
				}
			}
		})
	}
	return nil
}

// greet opens the session.
func (c *child) greet(ctx context.Context) error {
	raw := c.link.initializeRequest([]byte("0"), c.client)
	m, err := wire.Scan(raw, wire.Limits{Bytes: len(raw)})
	if err != nil {
		return c.link.misconfigured("the client's own description cannot be passed on")
	}
	res, err := c.call(ctx, &gateway.Request{Message: m, MaxResult: c.link.maxLine()})
	if err != nil {
		if ctx.Err() != nil {
			err = &connectError{fmt.Errorf("opening a session took too long: %w", err)}
		}
		return err
	}
	if _, err := c.link.initialized(&res.Message); err != nil {
		return err
	}
	c.initialized = res.Message.Result.Of(res.Message.Raw)
	_, err = c.write(ctx, wire.AppendNotification(nil, wire.NotificationInitialized, nil), nil, nil)
	return err
}

func (l *stdioLink) do(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	c, err := l.child(ctx, r.Session)
	if err != nil {
		return nil, err
	}
	if l.era == wire.Sessions {
		c.level.follow(ctx, l.upstream, r.Session, c.initialized, c.call)
	}
	return c.call(ctx, r)
}

// call sends one request and waits for its response.
func (c *child) call(ctx context.Context, r *gateway.Request) (*gateway.Response, error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	p := &pending{
		r: r, limit: r.MaxResult, ctx: ctx,
		notes: make(chan []byte, maxNotes), result: make(chan wire.Message, 1), failed: make(chan error, 1),
	}
	if p.limit <= 0 {
		p.limit = defaultMaxResult
	}
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return nil, &sendError{errChildEnded, false}
	}
	c.last++
	p.number = c.last
	c.pending[p.number] = p
	c.mu.Unlock()
	defer func() {
		c.remove(p)
		done()
		p.asked.Wait()
	}()

	sent, err := c.write(ctx, renumbered(&r.Message, p.number), r.BeforeWrite, r.AfterWrite)
	if err != nil {
		if sent {
			c.cancel(p)
		}
		return nil, err
	}
	for {
		select {
		case raw := <-p.notes:
			p.notify(raw)
		case m := <-p.result:
			for len(p.notes) > 0 {
				p.notify(<-p.notes)
			}
			return &gateway.Response{Message: m}, nil
		case err := <-p.failed:
			return nil, &sendError{err, true}
		case <-ctx.Done():
			c.cancel(p)
			return nil, &sendError{ctx.Err(), true}
		}
	}
}

func (p *pending) notify(raw []byte) {
	if p.r.Notify != nil {
		p.r.Notify(raw)
	}
}

func (c *child) remove(p *pending) {
	c.mu.Lock()
	delete(c.pending, p.number)
	c.mu.Unlock()
}

// cancel tells the child, beside the call, that its answer is not waited for.
func (c *child) cancel(p *pending) {
	params := strconv.AppendUint([]byte(`{"requestId":`), p.number, 10)
	params = append(params, `,"reason":"the caller no longer waits"}`...)
	raw := wire.AppendNotification(nil, wire.NotificationCancelled, params)
	c.link.stage.aside(func() {
		ctx, done := context.WithTimeout(c.ctx, asideTimeout)
		defer done()
		if _, err := c.write(ctx, raw, nil, nil); err != nil && c.ctx.Err() == nil {
			c.link.note(fmt.Errorf("cancelling a request: %w", err))
		}
	})
}

// renumbered is a request with number as its id and, if it has one, as its
// progress token. Every other byte is as it was.
func renumbered(m *wire.Message, number uint64) []byte {
	digits := strconv.AppendUint(nil, number, 10)
	edits := []wire.Edit{{Span: m.ID, With: digits}}
	if m.ProgressToken.Present() {
		edits = append(edits, wire.Edit{Span: m.ProgressToken, With: digits})
		if m.ProgressToken.Start < m.ID.Start {
			edits[0], edits[1] = edits[1], edits[0]
		}
	}
	return wire.Splice(m.Raw, edits...)
}

// line is a message as one line. A line end within it stands between tokens: a
// space does as well.
func line(raw []byte) []byte {
	out := make([]byte, len(raw)+1)
	copy(out, raw)
	if bytes.ContainsAny(raw, "\r\n") {
		for i, b := range out[:len(raw)] {
			if b == '\n' || b == '\r' {
				out[i] = ' '
			}
		}
	}
	out[len(raw)] = '\n'
	return out
}

// write writes one message. It returns whether any of it may have been written.
// Errors are *vetoError from before, and *sendError.
//
// When ctx ends in the middle of a line, the rest is written by somebody else:
// half a line would take the next one with it.
func (c *child) write(ctx context.Context, raw []byte, before func() error, after func()) (sent bool, err error) {
	out := line(raw)
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return false, &sendError{ctx.Err(), false}
	case <-c.ctx.Done():
		return false, &sendError{errChildEnded, false}
	}
	handedOn := false
	defer func() {
		if !handedOn {
			<-c.writing
		}
	}()
	if err := ctx.Err(); err != nil {
		return false, &sendError{err, false}
	}
	if before != nil {
		if err := before(); err != nil {
			return false, &vetoError{err}
		}
	}
	in := c.process.stdin
	deadline := time.Now().Add(stuckWrite)
	in.SetWriteDeadline(deadline)
	interrupted := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		in.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	n, err := in.Write(out)
	if !release() {
		<-interrupted
	}
	if err == nil {
		if after != nil {
			after()
		}
		return true, nil
	}
	sent = n > 0
	switch {
	case !timedOut(err):
		// Nobody reads any more.
		c.process.kill()
	case sent && time.Now().Before(deadline):
		handedOn = true
		if !c.link.stage.aside(func() {
			in.SetWriteDeadline(deadline)
			if _, err := in.Write(out[n:]); err != nil {
				c.process.kill()
			}
			<-c.writing
		}) {
			<-c.writing
		}
	case ctx.Err() == nil:
		c.process.kill()
	}
	if err := ctx.Err(); err != nil {
		return sent, &sendError{err, sent}
	}
	return sent, &sendError{errChildEnded, sent}
}

var (
	errChildEnded = errors.New("the child has ended")
	errEndless    = errors.New("the child writes a line without end")
)

// read reads what the child writes until it ends, and then puts everything in
// order: calls in flight fail, the child is collected, and if nobody wanted it to
// end, it counts as a failure.
func (c *child) read() {
	l := c.link
	in := &lines{in: bufio.NewReaderSize(c.process.stdout, 32<<10), max: l.maxLine()}
	var err error
	for {
		var raw []byte
		raw, err = in.next()
		if tooLong := (*tooLongError)(nil); errors.As(err, &tooLong) {
			l.dropped.Add(1)
			l.log.Warn("upstream wrote a line that is too long", "limit", in.max)
			c.fail(tooLong.id, errTooLarge)
			continue
		}
		if err != nil {
			break
		}
		m, err := wire.Scan(raw, wire.Limits{Bytes: in.max})
		if err != nil {
			l.dropped.Add(1)
			l.log.Warn("upstream wrote a line that is not a message", "error", err)
			if bytes.Contains(raw, []byte(`"jsonrpc"`)) { // meant to be one
				var f idFinder
				f.feed(raw)
				c.fail(string(f.id), err)
			}
			continue
		}
		c.receive(&m)
	}
	l.drop(c)
	c.mu.Lock()
	c.dead = true
	for _, p := range c.pending {
		p.failed <- errChildEnded
	}
	clear(c.pending)
	c.mu.Unlock()
	c.process.stdout.Close()
	unwanted := c.failed()
	c.process.stop(l.stage.cut)
	if !unwanted {
		return
	}
	if err == io.EOF && c.process.err != nil {
		err = c.process.err
	}
	l.note(fmt.Errorf("%s ended: %w", l.transport.Command[0], err))
	l.restarts.Add(1)
	l.log.Warn("upstream ended", "command", l.transport.Command[0], "error", err)
}

// take returns the call with an id of this end, and takes it off the list if it
// is to be ended.
func (c *child) take(id string, end bool) *pending {
	number, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending[number]
	if p != nil && end {
		delete(c.pending, number)
	}
	return p
}

func (c *child) fail(id string, err error) {
	if p := c.take(id, true); p != nil {
		p.failed <- err
	}
}

// receive passes on one message of the child.
func (c *child) receive(m *wire.Message) {
	l := c.link
	switch m.Kind {
	case wire.Result, wire.Error:
		p := c.take(string(m.ID.Of(m.Raw)), true)
		if p == nil {
			l.dropped.Add(1) // late, or to nothing that was asked
			return
		}
		if len(m.Raw) > p.limit {
			p.failed <- errTooLarge
			return
		}
		own := p.r.Message.ID.Of(p.r.Message.Raw)
		restored, err := replaceID(m, own)
		if err != nil {
			p.failed <- err
			return
		}
		p.result <- restored
	case wire.Notification:
		if m.Method == wire.NotificationProgress {
			c.progress(m)
			return
		}
		c.notify(m)
	case wire.Request:
		c.asked(m)
	}
}

// progress passes on a notification of progress under the caller's own token.
func (c *child) progress(m *wire.Message) {
	p := c.take(string(m.ProgressToken.Of(m.Raw)), false)
	if p == nil || !p.r.Message.ProgressToken.Present() {
		c.link.dropped.Add(1)
		return
	}
	own := p.r.Message.ProgressToken.Of(p.r.Message.Raw)
	c.enqueue(p.notes, wire.Splice(m.Raw, wire.Edit{Span: m.ProgressToken, With: own}))
}

// notify passes on a notification that names no call. Of a shared child nobody
// can say whose it is, unless it names a subscription.
func (c *child) notify(m *wire.Message) {
	if !c.link.hear(c.client, m) {
		return
	}
	if c.client == nil {
		if id, err := memberOf(m.Meta.Of(m.Raw), wire.MetaSubscriptionID); err == nil {
			if p := c.take(string(id), false); p != nil {
				c.enqueue(p.notes, m.Raw)
				return
			}
		}
	}
	if c.client == nil || c.client.Deliver == nil {
		c.link.dropped.Add(1)
		return
	}
	c.enqueue(c.deliver, m.Raw)
}

// enqueue never waits: a client that does not listen must not stop the child.
func (c *child) enqueue(to chan []byte, raw []byte) {
	select {
	case to <- raw:
	default:
		c.link.dropped.Add(1)
	}
}

// asked passes on a question of the child. It says not to which call it belongs:
// to the youngest in flight; without one, to the session.
func (c *child) asked(m *wire.Message) {
	select {
	case c.asks <- struct{}{}:
	default:
		c.link.dropped.Add(1)
		return
	}
	ctx, passed := c.ctx, func() {}
	var ask func(context.Context, []byte) ([]byte, error)
	if c.client != nil {
		ask = c.client.Ask
		c.mu.Lock()
		if len(c.pending) > 0 {
			p := c.pending[slices.Max(slices.Collect(maps.Keys(c.pending)))]
			p.asked.Add(1)
			ctx, ask, passed = p.ctx, p.r.Ask, p.asked.Done
		}
		c.mu.Unlock()
	}
	if !c.link.stage.aside(func() {
		raw := answer(ctx, m, ask)
		passed()
		<-c.asks
		ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
		defer cancel()
		if _, err := c.write(ctx, raw, nil, nil); err != nil {
			c.link.dropped.Add(1)
		}
	}) {
		passed()
		<-c.asks
	}
}

func (l *stdioLink) tell(ctx context.Context, s *gateway.Session, raw []byte) error {
	l.mu.Lock()
	c := l.children["s"+s.ID]
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.err != nil {
		return nil
	}
	_, err := c.write(ctx, raw, nil, nil)
	return err
}

func (l *stdioLink) forget(s *gateway.Session) {
	l.mu.Lock()
	c := l.children["s"+s.ID]
	l.mu.Unlock()
	if c != nil {
		l.dismiss(c)
	}
}

// dismiss ends a child beside what the caller does.
func (l *stdioLink) dismiss(c *child) {
	c.dismissed.Store(true)
	l.drop(c)
	l.stage.aside(c.end)
}

// end ends a child that is dismissed and waits for it.
func (c *child) end() {
	<-c.opened
	if c.process != nil {
		c.process.stop(c.link.stage.cut)
	}
}

func (l *stdioLink) quiet() {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.children))
	l.mu.Unlock()
	for _, c := range all {
		l.dismiss(c)
	}
}

func (l *stdioLink) end() {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.children))
	l.mu.Unlock()
	var ends sync.WaitGroup
	for _, c := range all {
		c.dismissed.Store(true)
		l.drop(c)
		ends.Go(c.end)
	}
	ends.Wait()
}

func (l *stdioLink) status(st *Status) {
	st.Transport, st.Restarts, st.Dropped = "stdio", l.restarts.Load(), l.dropped.Load()
	st.Stderr = l.stderr.last()
	l.mu.Lock()
	st.Children = len(l.children)
	if l.era == wire.Sessions {
		st.Sessions = st.Children
	}
	l.mu.Unlock()
}

// lines reads lines and skips those that are too long.
type lines struct {
	in  *bufio.Reader
	max int
}

// tooLongError is the error of a line that was skipped. id is that of the
// message it held, as far as could be told.
type tooLongError struct{ id string }

func (e *tooLongError) Error() string { return "a line that is too long" }

// next returns the next line that is not blank, without its end. Its bytes are
// the caller's.
func (l *lines) next() ([]byte, error) {
	for {
		var whole []byte
		part, err := l.in.ReadSlice('\n')
		for err == bufio.ErrBufferFull && len(whole)+len(part) <= l.max {
			whole = append(whole, part...)
			part, err = l.in.ReadSlice('\n')
		}
		if len(whole)+len(part) > l.max+len("\r\n") {
			return nil, l.skip(whole, part, err)
		}
		if err != nil {
			return nil, err // a line that was not finished is not a message
		}
		if whole = bytes.TrimRight(append(whole, part...), "\r\n"); len(whole) > l.max {
			return nil, l.skip(whole, nil, nil)
		}
		if len(bytes.TrimLeft(whole, " \t")) > 0 {
			return whole, nil
		}
	}
}

// skip reads to the end of a line that is too long, whose beginning is given.
func (l *lines) skip(whole, part []byte, err error) error {
	var f idFinder
	f.feed(whole)
	f.feed(part)
	for skipped := 0; err == bufio.ErrBufferFull; skipped += len(part) {
		if skipped > maxSkipped*l.max {
			return errEndless
		}
		part, err = l.in.ReadSlice('\n')
		f.feed(part)
	}
	if err != nil {
		return err
	}
	return &tooLongError{string(f.id)}
}

// idFinder finds the number that is a message's id in a stream of its bytes
// without keeping them. It is no judge of JSON: what it finds in what is not a
// message is worth nothing.
type idFinder struct {
	depth   int
	inText  bool
	escaped bool
	isName  bool   // the next string at the top level is the name of a member
	isID    bool   // the value being read at the top level is the id's
	text    []byte // the first bytes of the string being read
	id      []byte
}

func (f *idFinder) feed(part []byte) {
	for _, b := range part {
		switch {
		case f.inText && b == '"' && !f.escaped:
			f.inText = false
			if f.depth == 1 && f.isName {
				f.isName, f.isID = false, string(f.text) == "id"
			}
		case f.inText:
			f.escaped = b == '\\' && !f.escaped
			if len(f.text) < 3 {
				f.text = append(f.text, b)
			}
		case b == '"':
			f.inText, f.text = true, f.text[:0]
		case b == '{' || b == '[':
			f.depth++
			f.isName = f.depth == 1
		case b == '}' || b == ']':
			f.depth--
		case b == ',' && f.depth == 1:
			f.isName, f.isID = true, false
		case f.depth == 1 && f.isID && '0' <= b && b <= '9' && len(f.id) < 20:
			f.id = append(f.id, b)
		}
	}
}
