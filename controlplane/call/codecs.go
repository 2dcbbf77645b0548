package call

import (
	"slices"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// sameCodecs compares the codecs of two lines as sets; events and comfort noise
// do not count, they never make a call impossible.
func sameCodecs(a, b []sdp.Codec) bool { return coveredBy(a, b) && coveredBy(b, a) }

func coveredBy(a, b []sdp.Codec) bool {
	for _, c := range a {
		if c.IsAuxiliary() {
			continue
		}
		if !slices.ContainsFunc(b, c.Equivalent) {
			return false
		}
	}
	return true
}

// sameLine tells whether two descriptions ask the same of a line. Payload types
// and transport do not count, nor does the order of codecs after the first.
func sameLine(a, b sdp.Line) bool {
	if a.Kind != b.Kind || a.Rejected != b.Rejected {
		return false
	}
	if a.Rejected {
		return true
	}
	return sameDirection(a, b) && sameCodecs(a.Codecs, b.Codecs) && sameFirst(a.Codecs, b.Codecs) &&
		slices.ContainsFunc(a.Codecs, sdp.Codec.IsEvents) == slices.ContainsFunc(b.Codecs, sdp.Codec.IsEvents)
}

func sameDirection(a, b sdp.Line) bool {
	return a.Direction.Sends() == b.Direction.Sends() && a.Direction.Receives() == b.Direction.Receives()
}

func sameFirst(a, b []sdp.Codec) bool {
	return len(a) == 0 && len(b) == 0 || len(a) > 0 && len(b) > 0 && a[0].Equivalent(b[0])
}

func sameLines(a, b []sdp.Line) bool { return slices.EqualFunc(a, b, sameLine) }
