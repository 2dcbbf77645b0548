package dataplane

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize = 32
	// packetMax is the longest datagram taken: more than any link the gateway
	// is meant for carries unfragmented.
	packetMax = 2000
	packetBuf = 2048 // leaves room behind the packet for a tag
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// messages is what one recvmmsg or sendmmsg call needs.
type messages struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6 // large enough for either family
}

// batch is what one wake-up of a socket's reader works with. x/net's ReadBatch
// makes two objects per packet for the address, so the calls are made here.
// Batches are pooled: an idle socket holds none.
type batch struct {
	now  time.Time
	n    int
	in   messages
	bufs [batchSize][packetBuf]byte

	out   [batchSize]outgoing
	nout  int
	send  messages
	nsend int
	sent  int
	flush func(fd uintptr) bool
}

// outgoing is a packet that leaves when the batch is flushed. It stays in the
// buffer it was received in.
type outgoing struct {
	via    *socket
	to     netip.AddrPort
	packet []byte
}

var batches = sync.Pool{New: func() any {
	b := new(batch)
	for i := range batchSize {
		b.in.iovs[i].Base = &b.bufs[i][0]
		b.in.iovs[i].SetLen(packetMax)
		for _, m := range [...]*messages{&b.in, &b.send} {
			m.hdrs[i].hdr.Iov = &m.iovs[i]
			m.hdrs[i].hdr.SetIovlen(1)
			m.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&m.names[i]))
		}
	}
	b.flush = b.sendmmsg
	return b
}}

// recvmmsg fills the batch from fd and reports whether anything came, or an
// error other than EAGAIN did.
func (b *batch) recvmmsg(fd uintptr) (bool, error) {
	for i := range batchSize {
		b.in.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in.hdrs[0])), batchSize, 0, 0, 0)
		switch errno {
		case 0:
			b.n = int(n)
			return true, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return false, nil
		default:
			return true, errno
		}
	}
}

// packet returns the i-th received packet, nil when it was too long.
func (b *batch) packet(i int) []byte {
	h := &b.in.hdrs[i]
	if h.hdr.Flags&unix.MSG_TRUNC != 0 || h.n > packetMax {
		return nil
	}
	return b.bufs[i][:h.n]
}

// from returns where the i-th packet came from.
func (b *batch) from(i int, s *socket) netip.AddrPort {
	name := &b.in.names[i]
	port := name.Port // both families have it at the same place
	p := (*[2]byte)(unsafe.Pointer(&port))
	hostPort := uint16(p[0])<<8 | uint16(p[1])
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), hostPort)
	}
	addr := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 && addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(s.zone(name.Scope_id))
	}
	return netip.AddrPortFrom(addr, hostPort)
}

// emit queues a packet for the end of the batch.
func (b *batch) emit(via *socket, to netip.AddrPort, packet []byte) {
	if b.nout == batchSize {
		b.deliver()
	}
	b.out[b.nout] = outgoing{via: via, to: to, packet: packet}
	b.nout++
}

// deliver sends what was emitted, one sendmmsg per socket in the order of their
// first packets. A packet the system refuses is lost, as on the wire.
func (b *batch) deliver() {
	for i := range b.nout {
		via := b.out[i].via
		if via == nil {
			continue
		}
		b.nsend = 0
		for j := i; j < b.nout; j++ {
			o := &b.out[j]
			if o.via != via {
				continue
			}
			b.put(o, via)
			o.via = nil
		}
		b.sent = 0
		for b.sent < b.nsend {
			if err := via.raw.Write(b.flush); err != nil {
				break
			}
		}
	}
	clear(b.out[:b.nout])
	b.nout = 0
}

func (b *batch) put(o *outgoing, via *socket) {
	m, i := &b.send, b.nsend
	m.iovs[i].Base = &o.packet[0]
	m.iovs[i].SetLen(len(o.packet))
	port := o.to.Port()
	var be uint16
	p := (*[2]byte)(unsafe.Pointer(&be))
	p[0], p[1] = byte(port>>8), byte(port)
	if via.v6 {
		m.names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: be, Addr: o.to.Addr().As16(), Scope_id: via.scope(o.to.Addr())}
		m.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	} else {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.names[i]))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: be, Addr: o.to.Addr().As4()}
		m.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet4
	}
	b.nsend++
}

// sendmmsg is batch.flush. A full socket buffer drops what is left: late media
// is worth less than the packets behind it.
func (b *batch) sendmmsg(fd uintptr) bool {
	for b.sent < b.nsend {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&b.send.hdrs[b.sent])), uintptr(b.nsend-b.sent), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			b.sent = b.nsend
		case errno != 0 || n == 0:
			b.sent++ // this one is refused; go on with the next
		default:
			b.sent += int(n)
		}
	}
	return true
}

// socket is one bound UDP socket with its reader.
type socket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	v6    bool
	done  chan struct{} // closed when the reader has ended

	zones sync.Map // scope id -> zone name, for link-local peers
}

// receiver takes what a socket receives. packet is valid until the batch is
// delivered.
type receiver func(b *batch, packet []byte, from netip.AddrPort)

// listen binds addr. Serve must follow.
func listen(addr netip.AddrPort) (*socket, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return &socket{
		conn: conn, raw: raw, v6: addr.Addr().Is6(), done: make(chan struct{}),
		local: netip.AddrPortFrom(addr.Addr(), bound.Port()),
	}, nil
}

// serve reads until the socket is closed.
func (s *socket) serve(receive receiver) {
	defer close(s.done)
	var b *batch
	var failed error
	read := func(fd uintptr) bool {
		b = batches.Get().(*batch)
		ok, err := b.recvmmsg(fd)
		if !ok {
			batches.Put(b)
		}
		failed = err
		return ok
	}
	for {
		if err := s.raw.Read(read); err != nil {
			return
		}
		if failed == nil {
			b.now = time.Now()
			for i := range b.n {
				if packet := b.packet(i); len(packet) > 0 {
					receive(b, packet, b.from(i, s))
				}
			}
			b.deliver()
		}
		batches.Put(b)
	}
}

// write sends one packet now.
func (s *socket) write(packet []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(packet, to)
	return err
}

// close closes the socket and waits for the reader, which must not be the caller.
func (s *socket) close() {
	s.conn.Close()
	<-s.done
}

func (s *socket) zone(scope uint32) string {
	if z, ok := s.zones.Load(scope); ok {
		return z.(string)
	}
	name := strconv.Itoa(int(scope))
	if i, err := net.InterfaceByIndex(int(scope)); err == nil {
		name = i.Name
	}
	s.zones.Store(scope, name)
	return name
}

func (s *socket) scope(a netip.Addr) uint32 {
	z := a.Zone()
	if z == "" {
		return 0
	}
	if n, err := strconv.ParseUint(z, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(z); err == nil {
		return uint32(i.Index)
	}
	return 0
}
