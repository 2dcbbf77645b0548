package webrtc

import (
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/media"
	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// leg is the media half of one browser's leg.
type leg struct {
	log       *slog.Logger
	plane     *dataplane.Plane
	port      *port
	id        *identity
	cname     string
	events    call.MediaEvents
	transport *dataplane.Transport
	assoc     *association

	// Used by the call's methods alone, which come one at a time.
	neg     *sdp.Negotiator
	offered *terms // of the far end's open offer
	agreed  *terms // what the association was started with
	remote  []byte // the far end's last description, for the snapshot

	mu      sync.Mutex
	lines   []*dataplane.Line // by the call's index
	configs []dataplane.LineConfig
	silent  bool // consent has run out
	pair    [2]netip.AddrPort
	rx, tx  srtp.MasterKey
	closed  bool
}

var _ call.Media = (*leg)(nil)

func newLeg(f *Factory, at *port, network string, o call.MediaOptions) (*leg, error) {
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	l := &leg{
		log: f.log.With("leg", o.LegID), plane: f.plane, port: at, id: id, cname: rand.Text()[:16], events: o.Events,
		neg: sdp.NewNegotiator(sdp.Style{Browser: true, Proto: sdp.DTLS, Accept: accept}, binary.BigEndian.Uint64(seed[:])),
	}
	l.transport, err = f.plane.NewBrowserTransport(network, dataplane.Events{KeyframeRequest: l.keyframe, AuthFailing: l.authFailing})
	if err != nil {
		return nil, err
	}
	l.assoc, err = newAssociation(at.mux, id, hooks{
		pair: l.setPair, keys: l.setKeys, up: l.up, failed: l.fail, consent: l.setConsent,
	}, l.log)
	if err != nil {
		l.transport.Close()
		return nil, err
	}
	return l, nil
}

// accept says why an offered section cannot be a browser's.
func accept(m *sdp.Media) string {
	switch {
	case !m.RTCPMux:
		return "the " + m.Name + " line has no a=rtcp-mux, which WebRTC requires (RFC 8834 4.5)"
	case len(usable(m.Fingerprints)) == 0:
		return errNoFingerprint.Error()
	}
	switch m.Proto {
	case sdp.DTLS, sdp.SAVPF, sdp.SAVP, sdp.AVP, sdp.AVPF, "UDP/TLS/RTP/SAVP":
		return ""
	}
	return "the " + m.Name + " line's protocol is not " + string(sdp.DTLS)
}

// Offer implements call.Media.
func (l *leg) Offer(lines []sdp.Line) ([]byte, error) {
	if l.agreed == nil { // later offers may disable every line
		if err := playable(lines); err != nil {
			return nil, err
		}
	}
	defer l.prune()
	if _, err := l.neg.Offer(lines, func(s *sdp.Section) error { return l.fill(s, sdp.ActPass) }); err != nil {
		return nil, err
	}
	return l.neg.Local(), nil
}

// TakeOffer implements call.Media.
func (l *leg) TakeOffer(offer []byte) ([]sdp.Line, error) {
	d, err := sdp.Parse(offer)
	if err != nil {
		return nil, err
	}
	t, err := l.terms(d, true)
	if err != nil {
		return nil, err
	}
	lines, err := l.neg.TakeOffer(d)
	if err != nil {
		return nil, err
	}
	l.offered, l.remote = t, offer
	return lines, nil
}

// Answer implements call.Media.
func (l *leg) Answer(lines []sdp.Line) ([]byte, error) {
	t := l.offered
	if t == nil {
		return nil, sdp.NotAcceptable("there is no offer to answer")
	}
	defer l.prune()
	if _, err := l.neg.Answer(lines, func(s *sdp.Section) error { return l.fill(s, t.ourSetup()) }); err != nil {
		return nil, err
	}
	if err := l.settle(t); err != nil {
		return nil, err
	}
	l.offered = nil
	return l.neg.Local(), nil
}

// TakeAnswer implements call.Media.
func (l *leg) TakeAnswer(answer []byte) ([]sdp.Line, error) {
	d, err := sdp.Parse(answer)
	if err != nil {
		return nil, err
	}
	t, err := l.terms(d, false)
	if err != nil {
		return nil, err
	}
	lines, err := l.neg.TakeAnswer(d)
	if err != nil {
		return nil, err
	}
	defer l.prune()
	if err := l.settle(t); err != nil {
		return nil, err
	}
	l.remote = answer
	return lines, nil
}

// settle applies what both sides agreed to.
func (l *leg) settle(t *terms) error {
	if l.agreed == nil {
		if err := l.assoc.start(t.remote); err != nil {
			return err
		}
		l.agreed = t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.neg.Agreed() {
		if s.Media != nil {
			l.configs[s.Line] = s.Config
			l.update(s.Line)
		}
	}
	return nil
}

// update hands a line's configuration to the data plane. The caller holds mu.
func (l *leg) update(i int) {
	if line := l.lines[i]; line != nil {
		c := l.configs[i]
		c.Send = c.Send && !l.silent
		line.Update(c)
	}
}

// fill adds our transport to a section, and its line to the data plane.
func (l *leg) fill(s *sdp.Section, setup sdp.Setup) error {
	line, err := l.line(s)
	if err != nil {
		return err
	}
	m, first := s.Media, l.port.advertised[0]
	m.Host, m.Port = first.Addr().String(), int(first.Port())
	m.Ufrag, m.Pwd = l.id.ufrag, l.id.pwd
	m.Candidates, m.EndOfCandidates = l.port.candidates(), true
	m.Fingerprints = []sdp.Fingerprint{l.id.fingerprint}
	m.Setup = setup
	// Chromium plays silence unless the SSRC announced is the one sent. It is
	// announced on hold too, for it is the one sent before and after: Chromium
	// ends the receiver of an SSRC that is announced no more, and the track it
	// gives after that is deaf to WebAudio.
	m.Sources = []sdp.Source{{SSRC: line.SSRC(), CName: l.cname}}
	if m.Direction.Sends() {
		m.Stream = l.cname + " " + l.cname + "-" + m.Mid
	}
	return nil
}

// line is the data plane's line of a section, made at first use.
func (l *leg) line(s *sdp.Section) (*dataplane.Line, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.lines) <= s.Line {
		l.lines = append(l.lines, nil)
		l.configs = append(l.configs, dataplane.LineConfig{})
	}
	if have := l.lines[s.Line]; have != nil {
		if have.Kind() == s.Config.Kind {
			return have, nil
		}
		have.Close()
		l.lines[s.Line] = nil
	}
	c := s.Config
	c.Send, c.Receive = false, false // until both sides have agreed
	made, err := l.transport.AddLine(c)
	if err != nil {
		return nil, err
	}
	l.lines[s.Line], l.configs[s.Line] = made, c
	return made, nil
}

// prune closes lines that neither the session nor an open offer of ours has.
func (l *leg) prune() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, line := range l.lines {
		if line != nil && !l.neg.Carries(i) {
			line.Close()
			l.lines[i] = nil
		}
	}
}

