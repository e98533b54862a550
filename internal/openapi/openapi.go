package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// What is made of a document may be at most.
const (
	maxOperations = 5000
	maxSchemas    = 24 << 20 // bytes of all definitions
	// What the schemas of one tool are at most, in bytes, before what lies behind
	// many references is left open: APIs whose objects all refer to each other
	// would have every tool describe the whole of it.
	maxInput  = 256 << 10
	maxOutput = 64 << 10
	// maxName is the longest name of a tool or an argument, which is what clients
	// that are in use take.
	maxName = 64
)

// API is what a document describes.
type API struct {
	// Spec is the version of OpenAPI, as "3.1.0".
	Spec string
	// Title and Version are those of the API.
	Title, Version string
	// Bases are the paths of the servers that the document names, without a slash at
	// their end: what stands before a path where a client has the whole address.
	Bases []string
	// Keys are where clients put their credential.
	Keys []Key
	// Operations are in the document's order.
	Operations []Operation
	// LeftOut are the operations that are not served, each with the reason.
	LeftOut []*Error
}

// Operation is how the arguments of one tool become one request, and what its
// answer becomes.
type Operation struct {
	Tool   string `json:"tool"`
	Method string `json:"method"`
	// Path is the template below the server's own path, as in "/pets/{petId}".
	Path   string  `json:"path"`
	Params []Param `json:"params,omitempty"`
	Body   *Body   `json:"body,omitempty"`
	// Accept is the field of that name.
	Accept string `json:"accept"`
	Output Output `json:"output,omitempty"`
	// Answers are what the document says that it answers, in its order.
	Answers []Answer `json:"answers,omitempty"`
	// Definition is the tool's: one JSON object.
	Definition json.RawMessage `json:"-"`
}

// Answer is one of an operation's responses: its status, as in "404", "4XX" or
// "default", and its media type, "" if it has no content.
type Answer struct {
	Code  string `json:"code"`
	Media string `json:"media,omitempty"`
}

// Key is a place for a credential (OpenAPI 3.1.1, section 4.8.27): a parameter in
// "header", "query" or "cookie", or, in "basic", the user or password of the
// Authorization header.
type Key struct {
	In   string `json:"in"`
	Name string `json:"name,omitempty"`
}

// Output is what the structured content of a result is.
type Output string

const (
	// OutputNone: there is none, because the document does not describe one.
	OutputNone Output = ""
	// OutputBody: the body, which is an object.
	OutputBody Output = "body"
	// OutputResult: an object whose only member, "result", is the body.
	OutputResult Output = "result"
)

// Param is one parameter (OpenAPI 3.1.1, section 4.8.12).
type Param struct {
	Arg      string `json:"arg"` // of the tool
	Name     string `json:"name"`
	In       string `json:"in"` // "path", "query", "header" or "cookie"
	Style    string `json:"style,omitempty"`
	Explode  bool   `json:"explode,omitempty"`
	JSON     bool   `json:"json,omitempty"`     // its value is sent as the JSON it is
	Reserved bool   `json:"reserved,omitempty"` // allowReserved
}

// Body is the content of a request.
type Body struct {
	Arg   string `json:"arg"`
	Media string `json:"media"` // the Content-Type, but for a boundary
	Form  Form   `json:"form"`
	// Parts say how properties of a form are written, where they say it.
	Parts []Part `json:"parts,omitempty"`
}

// Form is how an argument becomes a body.
type Form string

// The forms of a body.
const (
	FormJSON      Form = "json"      // the argument's own bytes
	FormURL       Form = "form"      // application/x-www-form-urlencoded
	FormMultipart Form = "multipart" // multipart/form-data
	FormText      Form = "text"      // the text of a string
	FormBinary    Form = "binary"    // a string that is base64
)

// Part is one property of a form.
type Part struct {
	Name     string `json:"name"`
	Style    string `json:"style,omitempty"` // as of a query parameter
	Explode  bool   `json:"explode,omitempty"`
	Reserved bool   `json:"reserved,omitempty"`
	Media    string `json:"media,omitempty"`  // Content-Type in multipart
	Binary   bool   `json:"binary,omitempty"` // a string that is base64
}

