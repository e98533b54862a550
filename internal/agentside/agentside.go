// Package agentside serves the endpoint that agents connect to: the Model
// Context Protocol over streamable HTTP, in two eras on one address. Revision
// 2026-07-28 is stateless; 2025-11-25 and older have sessions. Which one a
// request is in is decided from that request alone.
//
// The package reads and writes messages and keeps sessions. Whether a call
// happens, and what it may return, is the [Gateway]'s business: bytes go in as
// the client sent them and come out as the gateway gave them.
package agentside

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// Gateway is what the endpoint asks of the gateway.
type Gateway interface {
	// Call makes one governed call. It never panics and always records. The
	// context carries cancellation; a context derived from it reaches
	// gateway.Session.Ask, which finds the call a question belongs to by it.
	Call(ctx context.Context, x *gateway.Exchange) gateway.Reply
	// Tools returns the tools a credential may see; equal Etags mean equal
	// definitions. Its error is a *sallyport.Refusal.
	Tools(ctx context.Context, credential string) (*gateway.ToolList, error)
	// List answers resources/list, resources/templates/list and prompts/list.
	List(ctx context.Context, x *gateway.Exchange) gateway.Reply
	// Describe says who a credential belongs to and what it is offered. Its error
	// is a *sallyport.Refusal.
	Describe(ctx context.Context, credential string) (*gateway.Description, error)
	// Listen subscribes a client of the stateless era to resources, each by a call of
	// its own, and returns those it will be told of. It is told through l until
	// EndListener.
	Listen(ctx context.Context, x *gateway.Exchange, uris []string, l *gateway.Listener) []string
	EndListener(l *gateway.Listener)
	// CloseSession is called exactly once for every session that ended.
	CloseSession(s *gateway.Session)
}

// Config is what a handler needs. Zero numbers mean the default; Gateway is
// required.
type Config struct {
	Gateway Gateway
	// AllowedHosts are the values of Host that are served: a name or address,
	// with a port to allow only that port. None means the loopback names.
	AllowedHosts []string
	// AllowedOrigins are the values of Origin that are served, as scheme, host
	// and port ("https://example.com"), besides the origin of an allowed host
	// itself. A request without an Origin is served.
	AllowedOrigins []string
	// MaxBody is in bytes (default 4 MiB); MaxDepth is how deeply JSON may nest
	// (default that of package wire).
	MaxBody  int
	MaxDepth int
	// SessionIdle ends a session that made no request and held no stream for so
	// long (default 30 minutes).
	SessionIdle time.Duration
	// MaxSessions bounds all sessions (default 10000), MaxSessionsPerKey those of
	// one key (default 100); beyond it the key's own longest unused session ends.
	MaxSessions       int
	MaxSessionsPerKey int
	// Plain is what ServePlain needs beside the gateway; nil where that does not serve.
	Plain *Plain
	// Replicas are the servers that share a store with this one; nil if none can.
	Replicas Replicas
	// Approvals are how clients wait for people; without it they are told to call again.
	Approvals  *Approvals
	ServerInfo ServerInfo
	Log        *slog.Logger
	Now        func() time.Time
}

// ServerInfo is what the endpoint says of itself. It must be the same in every
// stage.
type ServerInfo struct {
	Name    string
	Version string
}

const (
	// bodyTime is how long a client may take to send a body, wanted or not.
	bodyTime = 30 * time.Second
	// writeTime is how long a client may take to read what is written at once.
	writeTime = 30 * time.Second
	// keepAlive is how often a quiet stream carries a comment, and how often the
	// credential that holds a stream open is looked at again.
	keepAlive = 20 * time.Second
)

// Handler is the endpoint. The http.Server that carries it should set
// ReadHeaderTimeout and leave ReadTimeout and WriteTimeout at zero: streams live
// longer than either, and the handler sets deadlines of its own.
type Handler struct {
	Config
	limits     wire.Limits
	hosts      map[string]bool
	origins    map[string]bool
	serverInfo []byte // as JSON
	arrays     toolArrays

	mu       sync.RWMutex
	closed   bool
	closing  chan struct{}  // closed with closed
	running  sync.WaitGroup // requests being served
	sessions map[string]*session
	perKey   map[sallyport.KeyID]map[*session]struct{}
	listens  map[*listen]struct{}
	perKeyL  map[sallyport.KeyID]int // listens by key
	sweeper  *time.Timer             // runs while there are sessions; nil otherwise
}

