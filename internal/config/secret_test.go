package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestResolve(t *testing.T) {
	roots := SecretRoots{Files: []string{"secrets", "/run/secrets", "deep/er"}, Env: []string{"SALLYPORT_", "CRM_"}}
	env := map[string]string{"SALLYPORT_A": "s3cr3t", "SALLYPORT_EMPTY": "", "PATH": "/bin", "CRM_X": "two\nlines", "SALLYPORT_LONG": strings.Repeat("s3cr3t", 20_000)}
	files := map[string]string{
		"secrets/crm": "s3cr3t\n", "secrets/crlf": "s3cr3t\r\n", "secrets/two": "s3cr3t\n\n", "secrets/none": "\n", "secrets/nul": "s3cr3t\x00",
		"/run/secrets/crm": "s3cr3t", "deep/er/x": " s3cr3t ", "secretsX": "s3cr3t", "/etc/passwd": "s3cr3t", "secrets": "s3cr3t", ".sallyport/keys/k": "s3cr3t",
	}
	const pem = "-----BEGIN PRIVATE KEY-----\nczNjcjN0\nAA==\n-----END PRIVATE KEY-----"
	files["secrets/pem"], files["secrets/pem2"], files["secrets/crlfpem"] = pem+"\n", pem+"\n"+pem+"\n", strings.ReplaceAll(pem, "\n", "\r\n")
	files["secrets/pem+"], files["secrets/+pem"], files["secrets/pem0"] = pem+"\nX-Other: s3cr3t", "s3cr3t\n"+pem, strings.Replace(pem, "\nAA", "\nX-Y: s3cr3t\nAA", 1)
	getenv := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	readFile := func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(text), nil
	}
	tests := []struct{ ref, want, err string }{
		{"env:SALLYPORT_A", "s3cr3t", ""},
		{"file:secrets/crm", "s3cr3t", ""},
		{"file:./secrets//crm", "s3cr3t", ""},
		{"file:secrets/crlf", "s3cr3t", ""},
		{"file:/run/secrets/crm", "s3cr3t", ""},
		{"file:deep/er/x", " s3cr3t ", ""},
		{"env:PATH", "", "begin with SALLYPORT_ or CRM_"},
		{"env:sallyport_a", "", "begin with"},
		{"env:", "", "not the name"},
		{"env:SALLYPORT_A=x", "", "not the name"},
		{"env:SALLYPORT_NONE", "", "not set"},
		{"env:SALLYPORT_EMPTY", "", "empty"},
		{"env:SALLYPORT_LONG", "", "longer"},
		{"env:CRM_X", "", "line break"},
		{"file:secrets/two", "", "line break"},
		{"file:secrets/pem", pem, ""},
		{"file:secrets/crlfpem", strings.ReplaceAll(pem, "\n", "\r\n"), ""},
		{"file:secrets/pem2", "", "line break"},
		{"file:secrets/pem+", "", "line break"},
		{"file:secrets/+pem", "", "line break"},
		{"file:secrets/pem0", "", "line break"},
		{"file:secrets/nul", "", "control character"},
		{"file:secrets/none", "", "empty"},
		{"file:secrets/gone", "", "no such file"},
		{"file:secrets", "", "lie under"},
		{"file:secrets/", "", "lie under"},
		{"file:secrets/.", "", "lie under"},
		{"file:secretsX", "", "lie under"},
		{"file:secrets/../.sallyport/keys/k", "", `".."`},
		{"file:/run/secrets/../../etc/passwd", "", `".."`},
		{"file:/etc/passwd", "", "lie under"},
		{"file:.sallyport/keys/k", "", "lie under"},
		{"file:secrets\\crm", "", "slashes"},
		{"file:secrets/a\x00", "", "slashes"},
		{"file:", "", "slashes"},
		{"s3cr3t", "", "not a secret reference"},
		{"vault:s3cr3t", "", "not a secret reference"},
		{"", "", "not a secret reference"},
		{"ENV:SALLYPORT_A", "", "not a secret reference"},
		{" env:SALLYPORT_A", "", "not a secret reference"},
	}
	for _, tt := range tests {
		got, err := roots.Resolve(tt.ref, getenv, readFile)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %q, %v; want %q, %s", tt.ref, got, err, tt.want, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: the error holds the secret: %v", tt.ref, err)
		}
	}
	if _, err := roots.Resolve("env:SALLYPORT_NONE", getenv, readFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not a missing secret: %v", err)
	}
	for _, ref := range []string{"env:SALLYPORT_A", "file:secrets/crm", "env:", "file:x"} {
		if _, err := (SecretRoots{}).Resolve(ref, getenv, readFile); err == nil {
			t.Errorf("%s leads somewhere without roots", ref)
		}
		if _, err := (SecretRoots{Env: []string{""}, Files: []string{""}}).Resolve(ref, getenv, readFile); err == nil {
			t.Errorf("%s leads somewhere with empty roots", ref)
		}
	}
}

