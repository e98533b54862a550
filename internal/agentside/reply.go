package agentside

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// codeRefused is the JSON-RPC error code of a refusal that is no tool result. It
// lies outside the range that JSON-RPC and MCP keep for themselves, as new codes
// should (MCP 2026-07-28, basic, "Error Codes").
const codeRefused = -31003

// metaRefusal is where a tool result says in _meta that it is a refusal.
const metaRefusal = "sallyport/refusal"

// buffers holds buffers for answers, which nobody reads once they are written.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const keepBuffer = 256 << 10 // larger ones are left to the collector

func putBuffer(b *[]byte) {
	if cap(*b) <= keepBuffer {
		buffers.Put(b)
	}
}

// reply sends what the gateway gave. kind is zero for what is no call.
func (p *post) reply(kind sallyport.Kind, r gateway.Reply) {
	switch {
	case r.Refusal != nil:
		p.refuse(kind, r.Refusal)
	case r.Error != nil:
		status := http.StatusOK
		if p.era == wire.Stateless {
			status = statusOf(r.Error)
		}
		p.send(status, `,"error":`, r.Error)
	case r.Result != nil:
		p.send(http.StatusOK, `,"result":`, r.Result)
	default:
		p.refuse(kind, p.h.refusal(errors.New("a reply with nothing in it")))
	}
}

// statusOf is the HTTP status that the stateless era asks for with an error of an
// upstream. Where it asks for none the error is an answer like any other.
func statusOf(failure []byte) int {
	code, _, err := wire.Field(failure, "code")
	if err != nil {
		return http.StatusOK
	}
	switch string(code) {
	case strconv.Itoa(wire.MethodNotFound):
		return http.StatusNotFound
	case strconv.Itoa(wire.MissingClientCapability):
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// refuse says that something did not happen, in the form that whoever asked can
// act on: to a model as the result of its tool, otherwise as an error.
func (p *post) refuse(kind sallyport.Kind, r *sallyport.Refusal) {
	text := "Refused (" + string(r.Code) + "): " + r.Reason
	if r.Hint != "" {
		text = strings.TrimSuffix(text, ".") + ". " + r.Hint
	}
	detail := p.appendRefusal(nil, r)
	if r.Code == sallyport.Unauthenticated {
		if !p.answer.close() {
			challenge(p.w, p.r, true)
		}
		p.fail(http.StatusUnauthorized, codeRefused, text, detail)
		return
	}
	if r.Code == sallyport.HeaderMismatch {
		// A fault of the client's, which it corrects itself, if need be from the tools as
		// they are now (MCP 2026-07-28, Streamable HTTP, "Server Validation").
		p.fail(http.StatusBadRequest, wire.HeaderMismatch, text, append(append([]byte(`{"refusal":`), detail...), '}'))
		return
	}
	// What is wrong with the envelope is for the client too.
	if kind == sallyport.KindTool && r.Code != sallyport.BadRequest {
		meta := append([]byte(`{"`+metaRefusal+`":`), detail...)
		if p.era == wire.Stateless {
			meta = append(append(meta, `,"`+wire.MetaServerInfo+`":`...), p.h.serverInfo...)
		}
		p.send(http.StatusOK, `,"result":`, wire.ToolError(nil, p.era, text, append(meta, '}')))
		return
	}
	data := append(append([]byte(`{"refusal":`), detail...), '}')
	p.fail(http.StatusOK, errorCode(r.Code, kind, p.era), text, data)
}

// errorCode is the JSON-RPC code of a refusal.
func errorCode(c sallyport.Code, kind sallyport.Kind, era wire.Era) int {
	switch c {
	case sallyport.BadRequest, sallyport.InvalidArguments:
		return wire.InvalidParams
	case sallyport.NotFound:
		if kind == sallyport.KindResource && era == wire.Sessions {
			return wire.ResourceNotFound
		}
		return wire.InvalidParams
	case sallyport.Internal500:
		return wire.InternalError
	}
	return codeRefused
}

// appendRefusal writes what an agent may know of a refusal. Detail is for people. The id
// of the call is told where nothing else is: any other refusal is the same, to the last
// byte, in every run that makes the same calls.
func (p *post) appendRefusal(dst []byte, r *sallyport.Refusal) []byte {
	dst = wire.AppendString(append(dst, `{"code":`...), string(r.Code))
	dst = wire.AppendString(append(dst, `,"reason":`...), r.Reason)
	if r.Hint != "" {
		dst = wire.AppendString(append(dst, `,"hint":`...), r.Hint)
	}
	if p.x.ID != "" && (r.Code == sallyport.Internal500 || r.Code == sallyport.RecordFailed) {
		dst = wire.AppendString(append(dst, `,"call":`...), string(p.x.ID))
	}
	return append(dst, '}')
}

// refusal is the refusal in an error of the gateway. Any other error is a fault:
// it is logged, and its text stays here.
func (h *Handler) refusal(err error) *sallyport.Refusal {
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		return r
	}
	if !errors.Is(err, context.Canceled) {
		h.Log.Error("a request of an agent met a fault", "err", err)
	}
	return sallyport.Refuse(sallyport.Internal500, "the gateway met a fault of its own", "try again later")
}

// failWith answers with what package wire found wrong.
func (p *post) failWith(status int, err error) {
	code := wire.InvalidRequest
	var s *wire.SyntaxError
	if errors.As(err, &s) {
		code = s.Code
	}
	p.fail(status, code, err.Error(), nil)
}

// fail answers with a JSON-RPC error, without an id if the message has none that
// can be answered. data is JSON or nil.
func (p *post) fail(status, code int, message string, data []byte) {
	if p.m.Kind == wire.Notification {
		p.m.ID = wire.Span{}
	}
	b := buffers.Get().(*[]byte)
	*b = wire.AppendError((*b)[:0], p.m.ID.Of(p.m.Raw), code, message, data)
	p.answer.end(status, *b)
	putBuffer(b)
}

// send answers the request with a value, which is not touched.
func (p *post) send(status int, member string, value []byte) {
	id := p.m.ID.Of(p.m.Raw)
	b := buffers.Get().(*[]byte)
	*b = append((*b)[:0], `{"jsonrpc":"2.0","id":`...)
	*b = append(append(*b, id...), member...)
	if len(value) <= keepBuffer/2 {
		*b = append(append(*b, value...), '}')
		p.answer.end(status, *b)
	} else {
		p.answer.end(status, *b, value, closingBrace)
	}
	putBuffer(b)
}

var closingBrace = []byte{'}'}

// writeJSON writes one JSON document in pieces.
func writeJSON(w http.ResponseWriter, status int, pieces ...[]byte) {
	size := 0
	for _, piece := range pieces {
		size += len(piece)
	}
	if size > 32<<10 { // less fits into the buffers of a connection
		control := http.NewResponseController(w)
		control.SetWriteDeadline(time.Now().Add(writeTime))
		defer control.SetWriteDeadline(time.Time{})
	}
	header := w.Header()
	header["Content-Type"] = headerJSON
	header["Content-Length"] = []string{strconv.Itoa(size)}
	w.WriteHeader(status)
	for _, piece := range pieces {
		if _, err := w.Write(piece); err != nil {
			return // the client is gone
		}
	}
}
