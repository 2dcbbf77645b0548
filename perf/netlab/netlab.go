// Package netlab builds the three hosts of a measurement as network namespaces:
// the browsers' side, the gateway and the phones' side, joined by veth. They go
// when the lab is closed; nothing outside of them is touched.
package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Host is one namespace of a lab with its one interface, or the gateway's two.
type Host struct {
	Name string
	ns   netns.NsHandle
}

// Lab is browsers -- gateway -- phones.
type Lab struct {
	Browsers, Gateway, Phones *Host
	V6                        bool
}

// Names of the interfaces, each within its host.
const (
	BrowserSide = "browsers" // on the gateway
	PhoneSide   = "phones"   // on the gateway
	HostSide    = "gateway"  // on either peer
)

// Addresses of the lab by family.
type Addresses struct {
	Browsers, GatewayOutside netip.Addr // towards the browsers
	Phones, GatewayInside    netip.Addr // towards the phones
}

// Addresses returns the lab's.
func (l *Lab) Addresses() Addresses {
	if l.V6 {
		return Addresses{netip.MustParseAddr("fd00:1::2"), netip.MustParseAddr("fd00:1::1"),
			netip.MustParseAddr("fd00:2::2"), netip.MustParseAddr("fd00:2::1")}
	}
	return Addresses{netip.MustParseAddr("10.91.1.2"), netip.MustParseAddr("10.91.1.1"),
		netip.MustParseAddr("10.91.2.2"), netip.MustParseAddr("10.91.2.1")}
}

var labs atomic.Uint32

// New makes a lab; it needs root. On error nothing is left behind.
func New(v6 bool) (_ *Lab, err error) {
	l := &Lab{V6: v6}
	defer func() {
		if err != nil {
			l.Close()
			l = nil
		}
	}()
	prefix := fmt.Sprintf("slc%dp%d", os.Getpid(), labs.Add(1))
	for _, h := range []struct {
		host **Host
		name string
	}{{&l.Browsers, "b"}, {&l.Gateway, "g"}, {&l.Phones, "p"}} {
		if *h.host, err = newHost(prefix + h.name); err != nil {
			return nil, err
		}
	}
	a := l.Addresses()
	if err = l.wire(l.Browsers, BrowserSide, a.Browsers, a.GatewayOutside); err != nil {
		return nil, err
	}
	if err = l.wire(l.Phones, PhoneSide, a.Phones, a.GatewayInside); err != nil {
		return nil, err
	}
	return l, l.Gateway.Do(func() error {
		for _, f := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(filepath.Join("/proc/sys", f), []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// newHost makes a named namespace, so that people can look inside with ip netns.
func newHost(name string) (*Host, error) {
	var h *Host
	err := onThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("network namespace %s: %w (root is needed)", name, err)
		}
		h = &Host{Name: name, ns: ns}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil && h != nil {
		h.close()
	}
	return h, err
}

// wire joins a peer and the gateway. Neighbours are permanent, so that nothing is
// measured that is not media.
func (l *Lab) wire(peer *Host, side string, outer, inner netip.Addr) error {
	var peerMAC, gatewayMAC net.HardwareAddr
	err := peer.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name, la.NumTxQueues, la.NumRxQueues = HostSide, 1, 1
		veth := &netlink.Veth{LinkAttrs: la, PeerName: side, PeerNamespace: netlink.NsFd(l.Gateway.ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth %s: %w", side, err)
		}
		var err error
		peerMAC, err = up(HostSide, outer)
		return err
	})
	if err != nil {
		return err
	}
	if err := l.Gateway.Do(func() (err error) { gatewayMAC, err = up(side, inner); return err }); err != nil {
		return err
	}
	if err := peer.Do(func() error { return neighbour(HostSide, inner, gatewayMAC) }); err != nil {
		return err
	}
	return l.Gateway.Do(func() error { return neighbour(side, outer, peerMAC) })
}

// up gives the interface its address and turns GRO on: a veth takes redirected
// XDP frames only from a peer that polls.
func up(name string, a netip.Addr) (net.HardwareAddr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	bits := 24
	if a.Is6() {
		bits = 64
		// No duplicate address detection: the address is usable at once.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", a, bits))
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return nil, fmt.Errorf("address %s on %s: %w", a, name, err)
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := e.Change(name, map[string]bool{"rx-gro": true}); err != nil {
		return nil, fmt.Errorf("GRO on %s: %w", name, err)
	}
	return link.Attrs().HardwareAddr, netlink.LinkSetUp(link)
}

// Sink makes the gateway send to link addresses that nobody has: frames still
// reach the peers' interfaces and packet sockets, and their IP layer drops them
// at once, without the port-unreachable answers that a host would send.
func (l *Lab) Sink() error {
	a := l.Addresses()
	return l.Gateway.Do(func() error {
		nobody := net.HardwareAddr{2, 0, 0, 0, 0, 99}
		return errors.Join(neighbour(BrowserSide, a.Browsers, nobody), neighbour(PhoneSide, a.Phones, nobody))
	})
}

func neighbour(name string, a netip.Addr, mac net.HardwareAddr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
}

// Do runs f on a thread inside the host's namespace. Sockets that f opens stay
// in it; goroutines that f starts do not.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("entering %s: %w", h.Name, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own that ends with it: its namespace is
// never given to other goroutines.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func (h *Host) close() error {
	return errors.Join(h.ns.Close(), netns.DeleteNamed(h.Name))
}

// Close removes the namespaces and what is in them.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range []*Host{l.Browsers, l.Gateway, l.Phones} {
		if h != nil {
			errs = append(errs, h.close())
		}
	}
	return errors.Join(errs...)
}

// Received is the number of packets the interface of the calling thread's
// namespace has taken in.
func Received(name string) (uint64, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.RxPackets, nil
}
