package store

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"sallyport"
	"sallyport/internal/store/conform"
)

// TestSQLite: the store does all that an engine has to do.
func TestSQLite(t *testing.T) {
	conform.Run(t, func(t *testing.T) conform.Place { return &folder{t: t, path: t.TempDir()} })
}

// folder is where a store on SQLite keeps its files.
type folder struct {
	t    *testing.T
	path string
	was  string // before the crash; nobody looks there again
}

func (f *folder) file() string { return filepath.Join(f.path, "store.db") }

func (f *folder) Open(ctx context.Context, s conform.Settings) (conform.Engine, error) {
	if err := os.RemoveAll(f.was); err != nil {
		return nil, err
	}
	opened, err := Open(ctx, Config{
		Path: f.file(), Origin: s.Origin, Signer: s.Signer, SealingKey: s.SealingKey, PseudonymKey: s.PseudonymKey,
		Now: s.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil { // not a nil *store.Store in an interface that is not nil
		return nil, err
	}
	return opened, nil
}

func (f *folder) Crash() (conform.Place, error) {
	after := &folder{t: f.t, path: f.t.TempDir(), was: f.path}
	return after, copyKilled(f.file(), after.file())
}

// copyKilled copies the files of a store as they would be found if the program had
// just been killed. The database comes first: what is moved there from the
// write-ahead log afterwards is in that log still, which begins anew only when it
// is much longer than the tests here make it.
func copyKilled(from, to string) error {
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(from + suffix)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to+suffix, raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) Erase(run sallyport.RunID) error {
	db, err := sql.Open("sqlite", "file:"+f.file())
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(`DELETE FROM data_keys WHERE run = $1`, string(run))
	return err
}

func (f *folder) Bytes() ([]byte, error) {
	files, err := filepath.Glob(f.file() + "*")
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, raw...)
	}
	return all, nil
}
