package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// call is one call through the gateway as the test's two ends see it.
type call struct {
	v6             bool
	browser, phone *net.UDPConn // the ends
	atOut, atIn    *net.UDPConn // the gateway's own sockets, for what comes up
	browserAt      netip.AddrPort
	phoneAt        netip.AddrPort
	outAt, inAt    netip.AddrPort
	down, up       dataplane.Flow // phone to browser, browser to phone
}

// callFlows are the two flows of a call: the browser's side is protected by
// profile, the phone's by other (ProfileNone is plain RTP). Keys depend on the
// profiles alone, so that another process makes the same.
func callFlows(v6 bool, profile, other srtp.Profile) *call {
	c := &call{v6: v6}
	c.browserAt, c.phoneAt = netip.AddrPortFrom(addr(v6, 1, 2), 50000), netip.AddrPortFrom(addr(v6, 2, 2), 30000)
	c.outAt, c.inAt = netip.AddrPortFrom(addr(v6, 1, 1), 40000), netip.AddrPortFrom(addr(v6, 2, 1), 20000)
	r := rand.New(rand.NewPCG(uint64(profile), uint64(other)))
	var keys [4]*srtp.SessionKeys
	for i, p := range []srtp.Profile{profile, profile, other, other} {
		if p != srtp.ProfileNone {
			keys[i] = randomKeys(r, p)
		}
	}
	payload := [128]uint8{}
	for i := range payload {
		payload[i] = uint8(i)
	}
	payload[0] = 8
	c.down = dataplane.Flow{
		ID: 1, In: dataplane.Session{ID: 1, Keys: keys[2]}, InSSRC: 0x1111,
		Bindings: []dataplane.Binding{{Local: c.inAt, Remote: c.phoneAt}},
		Out:      dataplane.Session{ID: 2, Keys: keys[1]}, OutSSRC: 0x2222,
		OutLocal: c.outAt, OutRemote: c.browserAt, InNetwork: inside, OutNetwork: outside,
		IndexOffset: 1000, TimestampAdd: 5000, Payload: payload, ClockRate: 8000,
	}
	c.up = dataplane.Flow{
		ID: 2, In: dataplane.Session{ID: 3, Keys: keys[0]}, InSSRC: 0x3333,
		Bindings: []dataplane.Binding{{Local: c.outAt, Remote: c.browserAt}},
		Out:      dataplane.Session{ID: 4, Keys: keys[3]}, OutSSRC: 0x4444,
		OutLocal: c.inAt, OutRemote: c.phoneAt, InNetwork: outside, OutNetwork: inside,
		IndexOffset: indexMask + 1 - 7, TimestampAdd: 1, Payload: payload, ClockRate: 8000,
	}
	return c
}

// newCall is callFlows with the sockets of both ends and of the gateway.
func newCall(t testing.TB, l *lab, v6 bool, profile, other srtp.Profile) *call {
	t.Helper()
	c := callFlows(v6, profile, other)
	c.browser, c.phone = l.browser.listen(t, c.browserAt), l.phone.listen(t, c.phoneAt)
	c.atOut, c.atIn = l.gateway.listen(t, c.outAt), l.gateway.listen(t, c.inAt)
	return c
}

// install hands both streams to the kernel from index cut on.
func (c *call) install(t testing.TB, e *Engine, cut uint64) {
	t.Helper()
	must(t, c.tryInstall(e, cut))
}

func (c *call) tryInstall(e *Engine, cut uint64) error {
	for _, f := range []*dataplane.Flow{&c.down, &c.up} {
		if reason := e.Eligible(f); reason != dataplane.ReasonNone {
			return fmt.Errorf("flow %d is not eligible: %s", f.ID, reason)
		}
		if err := e.Install(f, dataplane.State{Window: srtp.NewWindowAt(cut)}, cut); err != nil {
			return err
		}
	}
	return nil
}

// rtpPacket is a packet of an index with a payload that tells it apart.
func rtpPacket(index uint64, ssrc uint32, size int) []byte {
	b := make([]byte, 12+size, 12+size+16)
	b[0] = 0x80
	binary.BigEndian.PutUint16(b[2:], uint16(index))
	binary.BigEndian.PutUint32(b[4:], uint32(index)*160)
	binary.BigEndian.PutUint32(b[8:], ssrc)
	for i := range b[12:] {
		b[12+i] = byte(index) + byte(i)*3
	}
	return b
}

// sent is the packet as the flow's sender puts it on the wire.
func sent(t testing.TB, f *dataplane.Flow, index uint64, size int) []byte {
	t.Helper()
	return protect(t, f.In.Keys, rtpPacket(index, f.InSSRC, size), index)
}

// expected is what must come out of the flow.
func expected(t testing.TB, f *dataplane.Flow, index uint64, size int) []byte {
	t.Helper()
	b := rtpPacket(index, f.OutSSRC, size)
	out := (index + f.IndexOffset) & indexMask
	b[1] = b[1]&0x80 | f.Payload[b[1]&0x7f]
	binary.BigEndian.PutUint16(b[2:], uint16(out))
	binary.BigEndian.PutUint32(b[4:], uint32(index)*160+f.TimestampAdd)
	return protect(t, f.Out.Keys, b, out)
}

func protect(t testing.TB, k *srtp.SessionKeys, packet []byte, index uint64) []byte {
	t.Helper()
	if k == nil {
		return packet
	}
	c, err := srtp.NewContext(k)
	must(t, err)
	b, err := c.Protect(packet, 12, index)
	must(t, err)
	return b
}

