package testkit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/wire"
)

// The environment of a stdio server.
const (
	envMode     = "SALLYPORT_TESTKIT"
	envEra      = "SALLYPORT_TESTKIT_ERA"
	envDelay    = "SALLYPORT_TESTKIT_DELAY"
	envHang     = "SALLYPORT_TESTKIT_HANG"
	envProgress = "SALLYPORT_TESTKIT_PROGRESS"
	envResult   = "SALLYPORT_TESTKIT_RESULT"
	envError    = "SALLYPORT_TESTKIT_ERROR"
	envExit     = "SALLYPORT_TESTKIT_EXIT_AFTER"
	envStderr   = "SALLYPORT_TESTKIT_STDERR"
	envStubborn = "SALLYPORT_TESTKIT_STUBBORN"
)

// Stdio is a server over stdio: the test binary itself, started again. The
// TestMain of its package has to call Main first.
type Stdio struct {
	Era       wire.Era // the one it speaks; zero for both
	Delay     time.Duration
	Hang      bool   // calls are never answered
	Progress  int    // notifications before each response to a call
	Result    string // of a call, byte for byte; no line breaks
	Error     string // of a call, byte for byte; no line breaks
	ExitAfter int    // calls, the last of which is not answered; zero for never
	Stderr    string // written at the start
	Stubborn  bool   // ends neither when its input does nor when asked to terminate
}

// Command is what to start, and its whole environment.
func (s Stdio) Command(tb testing.TB) (command []string, env map[string]string) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("path of the test binary: %v", err)
	}
	env = map[string]string{envMode: "stdio"}
	switch s.Era {
	case wire.Sessions:
		env[envEra] = wire.Version20251125
	case wire.Stateless:
		env[envEra] = wire.Version20260728
	}
	set := func(name, value string, wanted bool) {
		if wanted {
			env[name] = value
		}
	}
	set(envDelay, s.Delay.String(), s.Delay > 0)
	set(envHang, "1", s.Hang)
	set(envProgress, strconv.Itoa(s.Progress), s.Progress > 0)
	set(envResult, s.Result, s.Result != "")
	set(envError, s.Error, s.Error != "")
	set(envExit, strconv.Itoa(s.ExitAfter), s.ExitAfter > 0)
	set(envStderr, s.Stderr, s.Stderr != "")
	set(envStubborn, "1", s.Stubborn)
	return []string{self}, env
}

// Main returns at once, unless this process was started as a server: then it
// serves until its input ends, and does not return.
func Main() {
	if os.Getenv(envMode) != "stdio" {
		return
	}
	s := stdioServer{}
	s.knobs.result = result(DefaultSize)
	if text := os.Getenv(envResult); text != "" {
		s.knobs.result = []byte(text)
	}
	if text := os.Getenv(envError); text != "" {
		s.knobs.failure = []byte(text)
	}
	s.knobs.hang = os.Getenv(envHang) != ""
	s.knobs.delay, _ = time.ParseDuration(os.Getenv(envDelay)) // absent is zero
	s.knobs.progress, _ = strconv.Atoi(os.Getenv(envProgress))
	s.exitAfter, _ = strconv.Atoi(os.Getenv(envExit))
	if era, ok := wire.EraOf(os.Getenv(envEra)); ok {
		s.era = era
	}
	stubborn := os.Getenv(envStubborn) != ""
	if stubborn {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	}
	if text := os.Getenv(envStderr); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	err := s.serve()
	for stubborn {
		time.Sleep(time.Hour)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type stdioServer struct {
	era       wire.Era
	knobs     knobs
	exitAfter int
	calls     int
	out       sync.Mutex // one message is written at a time
}

// serve answers until the input ends. Calls are answered side by side.
func (s *stdioServer) serve() error {
	lines := wire.NewLineReader(os.Stdin, 64<<20)
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the input: %w", err)
		}
		m, err := wire.Scan(line, wire.Limits{Bytes: 64 << 20})
		if err != nil {
			return fmt.Errorf("read a message: %w", err)
		}
		if m.Kind != wire.Request {
			continue
		}
		era := eraOf(&m, "")
		if m.Method == wire.MethodServerDiscover {
			era = wire.Stateless
		}
		if s.era != 0 && era != s.era {
			s.send(wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "this era is not spoken", nil))
			continue
		}
		if m.Method != wire.MethodToolsCall {
			reply := answer(nil, &m, era, &s.knobs)
			if reply == nil {
				reply = wire.AppendError(nil, m.ID.Of(m.Raw), wire.MethodNotFound, "unknown method", nil)
			}
			s.send(reply)
			continue
		}
		if s.calls++; s.calls == s.exitAfter {
			os.Exit(3)
		}
		go func() {
			for n := range s.knobs.progress {
				s.send(progress(&m, n+1))
			}
			time.Sleep(s.knobs.delay)
			if !s.knobs.hang {
				s.send(answer(nil, &m, era, &s.knobs))
			}
		}()
	}
}

func (s *stdioServer) send(message []byte) {
	s.out.Lock()
	defer s.out.Unlock()
	if _, err := os.Stdout.Write(append(message, '\n')); err != nil {
		os.Exit(1)
	}
}
