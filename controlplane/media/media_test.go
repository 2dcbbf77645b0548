package media_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"go.uber.org/goleak"

	"github.com/sluicegw/sluice/controlplane/call"
	own "github.com/sluicegw/sluice/controlplane/media"
	"github.com/sluicegw/sluice/controlplane/rtpleg"
	"github.com/sluicegw/sluice/controlplane/sdp"
	gwebrtc "github.com/sluicegw/sluice/controlplane/webrtc"
	"github.com/sluicegw/sluice/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// gateway is a data plane with both kinds of legs on loopback.
type gateway struct {
	plane   *dataplane.Plane
	factory call.MediaFactory
}

func newGateway(t *testing.T, addresses ...string) *gateway {
	t.Helper()
	n := dataplane.Network{Name: "test", PortMin: 30000, PortMax: 30999}
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	plane, err := dataplane.New(dataplane.Config{
		Networks: []dataplane.Network{n}, Reason: dataplane.ReasonDisabled, Drain: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	browsers, err := gwebrtc.NewFactory(gwebrtc.Config{Plane: plane, Networks: []dataplane.Network{n}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
		browsers.Close()
	})
	return &gateway{plane, own.Factory{Browser: browsers, Phone: newPhones(plane)}}
}

func newPhones(plane *dataplane.Plane) call.MediaFactory {
	return rtpleg.NewFactory(rtpleg.Config{Plane: plane})
}

// events of a leg, as channels.
type events struct {
	up     chan struct{}
	failed chan error
}

func (g *gateway) leg(t *testing.T, browser bool, source string, o call.MediaOptions) (call.Media, *events) {
	t.Helper()
	ev := &events{make(chan struct{}), make(chan error, 1)}
	o.Events = call.MediaEvents{
		Established: func() { close(ev.up) },
		Failed:      func(err error) { ev.failed <- err },
	}
	p := call.Party{Network: "test", WebRTC: browser}
	if source != "" {
		p.Source = netip.MustParseAddrPort(source)
	}
	m, err := g.factory.New(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, ev
}

// join connects two legs' lines as a call does after the answer.
func (g *gateway) join(t *testing.T, a, b call.Media, aLines, bLines []sdp.Line) {
	t.Helper()
	la, lb := a.Lines(), b.Lines()
	for i := range la {
		if la[i] == nil || i >= len(lb) || lb[i] == nil {
			continue
		}
		aToB, bToA := sdp.PayloadMaps(aLines[i], bLines[i])
		if err := g.plane.Join(la[i], lb[i], aToB, bToA); err != nil {
			t.Fatal(err)
		}
	}
}

// pionBrowser is a browser made of pion/webrtc.
type pionBrowser struct {
	*webrtc.PeerConnection
	t     *testing.T
	track *webrtc.TrackLocalStaticSample
	heard chan *rtp.Packet
	state chan webrtc.PeerConnectionState
}

func newPionBrowser(t *testing.T, mime string, tune func(*webrtc.SettingEngine)) *pionBrowser {
	t.Helper()
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetInterfaceFilter(func(name string) bool { return name == "lo" })
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	if tune != nil {
		tune(&s)
	}
	var m webrtc.MediaEngine
	if err := m.RegisterDefaultCodecs(); err != nil {
		t.Fatal(err)
	}
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(s), webrtc.WithMediaEngine(&m)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	b := &pionBrowser{PeerConnection: pc, t: t, heard: make(chan *rtp.Packet, 256), state: make(chan webrtc.PeerConnectionState, 16)}
	var readers sync.WaitGroup
	t.Cleanup(func() {
		if err := pc.GracefulClose(); err != nil {
			t.Error(err)
		}
		readers.Wait()
	})
	c := webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 8000}
	if mime == webrtc.MimeTypeOpus {
		c.ClockRate, c.Channels = 48000, 2
	}
	if b.track, err = webrtc.NewTrackLocalStaticSample(c, "audio", "stream"); err != nil {
		t.Fatal(err)
	}
	sender, err := pc.AddTrack(b.track)
	if err != nil {
		t.Fatal(err)
	}
	readers.Go(func() {
		buf := make([]byte, 1500)
		for {
			if _, _, err := sender.Read(buf); err != nil {
				return
			}
		}
	})
	pc.OnTrack(func(tr *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			p, _, err := tr.ReadRTP()
			if err != nil {
				return
			}
			select {
			case b.heard <- p:
			default:
			}
		}
	})
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		select {
		case b.state <- s:
		default:
		}
	})
	return b
}

// settle gathers and returns the local description.
func (b *pionBrowser) settle(d webrtc.SessionDescription, err error) string {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	done := webrtc.GatheringCompletePromise(b.PeerConnection)
	if err := b.SetLocalDescription(d); err != nil {
		b.t.Fatal(err)
	}
	<-done
	return b.LocalDescription().SDP
}