// Rollback implements call.Media.
func (l *leg) Rollback() {
	l.neg.Rollback()
	l.offered = nil
	l.prune()
}

// Local implements call.Media.
func (l *leg) Local() []byte { return l.neg.Local() }

// Capabilities implements call.Media.
func (l *leg) Capabilities() []sdp.Line { return sdp.BrowserLines() }

// Lines implements call.Media.
func (l *leg) Lines() []*dataplane.Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*dataplane.Line, len(l.neg.Agreed()))
	for i, s := range l.neg.Agreed() {
		if s.Media != nil && i < len(l.lines) {
			out[i] = l.lines[i]
		}
	}
	return out
}

// SetSource implements call.Media. A browser's address is ICE's to find.
func (l *leg) SetSource(netip.AddrPort) {}

// Health implements call.Media.
func (l *leg) Health() call.Health {
	return call.Health{
		Established:  l.assoc.established.Load(),
		Failed:       l.assoc.failed(),
		Consent:      l.assoc.consent(),
		LastReceived: l.transport.LastReceived(),
	}
}

// Snapshot implements call.Media.
func (l *leg) Snapshot() call.MediaSnapshot {
	streams := media.Streams(l.plane, l.Lines())
	l.mu.Lock()
	defer l.mu.Unlock()
	s := call.MediaSnapshot{
		Streams:  streams,
		Profile:  string(sdp.DTLS),
		LocalSDP: string(l.neg.Local()), RemoteSDP: string(l.remote),
		Ufrag: l.id.ufrag, Pwd: call.Secret(l.id.pwd),
		Local: l.pair[0], Remote: l.pair[1],
	}
	for _, k := range []struct {
		receive bool
		key     srtp.MasterKey
	}{{true, l.rx}, {false, l.tx}} {
		if k.key.Profile != srtp.ProfileNone {
			s.Keys = append(s.Keys, call.KeySnapshot{
				Receive: k.receive, Profile: profileName(k.key.Profile),
				Key: call.Secret(slices.Clone(k.key.Key)), Salt: call.Secret(slices.Clone(k.key.Salt)),
			})
		}
	}
	return s
}

// Close implements call.Media. It must not be called from within an event.
func (l *leg) Close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.mu.Unlock()
	l.assoc.close()
	l.transport.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range [][]byte{l.rx.Key, l.rx.Salt, l.tx.Key, l.tx.Salt} {
		clear(k)
	}
	l.lines = nil
}

func (l *leg) setPair(local, remote netip.AddrPort) {
	l.mu.Lock()
	changed := l.pair[1].IsValid() && l.pair != [2]netip.AddrPort{local, remote}
	l.pair = [2]netip.AddrPort{local, remote}
	l.mu.Unlock()
	l.transport.SetPair(local, remote)
	l.log.Debug("ice pair selected", "local", local, "remote", remote, "changed", changed)
}

func (l *leg) setKeys(rx, tx srtp.MasterKey) error {
	l.mu.Lock()
	l.rx, l.tx = cloneKey(rx), cloneKey(tx)
	l.mu.Unlock()
	return l.transport.SetKeys(rx, tx)
}

func cloneKey(k srtp.MasterKey) srtp.MasterKey {
	k.Key, k.Salt = slices.Clone(k.Key), slices.Clone(k.Salt)
	return k
}

func (l *leg) up() {
	if l.events.Established != nil {
		l.events.Established()
	}
}

func (l *leg) fail(err error) {
	l.log.Warn("media failed", "err", err)
	if l.events.Failed != nil {
		l.events.Failed(err)
	}
}

// setConsent stops what is sent when the browser's consent runs out, and
// resumes when it is back (RFC 7675 5.1).
func (l *leg) setConsent(alive bool) {
	l.log.Info("browser consent", "alive", alive, "last", l.assoc.consent().Format(time.RFC3339))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = !alive
	for i := range l.lines {
		l.update(i)
	}
}

func (l *leg) authFailing(since time.Time) {
	l.log.Warn("what the browser sends does not authenticate: something on the way changes it", "since", since.Format(time.RFC3339))
}

func (l *leg) keyframe(line *dataplane.Line) {
	if l.events.KeyframeRequest == nil {
		return
	}
	l.mu.Lock()
	i := slices.Index(l.lines, line)
	l.mu.Unlock()
	if i >= 0 {
		l.events.KeyframeRequest(i)
	}
}
