package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	pion "github.com/pion/srtp/v3"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/internal/ring"
)

// differentialPackets is how many packets TestDifferential compares: a million
// in CI, SLUICE_DIFFERENTIAL_PACKETS otherwise, some anyway.
func differentialPackets(t *testing.T) int {
	t.Helper()
	if s := os.Getenv("SLUICE_DIFFERENTIAL_PACKETS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return n
	}
	if ring.CI() {
		return 1_000_000
	}
	return 100_000
}

// TestDifferential holds the programs against pion/srtp for the octets and
// against dataplane/srtp.Window for the index: both directions, both profiles
// and SRTP to SRTP, IPv4 and IPv6, CSRC lists, extensions, padding, 0 to 1400
// octets; lost, late, doubled, forged and replayed packets over three roll-overs;
// keystream in the ring, stale, or none.
func TestDifferential(t *testing.T) {
	r := newRig(t, nil)
	cases := []struct {
		program Program
		in, out Profile
		family  int
	}{
		{ProgramXDP, AEADGCM, Plain, 0},
		{ProgramXDP, Plain, AEADGCM, 1},
		{ProgramXDP, AESCM, Plain, 1},
		{ProgramXDP, Plain, AESCM, 0},
		{ProgramXDP, AEADGCM, AESCM, 0},
		{ProgramXDP, AESCM, AEADGCM, 1},
		{ProgramTC, AEADGCM, Plain, 1},
		{ProgramTC, Plain, AEADGCM, 0},
		{ProgramTC, AESCM, Plain, 0},
		{ProgramTC, Plain, AESCM, 1},
	}
	n := differentialPackets(t) / len(cases)
	for i, c := range cases {
		t.Run(fmt.Sprintf("%d/%d-%d/ipv%d", c.program, c.in, c.out, 4+2*c.family), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(i), 99))
			d := newDifferential(t, r, rnd, c.program, c.in, c.out, c.family)
			var err error
			r.inside(func() {
				for k := 0; k < n && err == nil; k++ {
					err = d.packet(n)
				}
			})
			must(t, err)
			d.finish(n)
		})
	}
}

type differential struct {
	t       *testing.T
	r       *rig
	rnd     *rand.Rand
	program Program
	family  int
	s       *installed
	pi, po  party
	source  [2]*keystreamSource
	sealer  *pion.Context // the far end that sends to us
	opener  *pion.Context // what we should make of its packets
	leaver  *pion.Context // what we should send
	window  srtp.Window
	next    uint64 // index the sender uses next
	start   uint64
	state   State // packets, octets of it
	drops   uint64
	sent    map[Verdict]int
	prior   Counters
}

func newDifferential(t *testing.T, r *rig, rnd *rand.Rand, program Program, in, out Profile, family int) *differential {
	d := &differential{
		t: t, r: r, rnd: rnd, program: program, family: family,
		pi: r.session(in, rnd), po: r.session(out, rnd), sent: map[Verdict]int{},
	}
	d.start = uint64(rnd.IntN(2))<<16 | 0xff00
	d.next = d.start + 1
	d.window = srtp.NewWindowAt(d.start)
	d.s = r.install(d.pi, d.po, family, rnd.Uint32(), func(v *Stream, state *State) {
		state.Started, state.Highest, state.Window = 1, d.start, d.window.Bits()
		v.IndexOffset = rnd.Uint64N(IndexLimit / 2)
		v.InRing, v.OutRing = Ring{Base: 64, Mask: 63, Epoch: 7}, Ring{Base: 128, Mask: 63, Epoch: 8}
		if rnd.IntN(2) == 0 {
			v.Flags |= uint8(StripExtension)
		}
	})
	for i, p := range []party{d.pi, d.po} {
		if p.profile == Plain {
			continue
		}
		var err error
		d.source[i], err = newKeystreamSource(p.profile, p.keys.RTPKey, p.keys.RTPSalt, []uint32{d.s.key.Ssrc, d.s.value.OutSsrc}[i])
		must(t, err)
	}
	if in != Plain {
		d.sealer, d.opener = d.pi.oracle(t), d.pi.oracle(t)
	}
	if out != Plain {
		d.leaver = d.po.oracle(t)
	}
	d.prior = r.counters(program)
	return d
}

// shape draws one; the whole RTP packet stays below 1412 octets.
func (d *differential) shape() shape {
	sh := shape{extension: -1}
	if d.rnd.IntN(4) == 0 {
		sh.csrc = d.rnd.IntN(16)
	}
	if d.rnd.IntN(3) == 0 {
		sh.extension = d.rnd.IntN(20)
	}
	if d.rnd.IntN(5) == 0 {
		sh.padding = 1 + d.rnd.IntN(40)
	}
	switch d.rnd.IntN(3) {
	case 0:
		sh.payload = 160
	case 1:
		sh.payload = d.rnd.IntN(300)
	default:
		sh.payload = d.rnd.IntN(1401 - sh.header() + 12 - sh.padding)
	}
	return sh
}

