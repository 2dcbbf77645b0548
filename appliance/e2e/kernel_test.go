package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// site is a gateway between two networks with its browsers and phones.
type site struct {
	*topology
	g   *gateway
	pin string
}

func newSite(t testing.TB, w wiring, prepare func(*topology), c gatewayConfig) *site {
	t.Helper()
	ring.Needs(t, append([]ring.Need{ring.Root, ring.Tool("ip"), ring.Tool("nsenter")}, browserNeeds...)...)
	p := newTopology(t, w)
	if prepare != nil {
		prepare(p)
	}
	s := &site{topology: p, pin: "/sys/fs/bpf/" + p.gateway}
	t.Cleanup(func() { os.RemoveAll(s.pin) })
	c.ns = p.gateway
	c.http = netip.AddrPortFrom(p.gatewayBrowserSide, 8080)
	c.inside = netip.AddrPortFrom(p.gatewayPhoneSide, 5060)
	c.media = []netip.Addr{p.gatewayBrowserSide}
	c.carrier = netip.AddrFrom4([4]byte{10, 77, 2, 3})
	if c.dataplane == "" {
		c.dataplane = "  mode: kernel\n"
	}
	c.dataplane += "  pin: " + s.pin + "\n"
	s.g = newGateway(t, c)
	return s
}

// chromium starts a browser on the browsers' side. The page's address is no
// secure context by itself, as a real one would be with https.
func (s *site) chromium(hz float64) *browser {
	s.t.Helper()
	b, err := launch(s.browser, hz, "--unsafely-treat-insecure-origin-as-secure=http://"+s.g.http.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(b.close)
	return b
}

func (s *site) phone(user string, tone float64) *baresip {
	s.t.Helper()
	c := s.g.phone(user, tone)
	c.ns, c.address = s.near, s.phoneAddress
	return newPhone(s.t, c)
}

// paths are the packets that each engine has forwarded so far.
type paths struct{ kernel, user float64 }

func (s *site) forwarded() paths {
	s.t.Helper()
	m := s.g.metrics()
	return paths{
		kernel: sum(m, "sluice_media_packets_total", `path="kernel`),
		user:   sum(m, "sluice_media_packets_total", `path="user"`),
	}
}

// onlyKernel watches for a while in which both sides hear each other, and checks
// that the kernel forwarded both directions and the user engine saw nothing.
func (s *site) onlyKernel(listen func()) {
	s.t.Helper()
	// The first packets of a stream run through user space; then it is quiet there.
	last := s.forwarded()
	eventually(s.t, 10*time.Second, "the kernel takes the streams over", func() error {
		time.Sleep(400 * time.Millisecond)
		now := s.forwarded()
		was := last
		last = now
		if now.user > was.user || now.kernel-was.kernel < 20 {
			return fmt.Errorf("in 400 ms %v packets through user space, %v through the kernel", now.user-was.user, now.kernel-was.kernel)
		}
		return nil
	})
	before, began := s.forwarded(), time.Now()
	listen()
	after := s.forwarded()
	// 50 packets a second each way.
	want := 2 * 50 * time.Since(began).Seconds() * 0.8
	if got := after.kernel - before.kernel; got < want {
		s.t.Errorf("the kernel forwarded %v packets in %v, want at least %.0f", got, time.Since(began), want)
	}
	s.t.Logf("in %v: %v packets through the kernel, %v through user space", time.Since(began).Round(time.Millisecond), after.kernel-before.kernel, after.user-before.user)
	if got := after.user - before.user; got != 0 {
		s.t.Errorf("%v packets ran through user space", got)
	}
}

func TestKernelForwardsCalls(t *testing.T) {
	busy := func(p *topology) { p.occupy("browsers"); p.occupy("phones") }
	type variant struct {
		name    string
		wiring  wiring
		prepare func(*topology)
		path    string // as named in metrics
		freeze  bool
	}
	variants := []variant{
		{name: "native XDP", wiring: wiring{gro: true}, path: "kernel:xdp-native", freeze: true},
		{name: "generic XDP", path: "kernel:xdp-generic", freeze: true},
		{name: "tc", wiring: wiring{gro: true}, prepare: busy, path: "kernel:tc"},
		{name: "IPv6", wiring: wiring{v6: true, gro: true}, path: "kernel:xdp-native"},
	}
	if has8021Q() {
		variants = append(variants, variant{name: "VLAN", wiring: wiring{vlan: 100, gro: true}, path: "kernel:xdp-native"})
	} else {
		t.Log("this kernel is built without 802.1Q: no variant with a VLAN")
	}
	for _, tc := range variants {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t, tc.wiring, tc.prepare, gatewayConfig{})
			phone := s.phone("phone1", tonePhoneA)
			w := openPhone(t, s.chromium(toneBrowserA), s.g.url())
			w.signIn("web1", passwords["web1"])
			w.dial("phone1")
			phone.established()
			w.connected()
			w.hears(tonePhoneA, 20*time.Second)
			phone.hears(toneBrowserA, 20*time.Second)
			s.onlyKernel(func() {
				w.hears(tonePhoneA, 20*time.Second)
				phone.hears(toneBrowserA, 20*time.Second)
			})
			if n := sum(s.g.metrics(), "sluice_media_packets_total", `path="`+tc.path+`"`); n == 0 {
				t.Errorf("nothing was counted on %s: %v", tc.path, s.g.metrics())
			}
			// The gateway's reports to the browser are true while the kernel forwards.
			w.see("good", 10*time.Second)
			eventually(t, 20*time.Second, "the gateway reports to the browser", func() error {
				rtt, ok := w.stat("remote-inbound-rtp", "roundTripTime").(float64)
				lost, too := w.stat("remote-inbound-rtp", "packetsLost").(float64)
				if !ok || !too || rtt > 0.5 || lost > 5 {
					return fmt.Errorf("round trip %v s, %v packets lost", rtt, lost)
				}
				return nil
			})
			if tc.freeze {
				s.soundWhileFrozen(w, phone)
			}
			phone.hangUp()
			w.see("Call ended", 10*time.Second)
			eventually(t, 10*time.Second, "the streams are gone", func() error {
				if n := sum(s.g.metrics(), "sluice_flows"); n != 0 {
					return fmt.Errorf("%v of them", n)
				}
				return nil
			})
		})
	}
}

