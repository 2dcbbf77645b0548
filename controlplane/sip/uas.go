package sip

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// onInvite is a new INVITE: who sends it is settled before any state is made.
func (s *Server) onInvite(f *flow, req *gosip.Request) {
	party := call.Party{Network: f.net.name, Source: f.remote, WebRTC: f.transport.web()}
	if party.Trunk = s.trunkOf(f); party.Trunk == "" {
		user, v := s.authenticate(f, req, "Proxy-Authorization")
		if v != authenticated {
			s.challenge(f, req, 407, v)
			return
		}
		from, err := parseNameAddr(value(req, "From"))
		if err != nil {
			s.stateless(f, req, 400, "Bad Request (From)")
			return
		}
		if u, err := parseURI(from.uri); err != nil || u.user != user || !s.local(u.host) {
			s.log.Warn("call refused: From is not the user's own", "user", user, "from", from.uri, "source", f.remote)
			s.stateless(f, req, 403, "Forbidden")
			return
		}
		party.User = user
		if o := f.getOwner(); o.user == user {
			party.Instance = o.instance
		}
	} else {
		f.trusted.Store(true)
	}
	way := value(req, "Contact")
	if way == "" {
		way = value(req, "From") // as RFC 2543 had it
	}
	contact, err := parseNameAddr(way)
	if err == nil {
		_, err = parseURI(contact.uri)
	}
	if err != nil {
		s.stateless(f, req, 400, "Bad Request (Contact)")
		return
	}
	if i, ok := contact.params.get("+sip.instance"); ok && party.Instance == "" {
		party.Instance = i
	}
	if len(req.Body()) > 0 && !isSDP(value(req, "Content-Type")) {
		s.stateless(f, req, 415, "", gosip.NewHeader("Accept", "application/sdp"))
		return
	}
	if accept := tokens(req, "Accept"); len(accept) > 0 && !slices.ContainsFunc(accept, func(a string) bool {
		return isSDP(a) || strings.HasPrefix(a, "application/*") || strings.HasPrefix(a, "*/*")
	}) {
		s.stateless(f, req, 406, "Not Acceptable")
		return
	}
	if e := value(req, "Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		s.stateless(f, req, 415, "", gosip.NewHeader("Accept-Encoding", "identity"))
		return
	}
	se, err := sessionExpires(req)
	if err != nil {
		s.stateless(f, req, 400, "Bad Request (Session-Expires)")
		return
	}
	if se > 0 && se < minSE {
		s.stateless(f, req, 422, "", gosip.NewHeader("Min-SE", strconv.Itoa(int(minSE/time.Second))))
		return
	}
	x, err := s.serve(f, req)
	if err != nil {
		s.stateless(f, req, 503, "", gosip.NewHeader("Retry-After", "5"))
		return
	}
	_ = x.reply(100, "", nil)
	inv := &invite{
		s: s, x: x, f: f, req: req, party: party, target: contact.uri,
		gone: make(chan struct{}), settled: make(chan struct{}),
	}
	x.mu.Lock()
	x.cancel = inv.cancelled
	x.mu.Unlock()
	if !s.enter() {
		_ = x.reply(503, "", nil)
		return
	}
	s.log.Info("invite", "call_id", req.CallID().Value(), "party", party.Name(), "to", inv.To().User, "source", f.remote, "transport", f.transport)
	go func() {
		defer s.wg.Done()
		inv.watch()
	}()
	// Not waited for by Close: it is the call's goroutine.
	go func() {
		defer func() {
			if s.panicked(recover(), "call_id", req.CallID().Value()) {
				_ = inv.Reject(500, "")
			}
		}()
		s.cfg.OnInvite(inv)
	}()
}

// invite implements call.Invite.
type invite struct {
	s      *Server
	x      *serverTx
	f      *flow
	req    *gosip.Request
	party  call.Party
	target string

	once    sync.Once
	gone    chan struct{} // cancelled, or the connection lost
	settle  sync.Once
	settled chan struct{} // has a final response

	mu   sync.Mutex
	last *gosip.Response // provisional, to be repeated
}

func (i *invite) Party() call.Party          { return i.party }
func (i *invite) CallID() string             { return i.req.CallID().Value() }
func (i *invite) From() call.Address         { return addressOf(value(i.req, "From")) }
func (i *invite) Offer() []byte              { return sdpOf(i.req) }
func (i *invite) Cancelled() <-chan struct{} { return i.gone }

func (i *invite) To() call.Address {
	u := i.req.Recipient.String()
	return call.Address{User: userOf(u), Host: hostOf(u)}
}

func (i *invite) MaxForwards() int {
	if mf := i.req.MaxForwards(); mf != nil {
		return int(*mf)
	}
	return 70
}

func (i *invite) cancelled() {
	i.once.Do(func() { close(i.gone) })
	i.settle.Do(func() { close(i.settled) })
}

// watch repeats provisionals of a long ringing and waits for the end.
func (i *invite) watch() {
	t := time.NewTicker(i.s.pace.ringing)
	defer t.Stop()
	for {
		select {
		case <-i.settled:
			return
		case <-i.x.tx.Done():
			i.cancelled()
			return
		case <-i.f.lost():
			i.s.log.Info("invite lost its connection", "call_id", i.CallID(), "party", i.party.Name())
			_ = i.x.reply(487, "", nil)
			i.cancelled()
			i.x.tx.Terminate()
			return
		case <-t.C:
			i.mu.Lock()
			last := i.last
			i.mu.Unlock()
			if last != nil {
				_ = i.x.respond(last)
			}
		}
	}
}

// contactUser is what stands in our Contact: who was called.
func (i *invite) contactUser() string { return i.To().User }

