package sip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// resolveTimeout bounds name look-ups and connecting of one request.
const resolveTimeout = 10 * time.Second

// network by name; the first one for "".
func (s *Server) network(name string) *network {
	for _, n := range s.nets {
		if n.name == name {
			return n
		}
	}
	if name == "" {
		return s.nets[0]
	}
	return nil
}

// flowToURI finds or opens the way to a URI (RFC 3263, without NAPTR). hint is
// the transport when the URI names none.
func (s *Server) flowToURI(ctx context.Context, n *network, text string, hint Transport) (*flow, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	u, err := parseURI(text)
	if err != nil {
		return nil, err
	}
	t, named := u.transport(hint)
	if t.web() {
		return nil, errors.New("sip: a WebSocket client cannot be connected to; its own connection is gone")
	}
	host := u.host
	if m, ok := u.params.get("maddr"); ok && m != "" {
		host = strings.Trim(m, "[]")
	}
	addrs, err := s.lookup(ctx, host, u.port, t, named)
	if err != nil {
		return nil, err
	}
	var last error = errNoNetwork
	for _, a := range addrs {
		f, err := s.flowTo(ctx, n, t, a, host)
		if err == nil {
			return f, nil
		}
		last = err
	}
	return nil, fmt.Errorf("sip: no way to %s: %w", text, last)
}

// transport of a URI (RFC 3263 4.1); named tells that the URI chose it.
func (u uri) transport(hint Transport) (t Transport, named bool) {
	t = UDP
	if v, ok := u.params.get("transport"); ok {
		t, named = Transport(strings.ToUpper(v)), true
	} else if hint != "" {
		t = hint
	}
	if u.secure {
		switch t {
		case WS, WSS:
			t = WSS
		default:
			t = TLS
		}
	}
	return t, named
}

// flowTo is the association with, or a connection to, an address.
func (s *Server) flowTo(ctx context.Context, n *network, t Transport, a netip.AddrPort, name string) (*flow, error) {
	switch t {
	case UDP:
		for _, u := range n.udp {
			l := u.local.Addr()
			if l.Is4() == a.Addr().Is4() || l.Is6() && l.IsUnspecified() {
				return u.flowTo(a), nil
			}
		}
		return nil, errNoNetwork
	case TCP, TLS:
		k := dialKey{net: n, transport: t, remote: a}
		if t == TLS {
			k.name = name
		}
		return s.connect(ctx, k)
	}
	return nil, fmt.Errorf("sip: transport %s is not known", t)
}

// lookup resolves a host: SRV when no port is given, then addresses.
func (s *Server) lookup(ctx context.Context, host string, port uint16, t Transport, named bool) ([]netip.AddrPort, error) {
	def := port
	if def == 0 {
		def = t.defaultPort()
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), def)}, nil
	}
	var out []netip.AddrPort
	add := func(host string, port uint16) error {
		as, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		for _, a := range as {
			if len(out) < 8 {
				out = append(out, netip.AddrPortFrom(a.Unmap(), port))
			}
		}
		return err
	}
	if port == 0 && strings.Contains(host, ".") {
		service, proto := "sip", strings.ToLower(string(t))
		if t == TLS {
			service, proto = "sips", "tcp"
		}
		if _, recs, err := net.DefaultResolver.LookupSRV(ctx, service, proto, host); err == nil {
			for _, r := range recs {
				_ = add(strings.TrimSuffix(r.Target, "."), r.Port)
			}
		}
	}
	if len(out) == 0 {
		if err := add(host, def); err != nil {
			return nil, err
		}
	}
	return out, nil
}
