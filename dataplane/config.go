package dataplane

import (
	"errors"
	"github.com/sluicegw/sluice/dataplane/srtp"
	"log/slog"
	"net/netip"
	"time"
)

// Errors of the plane. They are wrapped with the name of what they are about.
var (
	ErrNoNetwork = errors.New("no such network: name one of the configured networks")
	ErrNoPorts   = errors.New("no free RTP port pair: widen the network's port range or end calls")
	ErrNoFamily  = errors.New("the network has no address of this family: add one to its addresses")
	ErrClosed    = errors.New("closed")
)

// Network is a named side of the box.
type Network struct {
	Name        string
	Addresses   []netip.Addr // bound; at most one per family, at least one
	Advertised  []netip.Addr // what SDP says behind 1:1 NAT, by family; empty: Addresses
	Interface   string       // "" = found from the address
	BrowserPort uint16       // the one UDP port for all browsers; 0 = chosen by the system
	PortMin     uint16       // RTP ports of phones and trunks, even; 0 = 20000
	PortMax     uint16       // inclusive; 0 = 29999
}

// Config of a Plane.
type Config struct {
	Networks  []Network
	Forwarder Forwarder     // nil: everything runs on the user engine for Reason
	Reason    Reason        // why Forwarder is nil
	Drain     time.Duration // how long a phone port stays closed to others after hang-up; 0 = 5 s
	Logger    *slog.Logger  // nil = discard

	releaseDrain time.Duration // for tests
}

// Kind of media a line carries.
type Kind uint8

const (
	Audio Kind = iota + 1
	Video
)

// String is the SDP media name (RFC 8866 5.14).
func (k Kind) String() string {
	switch k {
	case Audio:
		return "audio"
	case Video:
		return "video"
	}
	return ""
}

// Format is one payload type as a leg numbers it.
type Format struct {
	PayloadType uint8
	Codec       string // "opus", "PCMU", "telephone-event", "H264": as in rtpmap, case kept
	ClockRate   int
	Channels    int
}

// LineConfig is what signalling has settled for one media line.
type LineConfig struct {
	Kind    Kind
	Mid     string // BUNDLE identification tag, "" when the transport has one line
	MidExt  uint8  // negotiated id of urn:ietf:params:rtp-hdrext:sdes:mid, 0 none
	Formats []Format
	Send    bool // the gateway may send to this leg on the line
	Receive bool // the gateway accepts media from this leg on the line
	AVPF    bool // the leg understands RTCP feedback (PLI, FIR, NACK)
	// Extensions are the negotiated RFC 8285 ids by URI.
	Extensions map[string]uint8
}

// Remote says where a phone-side transport sends to and what it accepts.
type Remote struct {
	RTP, RTCP netip.AddrPort // from SDP; RTCP invalid = RTP+1, or RTP with Mux
	Mux       bool           // rtcp-mux was negotiated
	// LatchIP, when valid, allows one latch to that address (the signalling
	// source's) within LatchFor; the zero value is strict source.
	LatchIP  netip.Addr
	LatchFor time.Duration // 0 = 5 s
}

// Events of a transport. They are called one at a time, never with a lock of
// the plane held, and must not block. Any may be nil.
type Events struct {
	Latched         func(netip.AddrPort)
	KeyframeRequest func(*Line) // PLI/FIR from the peer that this AVP leg cannot be told by RTCP
	AuthFailing     func(since time.Time)
}

// PayloadMap maps a payload type of one leg to the other's; PayloadDrop drops.
// Its zero value maps everything to payload type 0: start from NewPayloadMap.
type PayloadMap [128]uint8

// NewPayloadMap returns a map that drops every payload type.
func NewPayloadMap() PayloadMap {
	var m PayloadMap
	for i := range m {
		m[i] = PayloadDrop
	}
	return m
}

// LineStats is one line as its leg sees it.
type LineStats struct {
	Received, Sent Counters
	// From the far end's receiver reports on what we send (RFC 3550 6.4.1).
	RemoteLost   int64
	RemoteJitter time.Duration
	RoundTrip    time.Duration // 0 unknown
	Codec        string
	Path         string // "user", "kernel:xdp-native", ...
	Reason       Reason
	DTMF         string // digits seen from this leg, newest last, bounded to 64
}

// FlowInfo is one flow for listings.
type FlowInfo struct {
	Flow  Flow // without keys
	Path  string
	Why   Reason
	State State
	// ProfileNone is plain RTP.
	InProfile, OutProfile srtp.Profile
}
