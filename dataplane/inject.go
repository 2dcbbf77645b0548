package dataplane

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	protoUDP   = 17
	hopLimit   = 64
)

// ipPacket puts a datagram back into the IP packet it came in, for programs that
// work on whole packets. Checksums are right.
func ipPacket(payload []byte, from, to netip.AddrPort) []byte {
	if from.Addr().Is4() {
		b := make([]byte, ipv4Header+udpHeader, ipv4Header+udpHeader+len(payload))
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
		b[8], b[9] = hopLimit, protoUDP
		src, dst := from.Addr().As4(), to.Addr().As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:ipv4Header])))
		return udp(b, ipv4Header, payload, from, to, sum(0, b[12:20]))
	}
	b := make([]byte, ipv6Header+udpHeader, ipv6Header+udpHeader+len(payload))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(udpHeader+len(payload)))
	b[6], b[7] = protoUDP, hopLimit
	src, dst := from.Addr().As16(), to.Addr().As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return udp(b, ipv6Header, payload, from, to, sum(0, b[8:40]))
}

// udp fills the UDP header at offset at and appends the payload; pseudo is the
// sum over the addresses.
func udp(b []byte, at int, payload []byte, from, to netip.AddrPort, pseudo uint32) []byte {
	n := uint16(udpHeader + len(payload))
	u := b[at:]
	binary.BigEndian.PutUint16(u[0:], from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], n)
	c := ^fold(sum(sum(pseudo+protoUDP+uint32(n), u[:udpHeader]), payload))
	if c == 0 {
		c = 0xffff // RFC 768: 0 means none
	}
	binary.BigEndian.PutUint16(u[6:], c)
	return append(b, payload...)
}

// sum adds 16-bit words (RFC 1071); an odd last byte counts as the upper one.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
