package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// network is made of network namespaces of a test's own. They have no names: they are
// gone when nothing uses them any more, also if the test is killed. In the middle are
// clients and upstreams; the replicas reach them, and are reached, over one cable
// each ("front"), and the database over another ("back"). Addresses are of the network
// for benchmarks (RFC 2544, section C.2.2), and of no use outside.
type network struct {
	middle, database *namespace
	replicas         []*namespace
}

const (
	middleAddress   = "198.18.0.1"
	databaseAddress = "198.18.1.1"
	backNet         = "198.18.1.0/24"
)

func replicaAddress(segment, i int) string { return fmt.Sprintf("198.18.%d.%d", segment, 11+i) }

// newNetwork makes the network of some replicas. It needs the right to (CAP_SYS_ADMIN and
// CAP_NET_ADMIN, which root has) and the program ip.
func newNetwork(t *testing.T, replicas int) (*network, error) {
	t.Helper()
	n := &network{}
	var err error
	made := func(into **namespace) {
		if err == nil {
			if *into, err = newNamespace(); err == nil {
				t.Cleanup(func() { (*into).file.Close() })
			}
		}
	}
	made(&n.middle)
	made(&n.database)
	n.replicas = make([]*namespace, replicas)
	for i := range n.replicas {
		made(&n.replicas[i])
	}
	if err != nil {
		return nil, err
	}
	lines := []string{
		"link set lo up", "link add front type bridge", "link set front up", "address add " + middleAddress + "/24 dev front",
		"link add back type bridge", "link set back up",
	}
	cable := func(name, segment string, to *namespace) {
		lines = append(lines, fmt.Sprintf("link add %s type veth peer name %s netns %s", name, segment, to.path()),
			fmt.Sprintf("link set %s master %s up", name, segment))
	}
	cable("database", "back", n.database)
	for i, r := range n.replicas {
		cable(fmt.Sprint("front", i), "front", r)
		cable(fmt.Sprint("back", i), "back", r)
	}
	err = n.middle.ip(lines...)
	plug := func(in *namespace, segment, address string) {
		err = errors.Join(err, in.ip("link set lo up", "address add "+address+"/24 dev "+segment, "link set "+segment+" up"))
	}
	plug(n.database, "back", databaseAddress)
	for i, r := range n.replicas {
		plug(r, "front", replicaAddress(0, i))
		plug(r, "back", replicaAddress(1, i))
	}
	return n, err
}

// cut pulls the cable between a replica and the database out at its far end: whatever is
// sent vanishes, on both sides, and nobody is told. join puts it back.
func (n *network) cut(replica int) error {
	return n.middle.ip(fmt.Sprintf("link set back%d down", replica))
}
func (n *network) join(replica int) error {
	return n.middle.ip(fmt.Sprintf("link set back%d up", replica))
}

// ground is the middle.
func (n *network) ground() ground {
	return ground{
		start: n.middle.start,
		listen: func() (l net.Listener, err error) {
			err = n.middle.do(func() error {
				l, err = net.Listen("tcp", middleAddress+":0")
				return err
			})
			return l, err
		},
		dial: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = n.middle.do(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}
}

// namespace is a network namespace; nil is that of the test itself.
type namespace struct{ file *os.File }

func newNamespace() (n *namespace, err error) {
	err = (*namespace)(nil).aside(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		n = &namespace{file}
		return err
	})
	return n, err
}

// path leads any program to the namespace.
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// do runs f on a thread that is in the namespace: the sockets that it makes and the
// programs that it starts belong there.
func (n *namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	return n.aside(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// aside runs f on a thread that is the test's again afterwards.
func (n *namespace) aside(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		result <- err
	}()
	return <-result
}

func (n *namespace) start(cmd *exec.Cmd) error { return n.do(cmd.Start) }

// ip has the program ip execute lines.
func (n *namespace) ip(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	return n.do(func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w: %s (script/need ip:iproute2 installs it)", err, out)
		}
		return nil
	})
}
