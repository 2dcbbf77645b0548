package dataplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtcp"
	pionrtp "github.com/pion/rtp"
	pionsrtp "github.com/pion/srtp/v3"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

const patience = 5 * time.Second

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
	pcmu      = Format{PayloadType: 0, Codec: "PCMU", ClockRate: 8000}
	dtmf101   = Format{PayloadType: 101, Codec: "telephone-event", ClockRate: 8000}
)

// newPlane is a plane with one network on loopback, both families.
func newPlane(t testing.TB, change func(*Config)) *Plane {
	t.Helper()
	c := Config{Networks: []Network{{Name: "lo", Addresses: []netip.Addr{loopback4, loopback6}, PortMin: 30000, PortMax: 39999}}, Drain: time.Millisecond}
	if change != nil {
		change(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// peer is the far end of a leg, with pion's SRTP when it has keys.
type peer struct {
	t         testing.TB
	rtp, rtcp *net.UDPConn // the same socket with rtcp-mux
	transport *Transport
	line      *Line
	in, out   *pionsrtp.Context
	keys      [2]srtp.MasterKey // to the gateway, from the gateway
	ssrc      uint32
	seq       uint16
	ts        uint32
}

func (p *peer) addr() netip.AddrPort { return p.rtp.LocalAddr().(*net.UDPAddr).AddrPort() }

func listenUDP(t testing.TB, v6 bool) *net.UDPConn {
	t.Helper()
	a := loopback4
	if v6 {
		a = loopback6
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func audioLine(formats ...Format) LineConfig {
	if len(formats) == 0 {
		formats = []Format{pcmu, dtmf101}
	}
	return LineConfig{Kind: Audio, Formats: formats, Send: true, Receive: true}
}

// newPhone is a leg with its own port pair and plain RTP.
func newPhone(t testing.TB, p *Plane, v6 bool, c LineConfig, ev Events) *peer {
	t.Helper()
	ph := &peer{t: t, rtp: listenUDP(t, v6), rtcp: listenUDP(t, v6), ssrc: rand.Uint32(), seq: uint16(rand.Uint32()), ts: rand.Uint32()}
	var err error
	if ph.transport, err = p.NewPhoneTransport("lo", v6, ev); err != nil {
		t.Fatal(err)
	}
	if ph.line, err = ph.transport.AddLine(c); err != nil {
		t.Fatal(err)
	}
	ph.transport.SetRemote(Remote{RTP: ph.addr(), RTCP: ph.rtcp.LocalAddr().(*net.UDPAddr).AddrPort()})
	return ph
}

// newBrowser is a leg on the shared port with SRTP and rtcp-mux.
func newBrowser(t testing.TB, p *Plane, v6 bool, profile srtp.Profile, c LineConfig, ev Events) *peer {
	t.Helper()
	br := &peer{t: t, rtp: listenUDP(t, v6), ssrc: rand.Uint32(), seq: uint16(rand.Uint32() % 1000), ts: rand.Uint32()}
	br.rtcp = br.rtp
	var err error
	if br.transport, err = p.NewBrowserTransport("lo", ev); err != nil {
		t.Fatal(err)
	}
	c.AVPF = true
	if br.line, err = br.transport.AddLine(c); err != nil {
		t.Fatal(err)
	}
	local := p.networks["lo"].browser[0].socket.local
	if v6 {
		local = p.networks["lo"].browser[1].socket.local
	}
	br.transport.SetPair(local, br.addr())
	br.setKeys(profile)
	return br
}

func newKey(profile srtp.Profile) srtp.MasterKey {
	m := srtp.MasterKey{Profile: profile, Key: make([]byte, profile.KeyLen()), Salt: make([]byte, profile.SaltLen())}
	for _, b := range [][]byte{m.Key, m.Salt} {
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
	}
	return m
}

func (p *peer) setKeys(profile srtp.Profile) {
	p.t.Helper()
	p.keys = [2]srtp.MasterKey{newKey(profile), newKey(profile)}
	for i, c := range []**pionsrtp.Context{&p.out, &p.in} {
		m := p.keys[i]
		var err error
		if *c, err = pionsrtp.CreateContext(m.Key, m.Salt, pionsrtp.ProtectionProfile(profile),
			pionsrtp.SRTPReplayProtection(64), pionsrtp.SRTCPReplayProtection(64)); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.transport.SetKeys(p.keys[0], p.keys[1]); err != nil {
		p.t.Fatal(err)
	}
}

// next makes the next packet of the peer's stream, 20 ms after the last.
func (p *peer) next(payloadType uint8, payload []byte) *pionrtp.Packet {
	p.seq++
	p.ts += 160
	return &pionrtp.Packet{Header: pionrtp.Header{Version: 2, PayloadType: payloadType, SequenceNumber: p.seq, Timestamp: p.ts, SSRC: p.ssrc}, Payload: payload}
}

// marshal is a packet as it goes on the wire, protected when the peer has keys.
func (p *peer) marshal(pkt *pionrtp.Packet) []byte {
	p.t.Helper()
	raw, err := pkt.Marshal()
	if err == nil && p.out != nil {
		raw, err = p.out.EncryptRTP(nil, raw, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

func (p *peer) write(raw []byte) {
	p.t.Helper()
	to, _ := p.transport.Local()
	if p.rtp.LocalAddr().(*net.UDPAddr).IP.To4() == nil && to.Addr().Is4() {
		to = p.transport.net.browser[1].socket.local
	}
	if _, err := p.rtp.WriteToUDPAddrPort(raw, to); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) send(pkt *pionrtp.Packet) { p.t.Helper(); p.write(p.marshal(pkt)) }

// read returns the next RTP packet that the gateway sent, decrypted.
func (p *peer) read() *pionrtp.Packet {
	p.t.Helper()
	pkt, err := p.readUntil(time.Now().Add(patience))
	if err != nil {
		p.t.Fatal(err)
	}
	return pkt
}

func (p *peer) readUntil(deadline time.Time) (*pionrtp.Packet, error) {
	p.t.Helper()
	for {
		p.rtp.SetReadDeadline(deadline)
		buf := make([]byte, 2048)
		n, _, err := p.rtp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return nil, err
		}
		buf = buf[:n]
		if isRTCP(buf) {
			continue
		}
		if p.in != nil {
			if buf, err = p.in.DecryptRTP(nil, buf, nil); err != nil {
				return nil, err
			}
		}
		pkt := new(pionrtp.Packet)
		return pkt, pkt.Unmarshal(buf)
	}
}

// sendControl sends a compound packet of the peer.
func (p *peer) sendControl(packets ...rtcp.Packet) {
	p.t.Helper()
	raw, err := rtcp.Marshal(packets)
	if err == nil && p.out != nil {
		raw, err = p.out.EncryptRTCP(nil, raw, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	_, to := p.transport.Local()
	if _, err := p.rtcp.WriteToUDPAddrPort(raw, to); err != nil {
		p.t.Fatal(err)
	}
}

// readControl returns the next compound packet that the gateway sent.
func (p *peer) readControl() []rtcp.Packet {
	p.t.Helper()
	deadline := time.Now().Add(3 * patience)
	for {
		p.rtcp.SetReadDeadline(deadline)
		buf := make([]byte, 2048)
		n, _, err := p.rtcp.ReadFromUDPAddrPort(buf)
		if err != nil {
			p.t.Fatal(err)
		}
		if buf = buf[:n]; !isRTCP(buf) {
			continue
		}
		if p.in != nil {
			if buf, err = p.in.DecryptRTCP(nil, buf, nil); err != nil {
				p.t.Fatal(err)
			}
		}
		packets, err := rtcp.Unmarshal(buf)
		if err != nil {
			p.t.Fatal(err)
		}
		return packets
	}
}

func sameMap() PayloadMap {
	m := NewPayloadMap()
	m[0], m[101] = 0, 101
	return m
}

func join(t testing.TB, p *Plane, a, b *peer, maps ...PayloadMap) {
	t.Helper()
	ab, ba := sameMap(), sameMap()
	if len(maps) == 2 {
		ab, ba = maps[0], maps[1]
	}
	if err := p.Join(a.line, b.line, ab, ba); err != nil {
		t.Fatal(err)
	}
}

// pass sends n packets from a and reads them at b: payload and order must hold,
// sequence numbers and timestamps go on, the SSRC is the line's.
func pass(t testing.TB, a, b *peer, n int) []*pionrtp.Packet {
	t.Helper()
	var got []*pionrtp.Packet
	for i := range n {
		payload := make([]byte, 160)
		binary.BigEndian.PutUint64(payload, rand.Uint64())
		a.send(a.next(0, payload))
		pkt := b.read()
		if !bytes.Equal(pkt.Payload, payload) {
			t.Fatalf("packet %d: another payload arrived", i)
		}
		if pkt.SSRC != b.line.SSRC() {
			t.Fatalf("packet %d: SSRC %#x, the line's is %#x", i, pkt.SSRC, b.line.SSRC())
		}
		if len(got) > 0 {
			last := got[len(got)-1]
			if pkt.SequenceNumber != last.SequenceNumber+1 || pkt.Timestamp != last.Timestamp+160 {
				t.Fatalf("packet %d: sequence %d after %d, timestamp %d after %d", i, pkt.SequenceNumber, last.SequenceNumber, pkt.Timestamp, last.Timestamp)
			}
		}
		got = append(got, pkt)
	}
	return got
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

// addrPorter is *net.UDPAddr.
type addrPorter interface{ AddrPort() netip.AddrPort }

var addrPort = netip.MustParseAddrPort
