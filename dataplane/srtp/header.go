package srtp

import "encoding/binary"

// MinHeader is the length of an RTP header without CSRC list and extension.
const MinHeader = 12

// HeaderLen returns the length in bytes of the RTP header of a packet, CSRC
// list and header extension included (RFC 3550 5.1, 5.3.1). ok is false when
// the packet is not RTP version 2 or is shorter than its header says.
func HeaderLen(packet []byte) (n int, ok bool) {
	if len(packet) < MinHeader || packet[0]>>6 != 2 {
		return 0, false
	}
	n = MinHeader + 4*int(packet[0]&0x0f)
	if packet[0]&0x10 != 0 {
		if len(packet) < n+4 {
			return 0, false
		}
		n += 4 + 4*int(binary.BigEndian.Uint16(packet[n+2:]))
	}
	return n, len(packet) >= n
}