func (b *pionBrowser) offer(o *webrtc.OfferOptions) string {
	b.t.Helper()
	return b.settle(b.CreateOffer(o))
}

func (b *pionBrowser) take(typ webrtc.SDPType, body []byte) {
	b.t.Helper()
	if err := b.SetRemoteDescription(webrtc.SessionDescription{Type: typ, SDP: string(body)}); err != nil {
		b.t.Fatalf("the browser refuses our %v: %v\n%s", typ, err, body)
	}
}

// speak sends samples until the test ends or what it waits for came.
func (b *pionBrowser) speak(stop <-chan struct{}, payload []byte) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			_ = b.track.WriteSample(media.Sample{Data: payload, Duration: 20 * time.Millisecond})
		}
	}
}

// rawPhone is a phone made of one UDP socket.
type rawPhone struct {
	t     *testing.T
	conn  *net.UDPConn
	to    netip.AddrPort
	never []string // payloads that must not arrive
}

func newRawPhone(t *testing.T, addr string) *rawPhone {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &rawPhone{t: t, conn: c}
}

func (p *rawPhone) at() netip.AddrPort {
	return p.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// sdp is the phone's description of one audio line.
func (p *rawPhone) sdp(tail ...string) []byte {
	at, fam := p.at(), "IP4"
	if at.Addr().Is6() {
		fam = "IP6"
	}
	return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\nm=audio %d %s\r\n",
		fam, at.Addr(), fam, at.Addr(), at.Port(), strings.Join(tail, "\r\n"))
}

// aim reads where our description wants the phone's media.
func (p *rawPhone) aim(body []byte) {
	p.t.Helper()
	d, err := sdp.Parse(body)
	if err != nil {
		p.t.Fatal(err)
	}
	addr, ok := d.Media[0].Addr()
	if !ok || d.Media[0].Port == 0 {
		p.t.Fatalf("no address for the phone:\n%s", body)
	}
	p.to = netip.AddrPortFrom(addr, uint16(d.Media[0].Port))
}

func (p *rawPhone) send(pt uint8, ssrc uint32, seq uint16, payload []byte) {
	p.t.Helper()
	pkt := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: pt, SSRC: ssrc, SequenceNumber: seq, Timestamp: uint32(seq) * 160}, Payload: payload}
	b, err := pkt.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.conn.WriteToUDPAddrPort(b, p.to); err != nil {
		p.t.Fatal(err)
	}
}

// hear reads RTP until one packet has the payload.
func (p *rawPhone) hear(payload []byte) *rtp.Packet {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			p.t.Fatalf("the phone did not hear %q: %v", payload, err)
		}
		var pkt rtp.Packet
		if pkt.Unmarshal(buf[:n]) != nil {
			continue
		}
		if slices.Contains(p.never, string(pkt.Payload)) {
			p.t.Errorf("the phone hears %q", pkt.Payload)
		}
		if string(pkt.Payload) == string(payload) {
			return &pkt
		}
	}
}

func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
	}
	panic("unreachable")
}

// bothWays proves media by content in both directions.
func bothWays(t *testing.T, b *pionBrowser, p *rawPhone, hears, says uint8, ssrc uint32, seq uint16) {
	t.Helper()
	out, in := fmt.Appendf(nil, "browser to phone %s %d", strings.Repeat("x", 100), seq), fmt.Appendf(nil, "phone to browser %d", seq)
	stop := make(chan struct{})
	var speaking sync.WaitGroup
	speaking.Go(func() { b.speak(stop, out) })
	defer speaking.Wait()
	defer close(stop)
	if got := p.hear(out); got.PayloadType != hears {
		t.Errorf("the phone hears payload type %d, want %d", got.PayloadType, hears)
	}
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case got := <-b.heard:
			if string(got.Payload) == string(in) {
				return
			}
		case <-tick.C:
			p.send(says, ssrc, seq, in)
			seq++
		case <-deadline:
			t.Fatalf("the browser did not hear %q", in)
		}
	}
}

