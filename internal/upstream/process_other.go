//go:build !linux

package upstream

import "os/exec"

// Without Linux a child is ended alone and not with its group, and one whose
// gateway was killed ends only when it finds its input closed.

func detach(*exec.Cmd) {}

func terminate(cmd *exec.Cmd) { kill(cmd) }

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

// reap waits for the process to end and collects it.
func (p *process) reap() {
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.reaped = err, true
}
