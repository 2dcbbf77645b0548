package sip

import (
	"context"
	"errors"
	"strconv"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// inDialog is a request within a dialog (12.2.2).
func (s *Server) inDialog(f *flow, req *gosip.Request) {
	d := s.dialogOf(req)
	if d == nil && req.Method == gosip.BYE {
		if s.onEarlyBye(f, req) {
			return
		}
		d = s.dialogOf(req) // answered just now
	}
	if d == nil {
		s.stateless(f, req, 481, "")
		return
	}
	if !d.admits(f) {
		if d.party.User == "" {
			s.stateless(f, req, 403, "")
			return
		}
		if user, v := s.authenticate(f, req, "Proxy-Authorization"); v != authenticated {
			s.challenge(f, req, 407, v)
			return
		} else if user != d.party.User {
			s.stateless(f, req, 403, "")
			return
		}
	}
	if bad := unsupported(req); bad != "" {
		s.stateless(f, req, 420, "", gosip.NewHeader("Unsupported", bad))
		return
	}
	d.mu.Lock()
	if d.done {
		d.mu.Unlock()
		s.stateless(f, req, 481, "")
		return
	}
	if seq := req.CSeq().SeqNo; d.remoteSeq != 0 && seq <= d.remoteSeq {
		d.mu.Unlock()
		s.stateless(f, req, 500, "Server Internal Error (CSeq)")
		return
	} else {
		d.remoteSeq = seq
	}
	d.mu.Unlock()
	x, err := s.serve(f, req)
	if err != nil {
		s.stateless(f, req, 503, "", gosip.NewHeader("Retry-After", "5"))
		return
	}
	d.moved(f)
	switch req.Method {
	case gosip.BYE:
		_ = x.reply(200, "", nil)
		d.mu.Lock()
		d.byPeer = !d.done
		d.mu.Unlock()
		if d.finish() {
			reason := value(req, "Reason")
			s.log.Info("bye received", "call_id", d.id.callID, "party", d.party.Name(), "reason", reason)
			d.tell(func() { d.h.OnBye(reason) })
		}
	case gosip.INVITE:
		d.onOffer(x, req)
	case gosip.UPDATE:
		d.onUpdate(x, req)
	case gosip.INFO:
		d.onInfo(x, req)
	case gosip.OPTIONS:
		_ = x.reply(200, "", nil, s.capabilities()...)
	case gosip.NOTIFY, gosip.SUBSCRIBE, gosip.PUBLISH:
		_ = x.reply(489, "", nil, gosip.NewHeader("Allow", allowed))
	case gosip.MESSAGE, gosip.REFER, gosip.PRACK, gosip.REGISTER:
		_ = x.reply(405, "", nil, gosip.NewHeader("Allow", allowed))
	default:
		_ = x.reply(501, "", nil, gosip.NewHeader("Allow", allowed))
	}
}

// onUpdate is UPDATE (RFC 3311): with SDP as a re-INVITE, without it a refresh.
func (d *dialog) onUpdate(x *serverTx, req *gosip.Request) {
	if len(req.Body()) > 0 {
		d.onOffer(x, req)
		return
	}
	if !d.timerOK(x, req) {
		return
	}
	d.refresh(req)
	d.learn(req)
	hs := append([]gosip.Header{x.f.contact(d.me), gosip.NewHeader("Allow", allowed), gosip.NewHeader("Supported", supported)}, d.agreeUAS(req)...)
	_ = x.reply(200, "", nil, hs...)
}

// timerOK refuses a session interval that is malformed or too short.
func (d *dialog) timerOK(x *serverTx, req *gosip.Request) bool {
	se, err := sessionExpires(req)
	if err != nil {
		_ = x.reply(400, "Bad Request (Session-Expires)", nil)
		return false
	}
	if se > 0 && se < minSE {
		_ = x.reply(422, "", nil, gosip.NewHeader("Min-SE", strconv.Itoa(int(minSE/time.Second))))
		return false
	}
	return true
}

// onOffer is a re-INVITE, or an UPDATE with SDP.
func (d *dialog) onOffer(x *serverTx, req *gosip.Request) {
	offer := sdpOf(req)
	if len(req.Body()) > 0 && offer == nil {
		_ = x.reply(415, "", nil, gosip.NewHeader("Accept", "application/sdp"))
		return
	}
	if !d.timerOK(x, req) {
		return
	}
	d.mu.Lock()
	switch {
	case d.sending:
		d.mu.Unlock()
		_ = x.reply(491, "", nil)
		return
	case d.pending != nil:
		d.mu.Unlock()
		_ = x.reply(500, "", nil, gosip.NewHeader("Retry-After", strconv.Itoa(int(between(0, 10*time.Second)/time.Second))))
		return
	case d.waiting != nil && offer != nil:
		// Our last 200 carried an offer or an answer that is not acknowledged.
		d.mu.Unlock()
		_ = x.reply(491, "", nil)
		return
	}
	d.pending = x
	d.mu.Unlock()
	ctx, cancel := context.WithCancel(d.s.ctx)
	x.mu.Lock()
	x.cancel = cancel
	x.mu.Unlock()
	if req.IsInvite() {
		_ = x.reply(100, "", nil)
	}
	if !d.s.enter() {
		cancel()
		return
	}
	go func() {
		defer d.s.wg.Done()
		defer cancel()
		d.answerOffer(ctx, x, req, offer)
	}()
}

// answerOffer asks the call and answers.
func (d *dialog) answerOffer(ctx context.Context, x *serverTx, req *gosip.Request, offer []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-x.tx.Done():
		case <-d.over:
		case <-ctx.Done():
		}
		cancel()
	}()
	sdp, code := d.ask(ctx, offer)
	settle := func() {
		d.mu.Lock()
		if d.pending == x {
			d.pending = nil
		}
		d.mu.Unlock()
	}
	if code < 200 || code > 699 || code >= 300 || sdp == nil {
		if code < 300 || code > 699 {
			code = 500
		}
		settle()
		_ = x.reply(code, "", nil)
		return
	}
	d.refresh(req)
	d.learn(req)
	hs := append([]gosip.Header{x.f.contact(d.me), gosip.NewHeader("Allow", allowed), gosip.NewHeader("Supported", supported)}, d.agreeUAS(req)...)
	res := x.response(200, "", sdp, hs...)
	var w *ackWait
	if req.IsInvite() {
		w = d.expectAck(req.CSeq().SeqNo)
	}
	// The far side may send the next one as soon as it has our answer.
	settle()
	err := x.respond(res)
	if err != nil {
		if w != nil {
			d.mu.Lock()
			if d.waiting == w {
				d.waiting = nil
			}
			d.mu.Unlock()
		}
		return
	}
	d.mu.Lock()
	d.sdp = sdp
	d.mu.Unlock()
	if w == nil {
		return
	}
	ack, err := d.confirm(x.f.back(req), res, w)
	switch {
	case errors.Is(err, call.ErrNoAck):
		if d.finish() {
			d.s.log.Warn("no ACK for a re-INVITE", "call_id", d.id.callID, "party", d.party.Name())
			d.sendBye(`SIP;cause=408;text="No ACK"`)
			d.tell(func() { d.h.OnFailed("no ACK for a re-INVITE") })
		}
	case err == nil && offer == nil && ack != nil:
		d.tell(func() { d.h.OnAck(sdpOf(ack)) })
	}
}

// ask calls OnReinvite; a panic of the call is a 500.
func (d *dialog) ask(ctx context.Context, offer []byte) (sdp []byte, code int) {
	defer func() {
		if d.s.panicked(recover(), "call_id", d.id.callID) {
			sdp, code = nil, 500
		}
	}()
	if d.h == nil {
		return nil, 488
	}
	return d.h.OnReinvite(ctx, offer)
}

// onInfo is INFO (RFC 6086).
func (d *dialog) onInfo(x *serverTx, req *gosip.Request) {
	if !d.s.enter() {
		return
	}
	go func() {
		defer d.s.wg.Done()
		code := 500
		defer func() {
			d.s.panicked(recover(), "call_id", d.id.callID)
			if code < 200 || code > 699 {
				code = 500
			}
			_ = x.reply(code, "", nil)
		}()
		if len(req.Body()) == 0 {
			code = 200 // a keep-alive
			return
		}
		ctx, cancel := context.WithTimeout(d.s.ctx, 64*d.s.pace.t1)
		defer cancel()
		code = d.h.OnInfo(ctx, value(req, "Content-Type"), req.Body())
	}()
}
