package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

const (
	// settlePackets are forwarded by the user engine before a stream is worth
	// installing: its source and its numbering have been confirmed by then.
	settlePackets = 5
	// installMargin is how far above the newest index the cut lies: the packets
	// that may arrive while the Forwarder installs the stream.
	installMargin = 32
	// maxHeld bounds the packets above the cut that wait for an install.
	maxHeld = 64
	// releaseDrain is how long a released stream stays with the Forwarder for
	// packets that were overtaken. It cannot be installed again before.
	releaseDrain = 500 * time.Millisecond
	// retryAfter is when a refused stream is offered again.
	retryAfter = 10 * time.Second
	// maxRefused is how many packets of a stream a Forwarder may pass up before
	// the stream comes back.
	maxRefused = 5
	// readFor is how long a Forwarder.Read stands.
	readFor = 100 * time.Millisecond
)

// owner is the engine that a flow belongs to.
type owner uint8

const (
	ownerUser owner = iota
	// ownerInstalling: the user engine has the indices up to the cut, those
	// above wait for Install to return.
	ownerInstalling
	// ownerForwarder: the user engine still has the indices up to the cut.
	ownerForwarder
)

// flow is a Flow with what the user engine keeps about it. Transport.mu of the
// input guards it.
type flow struct {
	Flow
	to    *Line
	epoch uint64
	base  uint64 // lowest input index it carries
	seen  int    // packets forwarded by the user engine

	owner    owner
	cut      uint64
	why      Reason    // why it is with the user engine
	asked    bool      // Install has been asked for
	retry    time.Time // not before
	refused  int       // packets that the Forwarder passed up since it last took one
	declined uint64    // newest SRTP index among them
	held     []heldPacket
	done     chan struct{} // closed when Install has returned
	result   error
}

type heldPacket struct {
	via  *socket
	from netip.AddrPort
	data []byte
}

// handover moves streams between the user engine and the Forwarder.
//
// A stream is cut at an index: the Forwarder takes those above, the user engine
// keeps the rest, so no index is handled twice. It comes back by Release, which
// tells the highest index the Forwarder took; the user engine goes on above it.
type handover struct {
	plane   *Plane
	forward Forwarder // nil: all on the user engine
	reason  Reason

	drain   time.Duration
	jobs    *eventQueue
	removed []removal // only run touches it
}

// removal is a released flow that the Forwarder forgets after the drain.
type removal struct {
	id   FlowID
	at   time.Time
	then func(State)
}

func newHandover(p *Plane, f Forwarder, why Reason) *handover {
	if f == nil && why == ReasonNone {
		why = ReasonDisabled
	}
	return &handover{plane: p, forward: f, reason: why, drain: releaseDrain, jobs: newEventQueue()}
}

// later runs f on the engine's goroutine, without locks held.
func (h *handover) later(f func()) { h.jobs.add(f) }

func (h *handover) run() {
	tick := time.NewTicker(h.drain / 4)
	defer tick.Stop()
	for {
		select {
		case <-h.plane.stop:
			// What a Forwarder carries goes on; what was released does not.
			h.jobs.drain()
			for _, r := range h.removed {
				h.remove(r)
			}
			return
		case <-h.jobs.wake:
			h.jobs.drain()
		case now := <-tick.C:
			h.removed = slices.DeleteFunc(h.removed, func(r removal) bool {
				if now.Before(r.at) {
					return false
				}
				h.remove(r)
				return true
			})
		}
	}
}

func (h *handover) remove(r removal) {
	state, err := h.forward.Remove(r.id)
	if err != nil {
		// The stream stays draining: it will not be offered again.
		h.plane.log.Warn("forwarder did not remove a stream", "flow", r.id, "error", err)
		return
	}
	r.then(state)
}

