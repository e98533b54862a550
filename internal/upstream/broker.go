package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport/internal/wire"
)

const (
	// askTimeout bounds how long an authorization server may take.
	askTimeout = 10 * time.Second
	// maxTokenBody bounds its answer, maxToken the token in it.
	maxTokenBody = 256 << 10
	maxToken     = 16 << 10
	// shortToken is how long a token is used whose life nobody tells, longestToken
	// how long any is.
	shortToken   = time.Minute
	longestToken = 24 * time.Hour
	// renewBefore is how long before its end a token is asked for again, at most;
	// it is a tenth of its life if that is less.
	renewBefore = time.Minute
	// The wait after a server that gave no token: it doubles.
	firstPause, longestPause = time.Second, 30 * time.Second
	// oneRenewal is how long a token that replaced one the upstream did not accept
	// is kept even if it is not accepted either: what is wrong is not the token.
	oneRenewal = time.Minute
)

// broker has the bearer token of one upstream in one stage. It proves itself to
// the authorization server of that stage with what that stage's configuration
// refers to, and with nothing of a caller's. What it has it keeps in memory alone.
//
// One request is under way at most. While a token is still good, those who need it
// do not wait for the next one.
type broker struct {
	up   *upstream
	pool *pool // that dials the token endpoint; nothing is kept open
	head []byte
	now  func() time.Time

	mu      sync.Mutex
	have    *lent
	asking  *asking
	pause   time.Duration
	refused error // the last one, until retry
	retry   time.Time
	again   bool // the token is there because another was not accepted
}

// lent is a token: good until the end, asked for again at renew.
type lent struct {
	token      string
	got        time.Time
	renew, end time.Time
}

// asking is one request for a token, which all who need it wait for.
type asking struct {
	done  chan struct{}
	token *lent
	err   error
}

func newBroker(u *upstream) (*broker, error) {
	o := &u.transport.OAuth
	at, err := url.Parse(o.URL)
	switch {
	case err != nil || at.Hostname() == "" || at.User != nil || at.Fragment != "" || at.Scheme != "https" && at.Scheme != "http",
		err == nil && (!visible(at.Host) || !visible(at.RequestURI())):
		return nil, u.misconfigured("the url of its authorization server is not one")
	case u.transport.Credential != "":
		return nil, u.misconfigured("it has both a credential and an authorization server")
	case o.Grant != "client_credentials" && o.Grant != "token_exchange":
		return nil, u.misconfigured("its grant is none that is spoken")
	case (o.Grant == "token_exchange") != (o.Subject != ""):
		return nil, u.misconfigured("a subject and the grant token_exchange go together")
	case o.Auth != "" && o.Auth != "basic" && o.Auth != "post":
		return nil, u.misconfigured("how it proves itself to its authorization server is not known")
	case o.Client == "" || !isReference(o.Secret) || o.Subject != "" && !isReference(o.Subject):
		return nil, u.misconfigured("it has no client, or what should be references to secrets are none")
	}
	address, config, ok := u.stage.dialed(at)
	if !ok {
		return nil, u.misconfigured("the url of its authorization server is not one")
	}
	head := "POST " + at.RequestURI() + " HTTP/1.1\r\nHost: " + at.Host + "\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n" +
		"Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	return &broker{up: u, pool: newPool(address, config), head: []byte(head), now: time.Now}, nil
}

// token returns a token to use now, and until when. Its error is a refusal that
// holds no secret.
func (b *broker) token() (string, time.Time, error) {
	b.mu.Lock()
	now := b.now()
	if b.have != nil && !now.Before(b.have.end) {
		b.have = nil
	}
	have := b.have
	if have != nil && now.Before(have.renew) {
		b.mu.Unlock()
		return have.token, have.renew, nil
	}
	if b.asking == nil && now.Before(b.retry) {
		err := b.refused
		b.mu.Unlock()
		if have != nil {
			return have.token, have.end, nil
		}
		return "", time.Time{}, err
	}
	a := b.asking
	if a == nil {
		a = &asking{done: make(chan struct{})}
		b.asking = a
		if !b.up.stage.aside(func() { b.ask(a) }) {
			b.asking = nil
			b.mu.Unlock()
			return "", time.Time{}, shuttingDown()
		}
	}
	b.mu.Unlock()
	if have != nil {
		return have.token, have.end, nil
	}
	<-a.done
	if a.err != nil {
		return "", time.Time{}, a.err
	}
	return a.token.token, a.token.renew, nil
}

// reject is told that the upstream did not accept a token. It is replaced once.
func (b *broker) reject(token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have == nil || b.have.token != token || b.again && b.now().Sub(b.have.got) < oneRenewal {
		return
	}
	b.have, b.again = nil, true
}

