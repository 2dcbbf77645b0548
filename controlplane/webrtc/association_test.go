package webrtc

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	"go.uber.org/goleak"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// browser is the far end made of pion's parts: a full, controlling ICE agent
// and DTLS over whatever pair it selects.
type browser struct {
	t     *testing.T
	id    *identity
	agent *ice.Agent
}

func newBrowser(t *testing.T, addr string) *browser {
	t.Helper()
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, id: id}
	b.agent, err = ice.NewAgentWithOptions(
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}),
		ice.WithCheckInterval(10*time.Millisecond),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithLocalCredentials(id.ufrag, id.pwd),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.agent.GracefulClose() })
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	at := socket.LocalAddr().(*net.UDPAddr)
	c, err := ice.NewCandidateHost(&ice.CandidateHostConfig{Network: "udp", Address: at.IP.String(), Port: at.Port, Component: ice.ComponentRTP})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.agent.AddVirtualCandidate(c, socket); err != nil {
		t.Fatal(err)
	}
	return b
}

// connect does the checks; the returned conn carries DTLS.
func (b *browser) connect(ctx context.Context, ufrag, pwd string, candidate string) net.Conn {
	b.t.Helper()
	c, err := ice.UnmarshalCandidate(candidate)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.agent.AddRemoteCandidate(c); err != nil {
		b.t.Fatal(err)
	}
	if err := b.agent.SetRemoteICELite(true); err != nil {
		b.t.Fatal(err)
	}
	conn, err := b.agent.Dial(ctx, ufrag, pwd)
	if err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// packetConn makes a net.Conn one that pion/dtls takes.
type packetConn struct{ net.Conn }

func (p packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.Read(b)
	return n, p.RemoteAddr(), err
}
func (p packetConn) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

type reported struct {
	pairs  chan [2]netip.AddrPort
	keys   chan [2]srtp.MasterKey
	up     chan struct{}
	failed chan error
	alive  chan bool
}

func (r *reported) hooks() hooks {
	return hooks{
		pair:    func(l, f netip.AddrPort) { r.pairs <- [2]netip.AddrPort{l, f} },
		keys:    func(rx, tx srtp.MasterKey) error { r.keys <- [2]srtp.MasterKey{rx, tx}; return nil },
		up:      func() { close(r.up) },
		failed:  func(err error) { r.failed <- err },
		consent: func(alive bool) { r.alive <- alive },
	}
}

func newReported() *reported {
	return &reported{
		pairs: make(chan [2]netip.AddrPort, 16), keys: make(chan [2]srtp.MasterKey, 1),
		up: make(chan struct{}), failed: make(chan error, 1), alive: make(chan bool, 16),
	}
}

func listen(t *testing.T, addr string) (*mux, netip.AddrPort) {
	t.Helper()
	s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMux([]net.PacketConn{s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m, s.LocalAddr().(*net.UDPAddr).AddrPort()
}

func associate(t *testing.T, m *mux) (*association, *reported) {
	t.Helper()
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	r := newReported()
	a, err := newAssociation(m, id, r.hooks(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a, r
}

func candidateOf(a netip.AddrPort) string {
	p := &port{advertised: []netip.AddrPort{a}}
	return p.candidates()[0]
}

func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s within 30 s", what)
	}
	panic("unreachable")
}

func TestAssociation(t *testing.T) {
	for _, tc := range []struct {
		name     string
		addr     string
		client   bool // the gateway is the DTLS client
		profiles []dtls.SRTPProtectionProfile
		want     srtp.Profile
	}{
		{"server GCM", "127.0.0.1:0", false,
			// Chromium 156's order.
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AES128_CM_HMAC_SHA1_80, dtls.SRTP_AEAD_AES_256_GCM, dtls.SRTP_AEAD_AES_128_GCM},
			srtp.ProfileAEADAES128GCM},
		{"server SHA1_80", "127.0.0.1:0", false,
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AES128_CM_HMAC_SHA1_80}, srtp.ProfileAES128CMHMACSHA1_80},
		{"server GCM 256", "127.0.0.1:0", false,
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AEAD_AES_256_GCM}, srtp.ProfileAEADAES256GCM},
		{"client SHA1_80", "127.0.0.1:0", true,
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AES128_CM_HMAC_SHA1_80, dtls.SRTP_AEAD_AES_128_GCM},
			srtp.ProfileAES128CMHMACSHA1_80},
		{"client GCM", "127.0.0.1:0", true,
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AEAD_AES_128_GCM}, srtp.ProfileAEADAES128GCM},
		{"server IPv6", "[::1]:0", false,
			[]dtls.SRTPProtectionProfile{dtls.SRTP_AEAD_AES_128_GCM}, srtp.ProfileAEADAES128GCM},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			m, at := listen(t, tc.addr)
			a, got := associate(t, m)
			b := newBrowser(t, tc.addr)
			err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{b.id.fingerprint}, server: tc.client})
			if err != nil {
				t.Fatal(err)
			}
			conn := packetConn{b.connect(ctx, a.id.ufrag, a.id.pwd, candidateOf(at))}
			opts := []dtls.Option{
				dtls.WithCertificates(b.id.certificate), dtls.WithInsecureSkipVerify(true),
				dtls.WithSRTPProtectionProfiles(tc.profiles...),
				dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
				dtls.WithVerifyPeerCertificate(func(raw [][]byte, _ [][]*x509.Certificate) error {
					return verifyCertificate(raw[0], []sdp.Fingerprint{a.id.fingerprint})
				}),
				dtls.WithMTU(600), // the hello comes in fragments
			}
			var d *dtls.Conn
			if tc.client {
				var so []dtls.ServerOption
				for _, o := range opts {
					so = append(so, o)
				}
				d, err = dtls.ServerWithOptions(conn, conn.RemoteAddr(), append(so, dtls.WithClientAuth(dtls.RequireAnyClientCert))...)
			} else {
				var co []dtls.ClientOption
				for _, o := range opts {
					co = append(co, o)
				}
				d, err = dtls.ClientWithOptions(conn, conn.RemoteAddr(), co...)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := d.HandshakeContext(ctx); err != nil {
				t.Fatal(err)
			}
			keys := wait(t, got.keys, "keys")
			wait(t, got.up, "established")
			pair := wait(t, got.pairs, "pair")
			if pair[0] != at {
				t.Errorf("pair's local %v, want %v", pair[0], at)
			}
			if keys[0].Profile != tc.want || keys[1].Profile != tc.want {
				t.Errorf("profile %v, want %v", profileName(keys[0].Profile), profileName(tc.want))
			}
			// What the browser derives for its direction is what we receive by.
			_, rx, tx, err := exportKeys(d, tc.client)
			if err != nil {
				t.Fatal(err)
			}
			if string(rx.Key) != string(keys[1].Key) || string(tx.Key) != string(keys[0].Key) ||
				string(rx.Salt) != string(keys[1].Salt) || string(tx.Salt) != string(keys[0].Salt) {
				t.Error("the two ends derive different keys")
			}
			if c := a.consent(); time.Since(c) > time.Minute {
				t.Errorf("consent at %v", c)
			}
			// Our end says close_notify and leaves nothing behind.
			a.close()
			if _, err := d.Read(make([]byte, 100)); err == nil {
				t.Error("the connection did not end with close_notify")
			}
			_ = d.Close()
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(m.endpoints) != 0 || len(m.peers) != 0 {
				t.Errorf("left behind: %d endpoints, %d peers", len(m.endpoints), len(m.peers))
			}
		})
	}
}

