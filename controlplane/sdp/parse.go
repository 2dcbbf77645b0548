package sdp

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicegw/sluice/dataplane"
)

// What one body may hold. A browser's offer with video is about 8 KiB, 200
// lines and 25 formats.
const (
	maxBody       = 64 << 10
	maxLines      = 2048
	maxLineLength = 4096
	maxMedia      = 16
	maxFormats    = 128
	maxPerMedia   = 64 // of each repeated attribute in one section
)

// Parse reads one SDP body. Errors are *Error with code 400. Unknown lines and
// attributes are ignored (RFC 8866 5.13, 6).
func Parse(body []byte) (*Description, error) {
	if len(body) == 0 {
		return nil, malformed(0, "the body is empty")
	}
	if len(body) > maxBody {
		return nil, malformed(0, "the body has %d bytes; at most %d are read", len(body), maxBody)
	}
	p := &parser{d: &Description{}}
	for number := 1; len(body) > 0; number++ {
		if number > maxLines {
			return nil, malformed(number, "more than %d lines", maxLines)
		}
		var raw []byte
		raw, body, _ = bytes.Cut(body, []byte{'\n'})
		raw = bytes.TrimSuffix(raw, []byte{'\r'})
		if len(raw) == 0 {
			if len(bytes.TrimSpace(body)) == 0 {
				break
			}
			return nil, malformed(number, "empty line inside the body")
		}
		if len(raw) > maxLineLength {
			return nil, malformed(number, "longer than %d bytes", maxLineLength)
		}
		if i := bytes.IndexFunc(raw, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			return nil, malformed(number, "control character at byte %d", i+1)
		}
		if len(raw) < 2 || raw[1] != '=' {
			return nil, malformed(number, "not of the form x=value")
		}
		p.number = number
		if err := p.line(raw[0], string(raw[2:])); err != nil {
			return nil, err
		}
	}
	return p.finish()
}

type parser struct {
	d       *Description
	number  int
	version bool
	origin  bool
	session Media  // session-level defaults
	cur     *build // nil before the first m=
	built   []*build
}

// build is a section before its formats are resolved.
type build struct {
	Media
	line     int
	maps     map[string]dataplane.Format
	fmtp     map[string]string
	feedback map[string][]string
}

func (p *parser) line(typ byte, value string) error {
	if !p.version && typ != 'v' {
		return malformed(p.number, "the body must begin with v=0")
	}
	switch typ {
	case 'v':
		if p.version || value != "0" {
			return malformed(p.number, "v=%.20s; expected one v=0 at the beginning", value)
		}
		p.version = true
	case 'o':
		return p.parseOrigin(value)
	case 's':
		if p.cur == nil {
			p.d.Name = value
		}
	case 'c':
		host, err := p.connection(value)
		if err != nil {
			return err
		}
		if p.cur == nil {
			p.session.Host = host
		} else {
			p.cur.Host = host
		}
	case 'm':
		return p.parseMedia(value)
	case 'a':
		name, v, _ := strings.Cut(value, ":")
		return p.attribute(name, v)
	default:
		if typ < 'a' || typ > 'z' {
			return malformed(p.number, "line type %q is not a lower-case letter", typ)
		}
	}
	return nil
}

func (p *parser) parseOrigin(value string) error {
	f := strings.Fields(value)
	if len(f) < 6 || p.origin || p.cur != nil {
		return malformed(p.number, "o= must stand once, before m=, with six fields: user id version IN IP4|IP6 address")
	}
	p.origin = true
	f = append([]string{strings.Join(f[:len(f)-5], "_")}, f[len(f)-5:]...) // some have names with spaces
	// Some phones put numbers beyond 64 bits here; they only need to be told
	// apart, and nothing depends on the far end's, so these become 0.
	id, _ := strconv.ParseUint(f[1], 10, 64)
	version, _ := strconv.ParseUint(f[2], 10, 64)
	p.d.Origin = Origin{User: f[0], SessionID: id, Version: version, Host: f[5]}
	return nil
}

