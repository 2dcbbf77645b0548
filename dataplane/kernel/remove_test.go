package kernel

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// slotState is what a state slot holds now.
func slotState(t testing.TB, e *Engine, slot uint32) (s bpf.State) {
	t.Helper()
	must(t, e.objects.maps.states.LookupWithFlags(slot, &s, ebpf.LookupLock))
	return s
}

// What Remove returns is final, also without a release: a program that looked
// the stream up before accepts nothing after it, above the highest index or in
// a gap of the window.
func TestRemoveFinal(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 110, 160)
	c.exchange(t, 111, 120, 160) // 110 is late
	fl := e.flows[c.up.ID]
	last, err := e.Remove(c.up.ID)
	must(t, err)
	if last.Window.Highest() != 119 || last.Packets != 19 {
		t.Errorf("removed with %+v", last)
	}

	e.mu.Lock() // nothing is wiped meanwhile
	defer e.mu.Unlock()
	before := slotState(t, e, fl.value.Slot)
	// To the programs the stream is there, as to one past the look-up.
	must(t, e.objects.maps.streams.Put(fl.key, &fl.value))
	must(t, e.objects.maps.bindings.Put(fl.bindings[0], bpf.Binding{Session: fl.in.slot}))
	for _, index := range []uint64{110, 120} {
		_, err := c.browser.WriteToUDPAddrPort(sent(t, &c.up, index, 160), c.outAt)
		must(t, err)
		receive(t, c.atOut)
	}
	silent(t, c.phone)
	if v := verdicts(t, e); v["xdp:up_released"] != 2 {
		t.Errorf("verdicts are %v", v)
	}
	if after := slotState(t, e, fl.value.Slot); after != before || after.Until != 0 {
		t.Errorf("the state was %+v, it is %+v", before, after)
	}
	must(t, e.objects.maps.streams.Delete(fl.key))
	must(t, e.objects.maps.bindings.Delete(fl.bindings[0]))
}

// A stream whose bindings find no room was never live, though another binding
// of its session is: its packets go up, and its state is closed.
func TestInstallUnbound(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	second := c.up
	second.ID, second.InSSRC, second.OutSSRC, second.Out.ID = 10, 0x7777, 0x8888, 20
	second.Bindings = nil
	for i := range e.objects.maps.bindings.MaxEntries() + 1 {
		second.Bindings = append(second.Bindings, dataplane.Binding{Local: c.outAt, Remote: netip.AddrPortFrom(c.browserAt.Addr(), uint16(1024+i))})
	}
	slot := e.slots.stream[len(e.slots.stream)-1]
	if err := e.Install(&second, dataplane.State{}, 99); !errors.Is(err, dataplane.ErrMapFull) {
		t.Fatalf("more bindings than there is room for: %v", err)
	}
	e.mu.Lock()
	if s := slotState(t, e, slot); s.Until != 0 {
		t.Errorf("the state is open: %+v", s)
	}
	e.mu.Unlock()
	_, err := c.browser.WriteToUDPAddrPort(sent(t, &second, 100, 160), c.outAt)
	must(t, err)
	receive(t, c.atOut)
	c.exchange(t, 100, 110, 160) // the other stream goes on
	for _, id := range []dataplane.FlowID{c.down.ID, c.up.ID} {
		_, err := e.Remove(id)
		must(t, err)
	}
	must(t, e.bury(e.lastGrave()))
	must(t, wiped(e))
}

// What XDP drops ends there: it is verified and counted once, not again by tc.
func TestInjectDropped(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	inject := func(packet []byte) (made dataplane.Injected) {
		t.Helper()
		must(t, l.gateway.do(func() (err error) {
			made, err = e.Inject(outside, udpIPv4(c.browserAt, c.outAt, packet))
			return err
		}))
		return made
	}
	forged := sent(t, &c.up, 100, 160)
	forged[len(forged)-1] ^= 1
	if made := inject(forged); made.Payload != nil {
		t.Errorf("a forged packet became %+v", made)
	}
	v := verdicts(t, e)
	s, err := e.Read(c.up.ID)
	must(t, err)
	if v["xdp:drop_auth"] != 1 || v["tc:drop_auth"] != 0 || s.Dropped != 1 || s.Packets != 0 {
		t.Errorf("verdicts are %v, the flow is %+v", v, s)
	}
	if made := inject(sent(t, &c.up, 100, 160)); len(made.Payload) != 12+160 || made.Remote != c.phoneAt {
		t.Errorf("a good packet became %+v", made)
	}
}
