package sip

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"

	"github.com/sluicegw/sluice/controlplane/location"
)

func (w *world) bindings(user string) []location.Binding {
	w.Helper()
	bs, err := w.loc.Lookup(context.Background(), location.AOR(user, testDomain))
	if err != nil {
		w.Fatal(err)
	}
	return bs
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	for i, tr := range transports {
		p := w.newPeer("phone1", tr)
		res := p.register(fmt.Sprintf(`;+sip.instance="<urn:uuid:%d>";reg-id=1;expires=600`, i))
		if n := len(values(res, "Contact")); n != i+1 {
			t.Fatalf("%s: %d contacts in the 200, want %d", tr, n, i+1)
		}
		b := w.bindings("phone1")[0]
		if b.Transport != tr || b.WebRTC != (tr == "WS") || b.Instance != fmt.Sprintf("<urn:uuid:%d>", i) || b.RegID != 1 || b.Flow == "" || "<"+b.Contact+">" != p.contact() {
			t.Fatalf("binding %+v", b)
		}
		if left := time.Until(b.Expires); left < 590*time.Second || left > 601*time.Second {
			t.Fatalf("expires in %s", left)
		}
		if value(res, "Require") != "outbound" {
			t.Fatal("RFC 5626 6: Require: outbound is missing")
		}
	}
}

func TestRegisterExpiry(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	auth := func(extra string) (code int) {
		res := p.registerOnce(extra, "")
		return p.registerOnce(extra, p.credentials(res, "REGISTER", "sip:"+testDomain)).StatusCode
	}
	if code := auth(";expires=5"); code != 423 {
		t.Fatalf("5 s: %d", code)
	}
	if code := auth(";expires=99999"); code != 200 {
		t.Fatalf("a day: %d", code)
	}
	if left := time.Until(w.bindings("phone1")[0].Expires); left > time.Hour {
		t.Fatalf("a day became %s", left)
	}
	if code := auth(";expires=0"); code != 200 || len(w.bindings("phone1")) != 0 {
		t.Fatalf("unregister: %d, %d left", code, len(w.bindings("phone1")))
	}
	p.register("")
	if code := auth("Contact: *\nExpires: 10"); code != 400 {
		t.Fatalf("* that does not expire: %d", code)
	}
	if code := auth("Contact: *\nExpires: 0"); code != 200 || len(w.bindings("phone1")) != 0 {
		t.Fatalf("*: %d, %d left", code, len(w.bindings("phone1")))
	}
	for i := range location.MaxPerAOR {
		if code := auth(fmt.Sprintf("Contact: <sip:phone1@192.0.2.%d>", i+1)); code != 200 {
			t.Fatalf("binding %d: %d", i, code)
		}
	}
	if code := auth("Contact: <sip:phone1@192.0.2.200>"); code != 403 {
		t.Fatalf("one binding too many: %d", code)
	}
}

func TestPath(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	res := p.register(";expires=60\nPath: <sip:a.test;lr>, <sip:b.test;lr>")
	if got := strings.Join(values(res, "Path"), " "); got != "<sip:a.test;lr> <sip:b.test;lr>" {
		t.Fatalf("Path in the 200: %s", got)
	}
	if got := strings.Join(w.bindings("phone1")[0].Path, " "); got != "sip:a.test;lr sip:b.test;lr" {
		t.Fatalf("Path of the binding: %s", got)
	}
}