// soundWhileFrozen stops the gateway's process for 5 s and demands that both
// sides hear each other all that time.
func (s *site) soundWhileFrozen(w *webphone, phone *baresip) {
	s.t.Helper()
	before, rate, err := phone.recording()
	if err != nil {
		s.t.Fatal(err)
	}
	began := moment()
	s.g.freeze(5 * time.Second)
	after, _, err := phone.recording()
	if err != nil {
		s.t.Fatal(err)
	}
	heard := windows(after[len(before):], rate, toneBrowserA)
	if seconds := float64(len(heard)) * window; seconds < 4.5 || float64(count(heard)) < 0.97*float64(len(heard)) {
		s.t.Errorf("while the gateway stood still for 5 s the phone recorded %.1f s, %d of %d windows with the browser's tone",
			seconds, count(heard), len(heard))
	}
	s.t.Logf("frozen for 5 s: the phone heard the tone in %d of %d windows of 80 ms", count(heard), len(heard))
	good, all := 0, 0
	for _, h := range w.heard(began) {
		if h.at.UnixMilli() > began+5000 {
			break
		}
		all++
		if h.is(tonePhoneA) {
			good++
		}
	}
	s.t.Logf("frozen for 5 s: the browser heard the tone in %d of %d samples", good, all)
	if all < 40 || good < all-2 {
		s.t.Errorf("while the gateway stood still for 5 s the browser heard the phone in %d of %d samples", good, all)
	}
	// It wakes up and has the call in hand.
	w.see("Connected", 10*time.Second)
	w.hears(tonePhoneA, 20*time.Second)
}

func TestKernelForwardsBetweenBrowsers(t *testing.T) {
	s := newSite(t, wiring{gro: true}, nil, gatewayConfig{})
	caller := openPhone(t, s.chromium(toneBrowserA), s.g.url())
	caller.signIn("web1", passwords["web1"])
	callee := openPhone(t, s.chromium(toneBrowserB), s.g.url())
	callee.signIn("web2", passwords["web2"])
	caller.dial("web2")
	callee.answer()
	caller.connected()
	callee.connected()
	caller.hears(toneBrowserB, 20*time.Second)
	callee.hears(toneBrowserA, 20*time.Second)
	s.onlyKernel(func() {
		caller.hears(toneBrowserB, 20*time.Second)
		callee.hears(toneBrowserA, 20*time.Second)
	})
	callee.click("Hang up")
	caller.see("Call ended", 10*time.Second)
}

// Hold takes the streams from the kernel and back.
func TestKernelForwardsAgainAfterHold(t *testing.T) {
	s := newSite(t, wiring{gro: true}, nil, gatewayConfig{})
	phone := s.phone("phone1", tonePhoneA)
	w := openPhone(t, s.chromium(toneBrowserA), s.g.url())
	w.signIn("web1", passwords["web1"])
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	s.onlyKernel(func() { w.hears(tonePhoneA, 20*time.Second) })
	w.click("Hold")
	w.see("On hold", 10*time.Second)
	w.hearsSilence(20 * time.Second)
	w.click("Resume")
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	s.onlyKernel(func() { w.hears(tonePhoneA, 20*time.Second) })
	w.click("Hang up")
	phone.closed(5 * time.Second)
}

// Without capabilities the same call runs in user space, which says why.
func TestWithoutCapabilitiesCallsRunInUserSpace(t *testing.T) {
	ring.Needs(t, ring.Tool("setpriv"))
	s := newSite(t, wiring{gro: true}, nil, gatewayConfig{
		dataplane: "  mode: auto\n",
		wrap:      []string{"setpriv", "--bounding-set=-all", "--inh-caps=-all"},
	})
	phone := s.phone("phone1", tonePhoneA)
	w := openPhone(t, s.chromium(toneBrowserA), s.g.url())
	w.signIn("web1", passwords["web1"])
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	if p := s.forwarded(); p.kernel != 0 || p.user < 50 {
		t.Errorf("%v packets through the kernel, %v through user space", p.kernel, p.user)
	}
	if err := s.g.p.logs("no-capability"); err != nil {
		t.Errorf("the reason is not named: %v", err)
	}
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}

// A browser whose network goes away without a word: no reset reaches the
// gateway, its pings stay unanswered and so do the consent checks.
func TestBrowserIsUnplugged(t *testing.T) {
	t.Parallel() // with the other long tests, after the short ones
	s := newSite(t, wiring{gro: true}, nil, gatewayConfig{})
	phone := s.phone("phone1", tonePhoneA)
	w := openPhone(t, s.chromium(toneBrowserA), s.g.url())
	w.signIn("web1", passwords["web1"])
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)

	s.ip(s.browser, "link set eth0 down")
	pulled := time.Now()
	phone.closed(90 * time.Second)
	t.Logf("the phone was told after %v", time.Since(pulled).Round(time.Second))
	w.see("The connection was lost", 60*time.Second)

	s.ip(s.browser, "link set eth0 up")
	s.ip(s.browser, "route replace default via "+s.gatewayBrowserSide.String())
	w.see("web1@"+domain, 60*time.Second)
	phone.dial("sip:web1@" + domain)
	w.answer()
	phone.established()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}
