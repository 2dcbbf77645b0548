package dataplane

import (
	"strings"
	"time"
)

// Line is one media line of a transport. Methods may be called from any goroutine.
type Line struct {
	t *Transport

	// Guarded by Transport.mu; cfg and peer change under Plane.control too, so
	// either lock is enough to read them.
	cfg     LineConfig
	formats [128]*Format
	events  [128]bool // payload types of telephone-event
	aside   [128]bool // those and comfort noise: they tell no codec and no clock
	clock   uint32    // Hz of the first audio or video format
	peer    *Line
	payload PayloadMap // to the peer
	route   *route     // nil while not joined
	source  *stream    // what feeds the peer
	closed  bool
	ended   Counters // of streams that are gone
	digits  []byte
	lastDTM uint32 // timestamp of the last event seen
	codec   string

	out output // guarded by Transport.out.mu
}

// output is what a line sends with: one SSRC for the line's life, and indices
// that only grow.
type output struct {
	ssrc    uint32
	open    bool   // LineConfig.Send
	stopped bool   // an engine kept a stream: nothing may use the SSRC again
	epoch   uint64 // a flow made under an older one is based anew
	next    uint64 // lowest index not used under the session's key
	started bool
	lastTS  uint32 // of the newest packet sent
	lastAt  time.Time
	clock   uint32
	sent    Counters

	fed flowRef // what fed it last, to map reports back

	report outputReports
}

// flowRef maps what a leg says about our SSRC back to the source's.
type flowRef struct {
	ssrc         uint32
	indexOffset  uint64
	timestampAdd uint32
}

// route is how a line's packets become its peer's; it never changes once made.
type route struct {
	to         *Line
	payload    PayloadMap
	extensions extensionRewrite
	rescaled   []eventClock
	avpf       bool // the peer's leg takes feedback
	audio      bool
}

// eventClock is a telephone-event payload type whose clock rate differs between
// the legs: its duration field is scaled. The timestamp is the stream's, which
// counts in the audio codec's clock on both sides.
type eventClock struct {
	payloadType uint8
	from, to    uint64 // Hz
}

func isEvent(codec string) bool { return strings.EqualFold(codec, "telephone-event") }

// configure sets cfg and what is derived from it. Plane.control and
// Transport.mu are held.
func (l *Line) configure(c LineConfig) {
	l.cfg = c
	l.formats, l.events, l.aside = [128]*Format{}, [128]bool{}, [128]bool{}
	l.clock = 0
	for i := range c.Formats {
		f := &c.Formats[i]
		if f.PayloadType > 127 {
			continue
		}
		l.formats[f.PayloadType] = f
		l.events[f.PayloadType] = isEvent(f.Codec)
		l.aside[f.PayloadType] = isEvent(f.Codec) || strings.EqualFold(f.Codec, "CN")
		if l.clock == 0 && !l.aside[f.PayloadType] {
			l.clock = uint32(f.ClockRate)
		}
	}
}

// makeRoute compiles how l's packets reach its peer. Plane.control is held.
func (l *Line) makeRoute() *route {
	if l.peer == nil {
		return nil
	}
	r := &route{
		to: l.peer, payload: l.payload, avpf: l.peer.cfg.AVPF, audio: l.cfg.Kind == Audio,
		extensions: rewriteExtensions(l.cfg.Extensions, l.peer.cfg.Extensions, l.cfg.MidExt),
	}
	for pt, out := range l.payload {
		if out == PayloadDrop || out > 127 {
			r.payload[pt] = PayloadDrop
			continue
		}
		in, to := l.formats[pt], l.peer.formats[out]
		if in != nil && to != nil && l.events[pt] && in.ClockRate != to.ClockRate && in.ClockRate > 0 && to.ClockRate > 0 {
			r.rescaled = append(r.rescaled, eventClock{uint8(pt), uint64(in.ClockRate), uint64(to.ClockRate)})
		}
	}
	return r
}

// SSRC is the one SSRC this line sends with towards its leg, for its whole life.
func (l *Line) SSRC() uint32 { return l.out.ssrc }

// Kind is the line's medium.
func (l *Line) Kind() Kind {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	return l.cfg.Kind
}

