package upstream_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
)

// issuer is the token endpoint of an authorization server.
type issuer struct {
	*httptest.Server
	mu    sync.Mutex
	forms []url.Values
	auths []string
}

func newIssuer(t testing.TB, answer func(w http.ResponseWriter, n int)) *issuer {
	t.Helper()
	i := &issuer{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("a token request: %s %v", r.Method, err)
		}
		i.mu.Lock()
		i.forms, i.auths = append(i.forms, form), append(i.auths, r.Header.Get("Authorization"))
		n := len(i.forms)
		i.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		answer(w, n)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.forms)
}

func issue(w http.ResponseWriter, n int) {
	fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, n)
}

// secrets resolve to what they are called, behind a word that must never be seen.
func secretsOf(ref string) (string, error) {
	if strings.Contains(ref, "missing") {
		return "", errors.New("no such secret")
	}
	return "hush:" + ref, nil
}

// bearers is an MCP server that accepts some bearer tokens.
func bearers(t testing.TB, accepts func(token string) bool) (*site, *sync.Map) {
	t.Helper()
	seen := &sync.Map{}
	return newSite(t, func(w http.ResponseWriter, r received) {
		token := strings.TrimPrefix(r.header.Get("Authorization"), "Bearer ")
		n, _ := seen.LoadOrStore(token, &atomic.Int64{})
		n.(*atomic.Int64).Add(1)
		if !accepts(token) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		echo(w, r)
	}), seen
}

func brokered(s *site, i *issuer) sallyport.Transport {
	t := at(s)
	t.OAuth = sallyport.OAuth{URL: i.URL + "/token", Grant: "client_credentials", Client: "gate way", Secret: "file:client", Scope: "a b", Audience: "crm"}
	return t
}

func all(string) bool { return true }

func TestBrokerClientCredentials(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	s, seen := bearers(t, all)
	b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
	for n := range 5 {
		do(t, b, stateless(t, fmt.Sprint(n), "echo", `{}`))
	}
	if i.asked() != 1 {
		t.Fatalf("%d tokens for one upstream", i.asked())
	}
	f := i.forms[0]
	if got := f.Encode(); got != "audience=crm&grant_type=client_credentials&scope=a+b" {
		t.Errorf("it was asked with %s", got)
	}
	r := http.Request{Header: http.Header{"Authorization": {i.auths[0]}}}
	if user, pass, _ := r.BasicAuth(); user != "gate+way" || pass != "hush%3Afile%3Aclient" {
		t.Errorf("the client proved itself as %q %q", user, pass)
	}
	if n, ok := seen.Load("token-1"); !ok || n.(*atomic.Int64).Load() != 5 {
		t.Error("the token is not what the upstream got")
	}
}

func TestBrokerPostAndExchange(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	s, _ := bearers(t, all)
	transport := brokered(s, i)
	transport.OAuth = sallyport.OAuth{URL: i.URL, Grant: "token_exchange", Client: "c", Secret: "env:client", Auth: "post",
		Subject: "file:subject", SubjectType: "urn:ietf:params:oauth:token-type:jwt", Resource: "https://crm.example.com"}
	do(t, backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), transport), stateless(t, "1", "echo", `{}`))
	want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "client_id": {"c"}, "client_secret": {"hush:env:client"},
		"subject_token": {"hush:file:subject"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "resource": {"https://crm.example.com"}}
	if got := i.forms[0].Encode(); got != want.Encode() || i.auths[0] != "" {
		t.Errorf("it was asked with %s, %q", got, i.auths[0])
	}
}

// TestBrokerTakesWhatItAskedFor: an exchange that gives something else than an
// access token gives nothing that could be sent.
func TestBrokerTakesWhatItAskedFor(t *testing.T) {
	t.Parallel()
	for kind, good := range map[string]bool{"access_token": true, "jwt": true, "refresh_token": false, "id_token": false, "saml2": false} {
		i := newIssuer(t, func(w http.ResponseWriter, _ int) {
			fmt.Fprintf(w, `{"access_token":"x","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:%s"}`, kind)
		})
		s, _ := bearers(t, all)
		transport := brokered(s, i)
		transport.OAuth.Grant, transport.OAuth.Subject = "token_exchange", "file:subject"
		_, err := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), transport).Do(within(t), stateless(t, "1", "echo", `{}`))
		if good != (err == nil) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestBrokerAsksOnce: many calls that need a token at one time ask for one, and
