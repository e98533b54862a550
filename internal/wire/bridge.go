package wire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// The functions of this file carry messages from one era into the other. They
// edit bytes: members of the envelope are added, replaced or taken out, and
// arguments, results and content stay as their senders wrote them. What can be
// carried at all is the table [Crossings]; nothing else crosses.

// Fate is what becomes of a message that would have to cross eras. The zero value
// is none of them.
type Fate uint8

// The fates.
const (
	Carried  Fate = iota + 1 // to the other side, translated
	Answered                 // by the gateway; nothing crosses
	Dropped                  // a notification that the other era has no place for
	Barred                   // refused
)

// Crossing says what becomes of one method between a client of one era and an
// upstream of the other.
type Crossing struct {
	Client       Era  // the upstream is of the other era
	FromUpstream bool // who sends it
	Method       string
	Fate         Fate
	How          string
}

// Crossings are all methods of both eras and what becomes of them. A method that
// is not in the table is refused. doc/bridge.md shows it.
var Crossings = []Crossing{
	{Stateless, false, MethodToolsCall, Carried, "the reserved names leave _meta; the result gets resultType"},
	{Stateless, false, MethodResourcesRead, Carried, "as tools/call; the result gets ttlMs 0 and cacheScope private, too"},
	{Stateless, false, MethodPromptsGet, Carried, "as tools/call"},
	{Stateless, false, MethodCompletionComplete, Carried, "as tools/call"},
	{Stateless, false, MethodResourcesList, Carried, "page by page; lists are kept for each credential and run"},
	{Stateless, false, MethodResourcesTemplatesList, Carried, "as resources/list"},
	{Stateless, false, MethodPromptsList, Carried, "as resources/list"},
	{Stateless, false, MethodToolsList, Carried, "clients are answered from the pins; the gateway itself asks when a person pins"},
	{Stateless, false, MethodServerDiscover, Answered, "from the pins; a session is opened with initialize when the first request needs it"},
	{Stateless, false, MethodSubscriptionsListen, Answered, "each resource is a call of its own, which becomes resources/subscribe in a session that is kept; what is agreed to is acknowledged"},
	{Stateless, false, NotificationCancelled, Carried, "the end of the client's connection becomes notifications/cancelled"},
	{Stateless, false, MethodTasksGet, Barred, "tasks are not served"},
	{Stateless, false, MethodTasksUpdate, Barred, "tasks are not served"},
	{Stateless, false, MethodTasksCancel, Barred, "tasks are not served"},
	{Stateless, true, MethodElicitationCreate, Carried, "a result that asks for input; the client's retry continues the same call of the upstream"},
	{Stateless, true, MethodSamplingCreateMessage, Carried, "as elicitation/create"},
	{Stateless, true, MethodRootsList, Carried, "as elicitation/create"},
	{Stateless, true, MethodPing, Answered, "here"},
	{Stateless, true, NotificationProgress, Carried, "under the progress token of the request that waits"},
	{Stateless, true, NotificationMessage, Carried, "to the request that waits, if it asks for the level"},
	{Stateless, true, NotificationToolsListChanged, Dropped, "tools are those that are pinned; it is logged that the upstream has others"},
	{Stateless, true, NotificationResourcesListChanged, Answered, "the list is read again; a client that listens is told if what it may see has changed"},
	{Stateless, true, NotificationPromptsListChanged, Answered, "as for resources"},
	{Stateless, true, NotificationResourcesUpdated, Answered, "who listens for it and may read it now is told its address and nothing else"},
	{Stateless, true, NotificationElicitationComplete, Dropped, "the new era has no such notification: the client asks by its retry"},
	{Stateless, true, NotificationTasksStatus, Dropped, "tasks are not served"},
	{Stateless, true, NotificationCancelled, Dropped, "a question that was put stays until it is answered or its time is over"},

	{Sessions, false, MethodToolsCall, Carried, "_meta gets version, client and capabilities of the session; resultType leaves the result"},
	{Sessions, false, MethodResourcesRead, Carried, "as tools/call; ttlMs and cacheScope leave the result, too"},
	{Sessions, false, MethodPromptsGet, Carried, "as tools/call"},
	{Sessions, false, MethodCompletionComplete, Carried, "as tools/call"},
	{Sessions, false, MethodResourcesList, Carried, "page by page; lists are kept for each session"},
	{Sessions, false, MethodResourcesTemplatesList, Carried, "as resources/list"},
	{Sessions, false, MethodPromptsList, Carried, "as resources/list"},
	{Sessions, false, MethodToolsList, Carried, "clients are answered from the pins; the gateway itself asks when a person pins"},
	{Sessions, false, MethodInitialize, Answered, "from the pins; nothing has to be opened with the upstream"},
	{Sessions, false, NotificationInitialized, Answered, "here"},
	{Sessions, false, MethodPing, Answered, "here"},
	{Sessions, false, MethodLoggingSetLevel, Answered, "the level is kept and goes with every later request"},
	{Sessions, false, NotificationCancelled, Carried, "over HTTP the connection of the request ends; over stdio it is sent"},
	{Sessions, false, MethodResourcesSubscribe, Answered, "once the upstream has acknowledged a subscriptions/listen, which is shared by all who want the same"},
	{Sessions, false, MethodResourcesUnsubscribe, Answered, "the stream to the upstream ends with the last who wants it"},
	{Sessions, false, NotificationRootsListChanged, Dropped, "no upstream is told that it would hear of it: one that wants to know asks again"},
	{Sessions, false, MethodTasksGet, Barred, "tasks are not served"},
	{Sessions, false, MethodTasksResult, Barred, "tasks are not served"},
	{Sessions, false, MethodTasksList, Barred, "tasks are not served"},
	{Sessions, false, MethodTasksCancel, Barred, "tasks are not served"},
	{Sessions, true, MethodElicitationCreate, Carried, "what a result asks for is asked of the client, and the request is made again with the answers"},
	{Sessions, true, MethodSamplingCreateMessage, Carried, "as elicitation/create"},
	{Sessions, true, MethodRootsList, Carried, "as elicitation/create"},
	{Sessions, true, NotificationProgress, Carried, "as it is"},
	{Sessions, true, NotificationMessage, Carried, "over HTTP; over stdio nobody can say whose it is, and it is dropped"},
	{Sessions, true, NotificationSubscriptionsAcknowledged, Answered, "it becomes the result of resources/subscribe, or a refusal if the resource is not in it"},
	{Sessions, true, NotificationToolsListChanged, Dropped, "tools are those that are pinned; it is logged that the upstream has others"},
	{Sessions, true, NotificationResourcesListChanged, Answered, "the list is read again; a client that has listed is told if what it may see has changed"},
	{Sessions, true, NotificationPromptsListChanged, Answered, "as for resources"},
	{Sessions, true, NotificationResourcesUpdated, Answered, "who has subscribed to it and may read it now is told its address and nothing else"},
	{Sessions, true, NotificationTasksStatus, Dropped, "tasks are not served"},
}

