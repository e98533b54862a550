package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

const (
	// maxExamined bounds the records that one page looks at. A page that reaches
	// it may hold fewer than were asked for, or none, and is continued.
	maxExamined = 20_000
	// disorder is how far the times of records may be out of the order of the
	// log: a record is given its time before its place.
	disorder = 10 * time.Minute
	// longestCall is how long after its beginning a call may be recorded first.
	longestCall = 3 * time.Hour
)

// ListRecords returns records, of one kind unless it is empty, below a sequence
// (-1 for the newest), newest first, and below which sequence to continue, -1 if
// there are no more.
func (s *Store) ListRecords(ctx context.Context, kind audit.Kind, f control.RecordFilter, below int64, limit int) ([]control.Line, int64, error) {
	s.sequenced()
	var out []control.Line
	next, err := s.scan(ctx, s.readers, f, below, func(l Line, r *audit.Record) (bool, error) {
		c := callOf(l.Sequence, r)
		if kind != "" && kind != r.Kind || !f.Fits(&c) || !f.Between(fromMicros(r.Time)) {
			return true, nil
		}
		if len(out) == limit {
			return false, nil
		}
		out = append(out, control.Line{Sequence: l.Sequence, Body: l.Body})
		return true, nil
	})
	return out, next, err
}

// ListCalls returns calls below a sequence (-1 for the newest), newest first by
// the record that says how they ended, calls in flight by their intent; and
// below which sequence to continue, -1 if there are no more.
func (s *Store) ListCalls(ctx context.Context, f control.RecordFilter, below int64, limit int) ([]control.Call, int64, error) {
	s.sequenced()
	// One read transaction, so that a call that ends meanwhile is not seen twice.
	tx, err := s.readers.BeginTx(ctx, s.db.dialect().snapshot)
	if err != nil {
		return nil, 0, err
	}
	defer tx.Rollback()
	open, settled, err := s.intentsOf(ctx, tx)
	if err != nil {
		return nil, 0, err
	}
	var out []control.Call
	next, err := s.scan(ctx, tx, f, below, func(l Line, r *audit.Record) (bool, error) {
		if r.Kind != audit.Outcome && r.Kind != audit.Unknown && (r.Kind != audit.Intent || !open[r.Call]) {
			return true, nil
		}
		c := callOf(l.Sequence, r)
		if r.Kind == audit.Unknown || r.Outcome == sallyport.OutcomeUnsettled && settled(r.Call) {
			// What the record does not say itself stands in others of the run.
			if err := complete(ctx, tx, &c, r.Kind); err != nil {
				return false, err
			}
		}
		if !f.Fits(&c) || !f.Between(fromMicros(r.Time)) {
			return true, nil
		}
		if len(out) == limit {
			return false, nil
		}
		out = append(out, c)
		return true, nil
	})
	return out, next, err
}

