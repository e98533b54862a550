package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"sallyport"
)

// holder is what the lock file says of the process that has the store.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// hold takes the store at path for this process. The lock (flock(2) on a file beside
// the database) is the kernel's: it ends with the process, however that ends, and
// what the file says is only for people. The file stays, since a lock on a file
// that has been unlinked keeps nobody out. Readers take no lock.
func hold(path string, now time.Time) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		text, _ := io.ReadAll(io.LimitReader(f, 1024)) // without it nobody is named
		return nil, errors.Join(heldBy(path, text), f.Close())
	}
	if err == nil {
		var text []byte
		if text, err = json.Marshal(holder{os.Getpid(), now.UTC().Truncate(time.Second)}); err == nil {
			err = f.Truncate(0)
		}
		if err == nil {
			_, err = f.WriteAt(append(text, '\n'), 0)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s.lock: %w", path, err), f.Close())
	}
	return f, nil
}

func heldBy(path string, text []byte) *sallyport.Refusal {
	var h holder
	reason, detail := "another process has the store "+path+" open", map[string]any(nil)
	hint := "stop that process first, or name another project directory with --dir"
	if json.Unmarshal(text, &h) == nil && h.PID > 0 {
		reason = fmt.Sprintf("process %d has had the store %s open since %s", h.PID, path, h.Since.Format(time.RFC3339))
		hint = fmt.Sprintf("stop process %d first, or name another project directory with --dir", h.PID)
		detail = map[string]any{"pid": h.PID, "since": h.Since}
	}
	r := sallyport.Refuse(sallyport.Conflict, reason, hint+"; reading the log (audit verify, audit export) works beside it")
	r.Detail = detail
	return r
}
