package sallyport

import "time"

// GuardAction is what becomes of content of a class on its way through a stage. The
// zero value denies.
type GuardAction uint8

// The actions, from the one that lets most through.
const (
	GuardPass         GuardAction = iota + 1 // it goes on, and nothing is noted
	GuardLabel                               // it goes on, and the run is known to have had it
	GuardPseudonymise                        // a pseudonym of the data domain goes on
	GuardRedact                              // its class in brackets goes on; of hidden characters nothing
	GuardDeny                                // nothing goes on
)

var guardActionNames = []string{"", "pass", "label", "pseudonymise", "redact", "deny"}

func (a GuardAction) String() string { return enumText(guardActionNames, uint8(a)) }

// MarshalText writes the action as its name.
func (a GuardAction) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the name of an action; any other text is an error.
func (a *GuardAction) UnmarshalText(b []byte) error {
	v, err := enumParse("guard action", guardActionNames, string(b))
	*a = GuardAction(v)
	return err
}

// Guard is what becomes of the content of calls in a stage. The zero value labels what
// is found and changes no byte.
type Guard struct {
	// In is for what leaves for an upstream, Out for what an agent gets, both by class
	// of data (internal/guard lists them). A class that is not there has GuardLabel.
	In  map[string]GuardAction `json:"in,omitempty"`
	Out map[string]GuardAction `json:"out,omitempty"`
	// Cleared lists agents that get what is of these classes as it is, whatever Out
	// says.
	Cleared map[AgentID][]string `json:"cleared,omitempty"`
	// Reidentify lists classes whose pseudonyms become the originals again when an
	// agent sends them to an upstream.
	Reidentify []string `json:"reidentify,omitempty"`
	// Keep is how long an original can be had again after it was last seen; zero is
	// DefaultGuardKeep.
	Keep time.Duration `json:"keep,omitempty"`
	// MaxDepth, MaxMembers and MaxString bound one value: how deep it nests, how many
	// members and elements it has, and the bytes of one of its texts. Zero is no bound.
	MaxDepth   int `json:"max_depth,omitempty"`
	MaxMembers int `json:"max_members,omitempty"`
	MaxString  int `json:"max_string,omitempty"`
}

// DefaultGuardKeep is how long originals of pseudonyms are kept.
const DefaultGuardKeep = 30 * 24 * time.Hour
