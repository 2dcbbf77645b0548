package call

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

// The far ends of these tests speak real SDP; the media halves under the calls
// keep real offer/answer state. Only sockets and packets are missing.

// formats are the codecs that descriptions of these tests may name.
var formats = map[string]string{
	"PCMU": "0 PCMU/8000", "PCMA": "8 PCMA/8000", "G722": "9 G722/8000", "opus": "111 opus/48000/2",
	"te101": "101 telephone-event/8000", "te126": "126 telephone-event/8000",
	"H264": "97 H264/90000", "VP8": "96 VP8/90000", "G729": "18 G729/8000",
}

// desc writes a description with one m-line per media argument: "audio
// sendrecv PCMU te101". Port 0 is written for "audio rejected".
func desc(port int, media ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "v=0\r\no=- 1 %d IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n", port)
	for i, m := range media {
		f := strings.Fields(m)
		var pts, maps string
		for _, c := range f[2:] {
			spec, ok := formats[c]
			if !ok {
				panic("no format " + c)
			}
			pt, rtpmap, _ := strings.Cut(spec, " ")
			pts += " " + pt
			maps += "a=rtpmap:" + pt + " " + rtpmap + "\r\n"
		}
		p := port + 2*i
		if f[1] == "rejected" {
			p, pts = 0, " 0"
		}
		fmt.Fprintf(&b, "m=%s %d RTP/AVP%s\r\n%s", f[0], p, pts, maps)
		if f[1] != "rejected" {
			fmt.Fprintf(&b, "a=%s\r\n", f[1])
		}
	}
	return []byte(b.String())
}

// read turns what the gateway wrote back into the short form of desc.
func read(t testing.TB, body []byte) string {
	t.Helper()
	d, err := sdp.Parse(body)
	if err != nil {
		t.Fatalf("the gateway wrote SDP that does not parse: %v\n%s", err, body)
	}
	var out []string
	for i := range d.Media {
		m := &d.Media[i]
		if m.Rejected() {
			out = append(out, m.Name+" rejected")
			continue
		}
		s := m.Name + " " + string(m.Direction)
		for _, c := range m.Codecs {
			name := c.Codec
			if c.IsEvents() {
				name = fmt.Sprintf("te%d", c.PayloadType)
			}
			s += " " + name
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// handle makes lines distinct whatever the size of the real one.
type handle struct {
	dataplane.Line
	_ byte
}

// media is a media half over a real negotiator.
type media struct {
	mu        sync.Mutex
	n         *sdp.Negotiator
	o         MediaOptions
	party     Party
	port      int
	lines     map[int]*dataplane.Line
	health    Health
	source    netip.AddrPort
	closed    bool
	rollbacks int
}

func (m *media) fill(s *sdp.Section) error {
	s.Media.Host, s.Media.Port = "192.0.2.1", m.port+2*s.Line
	return nil
}

func (m *media) Offer(lines []sdp.Line) ([]byte, error) {
	d, err := m.n.Offer(lines, m.fill)
	if err != nil {
		return nil, err
	}
	return d.Marshal(), nil
}

func (m *media) TakeOffer(offer []byte) ([]sdp.Line, error) {
	d, err := sdp.Parse(offer)
	if err != nil {
		return nil, err
	}
	return m.n.TakeOffer(d)
}

func (m *media) TakeAnswer(answer []byte) ([]sdp.Line, error) {
	d, err := sdp.Parse(answer)
	if err != nil {
		return nil, err
	}
	return m.n.TakeAnswer(d)
}

func (m *media) Answer(lines []sdp.Line) ([]byte, error) {
	d, err := m.n.Answer(lines, m.fill)
	if err != nil {
		return nil, err
	}
	return d.Marshal(), nil
}

func (m *media) Rollback()     { m.mu.Lock(); m.rollbacks++; m.mu.Unlock() }
func (m *media) Local() []byte { return m.n.Local() }

func (m *media) Capabilities() []sdp.Line {
	if m.party.WebRTC {
		return sdp.BrowserLines()
	}
	return sdp.PhoneLines()
}

func (m *media) Lines() []*dataplane.Line {
	agreed := m.n.Agreed()
	out := make([]*dataplane.Line, len(agreed))
	for i, s := range agreed {
		if s.Media == nil {
			continue
		}
		if m.lines[i] == nil {
			m.lines[i] = &new(handle).Line
		}
		out[i] = m.lines[i]
	}
	return out
}

func (m *media) SetSource(a netip.AddrPort) { m.mu.Lock(); m.source = a; m.mu.Unlock() }

func (m *media) Health() Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health
}

func (m *media) set(f func(*Health)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.health)
}

func (m *media) Snapshot() MediaSnapshot {
	return MediaSnapshot{
		Profile: "RTP/AVP", LocalSDP: string(m.n.Local()), RemoteSDP: "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", Ufrag: "uf", Pwd: Secret("icepassword"),
		Local: netip.MustParseAddrPort("192.0.2.1:20000"),
		Keys: []KeySnapshot{{Receive: true, Profile: "AEAD_AES_128_GCM",
			Key: Secret("masterkey"), Salt: Secret("mastersalt")}},
		Streams: []StreamSnapshot{{InSSRC: 1, OutSSRC: 2, InIndex: 1 << 20, IndexOffset: 1<<48 - 1}},
	}
}

func (m *media) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		panic("media closed twice")
	}
	m.closed = true
}

