package demo

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"

	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// server is one MCP server over streamable HTTP. It answers every request with
// JSON and never opens a stream of its own.
type server struct {
	name         string
	company      *Company
	token        string
	info         []byte // JSON
	instructions string
	definitions  [][]byte
	tools        map[string]tool

	mu       sync.Mutex
	sessions map[string]bool
}

type tool struct {
	input *schema.Schema
	run   run
}

const (
	capabilities = `{"tools":{}}`
	maxBody      = 1 << 20
	maxSessions  = 1000
)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := []byte("Bearer " + s.token)
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "a bearer token is required", http.StatusUnauthorized)
		return
	}
	switch r.Method {
	case http.MethodPost:
		s.post(w, r)
	case http.MethodDelete:
		id := r.Header.Get(wire.HeaderSessionID)
		s.mu.Lock()
		known := s.sessions[id]
		delete(s.sessions, id)
		s.mu.Unlock()
		if !known {
			http.Error(w, "no such session", http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "POST, DELETE")
		http.Error(w, "only POST and DELETE are served", http.StatusMethodNotAllowed)
	}
}

func (s *server) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusRequestEntityTooLarge)
		return
	}
	m, err := wire.Scan(body, wire.Limits{Bytes: maxBody})
	if err != nil {
		fault(w, http.StatusBadRequest, &m, err)
		return
	}
	version := r.Header.Get(wire.HeaderVersion)
	if era, known := wire.EraOf(version); m.MetaVersion != "" || era == wire.Stateless {
		if m.MetaVersion != "" && m.MetaVersion == version && !known {
			data := fmt.Appendf(nil, `{"supported":[%q,%q],"requested":%s}`, wire.Version20260728, wire.Version20251125, wire.AppendString(nil, version))
			send(w, http.StatusBadRequest, wire.AppendError(nil, m.ID.Of(m.Raw), wire.UnsupportedVersion, "this version is not supported", data))
			return
		}
		if err := wire.CheckHeaders(r.Header, &m); err != nil {
			fault(w, http.StatusBadRequest, &m, err)
			return
		}
		s.stateless(w, &m)
		return
	}
	s.inSession(w, r, &m)
}

// stateless serves MCP 2026-07-28.
func (s *server) stateless(w http.ResponseWriter, m *wire.Message) {
	if m.Kind != wire.Request {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	var result []byte
	switch m.Method {
	case wire.MethodServerDiscover:
		result = fmt.Appendf(nil, `{"resultType":"complete","supportedVersions":[%q,%q],"capabilities":%s,"instructions":%q,"ttlMs":60000,"cacheScope":"public"`,
			wire.Version20260728, wire.Version20251125, capabilities, s.instructions)
	case wire.MethodToolsList:
		result = append(s.list([]byte(`{"resultType":"complete",`)), `,"ttlMs":60000,"cacheScope":"public"`...)
	case wire.MethodToolsCall:
		if s.tools[m.Name].run == nil {
			send(w, http.StatusOK, wire.AppendError(nil, m.ID.Of(m.Raw), wire.InvalidParams, "unknown tool", nil))
			return
		}
		result = s.call([]byte(`{"resultType":"complete",`), m, wire.Stateless)
	default:
		send(w, http.StatusNotFound, wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "unknown method", nil))
		return
	}
	result = fmt.Appendf(result, `,"_meta":{%q:%s}}`, wire.MetaServerInfo, s.info)
	send(w, http.StatusOK, wire.AppendResult(nil, m.ID.Of(m.Raw), result))
}

