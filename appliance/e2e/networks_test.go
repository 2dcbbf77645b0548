package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// Browsers on an IPv4 network, phones on an IPv6 one.
func TestCallBetweenFamilies(t *testing.T) {
	chromium := chromiumA(t)
	six := netip.IPv6Loopback()
	g := newGateway(t, gatewayConfig{
		inside:  netip.AddrPortFrom(six, freePorts(t, "", 1)),
		media:   []netip.Addr{loopback},
		carrier: netip.MustParseAddr("fd77::99"), // nobody
	})
	c := g.phone("phone1", tonePhoneA)
	c.address = six
	phone := newPhone(t, c)
	w := web(t, g, chromium, "web1")
	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	phone.closed(5 * time.Second)
}

// The page and its WebSocket over TLS with the gateway's own certificate.
func TestBrowserOverTLS(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{tls: true})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := openPage(t, chromium, g.url(), map[string]any{
		"secure":  true,
		"storage": map[string]string{"sluice.audio": `{"processing":false}`},
	})
	w.signIn("web1", passwords["web1"])
	phone.dial("sip:web1@" + domain)
	w.answer()
	phone.established()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}

// After five hundred calls the gateway holds what it held before the first.
func TestFiveHundredCallsLeaveNothing(t *testing.T) {
	const calls = 500
	g := newGateway(t, gatewayConfig{})
	callee := registered(t, g, "web2", "answer", sippConfig{calls: calls})
	warm := refused(g, "nobody", "404")
	warm.passes(10 * time.Second)
	before := g.metrics()
	g.fromTrunk("call-short", "web2", sippConfig{calls: calls, rate: 40}).passes(90 * time.Second)
	callee.passes(10 * time.Second)
	eventually(t, 60*time.Second, "the gateway is as before", func() error {
		now := g.metrics()
		for name, slack := range map[string]float64{"go_goroutines": 8, "process_open_fds": 4, "sluice_calls": 0} {
			if now[name] > before[name]+slack {
				return fmt.Errorf("%s is %v, was %v", name, now[name], before[name])
			}
		}
		return nil
	})
}