func (m *media) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

type factory struct {
	r    *rig
	mu   sync.Mutex
	made []*media
	err  error
}

func (f *factory) New(_ context.Context, p Party, o MediaOptions) (Media, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	m := &media{
		n: sdp.NewNegotiator(sdp.Style{Proto: sdp.AVP}, 8), o: o, party: p, port: 20000 + 100*len(f.made),
		lines: map[int]*dataplane.Line{}, health: Health{Established: !p.WebRTC},
	}
	f.made = append(f.made, m)
	return m, nil
}

func (f *factory) of(leg string) *media {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.made {
		if strings.HasSuffix(m.o.LegID, leg) {
			return m
		}
	}
	return nil
}

// engine remembers what is joined.
type engine struct {
	mu        sync.Mutex
	joined    map[*dataplane.Line]*dataplane.Line
	maps      map[*dataplane.Line]dataplane.PayloadMap
	joins     int
	keyframes int
	fault     bool
}

func (e *engine) Join(a, b *dataplane.Line, aToB, bToA dataplane.PayloadMap) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fault {
		panic("a fault of the engine")
	}
	for _, l := range []*dataplane.Line{a, b} {
		if was := e.joined[l]; was != nil {
			delete(e.joined, was)
			delete(e.maps, was)
		}
	}
	e.joined[a], e.joined[b] = b, a
	e.maps[a], e.maps[b] = aToB, bToA
	e.joins++
	return nil
}

func (e *engine) Unjoin(l *dataplane.Line) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.joined, l)
	delete(e.maps, l)
}

func (e *engine) RequestKeyframe(*dataplane.Line) { e.mu.Lock(); e.keyframes++; e.mu.Unlock() }

func (e *engine) Stats(*dataplane.Line) dataplane.LineStats {
	return dataplane.LineStats{Received: dataplane.Counters{Packets: 7}}
}

// between returns the payload map from one media half's line to another's, nil
// when they are not joined.
func (e *engine) between(a, b *media, line int) *dataplane.PayloadMap {
	e.mu.Lock()
	defer e.mu.Unlock()
	la, lb := a.lines[line], b.lines[line]
	if la == nil || lb == nil || e.joined[la] != lb || e.joined[lb] != la {
		return nil
	}
	m := e.maps[la]
	return &m
}

func (e *engine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.joined)
}

// invite is an inbound INVITE and its far end.
type invite struct {
	party     Party
	callID    string
	from, to  Address
	offer     []byte
	hops      int
	cancelled chan struct{}
	ack       chan []byte // closed: the ACK never comes

	mu        sync.Mutex
	progress  []string // "180", "183 audio sendrecv PCMU"
	accepted  []byte
	rejected  int
	reason    string
	headers   []Header
	dialog    *dialog
	finals    int
	abandoned bool // Accept's context ended first
	reinvite  func(context.Context, []byte) ([]byte, error)
}

