package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"sallyport"
)

var postgresDialect = dialect{
	goose: goose.DialectPostgres, migrations: "migrations/postgres", patience: 10 * time.Second,
	snapshot: &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead},
	begin:    `BEGIN ISOLATION LEVEL READ COMMITTED`,
	record: `INSERT INTO records (seq, run, body, payload)
		SELECT $1 + n - 1, run, body, payload FROM unnest($2::text[], $3::bytea[], $4::bytea[]) WITH ORDINALITY AS r (run, body, payload, n)`,
	greatest: "greatest", least: "least", holding: "position($1 in body) > 0",
}

// postgres is a database that one start of the program owns at a time. Two things
// see to that:
//
//   - The session that writes holds an advisory lock. Whoever does not get it does
//     not start. PostgreSQL lets go of it when the session ends, and not before what
//     the session was committing has been committed or undone; so whoever has got
//     it sees all that the one before has written.
//   - Who got it writes its name (boot) into the row of control. Every transaction
//     locks that row first and reads whose name is there, and in which session it
//     runs: a start that was paused while another took over, or whose session is not
//     the one with the lock (a pooler gave it another), commits nothing.
type postgres struct {
	url string
	lax bool // take a server that commits asynchronously

	config *pgx.ConnConfig
	fence  *sql.Stmt
	pid    int64 // of the session with the lock
	taken  bool  // another start owns the database: for good
	tried  time.Time
	pause  time.Duration // before the next try
	last   error         // of the last one
}

const (
	oldestPostgres = 15
	// patientStart is how long a start waits for the session of a program that has
	// just ended; the server may not have noticed yet.
	patientStart          = 2 * time.Second
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
	// A server that is gone without a word is noticed.
	c.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}).DialContext
	c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	e.config = c
	return nil
}

// database opens sessions with settings of their own.
func (e *postgres) database(name string, settings map[string]string) *sql.DB {
	c := e.config.Copy()
	c.RuntimeParams["application_name"] = name
	for k, v := range settings {
		c.RuntimeParams[k] = v
	}
	return stdlib.OpenDB(*c)
}

func (e *postgres) open(ctx context.Context, s *Store) error {
	if err := e.parse(); err != nil {
		return err
	}
	s.writer = e.database("sallyport "+s.boot, map[string]string{
		// A session whose program or machine is gone lets go of the lock.
		"idle_in_transaction_session_timeout": "10000",
		"tcp_keepalives_idle":                 "5",
		"tcp_keepalives_interval":             "2",
		"tcp_keepalives_count":                "3",
	})
	s.writer.SetMaxOpenConns(2) // one writes, the other migrates at the start
	if err := e.session(ctx, s, patientStart, true); err != nil {
		return err
	}
	if err := migrate(ctx, &postgresDialect, s.writer); err != nil {
		return err
	}
	if _, err := s.conn.ExecContext(ctx, `UPDATE control SET boot = $1`, s.boot); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := e.prepare(ctx, s); err != nil {
		return err
	}
	return e.openReaders(ctx, s)
}

func (e *postgres) prepare(ctx context.Context, s *Store) (err error) {
	if e.fence, err = s.conn.PrepareContext(ctx, `SELECT boot, pg_backend_pid() FROM control FOR UPDATE`); err != nil {
		return err
	}
	return s.stmts.prepare(ctx, s.conn, &postgresDialect)
}

func (e *postgres) openReaders(ctx context.Context, s *Store) error {
	if err := e.parse(); err != nil {
		return err
	}
	s.readers = e.database("sallyport reads", map[string]string{"default_transaction_read_only": "on"})
	s.readers.SetMaxOpenConns(4)
	s.readers.SetMaxIdleConns(4)
	return nil
}

// session opens a session, looks at the server and gets the lock within a time. The
// first takes the database over; those after it find that it is still ours.
func (e *postgres) session(ctx context.Context, s *Store, within time.Duration, first bool) error {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	err = func() error {
		server, err := examineServer(ctx, conn)
		if err != nil {
			return err
		}
		if refusal := server.refusal(e.lax); refusal != nil {
			return refusal
		}
		if server.Synchronous == "off" {
			s.Log.Warn("PostgreSQL commits asynchronously (synchronous_commit is off) and that is allowed here: records that were acknowledged are lost when its machine stops")
		}
		if !first {
			if err := e.ours(ctx, s, conn); err != nil {
				return err
			}
		}
		key, err := lockKey(ctx, conn)
		if err != nil {
			return err
		}
		for until := time.Now().Add(within); ; {
			var got bool
			if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&got); err != nil {
				return fmt.Errorf("lock: %w", err)
			}
			if got {
				break
			}
			holder, err := holderOf(ctx, conn, key)
			if err != nil {
				return err
			}
			if holder != nil && holder.name == "sallyport "+s.boot { // a session that we have given up
				if _, err := conn.ExecContext(ctx, `SELECT pg_terminate_backend($1)`, holder.PID); err != nil {
					return fmt.Errorf("end the session before this one: %w", err)
				}
			}
			if time.Now().After(until) {
				return holder.refusal(e.name())
			}
			time.Sleep(leastPause)
		}
		if !first { // nobody can take it over any more
			if err := e.ours(ctx, s, conn); err != nil {
				return err
			}
		}
		return conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&e.pid)
	}()
	if err != nil {
		return errors.Join(err, discard(conn))
	}
	s.conn = conn
	return nil
}

