package control

import (
	"context"
	"slices"
	"time"

	"sallyport"
	"sallyport/internal/audit"
)

// lookers are the roles that may look at what has been decided and recorded:
// all of them. A person without any role sees nothing.
var lookers = []sallyport.Role{
	sallyport.Viewer, sallyport.Developer, sallyport.Reviewer, sallyport.Approver, sallyport.Operator, sallyport.Auditor,
}

// Look refuses a person who holds no role.
func Look(by *sallyport.Person) error { return needs(by, "look at this installation", lookers...) }

// payloadReaders are the roles that may read what was sent and answered in a
// stage, and what a host said of a run there. A sandbox holds no real data; who
// answers for a call in the other stages may see what it was about. A stage that
// is not listed is read by nobody.
var payloadReaders = map[sallyport.Stage][]sallyport.Role{
	sallyport.Sandbox:    {sallyport.Developer, sallyport.Reviewer, sallyport.Approver, sallyport.Operator, sallyport.Auditor},
	sallyport.Staging:    {sallyport.Developer, sallyport.Approver, sallyport.Operator, sallyport.Auditor},
	sallyport.Production: {sallyport.Approver, sallyport.Operator, sallyport.Auditor},
}

// ReadPayloads refuses a person who may not read the payloads of a stage.
func ReadPayloads(by *sallyport.Person, stage sallyport.Stage) error {
	roles, ok := payloadReaders[stage]
	if !ok {
		return sallyport.Refuse(sallyport.NotPermitted, "payloads of no known stage are read by nobody", "")
	}
	return needs(by, "read payloads of "+stage.String(), roles...)
}

// PayloadsRead records that a person reads what a call was sent and answered. Nobody
// is shown anything before it returns, and nothing if it is an error. Lines without
// a payload say nothing; if none has one, nothing is recorded.
func (c *Control) PayloadsRead(ctx context.Context, by *sallyport.Person, call *Call, lines []Line) error {
	var opened []int64
	for _, l := range lines {
		if len(l.Arguments) > 0 || len(l.Result) > 0 {
			opened = append(opened, l.Sequence)
		}
	}
	if len(opened) == 0 {
		return nil
	}
	record, err := c.record(audit.PayloadsRead, by.ID, map[string]any{"records": opened})
	if err != nil {
		return err
	}
	record.Run, record.Call, record.Stage, record.Upstream, record.Tool = call.Run, call.ID, call.Stage, call.Upstream, call.Tool
	return c.Book.Commit(ctx, record)
}

// RunFilter says which runs a listing shows; a zero field asks for nothing.
type RunFilter struct {
	Agent   sallyport.AgentID
	Release sallyport.ReleaseID
	Stage   sallyport.Stage
	State   sallyport.RunState
	Outcome string    // what the host said when it closed the run
	Since   time.Time // opened at or after
	Until   time.Time // opened before
}

// RecordFilter says which records or calls a listing shows; a zero field asks
// for nothing.
type RecordFilter struct {
	Run      sallyport.RunID
	Agent    sallyport.AgentID
	Release  sallyport.ReleaseID
	Stage    sallyport.Stage
	Upstream sallyport.UpstreamID
	Tool     string
	Outcome  sallyport.Outcome
	Decision string    // "allow" or "deny"
	Since    time.Time // recorded at or after
	Until    time.Time // recorded before
}

// Call is one call as its records tell it.
type Call struct {
	ID  sallyport.CallID `json:"id"`
	Run sallyport.RunID  `json:"run,omitempty"` // absent if it was refused before a run was known
	// Sequence is that of the record it is listed by: the one that says how it
	// ended, or its intent while it is in flight.
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"` // when it began
	InFlight bool      `json:"in_flight,omitempty"`

	Agent    sallyport.AgentID    `json:"agent,omitempty"`
	Release  sallyport.ReleaseID  `json:"release,omitempty"`
	Key      sallyport.KeyID      `json:"key,omitempty"`
	Person   string               `json:"person,omitempty"` // a pseudonym
	Stage    sallyport.Stage      `json:"stage,omitempty"`
	Upstream sallyport.UpstreamID `json:"upstream,omitempty"`
	Tool     string               `json:"tool,omitempty"`
	Method   string               `json:"method,omitempty"`
	Kind     sallyport.Kind       `json:"kind,omitempty"`
	Access   sallyport.Access     `json:"access,omitempty"`
	Binding  sallyport.Binding    `json:"binding,omitempty"`
	Grade    sallyport.Grade      `json:"grade,omitempty"`

	// Decision is "allow" or "deny", or absent if policy was not asked.
	Decision string             `json:"decision,omitempty"`
	Policies []sallyport.Reason `json:"policies,omitempty"`
	Outcome  sallyport.Outcome  `json:"outcome,omitempty"` // absent while in flight
	// Settled is what a person found out about an unknown outcome: "happened" or
	// "did-not-happen".
	Settled        string             `json:"settled,omitempty"`
	Refusal        *sallyport.Refusal `json:"refusal,omitempty"`
	LatencyMicros  int64              `json:"latency_micros,omitempty"`
	UpstreamMicros int64              `json:"upstream_micros,omitempty"`
	Redactions     []string           `json:"redactions,omitempty"`
}

// Line is a record of the log with its place.
type Line struct {
	Sequence int64
	Body     []byte // its exact bytes: the leaf is made of them
	// Arguments and Result are what the record commits to, where it was asked for
	// and is not erased.
	Arguments, Result []byte
}

// Registered is a release with when it was applied.
type Registered struct {
	*sallyport.Release
	At time.Time
}

// Waiting reports whether an unknown outcome is among those a filter asks for.
func (f *RecordFilter) Waiting(u *Unknown) bool {
	return fits(f.Run, u.Run) && fits(f.Agent, u.Agent) && fits(f.Stage, u.Stage) && fits(f.Upstream, u.Upstream) && fits(f.Tool, u.Tool) &&
		f.Between(u.At)
}

// Fits reports whether a call is among those a filter asks for.
func (f *RecordFilter) Fits(c *Call) bool {
	return fits(f.Run, c.Run) && fits(f.Agent, c.Agent) && fits(f.Release, c.Release) && fits(f.Stage, c.Stage) &&
		fits(f.Upstream, c.Upstream) && fits(f.Tool, c.Tool) && fits(f.Outcome, c.Outcome) && fits(f.Decision, c.Decision)
}

// Between reports whether a time lies in the filter's.
func (f *RecordFilter) Between(at time.Time) bool {
	return (f.Since.IsZero() || !at.Before(f.Since)) && (f.Until.IsZero() || at.Before(f.Until))
}

func fits[T comparable](want, have T) bool {
	var zero T
	return want == zero || want == have
}

// Runs lists the stages whose pointer is at a release, in order of promotion.
func (d *Decided) Runs(r *sallyport.Release) []sallyport.Stage {
	stages := []sallyport.Stage{}
	for _, p := range d.Pointers {
		if p.Release == r.ID && p.Agent == r.Agent {
			stages = append(stages, p.Stage)
		}
	}
	slices.Sort(stages)
	return stages
}
