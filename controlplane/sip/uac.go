package sip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// maxProvisionals bounds what waits for a slow reader of Outgoing.Responses;
// more are dropped, the final response never is.
const maxProvisionals = 63

// firstSeq is where a CSeq starts (8.1.1.5).
func firstSeq() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:]) & 0xffff
}

// Invite implements call.Caller.
func (s *Server) Invite(ctx context.Context, t call.Target, from, to call.Address, offer []byte, h []call.Header, dh call.DialogHandler) (call.Outgoing, error) {
	if _, err := parseURI(t.URI); err != nil {
		return nil, fmt.Errorf("sip: target %q: %w", t.URI, err)
	}
	n := s.network(t.Party.Network)
	if n == nil {
		return nil, fmt.Errorf("sip: network %q does not exist", t.Party.Network)
	}
	if from.Host == "" {
		from.Host = s.cfg.Domain
	}
	if to.Host == "" {
		to.Host = s.cfg.Domain
	}
	o := &outgoing{
		s: s, net: n, t: t, dh: dh, offer: offer, extra: headersOf(h),
		callID: strings.ToLower(rand.Text()), tag: strings.ToLower(rand.Text()), seq: firstSeq(), me: from.User,
		to:        addressHeader(to),
		responses: make(chan call.Response, maxProvisionals+1), cancel: make(chan struct{}),
		acked: map[string]*confirmed{}, expires: sessionWanted,
	}
	o.from = addressHeader(from) + ";tag=" + o.tag
	if !s.enter() {
		return nil, errFlowGone
	}
	go func() {
		defer s.wg.Done()
		defer close(o.responses)
		stop := context.AfterFunc(ctx, func() { o.Cancel("") })
		defer stop()
		o.run()
	}()
	return o, nil
}

// addressHeader is a From or To value.
func addressHeader(a call.Address) string {
	n := nameAddr{display: oneLine(a.Display), uri: "sip:" + escapeUser(a.User) + "@" + bracketed(a.Host)}
	if a.User == "" {
		n.uri = "sip:" + bracketed(a.Host)
	}
	return n.String()
}

func bracketed(host string) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "[" + host + "]"
	}
	return host
}

// outgoing implements call.Outgoing. One goroutine drives it.
type outgoing struct {
	s     *Server
	net   *network
	t     call.Target
	dh    call.DialogHandler
	offer []byte
	extra []gosip.Header

	callID, tag, from, to, me string
	seq                       uint32
	auth                      []gosip.Header
	expires                   time.Duration // Session-Expires we ask for
	minSE                     time.Duration

	responses chan call.Response
	once      sync.Once
	cancel    chan struct{}
	reason    string // written before cancel is closed

	mu    sync.Mutex
	acked map[string]*confirmed // by To-tag: answers of forks, to be ACKed again
}

// confirmed is a 2xx of one fork.
type confirmed struct {
	d   *dialog
	ack *sentAck // nil while the call has no answer for it yet
}

func (o *outgoing) CallID() string                  { return o.callID }
func (o *outgoing) Responses() <-chan call.Response { return o.responses }
func (o *outgoing) log(msg string, args ...any) {
	o.s.log.Info(msg, append([]any{"call_id", o.callID, "party", o.t.Party.Name()}, args...)...)
}
func (o *outgoing) final(code int, reason string) {
	o.deliver(call.Response{Code: code, Reason: reason})
}
func (o *outgoing) isCancelled() bool {
	select {
	case <-o.cancel:
		return true
	default:
		return false
	}
}

// Cancel implements call.Outgoing.
func (o *outgoing) Cancel(reason string) {
	o.once.Do(func() {
		o.reason = reason
		close(o.cancel)
	})
}

func (o *outgoing) deliver(r call.Response) {
	if r.Code < 200 && len(o.responses) >= maxProvisionals {
		return
	}
	o.responses <- r
}

// run sends the INVITE, again after a challenge, and reads its responses.
func (o *outgoing) run() {
	f, uri, routes, err := o.way()
	if err != nil {
		o.log("invite not sent", "to", o.t.URI, "err", err)
		o.final(503, "Service Unavailable")
		return
	}
	if o.isCancelled() {
		o.final(487, "Request Terminated")
		return
	}
	o.log("invite sent", "to", o.t.URI, "remote", f.remote, "transport", f.transport)
	tries := 0
	for {
		res, again := o.attempt(f, uri, routes)
		if !again {
			return
		}
		if tries++; tries > 3 || !o.adapt(res) {
			o.fail(res)
			return
		}
		o.seq++
	}
}

// way is where the INVITE goes: by the flow of a binding, or where the route or
// the target says.
func (o *outgoing) way() (f *flow, uri string, routes []string, err error) {
	uri = o.t.URI
	for _, r := range o.t.Route {
		routes = append(routes, "<"+r+">")
	}
	if o.t.Flow != "" {
		if f = o.s.flowByToken(o.t.Flow); f != nil {
			return f, uri, routes, nil
		}
		if o.t.Party.WebRTC {
			return nil, "", nil, errFlowGone
		}
		// A phone may close its connection and be reached by its contact.
	}
	ctx, cancel := context.WithCancel(o.s.ctx)
	defer cancel()
	go func() {
		select {
		case <-o.cancel:
			cancel()
		case <-ctx.Done():
		}
	}()
	uri, routes, hop := loose(uri, routes)
	f, err = o.s.flowToURI(ctx, o.net, hop, "")
	return f, uri, routes, err
}