// A browser made of pion/webrtc calls a phone: offer, answer, media by content
// in both directions, for every SRTP profile.
func TestBrowserCallsPhone(t *testing.T) {
	for _, tc := range []struct {
		name    string
		mime    string
		answer  string
		pt      uint8 // what the phone hears
		says    uint8 // what it sends by: our offer's number, or its own
		profile dtls.SRTPProtectionProfile
	}{
		{"PCMU, GCM", webrtc.MimeTypePCMU, "RTP/AVP 0", 0, 0, dtls.SRTP_AEAD_AES_128_GCM},
		{"PCMU, SHA1_80", webrtc.MimeTypePCMU, "RTP/AVP 0", 0, 0, dtls.SRTP_AES128_CM_HMAC_SHA1_80},
		{"opus renumbered, GCM 256", webrtc.MimeTypeOpus, "RTP/AVP 96\r\na=rtpmap:96 opus/48000/2", 96, 111, dtls.SRTP_AEAD_AES_256_GCM},
		{"opus renumbered, sent by its own number", webrtc.MimeTypeOpus, "RTP/AVP 96\r\na=rtpmap:96 opus/48000/2", 96, 96, dtls.SRTP_AEAD_AES_128_GCM},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGateway(t, "127.0.0.1")
			a, up := g.leg(t, true, "", call.MediaOptions{})
			b, _ := g.leg(t, false, "", call.MediaOptions{})
			br := newPionBrowser(t, tc.mime, func(s *webrtc.SettingEngine) { s.SetSRTPProtectionProfiles(tc.profile) })
			ph := newRawPhone(t, "127.0.0.1")

			offered, err := a.TakeOffer([]byte(br.offer(nil)))
			if err != nil {
				t.Fatal(err)
			}
			toPhone, err := b.Offer(offered)
			if err != nil {
				t.Fatal(err)
			}
			ph.aim(toPhone)
			answered, err := b.TakeAnswer(ph.sdp(tc.answer))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := a.Answer(answered)
			if err != nil {
				t.Fatal(err)
			}
			br.take(webrtc.SDPTypeAnswer, answer)
			g.join(t, a, b, sdp.Intersect(offered, answered), answered)
			await(t, up.up, "established")
			bothWays(t, br, ph, tc.pt, tc.says, 0x1111, 100)

			if h := a.Health(); !h.Established || h.Failed != nil || time.Since(h.Consent) > time.Minute || h.LastReceived.IsZero() {
				t.Errorf("browser's health: %+v", h)
			}
			if h := b.Health(); !h.Established || !h.Consent.IsZero() || h.LastReceived.IsZero() {
				t.Errorf("phone's health: %+v", h)
			}
			if string(a.Local()) != string(answer) {
				t.Error("Local is not what was answered")
			}
			snap := a.Snapshot()
			if st := snap.Streams; len(st) != 1 || st[0].InSSRC != 0x1111 || st[0].OutSSRC != a.Lines()[0].SSRC() || st[0].InIndex < 100 {
				t.Errorf("streams towards the browser: %+v", st)
			}
			if st := b.Snapshot().Streams; len(st) != 1 || st[0].LastPacket.IsZero() {
				t.Errorf("streams towards the phone: %+v", st)
			}
			if len(snap.Keys) != 2 || snap.Ufrag == "" || !snap.Remote.IsValid() || strings.Contains(fmt.Sprintf("%+v", snap), string(snap.Pwd)) {
				t.Errorf("snapshot: %d keys, remote %v", len(snap.Keys), snap.Remote)
			}
		})
	}
}

// A phone calls a browser; the browser chooses to be the DTLS server, so the
// gateway is the client.
func TestPhoneCallsBrowser(t *testing.T) {
	for _, role := range []webrtc.DTLSRole{webrtc.DTLSRoleClient, webrtc.DTLSRoleServer} {
		t.Run("browser is DTLS "+role.String(), func(t *testing.T) {
			g := newGateway(t, "127.0.0.1")
			a, _ := g.leg(t, false, "127.0.0.1:5060", call.MediaOptions{})
			b, up := g.leg(t, true, "", call.MediaOptions{})
			br := newPionBrowser(t, webrtc.MimeTypePCMA, func(s *webrtc.SettingEngine) {
				if err := s.SetAnsweringDTLSRole(role); err != nil {
					t.Fatal(err)
				}
			})
			ph := newRawPhone(t, "127.0.0.1")
			offered, err := a.TakeOffer(ph.sdp("RTP/AVP 8 0 101", "a=rtpmap:101 telephone-event/8000"))
			if err != nil {
				t.Fatal(err)
			}
			toBrowser, err := b.Offer(offered)
			if err != nil {
				t.Fatal(err)
			}
			br.take(webrtc.SDPTypeOffer, toBrowser)
			answered, err := b.TakeAnswer([]byte(br.settle(br.CreateAnswer(nil))))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := a.Answer(answered)
			if err != nil {
				t.Fatal(err)
			}
			ph.aim(answer)
			g.join(t, a, b, sdp.Intersect(offered, answered), answered)
			await(t, up.up, "established")
			bothWays(t, br, ph, 8, 8, 0x2222, 7)

			// The SSRC announced is the one that is sent.
			d, err := sdp.Parse(toBrowser)
			if err != nil {
				t.Fatal(err)
			}
			if want := b.Lines()[0].SSRC(); len(d.Media[0].Sources) != 1 || d.Media[0].Sources[0].SSRC != want {
				t.Errorf("announced %v, sending %d", d.Media[0].Sources, want)
			}
		})
	}
}

