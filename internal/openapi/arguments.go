package openapi

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Incoming is a request as a client has sent it, but for its method and path.
type Incoming struct {
	Query  string // as it stands after the question mark
	Header map[string][]string
	Body   []byte
	Keys   []Key // where a credential is no parameter
}

// ErrMedia is the error of a body in another media type than the operation's.
var ErrMedia = errors.New("the operation takes a body of another media type")

// What a request may be made of at most: parameters of one name, parts of a form.
const maxPairs = 1000

// Arguments are the arguments by which [Operation.Request] makes the request: a JSON
// object. Numbers keep their digits, and a body of JSON its bytes. Text is a number or
// a boolean where the schema says so and not text.
//
// A request holds nothing that the operation does not know: a parameter in the query
// that is none would be lost on the way, and change what the request means. Headers and
// cookies that are none are the connection's own business.
func (m *Match) Arguments(in *Incoming) ([]byte, error) {
	query, err := pairsOf(in.Query, "&", true)
	if err != nil {
		return nil, fmt.Errorf("the query cannot be read: %w", err)
	}
	for _, q := range query {
		q.used = slices.Contains(in.Keys, Key{"query", q.name})
	}
	var cookies pairs
	for _, line := range in.Header["Cookie"] {
		more, err := pairsOf(line, ";", false)
		if err != nil {
			return nil, fmt.Errorf("the cookies cannot be read: %w", err)
		}
		cookies = append(cookies, more...)
	}
	values := make([]jsontext.Value, len(m.Params))
	for _, spread := range []bool{false, true} { // objects take the names that nothing else has
		for i := range m.Params {
			p := &m.Params[i]
			s := m.input.property(p.Arg)
			isSpread := (p.In == "query" || p.In == "cookie") && p.spreads(s)
			if isSpread != spread {
				continue
			}
			var v jsontext.Value
			var err error
			switch {
			case p.In == "path":
				v, err = p.fromPath(m.inPath[p.Name], s)
			case p.In == "header":
				v, err = p.fromHeader(in.Header[textproto.CanonicalMIMEHeaderKey(p.Name)], s)
			case p.In == "cookie":
				v, err = p.fromPairs(cookies, s)
			default:
				v, err = p.fromPairs(query, s)
			}
			if err != nil {
				return nil, fmt.Errorf("the %s parameter %q cannot be read: %w", p.In, clip(p.Name), err)
			}
			values[i] = v
		}
	}
	for _, q := range query {
		if !q.used {
			return nil, fmt.Errorf("the operation has no query parameter %q%s", clip(q.name), m.others())
		}
	}
	args := []byte{'{'}
	put := func(name string, v jsontext.Value) {
		if v == nil {
			return
		}
		if len(args) > 1 {
			args = append(args, ',')
		}
		args = append(append(appendString(args, name), ':'), v...)
	}
	for i := range m.Params {
		put(m.Params[i].Arg, values[i])
	}
	if m.Body == nil {
		if len(in.Body) > 0 {
			return nil, errors.New("the operation takes no body")
		}
	} else {
		v, err := m.Body.read(in, m.input.property(m.Body.Arg))
		if errors.Is(err, ErrMedia) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("the body cannot be read: %w", err)
		}
		put(m.Body.Arg, v)
	}
	return append(args, '}'), nil
}

// others names the parameters that there are, for somebody who has written another.
func (m *Match) others() string {
	var names []string
	for _, p := range m.Params {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return ": it has none"
	}
	return ": it has " + strings.Join(names[:min(len(names), 20)], ", ")
}

// pair is a name with its value, which is still encoded.
type pair struct {
	name, raw string
	used      bool
	plus      bool // a plus stands for a space
}

type pairs []*pair

