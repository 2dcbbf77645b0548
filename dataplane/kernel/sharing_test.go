package kernel

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// Two streams of one session behind one binding: each has its own output, and
// the session's keys and binding stay until the last is gone. Then the keys are
// wiped by themselves within a second.
func TestSharedSession(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)

	second := c.up
	second.ID, second.InSSRC, second.OutSSRC, second.Out.ID = 10, 0x7777, 0x8888, 20
	second.OutRemote = netip.AddrPortFrom(c.phoneAt.Addr(), 31000)
	second.ClockRate = 90000
	other := l.phone.listen(t, second.OutRemote)
	must(t, e.Install(&second, dataplane.State{Window: srtp.NewWindowAt(99)}, 99))

	both := func(index uint64, size int) {
		t.Helper()
		c.exchange(t, index, index+1, 160)
		_, err := c.browser.WriteToUDPAddrPort(sent(t, &second, index, size), c.outAt)
		must(t, err)
		c.check(t, other, &second, index, size)
	}
	for i := range uint64(20) {
		both(100+i, 1100)
	}
	if v := verdicts(t, e); v["keystream_hit"] < 20+14*2 {
		t.Errorf("keystream of large packets was not ready: %v", v)
	}
	_, err := e.Remove(c.up.ID)
	must(t, err)
	for i := range uint64(20) {
		_, err := c.browser.WriteToUDPAddrPort(sent(t, &second, 120+i, 1100), c.outAt)
		must(t, err)
		c.check(t, other, &second, 120+i, 1100)
	}
	_, err = c.browser.WriteToUDPAddrPort(sent(t, &c.up, 120, 160), c.outAt)
	must(t, err)
	receive(t, c.atOut) // its stream is gone: up

	began := time.Now()
	for _, id := range []dataplane.FlowID{c.down.ID, second.ID} {
		_, err := e.Remove(id)
		must(t, err)
	}
	for {
		e.mu.Lock()
		err := wiped(e)
		e.mu.Unlock()
		if err == nil {
			break
		}
		if time.Since(began) > time.Second {
			t.Fatalf("a second after the call: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The far ends move: bindings and outputs follow without a new stream, and what
// still comes from the old address goes up.
func TestMoved(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachGeneric)
	c := newCall(t, l, true, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 110, 160)

	was, wasAt := c.browser, c.browserAt
	c.browserAt = netip.AddrPortFrom(wasAt.Addr(), 51000)
	c.browser = l.browser.listen(t, c.browserAt)
	both := []dataplane.Binding{{Local: c.outAt, Remote: c.browserAt}, {Local: c.outAt, Remote: wasAt}}
	c.up.Bindings, c.down.OutRemote = both, c.browserAt
	must(t, e.Update(&c.up))
	must(t, e.Update(&c.down))
	c.exchange(t, 110, 120, 160)
	_, err := was.WriteToUDPAddrPort(sent(t, &c.up, 120, 160), c.outAt)
	must(t, err)
	c.check(t, c.phone, &c.up, 120, 160) // the old pair is still good

	c.up.Bindings = both[:1]
	must(t, e.Update(&c.up))
	_, err = was.WriteToUDPAddrPort(sent(t, &c.up, 121, 160), c.outAt)
	must(t, err)
	receive(t, c.atOut)
	c.exchange(t, 122, 130, 160)
	s, err := e.Read(c.up.ID)
	must(t, err)
	if s.Packets != 29 || s.Lost != 1 {
		t.Errorf("counters are %+v", s.Counters)
	}
}

// A new key on the same 4-tuple takes the binding over; removing the old stream
// does not take it away again.
func TestRekeyed(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.warm(t)
	c.install(t, e, 99)
	c.exchange(t, 100, 110, 160)
	old := c.up.ID
	fresh := callFlows(false, srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone)
	c.up = fresh.up
	c.up.ID, c.up.In.ID = 12, 13
	must(t, e.Install(&c.up, dataplane.State{}, 0))
	c.exchange(t, 110, 120, 160)
	_, err := e.Remove(old)
	must(t, err)
	c.exchange(t, 120, 130, 160)
}

// A packet that came in fragments is whole only in the socket: the plane runs it
// through the same program.
func TestFragments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newEnds(t, l)
	d, _ := l.startDaemon(t, "")
	d.ask(t, "call 1")
	f := startTraffic(t, c, 1, 5*time.Millisecond)
	d.ask(t, "kernel")
	must(t, l.phone.do(func() error {
		dev, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(dev, 120) // 160 octets of payload no longer fit
	}))
	from := f.sent[0].Load()
	waitFor(t, "fragments", func() bool { return f.sent[0].Load() > from+100 })
	if n, err := strconv.Atoi(d.ask(t, "fragments")); err != nil || n < 200 {
		t.Errorf("%d fragments came up, %v", n, err)
	}
	f.end(t)
	if lost, double := f.missing(0); lost != 0 || double != 0 {
		t.Errorf("%d packets towards the browser were lost and %d doubled", lost, double)
	}
}

// Two browsers on one side: packets turn round on the interface they came in by.
func TestSameInterface(t *testing.T) {
	t.Parallel()
	for _, how := range []Attach{AttachNative, AttachGeneric, AttachTC} {
		t.Run(string(how), func(t *testing.T) {
			l := newLab(t)
			e := l.engine(t, how)
			c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileAEADAES128GCM)
			c.warm(t)
			c.phoneAt = netip.AddrPortFrom(c.browserAt.Addr(), 52000)
			c.phone = l.browser.listen(t, c.phoneAt)
			c.inAt = c.outAt
			c.down.Bindings = []dataplane.Binding{{Local: c.outAt, Remote: c.phoneAt}}
			c.down.InNetwork, c.up.OutNetwork = outside, outside
			c.up.OutLocal, c.up.OutRemote = c.outAt, c.phoneAt
			c.install(t, e, 99)
			c.exchange(t, 100, 140, 60)
			c.exchange(t, 140, 180, 160)
			silent(t, c.atOut)
			t.Log(verdicts(t, e))
		})
	}
}
