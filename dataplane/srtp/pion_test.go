package srtp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	pion "github.com/pion/srtp/v3"
)

var profiles = []Profile{ProfileAES128CMHMACSHA1_80, ProfileAEADAES128GCM, ProfileAEADAES256GCM}

func randomKey(r *rand.Rand, p Profile) MasterKey {
	m := MasterKey{Profile: p, Key: make([]byte, p.KeyLen()), Salt: make([]byte, p.SaltLen())}
	fill(r, m.Key)
	fill(r, m.Salt)
	return m
}

func fill(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

func newPair(t testing.TB, m MasterKey, opts ...pion.ContextOption) (*Context, *pion.Context) {
	t.Helper()
	k, err := Derive(m)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContext(k)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pion.CreateContext(m.Key, m.Salt, pion.ProtectionProfile(m.Profile), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// randomPacket makes an RTP packet with a random CSRC list, header extension,
// padding and payload of 0 to 1400 bytes.
func randomPacket(r *rand.Rand, seq uint16, ssrc uint32) []byte {
	csrc := 0
	if r.IntN(4) == 0 {
		csrc = r.IntN(16)
	}
	b := make([]byte, MinHeader, 1700)
	fill(r, b)
	b[0] = 0x80 | byte(csrc)
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[8:], ssrc)
	b = b[:MinHeader+4*csrc]
	fill(r, b[MinHeader:])
	switch r.IntN(4) {
	case 0: // one-byte form: id 1, length 3, then padding bytes
		b[0] |= 0x10
		b = append(b, 0xbe, 0xde, 0, 2, 0x12, 1, 2, 3, 0, 0, 0, 0)
	case 1: // something else of RFC 3550 5.3.1
		b[0] |= 0x10
		n := r.IntN(5)
		b = append(b, 0x12, 0x34, 0, byte(n))
		b = append(b, make([]byte, 4*n)...)
	}
	n := r.IntN(200)
	if r.IntN(8) == 0 {
		n = r.IntN(1401)
	}
	at := len(b)
	b = b[:at+n]
	fill(r, b[at:])
	if n > 4 && r.IntN(5) == 0 {
		b[0] |= 0x20
		b[len(b)-1] = byte(1 + r.IntN(4))
	}
	return b
}

// TestProtectLikePion sends through three roll-overs and compares every byte.
func TestProtectLikePion(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(p)))
			ours, theirs := newPair(t, randomKey(r, p))
			const ssrc = 0xdeadbeef
			// Gaps below 2^15 reach the third roll-over in few packets.
			for index := uint64(r.IntN(1 << 15)); index < 3<<16+200; index += 1 + uint64(r.IntN(60)) {
				plain := randomPacket(r, uint16(index), ssrc)
				want, err := theirs.EncryptRTP(nil, plain, nil)
				if err != nil {
					t.Fatal(err)
				}
				h, ok := HeaderLen(plain)
				if !ok {
					t.Fatalf("HeaderLen refuses %x", plain)
				}
				got, err := ours.Protect(roomy(plain), h, index)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("index %d: %v\n got %x\nwant %x", index, err, got, want)
				}
			}
		})
	}
}

