package sdp

import (
	"slices"

	"github.com/sluicegw/sluice/dataplane"
)

// Header extensions that mean something end to end and need no help from the
// gateway. Transport-wide sequence numbers and send times belong to one hop.
const (
	extAudioLevel  = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
	extOrientation = "urn:3gpp:video-orientation"
	// ExtMid is the BUNDLE identification of RFC 9143 15.2; a leg's own affair.
	ExtMid = "urn:ietf:params:rtp-hdrext:sdes:mid"
)

func forwardedExtension(uri string) bool { return uri == extAudioLevel || uri == extOrientation }

// Intersect is what the offerer's leg will be answered: offer as one leg's far
// end made it, answer as the other leg's far end gave it. Codecs are matched by
// meaning, stand in the answer's order (so both ends prefer the same one, RFC
// 3264 6.1) with the answer's parameters, and keep the offer's payload types.
// A line without a common codec, or missing in answer, is Rejected. A Media's
// Answer does the same with the lines it is given, so answering with the
// result, or with answer itself, is the same.
func Intersect(offer, answer []Line) []Line {
	out := make([]Line, len(offer))
	for i, o := range offer {
		if i >= len(answer) {
			out[i] = reject(o)
			continue
		}
		out[i] = intersect(o, answer[i])
	}
	return out
}

func reject(l Line) Line {
	return Line{Kind: l.Kind, Rejected: true, Direction: Inactive, Label: l.Label}
}

func intersect(o, a Line) Line {
	if o.Rejected || a.Rejected || o.Kind == 0 || o.Kind != a.Kind {
		return reject(o)
	}
	l := Line{
		Kind: o.Kind, Direction: a.Direction.Answering(o.Direction),
		Ptime: a.Ptime, MaxPtime: a.MaxPtime, Label: o.Label,
	}
	var taken [128]bool
	add := func(oc, ac Codec) {
		if taken[oc.PayloadType&127] {
			return
		}
		taken[oc.PayloadType&127] = true
		c := ac.Clone()
		c.Format, c.Incoming = oc.Format, oc.Incoming
		c.Feedback = commonFeedback(o.Kind, oc.Feedback, ac.Feedback)
		l.Codecs = append(l.Codecs, c)
	}
	for _, ac := range a.Codecs {
		if i := find(o.Codecs, ac); i >= 0 {
			add(o.Codecs[i], ac)
		}
	}
	if !hasMedia(l.Codecs) {
		return reject(o)
	}
	// Phones pair telephone-event/8000 with a 48 kHz codec; browsers send events
	// only at their codec's rate (RFC 4733 2.6). So the offerer gets the rate of
	// the codec, and PayloadMaps joins it to whatever the answerer takes.
	if rate := mainClock(l.Codecs); events(l.Codecs, rate) < 0 {
		oi, ai := events(o.Codecs, rate), events(a.Codecs, 0)
		if oi < 0 && events(l.Codecs, 0) < 0 {
			oi = events(o.Codecs, 0)
		}
		if oi >= 0 && ai >= 0 {
			add(o.Codecs[oi], a.Codecs[ai])
		}
	}
	for uri, id := range o.Extensions {
		if _, ok := a.Extensions[uri]; ok && forwardedExtension(uri) {
			if l.Extensions == nil {
				l.Extensions = map[string]uint8{}
			}
			l.Extensions[uri] = id
		}
	}
	return l
}

// commonFeedback is what of the offered feedback is answered. Key frame
// requests are always served: by RTCP, or by RFC 5168 INFO where the other leg
// has none. A NACK only means something when the other side can resend.
func commonFeedback(kind dataplane.Kind, offered, answered []string) []string {
	var out []string
	for _, f := range offered {
		if keyframeFeedback(kind, f) || f == "nack" && slices.Contains(answered, f) {
			out = append(out, f)
		}
	}
	return out
}

func keyframeFeedback(kind dataplane.Kind, f string) bool {
	return kind == dataplane.Video && (f == "nack pli" || f == "ccm fir")
}

// PayloadMaps maps the payload types of a's leg to those of b's and back, for
// Plane.Join, by what the codecs mean. Types without a counterpart are dropped.
func PayloadMaps(a, b Line) (aToB, bToA dataplane.PayloadMap) {
	return payloadMap(a.Codecs, b.Codecs), payloadMap(b.Codecs, a.Codecs)
}

func payloadMap(from, to []Codec) (m dataplane.PayloadMap) {
	for i := range m {
		m[i] = dataplane.PayloadDrop
	}
	for _, c := range from {
		i := find(to, c)
		if i < 0 && c.IsEvents() {
			if i = events(to, mainClock(to)); i < 0 {
				i = events(to, 0)
			}
		}
		if i >= 0 && c.Arrives() < 128 {
			m[c.Arrives()] = to[i].PayloadType
		}
	}
	// Some that renumber in their answer send by their own number all the same.
	for _, c := range from {
		if c.PayloadType < 128 && m[c.PayloadType] == dataplane.PayloadDrop && c.Arrives() < 128 {
			m[c.PayloadType] = m[c.Arrives()]
		}
	}
	return m
}

// BrowserLines are the lines a WebRTC leg offers of itself, when nobody has
// offered anything to pass on (a delayed offer).
func BrowserLines() []Line {
	return []Line{{
		Kind: dataplane.Audio, Direction: SendRecv, Label: "audio",
		Codecs: append([]Codec{opus()}, append(narrow(), telephone(110, 48000), telephone(126, 8000))...),
	}}
}

// PhoneLines are the lines a phone or trunk leg offers of itself.
func PhoneLines() []Line {
	return []Line{{
		Kind: dataplane.Audio, Direction: SendRecv, Label: "audio", Ptime: 20,
		Codecs: append(narrow(), opus(), telephone(101, 8000), telephone(110, 48000)),
	}}
}

func opus() Codec {
	return Codec{
		Format: dataplane.Format{PayloadType: 111, Codec: "opus", ClockRate: 48000, Channels: 2},
		Fmtp:   map[string]string{"useinbandfec": "1", "minptime": "10"},
	}
}

func narrow() []Codec {
	var out []Codec
	for _, pt := range []uint8{9, 0, 8} {
		f, _ := static(pt)
		out = append(out, Codec{Format: f})
	}
	return out
}

func telephone(pt uint8, rate int) Codec {
	return Codec{
		Format: dataplane.Format{PayloadType: pt, Codec: "telephone-event", ClockRate: rate},
		Fmtp:   map[string]string{"": "0-16"},
	}
}
