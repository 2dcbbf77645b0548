package call_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	pion "github.com/pion/webrtc/v4"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
	"github.com/sluicegw/sluice/controlplane/media"
	"github.com/sluicegw/sluice/controlplane/routing"
	"github.com/sluicegw/sluice/controlplane/rtpleg"
	"github.com/sluicegw/sluice/controlplane/sip"
	"github.com/sluicegw/sluice/controlplane/webrtc"
	"github.com/sluicegw/sluice/dataplane"
)

// These tests run whole gateways on the loopback: signalling, media and calls as
// they are shipped, against user agents that share no code with them.

type users map[string]string

func (u users) Password(name string) (string, bool) { p, ok := u[name]; return p, ok }

var passwords = users{"web1": "w1secret", "web2": "w2secret", "1001": "p1secret", "1002": "p2secret", "1003": "p3secret"}

// gateway is one gateway in this process.
type gateway struct {
	t      testing.TB
	calls  *call.Manager
	sip    *sip.Server
	plane  *dataplane.Plane
	udp    string // host:port
	udp6   string
	ws     string // URL
	trunk  *ua
	closer sync.Once
	close  func()

	mu     sync.Mutex
	events []call.Event
	log    strings.Builder
}

func (g *gateway) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(b)
}

// start brings a gateway up. The trunk "carrier" is a user agent at an address
// of its own; what starts with 9 goes there.
func start(t testing.TB, change ...func(*call.Config)) *gateway {
	t.Helper()
	g := &gateway{t: t}
	log := slog.New(slog.NewTextHandler(g, &slog.HandlerOptions{Level: slog.LevelDebug}))
	lo := netip.MustParseAddr("127.0.0.1")
	// The IPv6 side is a network of its own: phones there, browsers here.
	nets := []dataplane.Network{{Name: "six", Addresses: []netip.Addr{netip.IPv6Loopback()}, PortMin: 35000, PortMax: 35999}, {Name: "main", Addresses: []netip.Addr{lo}, PortMin: 30000, PortMax: 34999}}
	plane, err := dataplane.New(dataplane.Config{Networks: nets, Drain: 10 * time.Millisecond, Logger: log, Reason: dataplane.ReasonDisabled})
	if err != nil {
		t.Fatal(err)
	}
	browsers, err := webrtc.NewFactory(webrtc.Config{Plane: plane, Networks: nets, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	where := location.NewMemory()
	s, err := sip.New(sip.Config{
		Domain: "gw.test", Users: passwords, Location: where, Logger: log,
		Networks: []sip.Network{
			{Name: "main", Listeners: []sip.Listener{{Transport: sip.UDP, Addr: netip.AddrPortFrom(lo, 0)}}},
			{Name: "six", Listeners: []sip.Listener{{Transport: sip.UDP, Addr: netip.AddrPortFrom(netip.IPv6Loopback(), 0)}}},
		},
		WebSocket: sip.WebSocket{Network: "main"},
		Trunks:    []sip.Trunk{{Name: "carrier", Network: "main", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}}},
		OnInvite:  func(i call.Invite) { g.calls.OnInvite(i) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	g.udp, g.udp6 = s.Addr("main", sip.UDP).String(), s.Addr("six", sip.UDP).String()
	g.trunk = udpUAAt(t, "127.0.0.9:0", "carrier", "", g.udp)
	at := netip.MustParseAddrPort(g.trunk.local)
	route, err := routing.New(routing.Config{
		Domain: "gw.test", Hosts: []string{"127.0.0.1"},
		Users:  []routing.User{{Name: "web1"}, {Name: "web2"}, {Name: "1001"}, {Name: "1002"}, {Name: "1003", SDES: true}},
		Trunks: []routing.Trunk{{Name: "carrier", Network: "main", Host: at.Addr().String(), Port: at.Port()}},
		Routes: []routing.Route{{Prefix: "9", Trunk: "carrier", Strip: 1}},
	}, where)
	if err != nil {
		t.Fatal(err)
	}
	cfg := call.Config{
		Caller: s, Engine: call.OnPlane(plane), Router: route, Log: log,
		Media: media.Factory{Browser: browsers, Phone: rtpleg.NewFactory(rtpleg.Config{Plane: plane, Logger: log})},
		Observer: func(e call.Event) {
			g.mu.Lock()
			g.events = append(g.events, e)
			g.mu.Unlock()
		},
	}
	for _, c := range change {
		c(&cfg)
	}
	if g.calls, err = call.NewManager(cfg); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve() }()
	web := httptest.NewServer(http.HandlerFunc(s.ServeWS))
	g.ws = strings.Replace(web.URL, "http:", "ws:", 1) + "/ws"
	g.sip, g.plane = s, plane
	g.close = func() {
		g.closer.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := g.calls.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			_ = s.Close()
			<-served
			web.CloseClientConnections()
			web.Close()
			browsers.Close()
			_ = plane.Close()
			where.Close()
		})
	}
	t.Cleanup(func() {
		g.close()
		if t.Failed() {
			g.mu.Lock()
			defer g.mu.Unlock()
			t.Log(g.log.String())
		}
	})
	return g
}

// waitIdle waits until no call is left.
func (g *gateway) waitIdle() {
	g.t.Helper()
	for end := time.Now().Add(patience); g.calls.Count() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("%d calls are left: %+v", g.calls.Count(), g.calls.Calls())
		}
	}
}

