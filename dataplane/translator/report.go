package translator

import (
	"time"

	"github.com/pion/rtcp"
)

// NTP is t in the 64-bit format of RFC 3550 4.
func NTP(t time.Time) uint64 {
	const epoch = 2208988800 // seconds from 1900 to 1970
	ns := uint64(t.Nanosecond())
	return (uint64(t.Unix())+epoch)<<32 | (ns<<32)/uint64(time.Second)
}

// Middle is the middle 32 bits of an NTP time: what LSR carries.
func Middle(ntp uint64) uint32 { return uint32(ntp >> 16) }

// short converts to and from units of 1/65536 s.
func short(d time.Duration) uint32 { return uint32((uint64(d) << 16) / uint64(time.Second)) }
func fromShort(v uint32) time.Duration {
	return time.Duration((uint64(v) * uint64(time.Second)) >> 16)
}

// Received is what is known of a stream that a leg sends to us.
type Received struct {
	SSRC     uint32 // the leg's
	First    uint64 // input index of the first packet
	Highest  uint64 // newest input index
	Packets  uint64 // accepted
	Jitter   uint32 // timestamp units
	LastSR   uint32 // middle of the leg's last sender report, 0 none
	SRPassed time.Duration
}

// Reception makes reception report blocks of one stream; it remembers the
// interval since the last one (RFC 3550 A.3).
type Reception struct {
	expected, received uint64
}

// Block is the report for the interval since the last call.
func (r *Reception) Block(s Received) rtcp.ReceptionReport {
	expected := s.Highest - s.First + 1
	lost := int64(expected) - int64(s.Packets)
	interval := int64(expected - r.expected)
	missed := interval - int64(s.Packets-r.received)
	if expected < r.expected || s.Packets < r.received { // another source began
		interval, missed = 0, 0
	}
	r.expected, r.received = expected, s.Packets
	b := rtcp.ReceptionReport{
		SSRC:               s.SSRC,
		TotalLost:          clampLost(lost),
		LastSequenceNumber: uint32(s.Highest),
		Jitter:             s.Jitter,
	}
	if interval > 0 && missed > 0 {
		b.FractionLost = uint8(min(255, (missed<<8)/interval))
	}
	if s.LastSR != 0 {
		b.LastSenderReport, b.Delay = s.LastSR, short(s.SRPassed)
	}
	return b
}

// clampLost fits the signed 24-bit field; the library writes it unsigned, and
// duplicates that outnumber losses are told as none.
func clampLost(n int64) uint32 { return uint32(max(0, min(n, 0x7fffff))) }

// Sent is what we send to a leg as one SSRC.
type Sent struct {
	SSRC            uint32
	Packets, Octets uint64
	Timestamp       uint32        // of the last packet, as sent
	Passed          time.Duration // since then
	ClockRate       uint32        // Hz, 0 unknown
}

// Report is our own compound for a leg whose peer reports nothing: a sender
// report when something was sent, else a receiver report, and the SDES.
func Report(now time.Time, s Sent, blocks []rtcp.ReceptionReport, cname string) []rtcp.Packet {
	if s.Packets == 0 {
		return []rtcp.Packet{&rtcp.ReceiverReport{SSRC: s.SSRC, Reports: blocks}, Description(s.SSRC, cname)}
	}
	return []rtcp.Packet{&rtcp.SenderReport{
		SSRC:        s.SSRC,
		NTPTime:     NTP(now),
		RTPTime:     s.Timestamp + uint32(s.Passed.Seconds()*float64(s.ClockRate)),
		PacketCount: uint32(s.Packets),
		OctetCount:  uint32(s.Octets),
		Reports:     blocks,
	}, Description(s.SSRC, cname)}
}

// Goodbye ends our SSRC towards a leg (RFC 3550 6.6).
func Goodbye(ssrc uint32, cname string) []rtcp.Packet {
	return []rtcp.Packet{&rtcp.ReceiverReport{SSRC: ssrc}, Description(ssrc, cname), &rtcp.Goodbye{Sources: []uint32{ssrc}}}
}

// Clock remembers the sender reports that went to a leg, ours and translated
// ones, and takes the leg's round trip from the answers (RFC 3550 6.4.1). It
// works with foreign NTP clocks: it keeps when each report left the gateway.
type Clock struct {
	sent [4]struct {
		middle uint32
		at     time.Time
	}
	next int
}

// Left notes a compound that goes to the leg.
func (c *Clock) Left(now time.Time, packets []rtcp.Packet) {
	for _, p := range packets {
		if sr, ok := p.(*rtcp.SenderReport); ok {
			c.sent[c.next].middle, c.sent[c.next].at = Middle(sr.NTPTime), now
			c.next = (c.next + 1) % len(c.sent)
		}
	}
}

// RoundTrip reads a block that the leg sent; false when it answers no report we
// know, or gives an impossible time.
func (c *Clock) RoundTrip(now time.Time, b rtcp.ReceptionReport) (time.Duration, bool) {
	if b.LastSenderReport == 0 {
		return 0, false
	}
	for _, s := range c.sent {
		if s.middle == b.LastSenderReport {
			rtt := now.Sub(s.at) - fromShort(b.Delay)
			return max(rtt, 0), rtt > -time.Second && rtt < time.Minute
		}
	}
	return 0, false
}
