package sip

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	gosip "github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
	"go.uber.org/goleak"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

func TestMain(m *testing.M) {
	// Real pace would make the time-outs of RFC 3261 take half a minute each.
	gosip.SetTimers(50*time.Millisecond, 400*time.Millisecond, 500*time.Millisecond)
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what has to come, on a busy machine.
const patience = 20 * time.Second

// impatient is a server that gives up on an ACK or a CANCEL soon.
func impatient(p *pace) { p.t1, p.t2 = 5*time.Millisecond, 40*time.Millisecond }

// patient is one that a busy machine does not make give up.
func patient(p *pace) { p.t1, p.t2 = 500*time.Millisecond, 4*time.Second }

type passwords map[string]string

func (p passwords) Password(user string) (string, bool) { s, ok := p[user]; return s, ok }

// world is a server and what its tests need.
type world struct {
	*testing.T
	s       *Server
	loc     *location.Memory
	invites chan call.Invite
	web     *httptest.Server
}

const testDomain = "gw.test"

// newWorld starts a server; change are func(*Config) and func(*pace).
func newWorld(t *testing.T, change ...any) *world {
	t.Helper()
	w := &world{T: t, loc: location.NewMemory(), invites: make(chan call.Invite, 16)}
	out := io.Discard
	if os.Getenv("SIP_LOG") != "" {
		out = os.Stderr
	}
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	c := Config{
		Domain:   testDomain,
		Networks: []Network{{Name: "main", Listeners: []Listener{{Transport: UDP, Addr: loopback}, {Transport: TCP, Addr: loopback}}}},
		Users:    passwords{"web1": "w1secret", "phone1": "p1secret", "phone2": "p2secret"},
		Location: w.loc,
		Logger:   slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnInvite: func(i call.Invite) { w.invites <- i },
	}
	for _, f := range change {
		if f, ok := f.(func(*Config)); ok {
			f(&c)
		}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		if f, ok := f.(func(*pace)); ok {
			f(&s.pace)
		}
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); s.Serve() }()
	w.s = s
	w.web = httptest.NewServer(http.HandlerFunc(s.ServeWS))
	t.Cleanup(func() {
		s.Close()
		<-served
		w.web.Close()
		w.loc.Close()
	})
	return w
}

// invite waits for the next INVITE that reaches the call.
func (w *world) invite() call.Invite {
	w.Helper()
	select {
	case i := <-w.invites:
		return i
	case <-time.After(patience):
		w.Fatal("no INVITE reached the call")
		return nil
	}
}

// peer is a user agent made of a socket and strings.
type peer struct {
	*testing.T
	user, password string
	transport      string
	local          string // host:port
	in             chan gosip.Message
	write          func([]byte) error
	stop           func()
	seq            uint32
}

func (w *world) newPeer(user, transport string) *peer {
	w.Helper()
	return w.newPeerVia(user, transport, nil)
}

func (w *world) newPeerVia(user, transport string, hc *http.Client) *peer {
	w.Helper()
	known, _ := w.s.cfg.Users.(passwords)
	p := &peer{T: w.T, user: user, password: known[user], transport: transport, in: make(chan gosip.Message, 256), seq: 1}
	r := newReader()
	got := func(b []byte) {
		if len(strings.Trim(string(b), "\r\n")) == 0 {
			return
		}
		m, _, err := r.read(b)
		if err != nil {
			// A refusal repeats what was malformed; its code is enough.
			var code int
			if n, _ := fmt.Sscanf(string(b), "SIP/2.0 %d", &code); n != 1 || code < 400 {
				w.Errorf("peer cannot read %q: %v", b, err)
				return
			}
			m = gosip.NewResponse(code, "")
		}
		p.in <- m
	}
	var wg sync.WaitGroup
	switch transport {
	case "UDP":
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(w.s.Addr("main", UDP)))
		if err != nil {
			w.Fatal(err)
		}
		p.local = c.LocalAddr().String()
		p.write = func(b []byte) error { _, err := c.Write(b); return err }
		p.stop = func() { c.Close(); wg.Wait() }
		wg.Go(func() {
			buf := make([]byte, 65536)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				got(buf[:n])
			}
		})
	case "TCP":
		c, err := net.Dial("tcp", w.s.Addr("main", TCP).String())
		if err != nil {
			w.Fatal(err)
		}
		p.local = c.LocalAddr().String()
		p.write = func(b []byte) error { _, err := c.Write(b); return err }
		p.stop = func() { c.Close(); wg.Wait() }
		wg.Go(func() { readAll(c, got) })
	case "WS":
		ctx, cancel := context.WithCancel(context.Background())
		c, _, err := websocket.Dial(ctx, strings.Replace(w.web.URL, "http", "ws", 1)+"/ws", &websocket.DialOptions{Subprotocols: []string{"sip"}, HTTPClient: hc})
		if err != nil {
			w.Fatal(err)
		}
		p.local = strings.ToLower(rand.Text()) + ".invalid:80"
		p.write = func(b []byte) error { return c.Write(ctx, websocket.MessageText, b) }
		p.stop = func() { c.CloseNow(); cancel(); wg.Wait() }
		wg.Go(func() {
			for {
				_, b, err := c.Read(ctx)
				if err != nil {
					return
				}
				got(b)
			}
		})
	}
	w.Cleanup(p.stop)
	return p
}

