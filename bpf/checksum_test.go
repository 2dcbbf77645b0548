package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestPartialChecksum sends from a real socket on the far side of a veth, whose
// checksum is left to the device, and from one that sends none. At tc the first
// must stay left to the device, with the sum of the new pseudo header, and the
// second must get a whole one.
func TestPartialChecksum(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(31, 32))
	for _, profile := range []Profile{Plain, AEADGCM} {
		r.streams = 0
		out := r.session(profile, rnd)
		s := r.install(r.session(Plain, rnd), out, 0, 7, nil)
		for i, none := range []bool{false, true} {
			index := uint16(i + 1)
			plain := shapes[0].rtp(rnd, false, 96, index, 5, 7)
			var got []byte
			if profile == Plain && i == 0 {
				r.inside(func() { r.wire(t) })
			}
			r.inside(func() { got = r.through(t, plain, none) })
			want := r.leaving(0, 0, out.protect(t, s.sent(plain, shapes[0], uint64(index)), uint64(index)+s.value.IndexOffset))
			if len(got) != len(want) {
				t.Fatalf("profile %d: got\n%x, want\n%x", profile, got, want)
			}
			// the socket's own TOS, identification and header checksum
			copy(want[14:34], got[14:34])
			if sum := checksum(0, got[14:34]); sum != 0xffff {
				t.Errorf("profile %d, header sum %#x", profile, sum)
			}
			if !none {
				udp := len(got) - 34
				binary.BigEndian.PutUint16(want[40:], uint16(pseudo(gatewayOut[0].Addr(), farOut[0].Addr(), udp)))
			}
			if string(got) != string(want) {
				t.Errorf("profile %d, no checksum %v: got\n%x, want\n%x", profile, none, got, want)
			}
		}
	}
}

// wire makes in0 with the far end in a namespace of its own, and puts the tc
// program at its ingress.
func (r *rig) wire(t *testing.T) {
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	r.far, err = netns.New() // and we are in it
	must(t, err)
	must(t, netns.Set(home))
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "in0"}, PeerName: "phone0", PeerNamespace: netlink.NsFd(int(r.far)),
	}))
	in, err := netlink.LinkByName("in0")
	must(t, err)
	address := func(name, cidr string) netlink.Link {
		l, err := netlink.LinkByName(name)
		must(t, err)
		a, err := netlink.ParseAddr(cidr)
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
		must(t, netlink.LinkSetUp(l))
		return l
	}
	address("in0", "10.1.0.1/24")
	must(t, netns.Set(r.far))
	phone := address("phone0", "10.1.0.2/24")
	must(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: phone.Attrs().Index, IP: gatewayIn[0].Addr().AsSlice(),
		HardwareAddr: in.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
	}))
	must(t, netns.Set(home))
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: in.Attrs().Index, Program: r.programs[ProgramTC], Attach: ebpf.AttachTCXIngress,
	})
	must(t, err)
	t.Cleanup(func() {
		l.Close()
		r.far.Close()
	})
}

// through sends one datagram from the far side and returns the frame that
// arrives behind out0.
func (r *rig) through(t *testing.T, payload []byte, none bool) []byte {
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	far, err := netlink.LinkByName("far0")
	must(t, err)
	const ip = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8
	tap, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, ip)
	must(t, err)
	defer unix.Close(tap)
	must(t, unix.Bind(tap, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: far.Attrs().Index}))
	must(t, unix.SetsockoptTimeval(tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	must(t, netns.Set(r.far))
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(t, netns.Set(home))
	must(t, err)
	defer unix.Close(s)
	if none {
		must(t, unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1))
	}
	must(t, unix.Bind(s, sockaddr(farIn[0])))
	must(t, unix.Sendto(s, payload, 0, sockaddr(gatewayIn[0])))
	b := make([]byte, 2048)
	n, _, err := unix.Recvfrom(tap, b, 0)
	must(t, err)
	return b[:n]
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}
