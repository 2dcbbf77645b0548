package srtp

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
)

// Labels of RFC 3711 4.3.1.
const (
	labelRTPKey = iota
	labelRTPAuth
	labelRTPSalt
	labelRTCPKey
	labelRTCPAuth
	labelRTCPSalt
)

// Derive computes the session keys of a master key at key derivation rate 0
// (RFC 3711 4.3, RFC 6188 for 256-bit keys, RFC 7714 11 for AEAD).
func Derive(m MasterKey) (*SessionKeys, error) {
	p := m.Profile
	if p.KeyLen() == 0 {
		return nil, fmt.Errorf("%w %#04x", ErrProfile, uint16(p))
	}
	if len(m.Key) != p.KeyLen() || len(m.Salt) != p.SaltLen() {
		return nil, ErrKeyLength
	}
	k := &SessionKeys{Profile: p}
	for _, part := range [...]struct {
		to    *[]byte
		label byte
		n     int
	}{
		{&k.RTPKey, labelRTPKey, p.KeyLen()},
		{&k.RTPAuth, labelRTPAuth, p.AuthKeyLen()},
		{&k.RTPSalt, labelRTPSalt, p.SaltLen()},
		{&k.RTCPKey, labelRTCPKey, p.KeyLen()},
		{&k.RTCPAuth, labelRTCPAuth, p.AuthKeyLen()},
		{&k.RTCPSalt, labelRTCPSalt, p.SaltLen()},
	} {
		b, err := prf(m.Key, m.Salt, part.label, part.n)
		if err != nil {
			return nil, err
		}
		*part.to = b
	}
	return k, nil
}

// prf is the AES-CM pseudo-random function of RFC 3711 4.3.3: n bytes of key
// stream from IV (label<<48 XOR salt) * 2^16. A 96-bit salt counts as 112 bits
// with zeros below (RFC 7714 11).
func prf(key, salt []byte, label byte, n int) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("srtp: %w", err)
	}
	var iv [aes.BlockSize]byte
	copy(iv[:14], salt)
	iv[7] ^= label
	out := make([]byte, (n+aes.BlockSize-1)/aes.BlockSize*aes.BlockSize)
	for i := 0; i*aes.BlockSize < n; i++ {
		binary.BigEndian.PutUint16(iv[14:], uint16(i))
		block.Encrypt(out[i*aes.BlockSize:], iv[:])
	}
	return out[:n], nil
}
