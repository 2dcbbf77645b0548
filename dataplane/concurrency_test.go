package dataplane

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtcp"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestConcurrency lets signalling, statistics, hand-overs and media of several
// legs meet, for the race detector and for deadlocks.
func TestConcurrency(t *testing.T) {
	w := newFakeForwarder(t)
	w.capture = nil // the same sources feed every leg here; TestNoIndexReuse looks at indices
	p := newPlane(t, func(c *Config) { c.Forwarder, c.releaseDrain = w, time.Millisecond })
	legs := []*peer{
		newPhone(t, p, false, audioLine(), Events{KeyframeRequest: func(*Line) {}}),
		newPhone(t, p, false, audioLine(), Events{Latched: func(netip.AddrPort) {}}),
		newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{}),
		newBrowser(t, p, false, srtp.ProfileAES128CMHMACSHA1_80, audioLine(), Events{}),
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	run := func(f func(r *rand.Rand)) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), 1))
			for {
				select {
				case <-stop:
					return
				default:
					f(r)
				}
			}
		})
	}
	var heard atomic.Uint64
	for _, leg := range legs {
		sealer, reports := sealerOf(t, leg), &rtcp.ReceiverReport{SSRC: leg.ssrc, Reports: []rtcp.ReceptionReport{{SSRC: leg.line.SSRC()}}}
		report, err := rtcp.Marshal([]rtcp.Packet{reports})
		if err != nil {
			t.Fatal(err)
		}
		index, at := uint64(0), unmap(leg.addr())
		b := batches.New().(*batch)
		via, receive := leg.transport.rtp, leg.transport.receivePhoneRTP
		if via == nil {
			via, receive = leg.transport.browser.socket, leg.transport.browser.receive
		}
		run(func(r *rand.Rand) {
			index++
			leg.seq = uint16(index)
			raw, _ := leg.next(0, []byte("media")).Marshal()
			raw[2], raw[3] = byte(index>>8), byte(index)
			if sealer != nil {
				raw, _ = sealer.Protect(append(make([]byte, 0, 200), raw...), srtp.MinHeader, index)
			}
			if _, _, taken := w.ingress(raw, at, via.local); !taken {
				b.now = time.Now()
				receive(b, b.bufs[0][:copy(b.bufs[0][:], raw)], at)
				heard.Add(uint64(b.nout))
				b.nout = 0
			}
			if index%50 == 0 {
				leg.transport.receiveRTCP(b, append([]byte(nil), report...), via, at)
			}
		})
	}
	line := func(r *rand.Rand) *peer { return legs[r.IntN(len(legs))] }
	run(func(r *rand.Rand) {
		if a, b := line(r), line(r); a != b {
			if err := p.Join(a.line, b.line, sameMap(), sameMap()); err != nil {
				t.Error(err)
			}
		}
		<-time.After(time.Millisecond)
	})
	run(func(r *rand.Rand) {
		c := audioLine()
		c.Send, c.Receive = r.IntN(4) > 0, r.IntN(4) > 0
		line(r).line.Update(c)
		<-time.After(time.Millisecond)
	})
	run(func(r *rand.Rand) {
		leg := line(r)
		if leg.transport.rtp != nil {
			leg.transport.SetRemote(Remote{RTP: unmap(leg.addr()), LatchIP: loopback4, LatchFor: time.Duration(r.IntN(1000))})
		} else {
			leg.transport.SetPair(leg.transport.net.browser[0].socket.local, unmap(leg.addr()))
			if err := leg.transport.SetKeys(leg.keys[0], newKey(leg.keys[1].Profile)); err != nil {
				t.Error(err)
			}
		}
		<-time.After(time.Millisecond)
	})
	run(func(r *rand.Rand) {
		leg := line(r)
		leg.line.Stats()
		leg.line.RequestKeyframe()
		leg.transport.LastReceived()
		p.Snapshot()
		p.Totals()
		p.Drops()
		leg.transport.report(time.Now().Add(time.Hour))
	})
	run(func(r *rand.Rand) {
		tr, err := p.NewPhoneTransport("lo", false, Events{})
		if err != nil {
			t.Error(err)
			return
		}
		l, err := tr.AddLine(audioLine())
		if err != nil {
			t.Error(err)
			return
		}
		if err := p.Join(l, line(r).line, sameMap(), sameMap()); err != nil {
			t.Error(err)
		}
		tr.Close()
	})
	<-time.After(2 * time.Second)
	close(stop)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(4 * patience):
		t.Fatal("deadlock")
	}
	counts := w.counts
	if heard.Load() == 0 || counts.installs == 0 || counts.releases == 0 {
		t.Errorf("%d packets, %+v: the test does not test", heard.Load(), counts)
	}
	t.Logf("%d packets on the user engine, %+v", heard.Load(), counts)
}

func sealerOf(t testing.TB, p *peer) *srtp.Context {
	if p.out == nil {
		return nil
	}
	k, err := srtp.Derive(p.keys[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := srtp.NewContext(k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestIPPacket checks the packets made for injection: both checksums are right.
func TestIPPacket(t *testing.T) {
	for _, v := range [][2]string{{"192.0.2.1:5000", "198.51.100.7:20000"}, {"[2001:db8::1]:5000", "[2001:db8::2]:20001"}} {
		from, to := addrPort(v[0]), addrPort(v[1])
		for n := range 40 {
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(rand.Uint32())
			}
			b := ipPacket(payload, from, to)
			src, dst := net.IP(from.Addr().AsSlice()), net.IP(to.Addr().AsSlice())
			head := ipv6Header
			if from.Addr().Is4() {
				head = ipv4Header
				if fold(sum(0, b[:head])) != 0xffff {
					t.Fatalf("IPv4 header checksum of %x", b[:head])
				}
			}
			pseudo := append(append(append([]byte{}, src...), dst...), 0, protoUDP, byte((n+8)>>8), byte(n+8))
			if fold(sum(sum(0, pseudo), b[head:])) != 0xffff {
				t.Fatalf("UDP checksum of %x", b)
			}
			if string(b[head+udpHeader:]) != string(payload) {
				t.Fatal("payload")
			}
		}
	}
}

// TestRTCPMux has a phone that sends RTCP to its RTP port.
func TestRTCPMux(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	ph.transport.SetRemote(Remote{RTP: unmap(ph.addr()), Mux: true})
	pass(t, br, ph, 3)
	ph.rtcp = ph.rtp
	rtp, _ := ph.transport.Local()
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ph.rtp.WriteToUDPAddrPort(raw, rtp); err != nil {
		t.Fatal(err)
	}
	await[*rtcp.ReceiverReport](br)
	br.sendControl(&rtcp.ReceiverReport{SSRC: 6})
	await[*rtcp.ReceiverReport](ph)
}
