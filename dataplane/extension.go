package dataplane

import (
	"encoding/binary"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// Header extension elements (RFC 8285) of a packet, in place.

const (
	oneByteProfile = 0xbede
	twoByteProfile = 0x1000 // low four bits are appbits
)

// hopByHop are extensions whose values mean something on one leg only: they are
// never forwarded, whatever both legs negotiated.
var hopByHop = map[string]bool{
	"urn:ietf:params:rtp-hdrext:sdes:mid":                                       true,
	"urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id":                             true,
	"urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id":                    true,
	"http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01": true,
}

// extensionRewrite is how one line's header extensions become its peer's: what
// kind of change, and unless all are stripped the peer's id by ours, 0 drops.
type extensionRewrite struct {
	mode Extensions
	ids  [256]uint8
}

func rewriteExtensions(from, to map[string]uint8, midExt uint8) extensionRewrite {
	var r extensionRewrite
	same, passed := midExt == 0, 0
	for uri, id := range from {
		out := to[uri]
		if hopByHop[uri] {
			out = 0
		}
		r.ids[id] = out
		same = same && out == id
		if out != 0 {
			passed++
		}
	}
	if midExt != 0 {
		r.ids[midExt] = 0
	}
	switch {
	case passed == 0:
		r.mode = ExtensionsStrip
	case same:
		r.mode = ExtensionsKeep
	default:
		r.mode = ExtensionsMap
	}
	return r
}

// apply rewrites a packet whose header is h bytes long and returns both anew.
// foreign tells that something not to be forwarded was taken out element by
// element, or a block of unknown form as a whole.
func (r *extensionRewrite) apply(packet []byte, h int) (out []byte, header int, foreign bool) {
	if packet[0]&0x10 == 0 {
		return packet, h, false
	}
	fixed := srtp.MinHeader + 4*int(packet[0]&0x0f)
	profile := binary.BigEndian.Uint16(packet[fixed:])
	if r.mode == ExtensionsStrip || profile != oneByteProfile && profile&0xfff0 != twoByteProfile {
		n := h - fixed
		copy(packet[n:], packet[:fixed])
		packet = packet[n:]
		packet[0] &^= 0x10
		return packet, fixed, r.mode != ExtensionsStrip
	}
	end := fixed + 4
	for e := range elements(packet, h) {
		id := r.ids[e.id]
		switch {
		case id == 0 || profile == oneByteProfile && id > 14:
			clear(packet[e.start:e.end]) // padding
			foreign = true
		case profile == oneByteProfile:
			packet[e.start] = id<<4 | packet[e.start]&0x0f
		default:
			packet[e.start] = id
		}
		end = e.end
	}
	for _, octet := range packet[end:h] { // what no receiver would read
		foreign = foreign || octet != 0
	}
	clear(packet[end:h])
	return packet, h, foreign
}

// element is one header extension element: start is where its id stands, data
// where its value does.
type element struct {
	id               uint8
	start, data, end int
}

// elements yields the elements of a packet with a one- or two-byte header
// extension; one that overruns the block ends the walk.
func elements(packet []byte, h int) func(yield func(element) bool) {
	return func(yield func(element) bool) {
		if packet[0]&0x10 == 0 {
			return
		}
		at := srtp.MinHeader + 4*int(packet[0]&0x0f)
		profile := binary.BigEndian.Uint16(packet[at:])
		oneByte := profile == oneByteProfile
		if !oneByte && profile&0xfff0 != twoByteProfile {
			return
		}
		for at += 4; at < h; {
			e := element{start: at}
			switch {
			case packet[at] == 0:
				at++
				continue
			case oneByte:
				e.id = packet[at] >> 4
				if e.id == 15 {
					return
				}
				e.data = at + 1
				e.end = e.data + int(packet[at]&0x0f) + 1
			default:
				if at+1 >= h {
					return
				}
				e.id = packet[at]
				e.data = at + 2
				e.end = e.data + int(packet[at+1])
			}
			if e.end > h || !yield(e) {
				return
			}
			at = e.end
		}
	}
}

// extension returns the value of one element, nil when it is absent.
func extension(packet []byte, h int, id uint8) []byte {
	for e := range elements(packet, h) {
		if e.id == id {
			return packet[e.data:e.end]
		}
	}
	return nil
}
