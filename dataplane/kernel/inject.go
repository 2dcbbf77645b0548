package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/dataplane"
)

// Answers of the programs, from linux/bpf.h and linux/pkt_cls.h.
const (
	xdpDropped    = 1
	xdpTransmit   = 3
	xdpRedirected = 4
	tcRedirected  = 7
)

const (
	ethernetHeader = 14
	// injectMost is what BPF_PROG_TEST_RUN takes in one page with head room
	// and tail room, rounded down.
	injectMost = 3072
	// injectRoom is what a packet may grow: VLAN tag and authentication tag.
	injectRoom = 64
)

// xdpContext is struct xdp_md as BPF_PROG_TEST_RUN reads it.
type xdpContext struct {
	Data, DataEnd, DataMeta                uint32
	IngressIfindex, RxQueue, EgressIfindex uint32
}

// skbContext is struct __sk_buff: only the interfaces may be set.
type skbContext struct {
	_              [9]uint32
	IngressIfindex uint32
	Ifindex        uint32
	_              [37]uint32
}

// Inject implements dataplane.Forwarder.
func (e *Engine) Inject(network string, packet []byte) (dataplane.Injected, error) {
	if !e.runsAlone {
		return dataplane.Injected{}, errInterruptible
	}
	at, ok := e.networks[network]
	if !ok {
		return dataplane.Injected{}, fmt.Errorf("inject: network %q is not served by the kernel", network)
	}
	if len(packet) < 1 || len(packet) > injectMost {
		return dataplane.Injected{}, fmt.Errorf("inject: a packet of %d octets, at most %d", len(packet), injectMost)
	}
	frame := make([]byte, ethernetHeader, ethernetHeader+len(packet))
	proto := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	binary.BigEndian.PutUint16(frame[12:], proto)
	frame = append(frame, packet...)
	out := make([]byte, len(frame)+injectRoom)

	if at.xdp != nil {
		verdict, made, err := runOn(e.objects.xdp, frame, out, xdpContext{DataEnd: uint32(len(frame)), IngressIfindex: uint32(at.report.Index)})
		if err != nil {
			return dataplane.Injected{}, fmt.Errorf("inject: %w", err)
		}
		switch verdict {
		case xdpTransmit, xdpRedirected:
			return datagram(made)
		case xdpDropped: // tc would never see it
			return dataplane.Injected{}, nil
		}
	}
	verdict, made, err := runOn(e.objects.tc, frame, out, skbContext{Ifindex: uint32(at.report.Index)})
	if err != nil {
		return dataplane.Injected{}, fmt.Errorf("inject: %w", err)
	}
	if verdict != tcRedirected {
		return dataplane.Injected{}, nil
	}
	return datagram(made)
}

// runOn runs a program once and returns its verdict and what it made of the frame.
func runOn(p *ebpf.Program, frame, out []byte, context any) (verdict uint32, made []byte, err error) {
	run := ebpf.RunOptions{Data: frame, DataOut: out, Context: context, Repeat: 1}
	verdict, err = p.Run(&run)
	return verdict, run.DataOut, err
}

// errInterruptible: before Linux 6.11 a packet of the same processor may interrupt
// BPF_PROG_TEST_RUN, and both would work in one per-CPU scratch, so that one could
// leave under the other's keystream. What only user space sees whole is dropped
// there, and counted.
var errInterruptible = errors.New("inject: this kernel may interrupt the run of a program; 6.11 and later may not")

var errNotUDP = errors.New("inject: what came out is not UDP over IP")

// datagram takes addresses and payload from a frame that the programs have made.
func datagram(frame []byte) (d dataplane.Injected, err error) {
	if len(frame) < ethernetHeader {
		return d, errNotUDP
	}
	proto, rest := binary.BigEndian.Uint16(frame[12:]), frame[ethernetHeader:]
	if proto == unix.ETH_P_8021Q && len(rest) >= 4 {
		proto, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	var from, to netip.Addr
	switch {
	case proto == unix.ETH_P_IP && len(rest) >= 20 && rest[0] == 0x45 && rest[9] == unix.IPPROTO_UDP:
		from, to = netip.AddrFrom4([4]byte(rest[12:16])), netip.AddrFrom4([4]byte(rest[16:20]))
		rest = rest[20:]
	case proto == unix.ETH_P_IPV6 && len(rest) >= 40 && rest[6] == unix.IPPROTO_UDP:
		from, to = netip.AddrFrom16([16]byte(rest[8:24])), netip.AddrFrom16([16]byte(rest[24:40]))
		rest = rest[40:]
	default:
		return d, errNotUDP
	}
	if len(rest) < 8 {
		return d, errNotUDP
	}
	length := int(binary.BigEndian.Uint16(rest[4:]))
	if length < 8 || length > len(rest) {
		return d, errNotUDP
	}
	return dataplane.Injected{
		Local:   netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest[0:])),
		Remote:  netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:])),
		Payload: rest[8:length],
	}, nil
}
