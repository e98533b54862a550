package sallyport

import "time"

// HaltScope is what a halt stops.
type HaltScope uint8

// The scopes of a halt.
const (
	HaltGlobal HaltScope = iota + 1
	HaltStage
	HaltAgent
	HaltRelease
	HaltUpstream
	HaltTool
	HaltRun
)

var haltScopeNames = []string{"", "global", "stage", "agent", "release", "upstream", "tool", "run"}

func (s HaltScope) String() string { return enumText(haltScopeNames, uint8(s)) }

// MarshalText writes the scope as its name.
func (s HaltScope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a scope; any other text is an error.
func (s *HaltScope) UnmarshalText(b []byte) error {
	v, err := enumParse("halt scope", haltScopeNames, string(b))
	*s = HaltScope(v)
	return err
}

// Halt is the kill switch, pulled. Subject is the name of the stage, agent,
// release, upstream or run; for a tool "<upstream>/<name>"; for global empty.
type Halt struct {
	Scope   HaltScope `json:"scope"`
	Subject string    `json:"subject,omitempty"`
	Reason  string    `json:"reason"`
	By      string    `json:"by"` // a person, or "signal", "file", "conduct"
	At      time.Time `json:"at"`
}

// HaltedByConduct is who halts a run for what it does.
const HaltedByConduct = "conduct"

// Target is what a halt is matched against: one call, as far as it is resolved.
// An empty field is matched by no halt but a global one.
type Target struct {
	Stage    Stage
	Agent    AgentID
	Release  ReleaseID
	Upstream UpstreamID
	Tool     string // the upstream's own name
	Run      RunID
}

// Stops reports whether the halt stops the target. A scope that is not known
// stops everything: it was meant to stop something.
func (h *Halt) Stops(t *Target) bool {
	if h.Scope == HaltGlobal {
		return true
	}
	var name string
	switch h.Scope {
	case HaltStage:
		name = t.Stage.String()
	case HaltAgent:
		name = string(t.Agent)
	case HaltRelease:
		name = string(t.Release)
	case HaltUpstream:
		name = string(t.Upstream)
	case HaltTool:
		if t.Tool == "" {
			return false
		}
		name = string(t.Upstream) + "/" + t.Tool
	case HaltRun:
		name = string(t.Run)
	default:
		return true
	}
	return name != "" && name == h.Subject
}
