package sip

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// testCertificate is for 127.0.0.1 and ::1, and is its own authority.
func testCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// streamPeer makes a peer of a connection.
func streamPeer(w *world, user, transport string, c net.Conn) *peer {
	p := &peer{T: w.T, user: user, password: w.s.cfg.Users.(passwords)[user], transport: transport, local: c.LocalAddr().String(), in: make(chan gosip.Message, 64), seq: 1}
	p.write = func(b []byte) error { _, err := c.Write(b); return err }
	var wg sync.WaitGroup
	wg.Go(func() {
		readAll(c, func(b []byte) {
			if m, _, err := newReader().read(b); err == nil {
				p.in <- m
			}
		})
	})
	w.Cleanup(func() { c.Close(); wg.Wait() })
	return p
}

func TestTLS(t *testing.T) {
	cert, pool := testCertificate(t)
	w := newWorld(t, func(c *Config) {
		c.Networks[0].TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		c.Networks[0].ClientTLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		c.Networks[0].Listeners = append(c.Networks[0].Listeners, Listener{Transport: TLS, Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	})
	addr := w.s.Addr("main", TLS).String()
	mute, err := net.Dial("tcp", addr) // connects and never shakes hands
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	p := streamPeer(w, "phone1", "TLS", c)
	p.register("")
	if b := w.bindings("phone1")[0]; b.Transport != "TLS" || b.WebRTC {
		t.Fatalf("%+v", b)
	}
	l, d, h := w.in(p, "")
	if !strings.HasSuffix(l.target, ";transport=tls") {
		t.Fatalf("Contact %s", l.target)
	}
	go d.Bye(t.Context(), "")
	p.reply(p.request("BYE"), 200, "", "", "")
	h.none(t)

	// Towards a trunk: its certificate has to be right.
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conns := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if c.(*tls.Conn).Handshake() == nil {
				conns <- c
			}
		}
	}()
	o, _ := w.dialTo(p, func(t *call.Target) { t.URI = "sips:4711@" + ln.Addr().String() })
	q := streamPeer(w, "trunk", "TLS", <-conns)
	q.reply(q.request("INVITE"), 486, "x", "", "")
	q.request("ACK")
	if r := w.nextResponse(o); r.Code != 486 {
		t.Fatalf("%+v", r)
	}
	o, _ = w.dialTo(p, func(t *call.Target) {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		t.URI = "sips:4711@127.0.0.2:" + port // a name the certificate does not have
	})
	if r := w.nextResponse(o); r.Code != 503 {
		t.Fatalf("a wrong certificate: %+v", r)
	}
}

func TestIPv6(t *testing.T) {
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Fatalf("this machine has no IPv6 loopback: %v", err)
	} else {
		c.Close()
	}
	loopback := netip.MustParseAddrPort("[::1]:0")
	w := newWorld(t, func(c *Config) {
		c.Networks[0].Listeners = []Listener{{Transport: UDP, Addr: loopback}, {Transport: TCP, Addr: loopback}}
	})
	for _, tr := range []string{"UDP", "TCP"} {
		p := w.newPeer("phone1", tr)
		p.register("")
		l, _, h := w.in(p, "")
		if !strings.HasPrefix(l.target, "sip:phone2@[::1]:") {
			t.Fatalf("%s: Contact %s", tr, l.target)
		}
		l.do("BYE", "", "")
		p.response(200, "BYE")
		h.want(t, "bye")
		_, d, _ := w.out(p, "")
		go d.Bye(t.Context(), "")
		bye := p.request("BYE")
		if bye.Via().Host != "::1" {
			t.Fatalf("%s: Via %s", tr, bye.Via().Value())
		}
		p.reply(bye, 200, "", "", "")
	}
}

func TestAdvertise(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Networks[0].Advertise = []netip.Addr{netip.MustParseAddr("203.0.113.7")} })
	p := w.newPeer("phone1", "UDP")
	p.register("")
	l, d, _ := w.in(p, "")
	if !strings.HasPrefix(l.target, "sip:phone2@203.0.113.7:") {
		t.Fatalf("Contact %s", l.target)
	}
	go d.Bye(t.Context(), "")
	bye := p.request("BYE")
	if bye.Via().Host != "203.0.113.7" {
		t.Fatalf("Via %s", bye.Via().Value())
	}
	p.reply(bye, 200, "", "", "")
}

