package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// shape is what an RTP packet looks like besides its numbers.
type shape struct {
	name      string
	csrc      int
	extension int // words after the extension's head, -1 none
	padding   int // octets, the last says how many
	payload   int
}

var shapes = []shape{
	{"g711", 0, -1, 0, 160},
	{"empty", 0, -1, 0, 0},
	{"one octet", 0, -1, 0, 1},
	{"seven octets", 0, -1, 0, 7},
	{"eight octets", 0, -1, 0, 8},
	{"one block", 0, -1, 0, 16},
	{"odd", 0, -1, 0, 47},
	{"small slot full", 0, -1, 0, KeystreamSmall},
	{"over the small slot", 0, -1, 0, KeystreamSmall + 1},
	{"video", 0, -1, 0, 1201},
	{"large", 0, -1, 0, 1400},
	{"csrc", 3, -1, 0, 60},
	{"all csrc", 15, -1, 0, 33},
	{"extension", 0, 2, 0, 80},
	{"empty extension", 0, 0, 0, 80},
	{"long extension", 0, 40, 0, 5},
	{"csrc and extension", 2, 3, 0, 21},
	{"padding", 0, -1, 12, 100},
	{"only padding", 0, -1, 4, 0},
	{"everything", 15, 10, 7, 321},
}

// rtp writes the packet of the shape.
func (s shape) rtp(rnd *rand.Rand, marker bool, payloadType uint8, sequence uint16, timestamp, ssrc uint32) []byte {
	b := make([]byte, 12)
	b[0] = 0x80 | byte(s.csrc)
	b[1] = payloadType
	if marker {
		b[1] |= 0x80
	}
	binary.BigEndian.PutUint16(b[2:], sequence)
	binary.BigEndian.PutUint32(b[4:], timestamp)
	binary.BigEndian.PutUint32(b[8:], ssrc)
	b = append(b, random(rnd, 4*s.csrc)...)
	if s.extension >= 0 {
		b[0] |= 0x10
		b = append(b, 0x42, 0x24, byte(s.extension>>8), byte(s.extension))
		b = append(b, random(rnd, 4*s.extension)...)
	}
	b = append(b, random(rnd, s.payload)...)
	if s.padding > 0 {
		b[0] |= 0x20
		b = append(b, random(rnd, s.padding)...)
		b[len(b)-1] = byte(s.padding)
	}
	return b
}

func (s shape) header() int {
	n := 12 + 4*s.csrc
	if s.extension >= 0 {
		n += 4 + 4*s.extension
	}
	return n
}

// sent is the RTP packet that a stream makes of one that came in.
func (s *installed) sent(in []byte, sh shape, index uint64) []byte {
	out := slices.Clone(in)
	if sh.extension >= 0 && s.value.Flags&uint8(StripExtension) != 0 {
		out[0] &^= 0x10
		out = append(out[:12+4*sh.csrc], out[sh.header():]...)
	}
	out[1] = in[1]&0x80 | s.value.Payload[in[1]&0x7f]
	binary.BigEndian.PutUint16(out[2:], uint16(index+s.value.IndexOffset))
	binary.BigEndian.PutUint32(out[4:], binary.BigEndian.Uint32(in[4:])+s.value.TimestampAdd)
	binary.BigEndian.PutUint32(out[8:], s.value.OutSsrc)
	return out
}

// protect is the party's SRTP of a packet, by pion.
func (p party) protect(t testing.TB, packet []byte, index uint64) []byte {
	t.Helper()
	if p.profile == Plain {
		return packet
	}
	c := p.oracle(t)
	c.SetROC(binary.BigEndian.Uint32(packet[8:]), uint32(index>>16))
	out, err := c.EncryptRTP(nil, packet, nil)
	must(t, err)
	return out
}

// leaving is the frame that the rig sends a packet in.
func (r *rig) leaving(family int, vlan uint16, packet []byte) []byte {
	f := frame(gatewayOut[family], farOut[family], vlan, packet)
	copy(f, farLink)
	copy(f[6:], r.out.Attrs().HardwareAddr)
	ip := f[14:]
	if vlan != 0 {
		ip = f[18:]
	}
	if family == 1 {
		ip[7]--
		return f
	}
	ip[8]--
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip[:20]))
	return f
}

