package dataplane

import (
	"slices"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// What a Forwarder passes up of a stream that it carries.

// window is that of the engine which has the newest index: the user engine's
// stands near the cut while a Forwarder runs on. Transport.mu is held.
func (h *handover) window(s *stream, now time.Time) srtp.Window {
	if w := h.read(s, now).Window; w.Started() && w.Highest() > s.window.Highest() {
		return w
	}
	return s.window
}

// declined is divert for an SRTP packet that the programs did not take. Only an
// authentic one that the Forwarder has not had tells anything about it, and each
// only once. Transport.mu is held.
func (h *handover) declined(b *batch, t *Transport, s *stream, packet []byte, index uint64) bool {
	f := s.flow
	n, ok := srtp.HeaderLen(packet)
	if ok {
		_, err := t.in.ctx.Unprotect(slices.Clone(packet), n, index)
		ok = err == nil
	}
	if !ok {
		// Not a sign of wrong keys: the packets that verify are not seen here.
		h.plane.drop(s, dropAuth)
		return true
	}
	s.readAt = time.Time{} // a replay of what was taken just now must not count
	w := h.window(s, b.now)
	if index <= f.declined || !w.Check(index) || index > w.Highest()+maxDropout {
		h.plane.drop(s, dropForwarder)
		return true
	}
	f.declined = index
	return h.refused(b, t, s)
}

// refused counts a packet that the Forwarder should have taken: there may be no
// route any more. It reports false when the user engine has the stream again.
// Transport.mu is held.
func (h *handover) refused(b *batch, t *Transport, s *stream) bool {
	f := s.flow
	if f.refused++; f.refused >= maxRefused && h.takeBack(t, s, h.drain) {
		s.flow.why, s.flow.retry = ReasonInstallFailed, b.now.Add(retryAfter)
		return false
	}
	h.plane.drop(s, dropForwarder)
	return true
}
