package sdp

import (
	"errors"
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

func parseText(t testing.TB, body string) *Description {
	t.Helper()
	d, err := Parse([]byte(strings.ReplaceAll(strings.TrimLeft(body, "\n"), "\n", "\r\n")))
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return d
}

// phoneOffer is a phone's offer with the given m-line tail and attributes.
func phoneOffer(t testing.TB, lines ...string) *Description {
	return parseText(t, "v=0\no=- 1 1 IN IP4 192.0.2.40\ns=-\nc=IN IP4 192.0.2.40\nt=0 0\n"+strings.Join(lines, "\n")+"\n")
}

// A phone offers opus and telephone-event/8000; browsers send events only at
// their codec's clock rate.
func TestEventsAtBothClockRates(t *testing.T) {
	a, b := phone(), browser()
	lines, err := a.TakeOffer(parsed(t, "baresip-offer.sdp"))
	lines = must(t, lines, err)
	offer, err := b.Offer(lines, fillWith("192.0.2.1", 3478))
	offer = must(t, offer, err)
	if got := codecs(Line{Codecs: offer.Media[0].Codecs}); !strings.HasPrefix(got, "opus:96 PCMU:0 PCMA:8 G722:9 telephone-event:101 telephone-event:") {
		t.Fatalf("offered: %s", got)
	}
	i := events(offer.Media[0].Codecs, 48000)
	if i < 0 {
		t.Fatal("telephone-event/48000 is not offered to the browser")
	}
	pt := offer.Media[0].Codecs[i].PayloadType
	answer := *offer
	answer.Bundle = [][]string{{"0"}}
	answer.Media = []Media{offer.Media[0], {Name: "video", Proto: DTLS, Formats: []string{"97"}, Mid: "1"}}
	answer.Media[0].Codecs = []Codec{offer.Media[0].Codecs[0], offer.Media[0].Codecs[i]}
	got, err := b.TakeAnswer(&answer)
	got = must(t, got, err)
	back := Intersect(lines, got)
	if c := codecs(back[0]); c != "opus:96 telephone-event:101" {
		t.Fatalf("answered to the phone: %s", c)
	}
	aToB, bToA := PayloadMaps(back[0], got[0])
	if bToA[pt] != 101 || aToB[101] != pt {
		t.Errorf("events: browser's %d -> %d, phone's 101 -> %d", pt, bToA[pt], aToB[101])
	}
}

func TestVideoByProfile(t *testing.T) {
	a, b := browser(), phone()
	lines, err := a.TakeOffer(parsed(t, "chromium-video.sdp"))
	lines = must(t, lines, err)
	if len(lines) != 2 || lines[1].Kind != dataplane.Video {
		t.Fatalf("lines: %+v", lines)
	}
	for _, c := range lines[1].Codecs {
		if !c.carried() {
			t.Errorf("%s is taken", c.Codec)
		}
		for _, f := range c.Feedback {
			if f == "goog-remb" || f == "transport-cc" {
				t.Errorf("feedback %s is taken", f)
			}
		}
	}
	if _, err := b.Offer(lines, fillWith("192.0.2.1", 20000)); err != nil {
		t.Fatal(err)
	}
	answer := phoneOffer(t, "m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 99",
		"a=rtpmap:99 H264/90000", "a=fmtp:99 profile-level-id=42e01e;packetization-mode=0")
	got, err := b.TakeAnswer(answer)
	got = must(t, got, err)
	back := Intersect(lines, got)
	if c := codecs(back[1]); c != "H264:115" {
		t.Fatalf("H.264 answered: %s, want the constrained baseline, mode 0", c)
	}
	d, err := a.Answer(got, fillWith("192.0.2.1", 3478))
	d = must(t, d, err)
	if len(d.Bundle) != 1 || strings.Join(d.Bundle[0], " ") != "0 1" {
		t.Errorf("BUNDLE %v", d.Bundle)
	}
	text := string(d.Marshal())
	for _, want := range []string{"a=rtcp-fb:115 nack pli\r\n", "a=rtcp-fb:115 ccm fir\r\n", "profile-level-id=42e01e"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "a=rtcp-fb:115 nack\r\n") || strings.Contains(text, "rtx") {
		t.Errorf("promises retransmission that the phone does not do:\n%s", text)
	}
}

func TestH264Profile(t *testing.T) {
	codec := func(id, mode string) Codec {
		c := Codec{Format: dataplane.Format{Codec: "H264", ClockRate: 90000}, Fmtp: map[string]string{"packetization-mode": mode}}
		if id != "" {
			c.Fmtp["profile-level-id"] = id
		}
		return c
	}
	for _, tc := range []struct {
		a, b, am, bm string
		want         bool
	}{
		{"42e01f", "42e00a", "1", "1", true},  // level differs
		{"42e01f", "42c01f", "1", "1", true},  // both constrained baseline
		{"42e01f", "4d8014", "1", "1", true},  // RFC 6184 table 5
		{"42e01f", "42001f", "1", "1", false}, // baseline may use FMO
		{"42e01f", "42e01f", "1", "0", false}, // mode differs
		{"42001f", "", "0", "0", true},        // unsaid is baseline
		{"64001f", "640c1f", "1", "1", false}, // high, constrained high
		{"4d001f", "4D001F", "1", "1", true},  // case
		{"42e0", "42e01f", "1", "1", false},   // malformed
		{"zzzzzz", "42e01f", "1", "1", false},
	} {
		if got := codec(tc.a, tc.am).Equivalent(codec(tc.b, tc.bm)); got != tc.want {
			t.Errorf("%s/%s and %s/%s: %v", tc.a, tc.am, tc.b, tc.bm, got)
		}
	}
}

func TestHold(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		want       Direction
		answer     Direction // what a far end that wants both is answered
	}{
		{"sendonly", "m=audio 4000 RTP/AVP 0\na=sendonly", SendOnly, RecvOnly},
		{"inactive", "m=audio 4000 RTP/AVP 0\na=inactive", Inactive, Inactive},
		{"recvonly", "m=audio 4000 RTP/AVP 0\na=recvonly", RecvOnly, SendOnly},
		{"c=0.0.0.0", "m=audio 4000 RTP/AVP 0\nc=IN IP4 0.0.0.0", SendOnly, RecvOnly},
		{"c=0.0.0.0 and recvonly", "m=audio 4000 RTP/AVP 0\nc=IN IP4 0.0.0.0\na=recvonly", Inactive, Inactive},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := phone()
			lines, err := n.TakeOffer(phoneOffer(t, tc.body))
			lines = must(t, lines, err)
			if lines[0].Direction != tc.want {
				t.Errorf("taken as %s, want %s", lines[0].Direction, tc.want)
			}
			lines[0].Direction = SendRecv
			d, err := n.Answer(lines, fillWith("192.0.2.1", 20000))
			d = must(t, d, err)
			if d.Media[0].Direction != tc.answer {
				t.Errorf("answered %s, want %s", d.Media[0].Direction, tc.answer)
			}
			cfg := n.Agreed()[0].Config
			if cfg.Send != tc.want.Receives() || cfg.Receive != tc.want.Sends() {
				t.Errorf("config sends %v, receives %v", cfg.Send, cfg.Receive)
			}
		})
	}
	// A browser without candidates writes 0.0.0.0 and is not on hold.
	lines, err := browser().TakeOffer(parsed(t, "chromium-video.sdp"))
	if must(t, lines, err)[0].Direction != SendRecv {
		t.Error("a browser's 0.0.0.0 is taken for hold")
	}
}

