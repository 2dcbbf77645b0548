package sip

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
)

// network is a Network and what it listens on.
type network struct {
	name      string
	advertise []netip.Addr
	clientTLS *tls.Config
	udp       []*udpListener
	streams   []*streamListener
}

// port is where the network listens with a transport, 0 nowhere.
func (n *network) port(t Transport, v4 bool) uint16 {
	for _, l := range n.streams {
		if l.transport == t && (l.local.Addr().Is4() == v4 || l.local.Addr().IsUnspecified()) {
			return l.local.Port()
		}
	}
	return 0
}

// pace are the intervals of a server.
type pace struct {
	t1, t2     time.Duration // RFC 3261 17, as sipgo has them
	ping, pong time.Duration // WebSocket
	ringing    time.Duration // repeat of a provisional (13.3.1.1)
	hurry      time.Duration // session timers run this many times faster
}

// of is how long a session timer really waits.
func (p pace) of(d time.Duration) time.Duration { return d / max(p.hurry, 1) }

// Server is the gateway's SIP user agent. It implements call.Caller. Its methods
// may be called from any goroutine.
type Server struct {
	cfg    Config
	log    *slog.Logger
	pace   pace
	key    [32]byte // of nonces and of tags without state
	nets   []*network
	web    *network
	udp    []*udpListener
	reader *reader
	guard  *guard

	ctx     context.Context
	cancel  context.CancelFunc
	closing <-chan struct{} // ctx.Done
	wg      sync.WaitGroup

	mu          sync.Mutex
	closed      bool
	flows       map[string]*flow
	dials       map[dialKey]*dial
	connections int
	perAddr     map[visitor]int

	txs     *transactions
	dialogs *dialogs
	counts  counts
}

// counts are what happened since the start.
type counts struct{ malformed, panics, refused atomic.Uint64 }

// Stats are a server's figures.
type Stats struct {
	Connections        int // TCP, TLS and WebSocket
	Dialogs            int
	ServerTransactions int
	ClientTransactions int
	Malformed          uint64 // messages refused before they were parsed
	Panics             uint64 // messages and calls that made a handler panic
	Unauthenticated    uint64 // requests whose credentials were wrong
}

// Stats returns the figures of now.
func (s *Server) Stats() Stats {
	st := Stats{
		Dialogs: s.dialogs.len(), Malformed: s.counts.malformed.Load(),
		Panics: s.counts.panics.Load(), Unauthenticated: s.counts.refused.Load(),
	}
	st.ServerTransactions, st.ClientTransactions = s.txs.len()
	s.mu.Lock()
	st.Connections = len(s.flows)
	s.mu.Unlock()
	return st
}

// panicked counts and logs what a handler did to one message or call. It is
// called with recover's value, nil for none.
func (s *Server) panicked(p any, args ...any) bool {
	if p == nil {
		return false
	}
	s.counts.panics.Add(1)
	s.log.Error("panic: one message or call is lost", append(args, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))...)
	return true
}

var _ call.Caller = (*Server)(nil)

// New checks the configuration, all of it, and returns a server that does not
// listen yet.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: c, log: c.Logger, reader: newReader(), guard: newGuard(),
		flows: map[string]*flow{}, dials: map[dialKey]*dial{}, perAddr: map[visitor]int{},
		txs: newTransactions(), dialogs: newDialogs(),
		pace: pace{
			t1: gosip.T1, t2: gosip.T2,
			ping: 10 * time.Second, pong: 5 * time.Second,
			ringing: time.Minute,
		},
	}
	if _, err := rand.Read(s.key[:]); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.closing = s.ctx.Done()
	for _, n := range c.Networks {
		nn := &network{name: n.Name, advertise: n.Advertise, clientTLS: n.ClientTLS}
		s.nets = append(s.nets, nn)
		if s.web == nil || n.Name == c.WebSocket.Network {
			s.web = nn
		}
	}
	return s, nil
}

// Listen opens every listener. An error is a *ListenError; then none is open.
func (s *Server) Listen() error {
	for i, n := range s.cfg.Networks {
		for _, l := range n.Listeners {
			if err := s.listen(s.nets[i], l, n.TLS); err != nil {
				s.closeListeners()
				return &ListenError{l, err}
			}
		}
	}
	return nil
}

func (s *Server) listen(n *network, l Listener, conf *tls.Config) error {
	if l.Transport == UDP {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr))
		if err != nil {
			return err
		}
		_ = c.SetReadBuffer(udpBuffer) // as much of it as the system allows
		u := &udpListener{s: s, net: n, conn: c, local: addrPort(c.LocalAddr())}
		n.udp = append(n.udp, u)
		s.udp = append(s.udp, u)
		return nil
	}
	ln, err := net.Listen("tcp", l.Addr.String())
	if err != nil {
		return err
	}
	sl := &streamListener{s: s, net: n, transport: l.Transport, local: addrPort(ln.Addr()), ln: ln}
	if l.Transport == TLS {
		sl.ln = tls.NewListener(ln, conf)
	}
	n.streams = append(n.streams, sl)
	return nil
}

func (s *Server) closeListeners() {
	for _, n := range s.nets {
		for _, u := range n.udp {
			u.conn.Close()
		}
		for _, l := range n.streams {
			l.ln.Close()
		}
		n.udp, n.streams = nil, nil
	}
	s.udp = nil
}

// Addr is where a network listens with a transport; zero: nowhere. It is valid
// after Listen.
func (s *Server) Addr(network string, t Transport) netip.AddrPort {
	for _, n := range s.nets {
		if n.name != network {
			continue
		}
		for _, u := range n.udp {
			if t == UDP {
				return u.local
			}
		}
		for _, l := range n.streams {
			if l.transport == t {
				return l.local
			}
		}
	}
	return netip.AddrPort{}
}

// Serve runs the listeners until Close. Listen must have succeeded.
func (s *Server) Serve() error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.wg.Done()
	for _, n := range s.nets {
		for _, u := range n.udp {
			s.log.Info("listening", "network", n.name, "transport", UDP, "addr", u.local)
			s.wg.Go(u.serve)
		}
		for _, l := range n.streams {
			s.log.Info("listening", "network", n.name, "transport", l.transport, "addr", l.local)
			s.wg.Go(l.serve)
		}
	}
	<-s.closing
	return nil
}

// enter counts a goroutine that Close waits for; false when it is too late.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// Close ends listeners, connections and transactions at once; dialogs that are
// still up are forgotten, not ended. It returns when every goroutine is done.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	flows := make([]*flow, 0, len(s.flows))
	for _, f := range s.flows {
		flows = append(flows, f)
	}
	s.mu.Unlock()
	s.txs.close()
	s.dialogs.close()
	s.cancel()
	for _, n := range s.nets {
		for _, u := range n.udp {
			u.conn.Close()
		}
		for _, l := range n.streams {
			l.ln.Close()
		}
	}
	for _, f := range flows {
		f.end()
	}
	s.wg.Wait()
	return nil
}
