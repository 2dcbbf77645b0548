package webrtc

import (
	"slices"
	"strings"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// browserCodecs are what some browser can play: RFC 7874 3, RFC 7742 5, and what
// they have grown since.
var browserCodecs = []string{"opus", "PCMU", "PCMA", "G722", "H264", "H265", "VP8", "VP9", "AV1"}

// playable checks that a browser could take one of the lines. Without that it
// would ring for a call that cannot be.
func playable(lines []sdp.Line) error {
	var seen []string
	for _, l := range lines {
		if l.Rejected {
			continue
		}
		for _, c := range l.Codecs {
			if slices.ContainsFunc(browserCodecs, func(b string) bool { return strings.EqualFold(b, c.Format.Codec) }) {
				return nil
			}
			seen = append(seen, c.Format.Codec)
		}
	}
	return sdp.NotAcceptable("browsers have none of the codecs on offer (%s): offer one of %s",
		strings.Join(seen, ", "), strings.Join(browserCodecs, ", "))
}
