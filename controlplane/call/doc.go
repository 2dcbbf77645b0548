// Package call is the call state machine: a B2BUA. It joins legs whose
// signalling and media it knows only by the interfaces declared here.
//
// Signalling (Invite, Caller, Outgoing, Dialog, DialogHandler) is implemented by
// controlplane/sip, media (Media, MediaFactory) by controlplane/webrtc and
// controlplane/rtpleg, the Engine by dataplane.
//
// Each call runs in one goroutine that reads a mailbox; nothing holds a lock
// while it calls out. Everything that may block (an INVITE under way, a wait for
// ACK, a re-INVITE) runs beside it and reports into the mailbox.
//
// A call goes through invite, routed, ringing or early, answered (a callee said
// 200), connected (the caller's ACK came) and ended; Event tells of each.
//
// Media is settled in terms of what each far end last said and was last told
// (sdp.Line lists, the same index the same medium in both legs). A re-INVITE is
// carried end to end; where one leg was told something the other no longer
// says, as after early media of one callee and the answer of another, the
// gateway re-INVITEs it by itself.
package call
