package call

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// SnapshotVersion is the layout of Snapshot. A reader refuses any other.
const SnapshotVersion = 1

// Secret is key material. It is written to a snapshot and to no log.
type Secret []byte

func (Secret) String() string             { return "[secret]" }
func (Secret) GoString() string           { return "[secret]" }
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }
func (Secret) LogValue() slog.Value       { return slog.StringValue("[secret]") }

// MediaSnapshot is the media half of a leg, enough to carry it on elsewhere.
type MediaSnapshot struct {
	Profile       string // SDP transport profile, e.g. "UDP/TLS/RTP/SAVPF"
	LocalSDP      string
	RemoteSDP     string
	Ufrag         string
	Pwd           Secret
	Local, Remote netip.AddrPort
	Keys          []KeySnapshot
	Streams       []StreamSnapshot
}

// KeySnapshot is one SRTP master key in one direction.
type KeySnapshot struct {
	Receive bool // protects what arrives from the leg
	Profile string
	Key     Secret // master key
	Salt    Secret // master salt
}

// StreamSnapshot is one stream's place: without it no other process could go on
// without using an SRTP index twice.
type StreamSnapshot struct {
	Line         int
	InSSRC       uint32
	OutSSRC      uint32
	InIndex      uint64 // highest index received, ROC<<16 | SEQ
	IndexOffset  uint64 // output index minus input index, modulo 2^48
	TimestampAdd uint32
	LastPacket   time.Time
}
