package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// lastGrave is when everything removed so far is due.
func (e *Engine) lastGrave() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.graves.list); n > 0 {
		return e.graves.list[n-1].due
	}
	return time.Now()
}

// wiped tells where key material or keystream is left though nobody uses it.
func wiped(e *Engine) error {
	var errs []error
	for slot := range e.objects.maps.sessions.MaxEntries() {
		if *e.keys.at(slot) != (bpf.Session{}) {
			errs = append(errs, fmt.Errorf("keys are left in session slot %d", slot))
		}
	}
	for name, c := range map[string]*ringClass{"small": e.rings.small, "large": e.rings.large} {
		for i, b := range c.memory {
			if b != 0 {
				errs = append(errs, fmt.Errorf("keystream is left in %s slot %d", name, i/c.slotSize()))
				break
			}
		}
	}
	for _, m := range []*ebpf.Map{e.objects.maps.streams, e.objects.maps.bindings} {
		key := make([]byte, m.KeySize())
		if err := m.NextKey(nil, &key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("%s is not empty: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// Media goes on while the daemon is stopped, and after kill -9; the next daemon
// finds the streams, keeps them, reaps them when they have been silent, and
// wipes their keys.
func TestDaemonStoppedAndKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	d, orphans := l.startDaemon(t, "")
	if orphans != "0" {
		t.Fatalf("the first daemon found %s orphans", orphans)
	}
	d.ask(t, "install 99")
	next := uint64(100)
	pace := func(n uint64) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range n {
			<-tick.C
			c.exchange(t, next, next+1, 160)
			next++
		}
	}
	pace(10)
	d.signal(t, unix.SIGSTOP)
	pace(250) // 5 s
	d.signal(t, unix.SIGCONT)
	pace(10)
	d.kill()
	pace(20)

	e := l.engine(t, AttachNative)
	r := e.Report()
	if !r.Adopted || r.Replaced || r.Orphans != 2 {
		t.Fatalf("the next daemon says: %+v", r)
	}
	before := verdicts(t, e)
	pace(20)
	if after := verdicts(t, e); after["keystream_hit"]-before["keystream_hit"] < 39 {
		t.Errorf("the next daemon does not fill the orphans' keystream: %v, then %v", before, after)
	}
	list, err := e.Orphans()
	must(t, err)
	if len(list) != 2 || list[0].Packets+list[1].Packets != 2*(next-100) || list[0].Idle > time.Second {
		t.Errorf("orphans are %+v", list)
	}
	now, err := monotonic()
	must(t, err)
	must(t, e.reap(now+orphanIdle-time.Second))
	pace(1) // too early: it goes on
	must(t, e.reap(now+orphanIdle+time.Second))
	must(t, e.bury(e.lastGrave()))
	must(t, wiped(e))
	if list, err := e.Orphans(); err != nil || len(list) != 0 {
		t.Errorf("after reaping: %+v, %v", list, err)
	}
	silent(t, c.atIn)
	silent(t, c.atOut)
	c.send(t, next, 160)
	receive(t, c.atIn) // nobody's now: it goes up
	receive(t, c.atOut)
}

// Installing needs nothing that the start has not opened.
func TestDropCapabilities(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	d, _ := l.startDaemon(t, pureGo(t))
	d.ask(t, "drop")
	d.ask(t, "install 99")
	c.exchange(t, 100, 120, 160)
	d.ask(t, "update")
	c.exchange(t, 120, 140, 160)
	if got := d.ask(t, "inject"); got != "188" {
		t.Errorf("an injected packet became %s octets, want 12+160+16", got)
	}
	if got := d.ask(t, "release"); got != "500" {
		t.Errorf("highest index after release is %s, want the injected 500", got)
	}
	if got := d.ask(t, "remove"); got != "41" {
		t.Errorf("the kernel forwarded %s packets, want 41", got)
	}
	d.ask(t, "wiped")
}

// A release cuts: what the kernel has taken stays below the highest index it
// returns, and everything above comes up.
func TestRelease(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 1000)
	// At or below the cut: the user engine's.
	c.send(t, 1000, 160)
	receive(t, c.atIn)
	receive(t, c.atOut)
	c.exchange(t, 1001, 1021, 160)
	for _, id := range []dataplane.FlowID{1, 2} {
		s, err := e.Release(id)
		must(t, err)
		if s.Window.Highest() != 1020 || s.Packets != 20 {
			t.Errorf("released with %+v", s)
		}
	}
	c.send(t, 1022, 160)
	receive(t, c.atIn)
	receive(t, c.atOut)

	// Back to the kernel under a new flow, before the old one is removed.
	c.down.ID, c.up.ID = 3, 4
	c.install(t, e, 1030)
	c.exchange(t, 1031, 1041, 160)
	for _, id := range []dataplane.FlowID{1, 2} {
		_, err := e.Remove(id)
		must(t, err)
	}
	c.exchange(t, 1041, 1051, 160)
	for _, id := range []dataplane.FlowID{3, 4} {
		s, err := e.Remove(id)
		must(t, err)
		if s.Packets != 20 || s.Window.Highest() != 1050 {
			t.Errorf("removed with %+v", s)
		}
	}
	must(t, e.bury(e.lastGrave()))
	must(t, wiped(e))
}

// A release before the first packet gives everything back.
func TestReleaseUntouched(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachGeneric)
	c := newCall(t, l, true, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 1000)
	s, err := e.Release(1)
	must(t, err)
	if s.Window.Highest() != 1000 || s.Packets != 0 || !s.LastPacket.IsZero() {
		t.Errorf("released with %+v", s)
	}
	c.send(t, 1001, 160)
	receive(t, c.atIn)
}