// Transport is the leg's transport that carries the line.
func (l *Line) Transport() *Transport { return l.t }

// Update changes what signalling has settled. SSRC and indices go on.
func (l *Line) Update(c LineConfig) {
	p := l.t.plane
	p.control.Lock()
	defer p.control.Unlock()
	if l.closed {
		return
	}
	l.t.mu.Lock()
	l.configure(c)
	if !c.Receive {
		l.t.detach(l.source)
	}
	l.t.mu.Unlock()
	l.gate(c.Send)
	l.reroute()
	if l.peer != nil {
		l.peer.reroute()
	}
}

// gate opens or closes the line's output. What comes after a closed gate is
// based anew: the receiver cannot follow a roll-over it did not see. Plane.control
// is held.
func (l *Line) gate(open bool) {
	l.t.out.mu.Lock()
	was := l.out.open
	if was != open {
		l.out.open = open
		l.out.epoch++
	}
	l.t.out.mu.Unlock()
	if was && !open {
		l.peer.detachSource()
	}
}

// detachSource takes the stream that feeds l's peer back from its engine and
// ends its flow. Plane.control is held; l may be nil.
func (l *Line) detachSource() {
	if l == nil {
		return
	}
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.t.detach(l.source)
}

// reroute compiles the route anew and tells the engine that owns the stream.
// Plane.control is held.
func (l *Line) reroute() {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	was := l.route
	l.route = l.makeRoute()
	if was != nil && l.route != nil && was.extensions != l.route.extensions {
		for _, s := range l.t.streams {
			s.foreign = s.foreign && s.line != l // what was not negotiated may be now
		}
	}
	if s := l.source; s != nil && s.flow != nil && l.route != nil {
		s.flow.Payload, s.flow.Extensions = l.route.payload, l.route.extensions.mode
		l.t.plane.engine.changed(s)
	}
}

// Join connects two lines both ways; it replaces what either was joined to.
// aToB and bToA map payload types of the first leg's numbering to the other's.
// Lines of one transport cannot be joined.
func (p *Plane) Join(a, b *Line, aToB, bToA PayloadMap) error {
	p.control.Lock()
	defer p.control.Unlock()
	switch {
	case a == nil || b == nil:
		return errNoLine
	case a.closed || b.closed:
		return ErrClosed
	case a.t == b.t:
		return errSameTransport
	}
	if a.peer != b {
		a.unjoin()
		b.unjoin()
	}
	a.t.mu.Lock()
	a.peer, a.payload = b, aToB
	a.t.mu.Unlock()
	b.t.mu.Lock()
	b.peer, b.payload = a, bToA
	b.t.mu.Unlock()
	a.reroute()
	b.reroute()
	return nil
}

// Unjoin stops both directions between the line and its peer.
func (l *Line) Unjoin() {
	l.t.plane.control.Lock()
	defer l.t.plane.control.Unlock()
	l.unjoin()
}

func (l *Line) unjoin() {
	peer := l.peer
	if peer == nil {
		return
	}
	for _, x := range [...]*Line{l, peer} {
		x.t.mu.Lock()
		x.t.detach(x.source)
		x.source, x.peer, x.route = nil, nil, nil
		x.t.mu.Unlock()
	}
}

// Close unjoins the line and ends its SSRC with a BYE (RFC 3550 6.6).
func (l *Line) Close() {
	l.t.plane.control.Lock()
	defer l.t.plane.control.Unlock()
	l.close()
}

// close is Close with Plane.control held.
func (l *Line) close() {
	if l.closed {
		return
	}
	l.unjoin()
	l.sendBye()
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.closed = true
	l.t.dropLine(l)
}

// digit notes one DTMF event of RFC 4733. Transport.mu is held.
func (l *Line) digit(payload []byte, timestamp uint32) {
	const digits = "0123456789*#ABCD"
	if len(payload) < 4 || int(payload[0]) >= len(digits) || len(l.digits) > 0 && timestamp == l.lastDTM {
		return
	}
	l.lastDTM = timestamp
	if len(l.digits) == maxDigits {
		l.digits = append(l.digits[:0], l.digits[1:]...)
	}
	l.digits = append(l.digits, digits[payload[0]])
}

const maxDigits = 64
