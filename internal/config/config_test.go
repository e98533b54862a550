package config

import (
	"testing"
	"testing/fstest"
)

// project is a project directory in memory.
func project(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for path, text := range files {
		m[path] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func template(t testing.TB, name string) map[string]string {
	t.Helper()
	files, err := Init(name)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTemplatesLoad(t *testing.T) {
	for _, info := range Templates() {
		p, problems := Load(project(template(t, info.Name)))
		if problems != nil {
			t.Fatalf("%s: %v", info.Name, problems)
		}
		if len(p.Notes) > 0 {
			t.Errorf("%s: notes %v", info.Name, p.Notes)
		}
	}
}
