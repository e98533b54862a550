package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/wire"
)

const (
	// askTimeout bounds how long an authorization server may take, turnTimeout how
	// long a request waits for others to end.
	askTimeout, turnTimeout = 10 * time.Second, 30 * time.Second
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
	// The wait after a server that gave no token: it doubles. A server may ask for
	// more, up to longestAsked.
	firstSilence, longestSilence, longestAsked = time.Second, 30 * time.Second, 5 * time.Minute
	// oneRenewal is how long a token that replaced one the upstream did not accept
	// is kept even if it is not accepted either: what is wrong is not the token.
	oneRenewal = time.Minute
	// maxAccounts bounds the persons whose tokens are kept, maxAsking the requests at
	// one time, maxPerson the name of a person in bytes.
	maxAccounts, maxAsking, maxPerson = 1024, 16, 254
)

// broker has the bearer tokens of one upstream in one stage: one for all, or one for
// each person on whose behalf runs act. It proves itself to the authorization server
// of that stage with what that stage's configuration refers to, and with nothing of
// a caller's. What it has it keeps in memory alone.
//
// For one account one request is under way at most. While a token is still good,
// those who need it do not wait for the next one.
type broker struct {
	up   *upstream
	pool *pool // that dials the token endpoint; nothing is kept open
	head []byte
	now  func() time.Time
	room chan struct{} // holds a place for each request under way

	mu       sync.Mutex
	accounts map[sallyport.PersonID]*account // under "" where no person is named
	down     silence                         // the server itself gives nobody a token
}

// account is for whom tokens are asked for.
type account struct {
	person sallyport.PersonID
	have   *lent
	asking *asking
	none   silence // the server works, and gives this one no token
	again  bool    // the token is there because another was not accepted
	used   time.Time
}

// lent is a token: good until the end, asked for again at renew.
type lent struct {
	person     sallyport.PersonID
	field      []byte // header field
	got        time.Time
	renew, end time.Time
}

// asking is one request for a token, which all who need it wait for.
type asking struct {
	done  chan struct{}
	token *lent
	err   error
}

// silence is the time in which nothing is asked after there was no token. It gets
// longer from one to the next.
type silence struct {
	why   error
	pause time.Duration
	until time.Time
}

func (s *silence) begin(m *missed, now time.Time) {
	s.pause = min(max(2*s.pause, firstSilence), longestSilence)
	s.why, s.until = m.why, now.Add(max(s.pause, min(m.wait, longestAsked)))
}

// missed is why there is no token.
type missed struct {
	why     error         // a refusal that holds no secret
	one     bool          // the server works: it is about the person
	unasked bool          // nothing new was learned of the server
	wait    time.Duration // what the server asks for
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
	case (o.Grant == "token_exchange") != (o.Subject != "" || !o.Person.None()), o.Subject != "" && !o.Person.None():
		return nil, u.misconfigured("the grant token_exchange goes with a subject or a person, and with one of them")
	case o.Auth != "" && o.Auth != "basic" && o.Auth != "post" && o.Auth != "private_key_jwt":
		return nil, u.misconfigured("how it proves itself to its authorization server is not known")
	case o.Client == "" || !isReference(o.Secret) || o.Subject != "" && !isReference(o.Subject):
		return nil, u.misconfigured("it has no client, or what should be references to secrets are none")
	case !o.Person.None() && (!isReference(o.Person.Key) || o.Person.Key == o.Secret || o.Person.Issuer == "" || o.Person.Issuer == o.Client):
		return nil, u.misconfigured("it names persons with a key or an issuer that is not for that alone")
	}
	address, config, ok := u.stage.dialed(at)
	if !ok {
		return nil, u.misconfigured("the url of its authorization server is not one")
	}
	head := "POST " + at.RequestURI() + " HTTP/1.1\r\nHost: " + at.Host + "\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n" +
		"Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	return &broker{
		up: u, pool: newPool(address, config), head: []byte(head), now: time.Now,
		room: make(chan struct{}, maxAsking), accounts: map[sallyport.PersonID]*account{},
	}, nil
}

