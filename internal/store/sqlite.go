package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, in Go: no cgo

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/limit"
)

// sqliteFile is a file, and the lock on another beside it. One program writes it, so
// records get their places in the tree as they are written.
type sqliteFile struct {
	path string
	held *os.File // nil in a store that only reads

	// Owned by the writing goroutine.
	stmts   statements
	seq     sequence
	began   int64 // the number of records at the start
	covered int64 // by the last checkpoint of this start
}

var sqliteDialect = dialect{
	goose: goose.DialectSQLite3, migrations: "migrations/sqlite", snapshot: &sql.TxOptions{ReadOnly: true},
	progress: "control", sequences: true,
}

func (e *sqliteFile) dialect() *dialect { return &sqliteDialect }
func (e *sqliteFile) name() string      { return e.path }

// dsn opens the file so that an acknowledged commit survives the machine: WAL
// with a sync on every commit.
func dsn(path string, more string) string {
	return "file:" + path + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" + more
}

func (e *sqliteFile) open(ctx context.Context, s *Store) error {
	err := os.MkdirAll(filepath.Dir(e.path), 0o700)
	if err != nil {
		return err
	}
	if e.held, err = hold(e.path, s.Now()); err != nil {
		return err
	}
	if s.writer, err = sql.Open("sqlite", dsn(e.path, "&_pragma=cache_size(-65536)&_pragma=wal_autocheckpoint(4000)&_txlock=immediate")); err != nil {
		return err
	}
	s.writer.SetMaxOpenConns(1)
	if err := migrate(ctx, &sqliteDialect, s.writer); err != nil {
		return err
	}
	if err := e.openReaders(ctx, s); err != nil {
		return err
	}
	if s.conn, err = s.writer.Conn(ctx); err != nil {
		return err
	}
	if err := e.stmts.prepare(ctx, s.conn); err != nil {
		return err
	}
	if e.began, err = countRecords(ctx, s.conn); err != nil {
		return err
	}
	if err := e.again(ctx, s); err != nil {
		return err
	}
	// What the last start left unwritten is written down before anybody reads it: a
	// run whose calls go on must not know less than it did.
	return e.transact(ctx, s, e.writeDown)
}

func (e *sqliteFile) openReaders(_ context.Context, s *Store) error {
	if _, err := os.Stat(e.path); err != nil {
		return err
	}
	readers, err := sql.Open("sqlite", dsn(e.path, "&_pragma=query_only(true)"))
	if err != nil {
		return err
	}
	readers.SetMaxOpenConns(4)
	readers.SetMaxIdleConns(4)
	s.readers, s.prompt = readers, readers
	return nil
}

func (e *sqliteFile) there(context.Context, *Store) error { return nil }

func (e *sqliteFile) again(ctx context.Context, s *Store) (err error) {
	e.seq, err = readSequence(ctx, s.conn, &sqliteDialect, s.size.Load(), func(seq int64) string {
		if seq < e.began {
			return "earlier"
		}
		return s.boot
	})
	if err != nil {
		return err
	}
	s.size.Store(e.seq.tree.Size())
	return s.reloadControl(ctx, s.conn)
}

// transact does something in one transaction.
func (e *sqliteFile) transact(ctx context.Context, s *Store, do func(t *transaction) error) (err error) {
	if err := s.fault("begin"); err != nil {
		return err
	}
	if _, err := e.stmts.begin.ExecContext(ctx); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_, _ = s.conn.ExecContext(ctx, `ROLLBACK`) // nothing to roll back if the commit went through
		}
	}()
	t := &transaction{s: s, ctx: ctx}
	if err := do(t); err != nil {
		return err
	}
	if err := s.fault("commit"); err != nil {
		return err
	}
	if _, err := e.stmts.commit.ExecContext(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.fault("committed"); err != nil {
		return err
	}
	s.size.Store(e.seq.tree.Size())
	if t.judges {
		return s.reloadControl(ctx, s.conn)
	}
	return nil
}

