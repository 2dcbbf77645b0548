package call_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtcp"
	pion "github.com/pion/webrtc/v4"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/sdp"
)

// Legs in different address families.
func TestLoopbackFamilies(t *testing.T) {
	t.Parallel()
	for _, dir := range [][2]string{{"phone6", "phone"}, {"phone", "phone6"}, {"browser", "phone6"}, {"phone6", "browser"}, {"phone6", "phone6"}} {
		t.Run(dir[0]+" to "+dir[1], func(t *testing.T) {
			g := start(t)
			from := callers[dir[0]]
			if from == "" {
				from = "1001"
			}
			to := numbers[dir[1]]
			if to == "" {
				to = "1002"
			}
			a, b := g.end(dir[0], from, "alice"), g.end(dir[1], to, "bob")
			g.connect(a, b, to)
			if six := strings.Contains(string(b.c.invite.body), "IN IP6 ::1"); six != (dir[1] == "phone6") {
				t.Errorf("the callee was offered\n%s", b.c.invite.body)
			}
			b.c.bye()
			a.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

// Phones that ask for SDES-SRTP, towards everybody and back.
func TestLoopbackSDES(t *testing.T) {
	t.Parallel()
	for _, dir := range [][2]string{{"browser", "sdes"}, {"sdes", "browser"}, {"phone", "sdes"}, {"sdes", "phone"}} {
		t.Run(dir[0]+" to "+dir[1], func(t *testing.T) {
			g := start(t)
			number := numbers[dir[1]]
			from := callers[dir[0]]
			if dir[1] == "sdes" {
				number = "1003"
			} else {
				from = "1003"
			}
			a, b := g.end(dir[0], from, "alice"), g.end(dir[1], number, "bob")
			g.connect(a, b, number)
			secured := a
			if dir[1] == "sdes" {
				secured = b
			}
			secured.heard().oneStream(t)
			g.mu.Lock()
			if strings.Contains(g.log.String(), "inline:") {
				t.Error("an SDES key is in the log")
			}
			g.mu.Unlock()
			a.c.bye()
			b.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

// A phone behind NAT says a private address in its SDP: its media is found at
// the address its signalling comes from, and nobody else's is taken for it.
func TestLoopbackLatch(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("phone", "1001", "alice"), g.end("phone", "1002", "bob")
	b.phone.addr = "10.255.255.7"
	b.phone.paused.Store(true)
	a.c = a.dial("1002", a.offer())
	b.c = b.taken()
	b.c.accept(b.answerTo(b.c.invite.body))
	a.takeAnswer(a.c.answered().body)

	intruder := newPhoneAt(t, "127.0.0.66", "intruder", 0)
	intruder.aim(t, b.c.invite.body)
	a.heard().quiet(t, "0 intruder", 300*time.Millisecond)
	if n := intruder.count("0 alice"); n > 0 {
		t.Errorf("the intruder heard %d packets", n)
	}
	b.phone.paused.Store(false)
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.heard().quiet(t, "0 intruder", 100*time.Millisecond)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// Video between a browser and a phone that knows no RTCP feedback: key frames
// are asked for by RTCP on one side, by INFO (RFC 5168) on the other.
func TestLoopbackVideo(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	a.browser.addVideo()
	camera := newPhone(t, "camera", 102)
	a.c = a.dial("1002", a.offer())
	b.c = b.taken()
	offer := b.c.invite.body
	b.phone.aim(t, offer)
	d, err := sdp.Parse(offer)
	if err != nil || len(d.Media) != 2 || d.Media[1].Name != "video" || d.Media[1].Port == 0 {
		t.Fatalf("the phone was offered: %v\n%s", err, offer)
	}
	camera.mu2.Lock()
	camera.to = &net.UDPAddr{IP: net.ParseIP(d.Media[1].Host), Port: d.Media[1].Port}
	camera.mu2.Unlock()
	b.c.accept(fmt.Appendf(b.phone.sdp("sendrecv", ulaw, te101), "m=video %d RTP/AVP 102\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 %s\r\na=sendrecv\r\n",
		camera.conn.LocalAddr().(*net.UDPAddr).Port, "profile-level-id=42e01f;packetization-mode=1"))
	a.takeAnswer(a.c.answered().body)
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.browser.video.want(t, "102 camera", 10)
	film := talk("film", 102, 2, a.browser.video.track.send)
	defer film.end()
	camera.want(t, "102 film", 10)

	// The browser lost a picture: the phone is asked by INFO.
	if err := a.browser.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: <-a.browser.video.ssrc}}); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-b.c.infos:
		if m.get("Content-Type") != "application/media_control+xml" || !strings.Contains(string(m.body), "picture_fast_update") {
			t.Errorf("INFO: %s\n%s", m.get("Content-Type"), m.body)
		}
	case <-time.After(patience):
		t.Error("the phone was not asked for a key frame")
	}
	// The phone lost a picture: the browser is asked by RTCP.
	if r := b.c.do("INFO", "application/media_control+xml",
		[]byte(`<media_control><vc_primitive><to_encoder><picture_fast_update/></to_encoder></vc_primitive></media_control>`)); r.code() != 200 {
		t.Errorf("INFO: %s", r.start)
	}
	select {
	case <-a.browser.video.asks:
	case <-time.After(patience):
		t.Error("the browser was not asked for a key frame")
	}
	a.heard().oneStream(t)
	a.browser.video.oneStream(t)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// Every kind of party calls every other, and each hears the other's words.
func TestLoopbackDirections(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"browser", "phone", "trunk"} {
		for _, to := range []string{"browser", "phone", "trunk"} {
			if from == "trunk" && to == "trunk" {
				continue // refused by routing, see there
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				g := start(t)
				a, b := g.end(from, callers[from], "alice"), g.end(to, numbers[to], "bob")
				if from == "trunk" {
					a.ua.domain = "gw.test"
				}
				g.connect(a, b, numbers[to])
				g.waitStage(call.StageMedia, 1)
				if to == "trunk" && !strings.HasPrefix(b.c.invite.start, "INVITE sip:555@127.0.0.9") {
					t.Errorf("the trunk was dialled %q", b.c.invite.start)
				}
				a.c.bye()
				b.c.wantBye(patience)
				g.waitIdle()
				if e := g.waitStage(call.StageEnded, 1).Call; e.Ending.By != call.ByCaller || len(e.Legs) != 2 ||
					e.Legs[0].Lines[0].Stats.Received.Packets == 0 || e.Legs[1].Lines[0].Stats.Sent.Packets == 0 {
					t.Errorf("record: %+v", e)
				}
			})
		}
	}
}

func TestLoopbackStatus(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1001", "bob")
	for code, want := range map[int]int{486: 486, 480: 480, 403: 403, 404: 404, 488: 488, 500: 500, 503: 503, 603: 603} {
		c := a.dial("1001", newBrowser(t, "x").offer())
		b.taken().respond(code, nil)
		if r := c.final(); r.code() != want {
			t.Errorf("callee said %d, the caller got %s", code, r.start)
		}
	}
	if r := a.dial("nobody", newBrowser(t, "x").offer()).final(); r.code() != 404 {
		t.Errorf("unknown callee: %s", r.start)
	}
	if r := a.dial("1002", newBrowser(t, "x").offer()).final(); r.code() != 480 {
		t.Errorf("callee that is not registered: %s", r.start)
	}
	c := a.dial("1001", newBrowser(t, "x", pion.MimeTypeOpus).offer())
	in := b.taken()
	in.accept(phoneSDP(4000, "sendrecv", "18 G729/8000"))
	if r := c.final(); r.code() != 488 {
		t.Errorf("no common codec: %s", r.start)
	}
	in.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackCancel(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"browser", "phone"} {
		t.Run(kind, func(t *testing.T) {
			g := start(t)
			a, b := g.end(kind, callers[kind], "alice"), g.end("phone", "1002", "bob")
			c := a.dial("1002", a.offer())
			in := b.taken()
			in.respond(180, nil)
			c.next()
			c.cancel()
			if r := c.final(); r.code() != 487 {
				t.Errorf("the caller got %s", r.start)
			}
			select {
			case <-in.cancelled:
			case <-time.After(patience):
				t.Error("the callee was not cancelled")
			}
			g.waitIdle()
		})
	}
}

// The announcement of one callee is heard, then another answers.
func TestLoopbackForkWithEarlyMedia(t *testing.T) {
	t.Parallel()
	g := start(t)
	a := g.end("browser", "web1", "alice")
	desk := g.end("phone", "1002", "desk")
	second := &end{ua: g.phoneUA("1002"), phone: newPhone(t, "second", 8), word: "second"}
	offer := a.offer()
	a.c = a.dial("1002", offer)
	desk.c, second.c = desk.taken(), second.taken()
	desk.phone.aim(t, desk.c.invite.body)
	desk.c.respond(183, desk.phone.sdp("sendonly", ulaw))
	early := a.c.next()
	if early.code() != 183 || len(early.body) == 0 {
		t.Fatalf("the caller got %s", early.start)
	}
	a.takeAnswer(early.body)
	a.heard().want(t, "0 desk", 10)

	// The second device answers, with another codec.
	second.phone.aim(t, second.c.invite.body)
	a.c.onReinvite(func(offer []byte) (int, []byte) {
		body := a.browser.answer(offer)
		return 200, body
	})
	second.c.accept(second.phone.sdp("sendrecv", alaw, te101))
	ok := a.c.answered()
	if string(ok.body) != string(early.body) {
		t.Errorf("the 200's SDP is not the 183's:\n%s\n%s", early.body, ok.body)
	}
	select {
	case <-desk.c.cancelled:
	case <-time.After(patience):
		t.Error("the announcement was not cancelled")
	}
	<-a.c.offers // the codec is settled by re-INVITE
	a.heard().want(t, "8 second", 10)
	a.heard().oneStream(t)
	a.c.bye()
	second.c.wantBye(patience)
	g.waitIdle()
}

// A user with a browser and a phone: both ring, the browser answers.
func TestLoopbackForkBrowserAndPhone(t *testing.T) {
	t.Parallel()
	g := start(t)
	a := g.end("phone", "1001", "alice")
	deskphone := g.end("phone", "web2", "desk")
	b := g.end("browser", "web2", "bob")
	a.c = a.dial("web2", a.offer())
	other := deskphone.taken()
	other.respond(180, nil)
	b.c = b.taken()
	b.c.respond(180, nil)
	b.c.accept(b.answerTo(b.c.invite.body))
	a.takeAnswer(a.c.answered().body)
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	select {
	case <-other.cancelled:
	case <-time.After(patience):
		t.Error("the desk phone still rings")
	}
	b.c.bye()
	a.c.wantBye(patience)
	g.waitIdle()
}
