// Package flow says where the values of a call came from and how confidential what
// it takes along is. It is what a run has come to know, value by value, and the
// judgement on the arguments of the next call.
//
// A value is trusted because it was found where people or a system put it, never
// because it was not found elsewhere: whoever can spell a value so that it is not
// recognised gains nothing. It is found in the run's envelope, in an allow-list, in
// a typed field of a result that a person endorsed, or because a person approved it.
// What is only said in text that the run has read is not trusted, however often.
//
// How a gateway uses it, one [Index] a run:
//
//	x := flow.New(envelope)                  // when the run is opened or loaded
//	x.Join(x.Learn(flow.Call{...}))          // each call before, from its records, in their order
//
//	facts := x.Judge(flow.Query{...})        // label in: before policy is asked
//	// facts become part of policy's RunFacts and of the record
//
//	d := x.Learn(flow.Call{...})             // label out: from the arguments as sent and the
//	                                         // result as it leaves for the agent
//	x.Join(d)                                // when the outcome is durable, before it leaves
//
//	x.Approve(...)                           // when a person has approved a call: a Delta, too
//
// For a call whose outcome is unknown there is no result, but what it sent was sent:
// Learn it with a nil Result. Results that are rewritten are learned as rewritten.
//
// Joining is commutative, associative and idempotent. A delta holds digests of values,
// shortened to 128 bits, and no text; short values can be guessed from digests. Nothing
// stores deltas today: the records of a run hold what they are made of.
//
// What no index can see: a value that a model made of others, text that was
// paraphrased or encrypted on its way out, the choice between several trusted
// values, and what is said to somebody who may be told. Values of an endorsed field
// are as good as whoever can write to it.
package flow

import (
	"fmt"

	"sallyport"
)

// FieldKind says what a field of a result holds. A field nobody classified is
// FreeText.
type FieldKind uint8

// The kinds of fields. The first two can endorse what stands in them, if a person
// said so.
const (
	OpaqueID          FieldKind = iota + 1 // made by the server: tells objects apart, says nothing
	DirectoryIdentity                      // a name or address from a directory that outsiders cannot write to
	Number                                 // an amount, a count, a date
	FreeText                               // anything
)

var fieldKinds = []string{"", "opaque_id", "directory_identity", "number", "free_text"}

func (k FieldKind) String() string {
	if int(k) >= len(fieldKinds) || k == 0 {
		return "unknown"
	}
	return fieldKinds[k]
}