// TestTransforms passes every shape through every transform of both programs,
// with keystream in the ring and without, and wants the bytes, the counters and
// the state that RFC 3550 and 3711 call for.
func TestTransforms(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	profiles := []Profile{Plain, AESCM, AEADGCM}
	names := map[Profile]string{Plain: "rtp", AESCM: "cm", AEADGCM: "gcm"}
	for _, program := range []Program{ProgramXDP, ProgramTC} {
		for _, in := range profiles {
			for _, out := range profiles {
				for family := range 2 {
					name := fmt.Sprintf("%s/%s-%s/ipv%d", []string{"xdp", "tc"}[program], names[in], names[out], 4+2*family)
					t.Run(name, func(t *testing.T) { r.transform(t, rnd, program, in, out, family) })
				}
			}
		}
	}
}

func (r *rig) transform(t *testing.T, rnd *rand.Rand, program Program, in, out Profile, family int) {
	ssrc := rnd.Uint32()
	pi, po := r.session(in, rnd), r.session(out, rnd)
	const highest = 0x7_fff8 // the sequence number rolls over on the way
	streams := map[bool]*installed{}
	for _, strip := range []bool{false, true} {
		s := r.install(pi, po, family, ssrc, func(v *Stream, state *State) {
			state.Started, state.Highest, state.Window = 1, highest, [2]uint64{1, 0}
			v.InRing, v.OutRing = Ring{Base: 0, Mask: 15, Epoch: 3}, Ring{Base: 16, Mask: 15, Epoch: 9}
			if strip {
				v.Flags |= uint8(StripExtension)
			}
		})
		streams[strip] = s
		ssrc++
	}
	sources := map[*installed][2]*keystreamSource{}
	for _, s := range streams {
		var k [2]*keystreamSource
		for i, side := range []party{pi, po} {
			if side.profile != Plain {
				var err error
				k[i], err = newKeystreamSource(side.profile, side.keys.RTPKey, side.keys.RTPSalt, []uint32{s.key.Ssrc, s.value.OutSsrc}[i])
				must(t, err)
			}
		}
		sources[s] = k
	}
	index := map[*installed]uint64{streams[false]: highest, streams[true]: highest}
	for _, sh := range shapes {
		for _, filled := range []string{"ring", "large ring", "none"} {
			for _, s := range streams {
				strip := s == streams[true]
				index[s]++
				i := index[s]
				o := (i + s.value.IndexOffset) & (IndexLimit - 1)
				size := sh.payload + sh.padding
				v := s.value
				v.Flags &^= uint8(InLarge | OutLarge)
				for n, k := range sources[s] {
					if k == nil {
						continue
					}
					ring, at := []Ring{v.InRing, v.OutRing}[n], []uint64{i, o}[n]
					switch filled {
					case "ring":
						k.Fill(&r.ring[ring.Base+uint32(at)&ring.Mask], ring.Epoch, at, KeystreamSmall)
					case "large ring":
						k.FillLarge(&r.large[ring.Base+uint32(at)&ring.Mask], ring.Epoch, at, LargestPayload)
						v.Flags |= uint8(InLarge | OutLarge)
					}
				}
				must(t, r.maps[ControlMapStreams].Put(s.key, &v))

				plain := sh.rtp(rnd, rnd.IntN(2) == 0, 96, uint16(i), rnd.Uint32(), s.key.Ssrc)
				want := r.leaving(family, 0, po.protect(t, s.sent(plain, sh, i), o))
				given := frame(farIn[family], gatewayIn[family], 0, pi.protect(t, plain, i))
				name := fmt.Sprintf("%s, keystream in %s, strip %v", sh.name, filled, strip)
				before, earlier := r.counters(program), r.state(s)
				answer, got := r.run(program, given)

				var verdicts []string
				event := "keystream_hit"
				if filled == "none" || filled == "ring" && size > KeystreamSmall {
					event = "keystream_miss"
				}
				for _, side := range []party{pi, po} {
					if side.profile != Plain {
						verdicts = append(verdicts, event)
					}
				}
				verdicts = append(verdicts, "forwarded")
				slices.Sort(verdicts)
				if m := moved(before, r.counters(program)); !slices.Equal(m, verdicts) {
					t.Fatalf("%s: counters moved: %v, want %v", name, m, verdicts)
				}
				if want := map[Program]uint32{ProgramXDP: xdpRedirect, ProgramTC: tcRedirect}[program]; answer != want {
					t.Fatalf("%s: answer %d, want %d", name, answer, want)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%s: sent\n%x, want\n%x", name, got, want)
				}
				later := r.state(s)
				earlier.Highest = i
				earlier.Window[1] = earlier.Window[1]<<1 | earlier.Window[0]>>63
				earlier.Window[0] = earlier.Window[0]<<1 | 1
				earlier.Packets++
				earlier.Octets += uint64(size)
				if earlier.First == 0 {
					earlier.First = i
				}
				earlier.LastTimestamp = binary.BigEndian.Uint32(plain[4:])
				if later.LastPacket <= earlier.LastPacket || later.Arrival != later.LastPacket || later.ArrivalTimestamp != later.LastTimestamp {
					t.Fatalf("%s: times of the state: %+v", name, later)
				}
				earlier.LastPacket, earlier.Arrival, earlier.ArrivalTimestamp, earlier.JitterQ4 =
					later.LastPacket, later.Arrival, later.ArrivalTimestamp, later.JitterQ4
				if earlier != later {
					t.Fatalf("%s: state\n%+v, want\n%+v", name, later, earlier)
				}
			}
		}
	}
	for _, s := range streams {
		if n := r.drops(s); n != 0 {
			t.Errorf("%d drops", n)
		}
	}
}

