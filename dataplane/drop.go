package dataplane

import "sync/atomic"

// drop is why the user engine did not forward a packet.
type drop uint8

const (
	dropMalformed    drop = iota // not RTP or RTCP, or shorter than it says
	dropUnknown                  // media from an address that no transport expects
	dropNoKeys                   // before the leg's keys are there
	dropReplay                   // seen before, or older than the window
	dropProbation                // a jump that the next packet must confirm
	dropAuth                     // the tag did not verify
	dropUnclassified             // new SSRC that belongs to no line
	dropSources                  // more SSRCs than a transport may have
	dropUnjoined                 // no line to go to
	dropHold                     // the direction is closed
	dropPayload                  // payload type that the far side does not take
	dropSource                   // another SSRC has the line
	dropOvertaken                // overtaken by a source switch or a hand-over
	dropNoAddress                // the far side has no address or keys yet
	dropForwarder                // the Forwarder would not have it
	drops
)

var dropNames = [drops]string{
	"malformed", "unknown-source", "no-keys", "replay", "probation", "auth-failed", "unclassified",
	"too-many-sources", "not-joined", "hold", "payload-type", "other-source", "overtaken", "no-destination", "forwarder",
}

// String is the drop's stable name, for metrics and listings.
func (d drop) String() string { return dropNames[d] }

type dropCounters [drops]atomic.Uint64

// Drops counts, by stable name, the packets that the user engine took and did
// not forward.
func (p *Plane) Drops() map[string]uint64 {
	m := make(map[string]uint64, drops)
	for i := range p.dropped {
		m[drop(i).String()] = p.dropped[i].Load()
	}
	return m
}

// drop counts a packet for the plane and, when its stream is known, there.
func (p *Plane) drop(s *stream, why drop) {
	p.dropped[why].Add(1)
	if s != nil {
		s.counters.Dropped++
	}
}
