package openapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Request is one HTTP request below a server's own path.
type Request struct {
	Method string
	// Target is a path and, if there is one, a query: percent-encoded, beginning
	// with "/", and without a segment that leads elsewhere.
	Target string
	// Header are fields besides Accept and Content-Type: names and values that
	// cannot end the field.
	Header      []Field
	Accept      string
	ContentType string // "" where there is no body
	Body        []byte
}

// Field is one header field.
type Field struct{ Name, Value string }

// member is one member of an object as it stands in the arguments.
type member struct {
	name string
	raw  jsontext.Value
}

// members takes a JSON object apart, strictly.
func members(raw []byte) ([]member, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if dec.PeekKind() != '{' {
		return nil, errors.New("not an object")
	}
	var all []member
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		m := member{name: name.String()}
		v, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		m.raw = v.Clone()
		all = append(all, m)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after its end")
	}
	return all, nil
}

func elements(raw jsontext.Value) ([]jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	var all []jsontext.Value
	_, err := dec.ReadToken()
	for err == nil && dec.PeekKind() != ']' {
		var v jsontext.Value
		if v, err = dec.ReadValue(); err == nil {
			all = append(all, v.Clone())
		}
	}
	return all, err
}

// Request makes the request of a call. arguments is a JSON object, or nothing.
// Numbers keep their digits, and a body of JSON its bytes. The error says which
// argument cannot be sent and why.
func (o *Operation) Request(arguments []byte) (*Request, error) {
	var given []member
	if len(arguments) > 0 {
		var err error
		if given, err = members(arguments); err != nil {
			return nil, fmt.Errorf("the arguments cannot be read: %w", err)
		}
	}
	used := 0
	find := func(arg string) jsontext.Value {
		for _, m := range given {
			if m.name == arg {
				used++
				return m.raw
			}
		}
		return nil
	}
	r := &Request{Method: o.Method, Accept: o.Accept}
	inPath := map[string]string{}
	var query, cookies []string
	for i := range o.Params {
		p := &o.Params[i]
		raw := find(p.Arg)
		if raw == nil || raw.Kind() == 'n' {
			if p.In == "path" {
				return nil, fmt.Errorf("the argument %q is part of the path and is missing", clip(p.Arg))
			}
			continue
		}
		fail := func(err error) (*Request, error) {
			return nil, fmt.Errorf("the argument %q cannot be sent: %w", clip(p.Arg), err)
		}
		var err error
		switch p.In {
		case "path":
			if inPath[p.Name], err = p.path(raw); err != nil {
				return fail(err)
			}
		case "query":
			pairs, err := p.pairs(raw, p.Reserved)
			if err != nil {
				return fail(err)
			}
			query = append(query, pairs...)
		case "cookie":
			pairs, err := p.pairs(raw, false)
			if err != nil {
				return fail(err)
			}
			cookies = append(cookies, pairs...)
		case "header":
			value, err := p.header(raw)
			if err != nil {
				return fail(err)
			}
			r.Header = append(r.Header, Field{p.Name, value})
		}
	}
	if len(cookies) > 0 {
		r.Header = append(r.Header, Field{"Cookie", strings.Join(cookies, "; ")})
	}
	literals, names, ok := template(o.Path)
	if !ok {
		return nil, errors.New("its path is no template of one")
	}
	target := literals[0]
	for i, name := range names {
		target += inPath[name] + literals[i+1]
	}
	if escapes(target) {
		return nil, errors.New("an argument would lead out of the path")
	}
	if len(query) > 0 {
		target += "?" + strings.Join(query, "&")
	}
	r.Target = target
	if o.Body != nil {
		if raw := find(o.Body.Arg); raw != nil {
			if err := o.Body.write(r, raw); err != nil {
				return nil, fmt.Errorf("the argument %q cannot be sent: %w", clip(o.Body.Arg), err)
			}
		}
	}
	if used < len(given) {
		return nil, errors.New("there is an argument that the request has no place for")
	}
	return r, nil
}

