package sip

import (
	"context"
	"errors"
	"net/netip"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// hop is where a request within the dialog goes and what it carries (12.2.1.1).
func (d *dialog) hop(ctx context.Context) (f *flow, uri string, routes []string, err error) {
	d.mu.Lock()
	f, target, set := d.flow, d.target, d.routes
	d.mu.Unlock()
	uri, routes, next := loose(target, set)
	if f.transport.web() {
		if !f.alive() {
			return nil, "", nil, errFlowGone
		}
		return f, uri, routes, nil
	}
	// A user agent is behind NAT more often than not: the way it came is the
	// way back. A proxy or a trunk says where it wants to be reached.
	direct := len(set) == 0 && (d.party.User != "" || natted(target, f.remote))
	if f.alive() && (direct || f.transport.stream()) {
		return f, uri, routes, nil
	}
	g, err := d.s.flowToURI(ctx, f.net, next, f.transport)
	if err != nil {
		if f.alive() {
			return f, uri, routes, nil
		}
		return nil, "", nil, err
	}
	return g, uri, routes, nil
}

// natted tells whether a Contact's address is not where its owner sends from.
func natted(target string, remote netip.AddrPort) bool {
	u, err := parseURI(target)
	if err != nil {
		return true
	}
	a, err := netip.ParseAddr(u.host)
	return err == nil && a.Unmap() != remote.Addr() && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast())
}

// make builds a request of this dialog. seq 0 takes the next CSeq.
func (d *dialog) make(f *flow, method gosip.RequestMethod, uri string, routes []string, seq uint32, body []byte, ctype string, hs ...gosip.Header) (*gosip.Request, error) {
	if seq == 0 {
		d.mu.Lock()
		d.localSeq++
		seq = d.localSeq
		d.mu.Unlock()
	}
	me := "-"
	switch method {
	case gosip.INVITE, gosip.UPDATE, gosip.ACK:
		me = d.me
	}
	return d.s.build(f, outline{
		method: method, uri: uri, routes: routes, from: d.local, to: d.peer, callID: d.id.callID,
		seq: seq, contact: me, headers: hs, body: body, ctype: ctype,
	})
}

// send does one request other than INVITE, with credentials when it is
// challenged.
func (d *dialog) send(ctx context.Context, method gosip.RequestMethod, body []byte, ctype string, hs ...gosip.Header) (*gosip.Response, error) {
	f, uri, routes, err := d.hop(ctx)
	if err != nil {
		return nil, &call.ResponseError{Code: 503, Reason: err.Error()}
	}
	extra := hs
	for try := 0; ; try++ {
		req, err := d.make(f, method, uri, routes, 0, body, ctype, extra...)
		if err != nil {
			return nil, err
		}
		res, _ := d.s.roundTrip(ctx, f, req)
		if ctx.Err() != nil && res.StatusCode == 408 {
			return res, ctx.Err()
		}
		if (res.StatusCode == 401 || res.StatusCode == 407) && try == 0 {
			if a := answerChallenge(req, res, d.username, d.password); a != nil {
				extra = append(append([]gosip.Header{}, hs...), a)
				continue
			}
		}
		if res.StatusCode >= 300 {
			return res, &call.ResponseError{Code: res.StatusCode, Reason: res.Reason}
		}
		return res, nil
	}
}

// gone ends the dialog when a failure says that the far side has none (12.2.1.2).
func (d *dialog) gone(err error) {
	var re *call.ResponseError
	if errors.As(err, &re) && (re.Code == 481 || re.Code == 408) {
		if d.finish() {
			d.sendBye("")
			d.s.log.Info("dialog failed", "call_id", d.id.callID, "party", d.party.Name(), "code", re.Code)
			d.tell(func() { d.h.OnFailed(re.Error()) })
		}
	}
}

// sendBye sends BYE and waits for nothing.
func (d *dialog) sendBye(reason string) {
	if !d.s.enter() {
		return
	}
	go func() {
		defer d.s.wg.Done()
		ctx, cancel := context.WithTimeout(d.s.ctx, 64*d.s.pace.t1)
		defer cancel()
		_, _ = d.send(ctx, gosip.BYE, nil, "", reasonHeader(reason)...)
	}()
}

