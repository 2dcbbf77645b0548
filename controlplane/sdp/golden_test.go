package sdp

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is written for real far ends, to the letter: a change here is a change
// that a phone or browser sees. go test ./controlplane/sdp -run Golden -update
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		offer        string
		from, to     Style
		relay, reply string // goldens: our offer to the other side, our answer to a far end that takes all
	}{
		{"chromium-audio.sdp", styleWeb(), stylePhone(), "chromium-to-phone", "chromium-answered"},
		{"chromium-video.sdp", styleWeb(), styleWeb(), "chromium-video-to-chromium", "chromium-video-answered"},
		{"baresip-offer.sdp", stylePhone(), styleWeb(), "baresip-to-chromium", "baresip-answered"},
		{"chromium-reoffer.sdp", styleWeb(), stylePhone(), "chromium-reoffer-to-phone", "chromium-reoffer-answered"},
		{"firefox-audio.sdp", styleWeb(), stylePhone(), "firefox-to-phone", "firefox-answered"},
		{"freeswitch-offer.sdp", stylePhone(), styleWeb(), "freeswitch-to-chromium", "freeswitch-answered"},
		{"cisco-offer.sdp", stylePhone(), styleWeb(), "cisco-to-chromium", "cisco-answered"},
		{"sipp-offer.sdp", stylePhone(), styleWeb(), "sipp-to-chromium", "sipp-answered"},
		{"hold-rfc2543.sdp", stylePhone(), styleWeb(), "hold-to-chromium", "hold-answered"},
	} {
		t.Run(tc.offer, func(t *testing.T) {
			a, b := NewNegotiator(tc.from, 1<<2), NewNegotiator(tc.to, 2<<2)
			lines, err := a.TakeOffer(parsed(t, tc.offer))
			lines = must(t, lines, err)
			d, err := b.Offer(lines, transport(tc.to, ActPass))
			golden(t, tc.relay, must(t, d, err).Marshal())
			d, err = a.Answer(lines, transport(tc.from, Passive))
			golden(t, tc.reply, must(t, d, err).Marshal())
		})
	}
}

func styleWeb() Style   { return Style{Browser: true, Proto: DTLS} }
func stylePhone() Style { return Style{Proto: AVP} }

// transport fills in what a leg would, with fixed values.
func transport(s Style, setup Setup) Fill {
	return func(sec *Section) error {
		m := sec.Media
		m.Host, m.Port = "198.51.100.7", 20000+2*sec.Line
		if s.Browser {
			m.Port = 3478
			m.Ufrag, m.Pwd = "ABCDEFGHIJKL", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			m.Candidates, m.EndOfCandidates = []string{"1 1 udp 2130706431 198.51.100.7 3478 typ host"}, true
			m.Fingerprints = []Fingerprint{{Algorithm: "sha-256", Value: make([]byte, 32)}}
			m.Setup = setup
			m.Sources = []Source{{SSRC: uint32(1000 + sec.Line), CName: "cname"}}
			if m.Direction.Sends() {
				m.Stream = "cname cname-" + m.Mid
			}
		}
		return nil
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-golden +now):\n%s", name, diff)
	}
}
