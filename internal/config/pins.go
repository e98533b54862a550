package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport"
)

// Pins is what an upstream said of itself and its tools when a person pinned it:
// the file beside upstreams/<upstream>.yaml. It is JSON, so that every definition
// can stand in it with the very bytes the upstream sent; white space around them
// is the file's own.
type Pins struct {
	Server sallyport.PinnedServer
	// Tools are definitions, in the upstream's order: each one JSON object.
	Tools []json.RawMessage
	// Pinned is where the upstream was reached when it said so: the identity of
	// its transport by stage. An upstream that is repointed loses its pins in that
	// stage, unless they say the new identity. May be empty.
	Pinned map[sallyport.Stage]sallyport.Digest
}

// ParsePins reads a pins file. It is strict: no unknown or repeated member, no
// text that is not UTF-8, each tool an object with a name of its own. The error is
// of type [Problems], whose places have no path.
func ParsePins(b []byte) (*Pins, error) {
	r := pinsReader{text: b, dec: jsontext.NewDecoder(bytes.NewBuffer(b))}
	p := &Pins{}
	err := r.object("the file", map[string]func() error{
		"server": func() error { return r.server(&p.Server) },
		"tools":  func() error { return r.tools(&p.Tools) },
		"pinned": func() error { return r.pinned(p) },
	}, "server", "tools")
	if err == nil {
		if _, err = r.dec.ReadToken(); errors.Is(err, io.EOF) {
			return p, nil
		}
		if err == nil {
			err = r.at(r.dec.InputOffset()-1, "text after the end of the file's object")
		}
	}
	return nil, r.problem(err)
}

// misplaced is an error with a place.
type misplaced struct {
	offset  int64
	message string
	hint    string
}

func (m *misplaced) Error() string { return m.message }

type pinsReader struct {
	text []byte
	dec  *jsontext.Decoder
}

func (r *pinsReader) at(offset int64, format string, args ...any) error {
	return &misplaced{offset: offset, message: fmt.Sprintf(format, args...)}
}

