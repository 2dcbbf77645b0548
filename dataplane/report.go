package dataplane

import (
	"math/rand/v2"
	"time"

	"github.com/pion/rtcp"
	"github.com/sluicegw/sluice/dataplane/translator"
)

const (
	reportEvery = 5 * time.Second // RFC 3550 6.2, before its random factor
	// A leg that reports at least this often speaks for itself.
	reportSilence = 3 * reportEvery
	reportTick    = 250 * time.Millisecond
)

// report sends the gateway's own reports where the joined leg sends none, until
// the plane closes. It also keeps what the user engine knows of streams that a
// Forwarder carries fresh.
func (p *Plane) report() {
	tick := time.NewTicker(reportTick)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			for _, t := range p.all() {
				t.report(now)
			}
		}
	}
}

// report sends what is due on the transport's lines.
func (t *Transport) report(now time.Time) {
	if now.UnixNano() < t.reports.Load() {
		return
	}
	type job struct{ line, peer *Line }
	var due []job
	next := now.Add(reportEvery / 2) // a line added meanwhile is not due before
	t.plane.control.Lock()
	t.out.mu.Lock()
	for _, l := range t.lines {
		r := &l.out.report
		if !now.Before(r.next) {
			if !r.next.IsZero() {
				due = append(due, job{l, l.peer})
			}
			r.next = now.Add(reportEvery/2 + rand.N(reportEvery)) // RFC 3550 6.3.1
		}
		if r.next.Before(next) {
			next = r.next
		}
	}
	t.out.mu.Unlock()
	t.plane.control.Unlock()
	t.reports.Store(next.UnixNano())
	for _, j := range due {
		j.line.report(now, j.peer)
	}
}

// report sends one compound about the line to its leg, unless the joined leg's
// own reports are translated to it.
func (l *Line) report(now time.Time, peer *Line) {
	if peer != nil {
		pt := peer.t
		pt.mu.Lock()
		speaks := now.Sub(pt.control.heard) < reportSilence
		pt.plane.engine.refresh(peer.source, now)
		pt.mu.Unlock()
		if speaks {
			return
		}
	}
	var sent Counters
	if peer != nil {
		peer.t.mu.Lock()
		sent = peer.sent(now)
		peer.t.mu.Unlock()
	}
	var blocks []rtcp.ReceptionReport
	l.t.mu.Lock()
	received, ok := l.received(now)
	l.t.mu.Unlock()

	l.t.out.mu.Lock()
	o := &l.out
	if peer == nil {
		sent = o.sent
	}
	if ok {
		blocks = append(blocks, o.report.reception.Block(received))
	}
	s := translator.Sent{
		SSRC: o.ssrc, Packets: sent.Packets, Octets: sent.Octets,
		Timestamp: o.lastTS, Passed: now.Sub(o.lastAt), ClockRate: o.clock,
	}
	if now.Sub(o.lastAt) > 2*reportEvery {
		s.Packets = 0 // not a sender any more (RFC 3550 6.4): a receiver report
	}
	cname := l.t.out.cname
	l.t.out.mu.Unlock()
	if s.Packets == 0 && len(blocks) == 0 {
		return
	}
	l.t.sendControl(now, l, translator.Report(now, s, blocks, cname))
}

// received is what the reception report about the line's source says.
// Transport.mu is held.
func (l *Line) received(now time.Time) (translator.Received, bool) {
	s := l.source
	if s == nil || l.closed {
		return translator.Received{}, false
	}
	carried := l.t.plane.engine.read(s, now)
	last := s.counters.LastPacket
	r := translator.Received{SSRC: s.ssrc, First: s.first, Highest: s.window.Highest(),
		Packets: s.received + carried.Packets, Jitter: s.counters.Jitter}
	if carried.LastPacket.After(last) {
		last, r.Jitter = carried.LastPacket, carried.Jitter
	}
	if h := carried.Window.Highest(); carried.Window.Started() && h > r.Highest {
		r.Highest = h
	}
	if sr, ok := l.t.control.srs[s.ssrc]; ok {
		r.LastSR, r.SRPassed = sr.middle, now.Sub(sr.at)
	}
	return r, now.Sub(last) < 2*reportEvery && s.received > 0
}

// refresh reads a carried stream so that the output's numbering is known for
// RTCP. Transport.mu of the stream is held.
func (h *handover) refresh(s *stream, now time.Time) {
	if s != nil {
		h.read(s, now)
	}
}

// Stats reads the line's statistics from the engines that own its streams.
func (l *Line) Stats() LineStats {
	p := l.t.plane
	p.control.Lock()
	peer := l.peer
	p.control.Unlock()
	var st LineStats

	l.t.mu.Lock()
	st.Received = l.ended
	for _, s := range l.t.streams {
		if s.line == l {
			st.Received.add(p.engine.counters(s))
		}
	}
	st.Codec, st.DTMF = l.codec, string(l.digits)
	st.Path, st.Reason = p.engine.path(l.source)
	l.t.mu.Unlock()

	var carried Counters
	if peer != nil {
		peer.t.mu.Lock()
		if s := peer.source; s != nil && s.flow != nil && s.flow.to == l {
			carried = p.engine.read(s, time.Now()).sentOnly()
		}
		peer.t.mu.Unlock()
	}
	l.t.out.mu.Lock()
	defer l.t.out.mu.Unlock()
	st.Sent = l.out.sent
	st.Sent.add(carried)
	r := &l.out.report
	st.RemoteLost, st.RoundTrip = r.lost, r.roundTrip
	if l.out.clock != 0 {
		st.RemoteJitter = time.Duration(r.jitter) * time.Second / time.Duration(l.out.clock)
	}
	return st
}

// Snapshot lists the flows, without keys.
func (p *Plane) Snapshot() []FlowInfo {
	var list []FlowInfo
	for _, t := range p.all() {
		t.mu.Lock()
		for _, s := range t.streams {
			if s.flow == nil {
				continue
			}
			i := FlowInfo{Flow: s.flow.Flow}
			if k := i.Flow.In.Keys; k != nil {
				i.InProfile = k.Profile
			}
			if k := i.Flow.Out.Keys; k != nil {
				i.OutProfile = k.Profile
			}
			i.Flow.In.Keys, i.Flow.Out.Keys = nil, nil
			i.Path, i.Why = p.engine.path(s)
			carried := p.engine.read(s, time.Now())
			i.State = State{Window: s.window, Counters: s.totals()}
			i.State.Counters.add(carried.Counters)
			if carried.Window.Started() && carried.Window.Highest() > s.window.Highest() {
				i.State.Window = carried.Window
			}
			list = append(list, i)
		}
		t.mu.Unlock()
	}
	return list
}
