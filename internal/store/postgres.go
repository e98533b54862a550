package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"golang.org/x/mod/sumdb/note"

	"sallyport"
)

var postgresDialect = dialect{
	goose: goose.DialectPostgres, migrations: "migrations/postgres", patience: 10 * time.Second,
	snapshot: &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead},
	progress: "sequence", forUpdate: " FOR UPDATE", skipLocked: " FOR UPDATE SKIP LOCKED",
	waiting: `SELECT a.run, a.body, a.payload FROM replicas r JOIN placed p ON p.start = r.start JOIN arrivals a ON a.start = r.start AND a.n >= p.n
		WHERE NOT r.done ORDER BY a.epoch, a.at, a.start, a.n`,
}

// postgres is a database that several replicas share. Each start of the program has a
// number, and writes records under a count of its own (arrive.go); one at a time leads,
// and gives them places in the tree (leader.go); all hear of what is decided, and are
// heard of (replica.go).
//
// Two locks of PostgreSQL and one row hold it together. Whatever writes records holds
// the fence, shared, from before it reads by which decisions it is judged until it has
// committed: whoever has had the fence alone knows that nothing that was judged by
// older decisions will be written any more. Each start holds a lock of its own while
// its session lives. And what a start writes is written only while its row in replicas
// says that it has not ended: one that was paused while others went on without it
// writes nothing under its old number.
type postgres struct {
	url     string
	lax     bool                   // take a server that commits asynchronously
	address atomic.Pointer[string] // where other replicas reach it

	config *pgx.ConnConfig
	schema string
	start  atomic.Int64 // the number of this start
	born   time.Time    // of this start, with the monotonic clock

	// Owned by the writing goroutine.
	next  int64         // how many records this start has written
	pid   int64         // of the session that writes
	over  error         // nothing can be written any more, for good
	tried time.Time     // to get a session
	pause time.Duration // before the next try
	last  error         // of the last one

	hearing
	leading
	fresh chan *freshRun
	// spending has one for each transaction with counters that is under way.
	spending chan struct{}
	quit     context.CancelFunc
	ending   <-chan struct{} // closed by quit
	all      sync.WaitGroup  // the goroutines beside the one that writes
}

const (
	oldestPostgres        = 15
	leastPause, mostPause = 50 * time.Millisecond, 2 * time.Second
)

func (e *postgres) dialect() *dialect { return &postgresDialect }

func (e *postgres) name() string {
	if e.config == nil {
		return "on PostgreSQL"
	}
	return fmt.Sprintf("%s on %s", e.config.Database, net.JoinHostPort(e.config.Host, strconv.Itoa(int(e.config.Port))))
}

// parse reads the URL. No error repeats it: it holds a password.
func (e *postgres) parse() error {
	if e.config != nil {
		return nil
	}
	c, err := pgx.ParseConfig(e.url)
	if err != nil || c.Database == "" {
		return sallyport.Refuse(sallyport.BadConfig, "the reference of store.postgres does not lead to the URL of a database", "it has the form postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	// A server that is gone without a word is noticed, while something is sent and while
	// nothing is.
	c.DialFunc = (&net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		Control:         func(network, _ string, c syscall.RawConn) error { return unheard(network, c, 4*time.Second) },
	}).DialContext
	c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	e.config = c
	return nil
}

// settings are the configuration of sessions for a purpose.
func (e *postgres) settings(name string, more map[string]string) *pgx.ConnConfig {
	c := e.config.Copy()
	c.RuntimeParams["application_name"] = name
	for k, v := range more {
		c.RuntimeParams[k] = v
	}
	return c
}

// working are the settings of sessions that write: one whose program is paused or gone
// does not hold up the others for long.
var working = map[string]string{
	"idle_in_transaction_session_timeout": "2000",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "3",
}

func (e *postgres) open(ctx context.Context, s *Store) error {
	if err := e.parse(); err != nil {
		return err
	}
	e.born, e.fresh, e.wake, e.spending = time.Now(), make(chan *freshRun, 4096), make(chan struct{}, 1), make(chan struct{}, mostSpending)
	s.writer = stdlib.OpenDB(*e.settings("sallyport "+s.boot, working))
	s.writer.SetMaxOpenConns(8) // one writes, one leads; the others stand at the fence, look for who is gone, and take shares of budgets
	s.writer.SetMaxIdleConns(4)
	if err := e.session(ctx, s); err != nil {
		return err
	}
	if err := e.migrate(ctx, s); err != nil {
		return err
	}
	if err := e.openReaders(ctx, s); err != nil {
		return err
	}
	if err := e.sameKeys(ctx, s); err != nil {
		return err
	}
	if err := e.join(ctx, s); err != nil {
		return err
	}
	if err := s.reloadControl(ctx, s.conn); err != nil {
		return err
	}
	beside, quit := context.WithCancel(context.Background())
	e.quit, e.ending = quit, beside.Done()
	for _, task := range []func(context.Context, *Store){e.hear, e.lead, e.tend, e.readFresh} {
		e.all.Go(func() { task(beside, s) })
	}
	if err := e.caughtUp(ctx, s, false); err != nil {
		s.Log.Warn("what was written before has no places yet", "err", err)
	}
	return nil
}

// migrate brings the tables to the newest version, while no other replica does so.
func (e *postgres) migrate(ctx context.Context, s *Store) error {
	key := e.key("migration")
	if _, err := s.conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	err := migrate(ctx, &postgresDialect, s.writer)
	_, unlocked := s.conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, key)
	return errors.Join(err, unlocked)
}

