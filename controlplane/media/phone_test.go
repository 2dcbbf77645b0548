package media_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

// securePhone is a rawPhone that speaks SDES-SRTP by pion/srtp.
type securePhone struct {
	*rawPhone
	profile srtp.ProtectionProfile
	key     []byte // ours: key and salt
	in, out *srtp.Context
}

func keyLengths(p srtp.ProtectionProfile) (key, salt int) {
	switch p {
	case srtp.ProtectionProfileAeadAes256Gcm:
		return 32, 12
	case srtp.ProtectionProfileAeadAes128Gcm:
		return 16, 12
	}
	return 16, 14
}

func newSecurePhone(t *testing.T, p srtp.ProtectionProfile, seed byte) *securePhone {
	t.Helper()
	k, s := keyLengths(p)
	ph := &securePhone{rawPhone: newRawPhone(t, "127.0.0.1"), profile: p, key: make([]byte, k+s)}
	for i := range ph.key {
		ph.key[i] = seed + byte(i)
	}
	var err error
	if ph.out, err = srtp.CreateContext(ph.key[:k], ph.key[k:], p); err != nil {
		t.Fatal(err)
	}
	return ph
}

func (p *securePhone) crypto(tag int, suite string) string {
	return fmt.Sprintf("a=crypto:%d %s inline:%s", tag, suite, base64.StdEncoding.EncodeToString(p.key))
}

// listen takes the gateway's key from its description.
func (p *securePhone) listen(body []byte, suite string) sdp.Crypto {
	p.t.Helper()
	p.aim(body)
	d, err := sdp.Parse(body)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range d.Media[0].Crypto {
		if c.Suite != suite {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.Params, "inline:"))
		if err != nil {
			p.t.Fatal(err)
		}
		k, _ := keyLengths(p.profile)
		if p.in, err = srtp.CreateContext(b[:k], b[k:], p.profile); err != nil {
			p.t.Fatal(err)
		}
		return c
	}
	p.t.Fatalf("no %s in\n%s", suite, body)
	return sdp.Crypto{}
}

func (p *securePhone) sendSecure(pt uint8, ssrc uint32, seq uint16, payload []byte) {
	p.t.Helper()
	pkt := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: pt, SSRC: ssrc, SequenceNumber: seq, Timestamp: uint32(seq) * 160}, Payload: payload}
	b, err := pkt.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	if b, err = p.out.EncryptRTP(nil, b, nil); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.conn.WriteToUDPAddrPort(b, p.to); err != nil {
		p.t.Fatal(err)
	}
}

// hearSecure reads SRTP until one packet has the payload. Every packet must
// authenticate.
func (p *securePhone) hearSecure(payload []byte) {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			p.t.Fatalf("the phone did not hear %q: %v", payload, err)
		}
		if n < 12 || buf[1]&0x7f >= 64 && buf[1]&0x7f < 96 {
			continue // RTCP
		}
		b, err := p.in.DecryptRTP(nil, buf[:n], nil)
		if err != nil {
			p.t.Fatalf("the phone cannot read what it got: %v", err)
		}
		var pkt rtp.Packet
		if pkt.Unmarshal(b) == nil && string(pkt.Payload) == string(payload) {
			return
		}
	}
}

// until repeats send until heard returns.
func until(t *testing.T, send func(seq uint16), heard func()) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for seq := uint16(1); ; seq++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				send(seq)
			}
		}
	}()
	heard()
	close(stop)
	<-done
}

