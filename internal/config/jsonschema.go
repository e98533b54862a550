package config

import (
	"embed"
	"fmt"
	"slices"
	"strings"
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

// schemaComment is the line by which editors find the schema of a file; up leads
// from its directory to the project's.
func schemaComment(kind string, up string) string {
	return "# yaml-language-server: $schema=" + up + ".sallyport/schema/" + kind + ".json"
}

// kindOfFile is the kind of a file of a project directory, "" if it has none.
func kindOfFile(path string) string {
	switch dir, name, _ := strings.Cut(path, "/"); {
	case path == serverPath:
		return "sallyport"
	case path == pipelinePath:
		return "pipeline"
	case dir == "agents" && strings.HasSuffix(name, ".yaml"):
		return "agent"
	case dir == "upstreams" && strings.HasSuffix(name, ".yaml"):
		return "upstream"
	case dir == "policies" && strings.HasSuffix(name, ".test.yaml"):
		return "policy-test"
	}
	return ""
}
