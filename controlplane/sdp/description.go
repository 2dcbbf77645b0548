package sdp

import (
	"crypto/subtle"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sluicegw/sluice/dataplane"
)

// Description is one SDP body (RFC 8866) as far as a gateway reads or writes
// it. Session-level values that are defaults for the media (connection,
// direction, ICE, fingerprint, setup, extmap, crypto) are folded into Media by
// Parse.
type Description struct {
	Origin  Origin
	Name    string     // s=
	Bundle  [][]string // a=group:BUNDLE, mids per group
	ICELite bool
	Media   []Media
}

// Origin is the o= line.
type Origin struct {
	User      string
	SessionID uint64
	Version   uint64
	Host      string
}

// Setup is a=setup (RFC 4145, RFC 8842).
type Setup string

// The roles of RFC 4145 4.1.
const (
	Active   Setup = "active"
	Passive  Setup = "passive"
	ActPass  Setup = "actpass"
	HoldConn Setup = "holdconn"
)

// Fingerprint is a=fingerprint (RFC 8122).
type Fingerprint struct {
	Algorithm string // lower case: "sha-256"
	Value     []byte
}

// Equal compares in constant time.
func (f Fingerprint) Equal(o Fingerprint) bool {
	return f.Algorithm == o.Algorithm && subtle.ConstantTimeCompare(f.Value, o.Value) == 1
}

// String is the attribute's value.
func (f Fingerprint) String() string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteString(f.Algorithm)
	for i, v := range f.Value {
		if i == 0 {
			b.WriteByte(' ')
		} else {
			b.WriteByte(':')
		}
		b.WriteByte(digits[v>>4])
		b.WriteByte(digits[v&15])
	}
	return b.String()
}

// Crypto is a=crypto (RFC 4568). Params holds the key and is secret: Crypto
// prints without it.
type Crypto struct {
	Tag     int
	Suite   string
	Params  string // key-params, "inline:..."
	Session string // session-params
}

// String hides the key.
func (c Crypto) String() string { return strconv.Itoa(c.Tag) + " " + c.Suite + " [key]" }

// GoString hides the key.
func (c Crypto) GoString() string { return c.String() }

// Extension is one a=extmap (RFC 8285).
type Extension struct {
	ID        uint8
	Direction Direction // "" unsaid
	URI       string
}

// Source is one announced SSRC with its CNAME (RFC 5576).
type Source struct {
	SSRC  uint32
	CName string
}

// Media is one m= section.
type Media struct {
	Name    string   // "audio"
	Port    int      // 0: rejected, unless BundleOnly
	Proto   Proto    // any token is kept
	Formats []string // the format list as written; Marshal writes it when Codecs is empty

	Host     string // c= address, own or the session's; "" none
	RTCPPort int    // a=rtcp (RFC 3605), 0 none
	RTCPHost string // "" the same as Host

	Mid        string
	Direction  Direction // "" unsaid
	BundleOnly bool      // RFC 9143 6
	RTCPMux    bool      // RFC 5761
	RTCPRsize  bool      // RFC 5506

	Ufrag, Pwd      string // RFC 8839
	Candidates      []string
	EndOfCandidates bool
	Fingerprints    []Fingerprint
	Setup           Setup
	Crypto          []Crypto

	Codecs     []Codec
	Extensions []Extension
	Ptime      int
	MaxPtime   int
	Sources    []Source
	Stream     string // a=msid stream and track, Marshal only
}

// Kind is the medium, 0 for one the gateway does not carry.
func (m *Media) Kind() dataplane.Kind {
	switch m.Name {
	case "audio":
		return dataplane.Audio
	case "video":
		return dataplane.Video
	}
	return 0
}

// Rejected tells whether the section is refused or disabled (RFC 3264 6, 8.2).
func (m *Media) Rejected() bool { return m.Port == 0 && !m.BundleOnly }

// Addr is the c= address; ok is false for none or a host name.
func (m *Media) Addr() (addr netip.Addr, ok bool) {
	a, err := netip.ParseAddr(m.Host)
	return a.Unmap(), err == nil
}

// BundleOf returns the BUNDLE group that names the mid, nil when none does.
func (d *Description) BundleOf(mid string) []string {
	if mid == "" {
		return nil
	}
	for _, g := range d.Bundle {
		for _, m := range g {
			if m == mid {
				return g
			}
		}
	}
	return nil
}
