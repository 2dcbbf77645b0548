package dataplane

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/pion/rtcp"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestRollOvers carries a stream through four roll-overs.
func TestRollOvers(t *testing.T) {
	p := newPlane(t, nil)
	x := newWire(t, nil)
	a := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	b := newBrowser(t, p, false, srtp.ProfileAES128CMHMACSHA1_80, audioLine(), Events{})
	join(t, p, a, b)
	// Every packet near a roll-over, and gaps that no estimate may stumble over
	// between them.
	a.seq = 0xffff - 300
	packets, lost := 0, int64(0)
	payload := make([]byte, 4)
	for rolled := 0; rolled < 4; {
		if a.seq > 1000 && a.seq < 0xffff-3000 {
			a.seq += 2500
			lost += 2500
		}
		last := a.seq
		packets++
		binary.BigEndian.PutUint32(payload, uint32(packets))
		x.deliver(a, a.marshal(a.next(0, payload)))
		if a.seq < last {
			rolled++
		}
	}
	if got := x.capture.count(); got != packets {
		t.Errorf("%d of %d packets", got, packets)
	}
	if st := a.line.Stats(); st.Received.Lost != lost || st.Received.Packets != uint64(packets) {
		t.Errorf("%+v, %d lost", st.Received, lost)
	}
	if top := a.line.source.window.Highest(); top != 4<<16 {
		t.Errorf("highest index %#x", top)
	}
}

// TestStatistics checks loss and jitter (RFC 3550 A.3, A.8) with a clock of the
// test's own.
func TestStatistics(t *testing.T) {
	p := newPlane(t, nil)
	a, b := newPhone(t, p, false, audioLine(), Events{}), newPhone(t, p, false, audioLine(), Events{})
	join(t, p, a, b)
	batch := batches.New().(*batch)
	at := time.Now()
	send := func(late time.Duration) {
		batch.now = at.Add(late)
		at = at.Add(20 * time.Millisecond)
		raw := a.marshal(a.next(0, make([]byte, 160)))
		a.transport.receivePhoneRTP(batch, batch.bufs[0][:copy(batch.bufs[0][:], raw)], unmap(a.addr()))
		batch.nout = 0
	}
	for range 100 {
		send(0)
	}
	if st := a.line.Stats().Received; st.Jitter != 0 || st.Lost != 0 {
		t.Errorf("a steady stream: %+v", st)
	}
	for i := range 400 { // 5 ms to and fro: 40 units
		send(time.Duration(i%2) * 5 * time.Millisecond)
	}
	if st := a.line.Stats().Received; math.Abs(float64(st.Jitter)-40) > 2 {
		t.Errorf("jitter %d, want 40", st.Jitter)
	}
	for range 10 {
		a.next(0, nil) // lost
		at = at.Add(20 * time.Millisecond)
		send(0)
	}
	if st := a.line.Stats().Received; st.Lost != 10 || st.Packets != 510 || st.Octets != 510*160 {
		t.Errorf("%+v", st)
	}
	a.seq, a.ts = a.seq-20000, a.ts-7 // a restart is not a loss
	for range 11 {
		send(0)
	}
	if st := a.line.Stats().Received; st.Lost != 10 || st.Packets != 520 {
		t.Errorf("after a restart: %+v", st)
	}
}

// TestChangeInPlace changes what Update can, and what it cannot, under a carried
// stream.
func TestChangeInPlace(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	x.carried(t)
	counts := func() (updates, releases int) {
		x.forward.mu.Lock()
		defer x.forward.mu.Unlock()
		return x.forward.counts.updates, x.forward.counts.releases
	}
	moved := sameMap()
	moved[0] = 8
	if err := x.plane.Join(x.a.line, x.b.line, moved, moved); err != nil {
		t.Fatal(err)
	}
	x.send(5)
	if u, r := counts(); u == 0 || r != 0 {
		t.Errorf("another payload map: %d updates, %d releases", u, r)
	}
	x.forward.capture.mu.Lock()
	last := x.forward.capture.packets[len(x.forward.capture.packets)-1]
	x.forward.capture.mu.Unlock()
	if last.PayloadType != 8 {
		t.Errorf("payload type %d", last.PayloadType)
	}
	x.forward.mu.Lock()
	x.forward.refuse = ReasonHeaderExtension
	x.forward.mu.Unlock()
	x.b.line.Update(audioLine())
	if x.owner() != ownerUser {
		t.Error("the Forwarder keeps what it is not eligible for")
	}
	x.send(5)
	if st := x.a.line.Stats(); st.Reason != ReasonHeaderExtension {
		t.Errorf("%+v", st)
	}
	x.arrived(t)
	if list := x.plane.Snapshot(); len(list) != 1 || list[0].Flow.Out.Keys != nil || list[0].Path != "user" || list[0].State.Packets != x.n {
		t.Errorf("%+v", list)
	}
}

// FuzzReceive throws anything at the sockets' receivers: nothing may panic, and
// nothing but the leg's own SSRC may leave.
func FuzzReceive(f *testing.F) {
	p := newPlane(f, nil)
	ph, other := newPhone(f, p, false, audioLine(), Events{}), newPhone(f, p, false, audioLine(), Events{})
	br := newBrowser(f, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	c := audioLine()
	c.Mid, c.MidExt, c.Extensions = "0", 3, map[string]uint8{"urn:x": 1, "urn:y": 2}
	ph.line.Update(c)
	c.Extensions = map[string]uint8{"urn:x": 5, "urn:y": 14}
	other.line.Update(c)
	join(f, p, ph, other)
	b := batches.New().(*batch)
	raw, _ := ph.next(0, []byte("x")).Marshal()
	f.Add(raw)
	f.Add(append([]byte{0x90, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 0xbe, 0xde, 0, 2, 0x12, 1, 2, 3, 0x20, 7, 0xf0, 0}, 1, 2, 3))
	f.Add(append([]byte{0xb2, 101, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9, 1, 1, 1, 1, 2, 2, 2, 2, 0x10, 0, 0, 1, 1, 0, 2, 1}, 1, 0x80, 1, 2))
	sr, _ := rtcp.Marshal([]rtcp.Packet{&rtcp.SenderReport{SSRC: ph.ssrc, Reports: []rtcp.ReceptionReport{{SSRC: ph.line.SSRC()}}}, &rtcp.Goodbye{Sources: []uint32{1}}})
	f.Add(sr)
	f.Add(dtlsRecord)
	f.Add(stunMessage(1))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > packetMax {
			return
		}
		b.now = time.Now()
		for i, receive := range []func([]byte){
			func(q []byte) { ph.transport.receivePhoneRTP(b, q, unmap(ph.addr())) },
			func(q []byte) {
				ph.transport.receivePhoneRTCP(b, q, unmap(ph.rtcp.LocalAddr().(addrPorter).AddrPort()))
			},
			func(q []byte) { p.networks["lo"].browser[0].receive(b, q, unmap(br.addr())) },
		} {
			receive(b.bufs[i][:copy(b.bufs[i][:], packet)])
		}
		for i := range b.nout {
			if out := b.out[i].packet; binary.BigEndian.Uint32(out[8:]) != other.line.SSRC() {
				t.Errorf("left with SSRC %#x", out[8:12])
			}
		}
		b.nout = 0
	})
}