// consider offers a settled stream to the Forwarder. Transport.mu of t is held.
func (h *handover) consider(t *Transport, s *stream, now time.Time) {
	f := s.flow
	if h.forward == nil || f.asked || f.owner != ownerUser || f.seen < settlePackets || s.draining || now.Before(f.retry) {
		return
	}
	f.asked = true
	h.later(func() { h.install(t, s, f) })
}

// install asks the Forwarder to take the stream above a cut.
func (h *handover) install(t *Transport, s *stream, f *flow) {
	t.mu.Lock()
	f.asked = false
	if s.flow != f || f.owner != ownerUser || t.closed || h.plane.closing() {
		t.mu.Unlock()
		return
	}
	if f.why = h.eligible(s, f); f.why != ReasonNone {
		f.retry = time.Now().Add(retryAfter)
		t.mu.Unlock()
		return
	}
	f.cut = s.window.Highest() + installMargin
	f.owner, f.done = ownerInstalling, make(chan struct{})
	c := s.counters
	// Packets and octets stay with whoever counted them; the Forwarder's begin
	// at zero.
	state := State{Window: s.window, Counters: Counters{
		Jitter: c.Jitter, LastPacket: c.LastPacket, LastTimestamp: c.LastTimestamp,
	}}
	asked := f.Flow
	asked.Bindings = slices.Clone(asked.Bindings)
	t.mu.Unlock()

	f.result = h.forward.Install(&asked, state, f.cut)
	close(f.done)

	t.mu.Lock()
	defer t.mu.Unlock()
	h.settle(t, s, f)
}

// eligible asks both what the plane and what the Forwarder knows.
func (h *handover) eligible(s *stream, f *flow) Reason {
	if r := s.line.route; r != nil && len(r.rescaled) > 0 {
		return ReasonEventClock
	}
	if s.foreign && f.Extensions == ExtensionsKeep {
		return ReasonHeaderExtension // a Forwarder keeps or strips whole blocks
	}
	return h.forward.Eligible(&f.Flow)
}

// settle ends ownerInstalling once Install has returned, and takes care of the
// packets that waited. Transport.mu is held.
func (h *handover) settle(t *Transport, s *stream, f *flow) {
	if f.owner != ownerInstalling {
		return
	}
	<-f.done
	held := f.held
	f.held = nil
	if f.result != nil {
		f.owner, f.why = ownerUser, ReasonInstallFailed
		if errors.Is(f.result, ErrMapFull) {
			f.why = ReasonMapFull
		}
		f.retry = time.Now().Add(retryAfter)
		h.plane.log.Warn("stream stays on the user engine", "flow", f.ID, "reason", f.why, "error", f.result)
		h.replay(t, s, held)
		return
	}
	f.owner, f.why = ownerForwarder, ReasonNone
	s.readAt, s.readCached = time.Time{}, State{}
	for _, p := range held {
		if !h.inject(s, p.data, p.via, p.from) {
			h.plane.drop(s, dropForwarder)
		}
	}
}

// replay runs held packets through the user engine. Transport.mu is held.
func (h *handover) replay(t *Transport, s *stream, held []heldPacket) {
	if len(held) == 0 || s.flow == nil {
		return
	}
	b := batches.Get().(*batch)
	b.now = time.Now()
	for i, p := range held {
		packet := b.bufs[i%batchSize][:copy(b.bufs[i%batchSize][:packetMax], p.data)]
		if n, ok := srtp.HeaderLen(packet); ok {
			t.process(b, packet, n, p.via, p.from, true)
		}
		if i%batchSize == batchSize-1 {
			b.deliver()
		}
	}
	b.deliver()
	batches.Put(b)
}

