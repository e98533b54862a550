package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// idleEnd closes an implicit run after its last call.
const idleEnd = 30 * time.Minute

// runCache holds the runs that calls are being made in, so that a call of a
// known run reads nothing. Runs leave it when they end, or idle.
type runCache struct {
	mu       sync.Mutex
	open     map[sallyport.RunID]*cachedRun
	implicit map[implicitKey]*cachedRun
	opening  map[implicitKey]*sync.Mutex
}

type implicitKey struct {
	key   sallyport.KeyID
	stage sallyport.Stage
}

type cachedRun struct {
	run  *gateway.Run
	last time.Time // of a call; moves the idle end
}

func (c *runCache) init() {
	c.open, c.implicit, c.opening = map[sallyport.RunID]*cachedRun{}, map[implicitKey]*cachedRun{}, map[implicitKey]*sync.Mutex{}
}

// Open implements [gateway.Runs].
func (s *Store) Open(ctx context.Context, id sallyport.RunID, now time.Time) (*gateway.Run, error) {
	s.runs.mu.Lock()
	cached := s.runs.open[id]
	if cached != nil {
		cached.last = now
	}
	s.runs.mu.Unlock()
	if cached == nil {
		run, err := s.Run(ctx, id)
		if err != nil {
			return nil, err
		}
		if run.State != sallyport.RunOpen {
			return nil, sallyport.Refuse(sallyport.NoRun, "the run has ended", "have the host open a new run")
		}
		cached = s.runs.keep(&cachedRun{run: gateway.NewRun(*run), last: now})
	}
	if !now.Before(cached.run.Envelope.Expires) {
		return nil, sallyport.Refuse(sallyport.NoRun, "the run has expired", "have the host open a new run")
	}
	return cached.run, nil
}

// keep puts a run into the cache unless it is there.
func (c *runCache) keep(r *cachedRun) *cachedRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.open[r.run.ID]; have != nil {
		return have
	}
	c.open[r.run.ID] = r
	return r
}

// Implicit implements [gateway.Runs].
func (s *Store) Implicit(ctx context.Context, id *gateway.Identity, release sallyport.ReleaseID, stage sallyport.Stage, now time.Time) (*gateway.Run, error) {
	k := implicitKey{id.Key, stage}
	if run := s.runs.young(k, release, now); run != nil {
		return run, nil
	}
	// One caller opens; the others of the same key wait for it.
	s.runs.mu.Lock()
	opening := s.runs.opening[k]
	if opening == nil {
		opening = new(sync.Mutex)
		s.runs.opening[k] = opening
	}
	s.runs.mu.Unlock()
	opening.Lock()
	defer opening.Unlock()
	if run := s.runs.young(k, release, now); run != nil {
		return run, nil
	}
	found, err := s.openImplicit(ctx, id, release, stage, now)
	if err != nil {
		return nil, err
	}
	cached := s.runs.keep(&cachedRun{run: found, last: now})
	s.runs.mu.Lock()
	s.runs.implicit[k] = cached
	s.runs.mu.Unlock()
	return cached.run, nil
}

func (c *runCache) young(k implicitKey, release sallyport.ReleaseID, now time.Time) *gateway.Run {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.implicit[k]
	if r == nil || r.run.Release != release || now.Sub(r.last) >= idleEnd {
		return nil
	}
	r.last = now
	return r.run
}

// openImplicit continues the key's run that this program does not have in
// memory, or ends the one that has been idle and opens another.
func (s *Store) openImplicit(ctx context.Context, id *gateway.Identity, release sallyport.ReleaseID, stage sallyport.Stage, now time.Time) (*gateway.Run, error) {
	var changes []control.Change
	runs, err := s.queryRuns(ctx, `WHERE opened_by = $1 AND stage = $2 AND implicit AND state = 1 ORDER BY id DESC`, string(id.Key), int64(stage))
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		last := r.LastCall
		s.runs.mu.Lock()
		if c := s.runs.open[r.ID]; c != nil && c.last.After(last) {
			last = c.last
		}
		s.runs.mu.Unlock()
		if r.Release == release && now.Sub(last) < idleEnd {
			return gateway.NewRun(r), nil
		}
		changes = append(changes, control.EndRun{ID: r.ID, At: now})
	}
	var random, random2 [10]byte
	rand.Read(random[:])
	rand.Read(random2[:])
	run := sallyport.Run{
		ID: sallyport.RunID(sallyport.MakeID("run", now, random)), Agent: id.Agent, Release: release, Stage: stage,
		State: sallyport.RunOpen, Implicit: true, OpenedBy: id.Key, Opened: now, LastCall: now,
		Labels:   sallyport.NewLabels(),
		Envelope: sallyport.Envelope{Expires: now.AddDate(100, 0, 0)}, // it ends by idling
	}
	changes = append(changes, control.PutRun{Run: run})
	record := &audit.Record{
		ID: sallyport.MakeID("rec", now, random2), Time: now.UnixMicro(), Kind: audit.RunOpened, Run: run.ID, Stage: stage,
		Principal: &audit.Principal{Agent: id.Agent, Release: release, Key: id.Key},
		Detail:    []byte(`{"implicit":true}`),
	}
	if err := s.Commit(ctx, record, changes...); err != nil {
		return nil, err
	}
	for _, c := range changes {
		if end, ok := c.(control.EndRun); ok {
			s.Forget(end.ID)
		}
	}
	return gateway.NewRun(run), nil
}