func TestVersionAndOrder(t *testing.T) {
	n := browser()
	offer := parsed(t, "chromium-audio.sdp")
	take := func() *Description {
		lines, err := n.TakeOffer(offer)
		lines = must(t, lines, err)
		d, err := n.Answer(lines, fillWith("192.0.2.1", 3478))
		return must(t, d, err)
	}
	first := take()
	if again := take(); again.Origin != first.Origin || string(again.Marshal()) != string(first.Marshal()) {
		t.Errorf("the same answer has another version: %+v, %+v", first.Origin, again.Origin)
	}
	offer.Media[0].Direction = SendOnly
	held := take()
	if held.Origin.Version != first.Origin.Version+1 || held.Origin.SessionID != first.Origin.SessionID {
		t.Errorf("origin %+v after %+v", held.Origin, first.Origin)
	}
	// Our own offer keeps the numbers the browser chose.
	lines := []Line{{Kind: dataplane.Audio, Direction: SendRecv, Codecs: []Codec{
		{Format: dataplane.Format{PayloadType: 96, Codec: "opus", ClockRate: 48000, Channels: 2}},
		{Format: dataplane.Format{PayloadType: 8, Codec: "PCMA", ClockRate: 8000}},
	}}}
	d, err := n.Offer(lines, fillWith("192.0.2.1", 3478))
	d = must(t, d, err)
	if got := codecs(Line{Codecs: d.Media[0].Codecs}); got != "opus:111 PCMA:8" {
		t.Errorf("re-offer: %s", got)
	}
	if d.Media[0].Mid != "0" || d.Origin.Version != held.Origin.Version+1 {
		t.Errorf("mid %q, origin %+v", d.Media[0].Mid, d.Origin)
	}
}

