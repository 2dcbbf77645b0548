package call_test

import (
	"strings"
	"testing"
	"time"

	pion "github.com/pion/webrtc/v4"
	"github.com/sluicegw/sluice/controlplane/call"
)

func TestLoopbackHold(t *testing.T) {
	t.Parallel()
	for _, dir := range [][2]string{{"browser", "phone"}, {"phone", "browser"}, {"phone", "phone"}} {
		t.Run(dir[0]+" and "+dir[1], func(t *testing.T) {
			g := start(t)
			a, b := g.end(dir[0], callers[dir[0]], "alice"), g.end(dir[1], numbers[dir[1]], "bob")
			g.connect(a, b, numbers[dir[1]])
			for _, side := range [][2]*end{{a, b}, {b, a}} {
				near, far := side[0], side[1]
				far.c.onReinvite(func(offer []byte) (int, []byte) {
					if far.browser != nil {
						return 200, far.browser.answer(offer)
					}
					if strings.Contains(string(offer), "a=sendonly") {
						return 200, far.phone.sdp("recvonly", ulaw, te101)
					}
					return 200, far.phone.sdp("sendrecv", ulaw, te101)
				})
				near.hold(t, true)
				if o := <-far.c.offers; !strings.Contains(string(o), "a=sendonly") {
					t.Errorf("hold reached the far side as\n%s", o)
				}
				// The holder hears nothing; its own music on hold is heard.
				near.heard().quiet(t, "0 "+far.word, 200*time.Millisecond)
				far.heard().want(t, "0 "+near.word, 5)
				near.hold(t, false)
				<-far.c.offers
				near.heard().want(t, "0 "+far.word, 10)
				far.heard().want(t, "0 "+near.word, 10)
			}
			a.heard().oneStream(t)
			b.heard().oneStream(t)
			b.c.bye()
			a.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

func TestLoopbackDTMF(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.phone.digits <- 126 // as we offered it
	a.heard().got(t, "126 "+string([]byte{5, 0x8a, 0, 160}))
	a.browser.digits <- 126
	b.heard().got(t, "101 "+string([]byte{5, 0x8a, 0, 160}))
	if r := a.c.do("INFO", "application/dtmf-relay", []byte("Signal=5\r\n")); r.code() != 200 {
		t.Errorf("INFO: %s", r.start)
	}
	if m := <-b.c.infos; string(m.body) != "Signal=5\r\n" || m.get("Content-Type") != "application/dtmf-relay" {
		t.Errorf("INFO arrived as %q", m.body)
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackDelayedOffer(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"phone", "browser"} {
		t.Run(to, func(t *testing.T) {
			g := start(t)
			a, b := g.end("phone", "1001", "alice"), g.end(to, numbers[to], "bob")
			a.c = a.dial(numbers[to], nil)
			b.c = b.taken()
			b.c.onReinvite(func(offer []byte) (int, []byte) { return 200, b.answerTo(offer) })
			b.c.accept(b.answerTo(b.c.invite.body))
			r := a.c.final()
			if r.code() != 200 || len(r.body) == 0 {
				t.Fatalf("the caller got %s", r.start)
			}
			a.phone.aim(t, r.body)
			a.c.ack(a.c.invite, a.phone.sdp("sendrecv", ulaw))
			a.heard().want(t, "0 bob", 10)
			b.heard().want(t, "0 alice", 10)
			a.c.bye()
			b.c.wantBye(patience)
			g.waitIdle()
		})
	}
}

func TestLoopbackDelayedReinvite(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("phone", "1001", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.c.onReinvite(func(offer []byte) (int, []byte) {
		if strings.Contains(string(offer), "a=sendonly") {
			return 200, b.phone.sdp("recvonly", ulaw, te101)
		}
		return 200, b.phone.sdp("sendrecv", ulaw, te101)
	})
	a.hold(t, true)
	<-b.c.offers
	r := a.c.reinvite(nil)
	if r.code() != 200 || !strings.Contains(string(r.body), "a=sendrecv") {
		t.Fatalf("re-INVITE without SDP: %s\n%s", r.start, r.body)
	}
	a.c.ackLast(a.phone.sdp("sendrecv", ulaw, te101))
	<-b.c.offers
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// Both ends re-INVITE at once: one at most wins, the other gets 491.
func TestLoopbackGlare(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("phone", "1001", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	release := make(chan struct{})
	b.c.onReinvite(func([]byte) (int, []byte) { <-release; return 200, b.phone.sdp("recvonly", ulaw, te101) })
	first := make(chan *message, 1)
	go func() { first <- a.c.reinvite(a.phone.sdp("sendonly", ulaw, te101)) }()
	for end := time.Now().Add(patience); !strings.Contains(b.log(), "1002 < INVITE sip:1002@"+b.local+" SIP/2.0\n") || strings.Count(b.log(), "< INVITE") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the re-INVITE did not arrive")
		}
	}
	if r := b.c.reinvite(b.phone.sdp("sendonly", ulaw, te101)); r.code() != 491 {
		t.Errorf("the crossing re-INVITE got %s", r.start)
	}
	close(release)
	if r := <-first; r.code() != 200 {
		t.Errorf("the first got %s", r.start)
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackReinviteRefused(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	b.c.onReinvite(func([]byte) (int, []byte) { return 488, nil })
	if r := a.c.reinvite(a.browser.direction(pion.RTPTransceiverDirectionSendonly)); r.code() != 488 {
		t.Errorf("got %s", r.start)
	}
	a.heard().want(t, "0 bob", 10)
	b.heard().want(t, "0 alice", 10)
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}

// A browser vanishes: socket and media at once.
func TestLoopbackBrowserVanishes(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *call.Config) {
		c.Timings = call.Timings{FlowGrace: time.Second, FlowLost: time.Minute, Silence: time.Minute, Check: 50 * time.Millisecond}
	})
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	a.browser.close()
	a.ua.close()
	b.c.wantBye(patience)
	if e := g.waitStage(call.StageEnded, 1).Call.Ending; e.Cause != call.CauseSignallingLost && e.Cause != call.CauseMediaFailed {
		t.Errorf("ended by %s (%s)", e.Cause, e.Detail)
	}
	g.waitIdle()
}

// Only the socket is lost; the browser comes back and hangs up in its old dialog.
func TestLoopbackReconnect(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *call.Config) {
		c.Timings = call.Timings{FlowGrace: 8 * time.Second, FlowLost: 60 * time.Second, Check: 50 * time.Millisecond}
	})
	a := &end{ua: wsUA(t, "web1", "w1secret", g.ws), browser: newBrowser(t, "alice"), word: "alice"}
	a.ua.registerWith("<urn:uuid:0f3a7d1c-0000-4000-8000-000000000001>")
	b := g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	a.ua.close()
	for end := time.Now().Add(patience); !g.calls.Calls()[0].Legs[0].FlowDown; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lost connection was not noticed")
		}
	}
	b.heard().want(t, "0 alice", 10)
	a.ua.connect(g.ws)
	a.ua.registerWith("<urn:uuid:0f3a7d1c-0000-4000-8000-000000000001>")
	for end := time.Now().Add(patience); g.calls.Calls()[0].Legs[0].FlowDown; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the dialog was not taken back")
		}
	}
	b.c.bye()
	a.c.wantBye(patience)
	g.waitIdle()
}

