package clients_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"github.com/tailscale/hujson"
	"pgregory.net/rapid"

	"sallyport/internal/clients"
)

var (
	byVariable = clients.Connection{Name: "sallyport", URL: "http://127.0.0.1:8484/mcp", Variable: "SALLYPORT_AGENT_KEY", Command: "/usr/local/bin/sallyport"}
	byFile     = clients.Connection{Name: "sallyport", URL: "http://127.0.0.1:8484/mcp", File: "/users/ada/key", Command: "/usr/local/bin/sallyport"}
)

// TestSnippets holds what each client reads still.
func TestSnippets(t *testing.T) {
	for _, c := range []struct {
		client string
		of     *clients.Connection
		want   string
	}{
		{"claude-code", &byVariable, `{"mcpServers":{"sallyport":{"type":"http","url":"http://127.0.0.1:8484/mcp","headers":{"Authorization":"Bearer ${SALLYPORT_AGENT_KEY}"}}}}`},
		{"claude-code", &byFile, `{"mcpServers":{"sallyport":{"type":"stdio","command":"/usr/local/bin/sallyport","args":["bridge","--url","http://127.0.0.1:8484/mcp","--credential-file","/users/ada/key"]}}}`},
		{"claude-desktop", &byFile, `{"mcpServers":{"sallyport":{"command":"/usr/local/bin/sallyport","args":["bridge","--url","http://127.0.0.1:8484/mcp","--credential-file","/users/ada/key"]}}}`},
		{"cursor", &byVariable, `{"mcpServers":{"sallyport":{"url":"http://127.0.0.1:8484/mcp","headers":{"Authorization":"Bearer ${env:SALLYPORT_AGENT_KEY}"}}}}`},
		{"vscode", &byVariable, `{"servers":{"sallyport":{"type":"http","url":"http://127.0.0.1:8484/mcp","headers":{"Authorization":"Bearer ${input:sallyport-credential}"}}},
			"inputs":[{"type":"promptString","id":"sallyport-credential","description":"Sallyport agent key (sallyport keys agent AGENT)","password":true}]}`},
		{"vscode", &byFile, `{"servers":{"sallyport":{"type":"stdio","command":"/usr/local/bin/sallyport","args":["bridge","--url","http://127.0.0.1:8484/mcp","--credential-file","/users/ada/key"]}}}`},
	} {
		got, err := clients.Find(c.client).Snippet(c.of)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(standard(t, []byte(c.want)), standard(t, got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.client, diff)
		}
	}
	for _, c := range []struct {
		of   *clients.Connection
		want string
	}{
		{&byVariable, "[mcp_servers.sallyport]\nurl = \"http://127.0.0.1:8484/mcp\"\nbearer_token_env_var = \"SALLYPORT_AGENT_KEY\"\n"},
		{&byFile, "[mcp_servers.sallyport]\ncommand = \"/usr/local/bin/sallyport\"\nargs = [\"bridge\", \"--url\", \"http://127.0.0.1:8484/mcp\", \"--credential-file\", \"/users/ada/key\"]\n"},
	} {
		if got, err := clients.Find("codex").Snippet(c.of); err != nil || string(got) != c.want {
			t.Errorf("codex: %v\n%s", err, got)
		}
	}
}

func TestPaths(t *testing.T) {
	linux := clients.Machine{OS: "linux", Home: "/users/ada", Dir: "/project"}
	mac := clients.Machine{OS: "darwin", Home: "/Users/ada", Dir: "/project", Config: "/elsewhere"}
	windows := clients.Machine{OS: "windows", Home: "C:/Users/ada", AppData: "C:/Users/ada/AppData/Roaming", Dir: "D:/work"}
	for _, c := range []struct {
		client string
		scope  clients.Scope
		on     clients.Machine
		want   string
	}{
		{"claude-code", clients.Project, linux, "/project/.mcp.json"},
		{"claude-code", clients.User, mac, "/Users/ada/.claude.json"},
		{"claude-desktop", clients.User, linux, "/users/ada/.config/Claude/claude_desktop_config.json"},
		{"claude-desktop", clients.User, mac, "/Users/ada/Library/Application Support/Claude/claude_desktop_config.json"},
		{"claude-desktop", clients.User, windows, "C:/Users/ada/AppData/Roaming/Claude/claude_desktop_config.json"},
		{"cursor", clients.Project, linux, "/project/.cursor/mcp.json"},
		{"cursor", clients.User, windows, "C:/Users/ada/.cursor/mcp.json"},
		{"vscode", clients.Project, mac, "/project/.vscode/mcp.json"},
		{"vscode", clients.User, linux, "/users/ada/.config/Code/User/mcp.json"},
		{"vscode", clients.User, mac, "/Users/ada/Library/Application Support/Code/User/mcp.json"},
		{"vscode", clients.User, windows, "C:/Users/ada/AppData/Roaming/Code/User/mcp.json"},
		{"codex", clients.User, linux, "/users/ada/.codex/config.toml"},
		{"codex", clients.Project, linux, "/project/.codex/config.toml"},
		{"codex", clients.User, clients.Machine{OS: "linux", Home: "/users/ada", CodexHome: "/opt/codex"}, "/opt/codex/config.toml"},
		{"vscode", clients.User, clients.Machine{OS: "linux", Home: "/users/ada", Config: "/x"}, "/x/Code/User/mcp.json"},
	} {
		if got, err := clients.Find(c.client).Path(c.scope, c.on); err != nil || got != c.want {
			t.Errorf("%s %s on %s: %s, %v; want %s", c.client, c.scope, c.on.OS, got, err, c.want)
		}
	}
	if _, err := clients.Find("claude-desktop").Path(clients.Project, linux); err == nil {
		t.Error("Claude Desktop has no files of projects")
	}
	if clients.Find("emacs") != nil {
		t.Error("emacs is known")
	}
}

