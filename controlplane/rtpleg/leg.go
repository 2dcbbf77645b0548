package rtpleg

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

// leg is the media half of one phone's or trunk's leg.
type leg struct {
	log     *slog.Logger
	plane   *dataplane.Plane
	network string
	sdes    bool
	v6      bool // family of an offer's first port
	events  call.MediaEvents

	// Used by the call's methods alone, which come one at a time.
	neg     *sdp.Negotiator
	remote  []byte // the far end's last description, for the snapshot
	source  netip.AddrPort
	settled bool
	spare   *dataplane.Transport // taken by New for the first line, of family v6

	mu     sync.Mutex
	media  []*medium // by the call's index, nil where there is none
	closed bool
}

var _ call.Media = (*leg)(nil)

func newLeg(f *Factory, p call.Party, o call.MediaOptions) (*leg, error) {
	style := sdp.Style{Proto: sdp.AVP}
	if o.SDES {
		style.Proto = sdp.SAVP
	}
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	l := &leg{
		log: f.log.With("leg", o.LegID), plane: f.plane, network: p.Network, sdes: o.SDES, v6: o.V6, events: o.Events,
		source: p.Source,
	}
	style.Accept = l.accept
	l.neg = sdp.NewNegotiator(style, binary.BigEndian.Uint64(seed[:]))
	var err error
	if l.spare, err = l.newTransport(o.V6); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *leg) newTransport(v6 bool) (*dataplane.Transport, error) {
	return l.plane.NewPhoneTransport(l.network, v6, dataplane.Events{
		KeyframeRequest: l.keyframe,
		AuthFailing: func(since time.Time) {
			l.log.Warn("what the phone sends does not authenticate: it uses another key than its a=crypto says", "since", since.Format(time.RFC3339))
		},
		Latched: func(to netip.AddrPort) { l.log.Info("media latched to the signalling source", "remote", to) },
	})
}

// accept says why an offered section cannot be carried.
func (l *leg) accept(m *sdp.Media) string {
	addr, ok := m.Addr()
	switch from := l.source.Addr(); {
	case m.Host == "":
		return "the " + m.Name + " line has no c= address"
	case !ok:
		return "the " + m.Name + " line's c= has a host name; write an address"
	case addr.IsMulticast():
		return "the " + m.Name + " line's c= is a multicast address"
	case addr.IsLoopback() && from.IsValid() && !from.IsLoopback():
		// Nobody but this host may have media sent to its own services.
		return "the " + m.Name + " line's c= is a loopback address, which from here is the gateway itself"
	}
	switch m.Proto {
	case sdp.AVP, sdp.AVPF:
		return ""
	case sdp.SAVP, sdp.SAVPF:
		if _, _, err := choose(m.Crypto); err != nil {
			return err.Error()
		}
		return ""
	}
	return "the " + m.Name + " line's protocol is not supported; offer RTP/AVP, or RTP/SAVP with a=crypto"
}

// Offer implements call.Media.
func (l *leg) Offer(lines []sdp.Line) ([]byte, error) {
	defer l.prune()
	if _, err := l.neg.Offer(lines, l.fillOffer); err != nil {
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
	lines, err := l.neg.TakeOffer(d)
	if err != nil {
		return nil, err
	}
	l.remote = offer
	return lines, nil
}

// Answer implements call.Media.
func (l *leg) Answer(lines []sdp.Line) ([]byte, error) {
	defer l.prune()
	if _, err := l.neg.Answer(lines, l.fillAnswer); err != nil {
		return nil, err
	}
	if err := l.settle(); err != nil {
		return nil, err
	}
	return l.neg.Local(), nil
}

// TakeAnswer implements call.Media.
func (l *leg) TakeAnswer(answer []byte) ([]sdp.Line, error) {
	d, err := sdp.Parse(answer)
	if err != nil {
		return nil, err
	}
	for i := range d.Media {
		if m := &d.Media[i]; m.Port != 0 {
			if reason := l.accept(m); reason != "" {
				return nil, sdp.NotAcceptable("the answer: %s", reason)
			}
		}
	}
	lines, err := l.neg.TakeAnswer(d)
	if err != nil {
		return nil, err
	}
	defer l.prune()
	for _, s := range l.neg.Agreed() {
		if s.Media != nil {
			if err := l.takeCrypto(s); err != nil {
				return nil, err
			}
		}
	}
	if err := l.settle(); err != nil {
		return nil, err
	}
	l.remote = answer
	return lines, nil
}

// settle applies what both sides agreed to.
func (l *leg) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.neg.Agreed() {
		if s.Media == nil {
			continue
		}
		if err := l.media[s.Line].settle(s, l.source); err != nil {
			return err
		}
	}
	if l.spare != nil {
		l.spare.Close()
		l.spare = nil
	}
	if !l.settled {
		l.settled = true
		if l.events.Established != nil {
			go l.events.Established() // the caller is the call itself
		}
	}
	return nil
}

