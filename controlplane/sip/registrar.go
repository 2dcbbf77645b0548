package sip

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/location"
)

// onRegister is the registrar: RFC 3261 10.3, RFC 3327, RFC 5626 6.
func (s *Server) onRegister(f *flow, req *gosip.Request) {
	user, v := s.authenticate(f, req, "Authorization")
	if v != authenticated {
		s.challenge(f, req, 401, v)
		return
	}
	x, err := s.serve(f, req)
	if err != nil {
		s.stateless(f, req, 503, "Service Unavailable", gosip.NewHeader("Retry-After", "5"))
		return
	}
	log := s.log.With("user", user, "source", f.remote, "transport", f.transport)
	to, err := parseNameAddr(value(req, "To"))
	if err != nil {
		_ = x.reply(400, "Bad Request", nil)
		return
	}
	aor, err := parseURI(to.uri)
	if err != nil || aor.user != user || !s.local(aor.host) {
		log.Warn("register refused: not the user's own address", "to", to.uri)
		_ = x.reply(403, "Forbidden", nil)
		return
	}
	r, code := s.readRegister(f, req, user)
	if code != 0 {
		log.Info("register refused", "code", code)
		var hs []gosip.Header
		if code == 423 {
			hs = append(hs, gosip.NewHeader("Min-Expires", strconv.Itoa(int(s.cfg.Expires.Min/time.Second))))
		}
		_ = x.reply(code, "", nil, hs...)
		return
	}
	name := location.AOR(user, s.cfg.Domain)
	if r.all {
		if r.remove, err = s.cfg.Location.Lookup(s.ctx, name); err == nil {
			for i := range r.remove {
				r.remove[i].CallID, r.remove[i].CSeq = r.callID, r.cseq
			}
		}
	}
	var now []location.Binding
	if err == nil {
		now, err = s.cfg.Location.Update(s.ctx, name, r.put, r.remove)
	}
	switch {
	case errors.Is(err, location.ErrOutOfOrder):
		_ = x.reply(500, "Server Internal Error (out of order)", nil)
		return
	case errors.Is(err, location.ErrTooMany):
		log.Warn("register refused: too many bindings")
		_ = x.reply(403, "Forbidden (too many bindings)", nil)
		return
	case err != nil:
		log.Error("location", "err", err)
		_ = x.reply(500, "", nil)
		return
	}
	outbound := false
	for _, b := range r.put {
		f.setOwner(owner{user, b.Instance})
		outbound = outbound || b.RegID > 0 && b.Instance != ""
		log.Info("registered", "contact", b.Contact, "expires", time.Until(b.Expires).Round(time.Second), "bindings", len(now))
	}
	if len(r.remove) > 0 {
		log.Info("unregistered", "bindings", len(now))
	}
	_ = x.reply(200, "OK", nil, s.registered(req, now, outbound)...)
	if len(r.put) > 0 {
		s.flowBack(f, user, r.put)
	}
}

// registered are the headers of a 200 to REGISTER.
func (s *Server) registered(req *gosip.Request, now []location.Binding, outbound bool) []gosip.Header {
	var hs []gosip.Header
	for _, b := range now {
		c := fmt.Sprintf("<%s>;expires=%d", b.Contact, max(1, int(time.Until(b.Expires).Round(time.Second)/time.Second)))
		if b.Instance != "" {
			c += ";+sip.instance=" + quote(b.Instance)
		}
		if b.RegID > 0 {
			c += ";reg-id=" + strconv.Itoa(b.RegID)
		}
		hs = append(hs, gosip.NewHeader("Contact", c))
	}
	for _, p := range values(req, "Path") {
		hs = append(hs, gosip.NewHeader("Path", p))
	}
	hs = append(hs, gosip.NewHeader("Supported", supported))
	if outbound && contains(tokens(req, "Supported"), "outbound") {
		hs = append(hs, gosip.NewHeader("Require", "outbound"))
	}
	return append(hs, gosip.NewHeader("Date", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// local tells whether a host is our domain, or one of our addresses: phones that
// know only an address register there.
func (s *Server) local(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), s.cfg.Domain) {
		return true
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String() // IPv6 has many spellings
	}
	for _, h := range s.cfg.Hosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	for _, n := range s.nets {
		for _, a := range n.advertise {
			if a.String() == host {
				return true
			}
		}
		for _, u := range n.udp {
			if u.local.Addr().String() == host {
				return true
			}
		}
		for _, l := range n.streams {
			if l.local.Addr().String() == host {
				return true
			}
		}
	}
	return false
}

// registration is what one REGISTER asks for.
type registration struct {
	put, remove []location.Binding
	all         bool // Contact: *
	callID      string
	cseq        uint32
}

// readRegister reads the contacts. code is not 0 when they are refused.
func (s *Server) readRegister(f *flow, req *gosip.Request, user string) (r registration, code int) {
	r.callID, r.cseq = req.CallID().Value(), req.CSeq().SeqNo
	expires := -1
	if v := value(req, "Expires"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			n = 3600 // 20.19: a malformed value is as good as 3600
		}
		expires = int(n)
	}
	contacts := values(req, "Contact")
	if len(contacts) > location.MaxPerAOR {
		return r, 403
	}
	var path []string
	for _, p := range values(req, "Path") {
		na, err := parseNameAddr(p)
		if err != nil || len(path) >= 8 {
			return r, 400
		}
		path = append(path, na.uri)
	}
	for _, c := range contacts {
		if c == "*" {
			if len(contacts) != 1 || expires != 0 {
				return r, 400
			}
			r.all = true
			return r, 0
		}
		na, err := parseNameAddr(c)
		if err != nil {
			return r, 400
		}
		if _, err := parseURI(na.uri); err != nil {
			return r, 400
		}
		b := location.Binding{
			Contact: na.uri, Path: path, Flow: f.token, Source: f.remote, Network: f.net.name,
			Transport: string(f.transport), UserAgent: value(req, "User-Agent"),
			CallID: r.callID, CSeq: r.cseq, WebRTC: f.transport.web(),
		}
		if len(b.UserAgent) > 128 {
			b.UserAgent = b.UserAgent[:128]
		}
		b.Instance, _ = na.params.get("+sip.instance")
		if id, ok := na.params.get("reg-id"); ok {
			n, err := strconv.ParseUint(id, 10, 31)
			if err != nil || n == 0 {
				return r, 400
			}
			b.RegID = int(n)
		}
		life := expires
		if v, ok := na.params.get("expires"); ok {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				n = 3600
			}
			life = int(n)
		}
		d := time.Duration(life) * time.Second
		switch {
		case life < 0 || d > s.cfg.Expires.Max:
			d = s.cfg.Expires.Max
		case life == 0:
			r.remove = append(r.remove, b)
			continue
		case d < s.cfg.Expires.Min:
			return r, 423
		}
		b.Expires = time.Now().Add(d)
		r.put = append(r.put, b)
	}
	return r, 0
}
