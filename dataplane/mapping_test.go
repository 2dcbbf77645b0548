package dataplane

import (
	"bytes"
	"slices"
	"testing"

	pionrtp "github.com/pion/rtp"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// TestPayloadMap renumbers, drops, and scales telephone events between clocks.
func TestPayloadMap(t *testing.T) {
	p := newPlane(t, nil)
	opus := func(pt uint8) Format { return Format{PayloadType: pt, Codec: "opus", ClockRate: 48000, Channels: 2} }
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM,
		audioLine(opus(111), Format{PayloadType: 110, Codec: "telephone-event", ClockRate: 48000}, Format{PayloadType: 13, Codec: "CN", ClockRate: 8000}), Events{})
	ph := newPhone(t, p, false, audioLine(opus(96), Format{PayloadType: 101, Codec: "telephone-event", ClockRate: 8000}), Events{})
	ab, ba := NewPayloadMap(), NewPayloadMap()
	ab[111], ab[110], ba[96], ba[101] = 96, 101, 111, 110
	join(t, p, br, ph, ab, ba)
	br.send(br.next(111, []byte("opus")))
	if got := ph.read(); got.PayloadType != 96 {
		t.Errorf("%v", got)
	}
	br.send(br.next(13, []byte("noise")))
	event := func(from, to *peer, pt, want uint8, digit byte, duration, wantDuration uint16) {
		t.Helper()
		pkt := from.next(pt, []byte{digit, 0x8a, byte(duration >> 8), byte(duration)})
		from.send(pkt)
		got := to.read()
		if got.PayloadType != want || !bytes.Equal(got.Payload, []byte{digit, 0x8a, byte(wantDuration >> 8), byte(wantDuration)}) {
			t.Errorf("%v", got)
		}
	}
	event(br, ph, 110, 101, 5, 4800, 800)
	event(br, ph, 110, 101, 11, 9600, 1600)
	event(ph, br, 101, 110, 1, 1600, 9600)
	event(ph, br, 101, 110, 1, 65535, 65535)
	if st := br.line.Stats(); st.DTMF != "5#" || st.Codec != "opus" || st.Received.Dropped != 1 {
		t.Errorf("%+v", st)
	}
}

// TestExtensions keeps, strips and renumbers header extensions.
func TestExtensions(t *testing.T) {
	const level, offset = "urn:ietf:params:rtp-hdrext:ssrc-audio-level", "urn:ietf:params:rtp-hdrext:toffset"
	const twcc = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
	p := newPlane(t, nil)
	br := newBrowser(t, p, false, srtp.ProfileAEADAES128GCM, audioLine(), Events{})
	ph := newPhone(t, p, false, audioLine(), Events{})
	join(t, p, br, ph)
	for _, v := range []struct {
		name     string
		from, to map[string]uint8
		want     map[uint8]string
	}{
		{"none agreed", nil, nil, nil},
		{"one side only", map[string]uint8{level: 1, offset: 2}, nil, nil},
		{"the same ids", map[string]uint8{level: 1, offset: 2, twcc + "x": 3}, map[string]uint8{level: 1, offset: 2, twcc + "x": 3}, map[uint8]string{1: "\x11", 2: "\x22\x22\x22", 3: "\x33\x33"}},
		{"the same ids, others not agreed", map[string]uint8{level: 1}, map[string]uint8{level: 1}, map[uint8]string{1: "\x11"}},
		{"other ids", map[string]uint8{level: 1, offset: 2}, map[string]uint8{level: 9, offset: 1}, map[uint8]string{9: "\x11", 1: "\x22\x22\x22"}},
		{"some", map[string]uint8{level: 1, offset: 2}, map[string]uint8{level: 1}, map[uint8]string{1: "\x11"}},
		{"never hop by hop", map[string]uint8{level: 1, twcc: 3}, map[string]uint8{level: 1, twcc: 3}, map[uint8]string{1: "\x11"}},
	} {
		for _, profile := range []uint16{pionrtp.ExtensionProfileOneByte, pionrtp.ExtensionProfileTwoByte} {
			from, to := audioLine(), audioLine()
			from.Extensions, to.Extensions = v.from, v.to
			br.line.Update(from)
			ph.line.Update(to)
			pkt := br.next(0, []byte("payload"))
			pkt.CSRC = []uint32{1, 2}
			pkt.Extension, pkt.ExtensionProfile = true, profile
			for id, value := range map[uint8]string{1: "\x11", 2: "\x22\x22\x22", 3: "\x33\x33"} {
				if err := pkt.SetExtension(id, []byte(value)); err != nil {
					t.Fatal(err)
				}
			}
			br.send(pkt)
			got := ph.read()
			if string(got.Payload) != "payload" || !slices.Equal(got.CSRC, pkt.CSRC) {
				t.Errorf("%s: %v", v.name, got)
			}
			have := make(map[uint8]string)
			for _, id := range got.GetExtensionIDs() {
				have[id] = string(got.GetExtension(id))
			}
			if len(have) != len(v.want) || got.Extension != (len(v.want) > 0) {
				t.Errorf("%s: extensions %x, want %x", v.name, have, v.want)
			}
			for id, value := range v.want {
				if have[id] != value {
					t.Errorf("%s: extension %d is %x, want %x", v.name, id, have[id], value)
				}
			}
		}
	}
}

