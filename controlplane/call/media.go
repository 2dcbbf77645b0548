package call

import (
	"context"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

// Media is the media half of a leg: WebRTC, or RTP/SDES-SRTP. It keeps the
// offer/answer state of the leg (m-line order, o= version, identities), so the
// same ufrag, fingerprint and port stand in every SDP of its life.
//
// Methods are called one at a time by the call and do not wait for the network.
// Directions are those of the far ends: what TakeOffer of one leg returns is
// what Offer of the other writes, unchanged.
//
// A failed method leaves the leg as it was. An offer of ours that was refused is
// taken back by Rollback.
type Media interface {
	// Offer makes an offer of lines (the call's order). Lines may grow, never
	// shrink. Payload types are kept where they are free on this leg. It is
	// *sdp.Error (488) when no line is left to offer.
	Offer(lines []sdp.Line) ([]byte, error)
	// TakeOffer reads the far side's offer. *sdp.Error says what is wrong (488 or
	// 400). Nothing but the pending offer changes until Answer.
	TakeOffer(offer []byte) ([]sdp.Line, error)
	// TakeAnswer reads the far side's answer to our last Offer. It may be called
	// again for the same offer: another early dialog, or the 200, answers anew.
	// The lines' codecs are numbered as sdp.PayloadMaps reads them: PayloadType is
	// what the far end is sent, Incoming what it sends.
	TakeAnswer(answer []byte) ([]sdp.Line, error)
	// Answer answers the last taken offer; lines[i] answers the offer's line i.
	// Codecs are matched by meaning and keep the offerer's payload types.
	// *sdp.Error (488) when no line has a codec in common; a missing lines[i] is
	// a rejected line.
	Answer(lines []sdp.Line) ([]byte, error)
	// Rollback forgets an offer, ours or theirs, that was refused (RFC 3264 4).
	Rollback()
	// Local repeats the last SDP we sent, for a 200 after a 183.
	Local() []byte
	// Capabilities are the lines this side would offer of itself (delayed offer).
	Capabilities() []sdp.Line
	// Lines are the data plane's lines by index, nil where rejected.
	Lines() []*dataplane.Line
	// SetSource tells the signalling source for the one latch (RTP side).
	SetSource(netip.AddrPort)
	Health() Health
	Snapshot() MediaSnapshot
	Close()
}

// Health is what the call's liveness decisions read.
type Health struct {
	Established  bool      // keys are installed and media may flow
	Failed       error     // ICE or DTLS failed for good, fingerprint mismatch ...
	Consent      time.Time // last valid consent check from the browser; zero: leg has none
	LastReceived time.Time // last media, from the engine that owns it
}

// MediaFactory makes the media half for a party.
type MediaFactory interface {
	// New makes WebRTC media for a party that has it, else RTP. It fails when no
	// port is left; the call is then refused with 503.
	New(ctx context.Context, p Party, o MediaOptions) (Media, error)
}

// MediaOptions of a new leg.
type MediaOptions struct {
	LegID  string // for logs
	SDES   bool   // offer a=crypto towards this party
	V6     bool   // family of the signalling, for a phone leg's first port
	Events MediaEvents
}

// MediaEvents are called without locks held and must not block. Nil ones are
// not called.
type MediaEvents struct {
	Established func()
	Failed      func(error)
	// KeyframeRequest: this leg (AVP, no RTCP feedback) should send a key frame;
	// the call sends RFC 5168 INFO.
	KeyframeRequest func(line int)
}
