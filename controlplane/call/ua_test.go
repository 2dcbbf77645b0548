package call_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/icholy/digest"
)

// patience is how long a test waits for something that must come.
const patience = 20 * time.Second

// message is one SIP message. The user agents of these tests write and read the
// text themselves, so that they share nothing with the gateway's stack and can
// do at any moment what a real one might.
type message struct {
	start  string
	header [][2]string
	body   []byte
}

func parseMessage(raw []byte) (*message, bool) {
	head, body, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !ok {
		return nil, false
	}
	lines := strings.Split(string(head), "\r\n")
	m := &message{start: lines[0], body: body}
	long := map[string]string{"v": "Via", "f": "From", "t": "To", "i": "Call-ID", "m": "Contact", "l": "Content-Length", "c": "Content-Type"}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ":")
		name = strings.TrimSpace(name)
		if full, ok := long[strings.ToLower(name)]; ok {
			name = full
		}
		m.header = append(m.header, [2]string{name, strings.TrimSpace(value)})
	}
	return m, true
}

func (m *message) bytes() []byte {
	var b bytes.Buffer
	b.WriteString(m.start + "\r\n")
	for _, h := range m.header {
		if !strings.EqualFold(h[0], "Content-Length") {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(m.body))
	b.Write(m.body)
	return b.Bytes()
}

func (m *message) get(name string) string {
	for _, h := range m.header {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

func (m *message) all(name string) (out []string) {
	for _, h := range m.header {
		if strings.EqualFold(h[0], name) {
			out = append(out, h[1])
		}
	}
	return out
}

func (m *message) isRequest() bool { return !strings.HasPrefix(m.start, "SIP/2.0 ") }
func (m *message) method() string {
	if m.isRequest() {
		w, _, _ := strings.Cut(m.start, " ")
		return w
	}
	_, w, _ := strings.Cut(m.get("CSeq"), " ")
	return w
}

func (m *message) code() int {
	f := strings.Fields(m.start)
	n, _ := strconv.Atoi(f[1])
	return n
}

func (m *message) seq() string {
	n, _, _ := strings.Cut(m.get("CSeq"), " ")
	return n
}

func (m *message) tag(header string) string { return param(m.get(header), "tag") }

func (m *message) branch() string { return param(m.get("Via"), "branch") }

func param(value, name string) string {
	if i := strings.LastIndex(value, ">"); i >= 0 {
		value = value[i:]
	}
	for _, p := range strings.Split(value, ";")[1:] {
		if k, v, _ := strings.Cut(p, "="); strings.EqualFold(strings.TrimSpace(k), name) {
			return v
		}
	}
	return ""
}

func uriOf(nameAddr string) string {
	if i := strings.IndexByte(nameAddr, '<'); i >= 0 {
		nameAddr = nameAddr[i+1:]
		return nameAddr[:strings.IndexByte(nameAddr, '>')]
	}
	uri, _, _ := strings.Cut(nameAddr, ";")
	return uri
}

// ua is a SIP user agent on UDP or WebSocket.
type ua struct {
	t                  testing.TB
	user, pass, domain string
	proto              string // UDP or WS
	local              string // host:port of Via and Contact
	write              func([]byte) error
	closeFn            func()
	done               chan struct{}

	mu       sync.Mutex
	pending  map[string]chan *message // responses by branch
	answered map[string][]byte        // requests by branch and method: what they were answered
	dialogs  map[string]*uaCall       // by Call-ID
	incoming chan *uaCall
	met      map[string]bool // branches that have a response, Call-IDs with the CSeq of an ACK
	trace    bytes.Buffer
}

func newUA(t testing.TB, user, pass string) *ua {
	return &ua{
		t: t, user: user, pass: pass, domain: "gw.test", done: make(chan struct{}), pending: map[string]chan *message{},
		answered: map[string][]byte{}, met: map[string]bool{}, dialogs: map[string]*uaCall{}, incoming: make(chan *uaCall, 8),
	}
}

// udpUA is a phone that speaks to the gateway at addr.
func udpUA(t testing.TB, user, pass, addr string) *ua {
	t.Helper()
	return udpUAAt(t, "127.0.0.1:0", user, pass, addr)
}

// udpUAAt binds to an address of its own.
func udpUAAt(t testing.TB, local, user, pass, addr string) *ua {
	t.Helper()
	u := newUA(t, user, pass)
	conn, err := net.ListenPacket("udp", local)
	if err != nil {
		t.Fatal(err)
	}
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	u.proto, u.local = "UDP", conn.LocalAddr().String()
	u.write = func(b []byte) error { _, err := conn.WriteTo(b, to); return err }
	u.closeFn = func() { conn.Close() }
	go func() {
		defer close(u.done)
		buf := make([]byte, 65535)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			u.receive(bytes.Clone(buf[:n]))
		}
	}()
	t.Cleanup(u.close)
	return u
}

// wsUA is a browser's signalling.
func wsUA(t testing.TB, user, pass, url string) *ua {
	t.Helper()
	u := newUA(t, user, pass)
	u.proto, u.local = "WS", rand.Text()[:12]+".invalid"
	u.connect(url)
	t.Cleanup(u.close)
	return u
}

// connect opens the WebSocket, also anew after a loss.
func (u *ua) connect(url string) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		Subprotocols: []string{"sip"}, HTTPHeader: http.Header{"Origin": {strings.Replace(strings.TrimSuffix(url, "/ws"), "ws:", "http:", 1)}},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	conn.SetReadLimit(1 << 16)
	done := make(chan struct{})
	u.mu.Lock()
	u.write = func(b []byte) error { return conn.Write(context.Background(), websocket.MessageText, b) }
	u.closeFn, u.done = func() { conn.CloseNow() }, done
	u.mu.Unlock()
	go func() {
		defer close(done)
		for {
			_, b, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			u.receive(b)
		}
	}()
}

func (u *ua) close() {
	u.mu.Lock()
	f, done := u.closeFn, u.done
	u.mu.Unlock()
	f()
	<-done
}

func (u *ua) note(dir string, b []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	head, _, _ := bytes.Cut(b, []byte("\r\n"))
	fmt.Fprintf(&u.trace, "%s %s %s %s\n", time.Now().Format("05.000"), u.user, dir, head)
}

func (u *ua) send(m *message) {
	b := m.bytes()
	u.note(">", b)
	u.mu.Lock()
	w := u.write
	u.mu.Unlock()
	_ = w(b) // a loss shows as a missing answer
}

func (u *ua) meet(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.met[key] = true
}

// persist sends over UDP again and again until key has been met (RFC 3261
// 17.1.1.2, 13.3.1.4): a busy machine drops datagrams even on the loopback.
func (u *ua) persist(m *message, key string) {
	u.send(m)
	if u.proto != "UDP" {
		return
	}
	go func() {
		tick, end := time.NewTicker(500*time.Millisecond), time.After(patience)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-end:
				return
			case <-u.done:
				return
			}
			u.mu.Lock()
			met := u.met[key]
			u.mu.Unlock()
			if met {
				return
			}
			u.send(m)
		}
	}()
}