// errNull is of null where there is text alone.
var errNull = errors.New("null has no form here")

// plain is the text of a string, a number's own digits, true or false.
func plain(raw jsontext.Value) (string, error) {
	switch raw.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, raw)
		return string(text), err
	case '0', 't', 'f':
		return string(raw), nil
	case 'n':
		return "", errNull
	}
	return "", errors.New("a list or an object has no form within another")
}

// flat is what a value is made of: itself, its elements, or its members.
func flat(raw jsontext.Value) (kind jsontext.Kind, names, values []string, err error) {
	kind = raw.Kind()
	switch kind {
	case '[':
		all, err := elements(raw)
		if err != nil {
			return kind, nil, nil, err
		}
		for _, v := range all {
			text, err := plain(v)
			if err != nil {
				return kind, nil, nil, err
			}
			values = append(values, text)
		}
	case '{':
		all, err := members(raw)
		if err != nil {
			return kind, nil, nil, err
		}
		for _, m := range all {
			text, err := plain(m.raw)
			if err != nil {
				return kind, nil, nil, err
			}
			names, values = append(names, m.name), append(values, text)
		}
	default:
		text, err := plain(raw)
		if err != nil {
			return kind, nil, nil, err
		}
		values = []string{text}
	}
	return kind, names, values, nil
}

const hexDigits = "0123456789ABCDEF"

// percent encodes all but what RFC 3986 calls unreserved; with reserved set, also
// but what may stand in a query without ending a part of it.
func percent(s string, reserved bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0,
			reserved && strings.IndexByte(":/?@!$'()*,;", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// joined are the parts of a value in the way of the simple style: elements, or
// names and values, with a separator; exploded, names and values with "=".
func joined(kind jsontext.Kind, names, values []string, explode bool, between string, encode func(string) string) string {
	var parts []string
	for i, v := range values {
		switch {
		case kind == '{' && explode:
			parts = append(parts, encode(names[i])+"="+encode(v))
		case kind == '{':
			parts = append(parts, encode(names[i]), encode(v))
		default:
			parts = append(parts, encode(v))
		}
	}
	return strings.Join(parts, between)
}

// path is a value as part of a path (RFC 6570: simple, label and matrix).
func (p *Param) path(raw jsontext.Value) (string, error) {
	encode := func(s string) string { return percent(s, false) }
	if p.JSON {
		if err := harmless(string(raw)); err != nil {
			return "", err
		}
		return encode(string(raw)), nil
	}
	kind, names, values, err := flat(raw)
	if err != nil {
		return "", err
	}
	for _, s := range append(slices.Clone(names), values...) {
		if err := harmless(s); err != nil {
			return "", err
		}
	}
	var out string
	switch p.Style {
	case "label":
		between := ","
		if p.Explode {
			between = "."
		}
		out = "." + joined(kind, names, values, p.Explode, between, encode)
	case "matrix":
		name := encode(p.Name)
		switch {
		case kind == '{' && p.Explode:
			out = ";" + joined(kind, names, values, true, ";", encode)
		case kind == '[' && p.Explode:
			for _, v := range values {
				out += ";" + name + "=" + encode(v)
			}
		default:
			out = ";" + name + "=" + joined(kind, names, values, false, ",", encode)
		}
	default:
		out = joined(kind, names, values, p.Explode, ",", encode)
	}
	if out == "" {
		return "", errors.New("nothing cannot be part of a path")
	}
	return out, nil
}

// harmless refuses what some server on the way may read as more than one segment
// of a path, even if it is encoded.
func harmless(s string) error {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '/' || c == '\\':
			return errors.New("a slash cannot be part of a path's segment")
		case c < ' ' || c == 0x7f:
			return errors.New("a control character cannot be part of a path")
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			if d := fromHex(s[i+1])<<4 | fromHex(s[i+2]); d == '/' || d == '\\' || d == '.' || d == '%' || d < ' ' {
				return errors.New("it is encoded already, and would be read as something else once decoded twice")
			}
		}
	}
	return nil
}

