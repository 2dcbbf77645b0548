package srtp

// Profile is an SRTP protection profile (RFC 5764 4.1.2, RFC 7714 14.2), with
// the values of the DTLS-SRTP registry.
type Profile uint16

const (
	ProfileNone                Profile = 0
	ProfileAES128CMHMACSHA1_80 Profile = 0x0001
	ProfileAEADAES128GCM       Profile = 0x0007
	ProfileAEADAES256GCM       Profile = 0x0008
)

// MasterKey is one direction's SRTP master key and salt (RFC 3711 3.2.1). It is
// secret: no String, no JSON, no log attribute.
type MasterKey struct {
	Profile Profile
	Key     []byte
	Salt    []byte
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
