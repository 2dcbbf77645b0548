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
// and is not safe for concurrent use.
type generator struct {
	block cipher.Block
	salt  [aes.BlockSize]byte
	ssrc  uint32
	aead  bool
	count [aes.BlockSize]byte
}

func newGenerator(k *srtp.SessionKeys, ssrc uint32) (*generator, error) {
	block, err := aes.NewCipher(k.RTPKey)
	if err != nil {
		return nil, err
	}
	return &generator{block: block, salt: saltBlock(k), ssrc: ssrc, aead: k.Profile.AEAD()}, nil
}

// generate writes the keystream of a packet index: for AES-CM from counter 0
// (RFC 3711 4.1.1), for GCM the block that hides the tag into mask and from
// counter 2 on the keystream (RFC 7714 8.1). len(out) is a multiple of 16.
func (g *generator) generate(index uint64, mask, out []byte) {
	g.count = g.salt
	c := g.count[:]
	var counter uint16
	if g.aead {
		xor32(c[2:], g.ssrc)
		xor32(c[6:], uint32(index>>16))
		c[10] ^= byte(index >> 8)
		c[11] ^= byte(index)
		binary.BigEndian.PutUint32(c[12:], 1)
		g.block.Encrypt(mask, c)
		counter = 2
	} else {
		xor32(c[4:], g.ssrc)
		xor32(c[8:], uint32(index>>16))
		c[12] ^= byte(index >> 8)
		c[13] ^= byte(index)
	}
	for ; len(out) >= aes.BlockSize; out = out[aes.BlockSize:] {
		binary.BigEndian.PutUint16(c[14:], counter)
		g.block.Encrypt(out, c)
		counter++
	}
}

func xor32(b []byte, v uint32) {
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)^v)
}
