package agentside

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// post is one POST: a message of the client, and the way its answer takes.
type post struct {
	h          *Handler
	w          http.ResponseWriter
	r          *http.Request
	credential string
	m          wire.Message
	era        wire.Era
	ctx        context.Context // of what the message asks for
	session    *session        // nil in the stateless era
	key        string          // of the request among those of its session
	answer     answer
	x          gateway.Exchange
}

// verb is what a method is served as.
type verb struct {
	kind  sallyport.Kind
	serve func(*post, sallyport.Kind)
	// The eras that know it.
	sessions, stateless bool
}

// verbs are all requests a client may make. A method that is not in the table,
// or not in the era of the request, does not exist.
var verbs = map[string]verb{
	wire.MethodToolsCall:              {sallyport.KindTool, (*post).call, true, true},
	wire.MethodToolsList:              {sallyport.KindTool, (*post).tools, true, true},
	wire.MethodResourcesRead:          {sallyport.KindResource, (*post).call, true, true},
	wire.MethodResourcesList:          {sallyport.KindResource, (*post).list, true, true},
	wire.MethodResourcesTemplatesList: {sallyport.KindResource, (*post).list, true, true},
	wire.MethodResourcesSubscribe:     {sallyport.KindResource, (*post).call, true, false},
	wire.MethodResourcesUnsubscribe:   {sallyport.KindResource, (*post).call, true, false},
	wire.MethodPromptsGet:             {sallyport.KindPrompt, (*post).call, true, true},
	wire.MethodPromptsList:            {sallyport.KindPrompt, (*post).list, true, true},
	wire.MethodCompletionComplete:     {sallyport.KindCompletion, (*post).call, true, true},
	wire.MethodLoggingSetLevel:        {0, (*post).setLevel, true, false},
	wire.MethodPing:                   {0, (*post).ping, true, false},
	wire.MethodServerDiscover:         {0, (*post).discover, false, true},
	wire.MethodSubscriptionsListen:    {sallyport.KindResource, (*post).listen, false, true},
}

// post reads a message, decides its era and serves it.
func (h *Handler) post(w http.ResponseWriter, r *http.Request) {
	if !isJSON(first(r.Header, "Content-Type")) {
		refuseHTTP(w, http.StatusUnsupportedMediaType, "the Content-Type must be application/json")
		return
	}
	if e := first(r.Header, "Content-Encoding"); e != "" && e != "identity" {
		refuseHTTP(w, http.StatusUnsupportedMediaType, "encoded bodies are not accepted")
		return
	}
	json, events, named := accepts(r.Header["Accept"])
	if !json || !events {
		refuseHTTP(w, http.StatusNotAcceptable, "the client must accept application/json and text/event-stream")
		return
	}
	credential, ok := h.credential(w, r)
	if !ok {
		return
	}
	body, err := h.readBody(w, r, credential)
	if err != nil {
		var tooLarge *http.MaxBytesError
		var stranger *sallyport.Refusal
		w.Header().Set("Connection", "close") // the rest of the body is not waited for
		if errors.As(err, &stranger) {
			challenge(w, r, true)
			refuseHTTP(w, http.StatusUnauthorized, stranger.Reason)
		} else if errors.As(err, &tooLarge) {
			refuseHTTP(w, http.StatusRequestEntityTooLarge, "the body is too large")
		} else {
			refuseHTTP(w, http.StatusBadRequest, "the body could not be read whole")
		}
		return
	}
	p := &post{h: h, w: w, r: r, credential: credential}
	p.answer.init(p, named)
	if p.m, err = wire.Scan(body, h.limits); err != nil {
		p.failWith(http.StatusBadRequest, err)
		return
	}
	if !p.decideEra() {
		return
	}
	if p.era == wire.Stateless {
		p.serveStateless()
	} else {
		p.serveSession()
	}
}

// credential takes the bearer token of a request, or answers it with 401.
func (h *Handler) credential(w http.ResponseWriter, r *http.Request) (string, bool) {
	if r.URL.RawQuery != "" {
		// Addresses end up in logs: a credential is never read from one, and
		// nothing else is looked for there (RFC 6750 section 5.3).
		refuseHTTP(w, http.StatusBadRequest, "the address takes no query: send the credential in the Authorization header")
		return "", false
	}
	credential, ok := bearer(r.Header)
	if !ok {
		presented := r.Header["Authorization"] != nil
		challenge(w, r, presented)
		text := "no credential was sent: the client has to send the header Authorization: Bearer sp_... (sallyport connect says where it is configured)"
		if presented {
			// Mostly a variable that a client put in as it stood, or as nothing.
			text = "the Authorization header holds no bearer credential: if the client takes it from a variable, set that where the client is started"
		}
		refuseHTTP(w, http.StatusUnauthorized, text)
	}
	return credential, ok
}

