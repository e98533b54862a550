package upstream

import (
	"bufio"
	"context"
	"crypto/x509"
	"io"
	"net"
	"sallyport"
	"strings"
	"time"

	"sallyport/internal/gateway"
)

// Trust makes the stage trust the certificates for its https upstreams.
func Trust(s *Stage, roots *x509.CertPool) { s.roots = roots }

// Patience sets how long sessions of clients without are kept, and how long an
// upstream's question waits for its client.
func Patience(s *Stage, idle, hold time.Duration) { s.bridgeIdle, s.holdFor = idle, hold }

// Gather sets how long an upstream may take to ask all that it asks at once.
func Gather(s *Stage, long time.Duration) { s.gatherFor = long }

// MaxBridged is how many of those sessions one owner has.
const MaxBridged = maxBridged

// Crowd sets how many of those sessions a backend has.
func Crowd(b gateway.Backend, most int) { b.(*upstream).bridge.most = most }

// Answered is a response as the HTTP/1.1 client of this package reads it.
type Answered struct {
	Status int
	Last   bool
	Body   []byte
}

// ReadResponse reads one response.
func ReadResponse(r io.Reader, limit int) (Answered, error) {
	c := &conn{in: bufio.NewReaderSize(r, maxHeaderLine)}
	if err := c.receive(); err != nil {
		return Answered{}, err
	}
	a := Answered{Status: c.head.status, Last: c.head.last}
	var err error
	a.Body, err = c.body.readAll(limit)
	return a, err
}

// FindID returns the id that is found in a line that is too long to be kept,
// which arrives in pieces of n bytes.
func FindID(line []byte, n int) string {
	var f idFinder
	for len(line) > n {
		f.feed(line[:n])
		line = line[n:]
	}
	f.feed(line)
	return string(f.id)
}

// Lines reads lines of at most max bytes until an error that is not about one
// line, which it returns. Of a line that is too long it keeps "too long: " and
// the id.
func Lines(r io.Reader, max int) (got []string, err error) {
	l := &lines{in: bufio.NewReaderSize(r, 16), max: max}
	for {
		line, err := l.next()
		if e, ok := err.(*tooLongError); ok {
			got = append(got, "too long: "+e.id)
			continue
		}
		if err != nil {
			return got, err
		}
		got = append(got, string(line))
	}
}

// Waits returns how long is waited after each of a row of children that lived
// for so long.
func Waits(lived ...time.Duration) []time.Duration {
	var b backoff
	var waits []time.Duration
	now := time.Unix(0, 0)
	for _, l := range lived {
		b.failed(now, l)
		waits = append(waits, b.until.Sub(now))
	}
	return waits
}

// Keeps returns how long connections are kept after each of a row of them was
// found dead, having been idle for so long.
func Keeps(idle ...time.Duration) []time.Duration {
	p := newPool("", nil)
	var keeps []time.Duration
	for _, d := range idle {
		p.learn(d)
		keeps = append(keeps, p.keep)
	}
	return keeps
}

// KeepAlive returns how long a connection is kept that came with this field.
func KeepAlive(value string) time.Duration { return keepAlive([]byte(value)) }

const (
	MaxSessions = maxSessions
	StderrLines = stderrLines
)

// TestBroker is a broker apart from any upstream.
type TestBroker struct{ b *broker }

// NewTestBroker returns one that reaches its authorization server through dial. With
// a key it names persons, and all that is secret is that key.
func NewTestBroker(ctx context.Context, key string, dial func(context.Context) (net.Conn, error)) TestBroker {
	s := NewStage(Config{Secret: func(string) (string, error) { return key, nil }})
	s.ctx = ctx
	o := sallyport.OAuth{URL: "http://issuer/token", Grant: "client_credentials", Client: "c", Secret: "env:s"}
	if key != "" {
		o.Grant, o.Person = "token_exchange", sallyport.OAuthPerson{Key: "env:k", Issuer: "i"}
	}
	u := &upstream{stage: s, log: s.config.Log, transport: sallyport.Transport{OAuth: o}}
	b, err := newBroker(u)
	if err != nil {
		panic(err)
	}
	b.pool.dialer = dial
	return TestBroker{b}
}

// Token is what the broker has for a person.
func (t TestBroker) Token(ctx context.Context, person sallyport.PersonID) (string, error) {
	token, _, err := t.Lent(ctx, person)
	return token, err
}

// Lent is what the broker has for a person, and how it is told that it was not
// accepted.
func (t TestBroker) Lent(ctx context.Context, person sallyport.PersonID) (token string, reject func(), err error) {
	l, err := t.b.token(ctx, person)
	if err != nil {
		return "", nil, err
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(l.field), "Authorization: Bearer "), "\r\n"), func() { t.b.reject(l) }, nil
}

// ParseToken reads the answer of a token endpoint.
func ParseToken(body []byte) (token string, life time.Duration, code string, err error) {
	g, code, err := parseToken(body)
	return g.token, g.life, code, err
}

// Assert signs with a key in PEM, and returns the key's thumbprint, too.
func Assert(pem, id, issuer, subject, audience string, now time.Time) (text, thumbprint string, err error) {
	k, err := parseAssertionKey(pem)
	if err != nil {
		return "", "", err
	}
	text, err = k.assert(id, newClaims(issuer, subject, audience, now))
	return text, k.thumbprint, err
}

const (
	MaxAccounts = maxAccounts
	MaxAsking   = maxAsking
)

// Accounts is how many the broker keeps.
func (t TestBroker) Accounts() int {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	return len(t.b.accounts)
}