// divert decides about a packet of a stream that is not, or not only, the user
// engine's. It reports true when it took the packet. Transport.mu is held.
func (h *handover) divert(b *batch, t *Transport, s *stream, packet []byte, via *socket, from netip.AddrPort) bool {
	f := s.flow
	seq := uint16(packet[2])<<8 | uint16(packet[3])
	w := h.window(s, b.now)
	index := w.Estimate(seq)
	if index <= f.cut && s.near(index) {
		// Ours: the Forwarder passes up what is at or below the cut. The window
		// keeps this safe however late the packet is.
		return false
	}
	if f.owner == ownerInstalling {
		if len(f.held) == maxHeld {
			h.plane.drop(s, dropForwarder)
			return true
		}
		f.held = append(f.held, heldPacket{via, from, slices.Clone(packet)})
		return true
	}
	if r := s.line.route; r == nil || r.payload[packet[1]&0x7f] == PayloadDrop {
		h.plane.drop(s, dropPayload)
		return true
	}
	if h.inject(s, packet, via, from) {
		f.refused = 0
		return true
	}
	// The programs do not want it either. What they pass up before they look at
	// the tag (fragments, a TTL of 1, large packets) anyone can send.
	if t.in.ctx != nil {
		return h.declined(b, t, s, packet, index)
	}
	if d := int64(index) - int64(w.Highest()); d > 0 && d <= maxDropout {
		return h.refused(b, t, s)
	}
	// For plain RTP that is how a sender that started anew looks.
	if s.suspicious && seq == s.suspect && h.takeBack(t, s, 0) {
		return false
	}
	s.suspicious, s.suspect = true, seq+1
	h.plane.drop(s, dropForwarder)
	return true
}

// inject gives a packet that reached a socket to the Forwarder's programs and
// sends what they make of it. Transport.mu is held.
func (h *handover) inject(s *stream, packet []byte, via *socket, from netip.AddrPort) bool {
	f := s.flow
	made, err := h.forward.Inject(f.InNetwork, ipPacket(packet, from, via.local))
	if err != nil || len(made.Payload) == 0 {
		h.plane.log.Debug("packet above the cut was not taken", "flow", f.ID, "error", err)
		return false
	}
	tx := &f.to.t.out
	tx.mu.Lock()
	out := tx.rtpVia
	tx.mu.Unlock()
	// It has left as far as the numbering goes; a refused write is loss on the wire.
	_ = out.write(made.Payload, made.Remote)
	return true
}

// release takes a stream back and ends its flow there; false when the Forwarder
// did not give it back. Where the numbering goes on (drain), the Forwarder still
// takes what was overtaken for a while; else it forgets the stream at once: its
// late packets go nowhere, and those of a sender that started anew must not look
// like them. Transport.mu is held.
func (h *handover) release(t *Transport, s *stream, drain time.Duration) bool {
	f := s.flow
	if f.owner == ownerInstalling {
		h.settle(t, s, f)
	}
	if s.flow != f || f.owner == ownerUser {
		return true
	}
	state, err := h.forward.Release(f.ID)
	if err != nil {
		h.plane.log.Error("forwarder did not release a stream; removing it", "flow", f.ID, "error", err)
		if state, err = h.forward.Remove(f.ID); err != nil {
			h.plane.log.Error("forwarder did not remove a stream; its output is stopped", "flow", f.ID, "error", err)
			f.to.t.out.mu.Lock()
			f.to.out.stopped = true
			f.to.t.out.mu.Unlock()
			return false
		}
		h.takeState(s, f, state, 0, true)
		return true
	}
	h.takeState(s, f, state, drain, false)
	return true
}

