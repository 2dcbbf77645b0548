package sdp

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Marshal writes the description with CRLF line ends. What a gateway decides
// per section stands in the section; the first section's address also stands
// in the session's c= line, which some phones insist on.
func (d *Description) Marshal() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	host := d.Origin.Host
	line("v=0")
	line("o=%s %d %d IN %s %s", orDash(d.Origin.User), d.Origin.SessionID, d.Origin.Version, family(host), host)
	line("s=%s", orDash(d.Name))
	session := ""
	for i := range d.Media {
		if session = d.Media[i].Host; session != "" {
			line("c=IN %s %s", family(session), session)
			break
		}
	}
	line("t=0 0")
	for _, g := range d.Bundle {
		line("a=group:BUNDLE %s", strings.Join(g, " "))
	}
	if d.ICELite {
		line("a=ice-lite")
	}
	for i := range d.Media {
		d.Media[i].marshal(line, session)
	}
	return b.Bytes()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func family(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() && !a.Is4In6() {
		return "IP6"
	}
	return "IP4"
}

func (m *Media) marshal(line func(string, ...any), session string) {
	formats := m.Formats
	if len(m.Codecs) > 0 {
		formats = nil
		for _, c := range m.Codecs {
			formats = append(formats, strconv.Itoa(int(c.PayloadType)))
		}
	}
	line("m=%s %d %s %s", m.Name, m.Port, m.Proto, strings.Join(formats, " "))
	if m.Host != "" && (m.Host != session || m.Mid != "") {
		line("c=IN %s %s", family(m.Host), m.Host)
	}
	if m.Mid != "" {
		line("a=mid:%s", m.Mid)
	}
	if m.Rejected() {
		if m.Direction != "" {
			line("a=%s", m.Direction)
		}
		return
	}
	m.marshalTransport(line)
	for _, e := range m.Extensions {
		if e.Direction != "" {
			line("a=extmap:%d/%s %s", e.ID, e.Direction, e.URI)
		} else {
			line("a=extmap:%d %s", e.ID, e.URI)
		}
	}
	// Phones get the short form: their INVITE should fit one datagram.
	wildcard := !m.Proto.Secure() && len(m.Codecs) > 1
	for _, c := range m.Codecs {
		wildcard = wildcard && slices.Equal(c.Feedback, m.Codecs[0].Feedback)
	}
	for _, c := range m.Codecs {
		c.marshal(line)
		if wildcard {
			continue
		}
		for _, f := range c.Feedback {
			line("a=rtcp-fb:%d %s", c.PayloadType, f)
		}
	}
	if wildcard {
		for _, f := range m.Codecs[0].Feedback {
			line("a=rtcp-fb:* %s", f)
		}
	}
	if m.Ptime > 0 {
		line("a=ptime:%d", m.Ptime)
	}
	if m.MaxPtime > 0 {
		line("a=maxptime:%d", m.MaxPtime)
	}
	if m.Direction != "" {
		line("a=%s", m.Direction)
	}
	if m.Stream != "" {
		line("a=msid:%s", m.Stream)
	}
	for _, s := range m.Sources {
		line("a=ssrc:%d cname:%s", s.SSRC, s.CName)
	}
}

func (m *Media) marshalTransport(line func(string, ...any)) {
	if m.BundleOnly {
		line("a=bundle-only")
	}
	if m.RTCPPort > 0 {
		if m.RTCPHost != "" {
			line("a=rtcp:%d IN %s %s", m.RTCPPort, family(m.RTCPHost), m.RTCPHost)
		} else {
			line("a=rtcp:%d", m.RTCPPort)
		}
	}
	if m.RTCPMux {
		line("a=rtcp-mux")
	}
	if m.RTCPRsize {
		line("a=rtcp-rsize")
	}
	if m.Ufrag != "" {
		line("a=ice-ufrag:%s", m.Ufrag)
	}
	if m.Pwd != "" {
		line("a=ice-pwd:%s", m.Pwd)
	}
	for _, c := range m.Candidates {
		line("a=candidate:%s", c)
	}
	if m.EndOfCandidates {
		line("a=end-of-candidates")
	}
	for _, f := range m.Fingerprints {
		line("a=fingerprint:%s", f)
	}
	if m.Setup != "" {
		line("a=setup:%s", m.Setup)
	}
	for _, c := range m.Crypto {
		line("%s", strings.TrimSpace(fmt.Sprintf("a=crypto:%d %s %s %s", c.Tag, c.Suite, c.Params, c.Session)))
	}
}

func (c Codec) marshal(line func(string, ...any)) {
	rtpmap := fmt.Sprintf("%s/%d", c.Codec, c.ClockRate)
	if c.Channels > 1 {
		rtpmap += "/" + strconv.Itoa(c.Channels)
	}
	line("a=rtpmap:%d %s", c.PayloadType, rtpmap)
	if len(c.Fmtp) > 0 {
		var params []string
		for _, k := range slices.Sorted(maps.Keys(c.Fmtp)) {
			if k == "" {
				params = append(params, c.Fmtp[k])
			} else {
				params = append(params, k+"="+c.Fmtp[k])
			}
		}
		line("a=fmtp:%d %s", c.PayloadType, strings.Join(params, ";"))
	}
}
