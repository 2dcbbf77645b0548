package traffic

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Room that a frame needs around an RTP packet: Ethernet, IPv6 and UDP in front,
// the longest tag behind.
const (
	FrameRoom = 14 + 40 + 8
	tagRoom   = 16
)

// Framer puts Ethernet, IP and UDP around the packets of one stream. Checksums
// are whole, as from a NIC.
type Framer struct {
	head    [FrameRoom]byte
	n       int    // octets of head in use
	partial uint32 // sum of the UDP pseudo header, the UDP header, ports included
	v4      bool
	ident   uint16
}

// NewFramer prepares the headers. Both addresses are of one family.
func NewFramer(from, to net.HardwareAddr, src, dst netip.AddrPort) *Framer {
	f := &Framer{v4: src.Addr().Is4()}
	copy(f.head[0:], to)
	copy(f.head[6:], from)
	ip := f.head[14:]
	sa, da := src.Addr().AsSlice(), dst.Addr().AsSlice()
	var udp []byte
	if f.v4 {
		binary.BigEndian.PutUint16(f.head[12:], 0x0800)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, 17
		copy(ip[12:], sa)
		copy(ip[16:], da)
		udp, f.n = ip[20:28], 14+20+8
	} else {
		binary.BigEndian.PutUint16(f.head[12:], 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, 17, 64
		copy(ip[8:], sa)
		copy(ip[24:], da)
		udp, f.n = ip[40:48], 14+40+8
	}
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	f.partial = sum(0, sa) + sum(0, da) + 17 + uint32(src.Port()) + uint32(dst.Port())
	return f
}

// Headers is the length of what stands before the RTP packet.
func (f *Framer) Headers() int { return f.n }

// Finish writes the headers in front of the n octets of RTP that stand at
// b[Headers():] and returns the frame.
func (f *Framer) Finish(b []byte, n int) []byte {
	copy(b, f.head[:f.n])
	length := uint16(n + 8)
	ip, udp := b[14:], b[f.n-8:]
	if f.v4 {
		f.ident++
		binary.BigEndian.PutUint16(ip[2:], length+20)
		binary.BigEndian.PutUint16(ip[4:], f.ident)
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:20])))
	} else {
		binary.BigEndian.PutUint16(ip[4:], length)
	}
	binary.BigEndian.PutUint16(udp[4:], length)
	c := ^fold(sum(f.partial+2*uint32(length), b[f.n:f.n+n]))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], c)
	return b[:f.n+n]
}

// Payload finds the UDP payload of an IPv4 or IPv6 frame without options, and
// tells the port it goes to. ok is false for anything else.
func Payload(frame []byte) (port uint16, payload []byte, ok bool) {
	if len(frame) < 14 {
		return 0, nil, false
	}
	var udp []byte
	switch ip := frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		if len(ip) < 28 || ip[0] != 0x45 || ip[9] != 17 {
			return 0, nil, false
		}
		udp = ip[20:]
	case 0x86dd:
		if len(ip) < 48 || ip[6] != 17 {
			return 0, nil, false
		}
		udp = ip[40:]
	default:
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if n < 8 || n > len(udp) {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(udp[2:]), udp[8:n], true
}

// sum adds big-endian 16-bit words to s, without folding; b is under 64 KiB.
func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
