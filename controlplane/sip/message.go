package sip

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"strings"
	"time"

	gosip "github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"

	"github.com/sluicegw/sluice/controlplane/call"
)

// outline is what a request of ours is made of.
type outline struct {
	method   gosip.RequestMethod
	uri      string
	routes   []string // Route values
	from, to string   // header values with their tags
	callID   string
	seq      uint32
	contact  string // user part of our Contact; "-" none
	forwards int    // 0: 70
	headers  []gosip.Header
	body     []byte
	ctype    string // of body
}

// build makes a request to be sent on f.
func (s *Server) build(f *flow, o outline) (*gosip.Request, error) {
	var to gosip.Uri
	if err := gosip.ParseUri(o.uri, &to); err != nil {
		return nil, fmt.Errorf("sip: request URI %q: %w", o.uri, err)
	}
	r := gosip.NewRequest(o.method, to)
	host, port := f.sentBy()
	via := &gosip.ViaHeader{ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: string(f.transport), Host: host, Port: int(port)}
	via.Params.Add("branch", "z9hG4bK"+rand.Text())
	via.Params.Add("rport", "")
	r.AppendHeader(via)
	for _, x := range o.routes {
		r.AppendHeader(gosip.NewHeader("Route", x))
	}
	if o.forwards == 0 {
		o.forwards = 70
	}
	mf := gosip.MaxForwardsHeader(o.forwards)
	r.AppendHeader(&mf)
	from, toh := &gosip.FromHeader{}, &gosip.ToHeader{}
	var err error
	if from.DisplayName, err = gosip.ParseAddressValue(o.from, &from.Address, &from.Params); err != nil {
		return nil, err
	}
	if toh.DisplayName, err = gosip.ParseAddressValue(o.to, &toh.Address, &toh.Params); err != nil {
		return nil, err
	}
	id := gosip.CallIDHeader(o.callID)
	r.AppendHeader(from)
	r.AppendHeader(toh)
	r.AppendHeader(&id)
	r.AppendHeader(&gosip.CSeqHeader{SeqNo: o.seq, MethodName: o.method})
	if o.contact != "-" {
		r.AppendHeader(f.contact(o.contact))
	}
	if s.cfg.UserAgent != "" {
		r.AppendHeader(gosip.NewHeader("User-Agent", s.cfg.UserAgent))
	}
	for _, h := range o.headers {
		r.AppendHeader(h)
	}
	if o.body != nil {
		r.AppendHeader(gosip.NewHeader("Content-Type", o.ctype))
	}
	r.SetBody(o.body)
	return r, nil
}

// contact is our Contact towards the far side of a flow.
func (f *flow) contact(user string) gosip.Header {
	host, port := f.sentBy()
	if user != "" {
		user = escapeUser(user) + "@"
	}
	u := "sip:" + user + net.JoinHostPort(host, strconv.Itoa(int(port)))
	switch f.transport {
	case UDP:
	case TLS, TCP:
		u += ";transport=" + strings.ToLower(string(f.transport))
	default:
		u += ";transport=ws"
	}
	return gosip.NewHeader("Contact", "<"+u+">")
}

// cancelOf is the CANCEL of an INVITE (9.1).
func cancelOf(invite *gosip.Request, reason string) *gosip.Request {
	c := gosip.NewRequest(gosip.CANCEL, invite.Recipient)
	c.AppendHeader(gosip.HeaderClone(invite.Via()))
	gosip.CopyHeaders("Route", invite, c)
	mf := gosip.MaxForwardsHeader(70)
	c.AppendHeader(&mf)
	c.AppendHeader(gosip.HeaderClone(invite.From()))
	c.AppendHeader(gosip.HeaderClone(invite.To()))
	c.AppendHeader(gosip.HeaderClone(invite.CallID()))
	c.AppendHeader(&gosip.CSeqHeader{SeqNo: invite.CSeq().SeqNo, MethodName: gosip.CANCEL})
	if reason != "" {
		c.AppendHeader(gosip.NewHeader("Reason", oneLine(reason)))
	}
	c.SetBody(nil)
	return c
}

