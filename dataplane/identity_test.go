package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtcp"
	pionrtp "github.com/pion/rtp"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestFork joins a browser with an announcement, then with two callees: one
// output SSRC, whose indices and timestamps go on.
func TestFork(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	var last *pionrtp.Packet
	const ssrc = 0x5151
	for i := range 4 {
		ph := newPhone(t, p, false, audioLine(), Events{})
		ph.ssrc, ph.seq = ssrc, 7 // the same every time, as a PBX may
		join(t, p, br, ph)
		got := pass(t, ph, br, 10)
		if last != nil {
			if got[0].SequenceNumber != last.SequenceNumber+1 {
				t.Errorf("callee %d starts at %d after %d", i, got[0].SequenceNumber, last.SequenceNumber)
			}
			if d := got[0].Timestamp - last.Timestamp; d == 0 || d > 8000*uint32(patience/time.Second) {
				t.Errorf("callee %d: timestamp moved by %d", i, d)
			}
			if !got[0].Marker {
				t.Errorf("callee %d: no marker on its first packet", i)
			}
		}
		last = got[len(got)-1]
		pass(t, br, ph, 5)
		if i%2 == 0 {
			ph.transport.Close()
		}
	}
	// pion's receiver with replay protection has accepted all of it under one key.
}

// TestPhoneRestart restarts a phone with a lower sequence number.
func TestPhoneRestart(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	for _, seq := range []uint16{40000, 100, 30000, 29000, 65500} {
		ph.seq, ph.ts = seq, uint32(seq)*7
		ph.send(ph.next(0, []byte("lost to probation")))
		ph.send(ph.next(0, []byte("heard")))
		for {
			if string(br.read().Payload) == "heard" {
				break
			}
		}
		pass(t, ph, br, 60)
	}
}

// TestSameSSRCOnTwoLines sends two phones' streams of one SSRC to one browser.
func TestSameSSRCOnTwoLines(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAES128CMHMACSHA1_80, audioLine(), Events{})
	c := audioLine(Format{PayloadType: 8, Codec: "PCMA", ClockRate: 8000})
	second, err := br.transport.AddLine(c)
	if err != nil {
		t.Fatal(err)
	}
	if second.SSRC() == br.line.SSRC() {
		t.Fatal("two lines have one SSRC")
	}
	one, two := newPhone(t, p, false, audioLine(), Events{}), newPhone(t, p, false, c, Events{})
	one.ssrc, two.ssrc, one.seq, two.seq = 99, 99, 500, 500
	join(t, p, br, one)
	pcma := NewPayloadMap()
	pcma[8] = 8
	if err := p.Join(second, two.line, pcma, pcma); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		one.send(one.next(0, []byte("one")))
		if got := br.read(); got.SSRC != br.line.SSRC() || string(got.Payload) != "one" {
			t.Fatalf("%v", got)
		}
		two.send(two.next(8, []byte("two")))
		if got := br.read(); got.SSRC != second.SSRC() || got.PayloadType != 8 || string(got.Payload) != "two" {
			t.Fatalf("%v", got)
		}
	}
}

// TestDuplicates drops what a phone sends twice or too late.
func TestDuplicates(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	first := ph.next(0, []byte("first"))
	ph.send(first)
	br.read()
	for range 200 {
		pkt := ph.next(0, []byte("x"))
		ph.send(pkt)
		ph.send(pkt)
		br.read()
	}
	ph.send(first)
	ph.send(ph.next(0, []byte("end")))
	if got := br.read(); string(got.Payload) != "end" {
		t.Fatalf("%q came twice", got.Payload)
	}
	if st := ph.line.Stats(); st.Received.Dropped != 201 || st.Received.Lost != 0 {
		t.Errorf("%+v", st.Received)
	}
}

// TestSourceSwitch changes the SSRC in mid-call, and lets the old one interfere.
func TestSourceSwitch(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, ph, br, 5)
	old := *ph
	ph.ssrc, ph.seq, ph.ts = 0xbeef, 60000, 1
	ph.send(ph.next(0, []byte("not yet")))
	ph.send(ph.next(0, []byte("new")))
	if got := br.read(); string(got.Payload) != "new" || !got.Marker {
		t.Fatalf("%v", got)
	}
	for range 10 {
		old.send(old.next(0, []byte("old")))
		ph.send(ph.next(0, []byte("new")))
		if got := br.read(); string(got.Payload) != "new" {
			t.Fatal("two sources share an SSRC")
		}
	}
}

