// Package sdp holds the typed session model and the offer/answer mapping between
// legs (RFC 3264, RFC 8866, RFC 9143). Nothing here edits SDP as text.
package sdp

import "github.com/sluicegw/sluice/dataplane"

// Proto is the transport profile of an m-line.
type Proto string

const (
	AVP   Proto = "RTP/AVP"
	AVPF  Proto = "RTP/AVPF"
	SAVP  Proto = "RTP/SAVP"
	SAVPF Proto = "RTP/SAVPF"
	DTLS  Proto = "UDP/TLS/RTP/SAVPF"
)

// Direction of a line, as the describing side says it (RFC 3264 6.1).
type Direction string

const (
	SendRecv Direction = "sendrecv"
	SendOnly Direction = "sendonly"
	RecvOnly Direction = "recvonly"
	Inactive Direction = "inactive"
)

// Codec is one format with everything that decides whether two legs mean the same.
type Codec struct {
	dataplane.Format
	Fmtp     map[string]string // parameters by lower-case name; bare value under ""
	Feedback []string          // a=rtcp-fb of this format, e.g. "nack pli"
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