// Plan is what is kept of a document to make requests: the value of
// [API.Plan], read back by [ParsePlan].
type Plan struct {
	Server     Server      `json:"server"`
	Bases      []string    `json:"bases,omitempty"`
	Keys       []Key       `json:"keys,omitempty"`
	Operations []Operation `json:"operations"`
}

// Server is what an API says of itself, as MCP servers do.
type Server struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Info is what a server of MCP would call its serverInfo.
func (s Server) Info() []byte {
	return append(appendString(append(appendString([]byte(`{"name":`), s.Name), `,"version":`...), s.Version), '}')
}

// Server is what the API says of itself.
func (a *API) Server() Server { return Server{a.Title, a.Version} }

// Plan is the text that [ParsePlan] reads. Equal documents have equal plans.
func (a *API) Plan() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Of strings and booleans alone: there is nothing that could not be written.
	_ = enc.Encode(Plan{Server: a.Server(), Bases: a.Bases, Keys: a.Keys, Operations: a.Operations})
	return bytes.TrimSpace(b.Bytes())
}

// ParsePlan reads what [API.Plan] wrote. It accepts nothing by which a request
// could leave its path or carry a header of the connection.
func ParsePlan(text []byte) (*Plan, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var p Plan
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("the plan of an OpenAPI document cannot be read: %w", err)
	}
	if dec.More() {
		return nil, errors.New("the plan of an OpenAPI document cannot be read: text after its end")
	}
	for _, base := range p.Bases {
		if !baseText(base) {
			return nil, fmt.Errorf("the plan of an OpenAPI document has the base %q, which is no path", clip(base))
		}
	}
	tools := map[string]bool{}
	for i := range p.Operations {
		o := &p.Operations[i]
		if tools[o.Tool] {
			return nil, fmt.Errorf("the plan of an OpenAPI document has the tool %q twice", clip(o.Tool))
		}
		tools[o.Tool] = true
		if why := o.unsound(); why != "" {
			return nil, fmt.Errorf("the plan of an OpenAPI document, tool %q: %s", clip(o.Tool), why)
		}
	}
	return &p, nil
}