// TestVLAN: one tag in, none or one out.
func TestVLAN(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(7, 8))
	link := uint32(r.out.Attrs().Index)
	for _, c := range []struct {
		name    string
		in, out uint16
	}{{"tagged in", 12, 0}, {"tagged out", 0, 34}, {"tagged both", 12, 34}} {
		for family := range 2 {
			for _, profile := range []Profile{Plain, AESCM, AEADGCM} {
				for _, expected := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/ipv%d/%d/expected=%v", c.name, 4+2*family, profile, expected), func(t *testing.T) {
						in, out := r.session(Plain, rnd), r.session(profile, rnd)
						s := r.install(in, out, family, 5, func(v *Stream, _ *State) {
							v.Vlan = c.out
							if !expected {
								v.OutIfindex, v.Vlan = 0, 99
							}
						})
						must(t, r.maps[ControlMapInterfaces].Put(link, Interface{LinkIfindex: link, Vlan: c.out}))
						plain := shapes[0].rtp(rnd, false, 0, 9, 3, 5)
						want := r.leaving(family, c.out, out.protect(t, s.sent(plain, shapes[0], 9), 9+s.value.IndexOffset))
						before := r.counters(ProgramXDP)
						answer, got := r.run(ProgramXDP, frame(farIn[family], gatewayIn[family], c.in, plain))
						if answer != xdpRedirect || !bytes.Equal(got, want) {
							t.Fatalf("answer %d\n%x, want\n%x", answer, got, want)
						}
						if m := moved(before, r.counters(ProgramXDP)); !slices.Contains(m, "forwarded") {
							t.Fatalf("counters moved: %v", m)
						}
					})
				}
			}
		}
	}
}

// TestTransmitBack: out by the interface it came in by is XDP_TX, not a redirect.
func TestTransmitBack(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(7, 9))
	in, out := r.session(Plain, rnd), r.session(Plain, rnd)
	// BPF_PROG_TEST_RUN frames come in by lo
	r.install(in, out, 0, 5, func(v *Stream, _ *State) { v.LinkIfindex = 1 })
	answer, _ := r.run(ProgramXDP, frame(farIn[0], gatewayIn[0], 0, shapes[0].rtp(rnd, false, 0, 9, 3, 5)))
	if answer != xdpTX {
		t.Fatalf("answer %d, want XDP_TX", answer)
	}
}
