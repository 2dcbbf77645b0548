package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// loopback is the interface index of lo in every network namespace.
const loopback = 1

// families are the parts of net. in sysctl, in the order of routeFrom.
var families = [2]string{"ipv4", "ipv6"}

// chooseRouting decides where the programs ask for routes from. The kernel
// answers bpf_fib_lookup only where it forwards, and a gateway should not have to
// be a router for it: where forwarding is off, routes are asked from lo, as for
// packets of this machine's own, and forwarding is turned on for lo alone. No
// packet that lo receives has anywhere else to go.
func (at *attachment) chooseRouting() {
	r := &at.report
	if at.xdp == nil {
		return
	}
	for i, family := range families {
		if on, err := forwarding(family, r.Name); err != nil || on {
			continue // without this family there is nothing to ask
		}
		err := fmt.Errorf("it belongs to a VRF")
		if !at.vrf {
			err = forwardLoopback(family)
		}
		if err == nil {
			at.routeFrom[i] = loopback
			continue
		}
		if r.Why != "" {
			r.Why += "; "
		}
		r.Why += fmt.Sprintf("net.%s.conf.%s.forwarding is 0 (%v): XDP finds no route and tc forwards", family, r.Name, err)
	}
}

func forwardingFile(family, name string) string {
	return filepath.Join("/proc/sys/net", family, "conf", name, "forwarding")
}

func forwarding(family, name string) (bool, error) {
	b, err := os.ReadFile(forwardingFile(family, name))
	return strings.TrimSpace(string(b)) != "0", err
}

func forwardLoopback(family string) error {
	if on, err := forwarding(family, "lo"); err != nil || on {
		return err
	}
	return os.WriteFile(forwardingFile(family, "lo"), []byte("1"), 0)
}

// inVRF tells whether a link is enslaved to a VRF.
func inVRF(l netlink.Link) bool {
	if l.Attrs().MasterIndex == 0 {
		return false
	}
	master, err := netlink.LinkByIndex(l.Attrs().MasterIndex)
	return err == nil && master.Type() == "vrf"
}