// Rollback implements call.Media.
func (l *leg) Rollback() {
	l.neg.Rollback()
	l.prune()
}

// prune closes what neither the session nor an open offer of ours has.
func (l *leg) prune() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, m := range l.media {
		if m != nil && !l.neg.Carries(i) {
			m.close()
			l.media[i] = nil
		}
	}
}

// Local implements call.Media.
func (l *leg) Local() []byte { return l.neg.Local() }

// Capabilities implements call.Media.
func (l *leg) Capabilities() []sdp.Line { return sdp.PhoneLines() }

// Lines implements call.Media.
func (l *leg) Lines() []*dataplane.Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*dataplane.Line, len(l.neg.Agreed()))
	for i, s := range l.neg.Agreed() {
		if s.Media != nil && i < len(l.media) && l.media[i] != nil {
			out[i] = l.media[i].line
		}
	}
	return out
}

// SetSource implements call.Media. A changed source allows the one latch anew.
func (l *leg) SetSource(source netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.source = source
	if !l.settled {
		return
	}
	for _, s := range l.neg.Agreed() {
		if s.Media != nil && l.media[s.Line] != nil {
			l.media[s.Line].aim(s.Remote, s.Media.RTCPMux, source)
		}
	}
}

// Health implements call.Media.
func (l *leg) Health() call.Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := call.Health{Established: l.settled}
	for _, m := range l.media {
		if m != nil {
			if t := m.transport.LastReceived(); t.After(h.LastReceived) {
				h.LastReceived = t
			}
		}
	}
	return h
}

// Snapshot implements call.Media.
func (l *leg) Snapshot() call.MediaSnapshot {
	streams := media.Streams(l.plane, l.Lines())
	l.mu.Lock()
	defer l.mu.Unlock()
	s := call.MediaSnapshot{
		Profile: string(sdp.AVP), LocalSDP: string(l.neg.Local()), RemoteSDP: string(l.remote), Streams: streams,
	}
	for i, a := range l.neg.Agreed() {
		if a.Media == nil || l.media[i] == nil {
			continue
		}
		m := l.media[i]
		if !s.Local.IsValid() {
			s.Profile = string(a.Media.Proto)
			s.Local, _ = m.transport.Local()
			s.Remote = m.aimed.RTP
		}
		for _, k := range []struct {
			receive bool
			key     srtp.MasterKey
		}{{true, m.rx}, {false, m.tx}} {
			if k.key.Profile != srtp.ProfileNone {
				c := cloneKey(k.key)
				s.Keys = append(s.Keys, call.KeySnapshot{
					Line: i, Receive: k.receive, Profile: suiteName(c.Profile), Key: c.Key, Salt: c.Salt,
				})
			}
		}
	}
	return s
}

// Close implements call.Media. The ports stay closed to others while they drain.
func (l *leg) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	if l.spare != nil {
		l.spare.Close()
		l.spare = nil
	}
	for i, m := range l.media {
		if m != nil {
			m.close()
			l.media[i] = nil
		}
	}
}

func (l *leg) keyframe(line *dataplane.Line) {
	if l.events.KeyframeRequest == nil {
		return
	}
	l.mu.Lock()
	i := slices.IndexFunc(l.media, func(m *medium) bool { return m != nil && m.line == line })
	l.mu.Unlock()
	if i >= 0 {
		l.events.KeyframeRequest(i)
	}
}
