package bpf

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	must(t, err)
	return b
}

// with takes a session slot with given session keys.
func (r *rig) with(profile Profile, key, auth, salt []byte) party {
	r.t.Helper()
	p := party{profile: profile, slot: r.sessions, epoch: 1}
	r.sessions++
	s, err := newSession(profile, key, auth, salt, 1)
	must(r.t, err)
	must(r.t, r.maps[ControlMapSessions].Put(p.slot, s))
	return p
}

// verbatim makes the stream's output look like its input.
func verbatim(ssrc uint32) func(*Stream, *State) {
	return func(v *Stream, _ *State) {
		v.IndexOffset, v.TimestampAdd, v.OutSsrc = 0, 0, ssrc
		for i := range v.Payload {
			v.Payload[i] = uint8(i)
		}
	}
}

// TestVectorGCM is RFC 7714 16.1.1 and 16.1.2, both directions, in both programs.
func TestVectorGCM(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(1, 1))
	key := unhex(t, "000102030405060708090a0b0c0d0e0f")
	salt := unhex(t, "517569642070726f2071756f")
	plain := unhex(t, `8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070
		61727465 73207472 6573`)
	sealed := unhex(t, `8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a
		51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce`)
	for _, program := range []Program{ProgramXDP, ProgramTC} {
		r.streams = 0
		keyed, open := r.with(AEADGCM, key, nil, salt), r.session(Plain, rnd)
		r.install(open, keyed, 0, 0x5501a0b2, verbatim(0x5501a0b2))
		r.vector(program, plain, sealed)
		r.install(keyed, open, 0, 0x5501a0b2, verbatim(0x5501a0b2))
		r.vector(program, sealed, plain)
	}
}

// TestVectorCM is the keystream of RFC 3711 B.2, seen through a payload of
// zeros. RFC 6188 is about 192 and 256-bit keys, which the programs do not take.
func TestVectorCM(t *testing.T) {
	r := newRig(t, nil)
	rnd := rand.New(rand.NewPCG(1, 1))
	keyed := r.with(AESCM, unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"), make([]byte, 20), unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfd"))
	r.install(r.session(Plain, rnd), keyed, 0, 0, verbatim(0))
	packet := make([]byte, 12+48)
	packet[0] = 0x80
	_, got := r.run(ProgramXDP, frame(farIn[0], gatewayIn[0], 0, packet))
	want := unhex(t, `e03ead0935c95e80e166b16dd92b4eb4 d23513162b02d0f72a43a2fe4a5f97ab 41e95b3bb0a2e8dd477901e4fca894c0`)
	if len(got) != 42+12+48+10 || !bytes.Equal(got[54:54+48], want) {
		t.Errorf("keystream %x, want %x", got, want)
	}
}

func (r *rig) vector(program Program, given, want []byte) {
	r.t.Helper()
	_, got := r.run(program, frame(farIn[0], gatewayIn[0], 0, given))
	if w := r.leaving(0, 0, want); !bytes.Equal(got, w) {
		r.t.Errorf("got\n%x, want\n%x", got, w)
	}
}
