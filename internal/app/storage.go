package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/auth"
	"sallyport/internal/config"
	"sallyport/internal/store"
)

// storeConfig is how the store of a project directory is opened.
func storeConfig(dir string, server *config.Server, ring *auth.Ring, log *slog.Logger) (store.Config, error) {
	c := store.Config{
		Origin: ring.Origin, Signer: ring.Signer, SealingKey: ring.Sealing, PseudonymKey: ring.Pseudonyms, Now: time.Now, Log: log,
		AsynchronousCommit: server.AsynchronousCommit,
	}
	if server.Postgres == "" {
		c.Path = (&App{Options: Options{Dir: dir}}).path(server.Store)
		return c, nil
	}
	url, err := storeURL(dir, server)
	c.Postgres = url
	return c, err
}

// storeURL is what store.postgres leads to. No error repeats it.
func storeURL(dir string, server *config.Server) (string, error) {
	url, err := secret(dir, server.Secrets, server.Postgres)
	if err != nil {
		return "", sallyport.Refuse(sallyport.BadConfig, "store.postgres: "+err.Error(), "put the URL of the database there: postgres://user:password@host:5432/database")
	}
	return url, nil
}

// CopyStore copies the SQLite store at path (empty for where it is by default) of a
// stopped server into the empty PostgreSQL database of its project directory, and
// verifies all of the copy.
func CopyStore(ctx context.Context, dir, path string) (*store.Copied, error) {
	server, problems := config.LoadServer(os.DirFS(dir))
	if len(problems) > 0 {
		return nil, problems
	}
	if server.Postgres == "" {
		return nil, sallyport.Refuse(sallyport.BadConfig, "sallyport.yaml names no PostgreSQL database to copy to", "write the reference to its URL there: store: {postgres: env:SALLYPORT_STORE}")
	}
	if path == "" {
		path = filepath.Join(dir, filepath.FromSlash(server.Store))
	}
	if _, err := os.Stat(path); err != nil {
		return nil, sallyport.Refuse(sallyport.NotFound, "there is no store at "+path, "name the file with --from")
	}
	ring, err := auth.OpenRing((&App{Options: Options{Dir: dir}}).path(server.Keys))
	if err != nil {
		return nil, err
	}
	to, err := storeConfig(dir, &server, ring, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	copied, err := store.Copy(ctx, path, to)
	if err != nil {
		return nil, err
	}
	log, err := store.OpenReader(ctx, to)
	if err != nil {
		return nil, err
	}
	report, err := audit.VerifySource(ctx, log, audit.VerifyOptions{Keys: []string{ring.Verifier}, Beside: log.Check})
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	if !report.OK {
		return nil, fmt.Errorf("the copy of %d records was made, and it does not verify, and neither may the original: look at both with audit verify", copied.Size)
	}
	return copied, nil
}