func (p *parser) connection(value string) (string, error) {
	f := strings.Fields(value)
	if len(f) != 3 || f[0] != "IN" || f[1] != "IP4" && f[1] != "IP6" {
		return "", malformed(p.number, "c= must be IN IP4|IP6 address")
	}
	host, _, _ := strings.Cut(f[2], "/") // TTL of a multicast address
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "", malformed(p.number, "c= address with a zone")
		}
		if a.Is4() != (f[1] == "IP4") {
			return "", malformed(p.number, "c= says %s but the address is of the other family", f[1])
		}
	}
	return host, nil
}

func (p *parser) parseMedia(value string) error {
	f := strings.Fields(value)
	if len(f) == 3 && f[1] == "0" {
		f = append(f, "0") // refused, and the format list forgotten
	}
	if len(f) < 4 {
		return malformed(p.number, "m= needs media, port, proto and at least one format")
	}
	if len(p.built) == maxMedia {
		return malformed(p.number, "more than %d media sections", maxMedia)
	}
	if len(f)-3 > maxFormats {
		return malformed(p.number, "more than %d formats", maxFormats)
	}
	portText, _, _ := strings.Cut(f[1], "/")
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return malformed(p.number, "m= port %.20q is not a number from 0 to 65535", f[1])
	}
	p.cur = &build{
		line:     p.number,
		maps:     map[string]dataplane.Format{},
		fmtp:     map[string]string{},
		feedback: map[string][]string{},
	}
	p.cur.Media = p.session
	p.cur.Extensions = slices.Clone(p.session.Extensions)
	p.cur.Name, p.cur.Port, p.cur.Proto, p.cur.Formats = f[0], int(port), Proto(f[2]), f[3:]
	// What a section says itself replaces the session's.
	p.cur.Fingerprints, p.cur.Crypto, p.cur.Candidates = nil, nil, nil
	p.built = append(p.built, p.cur)
	return nil
}

func (p *parser) attribute(name, value string) error {
	m := &p.session
	if p.cur != nil {
		m = &p.cur.Media
	}
	switch name {
	case "sendrecv", "sendonly", "recvonly", "inactive":
		m.Direction = Direction(name)
	case "ice-lite":
		p.d.ICELite = true
	case "ice-ufrag":
		if len(value) < 4 || len(value) > 256 || !iceChars(value) {
			return malformed(p.number, "ice-ufrag must be 4 to 256 characters of RFC 8839 5.4")
		}
		m.Ufrag = value
	case "ice-pwd":
		if len(value) < 22 || len(value) > 256 || !iceChars(value) {
			return malformed(p.number, "ice-pwd must be 22 to 256 characters of RFC 8839 5.4")
		}
		m.Pwd = value
	case "fingerprint":
		fp, err := p.fingerprint(value)
		if err != nil {
			return err
		}
		return appendBounded(p, &m.Fingerprints, fp, "fingerprint")
	case "setup":
		switch s := Setup(value); s {
		case Active, Passive, ActPass, HoldConn:
			m.Setup = s
		default:
			return malformed(p.number, "setup must be active, passive, actpass or holdconn")
		}
	case "crypto":
		c, err := p.crypto(value)
		if err != nil {
			return err
		}
		return appendBounded(p, &m.Crypto, c, "crypto")
	case "extmap":
		return p.extmap(m, value)
	case "group":
		if f := strings.Fields(value); p.cur == nil && len(f) > 0 && f[0] == "BUNDLE" {
			return appendBounded(p, &p.d.Bundle, f[1:], "group")
		}
	default:
		if p.cur != nil {
			return p.mediaAttribute(name, value)
		}
	}
	return nil
}

