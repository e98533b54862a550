package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"sallyport"
	"sallyport/internal/limit"
)

// mostSpending bounds how many transactions with counters this replica has under way at
// one time: they wait for rows, and others need sessions too.
const mostSpending = 2

// spending is what is done to counters in one transaction: exactly one of charges, back
// and forget is set.
type spending struct {
	charges []limit.Charge
	back    *limit.Receipt
	forget  bool
	at      []int64 // where the charges were added; by spend
}

// Spend implements [gateway.Counters]. A call that is lost with this program stays
// counted: what was added is taken back by whoever added it, or by nobody.
func (s *Store) Spend(ctx context.Context, charges []limit.Charge) (*limit.Receipt, error) {
	spent := &spending{charges: charges}
	if err := s.spends(ctx, spent); err != nil {
		return nil, err
	}
	return &limit.Receipt{Charges: charges, At: spent.at}, nil
}

// Unspend implements [gateway.Counters].
func (s *Store) Unspend(ctx context.Context, r *limit.Receipt) error {
	return s.spends(ctx, &spending{back: r})
}

func (s *Store) spends(ctx context.Context, spent *spending) error {
	if s.closed.Load() || s.writer == nil {
		return errClosed
	}
	e, ok := s.db.(*postgres)
	if !ok {
		return s.unwritten(s.do(&op{spend: spent}))
	}
	ctx, cancel := s.promptly(ctx)
	defer cancel()
	select {
	case e.spending <- struct{}{}:
		defer func() { <-e.spending }()
	case <-ctx.Done():
		return s.unread(ctx.Err())
	}
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return s.unread(err)
	}
	err = s.spend(ctx, tx, spent, func() (now int64, err error) {
		return now, tx.QueryRowContext(ctx, `SELECT `+clock).Scan(&now)
	})
	if err != nil {
		return s.unread(errors.Join(err, ended(tx.Rollback())))
	}
	return s.unwritten(tx.Commit())
}

// ended is the error of a rollback: there is none where nothing is left to be undone.
func ended(err error) error {
	if errors.Is(err, sql.ErrTxDone) || lost(err) {
		return nil
	}
	return err
}

// unwritten is what somebody is told whose call could not be counted: it may be all the
// same.
func (s *Store) unwritten(err error) error {
	_, over := errors.AsType[*limit.Over](err)
	if _, ok := errors.AsType[*sallyport.Refusal](err); ok || over || err == nil {
		return err
	}
	if s.closed.Load() {
		return errClosed
	}
	s.Log.Error("a call could not be counted, so it is refused", "err", withRemedy(err))
	return sallyport.Refuse(sallyport.NotReady, "nothing can be counted at the moment, so nothing was done", "try again later")
}

type execer interface {
	querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// spend adds all charges or none, or takes a receipt back. Its error is a *limit.Over if
// there is no room; nothing is written then. The rows are locked in one order, and the
// clock is read after that.
func (s *Store) spend(ctx context.Context, q execer, spent *spending, clock func() (int64, error)) error {
	if spent.forget {
		now, err := clock()
		if err == nil {
			_, err = q.ExecContext(ctx, `DELETE FROM counters WHERE key IN (SELECT key FROM counters WHERE until < $1 AND until > 0 LIMIT 1000`+s.db.dialect().skipLocked+`)`, now)
		}
		return err
	}
	charges := spent.charges
	if spent.back != nil {
		charges = spent.back.Charges
	}
	keys := make([][]byte, len(charges))
	order := make([]int, len(charges))
	for i := range charges {
		keys[i], order[i] = s.counted(charges[i].Key), i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(keys[a], keys[b]) })
	windows := make([]limit.Window, len(charges))
	for _, i := range order {
		var err error
		if windows[i], err = s.lockCounter(ctx, q, keys[i], charges[i].Name); err != nil {
			return err
		}
	}
	now, err := clock()
	if err != nil {
		return err
	}
	spent.at = make([]int64, len(charges))
	for i, c := range charges {
		w := &windows[i]
		switch {
		case spent.back != nil:
			w.Take(spent.back.At[i], c.Amount)
		case c.Most != nil && !w.Fits(now, c.Amount, *c.Most):
			over := &limit.Over{Charge: c, Spent: w.Sum(now)}
			var ever bool
			over.Wait, ever = w.Wait(now, c.Amount, *c.Most)
			over.Never = !ever
			return over
		default:
			spent.at[i] = w.Add(now, c.Per, c.Amount)
		}
	}
	for _, i := range order {
		if _, err := q.ExecContext(ctx, `UPDATE counters SET until = $1, body = $2 WHERE key = $3`, windows[i].Until(), windows[i].Append(nil), keys[i]); err != nil {
			return fmt.Errorf("counter %s: %w", charges[i].Name, err)
		}
	}
	return nil
}

// lockCounter reads a counter that nobody else changes before the transaction ends.
func (s *Store) lockCounter(ctx context.Context, q execer, key []byte, name string) (limit.Window, error) {
	for {
		var body []byte
		err := q.QueryRowContext(ctx, `SELECT body FROM counters WHERE key = $1`+s.db.dialect().forUpdate, key).Scan(&body)
		if errors.Is(err, sql.ErrNoRows) {
			if _, err = q.ExecContext(ctx, `INSERT INTO counters (key, until, body) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING`, key, []byte{}); err == nil {
				continue
			}
		}
		if err != nil {
			return limit.Window{}, fmt.Errorf("counter %s: %w", name, err)
		}
		w, err := limit.Parse(body)
		if err != nil {
			s.Log.Error("what a counter has come to cannot be read", "counter", name, "err", err)
			err = sallyport.Refuse(sallyport.NotReady, "the call cannot be counted, so it is refused", "an operator has to look at the log of the server")
		}
		return w, err
	}
}

// counted is what the table calls what is counted together: names of persons are in it.
func (s *Store) counted(key string) []byte {
	mac := hmac.New(sha256.New, s.PseudonymKey)
	mac.Write([]byte("counter\x00"))
	mac.Write([]byte(key))
	return mac.Sum(nil)
}

// Spent implements [gateway.Counters].
func (s *Store) Spent(ctx context.Context, charges []limit.Charge) ([]sallyport.Amount, error) {
	ctx, cancel := s.promptly(ctx)
	defer cancel()
	query, args := `SELECT body, $2 FROM counters WHERE key = $1`, []any{nil, micros(s.Now())}
	if s.Replicated() {
		query, args = `SELECT body, `+clock+` FROM counters WHERE key = $1`, args[:1]
	}
	out := make([]sallyport.Amount, len(charges))
	for i, c := range charges {
		args[0] = s.counted(c.Key)
		var body []byte
		var now int64
		err := s.prompt.QueryRowContext(ctx, query, args...).Scan(&body, &now)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, s.unread(err)
		}
		w, err := limit.Parse(body)
		if err != nil {
			return nil, fmt.Errorf("counter %s: %w", c.Name, err)
		}
		out[i] = w.Sum(now)
	}
	return out, nil
}

// SweepCounters forgets counters whose windows are over, at most a thousand.
func (s *Store) SweepCounters(ctx context.Context) error {
	return s.spends(ctx, &spending{forget: true})
}
