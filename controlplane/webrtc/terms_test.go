package webrtc

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

func TestTerms(t *testing.T) {
	const (
		fpA = "a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F"
		fpB = "a=fingerprint:sha-256 FF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F"
		ice = "a=ice-ufrag:abcd\na=ice-pwd:0123456789012345678901"
		two = "a=ice-ufrag:efgh\na=ice-pwd:0123456789012345678901"
	)
	describe := func(lines ...string) *sdp.Description {
		d, err := sdp.Parse([]byte("v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\n" + strings.Join(slices.DeleteFunc(lines, func(s string) bool { return s == "" }), "\n") + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const m = "m=audio 9 UDP/TLS/RTP/SAVPF 0"
	agreed := func(setup string, offer bool) *terms {
		l := &leg{}
		got, err := l.terms(describe(m, ice, fpA, setup), offer)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	server, client := agreed("a=setup:actpass", true), agreed("a=setup:passive", true)
	for _, tc := range []struct {
		name   string
		was    *terms
		offer  bool
		lines  []string
		setup  sdp.Setup // ours in an answer to it
		refuse string
	}{
		{"offer actpass", nil, true, []string{m, ice, fpA, "a=setup:actpass"}, sdp.Passive, ""},
		{"offer active", nil, true, []string{m, ice, fpA, "a=setup:active"}, sdp.Passive, ""},
		{"offer passive", nil, true, []string{m, ice, fpA, "a=setup:passive"}, sdp.Active, ""},
		{"offer without setup", nil, true, []string{m, ice, fpA}, sdp.Passive, ""},
		{"answer active", nil, false, []string{m, ice, fpA, "a=setup:active"}, sdp.Passive, ""},
		{"answer passive", nil, false, []string{m, ice, fpA, "a=setup:passive"}, sdp.Active, ""},
		{"answer without setup", nil, false, []string{m, ice, fpA}, sdp.Active, ""},
		{"answer actpass", nil, false, []string{m, ice, fpA, "a=setup:actpass"}, "", "must choose"},
		{"holdconn", nil, true, []string{m, ice, fpA, "a=setup:holdconn"}, "", "holdconn"},
		{"no ICE", nil, true, []string{m, fpA, "a=setup:actpass"}, "", "no ICE credentials"},
		{"no fingerprint", nil, true, []string{m, ice, "a=setup:actpass"}, "", "fingerprint"},
		{"both lite", nil, true, []string{"a=ice-lite", m, ice, fpA, "a=setup:actpass"}, "", "ICE-lite"},
		{"nothing active", nil, true, []string{"m=audio 0 UDP/TLS/RTP/SAVPF 0"}, "", "no audio or video"},
		{"session level", nil, true, []string{ice, fpA, "a=setup:passive", m}, sdp.Active, ""},
		{"re-offer actpass to the server", server, true, []string{m, ice, fpA, "a=setup:actpass"}, sdp.Passive, ""},
		{"re-offer actpass to the client", client, true, []string{m, ice, fpA, "a=setup:actpass"}, sdp.Active, ""},
		{"re-offer turns the role", server, true, []string{m, ice, fpA, "a=setup:passive"}, "", "role may not change"},
		{"re-answer turns the role", client, false, []string{m, ice, fpA, "a=setup:active"}, "", "role may not change"},
		{"ICE restart", server, true, []string{m, two, fpA, "a=setup:actpass"}, "", "ICE restart"},
		{"other certificate", server, true, []string{m, ice, fpB, "a=setup:actpass"}, "", "fingerprint may not change"},
		{"all lines disabled", server, true, []string{"m=audio 0 UDP/TLS/RTP/SAVPF 0"}, sdp.Passive, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &leg{agreed: tc.was}
			got, err := l.terms(describe(tc.lines...), tc.offer)
			if tc.refuse != "" {
				var e *sdp.Error
				if !errors.As(err, &e) || e.Code != 488 || !strings.Contains(e.Msg, tc.refuse) {
					t.Fatalf("%v, want a 488 with %q", err, tc.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := got.ourSetup(); s != tc.setup {
				t.Errorf("our setup %s, want %s", s, tc.setup)
			}
		})
	}
}
