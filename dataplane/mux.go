package dataplane

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	muxQueue = 1024 // packets of a kind that wait for ICE or DTLS
	// validFor is how long an answered connectivity check lets DTLS in; ICE
	// repeats checks at least every 15 s (RFC 8445 11), consent every 5 s.
	validFor = 30 * time.Second
	validMax = 1 << 16
)

// class is what RFC 7983 makes of a packet's first byte.
type class uint8

const (
	classOther class = iota
	classSTUN
	classDTLS
	classMedia
)

func classify(packet []byte) class {
	switch b := packet[0]; {
	case b <= 3:
		return classSTUN
	case b >= 20 && b <= 63:
		return classDTLS
	case b >= 128 && b <= 191:
		return classMedia
	}
	return classOther
}

// isRTCP tells RTCP from RTP on one port (RFC 5761 4).
func isRTCP(packet []byte) bool {
	return len(packet) >= 8 && packet[1] >= 192 && packet[1] <= 223
}

// muxConn is the STUN and DTLS of a browser port as a net.PacketConn, also
// implementing pion/ice's AddrPortReaderWriter. Its queues are bounded: what
// does not fit is dropped, as a full socket buffer would.
//
// DTLS is let in only from addresses that passed ICE: those to which a STUN
// success response was written in the last 30 s, which pion/ice does for checks
// whose MESSAGE-INTEGRITY verified, and those that a transport's pair names.
type muxConn struct {
	via *socket

	mu       sync.Mutex
	stun     queue
	dtls     queue
	ready    chan struct{} // capacity 1: something is queued
	valid    map[netip.AddrPort]time.Time
	swept    time.Time
	deadline time.Time
	timer    *time.Timer
	wake     chan struct{} // replaced and closed when the deadline passes
	closed   chan struct{}
	once     sync.Once
}

// queue is a ring of packets in buffers of its own.
type queue struct {
	slots [muxQueue]queued
	head  int
	n     int
}

type queued struct {
	from netip.AddrPort
	buf  []byte
}

func (q *queue) push(packet []byte, from netip.AddrPort) bool {
	if q.n == muxQueue {
		return false
	}
	s := &q.slots[(q.head+q.n)%muxQueue]
	s.from, s.buf = from, append(s.buf[:0], packet...)
	q.n++
	return true
}

func (q *queue) pop(p []byte) (int, netip.AddrPort) {
	s := &q.slots[q.head]
	q.head = (q.head + 1) % muxQueue
	q.n--
	return copy(p, s.buf), s.from
}

func newMuxConn(via *socket) *muxConn {
	return &muxConn{
		via: via, ready: make(chan struct{}, 1), closed: make(chan struct{}), wake: make(chan struct{}),
		valid: make(map[netip.AddrPort]time.Time),
	}
}

// offer queues a STUN or DTLS packet. bound tells that a transport's pair names
// the source.
func (m *muxConn) offer(c class, packet []byte, from netip.AddrPort, bound bool, now time.Time) {
	m.mu.Lock()
	ok := false
	switch {
	case c == classSTUN:
		ok = m.stun.push(packet, from)
	case bound || now.Sub(m.valid[from]) < validFor:
		ok = m.dtls.push(packet, from)
	}
	m.mu.Unlock()
	if ok {
		select {
		case m.ready <- struct{}{}:
		default:
		}
	}
}

// ReadFromAddrPort waits for the next packet. DTLS goes first: it is already
// validated and a flood of STUN must not delay it.
func (m *muxConn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	for {
		m.mu.Lock()
		deadline, wake := m.deadline, m.wake
		select {
		case <-m.closed:
			m.mu.Unlock()
			return 0, netip.AddrPort{}, net.ErrClosed
		default:
		}
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			m.mu.Unlock()
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		}
		q := &m.dtls
		if q.n == 0 {
			q = &m.stun
		}
		if q.n > 0 {
			n, from := q.pop(p)
			more := m.dtls.n+m.stun.n > 0
			m.mu.Unlock()
			if more {
				select {
				case m.ready <- struct{}{}:
				default:
				}
			}
			return n, from, nil
		}
		m.mu.Unlock()
		select {
		case <-m.ready:
		case <-wake:
		case <-m.closed:
		}
	}
}

// WriteToAddrPort sends by the browser port.
func (m *muxConn) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	select {
	case <-m.closed:
		return 0, net.ErrClosed
	default:
	}
	if isSuccessResponse(p) {
		m.validate(to, time.Now())
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if err := m.via.write(p, to); err != nil {
		return 0, err
	}
	return len(p), nil
}

// isSuccessResponse recognises a STUN Binding success response (RFC 8489 5).
func isSuccessResponse(p []byte) bool {
	return len(p) >= 20 && binary.BigEndian.Uint16(p) == 0x0101 && binary.BigEndian.Uint32(p[4:]) == 0x2112a442
}

func (m *muxConn) validate(addr netip.AddrPort, now time.Time) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.swept) > validFor || len(m.valid) >= validMax {
		m.swept = now
		for a, at := range m.valid {
			if now.Sub(at) >= validFor {
				delete(m.valid, a)
			}
		}
	}
	if _, known := m.valid[addr]; known || len(m.valid) < validMax {
		m.valid[addr] = now
	}
}

// ReadFrom implements net.PacketConn.
func (m *muxConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := m.ReadFromAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo implements net.PacketConn; addr must be a *net.UDPAddr.
func (m *muxConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	return m.WriteToAddrPort(p, u.AddrPort())
}

// Close ends reads and writes. The socket stays the plane's.
func (m *muxConn) Close() error {
	m.once.Do(func() {
		close(m.closed)
		m.mu.Lock()
		if m.timer != nil {
			m.timer.Stop()
		}
		m.mu.Unlock()
	})
	return nil
}

// LocalAddr is the browser port's address.
func (m *muxConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(m.via.local) }

// SetDeadline implements net.PacketConn.
func (m *muxConn) SetDeadline(t time.Time) error { return m.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (m *muxConn) SetReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deadline = t
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
	close(m.wake) // readers look at the new deadline
	m.wake = make(chan struct{})
	if !t.IsZero() {
		m.timer = time.AfterFunc(time.Until(t), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.deadline.Equal(t) {
				close(m.wake)
				m.wake = make(chan struct{})
			}
		})
	}
	return nil
}

// SetWriteDeadline does nothing: writes never block for long, the media socket
// they use is shared.
func (m *muxConn) SetWriteDeadline(time.Time) error { return nil }
