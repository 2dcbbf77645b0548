package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

var errUnbuilt = errors.New("not built yet")

// Plane is the data plane of one gateway. Methods may be called from any goroutine.
type Plane struct{}

// New binds the browser port of every network and starts the plane. A taken
// port or an address that is not this machine's is an error that names it.
func New(cfg Config) (*Plane, error) { return &Plane{}, nil }

// NewBrowserTransport makes a transport on the network's shared browser port.
func (p *Plane) NewBrowserTransport(network string, ev Events) (*Transport, error) {
	return nil, errUnbuilt
}

// NewPhoneTransport takes an even port and its odd neighbour; ErrNoPorts
// when the range is used up. v6 chooses the family.
func (p *Plane) NewPhoneTransport(network string, v6 bool, ev Events) (*Transport, error) {
	return nil, errUnbuilt
}

// BrowserMux gives the STUN and DTLS of the network's shared port as a
// net.PacketConn for pion/ice's UDPMux; RTP and RTCP never enter it.
// One per address of the network, in the order of Network.Addresses.
func (p *Plane) BrowserMux(network string) []net.PacketConn { return nil }

// Join connects two lines both ways; it replaces what either was joined to.
// aToB and bToA map payload types of the first leg's numbering to the other's.
func (p *Plane) Join(a, b *Line, aToB, bToA PayloadMap) error { return errUnbuilt }

// Snapshot lists the flows, without keys.
func (p *Plane) Snapshot() []FlowInfo { return nil }

// Close closes every transport and socket. Streams that a Forwarder carries
// are left to it.
func (p *Plane) Close() error { return nil }

// Transport is one leg's media transport. Methods may be called from any goroutine.
type Transport struct{}

// Local returns what we are bound to. A browser transport has one port for both;
// before SetPair it is the network's first address.
func (t *Transport) Local() (rtp, rtcp netip.AddrPort) { return }

// Advertised returns what SDP says: Local behind the network's 1:1 NAT.
func (t *Transport) Advertised() (rtp, rtcp netip.AddrPort) { return }

// SetRemote is the phone side's: where to send and what to accept.
func (t *Transport) SetRemote(r Remote) {}

// SetPair is the browser side's: the selected ICE candidate pair.
func (t *Transport) SetPair(local, remote netip.AddrPort) {}

// SetKeys installs SRTP keys; rx unprotects what arrives, tx protects what is
// sent. A key equal to the installed one keeps its state; a new one starts at
// roll-over counter 0. Two zero keys (ProfileNone) are plain RTP.
func (t *Transport) SetKeys(rx, tx srtp.MasterKey) error { return errUnbuilt }

// AddLine adds a media line.
func (t *Transport) AddLine(c LineConfig) (*Line, error) { return nil, errUnbuilt }

// LastReceived is the time of the last authenticated or strictly sourced media,
// from the engine that owns the stream; zero if none came.
func (t *Transport) LastReceived() time.Time { return time.Time{} }

// Close ends the transport and its lines. drained is closed once its ports are
// free for others; a browser transport's is closed at once.
func (t *Transport) Close() (drained <-chan struct{}) {
	c := make(chan struct{})
	close(c)
	return c
}

// Line is one media line of a transport. Methods may be called from any goroutine.
type Line struct{}

// Update changes what signalling has settled. SSRC and indices go on.
func (l *Line) Update(c LineConfig) {}

// SSRC is the one SSRC this line sends with towards its leg, for its whole life.
func (l *Line) SSRC() uint32 { return 0 }

// Kind is the line's medium.
func (l *Line) Kind() Kind { return 0 }

// RequestKeyframe asks the leg's far end for a key frame by PLI when it takes
// feedback (AVPF); otherwise it does nothing.
func (l *Line) RequestKeyframe() {}

// Unjoin stops both directions between the line and its peer.
func (l *Line) Unjoin() {}

// Close unjoins the line and ends its SSRC.
func (l *Line) Close() {}

// Stats reads the line's statistics from the engines that own its streams.
func (l *Line) Stats() LineStats { return LineStats{} }
