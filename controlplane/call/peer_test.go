package call_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/sluicegw/sluice/controlplane/sdp"
)

// heard collects what arrived, by what it says: every packet's payload is the
// sender's word repeated.
type heard struct {
	mu     sync.Mutex
	words  map[string]int             // packets by payload type and word: "0 alice"
	seen   map[uint32]map[uint16]bool // sequence numbers by SSRC
	twice  int                        // packets with a number that was used before
	newest uint16
	back   int // packets older than one that came before
}

func (h *heard) note(p *rtp.Packet) {
	word, _, _ := bytes.Cut(p.Payload, []byte{'.'})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.words == nil {
		h.words, h.seen = map[string]int{}, map[uint32]map[uint16]bool{}
	}
	if h.seen[p.SSRC] == nil {
		h.seen[p.SSRC] = map[uint16]bool{}
	} else if int16(p.SequenceNumber-h.newest) < 0 {
		h.back++
	}
	h.newest = p.SequenceNumber
	if h.seen[p.SSRC][p.SequenceNumber] {
		h.twice++
	}
	h.seen[p.SSRC][p.SequenceNumber] = true
	h.words[fmt.Sprintf("%d %s", p.PayloadType, word)]++
}

func (h *heard) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.words[what]
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.words)
}

// want waits until n more packets of a payload type with a word have arrived.
func (h *heard) want(t testing.TB, what string, n int) {
	t.Helper()
	from := h.count(what)
	deadline := time.Now().Add(patience)
	for h.count(what) < from+n {
		if time.Now().After(deadline) {
			t.Fatalf("heard %s, want %d more of %q", h, n, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// oneStream checks that all of it came as one stream: one SSRC, whose sequence
// numbers only grow. Towards SRTP anything else would repeat a keystream.
func (h *heard) oneStream(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) != 1 || h.twice > 0 || h.back > 0 {
		t.Errorf("%d SSRCs, %d numbers used twice, %d packets out of order", len(h.seen), h.twice, h.back)
	}
}

// quiet checks that nothing more of what arrives within a while.
func (h *heard) quiet(t testing.TB, what string, d time.Duration) {
	t.Helper()
	time.Sleep(50 * time.Millisecond) // what is under way
	from := h.count(what)
	time.Sleep(d)
	if n := h.count(what) - from; n > 0 {
		t.Errorf("%d packets of %q where none should come", n, what)
	}
}

func payload(word string) []byte {
	return []byte(strings.Repeat(word+".", 160/(len(word)+1)+1)[:160])
}

// talker sends a packet each 20 ms.
type talker struct {
	send   func(*rtp.Packet)
	word   string
	pt     atomic.Uint32
	paused atomic.Bool
	digits chan uint8 // payload type of a digit to send now
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

func talk(word string, pt uint8, ssrc uint32, send func(*rtp.Packet)) *talker {
	k := &talker{send: send, word: word, digits: make(chan uint8, 4), stop: make(chan struct{}), done: make(chan struct{})}
	k.pt.Store(uint32(pt))
	go func() {
		defer close(k.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for seq := uint16(0xff00); ; seq++ { // rolls over after five seconds
			p := &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: uint8(k.pt.Load()), SequenceNumber: seq,
				Timestamp: uint32(seq) * 160, SSRC: ssrc}, Payload: payload(word)}
			select {
			case <-k.stop:
				return
			case <-tick.C:
			case pt := <-k.digits:
				p.PayloadType, p.Payload = pt, append([]byte{5, 0x8a, 0, 160, '.'}, []byte("dtmf")...)
			}
			if !k.paused.Load() {
				send(p)
			}
		}
	}()
	return k
}

func (k *talker) end() {
	k.once.Do(func() { close(k.stop) })
	<-k.done
}

// phone is a phone's media: a UDP socket, plain RTP.
type phone struct {
	heard
	*talker
	conn *net.UDPConn
	mu2  sync.Mutex
	to   *net.UDPAddr
	done chan struct{}
}

// newPhone talks the word with the payload type as soon as it knows whereto.
func newPhone(t testing.TB, word string, pt uint8) *phone {
	t.Helper()
	return newPhoneAt(t, "127.0.0.1", word, pt)
}

func newPhoneAt(t testing.TB, ip, word string, pt uint8) *phone {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{conn: conn, done: make(chan struct{})}
	p.talker = talk(word, pt, 0x1000+uint32(conn.LocalAddr().(*net.UDPAddr).Port), func(m *rtp.Packet) {
		b, err := m.Marshal()
		if err != nil {
			t.Error(err)
		}
		p.mu2.Lock()
		to := p.to
		p.mu2.Unlock()
		if to != nil {
			_, _ = conn.WriteToUDP(b, to)
		}
	})
	go func() {
		defer close(p.done)
		buf := make([]byte, 2048)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			var m rtp.Packet
			if m.Unmarshal(bytes.Clone(buf[:n])) == nil && m.Version == 2 {
				p.note(&m)
			}
		}
	}()
	t.Cleanup(p.close)
	return p
}

func (p *phone) close() {
	p.talker.end()
	p.conn.Close()
	<-p.done
}

// aim reads where the gateway wants media from its SDP.
func (p *phone) aim(t testing.TB, body []byte) {
	t.Helper()
	d, err := sdp.Parse(body)
	if err != nil || len(d.Media) == 0 || d.Media[0].Rejected() {
		t.Fatalf("no audio in the gateway's SDP: %v\n%s", err, body)
	}
	p.mu2.Lock()
	p.to = &net.UDPAddr{IP: net.ParseIP(d.Media[0].Host), Port: d.Media[0].Port}
	p.mu2.Unlock()
}

// sdp describes the phone: a direction and rtpmaps as "0 PCMU/8000".
func (p *phone) sdp(direction string, rtpmaps ...string) []byte {
	at := p.conn.LocalAddr().(*net.UDPAddr)
	body := phoneSDP(at.Port, direction, rtpmaps...)
	if at.IP.To4() == nil {
		body = bytes.ReplaceAll(body, []byte("IN IP4 127.0.0.1"), []byte("IN IP6 "+at.IP.String()))
	}
	return body
}

var sdpVersion atomic.Uint64

func phoneSDP(port int, direction string, rtpmaps ...string) []byte {
	var pts, maps string
	for _, m := range rtpmaps {
		pt, _, _ := strings.Cut(m, " ")
		pts += " " + pt
		maps += "a=rtpmap:" + m + "\r\n"
	}
	return fmt.Appendf(nil, "v=0\r\no=- 1 %d IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio %d RTP/AVP%s\r\n%sa=%s\r\n",
		sdpVersion.Add(1), port, pts, maps, direction)
}

const (
	ulaw  = "0 PCMU/8000"
	alaw  = "8 PCMA/8000"
	te101 = "101 telephone-event/8000"
)

// track sends packets with the payload type they have: pion's own tracks would
// write a digit as audio.
type track struct {
	codec webrtc.RTPCodecCapability
	mu    sync.Mutex
	out   webrtc.TrackLocalWriter
	ssrc  webrtc.SSRC
}

func (k *track) Bind(c webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.out, k.ssrc = c.WriteStream(), c.SSRC()
	for _, p := range c.CodecParameters() {
		if strings.EqualFold(p.MimeType, k.codec.MimeType) {
			return p, nil
		}
	}
	return c.CodecParameters()[0], nil
}

func (k *track) Unbind(webrtc.TrackLocalContext) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.out = nil
	return nil
}

func (k *track) ID() string                { return "audio" }
func (k *track) RID() string               { return "" }
func (k *track) StreamID() string          { return "stream" }
func (k *track) Kind() webrtc.RTPCodecType { return webrtc.RTPCodecTypeAudio }

func (k *track) send(p *rtp.Packet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.out != nil {
		p.SSRC = uint32(k.ssrc)
		_, _ = k.out.WriteRTP(&p.Header, p.Payload)
	}
}

// browser is a browser's media: pion/webrtc, PCMU and PCMA.
type browser struct {
	heard
	*talker
	t    testing.TB
	pc   *webrtc.PeerConnection
	once sync.Once
}

func newBrowser(t testing.TB, word string, mimes ...string) *browser {
	t.Helper()
	var me webrtc.MediaEngine
	pts := map[string]webrtc.PayloadType{webrtc.MimeTypePCMU: 0, webrtc.MimeTypePCMA: 8, webrtc.MimeTypeOpus: 111}
	if len(mimes) == 0 {
		mimes = []string{webrtc.MimeTypePCMU, webrtc.MimeTypePCMA}
	}
	var first webrtc.RTPCodecCapability
	for i, m := range mimes {
		c := webrtc.RTPCodecCapability{MimeType: m, ClockRate: 8000}
		if m == webrtc.MimeTypeOpus {
			c.ClockRate, c.Channels = 48000, 2
		}
		if i == 0 {
			first = c
		}
		if err := me.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: c, PayloadType: pts[m]}, webrtc.RTPCodecTypeAudio); err != nil {
			t.Fatal(err)
		}
	}
	te := webrtc.RTPCodecCapability{MimeType: "audio/telephone-event", ClockRate: 8000}
	if err := me.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: te, PayloadType: 126}, webrtc.RTPCodecTypeAudio); err != nil {
		t.Fatal(err)
	}
	var se webrtc.SettingEngine
	se.SetIncludeLoopbackCandidate(true)
	se.SetInterfaceFilter(func(name string) bool { return name == "lo" })
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(&me), webrtc.WithSettingEngine(se)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, pc: pc}
	track := &track{codec: first}
	sender, err := pc.AddTrack(track)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // RTCP must be read
		buf := make([]byte, 1500)
		for {
			if _, _, err := sender.Read(buf); err != nil {
				return
			}
		}
	}()
	pc.OnTrack(func(tr *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			p, _, err := tr.ReadRTP()
			if err != nil {
				return
			}
			b.note(p)
		}
	})
	b.talker = talk(word, 0, 1, track.send)
	t.Cleanup(b.close)
	return b
}

