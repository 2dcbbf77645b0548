package call

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

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

// open checks that nobody uses a media half that is closed.
func (m *media) open() {
	if m.isClosed() {
		panic("media is used after Close")
	}
}

func (m *media) Offer(lines []sdp.Line) ([]byte, error) {
	m.open()
	d, err := m.n.Offer(lines, m.fill)
	if err != nil {
		return nil, err
	}
	return d.Marshal(), nil
}

func (m *media) TakeOffer(offer []byte) ([]sdp.Line, error) {
	m.open()
	d, err := sdp.Parse(offer)
	if err != nil {
		return nil, err
	}
	return m.n.TakeOffer(d)
}

func (m *media) TakeAnswer(answer []byte) ([]sdp.Line, error) {
	m.open()
	d, err := sdp.Parse(answer)
	if err != nil {
		return nil, err
	}
	return m.n.TakeAnswer(d)
}

func (m *media) Answer(lines []sdp.Line) ([]byte, error) {
	m.open()
	d, err := m.n.Answer(lines, m.fill)
	if err != nil {
		return nil, err
	}
	return d.Marshal(), nil
}

func (m *media) Rollback()     { m.open(); m.mu.Lock(); m.rollbacks++; m.mu.Unlock() }
func (m *media) Local() []byte { m.open(); return m.n.Local() }

func (m *media) Capabilities() []sdp.Line {
	if m.party.WebRTC {
		return sdp.BrowserLines()
	}
	return sdp.PhoneLines()
}

func (m *media) Lines() []*dataplane.Line {
	m.open()
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

func (m *media) SetSource(a netip.AddrPort) { m.open(); m.mu.Lock(); m.source = a; m.mu.Unlock() }

func (m *media) Health() Health {
	m.open()
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

var (
	browser1 = Party{User: "web1", Network: "public", WebRTC: true, Source: netip.MustParseAddrPort("192.0.2.10:40000")}
	phone1   = Party{User: "1001", Network: "inside", Source: netip.MustParseAddrPort("192.0.2.20:5060")}
	phone2   = Party{User: "1002", Network: "inside", Source: netip.MustParseAddrPort("192.0.2.21:5060")}
	browser2 = Party{User: "1001", Network: "public", WebRTC: true, Source: netip.MustParseAddrPort("192.0.2.11:40000")}
	trunk1   = Party{Trunk: "carrier", Network: "outside"}
)
