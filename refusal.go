package sallyport

// Code is the public name of a reason why a call or a command did not happen.
// Codes are snake_case and never renamed.
type Code string

// The codes. doc/refusals.md says what each means; a test holds it complete.
const (
	Unauthenticated     Code = "unauthenticated"
	NotPermitted        Code = "not_permitted"
	NotFound            Code = "not_found"
	Conflict            Code = "conflict"
	BadRequest          Code = "bad_request"
	BadConfig           Code = "bad_config"
	NoRelease           Code = "no_release"
	NoRun               Code = "no_run"
	UnknownTool         Code = "unknown_tool"
	Halted              Code = "halted"
	InvalidArguments    Code = "invalid_arguments"
	HeaderMismatch      Code = "header_mismatch"
	Denied              Code = "denied"
	PolicyError         Code = "policy_error"
	ContentDenied       Code = "content_denied"
	OverBudget          Code = "over_budget"
	RateLimited         Code = "rate_limited"
	TooBusy             Code = "too_busy"
	ApprovalRequired    Code = "approval_required"
	ToolChanged         Code = "tool_changed"
	UpstreamUnavailable Code = "upstream_unavailable"
	UpstreamProtocol    Code = "upstream_protocol"
	DeadlineExceeded    Code = "deadline_exceeded"
	RecordFailed        Code = "record_failed"
	ResultTooLarge      Code = "result_too_large"
	BindingOff          Code = "binding_off"
	WorldGap            Code = "world_gap"
	EraMismatch         Code = "era_mismatch"
	StageWall           Code = "stage_wall"
	OutcomeUnknown      Code = "outcome_unknown"
	NotReady            Code = "not_ready"
	Cancelled           Code = "cancelled"
	Internal500         Code = "internal"
)

// Refusal is the one typed reason why a call or a command did not happen. It is
// an error; whoever it reaches may act on it, so it says why and what to do, and
// nothing about the insides of the program or, to an agent, about its stage.
type Refusal struct {
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
	// Detail is for machines: policies that decided, a JSON pointer, a limit.
	Detail map[string]any `json:"detail,omitempty"`
}

func (r *Refusal) Error() string {
	if r.Hint == "" {
		return string(r.Code) + ": " + r.Reason
	}
	return string(r.Code) + ": " + r.Reason + " (" + r.Hint + ")"
}

// Refuse makes a refusal.
func Refuse(code Code, reason, hint string) *Refusal {
	return &Refusal{Code: code, Reason: reason, Hint: hint}
}
