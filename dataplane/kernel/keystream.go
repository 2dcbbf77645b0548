package kernel

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

const indexMask = bpf.IndexLimit - 1

// generator makes the keystream of one (session, SSRC). It allocates nothing
// per packet and is not safe for concurrent use.
type generator struct {
	block cipher.Block
	gcm   cipher.AEAD // nil for AES-CM
	salt  [aes.BlockSize]byte
	ssrc  uint32
	count [aes.BlockSize]byte
}

func newGenerator(k *srtp.SessionKeys, ssrc uint32) (*generator, error) {
	return makeGenerator(k.RTPKey, saltBlock(k), k.Profile.AEAD(), ssrc)
}

// sessionGenerator is the generator of a session that an earlier run installed.
func sessionGenerator(s *bpf.Session, ssrc uint32) (*generator, error) {
	var key, salt [aes.BlockSize]byte
	defer clear(key[:])
	for i := range 4 { // the key schedule begins with the key
		binary.LittleEndian.PutUint32(key[4*i:], s.Round[i])
		binary.LittleEndian.PutUint32(salt[4*i:], s.Salt[i])
	}
	return makeGenerator(key[:], salt, bpf.Profile(s.Profile) == bpf.AEADGCM, ssrc)
}

func makeGenerator(key []byte, salt [aes.BlockSize]byte, aead bool, ssrc uint32) (*generator, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	g := &generator{block: block, salt: salt, ssrc: ssrc}
	if aead {
		if g.gcm, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// sheet is what generators write on: octets of keystream and a tag.
type sheet struct{ zero, out []byte }

func newSheet(octets int) *sheet {
	return &sheet{zero: make([]byte, octets), out: make([]byte, 0, octets+aes.BlockSize)}
}

// generate writes the keystream of a packet index: for AES-CM from counter 0
// (RFC 3711 4.1.1), for GCM the block that hides the tag into mask and from
// counter 2 on the keystream (RFC 7714 8.1). len(out) is a multiple of 16 and no
// more than the sheet has.
func (g *generator) generate(index uint64, mask, out []byte, s *sheet) {
	g.count = g.salt
	c := g.count[:]
	if g.gcm != nil {
		xor32(c[2:], g.ssrc)
		xor32(c[6:], uint32(index>>16))
		c[10] ^= byte(index >> 8)
		c[11] ^= byte(index)
		c[15] = 1
		g.block.Encrypt(mask, c)
		// Zeros sealed are keystream, many blocks at a time; the tag is not used.
		copy(out, g.gcm.Seal(s.out, c[:12], s.zero[:len(out)], nil))
		return
	}
	xor32(c[4:], g.ssrc)
	xor32(c[8:], uint32(index>>16))
	c[12] ^= byte(index >> 8)
	c[13] ^= byte(index)
	for n := range len(out) / aes.BlockSize {
		binary.BigEndian.PutUint16(c[14:], uint16(n))
		g.block.Encrypt(out[n*aes.BlockSize:], c)
	}
}

func xor32(b []byte, v uint32) {
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)^v)
}