// one that gives up does not take it from the others.
func TestBrokerAsksOnce(t *testing.T) {
	t.Parallel()
	asked, go_ := make(chan struct{}), make(chan struct{})
	i := newIssuer(t, func(w http.ResponseWriter, n int) {
		close(asked)
		<-go_
		issue(w, n)
	})
	s, _ := bearers(t, all)
	b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
	ctx, cancel := context.WithCancel(within(t))
	impatient := make(chan error, 1)
	go func() {
		_, err := b.Do(ctx, stateless(t, "1", "echo", `{}`))
		impatient <- err
	}()
	<-asked
	var calls sync.WaitGroup
	for n := range 8 {
		r := stateless(t, fmt.Sprint(n+2), "echo", `{}`)
		calls.Go(func() {
			if _, err := b.Do(within(t), r); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	refused(t, <-impatient, sallyport.Cancelled, false)
	close(go_)
	calls.Wait()
	if i.asked() != 1 {
		t.Errorf("%d tokens", i.asked())
	}
}

// TestBrokerRenewsOnce: a token that is not accepted is replaced once; if the next
// one is not accepted either, the authorization server is left alone.
func TestBrokerRenewsOnce(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	s, _ := bearers(t, func(token string) bool { return token == "token-2" })
	b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
	_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, true)
	do(t, b, stateless(t, "2", "echo", `{}`))
	if i.asked() != 2 {
		t.Errorf("%d tokens", i.asked())
	}

	i = newIssuer(t, issue)
	s, _ = bearers(t, func(string) bool { return false })
	b = backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
	for n := range 6 {
		_, err := b.Do(within(t), stateless(t, fmt.Sprint(n), "echo", `{}`))
		refused(t, err, sallyport.UpstreamUnavailable, true)
	}
	if i.asked() != 2 {
		t.Errorf("%d tokens for an upstream that takes none", i.asked())
	}
}

// TestBrokerRefusals: whatever an authorization server does, a call that gets no
// token is not sent, and nobody is told a secret.
func TestBrokerRefusals(t *testing.T) {
	t.Parallel()
	elsewhere := newIssuer(t, issue)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, n int)
		want   string
	}{
		"redirect": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, "redirects"},
		"error": {func(w http.ResponseWriter, _ int) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"hush:file:client is wrong"}`)
		}, "status 400, invalid_client"},
		"own error": {func(w http.ResponseWriter, _ int) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"error":"hush:file:client"}`)
		}, "status 401"},
		"lie":     {func(w http.ResponseWriter, _ int) { _, _ = io.WriteString(w, `{"error":"invalid_scope"}`) }, "is an error"},
		"down":    {func(w http.ResponseWriter, _ int) { w.WriteHeader(503) }, "status 503"},
		"html":    {func(w http.ResponseWriter, _ int) { _, _ = io.WriteString(w, `<html>hush`) }, "not a JSON object"},
		"nothing": {func(w http.ResponseWriter, _ int) { _, _ = io.WriteString(w, `{"token_type":"Bearer"}`) }, "no access_token"},
		"other type": {func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"access_token":"hush","token_type":"mac"}`)
		}, "not Bearer"},
		"two lines": {func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"access_token":"hush\r\nX: y","token_type":"Bearer"}`)
		}, "no access_token"},
		"twice": {func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"access_token":"hush","access_token":"b","token_type":"Bearer"}`)
		}, "not a JSON object"},
		"number": {func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"access_token":7,"token_type":"Bearer"}`)
		}, "access_token cannot be read"},
		"large":  {func(w http.ResponseWriter, _ int) { _, _ = io.WriteString(w, strings.Repeat("hush", 100_000)) }, "cannot be reached, or does not speak"},
		"hangup": {func(http.ResponseWriter, int) { panic(http.ErrAbortHandler) }, "cannot be reached, or does not speak"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t, c.answer)
			s, seen := bearers(t, all)
			stage := newStageWith(t, upstream.Config{Secret: secretsOf})
			b := backend(t, stage, brokered(s, i))
			for range 3 {
				r := stateless(t, "1", "echo", `{}`)
				r.BeforeWrite = func() error { t.Error("about to write without a token"); return nil }
				_, err := b.Do(within(t), r)
				said := refused(t, err, sallyport.UpstreamUnavailable, false)
				if !strings.Contains(said.Reason, c.want) {
					t.Errorf("%v, want something about %q", said, c.want)
				}
				if text := fmt.Sprint(said, status(t, stage)); strings.Contains(text, "hush") {
					t.Errorf("a secret is told: %s", text)
				}
			}
			// It is not asked again at once.
			if i.asked() != 1 {
				t.Errorf("%d requests for tokens", i.asked())
			}
			seen.Range(func(k, _ any) bool { t.Errorf("the upstream was reached with %q", k); return true })
		})
	}
	t.Cleanup(func() {
		if n := elsewhere.asked(); n > 0 {
			t.Errorf("a redirect was followed %d times", n)
		}
	})
	i := newIssuer(t, issue)
	s, _ := bearers(t, all)
	transport := brokered(s, i)
	transport.OAuth.Secret = "file:missing"
	_, err := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), transport).Do(within(t), stateless(t, "1", "echo", `{}`))
	refused(t, err, sallyport.BadConfig, false)
	if i.asked() > 0 {
		t.Error("it was asked without a secret")
	}
}

