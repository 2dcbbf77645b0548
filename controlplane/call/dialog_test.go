package call_test

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"
)

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

// start sends the INVITE that counts.
func (c *uaCall) start(m *message) {
	ch := c.u.expect(m)
	c.invite = m
	c.u.persist(m, m.branch())
	go c.collect(m, ch)
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
	c.u.persist(m, m.branch())
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
