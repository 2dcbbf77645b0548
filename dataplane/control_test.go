package dataplane

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/rtcp"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/dataplane/translator"
)

func find[T rtcp.Packet](packets []rtcp.Packet) (found T, ok bool) {
	for _, p := range packets {
		if found, ok = p.(T); ok {
			return found, true
		}
	}
	return found, false
}

// await reads compound packets until one holds a T.
func await[T rtcp.Packet](p *peer) T {
	p.t.Helper()
	for {
		if found, ok := find[T](p.readControl()); ok {
			return found
		}
	}
}

// TestTranslatedReports sends SR and RR through and looks at every number.
func TestTranslatedReports(t *testing.T) {
	for _, profile := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		t.Run(profile.String(), func(t *testing.T) {
			p := newPlane(t, nil)
			br := newBrowser(t, p, false, profile, audioLine(), Events{})
			ph := newPhone(t, p, false, audioLine(), Events{})
			join(t, p, br, ph)
			out := pass(t, br, ph, 10)
			ntp := translator.NTP(time.Now())
			br.sendControl(
				&rtcp.SenderReport{SSRC: br.ssrc, NTPTime: ntp, RTPTime: br.ts + 80, PacketCount: 10, OctetCount: 1600},
				translator.Description(br.ssrc, "browser@10.0.0.1"))
			in := ph.readControl()
			sr, ok := find[*rtcp.SenderReport](in)
			if !ok {
				t.Fatalf("%v", in)
			}
			if sr.SSRC != ph.line.SSRC() || sr.NTPTime != ntp || sr.RTPTime != out[9].Timestamp+80 || sr.PacketCount != 10 || sr.OctetCount != 1600 {
				t.Errorf("%+v, last timestamp %d", sr, out[9].Timestamp)
			}
			if sdes, ok := find[*rtcp.SourceDescription](in); !ok || sdes.Chunks[0].Source != ph.line.SSRC() || sdes.Chunks[0].Items[0].Text == "browser@10.0.0.1" {
				t.Errorf("SDES %+v", sdes)
			}
			ph.sendControl(&rtcp.ReceiverReport{SSRC: ph.ssrc, Reports: []rtcp.ReceptionReport{{
				SSRC: ph.line.SSRC(), FractionLost: 7, TotalLost: 3, LastSequenceNumber: uint32(out[9].SequenceNumber), Jitter: 80,
				LastSenderReport: translator.Middle(ntp), Delay: 0,
			}}})
			rr, ok := find[*rtcp.ReceiverReport](br.readControl())
			if !ok || len(rr.Reports) != 1 {
				t.Fatalf("%+v", rr)
			}
			if b := rr.Reports[0]; b.SSRC != br.ssrc || uint16(b.LastSequenceNumber) != br.seq || b.FractionLost != 7 || b.LastSenderReport != translator.Middle(ntp) {
				t.Errorf("%+v, last sequence number %d", b, br.seq)
			}
			st := ph.line.Stats()
			if st.RemoteLost != 3 || st.RemoteJitter != 10*time.Millisecond || st.RoundTrip <= 0 || st.RoundTrip > patience {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestFeedback maps NACK, PLI and FIR to the source, or raises an event for a
// leg without feedback.
func TestFeedback(t *testing.T) {
	h264 := LineConfig{Kind: Video, Formats: []Format{{PayloadType: 0, Codec: "H264", ClockRate: 90000}}, Send: true, Receive: true}
	p := newPlane(t, nil)
	asked := make(chan *Line, 10)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, h264, Events{})
	other := newBrowser(t, p, false, srtp.ProfileAES128CMHMACSHA1_80, h264, Events{})
	join(t, p, br, other)
	out := pass(t, br, other, 5)
	const asker = 77
	other.sendControl(
		&rtcp.ReceiverReport{SSRC: asker},
		&rtcp.TransportLayerNack{SenderSSRC: asker, MediaSSRC: other.line.SSRC(), Nacks: []rtcp.NackPair{{PacketID: out[3].SequenceNumber, LostPackets: 5}}},
		&rtcp.PictureLossIndication{SenderSSRC: asker, MediaSSRC: other.line.SSRC()},
		&rtcp.FullIntraRequest{SenderSSRC: asker, MediaSSRC: other.line.SSRC(), FIR: []rtcp.FIREntry{{SSRC: other.line.SSRC(), SequenceNumber: 9}}})
	in := br.readControl()
	if nack, ok := find[*rtcp.TransportLayerNack](in); !ok || nack.MediaSSRC != br.ssrc || nack.Nacks[0].PacketID != br.seq-1 || nack.Nacks[0].LostPackets != 5 {
		t.Errorf("NACK %+v", nack)
	}
	if pli, ok := find[*rtcp.PictureLossIndication](in); !ok || pli.MediaSSRC != br.ssrc {
		t.Errorf("PLI %+v", pli)
	}
	if fir, ok := find[*rtcp.FullIntraRequest](in); !ok || len(fir.FIR) != 1 || fir.FIR[0].SSRC != br.ssrc || fir.FIR[0].SequenceNumber != 9 {
		t.Errorf("FIR %+v", fir)
	}
	br.line.RequestKeyframe()
	if pli := await[*rtcp.PictureLossIndication](br); pli.MediaSSRC != br.ssrc || pli.SenderSSRC != br.line.SSRC() {
		t.Errorf("requested PLI %+v", pli)
	}

	ph := newPhone(t, p, false, h264, Events{KeyframeRequest: func(l *Line) { asked <- l }})
	join(t, p, br, ph)
	pass(t, ph, br, 3)
	for range 20 {
		br.sendControl(&rtcp.PictureLossIndication{SenderSSRC: asker, MediaSSRC: br.line.SSRC()})
	}
	br.sendControl(&rtcp.ReceiverReport{SSRC: asker})
	await[*rtcp.ReceiverReport](ph) // so the indications have been seen
	select {
	case l := <-asked:
		if l != ph.line {
			t.Error("another line was asked for a key frame")
		}
	case <-time.After(patience):
		t.Fatal("the key frame request is lost")
	}
	if n := len(asked); n > 0 {
		t.Errorf("%d more requests within %v", n, keyframeGap)
	}
}

// TestOwnReports has two legs that never report: the gateway does.
func TestOwnReports(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, br, ph, 8)
	br.seq += 2 // lost on the way
	br.ts += 320
	br.send(br.next(0, []byte("after the loss")))
	last := ph.read()
	pass(t, ph, br, 3)
	// The timers are made due instead of waiting for them.
	due := func(pe *peer) {
		pe.transport.report(time.Now()) // sets the timers
		pe.transport.report(time.Now().Add(reportEvery * 3 / 2))
	}
	due(ph)
	in := ph.readControl()
	sr, ok := find[*rtcp.SenderReport](in)
	if !ok || sr.SSRC != ph.line.SSRC() || sr.PacketCount != 9 || sr.RTPTime-last.Timestamp > 8000*30 {
		t.Errorf("%+v", in)
	}
	if len(sr.Reports) != 1 || sr.Reports[0].SSRC != ph.ssrc || sr.Reports[0].TotalLost != 0 || uint16(sr.Reports[0].LastSequenceNumber) != ph.seq {
		t.Errorf("%+v", sr.Reports)
	}
	due(br)
	if sr, ok = find[*rtcp.SenderReport](br.readControl()); !ok || len(sr.Reports) != 1 || sr.Reports[0].TotalLost != 2 || sr.Reports[0].FractionLost == 0 {
		t.Errorf("%+v", sr)
	}
	// A leg that speaks for itself is not spoken for.
	br.sendControl(&rtcp.ReceiverReport{SSRC: br.ssrc})
	await[*rtcp.ReceiverReport](ph)
	due(ph)
	br.sendControl(&rtcp.ReceiverReport{SSRC: br.ssrc})
	if in := ph.readControl(); func() bool { _, ok := find[*rtcp.SenderReport](in); return ok }() {
		t.Errorf("the gateway reports for a leg that does itself: %v", in)
	}
}

// TestControlSecurity replays, forges and sends SRTCP from elsewhere.
func TestControlSecurity(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, br, ph, 3)
	x := newWire(t, nil)
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: br.ssrc}})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := br.out.EncryptRTCP(nil, raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	deliver := func(raw []byte) bool {
		br.transport.mu.Lock()
		br.transport.control.heard = time.Time{}
		br.transport.mu.Unlock()
		x.b.now = time.Now()
		br.transport.receiveRTCP(x.b, append([]byte(nil), raw...), br.transport.browser.socket, unmap(br.addr()))
		br.transport.mu.Lock()
		defer br.transport.mu.Unlock()
		return !br.transport.control.heard.IsZero()
	}
	for range 200 {
		forged := append([]byte(nil), sealed...)
		forged[rand.IntN(len(forged))] ^= 1 << rand.IntN(8)
		if deliver(forged) {
			t.Fatal("a forged report was heard")
		}
	}
	if !deliver(sealed) {
		t.Fatal("a good report was not heard")
	}
	if deliver(sealed) {
		t.Fatal("a replayed report was heard")
	}
	if deliver(raw) {
		t.Fatal("a report in the clear was heard")
	}
	// The phone side takes RTCP from where signalling said only.
	thief := listenUDP(t, false)
	_, to := ph.transport.Local()
	if _, err := thief.WriteToUDPAddrPort(raw, to); err != nil {
		t.Fatal(err)
	}
	ph.sendControl(&rtcp.ReceiverReport{SSRC: 5})
	if rr := await[*rtcp.ReceiverReport](br); rr.SSRC != br.line.SSRC() {
		t.Errorf("%+v", rr)
	}
}