func (p *peer) contact() string {
	t := ""
	if p.transport != "UDP" {
		t = ";transport=" + strings.ToLower(p.transport)
	}
	host, port, _ := net.SplitHostPort(p.local)
	if p.transport == "WS" {
		return "<sip:" + p.user + "x@" + host + t + ">"
	}
	return "<sip:" + p.user + "@" + net.JoinHostPort(host, port) + t + ">"
}

func (p *peer) send(text string) {
	p.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	head = strings.ReplaceAll(strings.TrimSpace(head), "\n", "\r\n")
	if !strings.Contains(head, "Content-Length:") {
		head += fmt.Sprintf("\r\nContent-Length: %d", len(body))
	}
	if err := p.write([]byte(head + "\r\n\r\n" + body)); err != nil {
		p.Fatal(err)
	}
}

// via is a fresh Via line.
func (p *peer) via() string {
	return "Via: SIP/2.0/" + p.transport + " " + p.local + ";branch=z9hG4bK" + rand.Text() + ";rport"
}

// next waits for the next message that matches.
func (p *peer) next(what string, match func(gosip.Message) bool) gosip.Message {
	p.Helper()
	limit := time.After(patience)
	var seen []string
	for {
		select {
		case m := <-p.in:
			if match(m) {
				return m
			}
			seen = append(seen, startLine(m))
		case <-limit:
			p.Fatalf("%s: no %s; saw %q", p.user, what, seen)
		}
	}
}

func startLine(m gosip.Message) string {
	line, _, _ := strings.Cut(m.String(), "\r\n")
	return line
}

// response waits for a response of a method with a code.
func (p *peer) response(code int, method string) *gosip.Response {
	p.Helper()
	return p.next(fmt.Sprint(code, " to ", method), func(m gosip.Message) bool {
		r, ok := m.(*gosip.Response)
		return ok && r.StatusCode == code && string(r.CSeq().MethodName) == method
	}).(*gosip.Response)
}

// final waits for any final response to a method.
func (p *peer) final(method string) *gosip.Response {
	p.Helper()
	return p.next("final response to "+method, func(m gosip.Message) bool {
		r, ok := m.(*gosip.Response)
		return ok && r.StatusCode >= 200 && string(r.CSeq().MethodName) == method
	}).(*gosip.Response)
}

func (p *peer) request(method string) *gosip.Request {
	p.Helper()
	return p.next(method, func(m gosip.Message) bool {
		r, ok := m.(*gosip.Request)
		return ok && string(r.Method) == method
	}).(*gosip.Request)
}

// quiet fails when something matching comes within d.
func (p *peer) quiet(d time.Duration, what string, match func(gosip.Message) bool) {
	p.Helper()
	limit := time.After(d)
	for {
		select {
		case m := <-p.in:
			if match(m) {
				p.Fatalf("%s: unexpected %s: %s", p.user, what, startLine(m))
			}
		case <-limit:
			return
		}
	}
}

