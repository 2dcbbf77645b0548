package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/controlplane/webrtc"
	"github.com/sluicegw/sluice/dataplane"
)

// videoPage has two peer connections; what each says is carried by exchange to
// the gateway's two legs. The web phone has no video.
const videoPage = `<!doctype html><title>video</title><video id="va" muted autoplay></video><video id="vb" muted autoplay></video><script>
const a = new RTCPeerConnection(), b = new RTCPeerConnection();
a.ontrack = (e) => { va.srcObject ??= new MediaStream(); va.srcObject.addTrack(e.track); };
b.ontrack = (e) => { vb.srcObject ??= new MediaStream(); vb.srcObject.addTrack(e.track); };
const gathered = (pc) => new Promise((done) => {
  const look = () => pc.iceGatheringState === 'complete' && done();
  pc.addEventListener('icegatheringstatechange', look);
  look();
});
const post = async (path, body) => {
  const r = await fetch(path, { method: 'POST', body });
  if (!r.ok) throw new Error(path + ': ' + await r.text());
  return await r.text();
};
window.exchange = async (direction) => {
  if (a.getSenders().length === 0) {
    const s = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
    s.getTracks().forEach((t) => a.addTrack(t, s));
  }
  a.getTransceivers().forEach((t) => { t.direction = direction; });
  await a.setLocalDescription(await a.createOffer());
  await gathered(a);
  await b.setRemoteDescription({ type: 'offer', sdp: await post('/offer', a.localDescription.sdp) });
  if (!b.getSenders().some((x) => x.track)) {
    const s = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
    s.getTracks().forEach((t) => b.addTrack(t, s));
  }
  await b.setLocalDescription(await b.createAnswer());
  await gathered(b);
  await a.setRemoteDescription({ type: 'answer', sdp: await post('/answer', b.localDescription.sdp) });
  return b.getTransceivers().map((t) => t.currentDirection);
};
window.look = async () => {
  const out = {};
  for (const [name, pc] of [['a', a], ['b', b]]) {
    const end = out[name] = { audio: 0, frames: 0, cipher: '', role: '' };
    for (const r of (await pc.getStats()).values()) {
      if (r.type === 'inbound-rtp' && r.kind === 'audio') end.audio = r.packetsReceived;
      if (r.type === 'inbound-rtp' && r.kind === 'video') end.frames = r.framesDecoded;
      if (r.type === 'transport') { end.cipher = r.srtpCipher ?? ''; end.role = r.dtlsRole ?? ''; }
    }
  }
  return out;
};
</script>`

type videoEnd struct {
	Audio, Frames int
	Cipher, Role  string
}

// Audio and video between two peer connections of Chromium through two WebRTC
// legs: BUNDLE with a bundle-only line, decoded frames both ways, hold, resume.
func TestVideoBetweenBrowsers(t *testing.T) {
	chromium := chromiumA(t)
	network := dataplane.Network{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	plane, err := dataplane.New(dataplane.Config{Networks: []dataplane.Network{network}, Reason: dataplane.ReasonDisabled})
	if err != nil {
		t.Fatal(err)
	}
	factory, err := webrtc.NewFactory(webrtc.Config{Plane: plane, Networks: []dataplane.Network{network}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close(); factory.Close() })
	leg := func(name string) call.Media {
		m, err := factory.New(t.Context(), call.Party{Network: "public", WebRTC: true}, call.MediaOptions{
			LegID: name, Events: call.MediaEvents{Failed: func(err error) { t.Errorf("leg %s: %v", name, err) }},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	a, b := leg("a"), leg("b")

	var offered []sdp.Line
	handle := func(path string, take func(body []byte) ([]byte, error)) (string, http.HandlerFunc) {
		return path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				body, err = take(body)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusNotAcceptable)
				return
			}
			_, _ = w.Write(body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, videoPage)
	})
	mux.HandleFunc(handle("/offer", func(body []byte) (_ []byte, err error) {
		if offered, err = a.TakeOffer(body); err != nil {
			return nil, err
		}
		return b.Offer(offered)
	}))
	mux.HandleFunc(handle("/answer", func(body []byte) ([]byte, error) {
		answered, err := b.TakeAnswer(body)
		if err != nil {
			return nil, err
		}
		answer, err := a.Answer(answered)
		if err != nil {
			return nil, err
		}
		settled := sdp.Intersect(offered, answered)
		theirs := b.Lines()
		for i, line := range a.Lines() {
			if line == nil || theirs[i] == nil {
				continue
			}
			aToB, bToA := sdp.PayloadMaps(settled[i], answered[i])
			if err := plane.Join(line, theirs[i], aToB, bToA); err != nil {
				return nil, err
			}
		}
		return answer, nil
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	page := openPage(t, chromium, server.URL, nil)
	exchange := func(direction, want string) {
		t.Helper()
		var got []string
		page.do("evaluate", map[string]any{"script": "(d) => window.exchange(d)", "argument": direction}, &got)
		if len(got) != 2 || got[0] != want || got[1] != want {
			t.Errorf("%s: the callee's lines are %v, want %s twice", direction, got, want)
		}
	}
	var now struct{ A, B videoEnd }
	// flows waits until each end has received so much more.
	flows := func(audio, frames int) {
		t.Helper()
		before := now
		deadline := time.Now().Add(20 * time.Second)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			page.do("evaluate", map[string]any{"script": "() => window.look()"}, &now)
			if now.A.Audio >= before.A.Audio+audio && now.B.Audio >= before.B.Audio+audio &&
				now.A.Frames >= before.A.Frames+frames && now.B.Frames >= before.B.Frames+frames {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("from %+v to %+v, want %d packets of audio and %d frames more at each end", before, now, audio, frames)
			}
			<-tick.C
		}
	}
	exchange("sendrecv", "sendrecv")
	flows(50, 20)
	for name, end := range map[string]videoEnd{"a": now.A, "b": now.B} {
		if end.Cipher != "SRTP_AEAD_AES_128_GCM" || end.Role != "client" {
			t.Errorf("%s: %s as DTLS %s, want AEAD_AES_128_GCM with the gateway as server", name, end.Cipher, end.Role)
		}
	}
	exchange("sendonly", "recvonly")
	exchange("sendrecv", "sendrecv")
	flows(50, 20)
}
