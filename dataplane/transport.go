package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

var (
	errNoLine        = errors.New("dataplane: no line to join")
	errSameTransport = errors.New("dataplane: both lines are of one transport")
	errPlainBrowser  = errors.New("dataplane: a browser transport needs SRTP keys in both directions")
	errDuplicateMid  = errors.New("dataplane: the mid is taken by another line of the transport")
)

const (
	defaultLatch = 5 * time.Second
	// oldPairs is how many ICE pairs before the current one may still deliver.
	oldPairs = 1
)

// Transport is one leg's media transport. Methods may be called from any goroutine.
type Transport struct {
	plane *Plane
	net   *network
	ev    Events

	browser   *browserPort // browser side, the pair's
	rtp, rtcp *socket      // phone side

	mu      sync.Mutex
	closed  bool
	in      *session // nil: nothing is accepted
	lines   []*Line
	streams map[uint32]*stream
	gone    map[uint32]uint64 // highest index of SRTP streams that made room
	trial   stream            // an unknown SSRC until it has proved itself
	auth    authState

	asked      Remote // as signalling last said
	remote     Remote // as it is after any latch
	latchUntil time.Time
	latched    bool
	pairs      []Binding // browser side, newest first

	control controlState // RTCP received
	reports atomic.Int64 // when the next report of a line is due, Unix ns

	out sender
}

// session is a Session with the transforms of its keys.
type session struct {
	Session
	ctx    *srtp.Context // nil is plain RTP
	master srtp.MasterKey
}

// sender is what a transport sends with.
type sender struct {
	mu        sync.Mutex
	session   *session // nil: nothing may be sent
	rtpVia    *socket
	rtcpVia   *socket
	rtpTo     netip.AddrPort
	rtcpTo    netip.AddrPort
	rtcpIndex uint32
	cname     string
}

func newTransport(p *Plane, n *network, ev Events) *Transport {
	return &Transport{
		plane: p, net: n, ev: ev, streams: make(map[uint32]*stream), gone: make(map[uint32]uint64),
		control: newControlState(),
		out:     sender{cname: randomName()},
	}
}