// CrossingOf is what becomes of a method; one that is not in the table is refused.
func CrossingOf(client Era, fromUpstream bool, method string) Crossing {
	for _, c := range Crossings {
		if c.Client == client && c.FromUpstream == fromUpstream && c.Method == method {
			return c
		}
	}
	return Crossing{Client: client, FromUpstream: fromUpstream, Method: method, Fate: Barred, How: "it is not known"}
}

// CrossError says why a message does not cross.
type CrossError struct{ Why string }

func (e *CrossError) Error() string { return e.Why }

// entry is a member that is to be there with a value, or, with a nil value, is not
// to be there.
type entry struct {
	name  string
	value []byte
}

// edits makes the entries those of the object at a span. The white space of what
// stays is not touched: what is put in by one call and taken out by another leaves
// the bytes that were there.
func edits(raw []byte, object Span, entries ...entry) ([]Edit, error) {
	part := object.Of(raw)
	type found struct {
		from, end int // the name, the end of the value
		value     Span
		at        int // in entries; -1 if it stays as it is
	}
	var members []found
	s := scanner{b: part, depth: DefaultDepth}
	if !s.whole('{', "an object", func(name, value Span) bool {
		key := string(unquoted(name.Of(part)))
		at := slices.IndexFunc(entries, func(e entry) bool { return e.name == key })
		members = append(members, found{name.Start, value.End, value, at})
		return true
	}) {
		return nil, s.err
	}
	shift := func(start, end int) Span { return Span{object.Start + start, object.Start + end} }
	gone := func(m found) bool { return m.at >= 0 && entries[m.at].value == nil }
	there := make([]bool, len(entries))
	kept := len(members)
	last := -1 // the last member that stays
	for i, m := range members {
		if m.at >= 0 {
			there[m.at] = true
		}
		if gone(m) {
			kept--
		} else {
			last = i
		}
	}
	var out []Edit
	var added []byte
	for i, e := range entries {
		if there[i] || e.value == nil {
			continue
		}
		if len(added) > 0 {
			added = append(added, ',')
		}
		added = append(append(AppendString(added, e.name), ':'), e.value...)
	}
	if len(added) > 0 {
		if kept > 0 {
			added = append(added, ',')
		}
		out = append(out, Edit{shift(1, 1), added})
	}
	for i, m := range members {
		switch {
		case !gone(m):
			if m.at >= 0 {
				out = append(out, Edit{shift(m.value.Start, m.value.End), entries[m.at].value})
			}
		case i < last: // with the comma behind it
			comma := m.end + bytes.IndexByte(part[m.end:], ',')
			out = append(out, Edit{shift(m.from, comma+1), nil})
		default: // and all behind it: with the comma before it, if anything stays
			from := m.from
			if last >= 0 {
				from = members[last].end
			}
			return append(out, Edit{shift(from, members[len(members)-1].end), nil}), nil
		}
	}
	return out, nil
}

