package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/netdev.h: the generic netlink family "netdev" of 6.3 and later.
const (
	netdevFamily             = "netdev"
	netdevCmdDevGet          = 1
	netdevAttrIfindex        = 1
	netdevAttrXDP            = 3
	xdpBasic          uint64 = 1 << 0
	xdpRedirect       uint64 = 1 << 1
	xdpTransmitTarget uint64 = 1 << 2
)

// xdpFeatures tells what the driver of an interface says of XDP. known is false
// on kernels that do not tell.
func xdpFeatures(ifindex int) (features uint64, known bool) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, false
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(genericHeader{netdevCmdDevGet, 1})
	request.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(ifindex))))
	messages, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, false
		}
		for _, a := range attrs {
			if a.Attr.Type&nl.NLA_TYPE_MASK == netdevAttrXDP && len(a.Value) >= 8 {
				return binary.NativeEndian.Uint64(a.Value), true
			}
		}
	}
	return 0, false
}

// genericHeader is struct genlmsghdr; the library's own leaves two octets of it
// to chance, which the kernel refuses.
type genericHeader [nl.SizeofGenlmsg]byte

func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }

// attachedXDP returns the id of the XDP program on the link, 0 for none. Asked
// after adoption, it is somebody else's.
func attachedXDP(link netlink.Link) uint32 {
	x := link.Attrs().Xdp
	if x == nil || !x.Attached {
		return 0
	}
	return x.ProgId
}

// nativeObstacle tells why native XDP would not forward on this link, though it
// may attach; "" when nothing is known against it.
func nativeObstacle(link netlink.Link) string {
	features, known := xdpFeatures(link.Attrs().Index)
	switch {
	case known && features&xdpBasic == 0:
		return "the driver has no native XDP"
	case link.Type() != "veth":
		return ""
	case !known:
		return "whether the peer of this veth takes what native XDP sends is not known on this kernel"
	case features&xdpTransmitTarget == 0:
		// veth drops frames sent by XDP when its peer runs no NAPI.
		return "the peer of this veth has neither an XDP program nor GRO, it would lose what native XDP sends"
	}
	return ""
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Sprintf("unknown (%v)", err)
	}
	return unix.ByteSliceToString(u.Release[:])
}

// runsAlone tells whether BPF_PROG_TEST_RUN keeps packets of its processor out
// while a program runs: Linux 6.11 and later.
func runsAlone() bool {
	v, err := features.LinuxVersionCode()
	return err == nil && v >= 6<<16|11<<8
}