// TestPut shows what becomes of files that people wrote, byte for byte.
func TestPut(t *testing.T) {
	entry := "{\n      \"url\": \"http://127.0.0.1:8484/mcp\",\n      \"headers\": {\n        \"Authorization\": \"Bearer ${env:SALLYPORT_AGENT_KEY}\"\n      }\n    }"
	for _, c := range []struct{ name, before, after string }{
		{"nothing", "", "{\n  \"mcpServers\": {\n    \"sallyport\": " + entry + "\n  }\n}\n"},
		{"an empty object", "{}", "{\n  \"mcpServers\": {\n    \"sallyport\": " + entry + "\n  }\n}"},
		{"no servers", "{\n  \"mcpServers\": {}\n}\n", "{\n  \"mcpServers\": {\n    \"sallyport\": " + entry + "\n  }\n}\n"},
		{
			"comments",
			"// mine\n{\n  \"mcpServers\": {\n    // the first\n    \"a\": {\"command\": \"x\"} // stays\n    /* the end */\n  },\n  \"z\": 1e400 // odd\n}\n",
			"// mine\n{\n  \"mcpServers\": {\n    // the first\n    \"a\": {\"command\": \"x\"}, // stays\n    /* the end */\n    \"sallyport\": " + entry + "\n  },\n  \"z\": 1e400 // odd\n}\n",
		},
		{
			"a trailing comma",
			"{\n  \"mcpServers\": {\n    \"a\": {},\n  },\n}\n",
			"{\n  \"mcpServers\": {\n    \"a\": {},\n    \"sallyport\": " + entry + ",\n  },\n}\n",
		},
		{
			"another of this name",
			"{\n  \"mcpServers\": {\n    \"sallyport\": {\"url\": \"old\"}, // keep\n    \"b\": {}\n  }\n}\n",
			"{\n  \"mcpServers\": {\n    \"sallyport\": " + entry + ", // keep\n    \"b\": {}\n  }\n}\n",
		},
	} {
		got, err := clients.Find("cursor").Put([]byte(c.before), &byVariable)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.after, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, c := range []struct{ name, before string }{
		{"a list", "[]"},
		{"not an object of servers", `{"mcpServers": 1}`},
		{"servers twice", `{"mcpServers": {}, "mcpServers": {}}`},
		{"an entry twice", `{"mcpServers": {"sallyport": {}, "sallyport": {}}}`},
		{"no JSON", "{mcpServers: }"},
	} {
		if got, err := clients.Find("cursor").Put([]byte(c.before), &byVariable); err == nil {
			t.Errorf("%s was changed to %s", c.name, got)
		}
	}
}

// TestPutTOML does the same for Codex.
func TestPutTOML(t *testing.T) {
	const block = "[mcp_servers.sallyport]\nurl = \"http://127.0.0.1:8484/mcp\"\nbearer_token_env_var = \"SALLYPORT_AGENT_KEY\"\n"
	for _, c := range []struct{ name, before, after string }{
		{"others", "model = \"m\" # mine\n\n[mcp_servers.a]\ncommand = \"x\"\n", "model = \"m\" # mine\n\n[mcp_servers.a]\ncommand = \"x\"\n\n" + block},
		{"no line end", "model = \"m\"", "model = \"m\"\n\n" + block},
		{
			"another of this name, with a table below it",
			"[mcp_servers.sallyport]\nurl = \"old\"\n[mcp_servers.sallyport.env]\nA = \"1\"\n\n# about b\n[b]\nc = \"\"\"\n[mcp_servers.sallyport]\n\"\"\"\n",
			block + "\n# about b\n[b]\nc = \"\"\"\n[mcp_servers.sallyport]\n\"\"\"\n",
		},
		{"quoted", "[\"mcp_servers\" . 'sallyport']\nurl = \"old\"\n", block},
	} {
		got, err := clients.Find("codex").Put([]byte(c.before), &byVariable)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.after, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, before := range []string{
		"mcp_servers = {sallyport = {url = \"x\"}}\n", "mcp_servers.sallyport.url = \"x\"\n", "[mcp_servers]\nsallyport = {url = \"x\"}\n", "mcp_servers = 1\n", "a = ",
	} {
		if got, err := clients.Find("codex").Put([]byte(before), &byVariable); err == nil {
			t.Errorf("%q was changed to %q", before, got)
		}
	}
}

// TestPutRemove: an entry that is put in is found again, put in twice it changes
// nothing, and taken out again leaves what was there.
func TestPutRemove(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := rapid.SampledFrom(clients.Known).Draw(rt, "client")
		of := rapid.SampledFrom([]*clients.Connection{&byVariable, &byFile}).Draw(rt, "of")
		before := drawFile(rt, c)
		once, err := c.Put([]byte(before), of)
		if err != nil {
			rt.Fatalf("put into %q: %v", before, err)
		}
		twice, err := c.Put(once, of)
		if err != nil || !bytes.Equal(once, twice) {
			rt.Fatalf("put twice: %v\n%s\nthen\n%s", err, once, twice)
		}
		for line := range strings.Lines(before) {
			if comment := strings.TrimSpace(line); (strings.HasPrefix(comment, "//") || strings.HasPrefix(comment, "#")) && !bytes.Contains(once, []byte(comment)) {
				rt.Fatalf("%q is gone from\n%s", comment, once)
			}
		}
		out, found, err := c.Remove(once, of.Name)
		if err != nil || !found {
			rt.Fatalf("remove: %v %v\n%s", found, err, once)
		}
		if _, again, err := c.Remove(out, of.Name); again || err != nil {
			rt.Fatalf("it is still there: %v\n%s", err, out)
		}
		if c.Format == clients.JSON && !sameBut(rt, before, out) {
			rt.Fatalf("before\n%s\nafter\n%s", before, out)
		}
		if c.Format == clients.TOML && before != string(out) {
			rt.Fatalf("before\n%q\nafter\n%q", before, out)
		}
	})
}

