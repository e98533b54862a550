package stdiobridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"sallyport/internal/wire"
)

const (
	typeJSON   = "application/json"
	typeEvents = "text/event-stream"
	// maxComplaint bounds what is repeated of an answer that is no message.
	maxComplaint = 500
)

// outcome is what came of a POST.
type outcome struct {
	status int
	header http.Header
	// answer is the response to the request, nil if none came; then why says what
	// happened, and sent whether the request may have reached the server.
	answer *wire.Message
	why    string
	sent   sent
}

// do makes one HTTP request. Its body is never sent twice, except by the transport
// when it knows that not a byte of it had been written.
func (b *bridge) do(ctx context.Context, method string, h http.Header, body []byte) (*http.Response, error) {
	credential, err := b.Credential()
	if err != nil {
		return nil, &credentialError{err}
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, b.URL, r)
	if err != nil {
		return nil, err
	}
	for name, values := range h {
		req.Header[name] = values
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	return b.client.Do(req)
}

type credentialError struct{ error }

// post sends a message and reads what comes back until the response to it is
// there. Whatever comes before is passed on at once. written is called when the
// message has been sent.
func (b *bridge) post(ctx context.Context, m *wire.Message, h http.Header, written func()) outcome {
	var reached atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { reached.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { written() },
	})
	h.Set("Content-Type", typeJSON)
	h.Set("Accept", typeJSON+", "+typeEvents)
	resp, err := b.do(ctx, http.MethodPost, h, m.Raw)
	if err != nil {
		return outcome{why: b.unreachable(err, reached.Load()), sent: sent(reached.Load())}
	}
	defer resp.Body.Close()
	out := outcome{status: resp.StatusCode, header: resp.Header, sent: maybeSent}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case kind == typeEvents && resp.StatusCode == http.StatusOK:
		b.events(resp.Body, m, &out)
	case kind == typeJSON:
		b.document(resp, m, &out)
	case m.Kind != wire.Request && resp.StatusCode < 300:
		// Accepted: there is nothing more to it.
	default:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxComplaint))
		out.why = complaint(resp, string(text))
		out.sent = sent(resp.StatusCode >= 500 || resp.StatusCode < 300)
	}
	return out
}

// document reads an answer that is one JSON document.
func (b *bridge) document(resp *http.Response, m *wire.Message, out *outcome) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, int64(b.MaxMessage)+1))
	switch {
	case err != nil:
		out.why = "the connection broke while the answer was being read: " + plain(err)
		return
	case len(raw) > b.MaxMessage:
		out.why = fmt.Sprintf("the answer has more than %d bytes", b.MaxMessage)
		return
	}
	got, err := wire.Scan(raw, wire.Limits{Bytes: b.MaxMessage})
	switch {
	case err != nil:
		out.why = complaint(resp, "what it sent is no message: "+err.Error())
	case answers(&got, m):
		out.answer = &got
	case got.Kind == wire.Error && !got.ID.Present():
		text, _, _ := wire.Field(got.Error.Of(got.Raw), "message")
		said, _ := wire.DecodeString(text)
		out.why = complaint(resp, said)
		out.sent = sent(resp.StatusCode >= 500)
	default:
		out.why = complaint(resp, "what it sent answers another request")
	}
}

// events passes the messages of a stream on, up to the response.
func (b *bridge) events(body io.Reader, m *wire.Message, out *outcome) {
	events := wire.NewEventReader(body, b.MaxMessage)
	for {
		e, err := events.Next()
		if err != nil {
			if err == io.EOF {
				out.why = "the server ended its answer before the response: it may have been stopped; look at what became of the call before you make it again"
			} else {
				out.why = "the connection broke before the response came: " + plain(err) + "; look at what became of the call before you make it again"
			}
			return
		}
		got, ok := b.event(e)
		if !ok {
			continue
		}
		if answers(&got, m) {
			out.answer = &got
			return
		}
		b.emit(got.Raw)
	}
}

// event is the message of an event, false if it has none.
func (b *bridge) event(e wire.Event) (wire.Message, bool) {
	if e.Type != "message" || len(e.Data) == 0 {
		return wire.Message{}, false
	}
	got, err := wire.Scan(e.Data, wire.Limits{Bytes: b.MaxMessage})
	if err != nil {
		b.Say("an event of the server is no message: " + err.Error())
		return wire.Message{}, false
	}
	if got.Kind == wire.Notification && got.Method == wire.NotificationToolsListChanged {
		b.mu.Lock()
		b.tools = toolHeaders{}
		b.mu.Unlock()
	}
	return got, true
}

// answers reports whether a message is the response to a request.
func answers(got, m *wire.Message) bool {
	return (got.Kind == wire.Result || got.Kind == wire.Error) && m.Kind == wire.Request && bytes.Equal(got.ID.Of(got.Raw), m.ID.Of(m.Raw))
}