// escapes reports whether a path holds a segment that stands for another place,
// or for none.
func escapes(path string) bool {
	segments := strings.Split(path, "/")
	for i, s := range segments[1:] {
		decoded, ok := unpercent(s)
		if !ok || strings.ContainsAny(decoded, "/\\\x00") || decoded == "" && i < len(segments)-2 {
			return true
		}
		before, _, _ := strings.Cut(decoded, ";")
		if before = strings.TrimSpace(before); before == "." || before == ".." {
			return true
		}
	}
	return segments[0] != ""
}

// pathText reports whether a literal of a template can stand in a path as it is.
func pathText(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~/:@!$&'()*+,;=", c) >= 0:
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			i += 2
		default:
			return false
		}
	}
	return true
}

// fieldText reports whether s can be the value of a header field: visible ASCII
// and spaces within.
func fieldText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return strings.TrimSpace(s) == s && s != ""
}

func (p *Param) header(raw jsontext.Value) (string, error) {
	value := string(raw)
	if !p.JSON {
		kind, names, values, err := flat(raw)
		if err != nil {
			return "", err
		}
		value = joined(kind, names, values, p.Explode, ",", func(s string) string { return s })
	}
	if !fieldText(value) {
		return "", errors.New("a header is of visible ASCII characters")
	}
	return value, nil
}

// pairs are the parts of a query, a cookie or a form that a value becomes.
func (p *Param) pairs(raw jsontext.Value, reserved bool) ([]string, error) {
	encode := func(s string) string { return percent(s, reserved) }
	name := percent(p.Name, false)
	if p.JSON {
		return []string{name + "=" + percent(string(raw), false)}, nil
	}
	if p.Style == "deepObject" {
		if kind := raw.Kind(); kind != '{' && kind != '[' {
			return nil, errors.New("it has to be an object (deepObject)")
		}
		return deep(nil, name, raw, encode)
	}
	kind, names, values, err := flat(raw)
	if err != nil {
		return nil, err
	}
	one := func(between string) []string {
		return []string{name + "=" + joined(kind, names, values, false, between, encode)}
	}
	switch p.Style {
	case "spaceDelimited":
		if kind == '[' && !p.Explode {
			return one("%20"), nil
		}
	case "pipeDelimited":
		if kind == '[' && !p.Explode {
			return one("%7C"), nil
		}
	}
	if !p.Explode {
		if kind != '"' && len(values) == 0 { // RFC 6570: an empty list is not there
			return nil, nil
		}
		return one(","), nil
	}
	var pairs []string
	for i, v := range values {
		n := name
		if kind == '{' {
			n = percent(names[i], false)
		}
		pairs = append(pairs, n+"="+encode(v))
	}
	return pairs, nil
}

// deep appends what an object is in the style deepObject: a[b]=c. What it holds
// goes on in the same way, a[b][c]=d, and lists by their indexes, a[0]=b: OpenAPI
// does not say how, and this is what most servers read.
func deep(pairs []string, name string, raw jsontext.Value, encode func(string) string) ([]string, error) {
	switch raw.Kind() {
	case '{':
		all, err := members(raw)
		for i := 0; i < len(all) && err == nil; i++ {
			pairs, err = deep(pairs, name+"%5B"+percent(all[i].name, false)+"%5D", all[i].raw, encode)
		}
		return pairs, err
	case '[':
		all, err := elements(raw)
		for i := 0; i < len(all) && err == nil; i++ {
			pairs, err = deep(pairs, name+"%5B"+strconv.Itoa(i)+"%5D", all[i], encode)
		}
		return pairs, err
	}
	text, err := plain(raw)
	return append(pairs, name+"="+encode(text)), err
}

