package sip

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"
)

// anotherAddress is a peer that sends from 127.0.0.2.
func (w *world) anotherAddress(user string) *peer {
	w.Helper()
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.UDPAddrFromAddrPort(w.s.Addr("main", UDP)))
	if err != nil {
		w.Fatal(err)
	}
	p := &peer{T: w.T, user: user, password: w.s.cfg.Users.(passwords)[user], transport: "UDP", local: c.LocalAddr().String(), in: make(chan gosip.Message, 64), seq: 1}
	p.write = func(b []byte) error { _, err := c.Write(b); return err }
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if m, _, err := newReader().read(buf[:n]); err == nil {
				p.in <- m
			}
		}
	}()
	w.Cleanup(func() { c.Close(); <-done })
	return p
}

// An INVITE that comes again gets the last response again and is one call.
func TestRepeatedInvite(t *testing.T) {
	w := newWorld(t, asTrunk)
	p := w.newPeer("4711", "UDP")
	l := p.inviteRaw("phone2", "offer", "", "")
	p.response(100, "INVITE")
	i := w.invite()
	repeat := func() { p.send(l.lastRequest + "\n" + "offer") }
	repeat()
	p.response(100, "INVITE")
	_ = i.Progress(180, nil)
	p.response(180, "INVITE")
	repeat()
	p.response(180, "INVITE")
	if err := i.Reject(486, "Busy Here"); err != nil {
		t.Fatal(err)
	}
	res := p.response(486, "INVITE")
	repeat()
	p.response(486, "INVITE")
	p.response(486, "INVITE") // timer G, until the ACK
	p.ackFailure(l, res)
	p.quiet(60*time.Millisecond, "486", func(m gosip.Message) bool { return true })
	select {
	case <-w.invites:
		t.Fatal("a repetition became a call")
	default:
	}
	if err := i.Reject(480, ""); err == nil {
		t.Fatal("a second final response")
	}
}

// The same INVITE by two ways (8.2.2.2).
func TestMergedInvite(t *testing.T) {
	w := newWorld(t, asTrunk)
	p := w.newPeer("4711", "UDP")
	l := p.inviteRaw("phone2", "offer", "", "")
	i := w.invite()
	p.send(strings.Replace(l.lastRequest, l.invite, p.via(), 1) + "\noffer")
	p.response(482, "INVITE")
	_ = i.Reject(480, "")
	p.ackFailure(l, p.response(480, "INVITE"))
}

// Over UDP the answer goes to the Via's port when there is no rport, and to the
// source when there is (RFC 3261 18.2.2, RFC 3581).
func TestResponseWay(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("a", "UDP")
	q, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	options := func(via string) {
		p.send("OPTIONS sip:gw.test SIP/2.0\nVia: SIP/2.0/UDP " + via + ";branch=z9hG4bK" + fmt.Sprint(time.Now().UnixNano()) + "\nFrom: <sip:a@b>;tag=1\nTo: <sip:b@b>\nCall-ID: w\nCSeq: 1 OPTIONS\n\n")
	}
	options("10.9.8.7:" + strings.Split(q.LocalAddr().String(), ":")[1])
	buf := make([]byte, 4096)
	_ = q.SetReadDeadline(time.Now().Add(3 * time.Second))
	n, _, err := q.ReadFrom(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "received=127.0.0.1") {
		t.Fatalf("%v %q", err, buf[:n])
	}
	options("10.9.8.7:9;rport")
	res := p.response(200, "OPTIONS")
	if got, _ := res.Via().Params.Get("rport"); got != strings.Split(p.local, ":")[1] {
		t.Fatalf("rport=%s", got)
	}
}

func TestMaxForwards(t *testing.T) {
	w := newWorld(t, asTrunk)
	p := w.newPeer("4711", "UDP")
	for mf, want := range map[string]int{"0": 483, "1": 480} {
		p.send(fmt.Sprintf("INVITE sip:x@gw.test SIP/2.0\n%s\nMax-Forwards: %s\nFrom: <sip:a@b>;tag=%s\nTo: <sip:x@gw.test>\nCall-ID: mf%s\nCSeq: 1 INVITE\nContact: %s\n\n", p.via(), mf, mf, mf, p.contact()))
		if want == 480 {
			i := w.invite()
			if i.MaxForwards() != 1 {
				t.Fatal(i.MaxForwards())
			}
			_ = i.Reject(480, "")
		}
		if res := p.final("INVITE"); res.StatusCode != want {
			t.Fatalf("Max-Forwards %s: %d", mf, res.StatusCode)
		}
	}
}

