package dataplane

import (
	"net"
	"net/netip"
	"time"

	"github.com/pion/rtcp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// This file is the plane as control plane packages see it. (Lead's sketch: the
// owner of the package turns Plane, Transport and Line into concrete types in
// files of their own, keeps these method names and deletes this file.)

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
	// + Logger *slog.Logger, clock for tests
}

// Kind of media a line carries.
type Kind uint8

const (
	Audio Kind = iota + 1
	Video
)

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
	LatchFor time.Duration
}

// Events of a transport. They are called one at a time, never with a lock of
// the plane held, and must not block.
type Events struct {
	Latched         func(netip.AddrPort)
	KeyframeRequest func(*Line) // PLI/FIR from the peer that this AVP leg cannot be told by RTCP
	AuthFailing     func(since time.Time)
}

// Plane is the data plane of one gateway.
type Plane interface {
	// NewBrowserTransport makes a transport on the network's shared browser port.
	NewBrowserTransport(network string, ev Events) (*Transport, error)
	// NewPhoneTransport takes an even port and its odd neighbour; ErrNoPorts
	// when the range is used up. v6 chooses the family.
	NewPhoneTransport(network string, v6 bool, ev Events) (*Transport, error)
	// BrowserMux gives the STUN and DTLS of the network's shared port as a
	// net.PacketConn for pion/ice's UDPMux; RTP and RTCP never enter it.
	// One per address of the network.
	BrowserMux(network string) []net.PacketConn
	// Join connects two lines both ways; it replaces what either was joined to.
	// aToB and bToA map payload types of the first leg's numbering to the other's.
	Join(a, b *Line, aToB, bToA PayloadMap) error
	Snapshot() []FlowInfo
	Close() error
}

// PayloadMap maps a payload type of one leg to the other's; PayloadDrop drops.
type PayloadMap [128]uint8

// Transport is one leg's media transport. Methods may be called from any goroutine.
type TransportAPI interface {
	Local() (rtp, rtcp netip.AddrPort)      // what we are bound to
	Advertised() (rtp, rtcp netip.AddrPort) // what SDP says
	SetRemote(Remote)                       // phone side
	// SetPair is the browser side's: the selected ICE candidate pair.
	SetPair(local, remote netip.AddrPort)
	// SetKeys installs SRTP keys; rx unprotects what arrives, tx protects what is sent.
	SetKeys(rx, tx srtp.MasterKey) error
	AddLine(LineConfig) (*Line, error)
	LastReceived() time.Time // last authenticated or strictly sourced media, from the owning engine
	Close() (drained <-chan struct{})
}

type LineAPI interface {
	Update(LineConfig)
	SSRC() uint32 // the one SSRC this line sends with towards its leg
	RequestKeyframe()
	Unjoin()
	Close()
	Stats() LineStats
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
}

type (
	Transport struct{}
	Line      struct{}
	_         = rtcp.Packet
)