func (u *ua) receive(b []byte) {
	m, ok := parseMessage(b)
	if !ok {
		return // keep-alive
	}
	u.note("<", b)
	if m.method() == "ACK" {
		u.meet(m.get("Call-ID") + m.seq())
	}
	if !m.isRequest() {
		u.meet(m.branch())
		u.mu.Lock()
		ch := u.pending[m.branch()]
		u.mu.Unlock()
		if ch != nil {
			select {
			case ch <- m:
			default:
			}
		}
		return
	}
	key := m.branch() + m.method()
	u.mu.Lock()
	again, seen := u.answered[key]
	if !seen {
		u.answered[key] = nil
	}
	w := u.write
	c := u.dialogs[m.get("Call-ID")]
	u.mu.Unlock()
	if seen {
		if again != nil {
			_ = w(again)
		}
		return
	}
	switch {
	case m.method() == "INVITE" && m.tag("To") == "":
		c = newUACall(u, m.get("Call-ID"))
		c.invite, c.remoteTag, c.target = m, m.tag("From"), uriOf(m.get("Contact"))
		c.localURI, c.remoteURI = uriOf(m.get("To")), uriOf(m.get("From"))
		c.routes = m.all("Record-Route")
		u.mu.Lock()
		u.dialogs[c.id] = c
		u.mu.Unlock()
		u.incoming <- c
	case c != nil:
		c.request(m)
	case m.method() == "OPTIONS":
		u.respond(m, 200, "", nil)
	case m.method() != "ACK":
		u.respond(m, 481, "", nil)
	}
}