// TestBundle finds the line of a new SSRC by mid, then by payload type.
func TestBundle(t *testing.T) {
	const midExt = 4
	p := newPlane(t, nil)
	opus := Format{PayloadType: 111, Codec: "opus", ClockRate: 48000, Channels: 2}
	lineOf := func(mid string, formats ...Format) LineConfig {
		c := audioLine(formats...)
		c.Mid, c.MidExt = mid, midExt
		return c
	}
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, lineOf("0", opus, pcmu), Events{})
	second, err := br.transport.AddLine(lineOf("1", opus, Format{PayloadType: 8, Codec: "PCMA", ClockRate: 8000}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := br.transport.AddLine(lineOf("1")); err == nil {
		t.Error("a mid was given twice")
	}
	phones := []*peer{newPhone(t, p, false, audioLine(opus, pcmu), Events{}), newPhone(t, p, false, audioLine(opus, Format{PayloadType: 8, Codec: "PCMA", ClockRate: 8000}), Events{})}
	m := NewPayloadMap()
	m[111], m[0], m[8] = 111, 0, 8
	for i, l := range []*Line{br.line, second} {
		if err := p.Join(l, phones[i].line, m, m); err != nil {
			t.Fatal(err)
		}
	}
	send := func(ssrc uint32, pt uint8, mid string) {
		br.ssrc = ssrc
		pkt := br.next(pt, []byte(mid))
		if mid != "" {
			if err := pkt.SetExtension(midExt, []byte(mid)); err != nil {
				t.Fatal(err)
			}
		}
		br.send(pkt)
	}
	send(1, 111, "0")
	if got := phones[0].read(); got.Extension || got.SSRC != phones[0].line.SSRC() {
		t.Errorf("%v", got)
	}
	send(2, 111, "1")
	if got := phones[1].read(); got.Extension {
		t.Errorf("the mid was forwarded: %v", got)
	}
	send(3, 111, "") // ambiguous: dropped
	send(4, 8, "")   // one line has it; the second packet takes over
	send(4, 8, "")
	if got := phones[1].read(); got.PayloadType != 8 {
		t.Errorf("%v", got)
	}
	send(5, 111, "7") // no such mid, and the payload type is ambiguous
	send(5, 111, "7")
	send(1, 111, "")
	if got := phones[0].read(); got.SSRC != phones[0].line.SSRC() || string(got.Payload) != "" {
		t.Errorf("%v", got)
	}
	br.transport.mu.Lock()
	defer br.transport.mu.Unlock()
	if n := len(br.transport.streams); n != 3 {
		t.Errorf("%d streams, want 3", n)
	}
}

// TestForged sends what does not authenticate: nothing is learned from it.
func TestForged(t *testing.T) {
	p := newPlane(t, nil)
	failing := make(chan time.Time, 10)
	br := newBrowser(t, p, false, srtp.ProfileAES128CMHMACSHA1_80, audioLine(), Events{AuthFailing: func(since time.Time) { failing <- since }})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, br, ph, 3)
	for i := range 500 {
		pkt := br.next(0, []byte("forged"))
		if i%2 == 0 {
			pkt.SSRC = uint32(i)
		}
		raw, _ := pkt.Marshal()
		br.seq--
		br.ts -= 160
		br.write(append(raw, make([]byte, 10)...))
	}
	pass(t, br, ph, 3)
	br.transport.mu.Lock()
	if n := len(br.transport.streams); n != 1 {
		t.Errorf("%d streams after forged packets", n)
	}
	br.transport.mu.Unlock()
	// A key that fits nothing is told after a while.
	now := time.Now()
	br.transport.mu.Lock()
	for i := range authFailures + 2 {
		br.transport.auth.failed(br.transport, now.Add(time.Duration(i)*authPatience/10))
	}
	br.transport.mu.Unlock()
	select {
	case since := <-failing:
		if !since.Equal(now) {
			t.Errorf("failing since %v, want %v", since, now)
		}
	case <-time.After(patience):
		t.Error("failing authentication is not told")
	}
}

