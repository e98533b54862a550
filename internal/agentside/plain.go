package agentside

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/openapi"
	"sallyport/internal/wire"
)

// PlainPath is what the addresses of HTTP APIs begin with: a name and the API's own path
// follow.
const PlainPath = "/worlds/"

// mark is what the credentials of this installation begin with, and secret is their form:
// other values may begin with it, too.
const mark = "sp_"

var secret = regexp.MustCompile("^" + mark + "[a-z]+_[A-Za-z0-9_-]{43}$")

// Plain is what callers by plain HTTP need. Both are required.
type Plain struct {
	// At returns what a credential finds at a name. Its error is a *sallyport.Refusal.
	At func(ctx context.Context, credential, name string) (*gateway.Plain, error)
	// Refuse answers with a refusal, in a status of its own if that is not zero. The
	// refusal's Detail is left out.
	Refuse func(w http.ResponseWriter, status int, r *sallyport.Refusal)
}

// ServePlain serves callers that speak to an HTTP API as if it were here, at
// PlainPath. Each request becomes one call of the tool that is the API's operation, by
// the same gateway and under the same credentials as calls by MCP; what comes back is
// answered as the API would. A request that is for no operation is no call.
func (h *Handler) ServePlain(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = headerNoStore
	if !h.enter() {
		h.Plain.Refuse(w, 0, sallyport.Refuse(sallyport.NotReady, "the server is shutting down", "try again later"))
		return
	}
	defer h.running.Done()
	if !h.admits(w, r) {
		return
	}
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), PlainPath), "/")
	credential, from := presented(r)
	if credential == "" {
		h.stranger(w, "no credential was sent, or several", "put the run token or agent key where the API's own credential goes, or send it as Authorization: Bearer sp_...")
		return
	}
	at, err := h.Plain.At(r.Context(), credential, name)
	if err != nil {
		h.refusePlain(w, "", h.refusal(err))
		return
	}
	if from.In != "" && !slices.ContainsFunc(at.Keys, func(k openapi.Key) bool {
		return k.In == from.In && (k.Name == from.Name || k.In == "header" && strings.EqualFold(k.Name, from.Name))
	}) {
		h.stranger(w, "this API takes no credential in that place", "send it as Authorization: Bearer sp_...")
		return
	}
	m, allowed := at.Find(r.Method, "/"+path)
	if m == nil && r.Method == http.MethodHead && slices.Contains(allowed, http.MethodGet) {
		m, _ = at.Find(http.MethodGet, "/"+path) // net/http keeps the body to itself
	}
	if m == nil {
		h.nothing(w, r, at, path, allowed)
		return
	}
	if m.Twice() {
		h.Plain.Refuse(w, 0, sallyport.Refuse(sallyport.Conflict, "several APIs at this name have this operation", "ask for one of them by its own name: "+PlainPath+m.Owner+"/"))
		return
	}
	message, ok := h.readPlain(w, r, credential, m, at.Keys)
	if !ok {
		return
	}
	x := &gateway.Exchange{Credential: credential, Era: wire.Stateless, Kind: sallyport.KindTool, Message: message, Headers: http.Header{}, Mute: true} // no header is MCP's
	reply := h.Gateway.Call(r.Context(), x)
	switch {
	case reply.Refusal != nil:
		h.refusePlain(w, x.ID, reply.Refusal)
	case reply.Error != nil: // no answer of an HTTP API, so it has none
		h.refusePlain(w, x.ID, sallyport.Refuse(sallyport.UpstreamProtocol, "the system behind this answered with an error of a protocol that it does not speak", "try again later"))
	default:
		answer, err := m.Response(reply.Result)
		if err != nil {
			h.refusePlain(w, x.ID, h.refusal(err))
			return
		}
		writePlain(w, answer)
	}
}

// presented is the one credential of a request and, unless it is the bearer's, where it
// was found: any place will do, until it is known what the API's own are. "" if there is
// none, or more than one.
func presented(r *http.Request) (credential string, from openapi.Key) {
	n := 0
	found := func(value string, k openapi.Key) {
		if strings.HasPrefix(value, mark) && secret.MatchString(value) {
			credential, from = value, k
			n++
		}
	}
	for name, values := range r.Header {
		for _, value := range values {
			switch name {
			case "Authorization":
				scheme, rest, _ := strings.Cut(value, " ")
				switch {
				case strings.EqualFold(scheme, "bearer"):
					found(strings.TrimSpace(rest), openapi.Key{})
				case strings.EqualFold(scheme, "basic"):
					both, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
					user, password, ok := strings.Cut(string(both), ":")
					if err == nil && ok {
						found(user, openapi.Key{In: "basic"})
						found(password, openapi.Key{In: "basic"})
					}
				default: // as it is, or behind a word such as "token"
					found(value[strings.LastIndexByte(value, ' ')+1:], openapi.Key{In: "header", Name: name})
				}
			case "Cookie":
			default:
				found(value, openapi.Key{In: "header", Name: name})
			}
		}
	}
	for _, c := range r.Cookies() {
		found(c.Value, openapi.Key{In: "cookie", Name: c.Name})
	}
	if strings.Contains(r.URL.RawQuery, mark) {
		for name, values := range r.URL.Query() {
			for _, value := range values {
				found(value, openapi.Key{In: "query", Name: name})
			}
		}
	}
	if n != 1 {
		return "", openapi.Key{}
	}
	return credential, from
}

