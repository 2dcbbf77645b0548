// Package sip is the gateway's SIP user agent: registrar, and the signalling
// half of a B2BUA, over UDP, TCP, TLS, WS and WSS. It implements call.Caller,
// call.Invite and call.Dialog and knows nothing of media but the SDP it carries.
//
// From sipgo it takes the parser, the messages and the transaction state
// machines of RFC 3261 17. Around them it has its own
//
//   - flows: one type for a UDP association, a TCP or TLS connection and a
//     WebSocket, named by a token (RFC 5626). Requests to somebody behind NAT
//     go by the flow he came by, and a dialog can change its flow;
//   - wire: every message is framed, bounded, unfolded and checked before the
//     parser sees it, messages of one connection are handled in their order, and
//     a panic costs one message;
//   - transaction table, so that what is not authenticated is answered without
//     state (RFC 3261 26.3.2.4);
//   - INVITE client, dialogs, session timers (RFC 4028) and the rest of what a
//     back-to-back user agent needs.
package sip
