package gateway

import (
	"fmt"
	"regexp"
	"slices"

	"sallyport"
	"sallyport/internal/policy"
	"sallyport/internal/wire"
)

// What an agent may say of a call in params._meta. Policy is told; an agent that says
// nothing has declared nothing.
const (
	MetaConfidence = "sallyport/confidence" // a number from 0 to 1
	MetaMissing    = "sallyport/missing"    // names of what it would have needed to know
)

// mostMissing bounds what is declared missing. Records hold it, so it is names, not texts.
const mostMissing = 32

var missingForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$`)

// declared is what the agent says of its call.
func declared(x *Exchange) (d policy.Declared, err error) {
	if !x.Message.Meta.Present() {
		return d, nil
	}
	meta := x.Message.Meta.Of(x.Message.Raw)
	bad := func(name, want string) error {
		return sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%s in _meta is not %s", name, want), "correct it or leave it out")
	}
	if raw, ok, err := wire.Field(meta, MetaConfidence); err != nil {
		return d, err
	} else if ok {
		a, err := sallyport.ParseAmount(string(raw))
		if err != nil || a > sallyport.Unit || raw[0] < '0' || raw[0] > '9' {
			return d, bad(MetaConfidence, "a number from 0 to 1 with at most 4 decimal places")
		}
		d.Confidence = new(int(a * 1000 / sallyport.Unit))
	}
	raw, ok, err := wire.Field(meta, MetaMissing)
	if err != nil || !ok {
		return d, err
	}
	names, err := wire.Strings(raw)
	if err != nil || len(names) > mostMissing || slices.ContainsFunc(names, func(s string) bool { return !missingForm.MatchString(s) }) {
		return d, bad(MetaMissing, fmt.Sprintf("a list of at most %d names, each of up to 64 letters, digits, dots, dashes, slashes and underscores", mostMissing))
	}
	slices.Sort(names)
	d.Missing = slices.Compact(names)
	return d, nil
}
