package bpf

import (
	"crypto/aes"
	"crypto/sha1"
	"encoding"
	"encoding/binary"
	"fmt"
)

// newSession computes what the programs keep of one direction's derived SRTP
// keys: the AES-128 key schedule, and the HMAC pad states (RFC 2104) or the
// GHASH tables. key is the 16 octet encryption key, auth the 20 octet
// authentication key of AESCM (ignored for AEADGCM), salt 14 octets for AESCM
// and 12 for AEADGCM. epoch must not be 0 and is the one streams name.
//
// The result is as secret as the keys.
func newSession(profile Profile, key, auth, salt []byte, epoch uint32) (*Session, error) {
	saltLen := 14
	if profile == AEADGCM {
		saltLen = 12
	}
	switch {
	case profile != AESCM && profile != AEADGCM:
		return nil, fmt.Errorf("bpf: the programs do not know SRTP profile %d", profile)
	case len(key) != 16:
		return nil, fmt.Errorf("bpf: session key has %d octets, want 16", len(key))
	case len(salt) != saltLen:
		return nil, fmt.Errorf("bpf: session salt has %d octets, want %d", len(salt), saltLen)
	case profile == AESCM && len(auth) != 20:
		return nil, fmt.Errorf("bpf: authentication key has %d octets, want 20", len(auth))
	case epoch == 0:
		return nil, fmt.Errorf("bpf: session epoch 0 marks an empty slot")
	}
	s := &Session{Profile: uint32(profile), Epoch: epoch}
	var block [16]byte
	copy(block[:], salt)
	for i := range s.Salt {
		s.Salt[i] = binary.LittleEndian.Uint32(block[4*i:])
	}
	expandKey(&s.Round, key)
	if profile == AESCM {
		var err error
		if s.HmacInner, err = padState(auth, 0x36); err != nil {
			return nil, err
		}
		if s.HmacOuter, err = padState(auth, 0x5c); err != nil {
			return nil, err
		}
		return s, nil
	}
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("bpf: session key: %w", err)
	}
	clear(block[:])
	c.Encrypt(block[:], block[:])
	ghashTables(&s.Ghash, binary.BigEndian.Uint64(block[:]), binary.BigEndian.Uint64(block[8:]))
	return s, nil
}

// ghashTables fills t[k][n] with n * x^(4k) * H in GCM's reflected bit order,
// where the top bit of a nibble is its lowest power of x (SP 800-38D 6.3).
func ghashTables(t *[8][16][2]uint64, high, low uint64) {
	for k := range t {
		for bit := 8; bit > 0; bit >>= 1 {
			t[k][bit] = [2]uint64{high, low}
			// times x
			carry := low & 1
			low = low>>1 | high<<63
			high = high>>1 ^ carry*(0xe1<<56)
		}
		for n := 1; n < 16; n++ {
			if n&(n-1) == 0 {
				continue
			}
			rest := n & (n - 1)
			one := n ^ rest
			t[k][n] = [2]uint64{t[k][one][0] ^ t[k][rest][0], t[k][one][1] ^ t[k][rest][1]}
		}
	}
}

// padState is the SHA-1 state after one HMAC pad.
func padState(key []byte, pad byte) (state [5]uint32, err error) {
	var block [64]byte
	copy(block[:], key)
	for i := range block {
		block[i] ^= pad
	}
	h := sha1.New()
	h.Write(block[:])
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return state, fmt.Errorf("bpf: HMAC state: %w", err)
	}
	// "sha\x01", then the five words
	for i := range state {
		state[i] = binary.BigEndian.Uint32(b[4+4*i:])
	}
	return state, nil
}

// expandKey is the AES-128 key schedule (FIPS 197 5.2), words in memory order.
func expandKey(w *[44]uint32, key []byte) {
	for i := range 4 {
		w[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := 4; i < 44; i++ {
		t := w[i-1]
		if i%4 == 0 {
			t = t>>8 | t<<24
			t = uint32(sbox(byte(t))) | uint32(sbox(byte(t>>8)))<<8 |
				uint32(sbox(byte(t>>16)))<<16 | uint32(sbox(byte(t>>24)))<<24
			t ^= rcon
			rcon = uint32(double(byte(rcon)))
		}
		w[i] = w[i-4] ^ t
	}
}

func double(x byte) byte { return x<<1 ^ x>>7*0x1b }

// sbox computes the AES substitution (FIPS 197 5.1.1) without a table, so that
// no memory access depends on the key.
func sbox(x byte) byte {
	// x^254 is the inverse
	y := x
	for range 6 {
		y = times(times(y, y), x)
	}
	y = times(y, y)
	r := y
	for range 4 {
		y = y<<1 | y>>7
		r ^= y
	}
	return r ^ 0x63
}

// times multiplies in GF(2^8) modulo x^8+x^4+x^3+x+1, in constant time.
func times(a, b byte) (p byte) {
	for range 8 {
		p ^= a & -(b & 1)
		a = double(a)
		b >>= 1
	}
	return p
}
