package kernel

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func randomKeys(r *rand.Rand, p srtp.Profile) *srtp.SessionKeys {
	octets := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	k, err := srtp.Derive(srtp.MasterKey{Profile: p, Key: octets(p.KeyLen()), Salt: octets(p.SaltLen())})
	if err != nil {
		panic(err)
	}
	return k
}

// FIPS 197 appendix A.1.
func TestExpandKey(t *testing.T) {
	var round [44]uint32
	expandKey(unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"), &round)
	for i, want := range map[int]string{4: "a0fafe17", 7: "2a6c7605", 36: "ac7766f3", 40: "d014f9a8", 43: "b6630ca6"} {
		var got [4]byte
		binary.LittleEndian.PutUint32(got[:], round[i])
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("word %d is %x, want %s", i, got, want)
		}
	}
}

// The two states, continued by crypto/sha1, are HMAC.
func TestHMACState(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	k := randomKeys(r, srtp.ProfileAES128CMHMACSHA1_80)
	var m bpf.Session
	if err := material(k, &m); err != nil {
		t.Fatal(err)
	}
	resume := func(state [5]uint32, message []byte) []byte {
		b := []byte("sha\x01")
		for _, w := range state {
			b = binary.BigEndian.AppendUint32(b, w)
		}
		b = append(b, make([]byte, sha1.BlockSize)...)
		b = binary.BigEndian.AppendUint64(b, sha1.BlockSize)
		h := sha1.New()
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		h.Write(message)
		return h.Sum(nil)
	}
	message := []byte("packet and roll-over counter")
	want := hmac.New(sha1.New, k.RTPAuth)
	want.Write(message)
	if got := resume(m.HmacOuter, resume(m.HmacInner, message)); !hmac.Equal(got, want.Sum(nil)) {
		t.Errorf("HMAC is %x, want %x", got, want.Sum(nil))
	}
	if m.Profile != uint32(bpf.AESCM) || m.Ghash != [8][16][2]uint64{} {
		t.Error("profile or GHASH tables of an AES-CM session are not what they should be")
	}
}

// GHASH of one block of ciphertext with the tables, read as the program reads
// them, gives the tag of crypto/cipher's GCM.
func TestGHASHTables(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		k := randomKeys(r, srtp.ProfileAEADAES128GCM)
		var m bpf.Session
		if err := material(k, &m); err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(k.RTPKey)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		nonce, plain := make([]byte, 12), make([]byte, 16)
		binary.BigEndian.PutUint64(nonce, r.Uint64())
		binary.BigEndian.PutUint64(plain, r.Uint64())
		sealed := gcm.Seal(nil, nonce, plain, nil)

		x := multiplyByTables(&m.Ghash, [2]uint64{binary.BigEndian.Uint64(sealed), binary.BigEndian.Uint64(sealed[8:])})
		x[1] ^= 128 // length block: no associated data, 128 bits
		x = multiplyByTables(&m.Ghash, x)
		tag := make([]byte, 16)
		block.Encrypt(tag, append(bytes.Clone(nonce), 0, 0, 0, 1))
		xor := func(b []byte, v uint64) { binary.BigEndian.PutUint64(b, binary.BigEndian.Uint64(b)^v) }
		xor(tag, x[0])
		xor(tag[8:], x[1])
		if !bytes.Equal(tag, sealed[16:]) {
			t.Fatalf("tag is %x, want %x", tag, sealed[16:])
		}
	}
}

// multiplyByTables is the program's loop: 32 bits a step, the last first.
func multiplyByTables(tables *[8][16][2]uint64, x [2]uint64) (z [2]uint64) {
	for _, word := range []uint32{uint32(x[1]), uint32(x[1] >> 32), uint32(x[0]), uint32(x[0] >> 32)} {
		v := z[1] << 32
		z[1] = z[1]>>32 | z[0]<<32
		z[0] = z[0]>>32 ^ v ^ v>>1 ^ v>>2 ^ v>>7
		for k := range tables {
			e := tables[k][word>>(28-4*k)&0xf]
			z[0] ^= e[0]
			z[1] ^= e[1]
		}
	}
	return z
}

// RFC 3711 B.2.
func TestKeystreamVector(t *testing.T) {
	g, err := newGenerator(&srtp.SessionKeys{
		Profile: srtp.ProfileAES128CMHMACSHA1_80,
		RTPKey:  unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"), RTPSalt: unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfd"),
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 48)
	g.generate(0, nil, out, nil)
	if got, want := hex.EncodeToString(out), "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0"; got != want {
		t.Errorf("keystream is %s, want %s", got, want)
	}
}

// Whatever SSRC and index: XOR with the generated keystream is what the user
// engine's transform does, and the mask is what hides GCM's tag.
func TestKeystreamLikeUserEngine(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, p := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		for range 200 {
			k := randomKeys(r, p)
			ssrc, index := r.Uint32(), r.Uint64()&indexMask
			const header, payload = 12, 208
			packet := make([]byte, header+payload, header+payload+p.Overhead())
			packet[0] = 0x80
			binary.BigEndian.PutUint16(packet[2:], uint16(index))
			binary.BigEndian.PutUint32(packet[8:], ssrc)
			c, err := srtp.NewContext(k)
			if err != nil {
				t.Fatal(err)
			}
			protected, err := c.Protect(packet, header, index)
			if err != nil {
				t.Fatal(err)
			}
			g, err := newGenerator(k, ssrc)
			if err != nil {
				t.Fatal(err)
			}
			mask, stream := make([]byte, 16), make([]byte, payload)
			g.generate(index, mask, stream, newSheet(payload))
			if !bytes.Equal(stream, protected[header:header+payload]) {
				t.Fatalf("%v: keystream of SSRC %#x, index %#x differs", p, ssrc, index)
			}
			if p.AEAD() != (!bytes.Equal(mask, make([]byte, 16))) {
				t.Fatalf("%v: mask is %x", p, mask)
			}
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, p := range []srtp.Profile{srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileAEADAES128GCM} {
		g, err := newGenerator(randomKeys(r, p), 1)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{bpf.KeystreamSmall, bpf.LargestPayload} {
			mask, out, sheet := make([]byte, 16), make([]byte, n), newSheet(n)
			b.Run(p.String()+"/"+strconv.Itoa(n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(n))
				for i := range b.N {
					g.generate(uint64(i), mask, out, sheet)
				}
			})
		}
	}
}
