package config

import (
	"embed"
	"fmt"
	"slices"
)

// kinds are the kinds of files that people write.
var kinds = []string{"sallyport", "agent", "upstream", "pipeline", "policy-test"}

//go:embed schema/*.json
var schemas embed.FS

// Kinds names the kinds of files a JSON Schema describes.
func Kinds() []string { return slices.Clone(kinds) }

// JSONSchema is the JSON Schema (2020-12) of one kind of file, for editors and
// for whoever writes such files by program. It accepts all that Load accepts;
// Load refuses more, since it sees all files at once.
func JSONSchema(kind string) ([]byte, error) {
	if !slices.Contains(kinds, kind) {
		hint := suggest(kind, kinds, "kinds")
		return nil, fmt.Errorf("schema of %s: no such kind of file; %s", quote(kind), hint)
	}
	return schemas.ReadFile("schema/" + kind + ".json")
}
