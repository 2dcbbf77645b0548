package media_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/sdp"
)

// video adds a VP8 track to the browser; frames it hears come by the channel.
func (b *pionBrowser) video() (track *webrtc.TrackLocalStaticSample, sender *webrtc.RTPSender) {
	b.t.Helper()
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "video", "stream")
	if err != nil {
		b.t.Fatal(err)
	}
	if sender, err = b.AddTrack(track); err != nil {
		b.t.Fatal(err)
	}
	return track, sender
}

// Two browsers with audio and video: one transport each by BUNDLE, payload
// types apart, both media by content both ways, and a PLI finds its way.
func TestBrowserCallsBrowserWithVideo(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	a, upA := g.leg(t, true, "", call.MediaOptions{})
	b, upB := g.leg(t, true, "", call.MediaOptions{})
	brA, brB := newPionBrowser(t, webrtc.MimeTypeOpus, nil), newPionBrowser(t, webrtc.MimeTypeOpus, nil)
	trackA, senderA := brA.video()
	trackB, _ := brB.video()

	offered, err := a.TakeOffer([]byte(brA.offer(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if len(offered) != 2 {
		t.Fatalf("%d lines", len(offered))
	}
	toB, err := b.Offer(offered)
	if err != nil {
		t.Fatal(err)
	}
	brB.take(webrtc.SDPTypeOffer, toB)
	answered, err := b.TakeAnswer([]byte(brB.settle(brB.CreateAnswer(nil))))
	if err != nil {
		t.Fatal(err)
	}
	if answered[0].Rejected || answered[1].Rejected {
		t.Fatalf("the bundle-only line was refused:\n%s", brB.LocalDescription().SDP)
	}
	answer, err := a.Answer(answered)
	if err != nil {
		t.Fatal(err)
	}
	brA.take(webrtc.SDPTypeAnswer, answer)
	g.join(t, a, b, sdp.Intersect(offered, answered), answered)
	await(t, upA.up, "established caller")
	await(t, upB.up, "established callee")

	stop := make(chan struct{})
	var talking sync.WaitGroup
	send := func(track *webrtc.TrackLocalStaticSample, payload string, every time.Duration) {
		talking.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					_ = track.WriteSample(media.Sample{Data: []byte(payload), Duration: every})
				}
			}
		})
	}
	defer talking.Wait()
	defer close(stop)
	send(brA.track, "sound of a", 20*time.Millisecond)
	send(trackA, "sight of a", 40*time.Millisecond)
	send(brB.track, "sound of b", 20*time.Millisecond)
	send(trackB, "sight of b", 40*time.Millisecond)
	for _, c := range []struct {
		heard        chan *rtp.Packet
		sound, sight string
	}{{brB.heard, "sound of a", "sight of a"}, {brA.heard, "sound of b", "sight of b"}} {
		var sound, sight *rtp.Packet
		deadline := time.After(patience)
		for sound == nil || sight == nil {
			select {
			case p := <-c.heard:
				// VP8 samples arrive behind a payload descriptor.
				switch {
				case string(p.Payload) == c.sound:
					sound = p
				case strings.HasSuffix(string(p.Payload), c.sight):
					sight = p
				}
			case <-deadline:
				t.Fatalf("%q %v, %q %v", c.sound, sound != nil, c.sight, sight != nil)
			}
		}
		if sound.SSRC == sight.SSRC || sound.PayloadType == sight.PayloadType {
			t.Errorf("audio and video share SSRC %d or payload type %d", sound.SSRC, sound.PayloadType)
		}
	}

	// B asks for a key frame; A is told.
	var ssrc uint32
	for _, tr := range brB.GetTransceivers() {
		if tr.Kind() == webrtc.RTPCodecTypeVideo {
			ssrc = uint32(tr.Receiver().Track().SSRC())
		}
	}
	asked := make(chan struct{})
	go func() { // ends with the browser
		for {
			ps, _, err := senderA.ReadRTCP()
			if err != nil {
				return
			}
			for _, p := range ps {
				if _, ok := p.(*rtcp.PictureLossIndication); ok {
					close(asked)
					return
				}
			}
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		if err := brB.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: ssrc}}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-asked:
			return
		case <-tick.C:
		case <-deadline:
			t.Fatal("the PLI did not arrive")
		}
	}
}

// JsSIP takes the SDP of a 183 for the answer; for that of the 200 it makes a
// new offer of its own, which nobody sees, and takes the 200's SDP as the
// answer to it. With one identity that changes nothing.
func TestAnswerTakenAgain(t *testing.T) {
	g := newGateway(t, "127.0.0.1")
	a, up := g.leg(t, true, "", call.MediaOptions{})
	b, _ := g.leg(t, false, "", call.MediaOptions{})
	br, ph := newPionBrowser(t, webrtc.MimeTypePCMU, nil), newRawPhone(t, "127.0.0.1")
	offered, err := a.TakeOffer([]byte(br.offer(nil)))
	if err != nil {
		t.Fatal(err)
	}
	toPhone, err := b.Offer(offered)
	if err != nil {
		t.Fatal(err)
	}
	ph.aim(toPhone)
	early, err := b.TakeAnswer(ph.sdp("RTP/AVP 0"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Answer(early)
	if err != nil {
		t.Fatal(err)
	}
	br.take(webrtc.SDPTypeAnswer, answer)
	g.join(t, a, b, sdp.Intersect(offered, early), early)
	await(t, up.up, "established")
	bothWays(t, br, ph, 0, 0, 0x4444, 10)

	// The 200: the phone answers again, to the same offer.
	final, err := b.TakeAnswer(ph.sdp("RTP/AVP 0"))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := br.CreateOffer(nil); err != nil {
		t.Fatal(err)
	} else if err := br.SetLocalDescription(d); err != nil {
		t.Fatal(err)
	}
	br.take(webrtc.SDPTypeAnswer, a.Local())
	g.join(t, a, b, sdp.Intersect(offered, final), final)
	bothWays(t, br, ph, 0, 0, 0x4444, 2000)
}

// A browser on IPv6 and a phone on IPv4.
func TestBrowserOnIPv6(t *testing.T) {
	g := newGateway(t, "::1", "127.0.0.1")
	a, up := g.leg(t, true, "", call.MediaOptions{})
	b, _ := g.leg(t, false, "", call.MediaOptions{})
	socket, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	// pion gathers no ::1 of its own.
	mux := webrtc.NewICEUDPMux(nil, socket)
	t.Cleanup(func() { _ = mux.Close() })
	br := newPionBrowser(t, webrtc.MimeTypePCMU, func(s *webrtc.SettingEngine) {
		s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP6})
		s.SetICEUDPMux(mux)
	})
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
	answered, err := b.TakeAnswer(ph.sdp("RTP/AVP 0"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Answer(answered)
	if err != nil {
		t.Fatal(err)
	}
	d, err := sdp.Parse(answer)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Media[0].Candidates); n != 2 || !strings.Contains(d.Media[0].Candidates[0], " ::1 ") {
		t.Errorf("candidates: %q", d.Media[0].Candidates)
	}
	br.take(webrtc.SDPTypeAnswer, answer)
	g.join(t, a, b, sdp.Intersect(offered, answered), answered)
	await(t, up.up, "established")
	bothWays(t, br, ph, 0, 0, 0x5555, 10)
	if r := a.Snapshot().Remote; !r.Addr().Is6() {
		t.Errorf("the pair's remote is %v", r)
	}
}
