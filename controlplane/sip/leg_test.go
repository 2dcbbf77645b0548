package sip

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

// leg is the peer's view of a dialog.
type leg struct {
	p           *peer
	callID      string
	local       string // our From/To with tag
	remote      string
	target      string
	seq         uint32
	invite      string // branch of our INVITE
	lastRequest string
}

// invite calls a user, answering the challenge, and returns the leg before any
// answer.
func (p *peer) invite(to, sdp, extra string) *leg {
	p.Helper()
	l := p.inviteRaw(to, sdp, extra, "")
	res := p.final("INVITE")
	if res.StatusCode != 407 {
		p.Fatalf("INVITE without credentials: %d %s", res.StatusCode, res.Reason)
	}
	p.ackFailure(l, res)
	l.seq++
	return l.again(to, sdp, extra+p.credentials(res, "INVITE", "sip:"+to+"@"+testDomain)+"\n")
}

func (p *peer) inviteRaw(to, sdp, extra, from string) *leg {
	if from == "" {
		from = p.user
	}
	l := &leg{p: p, callID: "c" + rand.Text(), seq: 1}
	l.local = "<sip:" + from + "@" + testDomain + ">;tag=" + rand.Text()
	l.remote = "<sip:" + to + "@" + testDomain + ">"
	return l.again(to, sdp, extra)
}

func (l *leg) again(to, sdp, extra string) *leg {
	via := l.p.via()
	l.invite = via
	text := fmt.Sprintf("INVITE sip:%s@%s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d INVITE\nContact: %s\nAllow: INVITE, ACK, BYE, CANCEL, UPDATE, INFO\n%s",
		to, testDomain, via, l.local, l.remote, l.callID, l.seq, l.p.contact(), extra)
	if sdp != "" {
		text += "Content-Type: application/sdp\n"
	}
	l.lastRequest = text
	l.p.send(text + "\n" + sdp)
	return l
}

func (p *peer) ackFailure(l *leg, res *gosip.Response) {
	p.send(fmt.Sprintf("ACK %s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d ACK\n\n",
		"sip:x@"+testDomain, l.invite, l.local, value(res, "To"), l.callID, l.seq))
}

// answered takes a 2xx and sends the ACK.
func (l *leg) answered(res *gosip.Response, sdp string) {
	l.established(res)
	l.ack(sdp)
}

func (l *leg) established(res *gosip.Response) {
	l.remote = value(res, "To")
	na, _ := parseNameAddr(value(res, "Contact"))
	l.target = na.uri
}

func (l *leg) ack(sdp string) { l.send("ACK", l.seq, "", sdp) }

// send sends a request in the dialog.
func (l *leg) send(method string, seq uint32, extra, sdp string) string {
	via := l.p.via()
	text := fmt.Sprintf("%s %s SIP/2.0\n%s\nMax-Forwards: 70\nFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\nContact: %s\n%s",
		method, l.target, via, l.local, l.remote, l.callID, seq, method, l.p.contact(), extra)
	if sdp != "" && !strings.Contains(extra, "Content-Type") {
		text += "Content-Type: application/sdp\n"
	}
	l.p.send(text + "\n" + sdp)
	return via
}

// do sends a request with the next CSeq.
func (l *leg) do(method, extra, sdp string) {
	l.seq++
	l.send(method, l.seq, extra, sdp)
}

// reply answers a request of the server.
func (p *peer) reply(req *gosip.Request, code int, tag, extra, sdp string) {
	p.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d Text\n", code)
	for _, v := range req.GetHeaders("Via") {
		fmt.Fprintf(&b, "Via: %s\n", v.Value())
	}
	to := value(req, "To")
	if tag != "" && !strings.Contains(to, "tag=") {
		to += ";tag=" + tag
	}
	fmt.Fprintf(&b, "From: %s\nTo: %s\nCall-ID: %s\nCSeq: %s\nContact: %s\n%s", value(req, "From"), to, value(req, "Call-ID"), value(req, "CSeq"), p.contact(), extra)
	if sdp != "" {
		b.WriteString("Content-Type: application/sdp\n")
	}
	p.send(b.String() + "\n" + sdp)
}

// legOf is the callee's view of a dialog made by the server's INVITE.
func (p *peer) legOf(req *gosip.Request, tag string) *leg {
	na, _ := parseNameAddr(value(req, "Contact"))
	return &leg{p: p, callID: value(req, "Call-ID"), local: value(req, "To") + ";tag=" + tag, remote: value(req, "From"), target: na.uri, seq: 100}
}

// handler records what a dialog reports.
type handler struct {
	mu       sync.Mutex
	reinvite func(ctx context.Context, offer []byte) ([]byte, int)
	events   chan string
}

// answers sets what re-INVITEs are answered with.
func (h *handler) answers(f func(ctx context.Context, offer []byte) ([]byte, int)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reinvite = f
}

func newHandler() *handler { return &handler{events: make(chan string, 64)} }

func (h *handler) OnReinvite(ctx context.Context, offer []byte) ([]byte, int) {
	h.mu.Lock()
	f := h.reinvite
	h.mu.Unlock()
	h.events <- "reinvite " + string(offer)
	if f != nil {
		return f(ctx, offer)
	}
	return []byte("answer"), 200
}
func (h *handler) OnAck(a []byte) { h.events <- "ack " + string(a) }
func (h *handler) OnInfo(_ context.Context, t string, b []byte) int {
	h.events <- "info " + t + " " + string(b)
	return 200
}
func (h *handler) OnBye(r string)    { h.events <- "bye " + r }
func (h *handler) OnFlow(up bool)    { h.events <- fmt.Sprint("flow ", up) }
func (h *handler) OnFailed(r string) { h.events <- "failed " + r }

func (h *handler) want(t testing.TB, event string) {
	t.Helper()
	select {
	case e := <-h.events:
		if !strings.HasPrefix(e, event) {
			t.Fatalf("event %q, want %q", e, event)
		}
	case <-time.After(patience):
		t.Fatalf("no event %q", event)
	}
}

func (h *handler) none(t testing.TB) {
	t.Helper()
	select {
	case e := <-h.events:
		t.Fatalf("unexpected event %q", e)
	default:
	}
}

// target is how a call would reach a registered user.
func (w *world) target(user string) call.Target {
	w.Helper()
	bs, _ := w.loc.Lookup(context.Background(), location.AOR(user, testDomain))
	if len(bs) == 0 {
		w.Fatalf("%s is not registered", user)
	}
	b := bs[0]
	return call.Target{
		URI: b.Contact, Flow: b.Flow, Route: b.Path,
		Party: call.Party{User: user, Network: b.Network, Source: b.Source, WebRTC: b.WebRTC, Instance: b.Instance},
	}
}