func TestRollback(t *testing.T) {
	n := phone()
	lines, err := n.TakeOffer(parsed(t, "sipp-offer.sdp"))
	lines = must(t, lines, err)
	d, err := n.Answer(lines, fillWith("192.0.2.1", 20000))
	agreed := string(must(t, d, err).Marshal())
	video := Line{Kind: dataplane.Video, Direction: SendRecv, Codecs: []Codec{{Format: dataplane.Format{PayloadType: 96, Codec: "VP8", ClockRate: 90000}}}}
	if _, err := n.Offer(append(lines, video), fillWith("192.0.2.1", 20000)); err != nil {
		t.Fatal(err)
	}
	if !n.Carries(1) {
		t.Error("the offered line is not carried")
	}
	n.Rollback()
	if n.Carries(1) || string(n.Local()) != agreed || len(n.slots) != 1 {
		t.Errorf("after rollback: %d lines, carries %v\n%s", len(n.slots), n.Carries(1), n.Local())
	}
	if _, err := n.TakeAnswer(parsed(t, "sipp-offer.sdp")); err == nil {
		t.Error("an answer to the withdrawn offer is taken")
	}
	// An offer that fails half way leaves nothing either.
	fail := func(s *Section) error {
		if s.Line == 1 {
			return errors.New("no ports")
		}
		return nil
	}
	if _, err := n.Offer(append(lines, video), fail); err == nil || n.Carries(1) {
		t.Errorf("failed offer: %v, carries %v", err, n.Carries(1))
	}
	if _, err := n.TakeOffer(phoneOffer(t, "m=audio 0 RTP/AVP 0")); err != nil {
		t.Errorf("an offer that disables the line: %v", err)
	}
}

