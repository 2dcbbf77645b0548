package sdp

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicegw/sluice/dataplane"
)

// palette is what generated offers choose from.
func palette(kind dataplane.Kind) []Codec {
	if kind == dataplane.Video {
		h264 := func(id, mode string) Codec {
			return Codec{Format: dataplane.Format{Codec: "H264", ClockRate: 90000},
				Fmtp: map[string]string{"profile-level-id": id, "packetization-mode": mode}, Feedback: []string{"nack", "nack pli"}}
		}
		return []Codec{
			{Format: dataplane.Format{Codec: "VP8", ClockRate: 90000}, Feedback: []string{"nack pli", "ccm fir"}},
			h264("42e01f", "0"), h264("42e01f", "1"), h264("42001f", "1"), h264("640c1f", "1"),
		}
	}
	out := append(narrow(), opus(), telephone(0, 8000), telephone(0, 48000))
	cn, _ := static(13)
	return append(out, Codec{Format: cn})
}

func genLine(t *rapid.T, label string) Line {
	kind := rapid.SampledFrom([]dataplane.Kind{dataplane.Audio, dataplane.Audio, dataplane.Video}).Draw(t, label+" kind")
	l := Line{
		Kind:      kind,
		Direction: rapid.SampledFrom([]Direction{SendRecv, SendOnly, RecvOnly, Inactive}).Draw(t, label+" direction"),
		Ptime:     rapid.SampledFrom([]int{0, 20, 30}).Draw(t, label+" ptime"),
	}
	pts := rapid.Permutation(slices.Concat(span(96, 127), span(35, 63))).Draw(t, label+" pts")
	for i, c := range rapid.Permutation(palette(kind)).Draw(t, label+" codecs") {
		if i > 0 && rapid.Bool().Draw(t, label+" skip") {
			continue
		}
		c = c.Clone()
		if pt, ok := staticType(c); ok && kind == dataplane.Audio {
			c.PayloadType = pt
		} else {
			c.PayloadType = pts[i]
		}
		l.Codecs = append(l.Codecs, c)
	}
	if rapid.IntRange(0, 5).Draw(t, label+" reject") == 0 {
		l = Line{Kind: kind, Rejected: true, Direction: Inactive, Label: kind.String()}
	}
	return l
}

func span(from, to uint8) (out []uint8) {
	for pt := from; pt <= to; pt++ {
		out = append(out, pt)
	}
	return out
}

func genLines(t *rapid.T, label string, n int) []Line {
	lines := make([]Line, n)
	for i := range lines {
		lines[i] = genLine(t, label)
	}
	return lines
}

// wire sends a description through its text.
func wire(t *rapid.T, d *Description) *Description {
	out, err := Parse(d.Marshal())
	if err != nil {
		t.Fatalf("own description: %v\n%s", err, d.Marshal())
	}
	return out
}

// checkOffer: what RFC 3264 5 and RFC 9143 7.2 ask of an offer.
func checkOffer(t *rapid.T, browser bool, d *Description) {
	taken := map[uint8]int{}
	for j, m := range d.Media {
		seen := map[uint8]bool{}
		for _, c := range m.Codecs {
			if seen[c.PayloadType] {
				t.Fatalf("section %d has payload type %d twice", j, c.PayloadType)
			}
			seen[c.PayloadType] = true
			if f, ok := static(c.PayloadType); ok && !sameFormat(f, c.Format) {
				t.Fatalf("payload type %d is %s", c.PayloadType, c.Codec)
			}
			if c.PayloadType >= 64 && c.PayloadType < 96 {
				t.Fatalf("payload type %d collides with RTCP", c.PayloadType)
			}
			if other, ok := taken[c.PayloadType]; browser && ok {
				t.Fatalf("payload type %d is on sections %d and %d", c.PayloadType, other, j)
			}
			taken[c.PayloadType] = j
		}
	}
}

