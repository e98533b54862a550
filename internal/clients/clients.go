// Package clients knows the configuration files of MCP clients: where they lie,
// what an entry for a server looks like in each, how one is put in and taken out
// with every other byte left as it is, and what servers an existing file names. It
// reads and writes text; files are the business of its callers.
package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Format is what a configuration file is written in. The zero value is none.
type Format uint8

// The formats.
const (
	JSON Format = iota + 1 // with or without comments and trailing commas
	TOML
)

// Scope is whom a configuration file is for.
type Scope string

// The scopes.
const (
	Project Scope = "project" // whoever works in one directory
	User    Scope = "user"    // one user of the machine, everywhere
)

// Client is a program that reads such a file.
type Client struct {
	Name  string // as on the command line
	Title string
	// Scopes are those it has, the usual one first.
	Scopes []Scope
	Format Format
	// container is the member of the file that holds the servers.
	container string
	// stdioOnly says that its file can name programs alone.
	stdioOnly bool
	// After is what a person does once the file is written.
	After string

	path  func(s Scope, m Machine) string
	entry func(c *Connection) any
}

// Machine is where files lie. Paths are joined with slashes, which every system
// takes.
type Machine struct {
	OS   string // as runtime.GOOS names it
	Home string
	// Config is $XDG_CONFIG_HOME, AppData %APPDATA% and CodexHome $CODEX_HOME; where
	// they are empty their defaults under Home hold.
	Config, AppData, CodexHome string
	Dir                        string // of the project
}