// An SDES phone calls a plain one: each suite, media by content both ways, and
// a re-INVITE with the same key does not restart anything.
func TestSDES(t *testing.T) {
	for _, tc := range []struct {
		suite   string
		profile srtp.ProtectionProfile
	}{
		{"AES_CM_128_HMAC_SHA1_80", srtp.ProtectionProfileAes128CmHmacSha1_80},
		{"AEAD_AES_128_GCM", srtp.ProtectionProfileAeadAes128Gcm},
		{"AEAD_AES_256_GCM", srtp.ProtectionProfileAeadAes256Gcm},
	} {
		t.Run(tc.suite, func(t *testing.T) {
			g := newGateway(t, "127.0.0.1")
			a, _ := g.leg(t, false, "127.0.0.1:5061", call.MediaOptions{})
			b, _ := g.leg(t, false, "127.0.0.1:5062", call.MediaOptions{})
			secure, plain := newSecurePhone(t, tc.profile, 1), newRawPhone(t, "127.0.0.1")
			var answer []byte
			exchange := func(crypto ...string) {
				t.Helper()
				offered, err := a.TakeOffer(secure.sdp(append([]string{"RTP/SAVP 8"}, crypto...)...))
				if err != nil {
					t.Fatal(err)
				}
				toPlain, err := b.Offer(offered)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(toPlain), "crypto") || !strings.Contains(string(toPlain), "RTP/AVP 8") {
					t.Fatalf("offer to the plain phone:\n%s", toPlain)
				}
				plain.aim(toPlain)
				answered, err := b.TakeAnswer(plain.sdp("RTP/AVP 8"))
				if err != nil {
					t.Fatal(err)
				}
				if answer, err = a.Answer(answered); err != nil {
					t.Fatal(err)
				}
				g.join(t, a, b, sdp.Intersect(offered, answered), answered)
			}
			// What is not spoken is passed over; the tag of the chosen one comes back.
			exchange("a=crypto:1 AES_CM_128_HMAC_SHA1_32 inline:"+base64.StdEncoding.EncodeToString(make([]byte, 30)), secure.crypto(2, tc.suite))
			ours := secure.listen(answer, tc.suite)
			if ours.Tag != 2 {
				t.Errorf("tag %d, want 2", ours.Tag)
			}
			talk := func(from uint16) {
				t.Helper()
				out, in := fmt.Appendf(nil, "out %d", from), fmt.Appendf(nil, "in %d", from)
				until(t, func(n uint16) { secure.sendSecure(8, 77, from+n, out) }, func() { plain.hear(out) })
				until(t, func(n uint16) { plain.send(8, 88, from+n, in) }, func() { secure.hearSecure(in) })
			}
			talk(100)
			// The same key: SRTP goes on where it was, so both contexts of the phone stay.
			exchange(secure.crypto(2, tc.suite))
			if again := secureCrypto(t, answer); again != ours {
				t.Error("our key changed with a re-INVITE that kept theirs")
			}
			talk(1000)
			if n := len(a.Snapshot().Keys); n != 2 {
				t.Errorf("%d keys in the snapshot", n)
			}
			// A new key of theirs: their direction starts anew.
			k, s := keyLengths(tc.profile)
			for i := range secure.key {
				secure.key[i] ^= 0x5a
			}
			var err error
			if secure.out, err = srtp.CreateContext(secure.key[:k], secure.key[k:k+s], tc.profile); err != nil {
				t.Fatal(err)
			}
			exchange(secure.crypto(2, tc.suite))
			talk(2000)
		})
	}
}

func secureCrypto(t *testing.T, body []byte) sdp.Crypto {
	t.Helper()
	d, err := sdp.Parse(body)
	if err != nil || len(d.Media[0].Crypto) != 1 {
		t.Fatalf("one a=crypto is expected: %v\n%s", err, body)
	}
	return d.Media[0].Crypto[0]
}

// We offer SDES: every suite with a key of its own, and an answer in clear or
// with something not offered is refused.
func TestSDESOffered(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	leg, _ := g.leg(t, false, "127.0.0.1:5061", call.MediaOptions{SDES: true})
	ph := newSecurePhone(t, srtp.ProtectionProfileAes128CmHmacSha1_80, 9)
	offer, err := leg.Offer(sdp.PhoneLines())
	if err != nil {
		t.Fatal(err)
	}
	d, err := sdp.Parse(offer)
	if err != nil {
		t.Fatal(err)
	}
	if d.Media[0].Proto != sdp.SAVP || len(d.Media[0].Crypto) != 3 {
		t.Fatalf("offer:\n%s", offer)
	}
	keys := map[string]bool{}
	for _, c := range d.Media[0].Crypto {
		keys[c.Params] = true
	}
	if len(keys) != 3 {
		t.Error("suites share a key")
	}
	refused := func(what, want string, tail ...string) {
		t.Helper()
		_, err := leg.TakeAnswer(ph.sdp(tail...))
		var e *sdp.Error
		if !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, want) {
			t.Errorf("%s: %v, want a 488 with %q", what, err, want)
		}
	}
	refused("in clear", "in clear", "RTP/AVP 0")
	refused("no crypto", "a=crypto", "RTP/SAVP 0")
	refused("a tag not offered", "not offered", "RTP/SAVP 0", ph.crypto(9, "AES_CM_128_HMAC_SHA1_80"))
	refused("another suite's tag", "not offered", "RTP/SAVP 0", ph.crypto(1, "AES_CM_128_HMAC_SHA1_80"))
	if leg.Health().Established {
		t.Error("established by a refused answer")
	}
	if _, err := leg.TakeAnswer(ph.sdp("RTP/SAVP 0", ph.crypto(2, "AES_CM_128_HMAC_SHA1_80"))); err != nil {
		t.Fatal(err)
	}
	if !leg.Health().Established || len(leg.Lines()) != 1 || leg.Lines()[0] == nil {
		t.Errorf("health %+v, lines %v", leg.Health(), leg.Lines())
	}
	// The next offer keeps what was agreed.
	again, err := leg.Offer(sdp.PhoneLines())
	if err != nil {
		t.Fatal(err)
	}
	if c := secureCrypto(t, again); c.Tag != 2 || c.Params != d.Media[0].Crypto[1].Params {
		t.Errorf("re-offer has tag %d and another key", c.Tag)
	}
}