// loose arranges request URI and Route for a route set, strict routers included
// (12.2.1.1), and returns the URI of the next hop.
func loose(target string, routes []string) (uri string, left []string, hop string) {
	if len(routes) == 0 {
		return target, nil, target
	}
	first, err := parseNameAddr(routes[0])
	if err != nil {
		return target, nil, target
	}
	u, err := parseURI(first.uri)
	if err != nil {
		return target, nil, target
	}
	if _, lr := u.params.get("lr"); lr {
		return target, routes, first.uri
	}
	left = append(append([]string{}, routes[1:]...), "<"+target+">")
	return first.uri, left, first.uri
}

// attempt sends one INVITE. again means that res asks for another one.
func (o *outgoing) attempt(f *flow, uri string, routes []string) (res *gosip.Response, again bool) {
	hs := []gosip.Header{
		gosip.NewHeader("Allow", allowed), gosip.NewHeader("Supported", supported),
		gosip.NewHeader("Session-Expires", strconv.Itoa(int(o.expires/time.Second))),
		gosip.NewHeader("Min-SE", strconv.Itoa(int(max(o.minSE, minSE)/time.Second))),
	}
	hs = append(append(hs, o.extra...), o.auth...)
	req, err := o.s.build(f, outline{
		method: gosip.INVITE, uri: uri, routes: routes, from: o.from, to: o.to, callID: o.callID, seq: o.seq,
		contact: o.me, forwards: o.t.MaxForwards, headers: hs, body: o.offer, ctype: "application/sdp",
	})
	if err != nil {
		o.log("invite not sent", "err", err)
		o.final(500, "Server Internal Error")
		return nil, false
	}
	x, err := o.s.request(f, req)
	if err != nil {
		o.log("invite not sent", "err", err)
		o.final(503, "Service Unavailable")
		return nil, false
	}
	x.tx.OnRetransmission(func(r *gosip.Response) { o.repeated(f, req, r) })
	cancel := o.cancel
	var proceeding, wanted bool
	var giveUp <-chan time.Time
	sendCancel := func() {
		t := time.NewTimer(64 * o.s.pace.t1)
		giveUp = t.C
		o.s.cancelInvite(f, req, o.reason)
	}
	for {
		select {
		case r := <-x.tx.Responses():
			switch {
			case r.StatusCode < 200:
				if !proceeding {
					proceeding = true
					if wanted {
						sendCancel()
					}
				}
				if r.StatusCode > 100 && !wanted {
					o.provisional(r)
				}
			case r.StatusCode < 300:
				o.success(f, req, r, wanted || o.isCancelled())
				return nil, false
			case !wanted && (r.StatusCode == 401 || r.StatusCode == 407 || r.StatusCode == 422):
				return r, true
			default:
				o.fail(r)
				return nil, false
			}
		case <-cancel:
			cancel, wanted = nil, true
			if proceeding {
				sendCancel()
			}
		case <-giveUp:
			// 9.1: no final response to a cancelled INVITE in 64*T1.
			x.tx.Terminate()
			o.final(487, "Request Terminated")
			return nil, false
		case <-f.lost():
			x.tx.Terminate()
			o.log("invite lost its connection")
			o.final(503, "Service Unavailable")
			return nil, false
		case <-x.tx.Done():
			if errors.Is(x.tx.Err(), gosip.ErrTransactionTimeout) {
				o.log("invite timed out")
				o.final(408, "Request Timeout")
			} else {
				o.log("invite failed", "err", x.tx.Err())
				o.final(503, "Service Unavailable")
			}
			return nil, false
		}
	}
}

// cancelInvite sends CANCEL in a transaction of its own.
func (s *Server) cancelInvite(f *flow, invite *gosip.Request, reason string) {
	if !s.enter() {
		return
	}
	go func() {
		defer s.wg.Done()
		_, _ = s.roundTrip(s.ctx, f, cancelOf(invite, reason))
	}()
}

// adapt changes the next INVITE to what a challenge or a 422 asks for.
func (o *outgoing) adapt(res *gosip.Response) bool {
	if res.StatusCode == 422 {
		n, err := strconv.ParseUint(value(res, "Min-SE"), 10, 31)
		if err != nil || time.Duration(n)*time.Second <= o.minSE {
			return false
		}
		o.minSE = time.Duration(n) * time.Second
		o.expires = max(o.expires, o.minSE)
		return true
	}
	if len(o.auth) > 0 && !strings.Contains(strings.ToLower(strings.Join(append(values(res, "WWW-Authenticate"), values(res, "Proxy-Authenticate")...), " ")), "stale=true") {
		return false // the credentials are wrong
	}
	u, err := uriOf(o.t.URI)
	if err != nil {
		return false
	}
	req := gosip.NewRequest(gosip.INVITE, u)
	a := answerChallenge(req, res, o.t.Username, o.t.Password)
	if a == nil {
		return false
	}
	o.auth = []gosip.Header{a}
	return true
}

