package policy

import (
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// Convert reads arguments as a policy that takes all of context.args would have
// them.
func Convert(schema, args []byte) (types.Record, []Inexact, error) {
	s, err := argShape(&Tool{InputSchema: schema})
	if err != nil {
		return types.Record{}, nil, err
	}
	var r reader
	rec, err := r.args(args, (&touch{whole: true}).plan("args", s))
	return rec, r.inexact, err
}

// Scaled is a JSON number times 10^places.
func Scaled(raw string, places int) (int64, bool) { return scaled([]byte(raw), places) }

// Silence takes the canary's forbid out of the index.
func (s *Set) Silence() {
	for uid := range s.buckets {
		if uid.ID == canaryName+"/"+canaryCaged {
			s.buckets[uid] = s.buckets[uid][:1]
		}
	}
}

// Forget takes everything out of the index that names the action.
func (s *Set) Forget(action string) { delete(s.buckets, actionUID(action)) }

// ForgetAny takes everything out of the index that names no action.
func (s *Set) ForgetAny() { delete(s.buckets, cedar.EntityUID{}) }

// Readable reports whether the part of this package that finds places can read a
// text, and what it says if it cannot.
func Readable(text string) (ok bool, message string) {
	if _, err := parse(text); err != nil {
		return false, err.message
	}
	return true, ""
}

// Breadth is how many scopes are kept for a tool.
func (s *Set) Breadth(tool string) int {
	if kept := s.model.actions[actionUID(tool)].scopes.Load(); kept != nil {
		return len(*kept)
	}
	return 0
}

// Reader converts arguments over and over, as Decide does.
func Reader(schema []byte) func([]byte) error {
	s, err := argShape(&Tool{InputSchema: schema})
	p := (&touch{members: map[string]*touch{
		"payment": {whole: true}, "amount": {whole: true}, "fee": {whole: true}, "reason": {whole: true},
		"urgent": {whole: true}, "tags": {whole: true}, "order": {whole: true},
	}}).plan("args", s)
	var r reader
	return func(b []byte) error {
		if err == nil {
			_, err = r.args(b, p)
		}
		return err
	}
}