// A certificate that is not the signalled one ends the association before any
// key is derived.
func TestWrongFingerprint(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, at := listen(t, "127.0.0.1:0")
	a, got := associate(t, m)
	b := newBrowser(t, "127.0.0.1:0")
	other, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{other.fingerprint}}); err != nil {
		t.Fatal(err)
	}
	conn := packetConn{b.connect(ctx, a.id.ufrag, a.id.pwd, candidateOf(at))}
	d, err := dtls.ClientWithOptions(conn, conn.RemoteAddr(), dtls.WithCertificates(b.id.certificate),
		dtls.WithInsecureSkipVerify(true), dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.HandshakeContext(ctx); err == nil {
		t.Error("the handshake went through")
	}
	_ = d.Close()
	err = wait(t, got.failed, "failure")
	if !errors.Is(err, errFingerprint) || !strings.Contains(err.Error(), "as server") {
		t.Errorf("failure: %v", err)
	}
	if len(got.keys) != 0 {
		t.Error("keys were derived")
	}
	if a.failed() == nil {
		t.Error("the failure is not kept")
	}
}

// DTLS from an address that has passed no check never reaches the leg.
func TestDTLSOnlyFromValidated(t *testing.T) {
	m, at := listen(t, "127.0.0.1:0")
	a, _ := associate(t, m)
	stranger, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	from := stranger.LocalAddr().(*net.UDPAddr).AddrPort()
	hello := []byte{22, 254, 253, 0, 0}
	m.deliver(0, from, hello)
	if len(a.end.dtls.in) != 0 {
		t.Fatal("DTLS of a stranger was delivered")
	}
	a.end.validate(peer{0, from})
	m.deliver(0, from, hello)
	if len(a.end.dtls.in) != 1 {
		t.Fatal("DTLS of a validated peer was not delivered")
	}
	// Another leg that validates the same source takes it over.
	b, _ := associate(t, m)
	b.end.validate(peer{0, from})
	m.deliver(0, from, hello)
	if len(a.end.dtls.in) != 1 || len(b.end.dtls.in) != 1 {
		t.Fatal("the source still belongs to the older leg")
	}
	// Bounds: a leg keeps maxPeers sources and no more.
	for i := range 2 * maxPeers {
		b.end.validate(peer{0, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))})
	}
	if n := len(b.end.peers); n != maxPeers {
		t.Errorf("%d peers are kept, want %d", n, maxPeers)
	}
}

