package sallyport

import "slices"

// Role is what a person may do. Roles do not contain one another, but admin
// holds them all.
type Role uint8

// The roles.
const (
	Viewer Role = iota + 1
	Developer
	Reviewer
	Approver
	Operator
	Auditor
	Admin
)

var roleNames = []string{"", "viewer", "developer", "reviewer", "approver", "operator", "auditor", "admin"}

func (r Role) String() string { return enumText(roleNames, uint8(r)) }

// MarshalText writes the role as its name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the name of a role; any other text is an error.
func (r *Role) UnmarshalText(b []byte) error {
	v, err := enumParse("role", roleNames, string(b))
	*r = Role(v)
	return err
}

// Person is somebody who may act on Sallyport.
type Person struct {
	ID    PersonID `json:"id"`
	Roles []Role   `json:"roles"`
}

// Has reports whether the person holds one of the roles. Nobody holds the zero
// role.
func (p *Person) Has(roles ...Role) bool {
	for _, r := range p.Roles {
		if r == Admin || r != 0 && slices.Contains(roles, r) {
			return true
		}
	}
	return false
}

// Principal is who is calling: a release of an agent, and the person on whose
// behalf, if any. It follows from the credential and the stage pointers alone.
type Principal struct {
	Agent   AgentID   `json:"agent"`
	Release ReleaseID `json:"release"`
	Key     KeyID     `json:"key"`
	Person  PersonID  `json:"person,omitempty"`
}

// KeyKind is what a credential is for.
type KeyKind uint8

// The kinds of credentials. A person's credential acts on Sallyport; a host key
// opens runs of one agent; a run token makes the calls of one run; an agent key
// makes calls of one release without opening a run.
const (
	KeyPerson KeyKind = iota + 1
	KeyHost
	KeyRun
	KeyAgent
)

var keyKindNames = []string{"", "person", "host", "run", "agent"}

func (k KeyKind) String() string { return enumText(keyKindNames, uint8(k)) }

// MarshalText writes the kind as its name.
func (k KeyKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name of a kind of key; any other text is an error.
func (k *KeyKind) UnmarshalText(b []byte) error {
	v, err := enumParse("key kind", keyKindNames, string(b))
	*k = KeyKind(v)
	return err
}