// exchange sends packets of these indices both ways and checks every octet of
// what comes out, and where it comes from.
func (c *call) exchange(t testing.TB, from, to uint64, size int) {
	t.Helper()
	for i := from; i < to; i++ {
		c.send(t, i, size)
		c.check(t, c.browser, &c.down, i, size)
		c.check(t, c.phone, &c.up, i, size)
	}
}

func (c *call) send(t testing.TB, index uint64, size int) {
	t.Helper()
	_, err := c.phone.WriteToUDPAddrPort(sent(t, &c.down, index, size), c.inAt)
	must(t, err)
	_, err = c.browser.WriteToUDPAddrPort(sent(t, &c.up, index, size), c.outAt)
	must(t, err)
}

func (c *call) check(t testing.TB, at *net.UDPConn, f *dataplane.Flow, index uint64, size int) {
	t.Helper()
	got, from := receive(t, at)
	if from != f.OutLocal {
		t.Fatalf("flow %d: packet from %s, want %s", f.ID, from, f.OutLocal)
	}
	if want := expected(t, f, index, size); !bytes.Equal(got, want) {
		t.Fatalf("flow %d, index %d, %d octets:\n got %x\nwant %x", f.ID, index, size, got, want)
	}
}

// verdicts sums what the programs did.
func verdicts(t testing.TB, e *Engine) map[string]uint64 {
	t.Helper()
	c, err := e.Counters()
	must(t, err)
	sums := make(map[string]uint64)
	for program, v := range c.Verdicts {
		for verdict, n := range v {
			sums[program+":"+verdict.String()] += n
		}
	}
	for _, v := range c.Events {
		for event, n := range v {
			sums[event.String()] += n
		}
	}
	for k, n := range sums {
		if n == 0 {
			delete(sums, k)
		}
	}
	return sums
}

func TestForward(t *testing.T) {
	t.Parallel()
	profiles := []struct {
		name           string
		browser, phone srtp.Profile
	}{
		{"GCM to RTP", srtp.ProfileAEADAES128GCM, srtp.ProfileNone},
		{"CM to RTP", srtp.ProfileAES128CMHMACSHA1_80, srtp.ProfileNone},
		{"GCM to CM", srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80},
		{"RTP to RTP", srtp.ProfileNone, srtp.ProfileNone},
	}
	for _, how := range []struct {
		attach Attach
		path   string
		counts string // who forwards
	}{{AttachNative, PathNative, "xdp"}, {AttachGeneric, PathGeneric, "xdp"}, {AttachTC, PathTC, "tc"}} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/v6=%v", how.attach, v6), func(t *testing.T) {
				l := newLab(t)
				e := l.engine(t, how.attach)
				if got := e.Path(outside); got != how.path {
					t.Fatalf("path is %s, want %s\n%s", got, how.path, e.Report())
				}
				for _, p := range profiles {
					t.Run(p.name, func(t *testing.T) {
						before := verdicts(t, e)
						c := newCall(t, l, v6, p.browser, p.phone)
						c.warm(t)
						const first, count = 70000, 40
						c.install(t, e, first-1)
						c.exchange(t, first, first+count, 160)
						after := verdicts(t, e)
						all := after["xdp:forwarded"] + after["tc:forwarded"] - before["xdp:forwarded"] - before["tc:forwarded"]
						if all != 2*count {
							t.Errorf("%d packets were forwarded by the kernel, want %d", all, 2*count)
						}
						t.Log(after)
						silent(t, c.atOut)
						silent(t, c.atIn)
						for _, id := range []dataplane.FlowID{1, 2} {
							s, err := e.Remove(id)
							must(t, err)
							if s.Packets != count || s.Octets != count*160 || s.Lost != 0 || s.Window.Highest() != first+count-1 {
								t.Errorf("flow %d: %+v", id, s)
							}
							if time.Since(s.LastPacket) > 5*time.Second || time.Since(s.LastPacket) < -time.Second {
								t.Errorf("last packet at %s", s.LastPacket)
							}
						}
					})
				}
			})
		}
	}
}

// warm resolves the neighbours on both sides.
func (c *call) warm(t testing.TB) {
	t.Helper()
	for _, w := range []struct {
		from *net.UDPConn
		to   netip.AddrPort
		back *net.UDPConn
	}{{c.atOut, c.browserAt, c.browser}, {c.atIn, c.phoneAt, c.phone}} {
		_, err := w.from.WriteToUDPAddrPort([]byte("hello"), w.to)
		must(t, err)
		receive(t, w.back)
	}
}

// A call at its usual pace finds its keystream ready.
func TestKeystreamHits(t *testing.T) {
	l := newLab(t)
	e := l.engine(t, AttachNative)
	c := newCall(t, l, false, srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80)
	c.warm(t)
	c.install(t, e, 99)
	const count = 250
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range uint64(count) {
		<-tick.C
		c.exchange(t, 100+i, 101+i, 160)
	}
	v := verdicts(t, e)
	if v["xdp:forwarded"] != 2*count || v["keystream_hit"]+v["keystream_miss"] != 4*count {
		t.Fatalf("verdicts are %v", v)
	}
	if v["keystream_miss"]*1000 > v["keystream_hit"] {
		t.Errorf("%d of %d keystreams were not ready", v["keystream_miss"], 4*count)
	}
	stats, err := e.Counters()
	must(t, err)
	t.Logf("%+v", stats.Filler)
}
