package sip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// dialTo places a call to a peer by its address.
func (w *world) dialTo(p *peer, change func(*call.Target)) (call.Outgoing, *handler) {
	w.Helper()
	t := call.Target{URI: strings.Trim(p.contact(), "<>"), Party: call.Party{Trunk: "pbx", Network: "main"}}
	if change != nil {
		change(&t)
	}
	h := newHandler()
	o, err := w.s.Invite(context.Background(), t, call.Address{User: "web1"}, call.Address{User: "4711"}, []byte("offer"), nil, h)
	if err != nil {
		w.Fatal(err)
	}
	return o, h
}

func (w *world) closed(o call.Outgoing) {
	w.Helper()
	select {
	case r, ok := <-o.Responses():
		if ok {
			w.Fatalf("another response: %+v", r)
		}
	case <-time.After(patience):
		w.Fatal("responses stay open after the final one")
	}
}

func TestForks(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("pbx", "UDP")
	o, _ := w.dialTo(p, nil)
	req := p.request("INVITE")
	for _, tag := range []string{"a", "b", "c"} {
		p.reply(req, 183, tag, "", "early "+tag)
	}
	seen := map[string]string{}
	for range 3 {
		r := w.nextResponse(o)
		seen[r.Tag] = string(r.SDP)
	}
	if seen["a"] != "early a" || seen["b"] != "early b" || seen["c"] != "early c" {
		t.Fatalf("early dialogs %v", seen)
	}
	p.reply(req, 200, "b", "", "answer b")
	if ack := p.request("ACK"); tagOf(ack.To().Params) != "b" {
		t.Fatal("ACK for another fork")
	}
	r := w.nextResponse(o)
	if r.Tag != "b" || r.Dialog == nil {
		t.Fatalf("%+v", r)
	}
	w.closed(o)
	p.reply(req, 200, "c", "", "answer c") // the race was lost
	if ack := p.request("ACK"); tagOf(ack.To().Params) != "c" {
		t.Fatal("the second answer is not acknowledged")
	}
	bye := p.request("BYE")
	if tagOf(bye.To().Params) != "c" {
		t.Fatal("BYE for another fork")
	}
	p.reply(bye, 200, "", "", "")
	p.reply(req, 200, "c", "", "answer c") // its ACK was lost
	if ack := p.request("ACK"); tagOf(ack.To().Params) != "c" {
		t.Fatal("the repeated second answer is not acknowledged")
	}
	p.quiet(100*time.Millisecond, "BYE", func(m gosip.Message) bool { return strings.HasPrefix(startLine(m), "BYE") })
	if n := w.s.dialogs.len(); n != 1 {
		t.Fatalf("%d dialogs, want the one answered first", n)
	}
}

func TestCancelOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPeer("pbx", "UDP")
	isCancel := func(m gosip.Message) bool { return strings.HasPrefix(startLine(m), "CANCEL") }

	// Not before a provisional response.
	o, _ := w.dialTo(p, nil)
	req := p.request("INVITE")
	o.Cancel(`SIP;cause=200;text="Call completed elsewhere"`)
	p.quiet(100*time.Millisecond, "CANCEL", isCancel)
	p.reply(req, 180, "x", "", "")
	cancel := p.request("CANCEL")
	if cancel.Via().Value() != req.Via().Value() || cancel.CSeq().SeqNo != req.CSeq().SeqNo || value(cancel, "Reason") == "" || tagOf(cancel.To().Params) != "" {
		t.Fatalf("CANCEL: %s", cancel)
	}
	p.reply(cancel, 200, "x", "", "")
	p.reply(req, 487, "x", "", "")
	p.request("ACK")
	if r := w.nextResponse(o); r.Code != 487 {
		t.Fatalf("%+v", r)
	}
	w.closed(o)

	// The 200 overtakes the CANCEL: ACK and BYE.
	o, _ = w.dialTo(p, nil)
	req = p.request("INVITE")
	p.reply(req, 180, "x", "", "")
	w.nextResponse(o)
	o.Cancel("")
	cancel = p.request("CANCEL")
	p.reply(req, 200, "x", "", "answer")
	p.reply(cancel, 200, "x", "", "")
	p.request("ACK")
	p.reply(p.request("BYE"), 200, "", "", "")
	if r := w.nextResponse(o); r.Code != 487 || r.Dialog != nil {
		t.Fatalf("%+v", r)
	}

	// CANCEL that nothing comes after: 64*T1, then it is over.
	o, _ = w.dialTo(p, nil)
	req = p.request("INVITE")
	p.reply(req, 180, "x", "", "")
	w.nextResponse(o)
	o.Cancel("")
	p.reply(p.request("CANCEL"), 200, "x", "", "")
	if r := w.nextResponse(o); r.Code != 487 {
		t.Fatalf("%+v", r)
	}

	// A context that ends cancels.
	ctx, stop := context.WithCancel(context.Background())
	_, err := w.s.Invite(ctx, call.Target{URI: strings.Trim(p.contact(), "<>"), Party: call.Party{Network: "main"}}, call.Address{User: "a"}, call.Address{User: "b"}, []byte("offer"), nil, newHandler())
	if err != nil {
		t.Fatal(err)
	}
	req = p.request("INVITE")
	p.reply(req, 180, "x", "", "")
	stop()
	p.reply(p.request("CANCEL"), 200, "x", "", "")
	p.reply(req, 487, "x", "", "")
	p.request("ACK")
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	for _, tr := range []string{"UDP", "TCP"} {
		p := w.newPeer("phone1", tr)
		p.register("")
		for _, code := range []int{302, 403, 404, 480, 486, 488, 500, 503, 603} {
			target := w.target("phone1")
			o, err := w.s.Invite(context.Background(), target, call.Address{User: "a"}, call.Address{User: "b"}, []byte("offer"), nil, newHandler())
			if err != nil {
				t.Fatal(err)
			}
			req := p.request("INVITE")
			p.reply(req, code, "x", "Retry-After: 7\nReason: Q.850;cause=17\n", "")
			ack := p.request("ACK")
			if ack.Via().Value() != req.Via().Value() || tagOf(ack.To().Params) != "x" {
				t.Fatalf("ACK: %s", ack)
			}
			r := w.nextResponse(o)
			if r.Code != code || len(r.Header) != 2 || r.Header[0] != (call.Header{Name: "Retry-After", Value: "7"}) {
				t.Fatalf("%+v", r)
			}
			w.closed(o)
			if tr != "UDP" {
				continue // nothing is repeated on a connection
			}
			// The ACK was lost: it comes again, at once, and holds nobody up.
			p.reply(req, code, "x", "", "")
			begin := time.Now()
			p.request("ACK")
			if d := time.Since(begin); d > 100*time.Millisecond {
				t.Fatalf("repeated ACK after %s", d)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPeer("pbx", "UDP")
	o, _ := w.dialTo(p, nil) // nobody answers
	if r := w.nextResponse(o); r.Code != 408 {
		t.Fatalf("silence: %+v", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	o, _ = w.dialTo(p, func(t *call.Target) { t.URI = "sip:" + l.Addr().String() + ";transport=tcp" })
	if r := w.nextResponse(o); r.Code != 503 {
		t.Fatalf("closed port: %+v", r)
	}
	o, _ = w.dialTo(p, func(t *call.Target) { t.Flow, t.Party.WebRTC = "wgone", true })
	if r := w.nextResponse(o); r.Code != 503 {
		t.Fatalf("flow that is gone: %+v", r)
	}
	// The connection ends while it rings.
	q := w.newPeer("web1", "WS")
	q.register("")
	o, err = w.s.Invite(context.Background(), w.target("web1"), call.Address{User: "a"}, call.Address{User: "b"}, []byte("offer"), nil, newHandler())
	if err != nil {
		t.Fatal(err)
	}
	q.request("INVITE")
	q.stop()
	if r := w.nextResponse(o); r.Code != 503 {
		t.Fatalf("connection lost: %+v", r)
	}
	for range 100 {
		if len(w.bindings("web1")) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the binding of a lost connection stays")
}

func TestTrunkChallenges(t *testing.T) {
	for _, code := range []int{401, 407} {
		w := newWorld(t)
		p := w.newPeer("pbx", "UDP")
		o, _ := w.dialTo(p, func(t *call.Target) { t.Username, t.Password = "acct", "secret" })
		ask, auth := "WWW-Authenticate", "Authorization"
		if code == 407 {
			ask, auth = "Proxy-Authenticate", "Proxy-Authorization"
		}
		ch := func(nonce, alg, extra string) string {
			return fmt.Sprintf("%s: Digest realm=\"carrier\", nonce=%q, algorithm=%s, qop=\"auth\"%s\n", ask, nonce, alg, extra)
		}
		req := p.request("INVITE")
		p.reply(req, code, "x", ch("n1", "MD5", "")+ch("n1", "SHA-256", ""), "")
		p.request("ACK")
		again := p.request("INVITE")
		if again.CSeq().SeqNo != req.CSeq().SeqNo+1 || again.CallID().Value() != req.CallID().Value() || again.Via().Value() == req.Via().Value() {
			t.Fatalf("INVITE with credentials: %s", again)
		}
		c, ok := parseCredentials(value(again, auth))
		if !ok || c.algorithm != SHA256 || c.expected("INVITE", "secret") != c.response || c.username != "acct" || c.realm != "carrier" {
			t.Fatalf("credentials %q", value(again, auth))
		}
		p.reply(again, code, "x", ch("n2", "MD5", ", stale=true"), "")
		p.request("ACK")
		again = p.request("INVITE")
		if c, ok := parseCredentials(value(again, auth)); !ok || c.nonce != "n2" {
			t.Fatalf("credentials %q", value(again, auth))
		}
		p.reply(again, 200, "x", "", "answer")
		if ack := p.request("ACK"); value(ack, auth) == "" {
			t.Fatal("RFC 3261 22.1: ACK without the INVITE's credentials")
		}
		r := w.nextResponse(o)
		if r.Code != 200 {
			t.Fatalf("%+v", r)
		}
		go r.Dialog.Bye(context.Background(), "")
		p.reply(p.request("BYE"), code, "", ch("n3", "MD5", ""), "")
		bye := p.request("BYE")
		if c, ok := parseCredentials(value(bye, auth)); !ok || c.expected("BYE", "secret") != c.response {
			t.Fatalf("BYE: %s", bye)
		}
		p.reply(bye, 200, "", "", "")

		// Wrong credentials are sent once.
		o, _ = w.dialTo(p, func(t *call.Target) { t.Username, t.Password = "acct", "wrong" })
		for range 2 {
			p.reply(p.request("INVITE"), code, "x", ch("n4", "MD5", ""), "")
			p.request("ACK")
		}
		if r := w.nextResponse(o); r.Code != code {
			t.Fatalf("%+v", r)
		}
	}
}

func TestMinSE(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("pbx", "UDP")
	o, _ := w.dialTo(p, nil)
	p.reply(p.request("INVITE"), 422, "x", "Min-SE: 3600\n", "")
	p.request("ACK")
	req := p.request("INVITE")
	if value(req, "Session-Expires") != "3600" || value(req, "Min-SE") != "3600" {
		t.Fatalf("INVITE after 422: %s", req)
	}
	p.reply(req, 486, "x", "", "")
	p.request("ACK")
	if r := w.nextResponse(o); r.Code != 486 {
		t.Fatalf("%+v", r)
	}
}

// Loose and strict routers, and a Path.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	proxy := w.newPeer("proxy", "UDP")
	for _, c := range []struct {
		name, path, uri string
		routes          []string
	}{
		{"loose", "sip:" + proxy.local + ";lr", "sip:phone@192.0.2.9", []string{"<sip:" + proxy.local + ";lr>"}},
		{"strict", "sip:" + proxy.local, "sip:" + proxy.local, []string{"<sip:phone@192.0.2.9>"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _ := w.dialTo(proxy, func(t *call.Target) { t.URI, t.Route = "sip:phone@192.0.2.9", []string{c.path} })
			req := proxy.request("INVITE")
			if req.Recipient.String() != c.uri || strings.Join(values(req, "Route"), ",") != strings.Join(c.routes, ",") {
				t.Fatalf("INVITE: %s", req)
			}
			rr := "<sip:" + proxy.local + ";lr>"
			proxy.reply(req, 200, "x", "Record-Route: <sip:192.0.2.7;lr>, "+rr+"\n", "answer")
			ack := proxy.request("ACK")
			// The UAC takes the route set in reverse (12.1.2).
			if got := strings.Join(values(ack, "Route"), ","); got != rr+",<sip:192.0.2.7;lr>" {
				t.Fatalf("route set %s", got)
			}
			w.nextResponse(o)
		})
	}
}

// A phone that a TCP connection has to be opened to.
func TestDialTCP(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &peer{T: t, user: "phone", transport: "TCP", local: l.Addr().String(), in: make(chan gosip.Message, 16)}
	conns := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go readAll(c, func(b []byte) {
				if m, _, err := newReader().read(b); err == nil {
					p.in <- m
				}
			})
		}
	}()
	for range 2 {
		// The connection it registered by is gone; its contact is not.
		o, _ := w.dialTo(p, func(t *call.Target) { t.Flow = "cgone" })
		req := p.request("INVITE")
		if !strings.Contains(value(req, "Contact"), fmt.Sprint(":", w.s.Addr("main", TCP).Port(), ";transport=tcp")) {
			t.Fatalf("Contact %s is not where we listen", value(req, "Contact"))
		}
		if p.write == nil {
			c := <-conns
			defer c.Close()
			p.write = func(b []byte) error { _, err := c.Write(b); return err }
		}
		p.reply(req, 486, "x", "", "")
		p.request("ACK")
		if r := w.nextResponse(o); r.Code != 486 {
			t.Fatalf("%+v", r)
		}
	}
	if len(conns) != 0 {
		t.Fatal("the second call opened another connection")
	}
}

func TestInviteErrors(t *testing.T) {
	w := newWorld(t)
	for _, c := range []call.Target{{URI: "tel:1"}, {URI: "sip:a@b", Party: call.Party{Network: "nowhere"}}, {URI: "sip:a b@c"}} {
		if _, err := w.s.Invite(context.Background(), c, call.Address{}, call.Address{}, nil, nil, nil); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	w.s.Close()
	if _, err := w.s.Invite(context.Background(), call.Target{URI: "sip:a@b"}, call.Address{}, call.Address{}, nil, nil, nil); !errors.Is(err, errFlowGone) {
		t.Errorf("after Close: %v", err)
	}
}

// The ACK of a repeated 2xx looks nothing up and opens no connection: it is sent
// where messages are read.
func TestAckAgainOpensNothing(t *testing.T) {
	w := newWorld(t)
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	conns, acks := make(chan net.Conn, 4), make(chan struct{}, 4)
	go func() {
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			conns <- c
			go readAll(c, func([]byte) { acks <- struct{}{} })
		}
	}()
	wait := func() {
		t.Helper()
		select {
		case <-acks:
		case <-time.After(patience):
			t.Fatal("no ACK by the route")
		}
	}
	p := w.newPeer("pbx", "UDP")
	o, _ := w.dialTo(p, nil)
	req := p.request("INVITE")
	route := "Record-Route: <sip:" + proxy.Addr().String() + ";transport=tcp;lr>\n"
	p.reply(req, 200, "x", route, "answer")
	wait()
	if r := w.nextResponse(o); r.Dialog == nil {
		t.Fatalf("%+v", r)
	}
	p.reply(req, 200, "x", route, "answer")
	wait() // by the same way
	(<-conns).Close()
	w.unconnected()
	p.reply(req, 200, "x", route, "answer")
	p.request("ACK")
	if len(conns) != 0 {
		t.Fatal("a repeated ACK opened a connection")
	}
}
