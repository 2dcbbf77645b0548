package srtp

import (
	"crypto/subtle"
	"encoding/binary"
)

const (
	rtcpHeaderLen = 8 // what stays in the clear: first header and sender SSRC
	rtcpE         = 1 << 31

	// RTCPIndexMask keeps an SRTCP index within its 31 bits.
	RTCPIndexMask = rtcpE - 1
)

// RTCPOverhead is what ProtectRTCP adds, in bytes.
func (p Profile) RTCPOverhead() int {
	if p.Overhead() == 0 {
		return 0
	}
	return p.Overhead() + rtcpIndexLen
}

// ProtectRTCP turns a compound RTCP packet into SRTCP in place and returns it,
// longer by Profile.RTCPOverhead (RFC 3711 3.4, RFC 7714 9). index is the
// 31-bit SRTCP index, which the caller must never use twice for one SSRC.
func (c *Context) ProtectRTCP(packet []byte, index uint32) ([]byte, error) {
	n := len(packet)
	if n < rtcpHeaderLen {
		return nil, ErrShort
	}
	if index > RTCPIndexMask {
		return nil, ErrIndex
	}
	if cap(packet)-n < c.profile.RTCPOverhead() {
		return nil, ErrRoom
	}
	t := &c.rtcp
	ssrc := binary.BigEndian.Uint32(packet[4:])
	binary.BigEndian.PutUint32(t.word[:], index|rtcpE)
	if t.aead != nil {
		t.rtcpGCM(packet, ssrc, index)
		t.aead.Seal(packet[rtcpHeaderLen:rtcpHeaderLen], t.iv[:12], packet[rtcpHeaderLen:], t.aad[:])
		return append(packet[:n+gcmTagLen], t.word[:]...), nil
	}
	t.cmIV(ssrc, uint64(index))
	t.xor(packet[rtcpHeaderLen:])
	packet = append(packet, t.word[:]...)
	return append(packet, t.rtcpTag(packet)...), nil
}

// UnprotectRTCP verifies an SRTCP packet and turns it into RTCP in place. It
// returns the authenticated SRTCP index for the caller's replay window, which
// is kept per sender SSRC. A packet without encryption is refused: it is never
// negotiated here.
func (c *Context) UnprotectRTCP(packet []byte) (plain []byte, index uint32, err error) {
	n := len(packet) - c.profile.RTCPOverhead()
	if n < rtcpHeaderLen {
		return nil, 0, ErrShort
	}
	t := &c.rtcp
	ssrc := binary.BigEndian.Uint32(packet[4:])
	if t.aead != nil {
		word := binary.BigEndian.Uint32(packet[n+gcmTagLen:])
		index = word &^ rtcpE
		if word&rtcpE == 0 {
			return nil, 0, ErrUnencrypted
		}
		binary.BigEndian.PutUint32(t.word[:], word)
		t.rtcpGCM(packet, ssrc, index)
		if _, err := t.aead.Open(packet[rtcpHeaderLen:rtcpHeaderLen], t.iv[:12],
			packet[rtcpHeaderLen:n+gcmTagLen], t.aad[:]); err != nil {
			return nil, 0, ErrAuth
		}
		return packet[:n], index, nil
	}
	if subtle.ConstantTimeCompare(t.rtcpTag(packet[:n+rtcpIndexLen]), packet[n+rtcpIndexLen:]) != 1 {
		return nil, 0, ErrAuth
	}
	word := binary.BigEndian.Uint32(packet[n:])
	index = word &^ rtcpE
	if word&rtcpE == 0 {
		return nil, 0, ErrUnencrypted
	}
	t.cmIV(ssrc, uint64(index))
	t.xor(packet[rtcpHeaderLen:n])
	return packet[:n], index, nil
}

func (t *transform) rtcpTag(b []byte) []byte {
	t.mac.Reset()
	t.mac.Write(b)
	return t.mac.Sum(t.sum[:0])[:cmTagLen]
}

// rtcpGCM sets the IV (RFC 7714 9.1) and the associated data (9.2): the clear
// header and the word of E flag and index in t.word.
func (t *transform) rtcpGCM(packet []byte, ssrc, index uint32) {
	t.iv = t.salt
	xor32(t.iv[2:], ssrc)
	xor32(t.iv[8:], index)
	copy(t.aad[:], packet[:rtcpHeaderLen])
	copy(t.aad[rtcpHeaderLen:], t.word[:])
}
