package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport"
	"sallyport/internal/testkit"
)

// provider is an identity provider that two stages share. It knows each stage's
// client, and who names persons for it, by their keys.
type provider struct {
	*httptest.Server
	keys map[string]ed25519.PublicKey // by issuer

	mu    sync.Mutex
	given []string // "client for person"
	forms []string
}

// newKey makes a key that the provider knows under a name, and returns it in PEM.
func (p *provider) newKey(t testing.TB, name string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	p.keys[name] = public
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// said verifies what somebody the provider knows has signed for it.
func (p *provider) said(text string) (issuer, subject string, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return "", "", false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", "", false
	}
	var claims struct{ Iss, Sub, Aud string }
	if err := json.Unmarshal(body, &claims); err != nil {
		return "", "", false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	public := p.keys[claims.Iss]
	return claims.Iss, claims.Sub, err == nil && public != nil && claims.Aud == p.URL && ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), signature)
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{keys: map[string]ed25519.PublicKey{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || r.URL.Path != "/token" {
			t.Errorf("%s %v", r.URL, err)
		}
		client, self, ok := p.said(form.Get("client_assertion"))
		by, person, named := p.said(form.Get("subject_token"))
		w.Header().Set("Content-Type", "application/json")
		if !ok || client != self || !named || by != strings.Replace(client, "gateway", "https://sallyport.example.com", 1) {
			t.Errorf("client %q (%v) asks for %q, named by %q (%v)", client, ok, person, by, named)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		p.mu.Lock()
		p.given, p.forms = append(p.given, client+" for "+person), append(p.forms, string(body))
		p.mu.Unlock()
		fmt.Fprintf(w, `{"access_token":"%x","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":600}`, client+" for "+person)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) tokens() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.given)
}

// TestWallWithOneAuthorizationServer: staging and production get their tokens from
// one token endpoint. What a release in staging does, whoever it names, reads no key
// of production, and gets no token for it.
func TestWallWithOneAuthorizationServer(t *testing.T) {
	testkit.Leak(t)
	p := newProvider(t)
	y := &yard{staging: newOutpost(t, sallyport.Staging), production: newOutpost(t, sallyport.Production)}
	dir := t.TempDir()
	files := yardFiles(y.staging.url, y.production.url)
	for _, stage := range sallyport.Stages[1:] {
		files["upstreams/crm.yaml"] = strings.Replace(files["upstreams/crm.yaml"], "    credential: file:secrets/"+stage.String()+"-crm\n", fmt.Sprintf(`    oauth:
      url: %[1]s/token
      shared: true
      issuer: %[1]s
      grant: token_exchange
      client: gateway/%[2]s
      auth: private_key_jwt
      secret: file:secrets/%[2]s-client
      audience: crm-of-%[2]s
      person: {key: file:secrets/%[2]s-persons, issuer: https://sallyport.example.com/%[2]s}
`, p.URL, stage), 1)
		files["secrets/"+stage.String()+"-files"] = secretOf(stage, "files")
	}
	files["secrets/staging-client"] = p.newKey(t, "gateway/staging")
	files["secrets/staging-persons"] = p.newKey(t, "https://sallyport.example.com/staging")
	writeFiles(t, dir, files)
	y.traps = append(y.traps,
		newTrap(t, filepath.Join(dir, "secrets", "production-client"), p.newKey(t, "gateway/production")),
		newTrap(t, filepath.Join(dir, "secrets", "production-persons"), p.newKey(t, "https://sallyport.example.com/production")))
	y.start(t, dir)
	run := func(agent sallyport.AgentID, person sallyport.PersonID) string {
		t.Helper()
		token, _ := y.tokenFor(t, agent, 0, person)
		return token
	}
	ana, ben := run("staged", "ana@example.com"), run("staged", "ben@example.com")
	for range 2 {
		for _, token := range []string{ana, ben} {
			a, err := y.send(t.Context(), token, &hostile{})
			if err != nil || !strings.Contains(a.body, marker(sallyport.Staging)) {
				t.Fatalf("%v %v", a, err)
			}
			y.stands(t, sallyport.Staging, a)
		}
	}
	// A run of nobody reaches nothing, and neither do names for production's client.
	a, err := y.send(t.Context(), run("staged", ""), &hostile{})
	if err != nil || !strings.Contains(a.body, string(sallyport.NotPermitted)) {
		t.Fatalf("%v %v", a, err)
	}
	odd := run("staged", "gateway/production")
	if a, err = y.send(t.Context(), odd, &hostile{}); err != nil || !strings.Contains(a.body, marker(sallyport.Staging)) {
		t.Fatalf("%v %v", a, err)
	}
	y.stands(t, sallyport.Staging, a)
	want := []string{"gateway/staging for ana@example.com", "gateway/staging for ben@example.com", "gateway/staging for gateway/production"}
	if got := p.tokens(); !slices.Equal(got, want) {
		t.Errorf("tokens were given to %q, want %q", got, want)
	}
	var shown []string
	for _, seen := range y.staging.arrivals() {
		shown = append(shown, seen.header.Get("Authorization"))
	}
	for i, who := range []string{want[0], want[1], want[0], want[1], want[2]} {
		if token := fmt.Sprintf("Bearer %x", who); i >= len(shown) || shown[i] != token {
			t.Errorf("call %d was shown to staging with another token than that of %s: %q", i, who, shown)
		}
	}

	// In production the tripwires trip.
	live := run("live", "ana@example.com")
	if a, err = y.send(t.Context(), live, &hostile{}); err != nil || !strings.Contains(a.body, marker(sallyport.Production)) {
		t.Fatalf("%v %v", a, err)
	}
	for _, tr := range y.traps {
		if tr.read.Load() == 0 {
			t.Errorf("%s was not read, and production answered", filepath.Base(tr.path))
		}
	}
	if got := p.tokens(); got[len(got)-1] != "gateway/production for ana@example.com" {
		t.Errorf("tokens were given to %q", got)
	}
	// No caller's own credential went anywhere.
	for _, token := range []string{ana, ben, odd, live} {
		for _, form := range p.forms {
			if strings.Contains(form, token) {
				t.Error("the authorization server was shown a caller's own token")
			}
		}
		for _, o := range []*outpost{y.staging, y.production} {
			for _, seen := range o.arrivals() {
				if strings.Contains(fmt.Sprint(seen), token) {
					t.Error("an upstream was shown a caller's own token")
				}
			}
		}
	}
}
