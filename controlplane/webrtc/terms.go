package webrtc

import (
	"slices"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// terms are the ICE and DTLS parameters of one description of the far end.
type terms struct {
	remote
}

// ourSetup is our role in an answer (RFC 8842 5.3).
func (t *terms) ourSetup() sdp.Setup {
	if t.server {
		return sdp.Active
	}
	return sdp.Passive
}

// terms reads them. All lines share one transport, so the first carried section
// speaks for all. Once the association is started they may not change: a
// restart would need new credentials of ours, and a leg keeps its own.
func (l *leg) terms(d *sdp.Description, offer bool) (*terms, error) {
	i := slices.IndexFunc(d.Media, func(m sdp.Media) bool { return !m.Rejected() && m.Kind() != 0 })
	if i < 0 {
		if l.agreed != nil {
			return l.agreed, nil // every line is disabled
		}
		return nil, sdp.NotAcceptable("no audio or video line is on offer")
	}
	m := &d.Media[i]
	switch {
	case m.Ufrag == "" || m.Pwd == "":
		return nil, sdp.NotAcceptable("the %s line has no ICE credentials (a=ice-ufrag, a=ice-pwd)", m.Name)
	case len(usable(m.Fingerprints)) == 0:
		return nil, sdp.NotAcceptable("%v", errNoFingerprint)
	case d.ICELite:
		return nil, sdp.NotAcceptable("the far end is ICE-lite, as the gateway is: neither would send checks")
	}
	t := &terms{remote{ufrag: m.Ufrag, pwd: m.Pwd, fingerprints: m.Fingerprints}}
	switch m.Setup {
	case sdp.Passive:
		t.server = true
	case sdp.ActPass:
		if !offer {
			return nil, sdp.NotAcceptable("an answer must choose its DTLS role: a=setup:active or passive")
		}
	case sdp.HoldConn:
		return nil, sdp.NotAcceptable("a=setup:holdconn is not supported; offer actpass")
	case "":
		// RFC 4145 4: active is the default of an offer, passive of an answer.
		t.server = !offer
	}
	if l.agreed == nil {
		return t, nil
	}
	was := l.agreed
	switch {
	case t.ufrag != was.ufrag || t.pwd != was.pwd:
		return nil, sdp.NotAcceptable("ICE restart is not supported: keep ice-ufrag and ice-pwd, or place a new call")
	case !slices.EqualFunc(t.fingerprints, was.fingerprints, sdp.Fingerprint.Equal):
		return nil, sdp.NotAcceptable("the DTLS fingerprint may not change within a call: place a new call")
	case offer && m.Setup == sdp.ActPass:
		t.server = was.server // the role stays (RFC 8842 5.3)
	case t.server != was.server:
		return nil, sdp.NotAcceptable("the DTLS role may not change within a call: offer a=setup:actpass")
	}
	return t, nil
}
