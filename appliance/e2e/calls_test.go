package e2e

import (
	"testing"
	"time"
)

// web opens the web phone in a shared browser and signs a user in.
func web(t testing.TB, g *gateway, b *browser, user string) *webphone {
	t.Helper()
	w := openPhone(t, b, g.url())
	w.signIn(user, passwords[user])
	return w
}

func chromiumA(t testing.TB) *browser { t.Helper(); return shared(t, &browserA, toneBrowserA) }
func chromiumB(t testing.TB) *browser { t.Helper(); return shared(t, &browserB, toneBrowserB) }

func TestBrowserCallsPhone(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := web(t, g, chromium, "web1")

	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	w.see("PCMU", 10*time.Second)
	w.see("AES-GCM-128", 10*time.Second)

	w.click("Keypad")
	w.do("click", map[string]any{"selector": "#call-keys button >> nth=4"}, nil)
	if e := phone.wait(5*time.Second, "CALL_DTMF_START"); e.Param != "5" {
		t.Errorf("the phone was sent the digit %q, want 5", e.Param)
	}

	w.click("Hang up")
	phone.closed(5 * time.Second)
	w.see("Call ended", 10*time.Second)
}

func TestPhoneCallsBrowser(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w := web(t, g, chromium, "web1")

	phone.dial("sip:web1@" + domain)
	w.see("phone1", 10*time.Second)
	w.answer()
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	phone.hangUp()
	w.see("Call ended", 10*time.Second)
}

func TestBrowserCallsPhoneInOpus(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	c := g.phone("phone1", tonePhoneA)
	c.codecs = "opus"
	phone := newPhone(t, c)
	w := web(t, g, chromium, "web1")

	w.dial("phone1")
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	w.see("opus", 10*time.Second)
	w.click("Hang up")
	phone.closed(5 * time.Second)
}

func TestBrowserCallsPhoneOverTCPWithSDES(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	c := g.phone("phone1", tonePhoneA)
	c.tcp, c.media = true, "srtp-mand"
	phone := newPhone(t, c)
	w := web(t, g, chromium, "web1")

	phone.dial("sip:web1@" + domain)
	w.answer()
	phone.established()
	w.connected()
	w.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	phone.closed(5 * time.Second)
}

func TestBrowserCallsBrowser(t *testing.T) {
	a, b := chromiumA(t), chromiumB(t)
	g := newGateway(t, gatewayConfig{})
	caller, callee := web(t, g, a, "web1"), web(t, g, b, "web2")

	caller.dial("web2")
	callee.answer()
	caller.connected()
	callee.connected()
	caller.hears(toneBrowserB, 20*time.Second)
	callee.hears(toneBrowserA, 20*time.Second)
	caller.see("opus", 10*time.Second)
	callee.click("Hang up")
	caller.see("Call ended", 10*time.Second)
}

func TestPhoneCallsPhone(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	caller := newPhone(t, g.phone("phone1", tonePhoneA))
	callee := newPhone(t, g.phone("phone2", tonePhoneB))

	caller.dial("sip:phone2@" + domain)
	caller.established()
	callee.established()
	caller.hears(tonePhoneB, 20*time.Second)
	callee.hears(tonePhoneA, 20*time.Second)
	caller.hangUp()
	callee.closed(5 * time.Second)
}

func TestBrowserCallsTrunk(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("answer", sippConfig{echo: true})
	w := web(t, g, chromium, "web1")

	w.dial("9 (030) 1234")
	carrier.sees("INVITE sip:90301234@", 5*time.Second)
	w.connected()
	w.hears(toneBrowserA, 20*time.Second) // the carrier sends back what it hears
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

func TestPhoneCallsTrunk(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("answer", sippConfig{echo: true})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))

	phone.dial("sip:90301234@" + domain)
	phone.established()
	phone.hears(tonePhoneA, 20*time.Second)
	phone.hangUp()
	carrier.passes(5 * time.Second)
}

