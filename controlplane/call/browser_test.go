package call_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/pion/ice/v4"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// track sends packets with the payload type they have: pion's own tracks would
// write a digit as audio.
type track struct {
	codec webrtc.RTPCodecCapability
	kind  webrtc.RTPCodecType
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

func (k *track) ID() string                { return k.kind.String() }
func (k *track) RID() string               { return "" }
func (k *track) StreamID() string          { return "stream" }
func (k *track) Kind() webrtc.RTPCodecType { return k.kind }

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
	t     testing.TB
	pc    *webrtc.PeerConnection
	h264  webrtc.RTPCodecCapability
	video *heardVideo
	once  sync.Once
}

const h264Format = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"

// heardVideo is a browser's video: what it sends and what it sees.
type heardVideo struct {
	heard
	*track
	ssrc chan uint32   // of the gateway, once it is known
	asks chan struct{} // key frame requests of the gateway
}

// addVideo makes the browser's next offer one with video.
func (b *browser) addVideo() {
	b.t.Helper()
	v := &heardVideo{track: &track{codec: b.h264, kind: webrtc.RTPCodecTypeVideo}, ssrc: make(chan uint32, 1), asks: make(chan struct{}, 16)}
	sender, err := b.pc.AddTrack(v.track)
	if err != nil {
		b.t.Fatal(err)
	}
	b.video = v
	go func() {
		for {
			ps, _, err := sender.ReadRTCP()
			if err != nil {
				return
			}
			for _, p := range ps {
				switch p.(type) {
				case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
					v.asks <- struct{}{}
				}
			}
		}
	}()
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
	h264 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000, SDPFmtpLine: h264Format,
		RTCPFeedback: []webrtc.RTCPFeedback{{Type: "nack", Parameter: "pli"}, {Type: "ccm", Parameter: "fir"}}}
	if err := me.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: h264, PayloadType: 102}, webrtc.RTPCodecTypeVideo); err != nil {
		t.Fatal(err)
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
	b := &browser{t: t, pc: pc, h264: h264}
	track := &track{codec: first, kind: webrtc.RTPCodecTypeAudio}
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
		h := &b.heard
		if tr.Kind() == webrtc.RTPCodecTypeVideo {
			h = &b.video.heard
			b.video.ssrc <- uint32(tr.SSRC())
		}
		for {
			p, _, err := tr.ReadRTP()
			if err != nil {
				return
			}
			h.note(p)
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
