package sip

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"crypto/rand"
	"net"

	"github.com/coder/websocket"
)

// ServeWS upgrades a request to SIP over WebSocket (RFC 7118) and serves it
// until the connection ends. It refuses a foreign Origin (403), a client that
// does not ask for subprotocol "sip" (400) and too many connections (503). The
// HTTP server around it bounds the time a client takes to send its head.
func (s *Server) ServeWS(w http.ResponseWriter, r *http.Request) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "no source address", http.StatusBadRequest)
		return
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if !originAllowed(r, s.cfg.WebSocket.Origins) {
		s.log.Warn("websocket refused: origin", "source", remote, "origin", r.Header.Get("Origin"))
		http.Error(w, "this Origin may not connect: add it to http.origins", http.StatusForbidden)
		return
	}
	if !asksForSIP(r) {
		http.Error(w, `ask for the WebSocket subprotocol "sip"`, http.StatusBadRequest)
		return
	}
	release, ok := s.admit(visitor{remote.Addr(), true})
	if !ok {
		s.log.Warn("websocket refused: too many", "source", remote)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer release()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{"sip"},
		InsecureSkipVerify: true, // the Origin was checked above
	})
	if err != nil {
		s.log.Debug("websocket upgrade", "source", remote, "err", err)
		return
	}
	c.SetReadLimit(maxMessage)
	f := &flow{
		s: s, net: s.web, transport: WS, token: "w" + rand.Text(), remote: remote,
		out: make(chan []byte, outboxLen), gone: make(chan struct{}),
	}
	if r.TLS != nil {
		f.transport = WSS
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		f.local = addrPort(a)
	}
	f.stop = func() { c.CloseNow() }
	s.serveWeb(f, c)
}

// serveWeb reads messages until the WebSocket ends.
func (s *Server) serveWeb(f *flow, c *websocket.Conn) {
	if !s.enter() {
		c.Close(websocket.StatusGoingAway, "closing")
		return
	}
	defer s.wg.Done()
	s.addFlow(f)
	defer s.dropFlow(f)
	s.log.Info("websocket open", "source", f.remote, "transport", f.transport)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.wg.Go(func() {
		f.writer(func(b []byte) error {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			return c.Write(ctx, websocket.MessageText, b)
		})
	})
	s.wg.Go(func() { f.ping(ctx, c) })
	stranger := time.AfterFunc(strangerIdle, func() {
		if !f.trusted.Load() {
			f.end()
		}
	})
	defer stranger.Stop()
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			s.log.Info("websocket closed", "source", f.remote, "user", f.getOwner().user, "status", closeText(err))
			return
		}
		s.receive(f, b)
	}
}

func closeText(err error) string {
	if code := websocket.CloseStatus(err); code >= 0 {
		return code.String()
	}
	return "lost"
}

// ping finds a dead socket: a browser answers a ping by itself, whatever the
// page does.
func (f *flow) ping(ctx context.Context, c *websocket.Conn) {
	t := time.NewTicker(f.s.pace.ping)
	defer t.Stop()
	for {
		select {
		case <-f.gone:
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(ctx, f.s.pace.pong)
		err := c.Ping(ctx)
		cancel()
		if err != nil {
			f.end()
			return
		}
	}
}

func asksForSIP(r *http.Request) bool {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(p), "sip") {
				return true
			}
		}
	}
	return false
}

// originAllowed keeps other sites' pages from using a browser's way in to us. A
// request without Origin is no browser's.
func originAllowed(r *http.Request, allowed []string) bool {
	vals := r.Header.Values("Origin")
	if len(vals) == 0 {
		return true
	}
	if len(vals) > 1 {
		return false
	}
	u, err := url.Parse(vals[0])
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	return slices.ContainsFunc(allowed, func(a string) bool { return originMatches(a, u) })
}

func originMatches(pattern string, u *url.URL) bool {
	scheme, rest, ok := strings.Cut(strings.ToLower(pattern), "://")
	if !ok || scheme != strings.ToLower(u.Scheme) {
		return false
	}
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
	}
	if port != "*" && port != u.Port() && !defaultWebPort(scheme, port, u.Port()) {
		return false
	}
	have := strings.ToLower(u.Hostname())
	host = strings.Trim(host, "[]")
	if label, ok := strings.CutPrefix(host, "*."); ok {
		first, tail, ok := strings.Cut(have, ".")
		return ok && first != "" && tail == label
	}
	return host == have
}

func defaultWebPort(scheme, a, b string) bool {
	std := map[string]string{"http": "80", "https": "443"}[scheme]
	if a == "" {
		a = std
	}
	if b == "" {
		b = std
	}
	return a == b
}
