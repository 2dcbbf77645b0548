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

var passwords = users{"web1": "w1secret", "web2": "w2secret", "1001": "p1secret", "1002": "p2secret"}

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
		Users:  []routing.User{{Name: "web1"}, {Name: "web2"}, {Name: "1001"}, {Name: "1002"}},
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

// Legs in different address families.
func TestLoopbackFamilies(t *testing.T) {
	for _, dir := range [][2]string{{"phone6", "phone"}, {"phone", "phone6"}, {"browser", "phone6"}, {"phone6", "browser"}, {"phone6", "phone6"}} {
		t.Run(dir[0]+" to "+dir[1], func(t *testing.T) {
			g := start(t)
			from := callers[dir[0]]
			if from == "" {
				from = "1001"
			}
			to := numbers[dir[1]]
			if to == "" {
				to = "1002"
			}
			a, b := g.end(dir[0], from, "alice"), g.end(dir[1], to, "bob")
			g.connect(a, b, to)
			if six := strings.Contains(string(b.c.invite.body), "IN IP6 ::1"); six != (dir[1] == "phone6") {
				t.Errorf("the callee was offered\n%s", b.c.invite.body)
			}
			b.c.bye()
			a.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

// Every kind of party calls every other, and each hears the other's words.
func TestLoopbackDirections(t *testing.T) {
	for _, from := range []string{"browser", "phone", "trunk"} {
		for _, to := range []string{"browser", "phone", "trunk"} {
			if from == "trunk" && to == "trunk" {
				continue // refused by routing, see there
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				g := start(t)
				a, b := g.end(from, callers[from], "alice"), g.end(to, numbers[to], "bob")
				if from == "trunk" {
					a.ua.domain = "gw.test"
				}
				g.connect(a, b, numbers[to])
				g.waitStage(call.StageMedia, 1)
				if to == "trunk" && !strings.HasPrefix(b.c.invite.start, "INVITE sip:555@127.0.0.9") {
					t.Errorf("the trunk was dialled %q", b.c.invite.start)
				}
				a.c.bye()
				b.c.wantBye(patience)
				g.waitIdle()
				if e := g.waitStage(call.StageEnded, 1).Call; e.Ending.By != call.ByCaller || len(e.Legs) != 2 ||
					e.Legs[0].Lines[0].Stats.Received.Packets == 0 || e.Legs[1].Lines[0].Stats.Sent.Packets == 0 {
					t.Errorf("record: %+v", e)
				}
			})
		}
	}
}

func TestLoopbackStatus(t *testing.T) {
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1001", "bob")
	for code, want := range map[int]int{486: 486, 480: 480, 403: 403, 404: 404, 488: 488, 500: 500, 503: 503, 603: 603} {
		c := a.dial("1001", newBrowser(t, "x").offer())
		b.taken().respond(code, nil)
		if r := c.final(); r.code() != want {
			t.Errorf("callee said %d, the caller got %s", code, r.start)
		}
	}
	if r := a.dial("nobody", newBrowser(t, "x").offer()).final(); r.code() != 404 {
		t.Errorf("unknown callee: %s", r.start)
	}
	if r := a.dial("1002", newBrowser(t, "x").offer()).final(); r.code() != 480 {
		t.Errorf("callee that is not registered: %s", r.start)
	}
	c := a.dial("1001", newBrowser(t, "x", pion.MimeTypeOpus).offer())
	in := b.taken()
	in.accept(phoneSDP(4000, "sendrecv", "18 G729/8000"))
	if r := c.final(); r.code() != 488 {
		t.Errorf("no common codec: %s", r.start)
	}
	in.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackCancel(t *testing.T) {
	for _, kind := range []string{"browser", "phone"} {
		t.Run(kind, func(t *testing.T) {
			g := start(t)
			a, b := g.end(kind, callers[kind], "alice"), g.end("phone", "1002", "bob")
			c := a.dial("1002", a.offer())
			in := b.taken()
			in.respond(180, nil)
			c.next()
			c.cancel()
			if r := c.final(); r.code() != 487 {
				t.Errorf("the caller got %s", r.start)
			}
			select {
			case <-in.cancelled:
			case <-time.After(patience):
				t.Error("the callee was not cancelled")
			}
			g.waitIdle()
		})
	}
}

func TestLoopbackHold(t *testing.T) {
	for _, dir := range [][2]string{{"browser", "phone"}, {"phone", "browser"}, {"phone", "phone"}} {
		t.Run(dir[0]+" and "+dir[1], func(t *testing.T) {
			g := start(t)
			a, b := g.end(dir[0], callers[dir[0]], "alice"), g.end(dir[1], numbers[dir[1]], "bob")
			g.connect(a, b, numbers[dir[1]])
			for _, side := range [][2]*end{{a, b}, {b, a}} {
				near, far := side[0], side[1]
				far.c.onReinvite(func(offer []byte) (int, []byte) {
					if far.browser != nil {
						return 200, far.browser.answer(offer)
					}
					if strings.Contains(string(offer), "a=sendonly") {
						return 200, far.phone.sdp("recvonly", ulaw, te101)
					}
					return 200, far.phone.sdp("sendrecv", ulaw, te101)
				})
				near.hold(t, true)
				if o := <-far.c.offers; !strings.Contains(string(o), "a=sendonly") {
					t.Errorf("hold reached the far side as\n%s", o)
				}
				// The holder hears nothing; its own music on hold is heard.
				near.heard().quiet(t, "0 "+far.word, 200*time.Millisecond)
				far.heard().want(t, "0 "+near.word, 5)
				near.hold(t, false)
				<-far.c.offers
				near.heard().want(t, "0 "+far.word, 10)
				far.heard().want(t, "0 "+near.word, 10)
			}
			a.heard().oneStream(t)
			b.heard().oneStream(t)
			b.c.bye()
			a.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

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

func TestLoopbackDTMF(t *testing.T) {
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.phone.digits <- 126 // as we offered it
	a.heard().want(t, "126 "+string([]byte{5, 0x8a, 0, 160}), 1)
	a.browser.digits <- 126
	b.heard().want(t, "101 "+string([]byte{5, 0x8a, 0, 160}), 1)
	if r := a.c.do("INFO", "application/dtmf-relay", []byte("Signal=5\r\n")); r.code() != 200 {
		t.Errorf("INFO: %s", r.start)
	}
	if m := <-b.c.infos; string(m.body) != "Signal=5\r\n" || m.get("Content-Type") != "application/dtmf-relay" {
		t.Errorf("INFO arrived as %q", m.body)
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// The announcement of one callee is heard, then another answers.
func TestLoopbackForkWithEarlyMedia(t *testing.T) {
	g := start(t)
	a := g.end("browser", "web1", "alice")
	desk := g.end("phone", "1002", "desk")
	second := &end{ua: g.phoneUA("1002"), phone: newPhone(t, "second", 8), word: "second"}
	offer := a.offer()
	a.c = a.dial("1002", offer)
	desk.c, second.c = desk.taken(), second.taken()
	desk.phone.aim(t, desk.c.invite.body)
	desk.c.respond(183, desk.phone.sdp("sendonly", ulaw))
	early := a.c.next()
	if early.code() != 183 || len(early.body) == 0 {
		t.Fatalf("the caller got %s", early.start)
	}
	a.takeAnswer(early.body)
	a.heard().want(t, "0 desk", 10)

	// The second device answers, with another codec.
	second.phone.aim(t, second.c.invite.body)
	a.c.onReinvite(func(offer []byte) (int, []byte) {
		body := a.browser.answer(offer)
		return 200, body
	})
	second.c.accept(second.phone.sdp("sendrecv", alaw, te101))
	ok := a.c.answered()
	if string(ok.body) != string(early.body) {
		t.Errorf("the 200's SDP is not the 183's:\n%s\n%s", early.body, ok.body)
	}
	select {
	case <-desk.c.cancelled:
	case <-time.After(patience):
		t.Error("the announcement was not cancelled")
	}
	<-a.c.offers // the codec is settled by re-INVITE
	a.heard().want(t, "8 second", 10)
	a.heard().oneStream(t)
	a.c.bye()
	second.c.wantBye(patience)
	g.waitIdle()
}

// A user with a browser and a phone: both ring, the browser answers.
func TestLoopbackForkBrowserAndPhone(t *testing.T) {
	g := start(t)
	a := g.end("phone", "1001", "alice")
	deskphone := g.end("phone", "web2", "desk")
	b := g.end("browser", "web2", "bob")
	a.c = a.dial("web2", a.offer())
	other := deskphone.taken()
	other.respond(180, nil)
	b.c = b.taken()
	b.c.respond(180, nil)
	b.c.accept(b.answerTo(b.c.invite.body))
	a.takeAnswer(a.c.answered().body)
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	select {
	case <-other.cancelled:
	case <-time.After(patience):
		t.Error("the desk phone still rings")
	}
	b.c.bye()
	a.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackDelayedOffer(t *testing.T) {
	for _, to := range []string{"phone", "browser"} {
		t.Run(to, func(t *testing.T) {
			g := start(t)
			a, b := g.end("phone", "1001", "alice"), g.end(to, numbers[to], "bob")
			a.c = a.dial(numbers[to], nil)
			b.c = b.taken()
			b.c.onReinvite(func(offer []byte) (int, []byte) { return 200, b.answerTo(offer) })
			b.c.accept(b.answerTo(b.c.invite.body))
			r := a.c.final()
			if r.code() != 200 || len(r.body) == 0 {
				t.Fatalf("the caller got %s", r.start)
			}
			a.phone.aim(t, r.body)
			a.c.ack(a.c.invite, a.phone.sdp("sendrecv", ulaw))
			a.heard().want(t, "0 bob", 10)
			b.heard().want(t, "0 alice", 10)
			a.c.bye()
			b.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

func TestLoopbackDelayedReinvite(t *testing.T) {
	g := start(t)
	a, b := g.end("phone", "1001", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.c.onReinvite(func(offer []byte) (int, []byte) {
		if strings.Contains(string(offer), "a=sendonly") {
			return 200, b.phone.sdp("recvonly", ulaw, te101)
		}
		return 200, b.phone.sdp("sendrecv", ulaw, te101)
	})
	a.hold(t, true)
	<-b.c.offers
	r := a.c.reinvite(nil)
	if r.code() != 200 || !strings.Contains(string(r.body), "a=sendrecv") {
		t.Fatalf("re-INVITE without SDP: %s\n%s", r.start, r.body)
	}
	a.c.ackLast(a.phone.sdp("sendrecv", ulaw, te101))
	<-b.c.offers
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// Both ends re-INVITE at once: one at most wins, the other gets 491.
func TestLoopbackGlare(t *testing.T) {
	g := start(t)
	a, b := g.end("phone", "1001", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	release := make(chan struct{})
	b.c.onReinvite(func([]byte) (int, []byte) { <-release; return 200, b.phone.sdp("recvonly", ulaw, te101) })
	first := make(chan *message, 1)
	go func() { first <- a.c.reinvite(a.phone.sdp("sendonly", ulaw, te101)) }()
	for end := time.Now().Add(patience); !strings.Contains(b.log(), "1002 < INVITE sip:1002@"+b.local+" SIP/2.0\n") || strings.Count(b.log(), "< INVITE") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the re-INVITE did not arrive")
		}
	}
	if r := b.c.reinvite(b.phone.sdp("sendonly", ulaw, te101)); r.code() != 491 {
		t.Errorf("the crossing re-INVITE got %s", r.start)
	}
	close(release)
	if r := <-first; r.code() != 200 {
		t.Errorf("the first got %s", r.start)
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackReinviteRefused(t *testing.T) {
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.c.onReinvite(func([]byte) (int, []byte) { return 488, nil })
	if r := a.c.reinvite(a.browser.direction(pion.RTPTransceiverDirectionSendonly)); r.code() != 488 {
		t.Errorf("got %s", r.start)
	}
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// A browser vanishes: socket and media at once.
func TestLoopbackBrowserVanishes(t *testing.T) {
	g := start(t, func(c *call.Config) {
		c.Timings = call.Timings{FlowGrace: time.Second, FlowLost: 6 * time.Second, Silence: 3 * time.Second, Check: 50 * time.Millisecond}
	})
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	a.browser.close()
	a.ua.close()
	b.c.wantBye(5 * time.Second)
	if e := g.waitStage(call.StageEnded, 1).Call.Ending; e.Cause != call.CauseSignallingLost && e.Cause != call.CauseMediaFailed {
		t.Errorf("ended by %s (%s)", e.Cause, e.Detail)
	}
	g.waitIdle()
}

// Only the socket is lost; the browser comes back and hangs up in its old dialog.
func TestLoopbackReconnect(t *testing.T) {
	g := start(t, func(c *call.Config) {
		c.Timings = call.Timings{FlowGrace: 8 * time.Second, FlowLost: 60 * time.Second, Check: 50 * time.Millisecond}
	})
	a := &end{ua: wsUA(t, "web1", "w1secret", g.ws), browser: newBrowser(t, "alice"), word: "alice"}
	a.ua.registerWith("<urn:uuid:0f3a7d1c-0000-4000-8000-000000000001>")
	b := g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	a.ua.close()
	for end := time.Now().Add(patience); !g.calls.Calls()[0].Legs[0].FlowDown; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lost connection was not noticed")
		}
	}
	b.heard().want(t, "0 alice", 10)
	a.ua.connect(g.ws)
	a.ua.registerWith("<urn:uuid:0f3a7d1c-0000-4000-8000-000000000001>")
	for end := time.Now().Add(patience); g.calls.Calls()[0].Legs[0].FlowDown; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the dialog was not taken back")
		}
	}
	b.c.bye()
	a.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackShutdown(t *testing.T) {
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	go g.close()
	a.c.wantBye(patience)
	b.c.wantBye(patience)
}

func TestLoopbackSnapshot(t *testing.T) {
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	g.waitStage(call.StageConnected, 1)
	s, ok := g.calls.Snapshot(t.Context(), g.calls.Calls()[0].ID)
	if !ok {
		t.Fatal("no snapshot")
	}
	var buf strings.Builder
	if err := s.Write(&buf); err != nil {
		t.Fatal(err)
	}
	back, err := call.ReadSnapshot(strings.NewReader(buf.String()))
	if err != nil {
		t.Fatal(err)
	}
	m, d := back.Caller.Media, back.Caller.Dialog
	if len(m.Keys) != 2 || len(m.Keys[0].Key) == 0 || m.Ufrag == "" || len(m.Pwd) == 0 || !m.Remote.IsValid() {
		t.Errorf("the browser's media is not whole: keys %d, ufrag %q", len(m.Keys), m.Ufrag)
	}
	if d.CallID != a.c.id || d.RemoteTag != a.c.localTag || d.RemoteCSeq == 0 || d.LocalTag != a.c.remoteTag {
		t.Errorf("the browser's dialog is not whole: %+v", d)
	}
	g.mu.Lock()
	logged := g.log.String()
	g.mu.Unlock()
	for _, k := range m.Keys {
		if strings.Contains(logged, string(k.Key)) || strings.Contains(logged, string(m.Pwd)) || strings.Contains(logged, "w1secret") {
			t.Error("a secret is in the log")
		}
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}
