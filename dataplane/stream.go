package dataplane

import (
	"encoding/binary"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

const (
	// maxDropout is how far a sequence number may jump ahead before it has to
	// be confirmed by the next one (RFC 3550 A.1).
	maxDropout = 3000
	// maxStreams bounds the SSRCs of one transport, maxGone the earlier ones under
	// one SRTP key of which only the highest index is kept.
	maxStreams = 64
	maxGone    = 4096
	// A source that has led before leads again only when its successor has been
	// silent for this long.
	sourceSilence = 500 * time.Millisecond
	// A new source is believed at once when the old one is late already.
	sourceLate = 100 * time.Millisecond
)

// stream is one SSRC that a transport receives. Transport.mu guards it.
type stream struct {
	ssrc   uint32
	line   *Line
	window srtp.Window
	flow   *flow // nil while it feeds nothing
	led    bool  // it has been its line's source

	counters Counters // Packets are those received, Lost is kept by loss
	received uint64   // since first
	first    uint64   // index that loss is counted from
	lostOnce int64    // lost before first
	transit  uint32
	jitter16 uint32 // 16 times the jitter, as RFC 3550 A.8 keeps it
	clock    uint32 // Hz of the last audio or video payload type

	foreign  bool // it has sent header extensions that were not negotiated
	draining bool // a Forwarder still has an earlier flow of it

	suspect    uint16 // sequence number that would confirm a jump
	suspicious bool

	elsewhere  Counters  // what the Forwarder counted in earlier flows
	readAt     time.Time // of the cached Forwarder.Read
	readCached State
}

// place finds the index of a plain RTP packet: RFC 3711 estimation, with the
// probation of RFC 3550 A.1 for jumps. A confirmed jump goes on in the next
// roll-over, so indices only grow. restarted tells that the sender started anew.
func (s *stream) place(seq uint16) (index uint64, restarted, ok bool) {
	if !s.window.Started() {
		// Roll-over counter 1, so that packets overtaken by the first one have
		// an index too.
		return 1<<16 | uint64(seq), false, true
	}
	index = s.window.Estimate(seq)
	if s.near(index) {
		s.suspicious = false
		return index, false, s.window.Check(index)
	}
	if !s.suspicious || seq != s.suspect {
		s.suspicious, s.suspect = true, seq+1
		return 0, false, false
	}
	s.suspicious = false
	s.jump()
	index = (s.window.Highest()>>16+1)<<16 | uint64(seq)
	s.window = srtp.NewWindowAt(index - 1)
	return index, true, true
}

// near tells whether an index continues the stream.
func (s *stream) near(index uint64) bool {
	d := int64(index) - int64(s.window.Highest())
	return d > -srtp.WindowSize && d <= maxDropout
}

// jump ends the count of losses before an index that does not continue the
// stream. It comes before the window moves.
func (s *stream) jump() {
	s.lostOnce += s.lost()
	s.received = 0
}

// count takes a packet that the window has accepted into the statistics. uptime
// is its arrival on the plane's clock.
func (s *stream) count(packet []byte, h int, index uint64, now time.Time, uptime time.Duration) {
	if s.received == 0 {
		s.first = index
	}
	s.first = min(s.first, index)
	s.received++
	c := &s.counters
	c.Packets++
	c.Octets += uint64(len(packet) - h)
	ts := binary.BigEndian.Uint32(packet[4:])
	if s.clock != 0 {
		transit := ticks(uptime, s.clock) - ts
		if s.received > 1 {
			d := int32(transit - s.transit)
			s.jitter16 += uint32(max(d, -d)) - (s.jitter16+8)>>4
			c.Jitter = s.jitter16 >> 4
		}
		s.transit = transit
	}
	if index == s.window.Highest() {
		c.LastTimestamp = ts
	}
	c.LastPacket = now
}

// ticks converts a duration to units of an RTP clock, modulo 2^32.
func ticks(d time.Duration, clock uint32) uint32 {
	sec, rest := d/time.Second, d%time.Second
	return uint32(int64(sec)*int64(clock) + int64(rest)*int64(clock)/int64(time.Second))
}

// lost is expected minus received since first (RFC 3550 A.3).
func (s *stream) lost() int64 {
	if s.received == 0 {
		return 0
	}
	return int64(s.window.Highest()-s.first) + 1 - int64(s.received)
}

// totals are the stream's counters without what a Forwarder carries now.
func (s *stream) totals() Counters {
	c := s.counters
	c.Lost = s.lostOnce + s.lost()
	c.add(s.elsewhere)
	return c
}

// add sums what adds up and keeps the newer of the rest.
func (c *Counters) add(o Counters) {
	c.Packets += o.Packets
	c.Octets += o.Octets
	c.Dropped += o.Dropped
	c.Lost += o.Lost
	if o.LastPacket.After(c.LastPacket) {
		c.LastPacket, c.LastTimestamp, c.Jitter = o.LastPacket, o.LastTimestamp, o.Jitter
	}
}
