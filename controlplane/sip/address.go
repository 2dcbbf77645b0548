package sip

import (
	"net/netip"
	"strconv"
	"strings"

	gosip "github.com/emiago/sipgo/sip"
)

// param is one ;name=value. raw keeps the quotes of a quoted value.
type param struct {
	name, raw string
	has       bool // there was a "="
}

type params []param

// get returns a parameter's value without quotes; names know no case.
func (ps params) get(name string) (string, bool) {
	for _, p := range ps {
		if strings.EqualFold(p.name, name) {
			return unquote(p.raw), true
		}
	}
	return "", false
}

func (ps params) String() string {
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(";" + p.name)
		if p.has {
			b.WriteString("=" + p.raw)
		}
	}
	return b.String()
}

// parseParams reads what follows the first ";". Empty ones are skipped.
func parseParams(s string) (params, error) {
	var out params
	for _, part := range splitOutside(s, ';') {
		part = strings.Trim(part, " \t")
		if part == "" {
			continue
		}
		name, raw, has := strings.Cut(part, "=")
		name, raw = strings.TrimRight(name, " \t"), strings.TrimLeft(raw, " \t")
		if !isToken(name) {
			return nil, badf("parameter")
		}
		if strings.HasPrefix(raw, `"`) {
			if n := quotedLen(raw); n != len(raw) {
				return nil, badf("parameter %s", name)
			}
		} else if strings.ContainsAny(raw, " \t\"<>,") {
			return nil, badf("parameter %s", name)
		}
		if len(out) >= 64 {
			return nil, badf("too many parameters")
		}
		out = append(out, param{name, raw, has})
	}
	return out, nil
}

// quotedLen is the length of the quoted string at the start of s, 0 when it
// does not end.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// splitOutside cuts at sep outside of quotes.
func splitOutside(s string, sep byte) []string {
	var out []string
	quoted, at := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			out = append(out, s[at:i])
			at = i + 1
		}
	}
	return append(out, s[at:])
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// nameAddr is a name-addr or addr-spec of RFC 3261 25.1.
type nameAddr struct {
	display string // as it is to be shown
	uri     string
	params  params // of the header, not of the URI
	angle   bool
}

func (n nameAddr) String() string {
	s := "<" + n.uri + ">" + n.params.String()
	if n.display != "" {
		s = quote(n.display) + " " + s
	}
	return s
}

// parseNameAddr reads one From, To, Contact or Route value.
func parseNameAddr(s string) (n nameAddr, err error) {
	s = strings.Trim(s, " \t")
	rest := ""
	switch {
	case strings.HasPrefix(s, `"`):
		q := quotedLen(s)
		if q == 0 {
			return n, badf("display name")
		}
		n.display = unquote(s[:q])
		s = strings.TrimLeft(s[q:], " \t")
		if !strings.HasPrefix(s, "<") {
			return n, badf("address")
		}
	case strings.Contains(s, "<"):
		i := strings.IndexByte(s, '<')
		n.display = strings.Trim(s[:i], " \t")
		if strings.ContainsAny(n.display, `";,:`) {
			return n, badf("display name")
		}
		s = s[i:]
	}
	if strings.HasPrefix(s, "<") {
		end := strings.IndexByte(s, '>')
		if end < 0 {
			return n, badf("address")
		}
		n.uri, rest, n.angle = s[1:end], strings.Trim(s[end+1:], " \t"), true
		if rest != "" && rest[0] != ';' {
			return n, badf("address")
		}
		rest = strings.TrimPrefix(rest, ";")
	} else {
		// Without brackets everything after ";" is the header's (20.10).
		n.uri, rest, _ = strings.Cut(s, ";")
		n.uri = strings.TrimRight(n.uri, " \t")
		if strings.ContainsAny(n.uri, "?,") {
			return n, badf("address needs angle brackets")
		}
	}
	if n.params, err = parseParams(rest); err != nil {
		return n, err
	}
	scheme, opaque, ok := strings.Cut(n.uri, ":")
	if !ok || !isToken(scheme) || opaque == "" || strings.ContainsAny(n.uri, " \t\"<>") {
		return n, badf("URI")
	}
	if l := strings.ToLower(scheme); l == "sip" || l == "sips" {
		_, err = parseURI(n.uri)
	}
	return n, err
}

func strictNameAddr(v string) (string, error) {
	n, err := parseNameAddr(v)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

// uri is a SIP URI, as far as routing needs it.
type uri struct {
	text   string
	secure bool
	user   string // unescaped
	host   string // without the brackets of an IPv6 address
	port   uint16 // 0: none
	params params
}

// parseURI reads a sip: or sips: URI.
func parseURI(s string) (u uri, err error) {
	u.text = s
	scheme, rest, _ := strings.Cut(s, ":")
	switch strings.ToLower(scheme) {
	case "sip":
	case "sips":
		u.secure = true
	default:
		return u, &fault{416, "Unsupported URI Scheme"}
	}
	for i := range len(rest) {
		if c := rest[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			return u, badf("URI")
		}
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, _, _ := strings.Cut(rest[:i], ":")
		if u.user, err = unescape(user); err != nil || user == "" {
			return u, badf("URI user")
		}
		rest = rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	hostport, ps, _ := strings.Cut(rest, ";")
	u.host = hostport
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		n, err := strconv.ParseUint(hostport[i+1:], 10, 16)
		if err != nil || n == 0 {
			return u, badf("URI port")
		}
		u.host, u.port = hostport[:i], uint16(n)
	}
	if !validHost(u.host) {
		return u, badf("URI host")
	}
	u.host = strings.ToLower(strings.Trim(u.host, "[]"))
	for part := range strings.SplitSeq(ps, ";") {
		if part == "" {
			continue
		}
		name, raw, has := strings.Cut(part, "=")
		if len(u.params) >= 64 {
			return u, badf("too many URI parameters")
		}
		u.params = append(u.params, param{name, raw, has})
	}
	return u, nil
}

// validHost takes a host name, an IPv4 address or a bracketed IPv6 address.
func validHost(h string) bool {
	if strings.HasPrefix(h, "[") {
		if !strings.HasSuffix(h, "]") {
			return false
		}
		a, err := netip.ParseAddr(h[1 : len(h)-1])
		return err == nil && a.Is6()
	}
	if h == "" || len(h) > 253 {
		return false
	}
	for i := range len(h) {
		c := h[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

// unescape resolves %HH. A control character stays escaped: it would end a line
// somewhere later.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", badf("escape")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", badf("escape")
			}
			if n < ' ' || n == 0x7f {
				b.WriteString(s[i : i+3])
				i += 2
				continue
			}
			c = byte(n)
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// escapeUser makes any text fit for the user part of a URI.
func escapeUser(s string) string {
	const plain = "-_.!~*'()&=+$,;?/"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
	}
	return b.String()
}

// values returns the text of all fields of a name.
func values(m gosip.Message, name string) []string {
	var out []string
	for _, h := range m.GetHeaders(name) {
		out = append(out, h.Value())
	}
	return out
}

// value returns the text of the first field of a name.
func value(m gosip.Message, name string) string {
	if hs := m.GetHeaders(name); len(hs) > 0 {
		return hs[0].Value()
	}
	return ""
}

// tokens returns the lower-case items of a comma-separated header.
func tokens(m gosip.Message, name string) []string {
	var out []string
	for _, v := range values(m, name) {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.ToLower(strings.Trim(t, " \t")); t != "" {
				out = append(out, t)
			}
		}
	}
	return out
}