// Local returns what we are bound to. A browser transport has one port for both;
// before SetPair it is the network's first address.
func (t *Transport) Local() (rtp, rtcp netip.AddrPort) {
	if t.rtp != nil {
		return t.rtp.local, t.rtcp.local
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.browser.socket.local, t.browser.socket.local
}

// Advertised returns what SDP says: Local behind the network's 1:1 NAT.
func (t *Transport) Advertised() (rtp, rtcp netip.AddrPort) {
	rtp, rtcp = t.Local()
	return t.net.advertise(rtp), t.net.advertise(rtcp)
}

// Remote returns where media is sent to now, after any latch.
func (t *Transport) Remote() (rtp, rtcp netip.AddrPort) {
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	return t.out.rtpTo, t.out.rtcpTo
}

// SetRemote is the phone side's: where to send and what to accept. The same
// value again changes nothing: a latch stays. A new one opens a new latch.
func (t *Transport) SetRemote(r Remote) {
	r.RTP, r.RTCP, r.LatchIP = unmap(r.RTP), unmap(r.RTCP), r.LatchIP.Unmap()
	t.plane.control.Lock()
	defer t.plane.control.Unlock()
	t.mu.Lock()
	if t.closed || t.rtp == nil || r == t.asked {
		t.mu.Unlock()
		return
	}
	t.asked, t.remote = r, r
	t.latched = false
	t.latchUntil = time.Time{}
	t.control.unlatch()
	if r.LatchIP.IsValid() {
		t.latchUntil = time.Now().Add(cmpOr(r.LatchFor, defaultLatch))
	}
	t.moved()
	t.mu.Unlock()
	t.sendTo(r)
}

func cmpOr(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// rtcpOf is where a remote's RTCP goes to and comes from (RFC 3605, RFC 5761).
func rtcpOf(r Remote) netip.AddrPort {
	switch {
	case r.Mux:
		return r.RTP
	case r.RTCP.IsValid():
		return r.RTCP
	case r.RTP.IsValid() && r.RTP.Port() < 65535:
		return netip.AddrPortFrom(r.RTP.Addr(), r.RTP.Port()+1)
	}
	return netip.AddrPort{}
}

// sendTo points the output at a phone. Plane.control is held.
func (t *Transport) sendTo(r Remote) {
	t.out.mu.Lock()
	t.out.rtpTo, t.out.rtcpTo = r.RTP, rtcpOf(r)
	if !r.RTP.IsValid() || r.RTP.Addr().IsUnspecified() || r.RTP.Port() == 0 || r.RTP.Addr().Is6() != t.rtp.v6 {
		t.out.rtpTo, t.out.rtcpTo = netip.AddrPort{}, netip.AddrPort{}
	}
	t.out.rtcpVia = t.rtcp
	if r.Mux {
		t.out.rtcpVia = t.rtp
	}
	t.out.mu.Unlock()
	t.redirected()
}

// SetPair is the browser side's: the selected ICE candidate pair. Packets from
// the pair before it are still accepted.
func (t *Transport) SetPair(local, remote netip.AddrPort) {
	local, remote = unmap(local), unmap(remote)
	t.plane.control.Lock()
	defer t.plane.control.Unlock()
	t.mu.Lock()
	if t.closed || t.browser == nil {
		t.mu.Unlock()
		return
	}
	for _, b := range t.net.browser {
		if b.socket.local == local {
			t.browser = b
		}
	}
	pair := Binding{Local: t.browser.socket.local, Remote: remote}
	t.pairs = slices.DeleteFunc(t.pairs, func(b Binding) bool { return b == pair })
	t.pairs = slices.Insert(t.pairs, 0, pair)
	for len(t.pairs) > 1+oldPairs {
		last := t.pairs[len(t.pairs)-1]
		t.port(last.Local).unbind(last.Remote, t)
		t.pairs = t.pairs[:len(t.pairs)-1]
	}
	via := t.browser.socket
	t.browser.bind(remote, t)
	t.moved()
	t.mu.Unlock()

	t.out.mu.Lock()
	t.out.rtpVia, t.out.rtcpVia = via, via
	t.out.rtpTo, t.out.rtcpTo = remote, remote
	t.out.mu.Unlock()
	t.redirected()
}

// port finds the browser port of a local address.
func (t *Transport) port(local netip.AddrPort) *browserPort {
	for _, b := range t.net.browser {
		if b.socket.local == local {
			return b
		}
	}
	return t.browser
}

// bindings are where the transport's RTP may arrive. Transport.mu is held.
func (t *Transport) bindings() []Binding {
	if t.rtp != nil {
		return []Binding{{Local: t.rtp.local, Remote: t.remote.RTP}}
	}
	return slices.Clone(t.pairs)
}

// moved tells the engines that own our streams where they arrive now.
// Transport.mu is held.
func (t *Transport) moved() {
	for _, s := range t.streams {
		if s.flow != nil {
			s.flow.Bindings = t.bindings()
			t.plane.engine.changed(s)
		}
	}
}

// redirected tells the engines that own the streams sent by this transport
// where they go now. Plane.control is held.
func (t *Transport) redirected() {
	for _, l := range t.lines {
		if l.peer != nil {
			l.peer.t.redirect(l.peer)
		}
	}
}

// redirect takes the peer's address into the flow that feeds it.
func (t *Transport) redirect(l *Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := l.source; s != nil && s.flow != nil && l.route != nil {
		tx := &l.route.to.t.out
		tx.mu.Lock()
		s.flow.OutLocal, s.flow.OutRemote = tx.rtpVia.local, tx.rtpTo
		tx.mu.Unlock()
		t.plane.engine.changed(s)
	}
}

// SetKeys installs SRTP keys; rx unprotects what arrives, tx protects what is
// sent. A key equal to the installed one keeps its state; a new one starts at
// roll-over counter 0. Two zero keys (ProfileNone) are plain RTP, on the phone
// side only.
func (t *Transport) SetKeys(rx, tx srtp.MasterKey) error {
	if t.rtp == nil && (rx.Profile == srtp.ProfileNone || tx.Profile == srtp.ProfileNone) {
		return errPlainBrowser
	}
	in, err := t.newSession(rx)
	if err != nil {
		return fmt.Errorf("receive key: %w", err)
	}
	out, err := t.newSession(tx)
	if err != nil {
		return fmt.Errorf("send key: %w", err)
	}
	t.plane.control.Lock()
	defer t.plane.control.Unlock()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	if t.in == nil || !t.in.master.Equal(rx) {
		t.forgetStreams()
		clear(t.gone)
		t.in = in
		t.control.rekeyed()
		t.auth = authState{}
	}
	t.mu.Unlock()

	t.out.mu.Lock()
	same := t.out.session != nil && t.out.session.master.Equal(tx)
	t.out.mu.Unlock()
	if same {
		return nil
	}
	for _, l := range t.lines {
		l.peer.detachSource()
	}
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	t.out.session, t.out.rtcpIndex = out, 0
	for _, l := range t.lines {
		l.out.epoch++
		l.out.next = uint64(uint16(l.out.next)) // a new key starts at roll-over counter 0
	}
	return nil
}

func (t *Transport) newSession(m srtp.MasterKey) (*session, error) {
	s := &session{Session: Session{ID: t.plane.newSession()}}
	if m.Profile == srtp.ProfileNone {
		return s, nil
	}
	keys, err := srtp.Derive(m)
	if err != nil {
		return nil, err
	}
	if s.ctx, err = srtp.NewContext(keys); err != nil {
		return nil, err
	}
	s.Keys = keys
	s.master = srtp.MasterKey{Profile: m.Profile, Key: slices.Clone(m.Key), Salt: slices.Clone(m.Salt)}
	return s, nil
}

// forgetStreams ends every stream of the current key. Transport.mu is held.
func (t *Transport) forgetStreams() {
	for ssrc, s := range t.streams {
		t.forget(s)
		delete(t.streams, ssrc)
	}
}

// forget ends a stream and keeps its counters with the line.
func (t *Transport) forget(s *stream) {
	t.detach(s)
	delete(t.control.srs, s.ssrc)
	if l := s.line; l != nil {
		l.ended.add(s.totals())
		if l.source == s {
			l.source = nil
		}
	}
}

// AddLine adds a media line. Payload types should be unique among the lines of
// one transport, unless the mid extension is in use (RFC 8843 9.2).
func (t *Transport) AddLine(c LineConfig) (*Line, error) {
	t.plane.control.Lock()
	defer t.plane.control.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	l := &Line{t: t}
	ssrcs := make(map[uint32]bool)
	for _, o := range t.lines {
		ssrcs[o.out.ssrc] = true
		if c.Mid != "" && o.cfg.Mid == c.Mid {
			return nil, fmt.Errorf("%w: %q", errDuplicateMid, c.Mid)
		}
	}
	for l.out.ssrc == 0 || ssrcs[l.out.ssrc] {
		l.out.ssrc = rand.Uint32()
	}
	// RFC 3711 3.3.1: a start below 2^15 cannot roll over before it is heard. Room
	// is left below for packets that the first one overtakes.
	l.out.next = srtp.WindowSize + uint64(rand.IntN(1<<15-srtp.WindowSize))
	l.out.open = c.Send
	l.configure(c)
	t.lines = append(t.lines, l)
	return l, nil
}

// dropLine forgets a line and its streams. Plane.control and Transport.mu are held.
func (t *Transport) dropLine(l *Line) {
	for ssrc, s := range t.streams {
		if s.line == l {
			t.forget(s)
			delete(t.streams, ssrc)
		}
	}
	t.lines = slices.DeleteFunc(t.lines, func(o *Line) bool { return o == l })
}

// LastReceived is the time of the last authenticated or strictly sourced media,
// from the engine that owns the stream; zero if none came.
func (t *Transport) LastReceived() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last time.Time
	for _, s := range t.streams {
		if at := t.plane.engine.counters(s).LastPacket; at.After(last) {
			last = at
		}
	}
	for _, l := range t.lines {
		if l.ended.LastPacket.After(last) {
			last = l.ended.LastPacket
		}
	}
	return last
}

// Close ends the transport and its lines. drained is closed once its ports are
// free for others; a browser transport's is closed at once.
func (t *Transport) Close() (drained <-chan struct{}) {
	done := make(chan struct{})
	t.plane.control.Lock()
	for _, l := range slices.Clone(t.lines) {
		l.close()
	}
	t.mu.Lock()
	again := t.closed
	t.closed = true
	t.forgetStreams()
	for _, pair := range t.pairs {
		t.port(pair.Local).unbind(pair.Remote, t)
	}
	t.mu.Unlock()
	t.plane.control.Unlock()
	if again || t.rtp == nil {
		if !again {
			t.plane.remove(t)
		}
		close(done)
		return done
	}
	// The sockets stay bound and read, so that late packets meet neither
	// another call nor a port-unreachable.
	drains := t.plane.background(func() {
		defer close(done)
		timer := time.NewTimer(t.plane.drain)
		defer timer.Stop()
		select {
		case <-timer.C:
			t.free()
			t.plane.remove(t)
		case <-t.plane.stop: // Close frees it
		}
	})
	if !drains {
		close(done)
	}
	return done
}

// free closes the sockets and gives the ports back.
func (t *Transport) free() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	if t.rtp == nil {
		return
	}
	t.rtp.close()
	t.rtcp.close()
	t.net.release(t.rtp.local)
}