func TestLoopbackShutdown(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	go g.close()
	a.c.wantBye(patience)
	b.c.wantBye(patience)
}

func TestLoopbackSnapshot(t *testing.T) {
	t.Parallel()
	g := start(t)
	a, b := g.end("browser", "web1", "alice"), g.end("phone", "1002", "bob")
	g.connect(a, b, "1002")
	g.waitStage(call.StageConnected, 1)
	s, ok := g.calls.Snapshot(t.Context(), g.calls.Calls()[0].ID)
	if !ok {
		t.Fatal("no snapshot")
	}
	var buf strings.Builder
	if err := s.Write(&buf); err != nil {
		t.Fatal(err)
	}
	back, err := call.ReadSnapshot(strings.NewReader(buf.String()))
	if err != nil {
		t.Fatal(err)
	}
	m, d := back.Caller.Media, back.Caller.Dialog
	if len(m.Keys) != 2 || len(m.Keys[0].Key) == 0 || m.Ufrag == "" || len(m.Pwd) == 0 || !m.Remote.IsValid() {
		t.Errorf("the browser's media is not whole: keys %d, ufrag %q", len(m.Keys), m.Ufrag)
	}
	if d.CallID != a.c.id || d.RemoteTag != a.c.localTag || d.RemoteCSeq == 0 || d.LocalTag != a.c.remoteTag {
		t.Errorf("the browser's dialog is not whole: %+v", d)
	}
	g.mu.Lock()
	logged := g.log.String()
	g.mu.Unlock()
	for _, k := range m.Keys {
		if strings.Contains(logged, string(k.Key)) || strings.Contains(logged, string(m.Pwd)) || strings.Contains(logged, "w1secret") {
			t.Error("a secret is in the log")
		}
	}
	a.c.bye()
	b.c.wantBye(patience)
	g.waitIdle()
}