// drawFile is a file of a client as people write them.
func drawFile(rt *rapid.T, c *clients.Client) string {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c d", "é"}), 0, 3, rapid.ID[string]).Draw(rt, "names")
	if c.Format == clients.TOML {
		var b strings.Builder
		for i, n := range names {
			if i > 0 && rapid.Bool().Draw(rt, "gap") {
				b.WriteString("\n")
			}
			b.WriteString("# about " + n + "\n[mcp_servers.\"" + n + "\"] # here\ncommand = '''\n[x]\n'''\n")
		}
		return b.String()
	}
	container := "mcpServers"
	if c.Name == "vscode" {
		container = "servers"
	}
	eol := rapid.SampledFrom([]string{"\n", "\r\n", " "}).Draw(rt, "eol")
	comment := func(text string) string {
		if eol == " " {
			return "/* " + text + " */"
		}
		return "// " + text
	}
	var b strings.Builder
	b.WriteString("{" + eol)
	if rapid.Bool().Draw(rt, "before") {
		b.WriteString("\t\"first\": [1, 2.50], " + comment("first, of all") + eol)
	}
	b.WriteString("\t\"" + container + "\": {" + eol)
	for i, n := range names {
		b.WriteString("\t\t\"" + n + "\": {\"command\": \"x\"}")
		if i < len(names)-1 || rapid.Bool().Draw(rt, "trailing") {
			b.WriteString(",")
		}
		b.WriteString(" " + comment("about, "+n) + eol)
	}
	b.WriteString("\t}")
	if rapid.Bool().Draw(rt, "after") {
		b.WriteString("," + eol + "\t\"last\": null")
	}
	b.WriteString(eol + "}" + eol)
	return b.String()
}

// sameBut compares values, but for arrays and objects that are left behind empty.
func sameBut(rt *rapid.T, before string, after []byte) bool {
	x, y := decode(rt, []byte(before)), decode(rt, after)
	if _, had := x["inputs"]; !had {
		if list, ok := y["inputs"].([]any); ok && len(list) == 0 {
			delete(y, "inputs")
		}
	}
	return reflect.DeepEqual(x, y)
}