// A full map refuses the new stream and leaves the others alone.
func TestMapFull(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	f := c.down
	var err error
	installed := 0
	for ; installed < 100; installed++ {
		f.ID, f.InSSRC, f.OutSSRC = dataplane.FlowID(100+installed), uint32(0x9000+installed), uint32(0xa000+installed)
		if err = e.Install(&f, dataplane.State{}, 0); err != nil {
			break
		}
	}
	if !errors.Is(err, dataplane.ErrMapFull) || installed != 62 {
		t.Fatalf("after %d more streams: %v", installed, err)
	}
	if got := e.Eligible(&f); got != dataplane.ReasonMapFull {
		t.Errorf("another flow's reason is %q", got)
	}
	c.exchange(t, 100, 120, 160)
	if _, err := e.Remove(100); err != nil {
		t.Fatal(err)
	}
	must(t, e.bury(e.lastGrave()))
	must(t, e.Install(&f, dataplane.State{}, 0))
	c.exchange(t, 120, 140, 160)
}

// Somebody else's XDP program stays, and the interface is served by tc.
func TestForeignXDP(t *testing.T) {
	l := newLab(t)
	var foreign link.Link
	must(t, l.gateway.do(func() error {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), asm.Return(), // XDP_PASS
		}})
		if err != nil {
			return err
		}
		defer p.Close()
		dev, err := netlink.LinkByName(outside)
		if err != nil {
			return err
		}
		foreign, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: dev.Attrs().Index, Flags: link.XDPGenericMode})
		return err
	}))
	defer foreign.Close()
	e := l.engine(t, AttachAuto)
	r := e.Report()
	if e.Path(outside) != PathTC || r.Interfaces[0].Why == "" {
		t.Fatalf("report: %s", r)
	}
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 120, 160)
	info, err := foreign.Info()
	must(t, err)
	if info.XDP().Ifindex == 0 {
		t.Error("the foreign program was detached")
	}
}

