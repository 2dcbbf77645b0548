package webrtc

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/dataplane"
)

// Config of a Factory.
type Config struct {
	Plane    *dataplane.Plane
	Networks []dataplane.Network // as the plane has them; their Advertised stands in candidates
	Logger   *slog.Logger        // nil = discard
}

// Factory makes the media halves of WebRTC legs. Methods may be called from any
// goroutine.
type Factory struct {
	plane *dataplane.Plane
	log   *slog.Logger
	ports map[string]*port
}

// port is one network's shared browser port.
type port struct {
	mux        *mux
	advertised []netip.AddrPort // by socket, as candidates say it
}

// NewFactory takes the STUN and DTLS of every network's browser port. It is
// called once per plane.
func NewFactory(c Config) (*Factory, error) {
	f := &Factory{plane: c.Plane, log: c.Logger, ports: map[string]*port{}}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	for _, n := range c.Networks {
		sockets := c.Plane.BrowserMux(n.Name)
		if len(sockets) == 0 {
			continue // no browser port on this side
		}
		p := &port{}
		for _, s := range sockets {
			a, err := advertise(n, s.LocalAddr())
			if err != nil {
				f.Close()
				return nil, err
			}
			p.advertised = append(p.advertised, a)
		}
		var err error
		if p.mux, err = newMux(sockets); err != nil {
			f.Close()
			return nil, err
		}
		f.ports[n.Name] = p
	}
	return f, nil
}

// advertise is what SDP says of a socket: the network's advertised address of
// its family, else its own.
func advertise(n dataplane.Network, local net.Addr) (netip.AddrPort, error) {
	udp, ok := local.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("webrtc: network %s: the browser socket has no UDP address", n.Name)
	}
	own := udp.AddrPort().Addr().Unmap()
	for _, a := range n.Advertised {
		if a.Unmap().Is4() == own.Is4() {
			own = a.Unmap()
			break
		}
	}
	return netip.AddrPortFrom(own, uint16(udp.Port)), nil
}

// New makes a leg's media. It keeps its ICE credentials, certificate and port
// until Close.
func (f *Factory) New(_ context.Context, p call.Party, o call.MediaOptions) (call.Media, error) {
	at := f.ports[p.Network]
	if at == nil {
		return nil, fmt.Errorf("webrtc: network %q: %w", p.Network, dataplane.ErrNoNetwork)
	}
	return newLeg(f, at, p.Network, o)
}

// Close ends the shared ports. Legs must be closed first.
func (f *Factory) Close() {
	for _, p := range f.ports {
		p.mux.close()
	}
}

// candidates are the host candidates of the port (RFC 8839 5.1), in the order
// of the network's addresses.
func (p *port) candidates() []string {
	out := make([]string, len(p.advertised))
	for i, a := range p.advertised {
		out[i] = strconv.Itoa(i+1) + " 1 udp " + strconv.FormatUint(uint64(hostPriority(i)), 10) + " " +
			a.Addr().String() + " " + strconv.Itoa(int(a.Port())) + " typ host"
	}
	return out
}
