package store

import (
	"errors"
	"syscall"

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
