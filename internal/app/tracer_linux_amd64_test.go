package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trappedCalls are the system calls that a traced program stops before. They
// are those by which it changes files or speaks to anybody; writes to mapped
// memory are not among them, and no tracer sees those.
var trappedCalls = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAME: "rename",
	unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_LINKAT: "linkat", unix.SYS_CONNECT: "connect",
}

const envProgram = "SALLYPORT_TEST_PROGRAM"

func init() { modes["launch"] = launch }

// launch makes the kernel stop this thread before every trapped call (seccomp(2),
// SECCOMP_RET_TRACE) and becomes the program: the filter outlives execve(2). The
// calls that are not trapped run at full speed, which PTRACE_SYSCALL would not let
// them.
func launch() error {
	runtime.LockOSThread()                                                       // the filter is this thread's, and so is what becomes of it
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // offset 0: the number of the call
	for nr := range trappedCalls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	path := os.Getenv(envProgram)
	if err := os.Unsetenv(envMode); err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
}

// systemCall is one that is about to happen.
type systemCall struct {
	name string
	// on is the base name of the file it is about; or "upstream", "agent" or "pipe"
	// for a connection to an upstream, one of an agent or person, and the input of
	// a child.
	on string
}

func (c systemCall) String() string { return c.name + " " + c.on }

// verdict is what becomes of a system call; the zero verdict lets it happen.
type verdict struct {
	kill  bool       // the program, exactly before the call
	stall bool       // hold the call back for a while first, and let the rest of the program go on
	fail  unix.Errno // instead of the call
	half  bool       // write half of what it says
	after func() (kill bool)
}

// traced is the program under ptrace(2). Its system calls are judged one at a time.
type traced struct {
	pid    int
	stdout *os.File
	ended  chan struct{} // closed when the program has ended
	status unix.WaitStatus
	judge  atomic.Pointer[func(systemCall) verdict]

	// Owned by the tracing thread.
	after map[int]func() bool // by thread: to be asked when its call has happened
	group map[int]int         // process of a thread
}

// trace starts the program. judge, which may be nil, is asked from its first
// system call on.
func trace(t *testing.T, program string, stderr io.Writer, judge func(systemCall) verdict, args ...string) *traced {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, outChild, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, errsChild, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &traced{stdout: out, ended: make(chan struct{}), after: map[int]func() bool{}, group: map[int]int{}}
	p.judged(judge)
	started := make(chan error)
	go func() {
		// Only the thread that started the program may trace it. It ends with this
		// goroutine, and with it whatever it still traces (PTRACE_O_EXITKILL).
		runtime.LockOSThread()
		pid, err := syscall.ForkExec(self, append([]string{self}, args...), &syscall.ProcAttr{
			Env:   append(os.Environ(), envMode+"=launch", envProgram+"="+program),
			Files: []uintptr{0, outChild.Fd(), errsChild.Fd()},
			Sys:   &syscall.SysProcAttr{Ptrace: true},
		})
		p.pid = pid
		if err == nil {
			err = p.attach()
		}
		started <- err
		if err == nil {
			p.loop()
		}
	}()
	err = <-started
	outChild.Close()
	errsChild.Close()
	if err != nil {
		t.Fatalf("tracing the program: %v", err)
	}
	var copied sync.WaitGroup
	copied.Go(func() { _, _ = io.Copy(stderr, errs) })
	t.Cleanup(func() {
		_ = unix.Kill(p.pid, unix.SIGKILL) // it may have ended
		<-p.ended
		copied.Wait()
		out.Close()
		errs.Close()
	})
	return p
}

// judged makes f judge every system call from now on.
func (p *traced) judged(f func(systemCall) verdict) {
	if f == nil {
		p.judge.Store(nil)
		return
	}
	p.judge.Store(&f)
}

func (p *traced) attach() error {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &ws, unix.WALL, nil); err != nil {
		return err
	}
	if !ws.Stopped() {
		return fmt.Errorf("it ended: %v", ws)
	}
	if err := unix.PtraceSetOptions(p.pid, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACESECCOMP|
		unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACEFORK|unix.PTRACE_O_TRACEVFORK|unix.PTRACE_O_TRACEEXEC); err != nil {
		return err
	}
	return unix.PtraceCont(p.pid, 0)
}