func (e *postgres) openReaders(ctx context.Context, s *Store) error {
	if err := e.parse(); err != nil {
		return err
	}
	s.readers = stdlib.OpenDB(*e.settings("sallyport reads", map[string]string{"default_transaction_read_only": "on"}))
	s.readers.SetMaxOpenConns(4)
	s.readers.SetMaxIdleConns(4)
	s.prompt = stdlib.OpenDB(*e.settings("sallyport judges", map[string]string{"default_transaction_read_only": "on"}))
	s.prompt.SetMaxOpenConns(3)
	s.prompt.SetMaxIdleConns(3)
	return nil
}

// sameKeys refuses a store that was written with other keys than those of s: as leader
// this replica would sign what nobody can verify, and none could read what another has
// sealed.
func (e *postgres) sameKeys(ctx context.Context, s *Store) error {
	other := sallyport.Refuse(sallyport.BadConfig, "the store "+e.name()+" was written with other keys than those of this server",
		"copy the folder of keys from a server that uses it: all of them need the same")
	var signed []byte
	switch err := s.conn.QueryRowContext(ctx, `SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1`).Scan(&signed); {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	default:
		_, err := note.Open(signed, note.VerifierList())
		unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
		if !ok || !slices.ContainsFunc(unverified.Note.UnverifiedSigs, func(g note.Signature) bool {
			return g.Name == s.Signer.Name() && g.Hash == s.Signer.KeyHash()
		}) {
			return other
		}
	}
	var run sallyport.RunID
	var wrapped []byte
	switch err := s.conn.QueryRowContext(ctx, `SELECT run, wrapped FROM data_keys LIMIT 1`).Scan(&run, &wrapped); {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	default:
		if _, err := s.unwrap(run, wrapped); err != nil {
			return other
		}
	}
	return nil
}

// session opens the session that writes, and looks at the server.
func (e *postgres) session(ctx context.Context, s *Store) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	server, err := examineServer(ctx, conn)
	if err == nil {
		if refusal := server.refusal(e.lax); refusal != nil {
			err = refusal
		}
	}
	if err == nil {
		e.schema, err = schemaOf(ctx, conn)
	}
	if err == nil {
		err = conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&e.pid)
	}
	if err != nil {
		return errors.Join(err, discard(conn))
	}
	if server.Synchronous == "off" {
		s.Log.Warn("PostgreSQL commits asynchronously (synchronous_commit is off) and that is allowed here: records that were acknowledged are lost when its machine stops")
	}
	s.conn = conn
	return nil
}

// join makes this start one of the replicas, under a number that none has had.
func (e *postgres) join(ctx context.Context, s *Store) error {
	var start int64
	if err := s.conn.QueryRowContext(ctx, `SELECT nextval('starts')`).Scan(&start); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	// The lock is there before the row is: whoever sees the row and gets the lock knows
	// that the session is gone.
	if _, err := s.conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, e.startKey(start)); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	address := ""
	if a := e.address.Load(); a != nil {
		address = *a
	}
	_, err := s.conn.ExecContext(ctx, `WITH mine AS (INSERT INTO placed (start, n) VALUES ($1, 0))
		INSERT INTO replicas (start, boot, address, began, beat, epoch, flying, ended, done) VALUES ($1, $2, $3, `+clock+`, `+clock+`, 0, '', 0, false)`, start, s.boot, address)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	e.next = 0
	e.start.Store(start)
	return nil
}

