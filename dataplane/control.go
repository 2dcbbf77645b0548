package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"crypto/rand"

	"github.com/pion/rtcp"
	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/dataplane/translator"
)

const (
	// maxReporters bounds the SRTCP senders of one transport.
	maxReporters = 64
	// keyframeGap is the least time between two key frame events of a line.
	keyframeGap = 500 * time.Millisecond
)

// controlState is the RTCP that a transport receives. Transport.mu guards it.
type controlState struct {
	windows map[uint32]*srtp.Window // SRTCP replay protection by sender
	heard   time.Time               // the leg's last own report
	srs     map[uint32]senderReport // last sender report by the SSRC of a stream

	// The RTCP port follows the RTP port's latch, for as long as that was open.
	latchIP    netip.Addr
	latchUntil time.Time
}

type senderReport struct {
	middle uint32
	at     time.Time
}

func newControlState() controlState {
	return controlState{windows: make(map[uint32]*srtp.Window), srs: make(map[uint32]senderReport)}
}

// rekeyed forgets what belonged to the old key.
func (c *controlState) rekeyed() { clear(c.windows) }

// unlatch closes the latch of the RTCP port.
func (c *controlState) unlatch() { c.latchIP, c.latchUntil = netip.Addr{}, time.Time{} }

// outputReports is what a leg said about our SSRC, and what we say about its.
// Transport.out.mu guards it.
type outputReports struct {
	clock     translator.Clock
	reception translator.Reception
	lost      int64
	jitter    uint32 // in units of the output's clock
	roundTrip time.Duration
	next      time.Time // our own report is due
	keyframe  time.Time // last event
}

// randomName is a CNAME by RFC 7022 4.2.
func randomName() string { return rand.Text() }

// receivePhoneRTCP is the receiver of a phone's RTCP port.
func (t *Transport) receivePhoneRTCP(b *batch, packet []byte, from netip.AddrPort) {
	if classify(packet) == classMedia && isRTCP(packet) {
		t.receiveRTCP(b, packet, t.rtcp, from)
	}
}

// receiveRTCP authenticates a compound packet, reads what it says about our
// SSRCs and translates it for the legs it concerns (RFC 3550 7.2).
func (t *Transport) receiveRTCP(b *batch, packet []byte, via *socket, from netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.in == nil {
		return
	}
	latches := false
	if t.rtp != nil && from != rtcpOf(t.remote) {
		if via != t.rtcp || from.Addr() != t.control.latchIP || !b.now.Before(t.control.latchUntil) {
			return
		}
		latches = true
	}
	packet, ok := t.unprotectControl(packet, b.now)
	if !ok {
		return
	}
	in, err := rtcp.Unmarshal(packet)
	if err != nil {
		return
	}
	if latches {
		t.control.unlatch()
		t.remote.RTCP = from
		t.out.mu.Lock()
		t.out.rtcpTo = from
		t.out.mu.Unlock()
	}
	t.note(in, b.now)
	for _, l := range t.lines {
		if l.route != nil && t.firstTo(l) {
			t.translate(in, l, b.now)
		}
	}
}

// unprotectControl verifies SRTCP and its replay window. Transport.mu is held.
func (t *Transport) unprotectControl(packet []byte, now time.Time) ([]byte, bool) {
	if t.in.ctx == nil {
		return packet, true
	}
	sender := binary.BigEndian.Uint32(packet[4:])
	plain, index, err := t.in.ctx.UnprotectRTCP(packet)
	if err != nil {
		t.auth.failed(t, now)
		return nil, false
	}
	w := t.control.windows[sender]
	if w == nil {
		if len(t.control.windows) >= maxReporters {
			return nil, false
		}
		w = new(srtp.Window)
		t.control.windows[sender] = w
	}
	if !w.Check(uint64(index)) {
		return nil, false
	}
	w.Accept(uint64(index))
	return plain, true
}

// firstTo tells whether l is the first line that leads to its peer's transport.
func (t *Transport) firstTo(l *Line) bool {
	for _, o := range t.lines {
		if o.route != nil && o.route.to.t == l.route.to.t {
			return o == l
		}
	}
	return false
}

// note takes what the leg says about itself and about our SSRCs into the
// statistics. Transport.mu is held.
func (t *Transport) note(in []rtcp.Packet, now time.Time) {
	for _, p := range in {
		var blocks []rtcp.ReceptionReport
		switch p := p.(type) {
		case *rtcp.SenderReport:
			t.control.heard = now
			if t.streams[p.SSRC] != nil { // bounded by the streams
				t.control.srs[p.SSRC] = senderReport{translator.Middle(p.NTPTime), now}
			}
			blocks = p.Reports
		case *rtcp.ReceiverReport:
			t.control.heard = now
			blocks = p.Reports
		}
		for _, block := range blocks {
			l := t.lineBySSRC(block.SSRC)
			if l == nil {
				continue
			}
			t.out.mu.Lock()
			r := &l.out.report
			r.lost, r.jitter = int64(int32(block.TotalLost<<8)>>8), block.Jitter
			if rtt, ok := r.clock.RoundTrip(now, block); ok {
				r.roundTrip = rtt
			}
			t.out.mu.Unlock()
		}
	}
}

// lineBySSRC finds the line that sends with an SSRC. SSRCs never change.
func (t *Transport) lineBySSRC(ssrc uint32) *Line {
	for _, l := range t.lines {
		if l.out.ssrc == ssrc {
			return l
		}
	}
	return nil
}