var reasons = map[int]string{180: "Ringing", 183: "Session Progress", 200: "OK", 486: "Busy Here", 487: "Request Terminated"}

// respond answers a request of the gateway.
func (u *ua) respond(req *message, code int, tag string, body []byte, more ...[2]string) {
	reason := reasons[code]
	if reason == "" {
		reason = "Because"
	}
	r := &message{start: fmt.Sprintf("SIP/2.0 %d %s", code, reason), body: body}
	for _, h := range req.header {
		switch strings.ToLower(h[0]) {
		case "to":
			if tag != "" && param(h[1], "tag") == "" {
				h[1] += ";tag=" + tag
			}
			r.header = append(r.header, h)
		case "via", "from", "call-id", "cseq", "record-route":
			r.header = append(r.header, h)
		}
	}
	r.header = append(r.header, [2]string{"Contact", u.contact()})
	r.header = append(r.header, more...)
	if body != nil {
		r.header = append(r.header, [2]string{"Content-Type", "application/sdp"})
	}
	if code >= 200 {
		u.mu.Lock()
		u.answered[req.branch()+req.method()] = r.bytes()
		u.mu.Unlock()
	}
	if req.method() == "INVITE" && code >= 200 && code < 300 {
		u.persist(r, req.get("Call-ID")+req.seq())
		return
	}
	u.send(r)
}

func (u *ua) contact() string {
	uri := "<sip:" + u.user + "@" + u.local
	if u.proto == "WS" {
		uri += ";transport=ws"
	}
	return uri + ">"
}

// new makes a request outside of any dialog.
func (u *ua) newRequest(method, uri, to, callID string, cseq int, tag string) *message {
	return &message{start: method + " " + uri + " SIP/2.0", header: [][2]string{
		{"Via", "SIP/2.0/" + u.proto + " " + u.local + ";rport;branch=z9hG4bK" + rand.Text()},
		{"Max-Forwards", "70"},
		{"From", "<sip:" + u.user + "@" + u.domain + ">;tag=" + tag},
		{"To", to},
		{"Call-ID", callID},
		{"CSeq", fmt.Sprintf("%d %s", cseq, method)},
		{"Contact", u.contact()},
	}}
}

// expect opens the mailbox of a request's responses.
func (u *ua) expect(m *message) chan *message {
	ch := make(chan *message, 16)
	u.mu.Lock()
	u.pending[m.branch()] = ch
	u.mu.Unlock()
	return ch
}

// authorize answers a challenge.
func (u *ua) authorize(req, res *message) *message {
	header, answer := "WWW-Authenticate", "Authorization"
	if res.code() == 407 {
		header, answer = "Proxy-Authenticate", "Proxy-Authorization"
	}
	ch, err := digest.ParseChallenge(res.get(header))
	if err != nil {
		u.t.Errorf("challenge %q: %v", res.get(header), err)
		return nil
	}
	f := strings.Fields(req.start)
	cred, err := digest.Digest(ch, digest.Options{Method: f[0], URI: f[1], Username: u.user, Password: u.pass})
	if err != nil {
		u.t.Error(err)
		return nil
	}
	next := &message{start: req.start, body: req.body}
	for _, h := range req.header {
		switch h[0] {
		case "Via":
			h[1] = "SIP/2.0/" + u.proto + " " + u.local + ";rport;branch=z9hG4bK" + rand.Text()
		case "CSeq":
			n, method, _ := strings.Cut(h[1], " ")
			i, _ := strconv.Atoi(n)
			h[1] = fmt.Sprintf("%d %s", i+1, method)
		}
		next.header = append(next.header, h)
	}
	next.header = append(next.header, [2]string{answer, cred.String()})
	return next
}