// checkAnswer: what RFC 3264 6 asks of an answer to the offer.
func checkAnswer(t *rapid.T, offer, answer *Description) {
	if len(answer.Media) != len(offer.Media) {
		t.Fatalf("%d sections answer %d", len(answer.Media), len(offer.Media))
	}
	for j, a := range answer.Media {
		o := offer.Media[j]
		if a.Name != o.Name || a.Proto != o.Proto || a.Mid != o.Mid {
			t.Fatalf("section %d: %s %s %q answers %s %s %q", j, a.Name, a.Proto, a.Mid, o.Name, o.Proto, o.Mid)
		}
		if o.Rejected() && !a.Rejected() {
			t.Fatalf("section %d: a refused section is accepted", j)
		}
		if a.Rejected() {
			if len(a.Formats) == 0 {
				t.Fatalf("section %d is refused without a format", j)
			}
			continue
		}
		if !hasMedia(a.Codecs) {
			t.Fatalf("section %d is accepted without a codec", j)
		}
		for _, c := range a.Codecs {
			i := slices.IndexFunc(o.Codecs, func(x Codec) bool { return x.PayloadType == c.PayloadType })
			if i < 0 || !sameFormat(o.Codecs[i].Format, c.Format) {
				t.Fatalf("section %d: %d %s was not offered so", j, c.PayloadType, c.Codec)
			}
		}
		if a.Direction.Sends() && !o.Direction.Receives() || a.Direction.Receives() && !o.Direction.Sends() {
			t.Fatalf("section %d: %s answers %s", j, a.Direction, o.Direction)
		}
		for _, e := range a.Extensions {
			if extensionID(&o, e.URI) != e.ID {
				t.Fatalf("section %d: extension %s was not offered so", j, e.URI)
			}
		}
	}
	for _, g := range answer.Bundle {
		for _, mid := range g {
			if !slices.Contains(offer.BundleOf(mid), mid) {
				t.Fatalf("BUNDLE of %q was not offered", mid)
			}
		}
	}
}

// Two legs and their far ends negotiate a call, then re-negotiate it from
// either side; whatever the lines, each answer fits its offer, payload types
// keep their meaning, and the maps are each other's inverse.
func TestNegotiationProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		browsers := rapid.Bool().Draw(t, "caller is a browser")
		browserB := rapid.Bool().Draw(t, "callee is a browser")
		far := NewNegotiator(styleOf(browsers), 1<<2)  // the caller
		legA := NewNegotiator(styleOf(browsers), 2<<2) // our leg to it
		legB := NewNegotiator(styleOf(browserB), 3<<2)
		farB := NewNegotiator(styleOf(browserB), 4<<2) // the callee
		lines := genLines(t, "offer", rapid.IntRange(1, 3).Draw(t, "lines"))
		meaning := map[*Negotiator]map[[2]int]Codec{legA: {}, legB: {}}
		for round := range rapid.IntRange(1, 3).Draw(t, "rounds") {
			if round > 0 {
				if rapid.Bool().Draw(t, "from the other side") {
					far, legA, legB, farB = farB, legB, legA, far
					browsers, browserB = browserB, browsers
				}
				lines = genLines(t, "again", far.count+rapid.IntRange(0, 1).Draw(t, "grow"))
				for i := range far.count {
					// A section stays the medium it is.
					if s := far.slotOf(i); s != nil && s.name != lines[i].Kind.String() {
						lines[i] = Line{Rejected: true, Direction: Inactive}
					}
				}
			}
			exchange(t, far, legA, legB, farB, lines, meaning, browserB)
		}
	})
}

func styleOf(browser bool) Style {
	if browser {
		return Style{Browser: true, Proto: DTLS}
	}
	return Style{Proto: AVP}
}