func uriOf(text string) (u gosip.Uri, err error) {
	err = gosip.ParseUri(text, &u)
	return u, err
}

func (o *outgoing) provisional(r *gosip.Response) {
	o.deliver(call.Response{Code: r.StatusCode, Reason: r.Reason, SDP: sdpOf(r), Tag: tagOf(r.To().Params), Source: sourceOf(r)})
}

// passed are the headers a call may want to know of a failure.
func passed(r *gosip.Response) []call.Header {
	var out []call.Header
	for _, name := range []string{"Retry-After", "Reason", "Warning"} {
		for _, v := range values(r, name) {
			out = append(out, call.Header{Name: name, Value: v})
		}
	}
	return out
}

func (o *outgoing) fail(r *gosip.Response) {
	o.log("invite refused", "code", r.StatusCode)
	o.deliver(call.Response{Code: r.StatusCode, Reason: r.Reason, SDP: sdpOf(r), Tag: tagOf(r.To().Params), Source: sourceOf(r), Header: passed(r)})
}

// dialogFrom makes the dialog of a 2xx.
func (o *outgoing) dialogFrom(f *flow, req *gosip.Request, r *gosip.Response, h call.DialogHandler) *dialog {
	party := o.t.Party
	if !party.Source.IsValid() || f.udp == nil {
		party.Source = f.remote
	}
	d := o.s.newDialog(f, party, h)
	d.uac = true
	d.id = dialogID{o.callID, o.tag, tagOf(r.To().Params)}
	d.local, d.peer, d.me = o.from, value(r, "To"), o.me
	d.username, d.password = o.t.Username, o.t.Password
	d.target = o.t.URI
	d.refresh(r)
	d.routes = values(r, "Record-Route")
	for i, j := 0, len(d.routes)-1; i < j; i, j = i+1, j-1 {
		d.routes[i], d.routes[j] = d.routes[j], d.routes[i] // 12.1.2
	}
	d.localSeq = req.CSeq().SeqNo
	d.sdp = o.offer
	d.learn(r)
	return d
}

// success is the first 2xx. cancelled: nobody wants it any more.
func (o *outgoing) success(f *flow, req *gosip.Request, r *gosip.Response, cancelled bool) {
	tag := tagOf(r.To().Params)
	if cancelled {
		o.hangUp(f, req, r)
		o.log("invite answered after cancel: ended")
		o.final(487, "Request Terminated")
		return
	}
	d := o.dialogFrom(f, req, r, o.dh)
	c := &confirmed{d: d}
	o.mu.Lock()
	o.acked[tag] = c
	o.mu.Unlock()
	ack := func(sdp []byte) error {
		a, err := d.sendAck(req, sdp)
		o.mu.Lock()
		c.ack = a
		o.mu.Unlock()
		return err
	}
	o.s.dialogs.add(d)
	d.agreeUAC(r)
	if o.offer != nil {
		if err := ack(nil); err != nil {
			o.log("ack not sent", "err", err)
		}
	} else {
		d.delayed = ack
	}
	if !f.alive() {
		d.lost(f)
	}
	o.log("invite answered", "code", r.StatusCode, "remote", f.remote)
	o.deliver(call.Response{Code: r.StatusCode, Reason: r.Reason, SDP: sdpOf(r), Tag: tag, Source: sourceOf(r), Dialog: d})
}

// repeated is a 2xx after the first one: its repetition, or another fork's.
func (o *outgoing) repeated(f *flow, req *gosip.Request, r *gosip.Response) {
	o.mu.Lock()
	c := o.acked[tagOf(r.To().Params)]
	var ack *sentAck
	if c != nil {
		ack = c.ack
	}
	full := len(o.acked) >= 16
	o.mu.Unlock()
	switch {
	case c == nil && !full:
		o.log("second answer of a fork: ended")
		o.hangUp(f, req, r)
	case ack != nil:
		c.d.resend(ack)
	}
}

// hangUp ends an answer nobody wants: ACK, then BYE (13.2.2.4).
func (o *outgoing) hangUp(f *flow, req *gosip.Request, r *gosip.Response) {
	d := o.dialogFrom(f, req, r, nil)
	c := &confirmed{d: d}
	o.mu.Lock()
	o.acked[d.id.remote] = c
	o.mu.Unlock()
	if !o.s.enter() {
		return
	}
	go func() {
		defer o.s.wg.Done()
		// Without an answer to an offer in the 2xx the far side hears nothing;
		// BYE follows at once.
		a, err := d.sendAck(req, nil)
		if err == nil {
			o.mu.Lock()
			c.ack = a
			o.mu.Unlock()
		}
		d.finish()
		d.sendBye("")
	}()
}
