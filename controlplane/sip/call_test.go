package sip

import (
	"context"
	"errors"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

var transports = []string{"UDP", "TCP", "WS"}

type accepted struct {
	d      call.Dialog
	answer []byte
	err    error
}

func accept(i call.Invite, sdp string, h call.DialogHandler) chan accepted {
	c := make(chan accepted, 1)
	go func() {
		d, a, err := i.Accept(context.Background(), []byte(sdp), h)
		c <- accepted{d, a, err}
	}()
	return c
}

func (w *world) wait(c chan accepted) accepted {
	w.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(patience):
		w.Fatal("Accept did not return")
		return accepted{}
	}
}

// in brings up a call from a peer and returns both views of it.
func (w *world) in(p *peer, extra string) (*leg, call.Dialog, *handler) {
	w.Helper()
	l := p.invite("phone2", "offer", extra)
	i := w.invite()
	h := newHandler()
	c := accept(i, "answer", h)
	l.answered(p.response(200, "INVITE"), "")
	a := w.wait(c)
	if a.err != nil {
		w.Fatal(a.err)
	}
	return l, a.d, h
}

// out brings up a call to a registered peer.
func (w *world) out(p *peer, extra string) (*leg, call.Dialog, *handler) {
	w.Helper()
	h := newHandler()
	o, err := w.s.Invite(context.Background(), w.target(p.user), call.Address{User: "web1"}, call.Address{User: p.user}, []byte("offer"), nil, h)
	if err != nil {
		w.Fatal(err)
	}
	req := p.request("INVITE")
	p.reply(req, 200, "callee", extra, "answer")
	p.request("ACK")
	r := w.nextResponse(o)
	if r.Code != 200 || r.Dialog == nil {
		w.Fatalf("response %+v", r)
	}
	return p.legOf(req, "callee"), r.Dialog, h
}

func (w *world) nextResponse(o call.Outgoing) call.Response {
	w.Helper()
	select {
	case r, ok := <-o.Responses():
		if !ok {
			w.Fatal("responses closed")
		}
		return r
	case <-time.After(patience):
		w.Fatal("no response")
	}
	return call.Response{}
}

func TestCallIn(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr, func(t *testing.T) {
			w := newWorld(t)
			p := w.newPeer("phone1", tr)
			p.register("")
			l := p.invite("phone2", "offer", "")
			p.response(100, "INVITE")
			i := w.invite()
			if i.Party().User != "phone1" || i.Party().WebRTC != (tr == "WS") || i.To().User != "phone2" || string(i.Offer()) != "offer" || i.From().User != "phone1" {
				t.Fatalf("invite %+v to %+v", i.Party(), i.To())
			}
			if err := i.Progress(180, nil); err != nil {
				t.Fatal(err)
			}
			ringing := p.response(180, "INVITE")
			if err := i.Progress(183, []byte("early")); err != nil {
				t.Fatal(err)
			}
			early := p.response(183, "INVITE")
			if tagOf(early.To().Params) == "" || tagOf(early.To().Params) != tagOf(ringing.To().Params) || string(early.Body()) != "early" {
				t.Fatalf("183: %s", early)
			}
			h := newHandler()
			c := accept(i, "answer", h)
			ok := p.response(200, "INVITE")
			if tagOf(ok.To().Params) != tagOf(early.To().Params) || string(ok.Body()) != "answer" {
				t.Fatalf("200: %s", ok)
			}
			p.response(200, "INVITE") // repeated until the ACK
			l.answered(ok, "")
			a := w.wait(c)
			if a.err != nil || a.answer != nil {
				t.Fatalf("accepted: %+v", a)
			}
			l.do("BYE", "Reason: Q.850;cause=16\n", "")
			p.response(200, "BYE")
			h.want(t, "bye Q.850;cause=16")
			l.do("OPTIONS", "", "")
			p.response(481, "OPTIONS")
		})
	}
}

func TestCallOut(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr, func(t *testing.T) {
			w := newWorld(t)
			p := w.newPeer("phone1", tr)
			p.register("")
			h := newHandler()
			o, err := w.s.Invite(context.Background(), w.target("phone1"), call.Address{Display: `A "q" b`, User: "web1"}, call.Address{User: "phone1"}, []byte("offer"), []call.Header{{Name: "X-A", Value: "1"}}, h)
			if err != nil {
				t.Fatal(err)
			}
			req := p.request("INVITE")
			if string(req.Body()) != "offer" || value(req, "X-A") != "1" || addressOf(value(req, "From")) != (call.Address{Display: `A "q" b`, User: "web1", Host: testDomain}) {
				t.Fatalf("INVITE: %s", req)
			}
			p.reply(req, 100, "", "", "")
			for range 12 { // sipgo's own dialog client gives up after ten
				p.reply(req, 180, "callee", "", "")
			}
			for range 12 {
				if r := w.nextResponse(o); r.Code != 180 || r.Tag != "callee" {
					t.Fatalf("response %+v", r)
				}
			}
			p.reply(req, 200, "callee", "", "answer")
			ack := p.request("ACK")
			if ack.CSeq().SeqNo != req.CSeq().SeqNo {
				t.Fatal("ACK has another CSeq")
			}
			r := w.nextResponse(o)
			if r.Code != 200 || string(r.SDP) != "answer" || r.Dialog == nil {
				t.Fatalf("response %+v", r)
			}
			p.reply(req, 200, "callee", "", "answer") // its ACK was lost
			p.request("ACK")
			done := make(chan error, 1)
			go func() { done <- r.Dialog.Bye(context.Background(), "SIP;cause=200") }()
			bye := p.request("BYE")
			if bye.CSeq().SeqNo <= req.CSeq().SeqNo || value(bye, "Reason") != "SIP;cause=200" {
				t.Fatalf("BYE: %s", bye)
			}
			p.reply(bye, 200, "", "", "")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			h.none(t)
		})
	}
}

