// Package translator is the RTCP half of the gateway as an RFC 3550 7.2
// translator: it renumbers what one leg reports for the other, and reports from
// the gateway's own counters where a leg sends nothing. It is pure: no sockets,
// no clock, no locks; its caller serialises use of a value.
package translator

import (
	"slices"

	"github.com/pion/rtcp"
)

// maxPackets bounds one compound packet; real ones hold a handful.
const maxPackets = 32

// Stream is how one flow renumbers, as RTCP about it needs to know.
type Stream struct {
	InSSRC, OutSSRC uint32
	IndexOffset     uint64 // output index = input index + IndexOffset, modulo 2^48
	TimestampAdd    uint32
	Highest         uint64 // newest input index that was accepted
	Packets, Octets uint64 // sent as OutSSRC, for sender reports
}

// Path is the way of a compound packet that arrived from leg X to leg Y.
type Path struct {
	// Forward finds the stream that X sends by its input SSRC.
	Forward func(in uint32) (Stream, bool)
	// Backward finds the stream that Y sends and X receives, by the SSRC that X
	// knows it by, which is its output SSRC.
	Backward func(out uint32) (Stream, bool)
	// Reporter is our SSRC towards Y: X's reports come from it.
	Reporter uint32
	// CNAME stands for X in SDES; what X calls itself stays with the gateway.
	CNAME string
	// Feedback says that Y takes AVPF messages (RFC 4585).
	Feedback bool
}

// Outcome of a translation.
type Outcome struct {
	Packets  []rtcp.Packet // for Y; a valid compound packet, or empty
	Keyframe bool          // X asks for a key frame and Y takes no feedback
	Seen     bool          // X itself reports: the gateway need not report to Y for it
}

// Translate renumbers a compound packet from X for Y. What Y must not see (BYE of
// a source whose SSRC is ours and lives on, unknown SSRCs, feedback that was not
// negotiated, APP, XR) is absorbed.
func (p *Path) Translate(in []rtcp.Packet) Outcome {
	var o Outcome
	var feedback []rtcp.Packet
	for _, pkt := range in[:min(len(in), maxPackets)] {
		switch pkt := pkt.(type) {
		case *rtcp.SenderReport:
			o.Seen = true
			o.Packets = append(o.Packets, p.senderReport(pkt))
		case *rtcp.ReceiverReport:
			o.Seen = true
			o.Packets = append(o.Packets, &rtcp.ReceiverReport{SSRC: p.source(pkt.SSRC), Reports: p.blocks(pkt.Reports)})
		case *rtcp.TransportLayerNack:
			if s, ok := p.Backward(pkt.MediaSSRC); ok && p.Feedback {
				feedback = append(feedback, p.nack(pkt, s))
			}
		case *rtcp.PictureLossIndication:
			if s, ok := p.Backward(pkt.MediaSSRC); ok {
				o.Keyframe = !p.Feedback
				if p.Feedback {
					feedback = append(feedback, &rtcp.PictureLossIndication{SenderSSRC: p.source(pkt.SenderSSRC), MediaSSRC: s.InSSRC})
				}
			}
		case *rtcp.FullIntraRequest:
			if fir := p.intraRequest(pkt); fir != nil {
				o.Keyframe = !p.Feedback
				if p.Feedback {
					feedback = append(feedback, fir)
				}
			}
		}
	}
	if len(o.Packets) == 0 && len(feedback) > 0 {
		// A compound packet starts with a report (RFC 3550 6.1).
		o.Packets = append(o.Packets, &rtcp.ReceiverReport{SSRC: p.Reporter})
	}
	if len(o.Packets) > 0 {
		o.Packets = append(o.Packets, Description(reporterOf(o.Packets[0]), p.CNAME))
		o.Packets = append(o.Packets, feedback...)
	}
	return o
}

// source is the SSRC by which Y knows a participant of X.
func (p *Path) source(ssrc uint32) uint32 {
	if s, ok := p.Forward(ssrc); ok {
		return s.OutSSRC
	}
	return p.Reporter
}

// senderReport becomes a receiver report when its stream is not forwarded.
func (p *Path) senderReport(sr *rtcp.SenderReport) rtcp.Packet {
	s, ok := p.Forward(sr.SSRC)
	if !ok {
		return &rtcp.ReceiverReport{SSRC: p.Reporter, Reports: p.blocks(sr.Reports)}
	}
	return &rtcp.SenderReport{
		SSRC:        s.OutSSRC,
		NTPTime:     sr.NTPTime,
		RTPTime:     sr.RTPTime + s.TimestampAdd,
		PacketCount: uint32(s.Packets), // ours: a source switch would make X's jump
		OctetCount:  uint32(s.Octets),
		Reports:     p.blocks(sr.Reports),
	}
}

// blocks renumbers reception reports to the streams' own sequence numbers.
// Loss and jitter pass: sequence gaps and timestamps pass too.
func (p *Path) blocks(in []rtcp.ReceptionReport) []rtcp.ReceptionReport {
	var out []rtcp.ReceptionReport
	for _, b := range in {
		s, ok := p.Backward(b.SSRC)
		if !ok {
			continue
		}
		b.SSRC = s.InSSRC
		b.LastSequenceNumber = uint32(s.input(uint16(b.LastSequenceNumber)))
		out = append(out, b)
	}
	return out
}

// input is the newest input index at or below Highest that went out with this
// sequence number.
func (s *Stream) input(out uint16) uint64 {
	seq := out - uint16(s.IndexOffset)
	return s.Highest - uint64(uint16(s.Highest)-seq)
}

func (p *Path) nack(n *rtcp.TransportLayerNack, s Stream) *rtcp.TransportLayerNack {
	pairs := slices.Clone(n.Nacks)
	for i := range pairs {
		pairs[i].PacketID -= uint16(s.IndexOffset)
	}
	return &rtcp.TransportLayerNack{SenderSSRC: p.source(n.SenderSSRC), MediaSSRC: s.InSSRC, Nacks: pairs}
}

func (p *Path) intraRequest(f *rtcp.FullIntraRequest) *rtcp.FullIntraRequest {
	out := &rtcp.FullIntraRequest{SenderSSRC: p.source(f.SenderSSRC)}
	for _, e := range f.FIR {
		if s, ok := p.Backward(e.SSRC); ok {
			out.FIR = append(out.FIR, rtcp.FIREntry{SSRC: s.InSSRC, SequenceNumber: e.SequenceNumber})
		}
	}
	if len(out.FIR) == 0 {
		return nil
	}
	out.MediaSSRC = 0 // RFC 5104 4.3.1.2
	return out
}

func reporterOf(p rtcp.Packet) uint32 {
	switch p := p.(type) {
	case *rtcp.SenderReport:
		return p.SSRC
	case *rtcp.ReceiverReport:
		return p.SSRC
	}
	return 0
}

// Description is the SDES packet that every compound carries (RFC 3550 6.5).
func Description(ssrc uint32, cname string) *rtcp.SourceDescription {
	return &rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{
		Source: ssrc,
		Items:  []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: cname}},
	}}}
}
