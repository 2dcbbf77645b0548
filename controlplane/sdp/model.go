// Package sdp holds the typed session model and the offer/answer mapping between
// legs (RFC 3264, RFC 8866, RFC 9143). Nothing here edits SDP as text.
//
// A Description is what stands in one SDP body. A Line is what a call sees of
// one medium: codecs and direction, without transport. A Negotiator is one
// leg's offer/answer state and turns the one into the other.
package sdp

import (
	"maps"
	"slices"

	"github.com/sluicegw/sluice/dataplane"
)

// Proto is the transport profile of an m-line.
type Proto string

// The profiles a leg can speak.
const (
	AVP   Proto = "RTP/AVP"
	AVPF  Proto = "RTP/AVPF"
	SAVP  Proto = "RTP/SAVP"
	SAVPF Proto = "RTP/SAVPF"
	DTLS  Proto = "UDP/TLS/RTP/SAVPF"
)

// Feedback tells whether the profile carries RTCP feedback (RFC 4585).
func (p Proto) Feedback() bool {
	return p == AVPF || p == SAVPF || p == DTLS
}

// Secure tells whether the profile is SRTP.
func (p Proto) Secure() bool {
	return p == SAVP || p == SAVPF || p == DTLS || p == "UDP/TLS/RTP/SAVP"
}

// Direction of a line, as the describing side says it (RFC 3264 6.1).
type Direction string

// The four directions of RFC 8866 6.7.
const (
	SendRecv Direction = "sendrecv"
	SendOnly Direction = "sendonly"
	RecvOnly Direction = "recvonly"
	Inactive Direction = "inactive"
)

// Sends tells whether the describing side sends. Unsaid is sendrecv.
func (d Direction) Sends() bool { return d == SendRecv || d == SendOnly || d == "" }

// Receives tells whether the describing side receives. Unsaid is sendrecv.
func (d Direction) Receives() bool { return d == SendRecv || d == RecvOnly || d == "" }

func direction(sends, receives bool) Direction {
	switch {
	case sends && receives:
		return SendRecv
	case sends:
		return SendOnly
	case receives:
		return RecvOnly
	}
	return Inactive
}

// Answering narrows d, the answerer's wish, to what RFC 3264 6.1 allows as an
// answer to offer.
func (d Direction) Answering(offer Direction) Direction {
	return direction(d.Sends() && offer.Receives(), d.Receives() && offer.Sends())
}

// Codec is one format with everything that decides whether two legs mean the same.
type Codec struct {
	dataplane.Format
	// Incoming is the payload type by which the far end sends this format to
	// us, when its answer renumbered it (RFC 3264 6.1): then PayloadType is
	// what we send by. 0: the same.
	Incoming uint8
	Fmtp     map[string]string // parameters by lower-case name; bare value under ""
	Feedback []string          // a=rtcp-fb of this format, e.g. "nack pli"
}

// Clone returns a deep copy.
func (c Codec) Clone() Codec {
	c.Fmtp = maps.Clone(c.Fmtp)
	c.Feedback = slices.Clone(c.Feedback)
	return c
}

// Arrives is the payload type by which the far end sends this format to us.
func (c Codec) Arrives() uint8 {
	if c.Incoming != 0 {
		return c.Incoming
	}
	return c.PayloadType
}

// Line is one media line as the call sees it: what was said, without how it is
// transported. The same index in two legs' line lists is the same medium.
type Line struct {
	Kind       dataplane.Kind // 0 for a medium the gateway does not carry; Rejected is then true
	Rejected   bool           // port 0
	Direction  Direction      // as the leg's far end says it; hold by c=0.0.0.0 is folded in
	Codecs     []Codec        // in the sender's order of preference
	Ptime      int            // ms, 0 unsaid
	MaxPtime   int
	Extensions map[string]uint8 // RFC 8285 ids by URI, offered or answered
	Label      string           // the original media name of a rejected line, e.g. "application"
}

// Clone returns a deep copy.
func (l Line) Clone() Line {
	codecs := make([]Codec, len(l.Codecs))
	for i, c := range l.Codecs {
		codecs[i] = c.Clone()
	}
	l.Codecs = codecs
	l.Extensions = maps.Clone(l.Extensions)
	return l
}

// Usable tells whether any line carries media.
func Usable(lines []Line) bool {
	return slices.ContainsFunc(lines, func(l Line) bool { return !l.Rejected && len(l.Codecs) > 0 })
}