// MarshalText writes the kind as its name.
func (k FieldKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name of a kind; any other text is an error.
func (k *FieldKind) UnmarshalText(t []byte) error {
	for i := 1; i < len(fieldKinds); i++ {
		if fieldKinds[i] == string(t) {
			*k = FieldKind(i)
			return nil
		}
	}
	return fmt.Errorf("field kind %q: want one of %v", t, fieldKinds[1:])
}

// Field is what people said of some leaves of a tool's results.
type Field struct {
	// Pointer is a JSON pointer (RFC 6901) into the structured result in which "*"
	// stands for any element of a list or member of an object: "/users/*/email". The
	// empty pointer is a result that is one value.
	Pointer string    `json:"pointer"`
	Kind    FieldKind `json:"kind"`
	// Integrity is Endorsed where a person said so; anything else is Untrusted. Text
	// and numbers endorse nothing.
	Integrity sallyport.Integrity `json:"integrity,omitempty"`
	// Form is what a DirectoryIdentity names people by. Zero is a name, which endorses
	// no address: whoever may choose a name could choose one that is an account or a
	// link. Email, IBAN, Phone and URL say that there are such addresses in the field.
	Form Form `json:"form,omitempty"`
	// Class is how confidential the field is; zero is the class of the tool.
	Class sallyport.Confidentiality `json:"class,omitempty"`
}

// Format is how a tool writes its results where they are text.
type Format uint8

// The formats. The zero value is Auto.
const (
	Auto Format = iota // JSON if it is one JSON object or array, else text
	Text
	YAML
)

// Profile is what people said of a tool when it was registered.
type Profile struct {
	// Args is keyed by the name of a top-level argument; one that is not listed is an
	// Authority.
	Args   map[string]sallyport.ArgKind
	Fields []Field
	Format Format
	// Class is that of fields without their own; zero is Restricted.
	Class sallyport.Confidentiality
}

// SourceKind is where a value was found.
type SourceKind uint8

// The kinds of sources.
const (
	FromTask      SourceKind = iota + 1 // the envelope's task text
	FromEnvelope                        // its trusted values
	FromAllowList                       // a directory or list that people keep
	FromApproval                        // a person has seen the value and approved it
	FromResult                          // a field of a result
)

var sourceKinds = []string{"", "task", "envelope", "allow_list", "approval", "result"}

func (k SourceKind) String() string {
	if int(k) >= len(sourceKinds) || k == 0 {
		return "unknown"
	}
	return sourceKinds[k]
}

// MarshalText writes the kind as its name.
func (k SourceKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Source is one place at which values were found. It holds no value.
type Source struct {
	Kind SourceKind `json:"kind"`
	// Call, Upstream and Tool are of a result or approval; of an allow-list Tool is
	// its name.
	Call     sallyport.CallID     `json:"call,omitempty"`
	Upstream sallyport.UpstreamID `json:"upstream,omitempty"`
	Tool     string               `json:"tool,omitempty"`
	// Pointer is that of the leaf with "*" for places in lists, or of a whole text.
	Pointer   string              `json:"pointer,omitempty"`
	Field     FieldKind           `json:"field,omitempty"`
	Integrity sallyport.Integrity `json:"integrity"`
}

// Arg is one leaf of the arguments and where it came from.
type Arg struct {
	Pointer string            `json:"pointer"` // JSON pointer into the arguments
	Kind    sallyport.ArgKind `json:"kind"`
	Form    Form              `json:"form,omitempty"` // what the value looks like
	// Trusted is whether the value was found where people or a system put it. An
	// untrusted one with a Source was seen there; without, nobody knows.
	Trusted bool    `json:"trusted"`
	Source  *Source `json:"source,omitempty"`
	// Why says what keeps the value from being trusted, in words for people.
	Why string `json:"why,omitempty"`
}

// Facts are what is known of the arguments of one call. They hold no values but
// domains.
type Facts struct {
	// Args are the authority leaves in the order of the arguments, at most MaxArgs.
	Args []Arg `json:"args,omitempty"`
	// UntrustedArgs are the top-level arguments with an authority leaf that is not
	// trusted, sorted.
	UntrustedArgs []string `json:"untrusted_args,omitempty"`
	// Unnamed are those with an authority leaf that a system gave, and no person: which
	// of several trusted values it is was the model's choice. Sorted.
	Unnamed []string `json:"unnamed,omitempty"`
	// WordOnly are those with a trusted authority leaf of one word of the task text,
	// which a person quoted or wrote with a capital: it is less sure than two words are
	// that the person meant it so. Sorted.
	WordOnly []string `json:"word_only,omitempty"`
	// UnnamedQuantities are the top-level arguments with a quantity that no person
	// named, sorted. Many are computed; a policy asks where much depends on it.
	UnnamedQuantities []string `json:"unnamed_quantities,omitempty"`
	// UntrustedURLs counts the addresses in content of which neither the whole nor the
	// host is trusted.
	UntrustedURLs int `json:"untrusted_urls,omitempty"`
	// Leaves is the highest class of what was recognised in the arguments; Public if
	// nothing was.
	Leaves sallyport.Confidentiality `json:"leaves"`
	// Domains are those of e-mail addresses and hosts among the authority leaves,
	// sorted. NewRecipients counts the addresses among them that nothing trusted names.
	Domains       []string `json:"domains,omitempty"`
	NewRecipients int      `json:"new_recipients,omitempty"`
	// Unindexed is set when the run has read more than is indexed, or the arguments
	// were too many: what leaves may then be anything the run has read.
	Unindexed bool `json:"unindexed,omitempty"`
}

// The limits. Beyond them the judgement is strict: what was not indexed endorses
// nothing and may leave unrecognised, and [Facts.Unindexed] says so.
const (
	MaxText  = 4 << 20  // bytes of results a run
	MaxTask  = 64 << 10 // bytes of task text
	MaxArgs  = 1024     // leaves that are judged in one call
	MaxDepth = 64       // of nested arguments and results
)