func pairsOf(text, between string, plus bool) (pairs, error) {
	if text == "" {
		return nil, nil
	}
	var all pairs
	for part := range strings.SplitSeq(text, between) {
		if part = strings.TrimLeft(part, " "); part == "" {
			continue
		}
		if len(all) == maxPairs {
			return nil, fmt.Errorf("more than %d parameters", maxPairs)
		}
		name, raw, _ := strings.Cut(part, "=")
		p := &pair{raw: raw, plus: plus}
		var err error
		if p.name, err = p.text(name); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// text decodes a part of a pair.
func (p *pair) text(raw string) (string, error) {
	if p.plus {
		raw = strings.ReplaceAll(raw, "+", " ")
	}
	return decoded(raw)
}

func decoded(raw string) (string, error) {
	text, ok := unpercent(raw)
	if !ok || !utf8.ValidString(text) {
		return "", errors.New("it is not percent-encoded UTF-8")
	}
	return text, nil
}

// take are the pairs of a name.
func (all pairs) take(name string) pairs {
	var of pairs
	for _, p := range all {
		if !p.used && p.name == name {
			p.used = true
			of = append(of, p)
		}
	}
	return of
}

// spreads reports whether a parameter is an object each of whose members is a
// parameter of its own.
func (p *Param) spreads(s shape) bool {
	return !p.JSON && p.Explode && p.Style != "deepObject" && s.only(isMembers)
}

// fromPairs reads a parameter of a query, a cookie or a form; nil if it is not there.
func (p *Param) fromPairs(all pairs, s shape) (jsontext.Value, error) {
	if p.spreads(s) {
		var names []string
		var values []jsontext.Value
		for _, q := range all {
			if q.used || !s.has(q.name) {
				continue
			}
			q.used = true
			text, err := q.text(q.raw)
			if err != nil {
				return nil, err
			}
			if slices.Contains(names, q.name) {
				return nil, fmt.Errorf("%q is there twice", clip(q.name))
			}
			names, values = append(names, q.name), append(values, s.property(q.name).scalar(text))
		}
		if names == nil {
			return nil, nil
		}
		return object(names, values), nil
	}
	if !p.JSON && p.Style == "deepObject" {
		return p.deep(all, s)
	}
	of := all.take(p.Name)
	if len(of) == 0 {
		return nil, nil
	}
	if p.Explode && !p.JSON {
		var texts []string
		for _, q := range of {
			text, err := q.text(q.raw)
			if err != nil {
				return nil, err
			}
			texts = append(texts, text)
		}
		if len(of) > 1 || !s.maybe(isScalar) {
			if !s.maybe(isList) {
				return nil, errors.New("it is there more than once")
			}
			return list(texts, s.items()), nil
		}
		return s.scalar(texts[0]), nil
	}
	if len(of) > 1 {
		return nil, errors.New("it is there more than once")
	}
	q := of[0]
	whole, err := q.text(q.raw)
	if err != nil {
		return nil, err
	}
	if p.JSON {
		return asJSON(whole)
	}
	switch p.Style {
	case "spaceDelimited":
		if s.maybe(isList) {
			return list(strings.Split(whole, " "), s.items()), nil
		}
	case "pipeDelimited":
		if s.maybe(isList) {
			return list(strings.Split(whole, "|"), s.items()), nil
		}
	}
	between := ","
	if !strings.Contains(q.raw, ",") && strings.Contains(whole, ",") && !s.maybe(isScalar) {
		between = "%2C" // a client that encodes the whole of it, as most do
	}
	return s.joined(plainly(q.raw), between, false, q.text)
}

// asJSON is text that is JSON already.
func asJSON(text string) (jsontext.Value, error) {
	v := jsontext.Value(strings.TrimSpace(text))
	if !v.IsValid() {
		return nil, errors.New("it is not JSON, or has a name twice")
	}
	return v, nil
}

func list(texts []string, items shape) jsontext.Value {
	out := []byte{'['}
	for i, text := range texts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, items.scalar(text)...)
	}
	return append(out, ']')
}

func object(names []string, values []jsontext.Value) jsontext.Value {
	out := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(appendString(out, name), ':'), values[i]...)
	}
	return append(out, '}')
}

// joined reads what [joined] writes: a list, names and values, or one text, in parts
// with a separator; exploded, names and values with "=".
func (s shape) joined(raw, between string, explode bool, decode func(string) (string, error)) (jsontext.Value, error) {
	parts := strings.Split(raw, between)
	one := len(parts) == 1 && !(explode && strings.Contains(raw, "=") && s.maybe(isMembers))
	if s.maybe(isScalar) && (one || !s.maybe(isList|isMembers)) {
		text, err := decode(raw)
		return s.scalar(text), err
	}
	var texts []string
	asObject := s.maybe(isMembers) && !s.maybe(isList)
	for _, part := range parts {
		if asObject && explode {
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				return nil, errors.New("it has to be names and values")
			}
			n, err := decode(name)
			if err != nil {
				return nil, err
			}
			texts, part = append(texts, n), value
		}
		text, err := decode(part)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	if !asObject {
		return list(texts, s.items()), nil
	}
	if len(texts)%2 != 0 {
		return nil, errors.New("it has to be names and values")
	}
	var names []string
	var values []jsontext.Value
	for i := 0; i < len(texts); i += 2 {
		if slices.Contains(names, texts[i]) {
			return nil, fmt.Errorf("%q is there twice", clip(texts[i]))
		}
		names, values = append(names, texts[i]), append(values, s.property(texts[i]).scalar(texts[i+1]))
	}
	return object(names, values), nil
}

