package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/internal/ring"
)

// host is a network namespace of a test.
type host struct {
	name string
	ns   netns.NsHandle
}

// do runs f on a thread of its own within the namespace; the thread ends with it.
func (h *host) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return err
		}
		return f()
	})
}

func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		result <- f()
	}()
	return <-result
}

// lab is browser -- gateway -- phone, two veth pairs.
type lab struct {
	browser, gateway, phone *host
	pins                    string // a bpf filesystem of its own
}

const (
	outside = "outside" // on the gateway, towards the browser
	inside  = "inside"  // on the gateway, towards the phone
	uplink  = "uplink"  // on either peer
)

var labs atomic.Uint32

func newLab(t testing.TB) *lab {
	t.Helper()
	ring.Needs(t.(ring.TB), ring.Root)
	l := &lab{pins: mountBPF(t)}
	prefix := fmt.Sprintf("slc%dk%d", os.Getpid(), labs.Add(1))
	for _, h := range []struct {
		to   **host
		name string
	}{{&l.browser, "b"}, {&l.gateway, "g"}, {&l.phone, "p"}} {
		*h.to = newHost(t, prefix+h.name)
	}
	l.wire(t, l.browser, outside, 1)
	l.wire(t, l.phone, inside, 2)
	must(t, l.gateway.do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}))
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mountBPF(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	must(t, os.Mkdir(dir, 0o700))
	must(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return filepath.Join(dir, "sluice")
}

func newHost(t testing.TB, name string) *host {
	t.Helper()
	h := &host{name: name}
	must(t, onThread(func() (err error) {
		if h.ns, err = netns.NewNamed(name); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	t.Cleanup(func() {
		h.ns.Close()
		must(t, netns.DeleteNamed(name))
	})
	return h
}

// addr is an address of the lab: net 1 is outside, 2 inside; the gateway is
// host 1, the peer host 2.
func addr(v6 bool, net, host byte) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0xfd, 1: net, 15: host})
	}
	return netip.AddrFrom4([4]byte{10, 91, net, host})
}

// wire joins a peer and the gateway, with addresses of both families and GRO on
// both ends: a veth takes XDP frames only when it polls.
func (l *lab) wire(t testing.TB, peer *host, side string, net byte) {
	t.Helper()
	must(t, peer.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = uplink, 2, 2
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: side, PeerNamespace: netlink.NsFd(l.gateway.ns)})
	}))
	must(t, peer.do(func() error { return up(uplink, net, 2) }))
	must(t, l.gateway.do(func() error { return up(side, net, 1) }))
	must(t, peer.do(func() error {
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		for _, v6 := range []bool{false, true} {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: addr(v6, net, 1).AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func up(name string, net, host byte) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer tool.Close()
	if err := tool.Change(name, map[string]bool{"rx-gro": true}); err != nil {
		return fmt.Errorf("GRO of %s: %w", name, err)
	}
	for _, v6 := range []bool{false, true} {
		bits := 24
		if v6 {
			bits = 64
		}
		a := &netlink.Addr{IPNet: ipNet(addr(v6, net, host), bits), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// networks are the gateway's.
func networks() []dataplane.Network {
	return []dataplane.Network{
		{Name: outside, Addresses: []netip.Addr{addr(false, 1, 1), addr(true, 1, 1)}},
		{Name: inside, Interface: inside},
	}
}

// engine starts an engine in the gateway, closed at the end of the test.
func (l *lab) engine(t testing.TB, how Attach) *Engine {
	t.Helper()
	e, err := l.start(Config{PinDir: l.pins, Networks: networks(), Interfaces: []Interface{{outside, how}, {inside, how}}, Streams: 64})
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

func (l *lab) start(cfg Config) (e *Engine, err error) {
	err = l.gateway.do(func() error {
		e, err = New(cfg)
		return err
	})
	return e, err
}

// listen opens a UDP socket in the host.
func (h *host) listen(t testing.TB, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	must(t, h.do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// receive waits for one datagram.
func receive(t testing.TB, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(2*time.Second)))
	b := make([]byte, 2048)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("no packet at %s: %v", c.LocalAddr(), err)
	}
	return b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// silent fails the test when anything has arrived at the socket.
func silent(t testing.TB, c *net.UDPConn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
	b := make([]byte, 2048)
	if n, from, err := c.ReadFromUDPAddrPort(b); err == nil {
		t.Errorf("%d octets from %s came up to %s", n, from, c.LocalAddr())
	}
}