// TestManySSRCs bounds the streams of a transport and still hears the next one.
func TestManySSRCs(t *testing.T) {
	for _, profile := range []srtp.Profile{srtp.ProfileNone, srtp.ProfileAEADAES128GCM} {
		p := newPlane(t, nil)
		x := newWire(t, nil)
		far := newPhone(t, p, false, audioLine(), Events{})
		var near *peer
		if profile == srtp.ProfileNone {
			near = newPhone(t, p, false, audioLine(), Events{})
		} else {
			near = newBrowser(t, p, false, profile, audioLine(), Events{})
		}
		join(t, p, near, far)
		raws := make([][]byte, 0, 300)
		for i := range 300 {
			near.ssrc = uint32(i + 1)
			raw := near.marshal(near.next(0, []byte{1, 2, 3, 4}))
			raws = append(raws, raw)
			x.deliver(near, raw)
			near.transport.mu.Lock()
			near.transport.note([]rtcp.Packet{&rtcp.SenderReport{SSRC: near.ssrc}}, time.Now())
			for _, s := range near.transport.streams { // make them old
				s.counters.LastPacket = s.counters.LastPacket.Add(-time.Second)
			}
			near.transport.mu.Unlock()
		}
		n := len(near.transport.streams)
		if n > maxStreams {
			t.Errorf("%v: %d streams", profile, n)
		}
		if reports := len(near.transport.control.srs); reports != n {
			t.Errorf("%v: sender reports of %d streams are kept, there are %d", profile, reports, n)
		}
		if got := x.capture.count(); got != 300 {
			t.Errorf("%v: %d of 300 sources were heard", profile, got)
		}
		if profile != srtp.ProfileNone { // streams that made room accept nothing again
			for _, raw := range raws {
				x.deliver(near, raw)
			}
			if got := x.capture.count(); got != 300 {
				t.Errorf("%d replayed packets were accepted", got-300)
			}
		}
	}
}

// TestLatch takes the source address once, from the signalling IP only, in time.
func TestLatch(t *testing.T) {
	p := newPlane(t, nil)
	latched := make(chan struct{}, 10)
	ph := newPhone(t, p, false, audioLine(), Events{})
	told := netip.MustParseAddrPort("10.1.2.3:4000")
	nat := newPhone(t, p, false, audioLine(), Events{Latched: func(netip.AddrPort) { latched <- struct{}{} }})
	nat.transport.SetRemote(Remote{RTP: told})
	join(t, p, ph, nat)
	refused := func(n uint64, why string) {
		t.Helper()
		eventually(t, "it is refused", func() bool { return p.Drops()[why] == n })
	}
	nat.send(nat.next(0, []byte("strict")))
	refused(1, "unknown-source")
	nat.transport.SetRemote(Remote{RTP: told, LatchIP: netip.MustParseAddr("127.0.0.9")})
	nat.send(nat.next(0, []byte("another address")))
	refused(2, "unknown-source")
	nat.transport.SetRemote(Remote{RTP: told, LatchIP: loopback4})
	nat.send(nat.next(77, []byte("unknown payload type")))
	refused(1, "unclassified")
	nat.send(nat.next(0, []byte("latched")))
	if got := ph.read(); string(got.Payload) != "latched" {
		t.Fatalf("%q passed", got.Payload)
	}
	<-latched
	if rtp, _ := nat.transport.Remote(); rtp != unmap(nat.addr()) {
		t.Errorf("sends to %v", rtp)
	}
	pass(t, ph, nat, 3)
	// Once: another port of the same address is not heard.
	thief := *nat
	thief.rtp = listenUDP(t, false)
	thief.send(thief.next(0, []byte("thief")))
	nat.transport.SetRemote(Remote{RTP: told, LatchIP: loopback4}) // the same again: nothing opens
	thief.send(thief.next(0, []byte("thief")))
	refused(4, "unknown-source")
	nat.send(nat.next(0, []byte("still there")))
	if got := ph.read(); string(got.Payload) != "still there" {
		t.Fatalf("%q passed", got.Payload)
	}
	// Signalling may open another, which ends by itself.
	nat.transport.SetRemote(Remote{RTP: told, LatchIP: loopback4, LatchFor: time.Nanosecond})
	nat.send(nat.next(0, []byte("late")))
	refused(5, "unknown-source")
	nat.transport.SetRemote(Remote{RTP: unmap(nat.addr())})
	nat.send(nat.next(0, []byte("end")))
	if got := ph.read(); string(got.Payload) != "end" {
		t.Fatalf("%q passed", got.Payload)
	}
}