// unsound says why no request may be made by an operation, "" if it may.
func (o *Operation) unsound() string {
	if !slices.Contains(methods, strings.ToLower(o.Method)) || strings.ToUpper(o.Method) != o.Method {
		return "it has a method that is not sent"
	}
	literals, names, ok := template(o.Path)
	if !ok {
		return "its path is no template of one"
	}
	for _, l := range literals {
		if !pathText(l) {
			return "its path holds characters that have to be escaped"
		}
	}
	if escapes(strings.Join(literals, "x")) {
		return "its path leads out of itself"
	}
	if !fieldText(o.Accept) || o.Body != nil && !mediaType.MatchString(o.Body.Media) {
		return "it has a media type that is none"
	}
	for _, a := range o.Answers {
		if !answerCode.MatchString(a.Code) || a.Media != "" && !mediaType.MatchString(a.Media) {
			return "it answers with a status or a media type that is none"
		}
	}
	if o.Body != nil {
		if !slices.Contains([]Form{FormJSON, FormURL, FormMultipart, FormText, FormBinary}, o.Body.Form) {
			return "its body has no form"
		}
		for _, p := range o.Body.Parts {
			if p.Media != "" && !mediaType.MatchString(p.Media) {
				return "a part of its body has a media type that is none"
			}
		}
	}
	for _, p := range o.Params {
		styles, ok := stylesOf[p.In]
		switch {
		case !ok || !p.JSON && !slices.Contains(styles, p.Style):
			return fmt.Sprintf("the parameter %q is nowhere, or in no style", clip(p.Name))
		case p.In == "path":
			if !slices.Contains(names, p.Name) {
				return fmt.Sprintf("the parameter %q is not in its path", clip(p.Name))
			}
		case p.In == "header" && !HeaderAllowed(p.Name):
			return fmt.Sprintf("the header %q is not for an argument to set", clip(p.Name))
		case p.In == "cookie" && !token.MatchString(p.Name):
			return fmt.Sprintf("the cookie %q has no name of one", clip(p.Name))
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(o.Params, func(p Param) bool { return p.In == "path" && p.Name == n }) {
			return fmt.Sprintf("nothing says what {%s} in its path is", clip(n))
		}
	}
	return ""
}

var (
	token      = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	answerCode = regexp.MustCompile(`^(?:[1-5](?:[0-9][0-9]|XX)|default)$`)
	mediaType  = regexp.MustCompile("^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?: *; *[A-Za-z0-9!#$&^_.+-]+=[A-Za-z0-9!#$&^_.+-]+)*$")
	toolChars  = regexp.MustCompile(`[^A-Za-z0-9_-]+`)
	argChars   = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
)

// methods are those of operations, as they are written in a document.
var methods = []string{"get", "head", "post", "put", "patch", "delete", "options"}

// stylesOf are the styles by where a parameter is, the default first.
var stylesOf = map[string][]string{
	"path":   {"simple", "label", "matrix"},
	"query":  {"form", "spaceDelimited", "pipeDelimited", "deepObject"},
	"header": {"simple"},
	"cookie": {"form"},
}

// reservedHeaders are the business of a connection, of the message, or of
// whoever configured the upstream; the last ones make one request of another.
var reservedHeaders = []string{
	"accept", "accept-charset", "accept-encoding", "authorization", "connection", "content-encoding", "content-length",
	"content-type", "cookie", "cookie2", "date", "expect", "forwarded", "host", "keep-alive", "origin", "referer", "te", "trailer",
	"transfer-encoding", "upgrade", "user-agent", "via",
	"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-original-host", "x-rewrite-url", "x-real-ip",
}

// HeaderAllowed reports whether an argument may set a header.
func HeaderAllowed(name string) bool {
	low := strings.ToLower(name)
	if !token.MatchString(name) || slices.Contains(reservedHeaders, low) {
		return false
	}
	for _, prefix := range []string{"proxy-", "sec-", "x-forwarded-", "mcp-"} {
		if strings.HasPrefix(low, prefix) {
			return false
		}
	}
	return true
}

// Read reads a document. supplied are the names of headers that are configured
// and therefore no arguments. The error is an [*Error]; an operation that cannot
// be served is left out and named in the API.
func Read(text []byte, supplied ...string) (*API, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err
	}
	if !root.is('{') {
		return nil, &Error{Message: "the document is not an object"}
	}
	d := &description{root: root, supplied: map[string]bool{}, size: maxSchemas}
	for _, name := range supplied {
		d.supplied[strings.ToLower(name)] = true
	}
	spec := root.get("openapi").str()
	switch {
	case strings.HasPrefix(spec, "3.0."):
		d.old = true
	case strings.HasPrefix(spec, "3.1."):
		if dialect := root.get("jsonSchemaDialect"); dialect != nil && !slices.Contains([]string{
			"https://spec.openapis.org/oas/3.1/dialect/base", "https://json-schema.org/draft/2020-12/schema"}, dialect.str()) {
			return nil, wrong(dialect, "its schemas are of a dialect that is not read")
		}
	case root.get("swagger") != nil:
		return nil, &Error{Message: "this is Swagger 2.0: convert it to OpenAPI 3 first"}
	default:
		return nil, &Error{Message: "this is no OpenAPI document of version 3.0 or 3.1"}
	}
	info := root.get("info")
	d.api = &API{Spec: spec, Title: info.get("title").str(), Version: info.get("version").str()}
	if d.api.Title == "" {
		return nil, wrong(info, "info has no title")
	}
	d.keys()
	d.bases()
	paths := root.get("paths")
	if paths != nil && !paths.is('{') {
		return nil, wrong(paths, "paths has to be a mapping")
	}
	names := map[string]*node{}
	if paths != nil {
		for i, path := range paths.names {
			if strings.HasPrefix(path, "x-") {
				continue
			}
			if err := d.path(path, paths.values[i], names); err != nil {
				return nil, err
			}
		}
	}
	return d.api, nil
}

// description is a document while it is read.
type description struct {
	root     *node
	old      bool
	supplied map[string]bool // headers, in lower case
	secrets  map[string]bool // "in name" of parameters that are credentials
	api      *API
	size     int
}

