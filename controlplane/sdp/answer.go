package sdp

import (
	"slices"

	"github.com/sluicegw/sluice/dataplane"
)

// TakeOffer reads the far end's offer and returns it in the call's order of
// lines. The error is a 488 when no line can be carried, or a line vanished.
func (n *Negotiator) TakeOffer(d *Description) ([]Line, error) {
	n.open()
	lines, err := n.takeOffer(d)
	if err != nil {
		n.Rollback()
	}
	return lines, err
}

func (n *Negotiator) takeOffer(d *Description) ([]Line, error) {
	if len(d.Media) < len(n.slots) {
		return nil, NotAcceptable("the offer has %d media sections, the session has %d: they never go away (RFC 3264 8)", len(d.Media), len(n.slots))
	}
	if len(d.Media) == 0 {
		return nil, NotAcceptable("the offer has no media section")
	}
	why := ""
	refuse := func(reason string) {
		if why == "" {
			why = reason
		}
	}
	count := n.count + len(d.Media) - len(n.slots)
	lines := make([]Line, count)
	for i := range lines {
		lines[i] = Line{Rejected: true, Direction: Inactive}
	}
	active := false
	midExt := make([]uint8, len(d.Media))
	taken := make([]bool, len(d.Media))
	for j := range d.Media {
		m := &d.Media[j]
		at := n.count + j - len(n.slots)
		if j < len(n.slots) {
			at = n.slots[j].line
		}
		l := neutral(m, n.style)
		if !l.Rejected {
			active = true
			if reason := n.unacceptable(d, j, l, taken, midExt); reason != "" {
				refuse(reason)
				l = reject(l)
			} else {
				taken[j] = true
			}
		}
		lines[at] = l
	}
	if active && !slices.Contains(taken, true) {
		return nil, NotAcceptable("%s", why)
	}
	for j := len(n.slots); j < len(d.Media); j++ {
		n.slots = append(n.slots, &slot{line: n.count, numbers: map[uint8]Codec{}})
		n.count++
	}
	for j, s := range n.slots {
		m := &d.Media[j]
		s.theirs, s.name, s.mid, s.proto, s.formats, s.midExt = m, m.Name, m.Mid, m.Proto, m.Formats, midExt[j]
	}
	for j := range d.Media {
		for _, e := range d.Media[j].Extensions {
			if forwardedExtension(e.URI) || e.URI == ExtMid {
				n.extIDs[e.URI] = e.ID
			}
		}
	}
	n.remote, n.offered, n.pending = d, lines, false
	return cloneLines(lines), nil
}

func cloneLines(lines []Line) []Line {
	out := make([]Line, len(lines))
	for i, l := range lines {
		out[i] = l.Clone()
	}
	return out
}

// unacceptable says why section j of an offer is refused, "" not; taken are the
// sections before it that are not. It sets midExt where packets of two bundled
// sections can only be told apart by mid.
func (n *Negotiator) unacceptable(d *Description, j int, l Line, taken []bool, midExt []uint8) string {
	m := &d.Media[j]
	if l.Kind == 0 {
		return "media " + quote(m.Name) + " is not carried; audio and video are"
	}
	if n.style.Accept != nil {
		if reason := n.style.Accept(m); reason != "" {
			return reason
		}
	}
	if !hasMedia(l.Codecs) {
		return "no codec of the " + m.Name + " line is carried"
	}
	for k := range j {
		o := &d.Media[k]
		if !taken[k] {
			continue
		}
		if !n.style.Browser {
			// RTP/SAVP and RTP/AVP on one port: two ways of offering one stream.
			if o.Name == m.Name && o.Host == m.Host && o.Port == m.Port {
				return "the " + m.Name + " line is an alternative to one that is taken"
			}
			continue
		}
		if m.Mid == "" || !slices.Contains(d.BundleOf(o.Mid), m.Mid) {
			return "the second media line is not in the BUNDLE group of the first"
		}
		if !overlap(o.Codecs, m.Codecs) {
			continue
		}
		a, b := extensionID(o, ExtMid), extensionID(m, ExtMid)
		if a == 0 || a != b {
			return "two bundled lines share payload types and have no mid header extension (RFC 9143 9.2)"
		}
		midExt[k], midExt[j] = a, b
	}
	return ""
}

func quote(s string) string {
	if len(s) > 20 {
		s = s[:20]
	}
	return "\"" + s + "\""
}

