package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/testkit"
)

func planned(t *testing.T, text string, env map[string]string) (*Import, error) {
	t.Helper()
	return PlanImport(ImportOptions{
		Dir: filepath.Join(t.TempDir(), "project"), Text: []byte(text), Agent: "helper", Owner: "ada", Stage: sallyport.Production, WorkDir: "/project",
		Environ: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
}

// TestImportPlaces: what clients write in the place of values is put there, or a
// person is told to.
func TestImportPlaces(t *testing.T) {
	env := map[string]string{"HOME": "/users/ada", "PATH": "/bin", "HOST": "tools.example", "TOKEN": "from-the-environment", "EMPTY": ""}
	for _, c := range []struct {
		name, server string
		want         stageText
		secrets      []MovedSecret
		left         string
	}{
		{name: "Claude Code", server: `{"url": "https://${HOST}/mcp", "headers": {"Authorization": "Bearer ${TOKEN}", "X-Team": "${TEAM:-blue}"}}`,
			want:    stageText{URL: "https://tools.example/mcp", Credential: "file:secrets/s-credential", Headers: map[string]string{"X-Team": "blue"}},
			secrets: []MovedSecret{{What: "header Authorization", File: "secrets/s-credential", value: "from-the-environment"}}},
		{name: "Cursor", server: `{"command": "${userHome}/run", "args": ["${workspaceFolder}/a", "${env:HOST}"], "cwd": "sub"}`,
			want: stageText{Command: []string{"/users/ada/run", "/project/a", "tools.example"}, Dir: "/project/sub"}},
		{name: "VS Code", server: `{"url": "https://x.example/mcp", "headers": {"Authorization": "Bearer ${input:key}"}}`,
			want:    stageText{URL: "https://x.example/mcp", Credential: "file:secrets/s-credential"},
			secrets: []MovedSecret{{What: "header Authorization", File: "secrets/s-credential", Missing: true}}},
		{name: "another scheme", server: `{"url": "https://x.example/mcp", "headers": {"authorization": "Basic dXNlcjpwdw=="}}`,
			want:    stageText{URL: "https://x.example/mcp", Headers: map[string]string{"authorization": "file:secrets/s-authorization"}},
			secrets: []MovedSecret{{What: "header authorization", File: "secrets/s-authorization", value: "Basic dXNlcjpwdw=="}}},
		{name: "an argument", server: `{"command": "run", "args": ["--name", "it's $HOME", "--api-key", "sk-live-12345678", "--token=${NONE}"]}`,
			want: stageText{Command: []string{"/bin/sh", "-c", `exec run --name 'it'\''s $HOME' --api-key "$SALLYPORT_ARG_4" "$SALLYPORT_ARG_5"`}, Dir: "/project",
				Env: map[string]string{"SALLYPORT_ARG_4": "file:secrets/s-arg-4", "SALLYPORT_ARG_5": "file:secrets/s-arg-5"}},
			secrets: []MovedSecret{{What: "argument 4", File: "secrets/s-arg-4", value: "sk-live-12345678"}, {What: "argument 5", File: "secrets/s-arg-5", value: "--token=", Missing: true}}},
		{name: "no host", server: `{"url": "https://${EMPTY}/mcp"}`, left: "its url needs the environment variable EMPTY, which is not set here"},
		{name: "a password", server: `{"url": "https://u:hush@x.example/mcp"}`, left: "a URL may not hold a user name or password (put the secret in credential or headers, as a reference)"},
		{name: "over the wire", server: `{"url": "http://x.example/mcp"}`, left: "plain http to another machine: credentials and data could be read on the way (use https, or say insecure: true where the network itself is trusted)"},
	} {
		im, err := planned(t, `{"mcpServers": {"s": `+c.server+`, "other": {"command": "x"}}}`, env)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		s := im.Servers[slices.IndexFunc(im.Servers, func(s *ImportedServer) bool { return s.Name == "s" })]
		if s.Left != c.left {
			t.Errorf("%s is left out because %q, want %q", c.name, s.Left, c.left)
		}
		if c.left != "" {
			continue
		}
		c.want.Binding = "live"
		if c.want.Command != nil {
			if c.want.Env == nil {
				c.want.Env = map[string]string{}
			}
			c.want.Env["HOME"], c.want.Env["PATH"] = "/users/ada", "/bin"
			if c.want.Dir == "" {
				c.want.Dir = "/project"
			}
		}
		if diff := cmp.Diff(c.want, s.stage); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.secrets, s.Secrets, cmp.AllowUnexported(MovedSecret{})); diff != "" {
			t.Errorf("%s, secrets (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestImportNames: every server has a name of its own that an upstream can have.
func TestImportNames(t *testing.T) {
	im, err := planned(t, `{"mcpServers": {"My Files": {"command": "a"}, "my_files": {"command": "b"}, "-- ": {"command": "c"}, "`+strings.Repeat("x", 100)+`": {"command": "d"}}}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := map[sallyport.UpstreamID]bool{}
	for _, s := range im.Servers {
		if !sallyport.ValidName(string(s.Upstream)) || names[s.Upstream] {
			t.Errorf("%q is upstream %q", s.Name, s.Upstream)
		}
		names[s.Upstream] = true
	}
}

// TestImportHidesSecrets: wherever a secret stands, it stands in files of the
// secrets folder alone afterwards, and in nothing that is said.
func TestImportHidesSecrets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		secret := "ghp_" + rapid.StringMatching(`[A-Za-z0-9]{20,30}`).Draw(rt, "secret")
		text := func(label string) string {
			return rapid.SampledFrom([]string{"plain", secret, "Bearer " + secret, "--key=" + secret, "https://x.example/" + secret}).Draw(rt, label)
		}
		server := map[string]any{}
		if rapid.Bool().Draw(rt, "http") {
			server["url"] = rapid.SampledFrom([]string{"https://x.example/mcp", "https://u:" + secret + "@x.example/mcp", "https://x.example/mcp?token=" + secret, "https://x.example/" + secret}).Draw(rt, "url")
			server["headers"] = map[string]string{"Authorization": text("authorization"), "X-Any": text("any")}
		} else {
			server["command"], server["args"] = "run", []string{text("first"), "--token", text("second")}
			server["env"] = map[string]string{"A": text("a"), "API_KEY": text("key")}
		}
		file, err := json.Marshal(map[string]any{"mcpServers": map[string]any{"s": server, "other": map[string]any{"command": "x"}}})
		if err != nil {
			rt.Fatal(err)
		}
		im, err := planned(t, string(file), nil)
		if err != nil {
			rt.Fatal(err)
		}
		for name, text := range im.texts {
			if strings.Contains(string(text), secret) && !strings.HasPrefix(name, "secrets/") {
				rt.Fatalf("%s holds it:\n%s", name, text)
			}
		}
		if said, err := json.Marshal(im); err != nil || strings.Contains(string(said), secret) {
			rt.Fatalf("it is said: %v\n%s", err, said)
		}
	})
}

// TestShellWord: a shell reads back what was written.
func TestShellWord(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-c '"$\\;|&*\n~#=!{}()-]{0,12}`), 1, 20).Draw(rt, "words")
		script := "printf '%s\\001'"
		for _, w := range words {
			script += " " + shellWord(w)
		}
		out, err := exec.CommandContext(t.Context(), sh, "-c", script).Output()
		if want := strings.Join(words, "\x01") + "\x01"; err != nil || string(out) != want {
			rt.Fatalf("%s: %v\n got %q\nwant %q", script, err, out, want)
		}
	})
}

// TestImportRuns: an imported program is started with what the client gave it, is
// pinned, and the project can be loaded.
func TestImportRuns(t *testing.T) {
	command, env := testkit.Stdio{}.Command(t)
	file, err := json.Marshal(map[string]any{"mcpServers": map[string]any{"child": map[string]any{"command": command[0], "args": command[1:], "env": env}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := ImportOptions{Dir: dir, Text: file, Agent: "helper", Owner: "ada", Stage: sallyport.Staging, WorkDir: dir, Environ: os.LookupEnv}
	im, err := PlanImport(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Write(); err != nil {
		t.Fatal(err)
	}
	s := im.Servers[0]
	if im.Ask(t.Context(), s); s.Asked != "" || len(s.Tools) == 0 {
		t.Fatalf("it was not pinned: %s", s.Asked)
	}
	s.Tools[0].Read = true
	if err := im.Finish(); err != nil || len(im.Problems) > 0 {
		t.Fatalf("%v %q", err, im.Problems)
	}
	p, problems := config.Load(os.DirFS(dir))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if len(p.Releases) != 1 || len(p.Releases[0].Tools) != len(s.Tools) {
		t.Errorf("the agent has %+v", p.Releases)
	}
	for _, stage := range sallyport.Stages {
		want := map[sallyport.Stage]sallyport.Binding{sallyport.Sandbox: sallyport.Simulate, sallyport.Staging: sallyport.Live, sallyport.Production: sallyport.Off}[stage]
		u, err := LoadUpstream(dir, s.Upstream)
		if err != nil {
			t.Fatal(err)
		}
		if of := u.Stages[stage]; of.Binding != want || of.Transport.None() != (stage != sallyport.Staging) {
			t.Errorf("in %s it is %s at %v", stage, of.Binding, of.Transport)
		}
	}
	var refusal *sallyport.Refusal
	if _, err := PlanImport(o); !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict {
		t.Errorf("a second import: %v", err)
	}
	if got := fmt.Sprint(im.Files); !strings.Contains(got, "upstreams/child.pins.json") {
		t.Errorf("files: %s", got)
	}
}
