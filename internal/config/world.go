package config

import (
	"encoding/json"
	"fmt"
	"io/fs"

	"sallyport"
)

// LoadWorld reads worlds/<name>.yaml and what it names, whether a stage names it or
// not. Tools are those of the upstreams it answers for; without any, its rules are not
// held against them.
func LoadWorld(fsys fs.FS, name string, tools []sallyport.Tool) (*sallyport.WorldDefinition, map[string][]byte, Problems) {
	l := &loader{fsys: fsys, worlds: map[string]*sallyport.World{}}
	if !sallyport.ValidName(name) {
		l.add(Problem{Path: "worlds", Message: quote(name) + " is no name of a world"})
		return nil, nil, l.problems.ordered()
	}
	w := l.world(name, tools)
	if w == nil || len(l.problems) > 0 {
		return nil, nil, l.problems.ordered()
	}
	def := &sallyport.WorldDefinition{}
	if err := json.Unmarshal(w.Body, def); err != nil {
		l.add(Problem{Path: "worlds/" + name + ".yaml", Message: fmt.Sprintf("it cannot be read again: %v", err)})
		return nil, nil, l.problems.ordered()
	}
	files := map[string][]byte{}
	for file, digest := range def.Files {
		files[file] = w.Files[digest]
	}
	return def, files, nil
}
