package sallyport

// Stage is how far a release has come. Each stage has its own bindings,
// endpoints, credentials, data domain and limits; nothing of one stage can be
// reached from another.
type Stage uint8

// The stages, in the order of promotion.
const (
	Sandbox Stage = iota + 1
	Staging
	Production
)

var stageNames = []string{"", "sandbox", "staging", "production"}

// Stages lists all stages in the order of promotion.
var Stages = []Stage{Sandbox, Staging, Production}

func (s Stage) String() string { return enumText(stageNames, uint8(s)) }

// MarshalText writes the stage as its name.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name of a stage; any other text is an error.
func (s *Stage) UnmarshalText(b []byte) error {
	v, err := enumParse("stage", stageNames, string(b))
	*s = Stage(v)
	return err
}

// Binding is how a tool is answered in a stage.
type Binding uint8

// The bindings. In this version off, simulate, shadow and live are served; the others
// are words that configuration refuses with a reason.
const (
	Off Binding = iota + 1
	Simulate
	Replay
	Shadow
	Hybrid
	Defer
	Live
)

var bindingNames = []string{"", "off", "simulate", "replay", "shadow", "hybrid", "defer", "live"}

func (b Binding) String() string { return enumText(bindingNames, uint8(b)) }

// MarshalText writes the binding as its name.
func (b Binding) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the name of a binding; any other text is an error.
func (b *Binding) UnmarshalText(t []byte) error {
	v, err := enumParse("binding", bindingNames, string(t))
	*b = Binding(v)
	return err
}

// In reports whether a binding may exist in a stage. The sandbox is answered
// only by worlds. Staging may reach staging endpoints, so it knows live as "the
// staging endpoint, under guard"; bindings that exist to protect a production
// system (shadow, hybrid, defer) exist only in production. A binding or stage
// that is not known is in no stage.
func (b Binding) In(s Stage) bool {
	switch b {
	case Off:
		return s == Sandbox || s == Staging || s == Production
	case Simulate, Replay:
		// Sandbox data never answers a production call.
		return s == Sandbox || s == Staging
	case Live:
		return s == Staging || s == Production
	case Shadow, Hybrid, Defer:
		return s == Production
	default:
		return false
	}
}

// Grade is the grade of the world that answered a call.
type Grade uint8

// The grades, from the least to the most like production.
const (
	GradeEmulated Grade = iota + 1 // E0: a model invented the answer
	GradeSchema                    // E1: generated from a schema or an example
	GradeReplay                    // E2: recorded
	GradeTwin                      // E3: a stateful twin
	GradeVendor                    // E4: a vendor's sandbox
	GradeShadow                    // E5: live reads, changes in an overlay
	GradeLive                      // E6: the system itself
)

var gradeNames = []string{"", "E0", "E1", "E2", "E3", "E4", "E5", "E6"}

func (g Grade) String() string { return enumText(gradeNames, uint8(g)) }

// MarshalText writes the grade as E0 to E6.
func (g Grade) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads E0 to E6; any other text is an error.
func (g *Grade) UnmarshalText(t []byte) error {
	v, err := enumParse("grade", gradeNames, string(t))
	*g = Grade(v)
	return err
}