// rewritten is a message with edits made, read again.
func rewritten(raw []byte, edits []Edit) (Message, error) {
	raw = Splice(raw, edits...)
	return Scan(raw, Limits{Bytes: max(len(raw), 1)})
}

// Caller is what a request of the stateless era says of its client.
type Caller struct {
	Version string
	// Info and Capabilities are JSON objects; no Info is left out, no Capabilities
	// are none.
	Info, Capabilities []byte
	// LogLevel is the least level of log messages the client wants; "" for none.
	LogLevel string
}

func (c *Caller) entries() []entry {
	capabilities := c.Capabilities
	if len(capabilities) == 0 {
		capabilities = []byte("{}")
	}
	of := []entry{{MetaProtocolVersion, AppendString(nil, c.Version)}, {MetaClientCapabilities, capabilities}, {MetaClientInfo, nil}, {MetaLogLevel, nil}}
	if len(c.Info) > 0 {
		of[2].value = c.Info
	}
	if c.LogLevel != "" {
		of[3].value = AppendString(nil, c.LogLevel)
	}
	return of
}

// RequestToStateless is a request of a session as one that stands alone. What it
// said in the names that the new era reserves in _meta is replaced. The error is a
// *[CrossError] if it does not cross.
func RequestToStateless(m *Message, c Caller) (Message, error) {
	if x := CrossingOf(Sessions, false, m.Method); m.Kind != Request || x.Fate != Carried {
		return Message{}, &CrossError{m.Method + " has no counterpart: " + x.How}
	}
	if !m.Params.Present() {
		meta := object(c.entries())
		return rewritten(m.Raw, []Edit{Insert(m.Raw, document(m.Raw), "params", append(append([]byte(`{"_meta":`), meta...), '}'))})
	}
	if _, ok, err := Field(m.Params.Of(m.Raw), "task"); err != nil || ok {
		return Message{}, &CrossError{"tasks are not served"}
	}
	var all []Edit
	var err error
	if m.Meta.Present() {
		all, err = edits(m.Raw, m.Meta, c.entries()...)
	} else {
		all = []Edit{Insert(m.Raw, m.Params, "_meta", object(c.entries()))}
	}
	if err != nil {
		return Message{}, err
	}
	return rewritten(m.Raw, all)
}

// object is the object of the entries that have a value.
func object(entries []entry) []byte {
	out := []byte{'{'}
	for _, e := range entries {
		if e.value == nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(AppendString(out, e.name), ':'), e.value...)
	}
	return append(out, '}')
}