func (i *invite) Party() Party               { return i.party }
func (i *invite) CallID() string             { return i.callID }
func (i *invite) From() Address              { return i.from }
func (i *invite) To() Address                { return i.to }
func (i *invite) Offer() []byte              { return i.offer }
func (i *invite) MaxForwards() int           { return i.hops }
func (i *invite) Cancelled() <-chan struct{} { return i.cancelled }

func (i *invite) Progress(code int, body []byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := fmt.Sprint(code)
	if body != nil {
		s += " " + string(body)
	}
	i.progress = append(i.progress, s)
	return nil
}

func (i *invite) Accept(ctx context.Context, body []byte, h DialogHandler) (Dialog, []byte, error) {
	i.mu.Lock()
	select {
	case <-i.cancelled:
		i.mu.Unlock()
		return nil, nil, ErrEnded
	default:
	}
	i.finals++
	i.accepted = body
	i.mu.Unlock()
	select {
	case answer, ok := <-i.ack:
		if !ok {
			time.Sleep(32 * time.Second)
			return nil, nil, ErrNoAck
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.dialog = newDialog(i.party, i.callID, h)
		i.dialog.reinvite = i.reinvite
		return i.dialog, answer, nil
	case <-ctx.Done():
		i.mu.Lock()
		defer i.mu.Unlock()
		i.abandoned = true
		return nil, nil, ctx.Err()
	}
}

func (i *invite) Reject(code int, reason string, h ...Header) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.cancelled:
		return ErrEnded
	default:
	}
	i.finals++
	i.rejected, i.reason, i.headers = code, reason, h
	return nil
}

func (i *invite) state() (progress []string, accepted []byte, rejected int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.progress), i.accepted, i.rejected
}

// dialog is a confirmed dialog and its far end.
type dialog struct {
	party  Party
	callID string
	h      DialogHandler

	mu        sync.Mutex
	byes      []string
	reinvites [][]byte
	infos     []string
	pings     int
	reinvite  func(ctx context.Context, offer []byte) ([]byte, error)
	info      func(contentType string) error
	ping      func() error
	bye       func(ctx context.Context) error
}

func newDialog(p Party, callID string, h DialogHandler) *dialog {
	return &dialog{party: p, callID: callID, h: h}
}

func (d *dialog) CallID() string   { return d.callID }
func (d *dialog) Party() Party     { d.mu.Lock(); defer d.mu.Unlock(); return d.party }
func (d *dialog) Ack([]byte) error { return errors.New("the call never delays its own offer") }

func (d *dialog) Reinvite(ctx context.Context, offer []byte, _ func([]byte) []byte) ([]byte, error) {
	d.mu.Lock()
	d.reinvites = append(d.reinvites, offer)
	f := d.reinvite
	d.mu.Unlock()
	if f == nil {
		return nil, &ResponseError{Code: 488, Reason: "no re-INVITE expected"}
	}
	return f(ctx, offer)
}

func (d *dialog) Info(_ context.Context, contentType string, body []byte) error {
	d.mu.Lock()
	d.infos = append(d.infos, contentType+" "+string(body))
	f := d.info
	d.mu.Unlock()
	if f != nil {
		return f(contentType)
	}
	return nil
}

func (d *dialog) Ping(context.Context) error {
	d.mu.Lock()
	d.pings++
	f := d.ping
	d.mu.Unlock()
	if f != nil {
		return f()
	}
	return nil
}

func (d *dialog) Bye(ctx context.Context, reason string) error {
	d.mu.Lock()
	d.byes = append(d.byes, reason)
	f := d.bye
	d.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return nil
}

func (d *dialog) Snapshot() DialogSnapshot {
	return DialogSnapshot{CallID: d.callID, LocalTag: "l", RemoteTag: "r", RouteSet: []string{"<sip:p;lr>"}, LocalCSeq: 3,
		SessionExpires: time.Minute}
}

func (d *dialog) byeCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.byes)
}