// A user may register and call as himself only, and only with his password.
func TestAuthentication(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Digest = []Algorithm{SHA256, MD5} })
	p := w.newPeer("phone1", "UDP")
	known := p.registerOnce("", "")
	if got := len(values(known, "WWW-Authenticate")); got != 2 || !strings.Contains(value(known, "WWW-Authenticate"), "SHA-256") {
		t.Fatalf("challenges: %q", values(known, "WWW-Authenticate"))
	}
	// The first challenge is SHA-256; icholy/digest answers what it is given.
	if res := p.registerOnce("", p.credentials(known, "REGISTER", "sip:"+testDomain)); res.StatusCode != 200 {
		t.Fatalf("SHA-256: %d", res.StatusCode)
	}
	c, _ := digest.ParseChallenge(values(known, "WWW-Authenticate")[1])
	cr, _ := digest.Digest(c, digest.Options{Method: "REGISTER", URI: "sip:" + testDomain, Username: "phone1", Password: "p1secret", Count: 2})
	good := "Authorization: " + cr.String()
	if res := p.registerOnce("", good); res.StatusCode != 200 {
		t.Fatalf("MD5: %d", res.StatusCode)
	}
	replay := p.registerOnce("", good)
	if replay.StatusCode != 401 || !strings.Contains(value(replay, "WWW-Authenticate"), "stale=true") {
		t.Fatalf("replayed credentials: %d %s", replay.StatusCode, value(replay, "WWW-Authenticate"))
	}

	// A phone that keeps its nonce over a restart of the gateway.
	c.Nonce = "x" + c.Nonce
	cr, _ = digest.Digest(c, digest.Options{Method: "REGISTER", URI: "sip:" + testDomain, Username: "phone1", Password: "p1secret", Count: 3})
	old := p.registerOnce("", "Authorization: "+cr.String())
	if old.StatusCode != 401 || !strings.Contains(value(old, "WWW-Authenticate"), "stale=true") {
		t.Fatalf("nonce of another life: %d %s", old.StatusCode, value(old, "WWW-Authenticate"))
	}

	p.password = "wrong"
	wrong := p.registerOnce("", p.credentials(p.registerOnce("", ""), "REGISTER", "sip:"+testDomain))
	q := w.newPeer("nobody", "UDP")
	q.password = "p1secret"
	unknown := q.registerOnce("", q.credentials(q.registerOnce("", ""), "REGISTER", "sip:"+testDomain))
	if wrong.StatusCode != 401 || unknown.StatusCode != 401 || len(values(wrong, "WWW-Authenticate")) != len(values(unknown, "WWW-Authenticate")) {
		t.Fatalf("wrong password: %d, unknown user: %d", wrong.StatusCode, unknown.StatusCode)
	}

	// phone1's credentials for phone2's address.
	p.password = "p1secret"
	l := p.inviteRaw("web1", "offer", "", "phone2")
	res := p.final("INVITE")
	p.ackFailure(l, res)
	l.seq++
	l.again("web1", "offer", p.credentials(res, "INVITE", "sip:web1@"+testDomain)+"\n")
	if res = p.final("INVITE"); res.StatusCode != 403 {
		t.Fatalf("somebody else's From: %d", res.StatusCode)
	}
	select {
	case <-w.invites:
		t.Fatal("an INVITE that was refused reached the call")
	default:
	}
	if s, _ := w.s.txs.len(); s > 3 {
		t.Fatalf("%d server transactions: refused requests left state", s)
	}
}

// JsSIP answers the first challenge only, and knows only MD5.
func TestBrowsersAreOfferedMD5First(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Digest = []Algorithm{SHA256, MD5} })
	for tr, want := range map[string][]string{"WS": {"MD5", "SHA-256"}, "UDP": {"SHA-256", "MD5"}, "TCP": {"SHA-256", "MD5"}} {
		got := values(w.newPeer("phone1", tr).registerOnce("", ""), "WWW-Authenticate")
		if len(got) != 2 || !strings.HasSuffix(got[0], "algorithm="+want[0]) || !strings.HasSuffix(got[1], "algorithm="+want[1]) {
			t.Errorf("%s: %q, want %v", tr, got, want)
		}
	}
}

// Phones that know only an address of the gateway register there and call from
// there.
func TestHosts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Hosts = []string{"192.0.2.10", "2001:db8::10"} })
	for host, want := range map[string]int{"192.0.2.10": 200, "[2001:DB8:0::10]": 200, testDomain: 200, "127.0.0.1": 200, "192.0.2.11": 403, "evil.test": 403} {
		p := w.newPeer("phone1", "UDP")
		ask := func(method, authorization string) *gosip.Response {
			p.seq++
			p.send(fmt.Sprintf("%s sip:%s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: <sip:phone1@%[2]s>;tag=1\nTo: <sip:phone1@%[2]s>\nCall-ID: hosts-%[4]s\nCSeq: %[5]d %[1]s\nContact: %[6]s\n%[7]s\n",
				method, host, p.via(), p.local, p.seq, p.contact(), authorization))
			return p.final(method)
		}
		for _, method := range []string{"REGISTER", "INVITE"} {
			challenge := ask(method, "")
			wanted := want
			if method == "INVITE" && want == 200 {
				wanted = 486 // it reached the call
				go func() {
					select {
					case i := <-w.invites:
						_ = i.Reject(486, "")
					case <-t.Context().Done():
					}
				}()
			}
			if res := ask(method, p.credentials(challenge, method, "sip:"+host)+"\n"); res.StatusCode != wanted {
				t.Errorf("%s at %s: %d, want %d", method, host, res.StatusCode, wanted)
			}
		}
	}
}

