// Package rig sets up what a scenario measures: a data plane in a process of its
// own inside the lab's gateway, with calls installed through the same functions
// that signalling uses, and traffic on either side of it.
package rig

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/netlab"
)

// Paths that packets can take, as the data plane names them.
const (
	PathNative  = "kernel:xdp-native"
	PathGeneric = "kernel:xdp-generic"
	PathTC      = "kernel:tc"
	PathUser    = "user"
)

// Transforms of a call: what the browsers' side and the phones' side speak.
const (
	SRTPtoRTP  = "srtp-rtp"
	SRTPtoSRTP = "srtp-srtp"
	RTPtoRTP   = "rtp-rtp"
)

// Spec says which calls an engine is to carry.
type Spec struct {
	Path      string       `json:"path"`
	Transform string       `json:"transform"`
	Profile   srtp.Profile `json:"profile"` // ProfileNone for RTPtoRTP
	Calls     int          `json:"calls"`
	Payload   int          `json:"payload"` // octets
	V6        bool         `json:"v6"`
	Seed      uint64       `json:"seed"` // of the keys
	PinDir    string       `json:"pin_dir"`
}

// Ready is what an engine answers once every call is installed.
type Ready struct {
	Browser netip.AddrPort   `json:"browser"`         // the gateway's one port for browsers
	Phones  []netip.AddrPort `json:"phones"`          // the gateway's port of each call for its phone
	Outer   []netip.AddrPort `json:"outer,omitempty"` // instead of Browser where the outer legs are plain RTP
	Path    string           `json:"path"`            // what the engine says new streams take, once settled
	Why     string           `json:"why,omitempty"`
	Error   string           `json:"error,omitempty"`
}

// Stats is an engine's own account.
type Stats struct {
	Flows    map[string]int    `json:"flows"`   // by path
	Packets  map[string]uint64 `json:"packets"` // by path
	Hits     uint64            `json:"hits"`    // keystream found ready
	Misses   uint64            `json:"misses"`
	Heap     uint64            `json:"heap"` // octets in use
	Routines int               `json:"routines"`
}

// Label is the spec in a few words, for figures.
func (s Spec) Label() map[string]string {
	l := map[string]string{"path": s.Path, "transform": s.Transform, "flows": fmt.Sprint(2 * s.Calls), "payload": fmt.Sprint(s.Payload)}
	if s.Profile != srtp.ProfileNone {
		l["profile"] = s.Profile.String()
	}
	return l
}

// remote addresses of call i on either side.
func (s Spec) browser(a netlab.Addresses, i int) netip.AddrPort {
	return netip.AddrPortFrom(a.Browsers, uint16(10000+i))
}

func (s Spec) phone(a netlab.Addresses, i int) netip.AddrPort {
	return netip.AddrPortFrom(a.Phones, uint16(10000+2*i))
}

// side of a call.
type side byte

const (
	browserSide side = 'b'
	phoneSide   side = 'p'
)

// key is the master key by which call i's far end on a side sends (out false) or
// is sent to (out true). Both processes make the same from the seed.
func (s Spec) key(i int, of side, out bool) srtp.MasterKey {
	if s.Profile == srtp.ProfileNone || of == phoneSide && s.Transform != SRTPtoSRTP {
		return srtp.MasterKey{}
	}
	var in [18]byte
	binary.BigEndian.PutUint64(in[:], s.Seed)
	binary.BigEndian.PutUint64(in[8:], uint64(i))
	in[16] = byte(of)
	if out {
		in[17] = 1
	}
	h := sha256.Sum256(in[:])
	salt := sha256.Sum256(h[:])
	return srtp.MasterKey{Profile: s.Profile, Key: h[:s.Profile.KeyLen()], Salt: salt[:s.Profile.SaltLen()]}
}

// session derives what key describes; nil is plain RTP.
func (s Spec) session(i int, of side, out bool) (*srtp.SessionKeys, error) {
	m := s.key(i, of, out)
	if m.Profile == srtp.ProfileNone {
		return nil, nil
	}
	return srtp.Derive(m)
}