// stranger answers who presents nothing that could be looked at.
func (h *Handler) stranger(w http.ResponseWriter, why, hint string) {
	h.Plain.Refuse(w, 0, sallyport.Refuse(sallyport.Unauthenticated, why, hint))
}

// nothing answers a request that is for no operation.
func (h *Handler) nothing(w http.ResponseWriter, r *http.Request, at *gateway.Plain, path string, allowed []string) {
	if len(allowed) > 0 {
		if slices.Contains(allowed, http.MethodGet) && !slices.Contains(allowed, http.MethodHead) {
			allowed = append(allowed, http.MethodHead)
		}
		if !slices.Contains(allowed, http.MethodOptions) {
			allowed = append(allowed, http.MethodOptions)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Plain.Refuse(w, http.StatusMethodNotAllowed, sallyport.Refuse(sallyport.BadRequest, "this path is not asked with "+r.Method, "use "+strings.Join(allowed, ", ")))
		return
	}
	refusal := sallyport.Refuse(sallyport.NotFound, "the API has no operation at this path", "")
	all := at.Paths()
	if near := sallyport.Nearest(r.Method+" /"+path, all); len(near) > 0 {
		refusal.Hint = "did you mean " + near[0] + "?"
	} else if len(all) > 0 {
		refusal.Hint = "there is " + strings.Join(all[:min(len(all), 5)], ", ")
	}
	h.Plain.Refuse(w, 0, refusal)
}

// readPlain makes the call that a request asks for, or answers the request.
func (h *Handler) readPlain(w http.ResponseWriter, r *http.Request, credential string, m *openapi.Match, keys []openapi.Key) (wire.Message, bool) {
	fail := func(status int, why, hint string) (wire.Message, bool) {
		h.Plain.Refuse(w, status, sallyport.Refuse(sallyport.BadRequest, why, hint))
		return wire.Message{}, false
	}
	if e := first(r.Header, "Content-Encoding"); e != "" && e != "identity" {
		return fail(http.StatusUnsupportedMediaType, "encoded bodies are not accepted", "send the body as it is")
	}
	body, err := h.readBody(w, r, credential)
	if err != nil {
		w.Header().Set("Connection", "close") // the rest of the body is not waited for
		if errors.As(err, new(*http.MaxBytesError)) {
			return fail(http.StatusRequestEntityTooLarge, "the body is too large", "send less at a time")
		}
		if stranger := (*sallyport.Refusal)(nil); errors.As(err, &stranger) {
			h.refusePlain(w, "", stranger)
			return wire.Message{}, false
		}
		return fail(0, "the body could not be read whole", "send it again")
	}
	in := &openapi.Incoming{Query: r.URL.RawQuery, Header: r.Header, Body: body, Keys: keys}
	args, err := m.Arguments(in)
	switch {
	case errors.Is(err, openapi.ErrMedia):
		return fail(http.StatusUnsupportedMediaType, err.Error(), "send it as the API describes it")
	case err != nil:
		return fail(0, err.Error(), "correct the request and send it again")
	}
	if bytes.Contains(args, []byte(credential)) { // it would be sent on, and kept
		return fail(0, "the credential is part of what is asked for as well", "send it in the place of a credential alone")
	}
	raw := wire.AppendString([]byte(`{"jsonrpc":"2.0","id":1,"method":"`+wire.MethodToolsCall+`","params":{"name":`), m.Name)
	raw = append(append(append(raw, `,"arguments":`...), args...), `}}`...)
	message, err := wire.Scan(raw, h.limits)
	if err != nil {
		return fail(0, "the request cannot be carried: "+err.Error(), "send less at a time, or nest it less deeply")
	}
	return message, true
}

// refusePlain says that something did not happen. call is its id, if it is one.
func (h *Handler) refusePlain(w http.ResponseWriter, call sallyport.CallID, r *sallyport.Refusal) {
	if call != "" {
		w.Header().Set("X-Request-Id", string(call))
	}
	wait := time.Duration(0)
	switch ms, ok := r.Detail["retry_after_ms"].(int64); {
	case ok:
		wait = time.Duration(ms) * time.Millisecond
	case r.Code == sallyport.TooBusy, r.Code == sallyport.NotReady:
		wait = time.Second
	}
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	h.Plain.Refuse(w, 0, r)
}

// writePlain answers as the API would. What it says may come from anywhere: to a browser
// that shows it, it is no page of this address.
func writePlain(w http.ResponseWriter, a *openapi.Response) {
	header := w.Header()
	header["X-Content-Type-Options"] = headerNoSniff
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if a.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(a.RetryAfter))
	}
	if a.Status == http.StatusNoContent || a.Status == http.StatusNotModified {
		w.WriteHeader(a.Status)
		return
	}
	if len(a.Body) > 0 {
		media := a.Media
		if a.Charset != "" {
			media += "; charset=" + a.Charset
		}
		header["Content-Type"] = []string{media}
	}
	header["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	if len(a.Body) > 32<<10 {
		control := http.NewResponseController(w)
		control.SetWriteDeadline(time.Now().Add(writeTime))
		defer control.SetWriteDeadline(time.Time{})
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the client may be gone
}
