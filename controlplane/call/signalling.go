package call

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Party is who is on the far side of a leg.
type Party struct {
	User     string         // authenticated user, "" for a trunk
	Trunk    string         // configured trunk, "" for a user
	Network  string         // the Network the signalling arrived by or leaves by
	Source   netip.AddrPort // signalling source as seen; zero before a trunk's name is resolved
	WebRTC   bool           // media is WebRTC: the far side signals over WS or WSS
	Instance string         // +sip.instance, "" unknown
}

// Name is the party in one word for logs.
func (p Party) Name() string {
	if p.Trunk != "" {
		return "trunk:" + p.Trunk
	}
	return p.User
}

// Address is a name-addr of SIP as far as calls need it.
type Address struct {
	Display, User, Host string
}

// Header is one SIP header that a call passes on or adds.
type Header struct{ Name, Value string }

// ErrEnded is returned by an Invite whose caller cancelled, or whose
// transaction is lost, before it was answered.
var ErrEnded = errors.New("call: the INVITE has already ended")

// ErrNoAck is returned by Invite.Accept when no ACK came within 64*T1. The
// signalling layer has then sent BYE (RFC 3261 13.3.1.4).
var ErrNoAck = errors.New("call: the 200 was never acknowledged")

// ResponseError is a request of ours that was answered with a failure. A
// time-out is 408, a lost transport 503.
type ResponseError struct {
	Code   int
	Reason string
}

func (e *ResponseError) Error() string { return fmt.Sprintf("answered %d %s", e.Code, e.Reason) }

// Invite is an inbound INVITE that has been authenticated and has no answer
// yet. Exactly one of Accept and Reject ends it; both return ErrEnded when
// CANCEL or a lost transaction came first. Methods may be called from any
// goroutine.
type Invite interface {
	Party() Party
	CallID() string
	From() Address
	To() Address      // request URI
	Offer() []byte    // nil: delayed offer
	MaxForwards() int // as received; 70 when the header was missing
	// Progress sends 180 or 183; sdp may be nil. 100 is sent by the sip layer,
	// and so are repeated provisionals that keep a long ringing alive (13.3.1.1).
	Progress(code int, sdp []byte) error
	// Accept sends 200 and returns once the ACK came; answer is the ACK's SDP
	// for a delayed offer. ErrNoAck after 64*T1: the sip layer has sent BYE.
	// When ctx ends first the dialog is ended by BYE and ctx's error returned.
	Accept(ctx context.Context, sdp []byte, h DialogHandler) (d Dialog, answer []byte, err error)
	Reject(code int, reason string, h ...Header) error
	// Cancelled is closed when the far side cancelled (487 has been sent) or
	// its connection was lost for good before an answer.
	Cancelled() <-chan struct{}
}

// Target is one destination of an outbound INVITE.
type Target struct {
	URI         string // request URI
	Party       Party
	Route       []string // outbound proxy or registered Path
	Flow        string   // connection to reuse (RFC 5626 flow token), "" none
	Username    string   // digest credentials for a trunk that challenges
	Password    string
	SDES        bool // media is to be offered as SDES-SRTP (a=crypto)
	MaxForwards int  // 0: 70
}

// Caller places outbound INVITEs.
type Caller interface {
	// Invite sends one INVITE and reports on the returned Outgoing. It returns
	// at once; transport errors arrive as a final Response with code 503, an
	// unanswered INVITE as 408. offer nil is a delayed offer. When ctx ends the
	// INVITE is cancelled; it has no say over a confirmed dialog.
	Invite(ctx context.Context, t Target, from, to Address, offer []byte, h []Header, dh DialogHandler) (Outgoing, error)
}

// Response is what an outbound INVITE has been answered with. A 2xx carries the
// dialog, which is confirmed (ACK sent) when an offer was in the INVITE; after an
// INVITE without SDP the caller must call Dialog.Ack with the answer.
type Response struct {
	Code   int
	Reason string
	SDP    []byte
	Tag    string         // To-tag: which early dialog
	Source netip.AddrPort // where the response came from
	Dialog Dialog         // 2xx only
	Header []Header       // Retry-After, Reason, Warning
}

// Outgoing is an outbound INVITE under way. Responses delivers provisionals and
// one final, then is closed. A 2xx after Cancel, and a second 2xx from a
// downstream fork, is ACKed and BYEd by the sip layer.
type Outgoing interface {
	CallID() string
	Responses() <-chan Response
	// Cancel sends CANCEL, as soon as a provisional allows it (RFC 3261 9.1);
	// reason is for the Reason header (RFC 3326), e.g.
	// `SIP;cause=200;text="Call completed elsewhere"`, "" none.
	Cancel(reason string)
}

// Dialog is a confirmed dialog. Methods may be called from any goroutine.
type Dialog interface {
	CallID() string
	Party() Party
	Ack(sdp []byte) error
	// Reinvite sends a re-INVITE and returns the answer, or a *ResponseError. A
	// 491 is retried by the sip layer (RFC 3261 14.1). offer nil asks the far
	// side for an offer; then the answer is given by reply.
	Reinvite(ctx context.Context, offer []byte, reply func(offer []byte) []byte) ([]byte, error)
	// Info sends INFO (RFC 6086); a failure is a *ResponseError.
	Info(ctx context.Context, contentType string, body []byte) error
	// Ping asks by OPTIONS within the dialog whether the far side is still
	// there. Any answer but 408 and 481 is nil, those are a *ResponseError.
	Ping(ctx context.Context) error
	// Bye ends the dialog; reason is for the Reason header (RFC 3326), "" none.
	// It returns when BYE is answered, has timed out or ctx ends.
	Bye(ctx context.Context, reason string) error
	Snapshot() DialogSnapshot
}

// DialogHandler is what a dialog reports to its call. OnReinvite may block for
// as long as the far side takes to answer; meanwhile the other methods may be
// called, and the sip layer answers a second re-INVITE of the dialog itself
// (RFC 3261 14.2). OnInfo may block too, as long as a transaction lasts. The
// others return at once and come one at a time.
type DialogHandler interface {
	// OnReinvite answers a re-INVITE, or an UPDATE with SDP. offer nil: return an
	// offer, the answer comes by OnAck. code is 200 or the rejecting status. ctx
	// ends with the transaction.
	OnReinvite(ctx context.Context, offer []byte) (sdp []byte, code int)
	OnAck(answer []byte)
	OnInfo(ctx context.Context, contentType string, body []byte) (code int)
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
