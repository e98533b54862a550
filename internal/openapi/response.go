package openapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Response is what an API answers to one request.
type Response struct {
	Status     int
	RetryAfter int // in seconds; zero if it does not say
	// Media is the type of the body and Charset its parameter of that name, both in lower
	// case; "" if it does not say.
	Media, Charset string
	Body           []byte
}

// ContentType takes the field of that name apart.
func (r *Response) ContentType(field string) {
	media, rest, _ := strings.Cut(strings.ToLower(field), ";")
	r.Media, r.Charset = strings.TrimSpace(media), ""
	for param := range strings.SplitSeq(rest, ";") {
		if name, value, ok := strings.Cut(param, "="); ok && strings.TrimSpace(name) == "charset" {
			r.Charset = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
}

// AppendContent appends what a result of tools/call holds of a response: its content
// and, as it may be, its structuredContent and isError. The body stays as it is, byte for
// byte. fits reports whether a value is what the tool's output schema says; nil: nothing
// is.
func (o *Operation) AppendContent(dst []byte, r *Response, fits func(structured []byte) bool) []byte {
	good := r.Status >= 200 && r.Status <= 299
	var structured []byte
	if good && fits != nil && o.Output != OutputNone && isJSON(r.Media) && jsontext.Value(r.Body).IsValid() {
		if structured = r.Body; o.Output == OutputResult {
			structured = slices.Concat([]byte(`{"result":`), r.Body, []byte(`}`))
		}
		if !fits(structured) {
			structured = nil
		}
	}
	dst = append(dst, `"content":[`...)
	if structured != nil {
		dst = append(appendString(append(dst, `{"type":"text","text":`...), string(structured)), `}],"structuredContent":`...)
		return append(dst, structured...)
	}
	if !good || len(r.Body) == 0 {
		dst = append(appendString(append(dst, `{"type":"text","text":`...), r.line()), '}')
		if len(r.Body) > 0 {
			dst = append(dst, ',')
		}
	}
	switch {
	case len(r.Body) == 0:
	case r.readable():
		dst = append(appendString(append(dst, `{"type":"text","text":`...), string(r.Body)), '}')
	case r.Media == "image/png" || r.Media == "image/jpeg" || r.Media == "image/gif" || r.Media == "image/webp":
		dst = base64.StdEncoding.AppendEncode(append(dst, `{"type":"image","data":"`...), r.Body)
		dst = append(appendString(append(dst, `","mimeType":`...), r.Media), '}')
	default:
		media := r.Media
		if media == "" {
			media = "application/octet-stream"
		}
		if r.Charset != "" {
			media += "; charset=" + r.Charset
		}
		dst = append(dst, `{"type":"resource","resource":{"uri":`...)
		dst = appendString(dst, "urn:tool:"+o.Tool+":result")
		dst = appendString(append(dst, `,"mimeType":`...), media)
		dst = base64.StdEncoding.AppendEncode(append(dst, `,"blob":"`...), r.Body)
		dst = append(dst, `"}}`...)
	}
	dst = append(dst, ']')
	if !good {
		dst = append(dst, `,"isError":true`...)
	}
	return dst
}

// line says what a model is told of a response beside its body.
func (r *Response) line() string {
	line := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", r.Status, http.StatusText(r.Status)))
	if r.RetryAfter > 0 {
		line += "\nRetry-After: " + strconv.Itoa(r.RetryAfter)
	}
	return line
}

// parseLine reads what line writes: a status, what it is called or not, and how long to
// wait. Behind it, and a space or a line's end, may be a body.
func (r *Response) parseLine(text string) (rest string, ok bool) {
	text, ok = strings.CutPrefix(text, "HTTP ")
	if !ok || len(text) < 3 {
		return "", false
	}
	status, err := strconv.Atoi(text[:3])
	if err != nil || status < 200 || status > 599 {
		return "", false
	}
	rest = text[3:]
	ends := func(s string) bool { return s == "" || s[0] == ' ' || s[0] == '\n' }
	if after, ok := strings.CutPrefix(rest, " "+http.StatusText(status)); ok && ends(after) {
		rest = after
	}
	if !ends(rest) {
		return "", false
	}
	r.Status = status
	if after, ok := strings.CutPrefix(rest, "\nRetry-After: "); ok {
		digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
		if n, err := strconv.Atoi(digits); err == nil && ends(after[len(digits):]) {
			r.RetryAfter, rest = n, after[len(digits):]
		}
	}
	if rest != "" {
		rest = rest[1:]
	}
	return rest, true
}

// readable reports whether a body can stand as text without changing a byte of it.
func (r *Response) readable() bool {
	kind, sub, _ := strings.Cut(r.Media, "/")
	textual := r.Media == "" || kind == "text" || isJSON(r.Media) || strings.HasSuffix(sub, "+xml") || strings.HasSuffix(sub, "+yaml") ||
		slices.Contains([]string{"application/xml", "application/yaml", "application/javascript", "application/x-www-form-urlencoded", "application/graphql"}, r.Media)
	if !textual || !utf8.Valid(r.Body) || bytes.IndexByte(r.Body, 0) >= 0 {
		return false
	}
	if r.Charset == "" || r.Charset == "utf-8" || r.Charset == "utf8" || r.Charset == "us-ascii" {
		return true
	}
	for _, c := range r.Body {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return !strings.HasPrefix(r.Charset, "utf-16") && !strings.HasPrefix(r.Charset, "utf-32") && r.Charset != "utf-7"
}

// block is one block of a result's content.
type block struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Data     []byte `json:"data"`
	MimeType string `json:"mimeType"`
	Resource struct {
		MimeType string  `json:"mimeType"`
		Text     *string `json:"text"`
		Blob     []byte  `json:"blob"`
	} `json:"resource"`
}

// Response is the response that a result of tools/call was made of by
// [Operation.AppendContent], as far as the result says. What it does not say is what the
// document says first: the status of a good answer, the media type of a text. An error
// that begins with no status, as "HTTP 404", has the least that the document gives to an
// error of the request, and 400 if it gives none.
func (o *Operation) Response(result []byte) (*Response, error) {
	var in struct {
		Content           []block         `json:"content"`
		StructuredContent json.RawMessage `json:"structuredContent"`
		IsError           bool            `json:"isError"`
	}
	if err := json.Unmarshal(result, &in); err != nil {
		return nil, fmt.Errorf("the result of %s cannot be read: %w", clip(o.Tool), err)
	}
	r := &Response{}
	content := in.Content
	if len(content) > 0 && content[0].Type == "text" {
		line := *r
		// In a good answer it stands alone: a text may begin like that.
		if rest, ok := line.parseLine(content[0].Text); ok && (in.IsError || rest == "" && line.Status <= 299) {
			*r = line
			if content = content[1:]; rest != "" {
				content = []block{{Type: "text", Text: rest}}
			}
		}
	}
	structured := in.StructuredContent
	if string(structured) == "null" {
		structured = nil
	}
	switch {
	case in.IsError || structured == nil:
		if len(content) > 0 {
			r.take(&content[0])
		}
	default:
		text := ""
		if len(content) > 0 {
			text = content[0].Text
		}
		r.Body = o.unwrapped(structured, text)
		r.Media = "application/json"
	}
	if r.Status == 0 {
		if r.Status = o.success(len(r.Body) > 0); in.IsError {
			r.Status = o.failure()
		}
	}
	if described := o.media(r.Status); described != "" && len(r.Body) > 0 && (r.Media == "" || isJSON(r.Media) && isJSON(described)) {
		as := *r
		as.ContentType(described)
		if as.readable() && (!isJSON(as.Media) || jsontext.Value(r.Body).IsValid()) {
			*r = as
		}
	}
	switch {
	case r.Media != "" || len(r.Body) == 0:
	case jsontext.Value(r.Body).IsValid():
		r.Media = "application/json"
	default:
		r.Media, r.Charset = "text/plain", "utf-8"
	}
	return r, nil
}

// take has the body be what a block holds.
func (r *Response) take(b *block) {
	switch b.Type {
	case "text":
		r.Body = []byte(b.Text)
	case "image", "audio":
		r.Body = b.Data
		r.ContentType(b.MimeType)
	case "resource":
		r.ContentType(b.Resource.MimeType)
		if r.Body = b.Resource.Blob; b.Resource.Text != nil {
			r.Body = []byte(*b.Resource.Text)
		}
	}
}

// unwrapped is the body of which structured content was made. text is the same with the
// white space around it, if all is as it was made.
func (o *Operation) unwrapped(structured []byte, text string) []byte {
	same := func(text string, v []byte) []byte {
		if strings.TrimSpace(text) == string(v) {
			return []byte(text)
		}
		return v
	}
	if o.Output != OutputResult {
		return same(text, structured)
	}
	all, err := members(structured)
	if err != nil || len(all) != 1 || all[0].name != "result" {
		return structured
	}
	inner, _ := strings.CutPrefix(text, `{"result":`)
	inner, _ = strings.CutSuffix(inner, "}")
	return same(inner, all[0].raw)
}

// success is the status of a good answer: of those in the document the least that has a
// body, or none, as this one.
func (o *Operation) success(body bool) int {
	best, fits := 0, false
	for _, a := range o.Answers {
		status, err := strconv.Atoi(strings.ReplaceAll(a.Code, "XX", "00"))
		if err != nil || status < 200 || status > 299 || body && status == http.StatusNoContent {
			continue
		}
		if f := (a.Media != "") == body; best == 0 || f && !fits || f == fits && status < best {
			best, fits = status, f
		}
	}
	if best == 0 {
		return http.StatusOK
	}
	return best
}

// failure is the status of an error that says none. Those that speak of the caller's
// rights and rates are not what a request is wrong about.
func (o *Operation) failure() int {
	best := 0
	for _, a := range o.Answers {
		status, err := strconv.Atoi(a.Code)
		if err == nil && status >= 400 && status <= 499 && (best == 0 || status < best) &&
			!slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusTooManyRequests}, status) {
			best = status
		}
	}
	if best == 0 {
		return http.StatusBadRequest
	}
	return best
}