func overlap(a, b []Codec) bool {
	return slices.ContainsFunc(a, func(c Codec) bool {
		return slices.ContainsFunc(b, func(o Codec) bool { return c.PayloadType == o.PayloadType })
	})
}

func extensionID(m *Media, uri string) uint8 {
	for _, e := range m.Extensions {
		if e.URI == uri {
			return e.ID
		}
	}
	return 0
}

// neutral is a section as the call sees it.
func neutral(m *Media, style Style) Line {
	rejected := m.Rejected() || m.Port == 0 && !style.Browser
	l := Line{
		Kind: m.Kind(), Rejected: rejected, Direction: m.Direction, Label: m.Name,
		Ptime: m.Ptime, MaxPtime: m.MaxPtime,
	}
	if l.Direction == "" {
		l.Direction = SendRecv
	}
	if l.Rejected || l.Kind == 0 {
		l.Direction = Inactive
		// Active, of a medium that is not carried: the caller refuses it.
		l.Rejected = rejected
		return l
	}
	// c=0.0.0.0 is the hold of RFC 2543: do not send to me. Browsers write it
	// when they have no address yet (RFC 8840 4.1.1), where it means nothing.
	if addr, ok := m.Addr(); ok && addr.IsUnspecified() && !style.Browser {
		l.Direction = direction(l.Direction.Sends(), false)
	}
	for _, c := range m.Codecs {
		if !c.carried() {
			continue
		}
		c = c.Clone()
		c.Feedback = slices.DeleteFunc(c.Feedback, func(f string) bool {
			return f != "nack" && f != "nack pli" && f != "ccm fir"
		})
		l.Codecs = append(l.Codecs, c)
	}
	for _, e := range m.Extensions {
		if forwardedExtension(e.URI) && e.ID <= 14 && (e.Direction == "" || e.Direction == SendRecv) {
			if l.Extensions == nil {
				l.Extensions = map[string]uint8{}
			}
			l.Extensions[e.URI] = e.ID
		}
	}
	return l
}

// Answer answers the last taken offer; lines[i] answers the offer's line i, as
// Intersect has it. The error is a 488 when the offer had a line and nothing
// of it is left.
func (n *Negotiator) Answer(lines []Line, fill Fill) (*Description, error) {
	kept := n.state.clone()
	d, err := n.answer(lines, fill)
	if err != nil {
		n.state = *kept
	} else {
		n.before = nil
	}
	return d, err
}

func (n *Negotiator) answer(lines []Line, fill Fill) (*Description, error) {
	if n.offered == nil {
		return nil, NotAcceptable("there is no offer to answer")
	}
	agreed := Intersect(n.offered, lines)
	if Usable(n.offered) && !Usable(agreed) {
		return nil, NotAcceptable("no codec in common with the other side")
	}
	d := &Description{Media: make([]Media, len(n.slots))}
	sections := make([]Section, len(agreed))
	var bundle []string
	for j, s := range n.slots {
		l, m := agreed[s.line], &d.Media[j]
		sections[s.line].Line = s.line
		for _, c := range s.theirs.Codecs {
			s.numbers[c.PayloadType] = c // offered is taken, agreed to or not
		}
		if l.Rejected {
			n.disable(s, m)
			continue
		}
		*m = Media{
			Name: s.name, Proto: s.proto, Mid: s.mid, Direction: l.Direction,
			Codecs: l.Codecs, Ptime: l.Ptime, MaxPtime: l.MaxPtime,
			Extensions: extensionList(l.Extensions),
			RTCPMux:    s.theirs.RTCPMux,
			RTCPRsize:  s.theirs.RTCPRsize && s.theirs.Proto.Feedback(), // RFC 5506 5 is for AVPF
		}
		if s.midExt != 0 {
			m.Extensions = append(m.Extensions, Extension{ID: s.midExt, URI: ExtMid})
		}
		if n.style.Browser && n.remote.BundleOf(s.mid) != nil {
			bundle = append(bundle, s.mid)
		}
		sections[s.line] = n.section(s, m, l, n.offered[s.line])
		if err := fill(&sections[s.line]); err != nil {
			return nil, err
		}
		s.sent, s.media, s.agreed = l, m, true
		s.formats = formatList(l.Codecs)
	}
	if len(bundle) > 0 {
		d.Bundle = [][]string{bundle}
	}
	n.agreed, n.pending, n.offered = sections, false, nil
	return n.send(d), nil
}