// unreachable says why there is no answer at all.
func (b *bridge) unreachable(err error, reached bool) string {
	var bad *credentialError
	switch {
	case errors.As(err, &bad):
		return "there is no credential to send: " + bad.Error()
	case reached:
		return "the connection broke before an answer came: " + plain(err) + "; look at what became of the call before you make it again"
	default:
		return "no server answers at " + b.URL + ": " + plain(err) + "; nothing was sent; start it with: sallyport up"
	}
}

// plain is what an error of net/http says, without the address.
func plain(err error) string {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "connection refused"
	}
	return err.Error()
}

// complaint is what a server says that does not answer with a message.
func complaint(resp *http.Response, text string) string {
	said := "the server answered " + resp.Status
	if text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " "); text != "" {
		said += ": " + text
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		said += "; the credential is not valid (any more): make another with sallyport keys agent, or sallyport connect --new-key"
	case http.StatusRequestEntityTooLarge:
		said += "; limits.body in sallyport.yaml says how large a message may be"
	}
	return said
}

// toolHeaders are the arguments of tools that a request has to repeat in headers,
// as far as listings said so. Clients that speak stdio know nothing of it.
type toolHeaders struct {
	byName map[string][]wire.ParamHeader
	asked  bool // the bridge has listed the tools by itself
}

// learn notes what a listing says of the tools that the client was given, and
// forgets what a server says is wrong.
func (b *bridge) learn(m, answer *wire.Message) {
	if answer.Kind == wire.Error {
		code, _, err := wire.Field(answer.Error.Of(answer.Raw), "code")
		if err == nil && string(code) == strconv.Itoa(wire.HeaderMismatch) {
			b.mu.Lock()
			b.tools = toolHeaders{}
			b.mu.Unlock()
		}
		return
	}
	if m.Method == wire.MethodToolsList {
		b.note(answer)
	}
}

// note keeps what a page of a listing says, and returns where the next one is.
func (b *bridge) note(answer *wire.Message) (cursor string) {
	items, cursor, err := wire.Items(answer.Result.Of(answer.Raw), "tools")
	if err != nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tools.byName == nil {
		b.tools.byName = map[string][]wire.ParamHeader{}
	}
	for _, tool := range items {
		quoted, _, err := wire.Field(tool, "name")
		if err != nil {
			continue
		}
		name, err := wire.DecodeString(quoted)
		if err != nil {
			continue
		}
		input, _, err := wire.Field(tool, "inputSchema")
		if err != nil || input == nil {
			continue
		}
		if headers, err := wire.ParamHeaders(input); err == nil {
			b.tools.byName[name] = headers
		}
	}
	return cursor
}

// maxPages bounds a listing that the bridge makes by itself.
const maxPages = 100

// paramHeaders sets the headers that repeat arguments. A tool that the client has
// not listed is looked for once.
func (b *bridge) paramHeaders(ctx context.Context, h http.Header, m *wire.Message) error {
	b.mu.Lock()
	headers, known := b.tools.byName[m.Name]
	ask := !known && !b.tools.asked
	b.tools.asked = b.tools.asked || ask
	b.mu.Unlock()
	if ask {
		b.listTools(ctx, m)
		b.mu.Lock()
		headers = b.tools.byName[m.Name]
		b.mu.Unlock()
	}
	return wire.SetParamHeaders(h, headers, m.Arguments.Of(m.Raw))
}

// listTools asks for all tools, in the version and with the capabilities of a
// request of the client's.
func (b *bridge) listTools(ctx context.Context, m *wire.Message) {
	cursor := ""
	for range maxPages {
		params := []byte("{")
		if cursor != "" {
			params = append(wire.AppendString(append(params, `"cursor":`...), cursor), ',')
		}
		params = wire.AppendString(append(params, `"_meta":{"`+wire.MetaProtocolVersion+`":`...), m.MetaVersion)
		params = append(params, `,"`+wire.MetaClientInfo+`":{"name":"sallyport-bridge","version":"1"},"`+wire.MetaClientCapabilities+`":`...)
		params = append(append(params, m.ClientCapabilities.Of(m.Raw)...), "}}"...)
		if !m.ClientCapabilities.Present() {
			return
		}
		list, err := wire.Scan(wire.AppendRequest(nil, []byte(`"sallyport-bridge"`), wire.MethodToolsList, params), wire.Limits{})
		if err != nil {
			return
		}
		h := http.Header{}
		wire.SetHeaders(h, &list, m.MetaVersion)
		out := b.post(ctx, &list, h, func() {})
		if out.answer == nil || out.answer.Kind != wire.Result {
			return
		}
		if cursor = b.note(out.answer); cursor == "" {
			return
		}
	}
}