// media is the media type that the document gives to a status, "" if it gives none.
func (o *Operation) media(status int) string {
	code := strconv.Itoa(status)
	for _, want := range []string{code, code[:1] + "XX", "default"} {
		for _, a := range o.Answers {
			if a.Code == want {
				return a.Media
			}
		}
	}
	return ""
}

// silent reports whether the document has no body in any good answer.
func (o *Operation) silent() bool {
	good := false
	for _, a := range o.Answers {
		if a.Code[0] != '2' {
			continue
		}
		if good = true; a.Media != "" {
			return false
		}
	}
	return good
}

// AsAnswered is a result that was made without the API, in the form of one that was made
// of the API's answer, so that neither its callers by MCP nor those by HTTP can tell: an
// error says its status, what is no object stands within one where the document says so,
// and where the document has no body there is none.
func (o *Operation) AsAnswered(result []byte, fits func(structured []byte) bool) ([]byte, error) {
	r, err := o.Response(result)
	if err != nil {
		return nil, err
	}
	if r.Status <= 299 && len(r.Body) > 0 && (o.silent() || o.Method == http.MethodHead) {
		r.Body, r.Status = nil, o.success(false)
	}
	return o.answered(result, r, fits)
}

// Failed is a result with another status, and what it says else as the body.
func (o *Operation) Failed(result []byte, status, retryAfter int) ([]byte, error) {
	r, err := o.Response(result)
	if err != nil {
		return nil, err
	}
	r.Status, r.RetryAfter = status, retryAfter
	return o.answered(result, r, nil)
}

// answered is a result whose content is that of a response, and whose other members are
// as they were.
func (o *Operation) answered(result []byte, r *Response, fits func([]byte) bool) ([]byte, error) {
	all, err := members(result)
	if err != nil {
		return nil, err
	}
	dst := []byte{'{'}
	for _, m := range all {
		if m.name != "content" && m.name != "structuredContent" && m.name != "isError" {
			dst = append(append(append(appendString(dst, m.name), ':'), m.raw...), ',')
		}
	}
	return append(o.AppendContent(dst, r, fits), '}'), nil
}