func TestNonce(t *testing.T) {
	w := newWorld(t)
	s := w.s
	now := time.Now()
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	n := s.nonce(here, now)
	when, ok := s.issued(n, here)
	if !ok || now.Sub(when) > time.Second {
		t.Fatal("our own nonce is not ours")
	}
	if _, ok := s.issued(n, there); ok {
		t.Fatal("a nonce passes from another address")
	}
	// The last digit holds four bits; what else it could say must be refused too.
	for n[len(n)-1] != 'A' {
		n = s.nonce(here, now)
	}
	for i := range n {
		b := []byte(n)
		if b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		if _, ok := s.issued(string(b), here); ok && string(b) != n {
			t.Fatalf("a forged nonce passes: byte %d", i)
		}
	}
}

func TestGuard(t *testing.T) {
	g := newGuard()
	now := time.Now()
	for _, c := range []struct {
		nc   uint32
		want bool
	}{{1, true}, {1, false}, {2, true}, {5, true}, {3, true}, {3, false}, {5, false}, {200, true}, {100, false}, {137, true}, {137, false}, {0, false}} {
		if got := g.fresh("n", "u", c.nc, now, now); got != c.want {
			t.Fatalf("nc %d: %v, want %v", c.nc, got, c.want)
		}
	}
	if g.fresh("n", "v", 300, now, now) {
		t.Fatal("another user took the nonce")
	}
	// Full: the oldest go, and are refused from then on although they verify.
	for i := range 3 * maxNonces {
		at := now.Add(time.Duration(i) * time.Millisecond)
		if !g.fresh(fmt.Sprint("x", i), "u", 1, at, now) {
			t.Fatalf("nonce %d refused", i)
		}
	}
	if len(g.nonces) > maxNonces {
		t.Fatalf("%d nonces", len(g.nonces))
	}
	if g.fresh("x0", "u", 1, now, now) {
		t.Fatal("an evicted nonce can be replayed")
	}
	a := netip.MustParseAddr("2001:db8::1")
	for i := range guardTries {
		if g.blocked(a, now) {
			t.Fatalf("blocked after %d", i)
		}
		g.failed(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}), now)
	}
	if !g.blocked(a, now) || g.blocked(a, now.Add(guardBlock)) {
		t.Fatal("a /64 that fails is not slowed down, or for ever")
	}
	for i := range 4 * maxSources {
		g.failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(g.sources) > maxSources {
		t.Fatalf("%d sources", len(g.sources))
	}
}

// Nobody gets a call, or state, without credentials or a trunk's address.
func TestDefaultDeny(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	for method, code := range map[string]int{
		"INVITE": 407, "REGISTER": 401, "OPTIONS": 200, "BYE": 481, "UPDATE": 481, "INFO": 481, "PRACK": 481,
		"CANCEL": 481, "MESSAGE": 405, "REFER": 405, "SUBSCRIBE": 489, "NOTIFY": 489, "PUBLISH": 489, "FROBNICATE": 501,
	} {
		contact := ""
		if method == "REGISTER" {
			contact = "Contact: " + p.contact() + "\n"
		}
		p.send(fmt.Sprintf("%s sip:phone2@%s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: <sip:phone1@%s>;tag=1\nTo: <sip:phone2@%s>\nCall-ID: m%s\nCSeq: 1 %s\n%s\n",
			method, testDomain, p.via(), testDomain, testDomain, method, method, contact))
		if got := p.final(method); got.StatusCode != code {
			t.Errorf("%s: %d, want %d", method, got.StatusCode, code)
		} else if code >= 405 && code != 407 && code != 481 && value(got, "Allow") == "" {
			t.Errorf("%s: %d without Allow", method, code)
		}
	}
	if s, _ := w.s.txs.len(); s != 0 {
		t.Fatalf("%d server transactions", s)
	}
}

