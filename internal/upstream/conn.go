package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The HTTP/1.1 client of this package: one connection carries one request at a
// time, and everything happens in the goroutine of the caller. It exists
// because net/http neither says exactly when the first byte of a request is
// written nor promises that it is written once, and because it costs more.

const (
	dialTimeout   = 5 * time.Second
	maxHeaderLine = 16 << 10 // bytes, with its CRLF
	maxHeader     = 64 << 10 // bytes of a response's status line and fields
	maxInterim    = 8        // 1xx responses before the final one
	maxIdle       = 64       // connections kept for reuse, per upstream
	// longestIdle is how long a connection may wait for reuse if the server does
	// not say; see pool.learn.
	longestIdle  = 30 * time.Second
	shortestIdle = time.Second
	// joinWrite is the length of a body up to which it is copied behind the head
	// to make one write of both.
	joinWrite = 16 << 10
	// lateEnd is how long a connection about to be reused may take to deliver the
	// end of an event stream whose last message has been read. A server that was
	// late gets less time, down to shortestLateEnd, until it is not.
	lateEnd         = 50 * time.Millisecond
	shortestLateEnd = time.Millisecond
	// drainBytes bounds what may follow the last message of an event stream.
	drainBytes = 64 << 10
)

// protocolError is what a server did that HTTP does not allow.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// errClosed is the error of a pool that has been closed.
var errClosed = errors.New("closed")

// pool keeps the connections to one address. The address is the only one that
// is ever dialed: nothing that a request or a response says can name another.
type pool struct {
	address string                                  // host and port
	dialer  func(context.Context) (net.Conn, error) // of tests; nil dials the address
	tls     *tls.Config                             // nil for plaintext
	dials   atomic.Uint64

	mu     sync.Mutex
	idle   []*conn // least recently used first
	open   map[*conn]struct{}
	closed bool
	sweep  *time.Timer
	// keep is how long a connection may be idle and still be reused.
	keep time.Duration
	late time.Duration // between shortestLateEnd and lateEnd
}

func newPool(address string, config *tls.Config) *pool {
	return &pool{address: address, tls: config, open: map[*conn]struct{}{}, keep: longestIdle, late: lateEnd}
}

// conn is one connection. Between get and put or close it belongs to one
// goroutine.
type conn struct {
	net.Conn // TCP, or TLS over it
	pool     *pool
	raw      syscall.RawConn // of the TCP connection
	in       *bufio.Reader
	events   *bufio.Reader // over body; nil until there was an event stream
	out      []byte
	mirror   http.Header // reused for what mirrors a message
	head     head
	body     body
	reused   bool
	since    time.Time     // idle since
	keep     time.Duration // how long it may be idle; zero for the pool's
	// unfinished: the last message of the body has been read, but not its end.
	unfinished bool
	bodiless   bool   // the response to what was sent has no content, whatever its head says (HEAD)
	interrupt  func() // stored once, so that watching a context does not allocate it
	peek       func(fd uintptr)
	readable   bool // what peek found
}

// get returns an idle connection that still lives, or a new one. With fresh set
// it is always a new one.
func (p *pool) get(ctx context.Context, fresh bool) (*conn, error) {
	for !fresh {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errClosed
		}
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		keep, late := p.keepFor(c), p.late
		p.mu.Unlock()

		idle := time.Since(c.since)
		switch {
		case idle > keep:
			c.close()
		case c.unfinished && !c.finish(late):
			c.close()
		case c.stale():
			c.close()
			p.learn(idle)
		default:
			c.reused = true
			return c, nil
		}
	}
	return p.dial(ctx)
}

func (p *pool) keepFor(c *conn) time.Duration {
	if c.keep > 0 {
		return c.keep
	}
	return p.keep
}

// learn is told that the server had closed a connection that was idle for d.
// Reusing a connection just as its server gives it up loses a request that may
// not be repeated, so connections are dropped well before that from now on.
func (p *pool) learn(d time.Duration) {
	p.mu.Lock()
	p.keep = min(p.keep, max(d/2, shortestIdle))
	p.mu.Unlock()
}

