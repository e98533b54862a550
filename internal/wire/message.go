package wire

import "strconv"

// Span is a range of bytes in a message. The zero Span is that of an absent part.
type Span struct{ Start, End int }

// Of returns the bytes of the span; nil if it is absent.
func (s Span) Of(b []byte) []byte {
	if !s.Present() {
		return nil
	}
	return b[s.Start:s.End:s.End]
}

// Present reports whether there is anything at the span.
func (s Span) Present() bool { return s.End > s.Start }

// MessageKind is what a message is. The zero value is none.
type MessageKind uint8

// The kinds of messages.
const (
	Request MessageKind = iota + 1
	Notification
	Result
	Error
)

func (k MessageKind) String() string {
	switch k {
	case Request:
		return "request"
	case Notification:
		return "notification"
	case Result:
		return "result"
	case Error:
		return "error"
	default:
		return "unknown"
	}
}

// Message is one JSON-RPC message and where its parts are in Raw. Strings are
// copies; spans are of no use once Raw has changed.
type Message struct {
	Raw  []byte
	Kind MessageKind
	// ID is the id as it was written: a string with its quotes, or an integer. An
	// Error whose sender could not read the id has none.
	ID     Span
	Method string // unescaped
	// The raw values. Params, Result and Error are objects where they are present.
	Params, Result, Error Span

	// The following are members of params.

	// Name is params.name for tools/call and prompts/get, params.uri for
	// resources/* and notifications/resources/updated, and the name or uri inside
	// params.ref for completion/complete: unescaped, and in NameSpan as a token with
	// its quotes. It is absent where params has none, whatever the method demands.
	Name     string
	NameSpan Span
	// RefType is params.ref.type of completion/complete: "ref/prompt" or
	// "ref/resource".
	RefType   string
	Arguments Span // any JSON value
	// Inputs is params.inputResponses, with which a request of the stateless era is
	// made again: any JSON value.
	Inputs Span
	Cursor string // of the list methods; unescaped
	// Meta is params._meta or result._meta, an object.
	Meta Span
	// ProgressToken is params._meta.progressToken, or params.progressToken of
	// notifications/progress: a string with its quotes, or a number.
	ProgressToken Span
	// MetaVersion and ClientCapabilities are those members of params._meta that
	// every request of the stateless era carries.
	MetaVersion        string
	ClientCapabilities Span
	// RequestID is params.requestId of notifications/cancelled, written as an ID is.
	RequestID Span

	// The following are members of a result.

	ResultType                 string // "" where absent, which means "complete"
	IsError                    bool
	StructuredContent, Content Span // any JSON value
}

// Limits bound what Scan reads; zero means DefaultBytes and DefaultDepth. Depth
// counts nested objects and arrays: {"a":[]} has a depth of two.
type Limits struct{ Bytes, Depth int }

// SyntaxError says why a message, or a part of one, was refused.
type SyntaxError struct {
	// Code is the JSON-RPC error to answer with: ParseError for bytes that are not
	// one JSON value every reader reads alike, InvalidRequest for a value that is
	// not a message (or too large), and from the checks of headers HeaderMismatch or
	// InvalidParams.
	Code   int
	Reason string // begins in lower case; never repeats the sender's bytes
	Offset int    // in bytes; 0 where there is no one place
}

func (e *SyntaxError) Error() string {
	if e.Offset == 0 {
		return e.Reason
	}
	return e.Reason + " at byte " + strconv.Itoa(e.Offset)
}

// Scan reads one JSON-RPC 2.0 message (an object, with white space around it at
// most) in a single pass. Beyond the grammar of RFC 8259 it asks that names are
// unique within each object once unescaped, that text is UTF-8 without halves of
// surrogate pairs, and that no name at the top level, in params, params._meta or
// params.ref differs from one of interest there only by case. Unknown members are
// allowed. Names and strings mean the same with escapes as without.
//
// The error is a *[SyntaxError]. Then the Message holds no more than Raw and, if
// the document was read to its end and had a good one, the ID to answer to.
func Scan(raw []byte, l Limits) (Message, error) {
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.Depth == 0 {
		l.Depth = DefaultDepth
	}
	s := scanner{b: raw, depth: l.Depth}
	if !s.begin(l.Bytes) {
		return Message{Raw: raw}, s.err
	}
	if s.peek() == '[' {
		s.failAt(InvalidRequest, "a batch of messages: send them one by one", s.i)
		return Message{Raw: raw}, s.err
	}
	start := s.i
	if !s.value(inMessage) || !s.end() {
		return Message{Raw: raw}, s.err
	}
	if raw[start] != '{' {
		s.failAt(InvalidRequest, "not an object", start)
		return Message{Raw: raw}, s.err
	}
	m := Message{Raw: raw}
	if !s.assemble(&m) {
		return Message{Raw: raw, ID: m.ID}, s.err
	}
	return m, nil
}