// section is a line both sides agreed to: ours says what we do, theirs what
// they do, codecs as agreed.
func (n *Negotiator) section(s *slot, m *Media, ours, theirs Line) Section {
	mid := ""
	if n.style.Browser {
		mid = s.mid
	}
	return Section{
		Line: s.line, Media: m, Remote: s.theirs,
		Config: dataplane.LineConfig{
			Kind: ours.Kind, Mid: mid, MidExt: s.midExt,
			Formats:    arriving(ours.Codecs),
			Send:       ours.Direction.Sends() && theirs.Direction.Receives(),
			Receive:    ours.Direction.Receives() && theirs.Direction.Sends(),
			AVPF:       s.theirs.Proto.Feedback() || slices.ContainsFunc(s.theirs.Codecs, func(c Codec) bool { return len(c.Feedback) > 0 }),
			Extensions: ours.Extensions,
		},
	}
}

// TakeAnswer reads the answer to our last Offer and returns it in the call's
// order. It may be called again with another answer to the same offer: early
// dialogs differ.
func (n *Negotiator) TakeAnswer(d *Description) ([]Line, error) {
	kept := n.state.clone()
	lines, err := n.takeAnswer(d)
	if err != nil {
		n.state = *kept
	} else {
		n.before = nil
	}
	return lines, err
}

func (n *Negotiator) takeAnswer(d *Description) ([]Line, error) {
	if !n.pending {
		return nil, NotAcceptable("there is no offer that this could answer")
	}
	if len(d.Media) > len(n.slots) {
		return nil, NotAcceptable("the answer has %d media sections, the offer had %d", len(d.Media), len(n.slots))
	}
	lines := make([]Line, n.count)
	for i := range lines {
		lines[i] = Line{Rejected: true, Direction: Inactive}
	}
	for j := range d.Media {
		s, m := n.slots[j], &d.Media[j]
		if s.sent.Rejected {
			continue
		}
		l, err := n.answered(d, j)
		if err != nil {
			return nil, err
		}
		l.Label = m.Name
		lines[s.line] = l
	}
	if usable := slices.ContainsFunc(n.slots, func(s *slot) bool { return !s.sent.Rejected }); usable && !Usable(lines) {
		return nil, NotAcceptable("the answer accepts no line")
	}
	sections := make([]Section, n.count)
	for j, s := range n.slots {
		sections[s.line].Line = s.line
		if l := lines[s.line]; !l.Rejected {
			s.theirs, s.agreed = &d.Media[j], true
			ours := l
			ours.Direction = s.sent.Direction
			sections[s.line] = n.section(s, s.media, ours, l)
		}
	}
	n.remote, n.agreed = d, sections
	return cloneLines(lines), nil
}

// answered checks one answered section against what was offered.
func (n *Negotiator) answered(d *Description, j int) (Line, error) {
	s, m := n.slots[j], &d.Media[j]
	if m.Name != s.name {
		return Line{}, NotAcceptable("the answer's section %d is %s, the offer's %s", j+1, quote(m.Name), quote(s.name))
	}
	if n.style.Browser && m.Mid != "" && m.Mid != s.mid {
		return Line{}, NotAcceptable("the answer's section %d has mid %s, the offer's %s", j+1, quote(m.Mid), quote(s.mid))
	}
	m.BundleOnly = false // has no meaning in an answer
	l := neutral(m, n.style)
	if l.Rejected {
		return reject(l), nil
	}
	if n.style.Browser && j > 0 && s.media.BundleOnly && d.BundleOf(m.Mid) == nil {
		return reject(l), nil
	}
	var codecs []Codec
	for _, c := range l.Codecs {
		i := find(s.sent.Codecs, c)
		if i < 0 {
			// The same number and name with other parameters is a receiver's
			// narrowing (G.729 annexb=no), not another codec.
			i = slices.IndexFunc(s.sent.Codecs, func(o Codec) bool {
				return o.PayloadType == c.PayloadType && sameFormat(o.Format, c.Format)
			})
		}
		if i < 0 {
			continue
		}
		if c.PayloadType != s.sent.Codecs[i].PayloadType {
			c.Incoming = s.sent.Codecs[i].PayloadType
		}
		codecs = append(codecs, c)
	}
	if !hasMedia(codecs) {
		return reject(l), nil
	}
	l.Codecs = codecs
	l.Direction = l.Direction.Answering(s.sent.Direction)
	for uri := range l.Extensions {
		if s.sent.Extensions[uri] == 0 {
			delete(l.Extensions, uri)
		}
	}
	return l, nil
}