// What is advertised is of the far side's family.
func TestAdvertiseByFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")
	for _, c := range []struct {
		advertise     []netip.Addr
		local, remote string
		want          string
	}{
		{[]netip.Addr{v4, v6}, "192.0.2.1:5060", "198.51.100.1:5060", "203.0.113.7"},
		{[]netip.Addr{v4, v6}, "[2001:db8::1]:5060", "[2001:db8:1::1]:5060", "2001:db8::7"},
		{[]netip.Addr{v6, v4}, "192.0.2.1:5060", "198.51.100.1:5060", "203.0.113.7"},
		{[]netip.Addr{v4}, "[2001:db8::1]:5060", "[2001:db8:1::1]:5060", "2001:db8::1"},
		{[]netip.Addr{v6}, "192.0.2.1:5060", "198.51.100.1:5060", "192.0.2.1"},
		{[]netip.Addr{v4, v6}, "[::]:5060", "198.51.100.1:5060", "203.0.113.7"},
		{[]netip.Addr{v6}, "[::]:5060", "127.0.0.1:5060", "127.0.0.1"},
	} {
		f := &flow{net: &network{advertise: c.advertise}, local: netip.MustParseAddrPort(c.local), remote: netip.MustParseAddrPort(c.remote)}
		if host, port := f.sentBy(); host != c.want || port != 5060 {
			t.Errorf("%v from %s to %s: %s:%d, want %s:5060", c.advertise, c.local, c.remote, host, port, c.want)
		}
	}
}

// Two networks: each says its own address.
func TestNetworks(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Networks = append(c.Networks, Network{Name: "inside", Listeners: []Listener{{Transport: UDP, Addr: netip.MustParseAddrPort("127.0.0.9:0")}}})
	})
	p := w.newPeer("phone1", "UDP")
	o, _ := w.dialTo(p, func(t *call.Target) { t.Party.Network = "inside" })
	// Another address than the peer's socket is connected to: it sees nothing.
	p.quiet(100*time.Millisecond, "INVITE by the wrong network", func(gosip.Message) bool { return true })
	o.Cancel("")
	if r := w.nextResponse(o); r.Code != 408 && r.Code != 503 {
		t.Fatalf("%+v", r)
	}
}

func TestConfigErrors(t *testing.T) {
	_, err := New(Config{
		Domain:    "bad domain",
		Networks:  []Network{{Name: "a", Listeners: []Listener{{Transport: TLS}, {Transport: WS}}}, {Name: "a"}},
		WebSocket: WebSocket{Network: "b"}, Trunks: []Trunk{{Network: "c"}}, Digest: []Algorithm{"SHA-1"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"domain", "needs a certificate", "ServeWS", "named twice", `"b" does not exist`, `"c" does not exist`, "has no name", "SHA-1", "OnInvite"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not all faults are named: no %q in\n%v", want, err)
		}
	}
	w := newWorld(t)
	c := w.s.cfg
	c.Networks = []Network{{Name: "main", Listeners: []Listener{{Transport: UDP, Addr: w.s.Addr("main", UDP), Setting: "sip.udp"}}}}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err == nil || !strings.Contains(err.Error(), "change sip.udp") {
		t.Fatalf("a taken port: %v", err)
	}
	s.Close()
}

// No log line holds a password, a nonce's answer or a hash.
func TestLogsHoldNoSecrets(t *testing.T) {
	var buf syncBuffer
	w := newWorld(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	p := w.newPeer("phone1", "UDP")
	p.register("")
	l, _, h := w.in(p, "")
	l.do("BYE", "", "")
	p.response(200, "BYE")
	h.want(t, "bye")
	p.password = "wrong"
	p.registerOnce("", p.credentials(p.registerOnce("", ""), "REGISTER", "sip:"+testDomain))
	text := buf.String()
	for _, bad := range []string{"p1secret", "wrong", "response=", "nonce", "Authorization"} {
		if strings.Contains(text, bad) {
			t.Errorf("the log holds %q:\n%s", bad, text)
		}
	}
	for _, stage := range []string{"registered", "msg=invite ", "invite accepted", "bye received"} {
		if !strings.Contains(text, stage) {
			t.Errorf("the log has no line for %q", stage)
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Whoever fails the handshake is forgotten.
func TestTLSGarbage(t *testing.T) {
	cert, _ := testCertificate(t)
	w := newWorld(t, func(c *Config) {
		c.Networks[0].TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		c.Networks[0].Listeners = []Listener{{Transport: TLS, Addr: netip.MustParseAddrPort("127.0.0.1:0")}}
	})
	for range 20 {
		c, err := net.Dial("tcp", w.s.Addr("main", TLS).String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("OPTIONS sip:x SIP/2.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c) // until the server closes it
		c.Close()
	}
	w.unconnected()
}

// unconnected waits until no connection is left.
func (w *world) unconnected() {
	w.Helper()
	limit := time.Now().Add(patience)
	for w.s.Stats().Connections > 0 {
		if time.Now().After(limit) {
			w.Fatalf("%d connections are left", w.s.Stats().Connections)
		}
		time.Sleep(time.Millisecond)
	}
}
