package sip

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

type reinvited struct {
	sdp []byte
	err error
}

func reinvite(d call.Dialog, offer []byte, reply func([]byte) []byte) chan reinvited {
	c := make(chan reinvited, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		sdp, err := d.Reinvite(ctx, offer, reply)
		c <- reinvited{sdp, err}
	}()
	return c
}

func (w *world) reinvited(c chan reinvited) reinvited {
	w.Helper()
	select {
	case r := <-c:
		return r
	case <-time.After(patience):
		w.Fatal("Reinvite did not return")
		return reinvited{}
	}
}

func TestReinviteByPeer(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr, func(t *testing.T) {
			w := newWorld(t)
			p := w.newPeer("phone1", tr)
			l, _, h := w.in(p, "")

			l.do("INVITE", "", "hold")
			ok := p.response(200, "INVITE")
			h.want(t, "reinvite hold")
			if string(ok.Body()) != "answer" || value(ok, "Contact") == "" {
				t.Fatalf("200: %s", ok)
			}
			p.response(200, "INVITE") // until the ACK
			l.ack("")

			h.answers(func(context.Context, []byte) ([]byte, int) { return []byte("our offer"), 200 })
			l.do("INVITE", "", "") // without SDP: we offer
			p.response(200, "INVITE")
			h.want(t, "reinvite ")
			l.ack("their answer")
			h.want(t, "ack their answer")

			l.do("UPDATE", "", "")
			if ok = p.response(200, "UPDATE"); len(ok.Body()) != 0 {
				t.Fatal("UPDATE without SDP got SDP")
			}
			h.none(t)
			l.do("UPDATE", "", "resume")
			h.want(t, "reinvite resume")
			if ok = p.response(200, "UPDATE"); string(ok.Body()) != "our offer" {
				t.Fatalf("UPDATE with SDP: %s", ok)
			}

			h.answers(func(context.Context, []byte) ([]byte, int) { return nil, 488 })
			l.do("INVITE", "", "video")
			p.response(488, "INVITE")
			h.want(t, "reinvite video")
			l.ack("")

			l.do("INFO", "Content-Type: application/dtmf-relay\n", "Signal=5")
			p.response(200, "INFO")
			h.want(t, "info application/dtmf-relay Signal=5")
			l.do("OPTIONS", "", "")
			if ok := p.response(200, "OPTIONS"); value(ok, "Allow") == "" {
				t.Fatal("OPTIONS without Allow")
			}
			for method, code := range map[string]int{"MESSAGE": 405, "REFER": 405, "NOTIFY": 489, "PRACK": 405, "FROB": 501} {
				l.do(method, "", "")
				p.response(code, method)
			}
			l.send("INFO", 2, "", "")
			p.response(500, "INFO")
			l.do("BYE", "Require: 100rel\n", "")
			if res := p.response(420, "BYE"); value(res, "Unsupported") != "100rel" {
				t.Fatal("420 without Unsupported")
			}
			l.do("BYE", "", "")
			p.response(200, "BYE")
			h.want(t, "bye")
		})
	}
}

func TestReinviteByUs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	p.register("")
	l, d, h := w.out(p, "")

	c := reinvite(d, []byte("hold"), nil)
	req := p.request("INVITE")
	if string(req.Body()) != "hold" || tagOf(req.To().Params) != "callee" {
		t.Fatalf("re-INVITE: %s", req)
	}
	p.reply(req, 200, "", "", "held")
	p.request("ACK")
	if r := w.reinvited(c); r.err != nil || string(r.sdp) != "held" {
		t.Fatalf("%+v", r)
	}
	p.reply(req, 200, "", "", "held")
	p.request("ACK")

	c = reinvite(d, nil, func(offer []byte) []byte { return []byte("answer to " + string(offer)) })
	req = p.request("INVITE")
	p.reply(req, 200, "", "", "theirs")
	if ack := p.request("ACK"); string(ack.Body()) != "answer to theirs" {
		t.Fatalf("ACK: %s", ack)
	}
	w.reinvited(c)

	c = reinvite(d, []byte("video"), nil)
	p.reply(p.request("INVITE"), 488, "", "", "")
	var re *call.ResponseError
	if r := w.reinvited(c); !errors.As(r.err, &re) || re.Code != 488 {
		t.Fatalf("%+v", r)
	}

	// Their INVITE while ours is under way: 491. Ours gets 491 too, and comes
	// again a little later.
	c = reinvite(d, []byte("mine"), nil)
	req = p.request("INVITE")
	l.do("INVITE", "", "theirs")
	res := p.response(491, "INVITE")
	l.ack("")
	_ = res
	p.reply(req, 491, "", "", "")
	begin := time.Now()
	req = p.request("INVITE")
	if wait := time.Since(begin); wait < 2*time.Second || wait > 4200*time.Millisecond {
		t.Fatalf("RFC 3261 14.1: the owner of the Call-ID waits 2.1 to 4 s, it was %s", wait)
	}
	p.reply(req, 200, "", "", "ok")
	p.request("ACK")
	if r := w.reinvited(c); r.err != nil || string(r.sdp) != "ok" {
		t.Fatalf("%+v", r)
	}
	h.none(t)

	// Ours while the far side's is with the call.
	hold, release := make(chan struct{}), make(chan struct{})
	h.answers(func(context.Context, []byte) ([]byte, int) { close(hold); <-release; return []byte("a"), 200 })
	l.do("INVITE", "", "slow")
	<-hold
	l.do("INVITE", "", "another")
	if res := p.response(500, "INVITE"); value(res, "Retry-After") == "" {
		t.Fatal("500 without Retry-After")
	}
	r := w.reinvited(reinvite(d, []byte("mine"), nil))
	if !errors.As(r.err, &re) || re.Code != 491 {
		t.Fatalf("%+v", r)
	}
	close(release)
	p.response(200, "INVITE")
	l.send("ACK", 102, "", "")

	// A dialog the far side does not know any more.
	c = reinvite(d, []byte("x"), nil)
	p.reply(p.request("INVITE"), 481, "", "", "")
	p.reply(p.request("BYE"), 481, "", "", "")
	w.reinvited(c)
	h.want(t, "reinvite slow")
	h.want(t, "failed")
	if n := w.s.dialogs.len(); n != 0 {
		t.Fatalf("%d dialogs left", n)
	}
}