// token returns a token to use now on behalf of a person. Those who have to wait for
// it do so no longer than ctx. Its errors are that of ctx and refusals, which hold no
// secret.
func (b *broker) token(ctx context.Context, person sallyport.PersonID) (*lent, error) {
	if b.up.transport.OAuth.Person.None() {
		person = ""
	} else if !nameable(person) {
		return nil, unsent(sallyport.NotPermitted, "the system behind this tool is used on behalf of a person, and this run names none",
			"have the host open the run with the person in its envelope")
	}
	b.mu.Lock()
	now := b.now()
	a := b.account(person, now)
	if a == nil {
		b.mu.Unlock()
		return nil, unavailable("this gateway waits for the credentials of too many persons", "call again later", false)
	}
	if a.have != nil && !now.Before(a.have.end) {
		a.have = nil
	}
	have := a.have
	if have != nil && now.Before(have.renew) {
		b.mu.Unlock()
		return have, nil
	}
	w := a.asking
	if w == nil {
		if err := b.ready(a, now); err != nil {
			b.mu.Unlock()
			if have != nil {
				return have, nil
			}
			return nil, err
		}
		w = &asking{done: make(chan struct{})}
		a.asking = w
		if !b.up.stage.aside(func() { b.ask(a, w) }) {
			a.asking = nil
			b.mu.Unlock()
			return nil, shuttingDown()
		}
	}
	b.mu.Unlock()
	if have != nil {
		return have, nil
	}
	select {
	case <-w.done:
		return w.token, w.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// nameable reports whether a person can be named to an authorization server: what
// is not text could be taken for somebody else there.
func nameable(person sallyport.PersonID) bool {
	text := string(person)
	return text != "" && len(text) <= maxPerson && utf8.ValidString(text) && strings.TrimSpace(text) == text &&
		!strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// account finds or makes the account of a person. Beyond maxAccounts the one that was
// not used for the longest time goes; nil if all are being waited for.
func (b *broker) account(person sallyport.PersonID, now time.Time) *account {
	a := b.accounts[person]
	if a == nil {
		if len(b.accounts) >= maxAccounts {
			var oldest *account
			for _, o := range b.accounts {
				if o.asking == nil && (oldest == nil || o.used.Before(oldest.used)) {
					oldest = o
				}
			}
			if oldest == nil {
				return nil
			}
			delete(b.accounts, oldest.person)
		}
		a = &account{person: person}
		b.accounts[person] = a
	}
	a.used = now
	return a
}

// ready returns why nothing may be asked for an account now. When the silence of a
// server is over, one account finds out for all whether it works again.
func (b *broker) ready(a *account, now time.Time) error {
	switch {
	case now.Before(b.down.until):
		return b.down.why
	case now.Before(a.none.until):
		return a.none.why
	case b.down.pause > 0:
		b.down.until = now.Add(askTimeout)
	}
	return nil
}

// reject is told that the upstream did not accept a token. It is replaced once.
func (b *broker) reject(l *lent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[l.person]
	if a == nil || a.have != l || a.again && b.now().Sub(l.got) < oneRenewal {
		return
	}
	a.have, a.again = nil, true
}

func (b *broker) ask(a *account, w *asking) {
	token, m := b.inTurn(a.person)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	a.asking = nil
	switch {
	case m == nil:
		if a.have != nil {
			a.again = false // replaced because of its age
		}
		a.have, a.none, b.down = token, silence{}, silence{}
	case m.unasked:
	case m.one:
		a.none.begin(m, now)
		b.down = silence{}
	default:
		b.down.begin(m, now)
	}
	if w.token = token; m != nil {
		w.err = m.why
		b.up.note(m.why)
	}
	close(w.done)
}

// inTurn asks for a token when there is room for a request, unless it turned out
// meanwhile that the server gives none.
func (b *broker) inTurn(person sallyport.PersonID) (*lent, *missed) {
	stop := b.up.stage.ctx
	select {
	case b.room <- struct{}{}:
	default:
		ctx, cancel := context.WithTimeout(stop, turnTimeout)
		defer cancel()
		select {
		case b.room <- struct{}{}:
		case <-ctx.Done():
			return nil, &missed{unasked: true, why: b.unissued("too many are asked for at one time")}
		}
		b.mu.Lock()
		silent, why := b.now().Before(b.down.until), b.down.why
		b.mu.Unlock()
		if silent && why != nil {
			<-b.room
			return nil, &missed{unasked: true, why: why}
		}
	}
	defer func() { <-b.room }()
	ctx, cancel := context.WithTimeout(stop, askTimeout)
	defer cancel()
	token, m := b.request(ctx, person)
	if m != nil && stop.Err() != nil {
		m = &missed{unasked: true, why: shuttingDown()}
	}
	return token, m
}

// unsent is a refusal of a call that was not sent.
func unsent(code sallyport.Code, reason, hint string) *sallyport.Refusal {
	r := sallyport.Refuse(code, reason, hint)
	r.Detail = map[string]any{"sent": false}
	return r
}

// unissued is why there is no token. Nothing of it is a secret: neither what the
// server said at length nor what it was sent.
func (b *broker) unissued(why string) error {
	return unavailable("this gateway gets no credential for the system behind this tool: "+why, "ask an operator to look at its authorization server", false)
}

// secret resolves a reference. What does not come (a pipe, a dead mount) is waited
// for no longer than ctx.
func (b *broker) secret(ctx context.Context, what, ref string) (text string, err error) {
	done := make(chan struct{})
	var found string
	var failed error
	go func() {
		defer close(done)
		found, failed = b.up.resolve(what, ref)
	}()
	select {
	case <-done:
		return found, failed
	case <-ctx.Done():
		return "", b.unissued("its " + what + " cannot be read in time")
	}
}

// key resolves a reference to a private key.
func (b *broker) key(ctx context.Context, what, ref string) (*assertionKey, error) {
	text, err := b.secret(ctx, what, ref)
	if err != nil {
		return nil, err
	}
	k, err := parseAssertionKey(text)
	if err != nil {
		return nil, b.up.misconfigured("its " + what + ": " + err.Error())
	}
	return k, nil
}

const (
	accessTokenType = "urn:ietf:params:oauth:token-type:access_token"
	jwtType         = "urn:ietf:params:oauth:token-type:jwt"
)

// form is what is asked, and the header field by which the client proves itself if
// it does not in the form. What it signs is for the authorization server alone.
func (b *broker) form(ctx context.Context, person sallyport.PersonID) (form url.Values, proof string, err error) {
	o := &b.up.transport.OAuth
	audience, now := o.Issuer, b.now()
	if audience == "" {
		audience = o.URL
	}
	form = url.Values{"grant_type": {"client_credentials"}}
	for name, value := range map[string]string{"scope": o.Scope, "audience": o.Audience, "resource": o.Resource} {
		if value != "" {
			form.Set(name, value)
		}
	}
	var own *assertionKey // the client's
	if o.Auth == "private_key_jwt" {
		if own, err = b.key(ctx, "client key", o.Secret); err != nil {
			return nil, "", err
		}
		// RFC 7523, sections 2.2 and 3.
		assertion, err := own.assert(o.KeyID, newClaims(o.Client, o.Client, audience, now))
		if err != nil {
			return nil, "", b.up.misconfigured("its client key does not sign")
		}
		form.Set("client_id", o.Client)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	} else {
		secret, err := b.secret(ctx, "client secret", o.Secret)
		if err != nil {
			return nil, "", err
		}
		if o.Auth == "post" {
			form.Set("client_id", o.Client)
			form.Set("client_secret", secret)
		} else { // RFC 6749, section 2.3.1: both are form-encoded first
			pair := url.QueryEscape(o.Client) + ":" + url.QueryEscape(secret)
			proof = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) + "\r\n"
		}
	}
	if o.Grant != "token_exchange" {
		return form, proof, nil
	}
	form.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
	form.Set("requested_token_type", accessTokenType)
	subject, kind := "", jwtType
	if o.Person.None() {
		if kind = o.SubjectType; kind == "" {
			kind = accessTokenType
		}
		if subject, err = b.secret(ctx, "subject token", o.Subject); err != nil {
			return nil, "", err
		}
	} else {
		key, err := b.key(ctx, "key that names persons", o.Person.Key)
		if err != nil {
			return nil, "", err
		}
		if own != nil && own.thumbprint == key.thumbprint {
			return nil, "", b.up.misconfigured("the key that names persons is the client's own: each is for one thing")
		}
		if subject, err = key.assert(o.Person.KeyID, newClaims(o.Person.Issuer, string(person), audience, now)); err != nil {
			return nil, "", b.up.misconfigured("its key that names persons does not sign")
		}
	}
	form.Set("subject_token", subject)
	form.Set("subject_token_type", kind)
	return form, proof, nil
}

// request asks for a token once.
func (b *broker) request(ctx context.Context, person sallyport.PersonID) (*lent, *missed) {
	form, proof, err := b.form(ctx, person)
	if err != nil {
		return nil, &missed{why: err}
	}
	none := func(why string) *missed { return &missed{why: b.unissued(why)} }
	asked := b.now()
	got, err := b.post(ctx, proof, []byte(form.Encode()))
	switch {
	case ctx.Err() != nil || timedOut(err):
		return nil, none("its authorization server does not answer in time")
	case err != nil:
		return nil, none("its authorization server cannot be reached, or does not speak HTTP")
	case got.status >= 300 && got.status < 400:
		return nil, none("its authorization server redirects, which is never followed")
	}
	grant, code, err := parseToken(got.body)
	if got.status != 200 {
		why := fmt.Sprintf("its authorization server answers with status %d", got.status)
		if code != "" {
			why += ", " + code
		}
		if person != "" && got.status < 500 && aboutOne[code] {
			return nil, &missed{one: true, why: unsent(sallyport.NotPermitted,
				"this gateway gets no credential on behalf of the person of this run: "+why, "ask an operator whether that person may use the system behind this tool")}
		}
		m := none(why)
		m.wait = time.Duration(got.retryAfter) * time.Second
		return nil, m
	}
	if err != nil {
		return nil, none("its authorization server's answer is no token: " + err.Error())
	}
	if o := &b.up.transport.OAuth; o.Grant == "token_exchange" && grant.issued != "" && grant.issued != accessTokenType && grant.issued != jwtType {
		return nil, none("its authorization server's answer is a token of another type than was asked for")
	}
	life := grant.life
	switch {
	case life <= 0:
		life = shortToken
	case life > longestToken:
		life = longestToken
	}
	early := min(life/10, renewBefore)
	early += time.Duration(mathrand.Int64N(int64(early)/2 + 1)) // so that replicas do not ask at one time
	return &lent{
		person: person, field: []byte("Authorization: Bearer " + grant.token + "\r\n"),
		got: asked, renew: asked.Add(life - early), end: asked.Add(life - early/4),
	}, nil
}

// reply is what a token endpoint answers.
type reply struct {
	status     int
	retryAfter int // seconds
	body       []byte
}

// post sends one request on a connection of its own and follows nothing.
func (b *broker) post(ctx context.Context, proof string, form []byte) (reply, error) {
	c, err := b.pool.get(ctx, true)
	if err != nil {
		return reply{}, err
	}
	defer c.close()
	release := c.watch(ctx)
	defer release()
	c.out = append(append(c.out[:0], b.head...), proof...)
	c.out = append(strconv.AppendInt(append(c.out, "Content-Length: "...), int64(len(form)), 10), "\r\n\r\n"...)
	if _, err := c.send(form); err != nil {
		return reply{}, err
	}
	if err := c.receive(); err != nil {
		return reply{}, err
	}
	if c.head.coded {
		return reply{}, protocolError("its answer is compressed, which it was asked not to do")
	}
	body, err := c.body.readAll(maxTokenBody)
	return reply{c.head.status, c.head.retryAfter, body}, err
}

// grant is what an authorization server gave.
type grant struct {
	token  string
	issued string        // its type, of an exchange
	life   time.Duration // zero if it does not say
}

// oauthErrors are the codes that are repeated to people (RFC 6749, section 5.2;
// RFC 8693, section 2.2.2; RFC 8707, section 2). Any other could hold anything.
var oauthErrors = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true, "invalid_target": true, "access_denied": true, "temporarily_unavailable": true, "server_error": true,
}

// aboutOne are those of them that may say something of the person who is named, and
// not of the client that asks.
var aboutOne = map[string]bool{"invalid_request": true, "invalid_grant": true, "invalid_scope": true, "invalid_target": true, "access_denied": true}

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

		"issued_token_type": text(&g.issued),
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
