package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// relayBench is one stream through the user engine without the system calls:
// from demultiplexing to the packet ready to be sent.
type relayBench struct {
	b      *batch
	a      *peer
	port   *browserPort
	raws   [][]byte
	at     int
	sealer *srtp.Context
	index  uint64
	buf    []byte
}

func newRelayBench(t testing.TB, from, to srtp.Profile, payload int) *relayBench {
	p := newPlane(t, nil)
	leg := func(profile srtp.Profile) *peer {
		if profile == srtp.ProfileNone {
			return newPhone(t, p, false, audioLine(), Events{})
		}
		return newBrowser(t, p, false, profile, audioLine(), Events{})
	}
	a, b := leg(from), leg(to)
	join(t, p, a, b)
	r := &relayBench{b: batches.New().(*batch), a: a, port: p.networks["lo"].browser[0], buf: make([]byte, 2048)}
	r.b.now = time.Now()
	pkt := a.next(0, make([]byte, payload))
	raw, err := pkt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if from != srtp.ProfileNone {
		keys, err := srtp.Derive(a.keys[0])
		if err != nil {
			t.Fatal(err)
		}
		if r.sealer, err = srtp.NewContext(keys); err != nil {
			t.Fatal(err)
		}
	}
	r.index = uint64(pkt.SequenceNumber)
	r.raws = append(r.raws, raw)
	return r
}

// prepare makes n packets of the stream.
func (r *relayBench) prepare(t testing.TB, n int) {
	first := r.raws[0]
	r.raws, r.at = make([][]byte, n), 0
	for i := range r.raws {
		r.index++
		raw := append(make([]byte, 0, len(first)+srtp.MaxOverhead), first...)
		binary.BigEndian.PutUint16(raw[2:], uint16(r.index))
		if r.sealer != nil {
			var err error
			if raw, err = r.sealer.Protect(raw, srtp.MinHeader, r.index); err != nil {
				t.Fatal(err)
			}
		}
		r.raws[i] = raw
	}
	r.raws = append(r.raws, first)
}

func (r *relayBench) one(from netip.AddrPort) int {
	packet := r.b.bufs[0][:copy(r.b.bufs[0][:], r.raws[r.at])]
	r.at++
	if r.a.transport.rtp != nil {
		r.a.transport.receivePhoneRTP(r.b, packet, from)
	} else {
		r.port.receive(r.b, packet, from)
	}
	n := r.b.nout
	r.b.nout = 0
	return n
}

var benchPairs = [][2]srtp.Profile{
	{srtp.ProfileNone, srtp.ProfileNone},
	{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone},
	{srtp.ProfileNone, srtp.ProfileAES128CMHMACSHA1_80},
	{srtp.ProfileAEADAES128GCM, srtp.ProfileNone},
	{srtp.ProfileNone, srtp.ProfileAEADAES128GCM},
	{srtp.ProfileAEADAES256GCM, srtp.ProfileNone},
	{srtp.ProfileAEADAES128GCM, srtp.ProfileAEADAES128GCM},
	{srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80},
}

// BenchmarkRelay is the user engine's cost per packet of 160 bytes, without
// system calls.
func BenchmarkRelay(b *testing.B) {
	for _, pair := range benchPairs {
		b.Run(fmt.Sprintf("%v-%v", pair[0], pair[1]), func(b *testing.B) {
			r := newRelayBench(b, pair[0], pair[1], 160)
			from := unmap(r.a.addr())
			const chunk = 4096
			b.ReportAllocs()
			for done := 0; done < b.N; done += chunk {
				b.StopTimer()
				r.raws = r.raws[len(r.raws)-1:]
				r.prepare(b, chunk)
				b.StartTimer()
				for range min(chunk, b.N-done) {
					if r.one(from) != 1 {
						b.Fatal("not forwarded")
					}
				}
			}
		})
	}
}