func TestReinviteNoAck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l, _, h := w.in(p, "")
	l.do("INVITE", "", "hold")
	h.want(t, "reinvite hold")
	p.reply(p.request("BYE"), 200, "", "", "")
	h.want(t, "failed no ACK")
}

func TestReinviteCancelled(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l, _, h := w.in(p, "")
	h.answers(func(ctx context.Context, _ []byte) ([]byte, int) { <-ctx.Done(); return nil, 487 })
	l.seq++
	via := l.send("INVITE", l.seq, "", "hold")
	h.want(t, "reinvite hold")
	p.send("CANCEL " + l.target + " SIP/2.0\n" + via + "\nMax-Forwards: 70\nFrom: " + l.local + "\nTo: " + l.remote + "\nCall-ID: " + l.callID + "\nCSeq: 3 CANCEL\n\n")
	p.response(200, "CANCEL")
	p.response(487, "INVITE")
	l.do("BYE", "", "")
	p.response(200, "BYE")
	h.want(t, "bye")
}

// Session timers run a hundred times faster here: 90 s are 0.9 s.
func TestSessionTimerByPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(p *pace) { p.hurry = 100 })
	p := w.newPeer("web1", "WS")
	l := p.invite("phone2", "offer", "Supported: timer\nSession-Expires: 90\n")
	h := newHandler()
	a := accept(w.invite(), "answer", h)
	ok := p.response(200, "INVITE")
	if value(ok, "Session-Expires") != "90;refresher=uac" || value(ok, "Require") != "timer" {
		t.Fatalf("Session-Expires: %q, Require: %q", value(ok, "Session-Expires"), value(ok, "Require"))
	}
	l.answered(ok, "")
	d := w.wait(a).d
	if s := d.Snapshot(); s.SessionExpires != 90*time.Second || s.Refresher {
		t.Fatalf("%+v", s)
	}
	for range 4 { // as JsSIP does: UPDATE at half of the interval
		time.Sleep(450 * time.Millisecond) // the peer's own clock
		l.do("UPDATE", "Supported: timer\nSession-Expires: 90;refresher=uac\n", "")
		if ok := p.response(200, "UPDATE"); value(ok, "Session-Expires") != "90;refresher=uac" {
			t.Fatalf("UPDATE: Session-Expires: %q", value(ok, "Session-Expires"))
		}
	}
	h.none(t)
	bye := p.request("BYE") // it stops refreshing
	p.reply(bye, 200, "", "", "")
	h.want(t, "failed session timer")
}

func TestSessionTimerByUs(t *testing.T) {
	t.Parallel()
	for _, update := range []bool{true, false} {
		w := newWorld(t, func(p *pace) { p.hurry = 100 })
		p := w.newPeer("phone1", "UDP")
		p.register("")
		allow, method := "", "INVITE"
		if update {
			allow, method = "Allow: INVITE, UPDATE\n", "UPDATE"
		}
		_, d, h := w.out(p, "Session-Expires: 100;refresher=uac\n"+allow)
		if s := d.Snapshot(); s.SessionExpires != 100*time.Second || !s.Refresher {
			t.Fatalf("%+v", s)
		}
		for range 2 {
			req := p.request(method)
			if got := value(req, "Session-Expires"); got != "100;refresher=uac" {
				t.Fatalf("refresh: Session-Expires %q", got)
			}
			sdp := ""
			if !update {
				if string(req.Body()) != "offer" {
					t.Fatalf("refresh by another offer: %q", req.Body())
				}
				sdp = "answer"
			}
			p.reply(req, 200, "", "Session-Expires: 100;refresher=uac\n", sdp)
		}
		h.none(t)
		// Nobody answers any more.
		p.reply(p.next("BYE", func(m gosip.Message) bool { return strings.HasPrefix(startLine(m), "BYE") }).(*gosip.Request), 200, "", "", "")
		h.want(t, "failed")
	}
}

func TestSessionIntervalTooSmall(t *testing.T) {
	w := newWorld(t)
	p := w.newPeer("phone1", "UDP")
	l := p.invite("phone2", "offer", "Supported: timer\nSession-Expires: 30\n")
	res := p.response(422, "INVITE")
	if value(res, "Min-SE") != "90" {
		t.Fatalf("Min-SE %q", value(res, "Min-SE"))
	}
	p.ackFailure(l, res)
}