func (p *Param) fromPath(raw string, s shape) (jsontext.Value, error) {
	if p.JSON {
		text, err := decoded(raw)
		if err != nil {
			return nil, err
		}
		return asJSON(text)
	}
	ok := true
	switch p.Style {
	case "label":
		if raw, ok = strings.CutPrefix(raw, "."); !ok {
			return nil, errors.New("it begins with a dot")
		}
		if p.Explode {
			return s.joined(raw, ".", true, decoded)
		}
	case "matrix":
		if raw, ok = strings.CutPrefix(raw, ";"); !ok {
			return nil, errors.New("it begins with a semicolon")
		}
		name := percent(p.Name, false) + "="
		switch {
		case p.Explode && s.only(isMembers):
			return s.joined(raw, ";", true, decoded)
		case p.Explode && s.maybe(isList) && (strings.Contains(raw, ";") || !s.maybe(isScalar)):
			parts := strings.Split(raw, ";")
			for i, part := range parts {
				text, ok := strings.CutPrefix(part, name)
				if !ok {
					return nil, fmt.Errorf("each of its parts begins with %q", clip(name))
				}
				var err error
				if parts[i], err = decoded(text); err != nil {
					return nil, err
				}
			}
			return list(parts, s.items()), nil
		}
		if raw, ok = strings.CutPrefix(raw, name); !ok {
			return nil, fmt.Errorf("it begins with %q", clip(name))
		}
		return s.joined(raw, ",", false, decoded)
	}
	return s.joined(raw, ",", p.Explode, decoded)
}

func (p *Param) fromHeader(lines []string, s shape) (jsontext.Value, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	raw := strings.Join(lines, ",")
	if !utf8.ValidString(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	if p.JSON {
		return asJSON(raw)
	}
	if s.maybe(isScalar) { // a comma in it is one
		return s.scalar(raw), nil
	}
	return s.joined(raw, ",", p.Explode, func(part string) (string, error) { return strings.Trim(part, " \t"), nil })
}

// read reads a body; nil if there is none.
func (b *Body) read(in *Incoming, s shape) (jsontext.Value, error) {
	sent := ""
	if lines := in.Header["Content-Type"]; len(lines) > 0 {
		sent = lines[0]
	}
	if len(in.Body) == 0 && (sent == "" || b.Form != FormText && b.Form != FormBinary) {
		return nil, nil
	}
	if sent != "" && !b.takes(sent) {
		return nil, fmt.Errorf("%w: %s", ErrMedia, b.Media)
	}
	switch b.Form {
	case FormJSON:
		v := jsontext.Value(in.Body)
		if !v.IsValid() {
			return nil, errors.New("it is not JSON, or has a name twice")
		}
		return v, nil
	case FormText:
		if !utf8.Valid(in.Body) {
			return nil, errors.New("it is not UTF-8")
		}
		return appendString(nil, string(in.Body)), nil
	case FormBinary:
		return appendString(nil, base64.StdEncoding.EncodeToString(in.Body)), nil
	case FormMultipart:
		return b.readMultipart(sent, in.Body, s)
	}
	all, err := pairsOf(string(in.Body), "&", true)
	if err != nil {
		return nil, err
	}
	var names []string
	var values []jsontext.Value
	for _, q := range all {
		if q.used {
			continue
		}
		name, _, _ := strings.Cut(q.name, "[")
		if p := b.part(name); name == q.name || p.Style != "deepObject" {
			name = q.name
		}
		of := b.part(name)
		property := s.property(name)
		param := Param{Name: name, Style: of.Style, Explode: of.Explode, JSON: isJSON(of.Media) || of.Style == "form" && property.only(isMembers)}
		v, err := param.fromPairs(all, property)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", clip(name), err)
		}
		names, values = append(names, name), append(values, v)
	}
	return object(names, values), nil
}

// takes reports whether a Content-Type is that of the body.
func (b *Body) takes(sent string) bool {
	essence := func(s string) string {
		s, _, _ = strings.Cut(s, ";")
		return strings.ToLower(strings.TrimSpace(s))
	}
	return essence(sent) == essence(b.Media) || b.Form == FormJSON && isJSON(sent)
}

