package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// setForwarding switches routing of a whole namespace.
func (h *host) setForwarding(t testing.TB, value string) {
	t.Helper()
	must(t, h.do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte(value), 0))
	}))
}

// A machine that is no router need not become one: routes are asked from lo.
func TestNoRouter(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		l := newLab(t)
		l.gateway.setForwarding(t, "0")
		e := l.engine(t, AttachNative)
		c := newCall(t, l, v6, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
		c.warm(t)
		c.install(t, e, 99)
		c.exchange(t, 100, 120, 160)
		if v := verdicts(t, e); v["xdp:forwarded"] != 40 {
			t.Errorf("v6=%v: verdicts are %v\n%s", v6, v, e.Report())
		}
		must(t, l.gateway.do(func() error {
			for _, family := range families {
				for _, name := range []string{outside, inside, "all"} {
					if on, err := forwarding(family, name); err != nil || on {
						t.Errorf("forwarding of %s on %s: %v, %v", family, name, on, err)
					}
				}
			}
			return nil
		}))
	}
}

// What XDP cannot finish, tc does: the route is not answered because forwarding
// is off, or the neighbour has not been resolved yet. Nothing comes up, nothing
// is lost.
func TestHandedToTC(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("forwarding off/v6=%v", v6), func(t *testing.T) {
			l := newLab(t)
			e := l.engine(t, AttachNative)
			l.gateway.setForwarding(t, "0") // after the start: nobody prepared lo
			c := newCall(t, l, v6, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
			c.warm(t)
			c.install(t, e, 99)
			c.exchange(t, 100, 120, 160)
			if v := verdicts(t, e); v["tc:forwarded"] != 40 || v["xdp:tc_route"] != 40 {
				t.Errorf("verdicts are %v", v)
			}
			silent(t, c.atIn)
			silent(t, c.atOut)
		})
		t.Run(fmt.Sprintf("neighbour unknown/v6=%v", v6), func(t *testing.T) {
			l := newLab(t)
			e := l.engine(t, AttachNative)
			c := newCall(t, l, v6, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
			c.install(t, e, 99)
			c.exchange(t, 100, 120, 160)
			v := verdicts(t, e)
			if v["tc:forwarded"]+v["xdp:forwarded"] != 40 || v["tc:forwarded"] == 0 {
				t.Errorf("verdicts are %v", v)
			}
		})
	}
}

// Kernels before 6.6 have no tcx: the clsact filter does the same, is found by
// the next start and left alone.
func TestClsact(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachTC)
	filters := func() (found []*netlink.BpfFilter) {
		dev, err := netlink.LinkByName(outside)
		must(t, err)
		list, err := netlink.FilterList(dev, netlink.HANDLE_MIN_INGRESS)
		must(t, err)
		for _, f := range list {
			if b, ok := f.(*netlink.BpfFilter); ok {
				found = append(found, b)
			}
		}
		return found
	}
	must(t, l.gateway.do(func() error {
		a := &attacher{objects: e.objects, dir: e.dir.layout(bpf.Layout)}
		for _, name := range []string{outside, inside} {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			// The tcx link that the engine made gives way.
			for _, at := range e.attachments {
				if at.report.Name == name {
					must(t, at.tc.Unpin())
					must(t, at.tc.Close())
					at.tc = nil
				}
			}
			for range 2 { // the second time there is nothing to do
				if at := a.attach(dev, AttachTC); at.report.Path != PathTC {
					return fmt.Errorf("%s: %s", name, at.report.Why)
				}
			}
		}
		if got := filters(); len(got) != 1 || got[0].Name != filterName {
			t.Errorf("filters are %+v", got)
		}
		return nil
	}))
	c := newCall(t, l, false, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 120, 160)
	if v := verdicts(t, e); v["tc:forwarded"] != 40 {
		t.Errorf("verdicts are %v", v)
	}
}

// packetSocket sees whole frames of a peer's interface.
func (h *host) packetSocket(t testing.TB) (fd, ifindex int, mac []byte) {
	t.Helper()
	must(t, h.do(func() error {
		dev, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		ifindex, mac = dev.Attrs().Index, dev.Attrs().HardwareAddr
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex})
	}))
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	return fd, ifindex, mac
}

