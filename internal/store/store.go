// Package store keeps records, runs and what people have decided in SQLite.
//
// One goroutine writes, through one connection, in transactions that hold
// whatever was waiting (group commit): see [Store.write]. Records and what people
// changed commit together. What follows from records - tree hashes, open intents,
// what calls add to runs - is written down behind them, or made again from them:
// see late.go. Everything else reads, through connections of its own.
package store

import (
	"context"
	"crypto/cipher"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/mod/sumdb/note"
	_ "modernc.org/sqlite" // the driver, in Go: no cgo

	"sallyport"
	"sallyport/internal/audit"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config is what a store needs. All fields are required.
type Config struct {
	// Path is the database file; its folder is made if it is missing.
	Path string
	// Origin names the log in its checkpoints.
	Origin string
	// Signer signs checkpoints; its key lies outside the store's folder.
	Signer note.Signer
	// SealingKey (32 bytes) wraps the data keys of runs; PseudonymKey (32 bytes)
	// makes pseudonyms of persons.
	SealingKey   []byte
	PseudonymKey []byte
	Now          func() time.Time
	Log          *slog.Logger
}

// Store is an open store. Close it.
type Store struct {
	Config
	boot    string // this start of the program, in intents
	kek     cipher.AEAD
	held    *os.File // the lock; nil in a store that only reads
	writer  *sql.DB
	readers *sql.DB
	ops     chan *op
	now     chan chan struct{} // asks for a checkpoint now
	quit    chan struct{}
	done    chan struct{}
	closed  atomic.Bool

	// Owned by the writing goroutine.
	conn  *sql.Conn
	began int64 // the number of records at the start
	tree  *audit.Tree
	late  late
	halts []sallyport.Halt
	stmts statements
	void  bool // tree, late and halts may not be those of the database

	size  atomic.Int64 // of the tree, as committed
	epoch atomic.Int64

	dataKeys sync.Map // sallyport.RunID to cipher.AEAD
	// lost are the calls of this start that may have happened and whose outcome
	// could not be recorded; marking guards that each is marked once.
	lost     sync.Map // sallyport.CallID to control.Unknown
	marking  sync.Mutex
	runs     runCache
	versions sync.Map // versionKey to a decoded version: they never change

	// faults is set by tests to fail at a named point.
	faults func(point string) error
}

// Open opens or makes the store. It refuses (code conflict) a store that another
// process has open, and fails on one whose log does not continue: a store restored
// from a backup that is older than its last checkpoint is found by audit verify
// --against.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	kek, err := newAEAD(c.SealingKey)
	if err != nil {
		return nil, fmt.Errorf("store: sealing key: %w", err)
	}
	s := &Store{
		Config: c, kek: kek, boot: randomName(),
		ops: make(chan *op, 4096), now: make(chan chan struct{}), quit: make(chan struct{}), done: make(chan struct{}),
	}
	s.runs.init()
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", c.Path, withRemedy(err)), s.closeDatabases())
	}
	go s.write()
	// What the last start left unwritten is written down before anybody reads it: a
	// run whose calls go on must not know less than it did.
	if err := s.do(&op{down: true}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// dsn opens the file so that an acknowledged commit survives the machine: WAL
// with a sync on every commit.
func dsn(path string, more string) string {
	return "file:" + path + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" + more
}

func (s *Store) open(ctx context.Context) error {
	var err error
	if s.held, err = hold(s.Path, s.Now()); err != nil {
		return err
	}
	if s.writer, err = sql.Open("sqlite", dsn(s.Path, "&_pragma=cache_size(-65536)&_pragma=wal_autocheckpoint(4000)&_txlock=immediate")); err != nil {
		return err
	}
	s.writer.SetMaxOpenConns(1)
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	up, err := goose.NewProvider(goose.DialectSQLite3, s.writer, dir)
	if err != nil {
		return err
	}
	if _, err := up.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if s.readers, err = sql.Open("sqlite", dsn(s.Path, "&_pragma=query_only(true)")); err != nil {
		return err
	}
	s.readers.SetMaxOpenConns(4)
	s.readers.SetMaxIdleConns(4)
	if s.conn, err = s.writer.Conn(ctx); err != nil {
		return err
	}
	if err := s.stmts.prepare(ctx, s.conn); err != nil {
		return err
	}
	if err := s.conn.QueryRowContext(ctx, `SELECT coalesce(max(seq)+1, 0) FROM records`).Scan(&s.began); err != nil {
		return err
	}
	return s.reload(ctx)
}

// reload reads what the writing goroutine keeps in memory from what has
// committed. It is called at the start and after a commit that returned an
// error, which may have happened all the same.
func (s *Store) reload(ctx context.Context) error {
	if err := s.reloadLate(ctx); err != nil {
		return err
	}
	return s.reloadControl(ctx, s.conn)
}

func (s *Store) reloadControl(ctx context.Context, q querier) error {
	halts, err := readHalts(ctx, q)
	if err != nil {
		return err
	}
	var epoch int64
	if err := q.QueryRowContext(ctx, `SELECT epoch FROM control`).Scan(&epoch); err != nil {
		return err
	}
	s.halts = halts
	s.epoch.Store(epoch)
	return nil
}

// OpenReader opens a store to read it, beside the program that writes it. What
// would write is refused.
func OpenReader(ctx context.Context, c Config) (*Store, error) {
	if _, err := os.Stat(c.Path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	kek, err := newAEAD(c.SealingKey)
	if err != nil {
		return nil, fmt.Errorf("store: sealing key: %w", err)
	}
	s := &Store{Config: c, kek: kek, boot: randomName(), done: make(chan struct{}), quit: make(chan struct{})}
	close(s.done)
	s.runs.init()
	if s.readers, err = sql.Open("sqlite", dsn(c.Path, "&_pragma=query_only(true)")); err != nil {
		return nil, fmt.Errorf("store %s: %w", c.Path, err)
	}
	var size int64
	if err := s.readers.QueryRowContext(ctx, `SELECT coalesce(max(seq)+1, 0) FROM records`).Scan(&size); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", c.Path, err), s.readers.Close())
	}
	s.size.Store(size)
	return s, nil
}

// Epoch grows with every committed change that calls are judged by.
func (s *Store) Epoch() int64 { return s.epoch.Load() }

// Size is the number of committed records.
func (s *Store) Size() int64 { return s.size.Load() }

// Checkpoint signs the tree as it is, without waiting for the next second.
func (s *Store) Checkpoint() error {
	signed := make(chan struct{})
	select {
	case s.now <- signed:
	case <-s.done:
		return errClosed
	}
	<-signed
	return nil
}

// catchUp has what is late written down before somebody reads it. It says
// nothing if that does not work: what is there can be read all the same.
func (s *Store) catchUp() {
	if s.writer != nil {
		_ = s.Checkpoint()
	}
}

// Close writes what is waiting, signs a last checkpoint and closes the files.
func (s *Store) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	close(s.quit)
	<-s.done
	return s.closeDatabases()
}

func (s *Store) closeDatabases() error {
	var errs []error
	if s.conn != nil {
		s.stmts.close()
		errs = append(errs, s.conn.Close())
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.held != nil { // last: until here the files are ours
		errs = append(errs, s.held.Close())
	}
	return errors.Join(errs...)
}

// Ping asks the database for an answer: what doctor and readiness look at.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.readers.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
}

// querier is a connection or a transaction, as the readers of this package need
// it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
