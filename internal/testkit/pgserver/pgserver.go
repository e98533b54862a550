// Package pgserver starts a PostgreSQL server that belongs to a test: on a socket in
// a folder of its own, as a user without privileges, with the settings that
// PostgreSQL has by itself.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a server that has been started. Close it.
type Server struct {
	place    Place
	dir, bin string
	as       *syscall.Credential
	settings []string
	cmd      *exec.Cmd
	alive    io.Closer // the server ends when this is closed, also if the test is killed
	made     atomic.Int64
}

// Place is where a server can be reached, beside its socket.
type Place struct {
	Address string                // an IP address; empty for nowhere
	Net     string                // who may come in by it, as in 198.18.0.0/24; they are believed
	Start   func(*exec.Cmd) error // starts the server, as in a network namespace
}

// Start makes a server and starts it. Settings are as in "fsync=off". A machine that
// has no PostgreSQL is an error: script/need installs it.
func Start(settings ...string) (*Server, error) {
	return StartAt(Place{Start: (*exec.Cmd).Start}, settings...)
}

// StartAt is Start for a server that listens somewhere.
func StartAt(p Place, settings ...string) (_ *Server, err error) {
	s := &Server{place: p, settings: settings}
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "sallyport-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return nil, err
		}
	}
	init := s.command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if p.Address != "" {
		hba, err := os.OpenFile(filepath.Join(s.data(), "pg_hba.conf"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprintf(hba, "host all all %s trust\n", p.Net)
		if err := errors.Join(err, hba.Close()); err != nil {
			return nil, err
		}
	}
	return s, s.Up()
}

// programs is the folder of the newest server: of Debian's packages, else of PATH.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if len(found) > 0 {
		return filepath.Dir(found[0]), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("there is no PostgreSQL server on this machine: script/need pg_ctlcluster:postgresql installs it")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// Up starts the server and waits until it answers.
func (s *Server) Up() error {
	args := []string{"-c", `"$@" & server=$!; read -r _; kill -QUIT $server 2>/dev/null; wait $server`, "sh",
		filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=" + s.place.Address}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	cmd := s.command("/bin/sh", args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := s.place.Start(cmd); err != nil {
		return err
	}
	s.cmd, s.alive = cmd, stdin
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := s.Exec("postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(until) {
			said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("the server does not answer: %w\n%s", err, said)
		}
	}
}

// Down ends the server as if it had crashed.
func (s *Server) Down() error {
	if s.cmd == nil {
		return nil
	}
	err := s.alive.Close()
	_ = s.cmd.Wait() // it was told to crash
	s.cmd = nil
	return err
}

// Close ends the server and removes all it has kept.
func (s *Server) Close() error {
	return errors.Join(s.Down(), os.RemoveAll(s.dir))
}

// URLAt is the address of a database for those whom the server's place lets in.
func (s *Server) URLAt(database string) string {
	return "postgres://postgres@" + s.place.Address + "/" + database + "?sslmode=disable"
}

// URL is the address of a database.
func (s *Server) URL(database string) string {
	return "postgres://postgres@/" + database + "?host=" + s.dir
}

// Exec executes statements in a database, over a connection of its own.
func (s *Server) Exec(database, statements string, args ...any) error {
	return s.Use(database, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, statements, args...)
		return err
	})
}

// Use connects to a database, as nobody in particular.
func (s *Server) Use(database string, do func(ctx context.Context, c *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	return do(ctx, c)
}

// Fresh makes an empty database and returns its name.
func (s *Server) Fresh() (string, error) {
	name := "d" + strconv.FormatInt(s.made.Add(1), 10)
	return name, s.Exec("postgres", "CREATE DATABASE "+name)
}

// Drop drops a database, whoever uses it.
func (s *Server) Drop(database string) error {
	return s.Exec("postgres", "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)")
}

// Sever ends all sessions of a database with a name that begins so, and waits until
// they are gone.
func (s *Server) Sever(database, name string) error {
	return s.Use("postgres", func(ctx context.Context, c *pgx.Conn) error {
		for {
			var left int
			err := c.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE $2`,
				database, strings.ReplaceAll(name, "_", `\_`)+"%").Scan(&left)
			if err != nil || left == 0 {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// Killed moves a database to another name, ending whatever uses it at this moment,
// and returns that: nobody who knew it finds it any more.
func (s *Server) Killed(database string) (string, error) {
	name := "d" + strconv.FormatInt(s.made.Add(1), 10)
	if err := s.Exec("postgres", "ALTER DATABASE "+database+" WITH ALLOW_CONNECTIONS false"); err != nil {
		return "", err
	}
	if err := s.Sever(database, ""); err != nil {
		return "", err
	}
	if err := s.Exec("postgres", "ALTER DATABASE "+database+" RENAME TO "+name); err != nil {
		return "", err
	}
	return name, s.Exec("postgres", "ALTER DATABASE "+name+" WITH ALLOW_CONNECTIONS true")
}
