package srtp

import (
	"crypto/subtle"
	"errors"
)

// Errors of this package. They carry no packet content and no key material.
var (
	ErrProfile     = errors.New("srtp: unknown protection profile")
	ErrKeyLength   = errors.New("srtp: master key or salt has the wrong length for its profile")
	ErrShort       = errors.New("srtp: packet is too short")
	ErrAuth        = errors.New("srtp: authentication failed")
	ErrRoom        = errors.New("srtp: no room for the authentication tag")
	ErrIndex       = errors.New("srtp: packet index does not match the sequence number or is used up")
	ErrUnencrypted = errors.New("srtp: SRTCP packet without the E flag")
)

// Profile is an SRTP protection profile (RFC 5764 4.1.2, RFC 7714 14.2), with
// the values of the DTLS-SRTP registry.
type Profile uint16

const (
	ProfileNone                Profile = 0
	ProfileAES128CMHMACSHA1_80 Profile = 0x0001
	ProfileAEADAES128GCM       Profile = 0x0007
	ProfileAEADAES256GCM       Profile = 0x0008
)

// String is the profile's registered name without the SRTP_ prefix, "none" for
// ProfileNone.
func (p Profile) String() string {
	switch p {
	case ProfileNone:
		return "none"
	case ProfileAES128CMHMACSHA1_80:
		return "AES_CM_128_HMAC_SHA1_80"
	case ProfileAEADAES128GCM:
		return "AEAD_AES_128_GCM"
	case ProfileAEADAES256GCM:
		return "AEAD_AES_256_GCM"
	}
	return "unknown"
}

// AEAD reports whether the profile is one of RFC 7714.
func (p Profile) AEAD() bool { return p == ProfileAEADAES128GCM || p == ProfileAEADAES256GCM }

// KeyLen is the length of master and session key in bytes, 0 for ProfileNone
// and unknown profiles.
func (p Profile) KeyLen() int {
	switch p {
	case ProfileAES128CMHMACSHA1_80, ProfileAEADAES128GCM:
		return 16
	case ProfileAEADAES256GCM:
		return 32
	}
	return 0
}

// SaltLen is the length of master and session salt in bytes.
func (p Profile) SaltLen() int {
	switch p {
	case ProfileAES128CMHMACSHA1_80:
		return 14
	case ProfileAEADAES128GCM, ProfileAEADAES256GCM:
		return 12
	}
	return 0
}

// AuthKeyLen is the length of the session authentication keys in bytes, 0 for AEAD.
func (p Profile) AuthKeyLen() int {
	if p == ProfileAES128CMHMACSHA1_80 {
		return 20
	}
	return 0
}

// Overhead is what Protect adds to an RTP packet, in bytes.
func (p Profile) Overhead() int {
	switch p {
	case ProfileAES128CMHMACSHA1_80:
		return cmTagLen
	case ProfileAEADAES128GCM, ProfileAEADAES256GCM:
		return gcmTagLen
	}
	return 0
}

// MaxOverhead is the largest Overhead of any profile, SRTCP's index included.
const MaxOverhead = gcmTagLen + rtcpIndexLen

const (
	cmTagLen     = 10
	gcmTagLen    = 16
	rtcpIndexLen = 4
)

// MasterKey is one direction's SRTP master key and salt (RFC 3711 3.2.1). It is
// secret: no String, no JSON, no log attribute.
type MasterKey struct {
	Profile Profile
	Key     []byte
	Salt    []byte
}

// Equal compares in constant time for equal profiles and lengths.
func (m MasterKey) Equal(o MasterKey) bool {
	return m.Profile == o.Profile &&
		subtle.ConstantTimeCompare(m.Key, o.Key)&subtle.ConstantTimeCompare(m.Salt, o.Salt) == 1
}

// SessionKeys are the keys derived from one MasterKey at key derivation rate 0
// (RFC 3711 4.3.1). They are secret.
type SessionKeys struct {
	Profile  Profile
	RTPKey   []byte // 16 or 32 bytes
	RTPAuth  []byte // 20 bytes, empty for AEAD
	RTPSalt  []byte // 14 bytes for AES-CM, 12 for AEAD
	RTCPKey  []byte
	RTCPAuth []byte
	RTCPSalt []byte
}

// Wipe overwrites the keys. Copies that a Context or a kernel map made stay.
func (k *SessionKeys) Wipe() {
	for _, b := range [...][]byte{k.RTPKey, k.RTPAuth, k.RTPSalt, k.RTCPKey, k.RTCPAuth, k.RTCPSalt} {
		clear(b)
	}
}
