// Package rtpleg is the media half of a phone's or trunk's leg: plain RTP, or
// SRTP with keys in the SDP (SDES, RFC 4568). Every media line has a transport
// of its own, an even port and its odd neighbour.
package rtpleg