// connected makes an association whose handshake is through.
func connected(t *testing.T, w timeouts) (*association, *reported, *browser, *dtls.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, at := listen(t, "127.0.0.1:0")
	a, got := associate(t, m)
	a.wait = w
	b := newBrowser(t, "127.0.0.1:0")
	if err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{b.id.fingerprint}}); err != nil {
		t.Fatal(err)
	}
	conn := packetConn{b.connect(ctx, a.id.ufrag, a.id.pwd, candidateOf(at))}
	d, err := dtls.ClientWithOptions(conn, conn.RemoteAddr(), dtls.WithCertificates(b.id.certificate),
		dtls.WithInsecureSkipVerify(true), dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	wait(t, got.up, "established")
	return a, got, b, d
}

// A browser whose checks stop loses consent; nothing fails by itself, that is
// the call's to decide.
func TestConsentRunsOut(t *testing.T) {
	w := defaultTimeouts()
	w.consent = 500 * time.Millisecond
	a, got, b, _ := connected(t, w)
	if a.consent().IsZero() {
		t.Fatal("no consent after the checks")
	}
	_ = b.agent.GracefulClose()
	if wait(t, got.alive, "loss of consent") {
		t.Fatal("consent is reported back before it was lost")
	}
	if err := a.failed(); err != nil {
		t.Errorf("failed: %v", err)
	}
	// A check brings it back.
	a.end.validate(peer{0, netip.MustParseAddrPort("127.0.0.1:9")})
	if !wait(t, got.alive, "return of consent") {
		t.Fatal("lost twice")
	}
}

// close_notify of the browser fails the leg, after the grace in which its BYE
// usually comes.
func TestBrowserSaysGoodbye(t *testing.T) {
	w := defaultTimeouts()
	w.grace = 50 * time.Millisecond
	_, got, _, d := connected(t, w)
	began := time.Now()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, got.failed, "failure"); !strings.Contains(err.Error(), "closed its DTLS") {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took < w.grace {
		t.Errorf("failed after %v, before the grace is over", took)
	}
}

// Nobody comes: the leg fails with what to look at.
func TestNobodyConnects(t *testing.T) {
	m, _ := listen(t, "127.0.0.1:0")
	a, got := associate(t, m)
	a.wait.connect = 20 * time.Millisecond
	if err := a.start(remote{ufrag: "abcd", pwd: strings.Repeat("x", 22)}); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, got.failed, "failure"); !strings.Contains(err.Error(), "no ICE check") {
		t.Errorf("%v", err)
	}
}

// ICE works, DTLS never comes: bounded, and the error says who waited.
func TestNoHandshake(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, at := listen(t, "127.0.0.1:0")
	a, got := associate(t, m)
	a.wait.handshake = 50 * time.Millisecond
	b := newBrowser(t, "127.0.0.1:0")
	if err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{b.id.fingerprint}}); err != nil {
		t.Fatal(err)
	}
	b.connect(ctx, a.id.ufrag, a.id.pwd, candidateOf(at))
	err := wait(t, got.failed, "failure")
	for _, want := range []string{"as server", "did not complete", b.id.fingerprint.String()[:20]} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: lacks %q", err, want)
		}
	}
}

