package sip

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	gosip "github.com/emiago/sipgo/sip"
)

// Bounds of a connection.
const (
	maxMessage   = 65535            // bytes of a SIP message, on every transport
	outboxLen    = 1024             // messages waiting for a slow reader
	kernelBuffer = 128 * 1024       // bytes on their way to him
	writeTimeout = 5 * time.Second  // for one message
	readTimeout  = 10 * time.Second // from a message's first byte to its last
	strangerIdle = 60 * time.Second // silence of a peer that never authenticated
)

var (
	errFlowGone  = errors.New("sip: connection is gone")
	errFlowSlow  = errors.New("sip: the far side reads too slowly")
	errTooLarge  = errors.New("sip: message larger than 65535 bytes")
	errNoNetwork = errors.New("sip: no listener of this transport and address family in the network")
)

// flow is where messages come from and go to: a UDP association, or a
// connection. It implements sipgo's Connection. Writing never blocks.
type flow struct {
	s         *Server
	net       *network
	transport Transport
	local     netip.AddrPort // of the socket
	remote    netip.AddrPort
	token     string
	dialled   bool // by us

	udp  *udpListener // UDP only
	out  chan []byte  // connections only
	gone chan struct{}
	once sync.Once
	stop func() // ends the connection
	// reset makes stop throw away what was not sent; nil where it cannot.
	reset func()

	trusted atomic.Bool // something authenticated came over it

	mu    sync.Mutex
	owner owner // who registered over it
}

// owner is who a connection belongs to.
type owner struct{ user, instance string }

func (f *flow) setOwner(o owner) {
	f.mu.Lock()
	f.owner = o
	f.mu.Unlock()
	f.trusted.Store(true)
}

func (f *flow) getOwner() owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owner
}

// alive tells whether the flow can be written to. UDP always can.
func (f *flow) alive() bool {
	if f == nil {
		return false
	}
	if f.udp != nil {
		return true
	}
	select {
	case <-f.gone:
		return false
	default:
		return true
	}
}

// lost is closed when the connection ends; nil, so never, for UDP.
func (f *flow) lost() <-chan struct{} { return f.gone }

// send queues one message.
func (f *flow) send(b []byte) error {
	if len(b) > maxMessage {
		return errTooLarge
	}
	if f.udp != nil {
		_, err := f.udp.conn.WriteToUDPAddrPort(b, f.remote)
		return err
	}
	select {
	case <-f.gone:
		return errFlowGone
	default:
	}
	select {
	case f.out <- b:
		return nil
	default:
		f.abort()
		return errFlowSlow
	}
}

// abort ends a connection whose far side does not read: what it never took is
// thrown away, and does not stay in the kernel's buffers.
func (f *flow) abort() {
	if f.reset != nil {
		f.reset()
	}
	f.end()
}

// end closes a connection. It may be called often and by anybody.
func (f *flow) end() {
	if f.udp != nil {
		return
	}
	f.once.Do(func() {
		close(f.gone)
		f.stop()
	})
}

// writer drains the outbox. write has to have a deadline.
func (f *flow) writer(write func([]byte) error) {
	defer f.end()
	for {
		select {
		case <-f.gone:
			return
		case b := <-f.out:
			if err := write(b); err != nil {
				f.abort()
				return
			}
		}
	}
}

// LocalAddr implements sipgo's Connection.
func (f *flow) LocalAddr() net.Addr {
	if f.transport == UDP {
		return net.UDPAddrFromAddrPort(f.local)
	}
	return net.TCPAddrFromAddrPort(f.local)
}

// WriteMsg implements sipgo's Connection.
func (f *flow) WriteMsg(msg gosip.Message) error {
	var b bytes.Buffer
	msg.StringWrite(&b)
	return f.send(b.Bytes())
}

// Ref, TryClose and Close implement sipgo's Connection. A flow lives as long as
// its connection does, not as long as its transactions.
func (f *flow) Ref(int) int            { return 1 }
func (f *flow) TryClose() (int, error) { return 1, nil }
func (f *flow) Close() error           { return nil }

// sentBy is what stands in Via and Contact of what we send on this flow.
func (f *flow) sentBy() (host string, port uint16) {
	a := f.local.Addr()
	for _, x := range f.net.advertise {
		if x.Is4() == f.remote.Addr().Is4() {
			a = x
		}
	}
	if a.IsUnspecified() {
		a = localFor(f.remote)
	}
	port = f.local.Port()
	if f.dialled {
		// The far side connects to where we listen, not to where we dialled from.
		if p := f.net.port(f.transport, a.Is4()); p != 0 {
			port = p
		}
	}
	return a.Unmap().String(), port
}

// localFor is the address the route to remote goes out by. No packet is sent.
func localFor(remote netip.AddrPort) netip.Addr {
	c, err := net.Dial("udp", remote.String())
	if err != nil {
		return netip.IPv6Loopback()
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