// first returns the byte a value begins with, which tells its type; 0 if absent.
func (s *scanner) first(at slot) byte {
	if sp := s.spans[at]; sp.Present() {
		return s.b[sp.Start]
	}
	return 0
}

func (s *scanner) refuse(at slot, reason string) bool {
	return s.failAt(InvalidRequest, reason, s.spans[at].Start)
}

// text returns the text of the string at a slot, "" if it is absent.
func (s *scanner) text(at slot, what string) (string, bool) {
	switch s.first(at) {
	case 0:
		return "", true
	case '"':
		return string(unquoted(s.spans[at].Of(s.b))), true
	default:
		return "", s.refuse(at, what+" is not a string")
	}
}

// assemble makes a message of what was found.
func (s *scanner) assemble(m *Message) bool {
	if isID(s.spans[slotID].Of(s.b)) {
		m.ID = s.spans[slotID]
	}
	if s.first(slotVersion) != '"' || string(unquoted(s.spans[slotVersion].Of(s.b))) != "2.0" {
		return s.refuse(slotVersion, `"jsonrpc" is not "2.0"`)
	}
	hasID := s.spans[slotID].Present()
	hasMethod := s.spans[slotMethod].Present()
	hasResult := s.spans[slotResult].Present()
	hasError := s.spans[slotError].Present()
	switch {
	case hasMethod && hasResult, hasMethod && hasError, hasResult && hasError:
		return s.refuse(slotMethod, `more than one of "method", "result" and "error"`)

	case hasMethod:
		m.Kind = Notification
		if hasID {
			m.Kind = Request
			if !m.ID.Present() {
				return s.refuse(slotID, `"id" is neither a string nor an integer`)
			}
		}
		return s.assembleParams(m)

	case s.spans[slotParams].Present():
		return s.refuse(slotParams, `"params" without "method"`)

	case hasResult:
		m.Kind = Result
		if !m.ID.Present() {
			return s.refuse(slotID, `"id" of a result is neither a string nor an integer`)
		}
		return s.assembleResult(m)

	case hasError:
		m.Kind = Error
		// Whoever could not read the id answers with null (JSON-RPC) or without (MCP).
		if hasID && !m.ID.Present() && s.first(slotID) != 'n' {
			return s.refuse(slotID, `"id" is neither a string nor an integer`)
		}
		if s.first(slotError) != '{' {
			return s.refuse(slotError, `"error" is not an object`)
		}
		m.Error = s.spans[slotError]
		return true

	default:
		return s.failAt(InvalidRequest, `none of "method", "result" and "error"`, 0)
	}
}