func (p *pool) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dial := p.dialer
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			d := net.Dialer{}
			return d.DialContext(ctx, "tcp", p.address)
		}
	}
	nc, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, pool: p, out: make([]byte, 0, 2<<10), mirror: http.Header{}}
	if tcp, ok := nc.(*net.TCPConn); ok {
		if c.raw, err = tcp.SyscallConn(); err != nil {
			nc.Close()
			return nil, err
		}
	}
	if p.tls != nil {
		t := tls.Client(nc, p.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		c.Conn = t
	}
	c.in = bufio.NewReaderSize(c.Conn, maxHeaderLine)
	c.interrupt = func() { c.SetDeadline(time.Unix(1, 0)) }
	c.peek = func(fd uintptr) { c.readable = peekable(fd) }
	p.dials.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		nc.Close()
		return nil, errClosed
	}
	p.open[c] = struct{}{}
	return c, nil
}

// stale reports whether an idle connection can no longer be used: a server has
// nothing to say on one but its end.
func (c *conn) stale() bool {
	if c.in.Buffered() > 0 {
		return true
	}
	if c.raw == nil {
		return false
	}
	c.readable = true
	if err := c.raw.Control(c.peek); err != nil {
		return true
	}
	return c.readable
}

// finish reads the end of an event stream that had not arrived when its last
// message was read, and reports whether it did within a time.
func (c *conn) finish(within time.Duration) bool {
	c.unfinished = false
	c.SetReadDeadline(time.Now().Add(within))
	n, err := io.Copy(io.Discard, io.LimitReader(&c.body, drainBytes))
	ended := err == nil && n < drainBytes && c.body.ended
	c.pool.mu.Lock()
	if c.pool.late = lateEnd; !ended {
		c.pool.late = max(within/4, shortestLateEnd)
	}
	c.pool.mu.Unlock()
	return ended
}

// put gives the connection back: to be reused if it is in a state for it,
// closed if not.
func (c *conn) put() {
	if c.head.last || !c.body.ended && !c.unfinished || c.in.Buffered() > 0 && !c.unfinished {
		c.close()
		return
	}
	c.since, c.keep = time.Now(), c.head.keepAlive
	if cap(c.out) > 2*joinWrite {
		c.out = make([]byte, 0, 2<<10)
	}
	p := c.pool
	p.mu.Lock()
	if p.closed || len(p.idle) >= maxIdle {
		p.mu.Unlock()
		c.close()
		return
	}
	p.idle = append(p.idle, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(longestIdle, p.prune)
	}
	p.mu.Unlock()
}

// prune closes connections that have been idle for too long, as long as there
// are any.
func (p *pool) prune() {
	now := time.Now()
	var old []*conn
	p.mu.Lock()
	p.idle = slices.DeleteFunc(p.idle, func(c *conn) bool {
		if now.Sub(c.since) <= p.keepFor(c) {
			return false
		}
		old = append(old, c)
		return true
	})
	p.sweep = nil
	if len(p.idle) > 0 && !p.closed {
		p.sweep = time.AfterFunc(longestIdle, p.prune)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// sever closes the TCP connection. The close of TLS would write, and may wait
// for whoever is writing, or for a peer that does not read.
func (c *conn) sever() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	c.Conn.Close()
}

func (c *conn) close() {
	c.sever()
	c.pool.mu.Lock()
	delete(c.pool.open, c)
	c.pool.mu.Unlock()
}

// drop closes what is idle.
func (p *pool) drop() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// shut closes every connection, whoever uses it, and makes no more.
func (p *pool) shut() {
	p.mu.Lock()
	p.closed = true
	p.idle = nil
	if p.sweep != nil {
		p.sweep.Stop()
	}
	open := make([]*conn, 0, len(p.open))
	for c := range p.open {
		open = append(open, c)
	}
	p.mu.Unlock()
	for _, c := range open {
		c.sever()
	}
}

func (p *pool) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// watch makes ctx's deadline and cancellation those of the connection. The
// function it returns ends that and reports whether the connection is still
// usable.
func (c *conn) watch(ctx context.Context) (release func() bool) {
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, c.interrupt)
}

// send writes c.out, which holds a request's head, and body. It returns the
// number of bytes written.
func (c *conn) send(body []byte) (int, error) {
	if len(body) <= joinWrite {
		c.out = append(c.out, body...)
		return c.Write(c.out)
	}
	both := net.Buffers{c.out, body}
	if _, ok := c.Conn.(*net.TCPConn); ok {
		n, err := both.WriteTo(c.Conn)
		return int(n), err
	}
	n, err := c.Write(c.out)
	if err != nil {
		return n, err
	}
	m, err := c.Write(body)
	return n + m, err
}

