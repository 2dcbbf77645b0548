package srtp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
)

// Context transforms packets under one set of session keys, in place and
// without allocation. It keeps no state between packets: indices, replay
// windows and the SRTCP counter are the caller's, so that they can move between
// engines. One goroutine at a time.
type Context struct {
	profile   Profile
	rtp, rtcp transform
}

// transform is one of the two halves of a Context.
type transform struct {
	block cipher.Block // AES-CM
	mac   hash.Hash
	aead  cipher.AEAD // AEAD
	salt  [aes.BlockSize]byte

	// Scratch. What is passed to an interface method escapes, so it lives here.
	iv     [aes.BlockSize]byte
	aad    [12]byte
	word   [4]byte
	sum    [sha1.Size]byte
	stream [keystreamChunk]byte
}

// keystreamChunk is how much key stream is made before it is XORed; a multiple
// of the AES block.
const keystreamChunk = 256

// NewContext prepares ciphers and HMAC states for the keys.
func NewContext(k *SessionKeys) (*Context, error) {
	p := k.Profile
	if p.KeyLen() == 0 {
		return nil, fmt.Errorf("%w %#04x", ErrProfile, uint16(p))
	}
	c := &Context{profile: p}
	if err := c.rtp.init(p, k.RTPKey, k.RTPAuth, k.RTPSalt); err != nil {
		return nil, err
	}
	if err := c.rtcp.init(p, k.RTCPKey, k.RTCPAuth, k.RTCPSalt); err != nil {
		return nil, err
	}
	return c, nil
}

func (t *transform) init(p Profile, key, auth, salt []byte) error {
	if len(key) != p.KeyLen() || len(auth) != p.AuthKeyLen() || len(salt) != p.SaltLen() {
		return ErrKeyLength
	}
	copy(t.salt[:], salt)
	block, err := aes.NewCipher(key)
	if err != nil {
		return fmt.Errorf("srtp: %w", err)
	}
	if p.AEAD() {
		if t.aead, err = cipher.NewGCM(block); err != nil {
			return fmt.Errorf("srtp: %w", err)
		}
		return nil
	}
	t.block = block
	t.mac = hmac.New(sha1.New, auth)
	t.mac.Reset() // hashes the padded keys once; later resets restore the state
	return nil
}

// Profile is the profile of the context's keys.
func (c *Context) Profile() Profile { return c.profile }

// Protect turns an RTP packet into SRTP in place and returns it, longer by
// Profile.Overhead: cap(packet) must have room for it (ErrRoom). headerLen is
// HeaderLen(packet). index is the packet's 48-bit index, its low 16 bits the
// sequence number in the packet (ErrIndex). The caller must never use an index
// twice for one SSRC (RFC 3711 9.1).
func (c *Context) Protect(packet []byte, headerLen int, index uint64) ([]byte, error) {
	n := len(packet)
	if headerLen < MinHeader || headerLen > n {
		return nil, ErrShort
	}
	if index > IndexMask || uint16(index) != binary.BigEndian.Uint16(packet[2:]) {
		return nil, ErrIndex
	}
	if cap(packet)-n < c.profile.Overhead() {
		return nil, ErrRoom
	}
	t := &c.rtp
	ssrc := binary.BigEndian.Uint32(packet[8:])
	if t.aead != nil {
		t.gcmIV(ssrc, index)
		t.aead.Seal(packet[headerLen:headerLen], t.iv[:12], packet[headerLen:], packet[:headerLen])
		return packet[:n+gcmTagLen], nil
	}
	t.cmIV(ssrc, index)
	t.xor(packet[headerLen:])
	return append(packet, t.rtpTag(packet, uint32(index>>16))...), nil
}

// Unprotect verifies an SRTP packet against index and turns it into RTP in
// place; the returned packet is shorter by Profile.Overhead. On ErrAuth the
// packet's content is undefined and nothing may be learned from it.
func (c *Context) Unprotect(packet []byte, headerLen int, index uint64) ([]byte, error) {
	n := len(packet) - c.profile.Overhead()
	if headerLen < MinHeader || headerLen > n {
		return nil, ErrShort
	}
	if index > IndexMask || uint16(index) != binary.BigEndian.Uint16(packet[2:]) {
		return nil, ErrIndex
	}
	t := &c.rtp
	ssrc := binary.BigEndian.Uint32(packet[8:])
	if t.aead != nil {
		t.gcmIV(ssrc, index)
		if _, err := t.aead.Open(packet[headerLen:headerLen], t.iv[:12], packet[headerLen:], packet[:headerLen]); err != nil {
			return nil, ErrAuth
		}
		return packet[:n], nil
	}
	if subtle.ConstantTimeCompare(t.rtpTag(packet[:n], uint32(index>>16)), packet[n:]) != 1 {
		return nil, ErrAuth
	}
	t.cmIV(ssrc, index)
	t.xor(packet[headerLen:n])
	return packet[:n], nil
}

// rtpTag is the truncated HMAC over the packet and the roll-over counter (RFC
// 3711 4.2); it is valid until the next call.
func (t *transform) rtpTag(packet []byte, roc uint32) []byte {
	binary.BigEndian.PutUint32(t.word[:], roc)
	t.mac.Reset()
	t.mac.Write(packet)
	t.mac.Write(t.word[:])
	return t.mac.Sum(t.sum[:0])[:cmTagLen]
}

// cmIV is the counter block of RFC 3711 4.1.1 for a 48-bit index.
func (t *transform) cmIV(ssrc uint32, index uint64) {
	t.iv = t.salt
	xor32(t.iv[4:], ssrc)
	xor32(t.iv[8:], uint32(index>>16))
	xor16(t.iv[12:], uint16(index))
	t.iv[14], t.iv[15] = 0, 0
}

// gcmIV is the 12-byte IV of RFC 7714 8.1 for a 48-bit index.
func (t *transform) gcmIV(ssrc uint32, index uint64) {
	t.iv = t.salt
	xor32(t.iv[2:], ssrc)
	xor32(t.iv[6:], uint32(index>>16))
	xor16(t.iv[10:], uint16(index))
}

// xor applies the AES-CM key stream that starts at t.iv.
func (t *transform) xor(b []byte) {
	for ctr := uint16(0); len(b) > 0; {
		n := min(len(b), keystreamChunk)
		for off := 0; off < n; off += aes.BlockSize {
			binary.BigEndian.PutUint16(t.iv[14:], ctr)
			t.block.Encrypt(t.stream[off:off+aes.BlockSize], t.iv[:])
			ctr++
		}
		subtle.XORBytes(b, b[:n], t.stream[:n])
		b = b[n:]
	}
}

func xor32(b []byte, v uint32) {
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)^v)
}

func xor16(b []byte, v uint16) {
	binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)^v)
}