func reasonHeader(reason string) []gosip.Header {
	if reason == "" {
		return nil
	}
	return []gosip.Header{gosip.NewHeader("Reason", oneLine(reason))}
}

// Bye implements call.Dialog.
func (d *dialog) Bye(ctx context.Context, reason string) error {
	if !d.finish() {
		return nil
	}
	d.s.log.Info("bye sent", "call_id", d.id.callID, "party", d.party.Name(), "reason", reason)
	_, err := d.send(ctx, gosip.BYE, nil, "", reasonHeader(reason)...)
	return err
}

// Info implements call.Dialog.
func (d *dialog) Info(ctx context.Context, contentType string, body []byte) error {
	_, err := d.send(ctx, gosip.INFO, body, contentType)
	d.gone(err)
	return err
}

// Ping implements call.Dialog.
func (d *dialog) Ping(ctx context.Context) error {
	res, err := d.send(ctx, gosip.OPTIONS, nil, "", gosip.NewHeader("Accept", "application/sdp"))
	if res != nil && res.StatusCode != 408 && res.StatusCode != 481 && ctx.Err() == nil {
		return nil
	}
	return err
}

// Ack implements call.Dialog.
func (d *dialog) Ack(sdp []byte) error {
	d.mu.Lock()
	ack := d.delayed
	d.delayed = nil
	if ack != nil {
		d.sdp = sdp
	}
	d.mu.Unlock()
	if ack == nil {
		return nil // sent with the 2xx
	}
	return ack(sdp)
}

// sendAck sends the ACK of a 2xx (13.2.2.4) and returns it, to be repeated.
func (d *dialog) sendAck(invite *gosip.Request, sdp []byte) (*sentAck, error) {
	ctx, cancel := context.WithTimeout(d.s.ctx, resolveTimeout)
	defer cancel()
	f, uri, routes, err := d.hop(ctx)
	if err != nil {
		return nil, err
	}
	var auth []gosip.Header
	for _, name := range []string{"Authorization", "Proxy-Authorization"} {
		for _, v := range values(invite, name) {
			auth = append(auth, gosip.NewHeader(name, v)) // 22.1
		}
	}
	ack, err := d.make(f, gosip.ACK, uri, routes, invite.CSeq().SeqNo, sdp, "application/sdp", auth...)
	if err != nil {
		return nil, err
	}
	return &sentAck{ack, f}, f.WriteMsg(ack)
}

// resend repeats an ACK by the way it went, or, when that connection is gone,
// the dialog's. It runs where messages are read, so it looks up and opens nothing.
func (d *dialog) resend(ack *sentAck) {
	f := ack.f
	if !f.alive() {
		d.mu.Lock()
		f = d.flow
		d.mu.Unlock()
	}
	_ = f.WriteMsg(ack.req)
}

// Reinvite implements call.Dialog.
func (d *dialog) Reinvite(ctx context.Context, offer []byte, reply func([]byte) []byte) ([]byte, error) {
	select {
	case d.inviting <- struct{}{}:
	case <-d.over:
		return nil, &call.ResponseError{Code: 481, Reason: "the dialog has ended"}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-d.inviting }()
	for {
		if err := d.clearWay(ctx); err != nil {
			return nil, err
		}
		sdp, err := d.reinvite(ctx, offer, reply)
		d.mu.Lock()
		d.sending = false
		d.mu.Unlock()
		var re *call.ResponseError
		if !errors.As(err, &re) || re.Code != 491 {
			d.gone(err)
			return sdp, err
		}
		// 14.1: the owner of the Call-ID waits longer.
		wait := between(0, 2*time.Second)
		if d.uac {
			wait = between(2100*time.Millisecond, 4*time.Second)
		}
		select {
		case <-time.After(wait.Truncate(10 * time.Millisecond)):
		case <-d.over:
			return nil, &call.ResponseError{Code: 481, Reason: "the dialog has ended"}
		case <-ctx.Done():
			return nil, err
		}
	}
}