// ours fails if another start has taken the database over.
func (e *postgres) ours(ctx context.Context, s *Store, q querier) error {
	var boot string
	err := q.QueryRowContext(ctx, `SELECT boot FROM control`).Scan(&boot)
	if err == nil && boot != s.boot {
		e.taken = true
		err = errTaken
	}
	return err
}

// discard ends a session, which lets go of its locks.
func discard(conn *sql.Conn) error {
	err := conn.Raw(func(any) error { return driver.ErrBadConn })
	if lost(err) {
		return nil
	}
	return err
}

// again, in a session that still is the one with the lock, does nothing. Otherwise it
// opens another and gets the lock again, unless another start has had it meanwhile:
// what we know in memory is then no more what is stored, and never will be again.
func (e *postgres) again(ctx context.Context, s *Store) error {
	if e.taken {
		return errTaken
	}
	if s.conn != nil {
		err := e.mine(s, s.conn.QueryRowContext(ctx, `SELECT boot, pg_backend_pid() FROM control`))
		if err == nil || e.taken {
			return err
		}
		s.stmts.close()
		s.stmts = statements{}
		_ = discard(s.conn) // it is gone either way
		s.conn = nil
	}
	if wait := time.Until(e.tried.Add(e.pause)); wait > 0 {
		return e.last
	}
	e.last = func() error {
		if err := e.session(ctx, s, time.Second, false); err != nil {
			return err
		}
		return e.prepare(ctx, s)
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

// mine fails unless the database is ours and the row was read in the session with
// the lock.
func (e *postgres) mine(s *Store, row *sql.Row) error {
	var boot string
	var pid int64
	if err := row.Scan(&boot, &pid); err != nil {
		return err
	}
	if boot != s.boot {
		e.taken = true
		return errTaken
	}
	if pid != e.pid {
		return sallyport.Refuse(sallyport.NotReady, "statements of one session reach PostgreSQL in different ones",
			"connect store.postgres to the server itself, or through a pooler in session mode")
	}
	return nil
}

var errTaken = sallyport.Refuse(sallyport.NotReady, "another start of sallyport has taken over the store", "use that one; this one writes nothing any more and has to be ended")

func (e *postgres) begin(ctx context.Context, s *Store) error {
	if s.conn == nil {
		return sql.ErrConnDone
	}
	if _, err := s.stmts.begin.ExecContext(ctx); err != nil {
		return err
	}
	return e.mine(s, e.fence.QueryRowContext(ctx))
}

func (e *postgres) insert(ctx context.Context, s *Store, from int64, records []*sealed) error {
	if len(records) == 0 {
		return nil
	}
	runs, bodies, payloads := make([]string, len(records)), make([][]byte, len(records)), make([][]byte, len(records))
	for i, r := range records {
		runs[i], bodies[i], payloads[i] = string(r.run), r.body, r.payload
	}
	if _, err := s.stmts.record.ExecContext(ctx, from, runs, bodies, payloads); err != nil {
		return fmt.Errorf("records from %d: %w", from, err)
	}
	return nil
}

func (e *postgres) close(*Store) error { return nil } // the lock ends with the session

// lockKey is the key of the advisory lock: one for every schema of a database.
func lockKey(ctx context.Context, q querier) (int64, error) {
	var schema sql.NullString
	if err := q.QueryRowContext(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return 0, err
	}
	if !schema.Valid {
		return 0, sallyport.Refuse(sallyport.BadConfig, "there is no schema to make tables in", "CREATE SCHEMA, or name one with search_path in the URL")
	}
	h := fnv.New64a()
	h.Write([]byte("sallyport store in " + schema.String))
	return int64(h.Sum64()), nil
}

// Session is a session of PostgreSQL that holds the lock.
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

func (h *Session) refusal(store string) *sallyport.Refusal {
	if h == nil {
		return sallyport.Refuse(sallyport.Conflict, "another session has the store "+store+" open", "try again; reading the log (audit verify, audit export) works beside it")
	}
	from := "the same machine as the server"
	if h.From != "" {
		from = h.From
	}
	r := sallyport.Refuse(sallyport.Conflict,
		fmt.Sprintf("session %d from %s has had the store %s open since %s", h.PID, from, store, h.Since.Format(time.RFC3339)),
		fmt.Sprintf("stop the sallyport there first; if its machine is gone, end its session: SELECT pg_terminate_backend(%d); reading the log (audit verify, audit export) works beside it", h.PID))
	r.Detail = map[string]any{"pid": h.PID, "from": h.From, "since": h.Since}
	return r
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
