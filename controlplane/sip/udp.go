package sip

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// udpBuffer bridges a moment in which nobody reads, at some thousand messages/s.
const udpBuffer = 4 << 20

// udpListener is a UDP socket. There is no state per remote address: a flow is
// made for each datagram and lives as long as somebody holds it.
type udpListener struct {
	s     *Server
	net   *network
	conn  *net.UDPConn
	local netip.AddrPort
}

// flowTo is the association with one remote address.
func (l *udpListener) flowTo(remote netip.AddrPort) *flow {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	return &flow{
		s: l.s, net: l.net, transport: UDP, local: l.local, remote: remote, udp: l,
		token: "udp " + l.local.String() + " " + remote.String(),
	}
}

func (l *udpListener) serve() {
	buf := make([]byte, maxMessage+1)
	for {
		n, remote, err := l.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// An ICMP error of an earlier answer, or memory pressure.
			l.s.log.Warn("udp read", "listener", l.local, "err", err)
			select {
			case <-l.s.closing:
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		if n > maxMessage {
			continue
		}
		l.s.receive(l.flowTo(remote), buf[:n])
	}
}

// flowByToken finds a connection, or makes the UDP association again.
func (s *Server) flowByToken(token string) *flow {
	if rest, ok := strings.CutPrefix(token, "udp "); ok {
		l, r, _ := strings.Cut(rest, " ")
		local, err1 := netip.ParseAddrPort(l)
		remote, err2 := netip.ParseAddrPort(r)
		if err1 != nil || err2 != nil {
			return nil
		}
		for _, u := range s.udp {
			if u.local == local {
				return u.flowTo(remote)
			}
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[token]; f != nil && f.alive() {
		return f
	}
	return nil
}
