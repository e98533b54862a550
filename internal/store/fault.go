package store

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"sallyport"
)

// remedy says what people can do about an error of the disk or the database; it is
// empty where nothing is known.
func remedy(err error) string {
	code := -1
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		code = e.Code() & 0xff // the rest is an extended code
	}
	if text := remedyOfPostgres(err); text != "" {
		return text
	}
	switch {
	case code == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return "make room on the disk; what has been recorded is safe"
	case code == sqlite3.SQLITE_READONLY || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES):
		return "let this user write the store's folder"
	case code == sqlite3.SQLITE_IOERR || errors.Is(err, syscall.EIO):
		return "look at the disk: it is full, or cannot be read or written; the kernel's log says which"
	case code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB:
		return "the file is damaged: keep a copy of it, restore a backup, and check that with audit verify --against a checkpoint kept elsewhere"
	}
	return ""
}

// remedyOfPostgres tells by the SQLSTATE (PostgreSQL's manual, appendix A).
func remedyOfPostgres(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case e.Code == "53100":
			return "make room on the disk of the PostgreSQL server; what has been recorded is safe"
		case e.Code == "53300":
			return "raise max_connections of the PostgreSQL server, or let fewer programs use it: each sallyport server needs up to sixteen"
		case e.Code == "3D000":
			return "create the database: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
		case e.Code == "42P01":
			return "start it once, which makes the tables: sallyport up"
		case e.Code == "42501":
			return "let the role of store.postgres own the schema: ALTER SCHEMA public OWNER TO role"
		case strings.HasPrefix(e.Code, "28"):
			return "correct the user or password that store.postgres leads to"
		case e.Code == "25006":
			return "name the primary in store.postgres: this server takes no writes"
		case strings.HasPrefix(e.Code, "XX"):
			return "look at the log of the PostgreSQL server: it finds damage"
		}
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || lost(err) {
		return "see that the PostgreSQL server runs and can be reached from here"
	}
	return ""
}

// unread is what somebody is told who cannot be known, because the store cannot be
// read at the moment.
func (s *Store) unread(err error) error {
	connect, server, cut := (*pgconn.ConnectError)(nil), (*pgconn.PgError)(nil), (*net.OpError)(nil)
	gone := errors.As(err, &connect) || errors.As(err, &server) && strings.HasPrefix(server.Code, "57P") // the server ends
	if _, ok := errors.AsType[*sallyport.Refusal](err); ok || err == nil {
		return err
	}
	gone = gone || errors.As(err, &cut) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) || // "conn closed", for one
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) // also of whoever waited for the same connection
	if !gone && !lost(err) && s.Ready() == nil {
		return err
	}
	return sallyport.Refuse(sallyport.NotReady, "the store cannot be read at the moment, so nothing is done", "try again later; halts work all the same: sallyport halt --local on the server's machine")
}

// promptly bounds what a call waits for before it is judged: a database that is not
// heard of does not keep callers waiting for it.
func (s *Store) promptly(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.Replicated() {
		return context.WithTimeout(ctx, lease)
	}
	return ctx, func() {}
}

// Error is an error of the disk or the database, with what to do about it.
type Error struct {
	err    error
	remedy string
}

func (e *Error) Error() string { return e.err.Error() + " (" + e.remedy + ")" }
func (e *Error) Unwrap() error { return e.err }

// withRemedy adds what to do about an error, if anything is known.
func withRemedy(err error) error {
	if text := remedy(err); text != "" {
		return &Error{err, text}
	}
	return err
}

// undecided is what somebody is told who decided something that the store could
// not write. The error itself is for the log.
func (s *Store) undecided(err error) error {
	if _, ok := errors.AsType[*sallyport.Refusal](err); ok || err == nil {
		return err
	}
	s.Log.Error("the store could not be written", "err", withRemedy(err))
	hint := remedy(err)
	if hint == "" {
		hint = "an operator has to look at the log"
	}
	return sallyport.Refuse(sallyport.NotReady, "nothing can be recorded at the moment, so this was not done", hint+"; then look whether it was done before you repeat it")
}