func exchange(t *rapid.T, far, legA, legB, farB *Negotiator, lines []Line, meaning map[*Negotiator]map[[2]int]Codec, browserB bool) {
	// A far end numbers its own sections as it goes; what it cannot offer ends the round.
	offer, err := far.Offer(lines, fillWith("192.0.2.7", 9))
	if err != nil {
		return
	}
	offered := wire(t, offer)
	taken, err := legA.TakeOffer(offered)
	if err != nil {
		far.Rollback()
		return
	}
	for legB.count > len(taken) {
		taken = append(taken, Line{Rejected: true, Direction: Inactive})
	}
	out, err := legB.Offer(taken, fillWith("192.0.2.1", 20000))
	if err != nil {
		legA.Rollback()
		far.Rollback()
		return
	}
	checkOffer(t, browserB, out)
	sent := wire(t, out)
	atB, err := farB.TakeOffer(sent)
	if err != nil {
		legB.Rollback()
		legA.Rollback()
		far.Rollback()
		return
	}
	// The callee takes some of it, in its own order.
	for i := range atB {
		if atB[i].Rejected {
			continue
		}
		atB[i].Codecs = rapid.Permutation(atB[i].Codecs).Draw(t, "callee order")
		atB[i].Codecs = atB[i].Codecs[:rapid.IntRange(1, len(atB[i].Codecs)).Draw(t, "callee takes")]
		atB[i].Direction = rapid.SampledFrom([]Direction{SendRecv, SendOnly, RecvOnly, Inactive}).Draw(t, "callee direction")
	}
	reply, err := farB.Answer(atB, fillWith("192.0.2.8", 9))
	if err != nil {
		farB.Rollback()
		legB.Rollback()
		legA.Rollback()
		far.Rollback()
		return
	}
	checkAnswer(t, sent, reply)
	got, err := legB.TakeAnswer(wire(t, reply))
	if err != nil {
		t.Fatalf("a valid answer is refused: %v\n%s\n%s", err, out.Marshal(), reply.Marshal())
	}
	back, err := legA.Answer(got, fillWith("192.0.2.1", 20000))
	if err != nil {
		t.Fatalf("what the callee took of the caller's offer is refused: %v", err)
	}
	checkAnswer(t, offered, back)
	checkMeaning(t, meaning[legA], back)
	checkMeaning(t, meaning[legB], out)
	if _, err := far.TakeAnswer(wire(t, back)); err != nil {
		t.Fatalf("our answer is refused: %v\n%s", err, back.Marshal())
	}
	aLines := Intersect(taken, got)
	for i := range aLines {
		checkMaps(t, aLines[i], got[i])
	}
}

// checkMeaning: within a session a payload type of a section never changes what
// it means (RFC 3264 8.3.2).
func checkMeaning(t *rapid.T, known map[[2]int]Codec, d *Description) {
	for j, m := range d.Media {
		for _, c := range m.Codecs {
			at := [2]int{j, int(c.PayloadType)}
			if was, ok := known[at]; ok && !sameFormat(was.Format, c.Format) {
				t.Fatalf("section %d: payload type %d was %s/%d and is %s/%d", j, c.PayloadType, was.Codec, was.ClockRate, c.Codec, c.ClockRate)
			}
			known[at] = c
		}
	}
}

func checkMaps(t *rapid.T, a, b Line) {
	aToB, bToA := PayloadMaps(a, b)
	for _, c := range a.Codecs {
		to := aToB[c.Arrives()]
		if to == dataplane.PayloadDrop {
			t.Fatalf("%s of the answered leg has no counterpart", c.Codec)
		}
		i := slices.IndexFunc(b.Codecs, func(o Codec) bool { return o.PayloadType == to })
		if i < 0 || !b.Codecs[i].Equivalent(c) && !(c.IsEvents() && b.Codecs[i].IsEvents()) {
			t.Fatalf("%s goes to payload type %d, which is something else", c.Codec, to)
		}
	}
	for _, c := range b.Codecs {
		if bToA[c.Arrives()] == dataplane.PayloadDrop && !c.IsAuxiliary() && !a.Rejected {
			t.Fatalf("%s of the callee has no counterpart", c.Codec)
		}
	}
}
