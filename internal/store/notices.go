package store

import (
	"context"
	"fmt"
	"time"

	"sallyport"
	"sallyport/internal/control"
)

// What is read at one time: approvals of which something is to be told, and notices for
// one target.
const tellAtOnce, noticesAtOnce = 256, 16

// ToTell returns approvals of which people may have to be told something now. One whose
// run's data is erased is not among them: of it nothing is told.
func (s *Store) ToTell(ctx context.Context) ([]control.Approval, error) {
	return s.approvals(ctx, `WHERE told >= 0 AND (tell <= $1 OR state > 1) ORDER BY tell LIMIT $2`, micros(s.Now()), tellAtOnce)
}

func (t *transaction) tellApproval(c control.TellApproval) error {
	other := sallyport.Refuse(sallyport.Conflict, "another server tells people of "+string(c.ID), "")
	if err := t.affect(other, `UPDATE approvals SET told = $1, tell = $2 WHERE id = $3 AND told = $4`, int64(c.Now), micros(c.Again), string(c.ID), int64(c.Was)); err != nil {
		return err
	}
	for _, n := range c.Notices {
		err := t.exec(`INSERT INTO notices (id, approval, event, roles, target, made, due, tries, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			n.ID, string(n.Approval), int64(n.Event), roleText(n.Roles), n.Target, micros(n.Made), micros(n.Due), n.Tries, n.Error)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) moveNotice(c control.MoveNotice) error {
	other := sallyport.Refuse(sallyport.Conflict, "another server sends notice "+c.Notice.ID, "")
	return t.affect(other, `UPDATE notices SET due = $1, tries = $2, error = $3 WHERE id = $4 AND due = $5`,
		micros(c.Notice.Due), c.Notice.Tries, c.Notice.Error, c.Notice.ID, micros(c.Was))
}

// DueNotices returns some of the notices for a target that are to be sent by a time, those
// that have waited longest first.
func (s *Store) DueNotices(ctx context.Context, target string, by time.Time) ([]sallyport.Notice, error) {
	return s.notices(ctx, `target = $1 AND due > 0 AND due <= $2 ORDER BY due, id LIMIT $3`, target, micros(by), noticesAtOnce)
}

// LateNotices returns some of the notices that have been tried in vain, or given up.
func (s *Store) LateNotices(ctx context.Context) ([]sallyport.Notice, error) {
	return s.notices(ctx, `error <> '' ORDER BY id DESC LIMIT 1000`)
}

func (s *Store) notices(ctx context.Context, where string, args ...any) ([]sallyport.Notice, error) {
	var out []sallyport.Notice
	err := each(ctx, s.readers, `SELECT id, approval, event, roles, target, made, due, tries, error FROM notices WHERE `+where, func(scan func(...any) error) error {
		var n sallyport.Notice
		var event, made, due int64
		var roles string
		if err := scan(&n.ID, &n.Approval, &event, &roles, &n.Target, &made, &due, &n.Tries, &n.Error); err != nil {
			return err
		}
		var err error
		if n.Roles, err = rolesOf(roles); err != nil {
			return fmt.Errorf("notice %s: %w", n.ID, err)
		}
		n.Event, n.Made, n.Due = sallyport.ApprovalEvent(event), fromMicros(made), fromMicros(due)
		out = append(out, n)
		return nil
	}, args...)
	return out, s.unread(err)
}