// waitStage waits until n events of a stage have been seen.
func (g *gateway) waitStage(s call.Stage, n int) call.Event {
	g.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		seen := 0
		for _, e := range g.events {
			if e.Stage == s {
				if seen++; seen == n {
					g.mu.Unlock()
					return e
				}
			}
		}
		g.mu.Unlock()
		if time.Now().After(end) {
			g.t.Fatalf("stage %q was not reached %d times", s, n)
		}
	}
}

func (g *gateway) phoneUA(user string) *ua {
	g.t.Helper()
	u := udpUA(g.t, user, passwords[user], g.udp)
	u.register()
	return u
}

func (g *gateway) webUA(user string) *ua {
	g.t.Helper()
	u := wsUA(g.t, user, passwords[user], g.ws)
	u.register()
	return u
}

// end is one far end with signalling and media.
type end struct {
	*ua
	phone   *phone
	browser *browser
	word    string
	c       *uaCall
}

// kinds of far ends by name.
func (g *gateway) end(kind, user, word string) *end {
	g.t.Helper()
	e := &end{word: word}
	switch kind {
	case "browser":
		e.ua, e.browser = g.webUA(user), newBrowser(g.t, word)
	case "phone":
		e.ua, e.phone = g.phoneUA(user), newPhone(g.t, word, 0)
	case "phone6":
		e.ua, e.phone = udpUAAt(g.t, "[::1]:0", user, passwords[user], g.udp6), newPhoneAt(g.t, "::1", word, 0)
		e.ua.register()
	case "sdes":
		e.ua, e.phone = g.phoneUA(user), newPhone(g.t, word, 0)
		e.phone.secure()
	case "trunk":
		e.ua, e.phone = g.trunk, newPhone(g.t, word, 0)
	}
	return e
}

func (e *end) heard() *heard {
	if e.browser != nil {
		return &e.browser.heard
	}
	return &e.phone.heard
}

func (e *end) offer() []byte {
	if e.browser != nil {
		return e.browser.offer()
	}
	return e.phone.sdp("sendrecv", ulaw, te101)
}

func (e *end) takeAnswer(body []byte) {
	e.ua.t.Helper()
	if e.browser != nil {
		e.browser.takeAnswer(body)
	} else {
		e.phone.aim(e.ua.t, body)
	}
}

func (e *end) answerTo(offer []byte) []byte {
	e.ua.t.Helper()
	if e.browser != nil {
		return e.browser.answer(offer)
	}
	e.phone.aim(e.ua.t, offer)
	return e.phone.sdp("sendrecv", ulaw, te101)
}

// connect brings a call up between two ends and checks that each hears the other.
func (g *gateway) connect(a, b *end, number string) {
	g.t.Helper()
	a.c = a.dial(number, a.offer())
	b.c = b.taken()
	b.c.respond(180, nil)
	if r := a.c.next(); r.code() != 180 {
		g.t.Fatalf("the caller got %s", r.start)
	}
	b.c.accept(b.answerTo(b.c.invite.body))
	a.takeAnswer(a.c.answered().body)
	a.heard().want(g.t, "0 "+b.word, 10)
	b.heard().want(g.t, "0 "+a.word, 10)
}

var numbers = map[string]string{"browser": "web2", "phone": "1002", "trunk": "9555"}
var callers = map[string]string{"browser": "web1", "phone": "1001"}

// hold holds or resumes by re-INVITE.
func (e *end) hold(t *testing.T, on bool) {
	t.Helper()
	dir := "sendrecv"
	if on {
		dir = "sendonly"
	}
	if e.browser != nil {
		d := pion.RTPTransceiverDirectionSendrecv
		if on {
			d = pion.RTPTransceiverDirectionSendonly
		}
		r := e.c.reinvite(e.browser.direction(d))
		if r.code() != 200 {
			t.Fatalf("hold %v: %s", on, r.start)
		}
		e.browser.takeAnswer(r.body)
		return
	}
	if r := e.c.reinvite(e.phone.sdp(dir, ulaw, te101)); r.code() != 200 {
		t.Fatalf("hold %v: %s", on, r.start)
	}
}