// credentials answers a challenge.
func (p *peer) credentials(res *gosip.Response, method, uri string) string {
	p.Helper()
	ask, name := "WWW-Authenticate", "Authorization"
	if res.StatusCode == 407 {
		ask, name = "Proxy-Authenticate", "Proxy-Authorization"
	}
	c, err := digest.ParseChallenge(value(res, ask))
	if err != nil {
		p.Fatal(err)
	}
	cr, err := digest.Digest(c, digest.Options{Method: method, URI: uri, Username: p.user, Password: p.password, Count: 1})
	if err != nil {
		p.Fatal(err)
	}
	return name + ": " + cr.String()
}

// register registers and returns the 200.
func (p *peer) register(extra string) *gosip.Response {
	p.Helper()
	res := p.registerOnce(extra, "")
	if res.StatusCode != 401 {
		p.Fatalf("REGISTER without credentials: %d", res.StatusCode)
	}
	res = p.registerOnce(extra, p.credentials(res, "REGISTER", "sip:"+testDomain))
	if res.StatusCode != 200 {
		p.Fatalf("REGISTER: %d %s", res.StatusCode, res.Reason)
	}
	return res
}

func (p *peer) registerOnce(extra, auth string) *gosip.Response {
	p.Helper()
	p.seq++
	text := fmt.Sprintf("REGISTER sip:%s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: <sip:%s@%s>;tag=r1\nTo: <sip:%s@%s>\nCall-ID: reg-%s\nCSeq: %d REGISTER\nSupported: path, outbound\n",
		testDomain, p.via(), p.user, testDomain, p.user, testDomain, p.local, p.seq)
	if !strings.Contains(extra, "Contact:") {
		text += "Contact: " + p.contact() + extra + "\n"
	} else {
		text += extra + "\n"
	}
	if auth != "" {
		text += auth + "\n"
	}
	p.send(text + "\n")
	return p.final("REGISTER")
}

func readAll(c net.Conn, got func([]byte)) {
	var buf []byte
	chunk := make([]byte, 65536)
	for {
		n, err := c.Read(chunk)
		buf = append(buf, chunk[:n]...)
		for {
			buf = []byte(strings.TrimLeft(string(buf), "\r\n"))
			head, _, ok := strings.Cut(string(buf), "\r\n\r\n")
			if !ok {
				break
			}
			l, _ := contentLength([]byte(head))
			end := len(head) + 4 + max(l, 0)
			if len(buf) < end {
				break
			}
			got(buf[:end])
			buf = buf[end:]
		}
		if err != nil {
			return
		}
	}
}

// deaf is a browser in a call whose socket then goes silent without closing.
type deaf struct {
	leg *leg
	d   call.Dialog
	h   *handler
}

// frozen is a connection of which nothing is read any more, so no ping is
// answered.
type frozen struct {
	net.Conn
	hush, closed chan struct{}
	once         sync.Once
}

func (f *frozen) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	select {
	case <-f.hush:
		<-f.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (f *frozen) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

func (w *world) newDeaf(user, instance string) *deaf {
	w.Helper()
	f := &frozen{hush: make(chan struct{}), closed: make(chan struct{})}
	p := w.newPeerVia(user, "WS", &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
		var d net.Dialer
		var err error
		f.Conn, err = d.DialContext(ctx, n, a)
		return f, err
	}}})
	p.register(instance)
	l := p.invite("phone2", "offer", "")
	h := newHandler()
	a := accept(w.invite(), "answer", h)
	l.answered(p.response(200, "INVITE"), "")
	got := w.wait(a)
	if got.err != nil {
		w.Fatal(got.err)
	}
	close(f.hush)
	return &deaf{l, got.d, h}
}

// mustChallenge asks for a fresh challenge in a dialog.
func mustChallenge(l *leg, p *peer) *gosip.Response {
	l.do("BYE", "", "")
	return p.response(407, "BYE")
}

// deafTCP is a connection that nobody reads from.
func (w *world) deafTCP() net.Conn {
	w.Helper()
	c, err := net.Dial("tcp", w.s.Addr("main", TCP).String())
	if err != nil {
		w.Fatal(err)
	}
	return c
}