// talkThrough makes a call of two raw phones, a the caller.
func talkThrough(t *testing.T, g *gateway, a, b *rawPhone, sourceA, sourceB string, extra ...string) (legA, legB call.Media) {
	t.Helper()
	legA, _ = g.leg(t, false, sourceA, call.MediaOptions{})
	legB, _ = g.leg(t, false, sourceB, call.MediaOptions{V6: b.at().Addr().Is6()})
	offered, err := legA.TakeOffer(a.sdp(append([]string{"RTP/AVP 0"}, extra...)...))
	if err != nil {
		t.Fatal(err)
	}
	toB, err := legB.Offer(offered)
	if err != nil {
		t.Fatal(err)
	}
	b.aim(toB)
	answered, err := legB.TakeAnswer(b.sdp("RTP/AVP 0"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := legA.Answer(answered)
	if err != nil {
		t.Fatal(err)
	}
	a.aim(answer)
	g.join(t, legA, legB, sdp.Intersect(offered, answered), answered)
	return legA, legB
}

func talkBothWays(t *testing.T, a, b *rawPhone) {
	t.Helper()
	until(t, func(n uint16) { a.send(0, 1, n, []byte("from a")) }, func() { b.hear([]byte("from a")) })
	until(t, func(n uint16) { b.send(0, 2, n, []byte("from b")) }, func() { a.hear([]byte("from b")) })
}

// IPv4, IPv6, and one of each.
func TestFamilies(t *testing.T) {
	for _, tc := range [][2]string{{"127.0.0.1", "127.0.0.1"}, {"::1", "::1"}, {"127.0.0.1", "::1"}, {"::1", "127.0.0.1"}} {
		t.Run(tc[0]+" to "+tc[1], func(t *testing.T) {
			g := newGateway(t, "127.0.0.1", "::1")
			a, b := newRawPhone(t, tc[0]), newRawPhone(t, tc[1])
			talkThrough(t, g, a, b, netip.AddrPortFrom(a.at().Addr(), 5060).String(), netip.AddrPortFrom(b.at().Addr(), 5060).String())
			if a.to.Addr() != a.at().Addr() || b.to.Addr() != b.at().Addr() {
				t.Errorf("the phones at %v and %v were given %v and %v", a.at(), b.at(), a.to, b.to)
			}
			if a.to.Port()%2 != 0 || b.to.Port()%2 != 0 {
				t.Errorf("odd RTP ports %v %v", a.to, b.to)
			}
			talkBothWays(t, a, b)
		})
	}
}

// A network without the family refuses with a reason.
func TestNoFamily(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	leg, _ := g.leg(t, false, "127.0.0.1:5060", call.MediaOptions{})
	lines, err := leg.TakeOffer(newRawPhone(t, "::1").sdp("RTP/AVP 0"))
	if err != nil {
		t.Fatal(err)
	}
	var e *sdp.Error
	if _, err := leg.Answer(lines); !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, "IPv6") {
		t.Errorf("%v", err)
	}
}

// A phone behind NAT: its SDP names an address that is not where its media comes
// from. One latch, to the signalling source's address only.
func TestLatch(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	a, b := newRawPhone(t, "127.0.0.1"), newRawPhone(t, "127.0.0.1")
	claimed := *a
	wrong := newRawPhone(t, "127.0.0.1") // its own port is what a claims
	claimed.conn = wrong.conn
	_, legB := talkThrough(t, g, b, &claimed, "127.0.0.1:5061", "127.0.0.1:5062")
	// talkThrough aimed the copy.
	a.to = claimed.to
	// The stranger cannot: it does not come from the signalling source's address.
	stranger := newRawPhone(t, "127.0.0.2")
	stranger.to = a.to
	b.never = []string{"from a stranger", "too late"}
	stranger.send(0, 9, 1, []byte("from a stranger"))
	until(t, func(n uint16) { a.send(0, 1, n, []byte("from a")) }, func() { b.hear([]byte("from a")) })
	// And the answer goes to where a really is.
	until(t, func(n uint16) { b.send(0, 2, n, []byte("from b")) }, func() { a.hear([]byte("from b")) })
	if h := legB.Health(); h.LastReceived.IsZero() {
		t.Error("nothing received by the latched leg")
	}
	// The latch is spent: another port of the same host is not followed.
	late := newRawPhone(t, "127.0.0.1")
	late.to = a.to
	for n := range uint16(10) {
		late.send(0, 3, 100+n, []byte("too late"))
	}
	until(t, func(n uint16) { b.send(0, 2, 1000+n, []byte("still to a")) }, func() { a.hear([]byte("still to a")) })
	until(t, func(n uint16) { a.send(0, 1, 1000+n, []byte("still from a")) }, func() { b.hear([]byte("still from a")) })
}

// rtcp-mux is answered when offered and not offered of ourselves; a=rtcp is obeyed.
func TestRTCPAttributes(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	ph := newRawPhone(t, "127.0.0.1")
	leg, _ := g.leg(t, false, "127.0.0.1:5060", call.MediaOptions{})
	lines, err := leg.TakeOffer(ph.sdp("RTP/AVP 0", "a=rtcp-mux", "a=rtcp:9 IN IP4 127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := leg.Answer(lines)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(answer), "a=rtcp-mux\r\n") {
		t.Errorf("rtcp-mux is not answered:\n%s", answer)
	}
	other, _ := g.leg(t, false, "127.0.0.1:5060", call.MediaOptions{})
	offer, err := other.Offer(sdp.PhoneLines())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(offer), "rtcp-mux") || strings.Contains(string(offer), "BUNDLE") {
		t.Errorf("offer to a phone:\n%s", offer)
	}
}

func TestRefusedOffers(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	ph := newRawPhone(t, "127.0.0.1")
	for _, tc := range []struct {
		name, want string
		body       []byte
	}{
		{"a host name", "host name", []byte("v=0\r\no=- 1 1 IN IP4 host\r\ns=-\r\nc=IN IP4 phone.example\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n")},
		{"no address", "no c=", []byte("v=0\r\no=- 1 1 IN IP4 host\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n")},
		{"SAVP without crypto", "a=crypto", ph.sdp("RTP/SAVP 0")},
		{"a browser's offer", "not supported", ph.sdp("UDP/TLS/RTP/SAVPF 0")},
		{"no codec that is carried", "no codec", ph.sdp("RTP/AVP 96", "a=rtpmap:96 red/8000")},
		{"loopback from elsewhere", "loopback", ph.sdp("RTP/AVP 0")},
		{"multicast", "multicast", []byte("v=0\r\no=- 1 1 IN IP4 host\r\ns=-\r\nc=IN IP4 224.2.1.1/127\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n")},
	} {
		source := "127.0.0.1:5060"
		if tc.want == "loopback" {
			source = "192.0.2.9:5060"
		}
		leg, _ := g.leg(t, false, source, call.MediaOptions{})
		_, err := leg.TakeOffer(tc.body)
		var e *sdp.Error
		if !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, tc.want) {
			t.Errorf("%s: %v, want a 488 with %q", tc.name, err, tc.want)
		}
	}
}

// A call that finds no port is refused before it rings, and nothing leaks.
func TestNoPorts(t *testing.T) {
	plane, err := dataplane.New(dataplane.Config{
		Networks: []dataplane.Network{{Name: "test", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, PortMin: 31000, PortMax: 31003}},
		Reason:   dataplane.ReasonDisabled, Drain: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	g := &gateway{plane, newPhones(plane)}
	one, _ := g.leg(t, false, "", call.MediaOptions{})
	g.leg(t, false, "", call.MediaOptions{})
	if _, err := g.factory.New(t.Context(), call.Party{Network: "test"}, call.MediaOptions{}); !errors.Is(err, dataplane.ErrNoPorts) {
		t.Errorf("%v, want ErrNoPorts", err)
	}
	one.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		m, err := g.factory.New(t.Context(), call.Party{Network: "test"}, call.MediaOptions{})
		if err == nil {
			m.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the port did not come back: %v", err)
		}
	}
}
