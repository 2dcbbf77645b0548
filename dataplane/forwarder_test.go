package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	pionrtp "github.com/pion/rtp"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// fakeForwarder carries streams as the kernel programs do, in Go: by exact
// binding and SSRC, above the cut, until it is told to give them back.
type fakeForwarder struct {
	t       testing.TB
	capture *capture

	mu      sync.Mutex
	flows   map[FlowID]*fakeFlow
	refuse  Reason
	failing error         // of Install
	delay   time.Duration // of Install
	pause   func()        // in Install
	stuck   error         // of Release and Remove
	lost    bool          // every packet goes up
	fussy   bool          // every injected packet goes up, as fragments and a TTL of 1 do
	counts  struct{ installs, updates, releases, removes, carried, injected int }
}

type fakeFlow struct {
	Flow
	window    srtp.Window
	above     uint64
	until     uint64
	counters  Counters
	installed Counters // that Install was given
	in, out   *srtp.Context
}

func newFakeForwarder(t testing.TB) *fakeForwarder {
	return &fakeForwarder{t: t, flows: make(map[FlowID]*fakeFlow), capture: newCapture(t)}
}

func (w *fakeForwarder) Path(string) string { return "kernel:fake" }

func (w *fakeForwarder) Eligible(*Flow) Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refuse
}

func (w *fakeForwarder) context(s Session) *srtp.Context {
	if s.Keys == nil {
		return nil
	}
	c, err := srtp.NewContext(s.Keys)
	if err != nil {
		w.t.Error(err)
	}
	return c
}

func (w *fakeForwarder) Install(f *Flow, state State, cut uint64) error {
	time.Sleep(w.delay) // what a slow kernel does
	w.mu.Lock()
	pause := w.pause
	w.mu.Unlock()
	if pause != nil {
		pause()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.installs++
	if w.failing != nil {
		return w.failing
	}
	if state.Window.Highest() > cut {
		w.t.Errorf("installed with a cut %d below the highest index %d", cut, state.Window.Highest())
	}
	if f.ID == 0 || f.In.ID == 0 || f.Out.ID == 0 || len(f.Bindings) == 0 {
		w.t.Errorf("incomplete flow %+v", f)
	}
	if state.Packets != 0 || state.Octets != 0 || state.Lost != 0 {
		w.t.Errorf("counters %+v are the user engine's", state.Counters)
	}
	for _, o := range w.flows {
		if o.ID == f.ID {
			w.t.Errorf("flow %d is installed already", f.ID)
		}
		if o.In.ID == f.In.ID && o.InSSRC == f.InSSRC {
			return errors.New("that SSRC is installed already")
		}
	}
	w.flows[f.ID] = &fakeFlow{Flow: *f, window: state.Window, above: cut, until: srtp.IndexMask,
		counters: Counters{Jitter: state.Jitter}, installed: state.Counters, in: w.context(f.In), out: w.context(f.Out)}
	return nil
}

func (w *fakeForwarder) Update(f *Flow) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.updates++
	o := w.flows[f.ID]
	if o == nil {
		return errors.New("no such flow")
	}
	if o.IndexOffset != f.IndexOffset || o.OutSSRC != f.OutSSRC || o.Out.ID != f.Out.ID || o.TimestampAdd != f.TimestampAdd {
		w.t.Errorf("an update changes identity: %+v to %+v", o.Flow, f)
	}
	o.Bindings, o.OutLocal, o.OutRemote, o.Payload, o.Extensions = f.Bindings, f.OutLocal, f.OutRemote, f.Payload, f.Extensions
	return nil
}

func (w *fakeForwarder) Release(id FlowID) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.releases++
	o := w.flows[id]
	if o == nil || w.stuck != nil {
		return State{}, errors.Join(w.stuck, errors.New("release"))
	}
	o.until = o.window.Highest()
	return State{o.window, o.counters}, nil
}

func (w *fakeForwarder) Remove(id FlowID) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.removes++
	o := w.flows[id]
	if o == nil || w.stuck != nil {
		return State{}, errors.Join(w.stuck, errors.New("remove"))
	}
	delete(w.flows, id)
	return State{o.window, o.counters}, nil
}

func (w *fakeForwarder) Read(id FlowID) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.flows[id]
	if o == nil {
		return State{}, errors.New("no such flow")
	}
	return State{o.window, o.counters}, nil
}

func (w *fakeForwarder) Inject(network string, packet []byte) (Injected, error) {
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[12:16])), binary.BigEndian.Uint16(packet[20:]))
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[16:20])), binary.BigEndian.Uint16(packet[22:]))
	w.mu.Lock()
	w.counts.injected++
	fussy := w.fussy
	w.mu.Unlock()
	if fussy {
		return Injected{}, nil
	}
	out, remote, _ := w.ingress(packet[28:], from, to)
	return Injected{Local: to, Remote: remote, Payload: out}, nil
}

func (w *fakeForwarder) Close() error { return nil }

// ingress is what the programs do with a packet from the network: taken, or up.
func (w *fakeForwarder) ingress(raw []byte, from, to netip.AddrPort) ([]byte, netip.AddrPort, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ssrc := binary.BigEndian.Uint32(raw[8:])
	for _, f := range w.flows {
		bound := false
		for _, b := range f.Bindings {
			bound = bound || b == Binding{Local: to, Remote: from}
		}
		if !bound || f.InSSRC != ssrc {
			continue
		}
		return f.carry(w, bytes.Clone(raw))
	}
	return nil, netip.AddrPort{}, false
}