func (e *sqliteFile) commit(ctx context.Context, s *Store, batch []*op, results []error) error {
	return e.transact(ctx, s, func(t *transaction) (err error) {
		for i, o := range batch {
			if results[i], err = e.apply(t, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// apply writes one op. The first error is the op's own and leaves the
// transaction as it was before it; the second is everybody's.
func (e *sqliteFile) apply(t *transaction, o *op) (own, all error) {
	if own := t.s.stops(o); own != nil {
		return own, nil
	}
	if o.spend != nil {
		err := t.s.spend(t.ctx, t.s.conn, o.spend, func() (int64, error) { return micros(t.s.Now()), nil })
		_, over := errors.AsType[*limit.Over](err)
		if _, refused := errors.AsType[*sallyport.Refusal](err); over || refused {
			return err, nil
		}
		return nil, err
	}
	if len(o.changes) > 0 {
		if err := e.writeDown(t); err != nil {
			return nil, err
		}
		if own, all = t.change(o.changes); own != nil || all != nil {
			return own, all
		}
	}
	for i := range o.records {
		r := &o.records[i]
		seq := e.seq.take(&r.says, r.leaf, t.s.boot)
		if _, err := e.stmts.record.ExecContext(t.ctx, seq, string(r.run), r.body, r.payload); err != nil {
			return nil, fmt.Errorf("record %d: %w", seq, err)
		}
	}
	return nil, nil
}

// writeDown writes what is late into the tables.
func (e *sqliteFile) writeDown(t *transaction) error {
	l := &e.seq.late
	if l.from == e.seq.tree.Size() {
		return nil
	}
	firsts, rows := l.hashRows()
	for i, first := range firsts {
		if _, err := e.stmts.hashes.ExecContext(t.ctx, first, rows[i]); err != nil {
			return fmt.Errorf("hashes: %w", err)
		}
	}
	for id, d := range l.runs {
		integrity, confidentiality := d.bounds()
		if _, err := e.stmts.run.ExecContext(t.ctx, d.calls, d.at, integrity, confidentiality, string(id)); err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
	}
	for call := range l.moved {
		open := l.open[call]
		if open == nil {
			if _, err := e.stmts.settle.ExecContext(t.ctx, string(call)); err != nil {
				return fmt.Errorf("intent: %w", err)
			}
			continue
		}
		if _, err := e.stmts.open.ExecContext(t.ctx, string(call), open.seq, open.boot); err != nil {
			return fmt.Errorf("intent: %w", err)
		}
	}
	if _, err := e.stmts.written.ExecContext(t.ctx, e.seq.tree.Size()); err != nil {
		return fmt.Errorf("written: %w", err)
	}
	e.seq.down()
	return nil
}

// tick signs a checkpoint if there is anything new, as [sqliteFile.caughtUp] does.
func (e *sqliteFile) tick(s *Store) { e.checkpoint(s) }

func (e *sqliteFile) caughtUp(_ context.Context, s *Store, _ bool) (err error) {
	return errors.Join(s.aside(func() { err = e.checkpoint(s) }), err)
}

func (e *sqliteFile) stop(s *Store) {
	e.checkpoint(s)
	e.stmts.close()
}

// checkpoint writes down what is late and signs the tree as it is, if it has grown
// since the last one.
func (e *sqliteFile) checkpoint(s *Store) error {
	if s.void {
		if err := s.refresh(); err != nil {
			return err
		}
	}
	size := e.seq.tree.Size()
	if size == e.covered || size == 0 {
		return nil
	}
	signed, unsigned := s.sign(&e.seq)
	err := e.transact(context.Background(), s, func(t *transaction) error {
		if err := e.writeDown(t); err != nil || signed == nil {
			return err
		}
		return t.exec(`INSERT INTO checkpoints (size, note) VALUES ($1, $2) ON CONFLICT (size) DO NOTHING`, size, signed)
	})
	if err != nil {
		s.void = true
		err = errors.Join(err, s.refresh())
	}
	if err = errors.Join(unsigned, err); err != nil {
		s.Log.Error("no checkpoint could be made", "size", size, "err", err)
		return err
	}
	e.covered = size
	return nil
}

// sign makes a checkpoint of a tree.
func (s *Store) sign(seq *sequence) ([]byte, error) {
	root, err := seq.tree.Root()
	if err != nil {
		return nil, err
	}
	return audit.SignCheckpoint(audit.Checkpoint{Origin: s.Origin, Size: seq.tree.Size(), Root: root}, s.Signer)
}

func (e *sqliteFile) gone(_ context.Context, s *Store) (func(boot string) bool, error) {
	return func(boot string) bool { return boot != s.boot }, nil
}

func (e *sqliteFile) alone(_ context.Context, _ *Store, f func() error) error { return f() }

func (e *sqliteFile) close(*Store) error {
	if e.held == nil {
		return nil
	}
	return e.held.Close()
}

// statements are prepared on the one connection that writes.
type statements struct {
	begin, commit, record, hashes, open, settle, run, written *sql.Stmt
}

func (p *statements) prepare(ctx context.Context, c *sql.Conn) error {
	for _, one := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&p.begin, `BEGIN IMMEDIATE`},
		{&p.commit, `COMMIT`},
		{&p.record, `INSERT INTO records (seq, run, body, payload) VALUES ($1, $2, $3, $4)`},
		{&p.hashes, `INSERT INTO hashes (first, hashes) VALUES ($1, $2)`},
		{&p.open, `INSERT INTO intents (call, seq, boot) VALUES ($1, $2, $3) ON CONFLICT (call) DO UPDATE SET boot = excluded.boot`},
		{&p.settle, `DELETE FROM intents WHERE call = $1`},
		{&p.written, `UPDATE control SET written = $1`},
		{&p.run, `UPDATE runs SET calls = calls + $1, last_call = max(last_call, $2),
			integrity = min(integrity, $3), confidentiality = max(confidentiality, $4) WHERE id = $5`},
	} {
		stmt, err := c.PrepareContext(ctx, one.text)
		if err != nil {
			return fmt.Errorf("prepare %s: %w", one.text, err)
		}
		*one.stmt = stmt
	}
	return nil
}

func (p *statements) close() {
	for _, stmt := range []*sql.Stmt{p.begin, p.commit, p.record, p.hashes, p.open, p.settle, p.run, p.written} {
		if stmt != nil {
			stmt.Close()
		}
	}
}