// A stream comes in untagged and leaves with a VLAN tag; one with a tag comes in
// and leaves without. By XDP and by tc.
func TestVLAN(t *testing.T) {
	t.Parallel()
	const vlan = 77
	for _, how := range []Attach{AttachNative, AttachGeneric, AttachTC} {
		t.Run(string(how), func(t *testing.T) {
			l := newLab(t)
			e := l.engine(t, how)
			c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
			c.warm(t)
			c.install(t, e, 99)

			if how != AttachTC { // tc sends by the VLAN interface, which tags
				// As if the browsers' side were VLAN interface 77 on this device.
				fl := e.flows[c.down.ID]
				v := fl.value
				v.Vlan = vlan
				must(t, e.objects.maps.streams.Put(fl.key, &v))
				browser, _, _ := l.browser.packetSocket(t)
				_, err := c.phone.WriteToUDPAddrPort(sent(t, &c.down, 100, 160), c.inAt)
				must(t, err)
				frame := receiveTagged(t, browser, vlan)
				if want := expected(t, &c.down, 100, 160); !bytes.HasSuffix(frame, want) {
					t.Errorf("tagged frame is\n%x, must end with\n%x", frame, want)
				}
			}

			// A tagged packet of the browser's.
			fd, ifindex, mac := l.browser.packetSocket(t)
			var gateway []byte
			must(t, l.gateway.do(func() error {
				dev, err := netlink.LinkByName(outside)
				if err == nil {
					gateway = dev.Attrs().HardwareAddr
				}
				return err
			}))
			tagged := append(bytes.Clone(gateway), mac...)
			tagged = append(tagged, 0x81, 0, 0, vlan, 0x08, 0)
			tagged = append(tagged, udpIPv4(c.browserAt, c.outAt, sent(t, &c.up, 100, 160))...)
			must(t, unix.Sendto(fd, tagged, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}))
			c.check(t, c.phone, &c.up, 100, 160)
		})
	}
}

// receiveTagged waits for a frame of a VLAN and returns it as the socket gives it.
func receiveTagged(t testing.TB, fd int, vlan uint16) []byte {
	t.Helper()
	b, oob := make([]byte, 2048), make([]byte, 128)
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, 0)
		if err != nil {
			break
		}
		if n > 18 && binary.BigEndian.Uint16(b[12:]) == unix.ETH_P_8021Q && binary.BigEndian.Uint16(b[14:])&0xfff == vlan {
			return b[:n]
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		must(t, err)
		for _, m := range messages {
			// struct tpacket_auxdata: status at 0, tci at 16.
			if m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 &&
				binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 && binary.NativeEndian.Uint16(m.Data[16:])&0xfff == vlan {
				return b[:n]
			}
		}
	}
	t.Fatalf("no frame of VLAN %d", vlan)
	return nil
}

// udpIPv4 is a datagram with its headers; the UDP checksum is 0, none.
func udpIPv4(from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum>>16+sum))
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// Every size up to what fits the MTU gets through, whatever this driver can
// grow, both ways and to SRTP from RTP.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, how := range []Attach{AttachNative, AttachGeneric, AttachTC} {
		t.Run(string(how), func(t *testing.T) {
			l := newLab(t)
			e := l.engine(t, how)
			for _, p := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
				t.Run(p.String(), func(t *testing.T) { everySize(t, l, e, p) })
			}
			t.Log(verdicts(t, e))
		})
	}
}

func everySize(t *testing.T, l *lab, e *Engine, p srtp.Profile) {
	c := newCall(t, l, false, p, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	index := uint64(100)
	for size := 0; size <= 1440; size++ {
		if size > 300 && size < 1380 && size%37 != 0 {
			continue
		}
		c.exchange(t, index, index+1, size)
		index++
	}
	silent(t, c.atIn)
	silent(t, c.atOut)
	for _, id := range []dataplane.FlowID{1, 2} {
		_, err := e.Remove(id)
		must(t, err)
	}
}

// Left to itself the engine takes native XDP where the peers take its frames,
// generic XDP where not, and from a native interface to one whose peer takes no
// XDP frames tc sends.
func TestAuto(t *testing.T) {
	t.Parallel()
	gro := func(h *host, on bool) {
		must(t, h.do(func() error {
			tool, err := ethtool.NewEthtool()
			if err != nil {
				return err
			}
			defer tool.Close()
			return tool.Change(uplink, map[string]bool{"rx-gro": on})
		}))
	}
	for _, tc := range []struct {
		name            string
		browser, phone  bool
		outside, inside string
		verdict         string
	}{
		{"both peers poll", true, true, PathNative, PathNative, "xdp:forwarded"},
		{"no peer polls", false, false, PathGeneric, PathGeneric, "xdp:forwarded"},
		{"one peer polls", false, true, PathGeneric, PathNative, "xdp:tc_device"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			gro(l.browser, tc.browser)
			gro(l.phone, tc.phone)
			e := l.engine(t, AttachAuto)
			if e.Path(outside) != tc.outside || e.Path(inside) != tc.inside {
				t.Fatalf("paths are not %s and %s:\n%s", tc.outside, tc.inside, e.Report())
			}
			c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
			c.warm(t)
			c.install(t, e, 99)
			c.exchange(t, 100, 120, 160)
			if v := verdicts(t, e); v[tc.verdict] == 0 || v["xdp:forwarded"]+v["tc:forwarded"] != 40 {
				t.Errorf("verdicts are %v", v)
			}
		})
	}
}