// Forget drops a run that has ended from memory.
func (s *Store) Forget(id sallyport.RunID) {
	s.runs.mu.Lock()
	if c := s.runs.open[id]; c != nil && c.run.Implicit {
		k := implicitKey{c.run.OpenedBy, c.run.Stage}
		if s.runs.implicit[k] == c {
			delete(s.runs.implicit, k)
			delete(s.runs.opening, k)
		}
	}
	delete(s.runs.open, id)
	s.runs.mu.Unlock()
	s.dataKeys.Delete(id)
}

// Sweep forgets runs that have not been called for the idle end, and ends those
// that have expired, recording each. It returns how many ended.
func (s *Store) Sweep(ctx context.Context) (int, error) {
	now := s.Now()
	s.runs.mu.Lock()
	var idle []sallyport.RunID
	for id, c := range s.runs.open {
		if now.Sub(c.last) >= idleEnd {
			idle = append(idle, id)
		}
	}
	s.runs.mu.Unlock()
	for _, id := range idle {
		s.Forget(id)
	}
	open, err := s.queryRuns(ctx, `WHERE state = 1 AND opened < $1 ORDER BY id LIMIT 1000`, micros(now.Add(-time.Minute)))
	if err != nil {
		return 0, err
	}
	ended := 0
	for _, r := range open {
		over := !now.Before(r.Envelope.Expires)
		if r.Implicit {
			over = now.Sub(r.LastCall) >= idleEnd
		}
		if !over {
			continue
		}
		var random [10]byte
		rand.Read(random[:])
		record := &audit.Record{
			ID: sallyport.MakeID("rec", now, random), Time: now.UnixMicro(), Kind: audit.RunClosed, Run: r.ID, Stage: r.Stage,
			Principal: &audit.Principal{Agent: r.Agent, Release: r.Release, Key: r.OpenedBy}, Detail: []byte(`{"expired":true}`),
		}
		if err := s.Commit(ctx, record, control.EndRun{ID: r.ID, At: now}); err != nil {
			return ended, err
		}
		s.Forget(r.ID)
		ended++
	}
	return ended, nil
}

// Run returns a run as it is stored, or a refusal with code no_run.
func (s *Store) Run(ctx context.Context, id sallyport.RunID) (*sallyport.Run, error) {
	runs, err := s.queryRuns(ctx, `WHERE id = $1`, string(id))
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		return nil, sallyport.Refuse(sallyport.NoRun, "there is no run "+string(id), "have the host open a run")
	}
	return &runs[0], nil
}

// Runs returns runs, newest first, below an id ("" for the newest).
func (s *Store) Runs(ctx context.Context, below sallyport.RunID, limit int) ([]sallyport.Run, error) {
	if below == "" {
		below = "run_~"
	}
	return s.queryRuns(ctx, `WHERE id < $1 ORDER BY id DESC LIMIT $2`, string(below), limit)
}

func (s *Store) queryRuns(ctx context.Context, where string, args ...any) ([]sallyport.Run, error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT id, agent, release, stage, state, implicit, opened_by, envelope, opened,
		last_call, closed, integrity, confidentiality, calls, close FROM runs `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []sallyport.Run
	for rows.Next() {
		var r sallyport.Run
		var envelope []byte
		var opened, last, closed int64
		var end string
		if err := rows.Scan(&r.ID, &r.Agent, &r.Release, &r.Stage, &r.State, &r.Implicit, &r.OpenedBy, &envelope, &opened,
			&last, &closed, &r.Labels.Integrity, &r.Labels.Confidentiality, &r.Calls, &end); err != nil {
			return nil, err
		}
		r.Opened, r.LastCall, r.Closed = fromMicros(opened), fromMicros(last), fromMicros(closed)
		if end != "" {
			if err := json.Unmarshal([]byte(end), &r.Close); err != nil {
				return nil, fmt.Errorf("run %s: close: %w", r.ID, err)
			}
		}
		if err := s.openEnvelope(&r, envelope); err != nil {
			return nil, fmt.Errorf("run %s: %w", r.ID, err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// openEnvelope decrypts what the host said of a run; an erased one is empty.
func (s *Store) openEnvelope(r *sallyport.Run, sealed []byte) error {
	_, kept := s.dataKeys.Load(r.ID)
	key, err := s.dataKey(r.ID)
	var refusal *sallyport.Refusal
	if errors.As(err, &refusal) {
		return nil
	}
	if err != nil {
		return err
	}
	if !kept { // looking at a run must not keep its key in memory
		defer s.dataKeys.Delete(r.ID)
	}
	plain, err := openBytes(key, sealed, []byte(r.ID))
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, &r.Envelope)
}
