package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport"
)

const (
	stderrLines = 100
	stderrLine  = 1 << 10 // bytes kept of a line
	// stopGrace is how long a child has to end after its input was closed, and
	// again after SIGTERM, before SIGKILL.
	stopGrace = 2 * time.Second
	// lastWords is how long what a dead child has written may take to be read.
	lastWords = time.Second
)

// starter starts programs from one operating-system thread that lives until it
// is stopped. Linux kills a child when the thread that started it ends
// (prctl(2), PR_SET_PDEATHSIG), so a thread the runtime may end at any time
// would take children with it.
type starter struct {
	mu   sync.Mutex
	work chan func()
	done chan struct{}
}

func (s *starter) start(cmd *exec.Cmd) error {
	s.mu.Lock()
	if s.work == nil {
		s.work, s.done = make(chan func()), make(chan struct{})
		go s.run(s.work, s.done)
	}
	work := s.work
	s.mu.Unlock()
	result := make(chan error, 1)
	work <- func() { result <- cmd.Start() }
	return <-result
}

func (s *starter) run(work <-chan func(), done chan<- struct{}) {
	defer close(done)
	// Never unlocked: the thread ends with this goroutine, and with it whatever
	// child should still be there.
	runtime.LockOSThread()
	for f := range work {
		f()
	}
}

// stop ends the thread. Nobody may start anything during or after it.
func (s *starter) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work != nil {
		close(s.work)
		<-s.done
		s.work = nil
	}
}

// process is a running child in a process group of its own.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	exited chan struct{} // closed when it has been reaped
	err    error         // how it exited; read after exited

	mu sync.Mutex
	// reaped: the process group's number may be another's by now.
	reaped bool
}

// startProcess starts the command of a transport with exactly the environment
// given. Its standard error goes line by line to stderr.
func startProcess(s *starter, t *sallyport.Transport, env map[string]string, stderr func([]byte)) (*process, error) {
	path, err := lookPath(t.Command[0], t.Dir, env)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, t.Command[1:]...)
	cmd.Args[0] = t.Command[0]
	cmd.Dir = t.Dir
	cmd.Env = []string{} // nil would be this program's own
	for _, k := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, k+"="+env[k])
	}
	detach(cmd)

	// Pipes by hand: cmd's own would be closed by Wait before all is read.
	var pipes [6]*os.File
	closeAll := func() {
		for _, f := range pipes {
			if f != nil {
				f.Close()
			}
		}
	}
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			closeAll()
			return nil, err
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes[0], pipes[3], pipes[5]
	if err := s.start(cmd); err != nil {
		closeAll()
		return nil, err
	}
	pipes[0].Close()
	pipes[3].Close()
	pipes[5].Close()
	p := &process{cmd: cmd, stdin: pipes[1], stdout: pipes[2], exited: make(chan struct{})}
	said := make(chan struct{})
	go func() {
		defer close(said)
		eachLine(pipes[4], stderr)
		pipes[4].Close()
	}()
	go func() {
		p.reap()
		// What it started and left behind outside its group may hold the pipes open.
		pipes[4].SetReadDeadline(time.Now().Add(lastWords))
		p.stdout.SetReadDeadline(time.Now().Add(lastWords))
		<-said
		close(p.exited)
	}()
	return p, nil
}

// stop ends the process and its group: first by closing its input, then by
// SIGTERM, then by SIGKILL. It returns when it has been reaped. Once now is
// closed it does not wait any longer.
func (p *process) stop(now <-chan struct{}) {
	p.stdin.Close()
	for _, force := range []bool{false, true} {
		timer := time.NewTimer(stopGrace)
		select {
		case <-p.exited:
			timer.Stop()
			return
		case <-timer.C:
		case <-now:
			timer.Stop()
			p.kill()
			<-p.exited
			return
		}
		if force {
			p.kill()
		} else {
			p.signal(terminate)
		}
	}
	<-p.exited
}

// kill ends the process and its group at once.
func (p *process) kill() { p.signal(kill) }

func (p *process) signal(send func(*exec.Cmd)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		send(p.cmd)
	}
}

// lookPath finds a program as a shell in dir would: one with a separator in its
// name from there, any other by the PATH it will run with, or by that of this
// program if it is given none.
func lookPath(name, dir string, env map[string]string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		path, err := filepath.Abs(name)
		if err != nil {
			return "", err
		}
		return exec.LookPath(path)
	}
	path, given := env["PATH"]
	if !given {
		return exec.LookPath(name)
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// eachLine calls f with each line of what file delivers, without its end, cut
// to stderrLine bytes.
func eachLine(file *os.File, f func([]byte)) {
	in := bufio.NewReaderSize(file, stderrLine)
	cut := false
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 && !cut {
			f(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
		cut = err != nil
	}
}

// ring keeps the last lines that children wrote to standard error.
type ring struct {
	log   *slog.Logger
	mu    sync.Mutex
	lines []string
	next  int
}

func (r *ring) add(line []byte) {
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	r.mu.Lock()
	if len(r.lines) < stderrLines {
		r.lines = append(r.lines, text)
	} else {
		r.lines[r.next] = text
		r.next = (r.next + 1) % stderrLines
	}
	r.mu.Unlock()
	r.log.Debug("upstream wrote to standard error", "line", text)
}

// last returns the lines, oldest first.
func (r *ring) last() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.lines[r.next:]), r.lines[:r.next]...)
}