// Two audio lines of a phone share payload types; towards a browser they share
// one transport and may not.
func TestUniquePayloadTypes(t *testing.T) {
	a, b := phone(), browser()
	lines, err := a.TakeOffer(phoneOffer(t, "m=audio 4000 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000",
		"m=audio 4002 RTP/AVP 0 8 101", "a=rtpmap:101 telephone-event/8000"))
	lines = must(t, lines, err)
	d, err := b.Offer(lines, fillWith("192.0.2.1", 3478))
	d = must(t, d, err)
	if overlap(d.Media[0].Codecs, d.Media[1].Codecs) {
		t.Errorf("payload types are shared:\n%s", d.Marshal())
	}
	if !d.Media[1].BundleOnly || d.Media[1].Port != 0 || d.Media[0].BundleOnly {
		t.Errorf("the second line is not bundle-only:\n%s", d.Marshal())
	}
	if d.Media[0].Mid == d.Media[1].Mid {
		t.Errorf("mids: %q %q", d.Media[0].Mid, d.Media[1].Mid)
	}
	// A browser that does not bundle gets the first line only.
	answer := *d
	answer.Bundle = nil
	answer.Media = append([]Media(nil), d.Media...)
	answer.Media[1].Port, answer.Media[1].Mid = 9, ""
	got, err := b.TakeAnswer(&answer)
	if got = must(t, got, err); got[0].Rejected || !got[1].Rejected {
		t.Errorf("unbundled answer: %v %v", got[0].Rejected, got[1].Rejected)
	}
}

func TestBundledLinesOfBrowser(t *testing.T) {
	line := func(mid string, pts string, ext string) string {
		return "m=audio 9 UDP/TLS/RTP/SAVPF " + pts + "\na=rtcp-mux\na=mid:" + mid + "\na=rtpmap:111 opus/48000/2\na=rtpmap:112 opus/48000/2" + ext
	}
	const ext = "\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid"
	for _, tc := range []struct {
		name, group, second string
		want                bool
		midExt              uint8
	}{
		{"own payload types", "\na=group:BUNDLE 0 1", line("1", "112", ""), true, 0},
		{"shared payload types", "\na=group:BUNDLE 0 1", line("1", "111", ""), false, 0},
		{"shared, told apart by mid", "\na=group:BUNDLE 0 1", line("1", "111", ext), true, 4},
		{"not in the group", "\na=group:BUNDLE 0", line("1", "112", ""), false, 0},
		{"no group", "", line("1", "112", ""), false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := browser()
			d := parseText(t, "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0"+tc.group+"\n"+line("0", "111", ext)+"\n"+tc.second+"\n")
			lines, err := n.TakeOffer(d)
			lines = must(t, lines, err)
			if lines[0].Rejected || lines[1].Rejected == tc.want {
				t.Fatalf("taken: %v %v", !lines[0].Rejected, !lines[1].Rejected)
			}
			a, err := n.Answer(lines, fillWith("192.0.2.1", 3478))
			a = must(t, a, err)
			if got := a.Media[1].Port != 0; got != tc.want {
				t.Errorf("second line answered: %v", got)
			}
			if got := extensionID(&a.Media[1], ExtMid); got != tc.midExt {
				t.Errorf("mid extension %d, want %d", got, tc.midExt)
			}
			if cfg := n.Agreed()[0].Config; cfg.MidExt != tc.midExt || cfg.Mid != "0" {
				t.Errorf("config: mid %q by %d", cfg.Mid, cfg.MidExt)
			}
		})
	}
}

