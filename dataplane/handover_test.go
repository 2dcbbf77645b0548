package dataplane

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// pair is two joined legs over a fake Forwarder, and the wire to the first.
type pair struct {
	plane   *Plane
	forward *fakeForwarder
	wire    *wire
	a, b    *peer
	n       uint64 // payloads sent
}

func newPairOver(t testing.TB, from, to srtp.Profile, change func(*fakeForwarder)) *pair {
	w := newFakeForwarder(t)
	if change != nil {
		change(w)
	}
	p := newPlane(t, func(c *Config) { c.Forwarder, c.releaseDrain = w, 4*time.Millisecond })
	leg := func(profile srtp.Profile) *peer {
		if profile == srtp.ProfileNone {
			return newPhone(t, p, false, audioLine(), Events{})
		}
		return newBrowser(t, p, false, profile, audioLine(), Events{})
	}
	x := &pair{plane: p, forward: w, wire: newWire(t, w), a: leg(from), b: leg(to)}
	join(t, p, x.a, x.b)
	return x
}

// make returns the next packet of a as it goes on the wire, with a payload of
// its own.
func (x *pair) make() []byte {
	x.n++
	payload := make([]byte, 160)
	binary.BigEndian.PutUint64(payload, x.n)
	return x.a.marshal(x.a.next(0, payload))
}

func (x *pair) send(n int) {
	for range n {
		x.wire.deliver(x.a, x.make())
	}
}

func (x *pair) owner() owner {
	x.a.transport.mu.Lock()
	defer x.a.transport.mu.Unlock()
	if s := x.a.line.source; s != nil && s.flow != nil {
		return s.flow.owner
	}
	return ownerUser
}

func (x *pair) takeBack(t testing.TB) {
	x.a.transport.mu.Lock()
	defer x.a.transport.mu.Unlock()
	if !x.plane.engine.takeBack(x.a.transport, x.a.line.source, x.plane.engine.drain) {
		t.Fatal("not given back")
	}
}

