// Package store keeps records, runs and what people have decided, in SQLite or in
// PostgreSQL.
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
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport"
)

// Config is what a store needs. All fields are required, of Path and Postgres one.
type Config struct {
	// Path is the SQLite database file; its folder is made if it is missing.
	Path string
	// Postgres is the URL of a PostgreSQL database, with its password.
	Postgres string
	// AsynchronousCommit lets PostgreSQL acknowledge what it may still lose when its
	// machine does. Without it, a server that does so is refused.
	AsynchronousCommit bool
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
	db      engine
	writer  *sql.DB
	readers *sql.DB
	prompt  *sql.DB // reads what calls are judged by: nobody who takes long uses it
	ops     chan *op
	asides  chan func() // what the writing goroutine does between two batches
	quit    chan struct{}
	done    chan struct{}
	closed  atomic.Bool

	// Owned by the writing goroutine.
	conn  *sql.Conn
	halts []sallyport.Halt
	judge int64 // the epoch of halts
	void  bool  // what is kept in memory may not be what is in the database

	away atomic.Pointer[sallyport.Refusal] // why nothing can be written at the moment

	size  atomic.Int64 // of the tree, as far as it is known
	epoch atomic.Int64

	dataKeys sync.Map // sallyport.RunID to cipher.AEAD
	// lost are the calls of this start that may have happened and whose outcome
	// could not be recorded; marking guards that each is marked once.
	lost     sync.Map // sallyport.CallID to control.Unknown
	marking  sync.Mutex
	runs     runCache
	rates    rates
	vaults   sync.Map // data domain to *vaultKeys
	versions sync.Map // versionKey to a decoded version: they never change

	// faults is set by tests to fail at a named point.
	faults func(point string) error
}

// Open opens or makes the store. It refuses (code conflict) a store that another
// process has open, and fails on one whose log does not continue: a store restored
// from a backup that is older than its last checkpoint is found by audit verify
// --against.
func Open(ctx context.Context, c Config) (*Store, error) {
	kek, err := newAEAD(c.SealingKey)
	if err != nil {
		return nil, fmt.Errorf("store: sealing key: %w", err)
	}
	s := &Store{
		Config: c, kek: kek, boot: randomName(), db: c.engine(),
		ops: make(chan *op, 4096), asides: make(chan func()), quit: make(chan struct{}), done: make(chan struct{}),
	}
	s.runs.init()
	if err := s.db.open(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", s.db.name(), withRemedy(err)), s.closeDatabases())
	}
	go s.write()
	return s, nil
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
	s.halts, s.judge = halts, epoch
	s.heard(epoch)
	return nil
}

// heard takes note of an epoch, grew of a size. Whoever knows less changes nothing.
func (s *Store) heard(epoch int64) { raise(&s.epoch, epoch) }
func (s *Store) grew(size int64)   { raise(&s.size, size) }

func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); old < to && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// OpenReader opens a store to read it, beside the program that writes it. What
// would write is refused.
func OpenReader(ctx context.Context, c Config) (*Store, error) {
	kek, err := newAEAD(c.SealingKey)
	if err != nil {
		return nil, fmt.Errorf("store: sealing key: %w", err)
	}
	s := &Store{Config: c, kek: kek, boot: randomName(), db: c.engine(), done: make(chan struct{}), quit: make(chan struct{})}
	close(s.done)
	s.runs.init()
	if err := s.db.openReaders(ctx, s); err != nil {
		return nil, fmt.Errorf("store %s: %w", s.db.name(), withRemedy(err))
	}
	size, err := countRecords(ctx, s.readers)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", s.db.name(), withRemedy(err)), s.closeDatabases())
	}
	s.size.Store(size)
	return s, nil
}

// Epoch grows with every committed change that calls are judged by.
func (s *Store) Epoch() int64 { return s.epoch.Load() }

// Size is the number of records that have a place.
func (s *Store) Size() int64 {
	s.sequenced()
	return s.size.Load()
}

// sequenced returns when what has been acknowledged so far has its place, so that
// whoever reads sees what they wrote. Like catchUp it says nothing if it has not.
func (s *Store) sequenced() {
	if !s.db.dialect().sequences {
		ctx, cancel := s.patient()
		defer cancel()
		_ = s.db.caughtUp(ctx, s, false)
	}
}

// Checkpoint signs the tree as it is, without waiting for the next second.
func (s *Store) Checkpoint() error {
	ctx, cancel := s.patient()
	defer cancel()
	return s.db.caughtUp(ctx, s, true)
}

// catchUp has what is late written down before somebody reads it. It says
// nothing if that does not work: what is there can be read all the same.
func (s *Store) catchUp() {
	if s.writer != nil {
		ctx, cancel := s.patient()
		defer cancel()
		_ = s.db.caughtUp(ctx, s, false)
	}
}

// Close writes what is waiting, signs a last checkpoint and closes the database.
func (s *Store) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	if s.writer != nil {
		close(s.quit)
		<-s.done
		s.db.stop(s)
	}
	return s.closeDatabases()
}

func (s *Store) closeDatabases() error {
	var errs []error
	if s.conn != nil {
		if err := s.conn.Close(); !lost(err) {
			errs = append(errs, err)
		}
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.prompt != nil && s.prompt != s.readers {
		errs = append(errs, s.prompt.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	return errors.Join(append(errs, s.db.close(s))...) // last: until here the files are ours
}

// Ping asks the database for an answer: what doctor and readiness look at.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.readers.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
}

// Ready says why nothing can be written at the moment, nil if something can, as far
// as is known: a call that has to be recorded need not be begun.
func (s *Store) Ready() *sallyport.Refusal { return s.away.Load() }

// lost reports whether an error says that a connection is gone.
func lost(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
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
