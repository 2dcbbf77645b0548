package dataplane

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const defaultDrain = 5 * time.Second

// Plane is the data plane of one gateway. Methods may be called from any goroutine.
//
// Locks, in the order they may be taken: Plane.control serialises what
// signalling changes; Transport.mu guards what a transport receives, and only
// one is held at a time; sender.mu guards what a transport sends and is a leaf.
type Plane struct {
	log      *slog.Logger
	drain    time.Duration
	networks map[string]*network
	engine   *handover
	events   *eventQueue
	totals   totals

	ids     atomic.Uint64 // FlowID and SessionID
	dropped dropCounters

	control sync.Mutex

	mu         sync.Mutex
	transports map[*Transport]struct{}
	closed     bool

	started time.Time
	stop    chan struct{}
	running sync.WaitGroup
}

// New binds the browser port of every network and starts the plane. A taken
// port or an address that is not this machine's is an error that names it.
func New(cfg Config) (*Plane, error) {
	p := &Plane{
		log: cfg.Logger, drain: cfg.Drain,
		networks:   make(map[string]*network),
		transports: make(map[*Transport]struct{}),
		events:     newEventQueue(),
		started:    time.Now(),
		stop:       make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.drain == 0 {
		p.drain = defaultDrain
	}
	p.engine = newHandover(p, cfg.Forwarder, cfg.Reason)
	p.engine.drain = cmpOr(cfg.releaseDrain, p.engine.drain)
	for _, c := range cfg.Networks {
		c.Addresses = slices.Clone(c.Addresses)
		n, err := (*network)(nil), error(nil)
		if p.networks[c.Name] != nil {
			err = fmt.Errorf("two networks are named %q", c.Name)
		} else {
			n, err = newNetwork(p, c)
		}
		if err != nil {
			for _, n := range p.networks {
				for _, b := range n.browser {
					b.socket.conn.Close()
				}
			}
			return nil, err
		}
		p.networks[c.Name] = n
	}
	for _, n := range p.networks {
		for _, b := range n.browser {
			go b.socket.serve(b.receive)
		}
	}
	for _, run := range []func(){p.dispatch, p.engine.run, p.report} {
		p.running.Go(run)
	}
	return p, nil
}

func (p *Plane) network(name string) (*network, error) {
	if n := p.networks[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("network %q: %w", name, ErrNoNetwork)
}

// NewBrowserTransport makes a transport on the network's shared browser port.
// It carries nothing before SetPair and SetKeys.
func (p *Plane) NewBrowserTransport(network string, ev Events) (*Transport, error) {
	n, err := p.network(network)
	if err != nil {
		return nil, err
	}
	t := newTransport(p, n, ev)
	t.browser = n.browser[0]
	t.out.rtpVia, t.out.rtcpVia = t.browser.socket, t.browser.socket
	return t, p.add(t)
}

// NewPhoneTransport takes an even port and its odd neighbour; ErrNoPorts
// when the range is used up. v6 chooses the family. It carries plain RTP unless
// SetKeys follows.
func (p *Plane) NewPhoneTransport(network string, v6 bool, ev Events) (*Transport, error) {
	n, err := p.network(network)
	if err != nil {
		return nil, err
	}
	rtp, rtcp, err := n.takePorts(v6)
	if err != nil {
		return nil, err
	}
	t := newTransport(p, n, ev)
	t.rtp, t.rtcp = rtp, rtcp
	t.in = &session{Session: Session{ID: p.newSession()}}
	t.out.session = &session{Session: Session{ID: p.newSession()}}
	t.out.rtpVia, t.out.rtcpVia = rtp, rtcp
	go rtp.serve(t.receivePhoneRTP)
	go rtcp.serve(t.receivePhoneRTCP)
	return t, p.add(t)
}

func (p *Plane) add(t *Transport) error {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.transports[t] = struct{}{}
	}
	p.mu.Unlock()
	if closed {
		t.free()
		return fmt.Errorf("plane: %w", ErrClosed)
	}
	return nil
}

func (p *Plane) remove(t *Transport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.transports, t)
}

// all returns the transports there are now.
func (p *Plane) all() []*Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*Transport, 0, len(p.transports))
	for t := range p.transports {
		list = append(list, t)
	}
	return list
}

// BrowserMux gives the STUN and DTLS of the network's shared port as a
// net.PacketConn for pion/ice's UDPMux; RTP and RTCP never enter it.
// One per address of the network, in the order of Network.Addresses; nil for an
// unknown network. DTLS arrives only from addresses that passed ICE.
func (p *Plane) BrowserMux(network string) []net.PacketConn {
	n := p.networks[network]
	if n == nil {
		return nil
	}
	conns := make([]net.PacketConn, len(n.browser))
	for i, b := range n.browser {
		conns[i] = b.mux
	}
	return conns
}

func (p *Plane) closing() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// background runs f unless the plane is closing.
func (p *Plane) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Go(f)
	return true
}

func (p *Plane) newSession() SessionID { return SessionID(p.ids.Add(1)) }
func (p *Plane) newFlow() FlowID       { return FlowID(p.ids.Add(1)) }

// Close closes every transport and socket without draining. Streams that a
// Forwarder carries are left to it; the Forwarder stays the caller's to close.
func (p *Plane) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	close(p.stop)
	p.running.Wait()
	for _, t := range p.all() {
		t.free()
	}
	for _, n := range p.networks {
		for _, b := range n.browser {
			b.mux.Close()
			b.socket.close()
		}
	}
	return nil
}

// uptime is t on a clock that starts near zero, for interarrival times.
func (p *Plane) uptime(t time.Time) time.Duration { return t.Sub(p.started) }

// eventQueue holds functions that must run away from the plane's locks, one at
// a time and in order.
type eventQueue struct {
	mu      sync.Mutex
	pending []func()
	wake    chan struct{} // capacity 1: something is pending
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) add(f func()) {
	q.mu.Lock()
	q.pending = append(q.pending, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// drain runs what is pending.
func (q *eventQueue) drain() {
	q.mu.Lock()
	pending := q.pending
	q.pending = nil
	q.mu.Unlock()
	for _, f := range pending {
		f()
	}
}

// dispatch runs the transports' events.
func (p *Plane) dispatch() {
	for {
		select {
		case <-p.stop:
			return
		case <-p.events.wake:
			p.events.drain()
		}
	}
}