// Hold, resume and a refused ICE restart on one leg: the identity stays and
// media goes on.
func TestReoffer(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	a, up := g.leg(t, true, "", call.MediaOptions{})
	b, _ := g.leg(t, false, "", call.MediaOptions{})
	br, ph := newPionBrowser(t, webrtc.MimeTypePCMU, nil), newRawPhone(t, "127.0.0.1")
	exchange := func(phoneTail ...string) *sdp.Description {
		t.Helper()
		offered, err := a.TakeOffer([]byte(br.offer(nil)))
		if err != nil {
			t.Fatal(err)
		}
		toPhone, err := b.Offer(offered)
		if err != nil {
			t.Fatal(err)
		}
		ph.aim(toPhone)
		answered, err := b.TakeAnswer(ph.sdp(phoneTail...))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := a.Answer(answered)
		if err != nil {
			t.Fatal(err)
		}
		br.take(webrtc.SDPTypeAnswer, answer)
		g.join(t, a, b, sdp.Intersect(offered, answered), answered)
		d, err := sdp.Parse(answer)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := exchange("RTP/AVP 0")
	await(t, up.up, "established")
	bothWays(t, br, ph, 0, 0, 0x3333, 50)

	// The phone's side holds.
	held := exchange("RTP/AVP 0", "a=sendonly")
	if held.Media[0].Direction != sdp.SendOnly {
		t.Errorf("hold is answered %s", held.Media[0].Direction)
	}
	resumed := exchange("RTP/AVP 0")
	for _, d := range []*sdp.Description{held, resumed} {
		if d.Media[0].Ufrag != first.Media[0].Ufrag || d.Media[0].Port != first.Media[0].Port ||
			!d.Media[0].Fingerprints[0].Equal(first.Media[0].Fingerprints[0]) || d.Media[0].Setup != first.Media[0].Setup {
			t.Error("the identity changed with a re-offer")
		}
	}
	if resumed.Origin.Version <= first.Origin.Version {
		t.Errorf("version %d after %d", resumed.Origin.Version, first.Origin.Version)
	}
	bothWays(t, br, ph, 0, 0, 0x3333, 5000)

	// An ICE restart is refused with a reason, and the call goes on.
	before := string(a.Local())
	_, err := a.TakeOffer([]byte(br.offer(&webrtc.OfferOptions{ICERestart: true})))
	var e *sdp.Error
	if !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, "ICE restart") {
		t.Errorf("ICE restart: %v", err)
	}
	a.Rollback()
	if string(a.Local()) != before {
		t.Error("the refused offer changed our description")
	}
}

// A certificate other than the signalled one fails the leg, with the reason.
func TestWrongFingerprintFailsLeg(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	a, ev := g.leg(t, true, "", call.MediaOptions{})
	br := newPionBrowser(t, webrtc.MimeTypePCMU, nil)
	offer := br.offer(nil)
	i := strings.Index(offer, "a=fingerprint:sha-256 ") + len("a=fingerprint:sha-256 ")
	digit := byte('0')
	if offer[i] == '0' {
		digit = '1'
	}
	offered, err := a.TakeOffer([]byte(offer[:i] + string(digit) + offer[i+1:]))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Answer(offered)
	if err != nil {
		t.Fatal(err)
	}
	br.take(webrtc.SDPTypeAnswer, answer)
	err = await(t, ev.failed, "failure")
	if !strings.Contains(err.Error(), "fingerprint") || a.Health().Established || a.Health().Failed == nil {
		t.Errorf("failure %v, health %+v", err, a.Health())
	}
	if len(a.Snapshot().Keys) != 0 {
		t.Error("keys exist")
	}
}

// Five hundred calls leave no port, goroutine or leg behind; goleak looks after
// the goroutines.
func TestLegsRelease(t *testing.T) {
	g := newGateway(t, "127.0.0.1", "::1")
	ph := newRawPhone(t, "127.0.0.1")
	for range 500 {
		a, err := g.factory.New(t.Context(), call.Party{Network: "test", WebRTC: true}, call.MediaOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := g.factory.New(t.Context(), call.Party{Network: "test"}, call.MediaOptions{})
		if err != nil {
			t.Fatal(err)
		}
		lines, err := b.TakeOffer(ph.sdp("RTP/AVP 0"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Offer(lines); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Answer(lines); err != nil {
			t.Fatal(err)
		}
		a.Close()
		b.Close()
		a.Close() // a second time is nothing
	}
	if n := len(g.plane.Snapshot()); n != 0 {
		t.Errorf("%d flows are left", n)
	}
}
