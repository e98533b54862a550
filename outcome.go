package sallyport

// Outcome is how a call ended.
type Outcome uint8

// The outcomes. Unknown means that the call was, or may have been, sent and
// nobody can say what it did; a person or a read-back settles it.
const (
	OutcomeOK Outcome = iota + 1
	OutcomeError
	OutcomeRefused
	OutcomeUnsettled
)

var outcomeNames = []string{"", "ok", "error", "refused", "unknown"}

func (o Outcome) String() string { return enumText(outcomeNames, uint8(o)) }

// MarshalText writes the outcome as its name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the name of an outcome; any other text is an error.
func (o *Outcome) UnmarshalText(b []byte) error {
	v, err := enumParse("outcome", outcomeNames, string(b))
	*o = Outcome(v)
	return err
}
