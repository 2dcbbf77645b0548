package webrtc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v5"
	"github.com/pion/transport/v5/deadline"
	"github.com/pion/transport/v5/stdnet"
)

const (
	// maxPeers is how many source addresses one leg's checks may come from over
	// its life. A browser has a handful per network it moves to.
	maxPeers = 128
	// queueLength bounds what one leg may have waiting; DTLS and ICE resend.
	queueLength = 32
	maxPacket   = 2048
)

// mux shares a network's browser port among its legs. STUN goes to the leg whose
// ufrag it names. DTLS goes to the leg that has answered an authenticated check
// from that very source, to nobody otherwise (RFC 8445 12, RFC 8842 10).
type mux struct {
	sockets []net.PacketConn
	// system is given to every ICE agent, which would else enumerate the
	// machine's interfaces for each leg and then use none of them.
	system  transport.Net
	readers sync.WaitGroup

	mu        sync.RWMutex
	endpoints map[string]*endpoint
	peers     map[peer]*endpoint
	closed    bool
}

// peer is a source as one socket sees it.
type peer struct {
	socket int
	addr   netip.AddrPort
}

func newMux(sockets []net.PacketConn) (*mux, error) {
	system, err := stdnet.NewNet()
	if err != nil {
		return nil, fmt.Errorf("webrtc: network interfaces: %w", err)
	}
	m := &mux{sockets: sockets, system: system, endpoints: map[string]*endpoint{}, peers: map[peer]*endpoint{}}
	for i := range sockets {
		m.readers.Go(func() { m.read(i) })
	}
	return m, nil
}

// close waits for the readers; the owner of the sockets has closed them.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	for _, s := range m.sockets {
		_ = s.Close()
	}
	m.readers.Wait()
}

func (m *mux) read(socket int) {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := m.sockets[socket].ReadFrom(buf)
		if err != nil {
			m.mu.RLock()
			closed := m.closed
			m.mu.RUnlock()
			var ne net.Error
			if closed || errors.Is(err, net.ErrClosed) || !errors.As(err, &ne) || !ne.Timeout() {
				return
			}
			continue
		}
		if udp, ok := from.(*net.UDPAddr); ok && n > 0 {
			ap := udp.AddrPort()
			m.deliver(socket, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), buf[:n])
		}
	}
}

// deliver demultiplexes one packet (RFC 7983 7).
func (m *mux) deliver(socket int, from netip.AddrPort, b []byte) {
	p := peer{socket, from}
	switch {
	case b[0] < 4:
		ufrag, ok := requestUfrag(b)
		if !ok {
			return
		}
		m.mu.RLock()
		e := m.endpoints[ufrag]
		known := m.peers[p] == e
		m.mu.RUnlock()
		if e != nil && (known || !e.full()) {
			e.ice[socket].queue(from, b)
		}
	case b[0] >= 20 && b[0] < 64:
		m.mu.RLock()
		e := m.peers[p]
		m.mu.RUnlock()
		if e != nil {
			e.dtls.queue(from, b)
		}
	}
}

// requestUfrag is the receiver's half of the USERNAME of a binding request
// (RFC 8445 7.2.2). Nothing else comes to an ICE-lite agent.
func requestUfrag(b []byte) (string, bool) {
	const header, cookie, username = 20, 0x2112a442, 0x0006
	if len(b) < header || binary.BigEndian.Uint16(b) != 0x0001 || binary.BigEndian.Uint32(b[4:]) != cookie ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-header {
		return "", false
	}
	for b = b[header:]; len(b) >= 4; {
		typ, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if length > len(b)-4 {
			return "", false
		}
		if typ == username {
			ufrag, _, ok := strings.Cut(string(b[4:4+length]), ":")
			return ufrag, ok
		}
		b = b[min(len(b), 4+(length+3)&^3):]
	}
	return "", false
}

var errUfragTaken = errors.New("webrtc: the ufrag is in use")

// endpoint makes a leg's end of the port.
func (m *mux) endpoint(ufrag string) (*endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	if m.endpoints[ufrag] != nil {
		return nil, errUfragTaken
	}
	e := &endpoint{mux: m, ufrag: ufrag}
	for i := range m.sockets {
		e.ice = append(e.ice, newQueueConn(m.sockets[i].LocalAddr(), func(b []byte, to net.Addr) (int, error) {
			return e.writeSTUN(i, b, to)
		}))
	}
	e.dtls = newQueueConn(m.sockets[0].LocalAddr(), func(b []byte, _ net.Addr) (int, error) { return e.writeSelected(b) })
	m.endpoints[ufrag] = e
	return e, nil
}

