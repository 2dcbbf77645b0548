package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/dataplane"
)

// Attach says how to take an interface's packets.
type Attach string

const (
	AttachAuto    Attach = ""            // native XDP, else generic XDP, else tc
	AttachNative  Attach = "xdp-native"  // native XDP or not at all
	AttachGeneric Attach = "xdp-generic" // generic XDP or not at all
	AttachTC      Attach = "tc"          // tc ingress only
)

const (
	filterName   = "sluice"
	filterPrio   = 0x51 // arbitrary, ours among clsact filters
	filterHandle = 1
)

// attachment is one interface with our programs on it. Its links stay in the
// kernel when the process ends: they are pinned.
type attachment struct {
	report InterfaceReport
	tc     link.Link // nil when the clsact filter is used
	xdp    link.Link // nil when tc alone
	vrf    bool      // its routes are not the main table's
	// routeFrom is the interface that routes are asked from, by family (IPv4
	// first): 0 is the one a packet came in by.
	routeFrom [2]uint32
}

func (a *attachment) close() {
	for _, l := range []link.Link{a.tc, a.xdp} {
		if l != nil {
			l.Close()
		}
	}
}

// attacher puts the programs of one layout on interfaces.
type attacher struct {
	objects *objects
	dir     string   // of the layout
	old     []string // layout directories whose links are taken over
	tcx     bool
}

// haveTCX tells whether the kernel has tcx links (6.6).
func haveTCX(program *ebpf.Program) bool {
	// An interface index that cannot exist: ENODEV where tcx is known.
	l, err := link.AttachTCX(link.TCXOptions{Interface: 0x7fffffff, Program: program, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
		return true
	}
	return errors.Is(err, unix.ENODEV)
}

// attach serves the interface by the best way there is, or says why not.
func (a *attacher) attach(l netlink.Link, want Attach) (at *attachment) {
	index := l.Attrs().Index
	r := InterfaceReport{Name: l.Attrs().Name, Index: index, Driver: l.Type(), Path: PathUser}
	at = &attachment{}
	fail := func(err error) *attachment {
		at.close()
		r.Path, r.Reason, r.Why = PathUser, dataplane.ReasonInstallFailed, err.Error()
		return &attachment{report: r}
	}
	// tc comes first: what XDP cannot finish, it leaves to tc.
	if err := a.attachTC(at, l); err != nil {
		return fail(err)
	}
	r.Path = PathTC
	at.report = r
	if want == AttachTC {
		// XDP of an earlier run with another setting is in the way.
		if err := a.dropLink(a.linkPath("xdp", index)); err != nil {
			return fail(err)
		}
		return at
	}
	if adopted, mode, err := a.adoptXDP(at, l); err != nil {
		return fail(err)
	} else if adopted && (want == AttachAuto || mode == want) {
		at.report.Path = "kernel:" + string(mode)
		return at
	} else if adopted {
		at.xdp.Close()
		at.xdp = nil
		if err := a.dropLink(a.linkPath("xdp", index)); err != nil {
			return fail(err)
		}
	}
	if id := attachedXDP(l); id != 0 {
		at.report.Why = fmt.Sprintf("XDP program %d of somebody else is on it", id)
		return at
	}
	var why []string
	if want == AttachAuto || want == AttachNative {
		obstacle := ""
		if want == AttachAuto {
			obstacle = nativeObstacle(l)
		}
		if obstacle == "" {
			err := a.attachXDP(at, index, link.XDPDriverMode)
			if err == nil {
				at.report.Path = PathNative
				return at
			}
			obstacle = fmt.Sprintf("native XDP: %v", err)
		}
		why = append(why, obstacle)
	}
	if want == AttachAuto || want == AttachGeneric {
		err := a.attachXDP(at, index, link.XDPGenericMode)
		if err == nil {
			at.report.Path, at.report.Why = PathGeneric, strings.Join(why, "; ")
			return at
		}
		why = append(why, fmt.Sprintf("generic XDP: %v", err))
	}
	at.report.Why = strings.Join(why, "; ")
	return at
}

func (a *attacher) linkPath(kind string, index int) string {
	return filepath.Join(a.dir, linkPrefix+kind+"_"+strconv.Itoa(index))
}

// adopt opens the link of an earlier run, from this layout or, with its program
// replaced on the spot, from another. It returns nil when there is none, or the
// interface it was on has gone.
func (a *attacher) adopt(kind string, index int, program *ebpf.Program) (link.Link, error) {
	path := a.linkPath(kind, index)
	l, err := loadLink(path, index)
	if err != nil || l != nil {
		return l, err
	}
	for _, dir := range a.old {
		l, err := loadLink(filepath.Join(dir, filepath.Base(path)), index)
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		if err := l.Update(program); err != nil {
			l.Close()
			return nil, fmt.Errorf("replace the program of interface %d: %w", index, err)
		}
		if err := l.Pin(path); err != nil {
			l.Close()
			return nil, fmt.Errorf("move the pin of interface %d: %w", index, err)
		}
		return l, nil
	}
	return nil, nil
}

// loadLink opens a pinned link. A link whose interface is gone is removed.
func loadLink(path string, index int) (link.Link, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link of interface %d: %w", index, err)
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("read the pinned link of interface %d: %w", index, err)
	}
	var at uint32
	if x := info.XDP(); x != nil {
		at = x.Ifindex
	} else if t := info.TCX(); t != nil {
		at = t.Ifindex
	}
	if at == uint32(index) {
		return l, nil
	}
	defer l.Close()
	if err := l.Unpin(); err != nil {
		return nil, fmt.Errorf("remove the link of an interface that is gone: %w", err)
	}
	return nil, nil
}