// takeState goes on where the Forwarder stopped. removed tells that state is
// final. Transport.mu is held.
func (h *handover) takeState(s *stream, f *flow, state State, drain time.Duration, removed bool) {
	f.owner = ownerUser
	carried := state.Counters
	s.elsewhere.add(carried)
	if carried.Packets > 0 {
		// The estimate went over with Install and goes on from where it is now.
		s.jitter16, s.counters.Jitter = carried.Jitter<<4, carried.Jitter
	}
	path := h.forward.Path(f.InNetwork)
	h.plane.totals.forwarder(path, carried)
	s.readAt = time.Time{}
	h.advance(s, f, state)
	before, high := s.window, state.Window.Highest()
	ahead := state.Window.Started() && high > before.Highest()
	if ahead {
		s.jump()
		// Up to the cut it was ours all the time. What is above stays the
		// Forwarder's until Remove, which tells what it has not seen.
		s.window = reopen(srtp.NewWindowAt(high), before, 0, f.cut)
		if removed {
			s.window = reopen(s.window, state.Window, f.cut, high)
		}
	}
	to := &f.to.t.out
	to.mu.Lock()
	f.to.out.sent.add(carried.sentOnly())
	to.mu.Unlock()
	if removed {
		return
	}
	line := s.line
	s.draining = true
	r := removal{id: f.ID, at: time.Now().Add(drain), then: func(final State) {
		late := final.since(carried)
		h.plane.totals.forwarder(path, late)
		line.t.mu.Lock()
		line.ended.add(late)
		s.draining = false
		if ahead {
			s.window = reopen(s.window, final.Window, f.cut, high)
		}
		line.t.mu.Unlock()
		to.mu.Lock()
		f.to.out.sent.add(late.sentOnly())
		to.mu.Unlock()
	}}
	h.later(func() {
		if drain == 0 {
			h.remove(r)
			return
		}
		h.removed = append(h.removed, r)
	})
}

// reopen makes acceptable again what now counts as seen between two indices
// (above from, up to to) but seen has not.
func reopen(now, seen srtp.Window, from, to uint64) srtp.Window {
	bits, high := now.Bits(), now.Highest()
	for n := uint64(1); n < srtp.WindowSize && n <= high; n++ {
		if index := high - n; index > from && index <= to && seen.Check(index) {
			bits[n/64] &^= 1 << (n % 64)
		}
	}
	return srtp.NewWindow(high, bits, true)
}

// advance moves the output's numbering to what the Forwarder has sent.
func (h *handover) advance(s *stream, f *flow, state State) {
	if !state.Window.Started() {
		return
	}
	to := &f.to.t.out
	to.mu.Lock()
	defer to.mu.Unlock()
	o, tx := &f.to.out, &f.to.t.out
	if tx.session == nil || tx.session.ID != f.Out.ID {
		return // numbers of a key that is gone
	}
	if out := (state.Window.Highest() + f.IndexOffset) & srtp.IndexMask; out >= o.next {
		o.next = out + 1
		o.lastTS = state.LastTimestamp + f.TimestampAdd
		o.lastAt = state.LastPacket
	}
}

// takeBack releases a stream and lets the user engine go on with the same
// numbering under a new flow. Transport.mu is held.
func (h *handover) takeBack(t *Transport, s *stream, drain time.Duration) bool {
	f := s.flow
	if !h.release(t, s, drain) {
		return false
	}
	again := *f
	again.ID, again.seen, again.asked, again.done, again.result = t.plane.newFlow(), 0, false, nil, nil
	again.refused = 0
	s.flow = &again
	return true
}

// changed passes a flow's new bindings, addresses, payload map or extensions on
// to the engine that carries it. Transport.mu is held.
func (h *handover) changed(s *stream) {
	f, t := s.flow, s.line.t
	if f.owner == ownerInstalling {
		h.settle(t, s, f)
	}
	if f.owner == ownerUser {
		f.retry = time.Time{} // it may be eligible now
		return
	}
	why := h.eligible(s, f)
	if !f.OutRemote.IsValid() || len(f.Bindings) == 0 || !f.Bindings[0].Remote.IsValid() {
		why = ReasonSettling
	}
	if why == ReasonNone {
		asked := f.Flow
		asked.Bindings = slices.Clone(asked.Bindings)
		err := h.forward.Update(&asked)
		if err == nil {
			return
		}
		h.plane.log.Warn("forwarder did not take an update; the stream comes back", "flow", f.ID, "error", err)
	}
	if h.takeBack(t, s, h.drain) {
		s.flow.why = why
	}
}