// config is the directory of a desktop program's own settings.
func (m Machine) config() string {
	switch m.OS {
	case "darwin":
		return path.Join(m.Home, "Library", "Application Support")
	case "windows":
		return or(m.AppData, path.Join(m.Home, "AppData", "Roaming"))
	}
	return or(m.Config, path.Join(m.Home, ".config"))
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// Connection is how a client is to reach Sallyport.
type Connection struct {
	Name string // of the entry
	URL  string // of the endpoint
	// Variable is the environment variable that holds the credential. With File the
	// credential lies in a file, and the client starts Command, which bridges to the
	// endpoint.
	Variable string
	File     string
	Command  string
}

// bridge are the arguments with which Command bridges.
func (c *Connection) bridge() []string {
	args := []string{"bridge", "--url", c.URL}
	if c.File != "" {
		return append(args, "--credential-file", c.File)
	}
	return append(args, "--credential-env", c.Variable)
}

// The entries, as their clients document them (November 2026).
type (
	// httpEntry: Claude Code needs the type and has ${VAR}; Cursor has ${env:VAR} and
	// tells by the url; VS Code needs the type and keeps what is typed once.
	httpEntry struct {
		Type    string            `json:"type,omitempty"`
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
	}
	stdioEntry struct {
		Type    string   `json:"type,omitempty"`
		Command string   `json:"command"`
		Args    []string `json:"args"`
	}
	codexHTTP struct {
		URL      string
		Variable string
	}
)

// inputID names what VS Code asks a person for.
func (c *Connection) inputID() string { return c.Name + "-credential" }

// Known are the clients.
var Known = []*Client{
	{
		Name: "claude-code", Title: "Claude Code", Scopes: []Scope{Project, User}, Format: JSON, container: "mcpServers",
		path: func(s Scope, m Machine) string {
			if s == Project {
				return path.Join(m.Dir, ".mcp.json")
			}
			return path.Join(m.Home, ".claude.json")
		},
		entry: func(c *Connection) any {
			if c.File != "" {
				return stdioEntry{"stdio", c.Command, c.bridge()}
			}
			return httpEntry{"http", c.URL, map[string]string{"Authorization": "Bearer ${" + c.Variable + "}"}}
		},
		After: "restart Claude Code, accept the server, and look at it with /mcp",
	},
	{
		Name: "claude-desktop", Title: "Claude Desktop", Scopes: []Scope{User}, Format: JSON, container: "mcpServers", stdioOnly: true,
		path:  func(_ Scope, m Machine) string { return path.Join(m.config(), "Claude", "claude_desktop_config.json") },
		entry: func(c *Connection) any { return stdioEntry{"", c.Command, c.bridge()} },
		After: "quit Claude Desktop and start it again",
	},
	{
		Name: "cursor", Title: "Cursor", Scopes: []Scope{Project, User}, Format: JSON, container: "mcpServers",
		path: func(s Scope, m Machine) string {
			if s == Project {
				return path.Join(m.Dir, ".cursor", "mcp.json")
			}
			return path.Join(m.Home, ".cursor", "mcp.json")
		},
		entry: func(c *Connection) any {
			if c.File != "" {
				return stdioEntry{"stdio", c.Command, c.bridge()}
			}
			return httpEntry{"", c.URL, map[string]string{"Authorization": "Bearer ${env:" + c.Variable + "}"}}
		},
		After: "restart Cursor and switch the server on among its MCP servers",
	},
	{
		Name: "vscode", Title: "VS Code", Scopes: []Scope{Project, User}, Format: JSON, container: "servers",
		path: func(s Scope, m Machine) string {
			if s == Project {
				return path.Join(m.Dir, ".vscode", "mcp.json")
			}
			return path.Join(m.config(), "Code", "User", "mcp.json")
		},
		entry: func(c *Connection) any {
			if c.File != "" {
				return stdioEntry{"stdio", c.Command, c.bridge()}
			}
			return httpEntry{"http", c.URL, map[string]string{"Authorization": "Bearer ${input:" + c.inputID() + "}"}}
		},
		After: "run \"MCP: List Servers\" and start it",
	},
	{
		Name: "codex", Title: "Codex", Scopes: []Scope{User, Project}, Format: TOML, container: "mcp_servers",
		path: func(s Scope, m Machine) string {
			if s == Project {
				return path.Join(m.Dir, ".codex", "config.toml")
			}
			return path.Join(or(m.CodexHome, path.Join(m.Home, ".codex")), "config.toml")
		},
		entry: func(c *Connection) any {
			if c.File != "" {
				return stdioEntry{"", c.Command, c.bridge()}
			}
			return codexHTTP{c.URL, c.Variable}
		},
		After: "start Codex again and look at it with /mcp",
	},
}

// Names are the names of all clients.
func Names() []string {
	var names []string
	for _, c := range Known {
		names = append(names, c.Name)
	}
	return names
}

// Find returns the client of a name, nil if there is none.
func Find(name string) *Client {
	if i := slices.IndexFunc(Known, func(c *Client) bool { return c.Name == name }); i >= 0 {
		return Known[i]
	}
	return nil
}

// Path is where the client's file of a scope lies.
func (c *Client) Path(s Scope, m Machine) (string, error) {
	if !slices.Contains(c.Scopes, s) {
		return "", fmt.Errorf("%s has no configuration of the scope %s", c.Title, s)
	}
	return c.path(s, m), nil
}

// NeedsFile reports whether the client can be given a credential in a file alone:
// it starts programs in an environment that nobody sets.
func (c *Client) NeedsFile() bool { return c.stdioOnly }

// Asks reports whether the client asks a person for the credential, rather than
// reading an environment variable.
func (c *Client) Asks(of *Connection) bool { return c.Name == "vscode" && of.File == "" }

// Snippet is a whole file with nothing in it but the connection.
func (c *Client) Snippet(of *Connection) ([]byte, error) { return c.Put(nil, of) }

// Put is the file's text with the connection in it, in the place of one of its
// name. Every byte that belongs to something else stays. It is an error if the text
// cannot be read, or says it in a way that cannot be changed without touching more.
func (c *Client) Put(text []byte, of *Connection) ([]byte, error) {
	if c.Format == TOML {
		return putTable(text, c.container, of.Name, tomlTable(c.container, of.Name, c.entry(of)))
	}
	value, err := compact(c.entry(of))
	if err != nil {
		return nil, err
	}
	out, err := putMember(text, c.container, of.Name, value)
	if err != nil || !c.Asks(of) {
		return out, err
	}
	input, err := compact(vscodeInput{"promptString", of.inputID(), "Sallyport agent key (sallyport keys agent AGENT)", true})
	if err != nil {
		return nil, err
	}
	return putElement(out, "inputs", "id", of.inputID(), input)
}

// Remove is the file's text without the connection of a name, and whether there
// was one.
func (c *Client) Remove(text []byte, name string) (out []byte, found bool, err error) {
	if c.Format == TOML {
		return removeTable(text, c.container, name)
	}
	out, found, err = removeMember(text, c.container, name)
	if err != nil || c.Name != "vscode" {
		return out, found, err
	}
	of := Connection{Name: name}
	out, asked, err := removeElement(out, "inputs", "id", of.inputID())
	return out, found || asked, err
}

type vscodeInput struct {
	Type        string `json:"type"`
	ID          string `json:"id"`
	Description string `json:"description"`
	Password    bool   `json:"password"`
}

func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// tomlTable is an entry as a table of its own.
func tomlTable(container, name string, entry any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s.%s]\n", container, tomlKey(name))
	switch e := entry.(type) {
	case codexHTTP:
		fmt.Fprintf(&b, "url = %s\nbearer_token_env_var = %s\n", tomlString(e.URL), tomlString(e.Variable))
	case stdioEntry:
		quoted := make([]string, len(e.Args))
		for i, a := range e.Args {
			quoted[i] = tomlString(a)
		}
		fmt.Fprintf(&b, "command = %s\nargs = [%s]\n", tomlString(e.Command), strings.Join(quoted, ", "))
	}
	return b.String()
}

func tomlKey(name string) string {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return tomlString(name)
		}
	}
	return name
}

// tomlString is a basic string of TOML 1.0.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			b.WriteString(`\u` + fmt.Sprintf("%04X", r))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
