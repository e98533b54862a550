package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"sallyport"
	"sallyport/internal/config"
)

// spare is the file of halts that the store has not taken.
type spare struct{ path string }

// Kept implements [control.Spare].
func (s spare) Kept() ([]sallyport.Halt, error) {
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	halts, err := parseHalts(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return halts, nil
}

// Change implements [control.Spare].
func (s spare) Change(f func([]sallyport.Halt) []sallyport.Halt) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	lock, err := s.hold()
	if err != nil {
		return err
	}
	defer lock.Close()
	halts, err := s.Kept()
	if err != nil {
		return err
	}
	if halts = f(halts); len(halts) == 0 {
		if err := os.Remove(s.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	raw, err := json.Marshal(halts)
	if err != nil {
		return err
	}
	next, err := os.OpenFile(s.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(raw)
	if err = errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), s.path)
}

// hold keeps other processes from changing the file. One that does not let go
// within a second is not waited for: nothing may keep anybody from halting.
func (s spare) hold() (*os.File, error) {
	f, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for range 100 {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return f, nil
}

// HaltFile writes a halt where a running installation of the project finds it,
// or the next one to start: it needs neither the server nor the store.
func HaltFile(dir string, h sallyport.Halt) error {
	// Whatever is wrong elsewhere in the project must not keep anybody from halting.
	server, problems := config.LoadServer(os.DirFS(dir))
	if len(problems) > 0 {
		return problems
	}
	a := &App{Options: Options{Dir: dir}}
	s := spare{filepath.Join(filepath.Dir(a.path(server.Keys)), "halts.json")}
	return s.Change(func(kept []sallyport.Halt) []sallyport.Halt { return append(kept, h) })
}

// parseHalts reads the file of halts. It is strict, because what reads as no halt
// was meant to stop something: a member that is not known or is there twice, a
// list that is not one, or a halt that could stop nothing is an error, and whoever
// reads the file stops everything then.
func parseHalts(raw []byte) ([]sallyport.Halt, error) {
	var halts []sallyport.Halt
	if err := json.Unmarshal(raw, &halts, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if halts == nil {
		return nil, errors.New("no list of halts")
	}
	for i := range halts {
		h := &halts[i]
		var stage sallyport.Stage
		upstream, tool, _ := strings.Cut(h.Subject, "/")
		switch {
		case h.Scope == 0:
			return nil, fmt.Errorf("halt %d has no scope", i+1)
		case h.Scope == sallyport.HaltGlobal:
		case h.Subject == "":
			return nil, fmt.Errorf("halt %d names no %s to stop", i+1, h.Scope)
		case h.Scope == sallyport.HaltStage && stage.UnmarshalText([]byte(h.Subject)) != nil,
			h.Scope == sallyport.HaltTool && (upstream == "" || tool == ""):
			return nil, fmt.Errorf("halt %d: there is no %s of that name", i+1, h.Scope)
		}
	}
	return halts, nil
}
