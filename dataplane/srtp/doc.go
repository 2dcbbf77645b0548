// Package srtp holds what both engines share of RFC 3711 and RFC 7714: protection
// profiles, key derivation, index estimation and the replay window, and the
// packet transforms of the user engine, without allocation per packet.
package srtp