// head is what this package wants to know of a response's head.
type head struct {
	status    int
	media     media
	length    int64 // of the body; -1 if the head does not say
	chunked   bool
	last      bool // the connection ends with this response
	coded     bool // the content has a coding (RFC 9110, section 8.4)
	keepAlive time.Duration
	session   []byte // Mcp-Session-Id
	content   []byte // Content-Type, as it was sent
	// retryAfter is in seconds; zero if absent or a date.
	retryAfter int
}

// media is the type of a response's content.
type media uint8

const (
	mediaOther media = iota
	mediaJSON
	mediaEvents
)

// receive reads the head of the final response to the request that was sent and
// makes c.body its content.
func (c *conn) receive() error {
	c.body = body{}
	budget := maxHeader
	for range maxInterim {
		if err := c.head.read(c.in, &budget); err != nil {
			return err
		}
		switch s := c.head.status; {
		case s == 101:
			return protocolError("the server switched protocols unasked")
		case s < 200:
			continue
		case s == 204 || s == 304 || c.bodiless:
			c.body = body{in: c.in, ended: true}
		case c.head.chunked:
			c.body = body{in: c.in, chunked: true}
		case c.head.length >= 0:
			c.body = body{in: c.in, left: c.head.length, ended: c.head.length == 0}
		default:
			c.body = body{in: c.in, left: -1}
			c.head.last = true
		}
		return nil
	}
	return protocolError("more than 8 interim responses")
}

// read reads one head (RFC 9112, sections 4 and 5), strictly: lines end in CRLF,
// names are tokens, nothing is folded, lengths are decimal and said once.
func (h *head) read(in *bufio.Reader, budget *int) error {
	*h = head{length: -1, session: h.session[:0], content: h.content[:0]}
	line, err := readLine(in, budget)
	if err != nil {
		return err
	}
	// "HTTP/1.x SP 3DIGIT SP [ reason ]"; the last SP is often forgotten.
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return protocolError("the answer is not HTTP/1.1")
	}
	old := line[7] == '0'
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			return protocolError("a status that is not a number")
		}
		h.status = h.status*10 + int(d-'0')
	}
	if h.status < 100 || h.status > 599 {
		return protocolError("a status outside 100 to 599")
	}
	keep, hint := false, time.Duration(0)
	for {
		line, err := readLine(in, budget)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, err := field(line)
		if err != nil {
			return err
		}
		switch {
		case fold(name, "content-type"):
			h.content = append(h.content[:0], value...)
			essence, _, _ := bytes.Cut(value, []byte(";"))
			essence = trim(essence)
			switch {
			case fold(essence, "application/json"):
				h.media = mediaJSON
			case fold(essence, "text/event-stream"):
				h.media = mediaEvents
			}
		case fold(name, "content-length"):
			if h.length >= 0 {
				return protocolError("two content-lengths")
			}
			if len(value) == 0 || len(value) > 15 {
				return protocolError("a content-length that is not a number")
			}
			h.length = 0
			for _, d := range value {
				if d < '0' || d > '9' {
					return protocolError("a content-length that is not a number")
				}
				h.length = h.length*10 + int64(d-'0')
			}
		case fold(name, "transfer-encoding"):
			if old || h.chunked || !fold(value, "chunked") {
				return protocolError("a transfer-encoding other than chunked")
			}
			h.chunked = true
		case fold(name, "connection"):
			for option := range bytes.SplitSeq(value, []byte(",")) {
				option = trim(option)
				h.last = h.last || fold(option, "close")
				keep = keep || fold(option, "keep-alive")
			}
		case fold(name, "keep-alive"):
			hint = keepAlive(value)
		case fold(name, "content-encoding"):
			h.coded = h.coded || len(value) > 0 && !fold(value, "identity")
		case fold(name, "mcp-session-id"):
			if len(h.session) > 0 {
				return protocolError("two session ids")
			}
			h.session = append(h.session, value...)
		case fold(name, "retry-after"):
			if n, err := strconv.Atoi(string(value)); err == nil && n > 0 {
				h.retryAfter = n
			}
		}
	}
	if h.chunked && h.length >= 0 {
		return protocolError("both a content-length and a transfer-encoding")
	}
	h.last = h.last || old && !keep || hint < 0
	h.keepAlive = hint
	return nil
}