func (a *attacher) dropLink(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a link that is not wanted any more: %w", err)
	}
	return nil
}

func (a *attacher) adoptXDP(at *attachment, l netlink.Link) (bool, Attach, error) {
	x, err := a.adopt("xdp", l.Attrs().Index, a.objects.xdp)
	if err != nil || x == nil {
		return false, "", err
	}
	at.xdp = x
	mode := AttachNative
	if s := l.Attrs().Xdp; s != nil && s.AttachMode == nl.XDP_ATTACHED_SKB {
		mode = AttachGeneric
	}
	return true, mode, nil
}

func (a *attacher) attachXDP(at *attachment, index int, flags link.XDPAttachFlags) error {
	x, err := link.AttachXDP(link.XDPOptions{Program: a.objects.xdp, Interface: index, Flags: flags})
	if err != nil {
		return err
	}
	if err := x.Pin(a.linkPath("xdp", index)); err != nil {
		x.Close()
		return fmt.Errorf("pin: %w", err)
	}
	at.xdp = x
	return nil
}

func (a *attacher) attachTC(at *attachment, l netlink.Link) error {
	index := l.Attrs().Index
	if !a.tcx {
		return a.attachFilter(l)
	}
	t, err := a.adopt("tc", index, a.objects.tc)
	if err != nil {
		return err
	}
	if t == nil {
		t, err = link.AttachTCX(link.TCXOptions{
			Interface: index, Program: a.objects.tc, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
		if err != nil {
			return fmt.Errorf("attach tc to %s: %w", l.Attrs().Name, err)
		}
		if err := t.Pin(a.linkPath("tc", index)); err != nil {
			t.Close()
			return fmt.Errorf("pin the tc link of %s: %w", l.Attrs().Name, err)
		}
	}
	at.tc = t
	return nil
}

// attachFilter puts the tc program into clsact, for kernels without tcx. A
// filter of ours is replaced in place, unless it holds this very program.
func (a *attacher) attachFilter(l netlink.Link) error {
	attrs, name := l.Attrs(), l.Attrs().Name
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: attrs.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s: %w", name, err)
	}
	info, err := a.objects.tc.Info()
	if err != nil {
		return fmt.Errorf("read the id of the tc program: %w", err)
	}
	id, _ := info.ID()
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return fmt.Errorf("list the filters of %s: %w", name, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName && b.Id == int(id) {
			return nil
		}
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: attrs.Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: filterPrio,
		},
		Fd: a.objects.tc.FD(), Name: filterName, DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach tc to %s: %w", name, err)
	}
	return nil
}
