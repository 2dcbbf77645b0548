package dataplane

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

var _ ice.AddrPortReaderWriter = (*muxConn)(nil)

func stunMessage(kind uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, kind)
	binary.BigEndian.PutUint32(b[4:], 0x2112a442)
	return b
}

var dtlsRecord = []byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// TestDemux sends every first byte; only STUN and validated DTLS may come up.
func TestDemux(t *testing.T) {
	p := newPlane(t, nil)
	mux := p.BrowserMux("lo")[0]
	conn := listenUDP(t, false)
	to := mux.LocalAddr().(*net.UDPAddr).AddrPort()
	for b := range 256 {
		packet := make([]byte, 40)
		packet[0], packet[1] = byte(b), 0xff
		if _, err := conn.WriteToUDPAddrPort(packet, to); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 2048)
	for want := range 4 {
		n, from, err := mux.ReadFrom(buf)
		if err != nil || n != 40 || buf[0] != byte(want) {
			t.Fatalf("got %d bytes starting with %d from %v, %v; want STUN %d", n, buf[0], from, err, want)
		}
	}
	// What was sent before has been read by now, because order holds on loopback.
	send := func(packet []byte) {
		t.Helper()
		if _, err := conn.WriteToUDPAddrPort(packet, to); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(first byte) {
		t.Helper()
		if _, _, err := mux.ReadFrom(buf); err != nil || buf[0] != first {
			t.Fatalf("got a packet starting with %d, %v; want %d", buf[0], err, first)
		}
	}
	send(dtlsRecord) // not validated
	send(stunMessage(1))
	expect(0)
	remote := net.UDPAddrFromAddrPort(unmap(conn.LocalAddr().(*net.UDPAddr).AddrPort()))
	if _, err := mux.WriteTo(stunMessage(0x0111), remote); err != nil { // an error response proves nothing
		t.Fatal(err)
	}
	send(dtlsRecord)
	send(stunMessage(1))
	expect(0)
	if _, err := mux.WriteTo(stunMessage(0x0101), remote); err != nil {
		t.Fatal(err)
	}
	send(dtlsRecord)
	expect(22)
}

func TestDTLSFromPair(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	mux := p.BrowserMux("lo")[0]
	br.write(dtlsRecord)
	buf := make([]byte, 2048)
	n, from, err := mux.ReadFrom(buf)
	if err != nil || n != len(dtlsRecord) || from.(*net.UDPAddr).Port != int(br.addr().Port()) {
		t.Fatalf("%d bytes from %v, %v", n, from, err)
	}
}

// TestMuxBounds floods with STUN; DTLS still gets through and memory is bounded.
func TestMuxBounds(t *testing.T) {
	p := newPlane(t, nil)
	m := p.networks["lo"].browser[0].mux
	from := netip.MustParseAddrPort("127.0.0.1:1")
	now := time.Now()
	for range 3 * muxQueue {
		m.offer(classSTUN, stunMessage(1), from, false, now)
	}
	m.offer(classDTLS, dtlsRecord, from, true, now)
	buf := make([]byte, 100)
	if _, _, err := m.ReadFromAddrPort(buf); err != nil || buf[0] != 22 {
		t.Fatalf("DTLS waits behind STUN: %d, %v", buf[0], err)
	}
	for range muxQueue {
		if _, _, err := m.ReadFromAddrPort(buf); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.ReadFromAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("more than the bound was queued: %v", err)
	}
	for i := range validMax + 100 {
		m.validate(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 5), now)
	}
	if n := len(m.valid); n > validMax {
		t.Errorf("%d validated addresses", n)
	}
	m.validate(from, now.Add(2*validFor))
	if n := len(m.valid); n != 1 {
		t.Errorf("%d validated addresses after all but one expired", n)
	}
}