// document is the span of the one object of a message.
func document(raw []byte) Span {
	return Span{bytes.IndexByte(raw, '{'), bytes.LastIndexByte(raw, '}') + 1}
}

// RequestToSessions is a request that stands alone as one of a session: without
// what the session says already, and without the answers and the state of a
// retry, which [Retry] reads. The error is a *[CrossError] if it does not cross.
func RequestToSessions(m *Message) (Message, error) {
	if x := CrossingOf(Stateless, false, m.Method); m.Kind != Request || x.Fate != Carried {
		return Message{}, &CrossError{m.Method + " has no counterpart: " + x.How}
	}
	if !m.Params.Present() {
		return *m, nil
	}
	// Two passes: what is taken out of _meta may leave nothing of it.
	out := *m
	var err error
	if m.Meta.Present() {
		if out, err = without(m, m.Meta, MetaProtocolVersion, MetaClientInfo, MetaClientCapabilities, MetaLogLevel); err != nil {
			return Message{}, err
		}
	}
	gone := []string{"inputResponses", "requestState"}
	if out.Meta.Present() && empty(out.Meta.Of(out.Raw)) {
		gone = append(gone, "_meta")
	}
	return without(&out, out.Params, gone...)
}

// without is a message without the named members of the object at a span.
func without(m *Message, object Span, names ...string) (Message, error) {
	entries := make([]entry, len(names))
	for i, name := range names {
		entries[i].name = name
	}
	all, err := edits(m.Raw, object, entries...)
	if err != nil {
		return Message{}, err
	}
	if len(all) == 0 {
		return *m, nil
	}
	return rewritten(m.Raw, all)
}

func empty(object []byte) bool {
	return len(bytes.TrimLeft(object[1:], " \t\r\n")) == 1
}

// cacheable reports whether the results of a method say in the stateless era how
// long they are good.
func cacheable(method string) bool {
	switch method {
	case MethodToolsList, MethodResourcesList, MethodResourcesTemplatesList, MethodResourcesRead, MethodPromptsList:
		return true
	}
	return false
}

// ResponseToStateless is the response to a request of that method as a client of
// the stateless era reads it. serverInfo is what the server said of itself, an
// object; nil is left out. A member of the result that has one of the names this
// era reserves means nothing in the other, and is replaced.
func ResponseToStateless(m *Message, method string, serverInfo []byte) (Message, error) {
	if m.Kind == Error {
		// The code may not be sent in this era (MCP 2026-07-28, "Error Codes").
		return recoded(m, ResourceNotFound, InvalidParams)
	}
	of := []entry{{"resultType", []byte(`"` + ResultComplete + `"`)}}
	if cacheable(method) {
		of = append(of, entry{"ttlMs", []byte("0")}, entry{"cacheScope", []byte(`"private"`)})
	}
	all := []Edit{}
	if len(serverInfo) > 0 {
		if m.Meta.Present() {
			inner, err := edits(m.Raw, m.Meta, entry{MetaServerInfo, serverInfo})
			if err != nil {
				return Message{}, err
			}
			all = append(all, inner...)
		} else {
			of = append(of, entry{"_meta", object([]entry{{MetaServerInfo, serverInfo}})})
		}
	}
	outer, err := edits(m.Raw, m.Result, of...)
	if err != nil {
		return Message{}, err
	}
	return rewritten(m.Raw, inOrder(append(all, outer...)))
}

func inOrder(all []Edit) []Edit {
	slices.SortStableFunc(all, func(a, b Edit) int { return a.Span.Start - b.Span.Start })
	return all
}

// recoded is an error with another code, if it has the one.
func recoded(m *Message, from, to int) (Message, error) {
	at, ok, err := FieldSpan(m.Error.Of(m.Raw), "code")
	if err != nil || !ok || string(at.Of(m.Error.Of(m.Raw))) != strconv.Itoa(from) {
		return *m, err
	}
	at = Span{m.Error.Start + at.Start, m.Error.Start + at.End}
	return rewritten(m.Raw, []Edit{{at, strconv.AppendInt(nil, int64(to), 10)}})
}

