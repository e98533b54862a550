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