// endpoint is one leg on the shared port.
type endpoint struct {
	mux   *mux
	ufrag string
	ice   []*queueConn // by socket
	dtls  *queueConn

	peers     []peer               // guarded by mux.mu
	crowded   atomic.Bool          // maxPeers is reached
	selected  atomic.Pointer[peer] // where DTLS is sent
	lastCheck atomic.Int64         // Unix ns of the last authenticated check
}

func (e *endpoint) full() bool { return e.crowded.Load() }

// writeSTUN sends for the ICE agent. A success response is what the agent gives
// to a check whose MESSAGE-INTEGRITY it has verified, and to nothing else: from
// here on the source is validated. Noting it before it is sent leaves the
// browser no time to be faster with its ClientHello.
func (e *endpoint) writeSTUN(socket int, b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	if len(b) >= 2 && binary.BigEndian.Uint16(b) == 0x0101 {
		ap := udp.AddrPort()
		e.validate(peer{socket, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())})
	}
	return e.mux.sockets[socket].WriteTo(b, to)
}

func (e *endpoint) validate(p peer) {
	e.lastCheck.Store(time.Now().UnixNano())
	m := e.mux
	m.mu.RLock()
	known := m.peers[p] == e
	m.mu.RUnlock()
	if known {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.endpoints[e.ufrag] != e || len(e.peers) >= maxPeers {
		return
	}
	if old := m.peers[p]; old != nil {
		for i, q := range old.peers {
			if q == p {
				old.peers = append(old.peers[:i], old.peers[i+1:]...)
				break
			}
		}
	}
	m.peers[p] = e
	e.peers = append(e.peers, p)
	e.crowded.Store(len(e.peers) >= maxPeers)
}

func (e *endpoint) writeSelected(b []byte) (int, error) {
	to := e.selected.Load()
	if to == nil {
		return len(b), nil // as if lost; DTLS resends
	}
	return e.mux.sockets[to.socket].WriteTo(b, net.UDPAddrFromAddrPort(to.addr))
}

// socketOf is the index of the socket bound to local.
func (e *endpoint) socketOf(local netip.AddrPort) (int, bool) {
	for i, s := range e.mux.sockets {
		if udp, ok := s.LocalAddr().(*net.UDPAddr); ok && udp.AddrPort().Addr().Unmap() == local.Addr() {
			return i, true
		}
	}
	return 0, false
}

func (e *endpoint) close() {
	m := e.mux
	m.mu.Lock()
	if m.endpoints[e.ufrag] == e {
		delete(m.endpoints, e.ufrag)
	}
	for _, p := range e.peers {
		if m.peers[p] == e {
			delete(m.peers, p)
		}
	}
	e.peers = nil
	m.mu.Unlock()
	for _, c := range e.ice {
		_ = c.Close()
	}
	_ = e.dtls.Close()
}

// queueConn is a net.PacketConn fed by the mux.
type queueConn struct {
	local net.Addr
	write func([]byte, net.Addr) (int, error)
	in    chan queued
	done  chan struct{}
	once  sync.Once
	read  *deadline.Deadline
}

type queued struct {
	from netip.AddrPort
	data []byte
}

func newQueueConn(local net.Addr, write func([]byte, net.Addr) (int, error)) *queueConn {
	return &queueConn{
		local: local, write: write, in: make(chan queued, queueLength),
		done: make(chan struct{}), read: deadline.New(),
	}
}

// queue hands a packet over; a full queue drops it.
func (c *queueConn) queue(from netip.AddrPort, b []byte) {
	if len(c.in) == cap(c.in) {
		return // before the copy
	}
	select {
	case c.in <- queued{from, append([]byte(nil), b...)}:
	default:
	}
}

func (c *queueConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.done:
		return 0, nil, net.ErrClosed
	case <-c.read.Done():
		return 0, nil, c.read.Err()
	default:
	}
	select {
	case <-c.done:
		return 0, nil, net.ErrClosed
	case <-c.read.Done():
		return 0, nil, c.read.Err()
	case p := <-c.in:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	}
}

func (c *queueConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
		return c.write(b, to)
	}
}

func (c *queueConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *queueConn) LocalAddr() net.Addr { return c.local }

func (c *queueConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *queueConn) SetReadDeadline(t time.Time) error {
	c.read.Set(t)
	return nil
}

// SetWriteDeadline does nothing: a datagram write does not wait.
func (c *queueConn) SetWriteDeadline(time.Time) error { return nil }