// translate sends on what a compound from this leg says to the transport that
// first leads to. Transport.mu is held.
func (t *Transport) translate(in []rtcp.Packet, first *Line, now time.Time) {
	y := first.route.to.t
	p := translator.Path{
		Reporter: first.route.to.out.ssrc,
		CNAME:    y.out.cname,
		Feedback: first.route.avpf,
		Forward: func(ssrc uint32) (translator.Stream, bool) {
			s := t.streams[ssrc]
			if s == nil || s.flow == nil || s.line.route == nil || s.line.source != s || s.line.route.to.t != y {
				return translator.Stream{}, false
			}
			sent := s.line.sent(now)
			return translator.Stream{InSSRC: ssrc, OutSSRC: s.flow.OutSSRC, IndexOffset: s.flow.IndexOffset,
				TimestampAdd: s.flow.TimestampAdd, Packets: sent.Packets, Octets: sent.Octets}, true
		},
		Backward: func(ssrc uint32) (translator.Stream, bool) {
			l := t.lineBySSRC(ssrc)
			if l == nil || l.route == nil || l.route.to.t != y {
				return translator.Stream{}, false
			}
			t.out.mu.Lock()
			defer t.out.mu.Unlock()
			o := &l.out
			if !o.started {
				return translator.Stream{}, false
			}
			return translator.Stream{InSSRC: o.fed.ssrc, OutSSRC: ssrc, IndexOffset: o.fed.indexOffset,
				TimestampAdd: o.fed.timestampAdd, Highest: (o.next - 1 - o.fed.indexOffset) & srtp.IndexMask}, true
		},
	}
	o := p.Translate(in)
	if len(o.Packets) > 0 {
		y.sendControl(now, first.route.to, o.Packets)
	}
	if o.Keyframe {
		t.wantKeyframe(in, y, now)
	}
}

// sent is what the line's peer has sent of the line's source, the Forwarder's
// part included. Transport.mu of the line is held.
func (l *Line) sent(now time.Time) Counters {
	if l.peer == nil {
		return Counters{}
	}
	tx := &l.peer.t.out
	tx.mu.Lock()
	c := l.peer.out.sent
	tx.mu.Unlock()
	if l.source != nil {
		c.add(l.t.plane.engine.read(l.source, now).sentOnly())
	}
	return c
}

// wantKeyframe raises Events.KeyframeRequest on legs that RTCP cannot ask.
// Transport.mu of the asking leg is held.
func (t *Transport) wantKeyframe(in []rtcp.Packet, y *Transport, now time.Time) {
	if y.ev.KeyframeRequest == nil {
		return
	}
	for _, p := range in {
		for _, ssrc := range p.DestinationSSRC() {
			l := t.lineBySSRC(ssrc)
			if l == nil || l.route == nil || l.route.to.t != y || l.cfg.Kind != Video {
				continue
			}
			asked := l.route.to
			t.out.mu.Lock()
			due := now.Sub(l.out.report.keyframe) >= keyframeGap
			if due {
				l.out.report.keyframe = now
			}
			t.out.mu.Unlock()
			if due {
				t.plane.events.add(func() { y.ev.KeyframeRequest(asked) })
			}
		}
	}
}

// sendControl protects and sends a compound packet to the leg, for one of its
// lines.
func (t *Transport) sendControl(now time.Time, l *Line, packets []rtcp.Packet) {
	raw, err := rtcp.Marshal(packets)
	if err != nil {
		t.plane.log.Debug("RTCP is not sent", "error", err)
		return
	}
	tx := &t.out
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.session == nil || !tx.rtcpTo.IsValid() {
		return
	}
	raw = slices.Grow(raw, srtp.MaxOverhead)
	if ctx := tx.session.ctx; ctx != nil {
		if tx.rtcpIndex >= srtp.RTCPIndexMask {
			return // RFC 3711 9.2: the key is used up
		}
		tx.rtcpIndex++
		if raw, err = ctx.ProtectRTCP(raw, tx.rtcpIndex); err != nil {
			return
		}
	}
	if tx.rtcpVia.write(raw, tx.rtcpTo) == nil {
		l.out.report.clock.Left(now, packets)
	}
}

// RequestKeyframe asks the leg's far end for a key frame by PLI when it takes
// feedback (AVPF); otherwise it does nothing.
func (l *Line) RequestKeyframe() {
	l.t.mu.Lock()
	s := l.source
	ask := l.cfg.AVPF && l.cfg.Kind == Video && s != nil && !l.closed
	var media uint32
	if ask {
		media = s.ssrc
	}
	l.t.mu.Unlock()
	if !ask {
		return
	}
	l.t.sendControl(time.Now(), l, []rtcp.Packet{
		&rtcp.ReceiverReport{SSRC: l.out.ssrc},
		translator.Description(l.out.ssrc, l.t.out.cname),
		&rtcp.PictureLossIndication{SenderSSRC: l.out.ssrc, MediaSSRC: media},
	})
}

// sendBye ends the line's SSRC towards its leg, when it was ever used.
func (l *Line) sendBye() {
	l.t.out.mu.Lock()
	used := l.out.started
	l.t.out.mu.Unlock()
	if used {
		l.t.sendControl(time.Now(), l, translator.Goodbye(l.out.ssrc, l.t.out.cname))
	}
}
