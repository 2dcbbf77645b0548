package dataplane

import (
	"errors"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// FlowID names one stream with its output for the life of the process; it is
// never used again.
type FlowID uint64

// SessionID names one Session for the life of the process; zero is no session.
type SessionID uint64

// Session is one SRTP master key in one direction (RFC 3711 3.2.3), or plain
// RTP when Keys is nil. Two sessions never share an ID, and one session never
// changes its keys: a new key is a new session.
type Session struct {
	ID   SessionID
	Keys *srtp.SessionKeys // derived keys; nil is plain RTP
}

// Binding is an exact 4-tuple by which packets of a session arrive. Both
// addresses are of one family and without zone unless link-local.
type Binding struct {
	Local, Remote netip.AddrPort
}

// Extensions says what happens to RTP header extensions (RFC 8285) on the way.
type Extensions uint8

const (
	// ExtensionsKeep: both legs negotiated the same ids for some extensions. A
	// Forwarder leaves the block as it is. The user engine takes out what was not
	// negotiated and keeps a stream in which it has seen that; the limit is a
	// stream that first sends such an element when a Forwarder has it already.
	ExtensionsKeep  Extensions = iota
	ExtensionsStrip            // the whole extension block goes: nothing in it is for the peer
	ExtensionsMap              // ids are rewritten; the user engine only
)

// PayloadDrop in a payload map marks a payload type that is not forwarded.
const PayloadDrop uint8 = 0xff

// Flow is one stream with its output, as an engine is asked to carry it.
//
// The input index i is the 48-bit RFC 3711 3.3.1 index (ROC<<16 | SEQ), kept
// for plain RTP just as for SRTP. The output index is (i + IndexOffset) mod
// 2^48, its low 16 bits are the sequence number sent. One source feeds an
// output SSRC at a time and IndexOffset only ever moves the output up, so no
// (key, SSRC, index) is used for two packets (RFC 3711 9.1).
type Flow struct {
	ID       FlowID
	In       Session
	InSSRC   uint32
	Bindings []Binding // where it may arrive; at least one

	Out          Session
	OutSSRC      uint32
	OutLocal     netip.AddrPort // source address and port of what we send
	OutRemote    netip.AddrPort
	OutNetwork   string // name of the Network it leaves by
	InNetwork    string // name of the Network it arrives by
	IndexOffset  uint64 // modulo 2^48
	TimestampAdd uint32 // modulo 2^32
	Payload      [128]uint8
	Extensions   Extensions
	// ClockRate in Hz is for the interarrival jitter (RFC 3550 6.4.1), 0 unknown.
	ClockRate uint32
}

// State is what moves with a stream from one owner to another.
type State struct {
	Window srtp.Window // highest input index and replay window
	Counters
}

// Counters of one stream, as received on its input. They only grow.
type Counters struct {
	Packets, Octets uint64 // accepted and forwarded; octets are RTP payload
	Dropped         uint64 // arrived and not forwarded, for whatever reason
	Lost            int64  // expected minus received (RFC 3550 A.3), may be negative
	Jitter          uint32 // in timestamp units (RFC 3550 A.8)
	LastPacket      time.Time
	LastTimestamp   uint32 // input RTP timestamp of the highest index
}

// Reason says, as a stable word, why a stream is not carried by the kernel.
// Empty means that it is.
type Reason string

const (
	ReasonNone               Reason = ""
	ReasonDisabled           Reason = "disabled"            // dataplane.mode: user
	ReasonNoCapability       Reason = "no-capability"       // the process may not load BPF programs
	ReasonKernelTooOld       Reason = "kernel-too-old"      // the probe failed
	ReasonInterface          Reason = "interface"           // lo, or an interface that is not listed
	ReasonFamilyMismatch     Reason = "family-mismatch"     // legs in different address families
	ReasonUnsupportedProfile Reason = "unsupported-profile" // e.g. AEAD_AES_256_GCM
	ReasonTranscoding        Reason = "transcoding"
	ReasonHeaderExtension    Reason = "header-extension" // ids must be rewritten
	ReasonEventClock         Reason = "event-clock"      // telephone-event durations must be rescaled
	ReasonMapFull            Reason = "map-full"
	ReasonCapture            Reason = "capture"
	ReasonSettling           Reason = "settling" // not yet confirmed, or hand-over under way
	ReasonInstallFailed      Reason = "install-failed"
)

// Injected is a datagram that the forwarding program made of an injected packet.
type Injected struct {
	Local, Remote netip.AddrPort
	Payload       []byte // nil: there is none
}

// ErrMapFull is returned by Forwarder.Install when the kernel's maps have no
// room; ReasonMapFull says it in listings.
var ErrMapFull = errors.New("no room for another stream in the kernel's maps")

// Forwarder carries whole streams outside Go. The kernel engine implements it.
// All methods may be called from any goroutine; none is called per packet.
type Forwarder interface {
	// Path names how packets arriving by this network are carried:
	// "kernel:xdp-native", "kernel:xdp-generic", "kernel:tc" or "user".
	Path(network string) string

	// Eligible tells why the flow cannot be carried, or ReasonNone.
	Eligible(*Flow) Reason

	// Install takes the stream over for input indices above cut; packets at or
	// below it go up to the sockets untouched. state is where the user engine
	// stands (state.Window.Highest() <= cut). Its counters are zero but for jitter,
	// last packet and last timestamp.
	//
	// Plain RTP that is neither near the window nor ahead by at most 3000 goes up:
	// that is how a sender that started anew looks (RFC 3550 A.1).
	Install(f *Flow, state State, cut uint64) error

	// Update changes bindings, output addresses, payload map or extensions of
	// an installed stream. Sessions, SSRCs and offsets never change by it.
	Update(f *Flow) error

	// Release hands the stream back: when it returns, the kernel takes only
	// indices at or below the returned State's highest, and the user engine
	// owns those above. Remove follows after the drain.
	Release(id FlowID) (State, error)

	// Remove forgets the stream and wipes its keys once no other stream uses
	// its sessions. It returns the final state.
	Remove(id FlowID) (State, error)

	// Read returns the stream's state without disturbing it. Its counters, as
	// those of Release and Remove, are what the kernel has done since Install.
	Read(id FlowID) (State, error)

	// Inject runs one whole IP packet, reassembled by the socket layer, through
	// the forwarding program (BPF_PROG_RUN). in is the network it arrived by.
	// What comes out is the caller's to send; it is zero when the program passed
	// the packet up or dropped it.
	Inject(network string, packet []byte) (Injected, error)

	Close() error
}
