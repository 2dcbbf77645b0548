package kernel

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// The gateway's side: a whole plane with a call, in a process of its own.

// capturing makes the plane take every stream back while it is on.
type capturing struct {
	*Engine
	on atomic.Bool
}

func (c *capturing) Eligible(f *dataplane.Flow) dataplane.Reason {
	if c.on.Load() {
		return dataplane.ReasonCapture
	}
	return c.Engine.Eligible(f)
}

// generationKeys are the browser's, to and from the gateway.
func generationKeys(generation uint64) (rx, tx srtp.MasterKey) {
	r := rand.New(rand.NewPCG(77, generation))
	for _, m := range []*srtp.MasterKey{&rx, &tx} {
		m.Profile = srtp.ProfileAEADAES128GCM
		m.Key, m.Salt = make([]byte, m.Profile.KeyLen()), make([]byte, m.Profile.SaltLen())
		for _, b := range [][]byte{m.Key, m.Salt} {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
	}
	return rx, tx
}

// planeDaemon is what a daemon keeps between commands once it has a plane.
type planeDaemon struct {
	forward *capturing
	plane   *dataplane.Plane
	lines   [2]*dataplane.Line // browser, phone
}

var audio = dataplane.LineConfig{
	Kind: dataplane.Audio, Send: true, Receive: true,
	Formats: []dataplane.Format{{PayloadType: 0, Codec: "PCMU", ClockRate: 8000}},
}

// call sets up the plane and one call; it answers the phone side's port.
func (d *planeDaemon) call(e *Engine, generation uint64) (string, error) {
	d.forward = &capturing{Engine: e}
	n := networks()
	n[0].Addresses, n[0].BrowserPort = n[0].Addresses[:1], 40000
	n[1].Addresses, n[1].PortMin, n[1].PortMax = []netip.Addr{addr(false, 2, 1)}, 20000, 20001
	n[1].BrowserPort = 40000
	var err error
	if d.plane, err = dataplane.New(dataplane.Config{Networks: n, Forwarder: d.forward}); err != nil {
		return "", err
	}
	browser, err := d.plane.NewBrowserTransport(outside, dataplane.Events{})
	if err != nil {
		return "", err
	}
	phone, err := d.plane.NewPhoneTransport(inside, false, dataplane.Events{})
	if err != nil {
		return "", err
	}
	c := callFlows(false, srtp.ProfileNone, srtp.ProfileNone)
	browser.SetPair(c.outAt, c.browserAt)
	phone.SetRemote(dataplane.Remote{RTP: c.phoneAt})
	if err := browser.SetKeys(generationKeys(generation)); err != nil {
		return "", err
	}
	for i, t := range []*dataplane.Transport{browser, phone} {
		if d.lines[i], err = t.AddLine(audio); err != nil {
			return "", err
		}
	}
	same := dataplane.NewPayloadMap()
	same[0] = 0
	if err := d.plane.Join(d.lines[0], d.lines[1], same, same); err != nil {
		return "", err
	}
	rtp, _ := phone.Local()
	return strconv.Itoa(int(rtp.Port())), nil
}

// hand moves both streams to the user engine or back, and waits until they are
// there.
func (d *planeDaemon) hand(toUser bool) error {
	d.forward.on.Store(toUser)
	for _, l := range d.lines {
		l.Update(audio)
	}
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	first := uint64(0) // forwarded by the kernel when it had both, plus 1
	defer poll.Stop()
	for {
		there := 0
		for _, l := range d.lines {
			if (l.Stats().Path == PathUser) == toUser {
				there++
			}
		}
		if there == len(d.lines) && toUser {
			return nil
		}
		if there == len(d.lines) {
			// The cut lies ahead: wait until packets run above it.
			c, err := d.forward.Counters()
			if err != nil {
				return err
			}
			n := c.Verdicts["xdp"][0] + c.Verdicts["tc"][0]
			if first == 0 {
				first = n + 1
			}
			if n > first+8 {
				return nil
			}
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return fmt.Errorf("streams are on %s (%s) and %s (%s)", d.lines[0].Stats().Path, d.lines[0].Stats().Reason, d.lines[1].Stats().Path, d.lines[1].Stats().Reason)
		}
	}
}

// hold puts the browser on hold, as signalling does, or takes it back.
func (d *planeDaemon) hold(on bool) {
	browser, phone := audio, audio
	if on {
		browser.Send, browser.Receive = false, false
		phone.Send, phone.Receive = false, false
	}
	d.lines[0].Update(browser)
	d.lines[1].Update(phone)
}

// The ends' side.

// traffic is both ends of the call, sending numbered packets and noting what
// arrives.
type traffic struct {
	c      *call
	rx, tx *srtp.Context // browser's: what it sends, what it gets
	stop   chan struct{}
	done   sync.WaitGroup
	sent   [2]atomic.Uint64 // by the phone, by the browser

	mu      sync.Mutex
	got     [2]map[uint64]int // counter -> times, at the browser, at the phone
	window  srtp.Window       // of the indices towards the browser
	indices map[uint64]uint64 // those, with a hash of the packet
	errs    []string
}

func startTraffic(t testing.TB, c *call, generation uint64, pace time.Duration) *traffic {
	t.Helper()
	f := &traffic{c: c, stop: make(chan struct{}), indices: make(map[uint64]uint64)}
	f.got[0], f.got[1] = make(map[uint64]int), make(map[uint64]int)
	rx, tx := generationKeys(generation)
	for _, x := range []struct {
		to *(*srtp.Context)
		m  srtp.MasterKey
	}{{&f.rx, rx}, {&f.tx, tx}} {
		k, err := srtp.Derive(x.m)
		must(t, err)
		*x.to, err = srtp.NewContext(k)
		must(t, err)
	}
	ssrc := uint32(0x10000 * (generation + 1))
	f.done.Go(func() { f.send(0, c.phone, c.inAt, ssrc+1, pace, nil) })
	f.done.Go(func() { f.send(1, c.browser, c.outAt, ssrc+2, pace, f.rx) })
	f.done.Go(func() { f.listen(c.browser, f.atBrowser) })
	f.done.Go(func() { f.listen(c.phone, f.atPhone) })
	return f
}

func (f *traffic) send(who int, from *net.UDPConn, to netip.AddrPort, ssrc uint32, pace time.Duration, x *srtp.Context) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		index := 65000 + n // rolls over soon
		b := rtpPacket(index, ssrc, 160)
		binary.BigEndian.PutUint64(b[12:], n)
		if x != nil {
			var err error
			if b, err = x.Protect(b, 12, index); err != nil {
				f.fail("protect: %v", err)
				return
			}
		}
		if _, err := from.WriteToUDPAddrPort(b, to); err != nil && !strings.Contains(err.Error(), "refused") {
			f.fail("send: %v", err)
			return
		}
		f.sent[who].Store(n + 1)
	}
}

