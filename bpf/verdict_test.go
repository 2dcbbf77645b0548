package bpf

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

//go:embed include/sluice.h
var header []byte

// TestNames holds the words against the enums of sluice.h.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		enum, prefix string
		names        []string
	}{{"slc_verdict", "SLC_", verdictNames[:]}, {"slc_event", "SLC_", eventNames[:]}} {
		body := regexp.MustCompile(`(?s)enum ` + c.enum + ` \{(.*?)\};`).FindSubmatch(header)
		if body == nil {
			t.Fatalf("no enum %s in sluice.h", c.enum)
		}
		var words []string
		for _, m := range regexp.MustCompile(`(?m)^\t`+c.prefix+`(\w+),`).FindAllSubmatch(body[1], -1) {
			words = append(words, strings.ToLower(string(m[1])))
		}
		words = words[:len(words)-1] // the count
		if !slices.Equal(words, c.names) {
			t.Errorf("%s: C has\n%v, Go has\n%v", c.enum, words, c.names)
		}
	}
	if Verdict(9999).String() != "verdict_9999" || Event(77).String() != "event_77" {
		t.Error("unknown values have no word")
	}
}

// patch changes octets of a frame; after it the IPv4 header checksum is right.
func patch(f []byte, at int, octets ...byte) []byte {
	f = slices.Clone(f)
	copy(f[at:], octets)
	if f[12] == 8 {
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], ^checksum(0, f[14:34]))
	}
	return f
}

// insert puts octets into a frame.
func insert(f []byte, at int, octets ...byte) []byte {
	return slices.Insert(slices.Clone(f), at, octets...)
}

