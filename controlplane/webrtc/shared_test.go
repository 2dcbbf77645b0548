package webrtc

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// lossy loses one packet in n of what arrives.
type lossy struct {
	net.PacketConn
	mu   sync.Mutex
	rand *rand.Rand
	n    int
}

func (l *lossy) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := l.PacketConn.ReadFrom(b)
		l.mu.Lock()
		lost := l.n > 0 && l.rand.IntN(l.n) == 0
		l.mu.Unlock()
		if err != nil || !lost {
			return n, from, err
		}
	}
}

// handshakeAll connects n browsers at once to one port and returns the keys of
// each.
func handshakeAll(t *testing.T, m *mux, at netip.AddrPort, n int) [][2]srtp.MasterKey {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out := make([][2]srtp.MasterKey, n)
	var all sync.WaitGroup
	for i := range n {
		a, got := associate(t, m)
		b := newBrowser(t, "127.0.0.1:0")
		if err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{b.id.fingerprint}}); err != nil {
			t.Fatal(err)
		}
		conn := packetConn{b.connect(ctx, a.id.ufrag, a.id.pwd, candidateOf(at))}
		d, err := dtls.ClientWithOptions(conn, conn.RemoteAddr(), dtls.WithCertificates(b.id.certificate),
			dtls.WithInsecureSkipVerify(true), dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM),
			dtls.WithFlightInterval(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer d.Close()
			if err := d.HandshakeContext(ctx); err != nil {
				t.Errorf("browser %d: %v", i, err)
				return
			}
			select {
			case out[i] = <-got.keys:
			case <-ctx.Done():
				t.Errorf("browser %d has no keys", i)
				return
			}
			if _, rx, _, err := exportKeys(d, false); err != nil || string(rx.Key) != string(out[i][1].Key) {
				t.Errorf("browser %d was given another's keys (%v)", i, err)
			}
		})
	}
	all.Wait()
	return out
}

// Sixty browsers on one port at once: each gets its own keys.
func TestManyOnOnePort(t *testing.T) {
	m, at := listen(t, "127.0.0.1:0")
	seen := map[string]bool{}
	for i, k := range handshakeAll(t, m, at, 60) {
		for _, one := range k {
			if seen[string(one.Key)] {
				t.Errorf("browser %d shares a key", i)
			}
			seen[string(one.Key)] = true
		}
	}
}

// Every fourth packet that arrives is lost; checks and flights are repeated.
func TestLossyHandshake(t *testing.T) {
	s, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMux([]net.PacketConn{&lossy{PacketConn: s, rand: rand.New(rand.NewPCG(1, 2)), n: 4}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	handshakeAll(t, m, s.LocalAddr().(*net.UDPAddr).AddrPort(), 8)
}
