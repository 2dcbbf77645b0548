package call

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
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

// String keeps keys out of whatever prints it: SDES writes them into the SDP.
func (s MediaSnapshot) String() string { return "media snapshot of " + s.Profile }

// GoString is String.
func (s MediaSnapshot) GoString() string { return s.String() }

// LogValue is String.
func (s MediaSnapshot) LogValue() slog.Value { return slog.StringValue(s.String()) }

// KeySnapshot is one SRTP master key in one direction.
type KeySnapshot struct {
	Line    int  // whose transport it is; 0 for a transport that all lines share
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

// LegSnapshot is one leg of a connected call.
type LegSnapshot struct {
	ID        string
	Party     Party
	Dialog    DialogSnapshot
	Media     MediaSnapshot
	Said      []sdp.Line // what the far end last said
	Told      []sdp.Line // what it was last told
	Settled   []sdp.Line // what both left
	Offered   []sdp.Line
	Wants     []sdp.Direction
	Connected time.Time
}

// Snapshot is a connected call with everything another process needs to carry
// it on. It holds keys: it is written where keys may be, and never logged.
type Snapshot struct {
	Version  int
	ID       string
	From, To Address
	Started  time.Time
	Answered time.Time
	Caller   LegSnapshot
	Callee   LegSnapshot
}

// LogValue keeps keys out of logs.
func (s Snapshot) LogValue() slog.Value { return slog.StringValue("snapshot of call " + s.ID) }

// String keeps keys out of whatever prints a Snapshot.
func (s Snapshot) String() string { return "snapshot of call " + s.ID }

// GoString is String.
func (s Snapshot) GoString() string { return s.String() }

// Write writes the snapshot as one JSON value.
func (s Snapshot) Write(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("call: writing the snapshot of call %s: %w", s.ID, err)
	}
	return nil
}

// ReadSnapshot reads what Write wrote. Another version, or a field it does not
// know, is an error: half a call is worse than none.
func ReadSnapshot(r io.Reader) (Snapshot, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var s Snapshot
	if err := d.Decode(&s); err != nil {
		return Snapshot{}, fmt.Errorf("call: reading a snapshot: %w", err)
	}
	if s.Version != SnapshotVersion {
		return Snapshot{}, fmt.Errorf("call: the snapshot has version %d, this program reads version %d", s.Version, SnapshotVersion)
	}
	return s, nil
}

func (c *Call) snapshot() Snapshot {
	return Snapshot{
		Version: SnapshotVersion, ID: c.id, From: c.inv.From(), To: c.to, Started: c.started, Answered: c.answered,
		Caller: c.caller.snapshot(), Callee: c.winner.snapshot(),
	}
}

func (l *leg) snapshot() LegSnapshot {
	return LegSnapshot{
		ID: l.id, Party: l.party, Dialog: l.dialog.Snapshot(), Media: l.media.Snapshot(),
		Said: l.said, Told: l.told, Settled: l.settled, Offered: l.offered, Wants: l.want, Connected: l.up,
	}
}
