package sip

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	gosip "github.com/emiago/sipgo/sip"
)

// Bounds of a message's head.
const (
	maxFields = 200       // header fields, after lists are split
	maxValue  = 16 * 1024 // bytes of one header value
	maxVias   = 70        // hops
)

// A message is brought into one strict form before sipgo's parser sees it:
// unfolded, full header names, one value per line where lists are allowed, no
// stray white space, every field that must be there once, there once. What
// cannot be is a fault, and the parser never meets it.

// field is one header field.
type field struct{ name, value string }

// head is the start line and the header fields of a message.
type head struct {
	start  string
	fields []field
}

// fault is why a message is refused.
type fault struct {
	code   int
	reason string
}

func (e *fault) Error() string { return fmt.Sprintf("%d %s", e.code, e.reason) }

func badf(format string, a ...any) *fault {
	return &fault{400, "Bad Request (" + fmt.Sprintf(format, a...) + ")"}
}

// compact names of RFC 3261 7.3.3 and later extensions.
var compact = map[string]string{
	"a": "Accept-Contact", "b": "Referred-By", "c": "Content-Type", "d": "Request-Disposition",
	"e": "Content-Encoding", "f": "From", "i": "Call-ID", "j": "Reject-Contact", "k": "Supported",
	"l": "Content-Length", "m": "Contact", "n": "Identity-Info", "o": "Event", "r": "Refer-To",
	"s": "Subject", "t": "To", "u": "Allow-Events", "v": "Via", "x": "Session-Expires", "y": "Identity",
}

// spelled are the names this package looks for, as it writes them.
var spelled = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{
		"Via", "From", "To", "Call-ID", "CSeq", "Contact", "Max-Forwards", "Content-Length",
		"Content-Type", "Content-Encoding", "Route", "Record-Route", "Path", "Require", "Proxy-Require",
		"Supported", "Allow", "Expires", "Authorization", "Proxy-Authorization", "WWW-Authenticate",
		"Proxy-Authenticate", "Session-Expires", "Min-SE", "Min-Expires", "Retry-After", "Reason",
		"Warning", "User-Agent", "Server", "Date", "Timestamp", "Event", "Info-Package", "RAck", "RSeq",
	} {
		m[strings.ToLower(n)] = n
	}
	for short, n := range compact {
		m[short] = n
	}
	return m
}()

// single fields may stand once; two would let two readers disagree.
var single = map[string]bool{
	"From": true, "To": true, "Call-ID": true, "CSeq": true, "Max-Forwards": true,
	"Content-Length": true, "Content-Type": true, "Expires": true, "Session-Expires": true,
	"Min-SE": true, "Event": true,
}

// lists are split into one field per value.
var lists = map[string]bool{
	"Via": true, "Route": true, "Record-Route": true, "Contact": true, "Path": true,
}

// readHead splits the head of a message. Nothing in it is interpreted yet, so
// that a malformed message can still be answered.
func readHead(data []byte) (h *head, body []byte, err error) {
	data = bytes.TrimLeft(data, "\r\n")
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		end = len(data)
		err = badf("no end of the header")
	} else {
		body = data[end+4:]
	}
	text := string(data[:end])
	// A quoted string may hold an escaped NUL, nothing else may.
	if strings.ContainsAny(strings.NewReplacer("\r\n", "", "\\\x00", "").Replace(text), "\r\n\x00") && err == nil {
		err = badf("CR, LF or NUL inside a line")
	}
	start, rest, _ := strings.Cut(text, "\r\n")
	h = &head{start: start}
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\r\n")
		for rest != "" && (rest[0] == ' ' || rest[0] == '\t') {
			var more string
			more, rest, _ = strings.Cut(rest, "\r\n")
			if len(line)+len(more) > maxValue {
				return h, body, badf("a header line is too long")
			}
			line = strings.TrimRight(line, " \t") + " " + strings.Trim(more, " \t")
		}
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimRight(name, " \t")
		if !ok || !isToken(name) {
			if err == nil {
				err = badf("a line is no header")
			}
			continue
		}
		if len(value) > maxValue {
			return h, body, badf("a header line is too long")
		}
		if full := spelled[strings.ToLower(name)]; full != "" {
			name = full
		}
		value = strings.Trim(value, " \t")
		values := []string{value}
		if lists[name] {
			values = splitList(value)
		}
		for _, v := range values {
			if len(h.fields) >= maxFields {
				return h, body, badf("too many headers")
			}
			h.fields = append(h.fields, field{name, v})
		}
	}
	return h, body, err
}

