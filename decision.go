package sallyport

// Decision is what policy said of one call, and why. The zero value denies.
type Decision struct {
	Allow bool `json:"allow"`
	// Reasons are all policies that determined the decision; a deny by default
	// has none.
	Reasons []Reason `json:"reasons,omitempty"`
	// Errors are evaluation errors; any of them is a deny.
	Errors []string `json:"errors,omitempty"`
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
}