// TestLatchAuthenticates lets only a packet that verifies open the latch of an
// SRTP leg.
func TestLatchAuthenticates(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	nat := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, nat)
	nat.setKeys(srtp.ProfileAES128CMHMACSHA1_80)
	nat.transport.SetRemote(Remote{RTP: addrPort("10.1.2.3:4000"), LatchIP: loopback4})
	thief := *nat
	thief.rtp = listenUDP(t, false)
	raw, _ := nat.next(0, []byte("forged, with what looks like a tag")).Marshal()
	nat.seq--
	thief.write(raw)
	eventually(t, "the forged packet is refused", func() bool { return p.Drops()["auth-failed"] == 1 })
	pass(t, nat, br, 3)
	if rtp, _ := nat.transport.Remote(); rtp != unmap(nat.addr()) {
		t.Errorf("sends to %v", rtp)
	}
}

// TestHold closes and opens the gates of a line.
func TestHold(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	last := pass(t, ph, br, 5)[4]
	for round := range uint64(3) {
		held := audioLine()
		held.Send = false
		br.line.Update(held)
		for range 50 {
			ph.send(ph.next(0, []byte("held")))
		}
		br.send(br.next(0, []byte("still received")))
		if got := ph.read(); string(got.Payload) != "still received" {
			t.Fatal(got)
		}
		eventually(t, "the held packets are in", func() bool { return ph.line.Stats().Received.Dropped == 50*(round+1) })
		br.line.Update(audioLine())
		got := pass(t, ph, br, 5)
		if got[0].SequenceNumber != last.SequenceNumber+1 {
			t.Errorf("%d after %d: the hold shows as loss", got[0].SequenceNumber, last.SequenceNumber)
		}
		last = got[4]
	}
	off := audioLine()
	off.Receive = false
	br.line.Update(off)
	br.send(br.next(0, []byte("not accepted")))
	eventually(t, "it is dropped", func() bool { return br.line.Stats().Received.Dropped > 0 })
	br.line.Update(audioLine())
	pass(t, br, ph, 3)
}

// TestRekey installs keys again: the same ones change nothing, new ones start at
// roll-over counter 0.
func TestRekey(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, ph, br, 5)
	pass(t, br, ph, 5)
	if err := br.transport.SetKeys(br.keys[0], br.keys[1]); err != nil {
		t.Fatal(err)
	}
	pass(t, ph, br, 5)
	pass(t, br, ph, 5)
	br.transport.out.mu.Lock()
	br.line.out.next |= 3 << 16
	br.transport.out.mu.Unlock()
	br.line.Unjoin()
	join(t, p, br, ph)
	br.setKeys(srtp.ProfileAES128CMHMACSHA1_80)
	pass(t, ph, br, 5)
	pass(t, br, ph, 5)
	if err := br.transport.SetKeys(srtp.MasterKey{}, srtp.MasterKey{}); err == nil {
		t.Error("a browser without keys")
	}
	if err := ph.transport.SetKeys(srtp.MasterKey{}, srtp.MasterKey{}); err != nil {
		t.Error(err)
	}
	pass(t, br, ph, 5)
	ph.setKeys(srtp.ProfileAES128CMHMACSHA1_80) // SDES
	pass(t, br, ph, 5)
	pass(t, ph, br, 5)
}

// TestPairChange moves a browser to another address in mid-call.
func TestPairChange(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	local := p.networks["lo"].browser[0].socket.local
	for range 4 {
		pass(t, br, ph, 3)
		pass(t, ph, br, 3)
		old := *br
		br.rtp = listenUDP(t, false)
		br.rtcp = br.rtp
		br.transport.SetPair(local, unmap(br.addr()))
		old.send(br.next(0, []byte("on its way")))
		if got := ph.read(); string(got.Payload) != "on its way" {
			t.Fatal(got)
		}
	}
	if n := len(p.networks["lo"].browser[0].bound); n != 2 {
		t.Errorf("%d addresses are bound, want 2", n)
	}
	br.transport.Close()
	if n := len(p.networks["lo"].browser[0].bound); n != 0 {
		t.Errorf("%d addresses are bound after the end", n)
	}
}