// isToken of RFC 3261 25.1.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-.!%*_+`'~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// splitList cuts at commas outside of quotes and angle brackets.
func splitList(s string) []string {
	var out []string
	quoted, angle, at := false, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle = true
		case c == '>':
			angle = false
		case c == ',' && !angle:
			if v := strings.Trim(s[at:i], " \t"); v != "" {
				out = append(out, v)
			}
			at = i + 1
		}
	}
	if v := strings.Trim(s[at:], " \t"); v != "" || len(out) == 0 {
		out = append(out, v)
	}
	return out
}

// reader turns bytes into sipgo messages.
type reader struct{ parser *gosip.Parser }

func newReader() *reader {
	typed := map[string]gosip.HeaderParser{}
	for name, p := range gosip.DefaultHeadersParser() {
		switch name {
		case "via", "from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type":
			typed[name] = p
		}
		// Contact, Route and Record-Route stay as text: sipgo's types lose
		// quoting and parameters.
	}
	p := gosip.NewParser(gosip.WithHeadersParsers(typed))
	p.MaxMessageLength = 4 * maxMessage // the strict form may be longer
	return &reader{p}
}

// read parses one message. On a fault, h is what could be read of it.
func (r *reader) read(data []byte) (msg gosip.Message, h *head, err error) {
	h, body, err := readHead(data)
	if err != nil {
		return nil, h, err
	}
	strict, err := h.strict(len(body))
	if err != nil {
		return nil, h, err
	}
	var b bytes.Buffer
	b.WriteString(strict.start)
	b.WriteString("\r\n")
	length := len(body)
	for _, f := range strict.fields {
		if f.name == "Content-Length" {
			length, _ = strconv.Atoi(f.value)
			continue
		}
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", length)
	b.Write(body[:length])
	msg, err = r.parser.ParseSIP(b.Bytes())
	if err != nil {
		return nil, h, badf("%s", firstLine(err.Error()))
	}
	for _, h := range msg.GetHeaders("Via") {
		// sipgo writes an IPv4-mapped address without brackets.
		if v, ok := h.(*gosip.ViaHeader); ok && strings.Contains(v.Host, ":") && strings.Contains(v.Host, ".") {
			v.Host = "[" + v.Host + "]"
		}
	}
	return msg, h, nil
}

// firstLine makes text of a parser fit for a reason phrase.
func firstLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '(' || r == ')' {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 80)]
}