// inSession serves MCP 2025-11-25 and the versions before it that have sessions.
func (s *server) inSession(w http.ResponseWriter, r *http.Request, m *wire.Message) {
	if m.Method == wire.MethodInitialize && m.Kind == wire.Request {
		s.initialize(w, m)
		return
	}
	id := r.Header.Get(wire.HeaderSessionID)
	s.mu.Lock()
	known := s.sessions[id]
	s.mu.Unlock()
	switch {
	case id == "":
		fault(w, http.StatusBadRequest, m, &wire.SyntaxError{Code: wire.InvalidRequest, Reason: "the session id is missing"})
		return
	case !known:
		fault(w, http.StatusNotFound, m, &wire.SyntaxError{Code: wire.InvalidRequest, Reason: "no such session"})
		return
	case m.Kind != wire.Request:
		w.WriteHeader(http.StatusAccepted)
		return
	}
	var result []byte
	switch m.Method {
	case wire.MethodPing:
		result = []byte(`{`)
	case wire.MethodToolsList:
		result = s.list([]byte(`{`))
	case wire.MethodToolsCall:
		if s.tools[m.Name].run == nil {
			send(w, http.StatusOK, wire.AppendError(nil, m.ID.Of(m.Raw), wire.InvalidParams, "unknown tool", nil))
			return
		}
		result = s.call([]byte(`{`), m, wire.Sessions)
	default:
		send(w, http.StatusOK, wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "unknown method", nil))
		return
	}
	send(w, http.StatusOK, wire.AppendResult(nil, m.ID.Of(m.Raw), append(result, '}')))
}

func (s *server) initialize(w http.ResponseWriter, m *wire.Message) {
	var params struct{ ProtocolVersion string }
	_ = json.Unmarshal(m.Params.Of(m.Raw), &params) // without one, the newest is offered
	version := wire.Version20251125
	if era, ok := wire.EraOf(params.ProtocolVersion); ok && era == wire.Sessions {
		version = params.ProtocolVersion
	}
	id := rand.Text()
	s.mu.Lock()
	if len(s.sessions) >= maxSessions {
		clear(s.sessions) // their clients are told, and begin anew
	}
	s.sessions[id] = true
	s.mu.Unlock()
	w.Header().Set(wire.HeaderSessionID, id)
	result := fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":%s,"serverInfo":%s,"instructions":%q}`, version, capabilities, s.info, s.instructions)
	send(w, http.StatusOK, wire.AppendResult(nil, m.ID.Of(m.Raw), result))
}

// list appends the tools to an open object.
func (s *server) list(dst []byte) []byte {
	dst = append(dst, `"tools":[`...)
	dst = append(dst, bytes.Join(s.definitions, []byte{','})...)
	return append(dst, ']')
}

// call appends what a tool answers to an open object.
func (s *server) call(dst []byte, m *wire.Message, era wire.Era) []byte {
	args := m.Arguments.Of(m.Raw)
	t := s.tools[m.Name]
	s.company.mu.Lock()
	defer s.company.mu.Unlock()
	s.company.calls[s.name] = append(s.company.calls[s.name], Call{Tool: m.Name, Args: bytes.Clone(args), Era: era})
	if args == nil {
		args = []byte(`{}`)
	}
	complaint := ""
	var result any
	if err := t.input.Validate(args); err != nil {
		complaint = "invalid arguments: " + err.Error()
	} else {
		result, complaint = t.run(args)
	}
	if complaint != "" {
		dst = append(dst, `"content":[{"type":"text","text":`...)
		dst = wire.AppendString(dst, complaint)
		return append(dst, `}],"isError":true`...)
	}
	text, err := jsonv2.Marshal(result) // which escapes no more than JSON has to
	if err != nil {
		panic("demo: result of " + m.Name + ": " + err.Error())
	}
	dst = append(dst, `"content":[{"type":"text","text":`...)
	dst = wire.AppendString(dst, string(text))
	dst = append(dst, `}],"structuredContent":`...)
	return append(dst, text...)
}

func fault(w http.ResponseWriter, status int, m *wire.Message, err error) {
	code := wire.InvalidRequest
	var bad *wire.SyntaxError
	if errors.As(err, &bad) {
		code = bad.Code
	}
	send(w, status, wire.AppendError(nil, m.ID.Of(m.Raw), code, err.Error(), nil))
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever hung up is not waiting for it
}
