package sdp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func parsed(t testing.TB, name string) *Description {
	t.Helper()
	d, err := Parse(load(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

func TestParseChromium(t *testing.T) {
	d := parsed(t, "chromium-audio.sdp")
	if len(d.Media) != 1 {
		t.Fatalf("%d sections", len(d.Media))
	}
	m := d.Media[0]
	if m.Proto != DTLS || m.Port != 47921 || m.Mid != "0" || !m.RTCPMux || m.Setup != ActPass || m.Ufrag != "x9Gm" {
		t.Errorf("section: %+v", m)
	}
	if len(m.Fingerprints) != 1 || m.Fingerprints[0].Algorithm != "sha-256" || len(m.Fingerprints[0].Value) != 32 {
		t.Errorf("fingerprints: %v", m.Fingerprints)
	}
	if len(m.Candidates) != 2 || len(m.Sources) != 1 || m.Sources[0].CName != "Yq2c6mJ0m3hTzv7d" {
		t.Errorf("candidates %d, sources %v", len(m.Candidates), m.Sources)
	}
	var names []string
	for _, c := range m.Codecs {
		names = append(names, c.Codec)
	}
	if got := strings.Join(names, " "); got != "opus red G722 PCMU PCMA CN telephone-event telephone-event" {
		t.Errorf("codecs: %s", got)
	}
	if got := m.Codecs[0].Fmtp; !cmp.Equal(got, map[string]string{"minptime": "10", "useinbandfec": "1"}) {
		t.Errorf("opus fmtp: %v", got)
	}
}

func TestParseSessionDefaults(t *testing.T) {
	d, err := Parse([]byte("v=0\r\no=- 1 1 IN IP6 2001:db8::1\r\ns=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\na=sendonly\r\n" +
		"a=setup:passive\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n" +
		"a=fingerprint:SHA-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F\r\n" +
		"m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 34\r\nc=IN IP4 192.0.2.1\r\na=recvonly\r\na=setup:active\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, v := d.Media[0], d.Media[1]
	if a.Direction != SendOnly || a.Host != "2001:db8::1" || a.Setup != Passive || a.Ufrag != "abcd" || len(a.Fingerprints) != 1 {
		t.Errorf("audio does not inherit: %+v", a)
	}
	if v.Direction != RecvOnly || v.Host != "192.0.2.1" || v.Setup != Active || v.Ufrag != "abcd" || len(v.Fingerprints) != 1 {
		t.Errorf("video: %+v", v)
	}
	if len(a.Codecs) != 1 || a.Codecs[0].Codec != "PCMU" || v.Codecs[0].Codec != "H263" {
		t.Errorf("static types: %v %v", a.Codecs, v.Codecs)
	}
}

func TestParseErrors(t *testing.T) {
	head := "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nt=0 0\n"
	for _, tc := range []struct{ name, body, want string }{
		{"empty", "", "empty"},
		{"not sdp", "hello", "not of the form"},
		{"no version", "o=- 1 1 IN IP4 192.0.2.1\n", "must begin with v=0"},
		{"version 1", "v=1\n", "v=1"},
		{"no origin", "v=0\ns=-\n", "o= is missing"},
		{"short origin", "v=0\no=- 1\n", "six fields"},
		{"port", head + "m=audio 70000 RTP/AVP 0\n", "port"},
		{"format", head + "m=audio 4000 RTP/AVP 300\n", "payload type"},
		{"family", head + "c=IN IP6 192.0.2.1\n", "other family"},
		{"rtpmap", head + "m=audio 4000 RTP/AVP 96\na=rtpmap:96 opus\n", "rtpmap"},
		{"clock", head + "m=audio 4000 RTP/AVP 96\na=rtpmap:96 opus/0\n", "clock rate"},
		{"fingerprint size", head + "a=fingerprint:sha-256 00:11\n", "fingerprint"},
		{"setup", head + "a=setup:both\n", "setup"},
		{"pwd", head + "a=ice-pwd:short\n", "ice-pwd"},
		{"mid twice", head + "m=audio 4000 RTP/AVP 0\na=mid:0\nm=audio 4000 RTP/AVP 0\na=mid:0\n", "stands twice"},
		{"control", head + "m=audio 4000 RTP/AVP 0\na=mid:\x00\n", "control character"},
		{"too long", head + "a=" + strings.Repeat("x", maxLineLength) + "\n", "longer than"},
		{"too big", strings.Repeat("v=0\n", maxBody), "at most"},
		{"too many sections", head + strings.Repeat("m=audio 4000 RTP/AVP 0\n", maxMedia+1), "more than 16 media"},
		{"too many candidates", head + "m=audio 4000 RTP/AVP 0\n" + strings.Repeat("a=candidate:1\n", maxPerMedia+1), "more than 64"},
		{"crypto", head + "m=audio 4000 RTP/SAVP 0\na=crypto:x AES_CM_128_HMAC_SHA1_80 inline:SECRET\n", "crypto must be"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.body))
			var e *Error
			if !errors.As(err, &e) || e.Code != 400 || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want a 400 with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Error("the error shows the key")
			}
		})
	}
}

// What phones in the field write and a strict reader would refuse.
func TestParseLenient(t *testing.T) {
	d, err := Parse([]byte("v=0\no=Mitel PBX 99999999999999999999999 1 IN IP4 192.0.2.1\ns=\nc=IN IP4 192.0.2.1\nt=0 0\n" +
		"m=audio 4000/1 RTP/AVP 0 96 96\na=fmtp:0\na=rtpmap:96 opus/48000/2 \na=ptime:20.0\na=maxptime:2000\na=extmap:4096 urn:x\na=unknown:1\n" +
		"m=video 0 RTP/AVP\n\r\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Media) != 2 || d.Origin.User != "Mitel_PBX" || d.Media[0].Port != 4000 {
		t.Fatalf("%+v", d)
	}
	if m := d.Media[0]; len(m.Codecs) != 2 || m.Codecs[1].Channels != 2 || m.Ptime != 20 || m.MaxPtime != 0 || len(m.Extensions) != 0 {
		t.Errorf("%+v", m)
	}
	if m := d.Media[1]; !m.Rejected() || len(m.Formats) != 1 {
		t.Errorf("%+v", m)
	}
}

// What Marshal writes means the same to Parse.
func TestRoundTrip(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.sdp")
	if len(files) < 5 {
		t.Fatal("testdata is missing")
	}
	for _, f := range files {
		d := parsed(t, filepath.Base(f))
		again, err := Parse(d.Marshal())
		if err != nil {
			t.Fatalf("%s: %v\n%s", f, err, d.Marshal())
		}
		if diff := cmp.Diff(normal(d), normal(again)); diff != "" {
			t.Errorf("%s: (-first +again)\n%s", f, diff)
		}
	}
}

// normal drops what Marshal does not write: formats without a meaning.
func normal(d *Description) *Description {
	out := *d
	out.Media = append([]Media(nil), d.Media...)
	for i := range out.Media {
		m := &out.Media[i]
		if len(m.Codecs) > 0 {
			m.Formats = formatList(m.Codecs)
		}
		if m.Rejected() {
			*m = Media{Name: m.Name, Proto: m.Proto, Formats: m.Formats, Mid: m.Mid}
		}
	}
	return &out
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.sdp")
	for _, name := range files {
		f.Add(load(f, filepath.Base(name)))
	}
	f.Add([]byte("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nm=audio 0 RTP/AVP 0\r\na=fmtp:0 ;;=;a=b\r\na=rtcp:\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := Parse(body)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		if _, err := Parse(d.Marshal()); err != nil {
			t.Fatalf("own output is refused: %v\n%q", err, d.Marshal())
		}
		for _, style := range []Style{{Browser: true, Proto: DTLS}, {Proto: AVP}} {
			n := NewNegotiator(style, 1)
			lines, err := n.TakeOffer(d)
			if err != nil {
				continue
			}
			a, err := n.Answer(lines, func(s *Section) error { s.Media.Port, s.Media.Host = 9, "192.0.2.1"; return nil })
			if err != nil {
				continue
			}
			if len(a.Media) != len(d.Media) {
				t.Fatalf("%d sections answer %d", len(a.Media), len(d.Media))
			}
		}
	})
}