// oneLine keeps text from other places from ending a header.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// answer makes the credentials for a challenge (22.2), nil when there is no
// challenge that we can answer.
func answerChallenge(req *gosip.Request, res *gosip.Response, username, password string) gosip.Header {
	if username == "" {
		return nil
	}
	ask, reply := "WWW-Authenticate", "Authorization"
	if res.StatusCode == 407 {
		ask, reply = "Proxy-Authenticate", "Proxy-Authorization"
	}
	var best *digest.Challenge
	for _, v := range values(res, ask) {
		c, err := digest.ParseChallenge(v)
		if err != nil {
			continue
		}
		c.Algorithm = strings.ToUpper(c.Algorithm)
		if !digest.CanDigest(c) {
			continue
		}
		if best == nil || c.Algorithm == string(SHA256) {
			best = c
		}
	}
	if best == nil {
		return nil
	}
	cr, err := digest.Digest(best, digest.Options{
		Method: string(req.Method), URI: req.Recipient.String(), Username: username, Password: password,
	})
	if err != nil {
		return nil
	}
	return gosip.NewHeader(reply, cr.String())
}

// sdpOf is the SDP of a message, nil when it has none.
func sdpOf(m gosip.Message) []byte {
	if len(m.Body()) == 0 || !isSDP(value(m, "Content-Type")) {
		return nil
	}
	return m.Body()
}

func isSDP(ctype string) bool {
	t, _, _ := strings.Cut(ctype, ";")
	return strings.EqualFold(strings.Trim(t, " \t"), "application/sdp")
}

// addressOf reads a name-addr for the call.
func addressOf(v string) call.Address {
	n, err := parseNameAddr(v)
	if err != nil {
		return call.Address{}
	}
	return call.Address{Display: n.display, User: userOf(n.uri), Host: hostOf(n.uri)}
}

// userOf is the user part of a sip: URI, or the number of a tel: URI.
func userOf(text string) string {
	if u, err := parseURI(text); err == nil {
		return u.user
	}
	if scheme, rest, ok := strings.Cut(text, ":"); ok && strings.EqualFold(scheme, "tel") {
		number, _, _ := strings.Cut(rest, ";")
		return number
	}
	return ""
}

func hostOf(text string) string {
	u, _ := parseURI(text)
	return u.host
}

// headersOf turns a call's headers into sipgo's.
func headersOf(h []call.Header) []gosip.Header {
	var out []gosip.Header
	for _, x := range h {
		if isToken(x.Name) {
			out = append(out, gosip.NewHeader(x.Name, oneLine(x.Value)))
		}
	}
	return out
}

// between is a random duration of [lo, hi).
func between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(hi-lo)))
	if err != nil {
		return lo
	}
	return lo + time.Duration(n.Int64())
}

// reasons of RFC 3261 21 and its extensions.
var reasons = map[int]string{
	100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
	200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 407: "Proxy Authentication Required", 408: "Request Timeout", 410: "Gone",
	415: "Unsupported Media Type", 416: "Unsupported URI Scheme", 420: "Bad Extension",
	422: "Session Interval Too Small", 423: "Interval Too Brief", 480: "Temporarily Unavailable",
	481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops",
	484: "Address Incomplete", 486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here",
	489: "Bad Event", 491: "Request Pending", 500: "Server Internal Error", 501: "Not Implemented",
	502: "Bad Gateway", 503: "Service Unavailable", 504: "Server Time-out", 505: "Version Not Supported",
	513: "Message Too Large", 600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere",
	606: "Not Acceptable",
}

func reasonOf(code int) string {
	if r := reasons[code]; r != "" {
		return r
	}
	return "Unknown"
}