func TestTrunkByAddress(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Trunks = []Trunk{{Name: "pbx", Network: "main", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	})
	p := w.newPeer("4711", "UDP")
	l := p.inviteRaw("phone2", "offer", "Record-Route: <sip:edge.test;lr>;x=\"a,b\"\n", "")
	i := w.invite()
	if i.Party().Trunk != "pbx" || i.Party().User != "" {
		t.Fatalf("party %+v", i.Party())
	}
	c := accept(i, "answer", newHandler())
	ok := p.response(200, "INVITE")
	if got := value(ok, "Record-Route"); got != `<sip:edge.test;lr>;x="a,b"` {
		t.Fatalf("Record-Route is not mirrored: %s", got)
	}
	l.answered(ok, "")
	if a := w.wait(c); a.err != nil || len(a.d.Snapshot().RouteSet) != 1 {
		t.Fatalf("%+v", a)
	}
}

// A browser behind a trunk's address is no trunk, nor speaks for its calls.
func TestTrunkNotByWebSocket(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Trunks = []Trunk{{Name: "pbx", Network: "main", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	})
	web := w.newPeer("web1", "WS")
	l := web.inviteRaw("phone2", "offer", "", "")
	res := web.final("INVITE")
	if res.StatusCode != 407 {
		t.Fatalf("INVITE by WebSocket from a trunk's address: %d", res.StatusCode)
	}
	web.ackFailure(l, res)

	p := w.newPeer("4711", "UDP")
	l = p.inviteRaw("phone2", "offer", "", "")
	h := newHandler()
	c := accept(w.invite(), "answer", h)
	l.answered(p.response(200, "INVITE"), "")
	if a := w.wait(c); a.err != nil {
		t.Fatal(a.err)
	}
	l.p = web
	l.do("BYE", "", "")
	if res := web.final("BYE"); res.StatusCode != 403 {
		t.Fatalf("BYE of the trunk's call by WebSocket: %d", res.StatusCode)
	}
	h.none(t)
}

// Only who received our nonce can be slowed down: a forged source has none. An
// answer to another nonce is the same whatever the password.
func TestForgedFailures(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	answer := func(nonce, password string, count int) string {
		c := &digest.Challenge{Realm: testDomain, Nonce: nonce, Algorithm: "MD5", QOP: []string{"auth"}}
		cr, err := digest.Digest(c, digest.Options{Method: "REGISTER", URI: "sip:" + testDomain, Username: "phone1", Password: password, Count: count})
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: " + cr.String()
	}
	here, now := netip.MustParseAddr("127.0.0.1"), time.Now()
	for name, nonce := range map[string]string{
		"made up":         "made up",
		"another's":       w.s.nonce(netip.MustParseAddr("192.0.2.1"), now),
		"too old":         w.s.nonce(here, now.Add(-nonceLife-time.Second)),
		"of time to come": w.s.nonce(here, now.Add(time.Hour)),
	} {
		for i, password := range append([]string{"p1secret"}, make([]string, guardTries)...) {
			res := p.registerOnce("", answer(nonce, password, i+1))
			if res.StatusCode != 401 || !strings.Contains(value(res, "WWW-Authenticate"), "stale=true") {
				t.Fatalf("%s, answer %d: %d %s", name, i, res.StatusCode, value(res, "WWW-Authenticate"))
			}
		}
	}
	g := w.s.guard
	g.mu.Lock()
	kept := len(g.sources) + len(g.nonces)
	g.mu.Unlock()
	if kept != 0 || w.s.Stats().Unauthenticated != 0 {
		t.Fatal("answers to nonces that are not the source's own leave a trace")
	}
	p.register("")
	mine := w.s.nonce(here, now)
	for i := range guardTries {
		if res := p.registerOnce("", answer(mine, "wrong", i+1)); res.StatusCode != 401 || strings.Contains(value(res, "WWW-Authenticate"), "stale") {
			t.Fatalf("wrong answer %d: %d", i, res.StatusCode)
		}
	}
	if res := p.registerOnce("", answer(mine, "p1secret", guardTries+1)); res.StatusCode != 503 {
		t.Fatalf("after %d wrong answers: %d", guardTries, res.StatusCode)
	}
}