// clock is the time of the database, which is the same for all replicas.
const clock = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// rejoin gets the lock of this start again, in a new session, and reads how much of
// what it was writing has been written.
func (e *postgres) rejoin(ctx context.Context, s *Store) error {
	key := e.startKey(e.start.Load())
	for until := time.Now().Add(time.Second); ; {
		var got bool
		if err := s.conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&got); err != nil {
			return err
		}
		if got {
			break
		}
		// The server has not noticed that the session before is gone. What it is committing
		// is committed or undone before it lets go of the lock.
		_, err := s.conn.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid() AND pid = $2`, "sallyport "+s.boot, e.lockedBy(ctx, s, key))
		if err != nil {
			return fmt.Errorf("end the session before this one: %w", err)
		}
		if time.Now().After(until) {
			return errors.New("another session has the lock of this start")
		}
		time.Sleep(leastPause)
	}
	return nil
}

func (e *postgres) lockedBy(ctx context.Context, s *Store, key int64) int64 {
	if h, err := holderOf(ctx, s.conn, key); err == nil && h != nil {
		return h.PID
	}
	return 0
}

// discard ends a session, which lets go of its locks.
func discard(conn *sql.Conn) error {
	err := conn.Raw(func(any) error { return driver.ErrBadConn })
	if lost(err) {
		return nil
	}
	return err
}

// there fails if the session that writes is gone, or this start has been given up.
func (e *postgres) there(ctx context.Context, s *Store) error {
	if s.conn == nil {
		return sql.ErrConnDone
	}
	var ended, pid int64
	err := s.conn.QueryRowContext(ctx, `SELECT ended, pg_backend_pid() FROM replicas WHERE start = $1 AND boot = $2`, e.start.Load(), s.boot).Scan(&ended, &pid)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return errForgotten
	case err != nil:
		return err
	case pid != e.pid:
		return errPooled
	case ended != 0:
		return errEnded
	}
	return nil
}

var (
	errEnded     = errors.New("the other replicas have given this one up")
	errForgotten = errors.New("the database knows nothing of this replica")
	errPooled    = sallyport.Refuse(sallyport.NotReady, "statements of one session reach PostgreSQL in different ones",
		"connect store.postgres to the server itself, or through a pooler in session mode")
)

// again, where the session is still there, reads what may be out of date. Otherwise it
// opens another.
func (e *postgres) again(ctx context.Context, s *Store) error {
	if e.over != nil {
		return e.over
	}
	err := e.there(ctx, s)
	if err == nil {
		return e.reread(ctx, s)
	}
	if errors.Is(err, errEnded) { // while it was paused, or could not be heard
		return e.afresh(ctx, s)
	}
	if s.conn != nil {
		_ = discard(s.conn) // it is gone either way
		s.conn = nil
	}
	if wait := time.Until(e.tried.Add(e.pause)); wait > 0 {
		return e.last
	}
	e.last = func() error {
		if err := e.session(ctx, s); err != nil {
			return err
		}
		if err := e.rejoin(ctx, s); err != nil {
			return err
		}
		switch err := e.there(ctx, s); {
		case errors.Is(err, errEnded):
			return e.afresh(ctx, s)
		case errors.Is(err, errForgotten):
			return e.lose(s, "this replica is missing in the database")
		case err != nil:
			return err
		}
		return e.reread(ctx, s)
	}()
	e.tried = time.Now()
	if e.last == nil {
		e.pause = 0
		return nil
	}
	if s.conn != nil {
		_ = discard(s.conn)
		s.conn = nil
	}
	e.pause = min(max(2*e.pause, leastPause), mostPause)
	return e.last
}

// afresh goes on under another number.
func (e *postgres) afresh(ctx context.Context, s *Store) error {
	if err := e.kept(ctx, s); err != nil { // nobody looks again for what was written under the old one
		return err
	}
	s.Log.Warn("the other replicas had given this one up; it joins them again", "start", e.start.Load())
	if err := e.join(ctx, s); err != nil {
		return err
	}
	return e.reread(ctx, s)
}

// reread reads what the writing goroutine keeps in memory.
func (e *postgres) reread(ctx context.Context, s *Store) error {
	if err := e.kept(ctx, s); err != nil {
		return err
	}
	return e.reload(ctx, s)
}

// kept reads how much this start has written, and sees that all is there that was
// acknowledged.
func (e *postgres) kept(ctx context.Context, s *Store) error {
	var written int64
	err := s.conn.QueryRowContext(ctx, `SELECT coalesce((SELECT n + 1 FROM arrivals WHERE start = $1 ORDER BY n DESC LIMIT 1), 0)`, e.start.Load()).Scan(&written)
	if err != nil {
		return err
	}
	if written < e.next {
		return e.lose(s, "the end of what was acknowledged is missing in the database", "acknowledged", e.next, "found", written)
	}
	e.next = written
	return nil
}

// reload reads again what was decided.
func (e *postgres) reload(ctx context.Context, s *Store) error {
	known := s.judge
	if err := s.reloadControl(ctx, s.conn); err != nil {
		return err
	}
	if s.judge < known {
		return e.lose(s, "decisions that were put into effect here are missing in the database", "known", known, "found", s.judge)
	}
	return nil
}

// lose says that the database has lost something: nothing is written any more.
func (e *postgres) lose(s *Store, what string, facts ...any) error {
	if e.over == nil {
		e.over = sallyport.Refuse(sallyport.NotReady, what+": nothing is written any more",
			"an operator has to look: a backup was restored, or a standby promoted that lagged")
		s.Log.Error(what, append([]any{"start", e.start.Load()}, facts...)...)
	}
	return e.over
}

func (e *postgres) tick(*Store) {}

func (e *postgres) stop(s *Store) {
	if e.quit == nil {
		return
	}
	e.quit()
	e.all.Wait()
	if s.conn == nil {
		return
	}
	// It says that it ends, so that nobody waits for it, unless it leaves calls behind
	// whose outcome is unknown: those are found when it is given up.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := s.conn.ExecContext(ctx, `UPDATE replicas SET ended = `+clock+`, beat = 0 WHERE start = $1`, e.start.Load()); err != nil {
		s.Log.Debug("the other replicas were not told that this one ends", "err", err)
	}
}

func (e *postgres) close(*Store) error { return nil } // locks end with their sessions

// key is that of an advisory lock, another one in every schema of a database.
func (e *postgres) key(what string) int64 {
	h := fnv.New64a()
	h.Write([]byte("sallyport " + what + " in " + e.schema))
	return int64(h.Sum64())
}

func (e *postgres) fenceKey() int64            { return e.key("fence") }
func (e *postgres) startKey(start int64) int64 { return e.key("start " + strconv.FormatInt(start, 10)) }

func schemaOf(ctx context.Context, q querier) (string, error) {
	var schema sql.NullString
	if err := q.QueryRowContext(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return "", err
	}
	if !schema.Valid {
		return "", sallyport.Refuse(sallyport.BadConfig, "there is no schema to make tables in", "CREATE SCHEMA, or name one with search_path in the URL")
	}
	return schema.String, nil
}

// Session is a session of PostgreSQL that holds a lock.
type Session struct {
	PID   int64
	From  string // address; empty on a socket, or if we may not see it
	Since time.Time
	name  string
}

// holderOf returns who holds the lock, nil if nobody can be named.
func holderOf(ctx context.Context, q querier, key int64) (*Session, error) {
	var h Session
	var since int64
	err := q.QueryRowContext(ctx, `SELECT l.pid, coalesce(host(a.client_addr), ''), coalesce((extract(epoch FROM a.backend_start) * 1000000)::bigint, 0), coalesce(a.application_name, '')
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND l.classid::bigint = $1 AND l.objid::bigint = $2`, int64(uint64(key)>>32), int64(uint32(key))).Scan(&h.PID, &h.From, &since, &h.name)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	h.Since = fromMicros(since)
	return &h, err
}

// Server is what a PostgreSQL server promises.
type Server struct {
	Version     int    // major
	Encoding    string // of the database
	Fsync       bool
	Synchronous string // synchronous_commit
	Standby     bool
}

func examineServer(ctx context.Context, q querier) (*Server, error) {
	var v Server
	var number int
	err := q.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::bigint, current_setting('server_encoding'),
		current_setting('fsync') = 'on', current_setting('synchronous_commit'), pg_is_in_recovery()`).
		Scan(&number, &v.Encoding, &v.Fsync, &v.Synchronous, &v.Standby)
	v.Version = number / 10000
	if err != nil {
		return nil, fmt.Errorf("look at the server: %w", err)
	}
	return &v, nil
}