// New makes a handler. It starts nothing until a session is opened.
func New(c Config) *Handler {
	if c.MaxBody <= 0 {
		c.MaxBody = 4 << 20
	}
	if c.SessionIdle <= 0 {
		c.SessionIdle = 30 * time.Minute
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 10_000
	}
	if c.MaxSessionsPerKey <= 0 {
		c.MaxSessionsPerKey = 100
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.AllowedHosts) == 0 {
		c.AllowedHosts = []string{"localhost", "127.0.0.1", "[::1]"}
	}
	h := &Handler{
		Config:   c,
		limits:   wire.Limits{Bytes: c.MaxBody, Depth: c.MaxDepth},
		hosts:    map[string]bool{},
		origins:  map[string]bool{},
		closing:  make(chan struct{}),
		sessions: map[string]*session{},
		perKey:   map[sallyport.KeyID]map[*session]struct{}{},
		listens:  map[*listen]struct{}{},
		perKeyL:  map[sallyport.KeyID]int{},
	}
	for _, host := range c.AllowedHosts {
		host = strings.ToLower(host)
		if strings.Count(host, ":") > 1 && !strings.HasPrefix(host, "[") {
			host = "[" + host + "]" // an IPv6 address as Host writes it
		}
		h.hosts[host] = true
	}
	for _, origin := range c.AllowedOrigins {
		h.origins[strings.TrimSuffix(strings.ToLower(origin), "/")] = true
	}
	h.serverInfo = append(h.serverInfo, `{"name":`...)
	h.serverInfo = wire.AppendString(h.serverInfo, c.ServerInfo.Name)
	h.serverInfo = append(h.serverInfo, `,"version":`...)
	h.serverInfo = wire.AppendString(h.serverInfo, c.ServerInfo.Version)
	h.serverInfo = append(h.serverInfo, '}')
	return h
}

// ServeHTTP answers one request. The checks come in an order that tells a
// stranger as little as possible, and the body is read whole before anything is
// sent anywhere.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = headerNoStore
	if !h.enter() {
		refuseHTTP(w, http.StatusServiceUnavailable, "the server is shutting down")
		return
	}
	defer h.running.Done()
	if !h.admits(w, r) || h.passedOn(w, r) {
		return
	}
	switch r.Method {
	case http.MethodPost:
		h.post(w, r)
	case http.MethodGet, http.MethodDelete:
		if first(r.Header, wire.HeaderVersion) == wire.Version20260728 {
			w.Header()["Allow"] = headerAllowModern
			refuseHTTP(w, http.StatusMethodNotAllowed, "this version of the protocol knows POST only")
			return
		}
		if r.Method == http.MethodGet {
			h.get(w, r)
		} else {
			h.delete(w, r)
		}
	default:
		w.Header()["Allow"] = headerAllow
		refuseHTTP(w, http.StatusMethodNotAllowed, "method not allowed")
	}
}

// admits reports whether a request is for this endpoint at all, whoever sends it, and
// answers it if it is not.
func (h *Handler) admits(w http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength != 0 {
		// Also for who is refused before: net/http reads what was not read.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	}
	if !h.hostAllowed(r.Host) {
		refuseHTTP(w, http.StatusForbidden, "this host is not served here")
		return false
	}
	for _, name := range singletons {
		if len(r.Header[name]) > 1 {
			refuseHTTP(w, http.StatusBadRequest, "the header "+name+" is given more than once")
			return false
		}
	}
	if origin := r.Header["Origin"]; len(origin) == 1 && !h.originAllowed(origin[0], r.Host) {
		refuseHTTP(w, http.StatusForbidden, "this origin is not served here")
		return false
	}
	return true
}

// Close stops serving: new requests are refused, streams end, and calls being
// made have until ctx ends before those of sessions are cancelled. It returns
// when every request has been answered, or with ctx's error if one of the
// stateless era has not: those end with their connections.
func (h *Handler) Close(ctx context.Context) error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.closing)
	}
	if h.sweeper != nil {
		h.sweeper.Stop()
	}
	h.mu.Unlock()

	idle := make(chan struct{})
	go func() {
		h.running.Wait()
		close(idle)
	}()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
	}
	for _, s := range h.allSessions() {
		h.end(s)
	}
	return err
}

// enter counts a request in, unless the handler is closed.
func (h *Handler) enter() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed {
		return false
	}
	h.running.Add(1)
	return true
}

