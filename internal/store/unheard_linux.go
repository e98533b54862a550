package store

import (
	"errors"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unheard has a connection end when what was sent has not been acknowledged for so
// long, by the other machine, not its programs (RFC 5482). Without it the system goes on
// for a quarter of an hour.
func unheard(network string, c syscall.RawConn, after time.Duration) (err error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	done := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
	return errors.Join(done, err)
}