// refusal says why a store cannot be kept on the server.
func (v *Server) refusal(lax bool) *sallyport.Refusal {
	switch {
	case v.Version < oldestPostgres:
		return sallyport.Refuse(sallyport.BadConfig, fmt.Sprintf("the server is PostgreSQL %d", v.Version), fmt.Sprintf("use version %d or a newer one", oldestPostgres))
	case v.Encoding != "UTF8":
		return sallyport.Refuse(sallyport.BadConfig, "the encoding of the database is "+v.Encoding, "CREATE DATABASE sallyport ENCODING 'UTF8' TEMPLATE template0")
	case v.Standby:
		return sallyport.Refuse(sallyport.BadConfig, "the server is a standby, which cannot be written", "name the primary in store.postgres")
	case !v.Fsync:
		return sallyport.Refuse(sallyport.BadConfig, "fsync is off: what the server acknowledges is lost, or the whole database damaged, when its machine stops",
			"ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()")
	case v.Synchronous == "off" && !lax:
		return sallyport.Refuse(sallyport.BadConfig, "synchronous_commit is off: what the server acknowledges can be lost when its machine stops",
			"ALTER ROLE ... SET synchronous_commit = on; or, where losing the newest records is acceptable, asynchronous_commit: true under store in sallyport.yaml")
	}
	return nil
}
