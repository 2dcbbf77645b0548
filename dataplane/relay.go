package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// receivePhoneRTP is the receiver of a phone's RTP port.
func (t *Transport) receivePhoneRTP(b *batch, packet []byte, from netip.AddrPort) {
	if classify(packet) != classMedia {
		t.plane.drop(nil, dropMalformed)
		return
	}
	if isRTCP(packet) {
		t.receiveRTCP(b, packet, t.rtp, from)
		return
	}
	t.receiveRTP(b, packet, t.rtp, from)
}

// receiveRTP carries one RTP or SRTP packet to where its stream goes.
func (t *Transport) receiveRTP(b *batch, packet []byte, via *socket, from netip.AddrPort) {
	h, ok := srtp.HeaderLen(packet)
	if !ok {
		t.plane.drop(nil, dropMalformed)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.in == nil {
		t.plane.drop(nil, dropNoKeys)
		return
	}
	expected := t.expects(from)
	if !expected && !t.mayLatch(from, b.now) {
		t.plane.drop(nil, dropUnknown)
		return
	}
	t.process(b, packet, h, via, from, expected)
}

// expects tells whether media may come from an address without a latch. The
// browser port has looked the pair up already. Transport.mu is held.
func (t *Transport) expects(from netip.AddrPort) bool {
	return t.rtp == nil || from == t.remote.RTP
}

// process is receiveRTP after the source check. Transport.mu is held.
func (t *Transport) process(b *batch, packet []byte, h int, via *socket, from netip.AddrPort, expected bool) {
	ssrc := binary.BigEndian.Uint32(packet[8:])
	s := t.streams[ssrc]
	if s != nil && s.flow != nil && s.flow.owner != ownerUser && t.plane.engine.divert(b, t, s, packet, via, from) {
		return
	}
	known := s != nil
	if !known {
		s = &t.trial
		*s = stream{ssrc: ssrc}
		if highest, was := t.gone[ssrc]; was {
			s.window = srtp.NewWindowAt(highest)
		}
	}
	payloadType := packet[1] & 0x7f
	if l := s.line; l != nil && l.formats[payloadType] != nil && !l.aside[payloadType] {
		s.clock = uint32(l.formats[payloadType].ClockRate)
	}
	packet, index, jumped, ok := t.accept(s, packet, h, b)
	if !ok {
		return
	}
	if !known {
		line := t.classify(packet, h)
		if line == nil {
			t.plane.drop(nil, dropUnclassified)
			return
		}
		if s = t.admit(b.now); s == nil {
			t.plane.drop(nil, dropSources)
			return
		}
		s.line, s.clock = line, line.clock
		if f := line.formats[payloadType]; f != nil && !line.aside[payloadType] {
			s.clock = uint32(f.ClockRate)
		}
	}
	s.count(packet, h, index, b.now, t.plane.uptime(b.now))
	if !expected {
		t.latch(from, b.now)
	} else {
		t.latchUntil = time.Time{} // the address in the SDP was right
	}
	t.forward(b, s, packet, h, index, jumped)
}

// accept finds a packet's index, authenticates it and marks the index as seen.
// Nothing else has changed when it refuses. jumped tells that the index does
// not continue what the stream's flow was based on.
func (t *Transport) accept(s *stream, packet []byte, h int, b *batch) (plain []byte, index uint64, jumped, ok bool) {
	seq := binary.BigEndian.Uint16(packet[2:])
	if t.in.ctx == nil {
		if index, jumped, ok = s.place(seq); !ok {
			why := dropReplay
			if s.suspicious {
				why = dropProbation
			}
			t.plane.drop(s, why)
			return nil, 0, false, false
		}
		s.window.Accept(index)
		return packet, index, jumped, true
	}
	index = s.window.Estimate(seq)
	if !s.window.Check(index) {
		t.plane.drop(s, dropReplay)
		return nil, 0, false, false
	}
	plain, err := t.in.ctx.Unprotect(packet, h, index)
	if err != nil {
		t.plane.drop(s, dropAuth)
		t.auth.failed(t, b.now)
		return nil, 0, false, false
	}
	t.auth.passed()
	if s.window.Started() && index > s.window.Highest()+maxDropout {
		s.jump()
		jumped = true
	}
	s.window.Accept(index)
	return plain, index, jumped, true
}

// classify finds the line of a new SSRC by mid, then by payload type, which must
// name one line only (RFC 8843 9.2). nil: none. Transport.mu is held.
func (t *Transport) classify(packet []byte, h int) *Line {
	payloadType := packet[1] & 0x7f
	for _, l := range t.lines {
		if l.cfg.MidExt == 0 || l.cfg.Mid == "" {
			continue
		}
		if mid := extension(packet, h, l.cfg.MidExt); mid != nil && string(mid) == l.cfg.Mid {
			return l
		}
	}
	var found *Line
	for _, l := range t.lines {
		if l.formats[payloadType] == nil {
			continue
		}
		if found != nil {
			return nil
		}
		found = l
	}
	return found
}

// admit makes the trial stream a known one, within bounds: the one that has been
// silent for longest makes room. Of an SRTP stream its highest index stays, so
// that nothing is accepted again. Transport.mu is held.
func (t *Transport) admit(now time.Time) *stream {
	if len(t.streams) >= maxStreams {
		var oldest *stream
		for _, s := range t.streams {
			if s.line.source != s && (oldest == nil || s.counters.LastPacket.Before(oldest.counters.LastPacket)) {
				oldest = s
			}
		}
		if oldest == nil || now.Sub(oldest.counters.LastPacket) < sourceSilence {
			return nil
		}
		if t.in.ctx != nil {
			if len(t.gone) >= maxGone {
				return nil
			}
			t.gone[oldest.ssrc] = oldest.window.Highest()
		}
		t.forget(oldest)
		delete(t.streams, oldest.ssrc)
	}
	s := new(stream)
	*s = t.trial
	t.streams[s.ssrc] = s
	delete(t.gone, s.ssrc)
	return s
}

// forward sends an accepted packet on to the joined line. Transport.mu is held.
func (t *Transport) forward(b *batch, s *stream, packet []byte, h int, index uint64, jumped bool) {
	l := s.line
	payloadType := packet[1] & 0x7f
	if f := l.formats[payloadType]; f != nil {
		if l.events[payloadType] {
			l.digit(packet[h:], binary.BigEndian.Uint32(packet[4:]))
		} else if !l.aside[payloadType] {
			l.codec = f.Codec
		}
	}
	r := l.route
	switch {
	case r == nil:
		t.plane.drop(s, dropUnjoined)
		return
	case !l.cfg.Receive:
		t.plane.drop(s, dropHold)
		return
	case r.payload[payloadType] == PayloadDrop:
		t.plane.drop(s, dropPayload)
		return
	case !t.lead(s, b.now):
		t.plane.drop(s, dropSource)
		return
	}
	packet, h, foreign := r.extensions.apply(packet, h)
	s.foreign = s.foreign || foreign
	for _, e := range r.rescaled {
		if e.payloadType == payloadType {
			e.scale(packet[h:])
		}
	}
	ts := binary.BigEndian.Uint32(packet[4:])
	first := false
	if f := s.flow; f != nil && f.owner != ownerUser && (f.to != r.to || jumped) && !t.plane.engine.takeBack(t, s, 0) {
		t.plane.drop(s, dropForwarder)
		return
	}

	to, tx := &r.to.out, &r.to.t.out
	tx.mu.Lock()
	defer tx.mu.Unlock()
	switch {
	case !to.open:
		t.plane.drop(s, dropHold)
		return
	case to.stopped:
		t.plane.drop(s, dropForwarder)
		return
	case tx.session == nil || !tx.rtpTo.IsValid():
		t.plane.drop(s, dropNoAddress)
		return
	}
	f := s.flow
	if f != nil && f.owner != ownerUser && f.epoch != to.epoch {
		t.plane.drop(s, dropOvertaken) // it is on its way back from the other engine
		return
	}
	if f == nil || f.to != r.to || f.epoch != to.epoch || jumped {
		f = t.base(s, r, ts, index, b.now)
		first = true
	}
	if index < f.base {
		t.plane.drop(s, dropOvertaken)
		return
	}
	out := (index + f.IndexOffset) & srtp.IndexMask
	packet[1] = packet[1]&0x80 | r.payload[payloadType]
	if first && r.audio {
		packet[1] |= 0x80 // a new talk spurt: receivers may adapt their delay
	}
	ts += f.TimestampAdd
	binary.BigEndian.PutUint16(packet[2:], uint16(out))
	binary.BigEndian.PutUint32(packet[4:], ts)
	binary.BigEndian.PutUint32(packet[8:], to.ssrc)
	octets := len(packet) - h
	if tx.session.ctx != nil {
		sealed, err := tx.session.ctx.Protect(packet[:len(packet):cap(packet)], h, out)
		if err != nil {
			t.plane.drop(s, dropMalformed)
			return
		}
		packet = sealed
	}
	to.sent.Packets++
	to.sent.Octets += uint64(octets)
	to.sent.LastPacket = b.now
	t.plane.totals.user(octets)
	if out >= to.next || !to.started {
		to.next, to.started = out+1, true
		to.lastTS, to.lastAt, to.clock = ts, b.now, s.clock
	}
	b.emit(tx.rtpVia, tx.rtpTo, packet)
	f.seen++
	t.plane.engine.consider(t, s, b.now)
}

// base starts a flow for the stream at index: the output goes on at the next
// index of its SSRC, its timestamp where the wall clock says. Transport.mu and
// the output's sender.mu are held.
func (t *Transport) base(s *stream, r *route, ts uint32, index uint64, now time.Time) *flow {
	to, tx := &r.to.out, &r.to.t.out
	f := &flow{to: r.to, epoch: to.epoch, base: index}
	f.Flow = Flow{
		ID: t.plane.newFlow(), In: t.in.Session, InSSRC: s.ssrc, Bindings: t.bindings(),
		Out: tx.session.Session, OutSSRC: to.ssrc, OutLocal: tx.rtpVia.local, OutRemote: tx.rtpTo,
		OutNetwork: r.to.t.net.Name, InNetwork: t.net.Name,
		IndexOffset: (to.next - index) & srtp.IndexMask,
		Payload:     r.payload, Extensions: r.extensions.mode, ClockRate: s.clock,
	}
	if to.started {
		f.TimestampAdd = to.lastTS + max(1, ticks(now.Sub(to.lastAt), cmpClock(s.clock, to.clock))) - ts
	} else {
		f.TimestampAdd = rand.Uint32()        // RFC 3550 5.1
		f.base -= min(index, srtp.WindowSize) // packets that the first one overtook have indices too
	}
	s.flow = f
	to.fed = flowRef{ssrc: s.ssrc, indexOffset: f.IndexOffset, timestampAdd: f.TimestampAdd}
	return f
}

func cmpClock(a, b uint32) uint32 {
	if a != 0 {
		return a
	}
	return b
}

// scale converts the duration of a telephone-event payload (RFC 4733 2.3.5).
func (e eventClock) scale(payload []byte) {
	if len(payload) < 4 {
		return
	}
	d := uint64(binary.BigEndian.Uint16(payload[2:])) * e.to / e.from
	binary.BigEndian.PutUint16(payload[2:], uint16(min(d, 0xffff)))
}

// lead decides whether a stream is its line's source: one source feeds an output
// at a time. A new SSRC takes over with its second packet, or its first when the
// old source is late; one that was replaced comes back only after a silence, so
// two sources that send at once do not fight. Transport.mu is held.
func (t *Transport) lead(s *stream, now time.Time) bool {
	l := s.line
	if l.source == s {
		return true
	}
	if old := l.source; old != nil {
		silent := now.Sub(t.plane.engine.lastPacket(old, now))
		if s.led {
			if silent < sourceSilence {
				return false
			}
		} else if s.received < 2 && silent < sourceLate {
			return false
		}
		if !t.detach(old) {
			return false
		}
	}
	l.source, s.led = s, true
	return true
}

// detach ends a stream's flow; what an engine carried comes back first. It
// reports false when the engine did not give it back: then nothing else may
// send with the flow's SSRC. Transport.mu is held; s may be nil.
func (t *Transport) detach(s *stream) bool {
	if s == nil || s.flow == nil {
		return true
	}
	if !t.plane.engine.release(t, s, 0) {
		return false
	}
	s.flow = nil
	return true
}

// mayLatch tells whether an unexpected source may become the remote address.
// Transport.mu is held.
func (t *Transport) mayLatch(from netip.AddrPort, now time.Time) bool {
	return t.rtp != nil && !t.latched && from.Addr() == t.remote.LatchIP && now.Before(t.latchUntil)
}

// latch takes the source of an accepted packet as the remote address, once.
// Transport.mu is held.
func (t *Transport) latch(from netip.AddrPort, now time.Time) {
	t.latched = true
	t.latchUntil = time.Time{}
	r := t.remote
	r.RTP = from
	if !r.Mux {
		// The RTCP port behind the NAT shows when its first packet comes.
		t.control.latchIP = from.Addr()
		t.control.latchUntil = now.Add(cmpOr(r.LatchFor, defaultLatch))
	}
	t.remote.RTP = from
	t.moved()
	tx := &t.out
	tx.mu.Lock()
	tx.rtpTo = from
	if r.Mux {
		tx.rtcpTo = from
	}
	tx.mu.Unlock()
	t.plane.engine.later(func() {
		t.plane.control.Lock()
		defer t.plane.control.Unlock()
		t.redirected()
	})
	if t.ev.Latched != nil {
		t.plane.events.add(func() { t.ev.Latched(from) })
	}
}

// authState notices a leg whose packets never verify.
type authState struct {
	since    time.Time
	failures int
	told     bool
}

const (
	authFailures = 50
	authPatience = 2 * time.Second
)

func (a *authState) passed() {
	if a.failures != 0 {
		*a = authState{}
	}
}

func (a *authState) failed(t *Transport, now time.Time) {
	if a.failures == 0 {
		a.since = now
	}
	a.failures++
	if a.told || a.failures < authFailures || now.Sub(a.since) < authPatience {
		return
	}
	a.told = true
	if t.ev.AuthFailing != nil {
		since := a.since
		t.plane.events.add(func() { t.ev.AuthFailing(since) })
	}
}
