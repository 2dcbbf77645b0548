// Package webrtc is the media half of a browser's leg: ICE-lite by pion/ice and
// DTLS-SRTP by pion/dtls on the one UDP port that all browsers share, and the
// offers and answers that go with them (RFC 8445, RFC 5764, RFC 8829).
//
// RTP never comes here: the data plane owns the socket, keeps RTP and RTCP, and
// hands STUN and DTLS up. A leg gives it back the selected candidate pair and
// the SRTP keys.
package webrtc