// TestExtensionLeftovers takes out what the walk over the elements cannot reach.
func TestExtensionLeftovers(t *testing.T) {
	header := []byte{0x90, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9}
	r := rewriteExtensions(map[string]uint8{"urn:x": 1}, map[string]uint8{"urn:x": 1}, 0)
	if r.mode != ExtensionsKeep {
		t.Fatalf("mode %d", r.mode)
	}
	for _, v := range []struct {
		name        string
		block, want []byte // nil: no block is left
		foreign     bool
	}{
		{"agreed", []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, false},
		{"not agreed", []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0x20, 8}, []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, true},
		{"after the stop id", []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0xf0, 8}, []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, true},
		{"overruns", []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0x1f, 8}, []byte{0xbe, 0xde, 0, 1, 0x10, 7, 0, 0}, true},
		{"unknown form", []byte{0xab, 0xcd, 0, 1, 0x10, 7, 0, 0}, nil, true},
	} {
		packet := slices.Concat(header, v.block, []byte("payload"))
		out, h, foreign := r.apply(packet, len(header)+len(v.block))
		if string(out[h:]) != "payload" || !bytes.Equal(out[len(header):h], v.want) || foreign != v.foreign || (out[0]&0x10 != 0) != (v.want != nil) {
			t.Errorf("%s: %x, foreign %v", v.name, out, foreign)
		}
	}
}

// TestUnnegotiatedStays keeps a stream with elements that were not negotiated
// from the Forwarder until they are.
func TestUnnegotiatedStays(t *testing.T) {
	x := newPairOver(t, srtp.ProfileNone, srtp.ProfileAEADAES128GCM, nil)
	agree := func(ids map[string]uint8) {
		c := audioLine()
		c.Extensions = ids
		x.a.line.Update(c)
		x.b.line.Update(c)
	}
	send := func() {
		x.n++
		pkt := x.a.next(0, []byte{byte(x.n >> 8), byte(x.n)})
		for _, id := range []uint8{1, 5} {
			if err := pkt.SetExtension(id, []byte{id}); err != nil {
				t.Fatal(err)
			}
		}
		x.wire.deliver(x.a, x.a.marshal(pkt))
	}
	agree(map[string]uint8{"urn:x": 1})
	eventually(t, "it is not eligible", func() bool {
		send()
		return x.a.line.Stats().Reason == ReasonHeaderExtension
	})
	if n := x.forward.count(func() int { return x.forward.counts.installs }); n != 0 {
		t.Errorf("installed %d times", n)
	}
	x.forward.capture.mu.Lock()
	for _, pkt := range x.forward.capture.packets {
		if !slices.Equal(pkt.GetExtensionIDs(), []uint8{1}) {
			t.Errorf("extensions %v left", pkt.GetExtensionIDs())
		}
	}
	x.forward.capture.mu.Unlock()
	agree(map[string]uint8{"urn:x": 1, "urn:y": 5})
	eventually(t, "it is carried", func() bool {
		send()
		return x.forward.count(func() int { return x.forward.counts.carried }) > 0
	})
}