// loop serves every stop until nothing is traced any more. Errors of ptrace calls
// mean that the thread is gone, which the next wait tells.
func (p *traced) loop() {
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return
		case !ws.Stopped():
			delete(p.after, tid)
			delete(p.group, tid)
			if tid == p.pid {
				p.status = ws
				close(p.ended)
			}
			continue
		}
		_, known := p.group[tid]
		if !known {
			p.group[tid] = groupOf(tid)
		}
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80: // a call that is to be asked about has happened
			after := p.after[tid]
			delete(p.after, tid)
			if after != nil && after() {
				_ = unix.Kill(p.pid, unix.SIGKILL)
			}
			_ = unix.PtraceCont(tid, 0)
		case sig == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			p.stop(tid)
		case sig == unix.SIGTRAP && ws.TrapCause() > 0, sig == unix.SIGSTOP && !known:
			_ = unix.PtraceCont(tid, 0)
		default:
			_ = unix.PtraceCont(tid, int(sig))
		}
	}
}

// stop is a thread about to make a trapped call.
func (p *traced) stop(tid int) {
	judge := p.judge.Load()
	var regs unix.PtraceRegs
	if p.group[tid] != p.pid || judge == nil || unix.PtraceGetRegs(tid, &regs) != nil {
		_ = unix.PtraceCont(tid, 0)
		return
	}
	v := (*judge)(systemCall{trappedCalls[regs.Orig_rax], p.object(tid, &regs)})
	switch {
	case v.kill && v.stall:
		time.AfterFunc(20*time.Millisecond, func() { _ = unix.Kill(p.pid, unix.SIGKILL) })
		return // this thread does not go on
	case v.kill:
		_ = unix.Kill(p.pid, unix.SIGKILL)
	case v.fail != 0:
		// A call without a number is skipped, and returns what is in its place.
		regs.Orig_rax, regs.Rax = ^uint64(0), uint64(-int64(v.fail))
		_ = unix.PtraceSetRegs(tid, &regs)
	case v.half:
		regs.Rdx = max(regs.Rdx/2, 1)
		_ = unix.PtraceSetRegs(tid, &regs)
	}
	if v.after != nil {
		p.after[tid] = v.after
		_ = unix.PtraceSyscall(tid, 0)
		return
	}
	_ = unix.PtraceCont(tid, 0)
}

// object says what a call is about.
func (p *traced) object(tid int, regs *unix.PtraceRegs) string {
	switch regs.Orig_rax {
	case unix.SYS_UNLINK:
		return filepath.Base(p.text(tid, regs.Rdi))
	case unix.SYS_UNLINKAT:
		return filepath.Base(p.text(tid, regs.Rsi))
	case unix.SYS_RENAME:
		return filepath.Base(p.text(tid, regs.Rsi))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		return filepath.Base(p.text(tid, regs.R10))
	case unix.SYS_CONNECT:
		return "upstream" // it connects to nobody else
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid, int32(regs.Rdi)))
	if err != nil {
		return ""
	}
	switch kind, inode, _ := strings.Cut(link, ":"); {
	case kind == "socket":
		return p.peer(strings.Trim(inode, "[]"))
	case kind == "pipe" && regs.Rdi > 2:
		return "pipe"
	default:
		return filepath.Base(link)
	}
}

// text reads a string of the program.
func (p *traced) text(tid int, at uint64) string {
	var buf [512]byte
	n, err := unix.PtracePeekData(tid, uintptr(at), buf[:])
	if err != nil {
		n = max(n, 0)
	}
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}

// peer tells the two sides of the program apart: a connection whose local port is
// also listened on is one that was accepted.
func (p *traced) peer(inode string) string {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", p.pid))
	if err != nil {
		return ""
	}
	listening, local := map[string]bool{}, ""
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		if f[3] == "0A" { // TCP_LISTEN
			listening[portOf(f[1])] = true
		}
		if f[9] == inode {
			local = portOf(f[1])
		}
	}
	switch {
	case local == "":
		return ""
	case listening[local]:
		return "agent"
	default:
		return "upstream"
	}
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address) // both in hexadecimal
	if err != nil {
		return ""
	}
	return port
}

// groupOf is the process that a thread is of, or zero.
func groupOf(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nTgid:")
	line, _, _ := strings.Cut(rest, "\n")
	group, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return group
}