// keys finds where credentials are put. Parameters that are one are no arguments.
func (d *description) keys() {
	d.secrets = map[string]bool{}
	schemes := d.root.get("components").get("securitySchemes")
	if !schemes.is('{') {
		return
	}
	for _, s := range schemes.values {
		s, _, err := resolve(d.root, s)
		if err != nil {
			continue
		}
		var k Key
		switch {
		case s.get("type").str() == "apiKey":
			k = Key{s.get("in").str(), s.get("name").str()}
			d.secrets[k.In+" "+strings.ToLower(k.Name)] = true
			if k.Name == "" || !slices.Contains([]string{"header", "query", "cookie"}, k.In) {
				continue
			}
		case s.get("type").str() == "http" && strings.EqualFold(s.get("scheme").str(), "basic"):
			k.In = "basic"
		default:
			continue
		}
		if !slices.Contains(d.api.Keys, k) {
			d.api.Keys = append(d.api.Keys, k)
		}
	}
}

// bases finds the paths of the servers; a variable has its default.
func (d *description) bases() {
	servers := d.root.get("servers")
	if !servers.is('[') {
		return
	}
	for _, s := range servers.values {
		text := s.get("url").str()
		if variables := s.get("variables"); variables.is('{') {
			for i, name := range variables.names {
				text = strings.ReplaceAll(text, "{"+name+"}", variables.values[i].get("default").str())
			}
		}
		at, err := url.Parse(text)
		if err != nil {
			continue
		}
		base := strings.TrimRight(at.EscapedPath(), "/")
		if baseText(base) && !slices.Contains(d.api.Bases, base) {
			d.api.Bases = append(d.api.Bases, base)
		}
	}
}

// baseText reports whether a text can stand before the path of an operation.
func baseText(base string) bool {
	return strings.HasPrefix(base, "/") && pathText(base) && !escapes(base)
}

func (d *description) path(path string, item *node, names map[string]*node) error {
	item, _, err := resolve(d.root, item)
	if err != nil {
		return err
	}
	if !item.is('{') {
		return wrong(item, "the path %s has to be a mapping", clip(path))
	}
	for i, method := range item.names {
		if method == "trace" {
			d.leave(item.values[i], "TRACE", path, "nothing that is sent this way is served")
		}
		if !slices.Contains(methods, method) {
			continue
		}
		n := item.values[i]
		if !n.is('{') {
			return wrong(n, "%s %s has to be a mapping", strings.ToUpper(method), clip(path))
		}
		o, err := d.operation(method, path, item, n)
		if err != nil {
			d.leave(n, strings.ToUpper(method), path, err.Error())
			continue
		}
		if other := names[o.Tool]; other != nil {
			return wrong(n, "a second operation whose tool is named %s (the first is in line %d): give them operationIds that differ", o.Tool, other.line)
		}
		names[o.Tool] = n
		if len(d.api.Operations) == maxOperations {
			return wrong(n, "the document has more than %d operations", maxOperations)
		}
		d.api.Operations = append(d.api.Operations, *o)
	}
	return nil
}

func (d *description) leave(n *node, method, path, why string) {
	if len(d.api.LeftOut) < maxOperations {
		d.api.LeftOut = append(d.api.LeftOut, wrong(n, "%s %s is left out: %s", method, clip(path), why))
	}
}

// ToolName is the name of the tool of an operation: its id, or its method and
// path, in characters that every client takes.
func toolName(id, method, path string) string {
	from := id
	if from == "" {
		from = method + "_" + strings.Trim(path, "/")
	}
	name := strings.Trim(toolChars.ReplaceAllString(from, "_"), "_")
	if name == "" {
		return "tool_" + short(from)
	}
	if len(name) > maxName {
		name = name[:maxName-9] + "_" + short(from)
	}
	return name
}