func TestTrunkCallsBrowser(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	carrier := g.fromTrunk("call", "web1", sippConfig{echo: true})

	w.see("Carrier", 10*time.Second)
	w.answer()
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

func TestTrunkCallsPhone(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	carrier := g.fromTrunk("call-tone", "phone1", sippConfig{tone: toneCarrier})

	phone.established()
	phone.hears(toneCarrier, 20*time.Second)
	phone.hangUp()
	carrier.passes(5 * time.Second)
}

func TestHoldByBrowser(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("answer-held", sippConfig{echo: true}) // checks the directions it is offered
	w := web(t, g, chromium, "web1")

	w.dial("9100")
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hold")
	w.see("On hold", 10*time.Second)
	w.hearsSilence(20 * time.Second)
	w.click("Resume")
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

func TestHoldBySIPSide(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	carrier := g.fromTrunk("call-hold", "web1", sippConfig{echo: true})

	w.answer()
	w.connected()
	w.hears(toneBrowserA, 5*time.Second)
	w.see("The other side put you on hold", 15*time.Second)
	w.hearsSilence(5500 * time.Millisecond)
	w.see("Connected", 15*time.Second)
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

func TestMuteIsHeard(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("answer", sippConfig{echo: true})
	w := web(t, g, chromium, "web1")

	w.dial("9100")
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Mute")
	w.hearsSilence(20 * time.Second)
	w.click("Unmute")
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

func TestEarlyMediaThenAnswer(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("early", sippConfig{tone: toneAnnounce}) // answers after 6 s
	w := web(t, g, chromium, "web1")

	w.dial("9100")
	w.see("Ringing", 10*time.Second)
	w.hears(toneAnnounce, 5*time.Second)
	w.connected()
	w.hears(toneAnnounce, 20*time.Second)
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

// A phone with an announcement and a browser share a user: the caller hears the
// announcement, then the browser answers and the phone is cancelled.
func TestEarlyMediaThenAnotherCalleeAnswers(t *testing.T) {
	a, b := chromiumA(t), chromiumB(t)
	g := newGateway(t, gatewayConfig{})
	caller, callee := web(t, g, a, "web1"), web(t, g, b, "web2")
	announcing := registered(t, g, "web2", "early-cancelled", sippConfig{tone: toneAnnounce})

	caller.dial("web2")
	callee.see("is calling you", 10*time.Second)
	caller.hears(toneAnnounce, 20*time.Second)
	callee.click("Answer")
	caller.connected()
	announcing.passes(5 * time.Second)
	caller.hears(toneBrowserB, 20*time.Second)
	callee.hears(toneBrowserA, 20*time.Second)
	caller.click("Hang up")
	callee.see("Call ended", 10*time.Second)
}

// registered registers sipp as a user and then runs a scenario at that address.
func registered(t testing.TB, g *gateway, user, scenario string, c sippConfig) *sipp {
	t.Helper()
	c.ns, c.address, c.port = g.ns, loopback, freePorts(t, g.ns, 1)
	newSIPp(t, sippConfig{ns: g.ns, address: c.address, port: c.port, scenario: "register", remote: g.sip,
		user: user, password: passwords[user], target: user, keys: map[string]string{"domain": domain}}).passes(5 * time.Second)
	c.scenario = scenario
	return newSIPp(t, c)
}

func TestFirstAnswerOfAForkWins(t *testing.T) {
	b := chromiumB(t)
	g := newGateway(t, gatewayConfig{})
	callee := web(t, g, b, "web2")
	ringing := registered(t, g, "web2", "ring", sippConfig{})
	phone := newPhone(t, g.phone("phone1", tonePhoneA))

	phone.dial("sip:web2@" + domain)
	ringing.sees("INVITE sip:", 5*time.Second)
	callee.answer()
	phone.established()
	ringing.passes(5 * time.Second)
	callee.hears(tonePhoneA, 20*time.Second)
	phone.hears(toneBrowserB, 20*time.Second)
	phone.hangUp()
	callee.see("Call ended", 10*time.Second)
}
