package bpf

import (
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluicegw/sluice/bpf/harness"
)

// TestForged sends a million packets with wrong tags: none leaves, the state
// stands still, and then the victim's next packet passes.
func TestForged(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(21, 22))
	for _, profile := range []Profile{AEADGCM, AESCM} {
		in := r.session(profile, rnd)
		s := r.install(in, r.session(Plain, rnd), 0, 1, func(v *Stream, _ *State) {
			v.InRing = Ring{Mask: 15, Epoch: 1}
		})
		k, err := newKeystreamSource(profile, in.keys.RTPKey, in.keys.RTPSalt, 1)
		must(t, err)
		good := func(sequence uint16) []byte {
			return in.protect(t, shapes[0].rtp(rnd, false, 96, sequence, 0, 1), uint64(sequence))
		}
		if answer, _ := r.run(ProgramXDP, frame(farIn[0], gatewayIn[0], 0, good(1))); answer != xdpRedirect {
			t.Fatalf("the first packet: answer %d", answer)
		}
		before, state, drops := r.counters(ProgramXDP), r.state(s), r.drops(s)
		const kinds = 20
		for n := range kinds {
			bad := good(2)
			bad[len(bad)-1-n%len(bad[12:])] ^= byte(1) << rnd.IntN(8)
			if n%2 == 0 {
				k.Fill(&r.ring[2], 1, 2, KeystreamSmall)
			} else {
				r.ring[2].Tag = 0
			}
			// a packet that is dropped is not changed, so it can be sent again
			o := ebpf.RunOptions{Data: frame(farIn[0], gatewayIn[0], 0, bad), Repeat: 500_000 / kinds}
			r.inside(func() {
				answer, err := r.programs[ProgramXDP].Run(&o)
				if err != nil || answer != xdpDrop {
					t.Errorf("answer %d, %v", answer, err)
				}
			})
		}
		if r.state(s) != state {
			t.Errorf("state is %+v, was %+v", r.state(s), state)
		}
		after := r.counters(ProgramXDP)
		if n := after.Verdict[ControlSlcVerdictSLC_DROP_AUTH] - before.Verdict[ControlSlcVerdictSLC_DROP_AUTH]; n != 500_000 {
			t.Errorf("%d dropped for their tag", n)
		}
		if n := after.Verdict[ControlSlcVerdictSLC_FORWARDED] - before.Verdict[ControlSlcVerdictSLC_FORWARDED]; n != 0 {
			t.Errorf("%d forwarded", n)
		}
		if n := r.drops(s) - drops; n != 500_000 {
			t.Errorf("%d drops booked on the stream", n)
		}
		if answer, _ := r.run(ProgramXDP, frame(farIn[0], gatewayIn[0], 0, good(2))); answer != xdpRedirect {
			t.Errorf("the next packet: answer %d", answer)
		}
	}
}

// TestForgedCost: a bad packet costs at most 1.1 of a good one, with keystream
// and without.
func TestForgedCost(t *testing.T) {
	for _, profile := range []Profile{AEADGCM, AESCM} {
		for _, hit := range []bool{true, false} {
			b := newBench(t, 1)
			b.add(0, profile, Plain, 160, hit)
			good := b.measure(xdpRedirect)
			var f harness.HarnessHarnessFrame
			must(t, b.frames.Lookup(uint32(0), &f))
			f.Octets[f.Length-1] ^= 1
			must(t, b.frames.Put(uint32(0), &f))
			bad := b.measure(xdpDrop)
			t.Logf("profile %d, keystream %v: good %.0f ns, bad %.0f ns", profile, hit, good, bad)
			if bad > 1.1*good {
				t.Errorf("profile %d, keystream %v: bad packets cost %.0f ns, good ones %.0f ns", profile, hit, bad, good)
			}
		}
	}
}