// problem turns an error into problems with a line and column.
func (r *pinsReader) problem(err error) error {
	var m *misplaced
	var s *jsontext.SyntacticError
	switch {
	case errors.As(err, &m):
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		m = &misplaced{offset: int64(len(r.text)), message: "not JSON: the file ends too early"}
	case errors.As(err, &s):
		message := "not JSON"
		if s.Err != nil {
			message += ": " + strings.TrimPrefix(s.Err.Error(), "jsontext: ")
		}
		m = &misplaced{offset: s.ByteOffset, message: message}
	default:
		m = &misplaced{message: err.Error()}
	}
	offset := min(max(m.offset, 0), int64(len(r.text)))
	before := r.text[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	p := Problem{
		Line:    bytes.Count(before, []byte("\n")) + 1,
		Column:  utf8.RuneCount(before[start:]) + 1,
		Message: maskSecrets(m.message),
		Hint:    m.hint,
	}
	line, _, _ := bytes.Cut(r.text[start:], []byte("\n"))
	p.Excerpt = excerpt([]string{strings.ToValidUTF8(string(line), "�")}, 1)
	return Problems{p}
}

// object reads an object whose members are all in read; those in required have to
// be there.
func (r *pinsReader) object(what string, read map[string]func() error, required ...string) error {
	if r.dec.PeekKind() != '{' {
		return r.wrong(what, "an object")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	start := r.dec.InputOffset() - 1
	missing := slices.Clone(required)
	for r.dec.PeekKind() != '}' {
		name, err := r.dec.ReadToken()
		if err != nil {
			return err
		}
		key := name.String()
		value, ok := read[key]
		if !ok {
			var keys []string
			for k := range read {
				keys = append(keys, k)
			}
			return &misplaced{
				offset:  r.dec.InputOffset() - int64(len(key)) - 2,
				message: fmt.Sprintf("unknown member %s in %s", quote(key), what),
				hint:    suggest(key, keys, "members"),
			}
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == key })
		if err := value(); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	if len(missing) > 0 {
		return r.at(start, "%s is missing in %s", missing[0], what)
	}
	return nil
}

// wrong says that the next value is not of the kind it has to be, or what else
// hinders reading it.
func (r *pinsReader) wrong(what, want string) error {
	v, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	return r.at(r.dec.InputOffset()-int64(len(v)), "%s has to be %s", what, want)
}

// raw reads an object and keeps its bytes.
func (r *pinsReader) raw(what string, to *json.RawMessage) error {
	if r.dec.PeekKind() != '{' {
		return r.wrong(what, "an object")
	}
	v, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	*to = json.RawMessage(bytes.Clone(v))
	return nil
}

func (r *pinsReader) string(what string, to *string) error {
	if r.dec.PeekKind() != '"' {
		return r.wrong(what, "text")
	}
	t, err := r.dec.ReadToken()
	if err != nil {
		return err
	}
	*to = t.String()
	return nil
}

func (r *pinsReader) server(s *sallyport.PinnedServer) error {
	return r.object("server", map[string]func() error{
		"protocolVersion": func() error { return r.string("protocolVersion", &s.ProtocolVersion) },
		"capabilities":    func() error { return r.raw("capabilities", &s.Capabilities) },
		"serverInfo":      func() error { return r.raw("serverInfo", &s.ServerInfo) },
		"instructions":    func() error { return r.string("instructions", &s.Instructions) },
	}, "protocolVersion", "capabilities")
}

func (r *pinsReader) pinned(p *Pins) error {
	p.Pinned = map[sallyport.Stage]sallyport.Digest{}
	in := map[string]func() error{}
	for _, stage := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
		in[stage.String()] = func() error {
			var text string
			start := r.dec.InputOffset()
			if err := r.string("an identity", &text); err != nil {
				return err
			}
			if !digestForm.MatchString(text) {
				return r.at(start+1, "%s is not the identity of a transport", quote(text))
			}
			p.Pinned[stage] = sallyport.Digest(text)
			return nil
		}
	}
	return r.object("pinned", in)
}

func (r *pinsReader) tools(list *[]json.RawMessage) error {
	if r.dec.PeekKind() != '[' {
		return r.wrong("tools", "an array")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	names := map[string]bool{}
	*list = []json.RawMessage{}
	for r.dec.PeekKind() != ']' {
		var raw json.RawMessage
		if err := r.raw("a tool", &raw); err != nil {
			return err
		}
		start := r.dec.InputOffset() - int64(len(raw))
		var name string
		if json.Unmarshal(member(raw, "name"), &name) != nil || name == "" {
			return r.at(start, "a tool without a name")
		}
		if names[name] {
			return r.at(start, "a second tool named %s", quote(name))
		}
		names[name] = true
		*list = append(*list, raw)
	}
	_, err := r.dec.ReadToken()
	return err
}

// Marshal writes the file that ParsePins reads: each definition on a line of its
// own, or on several if the upstream sent line breaks, with its bytes unchanged.
// No capabilities are written as {}.
func (p *Pins) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString("{\n  \"server\": {\n    \"protocolVersion\": ")
	writeJSONString(&b, p.Server.ProtocolVersion)
	b.WriteString(",\n    \"capabilities\": ")
	if len(p.Server.Capabilities) == 0 {
		b.WriteString("{}")
	}
	b.Write(p.Server.Capabilities)
	if len(p.Server.ServerInfo) > 0 {
		b.WriteString(",\n    \"serverInfo\": ")
		b.Write(p.Server.ServerInfo)
	}
	if p.Server.Instructions != "" {
		b.WriteString(",\n    \"instructions\": ")
		writeJSONString(&b, p.Server.Instructions)
	}
	b.WriteString("\n  },\n")
	if len(p.Pinned) > 0 {
		b.WriteString("  \"pinned\": {")
		separator := ""
		for _, stage := range sallyport.Stages {
			if at, ok := p.Pinned[stage]; ok {
				b.WriteString(separator + "\n    \"" + stage.String() + "\": ")
				writeJSONString(&b, string(at))
				separator = ","
			}
		}
		b.WriteString("\n  },\n")
	}
	b.WriteString("  \"tools\": [")
	for i, t := range p.Tools {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		b.Write(t)
	}
	if len(p.Tools) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteString("]\n}\n")
	return b.Bytes()
}
