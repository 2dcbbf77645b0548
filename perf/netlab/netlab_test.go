package netlab

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// A datagram reaches the gateway from either side, in both families, and the
// namespaces are gone afterwards.
func TestLab(t *testing.T) {
	ring.Needs(t, ring.Root)
	for _, v6 := range []bool{false, true} {
		l, err := New(v6)
		if err != nil {
			t.Fatal(err)
		}
		a := l.Addresses()
		for _, way := range []struct {
			from *Host
			to   netip.Addr
		}{{l.Browsers, a.GatewayOutside}, {l.Phones, a.GatewayInside}} {
			var in, out net.Conn
			if err := l.Gateway.Do(func() (err error) {
				in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(way.to, 4000)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := way.from.Do(func() (err error) {
				out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(way.to, 4000)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			b := make([]byte, 16)
			_ = in.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := in.Read(b); err != nil || string(b[:n]) != "hello" {
				t.Errorf("%s to %s: %q, %v", way.from.Name, way.to, b[:n], err)
			}
			in.Close()
			out.Close()
		}
		name := l.Gateway.Name
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat("/run/netns/" + name); !os.IsNotExist(err) {
			t.Errorf("%s is still there", name)
		}
	}
}
