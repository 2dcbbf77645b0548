package webrtc

import (
	"errors"
	"testing"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane"
)

func TestPlayable(t *testing.T) {
	line := func(rejected bool, names ...string) sdp.Line {
		l := sdp.Line{Kind: dataplane.Audio, Rejected: rejected}
		for _, n := range names {
			l.Codecs = append(l.Codecs, sdp.Codec{Format: dataplane.Format{Codec: n}})
		}
		return l
	}
	for _, tc := range []struct {
		name  string
		lines []sdp.Line
		ok    bool
	}{
		{"one of several", []sdp.Line{line(false, "G729", "pcmu")}, true},
		{"in the second line", []sdp.Line{line(false, "G729"), line(false, "H264")}, true},
		{"digits only", []sdp.Line{line(false, "telephone-event")}, false},
		{"none", []sdp.Line{line(false, "G729", "telephone-event")}, false},
		{"only in a line that is rejected", []sdp.Line{line(true, "opus"), line(false, "G729")}, false},
		{"no lines", nil, false},
	} {
		err := playable(tc.lines)
		var no *sdp.Error
		if (err == nil) != tc.ok || err != nil && (!errors.As(err, &no) || no.Code != 488) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
