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
					p.engine.takeBack(ph.transport, s, p.engine.drain)
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
		// (A jump back to within the replay window looks like duplicates, so it
		// goes on ahead of all that was heard.)
		ph.ssrc, ph.seq = 7, ph.seq+500
		ph.transport.mu.Lock()
		if s := ph.transport.streams[7]; s != nil {
			carried := p.engine.read(s, time.Now().Add(time.Hour)).Window
			ph.seq = uint16(max(s.window.Highest(), carried.Highest())) + 500
		}
		ph.transport.mu.Unlock()
		eventually(t, "nothing is on its way back any more", func() bool {
			return w.count(func() int { return w.counts.releases - w.counts.removes }) == 0
		})
		before, waiting := w.capture.count(), p.Drops()[dropForwarder.String()]
		for range 100 {
			send()
		}
		// An install lets packets wait, and loses what is more at once than it lets
		// wait, by design.
		ph.transport.mu.Lock()
		leads := ph.line.source != nil && ph.line.source.ssrc == 7
		ph.transport.mu.Unlock()
		if leads {
			eventually(t, "all but a few of the last 100 packets are out", func() bool {
				lost := p.Drops()[dropForwarder.String()] - waiting
				return w.capture.count()-before+int(lost) >= 95
			})
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}