func TestRefusedMediaKeepFormats(t *testing.T) {
	n := phone()
	lines, err := n.TakeOffer(phoneOffer(t, "m=image 4004 udptl t38", "m=audio 4000 RTP/AVP 0", "m=application 5000 TCP/BFCP *"))
	lines = must(t, lines, err)
	if !lines[0].Rejected || lines[0].Label != "image" || lines[1].Rejected || !lines[2].Rejected {
		t.Fatalf("lines: %+v", lines)
	}
	d, err := n.Answer(lines, fillWith("192.0.2.1", 20000))
	text := string(must(t, d, err).Marshal())
	for _, want := range []string{"m=image 0 udptl t38\r\n", "m=application 0 TCP/BFCP *\r\n", "m=audio 20002 RTP/AVP 0\r\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

func TestNotAcceptable(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		do         func() error
	}{
		{"no codec in common", "no codec in common", func() error {
			n := phone()
			if _, err := n.TakeOffer(phoneOffer(t, "m=audio 4000 RTP/AVP 0")); err != nil {
				return err
			}
			_, err := n.Answer([]Line{{Kind: dataplane.Audio, Direction: SendRecv, Codecs: []Codec{opus(), telephone(101, 8000)}}}, fillWith("192.0.2.1", 4))
			return err
		}},
		{"only events", "no codec", func() error {
			_, err := phone().TakeOffer(phoneOffer(t, "m=audio 4000 RTP/AVP 101", "a=rtpmap:101 telephone-event/8000"))
			return err
		}},
		{"only an unknown medium", "is not carried", func() error {
			_, err := phone().TakeOffer(phoneOffer(t, "m=application 5000 TCP/BFCP *"))
			return err
		}},
		{"a line vanished", "never go away", func() error {
			n := phone()
			lines, err := n.TakeOffer(phoneOffer(t, "m=audio 4000 RTP/AVP 0", "m=audio 4002 RTP/AVP 8"))
			if err != nil {
				return err
			}
			if _, err := n.Answer(lines, fillWith("192.0.2.1", 4)); err != nil {
				return err
			}
			_, err = n.TakeOffer(phoneOffer(t, "m=audio 4000 RTP/AVP 0"))
			return err
		}},
		{"an answer with too many lines", "the offer had", func() error {
			n := phone()
			if _, err := n.Offer(PhoneLines(), fillWith("192.0.2.1", 4)); err != nil {
				return err
			}
			_, err := n.TakeAnswer(phoneOffer(t, "m=audio 4000 RTP/AVP 0", "m=audio 4002 RTP/AVP 0"))
			return err
		}},
		{"an answer that refuses all", "accepts no line", func() error {
			n := phone()
			if _, err := n.Offer(PhoneLines(), fillWith("192.0.2.1", 4)); err != nil {
				return err
			}
			_, err := n.TakeAnswer(phoneOffer(t, "m=audio 0 RTP/AVP 0"))
			return err
		}},
		{"another mid", "mid", func() error {
			n := browser()
			if _, err := n.Offer(BrowserLines(), fillWith("192.0.2.1", 4)); err != nil {
				return err
			}
			_, err := n.TakeAnswer(phoneOffer(t, "m=audio 4000 RTP/AVP 0", "a=mid:x"))
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.do()
			var e *Error
			if !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, tc.want) {
				t.Errorf("got %v, want a 488 with %q", err, tc.want)
			}
		})
	}
}

// A late codec order: the answerer's preference decides for both ends.
func TestIntersectOrder(t *testing.T) {
	offer := []Line{{Kind: dataplane.Audio, Direction: SendRecv, Codecs: []Codec{opus(), narrow()[0], narrow()[1], narrow()[2], telephone(126, 8000)}}}
	answer := []Line{{Kind: dataplane.Audio, Direction: SendRecv, Codecs: []Codec{narrow()[2], narrow()[1], telephone(101, 8000)}}}
	if got := codecs(Intersect(offer, answer)[0]); got != "PCMA:8 PCMU:0 telephone-event:126" {
		t.Errorf("%s", got)
	}
	if got := Intersect(offer, nil); !got[0].Rejected {
		t.Error("a missing line is not rejected")
	}
}

// Some phones offer SRTP and RTP as two sections on one port.
func TestAlternativesOnOnePort(t *testing.T) {
	n := phone()
	lines, err := n.TakeOffer(phoneOffer(t, "m=audio 4000 RTP/SAVP 0", "m=audio 4000 RTP/AVP 0", "m=audio 4002 RTP/AVP 8"))
	lines = must(t, lines, err)
	if lines[0].Rejected || !lines[1].Rejected || lines[2].Rejected {
		t.Errorf("taken: %v %v %v", !lines[0].Rejected, !lines[1].Rejected, !lines[2].Rejected)
	}
	// When the first cannot be carried, the second is.
	n = NewNegotiator(Style{Proto: AVP, Accept: func(m *Media) string {
		if m.Proto.Secure() {
			return "not here"
		}
		return ""
	}}, 1)
	lines, err = n.TakeOffer(phoneOffer(t, "m=video 4002 RTP/AVP 34", "m=audio 4000 RTP/SAVP 0", "m=audio 4000 RTP/AVP 0"))
	if lines = must(t, lines, err); lines[0].Rejected || !lines[1].Rejected || lines[2].Rejected {
		t.Errorf("taken: %v %v %v", !lines[0].Rejected, !lines[1].Rejected, !lines[2].Rejected)
	}
}