// arrived fails unless every payload sent came out once.
func (x *pair) arrived(t testing.TB) {
	t.Helper()
	c := x.wire.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := 0
	payload := make([]byte, 160)
	for i := uint64(1); i <= x.n; i++ {
		binary.BigEndian.PutUint64(payload, i)
		switch c.payloads[string(payload)] {
		case 1:
		case 0:
			lost++
			t.Logf("payload %d is lost", i)
		default:
			t.Errorf("payload %d came out twice", i)
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d packets were lost", lost, x.n)
	}
}

var pairs = [][2]srtp.Profile{
	{srtp.ProfileNone, srtp.ProfileAEADAES128GCM},
	{srtp.ProfileAEADAES128GCM, srtp.ProfileNone},
	{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM},
	{srtp.ProfileNone, srtp.ProfileNone},
}

func (x *pair) carried(t testing.TB) {
	t.Helper()
	eventually(t, "the Forwarder carries the stream", func() bool {
		x.send(1)
		x.forward.mu.Lock()
		defer x.forward.mu.Unlock()
		return x.forward.counts.carried > 0
	})
}

// TestHandover moves a stream to the Forwarder and back 200 times under load,
// with reordering, and looks at every index that was used.
func TestHandover(t *testing.T) {
	for i, p := range pairs {
		rounds := 200
		if i > 0 {
			rounds = 20
		}
		t.Run(p[0].String()+"-"+p[1].String(), func(t *testing.T) {
			x := newPairOver(t, p[0], p[1], func(w *fakeForwarder) { w.delay = 300 * time.Microsecond })
			r := rand.New(rand.NewPCG(1, 2))
			var waiting [][]byte
			back := 0
			pace := time.NewTicker(100 * time.Microsecond)
			defer pace.Stop()
			carriedBefore, run := 0, 20
			for back < rounds {
				waiting = append(waiting, x.make())
				for len(waiting) > 0 && (len(waiting) > 6 || r.IntN(3) > 0) {
					i := r.IntN(len(waiting))
					x.wire.deliver(x.a, waiting[i])
					waiting[i] = waiting[len(waiting)-1]
					waiting = waiting[:len(waiting)-1]
				}
				if n := x.forward.count(func() int { return x.forward.counts.carried }); n-carriedBefore > run && x.owner() == ownerForwarder {
					x.takeBack(t)
					back++
					carriedBefore, run = n, r.IntN(60)
				}
				<-pace.C
				if x.n > uint64(rounds)*2000 {
					t.Fatalf("only %d hand-overs", back)
				}
			}
			for _, raw := range waiting {
				x.wire.deliver(x.a, raw)
			}
			x.arrived(t)
			x.forward.mu.Lock()
			defer x.forward.mu.Unlock()
			c := x.forward.counts
			if c.installs < rounds || c.releases < rounds || c.carried < 5*rounds {
				t.Errorf("%+v: the test does not test", c)
			}
			t.Logf("%d packets, %+v", x.n, c)
		})
	}
}

// TestHandoverCounters reads one stream's counters through both engines.
func TestHandoverCounters(t *testing.T) {
	x := newPairOver(t, srtp.ProfileAEADAES128GCM, srtp.ProfileNone, nil)
	x.carried(t)
	eventually(t, "the statistics are whole", func() bool {
		in, out := x.a.line.Stats(), x.b.line.Stats()
		return in.Received.Packets == x.n && out.Sent.Packets == x.n && in.Path == "kernel:fake" && in.Reason == ReasonNone &&
			in.Received.Octets == x.n*160 && in.Received.Lost == 0
	})
	x.takeBack(t)
	x.send(1)
	in, out := x.a.line.Stats(), x.b.line.Stats()
	if in.Received.Packets != x.n || out.Sent.Packets != x.n || in.Path != "user" {
		t.Errorf("after %d packets: %+v, %+v", x.n, in, out)
	}
	if time.Since(x.a.transport.LastReceived()) > patience {
		t.Error("LastReceived is stale")
	}
	eventually(t, "the released stream is removed", func() bool {
		x.forward.mu.Lock()
		defer x.forward.mu.Unlock()
		return x.forward.counts.removes == 1
	})
}

// TestHoldReleases takes a stream back when its output closes, and goes on with
// higher indices after it opens.
func TestHoldReleases(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	for range 5 {
		before := x.forward.count(func() int { return x.forward.counts.carried })
		eventually(t, "the Forwarder carries the stream", func() bool {
			x.send(1)
			return x.forward.count(func() int { return x.forward.counts.carried }) > before
		})
		held := audioLine()
		held.Send = false
		x.b.line.Update(held)
		if x.owner() != ownerUser {
			t.Fatal("the Forwarder still carries a stream that is on hold")
		}
		out := x.forward.capture.count()
		x.send(10)
		if n := x.forward.capture.count(); n != out {
			t.Fatalf("%d packets passed a closed gate", n-out)
		}
		x.b.line.Update(audioLine())
		x.send(3)
		if n := x.forward.capture.count(); n != out+3 {
			t.Fatalf("%d packets after the hold, want 3", n-out)
		}
	}
	// The capture has failed the test if an index came twice.
}

func (w *fakeForwarder) count(f func() int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return f()
}

func (c *capture) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.packets)
}

// TestInstallRefused keeps a stream on the user engine with the reason.
func TestInstallRefused(t *testing.T) {
	for _, v := range []struct {
		name   string
		change func(*fakeForwarder)
		want   Reason
	}{
		{"ineligible", func(w *fakeForwarder) { w.refuse = ReasonFamilyMismatch }, ReasonFamilyMismatch},
		{"full", func(w *fakeForwarder) { w.failing = ErrMapFull }, ReasonMapFull},
		{"failing", func(w *fakeForwarder) { w.failing = errors.New("no") }, ReasonInstallFailed},
	} {
		t.Run(v.name, func(t *testing.T) {
			x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, v.change)
			eventually(t, "the reason shows", func() bool {
				x.send(1)
				st := x.a.line.Stats()
				return st.Reason == v.want && st.Path == "user"
			})
			x.arrived(t)
		})
	}
}

