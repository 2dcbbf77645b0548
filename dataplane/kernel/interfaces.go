package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
)

// target is an interface to be served and the networks that use it.
type target struct {
	link     netlink.Link
	attach   Attach
	networks []string
}

// served finds the interfaces of the networks and keeps those that are listed.
// A VLAN interface is served on the device below it.
func (e *Engine) served(cfg Config) ([]target, error) {
	links, err := e.routes.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	byName := make(map[string]netlink.Link)
	byIndex := make(map[int]netlink.Link)
	for _, l := range links {
		byName[l.Attrs().Name] = l
		byIndex[l.Attrs().Index] = l
	}
	listed := make(map[string]Attach)
	for _, i := range cfg.Interfaces {
		switch i.Attach {
		case AttachAuto, AttachNative, AttachGeneric, AttachTC:
		default:
			return nil, fmt.Errorf("interface %s: %q is not a way to attach: use xdp-native, xdp-generic or tc", i.Name, i.Attach)
		}
		if byName[i.Name] == nil {
			return nil, fmt.Errorf("interface %s does not exist: correct the list of interfaces", i.Name)
		}
		listed[i.Name] = i.Attach
	}
	var targets []target
	seen := make(map[int]int)
	for _, n := range cfg.Networks {
		l, err := e.networkLink(n, byName, byIndex)
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		attach, ok := listed[l.Attrs().Name]
		if cfg.Interfaces == nil {
			ok = l.Attrs().Flags&net.FlagLoopback == 0
		}
		if lower, isVLAN := below(l, byIndex); isVLAN {
			if a, listedBelow := listed[lower.Attrs().Name]; listedBelow {
				attach, ok = a, true
			}
			l = lower
		}
		if !ok {
			e.report.Interfaces = append(e.report.Interfaces, InterfaceReport{
				Name: l.Attrs().Name, Index: l.Attrs().Index, Driver: l.Type(),
				Path: PathUser, Reason: dataplane.ReasonInterface, Why: "not listed",
			})
			continue
		}
		at, ok := seen[l.Attrs().Index]
		if !ok {
			at = len(targets)
			seen[l.Attrs().Index] = at
			targets = append(targets, target{link: l, attach: attach})
		}
		targets[at].networks = append(targets[at].networks, n.Name)
	}
	return targets, nil
}

// below returns the device that carries the frames of a VLAN interface.
func below(l netlink.Link, byIndex map[int]netlink.Link) (netlink.Link, bool) {
	if _, ok := l.(*netlink.Vlan); !ok {
		return nil, false
	}
	lower, ok := byIndex[l.Attrs().ParentIndex]
	return lower, ok
}

// networkLink finds the interface of a network by its name, else by its
// addresses. Nil means that it has none: unspecified addresses.
func (e *Engine) networkLink(n dataplane.Network, byName map[string]netlink.Link, byIndex map[int]netlink.Link) (netlink.Link, error) {
	if n.Interface != "" {
		l, ok := byName[n.Interface]
		if !ok {
			return nil, fmt.Errorf("network %s: interface %s does not exist", n.Name, n.Interface)
		}
		return l, nil
	}
	addresses, err := e.routes.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, want := range n.Addresses {
		for _, a := range addresses {
			have, ok := netip.AddrFromSlice(a.IP)
			if ok && have.Unmap() == want.Unmap().WithZone("") {
				return byIndex[a.LinkIndex], nil
			}
		}
	}
	return nil, nil
}

// wayOut is how packets to a far address leave, by the routing table now.
type wayOut struct {
	ifindex, device uint32
	vlan            uint16
	local           bool // the far address is this machine's own
	loopback        bool
}

func (e *Engine) wayOut(from, to netip.AddrPort) (wayOut, error) {
	routes, err := e.routes.RouteGetWithOptions(to.Addr().AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.Addr().AsSlice()})
	if err != nil {
		return wayOut{}, fmt.Errorf("find the route to %s: %w", to.Addr(), err)
	}
	if len(routes) == 0 {
		return wayOut{}, fmt.Errorf("no route to %s", to.Addr())
	}
	l, err := e.routes.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return wayOut{}, fmt.Errorf("find the interface to %s: %w", to.Addr(), err)
	}
	out := wayOut{
		ifindex: uint32(l.Attrs().Index), device: uint32(l.Attrs().Index),
		local:    routes[0].Type == unix.RTN_LOCAL,
		loopback: l.Attrs().Flags&net.FlagLoopback != 0,
	}
	if v, ok := l.(*netlink.Vlan); ok {
		out.device, out.vlan = uint32(v.ParentIndex), uint16(v.VlanId)
	}
	return out, nil
}

// device is how XDP frames may leave by an interface.
type device struct {
	noXDP bool // not at all: tc sends
	noTX  bool // by redirect, not by XDP_TX
}

// describeInterfaces tells the programs how to send on what is not a plain
// device: VLAN interfaces, and devices whose driver, or whose other end, takes
// no XDP frames or not all. Generic XDP sends by the ordinary way and can use
// every device.
func (e *Engine) describeInterfaces() error {
	links, err := e.routes.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := make(map[int]netlink.Link)
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	native := slices.ContainsFunc(e.attachments, func(a *attachment) bool { return a.report.Path == PathNative })
	e.devices = make(map[uint32]device)
	for _, l := range links {
		index := uint32(l.Attrs().Index)
		entry := bpf.Interface{LinkIfindex: index}
		lower := l
		if v, ok := l.(*netlink.Vlan); ok {
			entry.LinkIfindex, entry.Vlan = uint32(v.ParentIndex), uint16(v.VlanId)
			if below := byIndex[v.ParentIndex]; below != nil {
				lower = below
			}
		}
		if native {
			// veth wakes the other end after XDP_TX only if that has a program.
			d := device{noXDP: !takesXDPFrames(entry.LinkIfindex), noTX: lower.Type() == "veth"}
			e.devices[entry.LinkIfindex] = d
			if d.noXDP {
				entry.Flags |= uint16(bpf.ControlSlcInterfaceFlagSLC_INTERFACE_NO_XDP_OUT)
			}
			if d.noTX {
				entry.Flags |= uint16(bpf.ControlSlcInterfaceFlagSLC_INTERFACE_NO_XDP_TX)
			}
		}
		if err := e.objects.maps.interfaces.Put(index, entry); err != nil {
			return fmt.Errorf("describe interface %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// takesXDPFrames tells whether frames can leave by native XDP on a device; a
// kernel that does not say (before 6.3) is taken to.
func takesXDPFrames(device uint32) bool {
	features, known := xdpFeatures(int(device))
	return !known || features&xdpTransmitTarget != 0
}