// field takes a header field apart. A folded one has no name.
func field(line []byte) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, protocolError("a header field without a name")
	}
	name, value = line[:colon], trim(line[colon+1:])
	for _, b := range name {
		if !tokenByte[b] {
			return nil, nil, protocolError("a header field whose name is not a token")
		}
	}
	for _, b := range value {
		if b < ' ' && b != '\t' || b == 0x7f {
			return nil, nil, protocolError("a control character in a header field")
		}
	}
	return name, value, nil
}

// keepAlive reads "timeout=N" and returns a second less: the server counts from
// when it sent, this end from when it received. Nothing left is negative, and
// nothing said is zero.
func keepAlive(value []byte) time.Duration {
	for part := range bytes.SplitSeq(value, []byte(",")) {
		part = trim(part)
		if len(part) < 9 || !fold(part[:8], "timeout=") {
			continue
		}
		n, err := strconv.Atoi(string(part[8:]))
		if err != nil || n < 0 {
			continue
		}
		if n <= 1 {
			return -1
		}
		return time.Duration(min(n, 60)-1) * time.Second
	}
	return 0
}

// readLine reads a line that ends in CRLF and returns it without. It is valid
// until the next read.
func readLine(in *bufio.Reader, budget *int) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, protocolError("a header line of more than 16 KiB")
		}
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if *budget -= len(line); *budget < 0 {
		return nil, protocolError("a header of more than 64 KiB")
	}
	n := len(line) - 2
	if n < 0 || line[n] != '\r' || bytes.IndexByte(line[:n], '\r') >= 0 {
		return nil, protocolError("a header line that does not end in CRLF")
	}
	return line[:n], nil
}

// body reads the content of a response.
type body struct {
	in      *bufio.Reader
	left    int64 // of the content or of the chunk; negative: until the connection ends
	chunked bool
	started bool // a chunk has been read, so that its CRLF is due
	ended   bool // the content has been read to its end
}

// Read reads content as it comes: it waits only when there is none.
func (b *body) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
		if b.ended {
			return 0, io.EOF
		}
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.in.Read(p)
	if b.left >= 0 {
		b.left -= int64(n)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		b.ended = b.left == 0 && !b.chunked
	} else if err == io.EOF {
		b.ended = true
	}
	return n, err
}

// nextChunk reads the line before a chunk, and after the last one the trailer
// (RFC 9112, section 7.1).
func (b *body) nextChunk() error {
	budget := maxHeader
	if b.started {
		line, err := readLine(b.in, &budget)
		if err != nil {
			return unexpected(err)
		}
		if len(line) != 0 {
			return protocolError("a chunk longer than it said")
		}
	}
	b.started = true
	line, err := readLine(b.in, &budget)
	if err != nil {
		return unexpected(err)
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	size = trim(size)
	if len(size) == 0 || len(size) > 12 {
		return protocolError("a chunk size that is not a number")
	}
	for _, d := range size {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return protocolError("a chunk size that is not a number")
		}
		b.left = b.left<<4 | int64(d)
	}
	if b.left > 0 {
		return nil
	}
	for {
		line, err := readLine(b.in, &budget)
		if err != nil {
			return unexpected(err)
		}
		if len(line) == 0 {
			b.ended = true
			return nil
		}
		if _, _, err := field(line); err != nil {
			return err
		}
	}
}

// readAll reads the content to its end. More than limit bytes are errTooLarge.
func (b *body) readAll(limit int) ([]byte, error) {
	if !b.chunked && b.left >= 0 {
		if b.left > int64(limit) {
			return nil, errTooLarge
		}
		content := make([]byte, b.left)
		if _, err := io.ReadFull(b, content); err != nil {
			return nil, unexpected(err)
		}
		return content, nil
	}
	content := make([]byte, 0, 1<<10)
	for {
		if b.chunked && b.left > 0 {
			if b.left > int64(limit-len(content)) {
				return nil, errTooLarge
			}
			content = slices.Grow(content, int(b.left)+1)
		} else if len(content) == cap(content) {
			content = slices.Grow(content, 1<<10)
		}
		n, err := b.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		if len(content) > limit {
			return nil, errTooLarge
		}
		if err == io.EOF {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var errTooLarge = errors.New("too large")

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// timedOut reports whether err is a deadline of this end.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// fold reports whether b is lower, but for the case of ASCII letters.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// trim cuts spaces and tabs from both ends: RFC 9110's OWS.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// tokenByte holds the bytes of a token (RFC 9110, section 5.6.2).
var tokenByte = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()
