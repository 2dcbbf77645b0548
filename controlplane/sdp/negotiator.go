package sdp

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	"github.com/sluicegw/sluice/dataplane"
)

// Style is how one side's descriptions look.
type Style struct {
	// Browser: UDP/TLS/RTP/SAVPF, one transport for all lines by BUNDLE,
	// rtcp-mux required, payload types unique across lines (RFC 8829, RFC 9143).
	// Otherwise one transport per line, as phones have it.
	Browser bool
	// Proto is offered on new lines.
	Proto Proto
	// Accept says why an offered section cannot be carried; "" accepts it.
	Accept func(*Media) string
}

// Section is one agreed or offered m-line as the negotiator hands it to the leg.
type Section struct {
	Line   int    // index in the call's list
	Media  *Media // ours; the leg adds address, keys, candidates
	Remote *Media // what the far end said last of this line, nil nothing yet
	// Config is what the data plane does with the line. In an offer that has
	// no answer yet it neither sends nor receives.
	Config dataplane.LineConfig
}

// Fill adds transport to a section that is not rejected, before it is written.
type Fill func(*Section) error

// Negotiator is the offer/answer state of one leg (RFC 3264): the order of
// m-lines, payload types and their meaning, the o= version. It is not safe for
// concurrent use; a leg calls it one at a time.
type Negotiator struct {
	style  Style
	origin Origin
	state
	before *state // what Rollback returns to while an offer is open
}

// state is what an offer changes and a refused one does not.
type state struct {
	slots   []*slot // one per m-line, in the leg's order
	count   int     // lines the call knows
	extIDs  map[string]uint8
	offered []Line       // the far end's offer waiting for an answer
	remote  *Description // the far end's last description
	pending bool         // our offer waits for an answer
	agreed  []Section    // by line, Media nil where rejected
	last    []byte       // our last description as sent
}

func (s *state) clone() *state {
	out := *s
	out.slots = make([]*slot, len(s.slots))
	for i, one := range s.slots {
		c := *one
		c.numbers = maps.Clone(one.numbers)
		out.slots[i] = &c
	}
	out.extIDs = maps.Clone(s.extIDs)
	return &out
}

// open begins an offer, ours or theirs; one that was still open is taken back.
func (n *Negotiator) open() {
	n.Rollback()
	n.before = n.state.clone()
}

// Rollback forgets an offer that was refused (RFC 3264 4). Without one it does
// nothing.
func (n *Negotiator) Rollback() {
	if n.before != nil {
		n.state = *n.before
		n.before = nil
	}
}

// slot is one m-line for the life of the leg.
type slot struct {
	line    int
	name    string
	mid     string
	proto   Proto
	formats []string        // as last written, for a disabled line
	numbers map[uint8]Codec // payload types and what they mean; never re-used (RFC 3264 8.3.2)
	sent    Line            // our last offer or answer in the leg's numbers
	media   *Media          // our last section
	theirs  *Media          // the far end's last section
	agreed  bool            // has been accepted once by both
	midExt  uint8
}

// NewNegotiator starts a leg. sessionID is the o= session id, random.
func NewNegotiator(style Style, sessionID uint64) *Negotiator {
	return &Negotiator{
		style:  style,
		origin: Origin{User: "-", SessionID: sessionID >> 2, Version: 1},
		state:  state{extIDs: map[string]uint8{}},
	}
}

// Local is our last description, nil before the first.
func (n *Negotiator) Local() []byte { return n.last }

// Remote is the far end's last description, nil before the first.
func (n *Negotiator) Remote() *Description { return n.remote }

// Agreed are the sections both sides agreed to last, by the call's line index.
// Media is nil where the line is rejected.
func (n *Negotiator) Agreed() []Section { return n.agreed }

func (n *Negotiator) slotOf(line int) *slot {
	for _, s := range n.slots {
		if s.line == line {
			return s
		}
	}
	return nil
}

// Offer writes an offer of lines. Lines that were never carried get no m-line;
// those that were get port 0 when now rejected.
func (n *Negotiator) Offer(lines []Line, fill Fill) (*Description, error) {
	n.open()
	d, err := n.offer(lines, fill)
	if err != nil {
		n.Rollback()
	}
	return d, err
}

