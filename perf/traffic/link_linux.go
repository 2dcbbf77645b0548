package traffic

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many frames one system call moves.
const batch = 64

// Link sends and receives whole frames on one interface of the network namespace
// it was opened in. Send and Receive may each be used by one goroutine.
type Link struct {
	fd       int
	Hardware net.HardwareAddr
	tx       []message
	rx       []message
	rxFrames [][]byte
}

// message is struct mmsghdr.
type message struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// OpenLink opens the interface; it needs CAP_NET_RAW. receive says whether frames
// are wanted: a link that only sends takes none off the wire.
func OpenLink(name string, receive bool) (*Link, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	protocol := 0
	if receive {
		protocol = int(swap(unix.ETH_P_ALL))
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	l := &Link{fd: fd, Hardware: ifi.HardwareAddr}
	fail := func(what string, err error) (*Link, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("%s on %s: %w", what, name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(swap(unix.ETH_P_ALL)) * b2u(receive), Ifindex: ifi.Index}); err != nil {
		return fail("bind", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fail("bypass of the queue", err)
	}
	if receive {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fail("ignoring outgoing frames", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return fail("receive buffer", err)
		}
		l.rx = make([]message, batch)
		iov := make([]unix.Iovec, batch)
		for i := range l.rx {
			b := make([]byte, 2048)
			l.rxFrames = append(l.rxFrames, b)
			iov[i].Base, iov[i].Len = &b[0], uint64(len(b))
			l.rx[i].Iov, l.rx[i].Iovlen = &iov[i], 1
		}
		timeout := unix.Timeval{Usec: 50_000}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return fail("receive timeout", err)
		}
	}
	l.tx = make([]message, batch)
	for i := range l.tx {
		l.tx[i].Iov, l.tx[i].Iovlen = new(unix.Iovec), 1
	}
	return l, nil
}

// Send sends the frames in order, in as few system calls as possible, and
// returns how many the interface took. A full queue is waited for.
func (l *Link) Send(frames [][]byte) (int, error) {
	done := 0
	for done < len(frames) {
		part := frames[done:min(done+batch, len(frames))]
		for i, f := range part {
			l.tx[i].Iov.Base, l.tx[i].Iov.Len = &f[0], uint64(len(f))
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.tx[0])), uintptr(len(part)), 0, 0, 0)
		switch {
		case errno == 0:
			done += int(n)
		case errors.Is(errno, unix.EAGAIN), errors.Is(errno, unix.ENOBUFS), errors.Is(errno, unix.EINTR):
			time.Sleep(10 * time.Microsecond)
		default:
			return done, fmt.Errorf("send: %w", errno)
		}
	}
	return done, nil
}

// Receive hands each frame of one batch to use; the octets are use's until it
// returns. It returns after 50 ms without any, with the number received.
func (l *Link) Receive(use func(frame []byte)) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.rx[0])), batch, unix.MSG_WAITFORONE, 0, 0)
	switch {
	case errors.Is(errno, unix.EAGAIN), errors.Is(errno, unix.EINTR):
		return 0, nil
	case errno != 0:
		return 0, fmt.Errorf("receive: %w", errno)
	}
	for i := range int(n) {
		use(l.rxFrames[i][:l.rx[i].n])
	}
	return int(n), nil
}

// Lost returns how many frames the socket had no room for since the last call:
// the checker's fault, not the gateway's.
func (l *Link) Lost() (uint32, error) {
	s, err := unix.GetsockoptTpacketStats(l.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, os.NewSyscallError("packet statistics", err)
	}
	return s.Drops, nil
}

// Close ends the link.
func (l *Link) Close() error { return unix.Close(l.fd) }

func swap(v int) uint16 { return uint16(v)<<8 | uint16(v)>>8 }

func b2u(b bool) uint16 {
	if b {
		return 1
	}
	return 0
}