func (f *traffic) fail(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, fmt.Sprintf(format, args...))
}

func (f *traffic) listen(c *net.UDPConn, take func([]byte)) {
	b := make([]byte, 2048)
	for {
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return
		}
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			select {
			case <-f.stop:
				return
			default:
				continue // a deadline, or ICMP of a gateway that is gone
			}
		}
		if n < 12+8 || b[1] >= 192 && b[1] <= 223 {
			continue // RTCP, or the test's greeting
		}
		f.mu.Lock()
		take(b[:n])
		f.mu.Unlock()
	}
}

func (f *traffic) atBrowser(b []byte) {
	h := fnv.New64a()
	h.Write(b)
	index := f.window.Estimate(binary.BigEndian.Uint16(b[2:]))
	if old, ok := f.indices[index]; ok {
		f.errs = append(f.errs, fmt.Sprintf("index %d was used twice, for the same packet: %v", index, old == h.Sum64()))
		return
	}
	plain, err := f.tx.Unprotect(b, 12, index)
	if err != nil {
		f.errs = append(f.errs, fmt.Sprintf("index %d at the browser: %v", index, err))
		return
	}
	f.indices[index] = h.Sum64()
	f.window.Accept(index)
	f.got[0][binary.BigEndian.Uint64(plain[12:])]++
}

func (f *traffic) atPhone(b []byte) { f.got[1][binary.BigEndian.Uint64(b[12:])]++ }

// end stops both ends. What the last 50 ms of sending left under way may or may
// not have arrived.
func (f *traffic) end(t testing.TB) {
	t.Helper()
	close(f.stop)
	f.done.Wait()
	for _, e := range f.errs {
		t.Error(e)
	}
}