func (d *dialog) onReinvite(f func(ctx context.Context, offer []byte) ([]byte, error)) {
	d.mu.Lock()
	d.reinvite = f
	d.mu.Unlock()
}

// answers makes the far end answer every re-INVITE with the same words.
func (d *dialog) answers(media ...string) {
	d.onReinvite(func(context.Context, []byte) ([]byte, error) { return desc(7000, media...), nil })
}

func (d *dialog) lastReinvite() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reinvites) == 0 {
		return nil
	}
	return d.reinvites[len(d.reinvites)-1]
}

func (d *dialog) reinviteCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.reinvites)
}

// outgoing is an outbound INVITE and its far end.
type outgoing struct {
	target   Target
	from, to Address
	offer    []byte
	h        DialogHandler
	callID   string
	ch       chan Response
	stubborn bool // does not answer CANCEL by itself

	mu        sync.Mutex
	cancelled bool
	reason    string
	closed    bool
	dialog    *dialog
}

func (o *outgoing) CallID() string             { return o.callID }
func (o *outgoing) Responses() <-chan Response { return o.ch }

func (o *outgoing) Cancel(reason string) {
	o.mu.Lock()
	again := o.cancelled
	o.cancelled, o.reason = true, reason
	o.mu.Unlock()
	if !again && !o.stubborn {
		o.respond(487, nil)
	}
}

func (o *outgoing) isCancelled() (bool, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cancelled, o.reason
}

// respond sends one response; a final one ends the INVITE. It waits until the
// gateway has done all it will do about it.
func (o *outgoing) respond(code int, body []byte, more ...func(*Response)) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	r := Response{Code: code, SDP: body, Tag: "t1", Source: netip.MustParseAddrPort("192.0.2.20:5060")}
	for _, f := range more {
		f(&r)
	}
	if code >= 200 && code < 300 {
		o.dialog = newDialog(o.target.Party, o.callID, o.h)
		r.Dialog = o.dialog
	}
	o.ch <- r
	if code >= 200 {
		o.closed = true
		close(o.ch)
	}
	o.mu.Unlock()
}

type caller struct {
	mu   sync.Mutex
	outs []*outgoing
	err  error
}

func (c *caller) Invite(_ context.Context, t Target, from, to Address, offer []byte, _ []Header, dh DialogHandler) (Outgoing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	o := &outgoing{target: t, from: from, to: to, offer: offer, h: dh, callID: fmt.Sprintf("out-%d", len(c.outs)+1), ch: make(chan Response, 64)}
	c.outs = append(c.outs, o)
	return o, nil
}

type routerFunc func(Invite) (Decision, error)

func (f routerFunc) Route(_ context.Context, i Invite) (Decision, error) { return f(i) }

// rig is a Manager among fakes.
type rig struct {
	*testing.T
	m        *Manager
	caller   *caller
	engine   *engine
	web, rtp *factory

	mu     sync.Mutex
	events []Event
	logs   bytes.Buffer
	n      int
}

var (
	browser1 = Party{User: "web1", Network: "public", WebRTC: true, Source: netip.MustParseAddrPort("192.0.2.10:40000")}
	phone1   = Party{User: "1001", Network: "inside", Source: netip.MustParseAddrPort("192.0.2.20:5060")}
	phone2   = Party{User: "1002", Network: "inside", Source: netip.MustParseAddrPort("192.0.2.21:5060")}
	browser2 = Party{User: "1001", Network: "public", WebRTC: true, Source: netip.MustParseAddrPort("192.0.2.11:40000")}
	trunk1   = Party{Trunk: "carrier", Network: "outside"}
)

// New implements MediaFactory.
func (r *rig) New(ctx context.Context, p Party, o MediaOptions) (Media, error) {
	if p.WebRTC {
		return r.web.New(ctx, p, o)
	}
	return r.rtp.New(ctx, p, o)
}

// to routes every INVITE to the parties.
func to(parties ...Party) routerFunc {
	return func(i Invite) (Decision, error) {
		d := Decision{From: i.From(), To: i.To()}
		for _, p := range parties {
			d.Targets = append(d.Targets, Target{URI: "sip:" + p.Name(), Party: p})
		}
		return d, nil
	}
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.Write(p)
}

