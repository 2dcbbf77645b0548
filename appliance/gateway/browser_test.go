package gateway_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

const wait = 10 * time.Second

// browser is a WebRTC endpoint that is not ours: pion/webrtc for media, and SIP
// over WebSocket written out as JsSIP writes it.
type browser struct {
	challenge int // which one is answered
	t         *testing.T
	user      string
	password  string
	domain    string
	ws        *websocket.Conn
	host      string // in Via and Contact, as RFC 7118 has it
	cseq      int
	callID    string
	tag       string
	pc        *webrtc.PeerConnection
	track     *webrtc.TrackLocalStaticRTP
	heard     chan *rtp.Packet

	mu     sync.Mutex
	remote *sip.Response // the 200 of the call
}

func newBrowser(t *testing.T, at, domain, user, password string) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+at+"/ws", &websocket.DialOptions{
		Subprotocols: []string{"sip"}, HTTPHeader: http.Header{"Origin": {"http://" + at}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &browser{t: t, user: user, password: password, domain: domain, ws: ws,
		host: strings.ToLower(rand.Text()[:12]) + ".invalid", tag: rand.Text(), callID: rand.Text(), heard: make(chan *rtp.Packet, 512)}
}

// send writes one request and returns its branch.
func (b *browser) send(method, uri, extra, body string) string {
	b.t.Helper()
	branch := "z9hG4bK" + rand.Text()
	to := "<sip:" + strings.TrimPrefix(uri, "sip:") + ">"
	if method == "REGISTER" {
		to = "<sip:" + b.user + "@" + b.domain + ">"
	}
	b.mu.Lock()
	if b.remote != nil {
		to = b.remote.To().Value()
	}
	b.mu.Unlock()
	msg := fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/WS %s;branch=%s\r\nMax-Forwards: 69\r\nTo: %s\r\nFrom: <sip:%s@%s>;tag=%s\r\n"+
		"Call-ID: %s\r\nCSeq: %d %s\r\nContact: <sip:%s@%s;transport=ws>\r\n%s",
		method, uri, b.host, branch, to, b.user, b.domain, b.tag, b.callID, b.cseq, method, b.user, b.host, extra)
	if body != "" {
		msg += "Content-Type: application/sdp\r\n"
	}
	msg += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	if err := b.ws.Write(b.t.Context(), websocket.MessageText, []byte(msg)); err != nil {
		b.t.Fatal(err)
	}
	return branch
}

// next reads one message.
func (b *browser) next() sip.Message {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), wait)
	defer cancel()
	_, data, err := b.ws.Read(ctx)
	if err != nil {
		b.t.Fatalf("%s: %v", b.user, err)
	}
	msg, err := sip.ParseMessage(data)
	if err != nil {
		b.t.Fatalf("%s got %q: %v", b.user, data, err)
	}
	return msg
}

// final reads up to the final response of a request.
func (b *browser) final(method string) *sip.Response {
	b.t.Helper()
	for {
		res, ok := b.next().(*sip.Response)
		if ok && res.CSeq().MethodName == sip.RequestMethod(method) && res.StatusCode >= 200 {
			return res
		}
	}
}

// do sends a request, answers its challenge, and returns the final response.
func (b *browser) do(method, uri, extra, body string) *sip.Response {
	b.t.Helper()
	b.cseq++
	b.send(method, uri, extra, body)
	res := b.final(method)
	header, answer := "WWW-Authenticate", "Authorization"
	switch res.StatusCode {
	case 401:
	case 407:
		header, answer = "Proxy-Authenticate", "Proxy-Authorization"
	default:
		return res
	}
	if method == "INVITE" {
		b.send("ACK", uri, "", "")
	}
	challenges := res.GetHeaders(header)
	if b.challenge >= len(challenges) {
		b.t.Fatalf("%d challenges, none to take as number %d", len(challenges), b.challenge)
	}
	chal, err := digest.ParseChallenge(challenges[b.challenge].Value())
	if err != nil {
		b.t.Fatal(err)
	}
	cred, err := digest.Digest(chal, digest.Options{Method: method, URI: uri, Username: b.user, Password: b.password})
	if err != nil {
		b.t.Fatal(err)
	}
	b.cseq++
	b.send(method, uri, extra+answer+": "+cred.String()+"\r\n", body)
	return b.final(method)
}

func (b *browser) register() *sip.Response {
	b.t.Helper()
	return b.do("REGISTER", "sip:"+b.domain, "Expires: 600\r\n", "")
}

// peer makes the media half: PCMU, loopback candidates included.
func (b *browser) peer() {
	b.t.Helper()
	var m webrtc.MediaEngine
	if err := m.RegisterCodec(webrtc.RTPCodecParameters{
		RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}, PayloadType: 0,
	}, webrtc.RTPCodecTypeAudio); err != nil {
		b.t.Fatal(err)
	}
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(&m), webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = pc.Close() })
	b.pc = pc
	b.track, err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}, "audio", "b")
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := pc.AddTrack(b.track); err != nil {
		b.t.Fatal(err)
	}
	pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			p, _, err := t.ReadRTP()
			if err != nil {
				return
			}
			select {
			case b.heard <- p:
			default:
			}
		}
	})
}

// dial calls a user and returns the final response; after a 200 the call is up.
func (b *browser) dial(user string) *sip.Response {
	b.t.Helper()
	b.peer()
	offer, err := b.pc.CreateOffer(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	gathered := webrtc.GatheringCompletePromise(b.pc)
	if err := b.pc.SetLocalDescription(offer); err != nil {
		b.t.Fatal(err)
	}
	<-gathered
	b.callID = rand.Text()
	uri := "sip:" + user + "@" + b.domain
	res := b.do("INVITE", uri, "", b.pc.LocalDescription().SDP)
	if res.StatusCode != 200 {
		b.send("ACK", uri, "", "")
		return res
	}
	b.mu.Lock()
	b.remote = res
	b.mu.Unlock()
	b.send("ACK", res.Contact().Address.String(), "", "")
	if err := b.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: string(res.Body())}); err != nil {
		b.t.Fatalf("%v in\n%s", err, res.Body())
	}
	connected := make(chan struct{})
	var once sync.Once
	b.pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			once.Do(func() { close(connected) })
		}
	})
	if b.pc.ConnectionState() == webrtc.PeerConnectionStateConnected {
		return res
	}
	select {
	case <-connected:
	case <-time.After(wait):
		b.t.Fatalf("not connected: ICE %s, %s", b.pc.ICEConnectionState(), b.pc.ConnectionState())
	}
	return res
}

// hangup ends the call and returns the status of BYE.
func (b *browser) hangup() int {
	b.t.Helper()
	b.mu.Lock()
	uri := b.remote.Contact().Address.String()
	b.mu.Unlock()
	b.cseq++
	b.send("BYE", uri, "", "")
	return b.final("BYE").StatusCode
}

// answerRequest reads until the gateway sends a request of a method, and
// answers it with 200.
func (b *browser) answerRequest(method sip.RequestMethod) *sip.Request {
	b.t.Helper()
	for {
		req, ok := b.next().(*sip.Request)
		if !ok || req.Method != method {
			continue
		}
		res := sip.NewResponseFromRequest(req, 200, "OK", nil)
		if err := b.ws.Write(b.t.Context(), websocket.MessageText, []byte(res.String())); err != nil {
			b.t.Fatal(err)
		}
		return req
	}
}
