package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, in Go: no cgo
)

//go:embed migrations
var migrations embed.FS

// dialect is what the engines do not have in common. All other SQL of this package
// is one text for both: see doc/decisions/009.
type dialect struct {
	goose      goose.Dialect
	migrations string         // the folder
	snapshot   *sql.TxOptions // a transaction that reads and sees one state
	patience   time.Duration  // for one transaction that writes; zero is without end
	// begin begins a transaction that writes; record writes what insert gives it.
	begin, record string
	// greatest and least are the functions of two values; holding is the condition
	// that the bytes of a record hold those of $1.
	greatest, least, holding string
}

// engine is a database and how this start of the program comes to own it.
type engine interface {
	dialect() *dialect
	// name is the database as people know it, without a secret.
	name() string
	// open opens the databases of s, keeps everybody else from writing and brings
	// the tables to the newest version.
	open(ctx context.Context, s *Store) error
	// openReaders opens the database that readers use, and nothing else.
	openReaders(ctx context.Context, s *Store) error
	// again sees that s.conn can be used and that what is written through it is
	// written by the owner. What was lost meanwhile it opens again.
	again(ctx context.Context, s *Store) error
	// begin begins a transaction on s.conn. It fails if s owns the database no more.
	begin(ctx context.Context, s *Store) error
	// insert writes records that follow each other, from a sequence on.
	insert(ctx context.Context, s *Store, from int64, records []*sealed) error
	close(s *Store) error
}

func (c *Config) engine() engine {
	if c.Postgres != "" {
		return &postgres{url: c.Postgres, lax: c.AsynchronousCommit}
	}
	return &sqliteFile{path: c.Path}
}

// migrate brings the tables to the newest version.
func migrate(ctx context.Context, d *dialect, db *sql.DB) error {
	dir, err := fs.Sub(migrations, d.migrations)
	if err != nil {
		return err
	}
	up, err := goose.NewProvider(d.goose, db, dir)
	if err != nil {
		return err
	}
	if _, err := up.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	return nil
}

// newest is the version that the tables have when all migrations have been made.
func (d *dialect) newest() (newest int64, err error) {
	entries, err := fs.ReadDir(migrations, d.migrations)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		version, err := goose.NumericComponent(e.Name())
		if err != nil {
			return 0, fmt.Errorf("migration %s: %w", e.Name(), err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// sqliteFile is a file, and the lock on another beside it.
type sqliteFile struct {
	path string
	held *os.File // nil in a store that only reads
}

var sqliteDialect = dialect{
	goose: goose.DialectSQLite3, migrations: "migrations/sqlite", snapshot: &sql.TxOptions{ReadOnly: true},
	begin: `BEGIN IMMEDIATE`, record: `INSERT INTO records (seq, run, body, payload) VALUES ($1, $2, $3, $4)`,
	greatest: "max", least: "min", holding: "instr(body, $1) > 0",
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
	return s.stmts.prepare(ctx, s.conn, &sqliteDialect)
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
	s.readers = readers
	return nil
}

func (e *sqliteFile) again(context.Context, *Store) error { return nil }

func (e *sqliteFile) begin(ctx context.Context, s *Store) error {
	_, err := s.stmts.begin.ExecContext(ctx)
	return err
}

func (e *sqliteFile) insert(ctx context.Context, s *Store, from int64, records []*sealed) error {
	for i, r := range records {
		if _, err := s.stmts.record.ExecContext(ctx, from+int64(i), string(r.run), r.body, r.payload); err != nil {
			return fmt.Errorf("record %d: %w", from+int64(i), err)
		}
	}
	return nil
}

func (e *sqliteFile) close(*Store) error {
	if e.held == nil {
		return nil
	}
	return e.held.Close()
}
