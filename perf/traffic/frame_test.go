package traffic

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Frames are read back by a decoder that is not ours, checksums included.
func TestFrame(t *testing.T) {
	a, b := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for _, tc := range []struct{ src, dst string }{{"127.0.0.1:5004", "127.0.0.2:6000"}, {"[fd00::1]:5004", "[fd00::2]:6001"}} {
		f := NewFramer(a, b, netip.MustParseAddrPort(tc.src), netip.MustParseAddrPort(tc.dst))
		for _, n := range []int{0, 1, 172, 1200} {
			buf := make([]byte, FrameRoom+1300)
			want := bytes.Repeat([]byte{0xab}, n)
			copy(buf[f.Headers():], want)
			frame := f.Finish(buf, n)
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
			if udp == nil || !bytes.Equal(udp.Payload, want) {
				t.Fatalf("%s, %d octets: %v", tc.src, n, p)
			}
			if err := udp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
			for _, l := range p.Layers() {
				c, ok := l.(gopacket.LayerWithChecksum)
				if !ok {
					continue
				}
				if err, got := c.VerifyChecksum(); err != nil || !got.Valid {
					t.Errorf("%s, %d octets: checksum of %v: %+v %v", tc.src, n, l.LayerType(), got, err)
				}
			}
			port, payload, ok := Payload(frame)
			if !ok || port != netip.MustParseAddrPort(tc.dst).Port() || !bytes.Equal(payload, want) {
				t.Errorf("%s, %d octets: read back as %d, %d octets, %v", tc.src, n, port, len(payload), ok)
			}
		}
	}
}