// readBody reads the whole body, at most MaxBody bytes. The bytes are not reused
// for another request: an upstream's transport may still be reading them after
// the call has returned. Its error is a refusal with code unauthenticated where
// somebody who is not known sends a long one.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, credential string) ([]byte, error) {
	const trust = 64 << 10 // of a declared length, or of a stranger
	known := false
	if r.ContentLength > int64(h.MaxBody) {
		return nil, &http.MaxBytesError{Limit: int64(h.MaxBody)}
	}
	size := r.ContentLength
	if size < 0 || size > trust {
		size = trust
	}
	// One byte more than declared, so that the end is seen without growing.
	buf := make([]byte, 0, size+1)
	for {
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > h.MaxBody {
			return nil, &http.MaxBytesError{Limit: int64(h.MaxBody)}
		}
		if err == io.EOF {
			http.NewResponseController(w).SetReadDeadline(time.Time{})
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if !known && len(buf) > trust {
			if _, err := h.Gateway.Describe(r.Context(), credential); err != nil {
				if refusal := h.refusal(err); refusal.Code == sallyport.Unauthenticated {
					return nil, refusal
				}
			}
			known = true // what else keeps the call from being made is recorded with it
		}
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
	}
}

// decideEra decides by the header and the body together which era the request
// is in. Where they say different things nothing is served: two readers of the
// request would see two requests.
func (p *post) decideEra() bool {
	header, meta := first(p.r.Header, wire.HeaderVersion), p.m.MetaVersion
	switch {
	case header != "" && meta != "" && header != meta:
		p.fail(http.StatusBadRequest, wire.HeaderMismatch,
			"the MCP-Protocol-Version header and "+wire.MetaProtocolVersion+" differ", nil)
	case header == "" && meta != "" && !legacy(meta):
		p.fail(http.StatusBadRequest, wire.HeaderMismatch, "the MCP-Protocol-Version header is missing", nil)
	case header == wire.Version20260728:
		p.era = wire.Stateless
		return true
	case header == "", legacy(header):
		p.era = wire.Sessions
		return true
	default:
		data := append([]byte(`{"supported":`+supported+`,"requested":`), wire.AppendString(nil, header)...)
		p.fail(http.StatusBadRequest, wire.UnsupportedVersion, "unsupported protocol version", append(data, '}'))
	}
	return false
}

// supported are the versions in which the endpoint answers.
const supported = `["` + wire.Version20260728 + `","` + wire.Version20251125 + `","` + wire.Version20250618 + `"]`

// legacy reports whether a version has sessions. Requests of all of them are read
// alike; which one a session is in was agreed on when it was opened.
func legacy(version string) bool {
	return version == wire.Version20251125 || version == wire.Version20250618 || version == "2025-03-26"
}

// serveStateless serves a message of version 2026-07-28.
func (p *post) serveStateless() {
	if p.m.Kind == wire.Result || p.m.Kind == wire.Error {
		p.m.ID = wire.Span{} // it names no request of the client's
		p.fail(http.StatusBadRequest, wire.InvalidRequest, "clients do not send responses in this version of the protocol", nil)
		return
	}
	if err := wire.CheckHeaders(p.r.Header, &p.m); err != nil {
		p.failWith(http.StatusBadRequest, err)
		return
	}
	if p.m.Kind == wire.Request && p.m.Params.Present() && p.passedBack() {
		return
	}
	if p.m.Kind == wire.Notification {
		// This version has none that a server expects over HTTP: closing the
		// stream is what cancels.
		p.w.WriteHeader(http.StatusAccepted)
		return
	}
	v, ok := verbs[p.m.Method]
	if !ok || !v.stateless {
		p.fail(http.StatusNotFound, wire.MethodNotFound, unknown(p.m.Method), nil)
		return
	}
	level, ok, err := wire.Field(p.m.Meta.Of(p.m.Raw), wire.MetaLogLevel)
	if err != nil {
		p.failWith(http.StatusBadRequest, err)
		return
	}
	p.answer.least = levelNever // who asks for no messages gets none
	if ok {
		if p.answer.least, ok = levelOf(level); !ok {
			p.fail(http.StatusBadRequest, wire.InvalidParams, "the log level is not one of the protocol's", nil)
			return
		}
	}
	// The end of the connection is the cancellation.
	p.ctx = p.r.Context()
	v.serve(p, v.kind)
}

// unknown says that there is no such method.
func unknown(method string) string {
	if strings.HasPrefix(method, "tasks/") {
		return "method not found: tasks are not served here"
	}
	return "method not found"
}

// call makes a governed call.
func (p *post) call(kind sallyport.Kind) { p.reply(kind, p.approved(kind)) }

func (p *post) exchange(kind sallyport.Kind) *gateway.Exchange {
	p.x = gateway.Exchange{Credential: p.credential, Era: p.era, Kind: kind, Message: p.m, Headers: p.r.Header}
	if p.session != nil {
		p.x.Session = &p.session.Session
	}
	return &p.x
}

// callContext lets gateway.Session.Ask find the call that a question of an
// upstream belongs to.
type callContext struct {
	context.Context
	p *post
}

type callKey struct{}

func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return c.p
	}
	return c.Context.Value(key)
}