// intentsOf returns the calls in flight, and whether an unknown outcome has been
// settled. What the newest records say is not in the table yet: see late.
func (s *Store) intentsOf(ctx context.Context, q querier) (open map[sallyport.CallID]bool, settled func(sallyport.CallID) bool, err error) {
	open, unknown := map[sallyport.CallID]bool{}, map[sallyport.CallID]bool{}
	var written int64
	if err := q.QueryRowContext(ctx, `SELECT written FROM `+s.db.dialect().progress).Scan(&written); err != nil {
		return nil, nil, err
	}
	err = each(ctx, q, `SELECT call, boot FROM intents`, func(scan func(...any) error) error {
		var call sallyport.CallID
		var boot string
		err := scan(&call, &boot)
		if boot == "" {
			unknown[call] = true
		} else {
			open[call] = true
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = eachRecord(ctx, q, written, math.MaxInt64, func(seq int64, body []byte) error {
		r, err := audit.ParseRecord(body)
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		switch r.Kind {
		case audit.Intent:
			open[r.Call] = true
		case audit.Outcome, audit.Unknown:
			delete(open, r.Call)
			unknown[r.Call] = r.Outcome == sallyport.OutcomeUnsettled
		}
		return nil
	})
	return open, func(c sallyport.CallID) bool { return !unknown[c] }, err
}

// scan hands records below a sequence to fn, newest first, until fn returns
// false, which leaves that record to the next page. It returns below which
// sequence to continue, or -1 at the end.
func (s *Store) scan(ctx context.Context, q querier, f control.RecordFilter, below int64, fn func(Line, *audit.Record) (bool, error)) (int64, error) {
	if below < 0 {
		below = math.MaxInt64
	}
	if !f.Until.IsZero() {
		at, err := sequenceAt(ctx, q, f.Until.Add(disorder))
		if err != nil {
			return 0, err
		}
		below = min(below, at)
	}
	query, args := `SELECT seq, body FROM records WHERE seq < $1 ORDER BY seq DESC LIMIT $2`, []any{nil, nil}
	if f.Run != "" {
		query, args = `SELECT seq, body FROM records WHERE seq < $1 AND run = $3 AND run <> '' ORDER BY seq DESC LIMIT $2`, []any{nil, nil, string(f.Run)}
	}
	for examined := 0; examined < maxExamined; {
		const chunk = 500
		args[0], args[1] = below, chunk
		// Read first, judge then: fn may ask the same connection.
		lines, err := readLines(ctx, q, query, args...)
		if err != nil {
			return 0, err
		}
		for _, l := range lines {
			r, err := audit.ParseRecord(l.Body)
			if err != nil {
				return 0, fmt.Errorf("record %d: %w", l.Sequence, err)
			}
			if !f.Since.IsZero() && fromMicros(r.Time).Before(f.Since.Add(-disorder)) {
				return -1, nil
			}
			more, err := fn(l, r)
			if err != nil {
				return 0, err
			}
			if !more {
				return below, nil
			}
			below = l.Sequence
		}
		if len(lines) < chunk {
			return -1, nil
		}
		examined += len(lines)
	}
	return below, nil
}

func readLines(ctx context.Context, q querier, query string, args ...any) ([]Line, error) {
	var out []Line
	err := each(ctx, q, query, func(scan func(...any) error) error {
		var l Line
		err := scan(&l.Sequence, &l.Body)
		out = append(out, l)
		return err
	}, args...)
	return out, err
}

// sequenceAt is about the first record that was made at or after a time: up to
// the disorder of the log.
func sequenceAt(ctx context.Context, q querier, at time.Time) (int64, error) {
	var low int64
	high, err := countRecords(ctx, q)
	if err != nil {
		return 0, err
	}
	for low < high {
		middle := low + (high-low)/2
		var body []byte
		if err := q.QueryRowContext(ctx, `SELECT body FROM records WHERE seq = $1`, middle).Scan(&body); err != nil {
			return 0, fmt.Errorf("record %d: %w", middle, err)
		}
		r, err := audit.ParseRecord(body)
		if err != nil {
			return 0, fmt.Errorf("record %d: %w", middle, err)
		}
		if r.Time < at.UnixMicro() {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// callOf is a call as one of its records tells it.
func callOf(sequence int64, r *audit.Record) control.Call {
	c := control.Call{
		ID: r.Call, Run: r.Run, Sequence: sequence, At: fromMicros(r.Time - r.LatencyMicros), InFlight: r.Kind == audit.Intent,
		Stage: r.Stage, Upstream: r.Upstream, Tool: r.Tool, Method: r.Method, Kind: r.CallKind, Access: r.Access,
		Binding: r.Binding, Grade: r.Grade, Outcome: r.Outcome, Refusal: r.Refusal,
		LatencyMicros: r.LatencyMicros, UpstreamMicros: r.UpstreamMicros, Redactions: r.Redactions,
	}
	if p := r.Principal; p != nil {
		c.Agent, c.Release, c.Key, c.Person = p.Agent, p.Release, p.Key, p.Person
	}
	switch d := r.Decision; {
	case d != nil && d.Allow:
		c.Decision, c.Policies = "allow", d.Reasons
	case d != nil:
		c.Decision, c.Policies = "deny", d.Reasons
	case r.Refusal != nil && (r.Refusal.Code == sallyport.Denied || r.Refusal.Code == sallyport.PolicyError):
		c.Decision = "deny" // by default: no policy determined it
	}
	return c
}

// complete adds to an unknown call what its settlement says and, if the program
// ended before it had an outcome, what its intent says.
func complete(ctx context.Context, q querier, c *control.Call, kind audit.Kind) error {
	lines, err := readLines(ctx, q, `SELECT seq, body FROM records WHERE run = $1 AND run <> '' ORDER BY seq`, string(c.Run))
	if err != nil {
		return err
	}
	for _, l := range lines {
		r, err := audit.ParseRecord(l.Body)
		if err != nil {
			return fmt.Errorf("record %d: %w", l.Sequence, err)
		}
		switch {
		case r.Call != c.ID:
		case r.Kind == audit.Intent && kind == audit.Unknown:
			intent := callOf(c.Sequence, r)
			intent.InFlight, intent.Outcome = false, c.Outcome
			*c = intent
		case r.Kind == audit.Settled:
			var detail struct {
				As string `json:"as"`
			}
			if err := json.Unmarshal(r.Detail, &detail); err != nil {
				return fmt.Errorf("record %d: %w", l.Sequence, err)
			}
			c.Settled = detail.As
		}
	}
	return nil
}

// Call returns a call and its records in order, or a refusal with code not_found.
// If may is not nil, what the records commit to is opened, as far as it is not
// erased; may is asked for the call's stage first, and its refusal returned.
func (s *Store) Call(ctx context.Context, id sallyport.CallID, may func(sallyport.Stage) error) (*control.Call, []control.Line, error) {
	s.sequenced()
	first, err := s.firstOf(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	r, err := audit.ParseRecord(first.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("record %d: %w", first.Sequence, err)
	}
	if may != nil {
		if err := may(r.Stage); err != nil {
			return nil, nil, err
		}
	}
	c := callOf(first.Sequence, r)
	if r.Run == "" { // refused before it had one: that record is all there is
		return &c, []control.Line{{Sequence: first.Sequence, Body: first.Body}}, nil
	}
	lines, err := s.Trace(ctx, r.Run, id, may != nil)
	if err != nil {
		return nil, nil, err
	}
	out := make([]control.Line, len(lines))
	var ended audit.Kind
	for i, l := range lines {
		out[i] = control.Line{Sequence: l.Sequence, Body: l.Body}
		if l.Payload != nil {
			out[i].Arguments, out[i].Result = l.Payload.Arguments, l.Payload.Result
		}
		r, err := audit.ParseRecord(l.Body)
		if err != nil {
			return nil, nil, fmt.Errorf("record %d: %w", l.Sequence, err)
		}
		if r.Kind == audit.Outcome || r.Kind == audit.Unknown {
			c, ended = callOf(l.Sequence, r), r.Kind
		}
	}
	if c.Outcome == sallyport.OutcomeUnsettled {
		err = complete(ctx, s.readers, &c, ended)
	}
	return &c, out, err
}

// firstOf finds the first record of a call. A call's id holds the moment it
// began, and its first record is not made long after it. Where clocks have been
// wrong, the whole log is looked through.
func (s *Store) firstOf(ctx context.Context, id sallyport.CallID) (*Line, error) {
	none := sallyport.Refuse(sallyport.NotFound, "no record of call "+string(id), "calls list shows the calls there are")
	began, ok := sallyport.TimeOfID("call", string(id))
	if !ok {
		return nil, none
	}
	at, err := sequenceAt(ctx, s.readers, began.Add(-disorder))
	if err != nil {
		return nil, err
	}
	for over := false; ; {
		const chunk = 500
		lines, err := readLines(ctx, s.readers, `SELECT seq, body FROM records WHERE seq >= $1 ORDER BY seq LIMIT $2`, at, chunk)
		if err != nil {
			return nil, err
		}
		for i, l := range lines {
			r, err := audit.ParseRecord(l.Body)
			if err != nil {
				return nil, fmt.Errorf("record %d: %w", l.Sequence, err)
			}
			if r.Call == id {
				return &lines[i], nil
			}
			over = fromMicros(r.Time).After(began.Add(longestCall + disorder))
			at = l.Sequence + 1
		}
		if over || len(lines) < chunk {
			break
		}
	}
	return nil, none
}

// ListRuns returns runs below an id ("" for the newest), newest first.
func (s *Store) ListRuns(ctx context.Context, f control.RunFilter, below sallyport.RunID, limit int) ([]sallyport.Run, error) {
	s.catchUp()
	if below == "" {
		below = "run_~"
	}
	until := int64(math.MaxInt64)
	if !f.Until.IsZero() {
		until = micros(f.Until)
	}
	closed := ""
	if f.Outcome != "" { // the column is what endRun wrote, which begins so
		name, err := json.Marshal(f.Outcome)
		if err != nil {
			return nil, err
		}
		closed = `{"outcome":` + string(name)
	}
	return s.queryRuns(ctx, `WHERE id < $1 AND ($2 = '' OR agent = $2) AND ($3 = '' OR release = $3) AND ($4 = 0 OR stage = $4)
		AND ($5 = 0 OR state = $5) AND ($6 = '' OR substr(close, 1, length($6)) = $6) AND opened >= $7 AND opened < $8 ORDER BY id DESC LIMIT $9`,
		string(below), string(f.Agent), string(f.Release), int64(f.Stage), int64(f.State), closed, micros(f.Since), until, limit)
}

// ListReleases returns registered releases, newest first, of one agent unless
// that is empty, beginning below the one that was applied at a time with a
// digest (the zero values for the newest).
func (s *Store) ListReleases(ctx context.Context, agent sallyport.AgentID, at time.Time, digest sallyport.ReleaseID, limit int) ([]control.Registered, error) {
	below := micros(at)
	if at.IsZero() {
		below = math.MaxInt64
	}
	var out []control.Registered
	enough := errors.New("enough")
	err := each(ctx, s.readers, `SELECT digest, body, at FROM versions WHERE kind = $1 AND (at < $2 OR at = $2 AND digest > $3) ORDER BY at DESC, digest`, func(scan func(...any) error) error {
		var id sallyport.ReleaseID
		var body []byte
		var applied int64
		if err := scan(&id, &body, &applied); err != nil {
			return err
		}
		r := control.Registered{Release: new(sallyport.Release), At: fromMicros(applied)}
		if err := json.Unmarshal(body, r.Release); err != nil {
			return fmt.Errorf("release %s: %w", id.Short(), err)
		}
		if agent == "" || r.Agent == agent {
			out = append(out, r)
		}
		if len(out) == limit {
			return enough
		}
		return nil
	}, string(control.ReleaseVersion), below, string(digest))
	if errors.Is(err, enough) {
		err = nil
	}
	return out, err
}

// Applied returns a release with when it was applied, or a refusal with code
// no_release.
func (s *Store) Applied(ctx context.Context, id sallyport.ReleaseID) (*control.Registered, error) {
	s.sequenced()
	r, err := s.Release(ctx, id)
	if err != nil {
		return nil, err
	}
	var at int64
	err = s.readers.QueryRowContext(ctx, `SELECT at FROM versions WHERE kind = $1 AND digest = $2`, string(control.ReleaseVersion), string(id)).Scan(&at)
	return &control.Registered{Release: r, At: fromMicros(at)}, err
}

// ListKeys returns keys that are not run tokens, newest first, of one agent and
// kind unless those are empty, beginning below the one made at a time with an id
// (the zero values for the newest).
func (s *Store) ListKeys(ctx context.Context, agent sallyport.AgentID, kind sallyport.KeyKind, made time.Time, id sallyport.KeyID, limit int) ([]control.Key, error) {
	below := micros(made)
	if made.IsZero() {
		below = math.MaxInt64
	}
	return queryKeys(ctx, s.readers, keyColumns+`WHERE run = '' AND ($1 = '' OR agent = $1) AND ($2 = 0 OR kind = $2)
		AND (made < $3 OR made = $3 AND id > $4) ORDER BY made DESC, id LIMIT $5`, string(agent), int64(kind), below, string(id), limit)
}

// answerAge is how long an answer is kept.
const answerAge = 24 * time.Hour

// Reserve makes a durable place for the answer of a request, or returns what is
// in it: an answer, or nothing with status zero. An answer is as good as gone
// after 24 hours.
func (s *Store) Reserve(ctx context.Context, a control.Answer) (*control.Answer, error) {
	a.Status, a.Body = 0, []byte{}
	err := s.Commit(ctx, nil, control.PutAnswer{Answer: a})
	if err == nil {
		return nil, nil
	}
	if refusal, ok := errors.AsType[*sallyport.Refusal](err); !ok || refusal.Code != sallyport.Conflict {
		return nil, err
	}
	there := &control.Answer{Key: a.Key}
	var at int64
	if err := s.readers.QueryRowContext(ctx, `SELECT request, status, body, at FROM answers WHERE key = $1`, a.Key).Scan(&there.Request, &there.Status, &there.Body, &at); err != nil {
		return nil, s.unread(fmt.Errorf("answer: %w", err))
	}
	there.At = fromMicros(at)
	return there, nil
}

// Keep puts an answer into the place that was reserved for it.
func (s *Store) Keep(ctx context.Context, a control.Answer) error {
	if a.Status == 0 {
		return errors.New("an answer needs a status")
	}
	return s.Commit(ctx, nil, control.PutAnswer{Answer: a})
}

// SweepAnswers forgets the answers of more than 24 hours ago.
func (s *Store) SweepAnswers(ctx context.Context) error {
	return s.Commit(ctx, nil, control.DropAnswers{Before: s.Now().Add(-answerAge)})
}

func (t *transaction) putAnswer(a control.Answer) error {
	if a.Status == 0 {
		taken := sallyport.Refuse(sallyport.Conflict, "a request with this idempotency key has been made", "")
		return t.affect(taken, `INSERT INTO answers (key, request, status, body, at) VALUES ($1, $2, 0, $3, $4)
			ON CONFLICT (key) DO UPDATE SET request = excluded.request, status = 0, body = excluded.body, at = excluded.at WHERE answers.at <= $5`,
			a.Key, a.Request, a.Body, micros(a.At), micros(a.At.Add(-answerAge)))
	}
	gone := sallyport.Refuse(sallyport.NotFound, "the place of an answer is gone", "")
	return t.affect(gone, `UPDATE answers SET status = $1, body = $2, at = $3 WHERE key = $4 AND request = $5 AND status = 0`,
		a.Status, a.Body, micros(a.At), a.Key, a.Request)
}
