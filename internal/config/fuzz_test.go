package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport"
)

// FuzzLoad reads a project directory of which each kind of file may be anything.
func FuzzLoad(f *testing.F) {
	add := func(files map[string]string, agent, upstream string) {
		f.Add(files["sallyport.yaml"], files["agents/"+agent+".yaml"], files["upstreams/"+upstream+".yaml"], files["upstreams/"+upstream+".pins.json"],
			files["policies/"+agent+".cedar"], files["pipeline.yaml"])
	}
	add(template(f, "minimal"), "hello", "weather")
	add(template(f, "support"), "support", "crm")
	cases, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range cases {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		head, _, _ := strings.Cut(string(text), "-- want --\n")
		parts := fileMark.Split(head, -1)
		files := template(f, "support")
		for i, name := range fileMark.FindAllStringSubmatch(head, -1) {
			files[name[1]] = parts[i+1]
		}
		add(files, "support", "crm")
	}
	f.Fuzz(func(t *testing.T, server, agent, upstream, pins, cedar, pipeline string) {
		files := map[string]string{
			"sallyport.yaml": server, "agents/support.yaml": agent, "upstreams/crm.yaml": upstream, "upstreams/crm.pins.json": pins,
			"policies/support.cedar": cedar, "pipeline.yaml": pipeline,
		}
		p, problems := Load(project(files))
		if (p == nil) != (len(problems) > 0) {
			t.Fatal("a project and problems, or neither")
		}
		for _, problem := range problems {
			if lines := strings.Count(files[problem.Path], "\n") + 1; problem.Path == "" || problem.Message == "" || problem.Line < 0 || problem.Line > lines {
				t.Fatalf("%+v in a file of %d lines", problem, lines)
			}
			if s := problem.String(); strings.ContainsAny(s, "\x00\x1b\r") {
				t.Fatalf("%q would confuse a terminal", s)
			}
		}
		if p == nil {
			return
		}
		again, problems := Load(project(files))
		if problems != nil || again.Digest != p.Digest {
			t.Fatal("loaded twice it differs", problems)
		}
		if changes := Diff(p.Versions(), again.Versions()); len(changes) > 0 {
			t.Fatal(changes)
		}
		for i := range p.Releases {
			r := &p.Releases[i]
			if id, err := Digest(r); err != nil || id != r.ID || r.Owner == "" || r.Tier == 0 {
				t.Fatalf("%+v %v", r, err)
			}
		}
		for stage, s := range p.Stages {
			for id, u := range s.Upstreams {
				if !u.Binding.In(stage) || stage == sallyport.Sandbox && !u.Transport.None() || u.Identity == "" || u.ID != id || u.Binding == sallyport.Live && u.Transport.None() {
					t.Fatalf("%s: %+v", stage, u)
				}
				for tool, b := range u.Bindings {
					if !b.In(stage) {
						t.Fatalf("%s: %s is %s", stage, tool, b)
					}
				}
				if c := u.Transport.Credential; c != "" && p.Server.Secrets.Check(c) != nil {
					t.Fatalf("credential %q", c)
				}
			}
		}
	})
}

// FuzzSecretReference checks and resolves references. What passes leads to a
// variable with a prefix that was configured, or to a file under a root that was,
// by a path that goes nowhere else on the way; and no error repeats the reference
// where nothing was resolved, for it may be the secret itself.
func FuzzSecretReference(f *testing.F) {
	for _, ref := range []string{
		"env:SALLYPORT_X", "env:HOME", "env:", "env:SALLYPORT_", "env:SALLYPORT_X=1", "file:secrets/a", "file:secrets/../a", "file:secrets/./a", "file:secrets//a", "file:secrets", "file:secrets/", "file:/run/secrets/a",
		"file:/run/secrets/../passwd", "file:./secrets/a", "file:secrets\\..\\a", "file:secrets/a\x00", "FILE:secrets/a", "file:secretsx/a", "file://secrets/a", "hunter2hunter2", "", "file:secrets/\xff", "file:secrets/..", "file:..secrets/a", "file:secrets/...",
	} {
		f.Add(ref, "the secret\n")
	}
	f.Add("file:secrets/a", "a\nb")
	f.Add("file:secrets/a", "\r\n")
	roots := SecretRoots{Files: []string{"secrets", "/run/secrets"}, Env: []string{"SALLYPORT_"}}
	f.Fuzz(func(t *testing.T, ref, content string) {
		read := ""
		secret, err := roots.Resolve(ref, func(name string) (string, bool) {
			read = "env:" + name
			if !strings.HasPrefix(name, "SALLYPORT_") {
				t.Fatalf("%q reads the variable %q", ref, name)
			}
			return content, true
		}, func(name string) ([]byte, error) {
			read = "file:" + name
			rel, under := strings.CutPrefix(name, "secrets/")
			if !under {
				rel, under = strings.CutPrefix(name, "/run/secrets/")
			}
			if !under || !filepath.IsLocal(rel) || rel == "." || filepath.Clean(name) != name {
				t.Fatalf("%q reads the file %q", ref, name)
			}
			return []byte(content), nil
		})
		if checked := roots.Check(ref); (checked == nil) != (read != "") {
			t.Fatalf("%q: checked %v, read %q", ref, checked, read)
		}
		if err != nil {
			if secret != "" || read == "" && len(ref) > 12 && strings.Contains(err.Error(), ref) || len(content) > 16 && strings.Contains(err.Error(), content) {
				t.Fatalf("%q: %q %v", ref, secret, err)
			}
			return
		}
		if secret == "" || strings.ContainsAny(secret, "\r\n\x00") || !strings.HasPrefix(content, secret) || len(content)-len(secret) > 2 {
			t.Fatalf("%q became %q", content, secret)
		}
	})
}
