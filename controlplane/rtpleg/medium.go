package rtpleg

import (
	"errors"
	"net/netip"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// latchFor is how long after the SDP a phone behind NAT may show its address.
const latchFor = 5 * time.Second

// medium is one media line's transport and keys.
type medium struct {
	transport *dataplane.Transport
	line      *dataplane.Line
	v6        bool
	aimed     dataplane.Remote // as last given to the transport

	offered map[int]srtp.MasterKey // our keys by the tag of the a=crypto we sent
	keys                           // agreed
	next    keys                   // become agreed when the whole description does
}

// keys of one line; ProfileNone is plain RTP.
type keys struct {
	tag    int // of the agreed a=crypto
	rx, tx srtp.MasterKey
}

func (m *medium) close() {
	m.transport.Close()
	wipe(m.rx)
	wipe(m.tx)
	for _, k := range m.offered {
		wipe(k)
	}
}

// medium is the line's, made at first use.
func (l *leg) medium(s *sdp.Section, v6 bool) (*medium, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.media) <= s.Line {
		l.media = append(l.media, nil)
	}
	if have := l.media[s.Line]; have != nil {
		if have.line.Kind() == s.Config.Kind {
			if have.v6 != v6 {
				return nil, sdp.NotAcceptable("the address family of a line may not change within a call")
			}
			return have, nil
		}
		have.close()
		l.media[s.Line] = nil
	}
	m := &medium{v6: v6}
	if l.spare != nil && l.v6 == v6 {
		m.transport, l.spare = l.spare, nil
	} else {
		t, err := l.newTransport(v6)
		if errors.Is(err, dataplane.ErrNoFamily) {
			return nil, sdp.NotAcceptable("no address of the %s family is here to answer with", map[bool]string{false: "IPv4", true: "IPv6"}[v6])
		}
		if err != nil {
			return nil, err
		}
		m.transport = t
	}
	c := s.Config
	c.Send, c.Receive = false, false // until both sides have agreed
	line, err := m.transport.AddLine(c)
	if err != nil {
		m.transport.Close()
		return nil, err
	}
	m.line = line
	l.media[s.Line] = m
	return m, nil
}

// fill adds our address to a section.
func (m *medium) fill(s *sdp.Section) {
	rtp, rtcp := m.transport.Advertised()
	s.Media.Host, s.Media.Port = rtp.Addr().String(), int(rtp.Port())
	if !s.Media.RTCPMux && rtcp.Port() != rtp.Port()+1 {
		s.Media.RTCPPort = int(rtcp.Port())
	}
}

// fillOffer adds our transport to an offered section. Once keys are agreed they
// are offered again, so that a re-INVITE does not restart SRTP.
func (l *leg) fillOffer(s *sdp.Section) error {
	v6 := l.v6
	if s.Remote != nil {
		if addr, ok := s.Remote.Addr(); ok {
			v6 = addr.Is6()
		}
	}
	if have := l.mediumAt(s.Line); have != nil {
		v6 = have.v6
	}
	m, err := l.medium(s, v6)
	if err != nil {
		return err
	}
	m.fill(s)
	if !s.Media.Proto.Secure() {
		return nil
	}
	if m.tx.Profile != srtp.ProfileNone {
		chosen, _ := suiteOf(suiteName(m.tx.Profile))
		s.Media.Crypto = []sdp.Crypto{chosen.attribute(m.tag, m.tx)}
		m.offered = map[int]srtp.MasterKey{m.tag: m.tx}
		return nil
	}
	if m.offered == nil {
		m.offered = map[int]srtp.MasterKey{}
		for i, one := range suites() {
			m.offered[i+1] = one.newKey()
		}
	}
	for i, one := range suites() {
		s.Media.Crypto = append(s.Media.Crypto, one.attribute(i+1, m.offered[i+1]))
	}
	return nil
}

func (l *leg) mediumAt(line int) *medium {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line < len(l.media) {
		return l.media[line]
	}
	return nil
}

