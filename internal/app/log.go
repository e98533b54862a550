package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/audit"
	"sallyport/internal/auth"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/store"
)

// Log is the log of a project directory, read beside a running server or without
// one. Close it.
type Log struct {
	*store.Store
	ring *auth.Ring
	// Progress, if not nil, is called now and then with the records exported so
	// far and those there are.
	Progress func(done, total int64)
}

// OpenLogFiles opens the log of a project directory to read it.
func OpenLogFiles(ctx context.Context, dir string) (*Log, error) {
	s, ring, err := OpenLog(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Log{Store: s, ring: ring}, nil
}

// Newest returns the newest records that fit, the newest first; more says that
// there are others.
func (l *Log) Newest(ctx context.Context, kind audit.Kind, f control.RecordFilter, limit int) (records []api.Record, more bool, err error) {
	records = []api.Record{}
	for below := int64(-1); len(records) < limit; {
		lines, next, err := l.ListRecords(ctx, kind, f, below, limit-len(records))
		if err != nil {
			return nil, false, err
		}
		for _, line := range lines {
			records = append(records, api.Record{Sequence: line.Sequence, Body: line.Body})
		}
		if next < 0 {
			return records, false, nil
		}
		below, more = next, true
	}
	return records, more, nil
}

// Follow calls emit with records that fit and follow those seen, as they are
// committed, until ctx ends.
func (l *Log) Follow(ctx context.Context, kind audit.Kind, f control.RecordFilter, seen []api.Record, emit func([]api.Record) error) error {
	const often = 300 * time.Millisecond
	next := l.Size() // when it was opened
	for _, r := range seen {
		next = max(next, r.Sequence+1)
	}
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		var found []api.Record
		err := l.Records(ctx, next, math.MaxInt64, func(seq int64, body []byte) error {
			next = seq + 1
			r, err := audit.ParseRecord(body)
			if err != nil {
				return err
			}
			if fits(&f, r) && (kind == "" || kind == r.Kind) {
				found = append(found, api.Record{Sequence: seq, Body: body})
			}
			return nil
		})
		if err == nil && len(found) > 0 {
			err = emit(found)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func fits(f *control.RecordFilter, r *audit.Record) bool {
	c := control.Call{Run: r.Run, Stage: r.Stage, Upstream: r.Upstream, Tool: r.Tool, Outcome: r.Outcome}
	if r.Principal != nil {
		c.Agent, c.Release = r.Principal.Agent, r.Principal.Release
	}
	return f.Fits(&c) && f.Between(time.UnixMicro(r.Time))
}

// Trace returns the records of a run or a call, in order; a refusal with code
// not_found if there are none.
func (l *Log) Trace(ctx context.Context, id string) ([]api.Record, error) {
	var found []api.Record
	if strings.HasPrefix(id, "call_") {
		_, lines, err := l.Call(ctx, sallyport.CallID(id), nil)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			found = append(found, api.Record{Sequence: line.Sequence, Body: line.Body})
		}
		return found, nil
	}
	lines, err := l.Store.Trace(ctx, sallyport.RunID(id), "", false)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		found = append(found, api.Record{Sequence: line.Sequence, Body: line.Body})
	}
	if len(found) == 0 {
		return nil, sallyport.Refuse(sallyport.NotFound, "no records of "+id, "a run begins with run_ and a call with call_; audit show lists the newest records")
	}
	return found, nil
}

// Export writes the log up to its last checkpoint as lines of JSON, and returns
// how many records that are.
func (l *Log) Export(ctx context.Context, w io.Writer) (int64, error) {
	size, err := l.signed(ctx)
	if err != nil {
		return 0, err
	}
	return size, audit.Export(ctx, w, counted{l.Store, l.Progress, size}, audit.ExportOptions{Key: l.ring.Verifier, Size: size})
}

// Tiles writes the log up to its last checkpoint as C2SP tlog-tiles, and returns
// how many records that are.
func (l *Log) Tiles(ctx context.Context, put func(path string, data []byte) error) (int64, error) {
	size, err := l.signed(ctx)
	if err != nil {
		return 0, err
	}
	return size, audit.Tiles(ctx, counted{l.Store, l.Progress, size}, size, put)
}

// Prove writes the proof that one record is in the log: a C2SP tlog-proof under
// the last checkpoint, with the record in it.
func (l *Log) Prove(ctx context.Context, sequence int64, w io.Writer) error {
	note, err := l.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	known, err := audit.Verifiers(l.ring.Verifier)
	if err != nil {
		return err
	}
	size, err := l.signed(ctx)
	if err != nil {
		return err
	}
	if sequence < 0 || sequence >= size {
		return sallyport.Refuse(sallyport.NotFound, fmt.Sprintf("no record %d is under the last checkpoint, which covers %d", sequence, size),
			"audit show lists records with their sequence; a new one is covered within a second")
	}
	return l.Records(ctx, sequence, sequence+1, func(_ int64, body []byte) error {
		p, err := audit.NewProof(l.Store, note, known, sequence, body)
		if err != nil {
			return err
		}
		text, err := audit.MarshalProof(p)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
}

// signed is how many records the last checkpoint covers.
func (l *Log) signed(ctx context.Context) (int64, error) {
	note, err := l.LastCheckpoint(ctx)
	if err != nil {
		return 0, err
	}
	known, err := audit.Verifiers(l.ring.Verifier)
	if err != nil {
		return 0, err
	}
	last, err := audit.OpenCheckpoint(note, known)
	return last.Size, err
}

// Verify checks the stored log, and what the store keeps beside it. Without keys
// it trusts that of the project.
func (l *Log) Verify(ctx context.Context, o audit.VerifyOptions) (*audit.Report, error) {
	if len(o.Keys) == 0 {
		o.Keys = []string{l.ring.Verifier}
	}
	o.Beside = l.Check
	return audit.VerifySource(ctx, l.Store, o)
}

// counted is a source that tells how many of its records have been read.
type counted struct {
	audit.Source
	progress func(done, total int64)
	total    int64
}

func (c counted) Records(ctx context.Context, from, to int64, fn func(seq int64, body []byte) error) error {
	if c.progress == nil {
		return c.Source.Records(ctx, from, to, fn)
	}
	return c.Source.Records(ctx, from, to, func(seq int64, body []byte) error {
		if seq%1024 == 0 {
			c.progress(seq, c.total)
		}
		return fn(seq, body)
	})
}

// DiffReleases says how release b of an agent differs from its release a.
func DiffReleases(a, b *sallyport.Release) ([]config.Change, error) {
	if a.Agent != b.Agent {
		return nil, sallyport.Refuse(sallyport.BadRequest, "these are releases of two agents, "+string(a.Agent)+" and "+string(b.Agent), "name two releases of one agent")
	}
	one := func(r *sallyport.Release) *config.Versions {
		return &config.Versions{Releases: map[sallyport.AgentID]sallyport.Release{r.Agent: *r}}
	}
	changes := config.Diff(one(a), one(b))
	if changes == nil {
		changes = []config.Change{}
	}
	return changes, nil
}