// Progress implements call.Invite.
func (i *invite) Progress(code int, sdp []byte) error {
	if code <= 100 || code >= 200 {
		return fmt.Errorf("sip: %d is no provisional response", code)
	}
	res := i.x.response(code, "", sdp, i.f.contact(i.contactUser()), gosip.NewHeader("Allow", allowed))
	if err := i.x.respond(res); err != nil {
		return i.ended(err)
	}
	i.mu.Lock()
	i.last = res
	i.mu.Unlock()
	return nil
}

func (i *invite) ended(err error) error {
	select {
	case <-i.gone:
		return call.ErrEnded
	default:
	}
	if err == errEnded {
		return call.ErrEnded
	}
	return fmt.Errorf("%w: %w", call.ErrEnded, err)
}

// Reject implements call.Invite.
func (i *invite) Reject(code int, reason string, h ...call.Header) error {
	if code < 300 || code > 699 {
		return fmt.Errorf("sip: %d is no failure", code)
	}
	err := i.x.reply(code, oneLine(reason), nil, headersOf(h)...)
	if err != nil {
		return i.ended(err)
	}
	i.settle.Do(func() { close(i.settled) })
	i.s.log.Info("invite rejected", "call_id", i.CallID(), "party", i.party.Name(), "code", code)
	return nil
}

// Accept implements call.Invite.
func (i *invite) Accept(ctx context.Context, sdp []byte, h call.DialogHandler) (call.Dialog, []byte, error) {
	s := i.s
	d := s.newDialog(i.f, i.party, h)
	d.id = dialogID{i.CallID(), i.x.tag, tagOf(i.req.From().Params)}
	to := value(i.req, "To")
	d.local, d.peer = to+";tag="+i.x.tag, value(i.req, "From")
	d.me = i.contactUser()
	d.target = i.target
	d.routes = values(i.req, "Record-Route") // the UAS takes them in order (12.1.1)
	d.localSeq = firstSeq()
	d.remoteSeq = i.req.CSeq().SeqNo
	d.sdp = sdp
	d.learn(i.req)
	hs := []gosip.Header{i.f.contact(d.me), gosip.NewHeader("Allow", allowed), gosip.NewHeader("Supported", supported)}
	hs = append(hs, d.agreeUAS(i.req)...)
	// The ACK may come before respond returns.
	s.dialogs.add(d)
	w := d.expectAck(d.remoteSeq)
	res := i.x.response(200, "", sdp, hs...)
	if err := i.x.respond(res); err != nil {
		d.finish()
		return nil, nil, i.ended(err)
	}
	i.settle.Do(func() { close(i.settled) })
	s.log.Info("invite accepted", "call_id", i.CallID(), "party", i.party.Name())
	if !i.f.alive() {
		d.lost(i.f)
	}
	type result struct {
		ack *gosip.Request
		err error
	}
	done := make(chan result, 1)
	if !s.enter() {
		d.finish()
		return nil, nil, call.ErrEnded
	}
	go func() {
		defer s.wg.Done()
		ack, err := d.confirm(i.f.back(i.req), res, w)
		if err != nil && d.finish() {
			s.log.Warn("no ACK", "call_id", i.CallID(), "party", i.party.Name())
			d.sendBye(`SIP;cause=408;text="No ACK"`)
		}
		done <- result{ack, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, nil, r.err
		}
		if i.Offer() != nil {
			return d, nil, nil
		}
		if r.ack == nil {
			return nil, nil, call.ErrEnded // without the answer there is no call
		}
		return d, sdpOf(r.ack), nil
	case <-ctx.Done():
		// BYE may not be sent before the ACK came (15).
		go func() {
			if r := <-done; r.err == nil && d.finish() {
				d.sendBye("")
			}
		}()
		return nil, nil, ctx.Err()
	}
}

// expectAck prepares for the ACK of a 2xx.
func (d *dialog) expectAck(seq uint32) *ackWait {
	w := &ackWait{seq: seq, got: make(chan *gosip.Request, 1)}
	d.mu.Lock()
	d.waiting = w
	d.mu.Unlock()
	return w
}

// confirm repeats a 2xx until its ACK comes (13.3.1.4), over every transport.
// The error is call.ErrNoAck after 64*T1, call.ErrEnded when we ended the dialog.
// Without an error the ACK may be nil: BYE came in its stead.
func (d *dialog) confirm(f *flow, res *gosip.Response, w *ackWait) (*gosip.Request, error) {
	defer func() {
		d.mu.Lock()
		if d.waiting == w {
			d.waiting = nil
		}
		d.mu.Unlock()
	}()
	p := d.s.pace
	limit := time.NewTimer(64 * p.t1)
	defer limit.Stop()
	wait := p.t1
	again := time.NewTimer(wait)
	defer again.Stop()
	for {
		select {
		case ack := <-w.got:
			return ack, nil
		case <-again.C:
			_ = f.WriteMsg(res)
			wait = min(2*wait, p.t2)
			again.Reset(wait)
		case <-limit.C:
			return nil, call.ErrNoAck
		case <-d.over:
			select {
			case ack := <-w.got: // and BYE right behind it
				return ack, nil
			default:
			}
			if d.endedByPeer() {
				return nil, nil // who hangs up has had the 2xx; its ACK is lost
			}
			return nil, call.ErrEnded
		}
	}
}

// onAck is the ACK of a 2xx.
func (d *dialog) onAck(f *flow, req *gosip.Request) {
	if !d.admits(f) {
		return
	}
	d.mu.Lock()
	w := d.waiting
	if w == nil || w.seq != req.CSeq().SeqNo {
		d.mu.Unlock()
		return
	}
	d.waiting = nil
	d.mu.Unlock()
	w.got <- req
}
