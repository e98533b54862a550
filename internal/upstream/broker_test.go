package upstream_test

import (
	"bufio"
	"context"
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

	"sallyport"
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
		b := upstream.NewTestBroker(t.Context(), func(ctx context.Context) (net.Conn, error) {
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
			got, until, err := b.Token()
			if err != nil || got != want || !until.After(time.Now()) {
				t.Fatalf("got %q until %v, %v; want %q", got, until, err, want)
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
		if _, _, err := b.Token(); err == nil {
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
		if _, _, err := b.Token(); err == nil || !strings.Contains(err.Error(), "in time") || time.Since(began) > 11*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		time.Sleep(2 * time.Hour)
	})
}

// FuzzToken: whatever a token endpoint says, a token that is taken can be sent in
// a header, and nothing but known codes is repeated.
func FuzzToken(f *testing.F) {
	for _, s := range []string{`{"access_token":"a","token_type":"Bearer","expires_in":1e400}`, `{"access_token":"a","token_type":"bearer","expires_in":"-1"}`,
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
