package call

import (
	"log/slog"
	"time"

	"github.com/sluicegw/sluice/dataplane"
)

// Stage names a step in the life of a call. The words are stable: logs, events
// and records use them.
type Stage string

const (
	StageInvite    Stage = "invite"            // an INVITE arrived
	StageRouted    Stage = "routed"            // its destinations are known
	StageRinging   Stage = "ringing"           // a callee rings
	StageEarly     Stage = "early"             // media is heard before the answer
	StageAnswered  Stage = "answered"          // a callee answered; the caller is being told
	StageConnected Stage = "connected"         // the caller's ACK came
	StageMedia     Stage = "media established" // keys are installed and lines joined on both legs
	StageHeld      Stage = "held"
	StageResumed   Stage = "resumed"
	StageEnded     Stage = "ended"
)

// Side is who ended a call.
type Side string

const (
	ByCaller  Side = "caller"
	ByCallee  Side = "callee"
	ByGateway Side = "gateway"
)

// Cause says in one stable word why a call ended.
type Cause string

const (
	CauseHangup         Cause = "hangup"          // BYE
	CauseCancelled      Cause = "cancelled"       // the caller gave up before the answer
	CauseRefused        Cause = "refused"         // a callee's or the router's final response, see Code
	CauseNoAnswer       Cause = "no-answer"       // rang for too long
	CauseNoAck          Cause = "no-ack"          // the caller never acknowledged the 200
	CauseNoCodec        Cause = "no-codec"        // the legs have no codec in common
	CauseMediaFailed    Cause = "media-failed"    // ICE or DTLS failed for good
	CauseMediaTimeout   Cause = "media-timeout"   // neither media nor consent
	CauseSignallingLost Cause = "signalling-lost" // the connection was lost and nobody came back
	CauseDialogLost     Cause = "dialog-lost"     // 481, 408 or a session timer ended a dialog
	CauseLimit          Cause = "limit"           // too many calls
	CauseShutdown       Cause = "shutdown"        // the gateway stops
	CauseAdmin          Cause = "admin"           // an operator ended it
	CauseError          Cause = "error"           // the gateway failed, see Detail
)

// Ending is how a call ended.
type Ending struct {
	Cause  Cause
	By     Side
	Code   int    // SIP status that stands for it; 200 after a normal call
	Detail string // for a person; may be empty
}

// Info is a call as listings, records and metrics see it. It is a value: a
// later stage makes a new one.
type Info struct {
	ID        string
	Stage     Stage
	From, To  Address // as dialled
	Legs      []LegInfo
	Started   time.Time
	Answered  time.Time // zero: not answered
	Ended     time.Time // zero: not ended
	Ending    Ending
	HeldBy    []string // leg ids
	Forks     int      // callees rung
	Exchanges int      // re-INVITEs carried through since the answer
}

// Duration is the time from answer to end, or to now.
func (i Info) Duration() time.Duration {
	switch {
	case i.Answered.IsZero():
		return 0
	case i.Ended.IsZero():
		return time.Since(i.Answered)
	}
	return i.Ended.Sub(i.Answered)
}

// LegInfo is one leg of a call.
type LegInfo struct {
	ID        string
	Party     Party
	SIPCallID string
	State     string // "inviting", "ringing", "early", "answered", "connected", "over"
	Code      int    // final response, 0 none yet
	Media     bool   // established
	FlowDown  bool   // its signalling connection is lost
	Lines     []LineInfo
}

// LineInfo is one media line of a leg.
type LineInfo struct {
	Kind      dataplane.Kind
	Codec     string // preferred codec both ends agreed on, "" none
	Direction string // as the far end says it
	// Stats are filled in for an ended call and by Manager.Detail.
	Stats dataplane.LineStats
}

// Event is one stage of one call.
type Event struct {
	Stage Stage
	Time  time.Time
	Leg   string // the leg it is about, "" the call
	Call  Info
}

// Observer is told of every stage of every call, in order per call. It must not
// block; it is called from the calls' goroutines.
type Observer func(Event)

// attrs are the leg's attributes for a log line.
func (l *leg) attrs() slog.Attr {
	return slog.Group("leg",
		slog.String("id", l.id), slog.String("party", l.party.Name()), slog.String("network", l.party.Network),
		slog.Bool("webrtc", l.party.WebRTC), slog.String("sip_call_id", l.sipCallID))
}