// TestReceiveLikePion delivers a stream with loss, reordering, duplicates,
// forgeries and three roll-overs to both and compares verdict and bytes.
func TestReceiveLikePion(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(2, uint64(p)))
			m := randomKey(r, p)
			ours, theirs := newPair(t, m, pion.SRTPReplayProtection(WindowSize))
			_, sender := newPair(t, m)
			const ssrc = 0x01020304
			var w Window
			var recent [][]byte
			accepted, refused := 0, 0
			deliver := func(packet []byte) {
				want, errTheirs := theirs.DecryptRTP(nil, bytes.Clone(packet), nil)
				got, errOurs := receive(ours, &w, bytes.Clone(packet))
				if (errTheirs == nil) != (errOurs == nil) {
					t.Fatalf("at %d, seq %d: ours %v, pion %v", w.Highest(), binary.BigEndian.Uint16(packet[2:]), errOurs, errTheirs)
				}
				if errOurs != nil {
					refused++
					return
				}
				accepted++
				if !bytes.Equal(got, want) {
					t.Fatalf("got %x\nwant %x", got, want)
				}
			}
			for index := uint64(60000); index < 3<<16+500; index += 1 + uint64(r.IntN(3))*uint64(r.IntN(20)) {
				packet, err := sender.EncryptRTP(nil, randomPacket(r, uint16(index), ssrc), nil)
				if err != nil {
					t.Fatal(err)
				}
				recent = append(recent, packet)
				if len(recent) > 200 {
					recent = recent[1:]
				}
				switch r.IntN(12) {
				case 0: // lost, or late by some packets: redelivered below
				case 1: // forged
					forged := bytes.Clone(packet)
					forged[MinHeader+r.IntN(len(forged)-MinHeader)] ^= 1 << r.IntN(8)
					deliver(forged)
					deliver(packet)
				case 2: // too short for its tag
					deliver(packet[:min(len(packet), MinHeader+r.IntN(12))])
				default:
					deliver(packet)
				}
				if r.IntN(3) == 0 {
					deliver(recent[r.IntN(len(recent))])
				}
			}
			if accepted < 10000 || refused < 1000 {
				t.Fatalf("accepted %d, refused %d: the test does not test", accepted, refused)
			}
		})
	}
}

func receive(c *Context, w *Window, packet []byte) ([]byte, error) {
	h, ok := HeaderLen(packet)
	if !ok {
		return nil, ErrShort
	}
	index := w.Estimate(binary.BigEndian.Uint16(packet[2:]))
	if !w.Check(index) {
		return nil, ErrIndex
	}
	plain, err := c.Unprotect(packet, h, index)
	if err == nil {
		w.Accept(index)
	}
	return plain, err
}

// TestRTCPLikePion goes both ways; every flipped byte must be noticed.
func TestRTCPLikePion(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, uint64(p)))
			ours, theirs := newPair(t, randomKey(r, p))
			const ssrc = 0x01020304
			for index := uint32(0); index < 500; index++ {
				plain := make([]byte, 8+4*r.IntN(60), 512)
				fill(r, plain)
				plain[0], plain[1] = 0x80, 201
				binary.BigEndian.PutUint16(plain[2:], uint16(len(plain)/4-1))
				binary.BigEndian.PutUint32(plain[4:], ssrc)
				theirs.SetIndex(ssrc, index)
				want, err := theirs.EncryptRTCP(nil, plain, nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := ours.ProtectRTCP(roomy(plain), index+1)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%v\n got %x\nwant %x", err, got, want)
				}
				back, gotIndex, err := ours.UnprotectRTCP(bytes.Clone(want))
				if err != nil || gotIndex != index+1 || !bytes.Equal(back, plain) {
					t.Fatalf("index %d: %d, %v", index+1, gotIndex, err)
				}
				want[r.IntN(len(want))] ^= 1 << r.IntN(8)
				if _, _, err := ours.UnprotectRTCP(want); err == nil {
					t.Fatal("a forged SRTCP packet was accepted")
				}
			}
		})
	}
}

