package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// topology is three network namespaces in a row, browser - gateway - phone,
// joined by veth pairs. The gateway's ends are called "browsers" and "phones".
type topology struct {
	t                      testing.TB
	browser, gateway, near string // names of the namespaces; near is the phone's
	v6                     bool
	gatewayBrowserSide     netip.Addr
	gatewayPhoneSide       netip.Addr
	browserAddress         netip.Addr
	phoneAddress           netip.Addr
}

type wiring struct {
	v6   bool
	vlan int  // tag of the phone side, 0 = none
	gro  bool // the far ends of the veth pairs take native XDP's frames
}

var namespaces atomic.Int32

func newTopology(t testing.TB, w wiring) *topology {
	t.Helper()
	n := namespaces.Add(1)
	name := func(part string) string { return fmt.Sprintf("slc%d%s%d", os.Getpid(), part, n) }
	p := &topology{t: t, browser: name("b"), gateway: name("g"), near: name("p"), v6: w.v6}
	for _, ns := range []string{p.browser, p.gateway, p.near} {
		run(t, command("", "ip", "netns", "add", ns))
		t.Cleanup(func() { _ = command("", "ip", "netns", "del", ns).Run() })
		p.ip(ns, "link set lo up")
	}
	p.cable(p.browser, "browsers")
	p.cable(p.near, "phones")
	phones, far := "phones", "eth0"
	if w.vlan != 0 {
		for _, end := range []struct{ ns, dev string }{{p.gateway, "phones"}, {p.near, "eth0"}} {
			// The tag travels in the frame, as on a wire, not beside it.
			ethtoolFlag(t, end.ns, end.dev, unix.ETHTOOL_GFLAGS, unix.ETHTOOL_SFLAGS, 0, 1<<7|1<<8)
			p.ip(end.ns, fmt.Sprintf("link add link %s name %s.%d type vlan id %d", end.dev, end.dev, w.vlan, w.vlan))
			p.ip(end.ns, fmt.Sprintf("link set %s.%d up", end.dev, w.vlan))
		}
		phones, far = fmt.Sprintf("phones.%d", w.vlan), fmt.Sprintf("eth0.%d", w.vlan)
	}
	prefix, bits := [2]string{"10.77.1.", "10.77.2."}, "24"
	if w.v6 {
		prefix, bits = [2]string{"fd77:1::", "fd77:2::"}, "64 nodad"
	}
	p.gatewayBrowserSide, p.browserAddress = netip.MustParseAddr(prefix[0]+"1"), netip.MustParseAddr(prefix[0]+"2")
	p.gatewayPhoneSide, p.phoneAddress = netip.MustParseAddr(prefix[1]+"1"), netip.MustParseAddr(prefix[1]+"2")
	for _, a := range []struct {
		ns, dev string
		addr    netip.Addr
	}{
		{p.gateway, "browsers", p.gatewayBrowserSide}, {p.browser, "eth0", p.browserAddress},
		{p.gateway, phones, p.gatewayPhoneSide}, {p.near, far, p.phoneAddress},
	} {
		p.ip(a.ns, fmt.Sprintf("addr add %s/%s dev %s", a.addr, bits, a.dev))
	}
	p.ip(p.browser, "route add default via "+p.gatewayBrowserSide.String())
	p.ip(p.near, "route add default via "+p.gatewayPhoneSide.String())
	if w.gro {
		for _, ns := range []string{p.browser, p.near} {
			ethtoolFlag(t, ns, "eth0", 0, unix.ETHTOOL_SGRO, 1, 0)
		}
	}
	return p
}

// has8021Q tells whether the kernel can have VLAN interfaces at all: some are
// built without.
func has8021Q() bool {
	_, err := os.Stat("/proc/net/vlan")
	return err == nil || command("", "modprobe", "-q", "8021q").Run() == nil
}

// cable joins eth0 of a namespace to a device of the gateway's.
func (p *topology) cable(ns, gatewayDev string) {
	p.t.Helper()
	p.ip(p.gateway, fmt.Sprintf("link add %s type veth peer name eth0 netns %s", gatewayDev, ns))
	p.ip(p.gateway, "link set "+gatewayDev+" up")
	p.ip(ns, "link set eth0 up")
}

func (p *topology) ip(ns, arguments string) {
	p.t.Helper()
	run(p.t, command("", "ip", append([]string{"-n", ns}, strings.Fields(arguments)...)...))
}

// ethtoolFlag sets a value by the legacy ioctls of ethtool(8). With get set it
// reads the value first and clears the bits of off.
func ethtoolFlag(t testing.TB, ns, dev string, get, set, value, off uint32) {
	t.Helper()
	err := inNamespace(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		call := func(cmd uint32, data *uint32) error {
			argument := [2]uint32{cmd, *data}
			var ifr struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}
			copy(ifr.name[:], dev)
			ifr.data = unsafe.Pointer(&argument)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
			runtime.KeepAlive(&argument)
			*data = argument[1]
			if errno != 0 {
				return fmt.Errorf("ethtool command %#x on %s: %w", cmd, dev, errno)
			}
			return nil
		}
		if get != 0 {
			if err := call(get, &value); err != nil {
				return err
			}
			value &^= off
		}
		return call(set, &value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// occupy puts an XDP program that is not the gateway's on a device.
func (p *topology) occupy(dev string) {
	p.t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Name: "someone_else",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return()},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	var l link.Link
	err = inNamespace(p.gateway, func() error {
		index, err := interfaceIndex(dev)
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: index})
		return err
	})
	program.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { l.Close() })
}

func interfaceIndex(dev string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(dev)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("%s: %w", dev, err)
	}
	return int(ifr.Uint32()), nil
}