func decode(t rapid.TB, text []byte) map[string]any {
	t.Helper()
	plain, err := hujson.Standardize(bytes.Clone(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	m := map[string]any{}
	if err := json.Unmarshal(plain, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func standard(t *testing.T, text []byte) any {
	t.Helper()
	return decode(t, text)
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []clients.Server
	}{
		{"Claude", `{"mcpServers": {"fs": {"command": "npx", "args": ["-y", "server", 3], "env": {"A": "b", "N": 1}}}}`,
			[]clients.Server{{Name: "fs", Command: "npx", Args: []string{"-y", "server", "3"}, Env: map[string]string{"A": "b", "N": "1"}}}},
		{"VS Code", "{// mine\n\"servers\": {\"gh\": {\"type\": \"http\", \"url\": \"https://x.example/mcp\", \"headers\": {\"Authorization\": \"Bearer ${input:t}\"}, \"dev\": {},},},}",
			[]clients.Server{{Name: "gh", URL: "https://x.example/mcp", Headers: map[string]string{"Authorization": "Bearer ${input:t}"}, Notes: []string{"dev"}}}},
		{"settings of VS Code", `{"mcp": {"servers": {"s": {"command": "x"}}}}`, []clients.Server{{Name: "s", Command: "x"}}},
		{"Codex", "[mcp_servers.a]\nurl = \"https://a.example/mcp\"\nbearer_token_env_var = \"T\"\nenv_http_headers = {X = \"V\"}\n[mcp_servers.b]\ncommand = \"y\"\nenabled = false\n",
			[]clients.Server{{Name: "a", URL: "https://a.example/mcp", Headers: map[string]string{"Authorization": "Bearer ${T}", "X": "${V}"}}, {Name: "b", Command: "y", Broken: "it is not enabled"}}},
		{"what is broken", `{"mcpServers": {"a": 1, "b": {}, "c": {"url": "u", "command": "x"}, "d": {"url": "u", "type": "sse"}, "e": {"command": ["x"]}}}`,
			[]clients.Server{{Name: "a", Broken: "its entry is no object"}, {Name: "b", Broken: "it has neither a url nor a command"},
				{Name: "c", URL: "u", Command: "x", Broken: "it has both a url and a command"}, {Name: "d", URL: "u", Broken: "it speaks sse, which is not spoken here"},
				{Name: "e", Broken: "its command is no text"}}},
	} {
		f, err := clients.Read([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, f.Servers); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"mcpServers": []}`, `{"mcpServers": {"a": {}, "a": {}}}`, `{"mcpServers": {"a": {"url": "x", "url": "y"}}}`, "x = 1", "not a file"} {
		if f, err := clients.Read([]byte(text)); err == nil {
			t.Errorf("%q was read as %+v", text, f)
		}
	}
	f, err := clients.Read([]byte(`{"mcpServers": {}, "projects": {"/p": {"mcpServers": {"x": {}}}}}`))
	if err != nil || len(f.Notes) != 1 || !strings.Contains(f.Notes[0], "/p") {
		t.Errorf("servers of a project: %+v %v", f, err)
	}
}

// FuzzRead: whatever lies there is read or refused, and edits keep to what they
// promise.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"{}", `{"mcpServers": {"a": {"command": "x"}}}`, "{\"servers\": {// c\n}, \"inputs\": [1,],}", "[mcp_servers.a]\nurl = 1\n", "mcp_servers.sallyport.url = 'x'",
		"[mcp_servers.sallyport]\n# c\n[[x]]\n", "{\"mcpServers\": {\"sallyport\": /* , */ {} /* , */ , }}", "\"a\" = 1979-05-27T07:32:00Z\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if file, err := clients.Read(text); err == nil {
			for _, s := range file.Servers {
				if s.Broken == "" && (s.URL == "") == (s.Command == "") {
					t.Errorf("%+v can be used", s)
				}
			}
		}
		for _, c := range clients.Known {
			out, err := c.Put(text, &byVariable)
			if err != nil {
				continue
			}
			if again, err := c.Put(out, &byVariable); err != nil || !bytes.Equal(again, out) {
				t.Errorf("%s: put twice: %v\n%q\n%q", c.Name, err, out, again)
			}
			if left, found, err := c.Remove(out, byVariable.Name); err == nil && !found {
				t.Errorf("%s: what was put into %q is not found: %q", c.Name, text, left)
			}
			if c.Format == clients.TOML {
				var m map[string]any
				if err := toml.Unmarshal(out, &m); err != nil {
					t.Errorf("%q became %q: %v", text, out, err)
				}
			}
		}
	})
}
