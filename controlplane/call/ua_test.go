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
const patience = 10 * time.Second

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
	trace    bytes.Buffer
}

func newUA(t testing.TB, user, pass string) *ua {
	return &ua{
		t: t, user: user, pass: pass, domain: "gw.test", done: make(chan struct{}), pending: map[string]chan *message{},
		answered: map[string][]byte{}, dialogs: map[string]*uaCall{}, incoming: make(chan *uaCall, 8),
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

func (u *ua) receive(b []byte) {
	m, ok := parseMessage(b)
	if !ok {
		return // keep-alive
	}
	u.note("<", b)
	if !m.isRequest() {
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

// uaCall is one dialog of a user agent.
type uaCall struct {
	u                   *ua
	id                  string
	invite              *message // the INVITE as sent or received
	localTag, remoteTag string
	localURI, remoteURI string
	target              string
	routes              []string // in the order to send
	cseq                int
	outgoing            bool

	over      chan struct{} // the test is done with it
	responses chan *message // to our INVITE
	acked     chan *message
	byed      chan string // Reason header
	cancelled chan struct{}
	infos     chan *message
	// reinvited answers re-INVITEs of the gateway.
	reinvited func(offer []byte) (code int, answer []byte)
	offers    chan []byte // of re-INVITEs, after they were answered
}

func newUACall(u *ua, id string) *uaCall {
	return &uaCall{
		u: u, id: id, localTag: rand.Text()[:8], cseq: 1, over: make(chan struct{}), responses: make(chan *message, 32), acked: make(chan *message, 8),
		byed: make(chan string, 4), cancelled: make(chan struct{}, 1), infos: make(chan *message, 8), offers: make(chan []byte, 8),
		reinvited: func([]byte) (int, []byte) { return 488, nil },
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
	u.send(m)
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

// start sends the INVITE that counts.
func (c *uaCall) start(m *message) {
	ch := c.u.expect(m)
	c.invite = m
	c.u.send(m)
	go c.collect(m, ch)
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

// onReinvite says how re-INVITEs of the gateway are answered.
func (c *uaCall) onReinvite(f func(offer []byte) (code int, answer []byte)) {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	c.reinvited = f
}

// collect ACKs what is final and hands the responses to the test.
func (c *uaCall) collect(m *message, ch chan *message) {
	final := false
	for {
		select {
		case r := <-ch:
			if r.method() != "INVITE" {
				continue // of CANCEL, which shares the branch
			}
			if r.code() >= 200 {
				if r.code() < 300 {
					c.remoteTag, c.target = r.tag("To"), uriOf(r.get("Contact"))
					c.routes = nil
					for _, rr := range r.all("Record-Route") {
						c.routes = append([]string{rr}, c.routes...)
					}
				} else {
					c.ackFailure(m, r)
				}
				if final {
					if r.code() < 300 {
						c.ack(m, nil) // a repeated 200 asks for the ACK again
					}
					continue
				}
				final = true
			}
			c.responses <- r
		case <-c.over:
			return
		case <-c.u.t.Context().Done():
			return
		}
	}
}

func (c *uaCall) ackFailure(m, r *message) {
	a := &message{start: strings.Replace(m.start, "INVITE", "ACK", 1)}
	cseq, _, _ := strings.Cut(m.get("CSeq"), " ")
	a.header = [][2]string{{"Via", m.get("Via")}, {"Max-Forwards", "70"}, {"From", m.get("From")}, {"To", r.get("To")},
		{"Call-ID", c.id}, {"CSeq", cseq + " ACK"}}
	c.u.send(a)
}

// ack acknowledges a 200 to our INVITE.
func (c *uaCall) ack(m *message, body []byte) {
	cseq, _, _ := strings.Cut(m.get("CSeq"), " ")
	n, _ := strconv.Atoi(cseq)
	a := c.make("ACK", n)
	if body != nil {
		a.body = body
		a.header = append(a.header, [2]string{"Content-Type", "application/sdp"})
	}
	c.u.send(a)
}

// make makes a request within the dialog.
func (c *uaCall) make(method string, cseq int) *message {
	m := &message{start: method + " " + c.target + " SIP/2.0", header: [][2]string{
		{"Via", "SIP/2.0/" + c.u.proto + " " + c.u.local + ";rport;branch=z9hG4bK" + rand.Text()},
		{"Max-Forwards", "70"},
		{"From", "<" + c.localURI + ">;tag=" + c.localTag},
		{"To", "<" + c.remoteURI + ">;tag=" + c.remoteTag},
		{"Call-ID", c.id},
		{"CSeq", fmt.Sprintf("%d %s", cseq, method)},
		{"Contact", c.u.contact()},
	}}
	for _, r := range c.routes {
		m.header = append(m.header, [2]string{"Route", r})
	}
	return m
}

// next waits for the next response but 100.
func (c *uaCall) next() *message {
	c.u.t.Helper()
	return c.u.want(c.responses, "INVITE")
}

// final waits for the final response.
func (c *uaCall) final() *message {
	c.u.t.Helper()
	for {
		if r := c.next(); r.code() >= 200 {
			return r
		}
	}
}

// answered waits for the 200 and acknowledges it.
func (c *uaCall) answered() *message {
	c.u.t.Helper()
	r := c.final()
	if r.code() != 200 {
		c.u.t.Fatalf("the call of %s got %s\n%s", c.u.user, r.start, c.u.log())
	}
	c.ack(c.invite, nil)
	return r
}

// cancel takes the INVITE back.
func (c *uaCall) cancel() {
	m := &message{start: strings.Replace(c.invite.start, "INVITE", "CANCEL", 1)}
	cseq, _, _ := strings.Cut(c.invite.get("CSeq"), " ")
	m.header = [][2]string{{"Via", c.invite.get("Via")}, {"Max-Forwards", "70"}, {"From", c.invite.get("From")}, {"To", c.invite.get("To")},
		{"Call-ID", c.id}, {"CSeq", cseq + " CANCEL"}}
	c.u.send(m)
}

// request takes a request of the gateway within the dialog.
func (c *uaCall) request(m *message) {
	switch m.method() {
	case "ACK":
		c.acked <- m
	case "BYE":
		c.u.respond(m, 200, "", nil)
		c.byed <- m.get("Reason")
	case "CANCEL":
		c.u.respond(m, 200, "", nil)
		c.u.respond(c.invite, 487, c.localTag, nil)
		select {
		case c.cancelled <- struct{}{}:
		default:
		}
	case "INVITE", "UPDATE":
		if m.method() == "UPDATE" && len(m.body) == 0 {
			c.u.respond(m, 200, "", nil)
			return
		}
		go func() {
			c.u.mu.Lock()
			f := c.reinvited
			c.u.mu.Unlock()
			code, answer := f(m.body)
			c.u.respond(m, code, "", answer)
			c.offers <- m.body
		}()
	case "INFO":
		c.u.respond(m, 200, "", nil)
		c.infos <- m
	default:
		c.u.respond(m, 200, "", nil)
	}
}

// respondInvite answers the INVITE that made this call.
func (c *uaCall) respond(code int, body []byte) {
	c.u.respond(c.invite, code, c.localTag, body)
}

// accept answers 200 and waits for the ACK.
func (c *uaCall) accept(body []byte) *message {
	c.u.t.Helper()
	c.respond(200, body)
	select {
	case a := <-c.acked:
		return a
	case <-time.After(patience):
		c.u.t.Fatalf("the 200 of %s was not acknowledged\n%s", c.u.user, c.u.log())
		return nil
	}
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

// reinvite sends a re-INVITE and returns the final response, acknowledged.
func (c *uaCall) reinvite(offer []byte) *message {
	c.u.t.Helper()
	c.cseq++
	m := c.make("INVITE", c.cseq)
	if offer != nil {
		m.body = offer
		m.header = append(m.header, [2]string{"Content-Type", "application/sdp"})
	}
	ch := c.u.expect(m)
	c.u.send(m)
	for {
		r := c.u.want(ch, "re-INVITE")
		switch {
		case r.code() < 200:
			continue
		case r.code() < 300 && offer != nil:
			c.ack(m, nil)
		case r.code() >= 300:
			c.ackFailure(m, r)
		}
		return r
	}
}

// ackLast acknowledges the last re-INVITE with an answer.
func (c *uaCall) ackLast(body []byte) { c.ack(c.make("INVITE", c.cseq), body) }

func (c *uaCall) do(method, contentType string, body []byte) *message {
	c.u.t.Helper()
	c.cseq++
	m := c.make(method, c.cseq)
	if body != nil {
		m.body = body
		m.header = append(m.header, [2]string{"Content-Type", contentType})
	}
	r, err := c.u.transact(m)
	if err != nil {
		c.u.t.Fatalf("%s: %v\n%s", c.u.user, err, c.u.log())
	}
	return r
}

func (c *uaCall) bye() {
	c.u.t.Helper()
	if r := c.do("BYE", "", nil); r.code() != 200 {
		c.u.t.Errorf("BYE of %s got %s", c.u.user, r.start)
	}
}

// wantBye waits for the gateway's BYE and returns its Reason.
func (c *uaCall) wantBye(within time.Duration) string {
	c.u.t.Helper()
	select {
	case r := <-c.byed:
		return r
	case <-time.After(within):
		c.u.t.Fatalf("no BYE came to %s within %v\n%s", c.u.user, within, c.u.log())
		return ""
	}
}
