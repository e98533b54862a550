package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport"
	"sallyport/internal/store/conform"
	"sallyport/internal/testkit/pgserver"
)

// shared is the server of all tests here that do not stop it.
var shared = sync.OnceValues(func() (*pgserver.Server, error) { return pgserver.Start() })

var started = false

func TestMain(m *testing.M) {
	if url := os.Getenv(envWriter); url != "" {
		writeAlways(url)
		return
	}
	code := m.Run()
	if started {
		if s, err := shared(); err == nil {
			if err := s.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	os.Exit(code)
}

func server(t testing.TB) *pgserver.Server {
	t.Helper()
	started = true
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPostgres: the store does all that an engine has to do.
func TestPostgres(t *testing.T) {
	s := server(t)
	conform.Run(t, func(t *testing.T) conform.Place { return newDatabase(t, s) })
}

// database is where a store on PostgreSQL keeps its tables.
type database struct {
	server *pgserver.Server
	name   string
	all    *[]string // the names it has had: dropped when the test has ended
}

func newDatabase(t testing.TB, s *pgserver.Server) *database {
	t.Helper()
	name, err := s.Fresh()
	if err != nil {
		t.Fatal(err)
	}
	all := &[]string{name}
	t.Cleanup(func() {
		for _, name := range *all {
			if err := s.Drop(name); err != nil {
				t.Error(err)
			}
		}
	})
	return &database{s, name, all}
}

func (d *database) Open(ctx context.Context, s conform.Settings) (conform.Engine, error) {
	opened, err := Open(ctx, Config{
		Postgres: d.server.URL(d.name), Origin: s.Origin, Signer: s.Signer, SealingKey: s.SealingKey, PseudonymKey: s.PseudonymKey,
		Now: s.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil { // not a nil *store.Store in an interface that is not nil
		return nil, err
	}
	// It does all that one of several does, which ends what is over only while it leads.
	for e := opened.db.(*postgres); !e.leads.Load(); {
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), opened.Close())
		case <-time.After(time.Millisecond):
		}
	}
	return opened, nil
}

func (d *database) Crash() (conform.Place, error) {
	name, err := d.server.Killed(d.name)
	*d.all = append(*d.all, name)
	return &database{d.server, name, d.all}, err
}

func (d *database) Erase(run sallyport.RunID) error {
	return d.server.Exec(d.name, `DELETE FROM data_keys WHERE run = $1`, string(run))
}

func (d *database) Bytes() ([]byte, error) {
	var all bytes.Buffer
	err := d.server.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, table := range tables {
			if _, err := c.PgConn().CopyTo(ctx, &all, "COPY "+table+" TO STDOUT (FORMAT binary)"); err != nil {
				return err
			}
		}
		return nil
	})
	return all.Bytes(), err
}
