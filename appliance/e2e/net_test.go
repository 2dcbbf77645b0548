package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// inNamespace runs f on a thread of its own in a named network namespace.
// Sockets made by f stay in it.
func inNamespace(ns string, f func() error) error {
	if ns == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		h, err := netns.GetFromName(ns)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", ns, err)
			return
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			done <- fmt.Errorf("network namespace %s: %w", ns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func dialIn(ns, network, address string) (conn net.Conn, err error) {
	err = inNamespace(ns, func() error {
		// A literal address: no resolver goroutine leaves the thread.
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).DialContext(context.Background(), network, address)
		return err
	})
	return conn, err
}

// freePorts finds the first of n consecutive ports free for UDP and TCP on
// 127.0.0.1 in the namespace. They stay free only as long as nobody else takes
// them, which the short way to their use makes good enough.
func freePorts(t testing.TB, ns string, n int) uint16 {
	t.Helper()
	var first uint16
	err := inNamespace(ns, func() error {
		for range 200 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			base := l.Addr().(*net.TCPAddr).Port
			l.Close()
			if base+n > 65535 || !allFree(base, n) {
				continue
			}
			first = uint16(base)
			return nil
		}
		return fmt.Errorf("no %d free ports in a row", n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return first
}

func allFree(base, n int) bool {
	for p := base; p < base+n; p++ {
		address := fmt.Sprintf("127.0.0.1:%d", p)
		l, err := net.Listen("tcp", address)
		if err != nil {
			return false
		}
		l.Close()
		u, err := net.ListenPacket("udp", address)
		if err != nil {
			return false
		}
		u.Close()
	}
	return true
}
