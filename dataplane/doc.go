// Package dataplane owns every media socket of the gateway and what flows
// through them: transports, lines, sessions, streams and their engines.
//
// The nouns:
//
//   - A Network is a named side of the box with its addresses and ports.
//   - A Transport is one leg's media transport: the browser side shares one UDP
//     port per network, the phone side owns an even RTP port and its RTCP port.
//   - A Line is one media line (an SDP m-section) carried by a Transport. BUNDLE
//     means several lines on one transport.
//   - A Session is one SRTP master key in one direction, or plain RTP.
//   - A Flow is one stream with its output: (input session, SSRC) to (output
//     session, our SSRC), with index and timestamp offsets. State hangs on it,
//     never on the 4-tuple.
//
// A stream has one owning engine at a time: the user engine in this package, or
// a Forwarder (the kernel programs) that the appliance plugs in.
package dataplane