func (n *Negotiator) offer(lines []Line, fill Fill) (*Description, error) {
	if len(lines) < n.count {
		return nil, NotAcceptable("the offer has %d lines, the call has %d: lines never go away (RFC 3264 8)", len(lines), n.count)
	}
	if !Usable(lines) && len(n.slots) == 0 {
		return nil, NotAcceptable("nothing to offer: no line has a codec")
	}
	n.count = len(lines)
	for i, l := range lines {
		if n.slotOf(i) == nil && !l.Rejected && l.Kind != 0 && hasMedia(l.Codecs) {
			n.slots = append(n.slots, &slot{line: i, numbers: map[uint8]Codec{}})
		}
	}
	d := &Description{Media: make([]Media, len(n.slots))}
	var bundle []string
	for j, s := range n.slots {
		l, m := lines[s.line], &d.Media[j]
		if l.Rejected || l.Kind == 0 || !hasMedia(l.Codecs) {
			n.disable(s, m)
			continue
		}
		if s.name != "" && s.name != l.Kind.String() {
			// Only a disabled section may become another medium (RFC 3264 8.1).
			if s.media != nil && !s.media.Rejected() {
				return nil, NotAcceptable("line %d is %s and cannot become %s", s.line, s.name, l.Kind)
			}
			s.name = ""
		}
		n.describe(s, l, m)
		if !hasMedia(m.Codecs) {
			return nil, NotAcceptable("no payload types left for line %d", s.line)
		}
		if n.style.Browser {
			bundle = append(bundle, m.Mid)
		}
		err := fill(&Section{Line: s.line, Media: m, Remote: s.theirs, Config: dataplane.LineConfig{
			Kind: l.Kind, Mid: m.Mid, Formats: arriving(m.Codecs),
		}})
		if err != nil {
			return nil, err
		}
		if n.style.Browser && len(bundle) > 1 && !s.agreed {
			m.BundleOnly, m.Port = true, 0
		}
		s.media = m
	}
	if len(bundle) > 0 {
		d.Bundle = [][]string{bundle}
	}
	n.pending, n.offered = true, nil
	return n.send(d), nil
}

// disable writes a port 0 section for a line that is no more.
func (n *Negotiator) disable(s *slot, m *Media) {
	*m = Media{Name: s.name, Proto: s.proto, Formats: s.formats, Mid: s.mid, Direction: Inactive}
	s.sent, s.media = Line{Rejected: true}, m
}

// describe writes an offered section, without transport.
func (n *Negotiator) describe(s *slot, l Line, m *Media) {
	if s.name == "" {
		s.name, s.proto = l.Kind.String(), n.style.Proto
	}
	if n.style.Browser && s.mid == "" && s.theirs == nil {
		s.mid = n.newMid()
	}
	sent := l.Clone()
	sent.Codecs = n.number(s, l)
	sent.Extensions = n.extensions(l)
	*m = Media{
		Name: s.name, Proto: s.proto, Mid: s.mid, Direction: l.Direction,
		Codecs: sent.Codecs, Ptime: l.Ptime, MaxPtime: l.MaxPtime,
		Extensions: extensionList(sent.Extensions),
	}
	if m.Direction == "" {
		m.Direction = SendRecv
	}
	if n.style.Browser {
		m.RTCPMux, m.RTCPRsize = true, true
	}
	s.sent = sent
	s.formats = formatList(sent.Codecs)
}

func (n *Negotiator) newMid() string {
	for i := 0; ; i++ {
		mid := strconv.Itoa(i)
		if !slices.ContainsFunc(n.slots, func(s *slot) bool { return s.mid == mid }) {
			return mid
		}
	}
}

// number gives the codecs of an offer this leg's payload types.
func (n *Negotiator) number(s *slot, l Line) []Codec {
	in := l.Codecs
	if n.style.Browser {
		in = withEvents(in)
	}
	var out []Codec
	var used [128]bool
	for _, c := range in {
		if !c.carried() {
			continue
		}
		pt, ok := n.payloadType(s, c)
		if !ok || used[pt] {
			continue
		}
		used[pt] = true
		c = c.Clone()
		c.PayloadType, c.Incoming = pt, 0
		c.Feedback = offeredFeedback(l.Kind, c.Feedback)
		s.numbers[pt] = c
		out = append(out, c)
	}
	return out
}

// withEvents adds telephone-event at the clock rate of every codec: browsers
// send events at no other.
func withEvents(in []Codec) []Codec {
	i := events(in, 0)
	if i < 0 {
		return in
	}
	out := slices.Clone(in)
	for _, c := range in {
		if !c.IsAuxiliary() && events(out, c.ClockRate) < 0 && (c.ClockRate == 8000 || c.ClockRate == 48000) {
			e := in[i].Clone()
			e.ClockRate = c.ClockRate
			out = append(out, e)
		}
	}
	return out
}