func (b *broker) ask(a *asking) {
	ctx, cancel := context.WithTimeout(b.up.stage.ctx, askTimeout)
	defer cancel()
	a.token, a.err = b.request(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asking = nil
	if a.err != nil {
		b.pause = min(max(2*b.pause, firstPause), longestPause)
		b.refused, b.retry = a.err, b.now().Add(b.pause)
		b.up.note(a.err)
	} else {
		if b.have != nil {
			b.again = false // replaced because of its age
		}
		b.have, b.pause, b.retry = a.token, 0, time.Time{}
	}
	close(a.done)
}

// unissued is why there is no token. Nothing of it is a secret: neither what the
// server said at length nor what it was sent.
func unissued(why string) error {
	return unavailable("this gateway gets no credential for the system behind this tool: "+why, "ask an operator to look at its authorization server", false)
}

// request asks for a token once.
func (b *broker) request(ctx context.Context) (*lent, error) {
	o := &b.up.transport.OAuth
	secret, err := b.up.resolve("client secret", o.Secret)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if o.Grant == "token_exchange" {
		subject, err := b.up.resolve("subject token", o.Subject)
		if err != nil {
			return nil, err
		}
		form.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
		form.Set("subject_token", subject)
		form.Set("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
		if o.SubjectType != "" {
			form.Set("subject_token_type", o.SubjectType)
		}
		form.Set("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
	}
	for name, value := range map[string]string{"scope": o.Scope, "audience": o.Audience, "resource": o.Resource} {
		if value != "" {
			form.Set(name, value)
		}
	}
	proof := ""
	if o.Auth == "post" {
		form.Set("client_id", o.Client)
		form.Set("client_secret", secret)
	} else { // RFC 6749, section 2.3.1: both are form-encoded first
		pair := url.QueryEscape(o.Client) + ":" + url.QueryEscape(secret)
		proof = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) + "\r\n"
	}
	asked := b.now()
	status, body, err := b.post(ctx, proof, []byte(form.Encode()))
	switch {
	case b.up.stage.ctx.Err() != nil:
		return nil, shuttingDown()
	case ctx.Err() != nil || timedOut(err):
		return nil, unissued("its authorization server does not answer in time")
	case err != nil:
		return nil, unissued("its authorization server cannot be reached, or does not speak HTTP")
	case status >= 300 && status < 400:
		return nil, unissued("its authorization server redirects, which is never followed")
	}
	grant, code, err := parseToken(body)
	switch {
	case status != 200 && code != "":
		return nil, unissued(fmt.Sprintf("its authorization server answers with status %d, %s", status, code))
	case status != 200:
		return nil, unissued(fmt.Sprintf("its authorization server answers with status %d", status))
	case err != nil:
		return nil, unissued("its authorization server's answer is no token: " + err.Error())
	}
	life := grant.life
	switch {
	case life <= 0:
		life = shortToken
	case life > longestToken:
		life = longestToken
	}
	early := min(life/10, renewBefore)
	early += time.Duration(rand.Int64N(int64(early)/2 + 1)) // so that replicas do not ask at one time
	return &lent{token: grant.token, got: asked, renew: asked.Add(life - early), end: asked.Add(life - early/4)}, nil
}

// post sends one request on a connection of its own and follows nothing.
func (b *broker) post(ctx context.Context, proof string, form []byte) (status int, body []byte, err error) {
	c, err := b.pool.get(ctx, true)
	if err != nil {
		return 0, nil, err
	}
	defer c.close()
	release := c.watch(ctx)
	defer release()
	c.out = append(append(c.out[:0], b.head...), proof...)
	c.out = append(strconv.AppendInt(append(c.out, "Content-Length: "...), int64(len(form)), 10), "\r\n\r\n"...)
	if _, err := c.send(form); err != nil {
		return 0, nil, err
	}
	if err := c.receive(); err != nil {
		return 0, nil, err
	}
	if c.head.coded {
		return 0, nil, protocolError("its answer is compressed, which it was asked not to do")
	}
	body, err = c.body.readAll(maxTokenBody)
	return c.head.status, body, err
}

// grant is what an authorization server gave.
type grant struct {
	token string
	life  time.Duration // zero if it does not say
}

// oauthErrors are the codes that are repeated to people (RFC 6749, section 5.2;
// RFC 8693, section 2.2.2; RFC 8707, section 2). Any other could hold anything.
var oauthErrors = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true, "invalid_target": true, "temporarily_unavailable": true, "server_error": true,
}

// parseToken reads the answer of a token endpoint (RFC 6749, section 5; RFC 8693,
// section 2.2): a grant, or the code of an error. Its errors repeat nothing of it.
func parseToken(body []byte) (g grant, code string, err error) {
	var kind string
	text := func(to *string) func([]byte) error {
		return func(raw []byte) (err error) {
			*to, err = wire.DecodeString(raw)
			return err
		}
	}
	read := map[string]func([]byte) error{
		"access_token": text(&g.token),
		"token_type":   text(&kind),
		"error":        text(&code),
		"expires_in": func(raw []byte) error {
			s := strings.Trim(string(raw), `"`) // some write it as text
			n, err := strconv.ParseFloat(s, 64)
			if err != nil || !(n >= 0) {
				return errors.New("no number of seconds")
			}
			g.life = time.Duration(min(n, longestToken.Seconds())) * time.Second
			return nil
		},
	}
	problem := ""
	err = wire.Each(body, func(name string, value []byte) error {
		if f := read[name]; f != nil {
			if err := f(value); err != nil {
				problem = "its " + name + " cannot be read"
				return err
			}
		}
		return nil
	})
	if !oauthErrors[code] {
		code = ""
	}
	switch {
	case problem != "":
		return grant{}, code, errors.New(problem)
	case err != nil:
		return grant{}, code, errors.New("it is not a JSON object")
	case code != "":
		return grant{}, code, errors.New("it is an error")
	case g.token == "" || len(g.token) > maxToken || !visible(g.token):
		return grant{}, "", errors.New("it has no access_token that could be sent")
	case !strings.EqualFold(kind, "bearer"):
		return grant{}, "", errors.New("its token_type is not Bearer")
	}
	return g, "", nil
}
