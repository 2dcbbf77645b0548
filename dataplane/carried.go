package dataplane

import "time"

// What is known of streams, whichever engine carries them.

// read is the Forwarder's state of the stream, at most readFor old. Transport.mu
// is held.
func (h *handover) read(s *stream, now time.Time) State {
	if s.flow == nil || s.flow.owner != ownerForwarder {
		return State{}
	}
	if now.Sub(s.readAt) >= readFor {
		state, err := h.forward.Read(s.flow.ID)
		if err != nil {
			h.plane.log.Debug("read", "flow", s.flow.ID, "error", err)
			return s.readCached
		}
		s.readAt, s.readCached = now, state
		h.advance(s, s.flow, state)
	}
	return s.readCached
}

// counters are a stream's, whoever carries it. Transport.mu is held.
func (h *handover) counters(s *stream) Counters {
	c := s.totals()
	c.add(h.read(s, time.Now()).Counters)
	return c
}

// lastPacket is when the stream was heard last. Transport.mu is held.
func (h *handover) lastPacket(s *stream, now time.Time) time.Time {
	last := s.counters.LastPacket
	if at := h.read(s, now).LastPacket; at.After(last) {
		last = at
	}
	return last
}

// path and why tell how a stream is carried. Transport.mu is held.
func (h *handover) path(s *stream) (string, Reason) {
	if s == nil || s.flow == nil {
		return pathUser, h.reason
	}
	f := s.flow
	if f.owner == ownerForwarder {
		return h.forward.Path(f.InNetwork), ReasonNone
	}
	switch {
	case h.forward == nil:
		return pathUser, h.reason
	case f.why == ReasonNone:
		return pathUser, ReasonSettling
	}
	return pathUser, f.why
}

const pathUser = "user"

// sentOnly is what counters of a stream say about its output.
func (c Counters) sentOnly() Counters {
	return Counters{Packets: c.Packets, Octets: c.Octets, LastPacket: c.LastPacket}
}

// since is what came on top of earlier counters.
func (c Counters) since(o Counters) Counters {
	c.Packets -= o.Packets
	c.Octets -= o.Octets
	c.Dropped -= o.Dropped
	c.Lost -= o.Lost
	return c
}