// What we pass up, a tcx program that somebody else has on the interface sees.
func TestForeignTC(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachTC)
	var seen *ebpf.Map
	must(t, l.gateway.do(func() (err error) {
		seen, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			return err
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), asm.Return(),
		}})
		if err != nil {
			return err
		}
		defer p.Close()
		dev, err := netlink.LinkByName(outside)
		if err != nil {
			return err
		}
		foreign, err := link.AttachTCX(link.TCXOptions{Interface: dev.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()})
		if err == nil {
			t.Cleanup(func() { foreign.Close() })
		}
		return err
	}))
	defer seen.Close()
	count := func() (n uint64) {
		must(t, seen.Lookup(uint32(0), &n))
		return n
	}
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.send(t, 99, 160)
	receive(t, c.atOut)
	if count() == 0 {
		t.Error("it has not seen a packet that went up")
	}
	c.install(t, e, 99)
	before := count()
	c.exchange(t, 100, 120, 160)
	if n := count() - before; n > 5 {
		t.Errorf("it has seen %d packets, though 20 were forwarded below it", n)
	}
}

// Another layout is replaced on the live link: the link keeps its identity.
func TestLayoutReplaced(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := l.engine(t, AttachNative)
	linkID := func(e *Engine) link.ID {
		info, err := e.attachments[0].xdp.Info()
		must(t, err)
		return info.ID
	}
	before := linkID(e)
	must(t, e.Close())
	other := filepath.Join(l.pins, "layout_999")
	must(t, os.Rename(filepath.Join(l.pins, fmt.Sprintf("layout_%d", bpf.Layout)), other))

	e = l.engine(t, AttachNative)
	if r := e.Report(); r.Adopted || !r.Replaced {
		t.Errorf("report: %+v", r)
	}
	if after := linkID(e); after != before {
		t.Errorf("link %d was replaced by link %d", before, after)
	}
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other layout is still there: %v", err)
	}
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 120, 160)
}

// A layout directory that lacks something is replaced like another layout.
func TestLayoutBroken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := l.engine(t, AttachNative)
	must(t, e.Close())
	must(t, os.Remove(filepath.Join(e.dir.layout(bpf.Layout), mapPrefix+bpf.ControlMapDrops)))
	e = l.engine(t, AttachNative)
	if r := e.Report(); r.Adopted || !r.Replaced {
		t.Errorf("report: %+v", r)
	}
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 120, 160)
}

// Maps of another size are replaced when nothing is in them, on the live link.
func TestResized(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	begin := func(streams int) *Engine {
		t.Helper()
		e, err := l.start(Config{PinDir: l.pins, Networks: networks(), Interfaces: []Interface{{outside, AttachNative}, {inside, AttachNative}}, Streams: streams})
		must(t, err)
		return e
	}
	e := begin(64)
	must(t, e.Close())
	e = begin(128)
	if n := e.objects.maps.streams.MaxEntries(); n != 128 || e.Report().Adopted {
		t.Errorf("room for %d streams after a start with 128", n)
	}
	c.install(t, e, 99)
	c.exchange(t, 100, 110, 160)
	must(t, e.Close())
	c.exchange(t, 110, 120, 160)
	e = begin(64)
	defer func() { must(t, e.Close()) }()
	if n := e.objects.maps.streams.MaxEntries(); n != 128 || e.Report().Orphans != 2 {
		t.Errorf("room for %d streams though there are %d orphans", n, e.Report().Orphans)
	}
	c.exchange(t, 120, 130, 160)
}

// One engine at a time, and errors that say what to do.
func TestStartRefused(t *testing.T) {
	l := newLab(t)
	l.engine(t, AttachNative)
	if _, err := l.start(Config{PinDir: l.pins, Networks: networks()}); err == nil {
		t.Error("a second engine started in the same directory")
	}
	other := mountBPF(t)
	if _, err := l.start(Config{PinDir: t.TempDir(), Networks: networks()}); err == nil {
		t.Error("an engine pinned outside of a bpf filesystem")
	}
	_, err := l.start(Config{PinDir: other, Networks: networks(), Interfaces: []Interface{{Name: "eth99"}}})
	if err == nil {
		t.Error("an interface that does not exist was accepted")
	}
	var no *UnavailableError
	_, err = l.start(Config{PinDir: other, Networks: []dataplane.Network{{Name: "local", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}})
	if !errors.As(err, &no) || no.Reason != dataplane.ReasonInterface {
		t.Errorf("loopback alone: %v", err)
	}
}