// Who is not on the path can neither cancel nor hang up, though he knows every
// tag and branch.
func TestOffPath(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	thief := w.anotherAddress("phone2")
	l := p.invite("phone2", "offer", "")
	i := w.invite()
	thief.send("CANCEL sip:phone2@" + testDomain + " SIP/2.0\n" + l.invite + "\nFrom: " + l.local + "\nTo: " + l.remote + "\nCall-ID: " + l.callID + "\nCSeq: 2 CANCEL\n\n")
	thief.response(481, "CANCEL")
	h := newHandler()
	c := accept(i, "answer", h)
	ok := p.response(200, "INVITE")
	l.established(ok)
	stolen := *l
	stolen.p = thief
	stolen.ack("")
	select {
	case <-c:
		t.Fatal("somebody else's ACK counts")
	case <-time.After(50 * time.Millisecond):
	}
	l.ack("")
	if a := w.wait(c); a.err != nil {
		t.Fatal(a.err)
	}
	stolen.seq = 50
	stolen.do("BYE", "", "")
	if res := thief.final("BYE"); res.StatusCode != 407 {
		t.Fatalf("somebody else's BYE: %d", res.StatusCode)
	}
	stolen.do("BYE", thief.credentials(mustChallenge(&stolen, thief), "BYE", l.target)+"\n", "")
	if res := thief.final("BYE"); res.StatusCode != 403 {
		t.Fatalf("another user's BYE: %d", res.StatusCode)
	}
	h.none(t)

	// The user himself, from another address: a phone that changed networks.
	q := w.anotherAddress("phone1")
	l.p = q
	l.do("INFO", q.credentials(challengeOf(l, q, "INFO"), "INFO", l.target)+"\nContent-Type: a/b\n", "x")
	q.response(200, "INFO")
	h.want(t, "info")
	l.do("BYE", "", "")
	q.response(200, "BYE")
}

func challengeOf(l *leg, p *peer, method string) *gosip.Response {
	l.do(method, "Content-Type: a/b\n", "x")
	return p.response(407, method)
}

// A long ringing is kept alive (13.3.1.1).
func TestLongRinging(t *testing.T) {
	t.Parallel()
	w := newWorld(t, asTrunk, func(p *pace) { p.ringing = 50 * time.Millisecond })
	p := w.newPeer("4711", "UDP")
	l := p.inviteRaw("phone2", "offer", "", "")
	i := w.invite()
	_ = i.Progress(183, []byte("early"))
	for range 3 {
		if res := p.response(183, "INVITE"); string(res.Body()) != "early" {
			t.Fatalf("repeated: %s", res)
		}
	}
	_ = i.Reject(603, "")
	p.ackFailure(l, p.response(603, "INVITE"))
}

// A caller behind a proxy is reached by the proxy.
func TestRecordRouteOfCaller(t *testing.T) {
	w := newWorld(t, asTrunk)
	proxy := w.newPeer("proxy", "UDP")
	caller := w.newPeer("4711", "UDP")
	l := caller.inviteRaw("phone2", "offer", "Record-Route: <sip:"+proxy.local+";lr>\n", "")
	c := accept(w.invite(), "answer", newHandler())
	l.answered(caller.response(200, "INVITE"), "")
	a := w.wait(c)
	if a.err != nil {
		t.Fatal(a.err)
	}
	go a.d.Bye(context.Background(), "")
	bye := proxy.request("BYE")
	if "<"+bye.Recipient.String()+">" != caller.contact() || value(bye, "Route") != "<sip:"+proxy.local+";lr>" {
		t.Fatalf("BYE: %s", bye)
	}
	proxy.reply(bye, 200, "", "", "")
}

// A phone whose NAT gives it another port goes on with its call.
func TestNATRebind(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l, d, h := w.in(p, "")
	q := w.newPeer("phone1", "UDP")
	l.p = q
	l.do("UPDATE", "", "")
	q.response(200, "UPDATE")
	go d.Bye(context.Background(), "")
	q.reply(q.request("BYE"), 200, "", "", "")
	h.none(t)
}

// A stream's ping in two reads, and messages behind each other in one.
func TestStreamFraming(t *testing.T) {
	w := newWorld(t)
	c, err := net.Dial("tcp", w.s.Addr("main", TCP).String())
	if err != nil {
		t.Fatal(err)
	}
	p := streamPeer(w, "a", "TCP", c)
	one := func(n int, body string) string {
		return fmt.Sprintf("OPTIONS sip:gw.test SIP/2.0\r\n%s\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: f%d\r\nCSeq: 1 OPTIONS\r\nl: %d\r\n\r\n%s", p.via(), n, len(body), body)
	}
	_ = p.write([]byte("\r\n\r\n" + one(1, "") + one(2, "a body\r\n\r\n") + "\r\n\r\n" + one(3, "")))
	for range 3 {
		p.response(200, "OPTIONS")
	}
	for _, b := range []byte(one(4, "xyz")) {
		_ = p.write([]byte{b})
	}
	p.response(200, "OPTIONS")
	_ = p.write([]byte("OPTIONS sip:gw.test SIP/2.0\r\n" + p.via() + "\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: f5\r\nCSeq: 1 OPTIONS\r\n\r\n"))
	if res := p.final("OPTIONS"); res.StatusCode != 400 {
		t.Fatalf("without Content-Length: %d", res.StatusCode)
	}
}