// write makes the body of a request.
func (b *Body) write(r *Request, raw jsontext.Value) error {
	r.ContentType = b.Media
	switch b.Form {
	case FormJSON:
		r.Body = []byte(raw)
		return nil
	case FormText, FormBinary:
		if raw.Kind() != '"' {
			return errors.New("it has to be text")
		}
		text, err := plain(raw)
		if err != nil {
			return err
		}
		if r.Body = []byte(text); b.Form == FormBinary {
			r.Body, err = base64.StdEncoding.Strict().DecodeString(text)
		}
		if err != nil {
			return errors.New("it is not base64")
		}
		return nil
	}
	all, err := members(raw)
	if err != nil {
		return errors.New("it has to be an object")
	}
	if b.Form == FormMultipart {
		return b.multipart(r, all)
	}
	var pairs []string
	for _, m := range all {
		p := b.part(m.name)
		param := Param{Name: m.name, Style: p.Style, Explode: p.Explode, JSON: isJSON(p.Media)}
		switch kind := m.raw.Kind(); {
		case kind == 'n':
			continue
		case kind == '{' && p.Style == "form":
			param.JSON = true // OpenAPI 3.0.3, "Encoding Object": that of an object is JSON
		}
		more, err := param.pairs(m.raw, p.Reserved)
		if err != nil {
			return fmt.Errorf("%q: %w", clip(m.name), err)
		}
		pairs = append(pairs, more...)
	}
	r.Body = []byte(strings.Join(pairs, "&"))
	return nil
}

func (b *Body) part(name string) Part {
	for _, p := range b.Parts {
		if p.Name == name {
			return p
		}
	}
	return Part{Name: name, Style: "form", Explode: true}
}

// partName writes a name so that it cannot end its quotes or its line, as
// browsers do (WHATWG HTML, "multipart/form-data").
var partName = strings.NewReplacer("\r", "%0D", "\n", "%0A", `"`, "%22")

// multipart writes a form (RFC 7578). The boundary is a digest of what is
// written, so that the same call makes the same bytes and no content can hold it.
func (b *Body) multipart(r *Request, all []member) error {
	type piece struct {
		head    string
		content []byte
	}
	var pieces []piece
	sum := sha256.New()
	for _, m := range all {
		p := b.part(m.name)
		values := []jsontext.Value{m.raw}
		if m.raw.Kind() == '[' && !isJSON(p.Media) {
			var err error
			if values, err = elements(m.raw); err != nil {
				return err
			}
		}
		for _, v := range values {
			media, file := p.Media, ""
			content := []byte(v)
			switch kind := v.Kind(); {
			case kind == 'n':
				continue
			case kind == '{' || kind == '[' || isJSON(p.Media):
				if media == "" {
					media = "application/json"
				}
			case p.Binary:
				text, err := plain(v)
				if err != nil {
					return err
				}
				if content, err = base64.StdEncoding.Strict().DecodeString(text); err != nil {
					return fmt.Errorf("%q is not base64", clip(m.name))
				}
				if file = `; filename="` + partName.Replace(m.name) + `"`; media == "" {
					media = "application/octet-stream"
				}
			default:
				text, err := plain(v)
				if err != nil {
					return err
				}
				content = []byte(text)
			}
			head := `Content-Disposition: form-data; name="` + partName.Replace(m.name) + `"` + file + "\r\n"
			if media != "" {
				head += "Content-Type: " + media + "\r\n"
			}
			pieces = append(pieces, piece{head, content})
			fmt.Fprintf(sum, "%d %d ", len(head), len(content))
			sum.Write([]byte(head))
			sum.Write(content)
		}
	}
	boundary := hex.EncodeToString(sum.Sum(nil))
	var out bytes.Buffer
	for _, p := range pieces {
		out.WriteString("--" + boundary + "\r\n" + p.head + "\r\n")
		out.Write(p.content)
		out.WriteString("\r\n")
	}
	out.WriteString("--" + boundary + "--\r\n")
	r.Body, r.ContentType = out.Bytes(), b.Media+"; boundary="+boundary
	return nil
}