// TestUpdateInPlace moves addresses under a carried stream without a hand-over.
func TestUpdateInPlace(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	x.carried(t)
	other := listenUDP(t, false)
	x.b.transport.SetPair(x.plane.networks["lo"].browser[0].socket.local, unmap(other.LocalAddr().(addrPorter).AddrPort()))
	x.send(1)
	if got := x.forward.count(func() int { return x.forward.counts.updates }); got == 0 {
		t.Error("the new pair was not passed on")
	}
	if got := x.forward.count(func() int { return x.forward.counts.releases }); got != 0 {
		t.Error("a new pair took the stream back")
	}
	x.forward.mu.Lock()
	for _, f := range x.forward.flows {
		if f.OutRemote != unmap(other.LocalAddr().(addrPorter).AddrPort()) {
			t.Errorf("sent to %v", f.OutRemote)
		}
	}
	x.forward.mu.Unlock()
	x.arrived(t)
}

// TestForwarderKeeps stops an output whose stream the Forwarder will not give
// back: nothing else may use its indices.
func TestForwarderKeeps(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	x.carried(t)
	x.forward.mu.Lock()
	x.forward.stuck = errors.New("broken")
	x.forward.mu.Unlock()
	x.b.line.Unjoin()
	join(t, x.plane, x.a, x.b)
	x.forward.mu.Lock()
	clear(x.forward.flows) // what it had goes up now
	x.forward.mu.Unlock()
	out := x.forward.capture.count()
	x.send(20)
	if n := x.forward.capture.count(); n != out {
		t.Errorf("%d packets left under an SSRC that the Forwarder may still use", n-out)
	}
}

// TestRestartUnderForwarder restarts a phone with a lower sequence number while
// the Forwarder has its stream.
func TestRestartUnderForwarder(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	x.a.seq = 40000
	x.carried(t)
	x.a.seq = 100
	before := x.forward.capture.count()
	x.send(50)
	if got := x.forward.capture.count() - before; got < 49 {
		t.Errorf("%d of 50 packets after the restart", got)
	}
}

// TestForwarderRefuses takes a stream back from a Forwarder that passes its
// packets up, as after a route was lost.
func TestForwarderRefuses(t *testing.T) {
	for _, p := range pairs {
		x := newPairOver(t, p[0], p[1], nil)
		x.carried(t)
		x.forward.mu.Lock()
		x.forward.lost = true
		x.forward.mu.Unlock()
		before := x.forward.capture.count()
		x.send(50)
		if got := x.forward.capture.count() - before; got < 50-maxRefused {
			t.Errorf("%v: %d of 50 packets", p, got)
		}
		if st := x.a.line.Stats(); st.Path != "user" || st.Reason != ReasonInstallFailed {
			t.Errorf("%v: %+v", p, st)
		}
	}
}

// TestInstallSlow sends on while Install takes its time: what is above the cut
// waits, and goes to whoever has the stream in the end.
func TestInstallSlow(t *testing.T) {
	for _, failing := range []error{nil, errors.New("no")} {
		entered, leave := make(chan struct{}), make(chan struct{})
		x := newPairOver(t, srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80, func(w *fakeForwarder) {
			w.failing = failing
			w.pause = func() { entered <- struct{}{}; <-leave }
		})
		x.send(settlePackets)
		<-entered
		x.send(installMargin + maxHeld)
		if got := x.forward.capture.count(); got != settlePackets+installMargin {
			t.Errorf("%d packets left during Install", got)
		}
		close(leave)
		eventually(t, "those that waited are out", func() bool {
			return x.b.line.Stats().Sent.Packets == settlePackets+installMargin+maxHeld
		})
		x.forward.mu.Lock()
		x.forward.pause = nil
		x.forward.mu.Unlock()
		x.send(10)
		if failing == nil { // else those that waited left by a socket, unseen
			x.arrived(t)
		}
	}
}