// TestGoodbye: a line that ends says so; a source that ends does not end ours.
func TestGoodbye(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	pass(t, br, ph, 3)
	br.sendControl(&rtcp.ReceiverReport{SSRC: br.ssrc}, &rtcp.Goodbye{Sources: []uint32{br.ssrc}})
	if in := ph.readControl(); func() bool { _, ok := find[*rtcp.Goodbye](in); return ok }() {
		t.Errorf("the source's BYE ended our SSRC: %v", in)
	}
	ph.line.Close()
	if bye := await[*rtcp.Goodbye](ph); len(bye.Sources) != 1 || bye.Sources[0] != ph.line.SSRC() {
		t.Errorf("%+v", bye)
	}
}

// TestRTCPFollowsLatch sends RTCP to the port behind the NAT once it shows.
func TestRTCPFollowsLatch(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	ph.transport.SetRemote(Remote{RTP: addrPort("10.9.9.9:7000"), LatchIP: loopback4})
	ph.send(ph.next(0, []byte("latch")))
	br.read()
	ph.sendControl(&rtcp.ReceiverReport{SSRC: ph.ssrc})
	await[*rtcp.ReceiverReport](br)
	if _, to := ph.transport.Remote(); to.Port() != ph.rtcp.LocalAddr().(addrPorter).AddrPort().Port() {
		t.Errorf("RTCP goes to %v", to)
	}
}

// TestRTCPLatchEnds takes RTCP from another port neither late nor after
// signalling has named a new remote.
func TestRTCPLatchEnds(t *testing.T) {
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	told := Remote{RTP: addrPort("10.9.9.9:7000"), LatchIP: loopback4}
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: ph.ssrc}})
	if err != nil {
		t.Fatal(err)
	}
	b := batches.New().(*batch)
	another := addrPort("127.0.0.1:9")
	latches := func(at time.Time) bool {
		b.now = at
		ph.transport.receivePhoneRTCP(b, append([]byte(nil), raw...), another)
		_, to := ph.transport.Remote()
		return to == another
	}
	latchRTP := func() time.Time {
		ph.transport.SetRemote(told)
		ph.send(ph.next(0, []byte("latch")))
		br.read()
		return time.Now()
	}
	at := latchRTP()
	if latches(at.Add(defaultLatch)) {
		t.Error("RTCP latched late")
	}
	ph.transport.SetRemote(Remote{RTP: addrPort("10.9.9.9:7002")})
	if latches(at) {
		t.Error("RTCP latched although signalling has named a new remote")
	}
	if !latches(latchRTP()) {
		t.Error("RTCP did not latch in time")
	}
}