func TestMuxDeadlineAndClose(t *testing.T) {
	p := newPlane(t, nil)
	mux := p.BrowserMux("lo")[0]
	var wg sync.WaitGroup
	read := func(want error) {
		wg.Go(func() {
			if _, _, err := mux.ReadFrom(make([]byte, 10)); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	read(os.ErrDeadlineExceeded)
	read(os.ErrDeadlineExceeded)
	mux.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	wg.Wait()
	mux.SetReadDeadline(time.Time{})
	read(net.ErrClosed)
	read(net.ErrClosed)
	mux.Close()
	wg.Wait()
	if _, err := mux.WriteTo(stunMessage(1), mux.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

// TestICEUDPMux runs pion's own mux over the conn.
func TestICEUDPMux(t *testing.T) {
	p := newPlane(t, nil)
	mux := ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: p.BrowserMux("lo")[0]})
	conn, err := mux.GetConn("abcd", mux.GetListenAddresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	client := listenUDP(t, false)
	// A binding request whose USERNAME names the ufrag: attribute 6, "abcd:x".
	request := append(stunMessage(1), 0, 6, 0, 6, 'a', 'b', 'c', 'd', ':', 'x', 0, 0)
	binary.BigEndian.PutUint16(request[2:], 12)
	if _, err := client.WriteToUDPAddrPort(request, mux.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n, from, err := conn.ReadFrom(buf)
	if err != nil || n != len(request) {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := conn.WriteTo([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	client.SetReadDeadline(time.Now().Add(patience))
	if n, err = client.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if err := mux.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkErrors(t *testing.T) {
	taken := listenUDP(t, false).LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for name, n := range map[string]Network{
		"no address":    {Name: "x"},
		"wildcard":      {Name: "x", Addresses: []netip.Addr{netip.IPv4Unspecified()}},
		"two of family": {Name: "x", Addresses: []netip.Addr{loopback4, netip.MustParseAddr("127.0.0.2")}},
		"not ours":      {Name: "x", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		"taken port":    {Name: "x", Addresses: []netip.Addr{loopback4}, BrowserPort: taken},
		"empty range":   {Name: "x", Addresses: []netip.Addr{loopback4}, PortMin: 30001, PortMax: 30002},
	} {
		if p, err := New(Config{Networks: []Network{n}}); err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	p := newPlane(t, nil)
	if _, err := p.NewBrowserTransport("nowhere", Events{}); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("unknown network: %v", err)
	}
}

// TestPorts uses a range of four pairs up, and gets ports back after the drain.
func TestPorts(t *testing.T) {
	p := newPlane(t, func(c *Config) {
		c.Networks[0].PortMin, c.Networks[0].PortMax = 41000, 41007
		c.Networks[0].Addresses = c.Networks[0].Addresses[:1]
		c.Networks[0].Advertised = []netip.Addr{netip.MustParseAddr("198.51.100.7")}
		c.Drain = 20 * time.Millisecond
	})
	if _, err := p.NewPhoneTransport("lo", true, Events{}); !errors.Is(err, ErrNoFamily) {
		t.Errorf("no IPv6 here: %v", err)
	}
	var all []*Transport
	for range 4 {
		tr, err := p.NewPhoneTransport("lo", false, Events{})
		if err != nil {
			t.Fatal(err)
		}
		rtp, rtcp := tr.Local()
		if rtp.Port()%2 != 0 || rtcp.Port() != rtp.Port()+1 || rtp.Port() < 41000 || rtcp.Port() > 41007 {
			t.Errorf("ports %v and %v", rtp, rtcp)
		}
		if adv, _ := tr.Advertised(); adv != netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), rtp.Port()) {
			t.Errorf("advertised %v", adv)
		}
		all = append(all, tr)
	}
	if _, err := p.NewPhoneTransport("lo", false, Events{}); !errors.Is(err, ErrNoPorts) {
		t.Fatalf("a fifth pair of four: %v", err)
	}
	drained := all[0].Close()
	if _, err := p.NewPhoneTransport("lo", false, Events{}); !errors.Is(err, ErrNoPorts) {
		t.Error("a draining port was given away")
	}
	<-drained
	if _, err := p.NewPhoneTransport("lo", false, Events{}); err != nil {
		t.Errorf("after the drain: %v", err)
	}
	<-all[0].Close() // again
}
