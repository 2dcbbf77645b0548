package e2e

import (
	"net/netip"
	"testing"
	"time"
)

// The peers and the measure must work without the gateway, or their verdict on
// it would mean nothing: a phone calls sipp's echo directly and hears itself.
func TestPeersWithoutGateway(t *testing.T) {
	far := newSIPp(t, sippConfig{scenario: "answer", echo: true})
	phone := newBaresip(t, phoneConfig{user: "alone", domain: "peers.test", password: "none", lone: true,
		gateway: netip.AddrPortFrom(far.sip.Addr(), far.sip.Port()), tone: tonePhoneA})
	phone.dial("sip:echo@" + far.sip.String())
	phone.established()
	phone.hears(tonePhoneA, 20*time.Second)
	phone.hangUp()
	far.passes(5 * time.Second)
}