func TestG729AnnexB(t *testing.T) {
	offer := Line{Kind: dataplane.Audio, Direction: SendRecv, Codecs: []Codec{{Format: dataplane.Format{PayloadType: 18, Codec: "G729", ClockRate: 8000}}}}
	answer := offer.Clone()
	answer.Codecs[0].Fmtp = map[string]string{"annexb": "no"}
	got := Intersect([]Line{offer}, []Line{answer})[0]
	if got.Rejected || got.Codecs[0].Fmtp["annexb"] != "no" {
		t.Errorf("%+v", got)
	}
}

// A header extension is answered only when both legs negotiated it.
func TestExtensions(t *testing.T) {
	a, b := browser(), browser()
	lines, err := a.TakeOffer(parsed(t, "chromium-video.sdp"))
	lines = must(t, lines, err)
	offer, err := b.Offer(lines, fillWith("192.0.2.1", 3478))
	offer = must(t, offer, err)
	if got := offer.Media[0].Extensions; len(got) != 1 || got[0] != (Extension{ID: 1, URI: extAudioLevel}) {
		t.Errorf("audio offered with %v", got)
	}
	if got := offer.Media[1].Extensions; len(got) != 1 || got[0] != (Extension{ID: 13, URI: extOrientation}) {
		t.Errorf("video offered with %v", got)
	}
	// The callee takes the orientation only.
	answer := *offer
	answer.Media = append([]Media(nil), offer.Media...)
	answer.Media[0].Extensions = nil
	answer.Media[1].Port, answer.Media[1].BundleOnly = 9, false
	got, err := b.TakeAnswer(&answer)
	got = must(t, got, err)
	back, err := a.Answer(got, fillWith("192.0.2.1", 3478))
	back = must(t, back, err)
	if len(back.Media[0].Extensions) != 0 || len(back.Media[1].Extensions) != 1 || back.Media[1].Extensions[0].ID != 13 {
		t.Errorf("answered %v, %v", back.Media[0].Extensions, back.Media[1].Extensions)
	}
	if x := a.Agreed()[1].Config.Extensions; x[extOrientation] != 13 || len(x) != 1 {
		t.Errorf("config %v", x)
	}
	if x := b.Agreed()[0].Config.Extensions; len(x) != 0 {
		t.Errorf("config %v", x)
	}
}

// Chromium's video offer towards a phone: feedback in the short form, and read
// back the same.
func TestFeedbackShortForm(t *testing.T) {
	a, b := browser(), phone()
	lines, err := a.TakeOffer(parsed(t, "chromium-video.sdp"))
	lines = must(t, lines, err)
	for i := range lines[1].Codecs {
		lines[1].Codecs[i].Feedback = []string{"nack pli", "ccm fir"}
	}
	d, err := b.Offer(lines, fillWith("192.0.2.1", 20000))
	text := string(must(t, d, err).Marshal())
	if strings.Count(text, "a=rtcp-fb:") != 2 || !strings.Contains(text, "a=rtcp-fb:* nack pli\r\n") {
		t.Errorf("%s", text)
	}
	again := parseText(t, strings.ReplaceAll(text, "\r", ""))
	for _, c := range again.Media[1].Codecs {
		if strings.Join(c.Feedback, ",") != "nack pli,ccm fir" {
			t.Errorf("%s: %v", c.Codec, c.Feedback)
		}
	}
}