// TestBrokerMisconfigured is refused before anything is reached.
func TestBrokerMisconfigured(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	s, _ := bearers(t, all)
	for name, change := range map[string]func(*sallyport.Transport){
		"both":      func(u *sallyport.Transport) { u.Credential = "file:x" },
		"header":    func(u *sallyport.Transport) { u.Headers = map[string]string{"Authorization": "env:x"} },
		"grant":     func(u *sallyport.Transport) { u.OAuth.Grant = "password" },
		"subject":   func(u *sallyport.Transport) { u.OAuth.Subject = "file:x" },
		"exchange":  func(u *sallyport.Transport) { u.OAuth.Grant = "token_exchange" },
		"plain":     func(u *sallyport.Transport) { u.OAuth.Secret = "the secret itself" },
		"no client": func(u *sallyport.Transport) { u.OAuth.Client = "" },
		"auth":      func(u *sallyport.Transport) { u.OAuth.Auth = "none" },
		"scheme":    func(u *sallyport.Transport) { u.OAuth.URL = "ftp://x/y" },
		"user":      func(u *sallyport.Transport) { u.OAuth.URL = "http://a:b@x/y" },
		"command":   func(u *sallyport.Transport) { u.URL, u.Command = "", []string{"x"} },
		"person":    func(u *sallyport.Transport) { u.OAuth.Person = sallyport.OAuthPerson{Key: "file:k", Issuer: "i"} },
		"two": func(u *sallyport.Transport) {
			u.OAuth.Grant, u.OAuth.Subject, u.OAuth.Person = "token_exchange", "file:x", sallyport.OAuthPerson{Key: "file:k", Issuer: "i"}
		},
		"one key": func(u *sallyport.Transport) {
			u.OAuth.Grant, u.OAuth.Person = "token_exchange", sallyport.OAuthPerson{Key: u.OAuth.Secret, Issuer: "i"}
		},
		"plain key": func(u *sallyport.Transport) {
			u.OAuth.Grant, u.OAuth.Person = "token_exchange", sallyport.OAuthPerson{Key: "k", Issuer: "i"}
		},
		"no issuer": func(u *sallyport.Transport) {
			u.OAuth.Grant, u.OAuth.Person = "token_exchange", sallyport.OAuthPerson{Key: "file:k"}
		},
		"issuer": func(u *sallyport.Transport) {
			u.OAuth.Grant, u.OAuth.Person = "token_exchange", sallyport.OAuthPerson{Key: "file:k", Issuer: u.OAuth.Client}
		},
	} {
		transport := brokered(s, i)
		change(&transport)
		_, err := newStageWith(t, upstream.Config{Secret: secretsOf}).Backend(&sallyport.StageUpstream{ID: "crm", Transport: transport})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		refused(t, err, sallyport.BadConfig, false)
	}
}

// TestBrokerOverTime is the life of tokens, in a bubble whose clock stands still
// while anybody works.
func TestBrokerOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, give := 0, func() string { return `{"access_token":"t","token_type":"bearer","expires_in":100}` }
		var slow time.Duration
		b := upstream.NewTestBroker(t.Context(), "", func(ctx context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			asked++
			text, wait := give(), slow
			go func() {
				defer there.Close()
				r, err := http.ReadRequest(bufio.NewReader(there))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				time.Sleep(wait)
				fmt.Fprintf(there, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}()
			return here, nil
		})
		token := func(want string, times int) {
			t.Helper()
			began := time.Now()
			got, err := b.Token(t.Context(), "")
			if err != nil || got != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
			synctest.Wait()
			if asked != times {
				t.Fatalf("asked %d times, want %d (after %v)", asked, times, time.Since(began))
			}
		}
		token("t", 1)
		time.Sleep(80 * time.Second)
		token("t", 1)

		// Shortly before its end it is asked for again, and nobody waits for that.
		give, slow = func() string { return `{"access_token":"u","token_type":"bearer","expires_in":"1000"}` }, 3*time.Second
		time.Sleep(11 * time.Second)
		began := time.Now()
		token("t", 2)
		token("t", 2)
		if waited := time.Since(began); waited > 0 {
			t.Fatalf("calls waited %v for a token they did not need yet", waited)
		}
		time.Sleep(4 * time.Second)
		token("u", 2)

		// A server that fails then is asked again after a while, longer each time,
		// as long as the token is good, and after its end.
		slow = 0
		give = func() string { return `{}` }
		time.Sleep(945 * time.Second)
		token("u", 3)
		token("u", 3)
		time.Sleep(1100 * time.Millisecond)
		token("u", 4)
		time.Sleep(1100 * time.Millisecond)
		token("u", 4)
		time.Sleep(100 * time.Second)
		if _, err := b.Token(t.Context(), ""); err == nil {
			t.Fatal("a token that has ended is used")
		}
		give = func() string { return `{"access_token":"v","token_type":"bearer"}` }
		time.Sleep(time.Minute)
		token("v", 6)

		// One that is not said to last does not.
		time.Sleep(time.Minute)
		token("v", 7)

		// One that does not answer is not waited for without end.
		slow, give = time.Hour, func() string { return `{}` }
		time.Sleep(time.Minute)
		began = time.Now()
		if _, err := b.Token(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "in time") || time.Since(began) > 11*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestBrokerSignsForItself: a client that proves itself with a key signs a new
// assertion each time, for the authorization server alone (RFC 7523).
func TestBrokerSignsForItself(t *testing.T) {
	t.Parallel()
	k := newEdKey(t)
	for name, issuer := range map[string]string{"url": "", "issuer": "https://as.example.com"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t, issue)
			s, seen := bearers(t, func(token string) bool { return token == "token-2" })
			transport := brokered(s, i)
			transport.OAuth.Auth, transport.OAuth.Issuer, transport.OAuth.KeyID = "private_key_jwt", issuer, "gateway-1"
			b := backend(t, newStageWith(t, upstream.Config{Secret: func(string) (string, error) { return k.pem, nil }}), transport)
			_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
			refused(t, err, sallyport.UpstreamUnavailable, true)
			do(t, b, stateless(t, "2", "echo", `{}`))
			ids := map[string]bool{}
			for n, f := range i.forms {
				a := k.open(t, f.Get("client_assertion"))
				if want := or(issuer, transport.OAuth.URL); a.head.Kid != "gateway-1" || a.claims.Iss != "gate way" || a.claims.Sub != "gate way" || a.claims.Aud != want || a.claims.Exp-a.claims.Iat != 60 {
					t.Errorf("asserted %+v, want it to be for %s", a, want)
				}
				ids[a.claims.Jti] = true
				f.Del("client_assertion")
				want := "audience=crm&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_id=gate+way&grant_type=client_credentials&scope=a+b"
				if got := f.Encode(); got != want || i.auths[n] != "" {
					t.Errorf("it was asked with %s, %q", got, i.auths[n])
				}
			}
			if len(ids) != 2 {
				t.Errorf("%d assertions in two requests", len(ids))
			}
			seen.Range(func(token, _ any) bool {
				if strings.Contains(token.(string), "ey") {
					t.Errorf("the upstream got %q", token)
				}
				return true
			})
		})
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// delegation is a token endpoint that exchanges what names a person for a token of
// that person.
type delegation struct {
	*issuer
	key key
	// deny answers instead if it wants to.
	deny func(w http.ResponseWriter, person string) bool
}

