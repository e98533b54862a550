package clients

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/pelletier/go-toml/v2"
	"github.com/tailscale/hujson"
)

// Server is a server that a client's file names.
type Server struct {
	Name string
	// Either URL with Headers, or Command with Args, Env and Dir.
	URL     string
	Headers map[string]string
	Command string
	Args    []string
	Env     map[string]string
	Dir     string
	// Notes are what the file says of it that is not carried over.
	Notes []string
	// Broken says why it cannot be used at all, "" if it can.
	Broken string
}

// File is what a client's file says.
type File struct {
	Kind    string // what it was taken for, for people
	Servers []Server
	Notes   []string
}

// Read reads a client's file: of Claude Code, Claude Desktop or Cursor
// (mcpServers), VS Code (servers, or mcp.servers of its settings), all JSON with or
// without comments, or Codex (mcp_servers, TOML). Names that stand there twice are
// an error, since readers differ in which they take.
func Read(text []byte) (*File, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\uFEFF")))
	if len(trimmed) == 0 {
		return nil, errors.New("it is empty")
	}
	if c := trimmed[0]; c == '{' || c == '/' {
		return readJSON(trimmed)
	}
	return readTOML(trimmed)
}

type object = map[string]jsontext.Value

// objectIn is a member that is an object, nil if there is none.
func objectIn(in object, name string) (object, error) {
	raw, ok := in[name]
	if !ok || raw.Kind() == 'n' {
		return nil, nil
	}
	if raw.Kind() != '{' {
		return nil, fmt.Errorf("%q is no object", name)
	}
	var o object
	err := json.Unmarshal(raw, &o)
	return o, err
}

func readJSON(text []byte) (*File, error) {
	standard, err := hujson.Standardize(bytes.Clone(text))
	if err != nil {
		return nil, err
	}
	var root object
	if err := json.Unmarshal(standard, &root); err != nil {
		return nil, err
	}
	f := &File{}
	var servers object
	for _, shape := range []struct{ outer, member, kind string }{
		{"", "mcpServers", "the format of Claude Code, Claude Desktop and Cursor"},
		{"", "servers", "the format of VS Code"},
		{"mcp", "servers", "settings of VS Code"},
	} {
		in := root
		if shape.outer != "" {
			if in, err = objectIn(root, shape.outer); err != nil || in == nil {
				continue
			}
		}
		if servers, err = objectIn(in, shape.member); err != nil {
			return nil, err
		}
		if servers != nil {
			f.Kind = shape.kind
			break
		}
	}
	if servers == nil {
		return nil, errors.New("it has no mcpServers (Claude, Cursor) and no servers (VS Code)")
	}
	if projects, err := objectIn(root, "projects"); err == nil {
		for _, dir := range slices.Sorted(maps.Keys(projects)) {
			if project, err := objectIn(projects, dir); err == nil {
				if own, err := objectIn(project, "mcpServers"); err == nil && len(own) > 0 {
					f.Notes = append(f.Notes, fmt.Sprintf("the project %s has %d servers of its own, which are not imported: %s", dir, len(own), strings.Join(slices.Sorted(maps.Keys(own)), ", ")))
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		var fields map[string]any
		if servers[name].Kind() != '{' {
			f.Servers = append(f.Servers, Server{Name: name, Broken: "its entry is no object"})
			continue
		}
		if err := json.Unmarshal(servers[name], &fields); err != nil {
			return nil, err
		}
		f.Servers = append(f.Servers, serverOf(name, fields))
	}
	return f, nil
}

func readTOML(text []byte) (*File, error) {
	root := map[string]any{}
	if err := toml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("it is neither JSON nor TOML: %w", err)
	}
	servers, ok := root["mcp_servers"].(map[string]any)
	if !ok {
		return nil, errors.New("it has no mcp_servers (Codex)")
	}
	f := &File{Kind: "the format of Codex"}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		fields, ok := servers[name].(map[string]any)
		if !ok {
			f.Servers = append(f.Servers, Server{Name: name, Broken: "its entry is no table"})
			continue
		}
		f.Servers = append(f.Servers, serverOf(name, fields))
	}
	return f, nil
}

// serverOf is a server from its fields, in any of the formats.
func serverOf(name string, fields map[string]any) Server {
	s := Server{Name: name}
	bad := func(format string, args ...any) {
		if s.Broken == "" {
			s.Broken = fmt.Sprintf(format, args...)
		}
	}
	text := func(field string) string {
		switch v := fields[field].(type) {
		case nil:
		case string:
			return v
		default:
			bad("its %s is no text", field)
		}
		return ""
	}
	texts := func(field string) map[string]string {
		switch v := fields[field].(type) {
		case nil:
		case map[string]any:
			out := map[string]string{}
			for k, value := range v {
				switch value.(type) {
				case string, bool, float64, int64:
					out[k] = fmt.Sprint(value)
				default:
					bad("%s of its %s is no text", k, field)
				}
			}
			return out
		default:
			bad("its %s is no object", field)
		}
		return nil
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		switch field {
		case "type", "transport":
			if kind := text(field); kind == "sse" || kind == "ws" {
				bad("it speaks %s, which is not spoken here", kind)
			}
		case "url", "serverUrl":
			s.URL = text(field)
		case "headers", "http_headers":
			for k, v := range texts(field) {
				s.setHeader(k, v)
			}
		case "env_http_headers":
			for k, v := range texts(field) {
				s.setHeader(k, "${"+v+"}")
			}
		case "bearer_token_env_var":
			if v := text(field); v != "" {
				s.setHeader("Authorization", "Bearer ${"+v+"}")
			}
		case "command":
			s.Command = text(field)
		case "args":
			list, ok := fields[field].([]any)
			if !ok && fields[field] != nil {
				bad("its args are no list")
			}
			for _, v := range list {
				switch v.(type) {
				case string, bool, float64, int64:
					s.Args = append(s.Args, fmt.Sprint(v))
				default:
					bad("one of its args is no text")
				}
			}
		case "env":
			s.Env = texts(field)
		case "cwd":
			s.Dir = text(field)
		case "disabled":
			if v, ok := fields[field].(bool); ok && v {
				bad("it is disabled")
			}
		case "enabled":
			if v, ok := fields[field].(bool); ok && !v {
				bad("it is not enabled")
			}
		default:
			s.Notes = append(s.Notes, field)
		}
	}
	switch {
	case s.URL == "" && s.Command == "":
		bad("it has neither a url nor a command")
	case s.URL != "" && s.Command != "":
		bad("it has both a url and a command")
	}
	return s
}

func (s *Server) setHeader(name, value string) {
	if s.Headers == nil {
		s.Headers = map[string]string{}
	}
	s.Headers[name] = value
}
