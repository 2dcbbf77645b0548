package dataplane

import (
	"bytes"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

var srtpProfiles = []srtp.Profile{srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80}

func (x *pair) fussy(on bool) {
	x.forward.mu.Lock()
	defer x.forward.mu.Unlock()
	x.forward.fussy = on
}

// settled sends until the user engine has nothing more below the cut.
func (x *pair) settled(t testing.TB) {
	t.Helper()
	x.carried(t)
	x.send(installMargin + srtp.WindowSize)
	if x.owner() != ownerForwarder {
		t.Fatal("the Forwarder does not carry the stream")
	}
}

// TestForgedRefusals sends what the programs pass up without a look at its tag:
// plausible numbers under a wrong tag, and copies of authentic packets.
func TestForgedRefusals(t *testing.T) {
	for _, profile := range srtpProfiles {
		t.Run(profile.String(), func(t *testing.T) {
			x := newPairOver(t, profile, srtp.ProfileNone, nil)
			x.settled(t)
			x.fussy(true)
			before, out := x.plane.Drops(), x.forward.capture.count()
			for i := range 1000 {
				raw := x.a.marshal(x.a.next(0, make([]byte, 160)))
				if i%20 == 19 {
					x.a.seq -= 20 // stay near what the Forwarder has
				}
				raw[len(raw)-1] ^= 1
				x.wire.up(x.a, raw)
			}
			if got := x.plane.Drops()["auth-failed"] - before["auth-failed"]; got != 1000 {
				t.Errorf("%d of 1000 packets failed to authenticate", got)
			}
			if st := x.a.line.Stats(); st.Path != "kernel:fake" || x.owner() != ownerForwarder {
				t.Errorf("forged packets moved the stream: %+v", st)
			}

			// One that was taken, and one that was not, again and again.
			x.a.setSeqAbove(x)
			taken := x.make()
			x.wire.deliver(x.a, bytes.Clone(taken))
			refused := x.a.marshal(x.a.next(0, make([]byte, 160)))
			for range 1000 {
				x.wire.up(x.a, taken)
				x.wire.up(x.a, refused)
			}
			if st := x.a.line.Stats(); st.Path != "kernel:fake" || x.owner() != ownerForwarder {
				t.Errorf("copies moved the stream: %+v", st)
			}
			if n := x.forward.capture.count(); n != out+1 {
				t.Errorf("%d packets left, want 1", n-out)
			}
			if n := x.forward.count(func() int { return x.forward.counts.releases }); n != 0 {
				t.Errorf("%d releases", n)
			}
			x.arrived(t)
		})
	}
}

// setSeqAbove lets the peer go on above what the Forwarder has taken.
func (p *peer) setSeqAbove(x *pair) {
	x.forward.mu.Lock()
	defer x.forward.mu.Unlock()
	for _, f := range x.forward.flows {
		p.seq = uint16(f.window.Highest())
	}
}

// TestRefusedInSequence takes a stream back after refusals that no packet the
// Forwarder takes interrupts, and not before.
func TestRefusedInSequence(t *testing.T) {
	for _, p := range pairs {
		t.Run(p[0].String()+"-"+p[1].String(), func(t *testing.T) {
			x := newPairOver(t, p[0], p[1], nil)
			x.settled(t)
			for range 5 {
				x.fussy(true)
				for range maxRefused - 1 {
					x.wire.up(x.a, x.make())
				}
				x.fussy(false)
				x.wire.up(x.a, x.make())
				if x.owner() != ownerForwarder {
					t.Fatal("taken back from a Forwarder that takes packets")
				}
			}
			x.fussy(true)
			for range maxRefused {
				x.wire.up(x.a, x.make())
			}
			if x.owner() != ownerUser {
				t.Error("the Forwarder keeps a stream that it refuses")
			}
		})
	}
}

// TestRolloverUnderForwarder lets the Forwarder run on for more than a roll-over:
// numbers near the old cut are of new packets then.
func TestRolloverUnderForwarder(t *testing.T) {
	for _, p := range pairs {
		t.Run(p[0].String()+"-"+p[1].String(), func(t *testing.T) {
			x := newPairOver(t, p[0], p[1], nil)
			x.settled(t)
			x.a.transport.mu.Lock()
			f, high := x.a.line.source.flow, x.a.line.source.window.Highest()
			cut := f.cut
			x.a.transport.mu.Unlock()
			// A roll-over later, short of the numbers around the cut.
			for target := high + 1<<16 - srtp.WindowSize; x.highest() < target; {
				x.a.seq += uint16(min(target-x.highest(), maxDropout)) - 1
				x.send(1)
			}
			x.a.transport.mu.Lock()
			x.a.line.source.readAt = time.Time{} // as if readFor had passed
			x.a.transport.mu.Unlock()
			before := x.forward.capture.count()
			injected := x.forward.count(func() int { return x.forward.counts.injected })
			sent := 0
			for x.highest() < cut+1<<16+10 {
				x.wire.up(x.a, x.make())
				sent++
			}
			if n := x.forward.count(func() int { return x.forward.counts.injected }) - injected; n != sent {
				t.Errorf("%d of %d packets went to the Forwarder", n, sent)
			}
			if n := x.forward.capture.count() - before; n != sent {
				t.Errorf("%d of %d packets came out", n, sent)
			}
			if x.owner() != ownerForwarder {
				t.Error("the stream came back")
			}
			x.arrived(t)
		})
	}
}

// highest is the newest index that the Forwarder has.
func (x *pair) highest() (high uint64) {
	x.forward.mu.Lock()
	defer x.forward.mu.Unlock()
	for _, f := range x.forward.flows {
		high = f.window.Highest()
	}
	return high
}

// TestHandoverJitter follows the jitter from one engine to the other and back.
func TestHandoverJitter(t *testing.T) {
	x := newPairOver(t, srtp.ProfileAEADAES128GCM, srtp.ProfileNone, nil)
	x.settled(t)
	x.forward.mu.Lock()
	for _, f := range x.forward.flows {
		if f.installed.Jitter == 0 {
			t.Error("installed without the jitter so far")
		}
		f.counters.Jitter = 1234
	}
	x.forward.mu.Unlock()
	x.takeBack(t)
	x.send(1) // its transit has nothing to be compared with
	if got := x.a.line.Stats().Received.Jitter; got != 1234 {
		t.Errorf("jitter %d after the hand-over, want 1234", got)
	}
}