func newDelegation(t testing.TB) *delegation {
	t.Helper()
	d := &delegation{key: newEdKey(t)}
	d.issuer = newIssuer(t, func(w http.ResponseWriter, n int) {
		d.mu.Lock()
		f := d.forms[n-1]
		d.mu.Unlock()
		a := d.key.open(t, f.Get("subject_token"))
		if d.deny != nil && d.deny(w, a.claims.Sub) {
			return
		}
		fmt.Fprintf(w, `{"access_token":"of-%x-%d","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`, a.claims.Sub, n)
	})
	return d
}

func (d *delegation) transport(s *site) sallyport.Transport {
	t := brokered(s, d.issuer)
	t.OAuth.Grant, t.OAuth.Issuer = "token_exchange", "https://as.example.com"
	t.OAuth.Person = sallyport.OAuthPerson{Key: "file:persons", Issuer: "https://sallyport.example.com/production"}
	return t
}

func (d *delegation) secret(ref string) (string, error) {
	if ref == "file:persons" {
		return d.key.pem, nil
	}
	return secretsOf(ref)
}

func onBehalfOf(person string, r *gateway.Request) *gateway.Request {
	r.Person = sallyport.PersonID(person)
	return r
}

func TestBrokerNamesThePerson(t *testing.T) {
	t.Parallel()
	d := newDelegation(t)
	s, _ := bearers(t, all)
	b := backend(t, newStageWith(t, upstream.Config{Secret: d.secret}), d.transport(s))
	do(t, b, onBehalfOf("ana@example.com", stateless(t, "1", "echo", `{}`)))
	do(t, b, onBehalfOf("ben@example.com", stateless(t, "2", "echo", `{}`)))
	do(t, b, onBehalfOf("ana@example.com", stateless(t, "3", "echo", `{}`)))
	if d.asked() != 2 {
		t.Fatalf("%d tokens for two persons", d.asked())
	}
	for n, person := range []string{"ana@example.com", "ben@example.com"} {
		f := d.forms[n]
		a := d.key.open(t, f.Get("subject_token"))
		if a.claims.Sub != person || a.claims.Iss != "https://sallyport.example.com/production" || a.claims.Aud != "https://as.example.com" || a.claims.Exp-a.claims.Iat != 60 {
			t.Errorf("named %+v", a)
		}
		f.Del("subject_token")
		want := "audience=crm&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&scope=a+b&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
		if got := f.Encode(); got != want {
			t.Errorf("it was asked with %s", got)
		}
	}
}

// TestBrokerNobodyIsNotAPerson: who cannot be named gets no token, and nobody
// else's either.
func TestBrokerNobodyIsNotAPerson(t *testing.T) {
	t.Parallel()
	d := newDelegation(t)
	s, seen := bearers(t, all)
	stage := newStageWith(t, upstream.Config{Secret: d.secret})
	b := backend(t, stage, d.transport(s))
	for _, person := range []string{"", " ana", "ana ", "ana\n", "a\x00", "a\xff", "a\ufffd", "\u0085", strings.Repeat("a", 255)} {
		r := onBehalfOf(person, stateless(t, "1", "echo", `{}`))
		r.BeforeWrite = func() error { t.Error("about to write without a token"); return nil }
		_, err := b.Do(within(t), r)
		refused(t, err, sallyport.NotPermitted, false)
	}
	if d.asked() > 0 {
		t.Errorf("%d tokens for nobody", d.asked())
	}
	seen.Range(func(k, _ any) bool { t.Errorf("the upstream was reached with %q", k); return true })
	// Whoever pins is no run's person: Sallyport asks for itself.
	transport := d.transport(s)
	transport.OAuth = transport.OAuth.Alone()
	if o := transport.OAuth; o.Grant != "client_credentials" || !o.Person.None() || o.Secret == "" {
		t.Errorf("alone: %+v", o)
	}
}

