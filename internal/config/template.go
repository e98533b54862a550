package config

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed templates
var templates embed.FS

// TemplateInfo is a project directory that Init can write.
type TemplateInfo struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
}

// Templates lists the templates, the least one first.
func Templates() []TemplateInfo {
	return []TemplateInfo{
		{"minimal", "one agent, one upstream and one policy, all in the sandbox"},
		{"support", "a support agent of a small company, with its customers, payments and mail in all three stages"},
	}
}

// Init is the text of every file of a new project directory, by path relative to
// it, with slashes. Load accepts it as it is.
func Init(template string) (map[string]string, error) {
	var names []string
	for _, t := range Templates() {
		names = append(names, t.Name)
		if t.Name == template {
			return readTemplate(template)
		}
	}
	return nil, fmt.Errorf("template %s: there is none of this name; %s", quote(template), suggest(template, names, "templates"))
}

func readTemplate(name string) (map[string]string, error) {
	files := map[string]string{}
	root := path.Join("templates", name)
	err := fs.WalkDir(templates, root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := templates.ReadFile(p)
		if err != nil {
			return err
		}
		p = strings.TrimPrefix(p, root+"/")
		if p == "gitignore" {
			p = ".gitignore" // under this name git would read it here as well
		}
		files[p] = string(text)
		return nil
	})
	return files, err
}
