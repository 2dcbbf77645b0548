package call

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// invite is an inbound INVITE and its far end.
type invite struct {
	party     Party
	callID    string
	from, to  Address
	offer     []byte
	hops      int
	cancelled chan struct{}
	ack       chan []byte // closed: the ACK never comes

	mu        sync.Mutex
	progress  []string // "180", "183 audio sendrecv PCMU"
	accepted  []byte
	rejected  int
	reason    string
	headers   []Header
	dialog    *dialog
	finals    int
	abandoned bool // Accept's context ended first
	reinvite  func(context.Context, []byte) ([]byte, error)
}

func (i *invite) Party() Party               { return i.party }
func (i *invite) CallID() string             { return i.callID }
func (i *invite) From() Address              { return i.from }
func (i *invite) To() Address                { return i.to }
func (i *invite) Offer() []byte              { return i.offer }
func (i *invite) MaxForwards() int           { return i.hops }
func (i *invite) Cancelled() <-chan struct{} { return i.cancelled }

func (i *invite) Progress(code int, body []byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := fmt.Sprint(code)
	if body != nil {
		s += " " + string(body)
	}
	i.progress = append(i.progress, s)
	return nil
}

func (i *invite) Accept(ctx context.Context, body []byte, h DialogHandler) (Dialog, []byte, error) {
	i.mu.Lock()
	select {
	case <-i.cancelled:
		i.mu.Unlock()
		return nil, nil, ErrEnded
	default:
	}
	i.finals++
	i.accepted = body
	i.mu.Unlock()
	select {
	case answer, ok := <-i.ack:
		if !ok {
			time.Sleep(32 * time.Second)
			return nil, nil, ErrNoAck
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.dialog = newDialog(i.party, i.callID, h)
		i.dialog.reinvite = i.reinvite
		return i.dialog, answer, nil
	case <-ctx.Done():
		i.mu.Lock()
		defer i.mu.Unlock()
		i.abandoned = true
		return nil, nil, ctx.Err()
	}
}

func (i *invite) Reject(code int, reason string, h ...Header) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.cancelled:
		return ErrEnded
	default:
	}
	i.finals++
	i.rejected, i.reason, i.headers = code, reason, h
	return nil
}

func (i *invite) state() (progress []string, accepted []byte, rejected int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.progress), i.accepted, i.rejected
}

// dialog is a confirmed dialog and its far end.
type dialog struct {
	party  Party
	callID string
	h      DialogHandler

	mu        sync.Mutex
	byes      []string
	reinvites [][]byte
	infos     []string
	pings     int
	reinvite  func(ctx context.Context, offer []byte) ([]byte, error)
	info      func(contentType string) error
	ping      func() error
	bye       func(ctx context.Context) error
}

func newDialog(p Party, callID string, h DialogHandler) *dialog {
	return &dialog{party: p, callID: callID, h: h}
}

func (d *dialog) CallID() string   { return d.callID }
func (d *dialog) Party() Party     { d.mu.Lock(); defer d.mu.Unlock(); return d.party }
func (d *dialog) Ack([]byte) error { return errors.New("the call never delays its own offer") }

func (d *dialog) Reinvite(ctx context.Context, offer []byte, _ func([]byte) []byte) ([]byte, error) {
	d.mu.Lock()
	d.reinvites = append(d.reinvites, offer)
	f := d.reinvite
	d.mu.Unlock()
	if f == nil {
		return nil, &ResponseError{Code: 488, Reason: "no re-INVITE expected"}
	}
	return f(ctx, offer)
}

func (d *dialog) Info(_ context.Context, contentType string, body []byte) error {
	d.mu.Lock()
	d.infos = append(d.infos, contentType+" "+string(body))
	f := d.info
	d.mu.Unlock()
	if f != nil {
		return f(contentType)
	}
	return nil
}

func (d *dialog) Ping(context.Context) error {
	d.mu.Lock()
	d.pings++
	f := d.ping
	d.mu.Unlock()
	if f != nil {
		return f()
	}
	return nil
}

func (d *dialog) Bye(ctx context.Context, reason string) error {
	d.mu.Lock()
	d.byes = append(d.byes, reason)
	f := d.bye
	d.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return nil
}

func (d *dialog) Snapshot() DialogSnapshot {
	return DialogSnapshot{CallID: d.callID, LocalTag: "l", RemoteTag: "r", RouteSet: []string{"<sip:p;lr>"}, LocalCSeq: 3,
		SessionExpires: time.Minute}
}

func (d *dialog) byeCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.byes)
}

func (d *dialog) onReinvite(f func(ctx context.Context, offer []byte) ([]byte, error)) {
	d.mu.Lock()
	d.reinvite = f
	d.mu.Unlock()
}

// answers makes the far end answer every re-INVITE with the same words.
func (d *dialog) answers(media ...string) {
	d.onReinvite(func(context.Context, []byte) ([]byte, error) { return desc(7000, media...), nil })
}

func (d *dialog) lastReinvite() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reinvites) == 0 {
		return nil
	}
	return d.reinvites[len(d.reinvites)-1]
}

func (d *dialog) reinviteCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.reinvites)
}

// outgoing is an outbound INVITE and its far end.
type outgoing struct {
	target   Target
	from, to Address
	offer    []byte
	h        DialogHandler
	callID   string
	ch       chan Response
	stubborn bool // does not answer CANCEL by itself

	mu        sync.Mutex
	cancelled bool
	reason    string
	closed    bool
	dialog    *dialog
}

func (o *outgoing) CallID() string             { return o.callID }
func (o *outgoing) Responses() <-chan Response { return o.ch }

func (o *outgoing) Cancel(reason string) {
	o.mu.Lock()
	again := o.cancelled
	o.cancelled, o.reason = true, reason
	o.mu.Unlock()
	if !again && !o.stubborn {
		o.respond(487, nil)
	}
}

func (o *outgoing) isCancelled() (bool, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cancelled, o.reason
}

// respond sends one response; a final one ends the INVITE. It waits until the
// gateway has done all it will do about it.
func (o *outgoing) respond(code int, body []byte, more ...func(*Response)) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	r := Response{Code: code, SDP: body, Tag: "t1", Source: netip.MustParseAddrPort("192.0.2.20:5060")}
	for _, f := range more {
		f(&r)
	}
	if code >= 200 && code < 300 {
		o.dialog = newDialog(o.target.Party, o.callID, o.h)
		r.Dialog = o.dialog
	}
	o.ch <- r
	if code >= 200 {
		o.closed = true
		close(o.ch)
	}
	o.mu.Unlock()
}

type caller struct {
	mu   sync.Mutex
	outs []*outgoing
	err  error
}

func (c *caller) Invite(_ context.Context, t Target, from, to Address, offer []byte, _ []Header, dh DialogHandler) (Outgoing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	o := &outgoing{target: t, from: from, to: to, offer: offer, h: dh, callID: fmt.Sprintf("out-%d", len(c.outs)+1), ch: make(chan Response, 64)}
	c.outs = append(c.outs, o)
	return o, nil
}
