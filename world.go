package sallyport

import (
	"encoding/json"

	"sallyport/internal/wire"
)

// Simulated is a call that a world answers.
type Simulated struct {
	World  WorldRef // nothing: the tool's own schemas and examples
	Tool   *Tool
	Args   []byte // as the upstream would read them
	Era    wire.Era
	Run    RunID
	Seed   uint64
	Number int // of the call in its run, from 0
}

// Simulation is a world's answer: at most one of Result and Error, and one of them
// unless it is refused.
type Simulation struct {
	Result []byte // a tools/call result value
	Error  []byte // a JSON-RPC error object
	Grade  Grade
	// Refused is what the caller is told in their stead, as of a system that was sent
	// the call and did not answer it well. With a Result or Error the call has had its
	// effect, and that is what was withheld.
	Refused *Refusal
}

// WorldRef names a version of a world.
type WorldRef struct {
	Name   string `json:"name,omitempty"`
	Digest Digest `json:"digest,omitempty"`
}

// WorldDefinition is what a file of worlds/ says, as an immutable version: the digest
// of its JSON is that of the world.
type WorldDefinition struct {
	Name string `json:"world"`
	// Twin is the definition of a stateful twin as package twin reads it; the order of
	// its members counts.
	Twin json.RawMessage `json:"twin,omitempty"`
	// Cassettes are names of recordings among Files, and Match how calls are held
	// against them.
	Cassettes []string        `json:"cassettes,omitempty"`
	Match     json.RawMessage `json:"match,omitempty"`
	// Fallback answers what neither twin nor cassettes know.
	Fallback WorldFallback `json:"fallback"`
	// Faults go wrong on purpose, as package fault reads them.
	Faults json.RawMessage `json:"faults,omitempty"`
	// Files are what it reads, by name: data of twins, scripts, recordings.
	Files map[string]Digest `json:"files,omitempty"`
}

// WorldFallback is what is done with a call that a world does not know.
type WorldFallback string

// The fallbacks. An answer made from a schema has grade E1, whatever the rest of the
// world is.
const (
	FallbackRefuse WorldFallback = "refuse"
	FallbackSchema WorldFallback = "schema"
)

// World is a version of a world with all that belongs to it.
type World struct {
	Ref   WorldRef
	Body  []byte            // the JSON of its WorldDefinition
	Files map[Digest][]byte // by their digests
}

// PastCall is a call of a run that its world has answered before.
type PastCall struct {
	Number   int // from 1
	Upstream UpstreamID
	Tool     string // the upstream's own name
	Args     []byte
}