func (p *parser) mediaAttribute(name, value string) error {
	m := p.cur
	switch name {
	case "mid":
		if value == "" || len(value) > 64 || strings.ContainsAny(value, " \t") {
			return malformed(p.number, "mid must be a token of at most 64 characters")
		}
		m.Mid = value
	case "rtcp-mux":
		m.RTCPMux = true
	case "rtcp-rsize":
		m.RTCPRsize = true
	case "bundle-only":
		m.BundleOnly = true
	case "rtcp":
		return p.rtcp(value)
	case "candidate":
		return appendBounded(p, &m.Candidates, value, "candidate")
	case "end-of-candidates":
		m.EndOfCandidates = true
	case "rtpmap":
		return p.rtpmap(value)
	case "fmtp":
		pt, v, ok := strings.Cut(value, " ")
		if ok && len(m.fmtp) < maxFormats {
			m.fmtp[pt] = v
		}
	case "rtcp-fb":
		pt, v, ok := strings.Cut(value, " ")
		if !ok {
			return malformed(p.number, "rtcp-fb must be: format or *, space, feedback")
		}
		if len(m.feedback) < maxFormats && len(m.feedback[pt]) < maxPerMedia {
			m.feedback[pt] = append(m.feedback[pt], strings.TrimSpace(v))
		}
	case "ptime", "maxptime":
		// Some phones write "20.0".
		text, _, _ := strings.Cut(strings.TrimSpace(value), ".")
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return malformed(p.number, "%s must be milliseconds", name)
		}
		if n > 1000 {
			n = 0 // says nothing
		}
		if name == "ptime" {
			m.Ptime = int(n)
		} else {
			m.MaxPtime = int(n)
		}
	case "ssrc":
		return p.ssrc(value)
	}
	return nil
}

func appendBounded[T any](p *parser, to *[]T, v T, name string) error {
	if len(*to) >= maxPerMedia {
		return malformed(p.number, "more than %d a=%s in one section", maxPerMedia, name)
	}
	*to = append(*to, v)
	return nil
}

func iceChars(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '/' {
			// '-' and '_' are not ice-chars, but deployed stacks use them.
			if c != '-' && c != '_' && c != '=' {
				return false
			}
		}
	}
	return true
}

// fingerprintSize is the length in bytes of a hash function's value, 0 unknown.
func fingerprintSize(algorithm string) int {
	switch algorithm {
	case "md2", "md5":
		return 16
	case "sha-1":
		return 20
	case "sha-224":
		return 28
	case "sha-256":
		return 32
	case "sha-384":
		return 48
	case "sha-512":
		return 64
	}
	return 0
}

func (p *parser) fingerprint(value string) (Fingerprint, error) {
	f := strings.Fields(value)
	if len(f) != 2 {
		return Fingerprint{}, malformed(p.number, "fingerprint must be: hash function, space, bytes")
	}
	algorithm := strings.ToLower(f[0])
	sum, err := hex.DecodeString(strings.ReplaceAll(f[1], ":", ""))
	size := fingerprintSize(algorithm)
	if err != nil || len(sum) == 0 || size != 0 && len(sum) != size || len(f[1]) != 3*len(sum)-1 {
		return Fingerprint{}, malformed(p.number, "fingerprint is not a %.20s value in colon-separated hexadecimal", algorithm)
	}
	return Fingerprint{Algorithm: algorithm, Value: sum}, nil
}

func (p *parser) crypto(value string) (Crypto, error) {
	f := strings.Fields(value)
	bad := malformed(p.number, "crypto must be: tag, suite, inline:key") // never quotes the value: it holds a key
	if len(f) < 3 {
		return Crypto{}, bad
	}
	tag, err := strconv.ParseUint(f[0], 10, 30)
	if err != nil {
		return Crypto{}, bad
	}
	return Crypto{Tag: int(tag), Suite: f[1], Params: f[2], Session: strings.Join(f[3:], " ")}, nil
}

func (p *parser) extmap(m *Media, value string) error {
	f := strings.Fields(value)
	if len(f) < 2 {
		return malformed(p.number, "extmap must be: id, space, URI")
	}
	idText, dir, _ := strings.Cut(f[0], "/")
	id, err := strconv.ParseUint(idText, 10, 16)
	if err != nil {
		return malformed(p.number, "extmap id %.20q is not a number", idText)
	}
	if id < 1 || id > 255 {
		return nil // 4096-4351 are offered for mapping (RFC 8285 6) and not used here
	}
	return appendBounded(p, &m.Extensions, Extension{ID: uint8(id), Direction: Direction(dir), URI: f[1]}, "extmap")
}

func (p *parser) rtcp(value string) error {
	f := strings.Fields(value)
	if len(f) == 0 {
		return malformed(p.number, "rtcp must be: port [IN IP4|IP6 address]")
	}
	port, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil {
		return malformed(p.number, "rtcp port %.20q is not a number from 0 to 65535", f[0])
	}
	p.cur.RTCPPort = int(port)
	if len(f) > 1 {
		host, err := p.connection(strings.Join(f[1:], " "))
		if err != nil {
			return err
		}
		p.cur.RTCPHost = host
	}
	return nil
}