// strict checks a head and brings it into the strict form.
func (h *head) strict(body int) (*head, error) {
	out := &head{fields: make([]field, 0, len(h.fields))}
	method, response := "", strings.HasPrefix(strings.ToUpper(h.start), "SIP/")
	var err error
	if response {
		out.start, err = strictStatus(h.start)
	} else {
		out.start, method, err = strictRequest(h.start)
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	vias := 0
	for _, f := range h.fields {
		if single[f.name] && seen[f.name] {
			return nil, badf("two %s headers", f.name)
		}
		seen[f.name] = true
		v := f.value
		switch f.name {
		case "Via":
			if vias++; vias > maxVias {
				return nil, badf("too many Via headers")
			}
			v, err = strictVia(v, true)
		case "From", "To":
			v, err = strictNameAddr(v)
		case "Contact":
			if v != "*" {
				v, err = strictNameAddr(v)
			}
		case "Route", "Record-Route", "Path":
			var na nameAddr
			if na, err = parseNameAddr(v); err == nil && !na.angle {
				err = badf("%s without angle brackets", f.name)
			}
		case "CSeq":
			v, err = strictCSeq(v, method)
		case "Call-ID":
			if v == "" || strings.ContainsAny(v, " \t") {
				err = badf("Call-ID")
			}
		case "Max-Forwards":
			if _, e := strconv.ParseUint(v, 10, 8); e != nil {
				err = badf("Max-Forwards")
			}
		case "Content-Length":
			n, e := strconv.ParseUint(v, 10, 31)
			if e != nil || int(n) > body {
				err = badf("Content-Length")
			}
		}
		if err != nil {
			return nil, err
		}
		out.fields = append(out.fields, field{f.name, v})
	}
	for _, name := range []string{"Via", "From", "To", "Call-ID", "CSeq"} {
		if !seen[name] {
			return nil, badf("no %s header", name)
		}
	}
	return out, nil
}

func strictStatus(line string) (string, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(code, 10, 16)
	if !strings.EqualFold(version, "SIP/2.0") || err != nil || len(code) != 3 || n < 100 || n > 699 {
		return "", badf("status line")
	}
	return "SIP/2.0 " + code + " " + reason, nil
}

func strictRequest(line string) (start, method string, err error) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) {
		return "", "", badf("request line")
	}
	method, uri, version := parts[0], parts[1], parts[2]
	major, ok := strings.CutPrefix(strings.ToUpper(version), "SIP/")
	if !ok {
		return "", "", badf("request line")
	}
	if major != "2.0" {
		return "", "", &fault{505, "Version Not Supported"}
	}
	scheme, _, ok := strings.Cut(uri, ":")
	if !ok || !isToken(scheme) {
		return "", "", badf("request URI")
	}
	switch strings.ToLower(scheme) {
	case "sip", "sips":
		if _, err := parseURI(uri); err != nil {
			return "", "", err
		}
		if strings.Contains(uri[strings.LastIndexByte(uri, '@')+1:], "?") {
			return "", "", badf("headers in the request URI") // 19.1.1
		}
	case "tel":
		// taken as a number of our domain by dispatch
	default:
		return "", "", &fault{416, "Unsupported URI Scheme"}
	}
	// Methods are case-sensitive (7.1); sipgo's parser would raise the case.
	if strings.ToUpper(method) != method {
		return "", "", &fault{501, "Not Implemented"}
	}
	return method + " " + uri + " SIP/2.0", method, nil
}

func strictCSeq(v, method string) (string, error) {
	num, name, ok := strings.Cut(strings.ReplaceAll(v, "\t", " "), " ")
	name = strings.Trim(name, " ")
	n, err := strconv.ParseUint(num, 10, 31)
	if !ok || err != nil || !isToken(name) {
		return "", badf("CSeq")
	}
	if method != "" && name != method {
		return "", badf("CSeq names another method")
	}
	return strconv.FormatUint(n, 10) + " " + name, nil
}

// strictVia reads "SIP / 2.0 / UDP host : port ; params" with white space
// wherever RFC 3261 allows it. ours asks for version 2.0.
func strictVia(v string, ours bool) (string, error) {
	var proto [3]string
	rest := v
	for i := range 2 {
		var ok bool
		proto[i], rest, ok = strings.Cut(rest, "/")
		if !ok {
			return "", badf("Via")
		}
		proto[i] = strings.Trim(proto[i], " \t")
	}
	rest = strings.TrimLeft(rest, " \t")
	i := strings.IndexAny(rest, " \t")
	if i < 0 {
		return "", badf("Via")
	}
	proto[2] = strings.ToUpper(rest[:i])
	sentBy, params, _ := strings.Cut(strings.TrimLeft(rest[i:], " \t"), ";")
	if !strings.EqualFold(proto[0], "SIP") || ours && proto[1] != "2.0" || !isToken(proto[1]) || !isToken(proto[2]) {
		return "", badf("Via")
	}
	host, port := strings.Trim(sentBy, " \t"), ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = strings.Trim(host[:i], " \t"), strings.Trim(host[i+1:], " \t")
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", badf("Via port")
		}
		port = ":" + port
	}
	if !validHost(host) {
		return "", badf("Via host")
	}
	ps, err := parseParams(params)
	if err != nil {
		return "", err
	}
	return "SIP/" + proto[1] + "/" + proto[2] + " " + host + port + ps.String(), nil
}
