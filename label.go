package sallyport

// Integrity is how far a value can be trusted to be what people meant.
type Integrity uint8

// Integrity levels, lowest first: joining two takes the lower. The zero value
// is treated as Untrusted.
const (
	Untrusted Integrity = iota + 1
	Endorsed
	User
	System
)

var integrityNames = []string{"", "untrusted", "endorsed", "user", "system"}

func (i Integrity) String() string { return enumText(integrityNames, uint8(max(i, Untrusted))) }

// MarshalText writes the level as its name.
func (i Integrity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads the name of a level; any other text is an error.
func (i *Integrity) UnmarshalText(t []byte) error {
	v, err := enumParse("integrity", integrityNames, string(t))
	*i = Integrity(v)
	return err
}

// Confidentiality is how far a value may travel.
type Confidentiality uint8

// Confidentiality levels, lowest first: joining two takes the higher. The zero
// value is treated as Restricted, since nobody said it may travel.
const (
	Public Confidentiality = iota + 1
	Internal
	Confidential
	Restricted
)

var confidentialityNames = []string{"", "public", "internal", "confidential", "restricted"}

func (c Confidentiality) String() string {
	if c == 0 {
		c = Restricted
	}
	return enumText(confidentialityNames, uint8(c))
}

// MarshalText writes the level as its name.
func (c Confidentiality) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the name of a level; any other text is an error.
func (c *Confidentiality) UnmarshalText(t []byte) error {
	v, err := enumParse("data class", confidentialityNames, string(t))
	*c = Confidentiality(v)
	return err
}

// Labels are what a run has come to know, or what one value carries.
type Labels struct {
	Integrity       Integrity       `json:"integrity"`
	Confidentiality Confidentiality `json:"confidentiality"`
	// Suspected says that something looked like an instruction to the agent where there
	// should be none. Whoever knows it is untrusted.
	Suspected bool `json:"suspected_injection,omitempty"`
}

// NewLabels are those of a run that has read nothing: it knows what its host
// told it.
func NewLabels() Labels { return Labels{Integrity: User, Confidentiality: Public} }

// Join is the label of whoever knows both a and b: the lower integrity and the
// higher confidentiality. It is commutative, associative and idempotent.
func (a Labels) Join(b Labels) Labels {
	a, b = a.strict(), b.strict()
	return Labels{
		Integrity:       min(a.Integrity, b.Integrity),
		Confidentiality: max(a.Confidentiality, b.Confidentiality),
		Suspected:       a.Suspected || b.Suspected,
	}
}

func (a Labels) strict() Labels {
	if a.Integrity == 0 || a.Suspected {
		a.Integrity = Untrusted
	}
	if a.Confidentiality == 0 {
		a.Confidentiality = Restricted
	}
	return a
}
