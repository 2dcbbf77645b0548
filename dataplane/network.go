package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"syscall"
)

const (
	defaultPortMin = 20000
	defaultPortMax = 29999
)

// network is a Network with its sockets and ports.
type network struct {
	Network
	plane   *Plane
	browser []*browserPort // by the order of Addresses

	mu    sync.Mutex
	taken map[netip.AddrPort]bool // even ports in use or draining, by address
}

// browserPort is the shared port of one address.
type browserPort struct {
	plane  *Plane
	socket *socket
	mux    *muxConn

	mu    sync.RWMutex
	bound map[netip.AddrPort]*Transport // by remote address
}

func newNetwork(p *Plane, c Network) (*network, error) {
	if len(c.Addresses) == 0 {
		return nil, fmt.Errorf("network %q has no address: set one", c.Name)
	}
	var v4, v6 int
	for i, a := range c.Addresses {
		a = a.Unmap()
		c.Addresses[i] = a
		switch {
		case !a.IsValid() || a.IsUnspecified():
			return nil, fmt.Errorf("network %q: %v is not an address media can be sent from: name the interface's own", c.Name, a)
		case a.Is4():
			v4++
		default:
			v6++
		}
	}
	if v4 > 1 || v6 > 1 {
		return nil, fmt.Errorf("network %q has two addresses of one family: make it two networks", c.Name)
	}
	if c.PortMin == 0 {
		c.PortMin = defaultPortMin
	}
	if c.PortMax == 0 {
		c.PortMax = max(defaultPortMax, c.PortMin|1)
	}
	c.PortMin += c.PortMin & 1
	if c.PortMax <= c.PortMin {
		return nil, fmt.Errorf("network %q: port range %d-%d holds no even port and its neighbour", c.Name, c.PortMin, c.PortMax)
	}
	n := &network{Network: c, plane: p, taken: make(map[netip.AddrPort]bool)}
	if err := n.bindBrowser(); err != nil {
		return nil, err
	}
	return n, nil
}

// bindBrowser binds one port number on every address.
func (n *network) bindBrowser() error {
	const attempts = 8 // only a port chosen by the system can meet a second address's taken one
	var err error
	for range attempts {
		port := n.BrowserPort
		for _, a := range n.Addresses {
			var s *socket
			if s, err = listen(netip.AddrPortFrom(a, port)); err != nil {
				err = fmt.Errorf("network %q: browser port: %w (choose another address or browser port)", n.Name, err)
				break
			}
			port = s.local.Port()
			// One socket carries every browser: ride out a burst.
			_ = s.conn.SetReadBuffer(4 << 20)
			_ = s.conn.SetWriteBuffer(4 << 20)
			n.browser = append(n.browser, &browserPort{plane: n.plane, socket: s, mux: newMuxConn(s), bound: make(map[netip.AddrPort]*Transport)})
		}
		if err == nil {
			return nil
		}
		for _, b := range n.browser {
			b.socket.conn.Close()
		}
		n.browser = nil
		if n.BrowserPort != 0 {
			return err
		}
	}
	return err
}

// address is the network's address of a family.
func (n *network) address(v6 bool) (netip.Addr, bool) {
	for _, a := range n.Addresses {
		if a.Is6() == v6 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// advertise maps a bound address to what SDP says.
func (n *network) advertise(a netip.AddrPort) netip.AddrPort {
	for _, adv := range n.Advertised {
		if adv.Is6() == a.Addr().Is6() {
			return netip.AddrPortFrom(adv, a.Port())
		}
	}
	return a
}

// takePorts binds an even port and its neighbour, from a random start so that
// ports are not guessed and not used again soon.
func (n *network) takePorts(v6 bool) (rtp, rtcp *socket, err error) {
	addr, ok := n.address(v6)
	if !ok {
		return nil, nil, fmt.Errorf("network %q: %w", n.Name, ErrNoFamily)
	}
	pairs := (int(n.PortMax) - int(n.PortMin) + 1) / 2
	start := rand.IntN(pairs)
	for i := range pairs {
		at := netip.AddrPortFrom(addr, n.PortMin+uint16((start+i)%pairs)*2)
		if !n.reserve(at) {
			continue
		}
		if rtp, err = listen(at); err == nil {
			if rtcp, err = listen(netip.AddrPortFrom(addr, at.Port()+1)); err == nil {
				return rtp, rtcp, nil
			}
			rtp.conn.Close()
		}
		n.release(at)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, fmt.Errorf("network %q: RTP port: %w", n.Name, err)
		}
	}
	return nil, nil, fmt.Errorf("network %q: %w", n.Name, ErrNoPorts)
}

func (n *network) reserve(at netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.taken[at] {
		return false
	}
	n.taken[at] = true
	return true
}

func (n *network) release(at netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, at)
}

// receive demultiplexes the shared port by first byte (RFC 7983), media by exact
// remote address.
func (p *browserPort) receive(b *batch, packet []byte, from netip.AddrPort) {
	c := classify(packet)
	if c == classOther {
		p.plane.drop(nil, dropMalformed)
		return
	}
	if c == classSTUN {
		p.mux.offer(c, packet, from, false, b.now)
		return
	}
	p.mu.RLock()
	t := p.bound[from]
	p.mu.RUnlock()
	switch {
	case c == classDTLS:
		p.mux.offer(c, packet, from, t != nil, b.now)
	case t == nil:
		p.plane.drop(nil, dropUnknown)
	case isRTCP(packet):
		t.receiveRTCP(b, packet, p.socket, from)
	default:
		t.receiveRTP(b, packet, p.socket, from)
	}
}

// bind makes t the owner of a remote address; a later pair takes it over.
func (p *browserPort) bind(remote netip.AddrPort, t *Transport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound[remote] = t
}

func (p *browserPort) unbind(remote netip.AddrPort, t *Transport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bound[remote] == t {
		delete(p.bound, remote)
	}
}
