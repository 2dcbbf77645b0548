package sip

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"

	gosip "github.com/emiago/sipgo/sip"
)

// allowed are the methods of Allow.
const allowed = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, REGISTER"

// supported are the extensions of Supported. 100rel is not among them.
const supported = "timer, path, outbound"

func addrPortOf(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// receive takes what one flow brought: one message, or a keep-alive. Messages
// of a flow come in order; a panic costs the message it came from.
func (s *Server) receive(f *flow, data []byte) {
	defer func() {
		s.panicked(recover(), "source", f.remote)
	}()
	if len(bytes.TrimLeft(data, "\r\n\x00 ")) == 0 {
		// RFC 5626: a double CRLF is a ping on a connection; over UDP it only
		// keeps a NAT open.
		if f.transport.stream() && string(data) == "\r\n\r\n" {
			_ = f.send([]byte("\r\n"))
		}
		return
	}
	msg, h, err := s.reader.read(data)
	if err != nil {
		code, reason := 400, "Bad Request"
		if e, ok := err.(*fault); ok {
			code, reason = e.code, e.reason
		}
		s.counts.malformed.Add(1)
		s.log.Debug("malformed message", "source", f.remote, "transport", f.transport, "why", reason)
		s.refuse(f, h, code, reason)
		return
	}
	msg.SetTransport(string(f.transport))
	msg.SetSource(f.remote.String())
	switch m := msg.(type) {
	case *gosip.Request:
		s.onRequest(f, m)
	case *gosip.Response:
		s.onResponse(f, m)
	}
}

// refuseRaw answers a message whose end was not found.
func (s *Server) refuseRaw(f *flow, head []byte, code int, reason string) {
	h, _, _ := readHead(head)
	s.refuse(f, h, code, reason)
}

// refuse answers a malformed request without state, if there is enough of it to
// answer: no response to a response or an ACK, none without a way back.
func (s *Server) refuse(f *flow, h *head, code int, reason string) {
	if h == nil || strings.HasPrefix(strings.ToUpper(h.start), "SIP/") || strings.HasPrefix(h.start, "ACK ") {
		return
	}
	var vias, rest []field
	back := f
	for _, fd := range h.fields {
		switch fd.name {
		case "Via":
			v, err := strictVia(fd.value, false)
			if err != nil || len(vias) >= maxVias {
				continue
			}
			if len(vias) == 0 {
				if v, back = f.mark(v); v == "" {
					return
				}
			}
			vias = append(vias, field{"Via", v})
		case "To":
			if !strings.Contains(strings.ToLower(fd.value), "tag=") {
				fd.value += ";tag=" + s.mac("refuse", fd.value)
			}
			rest = append(rest, fd)
		case "From", "Call-ID", "CSeq":
			rest = append(rest, fd)
		}
	}
	if len(vias) == 0 || len(rest) > 8 {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", code, reason)
	for _, fd := range append(vias, rest...) {
		fmt.Fprintf(&b, "%s: %s\r\n", fd.name, fd.value)
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	_ = back.send([]byte(b.String()))
}

// mark puts received and rport on a raw top Via and returns the way back.
func (f *flow) mark(v string) (via string, back *flow) {
	proto, params, _ := strings.Cut(v, ";")
	ps, err := parseParams(params)
	if err != nil {
		return "", nil
	}
	back = f
	_, hasRport := ps.get("rport")
	kept := ps[:0]
	for _, p := range ps {
		if n := strings.ToLower(p.name); n != "rport" && n != "received" {
			kept = append(kept, p)
		}
	}
	kept = append(kept, param{"received", f.remote.Addr().String(), true})
	if hasRport {
		kept = append(kept, param{"rport", fmt.Sprint(f.remote.Port()), true})
	} else if f.udp != nil {
		_, sentBy, _ := strings.Cut(proto, " ")
		port := UDP.defaultPort()
		if u, err := parseURI("sip:" + sentBy); err == nil && u.port != 0 {
			port = u.port
		}
		back = f.udp.flowTo(addrPortOf(f.remote.Addr(), port))
	}
	return proto + kept.String(), back
}

// mac is a short keyed hash of some strings.
func (s *Server) mac(parts ...string) string {
	m := hmac.New(sha256.New, s.key[:])
	for _, p := range parts {
		fmt.Fprintf(m, "%d:%s", len(p), p)
	}
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(m.Sum(nil)[:16]))
}

// tag is the To-tag of every response to a request that has none: the same for
// each repetition, unknown to others.
func (s *Server) tag(req *gosip.Request) string {
	branch, _ := req.Via().Params.Get("branch")
	return s.mac("tag", req.CallID().Value(), tagOf(req.From().Params), branch, req.CSeq().Value())
}

// onRequest is RFC 3261 8.2 and 12.2.2.
func (s *Server) onRequest(f *flow, req *gosip.Request) {
	key := serverKey(f, req, req.Method)
	if x := s.txs.find(key); x != nil {
		s.repeated(x, req)
		return
	}
	switch req.Method {
	case gosip.ACK:
		// For a 2xx; that of a failure was found above, or nobody waits for it.
		if d := s.dialogOf(req); d != nil {
			d.onAck(f, req)
		}
		return
	case gosip.CANCEL:
		s.onCancel(f, req)
		return
	}
	if tagOf(req.To().Params) != "" {
		s.inDialog(f, req)
		return
	}
	if s.txs.looped(req, key) {
		s.stateless(f, req, 482, "Loop Detected")
		return
	}
	if mf := req.MaxForwards(); mf != nil && *mf == 0 && req.Method != gosip.REGISTER && req.Method != gosip.OPTIONS {
		s.stateless(f, req, 483, "Too Many Hops")
		return
	}
	if bad := unsupported(req); bad != "" {
		s.stateless(f, req, 420, "Bad Extension", gosip.NewHeader("Unsupported", bad))
		return
	}
	switch req.Method {
	case gosip.REGISTER:
		s.onRegister(f, req)
	case gosip.INVITE:
		s.onInvite(f, req)
	case gosip.OPTIONS:
		s.stateless(f, req, 200, "OK", s.capabilities()...)
	case gosip.BYE, gosip.UPDATE, gosip.INFO, gosip.PRACK:
		s.stateless(f, req, 481, "Call/Transaction Does Not Exist")
	case gosip.NOTIFY, gosip.SUBSCRIBE, gosip.PUBLISH:
		s.stateless(f, req, 489, "Bad Event", gosip.NewHeader("Allow", allowed))
	case gosip.MESSAGE, gosip.REFER:
		s.stateless(f, req, 405, "Method Not Allowed", gosip.NewHeader("Allow", allowed))
	default:
		s.stateless(f, req, 501, "Not Implemented", gosip.NewHeader("Allow", allowed))
	}
}

func (s *Server) capabilities() []gosip.Header {
	return []gosip.Header{
		gosip.NewHeader("Allow", allowed),
		gosip.NewHeader("Accept", "application/sdp"),
		gosip.NewHeader("Supported", supported),
	}
}

// unsupported lists the required extensions that we do not have (8.2.2.3).
func unsupported(req *gosip.Request) string {
	var bad []string
	for _, name := range []string{"Require", "Proxy-Require"} {
		for _, t := range tokens(req, name) {
			switch t {
			case "timer", "path", "outbound", "gruu":
			default:
				bad = append(bad, t)
			}
		}
	}
	return strings.Join(bad, ", ")
}

// repeated is a request of a transaction that exists: it came again, or is the
// ACK of a failure.
func (s *Server) repeated(x *serverTx, req *gosip.Request) {
	done, ok := x.final()
	if req.IsAck() {
		if done && !ok {
			_ = x.tx.Receive(req)
			return
		}
		// The ACK of a 2xx has a branch of its own, but some use the old one.
		if d := s.dialogOf(req); d != nil {
			d.onAck(x.f, req)
		}
		return
	}
	_ = x.tx.Receive(req)
}

// onCancel is RFC 3261 9.2.
func (s *Server) onCancel(f *flow, req *gosip.Request) {
	x := s.txs.find(serverKey(f, req, gosip.INVITE))
	if x == nil {
		s.stateless(f, req, 481, "Call/Transaction Does Not Exist")
		return
	}
	res := s.response(f, req, 200, "OK", x.tag, nil)
	if err := f.back(req).WriteMsg(res); err != nil {
		s.log.Debug("response not sent", "code", 200, "source", f.remote, "err", err)
	}
	x.abandon()
}

// onEarlyBye is BYE before the final response, by the one who sent the INVITE:
// it has the effect of CANCEL (RFC 3261 15). It tells whether it was that.
func (s *Server) onEarlyBye(f *flow, req *gosip.Request) bool {
	s.txs.mu.Lock()
	x := s.txs.early[dialogID{req.CallID().Value(), tagOf(req.To().Params), tagOf(req.From().Params)}]
	s.txs.mu.Unlock()
	if x == nil || f.token != x.f.token && (f.transport.web() || x.f.transport.web() || f.remote.Addr() != x.f.remote.Addr()) {
		return false
	}
	if !x.abandon() {
		return false
	}
	s.log.Info("bye received before the answer", "call_id", req.CallID().Value(), "source", f.remote)
	if bye, err := s.serve(f, req); err != nil {
		s.stateless(f, req, 200, "")
	} else {
		_ = bye.reply(200, "", nil)
	}
	return true
}

// abandon ends an INVITE that nobody wants any more, unless it has its final
// response: then that stands, and the caller sends BYE. It tells which.
func (x *serverTx) abandon() bool {
	x.mu.Lock()
	if x.code >= 200 {
		x.mu.Unlock()
		return false
	}
	_ = x.respondLocked(x.response(487, "Request Terminated", nil))
	cancel := x.cancel
	x.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	return true
}

// onResponse hands a response to its transaction (17.1.3). One that has none, or
// that went by more than us, is dropped (8.1.3.3).
func (s *Server) onResponse(f *flow, res *gosip.Response) {
	key, err := gosip.ClientTxKeyMake(res)
	if err != nil || len(res.GetHeaders("Via")) != 1 {
		return
	}
	s.txs.mu.Lock()
	x := s.txs.client[key]
	s.txs.mu.Unlock()
	if x == nil {
		s.log.Debug("response without a transaction", "code", res.StatusCode, "source", f.remote)
		return
	}
	if res.CSeq().MethodName == gosip.INVITE && res.StatusCode >= 300 {
		x.mu.Lock()
		done := x.done
		x.done = true
		x.mu.Unlock()
		if done {
			// sipgo would wait T2 before it repeats the ACK, and hold up the
			// connection for as long.
			_ = x.f.WriteMsg(ackFailure(x.tx.Origin(), res))
			return
		}
	}
	x.tx.Receive(res)
}

// ackFailure is the ACK of RFC 3261 17.1.1.3.
func ackFailure(invite *gosip.Request, res *gosip.Response) *gosip.Request {
	ack := gosip.NewRequest(gosip.ACK, invite.Recipient)
	ack.AppendHeader(gosip.HeaderClone(invite.Via()))
	gosip.CopyHeaders("Route", invite, ack)
	mf := gosip.MaxForwardsHeader(70)
	ack.AppendHeader(&mf)
	ack.AppendHeader(gosip.HeaderClone(invite.From()))
	ack.AppendHeader(gosip.HeaderClone(res.To()))
	ack.AppendHeader(gosip.HeaderClone(invite.CallID()))
	ack.AppendHeader(&gosip.CSeqHeader{SeqNo: invite.CSeq().SeqNo, MethodName: gosip.ACK})
	ack.SetBody(nil)
	return ack
}