func (p *parser) rtpmap(value string) error {
	pt, v, ok := strings.Cut(value, " ")
	parts := strings.Split(strings.TrimSpace(v), "/")
	if !ok || len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return malformed(p.number, "rtpmap must be: payload type, space, name/clock[/channels]")
	}
	clock, err := strconv.ParseUint(parts[1], 10, 31)
	if err != nil || clock == 0 {
		return malformed(p.number, "rtpmap clock rate %.20q is not a positive number", parts[1])
	}
	f := dataplane.Format{Codec: parts[0], ClockRate: int(clock)}
	if len(parts) == 3 {
		ch, err := strconv.ParseUint(parts[2], 10, 8)
		if err != nil || ch == 0 {
			return malformed(p.number, "rtpmap channels %.20q is not a number from 1 to 255", parts[2])
		}
		if ch > 1 {
			f.Channels = int(ch) // one is what unsaid means
		}
	}
	if len(p.cur.maps) < maxFormats {
		p.cur.maps[pt] = f
	}
	return nil
}

func (p *parser) ssrc(value string) error {
	idText, attr, _ := strings.Cut(value, " ")
	id, err := strconv.ParseUint(idText, 10, 32)
	if err != nil {
		return malformed(p.number, "ssrc %.20q is not a 32-bit number", idText)
	}
	cname, isCName := strings.CutPrefix(attr, "cname:")
	for i := range p.cur.Sources {
		if s := &p.cur.Sources[i]; s.SSRC == uint32(id) {
			if isCName {
				s.CName = cname
			}
			return nil
		}
	}
	if !isCName {
		cname = ""
	}
	return appendBounded(p, &p.cur.Sources, Source{SSRC: uint32(id), CName: cname}, "ssrc")
}

func (p *parser) finish() (*Description, error) {
	if !p.version {
		return nil, malformed(0, "the body must begin with v=0")
	}
	if !p.origin {
		return nil, malformed(0, "o= is missing")
	}
	mids := map[string]bool{}
	for _, b := range p.built {
		if b.Mid != "" {
			if mids[b.Mid] {
				return nil, malformed(b.line, "mid %q stands twice", b.Mid)
			}
			mids[b.Mid] = true
		}
		if b.Fingerprints == nil {
			b.Fingerprints = p.session.Fingerprints
		}
		if b.Crypto == nil {
			b.Crypto = p.session.Crypto
		}
		if err := b.resolve(); err != nil {
			return nil, err
		}
		p.d.Media = append(p.d.Media, b.Media)
	}
	return p.d, nil
}

// resolve turns the format list of an RTP section into codecs.
func (b *build) resolve() error {
	if !strings.Contains(string(b.Proto), "RTP/") {
		return nil
	}
	var seen [128]bool
	for _, text := range b.Formats {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > 127 {
			return malformed(b.line, "format %.20q is not a payload type from 0 to 127", text)
		}
		pt := uint8(n)
		if seen[pt] {
			continue // a repeated format says nothing new
		}
		seen[pt] = true
		format, ok := b.maps[text]
		if !ok {
			if format, ok = static(pt); !ok {
				continue // a dynamic type without rtpmap has no meaning
			}
		}
		format.PayloadType = pt
		c := Codec{Format: format, Fmtp: parseFmtp(b.fmtp[text])}
		c.Feedback = append(c.Feedback, b.feedback["*"]...)
		c.Feedback = append(c.Feedback, b.feedback[text]...)
		b.Codecs = append(b.Codecs, c)
	}
	return nil
}

func parseFmtp(s string) map[string]string {
	if s = strings.TrimSpace(s); s == "" {
		return nil
	}
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		part = strings.TrimSpace(part)
		if part == "" || len(out) >= maxPerMedia {
			continue
		}
		if k, v, ok := strings.Cut(part, "="); ok {
			out[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
		} else if _, dup := out[""]; !dup {
			out[""] = part
		}
	}
	return out
}