// packet sends one more and compares.
func (d *differential) packet(total int) error {
	sh := d.shape()
	index := d.next
	switch d.rnd.IntN(20) {
	case 0: // late or again
		index = d.next - min(d.next-1, 1+d.rnd.Uint64N(200))
	case 1: // a loss
		// so large that every run sees three roll-overs
		index += d.rnd.Uint64N(min(MaxDropout, 20*2*4<<16/uint64(total)+20))
	case 2:
		if d.rnd.IntN(50) == 0 {
			index += d.rnd.Uint64N(2 * MaxDropout)
		}
	}
	plain := sh.rtp(d.rnd, d.rnd.IntN(2) == 0, 96, uint16(index), d.rnd.Uint32(), d.s.key.Ssrc)
	given := plain
	if d.sealer != nil {
		d.sealer.SetROC(d.s.key.Ssrc, uint32(index>>16))
		var err error
		if given, err = d.sealer.EncryptRTP(nil, plain, nil); err != nil {
			return err
		}
		if d.rnd.IntN(16) == 0 {
			d.forge(given, sh)
		}
	}
	verdict, out, accepted := d.expect(given, sh)
	if accepted >= d.next {
		d.next = accepted + 1
	}
	o := ebpf.RunOptions{Data: frame(farIn[d.family], gatewayIn[d.family], 0, given), DataOut: d.r.data}
	if _, err := d.r.programs[d.program].Run(&o); err != nil {
		return err
	}
	d.sent[verdict]++
	if verdict >= ControlSlcVerdictSLC_DROP_MALFORMED {
		d.drops++
		return nil
	}
	want := o.Data
	if verdict == ControlSlcVerdictSLC_FORWARDED {
		want = d.r.leaving(d.family, 0, out)
	}
	if !bytes.Equal(o.DataOut, want) {
		return fmt.Errorf("index %#x, shape %+v, want %v: got\n%x, want\n%x", index, sh, verdict, o.DataOut, want)
	}
	return nil
}

// forge changes one octet that does not say where the packet belongs.
func (d *differential) forge(b []byte, sh shape) {
	for {
		at := d.rnd.IntN(len(b))
		bit := byte(1) << d.rnd.IntN(8)
		switch {
		case at == 0, at == 1 && bit != 0x80, at >= 8 && at < 12:
			continue
		case sh.extension >= 0 && at >= 12+4*sh.csrc && at < 16+4*sh.csrc:
			continue // the length of the extension
		}
		b[at] ^= bit
		return
	}
}

// expect says what should become of a packet, the RTP that should leave and
// which index it took, and keeps the books.
func (d *differential) expect(given []byte, sh shape) (Verdict, []byte, uint64) {
	sequence := binary.BigEndian.Uint16(given[2:])
	index := d.window.Estimate(sequence)
	octets, outIndex := uint64(sh.payload+sh.padding), (index+d.s.value.IndexOffset)&(IndexLimit-1)
	d.keystream(index, outIndex)
	if d.opener == nil {
		highest := d.window.Highest()
		if index > highest+MaxDropout || index+Window <= highest {
			return ControlSlcVerdictSLC_UP_JUMP, nil, 0
		}
	}
	if !d.window.Check(index) {
		return ControlSlcVerdictSLC_DROP_REPLAY, nil, 0
	}
	plain := given
	if d.opener != nil {
		d.opener.SetROC(d.s.key.Ssrc, uint32(index>>16))
		var err error
		if plain, err = d.opener.DecryptRTP(nil, given, nil); err != nil {
			return ControlSlcVerdictSLC_DROP_AUTH, nil, 0
		}
	}
	d.window.Accept(index)
	d.state.Packets++
	d.state.Octets += octets
	out := d.s.sent(plain, sh, index)
	if d.leaver != nil {
		d.leaver.SetROC(d.s.value.OutSsrc, uint32(outIndex>>16))
		var err error
		if out, err = d.leaver.EncryptRTP(nil, out, nil); err != nil {
			d.t.Error(err)
		}
	}
	return ControlSlcVerdictSLC_FORWARDED, out, index
}

// keystream puts the right octets, somebody else's, or none into the slots.
func (d *differential) keystream(in, out uint64) {
	for i, at := range []uint64{in, out} {
		if d.source[i] == nil {
			continue
		}
		ring := []Ring{d.s.value.InRing, d.s.value.OutRing}[i]
		slot := &d.r.ring[ring.Base+uint32(at)&ring.Mask]
		switch d.rnd.IntN(4) {
		case 0:
			slot.Tag = 0
		case 1: // of an older packet, or of the ring's last user
			if d.rnd.IntN(2) == 0 {
				d.source[i].Fill(slot, ring.Epoch, at-uint64(ring.Mask)-1, KeystreamSmall)
			} else {
				d.source[i].Fill(slot, ring.Epoch+1, at, KeystreamSmall)
				slot.Bytes[0] ^= 1
			}
		default:
			d.source[i].Fill(slot, ring.Epoch, at, KeystreamSmall)
		}
	}
}

// finish compares what the run leaves behind.
func (d *differential) finish(n int) {
	d.t.Helper()
	state := d.r.state(d.s)
	if state.Highest != d.window.Highest() || state.Window != d.window.Bits() {
		d.t.Errorf("window %#x %x, want %#x %x", state.Highest, state.Window, d.window.Highest(), d.window.Bits())
	}
	if state.Packets != d.state.Packets || state.Octets != d.state.Octets {
		d.t.Errorf("%d packets, %d octets, want %d, %d", state.Packets, state.Octets, d.state.Packets, d.state.Octets)
	}
	if got := d.r.drops(d.s); got != d.drops {
		d.t.Errorf("%d drops, want %d", got, d.drops)
	}
	after := d.r.counters(d.program)
	for v := range Verdicts {
		if got := after.Verdict[v] - d.prior.Verdict[v]; got != uint64(d.sent[Verdict(v)]) {
			d.t.Errorf("%v: %d, want %d", Verdict(v), got, d.sent[Verdict(v)])
		}
	}
	if n >= 10_000 && d.window.Highest()>>16 < d.start>>16+3 {
		d.t.Errorf("only %d roll-overs", d.window.Highest()>>16-d.start>>16)
	}
	d.t.Logf("%d packets, %v, from index %#x to %#x", n, d.sent, d.start, d.window.Highest())
}
