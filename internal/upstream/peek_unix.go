//go:build unix

package upstream

import "syscall"

// peekable reports whether a read of the socket would return at once: with
// data, with the end of the stream, or with an error. It takes nothing from it.
func peekable(fd uintptr) bool {
	var one [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		default:
			return true
		}
	}
}
