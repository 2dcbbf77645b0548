// Package call is the two-leg call state machine: a B2BUA. It joins legs whose
// signalling and media it knows only by the interfaces declared here.
package call

import (
	"context"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

// Party is who is on the far side of a leg.
type Party struct {
	User     string         // authenticated user, "" for a trunk
	Trunk    string         // configured trunk, "" for a user
	Network  string         // the Network the signalling arrived by or leaves by
	Source   netip.AddrPort // signalling source as seen
	WebRTC   bool           // media is WebRTC: the far side signals over WS or WSS
	Instance string         // +sip.instance, "" unknown
}

// Address is a name-addr of SIP as far as calls need it.
type Address struct {
	Display, User, Host string
}

// Header is one SIP header that a call passes on or adds.
type Header struct{ Name, Value string }

// Invite is an inbound INVITE that has been authenticated and has no answer
// yet. The sip package implements it. Exactly one of Accept and Reject ends it;
// both return ErrEnded when CANCEL or a lost transaction came first.
type Invite interface {
	Party() Party
	CallID() string
	From() Address
	To() Address   // request URI
	Offer() []byte // nil: delayed offer
	// Progress sends 180 or 183; sdp may be nil. 100 is sent by the sip layer.
	Progress(code int, sdp []byte) error
	// Accept sends 200 and returns once the ACK came; answer is the ACK's SDP
	// for a delayed offer. ErrNoAck after 64*T1: the sip layer has sent BYE.
	Accept(ctx context.Context, sdp []byte, h DialogHandler) (d Dialog, answer []byte, err error)
	Reject(code int, reason string, h ...Header) error
	// Cancelled is closed when the far side cancelled (487 has been sent).
	Cancelled() <-chan struct{}
}

// Target is one destination of an outbound INVITE.
type Target struct {
	URI      string // request URI
	Party    Party
	Route    []string // outbound proxy or registered Path
	Flow     string   // connection to reuse (RFC 5626 flow token), "" none
	Username string   // digest credentials for a trunk that challenges
	Password string
}

// Caller places outbound INVITEs.
type Caller interface {
	// Invite sends one INVITE and reports on the returned Outgoing. It returns
	// at once; transport errors arrive as a final Response with code 503.
	Invite(ctx context.Context, t Target, from, to Address, offer []byte, h []Header, dh DialogHandler) (Outgoing, error)
}

// Response is what an outbound INVITE has been answered with. A 2xx carries the
// dialog, which is confirmed (ACK sent) when offer was in the INVITE; after an
// INVITE without SDP the caller must call Dialog.Ack with the answer.
type Response struct {
	Code   int
	Reason string
	SDP    []byte
	Tag    string   // To-tag: which early dialog
	Dialog Dialog   // 2xx only
	Header []Header // Retry-After, Reason, Warning
}

// Outgoing is an outbound INVITE under way. Responses delivers provisionals and
// one final, then is closed. A 2xx after Cancel, and a second 2xx from a
// downstream fork, is ACKed and BYEd by the sip layer.
type Outgoing interface {
	CallID() string
	Responses() <-chan Response
	Cancel()
}

// Dialog is a confirmed dialog.
type Dialog interface {
	CallID() string
	Party() Party
	Ack(sdp []byte) error
	// Reinvite sends a re-INVITE and returns the answer. A 491 is retried by the
	// sip layer (RFC 3261 14.1). offer nil asks the far side for an offer; then
	// the answer is given by reply.
	Reinvite(ctx context.Context, offer []byte, reply func(offer []byte) []byte) ([]byte, error)
	Info(ctx context.Context, contentType string, body []byte) error
	// Bye ends the dialog; reason is for the Reason header (RFC 3326), "" none.
	Bye(ctx context.Context, reason string) error
	Snapshot() DialogSnapshot
}

// DialogHandler is what a dialog reports to its call. Calls come one at a time.
type DialogHandler interface {
	// OnReinvite answers a re-INVITE or an UPDATE with SDP. offer nil: return an
	// offer, the answer comes by OnAck. code 200, or the rejecting status.
	OnReinvite(offer []byte) (sdp []byte, code int)
	OnAck(answer []byte)
	OnInfo(contentType string, body []byte) (code int)
	OnBye(reason string)
	// OnFlow tells that the signalling connection was lost or is back.
	OnFlow(up bool)
	// OnFailed: the dialog is gone without BYE (session timer, 481, 408).
	OnFailed(reason string)
}

// DialogSnapshot is what a dialog needs to live on in another process.
type DialogSnapshot struct {
	CallID, LocalTag, RemoteTag string
	LocalURI, RemoteURI         string
	RemoteTarget                string
	RouteSet                    []string
	LocalCSeq, RemoteCSeq       uint32
	Secure                      bool
	SessionExpires              time.Duration
	Refresher                   bool
}

// Media is the media half of a leg: WebRTC, or RTP/SDES-SRTP. It keeps the
// offer/answer state of the leg (m-line order, o= version, identities), so the
// same ufrag, fingerprint and port stand in every SDP of its life.
// Methods are called one at a time by the leg.
type Media interface {
	// Offer makes an offer of lines (the call's order). Lines may grow, never shrink.
	Offer(lines []sdp.Line) ([]byte, error)
	// TakeOffer reads the far side's offer. *sdp.Error says what is wrong (488 or 400).
	TakeOffer(offer []byte) ([]sdp.Line, error)
	// TakeAnswer reads the far side's answer to our last Offer.
	TakeAnswer(answer []byte) ([]sdp.Line, error)
	// Answer answers the last taken offer; lines[i] answers the offer's line i.
	// Codecs are matched by meaning and keep the offerer's payload types.
	Answer(lines []sdp.Line) ([]byte, error)
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

// MediaSnapshot is versioned with the call's snapshot.
type MediaSnapshot struct {
	Profile       string
	LocalSDP      string
	RemoteSDP     string
	Ufrag, Pwd    string
	Local, Remote netip.AddrPort
	// keys and offsets are added by the owner of the type; never logged
}

// MediaFactory makes the media half for a party.
type MediaFactory interface {
	New(ctx context.Context, p Party, o MediaOptions) (Media, error)
}

// MediaOptions of a new leg.
type MediaOptions struct {
	LegID  string // for logs
	SDES   bool   // offer or require a=crypto towards this party
	V6     bool   // family for a phone leg
	Events MediaEvents
}

// MediaEvents are called without locks held and must not block.
type MediaEvents struct {
	Established func()
	Failed      func(error)
	// KeyframeRequest: this leg (AVP, no RTCP feedback) should send a key frame;
	// the call sends RFC 5168 INFO.
	KeyframeRequest func(line int)
}