// BenchmarkSockets sends through real sockets on loopback, both ends included.
func BenchmarkSockets(b *testing.B) {
	for _, pair := range benchPairs[:5] {
		b.Run(fmt.Sprintf("%v-%v", pair[0], pair[1]), func(b *testing.B) {
			r := newRelayBench(b, pair[0], pair[1], 160)
			to := r.a.line.peer.t
			const chunk = 64
			b.ReportAllocs()
			buf := make([]byte, 2048)
			far := farSocket(b, to)
			for done := 0; done < b.N; done += chunk {
				b.StopTimer()
				r.raws = r.raws[len(r.raws)-1:]
				r.prepare(b, chunk)
				b.StartTimer()
				n := min(chunk, b.N-done)
				for i := range n {
					r.a.write(r.raws[i])
				}
				for range n {
					if _, _, err := far.conn.ReadFromUDPAddrPort(buf); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// farSocket points a transport's output at a socket of the test's own.
func farSocket(t testing.TB, to *Transport) *socket {
	s, err := listen(netip.AddrPortFrom(loopback4, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	to.out.mu.Lock()
	to.out.rtpTo = s.local
	to.out.mu.Unlock()
	return s
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNothingLeaks makes 500 calls of two legs and looks at what is left.
func TestNothingLeaks(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	files := openFiles(t)
	w := newFakeForwarder(t)
	p, err := New(Config{Networks: []Network{{Name: "lo", Addresses: []netip.Addr{loopback4, loopback6}, PortMin: 30000, PortMax: 39999}},
		Drain: time.Millisecond, Forwarder: w, releaseDrain: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	client := listenUDP(t, false)
	var before runtime.MemStats
	for call := range 500 {
		if call == 100 { // pools and maps have their size by now
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
		x := newWire(t, w)
		// Both legs send from the test's one socket.
		at := unmap(client.LocalAddr().(addrPorter).AddrPort())
		a := &peer{t: t, rtp: client, rtcp: client, ssrc: 1, seq: 1}
		b := &peer{t: t, rtp: client, rtcp: client, ssrc: 2, seq: 1}
		if a.transport, err = p.NewBrowserTransport("lo", Events{}); err != nil {
			t.Fatal(err)
		}
		if b.transport, err = p.NewPhoneTransport("lo", false, Events{}); err != nil {
			t.Fatal(err)
		}
		for _, pe := range []*peer{a, b} {
			if pe.line, err = pe.transport.AddLine(audioLine()); err != nil {
				t.Fatal(err)
			}
		}
		a.transport.SetPair(p.networks["lo"].browser[0].socket.local, at)
		a.setKeys(srtp.ProfileAEADAES128GCM)
		b.transport.SetRemote(Remote{RTP: at})
		join(t, p, a, b)
		for range 8 {
			x.deliver(a, a.marshal(a.next(0, []byte("out"))))
			x.deliver(b, b.marshal(b.next(0, []byte("back"))))
		}
		if x.capture.count() == 0 {
			t.Fatal("nothing was forwarded")
		}
		eventually(t, "both streams are installed", func() bool {
			return w.count(func() int { return w.counts.installs }) == 2*(call+1)
		})
		drained := b.transport.Close()
		a.transport.Close()
		<-drained
		w.capture = newCapture(t)
	}
	eventually(t, "every stream is removed from the Forwarder", func() bool {
		return w.count(func() int { return len(w.flows) }) == 0
	})
	if n := len(p.all()); n != 0 {
		t.Errorf("%d transports are left", n)
	}
	if n := len(p.networks["lo"].taken); n != 0 {
		t.Errorf("%d ports are taken", n)
	}
	if n := len(p.networks["lo"].browser[0].bound); n != 0 {
		t.Errorf("%d browser addresses are bound", n)
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("400 calls left %d KiB on the heap", grown>>10)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if n := openFiles(t); n > files {
		t.Errorf("%d files are open, %d were", n, files)
	}
	if _, err := p.NewPhoneTransport("lo", false, Events{}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a transport of a closed plane: %v", err)
	}
}