// fillAnswer adds our transport to an answered section.
func (l *leg) fillAnswer(s *sdp.Section) error {
	addr, _ := s.Remote.Addr()
	v6 := addr.Is6()
	if have := l.mediumAt(s.Line); have != nil && addr.IsUnspecified() {
		v6 = have.v6 // hold by c=0.0.0.0 says nothing of the family
	}
	m, err := l.medium(s, v6)
	if err != nil {
		return err
	}
	m.fill(s)
	m.next = keys{}
	if !s.Media.Proto.Secure() {
		return nil
	}
	tag, theirs, err := choose(s.Remote.Crypto)
	if err != nil {
		return sdp.NotAcceptable("%v", err)
	}
	chosen, _ := suiteOf(suiteName(theirs.Profile))
	ours := m.tx
	if ours.Profile != theirs.Profile {
		ours = chosen.newKey()
	}
	m.next = keys{tag, theirs, ours}
	s.Media.Crypto = []sdp.Crypto{chosen.attribute(tag, ours)}
	return nil
}

// takeCrypto reads the keys of an answer.
func (l *leg) takeCrypto(s sdp.Section) error {
	m := l.mediumAt(s.Line)
	m.next = keys{}
	if !s.Media.Proto.Secure() {
		if s.Remote.Proto.Secure() {
			return sdp.NotAcceptable("the answer is %s to an offer of %s", s.Remote.Proto, s.Media.Proto)
		}
		return nil
	}
	if !s.Remote.Proto.Secure() {
		return sdp.NotAcceptable("the answer is %s to an offer of %s: media would go out in clear", s.Remote.Proto, s.Media.Proto)
	}
	tag, theirs, err := choose(s.Remote.Crypto)
	if err != nil {
		return sdp.NotAcceptable("%v", err)
	}
	ours, ok := m.offered[tag]
	if !ok || ours.Profile != theirs.Profile {
		return sdp.NotAcceptable("the answer's a=crypto has tag %d with %s, which was not offered so", tag, suiteName(theirs.Profile))
	}
	m.next = keys{tag, theirs, ours}
	return nil
}

// settle hands the line to the data plane as agreed.
func (m *medium) settle(s sdp.Section, source netip.AddrPort) error {
	m.keys = m.next
	m.aim(s.Remote, s.Media.RTCPMux && s.Remote.RTCPMux, source)
	// A key equal to the installed one keeps its state there (RFC 4568 7.1.4).
	if err := m.transport.SetKeys(cloneKey(m.rx), cloneKey(m.tx)); err != nil {
		return err
	}
	m.line.Update(s.Config)
	return nil
}

// aim tells the transport where the far end is. What it is told already is not
// said again: it would forget what it has latched to.
func (m *medium) aim(far *sdp.Media, mux bool, source netip.AddrPort) {
	addr, ok := far.Addr()
	if !ok || addr.IsUnspecified() || far.Port == 0 || addr.Is6() != m.v6 {
		return // on hold by c=0.0.0.0: the direction says so, the address stays
	}
	r := dataplane.Remote{RTP: netip.AddrPortFrom(addr, uint16(far.Port)), Mux: mux}
	if !mux && far.RTCPPort != 0 {
		host := addr
		if a, err := netip.ParseAddr(far.RTCPHost); err == nil && a.Unmap().Is6() == m.v6 && !a.IsUnspecified() {
			host = a.Unmap()
		}
		r.RTCP = netip.AddrPortFrom(host, uint16(far.RTCPPort))
	}
	if from := source.Addr().Unmap(); from.IsValid() && from.Is6() == m.v6 && (private(addr) || addr != from) {
		r.LatchIP, r.LatchFor = from, latchFor
	}
	if r != m.aimed {
		m.aimed = r
		m.transport.SetRemote(r)
	}
}

// private tells whether the address may mean another host than ours would take
// it for.
func private(a netip.Addr) bool {
	if a.Is4() {
		if b := a.As4(); b[0] == 100 && b[1]&0xc0 == 64 {
			return true // RFC 6598, carrier-grade NAT
		}
	}
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()
}