// TestUnprotectForged flips every bit of a packet's header, payload and tag.
func TestUnprotectForged(t *testing.T) {
	for _, p := range profiles {
		r := rand.New(rand.NewPCG(4, uint64(p)))
		c, _ := newPair(t, randomKey(r, p))
		plain := randomPacket(r, 7, 9)
		h, _ := HeaderLen(plain)
		sealed, err := c.Protect(plain, h, 7)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(sealed) * 8 {
			forged := bytes.Clone(sealed)
			forged[bit/8] ^= 1 << (bit % 8)
			if h, ok := HeaderLen(forged); ok {
				if _, err := c.Unprotect(forged, h, 7); err == nil {
					t.Fatalf("%v: bit %d flipped and accepted", p, bit)
				}
			}
		}
		if _, err := c.Unprotect(bytes.Clone(sealed), h, 1<<16|7); err == nil {
			t.Fatal("accepted with another roll-over counter")
		}
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Derive(MasterKey{Profile: 2}); err == nil {
		t.Error("unknown profile derived")
	}
	if _, err := Derive(MasterKey{Profile: ProfileAEADAES128GCM, Key: make([]byte, 16), Salt: make([]byte, 14)}); err != ErrKeyLength {
		t.Errorf("wrong salt length: %v", err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	for _, p := range profiles {
		c, _ := newPair(t, randomKey(r, p))
		packet := make([]byte, 20)
		packet[0] = 0x80
		if _, err := c.Protect(packet, MinHeader, 0); err != ErrRoom {
			t.Errorf("no room: %v", err)
		}
		if _, err := c.Protect(packet, MinHeader, 1); err != ErrIndex {
			t.Errorf("wrong index: %v", err)
		}
		if _, err := c.Unprotect(packet[:13], MinHeader, 0); err != ErrShort {
			t.Errorf("short: %v", err)
		}
		if _, _, err := c.UnprotectRTCP(packet[:12]); err != ErrShort {
			t.Errorf("short SRTCP: %v", err)
		}
		m := randomKey(r, p)
		if o := randomKey(r, p); !m.Equal(m) || m.Equal(o) {
			t.Error("Equal")
		}
	}
}

func TestWipe(t *testing.T) {
	k, err := Derive(randomKey(rand.New(rand.NewPCG(6, 6)), ProfileAES128CMHMACSHA1_80))
	if err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	for _, b := range [][]byte{k.RTPKey, k.RTPAuth, k.RTPSalt, k.RTCPKey, k.RTCPAuth, k.RTCPSalt} {
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Fatal("a key is left")
		}
	}
}

// TestNoAllocation holds the steady state of every transform to none.
func TestNoAllocation(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, p := range profiles {
		c, _ := newPair(t, randomKey(r, p))
		buf := make([]byte, 172, 256)
		buf[0] = 0x80
		index := uint64(0)
		if n := testing.AllocsPerRun(100, func() {
			index++
			binary.BigEndian.PutUint16(buf[2:], uint16(index))
			sealed, err := c.Protect(buf, MinHeader, index)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Unprotect(sealed, MinHeader, index); err != nil {
				t.Fatal(err)
			}
			sealed, err = c.ProtectRTCP(buf, uint32(index))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.UnprotectRTCP(sealed); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", p, n)
		}
	}
}

func BenchmarkProtect(b *testing.B) {
	for _, p := range profiles {
		r := rand.New(rand.NewPCG(8, 8))
		ours, theirs := newPair(b, randomKey(r, p))
		buf := make([]byte, 172, 256)
		buf[0] = 0x80
		b.Run(p.String()+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				binary.BigEndian.PutUint16(buf[2:], uint16(i))
				if _, err := ours.Protect(buf, MinHeader, uint64(i)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(p.String()+"/pion", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, 256)
			for i := range b.N {
				binary.BigEndian.PutUint16(buf[2:], uint16(i))
				if _, err := theirs.EncryptRTP(dst, buf, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnprotect(b *testing.B) {
	for _, p := range profiles {
		r := rand.New(rand.NewPCG(9, 9))
		ours, theirs := newPair(b, randomKey(r, p))
		sealed := make([]byte, 172, 256)
		sealed[0] = 0x80
		sealed, err := ours.Protect(sealed, MinHeader, 0)
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 256)
		b.Run(p.String()+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := ours.Unprotect(buf[:copy(buf, sealed)], MinHeader, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(p.String()+"/pion", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := theirs.DecryptRTP(buf, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// roomy copies a packet into a buffer with room for any tag.
func roomy(packet []byte) []byte {
	return append(make([]byte, 0, len(packet)+MaxOverhead), packet...)
}
