package kernel

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"encoding"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// kernelProfile maps a protection profile to the programs' number for it.
func kernelProfile(k *srtp.SessionKeys) (bpf.Profile, bool) {
	if k == nil {
		return bpf.Plain, true
	}
	switch k.Profile {
	case srtp.ProfileAES128CMHMACSHA1_80:
		return bpf.AESCM, true
	case srtp.ProfileAEADAES128GCM:
		return bpf.AEADGCM, true
	}
	return 0, false
}

// material computes what the programs need of a session's keys: the AES key
// schedule, the salt as a counter block, and either the SHA-1 states of HMAC
// (RFC 2104) or the multiplication tables of GHASH. The epoch is left 0.
func material(k *srtp.SessionKeys, out *bpf.Session) error {
	profile, ok := kernelProfile(k)
	if !ok || profile == bpf.Plain {
		return fmt.Errorf("no key material for profile %v", k.Profile)
	}
	block, err := aes.NewCipher(k.RTPKey)
	if err != nil {
		return fmt.Errorf("session key: %w", err)
	}
	out.Profile = uint32(profile)
	expandKey(k.RTPKey, &out.Round)
	salt := saltBlock(k)
	for i := range out.Salt {
		out.Salt[i] = binary.LittleEndian.Uint32(salt[4*i:])
	}
	if profile == bpf.AEADGCM {
		ghashTables(block, &out.Ghash)
		return nil
	}
	if out.HmacInner, err = hmacState(k.RTPAuth, 0x36); err != nil {
		return err
	}
	out.HmacOuter, err = hmacState(k.RTPAuth, 0x5c)
	return err
}

// saltBlock is the counter block of SSRC 0, index 0 and counter 0.
func saltBlock(k *srtp.SessionKeys) (b [aes.BlockSize]byte) {
	copy(b[:14], k.RTPSalt)
	return b
}

// expandKey is the AES-128 key expansion (FIPS 197 5.2). Words hold their
// octets in memory order.
func expandKey(key []byte, out *[44]uint32) {
	rcon := byte(1)
	var w [4]byte
	for i := range 4 {
		out[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	for i := 4; i < len(out); i++ {
		binary.LittleEndian.PutUint32(w[:], out[i-1])
		if i%4 == 0 {
			w = [4]byte{subByte(w[1]) ^ rcon, subByte(w[2]), subByte(w[3]), subByte(w[0])}
			rcon = double(rcon)
		}
		out[i] = out[i-4] ^ binary.LittleEndian.Uint32(w[:])
	}
}

// double multiplies by x in GF(2^8) of AES.
func double(b byte) byte {
	return b<<1 ^ b>>7*0x1b
}

// subByte is the AES S-box computed (FIPS 197 5.1.1): the inverse, then the
// affine map. Ten bytes a key are not worth a table that leaks by the cache.
func subByte(b byte) byte {
	// b^254 is the inverse, and 0 stays 0.
	inverse, square := byte(1), b
	for range 7 {
		square = multiply(square, square)
		inverse = multiply(inverse, square)
	}
	s := inverse
	for n := 1; n <= 4; n++ {
		s ^= bits.RotateLeft8(inverse, n)
	}
	return s ^ 0x63
}

func multiply(a, b byte) (product byte) {
	for range 8 {
		product ^= a & -(b & 1)
		a, b = double(a), b>>1
	}
	return product
}

// hmacState is the SHA-1 state after the padded key, in host order.
func hmacState(key []byte, pad byte) (state [5]uint32, err error) {
	var block [sha1.BlockSize]byte
	if len(key) > len(block) {
		return state, fmt.Errorf("authentication key of %d octets", len(key))
	}
	copy(block[:], key)
	for i := range block {
		block[i] ^= pad
	}
	h := sha1.New()
	h.Write(block[:])
	clear(block[:])
	marshaled, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return state, fmt.Errorf("state of SHA-1: %w", err)
	}
	const magic = "sha\x01" // then the five words, the rest of the block and its length
	if len(marshaled) < len(magic)+20 || string(marshaled[:len(magic)]) != magic {
		return state, fmt.Errorf("state of SHA-1 is not in the known form")
	}
	for i := range state {
		state[i] = binary.BigEndian.Uint32(marshaled[len(magic)+4*i:])
	}
	clear(marshaled)
	return state, nil
}

// ghashTables fills tables[k][n] with the nibble n at bits 4k..4k+3 of a block,
// counted from its first, times H (NIST SP 800-38D 6.3, 6.4).
func ghashTables(block cipher.Block, tables *[8][16][2]uint64) {
	var h [aes.BlockSize]byte
	block.Encrypt(h[:], h[:])
	high, low := binary.BigEndian.Uint64(h[:8]), binary.BigEndian.Uint64(h[8:])
	clear(h[:])
	for k := range tables {
		for bit := 8; bit > 0; bit >>= 1 {
			for n := range tables[k] {
				if n&bit != 0 {
					tables[k][n][0] ^= high
					tables[k][n][1] ^= low
				}
			}
			carry := low & 1
			low = low>>1 | high<<63
			high = high>>1 ^ 0xe1<<56&-carry
		}
	}
}
