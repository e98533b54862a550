// Package sallyport holds the words of Sallyport: the types that more than one
// layer has to name, and the functions that need nothing but their arguments.
// It does no I/O and reads no clock.
//
// An agent calls tools through Sallyport. Which world answers a call, and
// whether it is answered at all, follows from the [Release] the call is made
// under and the [Stage] that people have promoted the release to; never from
// anything the agent says. The path of one call is in internal/gateway; what a
// call may meet on it is a [Refusal].
//
// One word per idea: see README.md for the list, and use these words in code,
// SQL, API and documents alike.
package sallyport

import "fmt"

// IDs are types, so that one cannot be passed where another is meant.
type (
	// AgentID names an agent: lower-case letters, digits and '-', at most 64 bytes.
	AgentID string
	// UpstreamID names an upstream; the same alphabet as an AgentID.
	UpstreamID string
	// ReleaseID is the digest of a release's canonical manifest.
	ReleaseID = Digest
	// RunID is "run_" and 26 lower-case base-32 digits, ascending in time.
	RunID string
	// CallID is "call_" and 26 lower-case base-32 digits, ascending in time.
	CallID string
	// PersonID names a person, as an e-mail address or a login name.
	PersonID string
	// KeyID names a credential; it is public, the credential is not.
	KeyID string
	// Digest is "sha256:" and 64 lower-case hexadecimal digits.
	Digest string
)

// Short is a digest as people read it: the first twelve hexadecimal digits.
func (d Digest) Short() string {
	if len(d) < 7+12 {
		return string(d)
	}
	return string(d[7 : 7+12])
}

// ValidName reports whether s can name an agent, an upstream or a world:
// 1 to 64 bytes of a-z, 0-9 and '-', beginning with a letter or digit.
func ValidName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// enumText is the shared text form of the small enumerations of this package. All
// of them start at one: the zero value is never a permission, prints as
// "unknown", and cannot be read back.
func enumText(names []string, v uint8) string {
	if int(v) >= len(names) || v == 0 {
		return "unknown"
	}
	return names[v]
}

func enumParse(what string, names []string, text string) (uint8, error) {
	for i := 1; i < len(names); i++ {
		if names[i] == text {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("%s %q: want one of %v", what, text, names[1:])
}