// ResponseToSessions is the response to a request of that method as a client of
// the sessions era reads it. The error is a *[CrossError] for a result that is
// neither complete nor a question.
func ResponseToSessions(m *Message, method string) (Message, error) {
	if m.Kind == Error {
		return *m, nil
	}
	if m.ResultType != "" && m.ResultType != ResultComplete {
		return Message{}, &CrossError{"a result of a type that has no counterpart"}
	}
	out := *m
	var err error
	if m.Meta.Present() {
		if out, err = without(m, m.Meta, MetaServerInfo); err != nil {
			return Message{}, err
		}
	}
	gone := []string{"resultType"}
	if cacheable(method) {
		gone = append(gone, "ttlMs", "cacheScope")
	}
	// A _meta that was empty when it came stays.
	if len(out.Raw) != len(m.Raw) && empty(out.Meta.Of(out.Raw)) {
		gone = append(gone, "_meta")
	}
	return without(&out, out.Result, gone...)
}

// Question is one request of a server to a client: a message of its own in the
// sessions era, a member of a result in the stateless era.
type Question struct {
	Key    string // among those of one result
	Method string
	Params []byte // an object; nil if there are none
}

// InputRequired appends the response to the request with that id that asks the
// client questions. state comes back with its answers.
func InputRequired(dst, id []byte, questions []Question, state string) []byte {
	result := []byte(`{"resultType":"` + ResultInputRequired + `","inputRequests":{`)
	for i, q := range questions {
		if i > 0 {
			result = append(result, ',')
		}
		params := q.Params
		if params == nil { // which a reader of this era may look for
			params = []byte("{}")
		}
		result = AppendString(append(AppendString(result, q.Key), `:{"method":`...), q.Method)
		result = append(append(append(result, `,"params":`...), params...), '}')
	}
	result = append(AppendString(append(result, `},"requestState":`...), state), '}')
	return AppendResult(dst, id, result)
}

// Questions reads a result that asks for input: what it asks, in its order, and
// the state as a JSON string, nil if it has none. The error is a *[SyntaxError].
func Questions(result []byte) (questions []Question, state []byte, err error) {
	if state, _, err = Field(result, "requestState"); err != nil {
		return nil, nil, err
	}
	if state != nil && state[0] != '"' {
		return nil, nil, &SyntaxError{Code: InvalidRequest, Reason: "requestState is not a string"}
	}
	requests, ok, err := Field(result, "inputRequests")
	if err != nil || !ok {
		return nil, state, err
	}
	err = Each(requests, func(key string, request []byte) error {
		q := Question{Key: key}
		token, ok, err := Field(request, "method")
		if err != nil || !ok {
			return &SyntaxError{Code: InvalidRequest, Reason: "an input request without a method"}
		}
		if q.Method, err = DecodeString(token); err != nil {
			return err
		}
		if q.Params, _, err = Field(request, "params"); err != nil {
			return err
		}
		if q.Params != nil && q.Params[0] != '{' {
			return &SyntaxError{Code: InvalidRequest, Reason: "the params of an input request are not an object"}
		}
		questions = append(questions, q)
		return nil
	})
	return questions, state, err
}

// Input is a client's answer to one question: a result value.
type Input struct {
	Key   string
	Value []byte
}

// WithInput is a request of the stateless era made again with answers and the
// state, a JSON string, of the result that asked for them; nil is left out.
func WithInput(m *Message, answers []Input, state []byte) (Message, error) {
	of := []entry{{"inputResponses", nil}, {"requestState", state}}
	if len(answers) > 0 {
		members := make([]entry, len(answers))
		for i, a := range answers {
			members[i] = entry{a.Key, a.Value}
		}
		of[0].value = object(members)
	}
	all, err := edits(m.Raw, m.Params, of...)
	if err != nil {
		return Message{}, err
	}
	return rewritten(m.Raw, all)
}