// TestVerdicts: what does not go out goes up, or away, for the reason named, by
// that counter alone; what goes up is unharmed; and no state changes.
func TestVerdicts(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	const ssrc, highest, from, until = 0x77, 0x1_0500, 0x1_0400, 0x1_2000
	at := func(v *Stream, state *State) {
		state.Started, state.Highest, state.Window = 1, highest, [2]uint64{1, 0}
		state.From, state.Until = from, until
	}
	for family := range 2 {
		plain := r.session(Plain, rnd)
		gcm, cm := r.session(AEADGCM, rnd), r.session(AESCM, rnd)
		narrow := func(v *Stream, state *State) {
			at(v, state)
			v.Destination = wide(stranger[family].Addr())
		}
		lost := func(v *Stream, state *State) {
			at(v, state)
			v.Destination = wide(nowhere[family].Addr())
		}
		sh := shapes[0]
		rtp := func(sequence uint16, ssrc uint32) []byte { return sh.rtp(rnd, false, 96, sequence, 1, ssrc) }
		whole := func(b []byte) []byte { return frame(farIn[family], gatewayIn[family], 0, b) }
		good := rtp(0x501, ssrc)
		l3, l4 := 14, 34
		if family == 1 {
			l4 = 54
		}
		first := func(octets ...byte) []byte {
			b := slices.Clone(good)
			copy(b, octets)
			return whole(b)
		}
		srtp := func(p party, sequence uint16) []byte {
			return p.protect(t, rtp(sequence, ssrc), 0x1_0000|uint64(sequence))
		}
		bad := func(b []byte, at int) []byte {
			b = slices.Clone(b)
			if at < 0 {
				at += len(b)
			}
			b[at] ^= 0x10
			return b
		}
		type packet struct {
			name   string
			in     party
			change func(*Stream, *State)
			frame  []byte
			xdp    Verdict
			tc     Verdict // 0: as xdp
		}
		cases := []packet{
			{"arp", plain, at, patch(whole(good), 12, 8, 6), ControlSlcVerdictSLC_UP_NOT_IP, 0},
			{"qinq", plain, at, insert(whole(good), 12, 0x88, 0xa8, 0, 1, 0x81, 0, 0, 2), ControlSlcVerdictSLC_UP_VLAN, 0},
			{"two tags", plain, at, insert(whole(good), 12, 0x81, 0, 0, 1, 0x81, 0, 0, 2), ControlSlcVerdictSLC_UP_VLAN, 0},
			{"provider tag", plain, at, insert(whole(good), 12, 0x88, 0xa8, 0, 1), ControlSlcVerdictSLC_UP_VLAN, 0},
			{"udp length short", plain, at, patch(whole(good), l4+4, 0, 100), ControlSlcVerdictSLC_UP_LENGTH, 0},
			{"udp length long", plain, at, patch(whole(good), l4+4, 3, 0), ControlSlcVerdictSLC_UP_LENGTH, 0},
			{"cut off", plain, at, whole(good)[:len(whole(good))-1], ControlSlcVerdictSLC_UP_LENGTH, 0},
			{"other port", plain, at, patch(whole(good), l4, 1, 1), ControlSlcVerdictSLC_UP_UNKNOWN, 0},
			{"other destination port", plain, at, patch(whole(good), l4+2, 1, 1), ControlSlcVerdictSLC_UP_UNKNOWN, 0},
			{"stun", plain, at, first(0), ControlSlcVerdictSLC_UP_STUN, 0},
			{"stun indication", plain, at, first(3), ControlSlcVerdictSLC_UP_STUN, 0},
			{"zrtp", plain, at, first(16), ControlSlcVerdictSLC_UP_NOT_RTP, 0},
			{"dtls", plain, at, first(20), ControlSlcVerdictSLC_UP_DTLS, 0},
			{"dtls data", plain, at, first(63), ControlSlcVerdictSLC_UP_DTLS, 0},
			{"turn channel", plain, at, first(64), ControlSlcVerdictSLC_UP_NOT_RTP, 0},
			{"version 3", plain, at, first(0xc0), ControlSlcVerdictSLC_UP_NOT_RTP, 0},
			{"one octet", plain, at, whole(good[:1]), ControlSlcVerdictSLC_UP_NOT_RTP, 0},
			{"sender report", plain, at, first(0x80, 200), ControlSlcVerdictSLC_UP_RTCP, 0},
			{"lowest rtcp", plain, at, first(0x80, 192), ControlSlcVerdictSLC_UP_RTCP, 0},
			{"highest rtcp", plain, at, first(0x80, 223), ControlSlcVerdictSLC_UP_RTCP, 0},
			{"other ssrc", plain, at, whole(rtp(0x501, ssrc+1)), ControlSlcVerdictSLC_UP_UNKNOWN_SSRC, 0},
			{"payload type", plain, at, first(0x80, 97), ControlSlcVerdictSLC_UP_PAYLOAD_TYPE, 0},
			{"before the cut", plain, at, whole(rtp(0x3ff, ssrc)), ControlSlcVerdictSLC_UP_BEFORE_CUT, 0},
			{"released", plain, at, whole(rtp(0x2000, ssrc)), ControlSlcVerdictSLC_UP_RELEASED, 0},
			{"far ahead", plain, at, whole(rtp(0x500+uint16(MaxDropout)+1, ssrc)), ControlSlcVerdictSLC_UP_JUMP, 0},
			{"behind the window", plain, at, whole(rtp(0x500-uint16(Window), ssrc)), ControlSlcVerdictSLC_UP_JUMP, 0},
			{"again", plain, at, whole(rtp(0x500, ssrc)), ControlSlcVerdictSLC_DROP_REPLAY, 0},
			{"too long", plain, at, frame(farIn[family], gatewayIn[family], 0, shape{payload: LargestPayload + 1, extension: -1}.rtp(rnd, false, 96, 0x501, 1, ssrc)), ControlSlcVerdictSLC_UP_SIZE, 0},
			{"header too long", plain, at, frame(farIn[family], gatewayIn[family], 0, shape{payload: 9, extension: 126}.rtp(rnd, false, 96, 0x501, 1, ssrc)), ControlSlcVerdictSLC_UP_SIZE, 0},
			{"header cut", plain, at, whole(good[:11]), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"csrc cut", plain, at, whole(append([]byte{0x8f, 96}, good[2:60]...)), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"extension cut", plain, at, whole(append([]byte{0x90, 96}, good[2:14]...)), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"extension too long", plain, at, whole(slices.Concat([]byte{0x90, 96}, good[2:12], []byte{1, 1, 0, 99}, good[12:])), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"no tag, gcm", gcm, at, whole(good[:12+15]), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"no tag, cm", cm, at, whole(good[:12+9]), ControlSlcVerdictSLC_DROP_MALFORMED, 0},
			{"bad tag, gcm", gcm, at, whole(bad(srtp(gcm, 0x501), -1)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad tag, cm", cm, at, whole(bad(srtp(cm, 0x501), -1)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad tag start, gcm", gcm, at, whole(bad(srtp(gcm, 0x501), -16)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad tag start, cm", cm, at, whole(bad(srtp(cm, 0x501), -10)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad payload, gcm", gcm, at, whole(bad(srtp(gcm, 0x501), 12)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad payload, cm", cm, at, whole(bad(srtp(cm, 0x501), 12)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad timestamp, gcm", gcm, at, whole(bad(srtp(gcm, 0x501), 4)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"bad timestamp, cm", cm, at, whole(bad(srtp(cm, 0x501), 4)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"another roll-over, gcm", gcm, at, whole(gcm.protect(t, good, 0x2_0501)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"another roll-over, cm", cm, at, whole(cm.protect(t, good, 0x2_0501)), ControlSlcVerdictSLC_DROP_AUTH, 0},
			{"old srtp, gcm", gcm, at, whole(srtp(gcm, 0x500-uint16(Window))), ControlSlcVerdictSLC_DROP_REPLAY, 0},
			{"again, cm", cm, at, whole(srtp(cm, 0x500)), ControlSlcVerdictSLC_DROP_REPLAY, 0},
			{"srtp released", gcm, at, whole(srtp(gcm, 0x2000)), ControlSlcVerdictSLC_UP_RELEASED, 0},
			{"neighbour", plain, narrow, whole(good), ControlSlcVerdictSLC_TC_NEIGHBOUR, ControlSlcVerdictSLC_FORWARDED},
			{"no route", plain, lost, whole(good), ControlSlcVerdictSLC_TC_ROUTE, ControlSlcVerdictSLC_DROP_NO_ROUTE},
			{"device", plain, func(v *Stream, s *State) { at(v, s); v.Flags |= uint8(NoXDPOut) }, whole(good), ControlSlcVerdictSLC_TC_DEVICE, ControlSlcVerdictSLC_FORWARDED},
			{"other family", plain, func(v *Stream, s *State) { at(v, s); v.Family = 10 - v.Family }, whole(good), ControlSlcVerdictSLC_UP_UNKNOWN_SSRC, 0},
			{"keys gone", gcm, func(v *Stream, s *State) { at(v, s); v.InEpoch++ }, whole(srtp(gcm, 0x501)), ControlSlcVerdictSLC_DROP_TORN, 0},
			{"good", plain, at, whole(good), ControlSlcVerdictSLC_FORWARDED, 0},
			{"good, cm", cm, at, whole(srtp(cm, 0x501)), ControlSlcVerdictSLC_FORWARDED, 0},
			{"padded frame", plain, at, append(whole(rtp(0x502, ssrc)), 0, 0, 0), ControlSlcVerdictSLC_FORWARDED, 0},
			{"largest step", plain, at, whole(rtp(0x500+uint16(MaxDropout), ssrc)), ControlSlcVerdictSLC_FORWARDED, 0},
			{"oldest of the window", plain, at, whole(rtp(0x500-uint16(Window)+1, ssrc)), ControlSlcVerdictSLC_FORWARDED, 0},
		}
		if family == 0 {
			cases = append(cases,
				packet{"tcp", plain, at, patch(whole(good), l3+9, 6), ControlSlcVerdictSLC_UP_NOT_UDP, 0},
				packet{"first fragment", plain, at, patch(whole(good), l3+6, 0x20, 0), ControlSlcVerdictSLC_UP_FRAGMENT, 0},
				packet{"last fragment", plain, at, patch(whole(good), l3+6, 0, 8), ControlSlcVerdictSLC_UP_FRAGMENT, 0},
				packet{"options", plain, at, patch(insert(whole(good), l4, 1, 1, 1, 1), l3, 0x46), ControlSlcVerdictSLC_UP_IP_OPTIONS, 0},
				packet{"version", plain, at, patch(whole(good), l3, 0x65), ControlSlcVerdictSLC_UP_LENGTH, 0},
				packet{"time to live", plain, at, patch(whole(good), l3+8, 1), ControlSlcVerdictSLC_UP_TTL, 0},
				packet{"other source", plain, at, patch(whole(good), l3+15, 99), ControlSlcVerdictSLC_UP_UNKNOWN, 0},
				packet{"total length", plain, at, patch(whole(good), l3+2, 0, 20), ControlSlcVerdictSLC_UP_LENGTH, 0},
				packet{"total length below the header", plain, at, patch(whole(good), l3+2, 0, 3), ControlSlcVerdictSLC_UP_LENGTH, 0})
		} else {
			cases = append(cases,
				packet{"tcp", plain, at, patch(whole(good), l3+6, 6), ControlSlcVerdictSLC_UP_NOT_UDP, 0},
				packet{"fragment", plain, at, patch(whole(good), l3+6, 44), ControlSlcVerdictSLC_UP_FRAGMENT, 0},
				packet{"hop-by-hop", plain, at, patch(whole(good), l3+6, 0), ControlSlcVerdictSLC_UP_IPV6EXTENSION, 0},
				packet{"routing", plain, at, patch(whole(good), l3+6, 43), ControlSlcVerdictSLC_UP_IPV6EXTENSION, 0},
				packet{"destination options", plain, at, patch(whole(good), l3+6, 60), ControlSlcVerdictSLC_UP_IPV6EXTENSION, 0},
				packet{"hop limit", plain, at, patch(whole(good), l3+7, 1), ControlSlcVerdictSLC_UP_TTL, 0})
		}
		for _, program := range []Program{ProgramXDP, ProgramTC} {
			for _, c := range cases {
				want := c.xdp
				if program == ProgramTC && c.tc != 0 || c.name == "neighbour" && program == ProgramTC {
					want = c.tc
				}
				if program == ProgramTC && c.name == "device" {
					want = ControlSlcVerdictSLC_FORWARDED
				}
				t.Run(fmt.Sprintf("%d/ipv%d/%s", program, 4+2*family, c.name), func(t *testing.T) {
					r.streams = 0
					s := r.install(c.in, plain, family, ssrc, c.change)
					before, drops, state := r.counters(program), r.drops(s), r.state(s)
					answer, got := r.run(program, c.frame)
					var gone []string
					for _, m := range moved(before, r.counters(program)) {
						if !strings.HasPrefix(m, "keystream") {
							gone = append(gone, m)
						}
					}
					if !slices.Equal(gone, []string{want.String()}) {
						t.Fatalf("counters moved: %v, want %v", gone, want)
					}
					forwarded := want == ControlSlcVerdictSLC_FORWARDED
					if forwarded == (r.state(s) == state) {
						t.Fatalf("state is now %+v", r.state(s))
					}
					dropped := want >= ControlSlcVerdictSLC_DROP_MALFORMED
					switch {
					case forwarded:
						if answer != xdpRedirect && answer != tcRedirect {
							t.Fatalf("answer %d", answer)
						}
					case dropped:
						if answer != map[Program]uint32{ProgramXDP: xdpDrop, ProgramTC: tcShot}[program] {
							t.Fatalf("answer %d", answer)
						}
					default:
						if answer != map[Program]uint32{ProgramXDP: xdpPass, ProgramTC: tcNext}[program] {
							t.Fatalf("answer %d", answer)
						}
						if !bytes.Equal(got, c.frame) {
							t.Fatalf("harmed:\n%x, was\n%x", got, c.frame)
						}
					}
					// what breaks before the stream is known cannot be booked on it
					if n := r.drops(s) - drops; dropped && !strings.Contains(c.name, "cut") && c.name != "extension too long" && n != 1 || !dropped && n != 0 {
						t.Fatalf("%d drops booked on the stream", n)
					}
				})
			}
		}
	}
}

// TestGrowth: a packet that would outgrow the way out, and forwarding switched
// off, go to tc untouched, before any state.
func TestGrowth(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(4, 2))
	r.inside(func() { must(t, netlink.LinkSetMTU(r.out, 1300)) })
	in, out := r.session(Plain, rnd), r.session(AEADGCM, rnd)
	for family := range 2 {
		fits := 1300 - 28 - 20*family - 12 - 16
		s := r.install(in, out, family, 9, nil)
		for i, c := range []struct {
			payload int
			want    Verdict
		}{{fits, ControlSlcVerdictSLC_FORWARDED}, {fits + 1, ControlSlcVerdictSLC_TC_MTU}} {
			given := frame(farIn[family], gatewayIn[family], 0, shape{payload: c.payload, extension: -1}.rtp(rnd, false, 96, uint16(i+1), 7, 9))
			before, state := r.counters(ProgramXDP), r.state(s)
			_, got := r.run(ProgramXDP, given)
			if m := moved(before, r.counters(ProgramXDP)); !slices.Contains(m, c.want.String()) {
				t.Errorf("ipv%d, payload %d: counters moved: %v, want %v", 4+2*family, c.payload, m, c.want)
			}
			if c.want != ControlSlcVerdictSLC_FORWARDED && (!bytes.Equal(got, given) || r.state(s) != state) {
				t.Errorf("ipv%d, payload %d: harmed", 4+2*family, c.payload)
			}
		}
	}
}

// TestForwardingOff: the FIB does not answer, XDP passes, tc sends by the
// interface that the stream names.
func TestForwardingOff(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(4, 3))
	r.inside(func() { must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)) })
	in, out := r.session(Plain, rnd), r.session(AEADGCM, rnd)
	s := r.install(in, out, 0, 9, nil)
	given := frame(farIn[0], gatewayIn[0], 0, shapes[0].rtp(rnd, false, 96, 1, 7, 9))
	for _, c := range []struct {
		program Program
		want    Verdict
	}{{ProgramXDP, ControlSlcVerdictSLC_TC_ROUTE}, {ProgramTC, ControlSlcVerdictSLC_FORWARDED}} {
		before := r.counters(c.program)
		r.run(c.program, given)
		if m := moved(before, r.counters(c.program)); !slices.Contains(m, c.want.String()) {
			t.Errorf("program %d: counters moved: %v, want %v", c.program, m, c.want)
		}
	}
	v := s.value
	v.OutIfindex = 0
	must(t, r.maps[ControlMapStreams].Put(s.key, &v))
	before := r.counters(ProgramTC)
	r.run(ProgramTC, frame(farIn[0], gatewayIn[0], 0, shapes[0].rtp(rnd, false, 96, 2, 7, 9)))
	if m := moved(before, r.counters(ProgramTC)); !slices.Equal(m, []string{"drop_no_route"}) {
		t.Errorf("without an interface: counters moved: %v", m)
	}
}