func TestCancelIn(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l := p.invite("phone2", "offer", "")
	i := w.invite()
	if err := i.Progress(180, nil); err != nil {
		t.Fatal(err)
	}
	p.response(180, "INVITE")
	p.send("CANCEL sip:phone2@" + testDomain + " SIP/2.0\n" + l.invite + "\nMax-Forwards: 70\nFrom: " + l.local + "\nTo: " + l.remote + "\nCall-ID: " + l.callID + "\nCSeq: 2 CANCEL\n\n")
	p.response(200, "CANCEL")
	res := p.response(487, "INVITE")
	<-i.Cancelled()
	if _, _, err := i.Accept(context.Background(), []byte("late"), newHandler()); !errors.Is(err, call.ErrEnded) {
		t.Fatalf("Accept after CANCEL: %v", err)
	}
	// The 487 is repeated, not the 200 that came too late.
	again := p.final("INVITE")
	if again.StatusCode != 487 {
		t.Fatalf("after CANCEL: %d", again.StatusCode)
	}
	p.ackFailure(l, res)
	if n := w.s.dialogs.len(); n != 0 {
		t.Fatalf("%d dialogs are left", n)
	}
}

func TestNoAck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, impatient)
	p := w.newPeer("phone1", "TCP")
	p.invite("phone2", "offer", "")
	c := accept(w.invite(), "answer", newHandler())
	p.response(200, "INVITE")
	bye := p.request("BYE")
	p.reply(bye, 200, "", "", "")
	if a := w.wait(c); !errors.Is(a.err, call.ErrNoAck) {
		t.Fatalf("Accept without ACK: %v", a.err)
	}
}

func TestDelayedOffer(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	p.register("")
	l := p.invite("phone2", "", "")
	i := w.invite()
	if i.Offer() != nil {
		t.Fatal("an offer from nowhere")
	}
	c := accept(i, "our offer", newHandler())
	l.established(p.response(200, "INVITE"))
	l.ack("their answer")
	if a := w.wait(c); a.err != nil || string(a.answer) != "their answer" {
		t.Fatalf("accepted %+v", a)
	}

	o, err := w.s.Invite(context.Background(), w.target("phone1"), call.Address{User: "web1"}, call.Address{User: "phone1"}, nil, nil, newHandler())
	if err != nil {
		t.Fatal(err)
	}
	req := p.request("INVITE")
	if len(req.Body()) != 0 {
		t.Fatal("INVITE has a body")
	}
	p.reply(req, 200, "callee", "", "their offer")
	r := w.nextResponse(o)
	if string(r.SDP) != "their offer" {
		t.Fatalf("response %+v", r)
	}
	if err := r.Dialog.Ack([]byte("our answer")); err != nil {
		t.Fatal(err)
	}
	if ack := p.request("ACK"); string(ack.Body()) != "our answer" {
		t.Fatalf("ACK: %s", ack)
	}
}

// The ACK is lost and BYE comes: the call was answered and is over.
func TestByeInsteadOfAck(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l := p.invite("phone2", "offer", "")
	h := newHandler()
	c := accept(w.invite(), "answer", h)
	l.established(p.response(200, "INVITE"))
	l.do("BYE", "", "")
	p.response(200, "BYE")
	if a := w.wait(c); a.err != nil || a.d == nil {
		t.Fatalf("%+v", a)
	}
	h.want(t, "bye")

	l = p.invite("phone2", "", "") // but not without the answer to our offer
	c = accept(w.invite(), "our offer", h)
	l.established(p.response(200, "INVITE"))
	l.do("BYE", "", "")
	if a := w.wait(c); !errors.Is(a.err, call.ErrEnded) {
		t.Fatalf("%+v", a)
	}
}

// BYE before the answer ends the INVITE as CANCEL does, by its sender only.
func TestByeEarly(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l := p.invite("phone2", "offer", "")
	i := w.invite()
	if err := i.Progress(180, nil); err != nil {
		t.Fatal(err)
	}
	l.established(p.response(180, "INVITE"))
	inviteSeq := l.seq

	stranger := w.newPeer("web1", "WS")
	l.p = stranger
	l.do("BYE", "", "")
	stranger.response(481, "BYE")
	l.p = p
	tag := l.remote
	l.remote += "x"
	l.do("BYE", "", "")
	p.response(481, "BYE")
	l.remote = tag
	select {
	case <-i.Cancelled():
		t.Fatal("somebody else's BYE ended the INVITE")
	default:
	}

	l.do("BYE", "", "")
	codes := map[string]int{}
	for range 2 {
		r := p.next("final response", func(m gosip.Message) bool {
			r, ok := m.(*gosip.Response)
			return ok && r.StatusCode >= 200 && codes[string(r.CSeq().MethodName)] == 0
		}).(*gosip.Response)
		codes[string(r.CSeq().MethodName)] = r.StatusCode
		if r.StatusCode == 487 {
			byeSeq := l.seq
			l.seq = inviteSeq
			p.ackFailure(l, r)
			l.seq = byeSeq
		}
	}
	if codes["BYE"] != 200 || codes["INVITE"] != 487 {
		t.Fatalf("%v", codes)
	}
	<-i.Cancelled()
	if _, _, err := i.Accept(context.Background(), []byte("late"), newHandler()); !errors.Is(err, call.ErrEnded) {
		t.Fatalf("Accept after BYE: %v", err)
	}
	l.do("BYE", "", "")
	p.response(481, "BYE")
}