// Retry reads the answers and the state of a request that is made again. ok says
// that it is one. The error is a *[SyntaxError].
func Retry(m *Message) (answers []Input, state string, ok bool, err error) {
	if !m.Params.Present() {
		return nil, "", false, nil
	}
	params := m.Params.Of(m.Raw)
	token, hasState, err := Field(params, "requestState")
	if err != nil {
		return nil, "", false, err
	}
	if hasState {
		if state, err = DecodeString(token); err != nil {
			return nil, "", false, &SyntaxError{Code: InvalidParams, Reason: "requestState is not a string"}
		}
	}
	responses, hasAnswers, err := Field(params, "inputResponses")
	if err != nil {
		return nil, "", false, err
	}
	if hasAnswers {
		err = Each(responses, func(key string, value []byte) error {
			if value[0] != '{' {
				return &SyntaxError{Code: InvalidParams, Reason: "an input response is not an object"}
			}
			answers = append(answers, Input{key, value})
			return nil
		})
	}
	return answers, state, hasState || hasAnswers, err
}

// Acknowledges reports whether a notification says that the server tells when the
// resource changes, or, where uri is empty, any list
// ([NotificationSubscriptionsAcknowledged]).
func Acknowledges(m *Message, uri string) bool {
	agreed, ok, err := Field(m.Params.Of(m.Raw), "notifications")
	if err != nil || !ok {
		return false
	}
	if uri == "" {
		for _, name := range []string{"toolsListChanged", "promptsListChanged", "resourcesListChanged"} {
			if value, ok, err := Field(agreed, name); err == nil && ok && string(value) == "true" {
				return true
			}
		}
		return false
	}
	uris, ok, err := Field(agreed, "resourceSubscriptions")
	if err != nil || !ok {
		return false
	}
	all, err := Strings(uris)
	return err == nil && slices.Contains(all, uri)
}

// Forms are the methods of the questions that a value, an object, can be read as the
// answer to. An answer does not say what it answers (MCP 2026-07-28, "Multi Round-Trip
// Requests"), so a value with the members of several has several. Letter case is not
// looked at, since some readers do not either. The error is a *[SyntaxError].
func Forms(answer []byte) ([]string, error) {
	var forms []string
	err := Each(answer, func(key string, _ []byte) error {
		method := ""
		switch {
		case strings.EqualFold(key, "action"):
			method = MethodElicitationCreate
		case strings.EqualFold(key, "role"), strings.EqualFold(key, "model"):
			method = MethodSamplingCreateMessage
		case strings.EqualFold(key, "roots"):
			method = MethodRootsList
		}
		if method != "" && !slices.Contains(forms, method) {
			forms = append(forms, method)
		}
		return nil
	})
	return forms, err
}

// Offered is what an upstream is told of a client's capabilities, an object: as they
// are, but without roots unless it may be told of them, and without the promise to
// say when they change, which is not carried. What cannot be read is an empty object.
func Offered(capabilities []byte, roots bool) []byte {
	all, err := offered(capabilities, Span{End: len(capabilities)}, roots)
	if err != nil || len(capabilities) == 0 {
		return []byte("{}")
	}
	return Splice(capabilities, all...)
}

// Offering is a request of the stateless era that tells what [Offered] says.
func Offering(m *Message, roots bool) (Message, error) {
	all, err := offered(m.Raw, m.ClientCapabilities, roots)
	if err != nil || len(all) == 0 {
		return *m, err
	}
	return rewritten(m.Raw, all)
}

func offered(raw []byte, at Span, roots bool) ([]Edit, error) {
	if !at.Present() || raw[at.Start] != '{' {
		return nil, nil
	}
	value, ok, err := FieldSpan(at.Of(raw), "roots")
	if err != nil || !ok {
		return nil, err
	}
	value = Span{at.Start + value.Start, at.Start + value.End}
	switch {
	case !roots:
		return edits(raw, at, entry{"roots", nil})
	case value.Of(raw)[0] == '{':
		return edits(raw, value, entry{"listChanged", nil})
	}
	return nil, nil
}

// CanBeAsked reports whether a client with these capabilities, an object, answers
// requests of a method.
func CanBeAsked(capabilities []byte, method string) bool {
	name := ""
	switch method {
	case MethodElicitationCreate:
		name = "elicitation"
	case MethodSamplingCreateMessage:
		name = "sampling"
	case MethodRootsList:
		name = "roots"
	}
	if len(capabilities) == 0 || name == "" {
		return false
	}
	value, ok, err := Field(capabilities, name)
	return err == nil && ok && value[0] == '{'
}