// partNames reads what partName writes.
var partNames = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%22", `"`)

func (b *Body) readMultipart(sent string, body []byte, s shape) (jsontext.Value, error) {
	_, params, err := mime.ParseMediaType(sent)
	if err != nil || params["boundary"] == "" {
		return nil, errors.New("its Content-Type says no boundary")
	}
	var names []string
	many := map[string][]jsontext.Value{}
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for n := 0; ; n++ {
		piece, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n == maxPairs {
			return nil, errors.New("it is not a form with parts (RFC 7578)")
		}
		content, err := io.ReadAll(piece)
		if err != nil {
			return nil, errors.New("it ends within a part")
		}
		name := partNames.Replace(piece.FormName())
		if name == "" || !utf8.ValidString(name) {
			return nil, errors.New("one of its parts has no name")
		}
		p, property := b.part(name), s.property(name)
		element := property
		if property.maybe(isList) && !isJSON(p.Media) {
			element = property.items()
		}
		var v jsontext.Value
		media := piece.Header.Get("Content-Type")
		switch {
		case p.Binary:
			v = appendString(nil, base64.StdEncoding.EncodeToString(content))
		case isJSON(p.Media), isJSON(media) && element.maybe(isMembers|isList), element.only(isMembers):
			if v, err = asJSON(string(content)); err != nil {
				return nil, fmt.Errorf("%q: %w", clip(name), err)
			}
		case !utf8.Valid(content):
			return nil, fmt.Errorf("%q is not UTF-8", clip(name))
		default:
			v = element.scalar(string(content))
		}
		if many[name] == nil {
			names = append(names, name)
		}
		many[name] = append(many[name], v)
	}
	var values []jsontext.Value
	for _, name := range names {
		of, property := many[name], s.property(name)
		switch {
		case property.maybe(isList) && !isJSON(b.part(name).Media) && (len(of) > 1 || !property.maybe(isScalar|isMembers)):
			all := []byte{'['}
			for i, v := range of {
				if i > 0 {
					all = append(all, ',')
				}
				all = append(all, v...)
			}
			values = append(values, append(all, ']'))
		case len(of) > 1:
			return nil, fmt.Errorf("%q is there more than once", clip(name))
		default:
			values = append(values, of[0])
		}
	}
	return object(names, values), nil
}

// branch is an object or a list of the style deepObject while it is read.
type branch struct {
	text  string // of a leaf
	leaf  bool
	names []string
	under []*branch
}

// deep reads what [deep] writes.
func (p *Param) deep(all pairs, s shape) (jsontext.Value, error) {
	root := &branch{}
	for _, q := range all {
		rest, ok := strings.CutPrefix(q.name, p.Name+"[")
		if !ok || q.used {
			continue
		}
		q.used = true
		rest, ok = strings.CutSuffix(rest, "]")
		if !ok {
			return nil, fmt.Errorf("%q has no end", clip(q.name))
		}
		text, err := q.text(q.raw)
		if err != nil {
			return nil, err
		}
		at := root
		keys := strings.Split(rest, "][")
		if len(keys) > maxDepth {
			return nil, fmt.Errorf("it nests deeper than %d", maxDepth)
		}
		for _, key := range keys {
			if at.leaf {
				return nil, fmt.Errorf("%q is a value already", clip(q.name))
			}
			if key == "" { // a[]=b, which appends
				key = strconv.Itoa(len(at.names))
			}
			i := slices.Index(at.names, key)
			if i < 0 {
				i = len(at.names)
				at.names, at.under = append(at.names, key), append(at.under, &branch{})
			}
			at = at.under[i]
		}
		if at.leaf || at.names != nil {
			return nil, fmt.Errorf("%q is there more than once", clip(q.name))
		}
		at.leaf, at.text = true, text
	}
	if root.names == nil {
		return nil, nil
	}
	return root.value(s), nil
}

func (b *branch) value(s shape) jsontext.Value {
	if b.leaf {
		return s.scalar(b.text)
	}
	counted := true
	for i, name := range b.names {
		counted = counted && name == strconv.Itoa(i)
	}
	if counted && s.maybe(isList) {
		out, items := []byte{'['}, s.items()
		for i, under := range b.under {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, under.value(items)...)
		}
		return append(out, ']')
	}
	values := make([]jsontext.Value, len(b.under))
	for i, under := range b.under {
		values[i] = under.value(s.property(b.names[i]))
	}
	return object(b.names, values)
}