func (r *rig) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.String()
}

// run gives f a Manager in a bubble of its own time; at the end every call must
// be gone and every media half closed.
func run(t *testing.T, route Router, f func(r *rig), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, caller: &caller{}, engine: &engine{
			joined: map[*dataplane.Line]*dataplane.Line{}, maps: map[*dataplane.Line]dataplane.PayloadMap{}}}
		r.web, r.rtp = &factory{r: r}, &factory{r: r}
		cfg := Config{
			Caller: r.caller, Media: r, Engine: r.engine, Router: route,
			Log: slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Observer: func(e Event) {
				r.mu.Lock()
				r.events = append(r.events, e)
				r.mu.Unlock()
			},
		}
		for _, c := range change {
			c(&cfg)
		}
		m, err := NewManager(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.m = m
		f(r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		synctest.Wait()
		r.clean()
	})
}

// clean checks that nothing of any call is left.
func (r *rig) clean() {
	r.Helper()
	if n := r.m.Count(); n != 0 {
		r.Errorf("%d calls are left", n)
	}
	if len(r.m.users) != 0 || len(r.m.outgoing) != 0 {
		r.Errorf("left in the manager: users %v, outgoing %v", r.m.users, r.m.outgoing)
	}
	for _, f := range []*factory{r.web, r.rtp} {
		for _, m := range f.made {
			if !m.isClosed() {
				r.Errorf("media of %s is not closed", m.o.LegID)
			}
		}
	}
	if n := r.engine.count(); n != 0 {
		r.Errorf("%d lines are still joined", n)
	}
}

// dial sends an INVITE from p.
func (r *rig) dial(p Party, offer []byte) *invite {
	r.n++
	i := &invite{
		party: p, callID: fmt.Sprintf("in-%d", r.n), from: Address{User: p.Name(), Host: "gw.test"},
		to: Address{User: "1001", Host: "gw.test"}, offer: offer, hops: 70,
		cancelled: make(chan struct{}), ack: make(chan []byte, 1),
	}
	r.m.OnInvite(i)
	synctest.Wait()
	return i
}

// out is the nth outbound INVITE so far.
func (r *rig) out(n int) *outgoing {
	r.Helper()
	r.caller.mu.Lock()
	defer r.caller.mu.Unlock()
	if len(r.caller.outs) <= n {
		r.Fatalf("%d INVITEs were sent, want one more\n%s", len(r.caller.outs), r.log())
	}
	return r.caller.outs[n]
}

func (r *rig) outs() int {
	r.caller.mu.Lock()
	defer r.caller.mu.Unlock()
	return len(r.caller.outs)
}

// up brings up a call between the caller and the first outbound INVITE.
func (r *rig) up(p Party, offer, answer []byte) (*invite, *outgoing) {
	r.Helper()
	i := r.dial(p, offer)
	o := r.out(r.outs() - 1)
	o.respond(180, nil)
	synctest.Wait()
	o.respond(200, answer)
	synctest.Wait()
	i.ack <- nil
	synctest.Wait()
	if i.dialog == nil || o.dialog == nil {
		r.Fatalf("the call is not up\n%s", r.log())
	}
	return i, o
}

func (r *rig) stages() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, e := range r.events {
		s = append(s, string(e.Stage))
	}
	return strings.Join(s, ", ")
}

func (r *rig) ending() Ending {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Stage == StageEnded {
			return e.Call.Ending
		}
	}
	r.Fatalf("the call has not ended\n%s", r.logs.String())
	return Ending{}
}

func (r *rig) wantEnding(c Cause, by Side, code int) {
	r.Helper()
	if e := r.ending(); e.Cause != c || e.By != by || e.Code != code {
		r.Errorf("ended %s by %s with %d (%s), want %s by %s with %d", e.Cause, e.By, e.Code, e.Detail, c, by, code)
	}
}

func (r *rig) wantSDP(what string, body []byte, want string) {
	r.Helper()
	if got := read(r, body); got != want {
		r.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}