func (b *browser) close() {
	b.talker.end()
	b.once.Do(func() {
		_ = b.pc.GracefulClose()
		b.pc, b.talker.send = nil, nil // a clean-up that is still to come holds b
	})
}

func (b *browser) local(d webrtc.SessionDescription, err error) []byte {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	gathered := webrtc.GatheringCompletePromise(b.pc)
	if err := b.pc.SetLocalDescription(d); err != nil {
		b.t.Fatal(err)
	}
	<-gathered
	return []byte(b.pc.LocalDescription().SDP)
}

func (b *browser) offer() []byte {
	b.t.Helper()
	return b.local(b.pc.CreateOffer(nil))
}

func (b *browser) takeAnswer(body []byte) {
	b.t.Helper()
	if err := b.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: string(body)}); err != nil {
		b.t.Fatalf("the gateway's answer: %v\n%s", err, body)
	}
}

func (b *browser) answer(offer []byte) []byte {
	b.t.Helper()
	if err := b.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: string(offer)}); err != nil {
		b.t.Fatalf("the gateway's offer: %v\n%s", err, offer)
	}
	return b.local(b.pc.CreateAnswer(nil))
}

// direction offers another direction: hold and resume. pion itself goes on as
// it was, which is what the tests hear music on hold by.
func (b *browser) direction(d webrtc.RTPTransceiverDirection) []byte {
	b.t.Helper()
	offer := string(b.offer())
	for _, was := range []string{"sendrecv", "sendonly", "recvonly", "inactive"} {
		offer = strings.Replace(offer, "a="+was+"\r\n", "a="+d.String()+"\r\n", 1)
	}
	return []byte(offer)
}
