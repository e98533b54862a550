package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"sallyport"
	"sallyport/internal/control"
)

// Condition is the state of a store's files, as doctor looks at it.
type Condition struct {
	// Holder is the process that has the store open, zero if none has, and Since
	// when it opened it.
	Holder int
	Since  time.Time
	// Schema is the version of the schema that the file has, Newest the one that
	// this program brings it to.
	Schema, Newest int64
	// Damage is what SQLite's own check of the file says; none is nil.
	Damage []string
	// Writing is nil if a transaction that writes could be begun.
	Writing error
}

// Examine looks at the store at path, whether a program has it open or not. It
// changes nothing. A store that is not there is an error that wraps
// [fs.ErrNotExist].
func Examine(ctx context.Context, path string) (*Condition, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	c := &Condition{}
	if err := c.readHolder(path); err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	var err error
	if c.Newest, err = sqliteDialect.newest(); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rw&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&c.Schema); err != nil {
		c.Damage = append(c.Damage, err.Error())
	}
	err = each(ctx, db, `PRAGMA quick_check(20)`, func(scan func(...any) error) error {
		var said string
		if err := scan(&said); err != nil {
			return err
		}
		if said != "ok" {
			c.Damage = append(c.Damage, said)
		}
		return nil
	})
	if err != nil {
		c.Damage = append(c.Damage, err.Error())
	}
	tx, err := db.BeginTx(ctx, nil)
	if err == nil {
		err = tx.Rollback()
	}
	c.Writing = err
	return c, nil
}

// DatabaseCondition is the state of a store in PostgreSQL, as doctor looks at it.
type DatabaseCondition struct {
	Server
	// Refusal is why no store can be kept there, nil if one can.
	Refusal  *sallyport.Refusal
	Replicas []control.Replica // at work
	// Schema is the version of the tables, zero if there are none; Newest is the one
	// that this program brings them to.
	Schema, Newest int64
	Writable       bool // the role may write the records
}

// ExaminePostgres looks at the store in a database, whether a program has it open or
// not. It changes nothing.
func ExaminePostgres(ctx context.Context, url string, lax bool) (*DatabaseCondition, error) {
	e := &postgres{url: url}
	if err := e.parse(); err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*e.settings("sallyport doctor", map[string]string{"default_transaction_read_only": "on"}))
	defer db.Close()
	server, err := examineServer(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", e.name(), withRemedy(err))
	}
	c := &DatabaseCondition{Server: *server, Refusal: server.refusal(lax)}
	if c.Newest, err = postgresDialect.newest(); err != nil {
		return nil, err
	}
	if e.schema, err = schemaOf(ctx, db); err != nil {
		return nil, err
	}
	var made bool
	if err := db.QueryRowContext(ctx, `SELECT to_regclass('arrivals') IS NOT NULL AND to_regclass('goose_db_version') IS NOT NULL`).Scan(&made); err != nil || !made {
		return c, err
	}
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0), has_table_privilege('arrivals', 'INSERT') FROM goose_db_version WHERE is_applied`).Scan(&c.Schema, &c.Writable); err != nil {
		return nil, fmt.Errorf("store %s: %w", e.name(), withRemedy(err))
	}
	c.Replicas, err = replicas(ctx, db, 0)
	return c, err
}

// readHolder asks whether the lock is taken. A lock that is free is held for an
// instant, shared: asking is taking.
func (c *Condition) readHolder(path string) error {
	f, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return err
	}
	var h holder
	if json.Unmarshal(text, &h) != nil || h.PID == 0 {
		h.PID = -1 // somebody
	}
	c.Holder, c.Since = h.PID, h.Since
	return nil
}