// missing are the counters below the newest that did not arrive exactly once.
func (f *traffic) missing(at int) (lost, double int) {
	for n := range f.sent[at].Load() {
		switch f.got[at][n] {
		case 0:
			lost++
		case 1:
		default:
			double++
		}
	}
	return lost, double
}

// Two hundred hand-overs under load, two streams there and back fifty times: no
// packet is lost or doubled by them, and no index towards the browser is used
// twice.
func TestHandOvers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newEnds(t, l)
	d, _ := l.startDaemon(t, "")
	if port := d.ask(t, "call 1"); port != "20000" {
		t.Fatalf("the phone side's port is %s", port)
	}
	f := startTraffic(t, c, 1, 4*time.Millisecond)
	for range 50 {
		d.ask(t, "kernel")
		d.ask(t, "user")
	}
	f.end(t)
	for at, name := range []string{"browser", "phone"} {
		lost, double := f.missing(at)
		sent := f.sent[at].Load()
		t.Logf("%d packets towards the %s: %d lost, %d doubled", sent, name, lost, double)
		if lost != 0 || double != 0 || sent < 4000 {
			t.Errorf("of %d packets towards the %s %d were lost and %d arrived twice", sent, name, lost, double)
		}
	}
}

// A daemon that is killed at any moment of a hand-over leaves no stream behind
// that uses an index again.
func TestKilledInHandOver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newEnds(t, l)
	r := rand.New(rand.NewPCG(9, 9))
	for generation := range uint64(12) {
		d, orphans := l.startDaemon(t, "")
		d.ask(t, fmt.Sprint("call ", generation))
		f := startTraffic(t, c, generation, time.Millisecond)
		for range 3 {
			d.ask(t, "kernel")
			d.ask(t, "user")
		}
		d.ask(t, "kernel")
		// One more, of which the kill takes some part.
		_, err := fmt.Fprintln(d.in, "user")
		must(t, err)
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // the moment is the point
		d.kill()
		from := f.sent[0].Load()
		waitFor(t, "traffic after the kill", func() bool { return f.sent[0].Load() > from+50 })
		f.end(t)
		double := 0
		for at := range 2 {
			_, n := f.missing(at)
			double += n
		}
		if double != 0 {
			t.Errorf("generation %d: %d packets arrived twice", generation, double)
		}
		t.Logf("generation %d found %s orphans", generation, orphans)
	}
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// newEnds are the two ends of a call alone: the gateway's sockets are the plane's.
func newEnds(t testing.TB, l *lab) *call {
	t.Helper()
	c := callFlows(false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	c.browser, c.phone = l.browser.listen(t, c.browserAt), l.phone.listen(t, c.phoneAt)
	for _, s := range []*net.UDPConn{c.browser, c.phone} {
		must(t, s.SetReadBuffer(4<<20))
	}
	return c
}

// Hold takes the streams back from the kernel and lets nothing through; resume
// gives them to the kernel again with an index that has only grown.
func TestHold(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := newEnds(t, l)
	d, _ := l.startDaemon(t, "")
	d.ask(t, "call 1")
	f := startTraffic(t, c, 1, 5*time.Millisecond)
	for range 3 {
		d.ask(t, "kernel")
		d.ask(t, "hold")
		from := f.sent[0].Load()
		waitFor(t, "sending on hold", func() bool { return f.sent[0].Load() > from+50 })
		f.mu.Lock()
		got := [2]int{len(f.got[0]), len(f.got[1])}
		f.mu.Unlock()
		from = f.sent[0].Load()
		waitFor(t, "sending on hold", func() bool { return f.sent[0].Load() > from+50 })
		f.mu.Lock()
		if len(f.got[0]) != got[0] || len(f.got[1]) != got[1] {
			t.Errorf("%d and %d packets got through on hold", len(f.got[0])-got[0], len(f.got[1])-got[1])
		}
		f.mu.Unlock()
		d.ask(t, "resume")
	}
	d.ask(t, "kernel")
	f.end(t)
	if len(f.got[0]) < 100 || len(f.got[1]) < 100 {
		t.Errorf("%d and %d packets arrived", len(f.got[0]), len(f.got[1]))
	}
}
