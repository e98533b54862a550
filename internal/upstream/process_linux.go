package upstream

import (
	"errors"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// detach gives the child a process group of its own, and the kernel the order
// to kill it when this program dies, however it dies.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(cmd *exec.Cmd) { signalGroup(cmd, syscall.SIGTERM) }

func killGroup(cmd *exec.Cmd) { signalGroup(cmd, syscall.SIGKILL) }

// signalGroup may be called at any time: while the leader is a zombie its
// number cannot be another's, and reap holds it as one until the group is gone.
// After that the kernel may hand the number out again, but only to a group that
// a new process with that number made; reaped says not to try.
func signalGroup(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd.ProcessState == nil {
		_ = syscall.Kill(-cmd.Process.Pid, sig)
	}
}

// reap waits for the child to end, kills what it left in its group while its
// number is still its own, and collects it.
func reap(cmd *exec.Cmd) error {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return cmd.Wait()
}