// TestBrokerProbesAlone: an upstream that is used on behalf of persons is pinned on
// behalf of none.
func TestBrokerProbesAlone(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	d := newDelegation(t)
	s := newSite(t, func(w http.ResponseWriter, r received) {
		if r.header.Get("Authorization") != "Bearer token-1" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		id := scan(t, r.body).ID.Of([]byte(r.body))
		if strings.Contains(r.body, "server/discover") {
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}}`, id)
			return
		}
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","tools":[]}}`, id)
	})
	transport := d.transport(s)
	transport.OAuth.URL = i.URL
	p, err := newStageWith(t, upstream.Config{Secret: d.secret}).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: transport})
	if err != nil || p.Version == "" {
		t.Fatalf("%+v %v", p, err)
	}
	if got := i.forms[0].Encode(); got != "audience=crm&grant_type=client_credentials&scope=a+b" {
		t.Errorf("it was asked with %s", got)
	}
}

// TestBrokerKeysAreForOneThing: the key that names persons is not the client's,
// whatever it is called.
func TestBrokerKeysAreForOneThing(t *testing.T) {
	t.Parallel()
	d := newDelegation(t)
	s, _ := bearers(t, all)
	transport := d.transport(s)
	transport.OAuth.Auth = "private_key_jwt"
	other := newEdKey(t)
	for client, good := range map[string]bool{d.key.pem: false, other.pem: true} {
		b := backend(t, newStageWith(t, upstream.Config{Secret: func(ref string) (string, error) {
			if ref == "file:persons" {
				return d.key.pem, nil
			}
			return client, nil
		}}), transport)
		_, err := b.Do(within(t), onBehalfOf("ana", stateless(t, "1", "echo", `{}`)))
		if good != (err == nil) {
			t.Errorf("a key of its own: %v, %v", good, err)
		}
		if !good {
			refused(t, err, sallyport.BadConfig, false)
		}
	}
}

// TestBrokerSessionsHaveOnePerson: all that belongs to a session of an upstream
// is sent with the token of the person whose calls it is for.
func TestBrokerSessionsHaveOnePerson(t *testing.T) {
	t.Parallel()
	d := newDelegation(t)
	c := newConversation(t)
	stage := newStageWith(t, upstream.Config{Secret: d.secret})
	transport := d.transport(c.site)
	transport.Era = atSessions(c.site).Era
	b := backend(t, stage, transport)
	for _, person := range []string{"ana", "ben"} {
		gs := clientSession(person)
		gs.Person = sallyport.PersonID(person)
		do(t, b, onBehalfOf(person, sessions(t, gs, "1", "echo", `{}`)))
		_, err := b.Do(within(t), onBehalfOf("eve", sessions(t, gs, "2", "echo", `{}`)))
		refused(t, err, sallyport.Internal500, false)
		stage.Tell(within(t), gs, []byte(`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`))
		stage.Forget(gs)
		eventually(t, "the end of a session", func() bool {
			return strings.Contains(strings.Join(c.log(), "\n"), "DELETE  up-"+map[string]string{"ana": "1", "ben": "2"}[person])
		})
	}
	if d.asked() != 2 {
		t.Errorf("%d tokens for two persons", d.asked())
	}
	for _, r := range c.received() {
		whose := fmt.Sprintf("Bearer of-%x-", "ana")
		if session := r.header.Get("Mcp-Session-Id"); session == "up-2" || session == "" && strings.Contains(r.body, "client-ben") {
			whose = fmt.Sprintf("Bearer of-%x-", "ben")
		}
		if got := r.header.Get("Authorization"); !strings.HasPrefix(got, whose) {
			t.Errorf("%s %s was sent with %q, want %q", r.method, r.body, got, whose)
		}
	}
}