func (s *scanner) assembleParams(m *Message) bool {
	if s.first(slotMethod) != '"' {
		return s.refuse(slotMethod, `"method" is not a string`)
	}
	if m.Method = methodName(unquoted(s.spans[slotMethod].Of(s.b))); m.Method == "" {
		return s.refuse(slotMethod, `"method" is empty`)
	}
	switch s.first(slotParams) {
	case 0:
		return true
	case '{':
		m.Params = s.spans[slotParams]
	default:
		return s.refuse(slotParams, `"params" is not an object`)
	}
	m.Arguments, m.Inputs = s.spans[slotArguments], s.spans[slotInputs]

	var ok bool
	switch m.Method {
	case MethodToolsCall, MethodPromptsGet:
		m.NameSpan = s.spans[slotName]
		if m.Name, ok = s.text(slotName, "params.name"); !ok {
			return false
		}
	case MethodResourcesRead, MethodResourcesSubscribe, MethodResourcesUnsubscribe, NotificationResourcesUpdated:
		m.NameSpan = s.spans[slotURI]
		if m.Name, ok = s.text(slotURI, "params.uri"); !ok {
			return false
		}
	case MethodCompletionComplete:
		if !s.assembleRef(m) {
			return false
		}
	case MethodToolsList, MethodResourcesList, MethodResourcesTemplatesList, MethodPromptsList, MethodTasksList:
		if m.Cursor, ok = s.text(slotCursor, "params.cursor"); !ok {
			return false
		}
	case NotificationProgress:
		if m.ProgressToken = s.spans[slotToken]; m.ProgressToken.Present() && !s.isToken(slotToken) {
			return s.refuse(slotToken, "params.progressToken is neither a string nor a number")
		}
	case NotificationCancelled:
		m.RequestID = s.spans[slotRequestID]
		if m.RequestID.Present() && !isID(m.RequestID.Of(s.b)) {
			return s.refuse(slotRequestID, "params.requestId is neither a string nor an integer")
		}
	}

	switch s.first(slotMeta) {
	case 0:
		return true
	case '{':
		m.Meta = s.spans[slotMeta]
	default:
		return s.refuse(slotMeta, "params._meta is not an object")
	}
	if s.spans[slotMetaToken].Present() && m.Method != NotificationProgress {
		if !s.isToken(slotMetaToken) {
			return s.refuse(slotMetaToken, "progressToken is neither a string nor a number")
		}
		m.ProgressToken = s.spans[slotMetaToken]
	}
	switch s.first(slotMetaVersion) {
	case 0:
	case '"':
		m.MetaVersion = versionName(unquoted(s.spans[slotMetaVersion].Of(s.b)))
	default:
		return s.refuse(slotMetaVersion, MetaProtocolVersion+" is not a string")
	}
	m.ClientCapabilities = s.spans[slotMetaCapabilities]
	return true
}

func (s *scanner) assembleRef(m *Message) bool {
	switch s.first(slotRef) {
	case 0:
		return true
	case '{':
	default:
		return s.refuse(slotRef, "params.ref is not an object")
	}
	var ok bool
	if m.RefType, ok = s.text(slotRefType, "params.ref.type"); !ok {
		return false
	}
	if s.spans[slotRefName].Present() && s.spans[slotRefURI].Present() {
		return s.refuse(slotRefName, "params.ref has both a name and a uri")
	}
	at := slotRefName
	if s.spans[slotRefURI].Present() {
		at = slotRefURI
	}
	m.NameSpan = s.spans[at]
	m.Name, ok = s.text(at, "what params.ref refers to")
	return ok
}

func (s *scanner) assembleResult(m *Message) bool {
	if s.first(slotResult) != '{' {
		return s.refuse(slotResult, `"result" is not an object`)
	}
	m.Result = s.spans[slotResult]
	m.StructuredContent = s.spans[slotStructured]
	m.Content = s.spans[slotContent]

	// Servers that write null for what they do not have are common.
	switch s.first(slotResultMeta) {
	case 0, 'n':
	case '{':
		m.Meta = s.spans[slotResultMeta]
	default:
		return s.refuse(slotResultMeta, "result._meta is not an object")
	}
	switch s.first(slotIsError) {
	case 0, 'n', 'f':
	case 't':
		m.IsError = true
	default:
		return s.refuse(slotIsError, "result.isError is not a boolean")
	}
	switch s.first(slotResultType) {
	case 0, 'n':
	case '"':
		switch t := unquoted(s.spans[slotResultType].Of(s.b)); string(t) {
		case ResultComplete:
			m.ResultType = ResultComplete
		case ResultInputRequired:
			m.ResultType = ResultInputRequired
		default:
			m.ResultType = string(t)
		}
	default:
		return s.refuse(slotResultType, "result.resultType is not a string")
	}
	return true
}

// isToken reports whether the value at a slot can be a progress token.
func (s *scanner) isToken(at slot) bool {
	c := s.first(at)
	return c == '"' || c == '-' || '0' <= c && c <= '9'
}

// isID reports whether a scanned value is a string or an integer without
// fraction or exponent.
func isID(tok []byte) bool {
	if len(tok) == 0 {
		return false
	}
	if tok[0] == '"' {
		return true
	}
	if tok[0] == '-' {
		tok = tok[1:]
	}
	for _, c := range tok {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
