package dataplane

import (
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestNoIndexReuse drives one browser's line with everything that moves its
// numbering: phones that come and go with the same SSRC, restarts, jumps,
// duplicates, reordering, holds, new keys, streams that move between engines at
// any moment. The capture fails when a (key, SSRC, index) comes twice or a
// receiver could not follow.
func TestNoIndexReuse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newFakeForwarder(t)
		p := newPlane(t, func(c *Config) { c.Forwarder, c.releaseDrain = w, time.Millisecond })
		defer p.Close()
		x := newWire(t, w)
		br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
		var ph *peer
		var sent [][]byte
		n := uint64(0)
		answer := func() {
			if ph != nil && rapid.Bool().Draw(rt, "closes") {
				ph.transport.Close()
			}
			ph = newPhone(t, p, false, audioLine(), Events{})
			ph.ssrc, ph.seq = 7, rapid.Uint16().Draw(rt, "seq")
			join(t, p, br, ph)
			sent = nil
		}
		send := func() {
			n++
			raw := ph.marshal(ph.next(0, binary.BigEndian.AppendUint64(nil, n)))
			sent = append(sent, raw)
			x.deliver(ph, raw)
		}
		answer()
		open := true
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				answer()
			case 1:
				open = !open
				c := audioLine()
				c.Send = open
				br.line.Update(c)
			case 2:
				ph.seq = rapid.Uint16().Draw(rt, "jump")
			case 3:
				ph.ssrc = rapid.Uint32Range(7, 9).Draw(rt, "ssrc")
			case 4: // the network repeats and reorders
				for range 10 {
					if len(sent) > 0 {
						x.deliver(ph, sent[rapid.IntRange(max(0, len(sent)-200), len(sent)-1).Draw(rt, "again")])
					}
				}
			case 5:
				br.setKeys(srtp.ProfileAEADAES128GCM)
			case 6:
				if err := br.transport.SetKeys(br.keys[0], br.keys[1]); err != nil {
					rt.Fatal(err)
				}
			case 7:
				ph.transport.mu.Lock()
				if s := ph.line.source; s != nil && s.flow != nil {
					p.engine.takeBack(ph.transport, s)
				}
				ph.transport.mu.Unlock()
			case 8:
				br.line.Unjoin()
				join(t, p, br, ph)
			}
			for range rapid.IntRange(0, 60).Draw(rt, "packets") {
				send()
			}
		}
		if !open {
			br.line.Update(audioLine())
		}
		// Whatever happened, audio goes on: a few packets may be lost to a jump.
		// (A jump back to within the replay window looks like duplicates: leave it.)
		ph.ssrc, ph.seq = 7, ph.seq+500
		before, waiting := w.capture.count(), p.Drops()[dropForwarder.String()]
		for range 100 {
			send()
		}
		// More packets at once than an install lets wait are lost by design.
		waiting = p.Drops()[dropForwarder.String()] - waiting
		if got := w.capture.count() - before + int(waiting); got < 95 && ph.line.source.ssrc == 7 {
			rt.Errorf("%d of 100 packets at the end; %+v, %v", got, w.counts, p.Drops())
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}
