package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
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
	progress   string         // the table that says how far what follows from records is written down
	sequences  bool           // records get their place when they are written, not later
	forUpdate  string         // after a SELECT: nobody else changes the rows before the transaction ends
	skipLocked string         // as forUpdate, but leaves out rows that somebody has
	waiting    string         // reads run, body and payload of the records without a place, in about their order
}

// engine is a database and how this start of the program writes to it. All but
// caughtUp and close is called by the writing goroutine, or before there is one.
type engine interface {
	dialect() *dialect
	// name is the database as people know it, without a secret.
	name() string
	// open opens the databases of s, brings the tables to the newest version and
	// reads what the writing goroutine keeps in memory.
	open(ctx context.Context, s *Store) error
	// openReaders opens the database that readers use, and nothing else.
	openReaders(ctx context.Context, s *Store) error
	// commit writes a batch and says how each op went. An op that is refused by itself
	// (a fence, a conflict) gets its own result; an error is that of all, which may
	// have been written all the same.
	commit(ctx context.Context, s *Store, batch []*op, results []error) error
	// again sees that something can be written, and reads again what the writing
	// goroutine keeps in memory: after an error of commit that may be wrong.
	again(ctx context.Context, s *Store) error
	// there fails if something has changed since the last commit that needs again.
	there(ctx context.Context, s *Store) error
	// tick does what is to be done every second while nothing is being written.
	tick(s *Store)
	// caughtUp returns when everything that has been acknowledged has its place in the
	// tree, what follows from it is written down, and, if signed, a checkpoint covers
	// it.
	caughtUp(ctx context.Context, s *Store, signed bool) error
	// gone names those whose open intents nobody will end any more.
	gone(ctx context.Context, s *Store) (func(boot string) bool, error)
	// alone runs f while no other replica does so.
	alone(ctx context.Context, s *Store, f func() error) error
	// stop ends what the engine does beside, after the last commit.
	stop(s *Store)
	// close is called last.
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