// A browser whose NAT or network gives it a new address nominates anew: DTLS and
// the data plane follow, and a check that is not authenticated moves nothing.
func TestPairMoves(t *testing.T) {
	a, got, b, _ := connected(t, defaultTimeouts())
	first := wait(t, got.pairs, "pair")
	moved, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(first[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer moved.Close()
	check := func(pwd string) {
		t.Helper()
		msg, err := stun.Build(stun.BindingRequest, stun.TransactionID,
			stun.NewUsername(a.id.ufrag+":"+b.id.ufrag), ice.UseCandidate(), ice.AttrControlling(1), ice.PriorityAttr(1),
			stun.NewShortTermIntegrity(pwd), stun.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := moved.Write(msg.Raw); err != nil {
			t.Fatal(err)
		}
	}
	check(strings.Repeat("w", 26))
	check(a.id.pwd)
	second := wait(t, got.pairs, "second pair")
	if want := moved.LocalAddr().(*net.UDPAddr).AddrPort(); second[1] != want || second[0] != first[0] {
		t.Errorf("moved to %v, want %v", second, want)
	}
	_ = moved.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 1500)
	n, err := moved.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	var res stun.Message
	if err := stun.Decode(buf[:n], &res); err != nil || res.Type != stun.BindingSuccess {
		t.Fatalf("%v, %v", res.Type, err)
	}
	// What DTLS says now goes there: the goodbye.
	a.close()
	if n, err = moved.Read(buf); err != nil || buf[0] != 21 {
		t.Errorf("no alert at the new address: %v, %x", err, buf[:min(n, 1)])
	}
}

// Checks with the wrong password validate nothing and connect nothing.
func TestWrongPassword(t *testing.T) {
	m, at := listen(t, "127.0.0.1:0")
	a, got := associate(t, m)
	b := newBrowser(t, "127.0.0.1:0")
	if err := a.start(remote{ufrag: b.id.ufrag, pwd: b.id.pwd, fingerprints: []sdp.Fingerprint{b.id.fingerprint}}); err != nil {
		t.Fatal(err)
	}
	c, err := ice.UnmarshalCandidate(candidateOf(at))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.agent.AddRemoteCandidate(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.agent.Dial(ctx, a.id.ufrag, strings.Repeat("w", 26)); err == nil {
		t.Error("connected")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.peers) != 0 || len(got.pairs) != 0 || !a.consent().IsZero() {
		t.Errorf("%d peers, %d pairs, consent %v", len(m.peers), len(got.pairs), a.consent())
	}
}

func FuzzRequestUfrag(f *testing.F) {
	msg := append([]byte{0, 1, 0, 16, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
	msg = append(msg, 0, 6, 0, 9)
	f.Add(append(msg, "abcd:efgh\x00\x00\x00"...))
	f.Add([]byte{0, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if ufrag, ok := requestUfrag(b); ok && len(ufrag) > len(b) {
			t.Fatal("longer than the packet")
		}
	})
}

func TestRequestUfrag(t *testing.T) {
	msg := append([]byte{0, 1, 0, 16, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
	msg = append(msg, 0, 6, 0, 9)
	msg = append(msg, "abcd:efgh\x00\x00\x00"...)
	if ufrag, ok := requestUfrag(msg); !ok || ufrag != "abcd" {
		t.Errorf("%q %v", ufrag, ok)
	}
	for name, spoil := range map[string]func([]byte){
		"a response":    func(b []byte) { b[0] = 1 },
		"another magic": func(b []byte) { b[4] = 0 },
		"length":        func(b []byte) { b[3]++ },
		"no USERNAME":   func(b []byte) { b[21] = 7 },
		"no colon":      func(b []byte) { b[28] = 'x' },
	} {
		b := append([]byte(nil), msg...)
		spoil(b)
		if ufrag, ok := requestUfrag(b); ok {
			t.Errorf("%s: %q is taken", name, ufrag)
		}
	}
}

func TestVerifyCertificate(t *testing.T) {
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	der := id.certificate.Certificate[0]
	parse := func(line string) sdp.Fingerprint {
		d, err := sdp.Parse([]byte("v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\nm=audio 9 RTP/AVP 0\na=fingerprint:" + line + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return d.Media[0].Fingerprints[0]
	}
	good := parse(id.fingerprint.String())
	bad := good
	bad.Value = append([]byte(nil), good.Value...)
	bad.Value[31] ^= 1
	sha1 := sdp.Fingerprint{Algorithm: "sha-1", Value: make([]byte, 20)}
	stronger := sdp.Fingerprint{Algorithm: "sha-512", Value: make([]byte, 64)}
	for _, tc := range []struct {
		name string
		list []sdp.Fingerprint
		want error
	}{
		{"right", []sdp.Fingerprint{good}, nil},
		{"one of two", []sdp.Fingerprint{bad, good}, nil},
		{"wrong", []sdp.Fingerprint{bad}, errFingerprint},
		{"none", nil, errNoFingerprint},
		{"only sha-1", []sdp.Fingerprint{sha1}, errNoFingerprint},
		{"sha-1 is passed over", []sdp.Fingerprint{sha1, good}, nil},
		{"the strongest counts", []sdp.Fingerprint{good, stronger}, errFingerprint},
	} {
		if err := verifyCertificate(der, tc.list); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}