// TestNoReferenceLeavesItsRoot: whatever a reference says, only files under a
// root are read.
func TestNoReferenceLeavesItsRoot(t *testing.T) {
	roots := SecretRoots{Files: []string{"secrets", "/run/secrets"}}
	part := rapid.SampledFrom([]string{"secrets", "run", "..", ".", "", "etc", "a b", "\\", "..\\", "\x00", "~", "%2e%2e", "secrets\u202e"})
	rapid.Check(t, func(t *rapid.T) {
		ref := "file:" + rapid.SampledFrom([]string{"", "/", "//", "./"}).Draw(t, "start") + strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "parts"), "/")
		_, _ = roots.Resolve(ref, nil, func(name string) ([]byte, error) {
			if !strings.HasPrefix(name, "secrets/") && !strings.HasPrefix(name, "/run/secrets/") || slices.Contains(strings.Split(name, "/"), "..") {
				t.Fatalf("%q reads %q", ref, name)
			}
			return []byte("x"), nil
		})
	})
}

func TestLooksSecret(t *testing.T) {
	for _, s := range []string{
		"sk-proj-abcdefgh12345678", "sk_live_51Hxyzabcdef", "ghp_abcdefghijkl", "github_pat_11ABCDEFG", "glpat-xyzxyzxyzxyz", "xoxb-1234567890-abc",
		"AKIAIOSFODNN7EXAMPLE", "AIzaSyA1234567890abcdefgh", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "-----BEGIN RSA PRIVATE KEY-----", "Bearer abcdefgh1234",
		"q7Rt2Wx9Zk4Lm8Np1Vb5Yc3", "https://u:p@example.com/",
	} {
		if !looksSecret(s) {
			t.Errorf("%q does not look like a secret", s)
		}
		if masked := maskSecrets("x: " + s); strings.Contains(masked, s) && s != "-----BEGIN RSA PRIVATE KEY-----" {
			t.Errorf("%q stays in %q", s, masked)
		}
	}
	for _, s := range []string{
		"", "staging", "https://tools.example.com/v1/mcp", "find_customer_by_email_address_v2", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		"/usr/local/share/some-package/2026/server.js", "@modelcontextprotocol/server-filesystem", "2025-11-25", "3fa85f64-5717-4562-b3fc-2c963f66afa6", "team-support@example.com",
		"SALLYPORT_PAYMENTS_PRODUCTION_CREDENTIAL", "env:SALLYPORT_CRM_STAGING", "application/vnd.example.v1+json",
	} {
		if looksSecret(s) {
			t.Errorf("%q looks like a secret", s)
		}
	}
}

// TestProblemsNeverHoldSecrets writes a secret down in one of the places where
// people do, breaks the file in some other way, and looks for it in what is said.
func TestProblemsNeverHoldSecrets(t *testing.T) {
	files := template(t, "support")
	places := []string{
		"    credential: %s\n", "    credential: \"%s\"\n", "    credential: |\n      %s\n", "    credential:\n      %s\n", "    credential: [%s]\n", "    credential:\n    - %s\n",
		"    headers: {Authorization: %s}\n", "    headers:\n      Authorization: Bearer %s\n", "    headers: {X-Api-Key: \"%s\", X-B: c}\n", "    password: %s\n",
		"    env: {API_TOKEN: %s}\n", "    env:\n      API_TOKEN: >-\n        %s\n", "    command: [server, --token=%s]\n", "    command: [server, --api-key, %s]\n",
		"    command:\n      - server\n      - --password\n      - %s\n", "    credentail: %s\n", "    Credential: %s # soon\n",
	}
	breaks := []string{
		"", "    deadlin: 3s\n", "    deadline: 3s\n    deadline: 3s\n", "   x\n", "\t\n", "    a: b: c\n", "    x: *y\n", "    z: &y 3\n", "    credential: x\n", "  }\n", "    url: https://a:%s@b.example.com\n", "\"\n",
		"    url: \"https://b.example.com/?token=%s\"\n",
	}
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringMatching(`[A-Za-z][A-Za-z0-9]{7,20}`).Draw(t, "secret")
		if strings.Contains(strings.ToLower("upstreams/crm.yaml credential authorization password token production staging headers command url server sallyport"), strings.ToLower(secret)) {
			return
		}
		fill := func(s string) string {
			if strings.Contains(s, "%s") {
				return fmt.Sprintf(s, secret)
			}
			return s
		}
		parts := []string{fill(rapid.SampledFrom(places).Draw(t, "place")), fill(rapid.SampledFrom(breaks).Draw(t, "break"))}
		if rapid.Bool().Draw(t, "break first") {
			slices.Reverse(parts)
		}
		all := maps.Clone(files)
		all["upstreams/crm.yaml"] = "upstream: crm\nstages:\n  sandbox: {binding: simulate}\n  production:\n    binding: live\n" + parts[0] + parts[1] + "tools: {}\n"
		p, problems := Load(project(all))
		if p != nil {
			t.Fatalf("no problem with\n%s", all["upstreams/crm.yaml"])
		}
		if said := problems.Error(); strings.Contains(said, secret) {
			t.Fatalf("%s\nof\n%s", said, all["upstreams/crm.yaml"])
		}
	})
}