func (f *fakeFlow) carry(w *fakeForwarder, raw []byte) ([]byte, netip.AddrPort, bool) {
	index := f.window.Estimate(binary.BigEndian.Uint16(raw[2:]))
	far := int64(index)-int64(f.window.Highest()) > maxDropout || int64(f.window.Highest())-int64(index) >= srtp.WindowSize
	if w.lost || index <= f.above || index > f.until || f.in == nil && far || f.Payload[raw[1]&0x7f] == PayloadDrop {
		return nil, netip.AddrPort{}, false // up
	}
	if !f.window.Check(index) {
		return nil, netip.AddrPort{}, true // dropped
	}
	h, ok := srtp.HeaderLen(raw)
	if !ok {
		return nil, netip.AddrPort{}, true
	}
	if f.in != nil {
		var err error
		if raw, err = f.in.Unprotect(raw, h, index); err != nil {
			return nil, netip.AddrPort{}, true
		}
	}
	f.window.Accept(index)
	f.counters.Packets++
	f.counters.Octets += uint64(len(raw) - h)
	f.counters.LastPacket = time.Now()
	f.counters.LastTimestamp = binary.BigEndian.Uint32(raw[4:])
	out := (index + f.IndexOffset) & srtp.IndexMask
	raw[1] = raw[1]&0x80 | f.Payload[raw[1]&0x7f]
	binary.BigEndian.PutUint16(raw[2:], uint16(out))
	binary.BigEndian.PutUint32(raw[4:], f.counters.LastTimestamp+f.TimestampAdd)
	binary.BigEndian.PutUint32(raw[8:], f.OutSSRC)
	if f.out != nil {
		raw = append(make([]byte, 0, len(raw)+srtp.MaxOverhead), raw...)
		raw, _ = f.out.Protect(raw, h, out)
	}
	w.counts.carried++
	if w.capture != nil {
		w.capture.take(f.Out, raw)
	}
	return raw, f.OutRemote, true
}

// capture sees every packet that leaves the gateway, by either engine.
type capture struct {
	t        testing.TB
	mu       sync.Mutex
	contexts map[SessionID]*srtp.Context
	windows  map[capturedStream]*srtp.Window
	seen     map[capturedIndex][]byte
	payloads map[string]int
	packets  []pionrtp.Packet
}

type capturedStream struct {
	session SessionID
	ssrc    uint32
}

type capturedIndex struct {
	capturedStream
	index uint64
}

func newCapture(t testing.TB) *capture {
	return &capture{t: t, contexts: make(map[SessionID]*srtp.Context), windows: make(map[capturedStream]*srtp.Window),
		seen: make(map[capturedIndex][]byte), payloads: make(map[string]int)}
}

// take decrypts a packet as a receiver would and fails the test when its (key,
// SSRC, index) was used before.
func (c *capture) take(s Session, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw = bytes.Clone(raw)
	key := capturedStream{s.ID, binary.BigEndian.Uint32(raw[8:])}
	w := c.windows[key]
	if w == nil {
		w = new(srtp.Window)
		c.windows[key] = w
	}
	at := capturedIndex{key, w.Estimate(binary.BigEndian.Uint16(raw[2:]))}
	if old, used := c.seen[at]; used {
		c.t.Errorf("index %d of SSRC %#x is used twice, same bytes: %v", at.index, key.ssrc, bytes.Equal(old, raw))
	}
	c.seen[at] = bytes.Clone(raw)
	if s.Keys != nil {
		ctx := c.contexts[s.ID]
		if ctx == nil {
			var err error
			if ctx, err = srtp.NewContext(s.Keys); err != nil {
				c.t.Error(err)
				return
			}
			c.contexts[s.ID] = ctx
		}
		h, _ := srtp.HeaderLen(raw)
		var err error
		if raw, err = ctx.Unprotect(raw, h, at.index); err != nil {
			c.t.Errorf("a receiver cannot decrypt index %d: %v", at.index, err)
			return
		}
	}
	w.Accept(at.index)
	var pkt pionrtp.Packet
	if err := pkt.Unmarshal(raw); err != nil {
		c.t.Error(err)
		return
	}
	c.payloads[string(pkt.Payload)]++
	c.packets = append(c.packets, pkt)
}

// wire delivers packets to a plane without sockets: to the Forwarder first, then
// to the transport, whose output is captured instead of sent.
type wire struct {
	forward *fakeForwarder
	capture *capture
	b       *batch
}

func newWire(t testing.TB, w *fakeForwarder) *wire {
	x := &wire{forward: w, b: batches.New().(*batch)}
	if w != nil {
		x.capture = w.capture
	} else {
		x.capture = newCapture(t)
	}
	return x
}

func (x *wire) deliver(p *peer, raw []byte) {
	via := p.transport.rtp
	if via == nil {
		via = p.transport.browser.socket
	}
	from := unmap(p.addr())
	if x.forward != nil {
		if _, _, taken := x.forward.ingress(raw, from, via.local); taken {
			return
		}
	}
	x.up(p, raw)
}

// up delivers a packet to the transport alone, as one that the programs passed up
// before they looked at it.
func (x *wire) up(p *peer, raw []byte) {
	via := p.transport.rtp
	if via == nil {
		via = p.transport.browser.socket
	}
	from := unmap(p.addr())
	b := x.b
	b.now = time.Now()
	p.transport.receiveRTP(b, b.bufs[0][:copy(b.bufs[0][:], raw)], via, from)
	for i := range b.nout {
		to := p.line.peer.t
		to.out.mu.Lock()
		s := to.out.session.Session
		to.out.mu.Unlock()
		x.capture.take(s, b.out[i].packet)
	}
	b.nout = 0
}
