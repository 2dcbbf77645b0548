package bpf

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// keystreamSource makes the keystream of one (key, SSRC) for the slots of a
// ring. It allocates nothing per packet. Not for concurrent use.
type keystreamSource struct {
	block   cipher.Block
	profile Profile
	salt    [16]byte
	ssrc    uint32
	in      [16]byte // counter block; a field, so that it does not escape per call
}

// newKeystreamSource takes the encryption key and salt as newSession does.
func newKeystreamSource(profile Profile, key, salt []byte, ssrc uint32) (*keystreamSource, error) {
	if profile != AESCM && profile != AEADGCM {
		return nil, fmt.Errorf("bpf: no keystream for SRTP profile %d", profile)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("bpf: keystream key: %w", err)
	}
	s := &keystreamSource{block: block, profile: profile, ssrc: ssrc}
	copy(s.salt[:], salt)
	return s, nil
}

// Fill publishes the keystream of one 48-bit index in a slot of the keystream
// map: octets of it, rounded up to a block and cut to the slot.
func (s *keystreamSource) Fill(slot *Keystream, epoch uint16, index uint64, octets int) {
	s.fill(&slot.Tag, &slot.Mask, slot.Bytes[:], epoch, index, octets)
}

// FillLarge is Fill for a slot of the keystream_large map.
func (s *keystreamSource) FillLarge(slot *KeystreamLarge, epoch uint16, index uint64, octets int) {
	s.fill(&slot.Tag, &slot.Mask, slot.Bytes[:], epoch, index, octets)
}

func (s *keystreamSource) fill(tag *uint64, mask *[16]byte, to []byte, epoch uint16, index uint64, octets int) {
	octets = min((octets+15)&^15, len(to))
	// RFC 3711 4.1.1: the SSRC at octet 4, the index at 8, 16 bits of counter
	// from 0; RFC 7714 8.1: at 2 and 6, 32 bits of counter from 1.
	s.in = s.salt
	ssrcAt, indexAt, first := 4, 8, 0
	if s.profile == AEADGCM {
		ssrcAt, indexAt, first = 2, 6, 2
	}
	xorUint32(s.in[ssrcAt:], s.ssrc)
	xorUint32(s.in[indexAt:], uint32(index>>16))
	s.in[indexAt+4] ^= byte(index >> 8)
	s.in[indexAt+5] ^= byte(index)

	// A reader that finds the old tag twice has seen none of what follows.
	atomic.StoreUint64(tag, 0)
	if s.profile == AEADGCM {
		s.in[15] = 1
		s.block.Encrypt(mask[:], s.in[:])
	}
	for i := 0; i < octets/16; i++ {
		s.in[15] = byte(first + i) // below 256: a slot has 94 blocks at most
		s.block.Encrypt(to[16*i:16*i+16], s.in[:])
	}
	atomic.StoreUint64(tag, uint64(epoch)<<48|index&(IndexLimit-1))
}

func xorUint32(b []byte, v uint32) {
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)^v)
}

// smallSlots views mapped memory of the keystream map as its slots.
func smallSlots(memory []byte) []Keystream {
	n := len(memory) / int(unsafe.Sizeof(Keystream{}))
	return unsafe.Slice((*Keystream)(unsafe.Pointer(unsafe.SliceData(memory))), n)
}

// largeSlots views mapped memory of the keystream_large map as its slots.
func largeSlots(memory []byte) []KeystreamLarge {
	n := len(memory) / int(unsafe.Sizeof(KeystreamLarge{}))
	return unsafe.Slice((*KeystreamLarge)(unsafe.Pointer(unsafe.SliceData(memory))), n)
}