// transact sends a non-INVITE request, through one challenge, and returns the
// final response.
func (u *ua) transact(m *message) (*message, error) {
	ch := u.expect(m)
	u.send(m)
	deadline := time.After(patience)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for challenged := false; ; {
		select {
		case r := <-ch:
			switch {
			case r.code() < 200:
			case (r.code() == 401 || r.code() == 407) && !challenged:
				challenged = true
				if m = u.authorize(m, r); m == nil {
					return nil, io.ErrUnexpectedEOF
				}
				ch = u.expect(m)
				u.send(m)
			default:
				return r, nil
			}
		case <-again.C:
			if u.proto == "UDP" {
				u.send(m)
			}
		case <-deadline:
			return nil, fmt.Errorf("%s was not answered", m.method())
		}
	}
}

func (u *ua) register() {
	u.t.Helper()
	u.registerWith("")
}

// registerWith registers with a +sip.instance.
func (u *ua) registerWith(instance string) {
	u.t.Helper()
	uri := "sip:" + u.domain
	m := u.newRequest("REGISTER", uri, "<sip:"+u.user+"@"+u.domain+">", rand.Text(), 1, rand.Text()[:8])
	m.header = append(m.header, [2]string{"Expires", "300"})
	if instance != "" {
		for i := range m.header {
			if m.header[i][0] == "Contact" {
				m.header[i][1] += ";+sip.instance=\"" + instance + "\";reg-id=1"
			}
		}
		m.header = append(m.header, [2]string{"Supported", "outbound, path"})
	}
	r, err := u.transact(m)
	if err != nil || r.code() != 200 {
		u.t.Fatalf("%s cannot register: %v %+v", u.user, err, r)
	}
}

// dial sends an INVITE through the challenge and goes on to collect responses.
func (u *ua) dial(user string, offer []byte) *uaCall {
	u.t.Helper()
	c := newUACall(u, rand.Text())
	c.outgoing = true
	uri := "sip:" + user + "@" + u.domain
	m := u.newRequest("INVITE", uri, "<"+uri+">", c.id, 1, c.localTag)
	c.localURI, c.remoteURI = "sip:"+u.user+"@"+u.domain, uri
	m.body = offer
	if offer != nil {
		m.header = append(m.header, [2]string{"Content-Type", "application/sdp"})
	}
	u.mu.Lock()
	u.dialogs[c.id] = c
	u.mu.Unlock()
	if u.pass == "" {
		c.start(m)
		return c
	}
	ch := u.expect(m)
	u.persist(m, m.branch())
	first := u.want(ch, "INVITE")
	c.ackFailure(m, first)
	next := u.authorize(m, first)
	if next == nil {
		u.t.FailNow()
	}
	c.cseq = 2
	c.start(next)
	return c
}

func (u *ua) want(ch chan *message, what string) *message {
	u.t.Helper()
	for {
		select {
		case r := <-ch:
			if r.code() == 100 {
				continue
			}
			return r
		case <-time.After(patience):
			u.t.Fatalf("%s of %s was not answered\n%s", what, u.user, u.log())
		}
	}
}

func (u *ua) log() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.trace.String()
}

// taken waits for a call that comes in.
func (u *ua) taken() *uaCall {
	u.t.Helper()
	select {
	case c := <-u.incoming:
		return c
	case <-time.After(patience):
		u.t.Fatalf("no call came in at %s\n%s", u.user, u.log())
		return nil
	}
}
