package sdp

import (
	"strings"
	"testing"

	"github.com/sluicegw/sluice/dataplane"
)

func browser() *Negotiator { return NewNegotiator(Style{Browser: true, Proto: DTLS}, 4<<2) }
func phone() *Negotiator   { return NewNegotiator(Style{Proto: AVP}, 5<<2) }

func fillWith(host string, port int) Fill {
	return func(s *Section) error {
		s.Media.Host, s.Media.Port = host, port+2*s.Line
		return nil
	}
}

func codecs(l Line) string {
	var out []string
	for _, c := range l.Codecs {
		out = append(out, c.Codec+":"+string(formatList([]Codec{c})[0]))
	}
	return strings.Join(out, " ")
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A browser's offer goes to a phone, the phone's answer comes back.
func TestBrowserToPhone(t *testing.T) {
	a, b := browser(), phone()
	lines, err := a.TakeOffer(parsed(t, "chromium-audio.sdp"))
	lines = must(t, lines, err)
	if got := codecs(lines[0]); got != "opus:111 G722:9 PCMU:0 PCMA:8 CN:13 telephone-event:110 telephone-event:126" {
		t.Fatalf("taken: %s", got)
	}
	if _, ok := lines[0].Extensions["urn:ietf:params:rtp-hdrext:ssrc-audio-level"]; !ok || len(lines[0].Extensions) != 1 {
		t.Errorf("extensions: %v", lines[0].Extensions)
	}
	offer, err := b.Offer(lines, fillWith("192.0.2.1", 20000))
	text := string(must(t, offer, err).Marshal())
	if !strings.Contains(text, "m=audio 20000 RTP/AVP 111 9 0 8 13 110 126\r\n") {
		t.Errorf("offer to the phone:\n%s", text)
	}
	for _, not := range []string{"BUNDLE", "mid:", "rtcp-mux", "rtcp-fb", "setup", "fingerprint", "red/"} {
		if strings.Contains(text, not) {
			t.Errorf("offer to the phone has %s:\n%s", not, text)
		}
	}
	answer, err := Parse([]byte("v=0\r\no=- 1 1 IN IP4 192.0.2.40\r\ns=-\r\nc=IN IP4 192.0.2.40\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n"))
	answer = must(t, answer, err)
	got, err := b.TakeAnswer(answer)
	got = must(t, got, err)
	if c := codecs(got[0]); c != "PCMA:8 PCMU:0 telephone-event:101" {
		t.Fatalf("answered: %s", c)
	}
	if in := got[0].Codecs[2].Arrives(); in != 126 {
		t.Errorf("telephone-event arrives as %d, we offered 126", in)
	}
	back, err := a.Answer(got, fillWith("192.0.2.1", 3478))
	text = string(must(t, back, err).Marshal())
	for _, want := range []string{
		"m=audio 3478 UDP/TLS/RTP/SAVPF 8 0 126\r\n", "a=group:BUNDLE 0\r\n", "a=mid:0\r\n", "a=rtcp-mux\r\n",
		"a=ptime:20\r\n", "a=fmtp:126 0-15\r\n", "a=ice-lite\r\n", "a=sendrecv\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("answer lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "extmap") {
		t.Errorf("an extension the phone did not take is answered:\n%s", text)
	}
	aLine := Intersect(lines, got)[0]
	aToB, bToA := PayloadMaps(aLine, got[0])
	if aToB[8] != 8 || aToB[126] != 101 || bToA[126] != 126 || aToB[111] != dataplane.PayloadDrop {
		t.Errorf("maps: %d %d %d %d", aToB[8], aToB[126], bToA[126], aToB[111])
	}
	cfg := a.Agreed()[0].Config
	if !cfg.Send || !cfg.Receive || !cfg.AVPF || len(cfg.Formats) != 3 || cfg.Kind != dataplane.Audio {
		t.Errorf("config: %+v", cfg)
	}
	if cfg := b.Agreed()[0].Config; cfg.AVPF || cfg.Formats[2].PayloadType != 126 {
		t.Errorf("phone's config: %+v", cfg)
	}
}