// hostAllowed compares names, not what they resolve to: a name that an attacker
// has pointed at this address must not be served (DNS rebinding).
func (h *Handler) hostAllowed(host string) bool {
	host = strings.ToLower(host)
	if h.hosts[host] {
		return true
	}
	i := strings.LastIndexByte(host, ':')
	return i > 0 && i > strings.LastIndexByte(host, ']') && isPort(host[i+1:]) && h.hosts[host[:i]]
}

// originAllowed lets a page of the allowed host itself in: under rebinding its
// origin names the attacker's host, and that is not an allowed one.
func (h *Handler) originAllowed(origin, host string) bool {
	origin = strings.ToLower(origin)
	if h.origins[origin] {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && origin == u.Scheme+"://"+strings.ToLower(host)
}

func isPort(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 5
}

// singletons are the headers that decide something: given twice, two readers
// could decide differently.
var singletons = [...]string{
	"Authorization", "Content-Type", "Content-Encoding", "Origin",
	wire.HeaderVersion, wire.HeaderSessionID, wire.HeaderMethod, wire.HeaderName,
}

// Header values that never change, shared by all responses.
var (
	headerNoStore     = []string{"no-store"}
	headerJSON        = []string{"application/json"}
	headerEvents      = []string{"text/event-stream"}
	headerText        = []string{"text/plain; charset=utf-8"}
	headerNoSniff     = []string{"nosniff"}
	headerNoBuffering = []string{"no"}
	headerAllow       = []string{"GET, POST, DELETE"}
	headerAllowModern = []string{"POST"}
)

func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// refuseHTTP answers what is wrong below the protocol, in plain text.
func refuseHTTP(w http.ResponseWriter, status int, text string) {
	w.Header()["Content-Type"] = headerText
	w.Header()["X-Content-Type-Options"] = headerNoSniff
	w.WriteHeader(status)
	w.Write([]byte(text + "\n"))
}

// challenge asks for a credential (RFC 6750, RFC 9728 section 5.1). The host
// has been found in the allow-list before, so it can be said back.
func challenge(w http.ResponseWriter, r *http.Request, presented bool) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	value := `Bearer resource_metadata="` + scheme + "://" + r.Host + `/.well-known/oauth-protected-resource"`
	if presented {
		value += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", value)
}

// bearer returns the credential of the request, or false if there is none that
// has the form of RFC 6750's b64token.
func bearer(h http.Header) (string, bool) {
	const scheme = "bearer "
	v := first(h, "Authorization")
	if len(v) <= len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", false
	}
	token := strings.Trim(v[len(scheme):], " ")
	for _, c := range []byte(token) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '-', c == '.', c == '_', c == '~', c == '+', c == '/', c == '=':
		default:
			return "", false
		}
	}
	return token, token != ""
}

// accepts says which of the two forms of an answer the client takes. named is
// whether event streams are meant and not only let pass by a wildcard: only
// then is an answer streamed that need not be.
func accepts(values []string) (json, events, named bool) {
	if len(values) == 0 {
		return true, true, false // RFC 9110 section 12.5.1: anything
	}
	for _, v := range values {
		for v != "" {
			var item string
			item, v, _ = strings.Cut(v, ",")
			item, params, _ := strings.Cut(item, ";")
			if params != "" && refusedByQuality(params) {
				continue
			}
			switch strings.ToLower(strings.Trim(item, " \t")) {
			case "application/json":
				json = true
			case "text/event-stream":
				events, named = true, true
			case "application/*":
				json = true
			case "text/*":
				events = true
			case "*/*":
				json, events = true, true
			}
		}
	}
	return json, events, named
}

// refusedByQuality reports a weight of zero: "not acceptable".
func refusedByQuality(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.Trim(p, " \t"), "=")
		if strings.EqualFold(name, "q") {
			return strings.Trim(value, "0.") == "" && value != ""
		}
	}
	return false
}

// isJSON reports whether a Content-Type is application/json in UTF-8.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	mime, params, _ := strings.Cut(contentType, ";")
	if !strings.EqualFold(strings.Trim(mime, " \t"), "application/json") {
		return false
	}
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.Trim(p, " \t"), "=")
		if strings.EqualFold(name, "charset") && !strings.EqualFold(strings.Trim(value, `"`), "utf-8") {
			return false
		}
	}
	return true
}
