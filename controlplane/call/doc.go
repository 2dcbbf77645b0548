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
package call