func offeredFeedback(kind dataplane.Kind, said []string) []string {
	var out []string
	if slices.Contains(said, "nack") {
		out = append(out, "nack")
	}
	if kind == dataplane.Video {
		out = append(out, "nack pli", "ccm fir")
	}
	return out
}

func (n *Negotiator) payloadType(s *slot, c Codec) (uint8, bool) {
	for pt := range uint8(128) {
		if have, ok := s.numbers[pt]; ok && have.Equivalent(c) {
			return pt, true
		}
	}
	if n.free(s, c, c.PayloadType) {
		return c.PayloadType, true
	}
	if pt, ok := staticType(c); ok && n.free(s, c, pt) {
		return pt, true
	}
	for pt := uint8(96); pt < 128; pt++ {
		if n.free(s, c, pt) {
			return pt, true
		}
	}
	for pt := uint8(35); pt < 64; pt++ {
		if n.free(s, c, pt) {
			return pt, true
		}
	}
	return 0, false
}

// free tells whether the payload type may be given to the codec: never one
// that means something else, nor 64 to 95, which RTCP types mask (RFC 5761 4).
func (n *Negotiator) free(s *slot, c Codec, pt uint8) bool {
	switch {
	case pt > 127, pt >= 64 && pt < 96:
		return false
	case pt < 35:
		if f, ok := static(pt); !ok || !sameFormat(f, c.Format) {
			return false
		}
	}
	if _, taken := s.numbers[pt]; taken {
		return false
	}
	if n.style.Browser {
		for _, o := range n.slots {
			if _, taken := o.numbers[pt]; taken {
				return false
			}
		}
	}
	return true
}

// extensions numbers the forwarded header extensions: the other leg's ids where
// they are free, so that nothing must be rewritten on the way.
func (n *Negotiator) extensions(l Line) map[string]uint8 {
	var out map[string]uint8
	for uri, id := range l.Extensions {
		if !forwardedExtension(uri) {
			continue
		}
		have, ok := n.extIDs[uri]
		if !ok {
			have = n.freeExtension(id)
			if have == 0 {
				continue
			}
			n.extIDs[uri] = have
		}
		if out == nil {
			out = map[string]uint8{}
		}
		out[uri] = have
	}
	return out
}

func (n *Negotiator) freeExtension(want uint8) uint8 {
	taken := func(id uint8) bool {
		for _, have := range n.extIDs {
			if have == id {
				return true
			}
		}
		return id < 1 || id > 14
	}
	for id := want; ; id = id%14 + 1 {
		if !taken(id) {
			return id
		}
		if id%14+1 == want || want < 1 || want > 14 {
			return 0
		}
	}
}

func extensionList(ids map[string]uint8) []Extension {
	var out []Extension
	for uri, id := range ids {
		out = append(out, Extension{ID: id, URI: uri})
	}
	slices.SortFunc(out, func(a, b Extension) int { return int(a.ID) - int(b.ID) })
	return out
}

func formatList(codecs []Codec) []string {
	out := make([]string, len(codecs))
	for i, c := range codecs {
		out[i] = strconv.Itoa(int(c.PayloadType))
	}
	return out
}

// arriving are the payload types by which a line's formats come in: those we
// said, and those of a far end that sends by its own numbers.
func arriving(codecs []Codec) []dataplane.Format {
	var out []dataplane.Format
	var seen [128]bool
	for _, pt := range []func(Codec) uint8{Codec.Arrives, func(c Codec) uint8 { return c.PayloadType }} {
		for _, c := range codecs {
			if p := pt(c); p < 128 && !seen[p] {
				seen[p] = true
				f := c.Format
				f.PayloadType = p
				out = append(out, f)
			}
		}
	}
	return out
}

// send finishes one of our descriptions: o= version grows when anything changed
// (RFC 3264 8).
func (n *Negotiator) send(d *Description) *Description {
	for i := range d.Media {
		if h := d.Media[i].Host; h != "" {
			n.origin.Host = h
			break
		}
	}
	if n.origin.Host == "" {
		n.origin.Host = "0.0.0.0"
	}
	d.ICELite = n.style.Browser
	d.Origin = n.origin
	body := d.Marshal()
	if n.last != nil && !bytes.Equal(body, n.last) {
		n.origin.Version++
		d.Origin = n.origin
		body = d.Marshal()
	}
	n.last = body
	return d
}

// Carries tells whether the line is in the session, or in an open offer of ours.
func (n *Negotiator) Carries(line int) bool {
	if line < len(n.agreed) && n.agreed[line].Media != nil {
		return true
	}
	s := n.slotOf(line)
	return n.pending && s != nil && !s.sent.Rejected
}