// TestBrokerCrossesWithItsPerson: a session that is kept for a client without one is
// opened on behalf of the person of that client's run, and of nobody else.
func TestBrokerCrossesWithItsPerson(t *testing.T) {
	t.Parallel()
	d := newDelegation(t)
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) {
		if got, want := r.header.Get("Authorization"), fmt.Sprintf("Bearer of-%x-", r.message.Name); !strings.HasPrefix(got, want) {
			t.Errorf("%s was called with %q", r.message.Name, got)
		}
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}`, r.id())
	})
	transport := d.transport(o.site)
	transport.Era = atSessions(o.site).Era
	b := backend(t, newStageWith(t, upstream.Config{Secret: d.secret}), transport)
	for n, person := range []string{"ana", "ben", "ana"} {
		r := onBehalfOf(person, stateless(t, fmt.Sprint(n), person, `{}`))
		r.Owner = "key/run of " + person
		do(t, b, r)
	}
	if o.opened.Load() != 2 || d.asked() != 2 {
		t.Errorf("%d sessions and %d tokens for two persons", o.opened.Load(), d.asked())
	}
}

// TestBrokerTokensStayWithTheirPerson: whoever calls, whenever tokens are revoked
// and whatever the server refuses, a person's call has that person's token.
func TestBrokerTokensStayWithTheirPerson(t *testing.T) {
	t.Parallel()
	people := []string{"ana", "ben", "ana ", "Ana", "a\u0301na", "ana@example.com", "sub\":\"ana"}
	rapid.Check(t, func(rt *rapid.T) {
		d := newDelegation(t)
		defer d.Close()
		unlucky := rapid.SampledFrom(append(people, "")).Draw(rt, "refused by the server")
		d.deny = func(w http.ResponseWriter, person string) bool {
			if person == unlucky {
				w.WriteHeader(400)
				_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
			}
			return person == unlucky
		}
		s := newSite(t, func(w http.ResponseWriter, r received) {
			var call struct {
				Params struct {
					Arguments struct {
						Person string
						Revoke bool
					}
				}
			}
			if err := json.Unmarshal([]byte(r.body), &call); err != nil {
				t.Error(err)
			}
			token := strings.TrimPrefix(r.header.Get("Authorization"), "Bearer ")
			if !strings.HasPrefix(token, fmt.Sprintf("of-%x-", call.Params.Arguments.Person)) {
				t.Errorf("a call of %q came with %q", call.Params.Arguments.Person, token)
			}
			if call.Params.Arguments.Revoke {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			echo(w, r)
		})
		defer s.Close()
		stage := newStageWith(t, upstream.Config{Secret: d.secret})
		b := backend(t, stage, d.transport(s))
		var calls sync.WaitGroup
		for n, person := range rapid.SliceOfN(rapid.SampledFrom(people), 1, 20).Draw(rt, "callers") {
			revoke := rapid.Bool().Draw(rt, "revoked")
			r := onBehalfOf(person, stateless(t, fmt.Sprint(n), "echo", fmt.Sprintf(`{"person":%q,"revoke":%v}`, person, revoke)))
			call := func() {
				_, err := b.Do(within(t), r)
				var refusal *sallyport.Refusal
				if strings.TrimSpace(person) != person || person == unlucky {
					if !errors.As(err, &refusal) || refusal.Code != sallyport.NotPermitted {
						t.Errorf("%q: %v", person, err)
					}
				} else if revoke {
					refused(t, err, sallyport.UpstreamUnavailable, true)
				} else if err != nil {
					t.Errorf("%q: %v", person, err)
				}
			}
			if rapid.Bool().Draw(rt, "at once") {
				calls.Go(call)
			} else {
				call()
			}
		}
		calls.Wait()
	})
}

// script is a token endpoint without a network: what it is asked, and what it
// answers after a while. Without a status it hangs up.
type script struct {
	mu     sync.Mutex
	asked  int
	most   int // requests at one time
	now    int
	answer func(person string) (status int, fields, body string, wait time.Duration)
}

func (s *script) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *script) dial(context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		r, err := http.ReadRequest(bufio.NewReader(there))
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, _ := url.ParseQuery(string(body))
		person := ""
		if parts := strings.Split(form.Get("subject_token"), "."); len(parts) == 3 {
			raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
			var claims struct{ Sub string }
			_ = json.Unmarshal(raw, &claims)
			person = claims.Sub
		}
		s.mu.Lock()
		s.asked++
		s.now++
		s.most = max(s.most, s.now)
		status, fields, text, wait := s.answer(person)
		s.mu.Unlock()
		time.Sleep(wait)
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
		if status > 0 {
			fmt.Fprintf(there, "HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s", status, fields, len(text), text)
		}
	}()
	return here, nil
}

func granted(person string) (int, string, string, time.Duration) {
	return 200, "", fmt.Sprintf(`{"access_token":"of-%s","token_type":"Bearer","expires_in":3600}`, person), 0
}

// TestBrokerLeavesADeadServerAlone: however many persons' calls come, a server that
// does not work is asked once in a while, and one request finds out that it works
// again.
func TestBrokerLeavesADeadServerAlone(t *testing.T) {
	k := newEdKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		b := upstream.NewTestBroker(t.Context(), k.pem, s.dial)
		crowd := func(n int) (good int) {
			var all sync.WaitGroup
			var count atomic.Int64
			for i := range n {
				all.Go(func() {
					person := fmt.Sprintf("person-%d", i)
					token, err := b.Token(t.Context(), sallyport.PersonID(person))
					if err == nil && token != "of-"+person {
						t.Errorf("%s has %s", person, token)
					}
					if err == nil {
						count.Add(1)
					} else {
						refused(t, err, sallyport.UpstreamUnavailable, false)
					}
				})
			}
			all.Wait()
			synctest.Wait()
			return int(count.Load())
		}
		s.answer = func(string) (int, string, string, time.Duration) { return 503, "", "", time.Second }
		if crowd(100) > 0 || s.requests() > upstream.MaxAsking {
			t.Fatalf("%d requests at first", s.requests())
		}
		before := s.requests()
		for range 50 {
			crowd(20)
		}
		if s.requests() != before {
			t.Fatalf("%d requests at once", s.requests()-before)
		}
		// Ten minutes of a call each second: the pauses double up to half a minute.
		for range 600 {
			time.Sleep(time.Second)
			crowd(2)
		}
		if n := s.requests() - before; n < 15 || n > 30 {
			t.Fatalf("%d requests in ten minutes", n)
		}
		// Back again: one finds out, then all are served.
		s.mu.Lock()
		s.answer = func(person string) (int, string, string, time.Duration) {
			status, fields, body, _ := granted(person)
			return status, fields, body, time.Second
		}
		s.mu.Unlock()
		time.Sleep(time.Minute)
		before = s.requests()
		if good := crowd(100); good != 1 || s.requests() != before+1 {
			t.Errorf("%d of those who came first were served, in %d requests", good, s.requests()-before)
		}
		if good := crowd(100); good != 100 || s.requests() != before+100 || s.most > upstream.MaxAsking {
			t.Errorf("%d were served, in %d requests, %d at one time", good, s.requests()-before, s.most)
		}

		// A server that asks for more time gets it.
		s.mu.Lock()
		s.answer = func(string) (int, string, string, time.Duration) { return 429, "Retry-After: 120\r\n", "", 0 }
		s.mu.Unlock()
		time.Sleep(2 * time.Hour)
		before = s.requests()
		for range 119 {
			crowd(3)
			time.Sleep(time.Second)
		}
		if n := s.requests() - before; n < 1 || n > 3 {
			t.Errorf("%d requests within the two minutes that it asked for", n)
		}
	})
}

// TestBrokerRefusedIsOne: that the server refuses one person says nothing of the
// others.
func TestBrokerRefusedIsOne(t *testing.T) {
	k := newEdKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(person string) (int, string, string, time.Duration) {
			if person == "eve" {
				return 400, "", `{"error":"invalid_grant","error_description":"` + k.pem[:40] + `"}`, 0
			}
			return granted(person)
		}}
		b := upstream.NewTestBroker(t.Context(), k.pem, s.dial)
		for n := range 5 {
			_, err := b.Token(t.Context(), "eve")
			said := refused(t, err, sallyport.NotPermitted, false)
			if !strings.Contains(said.Reason, "invalid_grant") || strings.Contains(fmt.Sprint(said), "PRIVATE") {
				t.Errorf("%v", said)
			}
			person := fmt.Sprintf("person-%d", n)
			if token, err := b.Token(t.Context(), sallyport.PersonID(person)); err != nil || token != "of-"+person {
				t.Errorf("%s: %q %v", person, token, err)
			}
		}
		if s.requests() != 6 {
			t.Errorf("%d requests", s.requests())
		}
		// She may, later.
		s.answer = granted
		time.Sleep(time.Minute)
		if token, err := b.Token(t.Context(), "eve"); err != nil || token != "of-eve" {
			t.Errorf("%q %v", token, err)
		}
		// What is wrong with the client is wrong for all.
		s.answer = func(string) (int, string, string, time.Duration) { return 401, "", `{"error":"invalid_client"}`, 0 }
		_, err := b.Token(t.Context(), "fay")
		refused(t, err, sallyport.UpstreamUnavailable, false)
		before := s.requests()
		_, err = b.Token(t.Context(), "gil")
		refused(t, err, sallyport.UpstreamUnavailable, false)
		if s.requests() != before {
			t.Error("a server that does not take the client is asked for others")
		}
	})
}

// TestBrokerKeepsSoMany: of more persons than are kept those stay that call.
func TestBrokerKeepsSoMany(t *testing.T) {
	k := newEdKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: granted}
		b := upstream.NewTestBroker(t.Context(), k.pem, s.dial)
		for n := range upstream.MaxAccounts + 100 {
			for _, person := range []string{"ana", fmt.Sprintf("person-%d", n)} {
				if token, err := b.Token(t.Context(), sallyport.PersonID(person)); err != nil || token != "of-"+person {
					t.Fatalf("%s: %q %v", person, token, err)
				}
			}
			time.Sleep(time.Millisecond)
		}
		if n := b.Accounts(); n != upstream.MaxAccounts {
			t.Errorf("%d accounts are kept", n)
		}
		last := s.requests()
		for n := 101; n < upstream.MaxAccounts+100; n++ {
			if _, err := b.Token(t.Context(), sallyport.PersonID(fmt.Sprintf("person-%d", n))); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.requests(); last != upstream.MaxAccounts+101 || n != last {
			t.Errorf("%d requests, and then %d: whoever called last was forgotten", last, n-last)
		}
	})
}

// TestBrokerWaitsNoLongerThanTheCall: the deadline of a call holds while its token
// is asked for; the token is there for the next.
func TestBrokerWaitsNoLongerThanTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(person string) (int, string, string, time.Duration) {
			status, fields, body, _ := granted(person)
			return status, fields, body, 5 * time.Second
		}}
		b := upstream.NewTestBroker(t.Context(), "", s.dial)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := b.Token(ctx, ""); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if token, err := b.Token(t.Context(), ""); err != nil || token != "of-" || time.Since(began) != 5*time.Second || s.requests() != 1 {
			t.Errorf("%q %v after %v and %d requests", token, err, time.Since(began), s.requests())
		}
	})
}

// TestBrokerRejectsWhatWasLent: that an old token is not accepted, which a slow call
// finds out late, is not held against the new one; nor is another person's.
func TestBrokerRejectsWhatWasLent(t *testing.T) {
	k := newEdKey(t)
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := &script{}
		s.answer = func(person string) (int, string, string, time.Duration) {
			n++
			return 200, "", fmt.Sprintf(`{"access_token":"%s-%d","token_type":"Bearer","expires_in":3600}`, person, n), 0
		}
		b := upstream.NewTestBroker(t.Context(), k.pem, s.dial)
		lent := func(person sallyport.PersonID, want string) func() {
			t.Helper()
			got, reject, err := b.Lent(t.Context(), person)
			if err != nil || got != want {
				t.Fatalf("%q %v, want %q", got, err, want)
			}
			return reject
		}
		rejectBen := lent("ben", "ben-1")
		reject := lent("ana", "ana-2")
		reject()
		rejectNew := lent("ana", "ana-3")
		time.Sleep(2 * time.Minute)
		reject()
		lent("ana", "ana-3")
		rejectBen()
		lent("ana", "ana-3")
		lent("ben", "ben-4")
		rejectNew()
		lent("ana", "ana-5")
	})
}

// TestBrokerTooManyAtOnce: that a crowd has to wait says nothing of the server.
func TestBrokerTooManyAtOnce(t *testing.T) {
	k := newEdKey(t)
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(person string) (int, string, string, time.Duration) {
			status, fields, body, _ := granted(person)
			return status, fields, body, 9 * time.Second
		}}
		b := upstream.NewTestBroker(t.Context(), k.pem, s.dial)
		var all sync.WaitGroup
		var none atomic.Int64
		for n := range 10 * upstream.MaxAsking {
			all.Go(func() {
				if _, err := b.Token(t.Context(), sallyport.PersonID(fmt.Sprintf("person-%d", n))); err != nil {
					refused(t, err, sallyport.UpstreamUnavailable, false)
					none.Add(1)
				}
			})
		}
		time.Sleep(31 * time.Second)
		if token, err := b.Token(t.Context(), "ana"); err != nil || token != "of-ana" { // she waits for her turn
			t.Errorf("%q %v", token, err)
		}
		all.Wait()
		if n := none.Load(); n == 0 || s.most != upstream.MaxAsking {
			t.Errorf("%d got none, %d were asked for at one time", n, s.most)
		}
	})
}

// TestBrokerFaults come in pairs: the server is not reached; it gave a token, and
// the answer was lost. In both the call is not sent, and a later one is, with a
// token that arrived.
func TestBrokerFaults(t *testing.T) {
	t.Parallel()
	t.Run("not reached", func(t *testing.T) {
		t.Parallel()
		i := newIssuer(t, issue)
		s, seen := bearers(t, all)
		transport := brokered(s, i)
		i.Close() // nobody listens there any more
		b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), transport)
		_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
		refused(t, err, sallyport.UpstreamUnavailable, false)
		seen.Range(func(k, _ any) bool { t.Errorf("the upstream was reached with %q", k); return true })
	})
	for name, lose := range map[string]func(w http.ResponseWriter, n int){
		"before its head": func(w http.ResponseWriter, n int) { panic(http.ErrAbortHandler) },
		"within": func(w http.ResponseWriter, n int) {
			w.Header().Set("Content-Length", "1000")
			issue(w, n)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run("answer lost "+name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t, func(w http.ResponseWriter, n int) {
				if n == 1 {
					lose(w, n)
				}
				issue(w, n)
			})
			s, seen := bearers(t, all)
			b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
			_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
			refused(t, err, sallyport.UpstreamUnavailable, false)
			eventually(t, "the end of the silence", func() bool {
				_, err := b.Do(within(t), stateless(t, "2", "echo", `{}`))
				return err == nil
			})
			if i.asked() != 2 {
				t.Errorf("%d requests for tokens", i.asked())
			}
			seen.Range(func(k, _ any) bool {
				if k != "token-2" {
					t.Errorf("the upstream was reached with %q", k)
				}
				return true
			})
		})
	}
}

// TestBrokerRevoked: a call whose token was revoked is sent once, whether the
// upstream did what it was asked or not; the next one has another token.
func TestBrokerRevoked(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, issue)
	s, seen := bearers(t, func(token string) bool { return token == "token-2" })
	b := backend(t, newStageWith(t, upstream.Config{Secret: secretsOf}), brokered(s, i))
	written := 0
	r := stateless(t, "1", "echo", `{}`)
	r.BeforeWrite = func() error { written++; return nil }
	_, err := b.Do(within(t), r)
	refused(t, err, sallyport.UpstreamUnavailable, true)
	n, _ := seen.Load("token-1")
	if written != 1 || n.(*atomic.Int64).Load() != 1 {
		t.Errorf("it was written %d times", written)
	}
	do(t, b, stateless(t, "2", "echo", `{}`))
}

// FuzzToken: whatever a token endpoint says, a token that is taken can be sent in
// a header, and nothing but known codes is repeated.
func FuzzToken(f *testing.F) {
	for _, s := range []string{`{"access_token":"a","token_type":"Bearer","expires_in":1e400}`, `{"access_token":"a","issued_token_type":"urn:ietf:params:oauth:token-type:jwt","token_type":"N_A"}`,
		`{"issued_token_type":[],"access_token":"a","token_type":"Bearer"}`, `{"error":"access_denied","access_token":"a","token_type":"Bearer"}`,
		`{"access_token":"a","token_type":"bearer","expires_in":"-1"}`,
		`{"error":"invalid_grant"}`, `{"error":7}`, `[]`, `{"access_token":"a\u000ab","token_type":"Bearer"}`, `{"access_token":"a","token_type":"Bearer","expires_in":NaN}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, life, code, err := upstream.ParseToken(body)
		if err == nil {
			if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) || life < 0 || life > 24*time.Hour {
				t.Fatalf("%q for %v", token, life)
			}
			return
		}
		if token != "" || len(code) > 30 || strings.ContainsAny(code, " \n") {
			t.Fatalf("an error with %q %q", token, code)
		}
	})
}