func (d *description) operation(method, path string, item, n *node) (*Operation, error) {
	o := &Operation{Tool: toolName(n.get("operationId").str(), method, path), Method: strings.ToUpper(method), Path: path}
	if n.get("servers") != nil || item.get("servers") != nil {
		return nil, errors.New("it is served elsewhere than the rest (servers), and requests go to one place")
	}
	params, err := d.params(item, n)
	if err != nil {
		return nil, err
	}
	body, err := d.body(method, n)
	if err != nil {
		return nil, err
	}
	var properties []byte
	var required []string
	input, err := d.fitting(maxInput, false, func(c *converter) (err error) {
		o.Params = nil
		properties, required, err = d.arguments(o, params, body, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	output, err := d.answer(o, n)
	if err != nil {
		return nil, err
	}
	if why := o.unsound(); why != "" {
		return nil, errors.New(why)
	}

	def := appendString([]byte(`{"name":`), o.Tool)
	if text := says(n, item); text != "" {
		def = appendString(append(def, `,"description":`...), text)
	}
	def = append(def, `,"inputSchema":{"type":"object","properties":{`...)
	def = append(append(def, properties...), '}')
	if len(required) > 0 {
		def = append(def, `,"required":[`...)
		for i, name := range required {
			if i > 0 {
				def = append(def, ',')
			}
			def = appendString(def, name)
		}
		def = append(def, ']')
	}
	def = append(input.appendDefs(append(def, `,"additionalProperties":false`...)), '}')
	if output != nil {
		def = append(append(def, `,"outputSchema":`...), output...)
	}
	// The method says it: hints can only raise what a tool does.
	switch method {
	case "get", "head":
		def = append(def, `,"annotations":{"readOnlyHint":true}}`...)
	case "put":
		def = append(def, `,"annotations":{"readOnlyHint":false,"idempotentHint":true}}`...)
	case "delete":
		def = append(def, `,"annotations":{"readOnlyHint":false,"destructiveHint":true,"idempotentHint":true}}`...)
	default:
		def = append(def, `,"annotations":{"readOnlyHint":false}}`...)
	}
	if d.size -= len(def); d.size < 0 {
		return nil, fmt.Errorf("the tools of the document are larger than %d MiB together", maxSchemas>>20)
	}
	o.Definition = def
	return o, nil
}

// fitting converts the schemas of one tool, with less and less of what lies behind
// references until they fit.
func (d *description) fitting(size int, output bool, convert func(*converter) error) (c *converter, err error) {
	for _, deepest := range []int{maxNodes, 6, 4, 3, 2, 1, 0} {
		c = &converter{root: d.root, old: d.old, output: output, deepest: deepest, left: size}
		if err = convert(c); err == nil {
			err = c.define()
		}
		if !errors.Is(err, errLarge) {
			break
		}
	}
	return c, err
}

// says is what a tool says of itself.
func says(n, item *node) string {
	var parts []string
	for _, from := range []*node{n, item} {
		for _, key := range []string{"summary", "description"} {
			if text := strings.TrimSpace(from.get(key).str()); text != "" && !slices.Contains(parts, text) {
				parts = append(parts, text)
			}
		}
		if len(parts) > 0 {
			break
		}
	}
	return strings.Join(parts, "\n\n")
}

// param is a parameter with what it is in the document.
type param struct {
	Param
	schema   *node
	says     string
	required bool
}

// params are the parameters of an operation; those of its path come first, but
// for those that it has itself.
func (d *description) params(item, n *node) ([]param, error) {
	var list []param
	for _, from := range []*node{item, n} {
		all := from.get("parameters")
		if all == nil {
			continue
		}
		if !all.is('[') {
			return nil, wrong(all, "parameters has to be a list")
		}
		own := 0
		for _, v := range all.values {
			p, used, err := d.param(v)
			if err != nil {
				return nil, err
			}
			if !used {
				continue
			}
			at := slices.IndexFunc(list, func(q param) bool { return q.In == p.In && q.Name == p.Name })
			switch {
			case at >= len(list)-own && at >= 0:
				return nil, wrong(v, "the %s parameter %q is there twice", p.In, clip(p.Name))
			case at >= 0:
				list[at] = p
			default:
				list = append(list, p)
				own++
			}
		}
	}
	return list, nil
}

func (d *description) param(v *node) (p param, used bool, err error) {
	v, _, err = resolve(d.root, v)
	if err != nil {
		return p, false, err
	}
	if !v.is('{') {
		return p, false, wrong(v, "a parameter has to be a mapping")
	}
	p.Name, p.In, p.says, p.required = v.get("name").str(), v.get("in").str(), v.get("description").str(), v.get("required").isTrue()
	styles, ok := stylesOf[p.In]
	if p.Name == "" || !ok {
		return p, false, wrong(v, "a parameter without a name, or in no place that is known")
	}
	if d.secrets[p.In+" "+strings.ToLower(p.Name)] || p.In == "header" && d.supplied[strings.ToLower(p.Name)] {
		return p, false, nil // configured, not asked for
	}
	if p.In == "header" && slices.Contains([]string{"accept", "content-type", "authorization"}, strings.ToLower(p.Name)) {
		return p, false, nil // OpenAPI: such a definition is ignored
	}
	if p.In == "header" && !HeaderAllowed(p.Name) {
		if p.required {
			return p, false, wrong(v, "it needs the header %q, which is not for an argument to set", clip(p.Name))
		}
		return p, false, nil
	}
	if p.In == "path" {
		p.required = true
	}
	p.schema = v.get("schema")
	if content := v.get("content"); content != nil {
		if len(content.names) != 1 || !isJSON(content.names[0]) {
			return p, false, wrong(v, "the parameter %q is of a media type that is not written", clip(p.Name))
		}
		p.JSON, p.schema = true, content.values[0].get("schema")
		return p, true, nil
	}
	p.Style = styles[0]
	if s := v.get("style"); s != nil {
		p.Style = s.str()
	}
	if !slices.Contains(styles, p.Style) {
		return p, false, wrong(v, "the parameter %q is of the style %q, which is none of a %s parameter", clip(p.Name), clip(p.Style), p.In)
	}
	p.Explode = p.Style == "form"
	if e := v.get("explode"); e != nil {
		p.Explode = e.isTrue()
	}
	p.Reserved = p.In == "query" && v.get("allowReserved").isTrue()
	return p, true, nil
}

// isJSON reports whether a media type is JSON.
func isJSON(media string) bool {
	essence, _, _ := strings.Cut(media, ";")
	essence = strings.ToLower(strings.TrimSpace(essence))
	return essence == "application/json" || strings.HasSuffix(essence, "+json") && mediaType.MatchString(essence)
}

// content is the body of a request with what it is in the document.
type content struct {
	Body
	schema   *node
	says     string
	required bool
}

func (d *description) body(method string, n *node) (*content, error) {
	b := n.get("requestBody")
	if b == nil || method == "get" || method == "head" {
		return nil, nil // what such a request's content means is not defined (RFC 9110, section 9.3)
	}
	b, _, err := resolve(d.root, b)
	if err != nil {
		return nil, err
	}
	c := &content{says: b.get("description").str(), required: b.get("required").isTrue()}
	all := b.get("content")
	if !all.is('{') || len(all.names) == 0 {
		return nil, wrong(b, "its requestBody has no content")
	}
	rank := func(media string) Form {
		essence, _, _ := strings.Cut(strings.ToLower(media), ";")
		switch essence = strings.TrimSpace(essence); {
		case isJSON(media):
			return FormJSON
		case essence == "application/x-www-form-urlencoded":
			return FormURL
		case essence == "multipart/form-data":
			return FormMultipart
		case strings.Contains(essence, "*"), strings.HasPrefix(essence, "multipart/"):
			return ""
		case strings.HasPrefix(essence, "text/"), essence == "application/xml", strings.HasSuffix(essence, "+xml"):
			return FormText
		}
		return FormBinary
	}
	at := -1
	for _, form := range []Form{FormJSON, FormURL, FormMultipart, FormText, FormBinary} {
		if at = slices.IndexFunc(all.names, func(m string) bool { return rank(m) == form }); at >= 0 {
			c.Form = form
			break
		}
	}
	if at < 0 {
		return nil, wrong(b, "its body is of a media type that is not written: %s", clip(all.names[0]))
	}
	if c.Media = all.names[at]; c.Form == FormMultipart {
		c.Media = "multipart/form-data" // with a boundary of its own
	}
	media := all.values[at]
	c.schema = media.get("schema")
	if c.Form == FormURL || c.Form == FormMultipart {
		if c.Parts, err = d.parts(c.Form, c.schema, media.get("encoding")); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parts says how the properties of a form are written.
func (d *description) parts(form Form, schema, encoding *node) ([]Part, error) {
	schema, _, err := resolve(d.root, schema)
	if err != nil {
		return nil, err
	}
	if !isObject(d.root, schema, map[*node]bool{}) {
		return nil, wrong(schema, "its form is not described as an object")
	}
	properties := schema.get("properties")
	if properties == nil {
		return nil, nil
	}
	var parts []Part
	for i, name := range properties.names {
		v, _, err := resolve(d.root, properties.values[i])
		if err != nil {
			return nil, err
		}
		of := v
		if items := v.get("items"); v.get("type").str() == "array" && items != nil {
			if of, _, err = resolve(d.root, items); err != nil {
				return nil, err
			}
		}
		p := Part{Name: name, Style: "form", Explode: true}
		p.Binary = form == FormMultipart && (of.get("format").str() == "binary" || of.get("contentEncoding").str() == "base64" ||
			of.get("contentMediaType") != nil && of.get("contentEncoding") == nil)
		if e := encoding.get(name); e != nil {
			if s := e.get("style"); s != nil {
				if p.Style = s.str(); !slices.Contains(stylesOf["query"], p.Style) {
					return nil, wrong(s, "the style %q is none of a form", clip(p.Style))
				}
				p.Explode = p.Style == "form"
			}
			if x := e.get("explode"); x != nil {
				p.Explode = x.isTrue()
			}
			p.Reserved = e.get("allowReserved").isTrue()
			if m := e.get("contentType").str(); m != "" && !strings.ContainsAny(m, ",*") {
				p.Media = m
			}
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// arguments names the arguments of a tool and describes them.
func (d *description) arguments(o *Operation, params []param, body *content, c *converter) (properties []byte, required []string, err error) {
	wanted := map[string]int{}
	for _, p := range params {
		wanted[argName(p.Name)]++
	}
	if body != nil {
		wanted["body"]++
	}
	taken := map[string]bool{}
	name := func(in, of string) string {
		arg := argName(of)
		if wanted[arg] > 1 && in != "" {
			arg = argName(in + "_" + of)
		}
		for taken[arg] {
			arg = argName(arg + "_" + short(in+" "+of+" "+arg))
		}
		taken[arg] = true
		return arg
	}
	property := func(arg, says string, schema *node, extra string) error {
		if properties != nil {
			properties = append(properties, ',')
		}
		properties = append(appendString(properties, arg), ':')
		at := len(properties)
		if schema == nil {
			properties = append(properties, '{', '}')
		} else if properties, err = c.schema(properties, schema); err != nil {
			return err
		}
		if extra != "" {
			says = strings.TrimSpace(says + "\n" + extra)
		}
		if text := properties[at:]; says != "" && text[0] == '{' && !bytes.Contains(text, []byte(`"description":`)) {
			with := appendString([]byte(`{"description":`), says)
			if string(text) != "{}" {
				with = append(with, ',')
			}
			properties = append(properties[:at:at], append(with, text[1:]...)...)
		}
		return nil
	}
	if body != nil { // named first, since it is the one that is always called so
		body.Arg = name("", "body")
	}
	for _, p := range params {
		p.Arg = name(p.In, p.Name)
		if err := property(p.Arg, p.says, p.schema, ""); err != nil {
			return nil, nil, err
		}
		if p.required {
			required = append(required, p.Arg)
		}
		o.Params = append(o.Params, p.Param)
	}
	if body != nil {
		extra, schema := "", body.schema
		c.binary = body.Form == FormMultipart
		switch body.Form {
		case FormText:
			schema = &node{kind: '{', names: []string{"type"}, values: []*node{{kind: '"', text: "string"}}}
		case FormBinary:
			c.binary, extra = true, "The content, in base64."
			schema = &node{kind: '{', names: []string{"type", "format"}, values: []*node{{kind: '"', text: "string"}, {kind: '"', text: "binary"}}}
		}
		if err := property(body.Arg, body.says, schema, extra); err != nil {
			return nil, nil, err
		}
		if body.required {
			required = append(required, body.Arg)
		}
		o.Body = &body.Body
	}
	return properties, required, nil
}

// argName is the name of an argument in characters that every client takes.
func argName(name string) string {
	arg := argChars.ReplaceAllString(name, "_")
	if len(arg) > maxName {
		arg = arg[:maxName-9] + "_" + short(name)
	}
	return arg
}

// answer finds what an operation answers if all is well, and describes it if
// that is JSON.
func (d *description) answer(o *Operation, n *node) ([]byte, error) {
	o.Accept = "*/*"
	responses := n.get("responses")
	if responses == nil {
		return nil, nil
	}
	if !responses.is('{') {
		return nil, wrong(responses, "responses has to be a mapping")
	}
	var codes []string
	for i, code := range responses.names {
		if !answerCode.MatchString(code) {
			continue
		}
		if code[0] == '2' {
			codes = append(codes, code)
		}
		a := Answer{Code: code}
		r, _, err := resolve(d.root, responses.values[i])
		if err != nil {
			continue // of those with 2 it is said below
		}
		if all := r.get("content"); all.is('{') && len(all.names) > 0 {
			at := max(0, slices.IndexFunc(all.names, isJSON))
			if a.Media = all.names[at]; !mediaType.MatchString(a.Media) {
				a.Media = "application/octet-stream" // a range, say
			}
		}
		o.Answers = append(o.Answers, a)
	}
	slices.Sort(codes) // 2XX after the others
	for _, code := range codes {
		r, _, err := resolve(d.root, responses.get(code))
		if err != nil {
			return nil, err
		}
		all := r.get("content")
		if !all.is('{') {
			continue
		}
		at := slices.IndexFunc(all.names, isJSON)
		if at < 0 {
			continue
		}
		if mediaType.MatchString(all.names[at]) {
			o.Accept = all.names[at] + ", */*;q=0.5"
		}
		schema := all.values[at].get("schema")
		if schema == nil || o.Method == "HEAD" {
			return nil, nil
		}
		if isObject(d.root, schema, map[*node]bool{}) {
			o.Output = OutputBody
			root, _, err := resolve(d.root, schema)
			if err != nil {
				return nil, err
			}
			var out []byte
			c, err := d.fitting(maxOutput, true, func(c *converter) (err error) {
				out, err = c.schema(nil, root)
				return err
			})
			if err != nil {
				return d.undescribed(o, err)
			}
			// Clients look for the type, which parts of the schema may have.
			if root.get("type") == nil {
				rest := out[1:]
				if out = []byte(`{"type":"object"`); rest[0] != '}' {
					out = append(out, ',')
				}
				out = append(out, rest...)
			}
			return append(c.appendDefs(out[:len(out)-1]), '}'), nil
		}
		o.Output = OutputResult
		var out []byte
		c, err := d.fitting(maxOutput, true, func(c *converter) (err error) {
			out, err = c.schema([]byte(`{"type":"object","properties":{"result":`), schema)
			return err
		})
		if err != nil {
			return d.undescribed(o, err)
		}
		return append(c.appendDefs(append(out, `},"required":["result"],"additionalProperties":false`...)), '}'), nil
	}
	return nil, nil
}

// undescribed is the answer of an operation whose schema is too large even without
// what it refers to: it has none.
func (d *description) undescribed(o *Operation, err error) ([]byte, error) {
	if !errors.Is(err, errLarge) {
		return nil, err
	}
	o.Output = OutputNone
	return nil, nil
}

// template takes a path template apart: one literal more than names.
func template(path string) (literals, names []string, ok bool) {
	if !strings.HasPrefix(path, "/") || !utf8.ValidString(path) {
		return nil, nil, false
	}
	rest := path
	for {
		literal, after, found := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return nil, nil, false
		}
		literals = append(literals, literal)
		if !found {
			return literals, names, true
		}
		name, after, found := strings.Cut(after, "}")
		if !found || name == "" || strings.ContainsAny(name, "{/") || slices.Contains(names, name) {
			return nil, nil, false
		}
		names, rest = append(names, name), after
	}
}
