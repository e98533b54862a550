package sallyport

// Decision is what policy said of one call, and why. The zero value denies.
type Decision struct {
	Allow bool `json:"allow"`
	// Held: it would be allowed but for policies that let people decide. Each of the
	// Reasons is one of them, and says in its Need who.
	Held bool `json:"held,omitempty"`
	// Reasons are all policies that determined the decision; a deny by default
	// has none.
	Reasons []Reason `json:"reasons,omitempty"`
	// Errors are evaluation errors; any of them is a deny.
	Errors []string `json:"errors,omitempty"`
	// Logged are policies that would have determined it if they were enforced.
	Logged []Reason `json:"logged,omitempty"`
}

// Needs are what it takes for a call that is held to go on.
func (d *Decision) Needs() []Need {
	var needs []Need
	for i := range d.Reasons {
		if n := d.Reasons[i].Need; n != nil {
			needs = append(needs, *n)
		}
	}
	return needs
}

// Reason is one policy that determined a decision.
type Reason struct {
	// Policy is the policy's @id, or "<path>#<n>" for the n-th policy of a file.
	Policy string `json:"policy"`
	Effect string `json:"effect"` // "permit" or "forbid"
	// Says is the policy's @reason annotation, if any: text for whoever is refused.
	Says string `json:"says,omitempty"`
	// Hint is the policy's @hint annotation, if any: what to do instead.
	Hint string `json:"hint,omitempty"`
	// Need is who may lift the policy for one call, of one that says @on_deny("approval").
	// The policy's digest is in the record, and so it is not.
	Need *Need `json:"-"`
}
