package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/google/uuid"
)

var (
	errHungUp    = errors.New("the far side hung up")
	errCancelled = errors.New("cancelled before the answer")
	errNoAck     = errors.New("the answer was never acknowledged")
)

// byeTime is how long BYE may take: Timer F of RFC 3261 17.1.2.2.
const byeTime = 64 * 500 * time.Millisecond

// dialog is one call of a phone, which is always the callee.
type dialog struct {
	p      *Phone
	key    string
	tag    string // ours
	target sip.Uri
	routes []string
	to     sip.ToHeader // with our tag: From of what we send
	from   sip.FromHeader
	callID string
	media  *media

	mu       sync.Mutex
	answered bool
	remote   uint32             // highest CSeq of the far side
	pending  map[uint32]*answer // 2xx under way by CSeq
	over     chan struct{}
	ended    bool
	bye      bool // we owe the far side a BYE
}

// answer is a 2xx that is repeated until its ACK comes (RFC 3261 13.3.1.4).
type answer struct {
	acked  chan struct{}
	offers bool // it carried our offer: the ACK brings the answer
}

// newDialog opens the media of a call, or says why not. The caller runs it.
func (p *Phone) newDialog(req *sip.Request, tx sip.ServerTransaction) (d *dialog, code int, reason string) {
	d = &dialog{p: p, key: key(req), tag: uuid.NewString(), target: req.Contact().Address, routes: routes(req),
		to: *req.To(), from: *req.From(), callID: req.CallID().Value(),
		remote: req.CSeq().SeqNo, pending: map[uint32]*answer{}, over: make(chan struct{})}
	d.to.Params = d.to.Params.Clone()
	d.to.Params.Add("tag", d.tag)
	m, err := newMedia(p.local.Addr(), p.cfg.Behaviour)
	if err != nil {
		return nil, 503, "Service Unavailable"
	}
	d.media = m
	if len(req.Body()) > 0 {
		if err := m.take(req.Body()); err != nil {
			p.log.Info("offer refused", "err", err)
			m.close()
			return nil, 488, "Not Acceptable Here"
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, again := p.dialogs[d.key]
	switch {
	case p.closing:
		code, reason = 480, "Temporarily Unavailable"
	case again:
		code, reason = 482, "Loop Detected"
	case len(p.dialogs) >= maxCalls:
		code, reason = 486, "Busy Here"
	default:
		p.dialogs[d.key] = d
		p.wg.Add(1)
		return d, 0, ""
	}
	m.close()
	return nil, code, reason
}

// run answers the call and returns when it is over.
func (d *dialog) run(req *sip.Request, tx sip.ServerTransaction) {
	defer d.forget()
	if !tx.OnCancel(func(*sip.Request) { d.end(errCancelled) }) {
		return
	}
	if d.p.cfg.Behaviour == Announcement {
		d.p.respond(tx, d.respond(req, 183, "Session Progress", d.media.describe()))
		d.media.play()
		select {
		case <-time.After(d.p.cfg.Early):
		case <-d.over:
		}
	}
	select {
	case <-d.over: // cancelled: sipgo has sent 487; or the phone closes
		d.p.respond(tx, d.respond(req, 480, "Temporarily Unavailable", nil))
		return
	default:
	}
	d.mu.Lock()
	d.answered, d.bye = true, true
	d.mu.Unlock()
	d.media.play()
	d.ok(req, tx)
	<-d.over
	d.hangup()
}

// ok sends 200 and repeats it until the ACK comes.
func (d *dialog) ok(req *sip.Request, tx sip.ServerTransaction) {
	a := &answer{acked: make(chan struct{}), offers: len(req.Body()) == 0}
	d.mu.Lock()
	d.pending[req.CSeq().SeqNo] = a
	d.mu.Unlock()
	res := d.respond(req, 200, "OK", d.media.describe())
	deadline := time.After(64 * sip.T1)
	for pause := sip.T1; ; pause = min(2*pause, sip.T2) {
		d.p.respond(tx, res)
		select {
		case <-a.acked:
			return
		case <-d.over:
			return
		case <-deadline:
			d.end(errNoAck)
			return
		case <-time.After(pause):
		}
	}
}

// respond makes a response of this dialog.
func (d *dialog) respond(req *sip.Request, code int, reason string, body []byte) *sip.Response {
	res := d.p.response(req, code, reason, body)
	if tag, _ := res.To().Params.Get("tag"); tag != d.tag {
		res.To().Params.Remove("tag")
		res.To().Params.Add("tag", d.tag)
	}
	return res
}

// reinvite takes a new offer, or makes one when the far side sends none.
func (d *dialog) reinvite(req *sip.Request, tx sip.ServerTransaction) {
	d.mu.Lock()
	late := req.CSeq().SeqNo <= d.remote
	busy := len(d.pending) > 0 || !d.answered
	if !late && !busy {
		d.remote = req.CSeq().SeqNo
	}
	d.mu.Unlock()
	switch {
	case late:
		d.p.respond(tx, d.respond(req, 500, "Server Internal Error", nil))
		return
	case busy:
		d.p.respond(tx, d.respond(req, 491, "Request Pending", nil))
		return
	}
	if len(req.Body()) > 0 {
		if err := d.media.take(req.Body()); err != nil {
			d.p.log.Info("offer refused", "err", err)
			d.p.respond(tx, d.respond(req, 488, "Not Acceptable Here", nil))
			return
		}
	}
	if c := req.Contact(); c != nil {
		d.mu.Lock()
		d.target = c.Address
		d.mu.Unlock()
	}
	d.ok(req, tx)
}

func (d *dialog) acked(req *sip.Request) {
	d.mu.Lock()
	a := d.pending[req.CSeq().SeqNo]
	delete(d.pending, req.CSeq().SeqNo)
	d.mu.Unlock()
	if a == nil {
		return
	}
	if a.offers {
		if err := d.media.take(req.Body()); err != nil {
			d.end(fmt.Errorf("the answer to our offer: %w", err))
		}
	}
	close(a.acked)
}

// end ends the call; nil means that the phone hangs up.
func (d *dialog) end(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	d.ended = true
	if errors.Is(why, errHungUp) {
		d.bye = false
	}
	close(d.over)
	if why != nil {
		d.p.log.Debug("call over", "why", why)
	}
}

// hangup sends BYE when the far side does not know yet.
func (d *dialog) hangup() {
	d.mu.Lock()
	owed, target := d.bye, d.target
	d.mu.Unlock()
	if !owed {
		return
	}
	req := sip.NewRequest(sip.BYE, target)
	for _, r := range d.routes {
		req.AppendHeader(sip.NewHeader("Route", r))
	}
	from, to := d.to.AsFrom(), d.from.AsTo()
	req.AppendHeader(&from)
	req.AppendHeader(&to)
	callID := sip.CallIDHeader(d.callID)
	req.AppendHeader(&callID)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.BYE})
	req.SetTransport("UDP")
	// The gateway is the only one we speak to, whatever its Contact says.
	req.SetDestination(d.p.cfg.Registrar.String())
	ctx, cancel := context.WithTimeout(context.Background(), byeTime)
	defer cancel()
	if _, err := d.p.client.Do(ctx, req, sipgo.ClientRequestBuild); err != nil {
		d.p.log.Warn("BYE was not answered", "err", err)
	}
}

func (d *dialog) forget() {
	d.end(nil)
	d.media.close()
	d.p.mu.Lock()
	delete(d.p.dialogs, d.key)
	d.p.mu.Unlock()
	d.p.wg.Done()
}
