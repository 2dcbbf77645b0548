package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/routing"
	"github.com/sluicegw/sluice/controlplane/sip"
	"github.com/sluicegw/sluice/dataplane"
)

func TestSelfSignedCertificate(t *testing.T) {
	dir := t.TempDir()
	files := config.TLSFiles{Certificate: filepath.Join(dir, "sub", "cert.pem"), Key: filepath.Join(dir, "sub", "key.pem"), SelfSigned: true}
	first, err := serverTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(files.Key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	again, err := serverTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	if string(first.Certificates[0].Certificate[0]) != string(again.Certificates[0].Certificate[0]) {
		t.Error("a second start made a second certificate")
	}
	if first.MinVersion < tls.VersionTLS12 {
		t.Error("TLS before 1.2 is taken")
	}
	leaf, err := x509.ParseCertificate(first.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.VerifyHostname("localhost"); err != nil {
		t.Error(err)
	}
	if err := leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

func TestMissingCertificateSaysWhatToDo(t *testing.T) {
	_, err := serverTLS(config.TLSFiles{Certificate: "/none/cert.pem", Key: "/none/key.pem"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tls.self_signed") {
		t.Errorf("got %v", err)
	}
	if conf, err := serverTLS(config.TLSFiles{}); conf != nil || err != nil {
		t.Errorf("no certificate configured: %v, %v", conf, err)
	}
}

func TestBoundedListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := newBounded(ln, 10, 2)
	defer b.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	dial()
	one, two := <-accepted, <-accepted
	third := dial()
	_ = third.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := third.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a third connection of one address was kept: %v", err)
	}
	// Closing twice gives back one place only.
	_ = one.Close()
	_ = one.Close()
	dial()
	three := <-accepted
	if b.take(three.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
		t.Error("a place too many")
	}
	_, _ = two.Close(), three.Close()
	if b.total != 0 || len(b.by) != 0 {
		t.Errorf("%d connections of %v are left", b.total, b.by)
	}
}

func TestRoutesSayWhatTheConfigurationSays(t *testing.T) {
	cfg, err := config.Parse("test", []byte(`
domain: gw.test
sip: {udp: 192.0.2.1:5060, tls: off}
media: {advertised: 203.0.113.1}
users: [{name: alice, password: x, display: Alice, sdes: true}]
trunks:
  - {name: a, addresses: [198.51.100.7], proxy: "[2001:db8::7]:5070", transport: tcp, username: u, password: p, sdes: true, domain: d.example, caller_id: "+1"}
  - {name: b, addresses: [198.51.100.8]}
routes:
  - {prefix: "00", strip: 2, add: "+", trunk: a}
  - {from: b, prefix: "1", user: alice}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := routing.Config{
		Domain: "gw.test", Hosts: []string{"192.0.2.1", "203.0.113.1", "192.0.2.1", "192.0.2.1"},
		Users: []routing.User{{Name: "alice", Display: "Alice", SDES: true}},
		Trunks: []routing.Trunk{
			{Name: "a", Network: "default", Host: "2001:db8::7", Port: 5070, Transport: "tcp", Domain: "d.example", CallerID: "+1", Username: "u", Password: "p", SDES: true},
			{Name: "b", Network: "default", Host: "198.51.100.8", Transport: "udp"},
		},
		Routes: []routing.Route{{Prefix: "00", Strip: 2, Add: "+", Trunk: "a"}, {From: "b", Prefix: "1", User: "alice"}},
	}
	if d := cmp.Diff(want, routes(cfg)); d != "" {
		t.Error(d)
	}
}

func TestSIPSaysWhatTheConfigurationSays(t *testing.T) {
	cfg, err := config.Parse("test", []byte(`
domain: gw.test
sip: {udp: ":5060", tcp: off, digest: [sha-256, md5]}
media: {address: [192.0.2.10, "2001:db8::10"], advertised: ["2001:db8::99", 203.0.113.1]}
users: [{name: alice, ha1_sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb}]
limits: {connections: 9000, connections_per_address: 300}
`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := sipConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if want := []sip.Algorithm{sip.SHA256, sip.MD5}; !slices.Equal(c.Digest, want) {
		t.Errorf("challenges are %v, want %v", c.Digest, want)
	}
	if want := []string{"192.0.2.10", "2001:db8::10", "2001:db8::99", "203.0.113.1"}; !slices.Equal(c.Hosts, want) || !slices.Equal(routes(cfg).Hosts, want) {
		t.Errorf("hosts are %v and %v, want %v", c.Hosts, routes(cfg).Hosts, want)
	}
	if got := fmt.Sprint(c.Networks[0].Advertise); got != "[2001:db8::99 203.0.113.1]" {
		t.Errorf("advertised are %s", got)
	}
	if c.Connections.Total != 9000 || c.Connections.PerAddress != 300 {
		t.Errorf("connections are bound by %+v", c.Connections)
	}
}

func TestDirection(t *testing.T) {
	leg := func(p call.Party, state string) call.LegInfo { return call.LegInfo{Party: p, State: state} }
	browser, phone, trunk := call.Party{User: "a", WebRTC: true}, call.Party{User: "b"}, call.Party{Trunk: "c"}
	for want, legs := range map[string][]call.LegInfo{
		"none":          nil,
		"browser-none":  {leg(browser, "inviting")},
		"trunk-phone":   {leg(trunk, ""), leg(phone, "ringing")},
		"phone-browser": {leg(phone, "connected"), leg(phone, "over"), leg(browser, "connected")},
		"browser-trunk": {leg(browser, "connected"), leg(trunk, "connected")},
		"browser-phone": {leg(browser, "over"), leg(phone, "over"), leg(trunk, "over")},
	} {
		if got := direction(call.Info{Legs: legs}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEngineFallsBackWithItsReason(t *testing.T) {
	e, err := chooseEngine(&config.Config{Dataplane: config.Dataplane{Mode: config.ModeUser}}, nil, nil)
	if err != nil || e.forwarder != nil || e.reason != dataplane.ReasonDisabled {
		t.Errorf("mode user: %+v, %v", e, err)
	}
}