// clearWay waits until the far side has no INVITE under way and takes the turn
// (14.1). It does not wait for long: the call may itself be waiting for us in
// the other direction, and 491 lets it go on.
func (d *dialog) clearWay(ctx context.Context) error {
	limit := time.NewTimer(between(time.Second, 2*time.Second))
	defer limit.Stop()
	for {
		d.mu.Lock()
		if d.done {
			d.mu.Unlock()
			return &call.ResponseError{Code: 481, Reason: "the dialog has ended"}
		}
		if d.pending == nil && d.waiting == nil {
			d.sending = true
			d.mu.Unlock()
			return nil
		}
		d.mu.Unlock()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-limit.C:
			return &call.ResponseError{Code: 491, Reason: "the far side changes the session just now"}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reinvite does one re-INVITE. When ctx ends it is cancelled, and what still
// comes is acknowledged in the background.
func (d *dialog) reinvite(ctx context.Context, offer []byte, reply func([]byte) []byte) ([]byte, error) {
	f, uri, routes, err := d.hop(ctx)
	if err != nil {
		return nil, &call.ResponseError{Code: 503, Reason: err.Error()}
	}
	var auth []gosip.Header
	for try := 0; ; try++ {
		hs := append([]gosip.Header{gosip.NewHeader("Allow", allowed), gosip.NewHeader("Supported", supported)}, auth...)
		hs = append(hs, d.askSession()...)
		req, err := d.make(f, gosip.INVITE, uri, routes, 0, offer, "application/sdp", hs...)
		if err != nil {
			return nil, err
		}
		res, err := d.exchange(ctx, f, req, offer, reply)
		if err != nil {
			return nil, err
		}
		if (res.StatusCode == 401 || res.StatusCode == 407) && try == 0 {
			if a := answerChallenge(req, res, d.username, d.password); a != nil {
				auth = []gosip.Header{a}
				continue
			}
		}
		if res.StatusCode >= 300 {
			return nil, &call.ResponseError{Code: res.StatusCode, Reason: res.Reason}
		}
		return sdpOf(res), nil
	}
}

// exchange sends a re-INVITE and returns its final response, acknowledged.
func (d *dialog) exchange(ctx context.Context, f *flow, req *gosip.Request, offer []byte, reply func([]byte) []byte) (*gosip.Response, error) {
	x, err := d.s.request(f, req)
	if err != nil {
		return nil, &call.ResponseError{Code: 503, Reason: err.Error()}
	}
	var ack ackBox
	x.tx.OnRetransmission(func(*gosip.Response) {
		if a := ack.get(); a != nil {
			d.resend(a)
		}
	})
	got := make(chan *gosip.Response, 1)
	if !d.s.enter() {
		x.tx.Terminate()
		return nil, errFlowGone
	}
	go func() {
		defer d.s.wg.Done()
		got <- d.await(ctx, x, f, req, offer, reply, &ack)
	}()
	select {
	case res := <-got:
		return res, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// await reads responses to a re-INVITE until the final one.
func (d *dialog) await(ctx context.Context, x *clientTx, f *flow, req *gosip.Request, offer []byte, reply func([]byte) []byte, box *ackBox) *gosip.Response {
	stop := ctx.Done()
	var proceeding, wanted bool
	var giveUp <-chan time.Time
	cancel := func() {
		giveUp = time.After(64 * d.s.pace.t1)
		d.s.cancelInvite(f, req, "")
	}
	for {
		select {
		case r := <-x.tx.Responses():
			if r.StatusCode < 200 {
				if !proceeding && wanted {
					cancel()
				}
				proceeding = true
				continue
			}
			if r.StatusCode < 300 {
				d.refresh(r)
				d.learn(r)
				d.agreeUAC(r)
				sdp := offer
				var answer []byte
				if offer == nil && reply != nil && ctx.Err() == nil {
					answer = reply(sdpOf(r))
					sdp = answer
				}
				d.mu.Lock()
				if sdp != nil {
					d.sdp = sdp
				}
				d.mu.Unlock()
				if a, err := d.sendAck(req, answer); err == nil {
					box.put(a)
				}
			}
			return r
		case <-stop:
			stop, wanted = nil, true
			if proceeding {
				cancel()
			}
		case <-giveUp:
			x.tx.Terminate()
			return localResponse(req, 487, "Request Terminated")
		case <-f.lost():
			x.tx.Terminate()
			return localResponse(req, 503, "Service Unavailable")
		case <-x.tx.Done():
			return localFailure(req, x.tx.Err())
		}
	}
}
